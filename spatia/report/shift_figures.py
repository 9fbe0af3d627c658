"""Do generated cells change as real ones do: every feature's mean shift, real against generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spatia.report import feature_words, plots
from spatia.report.plots import Picture
from spatia.report.shift_points import Shifts

Column = Mapping[Any, Any]  # a line of the dictionary of features

PANEL_IN = 3.3
TEXT_IN = 7.6
ROW_IN = PANEL_IN + 0.85
LEFT_IN, BAND_IN = 0.75, 0.35
N_NAMED = 7
CAPTION = (
    "Every point is a feature: how far its mean lies from the controls' in real matched targets (x) and in"
    " generated cells (y), signed, in standard deviations of the real controls (single cells cut off at {most})."
    " On the line, generated cells change as much, and the same way, as real ones; in the upper left or lower"
    " right quarter, the wrong way. Numbers: the largest real shift of each kind of feature and stain that can be"
    " seen in a cell. r and slope of the points are of all cells; the score table compares with half of the"
    " targets, so its numbers differ a little."
)
LINE_LETTERS = 108
COLOURS = {
    feature_words.SHAPE: plots.BLUE,
    feature_words.LEVEL: plots.ORANGE,
    feature_words.TEXTURE: plots.GREEN,
    feature_words.GRAIN: plots.PURPLE,
    feature_words.PLACE: plots.VERMILLION,
}


def draw_shifts(
    transitions: Sequence[Shifts], columns: Sequence[Column], scored: Mapping[str, str], most: float
) -> Picture:
    """Return per transition a scatter of real and generated shifts, with the largest features named beside it.

    Parameters
    ----------
    columns : the dictionary of features that ``Shifts.columns`` refers to
    scored : transition -> what the score table says about its shifts
    most : spreads at which single cells were cut off
    """
    with plots.new_figure(LEFT_IN + PANEL_IN + TEXT_IN, ROW_IN * len(transitions) + BAND_IN) as figure:
        height = figure.get_size_inches()[1]
        for place, shifts in enumerate(transitions):
            bottom = height - BAND_IN - (place + 1) * ROW_IN + 0.55
            axes = plots.axes_in(figure, (LEFT_IN, bottom), (PANEL_IN, PANEL_IN))
            own = [columns[place] for place in shifts.columns]
            named = choose_named(shifts.real, own)
            _draw_scatter(axes, shifts, own, named)
            _write_names(figure, (LEFT_IN + PANEL_IN + 0.35, bottom + PANEL_IN), shifts, own, named,
                         scored.get(shifts.tag, ""))  # fmt: skip
        _draw_legend(figure)
        caption = CAPTION.format(most=f"{most:g}")
        return Picture("shifts", "Shifts of features, real and generated", caption, plots.to_png(figure))


def choose_named(real: np.ndarray, columns: Sequence[Column], count: int = N_NAMED) -> list[int]:
    """Return the features with the largest real shifts, one of each kind, object and stain, none that is abstract."""
    chosen: dict[tuple[str, str, str], int] = {}
    for place in np.argsort(-np.abs(real), kind="stable"):
        column = columns[int(place)]
        if feature_words.is_plain(column):
            chosen.setdefault((str(column["module"]), str(column["object"]), str(column["stain"])), int(place))
    return list(chosen.values())[:count]


def _draw_scatter(axes: Axes, shifts: Shifts, columns: Sequence[Column], named: Sequence[int]) -> None:
    kinds = [feature_words.kind_of(column) for column in columns]
    colours = np.array([COLOURS.get(kind, plots.GREY) for kind in kinds])
    reach = 1.08 * float(np.abs(np.concatenate([shifts.real, shifts.generated, [0.1]])).max())
    order = np.random.default_rng(0).permutation(len(colours))  # no kind is always painted over the others
    axes.plot([-reach, reach], [-reach, reach], color="#444444", linewidth=0.9, linestyle="--")
    axes.axhline(0, color="#CCCCCC", linewidth=0.7, zorder=0)
    axes.axvline(0, color="#CCCCCC", linewidth=0.7, zorder=0)
    look: dict[str, Any] = {"s": 9, "linewidth": 0, "alpha": 0.75}
    axes.scatter(shifts.real[order], shifts.generated[order], c=colours[order], **look)
    for number, place in enumerate(named, start=1):
        at = shifts.real[place], shifts.generated[place]
        axes.scatter(*at, s=95, facecolor="white", edgecolor=colours[place], linewidth=1.2, zorder=4)
        axes.text(*at, str(number), fontsize=7.5, ha="center", va="center", zorder=5)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.set_xlabel("real targets − controls (sd)")
    axes.set_ylabel("generated − controls (sd)")
    axes.set_title(shifts.tag, loc="left", weight="bold", fontsize=9.5)


def _write_names(
    figure: Figure, corner_in: tuple[float, float], shifts: Shifts, columns: Sequence[Column], named: Sequence[int],
    scored: str,
) -> None:  # fmt: skip
    lines = [
        f"{len(shifts.real):,} features, {shifts.n_controls:,} controls and what was generated from them,"
        f" {shifts.n_targets:,} targets: r {shifts.pearson:.3f}, slope {shifts.slope:.3f}",
        *([f"in the score table: {scored}"] if scored else []),
        "",
    ]
    for number, place in enumerate(named, start=1):
        moves = f"{number}.  real {shifts.real[place]:+.2f}, generated {shifts.generated[place]:+.2f} sd:  "
        words = moves + feature_words.put_in_words(columns[place])
        lines += wrap(words, LINE_LETTERS, subsequent_indent="      ")
    width, height = figure.get_size_inches()
    figure.text(corner_in[0] / width, corner_in[1] / height, "\n".join(lines), fontsize=8.5, va="top", linespacing=1.45)


def _draw_legend(figure: Figure) -> None:
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0}
    handles = [Line2D([], [], color=colour, label=kind, **dot) for kind, colour in COLOURS.items()]
    handles.append(Line2D([], [], color="#444444", linestyle="--", linewidth=0.9, label="generated = real"))
    figure.legend(handles=handles, loc="upper left", ncols=len(handles), fontsize=8.5, handletextpad=0.3)
