"""NaN in weights, rewards, log-probabilities and losses, at some steps, on one rank or on all: the step is
skipped and counted, a run that cannot recover ends with one line, and nothing broken is saved."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import grpo
import preference
import sft
from checkpoint import load_model, save_model
from config import UserError, run_script
from preference import reward_plan, with_score_head
from rewards import score
from tests.test_cli import FAST, ROOT, base, run  # noqa: F401

WORDS = FAST | {"eval_every": 1, "steps": 5, "kl_coef": 0.0}
PAIRS = [{"prompt": f"Say {i}", "chosen": f"<think>a</think>{i}", "rejected": "<think>b</think>no"}
    for i in range(40)]


def no_logprobs(both):
    return both[0] * math.nan, both[1]


def break_numbers(script: str, what: str, steps: list[int], rank: int):
    """Run a script whose numbers are NaN at these steps (from 0), on this rank (-1: on all)."""
    now = {"step": -1, "rank": -1}

    def bad():
        return now["step"] in steps and rank in (-1, now["rank"])

    def spoiled(function, spoil):
        return lambda *a, **k: spoil(function(*a, **k)) if bad() else function(*a, **k)

    module, step_of = (grpo, "update") if script == "grpo" else (sft, "run_step")
    train, batches = getattr(module, step_of), grpo.collect

    def step(model, *args):
        place = next(i for i, a in enumerate(args) if isinstance(a, int))
        now.update(step=args[place], rank=args[-1].rank)
        out = train(model, *args)
        if what == "weights" and bad():
            next(model.parameters()).data.fill_(math.nan)
        return out

    def collect(*args):  # the rewards of a step are made before its update
        now.update(step=now["step"] + 1, rank=args[-1].rank)
        return batches(*args)

    setattr(module, step_of, step)
    if what == "rewards":
        grpo.collect = collect
        grpo.score = spoiled(grpo.score, lambda scores: [s | {"reward": math.nan} for s in scores])
    elif what == "logprobs" and script == "grpo":
        grpo.completion_logprobs = spoiled(grpo.completion_logprobs, no_logprobs)
    elif what == "logprobs":
        sft.token_logprobs = spoiled(sft.token_logprobs, no_logprobs)
    elif what == "pairs":
        preference.pair_loss = spoiled(preference.pair_loss, lambda losses: losses * math.nan)
    run_script(module.main)


def broken(script: str, what: str, at, rank: int, **options):
    code = ("import sys; sys.path.insert(0, 'tests'); from tests import test_broken_numbers as t; "
        f"t.break_numbers({script!r}, {what!r}, {list(at)}, {rank})")
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True,
        timeout=200)


def rows_of(dir: Path) -> list[dict]:
    """The train rows; every line must be JSON as other programs read it."""
    def no(word):
        raise ValueError(word)

    lines = (dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [r for r in (json.loads(line, parse_constant=no) for line in lines) if r["kind"] == "train"]


def finite(dir: Path) -> bool:
    return all(p.isfinite().all() for p in load_model(dir).parameters())


def message(out) -> str:
    """The one line of the error, which the bar of another process may surround."""
    assert "Traceback" not in out.stderr and out.stderr.count("error: ") == 1, out.stderr
    return out.stderr.partition("error: ")[2].splitlines()[0]


@pytest.mark.parametrize("what,device,rank", [("rewards", "cpu:2", 1), ("logprobs", "cpu:1", -1)])
def test_grpo_skips_a_step_and_goes_on(what, device, rank, base, tmp_path):  # noqa: F811
    out = broken("grpo", what, [1], rank, init=base, out=tmp_path / "a", device=device, **WORDS)
    assert out.returncode == 0, out.stderr
    skipped = [r.get("skipped", 0) for r in rows_of(tmp_path / "a")]
    assert skipped[1] and not any(skipped[:1] + skipped[2:]) and "not finite" in out.stdout
    assert finite(tmp_path / "a")


@pytest.mark.parametrize("what,device,rank", [("rewards", "cpu:1", -1), ("weights", "cpu:2", 1)])
def test_grpo_ends_where_no_step_helps_and_its_last_state_resumes(what, device, rank,
        base, tmp_path):  # noqa: F811
    options = dict(init=base, out=tmp_path / "a", device=device, **WORDS)
    out = broken("grpo", what, range(1, 5), rank, **options)
    assert out.returncode == 2 and f"{tmp_path}/a/state" in message(out), out.stderr
    assert ("3 steps in a row" if what != "weights" else "NaN or infinite") in out.stderr
    assert not (tmp_path / "a/model.safetensors").exists() and finite(tmp_path / "a/state")
    assert len(rows_of(tmp_path / "a")) == (4 if what != "weights" else 2)
    again = run("grpo", **options)
    assert again.returncode == 0 and "resuming after step" in again.stdout, again.stderr
    assert finite(tmp_path / "a") and [r["step"] for r in rows_of(tmp_path / "a")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("what,device,rank", [("logprobs", "cpu:2", 1), ("pairs", "cpu:1", -1)])
def test_sft_never_saves_a_broken_model(what, device, rank, base, tmp_path):  # noqa: F811
    options = dict(steps=6, batch_size=8, save_every=1, device=device, task=FAST["task"])
    if what == "pairs":
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
        options["task"] = tmp_path / "pairs.jsonl"
    for name, steps in (("once", [2]), ("always", range(2, 6))):
        out = broken("sft", what, steps, rank, init=base, out=tmp_path / name, **options)
        if what == "weights" or name == "always":
            assert out.returncode == 2 and f"{tmp_path / name}/state" in message(out), out.stderr
            assert not (tmp_path / name / "model.safetensors").exists() and finite(tmp_path / name / "state")
        else:
            assert out.returncode == 0 and "1 steps were skipped" in out.stdout, out.stderr
            assert [r["skipped"] for r in rows_of(tmp_path / name)] == [0, 0, 1, 0, 0, 0]
            assert finite(tmp_path / name)
    again = run("sft", init=base, out=tmp_path / "always", **options)
    assert again.returncode == 0 and finite(tmp_path / "always"), again.stderr


@pytest.mark.parametrize("steps", [2])
def test_a_learning_rate_that_blows_up_the_weights_saves_no_model(steps, base, tmp_path):  # noqa: F811
    out = run("sft", init=base, out=tmp_path / "s", device="cpu", steps=steps, batch_size=4, lr=1e8, warmup=0)
    assert out.returncode == 2 and "lower --lr" in message(out) and "no state was saved yet" in out.stderr
    assert not (tmp_path / "s/model.safetensors").exists() and rows_of(tmp_path / "s")


def test_a_reward_that_fails_or_is_nan_on_another_rank_shows_its_own_message_once(base, tmp_path):  # noqa: F811
    (tmp_path / "mine.py").write_text("""
def grade(completions, answer, **_):
    if "13" in answer and completions[0] != "<think></think><answer>1</answer>":
        return [float("nan")] * len(completions)
    return [float(len(c) % 2) for c in completions]

def fails(completions, answer, **_):
    if "13" in answer and completions[0] != "<think></think><answer>1</answer>":
        raise ValueError("my grader failed")
    return [float(len(c) % 2) for c in completions]
""")
    rows = [{"prompt": f"What is {i}+1?", "task": "mine", "answer": str(i + 1)} for i in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, says in (("grade", "returned [nan"), ("fails", "my grader failed")):
        out = run("grpo", init=base, out=tmp_path / name, device="cpu:2", **FAST | dict(
            task=tmp_path / "own.jsonl", reward=f"{tmp_path}/mine.py:{name}", reward_weights="",
            max_new_tokens=8, eval_every=100))
        assert out.returncode == 2 and f"reward {name}: " in message(out) and says in out.stderr
        assert len(out.stderr.strip().splitlines()) == 1


def test_a_broken_preference_model_gives_no_reward(base, tmp_path):  # noqa: F811
    """The chance of a score that is NaN is no number, either."""
    save_model(with_score_head(load_model(base)), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"score.weight": tensors["score.weight"] * math.nan}, tmp_path / "model.safetensors")
    row = {"prompt": "Hello?", "task": "general"}
    with pytest.raises(UserError, match="returned .nan"):
        score([row], ["<think></think><answer>hi</answer>"], reward_plan(f"preference:{tmp_path}"))
