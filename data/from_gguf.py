"""A GGUF file (llama.cpp's format) as a Hugging Face folder: config.json, model.safetensors, the tokenizer.

    python data/from_gguf.py MODEL.gguf OUT_DIR

Quantised weights become float32, exactly: bfloat16 would round a second time. All tensors are in memory at
once. An architecture, a tensor or a tokenizer that is not in the tables here is refused by name; a new
architecture = one row in ARCHITECTURES, a new tokenizer = one row in PRE_TOKENIZERS. Needs the package gguf.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

from config import UserError, run_script

GLOBAL = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight"}  # without the last one the head is tied
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


class Architecture(NamedTuple):
    name: str  # Hugging Face's class
    layer: dict[str, str]  # GGUF's name of each weight of a layer -> Hugging Face's
    permuted: dict[str, str]  # weights whose rows llama.cpp reorders -> their number of heads in config.json


ARCHITECTURES = {"llama": Architecture("LlamaForCausalLM", LAYER,
    {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"})}
SETTINGS = {"vocab_size", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count"}  # after the "llama."
# tokenizer.ggml.pre names how text is split before the merges; GPT-2's expression is in ByteLevel
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS = {"smollm": {"type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}}
CONTROL, USER_DEFINED = 3, 4  # token types whose text is one token, never merged from parts


def read_gguf(path: str) -> tuple[dict, list]:
    """(metadata by key, tensors) of a file. Raises UserError for one that is no GGUF, or not all of one."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"a GGUF file needs the package gguf ({error}): pip install gguf") from None
    try:
        reader = gguf.GGUFReader(path)
        return {key: field.contents() for key, field in reader.fields.items()}, reader.tensors
    except OSError:
        raise
    except Exception as error:  # the library checks the first four bytes, then trusts the file
        raise UserError(f"{path} is truncated or no GGUF file ({error})") from None


class Metadata(dict):
    """The file's metadata; a key that is not there is an error with its name."""

    def __missing__(self, key):
        raise UserError(f"the file has no metadata {key}")


def exact(value: float) -> float:
    """The decimal that a float32 was written as: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(value)))


def config_of(meta: Metadata, tensors: dict[str, tuple[int, ...]]) -> dict:
    """config.json from the metadata and the shapes. Raises UserError for what a config.json of this
    architecture could not say."""
    arch = meta["general.architecture"]
    if arch not in ARCHITECTURES:
        raise UserError(f"architecture {arch} is not supported, only {', '.join(ARCHITECTURES)}")
    get = Metadata({key.removeprefix(f"{arch}."): v for key, v in meta.items() if key.startswith(f"{arch}.")})
    if unknown := sorted(set(get) - SETTINGS):  # a window, a rope scaling, experts: never dropped silently
        raise UserError(f"{arch}.{unknown[0]}={get[unknown[0]]} is not supported")
    heads, width = get["attention.head_count"], get["embedding_length"]
    shape = {"vocab_size": tensors.get("token_embd.weight", (0,))[0], "hidden_size": width,
        "intermediate_size": get["feed_forward_length"], "num_hidden_layers": get["block_count"],
        "num_attention_heads": heads, "num_key_value_heads": get.get("attention.head_count_kv", heads),
        "max_position_embeddings": get["context_length"]}
    for name, value in shape.items():
        if not (isinstance(value, int) and 0 < value < 2**31):
            raise UserError(f"{name}={value} is not supported (only one positive number)")
    shape["head_dim"] = get.get("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if get.get(key, shape["head_dim"]) != shape["head_dim"]:
            raise UserError(f"{arch}.{key}={get[key]} is not supported (only {shape['head_dim']})")
    return {"architectures": [ARCHITECTURES[arch].name], "model_type": arch, **shape,
        "hidden_act": "silu", "rope_theta": exact(get.get("rope.freq_base", 10000.0)), "rope_scaling": None,
        "rms_norm_eps": exact(get["attention.layer_norm_rms_epsilon"]),
        "tie_word_embeddings": "output.weight" not in tensors, "attention_bias": False, "mlp_bias": False,
        "torch_dtype": "float32", **special_ids(meta)}


def special_ids(meta: Metadata) -> dict[str, int]:
    """{"bos_token_id": ..., ...}: those that the file names."""
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    keys = {f"{ours}_token_id": f"tokenizer.ggml.{theirs}_token_id" for ours, theirs in names.items()}
    return {name: meta[key] for name, key in keys.items() if key in meta}


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a head in Hugging Face's order. Its RoPE turns dimension i with i + R/2, llama.cpp's turns
    neighbours; so llama.cpp stores the two halves of each head's rows interleaved."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def named(name: str, arch: str) -> str:
    """Hugging Face's name of a tensor. Raises UserError for one that the architecture does not have."""
    part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if part and part[2] in ARCHITECTURES[arch].layer:
        return f"model.layers.{part[1]}.{ARCHITECTURES[arch].layer[part[2]]}.weight"
    if name not in GLOBAL:
        raise UserError(f"tensor {name} is not part of the architecture {arch} as it is known here")
    return GLOBAL[name]


def weights_of(meta: Metadata, tensors: list, config: dict) -> dict[str, np.ndarray]:
    """The tensors in float32, under Hugging Face's names and in its order of rows. Raises UserError for
    unknown, missing or misshapen ones."""
    from gguf.quants import dequantize

    arch, out = meta["general.architecture"], {}
    wide, kv = (config["head_dim"] * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    D, F, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"self_attn.q_proj": (wide, D), "self_attn.k_proj": (kv, D), "self_attn.v_proj": (kv, D),
        "self_attn.o_proj": (D, wide), "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D),
        "mlp.down_proj": (D, F), "model.embed_tokens": (V, D), "lm_head": (V, D)}  # the norms: (D,)
    for tensor in tensors:
        name = named(tensor.name, arch)
        try:
            weight = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UserError(f"tensor {tensor.name}: {tensor.tensor_type.name} is not supported") from None
        short = re.sub(r"^model\.layers\.\d+\.", "", name).removesuffix(".weight")
        if weight.shape != shapes.get(short, (D,)):
            raise UserError(f"tensor {tensor.name} has shape {weight.shape}, the metadata wants "
                f"{shapes.get(short, (D,))}")
        if heads := ARCHITECTURES[arch].permuted.get(tensor.name.split(".")[-2]):
            weight = unpermuted(weight, config[heads])
        out[name] = np.ascontiguousarray(weight, dtype=np.float32)
    wanted = {named(f"blk.{i}.{part}.weight", arch) for i in range(config["num_hidden_layers"])
        for part in ARCHITECTURES[arch].layer}
    wanted |= set(GLOBAL.values()) - ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    if wrong := sorted(wanted ^ set(out)):
        kind = "lacks" if wrong[0] in wanted else "has a layer too many:"
        raise UserError(f"the file {kind} {wrong[0]} (Hugging Face's name; {len(wrong)} in all)")
    return out


def tokenizer_of(meta: Metadata, vocab_size: int) -> dict:
    """tokenizer.json of a byte-level BPE. Raises UserError for another kind of tokenizer."""
    key = "tokenizer.ggml."
    model, pre = meta[key + "model"], meta[key + "pre"]
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UserError(f"tokenizer {model} / {pre} is not supported, only gpt2 / {known}")
    for flag in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if meta.get(key + flag, False):
            raise UserError(f"{key}{flag}=true is not supported")
    tokens, merges = meta[key + "tokens"], meta[key + "merges"]
    types = meta.get(key + "token_type", [1] * len(tokens))
    if not len(set(tokens)) == len(tokens) == len(types) <= vocab_size:
        raise UserError(f"{len(tokens)} tokens ({len(set(tokens))} different), {len(types)} token types and "
            f"{vocab_size} embeddings do not fit together")
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": kind == CONTROL}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (CONTROL, USER_DEFINED)]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre], "post_processor": None, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [m.split(" ") for m in merges]}}


def tokenizer_config_of(meta: Metadata, config: dict) -> dict:
    """tokenizer_config.json: the special tokens by name, and the template of a chat."""
    tokens = meta["tokenizer.ggml.tokens"]
    if bad := [name for name, i in special_ids(meta).items() if not 0 <= i < len(tokens)]:
        raise UserError(f"{bad[0]} {special_ids(meta)[bad[0]]} is not one of {len(tokens)} tokens")
    special = {name.removesuffix("_id"): tokens[i] for name, i in special_ids(meta).items()}
    chat = meta.get("tokenizer.chat_template")
    return {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "model_max_length": config["max_position_embeddings"],
        **special, **({"chat_template": chat} if chat else {})}


def convert(path: str, out: str | Path):
    """Write the folder; config.json last, so that a folder that has one is whole."""
    raw, tensors = read_gguf(path)
    try:
        meta = Metadata(raw)
        config = config_of(meta, {t.name: tuple(map(int, reversed(t.shape))) for t in tensors})
        files = {"tokenizer.json": tokenizer_of(meta, config["vocab_size"]),
            "tokenizer_config.json": tokenizer_config_of(meta, config),
            "generation_config.json": special_ids(meta), "config.json": config}
        weights = weights_of(meta, tensors, config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").unlink(missing_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    os.chmod(out / "model.safetensors", out.stat().st_mode & 0o666)  # safetensors: 0600
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{out}: {config['architectures'][0]}, {sum(w.size for w in weights.values()):,} parameters")


def main():
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        return print(__doc__.strip())
    if len(words) != 2:
        raise UserError("usage: data/from_gguf.py MODEL.gguf OUT_DIR")
    convert(*words)


if __name__ == "__main__":
    run_script(main)
