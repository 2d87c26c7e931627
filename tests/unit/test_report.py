"""The run's page: self-contained, escaped, complete for every kind of run, the same bytes each time, no torch."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from crossmask import evaluate, scoring, statistics
from crossmask.core import rng
from crossmask.data import images
from crossmask.errors import DataError, RunError
from crossmask.files import read_json, write_json
from crossmask.metrics import overlap, surface
from crossmask.report import charts, distances, page, sentences, training, variants
from crossmask.run import Run

HOSTILE = '<script>alert("1")</script> & $x_1$ <img src=http://evil.example/x.png onerror=alert(2)>'
SENTENCES = (
    "One infected area in the upper left lung.",
    "Bilateral pulmonary infection, two infected areas, all left lung and lower right lung.",
    "Unilateral pulmonary infection, one infected area, middle lower right lung.",
)
SELECTION = {
    "checkpoint_step": 240,
    "cases": 286,
    "threshold": 0.45,
    "by": "dice_mean",
    "part": "selection (set aside from train, by group)",
    "dice_mean": 0.84,
    "dice_pooled": 0.88,
}
MANIFEST = {
    "file": "qata.csv",
    "hash": "6002e3cf1435b6abef1f",
    "parts": {"train": 5430, "selection": 286, "test": 60},
    "ungrouped": 12,
    "shared_groups": {"test": 7},
    "native_sizes": [[224, 224], [512, 480]],
    "notes": {"16-bit values brought to 8 bit": 3},
    "text_dim": 384,
}
ENVIRONMENT = {"crossmask": "0.1.0", "torch": "2.13.0+cpu", "device": "cpu", "threads": 2}


def recipe(encoder="minilm", labels=None):
    return {
        "data": {"text": "lvit", "labels": labels, "size": 160},
        "text": {"encoder": encoder},
        "model": {"network": "hcfnet", "encoder": "efficientnet-lite0"},
        "method": {"name": "supervised"},
        "train": {"images": 6400, "batch": 8, "accumulate": 2, "lr": 1e-3},
        "evaluate": {"threshold": "selected"},
    }


def blob(generator, size):
    """A lesion-like region."""
    y, x = np.mgrid[:size, :size] / size
    cy, cx = generator.uniform(0.3, 0.7, 2)
    angle = np.arctan2(y - cy, x - cx)
    radius = generator.uniform(0.06, 0.22) * (1 + 0.25 * np.sin(3 * angle + generator.uniform(0, 6)))
    return np.hypot(y - cy, x - cx) < radius


def moved(mask, generator, strength):
    return np.roll(mask, tuple(generator.integers(-strength, strength + 1, 2)), (0, 1))


def case_rows(n, classes, reads, size=64, seed=0, strengths=None):
    """Per-case rows as crossmask.evaluate writes them."""
    generator = rng(seed, "report test")
    rows = []
    strengths = strengths or ({"right": 3, "none": 7, "other": 14, "swapped": 9} if reads else {"right": 3})
    for i in range(n):
        truth = np.zeros((size, size), dtype=np.uint8)
        for k in range(len(classes)):
            truth[blob(generator, size)] = k + 1
        if i == n - 1:
            truth[:] = 0
        has_text = reads and i % 9 != 4
        for name, strength in strengths.items():
            if reads and name != "right" and (not has_text or (name == "swapped" and i % 2)):
                continue
            scores = overlap.score(moved(truth, generator, strength), truth, classes=classes)
            rows.append(
                {
                    "id": f"case{i:03d}",
                    "group": f"p{i // 2}" if i % 7 else "",
                    "variant": name,
                    "has_text": has_text,
                    "group_in_train": i % 5 == 0 and bool(i % 7),
                    "text": SENTENCES[i % 3] if has_text else "",
                }
                | scores
            )
    return rows


def summary_of(rows, reads, split="test", **more):
    """What crossmask.evaluate.summarise gives, without a network."""
    table = pd.DataFrame(rows)

    def estimates(frame):
        found = statistics.summarise(frame, resamples=200)
        return {name: value.to_dict() for name, value in found.items()} | {"cases": len(frame)}

    told = table[table.has_text] if reads and table.has_text.any() else table
    right = told[told.variant == "right"]
    headline = estimates(right)
    every = table[table.variant == "right"]
    summary = {
        "split": split,
        "run": "run",
        "checkpoint": "best",
        "threshold": 0.45,
        "grid": "native",
        **{k: headline[k] for k in ("dice_pooled", "dice_mean", "iou_pooled", "iou_mean", "cases")},
        "left_out": {"without mask": 4},
        "groups": {
            "cases_without_group": int((every.group == "").sum()),
            "cases_whose_group_is_in_train": int(every.group_in_train.sum()),
            "groups_in_train": every[every.group_in_train].group.nunique(),
        },
        "variants": {"right": headline},
        "text_use": {},
    }
    for name in dict.fromkeys(told.variant):
        if name != "right":
            frame = told[told.variant == name]
            same = right[right.id.isin(frame.id)]
            summary["variants"][name] = estimates(frame)
            summary["text_use"][name] = {
                column: statistics.paired_difference(frame, same, column=key, resamples=200).to_dict()
                for column, key in (("dice_mean", "dice"), ("dice_pooled", "dice_pooled"))
            } | {"cases": len(frame)}
    disjoint = right[~right.group_in_train & (right.group != "")]
    if 0 < len(disjoint) < len(right):
        summary["disjoint"] = estimates(disjoint) | {"meaning": "cases with a known group that is not in train"}
    silent = every[~every.has_text]
    if reads and len(silent):
        summary["without_text"] = estimates(silent)
    return summary | {"selection": SELECTION, "manifest": {"hash": "a", "trained_on": "a"}} | more


def score(run, split="test", *, classes=("foreground",), reads=True, n=60, size=64, seed=0, **more):
    """Write scores and pictures of a part."""
    rows = case_rows(n, classes, reads, seed=seed)
    examples = []
    for kind in ("best", "median", "worst"):
        for rank in range(1, 4):
            generator = rng(seed, kind, rank)
            noise = generator.normal(0.35, 0.08, (size, size)).clip(0, 1)
            truth = np.zeros((size, size), dtype=np.uint8)
            for k in range(len(classes)):
                truth[blob(generator, size)] = k + 1
            mask = moved(truth, generator, max(1, {"best": 2, "median": 8, "worst": 30}[kind] * size // 224))
            file = f"{split}/{kind}-{rank}.png"
            images.write_picture(run.folder / "scores" / file, images.overlay(noise + 0.15 * (truth > 0), mask, truth))
            text = SENTENCES[rank % 3] if reads else ""
            example = {"kind": kind, "file": file, "id": f"case{rank:03d}", "dice": 0.97 - 0.1 * rank, "text": text}
            examples.append(example)
    summary = summary_of(rows, reads, split, examples=examples) | more
    run.write_scores(split, rows, summary)
    return summary


def begin(folder, *, steps=400, selection=SELECTION, **options):
    """A trained run without scores."""
    run = Run(folder)
    run.start(recipe(**options), {"case000": "test", "case901": "train"}, MANIFEST, ENVIRONMENT)
    for step in range(20, steps + 1, 20):
        along = step / steps
        terms = {"dice": 0.2 + 0.6 * np.exp(-4 * along), "ce": 0.1 + 0.5 * np.exp(-5 * along)}
        rate = 5e-4 * (1 + np.cos(np.pi * along))
        run.log(
            event="step",
            step=step,
            images=step * 16,
            loss=sum(terms.values()),
            **terms,
            lr=rate,
            gradient_norm=0.7,
            seconds=step * 0.5,
        )
        if step % 40 == 0:
            grown = 0.85 * (1 - np.exp(-5 * along))
            run.log(
                event="validation",
                step=step,
                threshold=0.45,
                best=step <= 240,
                dice_mean=grown - 0.04,
                dice_pooled=grown,
                seconds=step * 0.5,
            )
    if selection is not None:
        write_json(run.folder / "selection.json", selection)
    return run


class Elements(html.parser.HTMLParser):
    """Tags, their attributes and all text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in ("meta", "img", "br", "path", "rect", "use", "image", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        if tag in ("path", "rect", "use", "image", "line"):
            return
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        self.text += data


def written(run):
    source = page.write(run).read_text(encoding="utf-8")
    elements = Elements(source)
    assert elements.open == []
    check_self_contained(source, elements)
    return source, elements


def check_self_contained(source, elements):
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(elements.tags)
    for tag, name, value in elements.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
        elif name != "alt":  # text
            assert not re.search("https?:", value), (tag, name, value[:80])
    for css in re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL):
        assert not re.search(r"url\(|@import", css)
    identities = [value for _, name, value in elements.attributes if name == "id"]
    assert len(identities) == len(set(identities))


def test_whole_page(tmp_path):
    run = begin(tmp_path / "qata <run>")
    summary = score(run)
    source, elements = written(str(run.folder))
    text = " ".join(elements.text.split())
    for family in ("dice_mean", "dice_pooled"):
        assert sentences.estimate(summary[family]) in text
    for name, use in summary["text_use"].items():
        assert name in text
        assert sentences.estimate(use["dice_mean"], signed=True) in text
    for part in ("disjoint", "without_text"):
        assert sentences.estimate(summary[part]["recall_pooled"]) in text
    assert "qata <run>" in text
    assert "hcfnet" in text
    assert "the words are used" in text
    assert "'selection (set aside from train, by group)', 286 cases, by dice_mean: step 240, threshold 0.45" in text
    assert "bootstrap over groups (patients," in text
    assert "4 cases left out: without mask" in text
    assert MANIFEST["hash"] in text
    assert "3 cases: 16-bit values brought to 8 bit" in text
    assert "chosen: step 240" in text
    assert "Research use only; not a medical device." in text
    assert elements.tags.count("img") == 9
    assert source.count('class="chart"') == 6
    assert str(tmp_path) not in source


def test_the_same_bytes_again(tmp_path):
    run = begin(tmp_path / "run")
    score(run)
    first = page.write(run).read_bytes()
    assert page.write(run.folder).read_bytes() == first
    assert [p.name for p in run.folder.glob(".*")] == []


def test_hostile_words_are_escaped(tmp_path):
    run = begin(tmp_path / "run", labels={"background": 0, HOSTILE: 1, "b": 2})
    manifest = MANIFEST | {"file": HOSTILE, "notes": {HOSTILE: 1}, "parts": {HOSTILE: 1}}
    write_json(run.folder / "manifest.json", manifest)
    write_json(run.folder / "environment.json", {"device": HOSTILE})
    run.log(event="step", step=420, images=6720, loss=0.1, **{HOSTILE: 0.1}, lr=1e-4, seconds=1)
    summary = score(run)
    for example in summary["examples"]:
        example |= {"id": HOSTILE, "text": HOSTILE}
    summary["variants"][HOSTILE] = summary["variants"]["other"]
    summary["text_use"][HOSTILE] = summary["text_use"]["other"]
    write_json(run.scores_path("test", ".json"), summary)
    source, elements = written(run)
    assert "<script" not in source
    assert "onerror" in elements.text
    assert elements.text.count(HOSTILE) >= 9


def test_without_scores(tmp_path):
    run = begin(tmp_path / "run", selection=None)
    _, elements = written(run)
    assert "This run has no scores yet" in elements.text
    assert "selection.json, which the end of training writes, is missing" in elements.text
    assert "best so far: step 240" in elements.text


def test_before_the_first_step(tmp_path):
    run = begin(tmp_path / "run", steps=0, selection=None)
    _, elements = written(run)
    assert "The log holds no steps yet." in elements.text


def test_scored_without_selection(tmp_path):
    run = begin(tmp_path / "run", selection=None)
    summary = score(run, selection=None)
    _, elements = written(run)
    assert "selection.json, which the end of training writes, is missing" in elements.text
    assert "selection.json, which the end of training writes, is missing" in page.text_table(summary)


def test_nothing_set_aside(tmp_path):
    nothing = {"checkpoint_step": 400, "cases": 0, "threshold": 0.5}
    run = begin(tmp_path / "run", selection=nothing)
    score(run, selection=nothing)
    _, elements = written(run)
    assert "the last weights (step 400), at the threshold 0.5. The scores use the threshold 0.45" in elements.text


def test_several_parts(tmp_path):
    run = begin(tmp_path / "run")
    for seed, split in enumerate(("train", "test", "valid", "all")):
        score(run, split, seed=seed)
    source, elements = written(run)
    assert page.by_weight(run)[:2] == ["test", "valid"]
    assert "Part test, 53 cases" in " ".join(elements.text.split())
    assert source.count("Part <b>") == 4
    assert elements.text.count("this is no test score") == 2
    assert elements.tags.count("img") == 9


def test_run_without_words(tmp_path):
    run = begin(tmp_path / "run", encoder=None)
    summary = score(run, reads=False)
    _, elements = written(run)
    assert "These scores were made without sentences." in elements.text
    assert "own sentence" not in elements.text
    assert sentences.estimate(summary["dice_mean"]) in " ".join(elements.text.split())
    assert "without sentences" in page.text_table(summary)


def test_several_classes(tmp_path):
    labels = {"background": 0, "lung": 1, "lesion": 2}
    run = begin(tmp_path / "run", labels=labels)
    summary = score(run, classes=("lung", "lesion"))
    source, elements = written(run)
    text = " ".join(elements.text.split())
    assert sentences.estimate(summary["variants"]["right"]["lesion/iou_mean"]) in text
    assert "means over the classes" in text
    assert "its most probable class" in text
    assert "threshold" not in page.text_table(summary)
    for colour in ("#e69f00", "#009e73", "#56b4e9"):
        assert colour in source


def test_one_group_has_no_interval(tmp_path):
    run = begin(tmp_path / "run")
    rows = [row | {"group": "p"} for row in case_rows(8, ("foreground",), True)]
    summary = summary_of(rows, True)
    run.write_scores("test", rows, summary)
    _, elements = written(run)
    assert "no interval (one group)" in " ".join(elements.text.split())
    assert "nothing can be concluded" in elements.text
    assert "no interval (one group)" in page.text_table(summary)
    assert "nan" not in page.text_table(summary)


def use(low, high, name="other"):
    difference = {"value": (low + high) / 2, "low": low, "high": high, "n": 9, "unit": "groups"}
    return {"text_use": {name: {"dice_mean": difference, "dice_pooled": difference, "cases": 9}}}


@pytest.mark.parametrize(
    ("summary", "kind", "words"),
    [
        (use(0.29, 0.33), "yes", "falls by 0.310 [0.290, 0.330]: the words are used"),
        (use(-0.01, 0.02), "open", "no difference in the Dice per case can be shown (+0.005 [−0.010, +0.020])"),
        (use(-0.3, -0.1), "no", "rises by 0.200 [0.100, 0.300]"),
        (use(float("nan"), float("nan")), "open", "nothing can be concluded"),
        (use(0.1, 0.2, "swapped"), "yes", "the words that name a side are used"),
        (use(0.1, 0.2, "none"), "yes", "sentences help"),
        ({"text_use": {}, "without_text": {}}, "none", "No case of this part has a sentence"),
        ({"text_use": {}}, "none", "without sentences"),
    ],
)
def test_verdict(summary, kind, words):
    said = sentences.verdict(summary)
    assert said[0] == kind
    assert words in said[1]


def test_verdict_tells_of_disagreement():
    summary = use(0.2, 0.3)
    summary["text_use"]["other"]["dice_pooled"] = use(-0.1, 0.1)["text_use"]["other"]["dice_mean"]
    assert "The pooled Dice does not agree" in sentences.verdict(summary)[1]


def test_missing_pieces_are_said(tmp_path):
    run = begin(tmp_path / "run")
    summary = score(run)
    (run.folder / "scores/test.csv").unlink()
    (run.folder / "scores/test/best-1.png").unlink()
    (run.folder / "scores/test/best-2.png").write_bytes(b"no picture")
    summary["examples"][2]["file"] = "../manifest.json"
    write_json(run.scores_path("test", ".json"), summary)
    _, elements = written(run)
    assert "scores/test.csv is missing" in elements.text
    assert elements.text.count("the picture is missing") == 3


def test_a_summary_of_another_make_is_named(tmp_path):
    run = begin(tmp_path / "run")
    write_json(run.scores_path("test", ".json"), {"dice": 1})
    with pytest.raises(DataError, match=r"test\.json: is no summary"):
        page.write(run)
    assert not (run.folder / "report.html").exists()


def test_no_run_folder(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        page.write(tmp_path)


def test_large_pictures_are_made_smaller(tmp_path):
    path = images.write_picture(tmp_path / "large.png", np.zeros((900, 1200, 3), dtype=np.uint8))
    small = images.write_picture(tmp_path / "small.png", np.zeros((360, 480, 3), dtype=np.uint8))
    assert len(page.picture(path)) < 2 * len(page.picture(small))


def test_colours_are_those_of_the_overlays():
    assert page.CLASS_COLOURS == images.CLASS_COLOURS
    assert page.TRUTH_COLOUR == images.TRUTH_COLOUR


def test_many_points_stay_small(tmp_path):
    generator = rng(0, "points")
    x, y = np.exp(generator.normal(6, 1, 5000)), generator.random(5000)
    assert len(charts.scatter("size", x, y, xlabel="x", ylabel="y")) < 300_000
    assert len(charts.curves("loss", {"a": (x, y), "b": (x, y)}, ylabel="y")) < 60_000
    few = charts.scatter("size", x[:400], y[:400], xlabel="x", ylabel="y")
    assert "<image" not in few
    assert "currentColor" in few


def test_text_table(tmp_path):
    summary = score(begin(tmp_path / "run"))
    lines = page.text_table(summary).splitlines()
    right = next(line for line in lines if line.startswith("right"))
    assert right.split()[1] == str(summary["cases"])
    assert sentences.estimate(summary["dice_pooled"]) in right
    assert f"{summary['iou_mean']['value']:.3f}" in right
    names = [line.split()[0] for line in lines[1:9]]
    assert names[:6] == ["words", "right", "none", "other", "swapped", "(disjoint)"]
    assert lines[7].startswith("(without text)")
    assert "belong to" in page.text_table(summary)
    assert lines[-1].startswith("Epoch and threshold were chosen on the part 'selection")
    summary["variants"] |= {"\x1b[31mred": summary["variants"]["none"]}
    assert "\x1b" not in page.text_table(json.loads(json.dumps(summary)))


def test_torch_is_not_loaded(tmp_path):
    run = begin(tmp_path / "run")
    score(run)
    code = (
        "import sys; from crossmask.report import page; assert 'pandas' not in sys.modules; "
        "assert 'matplotlib' not in sys.modules; page.write(sys.argv[1]); "
        "print(*[m for m in ('torch', 'transformers', 'matplotlib.pyplot') if m in sys.modules])"
    )
    call = [sys.executable, "-c", code, str(run.folder)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_manifest_scored_is_another(tmp_path):
    run = begin(tmp_path / "run")
    score(run, manifest={"hash": "a", "trained_on": "b"})
    assert read_json(run.scores_path("test", ".json"))["manifest"]["trained_on"] == "b"
    _, elements = written(run)
    assert "another one was scored" in elements.text


# --- volumes, modalities, unlabelled cases ---------------------------------------------------------------------------

GIVEN = {
    "right": 3,
    "modalities: flair": 5,
    "modalities: t1": 12,
    "branch: flair": 4,
    "branch: t1": 9,
    "shift: 2 mm": 6,
    "last": 5,
}
TWO_SCANS = {"data": {"modalities": {"flair": 1, "t1": 1}, "modality_dropout": 0.0}, "text": {"encoder": None}}


def measured_rows(n, classes, failed, seed=0):
    """Rows of volumes: every variant of two modalities, with distances; the first ``failed`` cases have infinite ones
    and the last case, whose masks are empty, has none."""
    generator = rng(seed, "distances")
    rows = case_rows(n, classes, False, seed=seed, strengths=GIVEN)
    for row in rows:
        place = int(row["id"].removeprefix("case"))
        for prefix in ("", *(f"{c}/" for c in classes if len(classes) > 1)):
            near = generator.uniform(1, 9)
            found = {"hd95": near, "hd95_pooled": 0.9 * near, "assd": near / 4, "nsd": 1 / near}
            if place < failed:
                found = dict.fromkeys(found, float("inf")) | {"nsd": 0.0}
            if place == n - 1:
                found = dict.fromkeys(found, float("nan"))
            row |= {f"{prefix}{name}": value for name, value in found.items()}
    return rows


def score_volumes(run, *, classes=("foreground",), split="test", n=14, failed=1, last=200, **more):
    """Scores as crossmask.evaluate.summarise gives them for a run of two modalities without words."""
    rows = measured_rows(n, classes, failed)
    table = pd.DataFrame(rows)
    right = table[table.variant == "right"]

    def estimates(frame):
        found = {name: value.to_dict() for name, value in statistics.summarise(frame, resamples=200).items()}
        return found | statistics.distances(frame, surface.SCORES, resamples=200) | {"cases": len(frame)}

    summary = summary_of([row for row in rows if row["variant"] == "right"], False, split)
    summary |= {"variants": {"right": estimates(right)}, "modalities": {}, "last": None, "scored": list(classes)}
    summary["training"] = {"text": None}
    for name in GIVEN:
        frame = table[table.variant == name]
        gain = {
            column: statistics.paired_difference(frame, right, column=key, resamples=200).to_dict()
            for column, key in (("dice_mean", "dice"), ("dice_pooled", "dice_pooled"))
        }
        if name == "last" and last:
            summary["last"] = estimates(frame) | {"step": last, "chosen_minus_last": gain}
        elif name not in ("right", "last"):
            summary["modalities"][name] = estimates(frame) | {"all_minus_this": gain}
    run.write_scores(split, rows, summary | more)
    return read_json(run.scores_path(split, ".json"))


def begin_volumes(folder, *, labels=None, **sections):
    run = begin(folder, encoder=None, labels=labels)
    plain = recipe(None, labels)
    for name, section in (TWO_SCANS | sections).items():
        plain[name] = plain[name] | section
    run.start(plain, run.parts(), MANIFEST, ENVIRONMENT)
    return run


def words_of(elements):
    return " ".join(elements.text.split())


def test_modalities_are_shown_by_kind(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run)
    source, elements = written(run)
    text = words_of(elements)
    titles = [
        "With some of the modalities",
        "Only these modalities",
        "One branch's own answer",
        "Scans that do not lie",
    ]
    assert sorted(titles, key=text.index) == titles
    for scores in summary["modalities"].values():
        assert sentences.estimate(scores["dice_pooled"]) in text
        assert sentences.estimate(scores["all_minus_this"]["dice_mean"], signed=True) in text
    assert "without flair" in text
    assert "every one except the first (flair) is moved" in text
    assert "Training never left one out on purpose" in text
    assert "Dice by what the network is given" in text
    assert "branch: t1" in source
    assert "shift: 2 mm" in page.text_table(summary)


def test_kinds_that_are_not_there_are_not_shown(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run)
    summary["modalities"] = {"branch: t1": summary["modalities"]["branch: t1"]}
    write_json(run.scores_path("test", ".json"), summary)
    text = words_of(written(run)[1])
    assert "One branch's own answer" in text
    assert "Only these modalities" not in text
    write_json(run.scores_path("test", ".json"), summary | {"modalities": {}})
    assert "With some of the modalities" not in words_of(written(run)[1])


def test_what_was_left_out_is_named():
    scores = {"cases": 3, "dice_pooled": {}, "dice_mean": {}}
    summary = {
        "variants": {"right": scores},
        "modalities": {"modalities: t1 + t1ce": scores, "modalities: odd": scores},
    }
    for names, told in ((("flair", "t1", "t1ce"), "without flair"), ((), "these alone")):
        groups = variants.modality_groups(summary, {"data": {"modalities": dict.fromkeys(names, 1)}})
        assert [row["told"] for row in groups[0]["rows"]] == ["the headline", told, "these alone"]


def test_names_are_those_of_evaluate():
    assert (variants.SUBSETS, variants.BRANCH, variants.SHIFT) == (evaluate.SUBSETS, evaluate.BRANCH, evaluate.SHIFT)
    assert set(distances.TITLES) == set(surface.SCORES)
    assert f"{scoring.TOLERANCE_MM:g} mm" == distances.TOLERANCE


def test_modalities_are_shown_beside_words_and_escaped(tmp_path):
    run = begin(tmp_path / "run")
    summary = score(run)
    extra = summary["variants"]["none"] | {"all_minus_this": summary["text_use"]["none"]}
    summary["modalities"] = {f"modalities: {HOSTILE}": extra}
    write_json(run.scores_path("test", ".json"), summary)
    source, elements = written(run)
    text = words_of(elements)
    assert text.index("Does it use the words?") < text.index("With some of the modalities")
    assert HOSTILE in elements.text
    assert "<script" not in source


def test_distances_in_millimetres_with_the_failed_cases(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run, failed=2)
    text = words_of(written(run)[1])
    for name in ("hd95", "hd95_pooled", "assd"):
        found = summary["variants"]["right"][f"{name}_mean"]
        assert found["failed"] == 2
        assert f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] 11 of 14 cases, 2 failed" in text
    nsd = summary["variants"]["right"]["nsd_mean"]
    assert f"{sentences.estimate(nsd)} 13 of 14 cases" in text
    assert "the larger of the two directed 95th percentiles" in text
    assert "Such a case is left out of the means in millimetres and has NSD 0" in text
    line = next(line for line in page.text_table(summary).splitlines() if line.startswith("HD95"))
    assert f"{summary['variants']['right']['hd95_mean']['value']:.2f} mm" in line
    assert "2 failed" in line
    assert sentences.estimate(nsd) in line


def test_distances_that_no_case_has(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run, failed=13)
    text = words_of(written(run)[1])
    assert "not defined 0 of 14 cases, 13 failed" in text
    assert "HD95 not defined (0 of 14 cases, 13 failed)" in page.text_table(summary)
    assert "nan" not in page.text_table(summary)


def test_distances_of_each_region(tmp_path):
    labels = {"background": 0, "rim": 1, "core": 2}
    regions = {"whole": ["rim", "core"], "core": ["core"]}
    run = begin_volumes(tmp_path / "run", labels=labels, evaluate={"regions": regions})
    summary = score_volumes(run, classes=("whole", "core"))
    text = words_of(written(run)[1])
    for part in regions:
        found = summary["variants"]["right"][f"{part}/hd95_mean"]
        assert f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] 12 of 14 cases, 1 failed" in text
        assert f"\n  {part}: HD95 {found['value']:.2f} mm" in page.text_table(summary)
    assert "Scored: whole (rim + core), core (core)." in text
    assert "Regions may overlap." in text
    assert "means over the regions" in text
    assert "Scored: whole, core." in page.text_table(summary)
    assert "the truth's largest region in voxels" in text


def test_what_was_scored_is_said():
    assert sentences.scored_sentence({}) == ""
    assert sentences.scored_sentence({"scored": ["foreground"]}) == ""
    assert sentences.scored_sentence({"scored": ["lesion"]}) == "Scored: lesion."
    assert "is their mean" in sentences.scored_sentence({"scored": ["liver", "lesion"]})
    one = {"evaluate": {"regions": {"whole": ["a", "b"]}}}
    assert sentences.scored_sentence({"scored": ["whole"]}, one) == "Scored: whole (a + b)."


def test_one_region_of_several_classes_has_no_threshold(tmp_path):
    labels = {"background": 0, "a": 1, "b": 2}
    run = begin_volumes(tmp_path / "run", labels=labels, evaluate={"regions": {"whole": ["a", "b"]}})
    score_volumes(run, classes=("whole",))
    assert "its most probable class" in words_of(written(run)[1])


def test_size_of_overlapping_regions_is_the_largest():
    table = pd.DataFrame({"whole/tp": [5, 0], "whole/fn": [2, 3], "core/tp": [1, 0], "core/fn": [1, 0]})
    assert page.truth_sizes(table, {"evaluate": {"regions": {"whole": ["a"]}}})[0].tolist() == [7, 3]
    assert page.truth_sizes(table, {})[0].tolist() == [9, 3]


def test_last_weights_beside_the_chosen_ones(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run, last=400)
    text = words_of(written(run)[1])
    for family in ("dice_mean", "dice_pooled"):
        assert f"last weights: {sentences.estimate(summary['last'][family])}" in text
        gain = sentences.estimate(summary["last"]["chosen_minus_last"][family], signed=True)
        assert f"chosen minus last {gain}" in text
        assert gain.replace("−", "-") in page.text_table(summary)
    assert "the last weights (step 400)" in text
    assert "(last weights)" in page.text_table(summary)
    assert "The last weights are the chosen ones." not in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.05, "a higher Dice per case than the last weights (step 9)"),
        (-0.05, -0.01, "a lower Dice per case than the last weights (step 9)"),
        (-0.01, 0.01, "No difference in the Dice per case can be shown"),
        (None, None, "nothing can be concluded"),
    ],
)
def test_last_sentence(low, high, words):
    last = {"step": 9, "chosen_minus_last": {"dice_mean": {"value": 0.0, "low": low, "high": high}}}
    assert words in sentences.last_sentence({"last": last})
    assert sentences.last_sentence({"last": None}) == sentences.last_sentence({}) == ""


def test_the_last_weights_are_the_chosen_ones(tmp_path):
    run = begin_volumes(tmp_path / "run")
    score_volumes(run, last=None)
    assert "The last weights are the chosen ones." not in words_of(written(run)[1])  # 240 of 400: they were not scored
    write_json(run.folder / "selection.json", SELECTION | {"checkpoint_step": 400})
    assert "The last weights are the chosen ones." in words_of(written(run)[1])


def test_what_chose():
    part = SELECTION | {"part": "part 'valid' of the manifest"}
    assert "chosen on the part 'valid' of the manifest, 286 cases" in sentences.chosen_sentence(part)
    last = sentences.chosen_sentence(SELECTION | {"keep": "last"})
    assert last.startswith("The weights are the last ones, as the recipe says; the threshold was chosen on the part")
    none = {"checkpoint_step": 9, "cases": 0, "threshold": 0.5, "by": "nothing: the last weights", "part": "none"}
    assert sentences.chosen_sentence(none).startswith(
        "No cases were set aside to choose by: these are the last weights"
    )
    for cases, said in ((0, False), (1, True), (4, True), (5, False)):
        assert ("might well have chosen otherwise" in sentences.chosen_sentence(none | {"cases": cases})) == said


def unlabelled_run(folder, **entry):
    run = begin_volumes(folder, train={"batch": 8, "unlabelled": 4, "accumulate": 2})
    parts = {"train": 3, "selection": 1, "unlabelled": 17, "test": 14}
    write_json(run.folder / "manifest.json", MANIFEST | {"parts": parts})
    for step in (420, 440, 460):
        run.log(event="step", step=step, images=step * 24, loss=0.5, dice=0.3, ce=0.2, lr=1e-4, seconds=9, **entry)
    return run


def test_unlabelled_images_count_as_seen(tmp_path, monkeypatch):
    drawn = {}
    real = charts.curves

    def curves(name, lines, **options):
        drawn[name] = lines, options
        return real(name, lines, **options)

    monkeypatch.setattr(charts, "curves", curves)
    run = unlabelled_run(tmp_path / "run", pseudo_kept=0.6, pseudo_dice=0.7)
    score_volumes(run)
    text = words_of(written(run)[1])
    validated = [e["step"] * 24 for e in run.entries("validation")]
    lines, options = drawn["selection"]
    assert lines["pooled"][0] == validated
    assert options["mark"][0] == 240 * 24
    assert "Learnt from 3 labelled cases and 17 unlabelled cases" in text
    assert "a step takes 16 images of the former and 8 of the latter" in text
    assert set(drawn["loss"][0]) == {"sum", "dice", "ce"}
    assert set(drawn["pseudo"][0]) == {"share of pixels kept", "their Dice"}
    assert "Pseudo-labels (held masks are looked at for this curve alone)" in text


def test_pseudo_labels_without_held_masks(tmp_path):
    text = words_of(written(unlabelled_run(tmp_path / "run", pseudo_kept=0.6))[1])
    assert "Pseudo-labels" in text
    assert "share of pixels kept" in text
    assert "held masks are looked at" not in text


def test_unlabelled_cases_that_were_not_used():
    parts = {"parts": {"train": 3, "unlabelled": 17}}
    assert "17 cases without a mask were not used" in training.learnt_sentence(parts, recipe())
    assert training.learnt_sentence({"parts": {"train": 3}}, recipe()) == training.learnt_sentence({}, {}) == ""


def test_a_part_without_labels_is_no_test_part(tmp_path):
    run = begin_volumes(tmp_path / "run")
    score_volumes(run, split="unlabelled")
    score_volumes(run, split="valid")
    assert page.by_weight(run) == ["valid", "unlabelled"]
    assert "this is no test score" in words_of(written(run)[1])


def test_volumes_are_not_pictures(tmp_path):
    run = begin_volumes(tmp_path / "run")
    summary = score_volumes(run)
    text = words_of(written(run)[1])
    assert "in voxels" in text
    assert "pixels of all cases" not in text
    assert "crossmask predict run flair=flair.nii.gz t1=t1.nii.gz -o masks" in text
    assert "This network reads no sentences" in text
    assert text.index("With some of the modalities") < text.index("Does it use the words?")
    summary["examples"] = [{"kind": "best", "file": "test/best-1.png", "id": "case001", "dice": 0.9, "text": ""}]
    write_json(run.scores_path("test", ".json"), summary)
    assert "its slice with most truth" in words_of(written(run)[1])


def test_summaries_of_pictures_show_none_of_it(tmp_path):
    run = begin(tmp_path / "run")
    summary = score(run)
    text = words_of(written(run)[1])
    for words in ("With some of the modalities", "HD95", "voxels", "slice", "last weights", "Learnt from", "Scored:"):
        assert words not in text
        assert words not in page.text_table(summary)
    assert 'crossmask predict run picture.png --text "..." -o masks' in text
    assert "size of the truth in pixels" in text


def test_whose_left_the_sentences_meant_is_said():
    found = {"learnt": "image", "written": {"patient": 61, "unknown": 2}, "turned": 61}
    assert sentences.sides_sentence({"sides": found}) == (
        "Sentences that name a side, by whose left they mean: 61 the patient's, 2 nobody knows whose; the network "
        "reads the picture's left, and 61 were turned for it."
    )
    assert "read as they are" in sentences.sides_sentence({"sides": found | {"learnt": "as-is"}})
    assert sentences.sides_sentence({"sides": found | {"written": {}}}) == ""
    assert sentences.sides_sentence({"sides": None}) == ""
