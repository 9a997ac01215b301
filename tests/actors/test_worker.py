"""ShardWorker without Ray: what goes wrong in a pack is told by its next step, and forgotten once it is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from attlas.actors import worker as module
from attlas.actors.worker import Job, Loading, PackWork, ShardWorker
from attlas.capture.plan import plan_capture
from attlas.engine.model.load import load_model
from attlas.engine.model.probe import layout_of
from attlas.engine.passage.budget import Budget
from attlas.engine.passage.headroom import Headroom
from attlas.engine.passage.passage import passages
from attlas.errors import InputError, MissingAttentionError
from attlas.storage import AtlasSpec, AtlasWriter


@pytest.fixture
def ready(tmp_path: Path) -> tuple[ShardWorker, PackWork]:
    loaded = load_model("demo", device="cpu")
    plan = plan_capture(loaded, ["the cat sat. the cat sat."], layout=layout_of(loaded), budget=Budget(chunk_tokens=10))
    spec = AtlasSpec(
        kinds=plan.kinds, documents=plan.documents, packs=plan.packs, block=plan.sizes.block, keep="factors",
        model={"name": "demo"},
    )  # fmt: skip
    writer = AtlasWriter.create(tmp_path / "a.zarr", spec)
    worker = ShardWorker(Loading(source="demo", stacks=(), start=0, stop=0, device="cpu"))
    worker.load()
    worker.prepare(
        Job(
            where=tmp_path / "a.zarr", storage_options=None, identity=str(writer.root.attrs["identity"]),
            layout=plan.layout, kinds=plan.kinds, keep="factors", finish=False,
        )
    )  # fmt: skip
    parts = passages(plan.packs[0], plan.documents, pack_documents=True, chunk_tokens=10)
    return worker, PackWork(pack=plan.packs[0], passages=parts, document_ids={0: "a"}, room=Headroom(chunk_tokens=10))


def test_a_pack_is_whole_before_it_is_flushed(ready: tuple[ShardWorker, PackWork]) -> None:
    worker, work = ready
    worker.begin((0, 1), work)
    worker.step((0, 1), 0, 0, None)
    with pytest.raises(MissingAttentionError, match="has 10 of the 26 rows"):
        worker.flush((0, 1))
    worker.begin((0, 2), work)
    for chunk in range(len(work.passages[0].chunks)):
        state, report = worker.step((0, 2), 0, chunk, None)
        assert state is None  # nobody behind needs one
        assert report.seconds > 0
    assert worker.flush((0, 2)).bytes > 0
    assert not worker.open
    assert not worker.ids


def test_what_broke_at_the_begin_is_told_by_the_first_step(
    ready: tuple[ShardWorker, PackWork], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, work = ready
    real = vars(module)["PackWriter"]

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(module, "PackWriter", fails)
    worker.begin((0, 1), work)
    with pytest.raises(OSError, match="the disk is gone"):
        worker.step((0, 1), 0, 0, None)
    worker.drop((0, 1))
    monkeypatch.setattr(module, "PackWriter", real)
    worker.begin((0, 2), work)
    worker.step((0, 2), 0, 0, None)


def test_more_threads_than_its_machine_has_are_refused() -> None:
    """Where a shard runs, which need not be where the capture was asked for."""
    worker = ShardWorker(Loading(source="demo", stacks=(), start=0, stop=0, device="cpu", threads=1000))
    with pytest.raises(InputError, match="1000 threads on a machine of"):
        worker.load()
