"""Expressions: text -> a tree of exact numbers and names, and when two trees are the same.

    same(parse(r"\\frac{1}{1+\\sqrt2}"), parse(r"\\sqrt2-1"))  ->  True

Two expressions are the same if they agree at random points modulo large primes, where square roots of whole
numbers exist (Schwartz and Zippel); never in floating point. Known exactly: roots of numbers, binomials,
logarithms of numbers, sin ... csc of multiples of 15, 18 and 54 degrees, their inverses, and tan ... csc by
sin and cos. Of other functions it is known only that equal arguments give equal values, and of the root of an
expression only its square: sqrt(x)^2 = x, but sqrt(3 + 2 sqrt(2)) is not recognised as 1 + sqrt(2), since its
sign would have to be guessed.

A tree is nested tuples: ("n", Fraction), ("v", name), ("+" | "*" | "/" | "^", a, b), ("root", a, degree),
("f", name, arguments...).
"""

import hashlib
import math
import operator
import re
import secrets
from fractions import Fraction
from functools import lru_cache, partial
from math import isqrt
from string import ascii_letters

MOST_ROOTS = 6

# ------------------------------------------------------------------------------------------- text -> a tree

_TOKEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^(){}\[\]|!_'])", re.ASCII)
FUNCTIONS = {rf"\{f}" for f in """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log
    exp""".split()}
GREEK = {rf"\{g}" for g in """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda
    mu nu xi pi rho sigma tau phi varphi chi psi omega ell Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi
    Omega""".split()}
_MINUS_ONE = ("n", Fraction(-1))


class _Tokens:
    """The tokens of a text and a position among them; "" is the last. ValueError where no token begins."""

    def __init__(self, text: str):
        tokens = _TOKEN.findall(text)
        if "".join(tokens) != re.sub(r"\s", "", text):
            raise ValueError("no token")
        self.left = ["", *reversed(tokens)]  # the next one is the last

    @property
    def next(self) -> str:
        return self.left[-1]

    def take(self, expected: str | None = None) -> str:
        if expected is not None and self.next != expected:
            raise ValueError(f"expected {expected}")
        return self.left.pop()

    def has(self, token: str) -> bool:
        """Is it the next one? Then it is taken."""
        return self.next == token and bool(self.left.pop())


def _minus(a):
    return ("n", -a[1]) if a[0] == "n" else ("*", _MINUS_ONE, a)


def _argument(t):
    """The argument of \\frac, \\sqrt, ^: a group, one digit or one letter."""
    if t.next[:1].isdigit():
        token = t.take()
        if "." in token:
            raise ValueError("a number needs braces here")
        t.left += [token[1:]] if token[1:] else []
        return ("n", Fraction(token[0]))
    return _base(t)


def _index(t) -> str:
    """_1 or _{n-1} or nothing: part of a name, so plain tokens only."""
    if not t.has("_"):
        return ""
    inside = [t.take()]
    while inside[0] == "{" and inside[-1] != "}":
        inside.append(t.take())
    inside = [token for token in inside if token not in "{}"]
    if not inside or not all(token == "-" or token[:1].isalnum() for token in inside):
        raise ValueError("an index")
    return "_" + "".join(inside)


def _between(closing, wrapped, t, token):
    inside = _total(t)
    t.take(closing)
    return ("f", wrapped, inside) if wrapped else inside


def _root(t, token):
    degree = 2
    if t.has("["):
        degree = int(t.take())
        t.take("]")
    if t.next[:1].isdigit() and len(t.next) > 1:
        raise ValueError("a root needs braces")
    if not 2 <= degree <= 100:
        raise ValueError("degree of a root")
    return ("root", _argument(t), degree)


def _variable(t, token):
    name = token + _index(t)
    while t.has("'"):
        name += "'"
    return ("v", name)


def _function(t, token):
    base = (_argument(t),) if token == r"\log" and t.has("_") else ()
    name = token + _index(t)
    exponent = _exponent(t) if t.has("^") else None
    if exponent == _MINUS_ONE:  # \sin^{-1} is no reciprocal
        name, exponent = name + "^-1", None
    if t.next in ("(", "{"):
        value = _base(t)
    else:
        value = _power(t)
        while t.next in _NAMES:  # \sin 2x
            value = ("*", value, _power(t))
    value = ("^", ("v", "e"), value) if name == r"\exp" else ("f", name, value, *base)
    return ("^", value, exponent) if exponent else value


def _numeral(t, token):
    number = ("n", Fraction(token))
    if t.next != r"\frac" or "." in token:
        return number
    part = _base(t)  # a mixed number
    if not (part[1][0] == part[2][0] == "n" and 0 < part[1][1] < part[2][1]):
        raise ValueError("a number before a fraction")
    return ("+", number, part)


_NAMES = {*ascii_letters, *GREEK}
_PREFIXES = {  # what a base begins with: how the rest of it is read
    "(": partial(_between, ")", None), "{": partial(_between, "}", None), "|": partial(_between, "|", "abs"),
    r"\lfloor": partial(_between, r"\rfloor", "floor"), r"\lceil": partial(_between, r"\rceil", "ceil"),
    r"\frac": lambda t, _: ("/", _argument(t), _argument(t)), r"\sqrt": _root,
    r"\binom": lambda t, _: ("f", "binom", _argument(t), _argument(t)),
    **dict.fromkeys(_NAMES, _variable), **dict.fromkeys(FUNCTIONS, _function)}
_FACTORS = _PREFIXES.keys() - {"|"}  # what follows a factor without a sign between them
_SIGNS = {"*": "*", r"\cdot": "*", r"\times": "*", "/": "/", r"\div": "/"}


def _base(t):
    token = t.take()
    if token[:1].isdigit() or token[:1] == ".":
        return _numeral(t, token)
    if token not in _PREFIXES:
        raise ValueError(f"unexpected {token or 'end'}")
    return _PREFIXES[token](t, token)


def _exponent(t):
    if t.has("-"):
        return _minus(_power(t))
    return _base(t) if t.next[:1].isdigit() else _argument(t)


def _power(t):
    value = _base(t)
    while t.has("!"):
        value = ("f", "!", value)
    if t.has("^"):
        if t.left[-3:] == ["}", r"\circ", "{"] or t.next == r"\circ":
            del t.left[-3 if t.next == "{" else -1:]
            return ("*", value, ("/", ("v", r"\pi"), ("n", Fraction(180))))
        value = ("^", value, _exponent(t))
        if t.next == "^":
            raise ValueError("a tower")
    return value


def _factor(t):
    if t.has("+"):
        return _factor(t)
    return _minus(_factor(t)) if t.has("-") else _power(t)


def _term(t):
    value = _factor(t)
    while t.next in _SIGNS or t.next in _FACTORS:
        value = (_SIGNS[t.take()], value, _factor(t)) if t.next in _SIGNS else ("*", value, _power(t))
    return value


def _total(t):
    value = _term(t)
    while t.next in ("+", "-"):
        value = ("+", value, _term(t) if t.take() == "+" else _minus(_term(t)))
    return value


def parse(text: str):
    """The exact number (a Fraction), or (tree, whether it has roots of an unknown sign); None if the text is
    no expression or has no value (1/0)."""
    try:
        tokens, roots = _Tokens(text), []
        tree = _total(tokens)
        tokens.take("")
        tree = _fold(tree, roots)
    except (ValueError, IndexError, RecursionError):
        return None
    return tree[1] if tree[0] == "n" else (tree, bool(roots))


# --------------------------------------------------------------------------------- numbers within the tree


def _number_of(node) -> Fraction | None:
    return node[1] if node[0] == "n" else None


def _fold(node, roots: list[int]):
    """The tree with every number in it computed. Raises ValueError for what has no value, and for more than
    MOST_ROOTS roots of something else than a number; they are counted in `roots`."""
    if node[0] in "nv":
        return node
    node = tuple(_fold(part, roots) if isinstance(part, tuple) else part for part in node)
    value = _computed(node)
    if value is not None:
        return ("n", value)
    if node[0] == "f" and node[1] in _RATIOS and (turns := _half_turns(node[2])) is not None:
        top, bottom = (("n", Fraction(1)) if shift is None else _sine(180 * turns + shift)
            for shift in _RATIOS[node[1]])
        return _fold(("/", top, bottom), roots) if top and bottom else node
    if node[0] == "f" and node[1] in _INVERSES and not variables((node[2], False)):
        return _angle(node)
    power = _number_of(node[2]) if node[0] == "^" else None
    if node[1][0] != "n" and (node[0] == "root" or (power and power.denominator > 1)):
        roots.append(1)
        if len(roots) > MOST_ROOTS:
            raise ValueError("too many roots")
    return node


def _factorial(n: Fraction) -> Fraction:
    if n.denominator != 1 or not 0 <= n <= 1000:
        raise ValueError("factorial")
    return Fraction(math.factorial(int(n)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    whole = n.denominator == k.denominator == 1 and 0 <= n <= 1000 and k >= 0
    return Fraction(math.comb(int(n), int(k))) if whole else None


_EXACT = {"abs": abs, "!": _factorial, "binom": _binomial, "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a))}
_ARITHMETIC = {"+": operator.add, "*": operator.mul, "/": operator.truediv}


def _computed(node) -> Fraction | None:
    """The value of one operation on numbers, or None if it has an irrational or unknown part, or over 4,300
    digits. Raises ValueError for a division by zero or an exponent beyond 1000."""
    kind = node[0]
    if kind == "f":
        numbers = [_number_of(a) for a in node[2:]]
        return _EXACT[node[1]](*numbers) if node[1] in _EXACT and None not in numbers else None
    a = _number_of(node[1])
    if kind == "root":
        return None if a is None else _rational_root(a, node[2])
    b = _number_of(node[2])
    if kind == "/" and b == 0:
        raise ValueError("division by zero")
    if kind == "^" and b is not None and (abs(b.numerator) > 1000 or b.denominator > 100):
        raise ValueError("the exponent is too large")
    if a is None or b is None:
        return None
    if kind == "^":
        if a == 0 and b <= 0:
            raise ValueError("zero to that power")
        if (a.numerator.bit_length() + a.denominator.bit_length()) * abs(b) > 14_000:
            return None
        root = _rational_root(a, b.denominator)
        return None if root is None else root**b.numerator
    value = _ARITHMETIC[kind](a, b)
    return value if value.numerator.bit_length() + value.denominator.bit_length() < 28_000 else None


def _whole_root(n: int, degree: int) -> int | None:
    root = isqrt(n) if degree == 2 else round(n ** (1 / degree)) if n < 1 << 53 else None
    return root if root is not None and root**degree == n else None


def _rational_root(a: Fraction, degree: int) -> Fraction | None:
    """The exact root if it is rational, else None."""
    if degree == 1:
        return a
    if a < 0:
        root = None if degree % 2 == 0 else _rational_root(-a, degree)
        return None if root is None else -root
    top, bottom = _whole_root(a.numerator, degree), _whole_root(a.denominator, degree)
    return None if top is None or bottom is None else Fraction(top, bottom)


_SINES = {0: "0", 15: r"(\sqrt6-\sqrt2)/4", 18: r"(\sqrt5-1)/4", 30: "1/2", 45: r"\sqrt2/2",
    54: r"(\sqrt5+1)/4", 60: r"\sqrt3/2", 75: r"(\sqrt6+\sqrt2)/4", 90: "1"}
# sin x = sin(x + 0) / sin 90 and so on: (shift of the top, shift of the bottom); None is 1
_RATIOS = {r"\sin": (0, None), r"\cos": (90, None), r"\tan": (0, 90), r"\cot": (90, 0), r"\sec": (None, 90),
    r"\csc": (None, 0)}


def _half_turns(node) -> Fraction | None:
    """A rational multiple of pi as that multiple; None for other angles."""
    if node[0] in "nv":
        return Fraction(0) if node == ("n", 0) else Fraction(1) if node == ("v", r"\pi") else None
    if node[0] not in ("+", "*", "/"):
        return None
    a, b = _half_turns(node[1]), _half_turns(node[2])
    if node[0] == "+":
        return None if a is None or b is None else a + b
    x, y = _number_of(node[1]), _number_of(node[2])
    if a is not None and y is not None:
        return _ARITHMETIC[node[0]](a, y)
    return b * x if node[0] == "*" and b is not None and x is not None else None


def _sine(degrees: Fraction):
    """sin as a tree, or None if it is not in the table."""
    degrees, sign = degrees % 360, 1
    if degrees >= 180:
        degrees, sign = degrees - 180, -1
    text = _SINES.get(min(degrees, 180 - degrees))
    return text and _fold(("*", ("n", Fraction(sign)), _total(_Tokens(text))), [])


# the function and its least and its largest angle
_INVERSES = {name: (rf"\{f}", low, high) for f, low, high in (("sin", -90, 90), ("cos", 0, 180),
    ("tan", -89, 89)) for name in (rf"\arc{f}", rf"\{f}^-1")}


def _angle(node):
    """\\arctan 1 as pi / 4; the node itself where no angle of the table has this value."""
    function, low, high = _INVERSES[node[1]]
    for degrees in range(low, high + 1):
        angle = ("*", ("n", Fraction(degrees, 180)), ("v", r"\pi"))
        if (degrees % 15 == 0 or degrees % 18 == 0) and same((node[2], True), (  # True: roots of unknown sign
                _fold(("f", function, angle), []), False)):
            return angle
    return node


# -------------------------------------------------------------------------------------- a tree -> a residue

# p = k * 8 * (3 * 5 * 7 * ... * 97) + 1 is prime for these k: -1 and every prime up to 97 have square roots
_STEP = 8 * math.prod(p for p in range(3, 98) if all(p % q for q in range(2, p)))
MODULI = [int(k) * _STEP + 1 for k in """5 41 99 129 151 153 177 227 233 271 287 291 301 361 383 387 389 391
    397 409 433 483 529 531 545 587 593 599 605 651 709 719 735 763 773 781""".split()]
secrets.SystemRandom().shuffle(MODULI)  # nobody can aim at the first three
_SECRET, POINTS, SIGNED_POINTS, TRIES = secrets.token_bytes(16), 3, 30, 240


class _NoRoot(Exception):
    """This prime has no square root of the number: try the next one."""


def _opaque(p: int, *what) -> int:
    """A random number that stands for something about which only its arguments are known."""
    return int.from_bytes(hashlib.blake2b(repr((p, what)).encode(), key=_SECRET).digest(), "big") % p


@lru_cache(None)
def _eighth_root(p: int) -> int:
    """An element of order 8 modulo p, where p - 1 = 8 * odd."""
    generator = next(g for g in range(101, 10**6) if pow(g, (p - 1) // 2, p) == p - 1)
    return pow(generator, (p - 1) // 8, p)


@lru_cache(4096)
def _square_root(a: int, p: int) -> int:
    """The smaller square root of a modulo p (Tonelli and Shanks)."""
    root = pow(a, ((p - 1) // 8 + 1) // 2, p)  # root**2 = a times an element of order 1, 2 or 4
    for _ in range(4):
        if root * root % p == a:
            return min(root, p - root)
        root = root * _eighth_root(p) % p
    raise _NoRoot


@lru_cache(4096)
def _factors(n: int) -> tuple[tuple[int, int], ...]:
    """(prime, exponent); a cofactor without divisors below 2000 stays whole."""
    found, q = [], 2
    while q * q <= n and q < 2000:
        power = 0
        while n % q == 0:
            n, power = n // q, power + 1
        found += [(q, power)] if power else []
        q += 1
    return (*found, (n, 1)) if n > 1 else tuple(found)


def _root_of_number(a: Fraction, degree: int, p: int) -> int:
    """The root of a rational number modulo p: perfect powers leave the root, so that sqrt(8) = 2 sqrt(2)."""
    if a == 0:
        return 0
    if (a.numerator.bit_length() + a.denominator.bit_length()) * degree > 4000:
        raise ValueError("too large a number under a root")
    value = pow(a.denominator, -1, p)  # (a / b)**(1/n) = (a b**(n-1))**(1/n) / b
    if a < 0:
        value *= -1 if degree % 2 else _square_root(p - 1, p) if degree == 2 else _opaque(p, "-", degree)
    for q, power in _factors(abs(a.numerator) * a.denominator ** (degree - 1)):
        atom = _square_root(q % p, p) if degree == 2 else _opaque(p, "root", q, degree)
        value = value * pow(q, power // degree, p) * pow(atom, power % degree, p) % p
    return value


def _logarithm(node, p: int, point: int) -> int:
    """The natural one: of a positive number the sum over its prime factors, of e^x x."""
    number = _number_of(node)
    if number is not None and number > 0 and max(number.numerator, number.denominator).bit_length() < 4000:
        return sum(sign * power * _opaque(p, "ln", q) for n, sign in ((number.numerator, 1),
            (number.denominator, -1)) for q, power in _factors(n)) % p
    if node == ("v", "e"):
        return 1
    if node[0] == "root":
        return _logarithm(node[1], p, point) * pow(node[2], -1, p)
    if node[0] == "^" and node[1] == ("v", "e"):
        return _residue(node[2], p, point)
    return _opaque(p, "ln", _residue(node, p, point))


def _of_function(node, p: int, point: int) -> int:
    name, a, *more = node[1:]
    if name in (r"\ln", r"\log"):
        base = _logarithm(more[0], p, point) if more else 1 if name == r"\ln" else _opaque(p, name)
        return _logarithm(a, p, point) * pow(base, -1, p) % p
    if name in _RATIOS:  # tan as sin / cos
        x = _residue(a, p, point)
        top, bottom = (1 if s is None else _opaque(p, r"\cos" if s else r"\sin", x) for s in _RATIOS[name])
        return top * pow(bottom, -1, p) % p
    k = _number_of(more[0]) if name == "binom" else None
    if k in range(1, 21):
        n = _residue(a, p, point)
        return math.prod(n - i for i in range(int(k))) * pow(math.factorial(int(k)), -1, p) % p
    return _opaque(p, name, *(_residue(b, p, point) for b in (a, *more)))


def _residue(node, p: int, point: int = 0) -> int:
    """The expression at random values of its variables modulo p, with a random sign of each root whose
    radicand is not a number. Raises _NoRoot, or ValueError where it is undefined."""
    kind = node[0]
    if kind == "n":
        return node[1].numerator * pow(node[1].denominator, -1, p) % p
    if kind == "v":
        return _square_root(p - 1, p) if node[1] == "i" else _opaque(p, point, node[1])
    if kind == "f":
        return _of_function(node, p, point)
    power = _number_of(node[2]) if kind == "^" else None
    if kind == "root" or (power is not None and power.denominator > 1):
        degree, times = (node[2], 1) if kind == "root" else (power.denominator, power.numerator)
        number = _number_of(node[1])
        if number is not None:
            return pow(_root_of_number(number, degree, p), times, p)
        value = _residue(node[1], p, point)
        if degree != 2:
            return pow(_opaque(p, "root", value, degree), times, p)
        sign = 1 if _opaque(p, point, "sign", value) % 2 else -1
        return pow(sign * _square_root(value, p), times, p)
    a = _residue(node[1], p, point)
    if kind == "^":
        if power is None:
            return _opaque(p, "^", a, _residue(node[2], p, point))
        return pow(a, power.numerator, p)
    b = _residue(node[2], p, point)
    return (a + b if kind == "+" else a * b if kind == "*" else a * pow(b, -1, p)) % p


# ------------------------------------------------------------------------------------------------- sameness


def _tree(a) -> tuple:
    return (("n", a), False) if isinstance(a, Fraction) else a


def same(a, b) -> bool:
    """Are two results of `parse` the same value? A wrong sign of a root agrees at each point with 1/2."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    (a, signs), (b, more) = _tree(a), _tree(b)
    needed, agreed = SIGNED_POINTS if signs or more else POINTS, 0
    for point in range(TRIES):
        p = MODULI[point % len(MODULI)]
        try:
            if _residue(a, p, point) != _residue(b, p, point):
                return False
        except _NoRoot:
            continue
        except ValueError:  # 1 / 0
            return False
        agreed += 1
        if agreed == needed:
            return True
    return False


def times(a, k: int):
    """k times a result of `parse`."""
    return a * k if isinstance(a, Fraction) else (("*", ("n", Fraction(k)), a[0]), a[1])


def difference(a, b):
    """a - b of two results of `parse`: what is zero in an equation."""
    (a, signs), (b, more) = _tree(a), _tree(b)
    return (("+", a, ("*", _MINUS_ONE, b)), signs or more)


def proportional(a, b) -> bool:
    """Is one `difference` a multiple of the other that does not depend on the variables, and neither zero?"""
    for p in MODULI[:POINTS]:
        points = []
        for point in range(4 * POINTS):
            try:
                points.append((_residue(a[0], p, point), _residue(b[0], p, point)))
            except _NoRoot:
                continue
            except ValueError:
                return False
        if len(points) < POINTS or not all(points[0]):
            return False
        if any(points[0][0] * y % p != points[0][1] * x % p for x, y in points):
            return False
    return True


def variables(a) -> set[str]:
    """The names in a result of `parse` that have no value of their own."""
    if isinstance(a, Fraction):
        return set()
    found, todo = set(), [a[0]]
    while todo:
        node = todo.pop()
        found |= {node[1]} if node[0] == "v" else set()
        todo += [part for part in node if isinstance(part, tuple)]
    return found - {"i", "e", r"\pi"}
