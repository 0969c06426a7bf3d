"""Mutated inputs of every kind that a user gives, each to the functions with which the scripts read it:

    python tests/fuzz.py --count 20000 --seed 0           # of each of KINDS
    python tests/fuzz.py --kind rows --first 1234 --count 1        # one of them again, with its traceback

What must come of each, through `config.run_script`: an answer, or one line that names the file or the flag
and exit code 2. A traceback, a SystemExit of something else, no clear line, more than LIMIT seconds of the
CPU, more memory than ROOM: a fault. Each input depends on its kind, the seed and its number alone. Nothing is
trained, and nothing is written outside of a temporary folder.
"""

import argparse
import contextlib
import copy
import faulthandler
import gzip
import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parent.parent))

import made_tokenizers
import torch
from odd_inputs import (
    ASIDE,
    BODIES,
    HEADS,
    JINJA,
    NUMBERS,
    OUTS,
    PATHS,
    PIECES,
    START,
    WORDS,
    changed,
    damage_folder,
    damaged,
    damaged_json,
    odd_file,
    text_of,
)
from safetensors.torch import load_file, save_file
from test_chat import SHAPES as CHATS
from test_chat import TALK
from test_shapes import PUBLIC

import config
import data.r1_data
import distill
import eval
import grpo
import rewards
import sft
from checkpoint import load_model, load_trained, save_adapter, save_model, stored_shape
from config import ModelConfig, UserError
from data.chat import template_of
from data.shapes import read_rows
from data.tokenizer import for_checkpoint, save_beside, shipped, with_template
from lora import Lora, attach
from model import Transformer
from parallel import Ranks
from preference import reward_plan, with_score_head
from sample import generate
from verify.sandbox import Result

LIMIT, WAIT, ROOM, LONGEST = 10, 60, 8 << 30, 2500  # CPU seconds; seconds; bytes; characters of the line


class Hang(BaseException):
    """An input took more than LIMIT seconds of the CPU, or WAIT in all: the machine may have other work."""


class Reached(Exception):
    """All of an input is read: a script would train, sample or measure now."""


def reach(*_, **__):
    raise Reached


# --------------------------------------------------------------------------------------- kind: command lines

# What each script does once all of its input is read.
LAST = {"grpo": ["train"], "sft": ["train"], "distill": ["train", "run_chunk"], "eval": ["evaluate"],
    "sample": ["generate"], "experiments.search": ["evaluate"], "data.r1_data": [],
    "bench.bench": ["measure", "limits", "memory", "measure_memory", "scaling", "profile", "everything"]}

@cache
def room_of_flags(dir: Path) -> Path:
    """The folder in which the command lines are tried: what PATHS names."""
    (dir := dir / "room").mkdir()
    some = [{"prompt": f"Use 1 2 {i}.", "task": "countdown", "numbers": [1, 2, i], "target": 3 + i}
        for i in range(3, 12)]
    for name, rows in {"rows": some, "texts": [{"text": f"A page {i}."} for i in range(9)],
            "code": [{"prompt": f"f {i}", "task": "code", "tests": [f"assert f() == {i}"]} for i in range(9)],
            "pairs": [{"prompt": f"q {i}", "chosen": "a", "rejected": "b"} for i in range(9)],
            "broken": [*some[:3], {"a": 1}]}.items():
        (dir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("folder.jsonl", "folder.py", "empty"):
        (dir / name).mkdir()
    for name, there in {"loop.jsonl": "loop.jsonl", "zero.json": "/dev/zero", "zero.json.gz": "/dev/zero",
            "full.jsonl": "/dev/full"}.items():
        (dir / name).symlink_to(there)
    os.mkfifo(dir / "pipe.jsonl")
    (dir / "own.py").write_text("def good(completions, **kw):\n    return [1.0] * len(completions)\n"
        "def raises(completions):\n    raise ValueError('no\\nway')\n")
    for name, kind in {"base": "experts", "other": "gqa", "scorer": "scorer", "adapter": "adapter",
            "chat": "experts", **{f"out/{name}/cold_start": "experts" for name in config.PRESETS}}.items():
        shutil.copytree(checkpoints(dir.parent)[kind], dir / name)  # cold_start: else grpo.py trains one
    (dir / "chat" / "chat_template.jinja").write_text(CHATS["chatml"][1])
    return dir


def flags(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A command line of a script, with one to four odd flags, up to where it would train."""
    script, room, out = r.choice(list(LAST)), room_of_flags(dir), f"out/{here.name}"
    module = importlib.import_module(script)
    hints = typing.get_type_hints(module.Config) | {"config": str}
    kinds = {name.rstrip("_"): str(kind) for name, kind in hints.items()}
    given = {"eval_problems": "4", "problems": "4", "samples": "4", "batch_size": "4", "count": "5",
        "prompts": "4", "init": "base", "from": "base", "out": out, "max_new_tokens": "32", "device": "cpu",
        "pool": "rows.jsonl", "task": r.choice(["countdown:n=3", "rows.jsonl"])}
    if script == "distill":
        left = r.choice([["init", "batch_size", "eval_problems"], []])
        given = {k: v for k, v in given.items() if k not in left} | ({} if left else {"on_policy": "true"})
    words = [w for k, v in given.items() if k in kinds for w in (f"--{k}", v)]
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        name = r.choice(list(kinds))
        pool = OUTS if name in ("out", "json", "save") else r.choice([WORDS, PATHS])
        if re.search("int|float|bool", kinds[name]) and r.random() < 0.9:
            pool = [["1", "2", "4"], NUMBERS][r.randrange(2)] if kinds[name] != str(bool) else ["true", "x"]
        value = r.choice(pool)
        how = r.random()
        if how < 0.85:
            words += [f"--{name}", value] if how < 0.7 else [f"--{name}={value}"]
        else:
            words.insert(r.randrange(len(words) + 1), r.choice([f"--{name}", f"-{name}", "--", f"--{name}s",
                f"--{name.upper()}", "--help", "--unsafe_code_execution"]))

    def work():
        with contextlib.ExitStack() as stack:
            for target in (mock.patch.object(sys, "argv", [f"{script}.py", *words]),
                    mock.patch("parallel.launch"), mock.patch.object(config, "unsafe_code_execution", False),
                    mock.patch.object(rewards, "run_many", no_programs), inside(room),
                    mock.patch.object(eval, "distinct", few(eval.distinct)),
                    mock.patch.dict(data.r1_data.KINDS, {k: few(v) for k, v in data.r1_data.KINDS.items()}),
                    *(mock.patch.object(module, name, reach) for name in LAST[script])):
                stack.enter_context(target)
            module.main()

    shown = [config.one_line(UserError(w)) for w in words]  # as the line has them
    parts = [part[:40] for w in shown for part in [w, *re.split(r"[=\s,:]+", w)] if part]
    return work, ["config.json", "checkpoint folder", "/dev/", *parts]


@contextlib.contextmanager
def inside(dir: Path):
    before = os.getcwd()
    os.chdir(dir)
    try:
        yield
    finally:
        os.chdir(before)


def few(make: Callable) -> Callable:
    """The maker of rows, for up to 1,000 of them: more are much work, and no hang."""
    def made(*given):
        count = given[-1] if isinstance(given[0], str) else given[0].count
        return reach() if count > 1000 else make(*given)

    return made


def no_programs(jobs, **_):
    """In place of the sandbox, which tests/attacks.py is about: a process for each program."""
    return [Result(0, 1, "") for _ in jobs]


# ---------------------------------------------------------------------------------------- kind: rows of data

OWN = [{"prompt": "Use 3 7 to make 10.", "task": "countdown", "numbers": [3, 7], "target": 10},
    {"prompt": "1+1?", "task": "math", "answer": "2", "language": "en", "completion": "<think>1</think>\n2"},
    {"prompt": "1+1?", "task": "math_boxed", "answer": r"\frac{4}{2}", "solution": "It is 2."},
    {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "task": "number",
        "answer": 2.5},
    {"prompt": "f", "task": "code", "tests": ["assert f() == 1"], "timeout": 2, "memory_mb": 300},
    {"prompt": "f", "task": "code", "tests": [{"input": "1", "output": "2", "tolerance": 0.1}]},
    {"prompt": "q", "task": "exact", "answer": "a b"},
    {"prompt": "Sort dog apple.", "task": "sort_words", "answer": "apple dog"},
    {"prompt": "Compute (1+2)*3.", "task": "arithmetic", "answer": "9"},
    {"prompt": "Use 3 7 to make 10.", "task": "countdown", "numbers": [3, 7, 2], "target": 10, "ops": "+-",
        "limit": 99},
    {"prompt": "What is 7 + 3?", "task": "word_sums", "numbers": [7, 3], "ops": "+", "answer": "10"},
    {"prompt": "Hi?", "task": "general", "answers": ["yes"], "never": ["no way"], "refusals": ["no"],
        "completion": [{"role": "assistant", "content": "yes"}]},
    {"prompt": "q", "chosen": "a", "rejected": "b", "aspect": "harmless"}, {"text": "A page."},
    {"prompt": "q", "task": "gym", "dataset": "chain_sum", "seed": 0, "index": 1},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
TEXTS = ["<think>3+7=10</think>\n<answer>3+7</answer>", "<answer>2</answer>", r"so \boxed{2}", "",
    "\ufffd<think>", "<think>1</think><answer>" + "(" * 3000 + "1" + ")" * 3000 + "</answer>"]
COLUMNS = ["prompt=prompt,answer=answer", "prompt=problem,answer=answer,task=math", "prompt=a.b", "text=text",
    "prompt=question,answer=answer,task=number", "prompt=prompt,completion=completion"]


def rows(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A file of rows in one of the public shapes or in ours, as one of the scripts reads it."""
    base = r.choice([*(raw for raw, _, _ in PUBLIC.values()), *OWN, *OWN])
    some = [copy.deepcopy(base) for _ in range(r.choice([2, 3, 5]))]
    for i, row in enumerate(some):  # else one prompt is all that there is
        for key in ("prompt", "question", "problem", "Problem", "query", "instruction"):
            if isinstance(row.get(key), str) and row.get("task") not in ("arithmetic", "sort_words"):
                row[key] += f" {i}"
    suffix = r.choice([".jsonl"] * 7 + [".json", ".jsonl.gz", ".json.gz", ".parquet", ""])
    path = here / f"rows{suffix}"
    if not suffix:
        shutil.copytree(saved_rows(dir), path)
        damage_folder(r, path)
    elif r.random() < 0.01:
        odd_file(r, path)
    else:
        path.write_bytes(file_of(r, some, suffix))
    reading = dict(task=str(path), columns=r.choice(["", "", r.choice(COLUMNS)]), too_long=r.choice(["error",
        "drop"]), broken=r.choice(["error", "drop"]))
    reading["answer_pattern"] = r.choice(["", r"(\d+)"]) if "answer" in reading["columns"] else ""
    learnt = {*base} & {*"completion text chosen messages conversations response output".split()}
    reader = r.choice([for_sft if learnt else r.choice(READERS), r.choice(READERS)])
    weights = r.choice(["", "", "accuracy=1,language=1,overlong=1,repetition=1"])

    def work():
        with mock.patch.object(rewards, "run_many", no_programs):
            reader(reading, weights, here / "written.jsonl")

    return work, []


def file_of(r: random.Random, some: list[dict], suffix: str) -> bytes:
    """The bytes of a file of rows, damaged."""
    how = r.random()
    if suffix == ".parquet" and how < 0.4:
        return damaged(r, parquet(json.dumps(some)))
    for _ in range(r.choice([1, 1, 2, 3]) if how < 0.85 else 0):
        at = r.randrange(len(some))
        some[at] = changed(r, some[at])
    if suffix == ".parquet":
        return parquet(json.dumps(some))
    lines = [text_of(r, row) for row in some]
    array = suffix.startswith(".json") and not suffix.startswith(".jsonl") or r.random() < 0.1
    text = b"[" + b",\n".join(lines) + b"]" if array else b"\n".join(lines) + b"\n"
    text = damaged(r, text) if how > 0.8 else text
    packed = gzip.compress(text, 1, mtime=0) if suffix.endswith(".gz") else text
    return damaged(r, packed) if suffix.endswith(".gz") and r.random() < 0.3 else packed


@cache
def parquet(text: str) -> bytes:
    import pyarrow.parquet

    out = io.BytesIO()
    with contextlib.suppress(Exception):  # columns of mixed types, rows that are none
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(json.loads(text)), out)
    return out.getvalue()


@cache
def saved_rows(dir: Path) -> Path:
    """A folder as the datasets library saves it."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    some = [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(5)]
    Dataset.from_list(some).save_to_disk(dir / "saved")
    return dir / "saved"


@cache
def tokenizers() -> list:
    chat = shipped()
    chat.chat_template = CHATS["chatml"][1]
    return [shipped(), with_template(chat, "chat", "")]


CFG = ModelConfig(max_position_embeddings=400)
STUB = SimpleNamespace(cfg=CFG, check_length=lambda n: Transformer.check_length(SimpleNamespace(cfg=CFG), n))


def for_grpo(reading: dict, weights: str, out: Path):
    cfg = grpo.Config(**reading, init="x", reward_weights=weights)
    plan = grpo.plan_of_run(cfg)
    train, held = grpo.problems(cfg, plan)
    grpo.rows_of_run(train, cfg)
    for tokenizer in tokenizers():
        train, held = (eval.fitting_prompts(STUB, tokenizer, some, 100, cfg.too_long)
            for some in (train, held))
    some, texts = [row for row in train[:3] for _ in TEXTS], TEXTS * len(train[:3])
    rewards.score(some, texts, plan, [3] * len(some), 100, [[1, 2, 3]] * len(some), [{} for _ in some])


def for_sft(reading: dict, weights: str, out: Path):
    cfg = sft.Config(**reading)
    for tokenizer in tokenizers():
        every = sft.endless(sft.usable_rows(cfg, tokenizer, 400), 0)
        for i in range(4):
            sft.encode_row(STUB, tokenizer, every(i), 0, i)


def for_eval(reading: dict, weights: str, out: Path):
    cfg, plan = eval.HeldOut(**reading), rewards.NO_PLAN._replace(strict=False)
    some = eval.held_out(cfg.task, 8, whole_file=True, plan=plan, columns=cfg.columns, broken=cfg.broken,
        answer_pattern=cfg.answer_pattern)
    some = eval.fitting_prompts(STUB, tokenizers()[1], some, 100, cfg.too_long)
    at = [i for i in range(len(some)) for _ in TEXTS]
    records = eval.judged(some, at, TEXTS * len(some), [[1]] * len(at), [True] * len(at), plan, 9)
    eval.table({"held out": eval.summarize(records, len(TEXTS))})
    out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def for_distill(reading: dict, weights: str, out: Path):
    cfg = distill.Config(**reading)
    some = eval.fitting_prompts(STUB, tokenizers()[0], distill.prompt_rows(cfg), 100, cfg.too_long)[:4]
    kept = [distill.decide(row, TEXTS, 2, None, 0.5)[0] for row in some]
    data.r1_data.write_jsonl(out, [row | {"completion": text}
        for row, texts in zip(some, kept, strict=True) for text in texts])
    distill.student_rows(cfg)


def for_r1_data(reading: dict, weights: str, out: Path):
    kind, key = random.Random(reading["task"]).choice([("cold", "pool"), ("scenarios", "task")])
    cfg = data.r1_data.Config(kind=kind, count=9, **{key: reading["task"]})
    data.r1_data.write_jsonl(out, data.r1_data.KINDS[kind](cfg))
    read_rows(str(out))


READERS = [for_grpo, for_grpo, for_sft, for_eval, for_distill, for_r1_data]

# ------------------------------------------------------------------------------------ kind: tokenizers' files


@cache
def tokenizer_folders(dir: Path) -> list[Path]:
    """A folder with the files of a tokenizer of each family, as tokenizer.json or tiktoken.model."""
    made = []
    for name in made_tokenizers.families():
        (here := dir / f"tokenizer of {name}").mkdir()
        tok = made_tokenizers.made(name, 400)
        made_tokenizers.save_tiktoken(tok, here) if name == "kimi" else tok.save(str(here / "tokenizer.json"))
        _, template, bos, eos = next((v for v in CHATS.values() if v[0] == name), (name, None, None, None))
        settings = {"bos_token": bos, "eos_token": eos and {"__type": "AddedToken", "content": eos},
            "pad_token": eos, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
        if name == "kimi":
            size = tok.get_vocab_size()
            settings["added_tokens_decoder"] = {str(size): {"content": "[EOS]", "special": True}}
        files = {"tokenizer_config": {k: v for k, v in settings.items() if v}, "config": {"vocab_size": 1024,
            "think_tags": ""}, "generation_config": {"eos_token_id": 5},
            "special_tokens_map": eos and {"eos_token": eos}}
        for file, raw in files.items():
            if raw:
                (here / f"{file}.json").write_text(json.dumps(raw))
        if name == "qwen2":
            (here / "chat_template.jinja").write_text(template)
            (here / "template.txt").write_text("Q: {prompt}\nA: ")
        for_checkpoint(here)
        made.append(here)
    return made


def tokenizer(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A folder with a tokenizer's files, as all scripts read it, and some texts there and back."""
    shutil.copytree(r.choice(tokenizer_folders(dir)), here, dirs_exist_ok=True)
    damage_folder(r, here)
    template, tags = r.choice(["", "", "chat", "plain"]), r.choice(["", "", "", "<think> </think>"])

    def work():
        tok = for_checkpoint(here, tags, template, "Be brief." if template == "chat" else "")
        for text in ("Use 3 7 to make 10.", "caf\u00e9 \u4f60\u597d \ud800 <think><|im_end|>", ""):
            tok.decode(tok.encode_prompt(text)), tok.most_ids({"prompt": text}), tok.opens(text)
        if tok.chat_template:
            tok.encode_chat(TALK)
        tok.decode_completion(tok.encode_completion("<think>1</think>\n<answer>2</answer>"))
        (here / "to").mkdir()
        save_beside(tok, here, here / "to")

    return work, []


# ----------------------------------------------------------------------------------------- kind: checkpoints


@cache
def checkpoints(dir: Path) -> dict[str, Path]:
    """Folders of tiny models: with experts; GQA with a tied head, in three shards; a scorer; FP8; an
    adapter."""
    small = dict(vocab_size=512, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, eos_token_id=506,
        bos_token_id=505, pad_token_id=507)
    experts = ModelConfig(**small, moe_intermediate_size=8, n_routed_experts=4, kv_lora_rank=8,
        qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4)
    gqa = ModelConfig(**small, model_type="qwen3", head_dim=8, tie_word_embeddings=True, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})
    found = {}
    for name in ("experts", "gqa", "scorer", "fp8", "adapter"):
        here = found[name] = dir / f"checkpoint of {name}"
        model = Transformer(experts if name == "experts" else gqa).init_weights()
        if name == "adapter":
            attach(model, Lora(2, 4.0, base=str(found["gqa"])))
            save_adapter(model, here)
            save_file(load_file(here / "adapter_model.safetensors"), here / "adapter_model.safetensors")
            (here / "template.txt").write_text("{prompt}\n")
            continue
        save_model(with_score_head(model) if name == "scorer" else model, here)
        run = {"task": "countdown:n=3", "eval_task": "", "columns": "", "strict_format": True}
        file, held = here / "model.safetensors", load_file(here / "model.safetensors")
        for other in {*here.iterdir()} - {file, here / "config.json"}:  # somebody else's folder has no more
            other.unlink()
        save_file(held, file)  # nor do its weights say that they have a manifest
        (here / "run.json").write_text(json.dumps(run))
        if name == "fp8":
            raw = json.loads((here / "config.json").read_text())
            raw["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 8]}
            (here / "config.json").write_text(json.dumps(raw))
            for key in [k for k in held if k.endswith("proj.weight")]:
                held[f"{key}_scale_inv"] = torch.ones([-(-n // 8) for n in held[key].shape])
                held[key] = held[key].to(torch.float8_e4m3fn)
            save_file(held, file)
        if name == "gqa":
            where = {key: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, key in enumerate(held)}
            for to in set(where.values()):
                save_file({k: t for k, t in held.items() if where[k] == to}, here / to)
            index = json.dumps({"metadata": {}, "weight_map": where})
            (here / "model.safetensors.index.json").write_text(index)
            file.unlink()
        load_model(here)
    return found


def checkpoint(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A model's folder, as all scripts load it, and two tokens of it."""
    kind, way = r.choice(list(checkpoints(dir))), r.randrange(5)
    shutil.copytree(checkpoints(dir)[kind], here, dirs_exist_ok=True)
    damage_folder(r, here)

    def work():
        if way == 4:
            eval.opened_checkpoint(eval.Config(from_=str(here), problems=2, max_new_tokens=8, device="cpu"))
        tok, ranks = for_checkpoint(here), Ranks(0, 1, "cpu")
        stored_shape(here)
        if way < 2:
            run = [sft.Config(dtype="bfloat16"), sft.Config(lora_rank=2, lora_alpha=4.0)][way]
            model = load_trained(here, ranks, run, here)
        else:
            model = load_model(here, dtype="bfloat16" if way == 2 else "")
        prompt = tok.encode_prompt("1+1?")
        model.check_length(len(prompt) + 2)
        generate(model, [prompt], max_new_tokens=2, eos_id=tok.eos_ids, seed=0)

    return work, ["../..", *([checkpoints(dir)["gqa"].name] if kind == "adapter" else [])]  # a task of ODD


# -------------------------------------------------------------------------------------- kind: chat templates


@cache
def speakers(dir: Path) -> list:
    return [for_checkpoint(here) for here in tokenizer_folders(dir)]


def template(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A chat template in a file of its own or in tokenizer_config.json, and conversations in it."""
    text, file = damaged(r, r.choice(list(CHATS.values()))[1].encode(), JINJA), here / "chat_template.jinja"
    if r.random() < 0.6:
        file.write_bytes(text)
        if r.random() < 0.02:
            odd_file(r, file)
    else:
        text = text.decode(errors="replace")
        raw = {"chat_template": r.choice([text, [{"name": k, "template": text} for k in ("default", "x")]])}
        content = damaged_json(r, raw) if r.random() < 0.3 else json.dumps(raw).encode()
        (here / "tokenizer_config.json").write_bytes(content)
    base, long = r.choice(speakers(dir)), [{"role": "user", "content": "7 " * 2000}]

    def work():
        tok = copy.copy(base)
        tok.chat_template, tok.source, tok._opening = template_of(here), str(here), {}
        if tok.chat_template:
            tok = with_template(tok, "chat", "Be brief.")
            tok.encode_prompt("1+1?"), tok.encode_chat(TALK), tok.encode_chat(long)
            tok.encode_completion("2")

    return work, []


# --------------------------------------------------------------------------------------- kind: rewards' files


def reward(r: random.Random, dir: Path, here: Path) -> tuple[Callable, list[str]]:
    """A file of --reward or --judge, tried on rows as a run does before its first step, then on a batch."""
    path = here / "reward.py"
    body = "".join(f"    {x}\n" for x in r.choice([BODIES[:1], r.sample(BODIES, 1), r.sample(BODIES, 2)]))
    aside = r.choice(["", "", "", "", "", r.choice(ASIDE)])
    content = f"{START}{aside}{r.choice([HEADS[0], r.choice(HEADS)])}\n{body}".encode(errors="surrogatepass")
    path.write_bytes(damaged(r, content, PIECES) if r.random() < 0.2 else content)
    if r.random() < 0.01:
        odd_file(r, path)
    where = f"{path}:{r.choice(['f'] * 8 + ['g', '', 'Odd', 'sys', '__name__', 'f.g'])}"
    weights = r.choice(["", "", "", "f=0.5,accuracy=1", "f=nan", "h=1", "overlong=mask"])
    task, judge = r.choice(["math", "mine"]), r.random() < 0.2
    some = [{"prompt": f"q{i}", "task": task, "answer": "2", "extra": i} for i in range(3)]

    def work():
        try:
            if judge:
                decider = distill.judge_of(where)
                return distill.decide({"prompt": "q", "task": "general"}, TEXTS[:3], 2, decider, 0.5)
            plan = reward_plan(where, weights)
            rewards.check_rows(some, "rows.jsonl", plan)
            rewards.score(some, TEXTS[:3], plan, [1, 2, 3], 9, [[1], [2], [3]], [{}, {}, {}])
        finally:
            sys.modules.pop(f"own reward {path}", None)

    stops = ["stopped"] if b"raise KeyboardInterrupt" in content else []
    return work, ["reward ", "log_metric", "log_extra", *stops]


# ------------------------------------------------------------------------------------------------- the check

KINDS = {"flags": flags, "rows": rows, "tokenizer": tokenizer, "checkpoint": checkpoint, "template": template,
    "reward": reward}


def outcome(work: Callable, names: list[str]) -> tuple[str, str]:
    """What comes of a piece of work as a script's main: ("answer", ""), ("refused", the line) or ("fault",
    why). names: one of them stands in the line, or a flag."""
    said, late = [], []
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, LIMIT), signal.SIGALRM: (signal.ITIMER_REAL, WAIT)}

    def main():
        with contextlib.suppress(Reached):
            work()

    def alarm(*_):
        late.append("".join(traceback.format_stack()[:-1]))
        raise Hang

    before = {sign: signal.signal(sign, alarm) for sign in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds, seconds)
    try:
        with mock.patch.object(config, "last_words", lambda text, code, _: said.append((text, code))), \
                mock.patch.object(config, "leave", lambda code: None), \
                mock.patch.object(sys, "stdin", io.StringIO("1+1?\n")), \
                contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config.run_script(main)
    except (SystemExit, KeyboardInterrupt) as error:
        said.append((traceback.format_exc(), f"{type(error).__name__} {error}"))
    finally:
        for sign, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(sign, before[sign])
    if late:
        return "fault", f"{late[0]}more than {LIMIT} s of the CPU, or {WAIT} s"
    text, code = said[0] if said else ("", 0)
    if not said or code == "SystemExit 0" and "--help" in names:
        return "answer", ""
    if code == 130 and "stopped" in names:
        return "refused", "stopped, as by Ctrl-C"
    line = text.removesuffix("\n")
    if code != 2:
        return "fault", f"{text.rstrip()} (exit code {code})"
    if not text.startswith("error: ") or not line.isprintable() or len(line) > LONGEST or len(line) < 12:
        return "fault", f"no clear line: {line[:300]!r} ... ({len(line)} characters)"
    if not any(name in line for name in names) and "--" not in line:
        return "fault", f"names no file and no flag: {line[:300]}"
    return "refused", line


def run(kind: str, seed: int, number: int, dir: Path) -> tuple[str, str, float]:
    """(what comes of one input, its line or traceback, seconds of the CPU)."""
    here = dir / f"{kind}{number}"
    here.mkdir()
    work, names = KINDS[kind](random.Random(f"{kind}/{seed}/{number}"), dir, here)
    faulthandler.dump_traceback_later(5 * WAIT, exit=True)  # what no signal ends
    start = time.process_time()
    what, text = outcome(work, [here.name, *names])
    seconds = time.process_time() - start
    faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(here)
    return what, text, seconds


def kind_of(fault: str) -> str:
    """What faults of one kind have in common: the last line, and the last places in the project."""
    found = re.findall(r'File "[^"]*/((?:\w+/)?\w+\.py)", line (\d+)', fault)
    places = [f"{name}:{line}" for name, line in found if not re.search(r"tests/|fuzz|reward\d", name)]
    return f"{re.sub('[0-9]+', 'N', fault.strip().splitlines()[-1])[:100]} | {' '.join(places[-2:])}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="of these only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--show", type=int, default=10, help="kinds of faults that are printed")
    args = parser.parse_args()
    sys.dont_write_bytecode = True  # of two rewards' files of one second Python would read one
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for library in ("pyarrow.parquet", "datasets", "reasoning_gym"):  # not in the time of an input
        importlib.import_module(library)
    faulthandler.enable()  # a library that ends the process says where
    total = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kind or KINDS:
            begin, counts, slowest, faults = time.perf_counter(), Counter(), (0.0, 0, ""), {}
            for number in range(args.first, args.first + args.count):
                what, text, seconds = run(kind, args.seed, number, Path(folder))
                counts[what] += 1
                slowest = max(slowest, (seconds, number, text))
                if what == "fault":
                    faults.setdefault(kind_of(text), []).append((number, text))
                if args.count == 1:
                    print(text or what)
            print(f"{kind}: {args.count:,} inputs in {time.perf_counter() - begin:.0f} s: "
                f"{counts['answer']:,} answers, {counts['refused']:,} refused in one line, "
                f"{counts['fault']:,} faults; the slowest took {slowest[0]:.2f} s of the CPU: number "
                f"{slowest[1]} {slowest[2].strip()[-100:]}", flush=True)
            for fault, some in sorted(faults.items(), key=lambda item: -len(item[1]))[: args.show]:
                again = f"--kind {kind} --seed {args.seed} --first {some[0][0]} --count 1"
                print(f"  {len(some)} x {fault}\n    {again}")
            total += counts["fault"]
    sys.exit(int(total > 0))


if __name__ == "__main__":
    main()
