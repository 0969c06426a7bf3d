"""reasoning-gym's tasks: rows, splits, its own scorers and what they do not see to, knobs."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import config
from config import UserError
from data import gym
from data.gym import RULES, entry, gym_score, numbers_of, read_knob
from data.tasks import distinct, row_at, split_of, training_rows, wrap
from rewards import check_rows, score

pytest.importorskip("reasoning_gym", reason="the library of these tasks: requirements-gym.txt")
ROOT = Path(__file__).parent.parent
TWELVE = ["chain_sum,min_terms=2", "simple_equations", "letter_counting", "number_sorting", "word_sorting",
    "syllogism", "mini_sudoku", "countdown", "simple_geometry", "family_relationships", "number_sequence",
    "coin_flip", "list_functions", "calendar_arithmetic", "tower_of_hanoi,max_disks=4", "bf", "puzzle24",
    "complex_arithmetic", "game_of_life_halting", "gsm_symbolic", "fraction_simplification"]
TWO = "gym:chain_sum,min_terms=2+letter_counting,min_words=3"


def rows_of(spec: str, count: int, split: str = "train") -> list[dict]:
    return [row_at(f"gym:{spec}", split, 0, i) for i in range(count)]


def scored(row: dict, answer: str) -> dict:
    return score([row], [wrap("so", answer)])[0]


@pytest.mark.parametrize("spec", TWELVE)
def test_gold_answers_are_right_and_no_others(spec):
    for row in rows_of(spec, 12):
        assert scored(row, row["answer"])["accuracy"] == 1
        for wrong in ("", "?", "no idea", "nan", "1e999", "[]", "-987654.25", "0x", "None"):
            assert scored(row, wrong)["accuracy"] == 0, wrong
        assert score([row], [row["answer"]])[0] == {"gym": 0, "reward": 0, "accuracy": 0, "format": 0}


def test_any_process_makes_any_row():
    program = ("import json; from data.tasks import row_at; print(json.dumps([row_at(spec, split, 3, i) for "
        f"spec in {[TWO, 'gym:bf', 'gym:gsm_symbolic', 'gym:list_functions']} for i in (5, 0, 900) "
        "for split in ('test', 'train')]))")
    said = [subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")]
    assert said[0] == said[1]
    for row in json.loads(said[0]):
        made = entry(row["dataset"], row["seed"], row["index"])
        assert (row["prompt"], row["answer"]) == (made["question"], made["answer"])


@pytest.mark.parametrize("spec", [TWO, "gym:syllogism", "gym:coin_flip,max_trials=4", "gym:list_functions"])
def test_no_question_is_in_both_splits(spec):
    train, test = ({row_at(spec, split, seed, i)["prompt"] for seed in (0, 1) for i in range(150)}
        for split in ("train", "test"))
    assert train and test and not train & test
    held = distinct(spec, "test", 0, 8)
    assert 0 < len({r["prompt"] for r in held}) == len(held)
    assert all(split_of("gym", row) == "test" for row in held)


def test_a_composite_draws_from_each_part():
    rows = rows_of(TWO.removeprefix("gym:"), 60)
    parts = {row["dataset"] for row in rows}
    assert parts == {"chain_sum,min_terms=2", "letter_counting,min_words=3"}
    assert all(scored(row, row["answer"])["reward"] == 1.1 for row in rows)


def test_a_task_with_a_single_question_has_no_second_split():
    with pytest.raises(UserError, match="too few different ones"):
        for split in ("train", "test"):
            row_at("gym:count_primes,min_n=7,max_n=7", split, 0, 0)


def test_partial_credit_is_paid_but_is_not_right():
    row = row_at("gym:word_sorting", "train", 0, 0)
    words = row["answer"].split(", ")
    words[-1] = "zebra"
    result = scored(row, ", ".join(words))
    assert 0.5 < result["gym"] < 1 and result["accuracy"] == 0


@pytest.mark.parametrize("name,wrong", [
    ("puzzle24", lambda g: "9 + 9 + 5 + 1"), ("coin_flip", lambda g: "0" if g != "0" else "1"),
    ("game_of_life_halting", lambda g: str(g == "False")), ("letter_jumble", lambda g: g + " and so on"),
    ("gsm_symbolic", lambda g: f"{g} or 7"), ("gsm_symbolic", lambda g: f"-{g}"),
    ("word_sorting", lambda g: g + ", zebra"), ("time_intervals", lambda g: g + ", 99 days"),
    ("fraction_simplification", lambda g: g + r" or $\frac{1}{2}$"),
    ("advanced_geometry", lambda g: g + ", (1, 2)"), ("complex_arithmetic", lambda g: "nan"),
    ("spell_backward", lambda g: g + "x")])
def test_what_a_scorer_forgets_is_seen_to(name, wrong):
    """Each of these is a full score to the library on some row."""
    fooled = 0
    for row in rows_of(name, 30):
        answer, place = wrong(row["answer"]), (row["dataset"], row["seed"])
        fooled += gym.dataset(*place).score_answer(answer, entry(*place, row["index"])) >= 1
        assert scored(row, answer)["accuracy"] == 0
    assert fooled


def test_numbers_off_by_one_are_no_sorted_list():
    row = row_at("gym:number_sorting", "train", 0, 0)
    first = numbers_of(row["answer"].split(",")[0])[0]
    near = row["answer"].replace(f"{first}", f"{first + (0.5 if 'descending' in row['prompt'] else -0.5)}", 1)
    made = entry(row["dataset"], row["seed"], row["index"])
    assert gym.dataset(row["dataset"], row["seed"]).score_answer(near, made) == 1  # to the library
    assert scored(row, near)["accuracy"] == 0


def test_long_and_empty_gold_answers_are_right():
    rows = [row_at("gym:ab", "train", 1, i) for i in range(300)]
    empty = next(row for row in rows if not row["answer"])
    assert scored(empty, "")["accuracy"] == 1 and scored(rows[0], "")["accuracy"] == 0
    rows = [row_at("gym:palindrome_partitioning,min_string_len=14,max_string_len=16", "train", 0, i)
        for i in range(40)]
    longest = max(rows, key=lambda row: len(row["answer"]))
    assert len(longest["answer"]) > gym.LONGEST and scored(longest, longest["answer"])["accuracy"] == 1


@pytest.mark.parametrize("name,same", [("coin_flip", lambda g: f"{float(g):.9e}"),
    ("simple_integration", lambda g: f"(1/2)*x - 0.5*x + {g} + 0.5"),
    ("countdown", lambda g: f"({g})"), ("gsm_symbolic", lambda g: f"{g}.00 dollars"),
    ("complex_arithmetic", lambda g: f"({g.replace(' ', '')})"), ("polynomial_equations", lambda g: g + "0"),
    ("fraction_simplification", lambda g: g.strip("$")), ("number_sorting", lambda g: g.replace("'", ""))])
def test_right_answers_in_another_form_stay_right(name, same):
    assert all(scored(row, same(row["answer"]))["accuracy"] == 1 for row in rows_of(name, 30))


ATTACKS = ["__import__('os').system('touch PWNED')", "[open('PWNED', 'w')]", "().__class__", "9**9**9",
    "exec('open(\"PWNED\", \"w\")')", "S('open(\"PWNED\", \"w\")')", "1e99999999", "1e999999999/1",
    "[1]*10**10",
    "(" * 4000, "[" * 9000, "9" * 9000, "1+" * 4000 + "1", "U99999999", "A+99999999", "lambda: 1",
    "x**99999999", "x**9**9**9", "9**99**99", "factorial(99999999)", "2 ** 2 ** 99", "(9**99)**99",
    "((9)) **99", "(9/1)**99", "(x+1)*" * 30 + "x", "x**99/y**98+z**97/x**96+" * 8 + "x",
    "(x+9)/(y-1)/" * 15 + "x", "x**99*(y**99+1)*" * 12 + "x", "\u0661" * 50]


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_scorer_runs_no_answer_and_takes_no_time(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = row_at(f"gym:{name}", "train", 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(scored(row, attack)["accuracy"] == 0 for attack in ATTACKS)
    assert not list(tmp_path.iterdir())


def test_a_scorer_that_runs_the_answer_needs_permission(monkeypatch):
    with pytest.raises(UserError, match="runs the model's answer.*--unsafe_code_execution"):
        row_at("gym:intermediate_integration", "train", 0, 0)
    monkeypatch.setattr(config, "unsafe_code_execution", True)
    row = row_at("gym:intermediate_integration", "train", 0, 0)
    assert "integra" in row["prompt"].lower()


def test_a_scorer_that_fails_on_an_answer_warns_and_it_is_wrong():
    row = row_at("gym:prime_factorization", "train", 0, 0)
    with pytest.warns(UserWarning, match="prime_factorization fails on an answer.*ValueError"):
        assert scored(row, "two times three")["accuracy"] == 0


@pytest.mark.parametrize("spec,message", [("chainsum", "did you mean chain_sum"), ("", "no such data set"),
    ("chain_sum,min_term=2", "did you mean min_terms"), ("chain_sum,min_terms=x", "expected int"),
    ("chain_sum,min_terms", "expected int"), ("chain_sum,seed=3", "unknown knob 'seed'"),
    ("chain_sum,min_terms=9,max_terms=2", "the library refuses it"), ("chain_sum,min_terms=0", "refuses it"),
    ("basic_arithmetic,format_style=loud", "simple"), ("coin_flip,allow_exact=maybe", "expected bool"),
    ("chain_sum+letter_countin", "did you mean letter_counting"), ("composite", "join tasks by"),
    ("codeio", "differ from process to process"), ("chain_sum,allow_negation=2", "expected bool"),
    ("rearc,rng_difficulty_ranges=0:1", "cannot read"), ("binary_matrix,p_zero=nan", "expected float")])
def test_wrong_specs_are_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        training_rows(f"gym:{spec}", 0)
    assert "\n" not in str(error.value)


def test_knobs_have_the_types_that_the_library_declares():
    assert read_knob("+:-", tuple[str, ...]) == ("+", "-") and read_knob("1:2", list[int]) == [1, 2]
    assert read_knob("none", int | None) is None and read_knob("7", int | None) == 7
    rows = rows_of("basic_arithmetic,operators=+:*,min_terms=2,max_terms=2", 30)
    assert {w for row in rows for w in row["prompt"].split() if w in ("+", "-", "*", "/")} == {"+", "*"}
    rows = rows_of("time_intervals,min_date=2001-01-01,max_date=2001-12-31,task_types=date", 5)
    assert all("2001" in row["prompt"] for row in rows)


def test_a_row_of_another_version_is_refused():
    row = row_at("gym:chain_sum", "train", 0, 0) | {"prompt": "What is 1 + 1?"}
    with pytest.raises(UserError, match="not what this version of reasoning-gym makes"):
        check_rows([row], "rows.jsonl")
    with pytest.raises(UserError, match="gym"):
        check_rows([{"prompt": "1 + 1?", "task": "gym", "answer": "2"}], "rows.jsonl")


def test_without_the_library_the_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UserError, match="pip install -r requirements-gym.txt"):
        training_rows("gym:maze", 0)


def test_generators_leave_the_global_randomness_alone():
    import random
    random.seed(7)
    want = random.random()
    random.seed(7)
    gym.entry.cache_clear()
    rows_of("list_functions", 20)
    assert random.random() == want


def test_score_of_no_answer_and_of_a_huge_one_is_0():
    row = row_at("gym:chain_sum", "train", 0, 0)
    place = row["prompt"], row["dataset"], row["seed"], row["index"]
    assert gym_score(None, *place) == gym_score("", *place) == gym_score("9" * 20_000, *place) == 0
    assert gym_score(row["answer"], *place) == 1
