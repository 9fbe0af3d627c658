"""Cells with most of their patches hidden, and what the model put there."""

from __future__ import annotations

import itertools

import numpy as np

from spatia.cells.scaling import HE_STAINS
from spatia.report import plots
from spatia.report.embeddings import Reconstructions
from spatia.report.micrograph import add_stain_legend
from spatia.report.plots import Picture
from spatia.report.stains import to_colour

FULL_RANGE = (0.0, 255.0)
SIDE_IN = 1.45
LABEL_IN = 0.3
HIDDEN_GREY = 74  # black means "outside the cell"
MARGIN_PX = 3
BAND_IN = 0.48  # above the pictures, for the stains and the cells' names
MIN_WIDTH_IN = 5.0  # of the stains' names
STEPS = ("original", "seen by the model", "reconstructed")


def hidden_pixels(original: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return (k, y, x) bool: pixels of the cell of which the model saw no stain.

    Parameters
    ----------
    original, masked : (k, c, y, x) uint8
    """
    return np.asarray(original.any(axis=1) & ~masked.any(axis=1))


def common_window(original: np.ndarray) -> slice:
    """Return the rows, and columns, of the smallest square about the windows' middle that holds every cell.

    All cells are shown at one scale, but without the black around the largest of them.
    """
    side = original.shape[-1]
    filled = np.asarray(original.any(axis=(0, 1)))
    reach = np.flatnonzero(filled.any(axis=0) | filled.any(axis=1))
    if reach.size == 0:
        return slice(0, side)
    margin = max(min(int(reach[0]), side - 1 - int(reach[-1])) - MARGIN_PX, 0)
    return slice(margin, side - margin)


def draw_reconstructions(cells: Reconstructions, pixel_size_um: float) -> Picture:
    """Return one column per cell: as it is, what the model saw of it, and with the hidden patches filled in."""
    hidden = hidden_pixels(cells.original, cells.masked)
    window = common_window(cells.original)
    side_um = (window.stop - window.start) * pixel_size_um
    groups = _stain_groups(cells)
    rows = [(planes, step) for planes in groups for step in range(len(STEPS))]
    n_cells = len(cells.cell_ids)
    width, height = max(LABEL_IN + SIDE_IN * n_cells, MIN_WIDTH_IN), SIDE_IN * len(rows) + BAND_IN
    with plots.new_figure(width, height) as figure:
        add_stain_legend(figure, [cells.stains[i] for i in groups[0]])
        for column, (row, (planes, step)) in itertools.product(range(n_cells), enumerate(rows)):
            values = (cells.original, cells.masked, cells.reconstructed)[step][column, planes]
            image = _colour(values, [cells.stains[i] for i in planes])
            if step == 1:
                image[hidden[column]] = HIDDEN_GREY
            corner = LABEL_IN + column * SIDE_IN, SIDE_IN * (len(rows) - 1 - row)
            axes = plots.axes_in(figure, corner, (0.98 * SIDE_IN, 0.98 * SIDE_IN))
            plots.show_image(axes, image[window, window], (0, 0, side_um, side_um))
            if row == 0:
                axes.set_title(cells.cell_ids[column], fontsize=7, pad=3)
            if column == 0:
                plots.add_scale_bar(axes, font_size=6)
                name = STEPS[step] if planes is groups[0] else f"H&E, {STEPS[step]}"
                axes.text(-0.04, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=8)
        share = hidden.sum() / max(cells.original.any(axis=1).sum(), 1)
        caption = (
            f"{n_cells} cells: as they are; what the model was shown, hidden patches grey ({100 * share:.0f} % of the"
            " cells' area); hidden patches filled in by the model, the others as they are. Embeddings are made from"
            " whole cells."
        )
        return Picture("reconstructions", "Reconstructed cells", caption, plots.to_png(figure), is_photo=True)


def _stain_groups(cells: Reconstructions) -> list[list[int]]:
    """Return the planes of the fluorescent stains, then those of H&E; without stains that the slide lacks."""
    known = [i for i in range(len(cells.stains)) if cells.original[:, i].any()]
    he = [i for i in known if cells.stains[i] in HE_STAINS]
    groups = [[i for i in known if i not in he], he if len(he) == len(HE_STAINS) else []]
    return [planes for planes in groups if planes] or [[0]]


def _colour(planes: np.ndarray, stains: list[str]) -> np.ndarray:
    if stains == list(HE_STAINS):
        return np.moveaxis(planes, 0, -1).copy()
    return to_colour(planes, stains, [FULL_RANGE] * len(stains))
