"""The sandbox against tests/attacks.py: honest programs pass, attacks neither pay nor harm."""

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import attacks  # noqa: E402

from config import UserError  # noqa: E402
from rewards import check_rows, code_reward  # noqa: E402
from verify import sandbox  # noqa: E402
from verify.sandbox import LIMITS, SandboxError, check_tests, run_many, run_tests, same_output  # noqa: E402

SOURCE = Path(sandbox.__file__)
ADD = "def add(a, b): return a + b"
ONE = ["assert add(1, 2) == 3"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def copy_of_sandbox(folder: Path, old: str = "", new: str = "") -> str:
    text = SOURCE.read_text()
    assert old in text
    (folder / "sandbox.py").write_text(text.replace(old, new) if old else text)
    return str(folder / "sandbox.py")


def reader() -> str | None:
    """An interpreter that every user can run and whose library every user can read."""
    for path in (sys.executable, "/usr/bin/python3"):
        check = "import sys, json, ctypes; sys.exit(sys.version_info < (3, 10))"
        if subprocess.run([path, "-c", check], user=65534, group=65534, extra_groups=[], cwd="/",
                capture_output=True).returncode == 0 if os.access(path,
                    os.X_OK) and readable(path) else False:
            return path
    return None


def readable(path: str) -> bool:
    real = Path(path).resolve()
    return all(p.stat().st_mode & 0o001 for p in [real, *real.parents, *Path(path).absolute().parents])


@pytest.fixture
def open_folder():
    """A folder below the system's temporary one that every user can read and the user `nobody` can write."""
    folder = Path(tempfile.mkdtemp(prefix="open-"))
    yield folder
    shutil.rmtree(folder)


# -------------------------------------------------------------------------------- the corpus


def test_there_are_enough_attacks_and_honest_programs():
    assert sum(map(len, attacks.ATTACKS.values())) >= 450 and len(attacks.HONEST) >= 100
    for tests in [t for group in attacks.ATTACKS.values() for _, t in group.values()]:
        check_tests(tests)


@pytest.fixture(scope="module")
def honest_results():
    return dict(zip(attacks.HONEST, run_many(list(attacks.HONEST.values())), strict=True))


@pytest.mark.parametrize("name", attacks.HONEST)
def test_an_honest_program_passes_all_its_tests(honest_results, name):
    assert honest_results[name] == (len(attacks.HONEST[name][1]), 0, "")


def test_an_honest_program_passes_without_namespaces_too(monkeypatch):
    monkeypatch.setattr(sandbox, "_namespaces_allowed", lambda: False)
    names = set(attacks.HONEST) - {"scratch_file", "slow"}  # there the folder is read-only
    results = dict(zip(names, run_many([attacks.HONEST[n] for n in names]), strict=True))
    assert {n: r for n, r in results.items() if r.failed} == {}


@pytest.mark.parametrize("kind", attacks.ATTACKS)
def test_no_attack_is_rewarded_or_does_harm(kind, tmp_path):
    found = attacks.siege(copy_of_sandbox(tmp_path), (kind,), str(tmp_path))
    assert (found["rewarded"], found["harm"]) == ({}, [])


@pytest.mark.parametrize("kind", ["SPIES", "FORGERS", "RECORDS", "CHANGES", "MODULES", "BOMBS",
    "BREAKOUTS"])
def test_no_attack_is_rewarded_or_does_harm_without_namespaces(kind, tmp_path):
    found = attacks.siege(copy_of_sandbox(tmp_path), (kind,), str(tmp_path), namespaces=False)
    assert (found["rewarded"], found["harm"]) == ({}, [])


@pytest.mark.parametrize("namespaces", [True, False])
def test_no_attack_is_rewarded_or_does_harm_as_an_unprivileged_user(open_folder, namespaces):
    if os.getuid():
        pytest.skip("this run is unprivileged already")
    python = reader()
    if python is None:
        pytest.skip("no Python 3.10 or later that other users can read")
    path = copy_of_sandbox(open_folder)
    shutil.copy(attacks.__file__, open_folder)
    classes = list(attacks.ATTACKS) if namespaces else ["BREAKOUTS"]
    call = f"attacks.siege({path!r}, {classes}, namespaces={namespaces})"
    code = f"import attacks, json; print(json.dumps({call}))"
    os.chmod(open_folder, 0o755)
    for p in [open_folder, *open_folder.iterdir()]:
        os.chown(p, 65534, 65534)
    done = subprocess.run([python, "-c", code], cwd=open_folder, user=65534, group=65534, extra_groups=[],
        env={"TMPDIR": str(open_folder), "HOME": str(open_folder)}, capture_output=True, text=True,
            timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runs"] == sum(len(attacks.ATTACKS[k]) for k in classes)
    assert (found["rewarded"], found["harm"]) == ({}, [])


# -------------------------------------------------------------------------------- what is left untouched


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_program_can_start_few_threads_only(namespaces, monkeypatch):
    if not namespaces:
        monkeypatch.setattr(sandbox, "_namespaces_allowed", lambda: False)
    program = attacks.BOMBS["small_threads"][0].replace("range(1500)", "range(700)")
    program = program.replace("    libc.pthread_create(", "    started += not libc.pthread_create(")
    program = "started = 0" + program.replace("time.sleep(.4)", "") + "def count(): return started"
    result = run_tests(program, ["assert 1 <= count() <= 256"], timeout=2)
    assert result.passed == 1, result


def test_the_callers_large_file_numbers_do_not_matter():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1400:
        pytest.skip(f"at most {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1400), hard))
    files = [os.open("/dev/null", 0) for _ in range(1100)]
    try:
        assert run_tests(ADD, ONE) == (1, 0, "")
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_caller_dies_its_programs_die(tmp_path, number):
    path = copy_of_sandbox(tmp_path)
    code = f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r}); import sandbox\n" \
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n" \
        "sandbox.run_tests('import time\\ndef f(): time.sleep(30)', ['f()'], timeout=30)"
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 5
    while len(attacks.inside(path)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    caller.send_signal(number)
    caller.wait(10)
    until = time.monotonic() + 2
    while (left := attacks.inside(path)) and time.monotonic() < until:
        time.sleep(0.05)
    for p in left:
        os.kill(int(p[6:]), signal.SIGKILL)
    assert left == []


def test_a_reason_is_printable_text():
    for text in ("\\ud800", "\\x1b[2J", "\\r\\x00"):
        reason = run_tests(f"def f(): raise ValueError('{text}')", ["assert f() == 1"]).reason
        assert reason.startswith("ValueError") and reason.isprintable()
    reason = run_tests("raise SystemExit('\\x1b[2J')", [{"input": "", "output": ""}]).reason
    assert reason.startswith("exit status 1") and reason.isprintable()


# -------------------------------------------------------------------------------- a missing layer

OUTER = r'''
import ctypes, struct, sys
sys.path.insert(0, sys.argv[1])
import sandbox
libc = ctypes.CDLL(None, use_errno=True)
column, audit = sandbox._ARCH[sandbox.os.uname().machine]
number, argument, value, errno = map(int, sys.argv[2:6])
code = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16 + 8 * max(argument, 0)),
    (0x15, 0, 1 if argument >= 0 else 0, value), (6, 0, 0, 0x50000 | errno),
    (6, 0, 0, 0x7FFF0000)]
body = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("HP", len(code), ctypes.addressof(body)), 0, 0) == 0
program = "open(%r, 'w').write('ran')\ndef f(): return 1" % (sys.argv[1] + "/ran")
for unsafe in (False, True):
    try:
        print(sandbox.run_tests(program, ["assert f() == 1"], unsafe=unsafe).passed)
    except sandbox.SandboxError as error:
        print("SandboxError", error, sandbox.os.path.exists(sys.argv[1] + "/ran"))
'''
LANDLOCK, SECCOMP, UNSHARE, CAPSET = (444, -1, 0, 38), (157, 0, 22, 22), (272, -1, 0, 1), (126, -1, 0, 1)


def behind_a_filter(folder: Path, number: int, argument: int, value: int, errno: int) -> list[str]:
    """What `run_tests` does, safe and unsafe, where a system call answers `errno`."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of the system calls are those of x86_64")
    copy_of_sandbox(folder)
    done = subprocess.run([sys.executable, "-c", OUTER, str(folder), *map(str, (number, argument, value,
        errno))],
        capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("layer,call", [("Landlock", LANDLOCK), ("seccomp", SECCOMP), ("capset", CAPSET)])
def test_without_a_layer_nothing_runs_and_the_layer_is_named(tmp_path, layer, call):
    safe, unsafe = behind_a_filter(tmp_path, *call)
    assert safe.startswith("SandboxError") and layer in safe and safe.endswith("False")
    assert unsafe == "1" and (tmp_path / "ran").exists()


def test_without_namespaces_programs_still_run_jailed(tmp_path):
    safe, unsafe = behind_a_filter(tmp_path, *UNSHARE)
    assert (safe, unsafe) == ("0", "1")  # the program cannot write its file, and so fails


def test_an_unknown_machine_is_refused(tmp_path):
    machine = platform.machine()
    module = attacks.load(copy_of_sandbox(tmp_path, f'"{machine}": (', '"vax": ('))
    program = f"open({str(tmp_path / 'ran')!r}, 'w')\n{ADD}"
    with pytest.raises(module.SandboxError, match=f"seccomp and Landlock on linux {machine}"):
        module.run_tests(program, ONE)
    assert not (tmp_path / "ran").exists()
    assert module.run_tests(program, ONE, unsafe=True) == (1, 0, "")
    assert (tmp_path / "ran").exists()


def test_an_interpreter_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", shutil.which("false"))
    with pytest.raises(SandboxError, match="does not start"):
        run_tests(ADD, ONE)


def test_unsafe_runs_the_same_tests():
    assert run_tests(ADD, ONE, unsafe=True) == (1, 0, "")
    assert run_tests(ADD, ["assert add(1, 2) == 4"], unsafe=True).passed == 0


# -------------------------------------------------------------------------------- the interface


@pytest.mark.parametrize("tests", [[], "assert f() == 1", None, [1], ["assert f()", {"input": "",
    "output": ""}],
    [{"input": ""}], [{"input": 1, "output": "1"}], [{"input": "", "output": None}], ("assert f()",)])
def test_what_is_no_list_of_tests_is_a_value_error(tests):
    with pytest.raises(ValueError):
        run_tests(ADD, tests)


def test_a_test_that_is_no_python_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        run_tests(ADD, [*ONE, "assert add(1, 2) =="])


def test_tests_that_call_nothing_of_the_program_do_not_pass():
    result = run_tests(ADD, ["assert 1 + 1 == 2", "assert sorted([2, 1]) == [1, 2]"])
    assert result.passed == 0 and result.failed == 2 and "call nothing" in result.reason
    assert run_tests(ADD, ["assert add"]).passed == 0


def test_a_timeout_is_the_reason_and_what_passed_before_it_counts():
    program = "def f(x):\n    while x: pass\n    return x"
    start = time.monotonic()
    result = run_tests(program, ["assert f(0) == 0", "assert f(1) == 1"], timeout=0.7)
    assert result == (1, 1, "timeout after 0.7 s") and time.monotonic() - start < 3
    result = run_tests("n = int(input())\nwhile n: pass", [{"input": "0", "output": ""}, {"input": "1",
        "output": ""}],
        timeout=0.7)
    assert result == (1, 1, "timeout after 0.7 s")


def test_the_share_of_tests_that_pass_is_counted_and_the_first_reason_given():
    result = run_tests(ADD, ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert nothing(1)",
        "assert add(0, 0) == 0"])
    assert (result.passed, result.failed) == (2, 2) and result.reason.startswith("AssertionError")
    result = run_tests("print(input())", [{"input": "a", "output": "a"}, {"input": "b", "output": "a"}])
    assert (result.passed, result.failed) == (1, 1) and "wrong output" in result.reason


def test_results_keep_the_order_of_the_jobs():
    jobs = [(f"import time\ndef f():\n    time.sleep({(5 - n) / 20})\n    return {n}",
        [f"assert f() == {n % 3}"])
        for n in range(6)]
    assert [r.passed for r in run_many(jobs)] == [1, 1, 1, 0, 0, 0]
    assert run_many([]) == []


def test_memory_is_limited_to_what_is_asked():
    program = "def f(n): return len(bytearray(n << 20))"
    assert run_tests(program, ["assert f(100) == 100 << 20"], memory_mb=256).passed == 1
    assert run_tests(program, ["assert f(300) == 300 << 20"], memory_mb=256).passed == 0


@pytest.mark.parametrize("printed,want,right", [
    ("6", " 6", True), ("6", "\n6\n", True), ("1 2", "1  2", True), ("1\n\n2\n", "1\n2", True), ("\t1\r\n2",
        "1\n2", True),
    ("", "\n", True), ("1 2", "1\n2", False), ("12", "1 2", False), ("", "0", False), ("yes", "Yes", False),
    ("0.3333333333333333", "0.333333", True), ("0.3333333333333333", "0.3333", True), ("0.333333",
        "0.3333333333", True),
    ("0.3333333333333333", "0.333", False), ("0.3", "0.333333", False), ("0.3333", "0.333333", False),
    ("0.30000000000000004", "0.3", True), ("2.5", "2.50", True), ("2", "2.0", True), ("-0.0", "0.0", True),
    ("1e-17", "0.0", True), ("2.4", "2.5", False), ("0.54", "0.5", False), ("0.5001", "0.5", False),
    ("2.0", "2", False), ("2.0000001", "2", False), ("1000001", "1000000", False), ("10**6", "1000000",
        False),
    ("1e6", "1000000.0", True), ("1000000", "1e6", True), ("1000001", "1e6", False), ("0", "0.0000004",
        False),
    ("0", "1e-7", False), ("0.00005", "0.0001", False), ("123456789.123457", "123456789.1234567", True),
    ("1500000.0", "1500000.5", False), ("nan", "0.5", False), ("nan", "nan", True), ("inf", "1e400", False),
    ("0.5x", "0.5", False), ("0_5.0", "05.0", False), ("\u0661.5", "1.5", False), ("a 0.1000001", "a 0.1",
        True),
    ("3.14160", "3.1416", True), ("3.14159", "3.1416", True), ("3.1415", "3.1416", False), ("1e1", "1e2",
        False)])
def test_output_is_compared_word_by_word_and_decimals_by_value(printed, want, right):
    assert same_output(printed, want) is right


@pytest.mark.parametrize("printed,want,tolerance,right", [
    ("0.34", "0.333333", 0.01, True), ("0.34", "0.333333", 0.001, False), ("2.9999999", "3", 1e-6, True),
    ("3", "3.0000001", 1e-6, True), ("1000001", "1000000", 0.5, False), ("1000001.0", "1000000", 1e-5, True),
    ("1000001.0", "1000000", 1e-7, False), ("0.30000000000000004", "0.3", 0, False), ("0.3", "0.3", 0, True),
    ("nan", "0.5", 1, False), ("inf", "0.5", 1, False), ("x", "0.5", 1, False)])
def test_a_tolerance_is_on_request(printed, want, tolerance, right):
    assert same_output(printed, want, tolerance) is right
    rows = [{"input": "", "output": want}]
    program = f"print({printed!r})"
    assert run_tests(program, rows, tolerance=tolerance).passed == right
    assert run_tests(program, [{**rows[0], "tolerance": tolerance}]).passed == right


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_checked_before_anything_runs(name):
    low, high = LIMITS[name]
    for value in (low, high):
        check_tests(ONE, **{name: value})
    for value in (low - 1, high + 1, "5", True, float("nan"), [5]):
        with pytest.raises(ValueError, match=f"{name} must be a number from {low} to {high}, not "):
            run_tests(ADD, ONE, **{name: value})
    with pytest.raises(ValueError, match="tolerance must be"):
        check_tests([{"input": "", "output": "", "tolerance": 2}])


def test_a_job_has_limits_of_its_own():
    slow, large = "import time\ndef f():\n    time.sleep(1)", "def f(): bytearray(300 << 20)"
    jobs = [(slow, ["f()"], {"timeout": 0.5}), (slow, ["f()"]), (large, ["f()"], {"memory_mb": 200}),
        (large, ["f()"]), (large, ["f()"], {"memory_mb": 1000})]
    assert [r.passed for r in run_many(jobs)] == [0, 1, 0, 1, 1]


def test_rows_bring_limits_of_their_own_as_columns():
    program = "<think></think><answer>import time\ntime.sleep(1)\nprint(0.34)</answer>"
    tests = [[{"input": "", "output": "0.333333"}]] * 4
    columns = {"timeout": [None, 0.5, 5, None], "tolerance": [0.1, 0.1, None, 0.1], "memory_mb": [99, 99, 99,
        None]}
    assert code_reward([program] * 4, tests, **columns) == [1.0, 0.0, 0.0, 1.0]
    row = {"prompt": "p", "task": "code", "tests": tests[0]}
    check_rows([row, {**row, "timeout": 9, "memory_mb": 900, "tolerance": 1e-6}], "rows.jsonl")
    with pytest.raises(UserError, match="rows.jsonl: row 2: .*timeout must be a number from 0.05 to 600, "
        "not '9'"):
        check_rows([row, {**row, "timeout": "9"}], "rows.jsonl")


def test_a_reply_is_limited_and_the_limit_named():
    program = "def f(n): return 'a' * (n << 20)"
    assert run_tests(program, ["assert len(f(15)) == 15 << 20", "f(17)"]) == (
        1, 1, "ValueError: an answer over 16 MB")


def test_an_exit_in_a_call_fails_its_own_test_only():
    result = run_tests("def f(x):\n    exit() if x else None", ["f(0)", "f(1)", "f(0)"])
    assert result == (2, 1, "SystemExit: ")


def test_every_run_starts_afresh():
    program = "import os\ndef f():\n    try:\n        open('x', 'x').close()\n    except OSError: pass\n" \
        "    return len(os.listdir('.')) < 2"
    assert [run_tests(program, ["assert f()"]).passed for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_allows_its_table_and_nothing_else(machine):
    def verdict(number, arguments=(0,) * 6, arch=None):
        data = sandbox.struct.pack("=IIQ6Q", number, arch or audit, 0, *arguments)
        at = value = 0
        while True:
            op, yes, no, k = code[at]
            at += 1
            if op == 0x20:
                value = sandbox.struct.unpack_from("=I", data, k)[0]
            elif op == 0x06:
                return k
            else:
                at += yes if (value == k if op == 0x15 else value & k) else no

    column, audit = sandbox._ARCH[machine]
    code = list(sandbox.struct.iter_unpack("=HBBI", sandbox._seccomp_filter(machine)))
    allow, deny, gone = 0x7FFF0000, 0x5000D, 0x50026
    allowed = {v[column] for v in sandbox._ALLOWED.values() if column < len(v)}
    special = {v[0][column]: v[1:] for v in sandbox._CONDITIONAL.values()}
    clone = sandbox._CLONE[column]
    for n in {*range(600), *range(0x40000000, 0x40000258)}:
        if n in special:
            argument, values = special[n]
            for v in {*range(2000), *values, 1 << 32, (1 << 32) + values[0], 0xFFFFFFFF, (1 << 64) - 1}:
                arguments = [7] * 6
                arguments[argument] = v
                assert verdict(n, arguments) == (allow if v in values else deny), (n, v)
        elif n == clone:
            assert verdict(n, [0x3D0F00] + [0] * 5) == allow and verdict(n, [17] + [0] * 5) == deny
        else:
            assert verdict(n) == (allow if n in allowed else gone if n == 435 else deny), n
    assert verdict(39, arch=0x40000003) == 0x80000000
