"""What may be chosen of the rows that a job looks at; everything else follows from the atlas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attlas.engine.passage.selection import Selection, parse_selection
from attlas.errors import InputError
from attlas.jobs.corpus import Corpus, find_corpus
from attlas.parse import parse_names, parse_sample, parse_seed, parse_share
from attlas.storage import Atlas

__all__ = ["Choices", "parse_choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Rows of an atlas.

    documents, layers: None for all. sample: query rows of each layer and head; None for all rows, exactly. seed: of the
    sample. confidence: of the intervals of a sample.
    """

    kind: str | None = None
    documents: tuple[str, ...] | None = None
    layers: Selection | None = None
    sample: int | None = None
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        parse_share(self.confidence, "confidence")
        parse_seed(self.seed)

    def corpus(self, atlas: Atlas) -> Corpus:
        """The rows chosen; raises InputError where one is not there."""
        return find_corpus(atlas, kind=self.kind, documents=self.documents, layers=self.layers)

    def parameters(self, corpus: Corpus) -> dict[str, Any]:
        """What an answer about these rows depends on: the layers by their labels, however they were chosen."""
        chosen: dict[str, Any] = {
            "kind": corpus.kind,
            "documents": None if self.documents is None else list(self.documents),
            "layers": None if self.layers is None else list(corpus.layer_labels),
            "sample": self.sample,
        }
        return chosen | ({} if self.sample is None else {"seed": self.seed, "confidence": self.confidence})


def parse_choices(atlas: Atlas, given: dict[str, Any], *, beside: tuple[str, ...] = ()) -> Choices:
    """Choices from keywords; raises InputError for a name that is neither one of them nor `beside` them.

    documents: one name or several. layers: as `parse_selection` reads them. sample: as `parse_sample` does.
    """
    known = Choices.__dataclass_fields__
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InputError(f"there is no choice {unknown!r}: choose of {', '.join((*known, *beside))}")
    chosen = dict(given)
    if chosen.get("documents") is not None:
        chosen["documents"] = parse_names(chosen["documents"], "documents")
    if chosen.get("layers") is not None:
        chosen["layers"] = parse_selection(chosen["layers"], "layers", random=False)
    chosen["seed"] = parse_seed(chosen.get("seed", 0))

    def rows() -> int:
        return find_corpus(
            atlas, kind=chosen.get("kind"), documents=chosen.get("documents"), layers=chosen.get("layers")
        ).rows

    chosen["sample"] = parse_sample(chosen.get("sample"), "sample", rows)
    return Choices(**chosen)
