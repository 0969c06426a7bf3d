"""Documents in which some tokens need a computation that is not written down: for experiments/quiet.py, which
asks whether thoughts go where they help."""

import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

from data.tasks import random_expression
from data.tokenizer import Tokenizer


def sums(rng: random.Random) -> tuple[str, str]:
    """An expression of the web's problems and its value; there the steps stand between the two."""
    found = None
    while found is None:
        found = random_expression([rng.randint(1, 12) for _ in range(3)], "+-*", 40, rng)
    return f"{found[0]}=", str(found[1])


def copy(rng: random.Random) -> tuple[str, str]:
    """Four digits, again behind nine others."""
    first, between = ("".join(rng.choices("0123456789", k=k)) for k in (4, 9))
    return f"{first};{between};", first


def parity(rng: random.Random) -> tuple[str, str]:
    """Eight bits and whether the number of ones is odd."""
    bits = "".join(rng.choices("01", k=8))
    return f"{bits}:", str(bits.count("1") % 2)


MADE = {"sums": sums, "copy": copy, "parity": parity}  # what is not written -> (question, answer)
KINDS = ("web", "asked", *MADE)  # of tokens: of the web, of a question, of an answer; these are the hard ones
HARD, LINES, TEST_SHARE = 2, 8, 5  # lines of a made document; a question in five is held out, by its hash


class Document(NamedTuple):
    tokens: list[int]
    kinds: list[int]  # of each token: a place in KINDS, HARD or more for a hard one
    number: int  # its noise


def made(rng: random.Random, split: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """(tokens, kinds) of lines of question and answer."""
    tokens, kinds, lines = list(tokenizer.start), [1] * len(tokenizer.start), 0
    while lines < LINES:
        name = rng.choice(list(MADE))
        question, answer = MADE[name](rng)
        if (zlib.crc32(question.encode()) % TEST_SHARE == 0) != (split == "test"):
            continue
        for text, kind in ((question, 1), (answer, KINDS.index(name)), ("\n", 1)):
            ids = tokenizer.encode(text)
            tokens, kinds = tokens + ids, kinds + [kind] * len(ids)
        lines += 1
    return [*tokens, tokenizer.eos_id], [*kinds, 1]


def documents(tokenizer: Tokenizer, web: Callable[[int], dict], split: str, seed: int, share: float,
        length: int) -> Callable[[int], Document]:
    """index -> Document of at most `length` tokens, endless: a page of the web (index -> row), or for this
    share of them a made text; of a split, "train" or "test"."""
    def at(index: int) -> Document:
        rng = random.Random(f"hidden/{split}/{seed}/{index}")
        if rng.random() < share:
            tokens, kinds = made(rng, split, tokenizer)
        else:
            tokens = [*tokenizer.start, *tokenizer.encode(web(index)["text"]), tokenizer.eos_id]
            kinds = [0] * len(tokens)
        return Document(tokens[:length], kinds[:length], index)

    return at
