"""One memory budget, turned into chunk, pack and block sizes."""

from __future__ import annotations

import pytest
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from attlas.engine.model.layout import FACTOR_TOKENS
from attlas.engine.model.shape import LayerShape, ModelShape, model_shape
from attlas.errors import InputError
from attlas.storage.sizes import BLOCK_STEP, plan_sizes
from attlas.storage.tiers import TIERS

GB = 10**9
SMALL = ModelShape(
    model_class="X", model_type="x", dtype="float32", parameters=135_000_000, weight_bytes=540_000_000, hidden=576,
    intermediate=1536, layers=(LayerShape(heads=9, kv_heads=3, features=64, value_features=64),) * 30, chunkable=True,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    keep=st.sampled_from(TIERS.names),
    longest=st.integers(1, 60_000),
    more=st.integers(0, 500_000),
    memory=st.one_of(st.none(), st.integers(GB, 20 * GB)),
    chunkable=st.booleans(),
)
def test_what_is_planned_fits_and_is_no_smaller_than_it_must(
    keep: str, longest: int, more: int, memory: int | None, chunkable: bool
) -> None:
    def plan(budget: int | None) -> int:
        sizes = plan_sizes(
            SMALL, tier=TIERS[keep], longest=longest, total=longest + more, chunkable=chunkable, memory=budget
        )
        assert sizes.block % BLOCK_STEP == 0
        assert sizes.pack_tokens >= 1
        assert (sizes.chunk_tokens is None) == (not chunkable or TIERS[keep].gradients)
        assert budget is None or sizes.memory.total <= budget
        return sizes.memory.total

    free = plan(None)
    try:
        held = plan(memory)
    except InputError:
        held = None
    if held is None:
        assert memory is not None
        assert free > memory
    else:
        assert held == free or (memory is not None and held <= memory < free)


def test_memory_grows_linearly_with_the_document() -> None:
    def peak(tokens: int, keep: str) -> int:
        return plan_sizes(SMALL, tier=TIERS[keep], longest=tokens, total=tokens, chunkable=True).memory.total

    for keep in ("statistics", "factors"):  # from where a shard of q holds all layers, and grows no more
        steps = [peak(2 * n, keep) - peak(n, keep) for n in (262_144, 524_288, 1_048_576)]
        assert steps[1] == pytest.approx(2 * steps[0], rel=1e-6)
        assert steps[2] == pytest.approx(2 * steps[1], rel=1e-6)


def test_files_of_factors_stay_few_while_the_corpus_grows() -> None:
    """One layer a file for a document, more layers the more there is, all of them in the end; the budget counts."""
    found = {}
    for tokens in (4_096, 32_768, 220_000, 10**6):
        sizes = plan_sizes(SMALL, tier=TIERS["factors"], longest=200, total=tokens, chunkable=True)
        assert sizes.block % min(sizes.block, FACTOR_TOKENS) == 0
        found[tokens] = sizes.factor_layers, 2 * -(-30 // sizes.factor_layers) * -(-tokens // FACTOR_TOKENS)
    assert found == {4_096: (1, 60), 32_768: (5, 96), 220_000: (30, 108), 10**6: (30, 490)}
    small = plan_sizes(SMALL, tier=TIERS["factors"], longest=200, total=220_000, chunkable=True, memory=int(1.8 * GB))
    assert small.factor_layers < 30


def test_a_small_budget_is_reached_through_steps_that_help_only_together() -> None:
    """A queue of 256 MiB shrinks only once a pack holds less than that, four halvings on."""
    for keep in ("statistics", "factors"):
        sizes = plan_sizes(SMALL, tier=TIERS[keep], longest=110, total=220_000, chunkable=True, memory=int(1.35 * GB))
        assert sizes.memory.total <= 1.35 * GB


def test_thirty_two_thousand_tokens_of_smollm2_under_six_gigabytes() -> None:
    for keep in ("statistics", "factors"):
        sizes = plan_sizes(SMALL, tier=TIERS[keep], longest=32_768, total=32_768, chunkable=True, memory=6 * GB)
        assert sizes.memory.keys_values == 30 * 3 * 128 * 4 * 32_768
        assert sizes.chunk_tokens is not None


def test_refusals_tell_the_numbers() -> None:
    with pytest.raises(InputError, match=r"1000000 tokens does not fit into 6.00 GB: it takes at least .* keys and"):
        plan_sizes(SMALL, tier=TIERS["factors"], longest=10**6, total=10**6, chunkable=True, memory=6 * GB)
    with pytest.raises(InputError, match="a document goes whole"):
        plan_sizes(SMALL, tier=TIERS["factors"], longest=10**6, total=10**6, chunkable=False, memory=6 * GB)
    with pytest.raises(InputError, match="see later tokens"):
        plan_sizes(SMALL, tier=TIERS["factors"], longest=100, total=100, chunkable=False, chunk_tokens=50)
    with pytest.raises(InputError, match="give 1 or more"):
        plan_sizes(SMALL, tier=TIERS["factors"], longest=100, total=100, chunkable=True, chunk_tokens=0)


def test_which_models_can_be_chunked_is_told_without_weights() -> None:
    assert model_shape(tf.LlamaConfig(num_hidden_layers=1)).chunkable
    assert not model_shape(tf.BertConfig(num_hidden_layers=1)).chunkable
    assert not model_shape(tf.T5Config(num_layers=1)).chunkable
