"""The command line: what it prints, its exit status, and that bad input leaves nothing behind."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import attlas
from attlas.capture import plan as plan_module
from attlas.cli import main
from attlas.errors import PacksFailedError
from tests.actors.chaos_driver import plan_small_packs
from tests.families import BY_NAME, build_model

TEXT = "one two three, one two three; and one two three again."


def run(arguments: Sequence[str], **kwargs: object) -> Result:
    return CliRunner().invoke(main, list(arguments), **kwargs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "counting.txt").write_text(TEXT)
    (folder / "more.jsonl").write_text('{"id": "a", "text": "hello hello"}\n\n{"text": "no id"}\n')
    done = run(
        ["capture", "demo", str(folder / "counting.txt"), str(folder / "more.jsonl"), "--store", str(folder / "s.zarr")]
    )
    assert done.exit_code == 0, done.output
    assert "3 with" in done.output
    return str(folder / "s.zarr")


def test_documents_are_named_for_files_and_lines(store: str) -> None:
    assert list(attlas.open_atlas(store)) == ["counting", "a", "more-3"]
    told = json.loads(run(["info", store, "--json"]).output)
    assert [d["id"] for d in told["documents"]] == ["counting", "a", "more-3"]
    assert told["documents"][0]["tokens"] == {"text": len(TEXT) + 1}
    assert told["kinds"]["self"]["heads"] == [0, 1, 2, 3]
    assert told["packs"] == {"pending": 0, "committed": 1, "failed": 0}
    assert "counting" in run(["info", store]).output


def test_query_formats_agree_with_the_library(store: str, tmp_path: Path) -> None:
    expected = attlas.open_atlas(store)["counting"].attention.sel(layer=1, head=2).isel(query=slice(10, 14)).values
    chosen = ["query", store, "--document", "counting", "--layer", "1", "--head", "2", "--query", "10:14"]
    told = json.loads(run([*chosen, "--format", "json"]).output)
    np.testing.assert_array_equal(np.array(told["weight"], dtype=np.float32), expected)
    assert told["query"] == [10, 11, 12, 13]
    rows = list(csv.DictReader(io.StringIO(run([*chosen, "--format", "csv"]).output)))
    np.testing.assert_array_equal(np.array([row["weight"] for row in rows], dtype=np.float32), expected.ravel())
    assert run([*chosen, "--format", "npy", "-o", str(tmp_path / "x.npy")]).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    table = run([*chosen, "--key", ":8"]).output
    assert "layer 1, head 2" in table
    assert f"{expected[0, 0]:.2f}" in table or "0" in table


def test_query_says_what_there_is(store: str) -> None:
    for arguments, message in (
        (["--layer", "9", "--head", "0", "--document", "a"], "there is no layer 9: the atlas has 0 to 3"),
        (["--layer", "0", "--head", "7", "--document", "a"], "there is no head 7: the atlas has 0 to 3"),
        (["--layer", "0", "--head", "0"], "name one of them (counting, a, more-3)"),
        (["--layer", "0", "--head", "0", "--document", "countin"], "did you mean 'counting'"),
        (["--layer", "0", "--head", "0", "--document", "a", "--kind", "cross"], "has no cross attention"),
        (
            ["--layer", "0", "--head", "0", "--document", "a", "--query", "500:"],
            "no query is in 500:: the document",
        ),
    ):
        done = run(["query", store, *arguments])
        assert done.exit_code == 1, done.output
        assert message in done.output
        assert done.output.count("\n") == 1
    assert run(["query", store, "--layer", "0", "--head", "0", "--query", "x"]).exit_code == 2


def test_verify(store: str) -> None:
    done = run(["verify", store, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["passed"] is True


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"", [], "a.txt is empty"),
        ("a.txt", b" \n ", [], "a.txt is empty"),
        ("a.txt", b"caf\xe9", [], "is not UTF-8: byte 3 is 0xe9"),
        ("a.jsonl", b'{"text": ""}', [], "line 1: text is empty"),
        ("a.jsonl", b'{"text": "x", "pack": 1}', [], "the field 'pack' has the name of a column"),
        ("a.jsonl", b'{"txet": "x"}', [], "line 1 needs either text, or source and target"),
        ("a.jsonl", b'{"text": "x"}\n{"id": "b"}', [], "line 2 needs either text, or source and target"),
        ("a.jsonl", b'{"id": "b", "text": "x"}\n{"id": "b", "text": "y"}', [], "line 2: the id 'b' is taken by"),
        ("a.jsonl", b"{nonsense", [], "line 1 is not JSON"),
        ("a.jsonl", b'{"source": "x", "target": "y"}', [], "is a source and target pair, but LlamaModel takes one"),
        ("a.txt", b"x" * 1100, [], "has 1,101 tokens, and the model's positions end at 1,024: shorten it with --max"),
        ("a.txt", b"abc", ["--layers", "0,9"], "there is no layer 9: the model has self 0 to 3"),
        ("a.txt", b"abc", ["--layers", "-5"], "there is no layer -5"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_store(
    tmp_path: Path, name: str, content: bytes, options: list[str], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run(["capture", "demo", str(tmp_path / name), "--store", str(tmp_path / "s.zarr"), *options])
    assert done.exit_code == 1, done.output
    assert message in done.output
    assert done.output.startswith("error: ")
    assert done.output.count("\n") == 1
    assert not (tmp_path / "s.zarr").exists()


def test_bad_usage_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    file, store = str(tmp_path / "a.txt"), str(tmp_path / "s.zarr")
    for arguments in (
        ["capture", "demo", "--store", store],
        ["capture", "demo", file],
        ["capture", "demo", file, "--store", store, "--layers", "4:2"],
        ["capture", "demo", file, "--store", store, "--keep", "all"],
        ["capture", "demo", file, "--store", store, "--resume", "--overwrite"],
        ["nonsense"],
    ):
        assert run(arguments).exit_code == 2
    assert not Path(store).exists()


def test_missing_files_and_models(tmp_path: Path) -> None:
    store = str(tmp_path / "s.zarr")
    done = run(["capture", "demo", str(tmp_path / "none.txt"), "--store", store])
    assert (done.exit_code, "there is no file" in done.output) == (1, True)
    (tmp_path / "a.txt").write_text("abc")
    done = run(["capture", str(tmp_path / "none.gguf"), str(tmp_path / "a.txt"), "--store", store])
    assert (done.exit_code, "there is no file" in done.output) == (1, True)
    done = run(["capture", str(tmp_path), str(tmp_path / "a.txt"), "--store", store])
    assert (done.exit_code, "there is no config.json in" in done.output) == (1, True)
    for command in ("info", "verify"):
        done = run([command, store])
        assert (done.exit_code, "there is no atlas" in done.output) == (1, True)


def test_truncation_is_recorded_and_shown(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 1100)
    arguments = [
        "capture",
        "demo",
        str(tmp_path / "long.txt"),
        "--store",
        str(tmp_path / "s.zarr"),
        "--max-tokens",
        "50",
    ]
    done = run(arguments)
    assert done.exit_code == 0
    assert "cut short" in done.output
    assert "cut from 1,101" in run(["info", str(tmp_path / "s.zarr")]).output
    again = run(arguments)
    assert again.exit_code == 1
    assert "--resume" in again.output
    assert "--overwrite" in again.output
    assert run([*arguments, "--resume"]).exit_code == 0
    assert run([*arguments, "--overwrite", "--json"]).exit_code == 0


def test_heads_and_queries_are_chosen_and_shown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    store = str(tmp_path / "s.zarr")
    chosen = ["--heads", "0,-1", "--queries", "0:2,random:3", "--seed", "5"]
    done = run(["capture", "demo", str(tmp_path / "a.txt"), "--store", store, *chosen, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["tokens"] == len(TEXT) + 1
    page = attlas.open_atlas(store)["a"]
    assert page["head"].values.tolist() == [0, 3]
    assert page["query"].values[:2].tolist() == [0, 1]
    assert page.sizes["query"] == 5
    shown = run(["info", store]).output
    assert "only 0:2,random:3, seed 5" in shown
    assert "0, 3" in shown
    refused = run(["capture", "demo", "x.txt", "--store", store, "--queries", "some"])
    assert refused.exit_code == 2
    assert "'some' is no choice: write ranges" in refused.output


def test_standard_input(tmp_path: Path) -> None:
    store = str(tmp_path / "s.zarr")
    assert run(["capture", "demo", "-", "--store", store], input="hello there").exit_code == 0
    assert list(attlas.open_atlas(store)) == ["stdin"]
    lines = '{"id": "p", "text": "a b"}\n{"id": "q", "text": "c d"}\n'
    assert run(["capture", "demo", "-", "--store", store, "--overwrite"], input=lines).exit_code == 0
    assert list(attlas.open_atlas(store)) == ["p", "q"]


def test_info_lists_the_kept_answers(tmp_path: Path) -> None:
    store = str(tmp_path / "a.zarr")
    attlas.capture("demo", ["the cat sat on the mat and the dog sat on the cat"], store)
    assert "kept answer" not in run(["info", store]).output
    for more in ([], ["--sample", "50%", "--seed", "3", "--layers", "1"]):
        assert run(["stats", store, *more]).exit_code == 0
    first, second = json.loads(run(["info", store, "--json"]).output)["answers"]
    assert (first["name"], first["parameters"]["sample"]) == ("survey", None)
    assert second["parameters"]["layers"] == [1]
    shown = run(["info", store]).output
    assert "self, 1 layer " in shown
    assert f"{second['parameters']['sample']} sampled, seed 3" in shown


def test_plan_counts_what_the_store_takes(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.txt") for name in "abcd"]
    for file in files:
        Path(file).write_text("y" * 1023)
    plan = json.loads(run(["plan", "demo", "--tokens", "1024", "--documents", "4", "--json"]).output)
    for tier in plan["tiers"]:
        if tier["keep"] == "maps":
            continue  # counted whole and uncompressed
        store = str(tmp_path / f"{tier['keep']}.zarr")
        kept = ["--gradients", "loss"] if tier["keep"] == "gradients" else ["--keep", tier["keep"]]
        done = run(["capture", "demo", *files, "--store", store, *kept, "--json"])
        assert json.loads(done.output)["bytes"] == pytest.approx(tier["disk"], rel=0.1)
    assert "factors" in run(["plan", "demo", "--tokens", "1024"]).output


def test_plan_of_a_budget_that_is_too_little_for_one_tier() -> None:
    wide = ["plan", "demo", "--tokens", "8000", "--extrapolate"]
    least = {tier["keep"]: tier["memory"] for tier in json.loads(run([*wide, "--json"]).output)["tiers"]}
    between = f"{(least['factors'] + least['maps']) // 2}"
    told = {tier["keep"]: tier for tier in json.loads(run([*wide, "--memory", between, "--json"]).output)["tiers"]}
    assert [told[keep]["fits"] for keep in ("statistics", "factors", "maps")] == [True, True, False]
    assert told["maps"]["memory"] > int(between) >= told["factors"]["memory"]
    assert "does not fit: at least" in run([*wide, "--memory", between]).output
    refused = run([*wide, "--memory", "100MB"])
    assert refused.exit_code == 1
    assert "give more --memory" in refused.output


def test_demo_names_its_heads(tmp_path: Path) -> None:
    done = run(["demo", "--store", str(tmp_path / "demo.zarr"), "--json"])
    told = json.loads(done.output)["heads"]
    for head in told.values():
        assert head["score"] > 5 * head["uniform_baseline"]
    shown = run(["demo", "--store", str(tmp_path / "demo.zarr")]).output
    assert f"layer {told['induction']['layer']}, head {told['induction']['head']}" in shown
    assert "page.attention.sel(" in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


def best_of_three(command: list[str]) -> float:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def test_import_is_light() -> None:
    code = "import sys, attlas; assert not {'torch', 'ray', 'transformers', 'zarr', 'xarray'} & set(sys.modules)"
    assert best_of_three([sys.executable, "-c", code]) < 0.5


def test_help_is_quick() -> None:
    assert best_of_three([sys.executable, "-c", "from attlas.cli import main; main(['--help'])"]) < 1.0
    for command in ("capture", "demo", "info", "plan", "query", "verify"):
        assert "Example:" in run([command, "--help"]).output


def test_plan_lays_out_a_cluster(tmp_path: Path) -> None:
    told = json.loads(run(["plan", "demo", "--tokens", "512", "--shards", "2", "--json"]).output)["cluster"]
    assert [shard["layers"] for shard in told["shards"]] == [[0, 2], [2, 4]]
    assert told["replicas"] == 1
    shown = run(["plan", "demo", "--tokens", "512", "--devices", "3x2GB"]).output
    assert "3 replicas of 1 shard " in shown
    refused = run(["plan", "demo", "--tokens", "512", "--devices", "2x10MB"])
    assert refused.exit_code == 1
    assert "does not fit" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_info_names_a_failed_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One document's token has an embedding that is not a number: the others are captured."""
    monkeypatch.setattr(plan_module, "plan_packs", plan_small_packs)
    model = build_model(BY_NAME["llama"])
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")  # type: ignore[operator]
    model.save_pretrained(tmp_path / "model")
    store = str(tmp_path / "a.zarr")
    with pytest.raises(PacksFailedError):
        attlas.capture(tmp_path / "model", [[11] * 120, [7] * 120, [12] * 120], store)
    shown = run(["info", store]).output
    assert "1 failed" in shown
    assert "NotFiniteError" in shown
    (failed,) = json.loads(run(["info", store, "--json"]).output)["failed"]
    assert (failed["pack"], failed["documents"]) == (1, ["doc-1"])
