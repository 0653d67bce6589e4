"""The labelling half: the engine, bulk labelling and the service. Imports nothing of `pipeline`, and no torch."""

import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
