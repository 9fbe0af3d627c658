"""Parameters -> a simulated Xenium bundle and, beside it, everything that was planted (docs/simulator.md)."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

import yaml

from spatia import __version__, keys
from spatia.config import params_from_dict, params_to_dict
from spatia.errors import SpatiaError
from spatia.io import whole_dir, write_arrays, write_json, write_table
from spatia.xenium.simulate import SimulatedSlide, SimulationParams, simulate_slide
from spatia.xenium.simulate.bundle import write_bundle

FORMAT = 1
# options that need no YAML: command-line name -> key
_OPTIONS = {"layout": str, "width": int, "height": int, "seed": int, "donor": str}
_KEYS = {"width": "width_px", "height": "height_px"}
# drawing instructions without a meaning of their own
_NOT_TRUTH = ("x", "y", "flaw")

log = logging.getLogger("spatia.simulate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia simulate``."""
    parser.add_argument("--slide", metavar="NAME", help="the slide's name; its entry under `slides` with --params")
    parser.add_argument("--params", type=Path, metavar="YAML", help="as config/stages/simulate.yaml")
    parser.add_argument("--bundle", required=True, type=Path, metavar="FOLDER", help="output: the Xenium bundle")
    parser.add_argument("--truth", type=Path, metavar="FOLDER", help="output: what was planted")
    for name, kind in _OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, metavar=name.upper(), help=f"sets {_KEYS.get(name, name)}")


def run(args: argparse.Namespace) -> None:
    """Simulate one slide and write its bundle and its truth."""
    import numpy as np

    params = read_params(args)
    if args.truth is None:  # counterfactual images take time and nobody will see them
        params = dataclasses.replace(params, n_counterfactuals=0)
    slide = simulate_slide(params, np.random.default_rng(params.seed))
    write_bundle(slide, args.bundle, params.layout)
    if args.truth is not None:
        write_truth(slide, params, args.truth)
    log.info("%s: %d cells, layout %s, donor %s", params.name, slide.n_cells, params.layout, params.donor)


def read_params(args: argparse.Namespace) -> SimulationParams:
    """Return the slide's parameters: defaults of the YAML, then its own entry, then the command line."""
    content: dict[str, Any] = {}
    where = "command line"
    if args.params is not None:
        where = str(args.params)
        content = _slide_entry(args.params, args.slide)
    if args.slide is not None:
        content["name"] = args.slide
    for name in _OPTIONS:
        if getattr(args, name) is not None:
            content[_KEYS.get(name, name)] = getattr(args, name)
    return params_from_dict(content, SimulationParams, where)


def _slide_entry(path: Path, slide: str | None) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected a parameter file, found none") from None
    except yaml.YAMLError as problem:
        raise SpatiaError(f"{path}: expected YAML, found something else ({problem})") from None
    if not isinstance(content, dict) or not set(content) <= {"defaults", "slides"}:
        raise SpatiaError(f"{path}: expected the keys defaults and slides, found {_keys_of(content)}")
    slides = _mapping(path, "`slides`", content.get("slides"))
    if slide is None:
        raise SpatiaError(f"{path}: --params needs --slide, one of {', '.join(slides)}")
    if slide not in slides:
        raise SpatiaError(
            f"{path}: no slide {slide!r} under `slides`, which has {', '.join(slides)}; add an entry `{slide}: {{}}`"
        )
    return {
        **_mapping(path, "`defaults`", content.get("defaults")),
        **_mapping(path, f"slide {slide!r}", slides[slide]),
    }


def _mapping(path: Path, what: str, content: Any) -> dict[str, Any]:
    if content is not None and not isinstance(content, dict):
        raise SpatiaError(f"{path}: expected {what} to be a mapping of keys to values, found {content!r}")
    return content or {}


def _keys_of(content: object) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__


def write_truth(slide: SimulatedSlide, params: SimulationParams, folder: Path) -> None:
    """Write what was planted into ``folder``, cells by the ids that the bundle has."""
    truth = slide.truth
    ids = slide.cell_ids(params.layout)
    cells = truth.cells.drop(columns=list(_NOT_TRUTH)).rename(columns={"angle": "angle_radians"})
    cells.insert(0, keys.CELL_ID, ids)
    cells["qc_expected"] = truth.cells["flaw"]
    cells = cells.join(slide.cells)
    pairs = truth.counterfactuals
    table = pairs.table.copy()
    table.insert(0, keys.CELL_ID, ids[table.pop("label").to_numpy(int) - 1] if len(table) else [])
    with whole_dir(folder) as partial:
        write_table(partial / "cells.parquet", cells)
        write_table(partial / "counterfactuals.parquet", table)
        write_arrays(
            partial / "counterfactuals.npz",
            factual=pairs.factual,
            counterfactual=pairs.counterfactual,
            factual_mask=pairs.factual_mask,
            counterfactual_mask=pairs.counterfactual_mask,
        )
        write_json(partial / "truth.json", _summary(slide, params))


def _summary(slide: SimulatedSlide, params: SimulationParams) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "format": FORMAT,
        "slide": params.name,
        "seed": params.seed,
        "params": params_to_dict(params),
        "versions": {"spatia": __version__, **{name: version(name) for name in ("numpy", "scipy", "scikit-image")}},
        "stains": list(slide.stains),
        "n_cells": slide.n_cells,
        "effects": slide.truth.effects.to_dict("records"),
        "expected_log_fold": {
            transition: {gene: round(value, 6) for gene, value in column.items()}
            for transition, column in slide.truth.log_folds.to_dict().items()
        },
        "class_factors": slide.truth.class_factors,
    }
