"""Training recipes: one resumable loop, one file per model."""
