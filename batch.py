"""What training takes from a rollout: samples as tensors, their log-probabilities, and the memory that a pass
over them needs. Letters: the legend of model.py."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from attention import FIRST_ROOM, LONGEST_BLOCKED, cache_room
from config import ModelConfig, Training, UserError, out_of_memory, say
from kernels import CHUNK_NUMBERS, CHUNK_NUMBERS_GPU, FEWEST_TOKENS, PACKED_NUMBERS, Linear, token_logprobs
from lora import matching, seed_dropout
from model import Transformer
from optim import BUCKET, clear_gradients, trained
from parallel import (
    Ranks,
    free_bytes,
    gather,
    give_back_memory,
    is_sharded,
    lockstep,
    micro_batches,
    together,
)


class Sample(NamedTuple):
    """One completion of the rollout."""

    tokens: list[int]  # prompt and completion
    start: int  # length of the prompt
    old_logprobs: list[float]  # of the completion's tokens, from the sampler itself
    finished: bool
    routing: np.ndarray | None  # (len(tokens) - 1, MoE layers, K), the sampler's experts
    scores: dict  # reward, accuracy and the components
    reflections: int
    advantage: float = 0.0
    kept: tuple[np.ndarray, np.ndarray] | None = None  # with top_p < 1, see sample.Rollout
    own_logprobs: list[float] | None = None  # the trainer's, before the rollout's first update (--importance)
    number: int = -1  # of its problem


class Batch(NamedTuple):
    """Samples as tensors, right-padded; each prompt once."""

    prompts: torch.Tensor  # (P, S)
    lengths: torch.Tensor  # (P,) of the prompts
    owner: torch.Tensor  # (B,) the prompt of each completion
    completions: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) the completion's tokens, its end token included
    old_logprobs: torch.Tensor  # (B, T)
    own_logprobs: torch.Tensor | None = None  # (B, T)
    allowed: tuple[torch.Tensor, torch.Tensor] | None = None  # see kernels.token_logprobs_plain

    def inputs(self) -> torch.Tensor:
        """How many samples have each token as an input, flat as in `attention.SharedPrompts`: (P*S +
        B*(T-1),). A completion's last token is predicted, never an input."""
        there = torch.arange(self.prompts.shape[1], device=self.owner.device) < self.lengths[:, None]
        shared = there * self.owner.bincount(minlength=len(self.lengths))[:, None]
        return torch.cat([shared.flatten(), self.mask[:, 1:].flatten()])


def collate(samples: list[Sample], pad_id: int, device: str) -> Batch:
    """One Batch of any samples."""
    def padded(rows, value):
        return torch.tensor([[*r, *[value] * (max(map(len, rows)) - len(r))] for r in rows], device=device)

    whole = [tuple(s.tokens[: s.start]) for s in samples]
    prompts = {p: i for i, p in enumerate(dict.fromkeys(whole))}
    return Batch(padded(list(prompts), pad_id), torch.tensor([len(p) for p in prompts], device=device),
        torch.tensor([prompts[p] for p in whole], device=device),
        padded([s.tokens[s.start :] for s in samples], pad_id),
        padded([[True] * len(s.old_logprobs) for s in samples], False),
        padded([s.old_logprobs for s in samples], 0.0),
        None if samples[0].own_logprobs is None else padded([s.own_logprobs for s in samples], 0.0),
        None if samples[0].kept is None else allowed_of(samples, device))


def allowed_of(samples: list[Sample], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the sampler could draw (DeepSeek-V3.2, arXiv 2512.02556, sec. 3.1, "keep sampling mask"), over all
    completions' tokens one behind the other: (number of the token, id) of each."""
    counts, ids = (np.concatenate(parts) for parts in zip(*(s.kept for s in samples), strict=True))
    rows = np.arange(len(counts)).repeat(counts)
    return torch.from_numpy(rows).to(device), torch.from_numpy(ids).long().to(device)


def routing_of(samples: list[Sample], batch: Batch) -> list[torch.Tensor]:
    """The sampler's experts per MoE layer, flat as in `attention.SharedPrompts`: (P*S + B*(T-1), K), -1 where
    there is no token."""
    if samples[0].routing is None:
        return []
    S, T, shape = batch.prompts.shape[1], batch.completions.shape[1] - 1, samples[0].routing.shape[1:]
    on_prompts = np.full((len(batch.lengths), S, *shape), -1, dtype=np.int64)
    on_completions = np.full((len(samples), T, *shape), -1, dtype=np.int64)
    for i, (s, p) in enumerate(zip(samples, batch.owner.tolist(), strict=True)):
        on_prompts[p, : s.start] = s.routing[: s.start]
        on_completions[i, : len(s.routing) - s.start] = s.routing[s.start :]
    flat = np.concatenate([on_prompts.reshape(-1, *shape), on_completions.reshape(-1, *shape)])
    return list(torch.from_numpy(flat).to(batch.owner.device).unbind(1))


# The way of a log-probability, from a rollout to the loss:
#   Sample                   a prompt with one completion, as lists
#   collate                  prompts (P, S), each once; completions (B, T) with the mask of their tokens
#   model.hidden_shared      the states that predict the completions' tokens (B, T, D). Layers work on a flat
#                            list of tokens; in attention a completion sees its prompt (`SharedPrompts`)
#   mask                     only real tokens' states (N, D): each other one would cost V logits
#   kernels.token_logprobs   head, log-softmax and the choice of the token, chunk by chunk: (N,)
#   masked_scatter           back to (B, T), zero where there is no token
#   grpo.policy_loss         compares them with the sampler's own


def completion_hidden(model, batch: Batch, routing=None):
    """The states that predict the completions' tokens, one row after the other: (N, D)."""
    inputs, at = batch.completions[:, :-1], batch.mask.flatten().nonzero().squeeze(1)
    hidden = model.hidden_shared(batch.prompts, batch.lengths, inputs, batch.owner, routing)  # (B, T, D)
    return hidden.flatten(0, 1).index_select(0, at)


def completion_logprobs(model, batch: Batch, temperature: float, routing=None):
    """Log-probabilities and entropies of the completions' tokens, zero elsewhere: (B, T) each. Equals
    `token_logprobs` of `model.hidden` over the whole sequences."""
    hidden, targets = completion_hidden(model, batch, routing), batch.completions[batch.mask]
    logprobs, entropy = token_logprobs(hidden, model.lm_head.weight, targets, temperature,
        allowed=batch.allowed)
    zeros = torch.zeros(batch.mask.shape, device=hidden.device)
    return zeros.masked_scatter(batch.mask, logprobs), zeros.masked_scatter(batch.mask, entropy)


# ------------------------------------------------------------------------------------ passes over a minibatch


def sizes(samples: list[Sample]) -> tuple[list[int], list[tuple]]:
    """What `micro_batches` asks of samples: each one's length; its prompt and that one's length."""
    return [len(s.tokens) for s in samples], [(tuple(s.tokens[: s.start]), s.start) for s in samples]


def passes(run: Callable, model, cfg: Training, ranks: Ranks, lengths: list[int],
        prompts: list[tuple] | None = None, noise: tuple = ()) -> list:
    """What run(rows, times) returns for each micro-batch of a minibatch, those of all ranks, on every rank.
    rows: some of the minibatch's, by their numbers. run multiplies what it divides a loss by with `times`: 1,
    or infinity for a pass that only keeps step with other ranks (`lockstep`). noise: numbers that dropout
    depends on, beside the seed and the rank.

    Where a rank runs out of memory, the gradients are cleared on all, and the minibatch's passes are made
    again, with at most half as many tokens in each, as in all that follow: the same sums, but for the order
    of their terms. Raises UserError where that cannot help: if all of its passes are of a single row; or the
    model is split, for the other ranks wait within that pass."""
    while True:
        seed_dropout(model, cfg.seed, *noise[:1], ranks.rank, *noise[1:])
        mine = micro_batches(ranks, lengths, min(cfg.micro_tokens, cfg.most_tokens), prompts)
        found, failed = [], None
        try:
            for rows, counts in lockstep(ranks, mine, model):
                with together():
                    made = run(rows, 1 if counts else math.inf)
                found += [made] if counts else []
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            found = []
            each = [(len(some) > 1, len(some) * max(lengths[i] for i in some)) for some in mine or [[0]]]
            failed = *max(each), f"{type(error).__name__}: {error}".splitlines()[0][:150]
            if is_sharded(model):
                raise too_large(model, cfg, ranks, *failed) from None
        everyone = gather(ranks, (failed, found))  # behind the except: that holds the pass's tensors
        if not any(failed for failed, _ in everyone):
            return [made for _, some in everyone for made in some]
        clear_gradients(trained(model))
        give_back_memory()
        several, tokens, text = min(failed for failed, _ in everyone if failed)  # a single row's come first
        if not several:
            raise too_large(model, cfg, ranks, several, tokens, text)
        cfg.most_tokens = min(cfg.micro_tokens, cfg.most_tokens, tokens) // 2
        say(f"out of memory in passes of {tokens} tokens: they are repeated, with at most {cfg.most_tokens} "
            "from now on")


def too_large(model, cfg: Training, ranks: Ranks, several: bool, tokens: int, text: str) -> UserError:
    """The error of passes over so many tokens, of several rows or of one, that cannot be repeated in smaller
    parts. text: torch's own error."""
    split, samples = is_sharded(model), hasattr(cfg, "max_new_tokens")
    stored = (model.shards.plain if split else model).embed_tokens.weight.dtype
    flags = ["a smaller --micro_tokens"] if several else []
    flags += ["a smaller --max_new_tokens"] if samples else ["shorter rows"]
    flags += ["--recompute true"] if not getattr(cfg, "recompute", True) else []
    flags += [f for f in smaller(cfg, stored, ranks) if samples or cfg.init or "lora" not in f]
    return UserError(f"out of memory in passes of {tokens} tokens, which "
        + ("no rank can repeat, for the model is split" if split else "are of a single row each")
        + f"; what needs less: {', '.join(flags)} ({text})")


# ----------------------------------------------------------------------------------------------------- memory


class Pass(NamedTuple):
    """The size of a forward/backward pass."""

    tokens: int  # that are computed: padding included, each prompt once
    keys: int  # tokens that are attended to: of the whole rows; more than `tokens` where prompts are shared
    pairs: int  # of a token and one that it attends to
    length: int  # tokens of the longest row


class Decoding(NamedTuple):
    """The size of a rollout: rows decoded together, their prompts, tokens of each prompt, new ones of each
    row; rows whose `sample.Rollout.kept` is recorded."""

    rows: int
    prompts: int
    prompt: int
    new: int
    kept: int = 0


def rows_pass(budget: int, length: int) -> Pass:
    """The largest pass over rows of `length` tokens: at most `budget` tokens, or one row."""
    rows = max(1, budget // length)
    return Pass(rows * length, rows * length, rows * length * length // 2, length)


def shared_pass(budget: int, prompt: int, new: int, group_size: float, rows: int) -> Pass:
    """The largest pass of GRPO over some of a minibatch's rows, each a prompt and `new` tokens, of which
    `group_size` share a prompt: whole rows of at most `budget` tokens, or one row."""
    B = min(rows, max(1, budget // (prompt + new)))
    P = math.ceil(B / group_size)
    return Pass(P * prompt + B * new, P * prompt + B * (prompt + new),
        P * prompt * prompt // 2 + B * new * (prompt + new // 2), prompt + new)


def kept_numbers(cfg: ModelConfig, work: Pass, dtype: torch.dtype, device: str,
        frozen: bool = False) -> list[float]:
    """Numbers per token that each layer keeps for its backward pass:
        norms       4 D: of each, its input and its output. In bfloat16 on a CPU the input, widened, and,
                    unless frozen, the input normed are in float32
        attention   queries and outputs: MLA H (U + R + W), 2 (C + R) of the latent and 2 q_lora_rank before
                    and after their norms; GQA 2 H W, and (H + M) W more before norms of queries and keys.
                    Keys and values of each token that is attended to: MLA H (U + R + W), GQA 2 M W.
                    Where prompts are shared, H W more: outputs of prompts and of completions, put together.
                    H probabilities per pair where attention is blocked (`attention.blocked`). Elsewhere MLA's
                    values and outputs are U + R wide, beside the outputs cut to W; with shared prompts on a
                    GPU GQA's keys and values are repeated, 2 H W, beside a mask of two numbers per pair
        SwiGLU      3 per hidden unit of a dense layer or of the shared experts: gate, up, product
        experts     K (D + 3 F): of each token-expert pair its input, gate, up, product; frozen ones 2 K F. By
                    torch's grouped products (`kernels.use_grouped_mm`) 2 K F more: silu(gate), its product
        router      3 E scores and, of a bfloat16 model, D of its input, in float32"""
    D, H, K, F = cfg.hidden_size, cfg.num_attention_heads, cfg.num_experts_per_tok, cfg.moe_intermediate_size
    size, keys, pairs = dtype.itemsize, work.keys / work.tokens, work.pairs / work.tokens
    normed = (2 if frozen else 4) if device == "cpu" and size < 4 else 1
    blocked = device == "cpu" and size == 4 and work.length <= LONGEST_BLOCKED
    shared = keys > 1
    if cfg.family.attention == "mla":
        W, width = cfg.v_head_dim, cfg.qk_nope_head_dim + cfg.qk_rope_head_dim
        attention = H * ((width + W) * (1 + keys) + W * shared if blocked else 2 * width * (1 + keys) + W)
        attention += (1 + normed) * ((cfg.q_lora_rank or 0) + cfg.kv_lora_rank) + 2 * cfg.qk_rope_head_dim
    else:
        M, W = cfg.num_key_value_heads, cfg.head_dim
        repeated = shared and device != "cpu"
        attention = 2 * H * W + 2 * (H if repeated else M) * W * keys + H * W * shared + 2 * pairs * repeated
        attention += cfg.use_qk_norm * (H + M) * W * normed
    attention += 2 * (1 + normed) * D + blocked * H * pairs
    router = (3 * cfg.n_routed_experts + (D if size < 4 else 0)) * 4 // size
    dense = attention + 3 * cfg.intermediate_size
    grouped = 2 * F * (device == "cuda" and size < 4)
    moe = attention + 3 * cfg.n_shared_experts * F + K * (grouped + (2 * F if frozen else D + 3 * F)) + router
    return [dense if i < cfg.first_k_dense_replace else moe for i in range(cfg.num_hidden_layers)]


def activation_bytes(cfg: ModelConfig, work: Pass, dtype: torch.dtype, device: str,
        recompute: bool = False, lora_rank: int = 0, adapted: int = 0) -> int:
    """Most bytes that a training pass keeps for its backward pass, without the head's chunk of logits:
    `kept_numbers` of each layer; with recompute D of each and all of one. Of `adapted` layers with an adapter
    A x beside what W would keep."""
    layers = kept_numbers(cfg, work, dtype, device, lora_rank > 0)
    kept = len(layers) * cfg.hidden_size + max(layers) if recompute else sum(layers) + lora_rank * adapted
    return int(work.tokens * dtype.itemsize * (kept + 3 * cfg.hidden_size))  # the last norm


PROCESS_BYTES = 450 << 20  # on a CPU: Python, torch, what oneDNN compiles (docs/memory.md)


class Memory(NamedTuple):
    """Predicted bytes of a process that trains, by part: held all of the time, and beside that in each phase:
    a rollout, a forward/backward pass, an optimizer's step."""

    held: dict[str, float]
    phases: dict[str, dict[str, float]]

    def phase(self, name: str) -> float:
        return sum(self.held.values()) + sum(self.phases[name].values())

    @property
    def peak(self) -> float:
        return max(map(self.phase, self.phases))


def predicted(cfg: ModelConfig, work: Pass, decoding: Decoding | None = None, *, dtype: torch.dtype,
        device: str, reference: bool = False, optimizer: str = "adamw", recompute: bool = False,
        lora_rank: int = 0, lora_targets: str = "", world: int = 1, shards: int = 1,
        teacher: tuple[ModelConfig, torch.dtype] | None = None) -> Memory:
    """Each of `world` processes; every `shards` of them hold one model together (FSDP2). Trained are all
    parameters or, with lora_rank, adapters. Bytes per trained number: 4 of gradient, 8 of AdamW's moments
    (Muon's 4), 4 of the master if it is stored in 2. With adapters, which are not split, the reference is the
    model itself. teacher: another model beside it, which is only asked (distill.py)."""
    with torch.device("meta"):
        model = Transformer(cfg)
    size, parameters = dtype.itemsize, dict(model.named_parameters())
    numbers = {name: p.numel() for name, p in parameters.items()}
    linears = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, Linear)}
    adapted = matching(model, lora_targets) if lora_rank else []
    adapters = lora_rank * sum(sum(model.get_submodule(name).weight.shape) for name in adapted)
    matrices = [n for name, n in numbers.items() if optimizer == "muon" and not lora_rank
        and parameters[name].ndim > 1 and not re.search("embed|lm_head|gate.weight", name)]
    whole, trained = sum(numbers.values()) * size, adapters if lora_rank else sum(numbers.values())
    full16, split = size < 4 and not lora_rank, shards > 1  # split, float32 rows are their own masters
    held = {"weights": (sum(numbers.values()) * 4 if split and full16 else whole) / shards,
        "reference": whole * (reference and not lora_rank) / shards, "adapters": 4 * adapters}
    if teacher:
        with torch.device("meta"):
            other = Transformer(teacher[0])
        held["teacher"] = sum(p.numel() for p in other.parameters()) * teacher[1].itemsize / shards
    rows = 1 if lora_rank else shards  # adapters are whole on each process
    held |= {"gradients": 4 * trained / rows, "optimizer": (8 * trained - 4 * sum(matrices)) / rows,
        "masters": 4 * trained * (full16 and not split)}
    held["process"] = PROCESS_BYTES if device == "cpu" else 0

    block = max(sum(p.numel() for p in layer.parameters()) for layer in model.layers)
    in_pass = {"activations": activation_bytes(cfg, work, dtype, device, recompute, lora_rank, len(adapted)),
        # a layer's backward pass makes its activations again, in gradients, where the head's needs no more
        "head, or a layer's gradients": max(head_bytes(cfg, work, dtype, device, not lora_rank, split),
            work.tokens * size * max(kept_numbers(cfg, work, dtype, device, lora_rank > 0))
            + layer_bytes(model, adapted, work, dtype, device))}
    in_step = {"Muon": 16 * min(sum(matrices), max(BUCKET, *matrices)) if matrices else 0,
        "sum over processes": 4 * trained * (world > 1 and (lora_rank > 0 or not split))}
    if split:  # the block that runs, the next one; embedding, head; a gradient, to be summed in float32
        root = sum(n for name, n in numbers.items() if not name.startswith("layers."))
        in_pass["unsharded"] = (2 * block + root) * size + block * (size + 4) * (not lora_rank)
    phases = {"pass": in_pass, "step": in_step}
    if decoding:
        onednn, head = device == "cpu" and size == 4, cfg.vocab_size * cfg.hidden_size
        packed = {name: n for name, n in linears.items() if onednn and n >= PACKED_NUMBERS}
        experts = sum(p.numel() for name, p in parameters.items() if "mlp.experts" in name and onednn
            and min(math.prod(q.shape[1:]) for q in parameters.values() if q.ndim == 3) >= PACKED_NUMBERS)
        copied = head * (device == "cpu" and size < 4)  # the head's weight, in float32, and packed from that
        merged = [n for name, n in linears.items() if name in adapted
            and (size == 4 and name not in packed or "kv_b_proj" in name)]
        decodes = decoding_bytes(cfg, decoding, dtype, device)
        phases["rollout"] = {"packed weights": 4 * (sum(packed.values()) + experts + copied),
            "merged weights": sum(merged) * 4, "gathered weights": whole * split,
            **(decodes if sum(decodes.values()) > 4 * copied else {"head's copy": 4 * copied})}
    return Memory(held, phases)


def head_bytes(cfg: ModelConfig, work: Pass, dtype: torch.dtype, device: str, trained: bool,
        split: bool) -> float:
    """Most bytes of `kernels.token_logprobs`, forward or backward: four chunks of logits, or three, float32.
    Products of bfloat16 have a float32 copy of the weight on a CPU; on a GPU a float32 gradient of each chunk
    and g in bfloat16. A split weight's gradient is a tensor of its own, rounded at the end; any other is
    added to what is held (`kernels.gradient_in_place`)."""
    V, weight, gpu = cfg.vocab_size, cfg.vocab_size * cfg.hidden_size, device != "cpu"
    most = CHUNK_NUMBERS_GPU if gpu else CHUNK_NUMBERS
    chunk, small = min(work.tokens, max(FEWEST_TOKENS, most // V)) * V, dtype.itemsize < 4
    copied, summed = 4 * weight * (small and not gpu), 4 * weight * (trained and split)
    products = (6 * chunk + 4 * weight) * (trained and small and gpu)
    rounded = 2 * weight * (trained and small and split)
    return copied + max(16 * chunk, summed + max(12 * chunk, products, rounded))


def layer_bytes(model: Transformer, adapted: list[str], work: Pass, dtype: torch.dtype, device: str) -> float:
    """Most bytes that one matrix of a block takes beside what it keeps: its gradient or, in bfloat16 with an
    adapter (`lora._RoundedOnce`), its outputs in float32 and on a CPU its inputs and itself, too."""
    if not adapted:
        return dtype.itemsize * max(p.numel() for p in model.layers.parameters())
    shapes = [model.get_submodule(name).weight.shape for name in adapted]
    return 4 * (dtype.itemsize < 4) * max(work.tokens * out + (work.tokens * wide + wide * out) * (
        device == "cpu") for out, wide in shapes)


def decoding_bytes(cfg: ModelConfig, work: Decoding, dtype: torch.dtype, device: str) -> dict[str, float]:
    """Bytes of a rollout beside the weights: while prompts are computed, or while rows are decoded."""
    rows, P, S, T, kept = work
    size, token = dtype.itemsize, cfg.num_hidden_layers * cfg.cached_per_token * dtype.itemsize
    room = cache_room(T) if device == "cpu" else max(FIRST_ROOM, T)
    width = max(cfg.intermediate_size, cfg.num_experts_per_tok * 2 * cfg.moe_intermediate_size * (
        not cfg.is_dense))
    computing = P * S * (token + size * (4 * cfg.hidden_size + 3 * width)) + rows * FIRST_ROOM * token
    growing = rows * room * token * (1 + 1 / cfg.num_hidden_layers)
    recorded = {"kept tokens": kept * T * -(-cfg.vocab_size // 8)} if kept else {}
    return recorded | {"prompts' cache": P * S * token, "rows' cache and logits, or prompts' states": max(
        computing, growing + rows * cfg.vocab_size * (28 if kept else 12))}  # 28: sorted, with places


GIB = 1 << 30
MARGIN = 0.85  # a run is refused if it would not fit even with a prediction that is too high by so much


def needed(settings: dict, ranks: Ranks) -> float:
    """The peak of a process of this run, beside what it takes anyway: `predicted` with these arguments."""
    memory = predicted(**{"device": ranks.device.partition(":")[0], "world": ranks.world} | settings)
    return memory.peak - memory.held["process"]


def training_settings(cfg: Training, stored: torch.dtype, ranks: Ranks) -> dict:
    """What a run's settings say to `predicted`, of a checkpoint that is stored in this dtype."""
    return dict(dtype=getattr(torch, cfg.dtype) if cfg.dtype else stored, lora_rank=cfg.lora_rank,
        lora_targets=cfg.lora_targets, shards=ranks.world if cfg.shard else 1)


def smaller(cfg: Training, stored: torch.dtype, ranks: Ranks) -> dict[str, dict]:
    """The flags that make any training smaller, as `check_memory` wants them."""
    flags, now = {}, training_settings(cfg, stored, ranks)
    if now["dtype"] == torch.float32:
        flags["--dtype bfloat16"] = dict(dtype=torch.bfloat16)
    if not cfg.lora_rank:
        flags["--lora_rank 16"] = dict(lora_rank=16)
        flags["--lora_rank 16 --dtype bfloat16"] = dict(lora_rank=16, dtype=torch.bfloat16)
    if not cfg.shard:
        flags |= {f"--shard true over {n} processes": dict(shards=n, world=n) for n in (2, 8)}
    return flags


def check_memory(settings: dict, ranks: Ranks, changes: dict[str, dict]):
    """Before anything is loaded. settings: the arguments of `predicted`; changes: other ones by the flags
    that ask for them, such as {"--kl_coef 0": {"reference": False}}. Raises UserError for a run that will not
    fit, with the flags that make it fit."""
    free, most = min(gather(ranks, free_bytes(ranks))), needed(settings, ranks)
    if MARGIN * most <= free:
        return
    needs = {flags: needed(settings | change, ranks) for flags, change in changes.items()}
    helps = {flags: n for flags, n in needs.items() if n <= free}
    if not helps:
        closest = min(needs, key=needs.get)
        helps = {f"no flag is enough; the smallest, {closest},": needs[closest]}
    raise UserError(f"this run needs about {most / GIB:.1f} GiB, {free / GIB:.1f} GiB are free: "
        + ", ".join(f"{flags} needs {n / GIB:.1f} GiB" for flags, n in helps.items()))
