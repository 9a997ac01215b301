"""Nothing that lies in a model's folder is ever run, fetched from elsewhere, or unpickled."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import attlas
from attlas.capture.estimate import estimate_capture
from attlas.engine.model.load import load_model, load_shard
from attlas.engine.model.shard import find_stacks, meta_model
from attlas.engine.model.source import load_config
from attlas.engine.model.tokenizer import load_tokenizer
from attlas.errors import InputError, UnsupportedModelError
from tests.families import BY_NAME, GQA, build_model

tf: Any = transformers
EVIL = """
from pathlib import Path
Path({mark!r}).write_text("it ran")
from transformers import PreTrainedConfig, LlamaModel, LlamaConfig, PreTrainedTokenizerFast
class EvilConfig(LlamaConfig):
    model_type = "evil"
class EvilModel(LlamaModel):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""


class Trap:
    """A model's folder with code in it that leaves a mark where it runs."""

    def __init__(self, folder: Path, mark: Path) -> None:
        self.folder, self.mark = folder, mark
        self.questions: list[Any] = []

    def answer(self, *question: Any) -> str:
        """As somebody does who says yes to everything."""
        self.questions.append(question)
        return "y"

    def config(self, **settings: Any) -> None:
        found = json.loads((self.folder / "config.json").read_text())
        (self.folder / "config.json").write_text(json.dumps(found | settings))

    def assert_not_sprung(self) -> None:
        assert not self.mark.exists(), "code of the folder ran"
        assert self.questions == [], "somebody was asked"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    found = Trap(tmp_path / "model", tmp_path / "mark")
    build_model(BY_NAME["llama"]).save_pretrained(found.folder)
    (found.folder / "evil.py").write_text(EVIL.format(mark=str(found.mark)))
    monkeypatch.setattr("builtins.input", found.answer)
    return found


MAP = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoModelForCausalLM": "evil.EvilModel"}
DOORS: dict[str, Callable[[Path], Any]] = {
    "config": load_config,
    "model": load_model,
    "capture": lambda folder: attlas.capture(folder, [[5, 6, 7]], "memory://trap", overwrite=True),
    "plan": lambda folder: estimate_capture(str(folder), tokens=10),
    "shard": lambda folder: load_shard(folder, (), 0, 0),
    "tokenizer": lambda folder: load_tokenizer(folder, "demo"),
}


@pytest.mark.parametrize("door", [name for name in DOORS if name != "tokenizer"])
def test_a_type_of_model_of_the_folders_own_is_refused_at_every_door(trap: Trap, door: str) -> None:
    trap.config(model_type="evil", auto_map=MAP)
    with pytest.raises(UnsupportedModelError, match="needs code from its repository"):
        DOORS[door](trap.folder)
    trap.assert_not_sprung()


@pytest.mark.parametrize("command", ["plan", "capture"])
def test_a_yes_on_standard_input_runs_nothing(trap: Trap, tmp_path: Path, command: str) -> None:
    trap.config(model_type="evil", auto_map=MAP)
    (tmp_path / "text").write_text("hello")
    rest = ["--tokens", "100"] if command == "plan" else [str(tmp_path / "text"), "--store", str(tmp_path / "s")]
    found = subprocess.run(
        [sys.executable, "-c", "from attlas.cli import main; main()", command, str(trap.folder), *rest],
        input="y\n" * 9, text=True, capture_output=True, cwd=Path(attlas.__file__).parents[1],
    )  # fmt: skip
    trap.assert_not_sprung()
    assert found.returncode == 1, found.stderr
    assert "needs code from its repository" in found.stderr
    assert "[y/N]" not in found.stdout + found.stderr


@pytest.mark.parametrize("door", [name for name in DOORS if name != "tokenizer"])
def test_a_known_model_is_loaded_without_the_folders_classes(trap: Trap, door: str) -> None:
    trap.config(auto_map=MAP)
    DOORS[door](trap.folder)
    trap.assert_not_sprung()


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_the_folders_classes_for_a_part_are_not_asked_for(trap: Trap, part: str) -> None:
    """A part whose type has no class for AutoModel: transformers would ask, in the midst of building the whole."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**GQA), vision_config=tf.CLIPVisionConfig(**vision, image_size=16, patch_size=8)
    ).to_dict()
    whole[part] = {"model_type": "siglip_text_model", "auto_map": {"AutoModel": f"{trap.folder}--evil.EvilModel"}}
    (trap.folder / "config.json").write_text(json.dumps(whole))
    for door in ("model", "plan"):
        with pytest.raises((InputError, UnsupportedModelError)):
            DOORS[door](trap.folder)
    trap.assert_not_sprung()


@pytest.mark.parametrize("map_", [["evil.EvilTokenizer", None], [None, "evil.EvilTokenizer"]])
def test_a_tokenizer_of_the_folders_own_never_runs(trap: Trap, map_: list[str | None]) -> None:
    settings = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": map_}}
    (trap.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModelError, match="it needs code from its repository"):
        load_tokenizer(trap.folder, "demo")
    with pytest.raises(InputError, match=r"no tokenizer that can be used.*needs code from its repository"):
        attlas.capture(trap.folder, "some text", "memory://trap", overwrite=True)
    attlas.capture(trap.folder, [[5, 6, 7]], "memory://trap", overwrite=True)  # ids need no tokenizer
    trap.assert_not_sprung()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("name", ["kernels-community/flash-attn2", "somebody/kernel@main:run", "flash_attention_2"])
def test_no_attention_kernel_is_fetched(trap: Trap, monkeypatch: pytest.MonkeyPatch, field: str, name: str) -> None:
    fetched: list[Any] = []

    def fetch(*args: Any, **_: Any) -> None:
        fetched.append(args)

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)
    trap.config(**{field: name})
    for door in ("model", "plan", "shard", "capture"):
        DOORS[door](trap.folder)
    assert fetched == []


def test_no_kernel_is_fetched_for_a_part(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_args: Any, **_: Any) -> None:
        raise AssertionError("a kernel was fetched")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**GQA), vision_config=tf.CLIPVisionConfig(**vision, image_size=16, patch_size=8)
    )
    shutil.rmtree(trap.folder)
    tf.LlavaForConditionalGeneration(config).save_pretrained(trap.folder)
    trap.config(text_config=config.text_config.to_dict() | {"_attn_implementation": "kernels-community/flash-attn2"})
    assert load_model(trap.folder).identity.part == "language_model"


def index_of(folder: Path, name: str, elsewhere: Path | None = None) -> None:
    """Lay a folder's weights out in two files, the second of which the index calls by `name`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first, second = sorted(weights)[::2], sorted(weights)[1::2]
    save_file({key: weights[key] for key in first}, folder / "model-1.safetensors")
    save_file({key: weights[key] for key in second}, elsewhere or folder / "model-2.safetensors")
    files = dict.fromkeys(first, "model-1.safetensors") | dict.fromkeys(second, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_weights_in_several_files_are_read(trap: Trap) -> None:
    before = load_model(trap.folder).identity.weights
    index_of(trap.folder, "model-2.safetensors")
    assert load_model(trap.folder).identity.weights == before


def test_an_index_may_not_point_out_of_the_folder(trap: Trap, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    copies = [tmp_path / f"copy-{i}" for i in range(3)]
    for copy in copies:
        shutil.copytree(trap.folder, copy)
    index_of(copies[0], "../outside.safetensors", outside)
    index_of(copies[1], str(outside), outside)
    index_of(copies[2], "model-2.safetensors", outside)
    (copies[2] / "model-2.safetensors").symlink_to(outside)
    for copy in copies:
        for door in ("model", "capture", "shard"):
            with pytest.raises(InputError, match=r"lies outside of .*copy-\d: nothing is read from there"):
                DOORS[door](copy)


def test_the_hubs_own_cache_links_beside_its_folders(trap: Trap, tmp_path: Path) -> None:
    cached = tmp_path / "models--a--b" / "snapshots" / "abc"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    shutil.copytree(trap.folder, cached)
    blob = tmp_path / "models--a--b" / "blobs" / "f00"
    index_of(cached, "model-2.safetensors", blob)
    (cached / "model-2.safetensors").symlink_to(blob)
    assert load_model(cached).identity.parameters == load_model(trap.folder).identity.parameters


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.write_text, (self.mark, "it ran")


def bomb(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb(mark)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "adapter_model.bin"])
def test_a_pickle_is_never_loaded(trap: Trap, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def load(*_args: Any, **_: Any) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", load)
    bomb(trap.folder / name, trap.mark)
    load_model(trap.folder)  # the safetensors beside it
    if name == "adapter_model.bin":
        trap.config(transformers_weights=name)
    else:
        (trap.folder / "model.safetensors").unlink()
    for door in ("model", "shard", "capture"):
        with pytest.raises(UnsupportedModelError, match="pickle"):
            DOORS[door](trap.folder)
    trap.assert_not_sprung()


def test_a_pickle_among_the_files_of_an_index_is_refused(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    index_of(trap.folder, "evil.bin", trap.folder / "evil.bin")
    bomb(trap.folder / "evil.bin", trap.mark)
    with pytest.raises(UnsupportedModelError, match=r"evil.bin.*pickle"):
        load_model(trap.folder)
    trap.assert_not_sprung()


def test_the_index_of_a_repository_is_looked_at_before_its_files(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id: its index, as the hub's cache gives it, names a pickle."""
    index = trap.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "evil.bin"}}))
    monkeypatch.setattr("attlas.engine.model.source.cached_file", lambda *_args, **_: str(index))
    from attlas.engine.model.source import check_source

    with pytest.raises(UnsupportedModelError, match=r"evil.bin"):
        check_source("somebody/model", None)


def test_a_shard_is_cut_from_the_same_files(trap: Trap) -> None:
    """`shard_class` builds classes of its own: its loading goes through the same guards."""
    stacks = find_stacks(meta_model(load_config(trap.folder)))
    load_shard(trap.folder, stacks, 0, 1)
    bomb(trap.folder / "pytorch_model.bin", trap.mark)
    (trap.folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="pickle"):
        load_shard(trap.folder, stacks, 0, 1)
    trap.assert_not_sprung()


def test_a_configuration_given_as_it_is_leads_to_no_question(trap: Trap) -> None:
    """Behind the door where configurations are cleaned: a type without a class of transformers', and one of its own."""
    config = tf.SiglipTextConfig(auto_map={"AutoModel": f"{trap.folder}--evil.EvilModel"})
    with pytest.raises(UnsupportedModelError, match="cannot build a model of type siglip_text_model"):
        meta_model(config)
    trap.assert_not_sprung()


def test_what_transformers_is_told_of_weights(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub id, whose files are not here to be looked at before: these two decide alone."""
    told: dict[str, Any] = {}
    load = tf.AutoModel.from_pretrained

    def recorded(**options: Any) -> Any:
        told.update(options)
        return load(**options)

    monkeypatch.setattr("attlas.engine.model.load.AutoModel.from_pretrained", recorded)
    load_model(trap.folder)
    assert told["trust_remote_code"] is False
    assert told["use_safetensors"] is True
