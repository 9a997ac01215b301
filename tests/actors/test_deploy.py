"""The files of docs/cluster.md: they are what the tools they are for accept, and the scripts do run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import ray
import yaml
from ray.scripts.scripts import start as ray_start

import attlas
from attlas.cli.capture import command as capture_command
from tests.actors.chaos_driver import corpus
from tests.actors.pipeline import assert_atlases_equal

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = ("ray-start.sh", "slurm.sbatch")


def check_options(words: list[str], command: click.Command, *, takes: tuple[str, ...] = ()) -> None:
    """Every option in a shell command is one that the command has."""
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used
    assert used <= known | set(takes), used - known


def commands(script: str, program: str) -> list[list[str]]:
    """The command lines of a script that run a program, continued lines joined."""
    lines = re.sub(r"\\\n\s*", " ", script).splitlines()
    return [shlex.split(line.split(program, 1)[1]) for line in lines if program in line and not line.startswith("#")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_shell_and_use_options_that_exist(name: str) -> None:
    path = DEPLOY / name
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(path, os.X_OK)
    starts = commands(path.read_text(), "ray start")
    assert len(starts) == 2
    for words in starts:
        check_options(words, ray_start)
    for words in commands(path.read_text(), "attlas capture"):
        check_options(words, capture_command)


def test_the_kubernetes_job_is_one_that_attlas_and_ray_can_run() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, subcommand, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, subcommand) == ("attlas", "capture")
    context = capture_command.make_context("capture", list(words))
    assert context.params["resume"]  # a run that is tried again must go on
    assert context.params["address"] == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert f"ray=={ray.__version__}" in (ROOT / "constraints.txt").read_text()
    assert f"ray:{ray.__version__}-" in (DEPLOY / "Dockerfile").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        known = {name.lstrip("-") for parameter in ray_start.params for name in parameter.opts}
        assert set(group["rayStartParams"]) <= known
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == f"attlas:{attlas.__version__}"
        mounted, there = {m["name"] for m in container["volumeMounts"]}, {v["name"] for v in pod["volumes"]}
        assert mounted == there
        assert container["resources"]["requests"] == container["resources"]["limits"]
        model = Path(words[0])
        assert any(model.is_relative_to(m["mountPath"]) for m in container["volumeMounts"])


def test_ray_start_says_what_it_needs() -> None:
    script = str(DEPLOY / "ray-start.sh")
    told = subprocess.run([script], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "ray-start.sh head" in told.stderr
    without = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    told = subprocess.run([script, "worker", "10.0.0.1"], capture_output=True, text=True, env=without, check=False)
    assert told.returncode == 1
    assert "copy ~/.ray/auth_token" in told.stderr


def run(*words: str | Path, env: dict[str, str] | None = None, timeout: float = 240) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=env, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def namespaces() -> Iterator[dict[str, str]]:
    """Two network namespaces joined by a pair of virtual cards; name -> address."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making network namespaces takes root and iproute2")
    nodes = {"attlas-a": "10.77.0.1", "attlas-b": "10.77.0.2"}
    made = subprocess.run(["ip", "netns", "add", "attlas-a"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this machine makes no network namespaces")
    try:
        run("ip", "netns", "add", "attlas-b")
        run(*["ip", "link", "add", "attlas-va", "type", "veth", "peer", "name", "attlas-vb"])
        for (name, address), card in zip(nodes.items(), ("attlas-va", "attlas-vb"), strict=True):
            run("ip", "link", "set", card, "netns", name)
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", card)
            run("ip", "-n", name, "link", "set", card, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield nodes
    finally:
        for name in nodes:
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            subprocess.run(["kill", "-9", *pids.split()], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dies", [False, True], ids=["calm", "second node killed"])
def test_two_nodes_in_namespaces_of_their_own(dies: bool, namespaces: dict[str, str], tmp_path: Path) -> None:
    """A cluster by ray-start.sh over a network between two hosts that share nothing else but the disk."""
    (first, address), (second, other) = namespaces.items()
    path = f"{Path(attlas.__file__).parents[1] / '.venv' / 'bin'}:{os.environ['PATH']}"
    env = {
        name: {"PATH": path, "HOME": str(tmp_path / name), "NUM_CPUS": "2", "RAY_AUTH_MODE": "token"}
        for name in namespaces
    }
    for name in namespaces:
        (tmp_path / name).mkdir()

    def at(name: str, *words: str | Path, **more: str) -> str:
        return run("ip", "netns", "exec", name, *words, env=env[name] | more)

    at(first, DEPLOY / "ray-start.sh", "head", NODE_IP=address)
    (tmp_path / second / ".ray").mkdir(exist_ok=True)
    shutil.copy(tmp_path / first / ".ray" / "auth_token", tmp_path / second / ".ray" / "auth_token")
    at(second, DEPLOY / "ray-start.sh", "worker", address, NODE_IP=other)
    texts = tmp_path / "corpus.jsonl"
    texts.write_text("".join(f'{{"id": "d{i}", "text": "{text}"}}\n' for i, text in enumerate(corpus(400))))
    told = ["capture", "demo", str(texts), "--keep", "statistics", "--chunk-tokens", "100", "--threads", "1"]
    attlas_at = ["ip", "netns", "exec", first, "attlas", *told, "--json"]
    command = [*attlas_at, "--store", str(tmp_path / "two.zarr"), "--address", f"{address}:6379"]
    command += ["--shards", "2", "--replicas", "2", "--log", str(tmp_path / "log")]
    with subprocess.Popen(command, env=env[first], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        log = tmp_path / "log"
        while driver.poll() is None and not (log.exists() and "pack committed" in log.read_text()):
            time.sleep(0.1)
        if dies:
            pids = run("ip", "netns", "pids", second).split()
            subprocess.run(["kill", "-9", *pids], check=True)
        out, error = driver.communicate(timeout=300)
    assert driver.returncode == 0, error
    assert '"failed": []' in out
    assert ('"lost_pipelines": 1' in out) == dies
    nodes = set(re.findall(r'"node": "([^"]*)"', log.read_text()))
    assert nodes
    run("ip", "netns", "exec", first, "attlas", "verify", tmp_path / "two.zarr", env=env[first])
    calm = tmp_path / "calm.zarr"
    run(*attlas_at, "--store", calm, "--shards", "2", "--replicas", "2", env=env[first])
    assert_atlases_equal(tmp_path / "two.zarr", calm)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_slurm_script_runs_where_srun_is_a_shell(tmp_path: Path) -> None:
    """All of the script but Slurm itself: srun runs its command here, scontrol names two nodes."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/sh\nprintf 'localhost\\nlocalhost\\n'\n")
    (tools / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    venv = Path(attlas.__file__).parents[1] / ".venv" / "bin"
    env = os.environ | {
        "PATH": f"{tools}:{venv}:{os.environ['PATH']}", "HOME": str(tmp_path), "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "2", "ATTLAS_OPTIONS": "--keep statistics --replicas 2",
    }  # fmt: skip
    text = tmp_path / "text.txt"
    text.write_text(" ".join(corpus(3)))
    run(DEPLOY / "slurm.sbatch", "demo", tmp_path / "a.zarr", text, env=env)
    assert attlas.verify(tmp_path / "a.zarr").passed
    assert attlas.open_atlas(tmp_path / "a.zarr").keep == "statistics"


def test_the_page_shows_the_files_that_are_there() -> None:
    page: Any = (ROOT / "docs" / "cluster.md").read_text()
    for name in (*SCRIPTS, "kuberay.yaml", "Dockerfile"):
        assert f"deploy/{name}" in page
    for words in commands(page, "$ attlas capture"):
        check_options(words, capture_command)
