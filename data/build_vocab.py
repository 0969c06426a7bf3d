"""Builds data/vocab.tiktoken from data/corpus.txt: a byte-level BPE (Sennrich et al., arXiv 1508.07909; on
bytes as in GPT-2) with the same splitting rule as the tokenizer. Run `python data/build_vocab.py`; the
result is byte-identical."""

import base64
import re
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from data.tokenizer import MERGES, VOCAB_FILE  # noqa: E402

ASCII_PATTERN = (
    r" ?[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]|\s+(?!\S)|\s"  # tokenizer.PATTERN on the corpus, which is ASCII
)


def train(text: str, merges: int) -> list[bytes]:
    """The 256 bytes and `merges` merges, in rank order. Ties go to the smaller pair, so the result is
    reproducible."""
    vocab = [bytes([b]) for b in range(256)]
    words = Counter(tuple(bytes([b]) for b in w.encode()) for w in re.findall(ASCII_PATTERN, text))
    while len(vocab) < 256 + merges:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            raise SystemExit(f"the corpus allows only {len(vocab) - 256} merges")
        best = min(pairs, key=lambda p: (-pairs[p], p))
        vocab.append(best[0] + best[1])
        words = Counter({merged(word, best): count for word, count in words.items()})
    return vocab


def merged(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """The word with every occurrence of the pair joined, left to right."""
    out, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


if __name__ == "__main__":
    vocab = train((HERE / "corpus.txt").read_text(encoding="ascii"), MERGES)
    lines = [f"{base64.b64encode(t).decode()} {rank}\n" for rank, t in enumerate(vocab)]
    VOCAB_FILE.write_text("".join(lines), encoding="utf-8")
    print(f"{VOCAB_FILE}: {len(vocab)} tokens; the last ten merges: {vocab[-10:]}")
