"""Grouped-Query Attention (Ainslie et al., arXiv 2305.13245), of Llama, Qwen and most open models: the plain
form, then the fast ones. Beside it: mla.py, with the same methods. Letters: the legend of model.py."""

import torch
from torch import nn

import kernels
from attention import Cohort, SharedPrompts, attend_cached, gqa_attention
from config import ModelConfig
from kernels import Linear, RMSNorm, rope_half


class GQA(nn.Module):
    """Attention whose H query heads share M heads of keys and values, H / M each: 2 M W numbers per token are
    cached, not 2 H W. Every one of them is a key or a value as it is used: nothing is expanded, and nothing
    absorbed."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        D, family = cfg.hidden_size, cfg.family
        self.H, self.M, self.W = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim
        own = family.qkv_bias, family.o_bias  # None: config.json decides
        bias, o_bias = (cfg.attention_bias if b is None else b for b in own)
        self.q_proj = Linear(D, self.H * self.W, bias=bias)
        self.k_proj = Linear(D, self.M * self.W, bias=bias)
        self.v_proj = Linear(D, self.M * self.W, bias=bias)
        self.o_proj = Linear(self.H * self.W, D, bias=o_bias)
        if cfg.use_qk_norm:  # scores cannot explode, whatever the weights become (arXiv 2010.04245)
            self.q_norm = RMSNorm(self.W, cfg.rms_norm_eps)
            self.k_norm = RMSNorm(self.W, cfg.rms_norm_eps)
        self.qk_norm = cfg.use_qk_norm
        self.scale = self.W**-0.5

    def project(self, x, freqs):
        """x (B, T, D), freqs (T, R/2) -> queries (B, T, H, W), keys and values (B, T, M, W), the first R
        numbers of queries and keys turned. Unlike MLA, keys are cached after their rotation: no projection
        follows that it would have to pass."""
        q, k, v = (proj(x).unflatten(-1, (-1, self.W)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        freqs = freqs[..., None, :]  # one rotation for all heads
        return rope_half(q, freqs), rope_half(k, freqs), v

    def attend_naive(self, x, freqs, masked=None):
        """Causal attention as the paper has it: query head h attends to the keys of head h // (H / M). x (B,
        T, D), freqs (T, R/2) -> (B, T, D). masked (B, T): tokens that none attends to."""
        q, k, v = self.project(x, freqs)
        q = q.unflatten(-2, (self.M, -1))  # (B, T, M, H/M, W)
        scores = torch.einsum("btmqw,bjmw->bmqtj", q, k) * self.scale
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)  # j > t: the future
        unseen = unseen if masked is None else unseen | masked[:, None, None, None]
        attn = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        out = torch.einsum("bmqtj,bjmw->btmqw", attn, v)
        return self.o_proj(out.flatten(2))

    def forward(self, x, freqs, shared: SharedPrompts | None = None):
        """Equals `attend_naive`, by `attention.gqa_attention`: x (B, T, D), freqs (T, R/2) -> (B, T, D), and
        what a cache stores, keys and values (B, T, M, W). With shared prompts x is their flat list of tokens
        (N, D), freqs (N, R/2)."""
        q, k, v = self.project(x, freqs)
        if kernels.PLAIN:
            out = self.attend_naive(x, freqs) if shared is None else shared.attend_plain(self, x, freqs)
            return out, (k, v)
        if shared is None:
            out = gqa_attention(q, k, v, self.scale)
        else:
            out = shared.attend(gqa_attention, (q,), (k, v), self.scale)
        return self.o_proj(out.flatten(-2)), (k, v)

    def decode(self, x, freqs, cohorts: list[Cohort], layer: int):
        """Equals `attend_naive` at the last token of each row, the tokens before it cached: x (N, D), freqs
        (N, R/2) -> (N, D)."""
        q, k, v = self.project(x, freqs)
        q = q.unflatten(1, (self.M, -1)) * self.scale  # (N, M, H/M, W)
        new = torch.cat([k, v], dim=-1)  # (N, M, 2 W)
        out = attend_cached(cohorts, layer, q, new, slice(self.W), slice(self.W, None))  # (N, M, H/M, W)
        return self.o_proj(out.flatten(1))
