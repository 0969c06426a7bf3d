"""Trackers: what a library gets of a run. Modules with the libraries' functions are put in their place."""

import json
import sys
from types import ModuleType

import pytest

from config import UserError
from metrics import TRACKERS, Log, open_tracker, tracker_library


def project(calls):
    """wandb and trackio, as far as they are used."""
    library = ModuleType("library")
    library.init = lambda **settings: calls.append(settings)
    library.log = lambda values, step: calls.append((step, values))
    library.finish = lambda: None
    return library


def run_with_a_tracker(name, dir):
    log = Log(dir, 0, True, 2, open_tracker(name, dir, {"lr": 0.1}))
    log.write("eval", 0, x=0.5)
    for step in (1, 2):
        log.write("train", step, x=step / 4)
    log.write("eval", 2, x=1.0)
    log.write("before", 0, x=0.5)  # measured last


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_rows_reach_a_tracker_in_step_order(name, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, name, project(calls))
    run_with_a_tracker(name, tmp_path)
    assert calls[0] == {"project": "picoR1", "name": str(tmp_path), "config": {"lr": 0.1}}
    assert calls[1:] == [(0, {"eval/x": 0.5}), (1, {"train/x": 0.25}), (2, {"train/x": 0.5}),
        (2, {"eval/x": 1.0}), (2, {"before/x": 0.5})]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 0]  # the file says what the step was


def test_a_resumed_run_gives_a_tracker_the_whole_run(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", project(calls))
    run_with_a_tracker("wandb", tmp_path)
    calls.clear()
    log = Log(tmp_path, 1, True, 2, open_tracker("wandb", tmp_path, {}))
    log.write("train", 2, x=0.5)
    assert calls[1:] == [(0, {"eval/x": 0.5}), (1, {"train/x": 0.25}), (2, {"train/x": 0.5})]


def test_tensorboard_gets_a_scalar_per_value(tmp_path, monkeypatch):
    calls, library = [], ModuleType("library")

    class SummaryWriter:
        def __init__(self, dir):
            calls.append(dir)

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            pass

    library.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    run_with_a_tracker("tensorboard", tmp_path)
    assert calls == [str(tmp_path / "tensorboard"), ("eval/x", 0.5, 0), ("train/x", 0.25, 1),
        ("train/x", 0.5, 2), ("eval/x", 1.0, 2), ("before/x", 0.5, 2)]


def test_other_ranks_and_runs_without_a_tracker_write_to_none(tmp_path):
    assert open_tracker("", tmp_path, {}) == [] and tracker_library("") is None
    calls = []
    log = Log(tmp_path, 0, False, writers=[lambda *row: calls.append(row)])
    log.write("train", 1, x=1.0)
    assert not calls and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_library_is_one_line_that_names_the_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[name][0], None)  # as if it were not installed
    with pytest.raises(UserError, match=f"pip install {name}$"):
        tracker_library(name)
    with pytest.raises(UserError, match="did you mean wandb"):
        tracker_library("wandbb")
