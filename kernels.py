"""Fused operations in plain torch. Each fast form stands beside the plain form that it is tested against.

Shapes use the legend of model.py: B sequences, T tokens, D width, V vocabulary, E experts, K experts per
token, F expert width, N tokens of a flattened batch.
"""

import torch
import torch.nn.functional as F

# ------------------------------------------------------------------------------------------------- norm, RoPE


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32 inside (Zhang & Sennrich
    2019)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def rms_norm_plain(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The reading version of `rms_norm`."""
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Rotate interleaved pairs (x0, x1), (x2, x3), ... by complex unit numbers (RoFormer, arXiv 2104.09864,
    eq. 34).

    x (..., R); freqs complex64, broadcastable to (..., R/2): exp(i m theta_j), times YaRN's attention
    factor."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs).flatten(-2).to(x.dtype)


# ---------------------------------------------------------------------------------------------------- experts


def experts_plain(x, gate_up, down, weights, indices):
    """The reading version: for each expert, the tokens that chose it. DeepSeek-V3, eq. 12: sum_k g_k
    FFN_k(x).

    x (N, D); gate_up (E, 2F, D); down (E, D, F); weights (N, K); indices (N, K) -> (N, D)."""
    out = torch.zeros_like(x)
    for e in range(gate_up.shape[0]):
        token, slot = torch.where(indices == e)
        gate, up = (x[token] @ gate_up[e].T).chunk(2, dim=-1)
        out = out.index_add(0, token, (F.silu(gate) * up) @ down[e].T
            * weights[token, slot, None].to(x.dtype))
    return out


def experts_grouped(x, gate_up, down, weights, indices):
    """Same as `experts_plain`, with the token-expert pairs sorted by expert and multiplied group by group.

    On CUDA in bfloat16 the groups go through `torch._grouped_mm` (no host synchronisation); elsewhere each
    expert's contiguous rows are one matmul. `unbind` makes the stacked weights' gradient one stack, not E
    zero-filled copies."""
    (N, K), E = indices.shape, gate_up.shape[0]
    order = indices.flatten().argsort(stable=True)  # (N*K,) pairs, sorted by expert
    counts = torch.bincount(indices.flatten(), minlength=E)  # (E,)
    rows = x[order // K]  # (N*K, D)
    if use_grouped_mm(x):
        offsets = counts.cumsum(0).to(torch.int32)
        gate, up = torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=offsets).chunk(2, dim=-1)
        rows = torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=offsets)
    else:
        outs = []
        for r, w_in, w_out in zip(rows.split(counts.tolist()), gate_up.unbind(0), down.unbind(0),
                strict=True):
            gate, up = F.linear(r, w_in).chunk(2, dim=-1)
            outs.append(F.linear(F.silu(gate) * up, w_out))
        rows = torch.cat(outs)
    pairs = torch.empty_like(order).scatter_(0, order, torch.arange(N * K, device=x.device))  # undo the sort
    return torch.einsum("nkd,nk->nd", rows[pairs].view(N, K, -1), weights.to(x.dtype))


def use_grouped_mm(x: torch.Tensor) -> bool:
    """torch._grouped_mm is a CUDA bfloat16 kernel (compute capability 8.0 and up) that needs 16-byte rows."""
    return (x.is_cuda and x.dtype == torch.bfloat16 and x.shape[-1] % 8 == 0 and hasattr(torch, "_grouped_mm")
        and torch.cuda.get_device_capability(x.device) >= (8, 0))


# --------------------------------------------------------------------------------- log-probabilities, entropy

CHUNK_NUMBERS = 1 << 22  # logits held at once: 16 MiB in float32


class _TokenLogprobs(torch.autograd.Function):
    """Head, log-softmax, gather and entropy, chunk by chunk; the backward pass recomputes a chunk's
    logits."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk):
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.chunk = temperature, chunk
        logprobs = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        for s in range(0, targets.numel(), chunk):
            part = slice(s, s + chunk)
            logp = F.log_softmax((hidden[part] @ weight.T).float() / temperature, dim=-1)  # (chunk, V)
            logprobs[part] = logp.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -(logp.exp() * logp).sum(-1)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, targets = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for s in range(0, targets.numel(), ctx.chunk):
            part = slice(s, s + ctx.chunk)
            g = F.softmax((hidden[part] @ weight.T).float() / ctx.temperature, dim=-1)
            g.mul_(-grad[part, None]).scatter_add_(1, targets[part, None], grad[part, None])
            g = g.div_(ctx.temperature).to(
                hidden.dtype
            )  # d logprob / d logit = (1[target] - softmax) / temperature
            grad_hidden[part] = g @ weight
            grad_weight += (g.T @ hidden[part]).float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def token_logprobs(hidden, head_weight, targets, temperature: float = 1.0, chunk: int | None = None):
    """log softmax(head_weight hidden / temperature)[target] and the entropy of that distribution, per token.

    hidden (..., D), head_weight (V, D), targets (...) -> logprobs (...), entropy (...), float32, in nats.
    Never holds more than `chunk` x V logits. The entropy is the exact one over V, not the sampled
    -logprob, and has no gradient."""
    chunk = chunk or max(1, CHUNK_NUMBERS // head_weight.shape[0])
    shape = targets.shape
    flat = hidden.reshape(-1, hidden.shape[-1]), head_weight, targets.reshape(-1)
    logprobs, entropy = _TokenLogprobs.apply(*flat, temperature, chunk)
    return logprobs.view(shape), entropy.view(shape)


def token_logprobs_plain(hidden, head_weight, targets, temperature: float = 1.0):
    """The reading version of `token_logprobs`: holds all logits (..., V)."""
    logp = F.log_softmax((hidden @ head_weight.T).float() / temperature, dim=-1)
    return logp.gather(-1, targets[..., None]).squeeze(-1), -(logp.exp() * logp).sum(-1).detach()


# --------------------------------------------------------------------------------------------------- sampling


def sample_tokens(logits: torch.Tensor, uniform: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0):
    """Draw one token per row by inverting the cdf at `uniform`, and give its log-probability under what was
    sampled.

    logits (N, V), uniform (N,) in [0, 1) -> tokens (N,), logprobs (N,) float32. temperature 0 is greedy
    (log-probability 0: the sampled distribution is a point). top_p keeps the smallest set of most likely
    tokens whose probability reaches top_p (nucleus sampling, arXiv 1904.09751) and renormalises."""
    if temperature == 0:
        return logits.argmax(-1), torch.zeros(logits.shape[0], device=logits.device)
    probs = F.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ordered, place = probs.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # the mass before this token already reaches top_p
        probs = probs.scatter(1, place, ordered.masked_fill(outside, 0.0))
    cdf = probs.cumsum(-1)
    tokens = torch.searchsorted(
        cdf, uniform[:, None].to(cdf.dtype) * cdf[:, -1:], right=True
    )  # first cdf > u * total
    last = (cdf < cdf[:, -1:]).sum(
        -1, keepdim=True
    )  # the last token with probability: u * total can round up to total
    tokens = torch.minimum(tokens, last)
    return tokens.squeeze(1), (probs.gather(1, tokens) / cdf[:, -1:]).log().squeeze(1)
