"""Test-time compute: ways to spend more tokens on one problem than one sample does.

Budget forcing cuts the thinking short or refuses its end (s1, arXiv 2501.19393); Monte Carlo tree search goes
over lines of thinking. Both call `sample.generate` with prompts that already hold a part of the completion;
the noise is keyed by problem and sample, so ranks change nothing. (More samples and a vote: curves.py.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from data.tokenizer import Tokenizer
from sample import generate

ANSWER_TOKENS = 48  # for the answer, after the thinking was cut
WAIT = " wait\n"  # what takes the place of a refused end of thinking
# --------------------------------------------------------------------------------------------- budget forcing


def thinking_end(tokenizer: Tokenizer, completion: list[int]) -> int:
    """Where `</think>` stands in a completion; its length where the thinking does not end."""
    close = tokenizer.think_ids[1]
    return completion.index(close) if close in completion else len(completion)


def without_end(tokenizer: Tokenizer, completion: list[int]) -> list[int]:
    return completion[:-1] if completion and completion[-1] == tokenizer.eos_id else completion


def force_answer(model, tokenizer: Tokenizer, prompts: list[list[int]], completions: list[list[int]],
        budget: int, *, boxed: bool = False, prompt_ids: list[int], **sampling) -> list[list[int]]:
    """Budget forcing, downwards (s1, sec. 3.1): thinking longer than `budget` tokens is cut there,
    `</think>` newline `<answer>` (boxed: without `<answer>`) is appended and the model writes the answer.
    The other completions stay. A sampler with this budget would have sampled the same: the tokens before the
    cut do not depend on what comes later. The tag that opens the thinking does not count."""
    opening = tokenizer.think_ids[0]
    close = tokenizer.encode("</think>\n" + "<answer>" * (not boxed), tags=True)
    out, cut = list(completions), []
    for i, completion in enumerate(completions):
        start = int(completion[:1] == [opening])
        if thinking_end(tokenizer, completion) > start + budget or tokenizer.think_ids[1] not in completion:
            out[i] = without_end(tokenizer, completion[: start + budget]) + close
            cut.append(i)
    if cut:
        tails = generate(model, [prompts[i] + out[i] for i in cut], max_new_tokens=ANSWER_TOKENS,
            eos_id=tokenizer.eos_id, prompt_ids=[prompt_ids[i] for i in cut], **sampling)
        for i, tail in zip(cut, tails.completions, strict=True):
            out[i] = out[i] + tail
    return out


def think_on(model, tokenizer: Tokenizer, prompts: list[list[int]], completions: list[list[int]], limit: int,
        *, prompt_ids: list[int], **sampling) -> list[list[int]]:
    """Budget forcing, upwards: where the thinking ended, its end is refused, "wait" is put in its place and
    the model goes on, to `limit` tokens in all. Completions that have no room or never ended stay."""
    wait, out = tokenizer.encode(WAIT), list(completions)
    ends = [thinking_end(tokenizer, c) for c in completions]
    again = [i for i, end in enumerate(ends) if end < len(completions[i]) and end + len(wait) < limit]
    if again:
        heads = [completions[i][: ends[i]] + wait for i in again]
        tails = generate(model, [prompts[i] + head for i, head in zip(again, heads, strict=True)],
            max_new_tokens=limit - min(map(len, heads)), eos_id=tokenizer.eos_id,
            prompt_ids=[prompt_ids[i] for i in again], **sampling)
        for i, head, tail in zip(again, heads, tails.completions, strict=True):
            out[i] = (head + tail)[:limit]
    return out


# ----------------------------------------------------------------------------------- Monte Carlo tree search


@dataclass
class Node:
    """A completion so far, cut at the end of a line of thinking; its children add one line each."""

    tokens: list[int]
    done: bool = False  # a whole completion
    visits: int = 0
    total: float = 0.0  # sum of the values of the rollouts through here
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict)


def select(root: Node, explore: float, low: float, high: float) -> list[Node]:
    """The path from the root to the node to expand. UCT (Kocsis and Szepesvari 2006): go to the child with
    the highest Q + explore sqrt(ln N / n), Q scaled to 0..1 by the tree's extreme values (MuZero, arXiv
    1911.08265, eq. 5). Lines are too many to list, so a node of N visits gets up to sqrt(N) children, rounded
    up (progressive widening), sampled from the policy, which is the prior. Finished children are not visited
    again."""
    path = [root]
    while True:
        node = path[-1]
        live = [child for child in node.children.values() if not child.done]
        if not live or len(node.children) < math.ceil(math.sqrt(node.visits)):
            return path

        def bound(child, visits=node.visits):
            q = (child.total / child.visits - low) / (high - low) if high > low else 0.0
            return q + explore * math.sqrt(math.log(visits) / child.visits)

        path.append(max(live, key=bound))


def first_line(tokenizer: Tokenizer, tokens: list[int]) -> int:
    """How many of the tokens make the next step: to the first line break of the thinking, or all of them."""
    for i, token in enumerate(tokens[: thinking_end(tokenizer, tokens)]):
        if b"\n" in tokenizer.encoding.decode_single_token_bytes(token):
            return i + 1
    return len(tokens)


def tree_search(model, tokenizer: Tokenizer, prompts: list[list[int]], budget: float,
        value: Callable[[list[int], list[str], list[int], list[bool]], list[float]], *, max_new_tokens: int,
        explore: float, seed: int, prompt_ids: list[int], **sampling) -> list[list[dict]]:
    """Search over lines of thinking, all problems side by side: a simulation selects a node, samples from it
    to the end, adds the sample's first line as a child and the sample's value to every node of the path.

    value(problems, texts, lengths, finished) judges whole completions; `problems` are positions in `prompts`.
    A problem stops where one more rollout of its mean length would miss the token `budget` by more than
    stopping does. Only tokens that were sampled count. Returns each problem's rollouts: {text, value, new
    (tokens sampled), tokens (length), finished}."""
    roots, done = [Node([]) for _ in prompts], [[] for _ in prompts]
    spent, round = [0] * len(prompts), 0
    while True:
        active = [i for i, n in enumerate(spent) if not done[i] or n + n / len(done[i]) / 2 < budget]
        if not active:
            return done
        paths = []
        for i in active:
            values = [r["value"] for r in done[i]] or [0.0]
            paths.append(select(roots[i], explore, min(values), max(values)))
        rooms = [max_new_tokens - len(path[-1].tokens) for path in paths]
        round += 1
        out = generate(model, [prompts[i] + path[-1].tokens for i, path in zip(active, paths, strict=True)],
            max_new_tokens=max(rooms), eos_id=tokenizer.eos_id, seed=seed + (round << 32),
            prompt_ids=[prompt_ids[i] for i in active], **sampling)
        tails = [tail[:room] for tail, room in zip(out.completions, rooms, strict=True)]
        wholes = [path[-1].tokens + tail for path, tail in zip(paths, tails, strict=True)]
        texts = [tokenizer.decode_completion(w) for w in wholes]
        finished = [w[-1] == tokenizer.eos_id for w in wholes]
        values = value(active, texts, [len(w) for w in wholes], finished)
        for i, path, tail, whole, text, v, end in zip(active, paths, tails, wholes, texts, values, finished,
                strict=True):
            step = tuple(tail[: first_line(tokenizer, tail)])
            child = path[-1].children.setdefault(step, Node(path[-1].tokens + list(step)))
            child.done = len(step) == len(tail) or len(child.tokens) >= max_new_tokens
            for node in [*path, child]:
                node.visits, node.total = node.visits + 1, node.total + v
            spent[i] += len(tail)
            done[i].append({"text": text, "value": v, "new": len(tail), "tokens": len(whole),
                "finished": end})
