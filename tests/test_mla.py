"""Absorbed attention, the paper's trick for decoding, equals the form of its equations."""

import pytest
import torch
from test_attention import SHAPES, attention

from attention import rope_frequencies


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("mla")])
def test_absorbed_mla_matches_naive(name):
    cfg, layer = attention(SHAPES[name])
    x, freqs = torch.randn(2, 9, 24), rope_frequencies(cfg, 9)
    torch.testing.assert_close(layer.attend_absorbed(x, freqs), layer.attend_naive(x, freqs), rtol=1e-4,
        atol=1e-5)
