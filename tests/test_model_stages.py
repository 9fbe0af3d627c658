"""`spatia pretrain` and `spatia embed` on toy bundles: what they write, apply mode, and what they refuse."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from toy_run import run_stages

from spatia.cli import main
from spatia.learn.checkpoint import FORMAT, read_checkpoint

TINY = {
    "preset": "tiny",
    "model": {"tile_patch_px": 64, "niche_shrink": 1, "tissue_level": 1},
    "cell_epochs": 2,
    "tile_epochs": 1,
    "joint_epochs": 2,
    "cells_per_batch": 8,
    "joint_cells_per_batch": 8,
    "learning_rate": 1e-3,
}


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def pretrain(run, out, slides=("one",), threads=1, val=(), **changes):
    params = write_yaml(run / f"pretrain_{out}.yaml", {**TINY, **changes})
    folder = run / out
    arguments = ["pretrain", f"--run={run}", f"--params={params}", f"--checkpoint={folder / 'checkpoint'}"]
    arguments += [f"--history={folder / 'history.tsv'}", f"--work={folder / 'work'}", f"--threads={threads}"]
    return main([*arguments, "--train", *slides, *(["--val", *val] if val else [])])


def embed(run, slide, checkpoint, out, **changes):
    params = write_yaml(run / "embed.yaml", {"cells_per_batch": 8, "n_reconstructions": 3, **changes})
    results = run / "results"
    arguments = {
        "slide": slide,
        "checkpoint": checkpoint,
        "zarr": results / "ingest" / slide / "slide.zarr",
        "crops": results / "crop" / slide / "crops",
        "tiles": results / "tile" / slide / "tiles",
        "params": params,
        "out": out,
        "threads": 1,
    }
    return main(["embed", *(f"--{name}={value}" for name, value in arguments.items())])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three slides: two alike, one with DAPI alone; one of another species; and a model of the first."""
    folder = tmp_path_factory.mktemp("run")
    run_stages(folder, "one")
    run_stages(folder, "two", seed=9)
    run_stages(folder, "dapi", "1.4")
    assert pretrain(folder, "model") == 0
    assert embed(folder, "one", folder / "model/checkpoint", folder / "embeddings") == 0
    return folder


def arrays(folder):
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def test_the_checkpoint_says_all_that_applying_it_needs(run):
    record = json.loads((run / "model/checkpoint/model.json").read_text())
    assert record["stains"] == [
        "DAPI",
        "ATP1A1/CD45/E-Cadherin",
        "18S",
        "AlphaSMA/Vimentin",
        "HE_red",
        "HE_green",
        "HE_blue",
    ]
    assert record["genes"] == [f"G{number:02d}" for number in range(24)]
    assert record["gene_ids"][3] == "ENSG00000000003"
    assert (record["species"], record["slides"], record["window_px"]) == ("human", ["one"], 128)
    assert record["starting_weights"] == {"image": "", "genes": ""}
    assert record["n_parameters"]["total"] == sum(
        number for name, number in record["n_parameters"].items() if name != "total"
    )
    model = read_checkpoint(run / "model/checkpoint").model
    assert sum(p.numel() for p in model.parameters()) == record["n_parameters"]["total"]
    assert not (run / "model/work").exists()


def test_the_history_has_a_row_per_epoch(run):
    history = pd.read_csv(run / "model/history.tsv", sep="\t")
    assert history.groupby("phase").size().to_dict() == {"cell": 2, "tile": 1, "joint": 2}
    assert history["total"].notna().all()


def test_slides_set_aside_are_watched(run):
    assert pretrain(run, "watched", val=["two"]) == 0
    history = pd.read_csv(run / "watched/history.tsv", sep="\t")
    assert history.groupby("split").size().to_dict() == {"train": 5, "val": 5}


def test_every_kept_cell_is_embedded_at_every_level(run):
    found = arrays(run / "embeddings")
    record = json.loads((run / "embeddings/embed.json").read_text())
    cells = pd.read_parquet(run / "embeddings/cells.parquet")
    kept = pd.read_parquet(run / "results/qc/one/cells.parquet").query("keep")
    assert set(cells["cell_id"]) == set(kept.index)
    for name in ("z", "z_cell", "z_image", "z_cell_image", "z_genes", "z_cell_genes"):
        assert found[name].shape == (len(kept), 32)
        assert np.isfinite(found[name]).all()
        assert (found[name] != 0).any(1).all()
    assert found["z_niche"].shape == found["z_tissue"].shape == (record["n_niches"], 32)
    assert (found["z_niche"] != 0).any(1).all()
    assert not np.allclose(found["z"], found["z_image"])
    assert not np.allclose(found["z_image"], found["z_genes"])
    assert record["applied"] is False
    assert record["shared_genes"] == 24


def test_embedding_again_gives_the_same_bytes(run, tmp_path):
    assert embed(run, "one", run / "model/checkpoint", tmp_path / "again") == 0
    for path in sorted((run / "embeddings").iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_training_again_gives_the_same_tensors_and_another_seed_others(run):
    assert pretrain(run, "again") == 0
    assert pretrain(run, "other", seed=1) == 0
    first, again, other = (run / name / "checkpoint/model.safetensors" for name in ("model", "again", "other"))
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_another_batch_size_gives_the_same_embeddings(run, tmp_path):
    assert embed(run, "one", run / "model/checkpoint", tmp_path / "large", cells_per_batch=500) == 0
    for name, values in arrays(tmp_path / "large").items():
        np.testing.assert_allclose(values, np.load(run / f"embeddings/{name}.npy"), atol=1e-5, err_msg=name)


def test_a_slide_never_seen_with_fewer_stains_is_embedded(run, tmp_path):
    assert embed(run, "dapi", run / "model/checkpoint", tmp_path / "dapi", min_shared_stains=0.1) == 0
    record = json.loads((tmp_path / "dapi/embed.json").read_text())
    assert record["applied"] is True
    assert record["shared_stains"][0] == "DAPI"
    assert "18S" in record["missing_stains"]


def test_too_few_shared_stains_or_genes_are_refused_with_the_numbers(run, tmp_path, capsys):
    assert embed(run, "dapi", run / "model/checkpoint", tmp_path / "out", min_shared_stains=0.9) == 1
    assert "slide dapi has 4 of the 7 stains of the model" in capsys.readouterr().err
    genes = pd.read_parquet(run / "results/tile/two/tiles/genes.parquet")
    other = tmp_path / "other"
    for stage in ("ingest", "crop", "tile", "qc"):
        shutil.copytree(run / "results" / stage / "two", other / "results" / stage / "two", symlinks=True)
    renamed = genes.assign(gene=[g if k < 9 else f"X{k}" for k, g in enumerate(genes["gene"])])
    renamed.to_parquet(other / "results/tile/two/tiles/genes.parquet")
    assert embed(other, "two", run / "model/checkpoint", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "slide two has 9 of the 24 genes of the model" in message
    assert "G09" in message
    assert not (tmp_path / "out").exists()
    assert embed(other, "two", run / "model/checkpoint", tmp_path / "out", min_shared_genes=0.3) == 0
    genes.assign(gene=[f"X{k}" for k in range(len(genes))]).to_parquet(other / "results/tile/two/tiles/genes.parquet")
    assert embed(other, "two", run / "model/checkpoint", tmp_path / "none", min_shared_genes=0.0) == 1
    assert "has 0 of the 24 genes" in (message := capsys.readouterr().err)
    assert "expected at least one" in message
    assert "lower it" not in message


def test_a_slide_of_another_species_is_refused(run, tmp_path, capsys):
    run_stages(tmp_path, "mouse", species="mouse")
    for file in (tmp_path / "results/ingest/mouse").rglob("zarr.json"):
        file.write_text(file.read_text().replace('"species": "human"', '"species": "mouse"'))
    assert embed(tmp_path, "mouse", run / "model/checkpoint", tmp_path / "out") == 1
    assert "is of species mouse" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line(run, tmp_path, capsys):
    for name, damage, match in (
        ("missing", lambda folder: (folder / "model.safetensors").unlink(), "expected the tensors"),
        ("cut", lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50), "damaged"),
        ("format", lambda folder: edit(folder, format=99), f"expected format {FORMAT}, found 99"),
        ("sizes", lambda folder: edit_shape(folder, image_width=64), "expected tensors as model.json describes"),
        ("none", shutil.rmtree, "expected a JSON file, found no such file"),
    ):
        folder = tmp_path / name
        shutil.copytree(run / "model/checkpoint", folder)
        damage(folder)
        assert embed(run, "one", folder, tmp_path / "out") == 1
        message = capsys.readouterr().err
        assert match in message, name
        assert "bug" not in message
        assert not (tmp_path / "out").exists()


def edit(folder, **changes):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, **changes}))


def edit_shape(folder, **changes):
    record = json.loads((folder / "model.json").read_text())
    edit(folder, shape={**record["shape"], **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"preset": "huge"}, "preset"),
        ({"model": {"depth": 3}}, "unknown key 'depth'"),
        ({"mask": {"thin": 0}}, "something must be seen"),
        ({"cell_epochs": 0, "tile_epochs": 0, "joint_epochs": 0}, "nothing would be trained"),
        ({"image_weights": "no/such/file.safetensors"}, "no/such"),
        ({"device": "cuda"}, "found none"),
    ],
)
def test_wrong_training_parameters_are_one_line(run, changes, match, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pretrain(run, "wrong", **changes) == 1
    message = capsys.readouterr().err
    assert match in message
    assert "bug" not in message
    assert not (run / "wrong/checkpoint").exists()


def test_levels_and_variants_are_written_as_far_as_the_model_has_them(run, tmp_path):
    assert pretrain(run, "cells", model={**TINY["model"], "levels": "cell"}) == 0
    assert embed(run, "one", run / "cells/checkpoint", tmp_path / "cells", variants=False) == 0
    assert set(arrays(tmp_path / "cells")) == {"z", "z_cell"}
    assert np.array_equal(*(np.load(tmp_path / f"cells/{name}.npy") for name in ("z", "z_cell")))
