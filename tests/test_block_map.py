"""docs/block.svg: made again from the running modules; its shapes and its links are true."""

import ast
import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from config import PRESETS, ModelConfig
from report.block_map import ARROWS, BOXES, drawing, measured, shape_text

ROOT = Path(__file__).parent.parent
TINY = ModelConfig(**PRESETS["tiny"])
SVG = {"s": "http://www.w3.org/2000/svg"}


def defined(path: Path, names: list[str]) -> bool:
    """Whether a file defines names[0], and in it names[1], ..."""
    node = ast.parse(path.read_text())
    for name in names:
        node = next((n for n in node.body if getattr(n, "name", None) == name), None)
        if node is None:
            return False
    return True


def test_the_map_is_made_again_from_the_modules():
    assert (ROOT / "docs/block.svg").read_text() == drawing(TINY)


def test_every_box_links_to_a_file_and_a_function_that_exist():
    tree = ET.parse(ROOT / "docs/block.svg")
    links = tree.findall(".//s:a", SVG)
    assert len(links) == len(BOXES) > 15
    for link in links:
        file = (ROOT / "docs" / link.get("href")).resolve()
        code = link.find(".//s:text[@class='code']", SVG).text
        module, *names = code.split(".")
        assert file == ROOT / f"{module}.py" and names and defined(file, names), code
    assert not defined(ROOT / "mla.py", ["MLA", "attend_nowhere"])


def test_the_shapes_are_measured_and_the_letters_fit_them():
    shapes = measured(TINY)
    assert {box.name for box in BOXES} - set(shapes) == {"absorbed", "decoded"}  # inside of `decode`
    text = (ROOT / "docs/block.svg").read_text()
    for box in BOXES:
        assert shape_text(box, TINY, shapes) in text
    assert "(B, T, C+R) = (B, T, 80)" in text and "(E, 2F, D) = (8, 128, 128)" in text
    with pytest.raises(ValueError, match="latent"):
        shape_text(next(b for b in BOXES if b.name == "latent"), dataclasses.replace(TINY, kv_lora_rank=48),
            shapes)


def test_another_model_gives_another_map():
    wider = dataclasses.replace(TINY, v_head_dim=24, n_routed_experts=4)
    assert "(E, 2F, D) = (4, 128, 128)" in drawing(wider) and "(N, H, W) = (N, 4, 24)" in drawing(wider)


def test_equations_1_to_16_are_on_the_map_and_arrows_join_boxes():
    numbers = set()
    for box in BOXES:
        parts = re.findall(r"(\d+)(?: to (\d+))?", box.equations)
        numbers |= {n for first, last in parts for n in range(int(first), int(last or first) + 1)}
    assert numbers == set(range(1, 17))
    names = [box.name for box in BOXES]
    ends = [pair.split() for pair in ARROWS.split(", ")]
    assert {name for pair in ends for name in pair} == set(names)
