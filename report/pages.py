"""The results of a run and of a recipe, as markdown: one problem being learnt (`report/plot.py --aha RUN`),
and the table of stages (`report/plot.py --report out/tiny`)."""

import json
import math
from pathlib import Path

from config import UserError, read_json
from metrics import BY_RULE, MEASURES, OPINIONS

STAGES = [  # (folders that may hold it, what it is), in the paper's order
    (("base",), "0 base: next-token pretraining"), (("zero",), "1 r1-zero: GRPO from base"),
    (("zero_language",), "1b r1-zero with the language reward"),
    (("cold", "cold_start"), "2 cold start: SFT on long chains"),
    (("reasoning",), "3 reasoning RL: GRPO from 2, language reward"),
    (("rejection",), "4 rejection sampling + SFT of base"), (("scenarios",), "5 RL for all scenarios"),
    (("distilled",), "6 distilled: a dense model, SFT on 4's data"),
    (("dense_base",), "6b the same dense model: base"),
    (("dense_rl",), "6c the same dense model: GRPO from 6b"),
    (("warm",), "6d the same dense model: a short SFT on 4's data"),
    (("on_policy",), "6e on-policy distillation of 3 into 6d"),
    (("distilled_rl",), "6f GRPO from 6"), (("on_policy_rl",), "6g GRPO from 6e"),
]
WAYS = [  # to make a small model reason: (what they are, their stages after the dense base)
    ("SFT on the teacher's samples", ("distilled",)), ("on-policy, after a short SFT", ("warm", "on_policy")),
    ("RL", ("dense_rl",)), ("SFT, then RL", ("distilled", "distilled_rl")),
    ("on-policy, then RL", ("warm", "on_policy", "on_policy_rl"))]
COLUMNS = [  # (title, keys of which the first that is there counts, is it a share)
    ("pass@1", ("pass@1",), True), ("pass@k", ("pass@k",), True), ("cons@k", ("cons@k",), True),
    ("format", ("format",), True), ("length", ("length",), False),
    ("language consistency", ("consistency",), True), ("helpfulness", ("answered", "helpful"), True),
    ("harmlessness", ("clean", "harmless"), True)]
SAME = ("task", "split", "problems", "samples", "seed", "temperature", "top_p", "max_new_tokens")
# (what the paper leads to expect, stage, key, stage, key): the first is above the second; of two stages "a b"
# their mean
EXPECTED = [
    ("r1-zero gains accuracy over base", "zero", "pass@1", "base", "pass@1"),
    ("r1-zero learns the format", "zero", "format", "base", "format"),
    ("reasoning RL beats the cold start", "reasoning", "pass@1", "cold", "pass@1"),
    ("language consistency rises with its reward (r1-zero with it, without it)", "zero_language",
     "consistency", "zero", "consistency"),
    ("at a cost in accuracy", "zero", "pass@1", "zero_language", "pass@1"),
    ("rejection-sampled SFT of base beats the cold start", "rejection", "pass@1", "cold", "pass@1"),
    ("it keeps more than half of what reasoning RL gained", "rejection", "pass@1", "cold reasoning",
     "pass@1"),
    ("RL for all scenarios is more helpful than what it starts from", "scenarios", "answered", "rejection",
     "answered"),
    ("and more harmless", "scenarios", "clean", "rejection", "clean"),
    ("distilled dense beats RL on the same dense model", "distilled", "pass@1", "dense_rl", "pass@1"),
    ("on-policy distillation beats SFT on the teacher's samples", "on_policy", "pass@1", "distilled",
     "pass@1"),
    ("RL after SFT gains accuracy", "distilled_rl", "pass@1", "distilled", "pass@1"),
    ("RL after on-policy distillation gains accuracy", "on_policy_rl", "pass@1", "on_policy", "pass@1"),
    *((f"votes beat one sample: {s}", s, "cons@k", s, "pass@1") for names, _ in STAGES for s in names[:1])]


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file. Raises UserError if there is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder of a run")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------- one problem


def histories(run: Path) -> list[list[dict]]:
    """Per held-out prompt of samples.jsonl its samples in the order of steps, the most telling first: wrong
    in the beginning and right at the end, then as many corrections as possible."""
    by_prompt: dict[str, list[dict]] = {}
    for row in read_rows(run / "samples.jsonl"):
        by_prompt.setdefault(row["prompt"], []).append(row)
    if not by_prompt:
        raise UserError(f"{run}/samples.jsonl is empty: it is written by grpo.py's evaluations")

    def telling(history):
        first, last = history[0]["accuracy"], history[-1]["accuracy"]
        return (last - first, last, last * history[-1]["completion"].count("\n"))

    return sorted(by_prompt.values(), key=telling, reverse=True)


def watch(run: Path, found: list[list[dict]]) -> Path:
    """Write aha.md: every held-out prompt that samples.jsonl follows, its completions over the steps."""
    lines = [f"# What {run} learnt, on the same {len(found)} held-out problems", ""]
    for history in found:
        lines += [f"## {history[0]['prompt']}", ""]
        for row in history:
            verdict = "right" if row["accuracy"] >= 1 else "wrong"
            lines += [f"After step {row['step']}: {verdict}, {row['tokens']} tokens", "",
                *("    " + line for line in row["completion"].splitlines()), ""]
    (run / "aha.md").write_text("\n".join(lines), encoding="utf-8")
    return run / "aha.md"


# -------------------------------------------------------------------------------------------- the stages


def read_stages(folder: Path) -> dict[str, dict]:
    """Each stage's folder, and its eval.json (metrics and settings; {} where it is not there) with what
    general.json adds: the same file, of general prompts."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: give the folder of a recipe, out/<config>")
    out = {}
    for names, title in STAGES:
        at = next((folder / name for name in names if (folder / name).is_dir()), None)
        found = {"title": title, "dir": at, "metrics": {}, "settings": {}}
        for name in ("eval.json", "general.json") if at else ():
            if (at / name).exists():
                raw = read_json(at / name)
                judged = {k: v for k, v in {**raw, **raw.get("metrics", {})}.items()
                    if k.removesuffix("_se") in (*OPINIONS, *BY_RULE)}
                found = found | (raw if name == "eval.json" else {})
                found["metrics"] = found["metrics"] | judged
        out[names[0]] = found
    return out


def cell(keys: tuple, share: bool, runs: list[dict]) -> str:
    """A number of the table: of one run +- its standard error where it is known, of several mean +- std."""
    key = next((k for k in keys if all(k in m for m in runs)), None)
    if key is None:
        return "-"
    def show(x):
        return f"{100 * x:.1f}" if share else f"{x:.1f}"

    values = [m[key] for m in runs]
    mean = sum(values) / len(values)
    if len(runs) > 1:
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        return f"{show(mean)} +- {show(std)}"
    return show(mean) + (f" +- {show(runs[0][f'{key}_se'])}" if f"{key}_se" in runs[0] else "")


def stage_table(recipes: list[dict[str, dict]]) -> list[str]:
    """The stages as a markdown table. A stage that is missing or was not evaluated is marked."""
    lines = ["| stage | " + " | ".join(title + " %" * share for title, _, share in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS)]
    for stage in recipes[0]:
        runs = [r[stage] for r in recipes if "pass@1" in r[stage]["metrics"]]
        metrics = [r["metrics"] for r in runs]
        cells = [cell(keys, share, metrics) if runs else "-" for _, keys, share in COLUMNS]
        if not runs:
            at = recipes[0][stage]["dir"]
            command = f"not evaluated: `python eval.py --from {at} --json {at}/eval.json`"
            cells[0] = command if at else "missing"
        elif len(runs) < len(recipes):
            cells[0] += f" ({len(runs)} of {len(recipes)} runs)"
        lines.append(f"| {recipes[0][stage]['title']} | " + " | ".join(cells) + " |")
    return lines


def same_problems(recipe: dict[str, dict]) -> list[str]:
    """Where stages were not evaluated on the same problems in the same way: a line per setting."""
    settings = {s: r["settings"] for s, r in recipe.items() if r["settings"]}
    out = []
    for key in SAME:
        values = {s: json.dumps(v.get(key)) for s, v in settings.items()}
        if len(set(values.values())) > 1:
            out.append(f"**Not comparable as they stand**: {key} is "
                + ", ".join(f"{v} for {s}" for s, v in values.items()) + ".")
    return out


def expectations(recipes: list[dict[str, dict]]) -> list[str]:
    """Per expectation of the paper the difference measured here, with its error. One run: the root of the sum
    of the squared standard errors, too wide for the same problems. Several runs: their standard deviation."""
    lines = ["| expected from the paper | difference, points | larger than its error? |", "|---|---|---|"]
    for text, high, key_a, low, key_b in EXPECTED:
        pairs = [(r[high]["metrics"], [r[name]["metrics"] for name in low.split()]) for r in recipes]
        pairs = [(a, b) for a, b in pairs if key_a in a and all(key_b in m for m in b)]
        if not pairs:
            continue
        gaps = [100 * (a[key_a] - sum(m[key_b] for m in b) / len(b)) for a, b in pairs]
        mean = sum(gaps) / len(gaps)
        if len(gaps) > 1:
            error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1))
        else:
            a, b = pairs[0]
            error = 100 * math.hypot(a.get(f"{key_a}_se", 0), *(m.get(f"{key_b}_se", 0) / len(b) for m in b))
        verdict = "yes" if mean > error else "no" if mean < -error else "not told apart"
        if " " in low and sum(b[-1][key_b] - b[0][key_b] for _, b in pairs) <= 0:
            verdict = "nothing was gained"
        lines.append(f"| {text} | {mean:+.1f} +- {error:.1f} | {verdict} |")
    return lines if len(lines) > 2 else []


def tokens_of(stage: dict) -> tuple[int, float, float, float]:
    """(steps, M tokens trained, sampled, read by a second model) of a stage, from its metrics.jsonl; zeros
    without one."""
    path = stage["dir"] and stage["dir"] / "metrics.jsonl"
    rows = [r for r in read_rows(path) if r["kind"] == "train"] if path and path.exists() else []
    return (len(rows), sum(r.get("tokens", r.get("trained_tokens", 0)) for r in rows) / 1e6,
        sum(r.get("generated", 0) for r in rows) / 1e6,
        sum(r.get("trained_tokens", 0) for r in rows if "kl" in r) / 1e6)


def ways_table(recipes: list[dict[str, dict]]) -> list[str]:
    """The ways to make a small model reason, each with its tokens, those of all its stages after the base (of
    the first recipe). The teacher samples what SFT reads (distill.py's metrics: the whole file, also of a
    stage that reads a part), and reads what the student samples on-policy."""
    lines = ["| the dense model by | M tokens trained | M tokens sampled by it | M tokens of the teacher | "
        "pass@1 % | pass@k % | cons@k % |", "|---|---|---|---|---|---|---|"]
    for title, stages in WAYS:
        runs = [r[stages[-1]]["metrics"] for r in recipes if "pass@1" in r[stages[-1]]["metrics"]]
        if not runs:
            continue
        trained = sampled = teacher = 0.0
        for name in stages:
            stage = recipes[0][name]
            _, more, own, read = tokens_of(stage)
            trained, sampled = trained + more, sampled + own
            teacher += read if name == "on_policy" else 0
            costs = stage["dir"] and stage["dir"].parent / "data" / "rejection.metrics.jsonl"
            if name in ("distilled", "warm") and costs and costs.exists():
                teacher += sum(row["generated"] for row in read_rows(costs)) / 1e6
        cells = [cell(keys, share, runs) for _, keys, share in COLUMNS[:3]]
        lines.append(f"| {title} | {trained:.2f} | {sampled:.2f} | {teacher:.2f} | " + " | ".join(cells)
            + " |")
    return lines if len(lines) > 2 else []


def cost_table(recipe: dict[str, dict]) -> list[str]:
    """The cost of each stage, from its metrics.jsonl, in tokens and in forward passes of one token: training
    on a token counts as three, sampling it as one, the log-probability of it to a reference or a teacher as
    one."""
    lines = ["| stage | steps | M tokens trained | M tokens sampled | M forward passes |",
        "|---|---|---|---|---|"]
    for r in recipe.values():
        steps, trained, sampled, reference = tokens_of(r)
        if steps:
            lines.append(f"| {r['title']} | {steps} | {trained:.2f} | {sampled:.2f} | "
                f"{3 * trained + sampled + reference:.2f} |")
    return lines if len(lines) > 2 else []


def write_report(folders: list[Path], recipes: list[dict[str, dict]], pictures: list[Path]) -> Path:
    """Write report.md into the first folder."""
    settings = next((r["settings"] for r in recipes[0].values() if r["settings"]), {})
    counts = {r["metrics"]["problems"] for r in recipes[0].values() if "problems" in r["metrics"]}
    told = (f"{' or '.join(map(str, sorted(counts)))} held-out problems of `{settings.get('task')}` x k = "
        f"{settings.get('samples')} samples, temperature {settings.get('temperature')}" if settings
        else "no stage was evaluated yet")
    error = "+- is the standard error over problems" if len(folders) == 1 else (
        f"mean +- standard deviation over {len(folders)} runs: " + ", ".join(map(str, folders)))
    names = (*MEASURES, "truncated", *OPINIONS)
    thinking = ["| stage | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for r in recipes[0].values():
        if "pass@1" in r["metrics"]:
            thinking.append(f"| {r['title']} | " + " | ".join(
                cell((k,), k != "reflections", [r["metrics"]]) for k in names) + " |")
    lines = [f"# The stages of {folders[0]}", "", f"{told}; {error}.", "", *stage_table(recipes), "",
        *(line for r in recipes for line in same_problems(r)), "", *expectations(recipes), "",
        *ways_table(recipes), "",
        "How they think (reflection words per completion; the others in percent of the completions, "
        "consistency in percent of the words). helpful, harmless: the probability that the preference model "
        "gives. In the first table rules decide, where the prompts' rows have what a rule needs: helpfulness "
        "is the share of right answers; harmlessness is the share of responses without a rude or harmful "
        "text, and for harmful requests the share of refusals.", "", *thinking, "",
        "What training them cost; not counted: the base of each, what distill.py sampled for stages 4 and 6, "
        "the preference model, prompts in GRPO:", "", *cost_table(recipes[0]), "",
        *(f"![{p.stem}]({p.name})" for p in pictures), ""]
    path = folders[0] / "report.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
