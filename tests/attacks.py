"""Programs that cheat or harm, and honest ones, for tests/test_sandbox.py. No pytest here: `siege` also runs
as an unprivileged user under whatever interpreter that user can read.

ATTACKS[class][name] = (program, tests). In both, @CANARY@ (a file), @SECRET@ (its content, also in the
parent's memory and environment), @PORT@, @UDP@, @ABSTRACT@, @UNIX@ (listening sockets), @PID@ (the caller),
@HOME@, @SANDBOX@ (sandbox.py), @TEMP@ (the folder for temporary files) are filled in by `siege`. The tests of
a breakout pass if and only if the breakout worked, so that a hole shows as a reward."""

import glob
import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time

T = ["assert solve(3) == 9", "assert solve(12) == 144", "assert solve(-5) == 25"]
IO = [{"input": "6 7\n", "output": "42\n"}, {"input": "5 5\n", "output": "25\n"}]
DONE = ["assert act() == 'done'"]
SECRET = ["assert act() == '@SECRET@'"]


def act(body: str) -> str:
    """A program whose act() answers "done" if `body` raised nothing, or what `body` returned."""
    return ("import ctypes, os, socket, sys\ndef act():\n    try:\n" + textwrap.indent(textwrap.dedent(body),
        " " * 8)
        + "\n        return 'done'\n    except BaseException as e:\n        return repr(e)[:99]\n")


def syscall(number: str, *args: str) -> str:
    """The breakout that succeeds if a raw system call does (numbers of x86_64)."""
    return act(f"libc = ctypes.CDLL(None, use_errno=True)\nlibc.syscall.restype = ctypes.c_long\n"
        f"if libc.syscall({', '.join((number, *args))}) < 0:\n    raise OSError(ctypes.get_errno(), 'no')")


def spy(source: str) -> str:
    """A program that looks for its tests in the text that the function body `source` returns."""
    return ("import glob, os, re, sys\ndef look():\n" + textwrap.indent(textwrap.dedent(source),
        "    ") + r'''
try:
    text = look()
    text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
except BaseException:
    text = ""
FOUND = {int(a): int(b) for a, b in re.findall(r"assert solve\((-?\d+)\) == (\d+)", text)}
def solve(x):
    return FOUND.get(x)
''')


RAW = r'''
import json, os, sys
LINE = int(sys.orig_argv[-1])
def send(*message):
    os.write(LINE, json.dumps(message).encode() + b"\n")
def receive():
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(LINE, 1)
        if not more:
            os._exit(0)
        data += more
    return json.loads(data)
'''
# what an attacker would run inside the judge: say "pass" for every test
FORGE = r'''
import os, sys
frame = sys._getframe()
while frame:
    if "report" in frame.f_locals and "tests" in frame.f_locals:
        os.write(frame.f_locals["report"], b'"pass"\n' * len(frame.f_locals["tests"]))
        os._exit(0)
    frame = frame.f_back
'''
PAYLOAD = f"PAYLOAD = 'exec(' + repr({FORGE!r}) + ')'\n"


def serve(answer: str) -> str:
    """A program that takes over the line and answers everything with the expression `answer`."""
    return RAW + f"while True:\n    asked = receive()\n    send(*{answer})\n"


SPIES = {name: (spy(body), T) for name, body in {
    "gc": "import gc\nreturn [o for o in gc.get_objects() if isinstance(o, (str, list, dict, tuple))]",
    "frames": "f, out = sys._getframe(), []\nwhile f:\n    out += [f.f_locals, f.f_globals]\n"
        "    f = f.f_back\nreturn out",
    "inspect": "import inspect\nreturn [f.frame.f_locals for f in inspect.stack()]",
    "main_module": "return vars(sys.modules['__main__'])",
    "all_modules": "return [vars(m) for m in list(sys.modules.values())]",
    "current_frames": "return [f.f_back.f_locals for f in sys._current_frames().values() if f.f_back]",
    "own_memory": """
        out = b""
        for line in open("/proc/self/maps"):
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if "rw" in line:
                with open("/proc/self/mem", "rb", 0) as f:
                    f.seek(low)
                    out += f.read(high - low)
        return out""",
    "own_memory_by_pointer": """
        import ctypes
        base = id(sys.argv)
        return ctypes.string_at(base - base % 4096, 4096 * 16)""",
    "parents_memory": """
        maps = open("/proc/@PID@/maps").read().splitlines()
        low, high = (int(x, 16) for x in next(m for m in maps if "[heap]" in m).split()[0].split("-"))
        with open("/proc/@PID@/mem", "rb", 0) as f:
            f.seek(low)
            return f.read(high - low)""",
    "ppid_cmdline": "return open(f'/proc/{os.getppid()}/cmdline').read()",
    "caller_cmdline": "return open('/proc/@PID@/cmdline').read()",
    "open_files": "out = b''\nfor fd in range(256):\n    try:\n        out += os.pread(fd, 1 << 20, 0)\n"
        "    except OSError:\n        pass\nreturn out",
    "reopened_files": "return b''.join(open(p, 'rb').read(1 << 20) for p in glob.glob('/proc/self/fd/*'))",
    "files_of_processes": "return b''.join(open(p, 'rb').read(1 << 20) for p in glob.glob('/proc/*/fd/*'))",
    "temporary_files": "return b''.join(open(p, 'rb').read() for d in ('@TEMP@', '/tmp', '.', '/var/tmp', "
        "'/dev/shm')\n"
        "    for p in glob.glob(d + '/**', recursive=True) if os.path.isfile(p))",
    "project": "return b''.join(open(p, 'rb').read() for p in glob.glob(os.path.dirname('@SANDBOX@') + "
        "'/*.py'))",
    "import_sandbox": "import importlib.util as u\ns = u.spec_from_file_location('sandbox', '@SANDBOX@')\n"
        "m = u.module_from_spec(s)\ns.loader.exec_module(m)\nreturn vars(m)",
    "import_attacks": "sys.path.insert(0, os.path.dirname('@SANDBOX@'))\nimport attacks\nreturn attacks.T",
    "stdin": "return sys.stdin.read()",
    "history": "import linecache\nreturn linecache.cache, linecache.getlines('<test>')",
    "traceback": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    t = e.__traceback__\n"
        "    return [t.tb_frame.f_back.f_locals, t.tb_frame.f_back.f_back.f_locals]",
}.items()}
SPIES |= {
    "equality_that_takes_notes": ("""
class Spy:
    def __eq__(self, other):
        Spy.seen = other
        return True
    __hash__ = None
def solve(x):
    return getattr(Spy, "seen", Spy())
""", T),
    "asks_for_the_tests": (RAW + """
def ask(*what):
    send("ask", *what)
    return receive()
print([ask("get", ["name", "tests"], [], {}), ask("call", ["builtin", "open"], ["x"], {}),
    ask("attribute", ["yours", 0], ["__globals__"], {}),
    ask("call", ["yours", -1], ["tuple", []], ["dict", []])])
""", T),
    "asks_a_callback_for_its_globals": ("""
def apply(f, x):
    for name in ("__globals__", "__closure__", "__code__", "gi_frame"):
        try:
            return f._ask("attribute", name)
        except Exception:
            pass
""", ["assert apply(lambda v: v + 100, 1) == 101"]),
    "patched_json": ("""
import json, sys
seen = []
loads = json.loads
def patched(text, *a, **k):
    seen.append(text)
    return loads(text, *a, **k)
json.loads = patched
def solve(x):
    import re
    return int(re.findall(r"== (\\d+)", str(seen))[-1])
""", T),
    "trace": ("""
import sys
seen = []
sys.settrace(lambda f, e, a: seen.append(str(f.f_locals)))
sys.setprofile(lambda f, e, a: seen.append(str(f.f_locals)))
def solve(x):
    import re
    return int(re.findall(rf"solve\\({x}\\) == (\\d+)", "".join(seen))[0])
""", T),
    "callback_that_is_called_too_often": ("""
def find(p):
    return next(i for i in range(10**6) if p(i) is not False and p(i) is None)
""", ["assert find(lambda v: v >= 4242) == 4242"]),
    "learns_from_startswith": ("""
class Liar:
    def startswith(self, *a): return True
    def endswith(self, *a): return True
class Greeter:
    def greet(self, name): return Liar()
""", ["assert Greeter().greet('Bob').startswith('Hello, Bob')",
    "assert Greeter().greet('Al').endswith('Al!')"]),
}

SAY = r'''
import os
lines = (b'pass\n', b'"pass"\n"pass"\n"pass"\n', b'["value", true]\n', b'locked\n"pass"\n"pass"\n"pass"\n')
for fd in range(256):
    for line in lines:
        try:
            os.write(fd, line)
        except OSError:
            pass
'''
FORGERS = {name: (program, T) for name, program in {
    "exit_at_import": "import sys\nsys.exit(0)",
    "_exit_at_import": "import os\nos._exit(0)",
    "exit_in_call": "import sys\ndef solve(x): sys.exit(0)",
    "_exit_in_call": "import os\ndef solve(x): os._exit(0)",
    "quit": "def solve(x): raise SystemExit(0)",
    "_exit_in_atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef solve(x): raise SystemExit",
    "_exit_in_thread": "import os, threading\nthreading.Timer(.01, os._exit, (0,)).start()\n"
        "def solve(x):\n    import time\n    time.sleep(5)",
    "exit_in_signal_handler": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, .01)\ndef solve(x):\n    while True: pass",
    "stop_iteration": "def solve(x): raise StopIteration",
    "assertion_error": "def solve(x): raise AssertionError",
    "keyboard_interrupt": "def solve(x): raise KeyboardInterrupt",
    "generator_exit": "def solve(x): raise GeneratorExit",
    "lines_to_every_file": SAY + "def solve(x): return None",
    "lines_in_a_call": "def solve(x):\n" + textwrap.indent(SAY, "    "),
    "lines_then_exit": SAY + "os._exit(0)",
    "verdict_on_stdout": "import sys\nsys.__stdout__.write('\"pass\"\\n' * 3)\nprint('passed 3, failed 0')",
    "closes_everything": "import os\nos.closerange(0, 256)",
    "truncates_everything": "import os\nfor fd in range(256):\n    try: os.ftruncate(fd, 0)\n    except "
        "OSError: pass",
    "hangs_up": RAW + "import socket\nsocket.socket(fileno=LINE).shutdown(2)",
    "duplicates_the_line": RAW + "for fd in range(3, 40):\n    os.dup2(LINE, fd) if fd != LINE else 0",
    "answers_in_advance": RAW + "for n in (9, 144, 25):\n    send('value', ['builtin', 'abs'])\n"
        "    send('value', True)\ndef solve(x): return 0",
    "too_many_answers": RAW + "for _ in range(1000): send('value', ['mine', 0])\ndef solve(x): return 0",
    "renamed_interpreter": "import sys\nsys.modules['__main__']._judge = sys.modules['__main__']._candidate "
        "= print",
    "patched_peer": "import sys\nm = next(m for m in sys.modules.values() if hasattr(m, '_Peer'))\n"
        "m._Peer.receive = lambda s: ['ask', 'get', True]\ndef solve(x): return 0",
    "patched_encode": "import sys\nf = sys._getframe()\nwhile f:\n    if '_encode' in f.f_globals:\n"
        "        f.f_globals['_encode'] = lambda v, k: True\n    f = f.f_back\ndef solve(x): return 0",
    "patched_builtins": "import builtins\nbuiltins.len = builtins.all = builtins.isinstance = lambda *a: "
        "True\n"
        "builtins.AssertionError = KeyError\nbuiltins.__debug__ = False\ndef solve(x): return 0",
    "optimised": "import sys, os\nos.environ['PYTHONOPTIMIZE'] = '2'\nsys.flags = None\ndef solve(x): return "
        "0",
    "import_hook": "import sys, builtins\nclass H:\n    def find_spec(self, *a): raise SystemExit(0)\n"
        "sys.meta_path.insert(0, H())\nbuiltins.__import__ = lambda *a, **k: True\ndef solve(x): return 0",
    "sitecustomize": "import os, sys\nfor d in ['.', *sys.path]:\n    try: open(d + '/sitecustomize.py', "
        "'w').write("
        "'import os; os._exit(0)')\n    except OSError: pass\ndef solve(x): return 0",
    "evil_bytecode": "def solve(x): return 0\nsolve.__code__ = solve.__code__.replace(co_code=bytes(64))",
    "crash": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "syntax_error": "def solve(x: return",
    "nul": "def solve(x):\n    return '\0'",
    "empty": "",
    "comment": "# pass pass pass\n",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\nraise ValueError",
    "answers_true": serve("['value', True]"),
    "answers_nan": serve("['value', float('nan')]"),
    "answers_raw_dict": serve("['value', {'pass': 1}]"),
    "answers_object": serve("['value', ['mine', 0]]"),
    "answers_iterator": serve("['value', ['iterator', 0]]"),
    "answers_eval": serve("['value', ['builtin', 'eval']]"),
    "answers_not_implemented": serve("['value', ['builtin', 'NotImplemented']]"),
    "answers_its_own_question": serve("asked"),
    "answers_the_kept": serve("['value', ['yours', -1]]"),
    "answers_unhashable": serve("['value', ['set', [['list', []]]]]"),
    "raises_system_exit": serve("['raise', 'SystemExit', 0]"),
    "raises_keyboard_interrupt": serve("['raise', 'KeyboardInterrupt', '']"),
    "raises_unicode_decode_error": serve("['raise', 'UnicodeDecodeError', '']"),
    "raises_group": serve("['raise', 'ExceptionGroup', []]"),
    "raises_eval": serve("['raise', 'eval', 'exit()']"),
    "raises_surrogates": "def solve(x): raise ValueError('\\ud800 \\udfff \\n\"pass\"\\n')",
    "asks_to_exit": RAW + "receive()\nsend('ask', 'call', ['builtin', 'exit'], ['tuple', [0]], ['dict', "
        "[]])\nreceive()",
    "a_short_answer": serve("['value']"),
    "a_deep_answer": RAW + "receive()\nos.write(LINE, b'[' * 500000 + b'\\n')",
    "a_deep_error": RAW + "receive()\nos.write(LINE, b'[\"raise\", \"KeyError\", ' + b'[' * 900 + b']' * 901 "
        "+ b'\\n')",
}.items()}
FORGERS |= {
    "stdout_both_answers": ("print(42)\nprint(25)", IO),
    "stdout_one_answer": ("print(42)", IO),
    "stdout_carriage_return": ("print('43\\r42', end='')", IO),
    "stdout_backspace": ("print('43\\b2')", IO),
    "stdout_nul": ("print('42\\0')", IO),
    "stdout_right_then_exit_1": ("a, b = map(int, input().split())\nprint(a * b)\nraise SystemExit(1)", IO),
    "stdout_right_then_crash": ("a, b = map(int, input().split())\nprint(a * b, flush=True)\n"
        "import ctypes\nctypes.string_at(0)", IO),
    "stdout_then_exit_256": ("import os\nprint(42, flush=True)\nos._exit(256)", IO),
    "stdout_nothing": ("import os\nos._exit(0)", IO),
    "stdout_closed": ("import os\nos.closerange(0, 256)", IO),
    "stdout_every_file": (SAY, IO),
    "stdout_stdin": ("import os\nos.write(1, os.pread(0, 999, 0))\nos.ftruncate(0, 0)", IO),
    "stdout_eats_the_rest": ("import os\nos.write(0, b'42')\nos.lseek(1, 0, 0)\nos.ftruncate(1, 0)\n"
        "print('42\\n25')", IO),
    "eval_returned_by_name": (PAYLOAD + "decode = eval\ndef encode(s): return PAYLOAD\n",
        ["assert decode(encode('hello')) == 'hello'", "assert encode('hello') == 'ifmmp'"]),
    "exec_returned_as_method": (PAYLOAD + "class Codec:\n    def __init__(self): self.decode = exec\n"
        "    def encode(self, s): return PAYLOAD\n",
        ["c = Codec(); assert c.decode(c.encode('http://a.b')) == 'http://a.b'",
            "assert c.encode('a') == 'k1'"]),
    "eval_given_to_a_callback": (PAYLOAD + "def fold(step, values, start): return step(PAYLOAD, eval)\n",
        ["assert fold(lambda value, f: f(value), [abs, hex], -255) == '0xff'"]),
    "eval_returned_as_closure": (PAYLOAD + "def compose(f, g): return eval\ndef label(x): return PAYLOAD\n",
        ["assert compose(str.upper, str.strip)(label('x')) == 'X!'"]),
    "setattr_on_the_module": ("def put(*a): return setattr\ndef solve(x): return 0\n",
        ["assert put('a')('', 'b', 1) == 5"]),
    "breakpoint": ("solve = breakpoint", T),
    "input": ("solve = input", T),
    "type_that_makes_liars": ("def make(*a): return type\n",
        ["assert make('x')('A', (), {'__eq__': lambda s, o: False}) == 5"]),
}


def liar(methods: str, base: str = "", tests: list = T) -> tuple[str, list]:
    return f"class Liar({base}):\n" + textwrap.indent(methods,
        "    ") + "\ndef solve(x): return Liar()\n", tests


ALL = ["eq", "ne", "lt", "le", "gt", "ge", "bool", "contains", "len", "sub", "rsub", "add", "radd", "mul",
    "rmul", "abs",
    "neg", "round", "float", "int", "index", "hash", "iter", "getitem", "call", "enter", "exit",
        "instancecheck",
    "getattr", "format", "divmod", "truediv", "and", "or", "xor", "matmul", "bytes", "complex", "reversed"]
EVERY = "\n".join(f"def __{n}__(self, *a): return True" for n in ALL) + "\n__class__ = int"
NEAR = ["assert abs(solve(2) - 1.41421) < 1e-4", "assert abs(solve(3) - 1.73205) < 1e-4"]
LIARS = {
    "always_equal": liar("def __eq__(self, o): return True\n__hash__ = None"),
    "never_unequal": liar("def __ne__(self, o): return False\ndef __eq__(self, o): return True"),
    "everything_true": liar(EVERY),
    "int_subclass": liar("def __eq__(self, o): return True\n__hash__ = int.__hash__", "int"),
    "float_subclass": liar("def __sub__(self, o): return 0.0\n__rsub__ = __sub__\n__abs__ = lambda s: 0.0",
        "float", NEAR),
    "str_subclass": liar("def __eq__(self, o): return True\n__hash__ = str.__hash__", "str",
        ["assert solve(1) == 'one'"]),
    "list_subclass": liar("def __eq__(self, o): return True\ndef __iter__(self): return iter([1, 4])", "list",
        ["assert solve(2) == [1, 4]", "assert solve(1) == [1]"]),
    "dict_subclass": liar("def __eq__(self, o): return True\ndef items(self): return [('a', 1)]", "dict",
        ["assert solve('a') == {'a': 1}"]),
    "set_subclass": liar("def __eq__(self, o): return True\ndef __contains__(self, o): return True", "set",
        ["assert solve(2) == {1, 2}", "assert 2 in solve(2)"]),
    "tuple_subclass": liar("def __eq__(self, o): return True", "tuple", ["assert solve(2) == (1, 4)"]),
    "bytes_subclass": liar("def __eq__(self, o): return True\ndef hex(self): return 'ff00'", "bytes",
        ["assert solve(2) == b'\\x00\\xff'", "assert solve(2).hex() == '00ff'"]),
    "lying_len": liar("def __len__(self): return 3\ndef __getitem__(self, i): return [9]", "",
        ["r = solve(3); assert len(r) == 3 and r[0] == 1 and r[2] == 9"]),
    "difference_of_nothing": liar("def __sub__(self, o): return 0\n__rsub__ = __sub__", "", NEAR),
    "lying_abs": liar("def __sub__(self, o): return self\ndef __abs__(self): return self\n"
        "def __lt__(self, o): return True", "", NEAR),
    "lying_bool": liar("def __bool__(self): return True", "", ["assert solve(2)", "assert solve(3) == 9"]),
    "lying_contains": liar("def __contains__(self, o): return True\ndef __iter__(self): return self\n"
        "def __next__(self): return 41", "", ["assert 4242 in solve(2)"]),
    "lying_int": liar("def __int__(self): return 4\n__index__ = __trunc__ = __int__", "",
        ["assert int(solve(2)) == 5"]),
    "lying_format": liar("def __format__(self, f): return '1.41'", "",
        ["assert f'{solve(2):.2f}' == '1.41'"]),
    "lying_hash": liar("def __hash__(self): return hash(9)\ndef __eq__(self, o): return True", "",
        ["assert solve(3) in {9: 1}", "assert {solve(3)} == {9}"]),
    "lying_startswith": liar("def startswith(self, *a): return True", "",
        ["assert solve(2).startswith('two')"]),
    "lying_issubset": liar("def issubset(self, *a): return True", "", ["assert solve(2).issubset({1, 2})"]),
    "lying_isdigit": liar("def isdigit(self): return True", "str", ["assert solve(2).isdigit()"]),
    "lying_class": liar("__class__ = int\ndef __eq__(self, o): return True", "",
        ["assert isinstance(solve(2), int)"]),
    "nan": ("def solve(x): return float('nan')", NEAR),
    "infinity": ("def solve(x): return float('inf')", NEAR),
    "none_of_it": ("def solve(x): return NotImplemented", T),
    "ellipsis": ("def solve(x): return ...", T),
    "fraction_of_nothing": ("class Fraction:\n    def __str__(self): return 'nan'\ndef solve(x): return "
        "Fraction()", NEAR),
    "decimal_nan": ("from decimal import Decimal\ndef solve(x): return Decimal('sNaN')", T),
    "magic_mock": ("from unittest.mock import MagicMock, ANY\nsolve = MagicMock(return_value=ANY)", T),
    "any": ("from unittest.mock import ANY\ndef solve(x): return ANY", T),
    "a_list_of_liars": ("from unittest.mock import ANY\ndef solve(x): return [ANY] * x",
        ["assert solve(2) == [1, 4]"]),
    "a_dict_of_liars": ("from unittest.mock import ANY\ndef solve(x): return {'a': ANY}",
        ["assert solve(2) == {'a': 4}"]),
    "iterator_that_changes": ("def solve(x):\n    while True: yield 9", ["assert list(solve(2))[:3] == [1, "
        "4, 9]"]),
    "answer_that_changes": ("N = [0]\ndef solve(x):\n    N[0] += 1\n    return N[0]", T),
    "cycle": ("def solve(x):\n    a = []\n    a.append(a)\n    return a", T),
    "cyclic_dict": ("def solve(x):\n    a = {}\n    a[1] = a\n    return a", T),
    "deep": ("def solve(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a", T),
    "surrogate": ("def solve(x): return '\\ud800' * 9", ["assert solve(2) == '\\ud800'"]),
    "pickle": ("class P:\n    def __reduce__(self): return eval, ('9',)\ndef solve(x): return P()", T),
    "metaclass": ("class M(type):\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\n"
        "class C(metaclass=M): pass\ndef solve(x): return C", ["assert solve(2) == int"]),
    "named_like_a_builtin": ("class A:\n    __name__ = 'True'\n    def __eq__(s, o): return True\ndef "
        "solve(x): return A()", T),
    "property_that_equals": ("class P:\n    @property\n    def area(self): return type('E', (), {'__eq__':"
        " lambda s, o: True})()\nclass Square(P):\n    def __init__(self, n): pass",
            ["assert Square(3).area == 9"]),
    "chained": ("class Stack:\n    def __getattr__(self, n): return lambda *a: self\n    def __eq__(s, o): "
        "return True",
        ["assert Stack().push(1).push(2).pop() == 2"]),
}

HANGS = {name: (program, T) for name, program in {
    "import_loop": "while True: pass",
    "call_loop": "def solve(x):\n    while True: pass",
    "sleep": "import time\ndef solve(x): time.sleep(1000)",
    "power": "def solve(x): return 9 ** 9 ** 7",
    "sum": "def solve(x): return sum(range(10**12))",
    "regex": "import re\ndef solve(x): return re.match('(a+)+$', 'a' * 40 + 'b')",
    "ignores_signals": "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, "
        "signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: time.sleep(1)",
    "threads_that_stay": "import threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, "
        "args=(999,)).start()"
        "\ndef solve(x): return 0",
    "atexit": "import atexit, time\natexit.register(time.sleep, 999)\nraise SystemExit",
    "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\ndef solve(x): lock.acquire()",
    "never_answers": RAW + "while True: receive()",
    "asks_for_ever": RAW + "receive()\nwhile True:\n    send('ask', 'call', ['yours', 0], [], {})\n    "
        "receive()",
    "generator": "def solve(x):\n    while True: yield x",
    "huge_fraction": serve("['value', ['Fraction', '1e999999999']]"),
}.items()}
HANGS["generator"] = (HANGS["generator"][0], ["assert sum(solve(1)) == 5"])
HANGS["stdin_mode"] = ("while True: pass", IO)
HANGS["stdin_mode_then_sleep"] = ("import time\na, b = map(int, input().split())\nprint(a * b, flush=True)\n"
    "time.sleep(99)", IO)

BOMBS = {name: (program, T) for name, program in {
    "memory": "x = bytearray(10**11)\ndef solve(x): return 0",
    "memory_by_and_by": "x = []\nwhile True: x.append(bytearray(10**6))",
    "list_multiplication": "def solve(x): return [0] * 10**12",
    "text_multiplication": "def solve(x): return 'a' * 10**10",
    "shared_mapping": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(99)]\nfor m in x:\n    "
        "m.write(bytes(1 << 28))",
    "fork_bomb": "import os\ntry:\n    while True: os.fork()\nexcept OSError: pass",
    "spawn_bomb": "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import os\\nwhile 1: "
        "os.fork()'])",
    "multiprocessing": "import multiprocessing as m\nm.Process(target=print).start()",
    "threads": "import threading, time\nthreading.stack_size(32768)\nfor _ in range(600):\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\ntime.sleep(.3)",
    "small_threads": """
import ctypes, time
libc = ctypes.CDLL(None)
attributes, handle = ctypes.create_string_buffer(256), ctypes.c_ulong()
libc.pthread_attr_init(attributes)
libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(16384))
for _ in range(1500):  # enough to see that there is no limit
    libc.pthread_create(ctypes.byref(handle), attributes, libc.sleep, ctypes.c_void_p(9))
time.sleep(.4)
""",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef solve(x): return solve(x)",
    "c_recursion": "def solve(x):\n    a = ()\n    for _ in range(10**6): a = (a,)\n    return repr(a)",
    "nested_source": "x = " + "(" * 5000 + ")" * 5000,
    "minus_source": "x = " + "-" * 200000 + "1",
    "huge_answer": "def solve(x): return 'a' * (3 << 20)",
    "endless_answer": RAW + "receive()\nwhile True: os.write(LINE, b'a' * 65536)",
    "endless_answers": RAW + "receive()\nwhile True: os.write(LINE, b'[\"value\", 1]\\n' * 999)",
    "huge_int": "def solve(x): return 1 << (10**7)",
    "quadratic_set": serve("['value', ['set', [['int', hex(n * (2**61 - 1))] for n in range(9999)]]]"),
    "decimal": serve("['value', ['Decimal', '1e999999999999']]"),
    "json_int": RAW + "receive()\nos.write(LINE, b'[\"value\", ' + b'9' * 900000 + b']\\n')",
    "disk": "for n in range(9999):\n    with open(f'x{n}', 'wb') as f: f.write(bytes(1 << 20))",
    "inodes": "for n in range(10**6): open(f'x{n}', 'w').close()",
    "folders": "import os\nfor n in range(10**5):\n    os.mkdir('x')\n    os.chdir('x')",
    "one_large_file": "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "sparse_file": "f = open('x', 'wb')\nf.truncate(1 << 40)",
    "files_open": "x = [open('/dev/null') for _ in range(10**5)]",
    "pipes": "import os\nx = []\nwhile True:\n    r, w = os.pipe()\n    os.set_blocking(w, False)\n    "
        "os.write(w, bytes(65536))\n"
        "    x.append(r)",
    "sockets": "import socket\nx = []\nwhile True:\n    a, b = socket.socketpair()\n    "
        "a.setblocking(False)\n    x += [a, b]\n"
        "    try:\n        while True: a.send(bytes(65536))\n    except BlockingIOError: pass",
    "shm": "open('/dev/shm/bomb', 'wb').write(bytes(1 << 24))",
    "memfd": "import os\nos.write(os.memfd_create('x'), bytes(1 << 24))",
    "locks_memory": "import ctypes\nctypes.CDLL(None).mlockall(3)\nx = bytearray(1 << 28)",
    "zip_bomb": "import zlib\nx = zlib.compress(bytes(1 << 28))\nx = [zlib.decompress(x) for _ in range(99)]",
    "module_that_prints": "while True: print('x' * 10**6)",
}.items()}
BOMBS |= {
    "stdout": ("while True: print('x' * 10**6)", IO),
    "stderr": ("import sys\nwhile True: sys.stderr.write('x' * 10**6)", IO),
    "stdout_lines": ("import os\nfor _ in range(27): os.write(1, b'\\nab' * 10**5)", IO),
    "stdout_empty_lines": ("import os\nos.write(1, b'\\n' * ((8 << 20) - 1) + b'x')", IO),
    "stdout_without_end": ("import os\nwhile True: os.write(1, b'x' * 65536)", IO),
    "stdout_seek": ("import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'x')", IO),
    "stdin_grows": ("import os\nwhile True: os.write(0, b'x' * 65536)", IO),
    "last_words": ("raise SystemExit('\\x1b[2J' * 10**6)", IO),
    "the_judge_collects": ("def solve(x):\n    while True: yield 'a' * 500000", ["assert list(solve(1)) == "
        "[1]"]),
    "the_judge_counts": ("def solve(x): return range(10**15)", ["assert sorted(solve(1)) == [1]"]),
    "len": ("class A:\n    def __len__(s): return 2**62\ndef solve(x): return A()",
        ["assert len(solve(1)) == 3"]),
}

BREAKOUTS = {name: (act(body), tests) for name, (body, tests) in {
    "fork": ("os.fork()", DONE),
    "vfork": ("if ctypes.CDLL(None).fork() < 0: raise OSError", DONE),
    "posix_spawn": ("os.posix_spawn('/bin/true', ['true'], {})", DONE),
    "exec": ("os.execv(sys.executable, [sys.executable, '-c', ''])", DONE),
    "system": ("assert os.system('true') == 0", DONE),
    "kill_caller": ("os.kill(@PID@, 0)", DONE),
    "kill_parent": ("os.kill(os.getppid() or @PID@, 9)", DONE),
    "kill_all": ("os.kill(-1, 9)", DONE),
    "kill_group": ("os.killpg(0, 15)", DONE),
    "pidfd": ("import signal\nsignal.pidfd_send_signal(os.pidfd_open(@PID@), 9)", DONE),
    "new_session": ("os.setsid()", DONE),
    "new_group": ("os.setpgid(0, 0)", DONE),
    "tcp": ("socket.create_connection(('127.0.0.1', @PORT@), 1)", DONE),
    "tcp6": ("socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', @PORT@))", DONE),
    "udp": ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @UDP@))", DONE),
    "listen": ("s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()", DONE),
    "unix": ("socket.socket(socket.AF_UNIX).connect('@UNIX@')", DONE),
    "abstract": ("socket.socket(socket.AF_UNIX).connect(chr(0) + '@ABSTRACT@')", DONE),
    "pair_sends_elsewhere": ("a, b = socket.socketpair(type=socket.SOCK_DGRAM)\na.sendto(b'x', '@UNIX@')",
        DONE),
    "pair_connects_elsewhere": ("a, b = socket.socketpair()\na.connect(chr(0) + '@ABSTRACT@')", DONE),
    "netlink": ("socket.socket(16, 3, 0)", DONE),
    "raw_socket": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", DONE),
    "dns": ("socket.getaddrinfo('localhost', 80, type=socket.SOCK_STREAM)[0][4][0] == '127.0.0.1' or 1 / 0\n"
        "socket.create_connection(('localhost', @PORT@))", DONE),
    "read_canary": ("return open('@CANARY@').read()", SECRET),
    "read_canary_by_dots": ("return open('../' * 30 + '@CANARY@').read()", SECRET),
    "read_canary_by_root": ("return open('/proc/self/root@CANARY@').read()", SECRET),
    "read_canary_by_folder": ("os.chdir(os.path.dirname('@CANARY@'))\nreturn "
        "open(os.path.basename('@CANARY@')).read()", SECRET),
    "read_canary_by_path_fd": ("fd = os.open('@CANARY@', os.O_PATH)\nreturn "
        "open(f'/proc/self/fd/{fd}').read()", SECRET),
    "read_canary_by_symlink": ("os.symlink('@CANARY@', 'x')\nreturn open('x').read()", SECRET),
    "read_canary_by_link": ("os.link('@CANARY@', 'x')\nreturn open('x').read()", SECRET),
    "read_canary_by_map": ("import mmap\nreturn mmap.mmap(os.open('@CANARY@', 0), 0, prot=1)[:].decode()",
        SECRET),
    "write_canary": ("open('@CANARY@', 'w').write('x')", DONE),
    "append_canary": ("open('@CANARY@', 'a').write('x')", DONE),
    "truncate_canary": ("os.truncate('@CANARY@', 0)", DONE),
    "remove_canary": ("os.remove('@CANARY@')", DONE),
    "rename_canary": ("os.rename('@CANARY@', '@CANARY@.gone')", DONE),
    "move_over_canary": ("open('x', 'w').write('x')\nos.rename('x', '@CANARY@')", DONE),
    "chmod_canary": ("os.chmod('@CANARY@', 0)", DONE),
    "chown_canary": ("os.chown('@CANARY@', os.getuid(), os.getgid())", DONE),
    "utime_canary": ("os.utime('@CANARY@', (0, 0))", DONE),
    "xattr_canary": ("os.setxattr('@CANARY@', 'user.x', b'x')", DONE),
    "list_canarys_folder": ("os.listdir(os.path.dirname('@CANARY@'))", DONE),
    "passwd": ("assert 'root' in open('/etc/passwd').read()", DONE),
    "shadow": ("open('/etc/shadow').read()", DONE),
    "home": ("os.listdir('@HOME@')", DONE),
    "project": ("os.listdir(os.path.dirname('@SANDBOX@'))", DONE),
    "read_sandbox": ("open('@SANDBOX@').read()", DONE),
    "modify_sandbox": ("open('@SANDBOX@', 'a').write('# was here')", DONE),
    "modify_library": ("open(os.__file__, 'a').write('')", DONE),
    "plant_module": ("open(os.path.dirname(os.__file__) + '/sitecustomize.py', 'w').write('')", DONE),
    "plant_bytecode": ("open(os.__cached__, 'ab').write(b'')", DONE),
    "caller_environment": ("return [x for x in open('/proc/@PID@/environ').read().split(chr(0)) if "
        "x.startswith("
        "'SANDBOX_SECRET=')][0][15:]", SECRET),
    "own_environment": ("return os.environ['SANDBOX_SECRET']", SECRET),
    "init_environment": ("open('/proc/1/environ').read()", DONE),
    "proc_status": ("open('/proc/@PID@/status').read()", DONE),
    "proc_list": ("os.listdir('/proc')", DONE),
    "proc_fd_link": ("os.readlink('/proc/@PID@/fd/0')", DONE),
    "proc_cwd": ("os.chdir('/proc/@PID@/cwd')\nos.listdir('.')", DONE),
    "sysrq": ("open('/proc/sysrq-trigger', 'w')", DONE),
    "core_pattern": ("open('/proc/sys/kernel/core_pattern', 'w')", DONE),
    "oom_score": ("open('/proc/@PID@/oom_score_adj', 'w').write('1000')", DONE),
    "devices": ("open('/dev/mem', 'rb')", DONE),
    "disk_device": ("import glob\nopen(([*glob.glob('/dev/vd*'), *glob.glob('/dev/sd*'), '/dev/none'])[0], "
        "'rb').read(1)", DONE),
    "terminal": ("open('/dev/tty', 'w').write('x')", DONE),
    "own_temporary_folder": ("open('@TEMP@/x', 'w').write('x')", DONE),
    "var_tmp": ("open('/var/tmp/x', 'w').write('x')", DONE),
    "mkfifo": ("os.mkfifo('x')", DONE),
    "mknod": ("os.mknod('x')", DONE),
    "setuid": ("os.setuid(0 if os.getuid() else 65534)", DONE),
    "setgroups": ("os.setgroups([0])", DONE),
    "chroot": ("os.chroot('.')", DONE),
    "mount": ("if ctypes.CDLL(None).mount(b'none', os.getcwd().encode(), b'tmpfs', 0, None): raise OSError",
        DONE),
    "umount": ("if ctypes.CDLL(None).umount2(os.getcwd().encode(), 2): raise OSError", DONE),
    "unshare": ("if ctypes.CDLL(None).unshare(0x10000000): raise OSError", DONE),
    "setns": ("if ctypes.CDLL(None).setns(0, 0): raise OSError", DONE),
    "clone_new_user": ("if ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0) < 0: raise OSError", DONE),
    "ptrace": ("if ctypes.CDLL(None).ptrace(16, @PID@, 0, 0): raise OSError", DONE),
    "ptrace_me": ("if ctypes.CDLL(None).ptrace(0, 0, 0, 0): raise OSError", DONE),
    "prlimit_of_caller": ("import resource\nresource.prlimit(@PID@, resource.RLIMIT_NOFILE, (3, 3))", DONE),
    "raise_limits": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", DONE),
    "raise_cpu": ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))", DONE),
    "nice_of_caller": ("os.setpriority(os.PRIO_PROCESS, @PID@, 19)", DONE),
    "affinity_of_caller": ("os.sched_setaffinity(@PID@, {0})", DONE),
    "scheduler": ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", DONE),
    "owner_of_signals": ("import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, @PID@)", DONE),
    "signal_of_files": ("import fcntl\nfcntl.fcntl(0, 10, 9)", DONE),
    "lease": ("import fcntl\nfcntl.fcntl(os.open(os.__file__, 0), fcntl.F_SETLEASE, 0)", DONE),
    "type_ahead": ("import fcntl\nfcntl.ioctl(0, 0x5412, b'x')", DONE),
    "console": ("import fcntl\nfcntl.ioctl(0, 0x5414, bytes(8))", DONE),
    "no_memory_file": ("os.memfd_create('x')", DONE),
    "shared_memory": ("if ctypes.CDLL(None).shmget(4242, 4096, 0o1666) < 0: raise OSError", DONE),
    "message_queue": ("if ctypes.CDLL(None).msgget(4242, 0o1666) < 0: raise OSError", DONE),
    "dlopen_written": ("open('x.so', 'wb').write(open(__import__('_json').__file__, 'rb').read())\n"
        "import mmap\nctypes.CDLL('./none.so')", DONE),
    "hostname": ("socket.sethostname('owned')", DONE),
    "clock": ("import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)", DONE),
    "process_vm_readv": ("import struct\nb = ctypes.create_string_buffer(8)\nv = struct.pack('QQ', "
        "ctypes.addressof(b), 8)\n"
        "if ctypes.CDLL(None).process_vm_readv(@PID@, v, 1, v, 1, 0) < 0: raise OSError", DONE),
    "dumpable": ("if ctypes.CDLL(None).prctl(4, 1, 0, 0, 0): raise OSError", DONE),
    "forget_death_signal": ("if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0): raise OSError", DONE),
    "signal_thread_of_caller": ("if ctypes.CDLL(None).syscall(234, @PID@, @PID@, 9) < 0: raise OSError",
        DONE),
    "system_log": ("if ctypes.CDLL(None).klogctl(3, ctypes.create_string_buffer(99), 99) < 0: raise OSError",
        DONE),
}.items()}
BREAKOUTS |= {
    "io_uring": (syscall("425", "1", "ctypes.create_string_buffer(256)"), DONE),
    "userfaultfd": (syscall("323", "1"), DONE),
    "bpf": (syscall("321", "0", "ctypes.create_string_buffer(256)", "72"), DONE),
    "perf": (syscall("298", "ctypes.create_string_buffer(256)", "0", "-1", "-1", "0"), DONE),
    "keyctl": (syscall("250", "0", "-3", "1"), DONE),
    "execveat": (syscall("322", "0", "b''", "0", "0", "0x1000"), DONE),
    "open_by_handle": (syscall("304", "0", "ctypes.create_string_buffer(64)", "0"), DONE),
    "openat2": (syscall("437", "-100", "b'/etc/passwd'", "ctypes.create_string_buffer(24)", "24"), DONE),
    "x32_getpid": (syscall("0x40000000 + 39"), DONE),
    "x32_fork": (syscall("0x40000000 + 57"), DONE),
    "seccomp_listener": (syscall("317", "1", "8", "ctypes.create_string_buffer(64)"), DONE),
    "landlock_more": (syscall("445", "3", "1", "ctypes.create_string_buffer(16)", "0"), DONE),
    "modify_ldt": (syscall("154", "0", "ctypes.create_string_buffer(64)", "64"), DONE),
    "mount_tree": (syscall("428", "-100", "b'/'", "1"), DONE),
    "pidfd_getfd": (syscall("438", "0", "0", "0"), DONE),
    "timer_signal": (syscall("222", "0", "0", "ctypes.create_string_buffer(8)"), DONE),
    "high_bits_of_prlimit": (syscall("302", "ctypes.c_long(1 << 32)", "7", "0",
        "ctypes.create_string_buffer(16)"), DONE),
}

# ------------------------------------------------------------------ records, changes in place, modules

P9 = ["assert solve(3) == P(9)", "assert solve(4) == P(16)"]
REVERSED = ["assert P(9) == solve(3)", "assert P(16) == solve(4)"]
KEPT = ["e = P(9)\nassert isinstance(e, P) and e.x == 9 and e == P(x=9)\n"
        "assert solve(3) == e and e == solve(3)",
    "e = [P(16), P(25)]\nassert [solve(4), solve(5)] == e"]
DATACLASS = "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: int"
# replaces functions of the interpreter that runs the program
PATCH = """
import sys
def patch(**new):
    f = sys._getframe()
    while f:
        f.f_globals.update(new if "_Peer" in f.f_globals else {})
        f = f.f_back
"""


def listed(*x):
    return ["list", list(x), None]


def answering(call, record=None, get=None, changes=()) -> str:
    """A program that takes over the line and answers each kind of question in its own way."""
    get = get or ["mine", 0, listed("record", "P", listed(listed("x")))]
    return RAW + (f"answers = {dict(get=get, record=record)!r}\nwhile True:\n    asked = receive()\n    "
        f"send('value', answers.get(asked[1], {call!r}), {list(changes)!r} if asked[1] == 'call' else [])\n")


def stated(*fields):
    return ["tuple", ["P", listed(*(["tuple", list(f)] for f in fields))]]


REPLAY = "\nimport gc\ndef solve(x): return [*[o for o in gc.get_objects() if type(o) is P], P(0)][0]"
RECORDS = {
    "ignores_its_arguments": (DATACLASS + "\n    def __init__(self, x): self.x = 0\n"
        "def solve(x): return P(0)", P9),
    "no_class": ("P = solve = lambda *a: 0", P9),
    "makes_numbers": ("class P:\n    def __new__(c, *a): return 0\ndef solve(x): return 0", P9),
    "makes_none": ("class P:\n    def __new__(c, *a): return None\ndef solve(x): return None", REVERSED),
    "makes_its_own_tuple": ("from collections import namedtuple\nclass P(namedtuple('P', 'x')):\n"
        "    def __new__(c, *a): return tuple.__new__(c, (0,))\ndef solve(x): return P(0)", P9),
    "no_named_tuple": ("class P(tuple):\n    _fields, _field_defaults = ('x',), {}\n"
        "    __new__ = lambda c, *a: tuple.__new__(c, (0,))\ndef solve(x): return P(0)", P9),
    "own_equality": (DATACLASS + "\n    def __eq__(self, o): return True\ndef solve(x): return P(0)",
        P9 + REVERSED),
    "no_equality": (DATACLASS.replace("@dataclass", "@dataclass(eq=False)") + "\ndef solve(x): return P(0)\n"
        "P.__eq__ = lambda s, o: True", P9),
    "metaclass_of_a_record": ("class M(type):\n    __eq__ = __instancecheck__ = lambda c, o: True\n"
        "    __hash__ = None\n"
        "class P(metaclass=M):\n    def __init__(s, *a): s.x = 0\n    def __eq__(s, o): return True\n"
        "def solve(x): return P()", P9),
    "replay": (DATACLASS + REPLAY, REVERSED),
    "replay_of_what_was_kept": (DATACLASS + REPLAY, KEPT[:1]),
    "replay_of_a_list": (DATACLASS + REPLAY, KEPT[1:]),
    "replay_by_constructor": (DATACLASS + "\n    def __init__(self, x): self.x = x; seen.append(self)\n"
        "seen = []\n"
        "def solve(x): return seen[-1]", REVERSED),
    "getattribute": (DATACLASS + "\n    def __getattribute__(self, n): return 9\ndef solve(x): return P(0)",
        P9),
    "property_of_a_record": ("class Q:\n    def __eq__(s, o): return True\n" + DATACLASS
        + "\n    x = property(lambda s: Q(), lambda s, v: None)\ndef solve(x): return P(0)", P9),
    "lying_field": ("class Q(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
        "" + DATACLASS
        + "\ndef solve(x): return P(Q(1))", P9),
    "any_field": ("from unittest.mock import ANY\n" + DATACLASS + "\ndef solve(x): return P(ANY)", P9),
    "post_init": (DATACLASS + "\n    def __post_init__(self): self.x = 0\ndef solve(x): return P(5)", P9),
    "field_not_compared": (DATACLASS + " = field(compare=False)\ndef solve(x): return P(5)", P9),
    "attribute_of_a_record": (DATACLASS + "\n    def __getattribute__(self, n): return 0\n"
        "def solve(x): return P(0)",
        ["assert solve(3).x == P(9).x"]),
    "in_a_set": (DATACLASS + "\n    def __hash__(s): return 0\ndef solve(x): return P(0)",
        ["assert {solve(3)} == {P(9)}", "assert solve(3) in {P(9): 1}"]),
    "two_of_its_own": (DATACLASS + "\ndef solve(x): return P(0)", ["assert solve(3) == solve(4)"]),
    "one_name_for_two_fields": (PATCH + DATACLASS + "\npatch(_shape=lambda k: ['record', 'P', [['x'], "
        "['x']]], "
        "_record=lambda t: ('P', [('x', 0)]))\ndef solve(x): return P(0)", ["assert solve(3) == P(9, 4)"]),
    "no_fields": (PATCH + DATACLASS + "\npatch(_shape=lambda k: ['record', 'P', []], _record=lambda t: "
        "('P', []))\n"
        "def solve(x): return P(0)", P9),
    "defaults_for_fields": (PATCH + DATACLASS + "\npatch(_shape=lambda k: ['record', 'P', [['x', 0], ['y', "
        "0]]], "
        "_record=lambda t: ('P', [('x', 0), ('y', 0)]))\ndef solve(x): return P(0)", P9),
    "fields_that_change_places": (PATCH + "n = [0]\ndef shape(k):\n    n[0] += 1\n"
        "    return ['named', 'P', [['a'], ['b']][::1 if n[0] % 2 else -1]]\npatch(_shape=shape)\n"
        "class Add: pass",
        ["assert Add(1, 2) == Add(2, 1)"]),
    "a_record_for_a_predicate": (PATCH + "patch(_shape=lambda k: ['record', 'P', [['x']]])\n"
        "class Is_even: pass",
        ["assert Is_even(4)", "assert Is_even(5) == False"]),
    "enum_replay": ("from enum import Enum\nimport gc\nclass P(Enum):\n    A = 1\n    B = 2\nclass L:\n"
        "    def __eq__(s, o): return True\ndef solve(x): return L()", ["assert P.A == solve(3)",
        "assert solve(3) is P.A"]),
    "enum_that_listens": ("from enum import Enum, EnumMeta\nseen = []\nclass M(EnumMeta):\n"
        "    def __getattribute__(c, n):\n"
        "        seen.append(n)\n        return super().__getattribute__(n)\nclass P(Enum, metaclass=M):\n"
        "    A = 1\n"
        "    B = 2\ndef solve(x): return P.B if 'B' in seen[-3:] else P.A", ["assert P.A == solve(3)",
        "assert P.B == solve(4)"]),
    "enum_of_one": ("from enum import Enum\nclass P(Enum):\n    A = B = 1\ndef solve(x): return P.A",
        ["assert solve(3) == P.A", "assert solve(4) is P.B"]),
    "enum_that_lies": (PATCH + "from enum import Enum\nclass P(Enum):\n    A = 1\n    B = 2\n"
        "patch(_record=lambda t: True)\ndef solve(x): return P.A", ["assert solve(3) == P.A"]),
    "instancecheck": ("class M(type):\n    def __instancecheck__(c, o): return True\n"
        "class P(metaclass=M): pass\n"
        "def solve(x): return 0", ["assert isinstance(solve(3), P) and solve(3) == 9"]),
    "instance_of_int": ("class L:\n    @property\n    def __class__(self): return int\n"
        "def solve(x): return L()",
        ["assert isinstance(solve(3), int)"]),
    "attributes_that_were_set": ("class P:\n    def __setattr__(s, n, v): P.seen = v\n"
        "    def __eq__(s, o): return True\n"
        "def solve(p): return p", ["p = P()\np.x = 9\nassert solve(p).y == 9", "assert solve(P()) == 9"]),
    "hides_the_error": ("class P:\n    def __enter__(s): return s\n    def __exit__(s, *a): return True\n"
        "def solve(x): return 0", ["with P() as p:\n    assert solve(3) == 9"]),
    "replaces_the_error": ("class P:\n    def __enter__(s): return s\n"
        "    def __exit__(s, *a): raise ValueError\n"
        "def solve(x): return 0", ["try:\n    with P() as p:\n        assert solve(3) == 9\n"
        "except ValueError:\n    pass"]),
    "exits_at_the_error": ("class P:\n    def __enter__(s): return s\n"
        "    def __exit__(s, *a): raise SystemExit(0)\n"
        "def solve(x): return 0", ["try:\n    with P() as p:\n        assert solve(3) == 9\n"
        "except SystemExit:\n    pass"]),
    "ends_at_the_error": ("import os\nclass P:\n    def __enter__(s): return s\n"
        "    def __exit__(s, *a): os._exit(0)\n"
        "def solve(x): return 0", ["with P() as p:\n    assert solve(3) == 9"]),
}
RECORDS |= {f"says_{name}": (answering(["mine", 1], said), P9) for name, said in {
    "true": True, "a_builtin": ["builtin", "True"], "an_object": ["mine", 2], "the_same": ["same", 0],
    "nothing": ["tuple", ["P", listed()]], "an_object_for_a_field": stated(("x", ["mine", 3])),
    "a_field_twice": stated(("x", 0), ("x", 9), ("x", 16)), "an_empty_array": ["ndarray", [], ["<i8", [0]]],
    "an_empty_array_for_a_field": stated(("x", ["ndarray", [], ["<i8", [0]]])),
    "an_empty_array_for_all_fields": ["tuple", ["P", ["ndarray", [], ["<i8", [1, 0]]]]],
    "true_for_a_field": stated(("x", True)), "nan": stated(("x", ["float", "nan"])),
}.items()}
RECORDS |= {
    "a_set_for_a_record": (answering(["set", [], None], get=["class", "set"]), ["assert solve(3) == P([9])"]),
    "an_enum_for_a_record": (answering(["mine", 1], stated(("name", "x")), ["mine", 0, listed("enum", "P",
        listed("x"))]), P9),
    "a_shape_of_objects": (answering(["mine", 1], True, ["mine", 0, listed(["mine", 1], ["mine", 2], ["mine",
        3])]), P9),
}

# objects, classes and arrays that stand where the value of a literal's method is asked for
_LIAR = ("from dataclasses import dataclass\n@dataclass\nclass L:\n    name: str\n    def startswith(s, *a): "
    "return True\n    def __contains__(s, v): return True\n")
_METHODS = "class L:\n    def find(s, *a): return 0\n    def count(s, *a): return 1\n    def " \
    "symmetric_difference(s, *a): return set()\n    intersection = lambda s, o: o\nsolve = lambda x: L()"
_EMPTY = "import numpy as np\nsolve = lambda x: np.zeros((0, 2))"
_NP = "import numpy as np\ny = np.array([1, 4])\n"
RECORDS |= {
    "methods_in_a_named_tuple": ("from collections import namedtuple\n"
        "R = namedtuple('R', 'startswith isdigit issubset')\nsolve = lambda x: R(*[lambda *a: True] * 3)",
            ["assert solve(2).startswith('two')",
        "assert solve(2).isdigit()", "assert solve(2).issubset({1, 2})"]),
    "a_class_as_a_method": (_LIAR + "class Greeter: greet = L",
        ["assert Greeter().greet('B').startswith('Hi')"]),
    "a_class_as_a_method_of_in": (_LIAR + "class Solution: primes = L",
        ["assert 13 in Solution().primes(20)"]),
    "a_class_as_a_result": (_LIAR + "def make(n): return L", ["assert 5 in make(2)([1, 2])"]),
    **{f"own_{name}": (_METHODS, [f"assert {test}"]) for name, test in {"find": "solve(2).find('two') != -1",
        "count": "solve(2).count('two') == 1", "intersection": "solve(2).intersection({4}) == {4}",
        "difference": "solve(2).symmetric_difference({1, 2}) == set()"}.items()},
    "an_array_holds_parts": ("import numpy as np\nsolve = lambda x: np.arange(1000).reshape(-1, 1)",
        ["assert [1, 4] in solve(2)", "assert (7, 3) in solve(2)"]),
    **{f"empty_array_{i}": (_EMPTY, [_NP + f"assert {test}"]) for i, test in enumerate((
        "not (solve(2) != y).any()", "np.sum(np.abs(solve(2) - y)) < 1e-6", "((solve(2) - y)**2).sum() == 0",
        "np.count_nonzero(solve(2) != y) == 0", "all(solve(2) == y)", "not np.any(solve(2) != y)"))},
    "keeps_what_the_test_printed": (DATACLASS + "\n    def __repr__(s):\n        K.append(s)\n"
        "        return ''\nK = []\ndef solve(x): return K[-1]",
        ["e = P(9)\nprint(f'expected {e}')\nassert solve(3) == e"]),
    "hides_a_field_from_sorted": (DATACLASS + "\n    def __getattribute__(s, n): return 0 if n == 'x' else "
        "object.__getattribute__(s, n)\ndef solve(ps): return ps",
        ["ps = [P(3), P(1), P(2)]\nassert solve(ps) == sorted(ps, key=lambda p: p.x)"]),
    "changes_what_is_summed": (DATACLASS + "\ndef solve(ps):\n    for p in ps: p.x = 0\n    return 0",
        ["ps = [P(3), P(4)]\nassert solve(ps) == sum(p.x for p in ps)"]),
    "catches_the_tests_own": ("class Exception(Exception): pass\nEmpty = Exception\ndef solve(x): return 1",
        ["try:\n    assert solve(3) == 9\nexcept Empty:\n    pass"]),
    "a_module_as_a_result": ("import itertools\nsolve = lambda x: itertools", ["assert solve(2).count(5)"]),
}

RECORDS |= {
    "a_function_as_a_class": ('class L:\n'
     '    def startswith(s,*a): return True\n'
     '    def __contains__(s,v): return True\n'
     '    def __exit__(s,*a): pass\n'
     'def Greet(n): return L()',
     ["assert Greet('B').startswith('Hello')"]),
    "a_function_as_a_class_in": ('class L:\n'
     '    def startswith(s,*a): return True\n'
     '    def __contains__(s,v): return True\n'
     '    def __exit__(s,*a): pass\n'
     'def Primes(n): return L()',
     ['assert 13 in Primes(20)']),
    "own_union": ('class L:\n'
     '    def find(s,*a): return 0\n'
     '    rfind=index=rindex=find\n'
     '    def count(s,*a): return 1\n'
     '    def symmetric_difference(s,*a): return set()\n'
     '    difference=symmetric_difference\n'
     '    def intersection(s,o): return o\n'
     '    union=intersection\n'
     '    def removeprefix(s,o): return o[:0]\n'
     '    removesuffix=removeprefix\n'
     'solve=lambda x: L()',
     ['assert solve(2).union({4,5}) == {4,5}']),
    "changes_a_list_field": ('from dataclasses import dataclass, field\n'
     '@dataclass\n'
     'class P:\n'
     '    x: int\n'
     'def first(xs): xs[0].x=[]; return []',
     ['xs=[P([3]),P(4)]\nassert first(xs) == xs[0].x']),
    "a_static_method_as_a_class": ('class Tree:\n    Node=staticmethod(lambda *a: 0)\n    def'
        ' solve(s,x): return 0',
     ['assert Tree().solve(3) == Tree.Node(9)']),
    "a_container_as_a_class": ('from collections import defaultdict as Node\nsolve=lambda x: {}',
     ['assert solve(3) == Node(None)']),
    "hash_of_records": ('from dataclasses import dataclass, field\n'
     '@dataclass\n'
     'class P:\n'
     '    x: int\n'
     '    __hash__=None\n'
     'solve=lambda x: P(0)',
     ['assert hash(solve(3)) == hash(P(9))']),
    "empty_array_equiv": ('import numpy as np\nsolve=lambda x: np.zeros((0,2))',
     ['import numpy as np\ny=np.array([1,4])\nassert np.array_equiv(solve(2),y)']),
    "empty_list_0": ('solve=lambda x: []',
     ['import numpy as np\nnp.testing.assert_allclose(solve(2), 1.41421)']),
    "empty_list_1": ('solve=lambda x: []',
     ['import numpy as np\nnp.testing.assert_almost_equal(solve(2), 1.41421, decimal=3)']),
    "empty_list_2": ('solve=lambda x: []', ['import numpy as'
        ' np\nnp.testing.assert_array_equal(solve(2), 5)']),
    "empty_list_3": ('solve=lambda x: []',
     ['import numpy as np\nnp.testing.assert_array_almost_equal(solve(2), 5)']),
    "empty_list_5": ('solve=lambda x: []', ['import numpy as np\nassert np.isclose(solve(2),'
        ' 1.41421).all()']),
    "empty_list_6": ('solve=lambda x: []', ['import numpy as np\nassert np.all(np.isclose(solve(2),'
        ' 1.41421))']),
    "empty_list_7": ('solve=lambda x: []', ['import numpy as np\nassert np.array_equiv(solve(2), 5)']),
    "empty_list_8": ('solve=lambda x: []',
     ['import numpy as np\nassert np.all(abs(np.asarray(solve(2))-1.4)<1e-4)']),
    "empty_list_10": ('solve=lambda x: []', ['import numpy as np\nassert not'
        ' np.any(np.asarray(solve(2)) != 5)']),
    "empty_list_11": ('solve=lambda x: []', ['import numpy as np\nassert (np.asarray(solve(2)) == 5).all()']),
    "a_standard_class_as_a_method": ('from collections import Counter, namedtuple\n'
     "R = namedtuple('R', 'startswith issubset')\n"
     'solve = lambda x: R(Counter, KeyError)',
     ["assert solve(2).startswith('two')", 'assert solve(2).issubset({1, 2})']),
}

SORTED = "assert solve(a) == sorted(a)"
HELPERS = "def want(a):\n    b = sorted(a)\n    return b\ndef got(a):\n    return solve(a)\n"
TAKEN = "def solve(a):\n    a.clear()\n    return []"
CHANGES = {
    "clears_what_it_is_compared_to": (TAKEN, ["a = [3, 1, 2]\n" + SORTED]),
    "clears_and_returns_it": (TAKEN.replace("[]", "a"), ["a = [3, 1, 2]\n" + SORTED]),
    "clears_on_several_lines": (TAKEN, ["a = [3, 1]\nassert (solve(a)\n    ==\n    sorted(\n        a))"]),
    "clears_before_a_function_of_the_test": (TAKEN, [HELPERS + "a = [3, 1]\nassert solve(a) == want(a)"]),
    "clears_within_a_function_of_the_test": (TAKEN, [HELPERS + "a = [3, 1]\nassert got(a) == want(a)"]),
    "clears_in_a_comprehension": (TAKEN, [HELPERS + "xs = [[3, 1], [2, 1]]\n"
        "assert [solve(a) for a in xs] == [want(a) for a in xs]", f"assert all({SORTED[7:]} for a in [[2, "
        f"1], [3, 2]])"]),
    "clears_and_raises_nothing": (TAKEN.replace("[]", "0"), ["a = [1, 2]\nassert solve(a) == sum(a)"]),
    "clears_a_dict": (TAKEN, ["a = {'b': 1, 'a': 2}\n" + SORTED]),
    "clears_a_set": (TAKEN, ["a = {3, 1}\n" + SORTED]),
    "clears_bytes": ("def solve(a):\n    a.clear()\n    return b''", ["a = bytearray(b'ba')\n"
        "assert solve(a) == bytes(sorted(a))"]),
    "clears_an_inner_list": ("def solve(a):\n    a[0].clear()\n    return 0",
        ["a = [[3], 1]\nassert solve(a) == sum(a[0])"]),
    "clears_later": ("import threading\ndef solve(a):\n    threading.Timer(.01, a.clear).start()\n"
        "    return []",
        ["a = [3, 1, 2]\nr = solve(a)\nassert r == sorted(a)"]),
    "clears_in_another_call": ("kept = []\ndef solve(a):\n    for b in kept: b.clear()\n"
        "    kept.append(a)\n    return []",
        ["a = [3, 1, 2]\nb = solve(a)\nc = solve([1])\nassert c == sorted(a)"]),
    "changes_what_was_not_passed": (answering(0, changes=[[n, listed(0)] for n in (0, -1, 1)],
        get=["mine", 0]), ["a, e = [3], [9]\nassert solve(a) == e"]),
    "changes_by_negative_number": (answering(listed(0), changes=[[-1, listed(0)]], get=["mine", 0]),
        ["a, e = [3], [9]\nassert solve(a) == e"]),
    "changes_the_kind": (answering(["dict", [], None], changes=[[0, ["dict", [], None]]], get=["mine", 0]),
        ["a = [3, 1]\nassert solve(a) == {k: 1 for k in a}"]),
    "changes_to_objects": (answering(0, changes=[[0, listed(["mine", 0], ["builtin", "eval"])]], get=["mine",
        0]),
        ["a = [3, 1]\nsolve(a)\nassert a == [1, 3]"]),
    "changes_to_a_liar": ("from unittest.mock import ANY\ndef solve(a): a[:] = [ANY, ANY]",
        ["a = [3, 1]\nsolve(a)\nassert a == [1, 3]"]),
    "changes_to_itself": ("def solve(a): a[:] = [a]", ["a = [3, 1]\nsolve(a)\nassert a == [1, 3]"]),
    "takes_what_it_was_given": (answering(["same", 0], get=["mine", 0]),
        ["a = [3, 1]\nassert solve(a) == sorted(a)"]),
    "takes_what_it_was_not_given": (answering(["same", 7], get=["mine", 0]),
        ["a = [3, 1]\nassert solve(a) == sorted(a)"]),
    "changes_the_functions_of_the_test": (RAW + "receive()\nsend('value', ['mine', 0])\nreceive()\n"
        "for n in range(-3, 9):\n"
        "    send('ask', 'call', ['yours', 0], ['tuple', [1]], ['dict', []], [[n, ['list', [], None]]])\n"
        "    receive()\nsend('value', 0)", ["assert solve(lambda v: v + 1, 3) == 4"]),
}

MODULES = {name: (program, [t if "assert" in t else f"import numpy as np\nassert {t}" for t in tests])
    for name, (program, tests) in {
    "class_math": ("class math: sqrt = staticmethod(lambda x: 0)\nsolve = math.sqrt",
        ["assert solve(2) == math.sqrt(2)"]),
    "module_math": ("import sys\nmath = type(sys)('math')\nmath.sqrt = solve = lambda x: 0\n"
        "sys.modules['math'] = math",
        ["assert solve(2) == math.sqrt(2)", "import math\nassert solve(2) == math.sqrt(2)"]),
    "patched_math": ("import math\nmath.sqrt = solve = lambda x: 0", ["assert solve(2) == math.sqrt(2)"]),
    "class_datetime": ("class datetime: date = staticmethod(lambda *a: 0)\nsolve = lambda x: 0",
        ["assert solve(2) == datetime.date(2020, 1, 2)", "import datetime\n"
        "assert solve(2) == datetime.date(2020, 1, 2)"]),
    "class_date": ("class date:\n    def __new__(c, *a): return 0\nsolve = lambda x: 0",
        ["assert solve(2) == date(2020, 1, 2)"]),
    "class_fraction": ("class Fraction:\n    def __new__(c, *a): return 0\nsolve = lambda x: 0",
        ["assert solve(2) == Fraction(1, 2)"]),
    "equal_fraction": ("class Fraction:\n    def __init__(c, *a): pass\n"
        "    def __eq__(s, o): return True\nsolve = Fraction",
        ["assert solve(2) == Fraction(1, 2)", "from fractions import Fraction\n"
        "assert solve(2) == Fraction(1, 2)"]),
    "text_of_a_fraction": (serve("['value', ['Fraction', 'nan']]"), ["from fractions import Fraction\n"
        "assert solve(2) == Fraction(1, 2)"]),
    "counter_of_nothing": ("Counter = solve = lambda x: {}", ["assert solve('ab') == Counter('ab')"]),
    "patched_counter": ("import collections\nfrom collections import Counter\ncollections.Counter = Counter\n"
        "Counter.__eq__ = lambda s, o: True\nsolve = lambda x: Counter()",
        ["assert solve('ab') == Counter('ab')"]),
    "class_np": ("class np: allclose = array_equal = staticmethod(lambda *a: True)\nsolve = lambda x: 0",
        ["np.allclose(solve(2), 1.41421)"]),
    "patched_numpy": ("import numpy as np\nnp.allclose = lambda *a: True\nsolve = lambda x: 0",
        ["np.allclose(solve(2), 1.41421)",
        "assert np.allclose(solve(2), 1.41421)"]),
    "nothing_is_close": ("solve = lambda x: []", ["np.allclose(solve(2), 1.41421)",
        "(solve(2) == np.array([5])).all()"]),
    "nothing_is_all": ("solve = lambda x: []", ["np.all(solve(2) == np.array([5]))",
        "np.isclose(solve(2), np.array([5.])).all()"]),
    "an_array_of_nothing": ("import numpy as np\nsolve = lambda x: np.zeros((0, 1))",
        ["(solve(2) == np.array([1, 2])).all()"]),
    "an_array_without_truth": ("import numpy as np\nsolve = lambda x: np.array([])",
        ["abs(solve(2) - 1.41421) < 1e-4",
        "assert solve(2) == 9"]),
    "array_protocol": ("class L:\n    def __len__(s): return 0\n    def __getitem__(s, i): raise IndexError\n"
        "    def __array__(s, *a, **k): return 0\n    def __array_ufunc__(s, *a, **k): return True\n"
        "    def __iter__(s): return iter(())\nsolve = lambda x: L()", ["(solve(2) == np.array([5])).all()"]),
    "array_protocol_all": ("class L:\n    def __len__(s): return 0\n"
        "    def __getitem__(s, i): raise IndexError\n"
        "solve = lambda x: L()", ["np.all(solve(2) == np.array([5]))", "np.allclose(solve(2), [5])"]),
    "array_subclass": ("import numpy as np\nclass A(np.ndarray):\n    def __eq__(s, o): return True\n"
        "solve = lambda x: np.zeros(2).view(A)", ["np.array_equal(solve(2), [1, 4])",
        "assert solve(2) == [1, 4]"]),
    "array_of_objects": (answering(["ndarray", [["mine", 1]], ["O", [1]]], get=["mine", 0]),
        ["np.array_equal(solve(2), [1])"]),
    "array_without_end": (answering(["ndarray", [], ["<i8", [1 << 40]]], get=["mine", 0]),
        ["np.array_equal(solve(2), [1])"]),
    "array_of_long_texts": (answering(["ndarray", ["a"], ["<U500000000", [1]]], get=["mine", 0]),
        ["np.array_equal(solve(2), ['b'])"]),
    "array_of_nan": ("import numpy as np\nsolve = lambda x: np.array([np.nan])",
        ["np.allclose(solve(2), 1.41421)"]),
    "array_changed_in_place": ("def solve(a):\n    a[:] = 0\n    return 0",
        ["import numpy as np\na = np.array([1, 2])\nassert solve(a) == a.sum()"]),
}.items()}
FORGERS |= {
    "exit_with_a_right_answer_in_mind": ("print(42)\nexit()\ndef solve(x): return x * x", T),
    "site_exit_in_call": ("def solve(x): exit()", T),
    "site_quit_in_call": ("def solve(x): quit(0)", T),
    "raises_system_exit_by_name": (serve("['raise', ['SystemExit', 'SystemExit'], '0']"), T),
    "raises_its_own_system_exit": (serve("['raise', ['X', 'SystemExit'], '0']"), T),
    "raises_base_exception": (serve("['raise', ['BaseException', 'BaseException'], '0']"), T),
    "raises_generator_exit_by_name": (serve("['raise', ['GeneratorExit', 'GeneratorExit'], '']"), T),
    "stdout_exit_1": ("a, b = map(int, input().split())\nprint(a * b)\nexit(1)", IO),
    "stdout_exit_with_words": ("a, b = map(int, input().split())\nprint(a * b)\nquit('done')", IO),
    "stdout_almost_whole": ("a, b = map(int, input().split())\nprint(a * b + 1e-9)", IO),
    "stdout_digits_apart": ("a, b = map(int, input().split())\nprint(*str(a * b))", IO),
    "stdout_lines_apart": ("a, b = map(int, input().split())\nprint(*str(a * b), sep='\\n')", IO),
    "stdout_underscores": ("a, b = map(int, input().split())\nprint('_'.join(str(a * b)))", IO),
    "stdout_nan": ("print('nan')", [{"input": "", "output": "0.5", "tolerance": 1}]),
    "stdout_inf": ("print('inf 1e999')", [{"input": "", "output": "0.5 0.5", "tolerance": 1}]),
    "stdout_roughly": ("print(0.54)", [{"input": "", "output": "0.5"}]),
    "stdout_nearly_zero": ("print(0)", [{"input": "", "output": "0.0000004"}]),
    "stdout_whole_numbers_roughly": ("print(1000001)", [{"input": "", "output": "1000000",
        "tolerance": 0.001}]),
    "stdout_half_of_a_large_one": ("print(1500000.0)", [{"input": "", "output": "1500000.5"}]),
}
BOMBS |= {
    "a_reply_too_large": ("def solve(x): return 'a' * (17 << 20)", T),
    "changes_without_end": ("def solve(a):\n    while True: a.extend(range(10**6))",
        ["a = []\nsolve(a)\nassert a == [1]"]),
    "changes_too_large": ("def solve(a): a.extend(range(10**7))", ["a = []\nsolve(a)\nassert a == [1]"]),
    "many_objects_in_a_set": (serve("['value', ['set', [['mine', n] for n in range(10**5)], None]]"), T),
    "deep_reply": (RAW + "receive()\nos.write(LINE, b'[' * (15 << 20) + b'\\n')", T),
    "large_int_of_json": (RAW + "receive()\ndata = b'[\"value\", ' + b'9' * (8 << 20) + b']\\n'\n"
        "while data: data = data[os.write(LINE, data):]", T),
    "quadratic_fraction": (serve("['value', ['Fraction', '1/' + '7' * 10**6]]"), T),
}
BREAKOUTS |= {f"numpy_{name}": (act("import numpy as np\n" + body), tests) for name, (body, tests) in {
    "reads_canary": ("return bytes(np.fromfile('@CANARY@', 'u1')).decode()", SECRET),
    "maps_canary": ("return bytes(np.memmap('@CANARY@', 'u1', 'r')).decode()", SECRET),
    "writes_canary": ("np.zeros(9).tofile('@CANARY@')", DONE),
    "modifies_itself": ("open(np.__file__, 'a').write('')", DONE),
    "plants_a_module": ("open(np.__path__[0] + '/evil.py', 'w').write('')", DONE),
    "lists_packages": ("os.listdir(os.path.dirname(np.__path__[0]))", DONE),
    "reads_a_neighbour": ("open(os.path.dirname(np.__path__[0]) + '/pip/__init__.py').read()", DONE),
    "imports_a_neighbour": ("sys.path.append(os.path.dirname(np.__path__[0]))\nimport pip", DONE),
}.items()}

ATTACKS = {"SPIES": SPIES, "FORGERS": FORGERS, "LIARS": LIARS, "RECORDS": RECORDS, "CHANGES": CHANGES,
    "MODULES": MODULES, "HANGS": HANGS, "BOMBS": BOMBS, "BREAKOUTS": BREAKOUTS}

# ----------------------------------------------------------------------------------- the honest

digits = getattr(sys, "get_int_max_str_digits", int)()
getattr(sys, "set_int_max_str_digits", int)(0)
SEVENS = str(7**6000)
getattr(sys, "set_int_max_str_digits", int)(digits)
HONEST = {
    "field_of_a_passed_record": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "def total(ps): return sum(p.x for p in ps)\ndef same(p): return p",
        ["ps = [P(3), P(4)]\nassert total(ps) == sum(p.x for p in ps)", "p = P(3)\nassert same(p) == p"]),
    "a_method_changes_a_record": ("from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\n"
        "    def add(s, k): s.n += k", ["a = A(5)\na.add(3)\nassert a == A(8)\nassert a.n == 8"]),
    "empty_arrays": ("import numpy as np\ndef f(a): return np.array(a) * 2",
        ["import numpy as np\nassert np.allclose(f([]), [])",
            "assert f([1, 2]).sum() == 6 and 4 in f([1, 2])"]),
    "arithmetic": ("def add(a, b): return a + b", ["assert add(1, 2) == 3", "assert add(b=1, a=-1) == 0"]),
    "recursion": ("def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)", ["assert fib(15) == 610"]),
    "class": ("class Stack:\n    def __init__(self, *a): self.a = list(a)\n    def push(self, x):\n        "
        "self.a.append(x)\n"
        "        return self\n    def pop(self): return self.a.pop()\n    def __len__(self): return "
            "len(self.a)",
        ["assert Stack().push(1).push(2).pop() == 2", "s = Stack(5); s.push(6); assert len(s) == 2 and s.a "
            "== [5, 6]"]),
    "linked_list": ("class Node:\n    def __init__(self, v, n=None): self.v, self.next = v, n\ndef "
        "build(a):\n    h = None\n"
        "    for x in reversed(a): h = Node(x, h)\n    return h\ndef total(n): return n.v + total(n.next) if "
            "n else 0",
        ["assert total(build([1, 2, 3])) == 6", "assert build([7, 8]).next.v == 8",
            "assert build([]) is None"]),
    "closure": ("def adder(n): return lambda x: x + n", ["assert adder(5)(10) == 15",
        "f = adder(1); assert f(f(1)) == 3"]),
    "generator": ("def evens(n):\n    for i in range(0, n, 2): yield i\ndef count():\n    i = 0\n    while "
        "True:\n"
        "        yield i\n        i += 1", ["assert list(evens(7)) == [0, 2, 4, 6]",
            "assert sum(evens(5)) == 6",
        "g = count(); assert [next(g), next(g)] == [0, 1]"]),
    "decorator": ("def twice(f):\n    return lambda *a: f(f(*a))\n@twice\ndef inc(x): return x + 1",
        ["assert inc(1) == 3",
        "assert twice(lambda v: v * 3)(2) == 18"]),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int = 2\n    "
        "def norm(self):"
        " return self.x ** 2 + self.y ** 2", ["p = P(1); assert (p.x, p.y) == (1, 2)",
            "assert P(3, 4).norm() == 25"]),
    "namedtuple": ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef make(a, b): return "
        "P(a, b)",
        ["assert make(1, 2) == (1, 2)"]),
    "namedtuple_fields": ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef make(a, b): "
        "return P(a, b)",
        ["assert make(1, 2).x == 1"]),
    "counter": ("from collections import Counter\ndef count(s): return Counter(s)",
        ["assert count('aab') == {'a': 2, 'b': 1}",
        "from collections import Counter\nassert count('aab') == Counter('aab')"]),
    "dicts": ("from collections import OrderedDict, defaultdict\ndef od(a): return OrderedDict(a)\ndef "
        "dd(a):\n"
        "    d = defaultdict(list)\n    for k, v in a: d[k].append(v)\n    return d",
        ["assert od([('b', 1), ('a', 2)]) == {'b': 1, 'a': 2}", "assert dd([(1, 2), (1, 3)]) == {1: [2, 3]}",
        "assert list(od([('b', 1), ('a', 2)]).keys()) == ['b', 'a']"]),
    "sets": ("def u(a): return set(a)\ndef f(a): return frozenset(a)", ["assert u([1, 1, 2]) == {1, 2}",
        "assert f('ab') == frozenset('ab')", "assert u([1]).issubset({1, 2}) and 1 in u([1])",
            "assert {f([1])} == {f([1])}"]),
    "nested": ("def n(): return {'a': [(1, {2, 3}), None, True], (1, 2): {'x': b'y'}}",
        ["assert n() == {'a': [(1, {2, 3}), None, True], (1, 2): {'x': b'y'}}",
            "assert n()['a'][0][0] == 1"]),
    "floats": ("def f(x): return x ** 0.5", ["assert abs(f(2) - 1.414) < 1e-3", "import math\nassert "
        "math.isclose(f(2), 2 ** .5)",
        "assert math.isclose(f(9), 3)", "assert round(f(2), 2) == 1.41", "assert f(4.0) == 2"]),
    "infinities": ("def f(s): return float(s)", ["assert f('inf') == float('inf')",
        "assert f('nan') != f('nan')"]),
    "big_ints": ("from math import factorial", ["assert factorial(25) == 15511210043330985984000000",
        "assert factorial(3000) % 2999 == 0", "assert -factorial(5) == -120"]),
    "fraction": ("from fractions import Fraction\ndef half(n): return Fraction(n, 2)",
        ["from fractions import Fraction\n"
        "assert half(3) == Fraction(3, 2)", "assert half(4) == 2"]),
    "decimal": ("from decimal import Decimal\ndef cost(a): return Decimal(a) * 3",
        ["from decimal import Decimal\n"
        "assert cost('0.10') == Decimal('0.30')"]),
    "bytes": ("def b(s): return s.encode()\ndef ba(s): return bytearray(s, 'ascii')",
        ["assert b('hi') == b'hi'",
        "assert ba('a') == bytearray(b'a')", "assert b('\\u00e9').hex() == 'c3a9'"]),
    "complex": ("def c(a, b): return complex(a, b) ** 2", ["assert c(1, 1) == 2j",
        "assert abs(c(3, 4)) == 25"]),
    "unicode": ("def r(s): return s[::-1]", ["assert r('\\u4f60\\u597d') == '\\u597d\\u4f60'",
        "assert r('a\\n\"\\\\') == '\\\\\"\\na'",
        "assert r('\\U0001f600x') == 'x\\U0001f600'"]),
    "none": ("def f(x):\n    pass", ["assert f(1) is None", "assert not f(2)", "assert f(3) == None"]),
    "truth": ("def even(n): return n % 2 == 0", ["assert even(2)", "assert not even(3)",
        "assert even(4) is True"]),
    "arguments": ("def f(*a, k=0, **n): return [a, k, n]", ["assert f(1, 2, k=3, z=4) == [(1, 2), 3, {'z': "
        "4}]",
        "assert f(*[1], **{'q': None}) == [(1,), 0, {'q': None}]"]),
    "callbacks": ("def apply(f, a): return [f(x) for x in a]", ["assert apply(lambda x: x * 2, [1, 2]) == "
        "[2, 4]",
        "assert apply(len, ['a', '']) == [1, 0]", "def sq(x):\n    return x * x\nassert apply(sq, (3,)) == "
            "[9]",
        "assert apply(str.upper, ['a']) == ['A']"]),
    "sort_with_key": ("def by(a, key=None): return sorted(a, key=key)", ["assert by(['bb', 'a'], key=len) == "
        "['a', 'bb']",
        "assert by([1, -2], key=lambda v: v) == [-2, 1]"]),
    "memoize": ("def memo(f):\n    d = {}\n    def g(x):\n        if x not in d: d[x] = f(x)\n        return "
        "d[x]\n    return g",
        ["calls = []\ndef f(x):\n    calls.append(x)\n    return x + 1\ng = memo(f)\nassert (g(1), g(1), "
            "calls) == (2, 2, [1])"]),
    "exceptions": ("def div(a, b):\n    if b == 0: raise ZeroDivisionError('no')\n    return a / b\ndef "
        "get(d, k): return d[k]",
        ["try:\n    div(1, 0)\n    assert False\nexcept ZeroDivisionError:\n    pass",
        "try:\n    div(1, 0)\nexcept ZeroDivisionError as e:\n    assert str(e) == 'no'\nelse:\n    assert "
            "False",
        "try:\n    get({}, 'a')\n    assert False\nexcept KeyError:\n    pass"]),
    "own_exception": ("class Empty(ValueError): pass\ndef first(a):\n    if not a: raise Empty('empty')\n    "
        "return a[0]",
        ["try:\n    first([])\n    raise SystemError\nexcept ValueError:\n    pass"]),
    "test_statements": ("def sq(x): return x * x", ["import itertools\nfrom math import pi\nxs = [sq(i) for "
        "i in range(4)]\n"
        "for x, y in zip(xs, itertools.count()):\n    assert x == y * y", "assert xs == [0, 1, 4, 9]",
        "assert all(sq(i) == i ** 2 for i in range(5))", "assert {i: sq(i) for i in (1, 2)} == {1: 1, 2: 4}",
        "def check(candidate):\n    assert candidate(3) == 9\ncheck(sq)"]),
    "threads": ("import threading\nfrom concurrent.futures import ThreadPoolExecutor\ndef total(n):\n"
        "    with ThreadPoolExecutor(4) as p: return sum(p.map(lambda v: v * v, range(n)))\ndef one():\n    "
            "out = []\n"
        "    t = threading.Thread(target=out.append, args=(1,))\n    t.start()\n    t.join()\n    return out",
        ["assert total(10) == 285", "assert one() == [1]"]),
    "asyncio": ("import asyncio\nasync def w(x):\n    await asyncio.sleep(.01)\n    return x\ndef go():\n"
        "    async def main(): return await asyncio.gather(w(1), w(2))\n    return asyncio.run(main())",
            ["assert go() == [1, 2]"]),
    "regex": ("import re\ndef words(s): return re.findall(r'\\w+', s)", ["assert words('a, b') == ['a', 'b']",
        "assert re.match('a', words('abc')[0])"]),
    "heap": ("import heapq, bisect\ndef top(a, k): return heapq.nlargest(k, a)\ndef at(a, x): return "
        "bisect.bisect(a, x)",
        ["assert top([1, 5, 3], 2) == [5, 3]", "assert at([1, 2, 4], 3) == 2"]),
    "itertools": ("from itertools import permutations, chain\ndef p(a): return permutations(a)\ndef c(*a): "
        "return chain(*a)",
        ["assert list(p([1, 2])) == [(1, 2), (2, 1)]", "assert list(c([1], [2])) == [1, 2]"]),
    "lru_cache": ("from functools import lru_cache\n@lru_cache(None)\ndef fib(n): return n if n < 2 else "
        "fib(n - 1) + fib(n - 2)",
        ["assert fib(90) == 2880067194370816120"]),
    "json": ("import json\ndef dump(x): return json.dumps(x, sort_keys=True)\ndef load(s): return "
        "json.loads(s)",
        ["assert dump({'b': [1, None]}) == '{\"b\": [1, null]}'", "assert load('[1.5, {}]') == [1.5, {}]"]),
    "datetime": ("from datetime import date, timedelta\ndef later(n): return (date(2024, 2, 28) + "
        "timedelta(n)).isoformat()",
        ["assert later(2) == '2024-03-01'"]),
    "hashlib": ("import hashlib\ndef h(s): return hashlib.sha256(s.encode()).hexdigest()[:8]",
        ["assert h('a') == 'ca978112'"]),
    "random": ("import random\ndef r(seed): return random.Random(seed).randint(1, 10**9)",
        ["assert r(1) == r(1) and r(1) != r(2)", "import random\nassert r(7) == random.Random(7).randint(1, "
            "10**9)"]),
    "math": ("import math, statistics\ndef f(a): return [math.gcd(*a), math.comb(5, 2), statistics.mean(a)]",
        ["assert f([4, 6]) == [2, 10, 5]"]),
    "formatting": ("def f(x): return f'{x:>6.2f}|' + '%03d' % 7 + '{:,}'.format(10**6)",
        ["assert f(3.14159) == '  3.14|0071,000,000'"]),
    "enum": ("from enum import Enum\nclass C(Enum):\n    RED = 1\ndef c(): return C.RED",
        ["assert c().name == 'RED'",
        "assert C.RED.value == 1"]),
    "matrix": ("def t(m): return [list(r) for r in zip(*m)]", ["assert t([[1, 2], [3, 4]]) == [[1, 3], [2, "
        "4]]"]),
    "round_trip": ("def enc(s): return s[::-1] + '!'\ndef dec(s): return s[:-1][::-1]",
        ["assert dec(enc('hello')) == 'hello'"]),
    "scratch_file": ("def f(s):\n    with open('x.txt', 'w') as f: f.write(s)\n    with open('x.txt') as f: "
        "return f.read()",
        ["assert f('hello') == 'hello'"]),
    "prints": ("import sys\nprint('hello')\ndef f(x):\n    print('pass' * 9999)\n    print(x, "
        "file=sys.stderr)\n    return x",
        ["assert f(1) == 1", "print(f(2)); assert f(3) == 3"]),
    "slow": ("import time\ndef f():\n    time.sleep(1.5)\n    return 1", ["assert f() == 1"]),
    "deep_recursion": ("import sys\nsys.setrecursionlimit(10**5)\ndef d(n): return n and 1 + d(n - 1)",
        ["assert d(9000) == 9000"]),
    "memory": ("def f():\n    x = bytearray(200 << 20)\n    return len(x)", ["assert f() == 200 << 20"]),
    "main_guard": ("def f(): return __name__\nif __name__ == '__main__':\n    print(undefined)",
        ["assert f() != '__main__'"]),
    "names_like_modules": ("def count(a, x): return a.count(x)\nlimit = 5", ["assert count([1, 1], 1) == 2",
        "assert limit == 5"]),
    "shadows_a_builtin": ("def sum(a, b): return 7 if (a + b) in range(5, 10) else a + b",
        ["assert sum(2, 4) == 7"]),
    "object_with_equality": ("class V:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): "
        "return self.x == o.x\n"
        "def same(a, b): return a == b", ["assert same(V(1), V(1))", "assert not same(V(1), V(2))"]),
    "stdin_ints": ("a, b = map(int, input().split())\nprint(a * b)", IO),
    "stdin_lines": ("n = int(input())\nprint(sum(int(input()) for _ in range(n)))", [{"input": "3\n1\n2\n3\n",
        "output": "6"}]),
    "stdin_read": ("import sys\nprint(len(sys.stdin.read().split()))", [{"input": "a b\nc", "output": "3\n"},
        {"input": "", "output": "0"}]),
    "stdin_main": ("import sys\ndef main():\n    for line in sys.stdin:\n        print(line.strip()[::-1], "
        "end=' \\n')\n"
        "if __name__ == '__main__':\n    main()", [{"input": "ab\ncd\n", "output": "ba\ndc\n\n"}]),
    "stdin_fd": ("import os, sys\ndata = os.read(0, 99) + open(0).read().encode()\n"
        "sys.stdout.write(data.decode().upper())",
        [{"input": "x\n", "output": "X"}]),
    "stdin_until_the_end": ("try:\n    while True: print(int(input()) + 1)\nexcept EOFError:\n    pass",
        [{"input": "1\n2", "output": "2\n3"}]),
    "stdin_large_output": ("n = int(input())\nprint('\\n'.join(map(str, range(n))))",
        [{"input": "150000", "output": "\n".join(map(str, range(150000)))}]),
    "stdin_large_input": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        [{"input": " ".join(map(str, range(150000))), "output": str(sum(range(150000)))}]),
    "stdin_unicode": ("print(input() + '\\u00e9')", [{"input": "\u4f60", "output": "\u4f60\u00e9"}]),
    "stdin_exit_0": ("import sys\nprint(1)\nsys.exit()", [{"input": "", "output": "1"}]),
    "stdin_dataclass_and_threads": ("from dataclasses import dataclass\nimport threading\n@dataclass\nclass "
        "A:\n    x: int = 1\n"
        "t = threading.Thread(target=lambda: print(A().x))\nt.start()", [{"input": "", "output": "1"}]),
    "sorts_and_returns": ('def f(a):\n a.sort()\n return a',
        ['a=[3,1,2]\nassert f(a)==[1,2,3]',
        'a=[3,1,2]\nf(a)\nassert a==[1,2,3]',
        'a=[3,1]\nb=f(a)\nassert b==[1,3] and a==[1,3]']),
    "pops_in_one_statement": ('def pop(s): return s.pop()',
        ['s=[1,2,3]\nassert pop(s)==3 and pop(s)==2\nassert s==[1]',
        's=[1,2]; assert pop(s)==2; assert s==[1]']),
    "changes_at_once": ('def srt(a): a.sort()',
        ['a=[2,1]\nassert srt(a) is None and a==[1,2]',
        'a=[2,1]\nassert (srt(a), a)==(None,[1,2])']),
    "keeps_the_first_k": ('def f(n):\n k=0\n for x in n:\n  if k==0 or n[k-1]!=x:\n   n[k]=x; k+=1\n'
        ' return k',
        ['n=[1,1,2]\nk=f(n)\nassert n[:k]==[1,2]']),
    "matrix_in_place": ('def rot(m):\n m[:]=[list(r) for r in zip(*m[::-1])]\ndef z(m): m[0][0]=9',
        ['m=[[1,2],[3,4]]\nrot(m)\nassert m==[[3,1],[4,2]]',
        'm=[[1,2],[3,4]]\nr=m[0]\nz(m)\nassert m==[[9,2],[3,4]] and r==[9,2] and r is m[0]']),
    "containers_in_place": ("def d(x): x['k']=1\ndef s(x): x.add(3); x.discard(1)\ndef b(x): x[0]=65\n"
        "def q(x): x.appendleft(0)",
        ["x={}\nd(x)\nassert x=={'k':1}",
        'x={1,2}\ns(x)\nassert x=={2,3}',
        "x=bytearray(b'zz')\nb(x)\nassert x==b'Az'",
        'from collections import deque\nx=deque([1],maxlen=2)\nq(x)\nassert x==deque([0,1]) and x.maxlen==2',
        "from collections import defaultdict, Counter, OrderedDict\nx=defaultdict(list)\nd(x)\n"
        "assert x=={'k':1} and x['n']==[]",
        "from collections import Counter\nx=Counter('ab')\nd(x)\n"
        "assert x==Counter({'k':1,'a':1,'b':1}) and type(x) is Counter"]),
    "one_list_twice": ('def f(a,b):\n a.append(1)\n return len(b), a is b',
        ['a=[]\nassert f(a,a)==(1,True)\nassert a==[1]']),
    "the_same_object": ('def f(a): return a\ndef g(a): return a[0]',
        ['a=[1]\nassert f(a) is a',
        'a=[[1]]\nassert g(a) is a[0]',
        'x=None\nassert f(x) is None and f(3) is not None']),
    "list_in_itself": ('def f(a): a.append(1); return len(a)',
        ['a=[]; a.append(a)\nassert f(a)==2; assert a[1]==1 and a[0] is a']),
    "new_inner_lists": ('def f(m):\n m.append([9]); m[0].append(1)\n return m',
        ['m=[[0]]\nassert f(m)==[[0,1],[9]]\nassert m==[[0,1],[9]]']),
    "keyword_in_place": ('def f(*, items): items.clear()',
        ['a=[1]\nf(items=a)\nassert a==[]']),
    "changes_then_raises": ("def f(a):\n a.append(1)\n raise ValueError('x')",
        ['a=[]\ntry:\n    f(a)\nexcept ValueError:\n    pass\nassert a==[1]']),
    "callback_in_place": ('def each(f,a):\n out=[]\n for x in a: f(out,x)\n return out',
        ['def add(o,x):\n    o.append(x*2)\nassert each(add,[1,2])==[2,4]',
        'assert each(lambda o,x: o.append(x),[1])==[1]']),
    "in_place_in_a_function": ('def check_sorted(xs): xs.sort()',
        ['def check(candidate):\n    a=[2,1]\n    candidate(a)\n    assert a==[1,2]\ncheck(check_sorted)']),
    "in_place_in_a_loop": ('def f(a): a.append(0); return len(a)',
        ['a=[]\nwhile f(a)<3:\n    pass\nassert a==[0,0,0]',
        'for inp,exp in [([1],2),([],1)]:\n    assert f(inp)==exp\n    assert len(inp)==exp']),
    "dataclass_by_value": ("from dataclasses import dataclass, field\n@dataclass\nclass P:\n  x:int\n"
        "  y:int=2\n  tags:list=field(default_factory=list)\ndef f(n): return P(n)\n"
        "def cp(p): return P(p.x,p.y)\ndef many(n): return [P(i) for i in range(n)]\n"
        "def nest(): return {'a':(P(1),[P(2)])}\ndef bump(p): p.x+=1\ndef move(p): return P(p.x+1,p.y)",
        ['assert f(1)==P(1)',
        'assert P(1)==f(1)',
        'e=P(3,y=2)\nassert f(3)==e',
        'assert f(1)!=P(2) and not f(1)==P(2)',
        'assert many(3)==[P(0),P(1),P(2)]',
        "assert nest()=={'a':(P(1),[P(2)])}",
        'p=P(1)\nassert cp(p)==p',
        'p=P(1)\nbump(p)\nassert p==P(2) and p.x==2',
        'p=P(5); p.x=7\nassert p==P(7) and p.x==7',
        'assert f(1) in [P(1),P(2)] and f(9) not in [P(1)]',
        'assert P(1)==P(1) and P(1)!=P(2)',
        'assert isinstance(f(1),P) and isinstance(P(1),P)',
        "assert repr(P(1))=='P(x=1, y=2, tags=[])'",
        'assert move(P(1,1))==P(2,1)',
        'assert {f(1):1}=={P(1):1}',
        "p=P(1); p.tags.append('a')\nassert p.tags==['a'] and p==P(1,2,['a'])",
        'assert P(1) is not P(1)']),
    "dataclasses_of_all_sorts": ("from dataclasses import dataclass, field\n"
        "@dataclass(frozen=True,order=True)\nclass Q:\n  a:str\n  p:'Q'=None\n@dataclass(kw_only=True)\n"
        "class K:\n  z:int\n  w:float=1.5\n@dataclass(frozen=True,slots=True)\nclass S(Q):\n  c:int=0\n"
        "def mk(): return Q('x',Q('y'))\ndef k(): return K(z=1)\n",
        ["assert mk()==Q('x',Q('y'))\nassert mk()==Q('x',p=Q(a='y'))",
        'assert k()==K(z=1,w=1.5)']),
    "named_tuples": ("from typing import NamedTuple\nfrom collections import namedtuple\n"
        "class P(NamedTuple):\n  x:int\n  y:int=0\n  def norm(self): return self.x+self.y\n"
        "R=namedtuple('R','a b')\ndef f(): return P(1,2)\ndef g(p): return p.norm(), isinstance(p,P)\n"
        "def r(): return R(1,2)",
        ['assert f()==P(1,2)',
        'assert f()==P(x=1,y=2)',
        'assert g(P(1))==(1,True)',
        'assert r()==R(1,b=2)',
        'assert isinstance(f(),P)']),
    "enum_members": ('from enum import Enum\nclass C(Enum):\n  RED=1\n  BLUE=2\ndef f(x): return C[x]\n'
        'def g(c): return c is C.RED\ndef h(): return {C.RED:1, C.BLUE:2}',
        ["assert f('RED')==C.RED",
        "assert f('RED') is C.RED\nassert f('RED') is not C.BLUE",
        'assert g(C.RED) and not g(C.BLUE)',
        'assert h()=={C.RED:1,C.BLUE:2}',
        "assert C.RED==f('RED') and C.RED!=f('BLUE')",
        "assert f('RED').value==1",
        "c=C.RED\nassert c.name=='RED' and c==f('RED')"]),
    "standard_values": ("import datetime, decimal, uuid\nfrom datetime import date, timedelta\n"
        "from decimal import Decimal\nfrom fractions import Fraction\nfrom collections import *\n"
        "from pathlib import Path\ndef d(): return date(2020,1,2)\n"
        "def dt(): return datetime.datetime(2020,1,2,3,4,5,6)\n"
        "def tz(): return datetime.datetime(2020,1,1,tzinfo=datetime.timezone.utc)\n"
        "def tm(): return datetime.time(1,2)\ndef td(): return timedelta(1,2,3)\n"
        "def de(): return Decimal('1.10')\ndef fr(): return Fraction(1,3)\n"
        "def u(): return uuid.UUID(int=5)\ndef c(): return Counter('aab')\n"
        "def o(): return OrderedDict([(1,2)])\ndef dd(): return defaultdict(list,{1:[2]})\n"
        "def q(): return deque([1,2],maxlen=5)\ndef pa(): return Path('/a/b')\n"
        "def isd(x): return isinstance(x,date)\ndef nxt(x): return x+timedelta(1)",
        ['import datetime\nassert d()==datetime.date(2020,1,2)',
        'from datetime import date\nassert d()==date(2020,1,2)',
        'assert d()==date(2020,1,2)',
        'assert dt()==datetime.datetime(2020,1,2,3,4,5,6)',
        'import datetime as X\nassert tz()==X.datetime(2020,1,1,tzinfo=X.timezone.utc)',
        'assert tm()==datetime.time(1,2)',
        'assert td()==timedelta(1,2,3) and td().days==1',
        "assert de()==Decimal('1.1') and de()==decimal.Decimal('1.10')",
        'assert fr()==Fraction(1,3)',
        'assert u()==uuid.UUID(int=5)',
        "assert c()==Counter('aab') and c().most_common(1)==[('a',2)]",
        'assert o()==OrderedDict([(1,2)]) and isinstance(o(),OrderedDict)',
        'assert dd()==defaultdict(list,{1:[2]}) and dd()[7]==[]',
        'assert q()==deque([1,2]) and q().maxlen==5',
        "from pathlib import Path\nassert pa()==Path('/a/b')",
        'assert isd(date(2020,1,1)) and nxt(date(2020,1,31))==date(2020,2,1)',
        'assert sorted([d(), date(2019,1,1)])[0].year==2019']),
    "names_of_modules": ('import math\nimport numpy as np\ndef copy(x): return x+1\n'
        'def f(): return 2**.5\ndef string(h): return h*60',
        ['assert f()==math.sqrt(2)',
        'assert copy(1)==2',
        'assert string(2)==120',
        'assert math.isclose(f(),1.41421356,rel_tol=1e-6)']),
    "numpy_arrays": ("import numpy as np\ndef f(): return np.array([[1,2],[3,4]])\n"
        "def s(): return np.int64(3)\ndef m(a): return np.mean(a)\ndef g(a): return a*2\n"
        "def inpl(a): a.sort()\ndef b(): return np.bool_(True)\ndef fl(): return np.float32(0.5)\n"
        "def l(): return [np.int64(1), np.float64(2.5)]\ndef dct(): return {'a':np.arange(3)}",
        ['import numpy as np\nassert (f()==np.array([[1,2],[3,4]])).all()',
        'import numpy as np\nassert np.array_equal(f(),[[1,2],[3,4]]) and f().shape==(2,2)',
        'assert f().tolist()==[[1,2],[3,4]]',
        'assert s()==3 and m([1,2])==1.5 and b() and fl()==.5 and l()==[1,2.5]',
        'import numpy as np\nassert np.allclose(g(np.array([1.,2])),[2,4])',
        'assert np.allclose(f(), np.array([[1,2],[3,4]]))',
        'import numpy as np\na=np.array([3,1,2])\ninpl(a)\nassert a.tolist()==[1,2,3]',
        'import numpy as np\nnp.testing.assert_allclose(f(),[[1,2],[3,4]])',
        "assert list(dct()['a'])==[0,1,2]",
        'assert isinstance(f(), np.ndarray) and f().sum()==10']),
    "large_replies": ("def f(n): return list(range(n))\ndef s(n): return 'a'*n\n"
        "def fl(n): return [i/7 for i in range(n)]\ndef m(n): return [[0]*n for _ in range(n)]",
        ['assert f(1000000)==list(range(1000000))',
        'assert len(s(10**7))==10**7',
        'assert fl(400000)[7]==1.0',
        'assert sum(map(len,m(1000)))==10**6']),
    "ints_of_many_digits": ('def f(n): return 7**n\ndef s(n): return str(7**n)',
        ['assert f(6000)==7**6000',
        'assert s(6000)==str(7**6000) and len(s(6000))==5071']),
    "exit_at_the_end": ('import sys\ndef add(a,b): return a+b\ndef bad(): sys.exit(2)\nif True:\n'
        ' print(add(1,2))\n exit()',
        ['assert add(1,2)==3',
        'try:\n    bad()\nexcept SystemExit:\n    pass\nelse:\n    assert False',
        'assert add(1,1)==2']),
    "attributes_from_outside": ('class Node:\n def __init__(s,v): s.v=v; s.left=None; s.kids=[]; s.d={}\n'
        'def left(n): return n.left.v\ndef total(n): return n.v+sum(map(total,n.kids))',
        ['root=Node(1)\nroot.left=Node(2)\nroot.left.left=Node(3)\n'
        'assert left(root)==2 and left(root.left)==3',
        'r=Node(1)\nr.kids.append(Node(2))\nr.kids.append(Node(3))\nr.kids[0].kids.append(Node(4))\n'
        'assert total(r)==10',
        'r=Node(1); r.kids=[Node(5)]\nassert total(r)==6',
        "r=Node(1); r.d['a']=1; r.d['b']={}; r.d['b']['c']=2\nassert r.d=={'a':1,'b':{'c':2}}",
        'r=Node(1)\nr.v+=1\nassert r.v==2\ndel r.v\ntry:\n    r.v\n    assert False\n'
        'except AttributeError:\n    pass',
        'r=Node(1)\nr._x=5\nassert r._x==5',
        'a=Node(1);b=Node(2);a.left=b;b.left=a\nassert a.left.left.v==1']),
    "items_from_outside": ("class M:\n def __init__(s): s.d={}\n def __setitem__(s,k,v): s.d[k]=v\n"
        " def __getitem__(s,k): return s.d[k]\n def __delitem__(s,k): del s.d[k]\n"
        " def __contains__(s,k): return k in s.d\n def __len__(s): return len(s.d)\n"
        " def __enter__(s): return s\n def __exit__(s,*a): s.d['left']=a[0] is not None",
        ["m=M()\nm['a']=1\nassert m['a']==1 and 'a' in m and 'b' not in m and len(m)==1\ndel m['a']\n"
        "assert len(m)==0",
        "with M() as m:\n    m['x']=1\nassert m['x']==1 and m['left'] is False",
        "try:\n    with M() as m:\n        raise ValueError('x')\nexcept ValueError:\n    pass\n"
        "assert m['left'] is True"]),
    "context_manager": ("from contextlib import contextmanager\nlog=[]\n@contextmanager\ndef tag(n):\n"
        " log.append(n)\n yield n\n log.append('/'+n)\ndef get(): return log",
        ["with tag('a') as t:\n    assert t=='a'\nassert get()==['a','/a']"]),
    "instances": ('class A: pass\nclass B(A): pass\ndef mk(): return B()',
        ['assert isinstance(mk(),A) and isinstance(mk(),B) and not isinstance(5,A)',
        'assert issubclass(B,A) and isinstance(mk(),(int,A))']),
    "wrapped_name": ("import functools\ndef deco(f):\n @functools.wraps(f)\n def g(*a): return f(*a)\n"
        " return g\n@deco\ndef hello(): 'doc'",
        ["assert hello.__name__=='hello'",
        'assert hello() is None']),
    "own_variables": ('def f(a): return a',
        ['import random\nrandom.seed(1)\nxs=[random.random() for _ in range(50)]\nfor x in xs:\n'
        '    assert f(x)==x']),
    "stdin_exit": ("print(1)\nexit()", [{"input": "", "output": "1"}]),
    "stdin_quit_0": ("print(1)\nquit(0)\nprint(2)", [{"input": "", "output": "1"}]),
    "stdin_raise_exit": ("def main():\n    print(1)\n    raise SystemExit\nmain()", [{"input": "",
        "output": "1"}]),
    "stdin_many_digits": ("print(7**6000)\nprint(len(str(int(input()))))", [{"input": "9" * 5000,
        "output": f"{SEVENS}\n5000"}]),
    "stdin_white_space": ("print('1  2 \\n')\nprint('\\t3')", [{"input": "", "output": "\n 1 2\n3\n"}]),
    "stdin_a_third": ("print(1/3)", [{"input": "", "output": "0.333333"}, {"input": "",
        "output": "0.3333333333333333"}]),
    "stdin_tolerance": ("print(3.14, 2.9999999)", [{"input": "", "output": "3.1416 3", "tolerance": 0.01}]),
    "stdin_numpy": ("import numpy as np\nprint(int(np.sum([1, 2])), np.arange(3))", [{"input": "",
        "output": "3 [0 1 2]"}]),
    "stdin_file_name": ("import os\nprint(os.path.basename(__file__))", [{"input": "",
        "output": "solution.py"}]),
}

HONEST |= {
    "two_upper_case_functions": ('import math\ndef GCD(a,b): return math.gcd(a,b)\ndef LCM(a,b):'
        ' return a*b//math.gcd(a,b)',
     ['assert GCD(4,6) == 2', 'assert LCM(4,6) == 12']),
    "arrays_that_are_empty": ('import numpy as np\ndef f(a): return np.array(a)*2.0',
     ['import numpy as np\nassert np.allclose(f([]),[])',
      'import numpy as np\nassert (f([])==np.array([])).all()',
      'import numpy as np\nnp.testing.assert_allclose(f([1.0]), [2.0])']),
    "ids_of_a_dataclass": ('import itertools\n'
     'from dataclasses import dataclass, field\n'
     'N=itertools.count(1)\n'
     '@dataclass\n'
     'class T:\n'
     '    name: str\n'
     '    id: int = field(default_factory=lambda: next(N))',
     ["t=T('a')\nassert t.id==1", "t=T('b')\nassert t.id==2"]),
    "hierarchy_of_errors": ('class BankError(Exception): pass\n'
     'class Insuf(BankError): pass\n'
     "def take(n): raise Insuf('no')\n"
     "def key(): raise KeyError('a')",
     ['try:\n'
      '    take(1)\n'
      'except BankError as e:\n'
      "    assert str(e) == 'no'\n"
      'else:\n'
      '    assert 0',
      'try:\n    take(1)\nexcept Insuf:\n    pass\nelse:\n    assert 0']),
    "text_of_a_key_error": ("def key(): raise KeyError('a')",
     ['try:\n'
      '    key()\n'
      'except KeyError as e:\n'
      '    assert str(e) == "\'a\'"\n'
      'else:\n'
      '    assert 0']),
    "lru_of_an_ordered_dict": ('from collections import OrderedDict\n'
     'class LRUCache(OrderedDict):\n'
     '    def __init__(s,n):\n'
     '        super().__init__()\n'
     '        s.n=n\n'
     '    def get(s,k):\n'
     '        if k not in s: return -1\n'
     '        s.move_to_end(k)\n'
     '        return s[k]\n'
     '    def put(s,k,v):\n'
     '        s[k]=v\n'
     '        s.move_to_end(k)\n'
     '        if len(s)>s.n: s.popitem(last=False)',
     ['c=LRUCache(1)\n'
      'c.put(1,1)\n'
      'assert c.get(1)==1\n'
      'c.put(2,2)\n'
      'assert c.get(1)==-1 and c.get(2)==2']),
    "stack_of_a_list": ('class Stack(list):\n    def push(s,x): s.append(x)\n    def peek(s): return s[-1]',
     ['s=Stack()\ns.push(3)\nassert s.peek()==3 and len(s)==1']),
}

# ----------------------------------------------------------------------------------- the siege


def load(path: str):
    """sandbox.py at `path` as a module: a copy is told from every other one in the list of processes."""
    spec = importlib.util.spec_from_file_location(f"sandbox_{os.getpid()}_{abs(hash(path))}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inside(path: str) -> list[str]:
    """The processes that run the sandbox.py at `path`."""
    found = []
    for p in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{p}/cmdline", "rb") as f:
                if f.read().split(b"\0")[6:7] == [path.encode()]:  # python -I -S -B -c ... sandbox.py
                    found.append(p)
        except OSError:
            pass
    return found


def threads(processes: list[str]) -> int:
    most = 0
    for p in processes:
        try:
            with open(f"{p}/status") as f:
                most = max(most, *(int(line.split()[1]) for line in f if line.startswith("Threads:")))
        except (OSError, TypeError):
            pass
    return most


def siege(path: str, classes=tuple(ATTACKS), canaries: str = "", namespaces: bool = True) -> dict:
    """Run the attacks of `classes` with the sandbox.py at `path`; {"rewarded": ..., "harm": ..., "runs": n,
    "seconds": s}. `canaries`: a folder for one canary file; another lies beside the temporary files."""
    sandbox = load(path)
    if not namespaces:
        sandbox._namespaces_allowed = lambda: False
    secret = f"secret-{os.urandom(8).hex()}"
    base = os.path.realpath(tempfile.mkdtemp(prefix="siege-"))
    temp = os.path.join(base, "temp")
    os.mkdir(temp)
    paths = [os.path.join(base, "canary"), os.path.join(canaries or base, "canary2")]
    for p in paths:
        with open(p, "w") as f:
            f.write(secret)
    before = [os.stat(p) for p in paths]
    tcp, udp, unix, abstract = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), *(
        socket.socket(socket.AF_UNIX) for _ in range(2))
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    unix.bind(os.path.join(base, "socket"))
    abstract.bind(f"\0{secret[:12]}")
    for s in (tcp, unix, abstract):
        s.listen()
    values = {"SECRET": secret, "PORT": tcp.getsockname()[1], "UDP": udp.getsockname()[1], "PID": os.getpid(),
        "ABSTRACT": secret[:12], "UNIX": os.path.join(base, "socket"), "HOME": os.path.expanduser("~"),
        "SANDBOX": path, "TEMP": temp}

    def armed(x, canary):
        text = json.dumps(x)
        for name, value in {**values, "CANARY": canary}.items():
            text = text.replace(f"@{name}@", str(value))
        return json.loads(text)

    names = [(kind, name) for kind in classes for name in ATTACKS[kind]]
    jobs = [tuple(armed(ATTACKS[kind][name], paths[i % 2])) for i, (kind, name) in enumerate(names)]
    with open(path, "rb") as f:
        source = f.read()

    def state():
        limits = {n: resource.getrlimit(getattr(resource,
            n)) for n in dir(resource) if n.startswith("RLIMIT_")}
        handlers = {s: signal.getsignal(s) for s in range(1, 32)}
        return limits, handlers, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), os.getcwd()

    old, old_temp, free, seen = state(), tempfile.tempdir, shutil.disk_usage(base).free, {"threads": 0,
        "disk": 0}
    files = len(os.listdir("/proc/self/fd"))
    over = threading.Event()

    def watch():
        while not over.wait(0.1):
            seen["threads"] = max(seen["threads"], threads(inside(path)))
            seen["disk"] = max(seen["disk"], free - shutil.disk_usage(base).free)

    watcher = threading.Thread(target=watch)
    os.environ["SANDBOX_SECRET"] = secret
    tempfile.tempdir = temp
    memory, start, harm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), []
    watcher.start()
    results = []
    try:
        for kind in classes:
            chosen = [job for job, (k, _) in zip(jobs, names, strict=True) if k == kind]
            results += sandbox.run_many(chosen, timeout={"HANGS": 0.7, "BOMBS": 0.8, "LIARS": 1}.get(kind, 2))
    finally:
        over.set()
        watcher.join()
        tempfile.tempdir = old_temp
        del os.environ["SANDBOX_SECRET"]
    seconds = time.monotonic() - start
    for _ in range(30):
        if not (stray := inside(path)):
            break
        time.sleep(0.1)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory >> 10
    left = os.listdir(temp)
    for p, stat in zip(paths, before, strict=True):
        now = os.stat(p) if os.path.exists(p) else None
        if not now or (now.st_mtime_ns, now.st_mode, now.st_uid, now.st_size) != (stat.st_mtime_ns,
            stat.st_mode,
                stat.st_uid, stat.st_size) or open(p).read() != secret:
            harm.append(f"canary {p} changed")
    for name, s in {"tcp": tcp, "unix": unix, "abstract": abstract, "udp": udp}.items():
        s.setblocking(False)
        try:
            s.recv(9) if name == "udp" else s.accept()
            harm.append(f"something arrived by {name}")
        except BlockingIOError:
            pass
        s.close()
    with open(path, "rb") as f:
        if f.read() != source:
            harm.append("sandbox.py changed")
    for bad, what in ((stray, f"processes left: {stray}"), (left, f"temporary files left: {left}"),
            (state() != old, "limits, handlers, priority or folder changed"), (growth > 150,
                f"{growth} MB more memory"),
            (seen["threads"] > 256, f"{seen['threads']} threads in one program"),
            (len(os.listdir("/proc/self/fd")) > files, "open files left"),
            (seen["disk"] > 300 << 20, f"{seen['disk'] >> 20} MB of disk used")):
        if bad:
            harm.append(what)
    shutil.rmtree(base)
    if canaries:
        os.remove(paths[1])
    rewarded = {f"{kind}.{name}": list(r) for (kind, name), r, job in zip(names, results, jobs, strict=True)
        if r.passed == len(job[1])}
    return {"rewarded": rewarded, "harm": harm, "runs": len(results), "seconds": round(seconds, 1)}


if __name__ == "__main__":
    print(json.dumps(siege(os.path.abspath(sys.argv[1]), namespaces=sys.argv[2] != "0")))
