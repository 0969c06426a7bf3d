"""GGUF files, written with llama.cpp's own library: the folder computes what the original model does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from config import UserError
from data.from_gguf import LAYER, convert, unpermuted

gguf = pytest.importorskip("gguf", reason="the oracle for GGUF files: requirements-oracles.txt")
transformers = pytest.importorskip("transformers",
    reason="the oracle for models: requirements-dev.txt")
ROOT = Path(__file__).parent.parent
TEXT = "It's 1234 pens,  don't\n\n you  <|im_end|> caf\u00e9 3.14 \u4f60\u597d"


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE with SmolLM's splitting, trained by Hugging Face's library."""
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle for tokenizers: requirements-dev.txt")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=384, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False)
    tok.train_from_iterator((ROOT / "data/corpus.txt").read_text().splitlines(), trainer)
    return tok


@pytest.fixture(scope="module", params=[False, True], ids=["head", "tied"])
def original(request):
    torch.manual_seed(0)
    cfg = transformers.LlamaConfig(vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=request.param, initializer_range=0.2)
    return transformers.LlamaForCausalLM(cfg).eval()


def permuted(weight, heads):
    """As llama.cpp's convert_hf_to_gguf.py has it (LlamaModel.permute)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(
        weight.shape)


def to_gguf(path, model, tok, quant="F32", drop=(), arch="llama", more=(), **changed):
    """Write a model as GGUF; without the tensors in `drop`, with further ones named in `more`."""
    cfg, writer = model.config, gguf.GGUFWriter(path, arch)
    writer.add_block_count(cfg.num_hidden_layers)
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(cfg.num_attention_heads)
    writer.add_head_count_kv(cfg.num_key_value_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    vocab = sorted(tok.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model(changed.get("kind", "gpt2"))
    writer.add_tokenizer_pre(changed.get("pre", "smollm"))
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if i < 3 else 1 for _, i in vocab])
    merges = json.loads(tok.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(changed.get("eos", 2))
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for key, value in changed.get("uint32", {}).items():
        writer.add_uint32(key, value)
    back = {theirs: ours for ours, theirs in LAYER.items()}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in model.state_dict().items():
        name, weight = name.removesuffix(".weight"), tensor.numpy()
        if name == "lm_head" and cfg.tie_word_embeddings or name in drop:
            continue
        if name not in names:
            _, _, layer, part = name.split(".", 3)
            short = f"blk.{layer}.{back[part]}"
        else:
            short = names[name]
        if "q_proj" in name or "k_proj" in name:
            heads = cfg.num_attention_heads if "q_proj" in name else cfg.num_key_value_heads
            weight = permuted(weight, heads)
        kind = gguf.GGMLQuantizationType[quant if weight.ndim == 2 else "F32"]
        writer.add_tensor(f"{short}.weight", gguf.quantize(weight, kind), raw_dtype=kind)
    for name in more:
        writer.add_tensor(name, np.ones(cfg.hidden_size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_the_order_of_rows_is_llama_cpps_undone():
    weight = np.arange(48).reshape(16, 3)
    assert (unpermuted(permuted(weight, 2), 2) == weight).all() and (permuted(weight, 2) != weight).any()


def test_the_folder_is_the_original_model(original, tokenizer, tmp_path):
    """Float tensors: transformers' model on the folder computes the same logits to the last bit."""
    convert(to_gguf(tmp_path / "a.gguf", original, tokenizer), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(model) is transformers.LlamaForCausalLM and model.dtype == torch.float32
    ids = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, original(ids).logits)
    for key in ("rope_parameters", "rms_norm_eps", "tie_word_embeddings", "head_dim", "num_key_value_heads"):
        assert getattr(model.config, key) == getattr(original.config, key), key
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 0)
    assert model.generation_config.eos_token_id == 2


# half a step, of weights up to size 1: Q4_1 has 15 steps from the least to the largest; Q4_0 reaches -8 to 7
# eighths, so that one end is a whole step off; Q8_0 has steps of 1 / 127
@pytest.mark.parametrize("quant,rest",
    [("Q4_1", 1 / 14), ("Q4_0", 1 / 7), ("Q8_0", 1 / 240), ("F16", 1e-3), ("BF16", 1 / 250)])
def test_quantised_tensors_are_what_the_library_reads_and_near_the_original(original, tokenizer, tmp_path,
        quant, rest):
    path = to_gguf(tmp_path / "a.gguf", original, tokenizer, quant)
    convert(path, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out/model.safetensors"), original.state_dict()
    if original.config.tie_word_embeddings:
        del theirs["lm_head.weight"]
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name] - weight).abs().max() <= rest * weight.abs().max(), name
    gate = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_gate.weight")
    exact = gguf.dequantize(gate.data, gate.tensor_type)
    assert (ours["model.layers.1.mlp.gate_proj.weight"].numpy() == exact).all()


def test_the_tokenizer_encodes_as_the_original_does(original, tokenizer, tmp_path):
    convert(to_gguf(tmp_path / "a.gguf", original, tokenizer), tmp_path / "out")
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (TEXT, (ROOT / "data/corpus.txt").read_text()[:3000]):
        assert tok(text).input_ids == tokenizer.encode(text).ids and tok.decode(tok(text).input_ids) == text
    assert (tok.bos_token, tok.eos_token, tok.pad_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    ours, theirs = (tmp_path / "out/tokenizer.json").read_text(), tokenizer.to_str()
    for part in ("pre_tokenizer", "model", "normalizer", "added_tokens"):
        assert json.loads(ours)[part] == json.loads(theirs)[part], part
    chat = tok.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert chat == "hello" and tok("12").input_ids == [tok.vocab["1"], tok.vocab["2"]]


BAD = {"architecture": (dict(arch="qwen2"), "architecture qwen2 is not supported, only llama"),
    "pre": (dict(pre="llama-bpe"), "tokenizer gpt2 / llama-bpe is not supported, only gpt2 / smollm"),
    "model": (dict(kind="llama"), "tokenizer llama / smollm"),
    "experts": (dict(uint32={"llama.expert_count": 8}), "llama.expert_count=8"),
    "window": (dict(uint32={"llama.attention.sliding_window": 64}), "llama.attention.sliding_window=64"),
    "partial rope": (dict(uint32={"llama.rope.dimension_count": 16}), "llama.rope.dimension_count=16"),
    "rope factors": (dict(more=["rope_freqs.weight"]), "tensor rope_freqs.weight is not part of"),
    "bias": (dict(more=["blk.0.attn_q.bias"]), "tensor blk.0.attn_q.bias is not part of"),
    "layer too many": (dict(more=["blk.7.attn_norm.weight"]), "has a layer too many: model.layers.7"),
    "missing tensor": (dict(drop=["model.layers.1.mlp.up_proj"]), "lacks model.layers.1.mlp.up_proj.weight"),
    "eos": (dict(eos=5000), "eos_token_id 5000 is not one of 384 tokens")}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_known_is_refused_by_name(name, original, tokenizer, tmp_path):
    changed, message = BAD[name]
    path = to_gguf(tmp_path / "a.gguf", original, tokenizer, **changed)
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        convert(path, tmp_path / "out")
    assert str(error.value).startswith(path) and not (tmp_path / "out").exists()


def run(*words):
    return subprocess.run([sys.executable, str(ROOT / "data/from_gguf.py"), *map(str, words)],
        capture_output=True, text=True, timeout=100)


def test_the_script_writes_the_folder_and_gives_bad_files_one_line(original, tokenizer, tmp_path):
    good = Path(to_gguf(tmp_path / "good.gguf", original, tokenizer, "Q4_1"))
    done = run(good, tmp_path / "out")
    assert done.returncode == 0 and "LlamaForCausalLM" in done.stdout
    assert (tmp_path / "out/config.json").exists()
    whole = good.read_bytes()
    for size in (0, 3, 20, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        done = run(tmp_path / "cut.gguf", tmp_path / "cut")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, (size, done.stderr)
        assert "cut.gguf is truncated or no GGUF file" in done.stderr and not (tmp_path / "cut").exists()
    (tmp_path / "text.gguf").write_text("no model at all\n" * 100)
    for words, message in (([tmp_path / "text.gguf", "x"], "no GGUF file"), ([good], "usage"), ([], "usage"),
            ([tmp_path / "none.gguf", "x"], "No such file")):
        done = run(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert "GGUF" in run("--help").stdout
