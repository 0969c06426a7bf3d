"""The exact value of what a Countdown answer says, however its signs are written; no eval, no floats.

Read are + - * / and brackets of three kinds over whole numbers, a sign in front, and other spellings of
these: signs of print (U+2212, U+00D7, U+00F7, ...), LaTeX (\\times, \\div, \\frac{1}{2}, \\left( ...),
fullwidth characters, `x` between two numbers or brackets, thousands as in 1,234, and what encloses it all:
$ $, \\( \\), \\boxed{}, ` `, ** **, a full stop behind. Not read are powers, decimals, // and --, and a
product without its sign: 6/2(3) is 9 to some and 1 to others.
"""

import ast
import re
from fractions import Fraction

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


def plain_expression(text: str) -> str:
    """The text with the signs of Python, where it has others for the same."""
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
