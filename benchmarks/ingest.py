"""Ingest beside plain ``spatialdata_io.xenium(path).write(out)``: seconds, peak memory, each in its own process.

    python benchmarks/ingest.py --bundle $SPATIA_REAL_DATA/xenium_pancreas_a --repeats 3 --areas 1 2 4

Both read the same images, masks, outlines and counts. They take turns, so that a busy machine is busy for both; what is
said is the ratio. ``--areas 1 2 4`` are tilings of the bundle, 1, 4 and 16 times its area.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MAX_RSS_BYTES = 10**9  # the bar: 1 GB
MAX_GROWTH = 1.15  # of peak memory from the smallest to the largest area

PLAIN = """
import sys, warnings
warnings.simplefilter("ignore")
from spatialdata_io import xenium
from pathlib import Path
has_nuclei = (Path(sys.argv[1]) / "nucleus_boundaries.parquet").exists()
xenium(sys.argv[1], transcripts=False, nucleus_boundaries=has_nuclei).write(sys.argv[2])
"""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds by the clock, seconds of CPU, peak resident memory."""

    wall_s: float
    cpu_s: float
    rss_bytes: int


def measure(command: list[str]) -> Cost:
    """Run a command to its end and return its cost."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {process.returncode}: {said[-2000:]}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def run_ingest(bundle: Path, folder: Path) -> Cost:
    """Ingest ``bundle`` as the workflow does."""
    shutil.rmtree(folder, ignore_errors=True)
    params = ROOT / "config" / "stages" / "ingest.yaml"
    outputs = [f"--params={params}", f"--zarr={folder / 'slide.zarr'}", f"--record={folder / 'ingest.json'}"]
    return measure(
        [sys.executable, "-m", "spatia.cli", "ingest", str(bundle), "--slide=a", "--species=human", *outputs]
    )


def run_plain(bundle: Path, folder: Path) -> Cost:
    """Read ``bundle`` with spatialdata-io and write it."""
    shutil.rmtree(folder, ignore_errors=True)
    return measure([sys.executable, "-c", PLAIN, str(bundle), str(folder)])


def compare(bundle: Path, scratch: Path, repeats: int) -> bool:
    """Print both, side by side; return whether ingest keeps its promises."""
    costs: dict[str, list[Cost]] = {"ingest": [], "plain": []}
    for repeat in range(repeats):
        turns = (("ingest", run_ingest), ("plain", run_plain))
        for name, run in turns if repeat % 2 else reversed(turns):
            costs[name].append(run(bundle, scratch / name))
            print(f"  {name:<7} {_text(costs[name][-1])}", flush=True)
    wall, cpu, rss = (
        {name: float(np.median([getattr(cost, field) for cost in found])) for name, found in costs.items()}
        for field in ("wall_s", "cpu_s", "rss_bytes")
    )
    for what, value in (("wall", wall), ("CPU", cpu), ("peak memory", rss)):
        print(f"{what}: ingest / plain = {value['ingest'] / value['plain']:.2f} (median of {repeats})")
    return wall["ingest"] <= wall["plain"] and rss["ingest"] <= MAX_RSS_BYTES


def series(bundle: Path, scratch: Path, areas: list[int], with_plain: bool) -> bool:
    """Print the cost of tilings of the bundle; return whether memory is flat."""
    peaks = []
    for n in areas:
        tiled = scratch / "bundle"
        # in a process of its own: what a process held before it starts another counts as that one's peak
        measure([sys.executable, str(ROOT / "benchmarks" / "tiled_bundle.py"), str(bundle), str(tiled), str(n)])
        cost = run_ingest(tiled, scratch / "ingest")
        peaks.append(cost.rss_bytes)
        print(f"  {n * n:>3}x area: ingest {_text(cost)}", flush=True)
        if with_plain:
            print(f"  {n * n:>3}x area: plain  {_text(run_plain(tiled, scratch / 'plain'))}", flush=True)
    print(f"peak memory, largest / smallest area: {peaks[-1] / peaks[0]:.2f}")
    return peaks[-1] <= MAX_GROWTH * peaks[0] and max(peaks) <= MAX_RSS_BYTES


def _text(cost: Cost) -> str:
    return f"{cost.wall_s:7.1f} s  {cost.cpu_s:7.1f} s CPU  {cost.rss_bytes / 1e6:7.0f} MB"


def main() -> int:
    """Run both comparisons; exit status 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SPATIA_REAL_DATA")
    parser.add_argument("--bundle", type=Path, default=Path(default) / "xenium_pancreas_a" if default else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--areas", type=int, nargs="*", default=[1, 2, 4], help="tilings n x n")
    parser.add_argument("--plain-areas", action="store_true", help="run the plain reader on the tilings as well")
    parser.add_argument(
        "--scratch", type=Path, help="where bundles and stores are written; default: a temporary folder"
    )
    args = parser.parse_args()
    if args.bundle is None:
        parser.error("give --bundle, or set SPATIA_REAL_DATA")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        is_good = compare(args.bundle, Path(scratch), args.repeats) if args.repeats else True
        if args.areas:
            is_good &= series(args.bundle, Path(scratch), args.areas, args.plain_areas)
    print("kept" if is_good else "broken")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
