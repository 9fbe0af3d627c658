"""The niches of all slides in one list, and the part of a batch that lies on one slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia.learn.slides import Slide, join_ranges


@dataclass(frozen=True)
class NicheList:
    """All niches with cells that take part, slide by slide; each array is (niches,)."""

    slide: NDArray[np.int64]
    place: NDArray[np.int64]  # index into the slide's ``niche_rows``
    tissue: NDArray[np.int64]  # a number for every tissue of every slide
    n_cells: NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Niches that are drawn together."""

    n_cells: NDArray[np.int64]  # (groups,)
    block: NDArray[np.int64]  # (groups,) tissue
    members: NDArray[np.int64]  # niches, group by group
    starts: NDArray[np.int64]  # (groups + 1,)

    def niches_of(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the niches of some groups in the order of storage."""
        starts = self.starts[groups]
        return np.sort(self.members[join_ranges(starts, self.starts[groups + 1] - starts)])


@dataclass(frozen=True)
class BatchPart:
    """The cells, niches and tissues of a batch that lie on one slide; indices count within the part."""

    index: int  # of the slide in the dataset
    slide: Slide
    rows: NDArray[np.int64]  # (cells,) rows of the crops
    niche: NDArray[np.int64]  # (cells,) index into ``niche_rows``
    niche_rows: NDArray[np.int64]  # (niches,) rows of the niche table
    niche_tissue: NDArray[np.int64]  # (niches,) index into ``tissue_rows``
    tissue_rows: NDArray[np.int64]  # (tissues,) rows of the tissue table


def join_niches(slides: Sequence[Slide]) -> NicheList:
    """Return the niches of all slides."""
    n_niches = [len(slide.niche_rows) for slide in slides]
    tissues_before = np.cumsum([0, *(len(slide.tissues) for slide in slides)])
    tissue = [
        slide.niche_tissue[slide.niche_rows] + before
        for slide, before in zip(slides, tissues_before.tolist(), strict=False)
    ]
    return NicheList(
        slide=np.repeat(np.arange(len(slides)), n_niches),
        place=np.concatenate([np.arange(n) for n in n_niches]),
        tissue=np.concatenate(tissue),
        n_cells=np.concatenate([np.diff(slide.niche_starts) for slide in slides]),
    )


def group_niches(niches: NicheList, by_tissue: bool) -> Groups:
    """Return every niche as a group of its own, or the niches of each tissue as one group."""
    group = niches.tissue if by_tissue else np.arange(len(niches.tissue))
    members = np.argsort(group, kind="stable")
    _, starts = np.unique(group[members], return_index=True)
    return Groups(
        n_cells=np.add.reduceat(niches.n_cells[members], starts),
        block=niches.tissue[members[starts]],
        members=members,
        starts=np.append(starts, len(members)),
    )


def split_by_slide(niches: NicheList, chosen: NDArray[np.int64], slides: Sequence[Slide]) -> list[BatchPart]:
    """Return the parts of a batch made of the ``chosen`` niches, which are in ascending order."""
    found, starts = np.unique(niches.slide[chosen], return_index=True)
    places = np.split(niches.place[chosen], starts[1:])
    return [_part(index, slides[index], place) for index, place in zip(found.tolist(), places, strict=True)]


def _part(index: int, slide: Slide, place: NDArray[np.int64]) -> BatchPart:
    n_cells = slide.niche_starts[place + 1] - slide.niche_starts[place]
    niche_rows = slide.niche_rows[place]
    tissue_rows, niche_tissue = np.unique(slide.niche_tissue[niche_rows], return_inverse=True)
    return BatchPart(
        index=index,
        slide=slide,
        rows=slide.rows[join_ranges(slide.niche_starts[place], n_cells)],
        niche=np.repeat(np.arange(len(place)), n_cells),
        niche_rows=niche_rows,
        niche_tissue=niche_tissue,
        tissue_rows=tissue_rows,
    )
