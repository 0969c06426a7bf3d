"""Evaluation on held-out problems: pass@1, pass@k and cons@k with standard errors.

    python eval.py --from out/tiny/grpo --problems 256 --samples 8 --json out/tiny/grpo/eval.json

pass@k, cons@k and best of k are exact expectations over all subsets of k of the samples at hand. (What more
tokens buy at test time: experiments/search.py.)
"""

import json
import math
import os
import random
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

from checkpoint import load_model
from config import (
    DTYPE,
    STRICT_FORMAT,
    SYSTEM,
    TASK_FILE,
    TEMPLATE,
    Reading,
    UserError,
    knob,
    parse_args,
    presets_of,
    read_json,
    run_script,
    say,
    typed,
)
from data.rows import fitting
from data.shapes import is_file, nothing_to_read, read_rows
from data.tasks import distinct, split_rows
from data.tokenizer import Tokenizer, for_checkpoint
from metrics import BY_RULE, MEASURES, OF_ATTEMPTS, OPINIONS, SEARCH, aha, reflections, table
from parallel import Ranks, gather, setup
from preference import reward_plan
from rewards import (
    NO_PLAN,
    TASK_REWARDS,
    Plan,
    answer_of,
    check_rows,
    language_share,
    score,
)
from sample import generate
from verify.answers import reading, same_answer
from verify.countdown import attempts

# ------------------------------------------------------------------------------------ estimates of k samples


def vote_classes(answers: list[str | None], by_value: bool = False) -> list[list[int]]:
    """The positions of the answers that vote together; None does not vote. Answers are compared without white
    space; by_value: also where each is the other's `same_answer`, so 1/2 and 0.5 are one vote. (A bare 5 is
    the same as 5 m and as 5 cm, which differ: it goes with one of them.) Not for Countdown: there all right
    expressions have the same value. The order of the answers does not matter."""
    texts = defaultdict(list)
    for i, answer in enumerate(answers):
        if answer is not None:
            texts["".join(answer.split())].append(i)
    if not by_value:
        return list(texts.values())
    classes: list[list[str]] = []
    for text in sorted(texts, key=lambda t: (len(t), t)):
        a = answers[texts[text][0]]
        for members in classes:
            theirs = [answers[texts[member][0]] for member in members]
            if all(same_answer(a, b) and same_answer(b, a) for b in theirs):
                members.append(text)
                break
        else:
            classes.append([text])
    return [[i for text in members for i in texts[text]] for members in classes]


def majority(answers: list[str | None], correct: list[float], weights: list[float] | None = None,
        by_value: bool = False) -> float:
    """The chance that the answer with most votes (or most weight) is right. Ties are broken at random and
    averaged; of a class that holds right and wrong texts, a random member is the answer."""
    weights = weights if weights and any(weights) else [1.0] * len(answers)
    classes = vote_classes(answers, by_value)
    if not classes:
        return 0.0
    totals = [sum(weights[i] for i in c) for c in classes]
    best = [c for c, total in zip(classes, totals, strict=True) if math.isclose(total, max(totals))]
    return sum(sum(correct[i] for i in c) / len(c) for c in best) / len(best)


def cons_at_k(answers: list[str | None], correct: list[float], k: int, by_value: bool = False) -> float:
    """cons@k: the mean of `majority` over all subsets of k of the samples, exactly. For each number m of
    votes that could win, count the subsets in which no class has more than m and t classes have m."""
    classes = vote_classes(answers, by_value)
    sizes = [(len(c), sum(correct[i] for i in c) / len(c)) for c in classes]
    total = 0.0
    for m in range(1, k + 1):
        able = [(size, right) for size, right in sizes if size >= m]
        others = len(answers) - sum(size for size, _ in able)  # too few to win, or no answer
        states = {(0, 0): (1, 0.0)}  # (drawn, classes with m) -> (ways, ways x chances of the classes with m)
        for size, right in able:
            after = defaultdict(lambda: (0, 0.0))
            for (drawn, ties), (ways, chance) in states.items():
                for x in range(min(m, k - drawn) + 1):
                    picks, tie = math.comb(size, x), x == m
                    a, b = after[drawn + x, ties + tie]
                    after[drawn + x, ties + tie] = a + picks * ways, b + picks * (chance + tie * right * ways)
            states = after
        total += sum(chance / ties * math.comb(others, k - drawn)
            for (drawn, ties), (_, chance) in states.items() if ties)
    return total / math.comb(len(answers), k)


def best_at_k(scores: list[float], correct: list[float], k: int) -> float:
    """Best of k: the mean, over all subsets of k samples, of the truth of the one with the highest score; a
    random one of equals."""
    total, below = 0.0, 0
    for level in sorted(set(scores)):
        equals = [c for s, c in zip(scores, correct, strict=True) if s == level]
        wins = math.comb(below + len(equals), k) - math.comb(below, k)
        total, below = total + wins * sum(equals) / len(equals), below + len(equals)
    return total / math.comb(len(scores), k)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from n samples of which c are: 1 - C(n-c, k) / C(n, k)
    (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


# ------------------------------------------------------------------------------------------ one completion


def by_value(row: dict) -> bool:
    """Do answers to this row vote by their value? Where that decides what is right: all but the games and
    programs, whose answers are judged by what they do."""
    return TASK_REWARDS.get(row["task"], ("math",))[0].startswith("math")


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean over problems and its standard error, std / sqrt(n): samples of one problem are not
    independent."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def ratio_and_error(parts: list[float], wholes: list[float]) -> tuple[float, float]:
    """sum(parts) / sum(wholes) over problems and its standard error, that of the residuals part - ratio x
    whole over the mean whole (Cochran, Sampling Techniques, sec. 2.11): both sums vary between samples."""
    ratio = sum(parts) / sum(wholes)
    _, error = mean_and_error([p - ratio * w for p, w in zip(parts, wholes, strict=True)])
    return ratio, error * len(wholes) / sum(wholes)


def search_measures(row: dict, text: str) -> dict[str, float]:
    """How a completion searches for a Countdown row's solution, by its `attempts`; {} for other rows. Shares
    are of its own attempts, and missing without any. first_attempt: it is true and the expression is a
    solution (never, where a model calculates one operation at a time)."""
    if row["task"] != "countdown":
        return {}
    tried = attempts(text)
    n, solves = len(tried), [a.true and a.value == row["target"]
        and sorted(a.numbers) == sorted(row["numbers"]) for a in tried[:1]]
    shares = {"attempts_true": sum(a.true for a in tried) / n,
        "attempts_repeated": sum(a.repeated for a in tried) / n} if n else {}
    return {"attempts": float(n), "attempts_distinct": float(len({a.expression for a in tried})),
        "first_attempt": float(any(solves)), **shares}


def measures(row: dict, text: str, accuracy: float) -> dict[str, float]:
    """How a completion thinks: reflection words and aha moments (`metrics.aha`), the share of its thinking's
    words in the row's language (default English), and whether words of another language stand among them; for
    Countdown also its search (`search_measures`)."""
    share = language_share(text.partition("</think>")[0].replace("<think>", ""), row.get("language") or "en")
    return {"reflections": reflections(text), "consistency": share, "mixed": float(0 < share < 1),
        **aha(text, row.get("target", row.get("answer", "")), accuracy), **search_measures(row, text)}


def judged(rows: list[dict], problems: list[int], texts: list[str], completions: list[list[int]],
        finished: list[bool], plan: Plan, max_new_tokens: int) -> list[dict]:
    """One record per completion: its problem, text, answer, length, rewards and measures, and what rewards of
    one's own say of it (log_extra)."""
    mine, lengths, extra = [rows[i] for i in problems], list(map(len, completions)), [{} for _ in texts]
    scores = score(mine, texts, plan, lengths, max_new_tokens, completions, extra)
    return [more | {"problem": i, "text": text, "answer": answer_of(row, text, plan), "tokens": n,
        "finished": end, "by_value": by_value(row), **s, **measures(row, text, s["accuracy"])}
        for i, row, text, n, end, s, more
        in zip(problems, mine, texts, lengths, finished, scores, extra, strict=True)]


def grouped(records: list[dict]) -> list[list[dict]]:
    """The records of each problem."""
    by_problem = defaultdict(list)
    for r in records:
        by_problem[r["problem"]].append(r)
    return list(by_problem.values())


# ----------------------------------------------------------------------------------------------- evaluation


def held_out(task: str, count: int, seed: int = 0, whole_file: bool = False, plan: Plan = NO_PLAN,
        **columns: str) -> list[dict]:
    """Up to `count` held-out problems: of the test split of a generated task or of a file; whole_file takes
    them from all rows of the file, for one that was not trained on. columns: columns and answer_pattern, as
    of `read_rows`. Raises UserError, also for rows that cannot be scored."""
    if not is_file(task):
        nothing_to_read(task, columns.get("columns"), columns.get("answer_pattern"))
        rows = distinct(task, "test", seed, count)
        check_rows(rows[:1], task, plan)
        return rows
    rows = checked_rows(task, plan, **columns)
    rows = list(rows) if whole_file else split_rows(rows, task)["test"]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def checked_rows(path: str, plan: Plan = NO_PLAN, **columns: str) -> list[dict]:
    """All rows of a file, after `check_rows`; says how its gold answers are read."""
    rows = read_rows(path, **columns)
    check_rows(rows, path, plan)
    if golds := gold_report(rows):
        say(f"{path}: {golds}")
    return rows


def gold_report(rows: list[dict]) -> str:
    """How the expected answers of rows that `same_answer` judges are read: as a value, as words, or as the
    same text only; "" without such rows."""
    golds = [row for row in rows if TASK_REWARDS.get(row["task"], ("",))[0].startswith("math")]
    kinds = {gold: reading(gold) for gold in dict.fromkeys(row["answer"] for row in golds)}
    count = Counter(kinds[row["answer"]] for row in golds)
    says = [f"{count[kind]:,} {what}" for kind, what in (("value", "are values"), ("words", "are words"),
        ("nothing", "cannot be read, so only the same text is right")) if count[kind]]
    unread = next((row for row in golds if kinds[row["answer"]] == "nothing"), None)
    where = f", such as {unread['answer'][:60]!r} ({getattr(unread, 'place', '')})" if unread else ""
    return f"of its answers {', '.join(says)}{where}" if golds else ""


def evaluate(model, tokenizer: Tokenizer, rows: list[dict], *, samples: int, max_new_tokens: int,
        ranks: Ranks, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0,
        plan: Plan = NO_PLAN) -> tuple[dict, list[dict]]:
    """Sample each problem `samples` times and score it. Returns (metrics, one record per completion; "ids"
    are its tokens).

    pass@1 is the mean over all samples; every standard error is over problems. The numbers do not depend
    on the ranks."""
    numbers = ranks.share(list(range(len(rows))))
    prompts = [tokenizer.encode_row(rows[i]) for i in numbers]
    records = []
    if prompts:
        out = generate(model, prompts, group_size=samples, max_new_tokens=max_new_tokens,
            temperature=temperature, top_p=top_p, eos_id=tokenizer.eos_ids, seed=seed, prompt_ids=numbers)
        texts = [tokenizer.decode_completion(c) for c in out.completions]
        records = judged(rows, [i for i in numbers for _ in range(samples)], texts, out.completions,
            out.finished, plan._replace(opens=tokenizer.opens), max_new_tokens)
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
    form = lambda r: next((r[k] for k in ("format", "format_boxed") if k in r), r["answer"] is not None)  # noqa: E731
    means = {"format": form, "length": lambda r: r["tokens"],
            "truncated": lambda r: not r["finished"],
            "reflections": lambda r: reflections(r["text"])}
    not_of_all = (*MEASURES[1:], *OPINIONS, *BY_RULE, *(name for name in SEARCH if name not in OF_ATTEMPTS))
    for name in not_of_all:
        means[name] = lambda r, name=name: r[name]
    for name, value in means.items():  # of the problems that have it: not all rows go to a preference model
        theirs = groups if name not in not_of_all else [g for g in groups if name in g[0]]
        if theirs:
            m[name], m[f"{name}_se"] = mean_and_error([sum(value(r) for r in g) / len(g) for g in theirs])
    tried = [[r for r in g if r.get("attempts")] for g in groups if "attempts" in g[0]]
    for name in OF_ATTEMPTS if any(tried) else ():
        m[name], m[f"{name}_se"] = ratio_and_error(
            [sum(r[name] * r["attempts"] for r in g) for g in tried],
            [sum(r["attempts"] for r in g) for g in tried])
    return m


def attempt_table(records: list[dict], size: int = 3, most: int = 15) -> str:
    """The share of repeated and of wrongly calculated attempts by their place in the completion: places 1 to
    3, 4 to 6, ..., and the number of attempts there; "" for records without any."""
    places = defaultdict(list)
    for r in records:
        for i, attempt in enumerate(attempts(r["text"]) if r.get("attempts") else ()):
            places[min(i, most) // size].append(attempt)
    lines = [f"{'attempts':<14}{'repeated':>10}{'wrong':>10}{'number':>10}"] if places else []
    for place, some in sorted(places.items()):
        first = place * size + 1
        label = f"{first} to {first + size - 1}" if first <= most else f"from {first}"
        lines.append(f"{label:<14}{sum(a.repeated for a in some) / len(some):>10.1%}"
            f"{sum(not a.true for a in some) / len(some):>10.1%}{len(some):>10}")
    return "\n".join(lines)


@dataclass
class HeldOut(Reading):
    """What every script asks that measures a checkpoint."""

    from_: str = knob("out/tiny/grpo", "checkpoint folder")
    task: str = knob("", f"task (countdown:n=3,high=9), or {TASK_FILE}; empty = the run's own")
    template: str = knob("", TEMPLATE, group="prompt")
    system: str = knob("", SYSTEM, group="prompt")
    split: str = knob("", "rows of a file: all, or test = the fifth that grpo.py and distill.py hold "
        "out; empty = test for the task that it was trained on, else all")
    problems: int = knob(256, "held-out problems")
    samples: int = knob(8, "k, samples per problem")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "sampling temperature; R1 evaluates at 0.6")
    top_p: float = knob(1.0, "nucleus sampling; R1 evaluates at 0.95")
    seed: int = knob(0, "seed of the problems and of the sampling")
    reward: str = knob("", "judges tasks unknown here: a reward of your own, file.py:function, or "
        "preference:FOLDER, generative:FOLDER")
    strict_format: bool = knob(True, STRICT_FORMAT)
    json: str = knob("", "write settings and metrics to this .json file")
    dtype: str = knob("", DTYPE)
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")


@dataclass
class Config(HeldOut):
    save: str = knob("", "write every completion with its rewards to this .jsonl file")


def opened_checkpoint(cfg, check=lambda tokenizer, rows, plan: None):
    """(model, tokenizer, rows, task, plan, ranks) for the checkpoint, task and rows that cfg names; `check`
    may refuse them before the model is loaded. Raises UserError."""
    if cfg.split not in ("", "all", "test"):
        raise UserError(f"--split {cfg.split}: expected all or test")
    tokenizer = for_checkpoint(cfg.from_, template=cfg.template, system=cfg.system)
    run = {} if cfg.task else run_of(cfg.from_)
    task = cfg.task or run.get("eval_task") or run.get("task", "countdown")
    columns = dict(columns=cfg.columns or run.get("columns", ""), broken=cfg.broken,
        answer_pattern=cfg.answer_pattern or run.get("answer_pattern", ""))
    if not is_file(task) and not cfg.columns and not cfg.answer_pattern:
        columns = {}  # of the run's --task, which was a file
    strict = cfg.strict_format and run.get("strict_format", True)
    plan = reward_plan(cfg.reward, strict=strict)._replace(opens=tokenizer.opens)
    whole = cfg.split == "all" or cfg.split == "" and bool(cfg.task or run.get("eval_task"))
    rows = held_out(task, cfg.problems, cfg.seed, whole_file=whole, plan=plan, **columns)
    check(tokenizer, rows, plan)
    ranks = setup(cfg.device)
    model = load_model(cfg.from_, ranks.device, cfg.dtype)
    rows = fitting_prompts(model, tokenizer, rows, cfg.max_new_tokens, cfg.too_long)
    return model, tokenizer, rows, task, plan, ranks


def run_of(folder: str) -> dict:
    """The settings of the run that wrote a checkpoint, those that say what it was measured on; none of
    another's checkpoint. Raises UserError."""
    path = Path(folder) / "run.json"
    raw, kinds = read_json(path) if path.exists() else {}, {"strict_format": bool}
    said = {name: typed(raw, name, kinds.get(name, str), path)
        for name in ("task", "eval_task", "columns", "answer_pattern", "strict_format")}
    return {name: value for name, value in said.items() if value is not None}


def fitting_prompts(model, tokenizer: Tokenizer, rows: list[dict], max_new_tokens: int,
        too_long: str) -> list[dict]:
    """The rows whose prompts leave room for max_new_tokens; `fitting` says what becomes of the others."""
    context = model.cfg.max_position_embeddings
    if max_new_tokens >= context:
        raise UserError(f"--max_new_tokens {max_new_tokens}: the context has {context}, with the prompt")
    return fitting(rows, context - max_new_tokens, tokenizer.most_ids,
        lambda row: len(tokenizer.encode_row(row)), too_long)


def main():
    cfg, _ = parse_args(Config, {"default": {}, **presets_of("eval", Config)}, __doc__)
    model, tokenizer, rows, task, plan, ranks = opened_checkpoint(cfg)
    m, records = evaluate(model, tokenizer, rows, samples=cfg.samples, max_new_tokens=cfg.max_new_tokens,
        ranks=ranks, plan=plan, temperature=cfg.temperature, top_p=cfg.top_p, seed=cfg.seed)
    if not ranks.main:
        return
    print(f"{cfg.from_} on {len(rows)} held-out problems of {task}, temperature {cfg.temperature}")
    print(table({"held out": m}))
    if by_place := attempt_table(records):
        print(by_place)
    if cfg.save:
        with open(cfg.save, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({k: v for k, v in r.items() if k != "ids"}
                | {"prompt": rows[r["problem"]]["prompt"]}) + "\n" for r in records)
    if cfg.json:
        path = Path(cfg.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"settings": asdict(cfg) | {"task": task}, "metrics": m}
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
