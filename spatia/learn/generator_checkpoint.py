"""A trained generator on disk: all that applying it to a slide needs, and nothing that runs code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

import spatia
from spatia.errors import SpatiaError
from spatia.io import whole_dir, write_json
from spatia.learn.checkpoint import read_record
from spatia.learn.generator_cells import PER_NICHE, dapi_of
from spatia.learn.generator_readers import Target
from spatia.model.velocity import Generator
from spatia.model.velocity_shape import VelocityShape
from spatia.transition_plan import Transition, transition_from_dict, transition_to_dict
from spatia.transitions.canvas import n_channels_of
from spatia.transitions.looks import n_looks_of

FORMAT = 5
TENSORS = "generator.safetensors"
HEADER = "generator.json"


@dataclass(frozen=True)
class Scope:
    """What a generator knows, in its order.

    Attributes
    ----------
    stains, species, target, window_um
        Of its images; ``target`` says what they show, a cell or a niche tile.
    nucleus_outline
        Whether canvases hold the nucleus' outline, where there is DAPI.
    transitions, genes, signatures
        ``signatures`` is (transitions, genes): dg of each.
    context, context_arrays, context_width, embedded_by
        Kind of context, arrays of the embeddings that make it, their values side by side, and what says which model
        embedded the training slides; another model's embeddings mean something else.
    """

    stains: tuple[str, ...]
    species: str
    target: Target
    window_um: float
    nucleus_outline: bool
    transitions: tuple[Transition, ...]
    genes: tuple[str, ...]
    signatures: NDArray[np.float32]
    context: str
    context_arrays: tuple[str, ...]
    context_width: int
    embedded_by: dict[str, Any]

    @property
    def dapi(self) -> int | None:
        """The stain whose nucleus has an outline in the canvases."""
        return dapi_of(self.stains, self.nucleus_outline)

    @property
    def n_around(self) -> int:
        """How many values of a context, the last ones, tell about the surroundings of a cell."""
        n_around = sum(name in PER_NICHE for name in self.context_arrays)
        return self.context_width * n_around // max(1, len(self.context_arrays))  # all arrays have one width

    @property
    def n_channels(self) -> int:
        """Channels of a canvas."""
        return n_channels_of(len(self.stains), self.dapi)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the transitions."""
        return tuple(transition.tag for transition in self.transitions)


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator and what is known about it; ``record`` is ``generator.json``."""

    model: Generator
    scope: Scope
    record: dict[str, Any]
    path: Path


def make_generator(shape: VelocityShape, scope: Scope) -> Generator:
    """Return an untrained generator of this scope."""
    n_looks = n_looks_of(len(scope.stains), scope.dapi) if shape.looks else 0
    model = Generator(
        shape, scope.n_channels, len(scope.transitions), len(scope.genes), scope.context_width, n_looks, scope.n_around
    )
    model.conditioning.perturbation.set_signatures(torch.from_numpy(scope.signatures))
    return model


def write_generator(
    folder: Path, weights: Mapping[str, Tensor], shape: VelocityShape, scope: Scope, about: dict[str, Any]
) -> None:
    """Write a generator whole; ``about`` is what else ``generator.json`` says."""
    record = {
        "format": FORMAT,
        "spatia_version": spatia.__version__,
        "stains": list(scope.stains),
        "species": scope.species,
        "target": scope.target,
        "image_px": shape.image_px,
        "window_um": scope.window_um,
        "nucleus_outline": scope.nucleus_outline,
        **about,
        "context": scope.context,
        "context_arrays": list(scope.context_arrays),
        "context_width": scope.context_width,
        "embedded_by": scope.embedded_by,
        "shape": dataclasses.asdict(shape),
        "transitions": {transition.tag: transition_to_dict(transition) for transition in scope.transitions},
        "genes": list(scope.genes),
        "dg": {tag: [float(f"{v:.6g}") for v in row] for tag, row in zip(scope.tags, scope.signatures, strict=True)},
    }
    with whole_dir(folder) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, partial / TENSORS)
        write_json(partial / HEADER, record)


def read_generator(folder: Path) -> GeneratorCheckpoint:
    """Return the generator in a folder, ready to be applied.

    Raises
    ------
    SpatiaError
        If a file is missing, of another format, or does not fit the other.
    """
    folder = Path(folder)
    record = read_record(folder, HEADER, TENSORS, FORMAT)
    try:
        shape, scope = VelocityShape(**record["shape"]), _scope(record)
        model = make_generator(shape, scope)
        model.load_state_dict(load_file(folder / TENSORS))
    except SpatiaError:
        raise
    except Exception as problem:
        reason = " ".join(str(problem).split())[:200]
        raise SpatiaError(f"{folder}: expected a generator, found a damaged one ({reason}); copy it again") from None
    return GeneratorCheckpoint(model.eval(), scope, record, folder)


def _scope(record: dict[str, Any]) -> Scope:
    transitions = [transition_from_dict(tag, entry, HEADER) for tag, entry in record["transitions"].items()]
    return Scope(
        stains=tuple(record["stains"]),
        species=record["species"],
        target=record["target"],
        window_um=float(record["window_um"]),
        nucleus_outline=bool(record["nucleus_outline"]),
        transitions=tuple(transitions),
        genes=tuple(record["genes"]),
        signatures=np.asarray([record["dg"][transition.tag] for transition in transitions], np.float32),
        context=record["context"],
        context_arrays=tuple(record["context_arrays"]),
        context_width=int(record["context_width"]),
        embedded_by=record["embedded_by"],
    )
