"""Batches from the cache: a batch is a function of (seed, step) and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossmask.core import Batch, Labelled, number, rng
from crossmask.data import sides
from crossmask.data.cache import Store
from crossmask.data.manifest import Case
from crossmask.data.transforms import Augment, draw, intensity, warp


@dataclass(frozen=True)
class Words:
    """The sentences of a run on the model's side: tokens (N, L, D) and mask (N, L)."""

    tokens: Tensor
    mask: Tensor

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """text (B, L, D), text_mask (B, L), text_id (B,) of sentence rows; -1 is no sentence."""
        ids = torch.from_numpy(np.asarray(index, np.int64)).to(self.tokens.device)
        there = ids >= 0
        if len(self.tokens) == 0:
            width = self.tokens.shape[-1]
            empty = torch.zeros(len(ids), 1, width, device=ids.device)
            return empty, torch.zeros(len(ids), 1, dtype=torch.bool, device=ids.device), ids
        rows = ids.clamp_min(0)
        mask = self.mask[rows] & there[:, None]
        length = max(int(mask.sum(1).max()), 1)
        return self.tokens[rows, :length], mask[:, :length], ids


def says(case: Case, wording: str | None, convention: str) -> str | None:
    """The case's sentence under the run's side convention ('as-is' leaves every sentence alone)."""
    text = case.texts.get(wording) if wording is not None else None
    if text is None or convention == "as-is":
        return text
    return sides.to_convention(text, case.side_convention, convention)


def convention_of(case: Case, convention: str) -> str:
    """Whose left it is in what :func:`says` gives."""
    known = case.side_convention != "unknown"
    return convention if known and convention != "as-is" else case.side_convention


def variants(case: Case, wording: str | None, convention: str) -> list[str | None]:
    """What the sentence says after each of ``sides.TURNS``; None where it cannot follow (or there is none)."""
    text = says(case, wording, convention)
    if text is None:
        return [None] * len(sides.TURNS)
    return [sides.variant(text, turn, convention_of(case, convention)) for turn in sides.TURNS]


class Loader:
    """Labelled training batches of some rows of a store.

    sentences: (N_rows, 4) rows of ``words`` for each case and turn, -1 none; allowed: (N_rows, 4) bool.
    With several processes each gets its share of the same global batch.
    """

    def __init__(
        self,
        store: Store,
        rows: Sequence[int],
        *,
        words: Words,
        sentences: np.ndarray,
        allowed: np.ndarray,
        augment: Augment,
        batch: int,
        seed: int,
        text_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        channels: Sequence[int] = (1,),
        device: str | torch.device = "cpu",
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.store, self.rows = store, np.asarray(rows)
        self.words, self.sentences, self.allowed = words, sentences, allowed
        self.augment, self.batch_size, self.seed = augment, batch, seed
        self.text_dropout, self.modality_dropout = text_dropout, modality_dropout
        self.channels, self.device = tuple(channels), torch.device(device)
        self.process, self.processes = process, processes
        self.orders: dict[int, np.ndarray] = {}

    def chosen(self, step: int) -> np.ndarray:
        """Positions (into ``rows``) of the global batch of a step: whole epochs, each shuffled anew."""
        first = step * self.batch_size * self.processes
        wanted = np.arange(first, first + self.batch_size * self.processes)
        epochs, places = wanted // len(self.rows), wanted % len(self.rows)
        for epoch in set(epochs.tolist()) - self.orders.keys():
            self.orders = {e: o for e, o in self.orders.items() if e >= epoch - 1}
            self.orders[epoch] = rng(self.seed, "order", epoch).permutation(len(self.rows))
        return np.array([self.orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)])

    def batch(self, step: int) -> Batch:
        generator = rng(self.seed, "batch", step)
        positions = self.chosen(step)
        drawn_all = draw(generator, self.allowed[positions], self.augment)
        silent = generator.random(len(positions)) < self.text_dropout
        absent = generator.random((len(positions), len(self.channels))) < self.modality_dropout
        keep = generator.integers(len(self.channels), size=len(positions))
        absent[np.arange(len(positions)), keep] = False  # one modality always stays
        own = slice(self.process * self.batch_size, (self.process + 1) * self.batch_size)
        drawn = type(drawn_all)(**{name: value[own] for name, value in vars(drawn_all).items()})
        positions = positions[own]
        rows = self.rows[positions]
        order = np.argsort(rows)  # reading a memory map in order
        back = np.argsort(order)
        image = pixels(self.store.images[rows[order]][back], self.device)
        mask = torch.from_numpy(np.asarray(self.store.masks[rows[order]][back])).to(self.device)
        sentence = np.where(silent[own], -1, self.sentences[positions, drawn.turn])
        text, text_mask, text_id = self.words.rows(sentence)
        moved, labels = warp(image, mask, drawn)
        moved = intensity(moved, drawn, number(self.seed, "noise", step, self.process))
        present = torch.from_numpy(self.store.present[rows] & ~absent[own]).to(self.device)
        assert labels is not None
        ids = tuple(self.store.ids[r] for r in rows)
        return Batch(Labelled(ids, moved, present, text, text_mask, text_id, labels))


def pixels(stored: np.ndarray, device: torch.device | str) -> Tensor:
    """Stored uint8 or float16 (B, C, H, W) -> float in [0, 1], channels last."""
    image = torch.from_numpy(np.ascontiguousarray(stored)).to(device)
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    return image.to(memory_format=torch.channels_last)
