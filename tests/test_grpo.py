"""Losses and advantages against TRL's own code; the invariances; the mistakes that real GRPO codebases
shipped."""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import grpo
from config import PRESETS, ModelConfig, UserError, parse_args
from data.tasks import endless
from data.tokenizer import shipped
from grpo import LOSSES, Config, Sample, group_advantages, micro_step, policy_loss, settings_of
from kernels import token_logprobs
from model import Transformer
from moe import Routing
from optim import apply_gradients
from parallel import Ranks, micro_batches
from rewards import BY_MODEL, Plan, score
from sample import generate

ALONE = Ranks(0, 1, "cpu")
TINY = dict(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=48,
    moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.3, max_position_embeddings=256)


def tiny(**overrides):
    return Transformer(ModelConfig(**TINY | overrides)).init_weights()


# ------------------------------------------------------------------------------------------ TRL as the oracle

TRL_LOSSES = {"grpo": ("grpo", "token"), "dr_grpo": ("dr_grpo", "token"), "dapo": ("dapo", "token"),
    "gspo": ("grpo", "sequence"), "cispo": ("cispo", "token"), "sapo": ("sapo", "token")}


def trl_loss(x, loss, low, high, beta, kl="k3", delta=None, weights=None):
    """GRPOTrainer._compute_loss itself, on given log-probabilities instead of a model's. x may hold
    sampler_logprobs, where old_logprobs are not the sampler's."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer",
        reason="the oracle for losses: requirements-oracles.txt")
    kind, level = TRL_LOSSES[loss]
    high = (
        1 + high if kind == "cispo" else high
    )  # TRL's epsilon_high is the cap itself, ours and the paper's 1 + it
    accelerator = SimpleNamespace(num_processes=1, gather=lambda t: t, gather_for_metrics=lambda t: t,
        reduce=lambda t, **_: t)
    me = SimpleNamespace(_get_per_token_logps_and_entropies=lambda *a,
        **k: (x["logprobs"], torch.zeros_like(x["logprobs"]), None), top_entropy_quantile=1.0,
        off_policy_mask_threshold=delta, importance_sampling_level=level, beta=beta,
        args=SimpleNamespace(use_bias_correction_kl=kl == "unbiased", delta=None, steps_per_generation=1,
            sapo_temperature_pos=1.0, sapo_temperature_neg=1.05),
        loss_type=kind, epsilon_low=low, epsilon_high=high, use_vllm=weights is not None,
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        max_completion_length=x["mask"].shape[1], accelerator=accelerator, aux_loss_enabled=False,
        _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)},
        vllm_importance_sampling_correction=True, get_off_policy_mask=trl.GRPOTrainer.get_off_policy_mask)
    ids = torch.ones_like(x["mask"])
    inputs = dict(prompt_ids=ids[:, :1], prompt_mask=ids[:, :1], completion_ids=ids,
        completion_mask=x["mask"], advantages=x["advantages"], old_per_token_logps=x["old_logprobs"],
        ref_per_token_logps=x["ref_logprobs"], num_items_in_batch=x["mask"].sum(),
        importance_sampling_ratio=weights)
    if "sampler_logprobs" in x:
        inputs["sampling_per_token_logps"] = x["sampler_logprobs"]
    return trl.GRPOTrainer._compute_loss(me, None, inputs), me._metrics["train"]


def random_batch(seed, B=6, T=9, spread=1.0):
    """Ratios far from 1, ragged masks, one row with a single token."""
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(B, T, generator=g) * 3 - 0.05
    mask = (torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=g)).long()
    mask[0] = 0
    mask[0, 0] = 1
    return dict(logprobs=(old + spread * torch.randn(B, T, generator=g)).requires_grad_(), old_logprobs=old,
        ref_logprobs=old + 0.5 * torch.randn(B, T, generator=g), mask=mask,
        advantages=torch.randn(B, generator=g) * 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss,beta,kl", [(loss, *how) for loss in TRL_LOSSES for how in ((0.0, "k3"),
    (0.3, "k3"), (0.3, "unbiased")) if (loss, how[1]) != ("gspo", "unbiased")])
def test_policy_loss_equals_trl(loss, beta, kl, seed):
    """But for gspo's unbiased KL: TRL multiplies by the whole sequence's ratio, which does not correct it."""
    x = random_batch(seed)
    want, theirs = trl_loss(x, loss, 0.2, 0.28, beta, kl)
    ref = x.pop("ref_logprobs") if beta else None
    x.pop("ref_logprobs", None)
    got, ours = policy_loss(**x, loss=loss, clip_low=0.2, clip_high=0.28, kl_coef=beta, kl=kl,
        ref_logprobs=ref)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(got, x["logprobs"]), torch.autograd.grad(want, x["logprobs"]),
            strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    if beta:
        assert ours["kl"] == pytest.approx(theirs["kl"][0], rel=1e-5)
    if loss in ("grpo", "dr_grpo", "dapo"):
        assert ours["clip_fraction"] == pytest.approx(theirs["clip_ratio/region_mean"][0], rel=1e-5)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("loss", TRL_LOSSES)
def test_masked_and_weighted_losses_equal_trl(loss, separate):
    """The off-policy mask of sequences, also where the sampler's log-probabilities are not the old ones, and
    weights of tokens; the KL is left alone by both."""
    x, g = random_batch(1, B=16), torch.Generator().manual_seed(1)
    if separate:
        x["sampler_logprobs"] = x["old_logprobs"] + 0.4 * torch.randn(x["mask"].shape, generator=g)
        x["weights"] = 2 * torch.rand(x["mask"].shape, generator=g) * (x["old_logprobs"] < -0.5)
    others = {k: v for k, v in x.items() if k != "weights"}
    want, _ = trl_loss(others, loss, 0.2, 0.28, 0.3, delta=0.1, weights=x.get("weights"))
    settings = dict(loss=loss, clip_low=0.2, clip_high=0.28, kl_coef=0.3)
    got, m = policy_loss(**x, **settings, off_policy_mask=0.1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    a, b = (torch.autograd.grad(loss, x["logprobs"])[0] for loss in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    mu, rows = x.get("sampler_logprobs", x["old_logprobs"]), x["mask"].bool()
    far = [bool(A < 0 and (m - p)[r].mean() > 0.1) for A, m, p, r in
        zip(x["advantages"], mu, x["logprobs"].detach(), rows, strict=True)]
    assert 0 < sum(far) < len(far)
    share = sum(float(r.sum()) for r, f in zip(rows, far, strict=True) if f) / float(rows.sum())
    assert m["off_policy"] == pytest.approx(share) and ("importance" in m) == separate
    assert "off_policy" not in policy_loss(**x, **settings)[1]


@pytest.mark.parametrize("kind,low,high", [("truncate", 0.0, 2.0), ("truncate", 0.6, 3.0), ("mask", 0.5, 5.0),
    ("mask", 0.8, 1.2)])
def test_importance_weights_equal_trl(kind, low, high):
    """TRL computes them in the middle of a long method; these are its own lines, run from its source."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="the oracle: requirements-oracles.txt")
    import inspect
    import textwrap

    source = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    start = source.index("                mask = completion_mask if tool_mask is None")
    end = source.index("            # Compute the per-token log probabilities for the reference model", start)
    own, mu = (-3 * torch.rand(5, 40, generator=torch.Generator().manual_seed(i)) for i in range(2))
    me = SimpleNamespace(vllm_importance_sampling_mode=f"token_{kind}", vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high)
    space = dict(vars(trl), self=me, completion_mask=torch.ones(5, 40), tool_mask=None,
        old_per_token_logps=own, sampling_per_token_logps=mu)
    exec(textwrap.dedent(source[start:end]), space)  # noqa: S102  the oracle's own source
    got = grpo.IMPORTANCE[kind][0]((own - mu).exp(), low, high)
    torch.testing.assert_close(got, space["vllm_importance_sampling_ratio"])
    assert not torch.equal(got, (own - mu).exp())


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(scale):
    """TRL computes them in the middle of a long method; these are its own lines, run from its source."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer",
        reason="the oracle for losses: requirements-oracles.txt")
    import inspect
    import textwrap

    source = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = torch.isnan")
    end = source.index('        elif self.multi_objective_aggregation == "normalize_then_sum"')
    block = textwrap.dedent(source[start:end])
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0.1, 0.2])
    me = SimpleNamespace(reward_weights=torch.ones(1), scale_rewards=scale,
        multi_objective_aggregation="sum_then_normalize")
    space = dict(vars(trl), self=me, rewards_per_func=rewards[:, None], num_generations=4, device="cpu")
    exec(block, space)  # noqa: S102  the oracle's own source
    torch.testing.assert_close(group_advantages(rewards, 4, scale), space["advantages"])


def test_leave_one_out_advantages_equal_trl():
    trl = pytest.importorskip("trl.trainer.rloo_trainer", reason="the oracle: requirements-oracles.txt")
    import inspect
    import textwrap

    source = inspect.getsource(trl.RLOOTrainer._generate_and_score_completions)
    start, end = source.index("        grouped_rewards = rewards.view"), source.index(
        "        # Normalize advantages over the scorable subset only")
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0.1, 0.2])
    space = dict(vars(trl), rewards=rewards, num_generations=4)
    exec(textwrap.dedent(source[start:end]), space)  # noqa: S102  the oracle's own source
    torch.testing.assert_close(group_advantages(rewards, 4, "rloo"), space["advantages"])


def test_maxrl_advantages_are_the_gradient_of_the_log_of_the_success_rate():
    """For rewards of 0 and 1 the update sum_i A_i grad log pi / G is the mean over successes of grad log pi
    less the mean over all; a group without success gets none, nor one whose mean is below 0."""
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0.1, -0.1, 0.3, -0.3, -1, -1, -1, 0])
    want = [3.0, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, *[0] * 12]
    assert group_advantages(rewards, 4, "mean").tolist() == pytest.approx(want, abs=1e-6)


def test_reinforce_plus_plus_has_one_baseline_for_all_groups():
    rewards = torch.tensor([1.0, 1, 1, 0, 0, 1])
    got = group_advantages(rewards, 3, "global")
    torch.testing.assert_close(got, (rewards - rewards.mean()) / (rewards.std() + 1e-4))
    assert got[:3].all()  # though all of the group are equal
    assert not group_advantages(torch.full((12,), 1.1), 4, "global").any()


def every_sequence(seed, V=3, T=3):
    """A policy, a reference and a sampler over all sequences of T tokens: a table of logits (V^t, V) per step
    t, its rows numbered by the tokens before. Returns (the policy's tables, sequences (V^T, T), a function
    from tables to the log-probabilities (V^T, T) of all tokens, the reference's, the sampler's)."""
    g = torch.Generator().manual_seed(seed)
    policy, reference, sampler = ([torch.randn(V**t, V, generator=g, dtype=torch.float64) for t in range(T)]
        for _ in range(3))
    sequences = torch.cartesian_prod(*[torch.arange(V)] * T)
    rows = [sum(sequences[:, i] * V ** (t - 1 - i) for i in range(t)) + 0 * sequences[:, 0] for t in range(T)]

    def logprobs(tables):
        return torch.stack([table.log_softmax(-1)[row, token] for table, row, token in
            zip(tables, rows, sequences.T, strict=True)], dim=1)

    return [p.requires_grad_() for p in policy], logprobs, reference, sampler


def kl_gradients(seed, kl, on_policy):
    """(gradient of policy_loss summed over all sequences, each with its probability under the sampler;
    autograd's of the full-vocabulary reverse KL after each prefix, with the prefix's probability)."""
    policy, logprobs, reference, sampler = every_sequence(seed)
    if on_policy:
        sampler = [p.detach() for p in policy]
    mu, new, ref = logprobs(sampler), logprobs(policy), logprobs(reference)
    total = 0
    for i, p in enumerate(mu.sum(1).exp()):
        row = slice(i, i + 1)
        total = total + policy_loss(new[row], mu[row], torch.zeros(1), torch.ones(1, mu.shape[1]),
            loss="dr_grpo", kl_coef=1.0, kl=kl, ref_logprobs=ref[row], normalizer=1 / p)[0]
    got = torch.autograd.grad(total, policy)
    exact, reach = 0, torch.ones(1, dtype=mu.dtype)  # the probability of each prefix
    for p, r, s in zip(policy, reference, sampler, strict=True):
        exact = exact + reach @ (p.softmax(-1) * (p.log_softmax(-1) - r.log_softmax(-1))).sum(-1)
        reach = (reach[:, None] * s.softmax(-1)).flatten()
    return got, torch.autograd.grad(exact, policy)


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_unbiased_kl_has_the_reverse_kls_gradient_in_expectation_and_k3_has_not(seed, on_policy):
    """An exact sum over all sequences, against autograd; also where the sampler is another policy."""
    got, want = kl_gradients(seed, "unbiased", on_policy)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    biased, _ = kl_gradients(seed, "k3", on_policy)
    assert max(float((a - b).abs().max()) for a, b in zip(biased, want, strict=True)) > 0.05


# --------------------------------------------------- mistakes that real GRPO codebases shipped, one test each


@pytest.mark.parametrize("kl", grpo.KLS)
@pytest.mark.parametrize("loss", LOSSES)
def test_kl_is_added_to_the_loss_and_pulls_towards_the_reference(loss, kl):
    logprobs = torch.full((1, 3), -2.0, requires_grad=True)
    x = dict(old_logprobs=logprobs.detach(), advantages=torch.zeros(1), mask=torch.ones(1, 3))
    value, m = policy_loss(logprobs, **x, loss=loss, kl_coef=0.5, kl=kl,
        ref_logprobs=torch.full((1, 3), -1.0))
    assert float(value) == pytest.approx(0.5 * (np.e - 2), rel=1e-5) and m["kl"] == pytest.approx(np.e - 2,
        rel=1e-5)
    value.backward()
    assert (logprobs.grad < 0).all()  # descending raises the log-probability, towards the reference's


@pytest.mark.parametrize("ratio,advantage,gradient",
    [(2.0, 1.0, False), (0.5, 1.0, True), (2.0, -1.0, True), (0.5, -1.0, False)])
def test_clipping_takes_the_minimum_for_both_signs_of_the_advantage(ratio, advantage, gradient):
    logprobs = torch.tensor([[float(np.log(ratio))]], requires_grad=True)
    value, m = policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1))
    value.backward()
    assert float(value) == pytest.approx(-min(ratio * advantage, float(np.clip(ratio, 0.8, 1.2)) * advantage),
        rel=1e-5)
    assert bool(logprobs.grad.abs().sum() > 0) == gradient and m["clip_fraction"] == float(not gradient)


@pytest.mark.parametrize("mu,pi,advantage,dropped", [(0.5, 0.75, 1.0, True), (0.5, 0.75, -1.0, False),
    (0.5, 0.25, -1.0, True), (0.5, 0.25, 1.0, False), (0.5, 0.65, 1.0, False), (0.01, 0.2, 1.0, False),
    (0.2, 0.01, -1.0, False), (0.9, 0.6, -1.0, True)])
def test_dppo_drops_what_has_moved_too_far_in_probability_not_in_ratio(mu, pi, advantage, dropped):
    """The others get the gradient ratio A, however far the ratio is from 1."""
    logprobs = torch.tensor([[np.log(pi)]], requires_grad=True)
    args = torch.tensor([[np.log(mu)]]), torch.tensor([advantage]), torch.ones(1, 1)
    value, m = policy_loss(logprobs, *args, loss="dppo")
    value.backward()
    assert m["clip_fraction"] == float(dropped)
    assert float(logprobs.grad) == pytest.approx(0 if dropped else -pi / mu * advantage)
    _, loose = policy_loss(logprobs, *args, loss="dppo", settings=settings_of("dppo", "delta=0.31"))
    assert loose["clip_fraction"] == 0


def sampled(count=3, G=4, seed=0, temperature=1.0, model=None, new=12, top_p=1.0):
    """Samples of a random tiny model, some of them finished, with made-up advantages."""
    model, tok = model or tiny(), shipped()
    prompts = [tok.encode_prompt(f"Use {i} 7 9 to make 30.") for i in range(count)]
    out = generate(model, prompts, group_size=G, max_new_tokens=new, eos_id=tok.eos_id, seed=seed,
        temperature=temperature, top_p=top_p, record_routing=True, record_kept=True)
    rng = np.random.default_rng(seed)
    samples = []
    for i, completion in enumerate(out.completions):
        completion, old = list(completion), list(out.logprobs[i])
        if i % 3 == 0 and top_p == 1:  # end some rows with EOS, at its true log-probability
            completion, old = completion[: 4 + i % 5], old[: 4 + i % 5]
            completion[-1] = tok.eos_id
            tokens = torch.tensor([prompts[i // G] + completion])
            with torch.no_grad():
                hidden = model.hidden(tokens[:, :-1])[:, -1]
                old[-1] = float(token_logprobs(hidden, model.lm_head.weight, tokens[:, -1], temperature)[0])
        n = len(prompts[i // G]) + len(completion) - 1
        samples.append(Sample(prompts[i // G] + completion, len(prompts[i // G]), old, i % 3 == 0,
            out.routing[i][:n] if out.routing[i] is not None else None, {"reward": 0.0}, 0,
            float(rng.normal()), out.kept[i]))
    return model, samples


def test_the_end_token_is_learnt_and_padding_is_not():
    tok = shipped()
    assert tok.pad_id != tok.eos_id
    _, samples = sampled()
    batch = grpo.collate(samples, tok.pad_id, "cpu")
    for s, row, m, p in zip(samples, batch.completions, batch.mask, batch.owner, strict=True):
        assert row[m].tolist() == s.tokens[s.start :]
        assert not s.finished or row[m][-1] == tok.eos_id
        assert batch.prompts[p, : batch.lengths[p]].tolist() == s.tokens[: s.start]
    assert len(batch.prompts) == 3 and batch.inputs().sum() == sum(len(s.tokens) - 1 for s in samples)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_rollout_logprobs_are_training_logprobs_at_the_sampling_temperature(temperature):
    model, samples = sampled(temperature=temperature, new=40)
    cfg = Config(kl_coef=0.0, temperature=temperature)
    sums = micro_step(model, None, samples, len(samples), len(samples), cfg, shipped().pad_id, "cpu")
    assert sums["mismatch"] <= 1e-4
    wrong = micro_step(model, None, samples, len(samples), len(samples),
        dataclasses.replace(cfg, temperature=1.0 if temperature != 1.0 else 0.8), shipped().pad_id, "cpu")
    assert wrong["mismatch"] > 0.05


@pytest.mark.parametrize("top_p,temperature", [(0.9, 1.0), (0.5, 0.8)])
def test_training_is_over_what_the_sampler_kept(top_p, temperature):
    """Policy and reference: their log-probabilities are the sampler's, and their KL is 0; without what was
    kept they are not."""
    model, samples = sampled(count=4, new=40, temperature=temperature, top_p=top_p)
    samples = [s._replace(tokens=s.tokens[: s.start + 3 + 5 * i], old_logprobs=s.old_logprobs[: 3 + 5 * i],
        routing=s.routing[: s.start + 2 + 5 * i], kept=(s.kept[0][: 3 + 5 * i],
        s.kept[1][: s.kept[0][: 3 + 5 * i].sum()])) for i, s in enumerate(samples[:8])]  # ragged
    cfg, count = Config(kl_coef=0.1, temperature=temperature, top_p=top_p), len(samples)
    for budget in (1, 300, 10**6):
        parts = micro_batches(ALONE, [len(s.tokens) for s in samples], budget)
        sums = [micro_step(model, model, [samples[i] for i in part], count, count, cfg, shipped().pad_id,
            "cpu") for part in parts]
        assert max(m["mismatch"] for m in sums) <= 1e-4 and sum(m["kl"] for m in sums) == 0
    without = micro_step(model, model, [s._replace(kept=None) for s in samples], count, count, cfg,
        shipped().pad_id, "cpu")
    assert without["mismatch"] > 0.05


def run_update(cfg, samples, model, ranks=ALONE):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return grpo.update(model, None, [optimizer], samples, 10, cfg, shipped(), ranks), model


@pytest.mark.parametrize("router", ["frozen", "replay"])
def test_importance_weights_correct_a_sampler_that_computes_otherwise(router):
    """Its log-probabilities are off by up to 0.8: the ratio is pi / pi_old, and starts at 1; weights tell."""
    model, samples = sampled(count=4, new=20)
    g = np.random.default_rng(0)
    off = [g.uniform(-0.8, 0.8, len(s.old_logprobs)) for s in samples]
    moved = [s._replace(old_logprobs=(np.array(s.old_logprobs) - d).tolist()) for s, d in
        zip(samples, off, strict=True)]
    cfg = Config(kl_coef=0.0, router=router, micro_tokens=200, loss="dapo")
    plain, _ = run_update(cfg, moved, model)
    assert "importance" not in plain and plain["kl_old"] > 0.05
    w = np.exp(np.concatenate(off))
    for kind, want in (("truncate", w.clip(0, 2)), ("mask", w * (w >= 0.5))):
        m, _ = run_update(dataclasses.replace(cfg, importance=kind), moved, model)
        assert m["ratio"] == pytest.approx(1, abs=1e-5) and m["kl_old"] < 1e-6
        assert m["logprob_mismatch"] == pytest.approx(plain["logprob_mismatch"], rel=1e-4)
        assert m["importance"] == pytest.approx(want.mean(), rel=1e-4)
    whole, _ = run_update(dataclasses.replace(cfg, importance="mask", importance_low=0.01,
        importance_high=9.0, micro_tokens=10**6), moved, model)
    assert whole["importance"] == pytest.approx(w.mean(), rel=1e-4)


def test_old_logprobs_stay_those_of_the_rollout_over_the_updates_of_a_step():
    """The ratio must leave 1 after the first of several updates, and be 1 before it."""
    model, samples = sampled(count=4, new=20)
    one, _ = run_update(Config(kl_coef=0.0, updates=1, lr=0.02), samples, model)
    assert one["ratio"] == pytest.approx(1.0, abs=1e-4) and one["kl_old"] < 1e-6
    model, samples = sampled(count=4, new=20)
    many, _ = run_update(Config(kl_coef=0.0, updates=4, lr=0.02), samples, model)
    assert many["kl_old"] > 1e-4 and many["logprob_mismatch"] < 1e-4


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("extra", [{}, {"router": "loss"}, {"router": "replay"}])
def test_gradient_is_invariant_to_micro_batch_size(loss, extra, monkeypatch):
    """Budgets from one row at a time to all rows at once; ragged lengths, KL and balance loss included."""
    model, samples = sampled(new=24)
    reference = tiny().requires_grad_(False)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.02 * torch.randn_like(p))
    monkeypatch.setattr(grpo, "BALANCE_COEF", 0.5)
    cfg = Config(loss=loss, kl_coef=0.1, **extra)
    count = LOSSES[loss].count
    normalizer = {"sequences": len(samples), "tokens": sum(len(s.old_logprobs) for s in samples),
        "max_tokens": len(samples) * 24}[count]
    results, losses = [], []
    for budget in (1, 100, 10**6):
        model.zero_grad()
        parts = micro_batches(ALONE, [len(s.tokens) for s in samples], budget)
        losses.append(sum(micro_step(model, reference, [samples[i] for i in part], normalizer, len(samples),
            cfg, shipped().pad_id, "cpu")["loss"] for part in parts))
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert len(parts) == 1 and results[0].abs().max() > 1e-3
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=2e-6)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("router", ["frozen", "loss", "replay"])
def test_shared_prompts_give_the_gradient_of_whole_sequences(router, monkeypatch):
    """Prompts of different lengths, some of them shared, against `Transformer.hidden` of each whole row."""
    model, samples = sampled(new=24)
    short = samples[5]
    samples = [*samples[:9], short._replace(tokens=short.tokens[3:], start=short.start - 3,
        routing=short.routing[3:], old_logprobs=short.old_logprobs)]
    monkeypatch.setattr(grpo, "BALANCE_COEF", 0.5)
    cfg = Config(kl_coef=0.0, router=router)
    sums = micro_step(model, None, samples, 7, 11, cfg, shipped().pad_id, "cpu")
    shared = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loads, entropies = 0, 0.0
    for s in samples:
        tokens, replay = torch.tensor([s.tokens]), torch.from_numpy(s.routing).long()[None].unbind(2)
        routing = Routing(replay=list(replay) if router == "replay" else None, balance=router == "loss")
        hidden = model.hidden(tokens[:, :-1], routing)[:, s.start - 1 :]
        logprobs, entropy = token_logprobs(hidden, model.lm_head.weight, tokens[:, s.start :])
        loss, _ = policy_loss(logprobs, torch.tensor([s.old_logprobs]), torch.tensor([s.advantage]),
            torch.ones_like(logprobs), normalizer=7)
        (loss + sum(0.5 * b / 11 for b in routing.balance_losses)).backward()
        loads, entropies = loads + torch.stack(routing.load), entropies + float(entropy.sum())
    for a, p in zip(shared, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=2e-6)
    assert torch.equal(torch.from_numpy(sums["load"]), loads)
    assert sums["entropy"] == pytest.approx(entropies, rel=1e-5)


def test_completions_of_one_token_train():
    """Of nothing but EOS: no completion token is an input."""
    model, samples = sampled()
    ends = [s._replace(tokens=s.tokens[: s.start + 1], old_logprobs=s.old_logprobs[:1],
        routing=s.routing[: s.start]) for s in samples]
    sums = micro_step(model, None, ends, len(ends), len(ends), Config(kl_coef=0.0), shipped().pad_id, "cpu")
    assert sums["tokens"] == len(ends) and sums["mismatch"] < 1e-4 and sums["agree"] == sums["routed"]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("world", [1, 2])
def test_rows_of_a_long_prompt_stay_together_and_others_go_by_length(world):
    """100 prompt tokens + 4: whole groups share. 1 prompt token: sorted by length, padding costs more."""
    lengths = [104, 105, 106, 104] * 4
    groups = [(i // 4, 100) for i in range(16)]
    parts = [micro_batches(Ranks(r, world, "cpu"), lengths, 430, groups) for r in range(world)]
    assert all(len({groups[i] for i in part}) == 1 and len(part) == 4 for rank in parts for part in rank)
    assert sorted(i for rank in parts for part in rank for i in part) == list(range(16))
    lengths = [2, 90, 3, 80] * 4
    short = [(i // 4, 1) for i in range(16)]
    parts = [micro_batches(Ranks(r, world, "cpu"), lengths, 300, short) for r in range(world)]
    assert all(max(lengths[i] for i in part) < 4 * min(lengths[i] for i in part) or part == rank[-1]
        or lengths[part[0]] >= 80 for rank in parts for part in rank)
    assert sorted(i for rank in parts for part in rank for i in part) == list(range(16))


def test_gradient_is_invariant_to_order_and_padding():
    model, samples = sampled(new=24)
    cfg, pad_id, got = Config(kl_coef=0.0), shipped().pad_id, []
    longer = samples[0]._replace(tokens=samples[0].tokens + [5] * 60,
        old_logprobs=samples[0].old_logprobs + [0.0] * 60, advantage=0.0, routing=None)
    for batch in (samples, samples[::-1], [*(s._replace(routing=None) for s in samples), longer]):
        model.zero_grad()
        micro_step(model, None, list(batch), len(samples), len(samples), cfg, pad_id, "cpu")
        got.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(got[1], got[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(got[2], got[0], rtol=1e-3, atol=1e-6)


def test_metrics_are_over_all_micro_batches_not_the_last():
    model, samples = sampled(new=24)
    whole, _ = run_update(Config(kl_coef=0.0, lr=0.0, micro_tokens=10**6), samples, model)
    single, _ = run_update(Config(kl_coef=0.0, lr=0.0, micro_tokens=1), samples, model)
    for key in ("loss", "entropy", "clip_fraction", "ratio", "kl_old", "routing_agreement", "max_load",
            "trained_tokens"):
        assert single[key] == pytest.approx(whole[key], rel=1e-4, abs=1e-6), key
    last = micro_step(model, None, samples[-1:], 1, 1, Config(kl_coef=0.0), shipped().pad_id, "cpu")
    assert abs(last["entropy"] / last["tokens"] - whole["entropy"]) > 1e-5


def test_entropy_metric_is_the_distributions_entropy():
    model, samples = sampled()
    s = samples[1]
    sums = micro_step(model, None, [s], 1, 1, Config(kl_coef=0.0), shipped().pad_id, "cpu")
    logits = model(torch.tensor([s.tokens[:-1]]))[0, s.start - 1 :]
    exact = torch.distributions.Categorical(logits=logits).entropy()
    assert sums["entropy"] / sums["tokens"] == pytest.approx(float(exact.mean()), rel=1e-4)
    assert abs(sums["entropy"] / sums["tokens"] + np.mean(s.old_logprobs)) > 1e-3


# --------------------------------------------------------------------------------------- the rest of the loop


def test_routing_agreement_is_one_before_the_update_and_replay_is_exact():
    model, samples = sampled()
    for router in ("frozen", "replay"):
        sums = micro_step(model, None, samples, 1, 1, Config(kl_coef=0.0, router=router), shipped().pad_id,
            "cpu")
        assert sums["agree"] == sums["routed"]
    torch.manual_seed(1)
    for r in model.routers():
        torch.nn.init.normal_(r.weight, std=3)
    drifted = micro_step(model, None, samples, 1, 1, Config(kl_coef=0.0), shipped().pad_id, "cpu")
    assert drifted["agree"] < 0.9 * drifted["routed"]
    replayed = micro_step(model, None, samples, 1, 1, Config(kl_coef=0.0, router="replay"), shipped().pad_id,
        "cpu")
    assert replayed["agree"] == replayed["routed"]


@pytest.mark.parametrize("router", ["frozen", "bias"])
def test_routing_bias_moves_only_when_asked(router):
    model, samples = sampled()
    before = [r.e_score_correction_bias.clone() for r in model.routers()]
    run_update(Config(kl_coef=0.0, router=router), samples, model)
    moved = any(not torch.equal(a, r.e_score_correction_bias) for a,
        r in zip(before, model.routers(), strict=True))
    assert moved == (router == "bias")


def group(rewards, finished=None):
    finished = finished or [True] * len(rewards)
    return [Sample([1, 2], 1, [0.0], f, None, {"reward": r}, 0) for r,
        f in zip(rewards, finished, strict=True)]


def test_groups_without_variance_are_dropped():
    groups = [group([1.0, 0.0]), group([1.0, 1.0]), group([0.0, 0.0]), group([0.1, 0.0])]
    kept = grpo.with_advantages(groups, Config(group_size=2))
    assert [round(s.advantage, 2) for s in kept] == [0.71, -0.71, 0.71, -0.71]


def test_truncated_completions_are_masked_only_when_asked():
    groups = [group([1.0, 0.0, 0.0], [True, True, False])]
    assert len(grpo.with_advantages(groups, Config(group_size=3))) == 3
    kept = grpo.with_advantages(groups, Config(group_size=3, reward_weights="overlong=mask"))
    assert [s.finished for s in kept] == [True, True]
    assert kept[0].advantage == pytest.approx(float(group_advantages(torch.tensor([1.0, 0, 0]), 3)[0]))


def test_resampling_replaces_groups_without_variance_within_its_budget(monkeypatch):
    asked = []

    def fake(model, tokenizer, rows, first, count, cfg, ranks):
        asked.append((first, count))
        return [group([1.0, 0.0] if n % 3 == 0 else [0.0, 0.0]) for n in range(first, first + count)]

    monkeypatch.setattr(grpo, "sample_groups", fake)
    groups, cursor = grpo.collect(None, None, None, 0, Config(prompts=6, group_size=2, resample=2), ALONE)
    assert asked == [(0, 6), (6, 4), (10, 2)] and cursor == 12 and len(groups) == 12
    assert grpo.collect(None, None, None, 0, Config(prompts=6, group_size=2), ALONE)[1] == 6


@pytest.mark.parametrize("call", [lambda: group_advantages(torch.ones(4), 1),
    lambda: group_advantages(torch.ones(5), 2), lambda: group_advantages(torch.ones(4), 2, "std"),
    lambda: policy_loss(*[torch.zeros(1, 1)] * 2, torch.zeros(1), torch.ones(1, 1), loss="ppo"),
    lambda: policy_loss(*[torch.zeros(1, 1)] * 2, torch.zeros(1), torch.ones(1, 1), kl="k1"),
    lambda: policy_loss(*[torch.zeros(1, 1)] * 2, torch.zeros(1), torch.ones(1, 1), kl_coef=0.1)])
def test_wrong_arguments_are_refused(call):
    with pytest.raises(UserError):
        call()


@pytest.mark.parametrize("settings,message", [(dict(scale="grop"), "--scale grop; did you mean group"),
    (dict(loss="dppo", clip_high=0.2), "--clip_high: --loss dppo has no such clip"),
    (dict(loss="cispo", clip_low=0.2), "--clip_low"), (dict(kl="k1"), "--kl k1; choose from k3"),
    (dict(optimizer="sgd"), "expected adamw or muon"),
    (dict(importance="trunc"), "did you mean truncate"), (dict(importance_low=0.5), "need --importance"),
    (dict(importance="mask", importance_low=6.0), "importance_low 6.0 must be below --importance_high 5.0")])
def test_settings_that_cannot_work_are_refused(settings, message):
    for loss in LOSSES:
        grpo.check(Config(loss=loss))
    grpo.check(Config(importance="truncate", importance_low=0.5, kl="unbiased", optimizer="muon"))
    with pytest.raises(UserError, match=message):
        grpo.check(Config(**settings))


def test_a_step_that_clips_gradients_reports_the_norm_before_clipping():
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    norm = apply_gradients(ALONE, [p], [torch.optim.SGD([p], lr=1.0)], lr=0.5, max_norm=1.0)
    assert norm == pytest.approx(5.0) and p.tolist() == pytest.approx([-0.3, -0.4], rel=1e-4)


@pytest.mark.parametrize("words,want", [([], ("group", 0.2, 0.28)),  # the preset's, for its own loss
    (["--loss", "grpo"], ("group", 0.2, 0.28)), (["--loss", "dr_grpo"], ("none", 0.2, 0.2)),
    (["--loss", "gspo"], ("group", 3e-4, 4e-4)),
    (["--loss", "dapo", "--clip_high", "0.3"], ("group", 0.2, 0.3)),
    (["--loss", "dr_grpo", "--scale", "batch"], ("batch", 0.2, 0.2))])
def test_a_loss_brings_its_papers_settings_and_a_flag_overrides_them(words, want):
    cfg, _ = parse_args(Config, grpo.RECIPES, "", ["--config", "tiny", *words])
    assert (cfg.scale, cfg.clip_low, cfg.clip_high) == want


def test_a_runs_settings_hold_all_of_the_losss_own():
    assert Config(loss="sapo", loss_settings="tau_neg=2").loss_settings == "tau_pos=1.0,tau_neg=2.0"
    assert Config(loss="sapo").loss_settings == "tau_pos=1.0,tau_neg=1.05" and Config().loss_settings == ""


def test_settings_of_a_loss_reach_its_function_and_wrong_ones_are_named():
    x = random_batch(1)
    x.pop("ref_logprobs")
    plain, m = policy_loss(**x, loss="sapo")
    assert m["clip_fraction"] == 0 < policy_loss(**x)[1]["clip_fraction"]
    same = policy_loss(**x, loss="sapo", settings=settings_of("sapo", "tau_pos=1,tau_neg=1.05"))[0]
    other = policy_loss(**x, loss="sapo", settings=settings_of("sapo", "tau_neg=4"))[0]
    assert torch.equal(plain, same) and not torch.isclose(plain, other)
    for loss, text, message in (("sapo", "tau_nge=1", "did you mean tau_neg"),
            ("grpo", "tau=1", "unknown name tau"), ("sapo", "tau_neg=high", "tau_neg=NUMBER")):
        with pytest.raises(UserError, match=message):
            settings_of(loss, text)


def test_a_group_teaches_if_an_advantage_is_not_zero(monkeypatch):
    """Also where the baseline is not the group's mean; and equal rewards whose mean rounds teach nothing."""
    def group(*rewards):
        return [Sample([1], 1, [], True, None, {"reward": r}, 0) for r in rewards]

    cfg = Config(group_size=12, kl_coef=0.0)
    groups = [group(*[1.1] * 12), group(*[0.1] * 11, 1.1)]
    assert [s.scores["reward"] for s in grpo.with_advantages(groups, cfg)] == [0.1] * 11 + [1.1]
    monkeypatch.setattr(grpo, "group_advantages", lambda rewards, *_: rewards - 0.5)
    assert len(grpo.with_advantages(groups, cfg)) == 24
    assert grpo.rollout_metrics(groups, cfg)["no_variance"] == 0.5  # of the rewards, whatever is made of them
    monkeypatch.setattr(grpo, "group_advantages", lambda rewards, *_: 0 * rewards)  # as if too easy
    assert not grpo.with_advantages(groups, cfg)


@pytest.mark.parametrize("size", [3, 7, 12, 16])
@pytest.mark.parametrize("scale", sorted({*grpo.SCALES} - {"global"}))
def test_equal_rewards_have_no_advantage_whatever_their_mean_rounds_to(scale, size):
    got = group_advantages(torch.tensor([1.1] * size + [1.0] + [0.3] * (size - 1)), size, scale)
    assert not got[:size].any() and got[size:].all()


def test_a_rollouts_shares_of_attempts_are_sums_over_sums():
    def sample(**scores):
        return Sample([1], 1, [], True, None, {"reward": 0.0, **scores}, 0)

    groups = [[sample(attempts=1.0, attempts_true=1.0, attempts_repeated=0.0), sample(attempts=0.0)],
        [sample(attempts=9.0, attempts_true=1 / 3, attempts_repeated=2 / 3), sample(attempts=0.0)]]
    m = grpo.rollout_metrics(groups, Config(group_size=2))
    assert m["attempts"] == 2.5 and m["attempts_true"] == pytest.approx(0.4)
    assert m["attempts_repeated"] == pytest.approx(0.6)
    none = grpo.rollout_metrics([[sample(), sample()]], Config(group_size=2))
    assert not [k for k in none if "attempt" in k]


# ------------------------------------------------------------------------------- the stages of DeepSeek-R1

PROBLEM = {"prompt": "Use 1 2 to make 3.", "task": "countdown", "numbers": [1, 2], "target": 3}
GENERAL = {"prompt": "What is ice?", "task": "general"}


def test_the_preference_model_rewards_nothing_before_its_share_of_the_steps(monkeypatch):
    half = lambda completions, **_: [0.5] * len(completions)  # noqa: E731
    plan = Plan(dict.fromkeys(BY_MODEL, half), {"preference": 3.0, "format": 1.0})
    monkeypatch.setattr(grpo, "reward_plan", lambda *_: plan)
    cfg, rows = Config(steps=8, preference_from=0.75), [PROBLEM, GENERAL] * 8
    draw, tasks, rewards = grpo.rows_of_run(rows, cfg), [], []
    for cfg.step in range(8):
        tasks.append({draw(i)["task"] for i in range(cfg.step * 16, cfg.step * 16 + 16)})
        rewards.append(score([PROBLEM], ["<think></think><answer>1+2</answer>"],
            grpo.plan_of_run(cfg))[0]["reward"])
    assert tasks == [{"countdown"}] * 6 + [{"countdown", "general"}] * 2
    assert rewards == [2.0] * 6 + [3.5] * 2  # accuracy and format; then 3 x 0.5 with them
    every = grpo.rows_of_run(rows, Config(steps=8))
    assert [every(i) for i in range(32)] == [endless(rows, 0)(i) for i in range(32)]


@pytest.mark.parametrize("rows,names", [([GENERAL] * 4, BY_MODEL), ([PROBLEM] * 4, ()), ([], BY_MODEL)])
def test_a_share_of_steps_without_preferences_needs_a_model_and_other_rows(rows, names, monkeypatch):
    monkeypatch.setattr(grpo, "reward_plan", lambda *_: Plan(dict.fromkeys(names, len)))
    with pytest.raises(UserError, match="give --preference_from 0"):
        grpo.rows_of_run(rows, Config(preference_from=0.5))


def test_the_stages_are_those_of_r1s_final_form():
    """arXiv 2501.12948v2, sec. 2.2, 3.2. The reference is some steps old before it is renewed."""
    for size in PRESETS:
        first, *others, last = (grpo.RECIPES[f"{size}/{stage}"] for stage in
            ("zero", "zero_language", "reasoning", "scenarios"))
        weights = [grpo.plan_of_run(Config(reward_weights=r["reward_weights"])).weights
            for r in (first, *others, last)]
        assert [w["language"] for w in weights] == [0, 1, 1, 1]
        assert all(w["accuracy"] == w["format"] == 1 for w in weights)
        assert all(r["ref_every"] >= 4 and 4 <= r["steps"] / r["ref_every"] < 5
            for r in (first, *others, last))
        assert others[1]["clip_low"] == others[1]["clip_high"] == last["clip_high"] == 10
        assert (last["temperature"], last["preference_from"]) == (0.7, 0.75)


def test_a_clip_of_ten_leaves_bad_tokens_alone_and_stops_good_ones_at_eleven_times():
    ratio = torch.tensor([0.01, 0.5, 10.9, 11.1])
    for advantage, stopped in ((-1.0, []), (1.0, [3])):
        logprobs = ratio.log().requires_grad_()
        loss, m = policy_loss(logprobs[None], torch.zeros(1, 4), torch.tensor([advantage]),
            torch.ones(1, 4), clip_low=10.0, clip_high=10.0)
        loss.backward()
        assert (logprobs.grad == 0).nonzero().flatten().tolist() == stopped
        assert m["clip_fraction"] == len(stopped) / 4
