"""What there is: atlases, their documents, one document, its tokens, and where a text stands in it."""

from __future__ import annotations

from typing import Any

import numpy as np

import attlas
from attlas.engine.model.layout import KINDS
from attlas.parse import parse_choice, parse_count, parse_word
from attlas.server.handles import Handle, statistic_variables
from attlas.server.questions.question import Answer, Asked, op

__all__: list[str] = []

AXES = ("query", "key")
MOST_TOKENS = 100_000
MOST_DOCUMENTS = 1000
MOST_PLACES = 10_000


@op
def info(asked: Asked) -> Answer:
    """The atlases that are served."""
    atlases = [
        {
            "name": name,
            "model": atlas.model.get("name"),
            "keep": atlas.keep,
            "kinds": list(atlas.kinds),
            "documents": len(atlas),
        }
        for name, atlas in asked.session.atlases.items()
    ]
    return Answer({"version": attlas.__version__, "atlases": atlases})


@op
def documents(asked: Asked, *, atlas: Any = None, start: Any = 0, stop: Any = None, text: Any = "") -> Answer:
    """Some of the documents whose ids hold a text, in the user's order."""
    one = asked.session.atlas(atlas)
    start = parse_count(start, "start", least=0)
    stop = start + MOST_DOCUMENTS if stop is None else parse_count(stop, "stop", least=start)
    text = parse_word(text, "text", "give a part of the ids to find") if text else ""
    ids = [document for document in one if text.casefold() in document.casefold()]
    some = []
    for document in ids[start : min(stop, start + MOST_DOCUMENTS)]:
        index = one.committed_index(document)
        sizes = {axis: _size(one.places(axis, index)) for axis in one.axes}
        entry: dict[str, Any] = {"id": document, "tokens": sum(sizes.values())}
        if len(one.kinds) > 1:
            entry |= dict(zip(("queries", "keys"), (sizes[axis] for axis in KINDS[one.kinds[-1]]), strict=True))
        some.append(entry)
    return Answer({"total": len(ids), "documents": some})


@op
def document(asked: Asked, *, atlas: Any = None, document: Any = None) -> Answer:
    """One document: its size and what can be asked of it, a kind at a time."""
    one = asked.session.atlas(atlas)
    kinds = {}
    name = ""
    for kind in one.kinds:
        handle = asked.session.handle(atlas, document, kind)
        name = handle.document
        kinds[kind] = _kind(handle)
    return Answer({"document": name, "model": one.model.get("name"), "keep": one.keep, "kinds": kinds})


def _size(places: slice) -> int:
    return int(places.stop - places.start)


def _kind(handle: Handle) -> dict[str, Any]:
    rows = handle.rows
    _, stop_Q = handle.intervals(0)
    causal = rows.same_axis and bool((stop_Q <= rows.position_Q + 1).all())
    found: dict[str, Any] = {
        "queries": handle.queries,
        "keys": handle.keys,
        "layers": list(handle.layers),
        "heads": list(handle.heads),
        "causal": causal,
        "same_axis": rows.same_axis,
        "top_level": handle.top_level,
        "weights": handle.atlas.tier.weights,
        "rows_kept": "chosen" if handle.chosen else "all",
        "statistics": [
            *statistic_variables(handle.page, handle.kind),
            *(["received"] if handle.atlas.tier.weights else []),
        ],
    }
    if handle.chosen:
        found["query_places"] = rows.position_Q.tolist()
    return found


@op
def tokens(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    axis: Any = "key",
    start: Any = 0,
    stop: Any = None,
) -> Answer:
    """A run of tokens as text, which of them are special, and the word of each."""
    handle = asked.session.handle(atlas, document, kind)
    texts = handle.texts[parse_choice(axis, "axis", AXES)]
    size = len(texts["token"])
    start = parse_count(start, "start", least=0)
    stop = size if stop is None else parse_count(stop, "stop", least=start)
    run = slice(start, min(stop, start + MOST_TOKENS, size))
    words = handle.words[axis]
    return Answer(
        {
            "start": start,
            "total": size,
            "tokens": [str(token) for token in texts["token"][run]],
            "special": (np.flatnonzero(texts["special"][run]) + start).tolist(),
            "word": None if words is None else words[run].tolist(),
        }
    )


@op
def find(
    asked: Asked,
    *,
    atlas: Any = None,
    document: Any = None,
    kind: Any = None,
    text: Any = None,
    axis: Any = "key",
    limit: Any = 1000,
) -> Answer:
    """Where tokens, or runs of them, hold a text; large and small letters are one unless the text has a large one."""
    handle = asked.session.handle(atlas, document, kind)
    texts = handle.texts[parse_choice(axis, "axis", AXES)]
    text = parse_word(text, "text", "give the text to find")
    limit = parse_count(limit, "limit", most=MOST_PLACES)
    tokens = [str(token) for token in texts["token"]]
    if text == text.lower():
        tokens = [token.lower() for token in tokens]
    ends = np.cumsum([len(token) for token in tokens])
    whole, total, at = "".join(tokens), 0, 0
    places: list[list[int]] = []
    while (at := whole.find(text, at)) >= 0:
        total += 1
        if len(places) < limit:
            first, last = (int(np.searchsorted(ends, end, side="right")) for end in (at, at + len(text) - 1))
            places.append([first, last + 1])
        at += len(text)
    found = [[str(token) for token in texts["token"][first:end]] for first, end in places]
    return Answer({"total": total, "places": places, "tokens": found})
