"""Processes and threads; float32 masters of bfloat16 parameters."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoint import load_model, load_state, load_trained, save_model, save_state
from config import ModelConfig, Training
from model import Transformer
from optim import apply_gradients, is_router, keep_masters, master_of
from parallel import Ranks

ALONE = Ranks(0, 1, "cpu")
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


# What happens on the last rank, or on all: code, exit code, last line of stderr. The others wait in a
# collective, or are busy.
LAST, BUSY = "if r.rank == {last}: ", "\n    if r.main: time.sleep(60)"
KILLED = "error: process {last} of {world} ended (signal 9)"
FAILS = {
    "a wrong input": (LAST + "raise UserError('bad row')", 2, "error: bad row"),
    "a wrong input, rank 0 busy": (LAST + "raise UserError('bad row')" + BUSY, 2, "error: bad row"),
    "a wrong input on rank 0, the others busy": (
        "if r.main: raise UserError('bad row')\n    time.sleep(60)", 2, "error: bad row"),
    "a wrong input on all": ("raise UserError('bad row')", 2, "error: bad row"),
    "a bug": (LAST + "1 / 0", 1, "ZeroDivisionError: division by zero"),
    "a full disk": ("if r.main: raise OSError('No space left')", 2, "error: No space left"),
    "killed": (LAST + "os.kill(os.getpid(), 9)", 1, KILLED),
    "killed, rank 0 busy": (LAST + "os.kill(os.getpid(), 9)" + BUSY, 1, KILLED),
    "rank 0 killed": ("if r.main: os.kill(os.getpid(), 9)", -9, "error: process 0 of {world} ended"),
    "sys.exit": (LAST + "sys.exit(3)", 1, "error: process {last} of {world} ended (exit code 3)"),
    "nothing": ("", 0, ""),
    # the ranks have not met yet
    "before: a wrong input": ("raise UserError('bad row')", 2, "error: bad row"),
    "before: killed": ("os.kill(os.getpid(), 9)", 1, KILLED),
    "before: rank 0 killed": ("time.sleep(2) if 'RANK' in os.environ else threading.Timer(1, os.kill, "
        "(os.getpid(), 9)).start()", -9, "error: process 0 of {world} ended")}


@pytest.mark.parametrize("world", [2])
@pytest.mark.parametrize("name", FAILS)
def test_whichever_process_fails_the_run_says_why_once_and_ends(name, world):
    body, code, last_line = FAILS[name]
    lines = ["r = setup('cpu:{world}')", "gather(r, 1)", body, "gather(r, 2)"]
    if name.startswith("before"):
        at = "" if "rank 0" in name else "if os.environ.get('RANK') == '{last}': "
        lines = [at + body, *lines[:2]]
    start = "import os, sys, threading, time, config\nfrom parallel import *\ndef main():"
    script = "\n    ".join([start, *lines])
    script = f"{script}\nconfig.run_script(main)".format(last=world - 1, world=world)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
        timeout=50)
    said = done.stderr.strip().splitlines()
    assert done.returncode == code, said
    assert (said or [""])[-1] == last_line.format(last=world - 1, world=world)
    assert len(said) == (name != "nothing") or name == "a bug" and done.stderr.count("Traceback") == 1


def test_torchrun_shows_the_message_of_the_process_that_failed_once(tmp_path):
    (tmp_path / "fails.py").write_text("""
from config import UserError, run_script
from parallel import gather, setup
def main():
    ranks = setup("cpu")
    if ranks.rank == 1:
        raise UserError("row 7 is bad")
    gather(ranks, None)
run_script(main)
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
        tmp_path / "fails.py"], capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode and done.stderr.splitlines().count("error: row 7 is bad") == 1, done.stderr
    assert "RuntimeError" not in done.stderr and "gloo" not in done.stderr


def bf16():
    """A tiny bfloat16 model; its routers stay float32, as load_model leaves them."""
    cfg = ModelConfig(vocab_size=64, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        kv_lora_rank=12, intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=8, initializer_range=0.2)
    model = Transformer(cfg).init_weights()
    for name, p in model.named_parameters():
        p.data = p.data if is_router(name) else p.data.bfloat16()
    return model


def step(model, optimizer, lr):
    model(torch.arange(32).view(2, 16)).float().square().mean().backward()
    return apply_gradients(ALONE, list(model.parameters()), [optimizer], lr)


def test_updates_too_small_for_bfloat16_add_up_in_the_masters():
    """200 steps of 1e-5 on weights above 0.1, where bfloat16's numbers are 5e-4 apart."""
    for keep in (True, False):
        model = bf16()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.AdamW(keep_masters(model) if keep else model.parameters(), weight_decay=0.0)
        for _ in range(200):
            step(model, optimizer, 1e-5)
        big = [(p, b, b.abs() > 0.1) for p, b in zip(model.parameters(), before, strict=True)
            if p.dtype == torch.bfloat16]
        moved = sum(int((p != b)[large].sum()) for p, b, large in big)
        assert moved > 1000 if keep else moved == 0
        assert all(p.dtype == torch.bfloat16 and p.grad is None or is_router(name)
            for name, p in model.named_parameters() if keep)


def test_a_float16_model_has_masters_too():
    """Without them AdamW's second moment is 0 in float16, and an update by it is infinite."""
    model = bf16()
    for p in model.parameters():
        p.data = p.data.half()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(keep_masters(model), weight_decay=0.0)
    for _ in range(20):
        step(model, optimizer, 1e-4)
    moves = [(p - b).abs().max() for p, b in zip(model.parameters(), before, strict=True)]
    assert all(p.dtype == torch.float16 for p in model.parameters()) and 1e-3 < max(moves) < 5e-3


def test_gradients_of_micro_batches_add_up_in_float32():
    """Against the sum of the 64 parts' gradients in float64: exact with masters, rounded without."""
    tokens = torch.randint(0, 64, (64, 8), generator=torch.Generator().manual_seed(0))

    def gradient(model, parts):
        for part in parts:
            logp = model(part[:, :-1]).float().log_softmax(-1).gather(2, part[:, 1:, None])
            (-logp.sum() / tokens.numel()).backward()
        return torch.cat([master_of(p).grad.double().flatten() for p in model.parameters()])

    def kept():
        model = bf16()
        assert all(m.dtype == torch.float32 for m in keep_masters(model))
        return model

    exact = sum(gradient(kept(), [part]) for part in tokens.split(1))
    with_masters, without = ((gradient(model, tokens.split(1)) - exact).norm() / exact.norm()
        for model in (kept(), bf16()))
    assert with_masters < 1e-6 and without > 1e-3, (with_masters, without)


def test_a_float32_model_is_its_own_master_and_a_reference_has_none():
    model = bf16().float()
    assert all(a is b for a, b in zip(keep_masters(model), model.parameters(), strict=True))
    policy = bf16()
    keep_masters(policy)
    assert not any(hasattr(p, "master") for p in copy.deepcopy(policy).parameters())


def test_a_float32_checkpoint_is_trained_in_bfloat16_from_its_own_numbers(tmp_path):
    """Not from rounded ones; its routers are not rounded at all, nor where the model is only sampled."""
    whole = bf16().float().init_weights(1)
    whole.layers[1].mlp.gate.e_score_correction_bias += 0.1
    save_model(whole, tmp_path)
    trained = load_trained(tmp_path, ALONE, Training(dtype="bfloat16"), tmp_path)
    sampled = load_model(tmp_path, dtype="bfloat16")
    keep_masters(trained)
    assert all(torch.equal(master_of(p), w)
        for p, w in zip(trained.parameters(), whole.parameters(), strict=True))
    for name, tensor in whole.state_dict().items():
        kind = torch.float32 if is_router(name) else torch.bfloat16
        for model in (trained, sampled):
            assert (found := model.state_dict()[name]).dtype == kind and torch.equal(found, tensor.to(kind))
    plain = load_trained(tmp_path, ALONE, Training(dtype="float32"), tmp_path)
    assert not any(hasattr(p, "master") for p in plain.parameters())


def test_masters_come_back_exactly_from_a_saved_state(tmp_path):
    model, ends = bf16(), []
    optimizer = torch.optim.AdamW(keep_masters(model), fused=True)
    step(model, optimizer, 1e-5)
    save_state(tmp_path / "state", model, optimizer=optimizer.state_dict())
    again, state = load_model(tmp_path / "state"), load_state(tmp_path / "state")
    later = torch.optim.AdamW(keep_masters(again, state), fused=True)
    later.load_state_dict(state["optimizer"])
    for m, o in ((model, optimizer), (again, later)):
        step(m, o, 1e-5)
        ends.append([master_of(p) for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(torch.equal(p.float(), m) == is_router(name)
        for (name, p), m in zip(again.named_parameters(), ends[1], strict=True))


def test_a_rank_without_examples_trains_as_one_process_does(tmp_path):
    """Two ranks share one example, Muon's expert views and the routers' loads included."""
    code = """
import torch
import sft
from config import PRESETS, ModelConfig
from data.tasks import training_rows
from data.tokenizer import shipped
from model import Transformer
from optim import make_optimizers
from parallel import setup
ranks, cfg = setup("{device}"), sft.Config(batch_size=1, lr=0.01, warmup=0)
model = Transformer(ModelConfig(**PRESETS["tiny"] | dict(num_hidden_layers=2, hidden_size=32))).init_weights()
optimizers = make_optimizers(model, ranks)
for step in range(2):
    m = sft.run_step(model, optimizers, step, training_rows(cfg.task, 0), shipped(), cfg, ranks)
assert not m.pop("skipped")
torch.save([m, *(model.state_dict().values())], "{out}" + str(ranks.rank))
"""
    runs = []
    for device, ranks in (("cpu:1", 1), ("cpu:2", 2)):
        python(code.format(device=device, out=tmp_path / device))
        runs += [torch.load(tmp_path / f"{device}{rank}") for rank in range(ranks)]
    for metrics, *weights in runs[1:]:
        assert metrics == pytest.approx(runs[0][0])
        torch.testing.assert_close(weights, runs[0][1:])
