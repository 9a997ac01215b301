"""What a report of workers says where they share cores, and what it draws."""

from __future__ import annotations

from attlas.bench.scale import cores_note
from tests.bench.test_report import report, times


def test_workers_that_share_cores_are_told() -> None:
    assert cores_note(2, [(4, "shards"), (2, "replicas")], 1) == (
        "2 cores: 4 shards of 1 thread share them; nothing about 4 devices can be concluded",
    )
    assert cores_note(2, [(2, "shards")], 2) == (
        "2 cores: 2 shards of 2 threads share them; nothing about 2 devices can be concluded",
    )
    assert cores_note(8, [(4, "shards")], 2) == ("8 cores: every worker had its own",)


def test_reports_are_made_without_rows_of_their_own() -> None:
    assert report().fits == ()
    assert times(1.0).count == 1
