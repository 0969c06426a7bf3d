"""Pictures (development extra: matplotlib).

    python report/plot.py out/tiny/grpo [out/other/grpo ...]  # a run's metrics; several runs in one picture
    python report/plot.py --aha out/tiny/zero [N]             # one held-out problem being learnt, N of 8
    python report/plot.py --curves out/tiny/zero/curves.json  # accuracy over tokens: experiments/search.py
    python report/plot.py --report out/tiny [out/seed1/tiny]  # the table of stages; several: mean and std
    python report/plot.py --experts out/tiny/grpo             # which tokens each expert gets
    python report/plot.py --thoughts out/tiny/quiet/thoughts.json  # thoughts between a text's tokens
"""

import math
import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

from config import UserError, read_json, run_script
from metrics import OF_ATTEMPTS, REFLECTION
from report.pages import histories, read_rows, read_stages, watch, write_report

PANELS = [  # (key of the train rows, title)
    ("reward", "reward (mean over the rollout)"),
    ("accuracy", "accuracy: rollouts, and held out +- SE"),
    ("length", "completion length (tokens)"),
    ("reflections", "reflection words per completion"),
    ("entropy", "entropy (nats per token)"),
    ("kl", "KL to the reference"),
    ("clip_fraction", "clipped tokens (share)"),
    ("no_variance", "groups without variance (share)"),
    ("truncated", "truncated completions (share)"),
]
SEARCH_PANELS = [  # of runs on Countdown
    ("attempts", "attempts per completion"),
    ("attempts_true", "attempts calculated truly (share), held out +- SE"),
    ("attempts_repeated", "attempts tried before (share), held out +- SE"),
]
AHA_PANELS = [
    ("accuracy", "accuracy: rollouts, and held out +- SE"),
    ("length", "completion length (tokens)"),
    ("reflections", "reflection words per completion"),
    ("corrected", "a wrong attempt corrected, right at the end (share)"),
    ("verified", "the right result checked again (share)"),
    ("mixed", "thinking in mixed languages (share)"),
]
EVAL_KEY = {"accuracy": "pass@1", "length": "length", "reflections": "reflections", "truncated": "truncated",
    "corrected": "corrected", "verified": "verified", "mixed": "mixed",
    **{key: key for key, _ in SEARCH_PANELS}}
KINDS = {  # of a completion's tokens, by their text; the first that fits
    "digits": r"\d", "+ - * / =": r"[-+*/=]", "brackets": r"[()]", "need": r" ?need",
    "low, high": r" ?(low|high)", "wait": r" ?wait",
    "ok": r" ?ok", "tags": r"<.+>", "spaces, line breaks": r"\s+", "other words": r".*",
}
COLUMN, MOST_LINES = 46, 40  # characters and lines of a completion in the picture of one problem


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def draw(folders: list[Path], panels=PANELS, name: str = "curves.png", into: Path | None = None) -> Path:
    """Draw the runs' metrics, three panels in a row, into the first folder (or `into`); return the path."""
    figure, axes = pyplot().subplots(len(panels) // 3, 3, figsize=(14, len(panels)), constrained_layout=True)
    for folder in folders:
        rows = read_rows(folder / "metrics.jsonl")
        train, evals = ([r for r in rows if r["kind"] == kind] for kind in ("train", "eval"))
        label = "/".join(folder.parts[-2:])
        for ax, (key, title) in zip(axes.flat, panels, strict=True):
            points = [(r["step"], r[key]) for r in train if key in r]
            if key == "kl" and not points:
                points, title = ([(r["step"], r["kl_old"]) for r in train if "kl_old" in r],
                    "KL to the old policy")
            line = ax.plot(*zip(*points, strict=True), lw=1.2, label=label)[0] if points else None
            ax.set_title(title, fontsize=10)
            ax.set_xlabel("step", fontsize=8)
            ax.grid(alpha=0.3)
            at = EVAL_KEY.get(key)
            held = [r for r in evals if at in r]
            if held:
                ax.errorbar([r["step"] for r in held], [r[at] for r in held], fmt="o", ms=4, capsize=3,
                    yerr=[r[f"{at}_se"] for r in held] if at in ("pass@1", *OF_ATTEMPTS) else None,
                    color=line and line.get_color())
            if key == "reflections" and held:
                ax.axhline(held[0]["reflections"], ls="--", lw=1, color=line and line.get_color())
    for ax, (key, _) in zip(axes.flat, panels, strict=True):
        if key in ("corrected", "verified", "mixed"):  # after all runs: a limit ends the automatic scale
            ax.set_ylim(bottom=0)
    legend_below(figure, axes, {"points: held out": "o", "dashed: held out, step 0": "--"})
    path = (into or folders[0]) / name
    figure.savefig(path, dpi=90)
    return path


def searches(folders: list[Path]) -> list[tuple[str, str]]:
    """The panels of the search, if a run has any of their numbers."""
    keys = {key for folder in folders for row in read_rows(folder / "metrics.jsonl") for key in row}
    return SEARCH_PANELS if any(key in keys for key, _ in SEARCH_PANELS) else []


def legend_below(figure, axes, styles: dict[str, str] | None = None, across: int = 5):
    """One legend for all panels, below them: it covers no data. styles: what a marker or a line means, in
    gray."""
    from matplotlib.lines import Line2D

    found = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    for label, style in (styles or {}).items():
        found[label] = Line2D([], [], color="gray", **{"ls": style} if "-" in style else
            {"marker": style, "ls": ""})
    if found:
        figure.legend(found.values(), found, fontsize=8, ncols=min(across, len(found)),
            loc="outside lower center")


def completion_lines(text: str) -> list[str]:
    """A completion as the picture shows it: long lines wrapped, the middle of a long one left out."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, COLUMN) or [""]]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 8], f"... {len(lines) - MOST_LINES + 1} lines ...", *lines[-7:]]
    return lines


def spread(rows: list, count: int) -> list:
    """Up to `count` of the rows, first and last among them, evenly spaced."""
    if len(rows) <= count:
        return rows
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def draw_history(history: list[dict], path: Path) -> Path:
    """One problem's completions side by side, a column per step: lines with a reflection word in orange, the
    last line green where the answer is right and red where it is wrong."""
    shown = spread(history, 5)
    columns = [completion_lines(row["completion"]) for row in shown]
    widths = [max(16, *(len(line) for line in lines), 24) + 3 for lines in columns]
    height = max(map(len, columns)) + 4
    figure = pyplot().figure(figsize=(sum(widths) * 0.068 + 0.3, height * 0.16))
    def put(x, line, text, **style):
        figure.text(x + 0.01, 1 - (line + 1) / height, text, family="monospace", fontsize=8, parse_math=False,
            va="center", **style)

    put(0, 0, history[0]["prompt"], weight="bold")
    for at, (row, lines) in enumerate(zip(shown, columns, strict=True)):
        x = sum(widths[:at]) / sum(widths) * 0.98
        right = row["accuracy"] >= 1
        verdict = "right" if right else "wrong"
        put(x, 1.2, f"step {row['step']}: {verdict}, {row['tokens']} tokens", color="gray")
        for i, line in enumerate(lines):
            last = i == len(lines) - 1
            color = ("tab:green" if right else "tab:red") if last else (
                "tab:orange" if REFLECTION.search(line) else "black")
            put(x, i + 2.4, line, color=color)
    figure.savefig(path, dpi=110)
    return path


def draw_aha(run: Path, number: int | None) -> list[Path]:
    """aha.md (all problems), aha.png (one problem: number N, or the most telling), aha_metrics.png."""
    found = histories(run)
    order = list(dict.fromkeys(row["prompt"] for row in read_rows(run / "samples.jsonl")))
    if number is not None and not 1 <= number <= len(order):
        raise UserError(f"--aha: problem {number}: samples.jsonl follows {len(order)} problems")
    chosen = found[0] if number is None else next(h for h in found if h[0]["prompt"] == order[number - 1])
    pictures = [draw_history(chosen, run / "aha.png"), draw([run], AHA_PANELS, "aha_metrics.png")]
    return [watch(run, found), *pictures]


def draw_spending(files: list[Path], path: Path) -> Path:
    """Accuracy over tokens per problem, a panel per evaluation: every way to spend them on one axis."""
    plt = pyplot()
    across = min(3, len(files))
    down = math.ceil(len(files) / across)
    figure, axes = plt.subplots(down, across, figsize=(0.5 + 6.5 * across, 5 * down), squeeze=False,
        sharey=True, constrained_layout=True)
    for ax in axes.flat[len(files) :]:
        ax.axis("off")
    for ax, file in zip(axes.flat, files, strict=False):
        raw = read_json(file)
        if not raw.get("curves"):
            raise UserError(f"{file} holds no curves: experiments/search.py --json {file}")
        for way, points in raw["curves"].items():
            x, y, e = ([p[k] for p in points] for k in ("tokens", "accuracy", "se"))
            if way == "search":  # single points; one sample and the votes are on a curve already
                for p, mark in zip(points[2 if "votes" in raw["curves"] else 0 :], "Dsvo", strict=False):
                    ax.errorbar(p["tokens"], p["accuracy"], p["se"], fmt=mark, ms=7, mfc="none", capsize=3,
                        label=p["name"])
                continue
            style = dict(ls=":", color="gray") if way == "pass@k" else dict(ls="-")
            label = {"budget": "one sample, thinking cut or prolonged", "votes": "k votes (cons@k)",
                "pass@k": "pass@k (told which is right)"}.get(way, way)
            ax.errorbar(x, y, e, marker="o", ms=4, lw=1.3, capsize=3, label=label, **style)
            last = {"tokens": math.inf, "accuracy": 0.0}
            for p in points[way == "votes" :] if way in ("budget", "votes") else ():
                near = abs(p["tokens"] / last["tokens"] - 1) < 0.15
                if near and abs(p["accuracy"] - last["accuracy"]) < 0.02:
                    continue  # the label before it would be overwritten
                last = p
                ax.annotate(p["name"], (p["tokens"], p["accuracy"]), xytext=(3, -11), fontsize=7,
                    textcoords="offset points")
        ax.set_xscale("log", base=2)
        ticks = [2**i for i in range(2, 20) if 2**i <= max(p["tokens"] for c in raw["curves"].values()
            for p in c) * 1.2]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xlabel("tokens spent per problem")
        ax.set_ylabel("accuracy +- SE over problems")
        settings = raw["settings"]
        ax.set_title(f"{settings['from_']}: {settings['problems']} held-out problems", fontsize=10)
        ax.grid(alpha=0.3)
    legend_below(figure, axes, across=2 * across)
    figure.savefig(path, dpi=100)
    return path


def draw_stages(recipe: dict[str, dict], path: Path) -> Path:
    """pass@1, cons@k and pass@k of the evaluated stages, with standard errors."""
    stages = [(s, r["metrics"]) for s, r in recipe.items() if "pass@1" in r["metrics"]]
    figure, ax = pyplot().subplots(figsize=(2 + 1.1 * len(stages), 4.5), constrained_layout=True)
    for i, (key, color) in enumerate([("pass@1", "tab:blue"), ("cons@k", "tab:orange"), ("pass@k", "0.75")]):
        ax.bar([x + (i - 1) * 0.27 for x in range(len(stages))], [m[key] for _, m in stages], 0.27,
            color=color, yerr=[m.get(f"{key}_se", 0) for _, m in stages], capsize=3, label=key)
    ax.set_xticks(range(len(stages)), [re.sub("_", "\n", s) for s, _ in stages])
    ax.set_ylabel("held out, +- SE over problems")
    figure.legend(fontsize=8, ncols=3, loc="outside upper center")
    ax.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=100)
    return path


def expert_shares(model, tokenizer, prompts: list[str], samples: int = 4, max_new_tokens: int = 256):
    """Per kind of token (KINDS) the share that each expert gets, (MoE layers, E), summing to 1 over the
    experts; and how many tokens of the kind the completions have. Kinds without a token are left out."""
    import numpy as np

    from sample import generate  # here, for it needs torch: pictures of a run's metrics do not

    ids = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    out = generate(model, ids, group_size=samples, max_new_tokens=max_new_tokens, eos_id=tokenizer.eos_ids,
        seed=0, record_routing=True)
    shares, counts = {}, dict.fromkeys(KINDS, 0)
    for i, (completion, routing) in enumerate(zip(out.completions, out.routing, strict=True)):
        own = routing[len(ids[i // samples]) :]  # (tokens - 1, MoE layers, K): the last one goes through none
        for token, used in zip(completion, own, strict=False):
            text = tokenizer.decode([token])
            kind = next(k for k, pattern in KINDS.items() if re.fullmatch(pattern, text, re.S))
            counts[kind] += 1
            table = shares.setdefault(kind, np.zeros((routing.shape[1], model.cfg.n_routed_experts)))
            for layer, experts in enumerate(used):
                table[layer, experts] += 1 / len(experts)
    return {k: shares[k] / counts[k] for k in KINDS if k in shares}, counts


def draw_experts(run: Path, problems: int = 32) -> Path:
    """What the experts do: a panel per MoE layer, a row per kind of token, a column per expert."""
    from checkpoint import load_model
    from data.tokenizer import for_checkpoint
    from eval import held_out

    model, settings = load_model(run), read_json(run / "run.json")
    if model.cfg.is_dense:
        raise UserError(f"{run} is a dense model: it has no experts")
    reading = {k: settings.get(k, "") for k in ("columns", "answer_pattern")}
    rows = held_out(settings.get("eval_task") or settings["task"], problems, **reading)
    prompts = [row["prompt"] for row in rows]
    shares, counts = expert_shares(model, for_checkpoint(run), prompts)
    layers, E = next(iter(shares.values())).shape
    most = max(float(table.max()) for table in shares.values())
    figure, axes = pyplot().subplots(1, layers, figsize=(1.6 + 0.42 * E * layers, 1.0 + 0.3 * len(shares)),
        sharey=True, squeeze=False, constrained_layout=True)
    for layer, ax in enumerate(axes.flat):
        picture = [table[layer] for table in shares.values()]
        ax.imshow(picture, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for y, row in enumerate(picture):
            for x, share in enumerate(row):
                ax.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share > 0.6 * most else "black")
        ax.set_xticks(range(E), range(E), fontsize=7)
        ax.set_yticks(range(len(shares)), [f"{kind} ({counts[kind]})" for kind in shares], fontsize=8)
        ax.set_title(f"layers.{model.cfg.first_k_dense_replace + layer}: percent per expert", fontsize=9)
    K = model.cfg.num_experts_per_tok
    figure.suptitle(f"{K} of {E} experts per token: {100 / K:.0f} = that expert gets all tokens of the kind; "
        f"evenly, each would have {100 / E:g}", fontsize=9)
    path = run / "experts.png"
    figure.savefig(path, dpi=90)
    return path


def draw_thoughts(file: Path, wide: int = 56) -> list[Path]:
    """thoughts.png: a document, per token how much likelier thinking makes it (its color) and the mixing
    weight (the bar below it), hard tokens framed; below, the thoughts before the three tokens, hard ones if
    there are so many, that it changed most. mask.png: what the thoughts of a text of four tokens attend
    to."""
    plt, raw = pyplot(), read_json(file)
    if not raw.get("gain"):
        raise UserError(f"{file} holds no thoughts: experiments/quiet.py writes it")
    gains = [sum(gain) / len(gain) for gain in raw["gain"]]  # of token i + 1; nothing predicts the first
    texts = [repr(text)[1:-1].replace(" ", "_") for text in raw["tokens"]]
    able = [i for i in range(len(gains)) if raw["hard"][i + 1] or sum(raw["hard"]) < 3]
    most = sorted(sorted(able, key=lambda i: -abs(gains[i]))[:3])
    places, x, y = [], 0, 0
    for i, text in enumerate(texts):
        x, y = (0, y + 1) if x + len(text) + 1 > wide else (x, y)
        places.append((x, y))
        x, y = (0, y + 1) if raw["tokens"][i] == "\n" else (x + len(text) + 1, y)
    notes = []
    for i in most:
        notes += ["", f"before '{texts[i + 1]}', after ...{''.join(texts[max(0, i - 16) : i + 1])}"]
        notes += [f"    {gain:+.3f}  {thought!a}" for gain, thought in
            zip(raw["gain"][i], raw["thoughts"][i], strict=True)]
    high = places[-1][1] + 1
    figure, ax = plt.subplots(figsize=(11, 0.42 * high + 0.2 * len(notes) + 0.6), constrained_layout=True)
    edge = max(1e-3, sorted(map(abs, gains))[int(0.95 * (len(gains) - 1))])  # one token in twenty is beyond
    trust = max(raw["weight"])
    for i, (text, (x, y)) in enumerate(zip(texts, places, strict=True)):
        color = plt.get_cmap("RdYlGn")(0.5 + max(-1, min(1, gains[i - 1] / edge)) / 2) if i else "white"
        ax.add_patch(plt.Rectangle((x, y), len(text) + 0.8, 0.62, color=color, lw=0))
        if raw["hard"][i]:
            ax.add_patch(plt.Rectangle((x, y), len(text) + 0.8, 0.62, fill=False, lw=1.2))
        if i:
            bar = (len(text) + 0.8) * raw["weight"][i - 1] / trust
            ax.add_patch(plt.Rectangle((x, y + 0.68), bar, 0.14, color="0.3"))
        ax.text(x + (len(text) + 0.8) / 2, y + 0.33, text, family="monospace", fontsize=9, ha="center",
            va="center", parse_math=False)
    for i, line in enumerate(notes):
        ax.text(0, high + 0.3 + 0.48 * i, line, family="monospace", fontsize=8, va="center", parse_math=False)
    ax.set(xlim=(-0.5, wide + 6), ylim=(high + 0.48 * len(notes) + 0.3, -0.2))
    ax.axis("off")
    ax.set_title(f"likelier (green) or less likely (red) through thinking, full color from {edge:.3f} nats "
        f"on; bar: the thought's weight, the token's width is {trust:.3f}; framed: hard", fontsize=9)
    figure.savefig(file.with_name("thoughts.png"), dpi=100)
    return [file.with_name("thoughts.png"), draw_mask(raw["mask"], raw["length"], file.with_name("mask.png"))]


def draw_mask(mask: list, length: int, path: Path) -> Path:
    """The mask that thoughts.sees returns for the T positions of a text, each followed by one thought of m
    tokens (T, m, T + m): a row per token that attends, a column per token that is attended to."""
    T, m = len(mask), len(mask[0])
    names = ["start", *(f"z{i + 1}" for i in range(length)), "end"]
    names += [f"+{i + 1}" for i in range(m - len(names))]  # the true tokens behind the thought
    size = T + T * m
    cells = [[float(j <= i) if j < T else 0.0 for j in range(size)] for i in range(T)]  # the text is causal
    for t, rows in enumerate(mask):
        for row in rows:
            own = [0.0] * (T * m)
            own[t * m : (t + 1) * m] = [0.6 * x for x in row[T:]]
            cells.append([*map(float, row[:T]), *own])
    labels = [f"x{t}" for t in range(T)] + [f"{t}: {name}" for t in range(T) for name in names]
    figure, ax = pyplot().subplots(figsize=(0.16 * size + 1.5, 0.16 * size + 1.2), constrained_layout=True)
    ax.imshow(cells, cmap="Blues", vmin=0, vmax=1)
    for k in range(T + 1):
        for line in (ax.axhline, ax.axvline):
            line(T + k * m - 0.5, color="0.6", lw=0.6)
    ax.set_xticks(range(size), labels, rotation=90, fontsize=6)
    ax.set_yticks(range(size), labels, fontsize=6)
    ax.set_title("who attends (row) to whom (column): dark the text, light the own thought", fontsize=9)
    figure.savefig(path, dpi=100)
    return path


def report(folders: list[Path]) -> list[Path]:
    """report.md and its pictures, of what is there."""
    recipes, home, pictures = [read_stages(f) for f in folders], folders[0], []
    stages = recipes[0]
    if any("pass@1" in r["metrics"] for r in stages.values()):
        pictures.append(draw_stages(stages, home / "report.png"))
    runs = [r["dir"] for r in stages.values() if r["dir"] and (r["dir"] / "samples.jsonl").exists()
        and (r["dir"] / "samples.jsonl").stat().st_size]
    if runs:
        pictures.append(draw(runs, AHA_PANELS, "report_evolution.png", home))
    paths = [r["dir"] / "curves.json" for r in stages.values() if r["dir"]]
    if spending := [path for path in paths if path.exists()]:
        pictures.append(draw_spending(spending, home / "report_curves.png"))
    return [write_report(folders, recipes, pictures), *pictures]


def main():
    kind, words = ("", sys.argv[1:]) if not sys.argv[1:2] or sys.argv[1][:2] != "--" else (sys.argv[1],
        sys.argv[2:])
    paths = [Path(word) for word in words]
    if not paths or kind not in ("", "--aha", "--curves", "--report", "--experts", "--thoughts"):
        raise UserError("usage: report/plot.py RUN [RUN ...] | --aha RUN [N] | --curves curves.json [...] | "
            "--report out/CONFIG [...] | --experts RUN [RUN ...] | --thoughts thoughts.json")
    if kind == "--aha":
        drawn = draw_aha(paths[0], int(words[1]) if words[1:] and words[1].isdigit() else None)
    elif kind == "--curves":
        drawn = [draw_spending(paths, paths[0].with_suffix(".png"))]
    elif kind == "--thoughts":
        drawn = draw_thoughts(paths[0])
    elif kind == "--experts":
        drawn = [draw_experts(path) for path in paths]
    else:
        drawn = report(paths) if kind else [draw(paths, PANELS + searches(paths))]
    print("pictures: " + ", ".join(map(str, drawn)))


if __name__ == "__main__":
    run_script(main)
