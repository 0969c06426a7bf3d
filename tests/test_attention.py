"""Both kinds of attention: the paper's form, the fast and the cached ones give the same numbers."""

import math

import pytest
import torch

from attention import Cache, Cohort, SharedPrompts, rope_frequencies
from config import ModelConfig
from model import ATTENTIONS

YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.8)
GQA = dict(model_type="llama", head_dim=8)
SHAPES = {"mla": {}, "mla_q_lora": {"q_lora_rank": 7}, "mla_yarn": {"rope_scaling": YARN},
    "mla_bias": {"attention_bias": True}, "mha": GQA, "gqa": GQA | dict(num_key_value_heads=2),
    "mqa": GQA | dict(num_key_value_heads=1), "qwen2": GQA | dict(model_type="qwen2"),
    "qk_norm": GQA | dict(model_type="qwen3", num_key_value_heads=2),
    "half_turned": GQA | dict(num_key_value_heads=2, partial_rotary_factor=0.5)}


def attention(overrides):
    torch.manual_seed(0)
    cfg = ModelConfig(**dict(hidden_size=24, num_attention_heads=4, kv_lora_rank=10, qk_nope_head_dim=6,
        qk_rope_head_dim=4, v_head_dim=8) | overrides)
    layer = ATTENTIONS[cfg.family.attention](cfg)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return cfg, layer


def equal_with_gradients(fast, plain, layer, x):
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad((out * upstream).sum(), [x, *layer.parameters()])
            for out in (fast, plain)), strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, float(b.abs().max()))  # sums over T tokens, in float32


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("T", [9, 100])  # one block of queries, three
def test_the_fast_form_matches_the_plain_one(name, T):
    cfg, layer = attention(SHAPES[name])
    x, freqs = torch.randn(2, T, 24, requires_grad=True), rope_frequencies(cfg, T)
    equal_with_gradients(layer(x, freqs)[0], layer.attend_naive(x, freqs), layer, x)


@pytest.mark.parametrize("name", SHAPES)
def test_the_fused_kernel_matches_the_plain_form(name, monkeypatch):
    monkeypatch.setattr("attention.LONGEST_BLOCKED", 0)
    cfg, layer = attention(SHAPES[name])
    shared = SharedPrompts(torch.tensor([3, 2]), torch.tensor([0, 0, 1]), 3, 5)
    x, freqs = torch.randn(2 * 3 + 3 * 5, 24, requires_grad=True), rope_frequencies(cfg, 16)
    freqs = freqs[shared.positions()]
    equal_with_gradients(layer(x, freqs, shared)[0], shared.attend_plain(layer, x, freqs), layer, x)


@pytest.mark.parametrize("name", SHAPES)
def test_the_plain_form_is_causal_and_skips_masked_tokens(name):
    cfg, layer = attention(SHAPES[name])
    x, freqs = torch.randn(2, 6, 24), rope_frequencies(cfg, 6)
    whole = layer.attend_naive(x, freqs)
    torch.testing.assert_close(layer.attend_naive(x[:, :4], freqs[:4]), whole[:, :4])
    masked = torch.tensor([[False, False, True, False, False, False]]).expand(2, 6)
    kept = [0, 1, 3, 4, 5]
    without = layer.attend_naive(x[:, kept], freqs[kept])
    torch.testing.assert_close(layer.attend_naive(x, freqs, masked)[:, kept], without)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("T", [0, 5])
def test_shared_prompts_match_plain_rows(name, T):
    """Two prompts of lengths 3 and 2, two completions and one."""
    cfg, layer = attention(SHAPES[name])
    shared = SharedPrompts(torch.tensor([3, 2]), torch.tensor([0, 0, 1]), 3, T)
    x = torch.randn(2 * 3 + 3 * T, 24, requires_grad=True)
    freqs = rope_frequencies(cfg, 16)[shared.positions()]
    plain = shared.attend_plain(layer, x, freqs)
    equal_with_gradients(layer(x, freqs, shared)[0], plain, layer, x)
    whole = torch.cat([x[3:5], x[6 + 2 * T :]])[None]  # the last row without its prompt's padding
    want = layer.attend_naive(whole, rope_frequencies(cfg, 2 + T))[0, 2:]
    torch.testing.assert_close(plain[6 + 2 * T :], want)


@pytest.mark.parametrize("name", SHAPES)
def test_a_cache_holds_what_the_config_says(name):
    cfg, layer = attention(SHAPES[name])
    remembered = layer(torch.randn(3, 5, 24), rope_frequencies(cfg, 5))[1]
    cache = Cohort([remembered], torch.tensor([5, 5, 4]), samples=2).caches[0]
    assert {k for k, v in vars(cache).items() if torch.is_tensor(v)} == {"prefix", "suffix"}
    (P, h, S, width), (N, *_) = cache.prefix.shape, cache.suffix.shape
    assert (P, S, N) == (3, 5, 6) and h * width == cfg.cached_per_token
    assert isinstance(cache, Cache) and cache.suffix.shape[1::2] == (h, width)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("leaving", [[], [0, 4], [3, 4, 5], [1, 2, 6, 7]])
@pytest.mark.parametrize("block_bytes", [1 << 20, 300])
def test_decoding_with_a_shared_prefix_matches_the_plain_form_after_rows_left(name, leaving, block_bytes,
        monkeypatch):
    """Three prompts of lengths 2, 4, 3 with three samples each; some rows leave after the second token. The
    smaller blocks cut the rows into several."""
    monkeypatch.setattr("attention.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("attention.FEWEST_ROWS", 2)
    cfg, layer = attention(SHAPES[name])
    lengths, G, steps = torch.tensor([2, 4, 3]), 3, 4
    freqs = rope_frequencies(cfg, 16)
    prompts, continued = torch.randn(3, 4, 24), torch.randn(9, steps, 24)
    owner, alive = torch.arange(3).repeat_interleave(G), torch.arange(9)
    cohort = Cohort([layer(prompts, freqs[:4])[1]], lengths, G)
    for t in range(steps):
        if t == 2:
            alive = torch.tensor([r for r in range(9) if r not in leaving])
            cohort.keep(alive)
        got = layer.decode(continued[alive, t], freqs[cohort.positions()], [cohort], 0)
        cohort.t += 1
        for row, out in zip(alive.tolist(), got, strict=True):
            p = owner[row]
            whole = torch.cat([prompts[p, : lengths[p]], continued[row, : t + 1]])[None]
            want = layer.attend_naive(whole, freqs[: whole.shape[1]])[0, -1]
            torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-5)


def test_llama3_scaling_keeps_fast_pairs_and_slows_slow_ones():
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)
    configs = (ModelConfig(model_type="llama", head_dim=32, rope_scaling=s) for s in (None, scaling))
    plain, scaled = (rope_frequencies(cfg, 2)[1].angle() for cfg in configs)
    turns = 64 * plain / (2 * math.pi)  # over the original context
    ratio = plain / scaled
    torch.testing.assert_close(ratio[turns > 4], torch.ones_like(ratio[turns > 4]))
    torch.testing.assert_close(ratio[turns < 1], torch.full_like(ratio[turns < 1], 8.0), rtol=1e-4, atol=0)
    between = ratio[(turns >= 1) & (turns <= 4)]
    assert len(between) and ((between >= 1) & (between <= 8)).all()
