"""Speed and memory, against transformers and TRL on the same weights and the same work.

    python bench/bench.py                            # 1 thread, both sides (--sides ours: without peers)
    python bench/bench.py --work rollout_tiny,step_tiny --threads 2 --runs 5 --json bench.json
    python bench/bench.py --work train_tiny --profile      # the five costliest operations of our side
    python bench/bench.py --work scaling             # our side over length, rows, experts, vocabulary
    python bench/bench.py --work saving --threads 2  # what the state's saves cost a run that trains on
    python bench/bench.py --work memory [--init DIR]       # what fits where: predicted, nothing is run
    python bench/bench.py --work memory_measured --threads 2     # the prediction against GRPO steps
                                                                 # (also --lora_rank R, --shards N)
    python bench/bench.py --device cuda --all        # on a GPU: its tests, its measurements, docs/gpu.md

Each measurement is a fresh process with a warm-up; the two sides take turns; the table shows medians. Both
sides keep freed memory and flush denormals. `--threads N`: ours runs N processes of one thread (`--device
cpu:N`; the works of SmolLM2 run in one with N threads), theirs one process with N threads. `--device cuda`:
one GPU for both, in bfloat16 but for tiny.
"of limit" is the time that the work needs at least, at this machine's own matmul rate and memory bandwidth
(whichever is longer), over the time that it took.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away
sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

import torch

import sample
import sft
from batch import (
    GIB,
    Decoding,
    Memory,
    Sample,
    activation_bytes,
    collate,
    completion_logprobs,
    predicted,
    rows_pass,
    shared_pass,
)
from checkpoint import Saver, load_model, save_model
from config import (
    PRESETS,
    ModelConfig,
    UserError,
    closest,
    knob,
    parse_args,
    read_config,
    read_json,
    run_script,
)
from data.tasks import training_rows
from data.tokenizer import for_checkpoint, shipped
from grpo import RECIPES, group_advantages, update
from grpo import Config as Grpo
from kernels import token_logprobs
from lora import Lora, attach
from model import Transformer
from optim import keep_masters, make_optimizers
from parallel import (
    Ranks,
    gather,
    gathered,
    give_back_memory,
    micro_batches,
    put_rows,
    setup,
    shard_model,
)
from sample import generate


@dataclass
class Config:
    work: str = knob("rollout_tiny,train_tiny,step_tiny",
        "comma-separated; or scaling, saving, memory or memory_measured")
    init: str = knob("", "for --work memory: a checkpoint folder; empty = released models")
    lora_rank: int = knob(0, "ours trains adapters of this rank; 0 = all weights, and 16 in --work memory")
    shards: int = knob(1, "processes that hold the model together, in --work memory_measured")
    device: str = knob("cpu", "cpu or cuda, for both sides")
    threads: int = knob(1, "CPU cores for each side")
    runs: int = knob(5, "measurements of each side, in turn")
    sides: str = knob("ours,theirs", "ours, theirs, or both")
    from_: str = knob("out/tiny/grpo", "a trained checkpoint, for the works whose lengths are its own")
    micro: int = knob(0, "rows per forward/backward pass of both sides; 0 = each side's best")
    json: str = knob("", "also write every measurement to this file")
    graphs: bool = knob(True, "on cuda, decode by CUDA graphs")
    all: bool = knob(False, "on cuda: the tests that need a GPU, the measurements that fit it, docs/gpu.md")
    profile: bool = knob(False, "profile our side instead")
    once: str = knob("", "internal: the one side that this process measures")


SMALL, LARGE = (dict(PRESETS[name], vocab_size=32_000) for name in ("small", "base1b"))
SMOLLM2 = dict(model_type="llama", vocab_size=49_152, hidden_size=576, intermediate_size=1536,
    num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, rope_theta=1e5, rms_norm_eps=1e-5,
    max_position_embeddings=8192, tie_word_embeddings=True)  # SmolLM2-135M
QWEN2_5_1_5B = dict(model_type="qwen2", vocab_size=151_936, hidden_size=1536, intermediate_size=8960,
    num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, rope_theta=1e6, rms_norm_eps=1e-6,
    max_position_embeddings=131_072, tie_word_embeddings=True)  # Qwen/Qwen2.5-1.5B, its config.json
MOONLIGHT = dict(model_type="deepseek_v3", vocab_size=163_840, hidden_size=2048, intermediate_size=11_264,
    moe_intermediate_size=1408, num_hidden_layers=27, num_attention_heads=16, n_shared_experts=2,
    n_routed_experts=64, num_experts_per_tok=6, routed_scaling_factor=2.446, kv_lora_rank=512,
    qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rope_theta=5e4, rms_norm_eps=1e-5,
    max_position_embeddings=8192)  # moonshotai/Moonlight-16B-A3B, its config.json


class Work(NamedTuple):
    """One job: a model shape and its sizes."""

    kind: str
    shape: dict | None  # None: a trained checkpoint on its own task
    P: int  # prompts
    G: int  # samples of each
    S: int  # tokens of a prompt
    T: int  # new tokens
    ours: int  # rows per forward/backward pass
    theirs: int
    one_process: bool = False  # ours, too: a process more would read all weights once more


WORKS = {  # prompts, samples, prompt tokens, new tokens; rows per pass of ours and theirs
    "rollout_tiny": Work("rollout", PRESETS["tiny"], 32, 8, 32, 128, 0, 0),
    "rollout_gqa": Work("rollout", PRESETS["tiny_gqa"], 32, 8, 32, 128, 0, 0),
    "train_gqa": Work("train", PRESETS["tiny_gqa"], 32, 8, 32, 128, 16, 32),
    "rollout_small": Work("rollout", SMALL, 2, 8, 64, 64, 0, 0),
    "rollout_stop": Work("rollout", None, 64, 8, 0, 512, 0, 0),
    "train_tiny": Work("train", PRESETS["tiny"], 32, 8, 32, 128, 16, 32),
    "train_small": Work("train", SMALL, 2, 8, 64, 192, 2, 4),
    "train_4k": Work("train", dict(PRESETS["tiny"], vocab_size=4_096), 8, 8, 32, 128, 16, 16),
    "train_32k": Work("train", dict(PRESETS["tiny"], vocab_size=32_768), 8, 8, 32, 128, 16, 16),
    "train_128k": Work("train", dict(PRESETS["tiny"], vocab_size=131_072), 8, 8, 32, 128, 16, 16),
    "step_tiny": Work("step", PRESETS["tiny"], 32, 8, 32, 128, 16, 32),
    "step_small": Work("step", SMALL, 2, 8, 64, 192, 2, 4),
    "step_stop": Work("step", None, 32, 8, 0, 320, 16, 32),
    "rollout_smollm2": Work("rollout", SMOLLM2, 8, 8, 48, 48, 0, 0, True),
    "rollout_stop64": Work("rollout", None, 8, 8, 0, 48, 0, 0, True),  # --from out/smollm2/grpo
    "train_smollm2": Work("train", SMOLLM2, 4, 8, 48, 48, 16, 16, True),
    "pass_smollm2": Work("pass", SMOLLM2, 4, 8, 48, 48, 16, 16, True),  # of GRPO: a group shares its prompt
}
GPU = {"1b": LARGE, "54m": SMALL}  # the largest that fits is measured by --all
for _size, _shape in GPU.items():
    WORKS |= {f"rollout_{_size}": Work("rollout", _shape, 32, 8, 128, 256, 0, 0),
        f"train_{_size}": Work("train", _shape, 8, 8, 128, 384, 16, 8),
        f"step_{_size}": Work("step", _shape, 8, 8, 128, 384, 16, 8)}
WORKS |= {"step_qwen1b": Work("step", QWEN2_5_1_5B, 8, 8, 128, 384, 16, 8),
    "rollout_moonlight": Work("rollout", MOONLIGHT, 32, 8, 128, 256, 0, 0),
    "step_moonlight": Work("step", MOONLIGHT, 8, 8, 128, 384, 8, 4)}  # on one card with LoRA only
LARGE_SHAPES = LARGE, SMALL, QWEN2_5_1_5B, MOONLIGHT  # on a GPU in bfloat16


# ------------------------------------------------------------------------------------------- the two sides


def random_model(shape: dict, device: str, dtype: torch.dtype) -> Transformer:
    """Random weights, made where they are used: 16 B numbers take minutes on a CPU, and twice the memory in
    float32."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Transformer(ModelConfig(**shape)).init_weights(0)
    finally:
        torch.set_default_dtype(torch.float32)
    for router in model.routers():
        router.float()  # in every model
    return model


def build(work: Work, folder: str, device: str = "cpu") -> tuple[Transformer, list[list[int]], int | None]:
    """The model, the prompts and the end token: random weights that never stop, or a trained checkpoint on
    its task."""
    if work.shape is not None:
        large = work.shape in LARGE_SHAPES and device != "cpu"
        model = random_model(work.shape, device, torch.bfloat16 if large else torch.float32)
        g = torch.Generator().manual_seed(0)
        prompts = torch.randint(10, 500, (work.P, work.S), generator=g).tolist()
        return model, prompts, None
    run = Path(folder, "run.json")
    task = read_json(run)["task"] if run.exists() else RECIPES["tiny"]["task"]
    tokenizer, rows = for_checkpoint(folder), training_rows(task, 0, hold_out=True)
    prompts = [tokenizer.encode_row(rows(i)) for i in range(work.P)]
    return load_model(folder, device), prompts, tokenizer.eos_id


def rows_of(prompts, out, group_size: int) -> list[Sample]:
    """A rollout's rows with rewards that differ within a group, as the update wants them."""
    rewards = torch.tensor([float(sum(c) % 3) for c in out.completions])
    advantages = group_advantages(rewards, group_size).tolist()
    return [
        Sample(prompts[i // group_size] + c, len(prompts[i // group_size]), lp, True, None, {}, 0, a)
        for i, (c, lp, a) in enumerate(zip(out.completions, out.logprobs, advantages, strict=True))
    ]


def ours(work: Work, model, prompts, eos, ranks: Ranks, micro: int) -> Callable[[int, int], int]:
    """job(number of prompts, new tokens) -> tokens generated or trained, over all ranks."""
    trained = keep_masters(model) if work.kind != "rollout" else model.parameters()
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    tokenizer = shipped()

    def rollout(count, new):
        mine = ranks.share(list(range(count)))
        out = generate(
            model,
            [prompts[i] for i in mine],
            group_size=work.G,
            max_new_tokens=new,
            eos_id=eos,
            seed=1,
            prompt_ids=mine,
        )
        return mine, out

    def job(count, new):
        if work.kind == "train":
            tokens = torch.tensor(prompts[:count], device=ranks.device).repeat_interleave(work.G, 0)
            tokens = torch.cat([tokens, tokens.repeat(1, 9)[:, :new]], 1)
            for rows in micro_batches(ranks, [tokens.shape[1]] * len(tokens), micro * tokens.shape[1]):
                hidden, targets = model.hidden(tokens[rows][:, :-1]), tokens[rows][:, 1:]
                logprobs, _ = token_logprobs(hidden, model.lm_head.weight, targets)
                logprobs.sum().backward()
            model.zero_grad(set_to_none=False)
            return tokens.numel()
        if work.kind == "pass":
            rows = [Sample(p + (p * 9)[:new], len(p), [0.0] * new, True, None, {}, 0)
                for p in prompts[:count] for _ in range(work.G)]
            shared = [(tuple(s.tokens[: s.start]), s.start) for s in rows]
            longest = max(len(s.tokens) for s in rows)
            for part in micro_batches(ranks, [len(s.tokens) for s in rows], micro * longest, shared):
                batch = collate([rows[i] for i in part], 0, ranks.device)
                completion_logprobs(model, batch, 1.0)[0].sum().backward()
            model.zero_grad(set_to_none=False)
            return len(rows) * new
        mine, out = rollout(count, new)
        if work.kind == "step":
            samples = rows_of([prompts[i] for i in mine], out, work.G)
            samples = [s for part in gather(ranks, samples) for s in part]
            longest = max(len(s.tokens) for s in samples)
            cfg = Grpo(kl_coef=0.0, updates=1, micro_tokens=micro * longest, max_new_tokens=new)
            update(model, None, [optimizer], samples, 0, cfg, tokenizer, ranks)
        return sum(gather(ranks, sum(map(len, out.completions))))

    return job


def theirs(work: Work, model, prompts, eos, micro: int) -> Callable[[int, int], int]:
    """The same jobs by transformers' model, generate, and TRL's GRPOTrainer."""
    import transformers

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        weight = model.lm_head.weight
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=weight.dtype).to(weight.device)
    if work.kind == "step":
        return trl_steps(work, peer, prompts, eos, micro)
    pad = 0 if eos != 0 else 1  # no end token, so that what was generated can be counted

    def job(count, new):
        longest = max(map(len, prompts[:count]))
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts[:count]]).repeat_interleave(
            work.G, 0
        )
        there = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts[:count]])
        there, ids = there.repeat_interleave(work.G, 0).to(peer.device), ids.to(peer.device)
        if work.kind == "rollout":
            out = peer.generate(
                ids,
                attention_mask=there,
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                eos_token_id=eos,
                pad_token_id=pad,
                min_new_tokens=new if eos is None else None,
            )[:, longest:]
            return int((out != pad).sum()) if eos is not None else out.numel()
        tokens = torch.cat([ids, ids.repeat(1, 9)[:, :new]], 1)
        kept = new if work.kind == "pass" else tokens.shape[1] - 1  # of GRPO: only the completions' logits
        for part in tokens.split(micro):
            logits = peer(part[:, :-1], logits_to_keep=kept).logits
            logp = logits.log_softmax(-1).gather(2, part[:, -kept:, None])
            logp.sum().backward()
        peer.zero_grad()
        return len(tokens) * (new if work.kind == "pass" else tokens.shape[1])

    return job


def trl_steps(work: Work, peer, prompts, eos, micro: int) -> Callable[[int, int], int]:
    """One GRPOTrainer step per call: its tokenizer knows token numbers as words."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    size, count = peer.config.vocab_size, work.P * work.G
    words = Tokenizer(models.WordLevel({str(i): i for i in range(size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end, pad = (size - 1, size - 2) if eos is None else (eos, shipped().pad_id)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=str(end), pad_token=str(pad))
    rows = [{"prompt": " ".join(map(str, p))} for p in prompts]
    made = []

    def reward(completion_ids, **_):
        made.append(sum(map(len, completion_ids)))
        return [float(sum(c) % 3) for c in completion_ids]

    def job(prompts_asked, new):
        if prompts_asked < work.P:
            return 0  # a trainer steps over whole batches; its first one warms up nothing that lasts
        made.clear()
        args = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=micro,
            beta=0.0,
            top_k=0,
            gradient_accumulation_steps=count // micro,
            num_generations=work.G,
            max_completion_length=new,
            learning_rate=1e-6,
            max_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=peer.device.type == "cpu",
            bf16=peer.dtype == torch.bfloat16,
            disable_tqdm=True,
            gradient_checkpointing=False,
            generation_kwargs={"min_new_tokens": new} if eos is None else {},
        )
        trainer = GRPOTrainer(
            model=peer,
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        clock = time.perf_counter(), time.process_time()
        trainer.train()
        job.clock = time.perf_counter() - clock[0], time.process_time() - clock[1]
        return sum(made)

    return job


# ------------------------------------------------------------------------------------------- measuring


def flops_per_token(cfg: ModelConfig, context: float, decode: bool) -> float:
    """Floating-point operations of one token's forward pass: two per active weight and attended number."""
    with torch.device("meta"):
        active = Transformer(cfg).num_parameters()[1]
    embedding = 0 if cfg.tie_word_embeddings else cfg.vocab_size * cfg.hidden_size
    if cfg.family.attention == "gqa":
        width = 2 * cfg.head_dim
    elif decode:
        width = 2 * cfg.kv_lora_rank + cfg.qk_rope_head_dim
    else:
        width = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim + cfg.v_head_dim
    return 2 * (active - embedding + cfg.num_hidden_layers * cfg.num_attention_heads * width * context)


def bytes_read(model: Transformer, work: Work, new: float) -> float:
    """What a rollout of `new` tokens per row reads at least: all weights once per step (its rows choose all
    experts), each prompt's latents once per step, each row's own once."""
    cfg, weight = model.cfg, model.lm_head.weight
    per_token = cfg.num_hidden_layers * cfg.cached_per_token * weight.element_size()
    embedding = 0 if cfg.tie_word_embeddings else weight.nbytes
    latents = work.P * (work.S + work.G * new / 2) * per_token
    return new * (sum(p.nbytes for p in model.parameters()) - embedding + latents)


def best_time(job: Callable, device: str) -> float:
    """Seconds of the fastest of ten runs."""
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        job()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def limits(cfg: Config) -> dict[str, float]:
    """This machine's matmul rate, FLOP/s, and the rate at which it reads memory, byte/s."""
    torch.set_num_threads(cfg.threads)
    n, dtype = (1024, torch.float32) if cfg.device == "cpu" else (8192, torch.bfloat16)
    a = torch.randn(n, n, device=cfg.device, dtype=dtype)
    data = torch.randn(1 << (26 if cfg.device == "cpu" else 29), device=cfg.device)
    return {"matmul": 2 * n**3 / best_time(lambda: a @ a, cfg.device),
        "read": data.nbytes / best_time(data.sum, cfg.device)}


def wait(device: str):
    if device != "cpu":
        torch.cuda.synchronize()


def measure(cfg: Config) -> dict:
    """One side of one work in this process: a warm-up, then the work."""
    work = WORKS[cfg.work]
    several = (cfg.once, cfg.device) == ("ours", "cpu") and not work.one_process
    ranks = setup(f"cpu:{cfg.threads}" if several else cfg.device)
    if not several:
        torch.set_num_threads(cfg.threads)
    sample.CUDA_GRAPHS = cfg.graphs
    model, prompts, eos = build(work, cfg.from_, ranks.device)
    micro = cfg.micro or getattr(work, cfg.once)
    if cfg.lora_rank:
        attach(model, Lora(cfg.lora_rank, 32.0))
    if cfg.once == "ours":
        job = ours(work, model, prompts, eos, ranks, micro)
    else:
        job = theirs(work, model, prompts, eos, micro)
        for p in model.parameters():  # the peer has a copy: ours would count as its memory
            p.untyped_storage().resize_(0)
    before = peak_mib(cfg.device)
    job(max(2, ranks.world), 8)
    gather(ranks, None)
    wait(cfg.device)
    start, cpu = time.perf_counter(), time.process_time()
    tokens = job(work.P, work.T)
    wait(cfg.device)
    seconds, cpu = getattr(job, "clock", (time.perf_counter() - start, time.process_time() - cpu))
    peaks = gather(ranks, (peak_mib(cfg.device), cpu))
    out = {"work": cfg.work, "side": cfg.once, "threads": cfg.threads, "device": cfg.device, "tokens": tokens,
        "seconds": seconds, "cpu_seconds": sum(c for _, c in peaks), "peak_mib": sum(p for p, _ in peaks),
        "start_mib": before, "weights_mib": sum(p.nbytes for p in model.parameters()) / 2**20}
    mean = tokens / (work.P * work.G)
    if work.kind == "rollout":
        out["gflop"] = tokens * flops_per_token(model.cfg, work.S + mean / 2, True) / 1e9
        out["gbyte"] = bytes_read(model, work, mean) / 1e9
    elif work.kind == "train":
        out["gflop"] = tokens * 3 * flops_per_token(model.cfg, mean / 2, False) / 1e9
    return out


def peak_mib(device: str = "cpu") -> float:
    """The most memory that this process has held, or its tensors on the GPU. Not ru_maxrss on Linux: that
    begins with the parent's."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def run_once(cfg: Config, work: str, side: str) -> dict:
    """A measurement in a fresh process."""
    options = {"work": work, "threads": cfg.threads, "from": cfg.from_, "micro": cfg.micro, "once": side,
        "device": cfg.device, "graphs": cfg.graphs, "lora_rank": cfg.lora_rank, "shards": cfg.shards,
        "sides": side}
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{work}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def share_of_limit(row: dict, seconds: float, rates: dict[str, float]) -> str:
    if "gflop" not in row:
        return "-"
    return f"{1e9 * max(row['gflop'] / rates['matmul'], row.get('gbyte', 0) / rates['read']) / seconds:.0%}"


def table(rows: list[dict], rates: dict[str, float]) -> str:
    lines = [
        f"{'work':<14} {'side':<7} {'seconds':>8} {'tokens/s':>9} {'per CPU s':>9} "
        f"{'of limit':>8} {'peak MiB':>8}"
    ]
    for work in dict.fromkeys(r["work"] for r in rows):
        mid = {}
        for side in ("ours", "theirs"):
            mine = [r for r in rows if (r["work"], r["side"]) == (work, side)]
            if not mine:
                continue
            s = mid[side] = {
                k: median(r[k] for r in mine) for k in ("seconds", "cpu_seconds", "peak_mib", "tokens")
            }
            limit = share_of_limit(mine[0], s["seconds"], rates)
            lines.append(
                f"{work:<14} {side:<7} {s['seconds']:>8.2f} {s['tokens'] / s['seconds']:>9,.0f} "
                f"{s['tokens'] / s['cpu_seconds']:>9,.0f} {limit:>8} {s['peak_mib']:>8,.0f}"
            )
        if len(mid) == 2:
            a, b = mid["ours"], mid["theirs"]
            faster = a["tokens"] / a["seconds"] / (b["tokens"] / b["seconds"])
            lines.append(
                f"{work:<14} ratio   {faster:>7.1f}x faster, {a['peak_mib'] / b['peak_mib']:.2f} of memory"
            )
    return "\n".join(lines)


def timed(job, *args) -> float:
    start = time.perf_counter()
    job(*args)
    return time.perf_counter() - start


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """The slope of log seconds over log size, by least squares."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (sizes, seconds))
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def scaling(cfg: Config):
    """How our side grows: time over generated length, rows, trained rows and experts, with the fitted
    exponents; memory of training over the vocabulary, without weights and their gradients."""
    ranks = setup("cpu:1")
    base = WORKS["rollout_tiny"]

    def job(kind, **shape):
        work = Work(kind, PRESETS["tiny"] | shape, base.P, base.G, base.S, base.T, 16, 0)
        return ours(work, *build(work, ""), ranks, 16)

    def line(what, sizes, seconds):
        shown = "  ".join(f"{n}: {s:.2f} s" for n, s in zip(sizes, seconds, strict=True))
        print(f"{what:<34} {shown}   exponent {exponent(sizes, seconds):.2f}", flush=True)

    decode, train = job("rollout"), job("train")
    decode(4, 8), train(4, 8)
    lengths = [64, 128, 256, 512]
    line("rollout over generated length", lengths, [timed(decode, 32, n) for n in lengths])
    prompts = [4, 8, 16, 32]
    line("rollout over prompts (x 8)", prompts, [timed(decode, n, 64) for n in prompts])
    line("training over prompts (x 8 x 160)", prompts, [timed(train, n, 128) for n in prompts])
    experts = [8, 16, 32, 64]
    seconds = [timed(job("train", n_routed_experts=n), 8, 128) for n in experts]
    line("training over experts (2 per token)", experts, seconds)
    for size in ("4k", "32k", "128k"):
        r = run_once(cfg, f"train_{size}", "ours")
        rest = r["peak_mib"] - r["start_mib"] - r["weights_mib"]
        print(f"training, vocabulary {size:<5}: {rest:.0f} MiB beside weights and gradients", flush=True)


# The shapes of released models (their config.json; Moonlight: arXiv 2502.16982).
def _dense(kind: str, D: int, width: int, layers: int, H: int, M: int, V: int, tied: bool = True) -> dict:
    return dict(model_type=kind, hidden_size=D, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=H, num_key_value_heads=M, vocab_size=V, tie_word_embeddings=tied,
        max_position_embeddings=32_768)


V2_LITE = {  # DeepSeek-V2-Lite (arXiv 2405.04434, appendix B)
    "model_type": "deepseek_v2", "scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": False,
    "vocab_size": 102_400, "hidden_size": 2048, "intermediate_size": 10_944, "moe_intermediate_size": 1408,
    "num_hidden_layers": 27, "num_attention_heads": 16, "n_routed_experts": 64, "num_experts_per_tok": 6,
    "n_shared_experts": 2, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "max_position_embeddings": 32_768}
RELEASED = {"SmolLM2-135M": SMOLLM2, "Qwen2.5-0.5B": _dense("qwen2", 896, 4864, 24, 14, 2, 151_936),
    "Llama-3.2-1B": _dense("llama", 2048, 8192, 16, 32, 8, 128_256),
    "Qwen2.5-1.5B": _dense("qwen2", 1536, 8960, 28, 12, 2, 151_936),
    "R1-Distill-Qwen-1.5B": _dense("qwen2", 1536, 8960, 28, 12, 2, 151_936, tied=False),
    "Qwen2.5-3B": _dense("qwen2", 2048, 11_008, 36, 16, 2, 151_936),
    "R1-Distill-Qwen-7B": _dense("qwen2", 3584, 18_944, 28, 28, 4, 152_064, tied=False),
    "DeepSeek-V2-Lite": V2_LITE, "Moonlight-16B-A3B": MOONLIGHT}
CARDS = (8, 16, 24, 48, 80, 141)  # GB, of 10**9 bytes
RUN = dict(prompts=8, group=8, prompt=256, new=768, micro_tokens=4096)  # what the table assumes


def run_memory(cfg: ModelConfig, dtype: torch.dtype, device: str, prompts: int, group: int, prompt: int,
        new: int, micro_tokens: int, **settings) -> Memory:
    """Prediction for GRPO steps of these sizes, one update each, dealt out to settings["world"] processes."""
    mine = math.ceil(prompts / settings.get("world", 1)) * group
    rows = min(mine, sample.rows_at_once(cfg, new, dtype, device))
    return predicted(cfg, shared_pass(micro_tokens, prompt, new, group, mine),
        Decoding(rows, math.ceil(rows / group), prompt, new), dtype=dtype, device=device, **settings)


def smallest_card(needed: float) -> str:
    """Of CARDS, with a twentieth left for what the allocator cannot use and CUDA itself takes."""
    return next((f"{card} GB" for card in CARDS if needed <= 0.95e9 * card), "more")


def memory_table(shapes: dict[str, ModelConfig], rank: int) -> str:
    """What fits where, in GiB per card: GRPO in bfloat16 on a GPU."""
    rows = [["", "parameters", "weights", "gradients, optimizer, masters", f"the same, LoRA {rank}",
        "cache, 1k tokens", "activations, 1k tokens", "full", f"LoRA, rank {rank}", "full, over 2",
        "full, over 8"]]
    for name, cfg in shapes.items():
        modes = [run_memory(cfg, torch.bfloat16, "cuda", **RUN, **mode) for mode in
            ({}, {"lora_rank": rank}, {"world": 2, "shards": 2}, {"world": 8, "shards": 8})]
        trained = [sum(m.held.values()) - m.held["weights"] for m in modes[:2]]
        cache = 2000 * cfg.num_hidden_layers * cfg.cached_per_token
        kept = activation_bytes(cfg, rows_pass(1000, 1000), torch.bfloat16, "cuda")
        cells = [modes[0].held["weights"], *trained, cache, kept]
        rows.append([name, f"{modes[0].held['weights'] / 2e9:.3g} B", *(f"{n / GIB:.3g}" for n in cells),
            *(f"{m.peak / GIB:.3g} ({smallest_card(m.peak)})" for m in modes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def memory(cfg: Config):
    """--work memory: the table of released models, or of the one in --init."""
    shapes = {cfg.init: read_config(cfg.init)[0]} if cfg.init else {
        name: ModelConfig(**shape) for name, shape in RELEASED.items()}
    print("GiB on each card, bfloat16, AdamW, no KL reference (it adds the weights once more, not to LoRA); "
        "{prompts} x {group} rows of {prompt} + {new} tokens, micro_tokens {micro_tokens}\n".format(**RUN))
    print(memory_table(shapes, cfg.lora_rank or 16))


MEASURED = {  # shape, dtype, what is run: one GRPO step on random weights, on a CPU
    "smollm2": (SMOLLM2, torch.float32, dict(prompts=8, group=8, prompt=48, new=48, micro_tokens=1536)),
    "smollm2_bf16": (SMOLLM2, torch.bfloat16, dict(prompts=4, group=8, prompt=48, new=48, micro_tokens=1536)),
    "360m": (_dense("llama", 960, 2560, 32, 15, 5, 49_152), torch.float32,
        dict(prompts=4, group=8, prompt=48, new=48, micro_tokens=1536)),  # SmolLM2-360M
    "qwen_0.5b": (RELEASED["Qwen2.5-0.5B"], torch.float32,
        dict(prompts=1, group=8, prompt=64, new=48, micro_tokens=896)),
    "llama_1b": (RELEASED["Llama-3.2-1B"], torch.bfloat16,
        dict(prompts=1, group=8, prompt=64, new=32, micro_tokens=768))}


def random_trained(shape: ModelConfig, dtype: torch.dtype, rank: int, ranks: Ranks, split: bool):
    """Random weights, adapters of that rank beside them if it is not 0; split over the ranks, or whole."""
    with torch.device("meta"):
        model = Transformer(shape).to(dtype)
    if split:
        if rank:
            attach(model, Lora(rank, 32.0), device="cpu")
        return shard_model(model, ranks).init_weights(0, put_rows, "cpu")
    model = model.to_empty(device="cpu")
    if shape.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.init_weights(0)
    if rank:
        attach(model, Lora(rank, 32.0))
    return model


def measured_memory(cfg: Config) -> dict:
    """In this process, or with --shards in so many: two GRPO steps on random weights; MiB of the second one's
    phases, of the process that has most, and predicted."""
    shape, dtype, run = MEASURED[cfg.once]
    ranks, shape = setup(f"cpu:{cfg.shards}"), ModelConfig(**shape)
    torch.set_num_threads(max(1, cfg.threads // ranks.world))
    model = random_trained(shape, dtype, cfg.lora_rank, ranks, cfg.shards > 1)
    optimizer = torch.optim.AdamW(keep_masters(model), lr=1e-6, fused=True)
    g = torch.Generator().manual_seed(0)
    prompts = ranks.share(torch.randint(10, 500, (run["prompts"], run["prompt"]), generator=g).tolist())
    settings = Grpo(kl_coef=0.0, updates=1, micro_tokens=run["micro_tokens"], max_new_tokens=run["new"])
    peaks = {}
    for step in range(2):
        give_back_memory()
        new_peak()
        with gathered(model) as sampler:
            out = generate(sampler, prompts, group_size=run["group"], max_new_tokens=run["new"], eos_id=None)
        peaks["rollout"] = peak_mib()
        samples = [s for part in gather(ranks, rows_of(prompts, out, run["group"])) for s in part]
        give_back_memory()
        new_peak()
        update(model, None, [optimizer], samples, step, settings, shipped(), ranks)
        peaks["pass"] = peak_mib()
    everyone = gather(ranks, peaks)
    said = run_memory(shape, dtype, "cpu", **run, lora_rank=cfg.lora_rank, world=ranks.world,
        shards=cfg.shards)
    return {"work": cfg.once, "measured": {name: max(p[name] for p in everyone) for name in peaks},
        "predicted": {name: said.phase(name) / 2**20 for name in peaks},
        "parts": {k: round(v / 2**20) for k, v in said.held.items()} | {name: {k: round(v / 2**20)
            for k, v in said.phases[name].items()} for name in peaks}}


def new_peak():
    """Forget the peak so far (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(cfg: Config):
    """--work memory_measured[:NAME,NAME]: each shape in a fresh process."""
    names = cfg.work.partition(":")[2] or "smollm2,smollm2_bf16,360m"
    print("| | rollout, MiB | predicted | pass and step, MiB | predicted | peak, of predicted |\n|"
        + "---|" * 6)
    for name in names.split(","):
        row = run_once(cfg, "memory_measured", name)
        cells = [row[side][phase] for phase in ("rollout", "pass") for side in ("measured", "predicted")]
        peak, said = (max(row[side].values()) for side in ("measured", "predicted"))
        print(f"| {name} | " + " | ".join(f"{n:,.0f}" for n in cells) + f" | {peak / said:.2f} |", flush=True)
        if cfg.profile:
            print(row["parts"])


def gpu_plan(free: float) -> tuple[str, int]:
    """(size, rows per pass) of the largest model of GPU whose training fits into `free` bytes: as many rows
    of 512 tokens as fit."""
    for size, shape in GPU.items():
        for rows in (16, 8, 4, 2, 1):
            said = run_memory(ModelConfig(**shape), torch.bfloat16, "cuda", prompts=8, group=8, prompt=128,
                new=384, micro_tokens=512 * rows)
            if said.peak <= 0.95 * free:
                return size, rows
    raise UserError(f"--all: {free / 2**30:.1f} GiB of GPU memory are free: too little for any model")


def gpu_page(head: dict[str, str], tests: str, rows: list[dict], failures: list[str], rates: dict) -> str:
    """docs/gpu.md: where it ran, what the tests said, the table; a side that failed has its own line."""
    lines = ["# On a GPU", "", *(f"- {key}: {value}" for key, value in head.items()),
        f"- tests that need a GPU: {tests}",
        f"- matmul {rates['matmul'] / 1e12:,.0f} TFLOP/s in bfloat16, memory {rates['read'] / 1e9:,.0f} GB/s",
        "", "```", table(rows, rates), "```", "", *(f"- failed: {line}" for line in failures)]
    return "\n".join(lines).rstrip() + "\n"


def everything(cfg: Config):
    """--all: whatever an hour on a GPU can answer, written to docs/gpu.md. Exits with 1 if something
    failed."""
    root = Path(__file__).parent.parent
    size, micro = gpu_plan(torch.cuda.mem_get_info()[0])
    cfg.micro = cfg.micro or micro
    done = subprocess.run([sys.executable, "-m", "pytest", "tests/test_cuda.py"], cwd=root,
        capture_output=True, text=True)
    print(done.stdout)
    tests = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()
    rates = limits(cfg)
    torch.cuda.empty_cache()  # the measurements are other processes
    rows, failures = [], []
    for _ in range(cfg.runs):
        for kind, side, graphs in [("rollout", "ours", True), ("rollout", "theirs", True),
                ("rollout", "ours", False), ("train", "ours", True), ("train", "theirs", True),
                ("step", "ours", True), ("step", "theirs", True)]:
            if side not in cfg.sides.split(","):
                continue
            cfg.graphs, name = graphs, f"{kind}_{size}"
            try:
                row = run_once(cfg, name, side)
                rows.append(row if graphs else row | {"work": "no_graphs"})
            except UserError as error:  # a peer that does not fit is a result, too; it goes onto the page
                failures.append(str(error))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True,
        text=True).stdout.strip()
    card = torch.cuda.get_device_properties(0)
    head = {"card": f"{card.name}, {card.total_memory / 2**30:.0f} GiB", "date": time.strftime("%Y-%m-%d"),
        "commit": commit, "command": f"python bench/bench.py --device cuda --all (--runs {cfg.runs})",
        "torch": torch.__version__, "model": f"{size}, bfloat16, {cfg.micro} rows per pass"}
    page = gpu_page(head, tests, rows, sorted(set(failures)), rates)
    (root / "docs" / "gpu.md").write_text(page, encoding="utf-8")
    print(page)
    if failures or done.returncode:
        sys.exit(1)


def profile(cfg: Config):
    """The five costliest operations of our side."""
    for name in cfg.work.split(","):
        work = WORKS[name]
        ranks = setup("cpu:1")
        model, prompts, eos = build(work, cfg.from_)
        job = ours(work, model, prompts, eos, ranks, cfg.micro or work.ours)
        job(2, 8)
        with torch.profiler.profile() as p:
            job(work.P, work.T)
        top = sorted(p.key_averages(), key=lambda e: -e.self_cpu_time_total)
        total = sum(e.self_cpu_time_total for e in top)
        print(f"{name}: {total / 1e6:.2f} s in operations")
        for e in top[:5]:
            print(f"  {e.self_cpu_time_total / total:6.1%}  {e.key}  ({e.count} calls)")


SAVED = {"tiny": (PRESETS["tiny"], 48, 2048), "smollm2": (SMOLLM2, 4, 512)}  # shape, rows, tokens per pass


def saving(cfg: Config):
    """What a save costs a run that trains on meanwhile, with AdamW, whose state is the largest: the seconds
    that the loop waits, and those by which the steps until the disk has it are slower than others. In a
    virtual machine memory that lay idle has gone back to the host and is slow to touch, in the file cache,
    too; so the same again after as much was touched and freed as the state has three times."""
    torch.set_num_threads(cfg.threads)
    tok, rows = shipped(), training_rows("countdown", 0)
    for name, (shape, batch, micro) in SAVED.items():
        model = Transformer(ModelConfig(**shape)).init_weights()
        settings = sft.Config(batch_size=batch, micro_tokens=micro, optimizer="adamw", bias_rate=0.0)
        optimizers, ranks = make_optimizers(model, name="adamw"), Ranks(0, 1, "cpu")
        step = partial(sft.run_step, model, optimizers, 0, rows, tok, settings, ranks)
        with tempfile.TemporaryDirectory() as dir:
            saver, costs, size = Saver(Path(dir) / "state", model, [1, 2, 3], ranks), {}, 0
            for run, touched in [(0, False), *((i + 1, t) for t in (False, True) for i in range(cfg.runs))]:
                usual = median(timed(step) for _ in range(5))
                if touched:
                    torch.ones(3 * size, dtype=torch.uint8)
                begin, steps = time.perf_counter(), 0
                saver.save(step=run, optimizers=[o.state_dict() for o in optimizers])
                waited = time.perf_counter() - begin
                while saver.thread.is_alive():
                    step()
                    steps += 1
                whole = time.perf_counter() - begin
                saver.wait()
                size = sum(f.stat().st_size for f in saver.dir.glob("*") if f.is_file())
                if run:  # the first one is the warm-up
                    costs.setdefault(touched, []).append((whole - steps * usual, waited, whole))
        for touched, some in costs.items():
            cost, waited, whole = (median(column) for column in zip(*some, strict=True))
            print(f"{name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
                f"{size / 2**20:,.0f} MiB{', memory touched' * touched}: the loop waits {waited:.3f} s, "
                f"on the disk within {whole:.2f} s; it costs {cost:.3f} s ("
                f"{', '.join(f'{c:.3f}' for c, *_ in some)}), {cost / 120:.2%} of 2 minutes", flush=True)


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    names = cfg.work.split(",")
    if cfg.device not in ("cpu", "cuda"):
        raise UserError(f"--device {cfg.device}: expected cpu or cuda (--threads N for N cores)")
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no GPU")
    if cfg.all and cfg.device != "cuda":
        raise UserError("--all measures a GPU: give --device cuda")
    if cfg.device != "cpu" and (cfg.profile or cfg.work in ("scaling", "saving")):
        raise UserError("--profile, --work scaling and --work saving look at the CPU; leave --device out")
    for name in [] if cfg.work in ("scaling", "saving") or cfg.work.startswith("memory") else names:
        if name not in WORKS:
            known = [*WORKS, "scaling", "saving", "memory"]
            raise UserError(f"--work: unknown work {name}{closest(name, known)}")
        if WORKS[name].shape is None and not Path(cfg.from_, "config.json").exists():
            raise UserError(f"{name} needs a trained checkpoint: run make tiny first, or give --from")
    if cfg.lora_rank and "theirs" in cfg.sides and not cfg.work.startswith("memory"):
        raise UserError("--lora_rank is for our side alone: give --sides ours")
    if cfg.once:
        result = measured_memory(cfg) if cfg.work == "memory_measured" else measure(cfg)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
    elif cfg.all:
        everything(cfg)
    elif cfg.work == "memory":
        memory(cfg)
    elif cfg.work.startswith("memory_measured"):
        measure_memory(cfg)
    elif cfg.profile:
        profile(cfg)
    elif names == ["scaling"]:
        scaling(cfg)
    elif names == ["saving"]:
        saving(cfg)
    else:
        rates = limits(cfg)
        if cfg.device == "cuda":
            torch.cuda.empty_cache()  # the measurements are other processes
        print(f"{cfg.device}, {cfg.threads} threads, matmul {rates['matmul'] / 1e9:,.0f} GFLOP/s, memory "
            f"{rates['read'] / 1e9:,.0f} GB/s, torch {torch.__version__}", flush=True)
        rows = []
        for _ in range(cfg.runs):
            for name in names:
                rows += [run_once(cfg, name, side) for side in cfg.sides.split(",")]
        print(table(rows, rates))
        if cfg.json:
            whole = json.dumps({"limits": rates, "runs": rows}, indent=1)
            Path(cfg.json).write_text(whole + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
