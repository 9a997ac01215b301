"""The app under Ray Serve, as in examples/serve_ray.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import attlas

ROOT = Path(__file__).parents[2]
TOKEN = "s3cret-of-the-team"
RUN = """
import ray
ray.init(include_dashboard=False, num_cpus=2, logging_level="ERROR", log_to_driver=False)
from ray import serve
serve.start(http_options={"port": PORT})
import examples.serve_ray
serve.run(examples.serve_ray.app)
print("serving", flush=True)
import sys
sys.stdin.read()
serve.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_example_serves(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="pip install 'ray[serve]'", exc_type=ImportError)
    attlas.capture("demo", ["the cat sat. the cat sat."], tmp_path / "book.zarr", ids=["one"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "ATTLAS_STORES": str(tmp_path / "book.zarr"), "ATTLAS_TOKEN": TOKEN, "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    code = RUN.replace("PORT", str(port))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert any("serving" in line for line in process.stdout)
        url = f"http://127.0.0.1:{port}/v1"
        with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
            weight = client.get(f"{url}/atlases/book/documents/one/cells/self/1/0/9/3").json()["weight"]
            assert httpx.get(f"{url}/atlases").status_code == 401
        page = attlas.open_atlas(tmp_path / "book.zarr")["one"]
        assert weight == pytest.approx(float(page.attention.sel(layer=1, head=0)[9, 3]), abs=1e-5)
    finally:
        process.send_signal(signal.SIGINT)
        for _ in range(200):
            if process.poll() is not None:
                break
            time.sleep(0.1)
        process.kill()
        process.communicate()
