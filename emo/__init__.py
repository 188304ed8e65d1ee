"""The engine behind the three notebooks; `emo_utils` re-exports the names that notebooks use."""
