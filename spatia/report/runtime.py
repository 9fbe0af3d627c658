"""Run time and memory of every rule, from the files that Snakemake's ``benchmark:`` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from spatia.report import plots
from spatia.report.plots import Picture

JOB_COLUMNS = ["rule", "job", "seconds", "max_rss_mb", "cpu_seconds"]
_NAMES = {"s": "seconds", "max_rss": "max_rss_mb", "cpu_time": "cpu_seconds"}


def read_benchmarks(folder: Path) -> pd.DataFrame:
    """Return one row per job below ``folder`` (``<rule>/<job>.tsv``), columns ``JOB_COLUMNS``.

    What Snakemake could not measure (``-`` or ``NA``: the job was over before the first look) is NaN;
    a file that a killed job left half written is left out.
    """
    rows = []
    for file in sorted(folder.glob("*/*.tsv")):
        measured = _read_one(file)
        if measured is not None:
            rows.append({"rule": file.parent.name, "job": file.stem, **measured})
    return pd.DataFrame(rows, columns=JOB_COLUMNS)


def _read_one(file: Path) -> dict[str, float] | None:
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    if len(lines) < 2 or "s" not in lines[0]:
        return None
    table = pd.DataFrame([dict(zip(lines[0], line, strict=False)) for line in lines[1:]])
    numbers = table.reindex(columns=list(_NAMES)).apply(pd.to_numeric, errors="coerce").max()
    return {name: float(numbers[column]) for column, name in _NAMES.items()}


def summarise_rules(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rule: jobs, median and longest time, total time, median and largest memory.

    Rules stand in the order in which data flows; rules this page does not know follow by name.
    """
    rows = []
    for rule in sorted(jobs["rule"].unique(), key=_position):
        chosen = jobs.loc[jobs["rule"] == rule]
        longest = chosen["seconds"].idxmax() if chosen["seconds"].notna().any() else None
        rows.append(
            {
                "rule": rule,
                "jobs": len(chosen),
                "median_s": chosen["seconds"].dropna().median(),
                "max_s": chosen["seconds"].max(),
                "slowest": "" if longest is None else chosen.loc[longest, "job"],
                "total_s": chosen["seconds"].sum(),
                "median_mb": chosen["max_rss_mb"].dropna().median(),
                "max_mb": chosen["max_rss_mb"].max(),
            }
        )
    columns = ["rule", "jobs", "median_s", "max_s", "slowest", "total_s", "median_mb", "max_mb"]
    return pd.DataFrame(rows, columns=columns)


_FLOW = ("simulate", "ingest", "qc", "crop", "tile", "export", "provenance", "report")


def _position(rule: str) -> tuple[int, str]:
    return (_FLOW.index(rule) if rule in _FLOW else len(_FLOW), rule)


def draw_runtime(rules: pd.DataFrame) -> Picture:
    """Return bars of time and memory per rule: the median job as a bar, the largest as a mark."""
    with plots.new_figure(9.5, 1.1 + 0.32 * len(rules)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(rules))
        for axes, median, largest, colour, label in (
            (left, "median_s", "max_s", plots.BLUE, "seconds"),
            (right, "median_mb", "max_mb", plots.ORANGE, "peak memory (MB)"),
        ):
            axes.barh(places, rules[median], color=colour, height=0.65, label="median job")
            axes.plot(rules[largest], places, "|", color="black", markersize=10, label="largest job")
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
            axes.set_axisbelow(True)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        left.set_yticks(places, rules["rule"])
        left.invert_yaxis()
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="upper right", ncols=2)
        plots.set_margins(figure, 1.0, 0.2, 0.5, 0.3, between=(0.3, 0))
        caption = "Run time and peak memory per rule, as Snakemake measured them; very short jobs have no memory value."
        return Picture("runtime", "Run time and memory", caption, plots.to_png(figure))
