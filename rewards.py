"""Rule-based rewards (DeepSeek-R1, arXiv 2501.12948, sec. 2.2.2): exact, without eval, without floats.

A reward is `f(completions: list[str], **columns) -> list[float]`: one column per field of the dataset rows,
each a list as long as `completions`; extra columns are ignored. This is the calling convention of TRL's
reward functions. A new reward = one function, one row in REWARDS, its name in TASK_REWARDS, one test.
"""

import ast
import re
from collections import Counter
from fractions import Fraction

from config import UserError

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
MAX_EXPRESSION = 200  # characters of a Countdown answer
MAX_ANSWER = 10_000  # characters of any answer


def extract_answer(completion: str) -> str | None:
    """The text between the answer tags, stripped, if the completion is `<think>...</think>` then
    `<answer>...</answer>` and nothing else but white space, each tag exactly once and in this order; else
    None."""
    match = FORMAT.fullmatch(completion)
    if not match or any(completion.count(tag) != 1 for tag in TAGS) or len(match[2]) > MAX_ANSWER:
        return None
    return match[2].strip()


def format_reward(completions: list[str], **_) -> list[float]:
    """1.0 where the completion has the format that `extract_answer` reads, else 0.0."""
    return [float(extract_answer(c) is not None) for c in completions]


def exact_reward(completions: list[str], answer: list[str], **_) -> list[float]:
    """1.0 where the extracted answer is the expected text, up to runs of white space; else 0.0."""
    return [float((given := extract_answer(c)) is not None and given.split() == want.split()) for c,
        want in zip(completions, answer, strict=True)]


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of an expression of whole numbers, + - * / and brackets, and the numbers that it
    uses; None for anything else: other characters or operators, signs, division by zero, too long, too
    deep."""
    if len(expression) > MAX_EXPRESSION or not re.fullmatch(r"[0-9+\-*/() ]+", expression):
        return None
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    numbers: list[int] = []

    def value(node) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in (ast.Add, ast.Sub, ast.Mult, ast.Div):
            a, b = value(node.left), value(node.right)
            return {ast.Add: a.__add__, ast.Sub: a.__sub__, ast.Mult: a.__mul__,
                ast.Div: a.__truediv__}[type(node.op)](b)
        raise ValueError("not part of the game")

    try:
        return value(tree), numbers
    except (ValueError, ZeroDivisionError):
        return None


def countdown_reward(completions: list[str], numbers: list[list[int]], target: list[int], **_) -> list[float]:
    """1.0 where the answer is an expression with + - * / and brackets that uses each given number exactly
    as often as given and has exactly the target's value. A trailing `= target` is accepted if it is the
    right target."""
    return [float(_solves(extract_answer(c), n, t)) for c, n,
        t in zip(completions, numbers, target, strict=True)]


def _solves(answer: str | None, numbers: list[int], target: int) -> bool:
    if answer is None:
        return False
    expression, equals, stated = answer.partition("=")
    if equals and not (re.fullmatch(r"\s*[0-9]{1,20}\s*", stated) and int(stated) == target):
        return False
    result = evaluate(expression)
    return result is not None and result[0] == target and Counter(result[1]) == Counter(numbers)


REWARDS = {"format": format_reward, "countdown": countdown_reward, "exact": exact_reward}

# a task's rewards: (name in REWARDS, weight, is it the accuracy?)
TASK_REWARDS: dict[str, list[tuple[str, float, bool]]] = {"countdown": [("countdown", 1.0, True),
    ("format", 0.1, False)], "arithmetic": [("exact", 1.0, True), ("format", 0.1, False)],
    "sort_words": [("exact", 1.0, True), ("format", 0.1, False)]}


def check_rows(rows: list[dict], source: str):
    """Raises UserError for the first row whose task is unknown or whose columns its rewards cannot use."""
    for number, row in enumerate(rows, 1):
        if row["task"] not in TASK_REWARDS:
            names = ", ".join(TASK_REWARDS)
            raise UserError(f"{source}: row {number}: unknown task {row['task']!r}; choose from {names}")
        try:
            score([row], [""])
            score([row], ["<think></think><answer>1</answer>"])
        except (TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{source}: row {number}: task {row['task']} cannot be scored: {error}") from None


def score(rows: list[dict], completions: list[str]) -> list[dict[str, float]]:
    """Per completion: each component of its task's rewards, "accuracy", and "reward", their weighted sum."""
    out: list[dict[str, float]] = [{} for _ in rows]
    for task in dict.fromkeys(row["task"] for row in rows):
        at = [i for i, row in enumerate(rows) if row["task"] == task]
        columns = {k: [rows[i][k] for i in at] for k in rows[at[0]] if k not in ("prompt", "task")}
        for name, weight, is_accuracy in TASK_REWARDS[task]:
            for i, value in zip(at, REWARDS[name]([completions[j] for j in at], **columns), strict=True):
                out[i][name] = value
                out[i]["reward"] = out[i].get("reward", 0.0) + weight * value
                if is_accuracy:
                    out[i]["accuracy"] = value
    return out
