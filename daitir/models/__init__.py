"""Models: encoders, views drawn from text, reformulation and what reads the embedded world."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
"""Where what comes with the package lies: trained models and the query sets that they made."""

TOKENIZER_FOLDER = ASSETS / "tokenizer"
"""The tokeniser that all models that come with the package share."""
