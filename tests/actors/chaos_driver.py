"""A capture in a process of its own, so that it can be killed.

python -m tests.actors.chaos_driver STORE KEEP ADDRESS

ADDRESS is a cluster's, or "private". The store is gone on with where it was begun.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

WORDS = "the old mill by the river where the lamp went out twice and the boat came home".split()  # noqa: SIM905
PACK_TOKENS = 200
DOCUMENTS = 150
OPTIONS: dict[str, Any] = {"chunk_tokens": 100, "threads": 1}


def corpus(documents: int = DOCUMENTS, *, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=int(draw.integers(10, 60)))) for _ in range(documents)]


def plan_small_packs(lengths: Any, *, pack_tokens: int, block: int) -> Any:
    from attlas.engine.passage.documents import plan_packs

    return plan_packs(lengths, pack_tokens=min(pack_tokens, PACK_TOKENS), block=block)


def main(store: str, keep: str, address: str) -> None:
    import attlas
    from attlas.capture import plan

    vars(plan)["plan_packs"] = plan_small_packs
    attlas.capture(
        "demo", corpus(), store, keep=keep, shards=2, replicas=2, resume=True,
        address=None if address == "private" else address,
        progress=lambda state: print(state.done, flush=True), **OPTIONS,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
