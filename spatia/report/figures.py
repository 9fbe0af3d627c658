"""Quality plots of one slide: histograms of cells, grey values, a map of counts, cells per niche."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from scipy.stats import binned_statistic_2d

from spatia import keys
from spatia.report import plots
from spatia.report.plots import Picture

BINS = 50


@dataclass(frozen=True)
class Measure:
    """A measure of cells as it is plotted.

    Attributes
    ----------
    is_whole : counts, whose bars must hold whole numbers
    is_rare : zero for nearly all cells, so that the number of cells is shown logarithmically
    limits : smallest and largest value that a filter lets pass, None where there is none
    """

    label: str
    column: pd.Series
    is_whole: bool = False
    is_rare: bool = False
    limits: tuple[float | None, float | None] = (None, None)


def cell_measures(cells: pd.DataFrame, filters: Mapping[str, float | None]) -> list[Measure]:
    """Return what is plotted of a QC table, in the page's order; measures the slide does not have are left out.

    Parameters
    ----------
    cells : one row per cell with columns of :mod:`spatia.keys`
    filters : the QC parameters ``min_counts``, ``min_genes``, ``max_control_rate``, ...
    """
    area = (filters.get("min_cell_area_um2"), filters.get("max_cell_area_um2"))
    found = [
        _measure(cells, keys.N_COUNTS, "transcripts per cell", True, (filters.get("min_counts"), None)),
        _measure(cells, keys.N_GENES, "genes per cell", True, (filters.get("min_genes"), None)),
        _measure(cells, keys.CELL_AREA_UM2, "cell area (µm²)", False, area),
    ]
    if keys.NUCLEUS_AREA_UM2 in cells and cells[keys.NUCLEUS_AREA_UM2].notna().any():
        fraction = cells[keys.NUCLEUS_AREA_UM2] / cells[keys.CELL_AREA_UM2]
        found.append(Measure("nucleus area / cell area", fraction))
    if keys.N_CONTROLS in cells and keys.N_COUNTS in cells:
        found.append(Measure("control rate", control_rate(cells), False, True, (None, filters.get("max_control_rate"))))
    return [measure for measure in found if measure is not None and measure.column.notna().any()]


def control_rate(cells: pd.DataFrame) -> pd.Series:
    """Return controls / (controls + transcripts) per cell, NaN for cells with neither."""
    total = cells[keys.N_CONTROLS] + cells[keys.N_COUNTS]
    return cells[keys.N_CONTROLS] / total.where(total > 0)


def draw_cell_histograms(cells: pd.DataFrame, filters: Mapping[str, float | None]) -> Picture:
    """Return histograms of every measure, kept and removed cells stacked, filters as lines."""
    measures = cell_measures(cells, filters)
    kept = cells[keys.KEEP].to_numpy(bool)
    columns = min(len(measures), 3)
    rows = -(-len(measures) // columns)
    with plots.new_figure(4.0 * columns, 2.7 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, measure in zip(grid, measures, strict=False):
            _draw_histogram(axes, measure, kept)
        for axes in grid[len(measures) :]:
            axes.set_axis_off()
        grid[0].legend(fontsize=8)
        plots.set_margins(figure, 0.65, 0.1, 0.35, 0.5, between=(0.65, 0.85))
        caption = f"{int(kept.sum()):,} kept and {int((~kept).sum()):,} removed cells, stacked; dashed: the filters."
        return Picture("cells", "Cells", caption, plots.to_png(figure))


def draw_grey_values(histograms: Mapping[str, np.ndarray], scaling: Mapping[str, tuple[float, float]]) -> Picture:
    """Return how often each grey value occurs, per stain, with the limits of the 8-bit scaling.

    Parameters
    ----------
    histograms : per stain the number of pixels of value 0, 1, 2, ...
    scaling : per stain the grey values that become 0 and 255 in the crops; may be empty
    """
    names = list(histograms)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    with plots.new_figure(3.0 * columns if columns > 1 else 4.5, 2.5 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(grid, names, strict=False):
            _draw_grey_histogram(axes, name, histograms[name], scaling.get(name))
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        plots.set_margins(figure, 0.6, 0.1, 0.45, 0.3, between=(0.55, 0.8))
        limits = "; dashed: the values that become 0 and 255 in the crops." if scaling else "."
        caption = "Grey values of every pixel of the slide, logarithmic" + limits
        return Picture("grey_values", "Stain intensity", caption, plots.to_png(figure))


def draw_count_map(cells: pd.DataFrame, size_um: tuple[float, float]) -> Picture:
    """Return the mean number of transcripts per cell over the slide."""
    width, height = size_um
    step = max(max(width, height) / 90, 15.0)
    edges = [np.arange(0, side + step, step) for side in (width, height)]
    cells = cells.dropna(subset=[keys.X_UM, keys.Y_UM])
    mean = binned_statistic_2d(
        cells[keys.X_UM], cells[keys.Y_UM], cells[keys.N_COUNTS], statistic="mean", bins=edges
    ).statistic.T
    scale = 4.6 / max(width, height)  # inches per micrometre
    size = max(width * scale, 1.2), max(height * scale, 1.2)
    with plots.new_figure(size[0] + 1.9, size[1] + 0.7) as figure:
        axes = plots.axes_in(figure, (0.75, 0.5), size)
        top = float(np.nanmax(mean)) if np.isfinite(mean).any() else 1.0
        drawn = axes.pcolormesh(edges[0], edges[1], mean, norm=LogNorm(1, max(top, 2.0), clip=True), cmap="viridis")
        axes.set_facecolor("#e4e4e4")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        bar = plots.axes_in(figure, (0.75 + size[0] + 0.15, 0.5), (0.15, size[1]))
        figure.colorbar(drawn, cax=bar, label="transcripts per cell", format="{x:g}")
        caption = f"Mean transcripts per cell in squares of {step:.0f} µm, all cells of the bundle; grey: no cell."
        return Picture("count_map", "Transcripts over the slide", caption, plots.to_png(figure))


def draw_cells_per_niche(cells_per_niche: np.ndarray, niche_um: float) -> Picture:
    """Return the histogram of cells per niche (paper, Fig. 3)."""
    values = np.asarray(cells_per_niche)
    top = int(values.max())
    step = max(1, round(top / 40))
    edges = np.arange(1, top + step + 1, step) - 0.5
    with plots.new_figure(6.4, 3.2) as figure:
        axes = figure.subplots()
        axes.hist(values, bins=edges, color=plots.GREEN)  # type: ignore[arg-type]
        axes.axvline(float(np.median(values)), color="black", linestyle="--", linewidth=1)
        axes.set_xlabel(f"cells per niche ({niche_um:.1f} µm squares)")
        axes.set_ylabel("niches")
        plots.set_margins(figure, 0.7, 0.1, 0.5, 0.1)
        caption = (
            f"{len(values):,} niches with cells, median {np.median(values):g} cells (dashed), mean {values.mean():.1f},"
            f" largest {top} (as Fig. 3 of the paper)."
        )
        return Picture("cells_per_niche", "Cells per niche", caption, plots.to_png(figure))


def _grey_edges(values: np.ndarray) -> np.ndarray:
    """Return about a hundred equal bins whose width is a multiple of the grey values' own step.

    Images that were once 8 bit have few of the 65,536 values; other bins would be full and empty by turns.
    """
    if values.size < 2:
        return np.array([-0.5, 0.5]) + (values[0] if values.size else 0)
    step = int(np.diff(values).min())
    width = step * max(1, round(values[-1] / step / 100))
    return np.arange(0, values[-1] + width + 1, width) - step / 2


def _measure(
    cells: pd.DataFrame, column: str, label: str, is_whole: bool, limits: tuple[float | None, float | None]
) -> Measure | None:
    return Measure(label, cells[column], is_whole, limits=limits) if column in cells else None


def _draw_histogram(axes: Axes, measure: Measure, kept: np.ndarray) -> None:
    values = measure.column.to_numpy(float)
    finite = np.isfinite(values)
    bins = histogram_bins(values[finite], measure.is_whole, measure.is_rare)
    groups = [values[finite & kept], values[finite & ~kept]]
    colours = [plots.KEPT_COLOUR, plots.REMOVED_COLOUR]
    axes.hist(groups, bins=bins, stacked=True, color=colours, label=["kept", "removed"])  # type: ignore[arg-type]
    for limit in measure.limits:
        if limit is not None and bins[0] <= limit <= bins[-1]:
            axes.axvline(limit - 0.5 if measure.is_whole else limit, color="black", linestyle="--", linewidth=1)
    if measure.is_rare:
        axes.set_yscale("log")
    median = np.median(values[finite & kept]) if (finite & kept).any() else np.nan
    beyond = int((values[finite] > bins[-1]).sum())
    note = f", {beyond} beyond the axis" if beyond else ""
    axes.set_title(f"{measure.label}\nmedian of kept {median:.3g}{note}", fontsize=9)
    axes.set_ylabel("cells")


def histogram_bins(values: np.ndarray, is_whole: bool, is_rare: bool) -> np.ndarray:
    """Return the bars' edges for ``values``, finite numbers; what the flags mean stands in :class:`Measure`."""
    if values.size == 0:
        return np.linspace(0, 1, 3)
    # the last half percent of a long tail squeezes everything else into a corner; of rare values it is all there is
    top = float(values.max() if is_rare else max(np.percentile(values, 99.5), values.min()))
    if is_whole:
        # edges lie between whole numbers and all bars hold equally many, or they would be high and low by turns
        width = max(1, round(top / BINS))
        return np.arange(0, top + width + 1, width) - 0.5
    return np.linspace(min(values.min(), 0.0), top * 1.02 or 1.0, BINS)


def _draw_grey_histogram(axes: Axes, name: str, counts: np.ndarray, limits: tuple[float, float] | None) -> None:
    values = np.flatnonzero(counts)
    counts = counts[values]
    edges = _grey_edges(values)
    per_bin, _ = np.histogram(values, bins=edges, weights=counts)
    axes.stairs(per_bin, edges, fill=True, color=plots.GREY)
    axes.set_yscale("log")
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("grey value")
    axes.set_ylabel("pixels")
    for limit in limits or ():
        axes.axvline(limit, color="black", linestyle="--", linewidth=1)
