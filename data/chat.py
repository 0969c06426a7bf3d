"""A checkpoint's own chat template, rendered as transformers renders it.

The template is a program that somebody else wrote: jinja2's immutable sandbox runs it, and whatever it raises
is one line for the user.
"""

import json
import re
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from config import UserError, read_json


def template_of(dir: str | Path) -> str:
    """The text of chat_template.jinja, or of chat_template in tokenizer_config.json, which is a text or a
    list of named ones: then "default" is taken. "" without any. Raises UserError."""
    file, settings = Path(dir) / "chat_template.jinja", Path(dir) / "tokenizer_config.json"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = (read_json(settings) if settings.exists() else {}).get("chat_template") or ""
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found}
        if "default" not in named:
            raise UserError(f"{settings}: chat_template names {', '.join(map(str, named))}, but no default")
        found = named["default"]
    return found


@lru_cache
def _compiled(template: str):
    """The template in the environment that transformers gives it (utils/chat_template_utils.py)."""
    import jinja2  # torch brings it; only who uses a chat template needs it
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

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

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
        extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals |= {"namespace": Namespace, "dict": lambda *pairs, **named: dict(*pairs, **named)}
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def render(template: str, messages: list[dict[str, str]], names: dict[str, str]) -> str:
    """The conversation as text, up to where the assistant speaks next. names: bos_token, eos_token, ...
    Raises UserError with the template's own complaint, and for a template that is none."""
    try:
        return _compiled(template).render(messages=messages, tools=None, documents=None,
            add_generation_prompt=True, **names)
    except ImportError:
        raise UserError("a chat template needs jinja2, 3.1.6 or later: pip install -U jinja2") from None
    except Exception as error:  # a program of somebody else's: anything may come
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the chat template refuses this conversation: {reason}") from None


def unused_character(texts: Collection[str]) -> str:
    """A private-use character that is in none of the texts."""
    used = set().union(*texts)
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in used)


def marked(text: str, names: Collection[str], mark: str) -> str:
    """The text with `mark` after the first character of each token name in it: the template can put the text
    where it wants, and no name is found there afterwards. (A name of one character cannot be marked.)"""
    names = [re.escape(name) for name in names if len(name) > 1]
    return re.sub(f"(?=({'|'.join(names)})).", lambda m: m[0] + mark, text, flags=re.S) if names else text
