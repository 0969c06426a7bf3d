"""Random answers whose truth is known before they are written:

    python tests/fuzz_answers.py --mutants 20000 --pairs 400000 --golds FILE

An answer is made as a thing (a fraction, a + b sqrt(c), a polynomial, a tuple, an interval, a set, a matrix,
...) and then spelled; nothing here reads text with `same_answer`. Counted are other spellings of the same
thing that are refused (false negatives), and mutants, other things and guesses that are accepted (false
positives). With --golds the expected answers of a file (a JSON list or lines with "answer") are changed in
their text, too; a change counts only where sympy finds another value.
"""

import argparse
import json
import random
import re
import sys
import time
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from verify.answers import reading, same_answer

UNITS = {"": ["{}"], "cm": ["{} cm", r"{}\text{{ cm}}", "{} centimeters"],
    "hours": ["{} hours", r"{}\,\text{{h}}"],
    "ducks": ["{} ducks", r"{}\text{{ ducks}}", "{} (ducks)"], "%": ["{}%", r"{}\%", "{} percent"]}
WRAPS = ["{}"] * 8 + ["${}$", r"\boxed{{{}}}", "**{}**", r"\({}\)", "{}.", " {}\n", "`{}`"]
NUMBERS_IN_WORDS = ["zero", "one", "two", "three", "four"]

# ----------------------------------------------------------------------------------------- things, by kind


def fraction(r: random.Random) -> Fraction:
    return Fraction(r.choice([r.randint(-20, 20), r.randint(-3000, 3000)]),
        r.choice([1, 1, 1, 2, 3, 4, 5, 8, 10, 25]))


def distinct(r, make, least, most):
    found = []
    for _ in range(most * 3):
        item = make(r)
        if item not in found and len(found) < most:
            found.append(item)
    return found[:r.randint(least, len(found))] if len(found) >= least else distinct(r, make, least, most)


MAKERS = {
    "number": lambda r: (fraction(r), r.choice(["", "", "", "cm", "hours", "ducks", "%"])),
    "root": lambda r: (fraction(r), fraction(r) or Fraction(1), r.choice([2, 3, 5, 6, 7])),
    "pi": lambda r: (fraction(r) or Fraction(1),),
    "power": lambda r: (r.randint(2, 9), r.randint(2, 12)),
    "polynomial": lambda r: tuple(r.randint(-6, 6) for _ in range(5)) + (r.randint(1, 6),),
    "tuple": lambda r: tuple(fraction(r) for _ in range(r.randint(2, 4))),
    "interval": lambda r: (r.choice("(["), *sorted(distinct(r, fraction, 2, 2)), r.choice(")]")),
    "set": lambda r: frozenset(distinct(r, fraction, 2, 5)),
    "points": lambda r: frozenset(distinct(r, lambda q: (q.randint(-9, 9), fraction(q)), 2, 4)),
    "matrix": lambda r: (lambda width: tuple(tuple(fraction(r) for _ in range(width))
        for _ in range(r.randint(2, 3))))(r.randint(2, 3)),
    "relation": lambda r: (r.choice("xyn"), fraction(r)),
    "bound": lambda r: (r.choice("xyt"), r.choice(["<", ">", r"\le", r"\ge"]), fraction(r)),
    "line": lambda r: (r.randint(1, 9), r.choice([-1, 1]) * r.randint(1, 9), r.randint(-9, 9)),
    "based": lambda r: (r.randint(1, 5000), r.choice([2, 3, 5, 7, 8, 9])),
    "clock": lambda r: (r.randint(1, 12), r.randint(0, 59), r.choice("ap")),
}


def canonical(kind: str, t):
    """What two equal things have in common."""
    if kind == "line":  # ax + by = c, up to a factor
        return tuple(Fraction(v, t[0]) for v in t)
    if kind == "polynomial":  # the last is the divisor
        return tuple(Fraction(v, t[5]) for v in t[:5])
    return t[0] ** t[1] if kind == "power" else t


def differ(a, b) -> bool | None:
    """Are two things certainly different? None where the rules let a part be missing."""
    (kind, s), (other, t) = a, b
    if kind == other == "number":
        (x, unit), (y, more) = s, t
        if "%" in (unit, more) and unit != more:
            return (None if unit and more else True) if x not in (y, y * 100) and y != x * 100 else None
        return x != y or (unit != more and bool(unit and more))
    if kind == other:
        return canonical(kind, s) != canonical(kind, t)
    pair = {kind, other}
    if pair <= {"number", "power", "relation"}:
        values = {"number": lambda v: v[0], "power": lambda v: v[0] ** v[1], "relation": lambda v: v[1]}
        x, y = values[kind](s), values[other](t)
        return True if x != y and x != 100 * y and y != 100 * x else None
    return None if pair in ({"tuple", "interval"}, {"bound", "interval"}, {"root", "pi"},
        {"polynomial", "line"}) else True


# ------------------------------------------------------------------------------------------------ spellings


def spelled_number(r, v: Fraction, grouped: bool = True) -> str:
    top, bottom, minus = abs(v.numerator), v.denominator, "-" * (v < 0)
    k = r.randint(2, 5)
    ways = [f"{minus}{top}/{bottom}", rf"{minus}\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{minus}{top}}}{{{bottom}}}",
        rf"\frac{{{minus}{k * top}}}{{{k * bottom}}}"]
    if top > bottom > 1:
        ways.append(rf"{minus}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
    if 10**6 % bottom == 0:
        places = next(n for n in range(7) if 10**n % bottom == 0)
        digits = f"{top * 10**places // bottom:0{places + 1}d}"
        whole, rest = digits[:len(digits) - places], digits[len(digits) - places:]
        ways += [minus + whole + (f".{rest}" if rest else r.choice(["", "", ".0"]))] * 4
        comma = r.choice([",", "{,}", r"\,"] if grouped else [r"\,", ""])
        ways.append(minus.replace("-", "\u2212") + f"{int(whole):,}".replace(",", comma)
            + (f".{rest}" if rest else ""))
    return r.choice(ways)


def spelled_polynomial(r, c) -> str:
    *terms, divisor = c
    names = ["x^2", "xy", "y^2", "x", ""]
    parts = [f"{v:+d}{n}" if r.random() < 0.7 or not n else f"{v:+d}{r.choice('*')}{n}" for v,
        n in zip(terms, names, strict=True)
        if v] or ["+0"]
    r.shuffle(parts)
    text = "".join(parts).lstrip("+").replace("xy", r.choice(["xy", "yx", r"x \cdot y"]))
    return text if divisor == 1 else r.choice([rf"\frac{{{text}}}{{{divisor}}}", f"({text})/{divisor}",
        rf"\frac{{1}}{{{divisor}}}({text})"])


def listed(r, items: list[str]) -> str:
    if r.random() < 0.3:
        return ", ".join(items[:-1]) + r.choice([" and ", " or ", r"\text{ and }"]) + items[-1]
    return r.choice(["{}", r"\{{{}\}}", r"\left\{{{}\right\}}"]).format(", ".join(items))


def in_base(n: int, base: int) -> str:
    return (in_base(n // base, base) if n >= base else "") + str(n % base)


def spell(r: random.Random, kind: str, t) -> str:
    """One of the ways to write a thing."""
    num = lambda v: spelled_number(r, v, kind in ("number", "relation"))  # noqa: E731
    if kind == "number":
        text = num(t[0])
        while t[1] == "%" and "/" in text:  # 1/2% may be half a percent or one over 2%
            text = num(t[0])
        return r.choice(UNITS[t[1]]).format(text)
    if kind == "root":
        a, b, c = t
        k = r.randint(2, 4)
        terms = [num(a), r.choice([rf"\frac{{{b.numerator}}}{{{b.denominator}}}\sqrt{{{c}}}",
            rf"\frac{{{b.numerator}\sqrt{{{c}}}}}{{{b.denominator}}}",
            rf"\frac{{{b.numerator}\sqrt{{{c * k * k}}}}}{{{b.denominator * k}}}"])]
        r.shuffle(terms)
        return f"{terms[0]}+{terms[1]}".replace("+-", "-") if "\u2212" not in terms[
            1] else f"{terms[1]}+{terms[0]}"
    if kind == "pi":
        n, d = t[0].numerator, t[0].denominator
        return r.choice([rf"\frac{{{n}\pi}}{{{d}}}", rf"\frac{{{n}}}{{{d}}}\pi", f"{n}\u03c0/{d}",
            rf"{n} \pi / {d}"])
    if kind == "power":
        return r.choice(["{0}^{{{1}}}", "{0}**{1}", "{2}", r"{0} \cdot {0}^{{{3}}}",
            r"\frac{{{4}}}{{{0}}}"]).format(
            *t, t[0] ** t[1], t[1] - 1, t[0] ** (t[1] + 1))
    if kind == "polynomial":
        return spelled_polynomial(r, t)
    if kind == "tuple":
        return r.choice(["({})", r"\left({}\right)", r"\langle {} \rangle"]).format(", ".join(map(num, t)))
    if kind == "interval":
        low, high = num(t[1]), num(t[2])
        less = {"(": ["<"], "[": [r"\le", r"\leq", "\u2264", r"\leqslant"]}
        chain = f"{low} {r.choice(less[t[0]])} x {r.choice(less['(' if t[3] == ')' else '['])} {high}"
        return r.choice([f"{t[0]}{low},{high}{t[3]}", rf"\left{t[0]} {low}, {high} \right{t[3]}",
            rf"x \in {t[0]}{low}, {high}{t[3]}", chain])
    if kind == "set":
        items = [num(v) for v in t]
        r.shuffle(items)
        if r.random() < 0.3:
            return r.choice([" or ", ", ", r" \text{ or } "]).join(f"x={item}" for item in items)
        return listed(r, items)
    if kind == "points":
        items = [f"({a},{r.choice(['', ' '])}{num(b)})" for a, b in t]
        r.shuffle(items)
        return listed(r, items)
    if kind == "matrix":
        space, kind = r.choice(["", " "]), r.choice(["pmatrix", "bmatrix"])
        rows = rf"{space}\\{space}".join(f"{space}&{space}".join(map(num, row)) for row in t)
        return rf"\begin{{{kind}}}{space}{rows}{space}\end{{{kind}}}"
    if kind == "relation":
        return r.choice(["{0} = {1}", "{0}={1}", "{1} = {0}"]).format(t[0], num(t[1]))
    if kind == "bound":
        turned = {"<": ">", ">": "<", r"\le": r"\geq", r"\ge": r"\leqslant"}
        return r.choice([f"{t[0]} {t[1]} {num(t[2])}", f"{num(t[2])} {turned[t[1]]} {t[0]}"])
    if kind == "line":
        a, b, c = t
        k = r.choice([1, 1, 2, -3])
        return r.choice([f"{a * k}x{b * k:+d}y={c * k}", f"{c * k} = {b * k}y{a * k:+d}x",
            f"{a * k}x{b * k:+d}y{-c * k:+d} = 0"])
    if kind == "based":
        return r.choice(["{}_{}", "{}_{{{}}}", "{} (base {})", r"{}_{{\text{{{}}}}}"]).format(in_base(*t),
            t[1])
    hour, minute, half = t
    return r.choice(["{}:{:02d} {}.m.", "{}:{:02d}{}m", r"{}:{:02d}\text{{ {}.m.}}"]).format(hour, minute,
        half)


# -------------------------------------------------------------------------------------------------- mutants


def mutant(r: random.Random, kind: str, t):
    """A thing of the same kind, changed in one place: a number, a sign, an order, a bracket, a unit."""
    change = lambda v: r.choice([-v, v + 1, v - 1, v * 10, 1 / v if v else v + 2,  # noqa: E731
        v + Fraction(1, r.choice([2, 3, 100])), v * Fraction(3, 2), Fraction(v.denominator * 7, 3)])
    if kind in ("set", "points"):
        items = list(t)
        at = r.randrange(len(items))
        new = change(items[at]) if kind == "set" else r.choice([(items[at][0], change(items[at][1])),
            (items[at][0] + 1, items[at][1])])
        return frozenset(r.choice([items[:at] + items[at + 1:], [*items, new], items[:at] + [new]
            + items[at + 1:]]))
    if kind == "matrix":
        rows = [list(row) for row in t]
        how = r.randrange(3)
        if how == 0:
            return tuple(zip(*rows, strict=True))
        at = r.randrange(len(rows))
        rows[at] = rows[at][::-1] if how == 1 else [change(rows[at][0]), *rows[at][1:]]
        return tuple(map(tuple, rows))
    parts = list(t)
    at = r.randrange(len(parts))
    if kind == "tuple" and r.random() < 0.5:
        return tuple(r.choice([parts[::-1], parts[:-1] if len(parts) > 2 else [*parts, 1],
            [*parts, parts[0]]]))
    part = parts[at]
    if isinstance(part, str):
        parts[at] = r.choice({"number": [*UNITS], "interval": list("([") if at == 0 else list(")]"),
            "relation": list("xyn"),
            "clock": list("ap")}.get(kind) or (list("xyt") if at == 0 else ["<", ">", r"\le", r"\ge"]))
    else:
        parts[at] = change(part) if isinstance(part, Fraction) else part + r.choice(
            [-1, 1, 2, -2 * part or 3])
    return tuple(parts)


VALID = {  # not all changes make a thing of the kind
    "interval": lambda t: t[1] < t[2], "power": lambda t: t[0] > 1 and 1 < t[1] < 20,
    "based": lambda t: t[0] > 0 and 1 < t[1] < 10, "clock": lambda t: 0 < t[0] <= 12 and 0 <= t[1] < 60,
    "set": lambda t: len(t) > 1, "points": lambda t: len(t) > 1, "line": lambda t: t[0] > 0 and t[1] != 0,
    "root": lambda t: t[1] != 0 and t[2] in (2, 3, 5, 6, 7), "pi": lambda t: t[0] != 0,
    "polynomial": lambda t: t[5] > 0 and any(t[:4])}


def valid(kind: str, t) -> bool:
    return kind not in VALID or VALID[kind](t)


def thing(r: random.Random):
    while True:
        kind = r.choice([*MAKERS])
        t = MAKERS[kind](r)
        if valid(kind, t):
            return kind, t


def written(r: random.Random, a) -> str:
    text = spell(r, *a)
    return text if "**" in text or text.endswith(".") else r.choice(WRAPS).format(text)


def other_spellings(r: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs of one thing that are refused."""
    things = [thing(r) for _ in range(count)]
    return [pair for a in things if not same_answer(*(pair := (written(r, a), written(r, a))))]


def mutants(r: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs of a mutant and its original that are accepted."""
    accepted = []
    while count:
        kind, t = thing(r)
        new = mutant(r, kind, t)
        if valid(kind, new) and differ((kind, t), (kind, new)):
            count -= 1
            pair = (written(r, (kind, new)), written(r, (kind, t)))
            accepted += [pair] if same_answer(*pair) else []
    return accepted


def random_pairs(r: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs of things that differ and are accepted."""
    accepted, pool = [], []
    while count:
        if len(pool) < 2000:
            a = thing(r)
            pool.append((a, [written(r, a) for _ in range(2)]))
        elif r.random() < 0.02:
            pool.pop(r.randrange(len(pool)))
        (a, texts), (b, others) = r.choice(pool), r.choice(pool)
        if differ(a, b):
            count -= 1
            pair = (r.choice(texts), r.choice(others))
            accepted += [pair] if same_answer(*pair) else []
    return accepted


def guesses(r: random.Random, count: int) -> list[tuple[str, str]]:
    """Texts with several values, one of them right, that are accepted for a number."""
    accepted = []
    for _ in range(count):
        a, b = r.randint(2, 999), r.randint(1000, 2000)
        word = r.choice(NUMBERS_IN_WORDS)
        form = r.choice(["{0} or {1}", "{1} or {0}", "{0}, {1}", "{0} {1}", "{0}/{1}", "{0}-{1}",
            "{0} to {1}", "{0}; {1}",
            "{0} = {1}", "x={0} or x={1}", "{0} ducks or {1}", "{0} of {1}", "{0} out of {1}", "{0} hundred",
            "{0} or {2}",
            "{0} ducks and {2} more", "not {0}", "{0} (or {1})", r"{0}\text{{ or }}{1}", "about {0}",
            "{0}...{1}", "{0} dozen",
            r"\pm {0}", "{0} < x < {1}", "x < {0}", "between {0} and {1}", "{0}_{{9}}", r"\{{{0},{1}\}}",
            "{0}%{1}",
            "**{0}** {1}", "{0}\u2013{1}", "{0} plus {2}", "{0} below zero", "{0} {2}ths",
            "{0} more than {2}", "${0}$ ${1}$"])
        pair = (form.format(a, b, word), str(a))
        accepted += [pair] if same_answer(*pair) else []
    return accepted


# --------------------------------------------------------------------------------------- golds of a file


def numeric(text: str):
    """A gold's value by sympy, a list of them for a tuple; None if this small reader cannot read it."""
    import sympy
    text = text.replace(r"\left", "").replace(r"\right", "").replace(r"\!", "").replace("$", "")
    if re.search(r"\\text|\\mbox|\\begin|\\cup|_|%|=|<|\\le|\\in|\\pm|\\cot", text):
        return None
    if match := re.fullmatch(r"\s*\((.*,.*)\)\s*", text):
        items = [numeric(item) for item in match[1].split(",")]
        return None if None in items else items
    text = re.sub(r"\\[dt]frac", r"\\frac", text.replace(r"^\circ", "").replace("\\\\$", ""))
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(\d),\s*(?=\d{3}(?!\d))", r"\1", text)
    while (new := re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))",
        re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)",
            re.sub(r"\\sqrt\s*(\d)", r"sqrt(\1)", text)))) != text:
        text = new
    text = text.replace(r"\pi", " pi ").replace("^", "**").replace("{", "(").replace("}", ")").replace("\\",
        "")
    text = re.sub(r"(?<=[\d)])\s*(?=[a-z(])|(?<=pi)\s*(?=[(\d])", "*", text)
    if re.search(r"[a-z]{2}", text.replace("sqrt", "").replace("pi", "")) or not re.fullmatch(
        r"[\w\s+*/().-]+", text):
        return None
    try:
        names = {name: sympy.Symbol(name) for name in "abcdefghjklmnopqrstuvwxyz"} | {"i": sympy.I}
        value = sympy.sympify(text, locals=names)
        points = {s: 1 / sympy.Integer(7 + 3 * k) for k, s in enumerate(sorted(value.free_symbols, key=str))}
        return complex(value.subs(points).evalf(30))
    except (sympy.SympifyError, TypeError, ValueError, SyntaxError, AttributeError):
        return None


def far(a, b) -> bool:
    if isinstance(a, list) or isinstance(b, list):
        return type(a) is not type(b) or len(a) != len(b) or any(map(far, a, b))
    return abs(a - b) > 1e-9 * max(1, abs(a))


def changed_text(r: random.Random, text: str) -> str:
    """A gold with a digit, a sign, an exponent, a fraction or an order changed."""
    digits = [m.start() for m in re.finditer(r"\d", text)]
    how = r.randrange(6)
    if how < 2 and digits:
        at = r.choice(digits)
        return text[:at] + r.choice("123456789") + text[at + 1:]
    if how == 2:
        return text[1:] if text.startswith("-") else "-" + text
    if how == 3:
        return re.sub(r"(frac\{[^{}]*\})(\{[^{}]*\})", lambda m: "frac" + m[2] + m[1][4:], text)
    if how == 4 and re.fullmatch(r"\(.*,.*\)", text):
        return "(" + ",".join(text[1:-1].split(",")[::-1]) + ")"
    return re.sub(r"(?<=\d)(?=\D|$)", r.choice("0123456789"), text,
        count=1) if r.random() < 0.5 else f"{text}^2"


def of_golds(r: random.Random, golds: list[str], count: int) -> tuple[int, list[tuple[str, str]]]:
    values = {gold: numeric(gold) for gold in dict.fromkeys(golds)}
    readable = [gold for gold, value in values.items() if value is not None]
    tried, accepted = 0, []
    for _ in range(count if len(readable) > 1 else 0):
        gold, other = r.sample(readable, 2)
        new = changed_text(r, gold) if r.random() < 0.7 else other
        value = values[new] if new in values else numeric(new)
        if value is not None and far(value, values[gold]):
            tried += 1
            accepted += [(new, gold)] if same_answer(new, gold) else []
    return tried, accepted


def golds_of(path: str) -> list[str]:
    text = Path(path).read_text()
    rows = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
    return [str(row["answer"]).rpartition("####")[2].strip() for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("mutants", 20_000), ("pairs", 400_000), ("same", 20_000), ("guesses", 5_000),
        ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--golds", action="append", default=[],
        help="a file with answers; may be given again")
    options = parser.parse_args()
    failed = 0
    for name, function in (("same", other_spellings), ("mutants", mutants), ("pairs", random_pairs),
        ("guesses", guesses)):
        start, count = time.perf_counter(), getattr(options, name)
        bad = function(random.Random(options.seed), count)
        failed += len(bad)
        print(f"{name}: {len(bad)} wrong verdicts in {count:,} ({time.perf_counter() - start:.0f} s)",
            *bad[:20], sep="\n    ")
    for path in options.golds:
        golds = golds_of(path)
        refused = [gold for gold in golds if not same_answer(gold, gold)]
        kinds = {kind: sum(reading(gold) == kind for gold in golds) for kind in ("value", "words", "nothing")}
        tried, bad = of_golds(random.Random(options.seed), golds, options.mutants)
        failed += len(bad) + len(refused)
        print(f"{path}: {kinds}, refused {len(refused)}, mutants {len(bad)} accepted of {tried:,}", *bad[:20],
            sep="\n    ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
