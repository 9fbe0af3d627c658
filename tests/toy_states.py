"""A run's folder with tiles of made-up cells, for the tests of states and pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import sparse

from spatia import keys
from spatia.cli import main
from spatia.io import write_json, write_sparse, write_table

SHAPE_PX = (6000, 8000)  # y, x: unequal, so that swapped axes fail
N_GENES = 30
GENES = tuple(f"G{number:02d}" for number in range(N_GENES))


def make_cells(sizes: dict[str, int], seed: int = 0) -> pd.DataFrame:
    """Return cells of the states asked for, shuffled, anywhere on the slide: id, state, place in micrometres."""
    rng = np.random.default_rng(seed)
    state = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    place = rng.uniform(0, SHAPE_PX[::-1], (len(state), 2)) * keys.PIXEL_SIZE_UM
    ids = [f"c{seed}-{number}" for number in range(len(state))]
    return pd.DataFrame({keys.CELL_ID: ids, "state": state, keys.X_UM: place[:, 0], keys.Y_UM: place[:, 1]})


def draw_counts(cells: pd.DataFrame, genes: tuple[str, ...] = GENES, seed: int = 0) -> sparse.csr_matrix:
    """Return counts in which each state has three genes of its own, by its place among the sorted names."""
    rng = np.random.default_rng([seed, 1])
    mean = np.full((len(cells), len(genes)), 1.0)
    for number, state in enumerate(sorted(set(cells["state"]))):
        own = [genes.index(gene) for gene in GENES[3 * number : 3 * number + 3] if gene in genes]
        mean[np.ix_((cells["state"] == state).to_numpy(), own)] = 6.0
    return sparse.csr_matrix(rng.poisson(mean).astype(np.int32))


def write_tiles(
    folder: Path, cells: pd.DataFrame, counts: sparse.csr_matrix | None = None, genes: tuple[str, ...] = GENES
) -> Path:
    """Write the files of ``tile`` that states and pair read."""
    places = cells[[keys.CELL_ID, keys.X_UM, keys.Y_UM]]
    write_table(folder / "cells.parquet", places)
    write_sparse(folder / "cell_counts.npz", draw_counts(cells, genes) if counts is None else counts)
    write_table(folder / "genes.parquet", pd.DataFrame({"gene": genes, "gene_id": genes}))
    header = {"format": 1, "slide": folder.parent.name, "pixel_size_um": keys.PIXEL_SIZE_UM}
    write_json(folder / "tiles.json", {**header, "height_px": SHAPE_PX[0], "width_px": SHAPE_PX[1]})
    return folder


def write_labels(path: Path, cells: pd.DataFrame, lineage: str = "L") -> Path:
    """Write a file of labels with the states of the cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({keys.CELL_ID: cells[keys.CELL_ID], "cell_type": "T", "lineage": lineage})
    table.assign(state=cells["state"]).to_csv(path, index=False)
    return path


def write_yaml(path: Path, content: object) -> Path:
    """Write parameters or transitions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class Run:
    """A folder in which states and pair are called as the workflow calls them.

    Parameters
    ----------
    folder
        Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transitions = write_yaml(
            folder / "transitions.yaml", {"A->B": {"from": {"state": "A"}, "to": {"state": "B"}, "lineage": "L"}}
        )

    def path(self, *parts: str) -> Path:
        """Return a path under results/."""
        return self.folder.joinpath("results", *parts)

    def states(self, slide: str, split: str = "train", status: int = 0, **options: object) -> Path:
        """Call ``spatia states``; ``params`` is a dictionary, other options go to the command line."""
        out = self.path("states", slide, "states")
        params = write_yaml(self.folder / "states.yaml", options.pop("params", {}))
        given = [f"--{name}={value}" for name, value in options.items()]
        tiles = self.path("tile", slide, "tiles")
        argv = ["states", f"--slide={slide}", f"--tiles={tiles}", f"--split={split}", f"--out={out}"]
        assert main([*argv, f"--params={params}", *given]) == status
        return out

    def inputs(self, slide: str) -> dict[str, Path]:
        """Return the folders of a slide that pair reads."""
        return {name: self.path(stage, slide, name) for stage, name in (("tile", "tiles"), ("states", "states"))}

    def pair(self, what: str, *slides: str, status: int = 0, **params: object) -> Path:
        """Call a part of ``spatia pair`` and return the folder it writes."""
        last = {"basis": ("basis",), "pairs": (slides[0], "pairs"), "signatures": ("signatures",)}[what]
        options = {
            "--slides": slides,
            "--tiles": [str(self.inputs(slide)["tiles"]) for slide in slides],
            "--states": [str(self.inputs(slide)["states"]) for slide in slides],
            "--params": [str(write_yaml(self.folder / "pair.yaml", params))],
            "--out": [str(self.path("pair", *last))],
        }
        if what != "basis":
            options["--basis"] = [str(self.path("pair", "basis"))]
        if what == "pairs":
            options |= {"--transitions": [str(self.transitions)], "--donor": ["d1"]}
        if what == "signatures":
            options["--pairs"] = [str(self.path("pair", slide, "pairs")) for slide in slides]
        argv = [word for option, values in options.items() for word in (option, *values)]
        assert main(["pair", what, *argv]) == status
        return self.path("pair", *last)

    def add_slide(self, slide: str, sizes: dict[str, int], seed: int = 0, **options: object) -> pd.DataFrame:
        """Write tiles and states of a slide with so many cells of each state; return the cells."""
        cells = make_cells(sizes, seed)
        write_tiles(self.path("tile", slide, "tiles"), cells)
        labels = write_labels(self.folder / f"{slide}.csv", cells)
        self.states(slide, labels=labels, **options)
        return cells
