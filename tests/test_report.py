"""The report of stages and the history of one problem, from files written by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.tokenizer import for_checkpoint
from model import Transformer
from moe import Routing
from report.pages import (
    cell,
    cost_table,
    expectations,
    histories,
    read_stages,
    same_problems,
    stage_table,
    watch,
    ways_table,
    write_report,
)
from report.plot import KINDS, PANELS, SEARCH_PANELS, draw, draw_experts, expert_shares, searches
from sample import generate

ROOT = Path(__file__).parent.parent


def stage(folder, name, settings=None, **metrics):
    (folder / name).mkdir(parents=True)
    common = {"task": "countdown", "problems": 64, "samples": 8, "seed": 0, "temperature": 1.0, "top_p": 1.0,
        "max_new_tokens": 256, "from_": str(folder / name)}
    whole = {"settings": common | (settings or {}), "metrics": {"pass@1_se": 0.02, "cons@k_se": 0.03,
        "pass@k": 0.9, "pass@k_se": 0.01, "cons@k": 0.5, "format": 1.0, "length": 60.25, **metrics}}
    (folder / name / "eval.json").write_text(json.dumps(whole))


def row_of(lines, title):
    return next([c.strip() for c in line.strip("|").split("|")] for line in lines if title in line)


def test_the_table_shows_each_stage_and_names_what_is_missing_or_not_evaluated(tmp_path):
    stage(tmp_path, "base", **{"pass@1": 0.125, "consistency": 0.61})
    stage(tmp_path, "scenarios", **{"pass@1": 0.6})
    general = {"metrics": {"helpful": 0.95, "answered": 0.7, "harmless": 0.9, "pass@1": 0.1}}
    (tmp_path / "scenarios/general.json").write_text(json.dumps(general))
    stage(tmp_path, "cold_start", **{"pass@1": 0.3})  # its other name
    (tmp_path / "zero").mkdir()
    lines = stage_table([read_stages(tmp_path)])
    base = row_of(lines, "0 base")
    assert base[1:] == ["12.5 +- 2.0", "90.0 +- 1.0", "50.0 +- 3.0", "100.0", "60.2", "61.0", "-", "-"]
    assert row_of(lines, "5 RL for all")[1:2] + row_of(lines, "5 RL for all")[-2:] == ["60.0 +- 2.0", "70.0",
        "90.0"]  # by rule where a rule can tell, else by the model
    assert row_of(lines, "2 cold")[1] == "30.0 +- 2.0"
    assert "not evaluated" in row_of(lines, "1 r1-zero")[1] and "eval.py --from" in row_of(lines, "1 r1")[1]
    assert row_of(lines, "6 distilled")[1] == "missing" and len(lines) == 2 + 14


def test_several_runs_give_mean_and_standard_deviation(tmp_path):
    for i, value in enumerate([0.2, 0.3, 0.4]):
        stage(tmp_path / str(i), "base", **{"pass@1": value})
    stage(tmp_path / "0", "zero", **{"pass@1": 0.5})
    recipes = [read_stages(tmp_path / str(i)) for i in range(3)]
    assert row_of(stage_table(recipes), "0 base")[1] == "30.0 +- 10.0"
    assert "(1 of 3 runs)" in row_of(stage_table(recipes), "1 r1-zero")[1]


def test_stages_on_other_problems_are_pointed_out(tmp_path):
    stage(tmp_path, "base", **{"pass@1": 0.1})
    stage(tmp_path, "zero", **{"pass@1": 0.2})
    assert same_problems(read_stages(tmp_path)) == []
    stage(tmp_path, "cold", settings={"seed": 1}, **{"pass@1": 0.2})
    assert "seed is 0 for base" in same_problems(read_stages(tmp_path))[0]


def test_expectations_are_told_with_their_error(tmp_path):
    stage(tmp_path, "base", **{"pass@1": 0.10, "format": 0.5, "format_se": 0.01})
    stage(tmp_path, "zero", **{"pass@1": 0.11, "format": 0.9, "format_se": 0.01})
    stage(tmp_path, "distilled", **{"pass@1": 0.2})
    stage(tmp_path, "dense_rl", **{"pass@1": 0.4, "cons@k": 0.3})
    lines = expectations([read_stages(tmp_path)])
    assert row_of(lines, "gains accuracy")[1:] == ["+1.0 +- 2.8", "not told apart"]
    assert row_of(lines, "learns the format")[1:] == ["+40.0 +- 1.4", "yes"]
    assert row_of(lines, "distilled dense beats")[2] == "no" == row_of(lines, "one sample: dense_rl")[2]
    assert not any("reasoning" in line for line in lines)
    for name, value in (("cold", 0.2), ("reasoning", 0.4), ("rejection", 0.35)):
        stage(tmp_path, name, **{"pass@1": value})
    kept = row_of(expectations([read_stages(tmp_path)]), "more than half of what reasoning RL")
    assert kept[1:] == ["+5.0 +- 2.4", "yes"]  # above the mean of both
    (tmp_path / "reasoning/eval.json").unlink()
    (tmp_path / "reasoning").rmdir()
    stage(tmp_path, "reasoning", **{"pass@1": 0.1})
    kept = row_of(expectations([read_stages(tmp_path)]), "more than half of what reasoning RL")
    assert kept[2] == "nothing was gained"


def test_nothing_is_said_of_stages_that_are_not_there(tmp_path):
    stage(tmp_path, "base", **{"pass@1": 0.10})
    assert not any("zero" in line or "reasoning" in line for line in expectations([read_stages(tmp_path)]))


def test_a_missing_number_is_a_dash_and_a_missing_folder_an_error(tmp_path):
    assert cell(("x", "y"), True, [{"y": 0.5}]) == "50.0" and cell(("x",), True, [{"x": 1.0}, {}]) == "-"
    with pytest.raises(UserError, match="does not exist"):
        read_stages(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    text = write_report([tmp_path / "empty"], [read_stages(tmp_path / "empty")], []).read_text()
    assert "no stage was evaluated" in text and text.count("| missing |") == 14


def test_the_cost_of_a_stage_is_counted_from_its_steps(tmp_path):
    rows = {"distilled": [{"kind": "train", "step": i, "tokens": 10**6} for i in (1, 2)],
        "dense_rl": [{"kind": "train", "step": 1, "trained_tokens": 10**6, "generated": 2 * 10**6, "kl": 0.1},
            {"kind": "eval", "step": 1, "tokens": 9}]}
    for name, some in rows.items():
        stage(tmp_path, name, **{"pass@1": 0.1})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    lines = cost_table(read_stages(tmp_path))
    assert row_of(lines, "6 distilled")[1:] == ["2", "2.00", "0.00", "6.00"]
    assert row_of(lines, "6c")[1:] == ["1", "1.00", "2.00", "6.00"] and len(lines) == 4


def test_the_ways_to_a_small_model_are_compared_with_the_tokens_of_all_their_stages(tmp_path):
    on_policy = [{"kind": "train", "step": i, "trained_tokens": 10**6, "generated": 10**6, "kl": 0.1}
        for i in (1, 2)]
    rows = {"warm": [{"kind": "train", "step": 1, "tokens": 5 * 10**5}], "on_policy": on_policy,
        "distilled": [{"kind": "train", "step": 1, "tokens": 3 * 10**6}], "on_policy_rl": on_policy[:1]}
    for name, some in rows.items():
        stage(tmp_path, name, **{"pass@1": 0.1 * len(name)})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    (tmp_path / "data").mkdir()
    chunks = [{"kind": "sample", "step": i, "generated": 2 * 10**6, "kept": 9} for i in (1, 2)]
    (tmp_path / "data/rejection.metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chunks))
    lines = ways_table([read_stages(tmp_path)])
    assert row_of(lines, "SFT on the teacher's")[1:5] == ["3.00", "0.00", "4.00", "90.0 +- 2.0"]
    assert row_of(lines, "on-policy, after")[1:4] == ["2.50", "2.00", "6.00"]
    assert row_of(lines, "on-policy, then RL")[1:4] == ["3.50", "3.00", "6.00"]
    assert len(lines) == 2 + 3  # no stage, no line
    assert not ways_table([read_stages(tmp_path / "data")])


def run_folder(folder):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "prompt": f"Use {p} to make 24.", "completion": f"<think>{'7 wait' * (step + p)}\n"
        f"$x_1$ = 24 ok</think>\n<answer>{p}</answer>", "reward": 1.0, "accuracy": float(step >= 4 * p),
        "tokens": 20 + step} for step in (0, 4, 8) for p in (1, 0, 2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train = [{"kind": "train", "step": s, "accuracy": 0.1 * s, "length": 20.0 + s, "reflections": 1.0,
        "corrected": 0.1, "verified": 0.0, "mixed": 0.3} for s in range(1, 9)]
    train[5:6] = [{"kind": "skipped", "step": 6, "why": "reward", "rows": [3]},
        {"kind": "train", "step": 6, "skipped": 1, "rollout_seconds": 1.0}]
    held = [{"kind": "eval", "step": s, "pass@1": 0.1, "pass@1_se": 0.01, "length": 20, "reflections": 1,
        "corrected": 0.1, "verified": 0.0, "mixed": 0.3} for s in (0, 4, 8)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train + held))


def test_histories_follow_each_problem_and_begin_with_what_was_learnt(tmp_path):
    run_folder(tmp_path)
    found = histories(tmp_path)
    assert [h[0]["prompt"] for h in found] == ["Use 1 to make 24.", "Use 2 to make 24.", "Use 0 to make 24."]
    assert [r["step"] for r in found[0]] == [0, 4, 8] and [r["accuracy"] for r in found[0]] == [0, 1, 1]
    text = watch(tmp_path, found).read_text()
    assert text.index("After step 0: wrong") < text.index("After step 4: right")
    assert "\n    <think>7 wait" in text
    (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(UserError, match="empty"):
        histories(tmp_path)


def test_pictures_are_drawn_from_a_folder_and_from_a_recipe(tmp_path):
    pytest.importorskip("matplotlib", reason="plots: requirements-dev.txt")
    curve = [{"name": str(k), "tokens": 30.0 * k, "accuracy": 0.1 * k, "se": 0.01} for k in (1, 2, 4)]
    stage(tmp_path, "zero", **{"pass@1": 0.1})
    curves = {"settings": {"from_": "out/tiny/zero", "problems": 64},
        "curves": {"budget": curve, "votes": curve, "search": curve}}
    (tmp_path / "zero" / "curves.json").write_text(json.dumps(curves))
    run_folder(tmp_path / "zero")

    def plot(*words):
        return subprocess.run([sys.executable, ROOT / "report" / "plot.py", *map(str, words)],
            capture_output=True, text=True, timeout=120)

    made = plot("--report", tmp_path)
    assert made.returncode == 0, made.stderr
    for name in ("report.png", "report_evolution.png", "report_curves.png"):
        assert (tmp_path / name).stat().st_size > 5000 and name in (tmp_path / "report.md").read_text()
    made = plot("--aha", tmp_path / "zero", 2)
    assert made.returncode == 0, made.stderr
    assert all((tmp_path / "zero" / n).stat().st_size > 500 for n in ("aha.md", "aha.png", "aha_metrics.png"))
    for words, message in [(("--aha", tmp_path / "zero", 9), "follows 3 problems"), ((), "usage"),
            (("--ahah", "x"), "usage"), (("--curves", tmp_path / "none.json"), "does not exist")]:
        wrong = plot(*words)
        assert wrong.returncode == 2 and message in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_no_legend_covers_data(tmp_path, monkeypatch):
    """Every legend of the report's pictures lies outside all axes."""
    pytest.importorskip("matplotlib", reason="plots: requirements-dev.txt")
    from matplotlib.figure import Figure

    from report import plot

    drawn, save = [], Figure.savefig
    def looked_at(figure, *args, **kwargs):
        save(figure, *args, **kwargs)  # lays the figure out
        boxes = [ax.get_window_extent() for ax in figure.axes if ax.axison]
        assert not any(ax.get_legend() for ax in figure.axes) and len(figure.legends) == 1
        covered = figure.legends[0].get_window_extent()
        assert not any(box.overlaps(covered) for box in boxes)
        assert figure.bbox.x0 <= covered.x0 and covered.x1 <= figure.bbox.x1  # and nothing of it is cut off
        drawn.append([text.get_text() for text in figure.legends[0].get_texts()])

    monkeypatch.setattr(Figure, "savefig", looked_at)
    names = ("zero", "zero_language", "reasoning", "scenarios", "dense_rl")
    curve = [{"name": str(k), "tokens": 30.0 * k, "accuracy": 0.1 * k, "se": 0.01} for k in (1, 2, 4)]
    for name in names:
        stage(tmp_path, name, **{"pass@1": 0.1})
        run_folder(tmp_path / name)
        curves = {"settings": {"from_": name, "problems": 4}, "curves": {"budget": curve, "votes": curve,
            "pass@k": curve, "search": curve}}
        (tmp_path / name / "curves.json").write_text(json.dumps(curves))
    plot.report([tmp_path])
    stages, runs, spending = drawn
    assert stages == ["pass@1", "cons@k", "pass@k"] and len(spending) == len(set(spending)) == 4
    assert [label.split("/")[-1] for label in runs[:5]] == list(names) and len(runs) == 7
    plot.draw_spending([tmp_path / "zero/curves.json"], tmp_path / "one.png")
    plot.draw_stages({"zero": {"metrics": {"pass@1": 0.1, "cons@k": 0.2, "pass@k": 0.3}}}, tmp_path / "s.png")


def small_run(folder, **changes):
    small = dict(hidden_size=32, num_hidden_layers=3, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, intermediate_size=32, moe_intermediate_size=16, initializer_range=0.2) | changes
    save_model(Transformer(ModelConfig(**small)).init_weights(), folder)
    (folder / "run.json").write_text(json.dumps({"task": "countdown:n=3"}))


def test_the_shares_of_the_experts_sum_to_one_and_are_those_of_the_router(tmp_path):
    small_run(tmp_path)
    model, tokenizer = load_model(tmp_path), for_checkpoint(tmp_path)
    shares, counts = expert_shares(model, tokenizer, ["Use 1 2 3 to make 6.", "Sort a b."], samples=3,
        max_new_tokens=20)
    assert set(shares) == {kind for kind in KINDS if counts[kind]} and len(shares) > 3
    for table in shares.values():
        assert table.shape == (2, 8) and table.sum(1) == pytest.approx([1, 1])
        assert table.max() <= 0.5 + 1e-9  # K = 2: no expert is both
    prompts = [tokenizer.encode_prompt(p) for p in ("Use 1 2 3 to make 6.", "Sort a b.")]
    out = generate(model, prompts, group_size=3, max_new_tokens=20, eos_id=tokenizer.eos_id, seed=0)
    load = 0  # the same completions through the training pass: the experts of their tokens but the last
    for i, completion in enumerate(out.completions):
        prompt, routing = prompts[i // 3], Routing()
        model.hidden(torch.tensor([prompt + completion[:-1]]), routing)
        load += torch.stack([torch.nn.functional.one_hot(layer[0, len(prompt) :], 8).sum((0, 1))
            for layer in routing.indices])
    total = sum(table * counts[kind] * 2 for kind, table in shares.items())
    assert total.tolist() == pytest.approx(load.double().numpy())


def test_each_token_is_of_one_kind():
    kinds = {text: next(k for k, p in KINDS.items() if re.fullmatch(p, text, re.S)) for text in
        ("7", "*", "=", "(", " need", " low", "high", " wait", " ok", "</think>", "\n", " ", "give")}
    assert list(kinds.values()) == ["digits", "+ - * / =", "+ - * / =", "brackets", "need", "low, high",
        "low, high", "wait", "ok", "tags", "spaces, line breaks", "spaces, line breaks", "other words"]


def test_the_picture_of_the_experts_is_drawn_and_a_dense_model_has_none(tmp_path):
    pytest.importorskip("matplotlib", reason="plots: requirements-dev.txt")
    small_run(tmp_path)
    assert draw_experts(tmp_path, problems=2).stat().st_size > 5000
    small_run(tmp_path, first_k_dense_replace=3)
    with pytest.raises(UserError, match="dense"):
        draw_experts(tmp_path)


def test_the_curves_show_the_search_where_a_run_has_its_numbers(tmp_path):
    image = pytest.importorskip("matplotlib.image", reason="plots: requirements-dev.txt")
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        run_folder(folder)
    rows = [json.loads(line) for line in (new / "metrics.jsonl").read_text().splitlines()]
    (new / "metrics.jsonl").write_text("".join(json.dumps(r | {key + end: 0.5 for key, _ in SEARCH_PANELS
        for end in ("", "_se")}) + "\n" for r in rows))
    assert searches([old]) == [] and searches([old, new]) == SEARCH_PANELS
    sizes = [image.imread(draw(folders, PANELS + searches(folders))).shape[0]
        for folders in ([old], [old, new])]
    assert sizes[1] > 1.3 * sizes[0]
