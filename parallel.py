"""One process or many: set-up for torchrun or for N processes on this machine's CPU, and the few collectives
we use.

`--device cpu:2` starts two processes of one thread each (operations of a small model do not split over
threads, batches do), `--device cpu` is one process with all threads; under `torchrun --nproc_per_node=8
grpo.py ...` the same code runs with one process per GPU. Nothing else differs: every rank holds the whole
rollout, and the micro-batches are dealt out (see `share`).

Whichever process fails, the run says why, once, and ends within seconds (see `last_words`)."""

import atexit
import copy
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

import config
from config import UserError


class Ranks(NamedTuple):
    rank: int
    world: int
    device: str  # cpu | cuda | cuda:3 | mps

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: list) -> list:
        """This rank's part of a list, dealt out in turn."""
        return items[self.rank :: self.world]


ALONE = Ranks(0, 1, "cpu")


def setup(device: str) -> Ranks:
    """Join the processes that torchrun started, or start them: `auto`, `cuda`, `cpu`, `cpu:N` for N processes
    of one thread each, or `mps` (Apple's GPU: one process; CUDA's code path, without graphs)."""
    kind, _, count = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps") or count and not (count.isdecimal() and int(count)):
        raise UserError(f"--device {device}: expected auto, cpu, cpu:N (N processes), cuda, cuda:N or mps")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind]:
        raise UserError(f"--device {device}: this torch sees no such GPU; use --device cpu")
    keep_freed_memory()
    torch.set_flush_denormal(True)  # below 1e-38 is 0: with denormals exp() is ten times slower
    processes = int(count or 1) if kind == "cpu" else 1
    if "WORLD_SIZE" not in os.environ and processes > 1:
        launch(processes)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if kind == "cpu" and count:
        torch.set_num_threads(1)
    if kind == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', count or 0)}"
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        backend = "nccl" if kind == "cuda" else "gloo"
        with together():
            store = common_store()
            while store.add("joined", int(rank > 0)) < len(_helpers):  # rank 0 waits where it sees them end
                time.sleep(0.02)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world,
                timeout=timedelta(minutes=10))
        atexit.register(dist.destroy_process_group)
    return Ranks(rank, world, device if kind == "cuda" else kind)


# ----------------------------------------------------------------------------- processes that start and end

_helpers: list[subprocess.Popen] = []  # of rank 0: the processes that it has started, ranks 1 to N-1
_store: dist.Store | None = None


def launch(processes: int):
    """Start this same command as ranks 1 to N-1 and become rank 0."""
    global _store
    _store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {"WORLD_SIZE": str(processes), "RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_store.port)}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    atexit.register(_end)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, _look)
    for rank in range(1, processes):  # to them rank 0 is what torchrun's agent is to its workers
        env = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "RANK": str(rank),
            "TORCHELASTIC_USE_AGENT_STORE": "True"}
        _helpers.append(subprocess.Popen(sys.orig_argv, env=env, stdin=subprocess.DEVNULL))


def common_store() -> dist.Store:
    """The keys and values that all processes share. `launch` or torchrun's agent hosts them and was there
    before this process, so if it does not answer it has ended; else rank 0 does, whenever it starts."""
    global _store
    if _store is None and "TORCHELASTIC_USE_AGENT_STORE" in os.environ:
        try:
            where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            socket.create_connection(where, timeout=10).close()
        except OSError as error:
            raise RuntimeError(f"the store of the processes does not answer: {error}") from None
    _store = _store or next(dist.rendezvous("env://"))[0]
    return _store


class PeerLost(BaseException):
    """Another process of the run has ended. No Exception, which a reward's caller would take for the
    reward's."""


@contextmanager
def together():
    """Around what all processes do at the same time, passes through a split model included: raises PeerLost
    where one of them has ended. Other errors, such as too little memory, stay what they are."""
    try:
        yield
    except RuntimeError as error:  # gloo's have no type of their own
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        _stop_looking()
        raise PeerLost(f"another process ended: {str(error).partition('. ')[0]}") from error


def _look(*_):
    """Rank 0 need not wait for what all do together to see that a helper has failed; 130 is a wanted stop."""
    for rank, helper in enumerate(_helpers, 1):
        code = helper.poll()
        if code not in (None, 0, 130):
            _stop_looking()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise PeerLost(f"process {rank} of {len(_helpers) + 1} ended ({how})")


def _stop_looking():
    """One PeerLost is enough: a second, while the first is reported, would be reported by nobody."""
    if _helpers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end(patience: float = 20):
    """When rank 0 leaves, its helpers finish by themselves; one that hangs is ended."""
    until = time.monotonic() + patience
    for helper in _helpers:
        try:
            helper.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            helper.kill()


def last_words(text: str, code: int, error: BaseException):
    """What `config.run_script` does where main() has raised `error`: write the text, exit with the code. Of
    several processes the first to fail does so, and the others say nothing and exit with the same code; one
    that has only lost another speaks where that one was killed and could not."""
    _stop_looking()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    speaks = rank == 0
    if world > 1 and (_store or "TORCHELASTIC_USE_AGENT_STORE" in os.environ):
        try:
            if isinstance(error, PeerLost):
                text = f"error: {_how_lost(error)}\n"
            first = common_store().compare_set("failed", "", f"{code} {rank}").decode()
            code, speaks = int(first.split()[0]), first == f"{code} {rank}"
        except RuntimeError:  # the store is gone, and with it rank 0, its host
            text, speaks = f"error: process 0 of {world} ended\n", rank == 1
    if speaks:
        behind_a_bar = rank > 0 and sys.stderr.isatty()  # that of rank 0
        sys.stderr.write("\n" * behind_a_bar + text)
    _end(patience=0.5)
    leave(code)
    sys.exit(code)


def _how_lost(error: PeerLost) -> PeerLost:
    """The lost process has said in the store why it ended, if it could. If not, rank 0 sees how, soon."""
    until = time.monotonic() + 5
    while not common_store().check(["failed"]) and time.monotonic() < until:
        try:
            _look()
        except PeerLost as known:
            return known
        time.sleep(0.05)
    return error


def leave(code: int):
    """How a process of several ends, after what atexit has: at once, with this code. In Python's own end a
    thread of torch's collectives that still runs can abort it, and torchrun would stop all others."""
    if dist.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


config.last_words, config.leave = last_words, leave


def keep_freed_memory():
    """Tell glibc to keep freed tensors' pages instead of returning them to the kernel at each step (no-op
    elsewhere)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: its largest value
            libc.mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD


def give_back_memory():
    """Return what is kept of freed memory to the kernel (glibc; no-op elsewhere), between phases whose
    tensors are of other sizes: one could not use what another has left."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def free_bytes(ranks: Ranks) -> float:
    """Memory that this process may still take: its GPU's, or its share of the machine's; inf if unknown."""
    if ranks.device.startswith("cuda"):
        return torch.cuda.mem_get_info(ranks.device)[0]
    if ranks.device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return free_host_bytes(ranks)


def free_host_bytes(ranks: Ranks) -> float:
    """This process's share of the machine's memory that is free; inf if unknown."""
    if sys.platform != "linux":
        return math.inf
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))  # processes on this machine, of several
    with open("/proc/meminfo", encoding="utf-8") as f:  # SC_AVPHYS_PAGES leaves out what caches would give
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvail")) * 1024 / here


def gather(ranks: Ranks, value) -> list:
    """Every rank's value, in rank order, on every rank. Any picklable value."""
    if ranks.world == 1:
        return [value]
    out = [None] * ranks.world
    with together():
        dist.all_gather_object(out, value)
    return out


def gather_or_raise(ranks: Ranks, kind: type[Exception], make: Callable) -> list:
    """`gather` of what make() returns. If it raises an error of this kind on any rank, all ranks raise it."""
    try:
        value = make()
    except kind as error:
        value = error
    everyone = gather(ranks, value)
    for value in everyone:
        if isinstance(value, kind):
            raise value
    return everyone


def agree(ranks: Ranks, value):
    """Rank 0's value, on every rank."""
    return gather(ranks, value)[0]


PASS_TOKENS = 250  # what a pass over a micro-batch costs besides its tokens, in tokens (tiny on a CPU)


def micro_batches(ranks: Ranks, lengths: list[int], budget: int,
        prompts: list[tuple] | None = None) -> list[list[int]]:
    """This rank's share of the rows, as lists of row numbers of at most `budget` tokens after padding (or one
    longer row), with as little padding as there can be. Rows are sorted by length and dealt out in turn, so
    that all ranks get the same work.

    prompts: (prompt, its length) of each row, where a list computes each prompt once. If fewer tokens are
    computed so, whole groups of rows with the same prompt are dealt out instead. The budget counts whole
    rows: attention keeps a prompt's keys for each of them."""
    prompts = prompts or [((), 0)] * len(lengths)

    def cut(rows):
        """(tokens computed, batches) of the cheapest way to cut the rows into consecutive batches: the
        cheapest for the first j rows is the best last batch, behind the cheapest for the rows before it."""
        cheapest, starts = [0], [0]
        for j in range(1, len(rows) + 1):
            S = T = 0
            distinct, ways = set(), []
            for i in range(j - 1, -1, -1):  # the last batch is rows[i:j]
                prompt, start = prompts[rows[i]]
                S, T = max(S, start), max(T, lengths[rows[i]] - start)
                distinct.add(prompt)
                if (j - i) * (S + T) > budget and ways:
                    break
                ways.append((cheapest[i] + len(distinct) * S + (j - i) * T + PASS_TOKENS, i))
            cost, start = min(ways)
            cheapest.append(cost)
            starts.append(start)
        batches, j = [], len(rows)
        while j:
            batches.append(rows[starts[j] : j])
            j = starts[j]
        return cheapest[-1], batches[::-1]

    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: dict[tuple, list[int]] = {}
    for i in longest_first:
        groups.setdefault(prompts[i], []).append(i)

    def dealt(items):  # ranks 0 to N-1, then N-1 to 0, ...: else rank 0 would always get the longer one
        places = [*range(ranks.world), *reversed(range(ranks.world))]
        return [[x for k, x in enumerate(items) if places[k % len(places)] == r] for r in range(ranks.world)]

    deals = [dealt(longest_first)]
    if 1 < len(groups) < len(lengths):
        deals.append([[i for group in mine for i in group] for mine in dealt(list(groups.values()))])
    if len(deals) == 1:
        return cut(deals[0][ranks.rank])[1]
    plans = [[cut(rows) for rows in deal] for deal in deals]
    return min(plans, key=lambda plan: max(plan)[0])[ranks.rank][1]


def lockstep(ranks: Ranks, batches: list[list[int]], model: nn.Module) -> list[tuple[list[int], bool]]:
    """The micro-batches that this rank passes through the model, each with whether it counts. Of a split
    model every pass needs all ranks: one with fewer micro-batches than another runs row 0 again, and divides
    its loss by infinity."""
    most = max(gather(ranks, len(batches))) if is_sharded(model) else len(batches)
    return [(rows, True) for rows in batches] + [([0], False)] * (most - len(batches))


# ---------------------------------------------------------------------------- one model, split over the ranks


class Shards(NamedTuple):
    """What a split model has beside it, as `model.shards`."""

    ranks: Ranks
    plain: nn.Module  # the model as it was, on the meta device: its parameters have shapes and dtypes only


def is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "shards")


def check_shard(device: str):
    """Raises UserError where --shard has one process only: nothing would be split."""
    kind, _, count = device.partition(":")
    if int(os.environ.get("WORLD_SIZE", count if kind == "cpu" and count.isdecimal() else 1)) < 2:
        raise UserError("--shard true splits the model over several processes, and this run has one: start "
            "it by torchrun --nproc_per_node N, or with --device cpu:N")


@cache
def mesh_of(ranks: Ranks):
    """All ranks in a row, as torch's split tensors want it."""
    return dist.init_device_mesh(ranks.device.partition(":")[0], (ranks.world,))


def shard_model(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Split a model that lies on the meta device, in place: of every parameter each rank gets an equal share
    of the rows (dimension 0), without values yet. A pass gathers a block's weights where it needs them, and
    adds up the ranks' gradients (torch's FSDP2: Zhao et al., arXiv 2304.11277).

    What is trained is float32: the rows are their own masters, and products are in the embedding's dtype.
    What is not trained keeps its dtype; routers are float32. Buffers are whole on each rank, and so are
    adapters and what else is trained beside them: their gradients are added up as those of a model that is
    not split."""
    # here, for half a second that a script without --shard need not wait
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # none is written to
    for router in model.routers():
        router.float()
    own = {p for p in model.parameters() if p.requires_grad} if model.lora else set()  # few, so not split
    plain = copy.deepcopy(model, {id(model.cfg): model.cfg})
    exact, mixed = (MixedPrecisionPolicy(kind, torch.float32, cast_forward_inputs=False)
        for kind in (torch.float32, model.embed_tokens.weight.dtype))
    for p in model.parameters():
        if p.requires_grad and p not in own:
            p.data = p.data.float()
    for module in (*model.routers(), *model.layers, model):
        policy = exact if module in model.routers() else mixed
        fully_shard(module, mesh=mesh_of(ranks), mp_policy=policy, ignored_params=own)
        module.set_gradient_divide_factor(1.0)  # losses are divided by global counts: a sum, no mean
        module.set_force_sum_reduction_for_comms(True)
    for method in ("hidden", "hidden_shared"):
        register_fsdp_forward_method(model, method)
    made = {id(p): nn.Parameter(torch.empty_like(p, device=ranks.device), p.requires_grad)
        for p in model.parameters() if p not in own} | {id(p): p for p in own}
    for module in model.modules():  # not to_empty(), which would make two of tied weights
        module._parameters |= {k: made[id(p)] for k, p in module._parameters.items() if p is not None}
        module._buffers |= {k: torch.zeros_like(b, device=ranks.device) for k, b in module._buffers.items()}
    model.shards = Shards(ranks, plain)
    return model


def is_split(t: torch.Tensor) -> bool:
    """Whether a tensor is torch's DTensor: each rank has some of its rows."""
    return hasattr(t, "device_mesh")


@torch.no_grad()
def local(t: torch.Tensor) -> torch.Tensor:
    """This rank's rows of a tensor that is split, to be read or written; any other tensor itself."""
    return t.to_local() if is_split(t) else t


def own_rows(t: torch.Tensor) -> slice:
    """Which rows of the whole tensor `local` has."""
    if not is_split(t):
        return slice(0, len(t))
    each = -(-len(t) // t.device_mesh.size())
    first = min(len(t), each * t.device_mesh.get_local_rank())
    return slice(first, min(len(t), first + each))


@torch.no_grad()
def put_rows(p: torch.Tensor, values: torch.Tensor):
    """Set a parameter to these values, of which this rank copies its rows."""
    local(p).copy_(values[own_rows(p)])


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def copy_weights(model: nn.Module, values: dict[str, torch.Tensor]):
    """Set the model's weights to these, whole or split as its own are."""
    for name, t in weights(model).items():
        local(t).copy_(local(values[name]))


@torch.no_grad()
def whole(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor that is split, gathered on every rank in `dtype`."""
    if not is_split(t):
        return t.to(dtype)
    with together():
        return t.detach().to(dtype).full_tensor()


def plain_copy(model: nn.Module) -> nn.Module:
    """A model as a split one was, on the meta device; both have the same config object."""
    plain = model.shards.plain
    return copy.deepcopy(plain, {id(plain.cfg): plain.cfg})


@contextmanager
def gathered(model: nn.Module):
    """Within, an ordinary model with the weights of a split one, to sample from, on every rank; freed at the
    end. A model that is not split is yielded itself."""
    if not is_sharded(model):
        yield model
        return
    out = plain_copy(model).requires_grad_(False)
    made = {id(q): nn.Parameter(whole(p, q.dtype), requires_grad=False)
        for p, q in zip(model.parameters(), out.parameters(), strict=True)}
    for split, module in zip(model.modules(), out.modules(), strict=True):
        module._parameters |= {k: made[id(q)] for k, q in module._parameters.items() if q is not None}
        module._buffers |= split._buffers
    del made
    try:
        yield out
    finally:
        out.to("meta")  # whoever still has it has no weights


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model with the same weights, which is not trained; split as the first one is."""
    if not is_sharded(model):
        return copy.deepcopy(model).requires_grad_(False)
    out = shard_model(plain_copy(model).requires_grad_(False), model.shards.ranks)
    copy_weights(out, weights(model))
    return out


def release(model: nn.Module):
    """Free what a pass without gradients has gathered; the next one then gathers what the weights are by
    then. (A backward pass does so itself.)"""
    if is_sharded(model):
        model.reshard()


class StopSignal:
    """Ctrl-C, SIGTERM and SIGUSR1 (a queue's warning) ask for a stop: the loop finishes its step, saves and
    prints how to resume. A second one ends the process at once; the last saved state stays."""

    def __init__(self):
        self.asked = False
        for name in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)}:
            signal.signal(name, self._ask)

    def _ask(self, number, _):
        if self.asked:
            os._exit(130)
        self.asked = True
        if os.environ.get("RANK", "0") == "0":
            print("\nfinishing this step and saving (again to quit at once)", flush=True)

    def reached(self, ranks: Ranks) -> bool:
        """True on every rank once any rank was asked."""
        return any(gather(ranks, self.asked))
