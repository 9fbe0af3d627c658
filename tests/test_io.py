"""Files appear whole or not at all."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from spatia import io
from spatia.errors import SpatiaError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), io.whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "d"
    with io.whole_dir(path) as partial:
        (partial / "x").write_text("old")
    with pytest.raises(RuntimeError), io.whole_dir(path) as partial:
        (partial / "x").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert (path / "x").read_text() == "old"


def test_what_a_killed_run_left_is_replaced(tmp_path):
    left = tmp_path / ".d.partial"
    left.mkdir()
    (left / "stale").write_text("x")
    with io.whole_dir(tmp_path / "d") as partial:
        (partial / "fresh").write_text("y")
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["fresh"]
    assert not left.exists()


@pytest.mark.parametrize(("text", "match"), [("{", "expected JSON"), ("[1]", "expected a JSON object, found list")])
def test_json_that_is_none_is_named(tmp_path, text, match):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SpatiaError, match=match):
        io.read_json(path)


@pytest.mark.parametrize(
    ("read", "name", "what"),
    [
        (io.read_json, "a.json", "a JSON file"),
        (io.read_table, "a.parquet", "a table"),
        (io.read_table, "a.tsv", "a table"),
        (io.read_sparse, "a.npz", "a sparse matrix"),
    ],
)
def test_a_missing_file_is_named(tmp_path, read, name, what):
    with pytest.raises(SpatiaError, match=f"{name}: expected {what}, found no such file; correct the path"):
        read(tmp_path / "nowhere" / name)


@pytest.mark.parametrize("suffix", ["parquet", "tsv"])
def test_tables_come_back(tmp_path, suffix):
    table = pd.DataFrame({"cell_id": ["b", "a"], "n": [1, 2]})
    io.write_table(tmp_path / f"t.{suffix}", table)
    pd.testing.assert_frame_equal(io.read_table(tmp_path / f"t.{suffix}"), table)


def test_sparse_and_arrays_come_back_and_are_the_same_bytes_twice(tmp_path):
    matrix = sparse.csr_matrix(np.array([[0, 2, 0], [1, 0, 3]]))
    for name in ("a.npz", "b.npz"):
        io.write_sparse(tmp_path / name, matrix)
        io.write_arrays(tmp_path / f"x{name}", low=np.arange(3))
    assert (io.read_sparse(tmp_path / "a.npz") != matrix).nnz == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "xa.npz").read_bytes() == (tmp_path / "xb.npz").read_bytes()
