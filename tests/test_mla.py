"""The paper's attention, its absorbed, fast and cached forms give the same numbers."""

import pytest
import torch

from config import ModelConfig
from mla import MLA, Cohort, LatentCache, SharedPrompts, rope_frequencies

YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.8)


def attention(**overrides):
    torch.manual_seed(0)
    cfg = ModelConfig(hidden_size=24, num_attention_heads=3, kv_lora_rank=10, qk_nope_head_dim=6,
        qk_rope_head_dim=4, v_head_dim=8, **overrides)
    layer = MLA(cfg)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return cfg, layer


SHAPES = [{}, {"q_lora_rank": 7}, {"rope_scaling": YARN}, {"attention_bias": True}]


def equal_with_gradients(fast, plain, layer):
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad((out * upstream).sum(), list(layer.parameters()))
            for out in (fast, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("overrides", SHAPES)
def test_fast_and_absorbed_mla_match_naive(overrides):
    cfg, layer = attention(**overrides)
    x, freqs = torch.randn(2, 9, 24), rope_frequencies(cfg, 9)
    naive = layer.attend_naive(x, freqs)
    torch.testing.assert_close(layer.attend_absorbed(x, freqs), naive, rtol=1e-4, atol=1e-5)
    equal_with_gradients(layer(x, freqs)[0], naive, layer)


def test_naive_mla_is_causal_and_skips_masked_tokens():
    cfg, layer = attention()
    x, freqs = torch.randn(2, 6, 24), rope_frequencies(cfg, 6)
    whole = layer.attend_naive(x, freqs)
    torch.testing.assert_close(layer.attend_naive(x[:, :4], freqs[:4]), whole[:, :4])
    masked = torch.tensor([[False, False, True, False, False, False]]).expand(2, 6)
    kept = [0, 1, 3, 4, 5]
    without = layer.attend_naive(x[:, kept], freqs[kept])
    torch.testing.assert_close(layer.attend_naive(x, freqs, masked)[:, kept], without)


@pytest.mark.parametrize("T", [0, 5])
def test_shared_prompts_match_naive_rows(T):
    """Two prompts of lengths 3 and 2, two completions and one."""
    cfg, layer = attention()
    shared = SharedPrompts(torch.tensor([3, 2]), torch.tensor([0, 0, 1]), 3, T)
    x, freqs = torch.randn(2 * 3 + 3 * T, 24), rope_frequencies(cfg, 16)[shared.positions()]
    plain = shared.attend_plain(layer, x, freqs)
    equal_with_gradients(layer(x, freqs, shared)[0], plain, layer)
    whole = torch.cat([x[3:5], x[6 + 2 * T :]])[None]  # the last row without its prompt's padding
    want = layer.attend_naive(whole, rope_frequencies(cfg, 2 + T))[0, 2:]
    torch.testing.assert_close(plain[6 + 2 * T :], want)


def test_cache_holds_only_the_latent_and_the_rotary_key():
    cfg, layer = attention()
    latent = layer(torch.randn(3, 5, 24), rope_frequencies(cfg, 5))[1]
    cache = LatentCache(latent, rows=6)
    assert cache.prefix.shape == (3, 5, cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    assert cache.suffix.shape[0] == 6 and cache.suffix.shape[2] == cfg.kv_lora_rank + cfg.qk_rope_head_dim
    assert {k for k, v in vars(cache).items() if torch.is_tensor(v)} == {"prefix", "suffix"}


@pytest.mark.parametrize("leaving", [[], [0, 4], [3, 4, 5], [1, 2, 6, 7]])
@pytest.mark.parametrize("block_bytes", [1 << 20, 300])
def test_decoding_with_a_shared_prefix_matches_naive_after_rows_left(leaving, block_bytes, monkeypatch):
    """Three prompts of lengths 2, 4, 3 with three samples each; some rows leave after the second token. The
    smaller blocks cut the rows into several."""
    monkeypatch.setattr("mla.BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("mla.FEWEST_ROWS", 2)
    cfg, layer = attention()
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
