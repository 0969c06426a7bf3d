"""What tests/fuzz.py does to valid inputs: changes in the structure of JSON, in bytes, in files; and the odd
pieces that it puts into command lines, chat templates and rewards' files."""

import copy
import json
import math
import os
import random
import re
import struct
from pathlib import Path

DEEP, HUGE = "@deep@", "@huge@"  # what json.dumps cannot write: see `text_of`
ODD = [None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308, math.nan,
    math.inf, -math.inf, "", " ", "a", "0", "-1", "1e999", "true", "null", "\ud800", "\0", "\r\n", "\u202e",
    "\U0001f600", "x" * 50_000, "{prompt}", "<think>", "../..", "/dev/zero", [], {}, [[]], [None], [{}], [0],
    {"a": None}, {"": []}, {"type": "Sequence"}, [1, "1"], list(range(1000)), DEEP, HUGE]
BYTES = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 100_000, b'{"a":' * 20_000, b"\n",
    b"\r", b'"', b"\\", b"\\ud800", b"9" * 5000, b"1e999", b"NaN", b"null", b"{}", b"[]", b",",
    b"\x1f\x8b", b"PAR1"]


def changed(r: random.Random, tree):
    """A JSON value with one place in it deleted, renamed, wrapped, counted up, doubled or replaced."""
    place, key, node = None, None, tree
    while isinstance(node, dict | list) and node and (place is None or r.random() < 0.75):
        place, key = node, r.choice(list(node)) if isinstance(node, dict) else r.randrange(len(node))
        node = place[key]
    what = r.randrange(8)
    if place is None:
        return r.choice(ODD)
    if what == 0:
        del place[key]
    elif what == 1 and isinstance(place, dict):
        place[r.choice([key.upper(), f"{key} ", "", key * 2])] = place.pop(key)
    elif what == 2:
        place[key] = r.choice([[node], {"a": node}, [node, node], str(node)[:1000]])
    elif what == 3 and isinstance(node, int | float) and math.isfinite(node):
        place[key] = r.choice([node + 1, node - 1, -node, node * 2, node * 10**6, node * 10**12, node / 3])
    elif what == 3 and isinstance(node, str):
        place[key] = damaged(r, node.encode(errors="replace")).decode(errors="replace")
    elif what == 4 and isinstance(place, list):
        place.insert(r.randrange(len(place) + 1), copy.deepcopy(r.choice(place)))
    elif what == 5:
        place[key] = copy.deepcopy(r.choice(list(place.values()) if isinstance(place, dict) else place))
    else:
        place[key] = copy.deepcopy(r.choice(ODD))
    return tree


def text_of(r: random.Random, value) -> bytes:
    """JSON, also with what json.dumps does not write: brackets 100,000 deep, integers of 5,000 digits, a key
    twice, another encoding."""
    text = json.dumps(value, ensure_ascii=r.random() < 0.7)
    if r.random() < 0.05 and (keys := list(re.finditer(r'"[^"\\]{1,30}": ', text))):
        key = r.choice(keys)
        text = f"{text[: key.start()]}{key[0]}{json.dumps(r.choice(ODD[:20]))}, {text[key.start() :]}"
    text = text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{HUGE}"', "9" * 5000)
    return text.encode("utf-16" if r.random() < 0.01 else "utf-8", "surrogatepass")


def damaged(r: random.Random, data: bytes, pieces=BYTES) -> bytes:
    """Bytes with some flipped, replaced, deleted, repeated, zeroed, cut off or inserted."""
    data = bytearray(data)
    for _ in range(r.choice([1, 1, 1, 2, 5])):
        at, size = r.randrange(len(data) + 1), r.choice([1, 1, 2, 8, r.randrange(len(data) + 2)])
        what = r.randrange(8)
        if what == 0 and at < len(data):
            data[at] ^= 1 << r.randrange(8)
        elif what == 1:
            data[at : at + size] = r.randbytes(min(size, 64))
        elif what == 2:
            del data[at : at + size]
        elif what == 3:
            data[at:at] = data[at : at + size] * r.choice([1, 2, 10])
        elif what == 4:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif what == 5:
            del data[at:]
        else:
            data[at:at] = r.choice(pieces)
    return bytes(data)


def damaged_json(r: random.Random, value) -> bytes:
    """A JSON file of the value, changed in its structure, in its bytes or in both."""
    value, how = copy.deepcopy(value), r.random()
    for _ in range(r.choice([1, 1, 2, 3]) if how < 0.85 else 0):
        value = changed(r, value)
    text = text_of(r, value)
    return damaged(r, text) if how > 0.75 else text


def damaged_tensors(r: random.Random, content: bytes) -> bytes:
    """A safetensors file, damaged in its header's structure or in its bytes."""
    if r.random() < 0.4:
        return damaged(r, content)
    size = struct.unpack("<Q", content[:8])[0]
    head, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    if r.random() < 0.3:  # what a reader finds out late: another dtype and the shape that fits it
        one = head[r.choice([name for name in head if name != "__metadata__"])]
        one["dtype"], width = r.choice([("F64", 8), ("I64", 8), ("F16", 2), ("BF16", 2), ("F4", 0.5),
            ("BOOL", 1), ("I8", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("C64", 8), ("X", 1)])
        one["shape"] = [int((one["data_offsets"][1] - one["data_offsets"][0]) / width)]
        text = json.dumps({k: head[k] for k in r.sample(list(head), len(head))}).encode()
    else:
        text = damaged_json(r, head)
    length = len(text) if r.random() < 0.9 else r.choice([0, 1, len(text) - 1, 2**31, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + text + body


def odd_file(r: random.Random, path: Path):
    """Something else in a file's place: a folder, a pipe, a device, a link to nothing or to itself."""
    path.unlink(missing_ok=True)
    what = r.randrange(6)
    if what == 0:
        path.mkdir()
    elif what == 1:
        os.mkfifo(path)
    else:
        path.symlink_to(["/dev/zero", "/dev/null", "/nowhere/at/all", path][what - 2])


def damage_folder(r: random.Random, dir: Path):
    """Damages one to three files of a folder."""
    files = sorted(p for p in dir.iterdir() if p.is_file())
    for path in r.sample(files, min(len(files), r.choice([1, 1, 1, 2, 3]))):
        content, how = path.read_bytes(), r.random()
        if how < 0.03:
            odd_file(r, path)
        elif how < 0.06:
            path.unlink()
        elif path.suffix == ".json":
            path.write_bytes(damaged_json(r, json.loads(content)))
        else:
            path.write_bytes((damaged_tensors if path.suffix == ".safetensors" else damaged)(r, content))

# --------------------------------------------------------------------------------------------- command lines

NUMBERS = ["0", "1", "2", "4", "-1", "1.5", "-0.0", "1e-9", "1e3", "1e999", "nan", "inf", "-inf", "1_0",
    " 3 ", "0x10", "\u0661\u0662", "99999999999", str(2**62), str(2**63), "9" * 5000, "", "none",
    "true", "1,2"]
WORDS = [*"""a chat plain zero {prompt} adamw muon grpo dapo sapo dppo batch global k3 unbiased truncate mask
    bias replay drop error float32 bfloat16 float8 cpu cpu:0 cpu:2 cpu:99999 cuda cuda:7 mps tpu tau_pos=2
    delta=nan accuracy=1,overlong=mask format=1e999 = ,, a=b=c ( [ * (?P<a> self_attn prompt=ask,answer=reply
    prompt=prompt mcts check agreement countdown countdown:n=3 countdown:n=99 countdown:n= countdown:high=1
    arithmetic: arithmetic:n=2,ops=+ arithmetic:limit=0 sort_words:n=3 word_sums:steps=2 gym gym:
    gym:chain_sum gym:chain_sum,min_terms=-1 gym:nothing gym:composite tensorboard wandb none true yes test
    all web cold general pairs scenarios held tiny tiny/zero base1b 0,16 -1 1,,2 16,x --steps""".split(),
    "", " ", "Q: {prompt} A:", "#### (.*)", "<think> </think>", "<a> <a>", "countdown:high=" + "9" * 40,
    "-h x", "x" * 20_000, "\u4f60\u597d", "a\nb", "a\rb", "\x1b[31mred", "\udcff", "\u202eabc",
    "'\"", "9" * 5000]
PATHS = ["", "n" * 300, "a/" * 3000 + "b.jsonl", *"""rows.jsonl code.jsonl pairs.jsonl texts.jsonl
    broken.jsonl folder.jsonl loop.jsonl pipe.jsonl zero.json zero.json.gz full.jsonl missing.jsonl
    missing.parquet base other scorer adapter empty missing base/config.json /dev/zero /dev/null
    /dev/full /proc/self/mem own.py:good own.py:raises own.py:missing own.py missing.py:f folder.py:f
    own.py:good,own.py:good preference:scorer preference:base preference:missing preference:
    generative:base generative:chat rows.jsonl/x out/x ~ . ..""".split()]
OUTS = ["", "rows.jsonl/x", "/dev/full", "/dev/null/x", "out/" + "n" * 300, "base", "out/\u4f60",
    "out/a.json", "out/a.jsonl", "out/a\nb", ".", "out"]  # nothing outside of the temporary folder

# -------------------------------------------------------------------------------------------- chat templates

JINJA = [line.encode() for line in r"""{% for i in range(10**9) %}x{% endfor %}
{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
{% for i in range(99999) if messages.x %}{% endfor %}
{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}
{% macro g(n) %}{% if n %}{{ g(n-1) ~ g(n-1) }}{% endif %}{% endmacro %}{{ g(90) }}
{% set ns = namespace(a='xx') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}
{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}
{{ 'x' * 10**9 }}
{{ 9**(9**9) }}
{{ 'x'|center(10**9) }}
{{ '%999999999d' % 1 }}
{{ '%*d' % (10**9, 1) }}
{{ '{:999999999}'.format(1) }}
{{ '{:{}}'.format(1, 10**9) }}
{{ 'x'.ljust(10**9) }}
{{ (5).to_bytes(10**9, 'big') }}
{{ ('x'*99999)|replace('x', 'y'*99999) }}
{{ 'a'.join('b'*10**6) }}
{{ lipsum(n=10**6) }}
{{ 1|round(10**9) }}
{{ 'a'|slice(10**9)|list }}
{{ [1]|batch(10**9, 0)|list }}
{{ messages|tojson(indent=1000000000) }}
{{ range(99999)|sum }}
{{ ''.__class__.__mro__ }}
{{ self }}{{ loop }}{{ caller() }}
{{ cycler('a').next }}
{{ namespace(a=1).a.b }}
{{ messages }}
{{ messages[99].content }}
{{ messages.clear() }}
{{ messages|map('x')|list }}
{{ messages|sort|join }}
{{ messages|tojson }}
{{ dict(messages) }}
{{ 1 / 0 }}
{{ nothing.at.all }}
{{ 'a'|wordwrap(0) }}
{{ '\ud800' }}
{{ raise_exception('no way') }}
{{ raise_exception() }}
{{ strftime_now('%') }}
{{ strftime_now(1) }}
{% set messages = 1 %}
{% include 'x' %}
{% extends 'x' %}
{% import 'os' as os %}
{% break %}
{% filter upper %}
{% generation %}
{% raw %}
{#
{{
}}
{%
%}""".splitlines()]
JINJA += [b"\0", b"\xed\xa0\x80", b"(" * 3000, b"{{ " + b"-" * 3000 + b"1 }}", b"{% if 1 %}" * 500]

# --------------------------------------------------------------------------------------------- rewards' files

START = """import asyncio, sys, functools, threading, warnings
from decimal import Decimal
from fractions import Fraction
import numpy as np
import torch

class Odd:
    def __repr__(self):
        raise ValueError("no repr")
    def tolist(self):
        return self
    item = __float__ = __iter__ = __len__ = __call__ = tolist

class Nasty(Exception):
    def __str__(self):
        raise ValueError("no str")

"""
RETURNED = r"""1; None; []; completions; np.ones(len(completions)); torch.ones(len(completions), 2); {1: 2}; f
    Odd(); (1.0 for _ in completions); {c: 1.0 for c in completions}; iter(int, 1); 'x' * 10**6; open; 1 / 0
    f(completions); f.missing; completions[99]; asyncio.sleep(0); asyncio.run(asyncio.sleep(0)); kw['rows']
    sys.exit(3); exit(); sys.exit('a\nb'); trainer_state.global_step / 0; log_metric('reward', 'x')
    log_extra('a', 5)"""
ITEMS = "'a'; None; float('nan'); True; 10**400; 1j; Odd(); Fraction(1, 3); Decimal('sNaN')"
RAISED = """ValueError; Odd; Nasty; SystemExit; SystemExit('stop'); KeyboardInterrupt; GeneratorExit
    MemoryError; StopIteration; StopAsyncIteration; RecursionError; asyncio.CancelledError; BaseException('b')
    Warning('w'); UnicodeDecodeError('a', b'', 0, 1, 'b'); type('Q', (BaseException,), {})()
    OSError(28, 'No space left')"""


def listed(text: str) -> list[str]:
    return [one.strip() for one in re.split(r";|\n", text)]


BODIES = ["return [1.0] * len(completions)", "return [float(len(c)) for c in completions]",
    *(f"return {x}" for x in listed(RETURNED)), *(f"return [{x}] * len(completions)" for x in listed(ITEMS)),
    *(f"raise {x}" for x in listed(RAISED)), r"assert False, 'no\nway'", "yield 1.0",
    "yield from iter(int, 1)", "warnings.warn('w'); return [0] * len(completions)",
    "print('x' * 999); return [0]",
    "log_metric('a', 1); return [1] * len(completions)", "log_metric('a', float('nan')); return [1]",
    "log_extra('a', [1] * 99); return [1]", "completions.clear(); return []",
    "kw.clear(); return [1.0] * len(completions)", "threading.Thread(target=sys.exit).start(); return [1]"]
HEADS = [*(f"def f({x}):" for x in listed("""completions, **kw; completions; completions, answer, **kw; *args
    completions, /, **kw; prompts, completions, log_metric, log_extra, trainer_state
    completions, missing_column; completions=5, *, answer=[]""")), "def f():",
    "async def f(completions, **kw):",
    "def g(completions):", "class f:", "class f(dict):",
    *(f"@{x}\ndef f(completions):" for x in ("property", "staticmethod",
    "functools.cache")), *(f"f = {x}\ndef g(completions):" for x in ("lambda completions, **kw: [1.0]", "max",
    "5", "Odd()"))]
ASIDE = [f"{x}\n" for x in ("import no_such_module", "raise SystemExit(0)", "sys.exit()", "1 / 0", "def f(",
    "raise KeyboardInterrupt", "raise BaseException('b')", "\tx = 1\n  y = 2", "f = f", "# coding: no-such",
    "# coding: utf-16", "(" * 300, "x = " + "-" * 5000 + "1", "del sys", "raise Nasty", "raise Odd",
    "from . import x", "\ud800", "\0")]
PIECES = [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"(", b":", b"\t", b"    ", b'"""', b"\\", b"f", b"return "]
