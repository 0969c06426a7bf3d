"""Muon against torch's own code; the same update whoever computes it."""

import math

import pytest
import torch

import optim
from checkpoint import load_model, save_model
from config import PRESETS, Diverged, ModelConfig
from model import Transformer
from optim import (
    ALONE,
    Muon,
    apply_gradients,
    buckets,
    count_skipped,
    is_sound,
    make_optimizers,
    orthogonalize,
    product_dtype,
    share,
)
from parallel import Ranks
from tests.test_parallel import python


def matrices_of(preset: str) -> list[torch.Size]:
    with torch.device("meta"):
        model = Transformer(ModelConfig(**PRESETS[preset]))
    muon = make_optimizers(model)[1]
    return sorted({p.shape for p in muon.param_groups[0]["params"]})


@pytest.fixture
def float32_oracle(monkeypatch):
    """torch.optim.Muon with its Newton-Schulz in float32: it asks for bfloat16 by one call alone."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    monkeypatch.setattr(optim, "product_dtype", lambda device: torch.float32)


@pytest.mark.parametrize("preset", ["tiny", "tiny_dense", "small"])
def test_muon_equals_torchs_on_every_shape_of_a_preset(preset, float32_oracle):
    """Three steps, so that momentum and decay count; each slice of a stack against a matrix alone."""
    g, settings = torch.Generator().manual_seed(0), dict(lr=0.02, weight_decay=0.1)
    shapes = [s[-2:] if len(s) == 2 else (2, *s[1:]) for s in matrices_of(preset)]  # two experts are enough
    ours = [torch.nn.Parameter(torch.randn(s, generator=g)) for s in shapes]
    alone = [[torch.nn.Parameter(m.detach().clone()) for m in (p if p.ndim == 3 else [p])] for p in ours]
    muon = Muon(ours, **settings)
    peer = torch.optim.Muon([m for ms in alone for m in ms], adjust_lr_fn="match_rms_adamw", **settings)
    before = [p.detach().clone() for p in ours]
    for _ in range(3):
        for p, ms in zip(ours, alone, strict=True):
            p.grad = torch.randn(p.shape, generator=g)
            for m, grad in zip(ms, p.grad if p.ndim == 3 else [p.grad], strict=True):
                m.grad = grad.clone()
        muon.step(), peer.step()
    for p, ms, old in zip(ours, alone, before, strict=True):
        moved, want = p - old, torch.stack([m.detach() for m in ms]).view(p.shape) - old
        assert (moved - want).norm() <= 1e-5 * want.norm(), p.shape


@pytest.mark.parametrize("dtype,off", [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_orthogonalized_matrices_keep_their_directions_at_one_size(dtype, off):
    """Against the polynomial applied to the singular values of each matrix (float64 SVD)."""
    X = torch.randn(3, 40, 70, generator=torch.Generator().manual_seed(0))
    U, s, Vh = torch.linalg.svd(X.double() / X.double().norm(dim=(1, 2), keepdim=True), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    found = orthogonalize(X, dtype)
    assert found.dtype == dtype and 0.6 < float(s.min()) and float(s.max()) < 1.3
    assert (found - U @ s.diag_embed() @ Vh).norm() < off * s.norm()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_go_on_from_their_saved_states(name):
    """Two steps, saved; the third is that of those which were not."""
    def steps(model, optimizers, first, last):
        for i in range(first, last):
            for j, p in enumerate(model.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * i + j))
            apply_gradients(ALONE, list(model.parameters()), optimizers, lr=0.01)

    whole, stopped = tiny(), tiny()
    steps(whole, make_optimizers(whole, name=name), 0, 3)
    optimizers = make_optimizers(stopped, name=name)
    steps(stopped, optimizers, 0, 2)
    again = tiny()
    again.load_state_dict(stopped.state_dict())
    steps(again, make_optimizers(again, name=name, saved=[o.state_dict() for o in optimizers]), 2, 3)
    assert all(map(torch.equal, whole.parameters(), again.parameters()))
    assert not all(map(torch.equal, whole.parameters(), stopped.parameters()))


def test_every_number_of_ranks_makes_the_same_weights(tmp_path):
    """From one summed gradient, over three steps, bit for bit; and each rank does its share of the work."""
    code = """
import torch, optim
from config import PRESETS, ModelConfig
from model import Transformer
from parallel import setup
ranks = setup("{device}")
model = Transformer(ModelConfig(**PRESETS["tiny"])).init_weights()
muon, g, done = optim.make_optimizers(model, ranks, lr=0.01)[1], torch.Generator().manual_seed(0), []
plain = optim.orthogonalize
optim.orthogonalize = lambda x, dtype: done.append(x.numel() * x.shape[1]) or plain(x, dtype)
for step in range(3):
    for p in muon.param_groups[0]["params"]:
        p.grad = torch.randn(p.shape, generator=g)
    muon.step()
torch.save([sum(done), *model.state_dict().values()], "{out}" + str(ranks.rank))
"""
    runs = []
    for world in (1, 2, 3):
        python(code.format(device=f"cpu:{world}", out=tmp_path / f"w{world}-"))
        runs.append([torch.load(tmp_path / f"w{world}-{rank}") for rank in range(world)])
    (work, *alone), = runs[0]
    for several in runs[1:]:
        assert sum(done for done, *_ in several) == work
        assert max(done for done, *_ in several) < 1.05 * work / len(several)
        for _, *weights in several:
            assert all(torch.equal(a, b) for a, b in zip(weights, alone, strict=True))


def test_buckets_are_sorted_by_shape_and_bounded(monkeypatch):
    monkeypatch.setattr(optim, "BUCKET", 100)
    params = [torch.empty(s) for s in [(4, 10), (10, 4), (2, 4, 10), (3, 3), (4, 10)]]
    found = [[tuple(p.shape) for p in bucket] for bucket in buckets(params)]
    assert found == [[(3, 3), (4, 10), (10, 4)], [(2, 4, 10)], [(4, 10)]]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_every_matrix_once_at_about_equal_cost(world):
    shapes = [torch.Size(s) for s in [(9, 2, 6), (1, 4, 4), (3, 4, 4), (2, 5, 8)]]
    shares = [share(shapes, Ranks(r, world, "cpu")) for r in range(world)]
    everything = sorted(run for mine in shares for run in mine)
    assert [first for first, _, _ in everything] == [0, *(last for _, last, _ in everything[:-1])]
    assert everything[-1][1] == sum(s.numel() for s in shapes)
    cost = [sum((last - first) * rows for first, last, (rows, _) in mine) for mine in shares]
    assert max(cost) - min(cost) <= 2 * 5 * 5 * 8  # a matrix of the costliest kind at each end
    assert all(len({shape for *_, shape in mine}) == len(mine) for mine in shares)


def test_products_are_in_bfloat16_only_where_hardware_multiplies_it(monkeypatch):
    assert product_dtype("cuda:0") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert product_dtype("cpu") == torch.float32


def tiny(**changes):
    return Transformer(ModelConfig(**PRESETS["tiny"] | dict(num_hidden_layers=2) | changes)).init_weights()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(value):
    """Neither weights nor the optimizers' state; the next finite one steps as if the other had not been."""
    models = [tiny(), tiny()]
    sets = [make_optimizers(m, lr=0.01) for m in models]

    def step(which, broken):
        parameters = list(models[which].parameters())
        for i, p in enumerate(parameters):
            p.grad = torch.full_like(p, 0.01 * i)
        if broken:
            parameters[3].grad.view(-1)[0] = value
        return apply_gradients(ALONE, parameters, sets[which], 0.01)

    assert math.isfinite(step(0, False)) and math.isfinite(step(1, False))
    before = [p.detach().clone() for p in models[0].parameters()]
    assert not math.isfinite(step(0, True))
    assert all(map(torch.equal, models[0].parameters(), before))
    assert not any(p.grad.any() for p in models[0].parameters())
    step(0, False), step(1, False)
    assert all(map(torch.equal, *(m.parameters() for m in models)))


@pytest.mark.parametrize("why,advice", [("gradient", "lower --lr"), ("reward", "correct the reward")])
def test_five_steps_in_a_row_that_were_skipped_are_the_end_and_say_what_to_try(why, advice):
    model, bad, in_a_row = tiny(), [{"why": why, "rows": [7]}], 0
    in_a_row = count_skipped(model, [1, 2, 3], ALONE, bad, in_a_row)
    assert in_a_row == 1 and count_skipped(model, [1, 2, 3], ALONE, [], in_a_row) == 0
    for _ in range(3):
        in_a_row = count_skipped(model, [1, 2, 3], ALONE, bad * 2, in_a_row)
    with pytest.raises(Diverged, match=f"5 steps in a row .* its {why} is NaN .*{advice}"):
        count_skipped(model, [1, 2, 3], ALONE, bad, in_a_row)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("score", [False, True])
def test_a_broken_model_is_seen_at_once_and_not_saved_over_a_good_one(value, score, tmp_path):
    """1e30 is a number, and what the layers make of it is none."""
    model = tiny()
    if score:
        from preference import with_score_head

        with_score_head(model)
    assert is_sound(model, [1, 2, 3])
    save_model(model, tmp_path)
    model.layers[1].mlp.experts.down_proj.data.fill_(value)
    assert not is_sound(model, [1, 2, 3])
    with pytest.raises(Diverged, match="NaN or infinite"):
        count_skipped(model, [1, 2, 3], ALONE, [{"why": "loss", "rows": []}], 0)
    if not math.isfinite(value):
        with pytest.raises(Diverged, match="not saved"):
            save_model(model, tmp_path)
    assert all(p.isfinite().all() for p in load_model(tmp_path).parameters())
    assert all(p.grad is None for p in model.parameters())  # the look leaves no gradient behind
