"""The tables of a bundle, each from its own file: cells, counts and outlines, to be joined by ``cell_id``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium.tiffs import RESTORE

if TYPE_CHECKING:
    import geopandas
    import pyarrow as pa
    from scipy import sparse


GENE_EXPRESSION = "Gene Expression"

_CELL_COLUMNS = ("cell_id", "x_centroid", "y_centroid")
_BOUNDARY_COLUMNS = ("cell_id", "vertex_x", "vertex_y")
TRANSCRIPT_COLUMNS = ("x_location", "y_location", "z_location", "feature_name", "cell_id", "qv")


@dataclass(frozen=True)
class Counts:
    """The genes of a count matrix.

    Attributes
    ----------
    cell_ids : (cells,) text, the rows
    genes : columns ``gene`` and ``gene_id``, the columns
    matrix : (cells, genes) int32
    n_controls : (cells,) counts of everything that is neither gene nor protein, or None where unknown
    """

    cell_ids: np.ndarray
    genes: pd.DataFrame
    matrix: sparse.csr_matrix


@contextlib.contextmanager
def naming(file: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into one line that names ``file``."""
    try:
        yield
    except SpatiaError:
        raise
    except FileNotFoundError:
        raise SpatiaError(f"{file}: expected {what}, found none; {RESTORE}") from None
    except MemoryError:
        raise
    except Exception as problem:  # parquet, hdf5, zip and blosc decoders share no base class
        raise SpatiaError(
            f"{file}: expected {what}, found something unreadable ({type(problem).__name__}: {problem}); {RESTORE}"
        ) from None


def read_schema(file: Path) -> pa.Schema:
    """Return the columns of a parquet file."""
    import pyarrow.parquet as pq

    with naming(file, "a parquet table"):
        return pq.read_schema(file)


def read_cells(file: Path) -> pd.DataFrame:
    """Return the bundle's cell table: index ``cell_id`` (text), the file's other columns, in the file's order."""
    with naming(file, "a parquet table of cells"):
        cells = pd.read_parquet(file)
    _require_columns(file, cells.columns, _CELL_COLUMNS)
    cells.index = pd.Index(as_text(cells["cell_id"]), name=keys.CELL_ID)
    return cells.drop(columns="cell_id")


def read_counts(file: Path) -> Counts:
    """Return the genes' counts of a ``cell_feature_matrix.h5``."""
    import h5py
    from scipy import sparse

    with naming(file, "a 10x count matrix"), h5py.File(file, "r") as handle:
        matrix = handle["matrix"]
        shape = tuple(int(size) for size in matrix["shape"][:])
        data, indices, indptr = matrix["data"][:], matrix["indices"][:], matrix["indptr"][:]
        # UTF-8, whatever the file declares: a µ in a gene's name is declared as ASCII
        names, ids, types = (
            matrix["features"][key].asstr("utf-8")[:].astype(str) for key in ("name", "id", "feature_type")
        )
        cell_ids = matrix["barcodes"].asstr("utf-8")[:].astype(str)
    _check_sparse(file, shape, data, indices, indptr, (len(names), len(cell_ids)))
    is_gene = types == GENE_EXPRESSION
    if not is_gene.any():
        raise SpatiaError(
            f"{file}: expected features of type {GENE_EXPRESSION!r}, found {sorted(set(types))}; {RESTORE}"
        )
    by_cell = sparse.csr_matrix((data.astype(np.int32), indices, indptr), shape=shape[::-1])
    genes = pd.DataFrame({"gene": names[is_gene], "gene_id": ids[is_gene]})
    return Counts(cell_ids, genes, by_cell[:, np.flatnonzero(is_gene)].tocsr())


def read_outlines(file: Path) -> geopandas.GeoDataFrame:
    """Return the polygons of a boundaries table in micrometres, index ``cell_id``, in order of first appearance.

    Rows are grouped by id, wherever they stand; a ring ends where it comes back to its first vertex, so that the
    nuclei of one cell stay apart also where the table has no ``label_id`` (early 2.0); they form one MultiPolygon.
    """
    with naming(file, "a parquet table of outlines"):
        table = pd.read_parquet(file)
    _require_columns(file, table.columns, _BOUNDARY_COLUMNS)
    with naming(file, "numbers as vertices"):
        xy = table[["vertex_x", "vertex_y"]].to_numpy(np.float64)
    ids = as_text(table["cell_id"])
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise SpatiaError(
            f"{file}: expected finite vertices, found {bad.sum()} that are not, the first of cell "
            f"{ids[bad.argmax()]}; {RESTORE}"
        )
    codes, cell_ids = pd.factorize(ids)
    order = np.argsort(codes, kind="stable")
    return _polygons(file, xy[order], codes[order], np.asarray(cell_ids, dtype=object))


def check_transcripts(file: Path) -> None:
    """Read the whole table of transcripts once, batch by batch: a broken page would otherwise show while writing."""
    import pyarrow.parquet as pq

    _require_columns(file, read_schema(file).names, TRANSCRIPT_COLUMNS)
    with naming(file, "a parquet table of transcripts"), pq.ParquetFile(file) as table:
        for _ in table.iter_batches(columns=list(TRANSCRIPT_COLUMNS)):
            pass


def read_outline_ids(file: Path) -> np.ndarray:
    """Return the ``cell_id`` of every outlined cell of a boundaries table, in order of first appearance."""
    with naming(file, "a parquet table of outlines"):
        return np.asarray(pd.unique(as_text(pd.read_parquet(file, columns=["cell_id"])["cell_id"])))


def as_text(ids: pd.Series) -> np.ndarray:
    """Return cell ids as text, whatever the bundle has: text, bytes (XOA 1.x) or integers (before 1.3)."""
    values = ids.to_numpy()
    if len(values) and isinstance(values[0], bytes):
        values = np.array([value.decode("utf-8") for value in values], dtype=object)
    return values.astype(str).astype(object)


def _require_columns(file: Path, found: Any, expected: tuple[str, ...]) -> None:
    absent = [column for column in expected if column not in found]
    if absent:
        raise SpatiaError(f"{file}: expected the column {absent[0]!r}, found {', '.join(map(str, found))}; {RESTORE}")


def _check_sparse(
    file: Path,
    shape: tuple[int, ...],
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    sizes: tuple[int, int],
) -> None:
    if shape != sizes or len(indptr) != sizes[1] + 1:
        raise SpatiaError(
            f"{file}: expected {sizes[0]} features x {sizes[1]} cells as its names say, found a matrix of "
            f"{shape}; {RESTORE}"
        )
    is_ordered = indptr[0] == 0 and indptr[-1] == len(data) == len(indices) and (np.diff(indptr) >= 0).all()
    if not is_ordered or (len(indices) and not (indices.min() >= 0 and indices.max() < shape[0])):
        raise SpatiaError(f"{file}: expected a sparse matrix, found indices that contradict each other; {RESTORE}")
    if len(data) and (not np.isfinite(data).all() or data.min() < 0 or data.max() > np.iinfo(np.int32).max):
        raise SpatiaError(f"{file}: expected counts of 0 and more, found {data.min()} to {data.max()}; {RESTORE}")


def _polygons(file: Path, xy: np.ndarray, codes: np.ndarray, cell_ids: np.ndarray) -> geopandas.GeoDataFrame:
    import geopandas
    import shapely

    starts = _ring_starts(xy, codes)
    lengths = np.diff(np.append(starts, len(xy)))
    if (lengths < 4).any():
        cell_id = cell_ids[codes[starts[(lengths < 4).argmax()]]]
        raise SpatiaError(f"{file}: expected outlines of at least 3 corners, found fewer for cell {cell_id}; {RESTORE}")
    rings = shapely.linearrings(xy, indices=np.repeat(np.arange(len(starts)), lengths))
    found = geopandas.GeoDataFrame({"geometry": shapely.polygons(rings)}, index=cell_ids[codes[starts]])
    return merge_parts(found)


def _ring_starts(xy: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return where a ring starts: at a new cell, and after a vertex that closes the ring before it."""
    if not len(codes):
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])
    end = np.append(first[1:], len(codes))
    row_of = np.repeat(first, end - first)
    closes = (xy == xy[row_of]).all(axis=1) & (np.arange(len(codes)) != row_of)
    # nearly all cells: closed once, by their last vertex
    is_simple = closes[end - 1] & (np.add.reduceat(closes, first) == 1)
    extra = [start for a, b in zip(first[~is_simple], end[~is_simple], strict=True) for start in _split(xy, a, b)]
    return np.sort(np.concatenate([first[is_simple], np.array(extra, np.int64)]))


def _split(xy: np.ndarray, first: int, end: int) -> Iterator[int]:
    start = first
    while start < end:
        yield start
        closing = np.flatnonzero((xy[start + 1 : end] == xy[start]).all(axis=1))
        start = start + 2 + int(closing[0]) if len(closing) else end


def merge_parts(outlines: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Return one row per cell: several polygons of one cell become one MultiPolygon."""
    import geopandas
    import shapely

    outlines.index.name = keys.CELL_ID
    if outlines.index.is_unique:
        return outlines
    codes, cell_ids = pd.factorize(outlines.index)
    order = np.argsort(codes, kind="stable")
    parts = outlines.geometry.to_numpy()[order]
    merged = shapely.multipolygons(parts, indices=codes[order])
    counts = np.bincount(codes)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    merged[counts == 1] = parts[first[counts == 1]]
    return geopandas.GeoDataFrame({"geometry": merged}, index=pd.Index(cell_ids, name=keys.CELL_ID))
