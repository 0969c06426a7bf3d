"""Supervised training: next-token training on completions or whole documents; preference models.

    python sft.py --config tiny --stage cold_start      # from random weights: thinks in our format
    python sft.py --config tiny/base --task web.jsonl --template zero        # pretraining on documents
    python sft.py --init out/tiny/grpo --task my_rows.jsonl --stage mine
    python sft.py --init DIR --task pairs.jsonl --stage reward                # a preference model

What a row of --task holds says how it is learnt: {"text"}: every token of a document; {"prompt", "task",
"completion"}: the completion; {"prompt", "chosen", "rejected"[, "aspect"]}: a scalar head (preference.py).

cold_start (DeepSeek-R1, arXiv 2501.12948, sec. 2.3.1): the task's generator writes honest chains of thought;
the loss is the mean negative log-likelihood of the completion's tokens and the end token, the prompt is not
learnt.
"""

import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away

import torch
from tqdm import tqdm

from batch import check_memory, passes, rows_pass, smaller, training_settings
from checkpoint import (
    Saver,
    last_good_state,
    load_trained,
    new_run_folder,
    own_state,
    save_run,
    seed_generators,
    stored_shape,
    unfinished,
)
from config import (
    PRESETS,
    SYSTEM,
    TASK_FILE,
    ModelConfig,
    Training,
    UserError,
    base_of,
    knob,
    parse_args,
    presets_of,
    read_config,
    run_script,
    say,
)
from data.rows import fitting
from data.shapes import is_file, nothing_to_read, read_rows
from data.tasks import chain_for, endless, split_rows, training_rows
from data.tokenizer import Tokenizer, for_checkpoint, shipped, with_template
from kernels import token_logprobs
from metrics import Log, check_tracker, open_tracker
from model import Transformer
from moe import Routing
from optim import (
    check_sound,
    count_skipped,
    keep_masters,
    make_optimizers,
    rounded,
    step_or_skip,
)
from parallel import (
    Ranks,
    StopSignal,
    check_shard,
    gather,
    gathered,
    local,
    put_rows,
    setup,
    shard_model,
)
from preference import encode_pair, pair_accuracy, pair_backward, with_score_head


@dataclass
class Config(Training):
    stage: str = knob("cold_start", "name of the stage: the folder out/<config>/<stage> gets the result")
    init: str = knob("", "checkpoint folder to start from; empty = random weights of the preset's shape")
    task: str = knob("countdown", f"task with its knobs (countdown:n=3,high=9), or {TASK_FILE}")
    out: str = knob("", "output folder; empty = out/<config>/<stage>")
    seed: int = knob(0, "seed of weights and data")
    steps: int = knob(500, "optimizer steps")
    epochs: int = knob(0, "passes over a file, instead of --steps; 0 = --steps")
    template: str = knob("", "how a prompt is put to the model: plain (the prompt and a newline), zero "
        "(R1-Zero's), chat (--init's own), or a text with {prompt}, saved with the weights; empty = that of "
        "--init, else plain", group="prompt")
    system: str = knob("", SYSTEM, group="prompt")
    batch_size: int = knob(64, "sequences per step")
    micro_tokens: int = knob(8192, "tokens per forward/backward pass, padding included", group="memory")
    lr: float = knob(3e-3, "peak learning rate (Muon is scaled to AdamW's)")
    warmup: int = knob(20, "steps of linear warm-up")
    think_tags: str = knob("", "the special tokens around the thinking, two words ('<|startofthought|> "
        "<|endofthought|>'); empty = those of --init, else <think> </think>; the checkpoint remembers them")
    optimizer: str = knob("muon", "muon (matrices; AdamW for the rest) or adamw")
    weight_decay: float = knob(0.01, "decoupled weight decay of the matrices")
    balance_coef: float = knob(1e-4, "alpha of the sequence-wise balance loss (V3 eq. 17)")
    bias_rate: float = knob(1e-3, "gamma of the routing bias update (V3 sec. 2.1.2); 0 or --lora_rank: none")
    recompute: bool = knob(False, "run each block again in the backward pass: less memory, more time",
        group="memory")
    save_every: int = knob(200, "steps between saves of the state that resumes the run")
    tracker: str = knob("", "tensorboard, wandb or trackio: gets the metrics, too; empty = files only",
        group="logging")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")


RECIPES = presets_of("sft", Config)


def encode_row(model, tokenizer: Tokenizer, row: dict, seed: int, index: int) -> tuple:
    """(tokens, where learning starts) of a document or a completion; of a pair (both, where the second
    starts, aspect). Raises UserError for one that is longer than the context."""
    if "chosen" in row:
        return encode_pair(tokenizer, row, model.cfg.max_position_embeddings)
    tokens, start = encode_example(tokenizer, row, "" if "text" in row else chain_for(row, seed, index))
    model.check_length(len(tokens))
    return tokens, start


def encode_example(tokenizer: Tokenizer, row: dict, completion: str) -> tuple[list[int], int]:
    """(tokens, where learning starts): the row's prompt in its template, the completion and an end token; the
    tags of the completion as single tokens where there are such. A first token, which follows nothing, is not
    learnt. Of a document all of it."""
    if "text" in row:
        return [*tokenizer.start, *tokenizer.encode(row["text"]), tokenizer.eos_id], 1
    start = tokenizer.encode_row(row)
    return [*start, *tokenizer.encode_completion(completion)], max(1, len(start))


def pad(examples: list[tuple[list[int], int]], pad_id: int, device: str):
    """Right-padded tokens (B, T), and for their T-1 inputs, each (B, T-1): which are there, and which predict
    a token that is learnt, of the completion or EOS."""
    T = max(len(tokens) for tokens, _ in examples)
    tokens = torch.tensor([row + [pad_id] * (T - len(row)) for row, _ in examples], device=device)
    place = torch.arange(T - 1)
    present = torch.stack([place < len(row) - 1 for row, _ in examples])
    learnt = torch.stack([(place >= start - 1) & (place < len(row) - 1) for row, start in examples])
    return tokens, present.to(device), learnt.to(device)


def lr_at(step: int, cfg: Config) -> float:
    """Linear warm-up, then linear decay to zero."""
    return cfg.lr * min((step + 1) / max(1, cfg.warmup), (cfg.steps - step) / max(1, cfg.steps - cfg.warmup))


def forward_backward(model: Transformer, batch, count: int, sequences: int, cfg: Config, pad_id: int,
        device: str):
    """Add the gradient of one micro-batch: sum of NLL / `count` completion tokens of the whole batch, and
    the balance loss / `sequences`. Returns (sum of NLL, loads per MoE layer)."""
    tokens, present, mask = pad(batch, pad_id, device)
    routing = Routing(mask=present, balance=cfg.balance_coef > 0)
    hidden = model.hidden(tokens[:, :-1], routing)[mask]  # (n, D): only what is learnt goes through the head
    logprobs, _ = token_logprobs(hidden, model.lm_head.weight, tokens[:, 1:][mask])
    loss = -logprobs.sum() / count
    for extra in routing.balance_losses:
        loss = loss + cfg.balance_coef * extra / sequences
    loss.backward()
    return -float(logprobs.sum().detach()), routing.load


def run_step(model, optimizers, step: int, rows, tokenizer, cfg: Config, ranks: Ranks) -> dict:
    """One optimizer step on examples step * batch_size ...: every rank makes them all, to deal them out by
    length, and trains its share."""
    numbers = range(step * cfg.batch_size, (step + 1) * cfg.batch_size)
    examples = [encode_row(model, tokenizer, rows(i), cfg.seed, i) for i in numbers]
    backward, count = forward_backward, sum(len(tokens) - start for tokens, start, *_ in examples)
    if hasattr(model, "score"):
        backward, count = pair_backward, cfg.batch_size

    def run(part, times):
        loss, load = backward(model, [examples[i] for i in part], count * times, cfg.batch_size * times, cfg,
            tokenizer.pad_id, ranks.device)
        return loss, [x.cpu() for x in load]

    losses, loads = zip(*passes(run, model, cfg, ranks, [len(tokens) for tokens, *_ in examples],
        noise=(step,)), strict=True)
    norm, skipped = step_or_skip(ranks, model, optimizers, lr_at(step, cfg),
        "" if math.isfinite(sum(losses)) else "loss", [*numbers])
    loads = [sum(layer) for layer in zip(*loads, strict=True)]
    moves = cfg.bias_rate and not cfg.lora_rank and not skipped
    for router, load in zip(model.routers(), loads, strict=True):
        if moves and router.cfg.topk_method == "noaux_tc":
            router.update_bias(load.to(router.weight.device), cfg.bias_rate)
    return {"loss": sum(losses) / count, "grad_norm": norm, "lr": lr_at(step, cfg), "skipped": skipped,
        "tokens": sum(len(tokens) for tokens, *_ in examples),
        "max_load": max((float(x.max() / x.mean()) for x in loads), default=1.0)}


def usable_rows(cfg: Config, tokenizer: Tokenizer, longest: int) -> list[dict]:
    """The rows of --task's file, all of them looked at before the first step: each a pair, or each a document
    or a completion; of at most `longest` tokens, or --too_long says so (a pair's replies are cut). Of pairs a
    fifth is held out. Raises UserError with the place of the first row that cannot be learnt."""
    rows = read_rows(cfg.task, cfg.columns, cfg.answer_pattern, cfg.broken)

    def learnt(row: dict) -> str:
        return row["text"] if "text" in row else chain_for(row, cfg.seed, 0)

    pairs = "chosen" in rows[0]
    for row in rows:
        if ("chosen" in row) != pairs:
            raise UserError(f"{row.place}: the rows before it are {'pairs' if pairs else 'no pairs'}; give "
                "these a file of their own")
        try:
            pairs or learnt(row)
        except UserError as error:
            raise UserError(f"{row.place}: {error}") from None
    if pairs:
        return split_rows(rows, cfg.task)["train"]
    return fitting(rows, longest, lambda row: tokenizer.most_ids(row, learnt(row)),
        lambda row: len(encode_example(tokenizer, row, learnt(row))[0]), cfg.too_long)


def steps_of(cfg: Config, count: int) -> int:
    """Steps of --epochs passes over the `count` rows of a file. Raises UserError for a generated task, which
    has no end."""
    if not count:
        raise UserError("--epochs counts passes over a file; give --steps for a generated task")
    return max(1, round(cfg.epochs * count / cfg.batch_size))


def check(cfg: Config):
    """Raises UserError for a setting that cannot work."""
    if cfg.optimizer not in ("muon", "adamw"):
        raise UserError(f"--optimizer {cfg.optimizer}: expected muon or adamw")
    if cfg.lora_rank and not cfg.init:
        raise UserError("--lora_rank adapts a model that has learnt something: it needs --init")
    cfg.check_adapters()
    if cfg.shard:
        check_shard(cfg.device)
    check_tracker(cfg.tracker)


def start_tokenizer(cfg: Config, preset: str) -> tuple[Tokenizer, ModelConfig]:
    """The tokenizer and the shape of the model: those of --init, or ours and the preset's."""
    if cfg.init:
        tokenizer = for_checkpoint(cfg.init, cfg.think_tags, cfg.template, cfg.system)
        return tokenizer, read_config(base_of(cfg.init))[0]
    if preset not in (*PRESETS, "default"):
        raise UserError(f"--config {preset} is for a released model: it needs --init")
    tokenizer = with_template(shipped(cfg.think_tags), cfg.template, cfg.system)
    return tokenizer, ModelConfig(**PRESETS.get(preset, {}), bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id)


def start_model(cfg: Config, shape: ModelConfig, source, state: dict | None, pairs: bool, ranks: Ranks):
    """The model of the folder `source`, or random weights of that shape if it is empty."""
    prepare = with_score_head if pairs else lambda model: model
    if source:
        model = load_trained(source, ranks, cfg, cfg.init, prepare)
    elif cfg.shard:
        with torch.device("meta"):
            model = prepare(Transformer(shape).to(getattr(torch, cfg.dtype or "float32")))
        model = shard_model(model, ranks).init_weights(cfg.seed, put_rows, "cpu")
        if pairs:
            local(model.score.weight).zero_()
    else:
        model = prepare(rounded(Transformer(shape).init_weights(cfg.seed), cfg.dtype)).to(ranks.device)
    keep_masters(model, state)
    model.recompute, model.cfg.think_tags = cfg.recompute, cfg.think_tags or model.cfg.think_tags
    return model


def check_fit(cfg: Config, shape: ModelConfig, dtype: torch.dtype, tokenizer: Tokenizer, rows, ranks: Ranks):
    """Raises UserError for a run that does not fit into memory, judged by the first rows."""
    with torch.device("meta"):
        model = Transformer(shape)
    length = max(len(encode_row(model, tokenizer, rows(i), cfg.seed, i)[0])
        for i in range(min(cfg.batch_size, 1000)))

    def largest(budget):
        return rows_pass(min(budget, math.ceil(cfg.batch_size / ranks.world) * length), length)

    settings = training_settings(cfg, dtype, ranks)
    check_memory(settings | dict(cfg=shape, work=largest(cfg.micro_tokens), optimizer=cfg.optimizer,
        recompute=cfg.recompute), ranks, {"--recompute true": dict(recompute=True),
        f"--micro_tokens {length} --recompute true": dict(recompute=True, work=largest(1)),
        "--optimizer muon": dict(optimizer="muon"), **{
            flags: change for flags, change in smaller(cfg, dtype, ranks).items()
            if cfg.init or "lora" not in flags}})


def train(model, tokenizer, rows, cfg: Config, out: Path, state: dict | None,
        ranks: Ranks) -> tuple[Log, int]:
    """The loop: a step, a row of metrics, a save now and then. Returns the log and the tokens seen."""
    stop, start, tokens_seen, in_a_row = StopSignal(), 0, 0, 0
    example = encode_row(model, tokenizer, rows(0), cfg.seed, 0)[0]
    if state:
        state = own_state(state, ranks, ("optimizers",))
        start, tokens_seen = state["step"], state["tokens"]
    optimizers = make_optimizers(model, ranks, name=cfg.optimizer, lr=cfg.lr, weight_decay=cfg.weight_decay,
        saved=state and state["optimizers"])
    tracker = open_tracker(cfg.tracker, out, asdict(cfg)) if ranks.main else None
    log = Log(out, start, ranks.main, tracker=tracker)
    saver = Saver(out / "state", model, example, ranks, cfg.save_minutes)
    bar = tqdm(total=cfg.steps, initial=start, desc=cfg.stage, disable=not ranks.main, mininterval=1.0)
    begin = time.perf_counter()
    with bar:  # an error's message starts on a line of its own
        for step in range(start, cfg.steps):
            m = run_step(model, optimizers, step, rows, tokenizer, cfg, ranks)
            tokens_seen += m["tokens"]
            log.write("train", step + 1, **m, seconds=time.perf_counter() - begin)
            bar.update()
            bar.set_postfix_str(
                f"loss {m['loss']:.3f}, {tokens_seen / 1e6:.1f}M tokens, load {m['max_load']:.1f}x"
            )
            in_a_row = count_skipped(model, example, ranks, m["skipped"], in_a_row)
            more = step + 1 < cfg.steps
            stopped = stop.reached(ranks) and more  # after the last step it only has to be saved
            due = saver.overdue() or (step + 1) % cfg.save_every == 0
            if more and (due or stopped):
                saver.save(step=step + 1, tokens=tokens_seen, config=asdict(cfg),
                    optimizers=[o.state_dict() for o in optimizers])
            if stopped:
                saver.wait()
                bar.close()
                if ranks.main:
                    print(f"stopped after step {step + 1}, saved in {out}/state; the same command resumes")
                sys.exit(130)
    saver.wait()
    check_sound(model, example)
    return log, tokens_seen


def main():
    cfg, preset = parse_args(Config, {"default": {}, **RECIPES}, __doc__)
    check(cfg)
    preset, begin = preset.partition("/")[0], time.perf_counter()
    tokenizer, shape = start_tokenizer(cfg, preset)
    some = usable_rows(cfg, tokenizer, shape.max_position_embeddings) if is_file(cfg.task) else []
    pairs = bool(some) and "chosen" in some[0]
    rows = endless(some, cfg.seed) if some else training_rows(cfg.task, cfg.seed)
    if not some:
        nothing_to_read(cfg.task, cfg.columns, cfg.answer_pattern)
        chain_for(rows(0), cfg.seed, 0)
    if cfg.epochs:
        cfg.steps = steps_of(cfg, len(some))
    out = Path(cfg.out or f"out/{preset}/{cfg.stage}")
    state, ranks = unfinished(out, cfg), setup(cfg.device)
    seed_generators(cfg.seed, ranks.rank)
    source = state["folder"] if state else cfg.init
    kind = stored_shape(cfg.init)[1] if cfg.init else torch.float32
    check_fit(cfg, shape, kind, tokenizer, rows, ranks)
    model = start_model(cfg, shape, source, state, pairs, ranks)
    if ranks.main and not state:  # only now: an input that is wrong must not move an earlier run's folder
        new_run_folder(out, cfg.init)
    gather(ranks, None)  # wait for the folder
    with last_good_state(out):
        log, tokens_seen = train(model, tokenizer, rows, cfg, out, state, ranks)
    settings = json.dumps(asdict(cfg) | {"preset": preset}, indent=2)
    if ranks.main:
        (out / "run.json").write_text(settings + "\n", encoding="utf-8")
    save_run(out, model, tokenizer, cfg.init, ranks)
    if pairs:
        held = split_rows(read_rows(cfg.task, cfg.columns, cfg.answer_pattern, cfg.broken),
            cfg.task)["test"]
        with gathered(model) as scorer:
            found = pair_accuracy(scorer, tokenizer, held) if ranks.main else {}
        log.write("eval", cfg.steps, pairs=len(held), **{f"pair_accuracy_{k}": v for k, v in found.items()})
        say(f"{len(held)} pairs of held-out prompts, judged right (helpful: the chosen one is higher; "
            "harmless: each is on its side of 0): " + ", ".join(f"{k} {v:.1%}" for k, v in found.items()))
    seconds = time.perf_counter() - begin
    skipped = sum(row.get("skipped", 0) for row in log.rows)
    say(f"{cfg.stage}: {tokens_seen / 1e6:.2f}M tokens in {seconds:.0f} s, saved in {out}"
        + (f"; {skipped} steps were skipped, see skipped in metrics.jsonl" if skipped else ""))


if __name__ == "__main__":
    run_script(main)
