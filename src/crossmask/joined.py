"""What training needs, joined from manifest, cache, text features and recipe; and what is said and kept about it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from crossmask import parts
from crossmask.data import manifest as manifests
from crossmask.data import split as splits
from crossmask.data.cache import Store, prepare_readable
from crossmask.data.loader import Loader, says, variants
from crossmask.data.manifest import Case
from crossmask.errors import CallError, CasesError, DataError, name_list
from crossmask.files import cache_folder
from crossmask.progress import Bar, notice
from crossmask.recipe import Recipe
from crossmask.rooms import near_miss
from crossmask.run import Run


@dataclass
class Joined:
    """What training needs, joined from cache, text features and recipe."""

    recipe: Recipe
    store: Store
    split: splits.Split
    loader: Loader  # knows the words, and the sentences of each case
    selection_rows: np.ndarray  # rows of the store
    text_dim: int | None


def join(recipe: Recipe, cases: Sequence[Case], accelerator: Any, leave_out: bool = False) -> Joined:
    """leave_out: cases that cannot be read are left out and named; otherwise they are an error."""
    data, seed = recipe.data, recipe.train.seed
    check_columns(recipe, cases)
    split = splits.make(cases, name=data.split, selection=data.selection, labelled=data.labelled, seed=seed)
    used = used_cases(recipe, cases, split)
    with Bar("preparing images") as bar:
        kind, folder = parts.settings(recipe), cache_folder() / "images"
        store, faults = prepare_readable(used, kind, folder, tick=bar.tick)
    if faults:
        if not leave_out:
            raise DataError(f"{CasesError(faults)}\nCorrect them, or say --leave-out to train on the other cases.")
        if accelerator.is_main_process:
            notice(f"{CasesError(faults)}\n{len(faults)} of {len(used)} cases cannot be read and are left out")
        used = [case for case in used if case.id not in faults]
        split = replace(split, parts=dict(split.parts) | dict.fromkeys(faults, splits.UNUSED))
    encoder = parts.text_encoder(recipe)
    wording = data.text if encoder is not None else None
    turned = [variants(case, wording, data.sides) for case in used]
    with Bar("encoding sentences") as bar:
        table = parts.text_table(encoder, [s for row in turned for s in row if s is not None], tick=bar.tick)
    sentences = np.stack([parts.sentence_rows(table, row) for row in turned])
    # A case without a sentence may be turned; one whose sentence cannot follow may not.
    silent = np.array([says(case, wording, data.sides) is None for case in used])
    allowed = (sentences >= 0) | silent[:, None]
    part = np.array([split.parts[c.id] for c in used])[store.case]
    trained = np.flatnonzero((part == "train") & store.busy)
    loader = Loader(
        store,
        trained,
        words=parts.words(table, accelerator.device),
        sentences=sentences,
        allowed=allowed,
        augment=data.augment,
        batch=recipe.train.batch // accelerator.num_processes,
        seed=seed,
        unlabelled_rows=np.flatnonzero((part == splits.UNLABELLED) & store.busy),
        unlabelled=recipe.train.unlabelled // accelerator.num_processes,
        strong=data.strong,
        context=data.context,
        foreground=data.foreground,
        text_dropout=data.text_dropout,
        modality_dropout=data.modality_dropout,
        device=accelerator.device,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    if accelerator.is_main_process:
        tell(recipe, store, split, table, silent, allowed, loader.placeless, wording)
    chosen = np.flatnonzero(part == splits.SELECTION)
    return Joined(recipe, store, split, loader, chosen, table.width if table else None)


def used_cases(recipe: Recipe, cases: Sequence[Case], split: splits.Split) -> list[Case]:
    """The cases that training looks at: labelled and selection ones with a mask, unlabelled ones if the recipe does."""
    wanted = {"train", splits.SELECTION} | ({splits.UNLABELLED} if recipe.train.unlabelled else set())
    used = [c for c in cases if split.parts[c.id] in wanted and (c.mask or split.parts[c.id] == splits.UNLABELLED)]
    found = Counter(split.parts[c.id] for c in used)
    if not found["train"]:
        raise DataError("no case of the part 'train' has a mask; a supervised method needs some.")
    if recipe.train.unlabelled and not found[splits.UNLABELLED]:
        raise DataError(
            f"train.unlabelled={recipe.train.unlabelled}, but every case of train shows its mask; set data.labelled "
            "(a share or a number of groups), leave some masks empty, or say train.unlabelled=0."
        )
    return used


def check_columns(recipe: Recipe, cases: Sequence[Case]) -> None:
    """The columns that the recipe reads must be there."""
    wording = recipe.data.text
    known = sorted({n for c in cases for n in c.texts})
    if recipe.wordings and wording not in known and (wording or known):
        shown = [f"text:{n}" if n else "text" for n in known]
        wanted = f"text:{wording}" if wording else "text"
        raise CallError(
            f"data.text: the manifest has no column '{wanted}'{near_miss(wanted, shown)} "
            f"It has: {name_list(shown)}. "
            + (f"Say data.text={known[0]} to read that one, or data.text=null " if known else "Say data.text=null ")
            + "to train without sentences."
        )
    have = {n for c in cases for n in c.images}
    for name in recipe.data.modalities:
        if name not in have and not (name == "image" and "" in have):
            shown = [f"image:{n}" if n else "image" for n in sorted(have)]
            own = ", ".join(f"{n or 'image'}: 1" for n in sorted(have))
            wanted = "image" if name == "image" else f"image:{name}"
            raise CallError(
                f"data.modalities: the manifest has no column '{wanted}'. It has: {name_list(shown)}. Say "
                f"data.modalities='{{{own}}}' (name: channels), or fewer of them."
            )


def tell(
    recipe: Recipe,
    store: Store,
    split: splits.Split,
    table: Any,
    silent: np.ndarray,
    allowed: np.ndarray,
    placeless: np.ndarray,
    wording: Any,
) -> None:
    """Say once what was changed, cut or not known."""
    counts = Counter(split.parts.values())
    if counts[splits.UNLABELLED]:
        use = "looked at without their masks" if recipe.train.unlabelled else "not used"
        notice(f"{counts['train']} cases of train with masks, {counts[splits.UNLABELLED]} without ({use})")
    idle = int((~store.busy).sum())
    if idle:
        notice(f"{idle} of {len(store.busy)} slices show nothing and are not trained on")
    for place, name in enumerate(recipe.data.modalities):
        missing = int((~store.present[:, place]).sum())
        if missing:
            notice(f"{missing} of {len(store.ids)} cases have no '{name}'")
    for note, count in sorted(store.notes.items()):
        notice(f"{count} of {len(store.ids)} cases: {note}")
    if split.ungrouped:
        notice(f"{split.ungrouped} of {len(split.parts)} cases name no group (patient) and were split by image")
    for part, count in split.shared_groups.items():
        if count:
            notice(
                f"the split leaks: {count} groups of '{part}' have other cases in train; scores are also given for the "
                "disjoint cases"
            )
    if recipe.train.unlabelled and recipe.data.strong is None:
        notice("data.strong is not given: the strong view of unlabelled cases is a second draw of data.augment")
    if table is not None and table.truncated:
        notice(f"{len(table.truncated)} sentences (with their turned forms) were cut at text.max_length tokens")
    if wording is not None and silent.any():
        notice(f"{int(silent.sum())} of {len(silent)} cases have no sentence")
    if recipe.data.augment.eighths and not placeless.all():
        notice(f"{int((~placeless).sum())} cases are not turned by eighths: their sentences name a side or a place")
    stuck = int((~allowed[:, 1]).sum())
    if stuck:
        notice(f"{stuck} cases are never mirrored: their sentences name a side of unknown convention")


def describe(run: Run, joined: Joined, cases: Sequence[Case], manifest: str, accelerator: Any) -> None:
    """Write what stays fixed in the run folder."""
    import transformers

    import crossmask

    facts = {
        "file": os.path.basename(manifest),
        "hash": manifests.fingerprint(cases),
        "read": manifests.fingerprint(cases, joined.recipe.wordings),
        "parts": dict(Counter(joined.split.parts.values())),
        "ungrouped": joined.split.ungrouped,
        "shared_groups": dict(joined.split.shared_groups),
        "native_sizes": size_range(joined.store),
        "pixel_mm": pixel_mm(joined),
        "notes": dict(joined.store.notes),
        "text_dim": joined.text_dim,
    }
    environment = {
        "crossmask": crossmask.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": str(accelerator.device),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    run.start(joined.recipe.to_dict(), joined.split.parts, facts, environment)


def pixel_mm(joined: Joined) -> list[float] | None:
    """How large a pixel of the model's grid is, (height, width) in mm: the median over the cases that know it."""
    grid = parts.settings(joined.recipe).grid
    found = []
    for shape, spacing in zip(joined.store.shapes, joined.store.spacings, strict=True):
        if spacing:
            inner = grid.inner((shape[-2], shape[-1]))
            found.append([s * n / i for s, n, i in zip(spacing[-2:], shape[-2:], inner, strict=True)])
    return [round(float(v), 4) for v in np.median(found, 0)] if found else None


def size_range(store: Store) -> list[list[int]]:
    """Least and greatest native height and width."""
    shapes = np.array([shape[-2:] for shape in store.shapes])
    return [shapes.min(0).tolist(), shapes.max(0).tolist()]
