"""The counts by ``spatialdata_io.xenium``, wherever it reads them right.

What it does not read here, and why, measured with 0.7.1 on a slide of 16384 x 24576 px and 109,000 cells:

* images: it decodes a whole plane at once (800 MB for each of four stains here);
* outlines: a polygon object each, 260 MB, where their vertices take 20 MB (:mod:`spatia.xenium.outlines`);
* masks: it reads them well, chunk by chunk, but they are relabelled and cut here, which is the same read.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spatia.xenium.reading import Counts

if TYPE_CHECKING:
    from spatia.xenium.layouts import Bundle


def why_not_library(bundle: Bundle, cells: pd.DataFrame, counts: Counts) -> str | None:
    """Return why ``spatialdata_io.xenium`` cannot be trusted with this bundle's table, or None where it can."""
    if not re.match(r"[xX]enium-\d+\.\d+\.\d+", bundle.software):
        return f"it needs a version number, this bundle says {bundle.software!r} (spatialdata-io #361)"
    if bundle.masks is None:
        return "it needs cells.zarr.zip"
    if len(cells) != len(counts.cell_ids) or (cells.index.to_numpy() != counts.cell_ids).any():
        return "it joins cells.parquet and the matrix by row order, which differs here"
    return None


def read_with_library(bundle: Bundle) -> Counts:
    """Return the counts as ``spatialdata_io.xenium`` reads them.

    Raises
    ------
    Exception
        Whatever the library raises; the caller has the counts from their file.
    """
    from spatialdata_io import xenium

    with warnings.catch_warnings(), _quiet_logging():
        warnings.simplefilter("ignore")
        slide = xenium(
            bundle.path,
            cells_boundaries=False,
            nucleus_boundaries=False,
            transcripts=False,
            cells_labels=False,
            nucleus_labels=False,
            morphology_mip=False,
            morphology_focus=False,
            aligned_images=False,
        )
    table = slide.tables["table"]
    genes = pd.DataFrame({"gene": table.var_names.astype(str), "gene_id": table.var["gene_ids"].astype(str).to_numpy()})
    return Counts(table.obs_names.to_numpy().astype(str), genes, table.X.tocsr().astype(np.int32))


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(previous)
