"""Judges that are models (DeepSeek-R1, arXiv 2501.12948v2).

The preference model (sec. 3.1): our Transformer with a scalar head read at the last token, trained by
`sft.py` on rows {"prompt", "chosen", "rejected", "aspect"}. As in the paper, helpfulness is judged on the
summary alone (what follows `</think>`) and learnt from pairs; harmlessness is judged on the whole response
and learnt from single ones, safe or unsafe. Differs from the paper: one model for both, the aspect stands
before the prompt. (Its pairs were judged in both orders, by a model that saw two responses; a scalar is given
to one, so there is no order.)

The generative judge (of its rejection sampling): a chat model is shown the question, the right answer and
the response, and asked whether the response is right; its verdict is the probabilities of two words.
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
from data.tokenizer import CHAT, Tokenizer, for_checkpoint, with_template
from kernels import Head
from model import Transformer
from moe import Routing
from rewards import Plan

CENTER = 0.01  # weight of the mean squared sum of a pair's scores, which keeps 0 between good and bad
ROWS = 64  # responses scored at once
# What the generative judge is asked, without the middle line where no truth is known; its two words.
ASKED = ("Question: {prompt}", "Correct answer: {truth}", "Answer of a student: {response}",
    "Is the student's answer right? Say Yes or No.")
VERDICTS = ("Yes", "No")
TRUTHS = ("answer", "answers", "solution", "target")  # columns that may say what is right; the first does


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


def encode_pair(tokenizer: Tokenizer, row: dict, longest: int) -> tuple[list[int], int, str]:
    """(chosen and rejected sequence in one list, length of the chosen, aspect). Raises UserError for another
    aspect."""
    aspect = row.get("aspect", "helpful")
    if aspect not in ASPECTS:
        raise UserError(f"a pair's aspect is {' or '.join(ASPECTS)}, not {aspect!r}")
    both = [encode_judged(tokenizer, row["prompt"], row[k], aspect, longest) for k in ("chosen", "rejected")]
    return both[0] + both[1], len(both[0]), aspect


def last_hidden(model, sequences: list[list[int]], pad_id: int, device: str, routing=None) -> torch.Tensor:
    """The hidden state at each sequence's last token: (B, D). Right padding never reaches it: attention is
    causal."""
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    T = int(lengths.max())
    tokens = torch.tensor([s + [pad_id] * (T - len(s)) for s in sequences], device=device)  # (B, T)
    if routing is not None:
        routing.mask = torch.arange(T, device=device) < lengths[:, None]
    hidden = model.hidden(tokens, routing)  # (B, T, D)
    return hidden[torch.arange(len(sequences), device=device), lengths - 1]


def last_scores(model, sequences: list[list[int]], pad_id: int, device: str, routing=None) -> torch.Tensor:
    """The scalar at each sequence's last token: (B,)."""
    return model.score(last_hidden(model, sequences, pad_id, device, routing)).squeeze(-1)


def pair_loss(chosen: torch.Tensor, rejected: torch.Tensor, pointwise: torch.Tensor) -> torch.Tensor:
    """The loss of each pair, all (B,). Where not `pointwise` (helpful): -log sigmoid(r_chosen - r_rejected)
    (Bradley-Terry), plus CENTER (r_chosen + r_rejected)^2 (arXiv 2312.09244), for the former says nothing
    about where zero is. Where it is (harmless): the binary cross-entropies of two single responses, of which
    the chosen one is labelled safe, the rejected one unsafe."""
    pairwise = -logsigmoid(chosen - rejected) + CENTER * (chosen + rejected) ** 2
    return torch.where(pointwise, -logsigmoid(chosen) - logsigmoid(-rejected), pairwise)


def pair_backward(model, batch, count: int, sequences: int, cfg, pad_id: int, device: str):
    """Add the gradient of one micro-batch of `encode_pair`s: sum of losses / `count` pairs, and the balance
    loss. Returns (sum of losses, loads per MoE layer)."""
    both = [tokens[:n] for tokens, n, _ in batch] + [tokens[n:] for tokens, n, _ in batch]
    pointwise = torch.tensor([aspect == "harmless" for *_, aspect in batch], device=device)
    routing = Routing(balance=cfg.balance_coef > 0)
    chosen, rejected = last_scores(model, both, pad_id, device, routing).chunk(2)
    losses = pair_loss(chosen, rejected, pointwise)
    loss = losses.sum() / count
    for extra in routing.balance_losses:
        loss = loss + cfg.balance_coef * extra / (2 * sequences)
    loss.backward()
    return float(losses.sum().detach()), routing.load


@torch.no_grad()
def by_length(sequences: list[list[int]], values: Callable[[list[list[int]]], torch.Tensor]) -> list[float]:
    """A value of each sequence, from calls with at most ROWS of like length."""
    order, out = sorted(range(len(sequences)), key=lambda i: len(sequences[i])), [0.0] * len(sequences)
    for at in range(0, len(order), ROWS):
        part = order[at : at + ROWS]
        for i, value in zip(part, values([sequences[i] for i in part]).tolist(), strict=True):
            out[i] = value
    return out


def scores_of(model, tokenizer, prompts: list[str], completions: list[str], aspect: str) -> list[float]:
    """The scalar of each response under one aspect."""
    device, longest = str(model.embed_tokens.weight.device), model.cfg.max_position_embeddings
    sequences = [encode_judged(tokenizer, p, c, aspect, longest)
        for p, c in zip(prompts, completions, strict=True)]
    return by_length(sequences, lambda some: last_scores(model, some, tokenizer.pad_id, device))


def pair_accuracy(model, tokenizer, rows: list[dict]) -> dict[str, float]:
    """What is right per aspect, and of "all" rows: of helpful pairs the share whose chosen response scores
    higher, of harmless responses the share on their label's side of zero."""
    right: dict[str, list[float]] = {}
    for aspect in ASPECTS:
        some = [row for row in rows if row.get("aspect", "helpful") == aspect]
        prompts = [row["prompt"] for row in some]
        a, b = (scores_of(model, tokenizer, prompts, [row[k] for row in some], aspect)
            for k in ("chosen", "rejected"))
        if some:
            right[aspect] = [((x > 0) + (y < 0)) / 2 if aspect == "harmless" else float(x > y)
                for x, y in zip(a, b, strict=True)]
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
def load_generative(folder: str) -> dict[str, Callable[..., list[float | None]]]:
    """The generative judge in a folder: {"generative": f}, f the chance of "Yes" against "No" as what a chat
    model says first. The summary of a response is judged alone; one without any is wrong (0), one that does
    not fit into the context is not judged (None). Raises UserError for a folder without a chat template, or
    where both words start with the same token."""
    tokenizer = for_checkpoint(folder)
    if not tokenizer.chat_template:
        raise UserError(f"generative:{folder} has no chat template to ask with: name a chat model's folder")
    tokenizer = with_template(tokenizer, CHAT, "")
    words = [tokenizer.encode(word)[0] for word in VERDICTS]
    if words[0] == words[1]:
        raise UserError(f"generative:{folder}: its tokens for {' and '.join(VERDICTS)} start alike, so the "
            "first one is no verdict: name another model")
    model = load_model(folder, "cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    device, head = str(model.embed_tokens.weight.device), model.lm_head.weight[words].float()  # (2, D)
    # of a template that opens the thinking, as R1's does: the verdict comes without any
    closing = tokenizer.encode("</think>\n", tags=True) if tokenizer.opening else []

    def chances(sequences):  # P(yes) / (P(yes) + P(no)) is the softmax of the two logits alone
        hidden = last_hidden(model, sequences, tokenizer.pad_id, device)  # (B, D)
        return torch.softmax(hidden.float() @ head.T, -1)[:, 0]

    def generative(completions: list[str], prompts: list[str], **columns) -> list[float | None]:
        known = zip(*(columns.get(name, [None] * len(prompts)) for name in TRUTHS), strict=True)
        truths = [next((value for value in row if value is not None), None) for row in known]
        said = [judged_text(c, "helpful") for c in completions]
        asked = [[*tokenizer.encode_prompt(question(*row)), *closing]
            for row in zip(prompts, truths, said, strict=True)]
        able = [i for i, ids in enumerate(asked) if said[i] and len(ids) <= model.cfg.max_position_embeddings]
        found = dict(zip(able, by_length([asked[i] for i in able], chances), strict=True))
        return [found.get(i, None if text else 0.0) for i, text in enumerate(said)]

    return {"generative": generative}


def question(prompt: str, truth: object, response: str) -> str:
    """What the generative judge is asked about one response."""
    truth = " or ".join(map(str, truth)) if isinstance(truth, list) else truth
    lines = [line for line in ASKED if truth is not None or "{truth}" not in line]
    return "\n".join(lines).format(prompt=prompt, truth=truth, response=response)


# What --reward and --judge may name with a folder.
MODELS: dict[str, Callable] = {"preference": load_judge, "generative": load_generative}


@lru_cache
def reward_plan(reward: str = "", weights: str = "", strict: bool = True) -> Plan:
    """`rewards.plan_of`, where --reward may also name models: preference:FOLDER, generative:FOLDER,
    file.py:function. Raises UserError."""
    parts = [part.strip() for part in reward.split(",") if part.strip()]
    models = [part.partition(":")[::2] for part in parts if part.partition(":")[0] in MODELS]
    own = [part for part in parts if part.partition(":")[0] not in MODELS]
    if len(dict(models)) < len(models):
        raise UserError(f"--reward {reward}: one model of each kind at most")
    functions = tuple(item for kind, folder in models for item in MODELS[kind](folder).items())
    return rewards.plan_of(",".join(own), weights, functions, strict)
