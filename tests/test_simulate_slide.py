"""The simulated slide holds together: labels, counts, tables, transcripts, factors, counterfactuals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from spatia.xenium.simulate import LAYOUTS, SimulatedSlide, SimulationParams, cell_ids, simulate_slide
from spatia.xenium.simulate.fields import Box, block_noise, sample
from spatia.xenium.simulate.morphology import NICHE_EFFECT, PARAMETER_NAMES
from spatia.xenium.simulate.paint import cut, paint, settle
from spatia.xenium.simulate.render import LENS_REACH_PX
from spatia.xenium.simulate.states import STATE_NAMES, TRANSITIONS
from spatia.xenium.simulate.truth import WINDOW_PX

PARAMS = SimulationParams(
    seed=5, width_px=1280, height_px=1536, n_counterfactuals=3, n_flawed_cells=8, stack_planes=3, he=True
)
BACKGROUND = 0


@pytest.fixture(scope="module")
def slide() -> SimulatedSlide:
    return simulate_slide(PARAMS, np.random.default_rng(PARAMS.seed))


def _small(**changes: object) -> SimulatedSlide:
    small = {"width_px": 512, "height_px": 640, "n_counterfactuals": 1, "stack": False, "transcripts": False}
    params = SimulationParams(**{"seed": 3, "he": False, **small, **changes})  # type: ignore[arg-type]
    return simulate_slide(params, np.random.default_rng(params.seed))


def test_shapes_and_types_agree(slide: SimulatedSlide) -> None:
    shape = (PARAMS.height_px, PARAMS.width_px)
    assert slide.focus.shape == (4, *shape)
    assert slide.stack is not None
    assert slide.stack.shape == (3, *shape)
    assert slide.cell_labels.shape == slide.nucleus_labels.shape == shape
    assert slide.focus.dtype == slide.stack.dtype == np.uint16
    assert slide.cell_labels.dtype == slide.nucleus_labels.dtype == np.uint32
    assert slide.counts.shape == (slide.n_cells, len(slide.features))
    assert slide.counts.dtype == np.int32
    assert len(slide.truth.cells) == slide.n_cells


def test_labels_are_consecutive_connected_and_measured(slide: SimulatedSlide) -> None:
    labels = slide.cell_labels
    assert np.array_equal(np.unique(labels), np.arange(slide.n_cells + 1))
    for label, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), 1):
        mask = labels[box] == label
        assert ndimage.label(mask)[1] == 1
    some = 17
    rows, columns = np.nonzero(labels == some)
    row = slide.cells.iloc[some - 1]
    assert row["x_um"] == pytest.approx((columns.mean() + 0.5) * 0.2125)
    assert row["y_um"] == pytest.approx((rows.mean() + 0.5) * 0.2125)
    assert row["cell_area_um2"] == pytest.approx(len(rows) * 0.2125**2)
    assert row["nucleus_area_um2"] == pytest.approx((slide.nucleus_labels == some).sum() * 0.2125**2)


def test_nuclei_lie_in_their_cells(slide: SimulatedSlide) -> None:
    inside = slide.nucleus_labels > 0
    assert np.array_equal(slide.nucleus_labels[inside], slide.cell_labels[inside])
    assert (slide.cells["nucleus_area_um2"] > 0).mean() > 0.95
    dapi = slide.focus[0]
    assert dapi[inside].mean() > 3 * dapi[(slide.cell_labels > 0) & ~inside].mean()


def test_cells_touch(slide: SimulatedSlide) -> None:
    labels = slide.cell_labels
    left, right = labels[:, :-1], labels[:, 1:]
    pairs = np.column_stack([left.ravel(), right.ravel()])
    touching = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs > 0).all(axis=1)]
    assert len(np.unique(touching)) > 0.5 * slide.n_cells


def test_every_state_lives_here_and_counts_are_as_asked(slide: SimulatedSlide) -> None:
    assert set(slide.truth.cells["state"]) == set(STATE_NAMES)
    is_gene = (slide.features["type"] == "Gene Expression").to_numpy()
    assert is_gene.sum() > 300
    per_cell = np.asarray(slide.counts[:, is_gene].sum(axis=1)).ravel()
    assert np.median(per_cell) == pytest.approx(PARAMS.median_counts, rel=0.15)
    assert per_cell.var() > 3 * per_cell.mean()  # over-dispersed
    controls = np.asarray(slide.counts[:, ~is_gene].sum(axis=1)).ravel()
    assert 0 < controls[slide.truth.cells["flaw"] == ""].mean() < 0.1


def test_markers_rise_in_their_states(slide: SimulatedSlide) -> None:
    state = slide.truth.cells["state"].to_numpy()
    for name, gene in (("mgEpi_KRT14+", "KRT14"), ("EC_CLEC14A+", "CLEC14A"), ("Epi_CENPF+", "CENPF")):
        column = slide.features["name"].tolist().index(gene)
        level = np.asarray(slide.counts[:, column].todense()).ravel()
        assert level[state == name].mean() > 4 * level[state != name].mean()


def test_transcripts_add_up_to_the_counts(slide: SimulatedSlide) -> None:
    transcripts = slide.transcripts
    assert transcripts is not None
    good = transcripts[(transcripts["qv"] >= 20) & (transcripts["label"] > 0)]
    rows, columns = good["label"].to_numpy(int) - 1, good["feature"].to_numpy(int)
    table = np.zeros(slide.counts.shape, int)
    np.add.at(table, (rows, columns), 1)
    assert np.array_equal(table, slide.counts.toarray())
    row = (transcripts["y_um"] / slide.pixel_size_um).astype(int)
    column = (transcripts["x_um"] / slide.pixel_size_um).astype(int)
    assert np.array_equal(slide.cell_labels[row, column], transcripts["label"])
    assert np.array_equal(slide.nucleus_labels[row, column] > 0, transcripts["overlaps_nucleus"] == 1)


def test_flaws_are_there_for_qc_to_find(slide: SimulatedSlide) -> None:
    flaw = slide.truth.cells["flaw"].to_numpy()
    assert pd.Series(flaw).value_counts().drop("").to_dict() == {"empty": 2, "control": 2, "tiny": 2, "huge": 2}
    total = np.asarray(slide.counts.sum(axis=1)).ravel()
    probes = (slide.features["type"] == "Negative Control Probe").to_numpy()
    area = slide.cells["cell_area_um2"].to_numpy()
    assert (total[flaw == "empty"] == 0).all()
    assert (np.asarray(slide.counts[:, probes].sum(axis=1)).ravel()[flaw == "control"] >= 12).all()
    assert area[flaw == "tiny"].max() < 4
    assert area[flaw == "huge"].min() > np.percentile(area, 97)


def test_same_seed_same_slide_and_another_seed_another() -> None:
    first, second, other = _small(transcripts=True), _small(transcripts=True), _small(seed=4)
    for name in ("focus", "cell_labels", "nucleus_labels"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert (first.counts != second.counts).nnz == 0
    pd.testing.assert_frame_equal(first.truth.cells, second.truth.cells)
    pd.testing.assert_frame_equal(first.transcripts, second.transcripts)
    pairs = first.truth.counterfactuals, second.truth.counterfactuals
    assert np.array_equal(pairs[0].counterfactual, pairs[1].counterfactual)
    assert first.focus.shape != other.focus.shape or not np.array_equal(first.focus, other.focus)


def test_donors_differ_in_stain_and_genes_and_not_without_a_donor_effect() -> None:
    one, two = _small(donor="d1"), _small(donor="d2")
    assert np.array_equal(one.cell_labels, two.cell_labels)
    assert not np.array_equal(one.focus, two.focus)
    assert not np.allclose(one.truth.log_folds, two.truth.log_folds, atol=1e-6)
    one, two = _small(donor="d1", donor_effect=0.0), _small(donor="d2", donor_effect=0.0)
    assert np.array_equal(one.focus, two.focus)
    assert (one.counts != two.counts).nnz == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_unique_and_not_in_label_order(layout: str) -> None:
    ids = cell_ids(500, layout, seed=1)
    assert len(set(ids)) == 500
    assert list(ids) != sorted(ids)
    assert list(ids) == list(cell_ids(500, layout, seed=1))
    assert list(ids) != list(cell_ids(500, layout, seed=2))
    pattern = r"\d+" if layout == "1.0" else r"[a-p]{8}-1"
    assert pd.Series(ids).str.fullmatch(pattern).all()


def test_features_follow_the_layout() -> None:
    types = {layout: set(_small(layout=layout).features["type"]) for layout in ("2.0", "3.0", "4.0")}
    assert types["3.0"] - types["2.0"] == {"Genomic Control"}
    assert types["4.0"] - types["3.0"] == {"Protein Expression"}


def test_early_layouts_have_dapi_only() -> None:
    assert _small(layout="1.4").focus.shape[0] == 1
    with pytest.raises(ValueError, match="DAPI only"):
        SimulationParams(layout="1.0", n_stains=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layout": "5.0"}, "layout"), ({"n_stains": 2}, "n_stains"), ({"width_px": 100}, "512"), ({"seed": -1}, "seed")],
)
def test_bad_parameters_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PARAMS, **change)  # type: ignore[arg-type]


def test_he_matrix_takes_he_pixels_to_morphology(slide: SimulatedSlide) -> None:
    assert slide.he is not None
    assert slide.he_to_morphology is not None
    y, x = np.mgrid[0 : slide.he.shape[0] : 3, 0 : slide.he.shape[1] : 3]
    points = slide.he_to_morphology @ np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.ones(x.size)])
    columns, rows = np.floor(points[:2]).astype(int)
    height, width = slide.cell_labels.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    red = slide.he[::3, ::3, 0].ravel()[inside].astype(float)
    nucleus = slide.nucleus_labels[rows[inside], columns[inside]] > 0
    moved = slide.nucleus_labels[rows[inside], np.clip(columns[inside] + 12, 0, width - 1)] > 0
    assert 0.5 < inside.mean() < 1
    contrast = red[~nucleus].mean() - red[nucleus].mean()
    assert contrast > 60
    assert contrast > 1.5 * (red[~moved].mean() - red[moved].mean())


# --- what a window alone shows is what the slide shows ---


def test_noise_and_fields_depend_on_the_place_only() -> None:
    wide, part = Box(-20, 100, 600, 400), Box(200, 230, 90, 70)
    inner = np.s_[220:310, 130:200]
    noise = block_noise(wide, 2, (1, 2))
    assert np.array_equal(noise[(slice(None), *inner)], block_noise(part, 2, (1, 2)))
    field = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    assert np.array_equal(sample(field, 4, wide)[inner], sample(field, 4, part))


def test_a_window_painted_alone_equals_the_slide(slide: SimulatedSlide) -> None:
    cells = slide.truth.cells
    margin = 2 * 98
    box = Box(500, 400, 160, 210)
    outlines = settle(paint(cells, box.grow(margin)), cells)
    window = outlines.label[margin:-margin, margin:-margin]
    assert window.max() > 0
    assert np.array_equal(window, slide.cell_labels[500:660, 400:610])


def test_cut_pads_beyond_the_slide(slide: SimulatedSlide) -> None:
    layers = paint(slide.truth.cells, Box(0, 0, 60, 80))
    piece = cut(layers, Box(-5, 70, 20, 30))
    assert piece.label.shape == (20, 30)
    assert np.array_equal(piece.label[5:, :10], layers.label[:15, 70:80])
    assert (piece.label[:5] == 0).all()
    assert (piece.first[:, 10:] > 1).all()


# --- counterfactuals ---


def test_counterfactuals_change_the_cell_and_nothing_far_from_it(slide: SimulatedSlide) -> None:
    pairs = slide.truth.counterfactuals
    assert set(pairs.table["transition"]) == {transition.name for transition in TRANSITIONS}
    assert pairs.factual.shape == (len(pairs.table), 4, WINDOW_PX, WINDOW_PX)
    for k, row in enumerate(pairs.table.itertuples()):
        window = np.s_[row.y0 : row.y0 + WINDOW_PX, row.x0 : row.x0 + WINDOW_PX]
        assert np.array_equal(pairs.factual[k], slide.focus[(slice(None), *window)])
        assert np.array_equal(pairs.factual_mask[k], slide.cell_labels[window] == row.label)
        changed = (pairs.factual[k] != pairs.counterfactual[k]).any(axis=0)
        cell = pairs.factual_mask[k] | pairs.counterfactual_mask[k]
        assert changed[cell].mean() > 0.5
        # cells within its reach gain or lose ground to it; light spreads over some 14 px
        reach = _reach_px(row._asdict())
        yx = np.mgrid[row.y0 : row.y0 + WINDOW_PX, row.x0 : row.x0 + WINDOW_PX] + 0.5
        centre = slide.truth.cells.loc[row.label - 1, ["y", "x"]].to_numpy(float)
        disc = np.hypot(*(yx - centre[:, None, None])) < reach
        touched = np.unique(slide.cell_labels[window][disc])
        near = disc | np.isin(slide.cell_labels[window], touched[touched > BACKGROUND])
        far = ~ndimage.maximum_filter(near, 2 * LENS_REACH_PX + 1)
        assert not changed[far].any()


def _reach_px(row: dict[str, float]) -> float:
    """How far a cell's ellipse with its waves can reach, before or after."""
    names = ("before", "after")
    areas, stretches = ([row[f"{name}_{when}"] for when in names] for name in ("log_area", "log_stretch"))
    return 1.25 * np.sqrt(np.exp(max(areas)) / np.pi) / 0.2125 * np.exp(max(*stretches, 0) / 2)


def test_counterfactual_parameters_move_by_the_planted_effect(slide: SimulatedSlide) -> None:
    table = slide.truth.counterfactuals.table
    effects = slide.truth.effects.set_index(["transition", "parameter"])
    for row in table.to_dict("records"):
        for name in PARAMETER_NAMES:
            effect = effects.loc[(row["transition"], name)]
            planted = row["program_strength"] * effect["change"] + row["has_niche_effect"] * effect["niche_effect"]
            assert row[f"{name}_after"] - row[f"{name}_before"] == pytest.approx(planted)


def test_one_transition_carries_no_niche_effect_and_others_do() -> None:
    without = [t for t in TRANSITIONS if not t.niches]
    assert [t.name for t in without] == ["EC_CAVIN2+->EC_CLEC14A+"]
    assert {(t.target, niche) for t in TRANSITIONS for niche in t.niches} == set(NICHE_EFFECT)


# --- planted classes: each visible in one thing only ---


def test_each_class_shows_only_where_it_should(slide: SimulatedSlide) -> None:
    # learned on one slide and tested on another: on one slide alone, chance makes hot and bright regions meet
    params = dataclasses.replace(PARAMS, seed=6, n_counterfactuals=0, he=False, stack=False, transcripts=False)
    pair = slide, simulate_slide(params, np.random.default_rng(params.seed))
    views = {"image": _image_view, "genes": _gene_view, "surroundings": _surroundings_view}
    for view, measure in views.items():
        x = [measure(s) for s in pair]
        for factor, visible in slide.truth.class_factors.items():
            classes = [s.truth.cells[factor].to_numpy() for s in pair]
            known = [c != "" for c in classes]
            y = [c[k] == max(classes[0]) for c, k in zip(classes, known, strict=True)]
            accuracy = _probe((x[0][known[0]], y[0]), (x[1][known[1]], y[1]))
            assert (accuracy > 0.66) if view == visible else (accuracy < 0.58), (factor, view, accuracy)


def _image_view(slide: SimulatedSlide) -> np.ndarray:
    index = np.arange(1, slide.n_cells + 1)
    nuclei = slide.nucleus_labels
    columns = []
    for stain in slide.focus:
        mean = ndimage.mean(stain, slide.cell_labels, index)
        columns += [np.log(mean + 1), np.log(ndimage.standard_deviation(stain, slide.cell_labels, index) + 1)]
    sharp = slide.focus[0].astype(float)
    ripple = np.abs(ndimage.gaussian_filter(sharp, 1.0) - ndimage.gaussian_filter(sharp, 2.5))
    inner = np.where(ndimage.minimum_filter(nuclei, 7) == nuclei, nuclei, 0)
    with np.errstate(invalid="ignore"):  # tiny nuclei have no inner part
        level, ripple_level = (ndimage.mean(image, inner, index) for image in (sharp, ripple))
    columns.append(np.nan_to_num(np.log((ripple_level + 1) / (level + 1))))
    return np.column_stack([*columns, np.log(slide.cells["cell_area_um2"])])


def _gene_view(slide: SimulatedSlide) -> np.ndarray:
    return np.log1p(slide.counts[:, (slide.features["type"] == "Gene Expression").to_numpy()].toarray())


def _surroundings_view(slide: SimulatedSlide) -> np.ndarray:
    """States of the 20 nearest cells: what stands around a cell, without the cell."""
    from scipy.spatial import cKDTree

    points = slide.cells[["x_um", "y_um"]].to_numpy()
    near = cKDTree(points).query(points, k=21)[1][:, 1:]
    state = pd.Categorical(slide.truth.cells["state"], categories=STATE_NAMES).codes
    return np.stack([(state[near] == k).mean(axis=1) for k in range(len(STATE_NAMES))], axis=1)


def _probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the balanced accuracy of a ridge classifier, each slide standardised by itself."""
    x, x_test = ((part - part.mean(axis=0)) / (part.std(axis=0) + 1e-9) for part, _ in (train, test))
    y, y_test = train[1], test[1]
    target = np.where(y, 1 / y.mean(), -1 / (1 - y.mean()))
    w = np.linalg.solve(x.T @ x + 0.1 * len(y) * np.eye(x.shape[1]), x.T @ target)
    guess = x_test @ w > 0
    return float((guess[y_test].mean() + (~guess[~y_test]).mean()) / 2)
