"""CellProfiler's features: names, what they measure, failures, order."""

import numpy as np
import pandas as pd
import pytest
from cellprofiler_example import compare, read_example
from toy_generated import STAINS, disc, draw_cell

from spatia.measure.agreement import compare_columns
from spatia.measure.feature_columns import describe_column, image_name
from spatia.measure.features import (
    Recipe,
    feature_columns,
    join_measured,
    measure_chunks,
    measure_images,
    measure_shape,
    measure_stain,
    split_chunks,
)

RECIPE = Recipe(STAINS, threshold=0.025, rim_share=0.45, min_cell_px=5)


def images(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([draw_cell(rng, 0.3, 14)[0] for _ in range(n)])


def named(values, recipe=RECIPE):
    return dict(zip((column.name for column in feature_columns(recipe.stains)), values, strict=True))


def test_names_are_cellprofilers():
    names = [column.name for column in feature_columns(("DAPI", "ATP1A1/CD45/E-Cadherin"))]
    assert len(names) == len(set(names))
    for name in (
        "Cells_AreaShape_Area",
        "Cells_AreaShape_Zernike_9_9",
        "Cells_Intensity_MeanIntensityEdge_DAPI",
        "Cells_Texture_Contrast_ATP1A1_CD45_E_Cadherin_3_02_256",
        "Cells_Granularity_16_DAPI",
        "Cells_RadialDistribution_FracAtD_DAPI_1of4",
        "Cells_RadialDistribution_ZernikePhase_DAPI_9_7",
        "Nuclei_AreaShape_MaxFeretDiameter",
        "Nuclei_Intensity_MADIntensity_DAPI",
    ):
        assert name in names


def test_positions_and_constant_moments_are_left_out():
    names = " ".join(column.name for column in feature_columns(STAINS))
    for word in (
        "Center",
        "BoundingBoxMin",
        "Location",
        "NormalizedMoment_0_0",
        "NormalizedMoment_0_1",
        "CentralMoment_1_0",
    ):
        assert word not in names
    assert "NormalizedMoment_1_0" not in names
    assert "BoundingBoxArea" in names


def test_without_dapi_there_are_no_nuclei():
    assert {column.object for column in feature_columns(("18S",))} == {"Cells"}
    assert {column.object for column in feature_columns(("18S", "DAPI"))} == {"Cells", "Nuclei"}


def test_angles_are_marked():
    marked = {column.source.split("_")[0] for column in feature_columns(STAINS) if column.is_angle}
    assert marked == {"Orientation", "RadialDistribution"}


def test_every_column_has_a_meaning():
    assert all(column.meaning and column.unit for column in feature_columns(STAINS))
    with pytest.raises(KeyError, match="no meaning"):
        describe_column("Cells", "sizeshape", "Charm", "")


def test_stains_of_one_name_are_refused():
    assert image_name("a/b") == image_name("a-b") == "a_b"
    with pytest.raises(ValueError, match="'a/b' and 'a-b' are both 'a_b'"):
        Recipe(("a/b", "a-b"), 0.02, 0.5, 5)


def test_a_rectangle_by_hand():
    image = np.zeros((2, 24, 24), np.uint8)
    image[:, 8:16, 6:18] = 102  # 0.4
    found = named(measure_images(image[None], RECIPE).features[0])
    assert found["Cells_AreaShape_Area"] == 96
    assert found["Cells_AreaShape_Extent"] == 1
    assert found["Cells_Intensity_MeanIntensity_a_b"] == pytest.approx(0.4)
    assert found["Cells_Intensity_IntegratedIntensity_a_b"] == pytest.approx(38.4)
    assert found["Cells_Intensity_StdIntensity_DAPI"] == pytest.approx(0, abs=1e-7)
    assert found["Cells_AreaShape_MaxFeretDiameter"] == pytest.approx(np.hypot(7, 11))
    assert np.isnan(found["Nuclei_AreaShape_Area"])  # flat DAPI: no nucleus


def test_failures_are_rows_with_a_reason():
    tiny = np.zeros((2, 64, 64), np.uint8)
    tiny[:, 3:5, 3:5] = 200
    found = measure_images(np.stack([images(1)[0], np.zeros_like(tiny), tiny]), RECIPE)
    assert found.reason.tolist() == ["", "empty", "small"]
    assert np.isfinite(found.features[0]).mean() > 0.98
    assert np.isnan(found.features[1:]).all()


def test_strange_masks_are_measured_without_an_error():
    rng = np.random.default_rng(0)
    flat, dark = np.full((24, 24), 0.5, np.float32), np.zeros((24, 24), np.float32)
    for number in range(30):
        mask = np.zeros((24, 24), bool)
        mask[5 : 6 + number % 3, 4 : 5 + number // 3] = True
        mask[rng.integers(24), rng.integers(24)] = True
        for plane in (flat, dark, rng.random((24, 24)).astype(np.float32)):
            assert len(measure_shape(mask)) == 99
            measure_stain(
                mask, plane, ("intensity", "texture", "granularity", "radial_distribution", "radial_zernikes")
            )


def test_a_stain_that_is_0_everywhere_has_texture_0():
    plane = np.zeros((24, 24), np.float32)
    assert not measure_stain(disc(6, 24), plane, ("texture",)).any()


def test_processes_change_nothing():
    some = images(7)
    alone = measure_images(some, RECIPE)
    chunks = split_chunks(some, 3)
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    together = join_measured(list(measure_chunks(chunks, RECIPE, 2)))
    assert np.array_equal(alone.features, together.features, equal_nan=True)
    assert np.array_equal(alone.reason, together.reason)


@pytest.mark.parametrize("change", [{"threshold": 0.2}, {"rim_share": 0.9}, {"min_cell_px": 5000}])
def test_every_option_changes_the_result(change):
    plain = measure_images(images(1), RECIPE)
    options = {"threshold": 0.025, "rim_share": 0.45, "min_cell_px": 5} | change
    other = measure_images(images(1), Recipe(STAINS, **options))
    assert not np.array_equal(plain.features, other.features, equal_nan=True)


# --- agreement with CellProfiler ---------------------------------------------------------------------------------


def test_columns_are_compared_by_their_scale_and_around_the_circle():
    columns = pd.DataFrame(
        {
            "name": ["a", "turn", "gone"],
            "source": "s",
            "module": "m",
            "object": "o",
            "stain": "",
            "unit": ["1", "degree", "1"],
        }
    )
    ours = pd.DataFrame({"a": [1.0, 100.0, np.nan], "turn": [89.0, 0.0, 0.0]})
    theirs = pd.DataFrame({"a": [1.001, 100.0, 1.0], "turn": [-90.0, 0.0, 0.0]})
    found = compare_columns(ours, theirs, columns).set_index("name")
    assert list(found.index) == ["a", "turn"]
    assert found.loc["a", "relative"] == pytest.approx(1e-5)
    assert found.loc["a", "n_only_theirs"] == 1
    assert found.loc["a", "n"] == 2
    assert found.loc["a", "n_apart"] == 1
    assert found.loc["turn", "largest"] == pytest.approx(1)


@pytest.mark.real
def test_cellprofilers_example_of_289_nuclei(real_data):
    example = read_example(real_data / "cellprofiler_examplehuman")
    assert len(example.ours) == 189
    found = compare(example).set_index("name")
    assert len(found) == 78
    # another scikit-image: the hull is drawn otherwise; one axis lies exactly on a diagonal and may point either way
    known = ["Nuclei_AreaShape_Orientation", "Nuclei_AreaShape_Solidity"]
    assert sorted(f"Nuclei_{name}" for name in found.index[found["relative"] > 1e-6]) == known
    assert found.loc["AreaShape_Orientation", "n_apart"] == 1
