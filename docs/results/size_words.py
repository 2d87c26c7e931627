"""Which word of MedCLIPSeg's ISIC sentences is read: ``size-words.md``, from a manifest and the runs of ``tmca-table``.

    python docs/results/size_words.py skin.csv reproduced/skin > docs/results/size-words.md
    python docs/results/size_words.py polyps.csv      # the first table alone: 'crossmask data import prompts KVASIR'

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


def named(sentence: str) -> list[str]:
    """The sizes that a sentence names, each once."""
    return list(dict.fromkeys(re.findall(rf"\b({'|'.join(WORDS)})\b", sentence.lower())))


def apart(one: str, other: str) -> int:
    """How many steps lie between the sizes that two sentences name first."""
    first, second = named(one), named(other)
    if not first or not second:
        raise SystemExit(f"'{other if first else one}' names no size; give a manifest whose sentences do.")
    return abs(WORDS.index(first[0]) - WORDS.index(second[0]))


def shares(file: str) -> list[str]:
    """A row a word: how much of the picture a mask of it covers."""
    found: dict[str, list[float]] = {}
    for case in manifest.read(file):
        sentence = case.texts.get(WORDING, case.texts.get(""))
        if sentence and case.mask:
            found.setdefault(" and ".join(named(sentence)), []).append(float(read_mask(case.mask)[0].mean()))
    return [
        f"| {word or 'no size'} | {len(of)} | {min(of):.1%} | {np.median(of):.1%} | {max(of):.1%} |"
        for word, of in sorted(found.items(), key=lambda one: min(one[1]))
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
                apart=[apart(*texts) for texts in zip(both["text"], both["text given"], strict=True)],
                group=both["id"],  # one case's seeds are drawn together
                id=both["id"] + "/" + both["run"],
            )
            for steps in range(len(WORDS)):
                some = both[both["apart"] == steps]
                told = statistics.mean(some, "change")
                cells.append(f"{told.value:+.3f} [{told.low:+.3f}, {told.high:+.3f}], n={len(some)}")
        rows.append(f"| {network} | {' | '.join(cells)} |")
    return rows


def main() -> None:
    file, *folders = sys.argv[1:]
    print("# The size word of MedCLIPSeg's ISIC sentences\n")
    print("`python docs/results/size_words.py skin.csv reproduced/skin`, after `tmca-table`.\n")
    print("| word | masks | smallest share of the picture | median | largest |")
    print("|---|---|---|---|---|", *shares(file), sep="\n")
    if folders:
        steps = ("the same word", "a step apart", "two apart")
        columns = [f"{sentence}, {words}" for sentence in SENTENCES for words in steps]
        print("\nDice a case with that sentence less that with its own, by the size words of the two (test part,")
        print("95 % intervals over cases; n counts cases and seeds):\n")
        print(f"| network | {' | '.join(columns)} |")
        print("|---" * (1 + len(columns)) + "|", *changes(Path(folders[0])), sep="\n")


if __name__ == "__main__":
    main()
