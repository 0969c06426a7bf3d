"""Activation checkpointing changes memory and nothing else; memory is what the formulas say."""

import sys

import pytest
import torch

import batch
import grpo
import sft
from batch import (
    GIB,
    MARGIN,
    Decoding,
    Pass,
    activation_bytes,
    check_memory,
    needed,
    predicted,
    rows_pass,
    shared_pass,
)
from bench import bench
from config import PRESETS, ModelConfig, UserError
from data.tasks import training_rows
from data.tokenizer import shipped
from kernels import packed_weights
from model import Transformer
from moe import Routing
from optim import apply_gradients, keep_masters, make_optimizers
from parallel import Ranks, free_bytes, micro_batches
from sample import _Engine

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
        said = activation_bytes(policy.cfg, rows_pass(tokens.numel(), length), dtype, "cpu", recompute)
        assert said == pytest.approx(kept, rel=0.35), (recompute, said / kept)


@pytest.mark.parametrize("name", ["tiny", "tiny_gqa", "small"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_shared_prompts_are_as_predicted(name, dtype):
    """3 prompts of 50 tokens, 8 completions of 30 for each: within 25% of what autograd keeps."""
    policy, (P, S, G, new) = preset(name).to(dtype), (3, 50, 8, 30)
    prompts, completions = torch.randint(0, 500, (P, S)), torch.randint(0, 500, (P * G, new - 1))
    owner, lengths = torch.arange(P).repeat_interleave(G), torch.full((P,), S)
    kept = kept_bytes(policy, lambda: policy.hidden_shared(prompts, lengths, completions, owner, Routing()))
    work = shared_pass(P * G * (S + new), S, new, G, P * G)
    assert work == Pass(P * S + P * G * new, P * S + P * G * (S + new), P * S * S // 2
        + P * G * new * (S + new // 2), S + new)
    assert activation_bytes(policy.cfg, work, dtype, "cpu") == pytest.approx(kept, rel=0.25)


def test_no_pass_is_larger_than_predicted():
    for rows, length, budget in ((32, 100, 2048), (32, 100, 1600), (7, 100, 2048), (32, 100, 10)):
        prompts = [((i // 4,), 50) for i in range(rows)]
        parts = micro_batches(Ranks(0, 1, "cpu"), [length] * rows, budget, prompts)
        work = shared_pass(budget, 50, 50, 4, rows)
        largest = max(50 * len({prompts[i] for i in part}) + 50 * len(part) for part in parts)
        assert largest <= work.tokens <= max(largest + 50, budget) and work.length == 100
    assert rows_pass(2048, 60).tokens == 34 * 60 and rows_pass(10, 60).tokens == 60  # a row at least


@pytest.mark.parametrize("name,dtype,optimizer", [("tiny", torch.float32, "adamw"),
    ("tiny", torch.bfloat16, "adamw"), ("tiny_gqa", torch.float32, "muon"),
    ("small", torch.bfloat16, "muon")])
def test_what_training_holds_is_predicted_to_the_byte(name, dtype, optimizer):
    policy = preset(name, num_hidden_layers=2, tie_word_embeddings=True).to(dtype)
    masters = keep_masters(policy)
    optimizers = make_optimizers(policy, name=optimizer)
    run(policy, False)
    apply_gradients(Ranks(0, 1, "cpu"), list(policy.parameters()), optimizers, 1e-3)
    state = [v for o in optimizers for s in o.state.values() for v in s.values() if v.numel() > 1]
    parameters = list(policy.parameters())
    held = predicted(policy.cfg, rows_pass(60, 40), dtype=dtype, device="cpu", optimizer=optimizer).held
    assert held["weights"] == sum(p.nbytes for p in parameters)
    assert held["gradients"] == sum(m.grad.nbytes for m in masters)
    assert held["masters"] == (0 if dtype == torch.float32 else sum(m.nbytes for m in masters))
    assert held["optimizer"] == pytest.approx(sum(v.nbytes for v in state), rel=1e-3)


def test_adapters_and_shards_change_what_is_held():
    """Attention and dense layers get r (in + out) numbers, and nothing else is trained. Shards divide what is
    large."""
    cfg = ModelConfig(**bench.RELEASED["Qwen2.5-0.5B"])
    work, D, F, L = rows_pass(1000, 1000), 896, 4864, 24
    adapters = L * 16 * ((D + D) + 2 * (D + 128) + (D + D) + 3 * (D + F))
    settings = dict(dtype=torch.bfloat16, device="cuda", reference=True)
    full, lora = (predicted(cfg, work, lora_rank=rank, **settings).held for rank in (0, 16))
    assert lora == {"weights": 2 * 494_032_768, "adapters": 4 * adapters, "gradients": 4 * adapters,
        "optimizer": 8 * adapters, "masters": 0, "reference": 0, "process": 0}
    assert full["reference"] == full["weights"] == 2 * 494_032_768 and full["masters"] == full["gradients"]
    both = predicted(cfg, work, world=4, shards=4, **settings)
    split = {part: n / 4 for part, n in full.items()}
    assert both.held == split | {"weights": full["masters"] / 4, "masters": 0}  # float32 rows: both at once
    half = predicted(cfg, work, world=4, shards=4, lora_rank=16, **settings).held
    assert half == lora | {"weights": lora["weights"] / 4}
    assert both.phases["pass"]["unsharded"] > 2 * 151_936 * D  # the embedding is whole, beside two blocks
    deep = ModelConfig(**bench.RELEASED["Moonlight-16B-A3B"])  # with experts only attention has adapters
    D, H = 2048, 16
    attention = (D + H * 192) + (D + 576) + (512 + H * 256) + (H * 128 + D)
    said = predicted(deep, work, lora_rank=8, **settings).held["gradients"]
    assert said == 4 * 8 * 27 * attention


@pytest.mark.parametrize("name,shape", [("small", {}), ("small_dense", {}), ("tiny", {})])
def test_a_rollout_on_a_cpu_holds_packed_weights_and_caches_as_predicted(name, shape):
    policy = preset(name, **shape)
    said = predicted(policy.cfg, rows_pass(60, 40), Decoding(12, 3, 20, 70), dtype=torch.float32,
        device="cpu").phases["rollout"]
    with packed_weights(policy):
        held = [m.packed for m in policy.modules() if getattr(m, "packed", None) is not None]
        held = [w for packed in held for w in (sum(packed, ()) if isinstance(packed, list) else [packed])]
        assert said["packed weights"] == 4 * sum(w.numel() for w in held)
    with torch.inference_mode():
        _, cohort = policy.prefill(torch.ones(3, 20, dtype=torch.long), torch.tensor([20] * 3), 4)
        for _ in range(70):
            policy.decode(torch.ones(12, dtype=torch.long), [cohort])
    assert said["prompts' cache"] == sum(c.prefix.nbytes for c in cohort.caches)
    logits, layers = 12 * policy.cfg.vocab_size * 12, policy.cfg.num_hidden_layers
    rows = said["rows' cache and logits, or prompts' states"] - logits
    assert rows == pytest.approx(sum(c.suffix.nbytes for c in cohort.caches) * (1 + 1 / layers))


def test_what_the_sampler_kept_is_predicted_to_the_byte():
    policy, decodings = preset("tiny"), (Decoding(12, 3, 20, 70), Decoding(12, 3, 20, 70, 12))
    plain, kept = (predicted(policy.cfg, rows_pass(60, 40), d, dtype=torch.float32, device="cpu").phases[
        "rollout"] for d in decodings)
    engine = _Engine(policy, [[5] * 20] * 3, 4, 70, 1.0, 0.9, [], None, False, True)
    rows = "rows' cache and logits, or prompts' states"
    sorting = 12 * policy.cfg.vocab_size * 16  # the ids in the order of their chances, and their sums
    assert "kept tokens" not in plain
    assert kept == plain | {"kept tokens": engine.kept.nbytes, rows: plain[rows] + sorting}


def test_with_adapters_a_rollout_has_merged_weights_and_with_shards_gathered_ones():
    cfg, work = ModelConfig(**bench.RELEASED["DeepSeek-V2-Lite"]), rows_pass(1000, 1000)
    decoding = Decoding(64, 8, 100, 100)
    gpu = predicted(cfg, work, decoding, dtype=torch.bfloat16, device="cuda", lora_rank=8, shards=2, world=2)
    cpu = predicted(cfg, work, decoding, dtype=torch.float32, device="cpu", lora_rank=8)
    kv_b = 512 * 16 * 256  # the one that decoding reads by itself; in bfloat16 nothing else is merged
    assert gpu.phases["rollout"]["merged weights"] == 4 * 27 * kv_b
    assert gpu.phases["rollout"]["gathered weights"] == 2 * 15_706_484_224
    assert cpu.phases["rollout"]["merged weights"] == 4 * 27 * kv_b


def said_of(name, **settings):
    return dict(cfg=ModelConfig(**bench.RELEASED[name]), work=shared_pass(4096, 100, 400, 8, 64),
        decoding=Decoding(64, 8, 100, 400), dtype=torch.bfloat16, **settings)


def test_a_run_that_does_not_fit_is_refused_with_the_flags_that_make_it_fit(monkeypatch):
    ranks, settings = Ranks(0, 1, "cuda:0"), said_of("Qwen2.5-1.5B", reference=True)
    changes = {"--kl_coef 0": dict(reference=False), "--lora_rank 16": dict(lora_rank=16),
        "--shard true over 8 processes": dict(shards=8, world=8)}
    need = {flags: needed(settings | change, ranks) / GIB for flags, change in changes.items()}

    def at(free):
        monkeypatch.setattr(batch, "free_bytes", lambda _: free * GIB)
        check_memory(settings, ranks, changes)

    at(needed(settings, ranks) / GIB)
    at(MARGIN * needed(settings, ranks) / GIB * 1.001)  # a prediction is no measurement
    with pytest.raises(UserError) as error:
        at(24)
    text = str(error.value)
    assert "needs about 3" in text and "24.0 GiB are free" in text and "\n" not in text
    for flags, fits in {"--kl_coef 0": False, "--lora_rank 16": True, "--shard true": True}.items():
        assert (flags in text) == fits, text
    assert f"--lora_rank 16 needs {need['--lora_rank 16']:.1f} GiB" in text
    with pytest.raises(UserError, match="no flag is enough; the smallest, --lora_rank 16, needs"):
        at(2)


def test_small_runs_are_never_refused(monkeypatch):
    """The settings of `make tiny` and `make smollm2`, with half of what the smallest machines have free."""
    for module in (batch, grpo):
        monkeypatch.setattr(module, "free_bytes", lambda _: GIB)
        monkeypatch.setattr(module, "gather", lambda ranks, value: [value])
    for name in ("tiny", "tiny_gqa", "tiny_dense"):
        cfg, shape = grpo.Config(**grpo.RECIPES[name]), ModelConfig(**PRESETS[name])
        assert not grpo.must_recompute(cfg, shape, torch.float32, 64, Ranks(0, 2, "cpu"))
        cfg = sft.Config(**sft.RECIPES[name])
        sft.check_fit(cfg, shape, torch.float32, shipped(), training_rows(cfg.task, 0), Ranks(0, 2, "cpu"))
    for module in (batch, grpo):
        monkeypatch.setattr(module, "free_bytes", lambda _: 4 * GIB)
    cfg, shape = grpo.Config(**grpo.RECIPES["smollm2"]), ModelConfig(**bench.SMOLLM2)
    assert not grpo.must_recompute(cfg, shape, torch.float32, 56, Ranks(0, 1, "cpu"))


def test_recomputation_starts_where_memory_ends(monkeypatch):
    cfg, shape = grpo.Config(**grpo.RECIPES["smollm2"]), ModelConfig(**bench.SMOLLM2)
    for free, recompute in ((3.5, False), (2.95, True)):
        for module in (batch, grpo):
            monkeypatch.setattr(module, "free_bytes", lambda _, free=free: free * GIB)
        assert grpo.must_recompute(cfg, shape, torch.float32, 56, Ranks(0, 1, "cpu")) == recompute
    for module in (batch, grpo):
        monkeypatch.setattr(module, "free_bytes", lambda _: GIB)
    with pytest.raises(UserError, match="this run needs about"):
        grpo.must_recompute(cfg, shape, torch.float32, 56, Ranks(0, 1, "cpu"))


def test_free_memory_is_known_and_shared_by_the_processes():
    alone, two = (free_bytes(Ranks(0, world, "cpu")) for world in (1, 2))
    assert alone > 1e6 and (sys.platform != "linux" or two == pytest.approx(alone / 2, rel=0.2))
