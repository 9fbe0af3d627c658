"""The tables and figures of a slide's states, pairs and generated cells, from the files of those stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from spatia import keys
from spatia.errors import SpatiaError
from spatia.generated import TRAJECTORIES, open_generated
from spatia.io import read_json, read_table
from spatia.report.draw_groups import draw_groups
from spatia.report.generated_cells import choose_transitions
from spatia.report.generated_gallery import Way, draw_generated, draw_ways
from spatia.report.pair_figures import PlacedPairs, draw_pair_distances, draw_pair_maps, plan_table
from spatia.report.plots import Picture
from spatia.report.shift_figures import draw_shifts
from spatia.report.shift_points import METHOD, find_shifts, read_measured
from spatia.report.slide_files import SlideFiles
from spatia.report.state_figures import draw_state_maps, state_tables
from spatia.report.tables import Table
from spatia.transition_params import ScoreParams
from spatia.transition_plan import NICHE_PREFIX

N_CELLS = 10  # of a gallery's row


@dataclass(frozen=True)
class SlideTransitions:
    """What the page says about a slide's states and transitions; ``problems`` is what could not be read, and why."""

    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    problems: Sequence[str] = ()


def describe_slide_transitions(files: SlideFiles, seed: int) -> SlideTransitions:
    """Return every table and figure of a slide's transitions for which there are files."""
    drawn, problems = draw_groups(_groups(files, seed))
    tables = [item for item in drawn if isinstance(item, Table)]
    return SlideTransitions(tables, [item for item in drawn if isinstance(item, Picture)], problems)


def _groups(files: SlideFiles, seed: int) -> list[tuple[str, Sequence[Path], Callable[[], Sequence[Picture | Table]]]]:
    tiles, generated = files.tiles / "tiles.json", files.generated / "generate.json"
    return [
        ("The counts of states", [files.states], lambda: _state_tables(files)),
        ("The map of states", [files.states, tiles], lambda: _state_maps(files)),
        ("The plans", [files.pairs], lambda: [plan_table(read_table(files.pairs / "plans.tsv"))]),
        ("The map of pairs", [files.pairs, tiles], lambda: _pair_figures(files, seed)),
        ("The generated cells", [generated, files.crops], lambda: _generated(files, seed)),
        ("The way of generated cells", [generated, files.generated / TRAJECTORIES], lambda: _ways(files)),
        ("The shifts of features", [files.features, files.pairs], lambda: _shifts(files)),
    ]


def _state_tables(files: SlideFiles) -> list[Table]:
    return state_tables(read_json(files.states / "states.json")["counts"])


def read_places(files: SlideFiles) -> tuple[pd.DataFrame, tuple[float, float]]:
    """Return ``x_um``, ``y_um`` of the kept cells by id, and the slide's width and height in micrometres."""
    header = read_json(files.tiles / "tiles.json")
    cells = read_table(files.tiles / "cells.parquet")
    places = cells.set_index(cells[keys.CELL_ID].astype(str))[[keys.X_UM, keys.Y_UM]]
    step = header["pixel_size_um"]
    return places, (header["width_px"] * step, header["height_px"] * step)


def _state_maps(files: SlideFiles) -> list[Picture]:
    states = read_table(files.states / "states.parquet")
    if states.empty:
        return []
    places, size_um = read_places(files)
    here = _places_of(files.states, places, states[keys.CELL_ID])
    niches = {
        str(name).removeprefix(NICHE_PREFIX): states[name].to_numpy(str)
        for name in states
        if str(name).startswith(NICHE_PREFIX)
    }
    return [draw_state_maps(here[:, 0], here[:, 1], states["cell_type"].to_numpy(str), niches, size_um)]


def _pair_figures(files: SlideFiles, seed: int) -> list[Picture]:
    pairs = read_table(files.pairs / "pairs.parquet")
    if pairs.empty:
        return []
    places, size_um = read_places(files)
    placed = [
        PlacedPairs(
            str(tag),
            _places_of(files.pairs, places, own["x_ctrl_id"]),
            _places_of(files.pairs, places, own["x_tgt_id"]),
            own["confidence"].to_numpy(np.float64),
        )
        for tag, own in pairs.groupby("transition_tag", sort=False)
    ]
    everywhere = places.to_numpy(np.float64)
    rng = np.random.default_rng(seed)
    return [draw_pair_maps(placed, everywhere, size_um, rng), draw_pair_distances(placed, rng)]


def _places_of(where: Path, places: pd.DataFrame, cell_ids: pd.Series) -> np.ndarray:
    wanted = cell_ids.astype(str)
    lost = wanted[~wanted.isin(places.index)]
    if len(lost):
        raise SpatiaError(f"{where}: cell {lost.iloc[0]!r} has no place on the slide; run the stages of one run again")
    return places.loc[wanted.tolist()].to_numpy(np.float64)


def _generated(files: SlideFiles, seed: int) -> list[Picture]:
    generated = open_generated(files.generated)
    shown = choose_transitions(files, generated, N_CELLS, seed)
    return [draw_generated(shown, generated.stains, generated.pixel_size_um)] if shown else []


def _ways(files: SlideFiles) -> list[Picture]:
    header = read_json(files.generated / "generate.json")
    with np.load(files.generated / TRAJECTORIES) as stored:
        cell_ids, tags = stored[keys.CELL_ID].astype(str), stored["transition_tag"].astype(str)
        times, images = stored["t"], stored["images"]
    own = {tag: tags == tag for tag in dict.fromkeys(tags.tolist())}
    ways = [Way(tag, cell_ids[is_own].tolist(), times, images[is_own]) for tag, is_own in own.items()]
    return [draw_ways(ways, header["stains"], header["pixel_size_um"])] if ways else []


def _shifts(files: SlideFiles) -> list[Picture]:
    settings = ScoreParams()
    measured = read_measured(files.features, files.pairs)
    own = measured.features.loc[measured.features["kind"] == METHOD, "transition_tag"].astype(str)
    found = [find_shifts(measured, tag, settings.min_cells, settings.most_spreads) for tag in own.unique()]
    shifts = [one for one in found if one is not None]
    if not shifts:
        return []
    scored = read_scored_shifts(files.scores) if files.scores.exists() else {}
    return [draw_shifts(shifts, measured.columns.to_dict("records"), scored, settings.most_spreads)]


def read_scored_shifts(path: Path) -> dict[str, str]:
    """Return what a slide's scores say about the signed shifts of each transition, in words."""
    scores = read_table(path)
    scores = scores[(scores["method"] == METHOD) & scores["value"].notna()]
    said: dict[str, list[str]] = {}
    for metric, name in (("shift_pearson", "r"), ("shift_slope", "slope")):
        for _, row in scores[scores["metric"] == metric].iterrows():
            said.setdefault(str(row["transition"]), []).append(
                f"{name} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            )
    return {tag: ", ".join(parts) for tag, parts in said.items()}
