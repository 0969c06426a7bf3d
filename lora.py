"""Low-Rank Adaptation (LoRA: Hu et al., arXiv 2106.09685): W stays as it is, and W + (alpha / r) B A is
trained through the two small factors alone, A (r, in) and B (out, r). Gradients and moments are then those of
r (in + out) numbers, not of in x out; the reference of a KL is the same model without them.

    python grpo.py --init DIR --lora_rank 16

B starts at zero, so the first step starts from W. The factors are float32 whatever the weights are. A rollout
in float32 reads W + (alpha / r) B A, made once (`LoraLinear.pack`). On disk: peft's adapter_config.json and
adapter_model.safetensors (checkpoint.py), which peft and vLLM open.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from config import Training, UserError
from kernels import Linear, pack, product
from parallel import copy_weights, weights


class Lora(NamedTuple):
    """What an adapter is, beside its numbers."""

    rank: int
    alpha: float
    dropout: float = 0.0  # of the adapter's inputs, in training
    rslora: bool = False  # alpha / sqrt(r) in place of alpha / r (arXiv 2312.03732): larger ranks learn, too
    targets: str = ""  # regular expression, see `matching`
    base: str = ""  # folder of the weights that it belongs to

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LoraLinear(Linear):
    """W x + scale B A x, in place of a Linear whose weight it takes and freezes."""

    def __init__(self, base: Linear, kind: Lora, generator: torch.Generator, device):
        nn.Module.__init__(self)  # not Linear's, which would make a weight of its own
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        bound = 1 / math.sqrt(base.in_features)  # peft's start: kaiming_uniform_(A, a=sqrt(5)), B = 0
        A = torch.empty(kind.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(A.to(device))  # (r, in)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, kind.rank, device=device))
        self.scale, self.dropout = kind.scale, kind.dropout
        self.reference: tuple | None = None  # its factors: None is no adapter, which B = 0 equals
        self.as_reference = False
        self.rollout = False  # True within `kernels.packed_weights`
        self.merged: torch.Tensor | None = None  # there, `whole` if it is asked for

    def factors(self) -> tuple | None:
        return self.reference if self.as_reference else (self.lora_A, self.lora_B)

    def merge(self, weight):
        """weight (out, in), this layer's, plus scale B A, as float32 numbers."""
        if self.factors() is None:
            return weight.float()
        A, B = self.factors()
        return torch.addmm(weight.float(), B, A, alpha=self.scale)

    def whole(self) -> torch.Tensor:
        """The weight as it acts (out, in), for MLA, which also reads it without the layer; in a rollout the
        same tensor each time, and float32."""
        if self.merged is None and self.rollout:
            self.merged = self.merge(self.weight)
        return self.merge(self.weight).to(self.weight.dtype) if self.merged is None else self.merged

    def pack(self):
        """For a rollout, which reads the weights once per token: the sum, packed where that pays. Not in
        bfloat16, which would round most of B A away, small as it is beside W (docs/lora.md): both stay."""
        self.rollout = True
        if self.weight.dtype == torch.float32:
            self.merged = self.merge(self.weight).detach()
            self.packed = pack(self.merged)
            if self.packed is not None:
                self.merged = None  # one copy is enough; `whole` makes it again

    def unpack(self):
        self.packed, self.merged, self.rollout = None, None, False  # W itself was not touched

    def forward(self, x):
        exact = self.weight.dtype == torch.float32
        if self.packed is not None or exact and self.factors() is None:
            return super().forward(x)
        if self.rollout and exact:
            return F.linear(x, self.merged, self.bias)
        low, (A, B) = None, self.factors() or (None, None)
        if A is not None:
            inputs = F.dropout(x, self.dropout) if self.dropout and self.trains() else x
            low = F.linear(inputs, A.to(x.dtype)).flatten(0, -2)  # (N, r)
        if exact:
            out = torch.addmm(super().forward(x).flatten(0, -2), low, B.T, alpha=self.scale)
        else:
            out = _RoundedOnce.apply(x.flatten(0, -2), self.weight, self.bias, low, B, self.scale)
        return out.unflatten(0, x.shape[:-1])

    def trains(self) -> bool:
        return torch.is_grad_enabled() and not self.as_reference


class _RoundedOnce(torch.autograd.Function):
    """x W^T + bias + scale low B^T for bfloat16 x (N, in), W (out, in), low (N, r) and float32 B (out, r),
    summed in float32. Were W x rounded first, most of B A x would vanish in the second rounding: 81% for a B
    of 2e-4, one step of training (SmolLM2-135M, docs/lora.md)."""

    @staticmethod
    def forward(ctx, x, weight, bias, low, B, scale):
        ctx.save_for_backward(weight, low, B)
        ctx.scale = scale
        out = product(x, weight.T)
        if low is not None:  # else the reference, by the same operations
            out.addmm_(low.float(), B.T, alpha=scale)
        return (out if bias is None else out.add_(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, low, B = ctx.saved_tensors
        g = grad.float()
        g_low = (g @ B).mul_(ctx.scale).to(low.dtype)
        g_x = grad @ weight if ctx.needs_input_grad[0] else None
        return g_x, None, None, g_low, (g.T @ low.float()).mul_(ctx.scale), None


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The model's adapted layers by name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLinear))


def place(model: nn.Module, name: str, layer: Linear):
    """Put a layer in the place of the one of that name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def linear_layers(model: nn.Module) -> list[str]:
    """What can have an adapter. (The head's weight is read without its module; experts are one tensor.)"""
    return [name for name, m in model.named_modules() if name.startswith("layers.") and isinstance(m, Linear)]


def matching(model: nn.Module, targets: str) -> list[str]:
    """The linear layers of the blocks whose names the regular expression is found in. Without one those of
    attention, and of a model without experts the MLPs': in one with experts peft takes every gate_proj,
    up_proj and down_proj for theirs. Raises UserError if there is none."""
    able = linear_layers(model)
    targets = targets or ("" if model.cfg.is_dense else "self_attn")
    try:
        chosen = [name for name in able if re.search(targets, name)]
    except re.error as error:
        raise UserError(f"--lora_targets {targets}: no regular expression ({error})") from None
    if not chosen:
        raise UserError(f"--lora_targets {targets}: no linear layer of a block has such a name; there are "
            + ", ".join(dict.fromkeys(name.split(".", 2)[2] for name in able)))
    return chosen


def attach(model: nn.Module, kind: Lora, seed: int = 0, names: list[str] | None = None, device=None):
    """Freeze the model, but for a preference model's scalar head, and put adapters beside the layers that
    match kind.targets, or beside `names`. device: where adapters go, None = to the weights. Raises UserError
    if no layer matches."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        p.requires_grad_(name == "score.weight")
    for name in matching(model, kind.targets) if names is None else names:
        base = model.get_submodule(name)
        place(model, name, LoraLinear(base, kind, generator, device or base.weight.device))
    model.lora = kind


def adapt(model: nn.Module, cfg: Training, seed: int, base: str, device: str | None = None):
    """Prepare a model for training with cfg's settings: --lora_rank adapters on the weights of the folder
    `base`, or those that it has already (of --init, or of a stopped run), which the reference then has, too.
    Raises UserError where these are others than the settings say."""
    kind = Lora(cfg.lora_rank, cfg.lora_alpha, cfg.lora_dropout, cfg.lora_rslora, cfg.lora_targets, base)
    had, found = model.lora, {name for name, _ in adapters(model)}
    if hasattr(model, "score") and model.score.weight.is_meta:  # it will be split, but for what is trained
        model.score.to_empty(device=device).weight.data.zero_()
    if had is None:
        return attach(model, kind, seed, device=device)
    for key, value in dict(rank=had.rank, alpha=had.alpha, rslora=had.rslora).items():
        if value != getattr(kind, key):
            raise UserError(f"--lora_{key} {getattr(kind, key)}: the adapter of --init has {value}")
    if other := found ^ set(matching(model, kind.targets)):
        raise UserError(f"--lora_targets {kind.targets}: the adapter of --init has other layers, it differs "
            f"in {min(other)}")
    model.lora = kind
    for _, m in adapters(model):
        m.dropout = kind.dropout
    renew_reference(model, model)


def fold(model: nn.Module):
    """Make the adapters part of the weights, which become float32, and trainable again."""
    model.float()
    for name, m in list(adapters(model)):
        layer = Linear(m.in_features, m.out_features, bias=m.bias is not None, device="meta")
        layer.weight, layer.bias = nn.Parameter(m.merge(m.weight).detach()), m.bias
        place(model, name, layer)
    model.requires_grad_(True)
    model.lora = None


def renew_reference(reference: nn.Module, model: nn.Module):
    """Make the policy the reference: by its adapters where both are one model, else by its weights."""
    for _, m in adapters(model):
        m.reference = m.lora_A.detach().clone(), m.lora_B.detach().clone()
    if reference is not model:
        copy_weights(reference, weights(model))


def reference_state(reference: nn.Module | None) -> dict | None:
    """What a stopped run needs to have its reference again."""
    if reference is None:
        return None
    if reference.lora is None:
        return weights(reference)
    return {name: m.reference for name, m in adapters(reference)}


def load_reference(reference: nn.Module, state: dict):
    """Take back what `reference_state` gave."""
    if reference.lora is None:
        copy_weights(reference, state)
    for name, m in adapters(reference):
        factors = state[name]
        m.reference = factors and tuple(factor.to(m.weight.device) for factor in factors)


def seed_dropout(model: nn.Module, *numbers: int):
    """What dropout draws from now on depends on these numbers alone, also after a resume."""
    if model.lora and model.lora.dropout:
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


@contextmanager
def as_reference(model: nn.Module):
    """Within, the model is the reference: with its adapters off, or as `renew_reference` found them."""
    layers = [m for _, m in adapters(model)]
    try:
        for m in layers:
            m.as_reference = True
        yield model
    finally:
        for m in layers:
            m.as_reference = False
