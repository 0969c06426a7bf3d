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
from data.tokenizer import Tokenizer, for_checkpoint
from kernels import sample_tokens, token_logprobs
from model import Transformer
from moe import Routing

ROWS_AT_ONCE = 512  # rows decoded together; further prompts wait for half of them to finish


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
    def noise_of(some):
        return row_noise(seed, [prompt_ids[i] for i in some], group_size, max_new_tokens)

    engine = _Engine(model, prompts, group_size, max_new_tokens, temperature, top_p, eos_id, noise_of,
        record_routing)
    engine.run(on_step)
    return engine.rollout()


def row_noise(seed: int, prompt_ids: list[int], group_size: int, length: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) per row and step, from a counter-based generator keyed by (seed, row)."""
    rows = [p * group_size + g for p in prompt_ids for g in range(group_size)]
    keys = (np.array([seed & (2**64 - 1), row], dtype=np.uint64) for row in rows)
    noise = [np.random.Generator(np.random.Philox(key=k)).random(length, dtype=np.float32) for k in keys]
    return torch.from_numpy(np.stack(noise))


class _Engine:
    """Decodes cohorts of rows side by side: all linear layers see all rows, attention sees one cohort at a
    time. A row is prompt * G + sample. Finished rows leave; when half of the places are free, the next
    prompts get them as a new cohort (continuous batching)."""

    def __init__(self, model, prompts, G, max_new_tokens, temperature, top_p, eos_id, noise_of, record):
        self.model, self.prompts, self.G, self.T = model, prompts, G, max_new_tokens
        self.temperature, self.top_p, self.eos_id, self.noise_of = temperature, top_p, eos_id, noise_of
        self.device, N = model.embed_tokens.weight.device, len(prompts) * G
        self.out = torch.full((N, self.T), -1, device=self.device)
        self.logps = torch.zeros(N, self.T, device=self.device)
        self.waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        self.routes, self.prefix_routes = None, {}  # the experts that the routers chose, if they are recorded
        if record and (routers := len(model.routers())):
            K = model.cfg.num_experts_per_tok
            self.routes = torch.zeros(N, self.T, routers, K, dtype=torch.uint8, device=self.device)

    @torch.inference_mode()
    def run(self, on_step=None):
        cohorts, x = [], None  # x (N, D): what the head sees next, rows in the cohorts' order
        while self.waiting or cohorts:
            room = ROWS_AT_ONCE - sum(map(len, cohorts))
            if self.waiting and (not cohorts or room >= max(self.G, ROWS_AT_ONCE // 2)):
                hidden, cohort = self.admit(max(1, room // self.G))
                x, cohorts = hidden if x is None else torch.cat([x, hidden]), [*cohorts, cohort]
            rows, steps = self.places(cohorts)
            uniform = torch.cat([c.noise[:, c.t] for c in cohorts])
            tokens, logps = sample_tokens(self.model.lm_head(x), uniform, self.temperature, self.top_p)
            self.out[rows, steps], self.logps[rows, steps] = tokens, logps
            if on_step:
                on_step(tokens.tolist())
            parts = tokens.split([len(c) for c in cohorts])
            parts = [self.leave(c, part) for c, part in zip(cohorts, parts, strict=True)]
            parts = [part for part in parts if len(part)]
            cohorts, x = [c for c in cohorts if len(c.rows)], None
            if cohorts:
                routing = Routing(count=False) if self.routes is not None else None
                rows, steps = self.places(cohorts)
                x = self.model.decode(torch.cat(parts), cohorts, routing)
                if routing:
                    self.routes[rows, steps] = torch.stack(routing.indices, dim=1).to(torch.uint8)

    def places(self, cohorts):
        """Where the cohorts' rows stand: row numbers (N,) and steps (N,)."""
        steps = [torch.full_like(c.rows, c.t) for c in cohorts]
        return torch.cat([c.rows for c in cohorts]), torch.cat(steps)

    def admit(self, count: int):
        """Prefill the next prompts: (hidden states of their rows, their cohort)."""
        mine, self.waiting = self.waiting[:count], self.waiting[count:]
        lengths = torch.tensor([len(self.prompts[i]) for i in mine])
        tokens = torch.zeros(len(mine), int(lengths.max()), dtype=torch.long)
        for row, i in zip(tokens, mine, strict=True):
            row[: len(self.prompts[i])] = torch.tensor(self.prompts[i])
        routing = Routing(count=False) if self.routes is not None else None
        hidden, cohort = self.model.prefill(tokens.to(self.device), lengths.to(self.device), self.G, routing)
        if routing:
            chosen = torch.stack(routing.indices, dim=2).to(torch.uint8).cpu()  # (P, S, L, K)
            self.prefix_routes |= {i: c[: len(self.prompts[i])] for i, c in zip(mine, chosen, strict=True)}
        cohort.rows = torch.tensor([i * self.G + g for i in mine for g in range(self.G)], device=self.device)
        cohort.noise = self.noise_of(mine).to(self.device)
        cohort.done = torch.zeros(len(cohort), dtype=torch.bool, device=self.device)
        return hidden, cohort

    def leave(self, cohort, tokens):
        """Drop the cohort's finished rows once an eighth of it has finished; the tokens of those that stay.
        On CUDA, looking waits for the GPU: every eighth step only."""
        if self.eos_id is not None:
            cohort.done |= tokens == self.eos_id
        if cohort.t + 1 == self.T:
            cohort.done[:] = True
        elif self.device.type == "cuda" and cohort.t % 8:
            return tokens
        left = int((~cohort.done).sum())
        if left > 7 * len(cohort) // 8:
            return tokens
        keep = (~cohort.done).nonzero().squeeze(1)
        cohort.rows, cohort.noise, cohort.done = cohort.rows[keep], cohort.noise[keep], cohort.done[keep]
        if left:
            cohort.keep(keep)
        return tokens[keep]

    def rollout(self) -> Rollout:
        ends = self.out == (-2 if self.eos_id is None else self.eos_id)
        finished = ends.any(1)
        counts = torch.where(finished, ends.int().argmax(1) + 1, self.T).tolist()
        result = Rollout(finished=finished.tolist())
        routes = None if self.routes is None else self.routes.cpu()
        for i, (tokens, logps) in enumerate(zip(self.out.tolist(), self.logps.tolist(), strict=True)):
            n = counts[i]
            result.completions.append(tokens[:n])
            result.logprobs.append(logps[:n])
            # for every token that is an input in training: the prompt and all but the last sampled one
            result.routing.append(None if routes is None else torch.cat(
                [self.prefix_routes[i // self.G], routes[i, : n - 1]]).numpy())
        return result


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
    show_thinking: bool = knob(True, "false: only what stands outside of the thinking is printed")
    device: str = knob("cpu", "cpu or cuda")


def printer(tokenizer: Tokenizer, show_thinking: bool, inside: bool, write: Callable[[str], None]):
    """A function that writes tokens as they come, UTF-8 whole, without the end token; without the thinking,
    its tags and the white space after them if show_thinking is false. inside: the prompt has opened it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    opening, closing = tokenizer.think_ids
    bare = not show_thinking  # nothing visible yet: white space is not written

    def show(ids: list[int]):
        nonlocal inside, bare
        if ids[0] == tokenizer.eos_id:
            return
        tag = ids[0] in (opening, closing)
        inside = ids[0] == opening or inside and not tag
        if show_thinking or not (inside or tag):
            text = decoder.decode(tokenizer.encoding.decode_single_token_bytes(ids[0]))
            text = text.lstrip() if bare else text
            bare = bare and not text
            write(text)

    return show


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    model = load_model(cfg.from_, cfg.device)
    tokenizer = for_checkpoint(cfg.from_)
    if tokenizer.vocab_size > model.cfg.vocab_size:
        raise UserError(f"{cfg.from_}: the tokenizer has {tokenizer.vocab_size} ids, the model "
            f"{model.cfg.vocab_size}; put the checkpoint's own tokenizer.json beside it")
    for question in [cfg.prompt] if cfg.prompt else map(str.strip, sys.stdin):
        show = printer(tokenizer, cfg.show_thinking, question.rstrip().endswith("<think>"),
            lambda text: print(text, end="", flush=True))
        start = time.perf_counter()
        out = generate(model, [tokenizer.encode_prompt(question)], max_new_tokens=cfg.max_new_tokens,
            top_p=cfg.top_p, temperature=cfg.temperature, eos_id=tokenizer.eos_id, seed=cfg.seed,
            on_step=show)
        count, seconds = len(out.completions[0]), time.perf_counter() - start
        end = "" if out.finished[0] else ", cut off at max_new_tokens"
        print(f"\n[{count} tokens, {count / seconds:.0f}/s{end}]")


if __name__ == "__main__":
    run_script(main)
