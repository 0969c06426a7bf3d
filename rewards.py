"""Rule-based rewards (DeepSeek-R1, arXiv 2501.12948, sec. 2.2.2): exact, without eval, without floats.

A reward is `f(completions: list[str], **columns) -> list[float]`: one column per field of the dataset rows,
each a list as long as `completions`; extra columns are ignored. This is the calling convention of TRL's
reward functions. A new reward = one function, one row in REWARDS, its name in TASK_REWARDS, one test; or,
without touching this file, `--reward my_file.py:my_function,other.py:another`.

A completion is `<think>...</think>` then `<answer>...</answer>` and nothing else but white space. Where the
prompt itself ends in `<think>`, as R1's chat template does, `score` puts the tag in front of the completion
first. The R1 form (a summary with the final answer in \\boxed{} after `</think>`) is read by the rewards
named *_boxed.
"""

import ast
import importlib.util
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import config
from config import UserError, closest, numbers
from data.tasks import TASKS
from verify.answers import same_answer
from verify.sandbox import SandboxError, check_tests, run_many

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MAX_EXPRESSION = 200  # characters of a Countdown answer
MAX_PROGRAM = 100_000  # characters of a program

# ------------------------------------------------------------------------------------------- reading, format


def split_completion(completion: str, boxed: bool = False) -> tuple[str, str] | None:
    """(thinking, answer) of a completion that has the form, else None: each tag exactly once, in this order,
    and only white space outside. `boxed` = the R1 form instead: after `</think>` a summary without tags, in
    it exactly one \\boxed{...}, whose content is the answer. Linear in the completion's length."""
    wanted = TAGS[:2] if boxed else TAGS
    if [completion.count(tag) for tag in TAGS] != [int(tag in wanted) for tag in TAGS]:
        return None
    before, _, rest = completion.partition("<think>")
    thinking, _, rest = rest.partition("</think>")
    if boxed:
        answer = _boxed(rest) if rest and not before.strip() else None
        return None if answer is None else (thinking, answer)
    between, _, rest = rest.partition("<answer>")
    answer, tag, after = rest.partition("</answer>")
    if not tag or (before + between + after).strip():
        return None
    return thinking, answer.strip()


def _boxed(summary: str) -> str | None:
    """The content of the only \\boxed{...}, with its braces balanced."""
    _, found, rest = summary.partition(r"\boxed{")
    if not found or r"\boxed" in rest:
        return None
    depth = 1
    for brace in re.finditer(r"[{}]", rest[:20_000]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return rest[: brace.start()].strip()
    return None


def answer_of(row: dict, completion: str) -> str | None:
    """The answer of a completion to a dataset row's prompt, in the form that the row's task reads."""
    reward = TASK_REWARDS.get(row["task"], ("",))[0]
    if reward == "number":
        value = last_number(completion)
        return None if value is None else str(value)
    return extract_answer(opened(row, completion), reward.endswith("_boxed"))


def opened(row: dict, completion: str) -> str:
    """The completion with the `<think>` that its prompt already ends in."""
    return ("<think>" if row["prompt"].rstrip().endswith("<think>") else "") + completion


def extract_answer(completion: str, boxed: bool = False) -> str | None:
    """The answer of a completion that has the form (`split_completion`), stripped, else None."""
    parts = split_completion(completion, boxed)
    return parts and parts[1]


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


# 10 or 1,234 or 3.50 or .5, and 3/4 as one number; x2 and step1 are none, 10pens is 10
NUMBER = re.compile(r"(?<![A-Za-z0-9_])(?:([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(\.[0-9]+)?|"
    r"(?<!\.)(\.[0-9]+))(?:/([0-9]+))?")
MINUS = re.compile(r"(?:^|[^\w)\]}-])[-\u2212]\$?$")  # a sign: in "7-3", in "x-3" and in "- 3" there is none


def last_number(text: str) -> Fraction | None:
    """The last number of a reply; of what stands in the last <answer> where there are such tags. A final
    point, a dollar sign and stars around it do not matter; words ("ten") are no numbers. None without one,
    for one of more than 60 characters, and for a division by zero."""
    text, last = text.rpartition("<answer>")[2].partition("</answer>")[0], None
    for match in NUMBER.finditer(text):
        last = match
    if last is None or len(last[0]) > 60 or last[4] and int(last[4]) == 0:
        return None
    whole, part, bare, under = last.groups(default="")
    value = Fraction(whole.replace(",", "") + part + bare) / int(under or 1)
    return -value if MINUS.search(text[max(0, last.start() - 3) : last.start()]) else value


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


def expression_value(expression: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of an expression of whole numbers, + - * / and brackets, and the numbers that it
    uses; None for anything else: other characters or operators, signs, division by zero, too long, too
    deep."""
    if len(expression) > MAX_EXPRESSION or not re.fullmatch(r"[0-9+\-*/() ]+", expression):
        return None
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    numbers: list[int] = []

    def value(node) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp):
            a, b = value(node.left), value(node.right)
            match node.op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
        raise ValueError("not part of the game")

    try:
        return value(tree), numbers
    except (ValueError, ZeroDivisionError):
        return None


def countdown_reward(completions: list[str], numbers: list[list[int]], target: list[int], **_) -> list[float]:
    """1.0 where the answer is an expression with + - * / and brackets that uses each given number exactly
    as often as given and has exactly the target's value. A trailing `= target` is accepted if it is the
    right target."""
    return [float(_solves(extract_answer(c), n, t))
        for c, n, t in zip(completions, numbers, target, strict=True)]


def _solves(answer: str | None, numbers: list[int], target: int) -> bool:
    if answer is None:
        return False
    expression, equals, stated = answer.partition("=")
    if equals and not (re.fullmatch(r"\s*[0-9]{1,20}\s*", stated) and int(stated) == target):
        return False
    result = expression_value(expression)
    return result is not None and result[0] == target and Counter(result[1]) == Counter(numbers)


def extract_program(answer: str) -> str | None:
    """The Python program of an answer: bare, or between a first line ```python and a last line ``` (fences in
    between, as in a docstring, belong to the program)."""
    text = answer.strip()
    if text.startswith("```"):
        first, _, rest = text.partition("\n")
        body, closing, last = rest.rpartition("\n")
        if first.strip().lower() not in ("```", "```python", "```py", "```python3") or last.strip() != "```":
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

SCRIPTS = {"zh": {"CJK"}, "ja": {"CJK", "HIRAGANA", "KATAKANA"}, "ko": {"HANGUL"}, "ru": {"CYRILLIC"},
    "uk": {"CYRILLIC"}, "el": {"GREEK"}, "ar": {"ARABIC"}, "he": {"HEBREW"}, "hi": {"DEVANAGARI"},
    "th": {"THAI"}}
_FORMULA = re.compile(
    r"\$[^$]{0,300}\$|\\\(.{0,300}?\\\)|\\\[.{0,300}?\\\]|```.{0,3000}?```|\\[A-Za-z]+", re.DOTALL)


@lru_cache(1)
def word_lists() -> dict[str, frozenset[str]]:
    """Frequent words of each language in Latin script (data/languages.txt)."""
    lines = (Path(__file__).parent / "data/languages.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ") for line in lines if not line.startswith("#")]
    return {language: frozenset(words.split()) for language, words in pairs}


@lru_cache(10_000)
def _script(char: str) -> str:
    return unicodedata.name(char, "?").split()[0].split("-")[0]


def language_share(text: str, language: str) -> float:
    """The share of a text's words that are in `language`. Numbers, formulas, code and single Latin letters
    are neutral. By script: each Han or kana character is a word; in Chinese, Russian, ... every word of the
    script is right and every other word wrong. A Latin language: words of another script are wrong; so are
    words that only another list of data/languages.txt has; words of its own list are right; words of no list
    do not count. Without words 1.0; with words of which none can be told, 0.0. Reads 30,000 characters."""
    if language not in SCRIPTS and language not in word_lists():
        raise ValueError(f"unknown language {language}{closest(language, [*SCRIPTS, *word_lists()])}")
    right = wrong = unknown = 0
    words = [word for word in _FORMULA.sub(" ", text[:30_000]).split() if not any(map(str.isdigit, word))]
    for word in re.findall(r"[^\W\d_]+", " ".join(words)):
        scripts = Counter(map(_script, word))
        latin = scripts.pop("LATIN", 0)
        for script, count in scripts.items():
            count = count if script in ("CJK", "HIRAGANA", "KATAKANA") else 1
            mine = script in SCRIPTS.get(language, ())
            right, wrong = right + count * mine, wrong + count * (not mine)
        word = word.lower()
        if latin < 2:
            continue
        if language in SCRIPTS:
            wrong += 1
        elif word in word_lists()[language]:
            right += 1
        elif any(word in words for words in word_lists().values()):
            wrong += 1
        else:
            unknown += 1
    return right / (right + wrong) if right + wrong else float(not unknown)


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
    """Minus the share of a completion's word n-grams that repeat an earlier one: 0 to -1."""

    def value(completion: str) -> float:
        words = completion.split()
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        return len(set(grams)) / len(grams) - 1 if grams else 0.0

    return [value(c) for c in completions]


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
    for c, texts, due in zip(completions, never or none, refusals or none, strict=True):
        said = any(plain_words(text) in plain_words(c) for text in texts or [])
        out.append(None if texts is None and due is None else float(
            not said and (due is None or one_of(c, due))))
    return out


def preference_reward(completions: list[str], **_) -> list[float]:
    """Stands in the table for the model's judgement, which preference.py loads: the chance that a response is
    both helpful (its summary) and harmless (all of it). Raises UserError where no model was given."""
    raise UserError("it is judged by a preference model: give --reward preference:FOLDER")


# ------------------------------------------------------------------------------------------------ the tables

REWARDS: dict[str, Callable[..., list[float]]] = {
    "countdown": countdown_reward, "math": math_reward, "math_boxed": partial(math_reward, boxed=True),
    "exact": exact_reward, "number": number_reward,
    "code": code_reward, "code_fraction": partial(code_reward, fraction=True),
    "format": format_reward, "format_boxed": partial(format_reward, boxed=True),
    "soft_format": soft_format_reward, "language": language_reward, "length": length_reward,
    "overlong": overlong_reward, "repetition": repetition_penalty,
    "answered": answered_reward, "clean": clean_reward,
    "preference": preference_reward, "helpful": preference_reward, "harmless": preference_reward,
}
BY_MODEL = ("preference", "helpful", "harmless")  # chances; from 0.5 on a response counts as right
# A task's rewards: its accuracy, and others with their weights; those of weight 0 are only logged. A task of
# TASKS without a row of its own here is judged by its column "answer".
TASK_REWARDS: dict[str, tuple[str, dict[str, float]]] = {
    **dict.fromkeys(TASKS, ("exact", {"format": 0.1})),
    "countdown": ("countdown", {"format": 0.1}), "math": ("math", {"format": 0.1}),
    "math_boxed": ("math_boxed", {"format_boxed": 0.1}),
    **dict.fromkeys(("number", "word_sums"), ("number", {})), "code": ("code", {"format": 0.1}),
    "general": ("preference",
        {"format": 0.1, "helpful": 0.0, "harmless": 0.0, "answered": 0.0, "clean": 0.0}),
}


class Plan(NamedTuple):
    """What a run adds to the tables: its own reward functions, and weights by name."""

    custom: dict[str, Callable[..., list[float]]] = {}
    weights: dict[str, float] = {}
    mask_truncated: bool = False  # overlong=mask: truncated completions are scored, not trained on (DAPO)


NO_PLAN = Plan()


def load_function(where: str) -> tuple[str, Callable]:
    """The function of `file.py:name`. Raises UserError if there is none."""
    path, _, name = where.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise UserError(f"{where}: expected file.py:function, and the file must exist")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"{path} has no function {name}{closest(name, names)}")
    return name, getattr(module, name)


@lru_cache
def plan_of(reward: str = "", weights: str = "", functions: tuple = ()) -> Plan:
    """From --reward a.py:f,b.py:g and --reward_weights accuracy=1,f=0.5; functions: further (name, reward)
    pairs, of a preference model. Raises UserError."""
    custom: dict[str, Callable] = {}
    for where in filter(None, map(str.strip, reward.split(","))):
        name, function = load_function(where)
        if name in custom or name in REWARDS or name in ("accuracy", "reward"):
            raise UserError(f"--reward {where}: there is another reward called {name}; rename the function")
        custom[name] = function
    custom |= dict(functions)
    items = [item.strip() for item in weights.split(",")]
    values = numbers(",".join(item for item in items if item != "overlong=mask"),
        ["accuracy", *REWARDS, *custom], "--reward_weights")
    return Plan(custom, values, "overlong=mask" in items)


def rewards_of(task: str, plan: Plan) -> tuple[str, dict[str, float]]:
    """(the reward that is the task's accuracy, weight of each reward). A task that is in no table is judged
    by the first of the plan's own rewards: right where that is 1 or more."""
    accuracy, others = TASK_REWARDS[task] if task in TASK_REWARDS else (next(iter(plan.custom)), {})
    weights = {accuracy: 1.0} | others | {name: 1.0 for name in plan.custom if name not in BY_MODEL}
    return accuracy, weights | {accuracy if k == "accuracy" else k: w for k, w in plan.weights.items()}


def score(rows: list[dict], completions: list[str], plan: Plan = NO_PLAN,
        tokens: list[int] | None = None, max_tokens: int = 0) -> list[dict[str, float]]:
    """Per completion: each component of its task's rewards, "accuracy", and "reward", their weighted sum.

    tokens: the completions' lengths, for the rewards that count them. Raises UserError with the row if a
    reward raises or returns something else than a finite number (or None: does not apply) per completion."""
    completions = [opened(row, c) for row, c in zip(rows, completions, strict=True)]
    out: list[dict[str, float]] = [{} for _ in rows]
    for task in dict.fromkeys(row["task"] for row in rows):
        at = [i for i, row in enumerate(rows) if row["task"] == task]
        accuracy, weights = rewards_of(task, plan)
        names = dict.fromkeys(k for i in at for k in rows[i] if k != "task")
        columns = {"language": ["en"] * len(at)} | {k: [rows[i].get(k) for i in at] for k in names}
        columns["prompts"] = columns.pop("prompt")
        if tokens is not None:
            columns |= {"tokens": [tokens[i] for i in at], "max_tokens": [max_tokens] * len(at)}
        for name in sorted(weights, key=lambda name: name != accuracy):
            reward = (REWARDS | plan.custom)[name]
            values = _call(name, reward, [rows[i] for i in at], [completions[i] for i in at], columns)
            for i, value in zip(at, values, strict=True):
                if value is not None:
                    out[i][name] = float(value)
                    out[i]["reward"] = out[i].get("reward", 0.0) + weights[name] * value
                if name == accuracy:
                    bar = 0.5 if name in BY_MODEL else 1
                    out[i]["accuracy"] = float(value is not None and value >= bar)
            columns["accuracy"] = [out[i]["accuracy"] for i in at]
    return out


def _call(name: str, reward: Callable, rows: list[dict], completions: list[str], columns: dict) -> list:
    """The reward's values, checked. On an error each row is tried alone, to name the one that fails."""
    try:
        values = reward(completions=completions, **columns)
        bad = len(values) != len(completions) or not all(v is None or math.isfinite(v) for v in values)
        error = f"returned {repr(values)[:200]} for {len(completions)} completions" if bad else ""
    except UserError:
        raise
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if not error:
        return values
    if len(rows) > 1:
        for i, row in enumerate(rows):
            _call(name, reward, [row], [completions[i]], {k: [v[i]] for k, v in columns.items()})
    row = json.dumps(rows[0])[:500]
    raise UserError(f"reward {name}: {error}; row {row}, completion {completions[0][:200]!r}")


def check_rows(rows: list[dict], source: str, plan: Plan = NO_PLAN):
    """Raises UserError for the first row whose task is unknown or whose columns its rewards cannot use.
    Programs are run, and the plan's own reward is called, for the first row only."""
    formed = "<think></think><answer>1</answer>"
    for number, row in enumerate(rows, 1):
        judged = TASK_REWARDS.get(row["task"], ("",))[0] in plan.custom  # by a model: as costly as a function
        known = row["task"] in TASK_REWARDS and not judged
        if not known and not plan.custom:
            names = ", ".join(TASK_REWARDS)
            raise UserError(f"{source}: row {number}: unknown task {row['task']!r}; choose from {names}")
        for key in ("answers", "never", "refusals"):
            texts = row.get(key) if row["task"] == "general" else None
            if texts is not None and not (isinstance(texts, list) and texts
                    and all(isinstance(t, str) and re.search(r"\w", t) for t in texts)):
                raise UserError(f'{source}: row {number}: "{key}" must be a list of texts, such as ["yes"]')
        try:
            if number == 1 or known:
                whole = number == 1 or not rewards_of(row["task"], NO_PLAN)[0].startswith("code")
                score([row], [formed if whole else ""], plan if number == 1 else NO_PLAN, [1], 1)
        except UserError as error:
            raise UserError(f"{source}: row {number}: task {row['task']} cannot be scored: {error}") from None
