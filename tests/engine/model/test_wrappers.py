"""What people hold as a model: wrappers, adapters, multimodal ones; exact to 1e-5 of their own eager attention."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import attlas
from attlas.capture.estimate import estimate_capture
from attlas.engine.model.load import load_model
from attlas.errors import AttlasError, InputError, UnsupportedModelError
from tests.families import BY_NAME, GQA, MIXED, WINDOW, build_model

tf: Any = transformers
EAGER = 1e-5
IDS = [list(range(5, 30)), [7, 3, 9, 40]]


def causal(name: str = "llama") -> Any:
    """A model with its head, peaked, under eager attention."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(BY_NAME[name].config(), attn_implementation="eager")
    return model.eval()


def lora(model: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False} | options
    return peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()


def eager(model: Any, ids: list[int]) -> Any:
    """(layer, head, query, key) of a model's own eager attention."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)
    return torch.stack([layer[0] for layer in out.attentions]).numpy()


def assert_exact(source: Any, model: Any, **options: Any) -> Any:
    """Capture `source`, and compare with what `model` does; returns the atlas."""
    expected = [eager(model, ids) for ids in IDS]
    atlas = attlas.capture(source, IDS, "memory://wrapped", overwrite=True, **options)
    for i, a_LHQK in enumerate(expected):
        np.testing.assert_allclose(atlas[f"doc-{i}"].attention.values, a_LHQK, atol=EAGER, rtol=0)
    return atlas


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "lora_alpha": 3}])
def test_a_lora_model_as_object_and_as_folder(tmp_path: Path, options: dict[str, Any]) -> None:
    causal().save_pretrained(tmp_path / "base")
    base = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    plain = eager(base.eval(), IDS[0])
    model = lora(base, lora_dropout=0.5, task_type="CAUSAL_LM", **options)
    model.save_pretrained(tmp_path / "adapter")
    assert np.abs(eager(model, IDS[0]) - plain).max() > 0.05  # the adapter does something
    training = model.train()  # its dropout must play no part
    atlas = assert_exact(training, copy.deepcopy(model).eval())
    assert model.training
    for source in (tmp_path / "adapter", str(tmp_path / "adapter")):
        assert assert_exact(source, model.eval()).attrs["model"]["weights"] == atlas.attrs["model"]["weights"]


def test_an_adapter_of_a_model_without_head_and_a_base_beside_it(tmp_path: Path) -> None:
    causal().save_pretrained(tmp_path / "base")  # its class has a head, under which the adapter's names do not fit
    base = tf.AutoModel.from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = lora(base, task_type="FEATURE_EXTRACTION")
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "../base"  # of a folder that was moved as a whole
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert_exact(tmp_path / "adapter", model)
    assert estimate_capture(str(tmp_path / "adapter"), tokens=9)["class"] == "LlamaModel"


def test_adapters_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causal().save_pretrained(tmp_path / "base")
    model = lora(tf.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), task_type="CAUSAL_LM")
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    settings, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    whole, tensors = json.loads(settings.read_text()), load_file(weights)

    def refused(told: str) -> None:
        with pytest.raises(AttlasError, match=told) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
        settings.write_text(json.dumps(whole))
        save_file(tensors, weights)

    settings.write_text(json.dumps(whole | {"base_model_name_or_path": None}))
    refused("names no base_model_name_or_path")
    settings.write_text(json.dumps(whole | {"base_model_name_or_path": str(tmp_path / "nowhere")}))
    refused("there is no folder")
    settings.write_text(json.dumps(whole | {"base_model_name_or_path": str(folder)}))
    refused("is an adapter too")
    settings.write_text(json.dumps(whole | {"megatron_config": {}, "megatron_core": "evil"}))
    refused("names a module to be imported")
    settings.write_text(json.dumps(whole | {"peft_type": "NONSENSE"}))
    refused("does not fit")
    settings.write_text("{")
    refused("is not JSON")
    weights.write_bytes(weights.read_bytes()[:100])
    refused("no whole safetensors file")
    save_file({key: value for key, value in tensors.items() if "layers.1" not in key}, weights)
    refused("does not fit .*in one and not in the other")
    save_file({key: torch.zeros(4, 7) for key in tensors}, weights)
    refused("does not fit")
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"")
    refused(r"has no adapter_model.safetensors, and a pickle \(adapter_model.bin\) is never loaded")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    refused("takes the package peft: pip install peft")


def test_a_folder_of_a_model_and_an_adapter_is_refused(tmp_path: Path) -> None:
    causal().save_pretrained(tmp_path)
    lora(tf.AutoModelForCausalLM.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds a model and an adapter of it"):
        load_model(tmp_path)


def test_the_digest_covers_what_is_active() -> None:
    model = lora(causal())
    model.add_adapter("other", peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))

    def digest() -> str:
        return load_model(model).identity.weights

    first = digest()
    assert digest() == first
    with model.disable_adapter():
        off = digest()
    model.set_adapter("other")
    other = digest()
    model.set_adapter("default")
    assert digest() == first
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 3.0)
    scaled = digest()
    assert len({first, off, other, scaled}) == 4


class Switched(nn.Module):
    """An adapter of somebody's own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.enabled, self.strength = inner, True, {"a": 0.5}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out + self.strength["a"] * x if self.enabled else out


def test_the_digest_covers_adapters_and_hooks_of_other_makers() -> None:
    model = build_model(BY_NAME["llama"])
    layer: Any = model.get_submodule("layers.0.self_attn")
    plain = load_model(model).identity.weights
    layer.q_proj = Switched(layer.q_proj)
    digests = [load_model(model).identity.weights]
    layer.q_proj.enabled = False
    digests.append(load_model(model).identity.weights)
    layer.q_proj.strength["a"] = 0.25
    digests.append(load_model(model).identity.weights)
    handle = layer.register_forward_hook(lambda *_: None)
    digests.append(load_model(model).identity.weights)
    handle.remove()
    assert load_model(model).identity.weights == digests[2]
    assert len({plain, *digests}) == 5


def test_a_digest_of_a_plain_model_changes_by_nothing_that_a_run_leaves_behind() -> None:
    model = causal()
    before = load_model(model).identity.weights
    eager(model, IDS[0])  # transformers leaves hooks that record
    model.train()
    assert load_model(model).identity.weights == before
    assert load_model(model.base_model).identity.weights == before


def test_a_model_in_dynamic_int8_is_captured_and_its_digest_changes_nothing() -> None:
    model = torch.ao.quantization.quantize_dynamic(causal(), {nn.Linear}, dtype=torch.qint8)
    before = {key: copy.deepcopy(value) for key, value in model.state_dict().items()}
    first = load_model(model).identity
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
    other = torch.ao.quantization.quantize_dynamic(causal("qwen2"), {nn.Linear}, dtype=torch.qint8)
    assert first.weights == load_model(model).identity.weights != load_model(other).identity.weights
    assert_exact(model, model)
    changed = causal()
    changed.get_parameter("model.layers.1.mlp.up_proj.weight").data[3] += 1
    changed = torch.ao.quantization.quantize_dynamic(changed, {nn.Linear}, dtype=torch.qint8)
    assert load_model(changed).identity.weights != first.weights


def test_wrappers_that_are_the_same_function() -> None:
    model = causal()
    compiled: Any = torch.compile(model)
    for wrapped in (nn.DataParallel(model), compiled, nn.DataParallel(compiled)):
        assert load_model(wrapped).model is model.model
        assert_exact(wrapped, model)


def test_a_pipeline_gives_its_tokenizer_too() -> None:
    demo = load_model("demo", head=True)
    pipeline = tf.pipeline("text-generation", model=demo.with_head, tokenizer=demo.tokenizer)
    found = load_model(pipeline)
    assert found.model is demo.model
    assert found.tokenizer is demo.tokenizer
    assert attlas.capture(pipeline, "the cat sat", "memory://pipeline", overwrite=True)["doc-0"].sizes["query"] > 2


def test_a_sentence_transformer_is_known_by_its_module() -> None:
    """The package is not needed: a holder whose class says that it is of it, with the transformer one level down."""
    bert = build_model(BY_NAME["bert"])
    module = type("Transformer", (nn.Module,), {"__module__": "sentence_transformers.models"})()
    module.auto_model = bert
    whole = type("SentenceTransformer", (nn.Sequential,), {"__module__": "sentence_transformers"})(module)
    assert load_model(whole).model is bert


def test_what_changes_the_model_is_refused_by_name() -> None:
    prefix = peft.get_peft_model(causal(), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    prompt = peft.get_peft_model(causal(), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    adaption = peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")
    for wrapped, kind in (
        (prefix, "PREFIX_TUNING"), (prompt, "PROMPT_TUNING"), (peft.get_peft_model(causal(), adaption), "ADAPTION"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedModelError, match=rf"{kind}.*tokens or keys of its own before the text"):
            load_model(wrapped)


def test_an_adapted_model_that_is_not_what_it_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a kind of adapter is called: its output is compared with that of the model inside."""
    model = lora(causal())
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids: forward(self, input_ids.flip(1)))
    with pytest.raises(UnsupportedModelError, match="computes something else than the model inside it"):
        load_model(model)


class Holder:
    def __init__(self, model: Any) -> None:
        self.model = model


def test_what_is_no_model_is_refused_by_name() -> None:
    model = causal()
    for given, told in (
        (Holder(model), r"a .*test_wrappers.Holder, no transformers model: where .* give that, its .model"),
        (model.state_dict(), "a collections.OrderedDict, no transformers model: give the model, not its weights"),
        (tf.LlamaModel, "a type, no transformers model: it is a class; give an object made by its from_pretrained"),
        (nn.Linear(2, 2), "a torch.nn.modules.linear.Linear, no transformers model: give a hub id"),
        (object(), "a object, no transformers model"),
        (None, "None, no transformers model"),
    ):
        with pytest.raises(InputError, match=f"^model is {told}"):
            attlas.capture(given, IDS, "memory://wrapped", overwrite=True)


VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
QWEN_TEXT = GQA | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 24}
QWEN = {"image_token_id": 98, "video_token_id": 97}


def multimodal(name: str) -> Any:
    text = GQA | WINDOW | MIXED | {"head_dim": 8}
    made = {
        "gemma3": lambda: tf.Gemma3ForConditionalGeneration(
            tf.Gemma3Config(
                text_config=tf.Gemma3TextConfig(**text),
                vision_config=VISION | {"model_type": "siglip_vision_model"},
                mm_tokens_per_image=4, image_token_index=98, boi_token_index=96, eoi_token_index=97,
            )
        ),
        "llava": lambda: tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(
                text_config=tf.LlamaConfig(**GQA), vision_config=tf.CLIPVisionConfig(**VISION), image_token_index=98
            )
        ),
        "qwen2_vl": lambda: tf.Qwen2VLForConditionalGeneration(
            tf.Qwen2VLConfig(
                text_config=QWEN_TEXT, **QWEN,
                vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
            )
        ),
        "qwen2_5_vl": lambda: tf.Qwen2_5_VLForConditionalGeneration(
            tf.Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=QWEN_VISION, **QWEN)
        ),
        "qwen3_vl": lambda: tf.Qwen3VLForConditionalGeneration(
            tf.Qwen3VLConfig(
                text_config=QWEN_TEXT | {"head_dim": 8}, **QWEN,
                vision_config=QWEN_VISION | {"deepstack_visual_indexes": [0]},
            )
        ),
        "idefics3": lambda: tf.Idefics3ForConditionalGeneration(
            tf.Idefics3Config(text_config=tf.LlamaConfig(**GQA), vision_config=VISION, image_token_id=98)
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = made[name]().eval()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3"])
def test_the_language_model_of_a_multimodal_one_is_taken_for_text(tmp_path: Path, name: str) -> None:
    model = multimodal(name)
    model.save_pretrained(tmp_path)
    part = "text_model" if name == "idefics3" else "language_model"
    for source in (model, tmp_path):
        atlas = assert_exact(source, model)
        assert atlas.attrs["model"]["part"] == part
        assert atlas.attrs["model"]["model_class"] == type(model.model.get_submodule(part)).__name__
    assert estimate_capture(str(tmp_path), tokens=9)["class"] == atlas.attrs["model"]["model_class"]


def test_a_part_is_named() -> None:
    model = multimodal("llava")
    atlas = assert_exact(model, model, part="language_model")
    assert atlas.attrs["model"]["part"] == "language_model"
    with pytest.raises(InputError, match=r"LlavaModel has no part 'language': its parts are .*language_model"):
        load_model(model, part="language")
    with pytest.raises(UnsupportedModelError, match="takes pixel_values, not text"):
        load_model(model, part="vision_tower")
    assert load_model(causal()).identity.part is None


def test_a_language_model_that_is_not_the_whole_on_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = multimodal("llava")
    forward = type(model.model).forward
    monkeypatch.setattr(
        type(model.model), "forward", lambda self, input_ids: forward(self, input_ids=input_ids.flip(1))
    )
    with pytest.raises(UnsupportedModelError, match="computes something else for text than its part language_model"):
        load_model(model)
