"""The rollout engine, and a command line to talk to a checkpoint.

    python sample.py --from out/tiny/grpo --prompt "Use 3 7 9 to make 30."

One prefill per prompt, its latent cache shared by the group's samples; absorbed decoding; rows that have
finished leave the batch. The noise of a row depends on (seed, prompt number, sample number) alone, so the
batch's order, its split over ranks and the rows beside it change nothing.
"""

import codecs
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from checkpoint import load_model
from config import UserError, knob, parse_args, run_script
from data.tokenizer import for_checkpoint
from kernels import sample_tokens, token_logprobs
from mla import PromptGrid
from model import Transformer
from moe import Routing

ROWS_AT_ONCE = 512  # rows decoded together; more prompts run in waves


@dataclass
class Rollout:
    """Completions in prompt-major order: row i belongs to prompt i // group_size."""

    completions: list[list[int]] = field(default_factory=list)  # EOS kept when it was sampled
    logprobs: list[list[float]] = field(
        default_factory=list
    )  # of each sampled token under the sampled distribution
    finished: list[bool] = field(default_factory=list)  # EOS was sampled within max_new_tokens
    routing: list[np.ndarray] = field(
        default_factory=list
    )  # per row (prompt + completion - 1, MoE layers, K) uint8


def generate(model: Transformer, prompts: list[list[int]], *, group_size: int = 1, max_new_tokens: int,
        temperature: float = 1.0, eos_id: int | None, seed: int | None = None, top_p: float = 1.0,
        prompt_ids: list[int] | None = None, record_routing: bool = False,
        on_step: Callable[[list[int]], None] | None = None) -> Rollout:
    """Sample group_size completions for each prompt.

    seed None draws fresh noise. prompt_ids number the prompts for the noise (default 0, 1, ...). on_step
    is called with each step's tokens. temperature 0 is greedy. Raises UserError for an empty prompt or one
    that leaves no room in the context."""
    if not prompts or min(map(len, prompts)) == 0:
        raise UserError("generate: a prompt is empty")
    model.check_length(max(map(len, prompts)) + max_new_tokens)
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    prompt_ids = list(range(len(prompts))) if prompt_ids is None else prompt_ids
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    per_wave = max(1, ROWS_AT_ONCE // group_size)
    parts = {}
    for start in range(0, len(order), per_wave):
        wave = order[start : start + per_wave]
        noise = row_noise(seed, [prompt_ids[i] for i in wave], group_size, max_new_tokens)
        rows = _wave(model, [prompts[i] for i in wave], group_size, max_new_tokens, temperature, top_p,
            eos_id, noise, record_routing, on_step)
        parts |= {i * group_size + g: rows[k * group_size + g] for k,
            i in enumerate(wave) for g in range(group_size)}
    columns = zip(*(parts[i] for i in range(len(parts))), strict=True)
    return Rollout(*map(list, columns))


def row_noise(seed: int, prompt_ids: list[int], group_size: int, length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) per row and step, from a counter-based generator keyed by (seed, row)."""
    rows = [p * group_size + g for p in prompt_ids for g in range(group_size)]
    keys = (np.array([seed & (2**64 - 1), row], dtype=np.uint64) for row in rows)
    noise = [np.random.Generator(np.random.Philox(key=k)).random(length, dtype=np.float32) for k in keys]
    return torch.from_numpy(np.stack(noise))


@torch.inference_mode()
def _wave(model, prompts, G, max_new_tokens, temperature, top_p, eos_id, noise, record, on_step):
    """Rows of one batch: (tokens, logprobs, finished, routing) each, prompt-major."""
    device = model.embed_tokens.weight.device
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    tokens, noise = tokens.to(device), noise.to(device)
    log = RoutingLog(len(prompts) * G, max_new_tokens) if record and model.routers() else None
    routing = log and Routing()
    hidden, caches = model.prefill(tokens, G, routing)
    x = hidden[torch.arange(len(prompts), device=device), lengths - 1].repeat_interleave(G, 0)  # (N, D)
    N = len(x)
    owner = torch.arange(len(prompts), device=device).repeat_interleave(G)  # row -> prompt
    alive, done = torch.arange(N, device=device), torch.zeros(N, dtype=torch.bool, device=device)
    grid = PromptGrid(owner, lengths, tokens.shape[1])
    out = torch.full((N, max_new_tokens), -1, device=device)
    logps = torch.zeros(N, max_new_tokens, device=device)
    check_every = 8 if device.type == "cuda" else 1  # looking at `done` waits for the GPU
    if log:
        log.prompts(routing)
    for t in range(max_new_tokens):
        sampled, logp = sample_tokens(model.lm_head(x), noise[alive, t], temperature, top_p)
        out[alive, t], logps[alive, t] = sampled, logp
        done |= sampled == eos_id if eos_id is not None else False
        if on_step:
            on_step(sampled.tolist())
        if t + 1 == max_new_tokens:
            break
        if t % check_every == 0 and (left := int((~done).sum())) <= 7 * len(alive) // 8:
            if left == 0:
                break
            keep = (~done).nonzero().squeeze(1)
            alive, done, sampled = alive[keep], done[keep], sampled[keep]
            grid = PromptGrid(owner[alive], lengths, tokens.shape[1])
            for cache in caches:
                cache.keep_rows(keep)
        routing = log and Routing()
        x = model.decode(sampled, lengths[owner[alive]] + t, caches, t, grid, routing)
        if log:
            log.step(routing, alive, t)
    ends = (out == eos_id) if eos_id is not None else torch.zeros_like(out, dtype=torch.bool)
    finished = ends.any(1)
    counts = torch.where(finished, ends.int().argmax(1) + 1, max_new_tokens).tolist()
    rows = zip(out.tolist(), logps.tolist(), finished.tolist(), counts, strict=True)
    return [(tok[:n], lp[:n], fin, log.row(i, len(prompts[i // G]), i // G, n) if log else None) for i,
        (tok, lp, fin, n) in enumerate(rows)]


class RoutingLog:
    """The experts that the routers chose at rollout, to replay them in training or to measure agreement."""

    def __init__(self, rows: int, steps: int):
        self.rows, self.steps, self.suffix = rows, steps, None

    def prompts(self, routing: Routing):
        self.prefix = torch.stack(routing.indices, dim=2).to(torch.uint8).cpu()  # (P, S, L, K)
        self.suffix = torch.zeros(self.rows, self.steps, *self.prefix.shape[2:], dtype=torch.uint8,
            device=routing.indices[0].device)

    def step(self, routing: Routing, alive, t: int):
        self.suffix[alive, t] = torch.stack(routing.indices, dim=1).to(torch.uint8)  # (N, L, K)

    def row(self, i: int, prompt_length: int, prompt: int, n: int) -> np.ndarray:
        """Choices for every token that is an input in training: the prompt and all but the last sampled
        token."""
        return torch.cat([self.prefix[prompt, :prompt_length], self.suffix[i, : n - 1].cpu()]).numpy()


# ------------------------------------------------------------------------ what training takes from a rollout


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


def collate(samples: list[Sample], pad_id: int, device: str):
    """Right-padded tokens (B, T), and for their T-1 inputs, each (B, T-1): which are there, which predict a
    completion token, and its old log-probability. A row's last token is predicted, never an input."""
    T = max(len(s.tokens) for s in samples)
    tokens = torch.full((len(samples), T), pad_id)
    present, mask = torch.zeros(2, len(samples), T - 1, dtype=torch.bool)
    old = torch.zeros(len(samples), T - 1)
    for i, s in enumerate(samples):
        tokens[i, : len(s.tokens)] = torch.tensor(s.tokens)
        present[i, : len(s.tokens) - 1] = True
        mask[i, s.start - 1 : len(s.tokens) - 1] = True  # position t predicts token t + 1
        old[i, s.start - 1 : len(s.tokens) - 1] = torch.tensor(s.old_logprobs)
    return tokens.to(device), present.to(device), mask.to(device), old.to(device)


def routing_of(samples: list[Sample], T: int, device: str) -> list[torch.Tensor]:
    """The sampler's experts per MoE layer: (B, T, K), -1 where there is no token."""
    if samples[0].routing is None or T == 0:
        return []
    full = np.full((len(samples), T, *samples[0].routing.shape[1:]), -1, dtype=np.int64)
    for i, s in enumerate(samples):
        full[i, : len(s.routing)] = s.routing
    return list(torch.from_numpy(full).to(device).unbind(2))


def completion_logprobs(model, tokens, mask, temperature, routing=None):
    """Log-probabilities and entropies of the completion's tokens, zero elsewhere: (B, T-1) each. Only the
    completion's states go through the head."""
    hidden = model.hidden(tokens[:, :-1], routing)[mask]  # (n, D)
    logprobs, entropy = token_logprobs(hidden, model.lm_head.weight, tokens[:, 1:][mask], temperature)
    zeros = torch.zeros(mask.shape, device=tokens.device)
    return zeros.masked_scatter(mask, logprobs), zeros.masked_scatter(mask, entropy)


# ------------------------------------------------------------------------------------------ command line


@dataclass
class Config:
    from_: str = knob("out/tiny/grpo", "checkpoint folder")
    prompt: str = knob("", "what to ask; empty = read one question per line")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "0 = greedy")
    top_p: float = knob(1.0, "nucleus sampling")
    seed: int | None = knob(None, "None = different each time")
    device: str = knob("cpu", "cpu or cuda")


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    model = load_model(cfg.from_, cfg.device)
    tokenizer = for_checkpoint(cfg.from_)
    if tokenizer.vocab_size > model.cfg.vocab_size:
        raise UserError(f"{cfg.from_}: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"{model.cfg.vocab_size}; put the checkpoint's own tokenizer.json beside it")
    for question in [cfg.prompt] if cfg.prompt else map(str.strip, sys.stdin):
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def show(ids, decoder=decoder):
            if ids[0] != tokenizer.eos_id:
                raw = tokenizer.encoding.decode_single_token_bytes(ids[0])
                print(decoder.decode(raw), end="", flush=True)

        start = time.perf_counter()
        out = generate(model, [tokenizer.encode_prompt(question)], max_new_tokens=cfg.max_new_tokens,
            top_p=cfg.top_p, temperature=cfg.temperature, eos_id=tokenizer.eos_id, seed=cfg.seed,
            on_step=show)
        count, seconds = len(out.completions[0]), time.perf_counter() - start
        end = "" if out.finished[0] else ", cut off at max_new_tokens"
        print(f"\n[{count} tokens, {count / seconds:.0f}/s{end}]")


if __name__ == "__main__":
    run_script(main)
