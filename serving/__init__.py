"""The labelling half: the engine, bulk labelling and the service. Imports nothing of `pipeline`, and no torch."""

import os
import sys

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # OpenVINO and NNCF then send nothing
