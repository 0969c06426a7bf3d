"""What more tokens buy at test time: a thinking budget, votes, best of k, tree search.

    python experiments/search.py --from out/tiny/grpo --json out/tiny/grpo/curves.json
    python experiments/search.py --from out/tiny/grpo --search mcts   # also a tree search, for as many tokens

Budget forcing cuts the thinking short (s1, arXiv 2501.19393). Monte Carlo tree search adds one line of
thinking at a time (DeepSeek-R1, sec. 4.2, did not get it to work). Both call `sample.generate` with prompts
that already hold a part of the completion; the noise is keyed by problem and sample, so ranks change
nothing. Every way to spend tokens is on one axis, tokens per problem, with standard errors over problems.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away
sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

from config import (
    UserError,
    closest,
    knob,
    parse_args,
    presets_of,
    run_script,
)
from data.tokenizer import Tokenizer
from eval import (
    HeldOut,
    best_at_k,
    cons_at_k,
    evaluate,
    grouped,
    judged,
    majority,
    mean_and_error,
    opened_checkpoint,
    pass_at_k,
)
from metrics import table
from parallel import Ranks, gather
from rewards import TASK_REWARDS, Plan, answer_of, as_read, countdown_reward, score
from sample import generate

ANSWER_TOKENS = 48  # for the answer, after the thinking was cut
# --------------------------------------------------------------------------------------------- budget forcing


def thinking_end(tokenizer: Tokenizer, completion: list[int]) -> int:
    """The position of `</think>` in a completion; its length if the thinking does not end."""
    close = tokenizer.think_ids[1]
    return completion.index(close) if close in completion else len(completion)


def without_end(tokenizer: Tokenizer, completion: list[int]) -> list[int]:
    return completion[:-1] if completion and completion[-1] in tokenizer.eos_ids else completion


def force_answer(model, tokenizer: Tokenizer, prompts: list[list[int]], completions: list[list[int]],
        budget: int, *, boxed: bool = False, prompt_ids: list[int], **sampling) -> list[list[int]]:
    """Budget forcing, downwards (s1, sec. 3.1): thinking longer than `budget` tokens is cut there,
    `</think>` newline `<answer>` (boxed: without `<answer>`) is appended and the model writes the answer.
    The other completions stay. A sampler with this budget would have sampled the same: the tokens before the
    cut do not depend on what comes later. The tag that opens the thinking does not count."""
    opening = tokenizer.think_ids[0]
    close = tokenizer.encode("</think>\n" + "<answer>" * (not boxed), tags=True)
    out, cut = list(completions), []
    for i, completion in enumerate(completions):
        start = int(completion[:1] == [opening])
        if thinking_end(tokenizer, completion) > start + budget or tokenizer.think_ids[1] not in completion:
            out[i] = without_end(tokenizer, completion[: start + budget]) + close
            cut.append(i)
    if cut:
        tails = generate(model, [prompts[i] + out[i] for i in cut], max_new_tokens=ANSWER_TOKENS,
            eos_id=tokenizer.eos_ids, prompt_ids=[prompt_ids[i] for i in cut], **sampling)
        for i, tail in zip(cut, tails.completions, strict=True):
            out[i] = out[i] + tail
    return out


# ----------------------------------------------------------------------------------- Monte Carlo tree search


@dataclass
class Node:
    """A completion so far, cut at the end of a line of thinking; its children add one line each."""

    tokens: list[int]
    done: bool = False  # a whole completion
    visits: int = 0
    total: float = 0.0  # sum of the values of the rollouts through here
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)


def select(root: Node, explore: float, low: float, high: float) -> list[Node]:
    """The path from the root to the node to expand. UCT (Kocsis and Szepesvari 2006): go to the child with
    the highest Q + explore sqrt(ln N / n), Q scaled to 0..1 by the tree's extreme values (MuZero, arXiv
    1911.08265, eq. 5). Lines are too many to list, so a node of N visits gets up to sqrt(N) children, rounded
    up (progressive widening), sampled from the policy, which is the prior. Finished children are not visited
    again."""
    path = [root]
    while True:
        node = path[-1]
        live = [child for child in node.children.values() if not child.done]
        if not live or len(node.children) < math.ceil(math.sqrt(node.visits)):
            return path

        def bound(child, visits=node.visits):
            q = (child.total / child.visits - low) / (high - low) if high > low else 0.0
            return q + explore * math.sqrt(math.log(visits) / child.visits)

        path.append(max(live, key=bound))


def first_line(tokenizer: Tokenizer, tokens: list[int]) -> int:
    """How many of the tokens make the next step: to the first line break of the thinking, or all of them."""
    for i, token in enumerate(tokens[: thinking_end(tokenizer, tokens)]):
        if b"\n" in tokenizer.token_bytes(token):
            return i + 1
    return len(tokens)


def tree_search(model, tokenizer: Tokenizer, prompts: list[list[int]], budget: float,
        value: Callable[[list[int], list[str], list[int], list[bool]], list[float]], *, max_new_tokens: int,
        explore: float, seed: int, prompt_ids: list[int], **sampling) -> list[list[dict]]:
    """Search over lines of thinking, all problems side by side: a simulation selects a node, samples from it
    to the end, adds the sample's first line as a child and the sample's value to every node of the path.

    value(problems, texts, lengths, finished) judges whole completions; `problems` are positions in `prompts`.
    A problem stops where one more rollout of its mean length would miss the token `budget` by more than
    stopping does. Only tokens that were sampled count. Returns each problem's rollouts: {text, value, new
    (tokens sampled), tokens (length), ids, finished}."""
    roots, done = [Node([]) for _ in prompts], [[] for _ in prompts]
    spent, round = [0] * len(prompts), 0
    while True:
        active = [i for i, n in enumerate(spent) if not done[i] or n + n / len(done[i]) / 2 < budget]
        if not active:
            return done
        paths = []
        for i in active:
            values = [r["value"] for r in done[i]] or [0.0]
            paths.append(select(roots[i], explore, min(values), max(values)))
        rooms = [max_new_tokens - len(path[-1].tokens) for path in paths]
        round += 1
        out = generate(model, [prompts[i] + path[-1].tokens for i, path in zip(active, paths, strict=True)],
            max_new_tokens=max(rooms), eos_id=tokenizer.eos_ids, seed=seed + (round << 32),
            prompt_ids=[prompt_ids[i] for i in active], **sampling)
        tails = [tail[:room] for tail, room in zip(out.completions, rooms, strict=True)]
        wholes = [path[-1].tokens + tail for path, tail in zip(paths, tails, strict=True)]
        texts = [tokenizer.decode_completion(w) for w in wholes]
        finished = [w[-1] in tokenizer.eos_ids for w in wholes]
        values = value(active, texts, [len(w) for w in wholes], finished)
        for i, path, tail, whole, text, v, end in zip(active, paths, tails, wholes, texts, values, finished,
                strict=True):
            step = tuple(tail[: first_line(tokenizer, tail)])
            child = path[-1].children.setdefault(step, Node(path[-1].tokens + list(step)))
            child.done = len(step) == len(tail) or len(child.tokens) >= max_new_tokens
            for node in [*path, child]:
                node.visits, node.total = node.visits + 1, node.total + v
            spent[i] += len(tail)
            done[i].append({"text": text, "value": v, "new": len(tail), "tokens": len(whole),
                "ids": whole, "finished": end})


# -------------------------------------------------------------------------------------------- more tokens


def point(name: str, tokens: float, values: list[float]) -> dict:
    """A point of a curve: tokens spent per problem, mean accuracy and its standard error over problems."""
    mean, error = mean_and_error(values)
    return {"name": name, "tokens": tokens, "accuracy": mean, "se": error}


def votes_curve(records: list[dict], samples: int, scorer: str = "") -> dict[str, list[dict]]:
    """Accuracy over k samples per problem, k = 1, 2, 4, ... and all: cons@k, best of k by the component
    `scorer`, and pass@k, which no vote can beat (it knows the right answer)."""
    groups, each = grouped(records), sum(r["tokens"] for r in records) / len(records)
    ways = {"votes": lambda g, c, k: cons_at_k([r["answer"] for r in g], c, k, g[0]["by_value"]),
        "pass@k": lambda g, c, k: pass_at_k(len(c), int(sum(c)), k)}
    if scorer:
        ways["best of k"] = lambda g, c, k: best_at_k([r.get(scorer, -math.inf) for r in g], c, k)
    ks = sorted({2**i for i in range(samples.bit_length())} | {samples})
    return {way: [point(str(k), k * each, [at(g, [r["accuracy"] for r in g], k) for g in groups]) for k in ks]
        for way, at in ways.items()}


def budget_curve(model, tokenizer: Tokenizer, rows: list[dict], records: list[dict], budgets: list[int],
        *, samples: int, max_new_tokens: int, ranks: Ranks, seed: int, plan: Plan,
        **sampling) -> list[dict]:
    """Accuracy of one sample over its thinking budget: cut at each budget, and uncut."""
    numbers = ranks.share(list(range(len(records))))
    mine = [records[j] for j in numbers]
    prompts = [tokenizer.encode_row(rows[r["problem"]]) for r in mine]
    ids = [r["ids"] for r in mine]
    boxed = any("_boxed" in TASK_REWARDS.get(row["task"], ("",))[0] for row in rows)

    def measure(name, some):
        texts = [tokenizer.decode_completion(c) for c in some]
        done = judged(rows, [r["problem"] for r in mine], texts, some,
            [c[-1] in tokenizer.eos_ids for c in some], plan, max_new_tokens)
        groups = grouped([r for part in gather(ranks, done) for r in part])
        tokens = sum(r["tokens"] for g in groups for r in g) / len(groups) / samples
        return point(name, tokens, [sum(r["accuracy"] for r in g) / samples for g in groups])

    def cut(some, budget, turn):
        return force_answer(model, tokenizer, prompts, some, budget, boxed=boxed, prompt_ids=numbers,
            seed=seed + (turn << 40), **sampling)

    points = [measure(str(b), cut(ids, b, 1 + i)) for i, b in enumerate(sorted(budgets))]
    points.append(measure("as it came", ids))
    return points


def value_function(kind: str, rows: list[dict], plan: Plan):
    """How the search judges a whole completion, with nothing but what is known at test time:

    check: 1 if the final expression solves the prompt (Countdown states what is wanted; the same rule
    scores, so a vote with this check is pass@k). agreement: the share of the problem's rollouts so far, this
    one included, that have its answer. Another word: the component of that name of --reward's function."""
    if kind == "check" and any(row["task"] != "countdown" for row in rows):
        raise UserError("--value check: only Countdown's prompt says what a right answer is; use agreement")
    if kind not in ("check", "agreement", *plan.custom):
        raise UserError(f"--value {kind}{closest(kind, ['check', 'agreement', *plan.custom])}")
    seen: dict[int, list] = defaultdict(list)

    def value(problems, texts, lengths, finished):
        mine = [rows[i] for i in problems]
        if kind == "check":
            texts = [as_read(row, text, plan, "countdown") for row, text in zip(mine, texts, strict=True)]
            return countdown_reward(texts, *([row[k] for row in mine] for k in ("numbers", "target")))
        if kind != "agreement":
            return [s.get(kind, 0.0) for s in score(mine, texts, plan, lengths, max(lengths))]
        out = []
        for i, row, text in zip(problems, mine, texts, strict=True):
            answer = answer_of(row, text, plan)
            seen[i].append("".join(answer.split()) if answer is not None else None)
            out.append(seen[i].count(seen[i][-1]) / len(seen[i]) if answer is not None else 0.0)
        return out

    return value


def search_curve(model, tokenizer: Tokenizer, rows: list[dict], records: list[dict], kind: str, *,
        samples: int, max_new_tokens: int, ranks: Ranks, plan: Plan, **sampling) -> list[dict]:
    """Tree search against votes over the same samples' tokens: the search's rollouts vote with their values
    as weights, and so do the plain samples with the same values."""
    budget = sum(r["tokens"] for r in records) / len(rows)
    numbers = ranks.share(list(range(len(rows))))
    mine = [rows[i] for i in numbers]
    done = tree_search(model, tokenizer, [tokenizer.encode_row(row) for row in mine], budget,
        value_function(kind, mine, plan), max_new_tokens=max_new_tokens, prompt_ids=numbers, **sampling)
    found = {}
    for i, rollouts in zip(numbers, done, strict=True):
        new = judged(rows, [i] * len(rollouts), *([r[k] for r in rollouts] for k
            in ("text", "ids", "finished")), plan, max_new_tokens)
        found[i] = [r | {"value": o["value"], "new": o["new"]} for r, o in zip(new, rollouts, strict=True)]
    trees = [g for part in gather(ranks, found) for _, g in sorted(part.items())]
    plain = grouped(records)
    for i, g in enumerate(plain):
        values = value_function(kind, rows, plan)([i] * len(g), [r["text"] for r in g],
            [r["tokens"] for r in g], [r["finished"] for r in g])
        for r, v in zip(g, values, strict=True):
            r["value"] = v

    def weighted(g):
        low = min(r["value"] for r in g)
        return majority([r["answer"] for r in g], [r["accuracy"] for r in g], [r["value"] - low for r in g],
            g[0]["by_value"])

    spent = sum(r["new"] for g in trees for r in g) / len(trees)
    return [point("one sample", budget / samples, [sum(r["accuracy"] for r in g) / samples for g in plain]),
        point("votes", budget, [majority([r["answer"] for r in g], [r["accuracy"] for r in g],
            by_value=g[0]["by_value"]) for g in plain]),
        point(f"votes weighted by {kind}", budget, [weighted(g) for g in plain]),
        point(f"mcts, value {kind}", spent, [weighted(g) for g in trees])]


def point_lines(title: str, points: list[dict]) -> list[str]:
    return [title, *(f"  {p['name']:<28}{p['tokens']:>9.1f} tokens{p['accuracy']:>9.1%} +- {p['se']:.1%}"
        for p in points)]


# ------------------------------------------------------------------------------------------ command line


@dataclass
class Config(HeldOut):
    reward: str = knob("", "a reward of your own, file.py:function: judges tasks unknown here; elsewhere it "
        "ranks, for best of k and --value")
    budgets: str = knob("0,16,32,64,128", "where the thinking is cut, in tokens")
    search: str = knob("", "mcts: also a tree search over lines of thinking, at the tokens of the votes")
    value: str = knob("check", "what the search trusts: check (Countdown), agreement, or the name of "
        "--reward's function")
    explore: float = knob(0.5, "of the search: weight of the exploration term of UCT")
    json: str = knob("", "write metrics and curves to this .json file, and the curves' picture beside it")


def budgets_of(text: str) -> list[int]:
    """The numbers of "0,16,32". Raises UserError."""
    if not all(part.strip().isdecimal() and len(part) < 10 for part in text.split(",")):
        raise UserError(f"--budgets {text}: expected whole numbers, such as 0,16,32")
    return [int(part) for part in text.split(",")]


def main():
    cfg, _ = parse_args(Config, {"default": {}, **presets_of("search", Config)}, __doc__)
    budgets = budgets_of(cfg.budgets)
    if cfg.search not in ("", "mcts"):
        raise UserError(f"--search {cfg.search}{closest(cfg.search, ['mcts'])}")

    def check(tokenizer, rows, plan):
        if min(tokenizer.think_ids) < 0:
            raise UserError(f"{cfg.from_}: its tokenizer has no special tokens {' '.join(tokenizer.think)}: "
                "the thinking cannot be told from the answer")
        value_function(cfg.value, rows if cfg.search else [], plan)

    model, tokenizer, rows, task, plan, ranks = opened_checkpoint(cfg, check)
    common = dict(samples=cfg.samples, max_new_tokens=cfg.max_new_tokens, ranks=ranks, plan=plan,
        temperature=cfg.temperature, top_p=cfg.top_p, seed=cfg.seed)
    m, records = evaluate(model, tokenizer, rows, **common)
    scorer = next((name for name in plan.custom if all(r["task"] in TASK_REWARDS for r in rows)), "")
    curves = {"budget": budget_curve(model, tokenizer, rows, records, budgets, **common),
        **votes_curve(records, cfg.samples, scorer)}
    if cfg.search:
        curves["search"] = search_curve(model, tokenizer, rows, records, cfg.value, explore=cfg.explore,
            **common)
    if not ranks.main:
        return
    print(f"{cfg.from_} on {len(rows)} held-out problems of {task}, temperature {cfg.temperature}")
    print(table({"held out": m}))
    for name, points in curves.items():
        print("\n".join(point_lines(f"{name}: tokens spent per problem, accuracy", points)))
    if cfg.json:
        path = Path(cfg.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"settings": asdict(cfg) | {"task": task}, "metrics": m, "curves": curves}
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        if importlib.util.find_spec("matplotlib"):
            plot = Path(__file__).parent.parent / "report" / "plot.py"
            subprocess.run([sys.executable, plot, "--curves", path], check=True)


if __name__ == "__main__":
    run_script(main)
