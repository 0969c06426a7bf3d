"""NaN in weights, gradients, rewards, log-probabilities and losses, at some steps, on one rank or on all: the
step is skipped and counted, a run that cannot recover ends with one line, and nothing broken is saved. Memory
that runs out in a pass: the minibatch is repeated in smaller parts, with the same numbers."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import distill
import grpo
import preference
import sample
import sft
from batch import Sample
from checkpoint import load_model, save_model
from config import ModelConfig, NotFinite, UserError, run_script
from data.tasks import training_rows
from data.tokenizer import shipped
from lora import Lora, attach
from model import Transformer
from optim import keep_masters, make_optimizers, master_of, trained
from parallel import Ranks, frozen_copy, gather, setup
from preference import reward_plan, with_score_head
from rewards import call_reward, score
from tests.test_cli import FAST, ROOT, base, run  # noqa: F401

ALONE, TOK = Ranks(0, 1, "cpu"), shipped()
WORDS = FAST | {"eval_every": 1, "eval_problems": 16, "steps": 6, "kl_coef": 0.0}
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

    module, step_of, rollout = {"grpo": (grpo, "update", "collect"), "sft": (sft, "run_step", ""),
        "distill": (distill, "update", "sample_batch")}[script]
    train, batches = getattr(module, step_of), getattr(module, rollout, None)

    def step(model, *args):
        place = next(i for i, a in enumerate(args) if isinstance(a, int))
        now.update(step=args[place], rank=args[-1].rank)
        out = train(model, *args)
        if what == "weights" and bad():
            next(model.parameters()).data.fill_(math.nan)
        return out

    def collect(*args):  # a step's samples are made before its update; those of an evaluation are not its
        now.update(step=now["step"] + 1, rank=args[-1].rank)
        try:
            return batches(*args)
        finally:
            now["rank"] = None

    setattr(module, step_of, step)
    if what in ("rewards", "sampled"):
        setattr(module, rollout, collect)
    if what == "rewards":
        grpo.score = spoiled(grpo.score, lambda scores: [s | {"reward": math.nan} for s in scores])
    elif what == "sampled":
        made = sample._Engine.rollout
        sample._Engine.rollout = spoiled(made, lambda out: dataclasses.replace(out,
            logprobs=[[-math.inf] * len(row) for row in out.logprobs]))
    elif what == "logprobs" and script == "grpo":
        grpo.completion_logprobs = spoiled(grpo.completion_logprobs, no_logprobs)
    elif what == "memory":
        sft.forward_backward = spoiled(sft.forward_backward, lambda out: out_of_memory())
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


def rows_of(dir: Path, kind: str = "train") -> list[dict]:
    """The rows of a kind; every line must be JSON as other programs read it."""
    def no(word):
        raise ValueError(word)

    lines = (dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [r for r in (json.loads(line, parse_constant=no) for line in lines) if r["kind"] == kind]


def finite(dir: Path) -> bool:
    return all(p.isfinite().all() for p in load_model(dir).parameters())


def message(out) -> str:
    """The one line of the error, which the bar of another process may surround."""
    assert "Traceback" not in out.stderr and out.stderr.count("error: ") == 1, out.stderr
    return out.stderr.partition("error: ")[2].splitlines()[0]


@pytest.mark.parametrize("what,device,rank,why,says", [("rewards", "cpu:2", 1, "loss", "loss not finite"),
    ("sampled", "cpu:2", 1, "logprob", "logits are NaN"), ("logprobs", "cpu:1", -1, "logprob", "not finite")])
def test_grpo_skips_a_step_and_goes_on(what, device, rank, why, says, base, tmp_path):  # noqa: F811
    out = broken("grpo", what, [1], rank, init=base, out=tmp_path / "a", device=device, **WORDS)
    assert out.returncode == 0, out.stderr
    skipped = [r.get("skipped", 0) for r in rows_of(tmp_path / "a")]
    assert skipped[1] and not any(skipped[:1] + skipped[2:]) and f"skipped: {why if why in says else ''}" in (
        out.stdout) and says in out.stdout
    rows = rows_of(tmp_path / "a", "skipped")
    assert {r["step"] for r in rows} == {2} and {r["why"] for r in rows} == {why} and len(rows) == skipped[1]
    assert {n for r in rows for n in r["rows"]} <= set(range(4, 8))  # the second rollout's four problems
    assert finite(tmp_path / "a")


def test_distillation_skips_a_step_that_one_rank_cannot_sample(base, tmp_path):  # noqa: F811
    out = broken("distill", "sampled", [1], 1, init=base, out=tmp_path / "a", device="cpu:2", prompts=12,
        on_policy="true", samples=2, batch_size=8, max_new_tokens=8, eval_problems=4, task=FAST["task"],
        **{"from": base})
    assert out.returncode == 0, out.stderr
    line, = (line for line in out.stdout.splitlines() if "skipped" in line)
    assert line.startswith("step    2/3  no samples  skipped: the model's logits are NaN")
    assert [r["skipped"] for r in rows_of(tmp_path / "a")] == [0, 1, 0] and finite(tmp_path / "a")
    assert rows_of(tmp_path / "a", "skipped") == [{"kind": "skipped", "step": 2, "why": "logprob",
        "rows": [4, 5, 6, 7]}]


def test_where_the_model_is_split_memory_that_runs_out_ends_the_run_with_one_line(base, tmp_path):  # noqa: F811
    out = broken("sft", "memory", [1], 1, init=base, out=tmp_path / "s", device="cpu:2", shard="true",
        steps=4, batch_size=8, save_every=1, task=FAST["task"])
    said = message(out)
    assert out.returncode == 2 and "no rank can repeat, for the model is split" in said
    assert "a smaller --micro_tokens" in said and "DefaultCPUAllocator: can't allocate memory" in said
    assert "--shard" not in said and [r["step"] for r in rows_of(tmp_path / "s")] == [1]


@pytest.mark.parametrize("error,is_one", [(torch.OutOfMemoryError("CUDA out of memory. Tried to"), 1),
    (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), 1), (MemoryError(), 1), (None, 1),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 1),
    (RuntimeError("shape '[2]' is invalid for input of size 3"), 0), (ValueError("no memory of it"), 0)])
def test_memory_that_runs_out_elsewhere_is_one_line_and_no_other_error_is_taken_for_it(error, is_one, capsys):
    def main():
        if error:
            raise error
        torch.empty(2**55)

    with pytest.raises(SystemExit) as end:
        run_script(main)
    said = capsys.readouterr().err
    assert end.value.code == 2 - (not is_one) and ("Traceback" in said) == (not is_one)
    assert said.startswith("error: out of memory (") == bool(is_one)


@pytest.mark.parametrize("what,device,rank", [("rewards", "cpu:1", -1), ("weights", "cpu:2", 1)])
def test_grpo_ends_where_no_step_helps_and_its_last_state_resumes(what, device, rank,
        base, tmp_path):  # noqa: F811
    options = dict(init=base, out=tmp_path / "a", device=device, **WORDS)
    out = broken("grpo", what, range(1, 6), rank, **options)
    assert out.returncode == 2 and f"{tmp_path}/a/state" in message(out), out.stderr
    assert ("5 steps in a row" if what != "weights" else "NaN or infinite") in out.stderr
    assert not (tmp_path / "a/model.safetensors").exists() and finite(tmp_path / "a/state")
    assert len(rows_of(tmp_path / "a")) == (6 if what != "weights" else 2)
    again = run("grpo", **options)
    assert again.returncode == 0 and "resuming after step" in again.stdout, again.stderr
    assert finite(tmp_path / "a") and [r["step"] for r in rows_of(tmp_path / "a")] == [1, 2, 3, 4, 5, 6]
    skipped = [r["step"] for r in rows_of(tmp_path / "a", "skipped")]  # up to the last state, of step 5
    assert skipped == ([s for s in range(2, 6) for _ in range(FAST["updates"])] if what != "weights" else [])


@pytest.mark.parametrize("what,device,rank", [("logprobs", "cpu:2", 1), ("pairs", "cpu:1", -1)])
def test_sft_never_saves_a_broken_model(what, device, rank, base, tmp_path):  # noqa: F811
    options = dict(steps=7, batch_size=8, save_every=1, device=device, task=FAST["task"])
    if what == "pairs":
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
        options["task"] = tmp_path / "pairs.jsonl"
    for name, steps in (("once", [2]), ("always", range(2, 7))):
        out = broken("sft", what, steps, rank, init=base, out=tmp_path / name, **options)
        if what == "weights" or name == "always":
            assert out.returncode == 2 and f"{tmp_path / name}/state" in message(out), out.stderr
            assert not (tmp_path / name / "model.safetensors").exists() and finite(tmp_path / name / "state")
        else:
            assert out.returncode == 0 and "1 steps were skipped" in out.stdout, out.stderr
            assert [r["skipped"] for r in rows_of(tmp_path / name)] == [0, 0, 1, 0, 0, 0, 0]
            assert rows_of(tmp_path / name, "skipped") == [{"kind": "skipped", "step": 3, "why": "loss",
                "rows": [*range(16, 24)]}]
            assert finite(tmp_path / name)
    again = run("sft", init=base, out=tmp_path / "always", **options)
    assert again.returncode == 0 and finite(tmp_path / "always"), again.stderr


@pytest.mark.parametrize("steps", [2])
def test_a_learning_rate_that_blows_up_the_weights_saves_no_model(steps, base, tmp_path):  # noqa: F811
    out = run("sft", init=base, out=tmp_path / "s", device="cpu", steps=steps, batch_size=4, lr=1e8, warmup=0)
    assert out.returncode == 2 and "lower --lr" in message(out) and "no state was saved yet" in out.stderr
    assert not (tmp_path / "s/model.safetensors").exists() and rows_of(tmp_path / "s")


OWN = """
import math, os

def grade(completions, answer, trainer_state, **_):  # from the second step on, on one rank, without an end
    return _bad(completions, trainer_state.global_step > 0)

def once(completions, answer, trainer_state, **_):
    return _bad(completions, trainer_state.global_step == 1)

def first(completions, answer, trainer_state, **_):  # in the evaluation before the first step
    return _bad(completions, completions[0] != "<think></think><answer>1</answer>")

def fails(completions, answer, **_):
    if _bad(completions, completions[0] != "<think></think><answer>1</answer>")[0] == math.inf:
        raise ValueError("my grader failed")
    return _bad(completions, False)

def _bad(completions, now):
    if now and os.environ.get("RANK") == "1":
        return [math.inf] * len(completions)
    return [float(len(c) % 2) for c in completions]
"""


def with_own_reward(tmp_path, name, base, out, **options):  # noqa: F811
    (tmp_path / "mine.py").write_text(OWN)
    rows = [{"prompt": f"What is {i}+1?", "task": "mine", "answer": str(i + 1)} for i in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run("grpo", init=base, out=out, device="cpu:2", **FAST | dict(task=tmp_path / "own.jsonl",
        reward=f"{tmp_path}/mine.py:{name}", reward_weights="", max_new_tokens=8, eval_every=100,
        eval_problems=4) | options)


@pytest.mark.parametrize("name,says", [("first", "returned [inf"), ("fails", "my grader failed")])
def test_a_reward_that_fails_or_is_inf_in_an_evaluation_shows_its_own_message_once(name, says,
        base, tmp_path):  # noqa: F811
    out = with_own_reward(tmp_path, name, base, tmp_path / name)
    assert out.returncode == 2 and f"reward {name}: " in message(out) and says in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_a_reward_that_is_inf_in_a_rollout_skips_that_step(base, tmp_path):  # noqa: F811
    out = with_own_reward(tmp_path, "once", base, tmp_path / "a")
    assert out.returncode == 0, out.stderr
    line, = (line for line in out.stdout.splitlines() if "skipped" in line)
    assert line.startswith("step    2/4  skipped: reward once: returned [inf") and "What is" in line
    assert [r.get("skipped", 0) for r in rows_of(tmp_path / "a")] == [0, 1, 0, 0]
    assert rows_of(tmp_path / "a", "skipped") == [{"kind": "skipped", "step": 2, "why": "reward",
        "rows": [4, 5, 6, 7]}]
    out = with_own_reward(tmp_path, "grade", base, tmp_path / "b", steps=8)
    assert out.returncode == 2 and "5 steps in a row" in message(out) and "correct the reward" in message(out)
    assert [r["step"] for r in rows_of(tmp_path / "b", "skipped")] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("values,kind", [([1.0, math.nan], NotFinite), ([-math.inf, None], NotFinite),
    (["1", 1.0], UserError), ([math.nan], UserError), (math.nan, UserError), ([1j, math.nan], UserError)])
def test_only_numbers_that_are_not_finite_make_a_step_be_skipped(values, kind):
    rows = [{"prompt": "p", "task": "mine"}] * 2
    with pytest.raises(UserError, match="^reward f: returned") as caught:
        call_reward("f", lambda completions, **_: values if len(completions) == 2 else [0.0], rows,
            ["a", "b"], {"n": [1, 2]})
    assert type(caught.value) is kind


def test_a_broken_preference_model_gives_no_reward(base, tmp_path):  # noqa: F811
    """The chance of a score that is NaN is no number, either."""
    save_model(with_score_head(load_model(base)), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"score.weight": tensors["score.weight"] * math.nan}, tmp_path / "model.safetensors")
    row = {"prompt": "Hello?", "task": "general"}
    with pytest.raises(NotFinite, match="returned .nan"):
        score([row], ["<think></think><answer>hi</answer>"], reward_plan(f"preference:{tmp_path}"))


# ------------------------------------------------------------------------------ one rank of two, step by step

SHAPE = dict(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, kv_lora_rank=12,
    intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.1, max_position_embeddings=512)


def small(kind: str = "") -> Transformer:
    """Trained are all weights, in bfloat16 with masters, those of a preference model, or adapters."""
    model = Transformer(ModelConfig(**SHAPE)).init_weights(0)
    for name, p in model.named_parameters():
        p.data = p.data.bfloat16() if kind == "bfloat16" and ".gate." not in name else p.data
    if kind == "pairs":
        with_score_head(model)
    if kind == "lora":
        attach(model, Lora(4, 8.0, dropout=0.5, targets="q_proj"))
    keep_masters(model)
    return model


def samples(count: int = 12) -> list[Sample]:
    """Made-up completions of different lengths, three of each prompt."""
    g, out, shape = torch.Generator().manual_seed(3), [], small()
    layers, K = len(shape.routers()), shape.cfg.num_experts_per_tok
    for i in range(count):
        prompt, n = list(range(5, 12 + i // 3)), 3 + 4 * i
        made = torch.randint(4, 500, (n,), generator=g).tolist()
        routing = np.arange(K) + np.zeros((len(prompt) + n - 1, layers, 1), dtype=np.int64)
        out.append(Sample(prompt + made, len(prompt), [-6.0] * n, True, routing, {"reward": 0.0}, 0, 5.7 - i,
            number=100 + i // 3))
    return out


SFT = sft.Config(batch_size=8, lr=1e-3, warmup=1, steps=9, init="x", task=FAST["task"], bias_rate=0.1)
RL = grpo.Config(kl_coef=0.0, updates=2, lr=1e-3, steps=9, router="bias")
# name of a way to train -> (module, its settings, kind of model, the function that makes a pass)
WAYS = {"sft": (sft, SFT, "bfloat16", "forward_backward"), "lora": (sft, SFT, "lora", "forward_backward"),
    "pairs": (sft, SFT, "pairs", "pair_backward"), "grpo": (grpo, RL, "", "micro_step"),
    "own": (grpo, dataclasses.replace(RL, importance="truncate", kl_coef=0.1), "", "completion_logprobs"),
    "distill": (distill, distill.Config(on_policy=True, lr=1e-3, prompts=100), "", "kl_backward")}
SFT_ROWS, RL_ROWS = [*range(8, 16)], {100, 101, 102, 103}


class Trainer:
    """One way to train, step by step."""

    def __init__(self, way: str, ranks: Ranks, **settings):
        self.way, self.ranks = way, ranks
        self.module, cfg, kind, _ = WAYS[way]
        self.cfg, self.model = dataclasses.replace(cfg, **settings), small(kind)
        self.optimizers = make_optimizers(self.model, ranks, lr=1e-3)
        self.other = frozen_copy(self.model)  # the reference, or the teacher
        if way == "distill":
            self.other.lm_head.weight.data *= 2

    def step(self, step: int, some: list[Sample] | None = None) -> dict:
        if self.module is sft:
            task = training_rows(FAST["task"], 0)
            rows = (lambda i: PAIRS[i]) if self.way == "pairs" else task
            return sft.run_step(self.model, self.optimizers, step, rows, TOK, self.cfg, self.ranks)
        return self.module.update(self.model, self.other, self.optimizers, some or samples(), step, self.cfg,
            TOK, self.ranks)

    def numbers(self) -> list[torch.Tensor]:
        """Weights, routers' biases, masters, moments: copies."""
        moments = [t for o in self.optimizers for s in o.state.values() for t in s.values()
            if torch.is_tensor(t)]
        both = [*self.model.state_dict().values(), *map(master_of, trained(self.model)), *moments]
        return [t.detach().clone() for t in both]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def plus_inf(value):
    """An infinite value with finite gradients."""
    return (value[0] + math.inf, *value[1:]) if isinstance(value, tuple) else value + math.inf


def one_is_minus_inf(both):
    """The first token's log-probability: the clipped objective, and its gradient, are finite."""
    logprobs = both[0].clone()
    logprobs[0, 0] = -math.inf
    return logprobs, *both[1:]


BREAKS = [("sft", "loss", "token_logprobs", plus_inf), ("pairs", "loss", "pair_loss", plus_inf),
    ("grpo", "loss", "policy_loss", plus_inf), ("distill", "loss", "reverse_kl", plus_inf),
    ("grpo", "logprob", "completion_logprobs", one_is_minus_inf), ("own", "logprob", "sampled", None),
    ("grpo", "logprob", "sampled", None), *((way, "gradient", "", None) for way in WAYS)]


def breaks(ranks: Ranks) -> dict:
    """Each cause, on one rank of two: a good step, a broken one, a good one."""
    found = {}
    for way, why, name, spoil in BREAKS:
        trainer = Trainer(way, ranks)
        trainer.step(0)
        before, some, place = trainer.numbers(), samples(), preference if way == "pairs" else trainer.module
        given = getattr(place, name, None)
        if name == "sampled":  # what the sampler says is the same on every rank
            some = [s._replace(old_logprobs=[-math.inf, *s.old_logprobs[1:]]) if i == 0 else s
                for i, s in enumerate(some)]
        elif ranks.rank == 1 and why == "gradient":
            hook = trained(trainer.model.layers)[0].register_hook(lambda grad: grad * math.nan)
        elif ranks.rank == 1:
            setattr(place, name, lambda *a, f=given, g=spoil, **k: g(f(*a, **k)))
        m = trainer.step(1, some)
        if ranks.rank == 1 and why == "gradient":
            hook.remove()
        elif ranks.rank == 1 and given:
            setattr(place, name, given)
        kept, left = same(trainer.numbers(), before), m["skipped"]
        clean = not any(master_of(p).grad.any() for p in trained(trainer.model))
        again = trainer.step(2)
        found[f"{way} {why} {name}"] = {"kept": kept, "left": left, "clean": clean,
            "moved": not same(trainer.numbers(), before), "then": again["skipped"],
            "finite": all(t.isfinite().all() for t in trainer.numbers())}
    return found


def out_of_memory(full: str = "") -> None:
    """torch's own error, of this machine or as another device words it."""
    if full:
        raise torch.OutOfMemoryError(full)
    torch.empty(2**55)


def fails_at(trainer: Trainer, call: int, full: str = "", always: bool = False):
    """Memory runs out at the end of that pass (from 0), when its gradients are added, once or always. Returns
    the calls made, and whether each failed pass's tensors are still there when the next one begins."""
    name, module = WAYS[trainer.way][3], trainer.module
    function, calls, kept = getattr(module, name), [], []

    def fails(*args, **options):
        kept.extend(ref() is not None for ref in calls if ref)
        out = function(*args, **options)
        calls.append(None)
        if len(calls) == call + 1 or always:
            big = torch.ones(10)
            calls[-1] = weakref.ref(big)
            out_of_memory(full)
        return out

    setattr(module, name, fails)
    return calls, kept, lambda: setattr(module, name, function)


def memory(ranks: Ranks) -> dict:
    """The second pass of the second step fails on one rank of two; beside it a run that has the smaller parts
    from that step on, and one to which nothing happens."""
    found = {}
    for way in WAYS:
        failing, smaller, whole = (Trainer(way, ranks, micro_tokens=150) for _ in range(3))
        for trainer in (failing, smaller, whole):
            trainer.step(0)
        calls, kept, stop = fails_at(failing, 1) if ranks.rank == 1 else ([], [], lambda: None)
        m = failing.step(1)
        stop()
        smaller.cfg.micro_tokens = int(failing.cfg.most_tokens)
        plain, usual = smaller.step(1), whole.step(1)
        found[way] = {"most": failing.cfg.most_tokens, "same": same(failing.numbers(), smaller.numbers()),
            "metrics": m == plain, "kept": any(kept), "passes": len(calls),
            "norms": [m["grad_norm"], usual["grad_norm"]],
            "asked": dataclasses.asdict(failing.cfg)["micro_tokens"]}
    trainer = Trainer("pairs", ranks, micro_tokens=1)
    fails_at(trainer, 0, always=True) if ranks.rank == 1 else None
    with pytest.raises(UserError) as error:  # on both: nobody waits for the other
        trainer.step(0)
    return found | {"error": str(error.value)}


def measure(dir: str):
    ranks = setup("cpu:2")
    Path(dir, str(ranks.rank)).write_text(json.dumps({"breaks": breaks(ranks), "memory": memory(ranks)}))
    gather(ranks, None)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(what each of two ranks has found, what was printed)."""
    dir = tmp_path_factory.mktemp("two")
    code = f"from tests import test_broken_numbers as t; t.measure({str(dir)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert done.returncode == 0, done.stderr
    return [json.loads((dir / str(rank)).read_text()) for rank in range(2)], done.stdout


def test_both_ranks_skip_what_is_not_finite_on_one_and_not_a_bit_of_weights_or_moments_changes(found):
    both = [rank["breaks"] for rank in found[0]]
    assert both[0] == both[1] and len(both[0]) == len(BREAKS)
    for name, m in both[0].items():
        way, why, _ = name.split(" ")
        parts = 2 if WAYS[way][0] is grpo else 1  # minibatches, each with rows of both ranks
        assert {one["why"] for one in m["left"]} == {why}, (name, m)
        assert len(m["left"]) == parts or why == "logprob" and "sampled" in name, (name, m)
        rows = {row for one in m["left"] for row in one["rows"]}
        assert rows <= RL_ROWS if WAYS[way][0] is not sft else rows == {*SFT_ROWS}, (name, m)
        assert m["kept"] == (len(m["left"]) == parts), (name, m)  # else the other minibatch made its step
        assert m["clean"] and m["moved"] and m["finite"] and m["then"] == [], (name, m)


def test_where_memory_runs_out_on_one_rank_both_repeat_in_smaller_parts_with_the_same_numbers(found):
    both, printed = [rank["memory"] for rank in found[0]], found[1]
    error = both[0].pop("error")
    assert error == both[1].pop("error") and error.startswith("out of memory in passes of ")
    assert "a single row each; what needs less: shorter rows, --recompute true, --dtype bfloat16" in error
    lines = [line for line in printed.splitlines() if line.startswith("out of memory")]
    assert len(lines) == len(WAYS) and all("repeated, with at most" in line for line in lines), printed
    for way in WAYS:
        m, other = both[0][way], both[1][way]
        assert m["same"] and other["same"] and m["metrics"] and other["metrics"], (way, m, other)
        assert 1 < m["most"] < 75 and m["most"] == other["most"] and m["asked"] == 150, (way, m)
        assert other["passes"] > 3 and not other["kept"], (way, other)
        bound = {"sft": 1e-2, "lora": math.inf}.get(way, 1e-4)  # bfloat16; dropout draws per pass
        assert m["norms"][0] == pytest.approx(m["norms"][1], rel=bound), (way, m)  # another order of the sum
