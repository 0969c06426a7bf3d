"""Adapters: the same numbers as peft's, and a run that trains nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import grpo
import sft
from checkpoint import load_model, save_adapter, save_model
from config import PRESETS, ModelConfig, UserError
from data.tokenizer import for_checkpoint, shipped
from lora import Lora, adapters, as_reference, attach, fold, renew_reference
from model import Transformer
from optim import keep_masters, trained
from sample import generate

ROOT = Path(__file__).parent.parent
SHAPES = {"mla": {"q_lora_rank": 24}, "gqa": PRESETS["tiny_gqa"], "llama": dict(model_type="llama",
    num_key_value_heads=2), "qwen2": dict(model_type="qwen2", num_key_value_heads=2)}


def model_of(shape=None, rank=4, std=0.1, targets="", base="", **more):
    """A small model with adapters that change it."""
    cfg = ModelConfig(**PRESETS["tiny"] | {"num_hidden_layers": 2, "hidden_size": 64} | (shape or {}))
    model = attach_to(Transformer(cfg).init_weights(1), rank, targets, base, **more)
    generator = torch.Generator().manual_seed(3)
    for _, m in adapters(model):
        m.lora_B.data.normal_(0, std, generator=generator)
    return model


def attach_to(model, rank=4, targets="", base="", **more):
    attach(model, Lora(rank, 16.0, targets=targets, base=base, **more), seed=2)
    return model


def tokens_of(count=3, length=12):
    return torch.randint(3, 500, (count, length), generator=torch.Generator().manual_seed(0))


def saved_base(tmp_path, shape=None) -> Path:
    """A base model's folder, as --init wants it."""
    tokenizer = shipped()
    cfg = ModelConfig(**PRESETS["tiny"] | {"num_hidden_layers": 2, "eos_token_id": tokenizer.eos_id,
        "hidden_size": 64} | (shape or {}))
    save_model(Transformer(cfg).init_weights(1), tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_merged_equals_unmerged_and_the_reference_equals_the_base(shape):
    model, tokens = model_of(shape), tokens_of()
    unmerged = model(tokens)
    with as_reference(model):
        reference = model(tokens)
    base = Transformer(model.cfg).init_weights(1)
    assert torch.equal(reference, base(tokens)) and (unmerged - reference).abs().max() > 0.1
    fold(model)
    torch.testing.assert_close(model(tokens), unmerged, rtol=0, atol=1e-5)
    assert all(p.requires_grad for p in model.parameters()) and not list(adapters(model))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_rollout_samples_from_the_merged_weights_and_leaves_nothing_behind(shape):
    model = model_of(shape)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    out = generate(model, [[3, 4, 5], [6, 7]], group_size=2, max_new_tokens=20, eos_id=None, seed=1)
    for i, completion in enumerate(out.completions):
        prompt = [[3, 4, 5], [6, 7]][i // 2]
        logp = model(torch.tensor([prompt + completion]))[0].log_softmax(-1)
        mine = logp[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None]).squeeze(1)
        torch.testing.assert_close(mine, torch.tensor(out.logprobs[i]), rtol=0, atol=1e-4)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
    assert all(m.packed is None and m.merged is None for _, m in adapters(model))


def test_the_defaults_are_attention_and_without_experts_the_mlps():
    model = Transformer(ModelConfig(**PRESETS["tiny"]))
    attach_to(model)
    attention = {"self_attn.q_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj",
        "self_attn.o_proj"}
    assert {name.split(".", 2)[2] for name, _ in adapters(model)} == attention
    dense = attach_to(Transformer(ModelConfig(**PRESETS["tiny_dense"])))
    assert {name.split(".", 2)[2] for name, _ in adapters(dense)} == attention | {
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {
        "lora_A", "lora_B"}


def test_only_adapters_have_gradients_and_what_is_frozen_stays_bit_for_bit():
    model = model_of()
    before = {name: p.clone() for name, p in model.named_parameters()}
    keep_masters(model)
    optimizer = torch.optim.AdamW(trained(model), lr=0.1)
    model.hidden(tokens_of()).square().mean().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == ("lora_" in name), name
        assert torch.equal(p, before[name]) != ("lora_" in name), name


def test_rslora_divides_by_the_root_of_the_rank():
    assert Lora(16, 32.0).scale == 2.0 and Lora(16, 32.0, rslora=True).scale == 8.0


# ------------------------------------------------------------------------------------------------------ peft


def theirs(folder: Path, adapter: Path | None = None, config=None):
    """transformers' model with peft's adapters: of a folder, or new ones."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if config is None:
        return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    return peft.get_peft_model(base, config)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_our_adapter_in_peft_has_our_logits_and_gradients(shape, rslora, tmp_path):
    base = saved_base(tmp_path, shape)
    model = attach_to(load_model(base), base=str(base), rslora=rslora)
    for _, m in adapters(model):
        m.lora_B.data.normal_(0, 0.1)
    save_adapter(model, tmp_path / "adapter")
    peer, tokens = theirs(base, tmp_path / "adapter"), tokens_of()
    torch.testing.assert_close(model(tokens), peer(tokens).logits, rtol=0, atol=1e-5)
    for logits in (model(tokens), peer(tokens).logits):
        logits.log_softmax(-1)[..., 7].sum().backward()
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    assert len(gradients) == 2 * len(list(adapters(model)))
    for name, m in adapters(model):
        for factor in ("lora_A", "lora_B"):
            want = gradients[f"base_model.model.model.{name}.{factor}.default.weight"]
            assert (getattr(m, factor).grad - want).norm() <= 1e-5 * want.norm(), name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_adapter_of_peft_opens_here_beside_the_weights_and_merged(shape, tmp_path):
    peft = pytest.importorskip("peft")
    base = saved_base(tmp_path, shape)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["o_proj", "k_proj", "kv_b_proj"],
        init_lora_weights=False, use_rslora=True, lora_dropout=0.1)
    peer, tokens = theirs(base, config=config).eval(), tokens_of()
    peer.save_pretrained(tmp_path / "adapter")
    for merge in (True, False):
        model = load_model(tmp_path / "adapter", merge=merge)
        torch.testing.assert_close(model(tokens), peer(tokens).logits, rtol=0, atol=1e-5)
        assert bool(list(adapters(model))) != merge
    assert for_checkpoint(tmp_path / "adapter").vocab_size == 512


# --------------------------------------------------------------------------------------------------- training


def grpo_run(base, out, *more):
    words = ("--lora_rank 4 --steps 3 --prompts 4 --group_size 4 --max_new_tokens 24 --eval_problems 4 "
        "--lr 0.01 --updates 1 --kl_coef 0.1 --eval_every 1 --device cpu").split()
    return [sys.executable, ROOT / "grpo.py", "--init", base, "--out", out, "--reward",
        f"{__file__}:lengths", *words, *map(str, more)]


def lengths(completions, **_):
    """A reward that random weights can have different ones of."""
    return [float(len(text) % 7) for text in completions]


def run(words):
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metrics_of(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def test_a_run_saves_the_merged_model_and_the_adapter_and_its_first_kl_is_zero(tmp_path):
    base, out = saved_base(tmp_path), tmp_path / "out"
    run(grpo_run(base, out))
    rows = metrics_of(out)
    assert rows[0]["kl"] == 0.0 and rows[-1]["kl"] > 0
    rounded = grpo_run(base, tmp_path / "rounded", "--dtype", "bfloat16", "--steps", "1")
    run(rounded)
    assert metrics_of(tmp_path / "rounded")[0]["kl"] == 0.0
    stored = load_file(tmp_path / "rounded" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32}
    tokens, merged = tokens_of(), load_model(out)
    torch.testing.assert_close(load_model(out / "adapter")(tokens), merged(tokens), rtol=0, atol=1e-6)
    assert (load_model(base)(tokens) - merged(tokens)).abs().max() > 1e-3
    stored, before = (load_file(folder / "model.safetensors") for folder in (out, base))
    same = {name for name in stored if torch.equal(stored[name], before[name])}
    assert same == {name for name in stored if "_proj" not in name or ".mlp." in name}
    kind = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (kind["r"], kind["lora_alpha"], Path(kind["base_model_name_or_path"])) == (4, 32.0, base)
    # the adapter is trained further; the reference is then the adapter of the start
    again = run(grpo_run(out / "adapter", tmp_path / "again"))
    assert metrics_of(tmp_path / "again")[0]["kl"] == 0.0 and "before" in again


def test_a_run_that_was_killed_resumes_bit_for_bit(tmp_path):
    base, more = saved_base(tmp_path), ["--lora_dropout", "0.3", "--ref_every", "1"]
    run(grpo_run(base, tmp_path / "whole", *more))
    words = list(map(str, grpo_run(base, tmp_path / "killed", *more)))
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed" / "state" / "state.pt").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -9
    assert "model.safetensors" not in os.listdir(tmp_path / "killed" / "state")  # only what is trained
    assert "resuming after step" in run(words)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        a, b = (load_file(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("device", ["cpu:2", "cpu:2 --shard true"])
def test_the_number_of_processes_and_splitting_the_weights_change_only_rounding(tmp_path, device):
    base = saved_base(tmp_path)
    run(grpo_run(base, tmp_path / "one"))
    run(grpo_run(base, tmp_path / "two", "--device", *device.split()))
    one, two = (metrics_of(tmp_path / out) for out in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert abs(a["loss"] - b["loss"]) <= 1e-5
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert two[0]["kl"] == 0.0
    a, b = (load_model(tmp_path / out / "adapter") for out in ("one", "two"))
    torch.testing.assert_close(a(tokens_of()), b(tokens_of()), rtol=0, atol=1e-3)
    torch.testing.assert_close(load_model(tmp_path / "two")(tokens_of()), b(tokens_of()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_supervised_training_of_adapters_learns_and_freezes_the_rest(tmp_path, optimizer):
    base = saved_base(tmp_path)
    run([sys.executable, ROOT / "sft.py", "--init", base, "--out", tmp_path / "out", "--optimizer", optimizer,
        *"--lora_rank 8 --steps 30 --batch_size 16 --lr 0.02 --warmup 3 --device cpu".split()])
    rows = metrics_of(tmp_path / "out")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    stored, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", base))
    same = {name for name in stored if torch.equal(stored[name], before[name])}
    assert same == {name for name in stored if "_proj" not in name or ".mlp." in name}


def test_a_preference_model_trains_its_head_beside_the_adapters(tmp_path):
    base, pairs = saved_base(tmp_path), tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {i}.", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run([sys.executable, ROOT / "sft.py", "--init", base, "--out", tmp_path / "out", "--lora_rank", "4",
        "--steps", "4", "--batch_size", "8", "--task", pairs, "--lr", "0.01", "--device", "cpu"])
    merged, opened = load_model(tmp_path / "out"), load_model(tmp_path / "out" / "adapter")
    assert torch.equal(merged.score.weight, opened.score.weight) and merged.score.weight.abs().max() > 0
    tensors = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.score.weight" in tensors


def test_adapters_in_bfloat16_are_float32_beside_frozen_weights(tmp_path):
    model = model_of()
    fold(model)
    attach_to(model.bfloat16())
    keep_masters(model)
    assert {p.dtype for p in trained(model)} == {torch.float32} and not any(
        hasattr(p, "master") for p in model.parameters())
    model.hidden(tokens_of()).float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in trained(model))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_bfloat16_small_adapters_are_not_rounded_away(shape):
    """What a B of one step's size does to a layer's output, in training and in a rollout, and in what is
    saved."""
    model = model_of(shape, std=2e-4).bfloat16()
    fold(model)
    attach_to(model.bfloat16(), targets="self_attn")
    for name, m in adapters(model):
        m.lora_B.data.fill_(2e-4)
        x = torch.randn(200, m.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
        wanted = m.scale * x.float() @ m.lora_A.T @ m.lora_B.T
        with as_reference(model):
            off = m(x).float()
        trained = m(x).float() - off
        m.pack()
        for found in (trained, m(x).float() - off):
            assert abs((found * wanted).sum() / wanted.square().sum() - 1) < 0.2, name
        m.unpack()
        assert m.merge(m.weight).dtype == torch.float32


def test_in_bfloat16_gradients_are_those_of_float32():
    model = model_of(std=0.01).bfloat16()
    exact = model_of(std=0.01)
    for found, wanted in zip(model.parameters(), exact.parameters(), strict=True):
        wanted.data = found.data.float()
        found.data = found.data.float() if found.requires_grad else found.data
    for policy in (model, exact):
        policy(tokens_of()).log_softmax(-1)[..., 7].sum().backward()
    for found, wanted in zip(trained(model), trained(exact), strict=True):
        assert (found.grad - wanted.grad).norm() <= 0.05 * wanted.grad.norm()


def test_the_reference_can_be_renewed():
    model, tokens = model_of(), tokens_of()
    renew_reference(model, model)
    was = model(tokens)
    for _, m in adapters(model):
        m.lora_B.data.mul_(2)
    with as_reference(model):
        assert torch.equal(model(tokens), was) and not model(tokens).requires_grad
    assert not torch.equal(model(tokens), was)


def test_a_run_needs_no_adapter_in_the_first_layer_and_keeps_its_own_folder_out_of_its_way(tmp_path):
    base, out = saved_base(tmp_path), tmp_path / "out"
    run(grpo_run(base, out, "--lora_targets", "layers.1", "--steps", "2"))
    assert {name.split(".")[1] for name, _ in adapters(load_model(out / "adapter", merge=False))} == {"1"}
    done = subprocess.run(list(map(str, grpo_run(out / "adapter", out, "--lora_targets", "layers.1"))),
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "is also where this run writes" in done.stderr
    assert (out / "adapter").exists()


WRONG = {"--lora_targets nothing": "no linear layer of a block has such a name; there are self_attn.q_proj",
    "--lora_targets (": "no regular expression", "--lora_targets lm_head": "no linear layer",
    "--lora_rank -1": "at least 0", "--lora_dropout 1.5": "below 1", "--router bias": "the router stays",
    "--lora_rank 0 --lora_alpha 8": "--lora_alpha needs --lora_rank", "--lora_alpha 0": "would be 0"}


@pytest.mark.parametrize("words,message", WRONG.items())
def test_a_setting_that_cannot_work_is_one_line(tmp_path, words, message, capsys):
    base = saved_base(tmp_path)
    done = subprocess.run(list(map(str, [*grpo_run(base, tmp_path / "out"), *words.split()])), cwd=ROOT,
        capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


BROKEN = [(dict(use_dora=True), "use_dora=True is not supported"), (dict(r="x"), "no number"),
    *((dict(r=r), f"r={r}, lora_alpha=16.0: expected r from 1") for r in (0, -2, 10**9)),
    (dict(lora_alpha=float("inf")), "lora_alpha=inf: expected"), (dict(r=float("inf")), "no number"),
    (dict(base_model_name_or_path="Qwen/Qwen2.5-0.5B"), "Qwen/Qwen2.5-0.5B, which is no model's folder here"),
    (dict(r=5), "kv_a_proj_with_mqa.lora_A is (4, 64), its config and the model want (5, 64)")]


@pytest.mark.parametrize("change,message", BROKEN)
def test_an_adapter_that_cannot_be_opened_is_one_line(tmp_path, change, message):
    base = saved_base(tmp_path)
    save_adapter(attach_to(load_model(base), base=str(base)), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load_model(tmp_path / "adapter")


def test_settings_that_differ_from_the_adapter_that_is_trained_further_are_refused(tmp_path):
    base = saved_base(tmp_path)
    save_adapter(attach_to(load_model(base), base=str(base)), tmp_path / "adapter")
    for words, message in (("--lora_rank 8 --lora_alpha 16", "has 4"),
            ("--lora_alpha 8", "has 16"), ("--lora_alpha 16 --lora_targets q_proj", "it differs in")):
        done = subprocess.run(list(map(str, [*grpo_run(tmp_path / "adapter", tmp_path / "o"),
            *words.split()])), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_rows_of_a_run_need_an_initial_model():
    with pytest.raises(UserError, match="needs --init"):
        sft.check(sft.Config(lora_rank=4))
    with pytest.raises(UserError, match="needs --lora_rank"):
        grpo.check(grpo.Config(lora_dropout=0.1))
