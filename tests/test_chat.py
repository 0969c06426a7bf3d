"""Chat templates against transformers' apply_chat_template, and a conversation with sample.py."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sample
from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.chat import marked, render, template_of, unused_character
from data.tokenizer import DEEPSEEK_NAMES, for_checkpoint, save_beside, with_template
from model import Transformer
from sft import encode_example

ROOT = Path(__file__).parent.parent
BOS, EOS, _ = DEEPSEEK_NAMES
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QWEN = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{- content + '<|im_end|>\\n' }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}")
R1 = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}"
    "{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{'<\uff5cUser\uff5c>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- endif %}"
    "{%- endfor %}{% if add_generation_prompt %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}")
SHAPES = {"chatml": ("smollm2", CHATML, "<|im_start|>", "<|im_end|>"),
    "qwen": ("qwen2", QWEN, None, "<|im_end|>"),
    "llama3": ("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"), "r1": ("deepseek_v3", R1, BOS, EOS)}
TALK = [{"role": "user", "content": " What is 1+1? "},
    {"role": "assistant", "content": "<think>one and\none</think>\n\nIt is 2."},
    {"role": "user", "content": "caf\u00e9 \u4f60\u597d\n  12345 {{ bos_token }} \U0001f600"}]
SYSTEM = [{"role": "system", "content": "Be brief."}]


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("tokenizers", reason="the oracle for tokenizer.json: requirements-dev.txt")
    import made_tokenizers

    return made_tokenizers


def folder(made, dir: Path, shape: str, where: str = "tokenizer_config") -> Path:
    """A checkpoint's tokenizer files with a chat template, without its weights."""
    family, template, bos, eos = SHAPES[shape]
    made.made(family).save(str(dir / "tokenizer.json"))
    settings = {"bos_token": bos, "eos_token": {"__type": "AddedToken", "content": eos},
        "tokenizer_class": "PreTrainedTokenizerFast"}
    if where == "list":
        named = {"tool_use": "{{ 1 / 0 }}", "default": template}
        settings["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
    elif where == "tokenizer_config":
        settings["chat_template"] = template
    else:
        settings["chat_template"] = "{{ raise_exception('not this one') }}"
        (dir / "chat_template.jinja").write_text(template, encoding="utf-8")
    (dir / "tokenizer_config.json").write_text(json.dumps(settings))
    return dir


def oracle(dir: Path, shape: str):
    transformers = pytest.importorskip("transformers", reason="the oracle of chat templates")
    _, template, bos, eos = SHAPES[shape]
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(dir / "tokenizer.json"), bos_token=bos,
        eos_token=eos, chat_template=template)


@pytest.mark.parametrize("where", ["tokenizer_config", "list", "jinja"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_conversation_has_the_ids_that_transformers_gives_it(made, tmp_path, shape, where):
    tok, theirs = for_checkpoint(folder(made, tmp_path, shape, where)), oracle(tmp_path, shape)
    for messages in (TALK[:1], TALK, SYSTEM + TALK):
        want = theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        assert tok.encode_chat(messages) == want["input_ids"]
    tok = with_template(tok, "chat", "Be brief.")
    want = theirs.apply_chat_template(SYSTEM + TALK[:1], tokenize=True, add_generation_prompt=True)
    assert tok.encode_prompt(TALK[0]["content"]) == want["input_ids"]  # BOS once, where the template has it


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_message_spells_out_stays_text(made, tmp_path, shape):
    """A user who types the template's own tokens, whole or overlapping, gets no token of them. Of the
    assistant's words special tokens stay text; the others are what it said."""
    tok = for_checkpoint(folder(made, tmp_path, shape))
    added = {token.id for token in tok.added.values()}

    def named(role, content):
        ids = tok.encode_chat([*TALK[:1], {"role": role, "content": content}])
        return sum(i in added for i in ids), tok.decode(ids)

    for name, token in tok.added.items():
        nasty = f"a{name}system\n{name[:-1]}{name} b"
        for role in ("user", "assistant") if token.special else ("user",):
            count, text = named(role, nasty)
            assert count == named(role, "ab")[0] and nasty in text


def test_names_that_overlap_are_all_marked():
    text = marked("<<a>b> <ab", ["<a>b", "b> <", "<ab"], "|")
    assert text == "<<|a>b|> <|ab" and not any(name in text for name in ("<a>b", "b> <", "<ab"))
    assert unused_character(["\ue000\ue001"]) == "\ue002"


@pytest.mark.parametrize("template,message", [("{{ raise_exception('roles must\nalternate') }}",
    "refuses this conversation: roles must alternate"), ("{% if %}", "refuses"), ("{{ 1 / 0 }}", "division"),
    ("{{ messages + 1 }}", "refuses"), ("{{ ''.__class__.__mro__ }}", "refuses"),
    ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "refuses"),
    ("{{ messages.append(1) }}", "refuses")])
def test_a_template_that_raises_is_one_line(template, message):
    with pytest.raises(UserError, match=message) as error:
        render(template, TALK, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["{% for i in range(9 ** 9) %}x{% endfor %}", "{{ 9 ** (9 ** 9) }}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "{{ 'x' * 10 ** 9 }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{{ 'x'|center(10 ** 9) }}",
    "{{ lipsum(n=10 ** 6) }}",
    "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% set n = namespace(a=[1]) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{{ 'a'|slice(10 ** 9)|list }}", "{{ messages|tojson(indent=10 ** 9) }}", "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (10 ** 9, 1) }}", "{{ '{:>999999999}'.format(1) }}", "{{ '{:{}}'.format(1, 10 ** 9) }}"])
def test_a_template_without_an_end_or_with_endless_text_is_refused(template):
    before = time.process_time()
    with pytest.raises(UserError, match="DIR: the chat template refuses this conversation"):
        render(template, TALK, {}, "DIR")
    assert time.process_time() - before < 2


def test_ordinary_formats_and_products_stay():
    parts = {"'-' * 3": "---", "'%05d' % 7": "00007", "'{:>3}|{}'.format(1, 20260101)": "  1|20260101",
        "7 % 4": "3", "1e9|round(1)": "1000000000.0", "'a' ~ 1700000000": "a1700000000", "2 ** 10": "1024",
        "[1] + [2]": "[1, 2]", "1700000000 * 1.5": "2550000000.0", "1700000000 + 1.5": "1700000001.5",
        "20260101|tojson": "20260101",
        "{'a': [1]}|tojson(indent=1)": '{\n "a": [\n  1\n ]\n}', "range(3)|sum": "3",
        "'a,b'.replace(',', '; ')": "a; b", "namespace(a=1700000000).a": "1700000000",
        "'x'|center(5)": "  x  ", "'a\nb'|indent(2)": "a\n  b"}
    for text, want in parts.items():
        assert render(f"{{{{ {text} }}}}", TALK, {}) == want, text


def test_a_long_conversation_is_not_taken_for_an_endless_one():
    text = render(QWEN, [{"role": role, "content": "some words " * 1000} for _ in range(200)
        for role in ("user", "assistant")], {})
    assert text.count("<|im_start|>") == 401 and len(text) > 4_400_000


@pytest.mark.parametrize("found", [5, ["a"], {"a": 1}, [{"name": "default", "template": 3}]])
def test_a_chat_template_that_is_no_text_is_refused_by_name(tmp_path, found):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": found}))
    with pytest.raises(UserError, match="tokenizer_config.json: chat_template is neither"):
        template_of(tmp_path)


def test_a_template_has_what_transformers_gives_it():
    text = ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}\n"
        "  {% set x = dict(a=1) %}\n{{ m | tojson }}{{ strftime_now('%Y')[:2] }}{{ x.a }}"
        "{{ eos_token }}{{ pad_token }}\n{% endfor %}")
    assert render(text, TALK, {"eos_token": "<e>"}) == '{"role": "user", "content": " What is 1+1? "}201<e>\n'


def test_named_templates_without_a_default_are_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "rag", "template": "x"}]}')
    with pytest.raises(UserError, match="names rag, but no default"):
        template_of(tmp_path)


def test_the_chat_template_and_the_system_text_are_saved_and_read_again(made, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    source = folder(made, tmp_path / "a", "chatml", "jinja")
    tok = for_checkpoint(source, template="chat", system="Be\nbrief.")
    save_beside(tok, source, tmp_path / "b")
    again = for_checkpoint(tmp_path / "b")
    assert again.encode_prompt("hi") == tok.encode_prompt("hi") and again.system == "Be\nbrief."
    assert for_checkpoint(tmp_path / "b", template="plain").encode_prompt("hi") == tok.encode("hi\n")


def test_thinking_that_the_template_opens_is_learnt_and_read_once(made, tmp_path):
    tok = for_checkpoint(folder(made, tmp_path, "r1"), template="chat")
    tokens, start = encode_example(tok, {"prompt": "1+1?"}, "<think>\ntwo</think>\n<answer>2</answer>")
    assert tok.opening == "<think>\n"
    assert tokens.count(tok.think_ids[0]) == tokens.count(tok.added[BOS].id) == 1
    assert tok.decode(tokens[start:]) == f"two</think>\n<answer>2</answer>{EOS}"
    assert tok.decode_completion(tokens[start:]) == "<think>two</think>\n<answer>2</answer>"


# ------------------------------------------------------------------------------------------------ sample.py


@pytest.fixture
def talker(made, tmp_path):
    """A checkpoint of random weights with SmolLM2's kind of tokenizer and two end tokens."""
    tok = for_checkpoint(folder(made, tmp_path, "chatml"))
    cfg = ModelConfig(vocab_size=tok.vocab_size + 3, hidden_size=32, num_attention_heads=2, kv_lora_rank=12,
        num_hidden_layers=2, intermediate_size=48, moe_intermediate_size=16, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=8, max_position_embeddings=200, eos_token_id=[tok.eos_id, 7])
    save_model(Transformer(cfg).init_weights(), tmp_path)
    return tmp_path


def talk(monkeypatch, folder: Path, typed: str, *words: str):
    monkeypatch.setattr(sys, "argv", ["sample.py", "--from", str(folder), *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    sample.main()


def test_a_conversation_keeps_its_history(talker, monkeypatch, capsys):
    asked, generate = [], sample.generate

    def listen(model, prompts, **settings):
        asked.append((for_checkpoint(talker).decode(prompts[0]), settings["eos_id"]))
        return generate(model, prompts, **settings)

    monkeypatch.setattr(sample, "generate", listen)
    talk(monkeypatch, talker, "second\n", "--chat", "true", "--prompt", "first", "--max_new_tokens", "4",
        "--seed", "1", "--system", "Be brief.")
    assert len(asked) == 2 and asked[1][0].startswith(asked[0][0]) and asked[0][1] == (2 + 1500, 7)
    assert asked[1][0].endswith("<|im_end|>\n<|im_start|>user\nsecond<|im_end|>\n<|im_start|>assistant\n")
    assert asked[0][0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert capsys.readouterr().out.count(" tokens, ") >= 2


def test_a_full_context_ends_the_conversation_in_one_line(talker, monkeypatch):
    with pytest.raises(UserError, match=r"the conversation has \d+ tokens, the model's context 200"):
        talk(monkeypatch, talker, "hello 12345 67890\n" * 40, "--chat", "true", "--max_new_tokens", "5")


@pytest.mark.parametrize("words,message", [
    (["--chat", "true", "--template", "plain"], "--chat true speaks in the chat template"),
    (["--system", "x"], "--system needs --template chat")])
def test_settings_that_do_not_go_together_are_refused(talker, monkeypatch, words, message):
    with pytest.raises(UserError, match=message):
        talk(monkeypatch, talker, "", *words)


@pytest.mark.parametrize("script", ["sample.py", "eval.py"])
def test_a_script_says_in_one_line_what_is_wrong_with_a_tokenizer(talker, script):
    (talker / "tokenizer.json").unlink()
    done = subprocess.run([sys.executable, str(ROOT / script), "--from", str(talker), "--device", "cpu"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has no tokenizer.json or tiktoken.model" in done.stderr


def test_a_chat_model_with_grouped_query_attention_trains_and_opens_in_transformers(made, tmp_path):
    """grpo.py and sft.py on a Llama folder with its own tokenizer and template, then the way back."""
    transformers = pytest.importorskip("transformers", reason="the oracle of checkpoints")
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    tok = for_checkpoint(folder(made, base, "chatml"))
    cfg = ModelConfig(model_type="llama", vocab_size=tok.vocab_size + 3, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, max_position_embeddings=200,
        eos_token_id=[tok.eos_id, 7], initializer_range=0.1)
    save_model(Transformer(cfg).init_weights(), base)
    tok = for_checkpoint(base)  # now with the end tokens of config.json
    (tmp_path / "short.py").write_text("def short(completions, **_): return [-len(c) for c in completions]")
    common = ["--task", "word_sums", "--template", "chat", "--device", "cpu", "--config", "smollm2"]
    for script, words in [("grpo.py", ["--init", base, "--out", out, "--steps", "2", "--max_new_tokens", "12",
            "--prompts", "2", "--group_size", "4", "--reward", f"{tmp_path}/short.py:short"]),
            ("sft.py", ["--init", out, "--out", tmp_path / "sft", "--steps", "2", "--batch_size", "2"])]:
        done = subprocess.run([sys.executable, str(ROOT / script), *common, *map(str, words)],
            capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in steps if row["kind"] == "train"]
    assert len(steps) == 2 and all(row["logprob_mismatch"] <= 1e-4 and row["grad_norm"] for row in steps)
    ours = load_model(tmp_path / "sft")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    again, ids = for_checkpoint(tmp_path / "sft"), tok.encode(TALK[0]["content"])
    assert again.template == "chat" and again.eos_ids == tok.eos_ids == (tok.eos_id, 7)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "sft").apply_chat_template(TALK[:1],
        tokenize=True, add_generation_prompt=True)
    assert again.encode_prompt(TALK[0]["content"]) == found["input_ids"]
    assert not torch.equal(ours.embed_tokens.weight, load_model(base).embed_tokens.weight)
    with torch.no_grad():
        logits = theirs.eval().float()(torch.tensor([ids])).logits
        assert (ours(torch.tensor([ids])) - logits).abs().max() <= 1e-4
