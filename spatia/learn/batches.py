"""A batch of whole niches, as tensors.

Indices nest: a cell points to a niche of the batch, a niche to a tissue of the batch, a tissue to a slide of the
batch, a slide to the dataset's list of slides. Cells of one niche lie next to each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from spatia.learn.frames import fill_floats, fill_frames
from spatia.learn.parcel import Place, pack_tensors, unpack_tensors

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class SparseCounts:
    """Counts of n rows (cells, niches or tissues): for each row the genes that are not zero.

    A gene absent here is a measured zero if the slide's panel has it (``CellBatch.on_panel``), else unknown.
    """

    genes: Tensor  # (entries,) int32, index into the dataset's genes
    values: Tensor  # (entries,) int32
    indptr: Tensor  # (n + 1,) int64, where each row starts
    n_genes: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the counts as (n, n_genes)."""
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.genes.device), self.indptr.diff())
        out = torch.zeros(len(self), self.n_genes, dtype=dtype, device=self.genes.device)
        out[rows, self.genes.long()] = self.values.to(dtype)
        return out


@dataclass(frozen=True)
class CellBatch:
    """b cells in n whole niches of m tissues of k slides, with t tokens, c stains, g genes, p px patches."""

    epoch: int
    number: int  # of the batch in its epoch: where to resume
    window_px: int  # side of a frame

    tokens: Tensor  # (t, c, p, p) uint8, patches that touch the cell, 0 outside it and where the slide lacks the stain
    token_inside: Tensor  # (t, p, p) bool, True on the cell's own pixels
    token_position: Tensor  # (t, 2) int16, row and column of the patch in the window
    cu_seqlens: Tensor  # (b + 1,) int32, cell i owns tokens cu_seqlens[i] to cu_seqlens[i + 1]

    counts: SparseCounts  # (b, g)
    cell_id: tuple[str, ...]  # (b,) the bundle's own ids
    cell_row: Tensor  # (b,) int64, row in the slide's crops
    position_um: Tensor  # (b, 2) float32, x and y in the slide's frame
    niche: Tensor  # (b,) int64, index into the batch's niches

    niche_tissue: Tensor  # (n,) int64, index into the batch's tissues
    niche_row: Tensor  # (n,) int64, row of the slide's niche table
    niche_place: Tensor  # (n, 2) int64, row and column of the niche inside its tissue
    niche_counts: SparseCounts  # (n, g) sums over all cells of the niche

    tissue_slide: Tensor  # (m,) int64, index into the batch's slides
    tissue_row: Tensor  # (m,) int64, row of the slide's tissue table
    tissue_counts: SparseCounts  # (m, g)

    slide_index: Tensor  # (k,) int64, index into the dataset's slides
    has_stain: Tensor  # (k, c) bool, True where the slide was stained so
    on_panel: Tensor  # (k, g) bool, True where the slide's panel measures the gene

    niche_tiles: Tensor | None = None  # (n, c, y, x) uint8, full resolution, unmasked
    tissue_tiles: Tensor | None = None  # (m, c, y, x) uint8, at the dataset's tissue level, unmasked
    context: Tensor | None = None  # (b, c, window, window) uint8, the crop windows with everything in them
    around: Tensor | None = None  # (b, g) float32, summed counts of the slide's other cells near each cell

    def __len__(self) -> int:
        return len(self.cell_id)

    @property
    def tissue(self) -> Tensor:
        """(b,) index of each cell's tissue in the batch."""
        return self.niche_tissue[self.niche]

    @property
    def slide(self) -> Tensor:
        """(b,) index of each cell's slide in the batch."""
        return self.tissue_slide[self.tissue]

    def __reduce__(self) -> tuple[Any, ...]:
        tensors: list[Tensor] = []

        def take_out(tensor: Tensor) -> _Hole:
            tensors.append(tensor)
            return _Hole()

        skeleton = _map_leaves(self, Tensor, take_out)
        return _rebuild, (vars(skeleton), *pack_tensors(tensors))

    def frames(self) -> tuple[Tensor, Tensor]:
        """Return dense crops (b, c, window, window) uint8 and masks (b, window, window) bool, True inside the cell."""
        if self.tokens.device.type != "cpu":
            return self._frames_on_device()
        n_stains, window = self.tokens.shape[1], self.window_px
        frames = torch.zeros(len(self), n_stains, window, window, dtype=torch.uint8)
        masks = torch.zeros(len(self), window, window, dtype=torch.bool)
        fill_frames(*self._token_arrays(), frames.numpy(), masks.numpy())  # type: ignore[call-arg]
        return frames, masks

    def floats(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
        """Return crops as contiguous float32 (b, c, window, window), ``(value / 255 - mean) / std`` inside the cell.

        Pixels outside the cell and stains the slide lacks are 0, which is the mean.

        Parameters
        ----------
        mean, std
            (c,) per stain, on the scale where white is 1. Default: 0 and 1.
        """
        n_stains, window = self.tokens.shape[1], self.window_px
        centre = np.zeros(n_stains) if mean is None else np.asarray(mean, np.float64)
        spread = np.ones(n_stains) if std is None else np.asarray(std, np.float64)
        if centre.shape != (n_stains,) or spread.shape != (n_stains,) or not (spread > 0).all():
            raise ValueError(f"mean and std: expected {n_stains} values each, std above 0; found {mean} and {std}")
        table = ((np.arange(256) / 255 - centre[:, None]) / spread[:, None]).astype(np.float32)
        if self.tokens.device.type != "cpu":
            return self._floats_on_device(torch.from_numpy(table))
        frames = torch.zeros(len(self), n_stains, window, window)
        has_stain = self.has_stain[self.slide].numpy()
        fill_floats(*self._token_arrays(), table, has_stain, frames.numpy())  # type: ignore[call-arg]
        return frames

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CellBatch:
        """Return the batch with every tensor on ``device``."""
        return _map_leaves(self, Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CellBatch:
        """Return the batch in pinned memory; a DataLoader with ``pin_memory=True`` calls this."""
        return _map_leaves(self, Tensor, Tensor.pin_memory)

    def _token_arrays(self) -> tuple[np.ndarray, ...]:
        tensors = (self.tokens, self.token_inside, self.token_position, self.cu_seqlens)
        return tuple(tensor.numpy() for tensor in tensors)

    def _scatter(self, patches: Tensor) -> Tensor:
        """Put (t, c, p, p) patches of any type into (b, c, window, window) with whole-tensor operations."""
        n_channels, patch_px = patches.shape[1:3]
        grid = -(-self.window_px // patch_px)
        n_tokens = self.cu_seqlens.diff()
        cell = torch.repeat_interleave(torch.arange(len(self), device=patches.device), n_tokens)
        out = patches.new_zeros(len(self), grid, grid, n_channels, patch_px, patch_px)
        row, column = self.token_position.long().unbind(1)
        out[cell, row, column] = patches
        out = out.permute(0, 3, 1, 4, 2, 5).reshape(len(self), n_channels, grid * patch_px, grid * patch_px)
        return out[..., : self.window_px, : self.window_px].contiguous()

    def _frames_on_device(self) -> tuple[Tensor, Tensor]:
        return self._scatter(self.tokens), self._scatter(self.token_inside[:, None])[:, 0]

    def _floats_on_device(self, table: Tensor) -> Tensor:
        stain = torch.arange(self.tokens.shape[1], device=self.tokens.device)[:, None, None]
        values = table.to(self.tokens.device)[stain, self.tokens.long()]
        cell = torch.repeat_interleave(self.slide, self.cu_seqlens.diff())
        is_measured = self.token_inside[:, None] & self.has_stain[cell][:, :, None, None]
        return self._scatter(values * is_measured)


@dataclass(frozen=True)
class _Hole:
    """Stands for a tensor that travels apart from the rest of its batch."""


def _rebuild(fields: dict[str, Any], block: Tensor, places: Sequence[Place]) -> CellBatch:
    tensors = iter(unpack_tensors(block, places))
    return _map_leaves(CellBatch(**fields), _Hole, lambda _: next(tensors))


def _map_leaves(tree: Tree, kind: type, function: Callable[[Any], Any]) -> Tree:
    """Return a dataclass with ``function`` applied to its leaves of ``kind``, also those of dataclasses inside it."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(tree):  # type: ignore[arg-type]
        value = getattr(tree, field.name)
        if isinstance(value, kind):
            changed[field.name] = function(value)
        elif isinstance(value, SparseCounts):
            changed[field.name] = _map_leaves(value, kind, function)
    return dataclasses.replace(tree, **changed)  # type: ignore[type-var]
