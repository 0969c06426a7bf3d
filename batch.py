"""What training takes from a rollout: samples as tensors, their log-probabilities, and the memory that a pass
over them needs. Letters: the legend of model.py."""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from attention import LONGEST_BLOCKED
from config import ModelConfig
from kernels import token_logprobs
from model import Transformer
from parallel import Ranks, free_bytes, is_sharded, local


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


class Batch(NamedTuple):
    """Samples as tensors, right-padded; each prompt once."""

    prompts: torch.Tensor  # (P, S)
    lengths: torch.Tensor  # (P,) of the prompts
    owner: torch.Tensor  # (B,) the prompt of each completion
    completions: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) the completion's tokens, its end token included
    old_logprobs: torch.Tensor  # (B, T)

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
        padded([s.old_logprobs for s in samples], 0.0))


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


def completion_logprobs(model, batch: Batch, temperature: float, routing=None):
    """Log-probabilities and entropies of the completions' tokens, zero elsewhere: (B, T) each. Equals
    `token_logprobs` of `model.hidden` over the whole sequences."""
    inputs, at = batch.completions[:, :-1], batch.mask.flatten().nonzero().squeeze(1)
    hidden = model.hidden_shared(batch.prompts, batch.lengths, inputs, batch.owner, routing)  # (B, T, D)
    hidden, targets = hidden.flatten(0, 1).index_select(0, at), batch.completions.flatten()[at]
    logprobs, entropy = token_logprobs(hidden, model.lm_head.weight, targets, temperature)
    zeros = torch.zeros(batch.mask.shape, device=at.device)
    return zeros.masked_scatter(batch.mask, logprobs), zeros.masked_scatter(batch.mask, entropy)


# ----------------------------------------------------------------------------------------------------- memory


def weight_bytes(model: nn.Module) -> int:
    """On this rank, if the model is split."""
    return sum(local(p).nbytes for p in model.parameters())


def training_bytes(model: nn.Module) -> int:
    """What training adds to the weights on this rank: gradient and AdamW's two moments in float32, and the
    float32 master of each bfloat16 parameter that has none yet."""
    return sum(len(local(p).flatten()) * (12 if p.dtype == torch.float32 or hasattr(p, "master") else 16)
        for p in model.parameters())


def activation_bytes(cfg: ModelConfig, tokens: int, element_size: int, length: int = 0,
        recompute: bool = False) -> int:
    """Most bytes that a training pass over `tokens` tokens keeps for its backward pass, without the head's
    chunk of logits (kernels.CHUNK_NUMBERS). Numbers per token that a layer keeps:
        norms       4 D: of each, its input and its output
        attention   MLA: 2 H (U + R) of queries and keys, 2 H W of values and outputs, 2 (C + R) of the latent
                    and 2 q_lora_rank before and after their norms. GQA: 2 H W of queries and outputs, 2 M W
                    of keys and values, and with norms of queries and keys (H + M) W more, before them.
                    H length / 2 probabilities, if rows are `length` tokens long: only the blocked attention
                    on a CPU keeps them, 0 elsewhere
        SwiGLU      4 per hidden unit of a dense layer or of the shared experts: gate, up, silu, product
        experts     K (D + 3 F): of each token-expert pair its input, gate, up, product
        router      3 E scores and, of a bfloat16 model, D of its input, in float32
    recompute: only D per layer, and all of one layer at a time."""
    D, H, K, F = cfg.hidden_size, cfg.num_attention_heads, cfg.num_experts_per_tok, cfg.moe_intermediate_size
    attention = 4 * D + H * length // 2
    if cfg.family.attention == "mla":
        attention += H * (2 * cfg.qk_nope_head_dim + 2 * cfg.qk_rope_head_dim + 2 * cfg.v_head_dim)
        attention += 2 * (cfg.q_lora_rank or 0) + 2 * (cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    else:
        attention += (2 + cfg.use_qk_norm) * (H + cfg.num_key_value_heads) * cfg.head_dim
    router = (3 * cfg.n_routed_experts + (D if element_size < 4 else 0)) * 4 // element_size
    dense = attention + 4 * cfg.intermediate_size
    moe = attention + 4 * cfg.n_shared_experts * F + K * (D + 3 * F) + router
    layers = [dense if i < cfg.first_k_dense_replace else moe for i in range(cfg.num_hidden_layers)]
    kept = len(layers) * D + max(layers) if recompute else sum(layers)
    return tokens * element_size * (kept + 3 * D)  # the last norm


def fits(model: Transformer, tokens: int, length: int, reference: bool, ranks: Ranks) -> bool:
    """Whether the activations of a training pass over `tokens` tokens, in rows of `length`, and a quarter
    more for what the formula leaves out, go into what is free beside gradients, optimizer and reference."""
    needed = training_bytes(model) + (weight_bytes(model) if reference else 0)
    kept = length if ranks.device == "cpu" and length <= LONGEST_BLOCKED else 0
    computed = model.shards.plain if is_sharded(model) else model  # a split model's own weights are float32
    activations = activation_bytes(model.cfg, tokens, computed.lm_head.weight.element_size(), kept)
    return needed + 1.25 * activations <= free_bytes(ranks)
