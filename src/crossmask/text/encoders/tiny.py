"""A small encoder without weights for tests and smoke runs: words hashed to fixed random vectors.

Each word's state is the mean of its character trigrams' vectors, so that 'left' and 'right' differ and any
script works. No context: a word's state is the same in every sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from crossmask.core import rng
from crossmask.files import digest


class HashedText:
    """``encode(sentences)`` -> list of (L_i, D) float32 arrays, one row a word or sign (at least one)."""

    def __init__(self, width: int, max_length: int) -> None:
        self.width, self.max_length = width, max_length
        self.fingerprint = digest("tiny", 1, width, max_length)

    def words(self, sentence: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFC", sentence.lower())) or [""]

    def tokens(self, sentence: str) -> list[str]:
        return self.words(sentence)[: self.max_length]

    def overflow(self, sentence: str) -> int:
        return max(0, len(self.words(sentence)) - self.max_length)

    def state(self, word: str) -> np.ndarray:
        marked = f"<{word}>"
        pieces = [marked[i : i + 3] for i in range(max(len(marked) - 2, 1))]
        return np.mean([rng(0, "tiny", p).standard_normal(self.width) for p in pieces], 0).astype(np.float32)

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        return [np.stack([self.state(w) for w in self.tokens(s)]) for s in sentences]


def build(*, width: int = 32, max_length: int = 128) -> HashedText:
    return HashedText(width, max_length)
