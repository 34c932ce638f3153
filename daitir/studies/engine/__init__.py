"""The engine of all studies: conditions become ranks, and ranks become tables."""
