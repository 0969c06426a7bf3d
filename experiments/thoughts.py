"""Thoughts between the tokens of a text, at all positions in parallel (Quiet-STaR, arXiv 2403.09629, sec. 4):
the passes and the loss of experiments/quiet.py.

Letters: the legend of model.py, and here G = thoughts per position, Q = positions that think, L = tokens of a
thought, n = true tokens that are predicted behind it, m = tokens in one pass of a thought.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from data.hidden import Document
from kernels import embed
from model import Transformer, run_block
from sample import row_noise, sample_tokens

TRUST = 0.1  # the mixing weight that training starts from


class Talk(nn.Module):
    """What thinking adds to a model: the embeddings of the start and the end of a thought (2, D), and the
    mixing head, an MLP on the states without and with the thought."""

    def __init__(self, width: int, like: torch.Tensor):
        super().__init__()
        self.embed_marks = nn.Parameter(like.detach().clone().repeat(2, 1))  # as a pause in the text
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))
        nn.init.zeros_(self.mix[2].weight)
        nn.init.constant_(self.mix[2].bias, math.log(TRUST / (1 - TRUST)))

    def forward(self, plain, thinking):
        """The weight of the prediction with the thought: (..., D) twice -> (...), in 0..1."""
        return self.mix(torch.cat([plain.expand_as(thinking), thinking], -1)).squeeze(-1).sigmoid()


def sees(at: torch.Tensor, T: int, past: int, m: int) -> torch.Tensor:
    """The attention mask of thoughts (the paper, sec. 4.2): at (B, Q) the position that each follows -> (B,
    Q, m, T + past + m). Token i of a thought sees the text up to that position, and its own thought's `past`
    tokens, those before it and itself; no other thought, and no later text."""
    text = (torch.arange(T, device=at.device) <= at[..., None])[:, :, None].expand(-1, -1, m, -1)
    own = torch.ones(m, past + m, dtype=torch.bool, device=at.device).tril(past).expand(*at.shape, -1, -1)
    return torch.cat([text, own], -1)


def keys_values(attention, latent):
    """MLA's expanded keys and values, heads first: latent (B, ..., C+R) -> (B, H, ..., U+R), (B, H, ...,
    W)."""
    c, k_rot = latent.split([attention.C, attention.R], -1)
    k, v = attention.kv_b_proj(c).unflatten(-1, (attention.H, -1)).split([attention.U, attention.W], -1)
    k_rot = k_rot[..., None, :].expand(*k.shape[:-1], -1)
    return torch.cat([k, k_rot], -1).movedim(-2, 1), v.movedim(-2, 1)


def read(model: Transformer, tokens: torch.Tensor):
    """`Transformer.hidden`, and what thoughts attend to: tokens (B, T) -> (B, T, D), and per layer the text's
    keys (B, H, T, U+R) and values."""
    x, memory = embed(tokens, model.embed_tokens.weight), []
    freqs = model.freqs(torch.arange(tokens.shape[1], device=tokens.device))
    for layer in model.layers:
        x, (latent,) = run_block(layer, x, freqs, None)
        memory.append(keys_values(layer.self_attn, latent.squeeze(2)))
    return model.norm(x), memory


def extend(model: Transformer, memory, own, at, x):
    """The next m tokens of all thoughts: x (B, G, Q, m, D), which follow the text up to `at` (B, Q) and the
    thoughts' earlier keys and values `own` (None before the first) -> (B, G, Q, m, D), own with theirs."""
    T, past, m, after = memory[0][0].shape[2], own[0][0].shape[4] if own else 0, x.shape[3], []
    place = at[..., None] + 1 + past + torch.arange(m, device=at.device)  # positions go on from the prefix
    freqs, unseen = model.freqs(place)[:, None], ~sees(at, T, past, m)[:, None, None]
    for number, layer in enumerate(model.layers):
        attention, h = layer.self_attn, layer.input_layernorm(x)
        q = torch.cat(attention.queries(h, freqs), -1).movedim(-2, 1)  # (B, H, G, Q, m, U+R)
        k, v = keys_values(attention, attention.latent(h, freqs))
        if own:
            k, v = (torch.cat(pair, 4) for pair in zip(own[number], (k, v), strict=True))
        after.append((k, v))
        text_k, text_v = memory[number]
        on_text = (q.flatten(2, 4) @ text_k.mT).view(*q.shape[:-1], T)
        scores = torch.cat([on_text, q @ k.mT], -1) * attention.scale
        p = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        out = (p[..., :T].flatten(2, 4) @ text_v).view(*q.shape[:-1], -1) + p[..., T:] @ v
        x = layer.feed_forward(x + attention.o_proj(out.movedim(1, -2).flatten(-2)), None)
    return model.norm(x), after


class Thoughts(NamedTuple):
    ids: torch.Tensor  # (B, G, Q, L)
    logprobs: torch.Tensor  # (B, G, Q), of whole thoughts
    entropy: torch.Tensor  # (B, G, Q), in nats per token
    hidden: torch.Tensor  # (B, G, Q, n, D): the end token's state, and those of the true tokens behind it


def think(model: Transformer, talk: Talk, memory, at, ahead, noise) -> Thoughts:
    """Sample thoughts after the positions `at` (B, Q), by uniform numbers `noise` (B, G, Q, L), one token of
    all thoughts in a pass; the last pass reads the end token and the true tokens `ahead` (B, Q, n-1)."""
    table, marks = model.embed_tokens.weight, talk.embed_marks.expand(*noise.shape[:3], 2, -1)
    x, own, ids, logprobs, entropy = marks[..., :1, :], None, [], [], []
    for uniform in noise.unbind(-1):
        hidden, own = extend(model, memory, own, at, x)
        logp = model.lm_head(hidden.squeeze(3)).log_softmax(-1)
        flat = logp.detach().flatten(0, -2)
        ids.append(sample_tokens(flat, uniform.flatten())[0].view(uniform.shape))
        logprobs.append(logp.gather(-1, ids[-1][..., None]).squeeze(-1))
        entropy.append(-(flat.exp() * flat).sum(-1).view(uniform.shape))
        x = embed(ids[-1], table)[:, :, :, None]
    true = embed(ahead, table)[:, None].expand(-1, noise.shape[1], -1, -1, -1)
    hidden, _ = extend(model, memory, own, at, torch.cat([x, marks[..., 1:, :], true], 3))
    return Thoughts(torch.stack(ids, -1), sum(logprobs), sum(entropy) / len(ids), hidden[..., 1:, :])


def mixed(model: Transformer, talk: Talk, plain, thinking):
    """States without (B, 1, Q, n, D) and with thoughts (B, G, Q, n, D) -> log-probabilities (B, G, Q, n, V)
    of the mixture w log p_thought + (1 - w) log p_plain, normalised, and w (B, G, Q, n)."""
    w, both = talk(plain, thinking), (model.lm_head(plain), model.lm_head(thinking))
    return torch.lerp(*both, w[..., None]).log_softmax(-1), w  # of logits: their sums cancel


class Scored(NamedTuple):
    """What a pass says of the Q = T-1 predictions of documents (B, T)."""

    plain: torch.Tensor  # (B, Q): log-probability of the next token without a thought
    present: torch.Tensor  # (B, 1, Q, n): which of the true tokens ahead are there
    mix: torch.Tensor  # (B, G, Q, n): log-probabilities of the true tokens ahead by the mixture
    weight: torch.Tensor | None = None  # (B, G, Q, n): how much it trusts the thought
    thoughts: Thoughts | None = None  # None where L = 0: then mix is plain

    def rewards(self) -> torch.Tensor:
        """Of each thought (B, G, Q): the log-likelihood of its true tokens minus the mean of its G siblings,
        itself included (the paper, sec. 4.4.3)."""
        likelihood = (self.mix.detach() * self.present).sum(-1)
        return likelihood - likelihood.mean(1, keepdim=True)

    def loss(self, reinforce: float, negative: bool) -> torch.Tensor:
        """Summed over positions and true tokens, a mean over thoughts: the negative log-likelihood by the
        mixture, and `reinforce` times REINFORCE. As in the paper, thoughts worse than the mean are not
        unlearnt, unless negative."""
        loss = -(self.mix * self.present).mean(1).sum()
        if self.thoughts:
            rewards = self.rewards() if negative else self.rewards().clamp(min=0)
            loss = loss - reinforce * (rewards * self.thoughts.logprobs).mean(1).sum()
        return loss


def scored(model: Transformer, talk: Talk, docs: list[Document], G: int, L: int, n: int, seed: int) -> Scored:
    """Pass documents through the model, with G thoughts of L tokens at each position; L = 0: without, n = 1.
    The noise is of the document and the position, so that batches change nothing."""
    T, device = max(len(d.tokens) for d in docs), model.embed_tokens.weight.device
    tokens = torch.tensor([d.tokens + [0] * (T + n - len(d.tokens)) for d in docs], device=device)
    lengths = torch.tensor([len(d.tokens) for d in docs], device=device)
    at = torch.arange(T - 1, device=device)
    ahead = at[:, None] + 1 + torch.arange(n, device=device)  # (Q, n): the places of the true tokens
    states, memory = read(model, tokens[:, :T])
    logp = model.lm_head(states[:, :-1]).log_softmax(-1)
    plain, present = logp.gather(-1, tokens[:, 1:T, None]), (ahead < lengths[:, None, None])[:, None]
    if not L:
        return Scored(plain.squeeze(-1), present, plain[:, None])
    noise = row_noise(seed, [d.number for d in docs], G, (T - 1) * L).view(len(docs), G, T - 1, L).to(device)
    thoughts = think(model, talk, memory, at.expand(len(docs), -1), tokens[:, ahead[:, :-1]], noise)
    before = states[:, (ahead - 1).clamp(max=T - 1)][:, None]  # (B, 1, Q, n, D)
    logp, weight = mixed(model, talk, before, thoughts.hidden)
    targets = tokens[:, None, ahead, None].expand(-1, G, -1, -1, -1)
    return Scored(plain.squeeze(-1), present, logp.gather(-1, targets).squeeze(-1), weight, thoughts)


@torch.no_grad()
def speak(model: Transformer, talk: Talk, prompts: list[list[int]], ids: list[int], G: int, room: int,
        L: int, ends: tuple[int, ...], seed: int) -> list[list[int]]:
    """G completions of each prompt, a thought of L tokens before every token: at most `room` tokens each, in
    the order of the prompts. What was said becomes text, what was thought is forgotten."""
    table, lengths = model.embed_tokens.weight, torch.tensor([len(p) for p in prompts])
    tokens = torch.tensor([p + [0] * (int(lengths.max()) - len(p)) for p in prompts], device=table.device)
    noise = row_noise(seed, ids, G, room * (L + 1)).view(-1, 1, 1, room, L + 1).to(table.device)
    states, memory = read(model, tokens)
    plain = states[torch.arange(len(prompts)), lengths - 1].repeat_interleave(G, 0)[:, None, None, None]
    memory = [tuple(x.repeat_interleave(G, 0) for x in pair) for pair in memory]
    at, stop = (lengths - 1).repeat_interleave(G)[:, None].to(table.device), tokens.new_tensor(ends)
    rows = torch.arange(len(at), device=table.device)  # those that have not ended
    said: list[list[int]] = [[] for _ in at]
    for step in range(room):
        uniform = noise[rows, :, :, step]
        thoughts = think(model, talk, memory, at, at.new_zeros(len(at), 1, 0), uniform[..., :L])
        logp, _ = mixed(model, talk, plain, thoughts.hidden)  # (N, 1, 1, 1, V)
        new = sample_tokens(logp.flatten(0, -2), uniform[..., L].flatten())[0]
        for row, token in zip(rows.tolist(), new.tolist(), strict=True):
            said[row].append(token)
        on = ~torch.isin(new, stop)
        if not on.any() or step + 1 == room:
            break
        rows, at, more = rows[on], at[on], max(0, int(at[on].max()) + 2 - memory[0][0].shape[2])
        memory = [tuple(F.pad(x[on], (0, 0, 0, more and more + 15)) for x in pair) for pair in memory]
        plain, fresh = extend(model, memory, None, at, embed(new[on], table)[:, None, None, None])
        at = at + 1
        for pair, new_pair in zip(memory, fresh, strict=True):
            for x, new_x in zip(pair, new_pair, strict=True):
                x[torch.arange(len(at)), :, at[:, 0]] = new_x.flatten(2, 4).squeeze(2)
    return said
