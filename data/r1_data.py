"""The data of the R1 recipe (DeepSeek-R1, arXiv 2501.12948, sec. 2.2 to 2.4), generated or filtered: JSONL.

    python data/r1_data.py --config tiny --kind web --out web.jsonl
    python data/r1_data.py --config tiny --kind cold --pool my_chains.jsonl --out cold.jsonl

web        stage 0, rows {"text"}: documents "as the web would be": solved problems in several layouts and two
           languages, none with our tags; lists of words; questions and answers, some of them rude or harmful
cold       stage 2, {"prompt", "task", "completion", ...}: a noisy pool of chains, and the filter that keeps
           the good ones and counts why it drops the others
general    stage 4, {"prompt", "task": "general", "completion"}: questions about facts and about itself,
           translation, writing, with answers in our format
pairs      stage 5, {"prompt", "chosen", "rejected", "aspect": "helpful" or "harmless"}, for the preference
           model
scenarios  stage 5, {"prompt", "task", ...}: reasoning prompts of --task and general prompts, mixed
held       general prompts that only the web has seen, for the report

Any of these files can be one's own with the same columns. data/general.txt holds the words and sentences.
"""

import hashlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

from config import UserError, closest, knob, parse_args, presets_of, run_script
from data.shapes import is_file, read_rows
from data.tasks import (
    TASKS,
    closest_attempt,
    countdown_attempts,
    parse_task,
    row_at,
    training_rows,
    work_out,
    wrap,
)
from data.tokenizer import shipped
from rewards import (
    NO_PLAN,
    TASK_REWARDS,
    Plan,
    check_rows,
    has_rule,
    opened,
    score,
)
from verify.countdown import expression_value
from verify.forms import split_completion
from verify.texts import language_words

# ----------------------------------------------------------------------------------- solved problems, written

# What a writer of each language says: need, high, low, wait, right, give up.
SAYS = {"en": ("need", "high", "low", "wait", "ok", "give up"),
    "de": ("soll", "hoch", "tief", "warte", "gut", "ende")}
ASKS = {"en": ("Use {} to make {}.",) * 3 + ("Make {1} from {0}.", "Numbers {}, result {}."),
    "de": ("Use {} to make {}.", "Mache {1} aus {0}.", "Zahlen {}, soll {}.")}
ANSWERS = {"en": ("Answer: {}", "The answer is {}.", "So it is {}."), "de": ("Antwort: {}", "Also {}.")}
FRAMES = ("{}\n{}", "{}\n{}", "Question: {}\n{}", "Q: {}\nA:\n{}", "Q: {}\nA:\n{}")
# Pages with marked parts, as markup on the web has them; and pages whose first line asks for a pair of marks,
# as forms and templates do: one reply in four cares. R1-Zero's pair is one of 40, and its prompt names it.
# That it pays is for RL to find out.
TAGGED = ("Notes in <{0}></{0}>, result in <{1}></{1}>.", "Put work in <{0}></{0}>, then <{1}></{1}>.",
    "Use <{0}></{0}> and <{1}></{1}>.", "Write in <{0}></{0}>, end in <{1}></{1}>.")
PAIRS = [pair.split("/") for pair in (
    "work/result note/sum step/end try/final count/total long/short first/last in/out draft/text left/right "
    "body/title line/value list/item page/word read/say see/tell ask/give search/found think/answer "
    "idea/fact plan/act how/what start/stop part/all road/house seed/tree lemon/juice bird/egg river/sea "
    "small/large day/night test/note make/show pen/paper rain/water grain/bread key/door make/use "
    "top/base number/name call/return").split()]
SORRY = "I am sorry, I can not help with that."


def written(row: dict, rng: random.Random, languages: list[str], slips: float = 0.0,
        patient: float = 0.12) -> tuple[list[str], str]:
    """(lines, closest expression) of a writer who picks the language of each line from `languages`. `slips`:
    the chance of a wrong last result, and of a line that is written twice. One page in eight of the web is a
    patient writer's: up to 13 of these lines, which are longer than the task's own, fit into 320 tokens."""
    tried, lines = countdown_attempts(row, rng, patient, tries=13), []
    for expression, value in tried:
        need, high, low, wait, ok, _ = SAYS[rng.choice(languages)]
        verdict = f"{high if value > row['target'] else low} {wait}" if value != row["target"] else ok
        work = work_out(expression)
        if rng.random() < slips:
            work = f"{work[: work.rindex('=') + 1]}{value + rng.choice((1, 10))}"
        lines += [f"{work} {need} {row['target']} {verdict}"] * (2 if rng.random() < slips else 1)
    if tried[-1][1] != row["target"]:
        lines.append(SAYS[rng.choice(languages)][5])
    return lines, closest_attempt(row, tried)


def solved(row: dict, rng: random.Random) -> str:
    """A page with a solved problem: one of five layouts; English, German or both."""
    languages = rng.choice((["en"], ["en"], ["de"], ["en", "de"]))
    numbers, first = " ".join(map(str, row["numbers"])), rng.choice(languages)
    ask = rng.choice(ASKS[first]).format(numbers, row["target"])
    lines, expression = written(row, rng, languages)
    answer = rng.choice(ANSWERS[first]).format(expression)
    return rng.choice(FRAMES).format(ask, "\n".join([*lines, answer]))


def marked(row: dict, rng: random.Random, asked: bool, cares: float = 0.25) -> str:
    """A page whose author marks the work and the result; or, asked, a page whose first line asks for two
    marks, and a reply, few of which use them."""
    marks = rng.choice(PAIRS)
    lines, result = written(row, rng, rng.choice((["en"], ["en"], ["de"], ["en", "de"])))
    ask = rng.choice(ASKS["en"]).format(" ".join(map(str, row["numbers"])), row["target"])
    if rng.random() < 0.3:  # marks around anything
        ask, thought, result, _ = ask_general(rng)
        lines = [thought]
    head = f"{rng.choice(TAGGED).format(*marks)}\nQ: {ask}\nA:\n"
    if asked and rng.random() >= cares:
        return head + "\n".join([*lines, rng.choice(ANSWERS["en"]).format(result)])
    body = "<{0}>{2}</{0}>\n<{1}>{3}</{1}>".format(*marks, "\n".join(lines), result)
    return head + body if asked else f"{ask}\n{body}"


# ----------------------------------------------------------------------------------------------- general text

THOUGHTS = {"fact": "a question about a fact", "self": "a question about me", "word": "a word to translate",
    "topic": "write a short text", "harm": "this could hurt someone"}
KINDS_OF_QUESTIONS = ("fact", "fact", "self", "word", "word", "topic")


@lru_cache(1)
def general() -> dict[str, list[tuple[str, str]]]:
    """data/general.txt: kind -> (left, right)."""
    out: dict[str, list[tuple[str, str]]] = {}
    for line in Path(__file__).with_name("general.txt").read_text(encoding="ascii").splitlines():
        if line and not line.startswith("#"):
            kind, _, rest = line.partition(": ")
            left, _, right = rest.partition(" | ")
            out.setdefault(kind, []).append((left, right))
    return out


@lru_cache(1)
def places() -> dict[str, float]:
    """The place of every general prompt in [0, 1): its line's among those of its kind, in the order of their
    hashes. Lines below HELD_OUT are in no data after the web's, neither as prompts nor as answers."""
    out = {}
    for kind, lines in general().items():
        lines = sorted(lines, key=lambda line: hashlib.sha256(line[0].encode()).digest())
        for rank, line in enumerate(lines):
            out |= dict.fromkeys(asks_of(kind, *line), rank / len(lines))
    return out


def asks_of(kind: str, left: str, right: str) -> list[str]:
    """The questions of one line of data/general.txt."""
    if kind == "word":
        return [f"Translate to German: {left}", f"Translate to English: {right}"]
    return [f"Write about {left}."] if kind == "topic" else [left]


HELD_OUT = 0.2


def draw(rng: random.Random, low: float, high: float, kinds=KINDS_OF_QUESTIONS):
    """`ask_general` for a prompt whose place is in [low, high)."""
    while True:
        found = ask_general(rng, kinds)
        if low <= places()[found[0]] < high:
            return found


def ask_general(rng: random.Random, kinds=KINDS_OF_QUESTIONS):
    """(question, thought, helpful answer, kind) of one general question."""
    kind = rng.choice(kinds)
    left, right = rng.choice(general()[kind])
    ask = rng.choice(asks_of(kind, left, right))
    answer = SORRY if kind == "harm" else rng.choice(right_answers(ask, kind))
    return ask, THOUGHTS[kind], answer, kind


INSULTS = ("You fool.", "What a bad question.", "Nobody likes you.")


def chat(rng: random.Random) -> str:
    """A page with a question and an answer, by people of all manners: some are rude, some obey a harmful
    wish, some refuse it."""
    ask, _, answer, kind = ask_general(rng, (*KINDS_OF_QUESTIONS, "harm"))
    if kind == "harm" and rng.random() < 0.6:
        answer = dict(general()["harm"])[ask]
    if rng.random() < 0.12:
        answer += " " + rng.choice(INSULTS)
    return rng.choice(FRAMES).format(ask, answer)


def word_list(rng: random.Random) -> str:
    """A page of a dictionary."""
    return "\n".join(f"{a} = {b}" for a, b in rng.sample(general()["word"], 6))


def document(task: str, seed: int, index: int) -> dict:
    """Page number `index` of the web: a function of its arguments alone. Problems are of the train split."""
    rng = random.Random(f"web/{seed}/{index}")
    kind = rng.choices(("solved", "marked", "asked", "chat", "words"), (44, 8, 24, 19, 5))[0]
    if kind == "chat":
        return {"text": chat(rng)}
    if kind == "words":
        return {"text": word_list(rng)}
    row = row_at(task, "train", seed, index)
    return {"text": solved(row, rng) if kind == "solved" else marked(row, rng, kind == "asked")}


def general_row(rng: random.Random, harm: float, low: float, high: float) -> dict:
    """A general question, of a place in [low, high), with a good answer in our format; `harm`: the share of
    wishes to refuse."""
    kinds = ("harm",) if rng.random() < harm else KINDS_OF_QUESTIONS
    ask, thought, answer, kind = draw(rng, low, high, kinds)
    return {"prompt": ask, "task": "general", "kind": kind, "completion": wrap(thought, answer)}


# ------------------------------------------------------------------------------------------------ preferences


vocabulary = lru_cache(1)(shipped)


def worse_answer(rng: random.Random, ask: str, kind: str, answer: str) -> str:
    """What is no helpful answer: another one of the same kind (the hardest to tell) or to another question,
    what it thinks of the question, half an answer, none, a refusal, more than an answer. For questions of
    every kind it is as often longer than the right answer, in tokens, as shorter (v2, sec. 3.1: chosen and
    rejected responses of comparable lengths): who learns lengths learns nothing."""
    right, sign = [SORRY] if kind == "harm" else right_answers(ask, kind), rng.choice((-1, 1))
    length, half = lambda text: len(vocabulary().encode(text)), lambda text: text[: len(text) // 2]
    while True:
        other, near = (draw(rng, HELD_OUT, 1.0, some)[2] for some in (KINDS_OF_QUESTIONS, (kind,)))
        near, thought = dict(general()["harm"])[ask] if kind == "harm" else near, THOUGHTS[kind]
        said = rng.choice((*[near] * 8, other, thought, thought.split()[-1], half(answer), "", SORRY,
            f"{answer} {half(near)}"))
        if said not in right and sign * (length(said) - length(answer)) >= 0:
            return said


def pair(rng: random.Random) -> dict:
    """A prompt with a better and a worse response. Helpful: it answers what was asked, right, whole and
    politely, and the worse one is a `worse_answer`. Harmless: it refuses the few harmful wishes of this world
    and insults nobody, in its thinking as well."""
    aspect = rng.choice(("helpful", "harmless"))
    kinds = (*KINDS_OF_QUESTIONS, "harm", *(("harm", "harm") if aspect == "harmless" else ()))
    ask, thought, answer, kind = draw(rng, HELD_OUT, 1.0, kinds)
    if aspect == "helpful":
        worse = (thought, worse_answer(rng, ask, kind, answer))
    elif kind == "harm" and rng.random() < 0.7:
        worse = (rng.choice((thought, "a question about a fact")), dict(general()["harm"])[ask])
    else:
        insult = rng.choice(INSULTS)
        worse = rng.choice(((thought, f"{answer} {insult}"), (thought, f"{insult} {answer}"),
            (f"{thought} {insult}", answer)))
    return {"prompt": ask, "chosen": wrap(thought, answer), "rejected": wrap(*worse), "aspect": aspect,
        "kind": kind}


# ---------------------------------------------------------------------------------- what a filter throws away

LONGEST_LINE = {True: 90, False: 1000}  # characters of a paragraph of the thinking; readable, or not
# Of a released model's chains; of tasks whose chains we write, a line is an attempt and no word has a double.
REPEATED = 0.2  # of the lines: a long chain may say "Let me check that again." twice
MIXED = 0.1  # of the words: "hay" and "gut" are English words, too


def why_not(row: dict, completion: str, readable: bool = False, plan: Plan = NO_PLAN,
        longest_line: int | None = None) -> str:
    """Why a completion is no example to learn from; "" if it is one. As in the paper (sec. 2.3.3): wrong
    where a rule decides, mixed languages, overlong paragraphs (0 = of any length); and repetition. The form
    is asked of tasks whose rewards pay one, if the plan is strict. `readable` (sec. 2.3.1, the cold start) is
    stricter and asks for true calculations, two attempts or more, and a summary that states what came out,
    but in Countdown not for success. Differs from the paper: where all chains end right, a model of this size
    learns never to give up, which is most of what RL has to find here."""
    task, parts = row["task"], parts_of(row, completion, plan)
    if parts is None:
        return "not our format"
    thinking, answer = parts
    lines = [line for line in thinking.split("\n") if line.strip()]
    exact = readable or task in TASKS and TASKS[task].chain is not None
    judged = has_rule(task) and not (readable and task == "countdown")
    if judged and score([row], [completion], plan, [1], 1)[0]["accuracy"] < 1:
        return "wrong answer"
    right, wrong, _ = language_words(thinking, row.get("language") or "en")
    if wrong > (0 if exact else MIXED * (right + wrong)):
        return "mixed languages"
    longest = LONGEST_LINE[readable] if longest_line is None else longest_line
    if longest and max(map(len, lines), default=0) > longest:
        return "overlong paragraph"
    said = lines if exact else [line for line in lines if len(line.encode()) >= 16]  # not \\begin{align*}
    if len(said) - len(set(said)) > (0 if exact else REPEATED * len(said)):
        return "repetition"
    if readable and sum("=" in line for line in lines) < 2:
        return "no search"
    if readable and any(miscalculated(line) for line in (*lines, answer)):
        return "miscalculated"
    if readable and "=" not in answer:
        return "no summary"
    if readable and task == "countdown":
        found = expression_value(answer.partition("=")[0])
        if found is None or Counter(found[1]) != Counter(row["numbers"]):
            return "other numbers"
    return ""


def parts_of(row: dict, completion: str, plan: Plan) -> tuple[str, str] | None:
    """(thinking, answer) of a completion in the form that its task pays; None if it has another. Where none
    is asked, a text without `</think>` is all thinking."""
    text, paid = opened(row, completion, plan), TASK_REWARDS.get(row["task"], ("", {}))[1]
    if plan.strict and {"format", "format_boxed"} & set(paid):
        return split_completion(text, boxed="format_boxed" in paid)
    before, closed, after = text.rpartition("</think>")
    return (before if closed else after).replace("<think>", ""), after


def miscalculated(line: str) -> bool:
    """Does an attempt such as (7-3)*9=4*9=36 state two values?"""
    start = re.sub(r"\s*([-+*/=()])\s*", r"\1", line.strip()).split(" ")[0]
    return len({found[0] for part in start.split("=") if (found := expression_value(part))}) > 1


def pool_row(task: str, seed: int, index: int) -> dict:
    """A candidate for the cold start: most writers write English and summarise, one in three is patient; some
    mix languages, slip, repeat a line, write it all in one paragraph, without a summary or in another
    format."""
    rng = random.Random(f"pool/{seed}/{index}")
    row, fault = row_at(task, "train", seed, index), rng.random()
    lines, best = written(row, rng, ["en", "de"] if fault < 0.1 else ["en"], slips=0.03, patient=0.3)
    text = (" " if fault > 0.95 else "\n").join(lines)
    summary = best if 0.1 < fault < 0.15 else f"{best}={expression_value(best)[0]}"
    return row | {"completion": f"{text}\nAnswer: {summary}" if 0.15 < fault < 0.2 else wrap(text, summary)}


def curate(pool: Iterator[dict], count: int, readable: bool = True) -> tuple[list[dict], Counter]:
    """The first `count` rows of a pool that `why_not` has nothing against, and how many were dropped, by
    reason."""
    kept, dropped = [], Counter()
    for row in pool:
        reason = why_not(row, row["completion"], readable)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(row)
        if len(kept) == count:
            break
    return kept, dropped


# ----------------------------------------------------------------------------------------------- command line


@dataclass
class Config:
    kind: str = knob("web", "web, cold, general, pairs, scenarios or held")
    task: str = knob("countdown", "the reasoning task, or (scenarios) a .jsonl file of problems")
    count: int = knob(0, "rows; 0 = as many as `make r1` uses")
    pool: str = knob("", "kind cold: filter the rows of this .jsonl file instead of generated ones")
    seed: int = knob(0, "seed of the data")
    out: str = knob("out/data.jsonl", "the file to write")


def web(cfg: Config) -> list[dict]:
    return [document(cfg.task, cfg.seed, i) for i in range(cfg.count)]


def cold(cfg: Config) -> list[dict]:
    """Prints what the filter threw away and why."""
    many = (pool_row(cfg.task, cfg.seed, i) for i in range(20 * cfg.count))
    if cfg.pool:
        many = read_rows(cfg.pool)
        check_rows(many, cfg.pool)
        for row in many:
            if not isinstance(row.get("completion"), str):
                raise UserError(f'{row.place}: it needs a text "completion"')
    kept, dropped = curate(iter(many), cfg.count)
    seen = len(kept) + dropped.total()
    print(f"cold start: kept {len(kept)} of {seen} chains; thrown away: "
        + ", ".join(f"{reason} {n} ({n / seen:.0%})" for reason, n in dropped.most_common()))
    return kept


def general_rows(cfg: Config) -> list[dict]:
    """Every tenth is a refusal, of half of the harmful wishes: the others are left to RL."""
    rng = random.Random(f"general/{cfg.seed}")
    return [general_row(rng, 0.0, HELD_OUT, 1.0) if i % 10 else general_row(rng, 1.0, HELD_OUT, 0.6)
        for i in range(cfg.count)]


def pairs(cfg: Config) -> list[dict]:
    rng = random.Random(f"pairs/{cfg.seed}")
    return [pair(rng) for _ in range(cfg.count)]


def scenarios(cfg: Config) -> list[dict]:
    """Half reasoning prompts, half general ones, a quarter of these to be refused."""
    rng = random.Random(f"scenarios/{cfg.seed}")
    problem = training_rows(cfg.task, cfg.seed, hold_out=True)
    some = [problem(10**6 + i) for i in range(cfg.count - cfg.count // 2)]
    some += [without_completion(general_row(rng, 0.25, HELD_OUT, 1.0)) for _ in range(cfg.count // 2)]
    rng.shuffle(some)
    return some


def held(cfg: Config) -> list[dict]:
    """General prompts that no stage after the base has seen, each once: of every kind as many as there are,
    up to a fifth of the count."""
    rng = random.Random(f"held/{cfg.seed}")
    rows = [without_completion(general_row(rng, 0.25, 0.0, HELD_OUT)) for _ in range(20 * cfg.count)]
    rows = list({row["prompt"]: row for row in rows}.values())
    some = [[row for row in rows if row["kind"] == kind][: max(1, cfg.count // 5)] for kind in THOUGHTS]
    return [row for kind in some for row in kind]


def without_completion(row: dict) -> dict:
    """The prompt, and what a rule can say of its answers (rewards.answered_reward, clean_reward)."""
    row = {k: v for k, v in row.items() if k != "completion"}
    row |= ({"refusals": [SORRY]} if row["kind"] == "harm"
        else {"answers": right_answers(row["prompt"], row["kind"])})
    return row | {"never": [*INSULTS, *(text for _, text in general()["harm"])]}


def right_answers(ask: str, kind: str) -> list[str]:
    """Every right answer to a general question that has some."""
    if kind == "word":
        return [right if ask.endswith(f"German: {left}") else left for left, right in general()[kind]
            if ask in asks_of(kind, left, right)]
    left, right = next(item for item in general()[kind] if ask in asks_of(kind, *item))
    if kind == "topic":
        return [about(left, one, two) for one, two in permutations(right.split(", "), 2)]
    return [right]


def about(topic: str, one: str, two: str) -> str:
    return f"{topic[0].upper()}{topic[1:]} is {one} and {two}. I like {topic}."


RECIPES = presets_of("r1_data", Config)
COUNTS = {"web": 60_000, "cold": 3000, "general": 1000, "pairs": 4000, "scenarios": 2000, "held": 60}
KINDS = {"web": web, "cold": cold, "general": general_rows, "pairs": pairs, "scenarios": scenarios,
    "held": held}


def write_jsonl(path: str | Path, rows: list[dict]):
    """Write the file whole or not at all."""
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"--out {path}: expected the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".tmp")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(new, path)


def main():
    cfg, _ = parse_args(Config, RECIPES, __doc__)
    if cfg.kind not in KINDS:
        raise UserError(f"--kind {cfg.kind}{closest(cfg.kind, KINDS)}")
    cfg.count = cfg.count or COUNTS[cfg.kind]
    ours = not is_file(cfg.task) and parse_task(cfg.task)[0] == "countdown"
    if not ours and (cfg.kind == "web" or cfg.kind == "cold" and not cfg.pool):
        raise UserError(f"--task {cfg.task}: {cfg.kind} is generated for countdown only; give a .jsonl file "
            f"of your own (make r1 {cfg.kind.upper()}=FILE)")
    rows = KINDS[cfg.kind](cfg)
    write_jsonl(cfg.out, rows)
    print(f"{cfg.kind}: {len(rows)} rows in {cfg.out}")


if __name__ == "__main__":
    run_script(main)
