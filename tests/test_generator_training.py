"""Training a generator: it learns, every switch counts, it resumes exactly, and it stops in time."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from toy_generator import PLAN, TINY, run_flow, write_run

from spatia.generator_params import FlowParams
from spatia.learn.devices import Machine
from spatia.learn.generator_cells import turn_cell
from spatia.learn.generator_checkpoint import read_generator
from spatia.learn.generator_objective import Objective, drop_conditions, flow_losses, vary_gain, with_axis
from spatia.learn.generator_pairs import PairBatch, PairSet, draw_batch, draw_pairs, read_pairs
from spatia.learn.generator_readers import ReaderFiles, open_reader
from spatia.learn.generator_training import FlowRecipe, GeneratorTrainer, Part
from spatia.model.conditions import Conditions
from spatia.model.velocity import Generator
from spatia.model.velocity_shape import velocity_shape_of
from spatia.stages.flow import objective_of
from spatia.transitions.canvas import long_axis_of, turn
from spatia.transitions.sampling import integrate

CPU = Machine(torch.device("cpu"), torch.float32)
RECIPE = FlowRecipe(warmup_steps=2, weight_decay=0.0, clip_norm=1.0, ema_decay=0.9, log_every=4, seed=3, save_every_s=0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, ("one", "two", "three"))
    val = folder / "results/pair/three/pairs/pairs.parquet"
    pd.read_parquet(val).assign(split="val").to_parquet(val)
    return folder


def squares(n, seed=0):
    """Return n smooth canvases of 16 px with 2 channels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 2, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, scale_factor=4.0, mode="bilinear")


def eight_pairs():
    context = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    return PairSet(
        squares(16), context, np.arange(8), np.arange(8, 16), np.zeros(8, int),
        np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.ones(8, np.float32), np.array([f"c{k}" for k in range(8)]),
        np.zeros(8, int),
    )  # fmt: skip


def test_gains_are_those_of_both_ends_and_leave_the_outline():
    batch = eight_pairs().take(np.arange(8))
    start, end = vary_gain(batch, 0.3, torch.Generator().manual_seed(0))
    gains = [(new[:, :-1] + 1) / (old[:, :-1] + 1) for new, old in ((start, batch.start), (end, batch.end))]
    for gain, new, old in zip(gains, (start, end), (batch.start, batch.end), strict=True):
        known = old[:, :-1] > -0.9
        assert float((gain - gains[0].nanmean((2, 3), keepdim=True))[known].abs().max()) < 1e-3
        assert torch.equal(new[:, -1], old[:, -1])
    assert vary_gain(batch, 0.0, torch.Generator())[1] is batch.end


def make_model(seed=0, **changes):
    """Return a generator whose velocity is 0 before training."""
    torch.manual_seed(seed)
    model = Generator(velocity_shape_of("tiny", **{"linear_guess": False, **changes}), 2, 2, 3, 5)
    model.conditioning.perturbation.set_signatures(torch.randn(2, 3))
    return model


def make_part(model, pairs, objective, steps, batch=8, learning_rate=3e-3, draw=None):
    return Part(
        "flow", steps, learning_rate, lambda b, g: flow_losses(model, b, objective, g, CPU.device),
        draw or (lambda seed: draw_batch(pairs, batch, seed)), model,
    )  # fmt: skip


def test_the_tiny_generator_learns_eight_pairs_by_heart():
    pairs, model = eight_pairs(), make_model(channels=24)
    whole = pairs.take(np.arange(8))
    part = make_part(model, pairs, Objective(drop=0.0), 250, learning_rate=6e-3, draw=lambda seed: whole)
    rows = GeneratorTrainer(model, [part], dataclasses.replace(RECIPE, log_every=100), CPU).run()
    assert rows[-1]["flow"] < 0.05 * float((whole.end - whole.start).square().mean())
    said = torch.zeros(8, dtype=torch.bool)
    told = with_axis(Conditions(whole.transition, whole.context, said, said), whole.start)
    model.eval()
    with torch.no_grad():
        found = integrate(lambda field, time: model(field, time, told), whole.start, "midpoint", 12)
    left = (found - whole.end).square().mean() / (whole.start - whole.end).square().mean()
    assert float(left) < 0.05


def train(steps=8, work=None, stop_at=None, recipe=RECIPE, seed=0):
    """Train a tiny model; with `stop_at`, break off before that step as a kill would."""
    pairs, model = eight_pairs(), make_model(seed, dropout=0.1)
    trainer = GeneratorTrainer(model, [make_part(model, pairs, Objective(), steps)], recipe, CPU, None, "f", work)
    if stop_at is not None:
        whole_step = trainer._step

        def step(part, number):
            if number == stop_at:
                raise KeyboardInterrupt
            whole_step(part, number)

        trainer._step = step
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        return trainer, None
    return trainer, trainer.run()


def assert_same(one, two):
    for weights, others in ((one.model.state_dict(), two.model.state_dict()), (one.average, two.average)):
        for name, tensor in weights.items():
            assert torch.equal(tensor, others[name]), name


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    (one, rows), (two, again) = train(), train()
    assert_same(one, two)
    assert rows == again
    three, _ = train(recipe=dataclasses.replace(RECIPE, seed=4))
    assert not torch.equal(one.model.network.enter.weight, three.model.network.enter.weight)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 7])
def test_broken_off_anywhere_it_ends_with_the_same_weights(tmp_path, stop_at):
    whole, rows = train()
    train(work=tmp_path / "work", stop_at=stop_at)
    again, rows_again = train(work=tmp_path / "work")
    assert_same(whole, again)
    assert rows == rows_again


def test_the_average_lags_behind_the_weights():
    trainer, _ = train()
    name = "network.enter.weight"
    assert not torch.equal(trainer.average[name], trainer.model.state_dict()[name])
    faster, _ = train(recipe=dataclasses.replace(RECIPE, ema_decay=0.0))
    assert torch.equal(faster.average[name], faster.model.state_dict()[name])


def test_a_loss_that_is_not_finite_stops_with_step_and_cells():
    pairs, model = eight_pairs(), make_model()
    pairs.canvas[:] = torch.nan
    trainer = GeneratorTrainer(model, [make_part(model, pairs, Objective(), 5)], RECIPE, CPU)
    with pytest.raises(Exception, match=r"flow, part flow, step 1: the loss is not finite .* controls are c\d, c\d"):
        trainer.run()


def test_batches_are_balanced_over_transitions():
    transition = np.array([0] * 90 + [1] * 10)
    drawn = draw_pairs(transition, 4000, np.random.default_rng(0))
    assert 0.45 < (drawn >= 90).mean() < 0.55
    assert set(drawn.tolist()) == set(range(100))


def test_control_and_target_are_turned_alike():
    canvas = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(2, 1, 1, 1)
    zero = np.array([0])
    pairs = PairSet(
        canvas, torch.zeros(2, 0), zero, zero + 1, zero, zero, np.ones(1, np.float32), np.array(["a"]), zero
    )
    batch = draw_batch(pairs, 64, 0)
    assert torch.equal(batch.start, batch.end)
    assert len({tuple(row.flatten().tolist()) for row in batch.start}) == 8


def test_targets_lie_as_their_control_does_in_the_nearest_position(run):
    reader = open_reader("cell", ReaderFiles.of_run(run, "one"), ("18S",), 16, ())
    pairs = pd.read_parquet(run / "results/pair/one/pairs/pairs.parquet")
    start, end = pairs["x_ctrl_id"].tolist(), pairs["x_tgt_id"].tolist()
    number, weight = np.zeros(len(pairs), int), np.ones(len(pairs), np.float32)
    plain, turned = (read_pairs(reader, start, end, number, weight, is_turned) for is_turned in (False, True))
    rows = np.arange(len(pairs))
    assert not plain.turned.any()
    assert plain.n_cells == turned.n_cells == len({*start, *end})
    before, after = plain.take(rows), turned.take(rows)
    assert torch.equal(before.start, after.start)
    assert before.cell_id == after.cell_id
    far, near = ((batch.start - batch.end).square().flatten(1).sum(1) for batch in (before, after))
    assert float(near.mean()) < float(far.mean())
    for row in rows[:5]:  # no other position is nearer
        image = turned.take(rows[[row]])
        others = [turn(image.end, k % 4, k >= 4) for k in range(8)]
        assert float(near[row]) == pytest.approx(min(float((image.start - o).square().sum()) for o in others), rel=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, -1.2])
def test_a_cell_is_turned_by_its_angle_and_keeps_its_pixels(angle):
    y, x = np.indices((64, 64)) - 31.5
    mask = (x / 24) ** 2 + (y / 9) ** 2 < 1
    frame = np.random.default_rng(0).integers(60, 200, (2, 64, 64), dtype=np.uint8)
    turned, shape = turn_cell(frame * mask, mask, angle)
    axis = long_axis_of(torch.from_numpy(shape[None].astype(np.float32)))
    assert abs((float(axis) - angle + np.pi / 2) % np.pi - np.pi / 2) < 0.02
    assert shape.sum() == pytest.approx(mask.sum(), rel=0.02)
    assert not turned[:, ~shape].any()
    for stain in (0, 1):
        assert turned[stain][shape].std() == pytest.approx(frame[stain][mask].std(), rel=0.05)
        assert set(turned[stain][shape].tolist()) <= set(frame[stain][mask].tolist())


def test_a_fifth_lacks_the_perturbation_a_fifth_the_context_and_a_tenth_both():
    n = 20_000
    empty = torch.zeros(n, 1, 1, 1)
    batch = PairBatch(empty, empty, torch.zeros(n, dtype=torch.long), torch.zeros(n, 1), torch.ones(n), ("a",))
    told = drop_conditions(batch, 0.2, torch.Generator().manual_seed(0))
    assert float(told.no_perturbation.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(told.no_context.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float((told.no_context & told.no_perturbation).float().mean()) == pytest.approx(0.1, abs=0.01)


def losses_with(batch=None, **changes):
    batch = batch or eight_pairs().take(np.arange(8))
    found = flow_losses(make_model(), batch, Objective(**changes), torch.Generator().manual_seed(0), CPU.device)
    return {name: float(value.detach()) for name, value in found.items()}


SWITCHES = [
    {"contrast": "none"}, {"contrast": "plus"}, {"contrast": "hinge", "margin": 2.0}, {"rho": 0.2}, {"drop": 0.6},
    {"start_noise": 1.0}, {"alignment": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("change", SWITCHES, ids=str)
def test_every_switch_changes_the_loss(change):
    assert losses_with(**change)["total"] != losses_with()["total"]


def test_switches_that_depend_on_another_change_the_loss_too():
    hinge = {"contrast": "hinge", "margin": 2.0}
    assert losses_with(**hinge)["total"] != losses_with(**{**hinge, "margin": 3.0})["total"]
    noise = {"start_noise": 1.0}
    assert losses_with(**noise)["total"] != losses_with(**noise, noise_probability=1.0)["total"]


def test_contrast_by_hand_skips_rows_without_a_transition():
    batch = eight_pairs().take(np.array([0, 4]))  # two transitions: each is the other's negative
    wanted = (batch.end - batch.start).flatten(1).square().mean(1)  # an untrained velocity is 0
    assert losses_with(batch, drop=0.0)["total"] == pytest.approx(float((wanted - 0.05 * wanted.flip(0)).mean()))
    assert losses_with(batch, drop=2 / 3)["flow"] == pytest.approx(float(wanted.mean()))
    alone = dataclasses.replace(batch, transition=torch.zeros(2, dtype=torch.long))
    assert losses_with(alone, drop=0.0)["contrast"] == 0


def test_weights_count():
    batch = eight_pairs().take(np.arange(8))
    weighted = dataclasses.replace(batch, weight=torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0]))
    wanted = float((batch.end - batch.start)[0].square().mean())
    assert losses_with(weighted, contrast="none")["flow"] == pytest.approx(2 * wanted / 8)


def test_alignment_is_zero_for_the_perfect_velocity(monkeypatch):
    batch, model = eight_pairs().take(np.arange(8)), make_model()
    monkeypatch.setattr(model.network, "forward", lambda field, condition: batch.end - batch.start)
    found = flow_losses(model, batch, Objective(alignment=1.0), torch.Generator().manual_seed(0), CPU.device)
    assert float(found["flow"]) == 0
    assert float(found["alignment"]) == pytest.approx(0, abs=1e-9)


# --- the stage ---------------------------------------------------------------------------------------------------


def weights_of(folder):
    return {name: tensor.clone() for name, tensor in read_generator(folder / "checkpoint").model.state_dict().items()}


def differ(one, two):
    same_shapes = one.keys() == two.keys() and all(one[name].shape == two[name].shape for name in one)
    return not same_shapes or any(not torch.equal(one[name], two[name]) for name in one)


def test_the_stage_writes_a_generator_that_stands_alone(run, tmp_path):
    assert run_flow(run, tmp_path, val=("three",)) == 0
    checkpoint = read_generator(tmp_path / "checkpoint")
    record = json.loads((tmp_path / "checkpoint/generator.json").read_text())
    assert checkpoint.scope.tags == tuple(PLAN)
    assert checkpoint.scope.stains == ("DAPI", "18S")
    assert record["n_pairs"] == dict(zip(PLAN, (10, 5), strict=True))
    assert record["context_width"] == 18
    assert record["window_um"] == pytest.approx(27.2)
    assert record["dg"]["calm->busy"] == pytest.approx([0.0, 0.1, 0.2])
    history = pd.read_csv(tmp_path / "history.tsv", sep="\t")
    assert history["split"].tolist() == ["train", "val"] * 2
    assert not (tmp_path / "work").exists()
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {"generator.json", "generator.safetensors"}


STAGE_SWITCHES = [
    {"seed": 1}, {"context": "cell"}, {"context": "none"}, {"stains": ["18S"]}, {"confidence_weights": True},
    {"model": {"network": "dit"}}, {"contrast": "hinge"}, {"start_noise": 0.5}, {"alignment": 1.0}, {"batch": 9},
    {"learning_rate": 3e-3}, {"ema_decay": 0.1}, {"steps": 7}, {"weight_decay": 10.0}, {"warmup_steps": 0},
    {"clip_norm": 1e-3}, {"max_pairs": 3}, {"drop": 0.5}, {"rho": 0.5}, {"target": "niche"},
    {"turn_targets": False}, {"rematch": False}, {"nucleus_outline": False}, {"gain_jitter": 0.0}, {"time_power": 3.0},
    {"model": {"linear_guess": False}}, {"local_targets": False}, {"model": {"looks": False}},
    {"model": {"look_noise": 0.3}}, {"model": {"stretch": False}},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    assert run_flow(run, folder) == 0
    return weights_of(folder)


def test_the_same_parameters_give_the_same_generator(run, tmp_path, plain):
    assert run_flow(run, tmp_path) == 0
    assert not differ(plain, weights_of(tmp_path))


@pytest.mark.parametrize("change", STAGE_SWITCHES, ids=str)
def test_every_parameter_changes_the_generator(run, tmp_path, plain, change):
    assert run_flow(run, tmp_path, **change) == 0
    assert differ(plain, weights_of(tmp_path))


def test_a_vae_is_trained_first_and_its_distance_reported(run, tmp_path):
    assert run_flow(run, tmp_path, val=("three",), model={"latent": "vae"}, vae_steps=6) == 0
    history = pd.read_csv(tmp_path / "history.tsv", sep="\t")
    assert history["phase"].unique().tolist() == ["vae", "flow"]
    record = json.loads((tmp_path / "checkpoint/generator.json").read_text())
    assert 0 < record["vae_distance"]["train"] < 2
    assert record["vae_distance"].keys() == {"train", "val"}
    before = weights_of(tmp_path)
    assert run_flow(run, tmp_path, model={"latent": "vae"}, vae_steps=6, kl_weight=1.0) == 0
    assert differ(before, weights_of(tmp_path))


def test_killed_in_the_middle_it_goes_on_to_the_same_generator(run, tmp_path, plain):
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump({**TINY, "steps": 400}))
    code = (
        "import os, sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\n"
        "from spatia.learn.generator_training import GeneratorTrainer\nfrom toy_generator import run_flow\n"
        "take = GeneratorTrainer._take\n"
        "def die(self, part, step):\n    take(self, part, step)\n    step == 3 and os.kill(os.getpid(), 9)\n"
        "GeneratorTrainer._take = die\nrun_flow(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert (tmp_path / "work/state.pt").exists()
    assert run_flow(run, tmp_path) == 0
    assert not differ(plain, weights_of(tmp_path))


def test_two_processes_share_the_steps(run, tmp_path):
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump(TINY))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "--", "spatia.cli"]  # without `--`, torchrun takes our --run for its --run-path
    command += ["flow", "--run", str(run), "--train", "one", "--transitions", str(run / "transitions.yaml")]
    command += ["--signatures", str(run / "results/pair/signatures"), "--params", str(tmp_path / "flow.yaml")]
    command += ["--checkpoint", str(tmp_path / "checkpoint"), "--history", str(tmp_path / "history.tsv")]
    command += ["--work", str(tmp_path / "work"), "--threads", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(pd.read_csv(tmp_path / "history.tsv", sep="\t")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stains": ["CD45"]}, r"slide one lacks the stain 'CD45' of the generator \(it has DAPI, 18S"),
        ({"stains": []}, r"stains should be one or more names, each once, microscope or all; found \[\]"),
        ({"stains": ["DAPI", "DAPI"]}, r"stains should be .* found \['DAPI', 'DAPI'\]"),
        ({"model": {"image_px": 256}}, "slide one: expected image_px of 128 or less"),
        ({"model": {"chanels": 8}}, "model: unknown key 'chanels'"),
        ({"drop": 0.9}, "drop should be at most 2/3"),
        ({"contrast": "both"}, "contrast should be"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(run, tmp_path, capsys, changes, message):
    assert run_flow(run, tmp_path, **changes) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    pytest.importorskip("re").search(message, error) or pytest.fail(error)


def test_without_pairs_the_generator_knows_no_transition(run, tmp_path, capsys):
    assert run_flow(run, tmp_path, train=("two",)) == 0  # its cells are all of the test side
    assert "the generator knows none" in capsys.readouterr().err
    found = read_generator(tmp_path / "checkpoint")
    assert found.scope.tags == ()
    assert found.record["n_pairs"] == {}


def test_objective_takes_its_values_from_the_parameters():
    objective = objective_of(FlowParams(rho=0.3, contrast="hinge", alignment=2.0))
    assert (objective.rho, objective.contrast, objective.alignment) == (0.3, "hinge", 2.0)
