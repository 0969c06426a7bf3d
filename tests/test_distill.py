"""Distillation: what is kept and why not, and a run that goes on where it stopped; on-policy, the gradient of
the full-vocabulary reverse KL, and the runs."""

import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import batch
import distill
from batch import predicted, rows_pass
from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.shapes import read_rows
from data.tokenizer import shipped
from distill import (
    RECIPES,
    Config,
    check,
    check_way,
    decide,
    finished_chunks,
    judge_of,
    must_recompute,
    same_vocabulary,
    sample_batch,
    sealed,
    student_rows,
    update,
)
from kernels import reverse_kl_plain
from model import Transformer
from optim import keep_masters
from parallel import Ranks
from rewards import NO_PLAN

ROOT = Path(__file__).parent.parent
ALONE = Ranks(0, 1, "cpu")
PROBLEM = {"prompt": "Use 3 9 to make 12.", "task": "countdown", "numbers": [3, 9], "target": 12}
GENERAL = {"prompt": "What is ice?", "task": "general"}
RIGHT = "<think>3+9=12 need 12 ok</think>\n<answer>9+3</answer>"
OTHER = RIGHT.replace("9+3", "3+9")
POLITE = "<think>a question about a fact</think>\n<answer>Frozen water.</answer>"


def test_a_rule_decides_where_there_is_one_and_the_first_good_samples_are_kept():
    texts = [RIGHT.replace("9+3", "9-3"), RIGHT, RIGHT, OTHER, RIGHT.replace("ok", "gut"), "no"]
    kept, reasons = decide(PROBLEM, texts, 2, None, 0.5)
    assert kept == [RIGHT, OTHER]
    assert reasons == ["wrong answer", "the same again", "mixed languages", "not our format"]
    assert decide(PROBLEM, texts, 1, None, 0.5) == ([RIGHT], [reasons[0], reasons[1], "enough of this prompt",
        *reasons[2:]])


def test_the_judge_decides_the_rest_and_without_one_nothing_is_kept():
    def judge(completions, prompts, **_):
        assert prompts == [GENERAL["prompt"]] * len(completions)
        return [0.9 if "water" in c else 0.1 for c in completions]

    texts = [POLITE, POLITE.replace("water", "fish"), POLITE + "?"]
    assert decide(GENERAL, texts, 5, judge, 0.5) == ([POLITE], ["the judge says no", "not our format"])
    assert decide(GENERAL, texts[:1], 5, None, 0.5) == ([], ["no rule and no --judge"])


def test_a_judge_can_be_any_function_of_a_file(tmp_path):
    text = "def judge(completions, **_):\n    return list(map(len, completions))\n"
    (tmp_path / "mine.py").write_text(text)
    assert judge_of(f"{tmp_path}/mine.py:judge")(completions=["abc"], prompts=["p"]) == [3]
    assert judge_of("") is None


def test_a_judge_that_counts_as_false_is_still_asked():
    class Empty:
        __len__ = lambda self: 0  # noqa: E731

        def __call__(self, completions):
            return [0.0] * len(completions)

    assert decide(GENERAL, [POLITE], 5, Empty(), 0.5) == ([], ["the judge says no"])


def test_the_judge_is_called_like_any_reward_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text("import numpy\n"
        "def judge(completions, answer, completion_ids):\n"
        "    some = zip(completions, answer, completion_ids)\n"
        "    return numpy.array([float(a in c) * len(i) for c, a, i in some])\n"
        "def picky(completions, **_):\n    return [None if 'rain' in c else 1 for c in completions]\n"
        "def broken(completions, answr): pass\n")
    row, texts = {"prompt": "p", "task": "haiku", "answer": "snow"}, ["so, snow", "so, rain", "no snow"]
    ask = partial(decide, row, texts, 5, plan=NO_PLAN, ids=[[1], [2], [3]])
    judge, picky, broken = (judge_of(f"{tmp_path}/mine.py:{name}") for name in ("judge", "picky", "broken"))
    assert ask(judge=judge, bar=0.5) == (["so, snow", "no snow"], ["the judge says no"])
    assert ask(judge=picky, bar=0.5) == (["so, snow", "no snow"], ["the judge says no"])
    with pytest.raises(UserError, match="asks for answr, which no row has; did you mean answer"):
        ask(judge=broken, bar=0.5)


def test_other_forms_count_without_the_strict_format():
    row, text = {"prompt": "p", "task": "math", "answer": "18"}, "So 9 * 2 = 18.\n#### 18"
    assert decide(row, [text], 2, None, 0.5) == ([], ["not our format"])
    plan = NO_PLAN._replace(strict=False)
    assert decide(row, [text, text + "0"], 2, None, 0.5, plan) == ([text], ["wrong answer"])
    assert decide(row, [text], 2, None, 0.5, plan, longest_line=9) == ([], ["overlong paragraph"])


def test_a_torn_or_damaged_line_is_dropped_and_other_settings_are_refused(tmp_path, capsys):
    part, settings = tmp_path / "x.part", {"seed": 1}
    assert finished_chunks(part, settings) == []
    chunks = [{"first": i, "rows": [], "yield": []} for i in range(3)]
    part.write_text("".join(map(sealed, [settings, *chunks])))
    assert finished_chunks(part, settings) == chunks and not capsys.readouterr().out
    whole = part.read_bytes()
    for at in range(0, len(whole), 7):  # every seventh byte is cut off, or has one bit flipped
        part.write_bytes(whole[:at])
        found = finished_chunks(part, settings)
        assert found == chunks[: max(0, whole[: at + 1].count(b"\n") - 1)]
        capsys.readouterr()
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = finished_chunks(part, settings)
        line = whole[:at].count(b"\n") + 1  # a flipped end of line breaks the next one, too
        assert found == chunks[: line - 2 if line > 1 else 0]
        assert f"line {line} is damaged" in capsys.readouterr().out or line == 4
    part.write_bytes(whole)
    with pytest.raises(UserError, match="other settings"):
        finished_chunks(part, {"seed": 2})


def test_a_killed_run_goes_on_and_ends_with_the_same_file(tmp_path):
    """The teacher is a checkpoint of random weights; the judge likes everything of the right form."""
    save_model(small(), tmp_path / "teacher")
    (tmp_path / "add.jsonl").write_text(json.dumps(GENERAL | {"completion": POLITE}) + "\n")
    command = [sys.executable, str(ROOT / "distill.py"), "--from", str(tmp_path / "teacher"), "--task",
        "sort_words", "--prompts", "256", "--samples", "2", "--max_new_tokens", "20", "--add",
        str(tmp_path / "add.jsonl"), "--device", "cpu:1", "--out"]
    whole = subprocess.run([*command, str(tmp_path / "a.jsonl")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    assert "sort_words: kept 0 of 512 samples" in whole.stdout and "not our format 512 (100%)" in whole.stdout
    process = subprocess.Popen([*command, str(tmp_path / "b.jsonl")], stdout=subprocess.DEVNULL)
    part = tmp_path / "b.jsonl.part"
    while process.poll() is None and not (part.exists() and part.read_text().count("\n") >= 2):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "b.jsonl").exists() and part.exists()
    again = subprocess.run([*command, str(tmp_path / "b.jsonl")], capture_output=True, text=True)
    assert again.returncode == 0 and "\n64/256" not in "\n" + again.stdout
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes() and not part.exists()
    costs = [[json.loads(line) for line in (tmp_path / f"{name}.metrics.jsonl").read_text().splitlines()]
        for name in "ab"]
    assert costs[0] == costs[1] and [row["kept"] for row in costs[0]] == [0] * 4
    assert all(128 < row["generated"] <= 64 * 2 * 20 for row in costs[0])
    assert read_rows(str(tmp_path / "a.jsonl")) == [GENERAL | {"completion": POLITE}]


# ---------------------------------------------------------------------------------------------- on-policy


def small(seed=0, **changes):
    return Transformer(ModelConfig(**dict(vocab_size=512, hidden_size=32, num_attention_heads=2,
        kv_lora_rank=12, num_hidden_layers=2, intermediate_size=48, moe_intermediate_size=16,
        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, max_position_embeddings=128,
        initializer_range=0.2, eos_token_id=shipped().eos_id) | changes)).init_weights(seed)


def models(**changes):
    """A student, and a teacher that is wider, deeper and dense."""
    teacher = small(1, hidden_size=48, num_hidden_layers=3, first_k_dense_replace=3, **changes)
    student = small()
    keep_masters(student)
    return student, teacher.requires_grad_(False)


def rows(i):
    return {"prompt": f"Use {i % 3} {'7 ' * (i % 3)}to make 12.", "task": "countdown"}


def stepped(cfg, samples, ranks=ALONE):
    """(the student's change by a plain gradient step of 1, the metrics)."""
    student, teacher = models()
    before = torch.cat([p.detach().flatten().clone() for p in student.parameters()])
    sgd = torch.optim.SGD(student.parameters(), lr=cfg.lr)
    m = update(student, teacher, [sgd], samples, 4, cfg, shipped(), ranks)
    return before - torch.cat([p.detach().flatten() for p in student.parameters()]), m


SETTINGS = Config(on_policy=True, samples=3, batch_size=12, prompts=4, max_new_tokens=24, temperature=0.8,
    lr=1.0)


def sampled():
    return sample_batch(models()[0], shipped(), rows, [0, 1, 2, 3], SETTINGS, ALONE)


def test_the_loss_is_the_mean_over_all_tokens_of_the_plain_reverse_kl_of_whole_sequences():
    (student, teacher), samples, kl = models(), sampled(), []
    for s in samples:
        tokens = torch.tensor([s.tokens])
        hidden, theirs = (m.hidden(tokens[:, :-1])[0, s.start - 1 :] for m in (student, teacher))
        assert len(hidden) == len(s.old_logprobs)
        kl.append(reverse_kl_plain(hidden, student.lm_head.weight, theirs, teacher.lm_head.weight, 0.8))
    torch.cat(kl).mean().backward()
    want = torch.cat([p.grad.flatten() for p in student.parameters()])
    change, m = stepped(SETTINGS, samples)
    assert m["kl"] == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4) and m["kl"] > 0.1
    assert m["grad_norm"] == pytest.approx(float(want.norm()), rel=1e-3) and len({len(k) for k in kl}) > 1
    torch.testing.assert_close(change, m["lr"] * want / max(1.0, m["grad_norm"]), rtol=1e-3, atol=1e-5)


def test_neither_micro_batches_nor_order_change_the_step():
    samples, found = sampled(), []
    for budget, some in ((1, samples), (100, samples), (10**6, samples[::-1])):
        SETTINGS.micro_tokens = budget
        found.append(stepped(SETTINGS, some))
    for change, m in found[1:]:
        torch.testing.assert_close(change, found[0][0], rtol=1e-3, atol=1e-5)
        assert m.pop("skipped") == []
        assert m == pytest.approx({k: v for k, v in found[0][1].items() if k != "skipped"}, rel=1e-4)
    n = sum(len(s.old_logprobs) for s in samples)
    assert m["generated"] == m["trained_tokens"] == n and m["length"] == pytest.approx(n / 12)
    assert 0 < m["truncated"] <= 1


def test_ids_that_no_token_has_are_left_out():
    """Checkpoints of one tokenizer can be padded to different sizes."""
    samples = sampled()
    student, teacher = models()
    wide = models(vocab_size=520)[1]
    for p, q in zip(wide.parameters(), teacher.parameters(), strict=True):
        p[: len(q)].copy_(q)
    changes = []
    for other in (teacher, wide):
        student = models()[0]
        sgd = torch.optim.SGD(student.parameters(), lr=1.0)
        update(student, other, [sgd], samples, 4, SETTINGS, shipped(), ALONE)
        changes.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    torch.testing.assert_close(changes[1], changes[0])


def test_another_vocabulary_is_refused():
    same_vocabulary(shipped(), shipped())
    with pytest.raises(UserError, match="id 508 is '<think>' to the teacher, '<a>' to --init"):
        same_vocabulary(shipped(), shipped("<a> <b>"))


def test_any_prompt_is_learnt_from_and_those_with_a_rule_are_evaluated(tmp_path):
    path = tmp_path / "rows.jsonl"
    some = [PROBLEM | {"prompt": f"Use 3 9 to make 12. ({i})"} for i in range(40)]
    some += [GENERAL | {"prompt": f"What is ice? ({i})"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    train, held = student_rows(Config(task=str(path), eval_problems=5))
    assert {row["task"] for row in train} == {"countdown", "general"}
    assert [row["task"] for row in held] == ["countdown"] * 5
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    path.write_text("".join(json.dumps(row) + "\n" for row in some[40:]))
    assert student_rows(Config(task=str(path)))[1] == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student and a teacher."""
    dir = tmp_path_factory.mktemp("models")
    for name, model in zip(("student", "teacher"), models(), strict=True):
        save_model(model, dir / name)
    return dir


def command(folders, out, **options):
    options = {"from": folders / "teacher", "init": folders / "student", "out": out, "prompts": 12,
        "samples": 2, "batch_size": 6, "max_new_tokens": 20, "lr": 0.01, "optimizer": "muon",
        "eval_problems": 6, "device": "cpu:1", "eval_every": 2, "task": "countdown:n=3",
        "micro_tokens": 200} | options
    return [sys.executable, str(ROOT / "distill.py"), "--on_policy", "true",
        *(w for k, v in options.items() for w in (f"--{k}", str(v)))]


def run(folders, out, **options):
    return subprocess.run(command(folders, out, **options), capture_output=True, text=True, timeout=600)


def metrics(out):
    """The rows of metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def test_the_teacher_counts_where_memory_is_short(folders, monkeypatch):
    student, teacher = models()
    sizes = [predicted(student.cfg, rows_pass(60, 40), dtype=torch.float32, device="cpu", teacher=other).peak
        for other in (None, (teacher.cfg, torch.float32))]
    assert sizes[1] - sizes[0] == sum(p.nbytes for p in teacher.parameters())
    cfg = Config(on_policy=True, from_=str(folders / "teacher"), samples=2, batch_size=6, max_new_tokens=20)
    assert not must_recompute(cfg, student.cfg, torch.float32, 30, ALONE)
    for module in (distill, batch):
        monkeypatch.setattr(module, "free_bytes", lambda ranks: 0)
    with pytest.raises(UserError, match="this run needs about 0.0 GiB"):
        must_recompute(cfg, student.cfg, torch.float32, 30, ALONE)


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    made = run(folders, out)
    assert made.returncode == 0, made.stderr
    return out, made.stdout


def test_a_run_comes_nearer_to_the_teacher_and_says_what_it_cost(finished):
    out, said = finished
    train = [row for row in metrics(out) if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4] and train[-1]["kl"] < 0.95 * train[0]["kl"]
    assert [row["step"] for row in metrics(out) if row["kind"] == "eval"] == [0, 2, 4]
    assert all(0 < row["generated"] == row["trained_tokens"] <= 6 * 20 for row in train)
    assert "before" in said and "after" in said and not (out / "state").exists()
    assert json.loads((out / "run.json").read_text())["task"] == "countdown:n=3"
    load_model(out)


def test_a_stopped_run_resumes_exactly(finished, folders, tmp_path):
    process = subprocess.Popen(command(folders, tmp_path / "b"), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step    1/4"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=300) == 130 and "the same command resumes" in rest
    again = run(folders, tmp_path / "b")
    assert again.returncode == 0 and "resuming after step" in again.stdout, again.stderr
    assert metrics(tmp_path / "b") == metrics(finished[0])
    ends = [load_file(out / "model.safetensors") for out in (tmp_path / "b", finished[0])]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.parametrize("more", [{}, {"shard": "true"}])
def test_two_processes_train_as_one_does(finished, folders, tmp_path, more):
    made = run(folders, tmp_path / "c", device="cpu:2", **more)
    assert made.returncode == 0, made.stderr
    both = [[row for row in metrics(out) if row.pop("kind") == "train"]
        for out in (tmp_path / "c", finished[0])]
    for step, (a, b) in enumerate(zip(*both, strict=True)):  # by and by rounding samples another token
        assert a == pytest.approx(b, rel=1e-3 if step < 2 else 0.05, abs=1e-4)


def test_a_student_that_can_sample_what_the_teacher_cannot_read_is_refused(folders, tmp_path):
    save_model(small(vocab_size=520), tmp_path / "wide")
    made = run(folders, tmp_path / "d", init=tmp_path / "wide")
    assert made.returncode == 2 and "can sample 520 ids, the teacher knows 512" in made.stderr, made.stderr


def test_adapters_and_bfloat16_weights_learn_too(folders, tmp_path):
    made = run(folders, tmp_path / "d", lora_rank=2, dtype="bfloat16", prompts=6)
    assert made.returncode == 0, made.stderr
    learnt = load_file(tmp_path / "d/adapter/adapter_model.safetensors")
    assert all(x.any() for name, x in learnt.items() if "lora_B" in name)  # they start at zero
    assert all(math.isfinite(row["kl"]) for row in metrics(tmp_path / "d") if row["kind"] == "train")


ON = dict(on_policy=True, init="student", samples=2, batch_size=6)


@pytest.mark.parametrize("settings,message", [
    (ON | dict(judge="x"), "--judge means nothing with --on_policy true"),
    (dict(lr=1.0), "--lr means nothing without --on_policy true"),
    (dict(lora_rank=2), "--lora_rank means nothing without --on_policy true"),
    (ON | dict(batch_size=5), "--batch_size 5 must be a multiple of --samples 2"),
    (ON | dict(temperature=0.0), "--temperature must be above 0"),
    (ON | dict(optimizer="sgd"), "expected muon or adamw"), (ON | dict(init=""), "it needs --init"),
    (ON | dict(lora_alpha=8.0), "needs --lora_rank"), (ON | dict(from_="out/x"), "is also where this run"),
    (ON | dict(shard=True, device="cpu"), "splits the model over several processes")])
def test_what_cannot_work_is_refused_before_the_run(settings, message):
    cfg = Config(**settings)
    with pytest.raises(UserError, match=message):
        check_way(cfg, "default")
        check(cfg, Path("out/x"))


def test_links_in_a_circle_are_a_folder_that_does_not_exist(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    check(Config(**ON | dict(from_=str(tmp_path / "circle"))), tmp_path / "circle/out")
    with pytest.raises(UserError, match="circle does not exist"):
        load_model(tmp_path / "circle")


def test_every_preset_can_distil_in_either_way():
    for name, row in RECIPES.items():
        if not row.get("on_policy"):
            check_way(Config(**row), name)
        check(Config(**row | dict(on_policy=True, init="student")), Path("out/x"))
