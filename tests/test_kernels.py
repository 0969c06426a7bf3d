"""Every fused operation equals its plain form, in values and gradients, at odd sizes."""

import pytest
import torch

import attention
import kernels
import moe
from attention import mla_attention, mla_attention_fused
from config import ModelConfig
from kernels import (
    experts_grouped,
    reverse_kl,
    reverse_kl_plain,
    rms_norm,
    rms_norm_plain,
    token_logprobs,
    token_logprobs_plain,
)
from moe import experts_plain
from optim import _add_to_master
from sample import sample_tokens


def grads(output, inputs, weight):
    return torch.autograd.grad((output * weight).sum(), inputs)


@pytest.mark.parametrize("shape,V,chunk", [((1,), 5, 1), ((3, 7), 11, 4), ((2, 5), 64, 100), ((13,), 33, 13)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_equal_plain_values_and_gradients(shape, V, chunk, temperature):
    torch.manual_seed(0)
    hidden, head = torch.randn(*shape, 6, requires_grad=True), torch.randn(V, 6, requires_grad=True)
    targets, upstream = torch.randint(V, shape), torch.randn(shape)
    fast, fast_entropy = token_logprobs(hidden, head, targets, temperature, chunk)
    plain, plain_entropy = token_logprobs_plain(hidden, head, targets, temperature)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(fast_entropy, plain_entropy)
    for a, b in zip(grads(fast, (hidden, head), upstream), grads(plain, (hidden, head), upstream),
            strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape,V,chunk", [((3, 7), 11, 4), ((2, 5), 64, 100), ((13,), 33, 13)])
@pytest.mark.parametrize("plain", [False, True])
def test_token_logprobs_over_allowed_tokens_are_a_softmax_over_them(shape, V, chunk, plain, monkeypatch):
    """Values, entropies and gradients, against logits with -inf elsewhere and autograd, in float64."""
    monkeypatch.setattr(kernels, "PLAIN", plain)
    torch.manual_seed(0)
    hidden, head = torch.randn(*shape, 6, requires_grad=True), torch.randn(V, 6, requires_grad=True)
    targets, upstream = torch.randint(V, shape), torch.randn(shape)
    allowed = torch.rand(*shape, V) < 0.3
    allowed.scatter_(-1, targets[..., None], True)
    pairs = allowed.flatten(0, -2).nonzero(as_tuple=True)
    found, entropy = token_logprobs(hidden, head, targets, 0.7, chunk, pairs)
    x, w = (t.detach().double().requires_grad_() for t in (hidden, head))
    exact = (x @ w.T / 0.7).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    want = exact.gather(-1, targets[..., None]).squeeze(-1)
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), torch.distributions.Categorical(logits=exact).entropy(),
        rtol=1e-5, atol=1e-5)
    for a, b in zip(grads(found, (hidden, head), upstream), grads(want, (x, w), upstream), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def bf16_head(V=320, D=256):
    """A head whose weight is packed in a rollout, states, and their logits in float64."""
    g = torch.Generator().manual_seed(0)
    head = kernels.Head(D, V, bias=False, dtype=torch.bfloat16)
    head.weight.data.normal_(generator=g)
    hidden = torch.randn(3, 7, D, generator=g).bfloat16().requires_grad_()
    return head, hidden, (hidden.double() @ head.weight.double().T).detach()


@pytest.mark.parametrize("way", ["training", "packed", "plain"])
def test_a_bfloat16_models_logits_are_never_rounded_to_bfloat16(way, monkeypatch):
    head, hidden, exact = bf16_head()
    monkeypatch.setattr(kernels, "PLAIN", way == "plain")
    with torch.set_grad_enabled(way != "packed"):
        if way == "packed":
            head.pack()
            assert (head.packed is not None) == torch.backends.mkldnn.is_available()
        logits = head(hidden)
    assert logits.dtype == torch.float32 and (logits - exact).abs().max() < 1e-5 * exact.abs().max()
    if way != "packed":
        upstream = torch.randn_like(logits)
        for got, want in zip(grads(logits, (hidden, head.weight), upstream),
                (upstream.double() @ head.weight.double(), torch.einsum("btv,btd->vd", upstream.double(),
                hidden.double())), strict=True):
            torch.testing.assert_close(got.double(), want, rtol=5e-3, atol=1e-3)  # rounded once, to bfloat16


@pytest.mark.parametrize("chunk", [5, 100])
def test_a_bfloat16_models_sampler_and_trainer_compute_the_same_logprobs(chunk):
    head, hidden, exact = bf16_head()
    with torch.no_grad():
        tokens, sampled = sample_tokens(head(hidden.flatten(0, 1)), torch.rand(21), 4.0)
    logprobs, _ = token_logprobs(hidden, head.weight, tokens.view(3, 7), 4.0, chunk)
    want = (exact / 4).log_softmax(-1).flatten(0, 1).gather(1, tokens[:, None]).view(3, 7)
    for found in (sampled.view(3, 7), logprobs):
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [4, 200])
def test_a_bfloat16_models_vocabulary_gets_its_gradient_in_float32(tokens):
    """Of the head, and of the embedding of few and of many tokens, tied: added in the master's gradient."""
    head, hidden, _ = bf16_head()
    weight, g = head.weight, torch.Generator().manual_seed(1)
    ids, upstream = torch.randint(320, (2, tokens), generator=g), torch.randn(2, tokens, generator=g)
    weight.master = torch.nn.Parameter(weight.detach().float())
    weight.master.grad = torch.zeros_like(weight.master)
    weight.register_post_accumulate_grad_hook(_add_to_master)
    (token_logprobs(kernels.embed(ids, weight), weight, ids, 4.0, 5)[0] * upstream).sum().backward()
    states = torch.nn.functional.embedding(ids, weight.detach()).double().requires_grad_()
    exact = weight.detach().double().requires_grad_()
    logp = (states @ exact.T / 4).log_softmax(-1).gather(2, ids[..., None]).squeeze(2)
    (logp * upstream).sum().backward()
    by_state = torch.zeros_like(exact).index_add_(0, ids.flatten(),
        states.grad.flatten(0, 1).bfloat16().double())  # the states' gradient is bfloat16, as they are
    want = exact.grad + by_state
    off = (weight.master.grad - want).norm() / want.norm()
    assert weight.grad is None and off < 3e-4, off  # rounded to bfloat16 at the end: 1e-3


def test_token_logprobs_temperature_scales_the_logits():
    hidden, head = torch.randn(4, 6), torch.randn(9, 6)
    targets = torch.randint(9, (4,))
    at_half, _ = token_logprobs(hidden, head, targets, 0.5)
    doubled, _ = token_logprobs(2 * hidden, head, targets, 1.0)
    at_one, _ = token_logprobs(hidden, head, targets, 1.0)
    torch.testing.assert_close(at_half, doubled)
    assert (at_half - at_one).abs().max() > 0.1


def test_entropy_is_that_of_the_distribution_not_the_sampled_nll():
    hidden, head = torch.randn(50, 6), torch.randn(9, 6)
    logprobs, entropy = token_logprobs(hidden, head, torch.randint(9, (50,)))
    exact = torch.distributions.Categorical(logits=hidden @ head.T).entropy()
    torch.testing.assert_close(entropy, exact)
    assert (entropy + logprobs).abs().max() > 0.1
    uniform = token_logprobs(torch.zeros(1, 6), head, torch.tensor([3]))[1]
    torch.testing.assert_close(uniform, torch.tensor([9.0]).log())


def two_heads(N=13, V=33):
    """Hidden states and head of a student, and of a wider teacher, over the same V ids."""
    g = torch.Generator().manual_seed(N)
    x, W, y, U = (torch.randn(*shape, generator=g) for shape in ((N, 6), (V, 6), (N, 9), (V, 9)))
    return x.requires_grad_(), W.requires_grad_(), y, U


@pytest.mark.parametrize("N,V,chunk", [(1, 5, 1), (13, 33, 13), (13, 33, 4), (21, 64, 1)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_reverse_kl_equals_torchs_kl_div_values_and_gradients(N, V, chunk, temperature):
    x, W, y, U = two_heads(N, V)
    logp, logq = (x @ W.T / temperature).log_softmax(-1), (y @ U.T / temperature).log_softmax(-1)
    want = torch.nn.functional.kl_div(logq, logp, reduction="none", log_target=True).sum(-1)
    upstream = torch.randn(N)
    for found in (reverse_kl(x, W, y, U, temperature, chunk), reverse_kl_plain(x, W, y, U, temperature)):
        torch.testing.assert_close(found, want)
        for a, b in zip(grads(found, (x, W), upstream), torch.autograd.grad((want * upstream).sum(), (x, W),
                retain_graph=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_reverse_kl_equals_trls_gkd_loss(temperature):
    trl = pytest.importorskip("trl.experimental.gkd.gkd_trainer", reason="oracle: requirements-oracles.txt")
    x, W, y, U = two_heads(12)
    labels = torch.tensor([[1, 1, -100, 1, -100, 1]] * 2)
    theirs = trl.GKDTrainer.generalized_jsd_loss((x @ W.T).view(2, 6, -1), (y @ U.T).view(2, 6, -1), labels,
        beta=1, temperature=temperature)
    kl = reverse_kl(x, W, y, U, temperature, chunk=5)[labels.flatten() != -100]
    torch.testing.assert_close(kl.mean(), theirs)  # its batchmean is over the labelled tokens
    for a, b in zip(torch.autograd.grad(kl.mean(), (x, W)), torch.autograd.grad(theirs, (x, W)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_reverse_kl_is_least_where_student_and_teacher_agree_and_is_not_the_forward_one():
    x, W, y, U = two_heads()
    same = reverse_kl(x, W, x.detach(), W.detach())
    assert same.abs().max() < 1e-6 and max(g.abs().max() for g in grads(same, (x, W), 1.0)) < 1e-6
    kl, forward = reverse_kl(x, W, y, U), reverse_kl(y, U, x.detach(), W.detach())
    assert kl.min() > 0 and (kl - forward).abs().max() > 0.1


@pytest.mark.parametrize("chunk", [5, 100])
def test_reverse_kl_of_bfloat16_models_is_of_logits_that_were_never_rounded(chunk):
    """And the head's gradient is added to its master's, in float32."""
    head, hidden, exact = bf16_head()
    other, theirs, _ = bf16_head(D=192)
    W, want_W = head.weight, head.weight.detach().double().requires_grad_()
    W.master = torch.nn.Parameter(W.detach().float())
    W.master.grad = torch.zeros_like(W.master)
    logq = (theirs.double() @ other.weight.double().T / 4).log_softmax(-1).detach()
    logp = (hidden.detach().double() @ want_W.T / 4).log_softmax(-1)
    want = (logp.exp() * (logp - logq)).sum(-1)
    kl = reverse_kl(hidden, W, theirs.detach(), other.weight.detach(), 4.0, chunk)
    torch.testing.assert_close(kl.double(), want, rtol=1e-4, atol=1e-5)
    kl.sum().backward(), want.sum().backward()
    assert (W.master.grad - want_W.grad).norm() < 1e-4 * want_W.grad.norm() and W.grad is None


@pytest.mark.parametrize("V", [40, 5])
def test_the_vocabularys_gradients_are_added_in_place_where_there_is_one(V):
    """Embedding and head of one tied matrix, over two passes; few tokens of 40 ids, many of 5."""
    weight, tied = (torch.nn.Parameter(torch.randn(V, 6, generator=torch.Generator().manual_seed(V)))
        for _ in range(2))
    weight.grad = torch.zeros_like(weight)
    place = weight.grad.data_ptr()
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, min(V, 4), (1, 4), generator=g)
        kernels.token_logprobs(kernels.embed(tokens, weight), weight, tokens, chunk=3)[0].sum().backward()
        token_logprobs_plain(torch.nn.functional.embedding(tokens, tied), tied, tokens)[0].sum().backward()
    torch.testing.assert_close(weight.grad, tied.grad, rtol=1e-4, atol=1e-5)
    assert weight.grad.data_ptr() == place


@pytest.mark.parametrize("N,K,E", [(1, 1, 4), (17, 2, 5), (6, 3, 9), (64, 4, 4)])
def test_grouped_experts_equal_the_loop(N, K, E):
    torch.manual_seed(N)
    x, up = torch.randn(N, 8, requires_grad=True), torch.randn(E, 12, 8, requires_grad=True)
    down = torch.randn(E, 8, 6, requires_grad=True)
    indices = torch.stack([torch.randperm(E)[:K] for _ in range(N)])
    weights = torch.rand(N, K, requires_grad=True)
    inputs = (x, up, down, weights)
    fast, plain = experts_grouped(*inputs, indices), experts_plain(*inputs, indices)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(fast)
    for a, b in zip(grads(fast, inputs, upstream), grads(plain, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("N,K,E", [(1, 1, 4), (17, 2, 5)])
def test_dense_experts_equal_the_loop(N, K, E):
    x, up, down = torch.randn(N, 8), torch.randn(E, 12, 8), torch.randn(E, 8, 6)
    indices = torch.stack([torch.randperm(E)[:K] for _ in range(N)])
    inputs = (x, up, down, torch.rand(N, K), indices)
    torch.testing.assert_close(kernels.experts_dense(*inputs), experts_plain(*inputs), rtol=1e-4, atol=1e-5)


def test_experts_that_no_token_chose_get_zero_gradient():
    x, up, down = torch.randn(5, 4), torch.randn(6, 8, 4, requires_grad=True), torch.randn(6, 4, 4)
    out = experts_grouped(x, up, down, torch.ones(5, 2), torch.tensor([[1, 4]] * 5))
    (grad,) = torch.autograd.grad(out.sum(), up)
    assert [e for e in range(6) if grad[e].abs().sum() > 0] == [1, 4]


def attention_inputs(T, S, W=6):
    """Inputs of 2 rows and 3 heads with 8 + 4 numbers per key; the second row's prompt is a token shorter."""
    torch.manual_seed(T)
    q = torch.randn(2, T, 3, 12, requires_grad=True)
    kv = torch.randn(2, S + T, 3, 8 + W, requires_grad=True)
    k_rot, angles = torch.randn(2, S + T, 4, requires_grad=True), torch.rand(2, T, 2)
    masked = torch.tensor([[False] * S, [False] * (S - 1) + [True]]) if S else None
    return (q, kv, k_rot), (torch.polar(torch.ones_like(angles), angles), 0.3, masked)


def attend(form, inputs, rest):
    (q, kv, k_rot), (freqs, scale, masked) = inputs, rest
    return form(q, freqs, kv, k_rot, scale, masked)


@pytest.mark.parametrize("W", [6, 15])
@pytest.mark.parametrize("S", [0, 2, 50])
@pytest.mark.parametrize("T", [1, 5, 47, 48, 49, 130])
def test_blocked_attention_equals_the_fused_kernel(T, S, W):
    inputs, rest = attention_inputs(T, S, W)
    blocked, fused = (attend(form, inputs, rest) for form in (mla_attention, mla_attention_fused))
    upstream = torch.randn_like(fused)
    torch.testing.assert_close(blocked, fused)
    for a, b in zip(grads(blocked, inputs, upstream), grads(fused, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_long_sequences_take_the_fused_kernel(monkeypatch):
    inputs, rest = attention_inputs(20, 0)
    called, fused = [], mla_attention_fused
    monkeypatch.setattr(attention, "mla_attention_fused", lambda *a: called.append(1) or fused(*a))
    blocked = attend(mla_attention, inputs, rest)
    monkeypatch.setattr(attention, "LONGEST_BLOCKED", 10)
    torch.testing.assert_close(attend(mla_attention, inputs, rest), blocked)
    assert called == [1]


@pytest.mark.parametrize("shape,out", [((70, 1000), 300), ((2, 40, 1000), 50), ((1, 66_000), 3)])
def test_linear_layers_have_the_gradients_of_plain_ones(shape, out, monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN_IS_FASTER", True)  # so that it is tested everywhere
    x, linear = torch.randn(shape, requires_grad=True), kernels.Linear(shape[-1], out, bias=False)
    fast, plain = linear(x), torch.nn.functional.linear(x, linear.weight)
    inputs, upstream = (x, linear.weight), torch.randn_like(plain)
    assert type(fast.grad_fn).__name__ == "_LinearBackward" or not torch.backends.mkldnn.is_available()
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    for a, b in zip(grads(fast, inputs, upstream), grads(plain, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [64, 1024, 1000])
def test_the_operands_of_products_lie_row_behind_row(rows):
    """Also the columns of a wider tensor, MLA's latent, where no row has to be added."""
    latent = torch.randn(rows, 80)[:, :64]
    found = kernels.padded(latent)
    assert found.is_contiguous() and torch.equal(found[:rows], latent) and not found[rows:].any()


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_packed_weights_give_the_same_products_and_are_left_behind(rows):
    linear, x = kernels.Linear(300, 250), torch.randn(rows, 300)
    plain = linear(x)
    with torch.inference_mode(), kernels.packed_weights(linear):
        assert (linear.packed is not None) == torch.backends.mkldnn.is_available()
        torch.testing.assert_close(linear(x), plain.detach(), rtol=1e-4, atol=1e-4)
    assert linear.packed is None
    small = kernels.Linear(8, 8)
    with kernels.packed_weights(small):
        assert small.packed is None


@pytest.mark.parametrize("N", [1, 3, 40])
def test_packed_experts_equal_plain(N):
    experts = moe.Experts(ModelConfig(hidden_size=256, moe_intermediate_size=256, n_routed_experts=6))
    for p in experts.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, weights = torch.randn(N, 256), torch.rand(N, 2)
    indices = torch.stack([torch.randperm(5)[:2] for _ in range(N)])  # the last expert stays empty
    want = experts_plain(x, experts.gate_up_proj, experts.down_proj, weights, indices)
    with torch.inference_mode(), kernels.packed_weights(experts):
        assert (experts.packed is not None) == torch.backends.mkldnn.is_available()
        torch.testing.assert_close(experts(x, weights, indices), want.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1), (40, 128)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_equals_plain(shape, eps):
    inputs = (torch.randn(shape) * 4).requires_grad_(), torch.randn(shape[-1], requires_grad=True)
    fast, plain, upstream = rms_norm(*inputs, eps), rms_norm_plain(*inputs, eps), torch.randn(shape)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(grads(fast, inputs, upstream), grads(plain, inputs, upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rope", [kernels.rope, kernels.rope_plain])
def test_rope_turns_pairs_by_the_angle_and_keeps_lengths(rope):
    x = torch.randn(6, 4)
    angle = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.1]))
    turned = rope(x, torch.polar(torch.ones_like(angle), angle))
    a, b, c, s = x[:, 0], x[:, 1], angle[:, 0].cos(), angle[:, 0].sin()
    torch.testing.assert_close(turned[:, :2], torch.stack([a * c - b * s, a * s + b * c], dim=1))
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_equals_its_two_operations_and_keeps_neither_result(dtype):
    gate, up, grad = (torch.randn(7, 33, dtype=dtype) for _ in range(3))
    plain, ours = ([x.clone().requires_grad_() for x in (gate, up)] for _ in range(2))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = kernels.swiglu(*ours)
    assert {x.data_ptr() for x in saved} == {x.data_ptr() for x in ours}
    expected = torch.nn.functional.silu(plain[0]) * plain[1]
    for result in (out, expected):
        result.backward(grad)
    assert torch.equal(out, expected)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
