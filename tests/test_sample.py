"""The rollout engine against the full forward pass, and its invariances."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from batch import Sample, collate, completion_logprobs
from config import Diverged, ModelConfig, UserError
from data.tokenizer import shipped
from kernels import experts_dense, token_logprobs
from model import Transformer
from moe import Routing
from sample import (
    Rollout,
    _Engine,
    generate,
    generate_plain,
    kept_ids,
    pack_bits,
    printer,
    sample_tokens,
)

SHAPE = dict(vocab_size=60, hidden_size=32, num_attention_heads=2, num_hidden_layers=3, intermediate_size=48,
    moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.3, max_position_embeddings=160)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=40, mscale=1.0, mscale_all_dim=1.0)
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11, 12], [13, 14], [3, 4, 5]]
EOS = 2


def model(**overrides):
    return Transformer(ModelConfig(**SHAPE | overrides)).init_weights(1)


def run(m, prompts=PROMPTS, **kwargs) -> Rollout:
    return generate(m, prompts, **dict(group_size=3, max_new_tokens=40, eos_id=EOS, seed=5) | kwargs)


SHAPES = [{}, {"q_lora_rank": 10}, {"first_k_dense_replace": 3}, {"rope_scaling": YARN},
    {"n_group": 4, "topk_group": 2}, {"tie_word_embeddings": True}, {"attention_bias": True},
    {"n_shared_experts": 0}, {"model_type": "glm4_moe", "num_key_value_heads": 1, "head_dim": 12},
    {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16}]
GQA = {"model_type": "qwen3_moe", "num_key_value_heads": 2, "head_dim": 12, "num_attention_heads": 4}


@pytest.mark.parametrize("overrides", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollout_logprobs_equal_those_of_the_full_forward(overrides, temperature):
    """Cached, absorbed, shared-prefix decoding with rows leaving = the naive forward pass over the whole
    sequence."""
    m = model(**overrides)
    out = run(m, temperature=temperature)
    assert len({len(c) for c in out.completions}) > 1  # rows do leave at different steps
    for i, (completion, logprobs) in enumerate(zip(out.completions, out.logprobs, strict=True)):
        prompt = PROMPTS[i // 3]
        tokens = torch.tensor([prompt + completion])
        with torch.no_grad():
            hidden = m.hidden(tokens[:, :-1])
            want, _ = token_logprobs(hidden, m.lm_head.weight, tokens[:, 1:], temperature)
        assert (want[0, len(prompt) - 1 :] - torch.tensor(logprobs)).abs().max() <= 1e-4


def same(a: Rollout, b: Rollout):
    assert a.completions == b.completions and a.finished == b.finished
    for mine, theirs in zip(a.logprobs, b.logprobs, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("overrides,top_p", [({}, 1.0), ({"first_k_dense_replace": 3}, 0.8), (GQA, 1.0)])
def test_the_engine_gives_what_the_plain_loop_gives(overrides, top_p):
    m, order = model(**overrides), [4, 0, 2, 1, 3]
    settings = dict(group_size=2, max_new_tokens=20, eos_id=EOS, seed=5, top_p=top_p, temperature=0.9,
        prompt_ids=order, record_routing=True, record_kept=True)
    fast, plain = generate(m, PROMPTS, **settings), generate_plain(m, PROMPTS, **settings)
    assert any(fast.finished) and not all(fast.finished)
    same(fast, plain)
    for mine, theirs in zip(fast.routing, plain.routing, strict=True):
        assert mine is theirs is None or (mine == theirs).all()
    for mine, theirs, tokens in zip(fast.kept, plain.kept, fast.completions, strict=True):
        if top_p == 1:
            assert mine is theirs is None
            continue
        assert (mine[0] == theirs[0]).all() and (mine[1] == theirs[1]).all() and len(mine[0]) == len(tokens)
        sets = np.split(mine[1], mine[0].cumsum()[:-1])
        assert all(token in could for token, could in zip(tokens, sets, strict=True))


@pytest.mark.parametrize("shape", [{"q_lora_rank": 10, "rope_scaling": YARN}, GQA])
def test_picor1_plain_runs_no_fast_form_and_changes_only_rounding(shape, monkeypatch):
    m = model(**shape)

    def rollout_and_pass():
        out = run(m, PROMPTS[:3], group_size=2, max_new_tokens=15)
        samples = [Sample(PROMPTS[i // 2] + c, len(PROMPTS[i // 2]), p, True, None, {}, 0)
            for i, (c, p) in enumerate(zip(out.completions, out.logprobs, strict=True))]
        batch = collate(samples, 0, "cpu")
        m.zero_grad()
        routing = Routing(mask=batch.inputs(), balance=True)
        logprobs, entropy = completion_logprobs(m, batch, 0.7, routing)
        loss = (logprobs * torch.linspace(-1, 1, logprobs.shape[1])).sum() + sum(routing.balance_losses)
        loss.backward()
        return out, [logprobs, entropy, loss, m.hidden(batch.completions), *(p.grad for p in m.parameters())]

    fast, numbers = rollout_and_pass()
    monkeypatch.setenv("PICOR1_PLAIN", "1")
    assert runpy.run_path(str(Path(kernels.__file__)))["PLAIN"] and not kernels.PLAIN
    monkeypatch.setattr(kernels, "PLAIN", True)
    for name in ("kernels._RMSNorm", "kernels._Linear", "kernels._Embedding", "kernels._TokenLogprobs",
            "kernels._RopeHalf", "mla.mla_attention", "mla.MLA.decode", "gqa.gqa_attention",
            "gqa.GQA.decode", "moe.experts_grouped", "sample._Engine"):
        monkeypatch.setattr(name, None)
    plain, again = rollout_and_pass()
    same(fast, plain)
    for a, b in zip(numbers, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_top_p_logprobs_are_under_the_renormalised_distribution():
    m = model()
    out = run(m, top_p=0.5)
    for i, (completion, logprobs) in enumerate(zip(out.completions, out.logprobs, strict=True)):
        prompt = PROMPTS[i // 3]
        probs = m(torch.tensor([prompt + completion[:-1]]))[0, len(prompt) - 1 :].softmax(-1).detach()
        for p, token, logprob in zip(probs, completion, logprobs, strict=True):
            kept = p[p >= p[token]].sum() if logprob == 0 else None
            ordered = p.sort(descending=True).values
            size = int((ordered.cumsum(0) < 0.5).sum()) + 1
            assert p[token] >= ordered[size - 1] and (kept is None or kept >= p[token])
            assert abs(float((p[token] / ordered[:size].sum()).log()) - logprob) < 1e-4


def test_eos_is_kept_and_ends_a_row():
    out = run(model())
    assert any(out.finished) and not all(out.finished)
    for completion, logprobs, finished in zip(out.completions, out.logprobs, out.finished, strict=True):
        assert (finished == (completion[-1] == EOS) and EOS not in completion[:-1] and len(completion)
            == len(logprobs))
        assert finished or len(completion) == 40


def test_several_end_tokens_all_end_a_row():
    """Llama 3 and Qwen have two or three."""
    ends = [EOS, 17, 40]
    out = run(model(), eos_id=ends)
    assert all(finished == (c[-1] in ends) and not set(ends) & set(c[:-1])
        for c, finished in zip(out.completions, out.finished, strict=True))
    assert len({c[-1] for c, finished in zip(out.completions, out.finished, strict=True) if finished}) > 1
    same(out, run(model(), eos_id=tuple(reversed(ends))))


def test_no_eos_runs_to_the_end():
    out = run(model(), eos_id=None)
    assert {len(c) for c in out.completions} == {40} and not any(out.finished)


def test_batch_order_and_neighbours_change_nothing(monkeypatch):
    m, order = model(), [4, 2, 0, 3, 1]
    whole = run(m)
    shuffled = run(m, [PROMPTS[i] for i in order], prompt_ids=order)
    alone = [run(m, [PROMPTS[i]], prompt_ids=[i]) for i in range(5)]
    monkeypatch.setattr("sample.ROWS_AT_ONCE", 6)
    waves = run(m)
    for i in range(5):
        want = whole.completions[3 * i : 3 * i + 3]
        at = order.index(i)
        assert shuffled.completions[3 * at : 3 * at + 3] == want == alone[i].completions
        assert waves.completions[3 * i : 3 * i + 3] == want


def test_waiting_prompts_take_the_places_of_finished_rows(monkeypatch):
    """With 6 places and 3 samples per prompt the next prompt starts as soon as 3 rows have finished."""
    monkeypatch.setattr("sample.ROWS_AT_ONCE", 6)
    sizes, m = [], model()
    decode = m.decode
    monkeypatch.setattr(m, "decode", lambda t, cohorts, r=None: sizes.append(
        [(len(c), c.t) for c in cohorts]) or decode(t, cohorts, r))
    run(m)
    assert any(len(step) > 1 for step in sizes) and all(sum(n for n, _ in step) <= 6 for step in sizes)
    assert max(len({t for _, t in step}) for step in sizes) > 1  # cohorts at different steps side by side


@pytest.fixture
def fixed_steps(monkeypatch):
    """The engine as it runs on CUDA, without recording: fixed steps, and experts that never look."""
    monkeypatch.setattr("sample._Engine.run", torch.inference_mode()(_Engine.run_fixed))
    monkeypatch.setattr("moe.experts_grouped", lambda x, *rest: experts_dense(x, *rest[:4]))


@pytest.mark.parametrize("shape", [{}, GQA])
@pytest.mark.parametrize("rows_at_once", [512, 6])
@pytest.mark.parametrize("new", [40, 100])
def test_the_steps_that_cuda_graphs_record_give_the_same_rollout(shape, rows_at_once, new, fixed_steps,
        monkeypatch):
    """Two lengths, so that the suffix is seen in one and in two sizes; six places, so that prompts wait."""
    m = model(**shape)
    monkeypatch.setattr("sample.ROWS_AT_ONCE", rows_at_once)
    settings = dict(max_new_tokens=new, record_routing=True, top_p=0.9, record_kept=True)
    fixed = run(m, **settings)
    monkeypatch.undo()
    plain = run(m, **settings)
    same(fixed, plain)
    assert all(np.array_equal(a, b) for x, y in zip(fixed.kept, plain.kept, strict=True)
        for a, b in zip(x, y, strict=True))
    assert all((a == b).all() for a, b in zip(fixed.routing, plain.routing, strict=True))


@pytest.mark.parametrize("shape", [{}, GQA])
def test_fixed_steps_are_the_same_operations_each_time_and_never_look_at_a_result(shape, fixed_steps,
        monkeypatch):
    """What makes a step fit for recording: between two changes of shape every step calls the same operations
    on the same shapes, and none returns a tensor's value, or a shape that depends on it, to Python."""
    steps, step = [], _Engine.fixed_step

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select")), name
            steps[-1].append((name, [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
            return func(*args, **(kwargs or {}))

    def spied(self, cohort):
        steps.append([(cohort.seen, len(cohort))])
        with Spy():
            step(self, cohort)

    monkeypatch.setattr("sample._Engine.fixed_step", spied)
    run(model(**shape), max_new_tokens=100, eos_id=[EOS, 17, 40], top_p=0.9, record_kept=True)
    assert len({s[0] for s in steps}) > 3  # the suffix grew and rows left
    for before, after in zip(steps, steps[1:], strict=False):
        assert len(before) > 50 and (before[0] != after[0] or before == after)


def test_seeds_repeat_and_differ_and_samples_of_a_group_differ():
    m = model()
    assert run(m).completions == run(m).completions != run(m, seed=6).completions
    assert run(m, seed=None).completions != run(m, seed=None).completions
    first = run(m)
    assert first.completions[0] != first.completions[1] and first.completions[:3] != first.completions[12:]


def test_greedy_is_the_argmax_of_the_full_forward():
    m = model()
    out = run(m, group_size=1, temperature=0.0)
    for prompt, completion in zip(PROMPTS, out.completions, strict=True):
        logits = m(torch.tensor([prompt + completion[:-1]]))[0, len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == completion


@pytest.mark.parametrize("experts", [8, 300])  # more than a byte can number
def test_recorded_experts_are_those_of_the_full_forward(experts):
    m = model(n_routed_experts=experts)
    out = run(m, record_routing=True)
    assert max(int(r.max()) for r in out.routing) > min(experts - 30, 6)
    for i, completion in enumerate(out.completions):
        tokens = PROMPTS[i // 3] + completion
        routing = Routing()
        m.hidden(torch.tensor([tokens[:-1]]), routing)
        want = torch.stack(routing.indices, dim=2)[0].sort(-1).values
        assert torch.equal(torch.from_numpy(out.routing[i]).long().sort(-1).values, want)


def test_any_of_several_end_tokens_ends_a_completion():
    """The first of them that is sampled: the row is finished and keeps it, in both engines."""
    m, prompts = model(), [[1, 2, 3], [4, 5]]
    settings = dict(group_size=4, max_new_tokens=30, seed=5)
    free = generate(m, prompts, eos_id=None, **settings).completions
    ends = (free[0][7], free[3][4])
    out = generate(m, prompts, eos_id=ends, **settings)
    plain = generate_plain(m, prompts, eos_id=list(ends), **settings)
    places = [min((row.index(e) + 1 for e in ends if e in row), default=30) for row in free]
    assert out.completions == plain.completions == [row[:n] for row, n in zip(free, places, strict=True)]
    assert out.finished == plain.finished == [any(e in row for e in ends) for row in free]
    assert {row[-1] for row, end in zip(out.completions, out.finished, strict=True) if end} == {*ends}


@pytest.mark.parametrize("tags", ["", "<|open|> <|close|>"])
def test_thinking_without_tokens_of_its_own_is_hidden_as_well(tags):
    """Spelled out, token by token: what may become a tag waits, and is shown if it does not."""
    tok = shipped(tags)
    text = "".join(tok.decode([i]) for i in tok.encode("<think>1 < 2</think>\n1 < 2 <thin ok<", tags=True))
    for stream in (tok.encode(text), tok.encode(text, tags=True)):
        written = []
        show = printer(tok, False, False, written.append)
        for i in stream:
            show([i])
        show([])
        assert "".join(written) == "1 < 2 <thin ok<"


@pytest.mark.parametrize("prompts,new,message", [([[1] * 150], 20, "does not fit"), ([[]], 5, "empty"),
    ([], 5, "empty")])
def test_prompts_that_do_not_fit_are_refused(prompts, new, message):
    with pytest.raises(UserError, match=message):
        generate(model(), prompts, max_new_tokens=new, eos_id=EOS)


@pytest.mark.parametrize("tags", ["", "<|startofthought|> <|endofthought|>"])
def test_hidden_thinking_is_not_printed_and_the_rest_streams_as_it_comes(tags):
    tok = shipped(tags)
    ids = tok.encode("<think>1+2=3 \u00e9\nok</think>\n<answer>1 + \u00e9</answer>", tags=True)
    for show, inside, stream, want in [
            (False, False, ids, "<answer>1 + \u00e9</answer>"), (True, False, ids, tok.decode(ids)),
            (False, True, ids[1:], "<answer>1 + \u00e9</answer>"),  # the prompt has opened the thinking
            (False, True, ids[1:6], ""), (False, False, tok.encode("plain  text"), "plain  text")]:
        written = []
        write = printer(tok, show, inside, written.append)
        for i in [*stream, tok.eos_id]:
            write([i])
        assert "".join(written) == want
        assert len(written) > 3 or not want  # token by token, not in one piece


@pytest.mark.parametrize("temperature,top_p", [(1.0, 1.0), (0.8, 1.0), (1.0, 0.7), (1.3, 0.5)])
def test_sampling_follows_the_distribution_that_it_reports(temperature, top_p):
    torch.manual_seed(0)
    logits, n = torch.randn(6) * 2, 200_000
    probs = (logits / temperature).softmax(-1)
    order = probs.argsort(descending=True)
    kept = order[: int((probs[order].cumsum(0) < top_p).sum()) + 1]
    want = torch.zeros(6).scatter(0, kept, probs[kept]) / probs[kept].sum()
    tokens, logprobs = sample_tokens(logits.expand(n, 6), torch.rand(n), temperature, top_p)
    share = torch.bincount(tokens, minlength=6) / n
    assert (share - want).abs().max() < 5 * (0.25 / n) ** 0.5
    torch.testing.assert_close(logprobs, want.log()[tokens], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("V", [5, 8, 512, 1001])
def test_kept_tokens_come_back_from_their_bytes(V):
    kept = torch.rand(20, V) < 0.2
    kept[3] = False
    counts, ids = kept_ids(pack_bits(kept))
    assert counts.tolist() == kept.sum(1).tolist() and ids.tolist() == kept.nonzero()[:, 1].tolist()


@pytest.mark.parametrize("V", [2048, 5000])
def test_sampling_from_a_large_vocabulary_goes_through_blocks(V):
    """Tokens in order of the cdf: the same inversion as over the whole vocabulary, up to rounding."""
    torch.manual_seed(V)
    logits, uniform = torch.randn(300, V) * 3, torch.rand(300)
    logits[:, 7:1500] = float("-inf")
    tokens, logprobs = sample_tokens(logits, uniform)
    probs = logits.double().softmax(-1)
    below = probs.cumsum(-1).gather(1, tokens[:, None]).squeeze(1)
    mine = probs.gather(1, tokens[:, None]).squeeze(1)
    assert ((below >= uniform - 1e-5) & (below - mine <= uniform + 1e-5) & (mine > 0)).all()
    torch.testing.assert_close(logprobs.double(), mine.log(), rtol=1e-4, atol=1e-4)


def test_sampling_never_returns_a_token_without_probability():
    logits = torch.tensor([[0.0, -1e9, 1.0, -1e9, 0.5, -1e9]]).expand(1000, 6)
    edge = torch.cat([torch.zeros(1), torch.full((1,), 1 - 2**-24), torch.rand(998)])
    tokens, logprobs = sample_tokens(logits, edge)
    assert set(tokens.tolist()) <= {0, 2, 4} and torch.isfinite(logprobs).all()


def test_greedy_takes_the_largest_logit():
    logits = torch.randn(20, 7)
    assert torch.equal(sample_tokens(logits, torch.rand(20), 0.0)[0], logits.argmax(-1))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("temperature,top_p", [(1.0, 1.0), (1.0, 0.8), (0, 1.0)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value, temperature, top_p, plain, monkeypatch):
    monkeypatch.setattr(kernels, "PLAIN", plain)
    m, settings = model(), dict(temperature=temperature, top_p=top_p, max_new_tokens=8)
    run(m, **settings)
    m.layers[0].self_attn.o_proj.weight.data[0] = value
    with pytest.raises(Diverged, match="logits are NaN or infinite"):
        run(m, **settings)


def test_logits_that_are_not_finite_are_refused_with_a_large_vocabulary():
    logits = torch.full((2, 5000), math.nan)
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.0, 0.9]))
    assert tokens.max() < 5000 and logprobs.isnan().all()  # no index out of bounds; `generate` sees the NaN


@pytest.mark.parametrize("settings,says", [(dict(temperature=-1), "temperature -1: must be at least 0"),
    (dict(temperature=math.nan), "finite"), (dict(top_p=0), "above 0"), (dict(top_p=1.5), "at most 1"),
    (dict(max_new_tokens=0), "max_new_tokens 0: must be at least 1")])
def test_settings_out_of_their_range_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        run(model(), **settings)
