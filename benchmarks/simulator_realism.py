"""How hard is the simulated data? The same measurements on real and on simulated bundles, side by side.

``python benchmarks/simulator_realism.py --real REGION_A REGION_B --simulated SIM_A SIM_B`` takes two Xenium bundles
of each kind (train, test) and prints a markdown table. For the real pair, two windows of one slide that share an edge
(b lies right of a), ``--edge-px 1024`` leaves out the cells close to that edge when one region predicts the other.

Classes are the ten commonest graph clusters where a bundle has them, else the planted states, read from
``truth/cells.parquet`` beside the bundle.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from scipy import ndimage, optimize, sparse

QUANTUM = 128  # one grey step of the real slide's images, which were 8-bit once
NEAR_PX = 20  # background is what lies this close to a cell
TOLERANCE = 0.10
STAINS = ("DAPI", "boundary", "interior RNA", "interior protein")
CLUSTERS = Path("analysis/clustering/gene_expression_graphclust/clusters.csv")


@dataclass(frozen=True)
class Region:
    """What is measured of one bundle; cells in label order."""

    focus: np.ndarray  # (4, y, x) uint16
    labels: np.ndarray  # (y, x)
    counts: sparse.csr_matrix  # (cell, gene), genes only
    genes: np.ndarray
    classes: np.ndarray  # (cell,) of str, "" unknown


def read_bundle(bundle: Path) -> Region:
    """Read images, masks, gene counts and classes of a bundle of any layout with four stains."""
    store = zarr.open(zarr.storage.ZipStore(bundle / "cells.zarr.zip", mode="r"), mode="r")
    labels = np.asarray(store["masks/1"])
    with h5py.File(bundle / "cell_feature_matrix.h5") as file:
        matrix = file["matrix"]
        shape = tuple(matrix["shape"][:])
        counts = sparse.csc_matrix(
            (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:]), shape=shape
        ).T.tocsr()
        is_gene = matrix["features/feature_type"][:].astype(str) == "Gene Expression"
        genes = matrix["features/name"][:].astype(str)
        ids = matrix["barcodes"][:].astype(str)
    # rows of the matrix are in label order in every bundle that has string ids
    order = np.argsort(ids.astype(int)) if ids[0].isdigit() else np.arange(len(ids))
    classes = _read_classes(bundle, ids)
    return Region(_read_focus(bundle), labels, counts[order][:, is_gene], genes[is_gene], classes[order])


def _read_focus(bundle: Path) -> np.ndarray:
    files = sorted((bundle / "morphology_focus").glob("*.ome.tif"))
    if len(files) != len(STAINS):
        sys.exit(f"{bundle}: expected a bundle with {len(STAINS)} stains, found {len(files)} focus images")
    return np.stack([tifffile.TiffFile(file).pages[0].asarray() for file in files])


def _read_classes(bundle: Path, ids: np.ndarray) -> np.ndarray:
    truth = bundle.parent / "truth" / "cells.parquet"
    if truth.exists():
        known = pd.read_parquet(truth).set_index("cell_id")["state"]
    elif (bundle / CLUSTERS).exists():
        known = pd.read_csv(bundle / CLUSTERS, index_col="Barcode")["Cluster"].astype(str)
    else:
        sys.exit(f"{bundle}: expected {CLUSTERS} in the bundle or truth/cells.parquet beside it, found neither")
    return known.reindex(ids).fillna("").to_numpy().astype(str)


def cell_features(region: Region) -> np.ndarray:
    """Return mean, sd and p90 of every stain inside the mask, and the log area, (cell, 13)."""
    n = int(region.labels.max())
    flat = region.labels.ravel()
    pixels = np.flatnonzero(flat)
    owner = flat[pixels].astype(np.int64)
    order = np.argsort(owner, kind="stable")
    pixels, owner = pixels[order], owner[order]
    size = np.bincount(owner, minlength=n + 1)[1:]
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    columns = []
    for image in region.focus:
        values = _quantised(image).ravel()[pixels]
        mean = np.bincount(owner, values, n + 1)[1:] / np.maximum(size, 1)
        square = np.bincount(owner, values**2, n + 1)[1:] / np.maximum(size, 1)
        ranked = values[np.lexsort((values, owner))]
        p90 = ranked[np.minimum(start + (0.9 * size).astype(int), len(ranked) - 1)]
        columns += [mean, np.sqrt(np.maximum(square - mean**2, 0)), p90]
    return np.column_stack([*columns, np.log(np.maximum(size, 1))])


def _quantised(image: np.ndarray) -> np.ndarray:
    """Return grey steps as coarse as the real slide's, for either kind."""
    return (image // QUANTUM).astype(np.float64)


def describe(region: Region, features: np.ndarray, pixel_size_um: float = 0.2125) -> dict[str, float]:
    """Return the measured rows of one region."""
    counts = np.asarray(region.counts.sum(axis=1)).ravel()
    genes = np.diff(region.counts.indptr)
    area = np.exp(features[:, -1]) * pixel_size_um**2
    rows = {}
    for name, values in (("counts per cell", counts), ("genes per cell", genes), ("cell area (um2)", area)):
        for q in (10, 25, 50, 75, 90):
            rows[f"{name}, {q} %"] = float(np.percentile(values, q))
    near = _near_background(region.labels)
    for k, stain in enumerate(STAINS):
        mean, sd = features[:, 3 * k], features[:, 3 * k + 1]
        background = _quantised(region.focus[k])[near].mean()
        rows[f"{stain}: in-cell mean / background"] = float(mean.mean() / background)
        rows[f"{stain}: contrast inside a cell (sd / mean)"] = float(sd.mean() / mean.mean())
        rows[f"{stain}: spread over cells (sd / mean)"] = float(mean.std() / mean.mean())
    return rows


def _near_background(labels: np.ndarray) -> np.ndarray:
    is_cell = labels > 0
    return (ndimage.uniform_filter(is_cell.astype(np.float32), 2 * NEAR_PX + 1) > 1e-6) & ~is_cell


def class_probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the balanced accuracy of multinomial logistic regression, classes weighted alike."""
    names, y = np.unique(train[1], return_inverse=True)
    x, x_test = _standardised(train[0], test[0])
    weight = len(y) / len(names) / np.bincount(y)[y]
    target = np.eye(len(names))[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(x.shape[1], len(names))
        z = x @ w
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        p /= p.sum(axis=1, keepdims=True)
        value = -(weight * np.log(p[np.arange(len(y)), y] + 1e-12)).sum() + 0.5 * (w**2).sum()
        return value, (x.T @ (weight[:, None] * (p - target)) + w).ravel()

    start = np.zeros(x.shape[1] * len(names))
    w = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    guess = names[(x_test @ w.reshape(x.shape[1], -1)).argmax(axis=1)]
    return float(np.mean([(guess[test[1] == name] == name).mean() for name in names if (test[1] == name).any()]))


def gene_probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the mean Pearson correlation over genes of ridge regression on log counts."""
    x, x_test = _standardised(train[0], test[0])
    w = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ train[1])
    guess, truth = x_test @ w, test[1]
    guess, truth = guess - guess.mean(axis=0), truth - truth.mean(axis=0)
    norm = np.sqrt((guess**2).sum(axis=0) * (truth**2).sum(axis=0))
    return float(np.mean((guess * truth).sum(axis=0)[norm > 0] / norm[norm > 0]))


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, sd = train.mean(axis=0), train.std(axis=0) + 1e-9
    return tuple(np.column_stack([(part - mean) / sd, np.ones(len(part))]) for part in (train, test))  # type: ignore[return-value]


def probe(train: Region, test: Region, features: list[np.ndarray], edge_px: int) -> dict[str, float]:
    """Return what the 13 features of one region's cells learn about the other's."""
    commonest = pd.Series(np.concatenate([train.classes, test.classes])).replace("", np.nan).value_counts().index[:10]
    far = [_far_from_edge(train, edge_px, right=True), _far_from_edge(test, edge_px, right=False)]
    known = [f & np.isin(r.classes, commonest) for f, r in zip(far, (train, test), strict=True)]
    classes = class_probe(
        (features[0][known[0]], train.classes[known[0]]), (features[1][known[1]], test.classes[known[1]])
    )
    _shared, rows_train, rows_test = np.intersect1d(train.genes, test.genes, return_indices=True)
    total = np.asarray(train.counts[:, rows_train].sum(axis=0)).ravel()
    top = np.argsort(-total)[:50]
    y = [
        np.log1p(r.counts[f][:, rows[top]].toarray())
        for r, f, rows in ((train, far[0], rows_train), (test, far[1], rows_test))
    ]
    genes = gene_probe((features[0][far[0]], y[0]), (features[1][far[1]], y[1]))
    return {
        "13 image features -> 10 classes (balanced accuracy)": classes,
        "13 image features -> 50 genes (Pearson)": genes,
    }


def _far_from_edge(region: Region, edge_px: int, right: bool) -> np.ndarray:
    n = int(region.labels.max())
    x = np.zeros(n + 1)
    for label, part in enumerate(ndimage.find_objects(region.labels.astype(np.int32)), 1):
        x[label] = (part[1].start + part[1].stop) / 2 if part else 0
    return x[1:] < region.labels.shape[1] - edge_px if right else x[1:] >= edge_px


def measure(train: Region, test: Region, edge_px: int) -> dict[str, float]:
    """Return all rows for a pair: the mean of the two regions' own, and the probes from one to the other."""
    features = [cell_features(train), cell_features(test)]
    own = pd.DataFrame([describe(train, features[0]), describe(test, features[1])])
    return own.mean().to_dict() | probe(train, test, features, edge_px)


def as_markdown(real: dict[str, float], simulated: dict[str, float]) -> str:
    """Return the comparison as a markdown table, with a mark where the two differ by more than the tolerance."""
    lines = ["| measure | real | simulated | simulated / real | within 10 % |", "|---|---|---|---|---|"]
    for name, value in real.items():
        ratio = simulated[name] / value
        within = "yes" if abs(ratio - 1) <= TOLERANCE else "**no**"
        lines.append(f"| {name} | {value:.3g} | {simulated[name]:.3g} | {ratio:.2f} | {within} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs=2, type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--simulated", nargs=2, type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--edge-px", type=int, default=1024, help="of the real pair's shared edge (default 1024)")
    args = parser.parse_args()
    real = measure(*(read_bundle(bundle) for bundle in args.real), args.edge_px)
    simulated = measure(*(read_bundle(bundle) for bundle in args.simulated), 0)
    print(as_markdown(real, simulated))


if __name__ == "__main__":
    main()
