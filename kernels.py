"""Fused operations in plain torch. Each fast form stands beside the plain form that it is tested against.

Shapes use the legend of model.py: B sequences, T tokens, D width, V vocabulary, E experts, K experts per
token, F expert width, N tokens of a flattened batch.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------------------------- norm, RoPE


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in float32 inside (Zhang & Sennrich
    2019)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


class _RMSNorm(torch.autograd.Function):
    """Half the passes over memory that torch's own gradient takes on a CPU."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, r = ctx.saved_tensors
        gx = grad * x
        along = (gx @ weight)[..., None] * r.pow(3) / -x.shape[-1]
        return (grad * weight).mul_(r).addcmul_(x, along), r.flatten() @ gx.flatten(0, -2), None


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


# -------------------------------------------------------------------------------------------------- attention

BLOCK, LONGEST_BLOCKED = 48, 1024  # queries at once; beyond that length the kept probabilities are too many


def mla_attention(q, kv, k_rot, freqs, scale: float, hidden=None):
    """Causal attention over expanded keys and values (DeepSeek-V3, eq. 10, 11).

    q (B, T, H, n+R), the last R numbers not rotated yet, with their freqs (T, R/2) or (B, T, R/2); kv
    (B, S, H, n+w): keys without their rotary part, values; k_rot (B, S, R), rotated, for all heads. S >= T:
    query t sees the keys up to S-T+t, but not the `hidden` (B, S-T) ones, given if S > T -> (B, T, H, w).

    In float32 on a CPU, blocks of queries see only their past, by batched matmuls with the gradient by hand:
    1.6 times as fast as torch's fused kernel there at 160 to 512 tokens. Elsewhere, and for long sequences,
    `scaled_dot_product_attention`."""
    if q.device.type == "cpu" and q.dtype == torch.float32 and kv.shape[1] <= LONGEST_BLOCKED:
        return _BlockedAttention.apply(q, kv, k_rot, freqs, scale, hidden)
    return mla_attention_plain(q, kv, k_rot, freqs, scale, hidden)


def mla_attention_plain(q, kv, k_rot, freqs, scale: float, hidden=None):
    """The reading version of `mla_attention`."""
    T, H, S, n = *q.shape[1:3], kv.shape[1], q.shape[-1] - k_rot.shape[-1]
    q = torch.cat([q[..., :n], rope(q[..., n:], freqs[..., None, :])], dim=-1)  # (B, T, H, n+R)
    k = torch.cat([kv[..., :n], k_rot[:, :, None].expand(-1, -1, H, -1)], dim=-1)  # (B, S, H, n+R)
    v, width = kv[..., n:], kv.shape[-1] - n
    v = F.pad(v, (0, max(0, q.shape[-1] - width)))  # the fused kernels want one head width
    seen = None
    if S > T:
        seen = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        seen = seen & ~F.pad(hidden, (0, T))[:, None, None]  # (B, 1, T, S)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=seen,
        is_causal=seen is None, scale=scale)
    return out.transpose(1, 2)[..., :width]


class _BlockedAttention(torch.autograd.Function):
    """`mla_attention`, block after block of queries. Below, b runs over sequences and heads together."""

    @staticmethod
    def forward(ctx, q, kv, k_rot, freqs, scale, hidden):
        (B, T, H, d), S, n = q.shape, kv.shape[1], q.shape[-1] - k_rot.shape[-1]
        turn = freqs[..., None, :] * scale
        Q, K = q.new_empty(B, H, T, d), q.new_empty(B, H, S, d)
        torch.mul(q[..., :n], scale, out=Q.transpose(1, 2)[..., :n])
        torch.mul(_complex(q[..., n:]), turn, out=_complex(Q.transpose(1, 2)[..., n:]))
        K[..., :n], K[..., n:] = kv[..., :n].transpose(1, 2), k_rot[:, None]
        Q, K, V = (x.flatten(0, 1) for x in (Q, K, kv[..., n:].transpose(1, 2)))  # (b, t, .), (b, s, .)
        out, kept = q.new_empty(B, T, H, V.shape[-1]), []
        future = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1)
        for i in range(0, T, BLOCK):
            e = min(i + BLOCK, T)
            past = S - T + e
            p = torch.bmm(Q[:, i:e], K[:, :past].transpose(1, 2))  # (b, block, past)
            p[:, :, S - T + i :].masked_fill_(future[: e - i, : e - i], float("-inf"))
            if S > T:
                p[:, :, : S - T].unflatten(0, (B, H)).masked_fill_(hidden[:, None, None], float("-inf"))
            torch.softmax(p, -1, out=p)
            out.transpose(1, 2)[:, :, i:e] = torch.bmm(p, V[:, :past]).unflatten(0, (B, H))
            kept.append(p)
        ctx.save_for_backward(Q, K, V, turn, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        Q, K, V, turn, out, *kept = ctx.saved_tensors
        (B, T, H, _), n = grad.shape, K.shape[2] - 2 * turn.shape[-1]
        along = (grad * out).sum(-1).transpose(1, 2).reshape(B * H, T, 1)  # sum_s p_s dL/dp_s of each query
        grad = grad.transpose(1, 2).flatten(0, 1)
        g_Q, g_K, g_V = torch.empty_like(Q), torch.zeros_like(K), torch.zeros_like(V)
        for p, i in zip(kept, range(0, T, BLOCK), strict=True):
            e, past = i + p.shape[1], p.shape[2]
            g_V[:, :past] += torch.bmm(p.transpose(1, 2), grad[:, i:e])  # baddbmm_ of a slice is a loop
            g_s = torch.bmm(grad[:, i:e], V[:, :past].transpose(1, 2)).sub_(along[:, i:e]).mul_(p)
            g_Q[:, i:e] = torch.bmm(g_s, K[:, :past])
            g_K[:, :past] += torch.bmm(g_s.transpose(1, 2), Q[:, i:e])
        g_Q, g_K, g_V = (x.unflatten(0, (B, H)).transpose(1, 2) for x in (g_Q, g_K, g_V))
        g_q = g_Q.new_empty(g_Q.shape)
        torch.mul(g_Q[..., :n], ctx.scale, out=g_q[..., :n])
        torch.mul(_complex(g_Q[..., n:]), turn.conj(), out=_complex(g_q[..., n:]))
        return g_q, torch.cat([g_K[..., :n], g_V], dim=-1), g_K[..., n:].sum(2), None, None, None


def _complex(x):
    """Pairs of the last dimension as complex numbers, in place: (..., R) -> (..., R/2)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


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


def experts_grouped(x, gate_up, down, weights, indices, packed=None):
    """Same as `experts_plain`, with the token-expert pairs sorted by expert and multiplied group by group.

    On CUDA in bfloat16 the groups go through `torch._grouped_mm` where that does not wait; elsewhere each
    expert's contiguous rows are one matmul, written into its place, with the gradient by hand. `packed`: the
    experts' weights as `pack` gives them, for decoding. Few tokens of a decoding step: `experts_dense`."""
    if packed is not None:
        return _experts_packed(x, packed, weights, indices)
    if not use_grouped_mm(x, down):
        few = FEW_TOKENS_CPU if x.device.type == "cpu" else FEW_TOKENS
        if torch.is_inference_mode_enabled() and len(x) <= few or capturing(x):
            return experts_dense(x, gate_up, down, weights, indices)
        return _Experts.apply(x, gate_up, down, weights, indices)
    token, slot, inverse, counts = sort_by_expert(indices, gate_up.shape[0])
    offsets = counts.cumsum(0).to(torch.int32)
    gate, up = torch._grouped_mm(x[token], gate_up.transpose(1, 2), offs=offsets).chunk(2, dim=-1)
    scaled = F.silu(gate) * up * weights.flatten()[slot, None].to(x.dtype)
    y = torch._grouped_mm(scaled, down.transpose(1, 2), offs=offsets)
    return y[inverse].sum(1)


FEW_TOKENS = 1024  # a decoding step, not a prompt: below it a GPU waits for the host more than for products
FEW_TOKENS_CPU = 16  # below it the loop costs more than unwanted products: 4 tokens 83 us against 50


def capturing(x) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def experts_dense(x, gate_up, down, weights, indices):
    """Same as `experts_plain` by E / K times its operations: every expert on every token. Nothing depends on
    which experts were chosen, so the host never waits and a CUDA graph can record it."""
    gate, up = torch.matmul(x, gate_up.transpose(1, 2)).chunk(2, dim=-1)  # (E, N, F)
    y = torch.bmm(F.silu(gate) * up, down.transpose(1, 2))  # (E, N, D)
    share = torch.zeros(len(x), len(gate_up), dtype=weights.dtype, device=x.device)
    share.scatter_add_(1, indices, weights)
    return torch.einsum("end,ne->nd", y, share.to(x.dtype))


def sort_by_expert(indices, E: int):
    """indices (N, K) -> for the N*K pairs sorted by expert: their token, their place in (N, K) flattened; for
    each place its pair (N, K); the number of pairs of each expert (E,)."""
    slot = indices.flatten().argsort(stable=True)
    inverse = torch.empty_like(slot)
    inverse[slot] = torch.arange(len(slot), device=slot.device)
    counts = torch.zeros(E, dtype=torch.long, device=slot.device)  # bincount would wait for a GPU
    counts.scatter_add_(0, indices.flatten(), torch.ones_like(slot))
    return slot // indices.shape[1], slot, inverse.view_as(indices), counts


class _Experts(torch.autograd.Function):
    """y_i = sum_k w_ik down_e (silu(gate_e x_i) * up_e x_i). Each expert's product and each expert's weight
    gradient is one matmul into its slice of one tensor."""

    @staticmethod
    def forward(ctx, x, gate_up, down, weights, indices):
        token, slot, inverse, counts = sort_by_expert(indices, gate_up.shape[0])
        counts = counts.tolist()
        rows, w = x.index_select(0, token), weights.flatten()[slot, None].to(x.dtype)
        both = matmul_segments(rows, gate_up.transpose(1, 2), counts)  # (N*K, 2F)
        gate, up = both.chunk(2, dim=-1)
        scaled = F.silu(gate).mul_(up).mul_(w)
        y = matmul_segments(scaled, down.transpose(1, 2), counts)  # (N*K, D)
        ctx.save_for_backward(rows, gate_up, down, w, both, scaled, token, slot, inverse)
        ctx.counts, ctx.weights = counts, (weights.shape, weights.dtype)
        return sum_pairs(y, inverse)

    @staticmethod
    def backward(ctx, grad):
        rows, gate_up, down, w, both, scaled, token, slot, inverse = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        g_y = grad.index_select(0, token)  # (N*K, D)
        g_scaled = matmul_segments(g_y, down, ctx.counts)  # (N*K, F)
        g_down = matmul_transposed_segments(g_y, scaled, ctx.counts)
        silu = F.silu(gate)
        g_w = torch.empty(len(slot), dtype=grad.dtype, device=grad.device)
        g_w[slot] = torch.linalg.vecdot(g_scaled, silu * up)
        g_scaled = g_scaled.mul_(w)
        g_both = torch.empty_like(both)
        torch.mul(g_scaled, silu, out=g_both[:, both.shape[1] // 2 :])
        g_both[:, : both.shape[1] // 2] = torch.ops.aten.silu_backward(g_scaled.mul_(up), gate)
        g_gate_up = matmul_transposed_segments(g_both, rows, ctx.counts)
        g_x = sum_pairs(matmul_segments(g_both, gate_up, ctx.counts), inverse)
        shape, dtype = ctx.weights
        return g_x, g_gate_up, g_down, g_w.view(shape).to(dtype), None


def _experts_packed(x, packed, weights, indices):
    token, slot, inverse, counts = sort_by_expert(indices, len(packed))
    y = []
    for rows, (gate_up, down) in zip(x.index_select(0, token).split(counts.tolist()), packed, strict=True):
        if len(rows):
            gate, up = linear_packed(rows, gate_up).chunk(2, dim=-1)
            y.append(linear_packed(F.silu(gate).mul_(up), down))
    return sum_pairs(torch.cat(y).mul_(weights.flatten()[slot, None]), inverse)


def sum_pairs(y, inverse):
    """y (N*K, D), the pairs sorted by expert -> the sum of each token's K pairs (N, D)."""
    return F.embedding_bag(inverse, y, mode="sum")


def matmul_segments(rows, matrices, counts: list[int]):
    """Consecutive segments of `counts` rows, each times its own matrix: (N, A), (E, A, B) -> (N, B)."""
    out = rows.new_empty(len(rows), matrices.shape[-1])
    for r, m, o in zip(rows.split(counts), matrices, out.split(counts), strict=True):
        torch.mm(r, m, out=o)
    return out


def matmul_transposed_segments(a, b, counts: list[int]):
    """For consecutive segments of `counts` rows a^T b: (N, A), (N, B) -> (E, A, B)."""
    out = a.new_empty(len(counts), a.shape[1], b.shape[1])
    for r, c, o in zip(a.split(counts), b.split(counts), out, strict=True):
        torch.mm(r.T, c, out=o)
    return out


def use_grouped_mm(x: torch.Tensor, down: torch.Tensor) -> bool:
    """torch._grouped_mm has a bfloat16 kernel for compute capabilities 9 and 10 (elsewhere it reads the sizes
    of the groups back to the host) that needs rows of 16 bytes: D and F divisible by 8."""
    return (x.is_cuda and x.dtype == torch.bfloat16 and not (down.shape[1] % 8 or down.shape[2] % 8)
        and hasattr(torch, "_grouped_mm") and torch.cuda.get_device_capability(x.device)[0] in (9, 10))


# ---------------------------------------------------------------------------- weights prepared for a rollout

PACKED_NUMBERS = 1 << 16  # smaller weights stay in a core's cache, where reordering them costs little


def pack(weight: torch.Tensor):
    """weight (B, A) in the order that oneDNN's matmul reads, or None where that does not pay. An ordinary CPU
    matmul reorders its operand at every call, which for a few rows costs more than the product itself."""
    if weight.numel() < PACKED_NUMBERS or not _onednn(weight):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def _onednn(x) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def linear_packed(x, packed, bias=None):
    """x (..., A) times a weight (B, A), packed or not: (..., B)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Linear(nn.Linear):
    """nn.Linear whose weight can be packed while nobody changes it."""

    packed = None

    def pack(self):
        self.packed = pack(self.weight)

    def forward(self, x):
        if self.packed is not None:
            return linear_packed(x, self.packed, self.bias)
        if self.bias is None and x.numel() >= PACKED_NUMBERS and _onednn(x) and ONEDNN_IS_FASTER:
            return _Linear.apply(x, self.weight)
        return F.linear(x, self.weight, self.bias)


ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512"  # torch's default has none on AMD
ROWS = 256  # oneDNN compiles a program for each number of rows, in 0.4 ms, and keeps it with scratch memory


class _Linear(torch.autograd.Function):
    """x (..., A) times weight (B, A) for many rows, by oneDNN: with AVX-512 on AMD twice as fast as torch's
    default, elsewhere equal. Rows are padded to a multiple of ROWS, so that few programs are made."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return _Linear.product(x, weight)

    @staticmethod
    def product(x, weight):
        rows = F.pad(x.flatten(0, -2), (0, 0, 0, -(x.numel() // x.shape[-1]) % ROWS))
        return linear_packed(rows, weight)[: x.numel() // x.shape[-1]].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        g_weight = grad.flatten(0, -2).T @ x.flatten(0, -2)
        return _Linear.product(grad, weight.T) if ctx.needs_input_grad[0] else None, g_weight


@contextmanager
def packed_weights(model: nn.Module):
    """Within, the model's large weights are packed: for a rollout, which reads them once per token. They must
    not change and get no gradient meanwhile."""
    able = [m for m in model.modules() if hasattr(m, "pack")]
    try:
        for m in able:
            m.pack()
        yield
    finally:
        for m in able:
            m.packed = None


# --------------------------------------------------------------------------------- log-probabilities, entropy

CHUNK_NUMBERS = 1 << 22  # logits held at once: 16 MiB in float32


class _TokenLogprobs(torch.autograd.Function):
    """Head, log-softmax, gather and entropy, chunk by chunk. The backward pass keeps the probabilities if
    they are one chunk, else it recomputes each chunk's."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk):
        logprobs = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        entropy, kept = torch.empty_like(logprobs), None
        for s in range(0, targets.numel(), chunk):
            part = slice(s, s + chunk)
            logp = F.log_softmax(_logits(hidden[part], weight, temperature), dim=-1)  # (chunk, V)
            logprobs[part] = logp.gather(1, targets[part, None]).squeeze(1)
            p = logp.exp()
            entropy[part] = -torch.linalg.vecdot(p, logp)
            kept = p if targets.numel() <= chunk else None
        ctx.save_for_backward(hidden, weight, targets, kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, targets, kept = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), gradient_in_place(weight)
        in_place = grad_weight is not None
        if not in_place:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad = grad / ctx.temperature  # d logprob / d logit = (1[target] - softmax) / temperature
        for s in range(0, targets.numel(), ctx.chunk):
            part = slice(s, s + ctx.chunk)
            if kept is None:
                g = F.softmax(_logits(hidden[part], weight, ctx.temperature), dim=-1).mul_(-grad[part, None])
            else:
                g = kept * -grad[:, None]
            g = g.scatter_add_(1, targets[part, None], grad[part, None]).to(hidden.dtype)
            grad_hidden[part] = g @ weight
            if hidden.dtype == torch.float32:
                grad_weight.addmm_(g.T, hidden[part])  # no second (V, D)
            else:
                grad_weight += (g.T @ hidden[part]).float()
        return grad_hidden, None if in_place else grad_weight.to(weight.dtype), None, None, None


def gradient_in_place(weight):
    """The .grad that a float32 leaf already has, to add to directly, or None. A vocabulary's gradient (V, D)
    is often the largest tensor of a training pass: autograd would make a new one each time, and add it. For
    `backward()` only: hooks on the leaf do not see it, and `torch.autograd.grad` would get None."""
    return weight.grad if weight.is_leaf and weight.dtype == torch.float32 else None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, weight):
        ctx.save_for_backward(tokens, weight)
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx, grad):
        tokens, weight = ctx.saved_tensors
        total = gradient_in_place(weight)
        if total is None or grad.numel() > weight.numel() // 8:  # many tokens: one dense sum is faster
            dense = torch.ops.aten.embedding_dense_backward
            return None, dense(grad.contiguous(), tokens, len(weight), -1, False)
        total.index_add_(0, tokens.flatten(), grad.flatten(0, -2))
        return None, None


def embed(tokens, weight):
    """tokens (...) -> rows of weight (V, D): (..., D). Its gradient costs what the tokens cost, not what the
    vocabulary does, once weight.grad is there."""
    return _Embedding.apply(tokens, weight)


def _logits(hidden, weight, temperature: float):
    logits = (hidden @ weight.T).float()
    return logits if temperature == 1 else logits.div_(temperature)


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
    if probs.shape[1] < 2 * VOCABULARY_BLOCK:
        tokens, _ = _invert_cdf(probs, uniform[:, None] * probs.sum(-1, keepdim=True))
    else:  # first a block of the vocabulary, then a token in it: the running sum over all of it is slow
        blocks = F.pad(probs, (0, -probs.shape[1] % VOCABULARY_BLOCK)).unflatten(1, (-1, VOCABULARY_BLOCK))
        mass = blocks.sum(-1)
        block, rest = _invert_cdf(mass, uniform[:, None] * mass.sum(-1, keepdim=True))
        inside = blocks.take_along_dim(block[..., None], 1).squeeze(1)
        tokens = block * VOCABULARY_BLOCK + _invert_cdf(inside, rest)[0]
    return tokens.squeeze(1), (probs.gather(1, tokens) / probs.sum(-1, keepdim=True)).log().squeeze(1)


VOCABULARY_BLOCK = 1024


def _invert_cdf(weights, point):
    """weights (N, M), point (N, 1) in [0, their sum) -> where the running sum passes it (N, 1), never at a
    weight of 0, and how far into that weight the point lies (N, 1)."""
    cdf = weights.cumsum(-1)
    point = torch.minimum(point, torch.nextafter(cdf[:, -1:], torch.zeros_like(point)))
    place = torch.searchsorted(cdf, point, right=True)  # the first cdf > point
    if weights.device.type != "cpu":  # a parallel sum's rounding can let it pass the point at a weight of 0
        place = torch.where(weights.gather(1, place) > 0, place, weights.argmax(-1, keepdim=True))
    return place, (point - cdf.gather(1, place) + weights.gather(1, place)).clamp(min=0)
