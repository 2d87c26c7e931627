"""Images per second of the bare training step, the whole loop and prediction, and what the text cache saves.

    python benchmarks/throughput.py [--size 128] [--steps 40]

All in one run, in turns, on phantom pictures; the ratios are what counts, the rates are this machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from crossmask import parts, recipe
from crossmask.core import Progress, number
from crossmask.data import manifest, phantom
from crossmask.predict import Predictor, Query
from crossmask.train import make_optimizer, train

ROUNDS = 3


def chosen_recipe(size: int, images: int) -> recipe.Recipe:
    return recipe.load(
        "hcfnet/qata_cpu",
        [f"data.size={size}", "data.text=", "data.split=", f"train.images={images}", "train.validate_every=100000000"],
    )


def whole_loop(chosen: recipe.Recipe, cases: list, folder: Path) -> float:
    """Images/s between the first and the last logged step, data work, guard, averaging and logging included."""
    with contextlib.redirect_stderr(io.StringIO()):
        run = train(chosen, cases, folder, device="cpu")
    steps = run.entries("step")
    first, last = steps[0], next(e for e in reversed(steps) if e["step"] % 20 == 0)
    return (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])


class Stepper:
    """The bare step: forward, losses, backward, clip, AdamW, averaging on one batch that lies ready."""

    def __init__(self, chosen: recipe.Recipe, cases: list) -> None:
        from accelerate import Accelerator

        from crossmask.joined import join

        with contextlib.redirect_stderr(io.StringIO()):
            joined = join(chosen, cases, Accelerator(cpu=True))
        self.batch = joined.loader.batch(0)
        self.method = parts.method(chosen, joined.text_dim).to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(self.method, chosen)
        self.clip = chosen.train.clip

    def rate(self, steps: int) -> float:
        began = time.perf_counter()
        for step in range(steps):
            torch.manual_seed(number(0, "step", step))
            sum(self.method(self.batch, Progress(step, 0, 0.0)).values()).backward()
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step()
        return steps * len(self.batch.labelled.id) / (time.perf_counter() - began)


def encoder_cost(chosen: recipe.Recipe, sentences: list[str]) -> float:
    """Seconds that running the language model on one batch of sentences adds to a step."""
    encoder = parts.text_encoder(chosen)
    assert encoder is not None
    encoder.encode(sentences)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        encoder.encode(sentences)
    return (time.perf_counter() - began) / ROUNDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CROSSMASK_CACHE"] = f"{scratch}/cache"
        cases = manifest.read(phantom.make(Path(scratch) / "phantom", cases=400, size=224))
        chosen = chosen_recipe(options.size, 16 * options.steps)
        stepper = Stepper(chosen, cases)
        stepper.rate(3)
        bare, loop = [], []
        for turn in range(ROUNDS):
            bare.append(stepper.rate(options.steps // 2))
            loop.append(whole_loop(chosen, cases, Path(scratch) / f"run{turn}"))
            bare.append(stepper.rate(options.steps // 2))
        step_rate, loop_rate = statistics.median(bare), statistics.median(loop)
        predictor = Predictor(Path(scratch) / "run0")
        queries = [Query(c.id, c.images[""], c.texts.get("")) for c in cases[:128]]
        predictor.predict_many(queries[:32])
        began = time.perf_counter()
        for start in range(0, len(queries), 32):
            predictor.predict_many(queries[start : start + 32])
        predict_rate = len(queries) / (time.perf_counter() - began)
        sentences = [c.texts[""] for c in cases if "" in c.texts][: chosen.train.batch]
        added = encoder_cost(chosen, sentences)
    seconds = chosen.train.batch / loop_rate
    print(f"{options.size} px, batch {chosen.train.batch}, {torch.get_num_threads()} threads")
    print(f"bare step     {step_rate:7.1f} images/s")
    print(f"whole loop    {loop_rate:7.1f} images/s   {loop_rate / step_rate:.1%} of the bare step")
    views = len(chosen.evaluate.zooms) * (2 if chosen.evaluate.mirror else 1)
    print(
        f"predict       {predict_rate:7.1f} images/s   (files; each seen {views} times, mirrored and at several sizes)"
    )
    print(
        f"text cache    saves {added * 1000:.0f} ms a batch: {seconds * 1000:.0f} ms with the model in the loop "
        f"would be {(seconds + added) * 1000:.0f} ms ({(seconds + added) / seconds:.2f} times)"
    )


if __name__ == "__main__":
    main()
