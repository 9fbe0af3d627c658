"""Xenium bundles: layouts, reading, checking, simulating."""

import os

# Arrow's own pool keeps what it once had, 55 MB for the tables of a whole slide. It is chosen when arrow is first
# loaded, which pandas does: so here, ahead of all of them.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
