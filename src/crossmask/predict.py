"""Prediction: from pictures and sentences to masks on the source's own grid."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmask import checkpoint as checkpoints
from crossmask import parts
from crossmask.core import Geometry, Prediction
from crossmask.data import sides
from crossmask.data.images import Picture, read_image
from crossmask.data.volumes import SUFFIXES, is_volume, part_of
from crossmask.errors import CallError, DataError
from crossmask.files import read_json
from crossmask.recipe import Recipe
from crossmask.run import Run

if TYPE_CHECKING:
    from crossmask.predict_volumes import Opened3D


def probabilities(logits: Tensor) -> Tensor:
    """(B, 1, H, W) -> foreground (B, H, W); (B, K, H, W) -> (B, K, H, W), background first. float32."""
    logits = logits.float()
    return logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def at_zooms(answer: Callable[[Tensor], Tensor], image: Tensor, zooms: Sequence[float]) -> Tensor:
    """Probabilities of image (B, C, H, W): the mean of those at several sizes, each relative to (H, W).

    answer: image (B, C, h, w) -> logits (B, K, h, w).
    """
    full, found = image.shape[-2:], []
    for zoom in zooms:
        share = probabilities(answer(resized(image, [max(1, round(side * zoom)) for side in full])))
        found.append(resized(share.flatten(0, -3)[:, None], full).reshape(*share.shape[:-2], *full))
    return torch.stack(found).mean(0)


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) bilinearly at another size, smoothed where it shrinks."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    shrinks = any(new < old for new, old in zip(size, values.shape[-2:], strict=True))
    return F.interpolate(values, size=list(size), mode="bilinear", align_corners=False, antialias=shrinks)


def autocast(recipe: Recipe, device: Any) -> contextlib.AbstractContextManager[Any]:
    """The recipe's precision, in training and in prediction."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=recipe.train.precision == "bf16")


@dataclass(frozen=True)
class Query:
    """What is known about one case when it is to be segmented."""

    id: str
    image: Any  # a path, a PIL image, an array (H, W) or (H, W, 3), or a mapping modality -> one of these
    text: str | None = None
    side_convention: str | None = None  # whose left the sentence means; None: as the run was trained
    spacing: tuple[float, ...] | None = None


class Predictor:
    """A trained run, loaded once. ``predict(image, text="...")`` -> :class:`~crossmask.core.Prediction`."""

    def __init__(self, run: str | Path | Run, *, checkpoint: str = "best", device: str = "cpu") -> None:
        self.run = run if isinstance(run, Run) else Run.open(run)
        self.device = torch.device(parts.checked_device(device))
        self.recipe, self.method, self.encoder = checkpoints.trained(
            self.run, which=checkpoint, device=str(self.device)
        )
        self.settings = parts.settings(self.recipe)
        self.manifest = self.run.manifest()
        self.states: dict[str, np.ndarray] = {}
        self.cut: set[str] = set()

    @property
    def threshold(self) -> float:
        """The share above which a pixel is foreground (binary runs)."""
        chosen = self.recipe.evaluate.threshold
        if chosen != "selected":
            return float(chosen)
        path = self.run.folder / "selection.json"
        return float(read_json(path)["threshold"]) if path.is_file() else 0.5

    @property
    def has_branches(self) -> bool:
        """Whether each modality has a branch with an answer of its own."""
        network = self.method.network
        single = network if isinstance(network, torch.nn.ModuleList) else getattr(network.decoder, "single", ())
        return len(single) == len(self.settings.modalities) > 1

    @property
    def gated(self) -> bool:
        """Whether the network learns how much of its answer is the words' (CMG-Net)."""
        return bool(getattr(getattr(self.method, "answering", None), "gated", False))

    # --- sentences ---------------------------------------------------------------------------------------------------
    def learn(self, sentences: Iterable[str | None], *, keep: bool = False) -> None:
        """Have the states of these sentences at hand; ``keep``: also on disk."""
        if self.encoder is None:
            return
        fresh = sorted({s for s in sentences if s is not None} - self.states.keys())
        if not fresh:
            return
        table = parts.text_table(self.encoder, fresh, keep=keep)
        assert table is not None
        for sentence, row in table.index.items():
            self.states[sentence] = table.tokens[row][table.mask[row]]
        self.cut |= set(table.truncated)

    def words(self, sentences: Sequence[str | None]) -> tuple[Tensor | None, Tensor | None]:
        """text (B, L, D) and text_mask (B, L); None, None for a run without sentences."""
        if self.encoder is None:
            return None, None
        self.learn(sentences)
        states = [self.states.get(s) if s is not None else None for s in sentences]
        known = [s for s in states if s is not None]
        if not known:
            return None, None
        length = max(len(s) for s in known)
        tokens = torch.zeros(len(states), length, known[0].shape[1])
        mask = torch.zeros(len(states), length, dtype=torch.bool)
        for row, state in enumerate(states):
            if state is not None:
                tokens[row, : len(state)], mask[row, : len(state)] = torch.from_numpy(state), True
        return tokens.to(self.device), mask.to(self.device)

    # --- the model's grid --------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def shares(
        self,
        image: Tensor,
        sentences: Sequence[str | None],
        *,
        present: Tensor | None = None,
        conventions: Sequence[str] | None = None,
        branch: int | None = None,
    ) -> Tensor:
        """Probabilities on the model's grid: image (B, C, H, W) in [0, 1] -> (B, H, W) or (B, K, H, W).

        branch: the answer of one of the network's branches.

        With ``evaluate.mirror`` the mirrored picture with its mirrored sentence is averaged in; a sentence that
        cannot follow (sides of unknown convention) leaves its case as it is. ``evaluate.zooms``: see :func:`at_zooms`.
        """
        image = image.to(self.device, memory_format=torch.channels_last)
        straight = self._answer(image, sentences, present, branch)
        if not self.recipe.evaluate.mirror:
            return straight
        conventions = conventions or [self.recipe.data.sides] * len(sentences)
        turned = [
            None if s is None else sides.variant(s, "mirrored", "unknown" if c == "as-is" else c)
            for s, c in zip(sentences, conventions, strict=True)
        ]
        follows = torch.tensor(
            [t is not None or s is None for s, t in zip(sentences, turned, strict=True)], device=self.device
        )
        mirrored = self._answer(image.flip(-1), turned, present, branch).flip(-1)
        weight = (0.5 * follows).view(-1, *[1] * (straight.ndim - 1))
        return straight * (1 - weight) + mirrored * weight

    @torch.inference_mode()
    def text_share(
        self,
        image: Tensor,
        sentences: Sequence[str | None],
        *,
        present: Tensor | None = None,
        conventions: Sequence[str] | None = None,
    ) -> Tensor:
        """Of a network with a gate between image and words: the words' share (B, H, W) on the model's grid, of the
        picture as it is (neither mirrored nor zoomed)."""
        network = self.method.answering
        image = image.to(self.device, memory_format=torch.channels_last)
        text, text_mask = self.words(sentences)
        with autocast(self.recipe, self.device):
            _, features = network(image, text, text_mask, present, features=True)
        return network.text_share(features, (image.shape[-2], image.shape[-1])).float()

    def _answer(
        self, image: Tensor, sentences: Sequence[str | None], present: Tensor | None, branch: int | None
    ) -> Tensor:
        text, text_mask = self.words(sentences)
        one = {} if branch is None else {"branch": branch}
        with autocast(self.recipe, self.device):
            return at_zooms(
                lambda at: self.method.predict(at, text, text_mask, present, **one), image, self.recipe.evaluate.zooms
            )

    # --- the source's grid -------------------------------------------------------------------------------------------
    def native(self, share: Tensor, shape: tuple[int, int]) -> np.ndarray:
        """One case's probabilities (H, W) or (K, H, W) on its own grid, float32."""
        return self.settings.grid.back(share, shape).cpu().numpy()

    def labels(self, probability: np.ndarray) -> np.ndarray:
        """Probabilities -> labels (h, w) uint8."""
        if probability.ndim == 3:
            return probability.argmax(0).astype(np.uint8)
        return (probability > self.threshold).astype(np.uint8)

    def predict(
        self,
        image: Any,
        text: str | None = None,
        *,
        id: str | None = None,
        side_convention: str | None = None,
        spacing: tuple[float, ...] | None = None,
        probability: bool = False,
    ) -> Prediction:
        """Segment one picture or volume with what is known about it.

        image: a path (of a picture, a NIfTI volume, a folder of one DICOM series), a PIL image, an array (H, W) or
        (H, W, 3) (uint8, or float in [0, 1]), or a mapping of modality to these. text: its sentence, if there is one.
        side_convention: whose left the sentence means.
        """
        name = id or (stem(image) if isinstance(image, str | Path) else "image")
        query = Query(name, image, text, side_convention, spacing)
        return self.predict_many([query], probability=probability)[0]

    def predict_many(self, queries: Sequence[Query], *, probability: bool = False) -> list[Prediction]:
        """Several at once; they need not share a size. Volumes go one by one, whatever their number."""
        found: dict[int, Prediction] = {}
        flat = [i for i, q in enumerate(queries) if not holds_volume(q)]
        if flat:
            opened = [self.open(queries[i]) for i in flat]
            found = dict(zip(flat, self.segment(opened, probability), strict=True))
        for i, query in enumerate(queries):
            if i not in found:
                found[i] = self.predict_volume(query, probability=probability)
        return [found[i] for i in range(len(queries))]

    def predict_volume(self, query: Query, *, probability: bool = False) -> Prediction:
        """One volume; mask and probability in the source file's own axes."""
        return self.segment_volume(query, self.open_volume(query), probability=probability)

    def open_volume(self, query: Query) -> Opened3D:
        """Read a query's volumes."""
        from crossmask import predict_volumes

        return predict_volumes.open_case(self, {name: str(path) for name, path in self._given(query).items()})

    def segment_volume(self, query: Query, case: Opened3D, *, probability: bool = False) -> Prediction:
        from crossmask import predict_volumes

        text, convention, more = self._sentence(query)
        missing = [n for n, v in zip(self.settings.modalities, case.volumes, strict=True) if v is None]
        notes = [*case.notes, *more, *(f"modality '{n}' is not there" for n in missing)]
        labels, share = predict_volumes.segment(self, case, text, convention, probability=probability)
        return Prediction(
            query.id,
            case.grid.as_in_file(labels),
            case.grid.geometry(),
            case.grid.as_in_file(share) if share is not None else None,
            (*notes, *self._size_warnings((case.shape[1], case.shape[2]))),
            ("background", *self.settings.classes),
        )

    def _given(self, query: Query) -> Mapping[str, Any]:
        """The query's images by modality."""
        given = query.image if isinstance(query.image, Mapping) else {next(iter(self.settings.modalities)): query.image}
        unknown = sorted(set(given) - set(self.settings.modalities) - {""})
        if unknown:
            raise CallError(f"'{unknown[0]}' is no modality of this run; it has {', '.join(self.settings.modalities)}.")
        return given

    def segment(self, opened: Sequence[Opened], probability: bool) -> list[Prediction]:
        image = torch.from_numpy(np.stack([o.image for o in opened]))
        present = torch.tensor([o.present for o in opened], device=self.device)
        shares = self.shares(
            image, [o.text for o in opened], present=present, conventions=[o.convention for o in opened]
        )
        found = []
        for one, share in zip(opened, shares, strict=True):
            on_source = self.native(share, one.geometry.shape)  # type: ignore[arg-type]
            cut = (f"the sentence was cut at {self.recipe.text.get('max_length', 128)} tokens",)
            warnings = one.warnings + (cut if one.text in self.cut else ())
            mask, kept = self.labels(on_source), on_source if probability else None
            names = ("background", *self.settings.classes)
            found.append(Prediction(one.id, mask, one.geometry, kept, warnings, names))
        return found

    def open(self, query: Query) -> Opened:
        """Read a query's pictures onto the model's grid."""
        given = self._given(query)
        planes, present, notes = [], [], []
        shape: tuple[int, int] | None = None
        shown: np.ndarray | None = None
        spacing = query.spacing
        for name, channels in self.settings.modalities.items():
            source = given.get(name, given.get("") if name == "image" else None)
            present.append(source is not None)
            if source is None:
                planes.append(np.zeros((channels, *self.settings.grid.size), np.float32))
                notes.append(f"modality '{name}' is not there")
                continue
            picture = as_picture(source, channels)
            size = (int(picture.pixels.shape[-2]), int(picture.pixels.shape[-1]))
            if shape is not None and size != shape:
                raise DataError(
                    f"case '{query.id}': its modalities differ in size ({shape} and {size}); align them first."
                )
            shape, spacing = size, spacing or picture.spacing_mm
            notes += picture.notes
            shown = picture.unit() if shown is None else shown
            image = self.settings.grid.image(picture.unit())
            if self.settings.precision == "uint8":  # exactly what the cache would have held
                image = np.round(image * 255).clip(0, 255) / np.float32(255)
            planes.append(image)
        if shape is None or shown is None:
            raise DataError(f"case '{query.id}': none of the run's modalities is given.")
        text, convention, more = self._sentence(query)
        source_name = str(query.image) if isinstance(query.image, str | Path) else query.id
        geometry = Geometry(source_name, shape, spacing)
        notes += [*more, *self._size_warnings(shape)]
        image = np.concatenate(planes).astype(np.float32)
        return Opened(query.id, image, shown, tuple(present), text, convention, geometry, tuple(notes))

    def _sentence(self, query: Query) -> tuple[str | None, str, list[str]]:
        """The sentence as the run reads it, its side convention, and warnings."""
        learnt = self.recipe.data.sides
        text = query.text.strip() or None if query.text is not None else None
        if self.encoder is None:
            return None, "unknown", ["this run reads no sentences; the text was not used"] if text else []
        if text is None:
            return None, "unknown", ["no text: the run's no-text state was used"]
        have = query.side_convention or ("unknown" if learnt == "as-is" else learnt)
        if learnt != "as-is" and have != "unknown":
            text, have = sides.to_convention(text, have, learnt), learnt
        guessed = query.side_convention is None and sides.names_side(text)
        note = [f"'left' was taken to mean the {learnt}'s left"] if guessed and learnt != "as-is" else []
        return text, have, note

    def _size_warnings(self, shape: tuple[int, int]) -> list[str]:
        low, high = self.manifest.get("native_sizes", [[0, 0], [1 << 30, 1 << 30]])
        if any(s < 0.5 * a or s > 2 * b for s, a, b in zip(shape, low, high, strict=True)):
            return [f"size {shape[1]}x{shape[0]} is unlike training's ({low[1]}x{low[0]} to {high[1]}x{high[0]})"]
        return []


@dataclass(frozen=True)
class Opened:
    """A query on the model's grid."""

    id: str
    image: np.ndarray  # (C, H, W) float32 in [0, 1]
    picture: np.ndarray  # the first modality as it was, (1 or 3, h, w) float32 in [0, 1]
    present: tuple[bool, ...]
    text: str | None
    convention: str
    geometry: Geometry
    warnings: tuple[str, ...]


def holds_volume(query: Query) -> bool:
    """Whether the query's (first) image is read as a volume."""
    image = next(iter(query.image.values()), None) if isinstance(query.image, Mapping) else query.image
    return isinstance(image, str | Path) and is_volume(image)


def stem(path: str | Path) -> str:
    """A file's name without its ending ('.nii.gz' is one ending), with the number of a part; a folder's whole name
    (UIDs are full of dots).

    >>> stem("a/flair.nii.gz"), stem("4d.nii.gz#2"), stem("a.b.png")
    ('flair', '4d_2', 'a.b')
    """
    file, number = part_of(path)
    name = Path(file).name
    if Path(file).is_dir():
        return name
    ending = next((e for e in SUFFIXES if name.lower().endswith(e)), Path(name).suffix)
    return name.removesuffix(name[len(name) - len(ending) :]) + (f"_{number}" if number is not None else "")


def as_picture(source: Any, channels: int) -> Picture:
    """A path, PIL image or array as a picture of ``channels`` channels."""
    if isinstance(source, str | Path):
        return read_image(source, channels=channels)
    array = np.asarray(source)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].transpose(2, 0, 1)
    else:
        raise CallError(f"an image array has the shape (H, W) or (H, W, 3), not {array.shape}.")
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise CallError("an image array of floats must lie in [0, 1]; divide by its largest value first.")
    if channels == 1 and len(array) == 3:
        grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), array.astype(np.float32), 1)[None]
        array = np.round(grey).astype(np.uint8) if array.dtype == np.uint8 else grey
    if channels == 3 and len(array) == 1:
        array = np.repeat(array, 3, 0)
    return Picture(array, 8 if array.dtype == np.uint8 else 32, None, ())
