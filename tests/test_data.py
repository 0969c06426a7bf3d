"""Tokenizer and tasks."""

import json
import random
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ModelConfig
from data.tasks import (
    TASKS,
    TaskError,
    chain_for,
    distinct,
    load_jsonl,
    parse_task,
    row_at,
    split_of,
    training_rows,
    work_out,
)
from data.tokenizer import (
    PLAIN,
    R1_ZERO,
    SPECIALS,
    TAGS,
    TokenizerError,
    for_checkpoint,
    from_tokenizer_json,
    load_ranks,
    save_beside,
    shipped,
)
from rewards import score

ROOT = Path(__file__).parent.parent
TOK = shipped()


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips_and_never_becomes_a_special_token(text):
    ids = TOK.encode(text)
    assert TOK.decode(ids) == text and all(i < TOK.vocab_size - len(SPECIALS) for i in ids)


def test_special_tokens_are_single_distinct_ids_that_text_does_not_reach():
    ids = [TOK.encoding.encode_single_token(s) for s in SPECIALS]
    assert len(set(ids)) == len(SPECIALS) and TOK.pad_id != TOK.eos_id and max(ids) == TOK.vocab_size - 1
    nasty = "".join(SPECIALS)
    assert not set(TOK.encode(nasty)) & set(ids) and not set(TOK.encode_prompt(nasty)[1:]) & set(ids)
    asked = TOK.encode(nasty, tags=True)
    assert set(asked) & set(ids) == {TOK.encoding.encode_single_token(t) for t in TAGS}


def test_a_checkpoint_keeps_the_template_that_its_prompts_are_put_in(tmp_path):
    tok = shipped()
    tok.template = R1_ZERO
    save_beside(tok, "", tmp_path)
    again = for_checkpoint(tmp_path)
    ids = again.encode_prompt("Use 1 2 to make {3}.")
    assert ids[0] == TOK.bos_id and ids == tok.encode_prompt("Use 1 2 to make {3}.")
    assert again.decode(ids[1:]) == R1_ZERO.replace("{prompt}", "Use 1 2 to make {3}.")
    assert not set(ids[1:]) & {TOK.encoding.encode_single_token(t) for t in TAGS}  # the tags as plain text
    assert for_checkpoint(tmp_path / "none").template == PLAIN == shipped().template
    (tmp_path / "template.txt").write_text("Q: A:")
    with pytest.raises(TokenizerError, match="prompt"):
        for_checkpoint(tmp_path)


def test_tags_in_plain_text_read_like_the_tokens():
    """What R1-Zero writes letter by letter, the rewards see as they see the cold start's single tokens."""
    text = "<think>1+2</think>\n<answer>3</answer>"
    plain, single = TOK.encode(text), TOK.encode(text, tags=True)
    assert len(plain) > len(single) and TOK.decode(plain) == TOK.decode(single) == text


def test_digits_are_split_one_by_one():
    assert len(TOK.encode("1234567890")) == 10
    assert [TOK.decode([i]) for i in TOK.encode("(12+7)*3=57 ok")][:9] == list("(12+7)*3=")[:9]


def test_the_shipped_vocabulary_is_what_its_script_builds(tmp_path):
    before = (ROOT / "data/vocab.tiktoken").read_bytes()
    for name in ("config.py", "data/build_vocab.py", "data/tokenizer.py", "data/corpus.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "data/build_vocab.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "data/vocab.tiktoken").read_bytes() == before


def test_a_broken_vocabulary_names_file_and_line(tmp_path):
    path = tmp_path / "v.tiktoken"
    path.write_text("YQ== 0\nnot a line at all\n")
    with pytest.raises(TokenizerError, match=r"v\.tiktoken:2"):
        load_ranks(path)
    with pytest.raises(TokenizerError, match="No such file"):
        load_ranks(tmp_path / "missing")


def test_a_deepseek_tokenizer_json_encodes_as_the_tokenizers_library_does(tmp_path):
    """A byte-level BPE with DeepSeek's splitting rules, trained by Hugging Face's library, is the oracle."""
    tokenizers = pytest.importorskip("tokenizers",
        reason="the oracle for tokenizer.json: requirements-dev.txt")
    from tokenizers import models, pre_tokenizers, trainers

    from data.tokenizer import DEEPSEEK_NAMES

    cjk = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
    words = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
        r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    split = [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in (r"\p{N}{1,3}", cjk, words)]
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    corpus = (ROOT / "data/corpus.txt").read_text()
    tok.train_from_iterator(corpus.splitlines(), trainer)
    tok.add_special_tokens(list(DEEPSEEK_NAMES))
    tok.save(str(tmp_path / "tokenizer.json"))
    ours = from_tokenizer_json(tmp_path / "tokenizer.json")
    for text in [corpus[:3000], "x=12345, y = 67\n\n  z", "\u4f60\u597d world 3.14",
            "caf\u00e9 \U0001f600 don't"]:
        assert ours.encode(text) == tok.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.eos_id == tok.token_to_id(DEEPSEEK_NAMES[1]) != ours.pad_id


# ------------------------------------------------------------------------------------------------------ tasks

TINY_TASK = "countdown:n=3,high=12,ops=+-*,limit=40,high_target=40"
SPECS = ["countdown", "countdown:n=4", "countdown:n=6,high=50", TINY_TASK,
    "arithmetic", "arithmetic:n=6", "sort_words", "sort_words:n=6"]


WORD_SUMS = ["word_sums", "word_sums:steps=2", "word_sums:high=99,ops=+-", "word_sums:high=3,plain=100",
    "word_sums:plain=0,steps=2,high=3", "word_sums:plain=0,ops=*,high=20", "word_sums:ops=*,steps=2,plain=0"]


@pytest.mark.parametrize("spec", SPECS + WORD_SUMS[:3])
def test_rows_are_functions_of_seed_and_index(spec):
    assert row_at(spec, "train", 1, 5) == row_at(spec, "train", 1, 5)
    assert row_at(spec, "train", 1, 5) != row_at(spec, "train", 2, 5)
    assert len({json.dumps(row_at(spec, "train", 0, i)) for i in range(40)}) > 30


@pytest.mark.parametrize("spec", SPECS + WORD_SUMS)
def test_train_and_test_are_disjoint_by_problem(spec):
    name, knobs = parse_task(spec)
    count = 40 if knobs.get("n", 0) == 6 else 400
    keys = {split: {json.dumps(TASKS[name].key(row_at(spec, split, seed, i))) for i in range(count) for seed
        in (0, 7)} for split in ("train", "test")}
    assert not keys["train"] & keys["test"]
    row = row_at(spec, "test", 0, 0)
    if name == "countdown":  # the same numbers in another order are the same problem
        assert split_of(name, row | {"numbers": row["numbers"][::-1]}) == "test"


@pytest.mark.parametrize("spec", SPECS)
def test_chains_have_the_format_and_sometimes_fail(spec):
    rows = [row_at(spec, "train", 3, i) for i in range(300)]
    texts = [chain_for(row, 0, i) for i, row in enumerate(rows)]
    scores = score(rows, texts)
    assert all(s["format"] == 1.0 for s in scores)
    share = sum(s["accuracy"] for s in scores) / len(scores)
    assert 0 < share < 1
    for text, s in zip(texts, scores, strict=True):
        assert s["accuracy"] == float("give up" not in text and text.count(" ok") > 0) or "give up" in text


@pytest.mark.parametrize("spec", [s for s in SPECS if s.startswith("countdown")])
def test_countdown_is_solvable_and_its_chains_calculate_right(spec):
    """Brute force finds a solution; every line of a chain evaluates to one value; the verdicts are true."""
    for i in range(30):
        row = row_at(spec, "train", 0, i)
        if len(row["numbers"]) <= 4:
            assert row["target"] in reachable(tuple(map(Fraction, row["numbers"])))
        thinking = chain_for(row, 0, i).split("</think>")[0].removeprefix("<think>")
        for line in thinking.split("\n"):
            if line == "give up":
                continue
            work, need, verdict = re.fullmatch(r"(.*) need (\d+) (ok|high wait|low wait)", line).groups()
            values = {Fraction(eval(re.sub(r"(\d+)", r"Fraction(\1)", part))) for part in work.split("=")}
            assert len(values) == 1 and int(need) == row["target"]
            value = values.pop()
            truth = "ok" if value == row["target"] else "high wait" if value > row["target"] else "low wait"
            assert verdict == truth


def read_word_sum(prompt: str) -> int:
    """The answer by the words alone: a number and what its sentence says happens to it."""
    if bare := re.fullmatch(r"(?:What|How much) is ([0-9+*() -]+)\?", prompt):
        return eval(bare[1])
    *told, question = re.findall(r"[^.?]+[.?]", prompt)
    people = [s.split()[0] for s in told]
    two = re.fullmatch(r" How many (?:more )?(\w+) (?:do they have together|does (\w+) have than (\w+))\?",
        question)
    if two:
        a, b = (int(re.search(r"\d+", s)[0]) for s in told)
        assert len(told) == 2 and people[0] != people[1] and two.groups()[1:] in ((None, None), (*people,))
        assert " more " not in question or a > b
        return a - b if " more " in question else a + b
    value, owner, goods = None, people[0], None
    for sentence in told:
        numbers, words = [int(n) for n in re.findall(r"\d+", sentence)], set(re.findall(r"[a-z]+", sentence))
        verb = words & {"has", "starts", "holds", "buys", "finds", "gets", "gives", "loses", "sells", "eats"}
        assert len(verb) == 1, sentence
        match verb.pop():
            case "has" | "starts":
                assert value is None and sentence.split()[0] == owner
                value = numbers[0] * (numbers[1] if "each" in words else 1)
            case "holds":
                value *= numbers[0]
            case "gives" if sentence.split()[0] != owner:
                assert sentence.split()[2] == owner
                value += numbers[0]
            case "buys" | "finds" | "gets":
                assert "more" in words
                value += numbers[0]
            case "sells" if "each" in words:
                assert value >= 2
                value *= numbers[0]
                goods = "dollars"
            case _:
                assert "more" not in words and numbers[0] <= value
                value -= numbers[0]
    asked = re.fullmatch(r" How many (\w+) does (\w+) (?:have|get).*\?", question)
    assert asked[2] == owner and (asked[1] == goods if goods else asked[1] in prompt) and value >= 0
    return value


@pytest.mark.parametrize("spec", WORD_SUMS)
def test_word_sums_say_what_their_answer_is(spec):
    """By an independent reader of the text; correct English: 1 pen, 2 pens."""
    _, knobs = parse_task(spec)
    rows = [row_at(spec, split, 0, i) for split in ("train", "test") for i in range(1000)]
    for row in rows:
        assert str(read_word_sum(row["prompt"])) == row["answer"], row
        assert len(row["ops"]) == knobs.get("steps", 1) and set(row["ops"]) <= set(knobs.get("ops", "+-*"))
        assert 1 <= min(row["numbers"]) and max(row["numbers"]) <= knobs.get("high", 9)
        numbers = [int(n) for n in re.findall(r"\d+", row["prompt"])]
        assert numbers == row["numbers"]
        for n, noun in re.findall(r"(\d+) (?:more )?([a-z]+)", row["prompt"]):
            assert noun.endswith("s") == (n != "1") and not noun.endswith("xs"), row["prompt"]
    bare = sum(" is " in row["prompt"] for row in rows) / len(rows)
    assert abs(bare - knobs.get("plain", 20) / 100) < 0.05
    assert len({row["prompt"] for row in rows}) > (300 if bare < 1 else 10)


def test_a_sum_is_on_one_side_of_the_split_under_any_name():
    def sums(split):
        rows = [row_at("word_sums", split, 0, i) for i in range(3000)]
        return {(tuple(sorted(r["numbers"])), r["ops"]) for r in rows}

    train, test = sums("train"), sums("test")
    assert not train & test and (len(train), len(test)) == (111, 23)
    rows = distinct("word_sums", "test", 0, 128)  # an evaluation has more wordings than sums
    assert len({r["prompt"] for r in rows}) == 128


@pytest.mark.parametrize("spec", WORD_SUMS)
def test_chains_of_word_sums_are_true_and_end_in_the_answer(spec):
    rows = [row_at(spec, "train", 3, i) for i in range(100)]
    texts = [chain_for(row, 0, i) for i, row in enumerate(rows)]
    assert all(s["accuracy"] == s["format"] == 1 for s in score(rows, texts))
    for text in texts:
        for left, right in re.findall(r"(\d+ [-+*] \d+) = (\d+)\.", text):
            assert eval(left) == int(right)


def reachable(numbers) -> set:
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j:
                rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
                for value in (a + b, a - b, a * b, *([a / b] if b else [])):
                    found |= reachable((*rest, value))
    return found


def test_knobs_change_the_difficulty():
    row = row_at("countdown:n=5,high=7,ops=+,high_target=40", "train", 0, 0)
    assert len(row["numbers"]) == 5 and max(row["numbers"]) <= 7 and row["target"] == sum(row["numbers"])
    assert work_out("(7-3)*9") == "(7-3)*9=4*9=36"


@pytest.mark.parametrize("spec", ["countdwn", "countdown:n=2", "countdown:n=7", "countdown:size=3",
    "countdown:n", "countdown:n=x", "countdown:ops=+^", "countdown:ops=12", "arithmetic:n=1",
    "sort_words:n=99", "word_sums:steps=0", "word_sums:steps=3", "word_sums:high=2", "word_sums:plain=101",
    "word_sums:ops=/", "word_sums:names=3", "word_sums:steps="])
def test_wrong_task_specs_are_refused(spec):
    with pytest.raises(TaskError):
        row_at(spec, "train", 0, 0)


def test_a_task_with_few_problems_gives_those_that_it_has():
    rows = distinct("countdown:n=3,high=4,ops=+-,low_target=1", "test", 0, 30)
    keys = {json.dumps(TASKS["countdown"].key(r)) for r in rows}
    assert 0 < len(rows) == len(keys) < 30 and {split_of("countdown", r) for r in rows} == {"test"}


@pytest.mark.parametrize("line,message", [("{broken", "not valid JSON"), ("[1]", "prompt"),
    ('{"prompt": 3}', "prompt"), ('{"prompt": "x"}', "task")])
def test_a_broken_jsonl_row_names_file_and_line(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "task": "sort_words", "answer": "a"}\n\n' + line + "\n")
    with pytest.raises(TaskError, match=rf"rows\.jsonl:3: .*{message}"):
        load_jsonl(str(path))


def test_documents_and_pairs_need_no_task_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a page"}\n{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    page, pair = load_jsonl(str(path))
    assert page["text"] == "a page" and pair["task"] == "pair"


def test_jsonl_epochs_use_each_row_once_in_new_orders(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(i), "task": "sort_words", "answer": "a"}) + "\n" for i
        in range(9)))
    rows = training_rows(str(path), seed=1)
    epochs = [[rows(e * 9 + i)["prompt"] for i in range(9)] for e in range(3)]
    assert all(sorted(e) == [str(i) for i in range(9)] for e in epochs) and epochs[0] != epochs[1]


def test_chains_do_not_know_the_solution():
    """The first attempt is right about as often as a random expression, far less than always."""
    rows = [row_at(SPECS[3], "train", 0, i) for i in range(400)]
    first = [" ok" in TASKS["countdown"].chain(r, random.Random(i)).split("\n")[0] for i,
        r in enumerate(rows)]
    assert 0.02 < sum(first) / len(first) < 0.3


# ---------------------------------------------------------------------------------------- reasoning tokens

OTHER = "<|startofthought|> <|endofthought|>"


def test_any_tag_pair_encloses_the_thinking_and_rewards_read_the_same_text():
    tok, text = shipped(OTHER), "<think>1+2=3 ok</think>\n<answer>1+2</answer>"
    ids = tok.encode(text, tags=True)
    assert (ids[0], ids.count(tok.think_ids[1])) == (tok.think_ids[0], 1)
    assert tok.decode(ids).startswith("<|startofthought|>1+2=3 ok<|endofthought|>\n<answer>")
    assert tok.decode_completion([*ids, tok.eos_id]) == text
    assert tok.encode(tok.decode(ids), tags=True) == ids  # data may name the pair itself
    twice = [tok.think_ids[0]] * 2 + ids
    assert tok.decode_completion(twice) == "<think><think>" + text
    assert ids == TOK.encode(text, tags=True)  # the same two ids of the shipped vocabulary, other names


def test_reasoning_tokens_are_not_reached_by_plain_text():
    tok = shipped(OTHER)
    nasty = OTHER + " <think></think>"
    assert not set(tok.encode(nasty)) & {*tok.think_ids} and tok.decode(tok.encode(nasty)) == nasty
    assert not set(tok.encode_prompt(nasty)) & {*tok.think_ids}


@pytest.mark.parametrize("tags",
    ["<a>", "<a> <a>", "<a> <answer>", "<|eos|> <b>", "a b c", "</think> <think>"])
def test_tags_that_are_no_pair_are_refused(tags):
    with pytest.raises(TokenizerError, match="two different special tokens"):
        shipped(tags)


def test_a_checkpoint_remembers_its_reasoning_tokens(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"think_tags": OTHER}))
    assert for_checkpoint(tmp_path).think == tuple(OTHER.split())
    assert for_checkpoint(tmp_path, "<a> <b>").think == ("<a>", "<b>")
    cfg = ModelConfig(think_tags=OTHER)
    assert ModelConfig.from_hf(cfg.to_hf()).think_tags == OTHER and "think_tags" not in ModelConfig().to_hf()


def test_reasoning_tokens_must_be_in_a_tokenizer_json(tmp_path):
    from data.tokenizer import DEEPSEEK_NAMES, _byte_of_char

    added = [*DEEPSEEK_NAMES, "<|open|>", "<|close|>"]
    raw = {"model": {"type": "BPE", "vocab": {c: b for c, b in _byte_of_char().items()}, "merges": []},
        "added_tokens": [{"content": name, "id": 256 + i} for i, name in enumerate(added)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    assert for_checkpoint(tmp_path).think_ids == (-1, -1)
    tok = for_checkpoint(tmp_path, "<|open|> <|close|>")
    assert tok.think_ids == (259, 260)
    assert tok.decode_completion(tok.encode("<think>a</think>b", tags=True)) == "<think>a</think>b"
    with pytest.raises(TokenizerError, match=r"no special token <\|opne\|>; did you mean <\|open\|>"):
        for_checkpoint(tmp_path, "<|opne|> <|close|>")
