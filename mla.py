"""Multi-head Latent Attention (DeepSeek-V3, arXiv 2412.19437, eq. 1 to 11): the paper's form and the absorbed
one, then the fast form of each. Beside it: gqa.py, what most other models have. Letters: the legend of
model.py."""

import torch
from torch import nn

import kernels
from attention import Cohort, SharedPrompts, attend_cached, mla_attention, yarn_factor, yarn_mscale
from config import ModelConfig
from kernels import Linear, RMSNorm, rope


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
        return self.kv_b_proj.whole().view(self.H, -1, self.C).split([self.U, self.W], dim=1)

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

    def forward(self, x, freqs, shared: SharedPrompts | None = None):
        """Equals `attend_naive`, by `attention.mla_attention`; for training and prefill, where many queries
        share the cost of expanding keys and values. x (B, T, D), freqs (T, R/2) -> (B, T, D), and what a
        cache stores, (B, T, 1, C+R). With shared prompts x is their flat list of tokens (N, D), freqs (N,
        R/2)."""
        if kernels.PLAIN:
            out = self.attend_naive(x, freqs) if shared is None else shared.attend_plain(self, x, freqs)
            return out, (self.latent(x, freqs)[..., None, :],)
        latent, q = self.latent(x, freqs), self.project_queries(x)
        c, k_rot = latent.split([self.C, self.R], dim=-1)
        kv = self.kv_b_proj(c).unflatten(-1, (self.H, -1))  # (B, T, H, U+W)
        if shared is None:
            out = mla_attention(q, freqs, kv, k_rot, self.scale)
        else:
            out = shared.attend(mla_attention, (q, freqs), (kv, k_rot), self.scale)
        return self.o_proj(out.flatten(-2)), (latent[..., None, :],)

    def decode(self, x, freqs, cohorts: list[Cohort], layer: int):
        """Equals `attend_absorbed` at the last token of each row, the tokens before it cached: x (N, D),
        freqs (N, R/2) -> (N, D). The cached latent is the key of all heads, and its c their value: one
        key-value head for H queries. The projections see all cohorts at once: their weights are read once."""
        w_uk, w_uv = self.up_projections()
        latent, (q, q_rot) = self.latent(x, freqs), self.queries(x, freqs)
        q_c = torch.bmm(q.transpose(0, 1).to(w_uk.dtype), w_uk).transpose(0, 1).to(q.dtype)  # (N, H, C)
        q = torch.cat([q_c, q_rot], dim=-1) * self.scale  # (N, H, C+R)
        out = attend_cached(cohorts, layer, q[:, None], latent[:, None], slice(None), slice(self.C))
        out = torch.bmm(out.squeeze(1).transpose(0, 1).to(w_uv.dtype), w_uv.transpose(1, 2)).transpose(0, 1)
        return self.o_proj(out.to(x.dtype).flatten(1))  # (N, H, W) before
