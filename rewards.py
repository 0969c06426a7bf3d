"""Rule-based rewards (DeepSeek-R1, arXiv 2501.12948, sec. 2.2.2): exact, without eval, without floats.

A reward is `f(completions: list[str], **columns) -> list[float]`: one column per field of the dataset rows,
each a list as long as `completions`; extra columns are ignored. This is the calling convention of TRL's
reward functions. A new reward = one function, one row in REWARDS, its name in TASK_REWARDS, one test; or,
without touching this file, `--reward my_file.py:my_function,other.py:another`.

A completion is `<think>...</think>` then `<answer>...</answer>` and nothing else but white space. Where the
prompt, as the model saw it, ends in `<think>`, that tag is part of what is read (`opened`). The R1 form (a
summary with the final answer in \\boxed{} after `</think>`) is read by the rewards named *_boxed. With
--strict_format false an answer counts whatever stands around it (`found_answer`); the form is still paid by
itself.
"""

import asyncio
import importlib.util
import inspect
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import NamedTuple

import config
from config import NotFinite, UserError, closest, numbers
from data.gym import gym_score
from data.rows import as_text, texts, whole_number, whole_numbers
from data.tasks import TASKS
from parallel import PeerLost
from verify.answers import same_answer
from verify.countdown import MAX_EXPRESSION, expression_value, plain_expression, stated_value
from verify.forms import FENCES, TAGS, extract_answer, found_answer, last_number, split_completion
from verify.sandbox import LIMITS, SandboxError, check_tests, run_many
from verify.texts import language_share, repeated_share

MAX_PROGRAM = 100_000  # characters of a program


def ends_open(prompt: str) -> bool:
    """Does a prompt end in `<think>`, as R1's chat template does?"""
    return prompt.rstrip().endswith("<think>")


class TrainerState(NamedTuple):
    """What a reward of one's own can ask of `trainer_state`: where the run stands."""

    global_step: int = 0
    max_steps: int = 0


class Plan(NamedTuple):
    """What a run adds to the tables below: its own reward functions, weights by name, how it reads."""

    custom: dict[str, Callable[..., list[float]]] = {}
    weights: dict[str, float] = {}
    mask_truncated: bool = False  # overlong=mask: truncated completions are scored, not trained on (DAPO)
    strict: bool = True  # an answer counts only in the task's form; False: wherever `found_answer` finds it
    opens: Callable[[str], bool] = ends_open  # of a row's prompt; scripts ask their tokenizer
    state: TrainerState = TrainerState()


NO_PLAN = Plan()


# ------------------------------------------------------------------------------------------- reading, format


def opened(row: dict, completion: str, plan: Plan = NO_PLAN) -> str:
    """The completion with the `<think>` that its prompt already ends in. (One that stands in the template is
    there: `Tokenizer.decode_completion`.)"""
    return ("<think>" if plan.opens(row["prompt"]) else "") + completion


def as_read(row: dict, completion: str, plan: Plan = NO_PLAN, reward: str = "") -> str:
    """The completion as a reward of the row's task reads it: opened; where the plan is not strict, also put
    into the form that the reward asks for, if an answer is found."""
    completion = opened(row, completion, plan)
    if plan.strict or reward in AS_WRITTEN or reward in plan.custom:
        return completion
    answer = found_answer(completion, program=reward.startswith("code"))
    if answer is None:
        return completion
    return "<think></think>\n" + (rf"\boxed{{{answer}}}" if reward.endswith("_boxed")
        else f"<answer>{answer}</answer>")


def answer_of(row: dict, completion: str, plan: Plan = NO_PLAN) -> str | None:
    """The answer of a completion to a dataset row's prompt, in the form that the row's task reads."""
    reward = TASK_REWARDS.get(row["task"], ("",))[0]
    completion = as_read(row, completion, plan, reward)
    if reward == "number":
        value = last_number(completion)
        return None if value is None else str(value)
    return extract_answer(completion, reward.endswith("_boxed"))


def format_reward(completions: list[str], boxed: bool = False, **_) -> list[float]:
    """1.0 where the completion has the form that `split_completion` reads, else 0.0."""
    return [float(split_completion(c, boxed) is not None) for c in completions]


def soft_format_reward(completions: list[str], **_) -> list[float]:
    """A quarter for each of the four tags that stands exactly once and after those before it."""

    def value(completion: str) -> float:
        at, right = -1, 0
        for tag in TAGS:
            if completion.count(tag) == 1 and completion.index(tag) > at:
                at, right = completion.index(tag), right + 1
        return right / 4

    return [value(c) for c in completions]


# ------------------------------------------------------------------------------------------------- accuracy


def math_reward(completions: list[str], answer: list[str], boxed: bool = False, **_) -> list[float]:
    """1.0 where the completion's answer is one value, and exactly the expected one (`same_answer`)."""
    return [float((given := extract_answer(c, boxed)) is not None and same_answer(given, want))
        for c, want in zip(completions, answer, strict=True)]


def exact_reward(completions: list[str], answer: list[str], **_) -> list[float]:
    """1.0 where the extracted answer is the expected text, up to runs of white space; else 0.0. For tasks
    where an equal value is not enough: `3+4` is no answer to "Compute 3+4."."""
    return [float((given := extract_answer(c)) is not None and given.split() == want.split())
        for c, want in zip(completions, answer, strict=True)]


def number_reward(completions: list[str], answer: list[str], **_) -> list[float]:
    """1.0 where the last number of the reply (`last_number`) has the value of the last number of the expected
    answer: for models that answer in sentences, which no tags are asked of. Only the last number counts, so a
    list of guesses pays no more than its last one, and whoever goes on after the answer is judged by what
    comes last. Looser than `exact` and `math`: units and steps are not read. Raises ValueError for an answer
    without a number."""
    wanted = [last_number(want) for want in answer]
    if None in wanted:
        raise ValueError(f"no number in the answer {answer[wanted.index(None)]!r}")
    return [float(last_number(c) == want) for c, want in zip(completions, wanted, strict=True)]


def countdown_reward(completions: list[str], numbers: list[list[int]], target: list[int], **_) -> list[float]:
    """1.0 where the answer is an expression with + - * / and brackets (`verify/countdown.py`) that uses
    each given number exactly as often as given and has exactly the target's value. The target may stand
    beyond an equals sign."""
    return [float(_solves(extract_answer(c), n, t))
        for c, n, t in zip(completions, numbers, target, strict=True)]


def _solves(answer: str | None, numbers: list[int], target: int) -> bool:
    if answer is None or len(answer) > 2 * MAX_EXPRESSION:
        return False
    parts = plain_expression(answer).split("=")
    ways = parts if len(parts) == 1 else [a for a, b in (parts, parts[::-1]) if stated_value(b) == target] \
        if len(parts) == 2 else []
    results = [result for way in ways if (result := expression_value(way))]
    return any(value == target and Counter(used) == Counter(numbers) for value, used in results)


def gym_reward(completions: list[str], prompts: list[str], dataset: list[str], seed: list[int],
        index: list[int], **_) -> list[float]:
    """reasoning-gym's own score of the answer, 0 to 1, where 1 is right and less is partial credit
    (`data.gym.gym_score`). Raises UserError for a row that the library does not make."""
    return [gym_score(extract_answer(c), *place)
        for c, *place in zip(completions, prompts, dataset, seed, index, strict=True)]


def extract_program(answer: str) -> str | None:
    """The Python program of an answer: bare, or between a first line ```python and a last line ``` (fences in
    between, as in a docstring, belong to the program)."""
    text = answer.strip()
    if text.startswith("```"):
        first, _, rest = text.partition("\n")
        body, closing, last = rest.rpartition("\n")
        if first.strip().lower() not in FENCES or last.strip() != "```":
            return None
        text = body if closing else ""
    return text if 0 < len(text) <= MAX_PROGRAM else None


def code_reward(completions: list[str], tests: list[list], fraction: bool = False,
        timeout: list[float | None] | None = None, memory_mb: list[int | None] | None = None,
        tolerance: list[float | None] | None = None, **_) -> list[float]:
    """1.0 where the answer is a Python program that passes all its tests in the sandbox (`fraction`: the
    share of tests that pass). `tests`: assert strings, or {"input": stdin, "output": stdout} pairs. `timeout`
    (seconds), `memory_mb`, `tolerance` (of printed numbers): a row's own limits, see `run_tests`. Raises
    UserError where the machine lacks a layer of the sandbox, ValueError for what is no test or limit."""
    columns = {"timeout": timeout, "memory_mb": memory_mb, "tolerance": tolerance}
    limits = [{k: v[i] for k, v in columns.items() if v and v[i] is not None} for i in range(len(tests))]
    for t, own in zip(tests, limits, strict=True):
        check_tests(t, **own)
    programs = [extract_program(extract_answer(c) or "") for c in completions]
    keys = [p and (p, json.dumps(t), json.dumps(own)) for p, t, own in zip(programs, tests, limits,
        strict=True)]
    distinct = [key for key in dict.fromkeys(keys) if key]
    try:
        results = run_many([(p, json.loads(t), json.loads(own)) for p, t, own in distinct],
            unsafe=config.unsafe_code_execution)
    except SandboxError as error:
        raise UserError(str(error)) from None
    passed = {key: r.passed / (r.passed + r.failed) for key, r in zip(distinct, results, strict=True)}
    shares = [passed.get(key, 0.0) for key in keys]
    return shares if fraction else [float(share == 1) for share in shares]


# -------------------------------------------------------------------------------------------- how it is said

def language_reward(completions: list[str], language: list[str], **_) -> list[float]:
    """R1's remedy for language mixing (sec. 2.3.2): the share of the thinking's words in the target language
    (`language_share`); 0.0 without any thinking."""
    thoughts = [re.fullmatch(r"\s*<think>(.*?)</think>.*", c, re.DOTALL) for c in completions]
    return [language_share(t[1], want) if t and t[1].strip() else 0.0
        for t, want in zip(thoughts, language, strict=True)]


def length_reward(completions: list[str], tokens: list[int], max_tokens: list[int], accuracy: list[float],
        **_) -> list[float]:
    """Shortness of right answers only: accuracy * (1 - tokens / max_tokens). Differs from Kimi k1.5
    (arXiv 2501.12599): measured against the budget, not the group, so that a reward needs no neighbours."""
    return [a * (1 - n / longest) for n, longest, a in zip(tokens, max_tokens, accuracy, strict=True)]


def overlong_reward(completions: list[str], tokens: list[int], max_tokens: list[int], **_) -> list[float]:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 up to max_tokens - cache tokens, then
    linear down to -1 at max_tokens; the cache is a fifth of max_tokens, as in the paper (4096 of 20480)."""

    def value(n: int, longest: int) -> float:
        cache = max(1, longest // 5)
        return min(0.0, max(-1.0, (longest - cache - n) / cache))

    return [value(n, longest) for n, longest in zip(tokens, max_tokens, strict=True)]


def repetition_penalty(completions: list[str], n: int = 4, **_) -> list[float]:
    """Minus the share of a completion's n-grams, of words or of characters where no spaces divide them, that
    repeat an earlier one (`repeated_share`): 0 to -1."""
    return [-repeated_share(c, n) for c in completions]


def plain_words(text: str) -> str:
    """Lower-case words with single spaces around them: `You  fool!` is ` you fool `."""
    return " ".join(["", *re.findall(r"\w+", text.lower()), ""])


def one_of(completion: str, texts: list[str]) -> bool:
    """Is the answer, by its words, one of the texts?"""
    given = extract_answer(completion)
    return given is not None and plain_words(given) in map(plain_words, texts)


def answered_reward(completions: list[str], answers: list[list[str] | None] | None = None,
        **_) -> list[float | None]:
    """A general prompt with known answers, by rule: 1.0 where the answer is one of the row's `answers`, up to
    case, white space and punctuation. None for a row without that column."""
    return [None if right is None else float(one_of(c, right))
        for c, right in zip(completions, answers or [None] * len(completions), strict=True)]


def clean_reward(completions: list[str], never: list[list[str] | None] | None = None,
        refusals: list[list[str] | None] | None = None, **_) -> list[float | None]:
    """Harmless by rule: 1.0 where no text of the row's `never` stands anywhere in the response, its thinking
    included, and where, for a wish with `refusals`, the answer is one of them. None for a row that has
    neither column. The words count, not case or punctuation; a threat in other words is not seen."""
    none = [None] * len(completions)
    out: list[float | None] = []
    for c, bad, due in zip(completions, never or none, refusals or none, strict=True):
        said = any(plain_words(text) in plain_words(c) for text in bad or [])
        out.append(None if bad is None and due is None else float(
            not said and (due is None or one_of(c, due))))
    return out


def preference_reward(completions: list[str], **_) -> list[float]:
    """Stands in the table for the model's judgement, which preference.py loads: the chance that a response is
    both helpful (its summary) and harmless (all of it). Raises UserError where no model was given."""
    raise UserError("it is judged by a preference model: give --reward preference:FOLDER")


# ------------------------------------------------------------------------------------------------ the tables

REWARDS: dict[str, Callable[..., list[float]]] = {
    "countdown": countdown_reward, "math": math_reward, "math_boxed": partial(math_reward, boxed=True),
    "exact": exact_reward, "number": number_reward, "gym": gym_reward,
    "code": code_reward, "code_fraction": partial(code_reward, fraction=True),
    "format": format_reward, "format_boxed": partial(format_reward, boxed=True),
    "soft_format": soft_format_reward, "language": language_reward, "length": length_reward,
    "overlong": overlong_reward, "repetition": repetition_penalty,
    "answered": answered_reward, "clean": clean_reward,
    "preference": preference_reward, "helpful": preference_reward, "harmless": preference_reward,
}
BY_MODEL = ("preference", "helpful", "harmless")
CHANCES = (*BY_MODEL, "generative")  # from 0.5 on a response counts as right
# These judge the whole text as it was written; all others read an answer in it.
AS_WRITTEN = ("format", "format_boxed", "soft_format", "language", "length", "overlong", "repetition",
    "clean", *BY_MODEL)
# A task's rewards: its accuracy, and others with their weights; those of weight 0 are only logged. A task of
# TASKS without a row of its own here is judged by its column "answer".
TASK_REWARDS: dict[str, tuple[str, dict[str, float]]] = {
    **dict.fromkeys(TASKS, ("exact", {"format": 0.1})),
    **{name: (name, {"format": 0.1}) for name in ("countdown", "gym")}, "math": ("math", {"format": 0.1}),
    "math_boxed": ("math_boxed", {"format_boxed": 0.1}),
    **dict.fromkeys(("number", "word_sums"), ("number", {})), "code": ("code", {"format": 0.1}),
    "general": ("preference",
        {"format": 0.1, "helpful": 0.0, "harmless": 0.0, "answered": 0.0, "clean": 0.0}),
}


# What ends a run wherever it comes from. All else that a program of the user's raises, sys.exit() as well, is
# its error.
STOPS = (KeyboardInterrupt, PeerLost)


def told(error: BaseException) -> str:
    """What an error of somebody else's program says; to say it can fail, too."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def load_function(where: str) -> tuple[str, Callable]:
    """The function of `file.py:name`. Raises UserError if there is none."""
    path, _, name = where.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise UserError(f"--reward or --judge {where}: expected file.py:function, and the file must exist")
    spec = importlib.util.spec_from_file_location(f"own reward {path}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except STOPS:
        raise
    except BaseException as error:
        raise UserError(f"{path} cannot be imported: {told(error)}") from error
    if not callable(getattr(module, name, None)):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"{path} has no function {name}{closest(name, names)}")
    return name, getattr(module, name)


@lru_cache
def plan_of(reward: str = "", weights: str = "", functions: tuple = (), strict: bool = True) -> Plan:
    """From --reward a.py:f,b.py:g, --reward_weights accuracy=1,f=0.5 and --strict_format; functions: further
    (name, reward) pairs, of models. Raises UserError."""
    custom: dict[str, Callable] = {}
    for where in filter(None, map(str.strip, reward.split(","))):
        name, function = load_function(where)
        if name in {*custom, *dict(functions), *REWARDS, "accuracy", "reward", "unscored"}:
            raise UserError(f"--reward {where}: there is another reward called {name}; rename the function")
        custom[name] = function
    custom |= dict(functions)
    items = [item.strip() for item in weights.split(",")]
    values = numbers(",".join(item for item in items if item != "overlong=mask"),
        ["accuracy", *REWARDS, *custom], "--reward_weights")
    return Plan(custom, values, "overlong=mask" in items, strict)


def rewards_of(task: str, plan: Plan) -> tuple[str, dict[str, float]]:
    """(the reward that is the task's accuracy, weight of each reward). A task that is in no table is judged
    by the first of the plan's own rewards: right where that is 1 or more."""
    accuracy, others = TASK_REWARDS[task] if task in TASK_REWARDS else (next(iter(plan.custom)), {})
    weights = {accuracy: 1.0} | others | {name: 1.0 for name in plan.custom if name not in BY_MODEL}
    return accuracy, weights | {accuracy if k == "accuracy" else k: w for k, w in plan.weights.items()}


def has_rule(task: str) -> bool:
    """Does a rule of ours, no model and no function of the user's, say whether an answer is right?"""
    return TASK_REWARDS.get(task, BY_MODEL)[0] not in BY_MODEL


def score(rows: list[dict], completions: list[str], plan: Plan = NO_PLAN,
        tokens: list[int] | None = None, max_tokens: int = 0, ids: list[list[int]] | None = None,
        extra: list[dict] | None = None) -> list[dict[str, float]]:
    """Per completion: each component of its task's rewards, "accuracy", and "reward", their weighted sum. A
    completion of which every reward says None has reward 0 and "unscored": 1.

    tokens: the completions' lengths, for the rewards that count them; ids: the tokens. extra: a dict per
    completion, for what rewards of one's own `log_extra`. Raises UserError with the row if a reward raises or
    returns something else than a finite number (or None: does not apply) per completion."""
    out: list[dict[str, float]] = [{} for _ in rows]
    for task in dict.fromkeys(row["task"] for row in rows):
        at = [i for i, row in enumerate(rows) if row["task"] == task]
        mine, (accuracy, weights) = [rows[i] for i in at], rewards_of(task, plan)
        columns = columns_of(mine)
        if tokens is not None:
            columns |= {"tokens": [tokens[i] for i in at], "max_tokens": [max_tokens] * len(at)}
        if ids is not None:
            columns["completion_ids"] = [ids[i] for i in at]
        metrics, tables = defaultdict(list), defaultdict(list)
        run = {"trainer_state": plan.state,
            "log_metric": lambda name, value, to=metrics: to[name].append(float(value)),
            "log_extra": lambda name, values, to=tables: to[name].extend(values)}
        for name in sorted(weights, key=lambda name: name != accuracy):
            texts = [as_read(rows[i], completions[i], plan, name) for i in at]
            values = call_reward(name, (REWARDS | plan.custom)[name], mine, texts, columns, run)
            for i, value in zip(at, values, strict=True):
                if value is not None:
                    out[i][name] = value
                    out[i]["reward"] = out[i].get("reward", 0.0) + weights[name] * value
                if name == accuracy:
                    bar = 0.5 if name in CHANCES else 1
                    out[i]["accuracy"] = float(value is not None and value >= bar)
            columns["accuracy"] = [out[i]["accuracy"] for i in at]
        _logged(at, out, metrics, tables, extra)
    return [s if "reward" in s else s | {"reward": 0.0, "unscored": 1.0} for s in out]


def columns_of(rows: list[dict]) -> dict[str, list]:
    """The rows of one task as columns: what a reward is called with, beside the completions."""
    names = dict.fromkeys(k for row in rows for k in row if k not in ("task", "prompt", "completion"))
    columns = {k: [row.get(k) for row in rows] for k in names}
    return columns | {"prompts": [row["prompt"] for row in rows],
        "language": [row.get("language") or "en" for row in rows]}


def _logged(at: list[int], out: list[dict], metrics: dict, tables: dict, extra: list[dict] | None):
    """Write what the rewards logged: a metric's mean to each completion, as a component of weight 0; of a
    table each completion's value to its dict of `extra`."""
    for name, values in metrics.items():
        for i in at:
            if name in out[i] or name == "reward":
                raise UserError(f"log_metric: there is a component {name} already; take another name")
            if not all(map(math.isfinite, values)):
                raise UserError(f"log_metric: {name} is {sum(values)}, no finite number")
            out[i][name] = sum(values) / len(values)
    for name, values in tables.items():
        if len(values) != len(at):
            raise UserError(f"log_extra: {name} has {len(values)} values for {len(at)} completions")
        for i, value in zip(at, values, strict=True) if extra is not None else ():
            extra[i][name] = value


def call_reward(name: str, reward: Callable, rows: list[dict], completions: list[str], columns: dict,
        run: dict | None = None) -> list[float | None]:
    """The reward's values as TRL's trainer takes them, checked: lists, arrays and tensors of numbers or None,
    of plain and of `async` functions. run: what is no column. On an error each row is tried alone, to name
    the one that fails. Raises UserError; NotFinite where all are numbers or None, and one is NaN or
    infinite."""
    try:
        own = {k: list(v) for k, v in (columns | {"completions": completions}).items()}  # it may change them
        given = _arguments(name, reward, own | (run or {}))
        values = reward(**given)
        if inspect.isawaitable(values):
            values = asyncio.run(_awaited(values))
        found = _floats(values, len(completions))
        kind = NotFinite if found is not None and len(found) == len(completions) else UserError
        error = "" if kind is NotFinite and all(v is None or math.isfinite(v) for v in found) else \
            f"returned {repr(values)[:200]} for {len(completions)} completions"
    except (UserError, *STOPS):
        raise
    except BaseException as problem:
        kind, error = UserError, told(problem)
    if not error:
        return found
    if len(rows) > 1:
        for i, row in enumerate(rows):
            call_reward(name, reward, [row], [completions[i]], {k: [v[i]] for k, v in columns.items()}, run)
    row = json.dumps(rows[0], default=str)[:500]
    raise kind(f"reward {name}: {error}; row {row}, completion {completions[0][:200]!r}")


async def _awaited(values):
    return await values


def _arguments(name: str, reward: Callable, given: dict) -> dict:
    """What the function asks for by name, or all where it has **kwargs; no column for an option of our own
    rewards (boxed, fraction, n). Raises UserError."""
    parameters = inspect.signature(reward).parameters.values()
    if reward in REWARDS.values():
        given = {k: v for k, v in given.items() if k not in
            {p.name for p in parameters if p.default not in (p.empty, None)}}
    for p in parameters:
        named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if named and p.default is p.empty and p.name not in given:
            raise UserError(f"reward {name} asks for {p.name}, which no row has{closest(p.name, given)}")
    every = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return given if every else {p.name: given[p.name] for p in parameters if p.name in given}


def _floats(values, count: int) -> list[float | None] | None:
    """A reward's values as floats and None, at most one more than `count`: some have no end; None where one
    is no number."""
    values = values.tolist() if hasattr(values, "tolist") else values  # numpy, torch
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        return None
    values = [v.item() if hasattr(v, "item") else v for v in islice(values, count + 1)]
    numbers = all(v is None or isinstance(v, Number) and not isinstance(v, complex) for v in values)
    return [None if v is None else float(v) for v in values] if numbers else None


def with_number(value: object) -> str:
    """A text with a number in it. Raises ValueError."""
    if last_number(as_text(value)) is None:
        raise ValueError("has no number in it")
    return as_text(value)


def as_tests(value: object) -> list:
    """Tests of a program, also as a JSON text of them. Raises ValueError."""
    try:
        value = json.loads(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
        check_tests(value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(str(error)) from None
    return value


def as_limit(name: str) -> Callable:
    """The reader of a column that limits a row's programs: a number within sandbox.LIMITS, or nothing."""
    def read(value: object) -> object:
        check_tests(["f()"], **{name: value})
        return value

    return read


def as_language(value: object) -> str:
    """English where a row names no language. Raises ValueError for an unknown one."""
    if not isinstance(value, str | None):
        raise ValueError("must be a language such as en")
    language_share("", value or "en")
    return value or "en"


# What a reward reads of a row, and how: what it cannot read is found before a run begins.
COLUMNS: dict[str, dict[str, Callable]] = {
    "countdown": {"numbers": whole_numbers, "target": whole_number},
    **dict.fromkeys(("math", "math_boxed", "exact"), {"answer": as_text}), "number": {"answer": with_number},
    **dict.fromkeys(("code", "code_fraction"), {"tests": as_tests, **{k: as_limit(k) for k in LIMITS}}),
    "language": {"language": as_language},
    "gym": {"dataset": as_text, "seed": whole_number, "index": whole_number},
    "answered": {"answers": texts}, "clean": {"never": texts, "refusals": texts},
}


def check_rows(rows: list[dict], source: str, plan: Plan = NO_PLAN):
    """Reads every row's columns as its rewards will (COLUMNS), in place: "5" becomes 5 where a number is due.
    The rewards, the plan's own with them, are tried on the first row of each task. Raises UserError with the
    place of the first row that has an unknown task or a column that cannot be read."""
    seen: dict[str, list] = {}
    for number, row in enumerate(rows, 1):
        task, place = row["task"], getattr(row, "place", f"{source}: row {number}")
        if new := task not in seen:
            if task not in TASK_REWARDS and not plan.custom:
                raise UserError(f"{place}: unknown task {task!r}{closest(task, TASK_REWARDS)}; rows of a "
                    "task of your own need --reward")
            weights = rewards_of(task, plan)[1]
            seen[task] = [item for name in weights for item in COLUMNS.get(name, {}).items()]
        named = [("language", as_language)] if row.get("language") is not None else []  # metrics ask for it
        for key, read in seen[task] + named:
            try:
                value = read(row.get(key))
            except ValueError as error:
                given = repr(row[key])[:60] if key in row else "missing"
                raise UserError(f'{place}: "{key}" {error} (task {task}; it is {given})') from None
            if value is not None:
                row[key] = value
        if new:
            try:
                score([row], ["<think></think><answer>1</answer>"], plan, [1], 1, [[0]])
            except UserError as error:
                raise UserError(f"{place}: task {task} cannot be scored: {error}") from None
