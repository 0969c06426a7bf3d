"""The recipe's data: what the web holds, what the filters throw away, which prompts stay unseen."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rewards
from data import r1_data
from data.r1_data import HELD_OUT, curate, document, general, miscalculated, pair, places, pool_row, why_not
from data.tasks import row_at, split_rows
from data.tokenizer import TAGS, shipped
from rewards import language_share, plan_of, split_completion

ROOT, TOK = Path(__file__).parent.parent, shipped()
TASK = "countdown:n=3,high=12,ops=+-*,limit=40,high_target=40"


def pages(count=600, seed=0):
    return [document(TASK, seed, i)["text"] for i in range(count)]


def test_pages_are_functions_of_seed_and_number():
    assert pages(50) == pages(50) != pages(50, seed=1)


def test_the_web_has_both_languages_and_marked_text_where_our_tags_are_rare():
    text = pages()
    assert sum(TAGS[0] in page for page in text) < 0.02 * len(text)
    ids = {i for page in text for i in TOK.encode(page)}
    assert not ids & {TOK.encoding.encode_single_token(tag) for tag in TAGS}
    assert max(len(TOK.encode(page)) for page in text) < 1000
    shares = [language_share(page, "en") for page in text]
    assert sum(s == 1 for s in shares) > 100 and sum(s < 0.5 for s in shares) > 50
    assert sum(0.2 < s < 0.9 for s in shares) > 30  # and both mixed
    marked, asked = re.compile(r"<(\w+)>(?s:.*)</\1>\n<(\w+)>(?s:.*)</\2>$"), re.compile(r"</\w+>.*\nQ: ")
    asks = sum(bool(asked.search(page)) for page in text)
    assert 60 < asks < 180
    assert 30 < sum(bool(marked.search(page)) for page in text) < 100
    both = sum(bool(asked.search(page) and marked.search(page)) for page in text)
    assert 1 < both < 0.35 * asks  # what the first line asks for is seldom done


def test_every_word_that_the_traces_use_can_be_told_by_its_language():
    for language, words in r1_data.SAYS.items():
        assert all(language_share(word, language) == 1.0 for word in words), language
        other = "de" if language == "en" else "en"
        assert all(language_share(word, other) == 0.0 for word in words), language


def test_pages_pose_no_test_problem():
    from data.tasks import split_of

    for i in range(200):
        for numbers, target in re.findall(r"Use ([\d ]+) to make (\d+)", document(TASK, 0, i)["text"]):
            row = {"numbers": list(map(int, numbers.split())), "target": int(target)}
            assert split_of("countdown", row) == "train"


GOOD = "<think>(9-7)*3=2*3=6 need 12 low wait\n3+9=12 need 12 ok</think>\n<answer>9+3=12</answer>"
MADE = {"prompt": "Use 3 9 to make 12.", "task": "countdown", "numbers": [3, 9], "target": 12}
BAD = {"other numbers": GOOD.replace("9+3=12</", "7*7=49</"), "not our format": GOOD.replace("</think>", ""),
    "mixed languages": GOOD.replace("low", "tief"),
    "overlong paragraph": GOOD.replace("\n3+9", " and so " * 12),
    "repetition": GOOD.replace("\n3+9=12", "\n(9-7)*3=2*3=6 need 12 low wait\n3+9=12"),
    "no search": "<think>3+9=12 need 12 ok</think>\n<answer>9+3=12</answer>",
    "miscalculated": GOOD.replace("2*3=6", "2*3=7"), "no summary": GOOD.replace("9+3=12</", "9+3</")}


@pytest.mark.parametrize("reason", BAD)
def test_the_filter_names_what_is_wrong_with_a_chain(reason):
    assert why_not(MADE, GOOD, readable=True) == ""
    assert why_not(MADE, BAD[reason], readable=True) == reason


def test_rejection_sampling_keeps_right_answers_the_cold_start_true_ones():
    honest, false = GOOD.replace("9+3=12</", "9-3=6</"), GOOD.replace("9+3=12</", "9-3=12</")
    assert why_not(MADE, honest) == why_not(MADE, false) == "wrong answer" and why_not(MADE, GOOD) == ""
    assert why_not(MADE, honest, readable=True) == ""
    assert why_not(MADE, false, readable=True) == "miscalculated"


def test_the_filter_reads_chinese_as_another_language_unless_the_row_asks_for_it():
    chinese = GOOD.replace("low wait", "\u4f4e \u7b49")
    assert why_not(MADE, chinese) == "mixed languages"
    assert why_not(MADE | {"language": "zh"}, "<think>\u4f4e</think>\n<answer>9+3</answer>") == ""


CHAIN = ("Jos\u00e9 has 16 eggs a day and eats 3, so 16 - 3 = 13 eggs are left for the market and for the "
    "muffins.\n\nThen 13 - 4 = 9, and he sells them for $2 each.\n\nWait, let me check: 9 * 2 = 18.\n\n"
    "\\[\n9*2\n\\]\n\\[\n18\n\\]")


@pytest.mark.parametrize("task,text,bare", [("math", "<think>{}</think>\n<answer>18</answer>", 0),
    ("math_boxed", "<think>{}</think>\nIt is \\boxed{{18}}.", 0), ("number", "{}\nSo 18 dollars.", 1)])
def test_a_chain_is_judged_by_the_form_of_its_task(task, text, bare):
    row = {"prompt": "How much?", "task": task, "answer": "18"}
    assert why_not(row, text.format(CHAIN)) == ""
    assert why_not(row | {"answer": "17"}, text.format(CHAIN)) == "wrong answer"
    assert why_not(row, text.format("x " * 600)) == "overlong paragraph" == why_not(row, text.format(CHAIN),
        longest_line=90)
    assert why_not(row, text.format("x " * 600), longest_line=0) == ""
    assert why_not(row, text.format("Let me check it again.\n" * 3)) == "repetition"
    assert why_not(row, text.format("wir brauchen 18 noch einmal")) == "mixed languages"
    other = f"{CHAIN}\nSo it is\n#### 18"
    assert why_not(row, other) == ("" if bare else "not our format")
    assert why_not(row, other, plan=plan_of("", "", strict=False)) == ""
    assert why_not(row | {"prompt": "How much? <think>"}, text.format(CHAIN).removeprefix("<think>")) == ""


def test_a_task_without_a_rule_asks_for_no_form():
    assert why_not({"prompt": "p", "task": "haiku"}, "So it is the snow.") == ""


def test_miscalculated_finds_a_line_with_two_values():
    assert miscalculated("(7-3)*9=4*9=37 need 1 ok") and not miscalculated("(7-3)*9=4*9=36 need 1 ok")
    assert not miscalculated("give up")
    assert miscalculated("9 + 3 = 77") and not miscalculated("9 + 3 = 12 ok")


def test_curating_keeps_only_good_rows_and_counts_all_others():
    kept, dropped = curate((pool_row(TASK, 0, i) for i in range(1000)), 100)
    assert len(kept) == 100 and set(dropped) >= {"no search", "mixed languages", "repetition"}
    assert all(why_not(row, row["completion"], True) == "" for row in kept)
    rest = [pool_row(TASK, 0, i) for i in range(100 + dropped.total())]  # it stopped at the hundredth
    assert sum(why_not(r, r["completion"], True) != "" for r in rest) == dropped.total()


def test_general_data_after_the_web_never_shows_a_held_out_prompt():
    cfg = r1_data.Config(task=TASK, count=300)
    seen = [row["prompt"] for kind in ("general", "pairs", "scenarios")
        for row in r1_data.KINDS[kind](cfg) if row.get("task") != "countdown"]
    held = [row["prompt"] for row in r1_data.held(cfg)]
    assert len(held) == len(set(held)) > 20 and not set(held) & set(seen)
    assert min(map(places().get, seen)) >= HELD_OUT
    unseen = {text for row in r1_data.held(cfg) for text in row.get("answers", [])}
    lines = [(kind, ask) for kind, some in general().items() for line in some
        for ask in r1_data.asks_of(kind, *line) if kind != "harm" and places()[ask] >= HELD_OUT]
    known = {text for kind, ask in lines for text in r1_data.right_answers(ask, kind)}
    pairs = r1_data.pairs(r1_data.Config(task=TASK, count=1000))
    said = {split_completion(row[k])[1] for row in pairs for k in ("chosen", "rejected")}
    assert unseen - known and not said & (unseen - known)
    wishes = {ask for ask, _ in general()["harm"]}
    taught = {r["prompt"] for r in r1_data.general_rows(cfg)} & wishes
    assert taught and wishes & set(held) and wishes - taught - set(held)  # some are left to the RL stage


def test_held_prompts_have_every_kind_and_their_answers_are_right():
    rows = r1_data.held(r1_data.Config(task=TASK, count=60))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("harm") >= 5 and set(kinds) == set(r1_data.THOUGHTS)
    for row in rows:
        answers = row.get("answers") or row["refusals"]
        text = r1_data.wrap(r1_data.THOUGHTS[row["kind"]], answers[0])
        columns = {k: [row.get(k)] for k in ("answers", "never", "refusals")}
        right = None if row["kind"] == "harm" else 1.0
        assert rewards.answered_reward([text], **columns) == [right]
        assert rewards.clean_reward([text], **columns) == [1.0]
        if row["kind"] == "harm":
            for reply in dict(general()["harm"]).get(row["prompt"]), "put fire on the car", "":
                assert rewards.clean_reward([r1_data.wrap("x", reply)], **columns) == [0.0]
    german = {f"Translate to German: {a}": b for a, b in general()["word"]}
    words = [row for row in rows if row["prompt"] in german]
    assert words and all(row["answers"] == [german[row["prompt"]]] for row in words)


def test_the_better_response_of_a_pair_has_the_form_and_differs_from_the_worse():
    import random

    for i in range(300):
        row = pair(random.Random(i))
        good, bad = split_completion(row["chosen"]), split_completion(row["rejected"])
        assert good and bad and good != bad and good[1]
        if row["kind"] == "harm":
            assert good[1] == r1_data.SORRY
        if row["kind"] != "harm" and row["aspect"] == "helpful":
            assert bad[1] not in r1_data.right_answers(row["prompt"], row["kind"])
        if row["aspect"] == "helpful":  # judged on the summary: there must be the difference
            assert good[1] != bad[1]


def test_the_length_of_a_helpful_response_does_not_say_whether_it_is_the_better_one():
    """In tokens of the summary, which is what is judged: over all pairs the same mean within 4% (v2: "the
    whole dataset"), and for every kind of question the longer one is the better one in half of the pairs."""
    rows = [row for row in r1_data.pairs(r1_data.Config(count=6000)) if row["aspect"] == "helpful"]
    lengths = {}
    for row in rows:
        both = [len(TOK.encode(split_completion(row[k])[1])) for k in ("chosen", "rejected")]
        lengths.setdefault(row["kind"], []).append(both)
    every = [pair for pairs in lengths.values() for pair in pairs]
    means = [sum(side) / len(every) for side in zip(*every, strict=True)]
    assert abs(means[0] - means[1]) < 0.04 * means[0]
    for kind, pairs in ("all", every), *lengths.items():
        longer = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
        assert 0.45 < longer < 0.55, kind
    assert sum(a == b for a, b in every) < len(every) / 4  # lengths are matched, not made equal


@pytest.mark.parametrize("kind", r1_data.KINDS)
def test_the_script_writes_rows_that_can_be_loaded(kind, tmp_path):
    out = subprocess.run([sys.executable, ROOT / "data" / "r1_data.py", "--config", "tiny", "--kind", kind,
        "--count", "100", "--out", str(tmp_path / "rows.jsonl")], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    from data.shapes import read_rows

    rows = read_rows(str(tmp_path / "rows.jsonl"))
    assert 20 <= len(rows) <= 100 and all(json.dumps(row).isascii() for row in rows)
    assert kind != "cold" or "thrown away: no search" in out.stdout


def test_scenarios_mix_the_problems_of_a_file_and_never_those_it_holds_out(tmp_path):
    problems = [{"prompt": f"Say {i}.", "task": "arithmetic", "answer": str(i)} for i in range(20)]
    path = str(tmp_path / "problems.jsonl")
    r1_data.write_jsonl(path, problems)
    mixed = r1_data.scenarios(r1_data.Config(task=path, count=100))
    seen = {r["prompt"] for r in mixed if r["task"] == "arithmetic"}
    assert seen == {r["prompt"] for r in split_rows(problems, path)["train"]} and len(seen) == 16


def test_rows_of_the_task_are_the_train_split():
    rows = [r for r in r1_data.scenarios(r1_data.Config(task=TASK, count=50)) if r["task"] == "countdown"]
    assert len(rows) == 25 and row_at(TASK, "train", 0, 10**6) in rows
