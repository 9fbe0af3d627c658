"""Pairs of control and target cells as batches: balanced over transitions, turned alike, random by number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spatia.learn.generator_cells import CellReader, Reader
from spatia.learn.generator_matching import rematch
from spatia.learn.generator_tiles import TileReader
from spatia.transitions.canvas import long_axis_of, nearest_turn, share_of, turn_each
from spatia.transitions.looks import looks_of

AT_A_TIME = 256  # cells or pairs


@dataclass(frozen=True)
class PairBatch:
    """One row a pair.

    Attributes
    ----------
    start, end
        (b, channels, y, x) canvases of control and target.
    transition
        (b,) its number.
    context
        (b, w) embeddings of the control.
    weight
        (b,) how much the pair counts, 1 on average.
    cell_id
        Of the control.
    dapi
        The stain whose nucleus has an outline in the canvases.
    """

    start: Tensor
    end: Tensor
    transition: Tensor
    context: Tensor
    weight: Tensor
    cell_id: tuple[str, ...]
    dapi: int | None = None

    def __len__(self) -> int:
        return len(self.transition)


@dataclass(frozen=True)
class PairSet:
    """All pairs of the training slides, in memory; a pair names two of the cells.

    Attributes
    ----------
    canvas, context
        (cells, channels, y, x), (cells, w).
    start, end, turned, transition, weight
        (pairs,) rows of the cells, position of the target (0 to 7: a square's symmetries), number of the transition,
        weight.
    cell_id
        (pairs,) of the control.
    group
        (pairs,) which are together in a fold: those of a slide, or of one slide those of a quarter of it.
    dapi
        The stain whose nucleus has an outline in the canvases.
    n_cells
        Different cells among them.
    """

    canvas: Tensor
    context: Tensor
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    turned: NDArray[np.int64]
    transition: NDArray[np.int64]
    weight: NDArray[np.float32]
    cell_id: NDArray[np.str_]
    group: NDArray[np.int64]
    dapi: int | None = None
    n_cells: int = 0

    def __len__(self) -> int:
        return len(self.start)

    def take(self, pairs: NDArray[np.int64]) -> PairBatch:
        """Return some pairs, targets in the position that they have beside their control."""
        start, end = torch.from_numpy(self.start[pairs]), torch.from_numpy(self.end[pairs])
        return PairBatch(
            self.canvas[start],
            turn_each(self.canvas[end], torch.from_numpy(self.turned[pairs])),
            torch.from_numpy(self.transition[pairs]),
            self.context[start],
            torch.from_numpy(self.weight[pairs]),
            tuple(self.cell_id[pairs].tolist()),
            self.dapi,
        )


def read_pairs(
    reader: Reader, start: Sequence[str], end: Sequence[str], transition: NDArray[np.int64],
    weight: NDArray[np.float32], is_turned: bool, is_rematched: bool = False, is_local: NDArray[np.bool_] | None = None,
) -> PairSet:  # fmt: skip
    """Return the pairs of one slide; every cell is read once, however many pairs it is in.

    With ``is_turned``, each target is turned so that its long axis lies as its control's (crops; a tile has none), and
    put into that of its eight positions which is nearest to its control; with ``is_rematched``, targets of a
    transition are handed out anew before, where ``is_local`` (pairs,) from among those near by
    (:mod:`spatia.learn.generator_matching`).
    """
    cells, place = np.unique(np.asarray([*start, *end], np.str_), return_inverse=True)
    first, last = place[: len(start)], place[len(start) :]
    seen = look_at(reader, cells.tolist())
    group = quarter_of(seen.place_um[first])
    if is_rematched and len(first):
        tile = reader.niche_of(cells.tolist()) if isinstance(reader, TileReader) else None
        last = rematch(seen.looks, seen.place_um, first, last, transition, tile, is_local)
    angle = np.zeros(len(cells))
    if is_turned and isinstance(reader, CellReader):
        # a target looks different beside every control, so each pair has its own
        kept, control = np.unique(first, return_inverse=True)
        angle = np.concatenate([angle[kept], seen.axis[first] - seen.axis[last]])
        cells, first, last = cells[np.concatenate([kept, last])], control, len(kept) + np.arange(len(first))
    canvas, context = read_canvases(reader, cells.tolist(), angle)
    turned = np.zeros(len(first), np.int64)
    for rows in np.array_split(np.arange(len(first)), -(-len(first) // AT_A_TIME)) if is_turned and len(first) else ():
        turned[rows] = nearest_turn(canvas[last[rows]], canvas[first[rows]]).numpy()
    return PairSet(
        canvas, context, first, last, turned, transition, weight, np.asarray(start, np.str_), group, reader.dapi,
        len(seen.looks),
    )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What matching asks of cells: looks (n, k), where they lie (n, 2: y, x) in um, long axes (n,) in radians."""

    looks: Tensor
    place_um: NDArray[np.float64]
    axis: NDArray[np.float32]


def look_at(reader: Reader, cell_ids: Sequence[str]) -> Seen:
    """Return what matching asks of cells; their canvases are not kept."""
    parts = []
    for at in range(0, max(len(cell_ids), 1), AT_A_TIME):
        block = reader.read(cell_ids[at : at + AT_A_TIME])
        axis = long_axis_of(share_of(block.canvas[:, -1])).numpy()
        parts.append((looks_of(block.canvas, reader.dapi), block.place_um, axis))
    looks, place, axes = zip(*parts, strict=True)
    return Seen(torch.cat(looks), np.concatenate(place), np.concatenate(axes))


def read_canvases(reader: Reader, cell_ids: Sequence[str], angle: NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """Return canvases and contexts of cells, turned by their angle (n,) where it is not 0; tiles lie as they are."""
    canvas, contexts = torch.empty(0), []
    for at in range(0, max(len(cell_ids), 1), AT_A_TIME):
        rows = slice(at, at + AT_A_TIME)
        if isinstance(reader, CellReader) and angle[rows].any():
            block = reader.read(cell_ids[rows], angle[rows])
        else:
            block = reader.read(cell_ids[rows])
        if not at:  # filled block by block: all pairs of a slide are large, and would be there twice
            canvas = torch.empty(len(cell_ids), *block.canvas.shape[1:])
        canvas[rows] = block.canvas
        contexts.append(block.context)
    return canvas, torch.cat(contexts)


def quarter_of(place: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return (n,) 0 to 3: on which side of the middle places (n, 2) lie."""
    if not len(place):
        return np.zeros(0, np.int64)
    return (place > np.median(place, axis=0)) @ np.array([1, 2])


def join_pairs(parts: Sequence[PairSet]) -> PairSet:
    """Return the pairs of several slides as one set."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.canvas) for part in parts)])[:-1]
    return PairSet(
        torch.cat([part.canvas for part in parts]),
        torch.cat([part.context for part in parts]),
        np.concatenate([part.start + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.end + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.turned for part in parts]),
        np.concatenate([part.transition for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.cell_id for part in parts]),
        np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)]),
        parts[0].dapi,
        sum(part.n_cells for part in parts),
    )


def draw_pairs(transition: NDArray[np.int64], n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return ``n`` random pairs, each transition equally often on average, however many pairs it has."""
    known, number, count = np.unique(transition, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    chosen = generator.integers(len(known), size=n)
    return order[first[chosen] + np.floor(generator.random(n) * count[chosen]).astype(np.int64)]


def draw_batch(pairs: PairSet, n: int, seed: int) -> PairBatch:
    """Return a random batch; control and target of a pair are turned alike, since cells have no upright position."""
    generator = np.random.default_rng(seed)
    batch = pairs.take(draw_pairs(pairs.transition, n, generator))
    symmetry = torch.from_numpy(generator.integers(8, size=n))
    return replace(batch, start=turn_each(batch.start, symmetry), end=turn_each(batch.end, symmetry))
