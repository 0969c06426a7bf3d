"""Multi-head Latent Attention (DeepSeek-V3, arXiv 2412.19437, eq. 1 to 11): the paper's form and the
absorbed one, then the fast form of each, then what they attend to. Letters: the legend of model.py."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import kernels
from config import ModelConfig
from kernels import Linear, mla_attention, rms_norm, rope


class MLA(nn.Module):
    """Attention whose keys and values are up-projections of one small latent per token: C + R numbers per
    token are cached, not H (U + R + W)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.H, self.C = cfg.num_attention_heads, cfg.kv_lora_rank
        self.U, self.R, self.W = cfg.qk_nope_head_dim, cfg.qk_rope_head_dim, cfg.v_head_dim
        D, qk = cfg.hidden_size, cfg.qk_nope_head_dim + cfg.qk_rope_head_dim
        if cfg.q_lora_rank is None:
            self.q_proj = Linear(D, self.H * qk, bias=False)
        else:  # eq. 6: c_Q = W_DQ h; eq. 7, 8: q = W_UQ c_Q
            self.q_a_proj = Linear(D, cfg.q_lora_rank, bias=cfg.attention_bias)
            self.q_a_layernorm = RMSNorm(cfg.q_lora_rank)
            self.q_b_proj = Linear(cfg.q_lora_rank, self.H * qk, bias=False)
        self.q_lora = cfg.q_lora_rank is not None
        self.kv_a_proj_with_mqa = Linear(D, self.C + self.R, bias=cfg.attention_bias)  # W_DKV, W_KR
        self.kv_a_layernorm = RMSNorm(self.C)
        self.kv_b_proj = Linear(self.C, self.H * (self.U + self.W), bias=False)  # W_UK, W_UV
        self.o_proj = Linear(self.H * self.W, D, bias=cfg.attention_bias)  # W_O
        self.scale = qk**-0.5  # scores of equal size whatever the width: softmax stays soft
        if cfg.rope_scaling and cfg.rope_scaling.get("mscale_all_dim"):
            # squared: YaRN's temperature is on query and key, and also on what RoPE does not turn
            self.scale *= yarn_mscale(yarn_factor(cfg), cfg.rope_scaling["mscale_all_dim"]) ** 2

    def latent(self, x, freqs):
        """What a cache stores: eq. 1 and 3, c = norm(W_DKV h) and k_R = RoPE(W_KR h) -> (B, T, C+R).

        The position has a key part of its own, one for all heads: a rotation between W_UK and c would differ
        from token to token, and W_UK could not be absorbed into the query."""
        c, k_rot = self.kv_a_proj_with_mqa(x).split([self.C, self.R], dim=-1)
        return torch.cat([self.kv_a_layernorm(c), rope(k_rot, freqs)], dim=-1)

    def project_queries(self, x):
        """Eq. 6 to 8: x (B, T, D) -> (B, T, H, U+R), the last R numbers to be rotated."""
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.q_lora else self.q_proj(x)
        return q.unflatten(-1, (self.H, -1))

    def queries(self, x, freqs):
        """x (B, T, D) -> not rotated (B, T, H, U), rotated (B, T, H, R)."""
        q, q_rot = self.project_queries(x).split([self.U, self.R], dim=-1)
        return q, rope(q_rot, freqs[..., None, :])  # one rotation for all heads

    def up_projections(self):
        """W_UK (H, U, C) and W_UV (H, W, C), the two halves of kv_b_proj."""
        return self.kv_b_proj.weight.view(self.H, -1, self.C).split([self.U, self.W], dim=1)

    def attend_naive(self, x, freqs, masked=None):
        """Causal attention as the paper writes it: token t attends to the tokens j <= t. x (B, T, D), freqs
        (T, R/2) -> (B, T, D). masked (B, T): tokens that none attends to."""
        c, k_rot = self.latent(x, freqs).split([self.C, self.R], dim=-1)  # eq. 1, 3
        q, q_rot = self.queries(x, freqs)  # eq. 6 to 9
        w_uk, w_uv = self.up_projections()
        k = torch.einsum("bjc,huc->bjhu", c, w_uk)  # eq. 2: each head's own keys
        v = torch.einsum("bjc,hwc->bjhw", c, w_uv)  # eq. 5: and values
        scores = torch.einsum("bthu,bjhu->bhtj", q, k) + torch.einsum("bthr,bjr->bhtj", q_rot, k_rot)  # eq. 4
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)  # j > t: the future
        unseen = unseen if masked is None else unseen | masked[:, None, None]
        attn = (scores * self.scale).masked_fill(unseen, float("-inf")).softmax(-1)
        out = torch.einsum("bhtj,bjhw->bthw", attn, v)  # eq. 10
        return self.o_proj(out.flatten(2))  # eq. 11

    def attend_absorbed(self, x, freqs):
        """Equals `attend_naive` without each head's keys and values: q (W_UK c) = (q W_UK) c, so W_UK
        goes into the query and W_UV behind the attention, and every head attends to the latent itself
        (DeepSeek-V2, arXiv 2405.04434, sec. 2.1.2). Fewer numbers to read, more to multiply: for decoding."""
        latent = self.latent(x, freqs)  # [c; k_R]: one key for all heads, and its c is also the value
        q, q_rot = self.queries(x, freqs)
        w_uk, w_uv = self.up_projections()
        q = torch.cat([torch.einsum("bthu,huc->bthc", q, w_uk), q_rot], dim=-1)  # (B, T, H, C+R)
        scores = torch.einsum("bthc,bjc->bhtj", q, latent) * self.scale
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        attn = scores.masked_fill(future, float("-inf")).softmax(-1)
        out = torch.einsum("bhtj,bjc,hwc->bthw", attn, latent[..., : self.C], w_uv)
        return self.o_proj(out.flatten(2))

    def forward(self, x, freqs, shared: "SharedPrompts | None" = None):
        """Equals `attend_naive`, by `kernels.mla_attention`; for training and prefill, where many queries
        share the cost of expanding keys and values. x (B, T, D), freqs (T, R/2) -> (B, T, D), latent
        (B, T, C+R). With shared prompts x is their flat list of tokens (N, D), freqs (N, R/2)."""
        if kernels.PLAIN:
            out = self.attend_naive(x, freqs) if shared is None else shared.attend_plain(self, x, freqs)
            return out, self.latent(x, freqs)
        latent, q = self.latent(x, freqs), self.project_queries(x)
        c, k_rot = latent.split([self.C, self.R], dim=-1)
        kv = self.kv_b_proj(c).unflatten(-1, (self.H, -1))  # (B, T, H, U+W)
        attend = mla_attention if shared is None else shared.attend
        return self.o_proj(attend(q, kv, k_rot, freqs, self.scale).flatten(-2)), latent

    def decode(self, x, freqs, cohorts: "list[Cohort]", layer: int):
        """Equals `attend_absorbed` at the last token of each row, the tokens before it cached: x (N, D),
        freqs (N, R/2) -> (N, D). The projections see all cohorts at once: their weights are read once."""
        w_uk, w_uv = self.up_projections()
        latent, (q, q_rot) = self.latent(x, freqs), self.queries(x, freqs)
        q_c = torch.bmm(q.transpose(0, 1), w_uk).transpose(0, 1)  # (N, H, C)
        q = torch.cat([q_c, q_rot], dim=-1) * self.scale  # (N, H, C+R)
        sizes = [len(c) for c in cohorts]
        out = [self.attend_cached(*part, layer) for part in
            zip(q.split(sizes), latent.split(sizes), cohorts, strict=True)]
        out = torch.cat(out) if len(out) > 1 else out[0]  # (N, H, C)
        out = torch.bmm(out.transpose(0, 1), w_uv.transpose(1, 2)).transpose(0, 1)  # (N, H, W)
        return self.o_proj(out.flatten(1))

    def attend_cached(self, q, latent, cohort: "Cohort", layer: int):
        """q (N, H, C+R), scaled, over the prompt and what came since, `latent` (N, C+R) last: (N, H, C)."""
        cache = cohort.caches[layer]
        cache.append(cohort.t, latent)
        past = cohort.t + 1 if cohort.seen is None else cohort.seen
        prefix, suffix = cache.prefix, cache.suffix[:, :past]  # (P, S, C+R), (N, past, C+R)
        # all samples of a prompt and all their heads query the same prefix: one large product per prompt
        S, q_grid = prefix.shape[1], cohort.gather(q)  # (P, G, H, C+R)
        on_prefix = torch.bmm(q_grid.flatten(1, 2), prefix.transpose(1, 2)).view(*q_grid.shape[:3], S)
        on_prefix = cohort.scatter(on_prefix.masked_fill_(cohort.padding, float("-inf")))  # (N, H, S)
        # one softmax runs over both parts, so their scores go into one tensor
        attn = q.new_empty(*q.shape[:2], S + suffix.shape[1])
        attn[..., :S] = on_prefix
        out = q.new_empty(*q.shape[:2], self.C)
        for rows in cache_sized(suffix):
            attn[rows, :, S:] = torch.bmm(q[rows], suffix[rows].transpose(1, 2))
            if cohort.seen is not None:  # a fixed shape holds room for tokens that are not there yet
                future = torch.arange(past, device=q.device) > cohort.t
                attn[rows, :, S:].masked_fill_(future, float("-inf"))
            attn[rows] = attn[rows].softmax(-1)
            out[rows] = torch.bmm(attn[rows, :, S:], suffix[rows][..., : self.C])
        p_grid = cohort.gather(attn[..., :S])
        from_prefix = torch.bmm(p_grid.flatten(1, 2), prefix[..., : self.C]).view(*p_grid.shape[:3], self.C)
        return out.add_(cohort.scatter(from_prefix))


# ----------------------------------------------------------------------------------- what decoding remembers


class LatentCache:
    """What decoding remembers of one layer: the normed latent and the rotated key, C + R numbers per token.

    `prefix` (P, S, C+R) is stored once per prompt and attended to by all its samples; `suffix` (N, room, C+R)
    grows by one token per row and step."""

    def __init__(self, prefix: torch.Tensor, rows: int):
        self.prefix = prefix
        self.suffix = prefix.new_zeros(rows, 32, prefix.shape[-1])

    def append(self, t: int | torch.Tensor, latent: torch.Tensor):
        """Store the rows' t-th completion token: latent (N, C+R). The room doubles when it is full, so that a
        number is copied about once; where t is a tensor (1,), there is enough."""
        if torch.is_tensor(t):
            self.suffix.index_copy_(1, t, latent[:, None])  # reads t on the device: nothing waits
            return
        if t == self.suffix.shape[1]:
            self.suffix = F.pad(self.suffix, (0, 0, 0, t))
        self.suffix[:, t] = latent


class Cohort:
    """Rows that started together, so that all are at the same step `t`: a LatentCache per layer, and which
    rows share which prompt. Rows are laid out as (P, G), so that a prompt's samples attend to its prefix in
    one matmul; after rows have left, G is the largest remaining group, and the holes are computed and
    thrown away.

    `fix` turns it into one whose steps are all the same operations on the same memory, as a CUDA graph needs:
    `t` is then a tensor (1,), and `seen` tokens of the suffix are attended to, the future ones masked."""

    t: int | torch.Tensor = 0  # completion tokens in the caches
    seen: int | None = None
    caches: list[LatentCache]  # one per layer
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

    def __init__(self, latents: list[torch.Tensor], lengths: torch.Tensor, samples: int):
        """latents: per layer (P, S, C+R), right-padded; lengths (P,) of the prompts."""
        self.lengths = lengths
        self.owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(samples)
        self.caches = [LatentCache(latent, len(self.owner)) for latent in latents]
        self._lay_out()

    def __len__(self):
        return len(self.owner)

    def fix(self, length: int):
        """Make room for `length` completion tokens."""
        self.t, self.seen = torch.full((1,), self.t, device=self.owner.device), min(64, length)
        for cache in self.caches:
            cache.suffix = F.pad(cache.suffix, (0, 0, 0, max(0, length - cache.suffix.shape[1])))

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
        positions = torch.arange(self.caches[0].prefix.shape[1], device=device)
        self.padding = (positions >= self.lengths[:, None])[:, None, None]  # (P, 1, 1, S)

    def gather(self, x):  # (N, ...) -> (P, G, ...)
        x = x if self.full else x[self.row]
        return x.unflatten(0, (len(self.lengths), -1))

    def scatter(self, x):  # (P, G, ...) -> (N, ...)
        x = x.flatten(0, 1)
        return x if self.full else x[self.cell]


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

    def attend(self, q, kv, k_rot, freqs, scale: float):
        """`mla_attention` of flat tokens: prompts see themselves, completions their prompt and themselves.
        Equals `attend_plain` before W_O."""
        (q_prompt, q_completion), (kv_prompt, _), (k_prompt, _), (f_prompt, f_completion) = map(
            self.split, (q, kv, k_rot, freqs))
        padding = self.padding()
        on_prompt = mla_attention(q_prompt, kv_prompt, k_prompt, f_prompt, scale)
        on_both = mla_attention(q_completion, self.rows(kv), self.rows(k_rot), f_completion, scale, padding)
        return torch.cat([on_prompt.flatten(0, 1), on_both.flatten(0, 1)])

    def attend_plain(self, mla: MLA, x, freqs):
        """The same by `attend_naive`: the prompts, then each completion behind its prompt, once more."""
        on_prompts = mla.attend_naive(self.split(x)[0], self.split(freqs)[0])
        masked = F.pad(self.padding(), (0, self.T))  # (B, S+T)
        on_rows = mla.attend_naive(self.rows(x), self.rows(freqs), masked)
        return torch.cat([on_prompts.flatten(0, 1), on_rows[:, self.S :].flatten(0, 1)])


# ------------------------------------------------------------------------------------------------- norm, RoPE


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's temperature 0.1 m ln(s) + 1 (arXiv 2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def yarn_factor(cfg: ModelConfig) -> float:
    """The context's extension s = new length / original length."""
    yarn = cfg.rope_scaling
    return yarn.get("factor") or cfg.max_position_embeddings / yarn["original_max_position_embeddings"]


def rope_frequencies(cfg: ModelConfig, length: int | None = None) -> torch.Tensor:
    """exp(i m theta_r) for positions m < length: complex64 (length, R/2), times YaRN's attention factor.

    YaRN (arXiv 2309.00071, sec. 3.2): slow pairs are interpolated by the factor, fast pairs are kept, with
    a linear ramp between the pairs that turn beta_fast and beta_slow times over the original context."""
    half, length = cfg.qk_rope_head_dim // 2, length or cfg.max_position_embeddings
    theta = cfg.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    amplitude = 1.0
    if cfg.rope_scaling:
        yarn, factor = cfg.rope_scaling, yarn_factor(cfg)
        original = yarn["original_max_position_embeddings"]

        def pair_turning(times):
            return half * math.log(original / (times * 2 * math.pi)) / math.log(cfg.rope_theta)

        low, high = pair_turning(yarn.get("beta_fast") or 32), pair_turning(yarn.get("beta_slow") or 1)
        if yarn.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        ramp = ((torch.arange(half) - low) / max(high - low, 0.001)).clamp(0, 1)  # 1: a slow pair
        theta = theta * (1 - ramp) + theta / factor * ramp
        # longer contexts flatten the softmax: the temperature makes up for it
        mscale, mscale_all = yarn.get("mscale"), yarn.get("mscale_all_dim")
        amplitude = yarn.get("attention_factor")
        if amplitude is None:
            amplitude = (yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all)
                if mscale and mscale_all else yarn_mscale(factor))
    angles = torch.outer(torch.arange(length, dtype=torch.float32), theta)
    return torch.polar(torch.full_like(angles, amplitude), angles)
