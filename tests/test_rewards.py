"""Rewards: the format, and Countdown, exact."""

import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import UserError
from data.tasks import row_at
from rewards import (
    REWARDS,
    TASK_REWARDS,
    check_rows,
    countdown_reward,
    evaluate,
    exact_reward,
    extract_answer,
    format_reward,
    score,
)


def wrap(answer, thinking="x"):
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize("text,answer", [(wrap("1+2"), "1+2"), ("  " + wrap(" a ") + "\n", "a"),
    ("<think></think><answer></answer>", ""), (wrap("1", "a\nb"), "1")])
def test_the_format_is_read(text, answer):
    assert extract_answer(text) == answer and format_reward([text]) == [1.0]


@pytest.mark.parametrize("text", ["", "1+2", "<answer>1</answer>", "<think>x</think>",
    "<think>x</think><answer>1", "x" + wrap("1"), wrap("1") + "x", wrap("1") + wrap("1"),
    "<answer>1</answer><think>x</think>", wrap("1", "<think>"), wrap("1", "a</think>b"),
    wrap("1", "<answer>2</answer>"), wrap("<answer>1"), wrap("1</answer><answer>2"),
    "<THINK>x</THINK><answer>1</answer>", wrap("1").replace("</think>", "</think>so "), wrap("x" * 20_000)])
def test_everything_else_is_no_format(text):
    assert extract_answer(text) is None and format_reward([text]) == [0.0]


@pytest.mark.parametrize("answer,right", [("(7-3)*9", 1), ("9*(7-3)", 1), ("(7-3)*9=36", 1),
    ("(7-3)*9 = 36 ", 1), ("((7)-(3))*9", 1), ("(7-3)*9=37", 0), ("(7-3)*9=36=36", 0), ("36", 0),
    ("7-3*9", 0), ("(7-3)*9*1", 0), ("(7-3)*9+7-7", 0), ("9*4", 0), ("(7-3)**9", 0), ("(7-3)//9", 0),
    ("(7-3)*9.0", 0), ("+(7-3)*9", 0), ("(7-3)*9#", 0), ("x", 0), ("", 0), ("(7-3)*9;", 0), ("[7-3]*9", 0),
    ("__import__('os')", 0), ("7 3 9", 0), ("(7-3)*\u0669", 0), ("(7-3)*9 or 1", 0), ("(7-3)*9,", 0),
    ("(07-3)*9", 0), ("(7-3)*9\n", 1), ("(7-3)x9", 0), ("1_0", 0), ("0x9*(7-3)", 0)])
def test_countdown_answers_with_known_truth(answer, right):
    assert countdown_reward([wrap(answer)], numbers=[[3, 7, 9]], target=[36]) == [float(right)]


def test_countdown_counts_each_number_exactly_and_divides_exactly():
    ask = lambda answer, numbers, target: countdown_reward([wrap(answer)], [numbers], [target])[0]  # noqa: E731
    assert ask("5+5", [5, 5], 10) == 1 and ask("5+5", [5, 10], 10) == 0 and ask("2*5", [5, 5], 10) == 0
    assert ask("8/(3-8/3)", [8, 3, 8, 3], 24) == 1  # only true with fractions
    assert (ask("1/3*3", [1, 3, 3], 1) == 1 and ask("7/7", [7, 7], 1) == 1 and ask("7/(3-3)", [7, 3, 3], 0)
        == 0)
    assert ask("10/3", [10, 3], 3) == 0 and ask("99999999999999999+1", [99999999999999999, 1], 10**17) == 1


def test_nothing_explodes_and_nothing_takes_long():
    nasty = ["9**9**9", "99**99**99", "(" * 100_000, "9" * 100_000, "1+" * 50_000 + "1", "-" * 1000 + "1",
        "9*" * 90 + "9", "(" * 95 + "1" + ")" * 95, "\x00", "1\n+\n2", "\ud800", "lambda: 0", "9" * 199]
    start = time.perf_counter()
    assert countdown_reward([wrap(n) for n in nasty], [[1]] * len(nasty),
        [5] * len(nasty)) == [0.0] * len(nasty)
    assert (
        time.perf_counter() - start < 5
    )  # a hang, not a timing: each is refused by its length or its characters
    assert evaluate("1+" * 101) is None


def expressions():
    return st.recursive(st.integers(0, 60).map(str), lambda e: st.tuples(e, st.sampled_from("+-*/"),
        e).map(lambda t: f"({t[0]}{t[1]}{t[2]})"), max_leaves=12)


@given(expressions())
@settings(max_examples=300, deadline=None)
def test_evaluation_equals_fractions(expression):
    import re

    try:
        want = eval(re.sub(r"(\d+)", r"Fraction(\1)", expression))
    except ZeroDivisionError:
        want = None
    got = evaluate(expression)
    if len(expression) <= 200:
        assert (got and got[0]) == want
        assert got is None or got[1] == [int(n) for n in re.findall(r"\d+", expression)]


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_scored_without_an_exception(text):
    for completion in (text, wrap(text), wrap("1", text)):
        assert countdown_reward([completion], [[1, 2]], [3])[0] in (0.0, 1.0)


def test_exact_reward_compares_words():
    assert exact_reward([wrap("a  b"), wrap("a b c"), "a b"], ["a b"] * 3) == [1.0, 0.0, 0.0]


def test_each_task_picks_its_rewards_and_components_stay_apart():
    rows = [row_at(t, "train", 0, 0) for t in ("countdown", "arithmetic")]
    out = score(rows * 2, [wrap("0"), wrap(rows[1]["answer"]), "no", wrap("1")])
    assert out[0] == {"countdown": 0.0, "format": 1.0, "reward": 0.1, "accuracy": 0.0}
    assert out[1] == {"exact": 1.0, "format": 1.0, "reward": 1.1, "accuracy": 1.0}
    assert out[2]["reward"] == 0.0 and out[3]["reward"] == pytest.approx(0.1)
    assert {name for rows in TASK_REWARDS.values() for name, _, _ in rows} <= set(REWARDS)


@pytest.mark.parametrize("row,message", [({"prompt": "p", "task": "chess"}, "unknown task"),
    ({"prompt": "p", "task": "countdown", "target": 3}, "numbers"),
    ({"prompt": "p", "task": "arithmetic", "answer": 3}, "cannot be scored")])
def test_rows_that_cannot_be_scored_are_found_before_the_run(row, message):
    with pytest.raises(UserError, match=message):
        check_rows([row], "rows.jsonl")


def test_rewards_follow_the_calling_convention_of_trl():
    """Keyword columns as lists, unknown keywords ignored, a list of floats back."""
    n = 5
    columns = dict(completions=[wrap("1+2")] * n, numbers=[[1, 2]] * n, target=[3] * n, answer=["1+2"] * n,
        prompts=["p"] * n, completion_ids=[[1]] * n, trainer_state=None)
    for name, reward in REWARDS.items():
        assert reward(**columns) == [1.0] * n, name


def test_random_expressions_reward_exactly_the_true_ones():
    rng = random.Random(0)
    for _ in range(300):
        numbers = [rng.randint(1, 9) for _ in range(3)]
        a, b, c = numbers
        text = f"({a}{rng.choice('+-*/')}{b}){rng.choice('+-*/')}{c}"
        value = evaluate(text)[0]
        for target in (int(value), int(value) + 1):
            assert countdown_reward([wrap(text)], [numbers], [target]) == [float(Fraction(target) == value)]
