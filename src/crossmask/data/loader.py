"""Batches from the cache: a batch is a function of (seed, step) and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossmask.core import Batch, Labelled, Unlabelled, number, rng
from crossmask.data import sides
from crossmask.data.cache import Store
from crossmask.data.manifest import Case
from crossmask.data.transforms import Augment, Draw, cut_out, draw, intensity, warp


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


@dataclass(frozen=True)
class Half:
    """Some rows of a batch before their pixels move; arrays of length B."""

    rows: np.ndarray  # of the store
    drawn: Draw
    sentence: np.ndarray  # rows of the words, -1 none
    absent: np.ndarray  # (B, M) bool, modalities that are dropped
    seed: int  # of the noise


class Loader:
    """Training batches of some rows of a store: a labelled half, and an unlabelled one where ``unlabelled`` > 0.

    sentences: (cases, 4) rows of ``words`` for each case and turn, -1 none; allowed: (cases, 4) bool.
    With several processes each gets its share of the same global batch.
    """

    def __init__(
        self,
        store: Store,
        rows: Sequence[int] | np.ndarray,
        *,
        words: Words,
        sentences: np.ndarray,
        allowed: np.ndarray,
        augment: Augment,
        batch: int,
        seed: int,
        unlabelled_rows: Sequence[int] | np.ndarray = (),
        unlabelled: int = 0,
        strong: Augment | None = None,
        context: int = 0,
        foreground: float = 0.0,
        text_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        device: str | torch.device = "cpu",
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.store, self.rows, self.unlabelled_rows = store, np.asarray(rows), np.asarray(unlabelled_rows, int)
        self.words, self.sentences, self.allowed = words, sentences, allowed
        self.placeless = (sentences == sentences[:, :1]).all(1) & allowed.all(1)  # the same in every turn
        self.augment, self.strong, self.seed = augment, strong or augment, seed
        self.batch_size, self.unlabelled, self.context = batch, unlabelled, context
        self.text_dropout, self.modality_dropout = text_dropout, modality_dropout
        self.foreground, self.holding = foreground, rows_of_classes(store, self.rows) if foreground else []
        self.device = torch.device(device)
        self.process, self.processes = process, processes
        self.orders: dict[tuple[str, int], np.ndarray] = {}

    def chosen(self, step: int, name: str = "order") -> np.ndarray:
        """Rows of the global batch's half of a step: whole epochs, each shuffled anew."""
        rows, count = (self.rows, self.batch_size) if name == "order" else (self.unlabelled_rows, self.unlabelled)
        first = step * count * self.processes
        wanted = np.arange(first, first + count * self.processes)
        epochs, places = wanted // len(rows), wanted % len(rows)
        needed = {(name, epoch) for epoch in epochs.tolist()}  # three and more where there are few rows
        self.orders = {k: order for k, order in self.orders.items() if k[0] != name or k in needed}
        for key in needed - self.orders.keys():
            self.orders[key] = rng(self.seed, *key).permutation(len(rows))
        found = rows[[self.orders[name, e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]]
        return self.with_foreground(found, step) if name == "order" and self.holding else found

    def with_foreground(self, rows: np.ndarray, step: int) -> np.ndarray:
        """The rows, some of them exchanged for one that holds a class drawn at random (as nnU-Net oversamples)."""
        generator = rng(self.seed, "foreground", step)
        changed = generator.random(len(rows)) < self.foreground
        kind = generator.integers(len(self.holding), size=len(rows))
        place = generator.random(len(rows))
        drawn = [
            self.holding[k][int(p * len(self.holding[k]))] for k, p in zip(kind.tolist(), place.tolist(), strict=True)
        ]
        return np.where(changed, drawn, rows)

    def half(self, step: int, name: str) -> Half:
        """What is drawn for this process's part of the labelled ('order') or unlabelled ('unlabelled') half."""
        generator = rng(self.seed, "batch" if name == "order" else f"batch {name}", step)
        rows = self.chosen(step, name)
        case = self.store.case[rows]
        drawn_all = draw(generator, self.allowed[case], self.augment, self.placeless[case])
        silent = generator.random(len(rows)) < self.text_dropout
        modalities = self.store.present.shape[1]
        absent = generator.random((len(rows), modalities)) < self.modality_dropout
        keep = generator.integers(modalities, size=len(rows))
        absent[np.arange(len(rows)), keep] = False  # one modality always stays
        count = len(rows) // self.processes
        own = slice(self.process * count, (self.process + 1) * count)
        drawn = type(drawn_all)(**{n: value[own] for n, value in vars(drawn_all).items()})
        sentence = np.where(silent[own], -1, self.sentences[case[own], drawn.turn])
        noise = number(self.seed, "noise" if name == "order" else f"noise {name}", step, self.process)
        return Half(rows[own], drawn, sentence, absent[own], noise)

    def read(self, half: Half) -> Tensor:
        order = np.argsort(half.rows)  # reading a memory map in order
        back = np.argsort(order)
        return pixels(self.store.read(half.rows[order], self.context)[back], self.device)

    def masks(self, half: Half) -> Tensor:
        return torch.from_numpy(np.asarray(self.store.masks[half.rows])).to(self.device)

    def present(self, half: Half) -> Tensor:
        there = self.store.present[self.store.case[half.rows]]
        dropped = half.absent & (there & ~half.absent).any(1, keepdims=True)  # never the last one that is there
        return torch.from_numpy(there & ~dropped).to(self.device)

    def ids(self, half: Half) -> tuple[str, ...]:
        slices = self.store.slices[half.rows]
        names = [self.store.ids[c] for c in self.store.case[half.rows]]
        return tuple(n if s < 0 else f"{n}, slice {s}" for n, s in zip(names, slices.tolist(), strict=True))

    def batch(self, step: int) -> Batch:
        half = self.half(step, "order")
        text, text_mask, text_id = self.words.rows(half.sentence)
        moved, labels = warp(self.read(half), self.masks(half), half.drawn)
        moved = intensity(moved, half.drawn, half.seed)
        assert labels is not None
        labelled = Labelled(self.ids(half), moved, self.present(half), text, text_mask, text_id, labels)
        return Batch(labelled, self.unlabelled_half(step) if self.unlabelled else None)

    def unlabelled_half(self, step: int) -> Unlabelled:
        """Weak and strong view of the same rows under the same geometry; nothing of a mask is in it."""
        half = self.half(step, "unlabelled")
        text, text_mask, text_id = self.words.rows(half.sentence)
        moved, _ = warp(self.read(half), None, half.drawn)
        weak = intensity(moved, half.drawn, half.seed)
        harder = draw(rng(self.seed, "strong", step, self.process), np.ones((len(half.rows), 4), bool), self.strong)
        strong = cut_out(intensity(moved, harder, half.seed + 1), harder)
        return Unlabelled(self.ids(half), weak, strong, self.present(half), text, text_mask, text_id)

    def held_masks(self, step: int) -> tuple[Tensor, Tensor]:
        """The masks (B, H, W) that the unlabelled half does not show, and which of them exist (B,): for the log alone.

        Nothing that trains may call this.
        """
        half = self.half(step, "unlabelled")
        _, labels = warp(self.masks(half)[:, None].float(), self.masks(half), half.drawn)
        assert labels is not None
        return labels, torch.from_numpy(self.store.labelled[self.store.case[half.rows]]).to(self.device)


def rows_of_classes(store: Store, rows: np.ndarray) -> list[np.ndarray]:
    """For each foreground class that any of the rows holds, the rows that hold it."""
    present = np.stack([np.bincount(store.masks[row].ravel(), minlength=256) > 0 for row in rows.tolist()])
    return [rows[holds] for holds in present.T[1:] if holds.any()]


def pixels(stored: np.ndarray, device: torch.device | str) -> Tensor:
    """Stored uint8 or float16 (B, C, H, W) -> float in [0, 1], channels last."""
    image = torch.from_numpy(np.ascontiguousarray(stored)).to(device)
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    return image.to(memory_format=torch.channels_last)
