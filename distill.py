"""Data from a teacher: sample it, keep what is good, write JSONL for sft.py.

    python distill.py --config tiny --from out/tiny/reasoning --out rejection.jsonl
    python distill.py --from BIG --task problems.jsonl --judge out/tiny/reward --add more.jsonl --out d.jsonl

Rejection sampling (DeepSeek-R1, arXiv 2501.12948, sec. 2.3.3) when the teacher is one's own checkpoint,
distillation (sec. 2.4) when it is a larger one. N samples per prompt; a rule decides where the task has one,
else the judge; mixed languages, repetition and overlong paragraphs are dropped (`why_not`). A run that
was interrupted goes on: each chunk of prompts is a line of OUT.part, and the noise depends on the seed and
the prompt's number alone.
"""

import json
import os
import random
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

from checkpoint import load_model
from config import (
    DTYPE,
    STRICT_FORMAT,
    SYSTEM,
    TASK_FILE,
    TEMPLATE,
    Reading,
    UserError,
    knob,
    parse_args,
    presets_of,
    run_script,
)
from data.r1_data import LONGEST_LINE, why_not, write_jsonl
from data.shapes import is_file, nothing_to_read, read_rows
from data.tasks import endless, split_rows, training_rows
from data.tokenizer import Tokenizer, for_checkpoint
from eval import fitting_prompts
from parallel import Ranks, gather, setup
from preference import MODELS
from rewards import NO_PLAN, Plan, call_reward, check_rows, columns_of, has_rule, load_function, opened
from sample import generate

CHUNK = 64  # prompts between two saves


@dataclass
class Config(Reading):
    from_: str = knob("out/tiny/reasoning", "the teacher's folder")
    task: str = knob("countdown", f"task with its knobs, or {TASK_FILE}")
    template: str = knob("", TEMPLATE, group="prompt")
    system: str = knob("", SYSTEM, group="prompt")
    out: str = knob("out/distilled.jsonl", "the file to write: rows {prompt, task, completion, ...}")
    prompts: int = knob(512, "how many prompts")
    samples: int = knob(8, "samples per prompt")
    keep: int = knob(2, "at most that many different good samples per prompt")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "of sampling")
    judge: str = knob("", "decides where no rule does: a preference model's folder, generative:FOLDER (a "
        "chat model, which is asked), or file.py:function")
    bar: float = knob(0.5, "the judge keeps what scores at least this")
    strict_format: bool = knob(True, STRICT_FORMAT)
    longest_line: int = knob(LONGEST_LINE[False],
        "characters of a paragraph; completions with a longer one are dropped; 0 = none is")
    add: str = knob("", "a file of further rows with completions (general data), mixed in as they are")
    seed: int = knob(0, "seed of the prompts and of the sampling")
    dtype: str = knob("", DTYPE)
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")


RECIPES = {"default": {}, **presets_of("distill", Config)}


def judge_of(where: str):
    """The judge: f(completions, prompts=...) -> scores; None without one. Raises UserError."""
    if not where:
        return None
    kind, _, folder = where.partition(":")
    if kind in MODELS:
        return MODELS[kind](folder)[kind]
    return load_function(where)[1] if ":" in where else MODELS["preference"](where)["preference"]


def decide(row: dict, texts: list[str], keep: int, judge, bar: float, plan: Plan = NO_PLAN,
        longest_line: int | None = None, ids: list[list[int]] | None = None) -> tuple[list[str], list[str]]:
    """(the samples of one prompt to keep, the reason of each that is dropped). Raises UserError where the
    judge fails."""
    kept, reasons, ruled = [], [], has_rule(row["task"])
    scores = [bar] * len(texts) if ruled else [0.0] * len(texts)
    if not ruled and judge:
        rows = [row] * len(texts)
        columns = columns_of(rows) | ({} if ids is None else {"completion_ids": ids})
        scores = call_reward("--judge", judge, rows, [opened(row, text, plan) for text in texts], columns,
            {"trainer_state": plan.state})
    for text, score in zip(texts, scores, strict=True):
        reason = why_not(row, text, plan=plan, longest_line=longest_line)
        if not reason and not ruled and not judge:
            reason = "no rule and no --judge"
        elif not reason and (score is None or score < bar):
            reason = "the judge says no"
        elif not reason and text in kept:
            reason = "the same again"
        elif not reason and len(kept) == keep:
            reason = "enough of this prompt"
        if reason:
            reasons.append(reason)
        else:
            kept.append(text)
    return kept, reasons


def run_chunk(model, tokenizer: Tokenizer, rows, numbers: list[int], cfg: Config, judge,
        ranks: Ranks) -> dict:
    """Sample and judge some prompts: {"rows": the kept ones, "yield": [[task, reason or "kept", count],
    ...]}."""
    mine, found = ranks.share(numbers), []
    if mine:
        prompts = [tokenizer.encode_row(rows(i)) for i in mine]
        out = generate(model, prompts, group_size=cfg.samples, max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature, eos_id=tokenizer.eos_ids, seed=cfg.seed, prompt_ids=mine)
        texts = [tokenizer.decode_completion(c) for c in out.completions]
        plan = NO_PLAN._replace(strict=cfg.strict_format, opens=tokenizer.opens)
        for j, i in enumerate(mine):
            some = slice(j * cfg.samples, (j + 1) * cfg.samples)
            found.append((i, *decide(rows(i), texts[some], cfg.keep, judge, cfg.bar, plan, cfg.longest_line,
                out.completions[some])))
    kept, counts = [], Counter()
    for i, good, reasons in sorted(r for part in gather(ranks, found) for r in part):
        row = {k: v for k, v in rows(i).items() if k != "completion"}
        kept += [row | {"completion": text} for text in good]
        counts.update([(row["task"], "kept")] * len(good) + [(row["task"], reason) for reason in reasons])
    return {"first": numbers[0], "rows": kept, "yield": [[*k, n] for k, n in sorted(counts.items())]}


def finished_chunks(part: Path, settings: dict) -> list[dict]:
    """What an interrupted run with these settings has done; a torn last line is dropped. Raises UserError for
    other settings."""
    lines = part.read_text(encoding="utf-8").split("\n")[:-1] if part.exists() else []
    if lines and json.loads(lines[0]) != settings:
        raise UserError(f"{part} holds an unfinished run with other settings: remove it")
    return [json.loads(line) for line in lines[1:]]


def prompt_rows(cfg: Config) -> list[dict]:
    """The rows of a file that are not held out, none of a generated task; those that a rule judges are
    checked. Raises UserError."""
    if not is_file(cfg.task):
        nothing_to_read(cfg.task, cfg.columns, cfg.answer_pattern)
        return []
    rows = read_rows(cfg.task, cfg.columns, cfg.answer_pattern, cfg.broken)
    check_rows(ruled := [row for row in rows if has_rule(row["task"])], cfg.task)
    if not ruled and not cfg.judge:
        raise UserError(f"{cfg.task}: no rule judges a row of it; give --judge")
    return split_rows(rows, cfg.task)["train"]


def say_yield(chunks: list[dict]):
    """The yield per task and per reason."""
    counts: dict[str, Counter] = {}
    for chunk in chunks:
        for task, reason, n in chunk["yield"]:
            counts.setdefault(task, Counter())[reason] += n
    for task, c in counts.items():
        kept, total = c.pop("kept", 0), 0
        total = kept + c.total()
        reasons = ", ".join(f"{reason} {n} ({n / total:.0%})" for reason, n in c.most_common())
        print(f"{task}: kept {kept} of {total} samples ({kept / total:.0%}); dropped: {reasons}")


def main():
    cfg, _ = parse_args(Config, RECIPES, __doc__)
    some, judge = prompt_rows(cfg), judge_of(cfg.judge)
    rows = training_rows(cfg.task, cfg.seed, hold_out=True) if not some else None
    more = read_rows(cfg.add) if cfg.add else []
    for row in more:
        if "completion" not in row:
            raise UserError(f'{row.place}: a row of --add needs a "completion"')
    part, settings = Path(f"{cfg.out}.part"), asdict(cfg) | {"device": ""}
    part.parent.mkdir(parents=True, exist_ok=True)
    chunks = finished_chunks(part, settings)
    ranks = setup(cfg.device)
    tokenizer = for_checkpoint(cfg.from_, template=cfg.template, system=cfg.system)
    model = load_model(cfg.from_, ranks.device, cfg.dtype)
    if some:
        rows = endless(fitting_prompts(model, tokenizer, some, cfg.max_new_tokens, cfg.too_long), cfg.seed)
    if ranks.main:
        part.write_text("".join(json.dumps(x) + "\n" for x in [settings, *chunks]), encoding="utf-8")
    for first in range(len(chunks) * CHUNK, cfg.prompts, CHUNK):
        numbers = list(range(first, min(first + CHUNK, cfg.prompts)))
        chunks.append(run_chunk(model, tokenizer, rows, numbers, cfg, judge, ranks))
        if ranks.main:
            with open(part, "a", encoding="utf-8") as f:
                f.write(json.dumps(chunks[-1]) + "\n")
            kept = sum(len(chunk["rows"]) for chunk in chunks)
            print(f"{numbers[-1] + 1}/{cfg.prompts} prompts, {kept} samples kept", flush=True)
    if ranks.main:
        kept = [row for chunk in chunks for row in chunk["rows"]] + more
        random.Random(cfg.seed).shuffle(kept)
        if not kept:
            raise UserError(f"{cfg.from_}: no sample was good enough; see the reasons in {part}")
        write_jsonl(cfg.out, kept)
        say_yield(chunks)
        print(f"{len(kept)} rows in {cfg.out}, {len(more)} of them from {cfg.add or 'no other file'}")
        part.unlink()


if __name__ == "__main__":
    run_script(main)
