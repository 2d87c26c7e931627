"""Which word of MedCLIPSeg's ISIC sentences is read: ``size-words.md``, from a manifest and the runs of ``tmca-table``.

    python docs/results/size_words.py skin.csv reproduced/skin > docs/results/size-words.md

A sentence calls a lesion small, medium or large. The first table tells how much of the picture the masks of each word
cover, the second by how much a network's Dice a case changes where another sentence has the same word, or another one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from crossmask import statistics
from crossmask.data import manifest
from crossmask.data.masks import read_mask

WORDS = ("small", "medium", "large")
WORDING = "medclipseg"
SENTENCES = {"another case's": "other", "overdescriptive": f"{WORDING}_overdescriptive"}
NETWORKS = ("TMCA", "HCFNet", "Ariadne", "LViT-style", "LAVT-style", "CrossVLT-style", "GLoRIA-style", "CMG-Net")


def place(sentence: str) -> int:
    """Of the size that a sentence names, among WORDS."""
    found = re.search(rf"\b({'|'.join(WORDS)})\b", sentence.lower())
    if found is None:
        raise SystemExit(f"'{sentence}' names no size; this page is about sentences that do.")
    return WORDS.index(found[1])


def shares(file: str) -> list[str]:
    """A row a word: how much of the picture a mask of it covers."""
    found: dict[int, list[float]] = {}
    for case in manifest.read(file):
        sentence = case.texts.get(WORDING)
        if sentence and case.mask:
            found.setdefault(place(sentence), []).append(float(read_mask(case.mask)[0].mean()))
    return [
        f"| {WORDS[n]} | {len(found[n])} | {min(found[n]):.1%} | {np.median(found[n]):.1%} | {max(found[n]):.1%} |"
        for n in sorted(found)
    ]


def changes(folder: Path) -> list[str]:
    """A row a network: Dice a case less that with its own sentence, over a row's runs."""
    rows = []
    for network in NETWORKS:
        files = sorted(folder.glob(f"{network.lower()}-*/scores/test.csv"))
        runs = pd.concat([pd.read_csv(file, dtype={"id": str}).assign(run=file.parts[-3]) for file in files])
        right = runs[runs["variant"] == "right"]
        cells = []
        for variant in SENTENCES.values():
            both = right.merge(runs[runs["variant"] == variant], on=["id", "run"], suffixes=("", " given"))
            both = both.assign(
                change=both["dice given"] - both["dice"],
                apart=(both["text given"].map(place) - both["text"].map(place)).abs(),
                group=both["id"],  # one case's seeds are drawn together
                id=both["id"] + "/" + both["run"],
            )
            for steps in range(len(WORDS)):
                some = both[both["apart"] == steps]
                told = statistics.mean(some, "change")
                cells.append(f"{told.value:+.3f} [{told.low:+.3f}, {told.high:+.3f}], n={len(some)}")
        rows.append(f"| {network} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    columns = [
        f"{sentence}, {words}" for sentence in SENTENCES for words in ("the same word", "a step apart", "two apart")
    ]
    lines = [
        "# The size word of MedCLIPSeg's ISIC sentences",
        "",
        "`python docs/results/size_words.py skin.csv reproduced/skin`, after `tmca-table`.",
        "",
        "| word | masks | smallest share of the picture | median | largest |",
        "|---|---|---|---|---|",
        *shares(sys.argv[1]),
        "",
        "Dice a case with that sentence less that with its own, by the size words of the two (test part,",
        "95 % intervals over cases; n counts cases and seeds):",
        "",
        f"| network | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
        *changes(Path(sys.argv[2])),
    ]
    print("\n".join(lines))
