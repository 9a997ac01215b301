"""A model's files, looked at before anything reads them: what they are, where they lie, and whether they are whole.

Only safetensors and gguf are weights to attlas: a pickle can run code. What a folder's index of weights names must lie
in that folder. transformers would raise half a dozen kinds of errors for a damaged file, and some name no file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from attlas.errors import InputError, UnsupportedModelError

__all__ = ["check_config", "check_folder", "check_index", "check_weights", "read_json"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
REMEDY = "fetch it again"


def check_config(folder: Path) -> dict[str, Any]:
    """A folder's settings as they stand; raises InputError with file, fault and remedy unless they are a model's."""
    config = read_json(folder / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{folder / CONFIG} names no model_type: it is not the configuration of a model; {REMEDY}")
    return config


def check_folder(folder: Path) -> None:
    """Raise InputError, naming file, fault and remedy, unless a folder holds a whole model; nothing of it is loaded.

    Raises UnsupportedModelError where its weights are pickles alone.
    """
    config = check_config(folder)
    for file in _weight_files(folder, config.get("transformers_weights")):
        check_weights(file)


def _weight_files(folder: Path, named: Any) -> Sequence[Path]:
    """The safetensors that transformers will read, in its own order of search."""
    if named is not None:
        if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
            raise UnsupportedModelError(
                f"{folder / CONFIG} has its weights in {named!r}, and attlas reads safetensors alone: a pickle can run "
                "code; save the model again with save_pretrained"
            )
        file = _inside(folder, folder / CONFIG, named)
        return check_index(file, folder) if named.endswith(".index.json") else (file,)
    if (folder / WEIGHTS).is_file():
        return ((folder / WEIGHTS),)
    if (folder / INDEX).is_file():
        return check_index(folder / INDEX, folder)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    others = sorted(file.name for file in folder.iterdir() if file.suffix == ".safetensors")
    if pickles and not others:
        raise UnsupportedModelError(
            f"{folder} has its weights as a pickle ({pickles[0]}), which can run code and is never loaded: convert it "
            "to safetensors with save_pretrained"
        )
    if others:  # a checkpoint in pieces without an index, which transformers reads as they are
        return tuple(folder / name for name in others)
    raise InputError(f"{folder} has no weights: there is neither {WEIGHTS} nor {INDEX} in it; {REMEDY}")


def check_index(index: Path, folder: Path | None) -> Sequence[Path]:
    """The files that an index of weights names, each a safetensors in `folder`.

    folder: None for a repository of the hub, whose files are fetched by their names from that repository alone. Raises
    InputError where one lies elsewhere or is missing, UnsupportedModelError where one is a pickle.
    """
    content = read_json(index)
    names = content.get("weight_map")
    if not isinstance(content.get("metadata"), dict):
        raise InputError(f"{index} has no metadata: it is damaged; {REMEDY}")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} has no weight_map of weights to files: it is damaged; {REMEDY}")
    files = []
    for name in sorted(set(names.values())):
        if not name.endswith(".safetensors"):
            raise UnsupportedModelError(
                f"{index} names {name!r}, and attlas reads safetensors alone: a pickle can run code; save the model "
                "again with save_pretrained"
            )
        if folder is not None:
            files.append(_inside(folder, index, name))
    return files


def _inside(folder: Path, index: Path, name: str) -> Path:
    """A file named in a folder, which must lie there: the hub's cache alone keeps what it links to beside."""
    file, roots = folder / name, [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        roots.append(folder.resolve().parent.parent / "blobs")
    if not any(file.resolve().is_relative_to(root) for root in roots):
        raise InputError(
            f"{index} names {name!r}, which lies outside of {folder}: nothing is read from there; {REMEDY}"
        )
    if not file.is_file():
        raise InputError(f"{folder} lacks {name}, which {index.name} names; {REMEDY}")
    return file


def check_weights(file: Path) -> None:
    """Raise InputError unless a safetensors file is whole: a header, and as many bytes as it tells of."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            count = len(tensors.keys())
    except SafetensorError as error:
        size = file.stat().st_size
        raise InputError(f"{file} ({size:,} bytes) is no whole safetensors file: {error}; {REMEDY}") from error
    if not count:
        raise InputError(f"{file} holds no weight; {REMEDY}")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises InputError."""
    if not file.is_file():
        raise InputError(f"there is no {file.name} in {file.parent}: give a folder that save_pretrained wrote")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}; {REMEDY}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a {type(found).__name__}, not an object of settings; {REMEDY}")
    return found
