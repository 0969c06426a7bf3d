"""The scripts as a user runs them: bad input gets one line and exit code 2; a run stops, resumes and ends."""

import importlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import grpo
import sft
from checkpoint import load_model, save_model
from config import LEAST, MOST, ModelConfig, UserError, parse_args, run_script
from data.tasks import training_rows
from data.tokenizer import shipped
from model import Transformer
from moe import Routing
from optim import is_router, make_optimizers
from parallel import Ranks
from sample import row_noise

ROOT = Path(__file__).parent.parent
FAST = dict(steps=4, prompts=4, group_size=4, max_new_tokens=60, eval_every=2, updates=2, lr=1e-3,
            kl_coef=0.01, task="countdown:n=3,high=9,ops=+-", micro_tokens=400, reward_weights="overlong=1")


def run(script, *args, cwd=ROOT, env=None, **options):
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    return subprocess.run([sys.executable, str(ROOT / f"{script}.py"), *args, *words], cwd=cwd,
        capture_output=True, text=True, timeout=300, env=os.environ | (env or {}))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny checkpoint trained for a second: it ends some completions, so that overlong=1 gives rewards
    with variance and every step of a run trains."""
    tok, dir = shipped(), tmp_path_factory.mktemp("base")
    cfg = ModelConfig(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        kv_lora_rank=12, intermediate_size=48,
        moe_intermediate_size=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        initializer_range=0.1, max_position_embeddings=512, eos_token_id=tok.eos_id)
    model, steps = Transformer(cfg).init_weights(), sft.Config(batch_size=8, steps=60, warmup=5, lr=0.02)
    optimizers = make_optimizers(model)
    rows = training_rows(FAST["task"], 0)
    for step in range(60):
        sft.run_step(model, optimizers, step, rows, tok, steps, Ranks(0, 1, "cpu"))
    save_model(model, dir)
    return dir


def rows_file(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    return str(path)


GOOD = '{"prompt": "Use 1 2.", "task": "countdown", "numbers": [1, 2], "target": 3}\n'
BAD = {"unknown flag": (["--group_sise", "4"], "did you mean group_size"),
    "not a number": (["--steps", "ten"], "--steps ten: expected int"),
    "no value": (["--steps"], "--steps needs a value"),
    "unknown preset": (["--config", "tinny"], "did you mean tiny"),
    "group of one": (["--group_size", "1"], "--group_size 1"),
    "unknown loss": (["--loss", "dapoo"], "did you mean dapo"),
    "unknown tracker": (["--tracker", "wandbb"], "did you mean wandb"),
    "zero temperature": (["--temperature", "0"], "temperature"),
    "not a finite number": (["--lr", "nan"], "--lr nan: must be a finite number"),
    "a float too large": (["--kl_coef", "1e999"], "--kl_coef inf: must be a finite number"),
    "a float for an int": (["--steps", "1e3"], "--steps 1e3: expected int"),
    "unknown task": (["--task", "chess"], "unknown task chess"),
    "unknown knob": (["--task", "countdown:size=3"], "its knobs are"),
    "missing file": (["--task", "nowhere.jsonl"], "nowhere.jsonl"),
    "missing init": (["--init", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
    "no gpu": (["--device", "cuda"], "sees no such GPU"),
    "no Apple gpu": (["--device", "mps"], "sees no such GPU"),
    "bad device": (["--device", "tpu"], "--device tpu"),
    "reference without kl": (["--kl_coef", "0", "--ref_every", "5"], "--ref_every needs --kl_coef"),
    "preferences after the end": (["--preference_from", "1"], "--preference_from 1.0: must be below 1"),
    "preferences of no model": (["--preference_from", "0.5"], "needs --reward preference:FOLDER")}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_line_and_exit_code_2(name, base, tmp_path):
    if (name == "no gpu" and torch.cuda.is_available()
            or name == "no Apple gpu" and torch.backends.mps.is_available()):
        pytest.skip("this machine has a GPU")
    args, message = BAD[name]
    start = [] if "--init" in args else ["--init", str(base)]
    out = run("grpo", *start, *args, "--out", str(tmp_path / "out"))
    assert out.returncode == 2 and message in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1 and out.stderr.startswith("error: ")


@pytest.mark.parametrize("text,message", [(GOOD, "at least two different"),
    (GOOD + "{oops\n", "rows.jsonl:2: not valid JSON"), (GOOD + '{"task": "countdown"}\n', "rows.jsonl:2"),
    ('{"prompt": "x", "task": "countdown", "target": 3}\n' + GOOD, "rows.jsonl:1: "),
    ("", "no rows"), (GOOD + GOOD.replace("Use", "Use " * 500), "tokens where")])
def test_broken_rows_and_long_prompts_get_one_clear_line(text, message, base, tmp_path):
    out = run("grpo", init=base, out=tmp_path / "out", **FAST | {"task": rows_file(tmp_path, text)})
    assert out.returncode == 2 and message in out.stderr and "Traceback" not in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_an_output_folder_that_cannot_be_made_gets_one_clear_line(base, tmp_path):
    (tmp_path / "file").write_text("")
    for script in ("grpo", "sft"):
        start = {"init": base} if script == "grpo" else {}
        out = run(script, out=tmp_path / "file" / "out", device="cpu", **start)
        assert out.returncode == 2 and "file" in out.stderr and len(out.stderr.strip().splitlines()) == 1


def test_a_truncated_checkpoint_gets_one_clear_line(base, tmp_path):
    save_model(load_model(base), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for script in ("sample", "eval"):
        out = run(script, "--from", str(tmp_path))
        assert out.returncode == 2 and "truncated" in out.stderr and len(out.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("script", ["grpo", "sft", "distill", "data/r1_data", "eval", "sample",
    "experiments/search", "experiments/quiet"])
def test_help_lists_every_knob(script):
    import dataclasses

    out = run(script, "--help")
    assert out.returncode == 0
    for f in dataclasses.fields(importlib.import_module(script.replace("/", ".")).Config):
        line = next(row for row in out.stdout.splitlines()
            if row.strip().startswith(f"--{f.name.rstrip('_')} "))
        assert f.metadata["help"][:20] in line and f"(default {f.default})" in line


def test_help_shows_the_first_screen_then_the_groups_under_their_headings():
    first, *groups = run("grpo", "--help").stdout.partition("\n  --config NAME")[2].strip().split("\n\n")
    found = {g.partition(":\n")[0]: [line.split()[0] for line in g.splitlines()[1:]] for g in groups}
    assert found == {"data": ["--columns", "--answer_pattern", "--broken", "--too_long", "--eval_task",
        "--eval_problems", "--allow_leaks", "--preference_from"], "prompt": ["--template", "--system"],
        "loss": ["--loss_settings", "--off_policy_mask", "--importance", "--importance_low",
            "--importance_high"],
        "sampling": ["--temperature", "--top_p", "--resample"],
        "memory": ["--dtype", "--lora_rank", "--lora_alpha", "--lora_dropout", "--lora_rslora",
            "--lora_targets", "--shard", "--micro_tokens"],
        "logging": ["--save_minutes", "--eval_every", "--tracker"]}
    assert "\n  --device " in first and "--unsafe_code_execution" in first and "--tracker" not in first


SCRIPTS = ["grpo", "sft", "distill", "data.r1_data", "eval", "sample", "experiments.search",
    "experiments.quiet", "bench.bench"]


def number_knobs():
    """(script, Config field, its type) of every int and float on a command line."""
    for script in SCRIPTS:
        cls = importlib.import_module(script).Config
        for name, kind in typing.get_type_hints(cls).items():
            kinds = {int, float} & {kind, *typing.get_args(kind)}
            if kinds:
                yield script, name, kinds.pop()


@pytest.mark.parametrize("script,name,kind", number_knobs())
def test_every_number_has_a_range_in_every_script(script, name, kind):
    cls, least = importlib.import_module(script).Config, LEAST[name]
    bad = [str(least - 1)] if math.isfinite(least) else []
    bad += ["nan", "inf", "-inf", "1e999"] if kind is float else ["1e3", "nan", str(2**63), "9" * 400]
    for value in [*bad, "", "x"]:
        with pytest.raises(UserError, match=f"--{name} ") as error:
            parse_args(cls, {"default": {}}, "", [f"--{name}={value}"])
        assert "\n" not in str(error.value)
    good = max(least, 0) + (0.5 if name == "top_p" else 0)
    assert getattr(parse_args(cls, {"default": {}}, "", [f"--{name}={good}"])[0], name) == good


@pytest.mark.parametrize("text,shown", [("a\nb\r\n c", "a b c"), ("\x1b[31mred\u202e", r"\x1b[31mred\u202e"),
    ("\udcff", r"\udcff"), ("\ue000" * 1000, r"\ue000" * 166 + r"\ue0 ... 00" + r"\ue000" * 83),
    ("x" * 10**6, "x" * 1000 + " ... " + "x" * 500)])
def test_an_error_is_one_line_whatever_the_user_wrote(text, shown, capsys):
    def main():
        raise UserError(text)

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {shown}\n"


def test_ctrl_c_is_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == 130 and capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("name,most", MOST.items())
def test_rows_made_before_a_run_starts_have_a_bound(name, most):
    script = {"count": "data.r1_data", "problems": "eval", "made": "experiments.quiet"}.get(name, "grpo")
    cls = importlib.import_module(script).Config
    with pytest.raises(UserError, match=f"--{name} {most + 1}.*: must be at most {most:,}$"):
        parse_args(cls, {"default": {}}, "", [f"--{name}={most + 1}"])


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_lacks_letters_shows_their_numbers(encoding, base, tmp_path):
    """In the samples of a run (the first held-out prompt is shown), and in an error's line."""
    text, env = "\u4f60\u597d \U0001f600", {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    row = json.loads(GOOD)
    rows = rows_file(tmp_path, "".join(json.dumps(row | {"prompt": f"{text} {i}"}) + "\n" for i in range(9)))
    out = run("grpo", init=base, out=tmp_path / "out", device="cpu", env=env,
        **FAST | {"task": rows, "steps": 1})
    assert out.returncode == 0 and "\\u4f60\\u597d \\U0001f600" in out.stdout, out.stderr
    out = run("eval", "--from", str(base), "--task", f"{text}.jsonl", env=env)
    assert out.returncode == 2 and "\\u4f60" in out.stderr and len(out.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("script,options", [("grpo", FAST | {"steps": 1, "eval_every": 1}),
    ("sft", dict(steps=2, save_every=1, batch_size=2)),
    ("eval", dict(problems=2, samples=2, max_new_tokens=4, task="countdown"))])
def test_no_file_is_read_or_written_in_the_locales_encoding(script, options, base, tmp_path):
    """Python itself warns at each place that does."""
    files = dict(json=tmp_path / "e.json", save=tmp_path / "e.jsonl") if script == "eval" else {
        "out": tmp_path / "out"}
    out = run(script, "--from" if script == "eval" else "--init", str(base), device="cpu",
        env={"PYTHONWARNDEFAULTENCODING": "1"}, **options, **files)
    assert out.returncode == 0, out.stderr
    assert not [line for line in out.stderr.splitlines() if "EncodingWarning" in line and "/lib/" not in line]


def weights(dir):
    return torch.cat([p.detach().flatten() for p in load_model(dir).parameters()])


def train_rows(dir):
    rows = [json.loads(line) for line in (dir / "metrics.jsonl").read_text().splitlines()]
    keys = ("step", "reward", "length", "entropy", "loss", "kl", "groups")
    return [{k: r.get(k) for k in keys} for r in rows if r["kind"] == "train"]


NEAR_TIE = 1e-5  # how far rounding may move a running sum of probabilities: 2e-7 was measured


def check_draws(model, group, number: int, cfg: grpo.Config):
    """Each token is the one at which the running sum of the probabilities passes the noise of its problem,
    sample and place; a row ends at its end token or where its room ends."""
    noise = row_noise(cfg.seed, [number], cfg.group_size, cfg.max_new_tokens)
    for s, uniform in zip(group, noise, strict=True):
        drawn = torch.tensor(s.tokens[s.start :])[:, None]  # (T, 1)
        # the sampler's experts: their choice could be a near-tie, too
        routing = Routing(count=False, replay=list(torch.from_numpy(s.routing).long().unbind(1)))
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([s.tokens[:-1]]), routing)[0, s.start - 1 :]  # (T, D)
            probs = model.lm_head(hidden).double().softmax(-1)  # (T, V)
        end, u = probs.cumsum(-1).gather(1, drawn), uniform[: len(drawn), None]
        off = torch.maximum(end - probs.gather(1, drawn) - u, u - end).max()
        assert off < NEAR_TIE, f"problem {number}: {off} away from its noise"
        assert s.finished or len(drawn) == cfg.max_new_tokens


def train_on_kept_rollouts(folder: Path):
    """grpo.py for two runs. The first keeps its rollouts in the folder. The second samples its own, which are
    compared, but trains on the kept ones: a product's rounding depends on how many rows a rank decodes, noise
    within it of the border of two tokens may draw either, and all that follows would differ."""
    sample = grpo.sample_groups

    def sample_groups(model, tokenizer, rows, first, count, cfg, ranks):
        groups, file = sample(model, tokenizer, rows, first, count, cfg, ranks), folder / f"{first}.pickle"
        if not file.exists():
            file.write_bytes(pickle.dumps(groups))
        kept = pickle.loads(file.read_bytes())
        for number, group, theirs in zip(range(first, first + count), groups, kept, strict=True):
            check_draws(model, group, number, cfg)
            for a, b in zip(group, theirs, strict=True):
                assert a.tokens[: a.start] == b.tokens[: b.start]
                if a.tokens == b.tokens:
                    torch.testing.assert_close(a.old_logprobs, b.old_logprobs, rtol=0, atol=1e-4)
                    assert (a.scores, a.finished) == (b.scores, b.finished)
        return kept

    grpo.sample_groups = sample_groups
    run_script(grpo.main)


def run_on_kept_rollouts(folder, **options):
    code = f"import test_cli; test_cli.train_on_kept_rollouts(test_cli.Path({str(folder)!r}))"
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True,
        timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT / "tests")})


@pytest.fixture(scope="session")
def finished(base, tmp_path_factory):
    """An uninterrupted run, its rollouts kept beside it."""
    dir = tmp_path_factory.mktemp("run") / "a"
    out = run_on_kept_rollouts(dir.parent, init=base, out=dir, device="cpu:1", **FAST)
    assert out.returncode == 0, out.stderr
    return dir, out


def test_a_run_shows_steps_samples_table_and_writes_its_files(finished):
    dir, out = finished
    for text in ("step    1/4", "acc ", "kl ", "ent ", "clip ", "tok/s", "eta", "held out after step 2",
            "pass@1", "cons@8", "truncated", "before", "after"):
        assert text in out.stdout, text
    assert {p.name for p in dir.iterdir()} >= {"model.safetensors", "config.json", "metrics.jsonl",
        "samples.jsonl", "run.json"}
    assert all(r["loss"] is not None for r in train_rows(dir))  # every step trained
    samples = [json.loads(line) for line in (dir / "samples.jsonl").read_text().splitlines()]
    assert {s["step"] for s in samples} == {0, 2, 4} and len({s["prompt"] for s in samples}) == 8
    rows = [json.loads(line) for line in (dir / "metrics.jsonl").read_text().splitlines()]
    assert all({"corrected", "verified", "mixed", "consistency", "reflections"} <= set(r) for r in rows)
    pytest.importorskip("matplotlib", reason="plots: requirements-dev.txt")
    assert (dir / "curves.png").stat().st_size > 10_000


def test_two_processes_train_as_one_does(finished, base, tmp_path):
    """They draw the same tokens but for near-ties, and the same rollouts give the same weights."""
    out = run_on_kept_rollouts(finished[0].parent, init=base, out=tmp_path / "b", device="cpu:2", **FAST)
    assert out.returncode == 0, out.stderr
    torch.testing.assert_close(weights(tmp_path / "b"), weights(finished[0]), rtol=0, atol=2e-4)
    for a, b in zip(train_rows(tmp_path / "b"), train_rows(finished[0]), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def interrupt_and_go_on(sig, init, dir, **more):
    """Ctrl-C after the first step, or kill -9 after a save; then the same command again."""
    command = [sys.executable, str(ROOT / "grpo.py"), "--init", str(init), "--out", str(dir), "--device",
        "cpu:1", *(w for k, v in (FAST | more).items() for w in (f"--{k}", str(v)))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for = "step    1/4" if sig == signal.SIGINT else "step    3/4"
    for line in process.stdout:
        if line.startswith(wait_for):
            process.send_signal(sig)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=120) != 0 and (dir / "state/state.pt").exists()
    assert sig == signal.SIGKILL or "the same command resumes" in rest
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0 and "resuming after step" in out.stdout, out.stderr


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_exactly(sig, finished, base, tmp_path):
    """It ends with the same weights, metrics and problems as the uninterrupted run, no step twice."""
    interrupt_and_go_on(sig, base, tmp_path / "c")
    assert train_rows(tmp_path / "c") == train_rows(finished[0])
    assert torch.equal(weights(tmp_path / "c"), weights(finished[0]))


def test_an_interrupted_run_of_the_newer_knobs_goes_on_exactly(base, tmp_path):
    """Muon's states, the mask of the sampler, a pass for pi_old; each leaves its mark in the metrics."""
    more = dict(optimizer="muon", scale="rloo", kl="unbiased", loss="dppo", top_p=0.9, importance="truncate",
        off_policy_mask=1e-5, ref_every=2)
    interrupt_and_go_on(signal.SIGKILL, base, tmp_path / "c", **more)
    out = run("grpo", init=base, out=tmp_path / "whole", device="cpu:1", **FAST | more)
    assert out.returncode == 0, out.stderr
    assert train_rows(tmp_path / "c") == train_rows(tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "c"), weights(tmp_path / "whole"))
    rows = [json.loads(line) for line in (tmp_path / "c/metrics.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["kind"] == "train"]
    assert all(r["logprob_mismatch"] < 1e-4 and r["importance"] == pytest.approx(1, abs=1e-4) for r in rows)
    assert any(r["off_policy"] > 0 for r in rows)


def test_a_run_whose_activations_do_not_fit_recomputes_them_and_says_so(finished, base, tmp_path):
    code = "import config, grpo; grpo.free_bytes = lambda ranks: 0; config.run_script(grpo.main)"
    words = [w for k, v in FAST.items() for w in (f"--{k}", str(v))]
    out = subprocess.run([sys.executable, "-c", code, "--init", base, "--out", tmp_path / "a", "--device",
        "cpu:1", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0 and out.stdout.count("each block runs again") == 1, out.stderr
    assert "each block runs again" not in finished[1].stdout
    assert torch.equal(weights(tmp_path / "a"), weights(finished[0]))


def dtypes(dir):
    """(of the routers, of all other tensors) in a checkpoint's file."""
    tensors = load_file(dir / "model.safetensors")
    return tuple({t.dtype for n, t in tensors.items() if is_router(n) == router} for router in (True, False))


MIXED = ({torch.float32}, {torch.bfloat16})


@pytest.mark.parametrize("script", ["grpo", "sft"])
def test_a_run_that_does_not_fit_is_refused_before_it_starts(script, base, tmp_path):
    code = f"import batch, config, {script}; batch.free_bytes = lambda ranks: 1e3; " \
        f"config.run_script({script}.main)"
    out = subprocess.run([sys.executable, "-c", code, "--init", base, "--out", tmp_path / "a", "--device",
        "cpu:1"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 2 and out.stderr.startswith("error: this run needs about"), out.stderr
    assert len(out.stderr.splitlines()) == 1 and "GiB are free" in out.stderr
    assert not (tmp_path / "a").exists()


def test_a_bfloat16_run_is_saved_in_bfloat16_and_goes_on_exactly(base, tmp_path):
    """From the float32 checkpoint by --dtype; stopped and resumed; and again from what it has saved."""
    options = dict(device="cpu:1", dtype="bfloat16")
    assert run("grpo", init=base, out=tmp_path / "a", **options, **FAST).returncode == 0
    interrupt_and_go_on(signal.SIGINT, base, tmp_path / "b", dtype="bfloat16")
    assert train_rows(tmp_path / "b") == train_rows(tmp_path / "a")
    assert run("grpo", init=tmp_path / "a", out=tmp_path / "c", device="cpu:1", **FAST).returncode == 0
    ends = [weights(tmp_path / name) for name in ("a", "b", "c")]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert all(dtypes(tmp_path / name) == MIXED for name in ("a", "b", "c"))


@pytest.mark.parametrize("script", ["grpo", "sft", "distill", "eval", "sample", "experiments.search"])
def test_another_dtype_is_refused_by_every_script(script):
    with pytest.raises(UserError, match="--dtype float16: expected float32 or bfloat16"):
        parse_args(importlib.import_module(script).Config, {"default": {}}, "", ["--dtype", "float16"])


def test_every_script_runs_in_bfloat16(base, tmp_path):
    pairs = "".join(json.dumps({"prompt": f"p{i}", "chosen": "<answer>1</answer>", "rejected": "no"}) + "\n"
        for i in range(10))
    (tmp_path / "more.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    few = dict(device="cpu:1", dtype="bfloat16", max_new_tokens=8)
    task = dict(task=FAST["task"])
    learn = dict(steps=1, batch_size=2, device="cpu:1", dtype="bfloat16")
    for script, options in [("sft", dict(init=base, out=tmp_path / "s", recompute=True, **learn, **task)),
            ("sft", dict(config="tiny", out=tmp_path / "random", **learn, **task)),
            ("sft", dict(init=base, out=tmp_path / "pairs", task=rows_file(tmp_path, pairs), **learn)),
            ("distill", {"from": base, "prompts": 2, "samples": 2, "out": tmp_path / "d.jsonl", **few, **task,
                "add": tmp_path / "more.jsonl"}),
            ("eval", {"from": base, "problems": 2, "samples": 2, **few, **task}),
            ("experiments/search", {"from": base, "problems": 2, "samples": 2, "budgets": "0,4", **few,
                **task}),
            ("sample", {"from": base, "prompt": "Use 1 2 3.", **few})]:
        out = run(script, **options)
        assert out.returncode == 0, out.stderr
    assert dtypes(tmp_path / "s") == dtypes(tmp_path / "random") == dtypes(tmp_path / "pairs") == MIXED
    assert load_model(tmp_path / "pairs").score.weight.dtype == torch.bfloat16


def test_an_unfinished_run_with_other_settings_is_not_overwritten(base, tmp_path):
    dir = tmp_path / "d"
    from checkpoint import save_state

    save_state(dir / "state", load_model(base), step=1, config={"lr": 5.0})
    out = run("grpo", init=base, out=dir, **FAST)
    assert out.returncode == 2 and "unfinished run" in out.stderr and (dir / "state/state.pt").exists()


def test_a_finished_run_is_kept_when_the_next_one_starts(base, tmp_path):
    cfg = FAST | {"steps": 1}
    for _ in range(2):
        assert run("grpo", init=base, out=tmp_path / "e", device="cpu", **cfg).returncode == 0
    assert (tmp_path / "e.1/model.safetensors").exists() and (tmp_path / "e/model.safetensors").exists()


def test_a_run_that_ended_before_its_first_save_leaves_nothing_behind(base, tmp_path):
    from checkpoint import new_run_folder

    (tmp_path / "f").mkdir()
    (tmp_path / "f/metrics.jsonl").write_text('{"kind": "eval", "step": 0}\n')
    new_run_folder(tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and not list((tmp_path / "f").iterdir())


def test_make_r1_reads_like_the_papers_figure(tmp_path):
    """The commands in order; a stage is not made again once its files are there."""
    def commands(*made):
        for path in made:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("{}")
        out = subprocess.run(["make", "-n", "--no-print-directory", "r1", f"OUT={tmp_path}", "PY=py",
            "-o", ".venv/dev"], cwd=ROOT, capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        return out.stdout.replace(f"{tmp_path}/", "").splitlines()

    words = [line.split() for line in commands() if line.startswith("py ") and "r1_data.py" not in line]
    made = [w for w in words if "--config" in w and w[1] not in ("eval.py", "experiments/search.py")]
    scripts = [f"{w[1]} {w[w.index('--config') + 1]}" for w in made]
    assert scripts == ["sft.py tiny/base", "grpo.py tiny/zero", "grpo.py tiny/zero_language",
        "sft.py tiny/cold", "grpo.py tiny/reasoning",
        "distill.py tiny", "sft.py tiny/rejection", "sft.py tiny/reward", "grpo.py tiny/scenarios",
        "sft.py tiny_dense/base", "sft.py tiny_dense/distilled", "grpo.py tiny_dense/zero",
        "sft.py tiny_dense/warm", "distill.py tiny_dense/on_policy", *["grpo.py tiny_dense/after"] * 2]
    assert "--report" in commands()[-1]
    left = commands("data/web.jsonl", "base/config.json", "zero/config.json")
    assert not any(name in line for line in left for name in ("tiny/base", "tiny/zero --", "kind web"))
    assert any("tiny/cold" in line for line in left)
    early = commands("report.md")  # someone drew it halfway: what is missing is made all the same
    assert any("tiny/cold" in line for line in early) and "--report" in early[-1]
    assert not any(line.startswith("rm") for line in early)


def test_own_files_replace_all_generated_data(tmp_path):
    files = {name: tmp_path / f"{name}.jsonl"
        for name in ("WEB", "COLD", "GENERAL", "PAIRS", "SCENARIOS", "HELD", "PROBLEMS")}
    for path in files.values():
        path.write_text("{}")
    out = subprocess.run(["make", "-n", "--no-print-directory", "r1", f"OUT={tmp_path}/out", "PY=py",
        "-o", ".venv/dev", *(f"{k}={v}" for k, v in files.items())], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0 and "r1_data.py" not in out.stdout, out.stderr
    lines = out.stdout.splitlines()
    for stage, name in {"tiny/base": "WEB", "tiny/zero": "PROBLEMS", "tiny/cold": "COLD",
            "tiny/reasoning": "PROBLEMS", "tiny/reward": "PAIRS", "tiny/scenarios": "SCENARIOS",
            "tiny_dense/zero": "PROBLEMS", "tiny_dense/on_policy": "PROBLEMS",
            "tiny_dense/after": "PROBLEMS"}.items():
        line = next(line for line in lines if f"--config {stage} " in line)
        assert f"--task {files[name]}" in line, line
    distill = next(line for line in lines if "distill.py" in line)
    assert f"--task {files['PROBLEMS']}" in distill and f"--add {files['GENERAL']}" in distill
    evals = [line for line in lines if "eval.py" in line]
    held = [line for line in evals if f"{files['HELD']}" in line]
    assert len(evals) == 2 * len(held) + 4 == 24 and not any("--split" in line for line in held)
    assert sum(f'--task "{files["PROBLEMS"]}" --split test' in line for line in evals) == 14
    curves = [line for line in lines if "experiments/search.py" in line]
    assert len(curves) == 1 and "/reasoning" in curves[0] and "--value agreement" in curves[0]


def test_sft_keeps_the_template_of_init_unless_another_is_asked_for(tmp_path):
    (tmp_path / "web.jsonl").write_text('{"text": "a page of the web"}\n' * 8)
    options = dict(steps=1, epochs=0, batch_size=4, device="cpu:1")
    out = run("sft", "--config", "tiny/base", task=tmp_path / "web.jsonl", out=tmp_path / "base", **options)
    assert out.returncode == 0 and "{prompt}" in (tmp_path / "base/template.txt").read_text(), out.stderr
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "base").iterdir() if p.is_file()}
    assert len(modes) == 1  # the weights can be read by whoever can read the config
    for template, kept in (("", True), ("plain", False)):
        words = ["--template", template] if template else []
        folder = tmp_path / f"cold{template}"
        out = run("sft", "--config", "tiny", *words, init=tmp_path / "base", out=folder, **options)
        assert out.returncode == 0 and (folder / "template.txt").exists() == kept


def test_sft_stops_resumes_and_feeds_sample_and_eval(tmp_path):
    options = dict(task="countdown:n=3,high=9,ops=+-", steps=6, batch_size=4, save_every=2,
        out=tmp_path / "s", device="cpu:1")
    assert run("sft", "--config", "tiny", **options | {"out": tmp_path / "whole"}).returncode == 0
    command = [sys.executable, str(ROOT / "sft.py"), "--config", "tiny",
        *(w for k, v in options.items() for w in (f"--{k}", str(v)))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "s/state/state.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert run("sft", "--config", "tiny", **options).returncode == 0
    assert torch.equal(weights(tmp_path / "s"), weights(tmp_path / "whole"))
    said = run("sample", "--from", str(tmp_path / "s"), "--prompt", "Use 1 2 3.", "--max_new_tokens", "5",
        "--seed", "1")
    assert said.returncode == 0 and "tokens," in said.stdout
    judged = run("eval", "--from", str(tmp_path / "s"), "--problems", "4", "--samples", "2",
        "--max_new_tokens", "5", "--task", "countdown", "--save", str(tmp_path / "e.jsonl"))
    assert judged.returncode == 0 and "pass@1" in judged.stdout
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 8


def test_the_curves_and_the_search_do_not_depend_on_the_number_of_processes(base, tmp_path):
    found = []
    for device in ("cpu:1", "cpu:2"):
        out = run("experiments/search", "--from", str(base), task=FAST["task"], problems=6, samples=4,
            max_new_tokens=60, budgets="0,8", search="mcts", value="agreement", seed=1, device=device,
            json=tmp_path / device / "curves.json")
        assert out.returncode == 0, out.stderr
        found.append(json.loads((tmp_path / device / "curves.json").read_text()))
    assert found[0]["metrics"] == found[1]["metrics"]
    for points in zip(*(run["curves"].values() for run in found), strict=True):
        for a, b in zip(*(sorted(p, key=lambda p: p["name"]) for p in points), strict=True):
            assert a == pytest.approx(b)
    names = {way: [p["name"] for p in points] for way, points in found[0]["curves"].items()}
    assert names["budget"] == ["0", "8", "as it came"] and names["votes"] == ["1", "2", "4"]
    assert names["search"][1::2] == ["votes", "mcts, value agreement"]
    spent = {p["name"]: p["tokens"] for p in found[0]["curves"]["budget"]}
    assert spent["0"] < spent["8"] <= spent["as it came"]


@pytest.mark.parametrize("words,message", [(["--search", "mtcs"], "did you mean mcts"),
    (["--search", "mcts", "--value", "oracle"], "--value oracle"), (["--budgets", "1,x"], "whole numbers"),
    (["--search", "mcts", "--task", "arithmetic"], "only Countdown")])
def test_wrong_knobs_of_the_search_get_one_clear_line(words, message, base):
    out = run("experiments/search", "--from", str(base), *words)
    assert out.returncode == 2 and message in out.stderr and len(out.stderr.strip().splitlines()) == 1


def test_a_preference_for_long_answers_ranks_the_best_of_k(base, tmp_path):
    (tmp_path / "mine.py").write_text("def long(completions, **_):\n    return list(map(len, completions))\n")
    out = run("experiments/search", "--from", str(base), task=FAST["task"], problems=4, samples=4,
        max_new_tokens=60, budgets="4", reward=f"{tmp_path}/mine.py:long", device="cpu:1")
    assert out.returncode == 0 and "best of k" in out.stdout, out.stderr


def test_reasoning_tokens_go_from_sft_through_every_script(tmp_path):
    tags = "<|startofthought|> <|endofthought|>"
    options = dict(steps=20, batch_size=8, lr=0.02, device="cpu:1", task=FAST["task"], out=tmp_path / "s")
    out = run("sft", "--config", "tiny", "--think_tags", tags, **options)
    assert out.returncode == 0, out.stderr
    out = run("grpo", init=tmp_path / "s", out=tmp_path / "g", device="cpu:1", **FAST | {"steps": 1})
    assert out.returncode == 0, out.stderr
    assert json.loads((tmp_path / "g/config.json").read_text())["think_tags"] == tags
    shown, hidden = (run("sample", "--from", str(tmp_path / "g"), "--prompt", "Use 1 2 3 to make 6.",
        "--seed", "1", "--max_new_tokens", "60", "--show_thinking", show) for show in ("true", "false"))
    assert shown.stdout.startswith("<|startofthought|>") and "<think>" not in shown.stdout
    assert hidden.returncode == 0 and "<|startofthought|>" not in hidden.stdout
    samples = (tmp_path / "g/samples.jsonl").read_text()
    assert "<think>" in samples and "startofthought" not in samples  # what the rewards read
    out = run("sft", "--config", "tiny", "--think_tags", "<a>", **options)
    assert out.returncode == 2 and "two different special tokens" in out.stderr


def test_a_full_disk_is_one_line_and_keeps_the_old_checkpoint(base, tmp_path, monkeypatch):
    import checkpoint
    from config import run_script

    save_model(load_model(base), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(SystemExit) as exit:
        run_script(lambda: save_model(load_model(base), tmp_path))
    assert exit.value.code == 2 and (tmp_path / "model.safetensors").read_bytes() == before


def test_wrong_checkpoints_are_named(base, tmp_path):
    from config import UserError

    save_model(load_model(base), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    for change, message in [({"n_routed_experts": 16}, "shape"), ({"num_hidden_layers": 3}, "missing"),
            ({"hidden_size": 64}, "shape"), ({"hidden_act": "gelu"}, "hidden_act"),
            ({"n_routed_experts": 4}, "only 4 experts"), ({"model_type": "llama"}, "o_proj.weight has")]:
        (tmp_path / "config.json").write_text(json.dumps(raw | change))
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("model.layers.N.mlp.gate.weight", "model.layers.1.mlp.experts.N.up_proj.weight"):
        name = name.replace("N", "9" * 5000)  # more digits than Python makes a number of
        save_file(tensors | {name: torch.zeros(2)}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="unknown .*999"):
            load_model(tmp_path)
