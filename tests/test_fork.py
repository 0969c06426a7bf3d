"""What a forker does, in a copy of the repository: a loss with two settings of its own, a reward, a task and
a tracker, each one function and one row of a table; nothing else is touched, and the tests still pass."""

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

# file -> (the table, its new row, the function)
ADDED = {"grpo.py": ("LOSSES",
    '"dppo": Loss(trusted, False, False, "tokens", settings=dict(up=0.2, down=0.1)),', '''
def trusted(ratio, advantages, logprobs, clip_low, clip_high, up, down):
    """DPPO-TV (arXiv 2602.04879): no gradient where the probability has moved too far already."""
    moved = logprobs.exp() * (1 - 1 / ratio)  # pi - mu
    return torch.where((advantages > 0) & (moved > up) | (advantages < 0) & (-moved > down), 0,
        ratio * advantages)
'''), "rewards.py": ("REWARDS", '"letters": letters_reward,', '''
def letters_reward(completions: list[str], tokens: list[int], **_) -> list[float]:
    """Different characters per token: the completions of a model that knows nothing differ in it."""
    return [len(set(c)) / n for c, n in zip(completions, tokens, strict=True)]
'''), "data/tasks.py": ("TASKS", '"double": Task(double_problem),', '''
def double_problem(rng, high: int = 99):
    n = rng.randint(1, high)
    return {"prompt": f"Double {n}.", "task": "double", "answer": str(2 * n)}
'''), "metrics.py": ("TRACKERS", '"csv": ("csv", to_csv),', '''
def to_csv(library, out: Path, settings: dict) -> Callable:
    table = library.writer(open(out / "mine.csv", "w", buffering=1))
    return lambda kind, step, values: table.writerow([kind, step, settings["loss"], *values])
''')}


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """The copy with the four additions."""
    dir = tmp_path_factory.mktemp("fork")
    for name in ("data", "verify", "report", "experiments", "tests"):
        shutil.copytree(ROOT / name, dir / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, dir)
    for name, (table, row, function) in ADDED.items():
        lines = (dir / name).read_text().split("\n")
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{table}: "))
        assert lines[at].endswith("{")
        lines[at : at + 1] = [*function.strip("\n").split("\n"), "", "", lines[at], f"    {row}"]
        (dir / name).write_text("\n".join(lines))
    return dir


def python(dir, *words):
    return subprocess.run([sys.executable, *map(str, words)], cwd=dir, capture_output=True, text=True,
        timeout=120, env=os.environ | {"PYTHONPATH": ""})


def test_one_function_and_one_row_each_are_enough_for_a_run(fork):
    tok = shipped()
    save_model(Transformer(ModelConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        intermediate_size=48, moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=8, initializer_range=0.1, eos_token_id=tok.eos_id)).init_weights(),
        fork / "init")
    done = python(fork, "grpo.py", "--init", "init", "--out", "out", "--device", "cpu:1", "--steps", 2,
        "--prompts", 4, "--group_size", 4, "--max_new_tokens", 12, "--task", "double:high=50",
        "--loss", "dppo", "--loss_settings", "down=0.3", "--reward_weights", "letters=2", "--tracker", "csv")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (fork / "out/metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["kind"] == "train"]
    assert len(trained) == 2 and all("loss" in r and r["letters"] > 0 and "exact" in r for r in trained)
    run = json.loads((fork / "out/run.json").read_text())
    assert run["loss_settings"] == "up=0.2,down=0.3" and run["scale"] == "group"
    table = [line.split(",") for line in (fork / "out/mine.csv").read_text().splitlines()]
    assert [line[0] for line in table] == ["eval", "train", "train", "eval", "before"]
    assert [int(line[1]) for line in table] == [0, 1, 2, 2, 2] and {line[2] for line in table} == {"dppo"}


def test_no_test_of_the_tables_has_to_be_touched(fork):
    """All tests that a row of LOSSES adds a case to, and those of the other tables."""
    tables = ("dppo or calling_convention or picks_its_rewards or weights_replace or disjoint_by_problem "
        "or sort_words or seed_and_index or tracker or chains_have or brings_the_settings")
    done = python(fork, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", tables,
        *(f"tests/test_{name}.py" for name in ("grpo", "rewards", "data", "metrics")))
    assert done.returncode == 0 and " failed" not in done.stdout, done.stdout[-3000:] + done.stderr
    assert done.stdout.count("dppo") >= 4 and "equals_trl[dppo" not in done.stdout
