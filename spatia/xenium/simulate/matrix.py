"""``cell_feature_matrix.h5``: counts of all feature types, features x cells, in 10x's HDF5 form."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from spatia.xenium.simulate.layout_facts import LayoutFacts
from spatia.xenium.simulate.slide import PROTEIN, UNASSIGNED_CODEWORD

GENOMES = {"human": "GRCh38", "mouse": "GRCm39"}
_CHUNK = 80_000
_STRINGS_CHUNK = 1024


def write_matrix(
    path: Path, counts: sparse.csr_matrix, features: pd.DataFrame, ids: np.ndarray, species: str, facts: LayoutFacts
) -> None:
    """Write counts (cells x features) with the cells ``ids``."""
    counts = counts.sorted_indices()
    with h5py.File(path, "w") as file:
        _write_attributes(file, features, facts)
        matrix = file.create_group("matrix")
        _write(matrix, "barcodes", ids.astype("S"), _STRINGS_CHUNK)
        _write(matrix, "data", counts.data.astype(np.int32), _CHUNK)
        _write(matrix, "indices", counts.indices.astype(np.int64), _CHUNK)
        _write(matrix, "indptr", counts.indptr.astype(np.int64), _CHUNK)
        _write(matrix, "shape", np.array(counts.shape[::-1], np.int32), _CHUNK)
        _write_features(matrix.create_group("features"), features, species, facts)


def feature_types(features: pd.DataFrame, facts: LayoutFacts) -> pd.Series:
    """Return the features' types under the names the layout gives them."""
    if facts.has_number_ids:  # XOA 1.0 - 1.2
        return features["type"].replace(UNASSIGNED_CODEWORD, "Blank Codeword")
    return features["type"]


def _write_attributes(file: h5py.File, features: pd.DataFrame, facts: LayoutFacts) -> None:
    file.attrs["filetype"] = "matrix"
    file.attrs["library_ids"] = np.array([b"0000000_0000000"])
    file.attrs["original_gem_groups"] = np.array([1])
    file.attrs["version"] = 2
    file.attrs["software_version"] = facts.version
    if (features["type"] == PROTEIN).any():
        file.attrs["protein_scaling_factor"] = 1.0


def _write_features(group: h5py.Group, features: pd.DataFrame, species: str, facts: LayoutFacts) -> None:
    genome = GENOMES.get(species.lower(), "Unknown")
    _write(group, "_all_tag_keys", np.array([b"genome"]), 1)
    _write(group, "feature_type", _ascii(feature_types(features, facts)), _STRINGS_CHUNK)
    _write(group, "genome", np.full(len(features), genome.encode()), _STRINGS_CHUNK)
    _write(group, "id", _ascii(features["id"]), _STRINGS_CHUNK)
    _write(group, "name", _ascii(features["name"]), _STRINGS_CHUNK)


def _ascii(texts: pd.Series) -> np.ndarray:
    return np.char.encode(texts.to_numpy(str), "utf-8")


def _write(group: h5py.Group, name: str, values: np.ndarray, chunk: int) -> None:
    # resizable, as 10x writes them; h5py stores no times in datasets
    group.create_dataset(
        name, data=values, chunks=(min(chunk, max(1, values.size)),), maxshape=(None,), compression="gzip"
    )
