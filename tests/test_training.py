"""The training loop: it learns, resumes exactly, gives the same from one process and from two, and stops in time."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_crops import write_toy
from toy_model import SIZES, make_model, make_view, open_toys, tiny_shape, toy_slides

from spatia.config import PretrainParams
from spatia.errors import SpatiaError
from spatia.learn.devices import Machine, choose_machine
from spatia.learn.objective import LOSS_NAMES, cell_losses, joint_losses, tile_losses, total_loss
from spatia.learn.parallel import Group, join_group
from spatia.learn.phases import Phase, Recipe
from spatia.learn.settings import NOTHING_HIDDEN, LossWeights, MaskParams
from spatia.learn.statistics import fit_statistics
from spatia.learn.training import Trainer, add_sums, learning_rate
from spatia.learn.views import ViewDataset, seed_of
from spatia.stages.pretrain import TrainingData, check_sizes, fingerprint

CPU = Machine(torch.device("cpu"), torch.float32)
RECIPE = Recipe(1e-3, 2, 0.05, 1.0, 1, LossWeights(), seed=3)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return toy_slides(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_phases(slides, model, epochs=1, mask=None, cells_per_batch=24):
    cells, whole = (open_toys(slides, tiles, cells_per_batch=cells_per_batch) for tiles in (False, True))

    def phase(name, objective, dataset, parts, number):
        seen = dataclasses.replace(mask or MaskParams(), **({"full_share": 0.0} if name == "tile" else {}))
        views = ViewDataset(dataset, model.normaliser(), model.shape, seen, (3, number))
        return Phase(name, epochs, objective, views, None, parts)

    return [
        phase("cell", cell_losses, cells, (model.cell, model.profile), 0),
        phase("tile", tile_losses, whole, (model.niche.image, model.niche.image_decoder), 1),
        phase("joint", joint_losses, whole, (model,), 2),
    ]


def train(slides, recipe=RECIPE, work=None, epochs=1, stop_at=None, **options):
    """Train a tiny model; with `stop_at`, break off before that step as a kill would."""
    model = make_model(open_toys(slides, tiles=False), tiny_shape(dropout=0.1))
    trainer = Trainer(model, make_phases(slides, model, epochs, **options), recipe, CPU, work=work, fingerprint="f")
    if stop_at is not None:
        whole_step = trainer._step

        def step(*arguments):
            if trainer.progress.total_steps == stop_at:
                raise KeyboardInterrupt
            return whole_step(*arguments)

        trainer._step = step
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        return model, trainer
    return model, trainer.run()


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_the_tiny_model_learns_eight_cells_by_heart(slides):
    dataset = open_toys(slides[:1], cells_per_batch=1000)
    ids = dataset[0, 0].cell_id[:8]
    files = [dataclasses.replace(slides[0].files, cells=list(ids))]
    eight = type(dataset)(files, dataset.params)
    model = make_model(eight).train()
    fit_statistics(model, eight)
    view = make_view(eight, model, dataclasses.replace(NOTHING_HIDDEN, mask_ratio=0.5, full_share=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    history = []
    for _ in range(120):
        losses = joint_losses(model, view, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        total_loss(losses, LossWeights()).backward()
        optimizer.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert len(view.cell_id) == 8
    assert history[-1]["image_cell"] < 0.35 * history[0]["image_cell"]
    rates = model.cell.gene_decoder.read_embedding(model(view).fused).log_mean.exp()
    panel = view.cells.on_panel
    found = torch.corrcoef(torch.stack([rates[panel], view.cells.counts[panel]]))[0, 1]
    assert float(found.detach()) > 0.95


def test_every_weight_of_the_loss_by_hand():
    losses = {name: torch.tensor(1.0) for name in LOSS_NAMES}
    assert float(total_loss(losses, LossWeights(1, 0, 0, 0, 0, 0))) == 1  # image_cell
    assert float(total_loss(losses, LossWeights(0, 1, 0, 0, 0, 0))) == 3  # gene_tokens, gene_cell, gene_fused
    assert float(total_loss(losses, LossWeights(0, 1, 2, 0, 0, 0))) == 5  # + gene_niche
    assert float(total_loss(losses, LossWeights(1, 0, 0, 3, 0, 0))) == 4  # + image_tissue
    assert float(total_loss(losses, LossWeights(1, 0, 0, 0, 2, 0))) == 5  # + image_profile, image_profile_fused
    assert float(total_loss(losses, LossWeights(0, 1, 0, 0, 0, 4))) == 7  # + gene_around


def test_the_same_seed_gives_the_same_weights_and_another_does_not(slides):
    one, rows = train(slides)
    two, again = train(slides)
    assert_same(weights(one), weights(two))
    assert rows == again
    three, _ = train(slides, dataclasses.replace(RECIPE, seed=4))
    assert not torch.equal(one.cell.gene_half.weight, three.cell.gene_half.weight)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 6])
def test_broken_off_anywhere_it_ends_with_the_same_weights(slides, tmp_path, stop_at):
    recipe = dataclasses.replace(RECIPE, save_every_s=0.0)
    whole, rows = train(slides, recipe, epochs=2)
    train(slides, recipe, tmp_path / "work", epochs=2, stop_at=stop_at)
    model, again = train(slides, recipe, tmp_path / "work", epochs=2)
    assert_same(weights(whole), weights(model))
    assert rows == again


def test_a_state_of_another_training_is_not_taken_up(slides, tmp_path):
    recipe = dataclasses.replace(RECIPE, save_every_s=0.0)
    train(slides, recipe, tmp_path / "work", stop_at=3)
    model = make_model(open_toys(slides, tiles=False), tiny_shape(dropout=0.1))
    trainer = Trainer(model, make_phases(slides, model), recipe, CPU, work=tmp_path / "work", fingerprint="other")
    trainer.resume()
    assert trainer.progress.total_steps == 0


def test_rows_from_before_an_interruption_are_told_again(slides, tmp_path):
    recipe = dataclasses.replace(RECIPE, save_every_s=0.0)
    train(slides, recipe, tmp_path / "work", epochs=2, stop_at=6)
    told = []
    model = make_model(open_toys(slides, tiles=False), tiny_shape(dropout=0.1))
    phases = make_phases(slides, model, epochs=2)
    rows = Trainer(model, phases, recipe, CPU, work=tmp_path / "work", fingerprint="f", on_row=told.append).run()
    assert len(rows) == 6
    assert told == rows


def test_what_a_phase_asks_for_is_what_it_trains(slides):
    params = PretrainParams(preset="tiny", model=SIZES, tile_epochs=1)
    data = TrainingData([slide.files for slide in slides], [], params)
    model = make_model(data.cells, params.shape())
    for phase in data.phases(model):
        model.zero_grad()
        losses = phase.objective(model, phase.train[0, 0], torch.Generator().manual_seed(0))
        total_loss(losses, params.loss).backward()
        trained = {id(parameter) for part in phase.parts for parameter in part.parameters()}
        asked = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert asked
        assert not {name for name, p in model.named_parameters() if name in asked and id(p) not in trained}, phase.name


def test_a_stain_that_comes_late_has_statistics_of_its_own(slides, monkeypatch):
    dataset = open_toys(slides, tiles=False, shuffle=False, cells_per_batch=10)
    model = make_model(dataset)
    fit_statistics(model, dataset)
    monkeypatch.setattr("spatia.learn.statistics.N_CELLS", 1)
    short = make_model(dataset)
    fit_statistics(short, dataset)
    late = [stain not in slides[0].stains for stain in dataset.stains]
    assert any(late)
    assert torch.allclose(short.stain_mean[late], model.stain_mean[late], atol=0.1)
    assert not torch.equal(short.stain_mean, model.stain_mean)


def test_a_gene_that_comes_late_starts_at_its_own_count(slides, tmp_path, monkeypatch):
    other = write_toy(tmp_path, "other", slides[0].stains, [f"L{k}" for k in range(20)], 40, seed=3)
    dataset = open_toys((slides[0], other), tiles=False, shuffle=False, cells_per_batch=10)
    monkeypatch.setattr("spatia.learn.statistics.N_CELLS", 1)
    model = make_model(dataset)
    fit_statistics(model, dataset)
    level = model.cell.gene_decoder.mean_bias.detach().exp()
    assert float(level[[gene.startswith("L") for gene in dataset.genes]].mean()) > 0.01  # 0.001 for what is never seen


def test_a_training_goes_on_only_with_the_same_data(slides, monkeypatch):
    params = PretrainParams(preset="tiny", model=SIZES)
    data = TrainingData([slide.files for slide in slides], [], params)

    def found(stain_level=0.0, **changes):
        model = make_model(data.cells, dataclasses.replace(params.shape(), **changes))
        model.stain_mean += stain_level
        return fingerprint(params, data, Group(), model)

    assert found() == found()
    others = {found(0.01), found(profile=False)}
    monkeypatch.setattr(data.cells, "stains", (*data.cells.stains[1:], "another"))
    others.add(found())
    monkeypatch.setattr("spatia.stages.pretrain.FORMAT", 0)
    others.add(found())
    monkeypatch.undo()
    assert len(others - {found()}) == 4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"patch_px": 12}, "crops are 128 px wide, expected a multiple of patch_px = 12"),
        ({"tile_patch_px": 12, "niche_shrink": 1}, r"niche tiles are \d+ px wide, .* = 12"),
        ({"tissue_level": 9}, r"tissue tiles are \d+ px wide"),
    ],
)
def test_patches_that_do_not_fill_their_images_are_refused_at_once(slides, changes, match):
    cells = open_toys(slides, tiles=False)
    with pytest.raises(SpatiaError, match=match):
        check_sizes(tiny_shape(**changes), cells)
    check_sizes(tiny_shape(), cells)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SpatiaError, match="found 1 GPUs for process 2 of this node"):
        join_group("auto")


def test_a_history_row_per_epoch_and_phase(slides):
    _, rows = train(slides, epochs=2)
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        (name, epoch) for name in ("cell", "tile", "joint") for epoch in (1, 2)
    ]
    assert rows[0].keys() >= {"image_cell", "gene_tokens", "gene_cell", "total", "learning_rate", "step", "split"}
    assert rows[-1].keys() >= {"image_niche", "gene_niche", "image_tissue", "gene_tissue", "gene_fused"}
    assert rows[-1]["step"] == max(row["step"] for row in rows)


def test_a_loss_that_is_not_finite_stops_with_step_and_cells(slides):
    model = make_model(open_toys(slides, tiles=False))
    with torch.no_grad():
        model.cell.gene_half.weight[0, 0] = torch.nan
    trainer = Trainer(model, make_phases(slides, model), RECIPE, CPU)
    with pytest.raises(SpatiaError, match=r"phase cell, epoch 1, step 1: the loss is not finite .* (one|two)-\d+"):
        trainer.run()


def test_a_loss_that_was_not_asked_for_is_left_out_of_the_mean(slides):
    whole = MaskParams(full_share=1.0, drop_image=0.0)
    _, rows = train(slides, mask=whole)
    assert "image_cell" not in rows[0]
    assert rows[0]["gene_cell"] > 0
    assert "image_niche" in rows[1]  # the tile phase hides patches all the same
    assert add_sums({"total": [1.0, 1.0]}, {"gene_cell": [2.0, 1.0], "total": [3.0, 1.0]}) == {
        "gene_cell": [2.0, 1.0],
        "total": [4.0, 2.0],
    }


def test_too_few_batches_are_refused(slides):
    model = make_model(open_toys(slides, tiles=False))
    recipe = dataclasses.replace(RECIPE, accumulate=50)
    with pytest.raises(SpatiaError, match="make batches smaller"):
        Trainer(model, make_phases(slides, model), recipe, CPU).run()


def test_warm_up_then_cosine():
    recipe = dataclasses.replace(RECIPE, warmup_steps=4, learning_rate=1.0)
    rates = [learning_rate(step, 104, recipe) for step in range(104)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[54] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert learning_rate(0, 5, recipe) == pytest.approx(0.5)  # a short training warms up for a fifth of it


def test_seeds_depend_on_every_number():
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(1, 2, 0), seed_of(1)}) == 4


def test_a_gpu_that_is_not_there_is_an_error_unless_allowed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpatiaError, match="asked for a GPU, found none"):
        choose_machine("cuda", "auto", allow_cpu=False)
    assert choose_machine("cuda", "auto", allow_cpu=True).device.type == "cpu"
    assert choose_machine("auto", "auto", allow_cpu=False).dtype == torch.float32
    assert choose_machine("cpu", "bfloat16", allow_cpu=False).dtype == torch.bfloat16


def test_bfloat16_trains_too(slides):
    model = make_model(open_toys(slides, tiles=False))
    machine = dataclasses.replace(CPU, dtype=torch.bfloat16)
    rows = Trainer(model, make_phases(slides, model), RECIPE, machine).run()
    plain = Trainer(make_model(open_toys(slides, tiles=False)), make_phases(slides, model), RECIPE, CPU)
    assert rows[0]["total"] == pytest.approx(plain.run()[0]["total"], rel=0.2)
    assert model.cell.gene_half.weight.dtype == torch.float32


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_training import CPU, RECIPE, make_phases
from toy_model import make_model, open_toys, tiny_shape, toy_slides
from spatia.learn.parallel import join_group, leave_group
from spatia.learn.training import Trainer
import dataclasses
group = join_group("cpu")
slides = toy_slides(Path(sys.argv[2]) / f"toy_{group.rank}_of_{group.size}")
model = make_model(open_toys(slides, tiles=False), tiny_shape(dropout=0.1))
recipe = dataclasses.replace(RECIPE, accumulate=int(sys.argv[3]))
rows = Trainer(model, make_phases(slides, model, cells_per_batch=12), recipe, CPU, group).run()
if group.is_first:
    torch.save({"weights": model.state_dict(), "rows": rows}, sys.argv[4])
leave_group(group)
"""


def run_worker(folder: Path, processes: int, accumulate: int) -> dict:
    script, out = folder / "worker.py", folder / f"{processes}.pt"
    script.write_text(WORKER, encoding="utf-8")
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [str(script), str(Path(__file__).parent), str(folder), str(accumulate), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    one, two = run_worker(tmp_path, 1, accumulate=2), run_worker(tmp_path, 2, accumulate=1)
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    assert [row["step"] for row in one["rows"]] == [row["step"] for row in two["rows"]]
    for mine, theirs in zip(one["rows"], two["rows"], strict=True):
        assert theirs["total"] == pytest.approx(mine["total"], rel=1e-5)
