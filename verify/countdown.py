"""The exact value of what a Countdown answer says, however its signs are written, and the attempts of its
thinking; no eval, no floats.

Read are + - * / and brackets of three kinds over whole numbers, a sign in front, and other spellings of
these: signs of print (U+2212, U+00D7, U+00F7, ...), LaTeX (\\times, \\div, \\frac{1}{2}, \\left( ...),
fullwidth characters, `x` between two numbers or brackets, thousands as in 1,234, and what encloses it all:
$ $, \\( \\), \\boxed{}, ` `, ** **, a full stop behind. Not read are powers, decimals, // and --, and a
product without its sign: 6/2(3) is 9 to some and 1 to others.
"""

import ast
import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_EXPRESSION = 200  # characters

_SPELLINGS = {"-": "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\u2796", "+": "\u2795\ufe62",
    "*": "\u00d7\u00b7\u2022\u2217\u2219\u22c5\u2715\u2716\u2a2f", "/": "\u00f7\u2044\u2215\u2797",
    " ": "\u200b\u2060\ufe0f\ufeff"}
_CHARACTERS = {ord(c): sign for sign, some in _SPELLINGS.items() for c in some} | {
    0xFEE0 + code: chr(code) for code in range(0x21, 0x7F)}  # fullwidth forms
# In this order. What goes away leaves a space: 7$3 is not 73.
_REWRITTEN = [(re.compile(pattern), by) for pattern, by in (
    (r"\s+", " "), (r"^ ?(\*\*|`+)(.*)\1 ?$", r"\2"), (r"\.\s*$", ""), (r"\$|\\[()\[\]]", " "),
    (r"^\s*\\boxed ?{(.*)}\s*$", r"\1"), (r"\.\s*$", ""), (r"\\([{}])", r"\1"),
    (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"), (r"\\div(?![A-Za-z])", "/"),
    (r"\\(?:(?:left|right|big|Big|quad)(?![A-Za-z])|[,;:! ])", " "), (r"\{,\}", ","),
    (r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])", lambda match: match[0].replace(",", "")),
    (r"(?<=[\d)\]}]) ?[xX] ?(?=[\d(\[{])", "*"))]
_FRACTION = re.compile(r"\\[dt]?frac ?{([^{}]*)} ?{([^{}]*)}")
_ROUND = str.maketrans("[]{}", "()()")
_PLAIN = re.compile(r"(?:[0-9+\-/()a-wyz]|\*(?!\*)| (?! ))+")  # nothing to rewrite
# In an attempt: a number with its sign and brackets; numbers with operations between them, as many as there
# are.
_NUMBER = r"(?:[-(] ?)*\d+(?:\.\d+)?(?: ?\))*"
_RUN = re.compile(rf"(?<![A-Za-z_\d])(?<!\d\.){_NUMBER}(?: ?[-+*/] ?{_NUMBER})*", re.ASCII)


def plain_expression(text: str) -> str:
    """The text with the signs of Python, where it has others for the same."""
    if _PLAIN.fullmatch(text):
        return text.strip()
    text = text.translate(_CHARACTERS)
    for pattern, by in _REWRITTEN:
        text = pattern.sub(by, text)
    while _FRACTION.search(text):  # from the innermost one outwards
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    return text.strip()


def expression_value(expression: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of an expression (see above) and the numbers that it uses; None for anything else, a
    division by zero, and what is too long or too deep."""
    if len(expression) > MAX_EXPRESSION:
        return None
    expression = plain_expression(expression)
    signs = re.search(r"--|\+\+|[-+] ?[-+] ?[-+]", expression)
    if signs or not re.fullmatch(r"[0-9+\-*/()\[\]{} ]+", expression):
        return None
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    numbers: list[int] = []

    def value(node) -> Fraction:
        match node:
            case ast.Constant(value=int()):
                numbers.append(node.value)
                return Fraction(node.value)
            case ast.List(elts=[inner]) | ast.Set(elts=[inner]):  # [7-3] and {7-3} as brackets
                return value(inner)
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.UnaryOp(op=ast.UAdd()):
                return value(node.operand)
            case ast.BinOp(op=ast.Add()):
                return value(node.left) + value(node.right)
            case ast.BinOp(op=ast.Sub()):
                return value(node.left) - value(node.right)
            case ast.BinOp(op=ast.Mult()):
                return value(node.left) * value(node.right)
            case ast.BinOp(op=ast.Div()):
                return value(node.left) / value(node.right)
        raise ValueError("not part of the game")

    try:
        return value(tree), numbers
    except (ValueError, ZeroDivisionError):
        return None


def stated_value(text: str) -> int | None:
    """A whole number that stands alone, else None."""
    found = re.fullmatch(r"-?[0-9]{1,20}", plain_expression(text)) if len(text) <= MAX_EXPRESSION else None
    return found and int(found[0])


# --------------------------------------------------------------------------------- attempts in the thinking


class Attempt(NamedTuple):
    """One attempt of a completion, as `attempts` reads it."""

    expression: str  # without spaces, in the signs of Python
    value: Fraction | None  # its exact value; None where it has none (a division by zero, a bracket missing)
    numbers: list[int]  # that it uses
    true: bool  # every step has exactly its value
    repeated: bool  # the same expression came before in this completion


def attempts(text: str) -> list[Attempt]:
    """The attempts of a completion's thinking (up to </think>), in order.

    An attempt is an expression of two or more numbers with `=` behind it, anywhere in a line, and the steps
    that follow: `(7-3)*9=4*9=36 need 40 low` is one, `Try 7 - 3 = 4, then 4 \\times 9 = 36` has two. So a
    model that calculates one operation at a time makes an attempt of each. It is true by arithmetic alone,
    whatever numbers it uses: all steps have the value of the expression, exactly (7/2=3.5 is true, 7/3=2.33
    is not); false are also a step that is no expression (`7-3=?`) and an expression that cannot be read or is
    longer than MAX_EXPRESSION. Left out is what the end of an unfinished thinking may have cut."""
    thinking, end, _ = text.translate(_CHARACTERS).partition("</think>")
    lines = thinking.replace("<think>", "").splitlines()
    found, seen = [], set()
    for i, line in enumerate(lines):
        cut = not end and i == len(lines) - 1 and thinking[-1] in "0123456789+-*/(="
        for expression, *rest in _attempts_of(line, cut) if "=" in line else ():
            found.append(Attempt(expression, *rest, expression in seen))
            seen.add(expression)
    return found


@lru_cache(1 << 14)
def _attempts_of(line: str, cut: bool) -> list[tuple]:
    """Of one line: (expression, value, numbers, true) of each attempt. cut: the line's end may be missing."""
    parts = [_readable(part) for part in re.split("=+>?", line)]
    found, i, last = [], 0, len(parts) - 1
    while i < last:
        runs, i = [*_RUN.finditer(parts[i])], i + 1
        if not runs or runs[-1].end() < runs[-1].endpos or len(re.findall(r"[\d.]+", runs[-1][0])) < 2:
            continue
        expression, steps = runs[-1][0].removeprefix("- "), []  # a dash of prose, not a sign
        while True:
            step = _RUN.match(parts[i])
            steps.append(step[0] if step else "")
            behind = parts[i][len(steps[-1]) :]
            if behind or i == last:
                break
            i += 1
        if cut and i == last and not behind.strip("+-*/( "):
            continue
        excess = steps[-1].count(")") - steps[-1].count("(")
        if excess > 0 and steps[-1].endswith(")" * excess):  # brackets of prose: (so 7-3=4), ((7-3)*9=36)
            steps[-1] = steps[-1][:-excess]
            opened = min(excess, expression.count("(") - expression.count(")"))
            expression = expression.removeprefix("(" * max(0, opened))
        value, numbers = _exactly(expression) or (None, [])
        true = value is not None and all((_exactly(step) or (None,))[0] == value for step in steps)
        found.append((expression.replace(" ", ""), value, numbers, true))
    return found


def _readable(part: str) -> str:
    """What stands between two equals signs, in plain signs and round brackets; the middle of a long text, in
    which no attempt begins or ends, is left out."""
    if len(part) > 2 * MAX_EXPRESSION:
        part = part[:MAX_EXPRESSION] + " ; " + part[-MAX_EXPRESSION:]
    return plain_expression(re.sub(r"\*\*|&|\\boxed", " ", part)).translate(_ROUND)


@lru_cache(1 << 14)
def _exactly(expression: str) -> tuple[Fraction, list[int]] | None:
    """`expression_value`, of decimals too."""
    return expression_value(re.sub(r"(\d+)\.(\d+)", lambda m: f"({int(m[1] + m[2])}/1{'0' * len(m[2])})",
        expression))
