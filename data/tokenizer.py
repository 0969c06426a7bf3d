"""The tokenizer: the vocabulary shipped in data/, or a checkpoint's own (data/bpe.py), and how prompts are
put to the model.

Special tokens are single ids that text never becomes unless the caller asks (`encode(text, tags=True)`, or a
chat template), so a user's prompt that contains "<|eos|>" stays plain text. Added tokens that the file does
not call special (DeepSeek's <think>) are vocabulary like any other, as in the tokenizers library.

Any pair of special tokens can enclose the thinking (`sft.py --think_tags`); a checkpoint remembers it in its
config.json. Data and rewards are written with <think> and </think> all the same: this file alone puts the
pair in their place on the way in, and back on the way out. A tokenizer without such tokens spells the tags
out: rewards read text.
"""

import math
import re
import shutil
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from config import base_of, closest, is_a, read_json, read_text, typed
from data.bpe import (
    MOST_IDS,
    Added,
    TokenizerError,
    Vocabulary,
    encoding_of,
    isolated,
    load_ranks,
    read_tiktoken_model,
    read_tokenizer_json,
)
from data.chat import marked, render, template_of, unused_character

DEEPSEEK_NAMES = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5c\u2581pad\u2581\uff5c>")
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
CHAT = "chat"  # the checkpoint's own chat template
BESIDE = ("tokenizer.json", "tiktoken.model", "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja", "special_tokens_map.json")  # what transformers and vLLM look for, too


class Tokenizer:
    """A `tiktoken.Encoding` with names for the special ids: bos_id (None: nothing stands before a prompt),
    eos_id (what training appends), eos_ids (all that end a completion), pad_id, and think_ids, what opens and
    closes the thinking (-1: the encoding has no such token). `template` is what prompts are put in: a text
    with {prompt}, or "chat" for the checkpoint's own, which then starts with the text `system`, if any; a
    file template.txt beside the weights. `source`: the folder that it is from."""

    template, system, source = PLAIN, "", ""

    def __init__(self, vocabulary: Vocabulary, bos_id: int | None, eos_ids: tuple[int, ...], pad_id: int,
            think: tuple[str, ...] = TAGS[:2], chat_template: str = "", names: dict[str, str] | None = None):
        self.encoding, self.added, self.rules, _ = vocabulary
        self.bos_id, self.eos_id, self.eos_ids, self.pad_id = bos_id, eos_ids[0], eos_ids, pad_id
        self.start = [] if bos_id is None else [bos_id]  # what stands before a prompt or a document
        self.think = think
        self.think_ids = tuple(self.added[tag].id if tag in self.added else -1 for tag in think)
        self.tags = {tag for tag in (*think, *TAGS[2:]) if tag in self.added}
        self.always = {name for name, token in self.added.items() if not token.special}
        self.special = frozenset(set(self.added) - self.always)
        self.words = frozenset(self.always | set(self.added) - self.tags)  # of a template
        self.vocab_size = self.encoding.n_vocab
        self.chat_template, self.names, self._opening = chat_template, names or {}, {}

    def encode(self, text: str, tags: bool = False) -> list[int]:
        """Token ids of text. With tags=True the four tags become their special tokens, where there are such;
        no other special token ever does."""
        for name, tag in zip(TAGS, self.think, strict=False) if tags else ():
            text = text.replace(name, tag)
        return self._ids(text, self.always | self.tags if tags else self.always)

    def _ids(self, text: str, names: Collection[str], mark: str = "") -> list[int]:
        """Ids of text in which the added tokens `names` are found; the character `mark` is then removed."""
        late = {name for name in names if self.added[name].normalized}
        ids = []
        for i, part in enumerate(_split(text, frozenset(names) - late)):
            if i % 2:
                ids.append(self.added[part].id)
                continue
            for form in self.rules.forms:
                part = unicodedata.normalize(form, part)
            for j, piece in enumerate(_split(part, frozenset(late))):
                ids += [self.added[piece].id] if j % 2 else self._plain(piece.replace(mark, "")
                    if mark else piece)
        return ids

    def _plain(self, text: str) -> list[int]:
        """Ids of text without any added token."""
        pieces, stages, missing = [text], self.rules.stages, self.rules.missing
        for stage in stages[:-1]:
            pieces = [part for piece in pieces for part in isolated(stage, piece)]
        if not missing or not re.search(b"[" + re.escape(missing) + b"]", text.encode(errors="replace")):
            return [i for piece in pieces for i in self.encoding.encode_ordinary(piece)]
        # the tokenizers library drops a byte that has no token, after the text is split; its neighbours merge
        pieces = [part for piece in pieces for part in isolated(stages[-1], piece)]
        kept = (piece.encode(errors="replace").translate(None, missing) for piece in pieces)
        return [i for piece in kept if piece for i in self.encoding._encode_single_piece(piece)]

    def encode_prompt(self, text: str) -> list[int]:
        """BOS, if there is one, and the prompt in its template: what every completion is conditioned on. The
        template's words are tokens where the vocabulary has such (<|User|>), all but the tags: R1-Zero's
        template only speaks of these. The prompt's special ones stay text. Raises UserError where a chat
        template does."""
        if self.template == CHAT:
            return self.encode_chat([{"role": "user", "content": text}])
        mark = ""
        if self.special and _alternatives(self.special).search(text):
            mark = unused_character([self.template, text])
            text = marked(text, self.special, mark)
        return [*self.start, *self._ids(self.template.replace("{prompt}", text), self.words, mark)]

    def encode_row(self, row: dict) -> list[int]:
        """The prompt of a row of data: with a chat template its "messages", where it has some."""
        if self.template == CHAT and "messages" in row:
            return self.encode_chat(row["messages"])
        return self.encode_prompt(row["prompt"])

    def most_ids(self, row: dict, *texts: str) -> float:
        """A bound of the ids of a row's prompt and of texts without counting them: at most one per byte, and
        what the template adds. Infinite where that does not hold: conversations; forms of Unicode."""
        if "messages" in row or self.rules.forms:
            return math.inf
        texts = (row["prompt"], *texts)
        return len(self.encode_prompt("?")) + sum(len(text.encode(errors="replace")) + 1 for text in texts)

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation of {"role", "content"} in the checkpoint's chat template, up to where the assistant
        speaks next; ids as of transformers' apply_chat_template. Tokens are those that the template names:
        what a message spells out stays text (of an assistant's message, special tokens only). Raises
        UserError."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        mark = unused_character([self.chat_template, *(m["content"] for m in messages)])
        messages = [m | {"content": marked(m["content"], self.special if m["role"] == "assistant"
            else self.added, mark)} for m in messages]
        return self._ids(render(self.chat_template, messages, self.names, self.source), set(self.added),
            mark)

    @property
    def opening(self) -> str:
        """How each prompt's template already opens the thinking: the tag, or the text <think> where the tags
        are others, and the white space behind it; or nothing."""
        key = self.template, self.system
        if key not in self._opening:
            end = self.decode(self.encode_prompt("?"))
            found = re.search(rf"({re.escape(self.think[0])}|{TAGS[0]})\s*$", end)
            self._opening[key] = found[0] if found else ""
        return self._opening[key]

    def opens(self, prompt: str) -> bool:
        """Does this prompt open the thinking where its template does not: in `Q: {prompt}` its end is the
        last that the model sees?"""
        last = self.template != CHAT and self.template.rstrip().endswith("{prompt}")
        return last and prompt.rstrip().endswith((TAGS[0], self.think[0]))

    def encode_completion(self, text: str) -> list[int]:
        """Ids of a completion to be learnt, the end token behind it, without what the template has opened."""
        if self.opening:
            rest = text.removeprefix(TAGS[0])
            text = rest if rest == text else rest.removeprefix(self.opening[len(self.opening.rstrip()) :])
        return [*self.encode(text, tags=True), self.eos_id]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens by their names; bytes that are no UTF-8 become U+FFFD."""
        try:
            return self.encoding.decode(ids)
        except KeyError:
            return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; none of an id that only the model has: embeddings are padded to round
        sizes."""
        try:
            return self.encoding.decode_single_token_bytes(id)
        except KeyError:
            return b""

    def decode_completion(self, ids: list[int]) -> str:
        """The text that the rewards read: everything before the end token, <think> and </think> for the tags
        of the thinking, of which the first may stand in the prompt's template."""
        ids = ids[:-1] if ids and ids[-1] in self.eos_ids else ids
        opened = TAGS[0] if self.opening else ""
        if self.think == TAGS[:2]:
            return opened + self.decode(ids)
        names = dict(zip(self.think_ids, TAGS, strict=False))
        parts = ((name, list(part)) for name, part in groupby(ids, names.get))
        return opened + "".join(name * len(part) if name else self.decode(part) for name, part in parts)


@lru_cache
def _alternatives(names: frozenset[str]) -> re.Pattern:
    return re.compile("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")")


def _split(text: str, names: frozenset[str]) -> list[str]:
    """Text and names in turns: of two names at one place the longer one."""
    return _alternatives(names).split(text) if names else [text]


def tag_pair(think_tags: str, source: str = "--") -> tuple[str, ...]:
    """The two tags of --think_tags, <think> and </think> for an empty text. source: what stands before the
    name where a file has them. Raises TokenizerError."""
    pair = tuple(think_tags.split()) or TAGS[:2]
    if len(set(pair)) != 2 or set(pair) & {*SPECIALS[:3], *TAGS[2:]} or pair == TAGS[1::-1]:
        raise TokenizerError(f"{source}think_tags {think_tags!r}: expected two different special tokens, "
            "such as '<|startofthought|> <|endofthought|>'")
    return pair


def shipped(think_tags: str = "", source: str = "--") -> Tokenizer:
    """The tokenizer of this repository: 512 ids, built by data/build_vocab.py. think_tags name the two ids
    that enclose the thinking."""
    ranks, think = load_ranks(VOCAB_FILE), tag_pair(think_tags, source)
    names = (*SPECIALS[:3], *think, *TAGS[2:])
    added = {name: Added(len(ranks) + i) for i, name in enumerate(names)}
    bos, eos, pad = (added[name].id for name in SPECIALS[:3])
    return Tokenizer(Vocabulary(encoding_of("picor1", PATTERN, ranks, added), added), bos, (eos,), pad, think)


# ------------------------------------------------------------------------------------------ a checkpoint's


def _settings(dir: Path, name: str) -> dict:
    return read_json(dir / name) if (dir / name).exists() else {}


def from_tokenizer_json(path: str | Path, think_tags: str = "") -> Tokenizer:
    """The tokenizer of a tokenizer.json and of the settings beside it. Raises TokenizerError."""
    return _named(read_tokenizer_json(path), path, think_tags)


def from_tiktoken_model(path: str | Path, think_tags: str = "") -> Tokenizer:
    """The tokenizer of a tiktoken.model and of the settings beside it. Raises TokenizerError."""
    return _named(read_tiktoken_model(path), path, think_tags)


def _named(vocabulary: Vocabulary, path: str | Path, think_tags: str) -> Tokenizer:
    """The tokenizer with the tokens that the files beside it name: BOS where the vocabulary or add_bos_token
    says so; every end token of the three files; PAD, or an end token. Raises TokenizerError, also for
    think_tags that are none of its tokens."""
    dir, think, added = Path(path).parent, tag_pair(think_tags, f"{path}: "), vocabulary.added
    missing = [tag for tag in think if think_tags and tag not in added]
    if missing:
        raise TokenizerError(f"{path}: think_tags: no special token {missing[0]}{closest(missing[0], added)}")
    own, config, generation = (_settings(dir, f"{name}.json")
        for name in ("tokenizer_config", "config", "generation_config"))
    named = {key: value.get("content") if isinstance(value, dict) else value
        for key, value in (_settings(dir, "special_tokens_map.json") | own).items()
        if key in ("bos_token", "eos_token", "pad_token", "unk_token") and value}
    names = {key: typed(named, key, str, dir / "tokenizer_config.json") for key in named}
    if not own:  # a DeepSeek tokenizer.json alone
        roles = zip(("bos_token", "eos_token", "pad_token"), DEEPSEEK_NAMES, strict=True)
        names = {role: name for role, name in roles if name in added} | names

    def id_of(name: str, role: str) -> int:
        if name not in added:
            raise TokenizerError(f"{path}: {role} {name!r} is none of its added tokens")
        return added[name].id

    llama = not own or str(own.get("tokenizer_class")).startswith("LlamaTokenizer")
    bos = vocabulary.first or (names.get("bos_token") if own.get("add_bos_token", llama) else None)
    given = [typed(settings, "eos_token_id", int | list, dir) for settings in (config, generation)]
    lists = [value if isinstance(value, list) else [value] for value in given if value is not None]
    ends = [i for value in lists for i in value]
    if wrong := [i for i in ends if not is_a(i, int)]:
        raise TokenizerError(f"{dir}: eos_token_id {str(wrong[0])[:60]!r} is no id of a token")
    if "eos_token" in names:
        ends.insert(0, id_of(names["eos_token"], "eos_token"))
    if not ends:
        raise TokenizerError(f"{path}: no end token is known; name it as eos_token in "
            "tokenizer_config.json, or its id as eos_token_id in generation_config.json")
    pads = [added[names["pad_token"]].id] if names.get("pad_token") in added else []
    pads += [i for settings in (generation, config)  # -1 means none
        if (i := typed(settings, "pad_token_id", int, dir)) is not None and i >= 0]
    pads += [added[name].id for name in DEEPSEEK_NAMES[2:] if name in added]
    return Tokenizer(vocabulary, None if bos is None else id_of(bos, "bos_token"),
        tuple(dict.fromkeys(ends)), [*pads, ends[0]][0], think, template_of(dir), names)


def for_checkpoint(dir: str | Path, think_tags: str = "", template: str = "", system: str = "") -> Tokenizer:
    """The checkpoint's own tokenizer.json or tiktoken.model if it has one, else the shipped vocabulary; with
    the template and think_tags given or, if none are, those of its template.txt and config.json. Raises
    UserError, also for a tokenizer with more ids than the model."""
    dir = Path(dir)
    if not dir.is_dir():
        raise TokenizerError(f"checkpoint folder {dir} does not exist")
    config, saved = _settings(base_of(dir), "config.json"), dir / "template.txt"
    config |= {k: v for k, v in _settings(dir, "adapter_config.json").items() if k == "think_tags"}
    if not saved.exists():
        saved = base_of(dir) / "template.txt"
    if not any((dir / name).exists() for name in BESIDE):  # an adapter without a tokenizer of its own
        dir = base_of(dir)
    rows = typed(config, "vocab_size", int, f"{dir}/config.json")
    think_tags = think_tags or typed(config, "think_tags", str, f"{dir}/config.json") or ""
    if (dir / "tokenizer.json").exists():
        tokenizer = from_tokenizer_json(dir / "tokenizer.json", think_tags)
    elif (dir / "tiktoken.model").exists():
        tokenizer = from_tiktoken_model(dir / "tiktoken.model", think_tags)
    else:
        tokenizer = shipped(think_tags, f"{dir}: ")
        if rows not in (None, tokenizer.vocab_size):
            raise TokenizerError(f"{dir} has no tokenizer.json or tiktoken.model; copy the one that "
                f"its model of {rows} ids was trained with")
    if rows is not None and tokenizer.vocab_size > rows:
        raise TokenizerError(f"{dir}: the tokenizer has {tokenizer.vocab_size} ids, the model {rows}; put "
            "the checkpoint's own tokenizer.json beside it")
    if wrong := [i for i in (*tokenizer.eos_ids, tokenizer.pad_id) if not 0 <= i < (rows or MOST_IDS)]:
        raise TokenizerError(f"{dir}: {wrong[0]} is an end or pad token's id, the model has {rows} ids")
    tokenizer.source = str(dir)
    if saved.exists():
        first, _, rest = (text := read_text(saved)).partition("\n")
        tokenizer.template, tokenizer.system = (CHAT, rest) if first == CHAT else (checked(text, saved), "")
    return with_template(tokenizer, template, system)


def with_template(tokenizer: Tokenizer, template: str, system: str) -> Tokenizer:
    """The tokenizer with --template (plain, zero, chat, a text with {prompt}; empty: it stays as it is) and
    --system. Raises TokenizerError."""
    named = {"": tokenizer.template, "plain": PLAIN, "zero": R1_ZERO}.get(template, template)
    tokenizer.template = checked(named, f"--template {template}")
    if named == CHAT and not tokenizer.chat_template:
        raise TokenizerError("--template chat: the checkpoint has no chat_template.jinja, and none in "
            "tokenizer_config.json")
    if system and named != CHAT:
        raise TokenizerError("--system needs --template chat; another template is a text, which can say it")
    tokenizer.system = system or tokenizer.system if named == CHAT else ""
    return tokenizer


def checked(template: str, source: str | Path) -> str:
    """The template. Raises TokenizerError where it has no place for the prompt."""
    if "{prompt}" not in template and template != CHAT:
        raise TokenizerError(f"{source}: expected plain, zero, chat, or a text with {{prompt}} in it")
    return template


def save_beside(tokenizer: Tokenizer, source: str | Path, dir: str | Path, adapter: bool = False):
    """What a checkpoint in dir needs beside its weights: the tokenizer's files of the one that it comes from,
    and the template if it is not the plain one, or is an adapter's: there a missing one is its model's."""
    if source and not any((Path(source) / name).exists() for name in BESIDE):
        source = base_of(source)
    for name in BESIDE if source else ():
        if (Path(source) / name).exists():
            shutil.copy(Path(source) / name, dir)
    text = f"{CHAT}\n{tokenizer.system}" if tokenizer.template == CHAT else tokenizer.template
    if text != PLAIN or adapter:
        (Path(dir) / "template.txt").write_text(text, encoding="utf-8")
