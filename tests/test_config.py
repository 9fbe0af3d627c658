"""Parameter files: defaults, types, unknown keys."""

import dataclasses

import pytest
import yaml

from spatia import config
from spatia.config import (
    CropParams,
    EmbedParams,
    IngestParams,
    PretrainParams,
    QcParams,
    TileParams,
    load_params,
    params_from_dict,
)
from spatia.errors import SpatiaError
from spatia.generator_params import FlowParams, GenerateParams
from spatia.transition_params import CellprofilerParams, FeaturesParams, PairParams, ScoreParams, StatesParams
from spatia.xenium.simulate import SimulationParams

SHIPPED = {"ingest": IngestParams, "qc": QcParams, "crop": CropParams, "tile": TileParams}
EVERY_STAGE = SHIPPED | {
    "pretrain": PretrainParams,
    "embed": EmbedParams,
    "states": StatesParams,
    "pair": PairParams,
    "flow": FlowParams,
    "generate": GenerateParams,
    "features": FeaturesParams,
    "cellprofiler": CellprofilerParams,
    "score": ScoreParams,
}


def write(tmp_path, text):
    path = tmp_path / "stage.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_file_gives_the_defaults(tmp_path):
    assert load_params(write(tmp_path, ""), CropParams) == CropParams()


def test_value_replaces_its_default_and_an_integer_becomes_a_float(tmp_path):
    params = load_params(write(tmp_path, "window_um: 20\nscaling: minmax\n"), CropParams)
    assert (params.window_um, params.scaling) == (20.0, "minmax")
    assert isinstance(params.window_um, float)


def test_null_switches_a_filter_off(tmp_path):
    assert load_params(write(tmp_path, "min_counts: null"), QcParams).min_counts is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("widow_um: 3", "unknown key 'widow_um'; the known keys are window_um"),
        ("window_um: wide", "window_um should be float, found 'wide'"),
        ("scaling: log", "scaling should be"),
        ("window_um: true", "window_um should be float"),
        ("- a\n- b", "expected 'key: value' lines, found list"),
        ("a: [", "expected YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, match):
    with pytest.raises(SpatiaError, match=match.replace("[", r"\[")):
        load_params(write(tmp_path, text), CropParams)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("2E3", 2000.0), ("-1e-4", -1e-4), ("'0.5'", 0.5), ("1.0e-4", 1e-4)]
)
def test_text_that_is_a_number_is_one_where_a_float_is_wanted(tmp_path, text, value):
    found = load_params(write(tmp_path, f"window_um: {text}"), CropParams).window_um
    assert isinstance(found, float)
    assert found == value


def test_text_that_is_a_whole_number_is_one_where_an_integer_is_wanted(tmp_path):
    params = load_params(write(tmp_path, "min_counts: 2e9\nmax_control_rate: 5e-2"), QcParams)
    assert (params.min_counts, params.max_control_rate) == (2_000_000_000, 0.05)
    assert isinstance(params.min_counts, int)


def test_numbers_are_read_in_mappings_too(tmp_path):
    params = load_params(write(tmp_path, "mask: {thin: 5e-1}\nmodel: {dropout: 1e-1}"), PretrainParams)
    assert params.mask.thin == 0.5
    assert params.shape().dropout == 0.1


@pytest.mark.parametrize("text", ["min_counts: 2.5e0", "min_counts: 1e999", "max_control_rate: nan", "window_um: 1e"])
def test_other_text_is_no_number(tmp_path, text):
    with pytest.raises(SpatiaError, match="should be"):
        load_params(write(tmp_path, text), QcParams)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(SpatiaError, match="nowhere.yaml: expected a parameter file"):
        load_params(tmp_path / "nowhere.yaml", CropParams)


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_what_is_left_out_has_the_value_of_the_shipped_file(root, tmp_path, stage):
    path = root / "config" / "stages" / f"{stage}.yaml"
    assert load_params(path, EVERY_STAGE[stage]) == load_params(write(tmp_path, ""), EVERY_STAGE[stage])


def test_what_is_left_out_of_a_simulation_has_the_value_of_the_shipped_file(root):
    defaults = yaml.safe_load((root / "config/stages/simulate.yaml").read_text(encoding="utf-8"))["defaults"]
    assert params_from_dict(defaults, SimulationParams, "simulate.yaml") == SimulationParams()


def test_every_parameter_file_belongs_to_a_stage(root):
    assert {path.stem for path in (root / "config" / "stages").iterdir()} == {*EVERY_STAGE, "simulate"}


@pytest.mark.parametrize("stage", SHIPPED)
def test_shipped_files_show_every_key_with_its_default(root, stage):
    path = root / "config" / "stages" / f"{stage}.yaml"
    assert load_params(path, SHIPPED[stage]) == SHIPPED[stage]()
    shown = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(shown) == {field.name for field in dataclasses.fields(SHIPPED[stage])}


def test_every_key_is_documented(root):
    text = (root / "config" / "README.md").read_text(encoding="utf-8")
    for params in SHIPPED.values():
        for field in dataclasses.fields(params):
            assert f"`{field.name}`" in text, field.name


def test_params_travel_as_plain_dictionaries():
    assert config.params_to_dict(TileParams()) == {"niche_px": 256, "niches_per_tissue": 4}
