"""Mirrored and upside-down sentences: examples per language, the laws, the sentences of two data sets."""

from __future__ import annotations

import csv
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmask.data import sides
from crossmask.data.sides import (
    TURNS,
    names_place,
    names_side,
    swap_places,
    swap_sides,
    to_convention,
    variant,
)
from crossmask.errors import CallError
from real_data import real

QATA = "Bilateral pulmonary infection, two infected areas, all left lung and middle lower right lung."

SIDE_EXAMPLES = [
    (QATA, "Bilateral pulmonary infection, two infected areas, all right lung and middle lower left lung."),
    ("all left lung and all right lung.", "all right lung and all left lung."),
    ("all left and all right.", "all right and all left."),
    ("Left-sided effusion", "Right-sided effusion"),
    ("shifted leftward, then rightwards", "shifted rightward, then leftwards"),
    ("LEFT-HAND side, Right, left", "RIGHT-HAND side, Left, right"),
    ("a right-to-left shunt", "a left-to-right shunt"),
    ("was right to left", "was left to right"),
    (
        "more evident on the right, of an inflammatory nature",
        "more evident on the left, of an inflammatory nature",
    ),
    ("fever.increasing left basilar", "fever.increasing right basilar"),
    ("The drain on the left in place", "The drain on the right in place"),
    ("He had left lower lobe pneumonia", "He had right lower lobe pneumonia"),
    ("lowerright lung, rightlung, leftupper", "lowerleft lung, leftlung, rightupper"),
    ("left_lung", "right_lung"),
    ("RUL, RML and RLL; LUL LML LLL", "LUL, LML and LLL; RUL RML RLL"),
    ("rll infiltrate in RUZ, LLQ", "lll infiltrate in LUZ, RLQ"),
    ("L lung, R side, (L), L>R, R >> L", "R lung, L side, (R), R>L, L >> R"),
    ("L and R lungs; on the R", "R and L lungs; on the L"),
    ("of L pulmonary, the L profunda", "of R pulmonary, the R profunda"),
    ("Lt. lung, Rt. base, rt lung, (Rt)", "Rt. lung, Lt. base, lt lung, (Lt)"),
    ("links basal, Rechts apikal, beidseits", "rechts basal, Links apikal, beidseits"),
    ("der linke Lungenflügel, im rechten Oberfeld", "der rechte Lungenflügel, im linken Oberfeld"),
    ("linksseitiger Erguss, rechtsbasal", "rechtsseitiger Erguss, linksbasal"),
    ("poumon droit, base droite, à gauche", "poumon gauche, base gauche, à droite"),
    ("lobe supérieur gauche", "lobe supérieur droit"),
    ("poumons droit et gauche", "poumons gauche et droit"),
    ("champs pulmonaires gauches", "champs pulmonaires droits"),
    ("pulmón izquierdo, bases derechas", "pulmón derecho, bases izquierdas"),
    ("polmone sinistro, a destra, basi sinistre", "polmone destro, a sinistra, basi destre"),
    ("pulmão esquerdo, à direita", "pulmão direito, à esquerda"),
    ("linkerlong, rechter bovenkwab, rechterbovenkwab", "rechterlong, linker bovenkwab, linkerbovenkwab"),
    ("pulmo dexter, arteria carotis dextra", "pulmo sinister, arteria carotis sinistra"),
    ("a. carotis sinistra, pulmo dex.", "a. carotis dextra, pulmo sin."),
    ("в левом лёгком, правая доля, слева", "в правом лёгком, левая доля, справа"),
    ("Правосторонняя пневмония", "Левосторонняя пневмония"),
    ("左肺上叶及右肺下叶", "右肺上叶及左肺下叶"),
    ("右肺RUL实变，L>R肺", "左肺LUL实变，R>L肺"),
    ("opacity on the left behind the heart", "opacity on the right behind the heart"),
    ("左下肺野に浸潤影", "右下肺野に浸潤影"),
]

PLACE_EXAMPLES = [
    (QATA, QATA.replace("lower", "upper")),
    ("Upper middle lower left lung", "Lower middle upper left lung"),
    ("upperlower right, andupper right lung", "lowerupper right, andlower right lung"),
    ("mid-to-upper zone, LOWER ZONES", "mid-to-lower zone, UPPER ZONES"),
    ("at the top, not the bottom", "at the bottom, not the top"),
    ("superior and inferiorly", "inferior and superiorly"),
    (
        "apical cap, left basal shadow, the apex, both bases",
        "basal cap, left apical shadow, the base, both apices",
    ),
    ("bibasilar and biapical, bi-basal", "bilateral-apical and bibasal, bi-apical"),
    ("basilar opacity", "topmost opacity"),
    ("tip above the carina", "tip below the carina"),
    ("displaced cranially, caudal", "displaced caudally, cranial"),
    ("LUL and RLL, the LML", "LLL and RUL, the LML"),
    ("suprahilar", "infrahilar"),
    ("im rechten Oberlappen, Unterfelder", "im rechten Unterlappen, Oberfelder"),
    ("der obere Anteil, unteren", "der untere Anteil, oberen"),
    ("links basal", "links apikal"),
    ("lobe supérieur, parties inférieures", "lobe inférieur, parties supérieures"),
    ("lobe supe\u0301rieur", "lobe infe\u0301rieur"),
    (
        "lóbulos inferiores, lobo superiore, campi superiori",
        "lóbulos superiores, lobo inferiore, campi inferiori",
    ),
    ("左肺上叶，右下肺，上部", "左肺下叶，右上肺，下部"),
    ("bovenkwab, onder-kwab, linkeronderkwab", "onderkwab, boven-kwab, linkerbovenkwab"),
    ("верхняя доля, в нижней", "нижняя доля, в верхней"),
]

NO_SIDE = [
    "",
    "Bilateral bright upright leftover alright lefty",
    "The disease is deadly if left untreated, or when left alone.",
    "The catheter was left in place. It was left open. He was left with a scar.",
    "A drain left in situ; a clamp was left behind.",
    "She left the hospital. He left Wuhan. The patient left the hospital against advice; left home.",
    "It is better right now. Treated right away. He was all right.",
    "The right time, a right-handed man, at right angles",
    "lfet lung, leflung, lift lung",
    "RT-PCR and rt-PCR positive, treated with RT.",
    "185 x 10^9/L, 127 g/L. Chest, L4, L 5, R. Bonacini, Klaus L. Irion, the R wave",
    "a sinister shadow; sin infiltrados; see the links to the cases",
    "Rechteck, Rechtsanwalt, beidseits, dextrose",
    "правило, плевра, левофлоксацин",
    "直径约3cm左右, 左氧氟沙星, 右旋糖酐",
    "lungs clear, all and",
]

NO_PLACE = [
    "",
    "based on the Baseline basis; basilar artery; basal ganglia; acid-base; middle lung; stop, topic",
    "lower than usual, upper respiratory tract, lower limb, on top of that",
    "as described above, see below. Above-mentioned; temperature above 38 and below 2; below the knee",
    "superior vena cava, cranial nerve",
    "unter der Decke, Untersuchung, oberflächlich",
    "上海, 以上, 下午, 上下叶, 加上",
    "left and right",
]


@pytest.mark.parametrize(("before", "after"), SIDE_EXAMPLES)
def test_sides_are_exchanged_in_every_language_and_back(before: str, after: str) -> None:
    assert swap_sides(before) == after
    assert swap_sides(after) == before
    assert names_side(before)


@pytest.mark.parametrize(("before", "after"), PLACE_EXAMPLES)
def test_places_are_exchanged_in_every_language_and_back(before: str, after: str) -> None:
    assert swap_places(before) == after
    assert swap_places(after) == before
    assert names_place(before)


@pytest.mark.parametrize("sentence", NO_SIDE)
def test_what_is_no_side_is_left_alone(sentence: str) -> None:
    assert swap_sides(sentence) == sentence
    assert not names_side(sentence)


@pytest.mark.parametrize("sentence", NO_PLACE)
def test_what_is_no_place_is_left_alone(sentence: str) -> None:
    assert swap_places(sentence) == sentence
    assert not names_place(sentence)


@pytest.mark.parametrize("case", [str.lower, str.upper, str.capitalize])
@pytest.mark.parametrize(("one", "other"), [("left", "right"), ("linker", "rechter"), ("левый", "правый")])
def test_case_is_kept(case, one: str, other: str) -> None:
    assert swap_sides(case(one)) == case(other)
    assert swap_sides(case(other)) == case(one)


def test_one_way_words_still_get_the_right_meaning() -> None:
    """Where nothing tells the language or the gender, the way back may spell the word otherwise."""
    assert swap_sides("rein dextra") == "rein sinistra"
    assert swap_sides("le droit") == "le gauche"
    assert swap_places("apikal") == "basal"


# Words with one partner whatever stands around them, in each language.
LANGUAGES = {
    "en": "left right Left RIGHT left-sided rightward LUL RLL LML bilateral lung all middle upper lower "
    "apex bases bibasilar apical above base below, superior inferiorly caudal untreated in place the on "
    "was shunt now. and",
    "de": "links rechts linke rechter Linken rechtsseitig beidseits Oberlappen Unterfeld obere unterem oben Lunge und",
    "fr": "gauche droite gauches DROITES à base "
    "lobe_supérieur_droit poumon_gauche sommets_droits_et_gauches inférieures ,",
    "es": "izquierdo derecha izquierdas Derechos pulmón superior inferiores y sin base",
    "it": "sinistro destra sinistre Destri polmone superiore inferiori bilaterale base",
    "pt": "esquerdo direita esquerdas Direitos pulmão superior inferiores bases",
    "nl": "links rechts linker rechter linkerlong rechterbovenkwab onderkwab bovenste beiderzijds",
    "la": "sinister dexter sinistrum dextrum sin. dex. pulmo",
    "ru": "левый правая слева Справа левостороннего верхней нижние лёгкое",
    "zh": "左 右 左右 上叶 下肺 中叶 肺 以上 右上肺 左下叶 双肺",
    "short": "L R (L) L>R L lung R side Lt. rt. g/L L4 and or lung LUL RUQ, RT-PCR",
}


@st.composite
def _spoken(draw: st.DrawFn) -> str:
    words = LANGUAGES[draw(st.sampled_from(sorted(LANGUAGES)))].split()
    return " ".join(draw(st.lists(st.sampled_from(words), max_size=12))).replace("_", " ")


# Any text but whole words, which might set another language (hypothesis reads the module's own words).
_NOISE = st.text().filter(lambda text: not re.search(r"[a-zà-ÿа-я]{4}", text.lower()))


@settings(max_examples=400, deadline=None)
@given(_spoken())
def test_a_swap_is_its_own_inverse(sentence: str) -> None:
    assert swap_sides(swap_sides(sentence)) == sentence
    assert swap_places(swap_places(sentence)) == sentence
    assert len(swap_sides(sentence).split()) == len(sentence.split())


@settings(max_examples=200, deadline=None)
@given(_NOISE, _spoken(), _NOISE)
def test_any_text_around_the_words_survives(before: str, words: str, after: str) -> None:
    sentence = f"{before} {words} {after}"
    assert swap_sides(swap_sides(sentence)) == sentence
    assert swap_places(swap_places(sentence)) == sentence


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="左右上下LRlr")))
def test_words_in_no_table_are_untouched(sentence: str) -> None:
    words = re.findall(r"\w+", sentence.lower())
    if not any(known in word for word in words for known in (*sides._SIDES, *sides._PLACES)):
        assert swap_sides(sentence) == sentence
        assert swap_places(sentence) == sentence


def test_every_word_of_the_tables_has_a_partner_that_leads_back() -> None:
    one_way = {"droit", "droits", "dextra"}
    for word, other in sides._SIDES.items():
        assert word in one_way or sides._SIDES[other] == word
    for word, other in sides._PLACES.items():
        assert "apikal" in word or sides._PLACES[other] == word


def test_variant_follows_the_turn_and_the_convention() -> None:
    said = "upper left lung"
    for convention in ("image", "patient"):
        got = [variant(said, turn, convention) for turn in TURNS]
        assert got == ["upper left lung", "upper right lung", "lower left lung", "lower right lung"]
    assert [variant(said, turn, "unknown") for turn in TURNS] == [said, None, "lower left lung", None]
    assert [variant("upper lung", turn, "unknown") for turn in TURNS] == [
        "upper lung",
        "upper lung",
        "lower lung",
        "lower lung",
    ]


@pytest.mark.parametrize(("turn", "convention"), [("flipped", "image"), ("mirrored", "radiological")])
def test_an_unknown_turn_or_convention_is_refused(turn: str, convention: str) -> None:
    with pytest.raises(CallError, match="use one of"):
        variant("left", turn, convention)  # type: ignore[arg-type]


def test_to_convention_swaps_only_between_the_two_known_ones() -> None:
    assert to_convention("left", "patient", "image") == "right"
    assert to_convention("left", "image", "patient") == "right"
    for have, want in [
        ("image", "image"),
        ("patient", "patient"),
        ("unknown", "image"),
        ("patient", "unknown"),
    ]:
        assert to_convention("left", have, want) == "left"
    with pytest.raises(CallError):
        to_convention("left", "image", "viewer")


def _column(*where: str, column: str) -> list[str]:
    with real(*where).open(encoding="utf-8", newline="") as file:
        return sorted({row[column] for row in csv.DictReader(file) if row[column]})


@pytest.mark.parametrize(
    ("name", "column"), [("sgseg_captions.csv", "caption"), ("Train_text_lvit_form.csv", "Description")]
)
def test_every_qata_sentence_comes_back_and_keeps_its_lungs(name: str, column: str) -> None:
    sentences = _column("QaTa", "QaTa-COV19-v2", name, column=column)
    assert len(sentences) > 50
    for sentence in sentences:
        for swap in (swap_sides, swap_places):
            other = swap(sentence)
            assert swap(other) == sentence
            assert other.lower().count("lung") == sentence.lower().count("lung")
        turned = swap_sides(sentence)
        assert turned.count("left") == sentence.count("right")
        assert turned.count("right") == sentence.count("left")


def test_every_covid_note_comes_back() -> None:
    notes = _column("covid-cxr-notes", "notes.csv", column="clinical_notes")
    assert len(notes) > 50
    assert sum(map(names_side, notes)) > 20
    for note in notes:
        assert swap_sides(swap_sides(note)) == note
        assert swap_places(swap_places(note)) == note
        for idiom in re.findall(r"if left untreated", note):
            assert idiom in swap_sides(note)
