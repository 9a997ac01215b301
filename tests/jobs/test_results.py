"""Answers are kept in the atlas, found again for the same question alone, and written as tables."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pyarrow import parquet

import attlas
from attlas import analysis
from attlas.errors import InputError, TierError
from attlas.jobs import results
from attlas.progress import Progress
from attlas.storage import AtlasWriter
from tests.analysis.test_statistics import write
from tests.conftest import S3Server
from tests.storage.synthetic import Synthetic, synthetic

ROOT = Path(__file__).parents[2]


def local(made: Synthetic, where: Path, packs: int | None = None) -> attlas.Atlas:
    writer = AtlasWriter.create(where, made.spec("factors"))
    for pack in made.packs[:packs]:
        made.write_pack(writer, pack)
    return attlas.open_atlas(where)


def test_the_same_question_is_answered_from_the_atlas(tmp_path: Path) -> None:
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    calls: list[Progress] = []
    first = analysis.statistics(atlas, sample=60, seed=4, progress=calls.append)
    assert calls
    calls.clear()
    again = analysis.statistics(attlas.open_atlas(tmp_path / "a.zarr"), sample=60, seed=4, progress=calls.append)
    assert not calls
    assert again.attrs["reused"] == "yes"
    for name in first.data_vars:
        np.testing.assert_array_equal(again[name], first[name])
        assert again[name].attrs["units"] == first[name].attrs["units"]
    for other in (
        {"seed": 5},
        {"sample": 64},
        {"thresholds": (0.5,)},
        {"layers": [0]},
        {"documents": ["doc-0", "doc-2"]},
    ):
        assert "reused" not in analysis.statistics(atlas, **{"sample": 60, "seed": 4} | other).attrs
    kept = analysis.saved_results(atlas)
    assert len(kept) == 6
    assert json.loads(next(iter(kept.values()))["parameters"])["seed"] == 4
    opened = xr.open_zarr(tmp_path / "a.zarr", group=next(iter(kept)), consolidated=False)
    np.testing.assert_array_equal(opened.entropy, first.entropy)


def test_an_answer_is_of_the_packs_that_were_there(tmp_path: Path) -> None:
    made = synthetic(seed=1)
    part = local(made, tmp_path / "a.zarr", packs=1)
    before = analysis.statistics(part)
    assert set(before.document.values) == set(part)
    writer = AtlasWriter.reopen(tmp_path / "a.zarr", made.spec("factors"))
    for pack in writer.pending_packs():
        made.write_pack(writer, pack)
    whole = attlas.open_atlas(tmp_path / "a.zarr")
    after = analysis.statistics(whole)
    assert "reused" not in after.attrs
    assert after.sizes["document"] == 4
    with pytest.raises(InputError, match="not committed"):
        analysis.statistics(part, documents=["doc-3"])


def test_an_answer_cut_off_while_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is written, and its writer stopped before it was published: nobody sees it, and it goes in time."""
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(results, "_publish", stop)
        with pytest.raises(KeyboardInterrupt):
            analysis.statistics(atlas)
    (cut,) = places(tmp_path / "a.zarr")
    assert analysis.saved_results(atlas) == {}
    assert "reused" not in analysis.statistics(atlas).attrs
    assert analysis.statistics(atlas).attrs["reused"] == "yes"
    assert cut in places(tmp_path / "a.zarr"), "another may be at work on it"
    monkeypatch.setattr(results, "STALE", -2)
    analysis.statistics(atlas, layers=[1])  # another question: what the first one published stays, and what it did not
    assert cut in places(tmp_path / "a.zarr")
    (question,) = (tmp_path / "a.zarr/analysis").glob(f"{cut.partition('.')[0]}")
    rename = question.with_name("aside")
    question.rename(rename)  # as if nobody had asked it again
    analysis.statistics(atlas, layers=[0])
    assert cut not in places(tmp_path / "a.zarr")


@pytest.mark.parametrize("what", ["flipped", "lost", "no JSON", "unsigned", "of another question", "of another atlas"])
def test_a_damaged_answer_is_computed_again(tmp_path: Path, what: str) -> None:
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    first = analysis.statistics(atlas)
    place = tmp_path / "a.zarr" / first.attrs["kept"]
    name = place.with_name(place.name.partition(".")[0]) / "zarr.json"
    file = next(path for path in (place / "entropy" / "c").rglob("*") if path.is_file())
    if what == "flipped":
        content = bytearray(file.read_bytes())
        content[9] ^= 1
        file.write_bytes(content)
    elif what == "lost":
        file.unlink()
    elif what == "no JSON":
        name.write_text(name.read_text()[:-9])
    elif what == "unsigned":
        told = json.loads(name.read_text())
        told["attributes"]["files"].popitem()
        name.write_text(json.dumps(told))
    elif what == "of another question":
        other = analysis.statistics(atlas, layers=[1]).attrs["kept"]
        shutil.copy(tmp_path / "a.zarr" / other.partition(".")[0] / "zarr.json", name)
    else:
        other = analysis.statistics(local(synthetic(seed=2), tmp_path / "b.zarr")).attrs["kept"]
        shutil.copy(tmp_path / "b.zarr" / other.partition(".")[0] / "zarr.json", name)
    with pytest.warns(UserWarning, match="is damaged, and is computed again"):
        again = analysis.statistics(atlas)
    assert "reused" not in again.attrs
    np.testing.assert_array_equal(again.entropy, first.entropy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert analysis.statistics(atlas).attrs["reused"] == "yes"


def test_an_answer_falls_with_the_packs_that_it_was_computed_from(tmp_path: Path) -> None:
    """A pack is captured again, from the same documents: its answer is asked anew, and the old one is not served."""
    made, where = synthetic(seed=1), tmp_path / "a.zarr"
    first = analysis.statistics(local(made, where, packs=2))
    assert analysis.statistics(attlas.open_atlas(where)).attrs["reused"] == "yes"
    (where / "packs/commit/c/1").unlink()
    for q in made.q:
        q *= 0.5
    writer = AtlasWriter.reopen(where, made.spec("factors"))
    made.write_pack(writer, made.packs[1], seconds=0.7)
    again = analysis.statistics(attlas.open_atlas(where))
    assert "reused" not in again.attrs
    assert not np.array_equal(again.entropy, first.entropy)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def places(where: Path) -> set[str]:
    return {path.name for path in (where / "analysis").iterdir() if results.PLACE.fullmatch(path.name)}


def test_a_writer_that_came_second_leaves_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    kept = analysis.statistics(atlas).attrs["kept"]
    parameters = json.loads(analysis.saved_results(atlas)[kept]["parameters"])
    again = results.keep_result(atlas, "survey", parameters, xr.Dataset({"x": 1.0}, attrs={"question": "survey"}))
    assert len(places(tmp_path / "a.zarr")) == 2, "a reader may still be at the first"
    monkeypatch.setattr(results, "STALE", -2)
    last = results.keep_result(atlas, "survey", parameters, xr.Dataset({"x": 2.0}, attrs={"question": "survey"}))
    assert {f"analysis/{name}" for name in places(tmp_path / "a.zarr")} == {again.attrs["kept"], last.attrs["kept"]}
    found = results.find_result(atlas, "survey", parameters)
    assert found is not None
    assert float(found.x) == 2


NAMES = [f"variable_{i}" for i in range(12)]


def ask_many(where: str, times: int) -> list[str]:
    """Ask three questions in turn, as one who has just opened the atlas; what was wrong with the answers."""
    atlas, problems = attlas.open_atlas(where), []
    for i in range(times):
        parameters = {"number": i % 3}
        answer = results.find_result(atlas, "toy", parameters)
        if answer is None:
            made = {name: ("place", np.full(5, i % 3)) for name in NAMES}
            attributes = {"question": "toy"}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                results.keep_result(atlas, "toy", parameters, xr.Dataset(made, attrs=attributes))
        elif set(answer.data_vars) != set(NAMES) or any((answer[name] != i % 3).any() for name in NAMES):
            problems.append(f"ask {i}: {answer}")
    return problems


def forget(where: Path) -> None:
    """Take the names of answers away, so that askers write again."""
    for path in (where / "analysis").glob("toy-*"):
        if results.QUESTION.fullmatch(path.name):
            (path / "zarr.json").unlink(missing_ok=True)
    time.sleep(1)


def test_threads_that_ask_at_once_never_see_a_part(tmp_path: Path) -> None:
    where = tmp_path / "a.zarr"
    local(synthetic((20, 12), seed=1), where)
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(ask_many, str(where), 40) for _ in range(8)]
        while not all(one.done() for one in done):
            forget(where)
    assert [problem for one in done for problem in one.result()] == []
    assert len(places(where)) > 3, "they met"


def test_processes_that_ask_at_once_never_see_a_part(tmp_path: Path) -> None:
    where = tmp_path / "a.zarr"
    local(synthetic((20, 12), seed=1), where)
    code = (
        "import sys; from tests.jobs.test_results import ask_many; sys.exit('; '.join(ask_many(sys.argv[1], 40)) or 0)"
    )
    askers = [subprocess.Popen([sys.executable, "-c", code, str(where)], cwd=ROOT) for _ in range(2)]
    while any(asker.poll() is None for asker in askers):
        forget(where)
    assert [asker.returncode for asker in askers] == [0, 0]


def test_statistics_asked_at_once_are_whole(tmp_path: Path) -> None:
    where = tmp_path / "a.zarr"
    whole = analysis.statistics(local(synthetic((20, 12), seed=1), where), save=False)

    def ask(_: int) -> xr.Dataset:
        return analysis.statistics(attlas.open_atlas(where), workers=1)

    with ThreadPoolExecutor(3) as pool:
        for answer in pool.map(ask, range(9)):
            assert set(answer.data_vars) == set(whole.data_vars)
            for name in whole.data_vars:
                np.testing.assert_allclose(answer[name], whole[name], rtol=1e-6, err_msg=str(name))


def test_an_atlas_that_cannot_be_written_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "analysis").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept"):
        found = analysis.statistics(atlas)
    assert found.attrs["kept"].startswith("no: ")
    assert found.entropy.notnull().all()


def test_answers_are_kept_in_an_object_store(s3_server: S3Server) -> None:
    where, options = f"s3://{s3_server.bucket}/analysis.zarr", s3_server.storage_options
    made = synthetic((40, 20), seed=1)
    writer = AtlasWriter.create(where, made.spec("factors"), storage_options=options)
    for pack in made.packs:
        made.write_pack(writer, pack)
    atlas = attlas.open_atlas(where, storage_options=options)
    first = analysis.statistics(atlas, names=["entropy"])
    assert first.attrs["kept"].startswith("analysis/")
    again = analysis.statistics(attlas.open_atlas(where, storage_options=options), names=["entropy"])
    assert again.attrs["reused"] == "yes"
    np.testing.assert_array_equal(again.entropy, first.entropy)


def test_attlas_verify_passes_beside_answers(tmp_path: Path) -> None:
    analysis.statistics(local(synthetic(seed=1), tmp_path / "a.zarr"))
    assert attlas.verify(tmp_path / "a.zarr").passed


def test_tables_hold_every_number(tmp_path: Path) -> None:
    found = analysis.statistics(write(synthetic(seed=1), "tables"))
    for ending in ("csv", "json", "parquet"):
        analysis.write_table(found, tmp_path / f"t.{ending}")
    frames = {
        "csv": pd.read_csv(tmp_path / "t.csv"),
        "json": pd.DataFrame(json.loads((tmp_path / "t.json").read_text())["rows"]),
        "parquet": pd.read_parquet(tmp_path / "t.parquet"),
    }
    for frame in frames.values():
        assert len(frame) == 8
        row = frame[(frame["layer"] == 1) & (frame["head"] == 2)].iloc[0]
        assert row["entropy"] == pytest.approx(float(found.entropy.sel(layer=1, head=2)), rel=1e-12)
        expected = float(found.sparsity.sel(layer=1, head=2, threshold=0.01))
        assert row["sparsity[0.01]"] == pytest.approx(expected, rel=1e-12)
    told = json.loads(parquet.read_schema(tmp_path / "t.parquet").metadata[b"attlas"])
    assert told["columns"]["entropy"]["units"] == "nat"
    documents = analysis.to_frame(found, ("document", "layer", "head"))
    assert len(documents) == 32
    assert {"document", "entropy", "gini"} <= set(documents.columns)
    with pytest.raises(InputError, match=r"\.csv"):
        analysis.write_table(found, tmp_path / "t.xlsx")


def test_what_cannot_be_told_is_refused() -> None:
    made = synthetic(seed=1)
    stored, factors = write(made, "refused-s", "statistics"), write(made, "refused-f")
    with pytest.raises(TierError, match="factors"):
        analysis.statistics(stored, names=["position_variance"])
    with pytest.raises(TierError, match="row_max"):
        analysis.statistics(factors, names=["max_weight"], sample=50)
    with pytest.raises(InputError, match="leave --sample out"):
        analysis.statistics(stored, sample=50)
    with pytest.raises(InputError, match="no statistic"):
        analysis.statistics(factors, names=["kurtosis"])
    with pytest.raises(InputError, match="no choice"):
        analysis.statistics(factors, document="doc-0")
    with pytest.raises(InputError, match="no document"):
        analysis.statistics(factors, documents=["nowhere"])
    with pytest.raises(InputError, match="no layer 7"):
        analysis.statistics(factors, layers=[7])
    assert "position_variance" in analysis.statistics(stored).attrs["left_out"]


def test_layers_are_one_question_however_they_are_written(tmp_path: Path) -> None:
    atlas = local(synthetic(seed=1), tmp_path / "a.zarr")
    spellings = (1, "1", [-1], slice(1, None), "last:1", np.array([1]))
    answers = [analysis.statistics(atlas, layers=layers) for layers in spellings]
    assert [answer.attrs.get("reused", "no") for answer in answers] == ["no"] + ["yes"] * (len(spellings) - 1)
    assert all(answer["layer"].values.tolist() == [1] for answer in answers)
    assert len(analysis.saved_results(atlas)) == 1
    for wrong in (1.5, True, [], "random:1", "::0", [1.0]):
        with pytest.raises(InputError, match=r"^layers"):
            analysis.statistics(atlas, layers=wrong)
