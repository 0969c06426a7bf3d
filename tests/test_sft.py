"""Supervised training: masks, optimizers, invariances, exact resume."""

import dataclasses

import pytest
import torch

import sft
from config import ModelConfig, UserError
from data.tasks import training_rows
from data.tokenizer import shipped
from kernels import token_logprobs_plain
from model import Transformer
from optim import Muon, keep_masters, make_optimizers
from parallel import Ranks
from sft import Config, encode_example, pad, run_step

ALONE, TOK = Ranks(0, 1, "cpu"), shipped()
TINY = dict(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=48,
    moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.1, max_position_embeddings=512)
CFG = Config(task="countdown:n=3,high=9,ops=+-", batch_size=8, steps=10, warmup=2, lr=0.01)


def tiny():
    return Transformer(ModelConfig(**TINY)).init_weights()


def test_the_loss_is_on_the_completion_and_the_end_token_only():
    tokens, start = encode_example(TOK, {"prompt": "Use 1 2."}, "<think>a</think>\n<answer>1</answer>")
    assert tokens[0] == TOK.bos_id and tokens[-1] == TOK.eos_id
    other = (tokens[:start] + [9, TOK.eos_id], start)
    padded, present, mask = pad([(tokens, start), other], TOK.pad_id, "cpu")
    assert present.sum(1).tolist() == [len(tokens) - 1, start + 1]
    for row, m, want in zip(padded, mask, [tokens[start:], [9, TOK.eos_id]], strict=True):
        assert row[1:][m].tolist() == want


def test_of_a_document_every_token_is_learnt():
    model, text = tiny(), "Use 1 2 to make 3.\n1+2=3 need 3 ok"
    tokens, start = sft.encode_row(model, TOK, {"text": text}, 0, 0)
    assert start == 1 and tokens == [TOK.bos_id, *TOK.encode(text), TOK.eos_id]
    _, _, mask = pad([(tokens, start)], TOK.pad_id, "cpu")
    assert int(mask.sum()) == len(tokens) - 1
    with pytest.raises(UserError, match="does not fit"):
        sft.encode_row(model, TOK, {"text": "7" * 600}, 0, 0)


def test_epochs_are_counted_in_steps_of_the_file():
    assert sft.steps_of(Config(epochs=3, batch_size=8), 40) == 15
    with pytest.raises(UserError, match="epochs"):
        sft.steps_of(Config(task="countdown", epochs=3), 0)


@pytest.mark.parametrize("size", ["tiny", "tiny_dense", "small", "small_dense"])
def test_every_stage_of_the_recipe_has_settings_for_every_size(size):
    import grpo
    from config import PRESETS

    assert size in PRESETS
    for stage in ("base", "cold", "rejection", "reward", "distilled"):
        assert Config(**sft.RECIPES[f"{size}/{stage}"]).stage == stage
    for stage in ("zero", "reasoning", "scenarios"):
        grpo.check(grpo.Config(**grpo.RECIPES[f"{size}/{stage}"]))


def test_loss_equals_the_mean_nll_of_transformer_logits():
    model, rows = tiny(), training_rows(CFG.task, 0)
    optimizers = make_optimizers(model)
    nll, count = 0.0, 0
    with torch.no_grad():
        for i in range(8):
            tokens, start = encode_example(TOK, rows(i), sft.chain_for(rows(i), 0, i))
            x = torch.tensor([tokens])
            lp, _ = token_logprobs_plain(model.hidden(x[:, :-1]), model.lm_head.weight, x[:, 1:])
            nll, count = nll - float(lp[0, start - 1 :].sum()), count + len(tokens) - start
    m = run_step(model, optimizers, 0, rows, TOK, CFG, ALONE)
    assert m["loss"] == pytest.approx(nll / count, rel=1e-4)


def step_weights(cfg, steps=2):
    model, rows = tiny(), training_rows(cfg.task, 0)
    optimizers = make_optimizers(model, name=cfg.optimizer)
    for step in range(steps):
        run_step(model, optimizers, step, rows, TOK, cfg, ALONE)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_updates_are_invariant_to_micro_batch_size():
    cfg = dataclasses.replace(CFG, optimizer="adamw", balance_coef=0.01)
    one, all_ = (step_weights(dataclasses.replace(cfg, micro_tokens=n), steps=1) for n in (1, 10**6))
    torch.testing.assert_close(one, all_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_lowers_the_loss(optimizer):
    cfg = dataclasses.replace(CFG, optimizer=optimizer, steps=30, lr=0.02 if optimizer == "muon" else 0.01)
    model, rows = tiny(), training_rows(cfg.task, 0)
    optimizers = make_optimizers(model, name=cfg.optimizer)
    losses = [run_step(model, optimizers, s, rows, TOK, cfg, ALONE)["loss"] for s in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_muon_steps_the_masters_of_bfloat16_experts():
    """Their float32 copies move by less than bfloat16 can show, and the weights are their rounding."""
    model, rows = tiny(), training_rows(CFG.task, 0)
    for p in model.parameters():
        p.data = p.data.bfloat16()
    keep_masters(model)
    optimizers = make_optimizers(model)
    muon = {id(p) for o in optimizers if isinstance(o, Muon) for p in o.param_groups[0]["params"]}
    assert {id(p.master) for p in model.layers[1].mlp.experts.parameters()} <= muon
    before = [p.master.detach().clone() for p in model.parameters()]
    for step in range(2):
        run_step(model, optimizers, step, rows, TOK, dataclasses.replace(CFG, lr=1e-6), ALONE)
    for p, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(p.master, old) and torch.equal(p, p.master.bfloat16())


def test_every_parameter_is_trained_by_exactly_one_optimizer():
    for optimizer in ("muon", "adamw"):
        model = tiny()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizers = make_optimizers(model, name=optimizer)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        for o in optimizers:
            o.step()
        assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
        owned = [p.data_ptr() for o in optimizers for g in o.param_groups for p in g["params"]]
        assert len(owned) == len(set(owned))


def test_routing_bias_balances_during_training():
    cfg = dataclasses.replace(CFG, bias_rate=0.02, steps=60, lr=1e-4)
    loads = {}
    for rate in (0.0, 0.02):
        model, rows = tiny(), training_rows(cfg.task, 0)
        optimizers = make_optimizers(model, name=cfg.optimizer)
        for s in range(40):
            m = run_step(model, optimizers, s, rows, TOK, dataclasses.replace(cfg, bias_rate=rate),
                ALONE)
        loads[rate] = m["max_load"]
    assert loads[0.02] < loads[0.0]
