"""Parts of an experiment kept in a folder while it runs: stopped at any moment, the same question goes on from them.

`<folder>/<question>-<hash>/` holds `question.json`, what was asked, and a file for each part. The hash is of the
question, its parameters, the model's identity and the documents' tokens: a part is found as long as it would come out
the same. A part is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import attlas
from attlas.errors import first_line
from attlas.experiments.asked import Asked

__all__ = ["REVISION", "Kept", "Part"]

Part = dict[str, NDArray[Any]]

REVISION = 2
"""Counted up whenever a part of the same question would come out differently."""


class Kept:
    """The parts of one question. folder: None keeps nothing."""

    def __init__(self, folder: Path | None, question: str, parameters: Mapping[str, Any], asked: Asked) -> None:
        told = {
            "question": question,
            "parameters": dict(parameters),
            "chunk_tokens": asked.running.chunk_tokens,
            "predicted": None if asked.running.predicted is None else asked.running.predicted.to_json(),
            "model": asdict(asked.loaded.identity),
            "documents": {document.id: _digest(document.tokens["text"].ids) for document in asked.documents},
            "version": attlas.__version__,
            "revision": REVISION,
        }
        text = json.dumps(told, sort_keys=True, indent=1)
        self.folder = None if folder is None else folder / f"{question}-{_digest(text.encode())}"
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "question.json", lambda place: place.write_text(text))

    def once(self, document: str, part: str, compute: Callable[[], Mapping[str, Any]]) -> Part:
        """The arrays of a part as they were kept, else as `compute` gives them, which are kept then."""
        if self.folder is None:
            return {name: np.asarray(value) for name, value in compute().items()}
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", document)[:40]
        place = self.folder / f"{readable}-{_digest(document.encode())}-{part}.npz"
        if place.exists():
            try:
                with np.load(place, allow_pickle=False) as found:
                    return dict(found)
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                warnings.warn(f"{place} is damaged, and is computed again: {first_line(error)}", stacklevel=2)
        made = {name: np.asarray(value) for name, value in compute().items()}

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **made)  # type: ignore[arg-type]

        _write(place, save)
        return made


def _write(place: Path, write: Callable[[Path], Any]) -> None:
    temporary = place.with_name(f".{uuid.uuid4().hex[:12]}")
    try:
        write(temporary)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(content: bytes | NDArray[Any]) -> str:
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(data).hexdigest()[:16]
