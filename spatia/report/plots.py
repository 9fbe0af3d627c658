"""Drawing basics shared by every figure: style, colours, scale bars, PNG bytes.

Figures are made from :class:`matplotlib.figure.Figure` alone, never through pyplot, so that nothing is kept
alive between slides and two figures cannot draw into each other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

DPI = 110

# Okabe and Ito's palette: told apart with every kind of colour blindness
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#777777"
KEPT_COLOUR, REMOVED_COLOUR = BLUE, VERMILLION
# on micrographs, whose surround is dark so that the eye adapts to them
DARK, KEPT_OUTLINE, REMOVED_OUTLINE = "#14171c", "white", "#FF5A1F"
REASON_COLOURS = (VERMILLION, SKY, ORANGE, PURPLE, GREEN, "#F0E442", BLUE)
REASON_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "image.interpolation": "antialiased",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Picture:
    """One figure of a slide, drawn.

    Attributes
    ----------
    name : file name without ending
    title, caption : what the page prints beside it
    png : the file's bytes
    is_photo : True for micrographs, which the page may store as JPEG
    """

    name: str
    title: str
    caption: str
    png: bytes
    is_photo: bool = False


@contextmanager
def new_figure(width_in: float, height_in: float) -> Iterator[Figure]:
    """Yield an empty figure of the given size in inches, in the report's style."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure


def to_png(figure: Figure) -> bytes:
    """Return ``figure`` as PNG; the same drawing gives the same bytes (no date, no version inside)."""
    with mpl.rc_context(STYLE), io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()


def set_margins(
    figure: Figure, left: float, right: float, bottom: float, top: float, between: tuple[float, float] = (0, 0)
) -> None:
    """Place the subplots by margins and gaps (between columns, between rows) in inches.

    ``tight_layout`` would draw every figure twice to find the same numbers.
    """
    width, height = figure.get_size_inches()
    grid = figure.axes[0].get_subplotspec()
    columns, rows = (grid.get_gridspec().ncols, grid.get_gridspec().nrows) if grid is not None else (1, 1)
    gap_x, gap_y = between
    axes_width = (width - left - right - gap_x * (columns - 1)) / columns
    axes_height = (height - bottom - top - gap_y * (rows - 1)) / rows
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height,
        wspace=gap_x / axes_width, hspace=gap_y / axes_height,
    )  # fmt: skip


def axes_in(figure: Figure, corner_in: tuple[float, float], size_in: tuple[float, float]) -> Axes:
    """Add axes whose lower left corner and size are given in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((corner_in[0] / width, corner_in[1] / height, size_in[0] / width, size_in[1] / height))


def round_length_um(width_um: float) -> float:
    """Return the largest 1, 2 or 5 x 10^n micrometres that is at most a quarter of ``width_um``."""
    limit = width_um / 4
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def length_text(length_um: float) -> str:
    """Return a length as people say it: 200 µm, 2 mm."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def add_scale_bar(axes: Axes, font_size: float = 9) -> float:
    """Draw a scale bar into the lower right corner of an image whose data units are micrometres; return its length."""
    right, bottom = max(axes.get_xlim()), max(axes.get_ylim())  # images run downwards
    width = right - min(axes.get_xlim())
    length = round_length_um(width)
    drawn = axes.get_window_extent()
    point = width / min(drawn.width, drawn.height * width / (bottom - min(axes.get_ylim()))) * axes.figure.dpi / 72
    margin, thick, text_room = 5 * point, 0.35 * font_size * point, 1.5 * font_size * point
    x, y = right - margin - length, bottom - margin - thick
    corner = x - margin / 2, y - text_room
    backing = Rectangle(
        corner, length + margin, thick + text_room + margin / 2, facecolor="black", alpha=0.55, zorder=8
    )
    backing.set_linewidth(0)
    axes.add_patch(backing)
    axes.add_patch(Rectangle((x, y), length, thick, facecolor="white", linewidth=0, zorder=9))
    text: dict[str, Any] = {"color": "white", "fontsize": font_size, "ha": "center", "va": "bottom", "zorder": 9}
    axes.text(x + length / 2, y - 0.15 * font_size * point, length_text(length), **text)
    return length


def show_image(axes: Axes, image: np.ndarray, box_um: tuple[float, float, float, float]) -> None:
    """Show ``image`` (y, x[, 3]) so that data units are micrometres of the slide's frame, y downwards.

    Parameters
    ----------
    box_um : x0, y0, x1, y1 of the image's outer edges
    """
    x0, y0, x1, y1 = box_um
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}
    axes.imshow(image, extent=(x0, x1, y1, y0), origin="upper", aspect="equal", **grey)  # type: ignore[arg-type]
    axes.set_xlim(x0, x1)
    axes.set_ylim(y1, y0)
    axes.set_axis_off()


def say(axes: Axes, text: str) -> None:
    """Write ``text`` into the middle of empty axes: what is missing, and why."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, wrap=True)
