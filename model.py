"""The transformer: DeepSeek-V3-shaped, or of another family in config.FAMILIES.

The legend of letters, for all files; an einsum has the same ones, lower case:
    B sequences = P prompts x G samples    T tokens of each, or of the part behind a prompt of S
    N tokens in a flat list: those of a batch, or while decoding one of each row
    D model width    H heads    C latent rank    V vocabulary
    U width of a head's key that is not rotated    R rotated width    W width of a head's value
    M heads of keys and values in GQA, each for H / M of queries (q, in an einsum)
    E experts        K experts per token           F expert width
    j, in an einsum, the tokens that are attended to; t, those that attend (as in the paper)
A sequence is right-padded: attention is causal, so padding never reaches a real token and no mask is needed.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention import Cohort, SharedPrompts, rope_frequencies
from config import ModelConfig, UserError
from gqa import GQA
from kernels import Head, RMSNorm, embed
from mla import MLA
from moe import MLP, Experts, MoE, Router, Routing

ATTENTIONS = {"mla": MLA, "gqa": GQA}


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): x itself is never normed, so that a
    gradient passes all layers unchanged."""

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = ATTENTIONS[cfg.family.attention](cfg)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        dense = layer < cfg.first_k_dense_replace  # there the load balances slowest (arXiv 2401.06066)
        self.mlp = MLP(cfg.hidden_size, cfg.intermediate_size) if dense else MoE(cfg)

    def feed_forward(self, x, routing):
        h = self.post_attention_layernorm(x)
        return x + (self.mlp(h, routing) if isinstance(self.mlp, MoE) else self.mlp(h))

    def forward(self, x, freqs, routing, shared=None):
        attended, remembered = self.self_attn(self.input_layernorm(x), freqs, shared)
        return self.feed_forward(x + attended, routing), remembered

    def decode(self, x, freqs, cohorts, layer, routing):
        attended = self.self_attn.decode(self.input_layernorm(x), freqs, cohorts, layer)
        return self.feed_forward(x + attended, routing)


def run_block(block: Block, x, freqs, routing: Routing | None, shared=None, recompute=False, random=False):
    """block(x, freqs, routing, shared). recompute: only x is kept, and the backward pass runs the block again
    (Chen et al., arXiv 1604.06174), with the same random numbers if it draws any. Each run reports to a
    Routing of its own, and only the first one's report is taken. (Of a split model's block torch copies
    arguments that hold a balance loss of an earlier one.)"""
    rest = routing and routing.rest()

    def run(x):
        own = rest and rest.rest()
        return *block(x, freqs, own, shared), own

    if recompute:
        # reentrant checkpoints would not see the gradient of a balance loss
        x, remembered, own = checkpoint(run, x, use_reentrant=False, preserve_rng_state=random)
    else:
        x, remembered, own = run(x)
    if own:
        routing.take(own)
    return x, remembered


class Transformer(nn.Module):
    """`model(tokens) -> logits`; `model.hidden(tokens)` stops before the head; `prefill` and `decode`
    generate."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.hidden_size)
        self.layers = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.num_hidden_layers))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.lm_head = Head(cfg.hidden_size, cfg.vocab_size, bias=False)
        if cfg.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight  # one matrix for both
        self.lora = None  # the lora.Lora of its adapters
        self.recompute = False  # in training, run each block again in the backward pass: `run_block`
        self.rotations = None  # RoPE's table; no buffer, for complex64 must survive .to(torch.bfloat16)

    @torch.no_grad()
    def init_weights(self, seed: int = 0, put=torch.Tensor.copy_, device: str | None = None):
        """Normal(0, initializer_range) for every matrix, 1 for norms, 0 for biases; seeded. Returns self.
        put(parameter, values) sets a matrix; device: where values are drawn, None = where the weights are."""
        g = torch.Generator(device or self.embed_tokens.weight.device).manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Experts | Router):
                for name, p in module.named_parameters(recurse=False):
                    if name == "bias":
                        p.zero_()
                    else:
                        values = torch.empty(p.shape, device=g.device)
                        put(p, values.normal_(0, self.cfg.initializer_range, generator=g))
            if isinstance(module, RMSNorm):
                module.weight.fill_(1)
            for buffer in module.buffers(recurse=False):  # routing biases
                buffer.zero_()
        return self

    def freqs(self, positions: torch.Tensor) -> torch.Tensor:
        """RoPE's unit numbers at integer positions: (...,) -> (..., R/2) complex64."""
        if self.rotations is None or self.rotations.device != positions.device:
            self.rotations = rope_frequencies(self.cfg).to(positions.device)
        return self.rotations[positions]

    def check_length(self, length: int):
        """Raises UserError if a sequence of `length` tokens does not fit the context."""
        if length > self.cfg.max_position_embeddings:
            raise UserError(f"a sequence of {length} tokens does not fit the model's context of "
                f"{self.cfg.max_position_embeddings}; shorten the prompt or --max_new_tokens")

    def hidden(self, tokens: torch.Tensor, routing: Routing | None = None) -> torch.Tensor:
        """tokens (B, T), right-padded -> (B, T, D), the normed states before the head: a loss takes these,
        for the logits of a whole batch would be its largest tensor (kernels.token_logprobs)."""
        return self._run(tokens, routing)[0]

    def hidden_shared(self, prompts, lengths, completions, owner, routing: Routing | None = None):
        """The states that predict completions, each prompt computed once for all its completions: prompts
        (P, S), lengths (P,), completions (B, T), owner (B,), right-padded -> (B, T+1, D): the prompt's last
        token, then the completion's own. Equals `hidden` of the whole sequences. The routing is of flat
        tokens, see SharedPrompts."""
        shared = SharedPrompts(lengths, owner, prompts.shape[1], completions.shape[1])
        self.check_length(shared.S + shared.T)
        tokens = torch.cat([prompts.flatten(), completions.flatten()])  # (P*S + B*T,)
        x = embed(tokens, self.embed_tokens.weight)
        freqs = self.freqs(shared.positions())
        if routing is not None:
            routing.rows = shared.rows  # a balance loss is of whole sequences
        for layer in self.layers:
            x, _ = run_block(layer, x, freqs, routing, shared, **self._recompute())
        on_prompts, on_completions = shared.split(self.norm(x))
        last = on_prompts[torch.arange(len(lengths), device=x.device), lengths - 1]  # predict first tokens
        return torch.cat([last.index_select(0, owner)[:, None], on_completions], dim=1)

    def _recompute(self) -> dict:
        """How `run_block` runs: without gradients there is nothing to keep, so nothing to recompute."""
        again = self.recompute and torch.is_grad_enabled()
        return dict(recompute=again, random=again and bool(self.lora and self.lora.dropout))

    def _run(self, tokens, routing, remember=False):
        self.check_length(tokens.shape[1])
        x, remembered = embed(tokens, self.embed_tokens.weight), []  # (B, T, D)
        freqs = self.freqs(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x, parts = run_block(layer, x, freqs, routing, None, **self._recompute())
            remembered += [parts] if remember else []
        return self.norm(x), remembered

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (B, T) -> logits (B, T, V), float32."""
        return self.lm_head(self.hidden(tokens))

    def prefill(self, tokens, lengths, samples: int, routing=None):
        """Run the prompts once, by the form of training: tokens (P, S), lengths (P,) -> the hidden state of
        each prompt's last token, for each of its samples (P x samples, D), and their Cohort."""
        x, remembered = self._run(tokens, routing, remember=True)
        last = x[torch.arange(len(lengths), device=x.device), lengths - 1]  # behind it is padding
        return last.repeat_interleave(samples, 0), Cohort(remembered, lengths, samples)

    def decode(self, tokens, cohorts: list[Cohort], routing=None):
        """One step for every row of every cohort: tokens (N,) -> hidden (N, D), equal to `hidden` of each
        row's whole sequence at its last token. Counts the cohorts' steps."""
        x, freqs = self.embed_tokens(tokens), self.freqs(torch.cat([c.positions() for c in cohorts]))
        for number, layer in enumerate(self.layers):
            x = layer.decode(x, freqs, cohorts, number, routing)
        for cohort in cohorts:
            cohort.t += 1
        return self.norm(x)

    def routers(self) -> list[Router]:
        return [layer.mlp.gate for layer in self.layers if isinstance(layer.mlp, MoE)]

    def num_parameters(self) -> tuple[int, int]:
        """(all, active per token): what memory holds, and what a token costs: routed experts count K / E in
        the second."""
        total = sum(p.numel() for p in self.parameters())
        routed = sum(p.numel() for m in self.modules() if isinstance(m, Experts) for p in m.parameters())
        return total, total - routed + routed * self.cfg.num_experts_per_tok // self.cfg.n_routed_experts
