"""Starting weights: a public checkpoint by its path or hub id -> its tensors and settings by name.

Only plain data is read: safetensors, or torch files with ``weights_only=True``; no foreign object is ever built.
What the names mean is known to :mod:`spatia.learn.vit_mae` and :mod:`spatia.learn.scprint`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatia.errors import SpatiaError
from spatia.io import read_json

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
CONFIG_FILE = "config.json"
TORCH_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
ENDINGS = (".safetensors", *TORCH_ENDINGS)
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::(\S+))?")

CONVERT = (
    'python -c "import json, torch; from safetensors.torch import save_file; '
    "c = torch.load('{name}', map_location='cpu', weights_only=False); t = c.get('state_dict', c.get('model', c)); "
    "save_file({{k: v.contiguous().clone() for k, v in t.items() if torch.is_tensor(v)}}, 'model.safetensors'); "
    "json.dump(dict(c.get('hyper_parameters', {{}})), open('config.json', 'w'), default=str, skipkeys=True)\""
)


@dataclass(frozen=True)
class StoredWeights:
    """What a checkpoint holds: ``tensors`` by name, ``settings`` of the network, and where both came from."""

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    origin: str

    def take(self, name: str) -> Tensor:
        """Return one tensor as float32; a missing one is a :class:`SpatiaError`."""
        if name not in self.tensors:
            raise SpatiaError(f"{self.origin}: expected a tensor {name}, found none; fetch the whole checkpoint again")
        return self.tensors[name].to(torch.float32)

    def take_module(self, name: str) -> dict[str, Tensor]:
        """Return ``weight`` and ``bias`` of the module ``name``, ready for its ``load_state_dict``."""
        return {part: self.take(f"{name}.{part}") for part in ("weight", "bias")}

    def setting(self, key: str) -> Any:
        """Return one setting of the network; a missing one is a :class:`SpatiaError`."""
        if key not in self.settings:
            raise SpatiaError(
                f"{self.origin}: expected {key} in hyper_parameters or in a {CONFIG_FILE} beside the file, found "
                f"{', '.join(list(self.settings)[:8]) or 'no settings'}; put the {CONFIG_FILE} of its repository there"
            )
        return self.settings[key]


def read_weights(source: str) -> StoredWeights:
    """Read a checkpoint.

    Parameters
    ----------
    source
        A file (.safetensors, .bin, .pt, .pth, .ckpt), a folder with model.safetensors or pytorch_model.bin and
        config.json, or a hub id ``owner/name`` or ``owner/name:file``. The hub is asked only for what is neither a
        local path nor in its cache.

    Returns
    -------
    StoredWeights
        ``settings`` are a lightning checkpoint's ``hyper_parameters``, else the config.json beside the file.

    Raises
    ------
    SpatiaError
        Nothing is there, the file is damaged, or it holds objects other than plain data.
    """
    path = _locate(source)
    content = _read_content(path)
    settings = content.get("hyper_parameters")
    if not isinstance(settings, Mapping):
        config = path.parent / CONFIG_FILE
        settings = read_json(config) if config.is_file() else {}
    return StoredWeights(_tensors_of(content, path), dict(settings), source)


def _locate(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return _weights_in(path)
    if path.is_file():
        return path
    hub = HUB_ID.fullmatch(source)
    if hub is None or (hub[2] is None and path.suffix in ENDINGS):
        raise SpatiaError(
            f"{source}: expected a weights file ({', '.join(ENDINGS)}), a folder with {' or '.join(FOLDER_FILES)}, "
            "or a hub id (owner/name or owner/name:file), found nothing there; check the path"
        )
    return _fetch(hub[1], (hub[2],) if hub[2] else FOLDER_FILES)


def _weights_in(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir())
    raise SpatiaError(
        f"{folder}: expected {' or '.join(FOLDER_FILES)}, found {', '.join(found[:8]) or 'an empty folder'}; "
        "give the path of the weights file itself"
    )


def _fetch(repository: str, names: Sequence[str]) -> Path:
    """Return the first of ``names`` in the hub's cache, else downloaded; its config.json then lies beside it."""
    try:
        for is_cached in (True, False):
            path = _first_on_hub(repository, names, is_cached)
            if path is not None:
                _first_on_hub(repository, [str(Path(names[0]).with_name(CONFIG_FILE))], is_cached)
                return path
        reason = "the repository has no such file"
    except Exception as problem:  # the hub's client raises errors of whichever HTTP library its version uses
        cause = problem.__cause__ or problem
        reason = f"{type(cause).__name__}: {cause}"
    raise SpatiaError(_how_to_fetch(repository, names, reason))


def _first_on_hub(repository: str, names: Sequence[str], is_cached: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=is_cached))
        except EntryNotFoundError as problem:
            if isinstance(problem, LocalEntryNotFoundError) and not is_cached:
                raise  # the hub was not reached: another name would fail alike, after another minute of retries
    return None


def _how_to_fetch(repository: str, names: Sequence[str], reason: str) -> str:
    folder = repository.split("/")[1]
    if len(names) == 1:
        source, files, path = f"{repository}:{names[0]}", names[0], f"{folder}/{names[0]}"
    else:
        source, files, path = repository, f"{names[0]} {CONFIG_FILE}", folder
    return (
        f"{source}: expected {' or '.join(names)} in the hub's cache or by download, found neither ({reason}); "
        f"on a machine with network run `hf download {repository} {files} --local-dir {folder}`, copy the folder here "
        f"and give its path, {path}, instead of {source}"
    )


def _read_content(path: Path) -> Mapping[str, Any]:
    if path.suffix not in ENDINGS:
        raise SpatiaError(f"{path}: expected a file ending in {', '.join(ENDINGS)}, found {path.name}; rename it")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise SpatiaError(f"{path}: expected tensors by name, found {type(content).__name__}; save a state_dict")
    return content


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as problem:
        raise _damaged(path, problem) from problem


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(problem))
        if foreign is None:
            raise _damaged(path, problem) from problem
        raise SpatiaError(
            f"{path}: expected tensors and plain settings, found an object {foreign[1]}, which could run code when "
            f"read; if you trust its origin, run in its folder, on a machine where {foreign[1]} is installed: "
            f"{CONVERT.format(name=path.name)} and give the folder with the two new files"
        ) from problem
    except (EOFError, OSError, RuntimeError) as problem:
        raise _damaged(path, problem) from problem


def _damaged(path: Path, problem: Exception) -> SpatiaError:
    return SpatiaError(
        f"{path}: expected a weights file, found {path.stat().st_size} bytes that cannot be read as one "
        f"({type(problem).__name__}: {str(problem)[:80]}): truncated, or a pointer of git-lfs; fetch it again"
    )


def _tensors_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors of a lightning checkpoint (``state_dict``), of the MAE repository (``model``) or plain."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise SpatiaError(f"{path}: expected tensors by name, found {', '.join(map(str, list(content)[:5])) or 'none'}")
    return tensors
