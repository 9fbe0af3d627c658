"""Control cells, what was generated from them, and the real cells they were matched with; and the way between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spatia.cells.scaling import HE_STAINS
from spatia.report import plots
from spatia.report.micrograph import add_stain_legend
from spatia.report.neighbour_gallery import distance_text
from spatia.report.plots import Picture
from spatia.report.reconstructions import FULL_RANGE, common_window
from spatia.report.stains import to_colour

SIDE_IN = 1.13
LABEL_IN = 0.62
TITLE_IN = 0.42
TEXT_IN = 0.3  # below the targets, for how well they match
BAND_IN = 0.3
ROWS = ("control\n(real cell)", "generated\nfrom it", "matched target\n(another real cell)")


@dataclass(frozen=True)
class GeneratedCells:
    """Some controls of one transition with what came of them, images (k, c, p, p) uint8.

    Attributes
    ----------
    cell_ids : (k,) of the controls
    control, generated : real and generated images
    target : of the matched real cells; None where no control has one
    distance_um, confidence : (k,) of the pairs, NaN without one
    """

    tag: str
    cell_ids: Sequence[str]
    control: np.ndarray
    generated: np.ndarray
    target: np.ndarray | None
    distance_um: np.ndarray
    confidence: np.ndarray

    @property
    def rows(self) -> list[np.ndarray]:
        """The images row by row of the gallery."""
        return [self.control, self.generated, *([] if self.target is None else [self.target])]


@dataclass(frozen=True)
class Way:
    """Images (k, s, c, p, p) uint8 along the way of k controls of one transition, at s times."""

    tag: str
    cell_ids: Sequence[str]
    times: np.ndarray
    images: np.ndarray


def draw_generated(transitions: Sequence[GeneratedCells], stains: Sequence[str], pixel_size_um: float) -> Picture:
    """Return per transition a column per control: the control, the image made from it, its matched target."""
    planes, names = shown_stains(stains)
    columns = max(len(cells.cell_ids) for cells in transitions)
    window = common_window(np.concatenate([images for cells in transitions for images in cells.rows]))
    heights = [TITLE_IN + SIDE_IN * len(cells.rows) + (TEXT_IN if cells.target is not None else 0.05)
               for cells in transitions]  # fmt: skip
    with plots.new_figure(max(LABEL_IN + columns * SIDE_IN, 7.0), sum(heights) + BAND_IN) as figure:
        add_stain_legend(figure, names)
        top = figure.get_size_inches()[1] - BAND_IN
        for cells, height in zip(transitions, heights, strict=True):
            _draw_transition(figure, top, cells, planes, names, window, pixel_size_um)
            top -= height
        has_pairs = any(cells.target is not None for cells in transitions)
        caption = (
            "Random control cells (top), the images that the generator made from them without seeing any target"
            " (generated), and "
            + (
                "the cell each control was matched with by transport (bottom), its distance on the slide and the"
                " pair's confidence. The matched target is another real cell of the target state, not what this control"
                " became: there is no ground truth for a single cell. Ask whether the generated cells could stand among"
                " the targets, not whether each equals the one below it."
                " Where that row is absent, the slide has no pairs of the transition."
                if has_pairs
                else "no targets: this slide has no pairs."
            )
            + f" All at the generator's resolution ({pixel_size_um:.2f} µm per pixel), with the crops' own grey scale,"
            " black outside the cell; all at one magnification."
        )
        return Picture("generated", "Generated cells", caption, plots.to_png(figure), is_photo=True)


def _draw_transition(
    figure: Figure, top_in: float, cells: GeneratedCells, planes: Sequence[int], stains: Sequence[str],
    window: slice, step: float,
) -> None:  # fmt: skip
    _write_title(figure, top_in, cells.tag)
    for line, (images, name) in enumerate(zip(cells.rows, ROWS, strict=False)):
        bottom = top_in - TITLE_IN - (line + 1) * SIDE_IN
        for column, image in enumerate(images):
            axes = _cell_axes(figure, (LABEL_IN + column * SIDE_IN, bottom), image[planes], stains, window, step)
            if column == 0:
                _name_row(axes, name)
                plots.add_scale_bar(axes, font_size=6)
            if line == 2:
                text = f"{distance_text(cells.distance_um[column])} away\nconf. {cells.confidence[column]:.2f}"
                axes.text(0.5, -0.03, text, transform=axes.transAxes, fontsize=6.5, ha="center", va="top")


def draw_ways(ways: Sequence[Way], stains: Sequence[str], pixel_size_um: float) -> Picture:
    """Return per transition a row per control: its image at every time of the way."""
    planes, names = shown_stains(stains)
    n_times = max(len(way.times) for way in ways)
    beside = min(2, len(ways))
    window = common_window(np.concatenate([way.images.reshape(-1, *way.images.shape[2:]) for way in ways]))
    block = LABEL_IN + n_times * SIDE_IN + 0.15
    lines = [ways[i : i + beside] for i in range(0, len(ways), beside)]
    heights = [TITLE_IN + 0.2 + SIDE_IN * max(len(way.cell_ids) for way in line) for line in lines]
    with plots.new_figure(max(beside * block, 7.0), sum(heights) + BAND_IN) as figure:
        add_stain_legend(figure, names)
        top = figure.get_size_inches()[1] - BAND_IN
        for line, height in zip(lines, heights, strict=True):
            for place, way in enumerate(line):
                _draw_way(figure, (place * block, top), way, planes, names, window, pixel_size_um)
            top -= height
        caption = (
            "How the generator turns a control (t = 0, the real cell) into the generated image (t = 1). t is the flow's"
            " own time, not hours or days, and images between are steps of the computation, not stages that a cell"
            " passes through."
        )
        return Picture(
            "trajectories", "The way from control to generated", caption, plots.to_png(figure), is_photo=True
        )


def _draw_way(
    figure: Figure, corner_in: tuple[float, float], way: Way, planes: Sequence[int], stains: Sequence[str],
    window: slice, step: float,
) -> None:  # fmt: skip
    left, top = corner_in
    _write_title(figure, top, way.tag, left)
    for line, column in np.ndindex(way.images.shape[:2]):
        corner = left + LABEL_IN + column * SIDE_IN, top - TITLE_IN - 0.2 - (line + 1) * SIDE_IN
        axes = _cell_axes(figure, corner, way.images[line, column][planes], stains, window, step)
        if line == 0:
            axes.set_title(f"t = {way.times[column]:.3g}", fontsize=8, pad=2)
        if column == 0:
            _name_row(axes, way.cell_ids[line], size=6)
            plots.add_scale_bar(axes, font_size=6)


def shown_stains(stains: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the planes and names of the stains that the colour pictures mix: all but H&E."""
    planes = [place for place, stain in enumerate(stains) if stain not in HE_STAINS]
    return planes, [stains[place] for place in planes]


def _cell_axes(
    figure: Figure, corner_in: tuple[float, float], image: np.ndarray, stains: Sequence[str], window: slice, step: float
) -> Axes:
    axes = plots.axes_in(figure, corner_in, (0.97 * SIDE_IN, 0.97 * SIDE_IN))
    side_um = (window.stop - window.start) * step
    colour = to_colour(image[:, window, window], stains, [FULL_RANGE] * len(stains))
    plots.show_image(axes, colour, (0, 0, side_um, side_um))
    return axes


def _write_title(figure: Figure, top_in: float, text: str, left_in: float = 0.0) -> None:
    width, height = figure.get_size_inches()
    figure.text((left_in + 0.06) / width, (top_in - 0.3) / height, text, fontsize=9.5, weight="bold", va="center")


def _name_row(axes: Axes, name: str, size: float = 7.5) -> None:
    axes.text(-0.05, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=size)
