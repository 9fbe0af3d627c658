"""Does what a transition changes in real cells hold from one slide to another: the most that a generator can learn.

    python benchmarks/shifts_between_slides.py runs/real --train pancreas_a --test pancreas_b

A generator sees the training slide alone. So the mean shift of features there, targets minus controls, is compared
with that on the test slide, and beside it the shift of what was generated from the test slide's controls. All are in
units of the test slide's controls' spread; intervals are from resampled cells. ``generated, with the training
slide's`` says how well the generator has learned what it could see. ``real cells of the test slide`` are two halves of
the targets, each minus a half of the controls: what the number of cells allows at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from counterfactuals import MOST_SPREADS

from spatia import keys
from spatia.bench.counterfactuals import centred_interval
from spatia.cells.crops import open_crops
from spatia.config import load_params
from spatia.generated import judged_pairs, open_generated, real_frames
from spatia.io import read_table
from spatia.machine import available_cpus
from spatia.measure.bootstrap import whole_and_drawn
from spatia.measure.cell_sets import CellSet, make_scale
from spatia.measure.features import join_measured, measure_chunks, split_chunks
from spatia.measure.shifts import correlate, fit_slope, mean_shift
from spatia.stages.features import REAL, make_recipe
from spatia.transition_params import FeaturesParams

METHOD = "spatia"


def read_test(run: Path, slide: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the test slide's table of features, and which of them count."""
    folder = run / "results/features" / slide / "features"
    columns = read_table(folder / "columns.tsv")
    return read_table(folder / "features.parquet"), columns.loc[~columns["is_angle"].astype(bool), "name"].tolist()


def as_cells(table: pd.DataFrame, columns: Sequence[str]) -> CellSet:
    """Return rows of a table of features that have been segmented."""
    own = table[table["is_segmented"].astype(bool)]
    return CellSet(own[columns].to_numpy(float), np.zeros((len(own), 1)), np.ones(len(own), bool))


def measure_train(args: argparse.Namespace, tags: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return features of controls and targets of the training slide's pairs, a row per cell, tag and side."""
    results = args.run / "results"
    generated = open_generated(results / "generate" / args.test / "generated")
    pairs = read_table(results / "pair" / args.train / "pairs/pairs.parquet").query("split == 'train'")
    generator, chosen = np.random.default_rng(0), []
    for tag in tags:
        own = pairs[pairs["transition_tag"] == tag]
        for side in ("x_ctrl_id", "x_tgt_id"):
            ids = generator.permutation(own[side].astype(str).unique())[: args.cells]
            chosen.append(pd.DataFrame({"transition_tag": tag, "side": side, keys.CELL_ID: ids}))
    table = pd.concat(chosen, ignore_index=True)
    crops = open_crops(results / "crop" / args.train / "crops")
    frames = real_frames(crops, table[keys.CELL_ID].tolist(), generated.stains, generated.image_px, args.train)
    recipe = make_recipe(generated, load_params(args.features, FeaturesParams))
    found = join_measured(list(measure_chunks(split_chunks(frames), recipe, args.processes)))
    every = read_table(results / "features" / args.test / "features/columns.tsv")["name"].tolist()
    values = pd.DataFrame(found.features, columns=every)[list(columns)]
    return pd.concat([table, pd.Series(found.reason == "", name="is_segmented"), values], axis=1)


def resampled_shift(cells: np.ndarray, controls: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return (1 + n, features) mean shifts; row 0 of the cells themselves."""
    return mean_shift(cells, controls, *(whole_and_drawn(len(part), n, generator) for part in (cells, controls)))


def rows_of(tag: str, test: pd.DataFrame, train: pd.DataFrame, pairs: pd.DataFrame, columns: Sequence[str],
            n: int, min_cells: int) -> list[str]:  # fmt: skip
    """Return the lines of one transition."""
    generator = np.random.default_rng(0)
    made = test[(test["kind"] == METHOD) & (test["transition_tag"] == tag)]
    real = test[test["kind"] == REAL]
    targets_of = pairs.loc[pairs["transition_tag"] == tag, "x_tgt_id"].astype(str)
    controls = as_cells(real[real[keys.CELL_ID].isin(made[keys.CELL_ID])], columns)
    targets = as_cells(real[real[keys.CELL_ID].isin(targets_of)], columns)
    own = train[train["transition_tag"] == tag]
    before, after = (as_cells(own[own["side"] == side], columns) for side in ("x_ctrl_id", "x_tgt_id"))
    fewest = min(map(len, (controls, targets, before, after)))
    if fewest < min_cells:
        return [f"| {tag} | left out: {fewest} cells on a side, fewer than {min_cells} | | | | |"]
    scale = make_scale(controls, targets, MOST_SPREADS)
    start, end, output = scale.real(controls), scale.real(targets), scale.output(as_cells(made, columns))
    first, last = scale.output(before), scale.output(after)
    truth = resampled_shift(end, start, n, generator)
    halves = [generator.permutation(len(part)) % 2 == 0 for part in (end, start)]
    one, other = (
        resampled_shift(end[halves[0] == side], start[halves[1] == side], n, generator) for side in (True, False)
    )
    made_shift, train_shift = (resampled_shift(*part, n, generator) for part in ((output, start), (last, first)))
    compared = {
        "generated": (truth, made_shift, f"{len(output)}"),
        "generated, with the training slide's": (train_shift, made_shift, f"{len(output)}"),
        "real cells of the training slide": (truth, train_shift, f"{len(last)}"),
        "real cells of the test slide": (one, other, f"{int((~halves[0]).sum())}"),
    }
    lines = []
    for name, (true, shift, n_cells) in compared.items():
        r, slope = ("{:.2f} [{:.2f}, {:.2f}]".format(*centred_interval(f(true, shift))) for f in (correlate, fit_slope))
        size = float(np.sqrt((shift[0] ** 2).mean()))
        lines.append(f"| {tag} | {name} | {r} | {slope} | {size:.2f} | {n_cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--train", required=True, metavar="SLIDE")
    parser.add_argument("--test", required=True, metavar="SLIDE")
    parser.add_argument("--cells", type=int, default=250, help="of each side of a transition that are measured")
    parser.add_argument("--min-cells", type=int, default=8, help="transitions with fewer on a side are left out")
    parser.add_argument("--features", type=Path, default=Path("config/stages/features.yaml"))
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--processes", type=int, default=available_cpus())
    args = parser.parse_args()
    test, columns = read_test(args.run, args.test)
    tags = test.loc[test["kind"] == METHOD, "transition_tag"].unique().tolist()
    pairs = judged_pairs(args.run / "results/pair" / args.test / "pairs")
    train = measure_train(args, tags, columns)
    print("| transition | shift of | r with the test slide's, unless said | slope | size (sd) | N |\n|" + "---|" * 6)
    for tag in tags:
        print("\n".join(rows_of(tag, test, train, pairs, columns, args.resamples, args.min_cells)), flush=True)


if __name__ == "__main__":
    main()
