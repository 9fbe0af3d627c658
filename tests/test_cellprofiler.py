"""CellProfiler as its own rule: what it is given, and what is done with what it gives."""

import os
import shlex
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from toy_generated import STAINS, write_run

from spatia.cli import main
from spatia.measure.features import feature_columns
from spatia.stages.cellprofiler import fill_pipeline, write_shards

N = 12
COMMAND = os.environ.get("SPATIA_CELLPROFILER", "")


@pytest.fixture(scope="module")
def run(tmp_path_factory, root):
    folder = write_run(tmp_path_factory.mktemp("run"), N)
    (folder / "features.yaml").touch()
    arguments = [f"--generated={folder / 'generated'}", f"--crops={folder / 'crops'}", "--slide=toy"]
    more = [f"--pairs={folder / 'pairs'}", f"--params={folder / 'features.yaml'}", f"--out={folder / 'features'}"]
    assert main(["features", *arguments, *more, "--processes=1"]) == 0
    return folder


def prepare(run, root, name, **params):
    (run / f"{name}.yaml").write_text(yaml.safe_dump(params))
    folders = {"features": run / "features", "generated": run / "generated", "crops": run / "crops", "out": run / name}
    files = {"params": run / f"{name}.yaml", "pipeline": root / "resources/cellprofiler/measure.cppipe"}
    arguments = {"slide": "toy", **folders, **files}
    assert main(["cellprofiler", "prepare", *(f"--{key}={value}" for key, value in arguments.items())]) == 0
    return run / name


def fake_cellprofiler(run, inputs, shards, lose=(), change=0.0):
    """Write what CellProfiler would: our own features, in its files."""
    features = pd.read_parquet(run / "features/features.parquet").set_index(["kind", "cell_id"])
    rows = pd.read_csv(inputs / "rows.tsv", sep="\t")
    for shard in pd.read_csv(inputs / "shards.tsv", sep="\t").itertuples():
        own = rows[rows["ImageNumber"].between(shard.first, shard.last) & ~rows["ImageNumber"].isin(lose)]
        (shards / str(shard.shard)).mkdir(parents=True)
        values = features.loc[pd.MultiIndex.from_frame(own[["kind", "cell_id"]])]
        for name in ("Cells", "Nuclei"):
            table = values.filter(regex=f"^{name}_").rename(columns=lambda c, name=name: c.removeprefix(f"{name}_"))
            table = table.assign(AreaShape_Area=table["AreaShape_Area"] * (1 + change))
            table.insert(0, "ObjectNumber", 1)
            table.insert(0, "ImageNumber", own["ImageNumber"].to_numpy())
            table.to_csv(shards / str(shard.shard) / f"{name}.csv", index=False)


def collect(run, inputs, shards, out):
    folders = sorted(map(str, shards.iterdir()))
    arguments = [f"--inputs={inputs}", f"--features={run / 'features'}", f"--out={out}"]
    return main(["cellprofiler", "collect", "--shards", *folders, *arguments])


def test_an_image_set_per_cell(run, root):
    inputs = prepare(run, root, "all", max_images=None, shards=3)
    table = pd.read_csv(inputs / "load_data.csv")
    rows = pd.read_csv(inputs / "rows.tsv", sep="\t")
    assert len(table) == len(rows) == 3 * N  # controls, targets, one method; blank images have no cell
    assert table.columns[0] == "Image_FileName_DAPI"
    assert "Image_ObjectsFileName_Nuclei" in table
    generated = np.load(run / "generated/images.npy")
    row = rows[(rows["kind"] == "spatia") & (rows["cell_id"] == "dim-3")].index[0]
    plane = tifffile.imread(inputs / "images" / table["Image_FileName_a_b"][row])
    assert np.array_equal(plane, generated[3, 1])
    mask = tifffile.imread(inputs / "images" / table["Image_ObjectsFileName_Cells"][row])
    features = pd.read_parquet(run / "features/features.parquet").set_index(["kind", "cell_id"])
    assert mask.sum() == features.loc[("spatia", "dim-3"), "Cells_AreaShape_Area"]


def test_options(run, root):
    few, other = (prepare(run, root, f"few{seed}", max_images=5, seed=seed) for seed in (0, 1))
    first, second = (pd.read_csv(folder / "rows.tsv", sep="\t") for folder in (few, other))
    assert len(first) == 5
    assert first["cell_id"].tolist() != second["cell_id"].tolist()
    real = pd.read_csv(prepare(run, root, "real", max_images=None, only_real=True) / "rows.tsv", sep="\t")
    assert set(real["kind"]) == {"real"}
    assert len(pd.read_csv(prepare(run, root, "cut", shards=4) / "shards.tsv", sep="\t")) == 4


def test_shards_cover_all_images_once(tmp_path):
    write_shards(tmp_path / "shards.tsv", 7, 3)
    shards = pd.read_csv(tmp_path / "shards.tsv", sep="\t")
    assert [(a, b) for a, b in zip(shards["first"], shards["last"], strict=True)] == [(1, 2), (3, 5), (6, 7)]
    write_shards(tmp_path / "more.tsv", 1, 2)
    empty = pd.read_csv(tmp_path / "more.tsv", sep="\t").iloc[0]
    assert empty["first"] > empty["last"]


def test_the_pipeline_names_stains_and_objects(root):
    text = (root / "resources/cellprofiler/measure.cppipe").read_text()
    filled = fill_pipeline(text, ("DAPI", "a/b"), True)
    assert "@" not in filled
    assert filled.count("Select images to measure:DAPI, a_b") == 4
    assert "Select object sets to measure:Cells, Nuclei" in filled
    assert filled.count("enabled:False") == 0
    bare = fill_pipeline(text, ("18S",), False)
    assert "Select object sets to measure:Cells\n" in bare
    assert bare.count("enabled:False") == 1
    assert filled.count("module_num:") == int(filled.split("ModuleCount:")[1].split()[0])


def test_what_comes_back_is_compared(run, root, tmp_path):
    inputs = prepare(run, root, "same", max_images=9)
    fake_cellprofiler(run, inputs, tmp_path / "shards", change=1e-4)
    assert collect(run, inputs, tmp_path / "shards", tmp_path / "out") == 0
    comparison = pd.read_csv(tmp_path / "out/comparison.tsv", sep="\t").set_index("name")
    assert len(comparison) == len(feature_columns(STAINS))
    assert set(comparison.index[comparison["relative"] > 1e-6]) == {"Cells_AreaShape_Area", "Nuclei_AreaShape_Area"}
    assert comparison.loc["Cells_AreaShape_Area", "relative"] == pytest.approx(1e-4, rel=0.01)
    assert len(pd.read_parquet(tmp_path / "out/cellprofiler.parquet")) == 9


def test_a_lost_image_is_an_error(run, root, tmp_path, capsys):
    inputs = prepare(run, root, "lost", max_images=9)
    fake_cellprofiler(run, inputs, tmp_path / "shards", lose=(4, 8))
    assert collect(run, inputs, tmp_path / "shards", tmp_path / "out") == 1
    assert "expected one row in Cells.csv for each of 9 images, found 0 for image 4 (2 such)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_shard_that_wrote_nothing_is_an_error(run, root, tmp_path, capsys):
    inputs = prepare(run, root, "none", max_images=3)
    (tmp_path / "shards/0").mkdir(parents=True)
    assert collect(run, inputs, tmp_path / "shards", tmp_path / "out") == 1
    assert "found 0 for image 1 (3 such)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND, reason="SPATIA_CELLPROFILER, the command of a real CellProfiler, is not set")
def test_the_real_cellprofiler(run, root, tmp_path):
    inputs = prepare(run, root, "true", max_images=3, shards=1)
    files = ["-p", inputs / "measure.cppipe", "--data-file", inputs / "load_data.csv", "-i", inputs]
    options = ["-c", "-r", *map(str, files), "-o", str(tmp_path / "shards/0"), "-f", "1", "-l", "3"]
    done = subprocess.run([*shlex.split(COMMAND), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert collect(run, inputs, tmp_path / "shards", tmp_path / "out") == 0
    comparison = pd.read_csv(tmp_path / "out/comparison.tsv", sep="\t")
    unlike = comparison.loc[comparison["relative"] > 1e-6, "source"].str.replace(r"_\d.*", "", regex=True)
    assert set(unlike) <= {"RadialDistribution_FracAtD", "RadialDistribution_MeanFrac", "RadialDistribution_RadialCV",
                           "Intensity_MADIntensity"}  # fmt: skip
    assert len(unlike) < 0.12 * len(comparison)


def test_masks_of_another_segmenter_are_refused(run, root, tmp_path, capsys):
    shutil.copytree(run / "features", tmp_path / "features")
    table = pd.read_parquet(tmp_path / "features/features.parquet")
    table["Cells_AreaShape_Area"] += 1
    table.to_parquet(tmp_path / "features/features.parquet")
    (tmp_path / "params.yaml").touch()
    folders = {"features": tmp_path / "features", "generated": run / "generated", "crops": run / "crops"}
    files = {"params": tmp_path / "params.yaml", "pipeline": root / "resources/cellprofiler/measure.cppipe"}
    arguments = {"slide": "toy", **folders, **files, "out": tmp_path / "out"}
    assert main(["cellprofiler", "prepare", *(f"--{key}={value}" for key, value in arguments.items())]) == 1
    assert "run 'spatia features' again" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
