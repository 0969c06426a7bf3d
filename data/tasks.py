"""Seeded reasoning tasks with verifiable answers, honest chains of thought for the cold start, and the
endless streams of rows that training draws from.

A row is a dict {"prompt": str, "task": str, ...columns}; a completion is `<think>reasoning</think>` newline
`<answer>result</answer>`. A problem belongs to the train or the test split by a hash of its key (what makes
it the same problem: for Countdown the multiset of numbers and the target), so the splits are disjoint by
problem whatever the seeds. A new task = `problem`, one row in `TASKS`, one test; where a cold start is to be
trained on it, `chain`; where its answer is not a text to be given exactly, a row in rewards.TASK_REWARDS.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from config import UserError
from data.gym import gym_parts, gym_problem
from data.shapes import is_file, read_rows

TEST_SHARE = 0.2  # of all problems of a task


class TaskError(UserError):
    """An unknown task, a wrong knob, a broken row: the message names it."""


def tries(most: int = 100_000) -> Iterator[int]:
    """Tries for a problem of a task. Raises TaskError where its knobs allow none, or next to none."""
    yield from range(most)
    raise TaskError(f"--task: its knobs allow no problem, or less than one in {most:,}")


def wrap(thinking: str, answer: str) -> str:
    """The completion format that the rewards read."""
    return f"<think>{thinking}</think>\n<answer>{answer}</answer>"


# -------------------------------------------------------------------------------------------------- Countdown

OPS: dict[str, Callable] = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: Fraction(a, b)}
INNER = re.compile(r"\((\d+)([-+*/])(\d+)\)")


def apply(a: int, op: str, b: int, limit: int) -> int | None:
    """a op b, or None where the game does not go: negative, above limit, not whole, division by zero."""
    if op == "/" and b == 0:
        return None
    value = OPS[op](a, b)
    return int(value) if 0 <= value <= limit and value == int(value) else None


def random_expression(numbers: list[int], ops: str, limit: int, rng: random.Random) -> tuple[str, int] | None:
    """Combine two random numbers by a random operation until one is left: (expression, value), or None
    where a step does not go. Commutative operations put the larger number first, so that a+b and b+a are
    one expression."""
    pool = [(str(n), n) for n in numbers]
    while len(pool) > 1:
        (text_a, a), (text_b, b) = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        op = rng.choice(ops)
        if op in "+*" and (b, text_b) > (a, text_a):
            (text_a, a), (text_b, b) = (text_b, b), (text_a, a)
        value = apply(a, op, b, limit)
        if value is None:
            return None
        pool.append((f"({text_a}{op}{text_b})", value))
    return pool[0][0][1:-1], pool[0][1]


def work_out(expression: str) -> str:
    """Write an expression's evaluation, innermost bracket first: (7-3)*9 -> (7-3)*9=4*9=36. Raises ValueError
    for what is none."""
    steps, current = [expression], f"({expression})"
    while current.startswith("("):
        current, changed = INNER.subn(lambda m: str(int(OPS[m[2]](int(m[1]), int(m[3])))), current, count=1)
        if not changed:
            raise ValueError(f"{current[:60]!r} is no expression")
        steps.append(current[1:-1] if current.startswith("(") and current.endswith(")") else current)
    return "=".join(steps)


def countdown_problem(rng, n: int = 3, ops: str = "+-*/", high: int = 25, limit: int = 999,
        low_target: int = 10, high_target: int = 99):
    """Make a target from n numbers in 1..high, each used once. Solvable: the target is some expression's
    value. The knobs: more numbers, more operations and larger numbers are harder; `limit` bounds
    intermediate results."""
    for _ in tries():
        numbers = [rng.randint(1, high) for _ in range(n)]
        found = random_expression(numbers, ops, limit, rng)
        if found and low_target <= found[1] <= high_target and found[1] not in numbers:
            break
    target = found[1]
    return {"prompt": f"Use {' '.join(map(str, numbers))} to make {target}.", "task": "countdown",
        "numbers": numbers, "target": target, "ops": ops, "limit": limit}


def turned(items, rng) -> list:
    """The items in their order, from a random one on and round."""
    start = rng.randrange(len(items))
    return [*items[start:], *items[:start]]


def countdown_search(row, rng) -> Iterator[tuple[str, int]]:
    """(expression, value) of every expression of a problem, each once, depth-first (Stream of Search, arXiv
    2404.03683): join two of the numbers, try all that the result allows, go back and join others. A search
    begins anywhere and goes round, so what comes next follows from what was tried last: a small model has no
    memory for more. `ops` and `limit` of the row say which steps go."""
    seen, ops = set(), turned(row["ops"], rng)

    def search(pool: list[tuple[str, int]]):
        if len(pool) == 1:
            expression, value = pool[0][0][1:-1], pool[0][1]
            if expression not in seen:
                seen.add(expression)
                yield expression, value
            return
        for i, j in turned(list(combinations(range(len(pool)), 2)), rng):
            rest = [number for k, number in enumerate(pool) if k not in (i, j)]
            for op in ops:
                for (text_a, a), (text_b, b) in ((pool[i], pool[j]), (pool[j], pool[i])):
                    value = apply(a, op, b, row["limit"])
                    if value is not None and (op not in "+*" or (a, text_a) >= (b, text_b)):
                        yield from search([*rest, (f"({text_a}{op}{text_b})", value)])

    yield from search([(str(n), n) for n in row["numbers"]])


def countdown_attempts(row, rng, patient: float = 0.4, tries: int = 16) -> list[tuple[str, int]]:
    """(expression, value) of the attempts of a writer who does not know the solution (`countdown_search`), to
    the first that hits the target. Two writers in five are patient and try up to 16 times; the others give up
    after each failure with probability 0.7."""
    stay, tried = 1.0 if rng.random() < patient else 0.3, []
    for found in countdown_search(row, rng):
        tried.append(found)
        if found[1] == row["target"] or len(tried) >= tries or rng.random() > stay:
            break
    return tried


def closest_attempt(row, tried: list[tuple[str, int]]) -> str:
    """The expression that a writer answers with: the right one, or the nearest."""
    return min((abs(value - row["target"]), expression) for expression, value in tried)[1]


def countdown_chain(row, rng, **patience):
    """Compare each attempt (`countdown_attempts`) with what is needed (high, low, ok), go on with "wait":
    (7-3)*9=4*9=36 low wait. Who gives up answers with the closest attempt."""
    tried, lines = countdown_attempts(row, rng, **patience), []
    for expression, value in tried:
        verdict = "ok" if value == row["target"] else "high wait" if value > row["target"] else "low wait"
        lines.append(f"{work_out(expression)} {verdict}")
    if tried[-1][1] != row["target"]:
        lines.append("give up")
    return wrap("\n".join(lines), closest_attempt(row, tried))


# -------------------------------------------------------------------------------------- multi-step arithmetic


def arithmetic_problem(rng, n: int = 4, ops: str = "+-*", high: int = 20, limit: int = 999):
    """Evaluate an expression of n numbers; every intermediate result is a whole number in 0..limit."""
    for _ in tries():
        found = random_expression([rng.randint(1, high) for _ in range(n)], ops, limit, rng)
        if found:
            return {"prompt": f"Compute {found[0]}.", "task": "arithmetic", "answer": str(found[1])}


def arithmetic_chain(row, rng, slip: float = 0.3, patience: float = 0.8):
    """Work the expression out; sometimes slip by a small amount in the last step, check it, and correct it
    (or give up and keep the wrong result)."""
    expression = row["prompt"].removeprefix("Compute ").removesuffix(".")
    steps, answer = work_out(expression), row["answer"]
    if rng.random() >= slip:
        return wrap(steps + " ok", answer)
    wrong = str(int(answer) + rng.choice((1, 2, 10)))
    first = steps[: steps.rindex("=") + 1] + wrong
    last = steps.split("=")[-2]
    if rng.random() > patience:
        return wrap(first + " give up", wrong)
    return wrap(f"{first} check\nwait {last}={answer} ok", answer)


# ---------------------------------------------------------------------------------------------- sorting words

WORDS = (
    "apple bird cloud dance earth fire grass house island juice king lemon moon night ocean paper queen "
    "river stone tree uncle valley water yellow zebra arm bread chair dog egg fish glass hand ice jar kite "
    "leaf milk nest oil pen rain salt table umbrella voice wind year zoo").split()


def sort_words_problem(rng, n: int = 4):
    """Put n different words into alphabetical order."""
    words = rng.sample(WORDS, n)
    return {"prompt": f"Sort {' '.join(words)}.", "task": "sort_words", "answer": " ".join(sorted(words))}


def sort_words_chain(row, rng, patience: float = 0.8):
    """Selection by trial: name a candidate for the next place; a smaller word makes it wait."""
    left, lines, done = row["prompt"].removeprefix("Sort ").removesuffix(".").split(), [], []
    while left:
        tried = rng.choice(left)
        better = sorted(w for w in left if w < tried)
        lines.append(f"next {tried} " + (f"wait {better[0]} is before" if better else "ok"))
        if better and rng.random() > patience:
            return wrap("\n".join([*lines, "give up"]), " ".join([*done, tried,
                *(w for w in left if w != tried)]))
        if not better:
            done.append(tried)
            left.remove(tried)
    return wrap("\n".join(lines), " ".join(done))


# -------------------------------------------------------------------------------------------------- word sums

NAMES = "Tom Anna Ben Mia Sam Lily Max Emma Leo Sara Paul Nina".split()
FOOD = "apple carrot cookie grape".split()
THINGS = [*FOOD, *"pen book ball card coin marble shell sticker".split()]
CONTAINERS = "box bag basket".split()
HAS = ["{name} has {first}.", "{name} starts with {first}."]
HOLDS = ["{name} has {boxes}. Each {box} holds {some}.", "{name} has {boxes}, each with {some} in it."]
STEPS = {  # a sentence for each operation, the question after the last one
    "+": (["{name} buys {more}.", "{name} finds {more}.", "{name} gets {more}.",
            "{other} gives {name} {more}."],
        ["How many {things} does {name} have now?", "How many {things} does {name} have in the end?"]),
    "-": (["{name} loses {some}.", "{name} sells {some}.", "{name} gives away {some}.",
            "{name} gives {some} to {other}."],
        ["How many {things} does {name} have now?", "How many {things} does {name} have left?"]),
    "*": (["{name} sells all the {things} for {dollars} each."], ["How many dollars does {name} get?"])}
EATS = "{name} eats {some}."  # FOOD only
IN_ALL = ["How many {things} does {name} have?", "How many {things} does {name} have in total?"]
PAIR = {"+": "{name} has {first}. {other} has {some}. How many {things} do they have together?",
    "-": "{name} has {first}. {other} has {some}. How many more {things} does {name} have than {other}?"}
SUMS = ["What is {}?", "How much is {}?"]


def counted(n: int, noun: str, before: str = "") -> str:
    """1 pen, 2 more pens, 3 boxes."""
    ending = "" if n == 1 else "es" if noun.endswith("x") else "s"
    return f"{n} {before}{noun}{ending}"


def running(numbers: list[int], ops: str) -> list[int]:
    """The first number, then the value after each operation, from left to right."""
    values = numbers[:1]
    for op, n in zip(ops, numbers[1:], strict=True):
        values.append(OPS[op](values[-1], n))
    return values


def story(rng, numbers: list[int], ops: str) -> str:
    """A word problem: what there is, a sentence for each operation, a question. A product comes first as
    containers or last as a price; one sum or difference in six compares two people."""
    (name, other), thing, box = rng.sample(NAMES, 2), rng.choice(THINGS), rng.choice(CONTAINERS)

    def say(forms: list[str], n: int = 0) -> str:
        return rng.choice(forms).format(name=name, other=other, things=thing + "s", box=box,
            first=counted(numbers[0], thing), boxes=counted(numbers[0], box), some=counted(n, thing),
            more=counted(n, thing, "more "), dollars=counted(n, "dollar"))

    if len(ops) == 1 and ops in PAIR and running(numbers, ops)[-1] > 0 and rng.randrange(6) == 0:
        return say([PAIR[ops]], numbers[1])
    told, question, left = [say(HAS)], IN_ALL, list(zip(ops, numbers[1:], strict=True))
    if ops[0] == "*" and (len(ops) > 1 or rng.random() < 0.7):
        told, left = [say(HOLDS, numbers[1])], left[1:]
    for op, n in left:
        sentences, question = STEPS[op]
        told.append(say(sentences + [EATS] * (op == "-" and thing in FOOD), n))
    return " ".join([*told, say(question)])


def word_sums_problem(rng, steps: int = 1, high: int = 9, ops: str = "+-*", plain: int = 20):
    """Word problems of one or two steps with numbers in 1..high, for released chat models: "Tom has 7 pens.
    Tom buys 3 more pens. How many pens does Tom have now?" `plain` percent are bare sums: "What is 7 + 3?".
    No result is negative, a step starts from at least 1, a product from at least 2.

    Train and test are split by the numbers and the operations, whatever their order (`word_sums_held`): a
    name or a thing more would make every row new, and a model that has learnt 7 + 3 = 10 by heart would pass
    for one that calculates. By default that is 134 sums, 23 of them held out, each in hundreds of wordings;
    `high` and `steps` make them more."""
    chosen = "".join(rng.choice(ops) for _ in range(steps))
    for _ in tries():
        numbers = [rng.randint(1, high) for _ in range(steps + 1)]
        values = running(numbers, chosen)
        starts = zip(values, chosen, strict=False)
        if values[-1] >= 0 and all(value > (op == "*") for value, op in starts):
            break
    text = " ".join([str(numbers[0]), *(f"{op} {n}" for op, n in zip(chosen, numbers[1:], strict=True))])
    if chosen[1:] == "*" != chosen[0]:
        text = "({} {} {}) {} {}".format(*text.split())
    bare = rng.randrange(100) < plain
    prompt = rng.choice(SUMS).format(text) if bare else story(rng, numbers, chosen)
    return {"prompt": prompt, "task": "word_sums", "numbers": numbers, "ops": chosen,
        "answer": str(values[-1])}


def word_sums_held(row) -> list:
    """What decides between train and test: 7 + 3 and 3 + 7 are on one side, under any name."""
    return [sorted(row["numbers"]), sorted(row["ops"])]


def word_sums_chain(row, rng):
    """Each step as an equation: 7 + 3 = 10. Then 10 - 2 = 8."""
    values = running(row["numbers"], row["ops"])
    steps = [f"{a} {op} {n} = {b}." for a, op, n, b in
        zip(values, row["ops"], row["numbers"][1:], values[1:], strict=False)]
    return wrap(" Then ".join(steps), row["answer"])


# --------------------------------------------------------------------------------------------- table, streams


class Task(NamedTuple):
    problem: Callable[..., dict]  # (rng, **knobs) -> row
    chain: Callable[..., str] | None = None  # (row, rng) -> completion for the cold start
    key: Callable[[dict], object] = lambda row: row["prompt"]  # what makes two rows the same problem
    held: Callable[[dict], object] | None = None  # what decides between train and test, if it is not the key
    limits: dict[str, tuple[int, int] | str] = {}  # of a knob: least and most, or the characters of `ops`


TASKS: dict[str, Task] = {
    "countdown": Task(countdown_problem, countdown_chain, lambda r: (sorted(r["numbers"]), r["target"]),
        limits={"n": (3, 6)}),
    "arithmetic": Task(arithmetic_problem, arithmetic_chain, limits={"n": (2, 20)}),
    "sort_words": Task(sort_words_problem, sort_words_chain, lambda r: r["answer"],
        limits={"n": (2, len(WORDS))}),
    "word_sums": Task(word_sums_problem, word_sums_chain, held=word_sums_held,
        limits={"steps": (1, 2), "high": (3, 9999), "plain": (0, 100), "ops": "+-*"}),
    "gym": Task(gym_problem),  # reasoning-gym's; its knobs are the library's: gym:chain_sum,min_terms=2
}


def split_of(task: str, row: dict) -> str:
    """'train' or 'test', decided by the problem alone."""
    key = json.dumps([task, (TASKS[task].held or TASKS[task].key)(row)]).encode()
    return "test" if int.from_bytes(hashlib.sha256(key).digest()[:4], "big") < TEST_SHARE * 2**32 else "train"


def parse_task(spec: str) -> tuple[str, dict]:
    """'countdown:n=3,high=9' -> ('countdown', {'n': 3, 'high': 9}). Raises TaskError."""
    name, _, knobs = spec.partition(":")
    if name not in TASKS:
        raise TaskError(f"--task {spec}: unknown task {name}; choose from {', '.join(TASKS)}, or give a file "
            "of rows (.jsonl, .json, .parquet)")
    if name == "gym":
        return name, {"parts": gym_parts(knobs)}
    names = TASKS[name].problem.__code__.co_varnames[1 : TASKS[name].problem.__code__.co_argcount]
    out = {}
    for part in filter(None, knobs.split(",")):
        key, _, value = part.partition("=")
        if key not in names or not value or not set(value) <= {*("+-*/" if key == "ops" else "0123456789")} \
                or len(value) > 18:
            raise TaskError(f"--task {spec}: cannot read {part!r}; its knobs are {', '.join(names)}")
        out[key] = value if key == "ops" else int(value)
    for key, limit in TASKS[name].limits.items():
        value = out.get(key)
        if isinstance(value, str) and not set(value) <= set(limit):
            raise TaskError(f"--task {spec}: {key} must be some of {limit}")
        if isinstance(value, int) and not limit[0] <= value <= limit[1]:
            raise TaskError(f"--task {spec}: {key} must be {limit[0]} to {limit[1]}")
    return name, out


def row_at(spec: str, split: str, seed: int, index: int) -> dict:
    """Row number `index` of one split of a task: a function of its arguments alone, so any process can
    make any row and a resumed run starts where it stopped."""
    name, knobs = parse_task(spec)
    rng = random.Random(f"{spec}/{split}/{seed}/{index}")
    for _ in range(10_000):
        row = TASKS[name].problem(rng, **knobs)
        if split_of(name, row) == split:
            return row
    raise TaskError(f"--task {spec} has no {split} problems: its knobs make too few different ones")


def training_rows(spec: str, seed: int, hold_out: bool = False) -> Callable[[int], dict]:
    """index -> row, endless: fresh problems of a task's train split, or a file's rows (`endless`; with
    hold_out, without those of `split_rows`' test part). Raises UserError for a wrong spec or file."""
    if is_file(spec):
        rows = read_rows(spec)
        return endless(split_rows(rows, spec)["train"] if hold_out else rows, seed)
    parse_task(spec)
    return lambda index: row_at(spec, "train", seed, index)


def endless(rows: list[dict], seed: int) -> Callable[[int], dict]:
    """index -> row, all of them once in each epoch, every epoch in an order of its own."""
    orders: dict[int, list[int]] = {}

    def row(index: int) -> dict:
        epoch, place = divmod(index, len(rows))
        if epoch not in orders:
            orders[epoch] = list(range(len(rows)))
            random.Random(f"{seed}/{epoch}").shuffle(orders[epoch])
        return rows[orders[epoch][place]]

    return row


def split_rows(rows: list[dict], source: str) -> dict[str, list[dict]]:
    """{"train": ..., "test": ...} of a file's rows: a fifth of its prompts (at least one) is held out, by
    their hash, so a prompt is on one side only. Raises TaskError for a file with a single prompt."""
    def order(prompt: str) -> bytes:
        return hashlib.sha256(prompt.encode(errors="surrogatepass")).digest()

    prompts = sorted({r["prompt"] for r in rows}, key=order)
    if len(prompts) < 2:
        raise TaskError(f"{source}: one prompt has to be held out, so at least two different ones are needed")
    test = set(prompts[: max(1, int(TEST_SHARE * len(prompts)))])
    return {"train": [r for r in rows if r["prompt"] not in test],
        "test": [r for r in rows if r["prompt"] in test]}


def chain_for(row: dict, seed: int, index: int) -> str:
    """The completion to learn for a row: its own "completion" column, the worked "solution" of a public row
    in the form that its task reads, or its task's chain of thought. Raises TaskError if it has none."""
    if isinstance(row.get("completion"), str):
        return row["completion"]
    if isinstance(row.get("solution"), str) and "answer" in row:
        return (f"<think>{row['solution']}</think>\nThe answer is \\boxed{{{row['answer']}}}."
            if row["task"].endswith("boxed") else wrap(row["solution"], str(row["answer"])))
    chain = row["task"] in TASKS and TASKS[row["task"]].chain
    try:
        if chain:
            return chain(row, random.Random(f"chain/{seed}/{index}"))
        why = "no chain in TASKS"
    except KeyError as column:
        why = f"no column {column}"
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        why = f"its columns are not of the task: {error}"  # a row of somebody else's
    raise TaskError(f'a row of task {row["task"]!r} has no "completion" and no generator makes one ({why}); '
        "if another column has it: --columns prompt=NAME,completion=NAME")


def distinct(spec: str, split: str, seed: int, count: int) -> list[dict]:
    """`count` rows with different problems, in random order; fewer if 40 draws per row do not find more (a
    task with few problems)."""
    found, name = {}, parse_task(spec)[0]
    for index in range(40 * count):
        row = row_at(spec, split, seed, index)
        found.setdefault(json.dumps(TASKS[name].key(row)), row)
        if len(found) == count:
            break
    rows = list(found.values())
    random.Random(seed).shuffle(rows)  # common problems are drawn first: now a part of the rows is fair
    return rows
