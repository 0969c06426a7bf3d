"""The R1 recipe as a picture: the stages of `make r1`, what each starts from, one measured result of each.

    python report/diagram.py        # writes assets/recipe.svg

A box is a row of STAGES, an arrow a row of ARROWS. The results are those of docs/recipe.md; a test compares.
"""

from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT, GAP_X, GAP_Y, LEFT, TOP = 178, 84, 32, 64, 16, 48  # of a box, between boxes, before the first
COLORS = {"pretraining": "#e8e8e8", "SFT": "#fde9c4", "RL": "#cfe3f8", "reward model": "#e4d7f2"}
PAGE = (5 * WIDTH + 4 * GAP_X + 2 * LEFT, TOP + 3 * HEIGHT + 2 * GAP_Y + 78)  # width, height


class Stage(NamedTuple):
    name: str  # the folder of `make r1`
    column: int
    row: int
    kind: str  # a row of COLORS
    what: str
    label: str  # of the line of docs/recipe.md that has the result
    result: str  # as it is there
    of: str = "pass@1"  # what the result is


STAGES = [
    Stage("zero", 1, 0, "RL", "R1-Zero: RL from base", "1 r1-zero", "49.8 +- 4.6"),
    Stage("zero_language", 2, 0, "RL", "+ language reward", "1b with language reward", "98.8 +- 0.2",
        "consistency"),
    Stage("base", 0, 1, "pretraining", "next-token, web pages", "0 base", "5.3 +- 0.9"),
    Stage("cold", 1, 1, "SFT", "curated long chains", "2 cold start", "39.7 +- 1.9"),
    Stage("reasoning", 2, 1, "RL", "rewards by rules", "3 reasoning RL", "62.6 +- 2.7"),
    Stage("rejection", 3, 1, "SFT", "SFT of base", "4 rejection + SFT", "67.5 +- 4.8"),
    Stage("scenarios", 4, 1, "RL", "rules + reward model", "5 all scenarios", "65.9 +- 3.9"),
    Stage("dense_base", 0, 2, "pretraining", "the same, dense model", "6b its base", "4.9 +- 0.9"),
    Stage("dense_rl", 1, 2, "RL", "RL on the dense model", "6c RL on it", "47.4 +- 4.8"),
    Stage("distilled", 3, 2, "SFT", "distillation", "6 distilled, dense", "67.8 +- 2.8"),
    Stage("reward", 4, 2, "reward model", "on preference pairs", "The preference model ranks",
        "65.2, 59.6, 54.7", "right"),
]
# (from, to, solid = weights or dashed = data or scores, label); the way is chosen by `route`
ARROWS = [
    ("base", "zero", True, ""), ("base", "zero_language", True, ""), ("base", "cold", True, ""),
    ("cold", "reasoning", True, ""), ("base", "rejection", True, "weights of base"),
    ("reasoning", "rejection", False, ""), ("rejection", "scenarios", True, ""),
    ("rejection", "reward", True, ""), ("reward", "scenarios", False, "scores"),
    ("rejection", "distilled", False, "its data"), ("dense_base", "dense_rl", True, ""),
    ("dense_base", "distilled", True, "weights of dense_base"),
]


def corner(stage: Stage) -> tuple[int, int]:
    """The upper left corner of a stage's box."""
    return LEFT + stage.column * (WIDTH + GAP_X), TOP + stage.row * (HEIGHT + GAP_Y)


def route(a: Stage, b: Stage) -> list[tuple[int, int]]:
    """The corners of the arrow's way from a to b: straight to a neighbour, else around the boxes between."""
    (ax, ay), (bx, by) = corner(a), corner(b)
    middle, half = HEIGHT // 2, WIDTH // 2
    if a.row == b.row and b.column == a.column + 1:
        return [(ax + WIDTH, ay + middle), (bx, by + middle)]
    if a.row == b.row:  # below the boxes between them
        end, under = bx + half - 50, ay + HEIGHT + GAP_Y // 2 - 8
        return [(ax + half, ay + HEIGHT), (ax + half, under), (end, under), (end, by + HEIGHT)]
    if a.column == b.column:
        start, end = (ay + HEIGHT, by) if a.row < b.row else (ay, by + HEIGHT)
        return [(ax + half, start), (bx + half, end)]
    if b.row < a.row and b.column == a.column + 1:  # up, then right
        return [(ax + half, ay), (ax + half, by + middle), (bx, by + middle)]
    if b.row < a.row:  # up and over the box between them
        return [(ax + half - 24, ay), (ax + half - 24, by - 20), (bx + half, by - 20), (bx + half, by)]
    between, low = ax + WIDTH + GAP_X // 2, ay + HEIGHT - 14  # down in the gap between two columns
    return [(ax + WIDTH, low), (between, low), (between, by + middle), (bx, by + middle)]


def text(x: int, y: int, words: str, size: int, *, anchor: str = "middle", weight: str = "normal",
        color: str = "#222") -> str:
    return (f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{color}">{words}</text>')


def box(stage: Stage) -> list[str]:
    x, y = corner(stage)
    middle = x + WIDTH // 2
    return [f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{COLORS[stage.kind]}" '
        'stroke="#666"/>',
        text(middle, y + 24, stage.name, 16, weight="bold"), text(middle, y + 46, stage.what, 13),
        text(middle, y + 70, f"{stage.of} {stage.result} %", 12, weight="bold", color="#14532d")]


def line(points: list[tuple[int, int]], solid: bool) -> str:
    way = " ".join(f"{x},{y}" for x, y in points)
    dashes = "" if solid else 'stroke-dasharray="5 4" '
    return (f'<polyline points="{way}" fill="none" stroke="#444" stroke-width="1.6" {dashes}'
        'marker-end="url(#tip)"/>')


def arrow(start: str, end: str, solid: bool, label: str) -> list[str]:
    stages = {stage.name: stage for stage in STAGES}
    points = route(stages[start], stages[end])
    out = [line(points, solid)]
    if label:
        (x0, y0), (x1, y1) = points[len(points) // 2 - 1 : len(points) // 2 + 1]
        flat = y0 == y1
        out.append(text((x0 + x1) // 2 if flat else x0 + 8, y0 - 6 if flat else (y0 + y1) // 2 + 4, label, 12,
            anchor="middle" if flat else "start", color="#444"))
    return out


def legend() -> list[str]:
    y, x, out = PAGE[1] - 26, LEFT, []
    for kind, color in COLORS.items():
        out += [f'<rect x="{x}" y="{y - 12}" width="22" height="15" rx="3" fill="{color}" stroke="#666"/>',
            text(x + 29, y, kind, 13, anchor="start")]
        x += 52 + 8 * len(kind)
    for solid, label in ((True, "starts from these weights"), (False, "uses its samples or scores")):
        out += [line([(x, y - 4), (x + 34, y - 4)], solid), text(x + 42, y, label, 13, anchor="start")]
        x += 62 + 7 * len(label)
    return out


def diagram() -> str:
    """The whole picture as SVG."""
    width, height = PAGE
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>The stages of make r1, what each starts from, and one measured result of each</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for row in ARROWS:
        parts += arrow(*row)
    for stage in STAGES:
        parts += box(stage)
    return "\n".join([*parts, *legend(), "</svg>"]) + "\n"


def main():
    path = Path(__file__).parent.parent / "assets" / "recipe.svg"
    path.write_text(diagram(), encoding="ascii")
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
