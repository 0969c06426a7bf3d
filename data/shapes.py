"""Rows of data as people have them: files and folders in, rows {"prompt": str, "task": str, ...columns} out.

    read_rows("gsm8k_test.jsonl")                                # the shape is recognised by its columns
    read_rows("mine.json.gz", "prompt=ask,answer=reply", "#### (.*)")    # all others: --columns

A file is JSON lines or an array of objects (either may be called .jsonl or .json), also gzipped; parquet
where pyarrow is installed; a folder that the datasets library saved, where that is. Each row says which
rewards judge it ("task") and where it is from (`Row.place`). What cannot be read is refused with its file and
line, before anything is trained. A new shape = one function, one row in SHAPES, one test.
"""

import gzip
import importlib.util
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from config import UserError, closest, read_json, say, typed
from data.rows import ASPECTS, whole_numbers
from verify.forms import last_box

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
# What a column of these names means here. A public row's own column of such a name is left out where its
# shape does not read it: a "language" that is Python is no language of words, "messages" can hold the answer.
RESERVED = set("prompt task text messages completion solution chosen rejected aspect answer answers never "
    "refusals numbers target ops limit tests timeout memory_mb tolerance language".split())


class Row(dict):
    """A row of data that knows where it is from, such as rows.jsonl:12."""

    place = ""


def is_file(spec: str) -> bool:
    """Does --task name a file or a folder of data? Else it is a task to be generated, whatever folders there
    are."""
    folder = os.path.isdir(spec) and ("/" in spec or (Path(spec) / "state.json").exists())
    return spec.endswith(SUFFIXES) or folder


def nothing_to_read(spec: str, columns: str | None, answer_pattern: str | None):
    """Raises UserError for --columns or --answer_pattern with a task that is no file."""
    if columns or answer_pattern:
        raise UserError(f"--columns and --answer_pattern read a file; {spec} is none")


# ------------------------------------------------------------------------------------------ files and folders


def from_json(path: str) -> Iterator[tuple[str, object]]:
    """(place, object) of each line, or of each item of an array."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as f:
        first = next((line for line in f if line.strip()), "")
        f.seek(0)
        if first.lstrip().startswith("["):
            found = parsed(f.read(), path)
            yield from ((f"{path}: row {number}", item) for number, item in enumerate(found, 1))
            return
        for number, line in enumerate(f, 1):
            if line.strip():
                yield f"{path}:{number}", parsed(line, path, number)


def parsed(text: str, path: str, line: int = 1) -> object:
    """The value of a JSON text that begins in that line of a file. Raises UserError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also for integers beyond 4,300 digits
        line += getattr(error, "lineno", 1) - 1
        why = getattr(error, "msg", str(error).partition(";")[0])
        raise UserError(f"{path}:{line}: not valid JSON: {why}") from None


def from_parquet(path: str) -> Iterator[tuple[str, object]]:
    needs("pyarrow", path)
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        rows = read_table(path).to_pylist()
    except ArrowException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    return numbered(path, rows)


def numbered(path: str, rows: list[dict]) -> Iterator[tuple[str, object]]:
    """Rows with their places; what JSON does not have, such as a date, as text: rows are written again."""
    return ((f"{path}: row {number}", json.loads(json.dumps(row, default=str)))
        for number, row in enumerate(rows, 1))


def from_folder(path: str) -> Iterator[tuple[str, object]]:
    """A folder of `Dataset.save_to_disk`; of a DatasetDict, one of its splits."""
    if (Path(path) / "dataset_dict.json").exists():
        splits = typed(read_json(Path(path) / "dataset_dict.json"), "splits", list, path) or []
        raise UserError(f"{path} holds several splits: give {' or '.join(f'{path}/{s}' for s in splits)}")
    if not (Path(path) / "state.json").exists():
        near = [*Path(path).glob("*"), *Path(path).glob("*/*")]  # not all that lies in a large folder
        files = sorted(str(p) for p in near if p.name.endswith(SUFFIXES))[:5]
        raise UserError(f"{path} was not saved by the datasets library (no state.json)"
            + (f"; give one of its files: {', '.join(files)}" if files else ""))
    if odd := [p for p in Path(path).glob("*") if p.exists() and not (p.is_file() or p.is_dir())]:
        raise UserError(f"{odd[0]} is a pipe or a device, no file")
    needs("datasets", path)
    from datasets import load_from_disk

    try:
        saved = load_from_disk(path)
        saved.data.validate(full=True)  # else a damaged file's offsets can lead out of memory: a crash
        rows = saved.to_list()
    except Exception as error:  # the library trusts its files: a damaged one is any error
        raise UserError(f"{path} is damaged, or not saved by the datasets library: {error}") from None
    return numbered(path, rows)


def needs(library: str, path: str):
    if importlib.util.find_spec(library) is None:
        raise UserError(f"{path} needs the library {library}: pip install {library}")


# ---------------------------------------------------------------------------------------------- conversations


def content_of(message: object) -> str:
    """The text of a message {"role", "content"}; of content in parts, if all of them are text."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
            raise ValueError("a message has parts that are no text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not isinstance(message.get("role"), str):
        raise ValueError('a message needs the texts "role" and "content"')
    return content


def messages_of(value: object, name: str) -> list[dict[str, str]]:
    """A conversation as messages {"role", "content"}: a text is the user's."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f'"{name}" must be a text or a list of messages')
    return [{"role": m["role"], "content": text} for m in value for text in [content_of(m)]]


def asked(messages: list[dict[str, str]]) -> dict:
    """The columns of a prompt that is a conversation: "prompt" as one text, for templates that are texts, and
    "messages", unless it is a single text of the user."""
    if messages[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant's message; nothing is left to answer")
    contents = [m["content"] for m in messages]
    if sum(m["role"] != "system" for m in messages) == 1:
        text = "\n\n".join(contents)
    else:
        text = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages)
    return {"prompt": text} | ({"messages": messages} if len(messages) > 1 else {})


def reply_of(value: object, name: str) -> tuple[list[dict[str, str]], str]:
    """(what comes before, the text) of a reply: a text, or messages of which the last is the reply."""
    if isinstance(value, str):
        return [], value
    messages = messages_of(value, name)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f'"{name}" must end with a message of the assistant')
    return messages[:-1], messages[-1]["content"]


# ----------------------------------------------------------------------------------------- the shapes of rows

# Names of columns, as they are published; the first one that a row has counts.
ASK, GOLD = "problem|question|prompt|query", "answer|final_answer|ground_truth|expected_answer"
REPLY, SYSTEM = "completion|response", "system|system_prompt"


def pick(row: dict, names: str) -> object:
    """The first of these columns that a row has."""
    return row[name] if (name := name_of(row, names)) else None


def name_of(row: dict, names: str) -> str:
    return next((name for name in names.split("|") if row.get(name) is not None), "")


def question_of(row: dict) -> dict:
    messages = messages_of(pick(row, ASK), name_of(row, ASK))
    if messages[0]["role"] != "system" and isinstance(system := pick(row, SYSTEM), str) and system:
        messages = [{"role": "system", "content": system}, *messages]
    return asked(messages)


def boxed(text: str) -> str:
    """What the last \\boxed{...} holds. Raises ValueError without one."""
    if (found := last_box(text)) is None:
        raise ValueError(r"no \boxed{...} in its solution, or one that is never closed")
    return found


def gsm8k(row: dict) -> dict:
    chain, mark, gold = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("no #### in its answer")
    return question_of(row) | {"task": "math", "answer": gold.strip(),
        "solution": re.sub(r"<<.*?>>", "", chain).strip()}  # its calculator's notes


def with_answer(row: dict) -> dict:
    made = question_of(row) | {"task": "math", "answer": pick(row, GOLD)}
    made |= {"solution": row["solution"]} if isinstance(row.get("solution"), str) else {}
    if row.get("messages"):  # open-r1: a chain for sft.py beside the answer for grpo.py
        made["completion"] = reply_of(row["messages"], "messages")[1]
    return made


def with_solution(row: dict) -> dict:
    return with_answer(row | {"answer": boxed(row["solution"])})


def chat_with_solution(row: dict) -> dict:
    gold = row["solution"]
    return question_of(row) | {"task": "math", "answer": boxed(gold) if r"\boxed" in gold else gold}


def verl(row: dict) -> dict:
    truth = row["reward_model"].get("ground_truth")
    if isinstance(truth, dict) and {"target", "numbers"} <= set(truth):
        return question_of(row) | {"task": "countdown", "numbers": list(truth["numbers"]),
            "target": truth["target"]}
    if truth is None:
        raise ValueError('no "ground_truth" in its reward_model')
    if row.get("ability") == "code":
        return question_of(row) | {"task": "code", "tests": tests_of(truth)}
    return question_of(row) | {"task": "math", "answer": truth}


def countdown(row: dict) -> dict:
    numbers = whole_numbers(row["nums"])
    return {"prompt": f"Use {' '.join(map(str, numbers))} to make {row['target']}.", "task": "countdown",
        "numbers": numbers, "target": row["target"]}


def humaneval(row: dict) -> dict:
    return {"prompt": "Complete this Python function. Answer with the whole program.\n\n" + row["prompt"],
        "task": "code", "tests": [f"{row['test']}\ncheck({row['entry_point']})"]}


def mbpp(row: dict) -> dict:
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    tests, ask = row["test_list"], pick(row, "text|prompt")
    if not isinstance(tests, list):
        raise ValueError('"test_list" must be a list of tests')
    return {"prompt": "\n".join([f"{ask}\nYour program should pass these tests:", *tests]), "task": "code",
        "tests": [f"{setup}\n{test}" if setup else test for test in tests]}


def apps(row: dict) -> dict | list:
    """No row where the problem has no tests, as some of APPS."""
    tests = tests_of(row["input_output"])
    ask = row["question"] + (f"\n\n{row['starter_code']}" if row.get("starter_code") else "")
    return {"prompt": ask, "task": "code", "tests": tests} if tests else []


def tests_of(found: object) -> list:
    """Tests of {"inputs": [...], "outputs": [...], "fn_name"}, or of the JSON text of that."""
    found = json.loads(found or "{}") if isinstance(found, str) else found
    tests = list(zip(found.get("inputs") or [], found.get("outputs") or [], strict=True))
    if name := found.get("fn_name"):
        return [called(name, args, want) for args, want in tests]
    return [{"input": lines(given), "output": lines(want)} for given, want in tests]


def called(name: str, args: list, want: object) -> str:
    """A test of a function, or of a method of `Solution`; APPS wraps some of the results in a list."""
    wants = [want, want[0]] if isinstance(want, list) and want else [want]
    return (f"try:\n    tested = Solution().{name}\nexcept NameError:\n    tested = {name}\n"
        f"assert tested(*{args!r}) in {wants!r}")


def lines(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def alpaca(row: dict) -> dict:
    more = pick(row, "input|context")
    return completed({"prompt": row["instruction"] + (f"\n\n{more}" if more else ""),
        "completion": pick(row, "output|response")})


def sharegpt(row: dict) -> list[dict]:
    roles = {"human": "user", "gpt": "assistant"} | {who: who for who in ("user", "assistant", "system")}
    turns = [{"from": pick(t, "from|role"), "value": pick(t, "value|content")} for t in row["conversations"]]
    if unknown := [t["from"] for t in turns if t["from"] not in roles]:
        raise ValueError(f"a turn is from {unknown[0]!r}; known are {', '.join(roles)}")
    said = pick(row, SYSTEM) if turns and turns[0]["from"] != "system" else None
    system = [{"from": "system", "value": said}] if said else []
    return conversation({"messages": [{"role": roles[t["from"]], "content": t["value"]}
        for t in system + turns]})


def conversation(row: dict) -> list[dict]:
    """A row for each reply of the assistant, with what was said before it."""
    messages = messages_of(row["messages"], "messages")
    replies = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i]
    if not replies:
        raise ValueError("no message of the assistant answers another one")
    return [asked(messages[:i]) | {"task": "general", "completion": messages[i]["content"]} for i in replies]


def completed(row: dict) -> dict:
    before, reply = reply_of(pick(row, REPLY), name_of(row, REPLY))
    if before:
        raise ValueError("its prompt must not stand in front of its completion as well")
    return question_of(row) | {"task": "general", "completion": reply}


def pair(row: dict) -> dict:
    """Of texts, or of messages; the prompt may stand in "prompt", before both replies, or in both places."""
    (before, chosen), (other, rejected) = (reply_of(hh_turns(row[k]) if "prompt" not in row else row[k], k)
        for k in ("chosen", "rejected"))
    if before != other:
        raise ValueError('"chosen" and "rejected" answer different prompts')
    if not before and pick(row, "prompt") is None:
        raise ValueError('no "prompt", and none before its replies')
    made = asked(before or messages_of(row["prompt"], "prompt"))
    if row.get("aspect") is not None:
        if row["aspect"] not in ASPECTS:
            raise ValueError(f'its "aspect" is {" or ".join(ASPECTS)}, not {row["aspect"]!r}')
        made["aspect"] = row["aspect"]
    return made | {"task": "pair", "chosen": chosen, "rejected": rejected}


def hh_turns(value: object) -> object:
    """A dialogue "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf) as messages."""
    if not isinstance(value, str):
        return value
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", value)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": text.strip()} for who, text in
        zip(parts[::2], parts[1::2], strict=True)] or value


def own(row: dict) -> dict:
    """A row of our own: a document {"text"}, a pair, or {"prompt", "task", ...columns}."""
    if isinstance(row.get("text"), str) and "prompt" not in row:
        made = {"prompt": "", "task": "text"} | row
        return made if isinstance(made["task"], str) else made | {"task": "text"}
    if row.get("chosen") is not None or row.get("rejected") is not None:
        if lacking := [k for k in ("chosen", "rejected") if row.get(k) is None]:
            raise ValueError(f'a pair needs "{lacking[0]}"')
        return row | pair(row) | ({"task": row["task"]} if isinstance(row.get("task"), str) else {})
    if row.get("prompt") is None:
        raise ValueError('a row needs a "prompt", a text or a list of messages')
    made = row | asked(messages_of(row["prompt"], "prompt"))
    said = row.get("messages")  # our own, of a prompt; where the assistant has the last word it is no prompt
    if said is not None and isinstance(row["prompt"], str):
        if messages_of(said, "messages")[-1]["role"] == "assistant":
            del made["messages"]
    if not isinstance(row.get("task"), str):
        raise ValueError('a row needs a string "task", such as "countdown"')
    if row.get("completion") is not None:
        made["completion"] = reply_of(row["completion"], "completion")[1]
    return made


def unpaired(row: dict) -> dict | list:
    """TRL's unpaired preferences: no row where the completion is not wanted."""
    return completed(row) if row["label"] else []


class Shape(NamedTuple):
    """A row of SHAPES: who publishes such rows, and how they are read."""

    name: str
    columns: str  # that it needs; a|b = one of them
    says: str  # what is read from where
    read: Callable[[dict], dict | list[dict]]  # one row, or several. Raises ValueError for a broken one
    when: Callable[[dict], bool] = lambda row: True  # of the first row: what columns alone do not tell
    without: str = ""  # which rows are left out, and counted


# The first that fits the first row is the file's. More columns before fewer.
SHAPES: list[Shape] = [
    Shape("picoR1", "prompt task", "prompt, task and the columns of its rewards", own,
        lambda row: isinstance(row["task"], str)),
    Shape("HumanEval", "prompt entry_point test", "prompt; test with check(entry_point)", humaneval),
    Shape("MBPP", "text|prompt code test_list", "text; test_list, with test_setup_code before each", mbpp),
    Shape("APPS", "question input_output", "question; the tests of input_output", apps,
        without="without tests"),
    Shape("Countdown-Tasks", "nums target", "nums, target", countdown),
    Shape("preference", "chosen rejected", "prompt, chosen, rejected, as texts or messages", pair),
    Shape("verl", "prompt reward_model", "prompt; reward_model.ground_truth", verl,
        lambda row: isinstance(row["reward_model"], dict)),
    Shape("GSM8K", "question answer", "question, answer after ####", gsm8k,
        lambda row: "####" in str(row["answer"])),
    Shape("problem and answer", f"{ASK} {GOLD}", "{ask}, {gold}", with_answer),
    Shape("chat prompt with solution", "prompt solution", "prompt, solution (what is boxed in it, or all)",
        chat_with_solution),
    Shape("MATH", f"{ASK} solution", "{ask}; the last boxed value of its solution", with_solution),
    Shape("unpaired preference", "prompt completion label", "prompt, completion", unpaired,
        lambda row: isinstance(row["label"], bool), without="whose label is false"),
    Shape("alpaca", "instruction output|response", "instruction, input, output", alpaca),
    Shape("prompt and completion", f"{ASK} {REPLY}", "{ask}, {reply}, as texts or messages", completed),
    Shape("ShareGPT", "conversations", "each reply of gpt in its conversation", sharegpt),
    Shape("chat", "messages", "each reply of the assistant in its messages", conversation),
    Shape("documents", "text", "text", own),
]


def lacks(row: dict, columns: str) -> list[str]:
    return [names for names in columns.split() if pick(row, names) is None]


def shape_of(row: dict) -> Shape | None:
    """The shape of a file's first row."""
    return next((shape for shape in SHAPES if not lacks(row, shape.columns) and shape.when(row)), None)


def no_shape(row: dict, place: str):
    """Raises UserError, for a row that has none of SHAPES."""
    if "prompt" in row:
        raise UserError(f'{place}: a row needs a string "task", such as "countdown", or --columns')
    raise UserError(f"{place}: columns {', '.join(map(str, row))} are none of the known shapes (a row of our "
        'own is {"prompt", "task", ...}); name them: --columns prompt=NAME,answer=NAME')


def mapped(columns: str, answer_pattern: str) -> Shape:
    """The shape that --columns and --answer_pattern describe. Raises UserError."""
    pairs = dict(part.partition("=")[::2] for part in map(str.strip, columns.split(",")) if part)
    if "" in pairs or "" in pairs.values():
        raise UserError(f"--columns {columns}: expected ours=theirs, such as prompt=question,answer=answer")
    if unknown := set(pairs) - RESERVED:
        name = min(unknown)
        raise UserError(f"--columns {columns}: {name} means nothing here{closest(name, sorted(RESERVED))}")
    if answer_pattern and "answer" not in pairs:
        raise UserError("--answer_pattern reads the answer's column: give --columns answer=NAME as well")
    try:
        pattern = re.compile(answer_pattern, re.DOTALL if r"\n" in answer_pattern else 0)
    except re.error as error:
        raise UserError(f"--answer_pattern {answer_pattern}: {error}") from None
    task = pairs.pop("task", "")

    def read(row: dict) -> dict:
        made = {k: v for k, v in row.items() if k not in ("messages", "language")}  # see RESERVED
        made |= {ours: inside(row, theirs) for ours, theirs in pairs.items()}
        if answer_pattern:
            found = [m for m in pattern.finditer(str(made["answer"])) if m[pattern.groups and 1] is not None]
            if not found:
                raise ValueError(f"--answer_pattern is nowhere in {str(made['answer'])[:60]!r}")
            made["answer"] = found[-1][pattern.groups and 1].strip()
        made["task"] = row[task] if task in row else task or guessed_task(made)
        return own(made)

    return Shape("mapped", "", columns, read)


def inside(row: dict, path: str) -> object:
    """A column, or with points what stands inside of it: reward_model.ground_truth."""
    value = row
    for name in [path] if path in row else path.split("."):
        if not isinstance(value, dict) or value.get(name) is None:
            raise ValueError(f"no column {path}" + closest(path, list(map(str, row))))
        value = value[name]
    return value


def guessed_task(row: dict) -> str:
    """The task of a row that names none, by its columns."""
    for columns, task in (("numbers target", "countdown"), ("tests", "code"), ("answer", "math"),
            ("completion", "general"), ("chosen", "pair"), ("text", "text")):
        if not lacks(row, columns):
            return task
    raise ValueError("its columns tell no task; add one to --columns, such as task=math")


@lru_cache(8)
def _read(path: str, columns: str, answer_pattern: str, broken: str, changed: float) -> list[Row]:
    reader = from_folder if os.path.isdir(path) else from_parquet if path.endswith("parquet") else from_json
    shape, says = mapped(columns, answer_pattern) if columns or answer_pattern else None, columns
    rows, read, left_out, errors, lower = [], 0, 0, [], False
    for place, raw in reader(path):
        if not isinstance(raw, dict):
            raise UserError(f"{place}: a row must be an object with columns, not {str(raw)[:40]}")
        lower = lower or shape is None and shape_of(raw) is None  # AIME has Problem and Answer
        raw = {str(k).lower(): v for k, v in raw.items()} if lower else raw
        if shape is None:
            shape = shape_of(raw) or no_shape(raw, place)
            says = shape.says.format(ask=name_of(raw, ASK), gold=name_of(raw, GOLD),
                reply=name_of(raw, REPLY))
        read += 1
        try:
            if absent := lacks(raw, shape.columns):
                raise ValueError(f'"{absent[0]}" is missing, or null')
            found = shape.read(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            errors.append(f"{place}: not a row of the shape {shape.name} ({says}): {error}")
            if broken == "error":
                raise UserError(errors[0]) from None
            continue
        public = shape.read is not own and shape.name != "mapped"
        rest = {k: v for k, v in raw.items() if k not in RESERVED} if public else {}
        for made in found if isinstance(found, list) else [found]:
            row = Row({k: v for k, v in (rest | made).items() if v is not None})
            row.place = place
            rows.append(row)
        left_out += found == []
    if not rows:
        raise UserError(f"{path}: no rows" + (f" that can be read; {errors[0]}" if errors else ""))
    if shape.read is not own or errors:
        more = f", {len(rows):,} made of them" if len(rows) != read - left_out - len(errors) else ""
        more += f"; {left_out:,} {shape.without} are left out" if left_out else ""
        more += f"; --broken drop: {len(errors):,} are left out, such as {errors[0]}" if errors else ""
        say(f"{path}: {read:,} {shape.name} rows: {says}{more}")
    return rows


def read_rows(path: str, columns: str = "", answer_pattern: str = "", broken: str = "error") -> list[Row]:
    """The rows of a file or folder, read once. columns: "prompt=question,answer=answer" (ours=theirs; task= a
    column of theirs or the name of a task) for a shape that SHAPES does not have. answer_pattern: a regular
    expression; its last match, or that of its group, is the answer. broken: "drop" leaves out, and counts,
    rows that are not of the file's shape. Raises UserError with file and line of the first row that cannot be
    read."""
    if not is_file(path):
        raise UserError(f"{path}: expected a file ({', '.join(SUFFIXES)}) or a folder of datasets")
    if broken not in ("error", "drop"):
        raise UserError(f"--broken {broken}: expected error or drop")
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"{path} is a pipe or a device, no file")
    try:
        return _read(path, columns, answer_pattern, broken, os.stat(path).st_mtime)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
