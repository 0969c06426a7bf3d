"""The preference model: its loss, its scalar head, what it is shown, what it learns, where it is used."""

import dataclasses
import json
import math
import random

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

import preference
import sft
from checkpoint import load_model, save_model
from config import ModelConfig, UserError
from data.r1_data import pair
from data.tokenizer import for_checkpoint, shipped
from distill import decide, judge_of
from model import Transformer
from optim import make_optimizers
from parallel import Ranks
from preference import (
    CENTER,
    encode_judged,
    encode_pair,
    judged_text,
    last_scores,
    load_generative,
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


SCORES = [(0.0, 0.0), (1.5, -0.5), (-2.0, 3.0)]


def test_helpful_pairs_cost_minus_the_log_of_the_bradley_terry_chance():
    """P(chosen wins) = e^a / (e^a + e^b)."""
    for a, b in SCORES:
        chance = math.exp(a) / (math.exp(a) + math.exp(b))
        got = float(pair_loss(torch.tensor(a), torch.tensor(b), torch.tensor(False)))
        assert got == pytest.approx(-math.log(chance) + CENTER * (a + b) ** 2, rel=1e-5)


def test_harmless_responses_cost_their_own_binary_cross_entropy():
    a, b = torch.tensor(SCORES).T
    safe, unsafe = torch.ones(3), torch.zeros(3)
    want = cross_entropy(a, safe, reduction="none") + cross_entropy(b, unsafe, reduction="none")
    torch.testing.assert_close(pair_loss(a, b, torch.tensor([True] * 3)), want)
    x, y = torch.autograd.functional.hessian(  # no response's gradient depends on the other's score
        lambda s: pair_loss(s[0], s[1], torch.tensor(True)), torch.tensor([0.3, -1.2]))
    assert x[1] == y[0] == 0 and x[0] > 0 < y[1]


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
    assert {aspect for *_, aspect in pairs} == {"helpful", "harmless"}
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
    single = sum(row["aspect"] == "harmless" for row in rows[:16])  # two cross-entropies each
    assert losses[0] == pytest.approx((16 + single) / 16 * math.log(2), abs=0.01)  # the head starts at zero
    assert losses[-1] < 0.8 * losses[0]
    save_model(model, dir)
    return dir, rows[500:]


def test_training_raises_the_accuracy_on_held_out_pairs(judge):
    dir, rows = judge
    found = pair_accuracy(load_model(dir), TOK, rows)
    assert found["all"] > 0.65 and set(found) == {"helpful", "harmless", "all"}
    safe = [row for row in rows if row["aspect"] == "harmless"]
    chances = [load_judge(str(dir))["harmless"]([row[k] for row in safe], [row["prompt"] for row in safe])
        for k in ("chosen", "rejected")]
    right = [c > 0.5 for c in chances[0]] + [c < 0.5 for c in chances[1]]
    assert found["harmless"] == pytest.approx(sum(right) / len(right)) and found["harmless"] > 0.7


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


# --------------------------------------------------------------------------------------- the generative judge

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
RAIN = {"prompt": "Is {rain} wet?", "task": "own", "answer": "It is."}
SAID = ["It is wet.", "<think>drops</think> No, it is not, as far as I can tell.", "<think>so", "7 " * 400,
    "Perhaps. " * 20]


def chat_model(dir, opens: str = "", template: str = CHATML, **changes):
    """A checkpoint of random weights with a chat template."""
    pytest.importorskip("tokenizers", reason="the oracle of tokenizer.json: requirements-dev.txt")
    import made_tokenizers

    made_tokenizers.made("qwen2").save(str(dir / "tokenizer.json"))
    (dir / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"} | (
        {"chat_template": template.replace("assistant\n{", f"assistant\n{opens}{{")} if template else {})))
    ids = made_tokenizers.made("qwen2").get_vocab_size()
    save_model(Transformer(ModelConfig(**TINY | dict(vocab_size=ids) | changes)).init_weights(), dir)
    return str(dir)


@pytest.mark.parametrize("opens", ["", "<think>\\n"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_verdict_is_the_probability_of_one_word_against_another(tmp_path, opens, tied):
    """Each row alone through transformers' class and its template: P(Yes) / (P(Yes) + P(No))."""
    transformers = pytest.importorskip("transformers", reason="the oracle: requirements-dev.txt")
    opens = opens.encode().decode("unicode_escape")
    folder = chat_model(tmp_path, opens, tie_word_embeddings=tied)
    judge = load_generative(folder)["generative"]
    found = judge(SAID, [RAIN["prompt"]] * 5, answer=[RAIN["answer"]] * 4 + [None], numbers=[1] * 5)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    shown = {0: SAID[0], 1: "No, it is not, as far as I can tell.", 4: SAID[4].strip()}
    for i, text in shown.items():
        truth = "" if i == 4 else "Correct answer: It is.\n"
        asked = (f"Question: Is {{rain}} wet?\n{truth}Answer of a student: {text}\n"
            "Is the student's answer right? Say Yes or No.")
        asked = tok.apply_chat_template([{"role": "user", "content": asked}], tokenize=False,
            add_generation_prompt=True) + ("</think>\n" if opens else "")
        with torch.no_grad():
            chances = theirs(**tok(asked, return_tensors="pt")).logits[0, -1].softmax(-1)
        yes, no = (float(chances[tok(word).input_ids[0]]) for word in ("Yes", "No"))
        assert found[i] == pytest.approx(yes / (yes + no), abs=1e-5)
    assert len({round(found[i], 6) for i in shown}) == 3
    assert found[2] == 0.0 and found[3] is None  # no summary; longer than the context


def test_verdicts_do_not_depend_on_the_rows_beside_them(tmp_path, monkeypatch):
    judge = load_generative(chat_model(tmp_path))["generative"]
    texts = [f"{word} " * n for word in ("rain", "snow", "ice") for n in (1, 40, 7)]
    together = judge(texts, ["p"] * 9, answer=["wet"] * 9)
    order = random.Random(0).sample(range(9), 9)
    shuffled = judge([texts[i] for i in order], ["p"] * 9, answer=["wet"] * 9)
    assert shuffled == pytest.approx([together[i] for i in order], abs=1e-6)
    monkeypatch.setattr(preference, "ROWS", 2)
    assert judge(texts, ["p"] * 9, answer=["wet"] * 9) == pytest.approx(together, abs=1e-6)
    assert len({round(x, 6) for x in together}) == 9
    assert judge([], []) == []


def test_the_truth_is_the_first_column_that_says_one(tmp_path):
    judge = load_generative(chat_model(tmp_path))["generative"]
    ask = lambda **columns: judge(["wet"], ["p"], **columns)[0]  # noqa: E731
    assert ask(answer=[None], solution=["dry"], target=[7]) == ask(answer=["dry"]) != ask(target=[7])
    assert ask(answers=[["dry", "arid"]]) == ask(answer=["dry or arid"]) != ask()


def test_it_judges_samples_without_a_rule_and_counts_as_a_reward(tmp_path):
    folder = chat_model(tmp_path)
    judge = judge_of(f"generative:{folder}")
    low, high = sorted(judge(SAID[:2], [RAIN["prompt"]] * 2, answer=[RAIN["answer"]] * 2))
    assert low < high
    kept, reasons = decide(RAIN, SAID[:2], 2, judge, high)
    assert len(kept) == 1 and reasons == ["the judge says no"]
    plan = reward_plan(f"generative:{folder}", "generative=2")
    check_rows([dict(RAIN)], "rows", plan)
    scores = score([RAIN] * 2, SAID[:2], plan)
    assert sorted(s["generative"] for s in scores) == pytest.approx([low, high], abs=1e-6)
    assert all(s["reward"] == 2 * s["generative"] and s["accuracy"] == float(s["generative"] >= 0.5)
        for s in scores)
    with pytest.raises(UserError, match="one model of each kind"):
        reward_plan(f"generative:{folder},generative:{tmp_path}/other")


def test_a_folder_that_cannot_be_asked_is_refused_in_one_line(tmp_path, monkeypatch):
    folder = chat_model(tmp_path, template="")
    with pytest.raises(UserError, match="has no chat template to ask with"):
        load_generative(folder)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    load_generative.cache_clear()
    monkeypatch.setattr(preference, "VERDICTS", ("No", "No way"))
    first = [for_checkpoint(folder).encode(word)[0] for word in preference.VERDICTS]
    assert first[0] == first[1]
    with pytest.raises(UserError, match="start alike"):
        load_generative(folder)
    with pytest.raises(UserError, match="does not exist"):
        judge_of(f"generative:{tmp_path}/nowhere")
