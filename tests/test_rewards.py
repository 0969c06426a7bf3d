"""Rewards: the format, and Countdown, exact."""

import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo
from config import UserError
from data.r1_data import why_not
from data.tasks import row_at
from data.tokenizer import shipped
from eval import judged
from rewards import (
    BY_MODEL,
    NO_PLAN,
    REWARDS,
    TASK_REWARDS,
    Plan,
    TrainerState,
    answer_of,
    check_rows,
    code_reward,
    countdown_reward,
    exact_reward,
    expression_value,
    extract_answer,
    extract_program,
    format_reward,
    language_reward,
    language_share,
    last_number,
    length_reward,
    math_reward,
    number_reward,
    overlong_reward,
    plan_of,
    repetition_penalty,
    score,
    soft_format_reward,
)
from verify.forms import found_answer
from verify.texts import word_lists


def wrap(answer, thinking="x"):
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    "text,answer",
    [
        (wrap("1+2"), "1+2"),
        ("  " + wrap(" a ") + "\n", "a"),
        ("<think></think><answer></answer>", ""),
        (wrap("1", "a\nb"), "1"),
    ],
)
def test_the_format_is_read(text, answer):
    assert extract_answer(text) == answer and format_reward([text]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+2",
        "<answer>1</answer>",
        "<think>x</think>",
        "<think>x</think><answer>1",
        "x" + wrap("1"),
        wrap("1") + "x",
        wrap("1") + wrap("1"),
        "<answer>1</answer><think>x</think>",
        wrap("1", "<think>"),
        wrap("1", "a</think>b"),
        wrap("1", "<answer>2</answer>"),
        wrap("<answer>1"),
        wrap("1</answer><answer>2"),
        "<THINK>x</THINK><answer>1</answer>",
        wrap("1").replace("</think>", "</think>so "),
    ],
)
def test_everything_else_is_no_format(text):
    assert extract_answer(text) is None and format_reward([text]) == [0.0]


@pytest.mark.parametrize(
    "answer,right",
    [
        ("(7-3)*9", 1),
        ("9*(7-3)", 1),
        ("(7-3)*9=36", 1),
        ("(7-3)*9 = 36 ", 1),
        ("((7)-(3))*9", 1),
        ("(7-3)*9=37", 0),
        ("(7-3)*9=36=36", 0),
        ("36", 0),
        ("7-3*9", 0),
        ("(7-3)*9*1", 0),
        ("(7-3)*9+7-7", 0),
        ("9*4", 0),
        ("(7-3)**9", 0),
        ("(7-3)//9", 0),
        ("(7-3)*9.0", 0),
        ("+(7-3)*9", 1),
        ("(7-3)*9#", 0),
        ("x", 0),
        ("", 0),
        ("(7-3)*9;", 0),
        ("[7-3]*9", 1),
        ("__import__('os')", 0),
        ("7 3 9", 0),
        ("(7-3)*\u0669", 0),
        ("(7-3)*9 or 1", 0),
        ("(7-3)*9,", 0),
        ("(07-3)*9", 0),
        ("(7-3)*9\n", 1),
        ("(7-3)x9", 1),
        ("1_0", 0),
        ("0x9*(7-3)", 0),
    ],
)
def test_countdown_answers_with_known_truth(answer, right):
    assert countdown_reward([wrap(answer)], numbers=[[3, 7, 9]], target=[36]) == [float(right)]


@pytest.mark.parametrize("answer", ["79 \u2212 60 + 17", "(79\u221260)+17", "79 - 60\n+ 17",
    "79 \u2013 60 + 17",
    "\uff17\uff19\uff0d60\uff0b17", "-60 + 79 + 17", "\u221260+79+17", "+79-60+17", "-(60-79)+17",
    "17 - (-79+60)",
    "36 = 79 - 60 + 17", "$79 - 60 + 17 = 36$", r"\(79 - 60 + 17\)", r"\[79-60+17 = 36\]", "79 - 60 + 17.",
    "79 - 60 + 17 = 36.", r"\boxed{79 - 60 + 17}", r"\boxed{79-60+17 = 36}", "**79 - 60 + 17**", "`79-60+17`",
    r"\left(79 - 60\right) + 17", "{79-60}+[17]", "[(79 - 60) + 17]", "79\u00a0-\u200960\u200b+17",
    "\uff0879 - 60\uff09+ 17 \uff1d 36", "79 - 60 - -17"])
def test_countdown_reads_the_signs_that_models_write(answer):
    assert countdown_reward([wrap(answer)], [[79, 17, 60]], [36]) == [1.0]
    assert countdown_reward([wrap(answer)] * 2, [[79, 17, 61], [79, 17, 60]], [36, 37]) == [0.0, 0.0]


@pytest.mark.parametrize("answer,numbers,target", [("3\u00d74", [3, 4], 12), ("12 \u00f7 4", [12, 4], 3),
    (r"3 \times 4", [3, 4], 12), (r"12 \div 4", [4, 12], 3), (r"3\cdot4", [3, 4], 12), ("3 x 4", [3, 4], 12),
    ("(1+2)x4", [1, 2, 4], 12), ("3 X (4)", [3, 4], 12), (r"\frac{12}{4}", [12, 4], 3),
    ("3\u00b74", [3, 4], 12),
    (r"\dfrac{1+\frac{6}{2}}{4}", [1, 6, 2, 4], 1), ("3 \u2217 4", [3, 4], 12), ("12\u22154", [12, 4], 3),
    ("3\u22c54", [3, 4], 12), ("12\u20444", [12, 4], 3), ("1,000+5", [1000, 5], 1005),
    ("3*-(1-5)", [3, 1, 5], 12)])
def test_countdown_reads_products_and_quotients_however_they_are_written(answer, numbers, target):
    assert countdown_reward([wrap(answer)], [numbers], [target]) == [1.0]
    assert countdown_reward([wrap(answer)], [[*numbers, 1]], [target]) == [0.0]


@pytest.mark.parametrize("answer,numbers,target", [("5--3", [5, 3], 8), ("5++3", [5, 3], 8),
    ("5-+-3", [5, 3], 8),
    ("2(3)", [2, 3], 6),
    ("(2)(3)", [2, 3], 6), ("2 3", [2, 3], 6), ("6/2(3)", [6, 2, 3], 9), ("7$3", [73], 73),
    ("7$3", [7, 3], 73),
    ("3\u00b2", [3, 2], 9), ("3\u00b2", [32], 32), ("\u00bd*4", [1, 2, 4], 2), ("\u2462", [3], 3),
    ("2**3", [2, 3], 8),
    ("2^3", [2, 3], 8), ("7//2", [7, 2], 3), ("1.0*3", [1, 0, 3], 3), ("(3]*4", [3, 4], 12),
    ("{3:4}", [3, 4], 12),
    ("[3,4]", [3, 4], 12), ("3,4", [34], 34), ("1,00", [100], 100), ("3*4 = 3*4", [3, 4], 12),
    ("12", [3, 4], 12),
    ("12 = 12", [3, 4], 12), ("3*4 = 12 = 12", [3, 4], 12), ("3*4 = 13", [3, 4], 12),
    ("3*4 == 12", [3, 4], 12),
    ("3*4 or 4*3", [3, 4], 12), ("3*4\n4*3", [3, 4], 12), ("-12", [12], 12), ("3x", [3], 3), ("x3", [3], 3),
    ("-(3*4)", [3, 4], 12), ("3!*2", [3, 2], 12), ("3*4%5", [3, 4, 5], 2), (r"\frac123", [12, 3], 4),
    ("6\u00f72\u00f73 \u00d7", [6, 2, 3], 1), ("3_4", [34], 34), ("\u0663*4", [3, 4], 12),
    ("03*4", [3, 4], 12)])
def test_countdown_pays_no_number_that_was_not_given_and_no_other_game(answer, numbers, target):
    assert countdown_reward([wrap(answer)], [numbers], [target]) == [0.0]


def test_every_expression_keeps_its_value_in_other_signs():
    rng = random.Random(1)
    spell = {"+": ["+", "\uff0b"], "-": ["-", "\u2212", "\u2013"], "*": ["*", "\u00d7", "\u22c5",
        r"\times ", " x "],
        "/": ["/", "\u00f7", r"\div ", "\u2215"], "(": ["(", r"\left(", "\uff08"], ")": [")", r"\right)",
        "\uff09"]}
    for _ in range(2000):
        a, b, c, d = (rng.randint(1, 99) for _ in range(4))
        text = f"({a}{rng.choice('+-*/')}{b}){rng.choice('+-*/')}{c}{rng.choice('+-*/')}{d}"
        other = "".join(rng.choice(spell.get(char, [char])) + " " * (not char.isdigit()) for char in text)
        assert expression_value(text) and expression_value(other) == expression_value(text)


def test_countdown_counts_each_number_exactly_and_divides_exactly():
    def ask(answer, numbers, target):
        return countdown_reward([wrap(answer)], [numbers], [target])[0]

    assert ask("5+5", [5, 5], 10) == 1 and ask("5+5", [5, 10], 10) == 0 and ask("2*5", [5, 5], 10) == 0
    assert ask("8/(3-8/3)", [8, 3, 8, 3], 24) == 1  # only true with fractions
    assert (
        ask("1/3*3", [1, 3, 3], 1) == 1 and ask("7/7", [7, 7], 1) == 1 and ask("7/(3-3)", [7, 3, 3], 0) == 0
    )
    assert ask("10/3", [10, 3], 3) == 0 and ask("99999999999999999+1", [99999999999999999, 1], 10**17) == 1


def test_nothing_explodes_and_nothing_takes_long():
    nasty = [
        "9**9**9",
        "99**99**99",
        "(" * 100_000,
        "9" * 100_000,
        "1+" * 50_000 + "1",
        "-" * 1000 + "1",
        "9*" * 90 + "9",
        "(" * 95 + "1" + ")" * 95,
        "\x00",
        "1\n+\n2",
        "\ud800",
        "lambda: 0",
        "9" * 199,
    ]
    start = time.perf_counter()
    assert countdown_reward([wrap(n) for n in nasty], [[1]] * len(nasty), [5] * len(nasty)) == [0.0] * len(
        nasty
    )
    assert (
        time.perf_counter() - start < 5
    )  # a hang, not a timing: each is refused by its length or its characters
    assert expression_value("1+" * 101) is None


def expressions():
    return st.recursive(
        st.integers(0, 60).map(str),
        lambda e: st.tuples(e, st.sampled_from("+-*/"), e).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        max_leaves=12,
    )


@given(expressions())
@settings(max_examples=300, deadline=None)
def test_evaluation_equals_fractions(expression):
    import re

    try:
        want = eval(re.sub(r"(\d+)", r"Fraction(\1)", expression))
    except ZeroDivisionError:
        want = None
    got = expression_value(expression)
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


@pytest.mark.parametrize("text,value", [
    ("10", 10), ("10.", 10), ("7 + 3 = 10 pens", 10), ("Tom has 7 pens, so 10!", 10), ("**10**", 10),
    ("$10", 10), ("$10.50.", "21/2"), ("1,234", 1234), ("1,234,567.5 km", "2469135/2"), ("1,2345", 2345),
    ("3,4", 4), ("100, 200", 200), ("-3", -3), ("= -3.", -3), ("\u22123", -3), ("-$3", -3), ("(-3)", -3),
    ("7-3", 3), ("x-3", 3), ("7 - 3", 3), ("- 3 pens", 3), ("--3", 3), ("(7)-3", 3), ("0.5", "1/2"),
    (".5", "1/2"), ("it is ...5", 5), ("3/4", "3/4"), ("10/2 = 5", 5), ("5/0", None), ("ten", None),
    ("", None), ("x2", None), ("step1 gives 9", 9), ("10pens", 10), ("#### 72", 72), (r"\boxed{10}", 10),
    ("10\n\nNow 4 pens cost 12", 12), ("007", 7), ("1" * 61, None), ("1" * 5000, None), ("\u0663", None),
    ("1. Add 7 and 3.\n2. That is 10.", 10), ("10%", 10), ("\u7b54\u684810", 10),
    ("<answer>10</answer> and 4 more", 10), ("7 <answer>ten</answer> 10", None), ("<answer>8, no, 10", 10),
    ("<answer>3</answer><answer>10 pens</answer>", 10), ("<think>9</think>\n<answer>10</answer>", 10)])
def test_the_last_number_of_a_reply(text, value):
    assert last_number(text) == (None if value is None else Fraction(value))


@given(st.integers(-10**12, 10**12), st.text("abc ,.$*-\n"), st.sampled_from(["", ".", "!", " pens.", "**"]))
@settings(max_examples=300, deadline=None)
def test_a_number_is_read_however_it_is_written(n, before, after):
    for text in (f"{before} {n}{after}", f"{before} {n:,}{after}", f"12 {before} <answer>{n}</answer> 13"):
        babbled = f"{text} {abs(n) + 1}"
        assert number_reward([text, babbled], [str(n)] * 2) == [1.0, float("<answer>" in text)]


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_has_a_last_number_or_none(text):
    assert number_reward([text], ["10"])[0] in (0.0, 1.0)


def test_a_list_of_guesses_is_its_last_one_and_hostile_texts_take_no_time():
    assert number_reward([" ".join(map(str, range(21)))] * 2, ["10", "20"]) == [0.0, 1.0]
    start = time.perf_counter()
    for text in ("1," * 500_000, "111," * 250_000, "9" * 1_000_000, "1/" * 500_000, "-" * 1_000_000,
            "<answer>" * 120_000, ".1" * 500_000):
        assert number_reward([text], ["10"]) == [0.0]
    assert time.perf_counter() - start < 10


def test_a_task_without_tags_is_paid_by_the_last_number_and_a_weight_asks_for_tags():
    row = {"prompt": "p", "task": "word_sums", "answer": "10"}
    said, tagged = "7 + 3 = 10. Tom has 10 pens.", wrap("10")
    assert [s["reward"] for s in score([row] * 2, [said, tagged])] == [1.0, 1.0]
    plan = plan_of("", "accuracy=0,exact=1")
    got = score([row] * 2, [said, tagged], plan)
    assert [(s["reward"], s["accuracy"]) for s in got] == [(0.0, 1.0), (1.0, 1.0)]
    assert [answer_of(row, text) for text in (said, "10.0", "10.5", "ten")] == ["10", "10", "21/2", None]
    check_rows([{"prompt": "p", "task": "number", "answer": "so it is\n#### 1,234"}], "rows.jsonl")
    with pytest.raises(UserError, match="row 1: .*has no number in it .*'ten'"):
        check_rows([{"prompt": "p", "task": "number", "answer": "ten"}], "rows.jsonl")


def test_each_task_picks_its_rewards_and_components_stay_apart():
    rows = [row_at(t, "train", 0, 0) for t in ("countdown", "arithmetic")]
    out = score(rows * 2, [wrap("0"), wrap(rows[1]["answer"]), "no", wrap("1")])
    assert out[0] == {"countdown": 0.0, "format": 1.0, "reward": 0.1, "accuracy": 0.0}
    assert out[1] == {"exact": 1.0, "format": 1.0, "reward": 1.1, "accuracy": 1.0}
    assert out[2]["reward"] == 0.0 and out[3]["reward"] == pytest.approx(0.1)
    assert {name for first, others in TASK_REWARDS.values() for name in (first, *others)} <= set(REWARDS)


@pytest.mark.parametrize(
    "row,message",
    [
        ({"prompt": "p", "task": "chess"}, "unknown task"),
        ({"prompt": "p", "task": "countdown", "target": 3}, "numbers"),
        ({"prompt": "p", "task": "arithmetic", "answer": {"n": 3}}, "a text or a number"),
    ],
)
def test_rows_that_cannot_be_scored_are_found_before_the_run(row, message):
    with pytest.raises(UserError, match=message):
        check_rows([row], "rows.jsonl")


def test_rewards_follow_the_calling_convention_of_trl():
    """Keyword columns as lists, unknown keywords ignored, a list of floats back."""
    n = 5
    columns = dict(
        completions=[wrap("1+2", "so we wait")] * n,
        numbers=[[1, 2]] * n,
        target=[3] * n,
        answer=["1+2"] * n,
        tests=[["assert f() == 1"]] * n,
        language=["en"] * n,
        tokens=[0] * n,
        max_tokens=[9] * n,
        accuracy=[1.0] * n,
        prompts=["p"] * n,
        completion_ids=[[1]] * n,
        trainer_state=None,
        answers=[["1+2"]] * n,
        never=[["fool"]] * n,
        refusals=[["1+2"]] * n,
    )
    right = ("countdown", "math", "exact", "number", "format", "soft_format", "language", "length",
        "answered", "clean")
    wrong = ("code", "code_fraction", "math_boxed", "format_boxed", "overlong", "repetition")
    for name in (*right, *wrong):
        assert REWARDS[name](**columns) == [float(name in right)] * n, name
    for name in BY_MODEL:  # tests/test_preference.py
        with pytest.raises(UserError, match="preference model"):
            REWARDS[name](**columns)


def test_random_expressions_reward_exactly_the_true_ones():
    rng = random.Random(0)
    for _ in range(300):
        numbers = [rng.randint(1, 9) for _ in range(3)]
        a, b, c = numbers
        text = f"({a}{rng.choice('+-*/')}{b}){rng.choice('+-*/')}{c}"
        value = expression_value(text)[0]
        for target in (int(value), int(value) + 1):
            assert countdown_reward([wrap(text)], [numbers], [target]) == [float(Fraction(target) == value)]


def r1(summary, thinking="so"):
    return f"<think>{thinking}</think>\n{summary}"


@pytest.mark.parametrize(
    "text,answer",
    [
        (r1(r"The answer is \boxed{5}."), "5"),
        (r1(r"\[ \boxed{\frac{1}{2}} \]"), r"\frac{1}{2}"),
        (r1(r"\boxed{}"), ""),
        (r1(r"\boxed{{a}{b}}"), "{a}{b}"),
        (r1(r"\boxed{5} or \boxed{6}"), None),
        (r1(r"\boxed{5"), None),
        (r1("5"), None),
        (r"\boxed{5}", None),
        (r1("no", r"\boxed{5}"), None),
        (r1(r"<answer>\boxed{5}</answer>"), None),
        (r1(r"\boxed {5}"), None),
        (r1(r"\boxed{5}</think>"), None),
        ("x" + r1(r"\boxed{5}"), None),
        (r1(r"\boxed{\boxed{5}}"), None),
    ],
)
def test_the_r1_form_has_one_box_after_the_thinking(text, answer):
    assert extract_answer(text, boxed=True) == answer
    assert REWARDS["format_boxed"]([text]) == [float(answer is not None)]
    assert "<answer>" in text or extract_answer(text) is None


def test_an_answer_counts_only_once_said_and_only_after_the_thinking():
    """Where math-verify on the raw text pays: two answers, a denied one, one that stands in the thinking."""
    texts = [
        wrap("42"),
        wrap("41 or 42"),
        wrap("not 42"),
        wrap("41 = 42"),
        wrap("x", "42"),
        "42",
        r"\boxed{42}",
        wrap("42") + " 42",
        wrap("42", "<answer>42</answer>"),
        wrap("41") + wrap("42"),
        "<answer>42</answer>",
        wrap("<answer>42</answer>"),
        wrap("42").replace("think", "THINK"),
    ]
    assert math_reward(texts, ["42"] * len(texts)) == [1.0] + [0.0] * 12


def test_a_prompt_that_ends_in_think_opens_the_completion():
    row = {"prompt": "Q\nAssistant: <think>\n", "task": "math", "answer": "5"}
    (got,) = score([row], ["so</think><answer>5</answer>"])
    assert got["accuracy"] == 1 and got["format"] == 1
    assert answer_of(row, "so</think><answer>5</answer>") == "5"
    (got,) = score([row], [wrap("5")])  # the tag twice
    assert got["accuracy"] == 0 and got["format"] == 0
    (got,) = score([row | {"prompt": "Q"}], ["so</think><answer>5</answer>"])
    assert got["accuracy"] == 0


TEMPLATES = ("{prompt}\n", "User: {prompt}\nAssistant: <think>", "User: {prompt}\nAssistant: <think>\n",
    "Q: {prompt}\nA:\n")
CHATS = ("{% for m in messages %}<U>{{ m['content'] }}{% endfor %}<A><think>\n",
    "{% for m in messages %}<U>{{ m['content'] }}{% endfor %}<A>")


@pytest.mark.parametrize("think_tags", ["", "<|open|> <|close|>"])
@pytest.mark.parametrize("template,chat", [*((t, "") for t in TEMPLATES), *(("chat", c) for c in CHATS)])
@pytest.mark.parametrize("prompt", ["What is 1+1?", "What is 1+1? <think>", "1+1? <think>\n"])
def test_what_the_model_saw_decides_whether_the_thinking_is_open(think_tags, template, chat, prompt):
    """The model goes on from the very text that it was given, with or without the first tag as that asks."""
    tok = shipped(think_tags)
    tok.template, tok.chat_template = template, chat
    row = {"prompt": prompt, "task": "math", "answer": "2"}
    plan = NO_PLAN._replace(opens=tok.opens)
    seen = tok.decode(tok.encode_prompt(prompt)).rstrip()
    is_open = seen.endswith((tok.think[0], "<think>"))
    rest = "1+1=2</think>\n<answer>2</answer>"
    good, other = (rest, f"<think>{rest}") if is_open else (f"<think>{rest}", rest)
    decoded = [tok.decode_completion([*tok.encode(text, tags=True), tok.eos_id]) for text in (good, other)]
    got = score([row] * 2, decoded, plan)
    assert [(s["accuracy"], s["format"]) for s in got] == [(1, 1), (0, 0)]
    assert [answer_of(row, text, plan) for text in decoded] == ["2", None]
    assert [why_not(row, text, plan=plan) for text in decoded] == ["", "not our format"]
    (record,) = judged([row], [0], decoded[:1], [[1]], [True], plan, 9)
    assert record["accuracy"] == 1 and record["answer"] == "2" and record["consistency"] == 1


def test_soft_format_counts_tags_in_order():
    texts = [
        "",
        "<think>",
        wrap("1"),
        wrap("1") + "<answer>",
        "</answer><answer></think><think>",
        "<answer>1</answer>",
    ]
    assert soft_format_reward(texts) == [0.0, 0.25, 1.0, 0.75, 0.25, 0.5]


ADD = "def add(a, b):\n    return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"]


def test_programs_are_bare_or_fenced_and_a_fence_in_a_docstring_does_not_end_them():
    inside = 'def add(a, b):\n    """\n```\nadd(1, 2)\n```\n"""\n    return a + b'
    assert extract_program(ADD) == extract_program(f"```python\n{ADD}\n```") == ADD
    assert extract_program(f"```\n{ADD}\n```") == extract_program(f"```py\n{ADD}\n``` ") == ADD
    assert extract_program(f"```python\n{inside}\n```") == extract_program(inside) == inside
    for text in ("", "```python\n```", f"```python\n{ADD}", f"```ruby\n{ADD}\n```", "x" * 100_001):
        assert extract_program(text) is None


def test_code_reward_runs_the_tests():
    wrong = "def add(a, b):\n    return 3"
    programs = [ADD, f"```python\n{ADD}\n```", wrong, "", "syntax error", ADD]
    completions = [wrap(p) for p in programs[:-1]] + [ADD]
    assert code_reward(completions, [TESTS] * 6) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert code_reward(completions, [TESTS] * 6, fraction=True) == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    double = "print(int(input()) * 2)"
    assert code_reward(
        [wrap(double)], [[{"input": "4\n", "output": "8"}, {"input": "5", "output": "10"}]]
    ) == [1.0]
    with pytest.raises(ValueError, match="tests must be"):
        code_reward([wrap(ADD)], [[]])


@pytest.mark.parametrize(
    "text,language,share",
    [
        ("So we need to wait and then check", "en", 1.0),
        ("Also wir brauchen jetzt noch einen Versuch", "de", 1.0),
        ("wait, wir brauchen noch", "en", 0.25),
        ("wait, wir brauchen noch", "de", 0.75),
        ("8+2=10 need 24 low wait", "en", 1.0),
        ("8+2=10 brauche 24 niedrig warte", "en", 0.0),
        ("1+2=3", "en", 1.0),
        ("$x + brauche$ so $y$", "en", 1.0),
        (r"\frac{1}{2} so \alpha", "en", 1.0),
        ("zyx qwv", "en", 0.0),
        ("\u6211\u4eec\u9700\u8981 24", "zh", 1.0),
        ("\u6211\u4eec need wait", "zh", 0.5),
        ("\u6211\u4eec so", "en", 1 / 3),
        ("\u043d\u0443\u0436\u043d\u043e 24", "ru", 1.0),
        ("\u043d\u0443\u0436\u043d\u043e wait", "ru", 0.5),
        ("\u305d\u308c\u306f", "ja", 1.0),
        ("\u305d\u308c\u306f", "zh", 0.0),
        ("a b c x", "de", 1.0),
        ("\u6211\u4eec\u9700\u8981\u8ba1\u7b9712\u52a030\u7b49\u4e8e42", "en", 0.0),
        ("\u6211\u4eec\u9700\u8981\u8ba1\u7b9712\u52a030\u7b49\u4e8e42", "zh", 1.0),
        ("\u5408\u8a08\u306f42\u3067\u3059", "ja", 1.0),
        ("\u5408\u8a08\u306f42\u3067\u3059", "en", 0.0),
        ("\u4eba\u3005", "ja", 1.0),  # the mark that repeats a character
        ("\ud569\uacc4\ub294 42\uc785\ub2c8\ub2e4", "ko", 1.0),
        ("\uc0ac\uacfc12\uac1c", "en", 0.0),
        ("\u043e\u0442\u0432\u0435\u044242", "en", 0.0),
        ("\u043e\u0442\u0432\u0435\u044242, 5-\u0439 \u0448\u0430\u0433", "ru", 1.0),
        ("\u0627\u0644\u062c\u0648\u0627\u062842 \u0661\u0662", "ar", 1.0),
        ("\u0627\u0644\u062c\u0648\u0627\u062842", "en", 0.0),
        ("So 12+30=42. \u6240\u4ee5\u7b54\u6848\u662f42\u3002", "en", 1 / 6),
        ("\u8bbex1=3, step2, abc123, 3x, 10km, max(3,5), x_max", "zh", 1.0),  # names and units
        ("\u8bbex1=3 need \u7b54", "zh", 2 / 3),
        ("x1 step2 abc123 3x 10pens sin(30)", "en", 1.0),
        ("8+2=10,brauche 24,niedrig", "en", 0.0),
        ("Antwort42 brauche", "en", 0.0),
        ("the area is \u03c0 r\u00b2, \u00bd of it, \U0001d465 \u211d", "en", 1.0),  # letters of formulas
        ("run `wir brauchen` now", "en", 1.0),
    ],
)
def test_language_share_of_mixed_text(text, language, share):
    assert language_share(text, language) == pytest.approx(share)
    assert language_reward([wrap("1", text)], [language]) == [pytest.approx(share)]


def test_a_row_without_a_language_is_english_beside_rows_that_have_one():
    rows = [{"prompt": "p", "task": "math", "answer": "1"} | more for more in ({"language": "de"}, {})]
    texts = [wrap("1", "wir brauchen noch"), wrap("1", "so we need")]
    assert [s["language"] for s in score(rows, texts, plan_of("", "language=1"))] == [1.0, 1.0]


def test_language_of_no_thinking_is_nothing_and_an_unknown_language_an_error():
    assert language_reward(["so we wait", wrap("so", ""), wrap("so", " ")], ["en"] * 3) == [0.0] * 3
    with pytest.raises(ValueError, match="did you mean"):
        language_reward([wrap("1", "so")], ["eng"])
    lists = word_lists()
    assert set(lists) == {"en", "de", "fr", "es"} and all(len(words) > 60 for words in lists.values())
    assert not set.intersection(*map(set, lists.values()))
    assert {"wait", "need", "high", "low", "ok", "give", "up"} <= lists["en"]


def test_overlong_punishment_is_dapo_equation_13():
    texts, longest = [""] * 5, [100] * 5
    assert overlong_reward(texts, [10, 80, 90, 100, 120], longest) == [0, 0, -0.5, -1, -1]


def test_length_pays_only_where_the_answer_is_right():
    assert length_reward([""] * 3, [0, 50, 50], [100] * 3, [1.0, 1.0, 0.0]) == [1.0, 0.5, 0.0]


def test_repetition_is_the_share_of_repeated_ngrams():
    assert repetition_penalty(["a b c d", "", "a b c", "a b c d a b c d"]) == [
        0.0,
        0.0,
        0.0,
        pytest.approx(-0.2),
    ]
    assert repetition_penalty(["wait " * 100]) == [pytest.approx(-96 / 97)]


def test_repetition_is_seen_where_no_spaces_divide_the_words():
    for text in ("\u4f60\u597d" * 200, "\u3042\u308a\u304c\u3068\u3046" * 100, "ha" * 500,
        "\u4f60\u597d " * 200, "\u0e01\u0e32" * 200,
            "!" * 300, "\uc548\ub155" * 200, "so we wait. " + "\u7b49\u7b49" * 300, "1+" * 400):
        assert repetition_penalty([text])[0] < -0.95
    honest = ("\u4eca\u5929\u65e9\u4e0a\u6211\u53bb\u5e02\u573a\u4e70\u83dc\u3002\u5e02\u573a\u91cc"
        "\u4eba\u5f88\u591a\uff0c\u6709\u5356\u6c34\u679c\u7684\uff0c\u6709\u5356\u9c7c\u7684"
        "\uff0c\u8fd8\u6709\u5356\u82b1\u7684\u3002\u6211\u5148\u4e70\u4e86\u4e24\u65a4\u82f9"
        "\u679c\uff0c\u53c8\u4e70\u4e86\u4e00\u6761\u9c7c\u3002")
    assert repetition_penalty([honest, "(x_1+x_2)^2=" + r"\frac{1}{2}+" * 5]) == [0.0, 0.0]


def test_weights_replace_and_add_components():
    row = row_at("countdown", "train", 0, 0)
    plan = plan_of("", "accuracy=2, format=0.5,overlong=1,language=0.1,length=0")
    (got,) = score([row], [wrap("0", "so")], plan, [95], 100)
    assert got == {
        "countdown": 0.0,
        "accuracy": 0.0,
        "format": 1.0,
        "overlong": -0.75,
        "language": 1.0,
        "length": 0.0,
        "reward": pytest.approx(0.5 - 0.75 + 0.1),
    }
    assert not plan.mask_truncated and plan_of("", "overlong=mask").mask_truncated
    assert score([row], [wrap("0")], plan_of("", "overlong=mask"))[0]["reward"] == 0.1
    for weights, message in (
        ("speed=1", "unknown name speed"),
        ("format=x", "NUMBER"),
        ("format", "NUMBER"),
        ("format=nan", "NUMBER"),
        ("formt=1", "did you mean format"),
    ):
        with pytest.raises(UserError, match=message):
            plan_of("", weights)


LOOSE = [("<answer>18</answer>", "18"), ("It costs $18.\n#### 18", "18"),
    (r"So \boxed{18}. I am sure!", "18"),
    ("<think>so</think>\nSure! <answer> 18 </answer> Glad to help.", "18"), ("x</think> \\boxed{18}", "18"),
    ("<answer>17</answer> no, wait: <answer>18</answer>", "18"), (r"\boxed{17} or \boxed{18}", "18"),
    (r"<think>\boxed{17}</think> So: \boxed{18}", "18"), (r"<answer>$\boxed{18}$</answer>", "18"),
    (r"\boxed{17} <answer>18</answer>", "18"), ("#### 17\n#### 18\nand so on", "18"),
    (r"<think>\boxed{18}</think> So: 18", None), ("18", None), ("The answer is 18.", None), ("", None),
    ("<answer>18", None), (r"\boxed{18", None), ("<think>so</think>", None), ("####", ""),
    ("<think>still \\boxed{18}", "18"), ("<answer>18</answer></answer>", "18"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}")]


@pytest.mark.parametrize("text,answer", LOOSE)
def test_without_the_strict_format_the_last_answer_of_any_form_counts(text, answer):
    plan = plan_of("", "", strict=False)
    for task in ("math", "math_boxed", "arithmetic"):
        row = {"prompt": "p", "task": task, "answer": "18"}
        (got,) = score([row], [text], plan)
        assert answer_of(row, text, plan) == answer and got["accuracy"] == float(answer == "18")
        form = "format_boxed" if task == "math_boxed" else "format"
        assert got[form] == REWARDS[form]([text])[0]  # paid by itself, as it was written
        assert got["reward"] == pytest.approx(got["accuracy"] + 0.1 * got[form])


def test_replies_of_a_chat_model_are_paid_for_their_answers_and_weights_pay_the_form():
    row, game = ({"prompt": "p", "task": "math", "answer": "18"},
        {"prompt": "p", "task": "countdown", "numbers": [3, 7, 9], "target": 36})
    program = {"prompt": "p", "task": "code", "tests": TESTS}
    replies = [f"Janet sells 16 - 3 - 4 = 9 eggs a day.\n\nShe makes 9 * {i} dollars.\n\n**Answer:** "
        rf"\boxed{{{9 * i}}}" for i in range(5)]
    fenced = f"Sure, here it is:\n\n```python\n{ADD}\n```\n\nIt adds two numbers. #### Done"
    assert [s["accuracy"] for s in score([row] * 5, replies)] == [0.0] * 5
    plan = plan_of("", "accuracy=2,format=0.5", strict=False)
    assert [s["reward"] for s in score([row] * 5, replies, plan)] == [0.0, 0.0, 2.0, 0.0, 0.0]
    assert score([row], [wrap("18")], plan)[0]["reward"] == 2.5
    assert score([game], [r"Try 7 - 3. So \boxed{(7-3) \times 9}"], plan)[0]["accuracy"] == 1
    texts = [fenced, fenced.replace("a + b", "3"), f"<answer>\n{fenced}\n</answer>", "add"]
    assert [s["accuracy"] for s in score([program] * 4, texts, plan)] == [1.0, 0.0, 1.0, 0.0]
    number = row | {"task": "number"}  # "the last number" stays the last resort
    texts = [r"\boxed{18}, which is 2 less than 20", "She makes 18 dollars.", "#### 18\n(3 steps)"]
    assert [s["accuracy"] for s in score([number] * 3, texts, plan)] == [1.0] * 3


CUSTOM = """
def short(completions, prompts, target=None, **kwargs):
    return [1.0 if len(c) < 60 else None for c in completions]
def broken(completions, **kwargs):
    return [1 / c.count("<") for c in completions]
def wrong(completions, **kwargs):
    return [1.0]
not_a_function = 3
"""


def test_a_custom_reward_is_a_component_and_judges_unknown_tasks(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CUSTOM)
    row = row_at("countdown", "train", 0, 0)
    plan = plan_of(f"{path}:short", "short=0.5")
    got = score([row, row], [wrap("0"), wrap("0", "x" * 99)], plan)
    assert got[0]["short"] == 1.0 and got[0]["reward"] == pytest.approx(0.6) and got[0]["accuracy"] == 0
    assert "short" not in got[1] and got[1]["reward"] == pytest.approx(0.1)
    new = {"prompt": "p", "task": "haiku"}
    check_rows([new], "rows", plan)
    assert [s["accuracy"] for s in score([new, new], ["a", "a" * 99], plan)] == [1.0, 0.0]
    for what, message in (
        ("mine.py:short", "must exist"),
        (f"{path}:sort", "did you mean short"),
        (f"{path}:not_a_function", "no function"),
        (f"{path}", "expected file.py:function"),
    ):
        with pytest.raises(UserError, match=message):
            plan_of(what)


def test_several_rewards_of_ones_own_have_a_weight_each(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            f"def {name}(completions, **_):\n    return [{len(name)}.0] * len(completions)\n")
    plan = plan_of(f"{tmp_path}/a.py:a, {tmp_path}/b.py:b", "a=0.5,b=0.25,format=0")
    row = row_at("countdown", "train", 0, 0)
    (got,) = score([row], [wrap("0")], plan)
    assert got["a"] == got["b"] == 1.0 and got["reward"] == pytest.approx(got["accuracy"] + 0.75)
    with pytest.raises(UserError, match="another reward called a"):
        plan_of(f"{tmp_path}/a.py:a,{tmp_path}/a.py:a")


OWN = """
import asyncio, fractions, numpy, torch
def none(completions, **kw): return [None] * len(completions)
def some(completions, **kw): return [None if len(c) % 2 else 1.0 for c in completions]
def array(completions, **kw): return numpy.array([len(c) % 2 for c in completions], dtype=numpy.float32)
def scalars(completions, **kw): return [numpy.float32(0.5), numpy.bool_(True),
    numpy.int64(2)][: len(completions)]
def tensor(completions, **kw): return torch.tensor([float(len(c)) for c in completions], requires_grad=False)
def tensors(completions, **kw): return [torch.tensor(1.0)] * len(completions)
def mixed(completions, **kw): return (True, 2, fractions.Fraction(1, 2))[: len(completions)]
def lazy(completions, **kw): return (float(len(c)) for c in completions)
async def later(completions, answer, **kw):
    await asyncio.sleep(0)
    return [float(a in c) for c, a in zip(completions, answer)]
def ids(completions, completion_ids, **kw): return [float(sum(i)) for i in completion_ids]
def named(answer, prompts): return [float(len(a) + len(p)) for a, p in zip(answer, prompts)]
def stage(completions, trainer_state, **kw):
    return [trainer_state.global_step / trainer_state.max_steps] * len(completions)
def logs(completions, log_metric, log_extra, **kw):
    log_metric("tall", 3)
    log_extra("first", [c[0] for c in completions])
    return [0.0] * len(completions)
def text(completions, **kw): return ["1"] * len(completions)
def nan(completions, **kw): return [1.0, float("nan"), 0.0][: len(completions)]
def columns(completions, **kw): return torch.ones(len(completions), 1)
def nothing(completions, **kw): pass
def one(completions, **kw): return 1.0
def lacks(completions, answr): return [0.0] * len(completions)
def taken(completions, log_metric, **kw):
    log_metric("reward", 1)
    return [0.0] * len(completions)
"""
ROWS = [{"prompt": "p", "task": "mine", "answer": "a"}] * 3


def test_a_reward_of_ones_own_may_return_all_that_trl_takes(tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    def ask(name, **more):
        plan = plan_of(f"{tmp_path}/own.py:{name}")._replace(state=TrainerState(3, 12))
        return score(ROWS, ["a", "bb", "ccc"], plan, ids=[[1], [2, 3], []], **more)

    want = {"array": [1, 0, 1], "scalars": [0.5, 1, 2], "tensor": [1, 2, 3], "tensors": [1, 1, 1],
        "mixed": [1, 2, 0.5], "lazy": [1, 2, 3], "later": [1, 0, 0], "ids": [1, 5, 0], "named": [2, 2, 2],
        "stage": [0.25] * 3}
    for name, values in want.items():
        got = ask(name)
        assert [s["reward"] for s in got] == [s[name] for s in got] == values, name
        assert all(type(v) is float for s in got for v in s.values())
    assert ask("none") == [{"accuracy": 0.0, "reward": 0.0, "unscored": 1.0}] * 3
    assert ask("some")[0] == {"accuracy": 0.0, "reward": 0.0, "unscored": 1.0}
    assert ask("some")[1] == {"accuracy": 1.0, "some": 1.0, "reward": 1.0}
    extra = [{}, {}, {}]
    assert ask("logs", extra=extra)[0] == {"logs": 0.0, "reward": 0.0, "accuracy": 0.0, "tall": 3.0}
    assert extra == [{"first": "a"}, {"first": "b"}, {"first": "c"}]
    for name, message in {"text": r"returned \['1'\] for 1", "nan": "nan.*for 3",
        "columns": r"tensor\(\[\[1.\]\]\)",
            "nothing": "returned None", "one": "returned 1.0 for 1", "taken": "component reward already",
            "lacks": "asks for answr, which no row has; did you mean answer"}.items():
        with pytest.raises(UserError, match=message):
            ask(name)


def test_a_completion_that_no_reward_judges_has_no_advantage_and_does_not_move_the_others():
    def sample(reward):
        return grpo.Sample([1], 1, [], True, None, {"reward": 0.0, "unscored": 1.0} if reward is None
            else {"reward": reward}, 0)

    cfg = grpo.Config(group_size=4)
    groups = [list(map(sample, some)) for some in ([1.0, 0.0, None, 0.5], [0.1, None, 0.1, 0.1], [None] * 4)]
    first, second, third = grpo.advantages_of(groups, cfg)
    assert first[2] == 0 and first[0] == -first[1] > 1 and first[3] == 0  # 0.5 is the mean of the three
    assert second == third == [0.0] * 4


def test_a_reward_of_ones_own_beside_a_rule_may_say_nothing(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    plan = plan_of(f"{tmp_path}/own.py:none")
    (got,) = score([row_at("countdown", "train", 0, 0)], [wrap("0")], plan)
    assert got == {"countdown": 0.0, "format": 1.0, "reward": 0.1, "accuracy": 0.0}
    for name in ("ids", "stage", "later", "logs"):  # what a run has is there when its rows are checked, too
        if name != "stage":
            check_rows(ROWS, "rows", plan_of(f"{tmp_path}/own.py:{name}"))


def test_a_reward_that_raises_stops_the_run_with_the_row_shown(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CUSTOM)
    rows = [row_at("countdown", "train", 0, i) for i in range(3)]
    with pytest.raises(UserError, match="reward broken: ZeroDivisionError.*") as info:
        score(rows, [wrap("0"), "bad", wrap("0")], plan_of(f"{path}:broken"))
    assert rows[1]["prompt"] in str(info.value) and "'bad'" in str(info.value)
    with pytest.raises(UserError, match=r"returned \[1.0\] for 3 completions|returned \[1.0\] for 2"):
        score(rows, [wrap("0")] * 3, plan_of(f"{path}:wrong"))
    path.write_text("import nothing_like_this")
    with pytest.raises(UserError, match="cannot be imported"):
        plan_of(f"{path}:other")


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "sys.exit('bye')", "exit()", "raise GeneratorExit",
    "raise asyncio.CancelledError", "raise BaseException('b')", "raise Silent", "return iter(int, 1)",
    "completions.clear()", "return [Silent()] * len(completions)"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_whatever_a_reward_of_ones_own_does_is_one_line(tmp_path, monkeypatch, kind, body):
    """It ends neither the run by an exit code of its own nor the check by never ending."""
    monkeypatch.setattr("sys.stdin", None)  # exit() closes it
    path, rows = tmp_path / f"{kind[:3]}.py", [row_at("countdown", "train", 0, i) for i in range(2)]
    path.write_text("import asyncio, sys\nclass Silent(Exception):\n    def __str__(self): raise self\n"
        f"    __repr__ = __str__\n{kind} f(completions, **kw):\n    {body}\n")
    with pytest.raises(UserError, match="reward f: "):
        score(rows, ["a", "b"], plan_of(f"{path}:f"))
    if body.startswith(("raise", "sys")):
        path.write_text(f"import asyncio, sys\nclass Silent(Exception): pass\n{body}\n")
        with pytest.raises(UserError, match="cannot be imported: "):
            plan_of(f"{path}:g")


def test_only_the_user_stops_a_run_inside_of_a_reward(tmp_path):
    (tmp_path / "own.py").write_text("def f(completions, **kw):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        score([row_at("countdown", "train", 0, 0)], ["a"], plan_of(f"{tmp_path}/own.py:f"))


def test_rows_of_code_are_checked_without_running_them():
    rows = [{"prompt": "p", "task": "code", "tests": TESTS}] * 50
    start = time.perf_counter()
    check_rows(rows, "rows")
    assert time.perf_counter() - start < 5  # one program, not 50
    with pytest.raises(UserError, match="row 2.*tests must be"):
        check_rows([rows[0], rows[0] | {"tests": [1]}], "rows")


ALPHABET = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "1",
    "42",
    "+",
    "-",
    "*",
    "/",
    "(",
    ")",
    "=",
    ",",
    ".",
    "\\frac",
    "{",
    "}",
    "\\sqrt",
    "^",
    "\\boxed{",
    "$",
    "%",
    " ",
    "\n",
    "x",
    "or",
    "\\pi",
    "\\text{",
    "\u0661",
    "\u2212",
    "e9",
    "**",
    "//",
    "\\{",
    "[",
    "]",
    "\\cup",
    "\\pm",
    "_",
    "!",
    "|",
    "cm",
    "\\circ",
    "\x00",
    "\ud800",
    "i",
    "\\infty",
]


def mutated(rng):
    """A completion that was right, or nearly, with some pieces replaced, removed, doubled or swapped."""
    answer = rng.choice(
        ["42", r"\frac{1}{2}", "(1,2)", "3*(4+5)-7/1", "x=5", r"2\sqrt{3}", r"\{1,2\}", "5 cm"]
    )
    pieces = ["<think>", "so 42", "</think>", "\n", "<answer>", *answer, "</answer>"]
    for _ in range(rng.randint(0, 5)):
        i = rng.randrange(len(pieces))
        pieces[i : i + rng.randint(0, 2)] = rng.choices(ALPHABET, k=rng.randint(0, 3))
        pieces = pieces or [""]
    return "".join(pieces)


def fuzz(count, seed):
    """Mutated completions through extraction and the math and Countdown rewards; how many were rewarded."""
    rng, rewarded = random.Random(seed), 0
    for _ in range(count):
        text = mutated(rng)
        gold = rng.choice(["42", "1/2", "(1,2)", "5", r"\sqrt{12}", "x=5", "2, 1"])
        boxed = extract_answer(text, boxed=True)
        values = math_reward([text], [gold]) + countdown_reward([text], [[3, 4, 5, 7, 1]], [20])
        assert set(values) <= {0.0, 1.0} and (boxed is None or extract_answer(text) is None)
        assert sum(values) == 0 or extract_answer(text) is not None
        rewarded += sum(values) > 0
    return rewarded


def test_mutated_completions_never_raise():
    assert 50 < fuzz(20_000, seed=0) < 10_000


def test_general_prompts_with_known_answers_are_judged_by_rule():
    from rewards import answered_reward, clean_reward

    texts = ["<think>snow</think>\n<answer> snow is  White</answer>",
        "<think>You  fool!</think><answer>red</answer>", "Snow is white.",
        "<think></think><answer>no fooling</answer>"]
    answers = [["Snow is white.", "White."]] * 4
    assert answered_reward(texts, answers=answers) == [1.0, 0.0, 0.0, 0.0]  # the third has not our format
    assert clean_reward(texts, never=[["you FOOL."]] * 4) == [1.0, 0.0, 1.0, 1.0]  # the thinking counts
    assert clean_reward(texts, refusals=[["No fooling!"]] * 4) == [0.0, 0.0, 0.0, 1.0]
    assert answered_reward(texts) == clean_reward(texts) == [None] * 4  # no column: does not apply
    assert answered_reward(texts[:3], answers=[answers[0], None, None]) == [1.0, None, None]


@pytest.mark.parametrize("wrong", ["Snow is white.", 5, [5], [], [""], {"a": 1}])
def test_known_answers_of_the_wrong_type_are_found_before_the_run(wrong):
    judge = dict.fromkeys(BY_MODEL, lambda completions, **_: [0.5] * len(completions))
    rows = [{"prompt": "p", "task": "general"}, {"prompt": "p", "task": "general", "answers": ["yes"]}]
    check_rows(rows, "rows.jsonl", Plan(judge))
    for key in ("answers", "never", "refusals"):
        with pytest.raises(UserError, match=f'row 2: "{key}" must be a list of texts'):
            check_rows([rows[0], rows[1] | {key: wrong}], "rows.jsonl", Plan(judge))


# -------------------------------------------------------------------- columns that are no column of a reward


@pytest.mark.parametrize("column", ["boxed", "fraction", "n", "completions", "prompts", "trainer_state"])
def test_a_column_of_any_name_changes_no_reward(column):
    row = {"prompt": "p", "task": "math", "answer": "7"}
    texts = ["<think>a</think><answer>7</answer>", "<think>a</think><answer>1</answer>"]
    plan = plan_of("", "repetition=0.1")
    for value in (False, ["<think>a</think><answer>7</answer>"], 3):
        assert score([row | {column: value}] * 2, texts, plan) == score([row] * 2, texts, plan)


@pytest.mark.parametrize("text,answer", [("So it is 7.\n**#### 7**", "7"), ("<answer>#### 7</answer>", "7"),
    (r"\boxed 7", "7"), (r"\fbox{7} is it", "7"), (r"<answer>\boxed{7}.</answer>", "7"), (r"\boxed{7", None)])
def test_answers_are_found_as_chat_models_write_them(text, answer):
    assert found_answer(text) == answer


def test_a_program_in_a_list_loses_its_indentation():
    text = "1. The program:\n\n   ```Python\n   def f():\n       return 1\n   ```\n"
    row = {"prompt": "p", "task": "code", "tests": ["assert f() == 1"]}
    assert score([row], [text], NO_PLAN._replace(strict=False))[0]["accuracy"] == 1
