"""consult: sample + gold -> data/consulted/NAME.parquet + metrics/consult.json

Asks the further annotators (`annotators` in params.yaml) what `annotate` asks the first: same store, pilot and budgets.
"""

import logging

from pipeline.artifacts import consulted, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.stages import annotate

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Ask one after the other; what one has answered is kept whatever becomes of the next."""
    found = {}
    for name in params.annotators or {}:
        log.info("consult: %s", name)
        try:
            found[name] = annotate.answered(params.asking(name), consulted(name))
        except UserError as error:
            raise UserError(f"annotators.{name} (read `annotate` as `annotators.{name}`): {error}") from error
    metrics("consult").write({"annotators": found})
