"""The report's section on transitions: tables equal the files, figures show what they say, damage is a line."""

from __future__ import annotations

import io
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy_run import fail, run_stages, write_sheet
from toy_transitions import (
    ENTRY,
    NASTY,
    PX,
    STAINS,
    TAG,
    dictionary,
    generator_record,
    scores_of,
    write,
    write_features,
    write_generated,
    write_pairs,
    write_run_files,
    write_states,
)

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.cli import main
from spatia.generated import open_generated, real_frames
from spatia.measure.feature_columns import describe_column
from spatia.report import slide_transitions, status
from spatia.report.feature_words import is_plain, kind_of, put_in_words
from spatia.report.generated_cells import choose_transitions, match_of
from spatia.report.generated_gallery import GeneratedCells, Way, draw_generated, draw_ways
from spatia.report.generation_table import describe_metric, format_score, make_legend, make_tables
from spatia.report.generator_facts import describe_applied, describe_generator, describe_transitions
from spatia.report.html import RunPage, render_page
from spatia.report.pair_figures import (
    CONTROL_COLOUR,
    TARGET_COLOUR,
    PlacedPairs,
    draw_pair_distances,
    draw_pair_maps,
    plan_table,
)
from spatia.report.shift_figures import choose_named, draw_shifts
from spatia.report.shift_points import MeasuredCells, Shifts, find_shifts
from spatia.report.slide_files import SlideFiles
from spatia.report.slide_transitions import describe_slide_transitions, read_scored_shifts
from spatia.report.state_figures import draw_state_maps, state_tables
from spatia.report.transition_section import GENERATOR, HISTORY, SCORES, make_transition_section
from spatia.transition_params import ScoreParams
from spatia.transition_plan import transition_from_dict

FIGURES = {"states", "pairs", "pair_distances", "generated", "trajectories", "shifts"}


@pytest.fixture(scope="module", autouse=True)
def few_cells_are_enough():
    """The toy has six controls; shifts are drawn of ten or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slide_transitions, "ScoreParams", lambda: ScoreParams(min_cells=3))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one slide that went through every stage of the transitions; half of its cells are controls."""
    folder = tmp_path_factory.mktemp("transitions")
    run_stages(folder, "toy")
    files = SlideFiles(folder, "toy")
    ids = open_crops(files.crops).index["cell_id"].astype(str).to_numpy()
    controls, targets = ids[::2].tolist(), ids[1::2].tolist()
    n = min(len(controls), len(targets))
    write_states(files.states, ids)
    write_pairs(files.pairs, controls[:n], targets[:n])
    write_generated(files.generated, controls)
    write_features(files.features, controls, targets)
    write_run_files(folder)
    write(files.scores, scores_of().to_csv(sep="\t", index=False))
    write_sheet(folder, [{"slide": "toy", "bundle": "b", "donor": "D1", "species": "human", "split": "test"}])
    return folder


def report(run, out, *more):
    paths = [
        f"--run={run}",
        f"--slides={run}/config/slides.tsv",
        f"--out={out}/report.html",
        f"--cohort={out}/cohort.tsv",
    ]
    return main(["report", *paths, f"--figures={out}/figures", *more])


@pytest.fixture(scope="module")
def written(run):
    assert report(run, run / "out", "--failed-ok") == 0
    return run / "out"


@pytest.fixture
def copy(run, tmp_path):
    for stage in ("states", "pair", "generate", "features", "score", "crop", "tile", "flow", "tables"):
        shutil.copytree(run / "results" / stage, tmp_path / "results" / stage)
    return SlideFiles(tmp_path, "toy")


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)


def count_of(image, hexadecimal):
    colour = np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)])
    return int((image == colour).all(axis=2).sum())


def texts(table):
    return [[cell.text for cell in row.cells] for row in table.rows]


# --- the page ---


def test_every_figure_is_there_and_has_a_caption_for_snakemake(root, written):
    names = {path.stem for path in (written / "figures/toy").iterdir()}
    assert names >= FIGURES
    assert (written / "figures/all slides/generator_losses.png").exists()
    captions = (root / "workflow/report/figure.rst").read_text(encoding="utf-8")
    for name in (*FIGURES, "generator_losses"):
        assert f'"{name}":' in captions


def test_page_has_the_numbers_of_the_files(run, written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert '<section id="transitions">' in text
    assert '<a href="#transitions">' in text
    scores = pd.read_csv(run / SCORES)
    for value, low, high in scores[["value", "low", "high"]].dropna().itertuples(index=False):
        assert f'{value:.3f}<span class="small">{low:.3f} to {high:.3f}</span>' in text
    assert "States and transitions of toy" in text
    assert "6.04e-05" in text
    assert "48 × 48 px = 27.2 × 27.2 µm" in text
    assert 'alt="Generated cells of toy"' in text
    assert "there is no ground truth for a single cell" in text


def test_names_from_files_are_escaped(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>cells</b>" not in text
    assert "few &lt;b&gt;cells&lt;/b&gt;" in text
    assert "calm-&gt;&lt;script&gt;" in text


def test_stages_that_did_not_run_leave_no_trace(tmp_path):
    assert make_transition_section(tmp_path, ["toy"]) is None
    found = describe_slide_transitions(SlideFiles(tmp_path, "toy"), 0)
    assert (found.tables, found.pictures, found.problems) == ([], [], [])
    page = render_page(RunPage("t", "now", [], None, pd.DataFrame()))
    assert "ransitions" not in page


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        (("pair",), {"states", "generated", "trajectories"}),
        (("features",), FIGURES - {"shifts"}),
        (("generate", "features"), {"states", "pairs", "pair_distances"}),
        (("states",), FIGURES - {"states"}),
    ],
)
def test_every_stage_brings_its_own_figures(copy, gone, left):
    for stage in gone:
        shutil.rmtree(copy.run / "results" / stage)
    found = describe_slide_transitions(copy, 0)
    assert {picture.name for picture in found.pictures} == left
    assert found.problems == []


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("results/states/toy/states/states.json", "The counts of states"),
        ("results/states/toy/states/states.parquet", "The map of states"),
        # shifts are those of the side of the split that plans are of
        ("results/pair/toy/pairs/plans.tsv", "The plans, The shifts of features"),
        ("results/generate/toy/generated/cells.parquet", "The generated cells"),
        ("results/generate/toy/generated/trajectories.npz", "The way of generated cells"),
        ("results/features/toy/features/features.parquet", "The shifts of features"),
    ],
)
def test_damaged_files_give_a_line_and_leave_the_rest(copy, file, what):
    (copy.run / file).write_text("{", encoding="utf-8")
    found = describe_slide_transitions(copy, 0)
    assert [problem.split(" could not be drawn: ")[0] for problem in found.problems] == what.split(", ")
    assert len(found.pictures) >= 4


def test_cells_of_another_run_are_named(copy):
    pairs = pd.read_parquet(copy.pairs / "pairs.parquet").assign(x_tgt_id="nobody")
    pairs.to_parquet(copy.pairs / "pairs.parquet")
    problems = describe_slide_transitions(copy, 0).problems
    assert any(
        re.search("map of pairs could not be drawn: .*'nobody' has no place on the slide", line) for line in problems
    )
    assert any("'nobody' has no crop" in line for line in problems)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (GENERATOR, "The generator could not be"),
        (HISTORY, "The generator's losses"),
        (SCORES, "The scores could not be"),
    ],
)
def test_damaged_files_of_the_run_give_a_line(copy, file, what, capsys):
    (copy.run / file).write_text("a\tb\n1\t2\n", encoding="utf-8")
    section = make_transition_section(copy.run, ["toy"])
    assert len(section.problems) == 1
    assert section.problems[0].startswith(what)


def test_a_damaged_file_stops_a_run_that_expects_none(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("out"))
    write_sheet(folder, [{"slide": "toy", "bundle": "b", "donor": "D1", "species": "human", "split": "qc"}])
    (folder / SCORES).write_text("x\n", encoding="utf-8")
    assert report(folder, tmp_path) != 0
    assert "The scores could not be shown" in capsys.readouterr().err
    assert report(folder, tmp_path, "--failed-ok") == 0
    assert "The scores could not be shown" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_generator_from_elsewhere_is_described_by_what_it_generated(copy):
    shutil.rmtree(copy.run / "results/flow")
    section = make_transition_section(copy.run, ["other", "toy"])
    assert not section.is_own
    assert dict(section.facts)["Generator"] == "models/g"
    assert dict(section.facts)["Trained on"] == "s1"
    assert make_transition_section(copy.run, ["other"]).facts == []
    page = render_page(RunPage("t", "now", [], None, pd.DataFrame(), transitions=section))
    assert "No generator was trained in this run" in page


def test_a_stage_that_was_started_and_left_nothing_has_failed(tmp_path):
    assert status.find_started(tmp_path, "a") == status.Status("ok")
    fail(tmp_path, "a", "pair", "spatia pair: error: few genes\n")
    assert status.find_started(tmp_path, "a") == status.Status("failed", "pair", "spatia pair: error: few genes")
    (tmp_path / "results/pair/a/pairs").mkdir(parents=True)
    fail(tmp_path, "run", "flow", "spatia flow: error: no pair\n")
    assert status.find_started(tmp_path, "a").stage == "flow"
    assert status.find_started(tmp_path, "b").stage == "flow"  # it runs once for all slides


# --- tables ---


def test_scores_keep_their_order_mean_first_and_skipped_ones_say_why():
    (table,) = make_tables(scores_of())
    rows = texts(table)
    assert rows[0] == ["Mean over transitions"]
    assert rows[1][:3] == ["spatia", "77", "0.123"]
    assert rows[4] == [TAG]
    assert rows[-1] == [f"{NASTY}: not scored, few <b>cells</b>"]
    assert [row.is_quiet for row in table.rows[1:4]] == [False, False, True]
    assert [name for name, _ in table.header] == ["method", "N", "KID × 100 ↓", "1 − KS ↑", "signed shift r ↑",
                                                  "signed shift slope → 1"]  # fmt: skip
    two = pd.concat([scores_of(), scores_of(dataset="other")])
    assert [table.title for table in make_tables(two)] == [f"Generated cells of {name} against real ones"
                                                          for name in ("toy", "other")]  # fmt: skip


def test_a_score_without_interval_or_value():
    assert (format_score(0.5, np.nan, np.nan).text, format_score(0.5, np.nan, np.nan).small) == ("0.500", "")
    assert format_score(np.nan, np.nan, np.nan).text == "—"


def test_legend_names_encoder_direction_and_control_rows():
    legend = dict(make_legend(scores_of()))
    assert "random weights" in legend["Encoder of KID and FID"]
    assert legend["KID × 100"].startswith("lower is better")
    assert legend["signed shift slope"].startswith("1 is best")
    assert "nothing was generated" in legend["control_as_output"]
    inception = dict(make_legend(scores_of().replace("kid_random_encoder", "kid_inception")))
    assert "ImageNet" in inception["Encoder of KID and FID"]
    assert describe_metric("new_metric")[0].title == "new_metric"


def test_plans_show_what_was_skipped_and_why(run):
    table = plan_table(pd.read_csv(run / "results/pair/toy/pairs/plans.tsv", sep="\t"))
    done, skipped = table.rows
    assert [cell.text for cell in done.cells][2:6] == ["1,234", "11", "6.04e-05", "3.38"]
    assert done.cells[0].small == ""
    assert skipped.cells[0].small == "skipped: 31 control cells, fewer than 50"
    assert [cell.text for cell in skipped.cells][1:4] == ["31", "192", "—"]
    assert (done.is_quiet, skipped.is_quiet) == (False, True)


def test_plans_of_a_slide_with_a_test_block_say_which_part():
    plans = pd.DataFrame(
        {"transition_tag": [TAG, TAG], "split": ["train", "test"], "skipped": ["", ""], "n_ctrl": [90, 60]}
    )
    assert texts(plan_table(plans)) == [[f"{TAG} (train)", "90"], [f"{TAG} (test)", "60"]]
    assert texts(plan_table(plans[:1])) == [[TAG, "90"]]


def test_counts_of_states_with_the_unnamed_last():
    counts = {"cell_type": {"": 50, "T cell": 30, "tumour": 20}, "state": {"": 100}, "niche_t_cell": {"rich": 1, "": 3}}
    types, niches = state_tables(counts)
    assert texts(types) == [["T cell", "30", "30.0 %"], ["tumour", "20", "20.0 %"], ["not known", "50", "50.0 %"]]
    assert texts(niches) == [["t cell", "rich", "1", "25.0 %"], ["t cell", "between classes", "3", "75.0 %"]]
    assert "States" in [table.title for table in state_tables({**counts, "state": {"": 1, "calm": 2}})]


def test_generator_facts_and_transitions():
    facts = dict(describe_generator(generator_record()))
    assert facts["Contrast"] == "hinge, weight 0.05, margin 0.1"
    assert facts["Steps"] == "1,000 of 64 pairs"
    assert facts["Network"] == "U-Net, on pixels"
    assert facts["Embeddings by"] == "preset small, trained on s1"
    assert describe_generator({}) == []
    assert describe_applied({}) == []
    table = describe_transitions(generator_record())
    known = transition_from_dict(TAG, ENTRY)
    assert texts(table) == [[TAG, known.start.name, known.end.name, "epithelial", "one", "1,400"]]
    assert describe_transitions({}) is None


# --- figures ---


def test_pairs_are_drawn_where_the_cells_are():
    control, target = np.array([[20.0, 10.0], [30.0, 10.0]]), np.array([[80.0, 190.0], [80.0, 190.0]])
    pairs = PlacedPairs(TAG, control, target, np.array([0.2, 0.4]))
    assert pairs.n_targets == 1
    assert pairs.distance_um == pytest.approx([np.hypot(60, 180), np.hypot(50, 180)])
    image = pixels(draw_pair_maps([pairs], np.concatenate([control, target]), (100.0, 200.0), np.random.default_rng(0)))
    middle = []
    for colour in (CONTROL_COLOUR, TARGET_COLOUR):
        value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        rows, _ = np.nonzero((image == value).all(axis=2))
        middle.append(np.median(rows[rows > 60]))  # below the legend
    assert middle[0] < middle[1]  # y runs downwards: controls lie above
    picture = draw_pair_distances([pairs], np.random.default_rng(0))
    assert count_of(pixels(picture), TARGET_COLOUR) > 50


def test_more_niche_axes_need_more_room():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])
    types, hot = np.array(["T cell", "", "B cell"]), np.array(["hot", "", "cold"])
    one = pixels(draw_state_maps(x, y, types, {"immune": hot}, (4.0, 4.0)))
    three = pixels(draw_state_maps(x, y, types, {"immune": hot, "a": hot, "b": hot}, (4.0, 4.0)))
    assert three.shape[0] > one.shape[0]
    assert count_of(one, "#C9CCD1") > 20  # the cell without a name is grey


def test_gallery_shows_the_right_cells(run):
    files = SlideFiles(run, "toy")
    generated = open_generated(files.generated)
    (shown,) = choose_transitions(files, generated, 4, seed=0)
    assert shown.tag == TAG
    assert len(shown.cell_ids) == 4
    crops, match = open_crops(files.crops), match_of(pd.read_parquet(files.pairs / "pairs.parquet"))
    own = generated.cells[generated.cells["method"] == "spatia"].set_index("cell_id")
    for place, cell_id in enumerate(shown.cell_ids):
        target = match.loc[cell_id, "x_tgt_id"]
        real = real_frames(crops, [cell_id, target], STAINS, PX, "here")
        assert np.array_equal(shown.control[place], real[0])
        assert np.array_equal(shown.target[place], real[1])
        assert np.array_equal(shown.generated[place], generated.images[own.loc[cell_id, "row"]])
        assert shown.confidence[place] == match.loc[cell_id, "confidence"]
    ids = [choose_transitions(files, generated, 4, seed=seed)[0].cell_ids for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_controls_without_a_target_are_shown_only_where_none_has_one(copy):
    pairs = pd.read_parquet(copy.pairs / "pairs.parquet")
    generated = open_generated(copy.generated)
    pairs.iloc[:3].to_parquet(copy.pairs / "pairs.parquet")
    (shown,) = choose_transitions(copy, generated, 10, seed=0)
    assert set(shown.cell_ids) == set(pairs["x_ctrl_id"].iloc[:3])
    pairs.iloc[:0].to_parquet(copy.pairs / "pairs.parquet")
    (shown,) = choose_transitions(copy, generated, 2, seed=0)
    assert len(shown.cell_ids) == 2
    assert shown.target is None


def gallery_of(target):
    ones = np.full((2, 2, 8, 8), 90, np.uint8)
    return GeneratedCells("t", ["a", "b"], ones, ones, target, np.full(2, 30.0), np.full(2, 0.5))


def test_gallery_has_no_row_of_targets_on_a_slide_without_pairs():
    without = draw_generated([gallery_of(None)], STAINS, 0.5)
    with_targets = draw_generated([gallery_of(np.zeros((2, 2, 8, 8), np.uint8))], STAINS, 0.5)
    assert pixels(without).shape[0] < pixels(with_targets).shape[0]
    assert "no pairs" in without.caption
    assert "another real cell" in with_targets.caption


def test_ways_have_a_column_per_time():
    times = np.array([0, 0.5, 1])
    few, many = (Way("t", ["a"], times[:n], np.full((1, n, 2, 8, 8), 90, np.uint8)) for n in (2, 3))
    wide, narrow = (pixels(draw_ways([way, way], STAINS, 0.5)).shape[1] for way in (many, few))
    assert wide > narrow
    assert "not stages that a cell passes through" in draw_ways([few], STAINS, 0.5).caption


# --- shifts ---


def measured_of(shift, generated_shift, n=40):
    """Controls with mean 0 and sd 1 in every feature, targets and generated cells moved by so many sd."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(n, len(shift)))
    start = (start - start.mean(axis=0)) / start.std(axis=0)
    columns = dictionary()
    parts = [("real", "c", "", start), ("real", "t", "", start + shift), ("spatia", "c", TAG, start + generated_shift)]
    tables = []
    for kind, letter, tag, values in parts:
        table = pd.DataFrame(values, columns=columns["name"])
        table.insert(0, "kind", kind)
        table.insert(1, keys.CELL_ID, [f"{letter}{k}" for k in range(n)])
        tables.append(table.assign(transition_tag=tag, is_segmented=True))
    return MeasuredCells(pd.concat(tables, ignore_index=True), columns, {TAG: [f"t{k}" for k in range(n)]})


def test_shifts_are_signed_and_in_spreads_of_the_controls():
    real, generated = np.array([1.0, -2.0, 0.5, 0.0]), np.array([0.5, -1.0, 0.25, 0.0])
    shifts = find_shifts(measured_of(real, generated), TAG, 10, most_spreads=50)
    assert shifts.real == pytest.approx(real)
    assert shifts.generated == pytest.approx(generated)
    assert (shifts.pearson, shifts.slope) == pytest.approx((1, 0.5))
    wrong = find_shifts(measured_of(real, -real), TAG, 10, most_spreads=50)
    assert (wrong.pearson, wrong.slope) == pytest.approx((-1, -1))
    assert (shifts.n_controls, shifts.n_targets) == (40, 40)
    assert find_shifts(measured_of(real, generated), TAG, 20, most_spreads=50) is not None
    assert find_shifts(measured_of(real, generated), TAG, 21, most_spreads=50) is None  # two halves of the targets
    assert find_shifts(measured_of(real, generated), "other", 10, most_spreads=50) is None
    clipped = find_shifts(measured_of(10 * real, generated), TAG, 10, most_spreads=3)
    assert np.abs(clipped.real).max() <= 3 + 1e-9


def test_largest_visible_features_are_named_one_of_a_kind():
    columns = dictionary().to_dict("records")
    assert choose_named(np.array([0.1, -3.0, 0.5, 9.0]), columns) == [1, 2]  # one shape, one intensity, no polynomial
    assert choose_named(np.array([4.0, -3.0, 0.5, 9.0]), columns, count=1) == [0]
    shifts = Shifts(TAG, np.arange(4), np.array([0.1, -3.0, 0.5, 2.0]), np.zeros(4), 5, 6)
    assert draw_shifts([shifts], columns, {}, 10).name == "shifts"


@pytest.mark.parametrize(
    ("module", "source", "stain", "words"),
    [
        ("sizeshape", "Area", "", "cell, area: pixels of the object"),
        ("sizeshape", "Eccentricity", "", "cell, eccentricity: 0 a circle, 1 a line"),
        ("intensity", "Intensity_MeanIntensityEdge", "18S",
         "18S in the cell, mean intensity edge: of the outline's pixels"),
        ("texture", "Contrast_3_00_256", "DAPI",
         "DAPI in the cell, texture contrast 3 px apart: strength of the differences between pixels"),
        ("radial_distribution", "RadialDistribution_RadialCV_2of4", "DAPI",
         "DAPI in the cell, unevenness around ring 2 of 4: variation over eight sectors of a ring (sd / mean)"),
    ],
)  # fmt: skip
def test_features_in_words(module, source, stain, words):
    column = describe_column("Cells", module, source, stain).__dict__
    assert put_in_words(column) == words
    assert put_in_words({**column, "stain": stain or float("nan")}) == words  # as tsv files are read
    assert is_plain(column)
    assert kind_of(column)


@pytest.mark.parametrize(("module", "source"), [("zernike", "Zernike_2_0"), ("sizeshape", "HuMoment_1"),
                                               ("texture", "InfoMeas1_3_00_256")])  # fmt: skip
def test_what_nobody_sees_is_not_named(module, source):
    assert not is_plain(describe_column("Cells", module, source, "DAPI").__dict__)


def test_the_scores_of_shifts_are_quoted(run):
    said = read_scored_shifts(run / "results/score/toy/scores.tsv")
    assert said[TAG] == "r 0.323 (0.273 to 0.373), slope 0.423 (0.373 to 0.473)"
    assert NASTY not in said


def test_a_dictionary_that_does_not_fit_is_named(copy):
    table = pd.read_parquet(copy.features / "features.parquet")
    table.drop(columns="Cells_AreaShape_Area").to_parquet(copy.features / "features.parquet")
    assert any("'Cells_AreaShape_Area'" in line for line in describe_slide_transitions(copy, 0).problems)
