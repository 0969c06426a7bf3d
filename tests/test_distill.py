"""Distillation: what is kept and why not, and a run that goes on where it stopped."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from config import UserError
from data.shapes import read_rows
from distill import decide, finished_chunks, judge_of
from rewards import NO_PLAN

ROOT = Path(__file__).parent.parent
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


def test_a_torn_line_is_dropped_and_other_settings_are_refused(tmp_path):
    part, settings = tmp_path / "x.part", {"seed": 1}
    assert finished_chunks(part, settings) == []
    part.write_text(json.dumps(settings) + '\n{"first": 0, "rows": [], "yield": []}\n{"first": 6')
    assert [chunk["first"] for chunk in finished_chunks(part, settings)] == [0]
    with pytest.raises(UserError, match="other settings"):
        finished_chunks(part, {"seed": 2})


def test_a_killed_run_goes_on_and_ends_with_the_same_file(tmp_path):
    """The teacher is a checkpoint of random weights; the judge likes everything of the right form."""
    from checkpoint import save_model
    from config import ModelConfig
    from data.tokenizer import shipped
    from model import Transformer

    tok = shipped()
    model = Transformer(ModelConfig(vocab_size=512, hidden_size=32, num_attention_heads=2, kv_lora_rank=12,
        num_hidden_layers=2, intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=8, max_position_embeddings=128, eos_token_id=tok.eos_id))
    save_model(model.init_weights(), tmp_path / "teacher")
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
    assert read_rows(str(tmp_path / "a.jsonl")) == [GENERAL | {"completion": POLITE}]
