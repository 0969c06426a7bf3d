"""docs/one_step.md and docs/one_step.html: made again from docs/one_step.json, every number recomputed."""

import html
import json
import math
import re
from pathlib import Path

import pytest
import torch

import grpo
from checkpoint import save_model
from config import ModelConfig, UserError
from data.tasks import training_rows
from model import Transformer
from report.one_step import Config, as_json, computed, markdown, page, record
from rewards import score

DOCS = Path(__file__).parent.parent / "docs"
STEP = json.loads((DOCS / "one_step.json").read_text())
KNOBS = STEP["settings"]


def tables(text):
    """Every markdown table as a list of rows of cells, without its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[[c.strip() for c in line.strip("|").split("|")] for line in t.splitlines()[2:]] for t in found]


def test_both_pages_are_made_again_from_the_recorded_step():
    assert (DOCS / "one_step.md").read_text() == markdown(STEP)
    assert (DOCS / "one_step.html").read_text() == page(STEP)
    assert (DOCS / "one_step.json").read_text() == as_json(STEP)


def test_a_reader_computes_the_same_with_the_numbers_shown():
    """Advantages, ratios, losses and the loss by plain arithmetic from the tables of the markdown page."""
    rewards, *completions, means = tables((DOCS / "one_step.md").read_text())
    r = [float(row[4]) for row in rewards]
    mean = sum(r) / len(r)
    std = math.sqrt(sum((x - mean) ** 2 for x in r) / (len(r) - 1))
    total = 0.0
    for row, tokens, last in zip(rewards, completions, means, strict=False):
        A = (float(row[4]) - mean) / (std + 1e-4)
        assert float(row[5]) == pytest.approx(A, abs=6e-5) and len(tokens) == int(row[1])
        losses = []
        for _, _, before, after, moved, ratio, loss in tokens:
            exact = math.exp(float(after) - float(before))
            assert float(ratio.split()[0]) == pytest.approx(exact, abs=6e-5)
            assert float(moved) == pytest.approx(float(after) - float(before), abs=6e-5)
            used = min(max(exact, 1 - KNOBS["clip_low"]), 1 + KNOBS["clip_high"])
            losses.append(-min(exact * A, used * A))
            assert float(loss) == pytest.approx(losses[-1], abs=6e-5)
            assert ("&rarr;" in ratio) == (losses[-1] == -used * A and used != exact)
        assert float(last[3]) == pytest.approx(sum(losses) / len(losses), abs=6e-5)
        total += sum(losses) / len(losses) / len(rewards)
    assert float(means[-1][3]) == pytest.approx(total, abs=6e-5)
    assert any("&rarr;" in t[5] for tokens in completions for t in tokens)  # the page shows a clipped token


def test_the_loss_shown_is_that_of_policy_loss():
    done = STEP["completions"]
    longest = max(len(c["before"]) for c in done)
    before, after = (torch.tensor([c[k] + [0.0] * (longest - len(c[k])) for c in done])
        for k in ("before", "after"))
    mask = torch.tensor([[t < len(c["before"]) for t in range(longest)] for c in done])
    A = grpo.group_advantages(torch.tensor([c["scores"]["reward"] for c in done]), len(done))
    loss, m = grpo.policy_loss(after, before, A, mask, clip_low=KNOBS["clip_low"],
        clip_high=KNOBS["clip_high"])
    now = computed(STEP)
    assert now["after"] == pytest.approx(float(loss), abs=1e-6)
    clipped = [t["clipped"] for c in now["completions"] for t in c["tokens"]]
    assert sum(clipped) == round(m["clip_fraction"] * m["tokens"]) > 0
    first, _ = grpo.policy_loss(before, before, A, mask)
    assert abs(float(first)) < 1e-6 and abs(STEP["measured"]["loss"]) < 1e-6 and abs(now["before"]) < 1e-12


def test_the_rewards_shown_are_those_of_the_completions_shown():
    row = training_rows(KNOBS["task"], KNOBS["seed"], hold_out=True)(KNOBS["problem"])
    assert row == STEP["row"]
    texts = ["".join(c["tokens"]).removesuffix("<|eos|>") for c in STEP["completions"]]
    for one, c in zip(score([row] * len(texts), texts), STEP["completions"], strict=True):
        assert c["scores"] == {k: one[k] for k in c["scores"]}


def test_the_html_page_needs_no_network_and_shows_every_token():
    text = (DOCS / "one_step.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:|//)|url\(|@import|<link""", text)
    spans = re.findall(r'<span class="[^"]*" style="--a:([\d.]+)" data-n="([^"]+)" data-text="([^"]+)"', text)
    recorded = [(t, a, b) for c in STEP["completions"]
        for t, a, b in zip(c["tokens"], c["before"], c["after"], strict=True)]
    assert [html.unescape(t) for _, _, t in spans] == [t for t, _, _ in recorded]
    for (strength, numbers, _), (_, before, after) in zip(spans, recorded, strict=True):
        assert numbers.split()[:2] == [f"{before:.4f}", f"{after:.4f}"]
        assert (float(strength) > 0.3) == (abs(after - before) > 0.25)


def test_a_step_is_recorded_from_a_checkpoint(tmp_path):
    small = dict(hidden_size=32, num_hidden_layers=2, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, intermediate_size=32, moe_intermediate_size=16, initializer_range=0.2)
    save_model(Transformer(ModelConfig(**small)).init_weights(), tmp_path)
    (tmp_path / "own.py").write_text(
        "def parity(completions, **_): return [len(c) % 2 for c in completions]\n"
        "def same(completions, **_): return [0.0 for c in completions]\n")
    step = record(Config(from_=str(tmp_path), reward=f"{tmp_path}/own.py:parity", problem=3, lr=1e-2))
    assert len(step["completions"]) == 4 and step["measured"]["grad_norm"] > 0
    assert step["measured"]["logprob_mismatch"] < 1e-4
    assert computed(step)["after"] < -0.01 and abs(computed(step)["before"]) < 1e-9
    assert json.loads(as_json(step)) == step and markdown(step) and page(step)
    with pytest.raises(UserError, match="try another"):
        record(Config(from_=str(tmp_path), reward=f"{tmp_path}/own.py:same"))
