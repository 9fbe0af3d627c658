"""Simulated Xenium slides with planted truth: tissue, cells, counts, pixels, and the bundles that hold them."""
