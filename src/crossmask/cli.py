"""The command line. Results on stdout, progress and notices on stderr; 0 well, 1 data or result bad, 2 call wrong."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crossmask.cli_data import AsJson, data_app, emit
from crossmask.errors import CallError, CrossmaskError, name_list

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Segment medical images with everything known about them. Research use; not a medical device.",
)
app.add_typer(data_app, name="data")

Manifest = Annotated[Path, typer.Option("--data", help="The manifest: cases.csv or .jsonl.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
debug = False


def tell_version(wanted: bool) -> None:
    if wanted:
        from crossmask import __version__

        print(__version__)
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version.")
    ] = False,
    show_traceback: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global debug
    debug = show_traceback
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)


# --- train, evaluate, predict ----------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file ('crossmask list').")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as train.images=20000.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The manifest: cases.csv or .jsonl.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Train without the cases that cannot be read, each named.")
    ] = False,
    device: Device = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="Two steps on phantom data, no weights.")] = False,
) -> None:
    """Train a recipe on a manifest into a run folder."""
    from crossmask import recipe as recipes
    from crossmask.data import manifest

    chosen = recipes.load(recipe, overrides or [])
    folder = output or Path("runs") / Path(recipe).stem
    if smoke:
        smoke_run(recipes.smoke(chosen), output)
        return
    if data is None:
        raise CallError("--data is missing: give the manifest ('crossmask data import' makes one).")
    cases = manifest.read(data, check_files=not leave_out)
    from crossmask.train import train as run_training

    run = run_training(chosen, cases, folder, resume=resume, device=device, manifest=str(data), leave_out=leave_out)
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes
        print(run.folder)


def smoke_run(recipe: Any, output: Path | None) -> None:
    """Train, score and report a recipe's tiny form."""
    import tempfile

    from crossmask.data import manifest, phantom
    from crossmask.evaluate import evaluate as score
    from crossmask.predict import Predictor
    from crossmask.report.page import write as write_page
    from crossmask.train import train as run_training

    with tempfile.TemporaryDirectory() as scratch:
        cases = phantom_for(recipe, manifest.read(phantom.make(Path(scratch) / "phantom", cases=24, size=64)))
        run = run_training(recipe, cases, output or Path(scratch) / "run", device="cpu")
        summary = score(Predictor(run), cases, "test")
        write_page(run)
    print(f"smoke: two steps trained, {summary['cases']} cases scored")


def phantom_for(recipe: Any, cases: list[Any]) -> list[Any]:
    """The phantom's one picture under every modality's name that the recipe reads."""
    from dataclasses import replace

    names = list(recipe.data.modalities)
    return [replace(c, images=dict.fromkeys(names, c.images[""])) for c in cases]


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Manifest,
    split: Annotated[str, typer.Option(help="The part to score; 'all' for every labelled case.")] = "test",
    variant: Annotated[list[str] | None, typer.Option(help="A further text:<wording> to score as a variant.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a run: both Dice families on the native grid, with intervals, with right, no, other and swapped words.
    Cases that cannot be read are named and left out (exit code 1)."""
    from crossmask.data import manifest
    from crossmask.evaluate import evaluate as score
    from crossmask.predict import Predictor
    from crossmask.report.page import text_table
    from crossmask.report.page import write as write_page

    cases = manifest.read(data, check_files=False)  # what is missing in the part is told case by case
    predictor = Predictor(run, device=device)
    summary = score(predictor, cases, split, text_variants=variant or [])
    page = write_page(predictor.run)
    if as_json:
        emit(summary)
    else:
        print(text_table(summary))
        print(f"report: {page}")
    for case, fault in summary["faults"].items():
        print(f"case '{case}': {fault}", file=sys.stderr)
    raise typer.Exit(1 if summary["faults"] else 0)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Pictures, volumes, folders, one manifest; or one case's images as flair=FILE t1=FILE."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for masks, overlays and the table.")],
    text: Annotated[str | None, typer.Option(help="The sentence (for every picture given).")] = None,
    sides: Annotated[str | None, typer.Option(help="Whose left the sentence means: image or patient.")] = None,
    probability: Annotated[bool, typer.Option(help="Also write the probabilities.")] = False,
    seg: Annotated[bool, typer.Option(help="Also write a DICOM SEG where the source is a DICOM series.")] = False,
    device: Device = "auto",
) -> None:
    """Segment pictures and volumes: masks on the source's own grid, overlays, a table with areas and warnings."""
    from crossmask.predict import Predictor
    from crossmask.predict_folder import predict_to_folder, queries_of

    if sides not in (None, "image", "patient", "unknown"):
        raise CallError(f"--sides {sides}: say image, patient or unknown.")
    predictor = Predictor(run, device=device)
    if len(images) == 1 and images[0].lower().endswith((".csv", ".jsonl")):
        if text is not None:
            raise CallError("--text does not go with a manifest, whose rows bring their own sentences.")
        queries = manifest_queries(images[0], predictor.recipe.data.text, sides, list(predictor.settings.modalities))
    else:
        queries = queries_of(images, text, sides, list(predictor.settings.modalities))
    rows, faults = predict_to_folder(predictor, queries, output, probability=probability, seg=seg)
    print(f"{output}: {len(rows)} masks")
    counts: dict[str, int] = {}
    for row in rows:
        for warning in filter(None, row["warnings"].split("; ")):
            counts[warning] = counts.get(warning, 0) + 1
    for warning, count in counts.items():
        print(f"{count} of {len(rows)}: {warning}", file=sys.stderr)
    for fault in faults:
        print(fault, file=sys.stderr)
    raise typer.Exit(1 if faults else 0)


def manifest_queries(path: str, wording: str | None, sides: str | None, modalities: list[str]) -> list[Any]:
    """A manifest's rows as queries; a file that is missing is told when its turn comes."""
    from crossmask.data import manifest
    from crossmask.predict import Query

    cases = manifest.read(path, check_files=False)
    queries = []
    for case in cases:
        convention = case.side_convention if case.side_convention != "unknown" else sides
        images = {name or "image": file for name, file in case.images.items()}
        images = {name: file for name, file in images.items() if name in modalities} or images
        source = images["image"] if list(images) == ["image"] else images
        queries.append(Query(case.id, source, case.texts.get(wording or ""), convention, case.spacing))
    return queries


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A table's name or file ('crossmask list').")] = "",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every row.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The manifest: cases.csv or .jsonl.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the runs and the table.")] = Path(
        "reproduced"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A row to make; others are printed if they are there.")] = None,
    budget: Annotated[str | None, typer.Option(help="Images seen by each run (20000, 20k), not the table's.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs made at once: small networks do not fill a GPU, nor 2 cores 2 of them.")
    ] = 1,
    check_paper: Annotated[
        bool,
        typer.Option(
            "--check-paper", help="Only say whether the printed numbers fit their own formulas, of one table or of all."
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Make a published comparison: train or reuse each row's runs, score them once, print them with intervals."""
    from crossmask.data import manifest
    from crossmask.recipe import shipped
    from crossmask.reproduce import reproduce as make_table
    from crossmask.table import load

    known = shipped("tables")
    if not table and not check_paper:
        raise CallError(f"which table? There are: {name_list(known, shown=40)}.")
    chosen = [load(name) for name in ([table] if table else known)]  # a wrong name is told first
    if check_paper:
        from crossmask.paper_check import check

        print("\n\n".join(check(one) for one in chosen if table or any(row.printed for row in one.rows)))
        return
    if data is None:
        raise CallError("--data is missing: give the manifest ('crossmask data import' makes one).")
    cases = manifest.read(data)
    more = [*(overrides or []), *([f"train.images={images_of(budget)}"] if budget is not None else [])]
    print(
        make_table(
            table, cases, output, overrides=more, only=only or [], device=device, manifest=str(data), beside=jobs
        )
    )


def images_of(budget: str) -> int:
    """'20000' or '20k' -> 20000."""
    number, thousand = budget.removesuffix("k"), budget.endswith("k")
    if not number.isdigit() or not int(number):
        raise CallError(
            f"--budget {budget}: say how many images each run sees, such as 20000 or 20k; minutes would give every "
            "network another number of them."
        )
    return int(number) * (1000 if thousand else 1)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders that scored the same cases.")],
    split: Annotated[str, typer.Option(help="The part; left out: the one that all have scored.")] = "",
    column: Annotated[str, typer.Option(help="Of the paired differences: dice, iou, hd95, dice_pooled...")] = "dice",
    variant: Annotated[str, typer.Option(help="right, none, other, swapped, 'modalities: t1'...")] = "right",
    as_json: AsJson = False,
) -> None:
    """Compare runs case by case: paired differences with intervals."""
    from crossmask.compare import compare as compare_runs
    from crossmask.compare import text

    result = compare_runs(runs, split=split, column=column, variant=variant)
    if as_json:
        emit(result)
    else:
        print(text(result))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
) -> None:
    """Write each run's page (report.html in the run folder)."""
    from crossmask.report.page import write as write_page
    from crossmask.run import Run

    for folder in runs:
        print(write_page(Run.open(folder)))


# --- about -----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_parts(as_json: AsJson = False) -> None:
    """What there is: recipes, networks, methods, adapters, text encoders, metrics."""
    from crossmask import rooms
    from crossmask.recipe import shipped

    found: dict[str, dict[str, str]] = {
        room: {name: rooms.summary(room, name) for name in rooms.names(room)} for room in rooms.ROOMS
    }
    found["recipe"] = {name: first_line(path) for name, path in shipped().items()}
    found["table"] = {name: first_line(path) for name, path in shipped("tables").items()}
    if as_json:
        emit(found)
        return
    for room, parts in found.items():
        print(f"{room}:")
        for name, line in parts.items():
            print(f"  {name:24} {line}")


def first_line(path: Path) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").strip()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what of crossmask works on this machine, and how to mend the rest."""
    from crossmask.doctor import examine

    findings = examine()
    if as_json:
        emit(findings)
    else:
        for finding in findings:
            print(f"[{finding['state']:4}] {finding['what']}: {finding['detail']}")
    raise typer.Exit(1 if any(f["state"] == "bad" for f in findings) else 0)


def main() -> None:
    try:
        code = app(standalone_mode=False)  # an Exit's code is returned
        sys.exit(code if isinstance(code, int) else 0)
    except CrossmaskError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's usage errors, whose class is private
            error.show()
            sys.exit(error.exit_code)
        raise
