"""Estimators over samples against brute force; what votes together; what a completion's thinking shows."""

import itertools
import random

import pytest

from config import UserError
from curves import best_at_k, cons_at_k, majority, measures, value_function, vote_classes, votes_curve
from metrics import aha, line_results
from rewards import NO_PLAN, Plan


def test_cons_at_k_is_the_mean_of_the_majority_over_all_subsets():
    rng = random.Random(0)
    for _ in range(40):
        n = rng.randint(1, 8)
        answers = [rng.choice(["a", "b", "c", "d", None]) for _ in range(n)]
        correct = [float(rng.random() < 0.5) if a == "d" else float(a == "a") for a in answers]
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(range(n), k))
            # of a class with right and wrong members a random one of the drawn is the answer: average as well
            share = {a: sum(c for b, c in zip(answers, correct, strict=True) if b == a) / answers.count(a)
                for a in answers}
            each = [majority([answers[i] for i in s], [share[answers[i]] for i in s]) for s in subsets]
            assert cons_at_k(answers, correct, k) == pytest.approx(sum(each) / len(subsets))


def test_best_at_k_is_the_mean_of_the_best_scored_over_all_subsets():
    rng = random.Random(1)
    for _ in range(40):
        n = rng.randint(1, 7)
        scores, correct = [rng.randint(0, 3) for _ in range(n)], [float(rng.random() < 0.4) for _ in range(n)]
        for k in range(1, n + 1):
            want = []
            for s in itertools.combinations(range(n), k):
                best = [correct[i] for i in s if scores[i] == max(scores[j] for j in s)]
                share = {x: sum(c for y, c in zip(scores, correct, strict=True) if y == x) / scores.count(x)
                    for x in scores}
                assert best
                want.append(share[max(scores[j] for j in s)])
            assert best_at_k(scores, correct, k) == pytest.approx(sum(want) / len(want))


def test_votes_cost_nothing_to_be_right_with_one_sample_and_all_of_them():
    answers, correct = ["a", "b", "b", None], [1.0, 0.0, 0.0, 0.0]
    assert cons_at_k(answers, correct, 1) == 0.25 and cons_at_k(answers, correct, 4) == 0.0


@pytest.mark.parametrize("answers,classes", [(["1/2", "0.5", r"\frac{2}{4}", "2"], [[0, 1, 2], [3]]),
    (["x = 5", "5", None, "y = 5"], [[0, 1], [3]]), (["50%", "0.50", "50"], [[0, 1], [2]]),
    (["blue", "Blue ", "green"], [[0, 1], [2]])])
def test_equal_answers_are_one_vote_by_value(answers, classes):
    assert sorted(map(sorted, vote_classes(answers, by_value=True))) == classes
    for order in itertools.permutations(range(len(answers))):
        found = vote_classes([answers[i] for i in order], by_value=True)
        assert sorted(sorted(order[i] for i in c) for c in found) == classes


def test_countdown_votes_by_text_and_maths_by_value():
    rows = {"countdown": ["8*(5-2)", "8 * (5-2)", "24"], "math": ["1/2", "0.5", "3"]}
    records = {task: [{"problem": 0, "answer": a, "accuracy": float(i < 2), "tokens": 1,
        "by_value": task == "math"} for i, a in enumerate(answers)] for task, answers in rows.items()}
    for task in rows:
        assert votes_curve(records[task], 3)["votes"][-1]["accuracy"] == 1.0
    records["math"][1]["by_value"] = records["math"][0]["by_value"] = False
    assert votes_curve(records["math"], 3)["votes"][-1]["accuracy"] == pytest.approx(2 / 3)


def test_weights_decide_a_vote_and_without_any_the_count_does():
    answers, correct = ["a", "b", "b"], [1.0, 0.0, 0.0]
    assert majority(answers, correct, [3.0, 1.0, 1.0]) == 1.0
    assert majority(answers, correct, [0.0, 0.0, 0.0]) == 0.0 == majority(answers, correct)


def test_curves_count_the_tokens_of_every_sample_and_err_over_problems():
    records = [{"problem": p, "answer": str(ok), "accuracy": float(ok), "tokens": 10 * (p + 1),
        "by_value": False, "judge": ok} for p, row in enumerate([[1, 0, 0, 0], [1, 1, 1, 0]]) for ok in row]
    found = votes_curve(records, 4, "judge")
    assert [p["tokens"] for p in found["votes"]] == [15, 30, 60]
    assert found["votes"][0]["accuracy"] == 0.5 and found["votes"][0]["se"] == pytest.approx(0.25)
    assert found["votes"][-1]["accuracy"] == 0.5 and found["best of k"][-1]["accuracy"] == 1.0
    assert found["pass@k"][1]["accuracy"] == pytest.approx((0.5 + 1.0) / 2)


ROW = {"prompt": "Use 5 8 2 to make 24.", "task": "countdown", "numbers": [5, 8, 2], "target": 24}
FAILED, RIGHT = "(8+2)+5=10+5=15 need 24 low wait\n", "8*(5-2)=8*3=24 need 24 ok"


@pytest.mark.parametrize("thinking,right,corrected,verified", [
    (RIGHT, 1, 0, 0),  # at once
    (FAILED + RIGHT, 1, 1, 0),  # the aha moment
    (FAILED + RIGHT, 0, 0, 0),  # found, then answered wrongly
    (FAILED.replace("wait", "so") + RIGHT, 1, 0, 0),  # no word of reflection
    (FAILED + "give up", 0, 0, 0),
    (RIGHT + " wait\n8*(5-2)=8*3=24 ok", 1, 0, 1),  # worked out again
    (RIGHT + "\nlet me check: 3*8 is it", 1, 0, 1),  # checked in words
    (RIGHT + " check", 1, 0, 1),
    ("check this: " + RIGHT, 1, 0, 0),  # a checking word before the result
    (FAILED + "let me check\n" + RIGHT, 1, 1, 0),
    ("24 = 24 wait", 0, 0, 0), ("", 0, 0, 0)])
def test_aha_moments_of_hand_written_chains(thinking, right, corrected, verified):
    text = f"<think>{thinking}</think>\n<answer>check = 24 again</answer>"
    assert aha(text, 24, right) == {"corrected": corrected, "verified": verified}


def test_without_an_expected_answer_there_is_no_aha_moment():
    assert aha("<think>x = 3 wait\nx = . check</think>", "", 1) == {"corrected": 0, "verified": 0}


def test_a_line_comes_to_what_stands_after_its_last_equals_sign():
    text = f"<think>{FAILED}x = 5.\nso 7\n2*3=</think>=9"
    assert line_results(text) == ["15", "5", None, None]


@pytest.mark.parametrize("thinking,share,mixed", [("need 24 low wait", 1, 0), ("8*3=24", 1, 0),
    ("brauche 24 warte", 0, 0), ("need 24 low warte", 2 / 3, 1)])
def test_mixed_thinking_has_words_of_the_rows_language_and_of_another(thinking, share, mixed):
    m = measures(ROW, f"<think>{thinking}</think>\n<answer>warte</answer>", 0.0)
    assert m["consistency"] == pytest.approx(share) and m["mixed"] == mixed
    german = measures(ROW | {"language": "de"}, f"<think>{thinking}</think>", 0.0)
    assert german["mixed"] == mixed and (mixed or german["consistency"] == 1 - share or share == 1)


def test_the_search_judges_by_what_is_known_at_test_time():
    texts = [f"<think>x</think><answer>{a}</answer>" for a in ("8*(5-2)", "8+5+2", "8*(5-2)")]
    three = ([0] * 3, texts, [9] * 3, [True] * 3)
    assert value_function("check", [ROW], NO_PLAN)(*three) == [1, 0, 1]
    assert value_function("agreement", [ROW], NO_PLAN)(*three) == pytest.approx([1, 1 / 2, 2 / 3])
    plan = Plan({"short": lambda completions, **_: [-float(len(c)) for c in completions]}, {})
    assert value_function("short", [ROW], plan)(*three) == [-len(t) for t in texts]
    with pytest.raises(UserError, match="only Countdown"):
        value_function("check", [ROW | {"task": "math"}], NO_PLAN)
    with pytest.raises(UserError, match="did you mean agreement"):
        value_function("agrement", [ROW], NO_PLAN)
