"""How good embeddings, predictions and clusters are. Pure functions of arrays and generators."""
