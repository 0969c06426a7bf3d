"""What a teacher knows, to a student: by the teacher's good samples, or by its word on the student's own.

    python distill.py --config tiny --from out/tiny/reasoning --out rejection.jsonl
    python distill.py --from BIG --task problems.jsonl --judge out/tiny/reward --add more.jsonl --out d.jsonl
    python distill.py --on_policy true --from TEACHER --init STUDENT --task problems.jsonl --out FOLDER

Rejection sampling (DeepSeek-R1, arXiv 2501.12948, sec. 2.3.3) when the teacher is one's own checkpoint,
distillation (sec. 2.4) when it is a larger one: writes JSONL for sft.py. N samples per prompt; a rule decides
where the task has one, else the judge; mixed languages, repetition and overlong paragraphs are dropped
(`why_not`). A run that was interrupted goes on: each chunk of prompts is a line of OUT.part, and the noise
depends on the seed and the prompt's number alone.

On-policy distillation (GKD, arXiv 2306.13649, lambda = 1 and reverse KL; Thinking Machines, 2025): the
student samples, and at every token of its samples the loss is KL(student || teacher) over the whole
vocabulary. No reward, and any prompt will do. The samples are fixed: no gradient goes through sampling. The
student must be near the teacher before, by SFT on its samples: on a page that the teacher would not write,
what the teacher says next is no lesson. One that is far learns to write on and on (`truncated` in
metrics.jsonl rises, `kl` stays). Routers' biases stay.
"""

import hashlib
import json
import math
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

import torch

from batch import (
    Batch,
    Sample,
    check_memory,
    collate,
    completion_hidden,
    needed,
    passes,
    shared_pass,
    sizes,
    smaller,
    training_settings,
)
from checkpoint import (
    Saver,
    last_good_state,
    lies_in,
    load_model,
    load_split,
    load_trained,
    new_run_folder,
    own_state,
    save_run,
    seed_generators,
    stored_shape,
    unfinished,
)
from config import (
    STRICT_FORMAT,
    SYSTEM,
    TASK_FILE,
    TEMPLATE,
    ModelConfig,
    NotFinite,
    Training,
    UserError,
    base_of,
    knob,
    parse_args,
    presets_of,
    run_script,
    say,
)
from data.r1_data import LONGEST_LINE, why_not, write_jsonl
from data.shapes import is_file, nothing_to_read, read_rows
from data.tasks import endless, split_rows, training_rows
from data.tokenizer import Tokenizer, for_checkpoint
from eval import evaluate, fitting_prompts, held_out
from kernels import reverse_kl
from metrics import Log, check_tracker, clock, left_out, open_tracker, table
from optim import (
    check_sound,
    count_skipped,
    keep_masters,
    lr_at,
    make_optimizers,
    step_or_skip,
)
from parallel import (
    Ranks,
    StopSignal,
    check_shard,
    free_bytes,
    gather,
    gather_or_raise,
    gathered,
    give_back_memory,
    release,
    setup,
)
from preference import MODELS
from rewards import NO_PLAN, Plan, call_reward, check_rows, columns_of, has_rule, load_function, opened
from sample import generate, largest_decoding

CHUNK = 64  # prompts between two saves


@dataclass
class Config(Training):
    from_: str = knob("out/tiny/reasoning", "the teacher's folder")
    on_policy: bool = knob(False, "train --init on its own samples, by what the teacher says of each token; "
        "false = write the teacher's good samples")
    task: str = knob("countdown", f"task with its knobs, or {TASK_FILE}")
    template: str = knob("", TEMPLATE, group="prompt")
    system: str = knob("", SYSTEM, group="prompt")
    out: str = knob("", "the file to write: rows {prompt, task, completion, ...}; with --on_policy the "
        "student's folder; empty = out/distilled.jsonl, out/<config>/on_policy")
    prompts: int = knob(512, "how many prompts, in all")
    samples: int = knob(8, "samples per prompt")
    keep: int = knob(2, "at most that many different good samples per prompt")
    max_new_tokens: int = knob(256, "longest completion")
    temperature: float = knob(1.0, "of sampling, and of both distributions of the KL")
    judge: str = knob("", "decides where no rule does: a preference model's folder, generative:FOLDER (a "
        "chat model, which is asked), or file.py:function")
    bar: float = knob(0.5, "the judge keeps what scores at least this")
    strict_format: bool = knob(True, STRICT_FORMAT)
    longest_line: int = knob(LONGEST_LINE[False],
        "characters of a paragraph; completions with a longer one are dropped; 0 = none is")
    add: str = knob("", "a file of further rows with completions (general data), mixed in as they are")
    seed: int = knob(0, "seed of the prompts and of the sampling")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")
    init: str = knob("", "the student's folder", group="on_policy")
    batch_size: int = knob(64, "samples per optimizer step: a multiple of --samples", group="on_policy")
    lr: float = knob(1e-5, "peak learning rate; 5 steps of warm-up, then linear decay to a tenth",
        group="on_policy")
    optimizer: str = knob("adamw", "muon (matrices; AdamW for the rest) or adamw", group="on_policy")
    micro_tokens: int = knob(16384, "tokens per forward/backward pass, padding included", group="on_policy")
    eval_problems: int = knob(128, "held-out problems, where a rule judges them", group="on_policy")
    eval_every: int = knob(10, "steps between held-out evaluations and saves", group="on_policy")
    tracker: str = knob("", "tensorboard, wandb or trackio: gets the metrics, too; empty = files only",
        group="on_policy")

    @property
    def per_step(self) -> int:
        """Prompts of an optimizer step."""
        return self.batch_size // self.samples

    @property
    def steps(self) -> int:
        return math.ceil(self.prompts / self.per_step)


RECIPES = {"default": {}, **presets_of("distill", Config)}
EVAL_SAMPLES = 4  # of each held-out problem
# What only one of the two ways has; --dtype, --template and the like are of both.
REJECTION = {"keep", "judge", "bar", "longest_line", "add"}
ON_POLICY = ({f.name for f in fields(Config) if f.metadata["group"] == "on_policy"}
    | {f.name for f in fields(Training) if f.name == "shard" or f.name.startswith("lora_")})


def check_way(cfg: Config, preset: str):
    """Raises UserError for a setting of the other way to distil: it would be ignored."""
    for f in fields(Config):
        given = getattr(cfg, f.name) != RECIPES[preset].get(f.name, f.default)
        if given and f.name in (REJECTION if cfg.on_policy else ON_POLICY):
            way = "with" if cfg.on_policy else "without"
            raise UserError(f"--{f.name} means nothing {way} --on_policy true")


# ------------------------------------------------------------------------------------- rejection sampling


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
    if not ruled and judge is not None:
        rows = [row] * len(texts)
        columns = columns_of(rows) | ({} if ids is None else {"completion_ids": ids})
        scores = call_reward("--judge", judge, rows, [opened(row, text, plan) for text in texts], columns,
            {"trainer_state": plan.state})
    for text, score in zip(texts, scores, strict=True):
        reason = why_not(row, text, plan=plan, longest_line=longest_line)
        if not reason and not ruled and judge is None:
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
    mine, found, tokens = ranks.share(numbers), [], 0
    if mine:
        prompts = [tokenizer.encode_row(rows(i)) for i in mine]
        out = generate(model, prompts, group_size=cfg.samples, max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature, eos_id=tokenizer.eos_ids, seed=cfg.seed, prompt_ids=mine)
        tokens = sum(map(len, out.completions))
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
    return {"first": numbers[0], "rows": kept, "generated": sum(gather(ranks, tokens)),
        "yield": [[*k, n] for k, n in sorted(counts.items())]}


def sealed(value: dict) -> str:
    """A line of the file that resumes: the SHA-256 of the JSON text behind it."""
    text = json.dumps(value)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def finished_chunks(part: Path, settings: dict) -> list[dict]:
    """What an interrupted run with these settings has done, to the first line that is damaged; the last one
    may be torn. Raises UserError for other settings."""
    lines = part.read_bytes().splitlines(keepends=True) if part.exists() else []
    good = []
    for line in lines:
        text = line[65:].strip()
        if line[:64].decode("ascii", "replace") != hashlib.sha256(text).hexdigest():
            if line is not lines[-1] or not good:
                say(f"{part}: line {len(good) + 1} is damaged; the run goes on from there")
            break
        good.append(json.loads(text))
    if good and good[0] != settings:
        raise UserError(f"{part} holds an unfinished run with other settings: remove it")
    return good[1:]


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


def rejection(cfg: Config):
    """Write the good samples to --out, and beside them what they cost, a row of metrics per chunk."""
    cfg.out = cfg.out or "out/distilled.jsonl"
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
        new = part.with_name(f"{part.name}.tmp")
        new.write_text("".join(map(sealed, [settings, *chunks])), encoding="utf-8")
        os.replace(new, part)
    for first in range(len(chunks) * CHUNK, cfg.prompts, CHUNK):
        numbers = list(range(first, min(first + CHUNK, cfg.prompts)))
        chunks.append(run_chunk(model, tokenizer, rows, numbers, cfg, judge, ranks))
        if ranks.main:
            with open(part, "a", encoding="utf-8") as f:
                f.write(sealed(chunks[-1]))
            kept = sum(len(chunk["rows"]) for chunk in chunks)
            print(f"{numbers[-1] + 1}/{cfg.prompts} prompts, {kept} samples kept", flush=True)
    if ranks.main:
        kept = [row for chunk in chunks for row in chunk["rows"]] + more
        random.Random(cfg.seed).shuffle(kept)
        if not kept:
            raise UserError(f"{cfg.from_}: no sample was good enough; see the reasons in {part}")
        write_jsonl(cfg.out, kept)
        write_jsonl(Path(cfg.out).with_suffix(".metrics.jsonl"), [{"kind": "sample", "step": i,
            "generated": c["generated"], "kept": len(c["rows"])} for i, c in enumerate(chunks, 1)])
        say_yield(chunks)
        print(f"{len(kept)} rows in {cfg.out}, {len(more)} of them from {cfg.add or 'no other file'}")
        part.unlink()


# ---------------------------------------------------------------------------------------------- on-policy


def same_vocabulary(teacher: Tokenizer, student: Tokenizer):
    """Raises UserError where an id is not the same text to both: their distributions cannot be compared."""
    sizes = [t.vocab_size for t in (teacher, student)]
    for i in range(max(sizes)):
        if teacher.token_bytes(i) != student.token_bytes(i):
            raise UserError(f"the teacher and --init need the same tokenizer: id {i} is "
                f"{teacher.decode([i])!r} to the teacher, {student.decode([i])!r} to --init")


def sample_batch(model, tokenizer: Tokenizer, rows, numbers: list[int], cfg: Config,
        ranks: Ranks) -> list[Sample]:
    """cfg.samples completions of each of these prompts, on every rank; each rank samples its share. The noise
    is keyed by the prompt's number. Raises NotFinite, on every rank, where a log-probability is not."""
    mine = ranks.share(numbers)
    prompts = [tokenizer.encode_row(rows(i)) for i in mine]

    def sampled():
        if not mine:
            return []
        out = generate(model, prompts, group_size=cfg.samples, max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature, eos_id=tokenizer.eos_ids, seed=cfg.seed, prompt_ids=mine)
        found = []
        for j, completion in enumerate(out.completions):
            prompt, number = prompts[j // cfg.samples], mine[j // cfg.samples]
            found.append(Sample(prompt + completion, len(prompt), out.logprobs[j], out.finished[j], None, {},
                0, number=number))
        return found

    everyone = gather_or_raise(ranks, NotFinite, sampled)
    return sorted((sample for part in everyone for sample in part), key=lambda sample: sample.number)


def kl_backward(model, teacher, batch: Batch, count: float, temperature: float) -> float:
    """Add the gradient of the sum of the tokens' KL(student || teacher) / `count`; returns the sum. Models of
    one tokenizer can have different numbers of ids: those without a token are left out."""
    hidden, theirs = completion_hidden(model, batch), completion_hidden(teacher, batch)
    heads = model.lm_head.weight, teacher.lm_head.weight
    V = min(map(len, heads))
    mine, other = (head if len(head) == V else head[:V] for head in heads)
    kl = reverse_kl(hidden, mine, theirs, other, temperature).sum()
    (kl / count).backward()
    release(teacher)
    return float(kl.detach())


def update(model, teacher, optimizers, samples: list[Sample], step: int, cfg: Config, tokenizer: Tokenizer,
        ranks: Ranks) -> dict:
    """One optimizer step on the mean over all tokens of the samples, those of all ranks."""
    count = sum(len(s.old_logprobs) for s in samples)

    def run(part, times):
        batch = collate([samples[i] for i in part], tokenizer.pad_id, ranks.device)
        return kl_backward(model, teacher, batch, count * times, cfg.temperature)

    kl = sum(passes(run, model, cfg, ranks, *sizes(samples), noise=(step,)))
    norm, skipped = step_or_skip(ranks, model, optimizers, lr_at(step, cfg),
        "" if math.isfinite(kl) else "loss", [s.number for s in samples])
    return {"kl": kl / count, "grad_norm": norm, "lr": lr_at(step, cfg), "skipped": skipped,
        "length": count / len(samples),
        "truncated": sum(not s.finished for s in samples) / len(samples), "generated": count,
        "trained_tokens": count}


def train(model, teacher, tokenizer: Tokenizer, rows, held: list[dict], cfg: Config, out: Path,
        state: dict | None, ranks: Ranks) -> Log:
    """The loop: sample, step towards the teacher, log, evaluate and save now and then."""
    stop, state = StopSignal(), state and own_state(state, ranks, ("optimizers",))
    keep_masters(model, state)
    optimizers = make_optimizers(model, ranks, name=cfg.optimizer, lr=cfg.lr, weight_decay=0.0,
        saved=state and state["optimizers"])
    start, in_a_row = state["step"] if state else 0, 0
    tracker = open_tracker(cfg.tracker, out, asdict(cfg)) if ranks.main else None
    log, example = Log(out, start, ranks.main, cfg.steps, tracker), tokenizer.encode_row(rows(0))
    saver = Saver(out / "state", model, example, ranks, cfg.save_minutes)
    say(f"resuming after step {start}" if state else f"{out}: {cfg.steps} steps")

    def look(step):
        with gathered(model) as sampler:
            m, _ = evaluate(sampler, tokenizer, held, samples=EVAL_SAMPLES, max_new_tokens=cfg.max_new_tokens,
                ranks=ranks, seed=cfg.seed, plan=NO_PLAN._replace(strict=cfg.strict_format))
        give_back_memory()
        log.write("eval", step, **m)
        say(f"-- held out after step {step}: pass@1 {m['pass@1']:.1%} +- {m['pass@1_se']:.1%}, "
            f"length {m['length']:.0f}")

    if held and start == 0:
        look(0)
    begin = time.perf_counter()
    for step in range(start, cfg.steps):
        numbers, times = range(step * cfg.per_step, cfg.prompts)[: cfg.per_step], [time.perf_counter()]
        samples, m = [], {}
        with gathered(model) as sampler:
            try:
                samples = sample_batch(sampler, tokenizer, rows, list(numbers), cfg, ranks)
            except NotFinite as error:  # on all ranks
                m = {"skipped": [{"why": error.why, "rows": [*numbers], "says": str(error)}]}
        give_back_memory()
        times.append(time.perf_counter())
        if samples:
            m = update(model, teacher, optimizers, samples, step, cfg, tokenizer, ranks)
            give_back_memory()
        times.append(time.perf_counter())
        m |= {"rollout_seconds": times[1] - times[0], "train_seconds": times[2] - times[1],
            "tokens_per_second": m.get("generated", 0) / (times[2] - times[0])}
        log.write("train", step + 1, **m)
        left = (times[2] - begin) / (step + 1 - start) * (cfg.steps - step - 1)
        did = (f"kl {m['kl']:.4f}  len {m['length']:5.1f}  truncated {m['truncated']:.1%}" if samples else
            "no samples") + left_out(m)
        say(f"step {step + 1:>4}/{cfg.steps}  {did}  {m['tokens_per_second'] / 1000:.1f}k tok/s  "
            f"eta {clock(left)}")
        in_a_row = count_skipped(model, example, ranks, m["skipped"], in_a_row)
        due, stopped = (step + 1) % cfg.eval_every == 0, stop.reached(ranks)
        if held and due and step + 1 < cfg.steps:
            look(step + 1)
        if saver.overdue() or due or stopped:
            saver.save(step=step + 1, config=asdict(cfg), optimizers=[o.state_dict() for o in optimizers])
        if stopped:
            saver.wait()
            say(f"stopped after step {step + 1}, saved in {out}/state; the same command resumes from there")
            sys.exit(130)
    saver.wait()
    check_sound(model, example)
    if held:
        look(cfg.steps)
    return log


def check(cfg: Config, out: Path):
    """Raises UserError for a setting that cannot work."""
    for ok, message in [
        (cfg.init, "--on_policy true trains a student: it needs --init"),
        (cfg.optimizer in ("muon", "adamw"), f"--optimizer {cfg.optimizer}: expected muon or adamw"),
        (cfg.temperature > 0, "--temperature must be above 0: a greedy sample is no sample of the student"),
        (cfg.batch_size % cfg.samples == 0,
         f"--batch_size {cfg.batch_size} must be a multiple of --samples {cfg.samples}"),
        (not lies_in(cfg.from_, out),
         f"--from {cfg.from_} is also where this run writes; give another --out"),
        (not cfg.shard or base_of(cfg.from_) == Path(cfg.from_),
         f"--shard true: {cfg.from_} is an adapter; give the folder of the merged model"),
    ]:
        if not ok:
            raise UserError(message)
    cfg.check_adapters()
    if cfg.shard:
        check_shard(cfg.device)
    check_tracker(cfg.tracker)


def student_rows(cfg: Config) -> tuple[list[dict], list[dict]]:
    """(the rows of a file to sample from, none of a generated task; held-out problems that a rule judges).
    Raises UserError."""
    if not is_file(cfg.task):
        nothing_to_read(cfg.task, cfg.columns, cfg.answer_pattern)
        return [], held_out(cfg.task, cfg.eval_problems)
    parts = split_rows(read_rows(cfg.task, cfg.columns, cfg.answer_pattern, cfg.broken), cfg.task)
    held = [row for row in parts["test"] if has_rule(row["task"])]
    check_rows(held, cfg.task)
    random.Random(0).shuffle(held)
    return parts["train"], held[: cfg.eval_problems]


def must_recompute(cfg: Config, shape: ModelConfig, dtype, prompt: int, ranks: Ranks) -> bool:
    """Whether each block has to run again in the backward pass, so that a run with prompts of so many tokens
    fits into memory, beside the teacher. Raises UserError for one that does not even so."""
    (theirs, stored), share = stored_shape(cfg.from_), math.ceil(cfg.batch_size / ranks.world)
    decoding = largest_decoding(shape, prompt, cfg.max_new_tokens, dtype, ranks.device,
        (share, cfg.samples), (EVAL_SAMPLES * cfg.eval_problems / ranks.world, EVAL_SAMPLES))

    def largest(budget):
        return shared_pass(budget, prompt, cfg.max_new_tokens, cfg.samples, share)

    settings = training_settings(cfg, dtype, ranks) | dict(cfg=shape, work=largest(cfg.micro_tokens),
        decoding=decoding, optimizer=cfg.optimizer,
        teacher=(theirs, getattr(torch, cfg.dtype) if cfg.dtype else stored))
    settings["recompute"] = needed(settings, ranks) > min(gather(ranks, free_bytes(ranks)))
    check_memory(settings, ranks, {f"--micro_tokens {prompt + cfg.max_new_tokens}": dict(work=largest(1)),
        **smaller(cfg, dtype, ranks)})
    return settings["recompute"]


def on_policy(cfg: Config, preset: str):
    """Train the student --init into --out. It gets the teacher's tokenizer files and template."""
    out = Path(cfg.out or (f"out/{preset}" if "/" in preset else f"out/{preset}/on_policy"))
    check(cfg, out)
    some, held = student_rows(cfg)
    shape, kind = stored_shape(cfg.init)
    if shape.vocab_size > (ids := stored_shape(cfg.from_)[0].vocab_size):
        raise UserError(f"--init {cfg.init} can sample {shape.vocab_size} ids, the teacher knows {ids}: give "
            "a teacher with as many")
    tokenizer = for_checkpoint(cfg.from_, template=cfg.template, system=cfg.system)
    same_vocabulary(tokenizer, for_checkpoint(cfg.init))
    state, ranks = unfinished(out, cfg), setup(cfg.device)
    seed_generators(cfg.seed, ranks.rank)
    longest = max(len(tokenizer.encode_row(row)) for row in [*held, *some][:1000])
    recompute = must_recompute(cfg, shape, kind, min(longest, shape.max_position_embeddings), ranks)
    model = load_trained(state["folder"] if state else cfg.init, ranks, cfg, cfg.init)
    teacher = (load_split(cfg.from_, ranks, cfg.dtype, lambda model: model.requires_grad_(False)) if cfg.shard
        else load_model(cfg.from_, ranks.device, cfg.dtype).requires_grad_(False))
    model.recompute, model.cfg.think_tags = recompute, teacher.cfg.think_tags
    shorter = min(model, teacher, key=lambda m: m.cfg.max_position_embeddings)
    some, held = (fitting_prompts(shorter, tokenizer, part, cfg.max_new_tokens, cfg.too_long)
        for part in (some, held))
    rows = endless(some, cfg.seed) if some else training_rows(cfg.task, cfg.seed)
    if ranks.main and not state:  # only now: an input that is wrong must not move an earlier run's folder
        new_run_folder(out, cfg.init)
    gather(ranks, None)  # wait for the folder
    if ranks.main:
        (out / "run.json").write_text(json.dumps(asdict(cfg) | {"preset": preset}, indent=2) + "\n",
            encoding="utf-8")
    with last_good_state(out):
        log = train(model, teacher, tokenizer, rows, held, cfg, out, state, ranks)
    save_run(out, model, tokenizer, cfg.from_, ranks)
    if ranks.main and held:
        evals = [row for row in log.rows if row["kind"] == "eval"]
        print(f"\nheld out: {evals[-1]['problems']} problems x {evals[-1]['k']} samples, temperature 1\n"
            + table({"before": evals[0], "after": evals[-1]}))
    tokens = sum(row.get("generated", 0) for row in log.rows)
    say(f"{tokens / 1e6:.2f}M tokens sampled and learnt from, saved in {out}")


def main():
    cfg, preset = parse_args(Config, RECIPES, __doc__)
    check_way(cfg, preset)
    if cfg.on_policy:
        on_policy(cfg, preset)
    else:
        rejection(cfg)


if __name__ == "__main__":
    run_script(main)
