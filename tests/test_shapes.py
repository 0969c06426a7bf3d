"""Rows of data as people have them: every public shape, every kind of file, what is refused and where."""

import gzip
import json
import os

import pytest

from config import UserError
from data.rows import as_text, fitting, refuse_leaks, whole_number, whole_numbers
from data.shapes import (
    SHAPES,
    boxed,
    is_file,
    read_rows,
    shape_of,
)
from data.tasks import chain_for, split_rows
from rewards import Plan, check_rows, score
from verify.sandbox import run_tests


def said(*messages):
    return [{"role": role, "content": text} for role, text in messages]


USER, HELLO = ("user", "Hi?"), ("assistant", "Hello.")
# (a row as it is published, its shape, what is read of it)
PUBLIC = {
    "GSM8K": ({"question": "2 eggs and 3?", "answer": "2+3=<<2+3=5>>5 eggs.\n#### 5"}, "GSM8K",
        {"prompt": "2 eggs and 3?", "task": "math", "answer": "5", "solution": "2+3=5 eggs."}),
    "MATH": ({"problem": "1/2+1/2?", "level": "Level 1", "type": "Algebra",
            "solution": r"It is $\boxed{\frac{2}{2}} = \boxed{1}$."}, "MATH",
        {"prompt": "1/2+1/2?", "task": "math", "answer": "1", "level": "Level 1"}),
    "MATH-500": ({"problem": "6*7?", "solution": r"$\boxed{42}$", "answer": "42", "subject": "Algebra",
        "level": 1, "unique_id": "test/1"}, "problem and answer", {"prompt": "6*7?", "answer": "42", "level":
        1}),
    "AIME": ({"id": 60, "problem": "p", "solution": "s", "answer": "204", "url": "u", "year": "2024"},
        "problem and answer", {"prompt": "p", "task": "math", "answer": "204"}),
    "DAPO-Math": ({"data_source": "math_dapo", "prompt": said(("user", "3*3?")), "ability": "MATH",
            "reward_model": {"ground_truth": "9", "style": "rule"}, "extra_info": {"index": "a"}}, "verl",
        {"prompt": "3*3?", "task": "math", "answer": "9", "messages": None}),
    "TinyZero": ({"data_source": "countdown", "target": 9, "nums": [3, 6], "prompt": said(("user", "3 6?")),
        "reward_model": {"ground_truth": {"target": 9, "numbers": [3, 6]}}}, "Countdown-Tasks",
        {"prompt": "Use 3 6 to make 9.", "task": "countdown", "numbers": [3, 6], "target": 9}),
    "verl countdown": ({"data_source": "countdown", "prompt": said(("user", "3 6?")),
            "reward_model": {"ground_truth": {"target": 9, "numbers": [3, 6]}}}, "verl",
        {"prompt": "3 6?", "task": "countdown", "numbers": [3, 6], "target": 9}),
    "Countdown-Tasks": ({"target": 10, "nums": [3, 7]}, "Countdown-Tasks",
        {"prompt": "Use 3 7 to make 10.", "task": "countdown", "numbers": [3, 7], "target": 10}),
    "open-r1": ({"problem": "1+1?", "solution": r"\boxed{2}", "answer": "2", "generations": ["x"],
            "messages": said(("user", "1+1?"), ("assistant", "<think>1+1</think>\n2"))}, "problem and answer",
        {"prompt": "1+1?", "answer": "2", "completion": "<think>1+1</think>\n2", "messages": None}),
    "TRL prompt with solution": ({"prompt": said(("system", "Be brief."), ("user", "1+1?")),
            "solution": "$2$"}, "chat prompt with solution",
        {"prompt": "Be brief.\n\n1+1?", "messages": said(("system", "Be brief."), ("user", "1+1?")),
            "task": "math", "answer": "$2$"}),
    "HumanEval": ({"task_id": "HumanEval/0", "prompt": "def f(a):\n", "entry_point": "f",
            "canonical_solution": "    return a\n", "test": "def check(g):\n    assert g(1) == 1\n"},
                "HumanEval",
        {"task": "code", "tests": ["def check(g):\n    assert g(1) == 1\n\ncheck(f)"]}),
    "MBPP": ({"text": "Give a.", "code": "def f(a): return a", "task_id": 1, "test_setup_code": "x = 1",
            "test_list": ["assert f(x) == 1", "assert f(2) == 2"], "challenge_test_list": []}, "MBPP",
        {"prompt": "Give a.\nYour program should pass these tests:\nassert f(x) == 1\nassert f(2) == 2",
            "task": "code", "tests": ["x = 1\nassert f(x) == 1", "x = 1\nassert f(2) == 2"], "text": None}),
    "MBPP sanitized": ({"source_file": "s", "task_id": 2, "prompt": "Root.", "code": "c",
            "test_imports": ["import math"], "test_list": ["assert f(4) == math.sqrt(4)"]}, "MBPP",
        {"tests": ["import math\nassert f(4) == math.sqrt(4)"]}),
    "APPS": ({"problem_id": 1, "question": "Add.", "solutions": "[]", "starter_code": "", "url": "u",
            "input_output": json.dumps({"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", ["7"]]})}, "APPS",
        {"prompt": "Add.", "task": "code",
            "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "3\n4", "output": "7"}]}),
    "preference texts": ({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 8.0}, "preference",
        {"prompt": "q", "task": "pair", "chosen": "a", "rejected": "b", "score_chosen": 8.0}),
    "UltraFeedback": ({"prompt": "Hi?", "chosen": said(USER, HELLO), "rejected": said(USER,
        ("assistant", "No."))}, "preference", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}),
    "preference messages": ({"prompt": said(USER), "chosen": said(HELLO), "rejected": said(("assistant",
        "No."))},
        "preference", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No.", "messages": None}),
    "preference, implicit prompt": ({"chosen": said(USER, HELLO, ("user", "And?"), ("assistant", "a")),
            "rejected": said(USER, HELLO, ("user", "And?"), ("assistant", "b"))}, "preference",
        {"prompt": "User: Hi?\n\nAssistant: Hello.\n\nUser: And?", "chosen": "a", "rejected": "b",
            "messages": said(USER, HELLO, ("user", "And?"))}),
    "hh-rlhf": ({"chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        "preference", {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}),
    "alpaca": ({"instruction": "Name one.", "input": "of: a, b", "output": "a", "text": "..."}, "alpaca",
        {"prompt": "Name one.\n\nof: a, b", "completion": "a", "text": None}),
    "dolly": ({"instruction": "Name one.", "context": "", "response": "a", "category": "qa"}, "alpaca",
        {"prompt": "Name one.", "completion": "a", "category": "qa"}),
    "MetaMath": ({"query": "1+1?", "response": "The answer is: 2", "type": "GSM"}, "prompt and completion",
        {"prompt": "1+1?", "task": "general", "completion": "The answer is: 2"}),
    "OpenOrca": ({"id": "1", "system_prompt": "Be brief.", "question": "1+1?", "response": "2"},
        "prompt and completion", {"messages": said(("system", "Be brief."), ("user", "1+1?")),
            "completion": "2"}),
    "AIME 2024": ({"ID": "2024-I-1", "Problem": "p", "Solution": "s", "Answer": 204}, "problem and answer",
        {"prompt": "p", "answer": 204, "id": "2024-I-1"}),
    "Countdown as text": ({"nums": "[3, 7]", "target": "10"}, "Countdown-Tasks",
        {"prompt": "Use 3 7 to make 10.", "numbers": [3, 7]}),
    "verl code": ({"data_source": "taco", "prompt": said(("user", "Add.")), "ability": "code",
            "reward_model": {"ground_truth": '{"inputs": ["1 2"], "outputs": ["3"]}'}}, "verl",
        {"task": "code", "tests": [{"input": "1 2", "output": "3"}], "answer": None}),
    "open-r1 without chains": ({"question": "1+1?", "answer": "2", "messages": []}, "problem and answer",
        {"answer": "2", "completion": None, "messages": None}),
    "TRL unpaired": ({"prompt": "Hi?", "completion": "Hello.", "label": True}, "unpaired preference",
        {"prompt": "Hi?", "completion": "Hello."}),
    "TRL prompt and completion": ({"prompt": said(USER), "completion": said(HELLO)}, "prompt and completion",
        {"prompt": "Hi?", "completion": "Hello."}),
    "documents": ({"text": "A page.", "url": "u"}, "documents", {"prompt": "", "task": "text", "text":
    "A page."}), "verifiable answers": ({"query": "1+1?", "expected_answer": 2, "language": "python"},
    "problem and answer",
        {"prompt": "1+1?", "answer": 2, "language": None}),
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_row_is_recognised_by_its_columns_and_said_in_one_line(name, tmp_path, capsys):
    raw, shape, wanted = PUBLIC[name]
    row, same = read_rows(write(tmp_path / "rows.jsonl", [raw, raw]))
    assert {k: row.get(k) for k in wanted} == wanted and row == same
    assert (row.place, same.place) == (f"{tmp_path}/rows.jsonl:1", f"{tmp_path}/rows.jsonl:2")
    said = capsys.readouterr().out.splitlines()
    if name == "documents":  # as our own
        assert not said
        return
    assert len(said) == 1 and f"rows.jsonl: 2 {shape} rows: " in said[0] and "{" not in said[0]


def test_every_shape_has_a_row_here():
    conversations = {"ShareGPT", "chat", "picoR1"}  # tested by themselves
    assert {shape for _, shape, _ in PUBLIC.values()} == {s.name for s in SHAPES} - conversations


@pytest.mark.parametrize("raw", [{"conversations": [{"from": "system", "value": "s"}, {"from": "human",
    "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}, {"from": "gpt",
    "value": "d"}]}, {"messages": said(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"),
    ("assistant", [{"type": "text", "text": "d"}]))}])
def test_each_reply_of_a_conversation_is_a_row_with_what_was_said_before(raw, tmp_path):
    first, second = read_rows(write(tmp_path / "rows.jsonl", [raw]))
    assert (first["prompt"], first["completion"]) == ("s\n\na", "b")
    assert second["messages"] == said(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert second["completion"] == "d" and chain_for(second, 0, 0) == "d"


@pytest.mark.parametrize("name", [n for n, (_, _, row) in PUBLIC.items() if row.get("task") in ("math",
    "countdown",
    "code")])
def test_rows_that_a_rule_judges_pass_the_check_and_a_right_answer_is_paid(name, tmp_path):
    raw, _, _ = PUBLIC[name]
    row, = read_rows(write(tmp_path / "rows.jsonl", [raw]))
    check_rows([row], "rows")
    adds = "print(sum(map(int, open(0).read().split())))"
    right = {"math": str(row.get("answer")).strip("$"), "countdown": "+".join(map(str, row.get("numbers",
        []))),
        "code": adds if name in ("APPS", "verl code") else "def f(a):\n    return a"}
    texts = [f"<think></think><answer>{text}</answer>" for text in (right[row["task"]], "0")]
    assert [s["accuracy"] for s in score([row] * 2, texts)] == [1, 0]


def test_tests_of_functions_and_of_methods_run_in_the_sandbox(tmp_path):
    raw = {"question": "Add.", "input_output": {"fn_name": "add", "inputs": [[1, 2], [[1], []]],
        "outputs": [3, [[1]]]}, "starter_code": "class Solution:"}
    row, = read_rows(write(tmp_path / "rows.jsonl", [raw]))
    assert row["prompt"] == "Add.\n\nclass Solution:"
    for program in ("def add(a, b): return a + b", "class Solution:\n    def add(self, a, b): return a + b"):
        assert run_tests(program, row["tests"])[:2] == (2, 0)
    assert run_tests("def add(a, b): return 3", row["tests"])[:2] == (1, 1)


def test_replies_that_are_not_wanted_are_not_learnt(tmp_path, capsys):
    raw = PUBLIC["TRL unpaired"][0]
    row, = read_rows(write(tmp_path / "rows.jsonl", [raw, raw | {"completion": "No.", "label": False}]))
    assert row["completion"] == "Hello." and "1 whose label is false are left out" in capsys.readouterr().out


def test_broken_rows_are_left_out_and_counted_on_request(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", [PUBLIC["MATH"][0], {"problem": "q",
        "solution": "So it is proven."}])
    with pytest.raises(UserError, match="rows.jsonl:2: "):
        read_rows(path)
    assert len(read_rows(path, broken="drop")) == 1
    assert "1 are left out, such as" in (said := capsys.readouterr().out) and "rows.jsonl:2: " in said
    with pytest.raises(UserError, match="expected error or drop"):
        read_rows(path, broken="skip")
    with pytest.raises(UserError, match="no rows that can be read; .*b.jsonl:1: "):
        read_rows(write(tmp_path / "b.jsonl", [{"problem": "q", "solution": "It is."}]), broken="drop")


def test_messages_that_end_with_the_answer_are_no_prompt(tmp_path):
    mine = {"prompt": "p", "task": "math", "answer": "7"}
    rows = read_rows(write(tmp_path / "rows.jsonl", [mine | {"messages": said(("user", "p"), ("assistant",
        "it is 7"))}, mine | {"messages": said(("system", "s"), ("user", "p"))}]))
    assert "messages" not in rows[0] and len(rows[1]["messages"]) == 2


def test_problems_without_tests_are_left_out_and_counted(tmp_path, capsys):
    raw = PUBLIC["APPS"][0]
    rows = read_rows(write(tmp_path / "rows.jsonl", [raw, raw | {"input_output": ""}, raw]))
    assert len(rows) == 2 and "3 APPS rows" in (said := capsys.readouterr().out) and "1 without tests" in said


# --------------------------------------------------------------------------------------------- kinds of files

ROWS = [{"prompt": f"{i}+1?", "task": "math", "answer": str(i + 1)} for i in range(3)]


def written_as(kind, path):
    text = json.dumps(ROWS, indent=1) if "array" in kind else "".join(json.dumps(r) + "\n\n" for r in ROWS)
    path = path / f"rows.{kind.split()[0]}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet
        parquet.write_table(pyarrow.Table.from_pylist([*ROWS, ROWS[0] | {"extra": 1}][:3]), path)
    elif kind.startswith("folder"):
        pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(path)
    elif ".gz" in kind:
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(("\ufeff" if "mark" in kind else "") + text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl with a byte order mark", "json array", "json",
    "jsonl array",
    "jsonl.gz", "json.gz array", "parquet", "folder of datasets"])
def test_a_file_of_any_kind_gives_the_same_rows(kind, tmp_path):
    path = written_as(kind, tmp_path)
    assert is_file(path) and read_rows(path) == ROWS


def test_a_file_is_read_again_only_if_it_has_changed(tmp_path):
    path = tmp_path / "rows.jsonl"
    first = read_rows(write(path, ROWS))
    assert read_rows(str(path)) is first


def test_the_splits_of_a_folder_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "all")
    with pytest.raises(UserError, match="several splits: give .*all/train"):
        read_rows(str(tmp_path / "all"))
    assert read_rows(str(tmp_path / "all/train")) == ROWS
    (tmp_path / "clone").mkdir()
    write(tmp_path / "clone/a.jsonl", ROWS)
    with pytest.raises(UserError, match="give one of its files: .*clone/a.jsonl"):
        read_rows(str(tmp_path / "clone"))


OK = {"prompt": "p", "task": "sort_words", "answer": "a"}
BROKEN = {
    "no JSON": ([OK, "", "{broken"], ":3: not valid JSON"),
    "no object": ([OK, "", "[1]"], ":3: a row must be an object"),
    "a number as prompt": ([OK, {"prompt": 3, "task": "t"}], ':2: .*"prompt" must be a text or a list'),
    "no task": ([OK, {"prompt": "x"}], ':2: .*"task" is missing'),
    "no task at all": ([{"prompt": "x"}], ':1: a row needs a string "task".*--columns'),
    "a null prompt": ([OK, OK | {"prompt": None}], ':2: .*"prompt" is missing, or null'),
    "an unknown shape": ([{"a": 1, "b": 2}], ":1: columns a, b are none of the known shapes.*--columns"),
    "GSM8K without its mark": ([PUBLIC["GSM8K"][0], {"question": "q", "answer": "5"}], ":2: .*no #### in"),
    "MATH without a box": ([{"problem": "q", "solution": "It is 5."}], r":1: .*no \\boxed"),
    "MATH with an open box": ([{"problem": "q", "solution": r"\boxed{\frac{1}{2}"}], ":1: .*never closed"),
    "a null solution": ([PUBLIC["MATH"][0], {"problem": "q", "solution": None}],
    ':2: .*"solution" is missing'), "numbers that are none": ([{"nums": 3, "target": 3}],
    ":1: .*must be a list of whole numbers"), "half a pair": ([{"prompt": "q", "chosen": "a",
        "rejected": "b"},
    {"prompt": "q", "chosen": "a"}],
        ':2: .*"rejected" is missing'),
    "half a pair of our own": ([OK | {"chosen": "a"}], ':1: .*a pair needs "rejected"'),
    "a pair of two prompts": ([{"chosen": said(USER, HELLO), "rejected": said(HELLO)}],
        ":1: .*different prompts"),
    "a pair without a prompt": ([{"chosen": "a", "rejected": "b"}], ':1: .*no "prompt"'),
    "a pair that ends with the user": ([{"prompt": "q", "chosen": said(USER), "rejected": said(USER)}],
        ':1: .*"chosen" must end with a message of the assistant'),
    "a message without a role": ([{"messages": [{"content": "a"}]}], ':1: .*"role" and "content"'),
    "a message without content": ([{"prompt": said(USER), "completion": said(("assistant", None))}],
        ':1: .*"role" and "content"'),
    "a picture": ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], ":1: .*no text"),
    "nobody answers": ([{"messages": said(USER)}], ":1: .*no message of the assistant"),
    "an answered prompt": ([{"prompt": said(USER, HELLO), "solution": "1"}],
        ":1: .*nothing is left to answer"),
    "an unknown speaker": ([{"conversations": [{"from": "bot", "value": "x"}]}], ":1: .*from 'bot'; known"),
    "an unknown aspect": ([{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a",
        "rejected": "b", "aspect": "funny"}], ":2: .*helpful or harmless, not 'funny'"),
    "an empty conversation": ([{"conversations": []}], ":1: "),
    "a column without a name": ([{"": 1, "prompt": "x"}], ':1: a row needs a string "task"'),
    "brackets without end": ([OK, "[" * 100_000], ":2: not valid JSON"),
    "messages that are none": ([OK | {"messages": "x"}, OK | {"messages": [1]}], ':2: .*"role" and'),
    "tests as a text": ([PUBLIC["MBPP"][0] | {"test_list": "assert f(1)"}], ':1: .*"test_list" must be'),
    "tests that are no JSON": ([PUBLIC["APPS"][0] | {"input_output": "{"}],
        ":1: not a row of the shape APPS"),
    "other numbers of inputs": ([PUBLIC["APPS"][0] | {"input_output": {"inputs": ["1"], "outputs": []}}],
        ":1: "),
    "nothing": ([""], ": no rows"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_refused_with_its_file_and_line(kind, tmp_path):
    lines, message = BROKEN[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl" + message) as error:
        read_rows(str(path))
    assert "\n" not in str(error.value)


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('[{"prompt": "p"},\n')
    (tmp_path / "b.jsonl.gz").write_text("not gzipped")
    (tmp_path / "c.jsonl").write_bytes(b'{"prompt": "\xff"}')
    for name, message in [("a.json", r"a\.json:2: not valid JSON"), ("b.jsonl.gz", "b.jsonl.gz: "),
            ("c.jsonl", "c.jsonl: "), ("none.jsonl", "No such file"), ("a.csv", "expected a file")]:
        with pytest.raises(UserError, match=message):
            read_rows(str(tmp_path / name))


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.json.gz").symlink_to("/dev/zero")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    os.mkfifo(tmp_path / "saved" / "data.arrow")
    for name in ("a.jsonl", "b.json.gz", "saved"):
        with pytest.raises(UserError, match=f"{name}.* is a pipe or a device"):
            read_rows(str(tmp_path / name))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_folder_of_the_datasets_library_is_one_line(tmp_path, name):
    datasets = pytest.importorskip("datasets", reason="what saves such folders: requirements-dev.txt")
    datasets.Dataset.from_list([{"problem": "1+1?", "answer": "2"}] * 3).save_to_disk(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=f"{tmp_path}/ is damaged"):
        read_rows(f"{tmp_path}/")


def test_a_documents_task_is_a_text(tmp_path):
    pages = [{"text": "a", "task": ["x"]}, {"text": "b", "task": "t"}]
    one, two = read_rows(write(tmp_path / "a.jsonl", pages))
    assert (one["task"], two["task"]) == ("text", "t")


def test_documents_and_pairs_of_our_own_need_no_task_column(tmp_path):
    page, = read_rows(write(tmp_path / "a.jsonl", [{"text": "a page"}]))
    one, = read_rows(write(tmp_path / "b.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}]))
    assert page == {"prompt": "", "task": "text", "text": "a page"} and one["task"] == "pair"


# -------------------------------------------------------------------------------------------------- --columns

ASKS = [{"ask": "1+1?", "reply": "So 1+1=3? No.\n#### 2 apples", "kind": "math_boxed",
    "messages": said(USER)}]


def test_columns_name_a_shape_and_a_pattern_the_answer(tmp_path):
    path = write(tmp_path / "rows.jsonl", ASKS)
    row, = read_rows(path, "prompt=ask,answer=reply", r"#### (\d+)")
    assert (row["prompt"], row["task"], row["answer"]) == ("1+1?", "math", "2") and "messages" not in row
    assert read_rows(path, "prompt=ask,answer=reply", r"\d")[0]["answer"] == "2"  # the last, without a group
    assert read_rows(path, "prompt=ask,answer=reply,task=kind")[0]["task"] == "math_boxed"  # theirs
    assert read_rows(path, "prompt=ask, answer=reply, task=number")[0]["task"] == "number"  # or a name
    path = write(tmp_path / "deep.jsonl", [{"q": "1?", "meta": {"gold": 1}}])
    assert read_rows(path, "prompt=q,answer=meta.gold")[0]["answer"] == 1
    path = write(tmp_path / "c.jsonl", [{"q": "1?", "ns": [1, 2], "t": 3}])
    assert read_rows(path, "prompt=q,numbers=ns,target=t")[0]["task"] == "countdown"


@pytest.mark.parametrize("columns,pattern,message", [("prompt", "", "expected ours=theirs"),
    ("prompt=", "", "expected ours=theirs"), ("promt=ask", "", "promt means nothing.*prompt"),
    ("prompt=asks,answer=reply", "", ":1: .*no column asks; did you mean ask"),
    ("prompt=ask", "", ":1: .*tell no task"), ("prompt=ask", "x", "--answer_pattern reads"),
    ("", "x", "--answer_pattern reads"), ("prompt=ask,answer=reply", "(", "--answer_pattern"),
    ("prompt=ask,answer=reply", "=> (.*)", ":1: .*nowhere in 'So 1")])
def test_wrong_columns_are_refused(columns, pattern, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path / "rows.jsonl", ASKS), columns, pattern)


# ------------------------------------------------------------------------------------------ what rewards read


def checked(tmp_path, *rows, plan=None):
    found = read_rows(write(tmp_path / "rows.jsonl", rows))
    check_rows(found, "rows", plan or Plan())
    return found


@pytest.mark.parametrize("numbers,target", [(["1", "2", "3"], "6"), ([1.0, 2, 3], 6.0), ("1 2 3", 6),
    ("[1, 2, 3]", " 6 "), ("1,2,3", "6")])
def test_numbers_given_as_text_are_read_and_a_right_answer_is_paid(numbers, target, tmp_path):
    row, = checked(tmp_path, {"prompt": "p", "task": "countdown", "numbers": numbers, "target": target})
    assert score([row], ["<think></think><answer>1+2+3</answer>"])[0]["accuracy"] == 1


@pytest.mark.parametrize("task", ["math", "math_boxed", "exact", "number", "arithmetic"])
@pytest.mark.parametrize("answer", [5, "5", ["5"], 5.0])
def test_answers_given_as_numbers_are_read(task, answer, tmp_path):
    row, = checked(tmp_path, {"prompt": "p", "task": task if task != "exact" else "sort_words",
        "answer": answer})
    form = r"\boxed{5}" if task == "math_boxed" else f"<answer>{row['answer']}</answer>"
    reply = f"<think></think>{form}"
    assert score([row], [reply])[0]["accuracy"] == 1


GOOD = {"countdown": {"numbers": [1, 2], "target": 3}, "math": {"answer": "1"},
    "code": {"tests": ["assert f(1)"]},
    "number": {"answer": "1"}, "math_boxed": {"answer": "1"}}


@pytest.mark.parametrize("task,bad,message", [
    ("math", {"answer": None}, '"answer" must be a text or a number.*task math; it is missing'), ("math",
        {"answer": " "}, "empty"),
    ("math", {"answer": True}, "it is True"), ("math_boxed", {"answer": ["1", "2"]}, "a text or a number"),
    ("number", {"answer": "ten"}, "has no number"), ("countdown", {"numbers": None}, "missing"),
    ("countdown", {"numbers": ["a"]}, '"numbers" must be a whole number'), ("countdown", {"numbers": []},
        "a list"),
    ("countdown", {"numbers": [1.5]}, "whole"), ("countdown", {"numbers": [-1]}, "from 0 on"),
    ("countdown", {"target": "six"}, '"target" must be a whole number'), ("countdown", {"target": None},
        "missing"),
    ("code", {"tests": []}, "tests must be a list"), ("code", {"tests": "assert f("}, "tests must be a list"),
    ("code", {"timeout": "5"}, '"timeout".*from 0.05'), ("code", {"memory_mb": 1}, '"memory_mb".*from 64'),
    ("code", {"tests": ["assert f("]}, "never closed"), ("code", {"tests": None}, "missing")])
def test_a_column_that_a_reward_cannot_read_is_found_in_every_row(task, bad, message, tmp_path):
    rows = [{"prompt": "p", "task": task, **GOOD[task]}] * 6 + [{"prompt": "p", "task": task, **GOOD[task],
        **bad}]
    with pytest.raises(UserError, match=rf"rows\.jsonl:7: .*{message}") as error:
        checked(tmp_path, *rows)
    assert "\n" not in str(error.value)


def test_a_language_is_english_where_a_row_names_none_and_must_be_known(tmp_path):
    row, plan = {"prompt": "p", "task": "math", "answer": "1"}, Plan(weights={"language": 0.1})
    rows = checked(tmp_path, row | {"language": "de"}, row, row | {"language": None}, plan=plan)
    assert [r["language"] for r in rows] == ["de", "en", "en"]
    assert len(score(rows, ["<think>so and now</think><answer>1</answer>"] * 3, plan)) == 3
    with pytest.raises(UserError, match="rows.jsonl:2: .*unknown language kl"):
        checked(tmp_path, row, row | {"language": "kl"}, plan=plan)


def test_the_first_row_of_each_task_is_tried_with_all_rewards(tmp_path):
    def picky(completions, answer, **_):
        raise ValueError(f"not for {answer[0]}")

    with pytest.raises(UserError, match="rows.jsonl:1: .*not for a"):
        checked(tmp_path, OK | {"task": "math"}, plan=Plan({"picky": picky}))
    with pytest.raises(UserError, match="rows.jsonl:2: unknown task 'maths'; did you mean math"):
        checked(tmp_path, OK, OK | {"task": "maths"})


def test_readers_of_columns():
    assert as_text(["x"]) == "x" and as_text(7) == "7" and whole_number("-1,234") == -1234
    assert whole_numbers("(3; 7 9)") == [3, 7, 9]
    for wrong in ("1.5", 1.5, True, None, "1 2", float("inf")):
        with pytest.raises(ValueError):
            whole_number(wrong)
    assert boxed(r"\boxed{1} and \fbox{\text{a}{b}}") == r"\text{a}{b}" and boxed(r"so $\boxed 7$.") == "7"


# ------------------------------------------------------------------------------ what does not fit, what leaks


def test_rows_that_are_too_long_are_an_error_or_left_out_and_counted(tmp_path, capsys):
    rows = read_rows(write(tmp_path / "rows.jsonl", [OK | {"prompt": "x" * n} for n in (1, 9, 5, 7)]))
    counted = []

    def count(row):
        counted.append(row.place)
        return len(row["prompt"])

    def fit(longest, what):
        return fitting(rows, longest, lambda row: len(row["prompt"]) + 2, count, what)

    assert fit(11, "error") is rows and not counted  # the bound decides
    with pytest.raises(UserError, match=r"rows.jsonl:2 has 9 tokens where 6 fit \(2 of 4 .*--too_long"):
        fit(6, "error")
    assert fit(6, "drop") == [rows[0], rows[2]] and "2 of 4 rows are too long)" in capsys.readouterr().out
    assert fit(9, "drop") == rows
    with pytest.raises(UserError, match="no row is left"):
        fit(0, "drop")
    with pytest.raises(UserError, match="expected error or drop"):
        fit(6, "cut")


def test_problems_that_are_trained_on_are_counted_and_refused(capsys):
    train, held = [{"prompt": "a  b"}, {"prompt": "c"}], [{"prompt": "a b\n"}, {"prompt": "A b"}]
    with pytest.raises(UserError, match=r"1 of 2 problems of e.jsonl are trained on.*--allow_leaks"):
        refuse_leaks(train, held, "e.jsonl", False)
    refuse_leaks(train, held, "e.jsonl", True)
    assert "1 of 2 problems" in capsys.readouterr().out
    refuse_leaks(train, held[1:], "e.jsonl", False)


def test_places_survive_a_split(tmp_path):
    parts = split_rows(read_rows(write(tmp_path / "rows.jsonl", ROWS)), "rows")
    assert sorted(row.place[-1] for part in parts.values() for row in part) == ["1", "2", "3"]


def test_the_first_shape_that_fits_is_taken_whatever_else_a_row_has():
    raw = PUBLIC["GSM8K"][0] | {"prompt": None, "solution": None}
    assert shape_of(raw).name == "GSM8K"
