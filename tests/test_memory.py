"""Activation checkpointing changes memory and nothing else; memory is what the formulas say."""

import pytest
import torch

from config import PRESETS, ModelConfig
from model import Transformer, activation_bytes
from moe import Routing

B, T = 3, 40


def preset(name, **overrides):
    return Transformer(ModelConfig(**PRESETS[name] | overrides)).init_weights()


def run(model, recompute, replay=None):
    """(what a routing reports, loss, gradients)."""
    model.recompute = recompute
    model.zero_grad()
    g = torch.Generator().manual_seed(1)
    tokens, mask = torch.randint(0, 500, (B, T), generator=g), torch.rand(B, T, generator=g) < 0.8
    routing = Routing(mask=mask, balance=True, replay=replay)
    loss = model.hidden(tokens, routing).square().mean() + 0.1 * sum(routing.balance_losses)
    loss.backward()
    reports = [*routing.indices, *routing.load, *routing.balance_losses]
    return reports, loss, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("shape", [{}, dict(first_k_dense_replace=4), dict(first_k_dense_replace=2)])
def test_recomputation_changes_neither_values_nor_gradients_nor_reports(shape):
    model = preset("tiny", **shape)
    routers, K = len(model.routers()), model.cfg.num_experts_per_tok
    g = torch.Generator().manual_seed(2)
    replay = [torch.randint(-1, 8, (B, T, K), generator=g) for _ in range(routers)]
    for orders in (None, replay):
        plain, again = (run(model, recompute, orders) for recompute in (False, True))
        assert len(again[0]) == 3 * routers
        for a, b in zip(plain, again, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def kept_bytes(model, function) -> int:
    """What autograd keeps of function(): every storage once, the model's weights aside."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held: no address comes twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function()
    del out
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("length", [64, 320])
@pytest.mark.parametrize("name,shape", [("tiny", {}), ("tiny_dense", {}), ("small", {}),
    ("tiny", dict(n_shared_experts=3, num_experts_per_tok=5, moe_intermediate_size=200))])
def test_activations_are_as_predicted(name, shape, length):
    """Within 35% of what autograd keeps; with recomputation, of the blocks' inputs and the largest block."""
    model = preset(name, **shape)
    tokens, freqs = torch.randint(0, 500, (2, length)), model.freqs(torch.arange(length))
    x = torch.randn(2, length, model.cfg.hidden_size, requires_grad=True)
    blocks = [kept_bytes(model, lambda layer=layer: layer(x, freqs, Routing())) for layer in model.layers]
    for recompute, largest in ((False, 0), (True, max(blocks))):
        model.recompute = recompute
        kept = kept_bytes(model, lambda: model.hidden(tokens, Routing())) + largest
        said = activation_bytes(model.cfg, tokens.numel(), 4, length, recompute)
        assert said == pytest.approx(kept, rel=0.35), (recompute, said / kept)
        print(name, length, recompute, said / kept)
