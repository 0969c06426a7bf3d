"""Model configuration, model presets and the `--key value` parser that every script shares.

Field names are those of Hugging Face's `config.json` for deepseek_v3 (and deepseek_v2), so a released
checkpoint's config is read as it stands and `ModelConfig.to_hf` writes a file that transformers opens.
"""

import dataclasses
import difflib
import json
import math
import os
import sys
import typing
from dataclasses import dataclass


class UserError(Exception):
    """Something the user gave is wrong: scripts print the message on one line and exit with code 2."""


@dataclass
class ModelConfig:
    """Shape of a DeepSeek-V3 / V2 transformer. Defaults are a small V3; see DeepSeek-V3, arXiv 2412.19437,
    sec. 2."""

    model_type: str = "deepseek_v3"  # deepseek_v3 | deepseek_v2
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
    scoring_func: str = "sigmoid"  # sigmoid (V3) | softmax (V2)
    topk_method: str = "noaux_tc"  # noaux_tc (V3) | greedy | group_limited_greedy (V2)
    n_group: int = 1  # groups of experts: those of one machine, in V3's training
    topk_group: int = 1  # groups that a token may use
    norm_topk_prob: bool = True  # the K weights sum to 1
    q_lora_rank: int | None = None  # of the queries' latent, which saves activations; None = no latent
    kv_lora_rank: int = 64  # C, the latent that is cached
    qk_nope_head_dim: int = 32  # U
    qk_rope_head_dim: int = 16  # R, the decoupled rotary key, cached beside the latent
    v_head_dim: int = 32  # W
    attention_bias: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict | None = (
        None  # None or a YaRN dict: factor, original_max_position_embeddings, mscale, ...
    )
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    think_tags: str = ""  # the two special tokens around the thinking (ours, not Hugging Face's)

    def __post_init__(self):
        v2 = self.model_type == "deepseek_v2"
        routing = (self.scoring_func, self.topk_method)
        v2_routings = [("softmax", "greedy"), ("softmax", "group_limited_greedy")]
        allowed = v2_routings if v2 else [("sigmoid", "noaux_tc")]
        reachable = self.topk_group * (self.n_routed_experts // self.n_group)
        checks = [
            (self.model_type in ("deepseek_v3", "deepseek_v2"),
             f"model_type {self.model_type!r} is not supported; use deepseek_v3 or deepseek_v2"),
            (routing in allowed, f"{self.model_type} routes with {allowed}, not {routing}"),
            (not (v2 and self.norm_topk_prob), "deepseek_v2 with norm_topk_prob=true is not supported: no "
             "released checkpoint uses it and the reference implementations disagree on it"),
            (self.n_routed_experts % self.n_group == 0, "n_routed_experts must be a multiple of n_group"),
            (self.topk_group <= self.n_group, "topk_group must be at most n_group"),
            (self.is_dense or self.num_experts_per_tok <= reachable,
             "num_experts_per_tok is larger than the number of experts that the group limit leaves"),
            (self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim must be even: RoPE turns pairs"),
            (self.rope_scaling is None or self.rope_scaling.get("rope_type") == "yarn",
             f"rope_scaling {self.rope_scaling} is not supported; use null or type yarn"),
        ]
        for ok, message in checks:
            if not ok:
                raise UserError(f"model config: {message}")

    @property
    def is_dense(self) -> bool:
        return self.first_k_dense_replace >= self.num_hidden_layers

    @classmethod
    def from_hf(cls, raw: dict) -> "ModelConfig":
        """Read a `config.json` in either dialect: `rope_theta` + `rope_scaling`, or transformers 5's
        `rope_parameters`. Raises UserError for a feature that the model does not have."""
        raw = dict(raw)
        rope = dict(raw.pop("rope_parameters", None) or raw.get("rope_scaling") or {})
        raw["rope_theta"] = rope.pop("rope_theta", raw.get("rope_theta", 10000.0))
        kind = rope.pop("type", None)
        rope["rope_type"] = rope.get("rope_type", kind) or "default"
        raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        if raw.get("model_type") == "deepseek_v2":
            raw = {"scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": False} | raw
        for key, default in (("n_group", 1), ("topk_group", 1), ("n_shared_experts", 0),
                ("n_routed_experts", 1), ("num_experts_per_tok", 1)):
            raw[key] = default if raw.get(key, default) is None else raw.get(key, default)
        only = {"hidden_act": "silu", "rope_interleave": True, "moe_layer_freq": 1, "mlp_bias": False}
        for key, value in only.items():
            if raw.get(key, value) != value:
                raise UserError(f"model config: {key}={raw[key]!r} is not supported (only {value!r})")
        if raw.get("quantization_config"):
            raise UserError(
                "model config: quantized weights are not supported; convert the checkpoint to bfloat16"
            )
        known = {f.name for f in dataclasses.fields(cls)}
        missing = {"vocab_size", "hidden_size", "num_hidden_layers", "kv_lora_rank"} - set(raw)
        if missing:
            raise UserError(f"model config: config.json lacks {', '.join(sorted(missing))}")
        return cls(**{k: v for k, v in raw.items() if k in known})

    def to_hf(self) -> dict:
        """The `config.json` that we, transformers, vLLM and SGLang open (the `rope_theta`/`rope_scaling`
        dialect)."""
        name = "DeepseekV3ForCausalLM" if self.model_type == "deepseek_v3" else "DeepseekV2ForCausalLM"
        scaling = self.rope_scaling and {**self.rope_scaling, "type": "yarn"}
        raw = dataclasses.asdict(self)
        if not self.think_tags:
            del raw["think_tags"]
        return raw | {"architectures": [name], "rope_scaling": scaling,
            "hidden_act": "silu", "moe_layer_freq": 1, "num_key_value_heads": self.num_attention_heads,
            "num_nextn_predict_layers": 0, "ep_size": 1}


# Model shapes, one row each. `tiny` is 1.1 M parameters (0.66 M active), `small` 54 M (23 M), `base1b` 1.06 B
# (0.49 B).
PRESETS: dict[str, dict] = {
    "tiny": {"tie_word_embeddings": True, "initializer_range": 0.06},
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


# Settings of the scripts for each of these sizes: what all share (those that a script has), then its own.
_TINY = {
    "all": dict(task="countdown:n=3,high=12,ops=+-*,limit=40,high_target=40", max_new_tokens=320,
        device="cpu:2"),
    "sft": dict(steps=400, batch_size=96, micro_tokens=2048, lr=1.5e-2),
    "grpo": dict(steps=48, prompts=16, group_size=16, lr=3e-4, updates=2, clip_high=0.28, micro_tokens=2048,
        eval_every=8),
    "distill": dict(prompts=2048, keep=3)}
_SMALL = {
    "all": dict(task="countdown:n=4", max_new_tokens=512),
    "sft": dict(steps=2000, batch_size=128, lr=1e-3),
    "grpo": dict(steps=200, lr=1e-4, updates=2),
    "distill": dict(prompts=2048, samples=16)}
SIZES: dict[str, dict[str, dict]] = {"tiny": _TINY, "tiny_dense": _TINY, "small": _SMALL,
    "small_dense": _SMALL, "base1b": _SMALL | {
        "sft": dict(steps=2000, batch_size=256, lr=3e-4, dtype="bfloat16"),
        "grpo": dict(steps=200, lr=2e-5, updates=2)}}
# Stages of `make r1`: the script, what the size's numbers are divided by, and what else differs.
STAGES: dict[str, tuple[str, dict, dict]] = {
    "base": ("sft", dict(batch_size=0.75), dict(template="zero", epochs=1)),
    "zero": ("grpo", dict(steps=1.5), dict(reward_weights="accuracy=1,format=0.2,language=0")),  # only logged
    "zero_language": ("grpo", dict(steps=1.5), dict(reward_weights="accuracy=1,format=0.2,language=0.2")),
    # small batches, many steps: base never saw the tags' tokens
    "cold": ("sft", dict(lr=3, batch_size=3), dict(epochs=2, template="plain")),
    "reasoning": ("grpo", dict(steps=1.5), dict(reward_weights="accuracy=1,format=0.1,language=0.2")),
    # with a third of lr instead of a tenth, base forgets the facts that it knew
    "rejection": ("sft", dict(lr=10, batch_size=3), dict(epochs=2, template="plain")),
    "reward": ("sft", dict(lr=5), dict(epochs=2, warmup=10)),
    "scenarios": ("grpo", dict(steps=2), dict(reward_weights="format=0.1,language=0.2")),
    "distilled": ("sft", dict(lr=7.5, batch_size=3), dict(epochs=2, template="plain"))}


def presets_of(script: str, cls) -> dict[str, dict]:
    """The presets of a script with the Config `cls`: a row per size, and per size and stage ("tiny/zero")."""
    names = {f.name for f in dataclasses.fields(cls)}
    rows = {size: {k: v for k, v in (table["all"] | table.get(script, {})).items() if k in names}
        for size, table in SIZES.items()}
    for size, row in list(rows.items()):
        for stage, (owner, divide, other) in STAGES.items():
            if owner == script:
                scaled = {k: round(row[k] / by) if isinstance(row[k], int) else row[k] / by
                    for k, by in divide.items()}
                named = {"stage": stage} if "stage" in names else {}
                rows[f"{size}/{stage}"] = row | scaled | other | named
    return rows


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
        raise UserError(f"unknown preset {preset}{closest(preset, presets)}")
    given = {fields[k].name: _convert(k, v, hints[k]) for k, v in given.items()}
    default = {f.name: f.default for f in fields.values()} | presets[preset]
    other = {k for k, v in given.items() if v != default[k]}
    of = {f.name: f.metadata["of"] for f in fields.values()}
    theirs = {k: v for k, v in presets[preset].items() if of[k] not in other}
    return cls(**theirs | given), preset


def run_script(main):
    """Call main(); a UserError or a full disk becomes one line on stderr and exit code 2."""
    try:
        main()
    except (UserError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":  # the other processes of a run say nothing
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read_json(path) -> dict:
    """The JSON object in a file. Raises UserError if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
