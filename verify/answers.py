"""What a mathematical answer means: text -> an exact value, and when two of them are the same.

    same_answer("\\\\frac{6}{4}", "1.5")  ->  True          same_answer("41 or 42", "42")  ->  False

An answer is one value: a number (whole, decimal, fraction, mixed, percent, scientific, 0.\\overline{3},
money, with a unit), an expression, a tuple or interval, a set, a union of intervals, a relation (`x = 5`),
a choice (A to J), or words. Numbers are compared as Fractions. Expressions with roots, pi, i or variables
are compared at random points modulo large primes, where square roots of whole numbers exist; never in
floating point. What cannot be read as one value is right only if it is the expected text, up to white
space.

Rules that a reader should know:
- 50% is 1/2, not 50. `x = 5` and `5` are the same; `y = 5` and `x = 5` are not.
- A unit may be missing on one side; two different units differ. Words after a number are units only if they
  are known (`_UNITS`) or the expected answer's own; "7 hundred" is not 7.
- A tolerance exists only where the expected answer says that it is rounded: `\\approx 3.14` accepts what
  rounds to 3.14, `0.66...` what begins with these digits.
- `(1,2)` is a pair or an open interval, brackets decide; `1, 2`, `\\{2, 1\\}` and `\\pm 2` are sets.
- The root of an expression is known by its square only: sqrt(x)^2 = x, but sqrt(3 + 2 sqrt(2)) is not
  recognised as 1 + sqrt(2), since its sign would have to be guessed.
"""

import hashlib
import math
import re
import secrets
from fractions import Fraction
from functools import lru_cache
from math import isqrt

LONGEST, LONGEST_EXPRESSION, MOST_DIGITS, MOST_ITEMS, MOST_ROOTS = 6000, 400, 4300, 64, 6

# ------------------------------------------------------------------------------------------------- cleaning

_UNICODE = {ord(a): b for a, b in {"\u2212": "-", "\u00d7": r"\times ", "\u00f7": r"\div ", "\u00b7":
    r"\cdot ", "\u22c5": r"\cdot ", "\u03c0": r"\pi ", "\u221a": r"\sqrt ", "\u221e": r"\infty ", "\u222a":
    r"\cup ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2208": r"\in ", "\u2248":
    r"\approx ", "\u00b0": r"^\circ ", "\u00b1": r"\pm ", "\u00b2": "^2", "\u00b3": "^3", "\u00a0": " ",
    "\u2009": " ", "\u202f": " ", "\u20ac": r"\euro ", "\u00a3": r"\pound ", "\u00a5": r"\yen ", "\u2026":
    "..."}.items()}
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|limits)(?![A-Za-z])")
_THIN = re.compile(
    r"(?<![\d.])\d{1,3}(?:(?:\\[,!:; ]|\{,\}|,\\!)\d{3})+(?!\d)", re.ASCII
)  # 1\,000 and 1{,}000
_SPACE = re.compile(r"\\[,!;: ]|\\q?quad(?![A-Za-z])|~(?=.)")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_WRAPPED = [
    re.compile(p, re.DOTALL)
    for p in (r"\$\$(.*)\$\$", r"\$((?:[^$\\]|\\.)+)\$", r"\\\((.*)\\\)", r"\\\[(.*)\\\]")
]
_COMMAND_BOX = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mbox|textrm)\s*\{")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|textrm)\s*\{([^{}]*)\}")
_NAMES = re.compile(r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|ln|log|exp)(?![A-Za-z])")


def _closing(text: str, at: int) -> int:
    """The position of the brace that closes the one at `at`, or -1."""
    depth = 0
    for i in range(at, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return i
    return -1


def _unwrap(text: str) -> str:
    """Without $...$, \\(...\\), \\boxed{...}, \\text{...} around the whole, and without a final full stop."""
    for _ in range(4):
        before = text = text.strip()
        for pattern in _WRAPPED:
            if match := pattern.fullmatch(text):
                text = match[1]
        match = _COMMAND_BOX.match(text)
        if match and _closing(text, match.end() - 1) == len(text) - 1:
            text = text[match.end() : -1]
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            break
    return text


def _clean(text: str) -> str:
    if not text.isascii():
        text = re.sub("\u221a\\s*(\\d+)", r"\\sqrt{\1}", text, flags=re.ASCII).translate(_UNICODE)
    text = _unwrap(text)
    if "\\" in text or "~" in text or "{" in text:
        text = _SPACE.sub(" ", _LAYOUT.sub("", _THIN.sub(lambda match: re.sub(r"\D", "", match[0]), text)))
        text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).replace(r"\%", "%").replace(r"\$", "$")
        text = text.replace(r"\dots", "...").replace(r"\ldots", "...")
    return _unwrap(text)


# ------------------------------------------------------------------------------------------------- numbers

_PLAIN = re.compile(r"([+-]?)\s*(\d{1,3}(?:,\d{3})+|\d+)?(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}", re.ASCII)
_MIXED = re.compile(r"([+-]?)(\d+)\s+(\d+)/(\d+)", re.ASCII)


def _number(text: str) -> Fraction | None:
    """An exact decimal: 12, -1,234.5, .5, 1.5e3, 0.1\\overline{6}, 2 1/2; None for anything else."""
    if match := _PLAIN.fullmatch(text):
        sign, whole, decimals, exponent = match.groups()
        digits = (whole or "").replace(",", "") + (decimals or "")
        if not digits or len(digits) > MOST_DIGITS or len(exponent or "") > 4:
            return None
        power = int(exponent or 0) - len(decimals or "")
        value = Fraction(int(digits)) * Fraction(10) ** power if power else Fraction(int(digits))
        return -value if sign == "-" else value
    if len(text) < 200 and (match := _REPEATING.fullmatch(text)):
        sign, whole, fixed, again = match.groups()
        value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
        value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
        return -value if sign == "-" else value
    if len(text) < 200 and (match := _MIXED.fullmatch(text)) and 0 < int(match[3]) < int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    return None


# --------------------------------------------------------------------------------------------- expressions

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|[A-Za-z]|[-+*/^(){}\[\]|!_'])", re.ASCII)
_FUNCTIONS = {rf"\{f}" for f in "sin cos tan cot sec csc arcsin arccos arctan ln log exp".split()}
_GREEK = {
    rf"\{g}"
    for g in "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi varphi omega".split()
}
_TIMES, _OVER = ("*", r"\cdot", r"\times"), ("/", r"\div")


def _tokens(text: str) -> list[str]:
    """The tokens of an expression, and "" at its end. Raises ValueError where none begins."""
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise ValueError(text[at])
        tokens.append(match[1])
        at = match.end()
    return [*tokens, ""]


def _parse(text: str):
    """An expression as nested tuples: ("n", Fraction), ("v", name), ("+"|"*"|"/"|"^", a, b), ("root", a, n),
    ("f", name, a). Raises ValueError for anything else."""
    parser = _Parser(text)
    value = parser.total()
    parser.take("")
    if parser.i != len(parser.tokens):
        raise ValueError("unexpected end")
    return value


class _Parser:
    """Recursive descent, a method for each level: a total of terms of factors of powers of bases."""

    def __init__(self, text: str):
        self.tokens, self.i = _tokens(text), 0

    @property
    def next(self) -> str:
        return self.tokens[self.i]

    def take(self, expected=None):
        if expected and self.next != expected:
            raise ValueError(f"expected {expected}")
        self.i += 1
        return self.tokens[self.i - 1]

    def group(self, opening, closing):
        self.take(opening)
        inside = self.total()
        self.take(closing)
        return inside

    def argument(self):  # of \frac, \sqrt, ^: a group, one digit or one letter
        if self.next == "{":
            return self.group("{", "}")
        if self.next[:1].isdigit() and len(self.next) > 1:
            token = self.next
            self.tokens[self.i] = token[1:]
            if "." in token:
                raise ValueError("a number needs braces here")
            return ("n", Fraction(int(token[0])))
        return self.base()

    def script(self, mark):  # an index, or the power of a function: plain tokens only
        if self.next != mark:
            return ""
        self.take()
        inside = [self.take()]
        if inside == ["{"]:
            while (token := self.take()) != "}":
                inside.append(token)
        if not all(t in "{-" or t[:1].isalnum() for t in inside):
            raise ValueError("an index")
        return mark + "".join(inside).strip("{")

    def base(self):
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            number = ("n", _number(token))
            if self.next == r"\frac" and "." not in token:  # a mixed number
                part = self.base()
                whole = part[1][0] == part[2][0] == "n" and 0 < part[1][1] < part[2][1]
                if not whole:
                    raise ValueError("a number before a fraction")
                return ("+", number, part)
            return number
        if token in ("(", "{"):
            inside = self.total()
            self.take(")" if token == "(" else "}")
            return inside
        if token == "|":
            inside = self.total()
            self.take("|")
            return ("f", "abs", inside)
        if token == r"\frac":
            return ("/", self.argument(), self.argument())
        if token == r"\sqrt":
            degree = 2
            if self.next == "[":
                self.take()
                degree = int(self.take())
                self.take("]")
            if self.next[:1].isdigit() and len(self.next) > 1:
                raise ValueError("a root needs braces")
            if not 2 <= degree <= 100:
                raise ValueError("degree of a root")
            return ("root", self.argument(), degree)
        if token == r"\pi" or token in _GREEK or (len(token) == 1 and token.isalpha()):
            name = token + self.script("_")
            while self.next == "'":
                name += self.take()
            return ("v", name)
        if token in _FUNCTIONS:
            name = token + self.script("_") + self.script("^")
            bracketed = self.next in ("(", "{")
            value = self.power()
            while not bracketed and (self.next.isalpha() or self.next in (r"\pi", *_GREEK)):  # \sin 2x
                value = ("*", value, self.power())
            return ("f", name, value)
        raise ValueError(f"unexpected {token or 'end'}")

    def power(self):
        value = self.base()
        while self.next == "!":
            self.take()
            value = ("f", "!", value)
        if self.next == "^":
            self.take()
            if self.next == "-":
                self.take()
                exponent = ("*", ("n", Fraction(-1)), self.power())
            else:
                exponent = self.base() if self.next[:1].isdigit() else self.argument()
            if self.next == "^":
                raise ValueError("a tower")
            value = ("^", value, exponent)
        return value

    def factor(self):
        if self.next in ("-", "+"):
            sign = self.take()
            return self.factor() if sign == "+" else ("*", ("n", Fraction(-1)), self.factor())
        return self.power()

    def term(self):
        value = self.factor()
        while True:
            if self.next in _TIMES:
                self.take()
                value = ("*", value, self.factor())
            elif self.next in _OVER:
                self.take()
                value = ("/", value, self.factor())
            elif (
                self.next in ("(", "{", r"\frac", r"\sqrt", r"\pi")
                or self.next.isalpha()
                or (self.next in _FUNCTIONS or self.next in _GREEK)
            ):
                value = ("*", value, self.power())
            else:
                return value

    def total(self):
        value = self.term()
        while self.next in ("+", "-"):
            sign, other = self.take(), self.term()
            value = ("+", value, other if sign == "+" else ("*", ("n", Fraction(-1)), other))
        return value


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
    power = _number_of(node[2]) if node[0] == "^" else None
    if node[1][0] != "n" and (node[0] == "root" or (power and power.denominator > 1)):
        roots.append(1)
        if len(roots) > MOST_ROOTS:
            raise ValueError("too many roots")
    return node


def _computed(node) -> Fraction | None:
    """The value of one operation on numbers, or None if it has an irrational or unknown part, or over 4,300
    digits. Raises ValueError for a division by zero or an exponent beyond 1000."""
    kind = node[0]
    a = _number_of(node[1] if kind != "f" else node[2])
    if kind == "f":
        if node[1] == "abs" and a is not None:
            return abs(a)
        if node[1] == "!" and a is not None:
            if a.denominator != 1 or not 0 <= a <= 1000:
                raise ValueError("factorial")
            return Fraction(math.factorial(int(a)))
        return None
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
    value = a + b if kind == "+" else a * b if kind == "*" else a / b
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
        value = (
            value
            * (-1 if degree % 2 else _square_root(p - 1, p) if degree == 2 else _opaque(p, "-", degree))
            % p
        )
    for q, power in _factors(abs(a.numerator) * a.denominator ** (degree - 1)):
        atom = _square_root(q % p, p) if degree == 2 else _opaque(p, "root", q, degree)
        value = value * pow(q, power // degree, p) * pow(atom, power % degree, p) % p
    return value


def _residue(node, p: int, point: int = 0) -> int:
    """The expression at random values of its variables modulo p, with a random sign of each root whose
    radicand is not a number. Raises _NoRoot, or ValueError where it is undefined."""
    kind = node[0]
    if kind == "n":
        return node[1].numerator * pow(node[1].denominator, -1, p) % p
    if kind == "v":
        return _square_root(p - 1, p) if node[1] == "i" else _opaque(p, point, node[1])
    if kind == "f":
        return _opaque(p, node[1], _residue(node[2], p, point))
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


def _same_expression(a, b, signs: bool) -> bool:
    """Do they agree at enough points? A wrong sign of a root agrees by chance at each point with 1/2."""
    needed, agreed = SIGNED_POINTS if signs else POINTS, 0
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


# -------------------------------------------------------------------------------------------------- values

_UNITS = {name: words.split()[0] for words in """
    mm millimeter millimetre, cm centimeter centimetre, m meter metre, km kilometer kilometre, in inch
    inches, ft foot feet, yd yard, mi mile, mg milligram, g gram, kg kilogram, lb pound, oz ounce, ml
    milliliter millilitre mL, l liter litre L, s second sec, min minute, h hour hr, day, week, month, year,
    dollar USD, cent, euro EUR, gbp GBP, yen JPY, degree deg, C Celsius, F Fahrenheit, radian rad, unit,
    point, mph, kph, N newton, J joule, W watt, V volt, A ampere amp, K kelvin, Hz hertz, Pa pascal, mol
    mole, acre
""".split(",") for word in words.split() for name in (word, word + "s")}
# what word problems count
_UNITS |= {name: word for word in """
    apple orange banana egg cookie candy cake pie cup bag box bottle basket book page pencil pen card
    ticket stamp coin ball marble toy game sticker flower tree car bus truck bike house room chair
    table seat row column student teacher child boy girl man woman person people friend
    player team animal dog cat cow horse chicken fish sheep bird way triangle side edge vertex face
    angle integer solution value term factor divisor pair piece slice item problem question vote step meal
""".split() for name in (word, word + "s")}
_UNITS |= {"boxes": "box", "children": "child", "men": "man", "women": "woman", "vertices": "vertex"}
_QUALIFIERS = {"square", "sq", "cubic", "per"}
_NUMBER_WORDS = re.compile(
    r"hundred|thousand|illion|lakh|crore|dozen|score|hal[fv]|third|quarter|(?:th|ths)$|"
    r"cent|squared|cubed|times|or|and|not|pi|half|double|minus|plus"
)
_UNIT = re.compile(
    r"(?P<value>.*(?:[\d)}.|]|\\pi))(?P<unit>(?P<gap>\s*)[A-Za-z][A-Za-z /*^{}23]*)", re.DOTALL | re.ASCII
)
_MONEY = re.compile(r"([+-]?)\s*(\$|\\euro|\\pound|\\yen)\s*([^+]*)|([^$]*)(\\euro|\\pound|\\yen)")
_SIGNS = {"$": "dollar", r"\euro": "euro", r"\pound": "gbp", r"\yen": "yen"}
_PERCENT = re.compile(r"(-?[^-+]*?)\s*(?:%|(?:per ?cent|percent))")
_RELATION = re.compile(r"<=|>=|!=|=|<|>|\\(?:leq?|geq?|neq?|in|lt|gt)(?![A-Za-z])")
_OPERATORS = {
    "<=": r"\le",
    r"\leq": r"\le",
    ">=": r"\ge",
    r"\geq": r"\ge",
    "!=": r"\ne",
    r"\neq": r"\ne",
    r"\lt": "<",
    r"\gt": ">",
}
_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
_VARIABLE = re.compile(r"(?:[A-Za-z]|answer|Answer)(?:_(?:\w|\{\w+\}))?'?(?:\([a-z]\))?", re.ASCII)
_CHOICE = re.compile(r"\(?([A-Ja-j])\)?[.:)]?")
_ROUNDED = re.compile(
    r"(?:[A-Za-z]\s*)?(?:\\approx|~)\s*([+-]?(?:\d+(?:\.\d+)?|\.\d+))|([+-]?\d*\.\d+)\s*\.\.\.", re.ASCII
)


def _unit(text: str, spaced: bool) -> str | None:
    """A unit in its one spelling, or None if the words are no unit."""
    words = re.findall(r"[A-Za-z]+|\^\{?[23]\}?|[/*]", text)
    if "".join(words) != re.sub(r"\s+", "", text) or len(words) > 5 or re.search(r"per\s*cent", text):
        return None
    out = []
    for word in words:
        known = _UNITS.get(word) or (_UNITS.get(word.lower()) if len(word) > 2 else None)
        known = known or ("square" if word == "sq" else None)
        if len(word) == 1 and word.isalpha() and not spaced:
            return None
        if not known and word not in _QUALIFIERS and word.isalpha():
            return None
        out.append(known or re.sub(r"[{}]", "", word))
    return " ".join(out) if set(out) - _QUALIFIERS else None


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand outside all brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0 and text.startswith(separator, i):
            parts.append(text[start:i])
            start = i = i + len(separator)
            continue
        i += 1
    return [*parts, text[start:]]


def _items(text: str, depth: int):
    """The values of a comma-separated list, or None."""
    parts = [part.strip() for part in _split(text, ",")]
    if len(parts) > MOST_ITEMS:
        return None
    values = tuple(
        ("infinity", "-" in part) if re.fullmatch(r"[+-]?\s*\\infty", part) else _value(part, depth + 1)
        for part in parts
    )
    if len(values) > 16 and not all(v and v[0] == "number" for v in values):
        return None  # expressions are compared pair by pair
    return None if None in values else values


def _container(text: str, depth: int):
    if r"\cup" in text:
        parts = [_value(part.strip(), depth + 1) for part in _split(text, r"\cup")]
        kinds = {part and part[0] for part in parts}
        if len(parts) > MOST_ITEMS or not kinds <= {"set", "tuple", "union"}:
            return None
        if all(part[0] == "set" for part in parts):
            return ("set", tuple(v for part in parts for v in part[1]))
        return ("union", tuple(parts))
    for opening, closing in ((r"\{", r"\}"), ("{", "}")):
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and ("," in text or opening == r"\{"):
            values = _items(inside, depth)
            return values and ("set", values)
    if text[0] in "([" and text[-1] in ")]" and len(_split(text[1:-1], ",")) > 1:
        values = _items(text[1:-1], depth)
        return values and ("tuple", text[0], values, text[-1])
    if "," in text and len(_split(text, ",")) > 1:
        values = _items(text, depth)
        return values and ("set", values)
    if text.count(r"\pm") == 1:
        both = [_value(text.replace(r"\pm", sign).strip(), depth + 1) for sign in "+-"]
        return ("set", tuple(both)) if None not in both else None
    return None


def _relation(text: str, depth: int):
    """("relation", variable, operator, value) of `x = 5` or `5 < x`; None for `41 = 42`, `a = b = c`."""
    marks = list(_RELATION.finditer(text))
    if len(marks) != 1:
        return None
    operator = _OPERATORS.get(marks[0][0], marks[0][0])
    left, right = text[: marks[0].start()].strip(), text[marks[0].end() :].strip()
    if not (_VARIABLE.fullmatch(left) or left in _GREEK):
        if operator not in _TURNED or not (_VARIABLE.fullmatch(right) or right in _GREEK):
            return None
        left, right, operator = right, left, _TURNED[operator]
    value = _value(right, depth + 1)
    return value and ("relation", left.replace("{", "").replace("}", ""), operator, value)


def _quantity(text: str, depth: int):
    """A number or expression with a currency, a percent sign or a unit."""
    unit, part, negative = None, None, False
    plain = _TEXT.sub(r" \1 ", re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " degree ", text)).strip()
    if match := _MONEY.fullmatch(text):
        negative, part, unit = match[1] == "-", match[3] or match[4] or "", _SIGNS[match[2] or match[5]]
        if negative and "-" in part:
            return None
    elif match := _PERCENT.fullmatch(plain):
        simple = not re.search(r"[*/^]|\\(?:cdot|times|div)", match[1])
        value = _value(match[1].strip(), depth + 1) if simple else None
        return ("number", value[1] / 100, "") if value and value[:1] + value[2:] == ("number", "") else None
    elif match := _UNIT.fullmatch(plain):
        unit, part = _unit(match["unit"], bool(match["gap"])), match["value"]
    value = _value(part.strip(), depth + 1) if unit is not None else None
    if not value or value[0] not in ("number", "expression") or value[2] not in ("", unit):
        return None
    return (
        (value[0], -value[1] if negative else value[1], unit)
        if value[0] == "number" or not negative
        else None
    )


def _is_words(text: str) -> bool:
    """Words are words, not products of letters: `no`, `Paris`, `2 dogs`; but `xy` and `2ab` are products."""
    runs = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    return any(
        len(run) > 3 or re.search("[oO]" if len(run) == 2 else "[aeiouAEIOU]", run) or not run.islower()
        for run in runs
    )


def _value(text: str, depth: int = 0):
    """("number", Fraction, unit), ("expression", tree, unit), ("set" or "union", values),
    ("tuple", "(", values, "]"), ("relation", name, operator, value); None if it is not exactly one value."""
    number = _number(text)
    if number is not None:
        return ("number", number, "")
    if not text or depth > 4 or len(text) > LONGEST_EXPRESSION:
        return None
    if _RELATION.search(text):
        return _relation(text, depth)
    if "," in text and not re.search(r"[(\[]", text) and not text.startswith((r"\{", "{")):
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)  # 1,000 cm
    container = _container(text, depth)
    if container or "," in text:
        return container
    if (quantity := _quantity(text, depth)) is not None:
        return quantity
    text = _NAMES.sub(r"\\\1", text)
    if _is_words(text):
        return None
    try:
        roots: list[int] = []
        tree = _fold(_parse(text), roots)
    except (ValueError, IndexError, RecursionError):
        return None
    return ("number", tree[1], "") if tree[0] == "n" else ("expression", (tree, bool(roots)), "")


@lru_cache(4096)
def _read(text: str):
    """(the text without wrapping and white space, its value or None)."""
    text = _clean(text)
    words = " ".join(_TEXT.sub(r" \1 ", text).split())
    return re.sub(r" ?([^\w .\\]) ?", r"\1", words), _value(text)


def _same(a, b) -> bool:
    """Are two values the same?"""
    if a[0] == b[0] == "relation":
        return a[1:3] == b[1:3] and _same(a[3], b[3])
    if "relation" in (a[0], b[0]):
        (_, _, operator, value), other = (a, b) if a[0] == "relation" else (b, a)
        return operator in ("=", r"\in") and _same(value, other)
    if a[0] == b[0] == "tuple":
        return a[1] == b[1] and a[3] == b[3] and len(a[2]) == len(b[2]) and all(map(_same, a[2], b[2]))
    if a[0] == b[0] and a[0] in ("set", "union"):
        if max(len(a[1]), len(b[1])) > 16:
            return set(a[1]) == set(b[1])
        return all(any(_same(x, y) for y in b[1]) for x in a[1]) and all(
            any(_same(x, y) for x in a[1]) for y in b[1]
        )
    if {a[0], b[0]} <= {"number", "expression"}:
        if a[2] != b[2] and a[2] and b[2]:
            return False
        if a[0] == b[0] == "number":
            return a[1] == b[1]
        (one, signs), (other, more) = ((("n", v[1]), False) if v[0] == "number" else v[1] for v in (a, b))
        return _same_expression(one, other, signs or more)
    return a == b  # infinities


def _rounded(gold: str, value: Fraction) -> bool:
    """Does an exact value agree with an expected answer that says it is rounded (3.14) or cut (0.66...)?"""
    rounded, cut = _ROUNDED.fullmatch(gold).groups()
    digits = rounded or cut
    if len(digits) > MOST_DIGITS:
        return False
    step = Fraction(1, 10 ** len(digits.partition(".")[2]))
    if rounded:
        return abs(value - Fraction(digits)) <= step / 2
    return 0 <= value * (-1 if digits[0] == "-" else 1) - abs(Fraction(digits)) < step


def same_answer(given: str, gold: str) -> bool:
    """Is `given` the same answer as the expected `gold`? See the rules above. Never raises for any text."""
    if len(given) > LONGEST or len(gold) > LONGEST:
        return False
    (text, value), (wanted, expected) = _read(given), _read(gold)
    if text == wanted:
        return True
    if re.fullmatch(r"[A-Za-z][A-Za-z '-]*", wanted) and re.search("[A-Za-z]{3}|^(no|No|NO)$", wanted):
        return text.isascii() and text.lower() == wanted.lower()
    if re.fullmatch(r"\(?[A-J]\)?", wanted):
        choice = _CHOICE.fullmatch(text)
        return bool(choice) and choice[1].upper() == wanted.strip("()")
    if value is not None and _ROUNDED.fullmatch(wanted):
        value = value[3] if value[0] == "relation" and value[2] == "=" else value
        return value[0] == "number" and not value[2] and _rounded(wanted, value[1])
    if expected is None and (own := re.fullmatch(r"(.*[\d)}])(\s*[A-Za-z ]{3,})", wanted)):
        if _NUMBER_WORDS.search(own[2]) is None:  # a unit that only the expected answer knows: 42 sprockets
            bare = text.removesuffix(own[2])
            return bare != wanted and same_answer(bare.strip(), own[1].strip())
    return value is not None and expected is not None and _same(value, expected)
