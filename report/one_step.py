"""One GRPO step by hand: docs/one_step.md and docs/one_step.html, from the numbers in docs/one_step.json.

    python report/one_step.py                            # both pages again, from the recorded step
    python report/one_step.py --record --from CHECKPOINT  # sample and train one step first

Recording takes one step of grpo.py with one problem and four completions. The pages need no checkpoint.
"""

import html
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away
sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

import torch

import grpo
from batch import collate, completion_logprobs
from checkpoint import load_model
from config import UserError, knob, parse_args, read_json, run_script
from data.tasks import training_rows
from data.tokenizer import for_checkpoint
from optim import keep_masters
from parallel import setup


@dataclass
class Config:
    from_: str = knob("out/tiny/cold_start", "checkpoint folder, for --record")
    record: bool = knob(False, "sample and train one step from it and write one_step.json")
    task: str = knob("countdown:n=3,high=12,ops=+-*,limit=40,high_target=40", "the task of preset tiny")
    problem: int = knob(106, "number of the problem; its four completions must not all have the same reward")
    reward: str = knob("", "a reward of your own, file.py:function; empty = those of the task")
    lr: float = knob(1e-4, "learning rate of the step")
    remark: str = knob("", "a sentence about what was sampled")
    folder: str = knob("docs", "where one_step.json, one_step.md and one_step.html lie")


DIGITS = 4  # of the recorded log-probabilities; everything else is computed from the rounded numbers

# ---------------------------------------------------------------------------------------- the step, recorded


def settings(cfg: Config) -> grpo.Config:
    """grpo.py's knobs for a step of one problem; the rest are those of preset tiny."""
    return grpo.Config(task=cfg.task, reward=cfg.reward, steps=1, prompts=1, group_size=4, max_new_tokens=70,
        updates=1, lr=5 * cfg.lr, clip_low=0.2, clip_high=0.28, kl_coef=0.0)  # 5: the first step of warm-up


def record(cfg: Config) -> dict:
    """Sample, score, update once; the numbers of it, ready for json.dump. Raises UserError where all rewards
    are equal: such a group teaches nothing."""
    knobs, ranks = settings(cfg), setup("cpu")
    model, tokenizer = load_model(cfg.from_), for_checkpoint(cfg.from_)
    rows = training_rows(cfg.task, knobs.seed, hold_out=True)
    groups = grpo.sample_groups(model, tokenizer, rows, cfg.problem, 1, knobs, ranks)
    samples = grpo.with_advantages(groups, knobs)
    if not samples:
        raise UserError(f"--problem {cfg.problem}: all four rewards are {groups[0][0].scores['reward']:.1f}; "
            "try another one")
    optimizer = torch.optim.AdamW(keep_masters(model), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0,
        fused=True)
    measured = grpo.update(model, None, [optimizer], samples, 0, knobs, tokenizer, ranks)
    with torch.no_grad():
        after, _ = completion_logprobs(model, collate(samples, tokenizer.pad_id, "cpu"), knobs.temperature)
    total, active = model.num_parameters()
    return {"parameters": total, "active": active, "row": rows(cfg.problem), "remark": cfg.remark,
        "settings": {k: getattr(knobs, k) for k in ("task", "seed", "group_size", "temperature", "loss",
            "scale", "clip_low", "clip_high", "kl_coef")} | {"problem": cfg.problem, "lr": cfg.lr},
        "measured": {k: float(f"{measured[k]:.6g}") for k in ("loss", "grad_norm", "logprob_mismatch")},
        "completions": [{
            "tokens": [tokenizer.decode([i]) for i in s.tokens[s.start :]], "finished": s.finished,
            "scores": {k: s.scores[k] for k in ("accuracy", "format", "reward") if k in s.scores},
            "before": [round(x, DIGITS) + 0.0 for x in s.old_logprobs],
            "after": [round(x, DIGITS) + 0.0 for x in new[: len(s.old_logprobs)].tolist()],
        } for s, new in zip(samples, after, strict=True)]}


def as_json(step: dict) -> str:
    """A line per entry, a line per entry of a completion."""
    def lines(entries, indent):
        return (",\n" + indent).join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())

    rest = lines({k: v for k, v in step.items() if k != "completions"}, " ")
    completions = "},\n  {".join(lines(c, "   ") for c in step["completions"])
    return f'{{\n {rest},\n "completions": [\n  {{{completions}}}]\n}}\n'


# ------------------------------------------------------------------------------ what follows from its numbers


def loss_of(step: dict, logprobs, old, advantages) -> tuple[float, dict]:
    """grpo.policy_loss of completions of any lengths, in float64."""
    mask = torch.tensor([[t < len(row) for t in range(max(map(len, old)))] for row in old])
    def padded(rows):
        return torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask,
            torch.tensor(sum(rows, []), dtype=torch.float64))

    chosen = {k: step["settings"][k] for k in ("loss", "clip_low", "clip_high")}
    loss, metrics = grpo.policy_loss(padded(logprobs), padded(old), advantages, mask, **chosen)
    return float(loss), metrics


def computed(step: dict) -> dict:
    """Advantages, per token ratio and loss, per completion the mean loss, the loss before and after."""
    done = step["completions"]
    rewards = torch.tensor([c["scores"]["reward"] for c in done], dtype=torch.float64)
    advantages = grpo.group_advantages(rewards, len(done), step["settings"]["scale"])
    old, new = [c["before"] for c in done], [c["after"] for c in done]
    out = {"mean": float(rewards.mean()), "std": float(rewards.std()), "completions": []}
    out["before"], _ = loss_of(step, old, old, advantages)
    out["after"], out["metrics"] = loss_of(step, new, old, advantages)
    for i, c in enumerate(done):
        one, tokens = advantages[i : i + 1], []
        for text, a, b in zip(c["tokens"], old[i], new[i], strict=True):
            loss, m = loss_of(step, [[b]], [[a]], one)  # a batch of this token alone
            tokens.append({"text": text, "before": a, "after": b, "ratio": m["ratio"], "loss": loss,
                "clipped": m["clip_fraction"] > 0})
        out["completions"].append({"tokens": tokens, "advantage": float(one), "scores": c["scores"],
            "loss": loss_of(step, [new[i]], [old[i]], one)[0]})
    return out


def by_hand(token: dict, A: float, low: float, high: float) -> list[str]:
    """A token's loss as one computes it with a pocket calculator. one_step.html has this once more, in its
    script."""
    ratio, moved = f"{token['ratio']:.4f}", token["after"] - token["before"]
    clip = f"{min(max(token['ratio'], low), high):.4f}"
    return [f"ratio = exp(after - before) = exp({token['after']:.4f} - ({token['before']:.4f})) "
            f"= exp({moved:.4f}) = {ratio}",
        f"clip(ratio, {low:g}, {high:g}) = {clip}",
        f"loss = -min({ratio} x {A:.4f}, {clip} x {A:.4f}) = {token['loss']:.4f}"]


def telling(tokens: list[dict]) -> dict:
    """The token to work out: of those that were clipped, or else of all, the one that moved most."""
    return max([t for t in tokens if t["clipped"]] or tokens, key=lambda t: abs(t["after"] - t["before"]))


# ---------------------------------------------------------------------------------------- what both pages say


def number(x: float, digits: int = DIGITS) -> str:
    """Fixed digits, and never -0.0000."""
    return f"{round(x, digits) + 0.0:.{digits}f}"


def visible(text: str) -> str:
    """A token in a table cell: its leading space and its line break can be seen. Plain ASCII."""
    shown = html.escape(text).replace("|", "&#124;").replace("\n", "&#8629;").replace(" ", "&#9251;")
    return f"<code>{shown}</code>"


def introduction(step: dict) -> list[str]:
    return ["One prompt, four completions that a tiny model wrote, and one update of its weights. Every "
        "number is of a real step: the functions of [grpo.py](../grpo.py) computed it, "
        "[one_step.json](one_step.json) keeps the log-probabilities, and a test makes this page again from "
        f"them. They are rounded to {DIGITS} digits, and all that follows is computed from the rounded "
        "numbers: you can check it with a pocket calculator.",
        f"The model has {step['parameters'] / 1e6:.1f} million parameters and comes out of the cold start "
        "(`python sft.py --config tiny`): it knows what a search looks like, and gives up early. "
        + step["remark"]]


def on_advantages(step: dict, now: dict) -> list[str]:
    first = now["completions"][0]
    return ["A program reads the answer and computes the reward: 1 if it is right, and 0.1 if the tags are "
        "in their places (`rewards.score`). No model judges. What counts is the reward beside those of the "
        "same prompt (`grpo.group_advantages`; DeepSeekMath, arXiv 2402.03300, sec. 4.1.2):",
        f"`A = (reward - mean) / (std + 0.0001)`, with mean {number(now['mean'], 2)} and std "
        f"{number(now['std'], 2)}. For completion 1: `({number(first['scores']['reward'], 1)} - "
        f"{number(now['mean'], 2)}) / ({number(now['std'], 2)} + 0.0001) = {number(first['advantage'])}`. "
        "All tokens of a completion share its advantage."]


def on_update(step: dict, now: dict) -> list[str]:
    m, c = step["measured"], step["settings"]
    return ["The loss of a token is `-min(ratio x A, clip(ratio) x A)`, where `ratio = exp(after - before)` "
        "compares the policy that is trained with the one that sampled (DeepSeekMath eq. 3; "
        "`grpo.policy_loss`). At first both are the same: each ratio is 1, each token's loss is `-A`, and "
        f"the mean over the group is {number(now['before'])}. But the gradient is not 0: with respect to a "
        f"token's log-probability it is `-A / ({len(now['completions'])} x tokens of its completion)`. A "
        "step against it raises the tokens of the completions that did better than the group, and lowers "
        "the others.",
        f"The step: gradient norm {m['grad_norm']:.3f}, AdamW with learning rate {c['lr']:g} "
        "(`grpo.update`, `optim.apply_gradients`). AdamW's first step changes every weight by about the "
        "learning rate, however small its gradient: that moves rare tokens far. The sampler itself wrote "
        "down the log-probabilities before the update; the training pass computes the same numbers within "
        f"{m['logprob_mismatch']:.6f}. The KL term is left out (`--kl_coef 0`): at the first step the "
        "reference is the policy itself, and the term is 0."]


def on_tokens(step: dict, now: dict) -> list[str]:
    c, everything = step["settings"], [t for x in now["completions"] for t in x["tokens"]]
    count = sum(t["clipped"] for t in everything)
    moved = max(everything, key=lambda t: abs(t["after"] - t["before"]))
    return [f"The log-probabilities after the update. {count} of {len(everything)} tokens left the interval "
        f"from {1 - c['clip_low']:g} to {1 + c['clip_high']:g} in the direction that their advantage wants. "
        "Their loss counts with the bound (the tables have an arrow there), and would give no further "
        "gradient. Here the clip only shows what it would do; with `--updates 2` it acts on the second "
        "minibatch, whose log-probabilities come from weights that have moved already.",
        f"The token that moved most is {visible(moved['text'])}: its probability went from "
        f"{math.exp(moved['before']):.2g} to {math.exp(moved['after']):.2g}. Tokens that the model was "
        "sure of hardly move: at a probability near 1 there is almost no gradient."]


def reward_rows(now: dict) -> list[list[str]]:
    return [["completion", "tokens", "right", "form", "reward", "advantage A"]] + [
        [str(i), str(len(c["tokens"])), number(c["scores"]["accuracy"], 0),
            number(c["scores"].get("format", 0), 0), number(c["scores"]["reward"], 1), number(c["advantage"])]
        for i, c in enumerate(now["completions"], 1)]


def token_rows(one: dict, low: float, high: float) -> list[list[str]]:
    rows = [["", "token", "before", "after", "moved", "ratio", "loss"]]
    for i, t in enumerate(one["tokens"], 1):
        bound = f" &rarr; {low if t['ratio'] < low else high:g}" * t["clipped"]
        rows.append([str(i), visible(t["text"]), number(t["before"]), number(t["after"]),
            number(t["after"] - t["before"]), number(t["ratio"]) + bound, number(t["loss"])])
    return rows


def loss_rows(now: dict) -> list[list[str]]:
    done = now["completions"]
    return [["completion", "sum of its tokens' losses", "tokens", "mean"]] + [
        [str(i), number(sum(t["loss"] for t in c["tokens"])), str(len(c["tokens"])), number(c["loss"])]
        for i, c in enumerate(done, 1)] + [["mean of all", "", "", number(now["after"])]]


ON_LOSS = ("The mean over the tokens of each completion, then the mean over the completions: GRPO's loss "
    "(DAPO and Dr. GRPO divide otherwise: the table `LOSSES` of grpo.py).")
SECTIONS = ("1. The prompt and what the model wrote", "2. Reward and advantage", "3. The update",
    "4. What it moved, token by token", "5. The loss after the update")


def bounds(step: dict) -> tuple[float, float]:
    return 1 - step["settings"]["clip_low"], 1 + step["settings"]["clip_high"]


# ------------------------------------------------------------------------------------------------ as markdown


def table(rows: list[list[str]]) -> list[str]:
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *rest, ""]


def markdown(step: dict) -> str:
    now, (low, high) = computed(step), bounds(step)
    paragraphs = [on_advantages(step, now), on_update(step, now), on_tokens(step, now)]
    advantages, update, tokens = ([line for p in some for line in (p, "")] for some in paragraphs)
    lines = ["# One GRPO step by hand", "", *(x for p in introduction(step) for x in (p, "")),
        "In colours, with each token's loss at a tap: [one_step.html](one_step.html), a file to open in a "
        "browser.", "",
        f"## {SECTIONS[0]}", "", "    " + step["row"]["prompt"], ""]
    for i, c in enumerate(step["completions"], 1):
        lines += [f"Completion {i}:", "", *("    " + x for x in "".join(c["tokens"]).splitlines()), ""]
    lines += [f"## {SECTIONS[1]}", "", *advantages, *table(reward_rows(now)),
        f"## {SECTIONS[2]}", "", *update, f"## {SECTIONS[3]}", "", *tokens]
    for i, c in enumerate(now["completions"], 1):
        token = telling(c["tokens"])
        lines += [f"Completion {i}, A = {number(c['advantage'])}; its token {visible(token['text'])}, number "
            f"{c['tokens'].index(token) + 1}, by hand:", "",
            *("    " + line for line in by_hand(token, c["advantage"], low, high)), "",
            f"<details><summary>all {len(c['tokens'])} tokens of completion {i}</summary>", "",
            *table(token_rows(c, low, high)), "</details>", ""]
    return "\n".join(lines + [f"## {SECTIONS[4]}", "", ON_LOSS, "", *table(loss_rows(now))])


# ---------------------------------------------------------------------------------------------------- as HTML

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fdfdfc; --soft: #f1f1ee; --line: #d5d5d0;
  --quiet: #62666d; --link: #1a5fb4; --up: 37, 99, 235; --down: 219, 92, 12; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #17181a; --soft: #222427;
  --line: #3c3f44; --quiet: #a0a4ab; --link: #8ab4f8; --up: 96, 150, 255; --down: 255, 135, 50; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 54rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; } h3 small { font-weight: normal; color: var(--quiet); }
a { color: var(--link); } code, pre, .text { font-family: ui-monospace, Menlo, Consolas, monospace; }
code { font-size: .9em; background: var(--soft); border-radius: 3px; padding: 0 .2em; }
pre { background: var(--soft); border-radius: 6px; padding: .7rem; margin: .6rem 0 0; white-space: pre-wrap;
  font-size: .82rem; line-height: 1.5; }
section { border: 1px solid var(--line); border-radius: 8px; padding: .9rem; margin: 1rem 0; }
.text { white-space: pre-wrap; line-height: 2; font-size: .95rem; }
.text span { --a: 0; padding: .2em 0; border-radius: 3px; cursor: pointer; }
.up { background: rgba(var(--up), var(--a)); } .down { background: rgba(var(--down), var(--a)); }
.clipped { text-decoration: underline 2px; text-underline-offset: 3px; }
.special { color: var(--quiet); } .text span.chosen { outline: 2px solid var(--ink); }
.scale { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .85rem; color: var(--quiet); }
.scale b { color: var(--ink); font-weight: normal; padding: .1em .5em; border-radius: 3px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: normal; vertical-align: bottom; }
.tokens th:nth-child(2), .tokens td:nth-child(2) { text-align: left; }
.wide { overflow-x: auto; } details { margin-top: .8rem; } summary { cursor: pointer; color: var(--link); }
@media (max-width: 600px) { th, td { padding: .15rem .3rem; } .tokens { font-size: .72rem; }
  .tokens th, .tokens td { padding: .15rem .2rem; } .tokens :is(th, td):nth-child(5) { display: none; }
  pre { font-size: .74rem; } }
"""
SCRIPT = """
function show(token) {
  const box = token.closest("section"), {a, low, high} = box.dataset, A = (+a).toFixed(4);
  const [before, after, ratio, loss] = token.dataset.n.split(" "), moved = (after - before).toFixed(4);
  const clip = Math.min(Math.max(ratio, low), high).toFixed(4);
  box.querySelectorAll(".chosen").forEach(t => t.classList.remove("chosen"));
  token.classList.add("chosen");
  box.querySelector("pre").textContent = `token ${JSON.stringify(token.dataset.text)}, A = ${A}\n`
    + `ratio = exp(after - before) = exp(${after} - (${before})) = exp(${moved}) = ${ratio}\n`
    + `clip(ratio, ${low}, ${high}) = ${clip}\n`
    + `loss = -min(${ratio} x ${A}, ${clip} x ${A}) = ${loss}`;
}
for (const token of document.querySelectorAll(".text span")) {
  token.tabIndex = 0;
  token.addEventListener("click", () => show(token));
  token.addEventListener("keydown", e => { if (e.key === "Enter") show(token); });
}
"""
FULL = 1.0  # nats of movement that get the full colour


def inline(text: str) -> str:
    """`code` and [text](address) as HTML; the rest is HTML already."""
    text = re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', text)
    return "<p>" + re.sub(r"`(.+?)`", r"<code>\1</code>", text) + "</p>"


def html_table(rows: list[list[str]], kind: str = "") -> str:
    cells = [f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in row)}</tr>"
        for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True)]
    return f'<div class="wide"><table class="{kind}">\n' + "\n".join(cells) + "\n</table></div>"


def coloured(token: dict, chosen: bool) -> str:
    """A token whose background shows how far its log-probability moved, with its numbers."""
    moved = token["after"] - token["before"]
    classes = ["up" if moved > 0 else "down", *["clipped"] * token["clipped"],
        *["special"] * token["text"].startswith("<"), *["chosen"] * chosen]
    strength = min(1.0, abs(moved) / FULL) ** 0.5 * 0.6  # the root: small movements are visible, too
    numbers = " ".join(number(token[k]) for k in ("before", "after", "ratio", "loss"))
    text = html.escape(token["text"])
    return (f'<span class="{" ".join(classes)}" style="--a:{strength:.2f}" data-n="{numbers}" '
        f'data-text="{text}" title="{number(token["before"])} to {number(token["after"])}">{text}</span>'
        ).replace('data-text="\n"', 'data-text="&#10;"')


def html_completion(number_: int, one: dict, low: float, high: float) -> str:
    token = telling(one["tokens"])
    text = "".join(coloured(t, t is token) for t in one["tokens"])
    hand = "\n".join([f"token {json.dumps(token['text'])}, A = {number(one['advantage'])}",
        *by_hand(token, one["advantage"], low, high)])
    return "\n".join([f'<section data-a="{one["advantage"]:.10g}" data-low="{low:g}" data-high="{high:g}">',
        f"<h3>Completion {number_} <small>reward {number(one['scores']['reward'], 1)}, "
        f"A = {number(one['advantage'])}, {len(one['tokens'])} tokens</small></h3>",
        f'<div class="text">{text}</div>', f"<pre>{html.escape(hand)}</pre>",
        f"<details><summary>all {len(one['tokens'])} tokens</summary>",
        html_table(token_rows(one, low, high), "tokens"), "</details></section>"])


def page(step: dict) -> str:
    now, (low, high) = computed(step), bounds(step)
    texts = [[*map(inline, f(step, now))] for f in (on_advantages, on_update, on_tokens)]
    scale = "".join(f'<b class="{"up" if x > 0 else "down"}" style="--a:{min(1, abs(x)) ** 0.5 * 0.6:.2f}">'
        f"{x:+g}</b>" for x in (-1, -0.3, -0.1, 0.1, 0.3, 1))
    written = "".join(f"<pre>{html.escape(''.join(c['tokens']))}</pre>\n" for c in step["completions"])
    parts = ["<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>One GRPO step by hand</title><style>{STYLE}</style></head><body>",
        "<h1>One GRPO step by hand</h1>", *map(inline, introduction(step)),
        f"<h2>{SECTIONS[0]}</h2>", f"<pre><b>{html.escape(step['row']['prompt'])}</b></pre>", written,
        f"<h2>{SECTIONS[1]}</h2>", *texts[0], html_table(reward_rows(now)),
        f"<h2>{SECTIONS[2]}</h2>", *texts[1], f"<h2>{SECTIONS[3]}</h2>", *texts[2],
        f'<div class="scale">log-probability moved by {scale}<span class="clipped">clipped</span> '
        "tap a token: its loss by hand</div>",
        *(html_completion(i, c, low, high) for i, c in enumerate(now["completions"], 1)),
        f"<h2>{SECTIONS[4]}</h2>", inline(ON_LOSS), html_table(loss_rows(now)),
        f"<script>{SCRIPT}</script></body></html>", ""]
    return "\n".join(parts)


def main():
    cfg, _ = parse_args(Config, {"default": {}}, __doc__)
    folder = Path(cfg.folder)
    if cfg.record:
        (folder / "one_step.json").write_text(as_json(record(cfg)), encoding="ascii")
    step = read_json(folder / "one_step.json")
    for name, made in (("one_step.md", markdown(step)), ("one_step.html", page(step))):
        (folder / name).write_text(made, encoding="ascii")
    print(f"pages: {folder}/one_step.md, {folder}/one_step.html")


if __name__ == "__main__":
    run_script(main)
