"""What stands around a cell: positions and names of cells -> share of some kind among its neighbours -> a class."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

_CONDITION = re.compile(r"\s*(>=|<)\s*([0-9]*\.?[0-9]+)\s*")
_NAMED = ("cell_type", "lineage", "state")


@dataclass(frozen=True)
class Condition:
    """A bound on a share: at least ``bound``, or below it."""

    is_lower: bool
    bound: float

    def holds(self, share: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return where the share meets the bound; nowhere where it is NaN."""
        return share >= self.bound if self.is_lower else share < self.bound


@dataclass(frozen=True)
class NicheAxis:
    """One way to tell surroundings apart.

    Attributes
    ----------
    of
        Column (``cell_type``, ``lineage``, ``state``) -> names: the cells whose share is taken; one match is enough.
    radius_um
        Neighbours are the cells whose centres lie this close.
    classes
        Name of the class -> bound on the share. No share meets two.
    """

    of: Mapping[str, tuple[str, ...]]
    radius_um: float
    classes: Mapping[str, Condition]

    def members(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which cells are of the kind whose share is taken, ``(n,)``."""
        found = np.zeros(len(cells), bool)
        for column, names in self.of.items():
            found |= cells[column].isin(names).to_numpy()
        return found


def parse_axis(name: str, entry: Any) -> NicheAxis:
    """Return the axis that ``{of: {lineage: T cell}, radius_um: 40, hot: ">= 0.2", cold: "< 0.05"}`` describes.

    Raises
    ------
    ValueError
        If a part is missing or of the wrong kind, a bound is none, or two classes overlap.
    """
    where = f"niches: {name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("of"), dict) or not entry["of"]:
        raise ValueError(f"{where}: expected {{of: {{column: names}}, radius_um: .., class: bound}}, found {entry}")
    unknown = sorted(set(entry["of"]) - set(_NAMED))
    if unknown:
        raise ValueError(f"{where}: of: unknown key {unknown[0]!r}; the known keys are {', '.join(_NAMED)}")
    radius = entry.get("radius_um")
    if isinstance(radius, bool) or not isinstance(radius, (int, float)) or radius <= 0:
        raise ValueError(f"{where}: expected radius_um above 0, found {radius!r}")
    rest = {key: value for key, value in entry.items() if key not in ("of", "radius_um")}
    classes = {str(key): _parse_condition(f"{where}: {key}", value) for key, value in rest.items()}
    _insist_on_disjoint(where, classes)
    of = {column: value if isinstance(value, list) else [value] for column, value in entry["of"].items()}
    return NicheAxis({column: tuple(map(str, names)) for column, names in of.items()}, float(radius), classes)


def _parse_condition(where: str, text: Any) -> Condition:
    found = _CONDITION.fullmatch(str(text))
    if not found:
        raise ValueError(f"{where}: expected a bound such as '>= 0.2' or '< 0.05', found {text!r}")
    return Condition(found[1] == ">=", float(found[2]))


def _insist_on_disjoint(where: str, classes: Mapping[str, Condition]) -> None:
    lower = [condition.bound for condition in classes.values() if condition.is_lower]
    upper = [condition.bound for condition in classes.values() if not condition.is_lower]
    if not classes or len(lower) > 1 or len(upper) > 1 or (lower and upper and lower[0] < upper[0]):
        raise ValueError(
            f"{where}: expected one class with '>=' and one with '<' that do not overlap, found {', '.join(classes)}"
        )


def neighbour_share(graph: sparse.csr_matrix, is_member: NDArray[np.bool_], least: int) -> NDArray[np.float64]:
    """Return the share of members among each cell's neighbours, ``(n,)``; NaN with fewer than ``least`` neighbours.

    Parameters
    ----------
    graph
        ``(n, n)`` 0/1, no diagonal: a cell is not its own neighbour.
    is_member
        ``(n,)``.
    least
        A share of two or three cells says nothing.
    """
    n_neighbours = np.asarray(graph.sum(axis=1)).ravel()
    n_members = np.asarray(graph @ is_member.astype(np.float64)).ravel()
    enough = n_neighbours >= max(least, 1)
    return np.where(enough, n_members / np.maximum(n_neighbours, 1), np.nan)


def classify_share(share: NDArray[np.float64], classes: Mapping[str, Condition]) -> NDArray[np.object_]:
    """Return the class of each share, ``(n,)`` of str; "" between the classes and for NaN."""
    named = np.full(len(share), "", object)
    for name, condition in classes.items():
        named[condition.holds(share)] = name
    return named


def neighbour_graph(position_um: NDArray[np.floating], radius_um: float) -> sparse.csr_matrix:
    """Return which cells lie within ``radius_um`` of each other, ``(n, n)`` 0/1 without diagonal.

    Parameters
    ----------
    position_um
        ``(n, 2)`` x and y.
    radius_um
        Largest distance.
    """
    import anndata

    build = _squidpy_builder()
    table = anndata.AnnData(obs=pd.DataFrame(index=np.arange(len(position_um)).astype(str)))
    table.obsm["spatial"] = np.asarray(position_um, np.float64)
    build(table, radius=float(radius_um))
    graph = sparse.csr_matrix(table.obsp["spatial_connectivities"])
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def classify_niches(
    cells: pd.DataFrame, position_um: NDArray[np.floating], axes: Mapping[str, NicheAxis], least: int
) -> pd.DataFrame:
    """Return one column of classes per axis, ``(n, axes)``, rows as in ``cells``.

    Parameters
    ----------
    cells
        ``cell_type``, ``lineage``, ``state``.
    position_um
        ``(n, 2)``.
    axes
        By name.
    least
        Neighbours a cell needs to have a class.
    """
    graphs = {axis.radius_um: neighbour_graph(position_um, axis.radius_um) for axis in axes.values()}
    return pd.DataFrame(
        {
            name: classify_share(neighbour_share(graphs[axis.radius_um], axis.members(cells), least), axis.classes)
            for name, axis in axes.items()
        },
        index=cells.index,
    )


def _squidpy_builder() -> Callable[..., Any]:
    """Return squidpy's function for graphs by radius, imported late: it takes seconds and warns of its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import squidpy
    logging.getLogger("spatialdata._logging").setLevel(logging.WARNING)
    if hasattr(squidpy.gr, "spatial_neighbors_radius"):  # since 1.8.2, the general one then warns
        return squidpy.gr.spatial_neighbors_radius  # type: ignore[no-any-return]
    return functools.partial(squidpy.gr.spatial_neighbors, coord_type="generic")
