"""A released model itself against transformers; skipped until `make smollm2` has fetched it."""

import random
from pathlib import Path

import pytest
import torch

from checkpoint import load_model
from data.tasks import distinct
from data.tokenizer import for_checkpoint
from sample import generate

ROOT = Path(__file__).parent.parent
BASE = ROOT / "out" / "smollm2" / "base"
pytestmark = pytest.mark.skipif(not (BASE / "model.safetensors").exists(), reason="needs make smollm2")
transformers = pytest.importorskip("transformers", reason="the oracle: requirements-dev.txt")


@pytest.fixture(scope="module")
def both():
    theirs = transformers.AutoModelForCausalLM.from_pretrained(BASE).eval().float()
    return load_model(BASE), theirs, for_checkpoint(BASE), transformers.AutoTokenizer.from_pretrained(BASE)


def texts() -> list[str]:
    """20: prose, code, formulas, Chinese, emoji, of 20 to 400 tokens."""
    rng, pages = random.Random(0), [path.read_text(encoding="utf-8") for path in
        (ROOT / "README.md", ROOT / "grpo.py", ROOT / "data" / "corpus.txt", ROOT / "docs" / "rewards.md")]
    out = ["\u4f60\u597d\uff0c\u4e16\u754c 123 \U0001f600\U0001f680 caf\u00e9\t\n  x = y**2"]
    while len(out) < 20:
        page = rng.choice(pages)
        start = rng.randrange(len(page) - 1200)
        out.append(page[start : start + rng.randint(60, 1200)])
    return out


def test_ids_and_logits_are_those_of_transformers(both):
    ours, theirs, tok, their_tok = both
    with torch.no_grad():
        for text in texts():
            ids = tok.encode(text)
            assert ids == their_tok(text).input_ids
            tokens = torch.tensor([ids])
            assert (ours(tokens) - theirs(tokens).logits).abs().max() <= 1e-3


def test_greedy_replies_are_those_of_transformers(both):
    ours, theirs, tok, their_tok = both
    tok.template = "chat"
    for row in distinct("word_sums", "test", 0, 5):
        ids = tok.encode_prompt(row["prompt"])
        found = their_tok.apply_chat_template([{"role": "user", "content": row["prompt"]}],
            add_generation_prompt=True)
        assert ids == found["input_ids"]
        mine = generate(ours, [ids], max_new_tokens=64, temperature=0, eos_id=tok.eos_ids).completions[0]
        greedy = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=64, do_sample=False, eos_token_id=list(tok.eos_ids), pad_token_id=tok.pad_id)
        assert mine == greedy[0, len(ids) :].tolist()
