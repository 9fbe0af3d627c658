"""Read a ``slide.zarr`` block by block, without spatialdata: what every stage after ingest uses.

Opening costs a few milliseconds and no memory; images and labels are zarr arrays that are sliced where needed.
Everything is in the slide's frame (docs/outputs.md): micrometres, or pixels = micrometres / ``pixel_size_um``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zarr

from spatia import keys
from spatia.errors import SpatiaError

if TYPE_CHECKING:
    import geopandas
    import numpy as np
    import pandas as pd
    from scipy import sparse

FORMAT = 1  # of slide.zarr and ingest.json; rises when their layout changes
ROOT_ATTRIBUTE = "spatia"  # attribute of the root group: format, slide, species, pixel_size_um, origin_um

_OUTLINES = {"cell": keys.CELL_BOUNDARIES, "nucleus": keys.NUCLEUS_BOUNDARIES}


@dataclass(frozen=True)
class SlideStore:
    """One opened ``slide.zarr``.

    Attributes
    ----------
    path : the store's folder
    slide, species : from the sheet of slides
    stains : names of the channels of ``image``
    pixel_size_um : side of a pixel
    origin_um : (x, y) of the slide's origin in the bundle's frame
    shape_px : (height, width) of the image
    image : (c, y, x) uint8 or uint16, full resolution
    image_levels : ``image`` and its halvings (2 x 2 means)
    he : (3, y, x) uint8 in the same frame, or None
    he_levels : ``he`` and its halvings, empty when there is none
    cell_labels : (y, x) uint32, a cell's ``cell_label``, 0 is background
    nucleus_labels : (y, x) uint32, the ``cell_label`` of the cell that owns the nucleus, or None
    """

    path: Path
    slide: str
    species: str
    stains: tuple[str, ...]
    pixel_size_um: float
    origin_um: tuple[float, float]
    shape_px: tuple[int, int]
    image: zarr.Array
    image_levels: tuple[zarr.Array, ...]
    he: zarr.Array | None
    he_levels: tuple[zarr.Array, ...]
    cell_labels: zarr.Array
    nucleus_labels: zarr.Array | None

    def read_cells(self) -> pd.DataFrame:
        """Return the cell table, one row per cell, index ``cell_id`` (text), columns of docs/outputs.md."""
        obs = self._read_table_part("obs")
        obs.index = obs[keys.CELL_ID].astype(str)
        obs.index.name = keys.CELL_ID
        return obs.drop(columns=keys.CELL_ID)

    def read_counts(self) -> sparse.csr_matrix:
        """Return the counts, (cells, genes) int32, rows as in :meth:`read_cells`, columns as in :attr:`genes`."""
        from scipy import sparse

        return sparse.csr_matrix(self._read_table_part("X"))

    @property
    def genes(self) -> pd.DataFrame:
        """The panel: columns ``gene`` (name) and ``gene_id``, in the order of the counts' columns."""
        import pandas as pd

        var = self._read_table_part("var")
        return pd.DataFrame({"gene": var.index.astype(str), "gene_id": var["gene_id"].to_numpy().astype(str)})

    def read_outlines(self, which: Literal["cell", "nucleus"]) -> geopandas.GeoDataFrame | None:
        """Return the polygons in micrometres, index ``cell_id``, or None where the bundle has no nuclei.

        A cell with several nuclei has one MultiPolygon.
        """
        import geopandas

        file = self.path / "shapes" / _OUTLINES[which] / "shapes.parquet"
        if not file.exists():
            return None
        outlines = geopandas.read_parquet(file)
        outlines.index = outlines.index.astype(str)
        return outlines

    def iterate_rings(self, which: Literal["cell", "nucleus"]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield ``(cell_id, vertices)`` for every outline: (n, 2) micrometres (x, y), closed; for drawing."""
        import shapely

        outlines = self.read_outlines(which)
        if outlines is None:
            return
        for cell_id, shape in zip(outlines.index, outlines.geometry, strict=True):
            for polygon in shapely.get_parts(shape):
                yield cell_id, shapely.get_coordinates(polygon.exterior)

    def _read_table_part(self, part: str) -> Any:
        from anndata.io import read_elem

        return read_elem(_open_group(self.path, f"tables/{keys.TABLE}")[part])


def open_slide(path: Path | str) -> SlideStore:
    """Open the ``slide.zarr`` at ``path``.

    Raises
    ------
    SpatiaError
        If there is none, it is incomplete, or another version of spatia wrote it.
    """
    path = Path(path)
    root = _open_group(path)
    head = root.attrs.get(ROOT_ATTRIBUTE)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, dict) else "none"
        raise SpatiaError(f"{path}: expected a slide.zarr of format {FORMAT}, found {found}; run spatia ingest again")
    levels = _levels(path, f"images/{keys.MORPHOLOGY}")
    he_levels = _levels(path, f"images/{keys.HE}")
    cell_labels = _levels(path, f"labels/{keys.CELL_LABELS}")
    nucleus_labels = _levels(path, f"labels/{keys.NUCLEUS_LABELS}")
    if not levels or not cell_labels:
        raise SpatiaError(f"{path}: expected morphology and cell labels, found a partial store; run spatia ingest")
    return SlideStore(
        path=path,
        slide=head["slide"],
        species=head["species"],
        stains=_channel_names(path),
        pixel_size_um=float(head["pixel_size_um"]),
        origin_um=(float(head["origin_um"][0]), float(head["origin_um"][1])),
        shape_px=(levels[0].shape[1], levels[0].shape[2]),
        image=levels[0],
        image_levels=levels,
        he=he_levels[0] if he_levels else None,
        he_levels=he_levels,
        cell_labels=cell_labels[0],
        nucleus_labels=nucleus_labels[0] if nucleus_labels else None,
    )


def ignore_snakemake_timestamp() -> None:
    """Silence zarr's warning about the ``.snakemake_timestamp`` that snakemake leaves in a directory output."""
    warnings.filterwarnings("ignore", message=r".*\.snakemake_timestamp.*", category=UserWarning)


def _open_group(path: Path, inside: str = "") -> zarr.Group:
    # consolidated metadata is skipped: it is one large JSON, and a single group is all that is asked for
    try:
        with warnings.catch_warnings():
            ignore_snakemake_timestamp()
            return zarr.open_group(path, mode="r", path=inside, use_consolidated=False)
    except (FileNotFoundError, ValueError, KeyError) as problem:
        where = f"{path}/{inside}" if inside else str(path)
        raise SpatiaError(f"{where}: expected a slide.zarr, found none ({problem}); run spatia ingest") from None


def _multiscales(group: zarr.Group) -> dict[str, Any]:
    ome: Any = group.attrs["ome"]
    return dict(ome["multiscales"][0])


def _levels(path: Path, element: str) -> tuple[zarr.Array, ...]:
    if not (path / element).is_dir():
        return ()
    group = _open_group(path, element)
    return tuple(_as_array(group[dataset["path"]]) for dataset in _multiscales(group)["datasets"])


def _as_array(node: zarr.Array | zarr.Group) -> zarr.Array:
    assert isinstance(node, zarr.Array)
    return node


def _channel_names(path: Path) -> tuple[str, ...]:
    ome: Any = _open_group(path, f"images/{keys.MORPHOLOGY}").attrs["ome"]
    return tuple(str(channel["label"]) for channel in ome["omero"]["channels"])
