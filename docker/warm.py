"""Imports what the service imports, so that bytecode of just these modules is in the image.

A read-only image cannot keep bytecode, and compiling at every start costs seconds of a core. Bytecode of everything
would be three times as much. An import that fails here, after `trim.py`, stops the build.
"""

import importlib
import sys

NEEDED = (
    "_bentoml_impl.server.app", "_bentoml_sdk", "bentoml._internal.server.http.traffic", "cyclopts", "flatbuffers",
    "fsspec", "mlflow.artifacts", "mlflow.tracking", "numpy", "onnxruntime", "prometheus_client", "pyarrow.csv",
    "pyarrow.parquet", "pydantic", "requests", "rich.progress", "s3fs", "starlette.applications",
    "starlette.middleware", "tokenizers", "uvicorn",
)  # fmt: skip
OPTIONAL = ("openvino",)


def main() -> None:
    """Import all, and touch what is loaded late."""
    for name in NEEDED:
        importlib.import_module(name)
    for name in OPTIONAL:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    import botocore.session

    botocore.session.get_session().create_client("s3", region_name="us-east-1")  # reads the descriptions that are left
    sys.stdout.write(f"{len(sys.modules)} modules are compiled\n")


if __name__ == "__main__":
    main()
