"""The networks: image, genes, their fusion, and the levels above the cell. Pure: tensors in, tensors out."""
