"""Processes and threads; float32 masters of bfloat16 parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"})
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


@pytest.mark.parametrize("device,count", [("cpu:1", 1), ("cpu:2", 2), ("cpu", 1)])
def test_cpu_n_is_n_processes_of_one_thread_and_cpu_keeps_all(device, count):
    every = python("import torch; print(torch.get_num_threads())")
    seen = python(f"import parallel, torch; parallel.setup('{device}'); print(torch.get_num_threads())")
    assert seen == (every if device == "cpu" else ["1"] * count)
