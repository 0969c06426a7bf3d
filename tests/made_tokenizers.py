"""tokenizer.json files with the splitting rules of released families, trained by the tokenizers library on
made text; and the made text. The regular expressions are those of the released files."""

import base64
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="the oracle of tokenizer.json: requirements-dev.txt")
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

from data.bpe import byte_of_char  # noqa: E402
from data.tokenizer import DEEPSEEK_NAMES, from_tiktoken_model, from_tokenizer_json  # noqa: E402

ROOT = Path(__file__).parent.parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
V3 = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
# letters of V2's rule: those that have a case, as ranges; a part of them here
V2 = ("[\r\n]", "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\U00010400-\U0001044f\U0001e900-\U0001e943]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", "\\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
KIMI = (r"[\p{Han}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def splits(*patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


def families() -> dict[str, tuple]:
    """name -> (splits before the bytes, ByteLevel's own pattern, NFC, special tokens, other added tokens)"""
    digits = pre_tokenizers.Digits
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    llama = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    other = ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"]
    return {"smollm2": ([digits(individual_digits=True)], True, False, chat, []),
        "gpt2": ([], True, False, chat, []),
        "falcon_digits": ([digits(individual_digits=False)], True, False, chat, []),
        "llama3": (splits(LLAMA3), False, False, llama, []),
        "qwen2": (splits(QWEN), False, True, chat, ["<think>", "</think>", "<tool_call>"]),
        "deepseek_v3": (splits(*V3), False, False, list(DEEPSEEK_NAMES), other),
        "deepseek_v2": ([*splits(*V2), digits(individual_digits=True)], False, False, list(DEEPSEEK_NAMES),
            other[:2]),
        "kimi": (splits(KIMI), False, False, [], [])}


@cache
def made(name: str, size: int = 1500):
    """The library's tokenizer of a family, trained on made text."""
    before, use_regex, nfc, special, other = families()[name]
    tok = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tok.decoder = decoders.ByteLevel()
    tok.normalizer = normalizers.NFC() if nfc else None
    tok.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(False,
        use_regex=use_regex)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if name == "smollm2":  # the released file has no tokens for some bytes
        alphabet = [c for c in alphabet if c not in "\u0104\u0106\u0113\u00f2"]
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False,
        limit_alphabet=len(alphabet) if name == "smollm2" else 256)
    tok.train_from_iterator([made_text(i, 4000) for i in range(60)] + [code_text(60_000)], trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=name.startswith("deepseek"))
        for s in special])
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in other])
    if name == "llama3":
        tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin_of_text|> $A",
                special_tokens=[("<|begin_of_text|>", tok.token_to_id("<|begin_of_text|>"))])])
    return tok


def ours(tok, dir: Path, tiktoken: bool = False):
    """Our tokenizer of it, from a file in dir."""
    if not (dir / "tokenizer_config.json").exists() and DEEPSEEK_NAMES[0] not in tok.get_vocab():
        (dir / "generation_config.json").write_text('{"eos_token_id": 5}')
    if tiktoken:
        save_tiktoken(tok, dir)
        return from_tiktoken_model(dir / "tiktoken.model")
    tok.save(str(dir / "tokenizer.json"))
    return from_tokenizer_json(dir / "tokenizer.json")


def code_text(size: int, first: int = 0) -> str:
    """Python sources of the standard library."""
    text = ""
    for path in sorted(Path(random.__file__).parent.glob("*.py"))[first:]:
        text += path.read_text(encoding="utf-8", errors="replace")
        if len(text) > size:
            break
    return text[:size]


def save_tiktoken(tok, dir: Path):
    """The vocabulary as a tiktoken.model file."""
    chars = byte_of_char()
    tokens = sorted(tok.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    lines = (f"{base64.b64encode(bytes(chars[c] for c in token)).decode()} {i}\n" for token, i in tokens)
    (dir / "tiktoken.model").write_text("".join(lines))


ODD = [*"\t\r\n\v\f\x00\x01\x04\x13\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad", "\r\n", "\n\n", "   ", " ", "  \n ",
    "\u3000", "\u2028", "\u200b", "\u200d", "\ufeff", "\ufffd", "\ue000", "\U000f0000"]
WORDS = ["hello", "World", "HTTPServer", "don't", "I'LL", "we'Ve", "'\u017f", "caf\u00e9", "cafe\u0301",
    "na\u00efve", "\u01c5", "\u00df", "x1y2", "3.14", "12345678", " 123", "  123", "1,000", "\u0663\u0664",
    "\u00bd", "\u2167", "\u4f60\u597d", "\u4e16\u754c\uff0c", "abc\u6c49\u5b57def",
    "\u3053\u3093\u306b\u3061\u306f", "\u30ab\u30bf", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f3f4\U000e0067\U000e007f",
    "\u2764\ufe0f", "a\u0300\u0316\u0301", "\u212b", "\ufb01", "\u20ac5", "$9.99", "!!!", "...", "==", "->",
    "/*", "*/", "//", "#include", "\\n", "()[]{}", "'", "\"", "\u201cquoted\u201d", "the", " of", " and",
    "ing", "tion", "\U00020000", "\u3400", "\u0300", "\u02bc", "\u1e9b\u0323"]


def made_text(seed: int, size: int) -> str:
    """Words of many scripts, digits, signs, odd white space, control characters, any character."""
    rng, out, length = random.Random(seed), [], 0
    while length < size:
        kind = rng.random()
        if kind < 0.55:
            piece = rng.choice(WORDS) + rng.choice(["", " ", " ", "\n"])
        elif kind < 0.7:
            piece = rng.choice(ODD) * rng.choice([1, 1, 2, 7])
        elif kind < 0.8:
            piece = "".join(chr(rng.randint(0x4e00, 0x9fff)) for _ in range(rng.randint(1, 6)))
        elif kind < 0.9:
            piece = "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 8)))
        else:
            piece = chr(rng.choice([rng.randint(0, 0x2fff), rng.randint(0, 0x1ffff)]))
            piece = piece if assigned(piece) else ""
        out.append(piece)
        length += len(piece)
    return "".join(out)


def assigned(c: str) -> bool:
    """Neither a surrogate nor new: the libraries know different versions of Unicode."""
    return unicodedata.category(c) not in ("Cn", "Cs") and unicodedata.ucd_3_2_0.category(c) != "Cn"
