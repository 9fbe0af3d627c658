"""spatia: from Xenium slides to multi-scale embeddings and generated cell morphology."""

__version__ = "0.1.0"
