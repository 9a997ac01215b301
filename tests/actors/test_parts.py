"""Models of several parts, and adapters, on a cluster: shards load plain weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attlas
from attlas.errors import InputError
from tests.engine.model.test_wrappers import EAGER, IDS, causal, eager, lora, multimodal


def test_a_language_model_is_cut_out_before_it_is_cut_into_shards(tmp_path: Path) -> None:
    model = multimodal("llava")
    model.save_pretrained(tmp_path / "model")
    atlas = attlas.capture(tmp_path / "model", IDS, tmp_path / "a.zarr", shards=2, threads=1)
    alone = attlas.capture(tmp_path / "model", IDS, "memory://alone", overwrite=True)
    for i, ids in enumerate(IDS):
        np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, eager(model, ids), atol=EAGER, rtol=0)
    assert atlas.attrs["model"] == alone.attrs["model"]
    assert atlas.attrs["model"]["part"] == "language_model"


def test_adapters_are_to_be_merged_first(tmp_path: Path) -> None:
    causal().save_pretrained(tmp_path / "base")
    model = lora(causal(), task_type="CAUSAL_LM")
    model.base_model.model.name_or_path = str(tmp_path / "base")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    for source in (model, tmp_path / "adapter"):
        with pytest.raises(InputError, match=r"shards load plain weights: merge it with model.merge_and_unload"):
            attlas.capture(source, IDS, tmp_path / "a.zarr", shards=2)
    assert not (tmp_path / "a.zarr").exists()
