"""From a command line to BentoML's supervisor, which starts the service and starts it again when it dies."""

import os
import sys
import tempfile
from math import ceil
from pathlib import Path

from serving import registry
from serving.models import open_directory
from serving.web.settings import Settings

_KEEP_ALIVE_S = 75  # longer than a load balancer's (60 s as a rule), so that it is not we who close a connection in use


def start(host: str, port: int) -> None:
    """Check what can be checked, then become the supervisor.

    Raises:
        UserError: the environment is not valid, or names a directory that holds no intact model.
    """
    settings = Settings.read()
    for model in filter(None, (settings.model, settings.shadow_model)):
        if registry.parse(model) is None:
            open_directory(Path(model), settings.precision)
    # BentoML makes directories in its home, which would be the user's
    os.environ.setdefault("BENTOML_HOME", str(Path(tempfile.gettempdir()) / f"llambert-bentoml-{os.getuid()}"))
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "serving.service:Llambert",
        "--host",
        host,
        "--port",
        str(port),
    ]
    os.execv(sys.executable, [*command, "--timeout-graceful-shutdown", str(ceil(settings.drain_s))])  # noqa: S606
