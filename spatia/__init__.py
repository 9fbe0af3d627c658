"""spatia: from Xenium slides to multi-scale embeddings and generated cell morphology."""

import os

# Threads that wait for each other should sleep, not spin: on a machine that does other work besides, spinning makes
# two threads five times slower than one. OpenMP reads this once, when torch is loaded, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
