"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300; DeepSeek-R1, arXiv 2501.12948), from
scratch.

    python grpo.py --config tiny                     # a base model if there is none, then RL: minutes
    python grpo.py --config tiny --kl_coef 0.01      # change one knob, compare out/tiny/grpo/metrics.jsonl
    torchrun --nproc_per_node 8 grpo.py --init DIR   # one process per GPU

One step: sample groups of completions -> score them by rules -> advantages within each group -> a few
minibatch updates of the clipped objective -> log. Differs from the paper: std is the unbiased one plus 1e-4,
as in TRL; groups whose rewards are all equal (advantage 0) are left out of the update and of its normalizer,
or replaced (DAPO, --resample). What has been proposed since is a knob each:

    objective, normalizer      --loss: a row of LOSSES           Dr. GRPO, DAPO, GSPO, CISPO, SAPO, DPPO
    rewards to advantages      --scale: a row of SCALES          Dr. GRPO, RLOO, REINFORCE++, MaxRL
    gradient of the KL         --kl unbiased: a row of KLS       DeepSeek-V3.2, arXiv 2512.02556, sec. 3.1
    stale failures left out    --off_policy_mask 0.5             the same, eq. 9
    the sampler's choices      --router replay, --top_p 0.9      the same: its experts, and what it kept
    the sampler's rounding     --importance truncate or mask     TIS, IcePop (arXiv 2510.18855)
"""

import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

import numpy as np
import torch

from batch import (
    Sample,
    check_memory,
    collate,
    completion_logprobs,
    needed,
    passes,
    routing_of,
    shared_pass,
    sizes,
    smaller,
    training_settings,
)
from checkpoint import (
    Saver,
    has_model,
    last_good_state,
    load_model,
    load_trained,
    new_run_folder,
    own_state,
    save_run,
    seed_generators,
    stored_shape,
    unfinished,
)
from config import (
    PRESETS,
    STRICT_FORMAT,
    SYSTEM,
    TASK_FILE,
    TEMPLATE,
    ModelConfig,
    NotFinite,
    Training,
    UserError,
    closest,
    knob,
    numbers,
    parse_args,
    presets_of,
    run_script,
)
from data.rows import refuse_leaks
from data.shapes import is_file, read_rows
from data.tasks import endless, split_rows, training_rows
from data.tokenizer import for_checkpoint
from eval import checked_rows, evaluate, fitting_prompts, held_out, measures
from lora import as_reference, load_reference, reference_state, renew_reference
from metrics import OF_ATTEMPTS, Log, check_tracker, diagnosis, open_tracker, progress_line, table
from model import Transformer
from moe import Routing
from optim import (
    check_sound,
    count_skipped,
    keep_masters,
    lr_at,
    make_optimizers,
    step_or_skip,
)
from parallel import (
    Ranks,
    StopSignal,
    check_shard,
    free_bytes,
    frozen_copy,
    gather,
    gather_or_raise,
    gathered,
    give_back_memory,
    release,
    setup,
)
from preference import reward_plan
from rewards import BY_MODEL, Plan, TrainerState, rewards_of, score
from sample import generate, largest_decoding


@dataclass
class Config(Training):
    init: str = knob("",
        "checkpoint folder to start from; empty = out/<config>/cold_start, trained if it is missing")
    task: str = knob("countdown", f"task with its knobs (countdown:n=3,high=9), or {TASK_FILE}")
    eval_task: str = knob("", "file or task of the held-out problems: an official test split; empty = "
        "a fifth of --task's", group="data")
    eval_problems: int = knob(256, "held-out problems before and after the run; half of them during it",
        group="data")
    allow_leaks: bool = knob(False, "evaluate on problems that are trained on, too", group="data")
    template: str = knob("", TEMPLATE, group="prompt")
    system: str = knob("", SYSTEM, group="prompt")
    out: str = knob("", "output folder; empty = out/<config>/grpo")
    seed: int = knob(0, "seed of the problems and of the sampling")
    steps: int = knob(100, "rollouts; each is followed by `updates` optimizer steps")
    prompts: int = knob(32, "problems per rollout")
    group_size: int = knob(16, "G, completions per problem")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "of sampling, and of the log-probabilities that are trained",
        group="sampling")
    top_p: float = knob(1.0, "nucleus sampling; training's softmax is then over what the sampler kept, too "
        "(DeepSeek-V3.2, sec. 3.1)", group="sampling")
    updates: int = knob(1, "optimizer steps per rollout; its rows are split into that many minibatches")
    lr: float = knob(1e-5, "peak learning rate (Muon is scaled to AdamW's); 5 steps of warm-up, then linear "
        "decay to a tenth")
    optimizer: str = knob("adamw", "adamw, or muon (matrices; AdamW for the rest)")
    loss: str = knob("grpo", "grpo, dr_grpo, dapo, gspo, cispo, sapo or dppo (the table LOSSES)")
    loss_settings: str = knob("", "numbers of the loss's own: for sapo tau_pos=1,tau_neg=1.05, for dppo "
        "delta=0.2", group="loss", of="loss")
    off_policy_mask: float = knob(0.0, "delta: a completion with A < 0 whose mean log(mu / pi) is above it "
        "leaves the update (DeepSeek-V3.2 eq. 9), mu the sampler; 0 = all stay", group="loss")
    importance: str = knob("none", "weights pi_old / mu, for a sampler that computes otherwise than the "
        "trainer (bfloat16): truncate (TIS) or mask (IcePop); a forward pass per rollout", group="loss")
    importance_low: float | None = knob(None, "least weight; none = truncate 0, mask 0.5", group="loss",
        of="importance")
    importance_high: float | None = knob(None, "largest weight; none = truncate 2, mask 5", group="loss",
        of="importance")
    scale: str = knob("", "what makes rewards to advantages: group, batch, none, mean, rloo or global (the "
        "table SCALES); empty = as the loss's paper does", of="loss")
    clip_low: float | None = knob(None, "epsilon of the ratio's clip below 1; none = the paper's", of="loss")
    clip_high: float | None = knob(None, "epsilon of the ratio's clip above 1; none = the paper's", of="loss")
    kl_coef: float = knob(0.001, "beta of the KL to the reference; 0 = no reference is loaded")
    kl: str = knob("k3", "its form: k3, or unbiased (k3 times the ratio: DeepSeek-V3.2, sec. 3.1)")
    ref_every: int = knob(0,
        "steps after which the policy becomes the reference; 0 = the initial model stays")
    resample: int = knob(0,
        "rounds of fresh problems that replace groups without variance (DAPO); 0 = they are dropped",
        group="sampling")
    reward: str = knob("",
        "rewards of your own, a.py:f,b.py:g (TRL's calling convention), also beside preference:FOLDER "
        "and generative:FOLDER")
    reward_weights: str = knob("",
        "accuracy=1,format=0.1,language=0.1,...; overlong=1 punishes long completions (DAPO eq. 13), "
        "overlong=mask leaves truncated ones out of the update; empty = those of the task")
    preference_from: float = knob(0.0, "share of the steps, before 1, after which preference:FOLDER rewards "
        "anything; until then no prompts are drawn that only it judges", group="data")
    strict_format: bool = knob(True, STRICT_FORMAT)
    router: str = knob("frozen", "in RL: frozen (its bias stays), bias (balanced by updates of it), loss "
        "(V3 eq. 17 is added), replay (the rollout's experts are used)")
    micro_tokens: int = knob(16384, "tokens per forward/backward pass, padding included", group="memory")
    eval_every: int = knob(10, "steps between held-out evaluations, samples shown and saves", group="logging")
    tracker: str = knob("", "tensorboard, wandb or trackio: gets the metrics, too; empty = files only",
        group="logging")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")

    step = 0  # no knob: where the run stands, for rewards that ask (trainer_state)

    @property
    def rules_only(self) -> bool:
        """Does the preference model reward nothing yet? (R1: "exclusively in the final 400 steps" of 1,700,
        for more brought reward hacking: arXiv 2501.12948v2, sec. 3.2.2.)"""
        return self.step < self.preference_from * self.steps

    def __post_init__(self):
        """What is not given is as the loss's paper has it; all of it is printed and saved with the run."""
        if self.loss not in LOSSES:
            raise UserError(f"--loss {self.loss}{closest(self.loss, LOSSES)}")
        own, settings = LOSSES[self.loss], settings_of(self.loss, self.loss_settings)
        self.loss_settings = ",".join(f"{k}={v}" for k, v in settings.items())
        self.scale = self.scale or own.scale
        self.clip_low = own.clip_low if self.clip_low is None else self.clip_low
        self.clip_high = own.clip_high if self.clip_high is None else self.clip_high
        _, low, high = IMPORTANCE.get(self.importance, (None, None, None))
        self.importance_low = low if self.importance_low is None else self.importance_low
        self.importance_high = high if self.importance_high is None else self.importance_high


RECIPES = presets_of("grpo", Config)
BALANCE_COEF = 1e-4  # alpha of the sequence-wise balance loss (V3, sec. 4.2)
# Samples of each held-out problem: during the run; before and after it, but not of a stage of `make r1`,
# whose checkpoints are all measured by eval.py, once.
EVAL_SAMPLES, FINAL_SAMPLES = 4, 8

# ----------------------------------------------------------------------------------------- advantages, losses


def over_mean(R, centered):
    """(R - mean) / mean, so the rarer a success the more it counts (MaxRL, arXiv 2602.02710): for rewards 0
    and 1 the gradient of log pass@1. A group with a negative reward, or with none above 0, has no advantages:
    a mean near 0 would make them as large as one likes."""
    mean = R.mean(1, keepdim=True)
    return torch.where((R.amin(1, keepdim=True) >= 0) & (mean > 0), centered / mean, 0)


def over_batch(R, centered):
    """(R - mean) / std over all rewards: no group has a baseline of its own, and one of equal rewards
    teaches, too (REINFORCE++, arXiv 2501.03262). In float64 equal rewards do not differ from their mean."""
    return ((R.double() - R.double().mean()) / (R.double().std() + 1e-4)).float()


# What makes rewards R (P, G) to advantages, given R - mean of the group, which is exactly 0 where all of a
# group are equal. Differs from the papers: unbiased std, plus 1e-4, as in TRL.
SCALES: dict[str, Callable] = {
    "group": lambda R, centered: centered / (R.std(1, keepdim=True) + 1e-4),  # DeepSeekMath, sec. 4.1.2
    "batch": lambda R, centered: centered / (R.std() + 1e-4),  # of all rewards, as in TRL
    "none": lambda R, centered: centered,  # Dr. GRPO, arXiv 2503.20783
    "mean": over_mean,
    # R_i - mean of the others (RLOO, arXiv 2402.14740)
    "rloo": lambda R, centered: centered * (R.shape[1] / (R.shape[1] - 1)),
    "global": over_batch,
}


def group_advantages(rewards: torch.Tensor, group_size: int, scale: str = "group") -> torch.Tensor:
    """A_i = (r_i - mean(r)) / std(r) over the G completions of one prompt (DeepSeekMath, sec. 4.1.2), or as
    another row of SCALES says. rewards (B,), prompt-major -> (B,). Raises UserError."""
    if group_size < 2 or rewards.numel() % group_size:
        raise UserError(f"group_size {group_size}: a group needs at least 2 completions, and whole groups")
    if scale not in SCALES:
        raise UserError(f"scale {scale}{closest(scale, SCALES)}")
    groups = rewards.view(-1, group_size)  # (P, G)
    equal = (groups == groups[:, :1]).all(1, keepdim=True)
    centered = (groups - groups.mean(1, keepdim=True)).masked_fill(equal, 0)  # whatever the mean rounds to
    return SCALES[scale](groups, centered).flatten()


# Objectives, to be maximised: (ratio (B, T), advantages (B, 1), logprobs (B, T), clip_low, clip_high) -> the
# value of each token.


def clipped(ratio, advantages, logprobs, clip_low, clip_high):
    """min(ratio A, clip(ratio, 1 - eps_low, 1 + eps_high) A) (DeepSeekMath eq. 3; asymmetric: DAPO eq.
    10)."""
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def clipped_weight(ratio, advantages, logprobs, clip_low, clip_high):
    """sg(min(ratio, 1 + eps_high)) A log pi (CISPO, arXiv 2506.13585, eq. 4, 5): every token keeps a
    gradient."""
    return ratio.clamp(max=1 + clip_high).detach() * advantages * logprobs


def soft_gate(ratio, advantages, logprobs, clip_low, clip_high, *, tau_pos=1.0, tau_neg=1.05):
    """(4 / tau) sigmoid(tau (ratio - 1)) A: a smooth gate in place of the clip, steeper for A < 0 (SAPO,
    arXiv 2511.20347)."""
    tau = torch.where(advantages > 0, tau_pos, tau_neg)
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages


def trusted(ratio, advantages, logprobs, clip_low, clip_high, *, delta=0.2):
    """ratio A of the tokens whose probability has not moved by more than delta to where A pulls it: pi - mu
    <= delta for A > 0, mu - pi <= delta for A < 0. So a rare token's ratio is free, and a likely one's change
    is bounded (DPPO with the binary total variation, arXiv 2602.04879)."""
    return torch.where(moved_too_far(ratio, advantages, logprobs, delta=delta), 0, ratio * advantages)


def moved_too_far(ratio, advantages, logprobs, *_, delta=0.2):
    """Which tokens' probability has moved by more than delta to where A pulls it."""
    pi = logprobs.detach().exp()
    moved = pi - pi / ratio.detach()  # pi - mu
    return (advantages > 0) & (moved > delta) | (advantages < 0) & (moved < -delta)


# Which tokens are outside of an objective's trust region, for those that have one: the metric clip_fraction.
OUTSIDE: dict[Callable, Callable] = {
    clipped: lambda ratio, A, logprobs, low, high: (ratio < 1 - low) & (A < 0) | (ratio > 1 + high) & (A > 0),
    clipped_weight: lambda ratio, A, logprobs, low, high: ratio > 1 + high,
    trusted: moved_too_far}


class Loss(NamedTuple):
    """A row of LOSSES. Keyword-only arguments of the objective are settings of its own: --loss_settings."""

    objective: Callable  # one of those above
    sequence_ratio: bool  # the ratio of the whole sequence to the power 1/|o| (GSPO, arXiv 2507.18071, eq. 7)
    sequence_mean: bool  # 1/|o| sum_t within a sequence, or a plain sum
    count: str  # the sum's divisor: "sequences", "tokens", or "max_tokens" = sequences x max_new_tokens
    scale: str = "group"  # the paper's own: these three hold where no flag says otherwise
    clip_low: float | None = 0.2  # None = the objective has none
    clip_high: float | None = 0.2


LOSSES: dict[str, Loss] = {
    "grpo": Loss(clipped, False, True, "sequences"),  # DeepSeekMath eq. 3
    "dr_grpo": Loss(clipped, False, False, "max_tokens", scale="none"),  # arXiv 2503.20783
    "dapo": Loss(clipped, False, False, "tokens", clip_high=0.28),  # arXiv 2503.14476, eq. 8
    "gspo": Loss(clipped, True, True, "sequences", clip_low=3e-4, clip_high=4e-4),  # arXiv 2507.18071
    "cispo": Loss(clipped_weight, False, False, "tokens", clip_low=None),
    "sapo": Loss(soft_gate, False, True, "sequences", clip_low=None, clip_high=None),
    "dppo": Loss(trusted, False, False, "tokens", clip_low=None, clip_high=None),
}


# The KL of policy and reference from k3 and the token's ratio. k3's mean is the KL, but its gradient as a
# loss is another's, even where the ratio is 1 (arXiv 2510.01555). Times the ratio, whose gradient counts, it
# is that of each token's reverse KL, on-policy and off (DeepSeek-V3.2, arXiv 2512.02556, sec. 3.1).
KLS: dict[str, Callable] = {"k3": lambda k3, ratio: k3, "unbiased": lambda k3, ratio: ratio * k3}


# Weights of tokens from w = pi_old / mu, the trainer's and the sampler's probability at the same weights of
# the model, and the bounds that hold where no flag says otherwise: truncated importance sampling (TIS: Yao et
# al. 2025), and IcePop (Ring-1T, arXiv 2510.18855), which drops what is far off in either direction.
IMPORTANCE: dict[str, tuple[Callable, float, float]] = {
    "truncate": (lambda w, low, high: w.clamp(low, high), 0.0, 2.0),
    "mask": (lambda w, low, high: w * ((w >= low) & (w <= high)), 0.5, 5.0)}


def settings_of(loss: str, text: str) -> dict[str, float]:
    """All settings of the loss's own, as keyword arguments of its objective: the defaults, changed by a text
    like "tau_pos=1,tau_neg=1.05". Raises UserError."""
    parameters = inspect.signature(LOSSES[loss].objective).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return own | numbers(text, own, "--loss_settings")


def policy_loss(logprobs, old_logprobs, advantages, mask, *, loss="grpo", clip_low=0.2, clip_high=0.2,
        kl_coef=0.0, kl="k3", ref_logprobs=None, normalizer=None, settings=None,
        off_policy_mask=0.0, sampler_logprobs=None, weights=None):
    """The loss to minimise: -J of DeepSeekMath eq. 3, or a variant in LOSSES.

    logprobs, old_logprobs, ref_logprobs, mask (B, T); advantages (B,). `normalizer` is the global count
    that the sum is divided by, so that micro-batches add up to the whole batch: sequences for grpo, gspo and
    sapo, completion tokens for dapo, cispo and dppo, sequences x max_new_tokens for dr_grpo; None = this
    call's own (for dr_grpo B x T). kl: a row of KLS. settings: keyword arguments of the loss's own.

    off_policy_mask: delta of `stays`, 0 = all sequences stay. sampler_logprobs (B, T): of the sampler,
    where old_logprobs are the trainer's own. weights (B, T) of the tokens' objectives, see IMPORTANCE.
    Neither mask nor weights touch the KL.

    Returns (loss, metrics): means over this call's completion tokens, and "tokens", their number. Raises
    UserError for an unknown loss or KL, or kl_coef without ref_logprobs."""
    if loss not in LOSSES:
        raise UserError(f"loss {loss}{closest(loss, LOSSES)}")
    if kl not in KLS:
        raise UserError(f"kl {kl}{closest(kl, KLS)}")
    if kl_coef and ref_logprobs is None:
        raise UserError("kl_coef > 0 needs ref_logprobs")
    objective, sequence_ratio, sequence_mean, count = LOSSES[loss][:4]
    mask = mask.bool()
    zero = logprobs.new_zeros(())
    lengths, tokens = mask.sum(1).clamp(min=1), mask.sum()
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero)  # (B, T)
    token_ratio, metrics = log_ratio.exp(), {"tokens": int(tokens)}
    if sequence_ratio:
        log_ratio = (log_ratio.sum(1) / lengths)[:, None].expand_as(mask)
    ratio, A = log_ratio.exp(), advantages[:, None]
    at = (ratio, A, logprobs, clip_low, clip_high)
    per_token = -objective(*at, **(settings or {}))
    if off_policy_mask:
        mu = old_logprobs if sampler_logprobs is None else sampler_logprobs
        stay = stays(torch.where(mask, mu - logprobs.detach(), zero), A, lengths, off_policy_mask)
        per_token = torch.where(stay, per_token, zero)
        metrics["off_policy"] = mean_over(1 - stay.float().expand_as(mask), mask)
    if weights is not None:
        per_token = per_token * weights
        metrics["importance"] = mean_over(weights, mask)
    if ref_logprobs is not None:
        log_ref = torch.where(mask, ref_logprobs - logprobs, zero)
        k3 = log_ref.exp() - log_ref - 1  # >= 0, DeepSeekMath eq. 4; added to the loss
        divergence = KLS[kl](k3, token_ratio)
        per_token = per_token + kl_coef * divergence
        metrics["kl"] = mean_over(divergence, mask)
    per_sequence = torch.where(mask, per_token, zero).sum(1)
    if sequence_mean:
        per_sequence = per_sequence / lengths
    if normalizer is None:
        normalizer = {"sequences": len(mask), "tokens": tokens.clamp(min=1),
            "max_tokens": mask.numel()}[count]
    outside = OUTSIDE[objective](*at, **(settings or {})) if objective in OUTSIDE else mask & False
    metrics |= {"clip_fraction": mean_over(outside.float(), mask), "ratio": mean_over(ratio, mask),
        "kl_old": mean_over(ratio - 1 - log_ratio, mask)}
    return per_sequence.sum() / normalizer, metrics


def stays(log_mu_pi, advantages, lengths, delta: float):
    """Which sequences stay in the update: those with A >= 0, and those whose mean log(mu / pi) is at most
    delta (DeepSeek-V3.2, arXiv 2512.02556, eq. 9): nothing is learnt from punishing what the policy has left
    behind. log_mu_pi (B, T), advantages (B, 1), lengths (B,) -> (B, 1)."""
    return (advantages >= 0) | ((log_mu_pi.sum(1) / lengths)[:, None] <= delta)


def mean_over(x, mask) -> float:
    """Mean of x over the mask's tokens."""
    return float(x.detach()[mask].mean()) if mask.any() else 0.0


# ------------------------------------------------------------------------------------------------- the phases


def plan_of_run(cfg: Config, tokenizer=None) -> Plan:
    """What the settings say of the rewards; with a tokenizer, for completions of prompts that it encodes."""
    plan = reward_plan(cfg.reward, cfg.reward_weights, cfg.strict_format)
    if cfg.rules_only:
        plan = plan._replace(weights={k: 0.0 if k in BY_MODEL else w for k, w in plan.weights.items()})
    return plan._replace(opens=tokenizer.opens if tokenizer else plan.opens,
        state=TrainerState(cfg.step, cfg.steps))


def sample_groups(model, tokenizer, rows, first: int, count: int, cfg: Config,
        ranks: Ranks) -> list[list[Sample]]:
    """Groups for the problems first .. first + count - 1, on every rank; each rank samples and scores its
    share. The noise is keyed by the problem's number, so neither ranks nor resuming change what is
    sampled. Raises NotFinite, on every rank, where a reward or a log-probability is not."""
    numbers = ranks.share(list(range(first, first + count)))
    mine = [rows(i) for i in numbers]
    prompts = [tokenizer.encode_row(row) for row in mine]

    def sampled():
        groups = {}
        if not numbers:
            return groups
        out = generate(model, prompts, group_size=cfg.group_size, max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature, eos_id=tokenizer.eos_ids, seed=cfg.seed, prompt_ids=numbers,
            top_p=cfg.top_p, record_routing=True, record_kept=cfg.top_p < 1)
        texts = [tokenizer.decode_completion(c) for c in out.completions]
        scores = score([row for row in mine for _ in range(cfg.group_size)], texts,
            plan_of_run(cfg, tokenizer), list(map(len, out.completions)), cfg.max_new_tokens,
            out.completions)
        for j, text in enumerate(texts):
            prompt, finished = prompts[j // cfg.group_size], out.finished[j]
            how = measures(mine[j // cfg.group_size], text, scores[j]["accuracy"])
            one = Sample(prompt + out.completions[j], len(prompt), out.logprobs[j], finished, out.routing[j],
                         scores[j] | how, how["reflections"], kept=out.kept[j],
                         number=numbers[j // cfg.group_size])
            groups.setdefault(one.number, []).append(one)
        return groups

    everyone = {number: group for part in gather_or_raise(ranks, NotFinite, sampled)
        for number, group in part.items()}
    return [everyone[number] for number in sorted(everyone)]


def advantages_of(groups: list[list[Sample]], cfg: Config) -> list[list[float]]:
    """The advantages of each group's samples. A group teaches something where any of them is not zero. One
    that no reward says anything about gets the mean of its group's others: no advantage, as in TRL."""
    rewards = []
    for g in groups:
        known = [s.scores["reward"] for s in g if "unscored" not in s.scores]
        mean = sum(known) / max(1, len(known))
        rewards += [mean if "unscored" in s.scores else s.scores["reward"] for s in g]
    return group_advantages(torch.tensor(rewards), cfg.group_size, cfg.scale).view(len(groups), -1).tolist()


def collect(model, tokenizer, rows, cursor: int, cfg: Config, ranks: Ranks) -> tuple[list[list[Sample]], int]:
    """A rollout of cfg.prompts groups and, with --resample, up to that many more rounds for groups that teach
    nothing (DAPO's dynamic sampling). Returns (all groups sampled, the next unused problem number)."""
    groups = sample_groups(model, tokenizer, rows, cursor, cfg.prompts, cfg, ranks)
    cursor += cfg.prompts
    for _ in range(cfg.resample):
        missing = cfg.prompts - sum(map(any, advantages_of(groups, cfg)))
        if missing <= 0:
            break
        groups += sample_groups(model, tokenizer, rows, cursor, missing, cfg, ranks)
        cursor += missing
    return groups, cursor


def rollout(model, tokenizer, rows, cursor: int, cfg: Config, ranks: Ranks) -> tuple[list[Sample], int, dict]:
    """(the samples to train on, the next unused problem number, metrics). Where a reward or a log-probability
    is not finite there is nothing to train on, and the problems will not come again."""
    try:
        groups, after = collect(model, tokenizer, rows, cursor, cfg, ranks)
    except NotFinite as error:
        after = cursor + (1 + cfg.resample) * cfg.prompts
        left_out = {"why": error.why, "rows": [*range(cursor, after)], "says": str(error)}
        return [], after, {"skipped": [left_out]}
    return with_advantages(groups, cfg), after, rollout_metrics(groups, cfg)


def with_advantages(groups: list[list[Sample]], cfg: Config) -> list[Sample]:
    """The samples to train on, advantages filled in: groups that teach; with overlong=mask, finished ones."""
    masked = plan_of_run(cfg).mask_truncated
    return [s._replace(advantage=a) for g, row in zip(groups, advantages_of(groups, cfg), strict=True)
        if any(row) for s, a in zip(g, row, strict=True) if s.finished or not masked]


def micro_step(model, reference, samples: list[Sample], normalizer: float, sequences: int, cfg: Config,
        pad_id: int, device: str) -> dict:
    """Forward and backward of one micro-batch; gradients add up over micro-batches and ranks to those of
    the whole minibatch. Returns sums over tokens, to be divided by "tokens" at the end."""
    batch = collate(samples, pad_id, device)
    sampled, counts, old = routing_of(samples, batch), batch.inputs(), batch.old_logprobs
    routing = Routing(replay=sampled if cfg.router == "replay" else None, mask=counts,
        balance=cfg.router == "loss")
    ref_logprobs = None
    if cfg.kl_coef:
        with as_reference(reference):  # not no_grad: by the same operations equal weights give equal numbers
            ref_logprobs, _ = completion_logprobs(reference, batch, cfg.temperature)
        release(reference)
    logprobs, entropy = completion_logprobs(model, batch, cfg.temperature, routing)
    mu, weights = old, None
    if batch.own_logprobs is not None:
        old, (weigh, *_) = batch.own_logprobs, IMPORTANCE[cfg.importance]
        weights = weigh((old - mu).exp(), cfg.importance_low, cfg.importance_high)
    advantages = torch.tensor([s.advantage for s in samples], device=device)
    loss, m = policy_loss(logprobs, old, advantages, batch.mask, loss=cfg.loss, clip_low=cfg.clip_low,
        clip_high=cfg.clip_high, kl_coef=cfg.kl_coef, kl=cfg.kl, ref_logprobs=ref_logprobs,
        normalizer=normalizer, settings=settings_of(cfg.loss, cfg.loss_settings),
        off_policy_mask=cfg.off_policy_mask, sampler_logprobs=mu, weights=weights)
    for extra in routing.balance_losses:
        loss = loss + BALANCE_COEF * extra / sequences
    loss.backward()
    n = m.pop("tokens")
    sums = {k: v * n for k, v in m.items()} | {"entropy": float(entropy.sum()), "tokens": n}
    sums["loss"] = float(loss.detach())
    sums["mismatch"] = float((logprobs.detach() - mu).abs().max())
    sums["finite"] = bool((logprobs.detach() + old + mu).isfinite().all())  # a clip's gradient may not say so
    if sampled:
        same = [(used[..., None] == theirs[..., None, :]).any(-1).float().mean(-1) @ counts.float()
                for used, theirs in zip(routing.indices, sampled, strict=True)]
        sums |= {"agree": float(sum(same)), "routed": int(counts.sum()) * len(sampled),
                 "load": torch.stack(routing.load).cpu().numpy()}
    return sums


def with_own_logprobs(model, samples: list[Sample], cfg: Config, pad_id: int, ranks: Ranks) -> list[Sample]:
    """The samples with the trainer's own log-probabilities, pi_old: one forward pass over all of them, each
    rank its share."""
    @torch.no_grad()
    def run(rows, times):
        batch = collate([samples[i] for i in rows], pad_id, ranks.device)
        replay = routing_of([samples[i] for i in rows], batch) if cfg.router == "replay" else None
        logprobs, _ = completion_logprobs(model, batch, cfg.temperature, Routing(replay=replay or None))
        return {i: row[m].tolist() for i, row, m in zip(rows, logprobs, batch.mask, strict=True)}

    found = {i: row for part in passes(run, model, cfg, ranks, *sizes(samples)) for i, row in part.items()}
    release(model)
    return [s._replace(own_logprobs=found[i]) for i, s in enumerate(samples)]


def minibatch(model, reference, optimizers: list, samples: list[Sample], step: int, part: int, cfg: Config,
        tokenizer, ranks: Ranks) -> tuple[list[dict], float, list[dict]]:
    """One optimizer step on a part of the rollout. Returns (what `micro_step` says of each micro-batch, those
    of all ranks; norm and what was left out, see `step_or_skip`)."""
    normalizer = {"sequences": len(samples), "tokens": sum(len(s.old_logprobs) for s in samples),
        "max_tokens": len(samples) * cfg.max_new_tokens}[LOSSES[cfg.loss].count]

    def run(rows, times):
        return micro_step(model, reference, [samples[i] for i in rows], normalizer * times,
            len(samples) * times, cfg, tokenizer.pad_id, ranks.device)

    everyone = passes(run, model, cfg, ranks, *sizes(samples), noise=(step, part))
    why = "" if all([m.pop("finite") for m in everyone]) else "logprob"
    why = why or ("" if all(math.isfinite(m["loss"]) for m in everyone) else "loss")
    rows = [s.number for s in samples]
    return everyone, *step_or_skip(ranks, model, optimizers, lr_at(step, cfg), why, rows)


def update(model, reference, optimizers: list, samples: list[Sample], step: int, cfg: Config, tokenizer,
           ranks: Ranks) -> dict:
    """cfg.updates optimizer steps, each on its own part of the rollout; the old log-probabilities are the
    sampler's and stay. Every metric is reduced over all micro-batches, minibatches and ranks, but for the
    minibatches that are left out."""
    if cfg.importance != "none":
        samples = with_own_logprobs(model, samples, cfg, tokenizer.pad_id, ranks)
    order = np.random.default_rng([cfg.seed, step]).permutation(len(samples))
    parts = [[samples[i] for i in part] for part in np.array_split(order, cfg.updates) if len(part)]
    total, mismatches, norms, skipped = {}, [], [], []
    for part, batch in enumerate(parts):
        everyone, norm, bad = minibatch(model, reference, optimizers, batch, step, part, cfg, tokenizer,
            ranks)
        skipped += bad
        if bad:
            continue
        norms.append(norm)
        mismatches.append(max(m.pop("mismatch") for m in everyone))
        for m in everyone:
            total = {k: total.get(k, 0) + v for k, v in m.items()}
    if not norms:
        return {"skipped": skipped}
    if cfg.router == "bias":
        for router, load in zip(model.routers(), total["load"], strict=True):
            router.update_bias(torch.as_tensor(load, device=router.weight.device))
    n = total.pop("tokens")
    means = ("kl", "clip_fraction", "ratio", "kl_old", "entropy", "off_policy", "importance")
    out = {k: total[k] / n for k in means if k in total}
    out |= {"loss": total["loss"] / len(norms), "grad_norm": sum(norms) / len(norms), "trained_tokens": n,
            "skipped": skipped,
            "logprob_mismatch": mismatches[0]}  # of the first minibatch: the two engines at the same weights
    if "routed" in total:
        out |= {"routing_agreement": total["agree"] / total["routed"],
                "max_load": float((total["load"].max(1) / total["load"].mean(1)).max())}
    return out


def rollout_metrics(groups: list[list[Sample]], cfg: Config) -> dict:
    """What the sampled completions were like, over all of them."""
    samples = [s for g in groups for s in g]

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    lengths, components = [len(s.old_logprobs) for s in samples], {k for s in samples for k in s.scores}
    unscored = {"unscored": mean("unscored" in s.scores for s in samples)} if "unscored" in components else {}
    scored = [s for s in samples if "unscored" not in s.scores] or samples
    means = {k: mean(s.scores[k] for s in (scored if k == "reward" else samples) if k in s.scores)
        for k in sorted(components)}
    tried = [s.scores for s in samples if s.scores.get("attempts")]
    shares = {k: sum(x[k] * x["attempts"] for x in tried) / sum(x["attempts"] for x in tried)
        for k in OF_ATTEMPTS if tried}  # of all attempts, not the mean of the completions' shares
    return means | shares | unscored | {
        "length": mean(lengths), "generated": sum(lengths),
        "truncated": mean(not s.finished for s in samples),
        "no_variance": mean(len({s.scores["reward"] for s in g if "unscored" not in s.scores}) < 2
            for g in groups), "groups": len(groups),
        "reflections": mean(s.reflections for s in samples)}


# --------------------------------------------------------------------------------------------------- the loop


def train(model, tokenizer, rows, eval_rows, cfg: Config, out: Path, state: dict | None, ranks: Ranks,
        final: bool):
    """The GRPO loop: sample, reward, advantages, minibatch losses and steps, log, evaluate and save. final:
    the evaluation at the end is one of all held-out problems."""
    stop, state = StopSignal(), state and own_state(state, ranks, ("optimizers", "reference"))
    prompt = tokenizer.encode_row(eval_rows[0])
    keep_masters(model, state)
    optimizers = make_optimizers(model, ranks, name=cfg.optimizer, lr=cfg.lr, weight_decay=0.0,
        saved=state and state.pop("optimizers"))
    reference = model if model.lora else None  # itself, as it was before its adapters learnt
    if cfg.kl_coef and not model.lora:
        reference = frozen_copy(model)
    start, cursor, in_a_row = (state["step"], state["cursor"], 0) if state else (0, 0, 0)
    if state and reference is not None:
        load_reference(reference, state.pop("reference"))
    tracker = open_tracker(cfg.tracker, out, asdict(cfg)) if ranks.main else None
    log = Log(out, start, ranks.main, cfg.steps, tracker)
    saver = Saver(out / "state", model, prompt, ranks, cfg.save_minutes)
    say = print if ranks.main else lambda *a, **k: None
    if model.recompute:
        say(f"activations of {cfg.micro_tokens} tokens do not fit into memory: each block runs again in the "
            "backward pass (a smaller --micro_tokens may be faster)")
    say(f"resuming after step {start}" if state else f"{out}: {cfg.steps} steps")

    def look(step, rows, samples):
        cfg.step = step
        with gathered(model) as sampler:
            m, records = evaluate(sampler, tokenizer, rows, samples=samples,
                max_new_tokens=cfg.max_new_tokens, ranks=ranks, seed=cfg.seed,
                plan=plan_of_run(cfg, tokenizer))
        give_back_memory()
        log.write("eval", step, **m)
        for r in records[: 8 * samples : samples]:  # the same 8 prompts each time
            log.sample(step, prompt=eval_rows[r["problem"]]["prompt"], completion=r["text"],
                reward=r["reward"], accuracy=r["accuracy"], tokens=r["tokens"])
        say(f"-- held out after step {step}: pass@1 {m['pass@1']:.1%} +- {m['pass@1_se']:.1%}, "
            f"cons@{samples} {m['cons@k']:.1%}, length {m['length']:.0f}, one sample:")
        say("   " + (eval_rows[0]["prompt"] + "\n" + records[0]["text"]).replace("\n", "\n   "))

    some = eval_rows[: max(1, cfg.eval_problems // 2)]
    if start == 0:
        look(0, some, EVAL_SAMPLES)
    begin = time.perf_counter()
    for step in range(start, cfg.steps):
        clock, cfg.step = [time.perf_counter()], step
        with gathered(model) as sampler:
            samples, cursor, m = rollout(sampler, tokenizer, rows, cursor, cfg, ranks)
        give_back_memory()
        clock.append(time.perf_counter())
        if samples:
            m |= update(model, reference, optimizers, samples, step, cfg, tokenizer, ranks)
            give_back_memory()
        clock.append(time.perf_counter())
        m |= {"rollout_seconds": clock[1] - clock[0], "train_seconds": clock[2] - clock[1],
              "tokens_per_second": m.get("generated", 0) / (clock[2] - clock[0]), "lr": lr_at(step, cfg)}
        log.write("train", step + 1, **m)
        left = (clock[2] - begin) / (step + 1 - start) * (cfg.steps - step - 1)
        say(progress_line(m, step + 1, cfg.steps, left))
        if "skipped" in m:  # without an update nothing has become better or worse
            in_a_row = count_skipped(model, prompt, ranks, m["skipped"], in_a_row)
        if cfg.ref_every and (step + 1) % cfg.ref_every == 0:
            renew_reference(reference, model)
        due, stopped = (step + 1) % cfg.eval_every == 0, stop.reached(ranks)
        if due and step + 1 < cfg.steps:
            trained_rows = [r for r in log.rows if r["kind"] == "train"]
            for line in diagnosis(trained_rows[-cfg.eval_every :], cfg.max_new_tokens, cfg.updates,
                    trained_rows[-5 * cfg.eval_every :]):
                say(f"-- {line}")
            look(step + 1, some, EVAL_SAMPLES)
        if saver.overdue() or due or stopped:
            saver.save(step=step + 1, cursor=cursor, config=asdict(cfg),
                optimizers=[o.state_dict() for o in optimizers], reference=reference_state(reference))
        if stopped:
            saver.wait()
            say(f"stopped after step {step + 1}, saved in {out}/state; the same command resumes from there")
            sys.exit(130)
    saver.wait()
    check_sound(model, prompt)
    for optimizer in optimizers:  # gradients are as large as the model, and nothing needs them any more
        optimizer.zero_grad()
    look(cfg.steps, *((eval_rows, FINAL_SAMPLES) if final else (some, EVAL_SAMPLES)))
    return log


def check(cfg: Config):
    """Raises UserError for a setting that cannot work."""
    for ok, message in [
        (cfg.scale in SCALES, f"--scale {cfg.scale}{closest(cfg.scale, SCALES)}"),
        *((getattr(LOSSES[cfg.loss], clip) is not None or getattr(cfg, clip) is None,
           f"--{clip}: --loss {cfg.loss} has no such clip") for clip in ("clip_low", "clip_high")),
        (cfg.kl in KLS, f"--kl {cfg.kl}{closest(cfg.kl, KLS)}"),
        (cfg.importance in ("none", *IMPORTANCE),
         f"--importance {cfg.importance}{closest(cfg.importance, ['none', *IMPORTANCE])}"),
        (cfg.importance != "none" or cfg.importance_low is cfg.importance_high is None,
         "--importance_low and --importance_high need --importance truncate or mask"),
        (cfg.importance not in IMPORTANCE or cfg.importance_low < cfg.importance_high,
         f"--importance_low {cfg.importance_low} must be below --importance_high {cfg.importance_high}"),
        (cfg.optimizer in ("adamw", "muon"), f"--optimizer {cfg.optimizer}: expected adamw or muon"),
        (cfg.router in ("frozen", "bias", "loss", "replay"),
         f"--router {cfg.router}: expected frozen, bias, loss or replay"),
        (cfg.temperature > 0, "--temperature must be above 0: greedy samples have no advantages"),
        (cfg.router != "bias" or not cfg.lora_rank, "--router bias: with --lora_rank the router stays"),
        (cfg.kl == "k3" or cfg.kl_coef > 0, f"--kl {cfg.kl} needs --kl_coef above 0"),
        (cfg.scale != "global" or not cfg.resample,
         "--resample replaces groups without advantages: with --scale global there are none"),
        (not cfg.ref_every or cfg.kl_coef > 0,
         "--ref_every needs --kl_coef above 0: without it there is no reference (--ref_every 0)"),
        (cfg.preference_from < 1, f"--preference_from {cfg.preference_from}: must be below 1, the run's end"),
    ]:
        if not ok:
            raise UserError(message)
    cfg.check_adapters()
    if cfg.shard:
        check_shard(cfg.device)
    check_tracker(cfg.tracker)


def base_checkpoint(cfg: Config, preset: str) -> str:
    """cfg.init, or the preset's cold start, trained now by sft.py if it is missing."""
    if cfg.init:
        return cfg.init
    if "/" in preset:
        raise UserError(f"--config {preset} is a stage of `make r1`: it needs --init")
    if preset not in PRESETS:
        raise UserError(f"--config {preset} is for a released model: it needs --init")
    base = Path(f"out/{preset}/cold_start")
    if has_model(base):
        return str(base)
    if "WORLD_SIZE" in os.environ:
        raise UserError(f"no base checkpoint in {base}: run sft.py --config {preset} first, or give --init")
    print(f"no base checkpoint in {base}: training one (cold-start SFT from random weights)", flush=True)
    script = Path(__file__).with_name("sft.py")
    code = subprocess.run(
        [sys.executable, script, "--config", preset, "--task", cfg.task, "--device", cfg.device]).returncode
    if code:
        sys.exit(code)
    return str(base)


def problems(cfg: Config, plan: Plan) -> tuple[list[dict], list[dict]]:
    """(the rows of a file to train on, none of a generated task; held-out problems). Every row is checked.
    Raises UserError."""
    reading = dict(columns=cfg.columns, answer_pattern=cfg.answer_pattern, broken=cfg.broken)
    both = is_file(cfg.task) and not is_file(cfg.eval_task or cfg.task)  # then only the first one is a file
    held = held_out(cfg.eval_task or cfg.task, cfg.eval_problems, whole_file=bool(cfg.eval_task), plan=plan,
        **({} if both else reading))
    if not is_file(cfg.task):
        return [], held
    if not cfg.eval_task:
        return split_rows(read_rows(cfg.task, **reading), cfg.task)["train"], held
    train = checked_rows(cfg.task, plan, **reading)
    everything = read_rows(cfg.eval_task, **reading) if is_file(cfg.eval_task) else held
    refuse_leaks(train, everything, cfg.eval_task, cfg.allow_leaks)
    return train, held


def rows_of_run(train_rows: list[dict], cfg: Config) -> Callable[[int], dict]:
    """The problem of each number: of a file's rows or of a generated task; with --preference_from, at first
    only problems that something else than the preference model judges. Raises UserError without any."""
    every = endless(train_rows, cfg.seed) if train_rows else training_rows(cfg.task, cfg.seed)
    if not cfg.preference_from:
        return every
    plan = plan_of_run(cfg)
    ruled = [row for row in train_rows if rewards_of(row["task"], plan)[0] not in BY_MODEL]
    if not {*BY_MODEL} & {*plan.custom} or not ruled:
        raise UserError(f"--preference_from {cfg.preference_from}: needs --reward preference:FOLDER and, for "
            "the steps before, rows of --task that something else judges; or give --preference_from 0")
    first = endless(ruled, cfg.seed)
    return lambda i: (first if cfg.rules_only else every)(i)


def must_recompute(cfg: Config, shape: ModelConfig, dtype: torch.dtype, prompt: int, ranks: Ranks) -> bool:
    """Whether each block has to run again in the backward pass, so that a run with prompts of up to so many
    tokens fits into memory. Raises UserError for one that does not even so."""
    share = cfg.prompts * cfg.group_size / ranks.world  # rows of a process
    held = EVAL_SAMPLES * cfg.eval_problems / 2 / ranks.world
    decoding = largest_decoding(shape, prompt, cfg.max_new_tokens, dtype, ranks.device,
        (share, cfg.group_size), (held, EVAL_SAMPLES))

    def largest(budget):
        return shared_pass(budget, prompt, cfg.max_new_tokens, cfg.group_size / cfg.updates,
            math.ceil(share / cfg.updates))

    settings = training_settings(cfg, dtype, ranks) | dict(cfg=shape, work=largest(cfg.micro_tokens),
        decoding=decoding._replace(kept=math.ceil(share) if cfg.top_p < 1 else 0),
        reference=cfg.kl_coef > 0, optimizer=cfg.optimizer)
    settings["recompute"] = needed(settings, ranks) > min(gather(ranks, free_bytes(ranks)))
    none, small = dict(reference=False), dict(work=largest(1))
    short = f"--micro_tokens {prompt + cfg.max_new_tokens}"
    check_memory(settings, ranks, {"--kl_coef 0": none, short: small, f"--kl_coef 0 {short}": none | small,
        "--optimizer muon": dict(optimizer="muon"), **smaller(cfg, dtype, ranks)})
    return settings["recompute"]


def main():
    cfg, preset = parse_args(Config, RECIPES, __doc__)
    check(cfg)
    train_rows, eval_rows = problems(cfg, plan_of_run(cfg))
    rows_of_run(train_rows, cfg)  # what cannot work is found before a model is loaded
    out = Path(cfg.out or (f"out/{preset}" if "/" in preset else f"out/{preset}/grpo"))
    state = unfinished(out, cfg)
    init = base_checkpoint(cfg, preset)
    ranks = setup(cfg.device)
    seed_generators(cfg.seed, ranks.rank)
    tokenizer = for_checkpoint(init, template=cfg.template, system=cfg.system)
    source = state["folder"] if state else init
    shape, kind = stored_shape(init)
    prompt = min(max(len(tokenizer.encode_row(r)) for r in eval_rows), shape.max_position_embeddings)
    recompute = must_recompute(cfg, shape, kind, prompt, ranks)
    model: Transformer = load_trained(source, ranks, cfg, init)
    model.recompute = recompute
    train_rows, eval_rows = (fitting_prompts(model, tokenizer, some, cfg.max_new_tokens, cfg.too_long)
        for some in (train_rows, eval_rows))
    rows = rows_of_run(train_rows, cfg)
    if cfg.task.startswith("gym:"):  # ours are about equally long
        soon = [rows(i) for i in range(min(1000, cfg.steps * cfg.prompts))]
        fitting_prompts(model, tokenizer, soon, cfg.max_new_tokens, "error")
    if ranks.main and not state:  # only now: an input that is wrong must not move an earlier run's folder
        new_run_folder(out, init)
    gather(ranks, None)  # wait for the folder
    if ranks.main:
        total, active = model.num_parameters()
        print(f"policy: {init}, {total / 1e6:.2f}M parameters ({active / 1e6:.2f}M active), "
              f"on {ranks.world} x {ranks.device}" + (", which split them" if cfg.shard else ""))
        settings = json.dumps(asdict(cfg) | {"preset": preset}, indent=2)
        (out / "run.json").write_text(settings + "\n", encoding="utf-8")
        print("settings: " + ", ".join(f"{k}={v}" for k, v in asdict(cfg).items()))
    stage = "/" in preset
    with last_good_state(out):
        log = train(model, tokenizer, rows, eval_rows, cfg, out, state, ranks, final=not stage)
    if stage:
        before = next((r for r in log.rows if (r["kind"], r["step"]) == ("eval", 0)), None)
    else:  # only now, so that the first step comes soon: what the last evaluation is compared with
        there = model.lora and not cfg.ref_every and not cfg.shard  # the initial policy, without loading it
        first = model if there else load_model(init, ranks.device, cfg.dtype)
        with as_reference(first) if there else nullcontext():
            before, _ = evaluate(first, tokenizer, eval_rows, samples=FINAL_SAMPLES,
                max_new_tokens=cfg.max_new_tokens, ranks=ranks, seed=cfg.seed,
                plan=plan_of_run(cfg, tokenizer))
        log.write("before", cfg.steps, **before)
    save_run(out, model, tokenizer, init, ranks)
    if ranks.main:
        finish(before, log, out, eval_rows[0]["prompt"])


def finish(before: dict, log: Log, out: Path, prompt: str):
    """Print the before/after table, draw the plots."""
    evals = [r for r in log.rows if r["kind"] == "eval"]
    print(f"\nheld out: {evals[-1]['problems']} problems x {evals[-1]['k']} samples, temperature 1\n"
        + table({"before": before, "after": evals[-1]}))
    if importlib.util.find_spec("matplotlib"):
        subprocess.run([sys.executable, Path(__file__).parent / "report" / "plot.py", out], check=True)
    else:
        print(f"no pictures without matplotlib: pip install matplotlib, then python plot.py {out}")
    print(f'talk to it: python sample.py --from {out} --prompt "{prompt}"')


if __name__ == "__main__":
    run_script(main)
