"""Loading a model to be captured: a hub id, a folder, a .gguf file, "demo", or a model object as it is."""

from __future__ import annotations

import logging as python_logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from attlas.engine.model.identity import ModelIdentity, loaded_identity
from attlas.engine.model.shard import Shard, Stack, link, shard_class
from attlas.engine.model.source import load_config, source_arguments, unreadable
from attlas.engine.model.support import check_supported
from attlas.engine.model.tokenizer import find_tokenizer
from attlas.errors import InputError

__all__ = ["DTYPES", "LoadedModel", "Placement", "load_model", "load_shard"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready for capture: the base model (no language-model head), its tokenizer where it has one.

    with_head: where it was asked for, the whole model, which gives logits; `model` is the part under its head.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    identity: ModelIdentity
    with_head: PreTrainedModel | None = None

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
    head: bool = False,
) -> LoadedModel:
    """Load and check a model. Weights come from safetensors or gguf only; no code from a repository is run.

    dtype: "auto" (the checkpoint's own; float32 for gguf), "float32", "bfloat16" or "float16".
    device: "auto" (a GPU where there is one), or torch's name for it. placement: where weights go that do not fit.
    head: also load, or of a model object keep, the language-model head, for logits; its logits are the largest tensor
    of a long document, and a capture needs none.
    Raises InputError where it cannot be found or read, UnsupportedModelError where its attention cannot be captured.
    """
    if isinstance(source, PreTrainedModel):
        name = source.name_or_path or type(source).__name__
        found = find_tokenizer(tokenizer, {}) if isinstance(tokenizer, str) else tokenizer
        whole = source
    else:
        name = str(source)
        where = source_arguments(source, revision)
        config = load_config(
            source, revision=revision
        )  # the smallest file first: what is missing is told once, and early
        found = find_tokenizer(tokenizer, where) if tokenizer is None or isinstance(tokenizer, str) else tokenizer
        whole = _load(_head_class(name, config) if head else AutoModel, name, where, dtype, device, placement)
    if head and whole.get_output_embeddings() is None:
        raise _no_head(name, type(whole).__name__)
    model = _base(whole)
    check_supported(model)
    return LoadedModel(
        model=model,
        tokenizer=found,
        identity=loaded_identity(name, revision, model),
        with_head=whole if head else None,
    )


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
    where = source_arguments(source, revision)
    config = load_config(source, revision=revision)
    if stop - start == sum(stack.layers for stack in stacks):
        return Shard(_base(_load(AutoModel, str(source), where, dtype, device, placement)), stacks, start, stop)
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
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise InputError(
            f"there is no device {device}: torch sees {torch.cuda.device_count()} GPUs here; use --device cpu"
        )
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
        raise unreadable(name, error) from error
    # a pooler works on the last hidden state, after all attention: random weights in it change nothing here
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing or report["mismatched_keys"]:
        what = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise InputError(
            f"{name} lacks weights that its class {type(model).__name__} needs ({', '.join(what[:3])}"
            + (f" and {len(what) - 3} more" if len(what) > 3 else "")
            + "): they would be random; give a complete checkpoint"
        )
    if placement is None:
        torch.nn.Module.to(model, device)  # transformers' own `to` is typed for its models alone
    found: PreTrainedModel = model
    return found


HEADS = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForMaskedLM)


def _head_class(name: str, config: PreTrainedConfig) -> Any:
    """The class with a language-model head that a checkpoint was saved from, else what its family usually has."""
    classes: dict[Any, Any] = {
        auto: auto._model_mapping[type(config)] for auto in HEADS if type(config) in auto._model_mapping
    }
    for auto, cls in classes.items():
        if cls.__name__ in (config.architectures or ()):
            return auto
    usual = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if not classes:
        raise _no_head(name, config.model_type)
    return usual if usual in classes else next(iter(classes))


def _no_head(name: str, kind: str) -> InputError:
    return InputError(
        f"{name} ({kind}) has no language-model head, and so no logits: give a model of text that predicts tokens "
        "(causal, masked or sequence-to-sequence)"
    )


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
