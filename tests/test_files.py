"""Files of rows through the scripts: public rows train a step and are evaluated by the file's name alone."""

import importlib.util
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

from checkpoint import load_model, save_model
from config import ModelConfig, run_script
from data.tokenizer import shipped
from model import Transformer

GSM8K = [{"question": f"{i} eggs and {i}?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}
    for i in range(1, 9)]
PROGRAMS = [{"text": f"Add {i}.", "code": "c", "task_id": i, "test_setup_code": "",
    "test_list": [f"assert f(1) == {i + 1}"], "challenge_test_list": []} for i in range(8)]
PUBLIC = {"gsm8k.jsonl": GSM8K, "mbpp.jsonl": PROGRAMS,
    "math.json": [{"problem": f"{i}+1?", "solution": rf"$\boxed{{{i + 1}}}$", "answer": str(i + 1)}
        for i in range(8)],
    "countdown.json": [{"nums": [i, i + 1], "target": 2 * i + 1} for i in range(1, 9)],
    "chat.jsonl": [{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user",
        "content": f"{i}?"}], "solution": f"${i}$"} for i in range(8)]}
FAST = dict(steps=1, prompts=2, group_size=2, max_new_tokens=8, eval_problems=2, device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tok, dir = shipped(), tmp_path_factory.mktemp("base")
    cfg = ModelConfig(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        kv_lora_rank=12, intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8,
            qk_rope_head_dim=4,
        v_head_dim=8, max_position_embeddings=256, eos_token_id=tok.eos_id)
    save_model(Transformer(cfg).init_weights(), dir)
    return dir


def run(script, *args, **options):
    """The script's main in this process: each start of torch would take seconds."""
    words = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, args), *words])
        patch.setattr("importlib.util.find_spec",  # no pictures
            lambda name, real=importlib.util.find_spec: None if name == "matplotlib" else real(name))
        try:
            run_script(importlib.import_module(script).main)
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def write(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)
    return path


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_file_trains_a_step_and_is_evaluated_by_its_name_alone(name, base, tmp_path):
    path, out = write(tmp_path / name, PUBLIC[name]), tmp_path / "run"
    trained = run("grpo", init=base, task=path, out=out, **FAST)
    assert trained.returncode == 0, trained.stderr
    assert f"{path}: 8 " in trained.stdout and "step    1/1" in trained.stdout
    held = run("eval", "--from", out, problems=4, samples=2, max_new_tokens=8, device="cpu")
    assert held.returncode == 0 and "1 held-out problems" in held.stdout, held.stderr  # as in the run
    whole = run("eval", "--from", out, task=path, problems=4, samples=2, max_new_tokens=8, device="cpu")
    assert whole.returncode == 0 and "4 held-out problems" in whole.stdout


def test_an_official_test_split_is_evaluated_and_leaks_are_refused(base, tmp_path):
    train, test = write(tmp_path / "train.jsonl", GSM8K[:5]), write(tmp_path / "test.jsonl", GSM8K[5:])
    out = run("grpo", init=base, task=train, eval_task=test, out=tmp_path / "a", **FAST)
    assert out.returncode == 0 and "held out: 2 problems" in out.stdout, out.stderr
    held = run("eval", "--from", tmp_path / "a", samples=2, max_new_tokens=8, device="cpu")
    assert "3 held-out problems of " + str(test) in held.stdout, held.stderr
    write(test, GSM8K[4:])
    again = run("grpo", init=base, task=train, eval_task=test, out=tmp_path / "b", **FAST)
    assert again.returncode == 2 and "1 of 4 problems of" in again.stderr and not (tmp_path / "b").exists()
    again = run("grpo", init=base, task=train, eval_task=test, out=tmp_path / "b", allow_leaks="true", **FAST)
    assert again.returncode == 0 and "1 of 4 problems of" in again.stdout


def test_columns_and_a_pattern_are_remembered_by_the_run(base, tmp_path):
    rows = [{"ask": f"{i}?", "reply": f"so it is\nAnswer: {i}"} for i in range(8)]
    path, reading = write(tmp_path / "rows.jsonl", rows), {"columns": "prompt=ask,answer=reply,task=number",
        "answer_pattern": "Answer: (.*)"}
    out = run("grpo", init=base, task=path, out=tmp_path / "a", **reading, **FAST)
    assert out.returncode == 0, out.stderr
    held = run("eval", "--from", tmp_path / "a", samples=2, max_new_tokens=8, device="cpu")
    assert held.returncode == 0 and "1 held-out" in held.stdout, held.stderr
    out = run("distill", "--from", base, task=path, out=tmp_path / "d.jsonl", prompts=4, samples=1,
        max_new_tokens=8, device="cpu", **reading)
    assert "no sample was good enough" in out.stderr or out.returncode == 0


SFT = dict(steps=1, batch_size=2, device="cpu")
PAIR = {"prompt": "q?", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize("rows", [GSM8K, [{"instruction": f"{i}?", "input": "",
    "output": "x"} for i in range(4)],
    [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 4,
    [PAIR | {"prompt": f"{i}?"} for i in range(4)],
    [{"chosen": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "b"}],
        "rejected": [{"role": "user", "content": f"{i}"}, {"role": "assistant",
            "content": "c"}]} for i in range(4)]])
def test_public_rows_are_learnt_by_sft(rows, base, tmp_path):
    out = run("sft", init=base, task=write(tmp_path / "rows.jsonl", rows), out=tmp_path / "a", **SFT)
    assert out.returncode == 0 and "saved in" in out.stdout, out.stderr
    assert all(torch.isfinite(p).all() for p in load_model(tmp_path / "a").parameters())


ROW = {"prompt": "1+1?", "task": "math", "completion": "<think>a</think>\n<answer>2</answer>"}


@pytest.mark.parametrize("last,message", [(ROW | {"completion": None}, 'no "completion"'),
    ({"prompt": "q", "task": "math"}, 'no "completion"'), (ROW | {"completion": 5}, '"completion" must be'),
    (ROW | {"completion": "x " * 300}, "tokens where 256 fit (1 of 7 rows"), (PAIR, "no pairs")])
def test_a_row_that_cannot_be_learnt_is_found_before_the_first_step(last, message, base, tmp_path):
    path = write(tmp_path / "rows.jsonl", [ROW] * 6 + [last | {"task": "math"}])
    out = run("sft", init=base, task=path, out=tmp_path / "a", **SFT)
    assert out.returncode == 2 and f"{path}:7" in out.stderr and message in out.stderr, out.stderr
    assert len(out.stderr.strip().splitlines()) == 1 and not (tmp_path / "a").exists()
    if "fit" in message:
        out = run("sft", init=base, task=path, out=tmp_path / "a", too_long="drop", **SFT)
        assert out.returncode == 0 and "1 of 7 rows are too long): left out" in out.stdout


def test_pairs_followed_by_completions_are_refused(base, tmp_path):
    path = write(tmp_path / "rows.jsonl", [PAIR | {"task": "pair"}] * 3 + [ROW])
    out = run("sft", init=base, task=path, out=tmp_path / "a", **SFT)
    assert out.returncode == 2 and f"{path}:4: the rows before it are pairs" in out.stderr


def test_prompts_that_are_too_long_are_left_out_of_rl_and_counted(base, tmp_path):
    path = write(tmp_path / "rows.jsonl", [*GSM8K, {"question": "7" * 300, "answer": "#### 7"}])
    out = run("grpo", init=base, task=path, out=tmp_path / "a", **FAST)
    assert out.returncode == 2 and "rows.jsonl:9 has" in out.stderr and "--too_long drop" in out.stderr
    out = run("grpo", init=base, task=path, out=tmp_path / "a", too_long="drop", **FAST)
    assert out.returncode == 0 and "rows are too long): left out" in out.stdout
