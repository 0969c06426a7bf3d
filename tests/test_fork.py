"""What a forker does, in a copy of the repository: each new thing is a function and a row, and no test that
was there has to be touched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint import save_model
from config import ModelConfig
from data.tokenizer import shipped
from model import Transformer

ROOT = Path(__file__).parent.parent
ADDED = {  # file: [(in front of what, what is added)]
    "grpo.py": [("class Loss(NamedTuple)", """def tempered(
        ratio, advantages, logprobs, clip_low, clip_high, *, power=1.0, most=3.0):
    return ratio.pow(power).clamp(max=most) * advantages


"""), ('    "sapo": Loss(', '    "tempered": Loss(tempered, False, True, "sequences", clip_low=0.5),\n')],
    "rewards.py": [("REWARDS: dict[str, Callable", """def digits_reward(completions, **_):
    return [float(any(c.isdigit() for c in text)) for text in completions]


"""), ('    "countdown": countdown_reward, ', '    "digits": digits_reward,\n')],
    "data/tasks.py": [("class Task(NamedTuple)", """def double_problem(rng, high: int = 9):
    n = rng.randint(1, high)
    return {"prompt": f"Double {n}.", "task": "double", "answer": str(2 * n)}


"""), ('    "arithmetic": Task(', '    "double": Task(double_problem),\n')],
    "metrics.py": [("# --tracker: open(dir", """def track_lines(dir, settings):
    def write(kind, step, values):
        with open(f"{dir}/lines.txt", "a") as f:
            f.write(f"{kind} {step} {sorted(values)[0]}\\n")
    return write


"""), ('    "wandb": (', '    "lines": (track_lines, ""),\n')]}


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    home = tmp_path_factory.mktemp("fork") / "picor1"
    shutil.copytree(ROOT, home, ignore=shutil.ignore_patterns(".venv", ".git", "out", "docs", "assets", ".*"))
    for name, pieces in ADDED.items():
        text = (home / name).read_text()
        for before, piece in pieces:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, piece + before)
        (home / name).write_text(text)
    return home


def test_a_loss_a_reward_a_task_and_a_tracker_are_a_function_and_a_row_each(fork):
    tok = shipped()
    shape = dict(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, kv_lora_rank=12,
        intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        initializer_range=0.1, max_position_embeddings=128, eos_token_id=tok.eos_id)
    save_model(Transformer(ModelConfig(**shape)).init_weights(), fork / "init")
    done = subprocess.run([sys.executable, "grpo.py", "--init", "init", "--out", "out/a", "--device", "cpu:1",
        "--steps", "2", "--prompts", "4", "--group_size", "4", "--max_new_tokens", "20",
        "--task", "double:high=60", "--reward_weights", "digits=1", "--tracker", "lines",
        "--loss", "tempered", "--loss_settings", "power=0.5,most=2"],
        cwd=fork, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "clip_low=0.5" in done.stdout  # the row's own
    rows = [json.loads(line) for line in (fork / "out/a/metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert len(trained) == 2 and all("digits" in row and "loss" in row for row in trained)
    lines = (fork / "out/a/lines.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [[row["kind"], str(row["step"])] for row in rows]


def test_no_test_that_was_there_has_to_be_touched(fork):
    chosen = ["tests/test_grpo.py", "tests/test_rewards.py", "tests/test_data.py", "tests/test_house.py"]
    words = "loss or clipping or convention or tables or task or split or knob or column or lower_levels"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *chosen, "-k", words, "-p",
        "no:cacheprovider"], cwd=fork, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-3000:]
