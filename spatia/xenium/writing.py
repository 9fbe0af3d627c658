"""Write a ``slide.zarr``: tables and outlines by the library, pixels by :mod:`spatia.xenium.rasters`.

The store is the same byte for byte whenever it is written from the same bundle: nothing in it tells the time, and
every listing is sorted.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from spatia import keys
from spatia.xenium.rasters import Raster, count_levels, write_raster
from spatia.xenium.store import FORMAT, ROOT_ATTRIBUTE

if TYPE_CHECKING:
    import geopandas
    from anndata import AnnData
    from dask.dataframe import DataFrame


@dataclass(frozen=True)
class SlideContent:
    """Everything that goes into one ``slide.zarr``, in the slide's frame.

    Attributes
    ----------
    slide, species, pixel_size_um, origin_um : as in :class:`spatia.xenium.store.SlideStore`
    rasters : morphology, labels and, where there is one, H&E
    stains : channel names of the morphology image
    table : counts and cell table, see :func:`spatia.xenium.cells.make_table`
    outlines : element name -> polygons in micrometres, index ``cell_id``
    transcripts : columns ``x``, ``y``, ``z`` (micrometres), ``feature_name``, ``cell_id``, or None
    """

    slide: str
    species: str
    pixel_size_um: float
    origin_um: tuple[float, float]
    rasters: Sequence[Raster]
    stains: tuple[str, ...]
    table: AnnData
    outlines: dict[str, geopandas.GeoDataFrame]
    transcripts: DataFrame | None = None


def write_slide(path: Path, content: SlideContent) -> None:
    """Write ``content`` as a SpatialData store at ``path``, which must not exist or be empty."""
    if path.exists():
        path.rmdir()  # the library refuses to write into an empty folder
    with quiet_library():
        _write_with_library(path, content)
        for raster in content.rasters:
            write_raster(path, raster)
        _write_head(path, content)
        zarr.consolidate_metadata(path)
    sort_metadata(path)


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence what zarr and spatialdata say about every store, whatever is in it."""
    with warnings.catch_warnings():
        # zarr announces its next release's default once per array; the arrays that matter set their chunks
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")  # shapes.parquet
        warnings.filterwarnings("ignore", message="The table is annotating")  # anndata's order of checks
        yield


def _write_with_library(path: Path, content: SlideContent) -> None:
    import spatialdata
    from spatialdata.models import PointsModel, ShapesModel
    from spatialdata.transformations import Scale

    to_pixels = Scale([1 / content.pixel_size_um] * 2, axes=("x", "y"))
    transform = {keys.GLOBAL: to_pixels}
    elements: dict[str, Any] = {
        raster.element.split("/")[1]: _placeholder(raster, content) for raster in content.rasters
    }
    for name, shapes in content.outlines.items():
        elements[name] = ShapesModel.parse(shapes, transformations=transform)
    if content.transcripts is not None:
        elements[keys.TRANSCRIPTS] = PointsModel.parse(
            content.transcripts,
            coordinates={"x": "x", "y": "y", "z": "z"},
            feature_key="feature_name",
            instance_key=keys.CELL_ID,
            transformations=transform,
        )
    elements[keys.TABLE] = content.table
    spatialdata.SpatialData.init_from_elements(elements).write(path)


def _placeholder(raster: Raster, content: SlideContent) -> Any:
    from spatialdata.models import Image2DModel, Labels2DModel
    from spatialdata.transformations import Identity

    n_levels = count_levels(*raster.shape[1:])
    side = 2 ** (n_levels - 1)
    factors = [2] * (n_levels - 1) or None
    transform = {keys.GLOBAL: Identity()}
    if raster.is_labels:
        tiny = np.zeros((side, side), raster.dtype)
        return Labels2DModel.parse(tiny, dims=("y", "x"), transformations=transform, scale_factors=factors)
    names = list(content.stains) if raster.element.endswith(f"/{keys.MORPHOLOGY}") else ["r", "g", "b"]
    image = np.zeros((raster.shape[0], side, side), raster.dtype)
    return Image2DModel.parse(
        image, dims=("c", "y", "x"), c_coords=names, transformations=transform, scale_factors=factors
    )


def _write_head(path: Path, content: SlideContent) -> None:
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    root.attrs[ROOT_ATTRIBUTE] = {
        "format": FORMAT,
        "slide": content.slide,
        "species": content.species,
        "pixel_size_um": content.pixel_size_um,
        "origin_um": list(content.origin_um),
    }


def sort_metadata(path: Path) -> None:
    """Sort the consolidated listing: zarr fills it in the order in which the file system lists folders."""
    for file in sorted(path.rglob("zarr.json")):
        metadata = json.loads(file.read_text(encoding="utf-8"))
        _sort_listing(metadata)
        partial = file.with_name("zarr.json.partial")
        partial.write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        os.replace(partial, file)


def _sort_listing(metadata: dict[str, Any]) -> None:
    listing = metadata.get("consolidated_metadata")
    if listing:
        listing["metadata"] = dict(sorted(listing["metadata"].items()))
        for child in listing["metadata"].values():
            _sort_listing(child)
