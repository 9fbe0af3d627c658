"""Running the real workflow on small simulated slides, for the workflow tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("slide", "bundle", "donor", "tissue", "disease", "species", "split", "roi_um")


def write_sheet(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write config/slides.tsv with one line per row; what a row does not say is empty."""
    lines = ["\t".join(COLUMNS)]
    defaults = {"bundle": "simulated", "donor": "d1", "tissue": "breast", "species": "human", "split": "train"}
    lines += ["\t".join({**defaults, **row}.get(column, "") for column in COLUMNS) for row in rows]
    (folder / "config" / "slides.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_run(folder: Path, slides: list[str], side_px: int = 512) -> Path:
    """Prepare a run with small simulated slides and parameter files of its own."""
    (folder / "config").mkdir(parents=True)
    shutil.copytree(ROOT / "config" / "stages", folder / "config" / "stages")
    small = {
        "defaults": {
            "width_px": side_px,
            "height_px": side_px,
            "n_stains": 1,
            "stack": False,
            "transcripts": False,
            "n_counterfactuals": 2,
            "n_flawed_cells": 4,
        },
        "slides": {slide: {"seed": number} for number, slide in enumerate(slides)},
    }
    (folder / "config" / "stages" / "simulate.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    model = {"preset": "tiny", "cell_epochs": 2, "tile_epochs": 1, "joint_epochs": 2, "cells_per_batch": 32}
    model |= {"joint_cells_per_batch": 64, "save_every_s": 0.5}
    (folder / "config" / "stages" / "pretrain.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")
    flow = {"preset": "tiny", "steps": 4, "batch": 8, "save_every_s": 0.2}
    (folder / "config" / "stages" / "flow.yaml").write_text(yaml.safe_dump(flow), encoding="utf-8")
    pair = yaml.safe_load((folder / "config" / "stages" / "pair.yaml").read_text()) | {"min_cells": 4}
    (folder / "config" / "stages" / "pair.yaml").write_text(yaml.safe_dump(pair), encoding="utf-8")
    write_sheet(folder, [{"slide": slide} for slide in slides])
    return folder


def use_model(folder: Path, checkpoint: str) -> None:
    """Have a run embed its slides with a model that exists."""
    (folder / "config" / "config.yaml").write_text(
        f"slides: config/slides.tsv\ncheckpoint: {checkpoint}\n", encoding="utf-8"
    )


def command(folder: Path, *arguments: str) -> list[str]:
    """Return the snakemake command line of a run."""
    snakefile = ROOT / "workflow" / "Snakefile"
    return [
        str(Path(sys.executable).with_name("snakemake")),
        *("--snakefile", str(snakefile), "--directory", str(folder), "--cores", "2"),
        *arguments,
    ]


def environment() -> dict[str, str]:
    """Return the environment in which `spatia` is the one that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the workflow to its end; with `check`, a failure shows what it printed."""
    done = subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, env=environment(), timeout=900, check=False
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def planned_jobs(folder: Path, *arguments: str) -> dict[str, int]:
    """Return {rule: number of jobs} of a dry run, without the rule `all`."""
    text = snakemake(folder, "--dry-run", *arguments).stdout
    if "Job stats:" not in text:
        return {}
    table = text.split("Job stats:")[-1].split("total")[0].splitlines()
    counts = dict(line.split() for line in table if len(line.split()) == 2 and line.split()[1].isdigit())
    return {rule: int(number) for rule, number in counts.items() if rule != "all"}


def killed(folder: Path, after_s: float) -> bool:
    """Start the workflow, kill its process group (-9) after some seconds; return False if it was done before."""
    with open(folder / "killed.log", "ab") as output:
        process = subprocess.Popen(
            command(folder), stdout=output, stderr=output, env=environment(), start_new_session=True
        )
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    assert process.returncode == 0, (folder / "killed.log").read_text()[-5000:]
    return False


def data_files(folder: Path) -> dict[str, str]:
    """Return {path: checksum} of everything under results/ that is data.

    The report page and the figure of run times show when and how fast things ran, so they are left out;
    `.snakemake_timestamp` is snakemake's own.
    """
    left_out = {"report.html", ".snakemake_timestamp", "runtime.png"}
    files = sorted(path for path in (folder / "results").rglob("*") if path.is_file() and path.name not in left_out)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
