"""Budget forcing and tree search, with a model that has been trained for a second."""

import math

import pytest

import sft
from config import ModelConfig, UserError
from data.tasks import row_at, training_rows
from data.tokenizer import shipped
from experiments.search import (
    Node,
    first_line,
    force_answer,
    select,
    thinking_end,
    tree_search,
    value_function,
    votes_curve,
)
from model import Transformer
from optim import make_optimizers
from parallel import Ranks
from rewards import NO_PLAN, Plan
from sample import generate

TASK, TOK = "countdown:n=3,high=9,ops=+-", shipped()
ROWS = [row_at(TASK, "test", 0, i) for i in range(12)]
PROMPTS = [TOK.encode_prompt(row["prompt"]) for row in ROWS]
SAMPLING = dict(prompt_ids=list(range(12)), temperature=1.0)
CLOSE, EOS = TOK.think_ids[1], TOK.eos_id


@pytest.fixture(scope="module")
def model():
    cfg = ModelConfig(hidden_size=48, num_attention_heads=2, num_hidden_layers=2, kv_lora_rank=16,
        intermediate_size=64, moe_intermediate_size=24, qk_nope_head_dim=16, qk_rope_head_dim=8,
        v_head_dim=16, initializer_range=0.1, max_position_embeddings=512, eos_token_id=TOK.eos_id)
    model, steps = Transformer(cfg).init_weights(), sft.Config(batch_size=8, steps=80, warmup=5, lr=0.02)
    optimizers = make_optimizers(model)
    rows = training_rows(TASK, 0)
    for step in range(80):
        sft.run_step(model, optimizers, step, rows, TOK, steps, Ranks(0, 1, "cpu"))
    return model


@pytest.fixture(scope="module")
def completions(model):
    found = generate(model, PROMPTS, max_new_tokens=120, eos_id=EOS, seed=0, **SAMPLING).completions
    assert sum(CLOSE in c for c in found) >= 6  # enough of them end their thinking
    return found


@pytest.mark.parametrize("budget", [0, 5, 12])
def test_forcing_an_answer_keeps_the_thinking_to_the_budget_and_asks(model, completions, budget):
    forced = force_answer(model, TOK, PROMPTS, completions, budget, seed=1, **SAMPLING)
    changed = 0
    for before, after in zip(completions, forced, strict=True):
        start = int(before[0] == TOK.think_ids[0])
        assert thinking_end(TOK, after) <= start + budget
        if CLOSE in before and thinking_end(TOK, before) <= start + budget:
            assert after == before
        else:
            changed += 1
            end = thinking_end(TOK, after)
            kept = before[: start + budget]
            assert after[:end] == kept[: len(kept) - (kept[-1:] == [EOS])]
            assert TOK.decode(after[end:]).startswith("</think>\n<answer>")
            assert len(after) > end + 3
    assert changed


def test_a_generous_budget_changes_nothing_but_thinking_without_an_end(model, completions):
    forced = force_answer(model, TOK, PROMPTS, completions, 500, seed=1, **SAMPLING)
    assert all(CLOSE in c for c in forced)
    assert all(a == b for a, b in zip(completions, forced, strict=True) if CLOSE in a)


def test_a_boxed_answer_is_not_asked_for_by_a_tag(model, completions):
    forced, tag = [], TOK.encoding.encode_single_token("<answer>")
    for boxed in (True, False):
        one = force_answer(model, TOK, PROMPTS, completions, 3, boxed=boxed, seed=1, **SAMPLING)[0]
        forced.append(one)
    end = thinking_end(TOK, forced[0]) + 2
    assert forced[0][:end] == forced[1][:end] and TOK.decode(forced[0][end - 2 : end]) == "</think>\n"
    assert forced[1][end] == tag and forced[1] != forced[0]


def test_a_step_is_a_line_of_thinking_and_the_last_one_takes_the_answer():
    tokens = TOK.encode("<think>1+2=3 low wait\n2+2=4 ok</think>\n<answer>2+2</answer>", tags=True)
    n = first_line(TOK, tokens)
    assert TOK.decode(tokens[:n]) == "<think>1+2=3 low wait\n"
    assert first_line(TOK, tokens[n:]) == len(tokens) - n  # the line break after </think> ends no step


def child(visits, total, done=False):
    return Node([], done, visits, total)


def test_selection_follows_uct_widens_with_the_visits_and_leaves_what_is_done():
    root = Node([], visits=9, total=5.0)
    root.children = {(1,): child(6, 4.0), (2,): child(2, 1.0), (3,): child(1, 1.0, done=True)}
    for explore in (0.0, 0.5, 2.0):
        bounds = [t / n + explore * math.sqrt(math.log(9) / n) for n, t in ((6, 4.0), (2, 1.0))]
        want = root.children[(1,) if bounds[0] > bounds[1] else (2,)]
        assert select(root, explore, 0.0, 1.0)[1] is want
    assert select(root, 0.0, 0.0, 1.0)[1] is not select(root, 2.0, 0.0, 1.0)[1]
    root.visits = 10  # four children are allowed now
    assert select(root, 0.5, 0.0, 1.0) == [root]
    root.visits, root.children = 4, {(1,): child(2, 2.0, done=True), (2,): child(2, 0.0, done=True)}
    assert select(root, 0.5, 0.0, 1.0) == [root]  # nothing else is left to do


def test_tree_search_spends_its_budget_and_counts_only_what_it_sampled(model):
    common = dict(max_new_tokens=80, explore=0.5, seed=3)
    done = tree_search(model, TOK, PROMPTS, 300, value_function("check", ROWS, NO_PLAN), **common, **SAMPLING)
    for rollouts in done:
        spent = sum(r["new"] for r in rollouts)
        assert 300 - 80 / 2 - 1 <= spent <= 300 + 80
        assert all(0 < r["new"] <= r["tokens"] <= 80 for r in rollouts)
    assert any(r["new"] < r["tokens"] for rollouts in done for r in rollouts)  # some start inside of the tree
    again = tree_search(model, TOK, PROMPTS[6:], 300, value_function("check", ROWS[6:], NO_PLAN), **common,
        prompt_ids=list(range(6, 12)), temperature=1.0)
    # alone, or beside others; where rounding decides a near-tie of a router, one problem's search may differ
    assert sum(a != b for a, b in zip(again, done[6:], strict=True)) <= 1


def test_tree_search_goes_where_the_value_is(model):
    """A value that likes one kind of first line: the rollouts of the later half come from it more often than
    plain samples do. Two seeds: a single search may settle on a line of the other kind for long."""
    def likes(problems, texts, lengths, finished):
        return [float("+" in t.split("\n")[0]) * float("-" not in t.split("\n")[0]) for t in texts]

    done = [rollouts for seed in (4, 5) for rollouts in tree_search(model, TOK, PROMPTS, 3000, likes,
        max_new_tokens=80, explore=0.1, seed=seed, **SAMPLING)]
    plain = generate(model, PROMPTS, group_size=20, max_new_tokens=80, eos_id=EOS, seed=5, **SAMPLING)
    base = likes(None, [TOK.decode_completion(c) for c in plain.completions], None, None)
    late = [r["value"] for rollouts in done for r in rollouts[len(rollouts) // 2 :]]
    assert 0.02 < sum(base) / len(base) < 0.9
    assert sum(late) / len(late) > 1.3 * sum(base) / len(base)


def test_countdown_votes_by_text_and_maths_by_value():
    rows = {"countdown": ["8*(5-2)", "8 * (5-2)", "24"], "math": ["1/2", "0.5", "3"]}
    records = {task: [{"problem": 0, "answer": a, "accuracy": float(i < 2), "tokens": 1,
        "by_value": task == "math"} for i, a in enumerate(answers)] for task, answers in rows.items()}
    for task in rows:
        assert votes_curve(records[task], 3)["votes"][-1]["accuracy"] == 1.0
    records["math"][1]["by_value"] = records["math"][0]["by_value"] = False
    assert votes_curve(records["math"], 3)["votes"][-1]["accuracy"] == pytest.approx(2 / 3)


def test_curves_count_the_tokens_of_every_sample_and_err_over_problems():
    records = [{"problem": p, "answer": str(ok), "accuracy": float(ok), "tokens": 10 * (p + 1),
        "by_value": False, "judge": ok} for p, row in enumerate([[1, 0, 0, 0], [1, 1, 1, 0]]) for ok in row]
    found = votes_curve(records, 4, "judge")
    assert [p["tokens"] for p in found["votes"]] == [15, 30, 60]
    assert found["votes"][0]["accuracy"] == 0.5 and found["votes"][0]["se"] == pytest.approx(0.25)
    assert found["votes"][-1]["accuracy"] == 0.5 and found["best of k"][-1]["accuracy"] == 1.0
    assert found["pass@k"][1]["accuracy"] == pytest.approx((0.5 + 1.0) / 2)


ROW = {"prompt": "Use 5 8 2 to make 24.", "task": "countdown", "numbers": [5, 8, 2], "target": 24}


def test_the_search_judges_by_what_is_known_at_test_time():
    texts = [f"<think>x</think><answer>{a}</answer>" for a in ("8*(5-2)", "8+5+2", "8*(5-2)")]
    three = ([0] * 3, texts, [9] * 3, [True] * 3)
    assert value_function("check", [ROW], NO_PLAN)(*three) == [1, 0, 1]
    assert value_function("agreement", [ROW], NO_PLAN)(*three) == pytest.approx([1, 1 / 2, 2 / 3])
    plan = Plan({"short": lambda completions, **_: [-float(len(c)) for c in completions]}, {})
    assert value_function("short", [ROW], plan)(*three) == [-len(t) for t in texts]
    with pytest.raises(UserError, match="only Countdown"):
        value_function("check", [ROW | {"task": "math"}], NO_PLAN)
    with pytest.raises(UserError, match="did you mean agreement"):
        value_function("agrement", [ROW], NO_PLAN)
