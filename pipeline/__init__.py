"""The training half: from a criterion in words and a corpus to a registered, exported encoder and its labels."""

import os

# Nobody is told what our users do; each variable can be set otherwise from outside.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers shows a bar for each file that it loads
    # Spinning OpenMP threads cost a factor of 25 on a busy two-core machine; must be set before torch is imported.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "true",
}.items():
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"
