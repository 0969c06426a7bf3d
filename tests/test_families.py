"""Llama, Qwen and GLM checkpoints against transformers, in both directions; a made-up family; FP8."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

import config
from attention import rope_frequencies
from batch import Sample, collate, completion_logprobs
from checkpoint import load_model, save_model
from config import Family, ModelConfig, UserError
from model import Transformer
from moe import Routing
from optim import is_router
from sample import generate

transformers = pytest.importorskip("transformers",
    reason="the oracle for logits: pip install -r requirements-dev.txt")

BASE = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16, rope_theta=500.0)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=1000.0)
MOE = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24)
GLM = dict(n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, n_shared_experts=1,
    first_k_dense_replace=1, n_group=2, topk_group=1, head_dim=16, num_local_experts=8)
CASES = {
    "llama": {}, "llama-tied": dict(tie_word_embeddings=True), "llama-mha": dict(num_key_value_heads=6),
    "llama-mqa": dict(num_key_value_heads=1), "llama-head_dim": dict(head_dim=20),
    "llama-llama3": dict(rope_parameters=LLAMA3),
    "llama-linear": dict(rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=10000.0)),
    "llama-bias": dict(attention_bias=True), "llama-eps": dict(rms_norm_eps=1e-3),
    "llama-theta": dict(rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "qwen2": {}, "qwen2-tied": dict(tie_word_embeddings=True), "qwen2-yarn": dict(rope_parameters=YARN),
    "qwen3": dict(head_dim=24), "qwen3-tied_yarn": dict(head_dim=8, tie_word_embeddings=True,
        rope_parameters=YARN), "qwen3-bias": dict(head_dim=8, attention_bias=True),
    "qwen3_moe": MOE | dict(head_dim=16), "qwen3_moe-norm": MOE | dict(head_dim=8, norm_topk_prob=True),
    "qwen3_moe-bias_tied": MOE | dict(head_dim=8, attention_bias=True, tie_word_embeddings=True),
    "glm4_moe": GLM, "glm4_moe-qk_norm": GLM | dict(use_qk_norm=True, attention_bias=True),
    "glm4_moe-whole_rotation": GLM | dict(rope_parameters=dict(rope_type="default", rope_theta=1e4,
        partial_rotary_factor=1.0), routed_scaling_factor=2.5)}
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe",
    "glm4_moe": "Glm4Moe"}


def reference(name):
    """A transformers model with every parameter random, biases and norms too."""
    torch.manual_seed(len(name))
    kind = CLASSES[name.partition("-")[0]]
    made = getattr(transformers, f"{kind}Config")(**BASE | CASES[name])
    model = getattr(transformers, f"{kind}ForCausalLM")(made).eval().float()
    with torch.no_grad():
        for key, p in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" not in key:
                p.copy_(torch.randn_like(p) * 0.15 + (1.0 if "norm" in key else 0.0))
    return model


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_equal_transformers_in_both_directions(name, tmp_path):
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB" if len(name) % 2 else "1GB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == bool(len(name) % 2)
    tokens = torch.randint(97, (3, 40))
    want = theirs(tokens).logits
    ours = load_model(tmp_path / "theirs")
    assert (ours(tokens) - want).abs().max() <= 1e-4
    save_model(ours, tmp_path / "ours")
    back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    assert (back.eval().float()(tokens).logits - want).abs().max() <= 1e-5
    assert torch.equal(load_model(tmp_path / "ours")(tokens), ours(tokens))
    greedy = generate(ours, tokens[:, :5].tolist(), max_new_tokens=30, temperature=0, eos_id=None)
    continued = theirs.generate(tokens[:, :5], max_new_tokens=30, do_sample=False, eos_token_id=None,
        attention_mask=torch.ones(3, 5))
    assert greedy.completions == continued[:, 5:].tolist()


@pytest.mark.parametrize("name", CASES)
def test_the_sampler_and_the_trainer_agree(name, tmp_path):
    reference(name).save_pretrained(tmp_path)
    model, prompts, G = load_model(tmp_path), [[5, 9, 2, 44], [7, 1]], 3
    out = generate(model, prompts, group_size=G, max_new_tokens=20, eos_id=[3, 8, 11], seed=1,
        record_routing=True)
    samples = [Sample(prompts[i // G] + out.completions[i], len(prompts[i // G]), out.logprobs[i],
        out.finished[i], out.routing[i], {}, 0) for i in range(2 * G)]
    batch = collate(samples, 0, "cpu")
    logprobs, _ = completion_logprobs(model, batch, 1.0, Routing())
    assert ((logprobs - batch.old_logprobs) * batch.mask).abs().max() <= 1e-4
    whole = torch.tensor([samples[0].tokens])
    full = model(whole).log_softmax(-1)[0, 3:-1].gather(1, whole[0, 4:, None]).squeeze(1)
    assert (full - torch.tensor(out.logprobs[0])).abs().max() <= 1e-4


def test_the_older_dialect_of_a_llama_config_is_read():
    old = dict(model_type="llama", vocab_size=9, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=8, rope_theta=500000.0, pretraining_tp=1, rope_scaling=dict(factor=32.0,
        high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192, rope_type="llama3"))
    cfg = ModelConfig.from_hf(old)
    assert (cfg.rope_theta, cfg.num_key_value_heads, cfg.head_dim, cfg.is_dense) == (500000.0, 3, 8, True)
    assert cfg.rope_scaling["rope_type"] == "llama3"
    written = cfg.to_hf()
    assert not {"kv_lora_rank", "n_routed_experts", "topk_method"} & set(written)  # readers look at these
    assert ModelConfig.from_hf(written) == cfg


def test_the_temperature_of_r1_0528_qwen3_8b_is_the_one_that_it_was_trained_with(tmp_path):
    """Its config.json: attn_factor = 1 / (0.1 ln 4 + 1), a factor on YaRN's temperature, so that there is
    none. transformers reads the saved model as we do."""
    raw = dict(model_type="qwen3", vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, intermediate_size=80, rope_theta=1000000, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attn_factor=0.8782488562869419))
    cfg = ModelConfig.from_hf(raw)
    assert rope_frequencies(cfg, 40).abs() == pytest.approx(1.0, abs=1e-6)
    assert ModelConfig.from_hf(cfg.to_hf()) == cfg
    model = Transformer(cfg).init_weights(0)
    save_model(model, tmp_path)
    tokens = torch.randint(97, (2, 40))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (theirs(tokens).logits - model(tokens)).abs().max() <= 1e-5
    explicit = ModelConfig.from_hf(raw | {"rope_scaling": raw["rope_scaling"] | {"attention_factor": 1.25}})
    assert rope_frequencies(explicit, 40).abs() == pytest.approx(1.25, abs=1e-6)


def test_a_made_up_family_is_one_row(monkeypatch, tmp_path):
    """Attention of Qwen3 with biases everywhere but behind it, experts of DeepSeek-V3 under other names."""
    row = Family("SomeForCausalLM", "gqa", (("sigmoid", "noaux_tc"),), dict(use_qk_norm=True, head_dim=12),
        {"n_routed_experts": ["experts_in_all"], "hidden_size": ["width", "size"]},
        {"parallel": False}, qkv_bias=True, o_bias=False)
    monkeypatch.setitem(config.FAMILIES, "some", row)
    raw = dict(model_type="some", vocab_size=50, width=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, experts_in_all=6, num_experts_per_tok=2, intermediate_size=32,
        moe_intermediate_size=8, first_k_dense_replace=1)
    model = Transformer(ModelConfig.from_hf(raw)).init_weights(0)
    assert model.layers[0].self_attn.q_norm.weight.shape == (12,)
    assert model.layers[0].self_attn.q_proj.bias is not None and model.layers[0].self_attn.o_proj.bias is None
    save_model(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["experts_in_all"] == 6 and written["architectures"] == ["SomeForCausalLM"]
    tokens = torch.randint(50, (2, 7))
    assert torch.equal(load_model(tmp_path)(tokens), model(tokens))
    with pytest.raises(UserError, match="parallel=True is not supported"):
        ModelConfig.from_hf(raw | {"parallel": True})


YARN_OF_LLAMA = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)


@pytest.mark.parametrize("change,says", [(dict(model_type="qwen2_vl"), "'qwen2_vl'.*did you mean qwen2"),
    (dict(model_type="xyz"), "choose from deepseek_v3.*llama"), (dict(hidden_act="gelu"), "hidden_act"),
    (dict(num_key_value_heads=4), "num_key_value_heads"), (dict(mlp_bias=True), "mlp_bias"),
    (dict(rope_scaling=dict(type="dynamic", factor=2.0)), "'dynamic' is not supported; use null, yarn"),
    (dict(rope_scaling=dict(rope_type="yarn", factor=2.0)), "yarn lacks original_max_position_embeddings"),
    (dict(rope_scaling=dict(rope_type="llama3", factor=2.0)), "llama3 lacks low_freq_factor"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "sliding_attention"),
    (dict(quantization_config=dict(quant_method="awq")), "awq"), (dict(vocab_size=None), "lacks vocab_size"),
    (dict(model_type="gemma3", hidden_size=None), "gemma3"), (dict(model_type=["a"]), "model_type"),
    (dict(hidden_size="24"), "hidden_size='24' is no int"), (dict(vocab_size=0), "vocab_size=0 must be"),
    (dict(eos_token_id="</s>"), "eos_token_id='</s>' is no int"),
    (dict(num_attention_heads=0), "from 1 to 4096"),
    (dict(rope_scaling="yarn"), "rope_scaling='yarn' is no dict"), (dict(layer_types=3), "is no list"),
    (dict(rope_parameters=dict(full_attention=dict(rope_type="default"))), "each kind of layer"),
    (dict(rope_scaling=dict(rope_type="linear", factor="x")), "linear lacks factor"),
    *((dict(rope_scaling=YARN_OF_LLAMA | {key: value}), f"yarn: {key}={value!r} is no number above 0")
      for key, value in [("factor", "4"), ("factor", 0), ("factor", math.nan), ("beta_fast", -1),
      ("beta_slow", "x"), ("attention_factor", 0), ("mscale", "x"),
      ("original_max_position_embeddings", -5)]),
    (dict(rope_scaling=dict(rope_type="llama3", factor=2.0, low_freq_factor=4, high_freq_factor=4,
        original_max_position_embeddings=64)), "low_freq_factor must be below"),
    (dict(rope_theta=0), "rope_theta=0 must be above 1"), (dict(rms_norm_eps=-1.0), "a number from 0 to"),
    (dict(quantization_config=dict(quant_method="fp8", weight_block_size=128)), "weight_block_size=128"),
    # a model of these would be built for hours, or be too large for the numbers that count its bytes
    (dict(num_hidden_layers=10**9), "num_hidden_layers=1000000000 must be a number from 1 to 1000"),
    (dict(hidden_size=6 * 10**12), "hidden_size"), (dict(n_routed_experts=2**40), "n_routed_experts"),
    (dict(qk_nope_head_dim=-1), "qk_nope_head_dim=-1 must be a number from 0"),
    (dict(partial_rotary_factor=1e308), "partial_rotary_factor"), (dict(rope_theta=10**30), "rope_theta")])
def test_what_a_config_cannot_mean_is_named(change, says):
    raw = dict(model_type="llama", vocab_size=9, hidden_size=24, num_hidden_layers=1, num_attention_heads=6)
    ModelConfig.from_hf(raw)
    with pytest.raises(UserError, match=says):
        ModelConfig.from_hf(raw | change)


QWEN = dict(vocab_size=151_936, rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=32_768,
    max_window_layers=21, rope_scaling=None, hidden_act="silu", tie_word_embeddings=True)
KIMI = dict(first_k_dense_replace=1, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, n_group=1,
    qk_rope_head_dim=64, v_head_dim=128, n_shared_experts=1, n_routed_experts=384, num_experts_per_tok=8,
    moe_intermediate_size=2048, topk_group=1, scoring_func="sigmoid", topk_method="noaux_tc",
    norm_topk_prob=True, num_key_value_heads=64, pretraining_tp=1, seq_aux=True, tie_word_embeddings=False)


@pytest.mark.parametrize("name,model_type,sizes,raw,millions", [  # D, dense width, layers, H; as released
    ("Qwen2.5-0.5B", "qwen2", (896, 4864, 24, 14), QWEN | dict(num_key_value_heads=2), 494.0),
    ("R1-Distill-Qwen-1.5B", "qwen2", (1536, 8960, 28, 12),
        QWEN | dict(num_key_value_heads=2, tie_word_embeddings=False), 1_777.1),
    ("Llama-3.2-1B", "llama", (2048, 8192, 16, 32), dict(vocab_size=128_256, num_key_value_heads=8,
        head_dim=64, tie_word_embeddings=True, mlp_bias=False, attention_bias=False), 1_235.8),
    ("Qwen3-30B-A3B", "qwen3_moe", (2048, 6144, 48, 32), QWEN | MOE | dict(num_experts=128, head_dim=128,
        moe_intermediate_size=768, num_key_value_heads=4, mlp_only_layers=[], decoder_sparse_step=1,
        tie_word_embeddings=False), 30_532.1),
    ("Kimi-K2", "kimi_k2", (7168, 18_432, 61, 64), KIMI | dict(vocab_size=163_840), 1_026_408.2)])
def test_released_shapes_have_as_many_parameters_as_published(name, model_type, sizes, raw, millions):
    keys = "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    cfg = ModelConfig.from_hf(dict(zip(keys, sizes, strict=True)) | raw | {"model_type": model_type})
    with torch.device("meta"):
        assert Transformer(cfg).num_parameters()[0] / 1e6 == pytest.approx(millions, abs=0.06)


def test_caches_are_as_large_as_published():
    """Bytes per token in bfloat16, of "Insights into DeepSeek-V3" (arXiv 2505.09343, table 1)."""
    gqa = dict(model_type="qwen2", head_dim=128, num_key_value_heads=8)
    for shape, published in [(dict(kv_lora_rank=512, qk_rope_head_dim=64, num_hidden_layers=61), 70_272),
            (gqa | dict(num_attention_heads=64, num_hidden_layers=80), 327_680),  # Qwen2.5-72B
            (gqa | dict(model_type="llama", num_attention_heads=128, num_hidden_layers=126), 516_096)]:
        cfg = ModelConfig(**shape)
        assert 2 * cfg.num_hidden_layers * cfg.cached_per_token == published


# ------------------------------------------------------------------------------------------------------- FP8


def quantise(tensors: dict, high=128, wide=128) -> dict:
    """Each matrix of a layer as FP8 numbers and the scale of each block, as DeepSeek releases them."""
    out = {}
    for name, x in tensors.items():
        if not (".layers." in name and name.endswith("proj.weight")):
            out[name] = x.to(torch.bfloat16)
            continue
        scale = torch.zeros(-(-x.shape[0] // high), -(-x.shape[1] // wide))
        q = torch.empty_like(x, dtype=torch.float8_e4m3fn)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                at = slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide)
                scale[i, j] = x[at].abs().max() / 448
                q[at] = (x[at] / scale[i, j]).to(torch.float8_e4m3fn)
        out |= {name: q, name + "_scale_inv": scale}
    return out


def by_hand(tensors: dict, high=128, wide=128) -> dict:
    """What the FP8 numbers mean, element by element of the scale."""
    out = {}
    for name, x in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        if (scale := tensors.get(name + "_scale_inv")) is not None:
            grid = torch.kron(scale, torch.ones(high, wide))[: x.shape[0], : x.shape[1]]
            x = (x.float() * grid).to(torch.bfloat16)
        out[name] = x
    return out


FP8 = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128])


def fp8_checkpoint(folder, kind, shards, block=(128, 128)):
    """A random checkpoint of a family, in FP8; its sizes are no multiples of 128. Returns its tensors."""
    shapes = {"deepseek_v3": dict(hidden_size=144, num_attention_heads=3, q_lora_rank=40, kv_lora_rank=130,
        intermediate_size=300, moe_intermediate_size=140, n_routed_experts=4, num_hidden_layers=2),
        "qwen3": dict(hidden_size=160, intermediate_size=200, head_dim=40, num_key_value_heads=2)}
    cfg = ModelConfig(model_type=kind, initializer_range=0.2, **shapes[kind])
    save_model(Transformer(cfg).init_weights(0), folder)
    tensors = quantise(load_file(folder / "model.safetensors"), *block)
    raw = json.loads((folder / "config.json").read_text())
    if kind == "deepseek_v3":  # a multi-token-prediction layer behind the last one
        tensors |= {"model.layers.2.eh_proj.weight": torch.zeros(4, 8),
            "model.layers.2.mlp.experts.0.up_proj.weight": torch.zeros(4, 4)}
        raw["num_nextn_predict_layers"] = 1
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": FP8
        | {"weight_block_size": list(block)}}))
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return tensors
    (folder / "model.safetensors").unlink()
    names, where = sorted(tensors, key=lambda n: hash(n) % 3), {}  # scales and weights in different shards
    for i in range(3):
        part = {n: tensors[n].contiguous() for n in names[i::3]}
        save_file(part, folder / f"model-{i}.safetensors")
        where |= dict.fromkeys(part, f"model-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tensors


@pytest.mark.parametrize("kind", ["deepseek_v3", "qwen3"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("block", [(128, 128), (64, 32)])
def test_fp8_checkpoints_are_dequantised_while_loading(kind, shards, block, tmp_path, capsys):
    tensors = fp8_checkpoint(tmp_path / "fp8", kind, shards, block)
    assert sum(t.dtype == torch.float8_e4m3fn for t in tensors.values()) >= 10
    model = load_model(tmp_path / "fp8")
    said = capsys.readouterr().out
    assert ("left out layers.2: multi-token prediction" in said) == (kind == "deepseek_v3")
    save_model(model, tmp_path / "saved")
    saved, want = load_file(tmp_path / "saved" / "model.safetensors"), by_hand(tensors, *block)
    want = {n: x for n, x in want.items() if "layers.2." not in n or kind == "qwen3"}
    assert set(saved) == set(want) and all(torch.equal(saved[n].float(), x.float()) for n, x in want.items())
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    assert load_model(tmp_path / "fp8", dtype="float32").lm_head.weight.dtype == torch.float32


def test_a_damaged_fp8_checkpoint_is_one_line(tmp_path):
    tensors = fp8_checkpoint(tmp_path, "qwen3", shards=False)
    name = next(n for n in tensors if n.endswith("_scale_inv"))
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_model(tmp_path)
    save_file(tensors | {name: tensors[name][:, :1].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"{name} has shape"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{}", '{"weight_map": ["x"]}'])
def test_a_file_that_is_json_but_not_what_it_should_be_is_one_line(text, tmp_path):
    fp8_checkpoint(tmp_path, "qwen3", shards=True)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="index.json (has no weight_map|holds no JSON object)"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json (holds no JSON object|lacks)"):
        load_model(tmp_path)


def saved(folder, change):
    """A random bfloat16 checkpoint whose tensors `change` has changed."""
    cfg = ModelConfig(model_type="qwen2", hidden_size=16, num_hidden_layers=1, vocab_size=33)
    save_model(Transformer(cfg).init_weights(0).to(torch.bfloat16), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: change(name, x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float8_e5m2])
def test_numbers_that_need_a_scale_which_we_do_not_know_are_refused(dtype, tmp_path):
    saved(tmp_path, lambda name, x: x.to(dtype) if "q_proj.weight" in name else x)
    for wanted in ("", "float32"):
        with pytest.raises(UserError, match=f"q_proj.weight holds {dtype} numbers"):
            load_model(tmp_path, dtype=wanted)


@pytest.mark.parametrize("other", ["lm_head", "norm", "bias", "down_proj", "embed_tokens"])
def test_a_checkpoint_of_two_dtypes_is_one_model(other, tmp_path):
    model = load_model(saved(tmp_path, lambda name, x: x.float() if other in name else x))
    kind = torch.float32 if other == "embed_tokens" else torch.bfloat16
    assert all(t.dtype == (torch.float32 if is_router(name) else kind)
        for name, t in model.state_dict().items())
    assert model(torch.randint(33, (1, 5))).isfinite().all()


def test_the_weights_shapes_are_looked_at_before_there_is_memory_for_the_configs(tmp_path):
    """A config.json of 2**20 ids and dimensions, beside a small file: 4 TiB are not asked for."""
    cfg = ModelConfig(model_type="llama", vocab_size=8, hidden_size=8, num_hidden_layers=1, head_dim=4,
        num_attention_heads=2, intermediate_size=8)
    save_model(Transformer(cfg).init_weights(), tmp_path)
    raw = cfg.to_hf() | {"vocab_size": 2**20, "hidden_size": 2**20}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=f"{tmp_path}.*has shape .*, the config wants"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_or_a_device_in_a_files_place_is_no_file(tmp_path, name):
    cfg = ModelConfig(vocab_size=8, num_hidden_layers=1)
    save_model(Transformer(cfg).init_weights(), tmp_path)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (tmp_path / name).unlink()
        make(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is no file"):
            load_model(tmp_path)


def test_an_index_names_files_of_its_own_folder_only(tmp_path):
    cfg = ModelConfig(vocab_size=8, num_hidden_layers=1)
    save_model(Transformer(cfg).init_weights(), tmp_path / "a")
    (tmp_path / "a/model.safetensors").rename(tmp_path / "b.safetensors")
    for name in ("../b.safetensors", str(tmp_path / "b.safetensors"), "/dev/zero", ""):
        index = {"weight_map": {"model.norm.weight": name}}
        (tmp_path / "a/model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="model.safetensors.index.json: .* is no name of a file"):
            load_model(tmp_path / "a")


def test_a_truncated_shard_is_one_line(tmp_path):
    fp8_checkpoint(tmp_path, "qwen3", shards=True)
    shard = tmp_path / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="model-1.safetensors is truncated"):
        load_model(tmp_path)
