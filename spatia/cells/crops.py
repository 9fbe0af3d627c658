"""Cell crops on disk: writer, reader, and the context around a crop.

The folder holds ``crops.json``, ``index.parquet``, ``pixels.bin`` and ``masks.bin`` (docs/outputs.md).
Only pixels inside a cell's mask are stored; a frame is rebuilt from its runs and its bit-packed mask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.grids import inside_slide, read_tile
from spatia.cells.scaling import Scaling
from spatia.columns import read_columns, read_text, write_columns
from spatia.errors import SpatiaError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from spatia.cells.cropping import CutCell
    from spatia.xenium.store import SlideStore

FORMAT = 1
HEADER_FILE = "crops.json"
INDEX_FILE = "index.parquet"
PIXELS_FILE = "pixels.bin"
MASKS_FILE = "masks.bin"

# index.parquet, in this order
INDEX_COLUMNS = (
    keys.CELL_ID,
    keys.CELL_LABEL,
    "y0",
    "x0",
    "box_y",
    "box_x",
    "box_h",
    "box_w",
    "pixel_offset",
    "n_pixels",
    "mask_offset",
    "is_clipped",
)


def mask_bytes_of(box_h: Any, box_w: Any) -> Any:
    """Return the bytes of a bit-packed mask of ``box_h`` x ``box_w`` (numbers or arrays)."""
    return (box_h * box_w + 7) // 8


@dataclass(frozen=True)
class Crops:
    """The crops of one slide, memory-mapped; row ``i`` is row ``i`` of ``index``.

    Attributes
    ----------
    header
        Content of ``crops.json``.
    index
        One row per cell, columns ``INDEX_COLUMNS``.
    columns
        The numeric columns of ``index`` as arrays: pandas is slow one row at a time.
    pixel_bytes, mask_bytes
        The whole of ``pixels.bin`` and ``masks.bin``, uint8, read only.
    """

    header: dict[str, Any]
    index: pd.DataFrame
    columns: dict[str, NDArray[np.int64]]
    pixel_bytes: NDArray[np.uint8]
    mask_bytes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def slide(self) -> str:
        """The slide's name."""
        return str(self.header["slide"])

    @property
    def stains(self) -> tuple[str, ...]:
        """Names of the stains, in the order of the pixel runs."""
        return tuple(self.header["stains"])

    @property
    def window_px(self) -> int:
        """Side of a frame in pixels."""
        return int(self.header["window_px"])

    @property
    def scaling(self) -> Scaling:
        """The limits with which the stains became 8 bit."""
        return Scaling.from_dict(self.header["scaling"])

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the stored values ``(stains, n_pixels)`` of one cell: its mask's pixels in row order."""
        start, count = self.columns["pixel_offset"][row], self.columns["n_pixels"][row]
        n_stains = len(self.header["stains"])
        return self.pixel_bytes[start : start + n_stains * count].reshape(n_stains, count)

    def box_mask(self, row: int) -> NDArray[np.bool_]:
        """Return the mask ``(box_h, box_w)`` of one cell within its box."""
        start, height, width = (int(self.columns[name][row]) for name in ("mask_offset", "box_h", "box_w"))
        packed = self.mask_bytes[start : start + mask_bytes_of(height, width)]
        return np.unpackbits(packed, count=height * width).reshape(height, width).view(bool)

    def mask(self, row: int) -> NDArray[np.bool_]:
        """Return the mask ``(window, window)`` of one cell; True = the cell."""
        mask = np.zeros((self.window_px, self.window_px), bool)
        mask[self._box(row)] = self.box_mask(row)
        return mask

    def frame(self, row: int) -> NDArray[np.uint8]:
        """Return the image ``(stains, window, window)`` of one cell, 0 outside its mask."""
        frame = np.zeros((len(self.header["stains"]), self.window_px, self.window_px), np.uint8)
        frame[:, *self._box(row)][:, self.box_mask(row)] = self.pixels(row)
        return frame

    def _box(self, row: int) -> tuple[slice, slice]:
        top, left, height, width = (int(self.columns[name][row]) for name in ("box_y", "box_x", "box_h", "box_w"))
        return slice(top, top + height), slice(left, left + width)


def open_crops(path: Path | str) -> Crops:
    """Open a folder that ``spatia crop`` wrote.

    Raises
    ------
    SpatiaError
        If a file is missing, truncated or of another format.
    """
    path = Path(path)
    header = _read_header(path / HEADER_FILE)
    index = _read_index(path / INDEX_FILE, int(header["n_cells"]))
    columns = {name: index[name].to_numpy(np.int64) for name in INDEX_COLUMNS[1:-1]}
    n_pixel_bytes = int(columns["n_pixels"].sum()) * len(header["stains"])
    n_mask_bytes = int(mask_bytes_of(columns["box_h"], columns["box_w"]).sum())
    return Crops(
        header,
        index,
        columns,
        _map_bytes(path / PIXELS_FILE, n_pixel_bytes),
        _map_bytes(path / MASKS_FILE, n_mask_bytes),
    )


def write_crops(
    folder: Path,
    header: Mapping[str, Any],
    cell_ids: pa.Array,
    index: Mapping[str, NDArray],
    cells: Iterable[CutCell],
) -> None:
    """Write the crops of one slide into an empty ``folder``.

    ``cells`` may come in any order: every cell is written to the place that ``index`` (the numeric columns of
    ``INDEX_COLUMNS``) gives it, so that the files are the same bytes however the slide was walked.
    """
    n_written = 0
    with open(folder / PIXELS_FILE, "wb") as pixels, open(folder / MASKS_FILE, "wb") as masks:
        for cell in cells:
            n_pixels = int(index["n_pixels"][cell.row])
            if cell.pixels.shape[1] != n_pixels:
                raise SpatiaError(
                    f"cell {cell_ids[cell.row]}: expected {n_pixels} mask pixels as in the QC table, "
                    f"found {cell.pixels.shape[1]} in slide.zarr; run 'spatia qc' on this slide again"
                )
            os.pwrite(pixels.fileno(), cell.pixels.data, int(index["pixel_offset"][cell.row]))
            os.pwrite(masks.fileno(), np.packbits(cell.mask).data, int(index["mask_offset"][cell.row]))
            n_written += 1
    n_expected = int(np.count_nonzero(index["box_h"]))
    if n_written != n_expected:
        raise SpatiaError(f"slide.zarr: expected the masks of {n_expected} cells, found {n_written}; run 'spatia qc'")
    write_columns(folder / INDEX_FILE, {keys.CELL_ID: cell_ids, **{name: index[name] for name in INDEX_COLUMNS[1:]}})
    (folder / HEADER_FILE).write_text(json.dumps(header, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def context_window(
    store: SlideStore, scaling: Scaling, index_row: Mapping[str, Any], window_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return what surrounds one cell: its window without the mask, and which pixels lie on the slide.

    ``scaling`` is :attr:`Crops.scaling`, ``index_row`` a row of :attr:`Crops.index` (or any mapping with ``y0`` and
    ``x0``). Shapes ``(stains, window, window)`` and ``(window, window)``; 0 beyond the slide's edge.
    """
    y0, x0 = int(index_row["y0"]), int(index_row["x0"])
    luts = scaling.luts(np.dtype(store.image.dtype))
    return read_tile(store, luts, y0, x0, window_px), inside_slide(y0, x0, window_px, store.shape_px)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected the header of a crops folder, found none; run 'spatia crop'") from None
    except ValueError:
        raise SpatiaError(f"{path}: expected JSON, found something else; run 'spatia crop' again") from None
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        raise SpatiaError(f"{path}: expected crops of format {FORMAT}, found {found!r}; run 'spatia crop' again")
    return header


def _read_index(path: Path, n_cells: int) -> pd.DataFrame:
    import pandas as pd

    ids = read_text(path, keys.CELL_ID)
    if len(ids) != n_cells:
        raise SpatiaError(f"{path}: expected {n_cells} cells, found {len(ids)}; run 'spatia crop' again")
    return pd.DataFrame({keys.CELL_ID: ids.to_pylist(), **read_columns(path, INDEX_COLUMNS[1:])})


def _map_bytes(path: Path, n_bytes: int) -> NDArray[np.uint8]:
    found = path.stat().st_size if path.is_file() else None
    if found != n_bytes:
        what = "no file" if found is None else f"{found} bytes"
        raise SpatiaError(f"{path}: expected {n_bytes} bytes, found {what}; run 'spatia crop' again")
    return np.memmap(path, np.uint8, mode="r") if n_bytes else np.zeros(0, np.uint8)
