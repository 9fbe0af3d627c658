"""Micrographs: rectangles of a slide, masks as lines over them, legends on a dark surround."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from skimage.measure import find_contours, regionprops

from spatia.report import plots
from spatia.report.plots import DPI
from spatia.report.stains import composite_stains, stain_colours

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in micrometres of the slide's frame


@dataclass(frozen=True)
class Field:
    """A rectangle of a slide at some resolution.

    Attributes
    ----------
    planes : (c, y, x), any integer type
    stains : names, one per plane
    box_um : x0, y0, x1, y1 of its outer edges in the slide's frame
    """

    planes: np.ndarray
    stains: tuple[str, ...]
    box_um: Box

    @property
    def um_per_px(self) -> float:
        """Width of a pixel of this field in micrometres."""
        return (self.box_um[2] - self.box_um[0]) / self.planes.shape[2]


@dataclass(frozen=True)
class Window:
    """A field at full resolution together with the masks in it.

    Attributes
    ----------
    cell_labels, nucleus_labels : (y, x) like the field's planes; nuclei may be None
    kept_labels : values of ``cell_labels`` that passed the filters, or None before QC
    """

    field: Field
    cell_labels: np.ndarray
    nucleus_labels: np.ndarray | None
    kept_labels: np.ndarray | None


def mask_contours(labels: np.ndarray) -> dict[int, list[np.ndarray]]:
    """Return per label the rings (n, 2) of x, y in pixels that run along its pixel edges.

    Pixel (row, column) covers [column, column + 1) x [row, row + 1).
    """
    rings: dict[int, list[np.ndarray]] = {}
    for region in regionprops(labels.astype(np.int64)):
        mask = np.pad(region.image, 1).astype(np.float32)
        top, left = region.bbox[:2]
        found = find_contours(mask, 0.5)
        # find_contours counts from pixel centres; the padding adds one pixel
        rings[region.label] = [ring[:, ::-1] + (left - 0.5, top - 0.5) for ring in found]
    return rings


def draw_masks(
    axes: Axes, window: Window, cell_colour: str = plots.KEPT_OUTLINE, nucleus_colour: str | None = plots.SKY
) -> None:
    """Draw the outlines of a window\'s cells, and of its nuclei unless their colour is None."""
    x0, y0 = window.field.box_um[:2]
    scale = window.field.um_per_px
    kept = None if window.kept_labels is None else set(window.kept_labels.tolist())
    layers = [(window.cell_labels, cell_colour, 0.9)]
    if window.nucleus_labels is not None and nucleus_colour is not None:
        layers.insert(0, (window.nucleus_labels, nucleus_colour, 0.6))
    for labels, colour, width in layers:
        is_cells = labels is window.cell_labels
        lines, colours = [], []
        for label, rings in mask_contours(labels).items():
            lines += [ring * scale + (x0, y0) for ring in rings]
            lost = is_cells and kept is not None and label not in kept
            colours += [plots.REMOVED_OUTLINE if lost else colour] * len(rings)
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=width), autolim=False)


def legend_handles(stains: Sequence[str], has_outlines: bool, has_nuclei: bool = False) -> list[Artist]:
    """Return the legend of a colour picture: its stains, then its lines."""
    colours = stain_colours(stains)
    handles: list[Artist] = [Patch(facecolor=colours[i][0], label=stains[i]) for i in composite_stains(stains)]
    if has_outlines:
        handles.append(Line2D([], [], color=plots.KEPT_OUTLINE, label="kept cell"))
        handles.append(Line2D([], [], color=plots.REMOVED_OUTLINE, label="removed cell"))
    if has_nuclei:
        handles.append(Line2D([], [], color=plots.SKY, label="nucleus"))
    return handles


def legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Return how many entries fit beside each other, reckoning every column as wide as the widest entry."""
    widest = max((len(label) for label in labels), default=0) * 0.085 + 0.55
    together = sum(len(label) * 0.085 + 0.55 for label in labels)
    return len(labels) if together <= width_in else max(int(width_in / widest), 1)


def band_in(n_entries: int, columns: int) -> float:
    """Return the height of the band that holds the legend."""
    return 0.14 + 0.21 * max(-(-n_entries // max(columns, 1)), 1)


def dark_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Make the figure's surround dark and put the legend into the band above the picture."""
    figure.set_facecolor(plots.DARK)
    if handles:
        figure.legend(
            handles=handles, loc="upper left", ncols=columns, fontsize=9, borderpad=0.3, labelcolor="white",
            columnspacing=1.2, labelspacing=0.3,
        )  # fmt: skip


def add_stain_legend(figure: Figure, stains: Sequence[str]) -> None:
    """Name the colours of the stains above the pictures of a figure on white."""
    handles = [Patch(facecolor=stain_colours(stains)[i][0], edgecolor=plots.GREY, linewidth=0.5, label=stains[i])
               for i in composite_stains(stains)]  # fmt: skip
    figure.legend(handles=handles, loc="upper left", ncols=len(handles), fontsize=8, borderpad=0.2,
                  columnspacing=1.2, handlelength=1.2)  # fmt: skip


def size_in(image: np.ndarray, band_in: float, longest_px: int) -> tuple[float, float]:
    """Return the size of a figure of one picture below a band, in inches."""
    height, width = image.shape[:2]
    scale = longest_px / max(height, width)
    # a very narrow slide still needs room for its legend
    return max(width * scale / DPI, 6.0), height * scale / DPI + band_in


def image_axes(figure: Figure, band_in: float) -> Axes:
    """Return axes that fill the figure below the band."""
    return figure.add_axes((0, 0, 1, 1 - band_in / figure.get_size_inches()[1]))
