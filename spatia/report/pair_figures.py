"""Where control cells and their targets lie, how far apart, and how sure the plans are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spatia.report import plots
from spatia.report.numbers import format_number
from spatia.report.plots import Picture
from spatia.report.state_figures import point_size, slide_axes
from spatia.report.tables import Cell, Row, Table, number_cell

MAP_IN = 3.9  # the longer side of a map
LINES_SHOWN = 80
CONTROL_COLOUR, TARGET_COLOUR = plots.BLUE, plots.ORANGE
BACKGROUND = "#DADDE2"
ROW_IN = 0.34  # of the box plots


@dataclass(frozen=True)
class PlacedPairs:
    """The pairs of one transition on a slide.

    Attributes
    ----------
    control_um, target_um : (n, 2) x, y per pair; a target that several controls chose stands there as often
    confidence : (n,) 1 - entropy of the pair's row of the plan / log m
    """

    tag: str
    control_um: np.ndarray
    target_um: np.ndarray
    confidence: np.ndarray

    @property
    def distance_um(self) -> np.ndarray:
        """Between control and target, (n,)."""
        return np.asarray(np.linalg.norm(self.control_um - self.target_um, axis=1))

    @property
    def n_targets(self) -> int:
        """Different target cells."""
        return len(np.unique(self.target_um, axis=0))


def draw_pair_maps(
    transitions: Sequence[PlacedPairs], cells_um: np.ndarray, size_um: tuple[float, float], rng: np.random.Generator
) -> Picture:
    """Return the slide once per transition: its controls, its targets, lines between some of the pairs.

    Parameters
    ----------
    cells_um : (m, 2) of all cells, drawn grey
    rng : chooses the pairs that get a line
    """
    width, height = (side * MAP_IN / max(size_um) for side in size_um)
    block = max(width, 2.9) + 0.12, height + 0.62
    lines = -(-len(transitions) // max(int(12.4 / block[0]), 1))
    columns = -(-len(transitions) // lines)
    with plots.new_figure(max(columns * block[0], 6.5), lines * block[1] + 0.3) as figure:
        for place, pairs in enumerate(transitions):
            corner = place % columns * block[0] + 0.06, (lines - 1 - place // columns) * block[1] + 0.24
            axes = slide_axes(figure, corner, (width, height), size_um)
            _draw_map(axes, pairs, cells_um, rng)
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0}
        handles = [
            Line2D([], [], color=CONTROL_COLOUR, label="control cells", **dot),
            Line2D([], [], color=TARGET_COLOUR, label="matched target cells", **dot),
            Line2D([], [], color="#333333", linewidth=0.8, label="some of the pairs"),
            Line2D([], [], color=BACKGROUND, label="other cells", **dot),
        ]
        figure.legend(handles=handles, loc="upper left", ncols=4, fontsize=8.5, handletextpad=0.3, columnspacing=1.2)
        caption = (
            f"Control cells and the target cells that transport matched them with; lines: {LINES_SHOWN} random pairs of"
            " each transition at most. Both are real cells of this slide: a pair says which cells resemble each other"
            " and lie near, not that one became the other. Cells that the split leaves out are in no pair."
        )
        return Picture("pairs", "Pairs on the slide", caption, plots.to_png(figure))


def _draw_map(axes: Axes, pairs: PlacedPairs, cells_um: np.ndarray, rng: np.random.Generator) -> None:
    size = point_size(len(cells_um), axes)
    axes.scatter(cells_um[:, 0], cells_um[:, 1], s=0.7 * size, linewidth=0, color=BACKGROUND)
    shown = rng.permutation(len(pairs.control_um))[:LINES_SHOWN]
    segments = np.stack([pairs.control_um[shown], pairs.target_um[shown]], axis=1)
    axes.add_collection(LineCollection(list(segments), colors="#333333", linewidths=0.55, alpha=0.6), autolim=False)
    for places, colour in ((pairs.control_um, CONTROL_COLOUR), (pairs.target_um, TARGET_COLOUR)):
        axes.scatter(places[:, 0], places[:, 1], s=1.5 * size, linewidth=0, color=colour, zorder=3)
    title = f"{pairs.tag}\n{len(pairs.control_um):,} controls, {pairs.n_targets:,} targets"
    axes.set_title(title, loc="left", fontsize=8.5, pad=3)


def draw_pair_distances(transitions: Sequence[PlacedPairs], rng: np.random.Generator) -> Picture:
    """Return box plots of the pairs' distances, beside those of random partners, and of the plans' confidence."""
    count = len(transitions)
    with plots.new_figure(12.0, 0.95 + 2 * ROW_IN * count) as figure:
        distances, confidence = figure.subplots(1, 2, sharey=True)
        for row, pairs in enumerate(transitions):
            partners = pairs.target_um[rng.permutation(len(pairs.target_um))]
            chance = np.linalg.norm(pairs.control_um - partners, axis=1)
            _draw_box(distances, pairs.distance_um, row - 0.17, TARGET_COLOUR)
            _draw_box(distances, chance, row + 0.17, BACKGROUND)
            _draw_box(confidence, pairs.confidence, row, plots.GREEN)
        distances.set_yticks(range(count), [pairs.tag for pairs in transitions])
        distances.set_ylim(count - 0.5, -0.5)
        distances.set_xlim(0)
        distances.set_xlabel("distance between control and target (µm)")
        confidence.set_xlim(0, 1)
        confidence.set_xlabel("confidence: 0 = any target would do, 1 = exactly one")
        handles = [Patch(color=TARGET_COLOUR, label="pairs"), Patch(color=BACKGROUND, label="the same cells, shuffled")]
        figure.legend(handles=handles, loc="upper left", ncols=2, fontsize=8.5)
        plots.set_margins(figure, 2.6, 0.15, 0.5, 0.3, between=(0.25, 0))
        caption = (
            "Boxes: the middle half, line: the median, whiskers: 5 % to 95 % of the pairs. The nearer the pairs are"
            " than shuffled ones, the more the place counted. Low confidence: many targets fit a control about as well."
        )
        return Picture("pair_distances", "Distances and confidence of pairs", caption, plots.to_png(figure))


def _draw_box(axes: Axes, values: np.ndarray, at: float, colour: str) -> None:
    axes.boxplot([values], positions=[at], vert=False, widths=0.26, whis=(5, 95), showfliers=False, patch_artist=True,
                 manage_ticks=False, boxprops={"facecolor": colour, "linewidth": 0.7}, whiskerprops={"linewidth": 0.7},
                 capprops={"linewidth": 0.7}, medianprops={"color": "black", "linewidth": 1.3})  # fmt: skip


def plan_table(plans: pd.DataFrame) -> Table:
    """Return what ``plans.tsv`` says: a line per transition, with the reason where one was skipped.

    Parameters
    ----------
    plans : read as text and numbers; what a skipped transition does not have is NaN
    """
    numbers = [
        ("n_ctrl", "controls"), ("n_tgt", "targets"), ("iterations", "iterations"),
        ("marginal_error", "marginal error (L1)"), ("target_reuse", "controls per chosen target"),
        ("max_reuse", "at most"), ("mean_confidence", "mean confidence"),
        ("median_distance_um", "median distance (µm)"),
    ]  # fmt: skip
    known = [(name, title) for name, title in numbers if name in plans]
    skipped = plans["skipped"].fillna("").astype(str)
    has_parts = "split" in plans and len(set(plans["split"])) > 1  # a training slide with a test block
    rows = []
    for (_, plan), reason in zip(plans.iterrows(), skipped, strict=True):
        values = [number_cell(format_number(plan[name])) for name, _ in known]
        name = f"{plan['transition_tag']} ({plan['split']})" if has_parts else str(plan["transition_tag"])
        rows.append(Row([Cell(name, f"skipped: {reason}" if reason else ""), *values],
                        is_quiet=bool(reason)))  # fmt: skip
    caption = (
        "How control cells were matched with target cells (optimal transport), and which transitions were skipped."
    )
    header = [("transition", False), *((title, True) for _, title in known)]
    return Table("Plans", caption, header, rows)
