"""Recipes: one YAML a run, no inheritance, no interpolation; every fault is told at once, before a tensor exists.

Sections ``data, text, model, method, train, evaluate``. The keys of ``data``, ``train`` and ``evaluate`` stand in the
classes below; ``text.encoder``, ``model.network`` and ``method.name`` name a file of their room, and the other keys of
those sections are the options of its door.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from crossmask import rooms
from crossmask.data.transforms import Augment
from crossmask.errors import CallError, CrossmaskError, listed, name_list
from crossmask.files import parse_yaml, read_yaml

Side = Annotated[int, Field(ge=8, le=8192)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which columns are read and how pictures come onto the model's grid."""

    text: str | None = ""  # 'text:<wording>'; '' the plain column; null: no sentences
    split: str = ""  # 'split:<name>'; '' the plain column (or a split made here, if there is none)
    size: Side | tuple[Side, Side] = 224  # the model's grid: side, or [height, width]
    fit: Literal["stretch", "pad"] = "stretch"
    modalities: dict[str, int] = Field(default={"image": 1}, min_length=1)  # column -> channels
    labels: dict[str, Any] | None = None  # name -> value in the mask files, background first; null: binary
    precision: Literal["uint8", "float16"] = "uint8"
    windows: dict[str, tuple[float, float]] = {}  # volumes: modality -> real values that become black and white
    context: int = Field(0, ge=0, le=8)  # volumes: slices on each side that the network also sees (2.5D)
    # Train set aside to choose epoch and threshold: a share (below 1), a number of groups, or the name of a part.
    selection: Annotated[float, Field(ge=0)] | str = 0.1
    # Train that keeps its masks: all, a share (below 1), or a number of groups.
    labelled: Annotated[float, Field(gt=0)] | Literal["all"] = "all"
    # Share of a labelled batch drawn so as to hold a class, each class as often (nnU-Net: 0.33); 0: each row in turn.
    foreground: float = Field(0.0, ge=0, le=1)
    sides: Literal["image", "patient", "as-is"] = "image"  # whose left the network learns
    text_dropout: float = Field(0.1, ge=0, le=1)
    modality_dropout: float = Field(0.0, ge=0, le=1)
    augment: Augment = Field(default_factory=Augment)
    strong: Augment | None = None  # grey values of the strong view of unlabelled cases; null: as augment

    @property
    def grid_size(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Train(Section):
    """The budget is counted in images seen."""

    images: int = Field(ge=1)
    batch: int = Field(16, ge=1)  # labelled cases a batch
    unlabelled: int = Field(0, ge=0)  # unlabelled cases beside them; they count as images seen
    lr: float = Field(3e-4, gt=0)
    lr_min: float = Field(1e-6, ge=0)
    warmup: float = Field(0.02, ge=0, le=1)  # share of the run
    encoder_lr: float = Field(1.0, gt=0)  # the pretrained encoder's rate, relative to lr
    weight_decay: float = Field(0.01, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)  # of SGD
    clip: float = Field(1.0, gt=0)  # largest gradient norm
    accumulate: int = Field(1, ge=1)  # batches a step
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: StrictBool = False  # torch.compile; no gain was seen on a CPU
    validate_every: int | None = None  # images; null: once an epoch
    save_every: int | None = None  # images; null: at each validation
    patience: int | None = None  # validations without a better score before stopping; null: never stop early
    select_by: Literal["dice_mean", "dice_pooled", "dice_both"] = "dice_mean"  # both: the mean of the two
    # best: the weights of the best validation; last: the run's last ones, so that select_by chooses the threshold alone
    keep: Literal["best", "last"] = "best"
    seed: int = 0
    tensorboard: StrictBool = False  # also write TensorBoard's files (extra 'tensorboard')
    init: str | None = None  # another run's folder to start from
    teacher: str | None = None  # another run's folder, frozen


class Evaluate(Section):
    threshold: float | Literal["selected"] = "selected"  # 'selected': the one chosen on the selection part
    mirror: StrictBool = False  # average with the mirrored picture and sentence
    # Sizes, relative to the grid, at which each picture is predicted; the mean answers.
    zooms: list[Annotated[float, Field(ge=0.25, le=4)]] = Field(default=[1.0], min_length=1)
    batch: int = Field(32, ge=1)  # pictures, or slices of a volume, at once
    window: StrictBool = False  # volumes: slices at training's pixel size, in overlapping windows of the grid
    # Kinds of case that are scored apart: border_contrast, size, or columns of the manifest (diagnosis).
    strata: list[str] = []
    regions: dict[str, list[str]] | None = None  # name -> data.labels that it unites (BraTS: whole, core, enhancing)


class Recipe(Section):
    """``text``, ``model`` and ``method`` hold the part's name and its options."""

    data: Data = Data()  # type: ignore[call-arg]
    text: dict[str, Any] = Field(default={"encoder": "minilm"})
    model: dict[str, Any]
    method: dict[str, Any] = Field(default={"name": "supervised"})
    train: Train
    evaluate: Evaluate = Evaluate()  # type: ignore[call-arg]

    def to_dict(self) -> dict[str, Any]:
        plain = self.model_dump(mode="json")
        for name in ("augment", "strong"):
            changes = getattr(self.data, name)
            plain["data"][name] = asdict(changes) if changes is not None else None
        return plain

    @property
    def wordings(self) -> tuple[str, ...]:
        """The columns of sentences that are read: one or none."""
        return () if self.text["encoder"] is None or self.data.text is None else (self.data.text,)

    def options(self, section: str) -> tuple[str, dict[str, Any]]:
        """The name of the section's part and the options for its door."""
        chosen = dict(getattr(self, section))
        return chosen.pop(NAMED[section][0]), chosen


NAMED = {
    "text": ("encoder", "text encoder", ()),
    "model": ("network", "network", ("channels", "classes", "text_dim")),
    "method": ("name", "method", ("teacher",)),
}


def shipped(what: str = "recipes") -> dict[str, Path]:
    """The recipes (or ``tables``) that come with crossmask: 'hcfnet/qata_cpu' -> file."""
    root = Path(str(resources.files("crossmask"))) / what
    return {str(p.relative_to(root).with_suffix("")): p for p in sorted(root.rglob("*.yaml"))}


def find(name: str | Path) -> Path:
    """A recipe's file: a path, or the name of a shipped one (with or without .yaml)."""
    path = Path(name)
    if path.is_file():
        return path
    known = shipped()
    wanted = str(name).removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    raise CallError(
        f"no recipe '{name}': it is no file and none of the shipped ones{rooms.near_miss(wanted, known)} "
        f"There are: {name_list(known, shown=40)}."
    )


def load(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe, ``key=value`` overrides applied (``train.images=1000``)."""
    found = plain(name)
    for override in overrides:
        apply(found, override)
    return check(found, str(find(name)))


def plain(name: str | Path) -> dict[str, Any]:
    """What a recipe's file holds, unchecked."""
    path = find(name)
    found = read_yaml(path, CallError)
    if not isinstance(found, dict):
        raise CallError(f"{path}: holds no sections; a recipe has data, text, model, method, train, evaluate.")
    return found


def apply(plain: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise CallError(f"'{override}' is no override; write key=value, such as train.images=20000.")
    try:
        parsed = parse_yaml(value) if value.strip() else ""  # 'data.text=' is the plain column, null none
    except ValueError as error:
        raise CallError(f"'{override}': the value is not readable YAML.") from error
    if isinstance(parsed, str):  # YAML reads 3e-4 as a string
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    put(plain, key, parsed)


def put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set 'train.images' or a whole section."""
    *parents, last = key.split(".")
    place = plain
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise CallError(f"'{key}={value}': '{parent}' is no section of the recipe.")
    place[last] = copy.deepcopy(value)  # a later put into it must not change the giver's


def check(plain: dict[str, Any], where: str) -> Recipe:
    """Build the recipe, or tell all faults: unknown and missing keys, wrong types, unknown parts and options."""
    faults: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe(**numbers(plain))
    except ValidationError as error:
        faults += [fault(item) for item in error.errors()]
    for section, (key, room, given) in NAMED.items():
        chosen = plain.get(section)
        if not isinstance(chosen, dict):
            continue
        chosen = dict(chosen)
        if key not in chosen:
            faults.append(f"{section}.{key}: missing; it names one of: {name_list(rooms.names(room), shown=40)}.")
            continue
        name = chosen.pop(key)
        if section == "text" and name is None:
            continue
        try:
            faults += rooms.option_faults(rooms.door(room, name), numbers(chosen), where=section, given=given)
        except CrossmaskError as error:
            faults.append(f"{section}.{key}: {error}")
    if faults or recipe is None:
        raise CallError(f"recipe {where}:\n{listed(faults)}")
    return recipe


def same(stored: dict[str, Any], wanted: Recipe) -> bool:
    """Whether a run folder's recipe is this one; keys that newer versions know have their defaults."""
    try:
        return check(stored, "stored").to_dict() == wanted.to_dict()
    except CrossmaskError:
        return False


def fault(item: Any) -> str:
    place = ".".join(str(p) for p in item["loc"])
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, last = item["loc"]
        section: Any = Recipe
        for parent in parents:
            field = getattr(section, "model_fields", {}).get(parent)
            section = field.annotation if field else section
        known = list(getattr(section, "model_fields", None) or getattr(section, "__dataclass_fields__", {}))
        return f"{place}: unknown key{rooms.near_miss(str(last), known)} Known: {name_list(known, shown=40)}."
    if item["type"] == "missing":
        return f"{place}: missing; it has no default."
    wanted = "input should be true or false" if item["type"] == "bool_type" else item["msg"].lower()
    return f"{place}: {item.get('input')!r} does not fit ({wanted})."


def numbers(value: Any) -> Any:
    """YAML reads 3e-4 as a string: take such strings for the numbers they are."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    if isinstance(value, str) and value[:1] in "0123456789+-.":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def smoke(recipe: Recipe) -> Recipe:
    """The recipe's tiny form: no weights, tiny text encoder, 64 px, plain columns, two steps."""
    plain = recipe.to_dict()
    plain["data"] |= {"size": 64, "split": "", "text": None if recipe.data.text is None else "", "selection": 0.2}
    plain["text"] = {"encoder": None if recipe.text["encoder"] is None else "tiny"}
    options = rooms.options(rooms.door("network", recipe.model["network"]))
    if "weights" in options:
        plain["model"]["weights"] = "none"
    if "width" in options and ("encoder" not in options or str(recipe.model.get("encoder")).startswith("resnet")):
        plain["model"]["width"] = 8
    plain["data"] |= {"labels": None, "windows": {}, "context": 0}
    plain["evaluate"] |= {"regions": None, "strata": []}
    plain["train"] |= {"images": 8, "batch": 4, "accumulate": 1, "validate_every": None, "init": None, "teacher": None}
    if recipe.train.unlabelled:
        plain["data"]["labelled"] = 0.5
        plain["train"] |= {"unlabelled": 4, "images": 16}
    return check(plain, "smoke")
