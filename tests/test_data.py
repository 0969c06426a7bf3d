"""Tasks."""

import json
import random
import re
from fractions import Fraction

import pytest

from data.tasks import (
    TASKS,
    TaskError,
    chain_for,
    countdown_search,
    distinct,
    parse_task,
    random_expression,
    row_at,
    split_of,
    training_rows,
    work_out,
)
from rewards import format_reward, score

# ------------------------------------------------------------------------------------------------------ tasks

TINY_TASK = "countdown:n=3,high=12,ops=+-*,limit=40,high_target=40"
SPECS = ["countdown", "countdown:n=4", "countdown:n=6,high=50", TINY_TASK,
    "arithmetic", "arithmetic:n=6", "sort_words", "sort_words:n=6"]


WORD_SUMS = ["word_sums", "word_sums:steps=2", "word_sums:high=99,ops=+-", "word_sums:high=3,plain=100",
    "word_sums:plain=0,steps=2,high=3", "word_sums:plain=0,ops=*,high=20", "word_sums:ops=*,steps=2,plain=0"]


@pytest.mark.parametrize("spec", SPECS + WORD_SUMS[:3])
def test_rows_are_functions_of_seed_and_index(spec):
    assert row_at(spec, "train", 1, 5) == row_at(spec, "train", 1, 5)
    assert row_at(spec, "train", 1, 5) != row_at(spec, "train", 2, 5)
    assert len({json.dumps(row_at(spec, "train", 0, i)) for i in range(40)}) > 30


@pytest.mark.parametrize("spec", SPECS + WORD_SUMS)
def test_train_and_test_are_disjoint_by_problem(spec):
    name, knobs = parse_task(spec)
    count = 40 if knobs.get("n", 0) == 6 else 400
    keys = {split: {json.dumps(TASKS[name].key(row_at(spec, split, seed, i))) for i in range(count) for seed
        in (0, 7)} for split in ("train", "test")}
    assert not keys["train"] & keys["test"]
    row = row_at(spec, "test", 0, 0)
    if name == "countdown":  # the same numbers in another order are the same problem
        assert split_of(name, row | {"numbers": row["numbers"][::-1]}) == "test"


@pytest.mark.parametrize("spec", SPECS)
def test_chains_have_the_format_and_sometimes_fail(spec):
    rows = [row_at(spec, "train", 3, i) for i in range(300)]
    texts = [chain_for(row, 0, i) for i, row in enumerate(rows)]
    scores = score(rows, texts)
    assert all(s["format"] == 1.0 for s in scores)
    share = sum(s["accuracy"] for s in scores) / len(scores)
    assert 0 < share < 1
    for text, s in zip(texts, scores, strict=True):
        assert s["accuracy"] == float("give up" not in text and text.count(" ok") > 0) or "give up" in text


@pytest.mark.parametrize("spec", [s for s in SPECS if s.startswith("countdown")])
def test_countdown_is_solvable_and_its_chains_calculate_right(spec):
    """Brute force finds a solution; every line of a chain evaluates to one value; the verdicts are true."""
    for i in range(30):
        row = row_at(spec, "train", 0, i)
        if len(row["numbers"]) <= 4:
            assert row["target"] in reachable(tuple(map(Fraction, row["numbers"])))
        thinking = chain_for(row, 0, i).split("</think>")[0].removeprefix("<think>")
        for line in thinking.split("\n"):
            if line == "give up":
                continue
            work, verdict = re.fullmatch(r"(\S*) (ok|high wait|low wait)", line).groups()
            values = {Fraction(eval(re.sub(r"(\d+)", r"Fraction(\1)", part))) for part in work.split("=")}
            assert len(values) == 1
            value = values.pop()
            truth = "ok" if value == row["target"] else "high wait" if value > row["target"] else "low wait"
            assert verdict == truth


@pytest.mark.parametrize("numbers,ops,limit", [([3, 12, 7], "+-*", 40), ([4, 8, 4], "+-*/", 99),
    ([2, 5, 1, 10], "+-*", 60), ([9, 9, 9], "-", 40)])
def test_a_search_has_every_expression_once_in_an_order_of_its_own(numbers, ops, limit):
    """Whatever thousands of random draws find, and nothing else."""
    row, rng = {"numbers": numbers, "ops": ops, "limit": limit}, random.Random(0)
    drawn = {found for _ in range(20_000) if (found := random_expression(numbers, ops, limit, rng))}
    orders = [list(countdown_search(row, random.Random(seed))) for seed in range(20)]
    for found in orders:
        assert len(found) == len(set(found)) == len({expression for expression, _ in found})
        assert set(found) == drawn
    assert len({tuple(found) for found in orders}) > 1 or len(orders[0]) == 1


def read_word_sum(prompt: str) -> int:
    """The answer by the words alone: a number and what its sentence says happens to it."""
    if bare := re.fullmatch(r"(?:What|How much) is ([0-9+*() -]+)\?", prompt):
        return eval(bare[1])
    *told, question = re.findall(r"[^.?]+[.?]", prompt)
    people = [s.split()[0] for s in told]
    two = re.fullmatch(r" How many (?:more )?(\w+) (?:do they have together|does (\w+) have than (\w+))\?",
        question)
    if two:
        a, b = (int(re.search(r"\d+", s)[0]) for s in told)
        assert len(told) == 2 and people[0] != people[1] and two.groups()[1:] in ((None, None), (*people,))
        assert " more " not in question or a > b
        return a - b if " more " in question else a + b
    value, owner, goods = None, people[0], None
    for sentence in told:
        numbers, words = [int(n) for n in re.findall(r"\d+", sentence)], set(re.findall(r"[a-z]+", sentence))
        verb = words & {"has", "starts", "holds", "buys", "finds", "gets", "gives", "loses", "sells", "eats"}
        assert len(verb) == 1, sentence
        match verb.pop():
            case "has" | "starts":
                assert value is None and sentence.split()[0] == owner
                value = numbers[0] * (numbers[1] if "each" in words else 1)
            case "holds":
                value *= numbers[0]
            case "gives" if sentence.split()[0] != owner:
                assert sentence.split()[2] == owner
                value += numbers[0]
            case "buys" | "finds" | "gets":
                assert "more" in words
                value += numbers[0]
            case "sells" if "each" in words:
                assert value >= 2
                value *= numbers[0]
                goods = "dollars"
            case _:
                assert "more" not in words and numbers[0] <= value
                value -= numbers[0]
    asked = re.fullmatch(r" How many (\w+) does (\w+) (?:have|get).*\?", question)
    assert asked[2] == owner and (asked[1] == goods if goods else asked[1] in prompt) and value >= 0
    return value


@pytest.mark.parametrize("spec", WORD_SUMS)
def test_word_sums_say_what_their_answer_is(spec):
    """By an independent reader of the text; correct English: 1 pen, 2 pens."""
    _, knobs = parse_task(spec)
    rows = [row_at(spec, split, 0, i) for split in ("train", "test") for i in range(1000)]
    for row in rows:
        assert str(read_word_sum(row["prompt"])) == row["answer"], row
        assert len(row["ops"]) == knobs.get("steps", 1) and set(row["ops"]) <= set(knobs.get("ops", "+-*"))
        assert 1 <= min(row["numbers"]) and max(row["numbers"]) <= knobs.get("high", 9)
        numbers = [int(n) for n in re.findall(r"\d+", row["prompt"])]
        assert numbers == row["numbers"]
        for n, noun in re.findall(r"(\d+) (?:more )?([a-z]+)", row["prompt"]):
            assert noun.endswith("s") == (n != "1") and not noun.endswith("xs"), row["prompt"]
    bare = sum(" is " in row["prompt"] for row in rows) / len(rows)
    assert abs(bare - knobs.get("plain", 20) / 100) < 0.05
    assert len({row["prompt"] for row in rows}) > (300 if bare < 1 else 10)


def test_a_sum_is_on_one_side_of_the_split_under_any_name():
    def sums(split):
        rows = [row_at("word_sums", split, 0, i) for i in range(3000)]
        return {(tuple(sorted(r["numbers"])), r["ops"]) for r in rows}

    train, test = sums("train"), sums("test")
    assert not train & test and (len(train), len(test)) == (111, 23)
    rows = distinct("word_sums", "test", 0, 128)  # an evaluation has more wordings than sums
    assert len({r["prompt"] for r in rows}) == 128


@pytest.mark.parametrize("spec", WORD_SUMS)
def test_chains_of_word_sums_are_true_and_end_in_the_answer(spec):
    rows = [row_at(spec, "train", 3, i) for i in range(100)]
    texts = [chain_for(row, 0, i) for i, row in enumerate(rows)]
    assert all(s["accuracy"] == 1 for s in score(rows, texts)) and min(format_reward(texts)) == 1
    for text in texts:
        for left, right in re.findall(r"(\d+ [-+*] \d+) = (\d+)\.", text):
            assert eval(left) == int(right)


def reachable(numbers) -> set:
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j:
                rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
                for value in (a + b, a - b, a * b, *([a / b] if b else [])):
                    found |= reachable((*rest, value))
    return found


def test_knobs_change_the_difficulty():
    row = row_at("countdown:n=5,high=7,ops=+,high_target=40", "train", 0, 0)
    assert len(row["numbers"]) == 5 and max(row["numbers"]) <= 7 and row["target"] == sum(row["numbers"])
    assert work_out("(7-3)*9") == "(7-3)*9=4*9=36"


@pytest.mark.parametrize("spec", ["countdwn", "countdown:n=2", "countdown:n=7", "countdown:size=3",
    "countdown:n", "countdown:n=x", "countdown:ops=+^", "countdown:ops=12", "arithmetic:n=1",
    "sort_words:n=99", "word_sums:steps=0", "word_sums:steps=3", "word_sums:high=2", "word_sums:plain=101",
    "word_sums:ops=/", "word_sums:names=3", "word_sums:steps="])
def test_wrong_task_specs_are_refused(spec):
    with pytest.raises(TaskError):
        row_at(spec, "train", 0, 0)


@pytest.mark.parametrize("spec", ["countdown:high=1", "countdown:limit=0", "arithmetic:limit=0,ops=+",
    "countdown:low_target=500,high_target=400"])
def test_knobs_that_allow_no_problem_are_refused_and_not_tried_for_ever(spec):
    with pytest.raises(TaskError, match="allow no problem"):
        row_at(spec, "train", 0, 0)


@pytest.mark.parametrize("row", [{"prompt": "Compute (1+2.", "task": "arithmetic", "answer": "3"},
    {"prompt": "p", "task": "countdown", "numbers": [[1], 2], "target": 3, "ops": "+", "limit": 9},
    {"prompt": "p", "task": "word_sums", "numbers": [[7], 3], "ops": "+", "answer": "1"},
    {"prompt": "p", "task": "word_sums", "numbers": 7, "ops": "+", "answer": "7"}])
def test_a_row_that_is_not_of_its_task_has_no_chain_of_thought(row):
    with pytest.raises(TaskError, match="no generator makes one"):
        chain_for(row, 0, 0)


def test_a_task_with_few_problems_gives_those_that_it_has():
    rows = distinct("countdown:n=3,high=4,ops=+-,low_target=1", "test", 0, 30)
    keys = {json.dumps(TASKS["countdown"].key(r)) for r in rows}
    assert 0 < len(rows) == len(keys) < 30 and {split_of("countdown", r) for r in rows} == {"test"}


def test_jsonl_epochs_use_each_row_once_in_new_orders(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(i), "task": "sort_words", "answer": "a"}) + "\n" for i
        in range(9)))
    rows = training_rows(str(path), seed=1)
    epochs = [[rows(e * 9 + i)["prompt"] for i in range(9)] for e in range(3)]
    assert all(sorted(e) == [str(i) for i in range(9)] for e in epochs) and epochs[0] != epochs[1]


def test_chains_do_not_know_the_solution():
    """The first attempt is right about as often as a random expression, far less than always."""
    rows = [row_at(SPECS[3], "train", 0, i) for i in range(400)]
    first = [" ok" in TASKS["countdown"].chain(r, random.Random(i)).split("\n")[0] for i,
        r in enumerate(rows)]
    assert 0.02 < sum(first) / len(first) < 0.3
