"""Runs that are killed, and files that are damaged, as often as you like (`make torture`):

    python tests/torture.py --kills 50 --seed 0
    python tests/torture.py --soak 60                # instead: minutes of one long run; what grows?

Cold start, GRPO, both kinds of distillation and the whole recipe, each in one and in two processes, at toy
length. A run is killed (all of its processes, or one rank) at a random moment or inside a write, and started
again, until it ends. Then every file must be that of a run that nobody killed: metrics but for the seconds,
all others byte for byte. After a rank is killed the others must have ended within 30 seconds, without a
traceback. Then each file of a state and of a finished model is damaged in five ways, flipped bits at 100
places; and the disk is full, read-only, or gone. Exit code 1 if anything was not as it should be.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

TASK = "countdown:n=3,high=9,ops=+-"
LENGTHS = dict(task=TASK, max_new_tokens=60)
GRPO = LENGTHS | dict(steps=8, prompts=4, group_size=4, eval_every=3, eval_problems=16, updates=2, lr=1e-3,
    kl_coef=0.01, ref_every=3, micro_tokens=400, reward_weights="overlong=1", save_minutes=0.02)
# The commands, but for --device and --out; {base} and {own} are made by `start`.
RUNS = {
    "cold start": ("sft.py", dict(config="tiny", task=TASK, steps=24, batch_size=8, save_every=4,
        save_minutes=0.02)),
    "grpo": ("grpo.py", GRPO | dict(init="{base}", reward="{own}:noisy")),
    "on-policy": ("distill.py", LENGTHS | {"on_policy": "true", "from": "{base}", "init": "{base}",
        "prompts": 64, "samples": 2, "batch_size": 16, "eval_every": 2, "eval_problems": 8,
        "save_minutes": 0.02}),
    "rejection": ("distill.py", LENGTHS | {"from": "{base}", "prompts": 320, "samples": 2, "task": TASK})}
NOISY = """import random

def noisy(completions, **columns):  # the global generator: a resumed run has to go on with it
    return [random.random() for _ in completions]
"""

# ---------------------------------------------------------------------------------------------- damaged files


def flipped(file: Path, rng: random.Random, other: Path) -> bool:
    raw = bytearray(file.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    file.write_bytes(raw)
    return True


def truncated(file: Path, rng: random.Random, other: Path) -> bool:
    raw = file.read_bytes()
    file.write_bytes(raw[: rng.choice([0, len(raw) - 1, rng.randrange(len(raw))])])
    return True


def zeroed(file: Path, rng: random.Random, other: Path) -> bool:
    file.write_bytes(bytes(file.stat().st_size))
    return True


def removed(file: Path, rng: random.Random, other: Path) -> bool:
    file.unlink()
    return True


def swapped(file: Path, rng: random.Random, other: Path) -> bool:
    same = file.read_bytes() == other.read_bytes()
    shutil.copyfile(other, file)
    return not same


DAMAGES = {"flipped": flipped, "truncated": truncated, "zeroed": zeroed, "removed": removed,
    "swapped": swapped}


def files_of(dir: Path) -> list[Path]:
    """The files that a folder's manifest names, and the manifest."""
    manifest = dir / "manifest.sha256"
    return [*(dir / line.split("  ")[1] for line in manifest.read_text().splitlines()), manifest]


# ------------------------------------------------------------------------------------------------ killed runs


def command(name: str, device: str, out: Path, at: Path) -> list[str]:
    script, options = RUNS[name]
    words = {k: str(v).format(base=at / "base", own=at / "own.py") for k, v in options.items()}
    words |= {"device": device, "out": str(out / "kept.jsonl" if name == "rejection" else out)}
    return [sys.executable, str(ROOT / script), *(w for k, v in words.items() for w in (f"--{k}", v))]


def recipe(device: str, out: Path) -> list[str]:
    """`make r1` at toy length."""
    few = "--max_new_tokens 40"
    flags = {"DATA_FLAGS": "--count 60",
        "SFT_FLAGS": f"--device {device} --batch_size 8 --epochs 0 --steps 6 --save_every 2",
        "GRPO_FLAGS": f"--device {device} --steps 3 --prompts 4 --group_size 4 --eval_problems 8 "
            f"--ref_every 1 --eval_every 1 {few}",
        "DISTILL_FLAGS": f"--device {device} --prompts 96 --samples 2 {few}",
        "ON_POLICY_FLAGS": f"--device {device} --prompts 16 --samples 2 --batch_size 8 "
            f"--eval_problems 8 {few}",
        "EVAL_FLAGS": f"--device {device} --problems 8 --samples 2 {few}"}
    return ["make", "-s", "-o", ".venv/dev", "r1", f"PY={sys.executable}", "CONFIG=tiny", f"OUT={out}",
        *(f"{k}={v}" for k, v in flags.items())]


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def processes(group: int) -> list[int]:
    """The running processes of a group (no zombies), in the order of their start."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append((int(fields[19]), int(stat.parent.name)))
    return [pid for _, pid in sorted(found)]


def writing(out: Path) -> bool:
    """Whether a state or a model is being written somewhere below out."""
    return any(out.rglob("state.new")) or any(out.rglob("*.tmp"))


def kill(process: subprocess.Popen, out: Path, longest: float, rng: random.Random, inside: bool) -> dict:
    """Kill a run at a moment: {"ended": it was over before that, "inside": in a write, "seconds" until all of
    its processes were gone, "said"}."""
    until, rank = time.monotonic() + rng.uniform(0.3, longest), rng.random() < 0.5
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.002)
    while inside and process.poll() is None and not writing(out):
        time.sleep(0.0005)
    alive = processes(process.pid)
    if process.poll() is not None or not alive:
        return {"ended": True, "said": process.stdout.read()}
    at = time.monotonic()
    ranks = [pid for pid in alive if b"--device" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if rank := rank and len(ranks) > 1:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    while processes(process.pid):
        if time.monotonic() > at + 60:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    return {"ended": False, "inside": writing(out), "seconds": time.monotonic() - at, "rank": rank,
        "said": process.stdout.read()}


def digest(out: Path) -> dict:
    """What is compared: files by their path, metrics without what a clock says."""
    def timeless(line):
        return {k: v for k, v in json.loads(line).items() if "seconds" not in k and "per_second" not in k}

    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.suffix not in (".png", ".md")):
        name = str(path.relative_to(out))
        if path.name.endswith("metrics.jsonl"):
            found[name] = [timeless(line) for line in path.read_text().splitlines()]
        elif path.name in ("run.json", "config.json", "adapter_config.json"):
            found[name] = path.read_text().replace(str(out), "OUT")
        else:
            found[name] = path.read_bytes().replace(str(out).encode(), b"OUT")
    return found


def tortured(words, out: Path, longest: float, kills: int, inside: int, rng, count: Counter) -> str:
    """Start and kill until it ends; "" or what was wrong. The last start is not killed."""
    left, in_writes = kills, inside
    while True:
        process = start(words)
        if not left:
            said, _ = process.communicate(timeout=600)
            return "" if process.returncode == 0 else f"ended with {process.returncode}: {said[-600:]}"
        end = kill(process, out, longest, rng, in_writes > 0)
        if end["ended"]:
            if process.wait() != 0:
                return f"ended with {process.returncode}: {end['said'][-600:]}"
            return "" if left == kills else f"it was over, with {left} kills to go"
        left, in_writes = left - 1, in_writes - end["inside"]
        count.update(kills=1, inside=end["inside"], one_rank=end["rank"])
        count["slowest"] = max(count["slowest"], end["seconds"])
        if end["seconds"] > 30 or "Traceback" in end["said"]:
            return f"{end['seconds']:.0f} s after a kill: {end['said'][-600:]}"


def prepare(at: Path):
    """A base model that ends its completions, and a reward of one's own."""
    (at / "own.py").write_text(NOISY)
    done = subprocess.run([sys.executable, str(ROOT / "sft.py"), "--config", "tiny", "--task", TASK,
        "--steps", "60", "--batch_size", "16", "--device", "cpu:2", "--out", str(at / "base")], cwd=ROOT,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def killed_runs(at: Path, kills: int, seed: int, cases: list[tuple[str, str]]) -> list[str]:
    """Kill these runs, (name, device), `kills` times together; what went wrong."""
    rng, count, faults = random.Random(seed), Counter(), []
    for i, (name, device) in enumerate(cases):
        mine = kills // len(cases) + (i < kills % len(cases))
        outs = [at / f"{name.replace(' ', '_')}.{device[-1]}.{kind}" for kind in ("whole", "killed")]
        for out in outs:
            out.mkdir()
        words = [recipe(device, out) if name == "recipe" else command(name, device, out, at) for out in outs]
        begin = time.monotonic()
        whole = subprocess.run(words[0], cwd=ROOT, capture_output=True, text=True)
        seconds = time.monotonic() - begin
        assert whole.returncode == 0, whole.stdout[-600:] + whole.stderr[-600:]
        # each part gets that far by itself; rejection sampling has no state but its lines
        inside = 0 if name == "rejection" else -(-mine * 2 // 5)
        fault = tortured(words[1], outs[1], max(1.0, seconds / (mine + 1)), mine, inside, rng, count)
        if not fault:
            a, b = map(digest, outs)
            if differ := [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]:
                fault = f"differ from the run that nobody killed: {', '.join(differ[:5])}"
        print(f"{name} on {device}: {mine} kills, {fault or 'as the run that nobody killed'}", flush=True)
        faults += [f"{name} on {device}: {fault}"] if fault else []
    print(f"{count['kills']} kills, {count['inside']} inside a write, {count['one_rank']} of one rank; all "
        f"processes had ended {count['slowest']:.1f} s later at most")
    return faults


# --------------------------------------------------------------------------------------- damage and resources


def damaged(at: Path, places: int, seed: int) -> list[str]:
    """Damage every file of a state and of a model: the state before it is used, the model is refused, and the
    file is named each time. What went wrong."""
    import checkpoint  # the rest of this file needs no torch
    from config import UserError

    faults, count = [], Counter()
    out = at / "stopped"
    process = start(command("grpo", "cpu:1", out, at))
    while not (out / "state/previous/manifest.sha256").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    model, other = at / "base", at / "other"
    shutil.copytree(model, other)
    checkpoint.save_model(checkpoint.load_model(out / "state"), other)
    for dir, elsewhere in ((out / "state", out / "state/previous"), (model, other)):
        for file in files_of(dir):
            whole = file.read_bytes()
            for kind, damage in DAMAGES.items():
                for i in range(places if kind in ("flipped", "truncated") else 1):
                    if damage(file, random.Random(f"{seed}/{i}"), elsewhere / file.name):
                        try:
                            checkpoint.load_model(dir)
                            problem = ""
                            if dir.name == "state" and checkpoint.newest_state(dir) == elsewhere:
                                problem = checkpoint.damage(dir, ["state.pt"])  # as it was said
                        except UserError as error:
                            problem = str(error)
                        count[dir.name] += 1
                        if file.name not in problem or "\n" in problem:
                            faults.append(f"{dir.name}/{file.name} {kind}: {problem or 'nobody has noticed'}")
                    file.write_bytes(whole)
        checkpoint.load_model(dir)
    print(f"damaged files: {count['state']} of a state, {count['base']} of a model, {len(faults)} not named")
    return faults


def resources(at: Path) -> list[str]:
    """A full disk, one that becomes read-only, and a folder that vanishes, while a run writes its states: one
    line, exit code 2, the last state is whole, and once there is room again the run goes on. What went wrong.
    The disk is a small tmpfs in a name space of its own (unshare)."""
    faults = []
    for cause in ("full", "read-only", "removed"):
        disk = at / f"disk.{cause}"
        disk.mkdir()
        words = command("grpo", "cpu:1", disk / "run", at)
        holder = subprocess.Popen(["unshare", "-Urm", "sh", "-c",
            f"mount -t tmpfs -o size=96m none {disk} && exec sleep 600"])
        enter = ["nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials"]
        while subprocess.run([*enter, "mountpoint", "-q", str(disk)], stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.1)

        def shell(line, enter=enter):
            return subprocess.run([*enter, "sh", "-c", line], capture_output=True, text=True)

        process = start([*enter, *words])
        while shell(f"test -e {disk}/run/state/previous/state.pt").returncode:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        shell({"full": f"cat /dev/zero > {disk}/other", "read-only": f"mount -o remount,ro {disk}",
            "removed": f"mv {disk}/run {disk}/elsewhere"}[cause])
        said, code = process.communicate(timeout=120)[0], process.returncode
        last = said.splitlines()[-1] if said else ""
        shell({"full": f"rm {disk}/other", "read-only": f"mount -o remount,rw {disk}",
            "removed": f"rm -rf {disk}/run; mv {disk}/elsewhere {disk}/run"}[cause])
        again = subprocess.run([*enter, *words], cwd=ROOT, capture_output=True, text=True)
        resumed = "resuming after step" in again.stdout and again.returncode == 0
        print(f"disk {cause}: exit code {code}, {last!r}; then {'resumed' if resumed else 'NOT resumed'}",
            flush=True)
        if code != 2 or "Traceback" in said or not last.startswith("error: ") or not resumed:
            faults.append(f"disk {cause}: {said[-500:]} {again.stdout[-300:]} {again.stderr[-300:]}")
        holder.kill()
    return faults


def soak(at: Path, minutes: float):
    """Train in two processes for so long, saving every few seconds: resident memory, open files, threads and
    processes of all of them, every ten seconds, and their slopes per hour by least squares, without the
    first fifth."""
    words = command("grpo", "cpu:2", at / "soak", at)
    words += ["--steps", "1000000", "--lr", "1e-5"]  # hardly: a random reward leads nowhere
    process, seen = start([*words, "--eval_every", "50", "--save_minutes", "0.1"]), []
    sink = open(at / "soak.txt", "w")
    reader = threading.Thread(target=lambda: sink.writelines(process.stdout), daemon=True)
    reader.start()
    begin = time.monotonic()
    while time.monotonic() < begin + 60 * minutes:
        time.sleep(10)
        assert process.poll() is None, "the run has ended"
        pids = processes(process.pid)
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        seen.append(((time.monotonic() - begin) / 3600, pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids), len(pids)))
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    kept = seen[len(seen) // 5 :]
    hours = [row[0] for row in kept]
    middle = sum(hours) / len(hours)
    steps = len((at / "soak/metrics.jsonl").read_text().splitlines())
    print(f"soak: {minutes:.0f} minutes, {steps} rows of metrics, {len(kept)} readings")
    for i, name in enumerate(("resident MiB", "open files", "threads", "processes"), 1):
        column = [row[i] for row in kept]
        mean = sum(column) / len(column)
        slope = sum((h - middle) * (c - mean) for h, c in zip(hours, column, strict=True)) / sum(
            (h - middle) ** 2 for h in hours)
        print(f"{name}: {column[0]:.1f} to {column[-1]:.1f}, mean {mean:.1f}, slope {slope:+.2f} per hour")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--soak", type=float, default=0, help="minutes")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--places", type=int, default=100, help="flipped bits per file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", default="out/torture", help="an empty folder for the runs")
    args = parser.parse_args()
    at = Path(args.at).resolve()
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    prepare(at)
    if args.soak:
        return soak(at, args.soak)
    faults = killed_runs(at, args.kills, args.seed, [(name, device) for name in [*RUNS, "recipe"]
        for device in ("cpu:1", "cpu:2")])
    faults += damaged(at, args.places, args.seed) + resources(at)
    print("\n".join([f"{len(faults)} faults", *faults]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
