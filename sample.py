"""The rollout engine, and a command line to talk to a checkpoint.

    python sample.py --from out/tiny/grpo --prompt "Use 3 7 9 to make 30."
    python sample.py --from SmolLM2-135M-Instruct --chat true     # a conversation, one turn per line

One prefill per prompt, its cache shared by the group's samples (of MLA latents, decoded absorbed; of GQA keys
and values); rows that have finished leave the batch. The noise of a row depends on (seed, prompt number,
sample number) alone, so the batch's order, its split over ranks and the rows beside it change nothing.
"""

import codecs
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

import numpy as np
import torch
import torch.nn.functional as F

import kernels
from batch import Decoding
from checkpoint import load_model
from config import (
    DTYPE,
    SYSTEM,
    TEMPLATE,
    Diverged,
    ModelConfig,
    UserError,
    check_ranges,
    knob,
    parse_args,
    run_script,
)
from data.tokenizer import Tokenizer, for_checkpoint
from kernels import packed_weights
from model import Transformer
from moe import Routing
from parallel import setup

ROWS_AT_ONCE = 512  # rows decoded together; further prompts wait for half of them to finish
CACHE_BYTES = 1 << 28  # on a CPU fewer rows, if their caches took more: of 135 M parameters and 48 tokens 120
LOOK_EVERY = 8  # steps on CUDA between two looks at which rows have finished: a look waits for the GPU
CUDA_GRAPHS = True  # False = the same steps, launched one operation at a time


@dataclass
class Rollout:
    """Completions in prompt-major order: row i belongs to prompt i // group_size."""

    completions: list[list[int]] = field(default_factory=list)  # EOS kept when it was sampled
    logprobs: list[list[float]] = field(default_factory=list)  # of each token under the sampled distribution
    finished: list[bool] = field(default_factory=list)  # EOS was sampled within max_new_tokens
    # per row (prompt + completion - 1, MoE layers, K), for every token that is an input in training
    routing: list[np.ndarray | None] = field(default_factory=list)
    # with record_kept and top_p < 1, per row: how many tokens could be drawn at each step, and which
    kept: list[tuple[np.ndarray, np.ndarray] | None] = field(default_factory=list)


@torch.inference_mode()
def generate_plain(model: Transformer, prompts: list[list[int]], *, group_size: int = 1, max_new_tokens: int,
        temperature: float = 1.0, eos_id: int | Sequence[int] | None, seed: int = 0, top_p: float = 1.0,
        prompt_ids: list[int] | None = None, record_routing: bool = False, record_kept: bool = False,
        on_step: Callable[[list[int]], None] | None = None) -> Rollout:
    """`generate` without an engine: row after row, the whole sequence through the model for each token."""
    out, numbers = Rollout(), range(len(prompts)) if prompt_ids is None else prompt_ids
    ends = end_ids(eos_id)
    for prompt, number in zip(prompts, numbers, strict=True):
        for noise in row_noise(seed, [number], group_size, max_new_tokens):  # a row for each sample
            tokens, logprobs, bits = list(prompt), [], []
            for uniform in noise.to(model.embed_tokens.weight.device).split(1):
                routing = Routing(count=False)
                hidden = model.hidden(torch.tensor([tokens], device=uniform.device), routing)  # (1, T, D)
                logits = model.lm_head(hidden[:, -1])
                token, logprob = sample_tokens(logits, uniform, temperature, top_p)
                bits.append(pack_bits(sampled_probs(logits, temperature, top_p) > 0) if record_kept else None)
                tokens.append(int(token))
                logprobs.append(float(logprob))
                if on_step:
                    on_step(tokens[-1:])
                if tokens[-1] in ends:
                    break
            out.completions.append(tokens[len(prompt) :])
            out.logprobs.append(logprobs)
            out.finished.append(tokens[-1] in ends)
            # the last pass had all inputs of this row: the prompt and all but the last token
            out.routing.append(torch.stack(routing.indices, dim=2)[0].to(expert_type(model)).cpu().numpy()
                if record_routing and routing.indices else None)
            out.kept.append(kept_ids(torch.cat(bits)) if record_kept and top_p < 1 else None)
    return out


def end_ids(eos_id: int | Sequence[int] | None) -> list[int]:
    """The tokens that end a completion: one, several, or none."""
    return [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)


def expert_type(model: Transformer) -> torch.dtype:
    """Of an expert's number: a byte holds V3's 256, not the 384 of Kimi-K2."""
    return torch.uint8 if model.cfg.n_routed_experts <= 256 else torch.int16


def generate(model: Transformer, prompts: list[list[int]], *, group_size: int = 1, max_new_tokens: int,
        temperature: float = 1.0, eos_id: int | Sequence[int] | None, seed: int | None = None,
        top_p: float = 1.0, prompt_ids: list[int] | None = None, record_routing: bool = False,
        record_kept: bool = False, on_step: Callable[[list[int]], None] | None = None) -> Rollout:
    """Sample group_size completions for each prompt. Equals `generate_plain`, up to rounding.

    eos_id: the token that ends a completion, or several of them (Llama 3 and Qwen have two or three). seed
    None draws fresh noise. prompt_ids number the prompts for the noise (default 0, 1, ...). on_step
    is called with each step's tokens. temperature 0 is greedy. Raises UserError for an empty prompt or one
    that leaves no room in the context, and for a setting out of its range; Diverged where logits are not
    finite."""
    check_ranges(dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p))
    if not prompts or min(map(len, prompts)) == 0:
        raise UserError("generate: a prompt is empty")
    model.check_length(max(map(len, prompts)) + max_new_tokens)
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    prompt_ids = list(range(len(prompts))) if prompt_ids is None else prompt_ids
    if kernels.PLAIN:
        rollout = generate_plain(model, prompts, group_size=group_size, max_new_tokens=max_new_tokens,
            temperature=temperature, eos_id=eos_id, seed=seed, top_p=top_p, prompt_ids=prompt_ids,
            record_routing=record_routing, record_kept=record_kept, on_step=on_step)
    else:
        engine = _Engine(model, prompts, group_size, max_new_tokens, temperature, top_p, end_ids(eos_id),
            lambda some: row_noise(seed, [prompt_ids[i] for i in some], group_size, max_new_tokens),
            record_routing, record_kept)
        with packed_weights(model):
            engine.run(on_step)
        rollout = engine.rollout()
    if not math.isfinite(sum(map(sum, rollout.logprobs))):  # once: a look at each step would cost time
        raise Diverged("the model's logits are NaN or infinite: its weights are broken; was --lr too high?")
    return rollout


def rows_at_once(cfg: ModelConfig, new: int, dtype: torch.dtype, device: str) -> int:
    """Most rows of `new` tokens that are decoded together."""
    row = new * cfg.num_hidden_layers * cfg.cached_per_token * dtype.itemsize
    return min(ROWS_AT_ONCE, max(32, CACHE_BYTES // row)) if device == "cpu" else ROWS_AT_ONCE


def largest_decoding(cfg: ModelConfig, prompt: int, new: int, dtype: torch.dtype, device: str,
        *rollouts: tuple[float, int]) -> Decoding:
    """Of a run's rollouts, each (rows of a process, samples of a prompt), the size of the one with most
    rows; prompts of `prompt` tokens, `new` ones of each row."""
    most, group = max(rollouts, key=lambda rollout: rollout[0])
    rows = min(rows_at_once(cfg, new, dtype, device), math.ceil(most))
    return Decoding(rows, math.ceil(rows / group), prompt, new)


def row_noise(seed: int, prompt_ids: list[int], group_size: int, length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) per row and step, from a counter-based generator keyed by (seed, row)."""
    rows = [p * group_size + g for p in prompt_ids for g in range(group_size)]  # not where they are decoded
    keys = (np.array([seed & (2**64 - 1), row], dtype=np.uint64) for row in rows)
    noise = [np.random.Generator(np.random.Philox(key=k)).random(length, dtype=np.float32) for k in keys]
    return torch.from_numpy(np.stack(noise))


def sample_tokens(logits: torch.Tensor, uniform: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0):
    """Draw one token per row where the running sum of the probabilities passes `uniform`, and give its
    log-probability under what was sampled.

    logits (N, V), uniform (N,) in [0, 1) -> tokens (N,), logprobs (N,) float32. temperature 0 is greedy
    (log-probability 0: the sampled distribution is a point). top_p keeps the smallest set of most likely
    tokens whose probability reaches top_p (nucleus sampling, arXiv 1904.09751) and renormalises."""
    if temperature == 0:
        tokens = logits.argmax(-1)
        largest = logits.gather(1, tokens[:, None]).squeeze(1).float()
        return tokens, 0 * largest  # 0, but NaN where it is not finite
    return draw(sampled_probs(logits, temperature, top_p), uniform)


def sampled_probs(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The probabilities of `sample_tokens` (N, V), before they are renormalised: 0 is never drawn."""
    probs = F.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ordered, place = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # the mass before this token already reaches top_p
        probs = probs.scatter(1, place, ordered.masked_fill(outside, 0.0))
    return probs


def draw(probs: torch.Tensor, uniform: torch.Tensor):
    """(tokens, log-probabilities) of `sample_tokens` from its probabilities."""
    if probs.shape[1] < 2 * VOCABULARY_BLOCK:
        tokens, _ = _invert_cdf(probs, uniform[:, None] * probs.sum(-1, keepdim=True))
    else:  # first a block of the vocabulary, then a token in it: the running sum over all of it is slow
        blocks = F.pad(probs, (0, -probs.shape[1] % VOCABULARY_BLOCK)).unflatten(1, (-1, VOCABULARY_BLOCK))
        mass = blocks.sum(-1)
        block, rest = _invert_cdf(mass, uniform[:, None] * mass.sum(-1, keepdim=True))
        inside = blocks.take_along_dim(block[..., None], 1).squeeze(1)
        tokens = block * VOCABULARY_BLOCK + _invert_cdf(inside, rest)[0]
        tokens = tokens.clamp_(max=probs.shape[1] - 1)  # NaN would be found in the padding
    # of the distribution that was sampled: the ratio of training starts at 1
    return tokens.squeeze(1), (probs.gather(1, tokens) / probs.sum(-1, keepdim=True)).log().squeeze(1)


VOCABULARY_BLOCK = 1024


def pack_bits(kept: torch.Tensor) -> torch.Tensor:
    """(N, V) of bools -> (N, V / 8) bytes."""
    bits = F.pad(kept, (0, -kept.shape[1] % 8)).unflatten(1, (-1, 8))
    return (bits << torch.arange(8, dtype=torch.uint8, device=kept.device)).sum(-1, dtype=torch.uint8)


def kept_ids(packed: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of `pack_bits` (T, V / 8) -> how many bits are set in each row (T,), and which, row after row."""
    packed = packed.cpu().numpy()
    row, byte = packed.nonzero()  # few of them: not each of V bits is looked at
    which, bit = np.unpackbits(packed[row, byte][:, None], axis=1, bitorder="little").nonzero()
    return np.bincount(row[which], minlength=len(packed)), (8 * byte[which] + bit).astype(np.int32)


def _invert_cdf(weights, point):
    """weights (N, V), of tokens or of blocks, point (N, 1) in [0, their sum) -> where the running sum passes
    it (N, 1), never at a weight of 0, and how far into that weight the point lies (N, 1)."""
    cdf = weights.cumsum(-1)
    # rounding can put the point at the end of the sum, where no running sum passes it
    point = torch.minimum(point, torch.nextafter(cdf[:, -1:], torch.zeros_like(point)))
    # the first cdf > point; without the bound NaN would be found behind the last one
    place = torch.searchsorted(cdf, point, right=True).clamp_(max=cdf.shape[1] - 1)
    if weights.device.type != "cpu":  # a parallel sum's rounding can let it pass the point at a weight of 0
        place = torch.where(weights.gather(1, place) > 0, place, weights.argmax(-1, keepdim=True))
    return place, (point - cdf.gather(1, place) + weights.gather(1, place)).clamp(min=0)


class _Engine:
    """Decodes cohorts of rows side by side. A row is prompt * G + sample. Finished rows leave; when half of
    the places are free, the next prompts get them as a new cohort (continuous batching). On a CPU the linear
    layers see the rows of all cohorts, attention one cohort at a time; on CUDA each cohort is a graph."""

    def __init__(self, model, prompts, G, max_new_tokens, temperature, top_p, ends, noise_of, record,
            record_kept):
        self.model, self.prompts, self.G, self.T = model, prompts, G, max_new_tokens
        self.temperature, self.top_p, self.noise_of = temperature, top_p, noise_of
        self.device, B = model.embed_tokens.weight.device, len(prompts) * G
        self.ends = torch.tensor(ends, dtype=torch.long, device=self.device)
        self.fixed = self.device.type != "cpu"
        self.most = rows_at_once(model.cfg, self.T, model.embed_tokens.weight.dtype, self.device.type)
        self.out = torch.full((B, self.T), -1, device=self.device)  # -1: no token
        self.logps = torch.zeros(B, self.T, device=self.device)
        self.waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # alike: little padding
        self.kept = None  # bytes of `pack_bits`: small enough for a buffer that a CUDA graph can write to
        if record_kept and top_p < 1:
            bytes_of = -(-model.cfg.vocab_size // 8)
            self.kept = torch.zeros(B, self.T, bytes_of, dtype=torch.uint8, device=self.device)
        self.routes, self.prefix_routes = None, {}  # the experts that the routers chose, if they are recorded
        if record and (routers := len(model.routers())):
            K = model.cfg.num_experts_per_tok
            self.routes = torch.zeros(B, self.T, routers, K, dtype=expert_type(model), device=self.device)

    @torch.inference_mode()
    def run(self, on_step=None):
        self.run_fixed(on_step) if self.fixed else self.run_together(on_step)

    def run_together(self, on_step):
        cohorts, x = [], None  # x (N, D): what the head sees next, rows in the cohorts' order
        while self.waiting or cohorts:
            if self.places_for_more(cohorts):
                hidden, cohort = self.admit(cohorts)
                x, cohorts = hidden if x is None else torch.cat([x, hidden]), [*cohorts, cohort]
            rows, steps = self.places(cohorts)
            tokens = self.sample(x, torch.cat([c.noise[:, c.t] for c in cohorts]), rows, steps)
            if on_step:
                on_step(tokens.tolist())
            parts = tokens.split([len(c) for c in cohorts])
            parts = [self.leave(c, part) for c, part in zip(cohorts, parts, strict=True)]
            parts = [part for part in parts if len(part)]
            cohorts, x = [c for c in cohorts if len(c.rows)], None
            if cohorts:  # one pass over the weights for all of them
                x = self.decode(torch.cat(parts), cohorts)

    def run_fixed(self, on_step):
        """Cohort by cohort, each step the same operations on the same memory: on CUDA a graph, recorded once
        and replayed. A change of shape - twice the suffix, half of the rows gone - records anew."""
        cohorts = []
        while self.waiting or cohorts:
            if self.places_for_more(cohorts):
                hidden, cohort = self.admit(cohorts)
                cohort.fix(self.T)
                cohort.x = hidden
                cohorts.append(cohort)
            for c in cohorts:
                self.advance(c)
                if on_step:
                    on_step(self.out[c.rows, c.count - 1].tolist())
                if on_step or c.count == self.T or c.count % LOOK_EVERY == 0:
                    self.shrink(c)
            cohorts = [c for c in cohorts if len(c.rows)]

    def advance(self, c):
        if c.count == c.seen:  # attention over the whole room at each step would read mostly zeros
            c.seen, c.graph = min(2 * c.seen, self.T), None
        if c.graph is not None:
            c.graph.replay()
        else:
            self.fixed_step(c)  # this one runs; what it allocates and selects is ready for the recording
            if self.device.type == "cuda" and CUDA_GRAPHS and self.T - c.count > LOOK_EVERY:
                c.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(c.graph):  # recorded, not run
                    self.fixed_step(c)
        c.count += 1

    def fixed_step(self, c):
        """Sample a token for each row and decode it, all in place."""
        tokens = self.sample(c.x, c.noise.index_select(1, c.t).squeeze(1), *self.places([c]))
        c.done |= self.ended(tokens)
        c.x.copy_(self.decode(tokens, [c]))  # a graph reads and writes the same memory each time

    def shrink(self, c):
        """Drop finished rows once half of the cohort has finished: this looks at the GPU's results."""
        left = 0 if c.count == self.T else int((~c.done).sum())
        if left <= len(c) // 2:  # not sooner: each change of shape is recorded anew
            keep = (~c.done).nonzero().squeeze(1)[:left]
            self.drop(c, keep)
            c.x, c.graph = c.x[keep], None

    def sample(self, x, uniform, rows, steps):
        """The rows' next tokens (N,), written down with their log-probabilities."""
        logits = self.model.lm_head(x)
        if self.kept is None:
            tokens, logps = sample_tokens(logits, uniform, self.temperature, self.top_p)
        else:
            probs = sampled_probs(logits, self.temperature, self.top_p)
            tokens, logps = draw(probs, uniform)
            self.kept[rows, steps] = pack_bits(probs > 0)
        self.out[rows, steps], self.logps[rows, steps] = tokens, logps
        return tokens

    def ended(self, tokens):
        """Where a token is one that ends a completion."""
        return (tokens[..., None] == self.ends).any(-1)

    def decode(self, tokens, cohorts):
        """The states after these tokens, (N, D)."""
        routing = Routing(count=False) if self.routes is not None else None
        x = self.model.decode(tokens, cohorts, routing)
        if routing:
            rows, steps = self.places(cohorts)  # after the step: token t - 1 went through the experts
            self.routes[rows, steps - 1] = torch.stack(routing.indices, dim=1).to(self.routes.dtype)
        return x

    def places(self, cohorts):
        """Where the cohorts' rows stand: row numbers (N,) and steps (N,)."""
        steps = [torch.zeros_like(c.rows) + c.t for c in cohorts]  # t may be on the GPU, and stays there
        return torch.cat([c.rows for c in cohorts]), torch.cat(steps)

    def places_for_more(self, cohorts):
        room = self.most - sum(map(len, cohorts))
        # a prefill holds all rows up: few large ones
        return self.waiting and (not cohorts or room >= max(self.G, self.most // 2))

    def admit(self, cohorts):
        """Prefill the next prompts: (hidden states of their rows, their cohort)."""
        count = max(1, (self.most - sum(map(len, cohorts))) // self.G)
        mine, self.waiting = self.waiting[:count], self.waiting[count:]
        lengths = torch.tensor([len(self.prompts[i]) for i in mine])
        tokens = torch.zeros(len(mine), int(lengths.max()), dtype=torch.long)
        for row, i in zip(tokens, mine, strict=True):
            row[: len(self.prompts[i])] = torch.tensor(self.prompts[i])
        routing = Routing(count=False) if self.routes is not None else None
        hidden, cohort = self.model.prefill(tokens.to(self.device), lengths.to(self.device), self.G, routing)
        if routing:
            chosen = torch.stack(routing.indices, dim=2).to(self.routes.dtype).cpu()  # (P, S, MoE layers, K)
            self.prefix_routes |= {i: c[: len(self.prompts[i])] for i, c in zip(mine, chosen, strict=True)}
        cohort.rows = torch.tensor([i * self.G + g for i in mine for g in range(self.G)], device=self.device)
        cohort.noise = self.noise_of(mine).to(self.device)
        cohort.done = torch.zeros(len(cohort), dtype=torch.bool, device=self.device)
        return hidden, cohort

    def leave(self, cohort, tokens):
        """Drop the cohort's finished rows once an eighth of it has finished; the tokens of those that
        stay."""
        cohort.done |= self.ended(tokens)
        if cohort.t + 1 == self.T:
            cohort.done[:] = True  # out of room, finished or not
        left = int((~cohort.done).sum())  # dropping copies the caches: not for each single row
        if left > 7 * len(cohort) // 8:
            return tokens
        keep = (~cohort.done).nonzero().squeeze(1)
        self.drop(cohort, keep)
        return tokens[keep]

    def drop(self, cohort, keep):
        """Go on with these rows only; with none of them, the cohort is over."""
        cohort.rows, cohort.noise, cohort.done = cohort.rows[keep], cohort.noise[keep], cohort.done[keep]
        if len(keep):
            cohort.keep(keep)

    def rollout(self) -> Rollout:
        ends = self.ended(self.out)
        finished = ends.any(1)
        # rows that had ended decoded on until they left: cut off behind the first end
        counts = torch.where(finished, ends.int().argmax(1) + 1, self.T).tolist()
        result = Rollout(finished=finished.tolist())
        routes = None if self.routes is None else self.routes.cpu()
        for i, (tokens, logps) in enumerate(zip(self.out.tolist(), self.logps.tolist(), strict=True)):
            n = counts[i]
            result.completions.append(tokens[:n])
            result.logprobs.append(logps[:n])
            result.routing.append(None if routes is None else torch.cat(
                [self.prefix_routes[i // self.G], routes[i, : n - 1]]).numpy())
            result.kept.append(None if self.kept is None else kept_ids(self.kept[i, :n]))
        return result


# ------------------------------------------------------------------------------------------ command line


@dataclass
class Config:
    from_: str = knob("out/tiny/grpo", "checkpoint folder")
    prompt: str = knob("", "what to ask; empty = read one question per line")
    chat: bool = knob(False, "true: a conversation in the checkpoint's chat template, one turn per line")
    template: str = knob("", TEMPLATE)
    system: str = knob("", SYSTEM)
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "0 = greedy")
    top_p: float = knob(1.0, "nucleus sampling")
    seed: int | None = knob(None, "None = different each time")
    show_thinking: bool = knob(True, "false: only what stands outside of the thinking is printed")
    dtype: str = knob("", DTYPE)
    device: str = knob("cpu", "cpu, cuda or mps")


def printer(tokenizer: Tokenizer, show_thinking: bool, inside: bool, write: Callable[[str], None]):
    """A function that writes tokens as they come, UTF-8 whole, without the end token; without the thinking,
    its tags and the white space after them if show_thinking is false. No tokens at all are the end. inside:
    the prompt has opened the thinking."""
    decoder, tags = codecs.getincrementaldecoder("utf-8")(errors="replace"), tokenizer.think
    names = re.compile("(" + "|".join(map(re.escape, tags)) + ")")
    parts = (tag[:n] for tag in tags for n in range(len(tag) - 1, 0, -1))
    starts = re.compile("|".join(re.escape(part) + "$" for part in parts))
    bare, held = not show_thinking, ""  # bare: nothing visible yet, white space is not written

    def show(ids: list[int]):
        nonlocal inside, bare, held
        end = not ids or ids[0] in tokenizer.eos_ids
        text = held + decoder.decode(b"" if end else tokenizer.token_bytes(ids[0]), final=end)
        if show_thinking:
            return write(text)
        start = None if end else starts.search(text)  # what may become a tag waits
        text, held = (text[: start.start()], start[0]) if start else (text, "")
        visible = ""
        for part in names.split(text):
            inside = part == tags[0] or inside and part != tags[1]
            visible += "" if inside or part in tags else part
        visible = visible.lstrip() if bare else visible
        bare = bare and not visible
        write(visible)

    return show


def prompt_of(tokenizer: Tokenizer, messages: list[dict], context: int) -> list[int]:
    """The conversation so far as tokens. Raises UserError where it leaves no room for a reply."""
    prompt = tokenizer.encode_chat(messages)
    if len(prompt) >= context:
        raise UserError(f"the conversation has {len(prompt)} tokens, the model's context "
            f"{context}: start a new one")
    return prompt


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    if cfg.chat and cfg.template not in ("", "chat"):
        raise UserError(f"--chat true speaks in the chat template, not in --template {cfg.template}")
    tokenizer = for_checkpoint(cfg.from_, template="chat" if cfg.chat else cfg.template, system=cfg.system)
    model, messages = load_model(cfg.from_, setup(cfg.device).device, cfg.dtype), []
    context, length = model.cfg.max_position_embeddings, cfg.max_new_tokens
    asked = [cfg.prompt] if cfg.prompt else []
    for question in chain(asked, map(str.strip, sys.stdin) if cfg.chat or not asked else ()):
        if cfg.chat:
            messages.append({"role": "user", "content": question})
            prompt = prompt_of(tokenizer, messages, context)
            length = min(cfg.max_new_tokens, context - len(prompt))
        else:
            prompt = tokenizer.encode_prompt(question)
        inside = bool(tokenizer.opening) or tokenizer.opens(question)
        show = printer(tokenizer, cfg.show_thinking, inside, lambda text: print(text, end="", flush=True))
        start = time.perf_counter()
        out = generate(model, [prompt], max_new_tokens=length, top_p=cfg.top_p, temperature=cfg.temperature,
            eos_id=tokenizer.eos_ids, seed=cfg.seed, on_step=show)
        show([])
        count, seconds = len(out.completions[0]), time.perf_counter() - start
        end = "" if out.finished[0] else f", cut off at {length} tokens"
        print(f"\n[{count} tokens, {count / seconds:.0f}/s{end}]")
        messages.append({"role": "assistant", "content": tokenizer.decode_completion(out.completions[0])})


if __name__ == "__main__":
    run_script(main)
