"""Colours of clusters and labels: one for each of 24, the same in every picture of a slide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatia.report.plots import GREY

# Okabe and Ito's colours, then greedily the colour that is farthest (CIEDE2000) from all before it and from white and
# grey, distances being the smallest of normal vision, protanopia and deuteranopia (Machado et al. 2009). No 24 colours
# are apart for every eye, so clusters are numbered in the pictures and shown one by one as well.
GROUP_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#69001E", "#1E00A5",
    "#005A4B", "#A5E196", "#784B00", "#874B78", "#8778FF", "#D25A5A", "#3CE1F0", "#3C2D5A",
    "#4BD2B4", "#691EFF", "#E19696", "#B40F4B", "#2D4B96", "#B4A569", "#1E9696", "#A55A3C",
)  # fmt: skip
OTHER_COLOUR = "#C9CCD1"  # not labelled, or one of too many labels
OTHER, UNLABELLED = "other labels", "not labelled"


def cluster_colours(clusters: np.ndarray) -> np.ndarray:
    """Return the colour of every cell as text; clusters from the 25th on, the smallest, are grey."""
    palette = np.array([*GROUP_COLOURS, GREY])
    return palette[np.minimum(clusters, len(GROUP_COLOURS))]


def cluster_legend(clusters: np.ndarray) -> list[tuple[str, str, int]]:
    """Return (colour, name, number of cells) of every cluster; those that are grey share one entry."""
    names, counts = np.unique(clusters, return_counts=True)
    n_coloured = int((names < len(GROUP_COLOURS)).sum())
    entries = [(GROUP_COLOURS[k], str(k), int(n)) for k, n in zip(names, counts, strict=True) if k < len(GROUP_COLOURS)]
    grey = names[n_coloured:]
    if grey.size:
        name = str(grey[0]) if grey.size == 1 else f"{grey[0]}–{grey[-1]}"
        entries.append((GREY, name, int(counts[n_coloured:].sum())))
    return entries


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for every label of ``labels``, the most frequent first; grey for those that are no group."""
    named = [label for label in labels if label not in (OTHER, UNLABELLED)]
    colours = dict(zip(named, GROUP_COLOURS, strict=False))
    return {label: colours.get(label, OTHER_COLOUR) for label in labels}


def group_rare_labels(labels: np.ndarray, most: int = len(GROUP_COLOURS)) -> tuple[np.ndarray, list[str]]:
    """Return the labels with the rare ones as ``other labels``, and the names in their order for a legend.

    Parameters
    ----------
    labels : (n,) text, ``UNLABELLED`` where there is none
    most : how many labels keep their name
    """
    names, counts = np.unique(labels[labels != UNLABELLED], return_counts=True)
    ordered = names[np.argsort(-counts, kind="stable")]
    kept = ordered if len(ordered) <= most else ordered[: most - 1]
    shown = np.where(np.isin(labels, kept) | (labels == UNLABELLED), labels, OTHER)
    return shown, [*map(str, kept), *(name for name in (OTHER, UNLABELLED) if (shown == name).any())]
