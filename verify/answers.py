"""What a mathematical answer means: text -> an exact value, and when two of them are the same.

    same_answer("\\\\frac{6}{4}", "1.5")  ->  True          same_answer("41 or 42", "42")  ->  False

An answer is one value: a number (whole, decimal, fraction, mixed, percent, scientific, 0.\\overline{3},
money, with a unit, in a base), an expression, a tuple, vector or interval, a set, a list, a union, a matrix,
a relation (`x = 5`, `-1 < x \\le 3`), an equation, a time of day, a choice (A to J), or words. Numbers are
compared as Fractions and expressions as in `verify/expressions.py`; never in floating point. What cannot be
read as one value is right only if it is the expected text, up to white space, unicode and markdown.

Rules that a reader should know:
- Percent is a unit, which may be missing on one side: 60% is 60 and is 0.6; 60 is not 0.6.
- A unit may be missing on one side; two different units differ. Words after a number are a unit ("18 ducks")
  unless one of them changes the number: "7 hundred", "18 or more", "18 below zero" (`_WORD_GROUPS`). `5m` is
  5 m, but not 5. "3 hr 20 min" is "3 hours 20 minutes", part by part: nothing is converted.
- `x = 5`, `area = 5`, "the answer is 5" and `5` are the same; `y = 5` and `x = 5` are not. `x < 5` is the
  interval (-oo, 5). Equations are the same if one is a multiple of the other; where `y = 2x + 1` is expected,
  `y - 3 = 2(x - 1)` will do, but no multiple, and neither will `2x = 10` where `x = 5` is expected.
- A tolerance exists only where the expected answer says that it is rounded: `\\approx 3.14` accepts what
  rounds to 3.14, `0.66...` what begins with these digits. (Given, `0.666...` is 2/3: three times at least.)
- `(1,2)` is a pair or an open interval, brackets decide; a column is a pair and so is `\\langle 1,2\\rangle`.
  `1, 2`, `1 and 2`, `1 or 2`, `\\{2, 1\\}` and `\\pm 2` are sets, and none of them is one of its items.
- 5:30 is 5:30 p.m. and 5:30 a.m., which differ. `52_8` is neither 52 nor 42, but `12_{10}` is 12.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from string import ascii_lowercase

from verify.expressions import FUNCTIONS, GREEK, difference, parse, proportional, same, times, variables

LONGEST, LONGEST_EXPRESSION, MOST_DIGITS, MOST_ITEMS = 6000, 400, 4300, 64

# ------------------------------------------------------------------------------------------------- cleaning


def _characters() -> dict[int, str]:
    """A character -> what it means in ASCII. Look-alikes (the Greek capital like an A) mean nothing."""
    meaning = dict(zip("\u2212\u00d7\u00f7\u00b7\u22c5\u2219\u2022\u2217\u2215\u2044\u221e\u222a\u2229\u2264"
        "\u2a7d\u2265\u2a7e\u2260\u2208\u2209\u2248\u00b1\u2213\u2205\u2228\u2227\u2192\u27f6\u2190\u21d2"
        "\u2223\u27e8\u27e9\u3008\u3009\u211d\u2236\u00b0\u00ba\u02da\u2218\u20ac\u00a3\u00a5\u2026\u22ef"
        "\u2032\u2019\u2018\u201c\u201d\u3001\u3002\u2009\u202f\u221a\u221b\u221c\u00d8", r"""
        - \times \div \cdot \cdot \cdot \cdot * / / \infty \cup \cap \le
        \le \ge \ge \ne \in \notin \approx \pm \mp \emptyset \lor \land \to \to \leftarrow \Rightarrow
        | \langle \rangle \langle \rangle \mathbb{R} : ^\circ ^\circ ^\circ ^\circ \euro \pound \yen ... ...
        ' ' ' " " , . \, \, \sqrt \sqrt[3] \sqrt[4] \emptyset""".split(), strict=True))
    meaning = {c: m + " " if m[-1].isalpha() else m for c, m in meaning.items()} | {"\u00a2": " cents",
        "\ufe63": "-", "\u2220": r"\angle ", "\u25b3": r"\triangle "}
    meaning |= dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00a0\u3000\u205f", " ")
    meaning |= {chr(c): " " for c in range(0x2000, 0x200B) if c != 0x2009}
    meaning |= {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {"\uffe5": r"\yen "}
    for c in map(chr, range(0x00BC, 0x215F)):  # one half and the like
        parts = unicodedata.normalize("NFKD", c).split("\u2044")
        if len(parts) == 2 and all(parts):
            meaning[c] = rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
    for c in map(chr, range(0x391, 0x3CA)):  # Greek letters by their names, if they look like no other
        name = unicodedata.name(c, "").removeprefix("GREEK ").replace("LAMDA", "LAMBDA").split()
        if len(name) == 3 and name[1] == "LETTER":
            command = "\\" + (name[2].lower() if name[0] == "SMALL" else name[2].capitalize())
            meaning |= {c: command + " "} if command in GREEK else {}
    meaning |= {"\u03d5": r"\phi ", "\u03f5": r"\epsilon "}
    for c in map(chr, range(0x1D400, 0x1D800)):  # letters and digits of mathematical type: the plain ones
        plain = unicodedata.normalize("NFKD", c)
        meaning[c] = plain if plain.isascii() else meaning.get(plain, plain)
    return {ord(c): text for c, text in meaning.items()}


_MEANING = _characters()
_MARKS = [(re.compile(f"[{marks}]+"), sign, str.maketrans(marks, "0123456789+-nki"))
    for sign, marks in (
        ("^", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f\u1d4f\u2071"),
        ("_", "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u2099\u2096\u1d62"))]
_DASH = re.compile(r"(^[\d.,\s]*\d\s*)?[\u2010-\u2015](?=(\s*[\d.])?)")
_WHOLE = [re.compile(pattern, re.DOTALL) for pattern in (r"\$\$(.*)\$\$", r"\$((?:[^$\\]|\\.)+)\$",
    r"\\\((.*)\\\)", r"\\\[(.*)\\\]",
    r"""(?P<mark>\*{1,3}|_{1,2}|`{1,3}|")((?:(?!(?P=mark)).)+)(?P=mark)""")]
_BOX = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mbox|textrm|emph)\s*\{")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal|sf)?|math(?:rm|bf|it|sf)|mbox|bm|boldsymbol|vec)"
    r"\s*\{([^{}]*)\}")
_ALIASES = {  # commands that mean another one, a character or nothing
    **dict.fromkeys("""left right middle displaystyle textstyle limits big Big bigg Bigg bigl bigr Bigl Bigr
    biggl biggr Biggl Biggr""".split(), ""), **dict.fromkeys("quad qquad enspace thinspace".split(), " "),
    **dict.fromkeys("dfrac tfrac cfrac".split(), r"\frac"), "dbinom": r"\binom", "tbinom": r"\binom",
    **dict.fromkeys("ldots cdots dots".split(), "..."), **dict.fromkeys("lvert rvert vert mid".split(), "|"),
    "lbrace": r"\{", "rbrace": r"\}", "langle": "(", "rangle": ")", "colon": ":", "varnothing": r"\emptyset",
    "degree": r"^\circ", "rightarrow": r"\to", "longrightarrow": r"\to", "cr": r"\\"}
_REPLACED = [(re.compile(pattern, re.DOTALL | re.ASCII), new) for pattern, new in (
    (r"(?<![\w*)}])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\w*({\\])", r" \1 "),  # bold within the text
    (r"(?<!\\)\$([^$]*)(?<!\\)\$", r" \1 "), (r"(?<!\\)\\[()]", " "),  # $69$, $84$
    (r"\\([A-Za-z]+)", lambda m: _ALIASES.get(m[1], m[0])),
    (r"(?<![\d.])\d{1,3}(?:(?:\\[,!:; ]|\{,\}|,\\!)\s*\d{3})+(?!\d)", lambda m: re.sub(r"\D", "", m[0])),
    (r"(?<!\\)\\[,!;: ]|(?<=.)~(?=.)|\\[hv]space\*?\{[^{}]*\}", " "), (r"\\([%$&])", r"\1"),
    (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"), (r"\\not\s*=", r"\\ne "),
    (r"(?<=\d)\s*(?:\^\s*)?(?:\{\s*)?(?:\\text\s*)?\{(st|nd|rd|th)\}\s*\}?", r"\1"),
    (_TEXT.pattern, r" \1 "), (r"\\\\\[\w+\]|\\\\$", lambda m: m[0][:2] if m[0][2:] else ""),
    (r"(?<=\d) x (?=10\s*\^)", r"\\times "), (r"\*\*", "^"),
    (r"^\s*\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:](.*)\\\}\s*$", r"\1"))]  # {x | x > 2}
_OPENING = re.compile(r"\**(?:(?:the|final|correct) ){1,3}answer(?: is:?|:)\s*(\*\*)?\s*", re.IGNORECASE)
_SIMPLE = re.compile(r"[\w .,:;/()+'!?=-]*", re.ASCII)  # nothing in it to clean


def _closing(text: str, at: int) -> int:
    """The position of the bracket that closes the one at `at`, or -1."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return -1


def _unwrap(text: str) -> str:
    """Without $...$, \\(...\\), **...**, \\boxed{...}, \\text{...} around it all, and a final full stop."""
    for _ in range(4):
        before = text = text.strip()
        for pattern in _WHOLE:
            if match := pattern.fullmatch(text):
                text = match[match.lastindex].strip()
        if (match := _BOX.match(text)) and _closing(text, match.end() - 1) == len(text) - 1:
            text = text[match.end():-1]
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            break
    return text


def _clean(text: str) -> str:
    if not text.isascii():
        text = re.sub("\u221a\\s*(\\d+)", r"\\sqrt{\1}", text, flags=re.ASCII)
        for marks, sign, table in _MARKS:
            text = marks.sub(lambda m, s=sign, t=table: f"{s}{{{m[0].translate(t)}}}", text)
        text = _DASH.sub(lambda m: m[0] if m[1] and m[2] else (m[1] or "") + "-", text.translate(_MEANING))
    text = _unwrap(text)
    text = text[match.end():] if (match := _OPENING.match(text)) else text
    if not _SIMPLE.fullmatch(text) and _number(text) is None:
        for pattern, new in _REPLACED:
            text = pattern.sub(new, text)
        text = _unwrap(text)
    return text


# ------------------------------------------------------------------------------------------------- numbers

_PLAIN = re.compile(r"[+-]?\s*(\d{1,3}(?:,\d{3})+|\d+)?(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_REPEATING = re.compile(r"[+-]?(\d*)\.(\d*)\\overline\{(\d+)\}", re.ASCII)
_DOTS = re.compile(r"([+-]?\d*\.\d*?)(\d+?)\2{2,}\s*\.{3}", re.ASCII)  # 0.333...
_MIXED = re.compile(r"[+-]?(?:(\d+)\s+)?(\d+)/(\d+)", re.ASCII)
_MIXED_FRAC = re.compile(r"[+-]?(\d+)?\s*\\[dtc]?frac\{(\d+)\}\{(\d+)\}", re.ASCII)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)


def _number(text: str) -> Fraction | None:
    """An exact decimal: 12, -1,234.5, .5, 1.5e3, 0.1\\overline{6}, 2/3, 2 1/2; None for anything else."""
    sign = -1 if text[:1] == "-" else 1
    if match := _PLAIN.fullmatch(text):
        whole, decimals, exponent = match.groups()
        digits = (whole or "").replace(",", "") + (decimals or "")
        if not digits or len(digits) > MOST_DIGITS:
            return None
        power = int(exponent or 0) - len(decimals or "")
        return sign * (Fraction(int(digits)) * Fraction(10) ** power if power else Fraction(int(digits)))
    if len(text) < 200 and (match := _MIXED.fullmatch(text) or _MIXED_FRAC.fullmatch(text)):
        whole, top, bottom = (int(part or 0) for part in match.groups())
        return sign * (whole + Fraction(top, bottom)) if bottom and (not match[1]
            or 0 < top < bottom) else None
    if len(text) < 200 and (match := _DOTS.fullmatch(text)):
        text = rf"{match[1]}\overline{{{match[2]}}}"
    if len(text) < 200 and (match := _REPEATING.fullmatch(text)):
        whole, fixed, again = match.groups()
        value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
        return sign * (value + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed)))
    return None


# --------------------------------------------------------------------------------------------------- units

_UNITS = {name: words.split()[0] for words in """
    mm millimeter millimetre, cm centimeter centimetre, m meter metre, km kilometer kilometre, inch in,
    foot ft feet, yd yard, mi mile, mg milligram, g gram gramme, kg kilogram, lb pound, oz ounce, ton tonne,
    ml milliliter millilitre mL, l liter litre L, gallon gal, s second sec, min minute, h hour hr, day, week,
    month, year yr, dollar USD, cent, euro EUR, gbp GBP, yen JPY, degree deg, C Celsius, F Fahrenheit,
    radian rad, unit, point, N newton, J joule, W watt, V volt, A ampere amp, K kelvin, Hz hertz,
    Pa pascal, mol mole, acre, hectare, kWh, GB, MB, pt pint, qt quart, tsp teaspoon, tbsp tablespoon
""".split(",") for word in words.split() for name in (word, word + "s")} | {"inches": "inch"}
_QUALIFIERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "per": "/", "a": "/", "an": "/"}
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h"}
_FILLERS = {*"the of in on at for with".split()}
_WORD_GROUPS = {  # words that make another number of the one before them, or doubt it
    "result": "remainder maximum minimum max min sum prod det dim gcd lcm percent percentage",
    "at the end": "mistake error unknown missing short odd limit bound estimate estimated",
    "sign": """negative negated opposite minus below beneath owed owing owes deficit shortage shortfall
        overdrawn debt loss""",
    "negation": """not no nor none never neither nope nah without except excluding excluded unless but instead
        rather hardly barely scarcely cannot isnt arent wasnt werent dont doesnt didnt cant wont aint""",
    "rejection": """wrong incorrect false untrue fails refuted ruled disproved disproven invalid impossible
        mistaken eliminated discarded dismissed retracted denied bogus fake absurd disregard ignore scratch
        wait fail failed reject rejected cancelled canceled crossed""",
    "doubt": """maybe perhaps probably possibly likely unlikely guess guesses guessing guessed think believe
        suppose supposedly assume assumed presumably apparently seemingly allegedly potentially plausible
        implausible doubt doubtful dubious questionable unsure uncertain unclear unproven unconfirmed
        unverified might may could would should either xor versus vs if or otherwise""",
    "comparison": """over under above beyond exceeding less fewer than least most between within ranging from
        to through until till up upward upwards onward onwards too about around approx approximately roughly
        nearly almost circa ca thereabout thereabouts ballpark somewhere quite several ish counting etc""",
    "operation": """plus and by added subtracted multiplied divided doubled tripled quadrupled halved
        quartered reversed inverted inverse reciprocal squared cubed power root rooted factorial mod modulo
        base basis choose twice thrice once itself is are was were be repeating recurring repeated recurs
        repeats periodic forever lim infinity infinite inf nan""",
    "number": """decimal binary octal hex hexadecimal grand thou mil mill bil mn bn tn mio mrd gross myriad
        lakh lakhs crore crores mille permille permil promille ppm ppb ppt bps fold folds nil null naught kilo
        mega giga tera hecto deca deka deci centi milli micro nano pico femto atto""",
    "function": " ".join(name[1:] for name in FUNCTIONS | GREEK | {r"\sqrt"})}
_CHANGING = {word for words in _WORD_GROUPS.values() for word in words.split()}
_RESULTS, _LAST = ({*_WORD_GROUPS[k].split()} for k in ("result", "at the end"))  # max = 5, 5 short sides
_COUNTING = re.compile(r"""(?:zero|one|two|three|thir|four|for|fif|five|six|seven|eigh|eight|nin|nine|ten|
    eleven|twelf|twelve|teen|ty|tie|half|halve|quarter|dozen|score|hundred|thousand|[a-z]*illion|double|triple|
    quadruple|first|third|second(?=th)|nth|minus|plus|and|or)+(?:s|th|ths|fold|st|sts)?""", re.VERBOSE)
_UNIT = re.compile(r"(?P<value>.*(?:[\d)}|!]|\\pi))(?P<gap>\s*)"
    r"(?P<unit>(?:[A-Za-z]|/\s?[A-Za-z]{3})[A-Za-z /*^{}123'.-]*)", re.DOTALL | re.ASCII)
_REMARK = re.compile(r"(.*\S\s+)\(\s*([A-Za-z][A-Za-z' -]+)\)", re.DOTALL | re.ASCII)
_MONEY = re.compile(r"([+-]?)\s*(\$|\\euro|\\pound|\\yen)\s*([^+]*)|([^$]*)(\\euro|\\pound|\\yen)")
_SIGNS = {"$": "dollar", r"\euro": "euro", r"\pound": "gbp", r"\yen": "yen"}
_PERCENT = re.compile(  # in LaTeX, words after a space and % are a comment
    r"(-?(?:[^-+*^%]|(?<=\{)-)*?)(?:\s*%|(?:(?<!\s)%|\s*\b(?:per ?cents?|percentage points?)\b)"
    r"(?P<words>\s+[A-Za-z' -]+)?)", re.ASCII)
_ANGLES = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?(?:\s*([CFK])(?![A-Za-z]))?")


def _unit(text: str, spaced: bool = True) -> tuple[str, ...] | None:
    """A unit as its words, each in one spelling (those that only some answers know with a ? before them), or
    None if the words are none."""
    text = re.sub("mph|kph|kmh(?!\\^)", lambda match: _SPEEDS[match[0]], text)
    text = re.sub(r"(?<=[A-Za-z])\s*\b([A-Za-z])\s*\^\{?-([123])\}?$", r"/\1^\2", re.sub(
        r"\b([ck]?m)([sh])(?=\s*\^\{?-)", r"\1 \2", text)).removesuffix("^1")  # m s^{-1}, ms^{-1}
    words = re.findall(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?|\^\{?[23]\}?|[/*]", text.replace(".", ""))
    if "".join(words) != re.sub(r"[\s.]+", "", text) or len(words) > 8:
        return None
    out, power = [], []
    for i, word in enumerate(words):
        low, follows = word.lower(), i + 1 < len(words) and words[i + 1][0].isalpha()
        known = _UNITS.get(word) or (_UNITS.get(low) if len(word) > 2 else None)
        if word in ("a", "an") and i and words[i - 1].lower() in _FILLERS:
            continue
        elif _QUALIFIERS.get(word) == "/":
            out.append("/")
        elif word in _QUALIFIERS and not power:
            power = [_QUALIFIERS[word]]
        elif not word[0].isalpha():
            out.append(re.sub(r"[{}]", "", word))
        elif known and (spaced or len(word) > 1) and not (follows and low in _FILLERS):
            out += [known, *power]
            power = []
        elif low in _FILLERS and follows:
            continue
        elif spaced and (_counted(word) or (follows and low in _LAST)) and not power and "." not in text:
            out.append("?" + re.sub("(?:es|s|e)$", "", re.sub("ies$", "y", low.rstrip("'"))))
        else:
            return None
    return tuple(out) if not power and {*out} - {"/"} else None


def _counted(word: str) -> bool:
    """Ducks and TVs, but no hundreds and no abc."""
    low, spoken = word.lower(), re.search("[aeiouy]|[A-Z]s$", word)
    return len(word) > 2 and bool(spoken) and low not in ascii_lowercase and not (
        any(part in _CHANGING or part == "t" or _COUNTING.fullmatch(part) for part in re.split("['-]", low)))


def _units_agree(a: tuple, b: tuple) -> bool:
    """One is missing, or they are equal but for words that only one has (18 ducks, 18 white ducks)."""
    known, also = ([word for word in unit if word[0] != "?"] for unit in (a, b))
    return not a or not b or (known == also and ({*a} <= {*b} or {*a} >= {*b}))


def _quantity(text: str, depth: int):
    """A number or expression with a currency, a percent sign, a unit or a remark."""
    if not _ANGLES.search(text):
        text = _DEGREES.sub(r" degree \1", text).strip()
    if match := _REMARK.fullmatch(text):
        text = match[1] + match[2] if _unit(match[2]) and len(match[2]) > 2 else text
    if match := _MONEY.fullmatch(text):
        amount = _value((match[3] or match[4] or "").strip(), depth + 1)
        unit = (_SIGNS[match[2] or match[5]],)
        if not amount or amount[0] != "number" or (match[1] == "-" and "-" in match[3]):
            return False
        _, value, more = amount
        if more not in ((), unit):
            unit += more if more[0][0] in "/?" else ("",)
        return "" not in unit and ("number", times(value, -1) if match[1] == "-" else value, unit)
    if match := _PERCENT.fullmatch(text):
        part, unit = match[1].strip(), _unit(match["words"].strip()) if match["words"] else ()
        value = _value(part, depth + 1)
        simple = unit is not None and not re.search(r"\\(?:cdot|times|div)", part) and (
            "/" not in part or " " in part.split("/")[0].strip())
        return bool(simple and value and value[0] == "number" and value[2] == () and "?mor" not in unit) and (
            "number", value[1], ("%", *unit))  # 5 percent more is not 5 percent
    match = _UNIT.fullmatch(text)
    unit = match and _unit(match["unit"], bool(match["gap"]))
    value = _value(match["value"].strip(), depth + 1) if unit else None
    return ("number", value[1], unit) if value and value[0] == "number" and value[2] == () else None


# -------------------------------------------------------------------------------------------------- values

_NAMED = {**dict.fromkeys((r"\emptyset", r"\{\}", r"\{ \}"), ("set", ())), **{sign + name: ("infinity",
    sign[:1] == "-") for sign in ("", "+", "-", "- ") for name in (r"\infty", "infinity")}}
_NAMED |= dict.fromkeys((r"\mathbb{R}", r"\mathbb R", r"\R", "all real numbers", "all reals"), (
    "tuple", "(", (_NAMED[r"-\infty"], _NAMED[r"\infty"]), ")"))
_RELATION = r"<=|>=|!=|=|<|>|\\(?:leq?(?:q|slant)?|geq?(?:q|slant)?|neq?|in|lt|gt)(?![A-Za-z])"
_HAS_RELATION = re.compile(_RELATION)
_OPERATORS = {"<=": r"\le", r"\leq": r"\le", r"\leqq": r"\le", r"\leqslant": r"\le", ">=": r"\ge", r"\geq":
    r"\ge", r"\geqq": r"\ge", r"\geqslant": r"\ge", "!=": r"\ne", r"\neq": r"\ne", r"\lt": "<", r"\gt": ">"}
_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
_NAME = re.compile(r"(?:m?\\angle\s*)?([A-Z]{2,3}|[A-Za-z]{3,}(?: (?:a|[A-Za-z]{2,})){0,6})")
_VARIABLE = re.compile(r"[A-Za-z]\^\{-1\}\([a-z]\)|(?:[A-Za-z]|answer|Answer)(?:_(?:\w|\{\w+\}))?'?"
    r"(?:\([a-z]\))?|\((?:[A-Za-z],\s*)+[A-Za-z]\)", re.ASCII)
_JOIN = r"\s*,?\s*(?<![A-Za-z\\/])(?:and|or)(?![A-Za-z/])|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|[,;]"
_MATRIX = re.compile(r"([(\[]\s*)?\\begin\{([pb]|small)?(?:matrix|array)\}(?:\s*\{[lcr|]*\})?(.*)"
    r"\\end\{\2?(?:matrix|array)\}(\s*[)\]])?", re.DOTALL)
_TIME = re.compile(r"(\d\d?)(?:\s*:\s*(\d\d))?\s*([ap])\.?\s?m\.?", re.ASCII | re.IGNORECASE)
_CHAINS = ("year month week day h min s", "mi yd foot inch", "lb oz", "kg g", "km m cm mm", "dollar cent")
_COMPOUND = re.compile(r"\d[\d.]*\s*[A-Za-z]+\.?(?:,?(?: and)? \d[\d.]*\s*[A-Za-z]+\.?)+", re.ASCII)
_RATIO = re.compile(r"[\d.]+(?:\s*:\s*[\d.]+)+", re.ASCII)
_BASES = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13),
    strict=True))
_BASED = re.compile(r"([+-]?)\(?(\d[\dA-Za-z]*)\)?(?:\s*_\s*\{?\s*\(?|\s+\(?(?:in )?base[ -]*)"
    r"(\d\d?|[a-z]+)\s*\)?\}?", re.ASCII)
_COMMANDS = re.compile(rf"(?<![A-Za-z\\])(sqrt|pi|{'|'.join(f[1:] for f in FUNCTIONS)})(?![A-Za-z])")
_CHOICE = re.compile(r"(?:(?i:option|choice|answer)\b[ :]*)?\(?([A-Ja-j])\)?[.:)]?")
_JOINED = re.compile(r"([+-]?[\d.]+)([A-Za-z])", re.ASCII)
_LETTER = re.compile(r"\(?[A-J]\)?")
_ROUNDED = re.compile(r"(?:[A-Za-z]\s*)?(?:\\approx|~)\s*([+-]?(?:\d+(?:\.\d+)?|\.\d+))|"
    r"([+-]?\d*\.\d+)\s*\.\.\.", re.ASCII)
_PLURAL = re.compile(r"(?<=[a-z]{2}[a-rt-z])s\b")
_WORDS = re.compile(r"[A-Za-z][A-Za-z '-]*")


def _cut(text: str, separator: str) -> tuple[list[str], list[str]]:
    """The parts between separators that stand outside all brackets, and these separators."""
    parts, found, depth, start = [], [], 0, 0
    for match in re.finditer(rf"({separator})|([(\[{{])|[)\]}}]", text):
        if match[1] is None:
            depth += 1 if match[2] else -1
        elif depth == 0:
            parts.append(text[start:match.start()].strip())
            found.append(match[1])
            start = match.end()
    return [*parts, text[start:].strip()], found


def _all(parts: list[str], depth: int):
    """The values of the parts, or False. (Expressions are compared pair by pair, so not too many.)"""
    if len(parts) > MOST_ITEMS:
        return False
    values = tuple(_value(part, depth + 1) for part in parts)
    if None in values or (len(values) > 16 and not all(v[0] == "number" and isinstance(v[1], Fraction)
            for v in values)):
        return False
    return values


def _set(parts: list[str], depth: int):
    values = _all(parts, depth)  # 1 \pm \sqrt2 is two items
    return values and ("set", tuple(item for part, value in zip(parts, values, strict=True)
        for item in (value[1] if r"\pm" in part and value[0] == "set" else [value])))


def _bracketed(text: str, depth: int):
    """(1, 2), [1, 2), {1, 2}"""
    opening = 1 if text.startswith(r"\{") else 0
    if text[opening] not in "([{" or _closing(text, opening) != len(text) - 1:
        return None
    inside = text[opening + 1:-1].removesuffix("\\")
    parts, _ = _cut(inside, "[,;]" if text[opening] == "{" else ",")
    if text[opening] == "{":
        return _set(parts, depth) if opening or len(parts) > 1 else None
    values = len(parts) > 1 and _all(parts, depth)
    return None if len(parts) < 2 else values and ("tuple", text[0], values, text[-1])


def _listed(text: str, depth: int):
    """1, 2 and 3; x = 1, 2; x = 1 or x = 2; x < 1 or x > 2; x = 1, y = 2"""
    parts, joins = _cut(text, _JOIN)
    if not joins:
        return None
    words = {re.sub(r"[\s,;]", "", join).replace(r"\lor", "or").replace(r"\vee", "or")
        for join in joins} - {""}
    related = [bool(_HAS_RELATION.search(part)) for part in parts]
    if len(words) > 1:
        return False
    if not any(related):
        return _set(parts, depth)
    if not all(related[1:]) and related[0] and not any(related[1:]):
        first, rest = _value(parts[0], depth + 1), _all(parts[1:], depth)
        same_kind = first and rest and first[0] == "relation" and first[2] == "="
        return same_kind and (*first[:3], ("set", (first[3], *rest)))
    values = all(related) and _all(parts, depth)
    if values and len({v[:3] for v in values}) == 1 and values[0][0] == "relation":
        if values[0][2] == "=":
            return (*values[0][:3], ("set", tuple(v[3] for v in values)))
        if values[0][2] == r"\in" and words == {"or"}:
            return (*values[0][:3], ("union", tuple(part for v in values for part in (
                v[3][1] if v[3][0] == "union" else [v[3]]))))
    return values and ("system", values)


def _interval(operators: list[str], low, high):
    left, right = "[" if operators[0] == r"\le" else "(", "]" if operators[1] == r"\le" else ")"
    return ("tuple", left, (low, high), right)


def _constant(value) -> bool:
    return bool(value) and (value[0] == "infinity" or (value[0] == "number" and not variables(value[1])))


def _is_name(text: str) -> bool:
    """AB, area, total cost; not xy, twice x, wrong"""
    return bool(match := _NAME.fullmatch(text)) and _is_words(match[1]) and not any(
        word in _CHANGING - _RESULTS or _COUNTING.fullmatch(word) for word in match[1].lower().split())


def _related(text: str, depth: int):
    """x = 5, 5 < x, -1 < x <= 3, x^2 + y^2 = 13; not 41 = 42, a = b = c"""
    parts, marks = _cut(text, _RELATION)
    if not marks:
        return None
    marks = [_OPERATORS.get(mark, mark) for mark in marks]
    names = [_VARIABLE.fullmatch(part) or part in GREEK or (marks == ["="] and _is_name(part))
        for part in parts]
    if len(marks) == 1 and not names[0] and names[1] and marks[0] in _TURNED:
        parts, names, marks = parts[::-1], names[::-1], [_TURNED[marks[0]]]
    name = re.sub(r"[{} ]", "", parts[0])
    if len(marks) == 1 and names[0] and marks[0] in ("=", r"\in", r"\ne"):
        value = _value(parts[1], depth + 1)
        return value and ("relation", name, marks[0], value)
    if not {*marks} <= {"<", r"\le"}:
        parts, names, marks = parts[::-1], names[::-1], [_TURNED.get(mark, "") for mark in reversed(marks)]
    values = _all(parts, depth)
    if not values or (len(marks) > 1 and not {*marks} <= {"<", r"\le"}) or "" in marks:
        return False
    if len(marks) == 1 and names[0] and _constant(values[1]):
        values, marks, names, parts = (_NAMED[r"-\infty"], *values), ["<", *marks], [0, *names], ["", *parts]
    elif len(marks) == 1 and names[1] and _constant(values[0]):
        values, marks = (*values, _NAMED[r"\infty"]), [*marks, "<"]
    if len(marks) == 2 and names[1] and _constant(values[0]) and _constant(values[2]):
        return ("relation", re.sub(r"[{} ]", "", parts[1]), r"\in", _interval(marks, values[0], values[2]))
    if any(value[0] != "number" for value in values) or not any(variables(value[1]) for value in values):
        return False
    return ("chain", tuple(marks), values) if len(marks) > 1 else (
        "equation", marks[0], difference(values[0][1], values[1][1]))


def _matrix(text: str, depth: int):
    """A matrix is a list of rows in brackets, and so is [[1, 2], [3, 4]]."""
    if not (match := _MATRIX.fullmatch(text)) or r"\begin" in match[3]:
        return None
    rows = [_cut(row, "&")[0] for row in re.split(r"\\\\", re.sub(r"\\\\\s*$", "", match[3]))]
    if len({len(row) for row in rows}) != 1 or sum(map(len, rows)) > MOST_ITEMS:
        return False
    values = [tuple(_value(cell, depth + 1) for cell in row) for row in rows]
    return all(None not in row for row in values) and (
        "tuple", "[", tuple(("tuple", "[", row, "]") for row in values), "]")


def _united(text: str, depth: int):
    if r"\cup" not in text:
        return None
    parts = _all(_cut(text, r"\\cup")[0], depth)
    if not parts or not {part[0] for part in parts} <= {"set", "tuple", "union"}:
        return False
    if all(part[0] == "set" for part in parts):
        return ("set", tuple(v for part in parts for v in part[1]))
    return ("union", parts)


def _both_signs(text: str, depth: int):
    if r"\pm" not in text:
        return None
    values = text.count(r"\pm") == 1 and _all([text.replace(r"\pm", sign).strip() for sign in "+-"], depth)
    return values and ("set", values)


def _compound(text: str, depth: int):
    """3 hours 20 minutes; 5 ft. 3 in.: units of one kind, the larger first"""
    if not _COMPOUND.fullmatch(text):
        return None
    parts = re.findall(r"(\d[\d.]*)\s*([A-Za-z]+)", text, re.ASCII)
    units = [_UNITS.get(unit) or _UNITS.get(unit.lower()) for _, unit in parts]
    values = [_number(number) for number, _ in parts]
    if None in values or not any(units == [u for u in chain.split() if u in units] for chain in _CHAINS):
        return None
    return ("tuple", "+", tuple(("number", v, (u,)) for v, u in zip(values, units, strict=True)), "+")


def _clock(text: str, depth: int):
    """5:30 p.m. in minutes; 5:30 and 3:4:5 as they are"""
    if match := _TIME.fullmatch(text):
        hour, minute = int(match[1]), int(match[2] or 0)
        return 0 < hour <= 12 and minute < 60 and (
            "time", hour % 12 * 60 + minute + 720 * (match[3] in "pP"))
    values = _RATIO.fullmatch(text) and _all(re.split(r"\s*:\s*", text), depth)
    return ("tuple", ":", values, ":") if values else None


def _based(text: str, depth: int):
    """52_8, 52 (base 8); 3a_2 is a variable with an index"""
    if not (match := _BASED.fullmatch(text)):
        return None
    base = int(match[3]) if match[3].isdigit() else _BASES.get(match[3], 0)
    try:
        value = int(match[1] + match[2], base)
    except ValueError:  # 92 in base 8
        return False if match[2].isdigit() else None
    return ("number", Fraction(value), ()) if base == 10 else ("based", value, base)


def _is_words(text: str) -> bool:
    """Words are words, not products of letters: `no`, `Paris`, `2 dogs`; but `xy` and `2ab` are products."""
    runs = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    return any(len(run) > 3 or re.search("[oO]" if len(run) == 2 else "[aeiouAEIOU]", run)
        or not run.islower()
        for run in runs) or re.search(r"\d(?:st|nd|rd|th)\b", text) is not None


def _expression(text: str, depth: int):
    text = _COMMANDS.sub(r"\\\1", text)
    value = None if _is_words(text) else parse(text)
    return value is not None and ("number", value, ())


# each reads its kind; None: another kind; False: its kind, but not one value
_READERS = (lambda text, _: _NAMED.get(text) or _NAMED.get(text.lower()), _bracketed, _matrix, _compound,
    _listed, _related, _united, _both_signs, _clock, _based, _quantity, _expression)


def _value(text: str, depth: int = 0):
    """The one value of a text, or None: ("number", Fraction or tree, unit), ("tuple", "(", values, ")"),
    ("set" or "union" or "system", values), ("relation", name, operator, value), ("time", minutes),
    ("equation", operator, difference), ("chain", operators, values), ("based", number, base),
    ("infinity", negative)."""
    number = _number(text)
    if number is not None:
        return ("number", number, ())
    if not text or depth > 4 or len(text) > LONGEST_EXPRESSION:
        return None
    if "," in text and not re.search(r"[(\[].*,", text) and not text.startswith((r"\{", "{")):
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)  # 1,000 cm
    for reader in _READERS:
        value = reader(text, depth)
        if value is not None:
            return value or None
    return None


@lru_cache(4096)
def _read(text: str):
    """(the text without wrapping and white space, its value or None); what is simple is read at once."""
    number = _number(text)
    if number is not None or (text.isalpha() and len(text) > 3 and _WORDS.fullmatch(text)
            and text.lower() not in _NAMED):
        return text, None if number is None else ("number", number, ())
    text = " ".join(_clean(text).split())
    return re.sub(r" ?([^\w .\\]) ?", r"\1", text), _value(text)


# ------------------------------------------------------------------------------------------------ sameness


def _same_numbers(a, b) -> bool:
    (_, x, unit), (_, y, other) = a, b
    if ("%" in unit) != ("%" in other) and not (unit and other):
        return same(x, y) or (same(x, times(y, 100)) if unit else same(times(x, 100), y))
    return _units_agree(unit, other) and same(x, y)


def _same_items(a, b) -> bool:
    """Sets: the order does not matter."""
    if max(len(a[1]), len(b[1])) > 16:
        return {*a[1]} == {*b[1]}
    return all(any(_same(x, y) for y in b[1]) for x in a[1]) and all(
        any(_same(x, y) for x in a[1]) for y in b[1])


def _same_tuples(a, b) -> bool:
    if a[1] + b[1] in ("([", "[("):  # (1, 2) and a column
        a, b = (("tuple", "(", tuple(row[2][0] for row in t[2]), ")") if t[1] == "[" and all(
            row[0] == "tuple" and row[1] == "[" and len(row[2]) == 1 for row in t[2]) else t for t in (a, b))
    return a[1] == b[1] and a[3] == b[3] and len(a[2]) == len(b[2]) and all(map(_same, a[2], b[2]))


def _same_equations(a, b) -> bool:
    return a[1] == b[1] and (proportional(a[2], b[2]) if a[1] in ("=", r"\ne") else same(a[2], b[2]))


def _is_time(clock, time) -> bool:
    hour, minute = (item[1] for item in clock[2]) if clock[1] == ":" and len(clock[2]) == 2 else (24, 0)
    return hour < 24 and minute < 60 and (hour * 60 + minute == time[1] or (
        hour <= 12 and (hour % 12 * 60 + minute) == time[1] % 720))


def _solves(a, b, exactly: bool = False) -> bool:
    """y = 2x + 3 for 2x - y + 3 = 0; exactly: y - 5 = 2(x - 1) for y = 2x + 3, but no 2y = 4x + 6"""
    variable, value = parse(a[1]), a[3]
    if variable is None or value[0] != "number" or value[2]:
        return False
    equation = ("equation", a[2], difference(variable, value[1]))
    return _same_equations(equation, b) and (not exactly or (bool(variables(value[1])) and any(
        same(times(equation[2], sign), b[2]) for sign in (1, -1))))


def _each(relation) -> tuple:
    """(x, y) = (1, 2) as x = 1, y = 2"""
    _, names, operator, value = relation
    names = names.strip("()").split(",")
    if value[0] != "tuple" or value[1] != "(" or len(value[2]) != len(names) or operator != "=":
        return ("system", (relation,))
    return ("system", tuple(("relation", name, "=", v) for name, v in zip(names, value[2], strict=True)))


_ALIKE = {  # the kinds of the given and of the expected value: when they are the same
    ("number", "number"): _same_numbers, ("tuple", "tuple"): _same_tuples, ("set", "set"): _same_items,
    ("union", "union"): _same_items, ("system", "system"): _same_items, ("relation", "equation"): _solves,
    ("equation", "equation"): _same_equations,
    ("equation", "relation"): lambda a, b: _solves(b, a, exactly=True),
    ("relation", "relation"): lambda a, b: a[1:3] == b[1:3] and _same(a[3], b[3]),
    ("chain", "chain"): lambda a, b: a[1] == b[1] and len(a[2]) == len(b[2]) and all(map(_same, a[2], b[2])),
    ("tuple", "time"): _is_time, ("time", "tuple"): lambda a, b: _is_time(b, a),
    ("system", "relation"): lambda a, b: _same_items(a, _each(b)),
    ("relation", "system"): lambda a, b: _same_items(_each(a), b)}


def _same(a, b) -> bool:
    """Are two values the same?"""
    if (a[0], b[0]) in _ALIKE:
        return _ALIKE[a[0], b[0]](a, b)
    if a[0] == "relation":
        return a[2] in ("=", r"\in") and _same(a[3], b)
    if b[0] == "relation":
        return b[2] in ("=", r"\in") and a[0] != "equation" and _same(a, b[3])
    return a == b


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


def _only_words(text: str, value) -> bool:
    """Words as an expected answer: only the same words are right. (A few letters may be a product, too.)"""
    if _WORDS.fullmatch(text) and text.lower() not in _NAMED:
        return re.search("[A-Za-z]{3}|^(no|No|NO)$", text) is not None
    return value is None and bool(re.search(r"[^\W\d_]{2}|[^\W\d_A-Za-z]", text)) and not re.search(
        r"[\\^_=<>{}|~$]", text)


def _spaced(text: str, value, other):
    """5m where the other is 5 m, and not where it is 5"""
    match = other and other[0] == "number" and other[2] and _JOINED.fullmatch(text)
    return _value(f"{match[1]} {match[2]}") if match else value


def same_answer(given: str, gold: str) -> bool:
    """Is `given` the same answer as the expected `gold`? See the rules above. Never raises for any text."""
    if len(given) > LONGEST or len(gold) > LONGEST:
        return False
    (text, value), (wanted, expected) = _read(given), _read(gold)
    if text == wanted:
        return True
    if _only_words(wanted, expected):
        return text.isascii() == wanted.isascii() and _PLURAL.sub("", text.lower()) == _PLURAL.sub(
            "", wanted.lower())
    if _LETTER.fullmatch(wanted):
        choice = _CHOICE.fullmatch(text)
        return bool(choice) and choice[1].upper() == wanted.strip("()")
    if value is not None and _ROUNDED.fullmatch(wanted):
        value = value[3] if value[0] == "relation" and value[2] == "=" else value
        plain = value[0] == "number" and not value[2] and isinstance(value[1], Fraction)
        return plain and _rounded(wanted, value[1])
    if text == "{}":  # as an expected answer it is LaTeX for nothing
        value = _NAMED[r"\{\}"]
    value, expected = _spaced(text, value, expected), _spaced(wanted, expected, value)
    return value is not None and expected is not None and _same(value, expected)


def reading(gold: str) -> str:
    """How an expected answer is read: "value", "words" (only the same words are right, in any case), or
    "nothing": it looks like mathematics, but has no value here, so only the identical text is right."""
    text, value = _read(gold) if len(gold) <= LONGEST else ("", None)
    if _only_words(text, value):
        return "words"
    return "value" if value is not None or _ROUNDED.fullmatch(text) or _LETTER.fullmatch(text) else "nothing"
