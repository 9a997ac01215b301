"""A shard: a contiguous block of a model's layers, with the model's own forward around it.

Layers that a shard does not hold are replaced, in place, by modules without weights: those before it hand on the hidden
states that the shard before gave, the first one behind it ends the forward pass. Loading is transformers' own, which
reads only the tensors that the pruned model has. Masks, rotary embeddings and everything else that surrounds the
layers are computed by the model's own code, so that two shards in a row give bit for bit what the whole model gives.

A whole model is the shard of all its layers.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.auto_factory import _get_model_class

from attlas.engine.model.parts import take_part
from attlas.engine.model.support import interface_modules
from attlas.errors import UnsupportedModelError, first_line

__all__ = ["Shard", "Stack", "State", "find_stacks", "link", "meta_model", "shard_class"]

State = dict[str, torch.Tensor]
"""What one shard hands to the next: "hidden", inside a stack of layers; "encoder", an encoder's final states."""

PARTS_BESIDE = {
    "gemma3n": "every layer also takes embeddings of the token ids",
    "gemma3n_text": "every layer also takes embeddings of the token ids",
    "gemma4": "every layer also takes embeddings of the token ids, and some share keys and values",
    "gemma4_text": "every layer also takes embeddings of the token ids, and some share keys and values",
    "diffusion_gemma": "every layer also takes embeddings of the token ids",
    "mistral_large4": "layers share keys and values",
    "deepseek_v4": "some layers are routed by token ids",
    "hy_v4": "some layers are routed by token ids",
    "glm5_next": "some layers are routed by token ids",
    "qwen4_exp": "some layers are routed by token ids",
    "zamba": "layers share one block",
    "zamba2": "layers share one block",
    "hrm_text": "layers are run several times over",
}
"""model_type -> what passes between its layers beside hidden states; a shard would not receive it."""

BIAS_PATH = "layer.0.SelfAttention.relative_attention_bias"
"""Where a T5-like layer keeps its table of relative positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One list of layers that run one after the other, by its qualified name. side: "text", "source" or "target"."""

    name: str
    layers: int
    side: str


def meta_model(config: PreTrainedConfig, part: str | None = None) -> PreTrainedModel:
    """The base model, or the part of it that is captured, on the meta device: shapes and no bytes.

    Raises UnsupportedModelError where transformers cannot build it.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # foreign settings, which may make a model's own code raise anything
        raise UnsupportedModelError(
            f"transformers cannot build a model of type {config.model_type}: {first_line(error)}"
        ) from error
    base = model.base_model
    return take_part(base if isinstance(base, PreTrainedModel) else model, part, check=False)[0]


def find_stacks(model: PreTrainedModel) -> tuple[Stack, ...]:
    """The stacks of a model, loaded or on the meta device, in the order in which they run.

    Raises UnsupportedModelError, with family and reason, where the model cannot be cut between its layers.
    """
    family = f"{type(model).__name__} ({model.config.model_type})"
    attention = list(interface_modules(model))
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(one.startswith(f"{name}.") for one in attention)
    ]
    names = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    outside = [one for one in attention if not any(one.startswith(f"{name}.") for name in names)]
    sides = ("source", "target") if model.config.is_encoder_decoder else ("text",)
    if outside or len(names) != len(sides):
        raise UnsupportedModelError(
            f"{family} cannot be cut into shards: its attention is not in {len(sides)} list{'s' * (len(sides) > 1)} of "
            f"layers ({', '.join(outside[:2] or names)}); run it with one shard"
        )
    stacks = tuple(
        Stack(name=name, layers=len(_layers(model, name)), side=side) for name, side in zip(names, sides, strict=True)
    )
    if model.config.model_type in PARTS_BESIDE:
        raise UnsupportedModelError(
            f"{family} cannot be cut into shards: {PARTS_BESIDE[model.config.model_type]}; run it with one shard"
        )
    for stack in stacks:
        _check_layers(model, stack, family)
    return stacks


def _check_layers(model: PreTrainedModel, stack: Stack, family: str) -> None:
    declared = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if stack.side == "text" and isinstance(declared, int) and declared != stack.layers:
        raise UnsupportedModelError(
            f"{family} cannot be cut into shards: its {declared} layers share {stack.layers} set of weights; "
            "run it with one shard"
        )
    layers = _layers(model, stack.name)
    for layer in layers:
        if _returns_tuple(type(layer).forward) and _relative_bias(layers[0]) is None:
            raise UnsupportedModelError(
                f"{family} cannot be cut into shards: its layers ({type(layer).__name__}) hand more than hidden "
                "states to the next; run it with one shard"
            )


class Shard:
    """Layers [start, stop) of a model, counted over all its stacks; knows how to run them.

    model: the whole model, or one of `shard_class`. forward(inputs, state) takes the model's keyword arguments for the
    whole, and what the shard before gave; returns what the next one needs, or after the last layer the final states.
    """

    def __init__(self, model: PreTrainedModel, stacks: tuple[Stack, ...], start: int, stop: int) -> None:
        self.model, self.stacks, self.start, self.stop = model, stacks, start, stop

    @classmethod
    def whole(cls, model: PreTrainedModel) -> Shard:
        """A model as one shard, which any family can be."""
        return cls(model, (), 0, 0)

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == self.layers

    @property
    def layers(self) -> int:
        return sum(stack.layers for stack in self.stacks)

    @property
    def ends_model(self) -> bool:
        return self.stop == self.layers

    @cached_property
    def device(self) -> torch.device:
        """Where inputs belong: the device of the first weights that are somewhere."""
        devices = [parameter.device for parameter in self.model.parameters() if parameter.device.type != "meta"]
        mapped = getattr(self.model, "hf_device_map", {}).values()  # GPUs by number, "cpu", "disk"
        gpus = [torch.device("cuda", where) for where in mapped if isinstance(where, int)]
        return next(iter(gpus), devices[0] if devices else torch.device("cpu"))

    def forward(self, inputs: Mapping[str, Any], state: State | None = None) -> Any:
        """The next shard's State, or the model's output after the last layer."""
        inputs = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        state = {} if state is None else {name: value.to(self.device) for name, value in state.items()}
        if self.is_whole:
            return self.model(**inputs)
        call, encoder = self._call(inputs, state)
        try:
            output = call()
        except _ShardDone as done:
            return {"hidden": done.hidden} | encoder()
        if self.ends_model:
            return output
        return {"encoder": output.last_hidden_state}

    def _call(
        self, inputs: dict[str, Any], state: State
    ) -> tuple[Callable[[], Any], Callable[[], State]]:  # fmt: skip
        """How to run the shard, and how to learn the encoder's final states once it was cut short."""
        received = state.get("hidden")
        if len(self.stacks) == 1:
            if received is not None:
                self._receive(0, received)
                inputs = _without(inputs, "input_ids") | {"inputs_embeds": self._no_embeddings(received)}
            return (lambda: self.model(**inputs)), dict
        split = self.stacks[0].layers
        if self.start < split and received is not None:
            self._receive(0, received)
            inputs = _without(inputs, "input_ids") | {"inputs_embeds": self._no_embeddings(received)}
        if self.stop <= split:
            own = {k: v for k, v in inputs.items() if k in {"input_ids", "inputs_embeds", "attention_mask"}}
            encoder: Any = self.model.get_encoder()
            return (lambda: encoder(**own)), dict
        if self.start < split:
            seen: list[torch.Tensor] = []

            def run() -> Any:
                handle = self.model.get_encoder().register_forward_hook(
                    lambda _module, _inputs, output: seen.append(output.last_hidden_state)
                )
                try:
                    return self.model(**inputs)
                finally:
                    handle.remove()

            return run, lambda: {"encoder": seen[0]}
        inputs = _without(inputs, "input_ids")
        inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=state["encoder"])
        if received is not None:
            self._receive(1, received)
            inputs = _without(inputs, "decoder_input_ids")
            inputs["decoder_inputs_embeds"] = self._no_embeddings(received)
        return (lambda: self.model(**inputs)), lambda: {"encoder": state["encoder"]}

    def _receive(self, stack: int, hidden: torch.Tensor) -> None:
        before = sum(one.layers for one in self.stacks[:stack])
        entry = _layers(self.model, self.stacks[stack].name)[self.start - before - 1]
        assert isinstance(entry, _Pass)
        entry.received = hidden

    def _no_embeddings(self, hidden: torch.Tensor) -> torch.Tensor:
        """What stands for embeddings, (1, T, width), in a forward pass whose first layers hand on hidden states."""
        embedding: Any = self.model.get_input_embeddings()
        return hidden.new_zeros(*hidden.shape[:2], embedding.embedding_dim)


def _without(inputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key != name}


def shard_class(config: PreTrainedConfig, stacks: tuple[Stack, ...], start: int, stop: int) -> type[PreTrainedModel]:
    """The model's class, whose instances have layers [start, stop) alone; for transformers' own `from_pretrained`."""
    base: Any = _get_model_class(config, AutoModel._model_mapping)

    class Pruned(base):
        def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            prune(self, stacks, start, stop)

    # transformers looks at the class's name and source file for what attention it can use and which weights to rename
    Pruned.__name__ = Pruned.__qualname__ = base.__name__
    Pruned.__module__ = base.__module__
    Pruned._keys_to_ignore_on_load_unexpected = [r".*"]  # the other shards' weights
    return Pruned


def prune(model: PreTrainedModel, stacks: tuple[Stack, ...], start: int, stop: int) -> None:
    """Take every layer outside [start, stop) out of a model, and its input embedding where the shard needs none."""
    before = 0
    for stack in stacks:
        layers = _layers(model, stack.name)
        first, last = start - before, stop - before
        bias = _relative_bias(layers[0])
        own = next((i for i in range(len(layers)) if first <= i < last), None)
        for i, layer in enumerate(layers):
            if not first <= i < last:
                layers[i] = _End(layer) if i == last else _Pass(layer)
        if bias is not None and own is not None and own > 0 and _relative_bias(layers[own]) is None:
            # T5 computes the bias in its first layer and hands it down: here the first kept layer will, see `link`
            kept = layers[0]
            assert isinstance(kept, _Pass)
            kept.keep(BIAS_PATH, bias)
        before += stack.layers
    if len(stacks) == 1 and start > 0:
        embedding: Any = model.get_input_embeddings()
        model.set_input_embeddings(_NoEmbedding(embedding.embedding_dim))


def link(model: PreTrainedModel, stacks: tuple[Stack, ...]) -> None:
    """After the weights are there: let the first kept layer of a T5-like stack compute the bias of all."""
    for stack in stacks:
        layers = _layers(model, stack.name)
        kept, own = layers[0], next((layer for layer in layers if not isinstance(layer, _Pass)), None)
        bias = _relative_bias(kept)
        if isinstance(kept, _Pass) and bias is not None and own is not None:
            attention: Any = own.get_submodule("layer.0.SelfAttention")
            attention.relative_attention_bias = bias
            attention.has_relative_attention_bias = True


class _ShardDone(BaseException):
    """Ends a forward pass behind the shard's last layer."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


class _Pass(nn.Module):
    """Stands where a layer of an earlier shard was: hands on what that shard gave."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.received: torch.Tensor | None = None
        self.returns_tuple = _returns_tuple(type(layer).forward)
        for name, value in vars(layer).items():  # a model asks a layer for its kind: attention_type, is_sliding, ...
            if not name.startswith("_") and name != "training" and isinstance(value, str | int | float | None):
                setattr(self, name, value)

    def keep(self, path: str, module: nn.Module) -> None:
        """Keep one module of the layer under its own name, so that its weights are loaded."""
        *parents, name = path.split(".")
        holder: nn.Module = self
        for parent in parents:
            holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        holder.add_module(name, module)

    def forward(self, hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        hidden = hidden_states if self.received is None else self.received
        self.received = None
        return (hidden, None, None) if self.returns_tuple else hidden


class _End(_Pass):
    """Stands behind the last layer of a shard."""

    def forward(self, hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        raise _ShardDone(hidden_states)


class _NoEmbedding(nn.Module):
    """Stands where the input embedding was, in a shard that is given hidden states."""

    padding_idx = None

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        weight: Any = torch.empty(0)
        weight._is_hf_initialized = True  # transformers would fill it
        self.weight = weight

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("this shard holds no input embedding")


def _layers(model: nn.Module, name: str) -> Any:
    layers = model.get_submodule(name)
    assert isinstance(layers, nn.ModuleList)
    return layers


def _relative_bias(layer: nn.Module) -> nn.Module | None:
    """A T5-like layer's own table of relative positions."""
    try:
        return layer.get_submodule(BIAS_PATH)
    except AttributeError:
        return None


def _returns_tuple(forward: Callable[..., Any]) -> bool:
    """Whether a layer's forward returns more than hidden states, as its source says."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    tuples = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_tuple(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    return any(_is_tuple(value, tuples) for value in returned)


def _is_tuple(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_tuple(node.left, names) or _is_tuple(node.right, names)
    return isinstance(node, ast.Tuple) or (isinstance(node, ast.Name) and node.id in names)
