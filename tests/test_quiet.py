"""Thoughts at every position: the parallel passes against plain ones, the mask, the loss, the made texts."""

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.hidden import HARD, KINDS, LINES, MADE, Document, documents, made
from data.tokenizer import shipped
from experiments.quiet import Config, main, means, run_step, tally
from experiments.thoughts import Scored, Talk, Thoughts, extend, mixed, read, scored, sees, speak, think
from model import Transformer
from optim import keep_masters, make_optimizers
from parallel import Ranks
from sample import row_noise, sample_tokens
from verify.countdown import expression_value

ROOT, ALONE, TOK = Path(__file__).parent.parent, Ranks(0, 1, "cpu"), shipped()
SHAPE = dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=48,
    moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.2, max_position_embeddings=512, eos_token_id=TOK.eos_id)
G, L, AHEAD = 2, 3, 3


def thinker(vocab_size=512):
    """A model, and a mixing head that is not where it starts: its weight differs from place to place."""
    model = Transformer(ModelConfig(vocab_size=vocab_size, **SHAPE)).init_weights()
    torch.manual_seed(1)
    talk = Talk(32, model.embed_tokens.weight[0])
    with torch.no_grad():
        talk.embed_marks.normal_(0, 0.2)
        talk.mix[2].weight.normal_(0, 1.0)
        talk.mix[2].bias.zero_()
    return model, talk


def some_docs(lengths=(9, 6, 7)):
    rng = random.Random(0)
    return [Document([rng.randrange(40) for _ in range(n)], [rng.randrange(5) for _ in range(n)], 5 + i)
        for i, n in enumerate(lengths)]


def gradients(loss, *modules):
    for module in modules:
        module.zero_grad()
    loss.backward()
    return {name: p.grad for module in modules for name, p in module.named_parameters() if p.grad is not None}


def loop_of(model, talk, docs, seed, reinforce):
    """Position after position, thought after thought, each token by a whole plain pass over the text so far,
    the thought and what follows it; start and end are the last two rows of the vocabulary. The sum that
    `Scored.loss` is, the thoughts, and their log-probabilities of the next tokens."""
    V, total, ids, found = 512, 0.0, {}, {}

    def logp(tokens):
        hidden = model.hidden(torch.tensor([tokens]))[0]
        return hidden, (hidden @ model.lm_head.weight[:V].T).log_softmax(-1)

    for b, doc in enumerate(docs):
        states, plain = logp(doc.tokens)
        noise = row_noise(seed, [doc.number], G, (len(doc.tokens) - 1) * L).view(G, -1, L)
        for t in range(len(doc.tokens) - 1):
            targets = doc.tokens[t + 1 : t + 1 + AHEAD]
            likelihoods, chances = [], []
            for g in range(G):
                sequence, chance = [*doc.tokens[: t + 1], V], 0.0
                for step in range(L):
                    _, p = logp(sequence)
                    new = int(sample_tokens(p[-1:].detach(), noise[g, t, step : step + 1])[0])
                    sequence, chance = [*sequence, new], chance + p[-1, new]
                ids[b, g, t] = sequence[-L:]
                hidden, p = logp([*sequence, V + 1, *targets[:-1]])
                first, likelihood = len(sequence), 0.0
                for k, target in enumerate(targets):
                    w = talk(states[t + k], hidden[first + k])
                    both = w * p[first + k] + (1 - w) * plain[t + k]
                    likelihood = likelihood + both[target] - both.logsumexp(-1)
                    found[b, g, t, k] = float(p[first + k, target].detach()), float(w.detach())
                likelihoods.append(likelihood)
                chances.append(chance)
            mean = sum(likelihoods) / G
            total = total - mean
            for likelihood, chance in zip(likelihoods, chances, strict=True):
                total = total - reinforce * max(0.0, float((likelihood - mean).detach())) * chance / G
    return total, ids, found


def test_thoughts_in_parallel_are_those_of_a_plain_loop_over_positions():
    """Tokens, probabilities, weights (1e-4), loss, and all gradients (1e-3 of the largest)."""
    model, talk = thinker()
    plain = Transformer(ModelConfig(vocab_size=514, **SHAPE))  # with rows for start and end, tied to nothing
    weights = dict(model.state_dict())
    marks = talk.embed_marks.detach()
    weights |= {"embed_tokens.weight": torch.cat([weights["embed_tokens.weight"], marks]),
        "lm_head.weight": torch.cat([weights["lm_head.weight"], torch.zeros(2, 32)])}
    plain.load_state_dict(weights)
    docs = some_docs()
    s = scored(model, talk, docs, G, L, AHEAD, 3)
    loss = s.loss(7.0, False)
    want, ids, found = loop_of(plain, talk, docs, 3, 7.0)
    for (b, g, t), tokens in ids.items():
        assert s.thoughts.ids[b, g, t].tolist() == tokens
    thinking = model.lm_head(s.thoughts.hidden).log_softmax(-1).detach()
    for (b, g, t, k), (logprob, weight) in found.items():
        target = docs[b].tokens[t + 1 + k]
        assert math.exp(float(thinking[b, g, t, k, target])) == pytest.approx(math.exp(logprob), abs=1e-4)
        assert float(s.weight[b, g, t, k].detach()) == pytest.approx(weight, abs=1e-4)
        assert s.present[b, 0, t, k]
    assert int(s.present.sum()) * G == len(found)
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    mine, theirs = gradients(loss, model, talk), gradients(want, plain, talk)
    marks = mine.pop("embed_marks"), theirs.pop("embed_tokens.weight")
    theirs |= {"embed_tokens.weight": marks[1][:512], "embed_marks": marks[1][512:],
        "lm_head.weight": theirs["lm_head.weight"][:512]}
    mine["embed_marks"] = marks[0]
    assert mine.keys() == theirs.keys() and len(mine) > 20
    for name, grad in mine.items():
        assert grad.abs().max() > 0
        assert (grad - theirs[name]).abs().max() <= 1e-3 * theirs[name].abs().max(), name


def test_a_thought_sees_the_text_before_it_and_itself_as_the_mask_says():
    """Change one token of the text, or one of one thought: just the states that the mask names change."""
    model, talk = thinker()
    def differ(new):  # more than rounding: experts get other numbers of tokens at once
        return ((new - states).abs() > 1e-5).any(-1)[0]

    torch.manual_seed(0)
    T, m, at = 5, 4, torch.arange(5)[None]
    text, own = torch.randint(0, 512, (1, T)), torch.randn(1, 2, T, m, 32)
    mask = sees(at, T, 0, m)[0]  # (Q, m, T + m)
    with torch.no_grad():
        memory = read(model, text)[1]
        states = extend(model, memory, None, at, own)[0]
        for j in range(T):  # in the keys: in the text, later states would change, too
            changed = [tuple(x.clone() for x in layer) for layer in memory]
            for key, value in changed:
                key[:, :, j] += 1
                value[:, :, j] += 1
            moved = differ(extend(model, changed, None, at, own)[0])  # (G, Q, m)
            assert torch.equal(moved, mask[:, :, j].expand(2, -1, -1))
        for j in range(m):
            for t in range(T):
                other = own.clone()
                other[0, 1, t, j] += 1
                moved = differ(extend(model, memory, None, at, other)[0])
                want = torch.zeros(2, T, m, dtype=torch.bool)
                want[1, t] = mask[t, :, T + j]
                assert torch.equal(moved, want)


def test_the_mask_of_one_token_is_the_row_of_the_whole_thoughts_mask():
    at = torch.tensor([[0, 2, 3], [1, 1, 4]])
    whole = sees(at, 5, 0, 6)
    for past in range(6):
        one = sees(at, 5, past, 1)
        assert torch.equal(one[:, :, 0], whole[:, :, past, : 5 + past + 1])
        assert not whole[:, :, past, 5 + past + 1 :].any()


def test_reading_is_the_models_own_pass_and_thoughts_in_parts_are_those_in_one():
    model, _ = thinker()
    tokens, at = torch.randint(0, 512, (2, 7)), torch.tensor([[1, 4], [0, 6]])
    states, memory = read(model, tokens)
    torch.testing.assert_close(states, model.hidden(tokens))
    x, own, parts = torch.randn(2, 3, 2, 5, 32), None, []
    whole, _ = extend(model, memory, None, at, x)
    for part in x.split([1, 3, 1], 3):
        found, own = extend(model, memory, own, at, part)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, 3), whole)


def test_training_starts_near_the_prediction_without_thoughts():
    model, _ = thinker()
    talk, docs = Talk(32, model.embed_tokens.weight[0]), some_docs()
    with torch.no_grad():
        s = scored(model, talk, docs, G, L, AHEAD, 0)
        assert torch.allclose(s.weight, torch.tensor(0.1))
        talk.mix[2].bias.fill_(-40.0)
        off = scored(model, talk, docs, G, L, AHEAD, 0)
        without = scored(model, talk, docs, G, 0, 1, 0)
    there = s.present[:, :, :, 0]
    near, far = (x.mix[..., 0] - x.plain[:, None] for x in (s, off))
    assert 0 < (near * there).abs().max() and (far * there).abs().max() < 1e-5
    assert torch.equal(without.mix[:, 0, :, 0], without.plain) and torch.equal(without.plain, s.plain)
    assert torch.equal(without.present[:, 0, :, 0], there[:, 0])


def trainable(**more):
    model, talk = thinker()
    both = torch.nn.ModuleList([model, talk])
    keep_masters(both)
    cfg = Config(thought=L, ahead=AHEAD, batch_size=6, steps=20, lr=0.01, **more)
    return model, talk, make_optimizers(both, name="adamw", lr=cfg.lr), cfg


@pytest.mark.parametrize("thought", [L, 0])
def test_a_step_does_not_depend_on_how_its_documents_are_put_together(thought):
    docs = some_docs((9, 12, 3, 2, 7, 12))
    found = []
    for micro_tokens in (10, 100_000):
        model, talk, optimizers, cfg = trainable(micro_tokens=micro_tokens)
        cfg.thought = thought
        m = run_step(model, talk, optimizers, 0, docs.__getitem__, cfg, ALONE)
        assert m.pop("skipped") == []
        weights = [p.detach().flatten() for p in [*model.parameters(), *talk.parameters()]]
        found.append((m, torch.cat(weights)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-4)  # of a step of 2e-3
    assert found[0][0]["tokens"] == 45
    assert found[0][0]["passed"] == (45 + 39 * 2 * (L + 1 + AHEAD) if thought else 45)  # none after the last


def test_a_step_whose_loss_is_no_number_is_left_out():
    model, talk, optimizers, cfg = trainable()
    with torch.no_grad():
        talk.mix[2].bias.fill_(math.nan)
    before = [p.detach().clone() for p in model.parameters()]
    m = run_step(model, talk, optimizers, 0, some_docs((9, 6, 7, 5, 4, 3)).__getitem__, cfg, ALONE)
    assert m["skipped"] == [{"why": "loss", "rows": [5, 6, 7, 8, 9, 10]}]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_without_thoughts_it_is_next_token_training():
    model, talk, optimizers, cfg = trainable()
    docs = some_docs((9, 6, 7, 5, 4, 3))
    total = 0.0
    for doc in docs:
        logp = model.hidden(torch.tensor([doc.tokens])) @ model.lm_head.weight.T
        total += float(torch.nn.functional.cross_entropy(logp[0, :-1], torch.tensor(doc.tokens[1:]),
            reduction="sum").detach())
    cfg.thought = 0
    m = run_step(model, talk, optimizers, 0, docs.__getitem__, cfg, ALONE)
    assert m["loss_all"] == m["plain_all"] == pytest.approx(total / 28, rel=1e-5)
    assert not any("weight" in key for key in m)


@pytest.mark.parametrize("negative", [False, True])
def test_the_thought_that_helps_more_becomes_likelier(negative):
    """And the worse one less likely only if negative: gradients of the chances of two thoughts."""
    chances = torch.tensor([[[-3.0], [-4.0]]], requires_grad=True)  # (B, G, Q) = (1, 2, 1)
    mix = torch.tensor([[[[-1.0, -1.0, -9.0]], [[-1.5, -2.5, 0.0]]]], requires_grad=True)
    present = torch.tensor([[[[True, True, False]]]])
    thoughts = Thoughts(None, chances, None, None)
    s = Scored(None, present, mix, None, thoughts)
    assert s.rewards().flatten().tolist() == [1.0, -1.0]
    s.loss(3.0, negative).backward()
    assert (-chances.grad).flatten().tolist() == pytest.approx([1.5, -1.5 if negative else 0.0])
    assert mix.grad.flatten().tolist() == pytest.approx([-0.5, -0.5, 0, -0.5, -0.5, 0])


def test_measures_are_means_over_the_tokens_of_a_kind():
    model, talk = thinker()
    docs = some_docs()
    with torch.no_grad():
        s = scored(model, talk, docs, G, L, AHEAD, 0)
    values, rewards = {k: [] for k in range(5)}, s.rewards()
    for b, doc in enumerate(docs):
        for t, kind in enumerate(doc.kinds[1:]):
            values[kind].append((-float(s.mix[b, :, t, 0].mean()), float(rewards[b, 0, t].abs())))
    m = means([tally(s, docs[:2] + docs[2:]), Counter()])
    for i, name in enumerate(KINDS):
        assert m[f"loss_{name}"] == pytest.approx(sum(v for v, _ in values[i]) / len(values[i]), rel=1e-5)
        assert m[f"spread_{name}"] == pytest.approx(sum(r for _, r in values[i]) / len(values[i]), rel=1e-4)
    hard = [v for i in range(2, 5) for v, _ in values[i]]
    assert m["loss_hard"] == pytest.approx(sum(hard) / len(hard), rel=1e-5)
    assert m["loss_all"] == pytest.approx(sum(v for k in values for v, _ in values[k]) / 19, rel=1e-5)


def test_speaking_draws_what_whole_passes_draw_and_forgets_its_thoughts():
    model, talk = thinker()
    prompts, room, ends = [[5, 9, 2], [7, 1, 30, 4, 8]], 5, ()
    said = speak(model, talk, prompts, [3, 4], G, room, L, ends, 11)
    noise = row_noise(11, [3, 4], G, room * (L + 1)).view(2, G, room, L + 1)
    assert len(said) == 4 and len({tuple(row) for row in said}) > 2
    with torch.no_grad():
        for row, (b, g) in zip(said, [(b, g) for b in range(2) for g in range(G)], strict=True):
            text = list(prompts[b])
            for step, token in enumerate(row):
                states, memory = read(model, torch.tensor([text]))
                uniform = noise[b, g, step]
                thoughts = think(model, talk, memory, torch.tensor([[len(text) - 1]]),
                    torch.zeros(1, 1, 0, dtype=torch.long), uniform[:L].view(1, 1, 1, L))
                logp, _ = mixed(model, talk, states[:, None, -1:, None], thoughts.hidden)
                assert token == int(sample_tokens(logp[0, 0, 0], uniform[L:])[0])
                text.append(token)
    ends = (said[0][2], said[3][1])
    for row, short in zip(said, speak(model, talk, prompts, [3, 4], G, room, L, ends, 11), strict=True):
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), room)
        assert short == row[:stop]


def test_made_texts_say_the_truth_and_their_answers_are_the_hard_tokens():
    seen = Counter()
    for i in range(40):
        tokens, kinds = made(random.Random(i), "train", TOK)
        assert len(tokens) == len(kinds) and tokens[0] == TOK.bos_id and tokens[-1] == TOK.eos_id
        lines, at = TOK.decode(tokens[1:-1]).split("\n"), 1
        assert len(lines) == LINES + 1 and lines[-1] == ""
        for line in lines[:-1]:
            count = len(TOK.encode(line))
            name = KINDS[kinds[at + count - 1]]
            hard = TOK.decode([tokens[i] for i in range(at, at + count) if kinds[i] >= HARD])
            question = line.removesuffix(hard)
            seen[name] += 1
            if name == "sums":
                assert expression_value(question.removesuffix("="))[0] == int(hard)
            elif name == "copy":
                first, between, _ = question.split(";")
                assert first == hard and len(first) == 4 and len(between) == 9
            else:
                assert name == "parity" and int(hard) == question.count("1") % 2 and len(question) == 9
            at += count + 1
    assert min(seen[name] for name in MADE) > 60


def test_documents_are_functions_of_their_index_and_no_question_is_on_both_sides():
    web = [{"text": f"page {i} of the web"} for i in range(50)].__getitem__
    asked = {}
    for split in ("train", "test"):
        one, other = (documents(TOK, web, split, seed, 0.5, 60) for seed in (0, 1))
        docs = [one(i) for i in range(50)]
        assert docs == [one(i) for i in range(50)] and docs != [other(i) for i in range(50)]
        assert all(len(d.tokens) == len(d.kinds) <= 60 for d in docs)
        pages = [d for d in docs if not any(d.kinds)]
        assert 10 < len(pages) < 40 and f"page {pages[0].number} of" in TOK.decode(pages[0].tokens)
        lines = [line for d in docs if any(d.kinds) for line in TOK.decode(d.tokens[1:]).split("\n")[:-1]]
        asked[split] = {line[: 1 + max(line.rfind(mark) for mark in "=;:")] for line in lines}
    assert len(asked["train"]) > 80 and not asked["train"] & asked["test"]


# ------------------------------------------------------------------------------------------- the command line

FAST = dict(steps=4, batch_size=3, thought=2, ahead=2, length=40, eval_docs=4, problems=2, samples=2,
    max_new_tokens=8, save_every=1, micro_tokens=800, device="cpu:1", lr=0.002)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint and a file of pages."""
    dir = tmp_path_factory.mktemp("quiet")
    save_model(Transformer(ModelConfig(vocab_size=512, **SHAPE)).init_weights(), dir / "base")
    pages = [{"text": f"1+{i}={1 + i} ok"} for i in range(9)]
    (dir / "web.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    return dir


def command(start, out, **more):
    options = FAST | dict(init=start / "base", web=start / "web.jsonl", out=out) | more
    return [sys.executable, str(ROOT / "experiments/quiet.py"), *(w for k, v in options.items()
        for w in (f"--{k}", str(v)))]


def run(start, out, **more):
    return subprocess.run(command(start, out, **more), cwd=ROOT, capture_output=True, text=True, timeout=300)


def rows_of(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(start):
    done = run(start, start / "whole")
    assert done.returncode == 0, done.stderr
    return start / "whole", done.stdout


def test_a_run_shows_a_table_and_writes_a_checkpoint_metrics_and_pictures(finished):
    out, said = finished
    rows = rows_of(out)
    assert [row["kind"] for row in rows] == ["before", *["train"] * 4, "eval"]
    assert rows[-1]["tokens"] == rows[-2]["tokens"] > 100
    tokens = rows[-1]["tokens"]
    assert rows[-1]["passed"] == tokens + (tokens - 4 * 3) * 2 * (2 + 1 + 2)  # four steps of three documents
    for text in ("before plain", "after thinking", "weight", "hard", "pass@1", "tokens of text"):
        assert text in said
    assert load_model(out).cfg.vocab_size == 512  # eval.py and sample.py open it as it is
    assert torch.load(out / "talk.pt")["embed_marks"].shape == (2, 32)
    raw = json.loads((out / "thoughts.json").read_text())
    n = len(raw["tokens"])
    assert len(raw["hard"]) == n and len(raw["gain"]) == len(raw["weight"]) == len(raw["thoughts"]) == n - 1
    assert len(raw["gain"][0]) == len(raw["thoughts"][0]) == 2 and raw["mask"] == sees(
        torch.arange(4)[None], 4, 0, 5)[0].int().tolist()
    pytest.importorskip("matplotlib", reason="plots: requirements-dev.txt")
    assert all((out / name).stat().st_size > 5000 for name in ("thoughts.png", "mask.png"))


def test_a_killed_run_resumes_to_the_same_weights_thoughts_and_metrics(finished, start):
    out = start / "killed"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command(start, out), cwd=ROOT, **quiet)
    while not (out / "state/state.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (out / "state/state.pt").exists()
    again = run(start, out)
    assert again.returncode == 0, again.stderr
    assert rows_of(out) == rows_of(finished[0])
    for name in ("model.safetensors", "thoughts.json"):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes()
    a, b = (torch.load(dir / "talk.pt") for dir in (out, finished[0]))
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_a_run_without_thoughts_has_no_thoughts(start):
    done = run(start, start / "plain", thought=0, steps=2)
    assert done.returncode == 0 and "thinking" not in done.stdout, done.stderr
    rows = rows_of(start / "plain")
    assert rows[-1]["passed"] == rows[-1]["tokens"] and rows[-1]["loss_all"] == rows[-1]["plain_all"]
    assert not (start / "plain/thoughts.json").exists()


def test_two_processes_train_as_one_does(finished, start):
    done = run(start, start / "two", device="cpu:2")
    assert done.returncode == 0, done.stderr
    for a, b in zip(rows_of(start / "two"), rows_of(finished[0]), strict=True):
        # rounding may draw another token of a thought, where two are equally near
        assert a.pop("kind") == b.pop("kind") and a == pytest.approx(b, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("more,message", [
    (dict(made=1.5), "--made 1.5"), (dict(eval_docs=9), "more than 9 rows"),
    (dict(max_new_tokens=600), "lower .*--max_new_tokens"),
    (dict(init="/no"), "/no does"), (dict(web="/no.jsonl"), "/no.jsonl"),
    (dict(group_size=1), "--group_size 1"),
    (dict(length=600), "lower --length"), (dict(tracker="tensorbord"), "did you mean tensorboard")])
def test_wrong_settings_are_refused_before_anything_is_written(more, message, start, monkeypatch):
    monkeypatch.setattr(sys, "argv", command(start, start / "wrong", **more)[1:])
    with pytest.raises(UserError, match=message) as error:
        main()
    assert "\n" not in str(error.value) and not (start / "wrong").exists()


@pytest.mark.parametrize("row", [{"text": ""}, {"prompt": "x", "task": "general", "text": 5},
    {"prompt": "x", "task": "math", "answer": "2"}])
def test_a_row_that_is_no_document_is_refused_before_the_run(row, start, tmp_path, monkeypatch):
    lines = (start / "web.jsonl").read_text() + json.dumps(row) + "\n"
    (tmp_path / "web.jsonl").write_text(lines)
    monkeypatch.setattr(sys, "argv", command(start, tmp_path / "wrong", web=tmp_path / "web.jsonl")[1:])
    with pytest.raises(UserError, match="web.jsonl:.*text"):
        main()
