"""What a completion is made of: its thinking, its answer, its last number. Linear in its length."""

import re
from fractions import Fraction
from textwrap import dedent

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FENCES = ("```", "```python", "```py", "```python3")  # the first line of a program's block


def split_completion(completion: str, boxed: bool = False) -> tuple[str, str] | None:
    """(thinking, answer) of a completion that has the form, else None: each tag exactly once, in this order,
    and only white space outside. `boxed` = the R1 form instead: after `</think>` a summary without tags, in
    it exactly one \\boxed{...}, whose content is the answer."""
    wanted = TAGS[:2] if boxed else TAGS
    if [completion.count(tag) for tag in TAGS] != [int(tag in wanted) for tag in TAGS]:
        return None
    before, _, rest = completion.partition("<think>")
    thinking, _, rest = rest.partition("</think>")
    if boxed:
        answer = _boxed(rest) if rest and not before.strip() else None
        return None if answer is None else (thinking, answer)
    between, _, rest = rest.partition("<answer>")
    answer, tag, after = rest.partition("</answer>")
    if not tag or (before + between + after).strip():
        return None
    return thinking, answer.strip()


def _boxed(summary: str) -> str | None:
    """The content of the only \\boxed{...}, with its braces balanced."""
    _, found, rest = summary.partition(r"\boxed{")
    if not found or r"\boxed" in rest:
        return None
    return _closed(rest)


def _closed(text: str) -> str | None:
    """What stands before the brace that closes one in front of the text; None if it is never closed."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[:20_000]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[: brace.start()].strip()
    return None


def last_box(text: str) -> str | None:
    """What the last \\boxed{...} or \\fbox{...} of a text holds, also `\\boxed 5`; None without one, and for
    one that is never closed."""
    *_, found = [None, *re.finditer(r"\\(?:boxed|fbox)(?![A-Za-z])\s*", text)]
    if found is None:
        return None
    rest = text[found.end() :]
    if rest.startswith("{"):
        return _closed(rest[1:])
    return re.split(r"[\s$]", rest, maxsplit=1)[0].rstrip(".,") or None


def extract_answer(completion: str, boxed: bool = False) -> str | None:
    """The answer of a completion that has the form (`split_completion`), stripped, else None."""
    parts = split_completion(completion, boxed)
    return parts and parts[1]


def found_answer(completion: str, program: bool = False) -> str | None:
    """The answer of a completion of any form: what stands in the last <answer>...</answer>, else in the last
    \\boxed{...}, else behind the last ####, to the end of its line; for a program the last fenced block
    of these or of all the text. Looked for after `</think>` if there is one. None if nothing is found."""
    rest = completion.rpartition("</think>")[2]
    _, tag, inside = rest.rpartition("</answer>")[0].rpartition("<answer>")
    answer = inside.partition("</answer>")[0].strip() if tag else None
    where = rest if answer is None else answer
    if program:
        return _last_block(where) or answer
    if re.search(r"\\(?:boxed|fbox)(?![A-Za-z])", where):
        return last_box(where)
    if "####" in where:
        answer = where.rpartition("####")[2].strip().partition("\n")[0].strip(" \t*_")  # **#### 7**
    return answer


def _last_block(text: str) -> str | None:
    """The last ```python ... ``` of a text, fences included; without its indentation in a list."""
    lines, start, block = text.split("\n"), None, None
    for i, line in enumerate(line.strip().lower() for line in lines):
        if start is None and line in FENCES:
            start = i
        elif start is not None and line == "```":
            block, start = "\n".join(["```", dedent("\n".join(lines[start + 1 : i])), "```"]), None
    return block


# 10 or 1,234 or 3.50 or .5, and 3/4 as one number; x2 and step1 are none, 10pens is 10
NUMBER = re.compile(r"(?<![A-Za-z0-9_])(?:([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(\.[0-9]+)?|"
    r"(?<!\.)(\.[0-9]+))(?:/([0-9]+))?")
MINUS = re.compile(r"(?:^|[^\w)\]}-])[-\u2212]\$?$")  # a sign: in "7-3", in "x-3" and in "- 3" there is none


def last_number(text: str) -> Fraction | None:
    """The last number of a reply; of what stands in the last <answer> where there are such tags. A final
    point, a dollar sign and stars around it do not matter; words ("ten") are no numbers. None without one,
    for one of more than 60 characters, and for a division by zero."""
    text, last = text.rpartition("<answer>")[2].partition("</answer>")[0], None
    for match in NUMBER.finditer(text):
        last = match
    if last is None or len(last[0]) > 60 or last[4] and int(last[4]) == 0:
        return None
    whole, part, bare, under = last.groups(default="")
    value = Fraction(whole.replace(",", "") + part + bare) / int(under or 1)
    return -value if MINUS.search(text[max(0, last.start() - 3) : last.start()]) else value
