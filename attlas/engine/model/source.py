"""Where a model comes from: a hub id, a folder, a .gguf file or "demo", as arguments of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from attlas.errors import InputError, UnsupportedModelError, first_line

__all__ = ["DEMO_FOLDER", "load_config", "source_arguments", "unreadable"]


DEMO_FOLDER = Path(__file__).parent / "demo"


def load_config(source: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration alone, without weights; raises InputError where there is none."""
    where = source_arguments(source, revision)
    try:
        return AutoConfig.from_pretrained(**where)
    except (OSError, ValueError) as error:
        raise unreadable(str(source), error) from error


def source_arguments(source: str | Path, revision: str | None) -> dict[str, Any]:
    """Arguments for transformers' from_pretrained."""
    if str(source) == "demo":
        return {"pretrained_model_name_or_path": str(DEMO_FOLDER)}
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path)}
    if path.is_file():
        raise InputError(f"{path} is neither a model folder nor a .gguf file")
    return {"pretrained_model_name_or_path": str(source), "revision": revision or "main"}


def unreadable(name: str, error: Exception) -> InputError | UnsupportedModelError:
    text = first_line(error)
    if "trust_remote_code" in str(error):
        return UnsupportedModelError(f"{name} needs code from its repository, which attlas never runs")
    return InputError(
        f"cannot load {name!r}: {text} -- give a model id, a folder with config.json and safetensors, "
        "a .gguf file, or demo"
    )
