"""Damaged and wrong models, devices and dtypes: one line each, with the file, what is wrong with it, and the remedy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import attlas
from attlas.engine.model.device import parse_device
from attlas.engine.model.dtype import parse_dtype
from attlas.engine.model.load import load_model
from attlas.errors import AttlasError, InputError, UnsupportedModelError
from tests.families import BASE, BY_NAME, GQA, build_model

tf: Any = transformers
IDS = [[5, 6, 7, 8, 9]]
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_model(BY_NAME["llama"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def truncate(file: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:size])

    return change


def write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def settings(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | changed
        (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v != "absent"}))

    return change


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate(WEIGHTS, 3000), r"model.safetensors \(3,000 bytes\) is no whole safetensors file.*fetch it again"),
        (truncate(WEIGHTS, -8), r"model.safetensors .*is no whole safetensors file.*fetch it again"),
        (truncate(WEIGHTS, 0), r"model.safetensors \(0 bytes\) is no whole safetensors file.*fetch it again"),
        (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "is no whole safetensors file"),
        (lambda folder: (folder / WEIGHTS).unlink(), "has no weights: there is neither model.safetensors nor"),
        (settings(intermediate_size=64), r"layers.0.mlp.*in the shape \(32, 48\).*LlamaModel needs \(32, 64\)"),
        (settings(num_hidden_layers=3), "lacks weights that its class LlamaModel needs"),
        (settings(num_attention_heads=5), "multiple of the number of attention heads"),
        (settings(hidden_size="big"), "hidden_size"),
        (settings(hidden_size=None), "hidden_size"),
        (settings(rope_parameters={"rope_type": "nonsense"}), "nonsense"),
        (settings(dtype="float99"), "float99"),
        (settings(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot load"),
        (settings(model_type="absent"), "config.json names no model_type"),
        (settings(model_type=["llama"]), "config.json names no model_type"),
        (settings(model_type="foo"), "model type `foo`"),
        (write("config.json", b'{"a":'), "config.json is not JSON"),
        (write("config.json", b"[1, 2]"), "config.json holds a list, not an object"),
        (write("config.json", b"\xff\xfe\x00"), "config.json is not JSON"),
        (write("config.json", b"[" * 100_000), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json in"),
    ],
)
def test_a_damaged_folder(folder: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(folder)
    with pytest.raises(AttlasError, match=told) as error:
        attlas.capture(folder, IDS, "memory://damaged", overwrite=True)
    assert "\n" not in str(error.value)
    assert "model" in str(error.value)


def test_damaged_indices(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    build_model(BY_NAME["llama"]).save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    load_model(folder)
    for content, told in (
        ({"metadata": {}}, "has no weight_map"),
        ({"weight_map": whole["weight_map"]}, "has no metadata"),
        ({"metadata": {}, "weight_map": {"a": 3}}, "has no weight_map of weights to files"),
        ([], "holds a list"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(InputError, match=told):
            load_model(folder)
    index.write_text(json.dumps(whole))
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"lacks {gone.name}, which model.safetensors.index.json names"):
        load_model(folder)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF" + b"\3\0\0\0" + b"\xff" * 99, b"not a gguf" * 9], ids=["empty", "cut", "other"]
)
def test_a_damaged_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"a.gguf': the file is damaged.*fetch it again"):
        load_model(tmp_path / "a.gguf")


@pytest.mark.parametrize("content", ['{"a":', '{"version": "1.0", "model": {"type": "BPE"}}', "[]"])
def test_a_damaged_tokenizer_is_told_where_it_is_needed(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"no tokenizer that can be used \(.+\): give token ids, or a tokenizer"):
        attlas.capture(folder, "a text", "memory://damaged", overwrite=True)
    attlas.capture(folder, IDS, "memory://damaged", overwrite=True)


def test_a_model_that_came_without_a_tokenizer_says_no_more(folder: Path) -> None:
    with pytest.raises(InputError, match="has no tokenizer: give token ids, or a tokenizer"):
        attlas.capture(folder, "a text", "memory://damaged", overwrite=True)


def test_a_tokenizer_whose_package_is_missing_is_not_needed_for_ids(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_args: Any, **_: Any) -> None:
        raise ImportError("MistralCommonBackend requires the mistral-common library")

    monkeypatch.setattr("attlas.engine.model.tokenizer.AutoTokenizer.from_pretrained", load)
    (folder / "tokenizer.json").write_text("{}")
    attlas.capture(folder, IDS, "memory://damaged", overwrite=True)
    with pytest.raises(InputError, match="requires the mistral-common library"):
        attlas.capture(folder, "a text", "memory://damaged", overwrite=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    model = build_model(BY_NAME["llama"])
    model.get_parameter("layers.1.self_attn.q_proj.weight").data[0] = value
    with pytest.raises(UnsupportedModelError, match=r"its weight layers.1.self_attn.q_proj.weight holds NaN or inf"):
        attlas.capture(model, IDS, "memory://damaged", overwrite=True)


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/proc/nowhere", "~/nowhere", "a/b", Path("nowhere"), ""])
def test_a_missing_folder_is_told_as_one(name: Any) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        load_model(name)


def test_a_url_is_no_model() -> None:
    with pytest.raises(InputError, match="not read from a URL"):
        load_model("s3://bucket/model")


def test_an_unknown_name_offline_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody said that this machine is offline: one short question, and not transformers' five."""
    from huggingface_hub import constants

    from attlas.engine.model import source

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    source._hub_answered.cache_clear()
    begin = time.monotonic()
    try:
        with pytest.raises(InputError, match="there is no folder 'no/such-model', the hub cannot be reached"):
            load_model("no/such-model")
    finally:
        source._hub_answered.cache_clear()
    assert time.monotonic() - begin < 5


def test_devices() -> None:
    assert [parse_device(one) for one in ("auto", "cpu", "cuda:1", 1, "0", torch.device("cpu"), " cpu ")] == [
        "auto", "cpu", "cuda:1", "cuda:1", "cuda:0", "cpu", "cpu",
    ]  # fmt: skip
    for wrong in ("tpu", "", "cuda:", "cuda:-1", "cpu:1", None, True, 1.5, b"cpu", [0]):
        with pytest.raises(InputError, match=r"device is .*what this machine has: cpu"):
            parse_device(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:99", 0])
def test_a_device_that_is_not_there(device: Any) -> None:
    with pytest.raises(InputError, match=r"there is no device cuda.* on this machine, which has cpu: use one"):
        load_model("demo", device=device)


def test_dtypes() -> None:
    given = ("auto", "float32", "torch.float16", torch.bfloat16, np.float32, np.dtype("float16"))
    assert [parse_dtype(one) for one in given] == ["auto", "float32", "float16", "bfloat16", "float32", "float16"]
    for wrong in ("fp8", "float64", "", None, 32, torch.int8, float):
        with pytest.raises(InputError, match=r"dtype is .*: use auto, float32, bfloat16, float16"):
            parse_dtype(wrong)


def test_a_model_object_stays_as_it_is_and_where_it_is() -> None:
    model = build_model(BY_NAME["llama"])
    load_model(model, dtype="float32", device="cpu")
    with pytest.raises(InputError, match=r"model object is float32, not bfloat16: give model.to\(torch.bfloat16\)"):
        load_model(model, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"model object is on cpu, not cuda: give model.to\('cuda'\)"):
        load_model(model, device="cuda")
    assert str(model.dtype) == "torch.float32"


def test_a_float64_model_is_refused_by_name(tmp_path: Path) -> None:
    model = build_model(BY_NAME["llama"]).double()
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel is in float64.*dtype float32, or model.float\(\)"):
        load_model(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="LlamaModel is in float64"):
        load_model(tmp_path)
    assert load_model(tmp_path, dtype="float32").identity.dtype == "float32"


def test_a_model_that_makes_its_mask_from_ours_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="makes a mask of its own"):
        attlas.capture(tf.DogeModel(tf.DogeConfig(**GQA)), IDS, "memory://doge", overwrite=True)


def test_a_model_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = tf.LlamaModel(BY_NAME["llama"].config())
    with pytest.raises(UnsupportedModelError, match=r"LlamaModel has no weights: embed_tokens.weight is on the meta"):
        load_model(model)


def test_halves_of_an_encoder_decoder_are_refused_with_the_reason() -> None:
    bart, t5 = build_model(BY_NAME["bart"]), build_model(BY_NAME["t5"])
    for half in (bart.get_encoder(), bart.get_decoder(), t5.get_encoder()):
        with pytest.raises(UnsupportedModelError, match="is one half of an encoder-decoder: give the whole model"):
            load_model(half)
    with pytest.raises(UnsupportedModelError, match=r"encoder_attn, to states of an encoder.*give the whole"):
        load_model(tf.BartForCausalLM(BY_NAME["bart"].config()))


def test_a_retriever_is_captured_through_its_two_shells() -> None:
    torch.manual_seed(0)
    model = tf.DPRContextEncoder(tf.DPRConfig(**BASE)).eval()
    model.set_attn_implementation("eager")
    bert = model.ctx_encoder.bert_model
    with torch.no_grad():
        eager = bert(torch.tensor(IDS), output_attentions=True).attentions
    found = attlas.capture(model, IDS, "memory://dpr", overwrite=True)["doc-0"].attention.values
    np.testing.assert_allclose(found, torch.cat(eager).numpy(), atol=1e-5, rtol=0)
