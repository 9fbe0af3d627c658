"""A trained model on disk: all that applying it to a new slide needs, and nothing that runs code.

``model.safetensors`` holds the tensors, ``model.json`` everything else; neither is a pickle.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import spatia
from spatia.errors import SpatiaError
from spatia.io import read_json, whole_dir, write_json
from spatia.model.hierarchy import Spatia
from spatia.model.shape import ModelShape

FORMAT = 5
TENSORS = "model.safetensors"
HEADER = "model.json"


@dataclass(frozen=True)
class Vocabulary:
    """What a model knows, in its order, and the geometry of its crops and tiles."""

    stains: tuple[str, ...]
    genes: tuple[str, ...]
    gene_ids: tuple[str, ...]
    species: str
    window_px: int
    niche_px: int
    niches_per_tissue: int
    pixel_size_um: float


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is known about it; ``record`` is ``model.json``."""

    model: Spatia
    vocabulary: Vocabulary
    record: dict[str, Any]
    path: Path


def count_parameters(model: Spatia) -> dict[str, int]:
    """Return the number of parameters of each module."""
    parts: dict[str, torch.nn.Module] = {
        "cell image encoder": model.cell.image,
        "cell image decoder": model.cell.image_decoder,
        "gene encoder": model.cell.genes,
        "gene decoder": model.cell.gene_decoder,
        "eq. 4 fusion": model.fusion,
    }
    if model.niche is not None:
        parts["niche level"] = model.niche
    if model.tissue is not None:
        parts["tissue level"] = model.tissue
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    total = sum(p.numel() for p in model.parameters())
    return {**counts, "cell fusion": total - sum(counts.values()), "total": total}


def write_checkpoint(folder: Path, model: Spatia, vocabulary: Vocabulary, about: dict[str, Any]) -> None:
    """Write a checkpoint whole.

    Parameters
    ----------
    about
        What else ``model.json`` says: training slides, seed, starting weights, ...
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    record = {
        "format": FORMAT,
        "spatia_version": spatia.__version__,
        "levels": model.shape.levels,
        **about,
        "n_parameters": count_parameters(model),
        "shape": dataclasses.asdict(model.shape),
        **dataclasses.asdict(vocabulary),
    }
    with whole_dir(folder) as partial:
        save_file(tensors, partial / TENSORS)
        write_json(partial / HEADER, record)


def read_record(folder: Path, header: str, tensors: str, format_number: int) -> dict[str, Any]:
    """Return the header of a folder of tensors, after a look whether the tensors are there.

    Raises
    ------
    SpatiaError
        If a file is missing, or of another format.
    """
    record = read_json(folder / header)
    if record.get("format") != format_number:
        raise SpatiaError(
            f"{folder / header}: expected format {format_number}, found {record.get('format')}; train again, or use "
            f"the spatia version that wrote it ({record.get('spatia_version', 'unknown')})"
        )
    if not (folder / tensors).is_file():
        raise SpatiaError(f"{folder / tensors}: expected the tensors, found no file; copy the whole folder")
    return record


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the model of a checkpoint folder, ready to be applied.

    Raises
    ------
    SpatiaError
        If a file is missing, of another format, or does not fit the other.
    """
    folder = Path(folder)
    record = read_record(folder, HEADER, TENSORS, FORMAT)
    try:
        shape = ModelShape(**record["shape"])
        known: dict[str, Any] = {field.name: record[field.name] for field in dataclasses.fields(Vocabulary)}
        tensors = load_file(folder / TENSORS)
    except Exception as problem:
        raise SpatiaError(f"{folder}: expected a checkpoint, found a damaged one ({problem}); copy it again") from None
    for name in ("stains", "genes", "gene_ids"):
        known[name] = tuple(known[name])
    vocabulary = Vocabulary(**known)
    model = Spatia(shape, len(vocabulary.stains), len(vocabulary.genes))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as problem:
        reason = str(problem).splitlines()[1].strip() if "\n" in str(problem) else str(problem)
        raise SpatiaError(f"{folder}: expected tensors as {HEADER} describes, found others ({reason})") from None
    return Checkpoint(model.eval(), vocabulary, record, folder)
