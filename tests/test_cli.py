"""The command line itself: verbs, exit status, one-line errors."""

import subprocess
import sys

import pytest

from spatia import cli
from spatia.errors import SpatiaError


class Stage:
    """A stage that does what the test wants."""

    def __init__(self, action):
        self.action = action

    def add_arguments(self, parser):
        parser.add_argument("--x", default="1")

    def run(self, args):
        return self.action(args)


def run_with(monkeypatch, action, *argv):
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: Stage(action))
    return cli.main(["qc", *argv])


def raise_(error):
    def action(args):
        raise error

    return action


@pytest.mark.parametrize(("rank", "is_written"), [(None, True), ("0", True), ("1", False)])
def test_one_of_several_processes_writes_the_log(monkeypatch, tmp_path, rank, is_written):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    cli._start_logging(tmp_path / "logs" / "run.log")
    assert (tmp_path / "logs" / "run.log").exists() == is_written


def test_done_is_status_0(monkeypatch):
    assert run_with(monkeypatch, lambda args: None) == 0


def test_what_the_user_can_fix_is_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    log = tmp_path / "logs" / "qc.log"
    assert run_with(monkeypatch, raise_(SpatiaError("a.txt: expected\n this, found that")), "--log", str(log)) == 1
    expected = "spatia qc: error: a.txt: expected this, found that\n"
    assert capsys.readouterr().err == expected
    assert log.read_text() == expected


def test_a_bug_leaves_its_traceback_in_the_log(monkeypatch, tmp_path):
    log = tmp_path / "qc.log"
    assert run_with(monkeypatch, raise_(ZeroDivisionError("oops")), "--log", str(log)) == 70
    assert "ZeroDivisionError: oops" in log.read_text()


def test_unknown_verb_lists_the_known_ones(capsys):
    assert cli.main(["croop"]) == 2
    assert "unknown verb 'croop'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb):
    done = subprocess.run(
        [sys.executable, "-m", "spatia.cli", verb, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert f"usage: spatia {verb}" in done.stdout
