"""Chosen layers, heads and query rows: the same numbers as of everything, and no work for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attlas
from attlas.engine.kernels import cpu
from attlas.engine.kernels.problem import Problem
from attlas.engine.kernels.row_statistics import statistic_names
from attlas.errors import InputError
from tests.families import BY_NAME, build_model, documents

QUERIES = "0:2,random:5,last:2"
HEADS = [0, 1, 3]


def kinds_of(name: str) -> tuple[str, ...]:
    return ("encoder", "decoder", "cross") if BY_NAME[name].pairs else ("self",)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2", "bert", "t5", "deepseek_v3", "mistral"])
@pytest.mark.parametrize("keep", ["factors", "statistics", "maps"])
def test_chosen_rows_and_heads_equal_those_of_the_whole(name: str, keep: str) -> None:
    model, inputs = build_model(BY_NAME[name]), documents(BY_NAME[name])
    options: dict[str, Any] = {"keep": keep, "map_dtype": "float32", "overwrite": True}
    whole = attlas.capture(model, inputs, f"memory://whole-{name}-{keep}", **options)
    store = f"memory://some-{name}-{keep}"
    some = attlas.capture(model, inputs, store, heads=HEADS, queries=QUERIES, seed=3, **options)
    assert attlas.verify(store).passed
    for document in whole:
        page, part = whole[document], some[document]
        for kind in kinds_of(name):
            prefix = "" if kind == "self" else f"{kind}_"
            query, head = f"{prefix}query", f"{prefix}head"
            rows = part[query].values
            assert part[head].values.tolist() == HEADS
            assert len(rows) <= 9
            assert rows[0] == 0
            assert rows[-1] == page.sizes[query] - 1
            chosen = page.sel({query: rows, head: HEADS})
            np.testing.assert_array_equal(part[f"{query}_token_id"].values, chosen[f"{query}_token_id"].values)
            names = [f"{prefix}log_sum_exp"]
            sinks = name == "gpt_oss"
            names += [f"{prefix}{s}" for s in statistic_names(same_axis=kind != "cross", sinks=sinks)]
            for variable in names + ([f"{prefix}attention"] if keep != "statistics" else []):
                np.testing.assert_allclose(
                    part[variable].values, chosen[variable].values, atol=2e-6, rtol=2e-5, err_msg=variable
                )
            if keep == "maps":
                found = np.asarray(some.root[f"{kind}/maps/{document}/attention"][...])  # type: ignore[index]
                np.testing.assert_allclose(found, chosen[f"{prefix}attention"].values, atol=2e-6)


def test_sums_over_a_pack_are_those_of_the_chosen_rows() -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(40,))
    page = attlas.capture(model, inputs, "memory://gram-whole", overwrite=True)["doc-0"]
    some = attlas.capture(
        model, inputs, "memory://gram", keep="statistics", heads=HEADS, queries="stride:3", overwrite=True
    )
    a = page.attention.sel(head=HEADS, query=slice(None, None, 3)).values.astype(np.float64)
    gram = np.einsum("lhqk,lgqk->lhg", a, a)
    np.testing.assert_allclose(some.column("self/statistics/head_gram")[0], gram, rtol=1e-5)
    visible = sum(range(1, 41, 3))
    assert (some.column("self/statistics/histogram")[0].sum(-1) == visible).all()


@pytest.mark.parametrize("chunk", [None, 7])
def test_chunks_do_not_matter(chunk: int | None) -> None:
    model, inputs = build_model(BY_NAME["gemma2"]), documents(BY_NAME["gemma2"], lengths=(37, 20))
    whole = attlas.capture(model, inputs, "memory://one", overwrite=True)
    options: dict[str, Any] = {"queries": "last:3,5", "chunk_tokens": chunk, "overwrite": True}
    for keep in ("factors", "maps"):
        some = attlas.capture(model, inputs, "memory://cut", keep=keep, map_dtype="float32", **options)
        for document in whole:
            rows = some[document]["query"].values
            expected = whole[document].attention.sel(query=rows).values
            np.testing.assert_allclose(some[document].attention.values, expected, atol=1e-5)


def test_what_is_not_chosen_is_not_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer behind the last chosen one runs, and the kernel measures only chosen heads and rows."""
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"], lengths=(30, 40))
    ran: list[int] = []
    measured: list[tuple[int, ...]] = []
    handle = model.get_submodule("layers.1.mlp").register_forward_hook(
        lambda _module, _inputs, output: ran.append(output.shape[1])
    )
    real = cpu.row_statistics

    def counting(problem: Problem, *args: Any) -> Any:
        measured.append((problem.heads, problem.rows))
        return real(problem, *args)

    monkeypatch.setattr(cpu, "row_statistics", counting)
    try:
        some = attlas.capture(
            model, inputs, "memory://less", keep="statistics", layers=[0], heads=[2], queries="last:4", overwrite=True
        )
    finally:
        handle.remove()
    assert max(ran, default=0) <= 24, "only the probe ran the second layer"
    assert measured == [(1, 8)]
    assert some["doc-1"].sizes["query"] == 4


def test_a_capture_of_rows_is_small(tmp_path: Path) -> None:
    """q and statistics shrink with the rows; k and the tokens stay."""
    model, inputs = build_model(BY_NAME["gemma2"]), documents(BY_NAME["gemma2"], lengths=(2000,))
    attlas.capture(model, inputs, tmp_path / "whole.zarr", extrapolate=True)
    attlas.capture(model, inputs, tmp_path / "rows.zarr", extrapolate=True, queries="last:8")

    def size(name: str, array: str) -> int:
        return sum(p.stat().st_size for p in (tmp_path / name / "self" / array).rglob("*") if p.name != "zarr.json")

    assert size("rows.zarr", "q") < size("whole.zarr", "q") / 5  # an inner chunk holds 256 rows
    assert size("rows.zarr", "k") == size("whole.zarr", "k")


def test_resume_needs_the_same_selection(tmp_path: Path) -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"])
    attlas.capture(model, inputs, tmp_path / "a.zarr", queries="random:3", seed=1)
    attlas.capture(model, inputs, tmp_path / "a.zarr", queries="random:3", seed=1, resume=True)
    with pytest.raises(InputError, match="another options"):
        attlas.capture(model, inputs, tmp_path / "a.zarr", queries="random:3", seed=2, resume=True)


def test_refusals() -> None:
    model, inputs = build_model(BY_NAME["llama"]), documents(BY_NAME["llama"])
    with pytest.raises(InputError, match="there is no head 4: the model has 0 to 3"):
        attlas.capture(model, inputs, "memory://never", heads=[4])
    with pytest.raises(InputError, match="none of the queries"):
        attlas.capture(model, inputs, "memory://never", queries="10:")
