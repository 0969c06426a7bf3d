"""What only a GPU can show; `make gpu` runs this file and writes docs/gpu.md. Skipped elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kernels
from attention import gqa_attention
from checkpoint import save_model
from config import PRESETS, ModelConfig
from data.tokenizer import shipped
from kernels import experts_grouped, token_logprobs, token_logprobs_plain
from lora import Lora, adapters, attach
from model import Transformer
from moe import experts_plain
from optim import Muon, make_optimizers
from sample import generate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: make gpu")
ROOT = Path(__file__).parent.parent
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11, 12], [13, 14], [3, 4, 5]]


def tiny(device="cuda", dtype=torch.float32, **overrides):
    shape = PRESETS["tiny"] | {"initializer_range": 0.2} | overrides
    return Transformer(ModelConfig(**shape)).init_weights(1).to(device, dtype)


def rollout(model, **kwargs):
    return generate(model, PROMPTS, **dict(group_size=4, max_new_tokens=100, eos_id=2, seed=5) | kwargs)


GQA = PRESETS["tiny_gqa"]


@pytest.mark.parametrize("shape", [{}, GQA])
def test_logits_equal_those_of_the_cpu(shape):
    tokens = torch.randint(0, 512, (3, 50), generator=torch.Generator().manual_seed(0))
    here, there = tiny("cpu", **shape)(tokens), tiny(**shape)(tokens.cuda()).cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [{}, GQA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_change_nothing(dtype, shape, monkeypatch):
    model = tiny(dtype=dtype, **shape)
    graphs = rollout(model)
    monkeypatch.setattr("sample.CUDA_GRAPHS", False)
    assert rollout(model).completions == graphs.completions


@pytest.mark.parametrize("shape", [{}, GQA])
@pytest.mark.parametrize("dtype,most", [(torch.float32, 1e-3), (torch.bfloat16, 0.3)])
def test_rollout_logprobs_are_those_of_the_training_pass(dtype, most, shape):
    model = tiny(dtype=dtype, **shape)
    out = rollout(model, max_new_tokens=40)
    for i, completion in enumerate(out.completions):
        tokens = torch.tensor([PROMPTS[i // 4] + completion], device="cuda")
        hidden = model.hidden(tokens[:, :-1])[:, len(PROMPTS[i // 4]) - 1 :]
        logprobs, _ = token_logprobs(hidden, model.lm_head.weight, tokens[:, len(PROMPTS[i // 4]) :])
        assert (logprobs[0].cpu() - torch.tensor(out.logprobs[i])).abs().mean() < most


def test_a_bfloat16_models_logits_are_float32_sums_of_exact_products():
    """Those of Head and those of token_logprobs; their gradients rounded once, or not at all."""
    g = torch.Generator().manual_seed(0)
    head, states = torch.randn(320, 256, generator=g).bfloat16(), torch.randn(21, 256, generator=g).bfloat16()
    exact, targets = states.double() @ head.double().T, torch.arange(21, device="cuda")
    layer = kernels.Head(256, 320, bias=False, dtype=torch.bfloat16, device="cuda")
    layer.weight.data.copy_(head)
    x = states.cuda().requires_grad_()
    logits = layer(x)
    assert logits.dtype == torch.float32
    assert (logits.cpu() - exact).abs().max() < 1e-5 * exact.abs().max()
    upstream = torch.randn(21, 320, generator=g).bfloat16()  # where float32 would be rounded to
    got = torch.autograd.grad((logits * upstream.cuda()).sum(), (x, layer.weight))
    wide = upstream.double()
    for a, b in zip(got, (wide @ head.double(), wide.T @ states.double()), strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=5e-3, atol=1e-3)
    found, _ = token_logprobs(x, layer.weight, targets, 4.0, 5)
    want = (exact / 4).log_softmax(-1).gather(1, targets.cpu()[:, None]).squeeze(1)
    torch.testing.assert_close(found.cpu().double(), want, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert x.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype,off", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_masked_gqa_equals_the_cpus_and_never_holds_all_scores(dtype, off):
    """Completions behind prompts: 2,048 queries of 8 heads, 4,096 keys of 2."""
    g, found = torch.Generator().manual_seed(0), []
    shapes = (2, 200, 8, 64), (2, 300, 2, 64), (2, 300, 2, 64)
    inputs, masked = [torch.randn(s, generator=g) for s in shapes], torch.rand(2, 100, generator=g) < 0.5
    for device, kind in (("cuda", dtype), ("cpu", torch.float32)):
        leaves = [x.to(device, kind).requires_grad_() for x in inputs]
        out = gqa_attention(*leaves, 0.125, masked.to(device))
        out.float().square().sum().backward()
        found.append([x.float().cpu() for x in (out, *(leaf.grad for leaf in leaves))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= off * b.norm()
    q, k, v = (torch.randn(2, n, heads, 64, device="cuda", dtype=dtype)
        for n, heads in ((2048, 8), (4096, 2), (4096, 2)))
    masked = torch.zeros(2, 2048, dtype=torch.bool, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gqa_attention(q, k, v, 0.125, masked)
    assert torch.cuda.max_memory_allocated() - before < 2 * 8 * 2048 * 4096 * q.element_size()


@pytest.mark.parametrize("dtype,off", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_grouped_experts_equal_the_loop_with_their_gradients(dtype, off):
    g, found = torch.Generator().manual_seed(0), []
    x, up, down = (torch.randn(s, generator=g) / 4 for s in ((200, 64), (8, 64, 64), (8, 64, 32)))
    indices = torch.stack([torch.randperm(8, generator=g)[:2] for _ in range(200)]).cuda()
    weights = torch.rand(200, 2, generator=g).cuda()
    for form in (experts_grouped, experts_plain):
        inputs = [t.to("cuda", dtype).requires_grad_() for t in (x, up, down)]
        y = form(*inputs, weights, indices)
        y.float().square().sum().backward()
        found.append([y, *(t.grad for t in inputs)])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= off * b.norm()


def test_fused_logprobs_equal_the_plain_ones():
    hidden, head = torch.randn(700, 64, device="cuda"), torch.randn(9000, 64, device="cuda")
    targets = torch.randint(0, 9000, (700,), device="cuda")
    for a, b in zip(token_logprobs(hidden, head, targets, 0.7, chunk=128),
            token_logprobs_plain(hidden, head, targets, 0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_muons_step_is_torchs():
    """Both in bfloat16, as on CUDA."""
    model = tiny()
    muon = next(o for o in make_optimizers(model, lr=0.01) if isinstance(o, Muon))
    ours = [p for p in muon.param_groups[0]["params"] if p.ndim == 2]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    peer = torch.optim.Muon(alone, lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    before = [p.detach().clone() for p in ours]
    for p, q in zip(ours, alone, strict=True):
        p.grad = q.grad = torch.randn_like(p)
    muon.step(), peer.step()
    for p, q, old in zip(ours, alone, before, strict=True):
        assert (p - q).norm() <= 0.03 * (q - old).norm()


@pytest.mark.parametrize("shape", [{}, GQA])
@pytest.mark.parametrize("dtype,most", [(torch.float32, 1e-3), (torch.bfloat16, 0.3)])
def test_adapters_are_merged_for_a_rollout_and_trained_beside_the_weights(dtype, most, shape):
    model = tiny(dtype=dtype, **shape)
    attach(model, Lora(4, 16.0))
    for _, m in adapters(model):
        m.lora_B.data.normal_(0, 0.1)
    out, total = rollout(model, max_new_tokens=40), 0
    for i, completion in enumerate(out.completions):
        tokens = torch.tensor([PROMPTS[i // 4] + completion], device="cuda")
        hidden = model.hidden(tokens[:, :-1])[:, len(PROMPTS[i // 4]) - 1 :]
        logprobs, _ = token_logprobs(hidden, model.lm_head.weight, tokens[:, len(PROMPTS[i // 4]) :])
        assert (logprobs[0].cpu() - torch.tensor(out.logprobs[i])).abs().mean() < most
        total = total + logprobs.sum()
    total.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(grads) == 2 * len(list(adapters(model)))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize("more", [[], ["--lora_rank", "4", "--kl_coef", "0.1"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_run_on_the_gpu(dtype, more, tmp_path):
    model = tiny(dtype=dtype)
    model.cfg.eos_token_id = shipped().eos_id
    save_model(model, tmp_path / "init")
    done = subprocess.run([sys.executable, ROOT / "grpo.py", "--init", tmp_path / "init", "--out",
        tmp_path / "out", "--steps", "2", "--prompts", "4", "--group_size", "4", "--max_new_tokens", "40",
        "--reward_weights", "overlong=1", "--device", "cuda", *more], cwd=ROOT, capture_output=True,
        text=True, env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
