"""The `daitir` command."""
