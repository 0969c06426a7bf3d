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
    BY_MODEL,
    REWARDS,
    TASK_REWARDS,
    Plan,
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
    word_lists,
)


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


def test_countdown_counts_each_number_exactly_and_divides_exactly():
    ask = lambda answer, numbers, target: countdown_reward([wrap(answer)], [numbers], [target])[0]  # noqa: E731
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
    with pytest.raises(UserError, match="row 1: .*no number in the answer 'ten'"):
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
        ({"prompt": "p", "task": "arithmetic", "answer": 3}, "cannot be scored"),
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
    ],
)
def test_language_share_of_mixed_text(text, language, share):
    assert language_share(text, language) == pytest.approx(share)
    assert language_reward([wrap("1", text)], [language]) == [pytest.approx(share)]


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
