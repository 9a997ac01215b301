"""Loading a model to be captured: a hub id, a folder, a .gguf file, "demo", or a model object as it is."""

from __future__ import annotations

import hashlib
import logging as python_logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from attlas.engine.shard import Shard, Stack, link, shard_class
from attlas.engine.support import check_supported
from attlas.errors import InputError, UnsupportedModelError, first_line

__all__ = [
    "DEMO_FOLDER",
    "LoadedModel",
    "ModelIdentity",
    "Placement",
    "ends_of_positions",
    "identity_of",
    "load_config",
    "load_model",
    "load_shard",
    "load_tokenizer",
    "position_limit",
    "rotary_depends_on_length",
    "weight_digests",
]

DEMO_FOLDER = Path(__file__).parent / "demo"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FINGERPRINT_SAMPLES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What an atlas was made with; two captures may share an atlas only where all of it is equal.

    weights: a hash over every weight's digest, see `weight_digests`.
    """

    name: str
    revision: str | None
    model_class: str
    model_type: str
    dtype: str
    weights: str
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready for capture: the base model (no language-model head), its tokenizer where it has one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    identity: ModelIdentity

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.model.config.is_encoder_decoder)


def load_model(
    source: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    placement: Placement | None = None,
) -> LoadedModel:
    """Load and check a model. Weights come from safetensors or gguf only; no code from a repository is run.

    dtype: "auto" (the checkpoint's own; float32 for gguf), "float32", "bfloat16" or "float16".
    device: "auto" (a GPU where there is one), or torch's name for it. placement: where weights go that do not fit.
    Raises InputError where it cannot be found or read, UnsupportedModelError where its attention cannot be captured.
    """
    if isinstance(source, PreTrainedModel):
        name = source.name_or_path or type(source).__name__
        found = _tokenizer(tokenizer, {}) if isinstance(tokenizer, str) else tokenizer
        model = _base(source)
    else:
        name = str(source)
        where = _where(source, revision)
        load_config(source, revision=revision)  # the smallest file first: what is not there is told once, and early
        found = _tokenizer(tokenizer, where) if tokenizer is None or isinstance(tokenizer, str) else tokenizer
        model = _load(AutoModel, name, where, dtype, device, placement)
    check_supported(model)
    return LoadedModel(model=model, tokenizer=found, identity=_identity(name, revision, model))


def load_tokenizer(
    given: PreTrainedTokenizerBase | str | None, source: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer given, by object or name, else the model's own; None where it has none. Raises InputError."""
    if given is None or isinstance(given, str):
        return _tokenizer(given, _where(source, revision))
    return given


def load_config(source: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration alone, without weights; raises InputError where there is none."""
    where = _where(source, revision)
    try:
        return AutoConfig.from_pretrained(**where)
    except (OSError, ValueError) as error:
        raise _unreadable(str(source), error) from error


def position_limit(config: PreTrainedConfig, position_offset: int | None) -> int | None:
    """The longest document the model was made for, in tokens; None where its positions have no end.

    position_offset: what the model adds to its positions (RoBERTa loses two places of its table to it).
    """
    text = config.get_text_config()
    if getattr(text, "relative_attention_num_buckets", None):
        return None
    for field in ("max_position_embeddings", "n_positions"):
        limit = getattr(text, field, None)
        if limit:
            return int(limit) - (position_offset or 0)
    return None


def rotary_depends_on_length(config: PreTrainedConfig) -> bool:
    """Whether the rotary frequencies change with the longest position in a forward pass (dynamic NTK, LongRoPE).

    A document of such a model must go through it alone and whole: a chunk, or a neighbour in a pack, would turn it.
    """
    parameters: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return any(kind.get("rope_type") in {"dynamic", "longrope"} for kind in kinds)


def ends_of_positions(model: PreTrainedModel, limit: int) -> str | None:
    """Why a model cannot take more than `limit` tokens; None where its positions go on (rotary, ALiBi, relative).

    A table of positions, learned or sinusoidal, ends.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings >= limit:
            last = name.rpartition(".")[2].lower()
            if "pos" in last or last == "wpe":
                return f"its positions are a table of {module.num_embeddings:,} places ({name})"
    return None


def _where(source: str | Path, revision: str | None) -> dict[str, Any]:
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


def load_shard(
    source: str | Path,
    stacks: tuple[Stack, ...],
    start: int,
    stop: int,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    placement: Placement | None = None,
) -> Shard:
    """Load layers [start, stop) of a model, and nothing of the others; see `load_model` for the rest."""
    where = _where(source, revision)
    config = load_config(source, revision=revision)
    if stop - start == sum(stack.layers for stack in stacks):
        return Shard(_load(AutoModel, str(source), where, dtype, device, placement), stacks, start, stop)
    model = _load(shard_class(config, stacks, start, stop), str(source), where, dtype, device, placement)
    link(model, stacks)
    return Shard(model, stacks, start, stop)


WEIGHTS_SHARE = 0.75
"""Of a GPU's memory, what weights may take where the rest of them is offloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where accelerate puts weights that do not fit on one device. max_memory: device ("cpu", or a GPU's number) ->
    bytes; what is beyond stays on disk. offload_folder: for weights that have to be written anew to be read from disk.
    """

    max_memory: dict[int | str, int]
    offload_folder: str

    @classmethod
    def of(cls, device: str, cpu_bytes: int, offload_folder: str) -> Placement:
        """On a GPU as much as leaves room to work, then `cpu_bytes` in this machine's memory, then disk."""
        max_memory: dict[int | str, int] = {}
        if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
            number = torch.device("cuda" if device == "auto" else device).index or 0
            max_memory[number] = int(torch.cuda.mem_get_info(number)[1] * WEIGHTS_SHARE)
        max_memory["cpu"] = cpu_bytes
        return cls(max_memory=max_memory, offload_folder=offload_folder)


def _load(
    cls: Any, name: str, where: dict[str, Any], dtype: str, device: str, placement: Placement | None = None
) -> PreTrainedModel:
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_gguf = "gguf_file" in where
    wanted: Any = DTYPES.get(dtype, torch.float32 if is_gguf else "auto")
    placed: dict[str, Any] = {}
    if placement is not None:
        Path(placement.offload_folder).mkdir(parents=True, exist_ok=True)
        placed = {
            "device_map": "auto",
            "max_memory": placement.max_memory,
            "offload_folder": placement.offload_folder,
            "offload_state_dict": True,
        }
    try:
        with _quiet():
            model, report = cls.from_pretrained(
                **where,
                dtype=wanted,
                use_safetensors=None if is_gguf else True,
                trust_remote_code=False,
                output_loading_info=True,
                **placed,
            )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, error) from error
    # a pooler works on the last hidden state, after all attention: random weights in it change nothing here
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing or report["mismatched_keys"]:
        what = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise InputError(
            f"{name} lacks weights that its class {type(model).__name__} needs ({', '.join(what[:3])}"
            + (f" and {len(what) - 3} more" if len(what) > 3 else "")
            + "): they would be random; give a complete checkpoint"
        )
    model = _base(model)
    if placement is None:
        torch.nn.Module.to(model, device)  # transformers' own `to` is typed for its models alone
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bar and report, and accelerate's remarks, off the screen; what matters is checked."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    accelerate = python_logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(python_logging.ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        accelerate.setLevel(level)
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _base(model: PreTrainedModel) -> PreTrainedModel:
    """The model under its head: capturing needs no logits, which are the largest tensor of a long document."""
    base = model.base_model
    return base if isinstance(base, PreTrainedModel) else model


def _tokenizer(given: str | None, where: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    if given is not None:
        where = {"pretrained_model_name_or_path": given}
    try:
        return AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # TypeError: a class that is given no vocabulary file
        if given is not None:
            raise InputError(f"cannot load a tokenizer from {given!r}: {first_line(error)}") from error
        return None  # a model alone is complete: its documents are then given as token ids


def _unreadable(name: str, error: Exception) -> InputError | UnsupportedModelError:
    text = first_line(error)
    if "trust_remote_code" in str(error):
        return UnsupportedModelError(f"{name} needs code from its repository, which attlas never runs")
    return InputError(
        f"cannot load {name!r}: {text} -- give a model id, a folder with config.json and safetensors, "
        "a .gguf file, or demo"
    )


def weight_digests(model: PreTrainedModel) -> dict[str, tuple[str, int]]:
    """For each weight its hash, over name, shape, dtype and FINGERPRINT_SAMPLES evenly spaced values, and its size.

    A pooler is left out: it plays no part, and is random where a checkpoint has none. Weights that accelerate keeps
    elsewhere are read from there.
    """
    found = {}
    for key, parameter in sorted(model.state_dict().items()):
        if "pooler" in key:
            continue
        value = _offloaded(model, key) if parameter.device.type == "meta" else parameter
        flat = value.detach().reshape(-1)
        places = np.unique(np.linspace(0, max(flat.numel() - 1, 0), min(FINGERPRINT_SAMPLES, flat.numel()), dtype=int))
        samples = flat[torch.from_numpy(places).to(flat.device)].double().cpu().numpy().tobytes()
        digest = hashlib.sha256(f"{key} {tuple(value.shape)} {parameter.dtype}".encode() + samples)
        found[key] = (digest.hexdigest(), flat.numel())
    return found


def identity_of(
    name: str, revision: str | None, cls: type[PreTrainedModel], config: PreTrainedConfig, dtype: str,
    digests: Mapping[str, tuple[str, int]],
) -> ModelIdentity:  # fmt: skip
    """The identity of a model whose weights, of all its shards together, have these digests."""
    together = hashlib.sha256("".join(f"{key} {digests[key][0]} " for key in sorted(digests)).encode())
    return ModelIdentity(
        name=name,
        revision=revision,
        model_class=cls.__name__,
        model_type=config.model_type,
        dtype=dtype.removeprefix("torch."),
        weights=together.hexdigest(),
        parameters=sum(count for _, count in digests.values()),
    )


def _offloaded(model: PreTrainedModel, key: str) -> torch.Tensor:
    path, _, name = key.rpartition(".")
    hook: Any = getattr(model.get_submodule(path), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights is not None:
            value: torch.Tensor = weights[name]
            return value
    raise InputError(f"the weight {key} lies neither on a device nor where accelerate keeps it: load the model again")


def _identity(name: str, revision: str | None, model: PreTrainedModel) -> ModelIdentity:
    return identity_of(name, revision, type(model), model.config, str(model.dtype), weight_digests(model))
