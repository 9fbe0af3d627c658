"""Where a generator's training data comes from: pairs, signatures, crops, embeddings of the slides in its training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from spatia.errors import SpatiaError
from spatia.generator_params import FlowParams
from spatia.io import read_json, read_table
from spatia.learn.generator_cells import CONTEXT_ARRAYS, Reader, shared_stains
from spatia.learn.generator_checkpoint import Scope
from spatia.learn.generator_pairs import PairSet, join_pairs, read_pairs
from spatia.learn.generator_readers import ReaderFiles, open_reader
from spatia.learn.generator_tiles import TileReader
from spatia.learn.slides import SlideFiles
from spatia.learn.species import species_of
from spatia.transition_plan import Transition, load_transitions
from spatia.transitions.flow import confidence_weights

log = logging.getLogger("spatia.flow")

CONTROL, TARGET, TAG, CONFIDENCE = "x_ctrl_id", "x_tgt_id", "transition_tag", "confidence"


@dataclass(frozen=True)
class FlowSlide:
    """Where the files of one slide are that training a generator reads."""

    files: ReaderFiles
    pairs: Path

    @classmethod
    def of_run(cls, run: Path | str, name: str) -> FlowSlide:
        """Return the files of slide ``name`` in the folder of a run (docs/outputs.md)."""
        return cls(ReaderFiles.of_run(run, name), Path(run) / "results" / "pair" / name / "pairs")

    @property
    def name(self) -> str:
        """The slide's name."""
        return self.files.name


@dataclass(frozen=True)
class PairData:
    """What a generator learns from, what is watched, and its scope."""

    train: PairSet
    val: PairSet | None
    scope: Scope


def read_pair_data(
    train: Sequence[FlowSlide], val: Sequence[FlowSlide], plan: Path, signatures: Path, params: FlowParams
) -> PairData:
    """Read everything that a generator is trained on.

    Raises
    ------
    SpatiaError
        If species or stains differ, or pairs, crops and embeddings do not belong together.
    """
    slides = [*train, *val]
    species = species_of([SlideFiles(s.name, s.files.crops, s.files.crops, s.files.zarr) for s in slides], "flow")
    stains = shared_stains({slide.name: slide.files.crops for slide in train}, params.stains)
    arrays = CONTEXT_ARRAYS[params.context]
    image_px = params.shape().image_px
    has_outline = params.nucleus_outline and params.target == "cell"
    readers = {
        slide.name: open_reader(params.target, slide.files, stains, image_px, arrays, has_outline) for slide in slides
    }
    tables = {slide.name: read_split(slide, "train", readers[slide.name]) for slide in train}
    tables |= {slide.name: read_split(slide, "val", readers[slide.name]) for slide in val}
    share = -(-params.max_pairs // len(train))
    tables = {name: some_of_each(pairs, share, params.seed) for name, pairs in tables.items()}
    transitions = _with_pairs(load_transitions(plan), pd.concat([tables[slide.name] for slide in train]), plan)
    genes, dg = read_signatures(signatures, transitions)
    sets = {
        name: _pairs_of(readers[name], tables[name], transitions, params) for name in tables
    }  # fmt: skip
    scope = Scope(
        stains, species, params.target, readers[train[0].name].window_um, has_outline, transitions, genes, dg,
        params.context, arrays, sets[train[0].name].context.shape[1],
        embedded_by(train[0].files.embeddings) if arrays else {},
    )  # fmt: skip
    learned = join_pairs([sets[slide.name] for slide in train])
    watched = join_pairs([sets[slide.name] for slide in val]) if val else None
    if params.confidence_weights:  # over all slides: where plans are surer, pairs count more
        learned, watched = with_mean_one(learned), with_mean_one(watched) if watched is not None else None
    return PairData(learned, watched if watched is not None and len(watched) else None, scope)


def read_split(slide: FlowSlide, split: str, reader: Reader) -> pd.DataFrame:
    """Return the pairs of one side of the split (a training slide may have a test block), of two different images."""
    pairs = read_table(slide.pairs / "pairs.parquet")
    pairs = pairs[pairs["split"] == split]
    if isinstance(reader, TileReader):  # within one niche both sides are the same tile
        pairs = pairs[reader.niche_of(pairs[CONTROL].tolist()) != reader.niche_of(pairs[TARGET].tolist())]
    return pairs


def some_of_each(pairs: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return at most ``most`` pairs of every transition, in their order; all pairs of a large slide fill the memory."""
    if pairs.groupby(TAG).size().le(most).all():
        return pairs
    order = pd.Series(np.random.default_rng(seed).permutation(len(pairs)), index=pairs.index)
    return pairs[order.groupby(pairs[TAG]).rank() <= most]


def with_mean_one(pairs: PairSet) -> PairSet:
    """Return the pairs with weights in proportion to theirs, 1 on average."""
    return replace(pairs, weight=confidence_weights(torch.from_numpy(pairs.weight)).numpy()) if len(pairs) else pairs


def embedded_by(embeddings: Path | None) -> dict[str, Any]:
    """Return what says which model made some embeddings, apart from where it lies."""
    assert embeddings is not None
    record = read_json(embeddings / "embed.json")
    return {"width": record.get("width"), **{k: v for k, v in record.get("checkpoint", {}).items() if k != "path"}}


def read_signatures(folder: Path, transitions: Sequence[Transition]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return genes and dg (transitions, genes) float32 of ``signatures.parquet``.

    Raises
    ------
    SpatiaError
        If a transition has no signature.
    """
    if not transitions:
        return (), np.zeros((0, 0), np.float32)
    table = read_table(folder / "signatures.parquet").pivot_table("dg", TAG, "gene", dropna=False)
    missing = [transition.tag for transition in transitions if transition.tag not in table.index]
    if missing:
        raise SpatiaError(f"{folder}: expected a signature of {missing[0]!r}, found none; run 'spatia pair' again")
    dg = table.loc[[transition.tag for transition in transitions]].to_numpy(np.float32)
    return tuple(table.columns.astype(str)), np.nan_to_num(dg)


def _with_pairs(plan: Sequence[Transition], pairs: pd.DataFrame, where: Path) -> tuple[Transition, ...]:
    found = tuple(transition for transition in plan if (pairs[TAG] == transition.tag).any())
    if not found:
        log.warning("%s: no transition has pairs on the training slides (plans.tsv): the generator knows none", where)
    return found


def _pairs_of(reader: Reader, pairs: pd.DataFrame, transitions: Sequence[Transition], params: FlowParams) -> PairSet:
    tags = [transition.tag for transition in transitions]
    pairs = pairs[pairs[TAG].isin(tags)]
    weight = np.ones(len(pairs), np.float32)
    if params.confidence_weights:
        weight = pairs[CONFIDENCE].to_numpy(np.float32)
    number = pd.Index(tags).get_indexer(pd.Index(pairs[TAG])).astype(np.int64)
    start, end = (pairs[column].astype(str).tolist() for column in (CONTROL, TARGET))
    can_be_local = params.local_targets and not isinstance(reader, TileReader)
    is_local = np.array([can_be_local and not transition.is_between_niches for transition in transitions], bool)[number]
    return read_pairs(reader, start, end, number, weight, params.turn_targets, params.rematch, is_local)
