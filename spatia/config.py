"""Parameters of every stage: one frozen dataclass each, one default each, unknown keys refused."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from spatia.errors import SpatiaError
from spatia.learn.settings import LossWeights, MaskParams
from spatia.model.shape import ModelShape, shape_of

Params = TypeVar("Params")


@dataclass(frozen=True)
class IngestParams:
    """How a bundle becomes ``slide.zarr``."""

    projection: Literal["focus", "max"] = "focus"  # A33
    transcripts: bool = False


@dataclass(frozen=True)
class QcParams:
    """Filters on cells; a filter set to null is off."""

    min_counts: int | None = 10
    min_genes: int | None = None
    max_control_rate: float | None = 0.05
    min_cell_area_um2: float | None = 4.0
    max_cell_area_um2: float | None = None
    saturated_fraction: float = 0.98  # of the pixel type's maximum: from there a pixel is saturated
    window_um: float = 27.2  # A31: cells that do not fit are counted as clipped


@dataclass(frozen=True)
class CropParams:
    """How cell crops are cut and scaled to 8 bit."""

    window_um: float = 27.2  # A31: 128 px
    scaling: Literal["percentile", "minmax"] = "percentile"  # A27
    low_percentile: float = 0.1
    high_percentile: float = 99.9


@dataclass(frozen=True)
class TileParams:
    """The niche and tissue grids, in pixels (paper, section 3)."""

    niche_px: int = 256
    niches_per_tissue: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} should be at least 1, found {value}")


@dataclass(frozen=True)
class PretrainParams:
    """How the model is trained.

    Attributes
    ----------
    preset, model
        Sizes (:data:`spatia.model.shape.PRESETS`), and changes of single values.
    cell_epochs, tile_epochs, joint_epochs
        Passes over the cells alone, over niche and tissue tiles alone, over everything (App. C).
    cells_per_batch, joint_cells_per_batch, window_tissues
        Cells of a batch in the first phase and in the others, whose batches hold whole tissue windows; how many
        windows are shuffled together.
    accumulate
        Batches per step and process.
    learning_rate, warmup_steps, weight_decay, clip_norm
        AdamW; linear warm-up, then cosine to 0, in each phase (A24).
    precision, device, allow_cpu
        ``auto``: bfloat16 on a GPU, float32 without. ``device: cuda`` without a GPU is an error unless ``allow_cpu``.
    compile
        With torch.compile (:mod:`spatia.learn.compiling`); for long trainings.
    processes
        Per node, started by torchrun: one per GPU.
    image_weights, gene_weights
        Starting weights, hub id or local path; empty = from scratch.
    save_every_s
        How often a running training stores where it is.
    """

    preset: Literal["tiny", "small", "base"] = "small"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    cell_epochs: int = 6
    tile_epochs: int = 1
    joint_epochs: int = 8
    cells_per_batch: int = 64
    joint_cells_per_batch: int = 256
    window_tissues: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    mask: MaskParams = dataclasses.field(default_factory=MaskParams)
    loss: LossWeights = dataclasses.field(default_factory=LossWeights)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_cpu: bool = False
    compile: bool = False
    processes: int = 1
    workers: int = 0
    image_weights: str = ""
    gene_weights: str = ""
    save_every_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("cell_epochs", "tile_epochs", "joint_epochs", "warmup_steps", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} should not be negative, found {getattr(self, name)}")
        for name in ("cells_per_batch", "joint_cells_per_batch", "accumulate", "processes", "window_tissues"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        if self.cell_epochs + self.tile_epochs + self.joint_epochs == 0:
            raise ValueError("cell_epochs, tile_epochs and joint_epochs are all 0: nothing would be trained")
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            raise ValueError("learning_rate and clip_norm should be above 0")
        self.shape()

    def shape(self) -> ModelShape:
        """Return the preset with the changes of ``model``."""
        return shape_of(self.preset, **checked_changes(self.model, ModelShape))


@dataclass(frozen=True)
class EmbedParams:
    """How slides are embedded with a checkpoint.

    Attributes
    ----------
    min_shared_genes, min_shared_stains
        A slide that shares less of the model's genes or stains with it is refused.
    variants
        Also embed each cell from its image alone and from its genes alone.
    cluster_resolution, cluster_neighbours
        Of the Leiden clusters of ``z``; on more than ``cluster_cells`` cells, a sample is clustered and the others
        join their nearest neighbours.
    """

    cells_per_batch: int = 512
    min_shared_genes: float = 0.5
    min_shared_stains: float = 0.25
    variants: bool = True
    cluster_resolution: float = 1.0
    cluster_neighbours: int = 15
    cluster_cells: int = 20_000
    n_reconstructions: int = 8
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_cpu: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_shared_genes", "min_shared_stains"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} should lie in 0 to 1, found {getattr(self, name)}")
        if self.cells_per_batch < 1:
            raise ValueError(f"cells_per_batch should be at least 1, found {self.cells_per_batch}")


def checked_changes(changes: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return ``changes`` of a preset as ``kind`` wants them; raise ValueError, or SpatiaError for a wrong type."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(changes) - set(hints))
    if unknown:
        raise ValueError(f"model: unknown key {unknown[0]!r}; the known keys are {', '.join(hints)}")
    changes = {key: _read_number(value, hints[key]) for key, value in changes.items()}
    for key, value in changes.items():
        _check_type("model", key, value, hints[key])
    return changes


def load_params(path: Path | str, kind: type[Params]) -> Params:
    """Return the parameters in the YAML file ``path`` as the dataclass ``kind``.

    Raises
    ------
    SpatiaError
        If the file is not a YAML mapping, has an unknown key, or a value of the wrong type.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpatiaError(f"{path}: expected a parameter file, found none") from None
    except yaml.YAMLError as problem:
        raise SpatiaError(f"{path}: expected YAML, found something else ({problem})") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SpatiaError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return params_from_dict(content, kind, str(path))


def params_from_dict(content: dict[str, Any], kind: type[Params], where: str) -> Params:
    """Return ``kind(**content)`` after checking every key and type."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise SpatiaError(f"{where}: unknown key {unknown[0]!r}; the known keys are {', '.join(hints)}")
    content = {key: _read_number(value, hints[key]) for key, value in content.items()}
    for key, value in content.items():
        _check_type(where, key, value, hints[key])
    content = {key: _as_wanted(value, hints[key], f"{where}: {key}") for key, value in content.items()}
    try:
        return kind(**content)
    except (TypeError, ValueError) as problem:
        raise SpatiaError(f"{where}: {problem}") from None


def params_to_dict(params: Any) -> dict[str, Any]:
    """Return a dataclass of parameters as a plain dictionary."""
    return dataclasses.asdict(params)


def _read_number(value: Any, hint: Any) -> Any:
    """Return text that is a finite number as that, where one is wanted: YAML 1.1 takes ``1e-4`` for text."""
    kinds = _choices(hint)
    if not isinstance(value, str) or str in kinds or not {float, int} & {*kinds}:
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    if float in kinds:
        return number if math.isfinite(number) else value
    return int(number) if number.is_integer() else value


def _as_wanted(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return params_from_dict(value, hint, where)  # type: ignore[arg-type]
    return float(value) if _wants_float(hint, value) else value


def _wants_float(hint: Any, value: Any) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and float in _choices(hint) and int not in _choices(hint)


def _choices(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, dict)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None:
        return isinstance(value, origin) or (origin is tuple and isinstance(value, list))
    return isinstance(value, hint)


def _check_type(where: str, key: str, value: Any, hint: Any) -> None:
    if not any(_fits(value, choice) for choice in _choices(hint)):
        expected = " or ".join(str(getattr(c, "__name__", c)).replace("typing.", "") for c in _choices(hint))
        raise SpatiaError(f"{where}: {key} should be {expected}, found {value!r}")
