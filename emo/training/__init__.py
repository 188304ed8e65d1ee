"""How does it learn? From an experiment and photos to a saved model, its curve and its row in the table."""
