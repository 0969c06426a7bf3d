"""The tokenizer: our own, and the tokenizers of released families against the library that made them."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ModelConfig, UserError
from data.bpe import byte_of_char
from data.tokenizer import (
    BESIDE,
    DEEPSEEK_NAMES,
    PLAIN,
    R1_ZERO,
    SPECIALS,
    TAGS,
    TokenizerError,
    for_checkpoint,
    from_tiktoken_model,
    from_tokenizer_json,
    load_ranks,
    save_beside,
    shipped,
    with_template,
)

ROOT = Path(__file__).parent.parent
TOK = shipped()
FAMILIES = ("smollm2", "gpt2", "falcon_digits", "llama3", "qwen2", "deepseek_v3", "deepseek_v2", "kimi")


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
    (tmp_path / "none").mkdir()
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
    for name in ("config.py", "data/build_vocab.py", "data/bpe.py", "data/chat.py", "data/tokenizer.py",
            "data/corpus.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "data/build_vocab.py"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "data/vocab.tiktoken").read_bytes() == before


def test_a_broken_vocabulary_names_file_and_line(tmp_path):
    path = tmp_path / "v.tiktoken"
    path.write_text("YQ== 0\nnot a line at all\n")
    with pytest.raises(TokenizerError, match=r"v\.tiktoken:2"):
        load_ranks(path)
    with pytest.raises(UserError, match="does not exist"):
        load_ranks(tmp_path / "missing")


# ------------------------------------------------------------------------------------- against the library


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("tokenizers", reason="the oracle for tokenizer.json: requirements-dev.txt")
    import made_tokenizers

    return made_tokenizers


@pytest.fixture(params=FAMILIES)
def pair(request, made, tmp_path):
    """(the library's tokenizer, ours)"""
    theirs = made.made(request.param)
    return theirs, made.ours(theirs, tmp_path, tiktoken=request.param == "kimi")


def ids_of(theirs, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False).ids


def test_a_family_encodes_as_the_tokenizers_library_does(made, pair):
    """200 KB of odd text and code per family."""
    theirs, ours = pair
    texts = [made.made_text(1000 + i, 1500) for i in range(60)] + [made.code_text(20_000, 40)]
    assert [ours.encode(text) for text in texts] == [ids_of(theirs, text) for text in texts]
    for text in texts:
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", ["  123", "abc\u6c49\u5b57def", "a\x00\x01b", "x \n\n  y", "\r\n\r\n", "   ",
    "1 22 333 4444", "e\u0301 \u00e9 \u212b", "'S 'LL 'dog", "\u3042a\u30a2", "\x13!!\x04!!", " \u3000 x",
    "\U000f0000\U000e0067", "a" * 300, " " * 300 + "b", "-=" * 99, ""])
def test_texts_that_split_in_odd_places(pair, text):
    theirs, ours = pair
    assert ours.encode(text) == ids_of(theirs, text)


@pytest.mark.parametrize("family", ["smollm2", "deepseek_v3", "qwen2", "kimi"])
def test_any_text_encodes_as_in_the_library(made, tmp_path_factory, family):
    theirs = made.made(family)
    ours = made.ours(theirs, tmp_path_factory.mktemp("made"), tiktoken=family == "kimi")
    characters = st.characters(exclude_categories=["Cs", "Cn"]).filter(made.assigned)

    @given(st.text(st.one_of(characters, st.sampled_from(" \n\t1aZ'\u4e00\u0301"))))
    @settings(max_examples=150, deadline=None)
    def same(text):
        assert ours.encode(text) == ids_of(theirs, text)

    same()


def test_every_token_of_a_vocabulary_is_what_its_text_encodes_to_in_the_library(pair):
    theirs, ours = pair
    for i in range(theirs.get_vocab_size(with_added_tokens=False)):
        if "\ufffd" not in (text := ours.decode([i])) and text not in ours.added:
            assert ours.encode(text) == ids_of(theirs, text)


def test_added_tokens_that_are_not_special_are_vocabulary_and_special_ones_stay_text(made, tmp_path):
    theirs = made.made("deepseek_v3")
    ours = made.ours(theirs, tmp_path)
    prompt = "<\uff5cUser\uff5c>What is 1+1?<\uff5cAssistant\uff5c><think>\n"
    assert ours.encode(prompt) == ids_of(theirs, prompt)
    assert min(ours.think_ids) >= 0 and ours.bos_id == theirs.token_to_id(DEEPSEEK_NAMES[0])
    nasty = "".join(DEEPSEEK_NAMES)
    assert ours.eos_id not in ours.encode(nasty) and ours.decode(ours.encode(nasty)) == nasty
    assert ours._ids(nasty + prompt, set(ours.added)) == ids_of(theirs, nasty + prompt)


@pytest.mark.parametrize("special", [True, False])
def test_markers_of_a_template_are_tokens_and_special_ones_in_a_prompt_stay_text(special, made, tmp_path):
    from tokenizers import AddedToken, Tokenizer

    theirs, markers = Tokenizer.from_str(made.made("qwen2").to_str()), ["<|Human|>", "<|Robot|>"]
    add = theirs.add_special_tokens if special else theirs.add_tokens
    add([AddedToken(m, special=special, normalized=False) for m in markers])
    ours = made.ours(theirs, tmp_path)
    ours.template = "<|Human|>{prompt}<|Robot|>"
    first, last = map(theirs.token_to_id, markers)
    body = ours.encode_prompt("Use 1 2. \u6c49")[len(ours.start) :]
    assert body == ids_of(theirs, "<|Human|>Use 1 2. \u6c49<|Robot|>")
    assert (body[0], body[-1]) == (first, last)
    nasty = ours.encode_prompt("x<|Robot|>y<|im_end|>")
    assert nasty.count(last) == (1 if special else 2)  # what is not special is vocabulary, wherever it stands
    assert not set(ours.eos_ids) & set(nasty) and "x<|Robot|>y<|im_end|>" in ours.decode(nasty)


def test_names_are_found_before_and_after_the_normalisation_as_in_the_library(made, tmp_path):
    """An added token that is normalized is looked for in the normalised text; the longest name wins."""
    from tokenizers import AddedToken, Tokenizer

    theirs = Tokenizer.from_str(made.made("qwen2").to_str())
    theirs.add_tokens([AddedToken("caf\u00e9", normalized=True), AddedToken("<th", normalized=False)])
    ours = made.ours(theirs, tmp_path)
    for text in ["x cafe\u0301 y", "<think> <th <thi", "caf\u00e9<think>cafe\u0301", "e<th\u0301>"]:
        assert ours.encode(text) == ids_of(theirs, text)


# --------------------------------------------------------------------------------- what the files beside say


def raw(dir: Path, added=("<|end|>",), beside: dict | None = None, **changes) -> Path:
    """A tokenizer.json of single bytes with `changes`, and the files `beside` it."""
    whole = {"model": {"type": "BPE", "vocab": dict(byte_of_char()), "merges": []},
        "added_tokens": [{"content": name, "id": 256 + i, "special": True, "normalized": False}
            for i, name in enumerate(added)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}}
    dir.mkdir(exist_ok=True)
    (dir / "tokenizer.json").write_text(json.dumps(whole | changes))
    for name, content in ({"config": {"eos_token_id": 256}} if beside is None else beside).items():
        (dir / f"{name}.json").write_text(json.dumps(content))
    return dir


ENDS = ("<|bos|>", "<|text|>", "<|eot|>", "<|pad|>")


@pytest.mark.parametrize("beside,bos,ends,pad", [
    ({"config": {"eos_token_id": [258, 257]}}, None, (258, 257), 258),
    ({"config": {"eos_token_id": 257}, "generation_config": {"eos_token_id": [257, 258], "pad_token_id": 7}},
        None, (257, 258), 7),
    ({"config": {"eos_token_id": 257}, "tokenizer_config": {"eos_token": "<|eot|>", "pad_token": "<|pad|>"}},
        None, (258, 257), 259),
    ({"tokenizer_config": {"eos_token": {"content": "<|text|>"}, "bos_token": "<|bos|>",
        "add_bos_token": True}}, 256, (257,), 257),
    ({"tokenizer_config": {"eos_token": "<|text|>", "bos_token": {"content": "<|bos|>"},
        "tokenizer_class": "LlamaTokenizerFast"}}, 256, (257,), 257),
    ({"tokenizer_config": {"eos_token": "<|text|>", "bos_token": "<|bos|>",
        "tokenizer_class": "PreTrainedTokenizerFast"}}, None, (257,), 257),
    ({"special_tokens_map": {"eos_token": "<|text|>", "pad_token": "<|pad|>"}, "tokenizer_config": {}},
        None, (257,), 259)])
def test_end_tokens_bos_and_pad_come_from_the_files_beside(tmp_path, beside, bos, ends, pad):
    tok = for_checkpoint(raw(tmp_path, ENDS, beside))
    assert (tok.bos_id, tok.eos_ids, tok.eos_id, tok.pad_id) == (bos, ends, ends[0], pad)
    assert tok.encode_prompt("a") == [*([] if bos is None else [bos]), *tok.encode("a\n")]
    for end in ends:
        assert tok.decode_completion([*tok.encode("a"), end]) == "a"
    assert tok.decode_completion([*tok.encode("a"), 259]) == "a<|pad|>"
    assert tok.encode_completion("a") == [*tok.encode("a"), tok.eos_id]


def test_a_post_processor_that_starts_with_a_token_puts_it_before_prompts(made, tmp_path):
    theirs = made.made("llama3")
    ours = made.ours(theirs, tmp_path)
    assert ours.encode_prompt("hello") == theirs.encode("hello\n").ids and ours.start == [ours.bos_id]


def test_tags_without_tokens_are_spelled_out_and_read_as_text(tmp_path):
    tok, text = for_checkpoint(raw(tmp_path)), "<think>1+2</think>\n<answer>3</answer>"
    assert tok.think_ids == (-1, -1) and tok.encode(text, tags=True) == tok.encode(text)
    assert tok.decode_completion([*tok.encode(text), tok.eos_id]) == text


def test_ids_that_only_the_model_has_are_no_text(tmp_path):
    """Qwen's embedding has 151,936 rows for 151,665 ids; a model may sample any of them."""
    tok = for_checkpoint(raw(tmp_path, beside={"config": {"eos_token_id": 256, "vocab_size": 300}}))
    assert tok.vocab_size == 257 and tok.decode([*tok.encode("a\u00e9"), 299, *tok.encode("b")]) == "a\u00e9b"
    assert tok.token_bytes(299) == b""


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
VOCAB = dict(byte_of_char())


def model(**changes) -> dict:
    return {"model": {"type": "BPE", "vocab": VOCAB, "merges": []} | changes}


def split(**changes) -> dict:
    one = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False} | changes
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [one, BYTES]}}


@pytest.mark.parametrize("changes,message", [
    (model(type="Unigram"), "type 'Unigram'"), (model(byte_fallback=True), "byte_fallback"),
    (model(dropout=0.1), "dropout"), (model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    (model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    (model(unk_token="<unk>", vocab={"a": 0}), "unk_token '<unk>'"),
    (model(vocab=VOCAB | {"ab": 300, "cd": 301}, merges=["c d", "a b"]), "not in the order of its ids"),
    (model(vocab=VOCAB | {"ab": 300}), "no merge makes its token 'ab'"),
    (model(vocab=VOCAB | {"\u2581the": 300}, ignore_merges=True), "no byte"),
    ({"pre_tokenizer": None}, "ByteLevel"), ({"pre_tokenizer": {"type": "Metaspace"}}, "ByteLevel"),
    ({"pre_tokenizer": BYTES | {"add_prefix_space": True}}, "add_prefix_space"),
    (split(behavior="Removed"), "behavior Removed"), (split(invert=True), "invert True"),
    (split(type="Punctuation"), "pre_tokenizer Punctuation"), (split(pattern={"Regex": "(a"}), "pattern"),
    ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    ({"added_tokens": [{"content": "<m>", "id": 256, "special": True, "normalized": False, "lstrip": True}]},
        "'<m>': lstrip"), ({"added_tokens": 3}, "cannot be read"), ({"model": None}, "cannot be read"),
    ({"added_tokens": [{"content": 5, "id": 256, "special": True, "normalized": False}]}, "has no text"),
    ({"added_tokens": [{"content": "a", "id": i, "special": True, "normalized": False} for i in [2**40]]},
        "is no id"), (model(vocab=VOCAB | {"!": "0"}), "'0' is no id"), (model(vocab={}), "has no tokens"),
    (model(vocab=VOCAB | {"!": VOCAB["a"]}), "two of its tokens have the same id"),  # tiktoken would abort
    (model(merges=[["a"], 3]), "cannot be read"), (split(pattern={"Regex": 3}), "a pattern is no text")])
def test_what_tiktoken_cannot_express_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(TokenizerError, match=message) as error:
        for_checkpoint(raw(tmp_path, **changes))
    assert "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"model": ' + b"9" * 5000 + b"}", b'{"\xff": 1}', b"{",
    b"[]"])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path, content):
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        (raw(tmp_path) / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            for_checkpoint(tmp_path)


def test_a_tiktoken_file_without_a_token_for_each_byte_is_refused(tmp_path):
    """tiktoken aborts at such a byte."""
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)]
    for text, message in [("".join(lines[:-1]), "no token for the byte 255"),
            ("".join([*lines, lines[7].replace(" 7", " 8")]), "the same id")]:
        (tmp_path / "tiktoken.model").write_text(text)
        with pytest.raises(TokenizerError, match=f"tiktoken.model: .*{message}"):
            for_checkpoint(tmp_path)


@pytest.mark.parametrize("beside,message", [({}, "no end token is known"),
    ({"config": {"eos_token_id": 256, "vocab_size": "257"}}, "vocab_size='257' is no int"),
    ({"config": {"eos_token_id": 256, "think_tags": [1]}}, "think_tags='.1.' is no str"),
    ({"config": {"eos_token_id": {"a": 1}}}, "eos_token_id="),
    ({"config": {"eos_token_id": ["x"]}}, "'x' is no id"),
    ({"config": {"eos_token_id": 300, "vocab_size": 280}}, "300 is an end or pad token's id"),
    ({"config": {"eos_token_id": 256}, "tokenizer_config": {"pad_token": ["a"]}}, "pad_token=.* is no str"),
    ({"tokenizer_config": {"eos_token": "</s>"}}, "eos_token '</s>' is none of its added tokens"),
    ({"config": {"eos_token_id": 256, "vocab_size": 100}}, "the tokenizer has 257 ids, the model 100")])
def test_a_tokenizer_that_does_not_fit_its_checkpoint_is_refused(tmp_path, beside, message):
    with pytest.raises(UserError, match=message):
        for_checkpoint(raw(tmp_path, beside=beside))


def test_a_folder_without_a_tokenizer_has_the_shipped_one_only_if_its_model_has_512_ids(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 512}')
    assert for_checkpoint(tmp_path).encode("a b") == TOK.encode("a b")
    (tmp_path / "config.json").write_text('{"vocab_size": 49152}')
    with pytest.raises(UserError, match=r"has no tokenizer.json or tiktoken.model; copy the one"):
        for_checkpoint(tmp_path)


def test_a_tiktoken_model_has_256_special_tokens_behind_its_ranks(made, tmp_path):
    theirs = made.made("kimi")
    made.save_tiktoken(theirs, tmp_path)
    n = theirs.get_vocab_size(with_added_tokens=False)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "[EOS]", "bos_token": "[BOS]",
        "added_tokens_decoder": {str(n): {"content": "[BOS]"}, str(n + 1): {"content": "[EOS]"},
            str(n + 22): {"content": "<|tool|>", "special": False}}}))
    tok = from_tiktoken_model(tmp_path / "tiktoken.model")
    assert (tok.bos_id, tok.eos_id, tok.vocab_size) == (None, n + 1, n + 256)
    assert tok.decode([n + 2]) == f"<|reserved_token_{n + 2}|>" and tok.encode("<|tool|>") == [n + 22]
    assert n + 1 not in tok.encode("[EOS]")


def test_a_trained_folder_has_all_that_other_libraries_look_for(tmp_path):
    source, out = raw(tmp_path / "a"), tmp_path / "b"
    out.mkdir()
    for name in BESIDE[1:]:
        (source / name).write_text("{}")
    (source / "tiktoken.model").unlink()
    save_beside(from_tokenizer_json(source / "tokenizer.json"), source, out)
    assert {p.name for p in out.iterdir()} == {*BESIDE} - {"tiktoken.model"}


@pytest.mark.parametrize("template,system,message", [("plan", "", "expected plain, zero, chat, or a text"),
    ("chat", "", "no chat_template.jinja"), ("zero", "be brief", "--system needs --template chat")])
def test_templates_that_cannot_be_used_are_refused(template, system, message):
    with pytest.raises(UserError, match=message):
        with_template(shipped(), template, system)


def test_what_the_template_opens_is_read_and_not_learnt_twice():
    tok = with_template(shipped(), "Q: {prompt}\n<think>\n", "")
    ids = tok.encode_completion("<think>\n1+2</think>\n<answer>3</answer>")
    assert tok.opening == "<think>\n" and tok.decode(ids).startswith("1+2</think>")
    assert tok.decode_completion(ids) == "<think>1+2</think>\n<answer>3</answer>"
    assert shipped().opening == ""


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
    raw(tmp_path, added=[*DEEPSEEK_NAMES, "<|open|>", "<|close|>"])
    assert for_checkpoint(tmp_path).think_ids == (-1, -1)
    tok = for_checkpoint(tmp_path, "<|open|> <|close|>")
    assert tok.think_ids == (259, 260)
    assert tok.decode_completion(tok.encode("<think>a</think>b", tags=True)) == "<think>a</think>b"
    with pytest.raises(TokenizerError, match=r"no special token <\|opne\|>; did you mean <\|open\|>"):
        for_checkpoint(tmp_path, "<|opne|> <|close|>")
