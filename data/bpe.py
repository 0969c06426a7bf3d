"""Vocabulary files as tiktoken encodings: a Hugging Face tokenizer.json, or a tiktoken.model file.

A tokenizer.json splits text in stages: added tokens, a normalisation, then regular expressions one after the
other, each on the pieces of the one before. The last of them is the pattern of the encoding; the others are
the tokenizer's work (data/tokenizer.py). What would give other ids than the tokenizers library is refused by
name.
"""

import base64
import re
from pathlib import Path
from typing import NamedTuple

import regex  # tiktoken brings it
import tiktoken

from config import UserError, read_json, read_text, typed


class TokenizerError(UserError):
    """A vocabulary file is missing, damaged or of a kind that is not supported."""


class Added(NamedTuple):
    """A token that is found in the text before anything else is split."""

    id: int
    special: bool = True  # only where the caller allows it
    normalized: bool = False  # looked for after the normalisation


class Rules(NamedTuple):
    """What happens to text before the encoding sees it, and where bytes are dropped."""

    stages: tuple = ()  # regular expressions; the last one is the encoding's own
    forms: tuple[str, ...] = ()  # of unicodedata.normalize
    missing: bytes = b""  # bytes without a token


class Vocabulary(NamedTuple):
    """What a vocabulary file holds."""

    encoding: tiktoken.Encoding
    added: dict[str, Added]
    rules: Rules = Rules()
    first: str | None = None  # the token that the file puts before every text


def isolated(stage: regex.Pattern, text: str) -> list[str]:
    """The matches and what is between them: Split with the behaviour Isolated."""
    parts, end = [], 0
    for match in stage.finditer(text):
        parts += [text[end : match.start()], match[0]]
        end = match.end()
    return [part for part in (*parts, text[end:]) if part]


MOST_IDS = 1 << 24


def encoding_of(name: str, pattern: str, ranks: dict[bytes, int],
        added: dict[str, Added]) -> tiktoken.Encoding:
    """Raises TokenizerError for a pattern that tiktoken cannot read, and for ids that it would abort at."""
    for ids in (list(ranks.values()), [token.id for token in added.values()]):
        wrong = [i for i in ids if not (isinstance(i, int) and 0 <= i < MOST_IDS)]
        if wrong or len(set(ids)) < len(ids):
            raise TokenizerError(f"{name}: " + (f"{str(wrong[0])[:60]!r} is no id of a token" if wrong
                else "two of its tokens have the same id"))
    if not ranks:
        raise TokenizerError(f"{name}: it has no tokens")
    try:
        return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks,
            special_tokens={name: token.id for name, token in added.items()})
    except ValueError as error:
        raise TokenizerError(f"{name}: tiktoken cannot express its pattern ({error})") from None


# ------------------------------------------------------------------------------------------ tiktoken.model

# Moonlight's and Kimi-K2's rule (tokenization_moonshot.py): runs of Han, words that end where their case
# changes, digits by threes
KIMI_WORD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
KIMI_PATTERN = "|".join([r"[\p{Han}]+",
    *(rf"[^\r\n\p{{L}}\p{{N}}]?{KIMI_WORD[0]}{a}{KIMI_WORD[1]}{b}(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        for a, b in ("*+", "+*")),
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def load_ranks(path: str | Path) -> dict[bytes, int]:
    """Read a tiktoken file: one `base64 rank` per line. Raises UserError naming file and line."""
    ranks = {}
    for number, line in enumerate(read_text(path, "ascii").splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise TokenizerError(f"{path}:{number}: expected 'base64 rank', got {line[:40]!r}") from None
    return ranks


def read_tiktoken_model(path: str | Path) -> Vocabulary:
    """A tiktoken.model file: 256 special tokens follow its ranks, named by added_tokens_decoder in
    tokenizer_config.json, else `<|reserved_token_ID|>`. Raises TokenizerError."""
    ranks, settings = load_ranks(path), Path(path).with_name("tokenizer_config.json")
    if lacking := [b for b in range(256) if bytes([b]) not in ranks]:
        raise TokenizerError(f"{path}: it has no token for the byte {lacking[0]}")
    own = read_json(settings) if settings.exists() else {}
    known = typed(own, "added_tokens_decoder", dict, settings) or {}
    added = {}
    for i in range(len(ranks), len(ranks) + 256):
        token = typed(known, str(i), dict, settings) or {"content": f"<|reserved_token_{i}|>"}
        added[_added_name(token, settings)] = Added(i, token.get("special", True))
    return Vocabulary(encoding_of(str(path), KIMI_PATTERN, ranks, added), added)


# ------------------------------------------------------------------------------------------ tokenizer.json

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, as tokenizer.json writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def read_tokenizer_json(path: str | Path) -> Vocabulary:
    """A byte-level BPE tokenizer.json as a tiktoken encoding; ids are the file's.

    tiktoken merges the neighbours whose union has the lowest id, and takes a piece that is a token whole;
    the tokenizers library applies the listed merges in their order. These are the same where the merges are
    in the order of the ids and each token is what its own bytes merge to (or the file says ignore_merges).
    The order is checked, and that merges make each token; the rest is assumed: it holds for what the
    library's trainer and conversions from tiktoken write. Raises TokenizerError, by name, for what
    else tiktoken cannot express."""
    raw = read_json(path)
    try:
        added = {_added_name(token, path): Added(token["id"], token["special"], token["normalized"])
            for token in raw.get("added_tokens", [])}
        ranks = _ranks(raw["model"], set(added), path)
        stages, forms = _stages(raw.get("pre_tokenizer"), path), _forms(raw.get("normalizer"), path)
        first = _first_token(raw.get("post_processor"))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read as a byte-level tokenizer.json ({error!r})") from None
    # what the last stage does not match stays a piece; tiktoken alone would drop it
    pattern = f"(?m:{stages[-1]}|(?:(?!{stages[-1]})[\\s\\S])+)"
    missing = bytes(b for b in range(256) if bytes([b]) not in ranks)
    if missing and raw["model"].get("unk_token"):
        raise TokenizerError(f"{path}: unk_token {raw['model']['unk_token']!r} is not supported")
    try:
        rules = Rules(tuple(regex.compile(s, regex.V1 | regex.MULTILINE) for s in stages), forms, missing)
    except regex.error as error:
        raise TokenizerError(f"{path}: its pre_tokenizer has a pattern that is not supported ({error})"
            ) from None
    return Vocabulary(encoding_of(str(path), pattern, ranks, added), added, rules, first)


def _added_name(token: dict, path) -> str:
    """The text of an added token. Raises TokenizerError for flags that are not supported."""
    name = token.get("content")
    if not isinstance(name, str) or not name:
        raise TokenizerError(f"{path}: an added token has no text: {str(token)[:60]}")
    for flag in ("lstrip", "rstrip", "single_word"):
        if token.get(flag):
            raise TokenizerError(f"{path}: added token {name!r}: {flag} is not supported")
    return name


def _ranks(model: dict, added: set[str], path) -> dict[bytes, int]:
    """The vocabulary as bytes. Raises TokenizerError for a model whose ids tiktoken would not give."""
    for key, only in {"type": "BPE", "dropout": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "byte_fallback": False}.items():
        if (model.get(key) or only) != only:
            raise TokenizerError(f"{path}: {key} {model[key]!r} is not supported, only byte-level BPE")
    chars, vocab = byte_of_char(), model["vocab"]
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    products = dict.fromkeys("".join(pair) for pair in pairs)  # a token may have several pairs
    order = [vocab[token] for token in products]
    if order != sorted(order):
        raise TokenizerError(f"{path}: its merges are not in the order of its ids; tiktoken cannot express "
            "them")
    tokens = {token: i for token, i in vocab.items() if token in products or token not in added}
    for token in tokens.keys() - products.keys():
        halves = any(token[:i] in tokens and token[i:] in tokens for i in range(1, len(token)))
        if halves or len(token) > 1 and not model.get("ignore_merges"):
            raise TokenizerError(f"{path}: no merge makes its token {token!r}; tiktoken cannot express that")
    try:
        return {bytes(map(chars.__getitem__, token)): i for token, i in tokens.items()}
    except KeyError as error:
        raise TokenizerError(f"{path}: {error} in its vocabulary is no byte; only byte-level BPE is supported"
            ) from None


def _flat(part: dict | None, inner: str) -> list[dict]:
    """The parts of a Sequence, which may hold others."""
    if not part:
        return []
    return [p for one in part[inner] for p in _flat(one, inner)] if part["type"] == "Sequence" else [part]


def _stages(pre_tokenizer: dict | None, path) -> list[str]:
    """The regular expressions that split text, one after the other. Raises TokenizerError."""
    parts, stages = _flat(pre_tokenizer, "pretokenizers"), []
    if not parts or parts[-1]["type"] != "ByteLevel":
        raise TokenizerError(f"{path}: its pre_tokenizer does not end with ByteLevel; only byte-level BPE is "
            "supported")
    for i, part in enumerate(parts):
        if part["type"] == "Split":
            if part["behavior"] != "Isolated" or part.get("invert"):
                raise TokenizerError(f"{path}: pre_tokenizer Split with behavior {part['behavior']}, invert "
                    f"{part.get('invert')} is not supported, only Isolated")
            text = part["pattern"].get("String")
            stages.append(part["pattern"]["Regex"] if text is None else re.escape(text))
        elif part["type"] == "Digits":
            stages.append(r"\p{N}" if part["individual_digits"] else r"\p{N}+")
        elif part["type"] != "ByteLevel" or i + 1 < len(parts):
            raise TokenizerError(f"{path}: pre_tokenizer {part['type']} is not supported there")
        elif part["add_prefix_space"]:
            raise TokenizerError(f"{path}: pre_tokenizer ByteLevel with add_prefix_space is not supported")
        elif part.get("use_regex", True):
            stages.append(GPT2_PATTERN)
    if not all(isinstance(stage, str) for stage in stages):
        raise TypeError("a pattern is no text")
    return stages or [r"[\s\S]+"]


def _forms(normalizer: dict | None, path) -> tuple[str, ...]:
    """The Unicode normalisations. Raises TokenizerError for another normalizer."""
    forms = tuple(part["type"] for part in _flat(normalizer, "normalizers"))
    for form in forms:
        if form not in ("NFC", "NFD", "NFKC", "NFKD"):
            raise TokenizerError(f"{path}: normalizer {form} is not supported, only NFC and its like")
    return forms


def _first_token(post_processor: dict | None) -> str | None:
    """The special token that a TemplateProcessing puts before a single text."""
    for part in _flat(post_processor, "processors"):
        if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
            return part["single"][0]["SpecialToken"]["id"]
    return None
