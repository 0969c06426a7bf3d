"""The preference model (DeepSeek-R1, arXiv 2501.12948, sec. 2.3.4): our Transformer with a scalar head read
at the last token, trained by `sft.py` on rows {"prompt", "chosen", "rejected", "aspect"} (Bradley-Terry).

As in the paper, helpfulness is judged on the summary alone (what follows `</think>`), harmlessness on the
whole response. Differs from the paper: one model for both; the question it is asked stands before the prompt.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch.nn.functional import logsigmoid

import rewards
from checkpoint import load_model
from config import UserError
from data.rows import ASPECTS
from data.tokenizer import Tokenizer, for_checkpoint
from kernels import Head
from model import Transformer
from moe import Routing
from rewards import Plan

CENTER = 0.01  # weight of the mean squared sum of a pair's scores, which keeps 0 between good and bad
ROWS = 64  # responses scored at once


def with_score_head(model: Transformer) -> Transformer:
    """The model with a scalar head that starts at zero, `score.weight` as in transformers' classes for
    sequence classification; the head over the vocabulary rests."""
    if not hasattr(model, "score"):
        model.score = Head(model.cfg.hidden_size, 1, bias=False)
        model.score.to(model.embed_tokens.weight).weight.data.zero_()
    if not model.cfg.tie_word_embeddings:
        model.lm_head.requires_grad_(False)
    return model


def judged_text(completion: str, aspect: str) -> str:
    """What is judged: for harmlessness everything; for helpfulness the summary, the part after `</think>`:
    all of a response without thinking, nothing of one whose thinking does not end."""
    if aspect == "helpful":
        _, closed, summary = completion.partition("</think>")
        completion = (summary if closed or "<think>" in completion else completion).strip()
    return completion


def encode_judged(tokenizer: Tokenizer, prompt: str, completion: str, aspect: str, longest: int) -> list[int]:
    """BOS aspect: prompt newline response EOS; a response too long for the context loses its end."""
    start = [*tokenizer.start, *tokenizer.encode(f"{aspect}: {prompt}\n")]
    response = tokenizer.encode(judged_text(completion, aspect), tags=True)
    return [*start, *response][: longest - 1] + [tokenizer.eos_id]


def encode_pair(tokenizer: Tokenizer, row: dict, longest: int) -> tuple[list[int], int]:
    """(chosen and rejected sequence in one list, length of the chosen). Raises UserError for another
    aspect."""
    aspect = row.get("aspect", "helpful")
    if aspect not in ASPECTS:
        raise UserError(f"a pair's aspect is {' or '.join(ASPECTS)}, not {aspect!r}")
    both = [encode_judged(tokenizer, row["prompt"], row[k], aspect, longest) for k in ("chosen", "rejected")]
    return both[0] + both[1], len(both[0])


def last_scores(model, sequences: list[list[int]], pad_id: int, device: str, routing=None) -> torch.Tensor:
    """The scalar at each sequence's last token: (B,). Right padding never reaches it: attention is causal."""
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    T = int(lengths.max())
    tokens = torch.tensor([s + [pad_id] * (T - len(s)) for s in sequences], device=device)  # (B, T)
    if routing is not None:
        routing.mask = torch.arange(T, device=device) < lengths[:, None]
    hidden = model.hidden(tokens, routing)  # (B, T, D)
    return model.score(hidden[torch.arange(len(sequences), device=device), lengths - 1]).squeeze(-1)


def pair_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected) per pair (Bradley-Terry), plus CENTER (r_chosen + r_rejected)^2
    (arXiv 2312.09244), for the former says nothing about where zero is."""
    return -logsigmoid(chosen - rejected) + CENTER * (chosen + rejected) ** 2


def pair_backward(model, batch, count: int, sequences: int, cfg, pad_id: int, device: str):
    """Add the gradient of one micro-batch of `encode_pair`s: sum of losses / `count` pairs, and the balance
    loss. Returns (sum of losses, loads per MoE layer)."""
    both = [tokens[:n] for tokens, n in batch] + [tokens[n:] for tokens, n in batch]
    routing = Routing(balance=cfg.balance_coef > 0)
    chosen, rejected = last_scores(model, both, pad_id, device, routing).chunk(2)
    losses = pair_loss(chosen, rejected)
    loss = losses.sum() / count
    for extra in routing.balance_losses:
        loss = loss + cfg.balance_coef * extra / (2 * sequences)
    loss.backward()
    return float(losses.sum().detach()), routing.load


@torch.no_grad()
def scores_of(model, tokenizer, prompts: list[str], completions: list[str], aspect: str) -> list[float]:
    """The scalar of each response under one aspect."""
    device, longest = str(model.embed_tokens.weight.device), model.cfg.max_position_embeddings
    sequences = [encode_judged(tokenizer, p, c, aspect, longest)
        for p, c in zip(prompts, completions, strict=True)]
    order, out = sorted(range(len(sequences)), key=lambda i: len(sequences[i])), [0.0] * len(sequences)
    for at in range(0, len(order), ROWS):
        part = order[at : at + ROWS]
        values = last_scores(model, [sequences[i] for i in part], tokenizer.pad_id, device).tolist()
        for i, value in zip(part, values, strict=True):
            out[i] = value
    return out


def pair_accuracy(model, tokenizer, rows: list[dict]) -> dict[str, float]:
    """The share of pairs whose chosen response scores higher, per aspect, and "all"."""
    right: dict[str, list[float]] = {}
    for aspect in ASPECTS:
        some = [row for row in rows if row.get("aspect", "helpful") == aspect]
        prompts = [row["prompt"] for row in some]
        a, b = (scores_of(model, tokenizer, prompts, [row[k] for row in some], aspect)
            for k in ("chosen", "rejected"))
        if some:
            right[aspect] = [float(x > y) for x, y in zip(a, b, strict=True)]
    out = {aspect: sum(r) / len(r) for aspect, r in right.items()}
    return out | {"all": sum(map(sum, right.values())) / sum(map(len, right.values()))}


# ------------------------------------------------------------------------------------------------ as a reward


@lru_cache
def load_judge(folder: str) -> dict[str, Callable[..., list[float]]]:
    """The rewards of a preference model: "helpful" and "harmless", the chance sigmoid(score) of each, and
    "preference", their product. Raises UserError for a folder without a scalar head."""
    model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = for_checkpoint(folder)
    if not hasattr(model, "score"):
        raise UserError(f"{folder} is no preference model: it has no score.weight (sft.py --stage reward)")
    model.eval().requires_grad_(False)

    def chances(completions, prompts, aspect):
        # in this order a NaN stays one, which `rewards.score` refuses; max(-60, min(60, nan)) would be 60
        return [1 / (1 + math.exp(-max(min(s, 60.0), -60.0)))
            for s in scores_of(model, tokenizer, prompts, completions, aspect)]

    def helpful(completions: list[str], prompts: list[str], **_) -> list[float]:
        return chances(completions, prompts, "helpful")

    def harmless(completions: list[str], prompts: list[str], **_) -> list[float]:
        return chances(completions, prompts, "harmless")

    def preference(completions: list[str], prompts: list[str], **_) -> list[float]:
        both = zip(helpful(completions, prompts), harmless(completions, prompts), strict=True)
        return [a * b for a, b in both]

    return {"preference": preference, "helpful": helpful, "harmless": harmless}


@lru_cache
def reward_plan(reward: str = "", weights: str = "", strict: bool = True) -> Plan:
    """`rewards.plan_of`, where --reward may also name a preference model: preference:FOLDER,file.py:function.
    Raises UserError."""
    parts = [part.strip() for part in reward.split(",") if part.strip()]
    folders = [part.removeprefix("preference:") for part in parts if part.startswith("preference:")]
    own = [part for part in parts if not part.startswith("preference:")]
    if len(folders) > 1:
        raise UserError(f"--reward {reward}: one preference model at most")
    functions = tuple(item for folder in folders for item in load_judge(folder).items())
    return rewards.plan_of(",".join(own), weights, functions, strict)
