"""The attempts of a completion's thinking, against chains whose truth is known because they were made."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.tasks import countdown_chain, random_expression, row_at, work_out
from verify import countdown
from verify.countdown import attempts, plain_expression


def read(thinking: str, end: str = "</think>\n<answer>7-3=4</answer>"):
    return [(a.expression, a.true) for a in attempts(f"<think>{thinking}{end}")]


@pytest.mark.parametrize("line,expression,true", [
    ("(7-3)*9=4*9=36 need 40 low wait", "(7-3)*9", True),  # as the cold start writes
    ("(7-3)*9=4*9=35 need 40 low wait", "(7-3)*9", False),
    ("(7-3)*9=5*9=36 need 40 low wait", "(7-3)*9", False),  # a wrong step in the middle
    ("(10*3)-11=30-11=29 need 19", "(10*3)-11", False),
    ("(10*3)-11=30-=19 need 19", "(10*3)-11", False),
    ("Let me try (7 - 3) * 9 = 36, which is too low.", "(7-3)*9", True),
    ("Hmm, 7 3 9: (7-3)*9 = 4 * 9 = 36 (I need 40).", "(7-3)*9", True),
    ("- 7 - 3 = 4", "7-3", True), ("1. 7 - 3 = 4", "7-3", True), ("2) 7-3=4", "7-3", True),
    ("Attempt 12: **7 - 3 = 4**", "7-3", True), ("`7-3 = 4`", "7-3", True),
    ("so [7-3]*9 = 36", "(7-3)*9", True), ("(that is 7-3 = 4)", "7-3", True),
    ("((7-3)*9 = 36)", "(7-3)*9", True),
    ("-7+10 = 3", "-7+10", True), ("-(7-3)+9=5", "-(7-3)+9", True), ("3-7 = -4", "3-7", True),
    ("(7\u22123)\u00d79 = 36", "(7-3)*9", True), ("7 x 3 = 21", "7*3", True), ("8 \u00f7 4 = 2", "8/4", True),
    ("\uff17\uff0d\uff13\uff1d\uff14", "7-3", True),  # fullwidth
    (r"\[ (7-3) \times 9 = \boxed{36} \]", "(7-3)*9", True),
    (r"$(7 - 3) \cdot 9 &= 4 \cdot 9 \\ &= 36$", "(7-3)*9", True),
    (r"\frac{7-3}{2} = 2", "((7-3)/(2))", True),
    ("7/2=3.5", "7/2", True), ("(7/2)*4 = 3.5*4 = 14", "(7/2)*4", True), ("7/3 = 2.33", "7/3", False),
    ("(1/3)*9=3", "(1/3)*9", True), ("7/3=14/6", "7/3", True), ("1/10+2/10=0.3", "1/10+2/10", True),
    ("500*4 = 2,000", "500*4", True), ("7/0=0", "7/0", False), ("(7-3*9=36", "(7-3*9", False),
    ("x = 7 - 3 = 4", "7-3", True), ("7-3 == 4", "7-3", True), ("7-3 => 4", "7-3", True),
    ("7-3=?", "7-3", False), ("7-3=", "7-3", False), ("7--3=10", "7--3", False)])
def test_an_attempt_is_found_where_it_is_written_and_judged_by_exact_arithmetic(line, expression, true):
    assert read(line) == [(expression, true)]


@pytest.mark.parametrize("line", ["", "give up", "36", "x = 4", "= 36", "7-3", "7-3 != 5", "7-3 <= 5",
    "36 = 36", "7-3 is 4", "6(2) = 12", "2**3=8", "7//3=2", "a1+b2=c3", "7 \u2248 3"])
def test_a_line_without_an_expression_before_an_equals_sign_is_no_attempt(line):
    assert read(line) == []


def test_each_expression_of_a_line_is_an_attempt_and_the_steps_of_one_are_not():
    assert read("7 - 3 = 4, then 4 * 9 = 36 and 36+1=38.\n4*9=36") == [
        ("7-3", True), ("4*9", True), ("36+1", False), ("4*9", True)]


def test_an_attempt_is_repeated_where_its_expression_came_before_in_any_spelling():
    text = "<think>(7-3)*9=36\n9*(7-3)=36\nwait ( 7 - 3 ) * 9 = 35\n[7\u22123]\u00d79=36</think>"
    assert [a.repeated for a in attempts(text)] == [False, False, True, True]
    assert [a.repeated for a in attempts(text)] == [False, False, True, True]  # nothing is kept between calls


@pytest.mark.parametrize("text,want", [("<think>7-3=4\n7+3=1", 1), ("<think>7-3=4\n(7+3)*9=", 1),
    ("<think>7-3=4\n(7+3)*9=10*", 1), ("<think>7-3=4\n(7+3)*9=10*9=9", 1), ("<think>7-3=4\n7+3=10 ne", 2),
    ("7-3 = 4. I try 7+3 = 10.", 2), ("7-3=4 and 7+3=10\n", 2), ("<think>7-3=4</think>7+3=10", 1)])
def test_what_the_end_of_an_unfinished_thinking_may_have_cut_is_left_out(text, want):
    assert [a.true for a in attempts(text)] == [True] * want


def test_generated_chains_are_true_until_a_step_is_changed():
    rng = random.Random(0)
    for i in range(200):
        row = row_at("countdown:n=4" if i % 2 else "countdown", "train", 0, i)
        text = countdown_chain(row, rng, patient=1.0)
        lines = [line for line in text.removeprefix("<think>").splitlines() if "=" in line]
        found = attempts(text)
        assert [a.expression for a in found] == [line.split("=")[0] for line in lines]
        assert all(a.true and not a.repeated and sorted(a.numbers) == sorted(row["numbers"]) for a in found)
        steps = work_out(found[0].expression).split("=")
        place = rng.randrange(1, len(steps))
        steps[place] += f"+{rng.randint(1, 9)}"
        assert read("=".join(steps)) == [(found[0].expression, False)]


SIGNS = "0123456789+-*/=()[]{}. ,\n$\\&`x\u2212\u00d7\uff1d\u00b2\u0663"


@settings(max_examples=300, deadline=None)
@given(st.text(SIGNS, max_size=80) | st.text(max_size=80))
@example("\\frac{" * 50 + "=" + "}" * 50)
@example("=" * 1000)
@example("9" * 5000 + "+1=" + "9" * 5000)
@example("((((" * 100 + "7-3" + "))))" * 100 + "=4")
def test_nothing_that_a_model_writes_raises(text):
    for whole in (text, f"<think>{text}</think>", f"7-3={text}", f"{text}=4"):
        for a in attempts(whole):
            assert a.expression and isinstance(a.true, bool)
            assert not a.true or a.value is not None


@pytest.mark.parametrize("unit,end", [("1+", "1=2"), ("1=", ""), ("(", "1+1=2"), ("1 ", "=1"), ("`", "=1"),
    ("1+1=2 ", ""), ("\\frac{1}{2}=", ""), ("-", "1+1=2"), ("1,", "=3"), ("1+1 ", "=3"), ("\\frac{", "=")])
def test_time_is_linear_in_what_a_model_writes(unit, end):
    start = time.process_time()
    attempts(unit * 40_000 + end)
    assert time.process_time() - start < 5


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789+-*/() abxz", max_size=30))
def test_plain_text_is_rewritten_to_itself(text):
    shortcut = plain_expression(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(countdown, "_PLAIN", countdown.re.compile("(?!)"))
        assert plain_expression(text) == shortcut


def test_a_rollouts_attempts_are_read_in_a_small_part_of_a_step():
    """2,560 attempts: some 15 ms, 2 ms where their lines are known; a step of tiny takes about 2 s."""
    rng, texts = random.Random(0), []
    for i in range(16):
        row = row_at("countdown:n=3,high=12,ops=+-*,limit=40", "train", 1, i)
        tries = [random_expression(row["numbers"], "+-*", 999, rng) for _ in range(160 * 8)]
        lines = [work_out(e[0]) + " need 9 low wait" for e in tries if e][:160]
        texts += ["\n".join(lines[j : j + 10]) + "</think>" for j in range(0, 160, 10)]
    start = time.process_time()
    assert sum(len(attempts(text)) for text in texts * 16) == 16 * sum(text.count("need") for text in texts)
    assert time.process_time() - start < 2
