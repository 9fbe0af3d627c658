"""Scores of several generators, with seeds -> one file of all rows, and a table: models x metrics."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pandas as pd

import spatia
from spatia.errors import SpatiaError
from spatia.io import whole_file, write_table
from spatia.learn.generating import SPATIA, UNCONDITIONAL
from spatia.stages.generation import each_transition, explain, read_generation_scores
from spatia.stages.score import MACRO
from spatia.stages.table import show_spread

log = logging.getLogger("spatia.compare")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia compare``."""
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="TSV", help="what score wrote")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME", help="of which generator, one each")
    parser.add_argument("--seeds", nargs="+", type=int, required=True, metavar="N", help="of its training, one each")
    parser.add_argument("--out", type=Path, required=True, metavar="TSV", help="all rows in one file, to write")
    parser.add_argument("--table", type=Path, required=True, metavar="MD", help="markdown table to write")


def run(args: argparse.Namespace) -> None:
    """Join, summarise, write."""
    scores = join_scores(args.scores, args.models, args.seeds)
    write_table(args.out, scores)
    with whole_file(args.table) as partial:
        partial.write_text(render(scores), encoding="utf-8")
    log.info("%s: %d rows of %d models", args.table, len(scores), scores["model"].nunique())


def join_scores(paths: list[Path], models: list[str], seeds: list[int]) -> pd.DataFrame:
    """Return the rows of all files with the generator's name and training seed.

    Raises
    ------
    SpatiaError
        If names or seeds are more or fewer than files.
    """
    if not len(paths) == len(models) == len(seeds):
        raise SpatiaError(
            f"compare: expected one name and one seed per file, found {len(paths)} files, {len(models)} names, "
            f"{len(seeds)} seeds"
        )
    parts = [
        read_generation_scores(path).assign(model=model, seed=seed, version=spatia.__version__)
        for path, model, seed in zip(paths, models, seeds, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def render(scores: pd.DataFrame) -> str:
    """Return a markdown table per slide and transition, the mean over transitions first.

    Control rows (in brackets) are the same for every generator but for what is drawn at random, and are averaged over
    all of them. What a generator draws untold has a row for each generator that was asked for it.
    """
    parts = ["# Generators", explain(scores)]
    parts += [render_transition(*part) for part in each_transition(scores)]
    return "\n\n".join(parts) + f"\n\nspatia {spatia.__version__}\n"


def render_transition(dataset: str, transition: str, rows: pd.DataFrame) -> str:
    """Return one table, or the reason why there is none."""
    title = f"## {dataset}, {'mean over transitions' if transition == MACRO else transition}"
    if rows["value"].isna().all():
        return f"{title}\n\nNot scored: {rows['note'].iloc[0]}."
    metrics = list(rows["metric"].unique())
    is_drawn, n_seeds = rows["method"].isin([SPATIA, UNCONDITIONAL]), rows["seed"].nunique()
    groups = [
        (str(model) if method == SPATIA else f"{model}, {method}", own, n_seeds)
        for (method, model), own in rows[is_drawn].groupby(["method", "model"], sort=False)
    ]
    n_controls = len(rows[["model", "seed"]].drop_duplicates())
    groups += [(f"({name})", own, n_controls) for name, own in rows[~is_drawn].groupby("method", sort=False)]
    is_uneven = transition == MACRO and len(rows["note"].unique()) > 1  # means over unlike numbers of transitions
    lines = [f"| model | N | {' | '.join(metrics)} |", "|" + "---|" * (len(metrics) + 2)]
    for name, own, n_expected in groups:
        cells = [show_spread(own.loc[own["metric"] == metric, "value"], n_expected) for metric in metrics]
        n = "-".join(map(str, sorted({int(own["n"].min()), int(own["n"].max())})))
        notes = f" ({'; '.join(sorted(own['note'].unique()))})" if is_uneven else ""
        lines.append(f"| {name}{notes} | {n} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, sorted(rows["seed"].unique())))
    return "\n".join([title, "", *lines, "", f"Mean ± sd over seeds {seeds}; control rows in brackets."])
