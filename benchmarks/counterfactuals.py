"""Generated cells against their true images on a simulated slide (docs/features.md).

``python benchmarks/counterfactuals.py --run RUN --slide sim_b --generated RUN/results/generate/sim_b/generated``

Cells are joined by ``cell_id`` with the simulator's counterfactuals. The bars: the cosine of single cells beats the
control as output, the mean target and an unconditional flow; signed mean shifts: Pearson at least 0.9, slope 0.8 to
1.25; mean W1 at most 3 times that of two halves of the true images; upper bound of KID at most half of the control's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spatia import keys
from spatia.bench.counterfactuals import (
    COSINE,
    KID,
    PEARSON,
    SLOPE,
    W1,
    W1_HALVES,
    Counterfactuals,
    Trial,
    average_trials,
    centred_interval,
    join_generated,
    read_counterfactuals,
    score_trial,
)
from spatia.cells.crops import Crops, open_crops
from spatia.config import load_params
from spatia.generated import Generated, open_generated, real_frames
from spatia.io import read_table
from spatia.machine import available_cpus
from spatia.measure.cell_sets import CellSet, fill_gaps
from spatia.measure.encoder import RandomEncoder, embed_images
from spatia.measure.features import Recipe, feature_columns, join_measured, measure_chunks, split_chunks
from spatia.measure.generation import CONTROL, MEAN_TARGET
from spatia.transition_params import FeaturesParams

ENCODER = RandomEncoder()
MOST_SPREADS = 10.0  # values beyond are clipped


class Measured(NamedTuple):
    """What a slide's counterfactuals are measured with."""

    truth: Counterfactuals
    crops: Crops
    recipe: Recipe


def read_measured(run: Path, slide: str, generated: Generated, features: Path) -> Measured:
    """Return a simulated slide's counterfactuals in the size and stains of a generator."""
    crops, params = open_crops(run / "results/crop" / slide / "crops"), load_params(features, FeaturesParams)
    recipe = Recipe(
        generated.stains, params.threshold, params.rim_share, params.min_cell_um2 / generated.pixel_size_um**2
    )
    folder = run / "results/simulate" / slide / "truth"
    return Measured(read_counterfactuals(folder, crops, generated.stains, generated.image_px), crops, recipe)


def measure(images: np.ndarray, recipe: Recipe, n_processes: int) -> CellSet:
    found = join_measured(list(measure_chunks(split_chunks(images, 16), recipe, n_processes)))
    angles = np.array([column.is_angle for column in feature_columns(recipe.stains)])
    return CellSet(found.features[:, ~angles], embed_images(ENCODER, images), found.reason == "")


def mean_target(args: argparse.Namespace, crops: Crops, generated: Generated, state: str, recipe: Recipe) -> np.ndarray:
    truth = read_table(args.run / "results/simulate" / args.slide / "truth/cells.parquet")
    ids = set(truth.loc[truth["state"] == state, keys.CELL_ID].astype(str))
    own = [cell_id for cell_id in crops.index[keys.CELL_ID] if cell_id in ids]
    chosen = np.random.default_rng(args.seed).permutation(own)[: args.target_cells].tolist()
    frames = real_frames(crops, chosen, generated.stains, generated.image_px, str(args.run))
    cells = measure(frames, recipe, args.processes)
    return fill_gaps(cells.segmented.features).mean(axis=0)


def make_trial(
    args: argparse.Namespace, truth: Counterfactuals, rows: np.ndarray, outputs: dict[str, np.ndarray], crops: Crops,
    generated: Generated, recipe: Recipe,
) -> Trial:  # fmt: skip
    controls, targets = (
        measure(images[rows], recipe, args.processes) for images in (truth.factual, truth.counterfactual)
    )
    made = {method: measure(generated.images[own], recipe, args.processes) for method, own in outputs.items()}
    state = str(truth.cells["target_state"].iloc[rows[0]])
    return Trial(controls, targets, made, mean_target(args, crops, generated, state, recipe))


def check_factual(truth: Counterfactuals, crops: Crops, generated: Generated) -> int:
    """Return the largest difference of the factual images from the slide's own crops: 0 where the join is right."""
    known = truth.cells[keys.CELL_ID].isin(crops.index[keys.CELL_ID]).to_numpy()
    ids = truth.cells.loc[known, keys.CELL_ID].astype(str).tolist()
    frames = real_frames(crops, ids, generated.stains, generated.image_px, "crops")
    return int(np.abs(frames.astype(int) - truth.factual[known]).max(initial=0))


def show(name: str, n: int, scores: dict[str, dict[str, np.ndarray]]) -> None:
    print(f"\n## {name} (N = {n})\n\n| method | cosine | shift Pearson | slope | mean W1 | W1 / halves | KID x 100 |")
    print("|---|---|---|---|---|---|---|")
    for method, own in scores.items():
        cells = [as_text(own[metric]) if metric in own else "" for metric in (COSINE, PEARSON, SLOPE, W1)]
        ratio = as_text(own[W1] / own[W1_HALVES]) if W1 in own else ""
        print(f"| {method} | {' | '.join(cells)} | {ratio} | {as_text(own[KID]) if KID in own else ''} |")


def show_bars(method: str, scores: dict[str, dict[str, np.ndarray]]) -> None:
    own = scores[method]
    print(f"\n## Bars, {method}, mean over transitions\n")
    for other in (CONTROL, MEAN_TARGET, "unconditional"):
        if other in scores and other != method:
            value, low, high = centred_interval(own[COSINE] - scores[other][COSINE])
            print(f"* cosine above {other}: {value:.3f} [{low:.3f}, {high:.3f}]: {_verdict(low > 0)}")
    print(f"* Pearson {own[PEARSON][0]:.3f}, at least 0.9: {_verdict(own[PEARSON][0] >= 0.9)}")
    print(f"* slope {own[SLOPE][0]:.3f}, 0.8 to 1.25: {_verdict(0.8 <= own[SLOPE][0] <= 1.25)}")
    ratio = own[W1][0] / own[W1_HALVES][0]
    print(f"* mean W1 / halves {ratio:.2f}, at most 3: {_verdict(ratio <= 3)}")
    upper, half = centred_interval(own[KID])[2], scores[CONTROL][KID][0] / 2
    print(f"* upper bound of KID {upper:.3f}, at most half of the control's, {half:.3f}: {_verdict(upper <= half)}")


def as_text(values: np.ndarray) -> str:
    """Return a value and its interval, of the value and its resamples."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*centred_interval(values))


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "NOT met"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run with the slide's crops and simulated truth")
    parser.add_argument("--slide", required=True)
    parser.add_argument("--generated", type=Path, required=True)
    parser.add_argument("--method", default="spatia", help="whose bars are printed")
    parser.add_argument("--params", type=Path, default=Path("config/stages/features.yaml"))
    parser.add_argument("--target-cells", type=int, default=150, help="real cells behind the mean target")
    parser.add_argument("--min-cells", type=int, default=8, help="transitions with fewer are left out")
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--processes", type=int, default=available_cpus())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with all numbers")
    args = parser.parse_args()

    generated = open_generated(args.generated)
    truth, crops, recipe = read_measured(args.run, args.slide, generated, args.params)
    print(f"# {args.generated}, {generated.image_px} px; factual images differ from crops by at most "
          f"{check_factual(truth, crops, generated)} grey steps")  # fmt: skip
    generator = np.random.default_rng(args.seed)
    scores = {}
    for tag, cells in join_generated(truth, generated).items():
        if len(cells) < args.min_cells:
            print(f"\n{tag}: {len(cells)} cells with images and counterfactuals, fewer than {args.min_cells}: left out")
            continue
        methods = {str(name): cells[name].to_numpy() for name in cells if name != "truth_row"}
        trial = make_trial(args, truth, cells["truth_row"].to_numpy(), methods, crops, generated, recipe)
        scores[tag] = score_trial(trial, MOST_SPREADS, args.resamples, generator)
        show(tag, len(trial.usable().controls), scores[tag])
    if scores:
        macro = average_trials(list(scores.values()))
        show("mean over transitions", len(scores), macro)
        show_bars(args.method, macro)
        scores["macro"] = macro
    if args.out:
        numbers = {
            tag: {m: {k: centred_interval(v) for k, v in own.items()} for m, own in by_method.items()}
            for tag, by_method in scores.items()
        }
        args.out.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
