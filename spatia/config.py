"""Parameters of every stage: one frozen dataclass each, one default each, unknown keys refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from spatia.errors import SpatiaError

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
    for key, value in content.items():
        _check_type(where, key, value, hints[key])
    content = {key: float(value) if _wants_float(hints[key], value) else value for key, value in content.items()}
    try:
        return kind(**content)
    except (TypeError, ValueError) as problem:
        raise SpatiaError(f"{where}: {problem}") from None


def params_to_dict(params: Any) -> dict[str, Any]:
    """Return a dataclass of parameters as a plain dictionary."""
    return dataclasses.asdict(params)


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
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None:
        return isinstance(value, origin) or (origin is tuple and isinstance(value, list))
    return isinstance(value, hint)


def _check_type(where: str, key: str, value: Any, hint: Any) -> None:
    if not any(_fits(value, choice) for choice in _choices(hint)):
        expected = " or ".join(str(getattr(c, "__name__", c)).replace("typing.", "") for c in _choices(hint))
        raise SpatiaError(f"{where}: {key} should be {expected}, found {value!r}")
