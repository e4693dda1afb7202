"""Find the jump sizes of a model on validation data."""
