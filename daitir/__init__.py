"""daitir: diffusion-augmented interactive text-to-image retrieval, as a runnable book."""

__version__ = "0.1.0"
