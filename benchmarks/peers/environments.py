"""A virtual environment for each peer, made once from pinned versions, and what stands in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["make_environment", "versions"]

HERE = Path(__file__).parent
FOLDER = HERE / ".venvs"
PACKAGES = ("torch", "transformers", "zarr", "numpy", "attlas", "transformer-lens", "nnsight")


def make_environment(name: str) -> str:
    """Its Python. `attlas` is the environment that this runs in; any other is made anew when its pins have changed."""
    if name == "attlas":
        return sys.executable
    pins = (HERE / f"requirements-{name}.txt").read_text()
    folder = FOLDER / name
    python, stamp = str(folder / "bin" / "python"), folder / "made-from.txt"
    if stamp.exists() and stamp.read_text() == pins:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = next(line for line in pins.splitlines() if line.startswith("torch=="))
    subprocess.run([*install, torch], check=True)  # first, so that no other package pulls a larger build of it
    subprocess.run([*install, "-r", str(HERE / f"requirements-{name}.txt")], check=True)
    stamp.write_text(pins)
    return python


def versions(python: str, packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions that this Python has of the packages, itself included."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {'python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
