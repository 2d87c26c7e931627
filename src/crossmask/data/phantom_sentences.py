"""What the made-up films' reports say: templates, findings and asides, and how a case's text is drawn from them."""

from __future__ import annotations

import numpy as np

# A slot is called after the word it takes for the upper left lesion, in lower case or capitalised.
SIDE_WORDS = {"left": "right"}
HEIGHT_WORDS = {"upper": "lower", "apex": "base", "top": "bottom", "superior": "inferior"}
TEMPLATES = (
    "There is {a finding} in the {upper} {left} lung.",
    "{Finding}, {left}-sided, {upper} zone.",
    "{Upper} {left} field: {finding}.",
    "On the {left}, near the {apex}, {a finding} is seen.",
    "{Finding} at the {left} {apex}.",
    "{Left} lung: {finding} in the {upper} part.",
    "The {upper} zone of the {left} lung shows {a finding}.",
    "{A finding} projects over the {left} {upper} zone, with blurred margins.",
    "{A finding} lies towards the {top} of the {left} lung.",
    "{Left} {upper} zone {finding}.",
    "In the {left} hemithorax, {superior} portion, there is {a finding}.",
    "We note {a finding} on the {left}, in the {superior} part of the lung.",
    "Increased density in the {left} lung, {upper} field, suspicious for infection.",
    "Close to the {apex} of the {left} lung there is {a finding}; follow-up is advised.",
    "{Upper} {left} {finding}.",
    "The {left} {apex} is affected by {a finding}.",
    "Looking at the {left} side, {a finding} is present at the {top}.",
    "Abnormality: {finding}. Location: {left}, {upper}.",
    "The {superior} half of the {left} lung contains {a finding}.",
    "{Top} of the {left} lung: {finding}, most likely inflammatory.",
)
FINDINGS = (
    "rounded opacity",
    "consolidation",
    "ill-defined density",
    "patchy infiltrate",
    "focal opacity",
    "irregular density",
    "airspace opacity",
    "nodular shadow",
    "hazy infiltrate",
    "area of increased density",
)
PREFIXES = (
    "Portable AP view.",
    "PA chest film.",
    "Indication: cough and fever.",
    "No earlier film for comparison.",
    "Adequate inspiration.",
    "Mediastinal contours are normal.",
)
SUFFIXES = (
    "No pleural effusion.",
    "No pneumothorax.",
    "Heart size within normal limits.",
    "The bones are unremarkable.",
    "Clinical correlation is recommended.",
    "The trachea is central.",
)
PREFIX_SHARE, SUFFIX_SHARE = 0.25, 0.35


def sentence(template: str, zone: tuple[str, str], finding: str) -> str:
    """A template said of a zone.

    >>> sentence("{Finding} at the {left} {apex}.", ("right", "lower"), "hazy opacity")
    'Hazy opacity at the right base.'
    """
    side, height = zone
    slots = {word: word if side == "left" else other for word, other in SIDE_WORDS.items()}
    slots |= {word: word if height == "upper" else other for word, other in HEIGHT_WORDS.items()}
    slots |= {"finding": finding, "a finding": f"{'an' if finding[0] in 'aeiou' else 'a'} {finding}"}
    slots |= {slot[0].upper() + slot[1:]: word[0].upper() + word[1:] for slot, word in slots.items()}
    return template.format_map(slots)


def draw_text(random: np.random.Generator, zone: tuple[str, str]) -> str:
    """A case's whole text: the sentence that names its lesion, at times with asides before and after it."""
    template, finding = random.choice(TEMPLATES), random.choice(FINDINGS)
    prefix, suffix = random.choice(PREFIXES), random.choice(SUFFIXES)
    parts = [sentence(str(template), zone, str(finding))]
    if random.random() < PREFIX_SHARE:
        parts.insert(0, str(prefix))
    if random.random() < SUFFIX_SHARE:
        parts.append(str(suffix))
    return " ".join(parts)
