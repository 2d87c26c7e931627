"""Recipes: all faults at once, overrides, near misses."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmask import recipe
from crossmask.errors import CallError


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(CallError) as error:
        recipe.check(
            {
                "data": {"sise": 3, "augment": {"miror": 1}},
                "model": {"network": "hcfnet", "lcmf": 2, "heads": "many"},
                "method": {"name": "superviced"},
                "train": {"batch": 0},
                "text": {"encoder": "minilm"},
                "extra": {},
            },
            "x.yaml",
        )
    told = str(error.value)
    for part in (
        "data.sise",
        "'size'",
        "data.augment.miror",
        "'mirror'",
        "model.lcmf",
        "'lcfm'",
        "model.heads",
        "superviced",
        "'supervised'",
        "train.images: missing",
        "train.batch",
        "extra",
    ):
        assert part in told, part
    assert told.count("\n") >= 7


def test_overrides(tiny_recipe: Path) -> None:
    chosen = recipe.load(tiny_recipe, ["train.lr=1e-4", "data.size=[64, 32]", "model.lcfm=channel", "data.text=null"])
    assert chosen.train.lr == 1e-4
    assert chosen.data.grid_size == (64, 32)
    assert chosen.data.text is None
    assert chosen.model["lcfm"] == "channel"
    plain = recipe.load("hcfnet/qata_cpu", ["data.text=", "data.split="])
    assert plain.data.text == plain.data.split == ""


def test_off_is_a_word_not_a_truth_value(tiny_recipe: Path) -> None:
    assert recipe.load(tiny_recipe, ["model.lcfm=off"]).model["lcfm"] == "off"
    tiny_recipe.write_text(tiny_recipe.read_text().replace("network: hcfnet", "network: hcfnet, lcfm: off"))
    chosen = recipe.load(tiny_recipe)
    assert chosen.model["lcfm"] == "off"
    assert recipe.same(chosen.to_dict(), chosen)
    with pytest.raises(CallError, match=r"model\.nlcfm: 'off' does not fit \(input should be true or false"):
        recipe.load(tiny_recipe, ["model.nlcfm=off"])
    for key in ("train.tensorboard", "evaluate.mirror", "data.augment.eighths"):
        with pytest.raises(CallError, match=rf"{key}: 'off' does not fit \(input should be true or false"):
            recipe.load(tiny_recipe, [f"{key}=off"])
        assert recipe.load(tiny_recipe, [f"{key}=true"])
    assert recipe.load(tiny_recipe, ["model.nlcfm=false"]).model["nlcfm"] is False


@pytest.mark.parametrize("wrong", ["train.lr", "=3", "model.lcfm.x=1", "train.nonsense=1", "train.lr=fast"])
def test_wrong_overrides_are_sentences(tiny_recipe: Path, wrong: str) -> None:
    with pytest.raises(CallError):
        recipe.load(tiny_recipe, [wrong])


def test_unknown_recipe_names_the_near_miss() -> None:
    with pytest.raises(CallError, match="hcfnet/qata"):
        recipe.load("hcfnet/quata")


def test_unreadable_yaml(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: [")
    with pytest.raises(CallError, match=r"bad\.yaml"):
        recipe.load(tmp_path / "bad.yaml")


def test_a_recipe_survives_the_run_folder(tiny_recipe: Path) -> None:
    chosen = recipe.load(tiny_recipe)
    assert recipe.check(chosen.to_dict(), "again").to_dict() == chosen.to_dict()
