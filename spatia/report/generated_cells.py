"""Which generated cells the page shows, with their controls and matched targets, at the generator's resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.generated import Generated, real_frames
from spatia.io import read_table
from spatia.report.gallery import choose_cells
from spatia.report.generated_gallery import GeneratedCells
from spatia.report.shift_points import METHOD
from spatia.report.slide_files import SlideFiles

Frames = Callable[[Sequence[str]], np.ndarray]  # ids of real cells -> (n, c, p, p) uint8


def choose_transitions(files: SlideFiles, generated: Generated, count: int, seed: int) -> list[GeneratedCells]:
    """Return at most ``count`` random controls of every transition with what was generated from them.

    Where some controls are part of a pair, only those are shown: the others have no target to stand beside.
    """
    frames = open_frames(files, generated)
    pairs = read_table(files.pairs / "pairs.parquet") if files.pairs.exists() else None
    own = generated.cells[generated.cells["method"] == METHOD]
    rng = np.random.default_rng(seed)
    shown = []
    for tag, cells in own.groupby("transition_tag", sort=False):
        matched = None if pairs is None else match_of(pairs[pairs["transition_tag"] == tag])
        if matched is not None and cells[keys.CELL_ID].isin(matched.index).any():
            cells = cells[cells[keys.CELL_ID].isin(matched.index)]
        else:
            matched = None
        chosen = cells.iloc[choose_cells(len(cells), count, rng)]
        shown.append(_show(str(tag), chosen, matched, generated, frames))
    return shown


def match_of(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return target, distance and confidence of every control, index its id."""
    columns = ["x_tgt_id", "spatial_distance_um", "confidence"]
    return pairs.drop_duplicates("x_ctrl_id").set_index(pairs["x_ctrl_id"].drop_duplicates().astype(str))[columns]


def open_frames(files: SlideFiles, generated: Generated) -> Frames:
    """Return what reads real cells as the generator sees them: crops, or the niche tiles around cells."""
    if generated.header.get("target", "cell") == "cell":
        crops = open_crops(files.crops)
        return lambda ids: real_frames(crops, ids, generated.stains, generated.image_px, str(generated.path))
    # only for niche tiles: it loads torch
    from spatia.learn.generator_readers import ReaderFiles, open_reader
    from spatia.transitions.canvas import from_canvas

    places = ReaderFiles(files.slide, files.crops, files.zarr, None, files.tiles)
    reader = open_reader("niche", places, generated.stains, generated.image_px, ())
    return lambda ids: from_canvas(reader.read(ids).canvas)


def _show(
    tag: str, chosen: pd.DataFrame, matched: pd.DataFrame | None, generated: Generated, frames: Frames
) -> GeneratedCells:
    ids = chosen[keys.CELL_ID].astype(str).tolist()
    control, images = frames(ids), generated.images[chosen["row"].to_numpy()]
    if matched is None:
        nothing = np.full(len(ids), np.nan)
        return GeneratedCells(tag, ids, control, images, None, nothing, nothing)
    own = matched.loc[ids]
    target = frames(own["x_tgt_id"].astype(str).tolist())
    distance, confidence = (own[name].to_numpy(np.float64) for name in ("spatial_distance_um", "confidence"))
    return GeneratedCells(tag, ids, control, images, target, distance, confidence)
