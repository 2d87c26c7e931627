"""Where the words weigh: pictures of a gated network's alpha, and of where single words look.

For networks with ``gated`` and, under ``features``, ``alpha`` and ``word_attention`` (CMG-Net). The cases lie at even
steps of their Dice, from the worst to the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from crossmask.data.cache import Store
from crossmask.data.images import overlay, read_image
from crossmask.data.loader import pixels
from crossmask.data.masks import read_mask
from crossmask.files import atomic
from crossmask.predict import Predictor
from crossmask.scoring import Ask, Chosen, predict_pictures

CASES = 6
WORDS = 3  # shown a case


def pictures(
    predictor: Predictor, chosen: Chosen, store: Store, rows: Sequence[dict[str, Any]], split: str
) -> list[dict[str, Any]]:
    """Write ``scores/<split>/gate-N.png`` and tell of each: file, id, sentence, Dice, the words that look most at the
    lesion."""
    told = sorted((r for r in rows if r["variant"] == "right" and r["text"]), key=lambda r: (r["dice"], r["id"]))
    if not told:
        return []
    steps = np.linspace(0, len(told) - 1, min(CASES, len(told))).round().astype(int)
    place = {case.id: n for n, case in enumerate(chosen.cases)}
    shown_rows = [told[s] for s in steps]
    gates = [gate_of(predictor, store, place[row["id"]], row["text"]) for row in shown_rows]
    limits = tenths(min(float(share.min()) for share, _ in gates), max(float(share.max()) for share, _ in gates))
    found = []
    for number, (row, (share, looks)) in enumerate(zip(shown_rows, gates, strict=True), 1):
        i = place[row["id"]]
        truth = read_mask(str(chosen.cases[i].mask), labels=predictor.settings.labels)[0]
        shown = strongest(looks, np.asarray(store.masks[i]) > 0)
        mask = predict_pictures(predictor, chosen, store, [i], [Ask(row["text"])])[0]
        picture = overlay(read_image(next(iter(chosen.cases[i].images.values()))).unit(), mask, truth)
        file = f"{split}/gate-{number}.png"
        path = predictor.run.folder / "scores" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path, "wb") as stream:
            strip(picture, share, limits, shown).savefig(stream, format="png", dpi=100, metadata={"Software": None})
        words = [{"word": word, "lift": round(lift, 3)} for word, lift, _ in shown]
        found.append({"file": file, "id": row["id"], "dice": row["dice"], "text": row["text"], "words": words})
    return found


def gate_of(predictor: Predictor, store: Store, i: int, text: str) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """The words' share (H, W) on the model's grid, and each word with where it looks (H, W), which adds up to 1."""
    image = pixels(store.images[[i]], predictor.device)
    network = predictor.method.answering
    size = (image.shape[-2], image.shape[-1])
    states, mask = predictor.words([text])
    present = torch.from_numpy(store.present[[i]]).to(predictor.device)
    with torch.inference_mode():
        _, features = network(image, states, mask, present, features=True)
        share = network.text_share(features, size)[0].float().cpu().numpy()
        finest = features["word_attention"][-1]
        padded = features["stages"][0].shape[-2:]
        maps = F.interpolate(finest.float(), padded, mode="bilinear")[0, :, : size[0], : size[1]].cpu().numpy()
    return share, by_word(predictor.encoder.tokens(text), maps)  # type: ignore[union-attr]


def by_word(tokens: Sequence[str], maps: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Tokens joined to words, their maps averaged and scaled to add up to 1; signs and special tokens left out.

    >>> [word for word, _ in by_word(["[CLS]", "ker", "##atosis", ",", "waxy"], np.ones((5, 2, 2)))]
    ['keratosis', 'waxy']
    """
    words: list[tuple[str, list[np.ndarray]]] = []
    for token, own in zip(tokens, maps, strict=True):
        if token.startswith("##") and words:
            words[-1] = (words[-1][0] + token[2:], [*words[-1][1], own])
        elif token[:1].isalnum():
            words.append((token, [own]))
    found = []
    for word, several in words:
        mean = np.mean(several, 0)
        found.append((word, mean / max(float(mean.sum()), 1e-12)))
    return found


def strongest(looks: Sequence[tuple[str, np.ndarray]], truth: np.ndarray) -> list[tuple[str, float, np.ndarray]]:
    """The words that look most at the lesion: (word, lift, map). lift: the share of its attention that lies on the
    truth, over the truth's share of the picture; 1 says that the word looks at nothing in particular."""
    area = max(float(truth.mean()), 1e-9)
    lifts = [(word, float(look[truth].sum()) / area, look) for word, look in looks]
    return sorted(lifts, key=lambda x: -x[1])[:WORDS]


def tenths(low: float, high: float) -> tuple[float, float]:
    """The scale that all cases' shares are drawn on, from the tenth below to the tenth above.

    >>> tenths(0.24, 0.41)
    (0.2, 0.5)
    >>> tenths(0.3, 0.3)
    (0.3, 0.4)
    """
    first = math.floor(10 * low)
    return first / 10, max(first + 1, math.ceil(10 * high)) / 10


def strip(
    picture: np.ndarray,
    share: np.ndarray,
    limits: tuple[float, float],
    shown: Sequence[tuple[str, float, np.ndarray]],
) -> Any:
    """One case as a matplotlib figure: the prediction, the words' share, each word's attention."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 * (2 + WORDS), 2.35), layout="constrained")
    axes = figure.subplots(1, 2 + WORDS)
    axes[0].imshow(picture)
    axes[0].set_title("prediction\nand truth", fontsize=8)
    drawn = axes[1].imshow(share, cmap="cividis", vmin=limits[0], vmax=limits[1])
    axes[1].set_title(f"words' share\nmean {share.mean():.2f}", fontsize=8)
    bar = figure.colorbar(drawn, ax=axes[1], shrink=0.7)
    bar.ax.tick_params(labelsize=6)
    for one, (word, lift, look) in zip(axes[2:], shown, strict=False):
        one.imshow(look, cmap="magma", vmin=0)
        one.set_title(f"'{word}'\nx{lift:.2f} on the lesion", fontsize=8)
    for one in axes:
        one.set_axis_off()
    return figure
