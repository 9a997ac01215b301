"""attlas ablate, perturb and patch, as people and scripts call them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import attlas
from attlas import analysis, experiments
from attlas.cli import main

TEXT = "one two three, one two three; and one two three again."


@pytest.fixture
def notes(tmp_path: Path) -> str:
    (tmp_path / "notes.txt").write_text(TEXT)
    return str(tmp_path / "notes.txt")


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "80"})
    assert result.exit_code == status, result.output
    assert max((len(line) for line in result.stdout.splitlines()[1:]), default=0) <= 80 or "{" in result.stdout
    return result


def test_heads_are_ranked_by_what_the_loss_loses(notes: str, tmp_path: Path) -> None:
    figure = tmp_path / "heads.png"
    (tmp_path / "kept").mkdir()
    result = run("ablate", "demo", notes, "--top", "3", "--figure", str(figure), "--keep", str(tmp_path / "kept"))
    found = experiments.ablate_heads("demo", TEXT)
    layer, head = np.unravel_index(abs(found.loss_change.values[0]).argmax(), (4, 4))
    first = result.stdout.splitlines()[6].split()
    assert first[:2] == [str(layer), str(head)]
    assert float(first[2]) == pytest.approx(found.loss_change.values[0, layer, head], abs=1e-4)
    assert "3 of 16 heads, the largest changes" in result.stdout
    assert figure.stat().st_size > 10_000
    told = json.loads(run("ablate", "demo", notes, "--json", "--keep", str(tmp_path / "kept")).stdout)
    np.testing.assert_allclose(told["loss_change"], found.loss_change, atol=1e-6)
    assert told["loss_change_low"][0][0] is None


def test_an_edit_and_how_it_is_made(notes: str) -> None:
    edit = '{"do": "knock_out", "layer": "1:", "key": "first"}'
    explained = run("ablate", "demo", notes, "--edit", edit, "--explain").stdout
    assert [line.split()[1] for line in explained.splitlines()[1:4]] == ["1", "2", "3"]
    found = experiments.run("demo", TEXT, attlas.Edit.from_json(edit))
    shown = run("ablate", "demo", notes, "--edit", edit).stdout
    assert "knock_out renormalise=rest of layer 1:, key first" in shown
    line = next(line for line in shown.splitlines() if line.startswith("loss change"))
    assert float(line.split()[2]) == pytest.approx(found.loss_change.item(), abs=1e-4)
    assert "is no JSON" in run("ablate", "demo", notes, "--edit", "zero", status=2).stderr
    assert (
        "leave --layers and --heads out"
        in run("ablate", "demo", notes, "--edit", edit, "--layers", "1", status=2).stderr
    )


def test_edges_of_an_atlas(tmp_path: Path) -> None:
    attlas.capture("demo", TEXT, tmp_path / "a.zarr", ids=["a"])
    result = run("ablate", "demo", str(tmp_path / "a.zarr"), "--from-keys", "first", "--to-queries", '"10:"'.strip('"'))
    assert result.stdout.splitlines()[0].split() == ["demo", "a"]
    assert "edges of queries 10: to keys first cut, layer by layer" in result.stdout
    found = experiments.ablate_edges("demo", TEXT, "10:", "first")
    row = result.stdout.splitlines()[4].split()
    assert float(row[1]) == pytest.approx(found.kl[0, 0].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sizes", "0.1,1", "--draws", "2"], "robustness: 1 less the total variation distance"),
        (["--largest", "--shares", "0.2", "--draws", "1"], "random, as many"),
        (["--adversarial", "--layers", "-1", "--steps", "30"], "mean distance from the model's own weights"),
    ],
)
def test_perturb_prints_each_test(notes: str, arguments: list[str], told: str, tmp_path: Path) -> None:
    figure = str(tmp_path / "a.svg")
    assert told in run("perturb", "demo", notes, *arguments, "--figure", figure).stdout
    assert Path(figure).stat().st_size > 5_000


def test_an_option_of_another_test_is_refused(notes: str) -> None:
    assert (
        "--steps is not of this test: it takes --sizes, --draws, --on"
        in run("perturb", "demo", notes, "--steps", "3", status=2).stderr
    )


def test_patch_takes_pairs(tmp_path: Path) -> None:
    pairs = [
        {"id": "a", "text": "abcabcab", "other": "abxabxab", "right": "c", "wrong": "x"},
        {"id": "b", "text": "defdefde", "other": "deydeyde", "right": "f", "wrong": "y"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    told = json.loads(run("patch", "demo", str(tmp_path / "pairs.jsonl"), "--each", "layer", "--json").stdout)
    found = experiments.patching(
        "demo", [one["text"] for one in pairs], [one["other"] for one in pairs], [("c", "x"), ("f", "y")],
        each="layer", ids=["a", "b"],
    )  # fmt: skip
    np.testing.assert_allclose(told["recovered"], found.recovered, rtol=1e-4)
    one = run("patch", "demo", "--text", "abcabcab", "--other", "abxabxab", "--right", "c", "--wrong", "x").stdout
    assert "right less wrong answer: " in one
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "abc"}')
    assert (
        "document 'a' has no other, right, wrong" in run("patch", "demo", str(tmp_path / "bad.jsonl"), status=2).stderr
    )
    assert "give INPUTS, or --text" in run("patch", "demo", "--text", "abc", status=2).stderr


def test_consistency_lists_the_heads_that_vary_most(notes: str) -> None:
    result = run("consistency", "demo", notes, "--rate", "0.2", "--draws", "3", "--top", "2")
    found = experiments.consistency("demo", TEXT, draws=3, rate=0.2)
    layer, head = np.unravel_index(found.cv.values[0].argmax(), (4, 4))
    row = result.stdout.splitlines()[4].split()
    assert row[:2] == [str(layer), str(head)]
    assert float(row[2]) == pytest.approx(found.cv.values[0, layer, head], abs=1e-4)
    assert "has no dropout" in run("consistency", "demo", notes, status=1).stderr


def test_counterfactual_tells_what_moves(tmp_path: Path) -> None:
    pairs = [
        {"id": "a", "text": "abcabcab", "other": "abxabxaby"},
        {"id": "b", "text": "defdefde", "other": "deydeyde"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    figure = tmp_path / "a.svg"
    result = run("counterfactual", "demo", str(tmp_path / "pairs.jsonl"), "--top", "2", "--figure", str(figure))
    found = experiments.counterfactual("demo", [one["text"] for one in pairs], [one["other"] for one in pairs])
    assert f"{found.kl_last_mean.item():.4f}" in result.stdout
    layer, head = np.unravel_index(found.variation_mean.values.argmax(), (4, 4))
    assert result.stdout.splitlines()[-3].split()[:2] == [str(layer), str(head)]
    assert figure.stat().st_size > 5_000
    assert "document 'a' has no right, wrong" in mixed(tmp_path, pairs)
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "abc"}')
    assert "document 'a' has no other" in run("counterfactual", "demo", str(tmp_path / "bad.jsonl"), status=2).stderr


def mixed(tmp_path: Path, pairs: list[dict[str, str]]) -> str:
    (tmp_path / "mixed.jsonl").write_text(
        "\n".join(map(json.dumps, [pairs[0], pairs[1] | {"right": "f", "wrong": "y"}]))
    )
    return str(run("counterfactual", "demo", str(tmp_path / "mixed.jsonl"), status=2).stderr)


def test_counterfactual_ranks_tokens(notes: str, tmp_path: Path) -> None:
    figure = tmp_path / "a.svg"
    result = run(
        "counterfactual", "demo", notes, "--by", "delete", "--places", '{"tokens": ["t"]}', "--figure", str(figure)
    )  # fmt: skip
    found = experiments.replace_tokens("demo", TEXT, places={"tokens": ["t"]})
    row = result.stdout.splitlines()[4].split()
    assert row == [
        str(found.position.values[0]), "'t'", f"{found.kl_last.values[0]:.4f}", f"{found.flips.values[0]:.0%}",
        f"{found.variation.values[0]:.3f}",
    ]  # fmt: skip
    assert figure.stat().st_size > 5_000
    assert "--token is of --by" in run("counterfactual", "demo", notes, "--token", "a", status=2).stderr
    assert "--by ranks tokens" in run(
        "counterfactual", "demo", notes, "--by", "delete", "--confidence", "0.9", status=2
    ).stderr  # fmt: skip
    assert "leave --other out" in run("counterfactual", "demo", notes, "--by", "mask", "--other", "a", status=2).stderr


def test_consistency_over_paraphrases(tmp_path: Path) -> None:
    said = {"id": "a", "text": "one two three, one two", "paraphrases": ["two one three, two one", "one two and three"]}
    (tmp_path / "said.jsonl").write_text(json.dumps(said))
    told = run(
        "consistency", "demo", str(tmp_path / "said.jsonl"), "--paraphrases", "--cells", "4", "--top", "1"
    ).stdout
    found = experiments.paraphrases("demo", said["text"], [said["paraphrases"]], cells=4)
    layer, head = np.unravel_index(found.cv.values[0].argmax(), (4, 4))
    row = told.splitlines()[4].split()
    assert row[:2] == [str(layer), str(head)]
    assert float(row[2]) == pytest.approx(found.cv.values[0, layer, head], abs=1e-4)
    assert "on a grid of 4 x 4" in told
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "abc"}')
    stderr = run("consistency", "demo", str(tmp_path / "bad.jsonl"), "--paraphrases", status=2).stderr
    assert "document 'a' has no paraphrases" in stderr
    assert "--cells is of --paraphrases" in run("consistency", "demo", "a.txt", "--cells", "4", status=2).stderr


def test_explain_ranks_tokens_and_tests_the_ranks(notes: str, tmp_path: Path) -> None:
    figure = tmp_path / "a.svg"
    result = run(
        "explain", "demo", notes, "--shares", "0.1,0.4", "--draws", "2", "--top", "2", "--figure", str(figure)
    )  # fmt: skip
    found = experiments.faithfulness("demo", TEXT, shares=[0.1, 0.4], draws=2)
    assert found.attrs["says"].split(":")[0] in " ".join(result.stdout.split())
    lines = {line.split("  ")[0].strip(): line.split() for line in result.stdout.splitlines()}
    for name in found.explanation.values:
        mean = found.comprehensiveness.sel(explanation=name).item()
        assert f"{mean:.3f}" in lines[str(name).replace("_", " ")]
    assert figure.stat().st_size > 5_000
    assert "give INPUTS, or --text" in run("explain", "demo", status=2).stderr


def test_relevance_of_an_atlas_with_gradients(notes: str, tmp_path: Path) -> None:
    store = str(tmp_path / "graded.zarr")
    run("capture", "demo", notes, "--store", store, "--gradients", '{"token": "a", "against": "b"}')
    told = json.loads(run("relevance", store, "--json").stdout)
    found = analysis.relevance(attlas.open_atlas(store))
    assert json.loads(told["target"]) == {"name": "next_token", "token": 97, "against": 98}
    sums = found.relevance.sum(("layer", "head")).values
    np.testing.assert_allclose([one["relevance"] for one in told["tokens"]], sums, rtol=1e-6)
    np.testing.assert_allclose(told["head_importance"], found.head_importance, rtol=1e-6)
    first = run("relevance", store, "--top", "1").stdout.partition("relevance\n")[2].split()
    assert int(first[0]) == int(np.abs(sums).argmax())
    assert "captured without gradients" in plain_refusal(notes, tmp_path)


def plain_refusal(notes: str, tmp_path: Path) -> str:
    run("capture", "demo", notes, "--store", str(tmp_path / "plain.zarr"))
    return str(run("relevance", str(tmp_path / "plain.zarr"), status=1).stderr)
