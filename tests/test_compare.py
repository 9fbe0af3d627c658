"""`spatia compare`: score files of several generators -> one table."""

import pandas as pd
import pytest

from spatia.cli import main
from spatia.stages.score import COLUMNS


def write_scores(path, value, transition="macro", method="spatia", note="12 features, 0 dropped"):
    row = {"task": "generation", "dataset": "b", "method": method, "transition": transition, "metric": "w1_target",
           "value": value, "low": None, "high": None, "seed": 0, "n": 40, "note": note}  # fmt: skip
    control = {**row, "method": "control", "value": None if value is None else 1.0}
    pd.DataFrame([row, control], columns=list(COLUMNS)).to_csv(path, sep="\t", index=False)
    return str(path)


@pytest.fixture
def files(tmp_path):
    return [write_scores(tmp_path / f"{k}.tsv", value) for k, value in enumerate((0.2, 0.4, 0.7))]


def compare(tmp_path, files, models, seeds):
    out = [f"--out={tmp_path / 'all.tsv'}", f"--table={tmp_path / 'table.md'}"]
    return main(["compare", "--scores", *files, "--models", *models, "--seeds", *map(str, seeds), *out])


def test_mean_and_spread_over_seeds_by_hand(tmp_path, files):
    assert compare(tmp_path, files, ["full", "full", "contrast: none"], [0, 1, 0]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| full | 40 | 0.300 ± 0.141 |" in text
    assert "| contrast: none | 40 | 0.700 (1 of 2) |" in text  # one seed is missing
    assert "| (control) | 40 | 1.000 ± 0.000 |" in text
    rows = pd.read_csv(tmp_path / "all.tsv", sep="\t")
    assert rows.loc[rows["method"] == "spatia", "seed"].tolist() == [0, 1, 0]


def test_means_over_unlike_numbers_of_transitions_say_so(tmp_path, files):
    two = write_scores(tmp_path / "two.tsv", 0.4, note="mean of 2 transitions; n is the smallest")
    assert compare(tmp_path, [files[0], two], ["full", "other"], [0, 0]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| full (12 features, 0 dropped) | 40 | 0.200 |" in text
    assert "| other (mean of 2 transitions; n is the smallest) | 40 | 0.400 |" in text


def test_what_a_generator_draws_untold_has_a_row_of_its_own(tmp_path, files):
    untold = [write_scores(tmp_path / f"u{k}.tsv", 2.0 + k, method="unconditional") for k in range(2)]
    assert compare(tmp_path, [files[0], *untold], ["full", "full", "other"], [0, 0, 0]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "| full, unconditional | 40 | 2.000 |" in text
    assert "| other, unconditional | 40 | 3.000 |" in text


def test_transitions_without_scores_say_why(tmp_path):
    file = write_scores(tmp_path / "x.tsv", None, "A->B", note="49 targets, fewer than min_cells = 50")
    assert compare(tmp_path, [file], ["full"], [0]) == 0
    assert "Not scored: 49 targets, fewer than min_cells = 50." in (tmp_path / "table.md").read_text()


def test_names_have_to_match_files(tmp_path, files, capsys):
    assert compare(tmp_path, files, ["full"], [0, 1, 2]) == 1
    assert "found 3 files, 1 names, 3 seeds" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()
