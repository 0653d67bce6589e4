"""The command line of the serving image: `python -m serving label`, `serve` and `fetch`. Knows no projects."""

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cyclopts import App, Parameter

from serving import reaching
from serving.errors import UserError
from serving.files import unwritable
from serving.options import Options

app = App(
    name="python -m serving",
    help="Label texts with an exported model, in bulk or over HTTP.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
_DEFAULTS = Options()


@app.command
def label(
    input: str | None = None,
    output: str | None = None,
    *,
    options: Options = _DEFAULTS,
) -> None:
    """Label all texts of INPUT into OUTPUT, shard by shard; killed, it goes on where it was.

    Parameters
    ----------
    input
        A file, folder, glob or URL of CSV, JSONL, Parquet or text files.
    output
        A directory or URL.
    options
        How to label.
    """
    from serving import commands

    sys.stdout.write(commands.label(input, output, options) + "\n")


@app.command
def serve(*, host: str = "0.0.0.0", port: int = 3000) -> None:  # noqa: S104 - a container is reached from outside
    """Answer over HTTP; LLAMBERT_MODEL and other variables say with what (docs/serve.md).

    Parameters
    ----------
    host
        Address to listen on.
    port
        Port of everything: page, texts, health, metrics.
    """
    if find_spec("bentoml") is None:
        raise UserError("the service needs BentoML: `pip install 'llambert[serve]'`")
    from serving.web.starting import start

    start(host, port)


@app.command
def fetch(model: str, directory: Path, *, precision: Literal["fp32", "int8", "fp16", "bf16"] | None = None) -> None:
    """Put an exported model into DIRECTORY, checked against its hashes, whole or not at all.

    Parameters
    ----------
    model
        models:/NAME@ALIAS or models:/NAME/VERSION of the registry at MLFLOW_TRACKING_URI, or a directory.
    directory
        Where it goes; must not be there yet, be empty, or hold this model already.
    precision
        Only the files that this one needs.
    """
    from serving import registry

    registry.fetch(model, directory, precision)
    sys.stdout.write(f"{model} is in {directory}\n")


def speaking(app: Callable[[], object]) -> None:
    """Run a command line; a UserError becomes one message and its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("llambert").setLevel(logging.INFO)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except reaching.errors() as error:
        refused = _refusal(error)
        if refused is None:
            raise
        sys.stderr.write(f"error: {refused}\n")
        sys.exit(refused.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to go on\n")
        sys.exit(130)


def _refusal(error: Exception) -> UserError | None:
    """What the machine or the network refuses anywhere; None if the error is of another kind."""
    name = getattr(error, "filename", None)
    if reaching.passing(error):
        return reaching.unreached(str(name or "a file or service that is needed"), error)
    return unwritable(error, Path(name or ".")) if isinstance(error, OSError) else None


if __name__ == "__main__":
    speaking(app)
