"""Does telling a generator the control's surroundings help where they matter, and only there (docs/transitions.md)?

    python benchmarks/spatial_conditioning.py runs/planted --train planted_1 planted_2 --test planted_5

Beside the run's generator, others are trained with less context and otherwise the same parameters; they and their
images are kept in ``--work`` and used again as long as the run's generator and the parameters are the same. On the
simulator's counterfactuals, each cell's cosine of generated and true feature shift is compared, in pairs, apart for
cells where the target state was planted to look different in their niche and for all others. The bars: with an effect,
without the surroundings it is worse (interval of the difference above 0); without an effect, the two are equivalent
(interval of the ratio within 0.9 to 1.1).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from counterfactuals import MOST_SPREADS, Measured, as_text, measure, read_measured

from spatia.bench.counterfactuals import centred_interval, join_generated
from spatia.generated import open_generated
from spatia.io import checksum
from spatia.learn.generator_checkpoint import TENSORS
from spatia.machine import available_cpus
from spatia.measure.bootstrap import whole_and_drawn
from spatia.measure.cell_sets import make_scale
from spatia.measure.shifts import cosine, weighted_mean

FULL = "full"
METHOD = "spatia"
EQUIVALENT = (0.9, 1.1)


def run(command: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "spatia.cli", command, *map(str, arguments)], check=True)


def changed(source: Path, changes: dict[str, object], out: Path) -> Path:
    """Write a parameter file with some values changed."""
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
    return out


def forget_others(folder: Path, args: argparse.Namespace) -> None:
    """Remove a folder made beside another generator of the run, or with other parameters."""
    # the weights of the run's generator follow from embeddings, pairs and parameters alike
    made_with = [checksum(args.run / "results/flow/checkpoint" / TENSORS)]
    made_with += [checksum(path) for path in (args.flow, args.generate, args.transitions)]
    note, text = folder / "made_with.txt", "\n".join([*made_with, args.test, *args.train])
    if folder.exists() and not (note.exists() and note.read_text(encoding="utf-8") == text):
        print(f"{folder}: made with another generator or other parameters, is made again", file=sys.stderr)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(text, encoding="utf-8")


def generate_without(args: argparse.Namespace, context: str) -> Path:
    """Return images of a generator that is told this context, trained now if it is not there."""
    folder, results = args.work / context, args.run / "results"
    checkpoint, generated = folder / "checkpoint", folder / "generated"
    forget_others(folder, args)
    if not checkpoint.exists():
        params = changed(args.flow, {"context": context}, folder / "flow.yaml")
        run(
            "flow", "--run", args.run, "--train", *args.train, "--transitions", args.transitions,
            "--signatures", results / "pair/signatures", "--params", params, "--checkpoint", checkpoint,
            "--history", folder / "history.tsv", "--work", folder / "work", "--threads", str(args.processes),
        )  # fmt: skip
    if not generated.exists():
        params = changed(args.generate, {"unconditional": False, "n_trajectories": 0}, folder / "generate.yaml")
        zarr, crops, embeddings, states = (
            results / stage / args.test / name
            for stage, name in (
                ("ingest", "slide.zarr"),
                ("crop", "crops"),
                ("embed", "embeddings"),
                ("states", "states"),
            )
        )
        run(
            "generate", "--slide", args.test, "--checkpoint", checkpoint, "--zarr", zarr, "--crops", crops,
            "--embeddings", embeddings, "--states", states, "--params", params, "--out", generated,
            "--threads", str(args.processes),
        )  # fmt: skip
    return generated


def cosines(known: Measured, folders: dict[str, Path], processes: int) -> pd.DataFrame:
    """Return a row per cell that all generators have: transition, whether a niche effect is planted, cosine of each."""
    opened = {name: open_generated(folder) for name, folder in folders.items()}
    joined = {name: join_generated(known.truth, generated) for name, generated in opened.items()}
    tables = []
    for tag in joined[FULL]:
        rows = pd.concat(
            [table[tag].set_index("truth_row")[METHOD].rename(name) for name, table in joined.items()], axis=1
        ).dropna()
        truth = rows.index.to_numpy(int)
        controls, targets = (
            measure(images[truth], known.recipe, processes)
            for images in (known.truth.factual, known.truth.counterfactual)
        )
        usable = controls.is_segmented & targets.is_segmented
        scale = make_scale(controls.take(usable), targets.take(usable), MOST_SPREADS)
        start, end = scale.real(controls.take(usable)), scale.real(targets.take(usable))
        found = {"transition": tag, "has_effect": known.truth.cells["has_niche_effect"].to_numpy(bool)[truth][usable]}
        for name, generated in opened.items():
            made = measure(generated.images[rows[name].to_numpy(int)], known.recipe, processes).take(usable)
            found[name] = cosine(scale.output(made) - start, end - start)
        tables.append(pd.DataFrame(found))
    return pd.concat(tables, ignore_index=True)


def resampled(
    cells: pd.DataFrame, names: Sequence[str], n_resamples: int, min_cells: int
) -> tuple[np.ndarray, int, int]:
    """Return each generator's mean cosine over transitions, (1 + resamples, generators), of how many, and of cells.

    All generators meet the same resamples; the first row is the value itself.
    """
    generator = np.random.default_rng(0)
    groups = [own[list(names)] for _, own in cells.groupby("transition", sort=False) if len(own) >= min_cells]
    if not groups:
        raise SystemExit(f"expected a transition with at least {min_cells} cells that all generators have, found none")
    means = []
    for own in groups:
        weights = whole_and_drawn(len(own), n_resamples, generator)
        means.append(weighted_mean(own, weights))
    return np.mean(means, axis=0), len(groups), sum(map(len, groups))


def report(cells: pd.DataFrame, names: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Return the lines of the table."""
    lines = [
        "| niche effect | context | cosine | full minus this | this / full | transitions | cells | |",
        "|" + "---|" * 8,
    ]
    for has_effect, text in ((True, "planted"), (False, "none")):
        chosen = cells[cells["has_effect"] == has_effect]
        means, n_transitions, n = resampled(chosen, names, args.resamples, args.min_cells)
        full = means[:, names.index(FULL)]
        for name, own in zip(names, means.T, strict=True):
            difference, ratio = centred_interval(full - own), centred_interval(own / full)
            is_equivalent = EQUIVALENT[0] <= ratio[1] and ratio[2] <= EQUIVALENT[1]
            is_met = difference[1] > 0 if has_effect else is_equivalent
            compared = ["", "", ""]
            if name != FULL:
                compared = [as_text(full - own), as_text(own / full), "met" if is_met else "NOT met"]
            lines.append(
                f"| {text} | {name} | {as_text(own)} | {compared[0]} | {compared[1]} | "
                f"{n_transitions} | {n} | {compared[2]} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="finished run of simulated slides")
    parser.add_argument("--test", required=True, help="slide with counterfactuals")
    parser.add_argument("--train", nargs="+", required=True, help="slides the run's generator learned from")
    parser.add_argument("--contexts", nargs="+", default=["cell", "none"], choices=["cell", "none"])
    parser.add_argument("--work", type=Path, help="where the others are kept; default: RUN/conditioning")
    parser.add_argument("--flow", type=Path, default=Path("config/stages/flow.yaml"))
    parser.add_argument("--generate", type=Path, default=Path("config/planted/stages/generate.yaml"))
    parser.add_argument("--transitions", type=Path, default=Path("config/transitions.yaml"))
    parser.add_argument("--features", type=Path, default=Path("config/stages/features.yaml"))
    parser.add_argument("--min-cells", type=int, default=8, help="transitions with fewer are left out")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=available_cpus())
    args = parser.parse_args()
    args.work = args.work or args.run / "conditioning"

    full = args.run / "results/generate" / args.test / "generated"
    folders = {FULL: full, **{context: generate_without(args, context) for context in args.contexts}}
    known = read_measured(args.run, args.test, open_generated(full), args.features)
    cells = cosines(known, folders, args.processes)
    print("\n".join(report(cells, list(folders), args)))


if __name__ == "__main__":
    main()
