"""What a sentence must say after its picture was mirrored or turned upside down.

A swap is its own inverse for every sentence in the tables' regular forms: guards against idioms ("left
untreated", "right now", "lower than") hold for BOTH words of a pair, so that no swap walks into one. Where
verb and side look alike the word is swapped: a stale side is the worse fault. Some words have two partners:

- French "gauche" has no gender: it becomes "droit" after a masculine noun known here, "droite" elsewhere.
- "sinistra" is Italian ("destra") unless it follows a Latin noun (pulmo, carotis, ...: "dextra").
- "basal" becomes "apikal" in a sentence with German words, "apical" elsewhere; "basilar" is "topmost".

A "right-to-left shunt" becomes a "left-to-right shunt"; "right-handed" stays. Misspelt words ("lfet") are
not guessed, a missing space is read ("lowerright"). "higher" and abbreviations with another meaning (Italian
dx/sx, German re./li.) are left alone.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, get_args

from crossmask.core import SIDE_CONVENTIONS
from crossmask.errors import CallError

Turn = Literal["as-is", "mirrored", "upside-down", "both"]
TURNS: tuple[Turn, ...] = get_args(Turn)

# A letter beside a word makes it another word; Chinese, Japanese and Korean have no spaces and do not count.
_LETTER = r"[^\W\d_\u3040-\u9fff\uac00-\ud7af]"
_START, _END = rf"(?<!{_LETTER})(?<![\u0300-\u036f])", rf"(?!{_LETTER}|[\u0300-\u036f])"

# Pairs, each with the endings both words take ("-": none).
_SIDE_WORDS = """
left right - most side sided ward wards; links rechts; linke rechte - r n s m; gauche droite - s;
izquierd derech o a os as; sinistr destr o a e i; esquerd direit o a os as; sinister dexter;
sinistrum dextrum; lul rul; lml rml; lll rll; luz ruz; lmz rmz; llz rlz; luq ruq; llq rlq; sinistrae dextrae;
лев прав ый ого ому ым ом ая ой ую ою ое ые ых ыми; левее правее; слева справа; влево вправо; налево направо;
левосторонн правосторонн ий его ему им ем яя ей юю ее ие их ими
"""
_PLACE_WORDS = """
upper lower - most; top bottom; superior inferior - ly e i es; supérieur inférieur - e s es;
apical basal - e es i ly en er em; biapical bibasal; bilateral-apical bibasilar; topmost basilar;
apex base; apices bases; above below; cranial caudal - ly; cephalad caudad;
suprahilar infrahilar; supraclavicular infraclavicular; lul lll; rul rll; luz llz; ruz rlz; luq llq; ruq rlq;
obere untere - r n s m; oben unten; oberhalb unterhalb; bovenste onderste;
верхн нижн ий его ему им ем яя ей юю ее ие их ими
"""


def _table(text: str) -> dict[str, str]:
    """Both directions of every pair, in composed and decomposed spelling."""
    table: dict[str, str] = {}
    for line in text.split(";"):
        one, other, *endings = line.split()
        for end in (e.strip("-") for e in endings or "-"):
            for form in ("NFC", "NFD"):
                a, b = (unicodedata.normalize(form, word + end) for word in (one, other))
                table |= {a: b, b: a}
    return table


_SIDES, _PLACES = _table(_SIDE_WORDS), _table(_PLACE_WORDS)
_SIDES |= {"droit": "gauche", "droits": "gauches", "dextra": "sinistra"}
_PLACES |= {f"apikal{e}": f"basal{e}" for e in ("", "e", "er", "en", "es", "em")}
_ANY_SIDE, _ANY_PLACE = "|".join(_SIDES), "|".join(_PLACES)
# Pieces of compounds and abbreviations: the patterns below say where they count.
_SIDES |= {"linker": "rechter", "rechter": "linker", "lt": "rt", "rt": "lt", "sin": "dex", "dex": "sin"}
_PLACES |= {"ober": "unter", "unter": "ober", "boven": "onder", "onder": "boven"}

# What a side is a side of.
_BODY = (
    "(?i:lung|lobe|side|upper|lower|mid|hemi|base|bases|basal|basilar|apex|apical|apices|hil|para|infra|supra|peri"
    "|retro|pleura|pulmon|cost|cardi|CP|chest|thora|breast|axill|clavic|rib|arm|leg|hip|shoulder|heart|ventric"
    r"|atri|main|bronch|jugular|IJ|subclav|femoral|profunda|internal|kidney|zone|field|ant|post|lateral)\w*"
)
_LR = "(?i:left|right)"
_SIDE_KEEP = [
    # the verb "to leave", and "right" for "just" or "correct"; "on the left ..." is a side in any case
    rf"(?i:(?<!the\s)(?<!on\s)){_LR}(?=\s+(?i:untreated|behind(?!\s+the\b)|undrained|unattended|unrepaired|blank|away"
    r"|(?:in|at)\s+(?:place|situ|home)|home|hospital|wuhan|china|italy|against\s+(?:medical|advice)|ama"
    r"|(?:the|our|this)\s+(?:hospital|ward|clinic|country|city|town|emergency|room|department|house|facility|icu)"
    r"|now(?=\s*(?:[.,;!?]|$)|\s+(?:he|she|it|they|we|the|there|is|no)\b))\b)",
    rf"{_LR}(?=[\s-](?i:time|decision|choice|way|answer|diagnosis|handed|handedness|angled)\b|-over\b)",
    rf"(?i:at(?:\s+a)?)\s+{_LR}(?=\s+(?i:angles?)\b)",
    rf"(?i:he|she|they|who|we|that's)\s+{_LR}(?=\s(?!{_BODY})|[.,;]|$)",
    rf"(?i:is|was|were|are|be|been|being|if|when)\s+{_LR}(?=\s+(?i:alone|with(?:out)?|open|out|to(?!\s+{_LR}))\b)",
    rf"(?i:is|was|are|were|be|been|feels?|feeling|felt|it's)\s+(?i:all)\s+{_LR}(?=\s*(?:[.,;!?]|$))",
    r"(?i:links|rechts)(?=\s+(?i:to|between|with)\b)",
    r"(?i:more|less|no|any|a|potentially|nothing)\s+(?i:sinister|dexter)\b",
    # levofloxacin, dexmedetomidine and their like
    r"[左右](?=氧氟|旋|西孟旦|甲状腺素|甲狀腺素|乙拉西坦|炔诺|美托|美沙芬|佐匹克隆)",
]
_GLUED = rf"(?:{_START}|(?i:(?<=upper)|(?<=middle)|(?<=lower)))"
_SIDE_SWAP = [
    rf"{_GLUED}{_LR}(?:{_END}|(?=(?i:upper|middle|lower|lung|lobe)))",
    rf"{_START}(?i:linker|rechter)(?=-?(?i:long|boven|onder|midden|zij|kant|hemi|thorax|hilus|hart|borst))",
    rf"{_START}(?i:links|rechts)(?=-?(?i:seitig|basal|apikal|lateral|thora|ventrik|betont|hil|pleur|pulmon|herz))",
    rf"{_START}(?i:sin|dex)(?=\.)",
    rf"{_START}(?:(?:[LR]t|[lr]t)(?=\.|\))|(?i:lt|rt)(?=\.?\s+{_BODY}))",
    rf"{_START}(?i:{_ANY_SIDE}){_END}",
]
_ARM = r"\s*(?:[<>=&+/]{1,3}|\b(?:and|or|vs\.?)\b)\s*"
_SIDE_LETTERS = [
    rf"{_START}(?<![/\d.])[LR](?:{_ARM}[LR]{_END}(?!\d))+",
    r"(?<=\()[LR](?=\))",
    rf"{_START}(?<![/\d.])[LR](?=-sided|\s+{_BODY})",
    rf"(?:(?<=\b[Oo]n\s)|(?<=\b[Oo]n\sthe\s))[LR]{_END}(?!\d)",
]
_UL = "(?i:upper|lower)"
_PLACE_KEEP = [
    rf"{_UL}(?=[\s-]+(?i:than|limit|limb|extremit|leg|respiratory|airway|back|gi\b|gastro|urinary|dose|rate|risk"
    r"|level|saturation|oxygen|blood|value|number|the\b))",
    r"\b(?i:on\s+(?:top|bottom)\s+of|(?:top|bottom)(?:\s+|-)(?:line|up))\b",
    r"(?i:superior|inferior)(?=\s+(?i:vena|to\b))",
    r"(?i:cranial|caudal)(?=\s+(?i:nerve|fossa|ct|mri))",
    r"(?i:apical|basal)(?=\s+(?i:cell|metabolic|ganglia|insulin))",
    r"(?i:basilar|topmost)(?=\s+(?i:arter|skull|fracture))",
    r"\b(?i:acid|data)[\s-](?i:base|apex)\b|\b(?i:base|apex|bases|apices)(?=\s+(?i:excess|deficit|pair|line"
    r"|of\s+(?:the\s+)?(?:skull|tongue|neck)))",
    r"\b(?i:(?:as|described|mentioned|stated|noted|listed|see|shown|given|discussed|the|and|or)\s+)(?i:above|below)"
    r"(?=\s*(?:[.,;:)]|$)|\s+(?i:mentioned|described|findings?|case|patient)\b)",
    r"\b(?i:above|below)(?=-|\s*\d|\s+(?i:all\b|mentioned|described|normal|average|baseline|the\s+(?:knee|elbow)))",
]
_PLACE_SWAP = [
    rf"(?:{_GLUED}|(?<=and)){_UL}(?:{_END}|(?=(?i:upper|middle|lower|left|right|lung|lobe)))",
    rf"{_START}(?i:ober|unter)(?=-?(?i:lappen|feld|geschoss|rand|pol|zone))",
    rf"(?:{_START}|(?i:(?<=linker)|(?<=rechter)))(?i:boven|onder)(?=-?(?i:kwab|veld|long))",
    rf"{_START}(?i:{_ANY_PLACE}){_END}",
]


def _compiled(keep: list[str], letters: list[str], swap: list[str]) -> re.Pattern[str]:
    keep = [rf"{_START}(?:{pattern})" for pattern in keep]
    return re.compile(f"(?P<keep>{'|'.join(keep)})|(?P<letters>{'|'.join(letters)})|(?P<word>{'|'.join(swap)})")


# 左右 and 上下 together are both sides ("about", in Chinese) and stay: hence whole runs of the two signs.
_SIDE_RE = _compiled(_SIDE_KEEP, [*_SIDE_LETTERS, "[左右]+"], _SIDE_SWAP)
_PLACE_RE = _compiled(_PLACE_KEEP, ["(?<![以上下])[上下]+(?=中?[叶葉肺部野])"], _PLACE_SWAP)
_EXCHANGED = str.maketrans("LR左右上下", "RL右左下上")

_MASCULINE = re.compile(
    r"(?i)\b(?:poumon|lobe|champ|hile|côté|sommet|apex|hémithorax|hémichamp|thorax|ventricule|sein|rein|bras"
    r"|cul-de-sac|segment|épanchement|hémidiaphragme|diaphragme|pneumothorax)s?(?:\s+(?:supérieur|inférieur|moyen"
    r"|pleural|apical|basal|pulmonaire)s?)*(?:\s+(?:gauche|droit)s?\s+(?:et|ou))?\s+$"
)
_LATIN = re.compile(
    r"(?i)\b(?:pulmo|pulmonis|manus|auricula|clavicula|scapula|carotis|subclavia|jugularis|pulmonalis|renalis)"
    r"(?:\s+\w+(?:is|us|um|a|ae))*\s+$"
)
_GERMAN = re.compile(r"\b(?:und|im|mit|ohne|links|rechts|beidseits|bds|lungen?|verschattung(?:en)?)\b", re.I)


def _cased(new: str, old: str) -> str:
    """``new`` in the case of ``old``: LEFT, Left or left."""
    if old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def _partner(word: str, table: dict[str, str], match: re.Match[str]) -> str:
    """The other word of the pair; the sentence around it decides where there are two."""
    before = unicodedata.normalize("NFC", match.string[: match.start()])
    if word in ("gauche", "gauches") and _MASCULINE.search(before):
        return word.replace("gauche", "droit")
    if word == "sinistra" and _LATIN.search(before):
        return "dextra"
    new = table.get(word, word)
    if word.startswith("basal") and new.replace("apical", "apikal") in table and _GERMAN.search(match.string):
        return new.replace("apical", "apikal")
    return new


def _swap(pattern: re.Pattern[str], table: dict[str, str], sentence: str) -> str:
    def replace(match: re.Match[str]) -> str:
        text = match.group()
        if match.lastgroup == "keep" or {*"左右"} == {*text} or {*"上下"} == {*text}:
            return text
        if match.lastgroup == "letters":
            return text.translate(_EXCHANGED)
        return _cased(_partner(text.lower(), table, match), text)

    return pattern.sub(replace, sentence)


def swap_sides(sentence: str) -> str:
    """The sentence with every word for left and right exchanged.

    >>> swap_sides("Bilateral infection, all Left lung and lower right lung (R>L), if left untreated.")
    'Bilateral infection, all Right lung and lower left lung (L>R), if left untreated.'
    """
    return _swap(_SIDE_RE, _SIDES, sentence)


def swap_places(sentence: str) -> str:
    """The sentence with upper and lower, apex and base, above and below exchanged; the middle stays.

    >>> swap_places("Upper middle left lung, at the base; LUL.")
    'Lower middle left lung, at the apex; LLL.'
    """
    return _swap(_PLACE_RE, _PLACES, sentence)


def names_side(sentence: str) -> bool:
    """Whether mirroring the picture changes what the sentence must say."""
    return swap_sides(sentence) != sentence


def names_place(sentence: str) -> bool:
    """Whether turning the picture upside down changes what the sentence must say."""
    return swap_places(sentence) != sentence


def _known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CallError(f"The {name} is '{value}'; use one of {', '.join(allowed)}.")


def variant(sentence: str, turn: Turn, convention: str) -> str | None:
    """What the sentence says of the turned picture; None where nobody can tell.

    "mirrored" exchanges the picture's left and right, "upside-down" its top and bottom, "both" does both.

    A mirror swaps the words under "image", where they mean the picture's sides, and under "patient" alike:
    there, too, each side of the picture has one word (the picture's right is the patient's left), and the
    mirrored picture is read under the same convention: what lay on the picture's right, "left", now lies on
    its left, "right". Under "unknown" the words may follow either reading or, row by row, both: a sentence
    naming a side is refused (None). Top and bottom mean the same under every convention.
    """
    _known("turn", turn, TURNS)
    _known("side convention", convention, SIDE_CONVENTIONS)
    if turn in ("mirrored", "both"):
        if convention == "unknown" and names_side(sentence):
            return None
        sentence = swap_sides(sentence)
    return swap_places(sentence) if turn in ("upside-down", "both") else sentence


def to_convention(sentence: str, have: str, want: str) -> str:
    """The sentence, written under convention ``have``, as ``want`` says it; unknown: unchanged.

    >>> to_convention("Left effusion.", have="patient", want="image")
    'Right effusion.'
    """
    _known("side convention", have, SIDE_CONVENTIONS)
    _known("side convention", want, SIDE_CONVENTIONS)
    return swap_sides(sentence) if {have, want} == {"image", "patient"} else sentence
