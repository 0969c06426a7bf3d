"""A checkpoint's own chat template, rendered as transformers renders it.

The template is a program that somebody else wrote: jinja2's immutable sandbox runs it, its turns and the
sizes of its texts are counted, and whatever it raises is one line for the user.
"""

import json
import math
import re
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache, wraps
from importlib.metadata import version
from pathlib import Path

from config import UserError, read_json, read_text


def template_of(dir: str | Path) -> str:
    """The text of chat_template.jinja, or of chat_template in tokenizer_config.json, which is a text or a
    list of named ones: then "default" is taken. "" without any. Raises UserError."""
    file, settings = Path(dir) / "chat_template.jinja", Path(dir) / "tokenizer_config.json"
    if file.exists():
        return read_text(file)
    found = (read_json(settings) if settings.exists() else {}).get("chat_template") or ""
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        named = {str(one.get("name")): one.get("template") for one in found}
        if "default" not in named:
            raise UserError(f"{settings}: chat_template names {', '.join(named)}, but no default")
        found = named["default"]
    if not isinstance(found, str):
        raise UserError(f"{settings}: chat_template is neither a text nor a list of named texts")
    return found


# What a rendering may cost, in turns of loops, calls, repetitions that a call asks for and thousands of
# characters; the longest text. A conversation of a million tokens stays far below.
MOST_TURNS, LONGEST = 200_000, 20_000_000
# Calls and filters that repeat something as often as a number says.
REPEAT = set("center ljust rjust zfill expandtabs to_bytes lipsum generate_lorem_ipsum indent slice batch "
    "round tojson".split())


def widest(form: str) -> int:
    """The largest number in the fields of a format, "%9d" or "{:9}": so long can its result be."""
    fields = re.findall(r"%[-+ #0-9.]*|\{[^{}]*", form)
    return max((int(number) for field in fields for number in re.findall(r"\d{1,18}", field)), default=0)


def size_after(operator: str, left, right) -> int:
    """About how large the result of an operation is: items or characters, of integers their bits."""
    lengths = [len(v) if hasattr(v, "__len__") else 0 for v in (left, right)]
    if operator == "%":
        return widest(left) if isinstance(left, str) else 0
    if operator == "+":
        return sum(lengths)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length(), right.bit_length()
        return bits[0] * max(1, right) if operator == "**" else sum(bits)
    return max((n * v for n, v in zip(lengths, (right, left), strict=True) if isinstance(v, int)), default=0)


@lru_cache
def _compiled(template: str):
    """The template in the environment that transformers gives it (utils/chat_template_utils.py)."""
    import jinja2  # torch brings it; only who uses a chat template needs it
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    if tuple(map(int, version("jinja2").split(".")[:3])) < (3, 1, 6):
        raise ImportError("older sandboxes have holes")

    class Generation(Extension):
        """{% generation %} marks what the assistant says; here it is written like the rest."""

        tags = {"generation"}  # noqa: RUF012  jinja2's own convention

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
            sort_keys=sort_keys)

    class Namespace(jinja2.utils.Namespace):
        """As in transformers: a template cannot reach Python's own attributes through a namespace."""

        def __setitem__(self, name, value):
            if str(name).startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a template sets {name}")
            super().__setitem__(name, value)

    class Counted(NodeTransformer):
        """Loops whose turns are counted; `a ~ b` as a call, which is counted, too."""

        def visit_For(self, node):
            self.generic_visit(node).iter = call("turns", node.iter)
            return node

        def visit_Concat(self, node):
            return call("joined", *self.generic_visit(node).nodes)

    def call(name, *given):
        return nodes.Call(nodes.EnvironmentAttribute(name), list(given), [], None, None)

    class Bounded(ImmutableSandboxedEnvironment):
        """A template has an end, and its texts have room: all that repeats or grows is counted."""

        intercepted_binops = frozenset(["+", "*", "**", "%"])
        left = 0  # of MOST_TURNS

        def _parse(self, *given):
            return Counted().visit(super()._parse(*given))

        def spend(self, given=(), repeats=False):
            sizes = sorted(len(v) for v in given if isinstance(v, str))
            numbers = [abs(v) for v in given if repeats and isinstance(v, int)]
            self.left -= 1 + sum(numbers) + sum(sizes) // 1000
            # of two texts one may replace each letter of the other
            if self.left < 0 or sum(sizes) > LONGEST or math.prod(sizes[-2:]) > 50 * LONGEST:
                raise OverflowError("it does not end, or its text grows without end")

        def turns(self, items):
            for item in items:
                self.spend()
                yield item

        def joined(self, *parts):
            return "".join(map(str, parts))

        def call(self, context, function, /, *given, **named):
            name = getattr(function, "__name__", "")
            form = getattr(getattr(function, "__wrapped__", None), "__self__", "") if name == "format" else ""
            if widest(form) > LONGEST:
                raise OverflowError("the result of its format is too large")
            self.spend([*given, *named.values()], name in REPEAT or re.search(r"\{[^{}]*\{", form))
            return super().call(context, function, *given, **named)

        def call_binop(self, context, operator, left, right):
            self.spend(right if isinstance(right, tuple) else (), operator == "%" and "*" in str(left))
            if size_after(operator, left, right) > LONGEST:
                raise OverflowError(f"the result of its {operator} is too large")
            return super().call_binop(context, operator, left, right)

        def bounded(self, name, function):
            @wraps(function)  # jinja2 looks at its attributes
            def filter(*given, **named):
                self.spend([v for v in given if isinstance(v, str)])
                self.spend([*given[1:], *named.values()], name in REPEAT)
                return function(*given, **named)

            return filter

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters = {name: environment.bounded(name, function)
        for name, function in (environment.filters | {"tojson": tojson}).items()}
    environment.globals |= {"namespace": Namespace, "dict": lambda *pairs, **named: dict(*pairs, **named)}
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def render(template: str, messages: list[dict[str, str]], names: dict[str, str], source: str = "") -> str:
    """The conversation as text, up to where the assistant speaks next. names: bos_token, eos_token, ...
    source: where the template is from. Raises UserError with the template's own complaint, for a template
    that is none, and for one that costs too much."""
    try:
        compiled = _compiled(template)
        compiled.environment.left = MOST_TURNS
        text = compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True,
            **names)
        compiled.environment.spend([text])
        return text
    except ImportError:
        raise UserError("a chat template needs jinja2, 3.1.6 or later: pip install -U jinja2") from None
    except Exception as error:  # a program of somebody else's: anything may come
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: the chat template refuses this conversation: {reason}".removeprefix(": ")
            ) from None


def unused_character(texts: Collection[str]) -> str:
    """A private-use character that is in none of the texts."""
    used = set().union(*texts)
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in used)


def marked(text: str, names: Collection[str], mark: str) -> str:
    """The text with `mark` after the first character of each token name in it: the template can put the text
    where it wants, and no name is found there afterwards. (A name of one character cannot be marked.)"""
    names = [re.escape(name) for name in names if len(name) > 1]
    return re.sub(f"(?=({'|'.join(names)})).", lambda m: m[0] + mark, text, flags=re.S) if names else text
