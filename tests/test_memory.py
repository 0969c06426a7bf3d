"""Activation checkpointing changes memory and nothing else; memory is what the formulas say."""

import sys

import pytest
import torch

import batch
from batch import activation_bytes
from config import PRESETS, ModelConfig
from model import Transformer
from moe import Routing
from parallel import Ranks, free_bytes

B, T = 3, 40


def preset(name, **overrides):
    return Transformer(ModelConfig(**PRESETS[name] | overrides)).init_weights()


def run(policy, recompute, replay=None):
    """(what a routing reports, loss, gradients)."""
    policy.recompute = recompute
    policy.zero_grad()
    g = torch.Generator().manual_seed(1)
    tokens, mask = torch.randint(0, 500, (B, T), generator=g), torch.rand(B, T, generator=g) < 0.8
    routing = Routing(mask=mask, balance=True, replay=replay)
    loss = policy.hidden(tokens, routing).square().mean() + 0.1 * sum(routing.balance_losses)
    loss.backward()
    reports = [*routing.indices, *routing.load, *routing.balance_losses]
    return reports, loss, [p.grad for p in policy.parameters()]


@pytest.mark.parametrize("shape", [{}, dict(first_k_dense_replace=4), dict(first_k_dense_replace=2)])
def test_recomputation_changes_neither_values_nor_gradients_nor_reports(shape):
    policy = preset("tiny", **shape)
    routers, K = len(policy.routers()), policy.cfg.num_experts_per_tok
    g = torch.Generator().manual_seed(2)
    replay = [torch.randint(-1, 8, (B, T, K), generator=g) for _ in range(routers)]
    for orders in (None, replay):
        plain, again = (run(policy, recompute, orders) for recompute in (False, True))
        assert len(again[0]) == 3 * routers
        for a, b in zip(plain, again, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def kept_bytes(policy, function) -> int:
    """What autograd keeps of function(): every storage once, the model's weights aside."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in policy.parameters()}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held: no address comes twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function()
    del out
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("length,dtype", [(64, torch.float32), (320, torch.float32), (320, torch.bfloat16)])
@pytest.mark.parametrize("name,shape", [("tiny", {}), ("tiny_dense", {}), ("small", {}),
    ("tiny_gqa", {}), ("tiny_gqa", dict(use_qk_norm=True, num_key_value_heads=4)),
    ("tiny", dict(n_shared_experts=3, num_experts_per_tok=5, moe_intermediate_size=200))])
def test_activations_are_as_predicted(name, shape, length, dtype):
    """Within 35% of what autograd keeps; with recomputation, of the blocks' inputs and the largest block."""
    policy = preset(name, **shape).to(dtype)
    tokens, freqs = torch.randint(0, 500, (2, length)), policy.freqs(torch.arange(length))
    x = torch.randn(2, length, policy.cfg.hidden_size, dtype=dtype, requires_grad=True)
    blocks = [kept_bytes(policy, lambda layer=layer: layer(x, freqs, Routing())) for layer in policy.layers]
    for recompute, largest in ((False, 0), (True, max(blocks))):
        policy.recompute = recompute
        kept = kept_bytes(policy, lambda: policy.hidden(tokens, Routing())) + largest
        said = activation_bytes(policy.cfg, tokens.numel(), dtype.itemsize, length, recompute)
        assert said == pytest.approx(kept, rel=0.35), (recompute, said / kept)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_recomputation_starts_where_memory_ends(device, monkeypatch):
    """Gradients, two moments, a bfloat16 model's masters and the reference come first."""
    tiny = preset("tiny").bfloat16()
    numbers = sum(p.numel() for p in tiny.parameters())
    activations = 1.25 * activation_bytes(tiny.cfg, 1000, 2, 100 if device == "cpu" else 0)
    for reference, per_number in ((True, 4 + 4 + 8 + 2), (False, 4 + 4 + 8)):
        for spare in (1, -1):
            free = numbers * per_number + activations + spare
            monkeypatch.setattr(batch, "free_bytes", lambda _, free=free: free)
            assert batch.fits(tiny, 1000, 100, reference, Ranks(0, 1, device)) == (spare > 0)


def test_free_memory_is_known_and_shared_by_the_processes():
    alone, two = (free_bytes(Ranks(0, world, "cpu")) for world in (1, 2))
    assert alone > 1e6 and (sys.platform != "linux" or two == pytest.approx(alone / 2, rel=0.2))
