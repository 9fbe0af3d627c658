"""Write a ``slide.zarr``: metadata and table by the library, pixels and outlines in batches.

The store is the same byte for byte whenever it is written from the same bundle: nothing in it tells the time, and
every listing is sorted.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from spatia import keys
from spatia.xenium.memory import release_memory
from spatia.xenium.outlines import Outlines
from spatia.xenium.rasters import Raster, count_levels, write_raster
from spatia.xenium.store import FORMAT, ROOT_ATTRIBUTE

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.dataframe import DataFrame

_ROW_GROUP = 8192  # outlines that are encoded at a time


@dataclass(frozen=True)
class SlideContent:
    """Everything that goes into one ``slide.zarr``, in the slide's frame.

    Attributes
    ----------
    slide, species, pixel_size_um, origin_um : as in :class:`spatia.xenium.store.SlideStore`
    rasters : morphology, labels and, where there is one, H&E
    stains : channel names of the morphology image
    make_table : returns the table of :func:`spatia.xenium.tables.make_table`; nothing keeps it once it is written
    make_outlines : returns element name -> outlines in micrometres; those without any cell are left out, and nothing
        keeps them once they are written
    transcripts : columns ``x``, ``y``, ``z`` (micrometres), ``feature_name``, ``cell_id``, or None
    """

    slide: str
    species: str
    pixel_size_um: float
    origin_um: tuple[float, float]
    rasters: Sequence[Raster]
    stains: tuple[str, ...]
    make_table: Callable[[], AnnData]
    make_outlines: Callable[[], dict[str, Outlines]]
    transcripts: DataFrame | None = None

    @property
    def table(self) -> AnnData:
        """The table, made anew."""
        return self.make_table()

    @property
    def outlines(self) -> dict[str, Outlines]:
        """The outlines, made anew."""
        return self.make_outlines()


def write_slide(path: Path, content: SlideContent) -> None:
    """Write ``content`` as a SpatialData store at ``path``, which must not exist or be empty."""
    if path.exists():
        path.rmdir()  # the library refuses to write into an empty folder
    with quiet_library():
        _write_tables(path, content)
        release_memory()
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


def _write_tables(path: Path, content: SlideContent) -> None:
    drawn = {name: outlines for name, outlines in content.outlines.items() if len(outlines)}
    _write_with_library(path, content, drawn)
    for name, outlines in drawn.items():
        _write_outlines(path / "shapes" / name / "shapes.parquet", outlines)


def _write_with_library(path: Path, content: SlideContent, drawn: dict[str, Outlines]) -> None:
    import geopandas
    import spatialdata
    from spatialdata.models import PointsModel, ShapesModel
    from spatialdata.transformations import Scale

    to_pixels = Scale([1 / content.pixel_size_um] * 2, axes=("x", "y"))
    transform = {keys.GLOBAL: to_pixels}
    elements: dict[str, Any] = {
        raster.element.split("/")[1]: _placeholder(raster, content) for raster in content.rasters
    }
    for name, outlines in drawn.items():
        few = geopandas.GeoDataFrame({"geometry": outlines.shapes(0, 1)}, index=outlines.index[:1])
        elements[name] = ShapesModel.parse(few, transformations=transform)
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


def _write_outlines(file: Path, outlines: Outlines) -> None:
    """Replace the library's GeoParquet of one polygon by one of all, batch by batch, with the same schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    schema = pq.read_schema(file)
    geo = json.loads(schema.metadata[b"geo"])
    bounds = outlines.bounds()
    has_several = bool((np.diff(outlines.first_ring) > 1).any())
    geo["columns"]["geometry"]["bbox"] = [*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)]
    geo["columns"]["geometry"]["geometry_types"] = ["MultiPolygon", "Polygon"] if has_several else ["Polygon"]
    schema = schema.with_metadata({**schema.metadata, b"geo": json.dumps(geo).encode()})
    partial = file.with_name(f".{file.name}.partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for first in range(0, len(outlines), _ROW_GROUP):
            end = min(first + _ROW_GROUP, len(outlines))
            encoded = np.concatenate([shapely.to_wkb(shapes) for _, shapes in outlines.batches(first, end)])
            columns = {"geometry": encoded, keys.CELL_ID: outlines.cell_ids[first:end]}
            arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    os.replace(partial, file)


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
