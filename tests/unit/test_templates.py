"""Sentences from metadata: what is known is said, what is not known is not, and the diagnosis can be kept out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from crossmask.cli import app
from crossmask.data import manifest
from crossmask.data.manifest import Case
from crossmask.data.templates import load, tell
from crossmask.errors import DataError
from crossmask.evaluate import others

OWN = load()
FULL = {"age": "45", "sex": "female", "site": "posterior torso", "diagnosis": "melanoma"}
KNOWN = st.sampled_from(["", "unknown", "55", "female", "nevus", "melanoma", "arm", "NaN"])


def case(name: str = "a", **free: str) -> Case:
    return Case(name, {"": f"{name}.png"}, free=free)


def test_all_that_is_known_is_said() -> None:
    text = OWN.sentence(FULL, "a")
    assert text is not None
    for word in ("45", "female", "back"):
        assert word in text.lower()
    assert "symmetr" in text
    assert "posterior" not in text  # 'values' says how it is written


@pytest.mark.parametrize("nothing", ["", "unknown", "Unknown", "nan", "None", " "])
def test_what_is_not_known_is_not_said(nothing: str) -> None:
    for column in FULL:
        text = OWN.sentence(FULL | {column: nothing}, "a")
        assert text is not None
        assert "unknown" not in text.lower()
        assert "{" not in text
    assert OWN.sentence(dict.fromkeys(FULL, nothing), "a") is None
    assert OWN.sentence({"age": nothing, "sex": "male"}, "a") in {"Male patient.", "Dermoscopy of a male patient."}


@given(st.dictionaries(st.sampled_from(["age", "sex", "site", "asymmetry"]), KNOWN), KNOWN, KNOWN, st.text(max_size=5))
def test_without_the_diagnosis_nothing_shows_of_it(metadata: dict[str, str], one: str, other: str, name: str) -> None:
    silent = OWN.without_diagnosis()
    assert silent.sentence(metadata | {"diagnosis": one}, name) == silent.sentence(
        metadata | {"diagnosis": other, "histology": one}, name
    )


def test_the_diagnosis_does_not_change_how_the_rest_is_said() -> None:
    silent = OWN.without_diagnosis()
    for name in map(str, range(50)):
        with_it, without = OWN.sentence(FULL, name), silent.sentence(FULL, name)
        assert with_it is not None
        assert without is not None
        assert with_it.startswith(without.rstrip("."))


def test_phrasings_are_drawn_by_seed_and_case() -> None:
    texts = [OWN.sentence(FULL, str(n)) for n in range(300)]
    assert texts == [OWN.sentence(FULL, str(n)) for n in range(300)]
    assert texts != [OWN.sentence(FULL, str(n), seed=1) for n in range(300)]
    counts = Counter(texts)
    assert len(counts) == 27  # three ways to say each of three facts
    assert max(counts.values()) < 30


def test_every_criterion_of_the_expert_table_is_said() -> None:
    criteria = {
        "asymmetry": "2",
        "pigment_network": "atypical",
        "dots_globules": "absent",
        "streaks": "present",
        "regression_areas": "absent",
        "blue_whitish_veil": "present",
        "colours": "white, dark brown",
    }
    text = OWN.sentence(criteria, "a")
    assert text is not None
    assert text.count(".") == len(criteria)
    for column in criteria:
        shorter = OWN.sentence(criteria | {column: ""}, "a")
        assert shorter is not None
        assert shorter.count(".") == len(criteria) - 1


def test_cases_get_a_wording_and_an_origin() -> None:
    cases = [case("a", **FULL), case("b", age="unknown"), Case("c", {"": "c.png"}, texts={"": "A report."}, free=FULL)]
    told = tell(cases, OWN)
    a, b, c = told.cases
    assert a.texts["metadata"]
    assert a.text_origin == "metadata"
    assert "metadata" not in b.texts
    assert c.texts[""] == "A report."
    assert c.text_origin == "unknown"  # it speaks of the report too
    assert [one.free["origin:metadata"] for one in (a, b, c)] == ["metadata", "", "metadata"]
    assert c.origins == {"unknown", "metadata"}
    assert "origin:metadata" not in tell(cases[:2], OWN).cases[0].free  # text_origin says it
    assert told.facts["with a sentence"] == 2
    assert told.facts["distinct sentences"] == len({a.texts["metadata"], c.texts["metadata"]})
    assert told.facts["'age' not known"] == 1
    again = tell(told.cases, OWN, diagnosis="none").cases  # written anew, not beside
    assert again[0].texts["metadata"] != a.texts["metadata"]
    assert again[0].text_origin == "metadata"


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        ("Melanoma in situ, Lentigo maligna type", "melanoma"),
        ("melanoma invasive", "melanoma"),
        ("Nevus, Atypical, Dysplastic, or Clark", "atypical nevus"),
        ("Nevus, NOS, Compound", "nevus"),
        ("Seborrheic keratosis, Clonal", "seborrheic keratosis"),
    ],
)
def test_the_archives_finer_diagnoses_are_said_like_the_coarse_ones(archive: str, said: str) -> None:
    for n in map(str, range(5)):
        assert OWN.sentence({"diagnosis": archive}, n) == OWN.sentence({"diagnosis": said}, n)
    assert OWN.sentence({"diagnosis": "Melanoma metastasis"}, "a") == "Diagnosis: Melanoma metastasis."


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("facts:\n  skin: [{when: {type: [I, ii]}, say: 'pale skin'}, {say: 'skin type {type}'}]\n")
    templates = load(own)
    assert [templates.sentence({"type": t}, "a") for t in ("i", "II", "V", "")] == [
        "Pale skin.", "Pale skin.", "Skin type V.", None,
    ]  # fmt: skip


def test_the_facts_stand_beside_their_phrasing() -> None:
    cases = [case(str(n), **FULL) for n in range(20)] + [case("other", **FULL | {"diagnosis": "nevus"})]
    told = tell(cases, OWN).cases
    assert len({c.texts["metadata"] for c in told[:20]}) > 1
    assert len({c.free["meaning:metadata"] for c in told[:20]}) == 1
    found = others(told, [c.texts["metadata"] for c in told], 0, "metadata")
    assert found[:20] == [told[20].texts["metadata"]] * 20  # a paraphrase is no other case's sentence
    silent = tell(told, OWN, diagnosis="none", wording="silent").cases
    assert len({c.free["meaning:silent"] for c in silent}) == 1


def test_another_diagnosis_changes_that_alone() -> None:
    labels = ["melanoma"] * 3 + ["nevus"] * 6 + [""]
    cases = [case(str(n), **FULL | {"diagnosis": label}) for n, label in enumerate(labels)]
    wrong = tell(cases, OWN, diagnosis="other").cases
    for label, own, told in zip(labels, tell(cases, OWN).cases, wrong, strict=True):
        assert told.free["diagnosis"] == label  # the table itself stays
        rest = OWN.without_diagnosis().sentence(told.free, told.id)
        assert rest is not None
        assert told.texts["metadata"].startswith(rest.rstrip("."))
        assert told.texts["metadata"] != own.texts["metadata"]
    with pytest.raises(DataError, match=r"no other diagnosis to tell: '0' has the one"):
        tell(cases[:3], OWN, diagnosis="other")
    with pytest.raises(DataError, match="no case has a diagnosis that the templates can tell"):
        tell([case(age="45", diagnosis="unknown")], OWN, diagnosis="other")


def test_what_is_said_alike_is_no_other_diagnosis(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "label: [diagnosis, histology]\nfacts:\n  what: [{when: {diagnosis: [nevus, common nevus]}, say: mole}]\n"
    )
    moles = [case("a", diagnosis="nevus", histology="x"), case("b", diagnosis="common nevus")]
    with pytest.raises(DataError, match="no other diagnosis to tell"):
        tell(moles, load(own), diagnosis="other")


def test_a_label_may_be_one_name(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("label: diagnosis\nfacts: {what: [{say: '{diagnosis}'}], age: [{say: '{age} years'}]}\n")
    assert load(own).without_diagnosis().sentence({"diagnosis": "nevus", "age": "45"}, None) == "45 years."


def test_a_table_that_names_no_label_leaves_out_no_diagnosis(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("facts:\n  what: [{say: '{diagnosis}'}]\n")
    with pytest.raises(DataError, match=r"do not say which columns tell the diagnosis; name them under 'label'"):
        tell([case(**FULL)], load(own), diagnosis="none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("facts: [", ("not readable YAML",)),
        ("facts: 3", ("holds no facts",)),
        ("facts: {a: [{says: x}]}", ("fact 'a'", "no rule")),
        ("facts: {a: [{say: ['{age}', 'old']}]}", ("fact 'a'", "same columns")),
        ("facts: {a: [{say: x}]}\nlabels: [b]", ("unknown key 'labels'",)),
        ("facts: {a: 3}", ("fact 'a'",)),
        ("facts: {a: [{say: x, when: melanoma}]}", ("fact 'a'", "when: 'melanoma' is no condition")),
        ("facts: {a: [{say: ['']}]}", ("fact 'a'", "an empty phrasing")),
        ("facts: {a: [{say: x}]}\nvalues: {sex: female}", ("values: write column",)),
        ("facts: {a: [{say: x}]}\nlabel: 5", ("label: write the columns",)),
        ("facts: {a: [{say: '{diagnosis}'}]}\nlabel: diagnose", ("no rule reads diagnose; is diagnosis meant?",)),
        ("facts: {a: [{say: '{diagnosis}'}]}\nlabel: [x]", ("label: no rule reads x",)),
    ],
)
def test_a_wrong_table_is_a_sentence(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "t.yaml")
    for word in ("t.yaml", *words):
        assert word in str(caught.value)


def test_no_metadata_is_a_sentence() -> None:
    with pytest.raises(DataError, match=r"look at age, .*has none of these columns \(it has hair\)"):
        tell([case(hair="red")], OWN)


def test_the_command(tmp_path: Path) -> None:
    table = manifest.write(tmp_path / "cases.csv", [case(str(n), **FULL) for n in range(40)])
    shown = CliRunner().invoke(app, ["data", "text", str(table)])
    assert shown.exit_code == 0, shown.output
    assert "distinct sentences: " in shown.output
    assert manifest.read(table, check_files=False)[0].texts == {}  # only shown
    out = tmp_path / "told.csv"
    done = CliRunner().invoke(app, ["data", "text", str(table), "-o", str(out), "--no-diagnosis", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output[: done.output.rindex("}") + 1])["facts"]["diagnosis"] == "left out"
    written = manifest.read(out, check_files=False)
    assert all("symmetric" not in c.texts["metadata"] for c in written)
    assert {c.text_origin for c in written} == {"metadata"}


def test_a_table_without_a_fact_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    table = manifest.write(
        tmp_path / "cases.csv", [case("a", age="", scanner="x"), case("b", age="unknown", scanner="y")]
    )
    out = tmp_path / "out.csv"
    error = CliRunner().invoke(app, ["data", "text", str(table), "-o", str(out)]).exception
    assert isinstance(error, DataError)
    assert "no case has a fact" in str(error)
    assert "scanner" in str(error)
    assert not out.exists()
