"""Maps of embedded cells: by likeness (UMAP) and on the slide, by cluster, label and transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator

from spatia.report import plots
from spatia.report.embeddings import FUSED, GENES, IMAGE
from spatia.report.group_colours import OTHER, UNLABELLED, cluster_colours, cluster_legend, label_colours
from spatia.report.plots import Picture

VARIANT_TEXT = {FUSED: "image and genes", IMAGE: "image alone", GENES: "genes alone"}
PANEL_IN = 4.4
LABEL_PANEL_IN = 3.7
MAP_IN, WIDE_MAP_IN = 7.6, 9.4  # the longer side of a slide that is high, or wide
THUMB_IN = 1.75
MOST_APART = 36
BACKGROUND = "#DADDE2"
BACKGROUND_PX = 96  # squares along the longer side, at most
NUMBER_IN = 0.2  # between the numbers of two clusters
ENTRY_IN = 0.19  # height of a line of a legend


@dataclass(frozen=True)
class CellMap:
    """Cells laid out by likeness.

    Attributes
    ----------
    rows : (m,) rows of the table of cells that are shown, in random order
    points : per variant (k, 2); a map of fewer than m cells shows the first k
    """

    rows: np.ndarray
    points: Mapping[str, np.ndarray]


def draw_umap(shown: CellMap, clusters: np.ndarray, counts: np.ndarray | None, n_cells: int) -> Picture:
    """Return the map of cells by cluster and by transcripts, and small maps of either modality alone.

    Parameters
    ----------
    clusters, counts : (m,) of the cells shown; ``counts`` transcripts per cell, or None
    n_cells : of the slide, for the caption
    """
    small = [variant for variant in (IMAGE, GENES) if variant in shown.points]
    entries = [(colour, name) for colour, name, _ in cluster_legend(clusters)]
    width = 0.1 + 2 * (PANEL_IN + 0.1) + 0.75 + (PANEL_IN / 2 if small else 0)
    lines = -(-len(entries) // int((width - 1.0) / 0.62))
    columns = -(-len(entries) // lines)
    band = 0.1 + ENTRY_IN * lines
    with plots.new_figure(width, PANEL_IN + 0.35 + band) as figure:
        axes = _bare_axes(figure, (0.1, band), PANEL_IN)
        _scatter(axes, shown.points[FUSED], cluster_colours(clusters))
        _number_clusters(axes, shown.points[FUSED], clusters)
        axes.set_title(f"{VARIANT_TEXT[FUSED]}, by cluster")
        if counts is not None:
            _draw_counts(figure, (0.2 + PANEL_IN, band), shown.points[FUSED], counts)
        side = PANEL_IN / 2 - 0.15
        for place, variant in enumerate(small):
            axes = _bare_axes(figure, (width - side - 0.1, band + (PANEL_IN / 2 + 0.15) * (1 - place)), side)
            points = shown.points[variant]
            _scatter(axes, points, cluster_colours(clusters[: len(points)]))
            axes.set_title(f"{VARIANT_TEXT[variant]}, same clusters", fontsize=8.5)
        _bottom_legend(figure, entries, columns, title="cluster")
        return Picture("umap", "Map of cells", _umap_caption(len(clusters), n_cells, small), plots.to_png(figure))


def draw_label_maps(points: np.ndarray, labels: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> Picture:
    """Return the map of cells once per annotation of the user.

    Parameters
    ----------
    points : (m, 2)
    labels : per annotation its (m,) labels and their names in the legend's order
    """
    entries = {
        name: [(colour, f"{_shorten(label, 24)} ({(values == label).sum():,})")
               for label, colour in label_colours(names).items()]
        for name, (values, names) in labels.items()
    }  # fmt: skip
    longest = max(len(text) for lines in entries.values() for _, text in lines)
    column_in, row_in = LABEL_PANEL_IN + 0.45 + 0.062 * longest, LABEL_PANEL_IN + 0.4
    columns = min(len(labels), 2)
    with plots.new_figure(columns * column_in, row_in * -(-len(labels) // columns)) as figure:
        height = figure.get_size_inches()[1]
        for place, (name, (values, names)) in enumerate(labels.items()):
            corner = place % columns * column_in + 0.1, height - row_in * (place // columns + 1) + 0.1
            axes = _bare_axes(figure, corner, LABEL_PANEL_IN)
            colours = label_colours(names)
            order = np.argsort(~np.isin(values, (OTHER, UNLABELLED)), kind="stable")  # grey ones below
            _scatter(axes, points[order], np.array([colours[label] for label in values[order]]))
            axes.set_title(_shorten(name, 50))
            axes.legend(handles=_handles(entries[name]), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8,
                        handletextpad=0.1, labelspacing=0.2, borderpad=0)  # fmt: skip
        caption = "The same map of cells, coloured by the labels that came with the slide, with numbers of cells shown."
        return Picture("umap_labels", "Labels on the map of cells", caption, plots.to_png(figure))


def draw_cluster_map(x_um: np.ndarray, y_um: np.ndarray, clusters: np.ndarray, size_um: tuple[float, float]) -> Picture:
    """Return the slide with every cell as a point in its cluster's colour, y downwards."""
    longest_in = WIDE_MAP_IN if size_um[0] > size_um[1] else MAP_IN
    width, height = (side * longest_in / max(size_um) for side in size_um)
    entries = [(colour, f"{name}  ({count:,})") for colour, name, count in cluster_legend(clusters)]
    per_column = max(int((height - 0.3) / ENTRY_IN), 12)
    columns = -(-len(entries) // per_column)
    height_in = max(height, ENTRY_IN * min(len(entries), per_column) + 0.3)
    with plots.new_figure(0.75 + width + 0.15 + 1.15 * columns, 0.5 + height_in + 0.1) as figure:
        axes = plots.axes_in(figure, (0.75, 0.5 + height_in - height), (width, height))
        size = float(np.clip(0.45 * (72**2) * width * height / max(len(clusters), 1), 0.7, 40))
        # neither the first cluster nor the last is painted over the others
        order = np.random.default_rng(0).permutation(len(clusters))
        look: dict[str, Any] = {"s": size, "linewidth": 0, "c": cluster_colours(clusters)[order]}
        axes.scatter(x_um[order], y_um[order], **look)
        axes.set_xlim(0, size_um[0])
        axes.set_ylim(size_um[1], 0)
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        axes.legend(handles=_handles(entries), title="cluster (cells)", loc="upper left", bbox_to_anchor=(1.0, 1.0),
                    ncols=columns, fontsize=8.5, title_fontsize=8.5, handletextpad=0.1, columnspacing=0.6,
                    labelspacing=0.25, borderpad=0.2)  # fmt: skip
        caption = f"Every one of {len(clusters):,} cells in the colour of its cluster, as in the map of cells."
        return Picture("cluster_map", "Clusters on the slide", caption, plots.to_png(figure))


def draw_clusters_apart(
    x_um: np.ndarray, y_um: np.ndarray, clusters: np.ndarray, size_um: tuple[float, float]
) -> Picture:
    """Return the slide once per cluster, the cluster's cells over all others in grey."""
    names, counts = np.unique(clusters, return_counts=True)
    shown = np.sort(names[np.argsort(-counts, kind="stable")][:MOST_APART])
    size = tuple(side * THUMB_IN / max(size_um) for side in size_um)
    columns = min(max(int(11.9 / (size[0] + 0.12)), 1), len(shown))
    row_in = size[1] + 0.3
    background = _occupied(x_um, y_um, size_um)
    with plots.new_figure(columns * (size[0] + 0.12), -(-len(shown) // columns) * row_in) as figure:
        height = figure.get_size_inches()[1]
        for place, cluster in enumerate(shown):
            corner = place % columns * (size[0] + 0.12) + 0.06, height - (place // columns + 1) * row_in + 0.05
            axes = plots.axes_in(figure, corner, (size[0], size[1]))
            colour = str(cluster_colours(cluster))
            _draw_one_cluster(axes, background, x_um, y_um, clusters == cluster, colour, size_um)
            axes.set_title(f"{cluster}  ({(clusters == cluster).sum():,})", fontsize=8.5, pad=3)
        left_out = len(names) - len(shown)
        caption = "Each cluster by itself, with its number of cells; grey: all other cells." + (
            f" The {left_out} smallest clusters are left out." if left_out else ""
        )
        return Picture("clusters_apart", "Clusters one by one", caption, plots.to_png(figure))


def _draw_one_cluster(
    axes: Axes, background: np.ndarray, x_um: np.ndarray, y_um: np.ndarray, is_in: np.ndarray, colour: str,
    size_um: tuple[float, float],
) -> None:  # fmt: skip
    axes.imshow(background, extent=(0, size_um[0], size_um[1], 0), aspect="auto", interpolation="nearest")
    size = float(np.clip(35 / np.sqrt(max(is_in.sum(), 1)), 0.7, 9))
    axes.scatter(x_um[is_in], y_um[is_in], s=size, linewidth=0, color=colour)
    axes.set(xlim=(0, size_um[0]), ylim=(size_um[1], 0), xticks=[], yticks=[])
    _frame(axes)


def _occupied(x_um: np.ndarray, y_um: np.ndarray, size_um: tuple[float, float]) -> np.ndarray:
    """Return a picture (y, x, 3) of the slide, grey where there are cells; one is drawn for all clusters."""
    squares = min(max(1.3 * np.sqrt(len(x_um)), 16), BACKGROUND_PX)  # as large as cells are apart
    shape = [max(round(side * squares / max(size_um)), 1) for side in reversed(size_um)]
    ranges = [(0, size_um[1]), (0, size_um[0])]
    filled = np.histogram2d(y_um, x_um, bins=shape, range=ranges)[0] > 0
    grey = np.array([int(BACKGROUND[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    return np.where(filled[..., None], grey, np.uint8(255))


def _bare_axes(figure: Figure, corner_in: tuple[float, float], side_in: float) -> Axes:
    axes = plots.axes_in(figure, corner_in, (side_in, side_in))
    axes.set(xticks=[], yticks=[])
    _frame(axes)
    return axes


def _frame(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set(visible=True, color="#B5BAC2", linewidth=0.6)


def _scatter(axes: Axes, points: np.ndarray, colours: np.ndarray, **look: Any) -> Any:
    side = axes.get_window_extent().width / plots.DPI / PANEL_IN
    size = side * float(np.clip(25_000 / max(len(points), 1), 3.2, 36))
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * max(right - left, top - bottom, 1e-6)
    axes.set(xlim=(left - margin, right + margin), ylim=(bottom - margin, top + margin))
    return axes.scatter(points[:, 0], points[:, 1], c=colours, s=size, linewidth=0, **look)


def _number_clusters(axes: Axes, points: np.ndarray, clusters: np.ndarray) -> None:
    """Write clusters' numbers onto the cells nearest to their medians, unless a larger cluster's is there already."""
    names, counts = np.unique(clusters, return_counts=True)
    written: list[np.ndarray] = []
    for cluster in names[np.argsort(-counts, kind="stable")]:
        own = points[clusters == cluster]
        place = own[np.argmin(((own - np.median(own, axis=0)) ** 2).sum(axis=1))]
        at_in = axes.transData.transform(place) / plots.DPI
        if all(np.hypot(*(at_in - other)) > NUMBER_IN for other in written):
            written.append(at_in)
            axes.text(place[0], place[1], str(cluster), fontsize=9, weight="bold", ha="center", va="center",
                      path_effects=[withStroke(linewidth=2.2, foreground="white")])  # fmt: skip


def _draw_counts(figure: Figure, corner_in: tuple[float, float], points: np.ndarray, counts: np.ndarray) -> None:
    axes = _bare_axes(figure, corner_in, PANEL_IN)
    low, high = np.percentile(counts, [1, 99])
    norm = LogNorm(max(low, 1.0), max(high, low + 1, 2.0), clip=True)
    drawn = _scatter(axes, points, np.maximum(counts, 1), norm=norm, cmap="viridis")
    axes.set_title(f"{VARIANT_TEXT[FUSED]}, by transcripts per cell")
    bar = plots.axes_in(figure, (corner_in[0] + PANEL_IN + 0.08, corner_in[1] + 0.25 * PANEL_IN), (0.12, PANEL_IN / 2))
    figure.colorbar(drawn, cax=bar, format="{x:g}", ticks=LogLocator(subs=(1, 2, 5))).minorticks_off()
    bar.tick_params(labelsize=8)


def _handles(entries: Sequence[tuple[str, str]]) -> list[Line2D]:
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6.5, "markeredgewidth": 0}
    return [Line2D([], [], color=colour, label=label, **look) for colour, label in entries]


def _bottom_legend(figure: Figure, entries: Sequence[tuple[str, str]], columns: int, title: str) -> None:
    width = figure.get_size_inches()[0]
    figure.text(0.1 / width, 0.1 / figure.get_size_inches()[1], title, fontsize=9, va="bottom")
    figure.legend(handles=_handles(entries), loc="lower left", bbox_to_anchor=(0.75 / width, 0.0), ncols=columns,
                  fontsize=8.5, handletextpad=0.0, columnspacing=0.7, labelspacing=0.25, borderpad=0.3)  # fmt: skip


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _umap_caption(n_shown: int, n_cells: int, small: Sequence[str]) -> str:
    cells = f"All {n_cells:,} cells" if n_shown == n_cells else f"{n_shown:,} of {n_cells:,} cells, chosen at random"
    return (
        f"{cells}, placed so that cells with alike embeddings lie together (UMAP, cosine); distances between far"
        " groups mean little. Clusters are found in the embedding, not in the map."
        + (" Small: maps made from one modality, coloured by the same clusters." if small else "")
    )
