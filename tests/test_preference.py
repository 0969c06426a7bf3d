"""The preference model: its loss, its scalar head, what it is shown, what it learns, where it is used."""

import dataclasses
import json
import math
import random

import pytest
import torch

import sft
from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.r1_data import pair
from data.tokenizer import shipped
from model import Transformer
from optim import make_optimizers
from parallel import Ranks
from preference import (
    CENTER,
    encode_judged,
    encode_pair,
    judged_text,
    last_scores,
    load_judge,
    pair_accuracy,
    pair_backward,
    pair_loss,
    reward_plan,
    scores_of,
    with_score_head,
)
from rewards import check_rows, score

TOK, ALONE = shipped(), Ranks(0, 1, "cpu")
TINY = dict(vocab_size=512, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=48,
    moe_intermediate_size=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    initializer_range=0.1, max_position_embeddings=512, eos_token_id=TOK.eos_id, pad_token_id=TOK.pad_id)
WHOLE = "<think>a fact</think>\n<answer>Snow is white.</answer>"


def scorer(**changes):
    model = with_score_head(Transformer(ModelConfig(**TINY | changes)).init_weights())
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    return model


def test_pair_loss_is_minus_the_log_of_the_bradley_terry_chance():
    """P(chosen wins) = e^a / (e^a + e^b)."""
    for a, b in [(0.0, 0.0), (1.5, -0.5), (-2.0, 3.0)]:
        chance = math.exp(a) / (math.exp(a) + math.exp(b))
        got = float(pair_loss(torch.tensor(a), torch.tensor(b)))
        assert got == pytest.approx(-math.log(chance) + CENTER * (a + b) ** 2, rel=1e-5)


def test_the_score_equals_transformers_sequence_classification(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the oracle: requirements-dev.txt")
    model = scorer()
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "DeepseekV3ForSequenceClassification"]
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path,
        dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and theirs.config.num_labels == 1
    assert theirs.score.weight.shape == (1, 32)
    rows = [encode_judged(TOK, "What is ice?", text, "harmless", 512) for text in (WHOLE, "x", "no no no")]
    T = max(map(len, rows))
    padded = torch.tensor([r + [TOK.pad_id] * (T - len(r)) for r in rows])
    with torch.no_grad():
        want = theirs(padded, attention_mask=(padded != TOK.pad_id).long()).logits.squeeze(-1)
        got = last_scores(load_model(tmp_path), rows, TOK.pad_id, "cpu")
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_score_does_not_depend_on_the_rows_beside_it():
    model, texts = scorer(), [WHOLE, "a", WHOLE * 3, ""]
    together = scores_of(model, TOK, ["p"] * 4, texts, "harmless")
    alone = [scores_of(model, TOK, ["p"], [text], "harmless")[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-5) and len(set(together)) == 4


def test_helpfulness_reads_the_summary_alone_and_harmlessness_everything():
    rude = WHOLE.replace("a fact", "You fool.")
    assert judged_text(rude, "helpful") == judged_text(WHOLE, "helpful") == "<answer>Snow is white.</answer>"
    assert judged_text(rude, "harmless") == rude
    for text, said in (("<think>never stops", ""), ("I think so. ", "I think so."), ("a</think> b", "b")):
        assert judged_text(text, "helpful") == said
    model = scorer()
    helpful, harmless = (scores_of(model, TOK, ["p", "p"], [WHOLE, rude], a) for a in ("helpful", "harmless"))
    assert helpful[0] == pytest.approx(helpful[1], abs=1e-5)
    assert abs(harmless[0] - harmless[1]) > 1e-3


def test_a_response_longer_than_the_context_is_cut_before_its_end_token():
    ids = encode_judged(TOK, "p", "7" * 1000, "harmless", 64)
    assert len(ids) == 64 and ids[-1] == TOK.eos_id


def test_an_unknown_aspect_is_refused():
    with pytest.raises(UserError, match="helpful or harmless"):
        encode_pair(TOK, {"prompt": "p", "chosen": "a", "rejected": "b", "aspect": "funny"}, 64)


def test_gradients_do_not_depend_on_micro_batches():
    rows, cfg = [pair(random.Random(i)) for i in range(6)], sft.Config(balance_coef=0.01)
    pairs, found = [encode_pair(TOK, row, 512) for row in rows], []
    for size in (6, 1, 4):
        model = scorer()
        for at in range(0, 6, size):
            pair_backward(model, pairs[at : at + size], 6, 6, cfg, TOK.pad_id, "cpu")
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A preference model that learns in seconds to tell insults and refusals apart."""
    dir = tmp_path_factory.mktemp("judge")
    model = with_score_head(Transformer(ModelConfig(**TINY)).init_weights())
    cfg = sft.Config(steps=60, batch_size=16, lr=0.01, warmup=5)
    rows = [pair(random.Random(i)) for i in range(600)]
    optimizers = make_optimizers(model)
    losses = [sft.run_step(model, optimizers, step, lambda i: rows[i % 500], TOK, cfg, ALONE)["loss"]
        for step in range(cfg.steps)]
    assert losses[0] == pytest.approx(math.log(2), abs=0.01)  # the head starts at zero
    assert losses[-1] < 0.8 * losses[0]
    save_model(model, dir)
    return dir, rows[500:]


def test_training_raises_the_accuracy_on_held_out_pairs(judge):
    dir, rows = judge
    found = pair_accuracy(load_model(dir), TOK, rows)
    assert found["all"] > 0.65 and set(found) == {"helpful", "harmless", "all"}


def test_a_general_row_is_scored_by_the_model_and_a_problem_by_its_rule(judge):
    general = {"prompt": "What color is snow?", "task": "general"}
    problem = {"prompt": "Use 1 2 to make 3.", "task": "countdown", "numbers": [1, 2], "target": 3}
    with pytest.raises(UserError, match="--reward preference:FOLDER"):
        score([general], [WHOLE])
    plan = reward_plan(f"preference:{judge[0]}", "format=0.5")
    check_rows([problem, general], "rows", plan)
    one, two = score([general, problem], [WHOLE, "<think></think><answer>1+2</answer>"], plan)
    assert two == {"countdown": 1.0, "format": 1.0, "reward": 1.5, "accuracy": 1.0}
    assert one["preference"] == pytest.approx(one["helpful"] * one["harmless"])
    assert one["reward"] == pytest.approx(one["preference"] + 0.5)
    assert one["accuracy"] == float(one["preference"] >= 0.5)


def test_a_folder_without_a_scalar_head_is_no_judge(tmp_path):
    save_model(Transformer(ModelConfig(**TINY)).init_weights(), tmp_path)
    with pytest.raises(UserError, match="score.weight"):
        load_judge(str(tmp_path))


def test_a_head_that_is_not_tied_rests():
    model = scorer(tie_word_embeddings=False)
    rows = [pair(random.Random(i)) for i in range(8)]
    cfg = sft.Config(batch_size=8, steps=2)
    optimizers = make_optimizers(model)
    before = model.lm_head.weight.detach().clone()
    sft.run_step(model, optimizers, 0, lambda i: rows[i], TOK, dataclasses.replace(cfg), ALONE)
    assert torch.equal(model.lm_head.weight, before) and model.score.weight.abs().sum() > 0
