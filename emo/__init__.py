"""The engine behind the three notebooks; `emo_utils` re-exports the names that notebooks use."""

import os

# before anything imports TensorFlow: its start-up chatter, in red, on machines without a GPU
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
