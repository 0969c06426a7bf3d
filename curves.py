"""What samples are worth: estimators over them, and accuracy over the tokens spent.

pass@k, cons@k and best of k are exact expectations over all subsets of k of the samples at hand. The curves
put every way to spend tokens (search.py) on one axis, tokens per problem, standard errors over problems.
"""

import math
from collections import defaultdict

from answers import same_answer
from config import UserError, closest
from data.tokenizer import Tokenizer
from metrics import aha, reflections
from parallel import Ranks, gather
from rewards import TASK_REWARDS, Plan, answer_of, countdown_reward, language_share, opened, score
from search import force_answer, think_on, tree_search

# ------------------------------------------------------------------------------------- choosing among samples


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


def measures(row: dict, text: str, accuracy: float) -> dict[str, float]:
    """How a completion thinks: reflection words and aha moments (`metrics.aha`), the share of its thinking's
    words in the row's language (default English), and whether words of another language stand among them."""
    share = language_share(opened(row, text).partition("</think>")[0].removeprefix("<think>"),
        row.get("language") or "en")
    return {"reflections": reflections(text), "consistency": share, "mixed": float(0 < share < 1),
        **aha(text, row.get("target", row.get("answer", "")), accuracy)}


def judged(rows: list[dict], problems: list[int], texts: list[str], lengths: list[int], finished: list[bool],
        plan: Plan, max_new_tokens: int) -> list[dict]:
    """One record per completion: its problem, text, answer, length, rewards and measures."""
    mine = [rows[i] for i in problems]
    scores = score(mine, texts, plan, lengths, max_new_tokens)
    return [{"problem": i, "text": text, "answer": answer_of(row, text), "tokens": n, "finished": end,
        "by_value": by_value(row), **s, **measures(row, text, s["accuracy"])} for i, row, text, n, end, s
        in zip(problems, mine, texts, lengths, finished, scores, strict=True)]


def grouped(records: list[dict]) -> list[list[dict]]:
    """The records of each problem."""
    by_problem = defaultdict(list)
    for r in records:
        by_problem[r["problem"]].append(r)
    return list(by_problem.values())


# -------------------------------------------------------------------------------------------- more tokens


def point(name: str, tokens: float, values: list[float]) -> dict:
    """A point of a curve: tokens spent per problem, mean accuracy and its standard error over problems."""
    mean, error = mean_and_error(values)
    return {"name": name, "tokens": tokens, "accuracy": mean, "se": error}


def votes_curve(records: list[dict], samples: int, scorer: str = "") -> dict[str, list[dict]]:
    """Accuracy over k samples per problem, k = 1, 2, 4, ... and all: cons@k, best of k by the component
    `scorer`, and pass@k, which no vote can beat (it is told which is right)."""
    groups, each = grouped(records), sum(r["tokens"] for r in records) / len(records)
    ways = {"votes": lambda g, c, k: cons_at_k([r["answer"] for r in g], c, k, g[0]["by_value"]),
        "pass@k": lambda g, c, k: pass_at_k(len(c), int(sum(c)), k)}
    if scorer:
        ways["best of k"] = lambda g, c, k: best_at_k([r.get(scorer, -math.inf) for r in g], c, k)
    ks = sorted({2**i for i in range(samples.bit_length())} | {samples})
    return {way: [point(str(k), k * each, [at(g, [r["accuracy"] for r in g], k) for g in groups]) for k in ks]
        for way, at in ways.items()}


def budget_curve(model, tokenizer: Tokenizer, rows: list[dict], records: list[dict], budgets: list[int],
        waits: int, *, samples: int, max_new_tokens: int, ranks: Ranks, seed: int, plan: Plan,
        **sampling) -> list[dict]:
    """Accuracy of one sample over its thinking budget: cut at each budget; as it came; then with 1, 2, ...
    refused ends, each within max_new_tokens (what does not end in them is cut there)."""
    numbers = ranks.share(list(range(len(records))))
    mine = [records[j] for j in numbers]
    prompts = [tokenizer.encode_prompt(rows[r["problem"]]["prompt"]) for r in mine]
    ids = [r["ids"] for r in mine]
    boxed = any("_boxed" in TASK_REWARDS.get(row["task"], ("",))[0] for row in rows)

    def measure(name, some):
        texts = [tokenizer.decode_completion(c) for c in some]
        done = judged(rows, [r["problem"] for r in mine], texts, list(map(len, some)),
            [c[-1] == tokenizer.eos_id for c in some], plan, max_new_tokens)
        groups = grouped([r for part in gather(ranks, done) for r in part])
        tokens = sum(r["tokens"] for g in groups for r in g) / len(groups) / samples
        return point(name, tokens, [sum(r["accuracy"] for r in g) / samples for g in groups])

    def cut(some, budget, turn):
        return force_answer(model, tokenizer, prompts, some, budget, boxed=boxed, prompt_ids=numbers,
            seed=seed + (turn << 40), **sampling)

    points = [measure(str(b), cut(ids, b, 1 + i)) for i, b in enumerate(sorted(budgets))]
    points.append(measure("as it came", ids))
    for wait in range(1, waits + 1):
        ids = think_on(model, tokenizer, prompts, ids, max_new_tokens, prompt_ids=numbers,
            seed=seed + (100 + wait << 40), **sampling)
        points.append(measure(f"{wait} x wait", cut(ids, max_new_tokens, 200 + wait)))
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
            return countdown_reward(texts, *([row[k] for row in mine] for k in ("numbers", "target")))
        if kind != "agreement":
            return [s.get(kind, 0.0) for s in score(mine, texts, plan, lengths, max(lengths))]
        out = []
        for i, row, text in zip(problems, mine, texts, strict=True):
            answer = answer_of(row, text)
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
    done = tree_search(model, tokenizer, [tokenizer.encode_prompt(row["prompt"]) for row in mine], budget,
        value_function(kind, mine, plan), max_new_tokens=max_new_tokens, prompt_ids=numbers, **sampling)
    found = {}
    for i, rollouts in zip(numbers, done, strict=True):
        new = judged(rows, [i] * len(rollouts), *([r[k] for r in rollouts] for k
            in ("text", "tokens", "finished")), plan, max_new_tokens)
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


