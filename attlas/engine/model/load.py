"""Loading a model to be captured: a hub id, a folder, a .gguf file, "demo", or a model object as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attlas.engine.model.adapter import apply_adapter, base_source, find_adapter, head_class
from attlas.engine.model.device import model_device, parse_device
from attlas.engine.model.dtype import parse_dtype
from attlas.engine.model.identity import ModelIdentity, loaded_identity
from attlas.engine.model.parts import take_part
from attlas.engine.model.shard import Shard, Stack, link, shard_class
from attlas.engine.model.source import load_config, source_arguments
from attlas.engine.model.support import check_supported
from attlas.engine.model.tokenizer import FoundTokenizer, load_tokenizer
from attlas.engine.model.unwrap import is_path, unwrap
from attlas.engine.model.weights import DTYPES, Placement, read_model
from attlas.errors import InputError, UnsupportedModelError

__all__ = ["LoadedModel", "load_model", "load_shard", "no_head"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready for capture: the base model (no language-model head), its tokenizer where it has one.

    no_tokenizer: why a tokenizer that the model came with cannot be used. with_head: where it was asked for, the whole
    model, which gives logits; `model` is the part under its head.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    identity: ModelIdentity
    no_tokenizer: str | None = None
    with_head: PreTrainedModel | None = None

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.model.config.is_encoder_decoder)


def load_model(
    source: Any,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    dtype: Any = "auto",
    device: Any = "auto",
    revision: str | None = None,
    part: str | None = None,
    placement: Placement | None = None,
    head: bool | str = False,
) -> LoadedModel:
    """Load and check a model. Weights come from safetensors or gguf only; no code from a repository is run.

    source: a hub id, a folder (of an adapter too), a .gguf file, "demo", or a transformers model object or what holds
        one, see `unwrap`. dtype: "auto" (the checkpoint's own; float32 for gguf), "float32", "bfloat16" or "float16".
    device: "auto" (a GPU where there is one), or torch's name for it. A model object stays as it is and where it is:
        another dtype or device is refused. part: the part to be captured, by its qualified name; by default all of a
        model of text, the language model of a multimodal one. placement: where weights go that do not fit.
    head: also load, or of a model object keep, the language-model head, for logits, the largest tensor of a long
        document; a capture needs none. "any": whichever head the model was saved with, one of classes too.
    Raises InputError where it cannot be found or read, UnsupportedModelError where its attention cannot be captured.
    """
    dtype, device = parse_dtype(dtype), parse_device(device)
    if is_path(source):
        name = str(source)
        whole = _load_source(source, dtype, device, revision, placement, head)
        found = load_tokenizer(tokenizer, source, revision=revision)
        base, base_revision = base_source(source, revision)
        if found.tokenizer is None and base != source:
            found = load_tokenizer(None, base, revision=base_revision)
    else:
        unwrapped = unwrap(source)
        whole = unwrapped.model
        name = whole.name_or_path or type(whole).__name__
        _check_as_it_is(whole, dtype, device)
        given = unwrapped.tokenizer if tokenizer is None else tokenizer
        found = FoundTokenizer() if given is None else load_tokenizer(given, "")
    if head and head != "any" and whole.get_output_embeddings() is None:
        raise no_head(name, type(whole).__name__)
    _check_dtype(whole)
    model, taken = take_part(_base(whole), part)
    check_supported(model)
    return LoadedModel(
        model=model,
        tokenizer=found.tokenizer,
        no_tokenizer=found.missing,
        identity=loaded_identity(name, revision, model, part=taken),
        with_head=whole if head else None,
    )


def _load_source(
    source: str | Path,
    dtype: str,
    device: str,
    revision: str | None,
    placement: Placement | None,
    head: bool | str,
) -> PreTrainedModel:
    """The model of a place, with its adapter where the place is one's; the smallest files are looked at first."""
    adapter = find_adapter(source, revision)
    base = source if adapter is None else adapter.base
    revision = revision if adapter is None else None
    config = load_config(base, revision=revision)
    where = source_arguments(base, revision)
    if adapter is None:
        cls = _head_class(str(source), config, head) if head else AutoModel
        return read_model(cls, str(base), where, config, dtype, device, placement)
    if placement is not None:
        raise InputError(
            f"{source} is an adapter, and its weights cannot be read from disk in part: leave out --offload"
        )
    model = read_model(head_class(adapter, config), str(base), where, config, dtype, device)
    return unwrap(apply_adapter(adapter, model)).model


def _check_as_it_is(model: PreTrainedModel, dtype: str, device: str) -> None:
    """Raise InputError where a model object is asked to be what it is not: changing it would change the user's own."""
    has, lies = str(model.dtype).removeprefix("torch."), model_device(model)
    if dtype not in ("auto", has):
        raise InputError(f"the model object is {has}, not {dtype}: give model.to(torch.{dtype}), or leave dtype out")
    if device not in ("auto", lies, lies.partition(":")[0]):
        raise InputError(f"the model object is on {lies}, not {device}: give model.to({device!r}), or leave device out")


def _check_dtype(model: PreTrainedModel) -> None:
    has = str(model.dtype).removeprefix("torch.")
    if has not in DTYPES:
        raise UnsupportedModelError(
            f"{type(model).__name__} is in {has}, and attention is captured in {', '.join(DTYPES)}: give "
            "dtype float32, or model.float() of a model object"
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
        whole = read_model(AutoModel, str(source), where, config, dtype, device, placement)
        return Shard(_base(whole), stacks, start, stop)
    model = read_model(shard_class(config, stacks, start, stop), str(source), where, config, dtype, device, placement)
    link(model, stacks)
    return Shard(model, stacks, start, stop)


HEADS = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForMaskedLM)


def _with_head(name: str, config: PreTrainedConfig) -> Any:
    """The class with a language-model head that a checkpoint was saved from, else what its family usually has."""
    classes: dict[Any, Any] = {
        auto: auto._model_mapping[type(config)] for auto in HEADS if type(config) in auto._model_mapping
    }
    for auto, cls in classes.items():
        if cls.__name__ in (config.architectures or ()):
            return auto
    usual = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if not classes:
        raise no_head(name, config.model_type)
    return usual if usual in classes else next(iter(classes))


def _head_class(name: str, config: PreTrainedConfig, head: bool | str) -> Any:
    """For "any" the class that a checkpoint was saved from where it tells classes apart."""
    classes: Any = AutoModelForSequenceClassification._model_mapping
    saved_from = config.architectures or ()
    if head == "any" and type(config) in classes and classes[type(config)].__name__ in saved_from:
        return AutoModelForSequenceClassification
    return _with_head(name, config)


def no_head(name: str, kind: str) -> InputError:
    """What to say of a model that predicts no tokens."""
    return InputError(
        f"{name} ({kind}) has no language-model head, and so no logits: give a model of text that predicts tokens "
        "(causal, masked or sequence-to-sequence)"
    )


def _base(model: PreTrainedModel) -> PreTrainedModel:
    """The model under its heads: capturing needs no logits, which are the largest tensor of a long document."""
    base = model.base_model
    return _base(base) if isinstance(base, PreTrainedModel) and base is not model else model
