"""Model configuration, model presets and the `--key value` parser that every script shares.

Field names are those of Hugging Face's `config.json` for deepseek_v3; the table FAMILIES says what other
families call them and where they differ, so a released checkpoint's config is read as it stands and
`ModelConfig.to_hf` writes a file that transformers opens.
"""

import dataclasses
import difflib
import json
import math
import os
import sys
import traceback
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class UserError(Exception):
    """Something the user gave is wrong: scripts print the message on one line and exit with code 2."""


class NotFinite(UserError):
    """A number is NaN or infinite: training leaves out the step that would be made of it, anything else
    ends."""

    why = "reward"  # what it is of: as `optim.TRY` and metrics.jsonl have it


class Diverged(NotFinite):
    """Weights, gradients or logits are no finite numbers any more."""

    why = "logprob"


class Family(NamedTuple):
    """A row of FAMILIES: what one `model_type` of Hugging Face means."""

    architecture: str  # the class that its config.json names
    attention: str  # mla | gqa (model.ATTENTIONS)
    routings: tuple = ()  # pairs (scoring_func, topk_method) that it has; none = all layers are dense
    values: dict = {}  # of a field that its config.json does not say
    names: dict = {}  # of a field in its config.json, where they differ from ours; the first is written
    only: dict = {}  # what else its config.json may say, with the one value that is supported
    qkv_bias: bool | None = None  # None = as attention_bias says
    o_bias: bool | None = None


_DEEPSEEK = {"moe_layer_freq": 1, "rope_interleave": True}
FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family("DeepseekV3ForCausalLM", "mla", (("sigmoid", "noaux_tc"),), only=_DEEPSEEK),
    "kimi_k2": Family("DeepseekV3ForCausalLM", "mla", (("sigmoid", "noaux_tc"),), only=_DEEPSEEK),
    "deepseek_v2": Family("DeepseekV2ForCausalLM", "mla",  # no released checkpoint has norm_topk_prob, and
        (("softmax", "greedy"), ("softmax", "group_limited_greedy")),  # implementations disagree on it
        dict(norm_topk_prob=False), only=_DEEPSEEK | {"norm_topk_prob": False}),
    "llama": Family("LlamaForCausalLM", "gqa"),
    "qwen2": Family("Qwen2ForCausalLM", "gqa", qkv_bias=True, o_bias=False,
        only={"use_sliding_window": False}),
    "qwen3": Family("Qwen3ForCausalLM", "gqa", values=dict(use_qk_norm=True, head_dim=128),
        only={"use_sliding_window": False}),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", "gqa", (("softmax", "greedy"),),
        dict(use_qk_norm=True, norm_topk_prob=False, first_k_dense_replace=0),
        {"n_routed_experts": ("num_experts", "num_local_experts")},
        {"use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    # GLM-4.5; ours, too, for GQA beside DeepSeek's experts
    "glm4_moe": Family("Glm4MoeForCausalLM", "gqa", (("sigmoid", "noaux_tc"),),
        dict(head_dim=128, partial_rotary_factor=0.5), o_bias=False),
}


def family_of(model_type: str) -> Family:
    """A row of FAMILIES. Raises UserError if there is none."""
    if str(model_type) not in FAMILIES:  # str: a config.json can hold anything
        raise UserError(f"model config: model_type {model_type!r} is not supported"
            f"{closest(str(model_type), FAMILIES)}")
    return FAMILIES[model_type]


# The fields that a family's config.json has: these, its attention's, and if it has experts theirs.
_FIELDS = ("model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads attention_bias rope_theta rope_scaling max_position_embeddings rms_norm_eps "
    "tie_word_embeddings initializer_range bos_token_id eos_token_id pad_token_id").split()
_ATTENTION_FIELDS = {
    "mla": "q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim".split(),
    "gqa": "head_dim use_qk_norm partial_rotary_factor".split()}
_EXPERT_FIELDS = ("moe_intermediate_size n_shared_experts n_routed_experts num_experts_per_tok "
    "routed_scaling_factor first_k_dense_replace scoring_func topk_method n_group topk_group "
    "norm_topk_prob").split()
# Of a scaling of RoPE (attention.ROPE_SCALINGS), the fields without which it is not defined.
_ROPE_SCALINGS = {"yarn": ["original_max_position_embeddings"], "linear": ["factor"],
    "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]}
_ROPE_NUMBERS = {"factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"}.union(
    *_ROPE_SCALINGS.values())
# What is at least 1.
_SIZES = ("vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers "
    "num_attention_heads num_key_value_heads head_dim n_routed_experts num_experts_per_tok n_group "
    "topk_group kv_lora_rank qk_rope_head_dim v_head_dim max_position_embeddings").split()
# What a number is at most, an integer 2**20 without a row: a model is built before its weights are looked at.
_MOST = {"num_hidden_layers": 1000, "num_attention_heads": 1 << 12, "num_key_value_heads": 1 << 12,
    "n_routed_experts": 1 << 14, "max_position_embeddings": 1 << 24, "partial_rotary_factor": 1}


@dataclass
class ModelConfig:
    """Shape of a transformer of one of the FAMILIES. Defaults are a small DeepSeek-V3 (arXiv 2412.19437, sec.
    2); None = as the family has it."""

    model_type: str = "deepseek_v3"  # a row of FAMILIES
    vocab_size: int = 512  # V
    hidden_size: int = 128  # D
    intermediate_size: int = 256  # width of the dense layers' SwiGLU
    moe_intermediate_size: int = 64  # F, width of one expert
    num_hidden_layers: int = 4
    num_attention_heads: int = 4  # H
    n_shared_experts: int = 1
    n_routed_experts: int = 8  # E
    num_experts_per_tok: int = 2  # K
    routed_scaling_factor: float = 1.0  # of the routed experts' sum, beside the shared experts
    first_k_dense_replace: int = 1  # the first k layers are dense; num_hidden_layers = a dense model
    scoring_func: str | None = None  # sigmoid (V3) | softmax (V2, Qwen3)
    topk_method: str | None = None  # noaux_tc (V3) | greedy (V2, Qwen3) | group_limited_greedy (V2)
    n_group: int = 1  # groups of experts: those of one machine, in V3's training
    topk_group: int = 1  # groups that a token may use
    norm_topk_prob: bool | None = None  # the K weights sum to 1
    q_lora_rank: int | None = None  # of MLA's queries' latent, which saves activations; None = no latent
    kv_lora_rank: int = 64  # C, the latent that MLA caches
    qk_nope_head_dim: int = 32  # U
    qk_rope_head_dim: int = 16  # R, the decoupled rotary key, cached beside the latent
    v_head_dim: int = 32  # W
    num_key_value_heads: int | None = None  # M, the heads that GQA caches; None = H
    head_dim: int | None = None  # W of GQA's queries, keys and values; None = D / H
    partial_rotary_factor: float | None = None  # the part of it that is rotated
    use_qk_norm: bool | None = None  # GQA: RMSNorm of each head's query and key
    attention_bias: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # {"rope_type": yarn | llama3 | linear, factor, ...}
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    think_tags: str = ""  # the two special tokens around the thinking (ours, not Hugging Face's)

    def __post_init__(self):
        family = family_of(self.model_type)
        self._check_types()
        scoring_func, topk_method = family.routings[0] if family.routings else (None, None)
        defaults = {"scoring_func": scoring_func, "topk_method": topk_method, "norm_topk_prob": True,
            "num_key_value_heads": self.num_attention_heads, "use_qk_norm": False,
            "partial_rotary_factor": 1.0, "head_dim": self.hidden_size // self.num_attention_heads}
        for name, value in (defaults | family.values).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if family.attention == "mla":  # some files say otherwise, and mean nothing by it
            self.num_key_value_heads = self.num_attention_heads
        if not family.routings:
            self.first_k_dense_replace = self.num_hidden_layers
        routing, scaling = (self.scoring_func, self.topk_method), self.rope_scaling or {}
        reachable = self.topk_group * (self.n_routed_experts // self.n_group)
        kind = str(scaling.get("rope_type"))
        wrong = [f"{k}={v!r}" for k, v in scaling.items() if k in _ROPE_NUMBERS and v is not None
            and not (is_a(v, float) and (0 < v <= 1e15 or v == 0 and "mscale" in k))]
        lacking = [k for k in _ROPE_SCALINGS.get(kind, []) if not is_a(scaling.get(k) or None, float)]
        checks = [
            (routing in family.routings or not family.routings,
             f"{self.model_type} routes with {list(family.routings)}, not {routing}"),
            (self.n_routed_experts % self.n_group == 0, "n_routed_experts must be a multiple of n_group"),
            (self.topk_group <= self.n_group, "topk_group must be at most n_group"),
            (self.is_dense or self.num_experts_per_tok <= reachable,
             "num_experts_per_tok is larger than the number of experts that the group limit leaves"),
            (self.num_attention_heads % self.num_key_value_heads == 0,
             "num_attention_heads must be a multiple of num_key_value_heads"),
            (self.rotary_dim % 2 == 0, "RoPE turns pairs: qk_rope_head_dim, or head_dim times "
             "partial_rotary_factor, must be even"),
            (not scaling or kind in _ROPE_SCALINGS,
             f"rope_scaling {kind!r} is not supported; use null, {', '.join(_ROPE_SCALINGS)}"),
            (not lacking, f"rope_scaling {kind} lacks {', '.join(lacking)}"),
            (not wrong, f"rope_scaling {kind}: {', '.join(wrong)} is no number above 0"),
            (kind != "llama3" or wrong or lacking or scaling["low_freq_factor"] < scaling["high_freq_factor"],
             "rope_scaling llama3: low_freq_factor must be below high_freq_factor"),
            (self.rope_theta > 1, f"rope_theta={self.rope_theta} must be above 1"),
            *((getattr(self, key, value) == value, f"{key}={getattr(self, key, value)!r} is not supported in "
               f"{self.model_type} (only {value!r})") for key, value in family.only.items())]
        for ok, message in checks:
            if not ok:
                raise UserError(f"model config: {message}")

    def _check_types(self):
        """Raises UserError for a value that is not of its field's type, and for a size below 1."""
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not is_a(value, kind):
                raise UserError(f"model config: {name}={value!r} is no {getattr(kind, '__name__', kind)}")
            whole = kind in (int, int | None)
            least, most = int(name in _SIZES), _MOST.get(name, 1 << 20 if whole else 1e15)
            if value is not None and (whole and "_id" not in name or kind in (float, float | None)) \
                    and not least <= value <= most:
                raise UserError(f"model config: {name}={value} must be a number from {least} to {most}")

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def is_dense(self) -> bool:
        return self.first_k_dense_replace >= self.num_hidden_layers

    @property
    def rotary_dim(self) -> int:
        """R: numbers of a head's query that RoPE turns."""
        return (self.qk_rope_head_dim if self.family.attention == "mla"
            else int(self.head_dim * self.partial_rotary_factor))

    @property
    def cached_per_token(self) -> int:
        """Numbers that a layer's cache holds per token: MLA's latent and rotated key, GQA's M keys and
        values."""
        return (self.kv_lora_rank + self.qk_rope_head_dim if self.family.attention == "mla"
            else 2 * self.num_key_value_heads * self.head_dim)

    @classmethod
    def from_hf(cls, raw: dict) -> "ModelConfig":
        """Read a `config.json` in either dialect: `rope_theta` + `rope_scaling`, or transformers 5's
        `rope_parameters`. Raises UserError for a feature that the model does not have."""
        raw = {k: v for k, v in raw.items() if v is not None}
        family = family_of(raw.get("model_type", "deepseek_v3"))
        kinds = dict(rope_parameters=dict, rope_scaling=dict, quantization_config=dict, layer_types=list)
        for key, kind in kinds.items():
            if not isinstance(raw.get(key, kind()), kind):
                raise UserError(f"model config: {key}={raw[key]!r} is no {kind.__name__}")
        rope = dict(raw.pop("rope_parameters", None) or raw.get("rope_scaling") or {})
        for key in ("rope_theta", "partial_rotary_factor"):
            raw |= {key: rope.pop(key)} if key in rope else {}
        if any(isinstance(value, dict) for value in rope.values()):
            raise UserError("model config: rope_parameters of each kind of layer are not supported")
        kind = rope.pop("type", None)
        rope["rope_type"] = rope.get("rope_type", kind) or "default"
        factor, attn_factor = rope.get("factor"), rope.get("attn_factor")
        if rope["rope_type"] == "yarn" and is_a(factor, float) and is_a(attn_factor, float):
            # R1-0528-Qwen3-8B: a factor on YaRN's temperature 0.1 ln(s) + 1, which it cancels. transformers
            # does not read it, but the product of the two under its own name
            rope.setdefault("attention_factor", attn_factor * (0.1 * math.log(max(factor, 1)) + 1))
        raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        for ours, names in family.names.items():
            for theirs in set(names) & set(raw):
                raw[ours] = raw[theirs]
        only = {"hidden_act": "silu", "mlp_bias": False} | family.only
        for key, value in only.items():
            if raw.get(key, value) != value:
                raise UserError(f"model config: {key}={raw[key]!r} is not supported (only {value!r})")
        if others := sorted({str(kind) for kind in raw.get("layer_types", ())} - {"full_attention"}):
            raise UserError(f"model config: layer_types {others} are not supported (only full_attention)")
        quantized = raw.get("quantization_config", {})
        if quantized and (quantized.get("quant_method"), quantized.get("fmt", "e4m3")) != ("fp8", "e4m3"):
            raise UserError(f"model config: weights quantized by {quantized.get('quant_method')} are not "
                "supported (only fp8, e4m3 in blocks); convert the checkpoint to bfloat16")
        block = quantized.get("weight_block_size") or [128, 128]
        if not (isinstance(block, list) and [is_a(n, int) and n > 0 for n in block] == [True, True]):
            raise UserError(f"model config: weight_block_size={block!r} is not supported (only two sizes)")
        needed = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}
        needed |= {"kv_lora_rank"} if family.attention == "mla" else set()
        if missing := needed - set(raw):
            raise UserError(f"model config: config.json lacks {', '.join(sorted(missing))}")
        absent = dict(n_shared_experts=0, n_routed_experts=1, num_experts_per_tok=1) | family.values
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in (absent | raw).items() if k in known})

    def to_hf(self) -> dict:
        """The `config.json` that we, transformers, vLLM and SGLang open (the `rope_theta`/`rope_scaling`
        dialect)."""
        family = self.family
        fields = _FIELDS + _ATTENTION_FIELDS[family.attention]
        fields += (_EXPERT_FIELDS if family.routings else []) + (["think_tags"] if self.think_tags else [])
        raw = {family.names.get(name, [name])[0]: getattr(self, name) for name in fields}
        if self.rope_scaling:  # both names of its kind: old readers know the first
            raw["rope_scaling"] = {"type": self.rope_scaling["rope_type"], **self.rope_scaling}
        return raw | {"architectures": [family.architecture], "hidden_act": "silu"} | family.only


# Model shapes, one row each. `tiny` is 1.1 M parameters (0.66 M active; `tiny_gqa` has 256 fewer), `small` is
# 54 M (23 M), `base1b` 1.06 B (0.49 B).
PRESETS: dict[str, dict] = {
    "tiny": {"tie_word_embeddings": True, "initializer_range": 0.06},
    "tiny_gqa": {"tie_word_embeddings": True, "initializer_range": 0.06, "model_type": "glm4_moe",
        "partial_rotary_factor": 1.0, "num_key_value_heads": 2, "head_dim": 44},  # tiny but for its attention
    "tiny_dense": {"tie_word_embeddings": True, "initializer_range": 0.06, "first_k_dense_replace": 4,
        "hidden_size": 96, "kv_lora_rank": 48, "qk_nope_head_dim": 24, "v_head_dim": 24},  # 0.50 M
    "small": {
        "hidden_size": 512, "intermediate_size": 1408, "moe_intermediate_size": 320, "num_hidden_layers": 8,
        "num_attention_heads": 8, "n_routed_experts": 12, "num_experts_per_tok": 3, "q_lora_rank": 256,
        "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
        "max_position_embeddings": 4096},
    "base1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 512, "num_hidden_layers": 16,
        "num_attention_heads": 16, "n_routed_experts": 16, "num_experts_per_tok": 4, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 4096},
    "small_dense": {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "first_k_dense_replace": 8,
        "num_attention_heads": 6, "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
        "v_head_dim": 64, "max_position_embeddings": 4096},  # 19 M
}


# Settings of the scripts for each of these sizes: what all share (those that a script has), then its own;
# "r1": what the stages of `make r1` have instead.
_TINY = {
    "all": dict(task="countdown:n=3,high=12,ops=+-*,limit=40,high_target=40", max_new_tokens=320,
        device="cpu:2"),
    "sft": dict(steps=900, batch_size=48, micro_tokens=2048, lr=1e-2),
    "grpo": dict(steps=24, prompts=16, group_size=16, lr=1e-4, updates=2, clip_high=0.28, micro_tokens=2048,
        eval_every=6),
    "r1": {"grpo": dict(steps=48, lr=3e-4, eval_every=8)},
    "distill": dict(prompts=2048, samples=4, keep=3, longest_line=90, batch_size=256, lr=2e-3,
        optimizer="muon", micro_tokens=2048, eval_every=8)}
_SMALL = {
    "all": dict(task="countdown:n=4", max_new_tokens=512),
    "sft": dict(steps=2000, batch_size=128, lr=1e-3),
    "grpo": dict(steps=200, lr=1e-4, updates=2),
    "distill": dict(prompts=2048, samples=16, longest_line=90, batch_size=256, lr=2e-4, optimizer="muon")}
SIZES: dict[str, dict[str, dict]] = {"tiny": _TINY, "tiny_gqa": _TINY, "tiny_dense": _TINY, "small": _SMALL,
    "small_dense": _SMALL, "base1b": _SMALL | {
        "sft": dict(steps=2000, batch_size=256, lr=3e-4, dtype="bfloat16"),
        "grpo": dict(steps=200, lr=2e-5, updates=2)}}
# A released model: no shape, for it comes with its own (--init); what it cannot calculate yet is its task.
SIZES["smollm2"] = {
    "all": dict(task="word_sums", template="chat", max_new_tokens=48, device="cpu"),
    "sft": dict(steps=200, batch_size=32, micro_tokens=2048, lr=2e-5, optimizer="adamw"),
    "grpo": dict(steps=40, prompts=8, group_size=8, lr=2e-5, kl_coef=0.0, updates=2, micro_tokens=2048,
        eval_every=8),
    "distill": dict(prompts=512)}
# R1's RL stages (arXiv 2501.12948v2, sec. 2.1, 2.2, 3.2): accuracy and format weigh the same, the language's
# share is added as it is. The policy becomes the reference after that share of a stage's steps: the paper's
# 400 are 1/26 of R1-Zero's 10,400 and 1/4 of the second stage's 1,700. 1/26 of 24 steps is less than one: the
# KL to a reference one step old holds nothing, so here it is 1/4 for all.
_ZERO = dict(reward_weights="accuracy=1,format=1,language=0", ref_every=0.25)  # language is only logged
_LANGUAGE = _ZERO | dict(reward_weights="accuracy=1,format=1,language=1")
# The paper's epsilon of 10, above and below: a good token is clipped at 11 times its chance, a bad one never,
# for 1 - 10 is less than any ratio. (clip_low ends the push on a bad token once its chance has fallen by so
# much; "a lower value can lead to the truncation of gradients", sec. 3.2.1.)
_REASONING = _LANGUAGE | dict(clip_low=10.0, clip_high=10.0)
# Stages of `make r1`: the script, what the size's numbers are divided by, and what else differs.
STAGES: dict[str, tuple[str, dict, dict]] = {
    "base": ("sft", dict(batch_size=0.75), dict(template="zero", epochs=1)),
    "zero": ("grpo", dict(steps=2), _ZERO),
    "zero_language": ("grpo", dict(steps=2), _LANGUAGE),
    # small batches, many steps: base never saw the tags' tokens
    "cold": ("sft", dict(lr=3, batch_size=3), dict(epochs=2, template="plain")),
    "reasoning": ("grpo", dict(steps=3, lr=3), _REASONING),
    # with a third of lr instead of a tenth, base forgets the facts that it knew
    "rejection": ("sft", dict(lr=10, batch_size=3), dict(epochs=2, template="plain")),
    "reward": ("sft", dict(lr=5), dict(epochs=2, warmup=10)),
    # "most of the parameters" of the first RL stage (sec. 3.2.2); 400 of 1,700 steps with preferences
    "scenarios": ("grpo", dict(steps=3, lr=3), _REASONING | dict(temperature=0.7, preference_from=0.75)),
    "distilled": ("sft", dict(lr=7.5, batch_size=3), dict(epochs=2, template="plain")),
    # half of distilled's tokens by SFT, about half on-policy: a student that does not calculate yet learns
    # the teacher's persistence first, and its samples grow to the limit
    "warm": ("sft", dict(lr=7.5, batch_size=3), dict(epochs=1, template="plain")),
    "on_policy": ("distill", dict(prompts=2, batch_size=4, lr=2), dict(on_policy=True, template="plain",
        eval_every=16)),
    # RL after either
    "after": ("grpo", dict(steps=6, lr=3), _REASONING)}


def presets_of(script: str, cls) -> dict[str, dict]:
    """The presets of a script with the Config `cls`: a row per size, and per size and stage ("tiny/zero")."""
    names = {f.name for f in dataclasses.fields(cls)}
    rows = {size: {k: v for k, v in (table["all"] | table.get(script, {})).items() if k in names}
        for size, table in SIZES.items()}
    for size, row in list(rows.items()):
        row = row | SIZES[size].get("r1", {}).get(script, {})
        for stage, (owner, divide, other) in STAGES.items():
            if owner == script and size in PRESETS:
                scaled = {k: round(row[k] / by) if isinstance(row[k], int) else row[k] / by
                    for k, by in divide.items()}
                named = {"stage": stage} if "stage" in names else {}
                mine = rows[f"{size}/{stage}"] = row | scaled | other | named
                if "ref_every" in other:
                    mine["ref_every"] = max(1, int(other["ref_every"] * mine["steps"]))
    return rows


def is_a(value, kind) -> bool:
    """Whether a value is of a field's type: a class, or a union of classes and lists. An int is a float, and
    true is no int."""
    kinds = [typing.get_origin(k) or k for k in typing.get_args(kind) or [kind]]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or float in kinds and isinstance(value, int)


def typed(raw: dict, name: str, kind, source):
    """The value of a name in a file's JSON object, None if it is not there. Raises UserError for another
    type."""
    value = raw.get(name)
    if value is not None and not is_a(value, kind):
        raise UserError(f"{source}: {name}={str(value)[:60]!r} is no {getattr(kind, '__name__', kind)}")
    return value


def base_of(dir: str | Path) -> Path:
    """The folder with the weights of the checkpoint in dir: dir, or for a LoRA adapter the folder of the
    model that it belongs to. Raises UserError where that is not here."""
    dir = Path(dir)
    config = dir / "adapter_config.json"
    if any(dir.glob("model*.safetensors*")) or not (config.exists() or [*dir.glob("adapter_model.*")]):
        return dir
    if not config.exists():
        raise UserError(f"{dir} has adapters, but no adapter_config.json")
    named = str(read_json(dir / "adapter_config.json").get("base_model_name_or_path"))
    for base in (Path(named), dir / named):
        if os.path.exists(base / "config.json"):  # false also for a name that is too long
            return base
    raise UserError(f"{dir} is an adapter of {named}, which is no model's folder here; write that folder "
        "into its adapter_config.json, as base_model_name_or_path (where a manifest.sha256 lies beside it, "
        "then also: sha256sum *.json *.safetensors > manifest.sha256)")


def closest(word: str, choices) -> str:
    """A hint for an unknown word: '; did you mean X?' or the list of choices."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(choices)}"


def numbers(text: str, names, option: str) -> dict[str, float]:
    """"a=1,b=0.5" as numbers by name. Raises UserError for a name that is none of `names`, and for what is no
    finite number."""
    out = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, _, value = item.partition("=")
        if name not in names:
            raise UserError(f"{option}: unknown name {name}" + (closest(name, names) if names else ""))
        try:
            out[name] = float(value)
        except ValueError:
            out[name] = math.nan
        if not math.isfinite(out[name]):
            raise UserError(f"{option} {item}: expected {name}=NUMBER")
    return out


def knob(default, help: str, group: str = "", of: str = ""):
    """A field of a script's Config: its default, its line of --help and the heading above it; without one it
    is on the first screen. of: another knob that this one belongs to; where the command line gives that
    another value than the preset does, the preset's value of this one does not count."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group, "of": of})


# Help of knobs that several scripts have.
TEMPLATE = ("how a prompt is put to the model: plain, zero (R1-Zero's), chat (the checkpoint's own), or a "
    "text with {prompt}; empty = as it was trained")
STRICT_FORMAT = ("false: an answer counts in any form: in the last <answer>, else \\boxed{}, else behind the "
    "last ####; the task's own form is paid by itself")
SYSTEM = "with the chat template: what the system says first"
DTYPE = ("of the weights: float32 or bfloat16 (its routers and logits stay float32); empty = the "
    "checkpoint's")
DTYPES = ("", "float32", "bfloat16")
TASK_FILE = "a file of rows (.jsonl, .json, .gz, .parquet, a datasets folder; shapes: docs/data.md)"


@dataclass
class Reading:
    """What every script asks that reads a file of --task (data/shapes.py, data/rows.py)."""

    columns: str = knob("", "columns of a shape that is not known, ours=theirs: prompt=question,answer=reply,"
        "task=math_boxed (task: theirs, or a name)", group="data")
    answer_pattern: str = knob("", "with --columns: a regular expression whose last match is the answer, "
        "such as '#### (.*)'", group="data")
    broken: str = knob("error", "rows of a file that are not of its shape: error, or drop (left out and "
        "counted)", group="data")
    too_long: str = knob("error", "rows that do not fit into the context: error, or drop (left out and "
        "counted)", group="data")


@dataclass
class Training(Reading):
    """What every script asks that trains a model (lora.py, parallel.shard_model)."""

    dtype: str = knob("", f"{DTYPE}, float32 for random weights. bfloat16 is trained with float32 masters, "
        "and saved as bfloat16: what was sampled and measured", group="memory")
    lora_rank: int = knob(0, "r of the LoRA adapters, which are then all that is trained: 1 to 64; 0 = all "
        "weights are trained", group="memory")
    lora_alpha: float = knob(32.0, "the adapters' product is multiplied by alpha / r", group="memory")
    lora_dropout: float = knob(0.0, "of the adapters' inputs, in training", group="memory")
    lora_rslora: bool = knob(False, "alpha / sqrt(r) instead, for large ranks", group="memory")
    lora_targets: str = knob("", "regular expression that the names of linear layers with an adapter match; "
        "empty = attention's, and the MLPs' of a model without experts", group="memory")
    save_minutes: float = knob(2.0, "minutes between saves of the state that resumes the run, beside those "
        "by steps; 0 = none by time", group="logging")
    shard: bool = knob(False, "split weights, gradients and optimizer over the processes (of torchrun, or "
        "--device cpu:N): each holds 1/N of them", group="memory")

    most_tokens = math.inf  # no knob: below --micro_tokens once a pass has run out of memory (batch.passes)

    def check_adapters(self):
        """Raises UserError for a setting of adapters without any, and for adapters that would not learn."""
        if self.lora_alpha == 0:
            raise UserError("--lora_alpha 0: the adapters' product would be 0; give a number above it")
        if not self.lora_rank:
            for f in dataclasses.fields(Training):
                if f.name.startswith("lora_") and getattr(self, f.name) != f.default:
                    raise UserError(f"--{f.name} needs --lora_rank")


# The least that a number on the command line may be, in every script; it is finite in any case.
_LEAST = {-math.inf: "bar", 2: "group_size length",
    0: "seed epochs warmup resample ref_every count micro lr temperature top_p weight_decay balance_coef "
       "bias_rate kl_coef clip_low clip_high explore longest_line lora_rank lora_alpha lora_dropout "
        "save_minutes off_policy_mask importance_low importance_high preference_from made thought "
        "reinforce_coef",
    1: "steps prompts problems eval_problems samples keep updates max_new_tokens batch_size micro_tokens "
       "eval_every save_every threads runs shards ahead eval_docs"}
LEAST: dict[str, int] = {name: least for least, names in _LEAST.items() for name in names.split()}
MOST = {"made": 1} | dict.fromkeys(("count", "problems", "eval_problems"), 10**7)  # made before a run starts


def check_ranges(values: dict):
    """Raises UserError for the first of these numbers by name that is not finite or out of its range."""
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        least = LEAST.get(name, -math.inf)
        whole = isinstance(value, int)
        for ok, range in [(whole or math.isfinite(value), "a finite number"),
                (not whole or value < 2**63, "less than 2**63"), (value >= least, f"at least {least}"),
                (value <= MOST.get(name, math.inf), f"at most {MOST.get(name, 0):,}"),
                (name != "top_p" or 0 < value <= 1, "above 0 and at most 1"),
                (name != "lora_dropout" or value < 1, "below 1")]:
            if not ok:
                raise UserError(f"--{name} {value}: must be {range}")


def _help_text(doc: str, presets, fields: dict[str, dataclasses.Field], hints: dict) -> str:
    """The docstring, the knobs of the first screen, then each group under its heading."""
    sections = {"": ["  --config NAME".ljust(34) + f"preset: {', '.join(presets)}"]}
    for name, f in fields.items():
        kind = getattr(hints[name], "__name__", str(hints[name]))
        line = f"  --{name} {kind.upper()}".ljust(36) + f"{f.metadata['help']} (default {f.default})"
        sections.setdefault(f.metadata["group"], []).append(line)
    sections[""] += ["  --unsafe_code_execution".ljust(36) + "run model-written programs without the sandbox"]
    return doc.strip() + "\n\n" + "\n\n".join(
        "\n".join([*([f"{group}:"] if group else []), *lines]) for group, lines in sections.items())


def _convert(key: str, text: str, kind):
    """Text from the command line to a field's type. Raises UserError with the expected type."""
    kinds = [k for k in typing.get_args(kind) if k is not type(None)] or [kind]
    if text.lower() in ("none", "null") and type(None) in typing.get_args(kind):
        return None
    try:
        if kinds[0] is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kinds[0](text)
    except (ValueError, KeyError):
        raise UserError(f"--{key} {text}: expected {kinds[0].__name__}") from None


unsafe_code_execution = False  # set by --unsafe_code_execution: a permission here, not a setting of a run


def parse_args(cls, presets: dict[str, dict], doc: str, argv: list[str] | None = None):
    """Build the dataclass `cls` from its defaults, then `presets[--config]`, then `--key value` pairs.

    Returns (config, preset name). Prints the help and exits on --help. Raises UserError for an unknown
    key, preset or value."""
    argv = sys.argv[1:] if argv is None else argv
    fields = {
        f.name.rstrip("_"): f for f in dataclasses.fields(cls)
    }  # `from_` is --from: Python keeps the word
    hints = {k.rstrip("_"): v for k, v in typing.get_type_hints(cls).items()}
    if "--help" in argv or "-h" in argv:
        print(_help_text(doc, presets, fields, hints))
        sys.exit(0)
    if "--unsafe_code_execution" in argv:
        global unsafe_code_execution
        unsafe_code_execution = True
        argv = [word for word in argv if word != "--unsafe_code_execution"]
    given, i = {}, 0
    while i < len(argv):
        word = argv[i]
        key, eq, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key not in {*fields, "config"}:
            raise UserError(f"unknown option {word}{closest(key, [*fields, 'config'])}")
        if not eq:
            if i + 1 < len(argv) and not argv[i + 1].startswith("--"):
                i += 1
                value = argv[i]
            elif hints.get(key) is bool:
                value = "true"
            else:
                raise UserError(f"--{key} needs a value")
        given[key] = value
        i += 1
    preset = given.pop("config", next(iter(presets)))
    if preset not in presets:
        raise UserError(f"--config {preset}: unknown preset{closest(preset, presets)}")
    given = {fields[k].name: _convert(k, v, hints[k]) for k, v in given.items()}
    default = {f.name: f.default for f in fields.values()} | presets[preset]
    other = {k for k, v in given.items() if v != default[k]}
    of = {f.name: f.metadata["of"] for f in fields.values()}
    theirs = {k: v for k, v in presets[preset].items() if of[k] not in other}
    check_ranges(given)
    if given.get("dtype", "") not in DTYPES:
        raise UserError(f"--dtype {given['dtype']}: expected float32 or bfloat16")
    return cls(**theirs | given), preset


def say(text: str):
    """Print a line, of several processes once."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def last_words(text: str, code: int, error: BaseException):
    """Write the text, exit with the code. parallel.py puts its own in place, for a run of several
    processes."""
    sys.stderr.write(text)
    sys.exit(code)


def leave(code: int):
    """What a script does last; parallel.py puts its own in place, for a run of several processes."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch, on any device, or Python raises where an allocation fails."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in
        ("out of memory", "can't allocate memory", "ALLOC_FAILED", "could not create a primitive"))


def run_script(main):
    """Call main(). A UserError, a full disk or memory becomes one line on stderr and exit code 2, Ctrl-C one
    and 130, any other error a traceback and exit code 1: once, however many processes the run has."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # a console without some letter shows its number
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        leave(0)
    except (UserError, OSError) as error:
        last_words(f"error: {one_line(error)}\n", 2, error)
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except KeyboardInterrupt as error:
        last_words("stopped\n", 130, error)
    except BaseException as error:
        if out_of_memory(error):
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            last_words(f"error: out of memory ({text}); docs/memory.md says what needs less\n", 2, error)
        last_words(traceback.format_exc(), 1, error)


LONGEST_LINE = 2000  # characters of a message


def one_line(error: BaseException) -> str:
    """The message as a terminal can show it, whatever names and values of the user's are in it: on one line,
    letters that cannot be printed as numbers, of a long one both ends."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(str(error).split()))
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} ... {text[-LONGEST_LINE // 4 :]}"
    return text


def real_path(path) -> Path:
    """Absolute and without links; with them where they go in a circle, which Path.resolve does not take."""
    return Path(os.path.realpath(path))


def read_text(path, encoding: str = "utf-8") -> str:
    """The text of a file. Raises UserError if it is missing, no text, or a pipe or device, which may never
    end."""
    if not Path(path).exists():
        raise UserError(f"{path} does not exist")
    if not Path(path).is_file():
        raise UserError(f"{path} is no file")
    try:
        return Path(path).read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in {encoding}: {error}") from None


def read_json(path) -> dict:
    """The JSON object in a file. Raises UserError if it is missing or broken."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also brackets without end, integers of 5,000 digits
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object, but {str(found)[:40]}")
    return found


def read_config(dir) -> tuple[ModelConfig, dict]:
    """The shape of the model in a folder, and all of its config.json. Raises UserError."""
    raw = read_json(Path(dir) / "config.json")
    try:
        return ModelConfig.from_hf(raw), raw
    except UserError as error:
        raise UserError(f"{dir}/config.json: {error}") from None
