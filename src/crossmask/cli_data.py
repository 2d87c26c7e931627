"""The command line's part about data: import, check, split, overlap, text, expand, register, phantom."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crossmask.errors import CallError, DataError, name_list

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Import, check and make data.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


@data_app.command("import", context_settings={"allow_extra_args": True})
def data_import(
    context: typer.Context,
    adapter: Annotated[str, typer.Argument(help="qata, brats, folder... ('crossmask list' shows all).")],
    source: Annotated[Path, typer.Argument(help="The data set's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The manifest to write.")] = Path("cases.csv"),
) -> None:
    """Make a manifest from a data set's own layout. Options of the adapter follow as key=value."""
    from crossmask import rooms
    from crossmask.data import manifest

    chosen = pairs(context.args)
    scan = rooms.door("adapter", adapter)
    faults = rooms.option_faults(scan, chosen, where=adapter)
    if faults:
        raise CallError("\n".join(faults))
    if output.suffix.lower() not in (".csv", ".jsonl"):
        raise CallError(f"{output}: a manifest ends in .csv or .jsonl.")
    cases = scan(source, **chosen)
    manifest.write(output, cases)
    groups = {c.group for c in cases if c.group}
    print(
        f"{output}: {len(cases)} rows, {len(groups)} groups, {sum(c.group is None for c in cases)} cases without a "
        f"group, {sum(c.mask is None for c in cases)} without a mask, {sum(not c.texts for c in cases)} without text"
    )


@data_app.command("check")
def data_check(
    manifest: Annotated[Path, typer.Argument(help="cases.csv or .jsonl.")],
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the masks, background first.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what single files show: readable, sizes, grids, values, empty masks, labels, ids, texts."""
    from crossmask.data.check import check
    from crossmask.progress import Bar

    with Bar("checking") as bar:
        found = check(manifest, labels=pairs(label) if label else None, tick=bar.tick)
    if as_json:
        emit(found.to_dict())
    else:
        print(found)
    raise typer.Exit(1 if found.faults else 0)


@data_app.command("split")
def data_split(
    manifest: Annotated[Path, typer.Argument(help="cases.csv or .jsonl.")],
    folds: Annotated[int, typer.Option(help="How many folds; each patient is tested in one.")] = 5,
    parts: Annotated[
        str, typer.Option(help="One column instead of folds: shares such as train=0.7,valid=0.1,test=0.2.")
    ] = "",
    name: Annotated[str, typer.Option(help="With --parts: of the column, split:NAME.")] = "",
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="With --parts: keep pictures of one thing in one part.")
    ] = False,
    need: Annotated[str, typer.Option(help="Modalities that a case must have, such as flair,t1.")] = "",
    rest: Annotated[str, typer.Option(help="The part of the cases that lack one.")] = "unused",
    seed: Annotated[int, typer.Option(help="Another seed, other folds.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The manifest to write; itself if left.")
    ] = None,
) -> None:
    """Add split:fold1, split:fold2... by patient, or one column of given parts; the same for the same seed."""
    from collections import Counter

    from crossmask.data import folds as dealing
    from crossmask.data import manifest as manifests

    if not parts and (near_duplicates or name):
        option = "--near-duplicates" if near_duplicates else "--name"
        raise CallError(f"{option}: goes with --parts alone, not with folds.")
    if parts and need:
        raise CallError("--need: goes with --folds alone, not with --parts.")
    cases = manifests.read(manifest)
    if parts:
        cases = dealing.parts(
            cases, shares_of(parts), name=name, together=alike_in(cases) if near_duplicates else (), seed=seed
        )
        columns = [name]
    else:
        wanted = [modality.strip() for modality in need.split(",") if modality.strip()]
        cases = dealing.add(cases, folds, need=wanted, rest=rest, seed=seed)
        columns = [f"fold{n + 1}" for n in range(folds)]
    print(manifests.write(output or manifest, cases))
    for column in columns:
        counts = Counter(c.splits[column] for c in cases)
        title = f"split:{column}" if column else "split"
        print(f"{title}: " + ", ".join(f"{count} {part}" for part, count in sorted(counts.items())))


def shares_of(text: str) -> dict[str, float]:
    try:
        return {part.strip(): float(share) for part, share in (one.split("=") for one in text.split(","))}
    except ValueError:
        raise CallError(f"--parts {text}: write shares such as train=0.7,valid=0.1,test=0.2.") from None


def alike_in(cases: list[Any]) -> list[tuple[str, ...]]:
    """The near-duplicates among pictures, said on stderr."""
    from crossmask.data import near
    from crossmask.errors import listed
    from crossmask.progress import Bar

    with Bar("comparing pictures") as bar:
        found = near.clusters(cases, tick=bar.tick)
    print(f"{len(found)} sets of near-duplicates, {sum(map(len, found))} cases", file=sys.stderr)
    if found:
        print(listed((" = ".join(ids) for ids in found), shown=10), file=sys.stderr)
    return found


@data_app.command("overlap")
def data_overlap(
    manifest: Annotated[Path, typer.Argument(help="cases.csv or .jsonl.")],
    other: Annotated[Path, typer.Argument(help="Another manifest, whose pictures may be the same ones.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the first one, those cases 'unused' in each split."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find pictures that stand in two data sets, whatever their names and sizes: a network trained on the one is not
    tested by the other. Exit code 1 if there are any and no -o puts them aside."""
    from crossmask.data import manifest as manifests
    from crossmask.data import near
    from crossmask.data.folds import without
    from crossmask.errors import listed
    from crossmask.progress import Bar

    cases, others = manifests.read(manifest), manifests.read(other)
    with Bar("comparing pictures") as bar:
        found = near.shared(cases, others, tick=bar.tick)
    if as_json:
        emit({"cases": len(cases), "shared": found})
    else:
        print(f"{len(found)} of {len(cases)} cases of {manifest.name} show a picture that {other.name} holds too")
        if found:
            print(listed((f"{one} = {', '.join(ids)}" for one, ids in found.items()), shown=10))
    if output is not None:
        print(manifests.write(output, without(cases, found)))
    raise typer.Exit(1 if found and output is None else 0)


@data_app.command("text")
def data_text(
    manifest: Annotated[Path, typer.Argument(help="cases.csv or .jsonl, with columns such as age, sex, diagnosis.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The manifest to write; none: only show.")
    ] = None,
    wording: Annotated[str, typer.Option(help="The sentences' column: text:WORDING.")] = "metadata",
    templates: Annotated[
        Path | None, typer.Option(help="A table of phrasings (YAML) instead of crossmask's own.")
    ] = None,
    no_diagnosis: Annotated[
        bool, typer.Option("--no-diagnosis", help="Leave out all that tells the diagnosis.")
    ] = False,
    other_diagnosis: Annotated[
        bool,
        typer.Option("--other-diagnosis", help="Tell another case's diagnosis instead, to see what a wrong one does."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the phrasings.")] = 0,
    shown: Annotated[int, typer.Option(help="How many examples to print.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Make sentences from metadata, show them with a count, and write them into a manifest."""
    from crossmask.data import manifest as manifests
    from crossmask.data import templates as tables

    if no_diagnosis and other_diagnosis:
        raise CallError("--no-diagnosis and --other-diagnosis exclude each other; make two wordings.")
    diagnosis: tables.Diagnosis = "none" if no_diagnosis else "other" if other_diagnosis else "own"
    cases = manifests.read(manifest, check_files=False)
    told = tables.tell(
        cases, tables.load(templates), wording=wording, diagnosis=diagnosis, seed=seed, shown=max(1, shown)
    )
    if not any(case.texts.get(wording) for case in told.cases):
        raise DataError(
            f"{manifest}: no case has a fact that the table of phrasings can tell, so there is no sentence; columns: "
            f"{name_list(sorted({n for c in cases for n in c.free}) or ['none beside the pictures'], shown=20)}."
        )
    if as_json:
        emit({"facts": told.facts, "examples": dict(told.examples)})
    else:
        print(told)
    if output is not None:
        print(manifests.write(output, told.cases))


@data_app.command("expand")
def data_expand(
    manifest: Annotated[Path, typer.Argument(help="cases.csv or .jsonl, of pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    size: Annotated[int, typer.Option(help="Side of the copies in pixels.")] = 256,
    near_duplicates: Annotated[
        bool, typer.Option("--near-duplicates", help="In split:by-source, keep pictures of one thing in one part, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of colour shifts and of the split.")] = 0,
) -> None:
    """Copy each picture 24 times and split the copies, as CMG-Net's protocol does (which leaks), and by source."""
    from crossmask.data import manifest as manifests
    from crossmask.data.expand import CLEAN, SPLIT, expand
    from crossmask.progress import Bar

    cases = manifests.read(manifest)
    together = alike_in(cases) if near_duplicates else ()
    with Bar("copying") as bar:
        copies = expand(cases, output, size=size, together=together, seed=seed, tick=bar.tick)
    print(manifests.write(output / "cases.csv", copies))
    print(f"split:{SPLIT} leaks: copies of one picture stand in train and in test; scores on it are no test scores.")
    print(
        f"split:{CLEAN} keeps a picture's copies in one part; the difference between the two is what the leak is worth."
    )


@data_app.command("register")
def data_register(
    fixed: Annotated[Path, typer.Argument(help="The scan that stays: NIfTI, or a folder of one DICOM series.")],
    moving: Annotated[Path, typer.Argument(help="The scan that is laid onto its grid.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The aligned scan (.nii.gz); a .tfm goes beside it.")],
    truth: Annotated[Path | None, typer.Option(help="A known transform (ITK), to tell the error of this one.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampled voxels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Align a pair of scans rigidly and say how well: motion, residual, before and after."""
    from crossmask.data.register import register

    report = register(fixed, moving, output, truth=truth, seed=seed)
    if as_json:
        emit(report.to_dict())
    else:
        print(report)


@data_app.command("phantom")
def data_phantom(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    anatomy: Annotated[
        Path | None, typer.Option(help="A folder of label maps: two aligned contrasts a brain instead.")
    ] = None,
    cases: Annotated[int, typer.Option(help="How many pictures.")] = 600,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Another seed, another set.")] = 0,
) -> None:
    """Draw chest-like pictures whose sentence decides which of four lesions is the target; or, with --anatomy, two
    aligned scans of each brain, a border faint in one being clear in the other."""
    from crossmask.progress import Bar

    with Bar("drawing") as bar:
        if anatomy is not None:
            from crossmask.data import phantom_brain

            print(phantom_brain.make(anatomy, output, seed=seed, progress=bar.tick))
        else:
            from crossmask.data import phantom

            print(phantom.make(output, cases=cases, size=size, seed=seed, progress=bar.tick))


def pairs(arguments: list[str]) -> dict[str, Any]:
    from crossmask.files import parse_yaml

    chosen = {}
    for argument in arguments:
        key, equals, value = argument.lstrip("-").partition("=")
        if not equals:
            raise CallError(f"'{argument}' is no option; write key=value.")
        try:
            chosen[key.replace("-", "_")] = parse_yaml(value)
        except ValueError:
            raise CallError(
                f"'{argument}': the value has signs of its own meaning; write it in quotes: {key}='\"{value}\"'."
            ) from None
    return chosen
