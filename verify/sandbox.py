"""Run untrusted programs and compare what they answer. Linux (x86_64, aarch64); elsewhere it refuses.

    run_tests(program, ["assert add(1, 2) == 3"])                 # calls into the program
    run_tests(program, [{"input": "1 2", "output": "3"}])         # a program that reads stdin

Two fresh, jailed interpreters per program. The *candidate* executes the program and answers calls; the
*judge* executes the tests, in which every name that is neither a builtin nor the test's own stands for the
program's (`Remote`). What passes between them are literals, so nothing that the program defines (an object
that equals everything, a patched builtin) takes part in a comparison, and the expected values are never in
its process.

threat                                       mechanism                                      tests/attacks.py
reads the tests or expected values           another process; fresh exec, never fork        SPIES
forges a verdict, exits early, prints "ok"   the verdict file is the judge's only; names    FORGERS
                                             and functions never cross, only literals do
objects that lie in ==, bool, arithmetic     only literals are compared; see `Remote`       LIARS, RECORDS
changes what it is compared to               shows from the next statement on               CHANGES
patches or fakes a library                   the tests' libraries are the judge's own       MODULES
endless loop, also in C with the GIL held    the parent's wall clock, killpg(SIGKILL)       HANGS
memory, CPU, disk, output, thread bombs      rlimits; a 16 MB tmpfs, or no writing at all   BOMBS
fork, exec, kill, ptrace, sockets, chmod     seccomp allow-list; all else answers EACCES    BREAKOUTS
reads or writes files of the machine         Landlock: libraries to read, one folder        BREAKOUTS
                                             of its own to write
root                                         no capabilities, no_new_privs, a real uid      all, as root
                                             of its own                                     and as another
outlives its caller                          PR_SET_PDEATHSIG                               test_sandbox.py
whatever is left                             user, pid, net, ipc and mount namespaces       if allowed

Namespaces are a second wall and may be missing (then the folder is read-only); rlimits, no_new_privs,
Landlock and seccomp may not: without one of them SandboxError names it, unless `unsafe` is set.

What a test can say: a name is the program's unless it is a builtin, the test's own or a standard module;
where the tests name nothing but builtins, those that the program defines are meant. A predicate or a value
that the test asks of the program itself, the program answers.

- Containers and numpy arrays go by value. What a call changes in those it was given, the test sees from its
  next statement on (at once where the call returns None): in `f(a) == sorted(a)` the program cannot change
  what it is compared to. Across statements it can, as in Python. Later changes are not seen.
- Values of the standard library (dates, Decimal, Fraction, Counter, deque, ...) and numpy's are literals;
  their classes and modules are the judge's own.
- Objects can be changed (`root.left = Node(2)`), entered by `with` (which hides no error) and asked for
  isinstance; they have no truth and no arithmetic.
- Two objects are equal only if the test made one of them, `P(1)`: of a dataclass with the methods that
  the library writes, all fields compared, no __post_init__; or a member of an Enum, which `is` takes, too.
  Named tuples are literals. A class that makes no objects (`P(1)` is 0) can be called, not compared to.
- Refused: `hash` of objects; a "class" of the program that gives literals, where other names of it are used.
- A container made by a class of the program with methods of its own, `Stack()`, is an object.
- What remains, as in Python: an empty list in all(), zip or max(initial=), constants and records that a test
  reads from the program or has shown it.
- An exit is a normal end of the program if its status is 0; in a call it is an exception, SystemExit.
- Output is compared as `same_output` says.
"""

import builtins
import ctypes
import json
import math
import os
import re
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from functools import cache, partial
from itertools import islice

if __name__ != "__main__":  # the jailed side starts without them
    import ast
    import importlib.util
    import marshal
    import select
    import signal
    import socket
    import subprocess
    import tempfile
    import time
    from concurrent.futures import ThreadPoolExecutor
    from typing import NamedTuple
else:
    NamedTuple = object

ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
OUTPUT, REPLY, TMPFS = 8 << 20, 16 << 20, 16 << 20  # bytes: files written, one answer, the temporary folder


class SandboxError(RuntimeError):
    """The machine lacks a layer of the sandbox; the message names it."""


# ------------------------------------------------------------------------------------------------- the jail

# name, number on x86_64, on aarch64: what the interpreter and its library need, with threads and asyncio
_ALLOWED = {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, """
    read 0 63, write 1 64, open 2, close 3 57, stat 4, fstat 5 80, lstat 6, poll 7, lseek 8 62, mmap 9 222,
    mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15
    139, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, access 21, pipe 22, select 23,
    sched_yield 24 124, mremap 25 216, madvise 28 233, dup 32 23, dup2 33, nanosleep 35 101, getitimer 36
    102, alarm 37, setitimer 38 103, getpid 39 172, recvfrom 45 207, shutdown 48 210, exit 60 93, uname 63
    160, flock 73 32, fsync 74 82, fdatasync 75 83, ftruncate 77 46, getcwd 79 17, chdir 80 49, fchdir 81
    50, rename 82, mkdir 83, rmdir 84, unlink 87, readlink 89, umask 95 166, gettimeofday 96 169, getrlimit
    97 163, getrusage 98 165, sysinfo 99 179, times 100 153, getuid 102 174, getgid 104 176, geteuid 107
    175, getegid 108 177, getppid 110 173, sigaltstack 131 132, gettid 186 178, time 201, futex 202 98,
    sched_getaffinity 204 123, getdents64 217 61, set_tid_address 218 96, restart_syscall 219 128,
    clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94, epoll_wait 232,
    epoll_ctl 233 21, openat 257 56, mkdirat 258 34, newfstatat 262 79, unlinkat 263 35, renameat 264 38,
    readlinkat 267 78, faccessat 269 48, pselect6 270 72, ppoll 271 73, set_robust_list 273 99, epoll_pwait
    281 22, eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59, renameat2 316 276, getrandom
    318 278, membarrier 324 283, statx 332 291, rseq 334 293, faccessat2 439 439, epoll_pwait2 441 441
""".split(","))}
# name: numbers, argument, (values allowed); an argument is compared as 64 bits
_CONDITIONAL = {
    "prlimit64": ((302, 261), 0, (0,)),  # its own limits only
    "socketpair": ((53, 199), 0, (1,)),  # AF_UNIX, connected to nothing else
    "sendto": ((44, 206), 4, (0,)),  # no address
    "ioctl": ((16, 29), 1, (0x5421, 0x541B, 0x5451)),  # FIONBIO, FIONREAD, FIOCLEX
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),  # no F_SETOWN, which sends signals
}
_CLONE, _CLONE3, CLONE_THREAD = (56, 220), 435, 0x10000
_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def _seccomp_filter(machine: str) -> bytes:
    """A BPF program: allow the tables above, answer ENOSYS to clone3 and EACCES to everything else."""
    column, audit = _ARCH[machine]
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, deny, no_such_call, kill = 0x7FFF0000, 0x5000D, 0x50026, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill), (load, 0, 0, 0)]
    for numbers in _ALLOWED.values():
        if column < len(numbers):
            code += [(equal, 0, 1, numbers[column]), (give, 0, 0, allow)]
    for numbers, argument, values in _CONDITIONAL.values():
        low = 16 + 8 * argument
        body = [(load, 0, 0, low + 4), (equal, 1, 0, 0), (give, 0, 0, deny), (load, 0, 0, low)]
        for value in values:
            body += [(equal, 0, 1, value), (give, 0, 0, allow)]
        code += [(equal, 0, len(body) + 1, numbers[column]), *body, (give, 0, 0, deny)]
    code += [(equal, 0, 4, _CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, CLONE_THREAD),
        (give, 0, 0, allow), (give, 0, 0, deny), (equal, 0, 1, _CLONE3), (give, 0, 0, no_such_call),
        (give, 0, 0, deny)]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def _call(libc, what: str, *args) -> int:
    """A C function; raises SandboxError with the system's reason if it fails."""
    result = getattr(libc, what)(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise SandboxError(f"{what}{args[:1]}: {os.strerror(ctypes.get_errno())}")
    return result


def _namespaces(libc, folder: str | None):
    """Enter new user, mount, ipc, pid and net namespaces and go on as pid 1, in a tmpfs on `folder`; the
    process that stays outside waits and passes the exit status on."""
    uid, gid = os.geteuid(), os.getegid()
    _call(libc, "unshare", 0x10000000 | 0x20000 | 0x8000000 | 0x20000000 | 0x40000000)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _call(libc, "prctl", 1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if folder:
        _call(libc, "mount", None, b"/", None, 0x44000, None)  # private, recursive: the mount stays in here
        _call(libc, "mount", b"tmpfs", folder.encode(), b"tmpfs", 14, b"size=%d,nr_inodes=1000" % TMPFS)


def _landlock(libc, folder: str | None, writable: bool):
    """From here on only the interpreter's libraries can be read and only `folder` written."""
    abi = _call(libc, "syscall", 444, None, 0, 1)
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = _call(libc, "syscall", 444, attributes, size, 0)
    with open("/proc/self/maps") as f:
        libraries = {os.path.dirname(line.rstrip().split(None, 5)[-1]) for line in f if ".so" in line}
    read, write = 0b1100, 0b111110010 | 1 << 14  # files and folders; write, remove, make, truncate
    packages = [path for finder in sys.meta_path if isinstance(finder, _Packages) for path in finder.folders]
    grants = dict.fromkeys([*sys.path, *libraries, *packages], read) | {"/dev/null": 6, "/dev/urandom": 4}
    if folder:
        grants[folder] = read | write if writable else read
    for path, access in grants.items():
        if os.path.exists(path):
            fd = os.open(path, os.O_PATH)
            access &= rights if os.path.isdir(path) else 6
            _call(libc, "syscall", 445, rules, 1, struct.pack("=Qi", access, fd), 0)
            os.close(fd)
    _call(libc, "syscall", 446, rules, 0)


def _threads_of(uid: int) -> int:
    """How many threads a user runs on this machine."""
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            count += len(os.listdir(f"/proc/{name}/task")) if os.stat(f"/proc/{name}").st_uid == uid else 0
        except OSError:
            pass  # it has ended meanwhile
    return count


def _lock_down(folder: str | None, memory_mb: int, seconds: int, namespaces: bool, unsafe: bool):
    """Close every door of this process for good. Raises SandboxError for a layer that is missing."""
    import resource

    libc, machine = ctypes.CDLL(None, use_errno=True), os.uname().machine
    if sys.platform == "linux":
        _call(libc, "prctl", 1, 9)  # PR_SET_PDEATHSIG, SIGKILL: no program outlives its caller
    if not unsafe and (sys.platform != "linux" or machine not in _ARCH):
        raise SandboxError(f"there is no seccomp and Landlock on {sys.platform} {machine}")
    if unsafe:
        room = None
    elif os.geteuid():
        room = 64 if namespaces else 64 + _threads_of(os.getuid())
    else:  # root has no limit of processes: a real user of our own counts, files see the effective root
        os.setresuid(1 << 30 | os.getpid(), 0, 0)
        room = 64
    if namespaces:
        _namespaces(libc, folder)
    os.chdir(folder or "/")
    limits = {"CORE": 0, "CPU": seconds, "FSIZE": OUTPUT, "NOFILE": 64, "AS": memory_mb << 20, "MEMLOCK": 0}
    for name, value in (limits | ({"NPROC": room} if room else {})).items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if unsafe:
        return
    _call(libc, "capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    _call(libc, "prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    try:
        _landlock(libc, folder, writable=namespaces)
    except SandboxError as error:
        raise SandboxError(f"Landlock is missing (Linux 5.13 or later): {error}") from None
    program = _seccomp_filter(machine)
    code = ctypes.create_string_buffer(program)
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    if libc.prctl(22, 2, head, 0, 0):  # PR_SET_SECCOMP, filter
        raise SandboxError(f"seccomp filters are missing: {os.strerror(ctypes.get_errno())}")


# --------------------------------------------------------------------------------- literals between processes

_BOXES = {kind.__name__: kind for kind in (  # what can be changed in place; a subclass before its base
    Counter, OrderedDict, defaultdict, dict, deque, list, set, bytearray)}
_TEXTS = dict(Fraction="fractions", Decimal="decimal", UUID="uuid", PosixPath="pathlib",
    date="datetime", datetime="datetime", time="datetime")  # written as text
_VALUES = _TEXTS | {"timedelta": "datetime"} | {name: kind.__module__ for name, kind in _BOXES.items()}
_MODULES = set("""bisect calendar cmath collections copy datetime decimal fractions functools heapq itertools
    json math numpy operator random re statistics string time uuid""".split())


class _Numbers(dict):
    """The numbers, by id, of containers that both sides know. New ones join `boxes`, where that is a list."""

    def __init__(self, known=(), boxes: list | None = None):
        super().__init__((id(box), number) for number, box in known)
        self.boxes = boxes

    def add(self, box) -> list[int]:
        if self.boxes is None:
            return []
        self.boxes.append(box)
        self[id(box)] = len(self.boxes) - 1
        return [self[id(box)]]


def _kind_of_box(value) -> type | None:
    numpy = sys.modules.get("numpy")
    if type(value).__name__ in ("ndarray", "_Array") and numpy and isinstance(value, numpy.ndarray):
        return numpy.ndarray if value.dtype.kind in "biufcU" else None
    return next((kind for kind in _BOXES.values() if isinstance(value, kind)), None)


def _parts(box) -> list:
    """What a container holds, to see later whether it was changed."""
    kind = _kind_of_box(box)
    if hasattr(kind, "tobytes"):
        return [box.tobytes()]
    return [*kind.__iter__(box), *(kind.values(box) if issubclass(kind, dict) else ())]


def _changed(old: list, new: list) -> bool:
    return len(old) != len(new) or any(
        a is not b and not (type(a) is type(b) is bytes and a == b) for a, b in zip(old, new, strict=True))


def _refill(box, new):
    """Give a container what another one of its kind holds."""
    kind = _kind_of_box(new)
    if hasattr(kind, "tobytes"):
        box[...] = new.reshape(box.shape)
    else:
        kind.clear(box)
        (kind.update if hasattr(kind, "update") else kind.extend)(box, new)


def _standard(kind) -> bool:
    """A standard class that both sides have of their own?"""
    module = _VALUES.get(kind.__name__)
    return module is not None and getattr(sys.modules.get(module), kind.__name__, None) is kind


def _encode(value, peer, numbers=None):
    """A value as JSON: numbers, text, containers and plain standard values by value; anything else as what
    `peer.keep` returns. A container that has a number goes by it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        value = int.__pos__(value)
        return value if abs(value) < 1 << 53 else ["int", hex(value)]
    if isinstance(value, float):
        value = float.__pos__(value)
        return value if value - value == 0 else ["float", repr(value)]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["complex", repr(value.real), repr(value.imag)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, tuple) and hasattr(type(value), "_fields"):
        inner = [_encode(v, peer, numbers) for v in tuple.__iter__(value)]
        return ["named", type(value).__name__, list(value._fields), inner]
    for kind in (tuple, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [_encode(v, peer, numbers) for v in kind.__iter__(value)]]
    if kind := _kind_of_box(value):
        if numbers is not None and id(value) in numbers:
            return ["same", numbers[id(value)]]
        number = [] if numbers is None else numbers.add(value)
        return _encode_box(peer.pending.get(id(value), (0, value))[1], peer, numbers) + number
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if type(value).__module__ == "numpy" and isinstance(value, sys.modules["numpy"].generic):
        return _encode(value.item(), peer, numbers)
    if _standard(type(value)):
        name = type(value).__name__
        if name == "timedelta":
            return [name, value.days, value.seconds, value.microseconds]
        return [name, value.isoformat() if hasattr(value, "isoformat") else str(value)]
    return peer.keep(value)


def _encode_box(box, peer, numbers) -> list:
    """[kind, what it holds, what else makes it]."""
    kind, extra = _kind_of_box(box), None
    if hasattr(kind, "tobytes"):
        return ["ndarray", [_encode(v, peer) for v in box.ravel().tolist()], [box.dtype.str, list(box.shape)]]
    if kind is bytearray:
        return ["bytearray", box.hex(), None]
    if issubclass(kind, dict):
        inner = [[_encode(k, peer, numbers), _encode(v, peer, numbers)] for k, v in kind.items(box)]
        extra = getattr(box.default_factory, "__name__", None) if kind is defaultdict else None
    else:
        inner = [_encode(v, peer, numbers) for v in kind.__iter__(box)]
        extra = box.maxlen if kind is deque else None
    return [kind.__name__, inner, extra]


def _decode(data, peer, boxes):
    """The value of `_encode`; containers that came with a number are put into `boxes`, those that came as a
    number taken from there. `peer.found(kind, ...)` returns what stands for any other kind."""
    if not isinstance(data, list):
        return data
    kind, *rest = data
    if kind == "int":
        return int(rest[0], 16)
    if kind == "float":
        return float(rest[0])
    if kind == "complex":
        return complex(*map(float, rest))
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind in ("tuple", "frozenset"):
        return getattr(builtins, kind)([_decode(v, peer, boxes) for v in rest[0]])
    if kind == "named":
        row = (peer.names or {}).get(rest[0])  # the program's own, if it has one of these fields
        if not isinstance(row, type) or list(getattr(row, "_fields", ())) != rest[1]:
            row = namedtuple(str(rest[0]), rest[1], rename=True)
        made = row._make(_decode(v, peer, boxes) for v in rest[2])
        if any(callable(getattr(made, name)) for name in _METHODS.intersection(made._fields)):
            raise TypeError("an object of the program stands where a literal's method should")
        return made
    if kind == "same":
        return boxes[rest[0]]
    if kind in _BOXES or kind == "ndarray":
        return _decode_box(kind, *(rest + [None, None])[:3], peer, boxes)
    if kind == "range":
        return range(*rest)
    if kind in _VALUES:
        made = getattr(__import__(_VALUES[kind]), kind)
        return getattr(made, "fromisoformat", made)(*rest)
    return peer.found(kind, *rest)


def _decode_box(kind, inner, extra, number, peer, boxes):
    if kind == "ndarray":
        import numpy

        if numpy.dtype(extra[0]).kind not in "biufcU":
            raise TypeError(f"an array of {extra[0]}")
        box = numpy.array([_decode(v, peer, boxes) for v in inner], extra[0]).reshape(extra[1])
        box = box if peer.names is not None else box.view(_array_type())
    elif kind == "bytearray":
        box = bytearray.fromhex(inner)
    elif kind == "deque":
        box = deque(maxlen=extra)
    elif kind == "defaultdict":
        factories = ("int", "float", "str", "list", "dict", "set", "tuple", "bool")
        box = defaultdict(getattr(builtins, extra) if extra in factories else None)
    else:
        box = _BOXES[kind]()
    if number is not None:
        boxes[number] = box  # before what it holds, which may be itself
    if isinstance(box, dict):
        for k, v in inner:
            box[_decode(k, peer, boxes)] = _decode(v, peer, boxes)
    elif isinstance(box, (list, deque)):
        box.extend(_decode(v, peer, boxes) for v in inner)
    elif isinstance(box, set):
        box.update(_decode(v, peer, boxes) for v in inner)
    return box


@cache
def _array_type():
    """What a test gets for the program's numpy arrays, of which the empty one is not equal to everything."""
    import numpy

    def plain(x):
        return x.view(numpy.ndarray) if isinstance(x, _Array) else x

    class _Array(numpy.ndarray):
        def __array_ufunc__(self, function, method, *inputs, **named):
            inputs = [plain(x) for x in inputs]
            named |= {"out": tuple(map(plain, named["out"]))} if "out" in named else {}
            value = getattr(function, method)(*inputs, **named)
            some = any(numpy.ndim(x) and numpy.size(x) for x in inputs)
            if function is numpy.equal and len(inputs) == 2 and not some and inputs[0] is not inputs[1]:
                if numpy.shape(inputs[0]) == numpy.shape(inputs[1]):
                    return value  # both are empty, as the test wants it
            if method == "reduce" and not some or method == "__call__" and some and not numpy.size(value):
                raise ValueError("an array without elements proves nothing")
            return value.view(_Array) if isinstance(value, numpy.ndarray) else value

        def __contains__(self, value):
            return (list(value) if isinstance(value, tuple) else value) in self.tolist()

    return _Array


class Remote:
    """An object of the other process. It can be called, read (len, items, iteration, str), changed
    (attributes, items), entered by `with` and asked for attributes; it has no truth and no arithmetic, where
    it could lie. Predicates that literals have, too (`startswith`, `in`), it answers only if a class made it.

    Two are equal only if the test made one of them, as a plain record: `P(1)`. What that holds the test knows
    from its own arguments: the program is not asked, and hears of the record only if it is used for something
    else (`_at`). What the program says of the other one's fields must be equal to that. So it must know what
    the test compares to; it can neither lie about `P(1)` nor copy it."""

    __slots__ = ("_peer", "_where", "_name", "_shape", "_is_made", "_is_member", "_data", "_maker", "_clock",
        "_shown")
    __array_ufunc__ = None  # numpy does not look into it

    def __init__(self, peer, where, **more):
        for name, value in {"_peer": peer, "_where": where, **more}.items():
            _set(self, name, value)

    def _ask(self, action, *args, **named):
        if self._where is None:  # it is no argument: the program sees what the test will compare to
            _set(self, "_shown", action != "record")
        return self._peer.request(action, self._at(), args, named)

    def _at(self) -> list:
        """Where it is; a record that was not needed so far is made now."""
        if self._where is None:
            made = self._maker()
            if not isinstance(made, Remote):
                raise TypeError(f"{self._data[0]}(...) is no object")
            _set(self, "_where", made._where)
            _set(self, "_clock", self._peer.clock)
        return self._where

    def __getattr__(self, name):
        if name in Remote.__slots__:
            return None  # not set
        dunder = name.startswith("__") and name != "__name__"
        if dunder or (name in _PREDICATES and not self._is_made):
            raise AttributeError(f"an object of the program stands where a literal should: {name}")
        known = self._data and (self._where is None or self._clock == self._peer.clock)
        if known and (value := dict(self._data[1]).get(name, self)) is not self and (
                type(value) in _PLAIN or self._where and not isinstance(value, Remote)):
            return value  # in the statement that passes it, a record is what it was
        if self._shape and self._shape[0] == "enum" and name in self._shape[2]:
            maker = partial(self._ask, "attribute", name)
            data = self._shape[1], [("name", name)]
            return Remote(self._peer, None, _is_member=True, _data=data, _maker=maker)
        value = self._ask("attribute", name)
        if isinstance(value, Remote) and name[0].isupper() and (self._name or "a")[0].isupper():
            _set(value, "_name", name)
            self._peer.named.add(name)
        return value

    def __call__(self, *args, **named):
        kind, name, *_ = self._shape or ("", "")
        like_class = bool(self._name) and (self._name[0].isupper() or self._name in _VALUES)
        is_class = like_class and (self._shape is not None or self._name in _VALUES)
        bound = _bound(self._shape[2], args, named) if kind in ("record", "named") else None
        if bound is not None:
            self._peer.calls += 1
            if kind == "named":
                return namedtuple(name, bound, rename=True)._make(bound.values())
            maker = partial(self._ask, "call", *args, **named)
            return Remote(self._peer, None, _is_made=is_class, _data=(name, [*bound.items()]), _maker=maker)
        value = self._ask("call", *args, **named)
        if isinstance(value, Remote):
            _set(value, "_is_made", is_class)
        elif like_class:
            self._peer.echoes.add(self._name)
        return value

    def _facts(self):
        """(class, fields) as known to the test or, if the program has the object, as stated by it now."""
        return self._ask("record") if self._where else self._data

    def __eq__(self, other):
        if not isinstance(other, Remote):
            return NotImplemented
        if self is other or not (self._data or other._data):
            return self is other
        if self._shown and not other._data or other._shown and not self._data:
            raise TypeError("the program has seen the record that its own is compared to")
        a, b = self._facts(), other._facts()
        return a is not None and bool(a == b and (a == self._data or a == other._data))

    def __hash__(self):
        self._peer.hashed = True
        return 0

    def __setattr__(self, name, value):
        self._ask("set", name, value)

    def __delattr__(self, name):
        self._ask("unset", name)

    def __setitem__(self, key, value):
        self._ask("put", key, value)

    def __delitem__(self, key):
        self._ask("remove", key)

    def __contains__(self, value):
        return self._ask("contains", value) is True if self._is_made else value in self._ask("list")

    def __instancecheck__(self, thing):
        if isinstance(thing, Remote) and not thing._where and thing._data[0] == (self._shape or "??")[1]:
            return True  # the program is not told of it
        return self._ask("isinstance", thing) is True

    def __subclasscheck__(self, kind):
        return self._ask("issubclass", kind) is True

    def __enter__(self):
        return self._ask("enter")

    def __exit__(self, kind, error, trace):
        """Tells the program, which cannot hide the error: it may be the test's own."""
        try:
            self._ask("exit", *([kind, str(error)] if isinstance(error, Exception) else ()))
        except (Exception, SystemExit):
            if kind is None:
                raise

    def __len__(self):
        return self._ask("len")

    def __iter__(self):
        return iter(self._ask("list"))

    def __getitem__(self, key):
        return self._ask("item", key)

    def __str__(self):
        return str(self._ask("str"))

    def __repr__(self):
        return str(self._ask("repr"))

    def __bool__(self):
        raise TypeError("an object of the program has no truth here")


_set, _PLAIN = object.__setattr__, (int, float, str, bool, bytes, complex, type(None))
_METHODS = {name for kind in (str, bytes, list, set, dict, float) for name in dir(kind) if name[0] != "_"}
_PREDICATES = {name for name in _METHODS if name.startswith("is") or name.endswith(("with", "find", "index",
    "fix", "difference", "intersection"))} | {"count", "union", "replace", "setdefault"}


def _hash(peer, usual, thing) -> int:
    """`hash` in a test: of an object of the program it says nothing."""
    peer.hashed = False
    value = usual(thing)
    if peer.hashed:
        raise TypeError("an object of the program has no hash here")
    return value


def _same(a, b) -> bool:
    """`a is b` in a test; the members of an Enum are one by their names."""
    both = isinstance(a, Remote) and isinstance(b, Remote)
    return a is b or bool(both and (a._is_member or b._is_member) and a == b)


def _bound(fields: list, args: tuple, named: dict) -> dict | None:
    """The fields of a record that is made of these arguments: each argument in one of its own, in order. None
    if they do not fit, so that the program says what is wrong."""
    names = [str(name) for name, *_ in fields]
    values = dict(zip(names, args, strict=False)) | named
    known = {str(name): default[0] for name, *default in fields if default} | values
    fit = len(set(names)) == len(names) and len(values) == len(args) + len(named) and set(known) == set(names)
    return {name: known[name] for name in names} if fit else None


def _shape(kind) -> list | None:
    """What the program tells of a class: ["record", name, [[field, default], ...]] of a dataclass that is as
    the library makes it, ["named", ...] of a named tuple, ["enum", name, members]; None of any other."""
    enum, library, name = sys.modules.get("enum"), sys.modules.get("dataclasses"), kind.__name__
    codes = [getattr(getattr(kind, n), "__code__", None) for n in ("__new__", "__init__", "__eq__")]
    if "solution.py" in [getattr(code, "co_filename", None) for code in codes]:
        return None  # it has a way of its own
    if issubclass(kind, tuple) and hasattr(kind, "_field_defaults"):
        return ["named", name, [[f, *_default(kind._field_defaults, f)] for f in kind._fields]]
    if enum and issubclass(kind, enum.Enum):
        return None if issubclass(kind, int | str | float) else ["enum", name, list(kind.__members__)]
    settings = vars(kind).get("__dataclass_params__")
    if not settings or not settings.eq or not settings.init or hasattr(kind, "__post_init__"):
        return None
    fields = library.fields(kind)
    if (codes[1].co_argcount + codes[1].co_kwonlyargcount != len(fields) + 1  # there is an InitVar
            or not all(f.init and f.compare for f in fields)):
        return None
    made = {f.name: f.default for f in fields if f.default is not library.MISSING}
    made |= {f.name: f.default_factory() for f in fields if f.default_factory in (list, dict, set, int, str)
        or f.default_factory in _BOXES.values()}  # no other is called: it may count
    names = [f.name for f in sorted(fields, key=lambda f: f.kw_only)]
    return ["record", name, [[f, *_default(made, f)] for f in names]]


def _default(defaults: dict, name: str) -> list:
    return [defaults[name]] if name in defaults else []


def _record(thing) -> tuple | None:
    """(class, [(field, value), ...]) of a plain record, (class, name) of a member of an Enum, or None."""
    kind, name, fields = _shape(type(thing)) or (None,) * 3
    if kind == "enum":
        return name, [("name", thing._name_)]
    return (name, [(f, object.__getattribute__(thing, f)) for f, *_ in fields]) if kind == "record" else None


class _Peer:
    """One end of the line between judge and candidate: one request at a time, each a line of JSON; while it
    waits, the other side may ask back (a test that passed a function)."""

    def __init__(self, fd: int, names: dict | None = None):
        self.input, self.fd, self.kept, self.calls = os.fdopen(fd, "rb", closefd=False), fd, [], 0
        self.names = names  # the candidate's; None in the judge, which answers calls of its functions only
        self.errors = {}  # exception classes that stand for the other side's, by name
        self.pending = {}  # id: (a container of ours, one with what the other side made of it)
        self.watched = []  # (number, container, its parts) of what was read from the other side's objects
        self.clock, self.gets = 0, False  # statements so far; is a name of the test looked up now?
        self.named, self.echoes = set(), set()  # the program's names in tests; "classes" that gave literals
        self.hashed = False  # was one of its objects hashed?

    def keep(self, thing):
        """What is not a literal travels as a reference: the receiver's, a builtin, or the sender's own."""
        if isinstance(thing, Remote):
            where = thing._at()
            return ["yours", where[1]] if where[0] == "mine" else where
        name = getattr(thing, "__name__", "")
        if isinstance(name, str) and getattr(builtins, name, self) is thing:
            return ["builtin", name]
        if isinstance(thing, type(sys)) and name in _MODULES and sys.modules.get(name) is thing:
            return ["module", name]
        if isinstance(thing, type) and _standard(thing):
            return ["class", name]
        if self.names is None and not callable(thing):
            raise TypeError(f"a test cannot pass a {type(thing).__name__}")
        if isinstance(thing, type) and issubclass(thing, Exception):
            return ["error", _lineage(thing)]
        self.kept.append(thing)
        shape = self.names is not None and isinstance(thing, type) and (_shape(thing) or ["class", "", []])
        more = [_encode(shape, self)] if shape else []
        return ["iterator" if hasattr(type(thing), "__next__") else "mine", len(self.kept) - 1, *more]

    def found(self, kind, name, shape=None):
        if kind == "mine":  # what the program says of a class counts only where the test names that class
            return Remote(self, [kind, name], _shape=_decode(shape, self, {}) if self.gets else None)
        if kind == "iterator":
            return self.pull(Remote(self, ["mine", name]))
        if kind == "yours":
            return self.kept[name]
        if kind == "error":  # not one that would catch the test's own
            if name[0] in ("Exception", "AssertionError"):
                return self.errors.setdefault(name[0], type(name[0], (Exception,), {}))
            return self.error(name)
        if kind == "module" and name in _MODULES and (self.gets or self.names is not None):
            return __import__(name)
        if kind == "class" and name in _VALUES:
            return getattr(__import__(_VALUES[name]), name)
        if kind == "builtin":  # the program's stays with the program: its `eval` must not become the judge's
            return Remote(self, ["builtin", name]) if self.names is None else getattr(builtins, name)
        if kind == "name" and self.names is not None and name in self.names:
            return self.names[name]
        raise NameError(f"name {name!r} is not defined")

    def error(self, lineage):
        """The exception class for the names of another side's class and its bases, a builtin one last. Not
        one that would end a loop of the test."""
        *names, base = map(str, lineage[-9:])
        base = getattr(builtins, base, None)
        usual = isinstance(base, type) and issubclass(base, (Exception, SystemExit))
        base = base if usual and not base.__name__.startswith("Stop") else RuntimeError
        made = base
        for name in reversed(names):
            made = self.errors.setdefault(name, type(name, (made,), {}))
        return made if issubclass(made, base) else type(names[0], (made, base), {})

    @staticmethod
    def pull(remote):
        while item := remote._ask("next"):
            yield item[0]

    def send(self, message):
        data = json.dumps(message).encode() + b"\n"
        if len(data) > REPLY:
            raise ValueError(f"an answer over {REPLY >> 20} MB")
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self):
        line = self.input.readline(REPLY + 1)
        if not line.endswith(b"\n"):
            raise EOFError("the program ended")
        return json.loads(line)

    def request(self, action, where, args, named):
        """Ask for an action on an object. What the other side changed in the containers that are passed shows
        in them once the statement is over (`settle`) or, if there is no answer but None, at once."""
        self.calls += action != "get"
        where, lent = ["yours", where[1]] if where[0] == "mine" else where, []
        numbers = _Numbers((), lent)
        named = ["dict", [[name, _encode(value, self, numbers)] for name, value in named.items()]]
        sent = [_encode(args, self, numbers), named]
        self.send(["ask", action, where, *sent, self.our_changes()])
        while (answer := self.receive())[0] == "ask":
            self.answer(*answer[1:])
        raised, boxes, changes, frames = answer[0] == "raise", dict(enumerate(lent)), {}, [sys._getframe()]
        while frames[-1].f_back:
            frames.append(frames[-1].f_back)
        for number, data in (answer[3 if raised else 2 :] or [()])[0]:
            box, new = lent[number], _decode(data, self, dict(boxes))
            if not isinstance(box, _kind_of_box(new)):
                raise TypeError(f"a {type(box).__name__} cannot become a {type(new).__name__}")
            changes[id(box)] = box, new, frames
        self.gets = action == "get"
        value = None if raised else _decode(answer[1], self, boxes)
        self.pending |= changes
        if value is None or self.names is not None:
            self.settle(changes)
        if raised:
            raise self.error(answer[1])(str(answer[2]))
        if action in ("attribute", "item"):
            self.watched += [(number, box, _parts(box)) for number, box in boxes.items()]
        return value

    def settle(self, changes=None):
        """Let the changes of passed containers show: these, or all."""
        for key in [*(self.pending if changes is None else changes)]:
            _refill(*self.pending.pop(key)[:2])

    def step(self):
        """A statement begins: what calls in earlier ones of this function changed shows. A function that is
        called in the middle of a statement does not see what the statement changed so far."""
        self.clock += 1
        if self.pending:
            frame = sys._getframe(1)
            self.settle([key for key, (*_, frames) in self.pending.items() if frame in frames])

    def our_changes(self) -> list:
        """What the test changed of the containers that it read from the program's objects and still holds."""
        watched, self.watched, out = [(0, [], []), *self.watched], [], []
        numbers, unheld = _Numbers((number, box) for number, box, _ in watched), None
        for number, box, parts in watched:
            now, holders = _parts(box), sys.getrefcount(box)
            unheld = unheld or holders  # those of the first one, which is nobody's
            if _changed(parts, now):
                out.append([number, _encode_box(box, self, numbers)])
            if holders > unheld:
                self.watched.append((number, box, now))
        return out

    def answer(self, action, where, args, named, changes=()):
        """Do what is asked and send ["value", ..., changes] or ["raise", type, message, changes]."""
        boxes, parts = {}, {}
        try:
            if self.names is None and (action != "call" or where[0] != "yours" or changes):
                raise TypeError("the tests answer calls only")
            for number, data in changes:
                _refill(self.kept[number], _decode(data, self, self.kept))
            thing, args, named = (_decode(x, self, boxes) for x in (where, args, named))
            parts = {number: _parts(box) for number, box in boxes.items()}
            value = _ACTIONS[action](thing, *args, **named)
            theirs = self.their_changes(boxes, parts)
            kept = self.kept if action in ("attribute", "item") else None
            numbers = _Numbers(() if theirs or kept is not None else boxes.items(), kept)
            own = action == "call" and self.names is not None and _is_own(thing, value)
            self.send(["value", self.keep(value) if own else _encode(value, self, numbers), theirs])
        except (Exception, SystemExit) as error:
            theirs = self.their_changes(boxes, parts)
            text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
            self.send(["raise", _lineage(type(error)), str(text)[:200], theirs])

    def their_changes(self, boxes: dict, parts: dict) -> list:
        numbers = _Numbers((number, box) for number, box in boxes.items())
        return [[number, _encode_box(boxes[number], self, numbers)] for number, old in parts.items()
            if _changed(old, _parts(boxes[number]))]


_ACTIONS = {
    "get": lambda thing: thing,
    "call": lambda thing, *args, **named: thing(*args, **named),
    "len": lambda thing: len(thing),
    "attribute": lambda thing, name: getattr(thing, name),
    "item": lambda thing, key: thing[key],
    "list": lambda thing: list(thing),
    "next": lambda thing: list(islice(thing, 1)),
    "str": lambda thing: str(thing),
    "repr": lambda thing: repr(thing),
    "set": lambda thing, name, value: setattr(thing, name, value),
    "unset": lambda thing, name: delattr(thing, name),
    "put": lambda thing, key, value: thing.__setitem__(key, value),
    "remove": lambda thing, key: thing.__delitem__(key),
    "contains": lambda thing, value: value in thing,
    "isinstance": lambda kind, thing: isinstance(thing, kind),
    "issubclass": lambda kind, other: issubclass(other, kind),
    "record": lambda thing: _record(thing),
    "enter": lambda thing: type(thing).__enter__(thing),
    "exit": lambda thing, kind=None, text="": type(thing).__exit__(
        thing, kind, kind and kind(text), None) and None,
}


def _is_own(kind, value) -> bool:
    """Is this container made by the program's own class, with methods of its own? It is an object then."""
    return (isinstance(kind, type) and type(value) is kind and kind.__module__ == "solution"
        and not hasattr(kind, "_fields") and isinstance(value, (tuple, *_BOXES.values()))
        and any(callable(v) for name, v in vars(kind).items() if name[0] != "_"))


def _lineage(kind: type) -> list[str]:
    """The names of an exception class and of its bases up to the first builtin one."""
    usual = [getattr(builtins, k.__name__, None) is k for k in kind.__mro__]
    return [k.__name__ for k in kind.__mro__[: usual.index(True) + 1]]


# ------------------------------------------------------------------------------------- inside: three programs


class _Names(dict):
    """A test's variables; a name that is neither its own nor a builtin is the program's."""

    not_math = Remote, type(sys)  # what the program calls `math` is not, unless a function that a test calls

    def __missing__(self, name):
        if hasattr(builtins, name) and not self.builtins_are_theirs:
            raise KeyError(name)  # looked up among the builtins next
        try:
            value = Remote(self.peer, ["name", name])._ask("get")
        except NameError:
            if name not in _MODULES:
                if hasattr(builtins, name):
                    raise KeyError(name) from None
                raise
            value = None
        doubtful = value is None or isinstance(value, self.not_math)
        if doubtful and name in _MODULES and name not in self.called:
            value = __import__(name)
        if isinstance(value, type(sys)):
            return self.setdefault(name, value)
        if isinstance(value, type) and value.__name__ in _BOXES and value.__name__ != name:
            self.peer.echoes.add(name)  # `defaultdict as Node`
        if not isinstance(value, type) or name in self.peer.echoes:
            self.peer.named.add(name)
        if isinstance(value, Remote):
            _set(value, "_name", name)
            _set(value, "_shape", value._shape if name[0].isupper() else None)
        return value


def _free_names(tests) -> set[str]:
    """The names that compiled tests look up and that are no builtins."""
    found, stack = set(), list(tests)
    while stack:
        code = stack.pop()
        found |= {name for name in code.co_names if not hasattr(builtins, name)}
        stack += [constant for constant in code.co_consts if isinstance(constant, type(code))]
    return found


def _stepwise(tree, ast):
    """A test in which changes of its containers show between statements only, so that in `f(a) == sorted(a)`
    the program cannot change what it is compared to; `assert a and b` is two statements."""
    for node in [*ast.walk(tree)]:
        if isinstance(node, ast.Compare) and [type(op) for op in node.ops] in ([ast.Is], [ast.IsNot]):
            same = ast.Call(ast.Name("<same>", ast.Load()), [node.left, *node.comparators], [])
            node.left, node.comparators = same, [ast.Constant(isinstance(node.ops[0], ast.Is))]
            node.ops = [ast.Is()]
        for name in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, name, None), list):
                new = []
                for line in lines:
                    tests = isinstance(line, ast.Assert) and isinstance(getattr(line.test, "op", 0), ast.And)
                    for part in [ast.Assert(v, line.msg) for v in line.test.values] if tests else [line]:
                        first = isinstance(part, ast.ImportFrom) and part.module == "__future__"
                        step = ast.Expr(ast.Call(ast.Name("<step>", ast.Load()), [], []))
                        new += [part] if first else [step, part]
                setattr(node, name, new)
    return ast.fix_missing_locations(tree)


def _judge(tests: list[str], line: int, report: int):
    """Run each test; report "pass" or the reason why not. A run of tests that calls nothing proves nothing.
    Where the tests name nothing but builtins, they mean those that the program defines."""
    import ast

    names = _Names(__name__="test")
    names.peer = peer = _Peer(line)
    names.update({"<step>": peer.step, "<same>": _same})
    builtins.hash = partial(_hash, peer, hash)
    trees = [ast.parse(test) for test in tests]
    names.called = {node.func.id for tree in trees for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    names.builtins_are_theirs = not _free_names(compile(tree, "<test>", "exec") for tree in trees)
    for code in [compile(_stepwise(tree, ast), "<test>", "exec") for tree in trees]:
        try:
            peer.settle()
            exec(code, names)
            verdict = "pass"
        except (Exception, SystemExit) as error:
            verdict = f"{type(error).__name__}: {error}"[:200]
        os.write(report, json.dumps(verdict).encode() + b"\n")
    if not peer.calls:
        os.write(report, b'"the tests call nothing of the program"\n')
    if echo := _echo(peer, trees, ast):
        verdict = f"{echo}(...) is no object of the program: nothing can be compared to it"
        os.write(report, json.dumps(verdict).encode() + b"\n")


def _echo(peer, trees, ast) -> str | None:
    """A "class" that gave a literal and could be compared to what else the program says: `f() == P(1)`, where
    both are 0. Not where it is the only name of the program in tests that only assert and store nothing."""
    for name in sorted(peer.echoes):
        for nodes in [[*ast.walk(tree)] for tree in trees]:
            used = {getattr(n, "id", getattr(n, "attr", None)) for n in nodes}
            stores = any(isinstance(getattr(n, "ctx", 0), ast.Store) or isinstance(n, ast.FunctionDef)
                for n in nodes)
            if name in used and len(peer.named) > 1 and (stores or len(peer.named & used) > 1):
                return name


class _Packages:
    """Finds the packages beside the standard library that programs and tests may import, and nothing else of
    their folder. `numpy.allclose`, in the judge, wants elements: it holds for none of them."""

    def __init__(self, folder: str, is_judge: bool):
        self.folder, self.is_judge = folder, is_judge
        self.folders = [os.path.join(folder, name) for name in ("numpy", "numpy.libs")]

    def find_spec(self, name, path=None, target=None):
        if name == "numpy" and path is None:
            from importlib.machinery import ModuleSpec, SourceFileLoader

            loader = SourceFileLoader(name, os.path.join(self.folders[0], "__init__.py"))
            spec = ModuleSpec(name, self if self.is_judge else loader, origin=loader.path)
            spec.submodule_search_locations, spec.has_location = self.folders[:1], True
            self.loader = loader
            return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        self.loader.exec_module(module)
        plain, array_type = module.asarray, _array_type()

        def strict(compare):
            def compared(a, b, *args, **named):
                a, b = plain(a), plain(b)
                if a.shape != b.shape and not module.broadcast(a, b).size:
                    raise ValueError("an array without elements proves nothing")
                return compare(a, b, *args, **named)
            return compared

        def ours(make):
            return lambda *args, **named: make(*args, **named).view(array_type)

        for name in ("allclose", "isclose", "array_equiv"):
            setattr(module, name, strict(getattr(module, name)))
        for name in ("array", "asarray", "asanyarray"):  # numpy.testing uses them, too
            setattr(module, name, ours(getattr(module, name)))


def _module(name: str, program: str) -> dict:
    """Execute the program as the module `name`; its names. An exit with status 0 is a normal end."""
    module = sys.modules[name] = type(sys)(name)
    module.__file__ = "solution.py"
    try:
        exec(compile(program, "solution.py", "exec"), module.__dict__)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    return module.__dict__


def _candidate(program: str, line: int):
    """Execute the program, then answer the judge's requests until it hangs up."""
    peer = _Peer(line, _module("solution", program))
    while True:
        _, *request = peer.receive()
        peer.answer(*request)


def _inside(job: dict):
    """What the child runs: close the doors, say so, and only then look at the program."""
    report, line = map(int, sys.argv[-2:])
    sys.meta_path += [_Packages(folder, job["role"] == "judge") for folder in job["packages"]]
    try:
        _lock_down(*job["jail"])
    except (SandboxError, OSError, ImportError) as error:
        os.write(report, f"{error}\n".encode())
        os._exit(1)
    os.write(report, b"locked\n")
    sys.argv = ["solution.py"]
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    if job["role"] == "judge":
        return _judge(job["text"], line, report)
    os.close(report)
    builtins.exit = builtins.quit = sys.exit  # by the module `site`, which is not there
    if job["role"] == "candidate":
        _candidate(job["text"], line)
    elif job["role"] == "script":
        _module("__main__", job["text"])


# --------------------------------------------------------------------------------------- outside: the caller


class Result(NamedTuple):
    passed: int
    failed: int
    reason: str  # of the first failure; "" if all passed


BOOT = "import marshal, sys\nwith open(int(sys.argv[2]), 'rb') as f: CODE, JOB = marshal.load(f)\nexec(CODE)"


@cache
def _code():
    """This file, compiled once for all children."""
    with open(__file__) as f:
        return compile(f.read(), __file__, "exec")


class _Child:
    """A fresh interpreter in its own process group, jailed, with a report that only its own side writes."""

    def __init__(self, role: str, text, jail: list, line: int = -1, files=(None, None, None)):
        self.report = tempfile.TemporaryFile()
        with tempfile.TemporaryFile() as spec:
            job = {"role": role, "text": text, "jail": jail, "packages": _packages()}
            spec.write(marshal.dumps((_code(), job)))
            spec.seek(0)
            fds = (spec.fileno(), self.report.fileno(), line)
            command = [sys.executable, "-I", "-S", "-B", "-c", BOOT, __file__, *map(str, fds)]
            stdin, stdout, stderr = (subprocess.DEVNULL if f is None else f for f in files)
            self.process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd="/",
                env=ENVIRONMENT, pass_fds=[f for f in fds if f >= 0], start_new_session=True)

    def wait(self, deadline: float) -> bool:
        """Did it end in time?"""
        seconds = max(0.0, deadline - time.monotonic())
        if hasattr(os, "pidfd_open"):
            fd = os.pidfd_open(self.process.pid)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            ended = bool(poll.poll(seconds * 1000))
            os.close(fd)
            return ended
        try:
            return self.process.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False

    def end(self, ended: bool) -> list[str]:
        """Kill the whole group; the lines of the report. Raises SandboxError if the jail was never closed."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        with self.report:
            self.report.seek(0)
            first, *lines = self.report.read().decode().splitlines() or [""]
        if first != "locked" and (first or ended):
            why = first or "the interpreter does not start"
            raise SandboxError(f"programs cannot be run safely here: {why}"
                " (--unsafe_code_execution runs them unprotected)")
        return lines


@cache
def _packages() -> list[str]:
    """The folder of the packages that programs may import, where they are installed."""
    spec = importlib.util.find_spec("numpy")
    return [os.path.dirname(os.path.dirname(spec.origin))] if spec and spec.origin else []


@cache
def _namespaces_allowed() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        child = _Child("none", "", [folder, 512, 9, True, False])
        try:
            return child.wait(time.monotonic() + 10) and child.end(True) == []
        except SandboxError:
            return False


def _run_asserts(program: str, tests: list[str], timeout: float, jail: list) -> Result:
    ours, theirs = socket.socketpair()
    deadline = time.monotonic() + timeout
    with ours, theirs:
        candidate = _Child("candidate", program, jail, theirs.fileno())
        try:
            judge = _Child("judge", tests, [None, max(512, jail[1]), *jail[2:]], ours.fileno())
            ours.close()
            theirs.close()
            in_time = judge.wait(deadline)
            verdicts = [json.loads(line) for line in judge.end(in_time)]  # before the candidate's end shows
        finally:
            candidate.end(candidate.wait(0))
    passed = verdicts[: len(tests)].count("pass")
    if passed == len(tests) == len(verdicts):
        return Result(passed, 0, "")
    if len(verdicts) > len(tests):
        passed = 0
    verdicts += [] if in_time else [f"timeout after {timeout:g} s"]
    reason = next((v for v in verdicts if v != "pass"), "the judge was killed")
    return Result(passed, len(tests) - passed, _printable(reason))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:200]


NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


def same_output(printed: str, want: str, tolerance: float | None = None) -> bool:
    """Is this output right? Line by line and, in a line, word by word: neither blank lines nor the amount of
    white space matter. Words must be equal, whole numbers exactly so. Where a word of `want` is a number with
    a point or an exponent, a number is right if the difference is

        <= 1e-6 * min(1, |want|), or 1e-13 * |want| (what doubles lose), or 1e-9 where `want` is 0; or
        <= half a unit of want's last place, where it has four decimals or more, and <= |want| / 1000.

    tolerance: on request, for all numbers but a whole one where a whole one is wanted: a difference of at
    most tolerance * max(1, |want|) is right, too. 0 = words must be equal."""
    lines = [[words for line in text.split("\n") if (words := line.split())] for text in (printed, want)]
    return [*map(len, lines[0])] == [*map(len, lines[1])] and all(
        a == b or _near(a, b, tolerance) for ours, theirs in zip(*lines, strict=True)
        for a, b in zip(ours, theirs, strict=True))


def _near(given: str, want: str, tolerance: float | None) -> bool:
    words = (given, want)
    if tolerance == 0 or max(map(len, words)) > 400 or not all(map(NUMBER.fullmatch, words)):
        return False
    whole, (a, b) = [word.lstrip("+-").isdigit() for word in words], map(float, words)
    if all(whole) or whole[1] and tolerance is None or not math.isfinite(a) or not math.isfinite(b):
        return False
    mantissa, _, exponent = want.lower().partition("e")
    places = len(mantissa.partition(".")[2]) - int(exponent or 0)
    allowed = [1e-6 * min(1, abs(b)), 1e-13 * abs(b), (tolerance or 0) * max(1, abs(b)), 1e-9 * (b == 0)]
    if places >= 4:
        allowed.append(min(0.5 * 10.0**-places * (1 + 1e-9), abs(b) / 1000))
    return abs(a - b) <= max(allowed)


def _run_script(program: str, test: dict, timeout: float, jail: list, tolerance: float | None) -> str:
    """Why the program fails on this input; "" if it prints what is expected and ends with status 0."""
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(test["input"].encode())
        stdin.seek(0)
        child = _Child("script", program, jail, files=(stdin, out, err))
        in_time = child.wait(deadline)
        child.end(in_time)
        if not in_time:
            return f"timeout after {timeout:g} s"
        if child.process.returncode:
            err.seek(max(0, err.seek(0, os.SEEK_END) - 4096))
            said = err.read().decode(errors="replace").strip().rpartition("\n")[2]
            return _printable(f"exit status {child.process.returncode}: {said}")
        want = test["output"]
        if out.seek(0, os.SEEK_END) > 2 * len(want.encode()) + 65_536:
            return "wrong output, far too long"
        out.seek(0)
        right = same_output(out.read().decode(errors="replace"), want, test.get("tolerance", tolerance))
        return "" if right else _printable(f"wrong output for input {test['input']!r}")


LIMITS = {"timeout": (0.05, 600), "memory_mb": (64, 16_384), "tolerance": (0, 1)}


def check_tests(tests: list, **limits: float | None):
    """Raises ValueError (or SyntaxError) unless these are tests and limits as `run_tests` wants them."""
    kinds = {type(test) for test in tests} if isinstance(tests, list) else set()
    pairs = kinds == {dict} and all(type(t.get("input")) is type(t.get("output")) is str for t in tests)
    if kinds != {str} and not pairs:
        raise ValueError('tests must be a list of assert strings, or of {"input": text, "output": text}')
    for test in tests if kinds == {str} else ():
        ast.parse(test)
    tolerances = [("tolerance", test.get("tolerance")) for test in tests if pairs]
    for name, value in [*limits.items(), *tolerances]:
        low, high = LIMITS[name]
        if value is not None and not (type(value) in (int, float) and low <= value <= high):
            raise ValueError(f"{name} must be a number from {low} to {high}, not {value!r}")


def run_tests(program: str, tests: list, *, timeout: float | None = None, memory_mb: int | None = None,
        tolerance: float | None = None, unsafe: bool = False) -> Result:
    """Run a Python program against its tests: assert strings (statements that call the program), all in one
    process, or {"input": stdin, "output": stdout} pairs, a process each, which must end with status 0.

    timeout: seconds of wall clock per process, 5 if None; memory_mb: of address space, 512 if None;
    tolerance: of printed numbers (`same_output`), also as a key of a single pair. Raises ValueError for tests
    that are no tests and for limits outside of LIMITS, SandboxError where the jail lacks a layer, unless
    `unsafe`."""
    check_tests(tests, timeout=timeout, memory_mb=memory_mb, tolerance=tolerance)
    timeout, memory_mb = timeout or 5.0, int(memory_mb or 512)
    namespaces = not unsafe and sys.platform == "linux" and _namespaces_allowed()
    with tempfile.TemporaryDirectory() as folder:
        jail = [folder, memory_mb, int(timeout) + 2, namespaces, unsafe]
        if isinstance(tests[0], str):
            return _run_asserts(program, tests, timeout, jail)
        reasons = []
        for test in tests:
            reasons.append(_run_script(program, test, timeout, jail, tolerance))
            if reasons[-1].startswith("timeout"):
                break
    passed = reasons.count("")
    return Result(passed, len(tests) - passed, next((r for r in reasons if r), ""))


def run_many(jobs: list[tuple], **options) -> list[Result]:
    """`run_tests` for many (program, tests) or (program, tests, its own options), one at a time per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda job: run_tests(*job[:2], **options, **dict(*job[2:])), jobs))


if __name__ == "__main__":
    _inside(globals()["JOB"])  # from BOOT
