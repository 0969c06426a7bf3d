"""What a run writes and says: metrics.jsonl, samples.jsonl, the progress line, the diagnosis line, the
final table; the experiment trackers that can follow a run."""

import atexit
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from config import UserError, closest, real_path

REFLECTION = re.compile(
    r"\b(wait|check|again|however|hmm|verify|recheck|mistake|actually|alternatively|instead"
    r"|warte|nochmal|pr\u00fcfe)\b", re.I)
CHECKING = re.compile(r"\b(check|recheck|verify|again|confirm|nochmal|pr\u00fcfe)\b", re.I)
RESULT = re.compile(r"=\s*([^\s=]+)")
OPINIONS, BY_RULE = ("helpful", "harmless"), ("answered", "clean")  # of general prompts: by a model, by rule
MEASURES = ("reflections", "corrected", "verified", "mixed", "consistency")  # of the thinking, per completion
# Of Countdown: attempts and different expressions per completion; of all attempts the share calculated truly
# and the share tried before (in a completion's own record: of its attempts); the share of completions whose
# first attempt is true and right.
SEARCH = ("attempts", "attempts_true", "attempts_repeated", "attempts_distinct", "first_attempt")
OF_ATTEMPTS = SEARCH[1:3]


def reflections(text: str) -> int:
    """Reflection words in a completion's thinking: what R1's "aha moment" is made of (arXiv 2501.12948,
    fig. 9)."""
    return len(REFLECTION.findall(text.partition("</think>")[0]))


def line_results(text: str) -> list[str | None]:
    """What each line of a completion's thinking comes to: the last word after an equals sign, without closing
    punctuation; None for a line without one. `(7-3)*9=4*9=36 need 40 low wait` comes to 36."""
    lines = text.partition("</think>")[0].replace("<think>", "").splitlines()
    found = [RESULT.findall(line) for line in lines]
    return [f[-1].rstrip(".,;:") if f else None for f in found]


def aha(text: str, expected, right: float) -> dict[str, float]:
    """The aha moment of one completion, as claimed in its thinking (its arithmetic is not checked here):

    corrected: it is right in the end, but an earlier line came to another result than the expected one and
    a reflection word follows, on that line or a later one.
    verified: after the first line that comes to the expected result it checks that result: the rest of that
    line or a later line has a checking word (check, again, verify, ...), or a later line comes to it again.
    expected: the target or the answer of the row, compared as text; without one both are 0."""
    thinking, expected = text.partition("</think>")[0], "".join(str(expected).split())
    if not expected:
        return {"corrected": 0.0, "verified": 0.0}
    lines, results = thinking.splitlines(), line_results(text)
    wrong = next((i for i, r in enumerate(results) if r not in (None, expected)), len(lines))
    first = results.index(expected) if expected in results else len(lines)
    rest = [*(line.rpartition("=")[2] for line in lines[first : first + 1]), *lines[first + 1 :]]
    return {"corrected": float(right >= 1 and reflections("\n".join(lines[wrong:])) > 0),
        "verified": float(expected in results[first + 1 :] or bool(CHECKING.search("\n".join(rest))))}


class Log:
    """Appends rows to metrics.jsonl and samples.jsonl in a run's folder. A resumed run first drops what it
    will write again: the rows after the step that it resumes from, and those that follow the last of `steps`
    steps (that state is saved before it is evaluated). `tracker`, from `open_tracker`, gets the numbers of
    each new row of metrics.jsonl as well. Only rank 0 writes."""

    def __init__(self, dir: str | Path, after_step: int, main: bool, steps: int = -1,
            tracker: Callable | None = None):
        self.dir, self.main, self.rows, self.tracker = Path(dir), main, [], tracker
        for name in ("metrics", "samples") if main else ():
            self._keep(self.dir / f"{name}.jsonl", after_step, steps)
        for row in self.rows:  # what a resumed run has kept: a tracker shows the whole run, no step twice
            self._track(**row)

    def _keep(self, path: Path, after_step: int, steps: int):
        def stays(row: dict) -> bool:
            at_the_end = row["step"] == steps and row.get("kind") not in ("train", "skipped")
            return row["step"] <= after_step and not at_the_end

        kept = []
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
        for i, line in enumerate(lines[:-1], 1):  # the last one is empty, or torn
            try:
                kept += [line] if stays(json.loads(line)) else []
            except (ValueError, TypeError, KeyError, AttributeError):
                print(f"{path}: line {i} is damaged, and left out")
        path.with_suffix(".tmp").write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
        if path.name == "metrics.jsonl":
            self.rows = [json.loads(line) for line in kept]

    def write(self, kind: str, step: int, **values):
        """One row of metrics.jsonl: {"kind": train | eval | before, "step": ..., **values}; without those
        that are not finite, which JSON cannot say. A step's "skipped", the updates that were left out of it
        (`optim.step_or_skip`), becomes their number, and before that a row each: {"kind": skipped, "step":
        ..., "why": gradient | loss | logprob | reward, "rows": the numbers of its problems or examples}."""
        if "skipped" in values:
            for one in values["skipped"]:
                self.write("skipped", step, why=one["why"], rows=one["rows"])
            values |= {"skipped": len(values["skipped"])}
        values = finite(values)
        if self.main:
            self.rows.append({"kind": kind, "step": step, **values})
            self._append("metrics", self.rows[-1])
            self._track(kind, step, **values)

    def _track(self, kind: str, step: int, **values):
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if self.tracker and numbers:
            self.tracker(kind, step, numbers)

    def sample(self, step: int, **values):
        """One row of samples.jsonl: a held-out prompt, its completion in full, its rewards."""
        if self.main:
            self._append("samples", {"step": step, **finite(values)})

    def _append(self, name: str, row: dict):
        with open(self.dir / f"{name}.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()},
                allow_nan=False) + "\n")


def finite(values: dict) -> dict:
    """The values without the numbers that are NaN or infinite."""
    return {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


# ------------------------------------------------------------------------------------------------ trackers


def tensorboard(dir: Path, settings: dict) -> Callable:
    from torch.utils.tensorboard import SummaryWriter

    for old in dir.glob("events.out.tfevents.*"):  # of the same run, before it was interrupted
        old.unlink()
    writer = SummaryWriter(dir)

    def write(kind, step, values):
        for key, value in values.items():
            writer.add_scalar(f"{kind}/{key}", value, step)
        writer.flush()  # it would keep them for two minutes, and lose them at the end

    return write


def wandb(dir: Path, settings: dict) -> Callable:
    import wandb

    wandb.init(project="picor1", name=run_name(dir), config=settings, dir=str(dir))
    return lambda kind, step, values: wandb.log({f"{kind}/{k}": v for k, v in values.items()}, step=step)


def trackio(dir: Path, settings: dict) -> Callable:
    import trackio

    trackio.init(project="picor1", name=run_name(dir), config=settings)
    atexit.register(trackio.finish)  # it sends from a thread: wait for the last rows
    return lambda kind, step, values: trackio.log({f"{kind}/{k}": v for k, v in values.items()}, step=step)


# --tracker: open(dir, settings) -> write(kind, step, values); the pip package that it needs, "" for none
TRACKERS: dict[str, tuple[Callable, str]] = {
    "tensorboard": (tensorboard, "tensorboard"),
    "wandb": (wandb, "wandb"),
    "trackio": (trackio, "trackio"),
}


def run_name(dir: Path) -> str:
    """out/tiny/grpo -> tiny-grpo."""
    return "-".join(real_path(dir).parts[-2:])


def check_tracker(name: str):
    """Before anything is trained: raises UserError for an unknown tracker or one that is not installed."""
    if not name:
        return
    if name not in TRACKERS:
        raise UserError(f"--tracker {name}{closest(name, TRACKERS)}")
    package = TRACKERS[name][1]
    if package and sys.modules.get(package) is None:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:  # no origin: a mere folder, as wandb leaves behind
            raise UserError(f"--tracker {name} needs its library: pip install {package}")


def open_tracker(name: str, dir: Path, settings: dict) -> Callable | None:
    """The write function of a tracker for the run in dir; None without a name."""
    check_tracker(name)
    return TRACKERS[name][0](dir, settings) if name else None


# ------------------------------------------------------------------------------------------- what is printed


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def left_out(m: dict) -> str:
    """What a step's line says of updates that were skipped, if any were."""
    skipped = m.get("skipped") or []
    return "".join(f"  skipped: {one.get('says') or one['why'] + ' not finite'}" for one in skipped)


def progress_line(m: dict, step: int, steps: int, seconds_left: float) -> str:
    """One step of GRPO on one line."""
    if "reward" not in m:
        return f"step {step:>4}/{steps}{left_out(m)}  eta {clock(seconds_left)}"
    if "entropy" in m:
        kl = f"kl {m['kl']:.4f}" if "kl" in m else f"kl_old {m['kl_old']:.4f}"
        trained = f"{kl}  ent {m['entropy']:.3f}  clip {m['clip_fraction']:.1%}"
    else:
        trained = "no update" if m.get("skipped") else "no group has variance: no update"
    trained += left_out(m)
    return (f"step {step:>4}/{steps}  reward {m['reward']:.3f}  acc {m['accuracy']:.3f}  "
            f"len {m['length']:5.1f}  {trained}  "
            f"{m['tokens_per_second'] / 1000:.1f}k tok/s  eta {clock(seconds_left)}")


# What explodes: names (the first that rows have), the least that counts as much, what to try. The largest of
# 87 runs without an explosion, of tiny to SmolLM2: KL 0.23, gradient norm 8.7, and 4.4 times its median.
EXPLOSIONS = ((("kl", "kl_old"), 1.0, "the policy runs away; lower lr, or raise kl_coef"),
    (("grad_norm",), 10.0, "a few rows rule those steps, whose gradient is clipped to 1; lower lr"))


def explosions(recent: list[dict], longer: list[dict]) -> list[str]:
    """A line for each number of EXPLOSIONS that some recent row has ten times as large as the median of a
    longer time."""
    says = []
    for names, least, advice in EXPLOSIONS:
        name = next((name for name in names if any(name in row for row in recent)), None)
        now, usual = ([row[name] for row in rows if name in row] for rows in (recent, longer))
        if now and max(now) > max(least, 10 * median(usual)):
            says.append(f"{name} {max(now):.3g}, its median {median(usual):.3g}: {advice}")
    return says


def diagnosis(recent: list[dict], max_new_tokens: int, updates: int, longer: list[dict] = ()) -> list[str]:
    """What a worried user should know, from the train rows of the last steps; empty if nothing stands out.
    longer: those of a longer time that ends with them."""
    says = explosions(recent, longer or recent)
    if skipped := sum(r.get("skipped", 0) for r in recent):
        says.append(f"{skipped} updates skipped, for numbers that were not finite (kind skipped in "
            "metrics.jsonl): lower lr, or look at their rows")
    recent = [r for r in recent if "no_variance" in r]  # a step without a rollout has no other number
    if not recent:
        return says
    m = {k: sum(r[k] for r in recent) / len(recent) for k
        in ("accuracy", "no_variance", "truncated", "entropy", "format", "clip_fraction", "routing_agreement",
        "loss") if all(k in r for r in recent)}
    if m["no_variance"] > 0.4:
        level = "hard" if m["accuracy"] < 0.5 else "easy"
        says.append(
            f"{m['no_variance']:.0%} of groups have no variance: the task is too {level} for this policy; "
            f"change the task's knobs, raise group_size, or set --resample"
        )
    if m["truncated"] > 0.2:
        says.append(f"{m['truncated']:.0%} truncated: raise max_new_tokens (now {max_new_tokens})")
    if m.get("entropy", 1) < 0.02 and m["accuracy"] < 0.95:
        says.append(f"entropy {m['entropy']:.3f}: the policy hardly explores; lower lr or raise clip_high")
    if m.get("format", 1.0) < 0.5:
        says.append(f"only {m['format']:.0%} of completions have the format: train the cold start longer")
    if m.get("clip_fraction", 0) > 0.2:
        says.append(
            f"{m['clip_fraction']:.0%} of tokens are clipped: the updates are too large; lower lr or updates"
        )
    if m.get("routing_agreement", 1) < 0.8:
        says.append(f"training chooses {1 - m['routing_agreement']:.0%} other experts than the rollout did; "
            f"try --router replay")
    if updates == 1 and abs(m.get("loss", 1)) < 1e-3 and not says:
        says.append(
            "loss about 0 is normal with one update per rollout (ratio 1, advantages average 0): watch reward"
        )
    return says


def table(columns: dict[str, dict]) -> str:
    """The before/after table: one column per evaluation, as `eval.evaluate` returns them."""
    k = next(iter(columns.values()))["k"]
    rows = [("pass@1", "pass@1", "pass@1_se"), (f"pass@{k}", "pass@k", "pass@k_se"),
        (f"cons@{k}", "cons@k", "cons@k_se"), ("format", "format", None), ("mean length", "length", None),
        ("truncated", "truncated", None), ("reflections", "reflections", None),
        *((label, key, error) for label, key, error in (*((name, name, None) for name in MEASURES[1:]),
            ("attempts", "attempts", None), ("true attempts", "attempts_true", "attempts_true_se"),
            ("repeated", "attempts_repeated", "attempts_repeated_se"),
            ("distinct", "attempts_distinct", None), ("first attempt", "first_attempt", "first_attempt_se"))
            if all(key in m for m in columns.values()))]
    lines = ["".join([" " * 14, *(f"{name:>20}" for name in columns)])]
    for label, key, error in rows:
        cells = []
        for m in columns.values():
            share = key not in ("length", "reflections", "attempts", "attempts_distinct")
            text = f"{m[key]:.1%}" if share else f"{m[key]:.1f}"
            cells.append(f"{text} +- {m[error]:.1%}" if error else text)
        lines.append("".join([f"{label:<14}", *(f"{cell:>20}" for cell in cells)]))
    return "\n".join(lines)
