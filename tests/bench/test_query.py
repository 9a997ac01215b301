"""All ways to a weight are equal before a time is taken, and ways that are not are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attlas.bench.query import Place, check_equal, ways_to
from attlas.bench.trial import Trial
from attlas.errors import DisagreementError


def test_ways_agree_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    trial = Trial(model="demo", folder=tmp_path)
    subject = trial.load()
    ways = ways_to(trial, subject, subject.documents(trial, 150)[0])
    assert [way.name for way in ways] == ["factors", "maps", "plain zarr"]
    assert (ways[0].layers, ways[1].layers) == ((0, 1, 2, 3), (0, 3))
    place = Place(layer=3, head=2, queries=slice(10, 74), keys=slice(0, 150))
    check_equal(ways, place)

    def wrong(store: object) -> object:
        ask = ways[2].open(store)  # type: ignore[arg-type]
        return lambda place: np.asarray(ask(place)) * np.float16(1.01)

    with pytest.raises(DisagreementError, match="plain zarr and factors give different weights for layer 3, head 2"):
        check_equal([*ways[:2], replace(ways[2], open=wrong)], place)  # type: ignore[arg-type]
