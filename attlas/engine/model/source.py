"""Where a model comes from: a hub id, a folder, a .gguf file or "demo", as arguments of transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from attlas.errors import InputError, UnsupportedModelError, first_line
from attlas.parse import is_integer, parse_choice, parse_count, refuse

__all__ = ["DEMO_FOLDER", "DTYPE_NAMES", "ModelSource", "load_config", "source_arguments", "unreadable"]

DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


DEMO_FOLDER = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelSource:
    """Which model, and how it is loaded: an option value of `capture`.

    model: a hub id, a folder, a .gguf file, "demo", or a model object. tokenizer: its own, or where to find it; None
    for the model's. dtype: one of DTYPE_NAMES. device: "auto", or torch's name for it. revision: of a hub model.
    """

    model: str | Path | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | str | None = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None

    @classmethod
    def of(
        cls, model: Any, *, tokenizer: Any = None, dtype: Any = "auto", device: Any = "auto", revision: Any = None
    ) -> Self:
        """Read each as given; raises InputError."""
        if not isinstance(model, str | Path | PreTrainedModel) or model == "":
            given = repr(model) if model is None or isinstance(model, str | int) else f"a {type(model).__name__}"
            raise InputError(
                f"model is {given}: give a hub id, a folder, a .gguf file, demo, or a transformers model object"
            )
        if not (tokenizer is None or isinstance(tokenizer, str | PreTrainedTokenizerBase)):
            raise refuse(tokenizer, "tokenizer", "give a transformers tokenizer, or where to find one")
        if not (revision is None or isinstance(revision, str)):
            raise refuse(revision, "revision", "give a branch, tag or commit of a hub model")
        return cls(
            model=model,
            tokenizer=tokenizer,
            dtype=parse_choice(dtype, "dtype", DTYPE_NAMES),
            device=_parse_device(device),
            revision=revision,
        )


def _parse_device(given: Any) -> str:
    """`auto`, `cpu`, `cuda:1`, ...; a number is a GPU's."""
    if is_integer(given):
        return f"cuda:{parse_count(given, 'device', least=0)}"
    text = str(given)
    if isinstance(given, bool) or not re.fullmatch(r"[a-z]+(:\d+)?", text):
        raise refuse(given, "device", "give auto, cpu, cuda, cuda:1, or a GPU's number")
    return text


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
