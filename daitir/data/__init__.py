"""Dialogues, pictures and views on disk."""
