"""--shard: a model that is split over the ranks trains as one process does; its states and checkpoints."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import grpo
import optim
import parallel
import sft
from batch import Sample
from checkpoint import load_model, load_split, load_state, save_model, save_state
from config import ModelConfig, UserError, run_script
from data.tasks import training_rows
from data.tokenizer import shipped
from model import Transformer
from optim import keep_masters, make_optimizers, master_of
from parallel import Ranks, gathered, local, lockstep, put_rows, setup, shard_model, weights, whole

ROOT = Path(__file__).parent.parent
ALONE = Ranks(0, 1, "cpu")
TINY = dict(vocab_size=512, hidden_size=36, num_attention_heads=2, num_hidden_layers=3, intermediate_size=49,
    moe_intermediate_size=20, initializer_range=0.1, max_position_embeddings=512)
MLA = TINY | dict(kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=5,
    num_experts_per_tok=2, n_shared_experts=1)
TASK = "countdown:n=3,high=12,ops=+-*,limit=40,high_target=40"
SHAPES = {  # odd sizes: no parameter's rows need to divide by the ranks
    "moe_mla": MLA, "dense_gqa_tied": TINY | dict(model_type="qwen3", num_key_value_heads=1, head_dim=18,
        tie_word_embeddings=True),
    "moe_bfloat16": MLA, "gqa_bfloat16": TINY | dict(model_type="llama", num_key_value_heads=1, head_dim=18)}


def pair(shape: str, ranks, recompute=False, trained="."):
    """The same model twice: of one process, and split. trained: a pattern of what is, the rest is frozen."""
    plain = Transformer(ModelConfig(**SHAPES[shape])).init_weights(1)
    if "bfloat16" in shape:
        for name, p in plain.named_parameters():
            p.data = p.data.to(torch.float32 if ".gate." in name else torch.bfloat16)
    with torch.device("meta"):
        split = Transformer(plain.cfg)
    for p in split.parameters():
        p.data = p.data.to(plain.embed_tokens.weight.dtype)
    for model in (plain, split):
        for name, p in model.named_parameters():
            p.requires_grad_(bool(re.search(trained, name)))
    shard_model(split, ranks)
    for name, t in weights(split).items():
        put_rows(t, weights(plain)[name]) if t.ndim else None
    plain.recompute = split.recompute = recompute
    keep_masters(plain), keep_masters(split)
    return plain, split


def off(found: list, wanted: list) -> float:
    """|found - wanted| / |wanted|, over all tensors."""
    a, b = (torch.cat([t.detach().flatten().double() for t in some]) for some in (found, wanted))
    return float((a - b).norm() / b.norm())


def all_weights(model) -> list:
    return [whole(master_of(p).detach(), torch.float32) for p in model.parameters()]


# --------------------------------------------------------------------------------- what two processes measure


def gradients(ranks, dir):
    """Over several micro-batches, one row each, dealt out unevenly: the balance loss of each is in them."""
    cfg, tok, out = sft.Config(micro_tokens=1, balance_coef=0.1), shipped(), {}
    for shape in SHAPES:
        for rows, recompute, trained in ((5, False, "."), (1, True, "."), (3, True, "q_proj|kv_")):
            plain, split = pair(shape, ranks, recompute, trained)
            data = [sft.encode_row(plain, tok, training_rows(TASK, 0)(i), 0, i) for i in range(rows)]
            count = sum(len(t) - start for t, start in data)
            for model, who in ((plain, ALONE), (split, ranks)):
                mine = parallel.micro_batches(who, [len(t) for t, _ in data], 1)
                for part, counts in lockstep(who, mine, model):
                    sft.forward_backward(model, [data[i] for i in part], count if counts else math.inf,
                        rows if counts else math.inf, cfg, tok.pad_id, "cpu")
            wanted = [master_of(p).grad for p in plain.parameters() if p.requires_grad]
            grads = [whole(p.grad, torch.float32) for p in split.parameters() if p.requires_grad]
            out[f"{shape}, {rows} rows"] = off(grads, wanted)
            for p, q in zip(plain.parameters(), split.parameters(), strict=True):
                frozen = not p.requires_grad and q.grad is None and q.dtype == p.dtype
                assert frozen or p.requires_grad and q.dtype == torch.float32
    return out


def run_sft(model, ranks, optimizers, batch, first, last):
    cfg = sft.Config(batch_size=batch, micro_tokens=1, lr=1e-3, warmup=2, steps=9)
    rows = training_rows(TASK, 0)
    return [sft.run_step(model, optimizers, i, rows, shipped(), cfg, ranks) for i in range(first, last)]


def steps(ranks, dir):
    """Losses and weights of SFT by both optimizers; with one row the other rank has no micro-batch."""
    out = {}
    for shape, name, batch in (("moe_mla", "muon", 3), ("moe_mla", "adamw", 1),
            ("dense_gqa_tied", "muon", 1), ("moe_bfloat16", "muon", 3), ("gqa_bfloat16", "adamw", 3)):
        plain, split = pair(shape, ranks)
        logs = [run_sft(model, who, make_optimizers(model, who, name=name), batch, 0, 4)
            for model, who in ((plain, ALONE), (split, ranks))]
        # in bfloat16 rounding sends a token to another expert
        for key in ("loss", "grad_norm", *(() if "bfloat16" in shape else ("max_load",))):
            out[f"{shape} {name} {batch} {key}"] = max(abs(a[key] / b[key] - 1)
                for a, b in zip(*logs, strict=True))
        out[f"{shape} {name} {batch} weights"] = off(all_weights(split), all_weights(plain))
    return out


def starts(ranks, dir):
    """A run from random weights, of a preference model too: the same numbers, rounded to its dtype."""
    out, shape = [], ModelConfig(**MLA)
    for pairs, dtype in ((False, ""), (True, "bfloat16")):
        plain, split = (sft.start_model(sft.Config(dtype=dtype, shard=shard), shape, "", None, pairs, who)
            for shard, who in ((False, ALONE), (True, ranks)))
        out += map(torch.equal, all_weights(split), all_weights(plain))
        out += map(torch.equal, split.buffers(), plain.buffers())
    return out


def samples(count):
    """Made-up completions of different lengths."""
    g, out = torch.Generator().manual_seed(3), []
    for i in range(count):
        prompt, n = list(range(3 + i // 2, 9)), 3 + 4 * i
        made = torch.randint(4, 500, (n,), generator=g).tolist()
        out.append(Sample(prompt + made, len(prompt), [-6.0] * n, True, None, {"reward": 0.0}, 0, i - 1.7))
    return out


def rl(ranks, dir):
    """GRPO's updates with a KL to a reference that becomes the policy after two of them."""
    cfg, out = grpo.Config(kl_coef=0.5, updates=2, micro_tokens=1, lr=1e-3, steps=4, router="loss"), {}
    for shape, count in (("moe_mla", 5), ("gqa_bfloat16", 2)):
        plain, split = pair(shape, ranks)
        logs = []
        for model, who in ((plain, ALONE), (split, ranks)):
            optimizer = torch.optim.AdamW(map(master_of, model.parameters()), betas=(0.9, 0.95), fused=True)
            reference, log = parallel.frozen_copy(model), []
            for step in range(4):
                log.append(grpo.update(model, reference, [optimizer], samples(count), step, cfg, shipped(),
                    who))
                if step == 1:
                    parallel.copy_weights(reference, weights(model))
            logs.append(log)
        logs = [log[:1] if "bfloat16" in shape else log for log in logs]  # AdamW makes steps of signs
        for key in ("loss", "grad_norm", "kl", "entropy", "ratio"):
            out[f"{shape} {key}"] = max(abs(a[key] - b[key]) / max(1e-2, abs(b[key]))
                for a, b in zip(*logs, strict=True))
    return out


def memory(ranks, dir):
    """Bytes on this rank beside those of one process: weights, gradients, moments; and the rollout's."""
    plain, split = pair("moe_bfloat16", ranks)
    held = {}
    for name, model, who in (("plain", plain, ALONE), ("split", split, ranks)):
        optimizers = make_optimizers(model, who)
        run_sft(model, who, optimizers, 2, 0, 1)
        masters = [master_of(p) for p in model.parameters()]
        moments = [t for o in optimizers for s in o.state.values() for t in s.values() if t.ndim]
        held[name] = [sum(local(t).nbytes for t in some)
            for some in (masters, [m.grad for m in masters], moments)]
    with gathered(split) as sampler:
        whole_model = sum(p.nbytes for p in sampler.parameters())
        same = all(torch.equal(p.float(), whole(q, p.dtype).float())
            for p, q in zip(sampler.parameters(), split.parameters(), strict=True))
    freed = all(t.is_meta for t in sampler.parameters())
    return {"held": parallel.gather(ranks, held["split"]), "alone": held["plain"], "same": same,
        "freed": freed, "whole_model": whole_model, "plain_model": sum(p.nbytes for p in plain.parameters())}


def broken(ranks, dir):
    """What one rank alone sees, all do: a NaN gradient skips the step, a weight that is none is not sound."""
    _, split = pair("moe_mla", ranks)
    optimizers, before = make_optimizers(split, ranks), all_weights(split)
    for p in split.parameters():
        local(p.grad).fill_(0.1)
    if ranks.rank == 1:
        local(split.norm.weight.grad)[0] = math.nan
    norm = optim.apply_gradients(ranks, list(split.parameters()), optimizers, 0.1)
    out = {"norm": norm, "unmoved": all(map(torch.equal, all_weights(split), before)),
        "cleared": not any(local(p.grad).any() for p in split.parameters()), "sound": [],
        "whole": optim.is_sound(split, [1, 2, 3])}
    for value in (math.nan, 1e30):
        if ranks.rank == 1:
            local(split.layers[1].mlp.experts.down_proj).fill_(value)
        out["sound"].append(optim.is_sound(split, [1, 2, 3]))
    return out


def trainer(model, ranks, state=None):
    optimizers = make_optimizers(model, ranks)
    for optimizer, saved in zip(optimizers, (state or {}).get("optimizers", []), strict=bool(state)):
        optimizer.load_state_dict(saved)
    return optimizers


def states(ranks, dir):
    """Two steps, a save, a third step; and the third step from the save, here and (`reshard`) elsewhere."""
    _, split = pair("moe_bfloat16", ranks)
    keep_masters(split)
    optimizers, reference = trainer(split, ranks), parallel.frozen_copy(split)
    run_sft(split, ranks, optimizers, 3, 0, 2)
    for k in (1, 2):  # the second save replaces the first
        save_state(dir / "state", split, step=k, optimizers=[o.state_dict() for o in optimizers],
            reference=weights(reference), config={})
    saved = all_weights(split)
    run_sft(split, ranks, optimizers, 3, 2, 3)
    third = all_weights(split)
    again = load_split(dir / "state", ranks)
    state = load_state(dir / "state", ranks, ("optimizers", "reference"))
    same = [all(map(torch.equal, all_weights(again), saved)), state["step"] == 2,
        all(torch.equal(local(state["reference"][n]), local(t)) for n, t in weights(reference).items())]
    keep_masters(again)
    optimizers = trainer(again, ranks, state)
    run_sft(again, ranks, optimizers, 3, 2, 3)
    same.append(all(map(torch.equal, all_weights(again), third)))
    if ranks.main:
        torch.save([saved, third], dir / "states.pt")
    import resource

    if ranks.rank == 1:  # a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        save_state(dir / "state", split, step=3)
        error = ""
    except OSError as full:
        error = str(full)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"same": same, "error": error, "kept": load_state(dir / "state")["step"]}


def reshard(ranks, dir):
    """The state of two ranks on three."""
    saved, third = torch.load(dir / "states.pt")
    model = load_split(dir / "state", ranks)
    keep_masters(model)
    same = all(map(torch.equal, all_weights(model), saved))
    optimizers = trainer(model, ranks, load_state(dir / "state", ranks, ("optimizers",)))
    run_sft(model, ranks, optimizers, 3, 2, 3)
    return {"same": same, "third": off(all_weights(model), third)}


def files(ranks, dir):
    """A checkpoint of each shape, one of them over an older one, and what is read of others."""
    out = {}
    for shape in SHAPES:
        plain, split = pair(shape, ranks)
        if shape == "moe_mla" and ranks.main:
            save_model(Transformer(plain.cfg).init_weights(9), dir / shape)
        parallel.gather(ranks, None)
        save_model(split, dir / shape)
        again = load_split(dir / shape, ranks)
        out[shape] = all(map(torch.equal, all_weights(again), all_weights(split)))
        if ranks.main:
            torch.save(plain.state_dict(), dir / f"{shape}.pt")
    for kind in ("deepseek_v3", "qwen3"):
        with gathered(load_split(dir / f"fp8_{kind}", ranks)) as found:
            wanted = load_model(dir / f"fp8_{kind}")
            out[kind] = all(map(torch.equal, found.parameters(), wanted.parameters()))
    return out


def main():
    scenarios, world, dir = sys.argv[1].split(","), sys.argv[2], Path(sys.argv[3])
    ranks = setup(f"cpu:{world}")
    for name in scenarios:
        found = globals()[name](ranks, dir)
        (dir / f"{name}-{world}-{ranks.rank}.json").write_text(json.dumps(found))


# ------------------------------------------------------------------------------------------ what must be true


def measure(scenarios, world, dir):
    done = subprocess.run([sys.executable, __file__, scenarios, str(world), dir], cwd=ROOT, timeout=300,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return {name: [json.loads((dir / f"{name}-{world}-{rank}.json").read_text()) for rank in range(world)]
        for name in scenarios.split(",")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    from test_families import fp8_checkpoint

    dir = tmp_path_factory.mktemp("shard")
    for kind in ("deepseek_v3", "qwen3"):
        fp8_checkpoint(dir / f"fp8_{kind}", kind, shards=False)
    return measure("gradients,starts,steps,rl,memory,broken,states,files", 2, dir) | {"dir": dir}


ROUNDED = 2**-7  # in bfloat16 a split head's gradient is rounded for each micro-batch; one process's is not


def within(measured: dict, bound: float) -> bool:
    return all(value <= (ROUNDED if "bfloat16" in key else bound) for key, value in measured.items())


def test_gradients_are_those_of_one_process(found):
    for rank in found["gradients"]:
        assert len(rank) == 3 * len(SHAPES) and within(rank, 1e-6), rank


def test_random_weights_are_those_of_one_process(found):
    assert all(map(all, found["starts"])) and len(found["starts"][0]) > 60


def test_sft_losses_and_weights_are_those_of_one_process(found):
    """Where rounding decides a near-tie of a router, a token goes to another expert: seen in max_load."""
    for rank in found["steps"]:
        other = {key.removesuffix(" max_load") for key, x in rank.items() if key.endswith("max_load") and x}
        assert len(other) <= 1 and all(rank[f"{run} max_load"] < 0.01 for run in other), rank
        same = {key: x for key, x in rank.items() if key.rpartition(" ")[0] not in other}
        assert same and within(same, 1e-4) and within(rank, 1e-2), rank


def test_grpo_metrics_are_those_of_one_process(found):
    for rank in found["rl"]:
        assert within(rank, 1e-4), rank


def test_each_rank_holds_half_of_everything_and_the_whole_model_only_to_sample(found):
    for m in found["memory"]:
        assert m["same"] and m["freed"] and m["whole_model"] == m["plain_model"]
        for kind, alone in enumerate(m["alone"]):
            mine = [held[kind] for held in m["held"]]
            assert sum(mine) == alone and max(mine) <= 0.56 * alone, (mine, alone)  # 5 experts: 3 and 2


def test_what_one_rank_sees_of_broken_numbers_all_do(found):
    for m in found["broken"]:
        assert math.isnan(m["norm"]) and m["unmoved"] and m["cleared"] and m["whole"]
        assert m["sound"] == [False, False]


def test_a_state_comes_back_bit_for_bit_and_on_another_number_of_ranks(found):
    for m in found["states"]:
        assert m["same"] == [True] * 4
        assert "cannot be written" in m["error"] and m["kept"] == 2
    for m in measure("reshard", 3, found["dir"])["reshard"]:
        assert m["same"] and m["third"] <= 1e-5  # three ranks add up in another order than two


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_opens_in_load_model_and_in_transformers(found, shape):
    transformers = pytest.importorskip("transformers")
    folder, wanted = found["dir"] / shape, torch.load(found["dir"] / f"{shape}.pt")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["config.json", "manifest.sha256", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    model = load_model(folder)
    for name, t in model.state_dict().items():
        assert t.dtype == wanted[name].dtype and torch.equal(t, wanted[name]), name
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True,
        dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens, model = torch.arange(20)[None], load_model(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(tokens).logits, model(tokens), rtol=0, atol=1e-4)


def test_every_rank_reads_its_rows_of_every_checkpoint(found):
    assert all(all(rank.values()) for rank in found["files"]), found["files"]


# ------------------------------------------------------------------------------------------------ the scripts

RUN = ["--shard", "true", "--device", "cpu:2"]
SFT = ["sft.py", "--config", "tiny_dense", "--batch_size", "8", "--save_every", "2", *RUN]


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_with_one_process_it_is_refused(name, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    module = sys.modules[name]
    for device in ("cpu", "cpu:1", "cuda"):
        with pytest.raises(UserError, match="--shard true .* this run has one"):
            module.check(module.Config(shard=True, device=device))
    module.check(module.Config(shard=True, device="cpu:2"))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the other process in /proc")
def test_a_killed_rank_ends_the_run_with_one_message_and_the_same_command_resumes(tmp_path):
    command = [sys.executable, *SFT, "--steps", "24", "--out", str(tmp_path)]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "state").exists() and time.monotonic() < until:
        time.sleep(0.1)
    helper = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()[0]
    os.kill(int(helper), 9)
    begin = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - begin < 30 and run.returncode == 1
    assert said.count("error") == 1 and said.endswith("error: process 1 of 2 ended (signal 9)\n"), said
    assert "Traceback" not in said
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0 and load_model(tmp_path).cfg.hidden_size == 96, done.stderr
    logged = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, 25)) and not (tmp_path / "state").exists()


def test_grpo_samples_trains_stops_and_resumes(tmp_path):
    """With a reference that is replaced; by torchrun, and stopped by a signal behind the first step."""
    tok, base = shipped(), tmp_path / "base"
    save_model(Transformer(ModelConfig(**SHAPES["moe_mla"], eos_token_id=tok.eos_id)).init_weights(), base)
    (tmp_path / "r.py").write_text("""
import os, signal
calls = []
def noise(completions, **_):
    calls.append(1)
    if len(calls) == 2 and os.environ.get("STOP") and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return [sum(map(ord, c)) % 7 / 7 for c in completions]
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "grpo.py", "--init",
        base, "--task", TASK, "--steps", "3", "--prompts", "3", "--group_size", "2", "--max_new_tokens", "6",
        "--eval_problems", "2", "--reward", f"{tmp_path}/r.py:noise", "--reward_weights", "noise=1",
        "--kl_coef", "0.1", "--ref_every", "1", "--lr", "1e-3", "--optimizer", "muon", "--top_p", "0.9",
        "--importance", "mask", "--shard", "true", "--device", "cpu"]
    logs = []
    for out, stops in (("whole", [""]), ("parts", ["1", ""])):
        for stop in stops:
            done = subprocess.run(list(map(str, [*command, "--out", tmp_path / out])), cwd=ROOT, timeout=200,
                capture_output=True, text=True, env=os.environ | {"STOP": stop})
            assert bool(done.returncode) == bool(stop), done.stderr
            assert not stop or (tmp_path / out / "state/state.pt").exists(), done.stdout + done.stderr
        rows = map(json.loads, (tmp_path / out / "metrics.jsonl").read_text().splitlines())
        logs.append([{k: r[k] for k in ("loss", "kl", "grad_norm", "reward")} for r in rows
            if r["kind"] == "train"])
    assert len(logs[0]) == 3 and logs[0] == logs[1]
    models = [load_model(tmp_path / out).state_dict() for out in ("whole", "parts")]
    assert all(torch.equal(t, models[1][name]) for name, t in models[0].items())


if __name__ == "__main__":
    run_script(main)
