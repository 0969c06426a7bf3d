"""Optimizers: Muon for matrices, AdamW for the rest; float32 masters of bfloat16 parameters; the one place
where gradients become a step; what is done where these are no finite numbers."""

import math

import torch
import torch.distributed as dist

from config import Diverged
from parallel import ALONE, Ranks, gather, is_sharded, is_split, local, own_rows, together, whole

# ----------------------------------------------------------------------------------------------------- Muon


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype, steps: int = 5) -> torch.Tensor:
    """Five Newton-Schulz steps that move every singular value of each matrix towards 1, so that an update
    turns all directions alike (Muon: Jordan et al. 2024; arXiv 2502.16982, eq. 1 and 2).

    matrices (n, rows, columns), rows <= columns -> the same shape in `dtype`, that of the products: one
    batched product for all n matrices. X <- aX + (bA + cA^2)X with A = X X^T; the coefficients are the
    authors', steep at 0: singular values end between about 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrices.to(dtype)
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # now no singular value is above 1
    for _ in range(steps):
        A = X @ X.mT  # (n, rows, rows)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X


def product_dtype(device: str) -> torch.dtype:
    """The dtype of Muon's products: bfloat16 on CUDA and on a processor that multiplies it in hardware. Any
    other processor emulates it, 20 to 100 times slower than float32. A matter of capability, not of a
    measurement: the same machine must always make the same numbers."""
    in_hardware = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if device.startswith("cuda") or device == "cpu" and in_hardware else torch.float32


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, with AdamW's step size (arXiv 2502.16982, eq. 4).

    A parameter is a matrix (rows, columns), or a stack of them (E, rows, columns), each a matrix of its own:
    the experts. Matrices of one shape are one batched product, and each rank does its share of them; who does
    a matrix does not change its update. The same numbers as torch.optim.Muon, adjust_lr_fn="match_rms_adamw",
    which takes one matrix at a time, all of them on every rank, and always in bfloat16.

    Of a parameter that is split each rank has the momentum of its rows; the direction is gathered, for only a
    whole matrix can be orthogonalised, and of the update each rank adds its rows."""

    def __init__(self, params, lr: float, weight_decay: float = 0.1, momentum: float = 0.95,
            ranks: Ranks = ALONE):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        self.ranks, self.dtype = ranks, product_dtype(ranks.device)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for bucket in buckets([p for p in group["params"] if p.grad is not None]):
                updates = self._orthogonalized([wide(self._direction(p, group["momentum"])) for p in bucket])
                for p, update in zip(bucket, updates, strict=True):
                    tall = p.shape[-2] > p.shape[-1]
                    update = (update.mT if tall else update).view(p.shape)[own_rows(p)]
                    scale = 0.2 * max(p.shape[-2:]) ** 0.5  # the size of AdamW's update, about 0.2
                    rows = local(p).mul_(1 - group["lr"] * group["weight_decay"])
                    rows.add_(update, alpha=-group["lr"] * scale)

    def _direction(self, p, momentum: float):
        """Nesterov's: the gradient, moved towards the running mean that already holds it."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        mean, grad = state["momentum_buffer"], p.grad
        local(mean).lerp_(local(grad), 1 - momentum)
        return whole(grad.lerp(mean, momentum), grad.dtype)

    def _orthogonalized(self, stacks: list[torch.Tensor]) -> list[torch.Tensor]:
        """Stacks (n, rows, columns), sorted by shape, in one flat buffer: each rank fills its share, and the
        sum over ranks is the whole."""
        flat = torch.cat([s.flatten() for s in stacks])
        out = torch.zeros_like(flat, dtype=self.dtype)
        for first, last, shape in share([s.shape for s in stacks], self.ranks):
            out[first:last] = orthogonalize(flat[first:last].view(-1, *shape), self.dtype).flatten()
        if self.ranks.world > 1:
            with together():
                dist.all_reduce(out)
        return [o.view_as(s) for o, s in zip(out.split([s.numel() for s in stacks]), stacks, strict=True)]


def wide(p: torch.Tensor) -> torch.Tensor:
    """A view of a matrix or a stack as (n, rows, columns), rows <= columns: products of rows x rows are the
    cheaper ones."""
    stack = p if p.ndim == 3 else p[None]
    return stack.mT if stack.shape[1] > stack.shape[2] else stack


BUCKET = 1 << 26  # numbers orthogonalised at once: with the temporaries about 1 GiB in float32


def buckets(params: list) -> list[list]:
    """The parameters sorted by the `wide` shape of their matrices, at most BUCKET numbers together (or one
    larger parameter)."""
    out: list[list] = []
    for p in sorted(params, key=lambda p: sorted(p.shape[-2:])):
        if not out or sum(q.numel() for q in out[-1]) + p.numel() > BUCKET:
            out.append([])
        out[-1].append(p)
    return out


def share(shapes: list[torch.Size], ranks: Ranks) -> list[tuple[int, int, tuple[int, int]]]:
    """This rank's matrices of stacks (n, rows, columns) that lie one behind the other: (first number, last +
    1, shape) of each run of equal shapes. A matrix costs rows^2 columns; it goes to the rank in whose equal
    part of the whole cost its middle lies."""
    cost = [rows * rows * columns for _, rows, columns in shapes]
    total = sum(n * c for (n, _, _), c in zip(shapes, cost, strict=True))
    runs, at, spent = [], 0, 0
    for (n, rows, columns), c in zip(shapes, cost, strict=True):
        for _ in range(n):
            if (2 * spent + c) * ranks.world // (2 * total) == ranks.rank:
                first = runs.pop()[0] if runs and runs[-1][2] == (rows, columns) else at
                runs.append((first, at + rows * columns, (rows, columns)))
            at, spent = at + rows * columns, spent + c
    return runs


def make_optimizers(model: torch.nn.Module, ranks: Ranks = ALONE, *, name: str = "muon", lr: float = 1e-3,
        weight_decay: float = 0.01, saved: list[dict] | None = None) -> list[torch.optim.Optimizer]:
    """AdamW for everything (name "adamw"), or Muon for the blocks' matrices and stacks of experts ("muon")
    beside AdamW for the rest: embedding, head, routers, norms. Only matrices decay. The optimizers step the
    masters. saved: the states of a stopped run's."""
    matrices, decay, plain = [], [], []
    for path, p in model.named_parameters():
        if not p.requires_grad:
            continue
        kept = any(word in path for word in ("embed", "lm_head", "score")) or path.endswith("gate.weight")
        kind = plain if p.ndim < 2 else decay if kept or name == "adamw" else matrices
        kind.append(master_of(p))
    optimizers = [torch.optim.AdamW([{"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.95), fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, lr, weight_decay, ranks=ranks))
    for optimizer, state in zip(optimizers, saved, strict=True) if saved else ():
        optimizer.load_state_dict(state)
    return optimizers


# ------------------------------------------------------------------------------------- masters, and one step


def sum_gradients(ranks: Ranks, parameters: list[torch.nn.Parameter]):
    """Add up the ranks' gradients in one all-reduce. Losses are divided by global counts, so the sum is
    the gradient."""
    if ranks.world == 1:
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    with together():
        dist.all_reduce(flat)
    for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(g.view_as(p))


def master_of(p: torch.nn.Parameter) -> torch.nn.Parameter:
    """What the optimizer steps for p: p itself, or its float32 copy (see `keep_masters`)."""
    return getattr(p, "master", p)


def is_router(name: str) -> bool:
    """Whether a tensor of the model is a router's: its weight or its bias, float32 in every model."""
    return ".mlp.gate." in name


def rounded(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """A float32 model with this --dtype: "bfloat16" rounds its parameters, but no router's, and keeps what
    they were as their `master`. Any other model, and any other dtype: nothing is done."""
    for name, p in model.named_parameters():
        if dtype == "bfloat16" and p.dtype == torch.float32 and not is_router(name):
            p.master, p.data = torch.nn.Parameter(p.detach()), p.detach().bfloat16()
    return model


def keep_masters(model: torch.nn.Module, state: dict | None = None) -> list[torch.nn.Parameter]:
    """Give each trained bfloat16 or float16 parameter a float32 `master`: a stopped run's, or that of
    `rounded`, or its own numbers. bfloat16 alone rounds away an update of less than 1/512 of a weight, and in
    float16 a squared gradient is often 0. Every micro-batch's gradient is added to the master's, in float32,
    and freed. Gradients get their memory now, for kernels that add to them in place. Returns what the
    optimizers step: `master_of` each parameter that is `trained`."""
    saved = (state or {}).get("masters", {})
    for name, p in model.named_parameters():
        if not p.requires_grad and hasattr(p, "master"):
            del p.master
        if p.dtype in (torch.bfloat16, torch.float16) and p.requires_grad:
            whole = saved.get(name, master_of(p).detach())
            p.master = torch.nn.Parameter(whole.to(p.device, torch.float32))
            p.master.grad = torch.zeros_like(p.master)
            p.register_post_accumulate_grad_hook(_add_to_master)
        elif p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)
    return [master_of(p) for p in trained(model)]


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that get gradients: all, or those of adapters (lora.py)."""
    return [p for p in model.parameters() if p.requires_grad]


def _add_to_master(p: torch.nn.Parameter):
    if p.grad is not None:  # where kernels.gradient_in_place has not put it there
        p.master.grad.add_(p.grad)
        p.grad = None


def clip_split(parameters: list, max_norm: float) -> float:
    """`clip_grad_norm_` where each rank has some rows of every gradient: the norm is that of all rows."""
    grads = [local(p.grad) for p in parameters]
    square = torch.nn.utils.get_total_norm(grads).square()
    with together():
        dist.all_reduce(square)
    norm = square.sqrt()
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def lr_at(step: int, cfg) -> float:
    """RL's and on-policy distillation's: five steps of linear warm-up, then linear decay to a tenth of cfg.lr
    over cfg.steps."""
    return cfg.lr * min((step + 1) / 5, 1.0 - 0.9 * step / max(1, cfg.steps))


def apply_gradients(ranks: Ranks, parameters: list, optimizers: list, lr: float, max_norm: float = 1.0,
        skip: bool = False) -> float:
    """Sum the ranks' gradients, clip their norm, step every optimizer at this lr, clear; all on the masters,
    which the parameters then follow. No step where the norm, that of all ranks, is not finite: one NaN would
    be in every weight; and none with skip, which all ranks must agree on. Returns the norm, NaN with skip."""
    masters = [master_of(p) for p in parameters]
    if skip:
        norm = math.nan
    elif any(map(is_split, masters)):  # the backward pass has summed
        norm = clip_split(masters, max_norm)
    else:
        sum_gradients(ranks, masters)
        norm = float(torch.nn.utils.clip_grad_norm_(masters, max_norm))
    for optimizer in optimizers if math.isfinite(norm) else ():
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    clear_gradients(parameters)
    with torch.no_grad():
        for p, master in zip(parameters, masters, strict=True):
            if master is not p:
                p.copy_(master)
    return norm


def step_or_skip(ranks: Ranks, model: torch.nn.Module, optimizers: list, lr: float, why: str,
        rows: list[int]) -> tuple[float, list[dict]]:
    """`apply_gradients` of a minibatch of these rows, unless `why` names a number of it that is not finite on
    some rank (a key of TRY). Returns (the norm, which is finite where a step was made; what was left out: []
    or [{"why", "rows"}], as `metrics.Log.write` takes it)."""
    norm = apply_gradients(ranks, trained(model), optimizers, lr, skip=bool(why))
    why = why or ("" if math.isfinite(norm) else "gradient")
    return norm, [{"why": why, "rows": sorted(set(rows))}] if why else []


def clear_gradients(parameters: list):
    """Zero what passes have added, and keep its memory; also after one that did not end."""
    for p in parameters:
        if master_of(p) is not p:
            p.grad = None
        if master_of(p).grad is not None:
            master_of(p).grad.zero_()


# ------------------------------------------------------------------------ numbers that are none any more


def is_finite(model: torch.nn.Module) -> bool:
    """Whether all weights are numbers, not NaN or infinite; of a split model all ranks ask, for all rows."""
    each = (local(tensor) for tensor in model.state_dict().values())
    finite = all(bool(torch.stack(t.aminmax()).isfinite().all()) for t in each if t.numel())  # NaN is both
    return all(gather(model.shards.ranks, finite)) if is_sharded(model) else finite


def is_sound(model: torch.nn.Module, tokens: list[int]) -> bool:
    """Whether a model is worth keeping: `is_finite`, and also the output after these tokens, a prompt or an
    example of the run, and the gradient of the first norm (or adapter), which comes through all layers.
    Finite weights can be so large that what a layer makes of them is not. All ranks ask of a split model."""
    if not is_finite(model):
        return False
    tokens = tokens[: model.cfg.max_position_embeddings]
    with together():
        hidden = model.hidden(torch.tensor([tokens], device=model.embed_tokens.weight.device))[:, -1]
        output = getattr(model, "score", model.lm_head)(hidden).logsumexp(-1).sum()
        first = trained(model.layers)[0]
        if is_split(first):  # its gradient exists on the way only: the pass ends in those of all weights
            output.backward()
            gradient = local(first.grad)
        else:
            gradient, = torch.autograd.grad(output, first)
    # RMSNorm makes zeros of a state whose square is infinite, and of no other
    sound = bool(output.isfinite() & gradient.isfinite().all() & hidden.any())
    if is_sharded(model):
        sound = all(gather(model.shards.ranks, sound))
        for p in model.parameters():
            if p.grad is not None:
                local(p.grad).zero_()
    return sound


def check_sound(model: torch.nn.Module, tokens: list[int]):
    """Before a save. Raises Diverged for a model that is not sound."""
    if not is_sound(model, tokens):
        raise Diverged("weights, or what the model makes of them, are NaN or infinite; a lower --lr may help")


MOST_SKIPPED = 5  # steps in a row, after which no finite number is to be expected any more
# What a step is left out for, if it is NaN or infinite on any rank, and what to try if that does not end.
TRY = {**dict.fromkeys(("gradient", "loss", "logprob"), "a lower --lr, or --dtype float32"),
    "reward": "to correct the reward"}


def count_skipped(model: torch.nn.Module, tokens: list[int], ranks: Ranks, skipped: list[dict],
        before: int) -> int:
    """Steps in a row that left out updates: `before` this one and, if it did so, this one. skipped: what
    `step_or_skip` has left out of it. Raises Diverged where there is no way back: after MOST_SKIPPED of them,
    and at once if any rank's model is not `is_sound` with these tokens."""
    if not skipped:
        return 0
    if not all(gather(ranks, is_sound(model, tokens))):
        raise Diverged("a step was skipped: weights, or what the model makes of them, are NaN or infinite; a "
            "lower --lr may help")
    if before + 1 == MOST_SKIPPED:
        why = skipped[-1]["why"]
        raise Diverged(f"{MOST_SKIPPED} steps in a row were skipped, the last one because its {why} is NaN "
            f"or infinite: try {TRY[why]}, or leave out the rows that metrics.jsonl names (kind skipped)")
    return before + 1
