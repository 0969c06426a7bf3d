"""Routing, replay, balance: the equations of DeepSeek-V3 section 2.1.2 by hand."""

import pytest
import torch

from config import ModelConfig, UserError
from model import Transformer
from moe import MoE, Router, Routing, balance_loss


def small(**overrides):
    return ModelConfig(**(dict(hidden_size=16, num_attention_heads=2, vocab_size=40, num_hidden_layers=3,
        intermediate_size=24, moe_intermediate_size=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4,
        v_head_dim=4, initializer_range=0.3) | overrides))


def router(**overrides):
    torch.manual_seed(0)
    r = Router(small(**overrides))
    torch.nn.init.normal_(r.weight)
    return r


def test_bias_chooses_but_does_not_weigh():
    r, x = router(), torch.randn(50, 16)
    r.e_score_correction_bias[3] = 100.0
    weights, indices, scores = r(x)
    assert (indices == 3).any(1).all()
    chosen = scores.gather(1, indices)
    torch.testing.assert_close(weights, chosen / chosen.sum(1, keepdim=True))


def test_group_limit_keeps_experts_within_the_best_groups():
    r = router(n_group=4, topk_group=1, num_experts_per_tok=2)
    indices = r(torch.randn(50, 16))[1]
    assert ((indices // 2) == (indices // 2)[:, :1]).all()


def test_bias_update_moves_against_the_load_by_gamma():
    r = router()
    r.update_bias(torch.tensor([10, 0, 4, 4, 4, 4, 2, 4]), gamma=0.25)
    assert r.e_score_correction_bias.tolist() == [-0.25, 0.25, 0, 0, 0, 0, 0.25, 0]


def test_bias_update_balances_a_skewed_router():
    r, x = router(), torch.randn(2000, 16) + 0.7

    def spread():
        load = torch.bincount(r(x)[1].flatten(), minlength=8).float()
        return float(load.max() / load.mean()), load

    before = spread()[0]
    for _ in range(500):
        r.update_bias(spread()[1], 0.003)
    assert before > 1.3 and spread()[0] < 1.1


def test_balance_loss_by_hand():
    """Two tokens, two experts, K = 1, both choose expert 0: f = (2, 0), P = mean of normalised scores."""
    scores = torch.tensor([[[0.8, 0.2], [0.3, 0.1]]])
    chosen = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(balance_loss(scores, chosen), torch.tensor([2 * (0.8 + 0.75) / 2]))
    even = balance_loss(torch.full((1, 2, 2), 0.5), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(even, torch.ones(1))


def test_balance_loss_ignores_padding():
    scores, chosen = torch.rand(1, 4, 6) + 0.1, torch.zeros(1, 4, 6)
    chosen.scatter_(2, torch.randint(6, (1, 4, 1)), 1.0)
    padded = torch.cat([scores, torch.rand(1, 3, 6)], 1), torch.cat([chosen, torch.zeros(1, 3, 6)], 1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(balance_loss(*padded, mask), balance_loss(scores, chosen))


def test_replay_uses_the_given_experts_and_still_trains_the_router():
    torch.manual_seed(0)
    layer = MoE(small())
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 3, 16)
    wanted = torch.randint(4, (2, 3, 1)) * 2 + torch.tensor([0, 1])
    wanted[0, 0] = -1
    own = layer.gate(x.flatten(0, 1))[1].view(2, 3, 2)
    routing = Routing(replay=[wanted])
    layer(x, routing).sum().backward()
    assert torch.equal(routing.indices[0][0, 0], own[0, 0])
    assert torch.equal(routing.indices[0].flatten(0, 1)[1:], wanted.flatten(0, 1)[1:])
    assert layer.gate.weight.grad.abs().sum() > 0
    assert float(routing.load[0].sum()) == 12


def test_replaying_the_own_choice_changes_nothing():
    model, tokens = Transformer(small()).init_weights(), torch.randint(40, (2, 7))
    first = Routing()
    plain = model.hidden(tokens, first)
    again = model.hidden(tokens, Routing(replay=first.indices))
    torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("wrong", [dict(n_routed_experts=7, n_group=2), dict(topk_group=3, n_group=2),
    dict(num_experts_per_tok=5, n_group=4, topk_group=1), dict(model_type="gemma"),
    dict(scoring_func="softmax"), dict(qk_rope_head_dim=3),
    dict(model_type="deepseek_v2", norm_topk_prob=True),
    dict(rope_scaling={"rope_type": "linear"})])
def test_impossible_shapes_are_refused_with_a_reason(wrong):
    with pytest.raises(UserError, match="model config"):
        small(**wrong)
