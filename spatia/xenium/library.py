"""Counts and outlines by ``spatialdata_io.xenium``, wherever it reads them right.

Images and masks it is not asked for: it decodes a whole plane at once, 5 GB for a full slide (see
:mod:`spatia.xenium.tiffs`).
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

from spatia.xenium.reading import Counts, as_text, merge_parts, read_schema

if TYPE_CHECKING:
    import geopandas

    from spatia.xenium.layouts import Bundle


def why_not_library(bundle: Bundle, cells: pd.DataFrame, counts: Counts) -> str | None:
    """Return why ``spatialdata_io.xenium`` cannot be trusted with this bundle's tables, or None where it can."""
    if not re.match(r"[xX]enium-\d+\.\d+\.\d+", bundle.software):
        return f"it needs a version number, this bundle says {bundle.software!r} (spatialdata-io #361)"
    if bundle.masks is None:
        return "it needs cells.zarr.zip"
    if len(cells) != len(counts.cell_ids) or (cells.index.to_numpy() != counts.cell_ids).any():
        return "it joins cells.parquet and the matrix by row order, which differs here"
    for file in (bundle.cell_boundaries, bundle.nucleus_boundaries):
        if file is not None and "label_id" not in read_schema(file).names and bundle.layout in ("2.x", "3.x", "4.x"):
            return f"it needs label_id in {file.name}"
    return None


def read_with_library(bundle: Bundle) -> tuple[Counts, dict[str, geopandas.GeoDataFrame]]:
    """Return counts and outlines as ``spatialdata_io.xenium`` reads them.

    Raises
    ------
    Exception
        Whatever the library raises; the caller has the tables from their parts.
    """
    import geopandas
    from spatialdata_io import xenium

    with warnings.catch_warnings(), _quiet_logging():
        warnings.simplefilter("ignore")
        slide = xenium(
            bundle.path,
            transcripts=False,
            nucleus_boundaries=bundle.nucleus_boundaries is not None,
            cells_labels=False,
            nucleus_labels=False,
            morphology_mip=False,
            morphology_focus=False,
            aligned_images=False,
        )
    table = slide.tables["table"]
    genes = pd.DataFrame({"gene": table.var_names.astype(str), "gene_id": table.var["gene_ids"].astype(str).to_numpy()})
    counts = Counts(table.obs_names.to_numpy().astype(str), genes, table.X.tocsr().astype(np.int32))
    outlines = {}
    for name, shapes in slide.shapes.items():
        ids = shapes.get("cell_id", shapes.index)
        found = geopandas.GeoDataFrame({"geometry": shapes.geometry.to_numpy()}, index=as_text(pd.Series(ids)))
        outlines[name] = merge_parts(found)
    return counts, outlines


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(previous)
