"""Checkpoints in Hugging Face's layout (config.json + model.safetensors), and the state that resumes a run
exactly.

A file holds one tensor per expert (`...mlp.experts.3.gate_proj.weight`); the model holds them stacked.
"""

import atexit
import hashlib
import json
import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from config import (
    Diverged,
    ModelConfig,
    Training,
    UserError,
    base_of,
    read_config,
    read_json,
    real_path,
    say,
)
from data.tokenizer import BESIDE, Tokenizer, save_beside
from kernels import Head
from lora import Lora, adapt, adapters, attach, fold, linear_layers
from model import Transformer
from optim import check_sound, is_finite, is_router, rounded
from parallel import (
    ALONE,
    Ranks,
    agree,
    copy_weights,
    free_host_bytes,
    gather,
    is_sharded,
    is_split,
    local,
    mesh_of,
    own_rows,
    shard_model,
    together,
    weights,
    whole,
)

SCORER = "SequenceClassification"  # the kind of a checkpoint with a scalar head, score.weight
EXPERT = re.compile(r"(.*\.mlp\.experts\.)(\d{1,9})\.(gate|up|down)_proj\.weight$")


def to_hf_tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """The model's tensors under Hugging Face's names, experts unstacked, adapters merged. A tied head is not
    stored."""
    return {hf_name: part.contiguous().clone() for name, tensor in merged_weights(model)
        for hf_name, part in hf_parts(name, tensor.detach().cpu())}


def merged_weights(model: Transformer) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight of a model by name, whole and with its adapter, one after the other; in the dtype that it
    is computed in. Of a model with adapters in float32: rounded, the sums would lose most of them."""
    kinds = {name: t.dtype for name, t in weights(model.shards.plain if is_sharded(model) else model).items()}
    adapted = {f"{name}.weight": m for name, m in adapters(model)}
    for name, tensor in weights(model).items():
        if not name.endswith((".lora_A", ".lora_B")):
            full = whole(tensor, torch.float32 if model.lora else kinds[name])
            yield name, adapted[name].merge(full) if name in adapted else full


def hf_parts(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """What a file holds of one tensor of the model: its name there and the tensor, or those of each
    expert."""
    name = name if name.startswith(("lm_head", "score")) else f"model.{name}"
    if name.endswith("experts.gate_up_proj"):
        base = name.removesuffix("gate_up_proj")
        return [(f"{base}{e}.{half}_proj.weight", part) for e, both in enumerate(tensor)
            for half, part in zip(("gate", "up"), both.chunk(2), strict=True)]
    if name.endswith("experts.down_proj"):
        base = name.removesuffix("down_proj")
        return [(f"{base}{e}.down_proj.weight", down) for e, down in enumerate(tensor)]
    return [(name, tensor)]


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def has_model(dir: Path) -> bool:
    """Whether a finished run's weights lie in dir, in one file or in several."""
    return (dir / WEIGHTS).exists() or (dir / INDEX).exists()


def save_model(model: Transformer, dir: str | Path):
    """Write `config.json` and `model.safetensors` into dir, and a manifest of these and of the tokenizer's
    files that lie there. A crash leaves the old files, or what `load_model` refuses. Of a split model all
    ranks write, each a file of its own, and an index. Raises Diverged for weights that are not finite."""
    dir = Path(dir)
    dir.mkdir(parents=True, exist_ok=True)
    if is_sharded(model):
        return _save_parts(model, dir)
    write_files(dir, model_files(model), _beside(dir))
    for old in [dir / INDEX, *dir.glob("model-*-of-*.safetensors")]:
        old.unlink(missing_ok=True)


def model_files(model: Transformer) -> list[tuple[str, Callable]]:
    """The files of a model that is not split: (name, what writes it to a path), from a copy of the weights as
    they are now. Raises Diverged."""
    if not is_finite(model):
        raise Diverged(NOT_FINITE)
    tensors, raw = to_hf_tensors(model), _config_of(model)
    return [(WEIGHTS, lambda file: _write(file, tensors)),
        ("config.json", lambda file: _write_json(file, raw))]


NOT_FINITE = "weights are NaN or infinite, and not saved; a lower --lr may help"


def _write(file: Path, tensors: dict[str, torch.Tensor]):
    """A safetensors file, which says that a manifest lies beside it."""
    try:
        save_file(tensors, file, metadata={"format": "pt", "manifest": MANIFEST})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from None
    with open(file, "r+b") as f:  # it writes the two in an order of chance: equal weights are equal files
        size = int.from_bytes(f.read(8), "little")
        pair = [f'"{k}":"{v}"'.encode() for k, v in (("format", "pt"), ("manifest", MANIFEST))]
        header = f.read(size).replace(b",".join(reversed(pair)), b",".join(pair))
        f.seek(8)
        f.write(header)
    os.chmod(file, file.parent.stat().st_mode & 0o666)  # safetensors: 0600


def _write_json(file: Path, raw: dict):
    file.write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _config_of(model: Transformer) -> dict:
    """What config.json says."""
    computed = model.shards.plain if is_sharded(model) else model
    dtype = "float32" if model.lora else str(computed.embed_tokens.weight.dtype).removeprefix("torch.")
    raw = model.cfg.to_hf() | {"torch_dtype": dtype}
    if hasattr(model, "score"):  # a preference model
        kind = raw["architectures"][0].replace("CausalLM", SCORER)
        raw |= {"architectures": [kind], "id2label": {"0": "score"}}
    return raw


def _save_parts(model: Transformer, dir: Path):
    """`save_model` by all ranks. Each tensor is gathered, and kept by the one rank whose file it goes into:
    in the model's order, files of about equal size. The index comes behind the files: without it, there is
    no model."""
    if not is_finite(model):
        raise Diverged(NOT_FINITE)
    ranks = model.shards.ranks
    total, at, mine, where = sum(t.numel() for t in weights(model).values()), 0, {}, {}
    for name, full in merged_weights(model):
        owner = min(at * ranks.world // total, ranks.world - 1)
        at += full.numel()
        for hf_name, part in hf_parts(name, full):
            where[hf_name] = owner
            if owner == ranks.rank:
                mine[hf_name] = part.cpu().contiguous().clone()
    owners = sorted(set(where.values()))  # a model of a few tensors may have fewer than there are ranks
    names = {owner: f"model-{i:05}-of-{len(owners):05}.safetensors" for i, owner in enumerate(owners, 1)}
    if mine:
        _write(dir / f"{names[ranks.rank]}.tmp", mine)
    size = sum(gather(ranks, sum(t.nbytes for t in mine.values())))  # and all files are there
    if ranks.main:
        _write_json(dir / "config.json.tmp", _config_of(model))
        index = {"metadata": {"total_size": size}, "weight_map": {k: names[o] for k, o in where.items()}}
        _write_json(dir / f"{INDEX}.tmp", index)
        put_in_place(dir, [*names.values(), INDEX, "config.json"],
            _beside(dir))
        for old in {dir / WEIGHTS, *dir.glob("model-*-of-*.safetensors")} - {dir / n for n in names.values()}:
            old.unlink(missing_ok=True)
    gather(ranks, None)


def _files(dir: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that the index names."""
    if not dir.is_dir():
        raise UserError(f"checkpoint folder {dir} does not exist")
    if (dir / WEIGHTS).exists():
        return [dir / WEIGHTS]
    index = dir / INDEX
    if not index.exists():
        raise UserError(f"{dir} has no {WEIGHTS} and no {INDEX}")
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise UserError(f"{index} has no weight_map")
    names = sorted(set(map(str, where.values())))
    if outside := [n for n in names if not n or Path(n).name != n]:
        raise UserError(f"{index}: {outside[0]} is no name of a file in its folder")
    missing = [n for n in names if not (dir / n).exists()]
    if missing:
        raise UserError(f"{dir} lacks {len(missing)} of {len(names)} shards, the first is {missing[0]}")
    return [dir / n for n in names]


def load_model(dir: str | Path, device: str = "cpu", dtype: torch.dtype | str | None = None,
        merge: bool = True) -> Transformer:
    """Read a checkpoint of one of config.FAMILIES, ours or transformers', single-file or sharded, tensor by
    tensor, straight to its place on the device; dtype: also a script's --dtype, None or "" = as the embedding
    is stored; FP8 becomes bfloat16 first (see `dequantised`). Routers are float32 in any case: they decide
    between close experts. The folder of a LoRA adapter, ours or peft's, is its model with the adapter merged
    or, with merge False and in bfloat16, beside it.

    Raises UserError for a missing folder, a truncated file, and missing or misshapen tensors, and for
    tensors that the model does not have (multi-token-prediction layers past the last one are left out)."""
    dir = Path(dir)
    if (base := base_of(dir)) != dir:
        model = load_model(base, device, dtype)
        load_adapter(model, dir, str(base))
        if merge and model.embed_tokens.weight.dtype == torch.float32:
            fold(model)
        return model
    model, raw = _on_meta(dir)
    with undamaged(dir):
        kind = getattr(torch, dtype) if dtype and isinstance(dtype, str) else dtype
        return _loaded(dir, model, raw, device, kind)


def _loaded(dir: Path, model: Transformer, raw: dict, device: str, chosen: torch.dtype | None) -> Transformer:
    """The model of `_on_meta` with the weights of its folder."""
    filled: dict[str, torch.Tensor] = {}

    def place(target, wanted, stored):
        if target not in filled:
            kind = torch.float32 if is_router(target) else chosen or stored
            filled[target] = torch.empty(wanted.shape, dtype=kind, device=device)
        return filled[target], slice(0, len(wanted))

    _fill(dir, model.cfg, raw, weights(model), device, place)
    kind = filled["embed_tokens.weight"].dtype  # a product needs one dtype; routers make theirs in float32
    filled = {n: t if is_router(n) else t.to(kind) for n, t in filled.items()}
    if model.cfg.tie_word_embeddings:
        filled["lm_head.weight"] = filled["embed_tokens.weight"]
    model.load_state_dict(filled, assign=True)
    if model.cfg.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.requires_grad_(True)


def load_split(dir: str | Path, ranks: Ranks, dtype: str = "",
        prepare=lambda model: model) -> Transformer:
    """`load_model` of a model that is split (parallel.shard_model): each rank holds its rows, and beside them
    one tensor of a file at most. dir may also be the state of a split model, see `save_state`. prepare: what
    is done to the model before it is split. Adapters stay beside the weights, whole on each rank."""
    dir, folder = base_of(dir), Path(dir)
    state = _has_rows(dir)
    model, raw = _on_meta(dir)
    if ranks.main and not state and (problem := damage_of(dir)):  # the others need not read it twice
        raise UserError(problem)
    kind = raw["torch_dtype"] if state else dtype
    kind = getattr(torch, kind) if kind else stored_shape(dir)[1]
    for p in model.parameters():
        p.data = p.data.to(kind)
    wanted = weights(model)
    if folder != dir:
        load_adapter(model, folder, str(dir), ranks.device)
    slots = weights(shard_model(prepare(model), ranks))
    for name in slots.keys() - wanted.keys() if model.lora is None else ():  # a new head starts at zero
        local(slots[name]).zero_()
    if state:
        copy_weights(model, load_state(dir, ranks, ("model",))["model"])
    else:
        _fill(dir, model.cfg, raw, wanted, ranks.device,
            lambda target, wanted, stored: (local(slots[target]), own_rows(slots[target])))
    return model


def load_trained(dir: str | Path, ranks: Ranks, cfg: Training, init: str | Path,
        prepare=lambda model: model) -> Transformer:
    """The model that a run with cfg's settings trains, of the folder dir (its own state, or init): prepared
    (with a scalar head), with adapters (--lora_rank), split over the ranks (--shard). Raises UserError."""

    def ready(model):
        model = prepare(model)
        if cfg.lora_rank:
            adapt(model, cfg, cfg.seed, str(base_of(init)), ranks.device)
        return model

    if cfg.shard:
        if base_of(dir) != Path(dir) and not cfg.lora_rank:
            raise UserError(f"--shard true: {dir} is an adapter; train it further with --lora_rank, or give "
                "the folder of the merged model")
        return load_split(dir, ranks, cfg.dtype, ready)
    if cfg.lora_rank:
        return ready(load_model(dir, ranks.device, cfg.dtype, merge=False))
    # the masters that `optim.keep_masters` makes are then the stored numbers, not rounded ones
    exact = cfg.dtype or base_of(dir) != Path(dir)
    dtype = cfg.dtype or (str(stored_shape(dir)[1]).removeprefix("torch.") if exact else "")
    return ready(rounded(load_model(dir, ranks.device, "float32" if exact else ""), dtype))


def _on_meta(dir: Path) -> tuple[Transformer, dict]:
    """The checkpoint's model without memory, and its config.json."""
    if not dir.is_dir():
        raise UserError(f"checkpoint folder {dir} does not exist")
    cfg, raw = read_config(dir)
    with torch.device("meta"):
        model = Transformer(cfg)
        if SCORER in str(raw.get("architectures")):
            model.score = Head(cfg.hidden_size, 1, bias=False)
    return model, raw


def _fill(dir: Path, cfg: ModelConfig, raw: dict, wanted: dict[str, torch.Tensor], device: str, place):
    """Copy every stored tensor of a checkpoint to where place(our name, the wanted tensor, dtype) says:
    (tensor, which rows of the wanted one it holds)."""
    seen, unknown, left_out = dict.fromkeys(wanted, 0), [], set()  # numbers filled in, per tensor
    for name, tensor, scale in _stored_tensors(dir):
        if layer := _past_the_last(name, cfg):
            left_out.add(layer)
        if layer or _not_ours(name, cfg) or not tensor.numel():
            continue
        target, expert, part = _place(name, cfg, dir)
        if target not in wanted:
            unknown.append(name)
            continue
        if scale is None and tensor.dtype not in READABLE:
            raise UserError(f"{dir}: {name} holds {tensor.dtype} numbers; only float32, bfloat16, float16 "
                "and FP8 (e4m3, with scales) are supported")
        shape = (wanted[target] if expert is None else wanted[target][expert])[part].shape
        if shape != tensor.shape:
            raise UserError(f"{dir}: {name} has shape {tuple(tensor.shape)}, the config wants {tuple(shape)}")
        slot, own = place(target, wanted[target], tensor.dtype if scale is None else torch.bfloat16)
        seen[target] += tensor.numel()
        if expert is not None:  # a stack's rows are its experts
            if not own.start <= expert < own.stop:
                continue
            slot, own = slot[expert - own.start][part], slice(0, len(tensor))
        pieces = ([(slice(0, len(tensor)), tensor)] if scale is None
            else dequantised(f"{dir}: {name}", tensor, scale, raw, device))
        for rows, piece in pieces:
            first, last = max(rows.start, own.start), min(rows.start + len(piece), own.stop)
            if first < last:
                slot[first - own.start : last - own.start] = piece[first - rows.start : last - rows.start]
    missing = [n for n, t in wanted.items() if seen[n] != t.numel()]
    if missing or unknown:
        raise UserError(f"{dir} does not fit its config.json: missing {missing[:3]}, unknown {unknown[:3]}")
    if left_out and os.environ.get("RANK", "0") == "0":
        print(f"{dir}: left out {', '.join(sorted(left_out))}: multi-token prediction, not part of the model")


def stored_shape(dir: str | Path) -> tuple[ModelConfig, torch.dtype]:
    """What `load_model` would make of a folder, without reading its weights: the shape, and the dtype. Raises
    UserError as it does."""
    dir = base_of(dir)
    if not dir.is_dir():
        raise UserError(f"checkpoint folder {dir} does not exist")
    cfg, _ = read_config(dir)
    kinds = {"F32": torch.float32, "F16": torch.float16, "F64": torch.float64}
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
    if not file.is_file():
        raise UserError(f"{file} is no file")
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
    layer = re.match(r"model\.(layers\.(\d{1,9}))\.", name)
    return layer[1] if layer and int(layer[2]) >= cfg.num_hidden_layers else ""


def _not_ours(name: str, cfg: ModelConfig) -> bool:
    """Old rotary buffers, a stored copy of a tied head."""
    return "rotary_emb.inv_freq" in name or name == "lm_head.weight" and cfg.tie_word_embeddings


def _place(name: str, cfg: ModelConfig, dir: Path):
    """Where a stored tensor of a folder goes: (our name, the expert whose place in a stack it has or None,
    rows in there)."""
    target, width = name.removeprefix("model."), cfg.moe_intermediate_size
    expert = EXPERT.match(target)
    if not expert:
        return target, None, slice(None)
    if int(expert[2]) >= cfg.n_routed_experts:
        raise UserError(f"{dir}: {name}: the config has only {cfg.n_routed_experts} experts")
    if expert[3] == "down":
        return expert[1] + "down_proj", int(expert[2]), slice(None)
    half = slice(0, width) if expert[3] == "gate" else slice(width, None)
    return expert[1] + "gate_up_proj", int(expert[2]), half


# ---------------------------------------------------------------------------------------------------- damage

# The SHA-256 of a folder's files, as `sha256sum` writes them: `sha256sum -c manifest.sha256` checks it, too.
MANIFEST = "manifest.sha256"
_ENTRY = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")


def digest(file: Path) -> str:
    found = hashlib.sha256()  # hashlib.file_digest is Python 3.11's
    with open(file, "rb") as f:
        while part := f.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def on_disk(path: Path):
    """Return when the disk has a file's bytes, or a folder's names: a crash of the machine loses neither."""
    at = os.open(path, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)


def _beside(dir: Path) -> list[str]:
    """The tokenizer's files in a model's folder."""
    return [name for name in (*BESIDE, "template.txt") if (dir / name).exists()]


def write_files(dir: Path, files: list[tuple[str, Callable]], beside: list[str] = ()):
    """Write these files, (name, what writes it to a path), whole or not at all; see `put_in_place`."""
    for name, write in files:
        write(dir / f"{name}.tmp")
    put_in_place(dir, [name for name, _ in files], beside)


def put_in_place(dir: Path, names: list[str], beside: list[str] = ()):
    """Give files that were written as NAME.tmp their names, the last one last: it says that all are there.
    Before it comes a manifest of them, and of the files `beside` them."""
    sums = [f"{digest(dir / name)}  {name}\n" for name in beside]
    sums += [f"{digest(dir / f'{name}.tmp')}  {name}\n" for name in names]
    (dir / f"{MANIFEST}.tmp").write_text("".join(sums), encoding="utf-8")
    written = [*names[:-1], MANIFEST, names[-1]]
    for name in written:
        on_disk(dir / f"{name}.tmp")
    for name in written:
        os.replace(dir / f"{name}.tmp", dir / name)
    on_disk(dir)


def damage(dir: Path, needed: list[str]) -> str:
    """Which file of a folder is not as it was written, by its manifest, or "". needed: files that must be in
    it, so that one that ends too soon is seen."""
    if not (dir / MANIFEST).exists():
        return f"{MANIFEST} is missing"
    text = (dir / MANIFEST).read_bytes().decode("utf-8", "replace")
    sums = {name: value for value, name in _ENTRY.findall(text)}
    if text != "".join(f"{value}  {name}\n" for name, value in sums.items()) or not sums.keys() >= {*needed}:
        return f"{MANIFEST} is damaged"
    for name, value in sums.items():
        if not (dir / name).is_file():
            return f"{name!a} is missing, which {MANIFEST} names"
        if digest(dir / name) != value:
            return f"{name} is damaged: its SHA-256 is not that in {MANIFEST}"
    return ""


def damage_of(dir: Path, files: list[str] | None = None, config: str = "config.json") -> str:
    """What is to be said of a checkpoint of ours where a file is not as it was written, or "". Ours is one
    whose weights (files; by default the model's) say so: a folder of others has no manifest, and new weights
    of another program are not those of ours."""
    known, files = set(), files or [file.name for file in _files(dir)]
    for name in files:
        with _opened(dir / name) as f:
            known |= {*(f.metadata() or {})}
    problem = "" if known <= {"format"} else damage(dir, [config, *files])
    return problem and (f"{dir}: {problem}; copy the folder again (if you changed it on purpose: sha256sum "
        f"*.json *.safetensors > {MANIFEST})")


@contextmanager
def undamaged(dir: Path, *which):
    """Around what opens a checkpoint: raises UserError for its damage, also behind what else is wrong."""
    problem = damage_of(dir, *which)
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {problem}" if problem else str(error)) from None
    if problem:
        raise UserError(problem)


# --------------------------------------------------------------------------------------------------- adapters

LARGEST_RANK = 1 << 14
PEFT, ADAPTER = "base_model.model.", "adapter_model.safetensors"  # before the names of its tensors; its file
# What peft's adapters may also be; of these settings only the values here are supported.
PLAIN_LORA = {"peft_type": ["LORA"], "bias": ["none"], "fan_in_fan_out": [False], "use_dora": [False],
    "lora_bias": [False], "use_qalora": [False], "rank_pattern": [{}], "alpha_pattern": [{}],
    "trainable_token_indices": [None], "target_parameters": [None, []], "layer_replication": [None],
    "alora_invocation_tokens": [None], "init_lora_weights": [True, False, "gaussian", "eva", "orthogonal"],
    "modules_to_save": [None, [], ["score"], ["classifier", "score"]]}


def save_adapter(model: Transformer, dir: Path):
    """Write a model's adapters (and a preference model's head) as peft does: adapter_config.json and
    adapter_model.safetensors, and the manifest. Raises Diverged for numbers that are not finite."""
    if not model.cfg.is_dense and any(".mlp." in name for name, _ in adapters(model)):
        say(f"{dir}: peft and transformers 5 take gate_proj, up_proj and down_proj of a model with experts "
            "for the experts', and open this adapter wrongly; use the merged model there")
    dir.mkdir(parents=True, exist_ok=True)
    write_files(dir, adapter_files(model), _beside(dir))


def adapter_files(model: Transformer) -> list[tuple[str, Callable]]:
    """`model_files` of a model's adapters."""
    names, scored = [name for name, _ in adapters(model)], hasattr(model, "score")
    tensors = {f"{PEFT}model.{name}.{factor}.weight": getattr(m, factor)
        for name, m in adapters(model) for factor in ("lora_A", "lora_B")}
    tensors |= {f"{PEFT}score.weight": model.score.weight} if scored else {}
    if not all(t.isfinite().all() for t in tensors.values()):
        raise Diverged(NOT_FINITE)
    tensors = host_copy(tensors)
    ends = sorted({name.rpartition(".")[2] for name in names})  # if these mean the same layers
    if [name for name in linear_layers(model) if name.rpartition(".")[2] in ends] != names:
        ends = [f"model.{name}" for name in names]
    kind = model.lora
    raw = {"peft_type": "LORA", "task_type": "SEQ_CLS" if scored else "CAUSAL_LM", "r": kind.rank,
        "lora_alpha": kind.alpha, "lora_dropout": kind.dropout, "use_rslora": kind.rslora,
        "target_modules": ends, "modules_to_save": ["score"] if scored else None, "bias": "none",
        "base_model_name_or_path": str(real_path(kind.base)), "inference_mode": True}
    raw |= {"think_tags": model.cfg.think_tags} if model.cfg.think_tags else {}
    return [(ADAPTER, lambda file: _write(file, tensors)),
        ("adapter_config.json", lambda file: _write_json(file, raw))]


def load_adapter(model: Transformer, dir: Path, base: str, device: str | None = None):
    """Put the adapters of a folder beside the weights of its model, those of the folder `base`. device: where
    they go if the weights are not there yet. Raises UserError for other kinds than plain LoRA, and for what
    the model has no place for."""
    if not (dir / ADAPTER).exists():
        raise UserError(f"{dir} has no {ADAPTER}")
    with undamaged(dir, [ADAPTER], "adapter_config.json"):
        _put_adapter(model, dir, base, device)


def _put_adapter(model: Transformer, dir: Path, base: str, device: str | None):
    raw = read_json(dir / "adapter_config.json")
    for key, values in PLAIN_LORA.items():
        if raw.get(key, values[0]) not in values:
            raise UserError(f"{dir}: {key}={raw[key]!r} is not supported, only plain LoRA is; merge it with "
                "peft (merge_and_unload) and give the merged folder")
    try:
        kind = Lora(int(raw["r"]), float(raw["lora_alpha"]), 0.0, bool(raw.get("use_rslora")), "", base)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{dir}/adapter_config.json: r or lora_alpha is no number ({error})") from None
    if not (1 <= kind.rank <= LARGEST_RANK and math.isfinite(kind.alpha)):
        raise UserError(f"{dir}/adapter_config.json: r={kind.rank}, lora_alpha={kind.alpha}: expected r from "
            f"1 to {LARGEST_RANK:,}, and a finite lora_alpha")
    with _opened(dir / ADAPTER) as f:
        tensors = {name.removeprefix(PEFT).removeprefix("model.").removesuffix(".weight"): f.get_tensor(name)
            for name in f.keys()}  # noqa: SIM118
    if "score" in tensors and not hasattr(model, "score"):
        weight = model.lm_head.weight
        model.score = Head(model.cfg.hidden_size, 1, bias=False, dtype=weight.dtype,
            device=device or weight.device)
    names = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    if others := sorted(set(names) - set(linear_layers(model))):
        raise UserError(f"{dir}: {others[0]} is no linear layer of a block; only these can have adapters")
    attach(model, kind, names=names, device=device)
    model.cfg.think_tags = raw.get("think_tags", model.cfg.think_tags)
    slots = {f"{name}.{factor}": getattr(m, factor) for name, m in adapters(model)
        for factor in ("lora_A", "lora_B")}
    slots |= {"score": model.score.weight} if hasattr(model, "score") else {}
    for name in sorted(slots.keys() | tensors.keys()):
        shapes = [tuple(held[name].shape) if name in held else "nothing" for held in (tensors, slots)]
        if shapes[0] != shapes[1] and (name, shapes[0]) != ("score", "nothing"):
            raise UserError(f"{dir}: {name} is {shapes[0]}, its config and the model want {shapes[1]}")
        if name in tensors:
            slots[name].data.copy_(tensors[name])


# ----------------------------------------------------------------------------------------------------- resume


# What a resumed run may have otherwise than before: how long it is, how often it looks, where it runs.
FREE = {"steps", "epochs", "eval_every", "eval_problems", "tracker", "device", "micro_tokens", "save_every",
    "save_minutes", "out"}


def unfinished(out: str | Path, cfg) -> dict | None:
    """The saved state of an unfinished run in `out` with these settings, a dataclass, but for those in FREE;
    None if there is none. Raises UserError for one with other settings."""
    state = load_state(Path(out) / "state")
    if not state:
        return None
    old = state["config"]
    changed = {k: f"{k} {old.get(k)} -> {v}" for k, v in asdict(cfg).items() if old.get(k) != v}
    if refused := [text for name, text in changed.items() if name not in FREE]:
        raise UserError(f"{out} holds an unfinished run with other settings ({', '.join(refused)}); give "
            f"another --out, or remove {out}/state to start again")
    if cfg.steps < state["step"]:
        raise UserError(f"--steps {cfg.steps}: the unfinished run in {out} has done {state['step']} already")
    if changed:
        say(f"{out}: resumes with {', '.join(changed.values())}")
    return state


@contextmanager
def last_good_state(out: Path):
    """A run that diverges says after which step, and what is left of it; so does one that cannot write."""
    def left():
        kept = (out / "state/state.pt").exists()
        return f"the last good state stays in {out}/state" if kept else "no state was saved yet"

    try:
        yield
    except Diverged as error:
        log = out / "metrics.jsonl"
        steps = re.findall(r'"step": (\d{1,18})', log.read_text(encoding="utf-8") if log.exists() else "")
        raise UserError(f"after step {max(map(int, steps), default=0)}: {error}; {left()}") from None
    except OSError as error:
        raise OSError(f"{error}; {left()}; when that is mended, run the same command again") from error


def save_run(out: Path, model: Transformer, tokenizer: Tokenizer, init: str, ranks: Ranks):
    """A finished run's model, with its tokenizer, and no state any more: the next run starts anew. Called on
    all ranks; of a model that is not split the first one writes."""
    if ranks.main:
        save_beside(tokenizer, init, out)
        if model.lora:
            (out / "adapter").mkdir(exist_ok=True)
            save_beside(tokenizer, init, out / "adapter", adapter=True)
            save_adapter(model, out / "adapter")
    if ranks.main or is_sharded(model):
        save_model(model, out)
    if ranks.main:
        shutil.rmtree(out / "state", ignore_errors=True)


def lies_in(folder: str | Path, dir: str | Path) -> bool:
    """Whether a folder is dir, or inside of it."""
    folder = real_path(folder)
    return real_path(dir) in (folder, *folder.parents)


def new_run_folder(dir: str | Path, init: str | Path = ""):
    """Make dir for a fresh run; an earlier finished run's folder is kept as dir.1, dir.2, ... Raises
    UserError where the run would start from that folder."""
    dir = Path(dir)
    for start in {Path(init), base_of(init)} if init else ():
        if lies_in(start, dir):
            raise UserError(f"--init {init} is also where this run writes; give another --out")
    if not has_model(dir):  # ended before its first save: nothing to keep
        for name in ("metrics.jsonl", "samples.jsonl"):
            (dir / name).unlink(missing_ok=True)
    if (dir / "metrics.jsonl").exists():
        kept = next(p for i in range(1, 10_000) if not (p := dir.with_name(f"{dir.name}.{i}")).exists())
        dir.rename(kept)
        print(f"the earlier run in {dir} is kept as {kept}")
    dir.mkdir(parents=True, exist_ok=True)


PREVIOUS = "previous"  # in a state's folder: the state before it


class Saver:
    """Writes the states of a run into dir, whole or not at all: a copy of all that changes is made at once,
    and a thread brings it to the disk, into dir.new, which then takes dir's place. The state before it is
    kept as dir/previous. One write at a time; at the end of the process it is waited for.

    Of a split model every rank writes what it holds (torch.distributed.checkpoint), and there is no copy.
    tokens: a prompt or an example of the run; a model that is not `is_sound` with it is not saved. minutes:
    after which `overdue` asks for a save."""

    def __init__(self, dir: str | Path, model: Transformer, tokens: list[int] | None = None,
            ranks: Ranks = ALONE, minutes: float = 0.0):
        self.dir, self.model, self.tokens, self.ranks, self.minutes = Path(dir), model, tokens, ranks, minutes
        self.new, self.last = self.dir.with_name(f"{self.dir.name}.new"), time.monotonic()
        self.thread, self.error, self.settled = None, None, False
        atexit.register(self._join)

    def overdue(self) -> bool:
        """Whether the last save is `minutes` ago, by rank 0's clock, on every rank. Raises OSError where the
        last one has failed."""
        self._raise()
        late = self.minutes > 0 and time.monotonic() - self.last > 60 * self.minutes
        return agree(self.ranks, late) if self.minutes else False

    def save(self, **state):
        """Called on all ranks. state: anything torch.save takes; the random states, the model (of one with
        adapters only these) and the float32 masters of its bfloat16 parameters are added. Raises Diverged,
        and OSError where a write fails, this one or the one before."""
        self.wait()
        model, split, begin = self.model, is_sharded(self.model), time.monotonic()
        drawn = {"random": gather(self.ranks, random_state())}
        if not (self.ranks.main or split):
            return
        if self.tokens is not None:
            check_sound(model, self.tokens)
        if self.ranks.main:
            self._settle()
            shutil.rmtree(self.new, ignore_errors=True)
        if split and not model.lora:
            state = _save_rows(self.new, model, state | {"model": weights(model)})
            files = []
        elif self.ranks.main:
            self.new.mkdir()
            state |= {"masters": {n: p.master for n, p in model.named_parameters() if hasattr(p, "master")}}
            files = adapter_files(model) if model.lora else model_files(model)
        if not self.ranks.main:
            return
        there = nbytes(state) < free_host_bytes(self.ranks) / 2
        if there:
            state = host_copy(state)
        self.thread = Thread(target=self._write, args=(files, state | drawn), name="save")
        self.thread.start()
        if not there:  # no room for a copy
            self.wait()
        self.last = begin

    def wait(self):
        """Until the last save is on the disk. Raises OSError where it failed."""
        self._join()
        self._raise()

    def _join(self):
        if self.thread:
            self.thread.join()
            self.thread = None

    def _raise(self):
        error, self.error = self.error, None
        if error:
            raise error

    def _write(self, files: list, state: dict):
        try:
            rows = [p.name for p in self.new.iterdir()]  # of a split model
            write_files(self.new, [*files, ("state.pt", lambda file: _pickle(file, state))], rows)
            self._take_place()
        except BaseException as error:  # raised again in the main thread
            shutil.rmtree(self.new, ignore_errors=True)
            self.error = error

    def _take_place(self):
        """dir.new becomes dir, and dir becomes dir/previous: at every moment one of them is whole."""
        gone = self.dir.with_name(f"{self.dir.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        if (self.dir / PREVIOUS).exists():
            (self.dir / PREVIOUS).rename(gone)
        if self.dir.exists():
            self.dir.rename(self.new / PREVIOUS)
        self.new.rename(self.dir)
        on_disk(self.dir.parent)
        shutil.rmtree(gone, ignore_errors=True)

    def _settle(self):
        """Before the first write: the newest state that is whole, which this run goes on from, becomes dir.
        (All ranks have read it by now.)"""
        whole = newest_state(self.dir) if not self.settled else self.dir
        self.settled = True
        if whole == self.new:
            self.new.rename(self.dir)
        elif whole == self.dir / PREVIOUS:
            broken = self.dir.with_name(f"{self.dir.name}.gone")
            shutil.rmtree(broken, ignore_errors=True)
            self.dir.rename(broken)
            (broken / PREVIOUS).rename(self.dir)
            shutil.rmtree(broken)


def save_state(dir: str | Path, model: Transformer, **state):
    """Write one state with this model: a `Saver` that is waited for. Of a split model all ranks call it."""
    Path(dir).parent.mkdir(parents=True, exist_ok=True)
    saver = Saver(dir, model, ranks=model.shards.ranks if is_sharded(model) else ALONE)
    saver.save(**state)
    saver.wait()
    gather(saver.ranks, None)  # no rank goes on before it is there


ROWS = "rows of all ranks: "  # in state.pt, in place of a tensor that is split


def _save_rows(dir: Path, model: Transformer, state: dict) -> dict:
    """Write each rank's rows of the split tensors in a nested state, and config.json. Returns the state with
    their names in their places."""
    import torch.distributed.checkpoint as dcp

    ranks, split = model.shards.ranks, {}

    def named(value, path):
        if isinstance(value, dict):
            return {k: named(v, f"{path}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [named(v, f"{path}/{i}") for i, v in enumerate(value)]
        if isinstance(value, torch.Tensor) and is_split(value):
            split[path[1:]] = value.detach()
            return ROWS + path[1:]
        return value

    state = named(state, "")
    if ranks.main:
        dir.mkdir(parents=True)
        _write_json(dir / "config.json", _config_of(model))
    gather(ranks, None)  # the folder is new
    try:
        with together():
            dcp.save(split, checkpoint_id=dir)
    except dcp.api.CheckpointException as error:
        raise OSError(f"{dir} cannot be written: {next(iter(error.failures.values()))[0]}") from None
    return state


def _has_rows(dir: Path) -> bool:
    """Whether a state is one of `_save_rows`: torch's own file lies beside the rows."""
    return (dir / ".metadata").exists()


def _load_rows(dir: Path, ranks: Ranks, state: dict) -> dict:
    """The state with this rank's rows of the split tensors, whatever the number of ranks that wrote them."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed import tensor

    stored = dcp.FileSystemReader(dir).read_metadata().state_dict_metadata
    split = {}

    def find(value):
        if isinstance(value, dict | list):
            for v in value.values() if isinstance(value, dict) else value:
                find(v)
        elif isinstance(value, str) and value.startswith(ROWS):
            name = value.removeprefix(ROWS)
            split[name] = tensor.zeros(stored[name].size, dtype=stored[name].properties.dtype,
                device_mesh=mesh_of(ranks), placements=[tensor.Shard(0)])

    def put(value):
        if isinstance(value, dict):
            return {k: put(v) for k, v in value.items()}
        if isinstance(value, list):
            return [put(v) for v in value]
        rows = isinstance(value, str) and value.startswith(ROWS)
        return split[value.removeprefix(ROWS)] if rows else value

    find(state)
    with together():
        dcp.load(split, checkpoint_id=dir)
    return put(state)


def newest_state(dir: str | Path) -> Path | None:
    """The folder of the newest state of dir that is whole; None if none was saved, or dir was removed. What
    is damaged is named in one line. Raises UserError if nothing whole is left."""
    dir = Path(dir)
    new = dir.with_name(f"{dir.name}.new")
    if not dir.exists():  # the process ended between the two renames, or in its first write
        return new if (new / MANIFEST).exists() and not damage(new, ["state.pt"]) else None
    found = {place: damage(place, ["state.pt"]) for place in (dir, dir / PREVIOUS) if place.exists()}
    whole = next((place for place, problem in found.items() if not problem), None)
    broken = "; ".join(f"{place}: {problem}" for place, problem in found.items() if problem)
    if whole is None:
        raise UserError(f"{broken}: no state is whole any more; remove {dir} to start again from step 0")
    if broken:
        say(f"{broken}; {whole} is whole, and used")
    return whole


def load_state(dir: str | Path, ranks: Ranks | None = None, keys: tuple = ()) -> dict | None:
    """The newest state that a `Saver` wrote and that is whole, with its "folder", or None if there is none.
    The model lies in that folder: load_model(state["folder"]). With ranks, of the split tensors in a split
    model's state, and of `keys` only, this rank's rows. Raises UserError where all states are damaged."""
    folder = newest_state(dir)
    if folder is None:
        return None
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True) | {"folder": str(folder)}
    return state if ranks is None else own_state(state, ranks, keys)


def own_state(state: dict, ranks: Ranks, keys: tuple) -> dict:
    """The state with this rank's rows of the split tensors under `keys`, if it is one of a split model; the
    random states become this rank's."""
    if len(state["random"]) == ranks.world:
        set_random_state(state["random"][ranks.rank])
    if not _has_rows(Path(state["folder"])):
        return state
    return state | _load_rows(Path(state["folder"]), ranks, {k: v for k, v in state.items() if k in keys})


# The global random generators: nothing of ours asks them, but a reward of one's own may.


def seed_generators(*numbers: int):
    """A run's start: what it draws from them is then the same in each run with these numbers."""
    seed = int(np.random.default_rng(numbers).integers(2**31))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict:
    """The states of this process's global random generators."""
    kind, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None}


def set_random_state(state: dict):
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def host_copy(value):
    """A nested state with copies of its tensors, in host memory."""
    if isinstance(value, dict):
        return {k: host_copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(host_copy, value))
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def nbytes(value) -> int:
    """Of the tensors in a nested state."""
    if isinstance(value, dict | list | tuple):
        return sum(map(nbytes, value.values() if isinstance(value, dict) else value))
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def _pickle(file: Path, state: dict):
    try:
        with open(file, "wb") as f:
            torch.save(state, f)
    except RuntimeError as error:  # torch's own, of the full disk that it has met
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
