"""Estimators against brute force; evaluation on the held-out split."""

import itertools
import json
import math
import random
import sys
from types import ModuleType

import pytest

from config import UserError
from data.tasks import row_at, split_of, training_rows
from eval import (
    attempt_table,
    best_at_k,
    cons_at_k,
    held_out,
    judged,
    majority,
    mean_and_error,
    measures,
    pass_at_k,
    ratio_and_error,
    run_of,
    search_measures,
    summarize,
    vote_classes,
)
from metrics import (
    SEARCH,
    TRACKERS,
    Log,
    aha,
    check_tracker,
    diagnosis,
    line_results,
    open_tracker,
    progress_line,
    reflections,
    table,
)
from rewards import NO_PLAN


@pytest.mark.parametrize("n,c,k", [(5, 2, 3), (6, 0, 2), (6, 6, 4), (7, 1, 7), (8, 3, 1), (4, 3, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, c, k):
    subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("answers,correct,want", [(["a", "a", "b"], [1, 1, 0], 1),
    (["a", "b", "b"], [1, 0, 0], 0), (["a", "b"], [1, 0], 0.5), ([None, None, "b"], [0, 0, 1], 1),
    ([None, None], [0, 0], 0), (["1 + 2", "1+2", "3", "4"], [1, 1, 0, 0], 1),
    (["a", "b", "c"], [1, 0, 0], 1 / 3)])
def test_majority_votes_over_extracted_answers_and_averages_ties(answers, correct, want):
    assert majority(answers, correct) == pytest.approx(want)


def test_standard_error_is_over_problems():
    mean, error = mean_and_error([0.0, 1.0, 1.0, 0.0])
    assert mean == 0.5 and error == pytest.approx(math.sqrt(1 / 3 / 4))


def test_the_error_of_a_ratio_is_that_of_the_mean_for_equal_wholes_and_else_the_bootstraps():
    rng = random.Random(0)
    shares = [rng.random() for _ in range(9)]
    assert ratio_and_error([4 * s for s in shares], [4] * 9) == pytest.approx(mean_and_error(shares))
    wholes = [rng.randint(0, 12) for _ in range(150)]
    parts = [sum(rng.random() < 0.3 + w / 30 for _ in range(w)) for w in wholes]
    drawn = [rng.choices(range(150), k=150) for _ in range(2000)]
    ratios = [sum(parts[i] for i in some) / sum(wholes[i] for i in some) for some in drawn]
    mean = sum(ratios) / len(ratios)
    spread = math.sqrt(sum((r - mean) ** 2 for r in ratios) / len(ratios))
    ratio, error = ratio_and_error(parts, wholes)
    assert ratio == sum(parts) / sum(wholes) and error == pytest.approx(spread, rel=0.06)
    naive = mean_and_error([p / w for p, w in zip(parts, wholes, strict=True) if w])[1]
    assert naive != pytest.approx(spread, rel=0.06)  # else this would not tell them apart


def records(right):
    """right: per problem the truth of each of its samples."""
    return [{"problem": p, "text": "<think>wait</think>", "answer": str(int(ok) or i), "tokens": 10 + i,
        "finished": i > 0, "accuracy": float(ok)} for p, row in enumerate(right) for i, ok in enumerate(row)]


def test_summary_by_hand():
    m = summarize(records([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]), 4)
    assert m["pass@1"] == pytest.approx(0.5) and m["pass@k"] == pytest.approx(2 / 3)
    assert m["pass@1_se"] == pytest.approx(math.sqrt(0.25 / 3)) and m["length"] == 11.5
    assert m["truncated"] == 0.25 and m["reflections"] == 1 and m["cons@k"] == pytest.approx(2 / 3)
    assert "50.0% +- 28.9%" in table({"x": m})


def test_what_a_preference_model_says_is_averaged_over_the_rows_that_it_judges():
    some = records([[1, 0], [0, 0], [1, 1]])
    for r in some:
        r.update({"mixed": 1.0} | ({"helpful": 0.25 * r["problem"]} if r["problem"] else {}))
    m = summarize(some, 2)
    assert m["helpful"] == pytest.approx(0.375) and m["mixed"] == 1.0 and "harmless" not in m
    assert m["helpful_se"] == pytest.approx(0.125)


def test_held_out_problems_are_distinct_and_of_the_test_split(tmp_path):
    rows = held_out("countdown:n=3,high=12,ops=+-*,limit=40,high_target=40", 256)
    assert len({(tuple(sorted(r["numbers"])), r["target"]) for r in rows}) == 256
    assert all(split_of("countdown", r) == "test" for r in rows)
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row_at("arithmetic", "test", 0, i)) + "\n" for i in range(30)))
    whole = held_out(str(path), 20, whole_file=True)
    assert len(whole) == 20 and whole == held_out(str(path), 20, whole_file=True)
    part = held_out(str(path), 20)
    assert len(part) == 6
    trained = training_rows(str(path), 0, hold_out=True)
    assert not {r["prompt"] for r in part} & {trained(i)["prompt"] for i in range(60)}
    with pytest.raises(UserError, match="No such file"):
        held_out(str(tmp_path / "none.jsonl"), 3)


def test_the_settings_beside_a_checkpoint_are_texts(tmp_path):
    for name, value in {"task": ["a"], "eval_task": 5, "columns": {}, "strict_format": "no"}.items():
        (tmp_path / "run.json").write_text(json.dumps({"task": "countdown", "steps": 9} | {name: value}))
        with pytest.raises(UserError, match=f"run.json: {name}=.* is no"):
            run_of(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"task": "countdown", "eval_task": None, "steps": 9}))
    assert run_of(tmp_path) == {"task": "countdown"}


def test_reflection_words_are_counted_in_the_thinking_only():
    assert reflections("<think>1+1=3 wait\nCheck: awaiting</think>\n<answer>wait</answer>") == 2


def row(**kw):
    return (dict(accuracy=0.1, no_variance=0.1, truncated=0.0, entropy=0.2, format=0.9, clip_fraction=0.01,
        loss=0.1, reward=0.2, length=60.0, kl_old=0.001, tokens_per_second=9000.0) | kw)


@pytest.mark.parametrize("kw,updates,want", [(dict(no_variance=0.48), 2,
    "48% of groups have no variance: the task is too hard"),
    (dict(no_variance=0.48, accuracy=0.9), 2, "too easy"),
    (dict(truncated=0.31), 2, "31% truncated: raise max_new_tokens"),
    (dict(entropy=0.001), 2, "hardly explores"), (dict(format=0.2), 2, "cold start longer"),
    (dict(clip_fraction=0.5), 2, "too large"), (dict(routing_agreement=0.5), 2, "--router replay"),
    (dict(loss=1e-5), 1, "loss about 0 is normal")])
def test_the_diagnosis_names_the_trouble(kw, updates, want):
    assert any(want in line for line in diagnosis([row(**kw)] * 3, 128, updates))


def steps_of(**columns):
    return [row(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("key,name", [("kl", "kl"), ("kl_old", "kl_old"), ("grad_norm", "grad_norm")])
def test_an_explosion_is_told_from_what_learning_runs_do(key, name):
    """Runs that learn have a KL that starts at 0 and gradient norms that triple."""
    usual, size = [0.3, 0.5, 0.2, 0.9, 0.4] * 6, 100 if key == "grad_norm" else 10
    for last, told in ((size, True), (0.9, False), (11 * 0.4 if key == "grad_norm" else 0.95, False)):
        rows = steps_of(**{key: [*usual[:-1], last]})
        said = diagnosis(rows[-6:], 128, 2, rows)
        assert any(line.startswith(f"{name} {last:.3g}, ") and "lower lr" in line for line in said) == told
        assert told or not said
    growing = steps_of(**{key: [0.0001 * 1.3**i for i in range(30)]})  # 0.2 in the end, 2,000 times the first
    assert all(diagnosis(growing[max(0, i - 6) : i], 128, 2, growing[:i]) == [] for i in range(31))
    still = steps_of(**{key: [0.0] * 29 + [float(size)]})  # nothing was learnt before
    assert [line[: len(name)] for line in diagnosis(still[-6:], 128, 2, still)] == [name]
    high = steps_of(**{key: [20.0, 30.0, 12.0] * 10})  # a run whose numbers are always large
    assert diagnosis(high[-6:], 128, 2, high) == []
    without = [{k: v for k, v in r.items() if k != key} for r in high]
    assert diagnosis(without[-6:], 128, 2, without) == []


def test_a_step_without_a_rollout_is_no_part_of_the_diagnosis():
    empty = dict(skipped=1, rollout_seconds=1.0)
    line, = diagnosis([row(), empty], 128, 2)
    assert line.startswith("1 updates skipped") and "metrics.jsonl" in line
    assert diagnosis([empty], 128, 2) == [line] and diagnosis([row(skipped=0), row(skipped=0)], 128, 2) == []


def test_a_healthy_run_gets_no_diagnosis_and_steps_are_averaged():
    assert diagnosis([row()], 128, 2) == [] and diagnosis([], 128, 1) == []
    assert diagnosis([row(truncated=0.5), row(), row()], 128, 2) == []


def test_progress_line_shows_the_reference_kl_or_says_that_it_is_the_old_policys():
    assert "kl 0.0200" in progress_line(row(kl=0.02), 3, 10, 61) and "eta 1:01" in progress_line(row(), 3, 10,
        61)
    assert "kl_old 0.0010" in progress_line(row(), 3, 10, 61)


def test_progress_line_says_what_was_left_out_of_a_step_and_why():
    bad = dict(why="loss", rows=[1])
    assert "skipped" not in progress_line(row(skipped=[]), 3, 10, 61)
    assert "clip 1.0%  skipped: loss not finite  " in progress_line(row(skipped=[bad]), 3, 10, 61)
    nothing = {k: v for k, v in row().items() if k != "entropy"}
    assert "no update  skipped: loss" in progress_line(nothing | {"skipped": [bad]}, 3, 10, 61)
    assert progress_line(dict(skipped=[bad | {"says": "reward f: x"}]), 3, 10, 61) == (
        "step    3/10  skipped: reward f: x  eta 1:01")


def test_a_resumed_log_drops_the_rows_after_the_step_it_goes_on_from(tmp_path):
    log = Log(tmp_path, 0, True)
    for step in range(1, 6):
        log.write("train", step, x=step / 3)
        log.sample(step, text="t")
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"kind": "train", "step"')  # killed while writing
    again = Log(tmp_path, 3, True)
    again.write("train", 4, x=0.0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4] == [r["step"] for r in again.rows]
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 3


def test_a_run_killed_during_its_last_evaluations_writes_them_once(tmp_path):
    log = Log(tmp_path, 0, True, 2)
    for kind, step in [("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("before", 2)]:
        log.write(kind, step)
        log.sample(step, text=kind)
    again = Log(tmp_path, 2, True, 2)  # the state of step 2 was saved: both evaluations are made again
    assert [(r["kind"], r["step"]) for r in again.rows] == [("eval", 0), ("train", 1), ("train", 2)]
    steps = [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert 2 not in steps and 1 in steps


def test_a_row_for_each_update_that_was_left_out_is_written_once_whenever_the_run_stops(tmp_path):
    bad = [dict(why="loss", rows=[3, 4]), dict(why="reward", rows=[5], says="a text")]

    def write(log, steps):
        for step in steps:
            log.write("train", step, loss=math.nan if step == 2 else 1.0, skipped=bad if step == 2 else [])

    write(Log(tmp_path, 0, True, 2), (1, 2))
    whole = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, whole)) == [{"kind": "train", "step": 1, "loss": 1.0, "skipped": 0},
        {"kind": "skipped", "step": 2, "why": "loss", "rows": [3, 4]},
        {"kind": "skipped", "step": 2, "why": "reward", "rows": [5]},
        {"kind": "train", "step": 2, "skipped": 2}]
    for saved in (2, 1, 0):  # the state of the last step, of the one before, none
        log = Log(tmp_path, saved, True, 2)
        write(log, range(saved + 1, 3))
        assert (tmp_path / "metrics.jsonl").read_text().splitlines() == whole
        assert log.rows == list(map(json.loads, whole))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_the_numbers_of_each_row_in_step_order(name, tmp_path, monkeypatch):
    library, began, logged = ModuleType(name), [], []
    library.init = lambda **kw: began.append(kw)
    library.log = lambda values, step: logged.append((step, values))
    library.finish = lambda: None
    monkeypatch.setitem(sys.modules, name, library)
    dir = tmp_path / "tiny" / "grpo"
    dir.mkdir(parents=True)
    log = Log(dir, 0, True, 2, open_tracker(name, dir, {"lr": 0.1}))
    for kind, step in [("eval", 0), ("train", 1), ("train", 2), ("eval", 2)]:
        log.write(kind, step, loss=step / 2, tokens=step, name="text", nothing=None)
        log.sample(step, text="t")
    assert len(began) == 1 and began[0].items() >= {"project": "picor1", "name": "tiny-grpo",
        "config": {"lr": 0.1}}.items()
    assert logged == [(r["step"], {f"{r['kind']}/loss": r["loss"], f"{r['kind']}/tokens": r["tokens"]})
        for r in map(json.loads, (dir / "metrics.jsonl").read_text().splitlines())]
    assert [step for step, _ in logged] == [0, 1, 2, 2]


def test_a_resumed_run_gives_its_tracker_the_whole_run_and_no_step_twice(tmp_path):
    first, again = [], []
    log = Log(tmp_path, 0, True, 3, lambda *row: first.append(row))
    for kind, step in [("eval", 0), ("train", 1), ("train", 2)]:
        log.write(kind, step, loss=step / 2)
    log = Log(tmp_path, 1, True, 3, lambda *row: again.append(row))  # killed after step 2, saved after step 1
    log.write("train", 2, loss=1.0)
    assert again == first == [("eval", 0, {"loss": 0.0}), ("train", 1, {"loss": 0.5}),
        ("train", 2, {"loss": 1.0})]


def test_tensorboard_gets_one_scalar_per_number(tmp_path, monkeypatch):
    scalars, library = [], ModuleType("torch.utils.tensorboard")

    class SummaryWriter:
        def __init__(self, dir):
            assert dir == tmp_path

        def add_scalar(self, *row):
            scalars.append(row)

        def flush(self):
            scalars.append("flush")

    library.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    (tmp_path / "events.out.tfevents.1.interrupted").touch()
    log = Log(tmp_path, 0, True, tracker=open_tracker("tensorboard", tmp_path, {}))
    log.write("train", 1, loss=0.5, tokens=3)
    assert scalars == [("train/loss", 0.5, 1), ("train/tokens", 3, 1), "flush"]
    assert not list(tmp_path.glob("events*"))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_tracker_is_one_line_that_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / name).mkdir()  # a folder of that name is no library
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for call in (lambda: check_tracker(name), lambda: open_tracker(name, tmp_path, {})):
        with pytest.raises(UserError, match=f"pip install {name}$"):
            call()


def test_a_tracker_whose_import_fails_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # Python's own mark for: cannot be imported
    with pytest.raises(UserError, match="pip install trackio$"):
        open_tracker("trackio", tmp_path, {})


def test_without_a_tracker_there_are_only_files_and_an_unknown_one_gets_a_hint(tmp_path):
    assert open_tracker("", tmp_path, {}) is None and check_tracker("") is None
    with pytest.raises(UserError, match="did you mean tensorboard"):
        check_tracker("tensorbord")


# ------------------------------------------------------ votes, and what a completion's thinking shows


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
    (["x = 5", "5", None, "y = 5"], [[0, 1], [3]]), (["50%", "0.50", "50"], [[0, 2], [1]]),
    (["blue", "Blue ", "green"], [[0, 1], [2]])])
def test_equal_answers_are_one_vote_by_value(answers, classes):
    assert sorted(map(sorted, vote_classes(answers, by_value=True))) == classes
    for order in itertools.permutations(range(len(answers))):
        found = vote_classes([answers[i] for i in order], by_value=True)
        assert sorted(sorted(order[i] for i in c) for c in found) == classes


def test_weights_decide_a_vote_and_without_any_the_count_does():
    answers, correct = ["a", "b", "b"], [1.0, 0.0, 0.0]
    assert majority(answers, correct, [3.0, 1.0, 1.0]) == 1.0
    assert majority(answers, correct, [0.0, 0.0, 0.0]) == 0.0 == majority(answers, correct)


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


# ------------------------------------------------------------------------------------ the search of Countdown

WRONG = "(8+2)+5=10+5=16 need 24 low wait\n"


def test_the_search_of_one_completion_by_hand():
    text = f"<think>{FAILED}{WRONG}8-2=7\n{RIGHT}</think>\n<answer>8*(5-2)</answer>"
    m = search_measures(ROW, text)
    assert m == {"attempts": 4, "attempts_distinct": 3, "first_attempt": 0, "attempts_true": 0.5,
        "attempts_repeated": 0.25}
    assert search_measures(ROW, "<think>give up</think>") == {"attempts": 0, "attempts_distinct": 0,
        "first_attempt": 0}
    assert search_measures(ROW | {"task": "math", "answer": "24"}, text) == {}
    assert m.items() <= measures(ROW, text, 1.0).items()


@pytest.mark.parametrize("line,right", [(RIGHT, 1), ("8*(5-2)=8*4=24", 0), ("8*3=24", 0),
    ("8*(5-2)+2-2=24", 0), ("8+(5*2)=18\n" + RIGHT, 0), ("8 x (5 - 2) = 24", 1)])
def test_the_first_attempt_counts_where_it_is_true_and_solves_the_problem(line, right):
    assert search_measures(ROW, f"<think>{line}</think>")["first_attempt"] == right


def searched():
    """Three problems, two samples each: 1 + 3, 2 + 0 and 0 + 0 attempts."""
    rows = [ROW, ROW | {"numbers": [5, 8, 3]}, ROW]
    thoughts = [RIGHT, FAILED + WRONG + RIGHT, FAILED + WRONG, "give up", "give up", "none"]
    texts = [f"<think>{t}</think>\n<answer>8*(5-2)</answer>" for t in thoughts]
    return judged(rows, [0, 0, 1, 1, 2, 2], texts, [[1]] * 6, [True] * 6, NO_PLAN, 9), rows


def test_shares_of_attempts_are_sums_over_sums_and_the_table_shows_them():
    m = summarize(searched()[0], 2)
    assert m["attempts"] == 1 and m["attempts_distinct"] == 4 / 6 and m["first_attempt"] == 1 / 6
    assert m["attempts_true"] == pytest.approx(4 / 6) and m["attempts_repeated"] == pytest.approx(2 / 6)
    assert m["attempts_true_se"] == pytest.approx(ratio_and_error([3, 1, 0], [4, 2, 0])[1])
    rows = {line[:14].strip(): line[14:].split() for line in table({"x": m, "y": m}).splitlines()}
    assert rows["attempts"] == ["1.0", "1.0"] and rows["true attempts"][0] == "66.7%"
    assert rows["repeated"][0] == "33.3%" and rows["distinct"][0] == "0.7" and "first attempt" in rows


def test_without_countdown_or_without_an_attempt_no_number_is_made_up_and_no_row_is_empty():
    other = summarize(records([[1, 0], [0, 0]]), 2)
    assert not {k for k in other if k.removesuffix("_se") in SEARCH}
    none, _ = searched()
    none = summarize(none[4:], 2)
    assert none["attempts"] == 0 and "attempts_true" not in none
    for m in (other, none):
        assert "true attempts" not in table({"x": m}) and "attempts" in table({"x": none})
    assert "true attempts" not in table({"x": summarize(searched()[0], 2), "y": other})


def test_the_table_of_attempts_by_place_counts_each_attempt_once():
    found, _ = searched()
    assert attempt_table(found).split("\n")[1].split() == ["1", "to", "3", "33.3%", "33.3%", "6"]
    long = [found[0] | {"text": "<think>" + WRONG * 20 + "</think>", "attempts": 20.0}]
    lines = [line.split() for line in attempt_table(found + long).splitlines()]
    assert [line[-1] for line in lines[1:]] == ["9", "3", "3", "3", "3", "5"]
    assert lines[1] == ["1", "to", "3", "44.4%", "55.6%", "9"] and lines[-1][:2] == ["from", "16"]
    assert attempt_table(found[4:]) == "" == attempt_table([{"text": "7-3=4"}])
