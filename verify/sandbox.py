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
objects that lie in ==, bool, arithmetic     only literals are compared; see `Remote`       LIARS
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

What a test can say: arguments go by value (changes made in place are not seen); two objects of the program
are never equal, have no truth and no arithmetic; isinstance and `with` do not take them; a predicate that the
test asks of the program itself, the program answers. A name is the program's unless it is a builtin or the
test's own; where the tests name nothing but builtins, those that the program defines are meant.
"""

import builtins
import ctypes
import json
import os
import struct
import sys
from collections import namedtuple
from itertools import islice

if __name__ != "__main__":  # the jailed side starts without them
    import ast
    import select
    import signal
    import socket
    import subprocess
    import tempfile
    import time
    from concurrent.futures import ThreadPoolExecutor
    from functools import cache
    from typing import NamedTuple
else:
    NamedTuple, cache = object, lambda f: f

OUTPUT, REPLY, TMPFS = 8 << 20, 1 << 20, 16 << 20  # bytes: files written, one answer, the temporary folder


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
    code += [
        (equal, 0, 4, _CLONE[column]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, CLONE_THREAD),
        (give, 0, 0, allow),
        (give, 0, 0, deny),
        (equal, 0, 1, _CLONE3),
        (give, 0, 0, no_such_call),
        (give, 0, 0, deny),
    ]
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
    grants = dict.fromkeys([*sys.path, *libraries], read) | {"/dev/null": 6, "/dev/urandom": 4}
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

_NAMED = {"Fraction": "fractions", "Decimal": "decimal"}  # exact numbers, written as text


def _encode(value, keep):
    """A value as JSON: numbers, text, containers of them by value; anything else as what `keep` returns."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return ["int", hex(value)]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, tuple) and hasattr(type(value), "_fields"):
        return ["named", type(value).__name__, list(value._fields), [_encode(v, keep) for v in value]]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, [_encode(v, keep) for v in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[_encode(k, keep), _encode(v, keep)] for k, v in dict.items(value)]]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if type(value).__name__ in _NAMED:
        return [type(value).__name__, str(value)]
    return keep(value)


def _decode(data, found):
    """The value of `_encode`; `found(kind, name)` returns what stands for any other kind."""
    if not isinstance(data, list):
        return data
    kind, *rest = data
    if kind == "int":
        return int(rest[0], 16)
    if kind == "float":
        return float.fromhex(rest[0])
    if kind == "complex":
        return complex(*map(float.fromhex, rest))
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(rest[0])
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)([_decode(v, found) for v in rest[0]])
    if kind == "named":
        row = namedtuple(str(rest[0]), rest[1], rename=True)
        return row(*(_decode(v, found) for v in rest[2]))
    if kind == "dict":
        return {_decode(k, found): _decode(v, found) for k, v in rest[0]}
    if kind == "range":
        return range(*rest)
    if kind in _NAMED:
        return getattr(__import__(_NAMED[kind]), kind)(rest[0])
    return found(kind, rest[0])


class Remote:
    """An object of the other process. It can be called, read (len, items, iteration, str) and asked for
    attributes; it takes no part in comparisons, truth or arithmetic, where it could lie. Predicates that
    literals have, too (`startswith`), it answers only if a capitalised name, a class, has just made it."""

    __slots__ = ("_peer", "_where", "_is_class", "_is_made")

    def __init__(self, peer, where, is_class=False):
        self._peer, self._where, self._is_class, self._is_made = peer, where, is_class, False

    def _ask(self, action, *args, **named):
        return self._peer.request(action, self._where, args, named)

    def __getattr__(self, name):
        if name.startswith("_") or (name in _PREDICATES and not self._is_made):
            raise AttributeError(f"an object of the program stands where a literal should: {name}")
        return self._ask("attribute", name)

    def __call__(self, *args, **named):
        value = self._ask("call", *args, **named)
        if isinstance(value, Remote):
            value._is_made = self._is_class
        return value

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


_PREDICATES = {"startswith", "endswith", "issubset", "issuperset", "isdisjoint", "is_integer"} | {
    name for name in dir(str) if name.startswith("is")
}


class _Peer:
    """One end of the line between judge and candidate: one request at a time, each a line of JSON; while it
    waits, the other side may ask back (a test that passed a function)."""

    def __init__(self, fd: int, names: dict | None = None):
        self.input, self.fd, self.kept, self.calls = os.fdopen(fd, "rb", closefd=False), fd, [], 0
        self.names = names  # the candidate's; None in the judge, which answers calls of its functions only
        self.errors = {}  # exception classes that stand for the other side's, by name

    def keep(self, thing):
        """What is not a literal travels as a reference: the receiver's, a builtin, or the sender's own."""
        if isinstance(thing, Remote):
            return ["yours", thing._where[1]] if thing._where[0] == "mine" else thing._where
        name = getattr(thing, "__name__", "")
        if isinstance(name, str) and getattr(builtins, name, self) is thing:
            return ["builtin", name]
        if self.names is None and not callable(thing):
            raise TypeError(f"a test cannot pass a {type(thing).__name__}")
        if isinstance(thing, type) and issubclass(thing, Exception):
            return ["error", _lineage(thing)]
        self.kept.append(thing)
        return ["iterator" if hasattr(type(thing), "__next__") else "mine", len(self.kept) - 1]

    def found(self, kind, name):
        if kind == "mine":
            return Remote(self, [kind, name])
        if kind == "iterator":
            return self.pull(Remote(self, ["mine", name]))
        if kind == "yours":
            return self.kept[name]
        if kind == "error":
            return self.error(name)
        if kind == "builtin":  # the program's stays with the program: its `eval` must not become the judge's
            return Remote(self, ["builtin", name]) if self.names is None else getattr(builtins, name)
        if kind == "name" and self.names is not None and name in self.names:
            return self.names[name]
        raise NameError(f"name {name!r} is not defined")

    def error(self, lineage):
        """The exception class for the names of another side's class and its first builtin base. Not one that
        would end a loop of the test."""
        name, base = map(str, lineage)
        base = getattr(builtins, base, None)
        usual = (
            isinstance(base, type) and issubclass(base, Exception) and not base.__name__.startswith("Stop")
        )
        base = base if usual else RuntimeError
        return base if base.__name__ == name else self.errors.setdefault(name, type(name, (base,), {}))

    @staticmethod
    def pull(remote):
        while item := remote._ask("next"):
            yield item[0]

    def send(self, message):
        data = json.dumps(message).encode() + b"\n"
        if len(data) > REPLY:
            raise ValueError("an answer over 1 MB")
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self):
        line = self.input.readline(REPLY + 1)
        if not line.endswith(b"\n"):
            raise EOFError("the program ended")
        return json.loads(line)

    def request(self, action, where, args, named):
        self.calls += action != "get"
        where = ["yours", where[1]] if where[0] == "mine" else where
        self.send(["ask", action, where, _encode(args, self.keep), _encode(named, self.keep)])
        while (answer := self.receive())[0] == "ask":
            self.answer(*answer[1:])
        if answer[0] == "raise":
            raise self.error(answer[1])(str(answer[2]))
        return _decode(answer[1], self.found)

    def answer(self, action, where, args, named):
        """Do what is asked and send ["value", ...] or ["raise", type, message]."""
        try:
            thing, args, named = (_decode(x, self.found) for x in (where, args, named))
            if self.names is None and (action != "call" or where[0] != "yours"):
                raise TypeError("the tests answer calls only")
            value = {
                "get": lambda: thing,
                "call": lambda: thing(*args, **named),
                "len": lambda: len(thing),
                "attribute": lambda: getattr(thing, *args),
                "item": lambda: thing[args[0]],
                "list": lambda: list(thing),
                "next": lambda: list(islice(thing, 1)),
                "str": lambda: str(thing),
                "repr": lambda: repr(thing),
            }[action]()
            self.send(["value", _encode(value, self.keep)])
        except Exception as error:
            self.send(["raise", _lineage(type(error)), str(error)[:200]])


def _lineage(kind: type) -> list[str]:
    """The names of an exception class and of its first builtin base."""
    return [kind.__name__, next(k.__name__ for k in kind.__mro__ if getattr(builtins, k.__name__, None) is k)]


# ------------------------------------------------------------------------------------- inside: three programs


class _Names(dict):
    """A test's variables; a name that is neither its own nor a builtin is the program's."""

    def __missing__(self, name):
        if hasattr(builtins, name) and not self.builtins_are_theirs:
            raise KeyError(name)  # looked up among the builtins next
        if name in (
            "math",
            "cmath",
            "re",
            "itertools",
            "collections",
            "functools",
            "operator",
            "json",
            "copy",
        ):
            return self.setdefault(name, __import__(name))
        try:
            value = Remote(self.peer, ["name", name])._ask("get")
        except NameError:
            if hasattr(builtins, name):
                raise KeyError(name) from None
            raise
        if isinstance(value, Remote):
            value._is_class = name[0].isupper()
        return value


def _free_names(tests) -> set[str]:
    """The names that compiled tests look up and that are no builtins."""
    found, stack = set(), list(tests)
    while stack:
        code = stack.pop()
        found |= {name for name in code.co_names if not hasattr(builtins, name)}
        stack += [constant for constant in code.co_consts if isinstance(constant, type(code))]
    return found


def _judge(tests: list[str], line: int, report: int):
    """Run each test; report "pass" or the reason why not. A run of tests that calls nothing proves nothing.
    Where the tests name nothing but builtins, they mean those that the program defines."""
    names = _Names(__name__="test")
    names.peer = peer = _Peer(line)
    compiled = [compile(test, "<test>", "exec") for test in tests]
    names.builtins_are_theirs = not _free_names(compiled)
    for code in compiled:
        try:
            exec(code, names)
            verdict = "pass"
        except Exception as error:
            verdict = f"{type(error).__name__}: {error}"[:200]
        os.write(report, json.dumps(verdict).encode() + b"\n")
    if not peer.calls:
        os.write(report, b'"the tests call nothing of the program"\n')


def _module(name: str, program: str) -> dict:
    """Execute the program as the module `name`; its names."""
    module = sys.modules[name] = type(sys)(name)
    exec(compile(program, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def _candidate(program: str, line: int):
    """Execute the program, then answer the judge's requests until it hangs up."""
    peer = _Peer(line, _module("solution", program))
    while True:
        _, *request = peer.receive()
        peer.answer(*request)


def _inside():
    """What the child runs: read the job, close the doors, say so, and only then look at the program."""
    spec, report, line = map(int, sys.argv[1:])
    with os.fdopen(spec) as f:
        job = json.load(f)
    try:
        _lock_down(*job["jail"])
    except (SandboxError, OSError, ImportError) as error:
        os.write(report, f"{error}\n".encode())
        os._exit(1)
    os.write(report, b"locked\n")
    sys.argv = ["solution.py"]
    if job["role"] == "judge":
        return _judge(job["text"], line, report)
    os.close(report)
    if job["role"] == "candidate":
        _candidate(job["text"], line)
    elif job["role"] == "script":
        _module("__main__", job["text"])


# --------------------------------------------------------------------------------------- outside: the caller


class Result(NamedTuple):
    passed: int
    failed: int
    reason: str  # of the first failure; "" if all passed


class _Child:
    """A fresh interpreter in its own process group, jailed, with a report that only its own side writes."""

    def __init__(self, role: str, text, jail: list, line: int = -1, files=(None, None, None)):
        self.report = tempfile.TemporaryFile()
        with tempfile.TemporaryFile("w+") as spec:
            json.dump({"role": role, "text": text, "jail": jail}, spec)
            spec.seek(0)
            fds = (spec.fileno(), self.report.fileno(), line)
            command = [sys.executable, "-I", "-S", "-B", __file__, *map(str, fds)]
            stdin, stdout, stderr = (subprocess.DEVNULL if f is None else f for f in files)
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd="/",
                env={},
                pass_fds=[f for f in fds if f >= 0],
                start_new_session=True,
            )

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
            raise SandboxError(
                f"programs cannot be run safely here: {first or 'the interpreter does not start'}"
                " (--unsafe_code_execution runs them unprotected)"
            )
        return lines


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
            judge = _Child("judge", tests, [None, *jail[1:]], ours.fileno())
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


def _run_script(program: str, test: dict, timeout: float, jail: list) -> str:
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
        printed = out.read().decode(errors="replace")
        lines = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (printed, want)]
        return "" if lines[0] == lines[1] else _printable(f"wrong output for input {test['input']!r}")


def check_tests(tests: list):
    """Raises ValueError (or SyntaxError) unless these are tests as `run_tests` wants them."""
    kinds = {type(test) for test in tests} if isinstance(tests, list) else set()
    pairs = kinds == {dict} and all(type(t.get("input")) is type(t.get("output")) is str for t in tests)
    if kinds != {str} and not pairs:
        raise ValueError('tests must be a list of assert strings, or of {"input": text, "output": text}')
    for test in tests if kinds == {str} else ():
        ast.parse(test)


def run_tests(
    program: str, tests: list, *, timeout: float = 5.0, memory_mb: int = 512, unsafe: bool = False
) -> Result:
    """Run a Python program against its tests: assert strings (statements that call the program), all in one
    process, or {"input": stdin, "output": stdout} pairs, a process each.

    timeout: seconds of wall clock per process; memory_mb: of address space. Output is compared up to white
    space at the end of lines and of the text. Raises ValueError for tests that are no tests, SandboxError
    where the jail lacks a layer, unless `unsafe`."""
    check_tests(tests)
    namespaces = not unsafe and sys.platform == "linux" and _namespaces_allowed()
    with tempfile.TemporaryDirectory() as folder:
        jail = [folder, memory_mb, int(timeout) + 2, namespaces, unsafe]
        if isinstance(tests[0], str):
            return _run_asserts(program, tests, timeout, jail)
        reasons = []
        for test in tests:
            reasons.append(_run_script(program, test, timeout, jail))
            if reasons[-1].startswith("timeout"):
                break
    passed = reasons.count("")
    return Result(passed, len(tests) - passed, next((r for r in reasons if r), ""))


def run_many(jobs: list[tuple[str, list]], **options) -> list[Result]:
    """`run_tests` for many (program, tests), one at a time per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda job: run_tests(*job, **options), jobs))


if __name__ == "__main__":
    _inside()
