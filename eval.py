"""Evaluation on held-out problems: pass@1, pass@k and cons@k with standard errors.

python eval.py --from out/tiny/grpo --task countdown --problems 256 --samples 8
"""

import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from checkpoint import load_model
from config import UserError, knob, parse_args, run_script
from data.tasks import distinct, load_jsonl, split_rows
from data.tokenizer import Tokenizer, for_checkpoint
from metrics import reflections, table
from parallel import Ranks, gather, setup
from preference import reward_plan
from rewards import NO_PLAN, Plan, answer_of, check_rows, score
from sample import generate


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from n samples of which c are: 1 - C(n-c, k) / C(n, k)
    (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(answers: list[str | None], correct: list[float]) -> float:
    """cons@k of one problem: is the most frequent extracted answer right? Ties are broken at random and
    averaged; completions without an answer do not vote. Answers are compared without white space."""
    right: dict[str, float] = {}
    votes = Counter()
    for answer, ok in zip(answers, correct, strict=True):
        if answer is not None:
            key = "".join(answer.split())
            votes[key] += 1
            right[key] = ok
    if not votes:
        return 0.0
    best = [a for a, count in votes.items() if count == max(votes.values())]
    return sum(right[a] for a in best) / len(best)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean over problems and its standard error, std / sqrt(n): samples of one problem are not
    independent."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return mean, math.sqrt(variance / len(values))


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
    """Sample each problem `samples` times and score it. Returns (metrics, one record per completion).

    pass@1 is the mean over all samples; every standard error is over problems. The numbers do not depend
    on the ranks."""
    numbers = ranks.share(list(range(len(rows))))
    prompts = [tokenizer.encode_prompt(rows[i]["prompt"]) for i in numbers]
    records = []
    if prompts:
        out = generate(model, prompts, group_size=samples, max_new_tokens=max_new_tokens,
            temperature=temperature, top_p=top_p, eos_id=tokenizer.eos_id, seed=seed, prompt_ids=numbers)
        texts = [tokenizer.decode_completion(c) for c in out.completions]
        lengths = [len(c) for c in out.completions]
        asked = [i for i in numbers for _ in range(samples)]
        scores = score([rows[i] for i in asked], texts, plan, lengths, max_new_tokens)
        records = [{"problem": i, "text": texts[j], "answer": answer_of(rows[i], texts[j]),
            "tokens": lengths[j], "finished": out.finished[j], **scores[j]} for j, i in enumerate(asked)]
    records = sorted((r for part in gather(ranks, records) for r in part), key=lambda r: r["problem"])
    return summarize(records, samples), records


def summarize(records: list[dict], k: int) -> dict:
    """Metrics of records grouped by problem, k samples each."""
    by_problem = defaultdict(list)
    for r in records:
        by_problem[r["problem"]].append(r)
    groups = list(by_problem.values())
    correct = [[r["accuracy"] for r in g] for g in groups]
    m: dict[str, float] = {"problems": len(groups), "k": k}
    for name, values in {"pass@1": [sum(c) / k for c in correct],
            "pass@k": [pass_at_k(k, int(sum(c)), k) for c in correct],
            "cons@k": [majority([r["answer"] for r in g], c) for g,
            c in zip(groups, correct, strict=True)]}.items():
        m[name], m[f"{name}_se"] = mean_and_error(values)
    for name, value in {"format": lambda r: r["answer"] is not None, "length": lambda r: r["tokens"],
            "truncated": lambda r: not r["finished"],
            "reflections": lambda r: reflections(r["text"])}.items():
        m[name] = sum(value(r) for r in records) / len(records)
    return m


@dataclass
class Config:
    from_: str = knob("out/tiny/grpo", "checkpoint folder")
    task: str = knob("",
        "task (countdown:n=3,high=9), or a .jsonl file; empty = the task that it was trained on")
    problems: int = knob(256, "held-out problems")
    samples: int = knob(8, "k, samples per problem")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "sampling temperature; R1 evaluates at 0.6")
    top_p: float = knob(1.0, "nucleus sampling; R1 evaluates at 0.95")
    seed: int = knob(0, "seed of the problems and of the sampling")
    reward: str = knob("", "a reward of your own, file.py:function, that judges tasks unknown here")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda")
    save: str = knob("", "write every completion with its rewards to this .jsonl file")


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    if cfg.problems < 1 or cfg.samples < 1:
        raise UserError("--problems and --samples must be at least 1")
    run_file = Path(cfg.from_) / "run.json"
    task = cfg.task or (json.loads(run_file.read_text())["task"] if run_file.exists() else "countdown")
    plan = reward_plan(cfg.reward)
    rows = held_out(task, cfg.problems, cfg.seed, whole_file=True, plan=plan)
    ranks = setup(cfg.device)
    model, tokenizer = load_model(cfg.from_, ranks.device), for_checkpoint(cfg.from_)
    m, records = evaluate(model, tokenizer, rows, samples=cfg.samples, max_new_tokens=cfg.max_new_tokens,
        ranks=ranks, temperature=cfg.temperature, top_p=cfg.top_p, seed=cfg.seed, plan=plan)
    if ranks.main:
        print(f"{cfg.from_} on {len(rows)} held-out problems of {task}, temperature {cfg.temperature}")
        print(table({"held out": m}))
        if cfg.save:
            with open(cfg.save, "w", encoding="utf-8") as f:
                f.writelines(json.dumps(r | {"prompt": rows[r["problem"]]["prompt"]}) + "\n" for r in records)


if __name__ == "__main__":
    run_script(main)
