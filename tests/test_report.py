"""The page, the cohort table and the figures: parsed, measured in pixels, opened in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy_run import FAILED, REASON, fail, run_stages, write_sheet

from spatia import keys
from spatia.cli import main
from spatia.io import read_json
from spatia.report import fields, figures, gallery, micrograph, overview, plots, runtime, slide_figures, status
from spatia.report.cohort import SlideFacts, cohort_table
from spatia.report.html import RunPage, SlidePage, format_number, format_percent, inline_image, render_page
from spatia.report.plots import Picture
from spatia.report.sheet import read_sheet
from spatia.report.slide_figures import SlideFiles, draw_slide
from spatia.report.status import Status
from spatia.xenium.store import open_slide

ROWS = [
    {"slide": "toy", "bundle": "b", "donor": "D1", "tissue": "breast", "species": "human", "split": "train"},
    {"slide": "old", "bundle": "simulated", "donor": "D2", "species": "human", "split": "qc"},
    {"slide": FAILED, "bundle": "b", "donor": "D&3", "tissue": "<td>", "split": "apply"},
]
BENCHMARK = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run_stages(folder, "toy")
    run_stages(folder, "old", "1.0", with_he=False)
    export = folder / "results/export/toy/toy.h5ad"
    export.parent.mkdir(parents=True)
    export.touch()
    (folder / "results/embed/toy/embeddings").mkdir(parents=True)
    fail(folder, FAILED, "ingest", f"reading\nspatia ingest: error: first\n{REASON}\nbye\n")
    for rule, job, line in (
        ("qc", "toy", "12.5\t0:00:12\t512.2"),
        ("qc", "old", "2\t0\t-"),
        ("report", "run", "1\t0\t9"),
    ):
        benchmark = folder / "logs/benchmarks" / rule / f"{job}.tsv"
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text(BENCHMARK + line + "\t-" * 7 + "\n", encoding="utf-8")
    write_sheet(folder, ROWS)
    return folder


def report(run, out, *more):
    return main(
        [
            "report",
            f"--run={run}",
            f"--slides={run}/config/slides.tsv",
            f"--out={out}/report.html",
            f"--cohort={out}/cohort.tsv",
            f"--figures={out}/figures",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def written(run):
    assert report(run, run / "out", "--failed-ok") == 0
    return run / "out"


class Page(HTMLParser):
    """Everything in a page that a browser would load, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.links, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.links += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text(encoding="utf-8"))


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)


# --- the page ---


def test_page_needs_nothing_from_outside(page, written):
    assert page.images
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    text = (written / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|https?://", re.sub(r"base64,[^\"]*", "", text).replace("http-equiv", ""))


def test_images_are_what_they_say(page):
    for image in page.images:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", image["src"]).groups()
        opened = Image.open(io.BytesIO(base64.b64decode(data)))
        assert opened.format == kind.upper()
        assert opened.size == (int(image["width"]), int(image["height"]))


def test_every_slide_is_there_the_failed_one_first(page):
    text = "\n".join(page.texts)
    assert all(row["slide"] in text for row in ROWS)
    assert page.texts.count("simulated") == 1
    names = [t for t in page.texts if t in {row["slide"] for row in ROWS}]
    assert names[0] == FAILED
    assert "spatia report" in text


def test_failure_is_given_and_escaped(page, written):
    assert REASON in page.texts
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert FAILED not in text
    assert {"D&3", "<td>"} <= set(page.texts)


def test_page_shows_run_times(page):
    assert "qc" in page.texts
    assert "12.5" in page.texts


def test_incomplete_slides_are_an_error_unless_expected(run, tmp_path, capsys):
    assert report(run, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "3 complete slides, found 1" in message
    assert "--failed-ok" in message
    assert not (tmp_path / "out").exists()


def test_partial_results_are_shown(run, tmp_path):
    partial = tmp_path / "run"
    shutil.copytree(run / "results", partial / "results")
    for folder in ("qc/toy", "crop/toy"):
        shutil.rmtree(partial / "results" / folder)
    pictures, problems = draw_slide(SlideFiles(partial, "toy"), None, seed=0)
    assert [picture.name for picture in pictures] == ["overview", "windows", "stains", "he", "cells_per_niche"]
    assert problems == []


def test_unreadable_file_is_named_and_the_rest_is_shown(run, tmp_path, capsys):
    broken = tmp_path / "run"
    shutil.copytree(run / "results/qc/toy", broken / "results/qc/toy")
    (broken / "results/qc/toy/histograms.npz").write_bytes(b"PK, but no archive")
    for done in (
        "ingest/toy/ingest.json",
        "tile/toy/tiles/x",
        "export/toy/toy.h5ad",
        "crop/toy/crops/x",
        "embed/toy/embeddings/x",
    ):
        (broken / "results" / done).parent.mkdir(parents=True)
        (broken / "results" / done).write_text("{}", encoding="utf-8")
    write_sheet(broken, ROWS[:1])
    assert report(broken, tmp_path / "out", "--failed-ok") == 0
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "The grey values could not be drawn" in text
    assert "tiles.json" in text
    assert [path.name for path in (tmp_path / "out/figures/toy").iterdir()] == ["cells.png"]
    assert report(broken, tmp_path / "strict") == 1
    assert "could not be drawn" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists() or not list((tmp_path / "strict").iterdir())


def test_figures_are_written_and_always_the_same(run, written):
    drawn, problems = draw_slide(SlideFiles(run, "toy"), read_json(run / "results/qc/toy/qc.json"), seed=0)
    assert problems == []
    names = {
        "overview",
        "removed",
        "windows",
        "stains",
        "he",
        "gallery",
        "cells",
        "grey_values",
        "count_map",
        "cells_per_niche",
    }
    assert {picture.name for picture in drawn} == names
    for picture in drawn:
        assert (written / "figures/toy" / f"{picture.name}.png").read_bytes() == picture.png, picture.name
    assert (written / "figures/all slides/runtime.png").exists()


def test_seed_changes_the_gallery(run):
    same, again, other = (slide_figures.draw_gallery_of(SlideFiles(run, "toy"), seed)[0].png for seed in (0, 0, 1))
    assert same == again != other


def test_many_slides_fit_into_one_page():
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    picture = Picture("overview", "t", "c", buffer.getvalue(), is_photo=True)
    sizes = [len(inline_image(picture, n).source) for n in (1, 10, 30, 200)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 6
    slides = [SlidePage(SlideFacts({"slide": f"s{i}"}, Status(status.OK), None, None)) for i in range(200)]
    rules = runtime.summarise_rules(pd.DataFrame(columns=runtime.JOB_COLUMNS))
    text = render_page(RunPage("t", "now", [], None, rules, None, slides))
    assert text.count('<details class="slide"') == 200
    assert text.count('<details class="slide" id="slide-0" open') == 1
    assert "s199" in text


# --- the cohort ---


def test_cohort_has_one_row_a_slide_with_qc_numbers(run, written):
    table = pd.read_csv(written / "cohort.tsv", sep="\t").set_index("slide")
    assert list(table.index) == [row["slide"] for row in ROWS]
    qc = read_json(run / "results/qc/toy/qc.json")
    toy = table.loc["toy"]
    assert (toy["cells_in"], toy["cells_out"]) == (qc["n_cells_in"], qc["n_cells_out"])
    assert toy["cells_in"] - toy["cells_out"] == sum(toy[f"removed_{reason}"] for reason in qc["removed"])
    assert toy["median_counts"] == qc["median_counts"]
    assert toy["focus_DAPI"] == qc["stains"]["DAPI"]["focus"]
    assert toy["xoa_version"] == read_json(run / "results/ingest/toy/ingest.json")["xoa_version"]
    assert table.loc[FAILED, "state"] == "failed"
    assert table.loc[FAILED, "message"] == REASON
    assert pd.isna(table.loc[FAILED, "cells_in"])
    assert pd.isna(table.loc["old", "focus_18S"])


def test_counts_stay_whole_numbers_beside_a_failed_slide(written):
    header, first = (written / "cohort.tsv").read_text(encoding="utf-8").splitlines()[:2]
    assert dict(zip(header.split("\t"), first.split("\t"), strict=True))["cells_in"] == "14"


def test_cohort_of_nothing_but_failures():
    table = cohort_table([SlideFacts({"slide": "a"}, Status(status.FAILED, "ingest", "why"), None, None)])
    assert table.loc[0, ["slide", "state", "message"]].tolist() == ["a", "failed", "why"]


# --- status ---


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\nspatia qc: error: one\nspatia qc: error: two\nlast words\n", "spatia qc: error: two"),
        ("loading\nhalf a li", "ended without a message (killed or out of memory?), see LOG"),
        ("", "ended without a message (killed or out of memory?), see LOG"),
        (
            "spatia qc: error: a bug in spatia, please\nTraceback\n  x\nZeroDivisionError: no\n",
            "spatia qc: error: a bug in spatia, please: ZeroDivisionError: no",
        ),
    ],
)
def test_reason_of_a_failure(text, reason):
    assert status.failure_reason(text, "LOG") == reason


def test_first_stage_without_output_is_the_one_that_failed(tmp_path):
    row = {"slide": "a", "bundle": "b", "split": "train"}
    stages = status.stages_of(row, with_export=True)
    assert stages == ["ingest", "qc", "crop", "tile", "pretrain", "embed", "export"]
    assert status.find_status(tmp_path, "a", stages) == Status("not run", "ingest", "ingest did not start")
    for stage in ("ingest", "crop"):
        done = tmp_path / status.OUTPUTS[stage].format(slide="a")
        done.parent.mkdir(parents=True)
        done.touch()
    fail(tmp_path, "a", "crop", "error: old")
    fail(tmp_path, "a", "qc", "error: full disk")
    assert status.find_status(tmp_path, "a", stages) == Status("failed", "qc", "error: full disk")


def test_stages_follow_the_sheet():
    assert status.stages_of({"split": "qc", "bundle": "simulated"}, True) == ["simulate", "ingest", "qc", "crop"]
    assert status.stages_of({"split": "apply"}, False) == ["ingest", "qc", "crop", "tile", "pretrain", "embed"]


def test_sheet_keeps_text_as_it_is(tmp_path):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("# a comment\nslide\tdonor\n001\tNA\n", encoding="utf-8")
    assert read_sheet(sheet) == [{"slide": "001", "donor": "NA"}]


# --- pictures, in pixels ---


def test_overview_shows_up_as_up_and_left_as_left():
    planes = np.zeros((1, 60, 100), np.uint16)
    planes[0, 5:15, 80:95] = 1000  # upper right
    field = micrograph.Field(planes, ("DAPI",), (0, 0, 100, 60))
    image = pixels(overview.draw_overview(field, [], None, [], 0))
    image = image[image.shape[0] - round(0.6 * image.shape[1]) :]  # below the band of the legend
    height, width = image.shape[:2]
    assert image[int(height * 10 / 60), int(width * 0.87)].min() > 200
    assert image[int(height * 50 / 60), int(width * 0.1)].max() < 20
    assert image[int(height * 10 / 60), int(width * 0.1)].max() < 20


def test_outlines_lie_where_they_are_in_micrometres():
    field = micrograph.Field(np.zeros((1, 60, 100), np.uint16), ("DAPI",), (0, 0, 200, 120))
    ring = np.array([[40.0, 20], [100, 20], [100, 50], [40, 50], [40, 20]])
    image = pixels(overview.draw_overview(field, [ring], None, [], 1))
    image = image[image.shape[0] - round(0.6 * image.shape[1]) :]
    bright = image.max(axis=2) > 60
    bright[int(0.85 * len(bright)) :] = False  # the scale bar
    ys, xs = np.nonzero(bright)
    per_um = image.shape[1] / 200
    np.testing.assert_allclose([xs.min(), xs.max(), ys.min(), ys.max()], np.array([40, 100, 20, 50]) * per_um, atol=3)


@pytest.mark.parametrize("width_um", [37.0, 880.0, 13000.0])
def test_scale_bar_is_as_long_as_it_says(width_um):
    with plots.new_figure(6, 4) as figure:
        axes = micrograph.image_axes(figure, 0)
        plots.show_image(axes, np.zeros((40, 60), np.uint8), (0, 0, width_um, width_um * 2 / 3))
        length = plots.add_scale_bar(axes)
        image = pixels(Picture("x", "x", "x", plots.to_png(figure)))
    white = (image.min(axis=2) > 250).sum(axis=1).max()  # the longest white row is the bar
    assert white / image.shape[1] == pytest.approx(length / width_um, abs=0.006)
    assert 0.09 < length / width_um <= 0.25


def test_round_lengths():
    assert [plots.round_length_um(width) for width in (40, 79, 80, 900, 20000)] == [10, 10, 20, 200, 5000]
    assert [plots.length_text(length) for length in (20.0, 1000.0, 2500.0)] == ["20 µm", "1 mm", "2.5 mm"]


def test_mask_contours_run_along_pixel_edges():
    labels = np.zeros((10, 12), np.uint32)
    labels[2:5, 3:9] = 7
    labels[0:2, 0:1] = 9
    rings = micrograph.mask_contours(labels)
    assert set(rings) == {7, 9}
    corners = np.concatenate(rings[7])
    assert (*corners.min(axis=0), *corners.max(axis=0)) == (3, 2, 9, 5)
    assert np.concatenate(rings[9]).min() == 0


def test_windows_are_chosen_where_the_cells_are():
    x = np.array([15, 16, 17, 55, 56, 95.0, np.nan, -5])
    y = np.array([25, 26, 27, 5, 6, 45.0, 3, 3])
    boxes = overview.choose_windows(x, y, (100, 50), 10)
    assert boxes == [(11, 21, 21, 31), (50.5, 0.5, 60.5, 10.5)]  # centred on three, then on two cells
    corner = overview.choose_windows(np.array([99.0]), np.array([49.0]), (100, 50), 10)
    assert corner == [(90, 40, 100, 50)]
    assert overview.choose_windows(x[:0], y[:0], (100, 50), 60) == [(0, 0, 50, 50)]


def test_window_is_read_at_full_resolution(run):
    store = open_slide(run / "results/ingest/toy/slide.zarr")
    step = store.pixel_size_um
    window = fields.read_window(store, (20 * step, 30 * step, 60 * step, 90 * step), None)
    np.testing.assert_array_equal(window.field.planes, store.image[:, 30:90, 20:60])
    np.testing.assert_array_equal(window.cell_labels, store.cell_labels[30:90, 20:60])
    assert window.field.um_per_px == pytest.approx(step)


def test_shrinking_keeps_the_mean(run):
    store = open_slide(run / "results/ingest/toy/slide.zarr")
    field = fields.read_overview(store, 88)
    assert max(field.planes.shape[1:]) == 88
    np.testing.assert_allclose(field.planes.mean(axis=(1, 2)), np.asarray(store.image).mean(axis=(1, 2)), rtol=0.01)


def test_small_tile_lies_on_the_full_one(run):
    store = open_slide(run / "results/ingest/toy/slide.zarr")
    luts = [np.minimum(np.arange(65536) // 16, 255).astype(np.uint8)] * 4
    tile = fields.read_small_tile(store, luts, 0, 256, 256, 256)
    assert tile.shape == (4, 256, 256)
    np.testing.assert_array_equal(tile[0, :, :96], luts[0][store.image[0, :, 256:]])
    assert not tile[:, :, 96:].any()


def test_gallery_cells_are_random_but_seeded():
    chosen = [gallery.choose_cells(1000, 8, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(set(chosen[0]))
    assert gallery.choose_cells(3, 8, np.random.default_rng(0)) == [0, 1, 2]


def test_measures_a_slide_lacks_are_left_out():
    cells = pd.DataFrame({keys.N_COUNTS: [0, 6], keys.N_CONTROLS: [0, 2], keys.CELL_AREA_UM2: [10.0, 20.0]})
    cells[keys.NUCLEUS_AREA_UM2] = np.nan
    names = [measure.label for measure in figures.cell_measures(cells, {})]
    assert names == ["transcripts per cell", "cell area (µm²)", "control rate"]
    assert figures.control_rate(cells).tolist()[1] == 0.25
    assert np.isnan(figures.control_rate(cells)[0])


def test_bars_of_whole_numbers_hold_equally_many():
    edges = figures.histogram_bins(np.arange(200.0), is_whole=True, is_rare=False)
    assert set(np.diff(edges)) == {4}
    assert edges[0] == -0.5
    few = figures.histogram_bins(np.array([0.0, 1, 2]), is_whole=True, is_rare=False)
    assert few[:3].tolist() == [-0.5, 0.5, 1.5]


def test_rare_values_are_on_the_axis():
    values = np.r_[np.zeros(1000), 0.03]
    assert figures.histogram_bins(values, is_whole=False, is_rare=True)[-1] > 0.03
    assert figures.histogram_bins(np.zeros(5), is_whole=False, is_rare=True)[-1] == 1


# --- run time ---


def test_benchmarks_are_summarised_per_rule(run):
    rules = runtime.summarise_rules(runtime.read_benchmarks(run / "logs/benchmarks")).set_index("rule")
    assert list(rules.index) == ["qc", "report"]
    assert rules.loc["qc", ["jobs", "median_s", "max_s", "slowest", "max_mb"]].tolist() == [2, 7.25, 12.5, "toy", 512.2]


def test_half_written_benchmark_is_left_out(tmp_path):
    (tmp_path / "qc").mkdir()
    (tmp_path / "qc/a.tsv").write_text("s\th:m:s", encoding="utf-8")
    assert runtime.read_benchmarks(tmp_path).empty


def test_numbers_for_people():
    assert [format_number(v) for v in (6830, 0.14793, 30.0, None, float("nan"), 1234.5)] == [
        "6,830",
        "0.148",
        "30",
        "—",
        "—",
        "1,234",
    ]
    assert [format_percent(v) for v in (0.000128, 0.5, None, 1.0)] == ["0.013 %", "50 %", "—", "100 %"]


# --- a browser ---


def browse(url, folder):
    """Open a page; return the addresses that were asked for and what the console said."""
    log = folder / "net.json"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
        "--no-first-run", "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}", "--enable-logging=stderr", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    content = json.loads(text if text.endswith("}") else text + "]}")
    parameters = [event["params"] for event in content["events"] if "url" in event.get("params", {})]
    # what the browser asks for on its own account has no page as its origin
    asked = {p["url"] for p in parameters if p["url"].startswith("http") and p.get("initiator") in ("file://", "null")}
    return asked, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_browser_asks_for_nothing_and_does_not_complain(written, tmp_path):
    control = tmp_path / "control.html"
    control.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("seen")</script>', encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    asked, said = browse(control.as_uri(), tmp_path / "a")
    assert "http://127.0.0.1:9/x.png" in asked  # the test can see requests and complaints
    assert any("seen" in line for line in said)
    asked, said = browse((written / "report.html").as_uri(), tmp_path / "b")
    assert asked == set()
    assert said == []
