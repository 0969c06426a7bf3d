"""What both kinds of attention (mla.py, gqa.py) are made of: positions, fast forms, the cache of decoding,
the prompts that training shares. Letters: the legend of model.py."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from config import ModelConfig
from kernels import rope

# ------------------------------------------------------------------------------------------------- positions


def rope_frequencies(cfg: ModelConfig, length: int | None = None) -> torch.Tensor:
    """exp(i m theta_r) for positions m < length: complex64 (length, R/2), times the attention factor that
    YaRN has. RoPE (arXiv 2104.09864, eq. 15): pair r turns by theta^(-2r/R) from one token to the next."""
    half, length = cfg.rotary_dim // 2, length or cfg.max_position_embeddings
    theta = cfg.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    amplitude = 1.0
    if cfg.rope_scaling:
        theta, amplitude = ROPE_SCALINGS[cfg.rope_scaling["rope_type"]](theta, cfg)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), theta)
    return torch.polar(torch.full_like(angles, amplitude), angles)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's temperature 0.1 m ln(s) + 1 (arXiv 2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_factor(cfg: ModelConfig) -> float:
    """The context's extension s = new length / original length."""
    yarn = cfg.rope_scaling
    return yarn.get("factor") or cfg.max_position_embeddings / yarn["original_max_position_embeddings"]


def yarn(theta, cfg: ModelConfig):
    """Slow pairs are interpolated by the factor, fast pairs are kept, with a linear ramp between the pairs
    that turn beta_fast and beta_slow times over the original context (arXiv 2309.00071, sec. 3.2)."""
    scaling, factor, half = cfg.rope_scaling, yarn_factor(cfg), len(theta)
    original = scaling["original_max_position_embeddings"]

    def pair_turning(times):
        return half * math.log(original / (times * 2 * math.pi)) / math.log(cfg.rope_theta)

    low, high = pair_turning(scaling.get("beta_fast") or 32), pair_turning(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = ((torch.arange(half) - low) / max(high - low, 0.001)).clamp(0, 1)  # 1: a slow pair
    # longer contexts flatten the softmax: the temperature makes up for it
    mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    amplitude = scaling.get("attention_factor")
    if amplitude is None:
        amplitude = (yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all)
            if mscale and mscale_all else yarn_mscale(factor))
    return theta * (1 - ramp) + theta / factor * ramp, amplitude


def llama3(theta, cfg: ModelConfig):
    """The same idea with another ramp, between the pairs that turn low_freq_factor and high_freq_factor times
    over the original context, and no temperature (Llama 3, arXiv 2407.21783; the form of Meta's code)."""
    scaling = cfg.rope_scaling
    turns = scaling["original_max_position_embeddings"] * theta / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return theta * keep + theta / scaling["factor"] * (1 - keep), 1.0


def linear(theta, cfg: ModelConfig):
    """All pairs are interpolated (arXiv 2306.15595)."""
    return theta / cfg.rope_scaling["factor"], 1.0


ROPE_SCALINGS: dict[str, Callable] = {"yarn": yarn, "llama3": llama3, "linear": linear}

# ------------------------------------------------------------------------------------- attention, fast forms

BLOCK, LONGEST_BLOCKED = 48, 1024  # queries at once; beyond that length the kept probabilities are too many


def blocked(q, k) -> bool:
    """Whether attention runs by blocks of queries: in float32 on a CPU that is 1.6 times as fast as torch's
    fused kernel at 160 to 512 tokens. Elsewhere, and for long sequences, `scaled_dot_product_attention`."""
    return q.device.type == "cpu" and q.dtype == torch.float32 and k.shape[1] <= LONGEST_BLOCKED


def gqa_attention(q, k, v, scale: float, masked=None):
    """Causal attention of H query heads over M heads of keys and values. Equals `gqa.GQA.attend_naive`
    between its projections.

    q (B, T, H, W), k and v (B, S+T, M, W); S, the tokens of a prompt before the queries, may be 0. Query t
    sees keys up to S+t, but not those that are `masked` (B, S), given if S > 0 -> (B, T, H, W)."""
    if blocked(q, k):
        return _BlockedGQA.apply(q, k, v, scale, masked)
    seen = seen_keys(q.shape[1], k.shape[1], masked)
    if seen is not None and q.device.type != "cpu":
        # on most GPUs a fused kernel takes a mask or fewer heads of keys than of queries: where both are
        # given, torch would hold all T (S+T) scores. Keys repeated for each query head are few beside that
        k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=seen,
        is_causal=seen is None, scale=scale, enable_gqa=q.shape[2] != k.shape[2])
    return out.transpose(1, 2)


def mla_attention(q, freqs, kv, k_rot, scale: float, masked=None):
    """Causal attention over expanded keys and values (DeepSeek-V3, eq. 10). Equals `mla.MLA.attend_naive`
    from its scores up to W_O.

    q (B, T, H, U+R), the last R numbers not rotated yet, with their freqs (T, R/2) or (B, T, R/2); kv (B,
    S+T, H, U+W): keys without their rotary part, values; k_rot (B, S+T, R), rotated, for all heads; S, the
    tokens of a prompt before the queries, may be 0. Query t sees keys up to S+t, but not those that are
    `masked` (B, S), given if S > 0 -> (B, T, H, W)."""
    if blocked(q, kv):
        return _BlockedMLA.apply(q, freqs, kv, k_rot, scale, masked)
    return mla_attention_fused(q, freqs, kv, k_rot, scale, masked)


def mla_attention_fused(q, freqs, kv, k_rot, scale: float, masked=None):
    """`mla_attention` by torch's fused kernel."""
    H, U = q.shape[2], q.shape[-1] - k_rot.shape[-1]
    q = torch.cat([q[..., :U], rope(q[..., U:], freqs[..., None, :])], dim=-1)  # (B, T, H, U+R)
    k = torch.cat([kv[..., :U], k_rot[:, :, None].expand(-1, -1, H, -1)], dim=-1)  # (B, S+T, H, U+R)
    v, W = kv[..., U:], kv.shape[-1] - U
    v = F.pad(v, (0, max(0, q.shape[-1] - W)))  # the fused kernels want one head width
    seen = seen_keys(q.shape[1], kv.shape[1], masked)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=seen,
        is_causal=seen is None, scale=scale)
    return out.transpose(1, 2)[..., :W]


def seen_keys(T: int, keys: int, masked):
    """What T queries see of S+T keys, of which `masked` (B, S) are not there: (B, 1, T, S+T), or None where S
    = 0 and being causal is all."""
    if keys == T:
        return None
    seen = torch.ones(T, keys, dtype=torch.bool, device=masked.device).tril(keys - T)
    return seen & ~F.pad(masked, (0, T))[:, None, None]


class _BlockedGQA(torch.autograd.Function):
    """`gqa_attention`, block after block of queries."""

    @staticmethod
    def forward(ctx, q, k, v, scale, masked):
        (B, T, H, _), M = q.shape, k.shape[2]
        queries = (q * scale).unflatten(2, (M, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))  # (b, s + t, .)
        shape, keep = (B, T, M, H // M), any(ctx.needs_input_grad)
        out, kept = _attend_blocks(queries, keys, values, shape, masked, keep)  # (B, T, M, H/M, W)
        ctx.save_for_backward(queries, keys, values, out, *kept)
        ctx.scale = scale
        return out.flatten(2, 3)  # (B, T, H, W)

    @staticmethod
    def backward(ctx, grad):
        queries, keys, values, out, *kept = ctx.saved_tensors
        g_queries, g_keys, g_values = _attend_blocks_backward(grad.reshape(out.shape), queries, keys, values,
            out, kept)
        B, T, M, r, _ = out.shape
        g_q = g_queries.view(B, M, T, r, queries.shape[-1]).transpose(1, 2).flatten(2, 3) * ctx.scale
        return g_q, *(x.unflatten(0, (B, M)).transpose(1, 2) for x in (g_keys, g_values)), None, None


class _BlockedMLA(torch.autograd.Function):
    """`mla_attention`, block after block of queries."""

    @staticmethod
    def forward(ctx, q, freqs, kv, k_rot, scale, masked):
        (B, T, H, d), S, U = q.shape, kv.shape[1] - q.shape[1], q.shape[-1] - k_rot.shape[-1]
        turn = freqs[..., None, :] * scale  # scaling and turning the query is one product
        queries, keys = q.new_empty(B, H, T, d), q.new_empty(B, H, S + T, d)
        torch.mul(q[..., :U], scale, out=queries.transpose(1, 2)[..., :U])
        torch.mul(_complex(q[..., U:]), turn, out=_complex(queries.transpose(1, 2)[..., U:]))
        keys[..., :U], keys[..., U:] = kv[..., :U].transpose(1, 2), k_rot[:, None]
        values = kv[..., U:].transpose(1, 2)
        queries, keys, values = (x.flatten(0, 1) for x in (queries, keys, values))  # (b, t, .), (b, s + t, .)
        shape, keep = (B, T, H, 1), any(ctx.needs_input_grad)
        out, kept = _attend_blocks(queries, keys, values, shape, masked, keep)  # (B, T, H, 1, W)
        ctx.save_for_backward(queries, keys, values, turn, out, *kept)
        ctx.scale = scale
        return out.squeeze(3)  # (B, T, H, W)

    @staticmethod
    def backward(ctx, grad):
        queries, keys, values, turn, out, *kept = ctx.saved_tensors
        (B, _, H, _), U = grad.shape, keys.shape[2] - 2 * turn.shape[-1]
        g_queries, g_keys, g_values = (x.unflatten(0, (B, H)).transpose(1, 2) for x in
            _attend_blocks_backward(grad.unsqueeze(3), queries, keys, values, out, kept))
        g_q = g_queries.new_empty(g_queries.shape)
        torch.mul(g_queries[..., :U], ctx.scale, out=g_q[..., :U])
        torch.mul(_complex(g_queries[..., U:]), turn.conj(), out=_complex(g_q[..., U:]))  # turned back
        return g_q, None, torch.cat([g_keys[..., :U], g_values], dim=-1), g_keys[..., U:].sum(2), None, None


def _attend_blocks(queries, keys, values, shape, masked, keep: bool):
    """Attention of queries (b, T r, d), scaled, over keys (b, S+T, d) and values (b, S+T, W); b runs over
    B sequences and h heads of keys, each with r queries per token; shape = (B, T, h, r) -> (B, T, h, r, W),
    and, to `keep` for the backward pass, the blocks' probabilities."""
    (B, T, h, r), S = shape, keys.shape[1] - shape[1]
    out, kept = queries.new_empty(B, T, h, r, values.shape[-1]), []
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1).repeat_interleave(r, 0)
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        past, n = S + end, end - start  # nothing is computed beyond it: half of the products of a square mask
        p = torch.bmm(queries[:, start * r : end * r], keys[:, :past].transpose(1, 2))  # (b, n r, past)
        p[:, :, S + start :].masked_fill_(future[: n * r, :n], float("-inf"))
        if S > 0:
            p[:, :, :S].unflatten(0, (B, h)).masked_fill_(masked[:, None, None], float("-inf"))
        torch.softmax(p, -1, out=p)
        out.transpose(1, 2)[:, :, start:end] = torch.bmm(p, values[:, :past]).view(B, h, n, r, out.shape[-1])
        kept += [p] if keep else []
    return out, kept


def _attend_blocks_backward(grad, queries, keys, values, out, kept):
    """Gradients of queries, keys and values, all as `_attend_blocks` takes them; grad and out (B, T, h, r,
    W)."""
    (B, T, h, r, _) = out.shape
    along = (grad * out).sum(-1).transpose(1, 2).reshape(B * h, T * r, 1)  # sum_j p_j dL/dp_j of each query
    grad = grad.transpose(1, 2).reshape(B * h, T * r, out.shape[-1])
    g_queries, g_keys, g_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
    for p, start in zip(kept, range(0, T * r, BLOCK * r), strict=True):
        end, past = start + p.shape[1], p.shape[2]
        g_values[:, :past] += torch.bmm(p.transpose(1, 2), grad[:, start:end])  # a slice's baddbmm_ loops
        g_p = torch.bmm(grad[:, start:end], values[:, :past].transpose(1, 2))
        g_scores = g_p.sub_(along[:, start:end]).mul_(p)  # softmax: dL/ds = p (dL/dp - sum_j p_j dL/dp_j)
        g_queries[:, start:end] = torch.bmm(g_scores, keys[:, :past])
        g_keys[:, :past] += torch.bmm(g_scores.transpose(1, 2), queries[:, start:end])
    return g_queries, g_keys, g_values


def _complex(x):
    """Pairs of the last dimension as complex numbers, in place: (..., R) -> (..., R/2)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


# ----------------------------------------------------------------------------------- what decoding remembers


FIRST_ROOM = 32  # tokens of a suffix


def cache_room(tokens: int) -> int:
    """Tokens that a suffix has room for once it holds so many."""
    room = FIRST_ROOM
    while room < tokens:
        room += room // 2
    return room


class Cache:
    """What decoding remembers of one layer, h times `width` numbers per token: of MLA one latent and one
    rotated key for all heads (h = 1), of GQA the rotated key and the value of each of its M heads (h = M).

    `prefix` (P, h, S, width) is stored once per prompt and attended to by all its samples; `suffix` (N, h,
    room, width) grows by one token per row and step."""

    def __init__(self, prefix: torch.Tensor, rows: int):
        self.prefix = prefix
        self.suffix = prefix.new_zeros(rows, prefix.shape[1], FIRST_ROOM, prefix.shape[3])

    def append(self, t: int | torch.Tensor, new: torch.Tensor):
        """Store the rows' t-th completion token: new (N, h, width). The room grows by half when it is
        full, so that a number is copied about twice; where t is a tensor (1,), there is enough."""
        if torch.is_tensor(t):
            self.suffix.index_copy_(2, t, new[:, :, None])  # reads t on the device: nothing waits
            return
        if t == self.suffix.shape[2]:
            self.suffix = F.pad(self.suffix, (0, 0, 0, t // 2))
        self.suffix[:, :, t] = new


class Cohort:
    """Rows that started together, so that all are at the same step `t`: a Cache per layer, and which rows
    share which prompt. Rows are laid out as (P, G), so that a prompt's samples attend to its prefix in
    one matmul; after rows have left, G is the largest remaining group, and the holes are computed and
    thrown away.

    `fix` turns it into one whose steps are all the same operations on the same memory, as a CUDA graph needs:
    `t` is then a tensor (1,), and `seen` tokens of the suffix are attended to, the future ones masked."""

    t: int | torch.Tensor = 0  # completion tokens in the caches
    seen: int | None = None
    caches: list[Cache]  # one per layer
    lengths: torch.Tensor  # (P,) of the prompts
    owner: torch.Tensor  # (N,) the prompt of each row
    # the sampler's part
    rows: torch.Tensor  # (N,) each row's number in the rollout
    noise: torch.Tensor  # (N, T) the uniform number that draws each token
    done: torch.Tensor  # (N,) whether the row has ended
    # of fixed steps
    x: torch.Tensor  # (N, D) what the head sees next, always in the same memory
    count: int = 0  # t, known without asking the GPU
    graph: "torch.cuda.CUDAGraph | None" = None

    def __init__(self, remembered: list[tuple[torch.Tensor, ...]], lengths: torch.Tensor, samples: int):
        """remembered: per layer parts (P, S, h, .) of what its attention caches, right-padded; lengths (P,)
        of the prompts."""
        self.lengths = lengths
        self.owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(samples)
        self.caches = [Cache(torch.cat(parts, dim=-1).transpose(1, 2).contiguous(), len(self.owner))
            for parts in remembered]
        self._lay_out()

    def __len__(self):
        return len(self.owner)

    def fix(self, length: int):
        """Make room for `length` completion tokens."""
        self.t, self.seen = torch.full((1,), self.t, device=self.owner.device), min(64, length)
        for cache in self.caches:
            cache.suffix = F.pad(cache.suffix, (0, 0, 0, max(0, length - cache.suffix.shape[2])))

    def positions(self) -> torch.Tensor:
        """Of the token that each row decodes next: (N,)."""
        return self.lengths[self.owner] + self.t

    def keep(self, rows: torch.Tensor):
        """Drop all rows but these (row numbers, ascending), and the prompts that have none left."""
        prompts, self.owner = self.owner[rows].unique_consecutive(return_inverse=True)
        self.lengths = self.lengths[prompts]
        for cache in self.caches:
            cache.suffix = cache.suffix[rows]
            cache.prefix = cache.prefix if len(prompts) == len(cache.prefix) else cache.prefix[prompts]
        self._lay_out()

    def _lay_out(self):
        device, counts = self.owner.device, self.owner.bincount()
        width, first = int(counts.max()), counts.cumsum(0) - counts
        rows = torch.arange(len(self.owner), device=device)
        self.cell = self.owner * width + rows - first[self.owner]  # (N,) row -> cell
        self.row = torch.zeros(len(counts) * width, dtype=torch.long, device=device)
        self.row[self.cell] = rows  # cell -> row (holes: row 0)
        self.full = len(self.row) == len(rows)  # no holes: gather and scatter are views
        positions = torch.arange(self.caches[0].prefix.shape[2], device=device)
        self.padding = (positions >= self.lengths[:, None])[:, None, None, None]  # (P, 1, 1, 1, S)

    def gather(self, x):  # (N, ...) -> (P, G, ...)
        x = x if self.full else x[self.row]
        return x.unflatten(0, (len(self.lengths), -1))

    def scatter(self, x):  # (P, G, ...) -> (N, ...)
        x = x.flatten(0, 1)
        return x if self.full else x[self.cell]

    def attend(self, layer: int, q, new, keys: slice, values: slice):
        """q (N, h, r, d), scaled, r queries for each of the cache's h heads, over the prompt and what came
        since, `new` (N, h, width) last -> (N, h, r, w). keys and values: where they are in the width."""
        cache = self.caches[layer]
        cache.append(self.t, new)
        past = self.t + 1 if self.seen is None else self.seen
        prefix, suffix = cache.prefix, cache.suffix[:, :, :past]  # (P, h, S, width), (N, h, past, width)
        S, (N, h, r, _) = prefix.shape[2], q.shape
        # all samples of a prompt and all queries of a head see the same prefix: one large product for each
        on_prefix = torch.matmul(self._by_head(q), prefix[..., keys].mT)  # (P, h, G*r, S)
        on_prefix = self._by_sample(on_prefix, r).masked_fill_(self.padding, float("-inf"))
        # one softmax runs over both parts, so their scores go into one tensor
        attn = q.new_empty(N, h, r, S + suffix.shape[2])
        attn[..., :S] = self.scatter(on_prefix)
        out = q.new_empty(N, h, r, new[..., values].shape[-1])
        for rows in cache_sized(suffix):
            attn[rows, ..., S:] = torch.matmul(q[rows], suffix[rows, ..., keys].mT)
            if self.seen is not None:  # a fixed shape holds room for tokens that are not there yet
                future = torch.arange(past, device=q.device) > self.t
                attn[rows, ..., S:].masked_fill_(future, float("-inf"))
            attn[rows] = attn[rows].softmax(-1)
            out[rows] = torch.matmul(attn[rows, ..., S:], suffix[rows, ..., values])
        from_prefix = torch.matmul(self._by_head(attn[..., :S]), prefix[..., values])  # (P, h, G*r, w)
        return out.add_(self.scatter(self._by_sample(from_prefix, r)))

    def _by_head(self, x):
        """(N, h, r, .) -> (P, h, G*r, .): the queries of all samples of a prompt, head by head."""
        return self.gather(x).transpose(1, 2).flatten(2, 3)

    def _by_sample(self, x, r: int):
        """(P, h, G*r, .) -> (P, G, h, r, .)"""
        return x.unflatten(2, (-1, r)).transpose(1, 2)


def attend_cached(cohorts: list[Cohort], layer: int, q, new, keys: slice, values: slice):
    """`Cohort.attend` for the rows of several cohorts: (N, h, r, d) -> (N, h, r, w)."""
    sizes = [len(c) for c in cohorts]
    parts = zip(cohorts, q.split(sizes), new.split(sizes), strict=True)
    out = [cohort.attend(layer, *part, keys, values) for cohort, *part in parts]
    return torch.cat(out) if len(out) > 1 else out[0]


BLOCK_BYTES, FEWEST_ROWS = 1 << 20, 8  # a CPU core's own (second-level) cache


def cache_sized(x):
    """Slices of a CPU tensor's rows that fit a core's own cache, each read once (summed) before it is
    yielded: that streams it in at full speed, so that the many small products after it do not wait for
    memory."""
    if x.device.type != "cpu" or x.nbytes <= 6 * BLOCK_BYTES:
        yield slice(None)
        return
    count = max(FEWEST_ROWS, BLOCK_BYTES // x[0].nbytes)
    for start in range(0, len(x), count):
        rows = slice(start, start + count)
        x[rows].sum()
        yield rows


# --------------------------------------------------------------------------------- prompts shared in training


class SharedPrompts(NamedTuple):
    """Prompts and their completions as one flat list of tokens, each prompt once: P x S prompt tokens, then
    B x T completion tokens, both right-padded. All but attention works token by token and never notices."""

    lengths: torch.Tensor  # (P,) of the prompts
    owner: torch.Tensor  # (B,) the prompt of each completion
    S: int
    T: int

    def split(self, x):
        """(P*S + B*T, ...) -> (P, S, ...), (B, T, ...)."""
        prompts, completions = x.split([len(self.lengths) * self.S, len(self.owner) * self.T])
        shapes = (len(self.lengths), self.S), (len(self.owner), self.T)  # T = 0: one token per completion
        return prompts.unflatten(0, shapes[0]), completions.unflatten(0, shapes[1])

    def rows(self, x):
        """Each completion behind its prompt: (P*S + B*T, ...) -> (B, S+T, ...)."""
        prompts, completions = self.split(x)
        return torch.cat([prompts.index_select(0, self.owner), completions], dim=1)

    def positions(self):
        """(P*S + B*T,); a completion's first token follows its prompt's last one, not the padding."""
        step = torch.arange(max(self.S, self.T), device=self.owner.device)
        after = self.lengths[self.owner][:, None] + step[: self.T]
        return torch.cat([step[: self.S].repeat(len(self.lengths)), after.flatten()])

    def padding(self):
        """Where the prompt of each completion has ended: (B, S)."""
        return torch.arange(self.S, device=self.owner.device) >= self.lengths[self.owner][:, None]

    def attend(self, attention: Callable, queries: tuple, keys: tuple, scale: float):
        """attention(*queries, *keys, scale[, masked]) of flat tokens: prompts see themselves, completions
        their prompt and themselves. Equals `attend_plain` before W_O."""
        on_prompts, on_completions = zip(*map(self.split, queries), strict=True)
        out = attention(*on_prompts, *(self.split(x)[0] for x in keys), scale).flatten(0, 1)
        both = attention(*on_completions, *map(self.rows, keys), scale, self.padding())
        return torch.cat([out, both.flatten(0, 1)])

    def attend_plain(self, attention, x, freqs):
        """The same by attention.attend_naive: the prompts, then each completion behind its prompt, once
        more."""
        on_prompts = attention.attend_naive(self.split(x)[0], self.split(freqs)[0])
        masked = F.pad(self.padding(), (0, self.T))  # (B, S+T)
        on_rows = attention.attend_naive(self.rows(x), self.rows(freqs), masked)
        return torch.cat([on_prompts.flatten(0, 1), on_rows[:, self.S :].flatten(0, 1)])
