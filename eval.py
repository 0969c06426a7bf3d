"""Evaluation on held-out problems: pass@1, pass@k and cons@k with standard errors; what more tokens buy.

    python eval.py --from out/tiny/grpo --problems 256 --samples 8 --json out/tiny/grpo/eval.json
    python eval.py --from out/tiny/grpo --curves true          # budget forcing, votes, best of k
    python eval.py --from out/tiny/grpo --search mcts          # tree search, at the tokens of k votes
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

from checkpoint import load_model
from config import UserError, closest, knob, parse_args, run_script
from curves import (
    budget_curve,
    grouped,
    judged,
    majority,
    mean_and_error,
    pass_at_k,
    point_lines,
    search_curve,
    value_function,
    votes_curve,
)
from data.tasks import distinct, load_jsonl, split_rows
from data.tokenizer import Tokenizer, for_checkpoint
from metrics import BY_RULE, MEASURES, OPINIONS, reflections, table
from parallel import Ranks, gather, setup
from preference import reward_plan
from rewards import NO_PLAN, TASK_REWARDS, Plan, check_rows
from sample import generate


def held_out(task: str, count: int, seed: int = 0, whole_file: bool = False,
        plan: Plan = NO_PLAN) -> list[dict]:
    """Up to `count` held-out problems: of the test split of a generated task or of a .jsonl file;
    whole_file takes them from all rows of the file, for one that was not trained on. Raises UserError,
    also for rows that cannot be scored."""
    if not task.endswith(".jsonl"):
        rows = distinct(task, "test", seed, count)
        check_rows(rows[:1], task, plan)
        return rows
    rows = load_jsonl(task)
    check_rows(rows, task, plan)
    rows = rows if whole_file else split_rows(rows, task)["test"]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def evaluate(model, tokenizer: Tokenizer, rows: list[dict], *, samples: int, max_new_tokens: int,
        ranks: Ranks, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0,
        plan: Plan = NO_PLAN) -> tuple[dict, list[dict]]:
    """Sample each problem `samples` times and score it. Returns (metrics, one record per completion; "ids"
    are its tokens).

    pass@1 is the mean over all samples; every standard error is over problems. The numbers do not depend
    on the ranks."""
    numbers = ranks.share(list(range(len(rows))))
    prompts = [tokenizer.encode_prompt(rows[i]["prompt"]) for i in numbers]
    records = []
    if prompts:
        out = generate(model, prompts, group_size=samples, max_new_tokens=max_new_tokens,
            temperature=temperature, top_p=top_p, eos_id=tokenizer.eos_id, seed=seed, prompt_ids=numbers)
        texts = [tokenizer.decode_completion(c) for c in out.completions]
        records = judged(rows, [i for i in numbers for _ in range(samples)], texts,
            list(map(len, out.completions)), out.finished, plan, max_new_tokens)
        records = [r | {"ids": ids} for r, ids in zip(records, out.completions, strict=True)]
    records = sorted((r for part in gather(ranks, records) for r in part), key=lambda r: r["problem"])
    return summarize(records, samples), records


def summarize(records: list[dict], k: int) -> dict:
    """Metrics of records grouped by problem, k samples each."""
    groups = grouped(records)
    correct = [[r["accuracy"] for r in g] for g in groups]
    m: dict[str, float] = {"problems": len(groups), "k": k}
    for name, values in {"pass@1": [sum(c) / k for c in correct],
            "pass@k": [pass_at_k(k, int(sum(c)), k) for c in correct],
            "cons@k": [majority([r["answer"] for r in g], c, by_value=g[0].get("by_value", False)) for g,
            c in zip(groups, correct, strict=True)]}.items():
        m[name], m[f"{name}_se"] = mean_and_error(values)
    means = {"format": lambda r: r["answer"] is not None, "length": lambda r: r["tokens"],
            "truncated": lambda r: not r["finished"],
            "reflections": lambda r: reflections(r["text"])}
    not_of_all = (*MEASURES[1:], *OPINIONS, *BY_RULE)
    for name in not_of_all:
        means[name] = lambda r, name=name: r[name]
    for name, value in means.items():  # of the problems that have it: not all rows go to a preference model
        theirs = groups if name not in not_of_all else [g for g in groups if name in g[0]]
        if theirs:
            m[name], m[f"{name}_se"] = mean_and_error([sum(value(r) for r in g) / len(g) for g in theirs])
    return m


@dataclass
class Config:
    from_: str = knob("out/tiny/grpo", "checkpoint folder")
    task: str = knob("",
        "task (countdown:n=3,high=9), or a .jsonl file; empty = the task that it was trained on")
    split: str = knob("", "rows of a .jsonl file: all, or test = the fifth that grpo.py and distill.py hold "
        "out; empty = test for the task that it was trained on, else all")
    problems: int = knob(256, "held-out problems")
    samples: int = knob(8, "k, samples per problem")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "sampling temperature; R1 evaluates at 0.6")
    top_p: float = knob(1.0, "nucleus sampling; R1 evaluates at 0.95")
    seed: int = knob(0, "seed of the problems and of the sampling")
    reward: str = knob("", "a reward of your own, file.py:function: judges tasks unknown here; elsewhere it "
        "ranks, for best of k and --value")
    curves: bool = knob(False, "accuracy over the tokens spent: thinking budget, votes, best of k")
    budgets: str = knob("0,16,32,64,128", "where --curves cuts the thinking, in tokens")
    waits: int = knob(2, "how often --curves refuses the end of thinking")
    search: str = knob("", "mcts: tree search over lines of thinking, at the tokens of `samples` votes")
    value: str = knob("check", "what the search believes in: check (Countdown), agreement, or the name of "
        "--reward's function")
    explore: float = knob(0.5, "of the search: weight of the exploration term of UCT")
    json: str = knob("", "write metrics and curves to this .json file, and the curves' picture beside it")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")
    save: str = knob("", "write every completion with its rewards to this .jsonl file")


def whole_numbers(text: str) -> list[int]:
    """The numbers of "0,16,32". Raises UserError."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise UserError(f"--budgets {text}: expected whole numbers, such as 0,16,32")
    return [int(part) for part in text.split(",")]


def check(cfg: Config, tokenizer: Tokenizer):
    """Raises UserError for a setting that cannot work."""
    for ok, message in [
        (cfg.samples >= 1 and cfg.problems >= 1, "--problems and --samples must be at least 1"),
        (cfg.split in ("", "all", "test"), f"--split {cfg.split}: expected all or test"),
        (cfg.search in ("", "mcts"), f"--search {cfg.search}{closest(cfg.search, ['mcts'])}"),
        (not (cfg.curves or cfg.search) or min(tokenizer.think_ids) >= 0,
         f"{cfg.from_}: its tokenizer has no special tokens {' '.join(tokenizer.think)}: the thinking cannot "
         "be told from the answer"),
    ]:
        if not ok:
            raise UserError(message)


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    tokenizer, budgets = for_checkpoint(cfg.from_), whole_numbers(cfg.budgets)
    check(cfg, tokenizer)
    run_file = Path(cfg.from_) / "run.json"
    task = cfg.task or (json.loads(run_file.read_text())["task"] if run_file.exists() else "countdown")
    plan = reward_plan(cfg.reward)
    whole = cfg.split == "all" or bool(cfg.task) and cfg.split == ""
    rows = held_out(task, cfg.problems, cfg.seed, whole_file=whole, plan=plan)
    value_function(cfg.value, rows if cfg.search else [], plan)  # says now what is wrong with --value
    ranks = setup(cfg.device)
    model = load_model(cfg.from_, ranks.device)
    sampling = dict(temperature=cfg.temperature, top_p=cfg.top_p, seed=cfg.seed)
    common = dict(samples=cfg.samples, max_new_tokens=cfg.max_new_tokens, ranks=ranks, plan=plan, **sampling)
    m, records = evaluate(model, tokenizer, rows, **common)
    say, curves = print if ranks.main else lambda *a: None, {}
    say(f"{cfg.from_} on {len(rows)} held-out problems of {task}, temperature {cfg.temperature}")
    say(table({"held out": m}))
    if cfg.curves:
        scorer = next((name for name in plan.custom if all(r["task"] in TASK_REWARDS for r in rows)), "")
        curves = {"budget": budget_curve(model, tokenizer, rows, records, budgets, cfg.waits, **common),
            **votes_curve(records, cfg.samples, scorer)}
    if cfg.search:
        curves["search"] = search_curve(model, tokenizer, rows, records, cfg.value, explore=cfg.explore,
            **common)
    for name, points in curves.items():
        say("\n".join(point_lines(f"{name}: tokens spent per problem, accuracy", points)))
    if ranks.main:
        write_files(cfg, task, m, curves, records, rows)


def write_files(cfg: Config, task: str, m: dict, curves: dict, records: list[dict], rows: list[dict]):
    """What --save and --json ask for."""
    if cfg.save:
        with open(cfg.save, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({k: v for k, v in r.items() if k != "ids"}
                | {"prompt": rows[r["problem"]]["prompt"]}) + "\n" for r in records)
    if cfg.json:
        path = Path(cfg.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"settings": asdict(cfg) | {"task": task}, "metrics": m, "curves": curves}
        path.write_text(json.dumps(whole, indent=2) + "\n")
        if curves and importlib.util.find_spec("matplotlib"):
            subprocess.run([sys.executable, Path(__file__).parent / "plot.py", "--curves", path], check=True)


if __name__ == "__main__":
    run_script(main)
