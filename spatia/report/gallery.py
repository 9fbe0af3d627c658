"""Random cells at all three scales: what a model sees, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spatia.report import plots
from spatia.report.micrograph import mask_contours
from spatia.report.plots import Picture
from spatia.report.stains import to_colour

FULL_RANGE = (0.0, 255.0)  # crops and tiles are 8 bit already, scaled with the slide's own limits


@dataclass(frozen=True)
class GalleryCell:
    """One cell with its surroundings, all 8 bit, (c, y, x).

    Attributes
    ----------
    cell_id, note : printed above the column
    crop : the cell alone, 0 outside its mask
    mask : (y, x) bool of the crop's window
    context : the same window unmasked
    crop_at : (y0, x0) of the window in the slide, pixels
    niche, tissue : the tiles that hold the cell
    niche_at, tissue_at : (y0, x0) of the tiles in the slide, pixels
    tissue_px : side of the tissue tile in the slide; ``tissue`` itself may be a smaller picture of it
    he : (y, x, 3) crop of the H&E image, or None
    """

    cell_id: str
    note: str
    crop: np.ndarray
    mask: np.ndarray
    context: np.ndarray
    crop_at: tuple[int, int]
    niche: np.ndarray
    niche_at: tuple[int, int]
    tissue: np.ndarray
    tissue_at: tuple[int, int]
    tissue_px: int
    he: np.ndarray | None = None


def choose_cells(n_cells: int, count: int, generator: np.random.Generator) -> list[int]:
    """Return ``count`` different rows of a crop index, in ascending order; all if there are fewer."""
    return sorted(generator.choice(n_cells, size=min(count, n_cells), replace=False).tolist())


def draw_gallery(cells: list[GalleryCell], stains: tuple[str, ...], pixel_size_um: float) -> Picture:
    """Return one column per cell: crop, its context, H&E if there is any, niche tile, tissue tile."""
    has_he = cells[0].he is not None
    rows = 5 if has_he else 4
    side = 12.0 / 8
    with plots.new_figure(0.3 + side * len(cells), 0.42 + side * rows) as figure:
        grid = _bare_grid(figure, rows, len(cells), side, left_in=0.3)
        for column, cell in zip(grid.T, cells, strict=True):
            _draw_column(list(column), cell, stains, pixel_size_um)
        names = ["cell", "context", "H&E", "niche", "tissue"] if has_he else ["cell", "context", "niche", "tissue"]
        for axes, name in zip(grid[:, 0], names, strict=True):
            plots.add_scale_bar(axes, font_size=7)
            axes.text(-0.04, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=10)
        caption = (
            f"{len(cells)} random kept cells. Cell: the crop as stored, its own mask only. Context: the same window"
            " unmasked, outline drawn. Niche and tissue: the tiles that hold the cell, cell outlined, niche framed."
            " 8 bit with the crops' own scaling; black beyond the slide's edge."
        )
        return Picture("gallery", "Crops at three scales", caption, plots.to_png(figure), is_photo=True)


def _bare_grid(figure: Figure, rows: int, columns: int, side_in: float, left_in: float) -> np.ndarray:
    """Return square axes without ticks, row by row from the top; forty axes with ticks would take seconds."""
    width, height = figure.get_size_inches()
    grid = np.empty((rows, columns), object)
    for row, column in np.ndindex(rows, columns):
        corner = (left_in + column * side_in) / width, (rows - 1 - row) * side_in / height
        size = 0.98 * side_in / width, 0.98 * side_in / height
        grid[row, column] = figure.add_axes((*corner, *size), xticks=[], yticks=[])
    return grid


def _draw_column(column: list[Axes], cell: GalleryCell, stains: tuple[str, ...], step: float) -> None:
    column[0].set_title(f"{cell.cell_id}\n{cell.note}", fontsize=7)
    rings = [ring * step for ring in mask_contours(cell.mask)[1]] if cell.mask.any() else []
    scales = [FULL_RANGE] * len(stains)
    pictures = [to_colour(planes, stains, scales) for planes in (cell.crop, cell.context, cell.niche, cell.tissue)]
    window, niche = cell.crop.shape[1], cell.niche.shape[1]
    squares = [(*cell.crop_at, window)] * 2 + [(*cell.niche_at, niche), (*cell.tissue_at, cell.tissue_px)]
    if cell.he is not None:
        pictures.insert(2, cell.he)
        squares.insert(2, squares[0])
    for axes, picture, (y0, x0, side) in zip(column, pictures, squares, strict=True):
        plots.show_image(axes, picture, (x0 * step, y0 * step, (x0 + side) * step, (y0 + side) * step))
    y0, x0 = cell.crop_at
    placed = [ring + np.array([x0 * step, y0 * step]) for ring in rings]
    for axes in column[1:]:
        colour = "black" if cell.he is not None and axes is column[2] else "white"
        axes.add_collection(LineCollection(placed, colors=colour, linewidths=0.8), autolim=False)
    side = niche * step
    corner = (cell.niche_at[1] * step, cell.niche_at[0] * step)
    column[-1].add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=0.8, linestyle="--"))
