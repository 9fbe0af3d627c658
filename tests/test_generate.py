"""Generating: never a target, the same images for the same seed, one species, one set of stains, one model."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from toy_crops import cut
from toy_generator import PLAN, run_flow, run_generate, write_run

from spatia.errors import SpatiaError
from spatia.generated import open_generated
from spatia.learn.devices import Machine
from spatia.learn.generating import Request, Sampler, choose_cells, conditions_of, follow, noise_of, seed_of_text
from spatia.learn.generator_checkpoint import read_generator
from spatia.learn.generator_readers import ReaderFiles, open_reader
from spatia.learn.trajectories import choose_stops
from spatia.transitions.canvas import from_canvas

CPU = Machine(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert run_flow(run, folder, steps=12, learning_rate=1e-2, ema_decay=0.0) == 0
    return folder


def copy_of(run, folder):
    """Return a run whose states of slide two can be changed; everything else is linked."""
    shutil.copytree(run / "results", folder / "results", symlinks=True)
    return folder


def change_states(run, folder, change):
    changed = copy_of(run, folder)
    path = changed / "results/states/two/states/states.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    return changed


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(found, tag, method):
    return found.cells[(found.cells["transition_tag"] == tag) & (found.cells["method"] == method)]


def test_all_controls_of_every_transition_by_both_methods(run, trained):
    assert run_generate(run, trained) == 0
    found = open_generated(trained / "generated")
    states = pd.read_parquet(run / "results/states/two/states/states.parquet")
    controls = states.loc[(states["state"] == "calm") & (states["split"] == "test"), "cell_id"].tolist()
    for tag in PLAN:
        for method in ("spatia", "unconditional"):
            assert rows_of(found, tag, method)["cell_id"].tolist() == controls
    assert found.cells["row"].tolist() == list(range(4 * len(controls)))
    assert found.images.shape == (4 * len(controls), 2, 16, 16)
    assert found.images.any(axis=(1, 2, 3)).mean() > 0.1  # a generator after 12 steps may leave many black
    assert found.header["n_calls"] == 8
    assert found.pixel_size_um == pytest.approx(1.7)
    assert not (run / "results/generate").exists()


def test_without_any_target_the_same_bytes(run, trained, tmp_path):
    assert run_generate(run, trained) == 0
    without = change_states(run, tmp_path, lambda states: states[states["state"] == "calm"])
    shutil.rmtree(without / "results/pair")
    assert run_generate(without, trained, name="alone") == 0
    assert files_of(trained / "generated") == files_of(trained / "alone")


def test_the_same_seed_gives_the_same_images_and_batches_do_not_matter(run, trained):
    for name, changes in (("one", {}), ("two", {}), ("batch", {"batch": 3})):
        assert run_generate(run, trained, name=name, **changes) == 0
    one, two, batch = (np.load(trained / name / "images.npy").astype(int) for name in ("one", "two", "batch"))
    assert np.array_equal(one, two)
    assert np.abs(one - batch).max() <= 1  # sums in another order


SWITCHES = [{"solver": "euler"}, {"solver": "heun"}, {"steps": 3}, {"guidance": 3.0}]


@pytest.mark.parametrize("change", SWITCHES, ids=str)
def test_every_switch_changes_the_images(run, trained, change):
    assert run_generate(run, trained, name="base", unconditional=False) == 0
    assert run_generate(run, trained, name="other", unconditional=False, **change) == 0
    base, other = (np.load(trained / name / "images.npy") for name in ("base", "other"))
    assert base.shape == other.shape
    assert not np.array_equal(base, other)


def test_at_most_max_cells_chosen_by_seed(run, trained):
    chosen = []
    for seed in (0, 0, 1):
        assert run_generate(run, trained, name="few", max_cells=3, seed=seed) == 0
        cells = pd.read_parquet(trained / "few/cells.parquet")
        assert cells.groupby(["transition_tag", "method"]).size().tolist() == [3] * 4
        chosen.append(cells["cell_id"].tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def test_ways_of_a_few_cells_lead_from_the_control_to_its_image(run, trained):
    for name, changes in (("two", {"n_trajectories": 2}), ("again", {"n_trajectories": 2, "batch": 3})):
        assert run_generate(run, trained, name=name, **changes) == 0
    stored, again = (dict(np.load(trained / name / "trajectories.npz")) for name in ("two", "again"))
    assert all(np.array_equal(stored[key], again[key]) for key in stored)
    assert stored["transition_tag"].tolist() == [tag for tag in PLAN for _ in range(2)]
    assert stored["t"].tolist() == [0, 0.5, 1]  # two steps
    assert stored["images"].shape == (4, 3, 2, 16, 16)
    found = open_generated(trained / "two")
    reader = open_reader("cell", ReaderFiles.of_run(run, "two"), found.stains, 16, (), nucleus_outline=True)
    start = from_canvas(reader.read(stored["cell_id"].tolist()).canvas, reader.dapi).astype(int)
    assert np.abs(stored["images"][:, 0] - start).max() <= 1
    for path, cell_id, tag in zip(stored["images"], stored["cell_id"], stored["transition_tag"], strict=True):
        own = rows_of(found, tag, "spatia").set_index("cell_id")
        assert np.abs(path[-1].astype(int) - found.images[own.loc[cell_id, "row"]]).max() <= 1
    assert not np.array_equal(stored["images"][:, 1], stored["images"][:, -1])


def test_ways_are_chosen_by_seed_and_may_be_left_out(run, trained, tmp_path):
    ids = []
    for seed in (0, 1):
        assert run_generate(run, trained, name="way", n_trajectories=2, seed=seed) == 0
        ids.append(np.load(trained / "way/trajectories.npz")["cell_id"].tolist())
    assert ids[0] != ids[1]
    assert run_generate(run, trained, name="way", n_trajectories=0) == 0
    assert not (trained / "way/trajectories.npz").exists()
    none = change_states(run, tmp_path, lambda states: states[states["state"] == "busy"])
    assert run_generate(none, trained, name="way") == 0
    assert not (trained / "way/trajectories.npz").exists()


@pytest.mark.parametrize(("n_steps", "stops"), [(12, [0, 3, 6, 9, 12]), (4, [0, 1, 2, 3, 4]), (1, [0, 1])])
def test_stops_lie_at_quarters_where_steps_allow(n_steps, stops):
    assert choose_stops(n_steps) == stops


def test_unconditional_images_know_no_transition(run, trained):
    assert run_generate(run, trained, name="null") == 0
    found = open_generated(trained / "null")
    by_method = {}
    for method in ("spatia", "unconditional"):
        by_method[method] = [found.images[rows_of(found, tag, method)["row"].to_numpy()] for tag in PLAN]
    assert np.array_equal(*by_method["unconditional"])
    assert not np.array_equal(*by_method["spatia"])


def test_noise_follows_the_cell(run, tmp_path):
    assert run_flow(run, tmp_path, start_noise=0.5, steps=12, learning_rate=1e-2, ema_decay=0.0) == 0
    for name, changes in (("one", {"batch": 8}), ("two", {"batch": 5}), ("other", {"seed": 1})):
        assert run_generate(run, tmp_path, name=name, unconditional=False, **changes) == 0
    one, two, other = (np.load(tmp_path / name / "images.npy").astype(int) for name in ("one", "two", "other"))
    assert np.abs(one - two).max() <= 1
    assert np.abs(one - other).max() > 1
    a, b = noise_of(("x", "y"), "t", 0, (2, 3)), noise_of(("y",), "t", 0, (2, 3))
    assert torch.equal(a[1:], b)
    assert not torch.equal(a[0], a[1])


def test_a_slide_without_controls_gives_no_images(run, trained, tmp_path):
    none = change_states(run, tmp_path, lambda states: states[states["state"] == "busy"])
    assert run_generate(none, trained, name="none") == 0
    assert open_generated(trained / "none").images.shape == (0, 2, 16, 16)


def test_an_apply_slide_needs_neither_pairs_nor_a_split(run, trained, tmp_path):
    apply = change_states(run, tmp_path, lambda states: states.drop(columns="split"))
    shutil.rmtree(apply / "results/pair")
    assert run_generate(apply, trained, name="apply") == 0
    n_calm = int((pd.read_parquet(apply / "results/states/two/states/states.parquet")["state"] == "calm").sum())
    assert len(open_generated(trained / "apply").cells) == 4 * n_calm  # those near the edge too


def test_only_cells_of_the_test_block_where_a_slide_has_one(run, trained, tmp_path):
    def change(states):
        is_calm = states["state"] == "calm"
        return states.assign(split=np.where(is_calm & (is_calm.cumsum() <= 4), "test", "train"))

    block = change_states(run, tmp_path, change)
    assert run_generate(block, trained, name="block") == 0
    assert len(open_generated(trained / "block").cells) == 4 * 4


def expect(capsys, status, message):
    assert status == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert message in error, error


def test_a_slide_that_lacks_a_stain_is_refused(trained, tmp_path, capsys):
    write_run(tmp_path, ("zero", "two"), stains=("DAPI", "CD45"))
    expect(
        capsys, run_generate(tmp_path, trained, name="bad"), "slide two lacks the stain '18S' of the generator (it has"
    )
    assert not (trained / "bad").exists()


def test_stains_are_matched_by_name(run, tmp_path):
    assert run_flow(run, tmp_path, stains=["18S", "DAPI"]) == 0
    assert run_generate(run, tmp_path) == 0
    assert open_generated(tmp_path / "generated").stains == ("18S", "DAPI")


def test_he_is_one_of_the_stains_where_asked(tmp_path):
    write_run(tmp_path, has_he=True)
    for wanted, stains in (("microscope", 2), ("all", 5)):
        out = tmp_path / wanted
        assert run_flow(tmp_path, out, stains=wanted) == 0
        assert run_generate(tmp_path, out) == 0
        assert len(open_generated(out / "generated").stains) == stains


def test_another_species_is_refused(run, trained, tmp_path, capsys):
    other = copy_of(run, tmp_path)
    zarr = other / "results/ingest/two/slide.zarr"
    source = zarr.resolve()
    zarr.unlink()
    shutil.copytree(source, zarr)
    record = json.loads((zarr / "zarr.json").read_text())
    record["attributes"]["spatia"]["species"] = "mouse"
    (zarr / "zarr.json").write_text(json.dumps(record))
    expect(capsys, run_generate(other, trained, name="bad"), "slide two is of species mouse, the generator")


def test_embeddings_of_another_model_are_refused(run, trained, tmp_path, capsys):
    other = copy_of(run, tmp_path)
    path = other / "results/embed/two/embeddings/embed.json"
    record = json.loads(path.read_text())
    record["checkpoint"]["seed"] = 7
    path.write_text(json.dumps(record))
    expect(capsys, run_generate(other, trained, name="bad"), "found another's (different: seed)")
    record["checkpoint"] |= {"seed": 0, "weights": "blake2b:0"}
    path.write_text(json.dumps(record))
    expect(capsys, run_generate(other, trained, name="bad"), "found another's (different: weights)")
    (path.parent / "z_niche.npy").unlink()
    del record["checkpoint"]["weights"]
    path.write_text(json.dumps(record))
    expect(capsys, run_generate(other, trained, name="bad"), "expected the embedding 'z_niche'")


def test_a_generator_without_context_needs_no_embeddings(run, tmp_path):
    assert run_flow(run, tmp_path, context="none") == 0
    bare = copy_of(run, tmp_path / "bare")
    shutil.rmtree(bare / "results/embed")
    assert run_generate(bare, tmp_path) == 0


def test_damaged_generators_are_refused(run, trained, tmp_path, capsys):
    shutil.copytree(trained / "checkpoint", tmp_path / "checkpoint")
    header = tmp_path / "checkpoint/generator.json"
    record = json.loads(header.read_text())
    header.write_text(json.dumps({**record, "stains": ["DAPI"]}))
    expect(capsys, run_generate(run, tmp_path), "expected a generator, found a damaged one")
    header.write_text(json.dumps({**record, "format": 9}))
    expect(capsys, run_generate(run, tmp_path), "expected format 5, found 9")
    (tmp_path / "checkpoint/generator.safetensors").unlink()
    header.write_text(json.dumps(record))
    expect(capsys, run_generate(run, tmp_path), "found no file")


def test_the_path_starts_at_the_control(trained):
    model = read_generator(trained / "checkpoint").model
    canvas = torch.rand(2, 5, 16, 16)
    request = Request(0, "t", "spatia", ("a", "b"))
    path = follow(model, canvas, conditions_of(request, torch.zeros(2, 18)), Sampler(steps=4), CPU, None, 0)
    assert len(path) == 5
    torch.testing.assert_close(path[0], canvas, atol=1e-5, rtol=0)
    assert float((path[4] - canvas).abs().max()) > 0.01


def test_the_look_that_is_told_is_the_expected_one_and_not_where_nothing_is_said(trained):
    model = read_generator(trained / "checkpoint").model
    canvas, look = torch.rand(2, 5, 16, 16), model.conditioning.look
    for method, is_told in (("spatia", True), ("unconditional", False)):
        said = conditions_of(Request(0, "t", method, ("a", "b")), torch.zeros(2, 18))
        before = follow(model, canvas, said, Sampler(steps=2), CPU, None, 0)[-1]
        look.offset += 3
        after = follow(model, canvas, said, Sampler(steps=2), CPU, None, 0)[-1]
        look.offset -= 3
        assert torch.equal(before, after) != is_told


def test_choosing_does_not_depend_on_the_other_cells():
    ids = [f"c{k}" for k in range(20)]
    few = choose_cells(ids, 5, "t", 0)
    assert set(choose_cells(ids[::-1], 5, "t", 0)) == set(few)
    assert choose_cells(ids, 5, "u", 0) != few
    assert choose_cells(ids, None, "t", 0) == tuple(ids)
    assert seed_of_text(1, "a") != seed_of_text(1, "b")


def test_niche_tiles_are_generated_too(run, tmp_path):
    assert run_flow(run, tmp_path, target="niche") == 0
    assert run_generate(run, tmp_path) == 0
    found = open_generated(tmp_path / "generated")
    assert found.header["target"] == "niche"
    assert found.pixel_size_um == pytest.approx(256 * 0.2125 / 16)
    checkpoint = read_generator(tmp_path / "checkpoint")
    assert checkpoint.scope.window_um == pytest.approx(54.4)


def test_a_tile_reader_reads_the_tile_around_each_cell(run, tmp_path):
    toy = write_run(tmp_path, ("zero",), seed=5)[0]
    reader = open_reader("niche", ReaderFiles.of_run(tmp_path, "zero"), ("18S",), 64, ("z_cell",))
    ids = toy.cells["cell_id"].tolist()[3:6]
    block = reader.read(ids)
    assert block.canvas.shape == (3, 2, 64, 64)
    assert block.context.shape == (3, 6)
    niches = toy.niches.iloc[toy.cells["niche"].iloc[3:6]]
    for image, (_, niche) in zip(from_canvas(block.canvas), niches.iterrows(), strict=True):
        full = cut(toy.image[1:], niche["y0"], niche["x0"], 256).astype(float)
        # the toy's pyramid takes every second pixel; its halves are then averaged to a quarter
        half = full[:, ::2, ::2].reshape(1, 64, 2, 64, 2).mean((2, 4))
        is_inside = (np.arange(64) * 4 + niche["y0"] < 1096)[:, None] & (np.arange(64) * 4 + niche["x0"] < 1296)
        assert np.abs(image - half)[:, is_inside].max() <= 2
        assert not image[:, ~is_inside & ((np.arange(64) * 4 + niche["y0"] >= 1100)[:, None])].any()


def test_both_kinds_of_images_need_their_files(run, tmp_path):
    files = dataclasses.replace(ReaderFiles.of_run(run, "two"), tiles=None)
    with pytest.raises(SpatiaError, match="needs --tiles"):
        open_reader("niche", files, ("18S",), 16, ())
    with pytest.raises(SpatiaError, match="image_px of 256 or less"):
        open_reader("niche", ReaderFiles.of_run(run, "two"), ("18S",), 512, ())
