"""Cells and the cells most like them: what an embedding takes for the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spatia.report import plots
from spatia.report.group_colours import cluster_colours
from spatia.report.micrograph import add_stain_legend, mask_contours
from spatia.report.plots import Picture
from spatia.report.stains import to_colour

FULL_RANGE = (0.0, 255.0)  # crops are 8 bit already, scaled with the slide's own limits
SIDE_IN = 0.98
TEXT_IN = 0.3
MARGIN_IN = 0.04
BAND_IN = 0.32  # above the pictures, for the stains
GAP_IN = 0.16  # between the cells asked for
LABEL_IN = 0.2  # between a cell and its neighbours, for the name of the row


@dataclass(frozen=True)
class NeighbourCell:
    """A cell in its surroundings.

    Attributes
    ----------
    context : (c, y, x) uint8, the window unmasked
    mask : (y, x) bool of the window, the cell
    at_um : centroid (x, y)
    """

    cell_id: str
    cluster: int
    context: np.ndarray
    mask: np.ndarray
    at_um: tuple[float, float]


@dataclass(frozen=True)
class Neighbourhood:
    """A cell and its nearest neighbours, one list per embedding, in the order of the gallery's rows."""

    query: NeighbourCell
    neighbours: Sequence[Sequence[NeighbourCell]]


def choose_queries(clusters: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return ``count`` random rows spread over the clusters: a second cell of one only when each has one."""
    order = generator.permutation(len(clusters))
    of_its_cluster = pd.Series(clusters[order]).groupby(clusters[order]).cumcount()
    chosen = order[np.argsort(of_its_cluster, kind="stable")][:count]
    return chosen[np.argsort(clusters[chosen], kind="stable")]


def draw_neighbours(
    shown: Sequence[Neighbourhood], row_names: Sequence[str], stains: Sequence[str], pixel_size_um: float
) -> Picture:
    """Return every cell asked for beside its nearest neighbours, one row per embedding.

    Parameters
    ----------
    row_names : what the neighbours of each row have in common with the cell
    stains : one name per plane of the contexts
    """
    columns = 1 + max(len(row) for item in shown for row in item.neighbours)
    beside = min(2, len(shown))
    block = LABEL_IN + columns * SIDE_IN + GAP_IN, len(row_names) * (SIDE_IN + TEXT_IN) + GAP_IN
    lines = -(-len(shown) // beside)
    with plots.new_figure(MARGIN_IN + beside * block[0], lines * block[1] + BAND_IN) as figure:
        add_stain_legend(figure, stains)
        for place, item in enumerate(shown):
            left, top = MARGIN_IN + place % beside * block[0], (lines - place // beside) * block[1]
            _draw_block(figure, (left, top), item, row_names, stains, pixel_size_um)
        caption = (
            f"{len(shown)} random cells (thick frame), and beside each the {columns - 1} cells of this slide whose"
            " embeddings are nearest (cosine), nearest first, with their clusters and how far away on the slide they"
            " lie. Frames have the colours of the clusters, outlines are the cell masks, every window is"
            f" {item.query.mask.shape[0] * pixel_size_um:.0f} µm wide. Cells far apart that look alike show that"
            " the embedding is about the cell, not about the place."
        )
        return Picture("neighbours", "Nearest neighbours", caption, plots.to_png(figure), is_photo=True)


def _draw_block(
    figure: Figure, corner_in: tuple[float, float], item: Neighbourhood, row_names: Sequence[str],
    stains: Sequence[str], step: float,
) -> None:  # fmt: skip
    left, top = corner_in
    query = item.query
    axes = _cell_axes(figure, (left, top - SIDE_IN), query, stains, step, frame=3.0)
    axes.text(0, -0.04, f"{query.cell_id}\ncluster {query.cluster}", transform=axes.transAxes, fontsize=7,
              va="top", weight="bold")  # fmt: skip
    plots.add_scale_bar(axes, font_size=6)
    for line, (name, neighbours) in enumerate(zip(row_names, item.neighbours, strict=True)):
        bottom = top - SIDE_IN - line * (SIDE_IN + TEXT_IN)
        for column, cell in enumerate(neighbours, start=1):
            axes = _cell_axes(figure, (left + LABEL_IN + column * SIDE_IN, bottom), cell, stains, step, frame=1.5)
            apart_um = float(np.hypot(cell.at_um[0] - query.at_um[0], cell.at_um[1] - query.at_um[1]))
            text = f"cluster {cell.cluster}\n{distance_text(apart_um)} away"
            axes.text(0, -0.04, text, transform=axes.transAxes, fontsize=6.5, va="top")
            if column == 1:
                axes.text(
                    -0.06, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=7.5
                )


def distance_text(distance_um: float) -> str:
    """Return a distance with about two digits: 34 µm, 620 µm, 1.2 mm."""
    if distance_um >= 995:
        return f"{distance_um / 1000:.1f} mm"
    return f"{round(distance_um, -1 if distance_um >= 100 else 0):.0f} µm"


def _cell_axes(
    figure: Figure, corner_in: tuple[float, float], cell: NeighbourCell, stains: Sequence[str], step: float,
    frame: float,
) -> Axes:  # fmt: skip
    inset = 0.03 * SIDE_IN
    corner = corner_in[0] + inset, corner_in[1] + inset
    axes = plots.axes_in(figure, corner, (SIDE_IN - 2 * inset, SIDE_IN - 2 * inset))
    height, width = cell.mask.shape
    colour = to_colour(cell.context, stains, [FULL_RANGE] * len(stains))
    plots.show_image(axes, colour, (0, 0, width * step, height * step))
    rings = [ring * step for ring in mask_contours(cell.mask)[1]] if cell.mask.any() else []
    axes.add_collection(LineCollection(rings, colors="white", linewidths=0.7), autolim=False)
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, linewidth=frame, clip_on=False,
                             edgecolor=str(cluster_colours(np.array(cell.cluster)))))  # fmt: skip
    return axes
