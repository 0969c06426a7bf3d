"""Draw a run's metrics.jsonl: one picture, nine panels (development extra: matplotlib).

python plot.py out/tiny/grpo [out/other/grpo ...]      # several runs are drawn over each other
"""

import json
import sys
from pathlib import Path

from config import UserError, run_script

PANELS = [  # (key of the train rows, title)
    ("reward", "reward (mean over the rollout)"),
    ("accuracy", "accuracy: rollouts, and held out +- SE"),
    ("length", "completion length (tokens)"),
    ("reflections", "reflection words per completion"),
    ("entropy", "entropy (nats per token)"),
    ("kl", "KL to the reference (k3)"),
    ("clip_fraction", "clipped tokens (share)"),
    ("no_variance", "groups without variance (share)"),
    ("truncated", "truncated completions (share)"),
]
EVAL_KEY = {"accuracy": "pass@1", "length": "length", "reflections": "reflections", "truncated": "truncated"}


def read_rows(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder of a run")
    return [json.loads(line) for line in path.read_text().splitlines()]


def draw(folders: list[Path]) -> Path:
    """Write curves.png into the first folder and return its path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(14, 9), constrained_layout=True)
    for folder in folders:
        rows = read_rows(folder)
        train, evals = ([r for r in rows if r["kind"] == kind] for kind in ("train", "eval"))
        name = "/".join(folder.parts[-2:])
        for ax, (key, title) in zip(axes.flat, PANELS, strict=True):
            points = [(r["step"], r[key]) for r in train if key in r]
            if key == "kl" and not points:
                points, title = ([(r["step"], r["kl_old"]) for r in train if "kl_old" in r],
                    "KL to the old policy")
            line = ax.plot(*zip(*points, strict=True), lw=1.2, label=name)[0] if points else None
            ax.set_title(title, fontsize=10)
            ax.set_xlabel("step", fontsize=8)
            ax.grid(alpha=0.3)
            if key in EVAL_KEY and evals:
                at, held = EVAL_KEY[key], dict(color=line and line.get_color(), ms=4, capsize=3)
                ax.errorbar([r["step"] for r in evals], [r[at] for r in evals], fmt="o",
                    yerr=[r["pass@1_se"] for r in evals] if at == "pass@1" else None, **held)
            if key == "reflections" and evals:
                ax.axhline(evals[0]["reflections"], ls="--", lw=1, color="gray", label="step 0, held out")
                ax.legend(fontsize=7)
    axes.flat[0].legend(fontsize=7)
    path = folders[0] / "curves.png"
    figure.savefig(path, dpi=90)
    return path


def main():
    folders = [Path(a) for a in sys.argv[1:]]
    if not folders or "--help" in sys.argv:
        raise UserError("usage: python plot.py RUN_FOLDER [RUN_FOLDER ...]")
    print(f"pictures: {draw(folders)}")


if __name__ == "__main__":
    run_script(main)
