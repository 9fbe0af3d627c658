"""States, counts and positions -> a joint PCA; pairs of control and target cells; signatures of transitions.

``spatia pair basis`` reads the training slides, ``pairs`` one slide, ``signatures`` all training pairs.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

import spatia
from spatia import keys
from spatia.config import load_params, params_to_dict
from spatia.errors import SpatiaError
from spatia.io import read_sparse, read_table, whole_dir, write_arrays, write_json, write_table
from spatia.machine import available_cpus
from spatia.transition_params import PairParams
from spatia.transition_plan import Transition, load_transitions, niche_names
from spatia.transitions.basis import Basis, align_genes, fit_basis, project_panel
from spatia.transitions.costs import Cells, CostRule
from spatia.transitions.pairing import Pairs, TransportRule, find_pairs, target_reuse
from spatia.transitions.signatures import difference_sum, signature
from spatia.transitions.transport import Limits

FORMAT = 1
PAIRED = ("train", "val", "test")  # splits whose cells are paired, each among its own

log = logging.getLogger("spatia.pair")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia pair``."""
    parser.add_argument("what", choices=("basis", "pairs", "signatures"))
    parser.add_argument("--slides", nargs="+", required=True, metavar="NAME", help="one for pairs")
    parser.add_argument("--tiles", nargs="+", type=Path, required=True, metavar="DIR", help="of each slide")
    parser.add_argument("--states", nargs="+", type=Path, required=True, metavar="DIR", help="of each slide")
    parser.add_argument("--pairs", nargs="+", type=Path, default=[], metavar="DIR", help="of each slide: signatures")
    parser.add_argument("--basis", type=Path, metavar="DIR", help="for pairs and signatures")
    parser.add_argument("--transitions", type=Path, metavar="YAML", help="for pairs")
    parser.add_argument("--donor", default="", metavar="NAME", help="for pairs: stored as patient_id")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/pair.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> None:
    """Run one of the three parts; write a folder whole."""
    check_usage(args)
    params = load_params(args.params, PairParams)
    slides = [read_slide(*files) for files in zip(args.slides, args.tiles, args.states, strict=True)]
    part = {"basis": run_basis, "pairs": run_pairs, "signatures": run_signatures}[args.what]
    part(args, slides, params)


def check_usage(args: argparse.Namespace) -> None:
    """Refuse options that do not go with each other or with the part."""
    if args.what == "pairs" and len(args.slides) > 1:
        raise SpatiaError(f"--slides: expected one slide for pairs, found {' '.join(args.slides)}; run it for each")
    if args.what == "pairs" and args.transitions is None:
        raise SpatiaError("pairs: expected --transitions, found none; give config/transitions.yaml")
    for name in ("tiles", "states", *(["pairs"] if args.what == "signatures" else [])):
        n = len(getattr(args, name))
        if n != len(args.slides):
            raise SpatiaError(f"--{name}: expected one folder per slide, {len(args.slides)}, found {n}")


@dataclass(frozen=True)
class Slide:
    """Kept cells of one slide; rows of all tables are the same cells."""

    name: str
    cells: pd.DataFrame  # states.parquet
    position_um: np.ndarray  # (n, 2)
    counts: sparse.csr_matrix  # (n, genes)
    genes: np.ndarray  # (genes,) of str


def read_slide(name: str, tiles: Path, states: Path) -> Slide:
    """Return what tile and states wrote about a slide, joined by cell id."""
    places, cells = read_table(tiles / "cells.parquet"), read_table(states / "states.parquet")
    rows = pd.Index(places[keys.CELL_ID]).get_indexer(cells[keys.CELL_ID])
    if (rows < 0).any() or len(cells) != len(places):
        raise SpatiaError(
            f"{states}: expected the {len(places)} cells of {tiles}, found others; run spatia states again"
        )
    return Slide(
        name=name,
        cells=cells,
        position_um=places[[keys.X_UM, keys.Y_UM]].to_numpy(np.float64)[rows],
        counts=read_sparse(tiles / "cell_counts.npz")[rows],
        genes=read_table(tiles / "genes.parquet")["gene"].to_numpy(np.str_),
    )


# --- basis ---
def run_basis(args: argparse.Namespace, slides: list[Slide], params: PairParams) -> None:
    """Fit the joint PCA on the training cells of all slides (A13)."""
    shared = set.intersection(*(set(slide.genes.tolist()) for slide in slides))
    genes = np.array([gene for gene in dict.fromkeys(slides[0].genes.tolist()) if gene in shared], np.str_)
    chosen = [np.flatnonzero(slide.cells["split"] == "train") for slide in slides]
    counts = [
        align_genes(slide.counts[rows], slide.genes, genes)[0] for slide, rows in zip(slides, chosen, strict=True)
    ]
    try:
        basis = fit_basis(sparse.csr_matrix(sparse.vstack(counts)), genes, params.n_components, params.target_sum)
    except ValueError as problem:
        raise SpatiaError(f"pair basis of {', '.join(args.slides)}: {problem}") from None
    with whole_dir(args.out) as folder:
        write_basis(folder, basis)
        write_json(folder / "basis.json", {
            "format": FORMAT, "spatia_version": spatia.__version__, "slides": args.slides,
            "n_cells": int(sum(map(len, chosen))), "n_genes": len(genes), "n_components": len(basis.components),
            "target_sum": basis.target_sum, "explained_variance": float(basis.explained.sum()),
            "params": params_to_dict(params),
        })  # fmt: skip
    log.info("%d genes, %d components hold %.0f %% of the variance", len(genes), len(basis.components),
             100 * basis.explained.sum())  # fmt: skip


def write_basis(folder: Path, basis: Basis) -> None:
    """Write ``pca.npz``."""
    write_arrays(folder / "pca.npz", **{name: np.asarray(value) for name, value in vars(basis).items()})


def read_basis(folder: Path | None) -> Basis:
    """Return the joint PCA that ``spatia pair basis`` wrote."""
    if folder is None or not (folder / "pca.npz").is_file():
        raise SpatiaError(f"{folder}: expected the folder of a joint PCA, found none; run spatia pair basis")
    with np.load(folder / "pca.npz") as stored:
        return Basis(
            stored["genes"], stored["mean"], stored["components"], float(stored["target_sum"]), stored["explained"]
        )


# --- pairs ---
def run_pairs(args: argparse.Namespace, slides: list[Slide], params: PairParams) -> None:
    """Pair the cells of one slide for every transition; skip those with too few cells, and say so."""
    (slide,), basis = slides, read_basis(args.basis)
    transitions = load_transitions(args.transitions)
    _, points, has_gene = project_panel(basis, slide.counts, slide.genes)
    insist_on_genes(slide, has_gene, params.min_shared_genes)
    found = list(pair_all(slide, points, transitions, params, args.donor))
    plans = pd.DataFrame([plan for plan, _ in found])
    pairs = pd.concat([table for _, table in found], ignore_index=True)
    with whole_dir(args.out) as folder:
        write_table(folder / "pairs.parquet", pairs)
        write_table(folder / "plans.tsv", plans)
        write_json(folder / "pair.json", {
            "format": FORMAT, "spatia_version": spatia.__version__, "slide": slide.name, "n_pairs": len(pairs),
            "shared_genes": int(has_gene.sum()), "basis_genes": len(has_gene), "params": params_to_dict(params),
        })  # fmt: skip
    n_skipped = int((plans["skipped"] != "").sum())
    log.info("%s: %d pairs of %d transitions, %d skipped", slide.name, len(pairs), len(plans) - n_skipped, n_skipped)


def insist_on_genes(slide: Slide, has_gene: np.ndarray, least: float) -> None:
    """Refuse a slide that lacks too many of the basis' genes."""
    if has_gene.mean() < least:
        raise SpatiaError(
            f"slide {slide.name} has {int(has_gene.sum())} of the {len(has_gene)} genes of the joint PCA, fewer than "
            f"min_shared_genes = {least:g} asks for; use training slides of this panel, or lower it"
        )


def pair_all(
    slide: Slide, points: np.ndarray, transitions: list[Transition], params: PairParams, donor: str
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the row of plans.tsv and the pairs of every transition, each split apart."""
    split = slide.cells["split"].to_numpy()
    parts = [part for part in PAIRED if (split == part).any()] or [""]
    for number, transition in enumerate(transitions):
        for part in parts:
            rng = np.random.default_rng([params.seed, number, PAIRED.index(part) if part else 0])
            control, target = (
                np.flatnonzero(side(slide.cells) & (split == part) & (part != ""))
                for side in (transition.controls, transition.targets)
            )
            pairs = pair_one(slide, points, transition, control, target, params, rng)
            yield (
                describe_plan(transition, part, control, target, pairs, params),
                tabulate(slide, transition, part, control, target, pairs, donor),
            )


def pair_one(
    slide: Slide, points: np.ndarray, transition: Transition, control: np.ndarray, target: np.ndarray,
    params: PairParams, rng: np.random.Generator,
) -> Pairs | None:  # fmt: skip
    """Return the pairs of one transition, None where a side has too few cells."""
    if reason_to_skip(control, target, params.min_cells):
        return None
    sides = [Cells(points[rows], slide.position_um[rows]) for rows in (control, target)]
    rule = CostRule(params.distance, params.spatial_weight, params.spatial_scale_um)
    limits = Limits(params.epsilon, params.tolerance, params.max_iterations)
    transport = TransportRule(
        limits, params.max_dense_cells, params.kernel_bytes, params.assignment, params.noise, available_cpus()
    )
    try:
        return find_pairs(sides[0], sides[1], rule, transport, rng)
    except (ValueError, RuntimeError) as problem:
        raise SpatiaError(f"slide {slide.name}, transition {transition.tag}: {problem}") from None


def reason_to_skip(control: np.ndarray, target: np.ndarray, least: int) -> str:
    """Return why a transition is skipped, "" if it is not."""
    few = [
        f"{len(rows)} {side} cells" for side, rows in (("control", control), ("target", target)) if len(rows) < least
    ]
    return f"{' and '.join(few)}, fewer than {least}" if few else ""


def describe_plan(
    transition: Transition, part: str, control: np.ndarray, target: np.ndarray, pairs: Pairs | None, params: PairParams
) -> dict[str, Any]:
    """Return the row of plans.tsv."""
    row = {
        "transition_tag": transition.tag, "task_name": transition.task, "split": part, "n_ctrl": len(control),
        "n_tgt": len(target), "skipped": reason_to_skip(control, target, params.min_cells),
    }  # fmt: skip
    if pairs is None:
        return row
    return {
        **row,
        "iterations": pairs.iterations,
        "marginal_error": pairs.marginal_error,
        "target_reuse": target_reuse(pairs.target),
        "max_reuse": int(np.bincount(pairs.target).max()),
        "mean_confidence": float(pairs.confidence.mean()),
        "median_distance_um": float(np.median(pairs.distance_um)),
        "p90_distance_um": float(np.quantile(pairs.distance_um, 0.9)),
    }


def tabulate(
    slide: Slide, transition: Transition, part: str, control: np.ndarray, target: np.ndarray, pairs: Pairs | None,
    donor: str,
) -> pd.DataFrame:  # fmt: skip
    """Return the rows of pairs.parquet (paper, App. D.5)."""
    matched = target[pairs.target] if pairs else np.zeros(0, np.int64)
    control = control if pairs else control[:0]
    cells, niche = slide.cells, niche_names(slide.cells)
    return pd.DataFrame(
        {
            "x_ctrl_id": cells[keys.CELL_ID].to_numpy(object)[control],
            "x_tgt_id": cells[keys.CELL_ID].to_numpy(object)[matched],
            "state_A": transition.start.name,
            "state_B": transition.end.name,
            "cell_type": cells["cell_type"].to_numpy(object)[control],
            "niche_ctrl": niche[control],
            "niche_tgt": niche[matched],
            "transition_tag": transition.tag,
            "task_name": transition.task,
            "patient_id": donor,
            "slide_id": slide.name,
            "spatial_distance_um": pairs.distance_um if pairs else np.zeros(0),
            "match_score": pairs.score if pairs else np.zeros(0),
            "confidence": pairs.confidence if pairs else np.zeros(0),
            "split": part,
        }
    )


# --- signatures ---
def run_signatures(args: argparse.Namespace, slides: list[Slide], params: PairParams) -> None:
    """Average the change of expression over the training pairs of every transition (A17)."""
    basis = read_basis(args.basis)
    sums: dict[str, dict[str, np.ndarray]] = {}
    n_pairs: dict[str, dict[str, int]] = {}
    for slide, folder in zip(slides, args.pairs, strict=True):
        expression, _, _ = project_panel(basis, slide.counts, slide.genes)
        pairs = read_table(folder / "pairs.parquet").query("split == 'train'")
        row = pd.Index(slide.cells[keys.CELL_ID])
        for tag, part in pairs.groupby("transition_tag", sort=False):
            control, target = (row.get_indexer(part[name]) for name in ("x_ctrl_id", "x_tgt_id"))
            sums.setdefault(str(tag), {})[slide.name] = difference_sum(expression, control, target)
            n_pairs.setdefault(str(tag), {})[slide.name] = len(part)
    tables = [
        pd.DataFrame({"transition_tag": tag, "gene": basis.genes,
                      "dg": signature(list(sums[tag].values()), list(n_pairs[tag].values()))})
        for tag in sums
    ]  # fmt: skip
    empty = pd.DataFrame({"transition_tag": pd.Series(dtype=str), "gene": pd.Series(dtype=str), "dg": np.zeros(0)})
    with whole_dir(args.out) as folder:
        write_table(folder / "signatures.parquet", pd.concat(tables, ignore_index=True) if tables else empty)
        write_json(folder / "signatures.json", {
            "format": FORMAT, "spatia_version": spatia.__version__, "target_sum": basis.target_sum,
            "transitions": {tag: {"n_pairs": sum(n.values()), "slides": list(n)} for tag, n in n_pairs.items()},
        })  # fmt: skip
    log.info("signatures of %d transitions from %s", len(tables), ", ".join(args.slides))
