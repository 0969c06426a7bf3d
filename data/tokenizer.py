"""tiktoken encodings: the vocabulary shipped in data/, a Hugging Face tokenizer.json, or a tiktoken.model
file.

Digits are split one by one. The tags, BOS, EOS and PAD are special tokens: single ids that text never becomes
unless the caller asks (`encode(text, tags=True)`), so a user's prompt that contains "</think>" or "<|eos|>"
stays plain text.

Any pair of special tokens can enclose the thinking (`sft.py --think_tags`); a checkpoint remembers it in its
config.json. Data and rewards are written with <think> and </think> all the same: this file alone puts the
pair in their place on the way in, and back on the way out.
"""

import base64
import json
import shutil
from itertools import groupby
from pathlib import Path

import tiktoken

from config import UserError, closest, read_json

VOCAB_FILE = Path(__file__).parent / "vocab.tiktoken"
MERGES = 249
PATTERN = (
    r" ?\p{L}+|\p{N}|[^\s\p{L}\p{N}]|\s+(?!\S)|\s"  # words with their space; digits and signs one by one
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPECIALS = ("<|bos|>", "<|eos|>", "<|pad|>", *TAGS)  # ids 505 to 511
# How a prompt is put to the model. R1-Zero's (DeepSeek-R1, Table 1) in few words: it names the tags, as plain
# text.
PLAIN = "{prompt}\n"
R1_ZERO = "Think in <think></think>, answer in <answer></answer>.\nQ: {prompt}\nA:\n"


class TokenizerError(UserError):
    """A vocabulary file is missing, damaged or of a kind that is not supported."""


class Tokenizer:
    """A `tiktoken.Encoding` with names for the special ids: bos_id, eos_id, pad_id (pad is not eos), and
    think_ids, what opens and closes the thinking (-1: the encoding has no such token); and the template that
    prompts are put in, a file template.txt beside the weights."""

    template = PLAIN

    def __init__(self, encoding: tiktoken.Encoding, bos: str, eos: str, pad: str,
            think: tuple[str, ...] = TAGS[:2]):
        self.encoding, ids = encoding, encoding._special_tokens
        self.bos_id, self.eos_id, self.pad_id = ids[bos], ids[eos], ids[pad]
        self.think, self.think_ids = think, tuple(ids.get(tag, -1) for tag in think)
        self.tags = {tag for tag in (*think, *TAGS[2:]) if tag in ids}
        self.vocab_size = encoding.n_vocab

    def encode(self, text: str, tags: bool = False) -> list[int]:
        """Token ids of text. With tags=True the four tags become their special tokens; nothing else ever
        does."""
        for name, tag in zip(TAGS, self.think, strict=False) if tags else ():
            text = text.replace(name, tag)
        return self.encoding.encode(text, allowed_special=self.tags if tags else set(), disallowed_special=())

    def encode_prompt(self, text: str) -> list[int]:
        """BOS and the prompt in its template, as plain text: what every completion is conditioned on."""
        return [self.bos_id, *self.encode(self.template.replace("{prompt}", text))]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens by their names; bytes that are no UTF-8 become U+FFFD."""
        return self.encoding.decode(ids)

    def decode_completion(self, ids: list[int]) -> str:
        """The text that the rewards read: everything before the end token, <think> and </think> for the tags
        of the thinking."""
        ids = ids[:-1] if ids and ids[-1] == self.eos_id else ids
        names = dict(zip(self.think_ids, TAGS, strict=False))
        if self.think == TAGS[:2]:
            return self.decode(ids)
        parts = ((name, list(part)) for name, part in groupby(ids, names.get))
        return "".join(name * len(part) if name else self.decode(part) for name, part in parts)


def load_ranks(path: str | Path) -> dict[bytes, int]:
    """Read a tiktoken file: one `base64 rank` per line. Raises TokenizerError naming file and line."""
    ranks = {}
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise TokenizerError(f"{path}:{number}: expected 'base64 rank', got {line[:40]!r}") from None
    return ranks


def tag_pair(think_tags: str) -> tuple[str, ...]:
    """The two tags of --think_tags, <think> and </think> for an empty text. Raises TokenizerError."""
    pair = tuple(think_tags.split()) or TAGS[:2]
    if len(set(pair)) != 2 or set(pair) & {*SPECIALS[:3], *TAGS[2:]} or pair == TAGS[1::-1]:
        raise TokenizerError(f"think_tags {think_tags!r}: expected two different special tokens, such as "
            "'<|startofthought|> <|endofthought|>'")
    return pair


def shipped(think_tags: str = "") -> Tokenizer:
    """The tokenizer of this repository: 512 ids, built by data/build_vocab.py. think_tags name the two ids
    that enclose the thinking."""
    ranks, think = load_ranks(VOCAB_FILE), tag_pair(think_tags)
    names = (*SPECIALS[:3], *think, *TAGS[2:])
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    encoding = tiktoken.Encoding("picor1", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    return Tokenizer(encoding, *SPECIALS[:3], think)


# DeepSeek-V3's rule, as tokenizer.json states it: digits by threes, CJK runs, then words and signs
DEEPSEEK_PATTERN = (r"\p{N}{1,3}|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+|"
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK_NAMES = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5c\u2581pad\u2581\uff5c>")


def _byte_of_char() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, as tokenizer.json writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def from_tokenizer_json(path: str | Path, think_tags: str = "") -> Tokenizer:
    """A DeepSeek-V3-family tokenizer.json (byte-level BPE) as a tiktoken encoding. Ids are the file's;
    merges must be in the order of the ids, which is what tiktoken's ranks mean. Raises TokenizerError
    otherwise, and for think_tags that are not among its special tokens."""
    think = tag_pair(think_tags)
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        model, added = raw["model"], {t["content"]: t["id"] for t in raw["added_tokens"]}
        if model["type"] != "BPE":
            raise TokenizerError(f"{path}: {model['type']} is not supported, only byte-level BPE")
        chars = _byte_of_char()
        ranks = {bytes(chars[c] for c in token): i for token,
            i in model["vocab"].items() if token not in added}
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path}: cannot be read as a byte-level tokenizer.json ({error!r})") from None
    order = [model["vocab"]["".join(m)] for m in merges]
    if order != sorted(order):
        raise TokenizerError(
            f"{path}: its merges are not in the order of its ids; tiktoken cannot express them"
        )
    missing = [tag for tag in think if think_tags and tag not in added]
    if missing:
        raise TokenizerError(f"{path}: think_tags: no special token {missing[0]}{closest(missing[0], added)}")
    missing = [name for name in DEEPSEEK_NAMES[:2] if name not in added]
    if missing:
        raise TokenizerError(f"{path}: no special token {missing[0]}; only DeepSeek's tokenizers are read")
    digits = r"\p{N}" if '"\\\\p{N}"' in json.dumps(raw.get("pre_tokenizer")) else r"\p{N}{1,3}"
    pattern = DEEPSEEK_PATTERN.replace(r"\p{N}{1,3}", digits, 1)
    encoding = tiktoken.Encoding(str(path), pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)
    pad = DEEPSEEK_NAMES[2] if DEEPSEEK_NAMES[2] in added else DEEPSEEK_NAMES[1]
    return Tokenizer(encoding, DEEPSEEK_NAMES[0], DEEPSEEK_NAMES[1], pad, think)


def for_checkpoint(dir: str | Path, think_tags: str = "") -> Tokenizer:
    """The checkpoint's own tokenizer.json if it has one, else the shipped vocabulary; with its template.txt,
    and the think_tags given or, if none are, those of the checkpoint's config.json. Raises TokenizerError for
    a template without {prompt}."""
    path, config, template = (Path(dir) / name for name in ("tokenizer.json", "config.json", "template.txt"))
    if not think_tags and config.exists():
        think_tags = read_json(config).get("think_tags", "")
    tokenizer = from_tokenizer_json(path, think_tags) if path.exists() else shipped(think_tags)
    if template.exists():
        tokenizer.template = checked(template.read_text(encoding="utf-8"), str(template))
    return tokenizer


def checked(template: str, source: str) -> str:
    """The template. Raises TokenizerError where it has no place for the prompt."""
    if "{prompt}" not in template:
        raise TokenizerError(f"{source}: a prompt template needs {{prompt}} in it")
    return template


def save_beside(tokenizer: Tokenizer, source: str | Path, dir: str | Path):
    """What a checkpoint in dir needs beside its weights: tokenizer.json of the one that it comes from, and
    the template if it is not the plain one."""
    if source and (Path(source) / "tokenizer.json").exists():
        shutil.copy(Path(source) / "tokenizer.json", dir)
    if tokenizer.template != PLAIN:
        (Path(dir) / "template.txt").write_text(tokenizer.template, encoding="utf-8")
