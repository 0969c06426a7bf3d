"""States and models on the disk: whole or refused, by the name of the file; what a resumed run may change.
Kills at random moments, full disks and folders that vanish: tests/torture.py."""

import errno
import json
import random
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
from checkpoint import (
    MANIFEST,
    PREVIOUS,
    Saver,
    load_model,
    load_state,
    newest_state,
    own_state,
    random_state,
    save_model,
    save_run,
    save_state,
    unfinished,
)
from config import ModelConfig, UserError
from data.tokenizer import shipped
from lora import Lora, attach
from metrics import Log
from model import Transformer
from optim import make_optimizers
from parallel import ALONE
from tests import torture
from tests.torture import DAMAGES, files_of

TOKENS = [1, 2, 3]


def tiny(seed=0):
    return Transformer(ModelConfig(vocab_size=512, hidden_size=16, intermediate_size=16,
        moe_intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, kv_lora_rank=8,
        qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4)).init_weights(seed)


def stepped(model, optimizers):
    """One optimizer step with random gradients."""
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for optimizer in optimizers:
        optimizer.step()


@pytest.fixture
def two_states(tmp_path):
    """The states of step 1 and 2, and the weights at each."""
    model, seen = tiny(), {}
    optimizers = make_optimizers(model)
    saver = Saver(tmp_path / "state", model, TOKENS)
    for step in (1, 2):
        stepped(model, optimizers)
        saver.save(step=step, optimizers=[o.state_dict() for o in optimizers])
        saver.wait()
        seen[step] = {k: v.clone() for k, v in model.state_dict().items()}
    return tmp_path / "state", seen


def test_the_newest_state_is_read_and_the_one_before_it_is_kept(two_states):
    dir, seen = two_states
    for folder, step in ((dir, 2), (dir / PREVIOUS, 1)):
        assert not checkpoint.damage(folder, ["state.pt"])
        state = torch.load(folder / "state.pt", weights_only=True)
        assert state["step"] == step and state["optimizers"][0]["state"]
        assert all(map(torch.equal, load_model(folder).state_dict().values(), seen[step].values()))
    assert load_state(dir)["step"] == 2 and not list(dir.parent.glob("state.*"))


def test_coreutils_agree_with_the_manifest(two_states):
    dir, _ = two_states
    done = subprocess.run(["sha256sum", "--strict", "-c", MANIFEST], cwd=dir, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
    (dir / "config.json").write_text("{}")
    assert subprocess.run(["sha256sum", "-c", MANIFEST], cwd=dir, capture_output=True).returncode == 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(two_states, kind, capsys):
    dir, seen = two_states
    for file in files_of(dir):
        for seed in range(10):
            keep = file.read_bytes()
            if not DAMAGES[kind](file, random.Random(seed), dir / PREVIOUS / file.name):
                continue  # nothing to swap: both are the same
            state = load_state(dir)
            assert state["step"] == 1 and state["folder"] == str(dir / PREVIOUS)
            assert file.name in capsys.readouterr().out
            if file.name in ("config.json", "model.safetensors"):
                with pytest.raises(UserError, match=file.name.replace(".", r"\.")):
                    load_model(dir)
            file.write_bytes(keep)
    assert load_state(dir)["step"] == 2 and not capsys.readouterr().out
    assert all(map(torch.equal, load_model(dir).state_dict().values(), seen[2].values()))


def test_no_whole_state_is_an_error_and_no_step_0(two_states):
    dir, _ = two_states
    for folder in (dir, dir / PREVIOUS):
        (folder / "state.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"state: state\.pt is damaged.*previous: state\.pt is damaged.*rem"):
        load_state(dir)
    shutil.rmtree(dir)
    assert load_state(dir) is None


def test_a_state_that_follows_a_damaged_one_keeps_the_whole_one_before_it(two_states):
    """Saved again from step 1: the damaged state of step 2 is gone, that of step 1 is still there."""
    dir, _ = two_states
    (dir / "state.pt").write_bytes(b"")
    state = load_state(dir)
    model = load_model(state["folder"])
    saver = Saver(dir, model, TOKENS)
    saver.save(step=2)
    saver.wait()
    assert [torch.load(d / "state.pt")["step"] for d in (dir, dir / PREVIOUS)] == [2, 1]
    assert not list(dir.parent.glob("state.*"))


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("saves", [1, 2, 3])
def test_a_process_that_ends_between_two_renames_leaves_a_whole_state(tmp_path, monkeypatch, at, saves):
    """Every rename of the last save is the last thing that the process did, in turn."""
    model, dir, count = tiny(), tmp_path / "state", {"renames": -1}

    class Ended(BaseException):
        pass

    def ends(rename):
        def call(*args):
            if count["renames"] == at:
                raise Ended
            count["renames"] += count["renames"] >= 0
            return rename(*args)
        return call

    for step in range(1, saves):
        save_state(dir, model, step=step)
    monkeypatch.setattr(Path, "rename", ends(Path.rename))
    monkeypatch.setattr(checkpoint.os, "replace", ends(checkpoint.os.replace))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *a, **k: None)  # nothing is tidied up, either
    count["renames"] = 0
    saver = Saver(dir, model, TOKENS)
    try:
        saver.save(step=saves)
        saver.wait()
        ended = False
    except Ended:
        ended = True
    monkeypatch.undo()
    state = load_state(dir)
    assert state["step"] in (saves - 1, saves) if saves > 1 or state else ended
    save_state(dir, model, step=9)
    assert load_state(dir)["step"] == 9 and not list(tmp_path.glob("state.*"))
    if state:
        assert torch.load(dir / PREVIOUS / "state.pt")["step"] == state["step"]


def test_a_write_that_fails_leaves_the_state_before_it_and_the_next_one_works(two_states, monkeypatch):
    dir, _ = two_states
    saver, write = Saver(dir, tiny(1), TOKENS), checkpoint._pickle

    def full(file, state):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(checkpoint, "_pickle", full)
    saver.save(step=3)
    saver.thread.join()
    with pytest.raises(OSError, match="No space left"):
        saver.overdue()
    assert load_state(dir)["step"] == 2 and not list(dir.parent.glob("state.*"))
    monkeypatch.setattr(checkpoint, "_pickle", write)
    saver.save(step=4)
    saver.wait()
    assert load_state(dir)["step"] == 4


def test_what_is_saved_is_as_it_was_when_the_save_began(tmp_path, monkeypatch):
    """Training goes on while a thread writes."""
    model, write, go = tiny(), checkpoint.write_files, threading.Event()
    optimizers = make_optimizers(model)
    stepped(model, optimizers)

    def late(*args):
        go.wait(60)
        write(*args)

    monkeypatch.setattr(checkpoint, "write_files", late)
    saver = Saver(tmp_path / "state", model, TOKENS)
    then = checkpoint.host_copy({"model": model.state_dict(), "moments": optimizers[0].state_dict()["state"]})
    saver.save(step=1, optimizers=[o.state_dict() for o in optimizers])
    assert saver.thread.is_alive() and load_state(tmp_path / "state") is None
    stepped(model, optimizers)
    go.set()
    saver.wait()
    state = load_state(tmp_path / "state")
    assert all(map(torch.equal, load_model(state["folder"]).state_dict().values(), then["model"].values()))
    for i, moments in then["moments"].items():
        for name, value in moments.items():
            saved = state["optimizers"][0]["state"][i][name]
            assert torch.equal(torch.as_tensor(saved), torch.as_tensor(value))
    assert not torch.equal(model.state_dict()["norm.weight"], then["model"]["norm.weight"])


def test_without_room_for_a_copy_the_run_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "free_host_bytes", lambda ranks: 0)
    saver = Saver(tmp_path / "state", tiny(), TOKENS)
    saver.save(step=1, big=torch.ones(3))
    assert saver.thread is None and torch.equal(load_state(tmp_path / "state")["big"], torch.ones(3))


def test_saves_by_time(tmp_path):
    model = tiny()
    assert not Saver(tmp_path / "state", model, TOKENS, minutes=0.0).overdue()
    saver = Saver(tmp_path / "state", model, TOKENS, minutes=0.05 / 60)
    assert not saver.overdue()
    time.sleep(0.06)
    assert saver.overdue()
    saver.save(step=1)
    saver.wait()
    saver.last = time.monotonic()
    assert not saver.overdue()


def test_runs_that_are_killed_six_times_end_as_if_nobody_had(tmp_path, capsys):
    """Cold start in one process, GRPO in two; tests/torture.py kills more often, and more kinds of runs."""
    torture.prepare(tmp_path)
    assert not torture.killed_runs(tmp_path, 6, 1, [("cold start", "cpu:1"), ("grpo", "cpu:2")])
    assert "6 kills" in capsys.readouterr().out


def test_global_random_numbers_go_on(tmp_path):
    def drawn():
        return [random.random(), np.random.rand(), float(torch.rand(1))]

    before = random_state()
    drawn()
    save_state(tmp_path / "state", tiny(), step=1)
    wanted = drawn()
    own_state(load_state(tmp_path / "state"), ALONE, ())
    assert drawn() == wanted
    checkpoint.set_random_state(before)


def test_a_damaged_row_of_the_metrics_is_named_and_left_out(tmp_path, capsys):
    """Rows after the state's step are cut off, and a last line that is torn."""
    log = Log(tmp_path, 0, True)
    for step in range(1, 5):
        log.write("train", step, loss=0.5)
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for broken in (b"{", b"\xff\xfe", b"[1]", b"null", b'{"kind": "train"}', b""):
        file.write_bytes(b"".join([lines[0], broken + b"\n", *lines[2:], b'{"kind"']))
        assert [row["step"] for row in Log(tmp_path, 3, True).rows] == [1, 3]
        said = capsys.readouterr().out
        assert said == f"{file}: line 2 is damaged, and left out\n"
        assert file.read_bytes() == lines[0] + lines[2]


# ------------------------------------------------------------------------------------------ a finished model


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_finished_model_with_a_damaged_file_is_refused_by_its_name(tmp_path, kind, lora):
    models, base = {}, tmp_path / "base"
    save_model(tiny(), base)
    for name, seed in (("run", 1), ("other", 2)):
        model = tiny(seed)
        if lora:
            model = load_model(base)
            attach(model, Lora(2, 4.0, base=str(base)), seed=seed)
        (tmp_path / name).mkdir()
        save_run(tmp_path / name, model, shipped(), "", ALONE)
        models[name] = tmp_path / name / "adapter" if lora else tmp_path / name
    dir = models["run"]
    assert {"manifest.sha256", "adapter_config.json" if lora else "config.json"} <= {
        f.name for f in files_of(dir)}
    for file in files_of(dir):
        for seed in range(10):
            keep = file.read_bytes()
            if DAMAGES[kind](file, random.Random(seed), models["other"] / file.name):
                with pytest.raises(UserError) as error:
                    load_model(dir)
                assert file.name in str(error.value) and "\n" not in str(error.value), error.value
            file.write_bytes(keep)
    load_model(dir)


def test_a_folder_of_others_needs_no_manifest(tmp_path):
    """transformers writes its own files over ours, or elsewhere; a model is then what these say."""
    transformers = pytest.importorskip("transformers")
    model = tiny()
    save_model(model, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        theirs.lm_head.weight.mul_(2)
    for name in ("theirs", "ours"):
        theirs.save_pretrained(tmp_path / name)
        torch.testing.assert_close(load_model(tmp_path / name).lm_head.weight, 2 * model.lm_head.weight)


# --------------------------------------------------------------------------------------------------- settings


@dataclass
class Settings:
    steps: int = 10
    lr: float = 0.1
    device: str = "cpu"
    eval_every: int = 2
    clip_low: float | None = 0.2


def test_what_a_resumed_run_may_change_is_said_and_the_rest_is_refused(tmp_path, capsys):
    save_state(tmp_path / "state", tiny(), step=4, config=Settings().__dict__)
    assert unfinished(tmp_path, Settings())["step"] == 4 and not capsys.readouterr().out
    assert unfinished(tmp_path, Settings(steps=12, device="cpu:2"))["step"] == 4
    assert "resumes with steps 10 -> 12, device cpu -> cpu:2" in capsys.readouterr().out
    for other, text in (({"lr": 0.2, "steps": 12}, r"\(lr 0.1 -> 0.2\)"), ({"clip_low": None}, "0.2 -> None"),
            ({"steps": 3}, "--steps 3: the unfinished run in .* has done 4 already")):
        with pytest.raises(UserError, match=text):
            unfinished(tmp_path, Settings(**other))


def test_newest_state_of_nothing_is_none(tmp_path):
    assert newest_state(tmp_path / "state") is None
    (tmp_path / "state.new").mkdir()
    (tmp_path / "state.new/state.pt.tmp").write_bytes(b"half")  # ended within its first write
    assert newest_state(tmp_path / "state") is None


def test_a_model_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A save over an older model that fails leaves the older one."""
    save_model(tiny(1), tmp_path)
    old = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "_write_json", lambda *a: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="No space"):
        save_model(tiny(2), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == old
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 512
    load_model(tmp_path)
