"""How a text is written: in which language, and how often it repeats itself."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path

from config import closest

SCRIPTS = {"zh": {"CJK"}, "ja": {"CJK", "HIRAGANA", "KATAKANA"}, "ko": {"HANGUL"}, "ru": {"CYRILLIC"},
    "uk": {"CYRILLIC"}, "el": {"GREEK"}, "ar": {"ARABIC"}, "he": {"HEBREW"}, "hi": {"DEVANAGARI"},
    "th": {"THAI"}}
_FORMULA = re.compile(r"\$[^$]{0,300}\$|\\\(.{0,300}?\\\)|\\\[.{0,300}?\\\]|```.{0,3000}?```|`[^`\n]{1,300}`|"
    r"\\[A-Za-z]+", re.DOTALL)
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
# A word: Latin letters, or those of all other scripts. Digits and signs end it, whatever they touch.
_WORD = re.compile(rf"[{_LATIN}]+|(?:(?![{_LATIN}])[^\W\d_])+")
_CODE = re.compile(rf"(?<=[\d_=^/<\\])[{_LATIN}]+|[{_LATIN}]+(?=[\d_=^/>(\[])")  # the word touches a sign
# Scripts that put no space between words: kana, Han, Thai, Lao, Khmer, Burmese, Tibetan.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f"
    "\u0f00-\u0fff\U00020000-\U0003ffff]")
LONG_WORD = 100  # characters without a space that are read one by one: no word and no formula has as many


@lru_cache(1)
def word_lists() -> dict[str, frozenset[str]]:
    """Frequent words of each language in Latin script (data/languages.txt)."""
    lines = (Path(__file__).parent.parent / "data/languages.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ") for line in lines if not line.startswith("#")]
    return {language: frozenset(words.split()) for language, words in pairs}


@lru_cache(10_000)
def _script(char: str) -> str:
    """CJK, CYRILLIC, ...: the first word of the letter's name; "" for what is no letter."""
    name = unicodedata.name(char, "?").split()[0].split("-")[0] if char.isalpha() else ""
    return "CJK" if name == "IDEOGRAPHIC" else name  # the mark that repeats a character


def language_words(text: str, language: str) -> tuple[int, int, int]:
    """How many words of a text are in `language`, how many in another, and of how many that cannot be told.

    Neutral are digits, formulas, code, single Latin and Greek letters, and Latin letters that touch a digit
    or a sign of code (x1, 10km, sin(, x_max) if they are no listed word of four letters. By script: each Han
    or kana character is a word; in Chinese, Russian, ... every word of the script is right and every other
    word wrong. A Latin language: words of another script are wrong; so are words that only another list of
    data/languages.txt has; words of its own list are right; words of no list cannot be told. Reads 30,000
    characters. Raises ValueError."""
    if language not in SCRIPTS and language not in word_lists():
        raise ValueError(f"unknown language {language}{closest(language, [*SCRIPTS, *word_lists()])}")
    right = wrong = unknown = 0
    text = unicodedata.normalize("NFKC", _FORMULA.sub(" ", text[:30_000]))  # letters of formulas are letters
    for match in _WORD.finditer(text):
        word = match[0].lower()
        listed = any(word in words for words in word_lists().values())
        if not re.match(f"[{_LATIN}]", word):
            for script, count in Counter(map(_script, word)).items():
                count = count if script in ("CJK", "HIRAGANA", "KATAKANA") else 1
                mine = script in SCRIPTS.get(language, ())
                if script and (mine or script != "GREEK" or len(word) > 1):  # pi is a number
                    right, wrong = right + count * mine, wrong + count * (not mine)
        elif len(word) == 1 or _CODE.match(text, match.start()) and not (listed and len(word) > 3):
            continue
        elif language in SCRIPTS:
            wrong += 1
        elif word in word_lists()[language]:
            right += 1
        else:
            wrong, unknown = wrong + listed, unknown + (not listed)
    return right, wrong, unknown


def language_share(text: str, language: str) -> float:
    """The share of a text's words that are in `language` (`language_words`). Without words 1.0; with words of
    which none can be told, 0.0."""
    right, wrong, unknown = language_words(text, language)
    return right / (right + wrong) if right + wrong else float(not unknown)


def repeated_share(text: str, n: int = 4) -> float:
    """The share of a text's n-grams that repeat an earlier one, 0 to 1: n words or, where no spaces divide
    them, 2 n characters (a Chinese word has about two)."""
    words, characters = [], []
    for chunk in text.split():
        unspaced = len(chunk) > LONG_WORD or _UNSPACED.search(chunk)
        (characters if unspaced else words).extend(chunk if unspaced else [chunk])
    grams = [gram for units, size in ((words, n), (characters, 2 * n))
        for gram in zip(*(units[i:] for i in range(size)), strict=False)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
