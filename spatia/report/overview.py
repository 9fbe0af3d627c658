"""Pictures of a whole slide and of windows at full resolution, with the cells' outlines over the stains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from spatia import keys
from spatia.report import plots
from spatia.report.micrograph import (
    Box,
    Field,
    Window,
    band_in,
    dark_legend,
    draw_masks,
    image_axes,
    legend_columns,
    legend_handles,
    size_in,
)
from spatia.report.plots import Picture
from spatia.report.stains import Limits, composite_stains, contrast_limits, to_colour, to_grey

OVERVIEW_PX = 1250  # the longer side of an overview
REMOVED_PX = 940
OUTLINE_MIN_PX = 5.0  # cells narrower than this in the overview are a smear of outlines: leave them out
WINDOW_NAMES = "ABCDEFGH"


def draw_overview(
    field: Field, outlines: Sequence[np.ndarray], is_kept: np.ndarray | None, windows: Sequence[Box], n_cells: int
) -> Picture:
    """Return the colour picture of a slide, outlines and window frames over it.

    Parameters
    ----------
    outlines : rings (n, 2) of x, y in micrometres; none where they would not be legible
    is_kept : bool per outline, or None before QC
    windows : boxes drawn as frames A, B, ...
    n_cells : of the slide, for the caption
    """
    limits = contrast_limits(field.planes)
    colour = to_colour(field.planes, field.stains, limits)
    handles = legend_handles(field.stains, is_kept is not None and len(outlines) > 0)
    columns = legend_columns([str(handle.get_label()) for handle in handles], size_in(colour, 0, OVERVIEW_PX)[0])
    band = band_in(len(handles), columns)
    with plots.new_figure(*size_in(colour, band, OVERVIEW_PX)) as figure:
        axes = image_axes(figure, band)
        plots.show_image(axes, colour, field.box_um)
        _draw_outlines(axes, outlines, is_kept, width=0.4)
        for name, box in zip(WINDOW_NAMES, windows, strict=False):
            _draw_frame(axes, box, name)
        plots.add_scale_bar(axes)
        dark_legend(figure, handles, columns)
        caption = _overview_caption(field, n_cells, len(outlines) > 0, limits)
        return Picture("overview", "Overview", caption, plots.to_png(figure), is_photo=True)


def are_outlines_legible(field: Field, diameter_um: float) -> bool:
    """Return whether cells of this diameter are wide enough in ``field`` to be told from their outlines."""
    return bool(diameter_um / field.um_per_px >= OUTLINE_MIN_PX)


def draw_windows(windows: Sequence[Window]) -> Picture:
    """Return windows at full resolution: stains alone, stains with outlines, the first stain with outlines."""
    count = len(windows)
    has_nuclei = any(window.nucleus_labels is not None for window in windows)
    handles = legend_handles(windows[0].field.stains, windows[0].kept_labels is not None, has_nuclei)
    columns = legend_columns([str(handle.get_label()) for handle in handles], 12.0)
    band = band_in(len(handles), columns)
    with plots.new_figure(12.0, count * 4.0 + band) as figure:
        grid = figure.subplots(count, 3, squeeze=False)
        top = 1 - band / (count * 4.0 + band)
        figure.subplots_adjust(left=0.0, right=1.0, bottom=0.0, top=top, wspace=0.01, hspace=0.01)
        for name, row, window in zip(WINDOW_NAMES, grid, windows, strict=False):
            _draw_window_row(row, window, name)
        dark_legend(figure, handles, columns)
        caption = (
            "Full-resolution windows (frames in the overview): the stains, the same with the cell masks that the crops"
            f" are cut with, and {windows[0].field.stains[0]} alone. Masks are drawn along their pixel edges."
        )
        return Picture("windows", "Outlines at full resolution", caption, plots.to_png(figure), is_photo=True)


def draw_stains(field: Field) -> Picture:
    """Return one greyscale panel per stain."""
    count = len(field.stains)
    columns = min(count, 4)
    rows = -(-count // columns)
    aspect = field.planes.shape[1] / field.planes.shape[2]
    width = 12.0 if columns > 1 else 6.0
    height = width / columns * aspect * rows + 0.3 * rows
    limits = contrast_limits(field.planes)
    with plots.new_figure(width, height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0, right=1, bottom=0, top=1 - 0.28 / height, wspace=0.02, hspace=0.3 / (height / rows)
        )
        for axes in grid:
            axes.set_axis_off()
        for axes, plane, stain, (low, high) in zip(grid, field.planes, field.stains, limits, strict=False):
            plots.show_image(axes, to_grey(plane, (low, high)), field.box_um)
            axes.set_title(f"{stain}  ({low:.0f}–{high:.0f})", fontsize=9)
            plots.add_scale_bar(axes, font_size=7)
        caption = (
            "Every stain alone; in brackets the grey values shown as black and white (1 % and 99.7 % of the pixels)."
        )
        return Picture("stains", "Stains", caption, plots.to_png(figure), is_photo=True)


def draw_he(colour: np.ndarray, box_um: Box, window: np.ndarray | None, window_masks: Window | None) -> Picture:
    """Return the H&E overview and, if given, an H&E window with the cell masks over it.

    Parameters
    ----------
    colour : (y, x, 3) uint8, already in the morphology frame
    window : (y, x, 3) uint8 at full resolution, the place of ``window_masks``
    """
    with plots.new_figure(12.0, 6.2) as figure:
        overview, detail = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.94, wspace=0.02)
        plots.show_image(overview, colour, box_um)
        overview.set_title("H&E")
        plots.add_scale_bar(overview)
        if window is None or window_masks is None:
            plots.say(detail, "no cell masks to draw over it")
        else:
            plots.show_image(detail, window, window_masks.field.box_um)
            draw_masks(detail, window_masks, cell_colour="#000000", nucleus_colour=None)
            detail.set_title("window A with the cell masks")
            plots.add_scale_bar(detail)
        caption = "H&E after alignment to the morphology image: nuclei must lie inside the outlines."
        return Picture("he", "H&E", caption, plots.to_png(figure), is_photo=True)


def draw_removed(field: Field, cells: pd.DataFrame) -> Picture:
    """Return the first stain in grey with every removed cell marked by its reason."""
    grey = to_grey(field.planes[0], contrast_limits(field.planes[:1])[0]) // 2
    removed = cells.loc[~cells[keys.KEEP].astype(bool)]
    counts = removed[keys.REASON].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    texts = [f"{str(reason).replace('_', ' ')} ({count:,})" for reason, count in counts.items()]
    columns = legend_columns(texts, size_in(grey, 0, REMOVED_PX)[0])
    band = band_in(len(texts), columns)
    with plots.new_figure(*size_in(grey, band, REMOVED_PX)) as figure:
        axes = image_axes(figure, band)
        plots.show_image(axes, grey, field.box_um)
        size = float(np.clip(20000 / max(len(removed), 1), 4, 22))
        drawn = []
        for reason, text, marker, colour in zip(
            counts.index, texts, cycle(plots.REASON_MARKERS), cycle(plots.REASON_COLOURS), strict=False
        ):
            here = removed.loc[removed[keys.REASON] == reason]
            look: dict[str, Any] = {"s": size, "marker": marker, "color": colour, "linewidth": 0, "label": text}
            drawn.append(axes.scatter(here[keys.X_UM], here[keys.Y_UM], **look))
        plots.add_scale_bar(axes)
        dark_legend(figure, drawn, columns)
        caption = (
            f"{len(removed):,} of {len(cells):,} cells were removed, marked by the first filter that removed them."
        )
        return Picture("removed", "Removed cells", caption, plots.to_png(figure), is_photo=True)


def choose_windows(x_um: np.ndarray, y_um: np.ndarray, size_um: tuple[float, float], side_um: float) -> list[Box]:
    """Return the boxes of two windows, at the fullest place and at one of middling density.

    Places are squares of a grid, windows are centred on the cells of theirs and lie inside the slide; the same slide
    always shows the same windows.
    """
    width, height = size_um
    side = min(side_um, width, height)
    inside = (x_um >= 0) & (x_um < width) & (y_um >= 0) & (y_um < height)  # False where a position is not known
    x, y = x_um[inside], y_um[inside]
    square = (y // side).astype(int) * (int(width // side) + 1) + (x // side).astype(int)
    filled, counts = np.unique(square, return_counts=True)
    if filled.size == 0:
        return [(0.0, 0.0, side, side)]
    order = filled[np.argsort(-counts, kind="stable")]
    boxes = []
    for place in dict.fromkeys([order[0], order[len(order) // 2]]):
        left = min(max(float(np.median(x[square == place])) - side / 2, 0.0), width - side)
        top = min(max(float(np.median(y[square == place])) - side / 2, 0.0), height - side)
        boxes.append((left, top, left + side, top + side))
    return boxes


def _draw_window_row(row: Sequence[Axes], window: Window, name: str) -> None:
    field = window.field
    limits = contrast_limits(field.planes, 0.5, 99.8)
    colour = to_colour(field.planes, field.stains, limits)
    first = to_grey(field.planes[0], limits[0])
    for axes, image in zip(row, (colour, colour, first), strict=True):
        plots.show_image(axes, image, field.box_um)
    draw_masks(row[1], window)
    draw_masks(row[2], window)
    plots.add_scale_bar(row[0])
    row[0].text(
        0.02, 0.98, name, transform=row[0].transAxes, color="white", fontsize=14, weight="bold", va="top",
        bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 3},
    )  # fmt: skip


def _draw_outlines(axes: Axes, outlines: Sequence[np.ndarray], is_kept: np.ndarray | None, width: float) -> None:
    kept = np.ones(len(outlines), bool) if is_kept is None else is_kept
    colours = np.where(kept, plots.KEPT_OUTLINE, plots.REMOVED_OUTLINE)
    widths = np.where(kept, width, 2 * width)
    axes.add_collection(LineCollection(outlines, colors=colours, linewidths=widths, alpha=0.65), autolim=False)


def _draw_frame(axes: Axes, box: Box, name: str) -> None:
    x0, y0, x1, y1 = box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="black", linewidth=3))
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=1.4))
    axes.text(x0, y0, name, color="black", fontsize=11, weight="bold", ha="left", va="bottom",
              bbox={"facecolor": "white", "linewidth": 0, "pad": 1.5})  # fmt: skip


def _overview_caption(field: Field, n_cells: int, has_outlines: bool, limits: Limits) -> str:
    hidden = len(field.stains) - len(composite_stains(field.stains))
    scale = f"one picture point = {field.um_per_px:.2f} µm."
    parts = [f"Outlines of {n_cells:,} cells over the stains, {scale}"]
    if not has_outlines:
        parts = [f"The stains, {scale} Outlines of {n_cells:,} cells would cover them at this scale: see the windows."]
    if hidden:
        parts.append(f"{hidden} more stains are shown below only.")
    shown = "; ".join(
        f"{field.stains[i]} {limits[i][0]:.0f}–{limits[i][1]:.0f}" for i in composite_stains(field.stains)
    )
    parts.append(f"Contrast (grey values, 1 % to 99.7 %): {shown}.")
    return " ".join(parts)
