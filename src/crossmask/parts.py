"""A recipe's parts, built: cache settings, text encoder, network, method, sentences on the model's side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from crossmask import rooms
from crossmask.data.cache import Settings
from crossmask.data.grid import Grid
from crossmask.data.loader import Words
from crossmask.errors import CallError
from crossmask.files import cache_folder
from crossmask.recipe import Recipe, numbers
from crossmask.text.features import TextEncoder, TextTable, Tick, table


def settings(recipe: Recipe) -> Settings:
    data = recipe.data
    return Settings(
        Grid(data.grid_size, data.fit),
        dict(data.modalities),
        data.labels,
        data.precision,
        dict(data.windows),
        data.context,
    )


def classes(recipe: Recipe) -> int:
    """K of the logits: 1 with a sigmoid for two labels, else one a label with a softmax."""
    labels = recipe.data.labels
    return 1 if labels is None or len(labels) == 2 else len(labels)


def text_encoder(recipe: Recipe) -> TextEncoder | None:
    """None when the recipe reads no sentences."""
    name, options = recipe.options("text")
    if name is None or recipe.data.text is None:
        return None
    return rooms.door("text encoder", name)(**as_numbers(options))


def as_numbers(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the doors want them: YAML's lists as tuples, its '3e-4' as a number."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in numbers(options).items()}


@dataclass(frozen=True)
class Maker:
    """``make(**overrides)`` builds the recipe's network; ``make.channels`` are those of its modalities."""

    door: Callable[..., nn.Module]
    options: Mapping[str, Any]

    @property
    def channels(self) -> tuple[int, ...]:
        return self.options["channels"]

    def __call__(self, **overrides: Any) -> nn.Module:
        return self.door(**{**self.options, **overrides})


def network_maker(recipe: Recipe, text_dim: int | None, *, pretrained: bool = True) -> Maker:
    name, options = recipe.options("model")
    door = rooms.door("network", name)
    fixed = {"channels": settings(recipe).channels, "classes": classes(recipe), "text_dim": text_dim}
    later = {} if pretrained or "weights" not in rooms.options(door) else {"weights": "none"}
    return Maker(door, fixed | as_numbers(options) | later)


def method(recipe: Recipe, text_dim: int | None, *, pretrained: bool = True, teacher: nn.Module | None = None) -> Any:
    """The recipe's method with its networks. ``pretrained=False`` when a checkpoint fills them anyway."""
    name, options = recipe.options("method")
    make = network_maker(recipe, text_dim, pretrained=pretrained)
    return rooms.door("method", name)(make, teacher=teacher, **as_numbers(options))


def text_table(
    encoder: TextEncoder | None, sentences: Sequence[str], *, keep: bool = True, tick: Tick | None = None
) -> TextTable | None:
    """The sentences' states, from the cache folder (``keep``) or encoded afresh."""
    if encoder is None:
        return None
    return table(encoder, sentences, cache_folder() / "text" if keep else None, tick=tick)


def words(found: TextTable | None, device: torch.device | str) -> Words:
    if found is None:
        return Words(torch.zeros(0, 1, 1, device=device), torch.zeros(0, 1, dtype=torch.bool, device=device))
    return Words(torch.from_numpy(found.tokens).to(device), torch.from_numpy(found.mask).to(device))


def sentence_rows(found: TextTable | None, sentences: Sequence[str | None]) -> np.ndarray:
    """Rows of the table, -1 for no sentence."""
    if found is None:
        return np.full(len(sentences), -1)
    return np.array([found.lookup(s) for s in sentences], int)


def checked_device(name: str) -> str:
    """'auto' is the first GPU, or the CPU without one. A device that is not there is an error in a sentence."""
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if name == "auto":
        return gpu or "cpu"
    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if kind not in ("cuda", "mps") or (index and not index.isdigit()):
        raise CallError(f"--device {name}: say auto, cpu, cuda, cuda:1 or mps.")
    if int(index or 0) >= count:
        raise CallError(
            f"--device {name}: torch sees {count} such devices here ('crossmask doctor'); use --device cpu."
        )
    if kind == "cuda" and index:
        torch.cuda.set_device(int(index))
    return name
