"""Leading heads against sums over the dense map, by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

import attlas
from attlas.analysis.leading_heads import induction_leader, previous_token_leader, telling_query
from attlas.errors import InputError

TEXT = "Xq7 vRt; the lamp went out. Again: Xq7 vRt; the lamp went out."


def test_leaders_and_the_telling_query_are_those_of_the_dense_map() -> None:
    page = attlas.capture("demo", TEXT, "memory://leaders")["doc-0"]
    a_LHNN = page.attention.values.astype(np.float64)
    ids, rows = page.query_token_id.values, range(2, page.sizes["query"])
    previous_LH = np.mean([a_LHNN[:, :, i, i - 1] for i in rows], axis=0)
    copies = {i: [j for j in range(i) if ids[j] == ids[i]] for i in range(len(ids))}
    copies = {i: earlier for i, earlier in copies.items() if earlier}
    induction_LH = np.mean([a_LHNN[:, :, i, np.array(js) + 1].sum(-1) for i, js in copies.items()], axis=0)
    for leader, score_LH, baseline in (
        (previous_token_leader(page), previous_LH, np.mean([1 / (i + 1) for i in rows])),
        (induction_leader(page), induction_LH, np.mean([len(js) / (i + 1) for i, js in copies.items()])),
    ):
        assert (leader.layer, leader.head) == np.unravel_index(score_LH.argmax(), score_LH.shape)
        assert leader.score == pytest.approx(score_LH.max(), rel=1e-4)
        assert leader.baseline == pytest.approx(baseline)
    leader = induction_leader(page)
    told = telling_query(page, leader)
    assert ids[told.query] == ids[told.earlier]
    assert a_LHNN[leader.layer, leader.head, told.query].argmax() == told.earlier + 1


def test_a_text_in_which_no_token_comes_again_has_no_induction_leader() -> None:
    page = attlas.capture("demo", "abc", "memory://leaders-none")["doc-0"]
    with pytest.raises(InputError, match="in which tokens come again"):
        induction_leader(page)
