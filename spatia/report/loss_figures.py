"""How training went: every loss over the steps, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spatia.report import plots
from spatia.report.plots import Picture

LOSSES = {
    "total": "total",
    "image_cell": "image, cell",
    "gene_tokens": "genes from gene tokens, cell",
    "gene_cell": "genes from the cell's embedding",
    "image_niche": "image, niche",
    "gene_niche": "genes, niche",
    "image_tissue": "image, tissue",
    "gene_tissue": "genes, tissue",
    "gene_fused": "genes from the fused embedding",
}
PHASES = {"cell": ("cells alone", plots.BLUE), "tile": ("tiles alone", plots.ORANGE), "joint": ("joint", plots.GREEN)}
FLOW_LOSSES = {
    "total": "total",
    "flow": "velocity, squared error",
    "contrast": "contrast between transitions",
    "alignment": "intensity profiles",
    "reconstruction": "image, VAE",
    "kl": "Kullback-Leibler, VAE",
}
FLOW_PHASES = {"vae": ("VAE", plots.ORANGE), "flow": ("flow", plots.BLUE)}
LINES = {"train": "-", "val": "--"}
COLUMNS = 3


@dataclass(frozen=True)
class Curves:
    """What a history is drawn as.

    Attributes
    ----------
    losses : column -> title, in the page's order
    phases : value of ``phase`` -> its name and colour
    name, title, caption : of the picture
    """

    losses: Mapping[str, str]
    phases: Mapping[str, tuple[str, str]]
    name: str
    title: str
    caption: str


MODEL_CURVES = Curves(
    LOSSES, PHASES, "losses", "Losses",
    "Mean loss of every epoch over the steps of training: solid on the training slides, dashed on the validation"
    " slides. Each phase minimises its own sum, so totals of different phases do not compare.",
)  # fmt: skip
FLOW_CURVES = Curves(
    FLOW_LOSSES, FLOW_PHASES, "generator_losses", "Losses of the generator",
    "Mean losses over the steps of training: solid on the training slides, dashed on the validation slides. Contrast:"
    " what telling transitions apart adds to the total, negative where they are apart. A low loss is no proof of good"
    " images; see the scores.",
)  # fmt: skip


def draw_losses(history: pd.DataFrame, curves: Curves = MODEL_CURVES) -> Picture:
    """Return a panel per loss, with one line per phase and split.

    Parameters
    ----------
    history : ``phase``, ``step``, ``split`` and one column per loss, empty where a phase has no such loss
    """
    losses = [name for name in curves.losses if name in history and history[name].notna().any()]
    rows = -(-len(losses) // COLUMNS)
    with plots.new_figure(12.0, 2.5 * rows + 0.4) as figure:
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes, name in zip(grid, losses, strict=False):
            _draw_loss(axes, history, name, curves)
        for axes in grid[len(losses) :]:
            axes.set_axis_off()
        plots.set_margins(figure, 0.65, 0.15, 0.5, 0.7, between=(0.65, 0.85))
        handles = _legend(history, curves)
        figure.legend(handles=handles, loc="upper left", ncols=len(handles), fontsize=9)
        return Picture(curves.name, curves.title, curves.caption, plots.to_png(figure))


def _draw_loss(axes: Axes, history: pd.DataFrame, name: str, curves: Curves) -> None:
    known = history.dropna(subset=[name])
    for phase, (_, colour) in curves.phases.items():
        for split, line in LINES.items():
            part = known[(known["phase"] == phase) & (known["split"] == split)]
            axes.plot(part["step"], part[name], line, color=colour, linewidth=1.4, marker="o", markersize=2.6)
    axes.set_title(curves.losses[name], fontsize=9.5)
    axes.set_xlim(0, history["step"].max() * 1.03)
    axes.set_xlabel("step")
    axes.ticklabel_format(axis="y", useOffset=False)


def _legend(history: pd.DataFrame, curves: Curves) -> list[Line2D]:
    phases = [curves.phases[phase] for phase in history["phase"].unique() if phase in curves.phases]
    handles = [Line2D([], [], color=colour, linewidth=3, label=f"phase: {text}") for text, colour in phases]
    handles.append(Line2D([], [], color="black", linestyle="solid", label="training slides"))
    if (history["split"] == "val").any():
        handles.append(Line2D([], [], color="black", linestyle="dashed", label="validation slides"))
    return handles
