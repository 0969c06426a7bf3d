"""Tasks of reasoning-gym, a library of 100 generators that check their own answers (optional:
requirements-gym.txt): --task gym:chain_sum,min_terms=2 or, a part drawn at random for each row,
gym:chain_sum+letter_counting,min_words=3.

A row says where it comes from, {"dataset": "chain_sum,min_terms=2", "seed", "index"}, and `entry` makes the
library's own entry again wherever an answer is scored: entries hold what no JSON file does. Train and test
draw different seeds, and a fifth of all questions is held out by hash (tasks.split_of), for two seeds may
come upon one question.
"""

import ast
import contextlib
import datetime
import enum
import io
import math
import random
import re
import typing
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

import config
from config import UserError, closest

LONGEST = 10_000  # characters by which an answer may be longer than the gold one
# Generators whose rows depend on their `size`, or end with it: that many rows for each of 16 seeds. All
# others take any index, and draw from Random(seed + index).
SIZES = {"acre": 500, "gsm_symbolic": 5000, "list_functions": 5000}
ORDER = "its rows differ from process to process (they depend on the order of a set)"
REFUSED = {  # measured, 50 rows of each generator: docs/data.md
    **dict.fromkeys(("codeio", "isomorphic_strings", "knight_swap", "polynomial_multiplication",
        "ransom_note", "word_ladder"), ORDER),
    "boxnet": "it has no gold answer, and its scorer fails on most texts",
    "composite": "join tasks by + instead: gym:chain_sum+letter_counting",
}
UNSAFE = {"intermediate_integration": "its scorer runs the model's answer as Python (sympy.parse_expr)"}


def literal(answer: str, _: dict) -> bool:
    """Is it a Python literal, such as [[1, 0], [0, 1]]?"""
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def form(pattern: str) -> Callable[[str, dict], bool]:
    """Does the whole text have that form?"""
    return lambda answer, _: re.fullmatch(pattern, answer, re.DOTALL) is not None


def numbers_of(text: str) -> list[float]:
    """The numbers in a text, in rising order."""
    return sorted(map(float, re.findall(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", text)))


# What some scorers do not see to, as a rule over (answer, entry); an answer that breaks it scores 0. Those
# that evaluate the answer as Python, or count up to a number in it, are asked only about what calls nothing,
# reads no attribute and takes no time. Others take nan, numbers that are off by one, any four numbers that
# make 24, the first of several answers, or every text for right.
SUM = form(r"(?:[-+() 0-9]|([*/])(?!\s*\1)){1,200}")  # no ** and no //
POLYNOMIAL = form(r"(?:[-+/ 0-9]|(?<=[0-9])\.(?=[0-9])|\(-?[0-9]{1,9}/[0-9]{1,9}\)(?!\s*\*\*)|\*(?!\*)|"
    r"(?<![0-9a-zA-Z])[a-zA-Z](?![a-zA-Z])|\*\*\s?[0-9]{1,2}(?![0-9]|\s*\*\*)){1,200}")
MOVES = form(r"(?:[^0-9]|(?<![0-9])[0-9]{1,2}(?![0-9]))*")
CHANCE = form(r"[0-9]{1,30}/0*[1-9][0-9]{0,30}|[0-9]{0,30}\.?[0-9]{1,30}(?:e[-+]?[0-9]{1,2})?")
RULES: dict[str, Callable[[str, dict], bool]] = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), literal),
    **dict.fromkeys(("rubiks_cube", "rush_hour"), MOVES), "countdown": SUM, "simple_integration": POLYNOMIAL,
    "puzzle24": lambda a, e: SUM(a, e) and sorted(map(int, re.findall("[0-9]+", a))) == sorted(
        e["metadata"]["numbers"]),
    "number_sorting": lambda a, e: numbers_of(a) == numbers_of(e["answer"]),
    "coin_flip": lambda a, e: CHANCE(a, e) and 100 * abs(1 - Fraction(a) / (Fraction(e["answer"]) or 1)) <= 1,
    "complex_arithmetic": form(r"[-+0-9.ij() ]*"), "advanced_geometry": form(r"[^,]*(?:,[^,]*)?"),
    "fraction_simplification": lambda a, e: len(re.findall("frac|/", a)) == 1,
    "gsm_symbolic": form(r"[^-0-9]*[0-9]+(?:\.[0-9]+)?[^0-9]*"),
    "time_intervals": lambda a, e: len(numbers_of(a)) <= len(numbers_of(e["answer"])) and "-" not in a,
    "word_sorting": lambda a, e: a.count(",") == e["answer"].count(","),
    "polynomial_equations": form(r"(?:\s*[-+]?[0-9.]+\s*(?:,|$))*"),
    "letter_jumble": lambda a, e: len(a.split()) == len(e["answer"].split()),
    "game_of_life_halting": lambda a, e: a == e["answer"],
}


def library() -> dict[str, tuple]:
    """{name: (class of the data set, class of its settings)}. Raises UserError without the library."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(f"--task gym: {error}: pip install -r requirements-gym.txt") from None
    return DATASETS


def read_knob(text: str, kind: object) -> object:
    """A knob's text as its declared type; lists are written a:b:c. Raises ValueError or TypeError."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if type(None) in inner:
        return None if text == "none" else read_knob(text, inner[0])
    if origin is typing.Literal:
        return dict(zip(map(str, inner), inner, strict=True))[text]
    if origin in (list, tuple, Sequence) and not any(map(typing.get_origin, inner)):
        values = [read_knob(item, inner[0] if inner else str) for item in text.split(":")]
        return tuple(values) if origin is tuple else values
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if kind in (datetime.date, datetime.time):
        return kind.fromisoformat(text)
    if kind in (int, float, str) or isinstance(kind, enum.EnumMeta):
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError(text)
        return value
    raise TypeError("it is no number, text or list of them")


@lru_cache
def gym_parts(text: str) -> tuple[str, ...]:
    """'chain_sum,min_terms=2+letter_counting' -> its parts, each tried once. Raises UserError."""
    parts = tuple(re.split(r"\+(?=[a-z])", text))  # not within operators=+:-
    for part in parts:
        entry(part, 0, 0)
    return parts


def settings(part: str) -> tuple[str, dict]:
    """'chain_sum,min_terms=2' -> ('chain_sum', {'min_terms': 2}), by the types that the library declares.
    Raises UserError."""
    name, *knobs = part.split(",")
    known = library()
    if name in REFUSED or name in UNSAFE and not config.unsafe_code_execution:
        raise UserError(f"--task gym:{name}: " + (REFUSED.get(name)
            or f"{UNSAFE[name]}; --unsafe_code_execution allows it"))
    if name not in known:
        raise UserError(f"--task gym:{name}: no such data set{closest(name, known.keys() - REFUSED)}")
    kinds = {k: v for k, v in typing.get_type_hints(known[name][1]).items() if k not in ("seed", "size")}
    out = {}
    for knob in knobs:
        key, _, value = knob.partition("=")
        if key not in kinds:
            raise UserError(f"--task gym:{name}: unknown knob {key!r}{closest(key, kinds)}")
        try:
            out[key] = read_knob(value, kinds[key])
        except (ValueError, KeyError, TypeError):
            kind = getattr(kinds[key], "__name__", "") if not typing.get_args(kinds[key]) else str(kinds[key])
            raise UserError(f"--task gym:{name}: cannot read {knob!r}: expected {kind} "
                "(a list is written a:b:c)") from None
    return name, out


@lru_cache(64)
def dataset(part: str, seed: int):
    """The library's data set for a part of a task. Raises UserError, also with what the library refuses."""
    name, knobs = settings(part)
    kind, config_kind = library()[name]
    try:
        return kind(config_kind(seed=seed, size=SIZES.get(name, 500), **knobs))  # checks its settings
    except Exception as error:
        why = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"--task gym:{part}: the library refuses it: {why[0]}") from error


def silence() -> contextlib.AbstractContextManager:
    """Some generators and scorers print."""
    return contextlib.redirect_stdout(io.StringIO())


@lru_cache(4096)
def entry(part: str, seed: int, index: int) -> dict:
    """The library's {"question", "answer", "metadata"}, by its place alone. Raises UserError."""
    made, state = dataset(part, seed), random.getstate()
    random.seed(f"{seed}/{index}")  # a few generators draw from the global one
    try:
        with silence():
            return made[index]
    except Exception as error:
        raise UserError(f"--task gym:{part}: the library's generator fails at seed {seed}, index {index}: "
            f"{type(error).__name__}: {error}") from error
    finally:
        random.setstate(state)


def gym_problem(rng: random.Random, parts: tuple[str, ...]) -> dict:
    """A random row of a random part."""
    part = rng.choice(parts)
    size = SIZES.get(part.split(",")[0])
    seed, index = (rng.randrange(16), rng.randrange(size)) if size else (0, rng.getrandbits(31))
    made = entry(part, seed, index)
    gold = made["answer"]
    return {"prompt": made["question"], "task": "gym", "answer": "" if gold is None else str(gold),
        "dataset": part, "seed": seed, "index": index}


def gym_score(answer: str | None, prompt: str, part: str, seed: int, index: int) -> float:
    """The library's own score of an answer, 0 to 1: 1 is right, less is partial credit. 0 without an answer
    and for one that it is not asked about (RULES, LONGEST). Where its scorer fails on an answer, that one is
    wrong; the first such failure of each data set is a warning. Raises UserError for a row of another
    version."""
    made = entry(part, seed, index)
    if made["question"] != prompt:
        raise UserError(f"a row of gym:{part} is not what this version of reasoning-gym makes of seed "
            f"{seed}, index {index}: install the version that it was made with")
    name = part.split(",")[0]
    if answer is None or len(answer) > LONGEST + len(str(made["answer"])):
        return 0.0
    if answer != made["answer"] and name in RULES and not RULES[name](answer, made):
        return 0.0
    try:
        with silence():
            value = float(dataset(part, seed).score_answer(answer, made))
        return value if 0 <= value <= 1 else 0.0  # shares that add up to 1 + 2e-16 are not right
    except Exception as error:
        warnings.warn(f"reasoning-gym's scorer of {name} fails on an answer, which counts as wrong: "
            f"{type(error).__name__}", stacklevel=2)
        return 0.0
