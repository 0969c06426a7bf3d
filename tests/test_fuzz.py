"""A short run of fuzz.py, and what it would see."""

import sys
import time

import pytest

pytest.importorskip("tokenizers", reason="what makes the tokenizers' files: requirements-dev.txt")
import fuzz

from config import UserError

COUNT = 50  # of each kind


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated_inputs_are_answered_or_refused_in_one_line(kind, tmp_path):
    found = [(number, *fuzz.run(kind, 0, number, tmp_path)) for number in range(COUNT)]
    assert not [(number, text) for number, what, text, _ in found if what == "fault"]
    refused = sum(what == "refused" for _, what, *_ in found)
    assert 0 < refused < COUNT  # neither all nor none: the inputs are damaged, and not beyond reading


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize("work", [raises(ValueError("a")), raises(UserError("something is wrong")),
    raises(UserError("")), raises(SystemExit(0)), raises(SystemExit(2)), raises(KeyboardInterrupt()),
    raises(RecursionError()), lambda: sys.exit("file"), lambda: time.sleep(9)])
def test_a_fault_is_seen(work, monkeypatch):
    monkeypatch.setattr(fuzz, "WAIT", 0.3)
    assert fuzz.outcome(work, ["file"])[0] == "fault"


def test_an_answer_and_a_clear_line_are_no_faults():
    assert fuzz.outcome(lambda: 5, ["file"]) == ("answer", "")
    assert fuzz.outcome(fuzz.reach, ["file"]) == ("answer", "")
    said = fuzz.outcome(raises(UserError("file\nis broken")), ["file"])
    assert said == ("refused", "error: file is broken")
    assert fuzz.outcome(raises(OSError(28, "No space left", "file")), ["file"])[0] == "refused"


def test_an_input_depends_on_its_kind_the_seed_and_its_number_alone(tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append([])
        for number in range(6):
            (here := tmp_path / name / f"tokenizer{number}").mkdir()
            fuzz.tokenizer(fuzz.random.Random(f"tokenizer/0/{number}"), tmp_path, here)
            made[-1].append({path.name: path.read_bytes() for path in here.iterdir() if path.is_file()})
    assert made[0] == made[1] and made[0][0] != made[0][1]
