"""What an atlas holds is told without torch or transformers, and quickly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attlas
from attlas.storage.description import describe_atlas

TEXTS = ["the cat sat on the mat", "and the dog sat on the cat"]

IMPORTS = "import time, dask.array, xarray, zarr; print(time.process_time())"
LIGHT = """
import sys, time
import attlas
from attlas.jobs.answers import kept_answers
from attlas.storage.description import describe_atlas
atlas = attlas.open_atlas(sys.argv[1])
told = describe_atlas(atlas) | {"answers": kept_answers(atlas)}
import json
heavy = sorted({"torch", "transformers", "ray", "sklearn", "matplotlib", "numba"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "seconds": time.process_time(), "told": told}))
"""


def test_telling_what_an_atlas_holds_is_light(tmp_path: Path) -> None:
    store = str(tmp_path / "a.zarr")
    atlas = attlas.capture("demo", TEXTS, store, ids=["a", "b"], max_tokens=20)
    attlas.analysis.head_roles(atlas)
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", LIGHT, store], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert runs[0]["heavy"] == []
    imports = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, check=True).stdout
    assert min(run["seconds"] for run in runs) < 1.6 * float(imports)
    told = runs[0]["told"]
    assert [answer["name"] for answer in told.pop("answers")] == ["survey"]
    assert told == json.loads(json.dumps(describe_atlas(attlas.open_atlas(store))))


def test_the_description_is_of_the_atlas(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    atlas = attlas.capture("demo", TEXTS, store, ids=["a", "b"], max_tokens=25, layers=[1, 3], heads=[0, 2])
    told = describe_atlas(atlas)
    assert told["store"] == str(store)
    assert told["bytes"] == sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert told["packs"] == {"pending": 0, "committed": 1, "failed": 0}
    kind = told["kinds"]["self"]
    assert (kind["layers"], kind["heads"], kind["kv_heads"]) == ([1, 3], [0, 2], 2)
    assert (kind["features"], kind["dtype"], kind["scaling"]) == (32, "float32", [32**-0.5])
    first, second = told["documents"]
    assert first == {"id": "a", "tokens": {"text": 23}, "truncated_from": {"text": 0}, "state": "committed"}
    assert (second["tokens"], second["truncated_from"]) == ({"text": 25}, {"text": len(TEXTS[1]) + 1})
