"""Thinking at every position of a text: Quiet-STaR (arXiv 2403.09629), small.

    python data/r1_data.py --config tiny --kind web --seed 7 --out out/tiny/data/web7.jsonl
    python experiments/quiet.py --config tiny
    python experiments/quiet.py --config tiny --thought 0 --out out/tiny/unthinking

After each token of a document the model samples a few thoughts, between a start and an end token of their
own; then it reads the next true tokens. A mixing head weighs the prediction with the thought against the one
without. A thought that makes the true tokens likelier than its siblings do is reinforced (thoughts.py). Half
of the documents are made: their hard tokens need a computation that is not written (data/hidden.py).
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread gives its core away
sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

import torch
from tqdm import tqdm

from checkpoint import Saver, last_good_state, load_model, new_run_folder, save_run, unfinished
from config import UserError, knob, parse_args, presets_of, run_script, say
from data.hidden import HARD, KINDS, Document, documents
from data.shapes import read_rows
from data.tasks import endless
from data.tokenizer import Tokenizer, for_checkpoint
from eval import evaluate, held_out, judged, summarize
from experiments.thoughts import Scored, Talk, scored, sees, speak
from metrics import Log, check_tracker, open_tracker
from optim import count_skipped, keep_masters, lr_at, make_optimizers, step_or_skip
from parallel import Ranks, StopSignal, gather, micro_batches, setup
from rewards import NO_PLAN


@dataclass
class Config:
    init: str = knob("out/tiny/base", "checkpoint folder to start from: a base model")
    web: str = knob("out/tiny/data/web7.jsonl", 'file of documents, rows {"text"}; the first '
        "--eval_docs rows are held out")
    made: float = knob(0.5, "share of documents that are made, with hard tokens: 0 to 1")
    task: str = knob("countdown", "what pass@1 is measured on, before and after; it is not trained")
    out: str = knob("", "output folder; empty = out/<config>/quiet")
    seed: int = knob(0, "seed of the data, the thoughts and the mixing head")
    thought: int = knob(8, "tokens of a thought, L; 0 = training without thoughts, to compare")
    group_size: int = knob(2, "thoughts per position, G")
    ahead: int = knob(4, "true tokens that a thought has to help with, n")
    reinforce_coef: float = knob(1.0, "weight of REINFORCE beside the likelihood")
    negative: bool = knob(False, "true: worse thoughts than the mean are unlearnt, too (not in the paper)")
    steps: int = knob(100, "optimizer steps")
    batch_size: int = knob(16, "documents per step")
    length: int = knob(128, "tokens of a document; the rest of a longer one is left out")
    lr: float = knob(1e-3, "peak learning rate of AdamW")
    micro_tokens: int = knob(8192, "tokens per forward/backward pass, those of thoughts included")
    eval_docs: int = knob(128, "held-out documents of the losses")
    problems: int = knob(128, "held-out problems of --task")
    samples: int = knob(2, "completions per problem")
    max_new_tokens: int = knob(256, "longest completion")
    save_every: int = knob(50, "steps between saves of the state that resumes the run")
    save_minutes: float = knob(2.0, "minutes after which it is saved as well; 0 = by steps only")
    tracker: str = knob("", "tensorboard, wandb or trackio: gets the metrics, too; empty = files only")
    device: str = knob("auto", "auto, cpu, cpu:N for N processes, cuda, mps")


def tally(s: Scored, docs: list[Document]) -> Counter:
    """Sums over the predicted tokens by (measure, kind): loss of the next token with and without thoughts; of
    the thoughts weight, entropy, and spread, the mean size of a reward; and the numbers of tokens. A kind:
    all, hard, or one of KINDS."""
    kinds = torch.tensor([d.kinds[1:] + [-1] * (s.plain.shape[1] + 1 - len(d.kinds)) for d in docs])
    values = {"count": torch.ones(kinds.shape), "loss": -s.mix[..., 0].mean(1), "plain": -s.plain}
    if s.thoughts:
        values |= {"weight": s.weight[..., 0].mean(1), "entropy": s.thoughts.entropy.mean(1),
            **({"spread": s.rewards().abs().mean(1)} if s.mix.shape[1] > 1 else {})}
    chosen = {"all": kinds >= 0, "hard": kinds >= HARD, **{k: kinds == i for i, k in enumerate(KINDS)}}
    return Counter({(name, kind): float(value.detach().cpu()[there].sum()) for name, value in values.items()
        for kind, there in chosen.items()})


def means(tallies: list[Counter]) -> dict[str, float]:
    """{"loss_all": ..., "plain_hard": ..., ...}: the means of the ranks' tallies, of kinds that occur."""
    total = Counter()
    for one in tallies:
        total.update(one)
    return {f"{name}_{kind}": x / total["count", kind] for (name, kind), x in total.items()
        if name != "count" and total["count", kind]}


def cost(doc: Document, cfg: Config, G: int) -> int:
    """Tokens through the blocks for a document: its own, L + 1 + n of each thought; none after the last."""
    return len(doc.tokens) + (len(doc.tokens) - 1) * (cfg.thought and G * (cfg.thought + 1 + cfg.ahead))


def run_step(model, talk, optimizers, step: int, docs, cfg: Config, ranks: Ranks) -> dict:
    """One optimizer step on documents step * batch_size ..., divided by the predicted tokens of all."""
    batch = [docs(i) for i in range(step * cfg.batch_size, (step + 1) * cfg.batch_size)]
    lengths, costs = [len(d.tokens) for d in batch], [cost(d, cfg, cfg.group_size) for d in batch]
    ahead = cfg.ahead if cfg.thought else 1
    count = sum(max(0, length - 1 - k) for length in lengths for k in range(ahead))
    total = Counter()
    for part in micro_batches(ranks, costs, cfg.micro_tokens):
        some = [batch[i] for i in part]
        s = scored(model, talk, some, cfg.group_size, cfg.thought, ahead, cfg.seed)
        (objective := s.loss(cfg.reinforce_coef, cfg.negative) / count).backward()
        total.update(tally(s, some))
        total["objective", ""] += float(objective.detach())
    everyone = gather(ranks, total)
    m = means(everyone) | {"objective": sum(one["objective", ""] for one in everyone)}
    norm, skipped = step_or_skip(ranks, torch.nn.ModuleList([model, talk]), optimizers, lr_at(step, cfg),
        "" if math.isfinite(m["objective"]) else "loss", [d.number for d in batch])
    return m | {"grad_norm": norm, "lr": lr_at(step, cfg), "tokens": sum(lengths), "passed": sum(costs),
        "skipped": skipped}


@torch.no_grad()
def measure(model, talk, docs, rows: list[dict], tokenizer: Tokenizer, cfg, ranks: Ranks) -> dict:
    """Held-out losses in nats per token of --eval_docs documents, one thought at each position; pass@1 on
    --task, of the model as it is and of the one that thinks before each token."""
    total, batch = Counter(), [docs(i) for i in range(cfg.eval_docs)]
    for part in micro_batches(ranks, [cost(d, cfg, 1) for d in batch], cfg.micro_tokens):
        some = [batch[i] for i in part]
        total.update(tally(scored(model, talk, some, 1, cfg.thought, 1, cfg.seed + (1 << 32)), some))
    m = means(gather(ranks, total))
    answers, _ = evaluate(model, tokenizer, rows, samples=cfg.samples, max_new_tokens=cfg.max_new_tokens,
        ranks=ranks, seed=cfg.seed)
    m |= {"pass@1": answers["pass@1"], "pass@1_se": answers["pass@1_se"]}
    if cfg.thought:
        mine = ranks.share(list(range(len(rows))))
        said = speak(model, talk, [tokenizer.encode_row(rows[i]) for i in mine], mine, cfg.samples,
            cfg.max_new_tokens, cfg.thought, tokenizer.eos_ids, cfg.seed) if mine else []
        records = judged(rows, [i for i in mine for _ in range(cfg.samples)],
            [tokenizer.decode_completion(c) for c in said], said, [c[-1] in tokenizer.eos_ids for c in said],
            NO_PLAN._replace(opens=tokenizer.opens), cfg.max_new_tokens) if mine else []
        answers = summarize([r for part in gather(ranks, records) for r in part], cfg.samples)
        m |= {f"thinking_{k}": answers[k] for k in ("pass@1", "pass@1_se")}
    return m


def look(model, talk, doc: Document, tokenizer: Tokenizer, cfg: Config) -> dict:
    """One document for report/plot.py --thoughts: per predicted token how much likelier thinking makes it
    (nats), the mixing weight and the thoughts; and the mask of the thoughts of a text of four tokens."""
    with torch.no_grad():
        s = scored(model, talk, [doc], cfg.group_size, cfg.thought, 1, cfg.seed + (2 << 32))
    said = [[tokenizer.decode(ids) for ids in some] for some in s.thoughts.ids[0].transpose(0, 1).tolist()]
    gain, m = s.mix[0, ..., 0] - s.plain[0], cfg.thought + 1 + cfg.ahead
    return {"tokens": [tokenizer.decode([i]) for i in doc.tokens], "hard": [k >= HARD for k in doc.kinds],
        "gain": gain.T.tolist(), "weight": s.weight[0, ..., 0].mean(0).tolist(), "thoughts": said,
        "length": cfg.thought, "mask": sees(torch.arange(4)[None], 4, 0, m)[0].int().tolist()}


def shown(before: dict, after: dict) -> str:
    """The before/after table: losses by kind and pass@1, without thoughts (plain) and with them."""
    ways = [("plain", "")] + [("loss", "thinking_")] * ("thinking_pass@1" in after)
    lines = ["".join([" " * 10, *(f"{f'{when} {what}':>18}" for when in ("before", "after") for what
        in ("plain", "thinking")[: len(ways)]), f"{'weight':>10}" * (len(ways) - 1)])]
    for kind in ("all", "hard", *KINDS):
        if f"plain_{kind}" in after:
            cells = [f"{m[f'{way}_{kind}']:.4f}" for m in (before, after) for way, _ in ways]
            weight = f"{after[f'weight_{kind}']:>10.3f}" if len(ways) > 1 else ""
            lines.append("".join([f"{kind:<10}", *(f"{cell:>18}" for cell in cells), weight]))
    cells = [f"{m[k + 'pass@1']:.1%} +- {m[k + 'pass@1_se']:.1%}" for m in (before, after) for _, k in ways]
    return "\n".join([*lines, "".join([f"{'pass@1':<10}", *(f"{cell:>18}" for cell in cells)])])


def train(model, talk, docs, optimizers, cfg: Config, out: Path, log: Log, first: int, spent: Counter, ranks):
    """The loop: a step, a row of metrics, a save now and then and at the end, for what is measured then takes
    long."""
    stop, example, in_a_row = StopSignal(), docs(0).tokens, 0
    saver = Saver(out / "state", model, example, ranks, cfg.save_minutes)
    with tqdm(total=cfg.steps, initial=first, desc="quiet", disable=not ranks.main, mininterval=1.0) as bar:
        for step in range(first, cfg.steps):
            begin = time.perf_counter()
            m = run_step(model, talk, optimizers, step, docs, cfg, ranks)
            spent.update(tokens=m["tokens"], passed=m["passed"], seconds=time.perf_counter() - begin)
            log.write("train", step + 1, **m | spent)
            bar.update()
            bar.set_postfix_str(f"loss {m['loss_all']:.3f}, without thoughts {m['plain_all']:.3f}")
            in_a_row = count_skipped(model, example, ranks, m["skipped"], in_a_row)
            more = step + 1 < cfg.steps
            stopped = stop.reached(ranks) and more
            if saver.overdue() or stopped or not more or (step + 1) % cfg.save_every == 0:
                saver.save(step=step + 1, spent=dict(spent), config=asdict(cfg), talk=talk.state_dict(),
                    optimizers=[o.state_dict() for o in optimizers])
            if stopped:
                saver.wait()
                bar.close()
                say(f"stopped after step {step + 1}, saved in {out}/state; the same command resumes")
                sys.exit(130)
    saver.wait()


def main():
    cfg, preset = parse_args(Config, {"default": {}, **presets_of("quiet", Config)}, __doc__)
    check_tracker(cfg.tracker)
    tokenizer, rows = for_checkpoint(cfg.init), held_out(cfg.task, cfg.problems, cfg.seed)
    pages = read_rows(cfg.web)
    if not all(isinstance(p.get("text"), str) and p["text"] for p in pages) or len(pages) <= cfg.eval_docs:
        raise UserError(f'{cfg.web}: expected more than {cfg.eval_docs} rows {{"text"}}, none empty')
    web = {"train": endless(pages[cfg.eval_docs :], cfg.seed), "test": endless(pages[: cfg.eval_docs], 0)}
    docs, held = (documents(tokenizer, web[k], k, cfg.seed, cfg.made, cfg.length) for k in ("train", "test"))
    out = Path(cfg.out or f"out/{preset}/quiet")
    state, ranks = unfinished(out, cfg), setup(cfg.device)
    model = load_model(state["folder"] if state else cfg.init, ranks.device, "float32")
    if model.cfg.family.attention != "mla":
        raise UserError(f"{cfg.init}: thoughts are made for MLA; give a model of --config tiny or small")
    longest = max(len(tokenizer.encode_row(row)) for row in rows) + cfg.max_new_tokens
    if max(cfg.length + cfg.ahead, longest) + cfg.thought + 1 > model.cfg.max_position_embeddings:
        raise UserError("too long for the context: lower --length, --ahead, --thought or --max_new_tokens")
    torch.manual_seed(cfg.seed)
    talk = Talk(model.cfg.hidden_size, model.embed_tokens.weight[tokenizer.encode("\n")[0]]).to(ranks.device)
    if state:
        talk.load_state_dict(state["talk"])
    keep_masters(both := torch.nn.ModuleList([model, talk]))
    optimizers = make_optimizers(both, ranks, name="adamw", lr=cfg.lr, saved=state and state["optimizers"])
    if ranks.main and not state:
        new_run_folder(out, cfg.init)
    gather(ranks, None)  # wait for the folder
    first, spent = (state["step"], Counter(state["spent"])) if state else (0, Counter())
    log = Log(out, first, ranks.main, cfg.steps, ranks.main and open_tracker(cfg.tracker, out, asdict(cfg)))
    if not state:
        log.write("before", 0, **measure(model, talk, held, rows, tokenizer, cfg, ranks))
    with last_good_state(out):
        train(model, talk, docs, optimizers, cfg, out, log, first, spent, ranks)
    log.write("eval", cfg.steps, **measure(model, talk, held, rows, tokenizer, cfg, ranks), **spent)
    if ranks.main:
        torch.save(talk.state_dict(), out / "talk.pt")
        (out / "run.json").write_text(json.dumps(asdict(cfg) | {"preset": preset}, indent=2))
    save_run(out, model, tokenizer, cfg.init, ranks)
    if not ranks.main:
        return
    print(shown(*(row for row in log.rows if row["kind"] in ("before", "eval"))))
    print("{tokens:,} tokens of text, {passed:,} through the model, {seconds:.0f} s:".format(**spent), out)
    if cfg.thought:
        path = out / "thoughts.json"
        number = max(range(cfg.eval_docs), key=lambda i: len({*held(i).kinds}))
        path.write_text(json.dumps(look(model, talk, held(number), tokenizer, cfg)), encoding="utf-8")
        if importlib.util.find_spec("matplotlib"):
            plot = Path(__file__).parent.parent / "report/plot.py"
            subprocess.run([sys.executable, plot, "--thoughts", path], check=True)


if __name__ == "__main__":
    run_script(main)
