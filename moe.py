"""DeepSeekMoE: router, experts, load balancing (DeepSeek-V3, arXiv 2412.19437, sec. 2.1.2; V2: arXiv
2405.04434). Letters: the legend of model.py."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

import kernels
from config import ModelConfig
from kernels import Linear, experts_grouped, pack, swiglu


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x) (arXiv 2002.05202)."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.gate_proj = Linear(dim, width, bias=False)
        self.up_proj = Linear(dim, width, bias=False)
        self.down_proj = Linear(width, dim, bias=False)

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Router(nn.Module):
    """Chooses K experts per token. Scores are computed in float32 whatever the model's dtype: a
    score rounded to bfloat16 often ties with another expert's."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.weight = nn.Parameter(torch.empty(cfg.n_routed_experts, cfg.hidden_size))
        if cfg.topk_method == "noaux_tc":  # b, moved by `update_bias`; no gradient reaches it
            self.register_buffer("e_score_correction_bias", torch.zeros(cfg.n_routed_experts))

    def forward(self, x, replay=None):
        """x (N, D) -> weights (N, K), indices (N, K), scores (N, E). replay (N, K): experts to use, -1 =
        choose."""
        logits = F.linear(x.float(), self.weight.float())  # (N, E)
        scores = logits.sigmoid() if self.cfg.scoring_func == "sigmoid" else logits.softmax(-1)  # eq. 15
        indices = self.choose(scores.detach())  # a choice has no gradient; the router learns by the weights
        if replay is not None:
            indices = torch.where(replay >= 0, replay, indices)
        weights = scores.gather(1, indices)  # of s, not of s + b: the bias never weighs
        if self.cfg.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)  # eq. 13; sigmoids do not sum to 1
        return weights * self.cfg.routed_scaling_factor, indices, scores

    def choose(self, scores):
        """Top-K of s + b (eq. 14 and 16), among the best `topk_group` groups. A group's score is the sum
        of its two best in V3 (noaux_tc), its maximum in V2 (group_limited_greedy)."""
        cfg = self.cfg
        noaux = cfg.topk_method == "noaux_tc"
        choice = scores + self.e_score_correction_bias if noaux else scores
        if cfg.topk_group < cfg.n_group and cfg.topk_method != "greedy":  # a token visits few machines
            groups = choice.unflatten(1, (cfg.n_group, -1))  # (N, groups, E / groups)
            best = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1) if noaux else groups.amax(-1)
            kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1,
                best.topk(cfg.topk_group, dim=-1).indices, True)
            choice = groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        return choice.topk(cfg.num_experts_per_tok, dim=-1, sorted=False).indices  # a sum needs no order

    @torch.no_grad()
    def update_bias(self, load, gamma: float = 1e-3):
        """Auxiliary-loss-free balancing (V3, sec. 2.1.2; arXiv 2408.15664): after a step, b_i += gamma for
        an underloaded expert, -= gamma for an overloaded one: a loss for balance would bend the gradient.
        load (E,): tokens sent to each expert in the step."""
        # only the sign: a step of one size, so that one odd batch cannot move the bias far
        self.e_score_correction_bias += gamma * torch.sign(load.float().mean() - load.float())


def experts_plain(x, gate_up, down, weights, indices):
    """sum_k g_k FFN_k(x), the routed part of eq. 12: for each expert, the tokens that chose it.

    x (N, D); gate_up (E, 2F, D); down (E, D, F); weights g (N, K); indices (N, K) -> (N, D)."""
    out = torch.zeros_like(x)
    for e in range(gate_up.shape[0]):
        token, slot = torch.where(indices == e)
        gate, up = (x[token] @ gate_up[e].T).chunk(2, dim=-1)
        y = (F.silu(gate) * up) @ down[e].T  # FFN_e, a SwiGLU
        out = out.index_add(0, token, y * weights[token, slot, None].to(x.dtype))
    return out


class Experts(nn.Module):
    """All routed experts' weights, stacked so that one tensor is one matmul's operand: gate_up_proj (E, 2F,
    D), down_proj (E, D, F)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        E, D, width = cfg.n_routed_experts, cfg.hidden_size, cfg.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * width, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, width))

    packed = None  # per expert, within `kernels.packed_weights`

    def pack(self):
        pairs = [(pack(a), pack(b)) for a, b in zip(self.gate_up_proj, self.down_proj, strict=True)]
        self.packed = pairs if all(p is not None for pair in pairs for p in pair) else None

    def unpack(self):
        self.packed = None

    def forward(self, x, weights, indices):
        """`experts_plain`, by the fast forms of kernels.py."""
        if kernels.PLAIN:
            return experts_plain(x, self.gate_up_proj, self.down_proj, weights, indices)
        return experts_grouped(x, self.gate_up_proj, self.down_proj, weights, indices, self.packed)


class MoE(nn.Module):
    """h' = sum of shared experts + sum_k g_k FFN_k(h) (eq. 12)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.gate, self.experts = Router(cfg), Experts(cfg)
        shared = cfg.moe_intermediate_size * cfg.n_shared_experts
        self.shared_experts = MLP(cfg.hidden_size, shared) if shared else None

    def forward(self, x, routing: "Routing | None" = None):  # (..., D)
        flat = x.flatten(0, -2)
        replay = None
        if routing is not None and routing.replay is not None:
            replay = routing.replay[len(routing.indices)].flatten(0, -2)  # layers report in their order
        weights, indices, scores = self.gate(flat, replay)
        if routing is not None:
            routing.report(*(a.unflatten(0, x.shape[:-1]) for a in (scores, indices)))
        out = self.experts(flat, weights, indices).view_as(x)
        # shared experts see every token, so that not each routed one has to learn what all tokens need
        return out if self.shared_experts is None else out + self.shared_experts(x)


# ---------------------------------------------------------------------------- what a pass is told and reports


@dataclass
class Routing:
    """What the routers of one forward pass are told and what they report; given to `Transformer.hidden`.

    Tokens are laid out as the pass has them: (B, T), or a flat list (N,) where prompts are shared. replay:
    per MoE layer the experts to use, (B, T, K) with -1 where the router decides (rollout routing replay,
    arXiv 2510.11370). mask (B, T): how often a token counts for the load, 0 = it is not there; None = all
    once."""

    replay: list[torch.Tensor] | None = None
    mask: torch.Tensor | None = None
    balance: bool = False  # also compute the sequence-wise balance loss
    count: bool = True  # also count the load of each expert
    rows: Callable | None = None  # a flat list of tokens as whole sequences, for the balance loss
    indices: list[torch.Tensor] = field(default_factory=list)  # per MoE layer, (B, T, K): the experts used
    load: list[torch.Tensor] = field(default_factory=list)  # per MoE layer, (E,): tokens sent to each expert
    balance_losses: list[torch.Tensor] = field(default_factory=list)  # per MoE layer: sum over sequences

    def report(self, scores, indices):
        """scores (B, T, E), indices (B, T, K); without T while decoding."""
        self.indices.append(indices)
        if not self.count:  # a rollout wants the choices only
            return
        chosen = F.one_hot(indices, scores.shape[-1]).sum(-2).to(scores.dtype)  # (B, T, E)
        counted = chosen if self.mask is None else chosen * self.mask[..., None]
        self.load.append(counted.detach().flatten(0, -2).sum(0))
        if self.balance:
            present = torch.ones_like(scores[..., 0]) if self.mask is None else self.mask > 0
            rows = self.rows or (lambda x: x)
            self.balance_losses.append(balance_loss(rows(scores), rows(chosen), rows(present)).sum())

    def rest(self) -> "Routing":
        """An empty report with the orders of the layers that have not reported yet: for a pass that may run
        twice, see model.run_block."""
        replay = self.replay and self.replay[len(self.indices) :]
        return replace(self, replay=replay, indices=[], load=[], balance_losses=[])

    def take(self, other: "Routing"):
        """Append another report."""
        self.indices += other.indices
        self.load += other.load
        self.balance_losses += other.balance_losses


def balance_loss(scores, chosen, mask=None):
    """Sequence-wise balance loss of each sequence, DeepSeek-V3 eq. 17 to 20 with alpha = 1: sum_i f_i P_i.

    scores (B, T, E) > 0; chosen (B, T, E) is 1 where a token uses an expert; mask (B, T) -> (B,)."""
    E = scores.shape[-1]
    mask = torch.ones_like(scores[..., 0]) if mask is None else mask.to(scores.dtype)
    chosen = chosen * mask[..., None]
    tokens = mask.sum(1).clamp(min=1)[:, None]  # (B, 1)
    per_token = (chosen.sum((1, 2)) / tokens.squeeze(1)).clamp(min=1)[:, None]  # K, unless nothing is there
    load = chosen.sum(1) * E / (per_token * tokens)  # f_i, eq. 18: 1 where the load is even; no gradient
    probs = (scores / scores.sum(-1, keepdim=True) * mask[..., None]).sum(1) / tokens  # P_i, eq. 19, 20
    return (load * probs).sum(-1)  # loaded experts lose probability
