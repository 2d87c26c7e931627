"""Token states, encoded once per distinct sentence and kept on disk.

A store is a folder named by the encoder's fingerprint (weights, tokenizer, length, layers). Each call that meets new
sentences adds one shard (safetensors), complete or absent; the loop reads a :class:`TextTable` and never runs the
language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock

from crossmask.errors import DataError
from crossmask.files import atomic, digest, sentence_for_write_errors

SHARD = 2048
Tick = Callable[[int, int], None]


class TextEncoder(Protocol):
    """What a text encoder's door gives."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def width(self) -> int: ...
    def overflow(self, sentence: str) -> int: ...
    def tokens(self, sentence: str) -> list[str]: ...
    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class TextTable:
    """All sentences of a run: row i of tokens (N, L, D) float32 and mask (N, L) bool is sentence i."""

    index: dict[str, int]
    tokens: np.ndarray
    mask: np.ndarray
    truncated: tuple[str, ...]  # sentences that lost tokens

    @property
    def width(self) -> int:
        return self.tokens.shape[-1]

    def lookup(self, sentence: str | None) -> int:
        """A sentence's row; -1 without one."""
        return -1 if sentence is None else self.index[sentence]


def table(
    encoder: TextEncoder, sentences: Sequence[str], folder: str | Path | None, *, tick: Tick | None = None
) -> TextTable:
    """The states of all distinct sentences, from disk where they are, encoded and kept where they are not."""
    distinct = sorted(set(sentences))
    known: dict[str, tuple[np.ndarray, bool]] = {}
    if folder is not None:
        store = Path(folder) / digest(encoder.fingerprint, "each sentence alone")
        with sentence_for_write_errors(store):
            store.mkdir(parents=True, exist_ok=True)
            with FileLock(store / "lock"):
                known = read_shards(store, set(distinct))
                missing = [s for s in distinct if s not in known]
                for start in range(0, len(missing), SHARD):
                    fresh = encode(encoder, missing[start : start + SHARD])
                    write_shard(store, fresh)
                    known |= fresh
                    if tick:
                        tick(min(start + SHARD, len(missing)), len(missing))
    else:
        known = encode(encoder, distinct)
    return assemble(distinct, known, encoder)


def encode(encoder: TextEncoder, sentences: Sequence[str]) -> dict[str, tuple[np.ndarray, bool]]:
    """Each sentence alone: in a batch, the last bits of its states would depend on what stands beside it."""
    return {s: (encoder.encode([s])[0], encoder.overflow(s) > 0) for s in sentences}


def assemble(distinct: list[str], known: dict[str, tuple[np.ndarray, bool]], encoder: TextEncoder) -> TextTable:
    length = max((len(known[s][0]) for s in distinct), default=1)
    width = known[distinct[0]][0].shape[1] if distinct else encoder.width
    tokens = np.zeros((len(distinct), length, width), np.float32)
    mask = np.zeros((len(distinct), length), bool)
    for row, sentence in enumerate(distinct):
        state = known[sentence][0]
        tokens[row, : len(state)], mask[row, : len(state)] = state, True
    cut = tuple(s for s in distinct if known[s][1])
    return TextTable({s: i for i, s in enumerate(distinct)}, tokens, mask, cut)


def name(sentence: str) -> str:
    return digest(sentence.encode("utf-8", "surrogatepass"))


def write_shard(store: Path, states: dict[str, tuple[np.ndarray, bool]]) -> None:
    from safetensors.numpy import save

    arrays: dict[str, Any] = {name(s): np.ascontiguousarray(state) for s, (state, _) in states.items()}
    arrays["truncated"] = np.array([cut for _, cut in states.values()], np.uint8)
    metadata = {"order": ",".join(name(s) for s in states)}
    with atomic(store / f"{digest(sorted(arrays))}.safetensors", "wb") as stream:
        stream.write(save(arrays, metadata))


def read_shards(store: Path, wanted: set[str]) -> dict[str, tuple[np.ndarray, bool]]:
    from safetensors import SafetensorError, safe_open

    by_name = {name(s): s for s in wanted}
    found: dict[str, tuple[np.ndarray, bool]] = {}
    for path in sorted(store.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as shard:
                order = shard.metadata()["order"].split(",")
                cut = shard.get_tensor("truncated")
                for row, key in enumerate(order):
                    if key in by_name:
                        found[by_name[key]] = (shard.get_tensor(key), bool(cut[row]))
        except SafetensorError as error:
            raise DataError(f"{path}: is no readable shard of sentence states; delete it and run again.") from error
    return found
