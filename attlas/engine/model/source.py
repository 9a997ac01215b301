"""Where a model comes from: a hub id, a folder, a .gguf file or "demo", as arguments of transformers.

What a folder or a repository says of code is never followed: no class of its own, no attention kernel from a hub.
"""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from huggingface_hub import constants
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from attlas.engine.model.device import parse_device
from attlas.engine.model.dtype import parse_dtype
from attlas.engine.model.files import INDEX, check_config, check_folder, check_index
from attlas.engine.model.unwrap import WHAT_A_MODEL_IS, is_path
from attlas.errors import AttlasError, InputError, UnsupportedModelError
from attlas.parse import parse_path, parse_word

__all__ = [
    "DEMO_FOLDER",
    "ModelSource",
    "check_source",
    "load_config",
    "local_folder",
    "source_arguments",
    "unreadable",
]


DEMO_FOLDER = Path(__file__).parent / "demo"
HUB_SECONDS = 5.0
"""How long the hub may take to answer, before what is kept of it on this machine must do."""
ASKED_AGAIN_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelSource:
    """Which model, and how it is loaded: an option value of `capture`.

    model: a hub id, a folder, a .gguf file, "demo", or a model object or what holds one. tokenizer: its own, or where
    to find it; None for the model's. dtype: "auto" or one of DTYPE_NAMES. device: "auto", or torch's name for it.
    revision: of a hub model. part: of a model of several parts; None for what reads text.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    part: str | None = None

    @classmethod
    def of(
        cls, model: Any, *, tokenizer: Any = None, dtype: Any = "auto", device: Any = "auto", revision: Any = None,
        part: Any = None,
    ) -> Self:  # fmt: skip
        """Read each as given; raises InputError. What an object holds is looked at where it is loaded, see `unwrap`."""
        if is_path(model):
            model = model if isinstance(model, str) else Path(model)
        if isinstance(model, str | Path):
            parse_path(model, "model", WHAT_A_MODEL_IS)
        if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
            parse_path(tokenizer, "tokenizer", "give a transformers tokenizer, or where to find one")
        if revision is not None:
            parse_word(revision, "revision", "give a branch, tag or commit of a hub model")
        if part is not None:
            parse_word(part, "part", "give the qualified name of a part of the model, such as language_model")
        return cls(
            model=model,
            tokenizer=tokenizer,
            dtype=parse_dtype(dtype),
            device=parse_device(device),
            revision=revision,
            part=part,
        )


def load_config(source: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration alone, without weights, and without what it says of code.

    Raises InputError where there is none, UnsupportedModelError where it needs code of its own.
    """
    where, folder = source_arguments(source, revision), local_folder(source)
    if folder is not None:
        check_config(folder)
    try:
        config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
    except Exception as error:  # a foreign file, which may make transformers raise anything
        raise unreadable(str(source), error) from error
    _forget_code(config)
    return config


def _forget_code(config: PreTrainedConfig) -> None:
    """Take from a configuration, and those inside it, classes to be run and kernels to be fetched.

    A model of several parts is built from the configurations inside, for which transformers asks on the terminal.
    """
    for one in _configs(config):
        for name in ("auto_map", "custom_pipelines", "transformers_weights"):
            if name in vars(one):
                delattr(one, name)
        one._attn_implementation_internal = None
        one._experts_implementation_internal = None


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    return [config] + [
        inner for value in vars(config).values() if isinstance(value, PreTrainedConfig) for inner in _configs(value)
    ]


def local_folder(source: str | Path) -> Path | None:
    """The folder a model lies in; None for a .gguf file and for the hub."""
    if str(source) == "demo":
        return DEMO_FOLDER
    path = Path(source).expanduser()
    return path if str(source) and path.is_dir() else None


def check_source(source: str | Path, revision: str | None) -> None:
    """Raise an error that names the file, unless the files of a model are whole; see `check_folder`. Loads nothing."""
    folder = local_folder(source)
    if folder is not None:
        check_folder(folder)
        return
    where = source_arguments(source, revision)
    if "gguf_file" in where:
        return
    name = where.pop("pretrained_model_name_or_path")
    found = cached_file(name, INDEX, _raise_exceptions_for_missing_entries=False, **where)
    if found is not None:
        check_index(Path(found), None)


def source_arguments(source: str | Path, revision: str | None) -> dict[str, Any]:
    """Arguments for transformers' from_pretrained; raises InputError where there is no such file or folder."""
    folder = local_folder(source)
    if folder is not None:
        return {"pretrained_model_name_or_path": str(folder)}
    path, name = Path(source).expanduser(), str(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    if path.is_file():
        raise InputError(f"{path} is neither a model folder nor a .gguf file")
    if "://" in name:
        raise InputError(f"a model is not read from a URL ({name}): give a folder on this machine or a hub id")
    if isinstance(source, Path) or not name or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise InputError(f"there is no folder {name!r}: give a model's folder, a .gguf file, a hub id, or demo")
    where = {"pretrained_model_name_or_path": name, "revision": revision or "main"}
    return where if _hub_answers() else where | {"local_files_only": True}


def _hub_answers() -> bool:
    """Whether the hub can be asked: without it, transformers would try again and again for half a minute."""
    return _hub_answered(int(time.monotonic() / ASKED_AGAIN_SECONDS))


@cache
def _hub_answered(_minute: int) -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:  # it answered, if only to refuse
        return True
    except urllib.error.URLError as error:  # its own certificates are known to the hub's client, not here
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


def unreadable(name: str, error: Exception) -> AttlasError:
    """What to tell of a model that transformers could not load."""
    if isinstance(error, AttlasError):
        return error
    text, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = f"{text} {more[0]}" if text.endswith(":") and more else text
    if "trust_remote_code" in str(error):
        return UnsupportedModelError(f"{name} needs code from its repository, which attlas never runs")
    folder = local_folder(name)
    if folder is None and not name.endswith(".gguf") and not _hub_answers():
        return InputError(
            f"there is no folder {name!r}, the hub cannot be reached, and its cache on this machine has no such model: "
            "give a folder with config.json and safetensors, a .gguf file, or demo"
        )
    if not name.endswith(".gguf"):
        text += " -- give a model id, a folder with config.json and safetensors, a .gguf file, or demo"
    else:
        text = f"the file is damaged, or not a kind of .gguf that transformers reads ({text}); fetch it again"
    return InputError(f"cannot load {name!r}: {text}")
