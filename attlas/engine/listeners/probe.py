"""The listener of the probe: learns each attention layer's layout from the calls of one short forward pass."""

from __future__ import annotations

from transformers import PreTrainedModel

from attlas.engine.attention.call import AttentionCall, Listener
from attlas.engine.model.layout import KINDS, LayerLayout
from attlas.engine.model.support import interface_modules
from attlas.errors import MissingAttentionError, UnsupportedModelError

__all__ = ["LayoutListener"]


class LayoutListener(Listener):
    """lengths: tokens of the run by axis, all different, from which a layer's kind is told.

    calls: the layouts so far, in the order of the calls, not yet numbered.
    """

    def __init__(self, model: PreTrainedModel, lengths: dict[str, int]) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.expected = interface_modules(model)
        self.lengths = lengths
        self.is_pair = bool(model.config.is_encoder_decoder)
        self.calls: list[LayerLayout] = []

    def before(self, call: AttentionCall) -> AttentionCall:
        kind = self._kind(call.q_HND.shape[1], call.k_GMD.shape[1])
        problem = call.problem()
        own_N = problem.tokens.own_N
        self.calls.append(
            LayerLayout(
                kind=kind,
                layer=-1,
                module=self.names[id(call.module)],
                heads=call.q_HND.shape[0],
                kv_heads=call.k_GMD.shape[0],
                features=call.q_HND.shape[2],
                value_features=call.v_GMV.shape[2],
                dtype=str(call.q_HND.dtype).removeprefix("torch."),
                rule=call.rule,
                causal=own_N is not None and bool((problem.stop_N <= own_N + 1).all()),
            )
        )
        return call

    def _kind(self, queries: int, keys: int) -> str:
        if not self.is_pair:
            return "self"
        for kind, (query_axis, key_axis) in KINDS.items():
            if (self.lengths.get(query_axis), self.lengths.get(key_axis)) == (queries, keys):
                return kind
        raise UnsupportedModelError(
            f"an attention layer takes {queries} queries and {keys} keys for {self.lengths['source']} source and "
            f"{self.lengths['target']} target tokens: it changes the length of the sequence"
        )

    def check_all_fired(self) -> None:
        """Raise MissingAttentionError where an attention layer of the model took no part."""
        fired = {call.module for call in self.calls}
        silent = sorted(set(self.expected) - fired)
        if silent:
            raise MissingAttentionError(
                f"{len(silent)} of {len(self.expected)} attention layers took no part in a run over text "
                f"({', '.join(silent[:3])}); for a model of several modalities capture its language model alone"
            )
