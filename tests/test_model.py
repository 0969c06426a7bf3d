"""Model and checkpoints against transformers, in both directions."""

import pytest
import torch

from checkpoint import load_model, save_model

transformers = pytest.importorskip("transformers",
    reason="the oracle for logits: pip install -r requirements-dev.txt")

BASE = dict(vocab_size=97, hidden_size=48, intermediate_size=80, moe_intermediate_size=24,
    num_hidden_layers=3, num_attention_heads=3, n_routed_experts=8, num_experts_per_tok=3, kv_lora_rank=20,
    qk_nope_head_dim=10, qk_rope_head_dim=8, v_head_dim=12, max_position_embeddings=64,
    first_k_dense_replace=1, n_group=1, topk_group=1, n_shared_experts=1, q_lora_rank=None,
    routed_scaling_factor=1.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=32, beta_slow=1,
    mscale=1.0, mscale_all_dim=1.0, rope_theta=10000.0)
V3 = {"plain": {}, "q_lora": dict(q_lora_rank=14), "groups": dict(n_group=4, topk_group=2),
    "groups_q_lora_scaled": dict(n_group=2, topk_group=1, q_lora_rank=9, routed_scaling_factor=2.5),
    "yarn": dict(rope_parameters=YARN), "yarn_mscale": dict(rope_parameters=YARN
    | dict(mscale=0.707, mscale_all_dim=1.3, factor=10.0), q_lora_rank=12),
    "yarn_without_mscale": dict(rope_parameters={k: v for k, v in YARN.items() if "mscale" not in k}),
    "yarn_attention_factor": dict(rope_parameters=YARN | dict(attention_factor=1.2, truncate=False)),
    "no_shared_expert": dict(n_shared_experts=0), "two_shared_experts": dict(n_shared_experts=2),
    "dense_only": dict(first_k_dense_replace=3), "moe_only": dict(first_k_dense_replace=0),
    "tied": dict(tie_word_embeddings=True), "no_norm_topk": dict(norm_topk_prob=False,
    routed_scaling_factor=1.7), "bias": dict(attention_bias=True, q_lora_rank=16),
    "wide_values": dict(v_head_dim=32, rope_parameters=dict(rope_type="default", rope_theta=500.0))}
V2 = {"greedy": dict(topk_method="greedy", n_group=1),
    "group_limited": dict(topk_method="group_limited_greedy", n_group=4, topk_group=2,
    routed_scaling_factor=16.0), "lite": dict(topk_method="greedy", n_group=1, n_shared_experts=2,
    rope_parameters=YARN | dict(mscale=0.707)), "q_lora": dict(topk_method="group_limited_greedy", n_group=2,
    topk_group=1, q_lora_rank=12)}


def reference(family: str, **overrides):
    """A transformers model with every parameter random, biases and norms too."""
    torch.manual_seed(hash(str(sorted(overrides))) % 1000)
    config_class = getattr(transformers, f"Deepseek{family}Config")
    kwargs = BASE | overrides
    if family == "V2":
        kwargs |= dict(norm_topk_prob=False, hidden_size=48)
    model = getattr(transformers, f"Deepseek{family}ForCausalLM")(config_class(**kwargs)).eval().float()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" not in name:
                p.copy_(torch.randn_like(p) * 0.15 + (1.0 if "norm" in name else 0.0))
    return model


CASES = [("V3", k, v) for k, v in V3.items()] + [("V2", k, v) for k, v in V2.items()]


@pytest.mark.parametrize("family,name,overrides", CASES, ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_logits_equal_transformers_in_both_directions(family, name, overrides, tmp_path):
    theirs = reference(family, **overrides)
    shard = {"max_shard_size": "60KB"} if name in ("q_lora", "groups") else {}
    theirs.save_pretrained(tmp_path / "theirs", **shard)
    assert bool(shard) == (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    tokens = torch.randint(97, (3, 40))
    with torch.no_grad():
        want = theirs(tokens).logits
        ours = load_model(tmp_path / "theirs")
        assert (ours(tokens) - want).abs().max() <= 1e-4
        save_model(ours, tmp_path / "ours")
        back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
        empty = {n for n, p in back.state_dict().items() if p.numel() == 0}
        assert (set(info["missing_keys"]) <= empty and not info["unexpected_keys"]
            and not info["mismatched_keys"])
        assert (back.eval().float()(tokens).logits - want).abs().max() <= 1e-5
        again = load_model(tmp_path / "ours")
        assert torch.equal(again(tokens), ours(tokens))
