"""Checkpoints in Hugging Face's layout (config.json + model.safetensors), and the state that resumes a run
exactly.

A file holds one tensor per expert (`...mlp.experts.3.gate_proj.weight`); the model holds them stacked.
"""

import json
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from config import Diverged, ModelConfig, UserError, read_json
from data.tokenizer import Tokenizer, save_beside
from model import Transformer
from optim import is_finite

SCORER = "SequenceClassification"  # the kind of a checkpoint with a scalar head, score.weight
EXPERT = re.compile(r"(.*\.mlp\.experts\.)(\d+)\.(gate|up|down)_proj\.weight$")


def to_hf_tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """The model's tensors under Hugging Face's names, experts unstacked. A tied head is not stored."""
    out = {}
    for name, tensor in model.state_dict().items():
        name = name if name.startswith(("lm_head", "score")) else f"model.{name}"
        if name == "lm_head.weight" and model.cfg.tie_word_embeddings:
            continue
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                base = name.removesuffix("gate_up_proj")
                out[f"{base}{e}.gate_proj.weight"], out[f"{base}{e}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(tensor):
                out[f"{name.removesuffix('down_proj')}{e}.down_proj.weight"] = down
        else:
            out[name] = tensor
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in out.items()}


def save_model(model: Transformer, dir: str | Path):
    """Write `config.json` and `model.safetensors` into dir, whole or not at all: a crash leaves the old
    files. Raises Diverged for weights that are not finite."""
    if not is_finite(model):
        raise Diverged("weights are NaN or infinite, and not saved; a lower --lr may help")
    dir = Path(dir)
    dir.mkdir(parents=True, exist_ok=True)
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    try:
        save_file(to_hf_tensors(model), dir / "model.safetensors.tmp", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{dir}/model.safetensors cannot be written: {error}") from None
    raw = model.cfg.to_hf() | {"torch_dtype": dtype}
    if hasattr(model, "score"):  # a preference model
        kind = raw["architectures"][0].replace("CausalLM", SCORER)
        raw |= {"architectures": [kind], "id2label": {"0": "score"}}
    (dir / "config.json.tmp").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    os.chmod(dir / "model.safetensors.tmp", (dir / "config.json.tmp").stat().st_mode)  # safetensors: 0600
    for name in ("model.safetensors", "config.json"):
        os.replace(dir / f"{name}.tmp", dir / name)


def _files(dir: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that the index names."""
    if (dir / "model.safetensors").exists():
        return [dir / "model.safetensors"]
    index = dir / "model.safetensors.index.json"
    if not index.exists():
        raise UserError(f"{dir} has no model.safetensors and no model.safetensors.index.json")
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise UserError(f"{index} has no weight_map")
    names = sorted(set(map(str, where.values())))
    missing = [n for n in names if not (dir / n).exists()]
    if missing:
        raise UserError(f"{dir} lacks {len(missing)} of {len(names)} shards, the first is {missing[0]}")
    return [dir / n for n in names]


def load_model(dir: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a checkpoint of one of config.FAMILIES, ours or transformers', single-file or sharded, tensor by
    tensor, straight to its place on the device; dtype None = as the embedding is stored; FP8 becomes bfloat16
    first (see `dequantised`).

    Raises UserError for a missing folder, a truncated file, and missing or misshapen tensors, and for
    tensors that the model does not have (multi-token-prediction layers past the last one are left out)."""
    dir = Path(dir)
    if not dir.is_dir():
        raise UserError(f"checkpoint folder {dir} does not exist")
    raw = read_json(dir / "config.json")
    cfg = ModelConfig.from_hf(raw)
    with torch.device("meta"):
        model = Transformer(cfg)
        if SCORER in str(raw.get("architectures")):
            model.score = torch.nn.Linear(cfg.hidden_size, 1, bias=False)
    wanted = dict(model.state_dict())
    if cfg.tie_word_embeddings:
        del wanted["lm_head.weight"]
    filled: dict[str, torch.Tensor] = {}
    seen, unknown, left_out = dict.fromkeys(wanted, 0), [], set()  # numbers filled in, per tensor
    for name, tensor, scale in _stored_tensors(dir):
        if layer := _past_the_last(name, cfg):
            left_out.add(layer)
        if layer or _not_ours(name, cfg) or not tensor.numel():
            continue
        target, where = _place(name, cfg)
        if target not in wanted:
            unknown.append(name)
            continue
        if scale is None and tensor.dtype not in READABLE:
            raise UserError(f"{dir}: {name} holds {tensor.dtype} numbers; only float32, bfloat16, float16 "
                "and FP8 (e4m3, with scales) are supported")
        if target not in filled:  # the routing bias stays float32: it decides between close experts
            stored = tensor.dtype if scale is None else torch.bfloat16
            kind = torch.float32 if target.endswith("e_score_correction_bias") else dtype or stored
            filled[target] = torch.empty(wanted[target].shape, dtype=kind, device=device)
        slot = filled[target][where]
        if slot.shape != tensor.shape:
            raise UserError(
                f"{dir}: {name} has shape {tuple(tensor.shape)}, the config wants {tuple(slot.shape)}"
            )
        if scale is None:
            slot.copy_(tensor)
        else:
            for rows, part in dequantised(name, tensor, scale, raw, device):
                slot[rows] = part
        seen[target] += tensor.numel()
    missing = [n for n, t in wanted.items() if seen[n] != t.numel()]
    if missing or unknown:
        raise UserError(f"{dir} does not fit its config.json: missing {missing[:3]}, unknown {unknown[:3]}")
    if left_out and os.environ.get("RANK", "0") == "0":
        print(f"{dir}: left out {', '.join(sorted(left_out))}: multi-token prediction, not part of the model")
    kind = filled["embed_tokens.weight"].dtype  # a product needs one dtype; routers make theirs in float32
    filled = {n: t if ".mlp.gate." in n else t.to(kind) for n, t in filled.items()}
    if cfg.tie_word_embeddings:
        filled["lm_head.weight"] = filled["embed_tokens.weight"]
    model.load_state_dict(filled, assign=True)
    if cfg.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.requires_grad_(True)


def stored_shape(dir: str | Path) -> tuple[ModelConfig, torch.dtype]:
    """What `load_model` would make of a folder, without reading its weights: the shape, and the dtype. Raises
    UserError as it does."""
    dir = Path(dir)
    if not dir.is_dir():
        raise UserError(f"checkpoint folder {dir} does not exist")
    cfg, kinds = ModelConfig.from_hf(read_json(dir / "config.json")), {"F32": torch.float32,
        "F16": torch.float16, "F64": torch.float64}
    for file in _files(dir):
        with _opened(file) as f:
            for name in f.keys():
                if name.endswith("embed_tokens.weight"):
                    return cfg, kinds.get(f.get_slice(name).get_dtype(), torch.bfloat16)
    raise UserError(f"{dir} does not fit its config.json: it has no embed_tokens.weight")


READABLE = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
READ_AT_ONCE = 1 << 26  # bytes of a file that are mapped into memory before it is opened anew
SCALE = "_scale_inv"  # behind a weight's name: the factors of its blocks (DeepSeek-V3, sec. 3.3)


def _stored_tensors(dir: Path):
    """Every (name, tensor, FP8 scale or None) of a checkpoint, file by file. Raises UserError for a file that
    cannot be read, and for FP8 numbers without their scale."""
    held = {}
    for file in _files(dir):
        with _opened(file) as f:
            held[file] = list(f.keys())
    place = {name: file for file, names in held.items() for name in names}
    for file, names in held.items():
        names = [name for name in reversed(names) if place[name] == file and not name.endswith(SCALE)]
        while names:
            with _opened(file) as f:  # what has been read stays in memory as long as the file is open
                room = READ_AT_ONCE
                while names and room > 0:
                    name = names.pop()
                    tensor = f.get_tensor(name)
                    fp8 = tensor.dtype == torch.float8_e4m3fn
                    room -= tensor.nbytes
                    yield name, tensor, _scale_of(name, f, file, place) if fp8 else None
                    del tensor


def _scale_of(name: str, f, file: Path, place: dict[str, Path]):
    """The factors of an FP8 weight's blocks, often in the file that is open."""
    where = place.get(name + SCALE)
    if where is None:
        raise UserError(f"{file}: {name} is FP8, and {name}{SCALE} is missing")
    if where == file:
        return f.get_tensor(name + SCALE)
    with _opened(where) as other:
        return other.get_tensor(name + SCALE)


@contextmanager
def _opened(file: Path):
    try:
        with safe_open(file, framework="pt", device="cpu") as f:
            yield f
    except SafetensorError as error:
        raise UserError(f"{file} is truncated or no safetensors file ({error}); copy it again") from None


def dequantised(name: str, weight, scale, raw: dict, device: str):
    """An FP8 weight (out, in) times the scale of each of its blocks (DeepSeek-V3, arXiv 2412.19437, sec. 3.3:
    128 x 128 numbers share one factor), some rows at a time: yields (rows, float32 numbers). Raises UserError
    for scales that do not fit."""
    high, wide = (raw.get("quantization_config") or {}).get("weight_block_size") or (128, 128)
    blocks = tuple(-(-size // block) for size, block in zip(weight.shape, (high, wide), strict=False))
    if scale.shape != blocks or len(blocks) < 2 or not scale.is_floating_point():
        raise UserError(f"{name}{SCALE} has shape {tuple(scale.shape)}, {scale.dtype}; the weight needs "
            f"{blocks}, float32")
    for i, factors in enumerate(scale.to(device, torch.float32)):
        rows = slice(i * high, (i + 1) * high)
        part = weight[rows].to(device).float()
        yield rows, part.mul_(factors.repeat_interleave(wide)[: weight.shape[1]])


def _past_the_last(name: str, cfg: ModelConfig) -> str:
    """The layer of a tensor behind the model's last one, "" for all others."""
    layer = re.match(r"model\.(layers\.(\d+))\.", name)
    return layer[1] if layer and int(layer[2]) >= cfg.num_hidden_layers else ""


def _not_ours(name: str, cfg: ModelConfig) -> bool:
    """Old rotary buffers, a stored copy of a tied head."""
    return "rotary_emb.inv_freq" in name or name == "lm_head.weight" and cfg.tie_word_embeddings


def _place(name: str, cfg: ModelConfig):
    """Where a stored tensor goes: (our name, index into our tensor). Experts go into their slice of the
    stack."""
    target, width = name.removeprefix("model."), cfg.moe_intermediate_size
    expert = EXPERT.match(target)
    if not expert:
        return target, slice(None)
    if int(expert[2]) >= cfg.n_routed_experts:
        raise UserError(f"{name}: the config has only {cfg.n_routed_experts} experts")
    if expert[3] == "down":
        return expert[1] + "down_proj", int(expert[2])
    half = slice(0, width) if expert[3] == "gate" else slice(width, None)
    return expert[1] + "gate_up_proj", (int(expert[2]), half)


# ----------------------------------------------------------------------------------------------------- resume


def unfinished(out: str | Path, cfg) -> dict | None:
    """The saved state of an unfinished run in `out` with these settings, a dataclass; None if there is none.
    Raises UserError for one with other settings."""
    state = load_state(Path(out) / "state")
    changed = [k for k, v in asdict(cfg).items() if state["config"].get(k) != v] if state else []
    if changed:
        raise UserError(f"{out} holds an unfinished run with another {', '.join(changed)}; give another "
            f"--out, or remove {out}/state to start again")
    return state


@contextmanager
def last_good_state(out: Path):
    """A run that diverges says after which step, and what is left of it."""
    try:
        yield
    except Diverged as error:
        log = out / "metrics.jsonl"
        steps = re.findall(r'"step": (\d+)', log.read_text(encoding="utf-8") if log.exists() else "")
        kept = (out / "state/state.pt").exists()
        raise UserError(f"after step {max(map(int, steps), default=0)}: {error}; "
            + (f"the last good state stays in {out}/state" if kept else "no state was saved yet")) from None


def save_run(out: Path, model: Transformer, tokenizer: Tokenizer, init: str):
    """A finished run's model, with its tokenizer, and no state any more: the next run starts anew."""
    save_beside(tokenizer, init, out)
    save_model(model, out)
    shutil.rmtree(out / "state", ignore_errors=True)


def new_run_folder(dir: str | Path, init: str | Path = ""):
    """Make dir for a fresh run; an earlier finished run's folder is kept as dir.1, dir.2, ... Raises
    UserError where the run would start from that folder."""
    dir = Path(dir)
    if init and dir.resolve() == Path(init).resolve():
        raise UserError(f"--init {init} is also where this run writes; give another --out")
    if not (dir / "model.safetensors").exists():  # ended before its first save: nothing to keep
        for name in ("metrics.jsonl", "samples.jsonl"):
            (dir / name).unlink(missing_ok=True)
    if (dir / "metrics.jsonl").exists():
        kept = next(p for i in range(1, 10_000) if not (p := dir.with_name(f"{dir.name}.{i}")).exists())
        dir.rename(kept)
        print(f"the earlier run in {dir} is kept as {kept}")
    dir.mkdir(parents=True, exist_ok=True)


def save_state(dir: str | Path, model: Transformer, **state):
    """Write model, the float32 masters of its bfloat16 parameters, and state (optimizers, counters: anything
    torch.save takes) into dir, whole or not at all."""
    dir = Path(dir)
    new, old = dir.with_name(dir.name + ".new"), dir.with_name(dir.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    save_model(model, new)
    masters = {name: p.master.detach() for name, p in model.named_parameters() if hasattr(p, "master")}
    torch.save(state | {"masters": masters}, new / "state.pt")
    shutil.rmtree(old, ignore_errors=True)
    if dir.exists():
        dir.rename(old)
    new.rename(dir)
    shutil.rmtree(old, ignore_errors=True)


def load_state(dir: str | Path) -> dict | None:
    """The state that `save_state` wrote, or None if there is none. The model lies beside it:
    load_model(dir)."""
    dir = Path(dir)
    if not (dir / "state.pt").exists():
        old = dir.with_name(dir.name + ".old")
        if not (old / "state.pt").exists():
            return None
        old.rename(dir)  # the save was interrupted between its two renames
    try:
        return torch.load(dir / "state.pt", map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{dir}/state.pt is damaged ({error}); remove {dir} to start again") from None
