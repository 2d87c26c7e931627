"""Sentences from metadata: an editable table of phrasings, drawn by seed, silent about what is not known.

The table's form stands at the head of ``templates.yaml``. Source: CMG-Net turns the diagnosis into a fixed description
and adds age and site; further facts and phrasings, and the mode without the diagnosis, are reconstructed.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crossmask.core import rng
from crossmask.data.manifest import Case
from crossmask.errors import DataError, name_list
from crossmask.files import read_yaml

UNKNOWN = frozenset({"", "unknown", "nan", "none", "na", "n/a", "null", "?", "-"})
FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Rule:
    """One way to say a fact: every column in ``needs`` is known, every one in ``when`` has one of its values."""

    say: tuple[str, ...]
    needs: tuple[str, ...]
    when: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> set[str]:
        return {*self.needs, *self.when}


@dataclass(frozen=True)
class Templates:
    facts: Mapping[str, tuple[Rule, ...]]
    values: Mapping[str, Mapping[str, str]]  # column -> value -> how it is written
    label: tuple[str, ...]  # columns that tell the diagnosis

    @property
    def columns(self) -> set[str]:
        return {c for rules in self.facts.values() for rule in rules for c in rule.columns}

    def without_diagnosis(self) -> Templates:
        """Without every rule that looks at a label column. Raises DataError where the table names none."""
        return self.ruled(lambda rule: not rule.columns & set(self.label))

    def diagnosis_alone(self) -> Templates:
        """Those rules alone. Raises DataError where the table names no label column."""
        return self.ruled(lambda rule: bool(rule.columns & set(self.label)))

    def ruled(self, wanted: Callable[[Rule], bool]) -> Templates:
        if not self.label:
            raise DataError(
                "the templates do not say which columns tell the diagnosis; name them under 'label', as in "
                "label: [diagnosis, histology]."
            )
        kept = {fact: tuple(filter(wanted, rules)) for fact, rules in self.facts.items()}
        return replace(self, facts={f: rules for f, rules in kept.items() if rules})

    def sentence(self, metadata: Mapping[str, str], case: str | None, seed: int = 0) -> str | None:
        """What the metadata says of a case, or None if it says nothing. The phrasing of a fact is drawn by (seed, case,
        fact) alone, so that no other fact shows through it; without a case it is the first one."""
        known = {c: v.strip() for c, v in metadata.items() if v.strip().casefold() not in UNKNOWN}
        said = []
        for fact, rules in self.facts.items():
            rule = next((r for r in rules if fits(r, known)), None)
            if rule is None:
                continue
            share = rng(seed, "phrasing", case, fact).random() if case is not None else 0.0
            phrase = rule.say[int(share * len(rule.say))]
            text = FIELD.sub(lambda m: self.values.get(m[1], {}).get(known[m[1]], known[m[1]]), phrase)
            said.append(text[0].upper() + text[1:])
        return ". ".join(said) + "." if said else None


def fits(rule: Rule, known: Mapping[str, str]) -> bool:
    """Whether the metadata has all that the rule looks at, with a value it asks for (in which a * stands for anything).

    >>> rule = Rule(("say so",), (), {"diagnosis": ("nevus, *", "nevus")})
    >>> [fits(rule, {"diagnosis": told}) for told in ("Nevus, NOS, Compound", "blue nevus")], fits(rule, {})
    ([True, False], False)
    """
    return all(c in known for c in rule.columns) and all(
        any(fnmatchcase(known[c].casefold(), one) for one in values) for c, values in rule.when.items()
    )


def load(path: str | Path | None = None) -> Templates:
    """The table of a YAML file, or the one that comes with crossmask. All faults are told at once."""
    file = Path(path) if path is not None else Path(str(resources.files("crossmask.data"))) / "templates.yaml"
    plain = read_yaml(file)
    if not isinstance(plain, dict) or not isinstance(plain.get("facts"), dict):
        raise DataError(f"{file}: holds no facts; the head of crossmask's own templates.yaml tells the form.")
    faults = [f"unknown key '{k}' (known: label, values, facts)" for k in set(plain) - {"label", "values", "facts"}]
    facts: dict[str, tuple[Rule, ...]] = {}
    for fact, rules in plain["facts"].items():
        try:
            if not isinstance(rules, list):
                raise ValueError(f"{rules!r} is no list of rules; begin each with '- say:'")
            facts[str(fact)] = tuple(rule_of(rule) for rule in rules)
        except (TypeError, ValueError) as error:
            faults.append(f"fact '{fact}': {error}")
    values = plain.get("values") or {}
    if not isinstance(values, dict) or not all(isinstance(words, dict) for words in values.values()):
        faults.append("values: write column: {value: words}")
        values = {}
    label = listed_names(plain.get("label"))
    read = {column for rules in facts.values() for rule in rules for column in rule.columns}
    if label is None:
        faults.append("label: write the columns that tell the diagnosis, as in label: [diagnosis, histology]")
    elif label and not faults:
        unread = sorted(set(label) - read)
        meant = [close for one in unread for close in difflib.get_close_matches(one, sorted(read - set(label)), n=1)]
        if meant or not read & set(label):  # a misspelt label would leave the diagnosis in
            hint = f"; is {name_list(meant)} meant?" if meant else ""
            faults.append(f"label: no rule reads {name_list(unread)}{hint}")
    if faults:
        raise DataError("\n".join(f"{file}: {fault}." for fault in faults))
    words = {str(c): {str(k): str(v) for k, v in own.items()} for c, own in values.items()}
    return Templates(facts, words, label or ())


def listed_names(plain: Any) -> tuple[str, ...] | None:
    """One name or a list of them; None for anything else.

    >>> listed_names("diagnosis"), listed_names(["a", "b"]), listed_names(None), listed_names(5)
    (('diagnosis',), ('a', 'b'), (), None)
    """
    names = [plain] if isinstance(plain, str) else [] if plain is None else plain
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def rule_of(plain: Any) -> Rule:
    """Raises ValueError for what is no rule."""
    if not isinstance(plain, dict) or not plain.get("say") or set(plain) - {"say", "when"}:
        raise ValueError(f"{plain!r} is no rule; write say: [phrasings] and, if need be, when: {{column: value}}")
    say = tuple(str(one).strip() for one in (plain["say"] if isinstance(plain["say"], list) else [plain["say"]]))
    if not all(say):
        raise ValueError("an empty phrasing says nothing; leave it out")
    if not isinstance(plain.get("when") or {}, dict):
        raise ValueError(f"when: {plain['when']!r} is no condition; write when: {{column: value}}")
    fields = [set(FIELD.findall(phrase)) for phrase in say]
    if any(f != fields[0] for f in fields):
        raise ValueError(f"the phrasings {list(say)} do not name the same columns; give each its own rule")
    when = {
        str(c): tuple(str(v).casefold() for v in (v if isinstance(v, list) else [v]))
        for c, v in (plain.get("when") or {}).items()
    }
    return Rule(say, tuple(sorted(fields[0])), when)


# --- a manifest's sentences ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """The cases with their new sentences, and what is to be said about them."""

    cases: list[Case]
    wording: str
    facts: dict[str, Any]
    examples: list[tuple[str, str]]  # id, sentence

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        return "\n".join([*lines, *(f"{case}: {text}" for case, text in self.examples)])


Diagnosis = Literal["own", "none", "other"]
TOLD = {
    "own": "told (a segmenter that reads it is told the label)",
    "none": "left out",
    "other": "another case's, which is wrong",
}


def others_labels(cases: Sequence[Case], templates: Templates, seed: int) -> list[dict[str, str]]:
    """Each case's metadata with the label columns of a random case of which another diagnosis is said."""
    alone = templates.diagnosis_alone()
    said = [alone.sentence(case.free, None) for case in cases]
    if not any(said):
        raise DataError("no case has a diagnosis that the templates can tell, so there is no other one.")
    generator = rng(seed, "another diagnosis")
    found = []
    for case, own in zip(cases, said, strict=True):
        other = [n for n, text in enumerate(said) if text and text != own]
        if not other:
            raise DataError(f"there is no other diagnosis to tell: '{case.id}' has the one that all cases have.")
        label = cases[other[int(generator.integers(len(other)))]].free
        found.append({**case.free, **{column: label.get(column, "") for column in templates.label}})
    return found


def tell(
    cases: Sequence[Case],
    templates: Templates,
    *,
    wording: str = "metadata",
    diagnosis: Diagnosis = "own",
    seed: int = 0,
    shown: int = 5,
) -> Told:
    """Give each case the sentence of its metadata as ``text:<wording>``. Raises DataError where nothing can be said.

    diagnosis: told ('own'), left out ('none'), or that of a case drawn at random which has another one ('other'), to
    see what a wrong label does. ``meaning:<wording>`` holds the same facts in their first phrasing, so that evaluation
    does not take a paraphrase for another case's sentence. text_origin becomes 'metadata'; where a case has other
    sentences, of which it speaks too, ``origin:<wording>`` says it of these.
    """
    used = templates.without_diagnosis() if diagnosis == "none" else templates
    free = {c for case in cases for c in case.free}
    if not used.columns & free:
        raise DataError(
            f"the templates look at {name_list(sorted(used.columns), shown=20)}; the manifest has none of these "
            f"columns (it has {name_list(sorted(free), shown=20)})."
        )
    found, sentences = [], Counter[str]()
    told = others_labels(cases, templates, seed) if diagnosis == "other" else [case.free for case in cases]
    mixed = sum(bool(set(case.texts) - {wording}) and case.text_origin != "metadata" for case in cases)
    for case, metadata in zip(cases, told, strict=True):
        sentence = used.sentence(metadata, case.id, seed)
        meaning = {f"meaning:{wording}": used.sentence(metadata, None) or ""}
        others = set(case.texts) - {wording}
        texts = {w: case.texts[w] for w in case.texts if w in others} | ({wording: sentence} if sentence else {})
        origin = case.text_origin if others else "metadata"
        made = {f"origin:{wording}": "metadata" if sentence else ""} if mixed else {}
        found.append(replace(case, texts=texts, text_origin=origin, free={**case.free, **meaning, **made}))
        if sentence:
            sentences[sentence] += 1
    facts: dict[str, Any] = {
        "cases": len(cases),
        "with a sentence": sum(sentences.values()),
        "without": len(cases) - sum(sentences.values()),
        "distinct sentences": len(sentences),
        "diagnosis": TOLD[diagnosis],
    }
    for column in sorted(used.columns & free):
        facts[f"'{column}' not known"] = sum(c.free.get(column, "").strip().casefold() in UNKNOWN for c in cases)
    if mixed:
        facts[f"cases with other sentences too, whose text_origin stays (origin:{wording} is metadata)"] = mixed
    step = max(1, len(found) // shown)
    examples = [(c.id, c.texts[wording]) for c in found[::step] if wording in c.texts][:shown]
    return Told(found, wording, facts, examples)
