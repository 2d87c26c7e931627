"""Made-up chest films for the demo and the tests: the sentence, not the picture, says which lesion is meant.

Every film shows four lesions, one in each zone (upper and lower, left and right lung, as seen in the picture).
A case with a sentence has the one lesion it names as its mask, drawn uniformly; a case without has all four.
A network that ignores the text can do no better than to mark all four or to guess.

Case k is the same however many cases are made: its film and sentence come from a generator of its own, and
patient, part and what is missing are dealt from the first case to the last without looking ahead.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from scipy import ndimage

from crossmask.core import rng
from crossmask.data import manifest
from crossmask.data.images import write_picture
from crossmask.data.masks import write_mask
from crossmask.data.phantom_sentences import draw_text
from crossmask.errors import CallError, DataError
from crossmask.files import atomic_folder, digest, read_json, write_json

VERSION = 1  # raise it whenever the same settings would draw other films or sentences
FIELD_MM = 320.0  # a film's side
ZONES = (("left", "upper"), ("right", "upper"), ("left", "lower"), ("right", "lower"))
PARTS = {"train": 0.7, "valid": 0.1, "test": 0.2}
UNGROUPED = 0.1  # share of cases whose patient is unknown
FEWEST_CASES, SMALLEST_SIZE, GREATEST_SHARE = 8, 32, 0.9


@dataclass(frozen=True)
class Film:
    """One drawn case, before it is decided what of it is written."""

    pixels: np.ndarray  # (H, W) uint8
    lesions: np.ndarray  # (4, H, W) bool, in the order of ZONES
    target: int  # position in ZONES
    text: str


@dataclass(frozen=True)
class Place:
    """Where a case belongs and what it lacks."""

    group: str | None
    part: str
    has_text: bool
    has_mask: bool


def make(
    out: str | Path,
    *,
    cases: int = 600,
    size: int = 128,
    seed: int = 0,
    without_text: float = 0.1,
    without_mask: float = 0.1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the folder (images, masks, cases.csv, phantom.json), complete or not at all; returns cases.csv.

    ``without_text``: share of the cases, in each part, that have no sentence (their mask holds all lesions).
    ``without_mask``: share of train's cases with a sentence that have no mask. ``progress(done, total)`` is
    called after each case. A folder made before with the same settings is returned as it is.
    Raises CallError for a setting that is not possible and DataError if something else stands in ``out``.
    """
    settings = _settings(cases, size, seed, without_text, without_mask)
    out = Path(out)
    if _stands(out, settings):
        return out / "cases.csv"
    with atomic_folder(out) as part:
        _fill(part.resolve(), settings, progress)
    return out / "cases.csv"


def _settings(cases: int, size: int, seed: int, without_text: float, without_mask: float) -> dict[str, int | float]:
    """The settings as plain numbers, or one CallError that names the first that is not possible."""
    for name, value, least in (("cases", cases, FEWEST_CASES), ("size", size, SMALLEST_SIZE), ("seed", seed, None)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or (least is not None and value < least):
            bound = "" if least is None else f" of at least {least}"
            raise CallError(f"phantom: {name}={value!r} is not possible; give a whole number{bound}.")
    for name, share in (("without_text", without_text), ("without_mask", without_mask)):
        if not isinstance(share, Real) or isinstance(share, bool) or not 0 <= share <= GREATEST_SHARE:
            raise CallError(f"phantom: {name}={share!r} is not possible; give a share from 0 to {GREATEST_SHARE}.")
    return {
        "version": VERSION,
        "cases": int(cases),
        "size": int(size),
        "seed": int(seed),
        "without_text": float(without_text),
        "without_mask": float(without_mask),
    }


def _stands(out: Path, settings: dict[str, int | float]) -> bool:
    """Whether ``out`` holds this very phantom already; DataError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise DataError(f"{out}: is a file; choose another folder for the phantom.")
    if not (out / "phantom.json").is_file():
        raise DataError(f"{out}: holds other files; choose another folder for the phantom.")
    try:
        found = read_json(out / "phantom.json")
    except DataError:
        found = None
    there = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(there, dict):
        raise DataError(f"{out}: its phantom.json does not say how it was made; choose another folder.")
    other = [f"{k}={there.get(k)!r}" for k in settings if there.get(k) != settings[k]]
    if other:
        raise DataError(f"{out}: holds a phantom made with {', '.join(other)}; choose another folder.")
    if not (out / "cases.csv").is_file():
        raise DataError(f"{out}: the phantom here lost its cases.csv; choose another folder.")
    return True


def _fill(folder: Path, settings: dict[str, int | float], progress: Callable[[int, int], None] | None) -> None:
    total, size, seed = int(settings["cases"]), int(settings["size"]), int(settings["seed"])
    for name in ("images", "masks"):
        (folder / name).mkdir()
    places = deal(seed, settings["without_text"], settings["without_mask"])
    rows, seals = [], []
    for index in range(total):
        place, film = next(places), draw(seed, index, size)
        name = f"phantom_{index + 1:05d}"
        image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
        truth = np.asarray(film.lesions[film.target] if place.has_text else film.lesions.any(axis=0))
        write_picture(image, film.pixels)
        if place.has_mask:
            write_mask(mask, truth)
        rows.append(
            manifest.Case(
                id=name,
                group=place.group,
                splits={"": place.part},
                images={"": str(image)},
                mask=str(mask) if place.has_mask else None,
                texts={"": film.text} if place.has_text else {},
                text_origin="report",
                side_convention="image",
                spacing=(FIELD_MM / size, FIELD_MM / size),
                source="phantom",
                free={"meaning": " ".join(ZONES[film.target]) if place.has_text else "all"},
            )
        )
        seals.append(digest(film.pixels.tobytes(), truth.tobytes() if place.has_mask else None))
        if progress:
            progress(index + 1, total)
    manifest.write(folder / "cases.csv", rows)
    meanings = [*(" ".join(zone) for zone in ZONES), "all"]
    counts = Counter((row.splits[""], row.free["meaning"]) for row in rows)
    summary = {
        "settings": settings,
        "counts": {part: {m: counts[part, m] for m in meanings} for part in PARTS},
        "without_text": sum(not row.texts for row in rows),
        "without_mask": sum(row.mask is None for row in rows),
        "hash": digest(manifest.fingerprint(rows), *seals),  # of pixels and rows, not of how PNG packs them
    }
    write_json(folder / "phantom.json", summary)


def deal(seed: int, without_text: float, without_mask: float) -> Iterator[Place]:
    """Patient, part and what is missing, case by case and without end; shares are met to within one case."""
    random = rng(seed, "phantom", "places")
    dealt, patients, units = Counter[str](), 0, 0
    counts: Counter[tuple[str, str]] = Counter()

    def due(share: float, kind: str, part: str) -> bool:
        """Drawn by chance, but never further than one case from the share."""
        counts["seen " + kind, part] += 1
        drawn = bool(random.random() < share * counts["seen " + kind, part] - counts[kind, part])
        counts[kind, part] += drawn
        return drawn

    while True:
        members = int(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15])) if units >= len(PARTS) else 1
        # A patient of several cases counts as several, so that the share is one of cases.
        alone = due(UNGROUPED, "ungrouped", "")
        if alone:
            members = 1
        counts["seen ungrouped", ""] += members - 1
        patients += not alone
        group = None if alone else f"P{patients:04d}"
        if units < len(PARTS):
            part = list(PARTS)[units]  # no part is empty, however few the cases
        else:
            wanting = np.array([s * (dealt.total() + members) - dealt[p] for p, s in PARTS.items()]).clip(0)
            part = list(PARTS)[int(random.choice(len(PARTS), p=wanting / wanting.sum()))]
        units += 1
        for _ in range(members):
            dealt[part] += 1
            has_text = not due(without_text, "without text", part)
            has_mask = not (has_text and part == "train" and due(without_mask, "without mask", part))
            yield Place(group, part, has_text, has_mask)


# Films. Lengths are shares of the film's side; x runs to the picture's right, y down, both from 0 to 1.


def draw(seed: int, index: int, size: int) -> Film:
    """Film, lesions, target and sentence of case ``index`` (from 0)."""
    random = rng(seed, "phantom", index)
    target = int(random.integers(len(ZONES)))
    text = draw_text(random, ZONES[target])
    y, x = (np.indices((size, size)) + 0.5) / size
    chest = _Chest(random, x, y)
    profiles = _lesions(random, chest, x, y)
    density, air = chest.density, np.maximum(*chest.air)
    for profile in profiles:
        mottle = 1 + 0.15 * _smooth_noise(random, size, 0.02)
        density = density + random.uniform(0.24, 0.36) * profile * mottle * (0.3 + 0.7 * air)
    return Film(_exposed(random, density, x, y), np.stack([p > 0.5 for p in profiles]), target, text)


class _Chest:
    """A drawn chest: its density (air about 0, bone about 1) and where its lungs are."""

    def __init__(self, random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> None:
        def about(middle: float, spread: float) -> float:
            return float(middle + spread * random.uniform(-1, 1))

        size = len(x)
        axis = about(0.5, 0.02) + about(0, 0.02) * (y - 0.5)  # the spine, slightly oblique
        across = x - axis
        reach = np.abs(across)

        # Body outline: neck, shoulders, trunk.
        shoulder = _step((y - about(0.02, 0.02)) / about(0.15, 0.03))
        half = about(0.11, 0.015) + (about(0.36, 0.02) + about(0, 0.03) * (y - 0.5)) * shoulder
        body = _soft(half - reach, 0.008)
        flank = (reach / half).clip(0, 1)
        density = body * (0.58 + 0.06 * (1 - flank**2) + 0.05 * y)

        # Lungs: tilted ovals, narrow at the apex, cut below by the domes of the diaphragm.
        self.half_width, self.half_height = about(0.150, 0.014), about(0.335, 0.025)
        tilt, self.middle = about(0.10, 0.03), about(0.49, 0.02)
        power, distance = about(2.5, 0.3), about(0.205, 0.010)
        self.centres = [axis.mean() - distance, axis.mean() + about(1, 0.03) * distance]
        self.tilts = [tilt + about(0, 0.02), -tilt + about(0, 0.02)]
        dome = [about(0.735, 0.02), about(0.755, 0.02)]  # the patient's left, at the picture's right, lies lower
        lungs = []
        below = np.zeros_like(x)
        for centre, lean, top in zip(self.centres, self.tilts, dome, strict=True):
            u = x - centre + lean * (y - self.middle)
            v = (y - self.middle) / self.half_height
            width = self.half_width * (1 + 0.22 * v.clip(-1, 1))
            oval = 1 - (np.abs(u / width) ** power + np.abs(v) ** power) ** (1 / power)
            lung = _soft(oval, 0.03)
            arch = top + about(5.0, 1.2) * (u - about(0.01, 0.01) * np.sign(centre - 0.5)) ** 2
            under = _soft(y - arch, 0.008)
            lungs.append(lung * (1 - under))
            below = np.maximum(below, under * _soft(half - reach, 0.01))

        # Heart, to the picture's right; great vessels, aortic knob, spine, windpipe.
        heart_x, heart_y = about(0.055, 0.015), about(0.645, 0.02)
        heart_w, heart_h, heart_lean = about(0.135, 0.018), about(0.15, 0.015), about(0.35, 0.12)
        a, b = across - heart_x, y - heart_y
        a, b = (
            a * math.cos(heart_lean) + b * math.sin(heart_lean),
            b * math.cos(heart_lean) - a * math.sin(heart_lean),
        )
        heart = _soft(1 - np.hypot(a / heart_w, b / heart_h), 0.06)
        trunk = _soft(about(0.062, 0.008) + 0.02 * _step((y - 0.5) / 0.3) - reach, 0.010)
        knob = _soft(1 - np.hypot((across - about(0.06, 0.008)) / 0.042, (y - about(0.355, 0.015)) / 0.05), 0.12)
        middle = np.maximum.reduce([heart, trunk, knob])
        self.air = [lung * (1 - middle) for lung in lungs]
        air = np.maximum(*self.air)
        depth = about(0.42, 0.03)
        density = density - depth * air + 0.10 * middle * body + 0.12 * below * (1 - middle)
        density += 0.05 * heart + 0.07 * body * np.exp(-((across / 0.035) ** 2)) * (0.6 + 0.4 * y)
        windpipe = np.exp(-((across / 0.02) ** 2)) * _soft(about(0.40, 0.02) - y, 0.02) * _step((y - 0.02) / 0.1)
        density -= 0.10 * windpipe * body

        # Hila and lung markings, finer and fainter outwards.
        for centre in self.centres:
            side = np.sign(centre - 0.5)
            hilum = np.hypot((across - side * about(0.085, 0.008)) / 0.04, (y - about(0.47, 0.02)) / 0.075)
            density += about(0.11, 0.03) * np.exp(-(hilum**2)) * air
        near = np.exp(-reach / 0.16)
        density += air * (0.05 * near * _smooth_noise(random, size, 0.012) + 0.022 * _smooth_noise(random, size, 0.03))

        # Ribs: at the back falling outwards, in front rising outwards; collar bones.
        pitch = about(0.078, 0.006)
        cage = body * _soft(half - 0.025 - reach, 0.012) * _soft(0.86 - y, 0.05) * _soft(y - 0.13, 0.02)
        back = (y - about(0.15, 0.02) + 0.25 * reach - about(1.5, 0.25) * reach**2) / pitch
        front = (y - about(0.16, 0.02) + about(0.55, 0.12) * reach - 0.4) / (pitch * 1.06)
        density += cage * about(0.068, 0.016) * _bands(back, 0.21) * _soft(reach - 0.03, 0.02)
        density += cage * about(0.045, 0.015) * _bands(front, 0.24) * _soft(reach - 0.10, 0.03)
        collar = y - about(0.20, 0.015) + about(0.30, 0.08) * (reach - 0.05) - about(0.35, 0.15) * (reach - 0.05) ** 2
        bone = np.exp(-((collar / 0.014) ** 4)) * _soft(reach - 0.035, 0.012) * _soft(half - 0.04 - reach, 0.02)
        self.density = density + about(0.10, 0.025) * bone * body

    def spot(self, side: int, outwards: float, down: float) -> tuple[float, float]:
        """(x, y) of a point in a lung's own measure: -1 to 1 from its inner to its outer edge, apex to base."""
        across = outwards * self.half_width * (1 + 0.22 * down) * (1 if side else -1)
        depth = down * self.half_height
        return self.centres[side] + across - self.tilts[side] * depth, self.middle + depth


def _lesions(random: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Profiles from 0 to 1 with soft edges, one a zone, each mostly over air; none touches another."""
    taken = np.zeros(x.shape, bool)
    profiles = []
    for side_word, height in ZONES:
        side = int(side_word == "right")
        best, best_share = taken, -1.0
        for attempt in itertools.count():
            down = random.uniform(-0.70, -0.36) if height == "upper" else random.uniform(0.22, 0.60)
            centre = chest.spot(side, random.uniform(-0.4, 0.4), down)
            radius = random.uniform(0.06, max(0.11 - 0.002 * attempt, 0.062))
            profile = _blob(random, x - centre[0], y - centre[1], radius)
            mask = profile > 0.5
            if (taken & (profile > 0.1)).any() or not mask.any():
                continue
            share = float(chest.air[side][mask].mean())
            if share > best_share:
                best, best_share = profile, share
            # There always is a best in the end: zones lie further apart than a large and a small lesion reach.
            if share > 0.88 or attempt > 20:
                break
        profiles.append(best)
        taken |= ndimage.binary_dilation(best > 0.1, np.ones((3, 3), bool))
    return profiles


def _blob(random: np.random.Generator, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """An irregular star-shaped blob, in one piece, that falls to half its height at its edge."""
    away = np.hypot(dx, dy) + 1e-9
    turn = (dx + 1j * dy) / away  # its powers are the harmonics of the outline; cosines take four times as long
    power, edge = turn, np.ones_like(dx)
    for order in range(2, 7):
        power = power * turn
        height, phase = random.normal(0, 0.26 / order), random.uniform(0, 2 * math.pi)
        edge += height * (math.cos(phase) * power.real - math.sin(phase) * power.imag)
    edge = radius * edge.clip(0.7, 1.3)
    profile = _soft(edge - away, radius * random.uniform(0.09, 0.18))
    profile = profile / profile.max()
    pieces, count = ndimage.label(profile > 0.5)
    if count > 1:  # a thin lobe may lose touch on a coarse grid
        main = 1 + np.bincount(pieces.ravel())[1:].argmax()
        profile = np.where((pieces > 0) & (pieces != main), 0.49, profile)
    return profile


def _exposed(random: np.random.Generator, density: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The film: heel effect, blur, grain, exposure and gamma; 8 bits."""
    size = len(density)
    slope = random.normal(0, 0.04, 2)
    field = density + 0.04 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + 0.03 * _smooth_noise(random, size, 0.2)
    field = ndimage.gaussian_filter(field, random.uniform(0.003, 0.007) * size)
    grain = random.normal(0, 1, field.shape)
    grain = 0.6 * grain + 0.9 * ndimage.gaussian_filter(random.normal(0, 1, field.shape), 0.7)
    field = field + random.uniform(0.010, 0.024) * grain
    low, high = random.uniform(-0.04, 0.03), random.uniform(0.95, 1.08)
    level = ((field - low) / (high - low)).clip(0, 1) ** math.exp(random.normal(0, 0.16))
    return np.rint(255 * level).astype(np.uint8)


def _soft(inside: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 across the edge where ``inside`` changes its sign."""
    return 0.5 + 0.5 * np.tanh(inside / (2 * width))


def _step(t: np.ndarray) -> np.ndarray:
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)


def _bands(phase: np.ndarray, width: float) -> np.ndarray:
    """A band at every whole number, a little brighter at its two rims."""
    off = np.abs(phase - np.rint(phase)) / width
    return np.exp(-(off**6)) * (0.75 + 0.4 * off**2)


def _smooth_noise(random: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """(size, size) smooth noise, of mean 0 and deviation 1, whose grains measure ``scale`` of the side."""
    noise = ndimage.gaussian_filter(random.normal(0, 1, (size, size)), max(scale * size, 0.3), truncate=2.5)
    return (noise - noise.mean()) / (noise.std() + 1e-12)
