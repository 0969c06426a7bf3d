"""README.md and docs/*.md: their files, functions, flags and commands exist, quotations are the source."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from test_house import FILES, ROOT

from report.diagram import STAGES, diagram

README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/*.md"))]
SOURCES = {path.stem: path for path in FILES}
OTHERS = {"torch"}  # modules of others that a page may name
WRITTEN = {"aha.md", "report.md"}  # by a run, into its folder
DATA = (".json", ".jsonl", ".png", ".svg", ".html", ".txt", ".md", ".safetensors")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def inline(path: Path) -> list[str]:
    """What stands in `backticks`, outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text()))


def commands(path: Path) -> list[list[str]]:
    """Every command of the page, in code blocks and in backticks, as words; without comments."""
    blocks = "\n".join(body for _, body in FENCE.findall(path.read_text())).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.startswith(("python ",
        "torchrun ", "make "))]
    words += [shlex.split(code) for code in inline(path) if re.match(
        r"(python |torchrun |make )|[\w/]+\.py --", code)]
    return words


def flags_of(script: Path) -> set[str]:
    """The options of a script: the fields of its Config and of what that extends, here or in eval.py or
    config.py, or what it compares its words with."""
    tree = ast.parse(script.read_text())
    shared = [node for name in ("config.py", "eval.py") for node in ast.parse((ROOT / name).read_text()).body]
    classes = {node.name: node for node in [*shared, *tree.body] if isinstance(node, ast.ClassDef)}
    if not any(isinstance(node, ast.ClassDef) and node.name == "Config" for node in tree.body):
        return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and str(node.value).startswith("--")}
    each = [classes["Config"]]
    for node in each:
        each += [classes[base.id] for base in node.bases]
    fields = [f"--{field.target.id.rstrip('_')}" for node in each for field in node.body
        if isinstance(field, ast.AnnAssign)]
    return {*fields, "--config", "--help", "--unsafe_code_execution"}


def defined(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """The names that a module or a class defines."""
    out = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            out[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            out |= {name.id: node for target in targets for name in ast.walk(target)
                if isinstance(name, ast.Name)}
    return out


def test_the_readme_is_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 230
    assert len(text.split()) <= 2400


@page
def test_a_page_is_ascii(path):
    path.read_bytes().decode("ascii")


@page
def test_every_relative_link_leads_to_a_file(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    inside = [target.partition("#")[0] for target in targets if not target.startswith(("http", "#"))]
    assert [target for target in inside if not (path.parent / target).exists()] == []


@page
def test_every_file_that_a_page_names_exists(path):
    names = [code.split()[0].partition("::")[0] for code in inline(path) if code.split()]
    files = [name for name in names if re.fullmatch(r"[\w/]+\.(py|md)", name)]
    assert [name for name in files if name not in WRITTEN and not (ROOT / name).exists()] == []


@page
def test_every_function_that_a_page_names_exists(path):
    for code in inline(path):
        if not re.fullmatch(r"[a-z_]\w*(\.[A-Za-z_]\w*)+", code) or code.endswith((".py", *DATA)):
            continue
        module, *names = code.split(".")
        if module in OTHERS:
            continue
        assert module in SOURCES, f"{code}: there is no {module}.py"
        body = ast.parse(SOURCES[module].read_text()).body
        for name in names:
            found = defined(body)
            assert name in found, f"{code}: {SOURCES[module]} has no {name}"
            body = getattr(found[name], "body", [])


@page
def test_every_command_of_a_page_exists_with_its_flags(path):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for words in commands(path):
        if words[0] == "make":
            goals = [word for word in words[1:] if re.fullmatch(r"\w+", word)]
            assert set(goals) <= targets, words
            continue
        at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        assert at is not None and (ROOT / words[at]).exists(), words
        used = {word.partition("=")[0] for word in words[at:] if word.startswith("--")}
        assert used <= flags_of(ROOT / words[at]), words


@page
def test_every_flag_that_a_page_names_is_one_of_ours(path):
    known = set.union(*(flags_of(source) for source in SOURCES.values()))
    named = {code.split()[0].partition("=")[0] for code in inline(path) if code.startswith("--")}
    assert named <= known


def test_the_readme_quotes_the_source():
    """The parts of a python block, between lines of dots, are lines of grpo.py one after the other."""
    source = (ROOT / "grpo.py").read_text().splitlines()
    blocks = [body for language, body in FENCE.findall(README.read_text()) if language == "python"]
    assert blocks
    at = 0
    for part in re.split(r"^ *\.\.\.\n", "\n".join(blocks), flags=re.M):
        lines = part.splitlines()
        at = next((i for i in range(at, len(source)) if source[i : i + len(lines)] == lines), None)
        assert at is not None, f"not in grpo.py, or not in this order:\n{part}"
        at += len(lines)


def test_the_readme_names_every_file_of_the_root_and_of_the_rooms():
    names = set(inline(README))
    files = {str(path.relative_to(ROOT)) for path in SOURCES.values()} - {"data/build_vocab.py"}
    assert sorted(files - names) == []


def test_the_picture_of_the_recipe_is_what_the_code_makes():
    assert (ROOT / "assets" / "recipe.svg").read_text() == diagram()


def test_the_results_in_the_picture_are_those_of_the_recipe_page():
    page = (ROOT / "docs" / "recipe.md").read_text().replace("| ", "").splitlines()
    for stage in STAGES:
        assert any(line.startswith(stage.label) and stage.result in line for line in page), stage
