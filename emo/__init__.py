"""The engine behind the three notebooks; `emo_utils` re-exports the names that notebooks use."""

import os

__version__ = "0.1.0"

# before anything imports TensorFlow: its start-up chatter, in red, on machines without a GPU
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
