"""What rows of data have to be before a run begins: columns that rewards can read, prompts that fit, problems
that are not trained on as well."""

import re
from collections.abc import Callable

from config import UserError, say

ASPECTS = ("helpful", "harmless")  # of a pair of replies (preference.py)
NO_TEXT = ("", "nan", "inf", "-inf")  # JSON of Python can hold NaN


def as_text(value: object) -> str:
    """An expected answer: a text, a number, or a list with one of these. Raises ValueError."""
    if isinstance(value, list) and len(value) == 1:
        return as_text(value[0])
    if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value).strip() in NO_TEXT:
        raise ValueError("must be a text or a number, and not empty")
    return str(value)


def whole_number(value: object) -> int:
    """A whole number, also as 7.0, "7" or "1,000". Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?([0-9]{1,20}|[0-9]{1,3}(,[0-9]{3})+)\s*", value):
        return int(value.replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError("must be a whole number")
    return int(value)


def whole_numbers(value: object) -> list[int]:
    """A list of whole numbers from 0 on, also as a text: "3 7 9", "3, 7, 9", "[3, 7, 9]". Raises
    ValueError."""
    if isinstance(value, str) and re.fullmatch(r"[\[(]?\s*[0-9]+([\s,;]+[0-9]+)*\s*[\])]?", value.strip()):
        value = re.findall("[0-9]+", value)
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of whole numbers, such as [3, 7, 9]")
    found = [whole_number(v) for v in value]
    if min(found) < 0:
        raise ValueError("must be numbers from 0 on")
    return found


def texts(value: object) -> list[str] | None:
    """A list of texts with words in them, or nothing. Raises ValueError."""
    if value is not None and not (isinstance(value, list) and value
            and all(isinstance(t, str) and re.search(r"\w", t) for t in value)):
        raise ValueError('must be a list of texts, such as ["yes"]')
    return value


def fitting(rows: list[dict], longest: int, bound: Callable[[dict], float], count: Callable[[dict], int],
        too_long: str) -> list[dict]:
    """The rows of at most `longest` tokens. `bound` is never below a row's tokens and is cheap; only where it
    does not decide, `count` counts them. too_long: "error" raises UserError for the first one, "drop" leaves
    them out and prints how many."""
    if too_long not in ("error", "drop"):
        raise UserError(f"--too_long {too_long}: expected error or drop")
    long = {id(row): n for row in rows if bound(row) > longest if (n := count(row)) > longest}
    if not long:
        return rows
    first = next(row for row in rows if id(row) in long)
    where = getattr(first, "place", "") or repr(first["prompt"][:60])
    what = (f"{where} has {long[id(first)]:,} tokens where {longest:,} fit "
        f"({len(long):,} of {len(rows):,} rows are too long)")
    if too_long == "error":
        raise UserError(f"{what}; --too_long drop leaves them out")
    if len(long) == len(rows):
        raise UserError(f"{what}; no row is left")
    say(f"--too_long drop: {what}: left out")
    return [row for row in rows if id(row) not in long]


def refuse_leaks(train: list[dict], held: list[dict], source: str, allowed: bool):
    """Counts the problems of `held` that are in `train` as well, up to white space: a result on these says
    nothing. Raises UserError if there are any, unless allowed; then it prints the number."""
    def key(row: dict) -> str:
        return " ".join(row["prompt"].split())

    known = {key(row) for row in train}
    leaks = [row for row in held if key(row) in known]
    if not leaks:
        return
    what = (f"{len(leaks):,} of {len(held):,} problems of {source} are trained on, such as "
        f"{getattr(leaks[0], 'place', '')} {leaks[0]['prompt'][:60]!r}")
    if not allowed:
        raise UserError(f"{what}: remove them, or --allow_leaks true")
    say(f"--allow_leaks: {what}")
