"""What people give as options: plain spellings are taken, anything else is one line of found, expected, remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

import attlas
from attlas.actors.layout import Layout
from attlas.cli import main
from attlas.engine.model.source import ModelSource
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.rows import Rows
from attlas.errors import InputError
from attlas.parse import parse_bytes, parse_count, parse_shards


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("6GB", 6_000_000_000), ("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("10", 10), (" 2 gib ", 2**31),
        (7, 7), (np.int64(8), 8),
    ],
)  # fmt: skip
def test_sizes_of_memory(given: Any, expected: int) -> None:
    assert parse_bytes(given, "memory") == expected


@pytest.mark.parametrize("given", ["", "6 G B", "-5", "lots", "0", 0, -5, True, 1.5, None, [1], "1e9"])
def test_no_size_of_memory(given: Any) -> None:
    with pytest.raises(InputError, match=r"^memory is .*: it is no size of memory: write 6GB"):
        parse_bytes(given, "memory")


def test_counts() -> None:
    assert [parse_count(one, "n") for one in (3, "3", " 3 ", np.uint8(3))] == [3, 3, 3, 3]
    assert parse_count("0", "seed", least=0) == 0
    for wrong in (0, -1, "0", 1.0, "1.5", "x", "", True, None, [3], "1_0", np.float64(2)):
        with pytest.raises(InputError, match=r"^n is .*: give a whole number, 1 or more"):
            parse_count(wrong, "n")


def test_shards() -> None:
    assert [parse_shards(one) for one in (4, "4", "auto", " AUTO ", None)] == [4, 4, None, None, None]
    for wrong in (0, "0", "many", 1.5, True, -1):
        with pytest.raises(InputError, match=r"^shards is .*: it is no number of shards: write 1, 4, or auto"):
            parse_shards(wrong)


WRONG: list[tuple[str, Any]] = [
    *(
        (name, wrong)
        for name in ("layers", "heads", "queries") for wrong in ("::0", "last:0", True, 1.5, [], "x", object())
    ),
    *(("seed", wrong) for wrong in (-1, "-1", "x", True, 1.5, None)),
    *((name, wrong) for name in ("max_tokens", "chunk_tokens", "threads") for wrong in (0, "0", 1.5, "x", True, -3)),
    *((name, wrong) for name in ("memory", "offload") for wrong in (-5, 0, "lots", True, 1.5)),
    ("extrapolate", 1), ("overwrite", "yes"), ("resume", 0),
    ("keep", "everything"), ("keep", None), ("map_dtype", "int8"), ("dtype", "int8"), ("dtype", 5),
    ("device", 1.5), ("device", ""), ("device", True), ("device", -1), ("device", "cuda:99"), ("device", 99),
    ("revision", 5), ("tokenizer", 5), ("progress", 5),
    ("shards", 0), ("shards", "many"), ("replicas", 0), ("replicas", True), ("address", ""), ("address", 5),
    ("threads", 100_000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=lambda one: str(one)[:15])
def test_capture_refuses_it_in_a_line_and_writes_nothing(name: str, wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        attlas.capture("demo", "a text", tmp_path / "never.zarr", **{name: wrong})
    text = str(error.value)
    assert "\n" not in text
    assert ":" in text
    assert name.rstrip("s") in text or name in {"offload", "memory"}, text
    assert not (tmp_path / "never.zarr").exists()


@pytest.mark.parametrize("model", [None, 5, "", " ", nn.Linear(2, 2), b"demo", ["demo"], np.zeros((2, 2))])
def test_what_is_no_model(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model is .*: give a hub id, a folder"):
        attlas.capture(model, "a text", tmp_path / "never.zarr")
    assert not (tmp_path / "never.zarr").exists()


def test_many_spellings_are_one_capture(tmp_path: Path) -> None:
    """Python and the command line: the same layers, heads and rows, and the same options on record."""
    text = "one two three, one two three; and one two three again."
    (tmp_path / "text.txt").write_text(text)
    python: list[dict[str, Any]] = [
        {"layers": 1, "heads": slice(1, 3), "queries": "last:4", "memory": "6GB", "seed": "0", "threads": "1"},
        {"layers": "1", "heads": "1:3", "queries": "last:4", "memory": 6_000_000_000, "shards": "1"},
        {"layers": np.array([1]), "heads": np.array([1, 2]), "queries": slice(-4, None), "memory": "6000MB"},
    ]
    atlases = [
        attlas.capture("demo", text, tmp_path / f"{i}.zarr", ids=["text"], **options)
        for i, options in enumerate(python)
    ]  # fmt: skip
    done = CliRunner().invoke(
        main,
        ["capture", "demo", str(tmp_path / "text.txt"), "--store", str(tmp_path / "cli.zarr"), "--layers", "1",
         "--heads", "1:3", "--queries", "last:4", "--memory", "6GB"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    atlases.append(attlas.open_atlas(tmp_path / "cli.zarr"))
    for atlas in atlases:
        assert list(atlas.layers("self")) == [1]
        assert atlas["text"]["head"].values.tolist() == [1, 2]
        np.testing.assert_array_equal(atlas["text"].attention.values, atlases[0]["text"].attention.values)
    assert atlases[1].attrs["options"] == atlases[-1].attrs["options"]


def test_values_are_made_of_what_was_given() -> None:
    assert Rows.of(layers="0", max_tokens="5").max_tokens == 5
    assert Budget.of(memory="1kB") == Budget(memory=1000)
    assert Layout.of(shards="auto", replicas="2") == Layout(shards=None, replicas=2)
    assert Layout().in_this_process
    assert not Layout(address="auto").in_this_process
    assert ModelSource.of("demo", device=0).device == "cuda:0"


def test_the_readers_need_no_torch() -> None:
    """Importing attlas, and every reader of an option but that of the model, stays light."""
    code = (
        "import sys, attlas, attlas.parse, attlas.engine.passage.selection, attlas.engine.passage.rows, "
        "attlas.engine.passage.budget, attlas.actors.layout, attlas.cli.selection; "
        "print(sorted({'torch', 'transformers', 'ray', 'zarr', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
