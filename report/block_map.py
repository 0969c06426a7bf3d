"""A map of the tensors through one block, attention (MLA) and mixture of experts: docs/block.svg.

    python report/block_map.py [docs/block.svg]

The shapes are those of preset `tiny`, read from its modules while they run. Equation numbers: DeepSeek-V3,
arXiv 2412.19437, eq. 1 to 16. Each box links to the file of the code that computes it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))  # the root; a script starts with its own folder

import torch

from config import PRESETS, ModelConfig, run_script
from model import Transformer

LAYER = 1  # the first that has experts
SIZES = {"B": 3, "T": 5, "P": 1, "S": 7}  # of the run that is measured; in the map they stay letters


class Box(NamedTuple):
    """A tensor: its shape's letters must fit what was measured under `name`, or, without a measurement, are
    read as numbers of the config."""

    name: str
    x: int
    y: int  # row
    what: str
    shape: str  # axes between commas, factors between spaces, sums with +: "B T, H U+R"
    equations: str
    code: str  # module.Class.function


LEFT, MIDDLE, RIGHT = 40, 380, 720
WIDTH, HEIGHT, ROW = 280, 62, 100
BOXES = [
    Box("h", MIDDLE, 0, "h, what the block is given", "B, T, D", "", "model.Block"),
    Box("norm", MIDDLE, 1, "x = RMSNorm(h)", "B, T, D", "", "model.Block"),
    Box("q", LEFT, 2, "q = W_Q x", "B, T, H, U+R", "6 to 8", "mla.MLA.project_queries"),
    Box("latent", MIDDLE, 2, "c = W_DKV x, k_R = RoPE(W_KR x)", "B, T, C+R", "1, 3", "mla.MLA.latent"),
    Box("turned", LEFT, 3, "q_R, turned by RoPE (q_C is not)", "B, T, H, R", "8, 9", "mla.MLA.queries"),
    Box("kv", MIDDLE, 3, "k_C = W_UK c, v = W_UV c", "B, T, H U+W", "2, 5", "mla.MLA.forward"),
    Box("o", MIDDLE, 4, "o = softmax(q k / sqrt(U+R)) v", "B, T, H W", "4, 9, 10", "mla.MLA.forward"),
    Box("cache", RIGHT, 3, "cache: c and k_R of each token", "P, S, C+R", "", "mla.MLA.decode"),
    Box("absorbed", RIGHT, 4, "q = [q_C W_UK, q_R]: no keys", "N, H, C+R", "", "mla.MLA.decode"),
    Box("decoded", RIGHT, 5, "o = softmax(q [c, k_R]) c W_UV", "N, H, W", "10", "mla.MLA.decode"),
    Box("u", MIDDLE, 6, "u = W_O o", "B, T, D", "11", "mla.MLA"),
    Box("sum", MIDDLE, 7, "h + u", "B, T, D", "", "model.Block"),
    Box("norm2", MIDDLE, 8, "x = RMSNorm(h + u)", "B, T, D", "", "model.Block"),
    Box("scores", LEFT, 9, "s = sigmoid(x e)", "B T, E", "15", "moe.Router"),
    Box("chosen", LEFT, 10, "the K largest s + b", "B T, K", "14, 16", "moe.Router.choose"),
    Box("weights", LEFT, 11, "g = s / sum of the chosen s", "B T, K", "13", "moe.Router"),
    Box("gate_up", MIDDLE, 9, "W_gate and W_up of E experts", "E, 2F, D", "", "moe.Experts"),
    Box("routed", MIDDLE, 11, "sum of g FFN(x) over K experts", "B T, D", "12", "moe.Experts"),
    Box("shared", RIGHT, 11, "FFN(x) of the shared expert", "B, T, D", "12", "moe.MoE"),
    Box("moe", MIDDLE, 12, "routed + shared", "B, T, D", "12", "moe.MoE"),
    Box("out", MIDDLE, 13, "h + u + experts: the next block's h", "B, T, D", "12", "model.Block"),
]
ARROWS = ("h norm, norm q, norm latent, q turned, turned o, turned absorbed, latent kv, latent cache, kv o, "
    "absorbed decoded, cache decoded, o u, decoded u, u sum, sum norm2, norm2 scores, norm2 gate_up, "
    "norm2 shared, scores chosen, chosen weights, weights routed, gate_up routed, routed moe, shared moe, "
    "moe out, h sum, sum out")
PANELS = [  # (title, is it at the bottom, first row, last row, left edge, right edge)
    ("Multi-head Latent Attention", True, 2, 6, LEFT - 20, RIGHT + WIDTH + 60),
    ("training, prefill", False, 3, 4, MIDDLE - 12, MIDDLE + WIDTH + 12),
    ("decoding", False, 3, 5, RIGHT - 12, RIGHT + WIDTH + 48),
    ("Mixture of experts", True, 9, 12, LEFT - 20, RIGHT + WIDTH + 60),
]


LEGEND = {"D": "width", "H": "heads", "C": "latent", "R": "rotary key", "U": "other key", "W": "value",
    "E": "experts", "K": "of them per token", "F": "expert width"}


def letters(cfg: ModelConfig) -> dict[str, int]:
    """What each letter is in this config: the legend of model.py."""
    return {"D": cfg.hidden_size, "H": cfg.num_attention_heads, "C": cfg.kv_lora_rank,
        "R": cfg.qk_rope_head_dim, "U": cfg.qk_nope_head_dim, "W": cfg.v_head_dim,
        "E": cfg.n_routed_experts, "K": cfg.num_experts_per_tok, "F": cfg.moe_intermediate_size}


def size(axis: str, values: dict[str, int]) -> int:
    """An axis as a number: "H U+R" is H times the sum of U and R, "2F" twice F."""
    total = 1
    for factor in axis.split():
        total *= sum(int(term[:-1] or 1) * values[term[-1]] for term in factor.split("+"))
    return total


def measured(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of one pass, from hooks on the block's modules, and of the cache that a prefill fills."""
    model, seen = Transformer(cfg).init_weights(), {}
    block = model.layers[LAYER]
    mla, moe = block.self_attn, block.mlp
    def keep(name, module, part=lambda args, out: out):
        def hook(module, args, out):
            seen[name] = tuple(part(args, out).shape)

        module.register_forward_hook(hook)

    for name, module in (("norm", block.input_layernorm), ("kv", mla.kv_b_proj), ("u", mla.o_proj),
            ("norm2", block.post_attention_layernorm), ("routed", moe.experts), ("moe", moe),
            ("shared", moe.shared_experts)):
        keep(name, module)
    for name, at in (("weights", 0), ("chosen", 1), ("scores", 2)):
        keep(name, moe.gate, lambda args, out, at=at: out[at])
    keep("o", mla.o_proj, lambda args, out: args[0])
    x = torch.randn(SIZES["B"], SIZES["T"], cfg.hidden_size)
    freqs = model.freqs(torch.arange(SIZES["T"]))
    with torch.no_grad():
        out, _ = block(x, freqs, None)
        some = {"h": x, "sum": x, "out": out, "q": mla.project_queries(x), "turned": mla.queries(x, freqs)[1],
            "latent": mla.latent(x, freqs), "gate_up": moe.experts.gate_up_proj}
        tokens = torch.zeros(SIZES["P"], SIZES["S"], dtype=torch.long)
        block_shapes = dict(seen)  # the prefill below runs the same hooks
        _, cohort = model.prefill(tokens, torch.tensor([SIZES["S"]]), 1)
    some["cache"] = cohort.caches[LAYER].prefix.squeeze(1)  # one head for all
    return block_shapes | {name: tuple(tensor.shape) for name, tensor in some.items()}


def shape_text(box: Box, cfg: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> str:
    """`B, T, H, U+R = B, T, 4, 48`. Raises ValueError where the letters do not fit the measured shape."""
    values, axes = letters(cfg), box.shape.split(", ")
    if box.name in shapes:
        expected = tuple(size(axis, values | SIZES) for axis in axes)
        if shapes[box.name] != expected:
            raise ValueError(f"{box.name}: {box.shape} would be {expected}, it is {shapes[box.name]}")
    numbers = [str(size(axis, values)) if set(axis) & set(values) else axis for axis in axes]
    return f"({box.shape}) = ({', '.join(numbers)})"


def middle(box: Box) -> int:
    return box.x + WIDTH // 2


def top(row: int) -> int:
    return 116 + row * ROW


def drawn_arrow(source: Box, target: Box) -> str:
    """Sideways in a row; else from the bottom of a box to the top of the other, past a box between them."""
    x, y, u, v = middle(source), top(source.y) + HEIGHT, middle(target), top(target.y) - 6
    if source.y == target.y:
        return f'<path d="M{source.x + WIDTH} {y - HEIGHT // 2} H{target.x - 6}"/>'
    if any(box.x == source.x == target.x and source.y < box.y < target.y for box in BOXES):
        side, y, v = source.x + WIDTH, y - HEIGHT // 2, v + HEIGHT // 2
        return f'<path d="M{side} {y} C{side + 44} {y + 30} {side + 44} {v - 30} {side + 6} {v}"/>'
    return f'<path d="M{x} {y} C{x} {y + 20} {u} {y + 2} {u} {y + 24} V{v}"/>'


def drawn_box(box: Box, shape: str) -> str:
    y, module = top(box.y), box.code.split(".")[0]
    equation = f"eq. {box.equations}" if box.equations else ""
    return "\n".join([f'<a href="../{module}.py"><g id="{box.name}"><title>{box.code}</title>',
        f'<rect class="box" x="{box.x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="what" x="{box.x + 10}" y="{y + 19}">{box.what}</text>',
        f'<text class="shape" x="{box.x + 10}" y="{y + 37}">{shape}</text>',
        f'<text class="code" x="{box.x + 10}" y="{y + 54}">{box.code}</text>',
        f'<text class="eq" x="{box.x + WIDTH - 10}" y="{y + 54}">{equation}</text></g></a>'])


STYLE = """
svg { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --box: #f6f6f3; --panel: #e9eef7;
  --quiet: #62666d; --link: #1a5fb4; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e6e3; --paper: #17181a; --box: #2a2c30;
  --panel: #1d2430; --quiet: #a0a4ab; --link: #8ab4f8; } }
.paper { fill: var(--paper); } .box { fill: var(--box); stroke: var(--quiet); }
.panel { fill: var(--panel); stroke: var(--quiet); stroke-opacity: .4; } text { fill: var(--ink); }
.what { font-weight: 600; } .title { font-size: 17px; font-weight: 600; }
.shape, .quiet { fill: var(--quiet); } .shape { font: 12px ui-monospace, Menlo, Consolas, monospace; } 
.code { fill: var(--link); font-size: 12px; }
.eq { font-size: 12px; text-anchor: end; } path { fill: none; stroke: var(--quiet); stroke-width: 1.5;
  marker-end: url(#head); } marker path { fill: var(--quiet); stroke: none; marker-end: none; }
"""


def drawing(cfg: ModelConfig) -> str:
    shapes, values, boxes = measured(cfg), letters(cfg), {box.name: box for box in BOXES}
    wide, high = RIGHT + WIDTH + 80, top(max(box.y for box in BOXES)) + HEIGHT + 20
    cached, whole = size("C+R", values), size("H U+R", values) + size("H W", values)
    legend = [", ".join(f"{k} {word} = {values[k]}" for k, word in LEGEND.items()),
        "B sequences of T tokens, N rows that decode, P prompts of S tokens. "
        "Equations: DeepSeek-V3, arXiv 2412.19437.",
        f"The cache keeps C+R = {cached} numbers of a token; its keys and values would be {whole}. "
        "Without a query latent (tiny has none) eq. 6 to 8 are one projection."]
    panels = [f'<rect class="panel" x="{left}" y="{top(first) - 24}" width="{right - left}" '
        f'height="{top(last) - top(first) + HEIGHT + 34}" rx="8"/>'
        f'<text class="{"title" if low else "quiet"}" x="{left + 12}" '
        f'y="{top(last) + HEIGHT - 6 if low else top(first) - 9}">{title}</text>'
        for title, low, first, last, left, right in PANELS]
    arrows = [drawn_arrow(*(boxes[name] for name in pair.split())) for pair in ARROWS.split(", ")]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}">',
        f"<style>{STYLE}</style>", '<defs><marker id="head" viewBox="0 0 8 8" refX="2" refY="4" '
        'markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>',
        f'<rect class="paper" width="{wide}" height="{high}"/>',
        '<text class="title" x="20" y="30">One block of preset tiny: attention, then experts</text>',
        *(f'<text class="quiet" x="20" y="{52 + 19 * i}">{line}</text>'
            for i, line in enumerate(legend)),
        *panels, *arrows, *(drawn_box(box, shape_text(box, cfg, shapes)) for box in BOXES), "</svg>", ""])


def main():
    path = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent.parent / "docs" / "block.svg"
    path.write_text(drawing(ModelConfig(**PRESETS["tiny"])), encoding="ascii")
    print(f"map: {path}")


if __name__ == "__main__":
    run_script(main)
