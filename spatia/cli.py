"""The command line: ``spatia <verb> ...``, one verb per stage.

Each verb is a module of :mod:`spatia.stages` with ``add_arguments(parser)`` and ``run(args)``; only the module
of the verb that was typed is imported, so that ``spatia --help`` is instant and cropping never loads torch.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spatia import __version__
from spatia.errors import SpatiaError

VERBS = {
    "check": "say what a Xenium bundle is, what is missing and what will be done about it",
    "simulate": "write a simulated Xenium bundle with planted truth",
    "ingest": "bundle -> slide.zarr",
    "qc": "slide.zarr -> cell table with filters, quality of the slide",
    "crop": "slide.zarr -> cell crops",
    "tile": "slide.zarr -> niche and tissue tables, counts",
    "pretrain": "crops, tiles and counts of the training slides -> a model",
    "probe": "a model + two regions of one tissue -> what its embeddings tell, as a table",
    "embed": "a model + a slide -> embeddings of its cells, niches and tissues",
    "states": "tiles + labels or marker genes -> type, lineage, state, niche classes and split of each cell",
    "pair": "states + counts -> joint PCA, pairs of control and target cells, signatures of transitions",
    "flow": "pairs + crops + embeddings of the training slides -> a generator",
    "generate": "a generator + control cells of a slide -> images of what they would become",
    "features": "generated and real cell images -> CellProfiler's features",
    "cellprofiler": "the same images for CellProfiler itself; what it found beside our features",
    "score": "generated and real cells -> KID, KS, Wasserstein distances and signed shifts",
    "generation": "scores of a generation experiment -> one table",
    "table": "scores of a study -> one table",
    "compare": "scores of several generators -> one table",
    "export": "all tables of a slide -> AnnData, SpatialData, Xenium Explorer csv",
    "report": "everything -> results/report.html",
    "provenance": "write config, versions, commit and checksums of a run",
}

log = logging.getLogger("spatia")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status (0 done, 1 the user can fix it, 2 wrong usage)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in VERBS:
        return _general_help(argv)
    verb = argv[0]
    stage = importlib.import_module(f"spatia.stages.{verb}")
    parser = argparse.ArgumentParser(prog=f"spatia {verb}", description=VERBS[verb])
    stage.add_arguments(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write messages and errors to FILE")
    args = parser.parse_args(argv[1:])
    _start_logging(args.log)
    return _run(stage, verb, args)


def _run(stage: object, verb: str, args: argparse.Namespace) -> int:
    try:
        return stage.run(args) or 0  # type: ignore[attr-defined]
    except SpatiaError as problem:
        log.error("spatia %s: error: %s", verb, problem)
        return 1
    except KeyboardInterrupt:
        log.error("spatia %s: error: interrupted", verb)
        return 130
    except Exception:
        log.exception("spatia %s: error: a bug in spatia, please report it with this text", verb)
        return 70


def _start_logging(file: Path | None) -> None:
    logging.captureWarnings(True)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None and os.environ.get("RANK", "0") == "0":  # torchrun's other processes would overwrite it
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, mode="w", encoding="utf-8"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers, force=True)
    log.setLevel(logging.INFO)


def _general_help(argv: list[str]) -> int:
    if argv and argv[0] in ("-V", "--version"):
        print(f"spatia {__version__}")
        return 0
    lines = ["usage: spatia VERB ...   (spatia VERB --help says more)", ""]
    lines += [f"  {verb:<11} {text}" for verb, text in VERBS.items()]
    asked = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not asked:
        lines.insert(0, f"spatia: error: unknown verb {argv[0]!r}; the verbs are {', '.join(VERBS)}")
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
