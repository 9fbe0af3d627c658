"""The direction of imports, and what must not be loaded by accident."""

import ast
import subprocess
import sys

import pytest

PURE = ("cells", "measure", "model", "transitions")  # arrays and tables in, arrays and tables out
NO_FILES = ("measure", "model", "transitions")


def imports_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_pure_packages_import_neither_stages_nor_config(root):
    for package in PURE:
        for path in (root / "spatia" / package).rglob("*.py"):
            found = {
                name for name in imports_of(path) if name.startswith(("spatia.stages", "spatia.config", "spatia.cli"))
            }
            assert not found, f"{path.name} imports {found}"


def test_packages_without_files_do_not_import_io(root):
    for package in NO_FILES:
        for path in (root / "spatia" / package).rglob("*.py"):
            assert "spatia.io" not in set(imports_of(path)), path.name


def test_only_the_command_line_imports_stages(root):
    for path in (root / "spatia").rglob("*.py"):
        relative = path.relative_to(root / "spatia")
        if relative.parts[0] in ("stages", "cli.py"):
            continue
        assert not any(name.startswith("spatia.stages") for name in imports_of(path)), relative


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("spatia", ("torch", "scanpy", "numpy", "spatialdata")),
        ("spatia.cli", ("torch", "scanpy", "numpy", "spatialdata")),
        ("spatia.stages.crop", ("torch", "scanpy", "spatialdata")),
        ("spatia.stages.qc", ("torch", "scanpy", "spatialdata")),
        ("spatia.stages.tile", ("torch", "scanpy", "spatialdata")),
        ("spatia.config", ("torch", "scanpy", "spatialdata")),
        ("spatia.learn.dataset", ("scanpy", "spatialdata")),
        ("spatia.transition_params", ("torch", "scanpy", "squidpy", "spatialdata")),
        ("spatia.stages.states", ("torch", "scanpy", "squidpy", "spatialdata")),
        ("spatia.stages.pair", ("torch", "scanpy", "squidpy", "spatialdata")),
        ("spatia.stages.pretrain", ("scanpy", "spatialdata", "transformers", "tensorboard")),
    ],
)
def test_light_modules_stay_light(module, unwanted):
    code = f"import {module}, sys; print([m for m in {unwanted!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
