"""Report: everything measured so far -> one HTML page, the cohort table, figures.

What a slide has is shown, what it lacks is named: the page is also written after a slide failed.
"""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from spatia.errors import SpatiaError
from spatia.io import read_json, whole_dir, whole_file, write_table
from spatia.progress import progress
from spatia.report.cohort import SlideFacts, cohort_table
from spatia.report.html import RunPage, SlidePage, render_page
from spatia.report.model_facts import describe_embedding
from spatia.report.model_section import ModelSection, make_model_section
from spatia.report.pages import describe_record, describe_removed, notes_of
from spatia.report.runtime import draw_runtime, read_benchmarks, summarise_rules
from spatia.report.sheet import read_sheet
from spatia.report.slide_figures import draw_slide
from spatia.report.slide_files import SlideFiles
from spatia.report.slide_transitions import describe_slide_transitions
from spatia.report.status import OK, find_started, find_status, stages_of
from spatia.report.transition_section import TransitionSection, make_transition_section

BENCHMARKS = "logs/benchmarks"
RUN_FIGURES = "all slides"  # no slide is called so: their names have no spaces
PROVENANCE = "results/provenance.json"
log = logging.getLogger("spatia.report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia report``."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--slides", type=Path, required=True, metavar="FILE", help="the sheet of slides")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report.html to write")
    parser.add_argument("--cohort", type=Path, required=True, metavar="FILE", help="cohort.tsv to write")
    parser.add_argument("--figures", type=Path, required=True, metavar="DIR", help="folder of figures to write")
    parser.add_argument(
        "--bundles", type=Path, default=Path(), metavar="DIR", help="where relative paths of labels start"
    )
    parser.add_argument("--title", default="spatia report", help="headline of the page")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cells in the galleries")
    parser.add_argument("--failed-ok", action="store_true", help="write the page although slides are not complete")


def run(args: argparse.Namespace) -> int:
    """Collect, draw and write; slides that are not complete are an error unless that is expected."""
    slides = [collect(args.run, row, args.failed_ok) for row in read_sheet(args.slides)]
    model = make_model_section(args.run, [slide.embed for slide in slides if slide.embed])
    transitions = make_transition_section(args.run, [slide.name for slide in slides])
    if not args.failed_ok:
        _insist_on_complete(slides)
        _insist_on_readable(model, transitions)
    rules = summarise_rules(read_benchmarks(args.run / BENCHMARKS))
    runtime = draw_runtime(rules) if len(rules) else None
    provenance = read_json(args.run / PROVENANCE) if (args.run / PROVENANCE).exists() else None
    pages = []
    with whole_dir(args.figures) as folder:
        for slide in progress(slides, "report", unit="slide"):
            pages.append(make_page(args.run, slide, args.seed, args.bundles))
            if pages[-1].problems and not args.failed_ok:
                raise SpatiaError(f"slide {slide.name!r}: {pages[-1].problems[0]}; run the stage that wrote it again")
            _write_pictures(folder / slide.name, [*pages[-1].pictures, *pages[-1].transitions.pictures])
        of_run = [*(model.pictures if model else []), *(transitions.pictures if transitions else [])]
        _write_pictures(folder / RUN_FIGURES, [*of_run, *([runtime] if runtime else [])])
        written = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
        versions = _versions(provenance)
        page = render_page(
            RunPage(args.title, written, versions, provenance, rules, runtime, pages, model, transitions)
        )
    write_table(args.cohort, cohort_table(slides))
    with whole_file(args.out) as partial:
        partial.write_text(page, encoding="utf-8")
    log.info("%s: %d slides, %.1f MB", args.out, len(slides), len(page.encode()) / 1e6)
    return 0


def collect(run_folder: Path, row: dict[str, str], with_export: bool) -> SlideFacts:
    """Return what the run's folder says about one slide of the sheet."""
    files = SlideFiles(run_folder, row["slide"])
    status = find_status(run_folder, row["slide"], stages_of(row, with_export))
    if status.state == OK and with_export and row.get("split") != "qc":
        status = find_started(run_folder, row["slide"])
    record, qc = _read_if_there(files.record), _read_if_there(files.qc_summary)
    return SlideFacts(row, status, record, qc, _read_if_readable(files.embed_record))


def make_page(run_folder: Path, slide: SlideFacts, seed: int, bundles: Path) -> SlidePage:
    """Return a slide's section with every figure for which there are files; the sheet's paths start at ``bundles``."""
    labels = slide.row.get("labels")
    files = SlideFiles(run_folder, slide.name, bundles / labels if labels else None)
    pictures, problems = draw_slide(files, slide.qc, seed)
    transitions = describe_slide_transitions(files, seed)
    return SlidePage(
        slide,
        facts=[*describe_record(slide.record or {}), *describe_embedding(slide.embed or {})],
        notes=notes_of(slide.record or {}),
        removed=describe_removed(slide.qc or {}),
        pictures=pictures,
        transitions=transitions,
        problems=[*problems, *transitions.problems],
    )


def _insist_on_complete(slides: list[SlideFacts]) -> None:
    unfinished = [slide for slide in slides if slide.status.state != OK]
    if unfinished:
        first = unfinished[0]
        raise SpatiaError(
            f"expected {len(slides)} complete slides, found {len(unfinished)} that are not; the first is {first.name!r}"
            f" ({first.status.stage}: {first.status.reason}); run the workflow, or pass --failed-ok to report the rest"
        )


def _insist_on_readable(model: ModelSection | None, transitions: TransitionSection | None) -> None:
    for section, stage in ((model, "pretrain"), (transitions, "flow")):
        if section is not None and section.problems:
            problem = section.problems[0]
            raise SpatiaError(f"{problem}; run 'spatia {stage}' again, or pass --failed-ok to report the rest")


def _write_pictures(folder: Path, pictures: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / f"{picture.name}.png").write_bytes(picture.png)


def _versions(provenance: dict[str, Any] | None) -> list[tuple[str, str]]:
    if provenance is None:
        return []
    found = [("spatia", provenance["spatia"]), ("Python", provenance["python"])]
    workflow = provenance.get("workflow")
    if workflow:
        found.append(("commit", workflow["commit"][:10] + (" with changes" if workflow["modified"] else "")))
    return found


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _read_if_readable(path: Path) -> dict[str, Any] | None:
    """Like :func:`_read_if_there`; what is wrong with the file is said when its figures are drawn."""
    try:
        return _read_if_there(path)
    except SpatiaError:
        return None
