"""Plans from the configuration alone, for models of any size."""

from __future__ import annotations

import pytest
import transformers as tf

from attlas.engine.model.probe import probe
from attlas.engine.model.shape import model_shape
from attlas.errors import UnsupportedModelError
from tests.families import FAMILIES, Family, build_model


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_shape_without_weights_equals_the_probes(family: Family) -> None:
    shape = model_shape(family.config())
    calls = probe(build_model(family), compare=False).calls
    found = sorted((layer.heads, layer.kv_heads, layer.features) for layer in shape.layers)
    expected = sorted((call.heads, call.kv_heads, call.features) for call in calls)
    if family.name == "albert":  # one module serves every layer
        expected = expected[:1]
    assert found == expected


def test_refusals() -> None:
    with pytest.raises(UnsupportedModelError, match="bloom"):
        model_shape(tf.BloomConfig(hidden_size=32, n_layer=1, n_head=4))
