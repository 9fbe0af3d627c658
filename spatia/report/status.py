"""Which slides are complete, which failed, and why: read from the files and logs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spatia import keys

# the file or folder whose presence means that a stage of a slide is done
OUTPUTS = {
    "simulate": "results/simulate/{slide}/bundle",
    "ingest": "results/ingest/{slide}/ingest.json",
    "qc": "results/qc/{slide}/qc.json",
    "crop": "results/crop/{slide}/crops",
    "tile": "results/tile/{slide}/tiles",
    "pretrain": "results/pretrain/checkpoint",
    "embed": "results/embed/{slide}/embeddings",
    "export": "results/export/{slide}/{slide}.h5ad",
}
# logs of the stages that run once for all slides; the others have one per slide
RUN_LOGS = {"pretrain": "logs/pretrain/run.log", "pair basis": "logs/pair/basis.log", "flow": "logs/flow/run.log"}
# stages that not every run has: one counts as missing only where it was started
STARTED = {
    "states": "results/states/{slide}/states",
    "pair basis": "results/pair/basis",
    "pair": "results/pair/{slide}/pairs",
    "flow": "results/flow/checkpoint",
    "generate": "results/generate/{slide}/generated",
    "features": "results/features/{slide}/features",
    "score": "results/score/{slide}/scores.tsv",
}
OK, FAILED, NOT_RUN = "ok", "failed", "not run"
_ERROR = "error:"
_BUG = "a bug in spatia"
_TAIL_BYTES = 200_000  # a reason stands at the end of a log, however long the log is


@dataclass(frozen=True)
class Status:
    """How far a slide got.

    Attributes
    ----------
    state : ``ok``, ``failed`` or ``not run`` (something before it stopped, or the run was interrupted)
    stage : the first stage without output, "" when ok
    reason : one line for the reader, "" when ok
    """

    state: str
    stage: str = ""
    reason: str = ""


def stages_of(row: dict[str, str], with_export: bool) -> list[str]:
    """Return the stages a slide of the sheet goes through, in order.

    Parameters
    ----------
    row : the slide's line in the sheet
    with_export : the report does not wait for exports, so they count only once the run is over
    """
    stages = ["ingest", "qc", "crop"]
    if row.get("bundle") == keys.SIMULATED:
        stages.insert(0, "simulate")
    if row.get("split") != "qc":
        stages += ["tile", "pretrain", "embed"] + (["export"] if with_export else [])
    return stages


def find_status(run: Path, slide: str, stages: Sequence[str]) -> Status:
    """Return the state of ``slide`` in the run folder ``run``."""
    done = {stage: (run / OUTPUTS[stage].format(slide=slide)).exists() for stage in stages}
    if done.get("ingest"):
        done["simulate"] = True  # its bundle may have been cleaned away since
    if done.get("embed") or not (run / RUN_LOGS["pretrain"]).exists():
        done["pretrain"] = True  # the checkpoint may come from elsewhere; then nothing is trained
    missing = [stage for stage in stages if not done[stage]]
    if not missing:
        return Status(OK)
    stage = missing[0]
    log = Path(RUN_LOGS.get(stage, f"logs/{stage}/{slide}.log"))
    if not (run / log).exists():
        return Status(NOT_RUN, stage, f"{stage} did not start")
    return Status(FAILED, stage, failure_reason(_read_tail(run / log), str(log)))


def find_started(run: Path, slide: str) -> Status:
    """Return the first stage of transitions that was started for ``slide`` and left nothing; ok if none did."""
    for stage, output in STARTED.items():
        log = Path(RUN_LOGS.get(stage, f"logs/{stage}/{slide}.log"))
        if (run / log).exists() and not (run / output.format(slide=slide)).exists():
            return Status(FAILED, stage, failure_reason(_read_tail(run / log), str(log)))
    return Status(OK)


def failure_reason(log_text: str, log_name: str) -> str:
    """Return the last line with ``error:`` of a log, or what its absence means."""
    lines = [line.strip() for line in log_text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR in line]
    if not errors:
        return f"ended without a message (killed or out of memory?), see {log_name}"
    if _BUG in errors[-1] and lines[-1] != errors[-1]:
        return f"{errors[-1]}: {lines[-1]}"  # the traceback's last line says what happened
    return errors[-1]


def _read_tail(log: Path) -> str:
    with open(log, "rb") as handle:
        handle.seek(0, 2)
        handle.seek(max(handle.tell() - _TAIL_BYTES, 0))
        return handle.read().decode("utf-8", errors="replace")
