"""sample: corpus + gold -> sample + metrics/sample.json

Texts that evaluate (gold validation and test) are never drawn, nor are duplicates of them.
"""

import logging
import time

from pipeline import sampling
from pipeline.artifacts import CORPUS, GOLD, SAMPLE, metrics
from pipeline.errors import UserError
from pipeline.params import Params

log = logging.getLogger("llambert")


def run(params: Params) -> None:
    """Draw the sample; its first rows are those of any smaller sample with the same seed.

    Raises:
        UserError: fewer than two texts of the corpus can be drawn.
    """
    start = time.monotonic()
    wanted = params.sample
    evaluation = {row.text_hash for row in GOLD if row.split != "train"}
    drawn, eligible = sampling.draw(CORPUS, wanted.size, wanted.seed, evaluation)
    if len(drawn) < 2:
        raise UserError(
            f"only {len(drawn)} of the {CORPUS.count()} texts in {CORPUS.path} can be sampled (sample.size is "
            f"{wanted.size}), 2 are needed: texts of gold validation and test don't count; give a larger "
            "ingest.corpus or sample.size"
        )
    if len(drawn) < wanted.size:
        log.info("sample: only %s distinct texts can be drawn (sample.size is %s): took all", len(drawn), wanted.size)
    sampled = sampling.split(drawn, wanted.held_out_share, wanted.seed)
    SAMPLE.write(sampled)
    held_out = sum(row.split == "held_out" for row in sampled)
    metrics("sample").write(
        {
            "sampled": len(sampled),
            "train": len(sampled) - held_out,
            "held_out": held_out,
            "eligible": eligible,
            "seconds": round(time.monotonic() - start, 3),
        }
    )
    log.info("sample: %s of %s eligible texts, %s of them held out", len(sampled), eligible, held_out)
