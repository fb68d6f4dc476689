"""How much faster two processes carry out a run than one, each process on a core of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _harness import Sample
from _task import TRAINING, task

from privfl.loading import dump
from privfl.running.run_folder import RunFolder

_SAME = ("model.safetensors", "rounds.jsonl", "result.json")


def two_process_speedup(rounds: int, repeats: int) -> Sample:
    """Wall-clock time of one process' rounds over that of two, on the benchmark task with the cnn; start-up is not counted.

    Both cut each cohort into two parts, or else the bytes would not be the same.

    Raises:
        RuntimeError: a run failed, or the two did not write the same bytes.
    """
    ratios = []
    for repeat in range(repeats):
        with TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "task.toml").write_text(dump(task(rounds, evaluation={"every": rounds}, training=TRAINING | {"parts": 2})))
            seconds = {}
            for count in (1, 2) if repeat % 2 else (2, 1):
                seconds[count] = _seconds(place / "task.toml", place / str(count), count)
            for name in _SAME:
                if (place / "1" / name).read_bytes() != (place / "2" / name).read_bytes():
                    raise RuntimeError(f"{name} of one process and of two are not the same")
            ratios.append(seconds[1] / seconds[2])
    return Sample(np.array(ratios))


def _seconds(config: Path, out: Path, count: int) -> float:
    launch = ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [sys.executable, *launch, "--nproc-per-node", str(count), "-m", "privfl", "run", str(config), "--out", str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return sum(timing.total for timing in RunFolder.open(out).timings())
