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
from spatia.xenium.outlines import Outlines, from_vertices
from spatia.xenium.tiffs import RESTORE

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy import sparse


_BATCH_ROWS = 2**16

GENE_EXPRESSION = "Gene Expression"

_CELL_COLUMNS = ("cell_id", "x_centroid", "y_centroid")
_MEASURES = ("transcript_counts", *keys.CONTROL_COLUMNS, "cell_area", "nucleus_area")
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
    """Return the bundle's cell table: index ``cell_id`` (text), positions, counts and areas, in the file's order."""
    names = read_schema(file).names
    _require_columns(file, names, _CELL_COLUMNS)
    with naming(file, "a parquet table of cells"):
        cells = pd.read_parquet(file, columns=[name for name in (*_CELL_COLUMNS, *_MEASURES) if name in names])
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
    by_cell = sparse.csr_matrix((data.astype(np.int32, copy=False), indices, indptr), shape=shape[::-1])
    genes = pd.DataFrame({"gene": names[is_gene], "gene_id": ids[is_gene]})
    return Counts(cell_ids, genes, by_cell[:, np.flatnonzero(is_gene)].tocsr())


def read_outlines(file: Path) -> Outlines:
    """Return the outlines in a boundaries table, micrometres of the bundle, in order of first appearance."""
    _require_columns(file, read_schema(file).names, _BOUNDARY_COLUMNS)
    with naming(file, "a parquet table of outlines"):
        xy, codes, cell_ids = _read_vertices(file)
    return _make_outlines(file, xy, codes, cell_ids)


def _read_vertices(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the (n, 2) vertices, the place of each one's cell among the ids, and the ids in order of appearance.

    Batch by batch, ids encoded by arrow: a text object for each of 10 million vertices would be most of the memory of
    this stage.
    """
    import pyarrow.parquet as pq

    place: dict[str, int] = {}
    with pq.ParquetFile(file, read_dictionary=["cell_id"]) as table:
        schema, n_rows = table.schema_arrow, table.metadata.num_rows
        dtype = np.result_type(*(schema.field(name).type.to_pandas_dtype() for name in _BOUNDARY_COLUMNS[1:]))
        xy, codes, end = np.empty((n_rows, 2), dtype), np.empty(n_rows, np.int32), 0
        for batch in table.iter_batches(_BATCH_ROWS, columns=list(_BOUNDARY_COLUMNS)):
            rows = slice(end, end + len(batch))
            codes[rows] = _encode_ids(batch.column("cell_id"), place)
            for axis, name in enumerate(_BOUNDARY_COLUMNS[1:]):
                xy[rows, axis] = batch.column(name).to_numpy()
            end = rows.stop
    return xy[:end], codes[:end], np.array([*place], dtype=object)


def _encode_ids(column: pa.Array, place: dict[str, int]) -> np.ndarray:
    """Return, for every row, the place of its cell among the ids met so far; new ones are added."""
    import pyarrow as pa

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy()
    if not len(codes):
        return np.zeros(0, np.int32)
    first = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])  # of every run of one cell's rows
    used = codes[first]
    names = as_text(encoded.dictionary.take(pa.array(used.clip(0))).to_pandas())
    names[used < 0] = "None"  # null: the id of no cell
    places = np.array([place.setdefault(name, len(place)) for name in names], np.int32)
    return np.repeat(places, np.diff(np.append(first, len(codes))))


def _make_outlines(file: Path, xy: np.ndarray, codes: np.ndarray, cell_ids: np.ndarray) -> Outlines:
    if xy.dtype.kind != "f":
        raise SpatiaError(f"{file}: expected numbers as vertices, found {xy.dtype}; {RESTORE}")
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        raise SpatiaError(
            f"{file}: expected finite vertices, found {bad.sum()} that are not, the first of cell "
            f"{cell_ids[codes[bad.argmax()]]}; {RESTORE}"
        )
    outlines = from_vertices(xy, codes, cell_ids)
    _check_corners(file, outlines)
    return outlines


def _check_corners(file: Path, outlines: Outlines) -> None:
    lengths = np.diff(outlines.starts)
    if (lengths < 4).any():
        cell = np.searchsorted(outlines.first_ring, (lengths < 4).argmax(), side="right") - 1
        raise SpatiaError(
            f"{file}: expected outlines of at least 3 corners, found fewer for cell "
            f"{outlines.cell_ids[cell]}; {RESTORE}"
        )


def check_transcripts(file: Path) -> None:
    """Read the whole table of transcripts once, batch by batch: a broken page would otherwise show while writing."""
    import pyarrow.parquet as pq

    _require_columns(file, read_schema(file).names, TRANSCRIPT_COLUMNS)
    with naming(file, "a parquet table of transcripts"), pq.ParquetFile(file) as table:
        for _ in table.iter_batches(columns=list(TRANSCRIPT_COLUMNS)):
            pass


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
