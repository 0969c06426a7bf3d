"""Processes and threads; float32 masters of bfloat16 parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"})
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


@pytest.mark.parametrize("device,count", [("cpu:1", 1), ("cpu:2", 2), ("cpu", 1)])
def test_cpu_n_is_n_processes_of_one_thread_and_cpu_keeps_all(device, count):
    say = "print(f'{torch.get_num_threads()}\\n', end='')"  # in one piece: two processes write
    every = python(f"import torch; {say}")
    seen = python(f"import parallel, torch; parallel.setup('{device}'); {say}")
    assert seen == (every if device == "cpu" else ["1"] * count)


def test_a_rank_without_examples_trains_as_one_process_does(tmp_path):
    """Two ranks share one example, Muon's expert views and the routers' loads included."""
    code = """
import torch
import sft
from config import PRESETS, ModelConfig
from data.tasks import training_rows
from data.tokenizer import shipped
from model import Transformer
from parallel import setup
ranks, cfg = setup("{device}"), sft.Config(batch_size=1, lr=0.01, warmup=0)
model = Transformer(ModelConfig(**PRESETS["tiny"] | dict(num_hidden_layers=2, hidden_size=32))).init_weights()
optimizers, views = sft.make_optimizers(model, cfg)
for step in range(2):
    m = sft.run_step(model, optimizers, views, step, training_rows(cfg.task, 0), shipped(), cfg, ranks)
torch.save([m, *(model.state_dict().values())], "{out}" + str(ranks.rank))
"""
    runs = []
    for device, ranks in (("cpu:1", 1), ("cpu:2", 2)):
        python(code.format(device=device, out=tmp_path / device))
        runs += [torch.load(tmp_path / f"{device}{rank}") for rank in range(ranks)]
    for metrics, *weights in runs[1:]:
        assert metrics == pytest.approx(runs[0][0])
        torch.testing.assert_close(weights, runs[0][1:])
