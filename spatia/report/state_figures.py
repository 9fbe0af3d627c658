"""What the cells of a slide are called and where they lie: types, classes of surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spatia.report import plots
from spatia.report.group_colours import OTHER_COLOUR, UNLABELLED, group_rare_labels, label_colours
from spatia.report.plots import Picture
from spatia.report.tables import Row, Table, number_cell, text_cells

MAP_IN = 5.6  # the longer side of a map
LEGEND_IN = 2.15
BETWEEN = "between classes"  # of a niche axis, or too few neighbours
TOP_IN, BOTTOM_IN = 0.3, 0.25


def draw_state_maps(
    x_um: np.ndarray, y_um: np.ndarray, types: np.ndarray, niches: Mapping[str, np.ndarray],
    size_um: tuple[float, float],
) -> Picture:  # fmt: skip
    """Return the slide by cell type and by every niche axis, y downwards, with numbers of cells.

    Parameters
    ----------
    types : (n,) names, "" where not known
    niches : axis -> (n,) classes, "" between classes
    """
    shown, names = group_rare_labels(np.where(types == "", UNLABELLED, types).astype(str))
    maps = [("cell types", shown, label_colours(names))]
    for axis, classes in niches.items():
        named = np.where(classes == "", BETWEEN, classes).astype(str)
        maps.append((f"niche axis: {axis.replace('_', ' ')}", named, _class_colours(named)))
    width, height = (side * MAP_IN / max(size_um) for side in size_um)
    block = width + LEGEND_IN, max(height, 2.4) + TOP_IN + BOTTOM_IN
    columns = max(min(int(12.4 / block[0]), len(maps)), 1)
    lines = -(-len(maps) // columns)
    with plots.new_figure(columns * block[0] + 0.05, lines * block[1]) as figure:
        for place, (title, labels, colours) in enumerate(maps):
            left, top = place % columns * block[0] + 0.05, (lines - place // columns) * block[1] - TOP_IN
            axes = slide_axes(figure, (left, top - height), (width, height), size_um)
            _scatter_labels(axes, x_um, y_um, labels, colours)
            axes.set_title(title, loc="left")
        caption = (
            f"{len(types):,} kept cells in the colours of their types, and by what surrounds them: classes of each"
            " niche axis as config/stages/states.yaml defines them, grey where a cell lies between classes or has too"
            " few neighbours. Numbers of cells in brackets."
        )
        return Picture("states", "Cell types and surroundings", caption, plots.to_png(figure))


def slide_axes(
    figure: Figure, corner_in: tuple[float, float], size_in: tuple[float, float], size_um: tuple[float, float]
) -> Axes:
    """Return axes in micrometres of the slide's frame, y downwards, with a scale bar below so that it hides no cell."""
    axes = plots.axes_in(figure, corner_in, size_in)
    axes.set(xlim=(0, size_um[0]), ylim=(size_um[1], 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#B5BAC2", linewidth=0.6)
    length_um = plots.round_length_um(size_um[0])
    start, below = 1 - length_um / size_um[0], -0.07 / size_in[1]
    bar: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    axes.plot([start, 1], [below, below], color="black", linewidth=1.6, solid_capstyle="butt", **bar)
    axes.text((1 + start) / 2, 1.6 * below, plots.length_text(length_um), fontsize=7, ha="center", va="top", **bar)
    return axes


def point_size(n_cells: int, axes: Axes) -> float:
    """Return the area of a marker, in points squared, so that all cells together cover about half of the axes."""
    box = axes.get_window_extent()
    points = box.width * box.height * (72 / plots.DPI) ** 2
    return float(np.clip(0.4 * points / max(n_cells, 1), 0.7, 30))


def state_tables(counts: Mapping[str, Mapping[str, int]]) -> list[Table]:
    """Return how many cells every type and every niche class has.

    Parameters
    ----------
    counts : column of ``states.parquet`` -> value -> cells, as ``states.json`` says
    """
    niches = [name for name in counts if name.startswith("niche_")]
    rows = [row for name in niches for row in _count_rows(counts[name], name.removeprefix("niche_"), BETWEEN)]
    tables = [_count_table("Cell types", ["cell type"], _count_rows(counts.get("cell_type", {}), None, "not known"))]
    named = {name: n for name, n in counts.get("state", {}).items() if name}
    if named:
        tables.append(_count_table("States", ["state"], _count_rows(counts["state"], None, "none")))
    if rows:
        tables.append(_count_table("Niche classes", ["axis", "class"], rows))
    return tables


def _count_table(title: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    return Table(title, "", [*((name, False) for name in names), ("cells", True), ("share", True)], rows)


def _count_rows(counts: Mapping[str, int], axis: str | None, unnamed: str) -> list[Row]:
    total = max(sum(counts.values()), 1)
    ordered = sorted(counts.items(), key=lambda item: (item[0] == "", -item[1], item[0]))
    start = [] if axis is None else [axis.replace("_", " ")]
    return [
        Row([*text_cells(*start, name or unnamed), number_cell(f"{n:,}"), number_cell(f"{100 * n / total:.1f} %")],
            is_quiet=not name)
        for name, n in ordered
    ]  # fmt: skip


def _class_colours(labels: np.ndarray) -> dict[str, str]:
    palette = iter((plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE, plots.VERMILLION, plots.SKY))
    names = sorted(set(labels.tolist()) - {BETWEEN})
    colours = {name: next(palette, plots.GREY) for name in names}
    return colours | ({BETWEEN: OTHER_COLOUR} if (labels == BETWEEN).any() else {})


def _scatter_labels(
    axes: Axes, x_um: np.ndarray, y_um: np.ndarray, labels: np.ndarray, colours: Mapping[str, str]
) -> None:
    # neither the first class nor the last is painted over the others
    order = np.random.default_rng(0).permutation(len(labels))
    look: dict[str, Any] = {"s": point_size(len(labels), axes), "linewidth": 0}
    axes.scatter(x_um[order], y_um[order], c=np.array([colours[label] for label in labels[order]]), **look)
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0}
    handles = [
        Line2D([], [], color=colour, label=f"{label} ({int((labels == label).sum()):,})", **dot)
        for label, colour in colours.items()
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, handletextpad=0.1,
                labelspacing=0.25, borderpad=0.2)  # fmt: skip
