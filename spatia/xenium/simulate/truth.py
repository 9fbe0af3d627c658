"""What was planted, as tables, and the counterfactual images that only a simulator has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from spatia.xenium.simulate.fields import Box
from spatia.xenium.simulate.morphology import PARAMETER_NAMES
from spatia.xenium.simulate.paint import LARGEST_RADIUS_PX, Layers, Outlines, cut, paint, reach_of, settle
from spatia.xenium.simulate.population import with_parameters
from spatia.xenium.simulate.render import LENS_REACH_PX, RENDER_MARGIN_PX, Scene, render
from spatia.xenium.simulate.states import TRANSITIONS, Transition

WINDOW_PX = 128
# the columns that drawing looks at and a change of state changes
DRAWN = (*PARAMETER_NAMES, "long", "short", "waves", "taper", "nucleus")


@dataclass(frozen=True)
class Counterfactuals:
    """Windows of control cells as they are and as they would be in the target state.

    Attributes
    ----------
    table : one row per pair: ``label``, ``transition``, ``target_state``, ``niche``, ``y0``, ``x0`` (the window's top
        left pixel), and every rendering parameter as ``<name>_before`` and ``<name>_after``
    factual, counterfactual : (pair, c, WINDOW_PX, WINDOW_PX) uint16, as the camera sees them
    factual_mask, counterfactual_mask : (pair, WINDOW_PX, WINDOW_PX) bool, the cell's own pixels
    """

    table: pd.DataFrame
    factual: np.ndarray
    counterfactual: np.ndarray
    factual_mask: np.ndarray
    counterfactual_mask: np.ndarray


@dataclass(frozen=True)
class Truth:
    """Planted truth of one slide.

    Attributes
    ----------
    cells : one row per cell in label order: planted factors, parameters, residuals, flaw
    log_folds : (gene, transition), expected log ratio of target to control at program strength 1
    effects : planted change of each rendering parameter along each transition, niche effect apart
    counterfactuals : see :class:`Counterfactuals`
    """

    cells: pd.DataFrame
    log_folds: pd.DataFrame
    effects: pd.DataFrame
    counterfactuals: Counterfactuals

    @property
    def class_factors(self) -> dict[str, str]:
        """What each planted class is visible in, and in nothing else."""
        return {"image_class": "image", "gene_class": "genes", "context_class": "surroundings"}


def make_counterfactuals(
    scene: Scene,
    cells: pd.DataFrame,
    slide: np.ndarray,
    layers: Layers,
    outlines: Outlines,
    per_transition: int,
    pixel_size_um: float,
    rng: np.random.Generator,
) -> Counterfactuals:
    """Render up to ``per_transition`` control cells of every transition in the target state.

    Same cell, place, neighbours, residuals, textures and camera noise; only the state's change of the parameters is
    applied. Neighbours keep their own parameters; where the cell grows or shrinks, shared borders follow, as they
    would had the slide been simulated so.
    """
    pairs = [
        _make_pair(scene, cells, slide, layers, outlines, transition, row, pixel_size_um)
        for transition in TRANSITIONS
        for row in _choose_controls(cells, transition, outlines.label, per_transition, rng)
    ]
    images = (len(pairs), slide.shape[0], WINDOW_PX, WINDOW_PX)
    masks = (len(pairs), WINDOW_PX, WINDOW_PX)
    return Counterfactuals(
        table=pd.DataFrame([pair.entry for pair in pairs]),
        factual=np.array([pair.factual for pair in pairs], np.uint16).reshape(images),
        counterfactual=np.array([pair.counterfactual for pair in pairs], np.uint16).reshape(images),
        factual_mask=np.array([pair.factual_mask for pair in pairs], bool).reshape(masks),
        counterfactual_mask=np.array([pair.counterfactual_mask for pair in pairs], bool).reshape(masks),
    )


@dataclass(frozen=True)
class _Pair:
    entry: dict[str, object]
    factual: np.ndarray
    counterfactual: np.ndarray
    factual_mask: np.ndarray
    counterfactual_mask: np.ndarray


def _choose_controls(
    cells: pd.DataFrame, transition: Transition, labels: np.ndarray, n: int, rng: np.random.Generator
) -> list[int]:
    """Return rows of control cells, niches in turn, whose window lies inside the slide."""
    height, width = labels.shape
    x, y = cells["x"], cells["y"]
    margin = WINDOW_PX
    inside = x.between(margin, width - margin) & y.between(margin, height - margin)
    candidates = np.flatnonzero((cells["state"] == transition.control) & inside & (cells["flaw"] == ""))
    candidates = rng.permutation(candidates)
    niches = cells["niche"].to_numpy()[candidates]
    # the k-th cell of every niche before the (k + 1)-th of any
    turn = pd.Series(niches).groupby(niches).cumcount().to_numpy()
    return candidates[np.argsort(turn, kind="stable")][:n].tolist()


def _make_pair(
    scene: Scene,
    cells: pd.DataFrame,
    slide: np.ndarray,
    layers: Layers,
    outlines: Outlines,
    transition: Transition,
    row: int,
    pixel_size_um: float,
) -> _Pair:
    box = window_of(outlines.label, row + 1, (cells["y"].iloc[row], cells["x"].iloc[row]))
    wide = box.grow(RENDER_MARGIN_PX)
    target = with_parameters(cells.iloc[[row]].assign(state=transition.target), pixel_size_um)
    changed = cells.copy(deep=False)
    for name in target.columns[target.columns.isin(DRAWN)]:
        values = cells[name].to_numpy(copy=True)
        values[row] = target[name].iloc[0]
        changed[name] = values
    before = cut(outlines, wide)
    after = _repaint(changed, cells, layers, row, wide)
    n_stains = slide.shape[0]
    factual = render(scene, cells, before, box)[:n_stains]
    other = render(scene, changed, after, box)[:n_stains]
    seen = slide[:, box.y0 : box.y0 + WINDOW_PX, box.x0 : box.x0 + WINDOW_PX]
    inner = np.s_[RENDER_MARGIN_PX:-RENDER_MARGIN_PX, RENDER_MARGIN_PX:-RENDER_MARGIN_PX]
    masks = [maps.label[inner] == row + 1 for maps in (before, after)]
    entry = _entry(transition, cells.iloc[row], target.iloc[0], box)
    entry["label"] = row + 1
    for when, mask in zip(("before", "after"), masks, strict=True):
        entry[f"area_um2_{when}"] = float(mask.sum() * pixel_size_um**2)
    # the slide's own pixels wherever nothing changed: running sums round differently far from what did
    changes = _lit_by_change(before, after, row + 1)[inner] & (factual != other)
    return _Pair(entry, seen, np.where(changes, other, seen), masks[0], masks[1])


def _lit_by_change(before: Outlines, after: Outlines, label: int) -> np.ndarray:
    """Return the pixels (y, x) that light can reach from any pixel where the two differ or the cell is."""
    differs = (before.label == label) | (after.label == label)
    for name in vars(before):
        differs |= getattr(before, name) != getattr(after, name)
    return ndimage.maximum_filter(differs, 2 * LENS_REACH_PX + 1)


def _repaint(changed: pd.DataFrame, cells: pd.DataFrame, layers: Layers, row: int, wide: Box) -> Outlines:
    """Return the outlines in ``wide`` after the cell in ``row`` has changed: only what it reaches is painted anew."""
    versions = pd.concat([cells.iloc[[row]], changed.iloc[[row]]])
    reach = reach_of(versions) + 2
    x, y = int(cells["x"].iloc[row]), int(cells["y"].iloc[row])
    height, width = layers.label.shape
    top, bottom = max(y - reach, 0), min(y + reach, height)
    left, right = max(x - reach, 0), min(x + reach, width)
    fresh = paint(changed, Box(top, left, bottom - top, right - left))
    # whether a part is connected to its cell may be decided as far away as a cell is long
    margin = 2 * int(LARGEST_RADIUS_PX * 1.2)
    around = wide.grow(margin)
    local = cut(layers, around)
    rows = slice(top - around.y0, bottom - around.y0)
    columns = slice(left - around.x0, right - around.x0)
    for name, field in vars(local).items():
        field[rows, columns] = getattr(fresh, name)
    outlines = settle(local, changed)
    inner = np.s_[margin:-margin, margin:-margin]
    return Outlines(*(field[inner] for field in vars(outlines).values()))


def _entry(transition: Transition, before: pd.Series, after: pd.Series, box: Box) -> dict[str, object]:
    entry: dict[str, object] = {
        "transition": transition.name,
        "control_state": transition.control,
        "target_state": transition.target,
        "niche": before["niche"],
        "has_niche_effect": before["niche"] in transition.niches,
        "program_strength": float(before["program_strength"]),
        "y0": box.y0,
        "x0": box.x0,
    }
    for name in PARAMETER_NAMES:
        entry[f"{name}_before"], entry[f"{name}_after"] = float(before[name]), float(after[name])
    return entry


def window_of(labels: np.ndarray, label: int, near: tuple[float, float]) -> Box:
    """Return the window around the centre of a cell's mask box, kept inside the slide."""
    top, left = (max(int(place) - WINDOW_PX, 0) for place in near)
    part = labels[top : top + 2 * WINDOW_PX, left : left + 2 * WINDOW_PX] == label
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    y0 = top + (rows[0] + rows[-1] + 1) // 2 - WINDOW_PX // 2
    x0 = left + (columns[0] + columns[-1] + 1) // 2 - WINDOW_PX // 2
    return Box(
        int(np.clip(y0, 0, labels.shape[0] - WINDOW_PX)),
        int(np.clip(x0, 0, labels.shape[1] - WINDOW_PX)),
        WINDOW_PX,
        WINDOW_PX,
    )
