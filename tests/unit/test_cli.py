"""The command line as a user meets it: exit codes, one sentence, nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from crossmask.cli import images_of
from crossmask.errors import CallError


def call(*arguments: object, preload: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    script = f"{preload}\nimport sys\nfrom crossmask.cli import main\nsys.argv = ['crossmask', *sys.argv[1:]]\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def write_manifest(folder: Path, cases: list, header: str = "id,image,mask,text,split", rows: str = "") -> Path:
    lines = [header] + [f'{c.id},{c.images[""]},{c.mask or ""},"{c.texts.get("", "")}",{c.splits[""]}' for c in cases]
    path = folder / "cases.csv"
    path.write_text("\n".join(lines) + "\n" + rows, encoding="utf-8")
    return path


def train(recipe: Path, manifest: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return call("train", recipe, "train.images=16", *more, "--data", manifest, "-o", out, "--device", "cpu")


def test_help_is_light() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "train" in done.stdout
    heavy = """
import sys
from crossmask.cli import main
sys.argv = ["crossmask", "--help"]
try:
    main()
except SystemExit:
    print([m for m in ("torch", "pandas", "transformers") if m in sys.modules])
"""
    light = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=False)
    assert light.stdout.strip().endswith("[]"), light.stdout[-200:]


def test_list_names_every_part() -> None:
    found = json.loads(call("list", "--json").stdout)
    assert {"hcfnet", "ariadne", "unet"} <= set(found["network"])
    assert {"qata", "mosmed", "monuseg", "folder"} <= set(found["adapter"])
    assert {"minilm", "cxr-bert", "bert", "tiny"} <= set(found["text encoder"])
    assert all(line for room in found.values() for line in room.values())


def test_missing_image_names_row_and_fix(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, cases, rows="ghost,nowhere.png,,x,train\n")
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, "cases.csv, row 50", "nowhere.png", "correct the path")
    assert not (tmp_path / "run").exists()


def test_unreadable_image(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    manifest = write_manifest(tmp_path, cases, rows=f"bad,bad.png,{cases[0].mask or cases[1].mask},x,train\n")
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, "case 'bad'", "bad.png")
    assert not (tmp_path / "run").exists()


def test_mask_of_another_size(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    Image.new("L", (10, 20)).save(tmp_path / "small.png")
    manifest = write_manifest(tmp_path, cases, rows=f"odd,{cases[0].images['']},small.png,x,train\n")
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, "case 'odd'", "10x20", "64x64")
    assert not (tmp_path / "run").exists()


def test_training_goes_on_without_what_cannot_be_read(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    mask = next(c.mask for c in cases if c.mask)
    rows = f"bad,bad.png,{mask},x,train\nghost,nowhere.png,{mask},x,train\n"
    manifest = write_manifest(tmp_path, cases, rows=rows)
    done = train(tiny_recipe, manifest, tmp_path / "run", "--leave-out")
    assert done.returncode == 0, done.stderr
    for words in ("case 'bad'", "case 'ghost'", "nowhere.png", "2 of", "left out"):
        assert words in done.stderr
    parts = dict(line.split(",") for line in (tmp_path / "run" / "split.csv").read_text().splitlines())
    assert parts["bad"] == parts["ghost"] == "unused"


def test_scoring_goes_on_without_what_cannot_be_read(trained: Path, cases: list, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    outside = [replace(c, id=f"x{c.id}", splits={"": "outside"}) for c in cases if c.mask][:4]
    mask = outside[0].mask
    rows = f"bad,bad.png,{mask},x,outside\nghost,nowhere.png,{mask},x,outside\n"
    manifest = write_manifest(tmp_path, outside, rows=rows)
    scored = call("evaluate", trained, "--data", manifest, "--split", "outside", "--json", "--device", "cpu")
    refused(scored, 1, "case 'bad'", "case 'ghost'", "nowhere.png")
    summary = json.loads(scored.stdout)
    assert summary["left_out"] == {"not readable": 2}
    assert len({row["id"] for row in rows_of(trained / "scores" / "outside.csv")}) == 4
    manifest = write_manifest(tmp_path, [], rows=rows)
    refused(call("evaluate", trained, "--data", manifest, "--split", "outside", "--device", "cpu"), 1, "case 'ghost'")


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_version() -> None:
    from crossmask import __version__

    assert call("--version").stdout.strip() == __version__


def test_a_sentence_of_10000_characters_is_cut_and_counted(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    sentence = "left upper opacity " * 530
    labelled = next(c for c in cases if c.mask)
    manifest = write_manifest(tmp_path, cases, rows=f"long,{labelled.images['']},{labelled.mask},{sentence},train\n")
    done = train(tiny_recipe, manifest, tmp_path / "run", "data.selection=0.1")
    assert done.returncode == 0, done.stderr
    assert "were cut at" in done.stderr


def test_text_that_is_not_utf8(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, cases)
    manifest.write_bytes(manifest.read_bytes() + f"x,{cases[0].images['']},,L\xe4sion,train\n".encode("latin-1"))
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, "line 50", "0xe4", "UTF-8")


def test_duplicate_id(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, cases, rows=f"{cases[0].id},{cases[1].images['']},,x,train\n")
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, cases[0].id, "row 2", "row 50")


def test_manifest_without_a_needed_column(tiny_recipe: Path, cases: list, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, cases, header="id,imagee,mask,text,split")
    refused(train(tiny_recipe, manifest, tmp_path / "run"), 1, "column 'image'", "imagee")


def test_unknown_recipe_key(tiny_recipe: Path, phantom: Path, tmp_path: Path) -> None:
    done = train(tiny_recipe, phantom, tmp_path / "run", "train.epochs=3", "model.encodr=tiny")
    refused(done, 2, "train.epochs", "model.encodr", "'encoder'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [20_000, 200_000])
def test_a_write_that_fails_half_way(
    limit: int, tiny_recipe: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file-size limit stands in for a full disk, while the cache (small) or a checkpoint (larger) is written."""
    monkeypatch.setenv("CROSSMASK_CACHE", str(tmp_path / "cache"))
    preload = (
        f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    out = tmp_path / "run"
    done = call(
        "train", tiny_recipe, "train.images=16", "--data", phantom, "-o", out, "--device", "cpu", preload=preload
    )
    refused(done, 1, "failed half-way", "run the same command again")
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and (p.name.startswith(".") or ".safetensors" in p.name)]
    assert not [name for name in left if name.endswith(".part") or "last" in name or "best" in name], left
    again = call("train", tiny_recipe, "train.images=16", "--data", phantom, "-o", out, "--device", "cpu", "--resume")
    assert again.returncode == 0, again.stderr


def test_the_readme_job(phantom: Path, trained: Path, tmp_path: Path) -> None:
    """import a folder -> check -> train -> evaluate -> predict -> report, on tiny data."""
    own = tmp_path / "own"
    done = call("data", "import", "folder", phantom.parent, "-o", tmp_path / "own.csv", "table=cases.csv")
    assert done.returncode == 0, done.stderr
    assert "48 rows" in done.stdout
    checked = call("data", "check", tmp_path / "own.csv", "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["faults"] == []
    scored = call("evaluate", trained, "--data", phantom, "--split", "test", "--json", "--device", "cpu")
    assert scored.returncode == 0, scored.stderr
    assert 0 <= json.loads(scored.stdout)["dice_mean"]["value"] <= 1
    picture = next((phantom.parent / "images").glob("*.png"))
    done = call(
        "predict",
        trained,
        picture,
        "--text",
        "opacity in the left upper lung",
        "--sides",
        "image",
        "-o",
        own,
        "--probability",
    )
    assert done.returncode == 0, done.stderr
    assert (own / "masks" / picture.name).is_file()
    assert (own / "probabilities" / picture.name).is_file()
    done = call("predict", trained, phantom, "-o", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    assert "48 masks" in done.stdout
    assert call("report", trained).returncode == 0


def test_predict_goes_on_after_a_bad_picture(trained: Path, phantom: Path, tmp_path: Path) -> None:
    good = next((phantom.parent / "images").glob("*.png"))
    (tmp_path / "bad.png").write_text("no")
    done = call("predict", trained, good, tmp_path / "bad.png", tmp_path / "none.png", "-o", tmp_path / "out")
    refused(done, 1, "bad.png", "none.png")
    assert "1 masks" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["data", "import", "qatta", "."], "qata"),
        (["data", "import", "folder", ".", "-o", "x.csv", "mask_suffix=@x"], "write it in quotes"),
        (["train", "hcfnet/quata"], "hcfnet/qata"),
        (["train", "hcfnet/qata_cpu"], "--data"),
        (["evaluate", "nowhere", "--data", "cases.csv"], "cases.csv"),
        (["predict", "nowhere", "x.png", "-o", "out", "--sides", "mine"], "--sides"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_calls(arguments: list[str], word: str, tmp_path: Path) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert word in done.stderr


@pytest.mark.parametrize(
    ("told", "images"), [("20000", 20000), ("20k", 20000), ("10m", None), ("0", None), ("k", None)]
)
def test_a_budget_counts_images(told: str, images: int | None) -> None:
    if images is not None:
        assert images_of(told) == images
    else:
        with pytest.raises(CallError, match=f"--budget {told}: say how many images"):
            images_of(told)
