"""The loss without each head, by attlas and by what a user would use instead: equal losses first, then time and memory.

    python benchmarks/peers/ablation.py smollm2 --tokens 256 --repeats 2

MODEL is a folder, or `smollm2`. Every contender runs once a round, each run in a process of its own, the order turned
by one each round; losses are compared with those by hooks written by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

from benchmarks.peers.environments import make_environment  # noqa: E402

WORKERS = Path(__file__).parent / "workers"
CONTENDERS = {
    "hooks": ("attlas", "ablate_hooks.py"),
    "attlas": ("attlas", "ablate_attlas.py"),
    "TransformerLens": ("transformer-lens", "ablate_lens.py"),
    "nnsight": ("nnsight", "ablate_nnsight.py"),
}


@click.command()
@click.argument("model")
@click.option("--tokens", type=click.IntRange(17), default=256, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(model: str, tokens: int, repeats: int, threads: int, seed: int) -> None:
    if model == "smollm2":
        from tests.real_models import smollm2_folder

        model = str(smollm2_folder())
    pythons = {name: make_environment(environment) for name, (environment, _) in CONTENDERS.items()}
    names = list(CONTENDERS)
    taken: dict[str, list[Any]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids.npy"
        np.save(ids, np.random.default_rng(seed).integers(10, 49_000, tokens))
        for turn in range(repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                output = Path(folder) / f"{name}-{turn}"
                output.mkdir()
                command = [pythons[name], str(WORKERS / CONTENDERS[name][1]), model, str(ids), str(output), "-"]
                environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
                if CONTENDERS[name][0] != "attlas":
                    environment.pop("PYTHONPATH")
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                last = next((line for line in reversed(done.stdout.splitlines()) if '"event": "done"' in line), None)
                if last is None:
                    click.echo(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", err=True)
                    continue
                taken[name].append(json.loads(last) | {"losses": np.load(output / "losses.npy")})
                click.echo(f"{name}: {taken[name][-1]['seconds']:.1f} s", err=True)
    truth = taken["hooks"][0]
    click.echo(f"{tokens} tokens, {truth['losses'].size} heads, {threads} thread(s); medians of {repeats} rounds")
    for name, runs in taken.items():
        if not runs:
            continue
        seconds, peak = (float(np.median([one[what] for one in runs])) for what in ("seconds", "peak_bytes"))
        times = [a["seconds"] / b["seconds"] for a, b in zip(runs, taken["hooks"], strict=False)]
        apart = max(float(np.abs(one["losses"] - truth["losses"]).max()) for one in runs)
        click.echo(
            f"{name:16} {seconds:7.1f} s  {np.median(times):5.2f} x hooks  {peak / 2**20:6.0f} MB above the model  "
            f"losses within {apart:.1e}"
        )


if __name__ == "__main__":
    main()
