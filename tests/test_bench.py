"""The benchmark's arithmetic, and its two sides doing the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import bench
from config import PRESETS, ModelConfig
from model import Transformer

ROOT = Path(__file__).parent.parent


def test_flops_count_two_per_active_weight_and_attended_number():
    cfg = ModelConfig(**PRESETS["tiny"])
    active = Transformer(cfg).num_parameters()[1]
    assert bench.flops_per_token(cfg, 0, False) == 2 * active  # the tied embedding is the head
    per_token = bench.flops_per_token(cfg, 10, True) - bench.flops_per_token(cfg, 9, True)
    heads, width = cfg.num_attention_heads, cfg.kv_lora_rank + cfg.qk_rope_head_dim + cfg.kv_lora_rank
    assert per_token == 2 * cfg.num_hidden_layers * heads * width


def test_exponents_are_slopes_in_the_logarithms():
    assert bench.exponent([1, 2, 4, 8], [3, 6, 12, 24]) == pytest.approx(1)
    assert bench.exponent([1, 2, 4], [5, 20, 80]) == pytest.approx(2)


def test_the_table_shows_medians_and_ratios():
    rows = [dict(work="w", side=s, tokens=100, seconds=t, cpu_seconds=t, peak_mib=m) for s, t, m in
        [("ours", 1.0, 10), ("theirs", 4.0, 40), ("ours", 9.0, 10), ("theirs", 3.0, 40), ("ours", 0.5, 10),
            ("theirs", 5.0, 40)]]
    lines = bench.table(rows, {"matmul": 1e9, "read": 1e9}).splitlines()
    assert "1.00" in lines[1] and "4.00" in lines[2] and "4.0x faster, 0.25 of memory" in lines[3]


def test_the_limit_is_the_slower_of_arithmetic_and_memory():
    rates = {"matmul": 10e9, "read": 2e9}
    assert bench.share_of_limit({"gflop": 10.0}, 4.0, rates) == "25%"
    assert bench.share_of_limit({"gflop": 10.0, "gbyte": 6.0}, 4.0, rates) == "75%"
    assert bench.share_of_limit({}, 4.0, rates) == "-"


def test_a_rollout_reads_weights_and_prompts_every_step_and_each_latent_while_it_lasts():
    model = Transformer(ModelConfig(**PRESETS["tiny"]))
    weights, token = sum(p.nbytes for p in model.parameters()), 4 * 4 * (64 + 16)
    read = bench.bytes_read(model, bench.Work("rollout", None, 2, 3, 5, 10, 0, 0), 10)
    assert read == 10 * (weights + token * (2 * 5 + 2 * 3 * 10 / 2))


def test_both_sides_do_the_same_work(monkeypatch):
    pytest.importorskip("transformers")
    shape = dict(PRESETS["tiny"], num_hidden_layers=2, hidden_size=32)
    for kind in ("rollout", "train", "pass"):
        work = bench.Work(kind, shape, 3, 2, 6, 5, 2, 2)
        model, prompts, eos = bench.build(work, "")
        ours = bench.ours(work, model, prompts, eos, bench.Ranks(0, 1, "cpu"), 2)
        theirs = bench.theirs(work, model, prompts, eos, 2)
        assert ours(3, 5) == theirs(3, 5) == 3 * 2 * (11 if kind == "train" else 5)


def test_an_unknown_work_is_one_line():
    done = subprocess.run([sys.executable, ROOT / "bench" / "bench.py", "--work", "rollout_tny"],
        capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean rollout_tiny?" in done.stderr and not done.stdout


def test_one_measurement_reports_speed_and_memory(monkeypatch, capsys):
    monkeypatch.setitem(bench.WORKS, "rollout_tiny", bench.Work("rollout", PRESETS["tiny"], 4, 2, 6, 9, 0, 0))
    got = bench.measure(bench.Config(work="rollout_tiny", once="ours"))
    assert got["tokens"] == 4 * 2 * 9 and got["seconds"] > 0 and got["peak_mib"] >= got["start_mib"] > 0
    assert json.loads(json.dumps(got)) == got and got["gflop"] > 0


def test_released_shapes_have_as_many_parameters_as_published():
    """Moonlight: arXiv 2502.16982, table 3, without embedding and head: 15.29 B, 2.24 B of them active."""
    totals = {"SmolLM2-135M": 134_515_008, "Qwen2.5-0.5B": 494_032_768, "Llama-3.2-1B": 1_235_814_400,
        "Qwen2.5-1.5B": 1_543_714_304, "R1-Distill-Qwen-1.5B": 1_777_088_000, "Qwen2.5-3B": 3_085_938_688,
        "R1-Distill-Qwen-7B": 7_615_616_512, "DeepSeek-V2-Lite": 15_706_484_224,
        "Moonlight-16B-A3B": 15_289_019_904 + 2 * 163_840 * 2048}
    assert totals.keys() == bench.RELEASED.keys()
    for name, shape in bench.RELEASED.items():
        with bench.torch.device("meta"):
            total, active = Transformer(ModelConfig(**shape)).num_parameters()
        assert total == totals[name], name
    assert active - 2 * 163_840 * 2048 == pytest.approx(2.24e9, rel=0.003)


def test_the_table_names_the_smallest_card_that_holds_a_run(capsys):
    bench.memory(bench.Config())
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in lines[4:]]
    assert names == list(bench.RELEASED) and all(line.count("|") == 12 for line in lines[2:])
    assert bench.smallest_card(7.5e9) == "8 GB" and bench.smallest_card(7.9e9) == "16 GB"
    assert bench.smallest_card(133e9) == "141 GB" and bench.smallest_card(140e9) == "more"
    lite = next(line for line in lines if "V2-Lite" in line).split("|")
    assert lite[3].strip() == "29.3" and lite[4].strip() == "234"  # 2 and 16 bytes of 15.7 B


def test_a_checkpoint_has_a_table_of_its_own(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(ModelConfig(**PRESETS["tiny"]).to_hf()))
    bench.memory(bench.Config(init=str(tmp_path), lora_rank=4))
    out = capsys.readouterr().out
    assert str(tmp_path) in out and "LoRA, rank 4" in out and "Qwen" not in out


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")
def test_a_measured_step_has_the_phases_that_are_predicted(monkeypatch):
    small = dict(PRESETS["tiny"], num_hidden_layers=2)
    sizes = dict(prompts=2, group=2, prompt=8, new=8, micro_tokens=64)
    monkeypatch.setitem(bench.MEASURED, "two layers", (small, bench.torch.float32, sizes))
    row = bench.measured_memory(bench.Config(once="two layers"))
    assert row["measured"].keys() == row["predicted"].keys() == {"rollout", "pass"}
    assert all(n > 50 for n in row["measured"].values())


@pytest.mark.parametrize("gib,want", [(8, ("54m", 16)), (24, ("1b", 2)), (32, ("1b", 8)),
    (80, ("1b", 16)), (141, ("1b", 16))])
def test_the_largest_model_that_fits_the_card_is_measured(gib, want):
    assert bench.gpu_plan(gib * 2**30) == want


def test_a_card_too_small_for_any_model_is_one_line():
    with pytest.raises(bench.UserError, match="too little"):
        bench.gpu_plan(2**30)


def test_the_page_of_a_gpu_has_its_card_its_table_and_what_failed():
    rows = [dict(work=w, side=s, tokens=100, seconds=t, cpu_seconds=t, peak_mib=m) for w, s, t, m in
        [("rollout_1b", "ours", 1.0, 10), ("rollout_1b", "theirs", 4.0, 40), ("no_graphs", "ours", 2.0, 10)]]
    page = bench.gpu_page({"card": "X, 24 GiB", "commit": "abc"}, "9 passed", rows,
        ["step_1b, theirs: out of memory"], {"matmul": 1e14, "read": 1e12})
    for text in ("- card: X, 24 GiB", "- commit: abc", "9 passed", "100 TFLOP/s", "1,000 GB/s", "4.0x faster",
            "no_graphs", "- failed: step_1b, theirs: out of memory"):
        assert text in page, text


def test_everything_writes_the_page(monkeypatch, tmp_path):
    """Without a GPU: the steps of --all in order, on a measurement that is made up."""
    calls = []

    def once(cfg, work, side):
        calls.append((work, side, cfg.graphs, cfg.micro))
        if (work, side) == ("step_1b", "theirs"):
            raise bench.UserError("step_1b, theirs: out of memory")
        return dict(work=work, side=side, tokens=100, seconds=1.0, cpu_seconds=1.0, peak_mib=1.0)

    (tmp_path / "docs").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_cuda.py").write_text("def test_nothing(): pass\n")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench" / "bench.py"))
    monkeypatch.setattr(bench, "run_once", once)
    monkeypatch.setattr(bench, "limits", lambda cfg: {"matmul": 1e14, "read": 1e12})
    monkeypatch.setattr(bench.torch.cuda, "mem_get_info", lambda: (80 << 30, 80 << 30))
    monkeypatch.setattr(bench.torch.cuda, "empty_cache", lambda: None)
    card = type("Card", (), {"name": "made up", "total_memory": 80 << 30})
    monkeypatch.setattr(bench.torch.cuda, "get_device_properties", lambda i: card)
    with pytest.raises(SystemExit) as exit:
        bench.everything(bench.Config(device="cuda", runs=2))
    page = (tmp_path / "docs" / "gpu.md").read_text()
    assert exit.value.code == 1 and "made up, 80 GiB" in page and "1 passed" in page
    assert page.count("failed: step_1b") == 1 and "no_graphs" in page
    assert len(calls) == 14 and {micro for *_, micro in calls} == {16}
    assert [graphs for *_, graphs, _ in calls].count(False) == 2


def test_random_models_are_made_in_their_dtype_but_for_the_routers():
    model = bench.random_model(PRESETS["tiny"], "cpu", bench.torch.bfloat16)
    routers = {p for router in model.routers() for p in router.parameters()}
    assert all((p.dtype == bench.torch.float32) == (p in routers) for p in model.parameters())
    assert bench.torch.get_default_dtype() == bench.torch.float32
    assert model.lm_head.weight is model.embed_tokens.weight and model.lm_head.weight.std() > 0


def test_a_peers_memory_does_not_hold_our_weights(monkeypatch):
    pytest.importorskip("transformers")
    kept = []
    monkeypatch.setitem(bench.WORKS, "train_tiny", bench.Work("train", PRESETS["tiny"], 2, 2, 6, 9, 2, 2))
    real = bench.build
    monkeypatch.setattr(bench, "build", lambda *a: kept.append(real(*a)) or kept[0])
    got = bench.measure(bench.Config(work="train_tiny", once="theirs"))
    assert got["tokens"] == 2 * 2 * 15 and got["weights_mib"] > 4
    assert all(p.untyped_storage().size() == 0 for p in kept[0][0].parameters())
