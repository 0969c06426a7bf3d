"""Fused operations in plain torch: the plain form first, the fast form that equals it after it. The plain
form of the experts is `moe.experts_plain`; attention has a file of its own. Letters: the legend of model.py.

    PICOR1_PLAIN=1 python grpo.py ...      # runs the plain forms: slow, for a debugger
"""

import os
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

PLAIN = os.environ.get("PICOR1_PLAIN") == "1"  # set before Python starts

# ------------------------------------------------------------------------------------------------- norm, RoPE


def rms_norm_plain(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang & Sennrich, arXiv 1910.07467)."""
    x32 = x.float()  # squares of bfloat16 numbers lose too much
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Equals `rms_norm_plain`."""
    if PLAIN:
        return rms_norm_plain(x, weight, eps)
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


class _RMSNorm(torch.autograd.Function):
    """`rms_norm_plain` with the gradient by hand: half the passes over memory of torch's own on a CPU."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        # vector_norm reads x once, x.pow(2).mean() writes the squares too
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, r = ctx.saved_tensors
        gx = grad * x
        along = (gx @ weight)[..., None] * r.pow(3) / -x.shape[-1]  # r depends on x, too
        g_weight = r.flatten() @ gx.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return (grad * weight).mul_(r).addcmul_(x, along), g_weight, None


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def rope_plain(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Turn interleaved pairs (x0, x1), (x2, x3), ... by the angle of their position m (RoFormer, arXiv
    2104.09864, eq. 34): a query and a key then know only their distance.

    x (..., R); freqs complex64, broadcastable to (..., R/2): exp(i m theta_r), times YaRN's attention
    factor."""
    x0, x1, cos, sin = x[..., 0::2].float(), x[..., 1::2].float(), freqs.real, freqs.imag
    return torch.stack([x0 * cos - x1 * sin, x0 * sin + x1 * cos], dim=-1).flatten(-2).to(x.dtype)


def rope(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Equals `rope_plain`: a pair is a complex number, and turning it is one product."""
    if PLAIN:
        return rope_plain(x, freqs)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs).flatten(-2).to(x.dtype)


def rope_half_plain(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """`rope_plain` with the pairs (x_i, x_{i + R/2}): the layout in which Llama, Qwen and others store their
    projections. x (..., >= R): its first R numbers are turned, the rest is left as it is."""
    half, cos, sin = freqs.shape[-1], freqs.real, freqs.imag
    x0, x1, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
    return torch.cat([(x0 * cos - x1 * sin).to(x.dtype), (x0 * sin + x1 * cos).to(x.dtype), rest], dim=-1)


def rope_half(x: torch.Tensor, freqs: torch.Tensor) -> torch.Tensor:
    """Equals `rope_half_plain`."""
    if PLAIN or x.dtype != torch.float32:
        return rope_half_plain(x, freqs)
    return _RopeHalf.apply(x, freqs)


class _RopeHalf(torch.autograd.Function):
    """`rope_half_plain` in two passes over memory; the gradient is turned back."""

    @staticmethod
    def forward(ctx, x, freqs):
        ctx.save_for_backward(freqs)
        return _RopeHalf.turn(x, freqs.real, freqs.imag)

    @staticmethod
    def turn(x, cos, sin):
        half, out = cos.shape[-1], torch.empty_like(x)
        x0, x1 = x[..., :half], x[..., half : 2 * half]
        torch.mul(x0, cos, out=out[..., :half]).addcmul_(x1, sin, value=-1)
        torch.mul(x0, sin, out=out[..., half : 2 * half]).addcmul_(x1, cos)
        out[..., 2 * half :] = x[..., 2 * half :]
        return out

    @staticmethod
    def backward(ctx, grad):
        (freqs,) = ctx.saved_tensors
        return _RopeHalf.turn(grad, freqs.real, -freqs.imag), None


# ----------------------------------------------------------------------------------------- SwiGLU, experts


def swiglu(gate, up):
    """silu(gate) * up. A training pass keeps the two, and makes silu(gate) again: the hidden units of all
    layers are most of what it keeps."""
    if PLAIN or not torch.is_grad_enabled():
        return F.silu(gate) * up
    return _SwiGLU.apply(gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)



def experts_grouped(x, gate_up, down, weights, indices, packed=None):
    """Equals `moe.experts_plain`, whose arguments it takes, by the form that is fastest here. `packed`: the
    experts' weights as `pack` gives them."""
    if packed is not None:  # decoding on a CPU with large experts
        return experts_packed(x, packed, weights, indices)
    if use_grouped_mm(x, down):  # bfloat16 on a recent GPU
        return experts_grouped_mm(x, gate_up, down, weights, indices)
    if decodes_few(x):  # other decoding: looking at who chose what would cost more than unwanted products
        return experts_dense(x, gate_up, down, weights, indices)
    return _Experts.apply(x, gate_up, down, weights, indices)  # training, and all else


def use_grouped_mm(x: torch.Tensor, down: torch.Tensor) -> bool:
    """torch._grouped_mm has a bfloat16 kernel for compute capabilities 9 and 10 (elsewhere it reads the sizes
    of the groups back to the host) that needs rows of 16 bytes: D and F divisible by 8."""
    return (x.is_cuda and x.dtype == torch.bfloat16 and not (down.shape[1] % 8 or down.shape[2] % 8)
        and hasattr(torch, "_grouped_mm") and torch.cuda.get_device_capability(x.device)[0] in (9, 10))


def experts_grouped_mm(x, gate_up, down, weights, indices):
    """Equals `moe.experts_plain`: pairs sorted by expert, all groups in one call of a CUDA kernel."""
    token, slot, inverse, counts = sort_by_expert(indices, gate_up.shape[0])
    offsets = counts.cumsum(0).to(torch.int32)
    gate, up = torch._grouped_mm(x[token], gate_up.transpose(1, 2), offs=offsets).chunk(2, dim=-1)
    scaled = F.silu(gate) * up * weights.flatten()[slot, None].to(x.dtype)
    y = torch._grouped_mm(scaled, down.transpose(1, 2), offs=offsets)
    return y[inverse].sum(1)


FEW_TOKENS = 1024  # a decoding step, not a prompt: below it a GPU waits for the host more than for products
FEW_TOKENS_CPU = 16  # below it the loop costs more than unwanted products: 4 tokens 83 us against 50


def decodes_few(x) -> bool:
    few = FEW_TOKENS_CPU if x.device.type == "cpu" else FEW_TOKENS
    recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()  # in a CUDA graph nothing may wait
    return torch.is_inference_mode_enabled() and len(x) <= few or recorded


def experts_dense(x, gate_up, down, weights, indices):
    """Equals `moe.experts_plain` by E / K times its operations: every expert on every token. Nothing
    depends on which experts were chosen, so the host never waits and a CUDA graph can record it."""
    gate, up = torch.matmul(x, gate_up.transpose(1, 2)).chunk(2, dim=-1)  # (E, N, F)
    y = torch.bmm(F.silu(gate) * up, down.transpose(1, 2))  # (E, N, D)
    share = torch.zeros(len(x), len(gate_up), dtype=weights.dtype, device=x.device)
    share.scatter_add_(1, indices, weights)
    return torch.einsum("end,ne->nd", y, share.to(x.dtype))


def sort_by_expert(indices, E: int):
    """indices (N, K) -> for the N*K pairs sorted by expert: their token, their place in (N, K) flattened; for
    each place its pair (N, K); the number of pairs of each expert (E,)."""
    slot = indices.flatten().argsort(stable=True)  # stable: sums are added in the same order each time
    inverse = torch.empty_like(slot)
    inverse[slot] = torch.arange(len(slot), device=slot.device)
    counts = torch.zeros(E, dtype=torch.long, device=slot.device)  # bincount would wait for a GPU
    counts.scatter_add_(0, indices.flatten(), torch.ones_like(slot))
    return slot // indices.shape[1], slot, inverse.view_as(indices), counts


def experts_packed(x, packed, weights, indices):
    """Equals `moe.experts_plain`, expert by expert, with weights as `pack` gives them: for decoding."""
    token, slot, inverse, counts = sort_by_expert(indices, len(packed))
    y = []
    for rows, (gate_up, down) in zip(x.index_select(0, token).split(counts.tolist()), packed, strict=True):
        if len(rows):
            gate, up = linear_packed(rows, gate_up).chunk(2, dim=-1)
            y.append(linear_packed(F.silu(gate).mul_(up), down))
    return sum_pairs(torch.cat(y).mul_(weights.flatten()[slot, None]), inverse)


class _Experts(torch.autograd.Function):
    """Equals `moe.experts_plain`, with the gradient by hand: pairs are sorted by expert, and each expert's
    product and each expert's weight gradient is one matmul into its slice of one tensor."""

    @staticmethod
    def forward(ctx, x, gate_up, down, weights, indices):
        token, slot, inverse, counts = sort_by_expert(indices, gate_up.shape[0])
        counts = counts.tolist()
        rows, share = x.index_select(0, token), weights.flatten()[slot, None].to(x.dtype)
        both = matmul_segments(rows, gate_up.transpose(1, 2), counts)  # (N*K, 2F)
        gate, up = both.chunk(2, dim=-1)
        scaled = F.silu(gate).mul_(up).mul_(share)  # before W_down: F numbers, not D
        y = matmul_segments(scaled, down.transpose(1, 2), counts)  # (N*K, D)
        _, train_up, train_down, *_ = ctx.needs_input_grad  # what is frozen costs neither memory nor products
        ctx.save_for_backward(rows if train_up else None, gate_up, down, share, both,
            scaled if train_down else None, token, slot, inverse)
        ctx.counts, ctx.weights = counts, (weights.shape, weights.dtype)
        return sum_pairs(y, inverse)

    @staticmethod
    def backward(ctx, grad):
        rows, gate_up, down, share, both, scaled, token, slot, inverse = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        g_y = grad.index_select(0, token)  # (N*K, D)
        g_scaled = matmul_segments(g_y, down, ctx.counts)  # (N*K, F)
        g_down = None if scaled is None else matmul_transposed_segments(g_y, scaled, ctx.counts)
        silu = F.silu(gate)  # recomputed: cheaper than keeping it
        g_weights = torch.empty(len(slot), dtype=grad.dtype, device=grad.device)
        g_weights[slot] = torch.linalg.vecdot(g_scaled, silu * up)
        g_scaled = g_scaled.mul_(share)
        g_both = torch.empty_like(both)
        torch.mul(g_scaled, silu, out=g_both[:, both.shape[1] // 2 :])
        g_both[:, : both.shape[1] // 2] = torch.ops.aten.silu_backward(g_scaled.mul_(up), gate)
        g_gate_up = None if rows is None else matmul_transposed_segments(g_both, rows, ctx.counts)
        g_x = sum_pairs(matmul_segments(g_both, gate_up, ctx.counts), inverse)
        shape, dtype = ctx.weights
        return g_x, g_gate_up, g_down, g_weights.view(shape).to(dtype), None


def sum_pairs(y, inverse):
    """y (N*K, D), the pairs sorted by expert -> the sum of each token's K pairs (N, D)."""
    return F.embedding_bag(inverse, y, mode="sum")


def matmul_segments(rows, matrices, counts: list[int]):
    """Consecutive segments of `counts` rows, each times its own matrix: (N, in), (E, in, out) -> (N, out)."""
    out = rows.new_empty(len(rows), matrices.shape[-1])
    for r, m, o in zip(rows.split(counts), matrices, out.split(counts), strict=True):
        torch.mm(r, m, out=o)
    return out


def matmul_transposed_segments(a, b, counts: list[int]):
    """For consecutive segments of `counts` rows a^T b: (N, in), (N, out) -> (E, in, out)."""
    out = a.new_empty(len(counts), a.shape[1], b.shape[1])
    for r, c, o in zip(a.split(counts), b.split(counts), out, strict=True):
        torch.mm(r.T, c, out=o)
    return out


# ---------------------------------------------------------------------------- weights prepared for a rollout

PACKED_NUMBERS = 1 << 16  # smaller weights stay in a core's cache, where reordering them costs little


def pack(weight: torch.Tensor):
    """weight (out, in) in the order that oneDNN's matmul reads, or None where that does not pay. An ordinary
    CPU matmul reorders it at every call: for a few rows, that costs more than the product."""
    if weight.numel() < PACKED_NUMBERS or not _onednn(weight):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def _onednn(x) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def linear_packed(x, packed, bias=None):
    """Equals `F.linear` of a weight (out, in) that is packed or not: x (..., in) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Linear(nn.Linear):
    """Equals nn.Linear; its weight can be packed while nobody changes it."""

    packed = None

    def whole(self) -> torch.Tensor:
        """The weight as it acts; with an adapter (lora.py) its product is added."""
        return self.weight

    def pack(self):
        self.packed = pack(self.weight)

    def unpack(self):
        self.packed = None

    def forward(self, x):
        if PLAIN:
            return F.linear(x, self.weight, self.bias)
        if self.packed is not None:  # decoding
            return linear_packed(x, self.packed, self.bias)
        if self.bias is None and by_onednn(x):
            return _Linear.apply(x, self.weight)
        return F.linear(x, self.weight, self.bias)


ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512"  # torch's default has none on AMD
ROWS, FEW_ROWS = 256, 32  # oneDNN compiles a program for each number of rows, in 0.4 ms, and keeps it


def matmul(x, matrix):
    """x (..., k) @ matrix (k, m). By oneDNN for many float32 rows: with AVX-512 on AMD twice as fast as
    torch's default, elsewhere equal."""
    if not by_onednn(x):
        return x @ matrix
    return linear_packed(padded(x), matrix.T)[: x.numel() // x.shape[-1]].view(*x.shape[:-1], -1)


def by_onednn(x) -> bool:
    return ONEDNN_IS_FASTER and x.numel() >= PACKED_NUMBERS and _onednn(x)


def padded(x):
    """x (..., k) as rows (n, k) with zeros below: few numbers of rows occur, so few programs are made. Row
    behind row: of the columns of a wider tensor oneDNN makes a weight's gradient in 300 times the time."""
    rows = x.flatten(0, -2)
    missing = -len(rows) % (ROWS if len(rows) > ROWS else FEW_ROWS)
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows.contiguous()


class _Linear(torch.autograd.Function):
    """Equals `F.linear` without a bias, by `matmul`; for what `by_onednn` chooses."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return matmul(x, weight.T)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        g_weight = None if x is None else linear_packed(padded(grad).T, padded(x).T)  # grad^T x
        return matmul(grad, weight) if ctx.needs_input_grad[0] else None, g_weight


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
            m.unpack()


# ------------------------------------------------------------------------- logits, log-probabilities, entropy

CHUNK_NUMBERS = 1 << 22  # logits held at once: 16 MiB in float32
CHUNK_NUMBERS_GPU = 1 << 26  # 256 MiB: each chunk adds to a float32 gradient of the whole head
FEWEST_TOKENS = 128  # but so many tokens: each chunk reads and writes the head's gradient once


def logits_plain(hidden, head_weight):
    """hidden (..., D), head_weight (V, D) -> logits (..., V), float32 in every model: 8 bits of a bfloat16
    logit of 20 would leave the sampler's probability and the trainer's 6% apart."""
    return F.linear(hidden.float(), head_weight.float())


def product(a, b):
    """a (n, k) @ b (k, m) as float32 numbers that were never rounded: products of bfloat16 numbers are exact
    in float32. On CUDA b's dtype, a bfloat16 model's, is the operands'; elsewhere both become float32."""
    if a.is_cuda and b.dtype != torch.float32:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    return matmul(a.float(), b.float())


class _Logits(torch.autograd.Function):
    """`logits_plain` of a model that is not float32, by `product`: hidden (N, D), weight (V, D) -> (N, V)."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        return product(hidden, weight.T)

    @staticmethod
    def backward(ctx, grad):
        hidden, weight = ctx.saved_tensors
        trained = ctx.needs_input_grad[1]
        return (product(grad, weight).to(hidden.dtype),
            product(grad.T, hidden).to(weight.dtype) if trained else None)


class Head(Linear):
    """`logits_plain` of its weight."""

    def pack(self):  # one float32 copy for the whole rollout
        self.packed = pack(self.weight.float()) if self.weight.device.type == "cpu" else None

    def forward(self, x):
        if PLAIN:
            return logits_plain(x, self.weight)
        if self.packed is not None or self.weight.dtype == torch.float32:
            return super().forward(x.float())
        return _Logits.apply(x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


def token_logprobs_plain(hidden, head_weight, targets, temperature: float = 1.0, allowed=None):
    """log softmax(head_weight hidden / temperature)[target] and the entropy of that distribution, per token.

    hidden (..., D), head_weight (V, D), targets (...) -> logprobs (...), entropy (...), float32, in nats. The
    entropy is the exact one over V, not the sampled -logprob, and has no gradient.

    allowed: of the flat tokens, which ids of the vocabulary the softmax is over, as (rows (K,), ids (K,)), a
    pair for each of them, sorted by row: what top_p left to the sampler. None = all."""
    logits = logits_plain(hidden, head_weight) / temperature
    if allowed is not None:
        logits = only_allowed(logits.flatten(0, -2), allowed, 0).view_as(logits)
    logp = F.log_softmax(logits, dim=-1)
    return logp.gather(-1, targets[..., None]).squeeze(-1), -(logp.exp() * logp).sum(-1).detach()


def only_allowed(logits, allowed, start: int):
    """logits (n, V) of the tokens start .. start + n - 1, very low where they are not allowed. (With -inf the
    entropy would be 0 times infinity.)"""
    rows, ids = allowed
    first, last = torch.searchsorted(rows, rows.new_tensor([start, start + len(logits)])).tolist()
    outside = torch.ones_like(logits, dtype=torch.bool)
    outside[rows[first:last] - start, ids[first:last]] = False
    return logits.masked_fill_(outside, -1e30)


def token_logprobs(hidden, head_weight, targets, temperature: float = 1.0, chunk: int | None = None,
        allowed=None):
    """Equals `token_logprobs_plain`, but never holds more than `chunk` x V logits: they are by far the
    largest tensor of a training pass."""
    if PLAIN:
        return token_logprobs_plain(hidden, head_weight, targets, temperature, allowed)
    chunk = chunk or _chunk(head_weight)
    flat = hidden.reshape(-1, hidden.shape[-1]), head_weight, targets.reshape(-1)
    logprobs, entropy = _TokenLogprobs.apply(*flat, temperature, chunk, allowed)
    return logprobs.view_as(targets), entropy.view_as(targets)


def _chunk(weight) -> int:
    """Tokens whose logits are held at once."""
    numbers = CHUNK_NUMBERS if weight.device.type == "cpu" else CHUNK_NUMBERS_GPU
    return max(FEWEST_TOKENS, numbers // len(weight))


def _logits(hidden, weight, temperature: float, allowed=None, start: int = 0):
    logits = product(hidden, weight.T)
    logits = logits if temperature == 1 else logits.div_(temperature)
    return logits if allowed is None else only_allowed(logits, allowed, start)


class _TokenLogprobs(torch.autograd.Function):
    """`token_logprobs_plain`, chunk by chunk, with the gradient by hand. The backward pass keeps the
    probabilities if they are one chunk, else it recomputes each chunk's. On CUDA a bfloat16 model's products
    are of bfloat16 operands, elsewhere of float32 copies of them; all sums are float32."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk, allowed):
        logprobs = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        entropy, kept = torch.empty_like(logprobs), None
        h, w = operands(hidden, weight)
        for start in range(0, targets.numel(), chunk):
            part = slice(start, start + chunk)
            logp = F.log_softmax(_logits(h[part], w, temperature, allowed, start), dim=-1)  # (chunk, V)
            logprobs[part] = logp.gather(1, targets[part, None]).squeeze(1)
            p = logp.exp()
            entropy[part] = -torch.linalg.vecdot(p, logp)
            kept = p if targets.numel() <= chunk else None
        ctx.save_for_backward(hidden, weight, targets, kept)
        ctx.temperature, ctx.chunk, ctx.allowed = temperature, chunk, allowed
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, targets, kept = ctx.saved_tensors
        grad = grad / ctx.temperature  # d logprob / d logit = (1[target] - softmax) / temperature

        def of_logits(part, h, w):
            if kept is None:
                g = F.softmax(_logits(h, w, ctx.temperature, ctx.allowed, part.start), dim=-1)
                g.mul_(-grad[part, None])
            else:
                g = kept * -grad[:, None]
            return g.scatter_add_(1, targets[part, None], grad[part, None])

        found = _head_gradients(hidden, weight, ctx.needs_input_grad[1], ctx.chunk, of_logits)
        return *found, None, None, None, None


def _head_gradients(hidden, weight, trained: bool, chunk: int, of_logits):
    """The gradients of hidden (N, D) and, if it is trained, of weight (V, D), None where it was added in
    place; from of_logits(rows, hidden[rows], weight), the logits' of one chunk."""
    in_place = gradient_in_place(weight) is not None
    grad_hidden, grad_weight = torch.empty_like(hidden), gradient_in_place(weight)
    if trained and not in_place:
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    h, w = operands(hidden, weight)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        g = of_logits(part, h[part], w)
        grad_hidden[part] = product(g, w)
        if not trained:
            continue
        if h.dtype == torch.float32:
            grad_weight.addmm_(g.T, h[part])  # no second (V, D)
        else:
            grad_weight += product(g.T, h[part])
    return grad_hidden, grad_weight.to(weight.dtype) if trained and not in_place else None


def reverse_kl_plain(hidden, head_weight, teacher_hidden, teacher_weight, temperature: float = 1.0):
    """KL(student || teacher) = sum_v p_v (log p_v - log q_v) per token, in nats: p is the student's
    distribution, softmax(head_weight hidden / temperature), q the teacher's (GKD, arXiv 2306.13649, sec. 3.1,
    D(p_S || p_T)). Zero where both agree; what the student never says costs nothing.

    hidden (..., D), head_weight (V, D); the teacher's may have another width, over the same V ids -> (...),
    float32. The gradient is the student's alone."""
    logp = F.log_softmax(logits_plain(hidden, head_weight) / temperature, dim=-1)
    logq = F.log_softmax(logits_plain(teacher_hidden, teacher_weight) / temperature, dim=-1).detach()
    return (logp.exp() * (logp - logq)).sum(-1)


def reverse_kl(hidden, head_weight, teacher_hidden, teacher_weight, temperature: float = 1.0,
        chunk: int | None = None):
    """Equals `reverse_kl_plain`, but never holds more than four times `chunk` x V numbers."""
    if PLAIN:
        return reverse_kl_plain(hidden, head_weight, teacher_hidden, teacher_weight, temperature)
    chunk = chunk or _chunk(head_weight)
    flat = hidden.reshape(-1, hidden.shape[-1]), teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
    kl = _ReverseKL.apply(flat[0], head_weight, flat[1], teacher_weight, temperature, chunk)
    return kl.view(hidden.shape[:-1])


class _ReverseKL(torch.autograd.Function):
    """`reverse_kl_plain`, chunk by chunk, with the gradient by hand: d KL / d logit_v = p_v (log p_v - log
    q_v - KL) / temperature. The backward pass keeps that if it is one chunk, else it recomputes each chunk's
    logits, the teacher's too."""

    @staticmethod
    def forward(ctx, hidden, weight, teacher_hidden, teacher_weight, temperature, chunk):
        kl, kept = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device), None
        (h, w), (th, tw) = operands(hidden, weight), operands(teacher_hidden, teacher_weight)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            p, gap = _log_ratio(h[part], w, th[part], tw, temperature)
            kl[part] = torch.linalg.vecdot(p, gap)
            kept = p.mul_(gap.sub_(kl[part, None])) if len(hidden) <= chunk else None
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight, kl, kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        return kl

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, teacher_hidden, teacher_weight, kl, kept = ctx.saved_tensors
        grad, (th, tw) = grad / ctx.temperature, operands(teacher_hidden, teacher_weight)

        def of_logits(part, h, w):
            if kept is not None:
                return kept * grad[:, None]
            p, gap = _log_ratio(h, w, th[part], tw, ctx.temperature)
            return p.mul_(gap.sub_(kl[part, None])).mul_(grad[part, None])

        found = _head_gradients(hidden, weight, ctx.needs_input_grad[1], ctx.chunk, of_logits)
        return *found, None, None, None, None


def _log_ratio(h, w, th, tw, temperature: float):
    """p and log p - log q of one chunk, each (chunk, V)."""
    logp = F.log_softmax(_logits(h, w, temperature), dim=-1)
    logq = F.log_softmax(_logits(th, tw, temperature), dim=-1)
    return logp.exp(), logp.sub_(logq)


def operands(hidden, weight):
    """What the head's products read: themselves on CUDA and in a float32 model, else float32 copies."""
    return (hidden, weight) if hidden.is_cuda else (hidden.float(), weight.float())


def gradient_in_place(weight):
    """The .grad that a float32 leaf, or the master of a bfloat16 one, already has, to add to directly, or
    None. A vocabulary's gradient (V, D) is often the largest tensor of a training pass: autograd would make a
    new one each time, and add it. For `backward()` only: hooks on the leaf do not see it, and
    `torch.autograd.grad` would get None."""
    whole = getattr(weight, "master", weight)
    return whole.grad if weight.is_leaf and whole.dtype == torch.float32 else None


class _Embedding(torch.autograd.Function):
    """`F.embedding`, whose gradient is added in place."""

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
            whole = dense(grad.contiguous().float(), tokens, len(weight), -1, False)
            if total is None:
                return None, whole.to(weight.dtype)
            total.add_(whole)
        else:
            total.index_add_(0, tokens.flatten(), grad.flatten(0, -2).to(total.dtype))
        return None, None


def embed(tokens, weight):
    """Equals `F.embedding`: tokens (...) -> rows of weight (V, D): (..., D). Its gradient costs what the
    tokens cost, not what the vocabulary does, once weight.grad is there."""
    if PLAIN:
        return F.embedding(tokens, weight)
    return _Embedding.apply(tokens, weight)
