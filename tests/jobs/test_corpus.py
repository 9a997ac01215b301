"""A corpus of 10,000 documents is summarised in bounded memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attlas
from attlas import analysis

DOCUMENTS = 10_000
MOST = 2_000_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_documents_are_summarised_in_two_gigabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["lamp", "keeper", "storm", "twice", "harbour", "the", "a", "went", "out", "light", "at", "night"]
    texts = [" ".join(rng.choice(words, rng.integers(6, 22))) for _ in range(DOCUMENTS)]
    store = tmp_path / "corpus.zarr"
    atlas = attlas.capture("demo", texts, store)
    assert len(atlas) == DOCUMENTS
    code = (
        "import resource, sys; from attlas.cli import main; "
        "main(['stats', sys.argv[1], '--json', '--by', 'document', '--workers', '2'], standalone_mode=False); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, check=True)
    peak = int(done.stderr.strip().splitlines()[-1])
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == DOCUMENTS * 16
    print(f"\npeak {peak / 1e9:.2f} GB, {int(atlas.documents['row_size'].sum()):,} tokens in {DOCUMENTS:,} documents")
    assert peak < MOST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    some = rng.choice(DOCUMENTS, 5, replace=False)
    found = analysis.statistics(atlas)
    assert found.attrs["reused"] == "yes"
    for i in some:
        page = atlas[f"doc-{i}"]
        expected = page.entropy.mean("query").values
        np.testing.assert_allclose(found.document_entropy.sel(document=f"doc-{i}"), expected, rtol=1e-4)
