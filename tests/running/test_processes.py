"""Several processes carry out one run: the same bytes for any number of them, and nothing lost when one dies."""

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL, small
from test_recording import contents

from privfl import processes
from privfl.errors import ConfigError
from privfl.loading import dump
from privfl.processes import ALONE, joined
from privfl.running.recording import assist, run
from privfl.running.run_folder import RunFolder

CENTRAL = {
    "kind": "client_central",
    "max_update_norm": 0.5,
    "noise_multiplier": 0.1,
    "delta": 1e-3,
    "clipping": {"kind": "adaptive"},
}
DISTRIBUTED = {"kind": "client_distributed", "max_update_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-3, "survivors": 3}
# A small cohort would be one part, and one process would train all of it.
SHARED = {**SMALL["training"], "parts": 3}
RUNS: dict[str, dict[str, Any]] = {
    # Sums alone cross between the processes; each update; each noised update; what a secure sum is made of.
    "sums": {"training": SHARED, "privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "records": {"views": "final"}},
    "updates": {"training": SHARED, "aggregator": {"kind": "mean"}},
    "reference": {"training": {**SMALL["training"], "engine": "opacus"}},
    "adaptive": {
        "training": SHARED,
        "privacy": CENTRAL,
        "cohort": {"kind": "poisson", "size": 2},
        "records": {"views": "sums"},
        "rounds": 4,
    },
    "shares": {
        "training": SHARED,
        "privacy": DISTRIBUTED,
        "cohort": {"kind": "all"},
        "aggregator": {"kind": "secure_sum", "max_corrupt": 0.0},
    },
    "state": {"training": SHARED, "algorithm": "scaffold", "server": {"kind": "fedavg"}, "records": {"views": "sums"}},
    "personal": {"training": SHARED, "algorithm": "ditto", "rounds": 2, "records": {"views": "final"}},
    "secure": {"training": SHARED, "records": {"views": "sums"}},
    "compressed": {
        "training": SHARED,
        "transform": {"kind": "power_sgd", "rank": 1},
        "server": {"kind": "fedavg"},
        "records": {"views": "sums"},
    },
}


def carry_out_all(rank: int, count: int, port: int, out: Path) -> None:
    """One of several processes, which carries out every run; started as torchrun would start it."""
    at = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in at.items()})
    with joined() as everybody:
        for name, changes in RUNS.items():
            if everybody.first:
                run(small(**changes), out / name, processes=everybody)
            else:
                assist(small(**changes), everybody)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def torchrun(count: int, *args: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), *map(str, args)]
    # Torchrun's own modules warn; the port is any that is free.
    command[5:5] = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    for name, changes in RUNS.items():
        run(small(**changes), out / name)
    return out


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(count: int, alone: Path, tmp_path: Path) -> None:
    # Forked from a process that has imported PyTorch and does nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port = free_port()
    started = [context.Process(target=carry_out_all, args=(rank, count, port, tmp_path), daemon=True) for rank in range(count)]
    for one in started:
        one.start()
    for one in started:
        one.join(timeout=300)
    assert [one.exitcode for one in started] == [0] * count
    for name in RUNS:
        assert contents(tmp_path / name) == contents(alone / name), name


@pytest.mark.parametrize("parts", [None, 2])
def test_a_process_with_nothing_to_do_is_said(parts: int | None, tmp_path: Path) -> None:
    training = SMALL["training"] if parts is None else {**SMALL["training"], "parts": parts}
    (tmp_path / "config.toml").write_text(dump(small(rounds=2, cohort={"kind": "all"}, training=training)))
    found = torchrun(2, "-m", "privfl", "run", tmp_path / "config.toml", "--out", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    said = "1 of 2 processes trained: a cohort of 10 is cut into that many parts; set training.parts = 2 or more"
    assert found.stderr.count(said) == (parts is None)
    assert {timing.processes for timing in RunFolder.open(tmp_path / "out").timings()} == {parts or 1}


DYING = """
import os
from privfl.learning.training.fused import Fused
class Engine(Fused):
    calls = 0
    def train(self, global_D, tasks):
        Engine.calls += 1
        if os.environ["RANK"] == "1" and Engine.calls == 2:
            {how}
        return super().train(global_D, tasks)
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("os._exit(9)", ""), ("raise ValueError('no such thing')", "no such thing")],
    ids=["killed", "an error"],
)
def test_a_process_that_dies_leaves_a_run_that_can_be_resumed(how: str, said: str, tmp_path: Path) -> None:
    config = small(rounds=3, cohort={"kind": "all"}, training={**SMALL["training"], "parts": 4})
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "dying.py").write_text(DYING.format(how=how))
    (tmp_path / "config.toml").write_text(dump(config).replace('engine = "auto"', 'engine = "lab.dying"'))
    out = tmp_path / "out"
    found = torchrun(
        2, "-m", "privfl", "run", tmp_path / "config.toml", "--out", out, environment={"PYTHONPATH": str(tmp_path)}
    )
    assert found.returncode != 0
    assert said in found.stderr
    assert not RunFolder.open(out).finished
    assert len(RunFolder.open(out).rounds()) < 3
    # The same run by an engine that lives, alone: an engine moves nothing that is drawn.
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace('engine = "lab.dying"', 'engine = "auto"'))
    resumed, whole = run(config, out, resume=True), run(config, tmp_path / "whole")
    assert contents(resumed.path) == contents(whole.path)


def test_a_launcher_that_is_not_torchrun_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(ConfigError, match=r"WORLD_SIZE = 4, but RANK, .*MASTER_PORT is not set"),
        joined(),
    ):
        pass
    for none in ("abc", "", "0", "-2"):
        monkeypatch.setenv("WORLD_SIZE", none)
        with pytest.raises(ConfigError, match=f"WORLD_SIZE = '{none}': must be how many"), joined():
            pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as everybody:
        assert everybody is ALONE


@pytest.mark.parametrize(("told", "found"), [("3", 3), ("0", 1), ("", None), ("many", None)])
def test_a_process_has_the_threads_that_it_was_given_or_all_its_cores(
    told: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert processes.threads() == (found or processes.cores())


def test_processes_share_the_threads_of_the_one_that_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [processes.share_of_threads(count)["OMP_NUM_THREADS"] for count in (1, 3, 8, 20)] == ["8", "2", "1", "1"]
