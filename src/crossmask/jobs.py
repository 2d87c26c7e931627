"""Independent work in several processes at once: one small network does not fill a GPU."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from crossmask.errors import CrossmaskError, Interrupted, ResourceError
from crossmask.progress import Bar, notice

Task = Callable[[], object]
stopping: Any = None  # in a worker: the parent's event that nothing more is to be begun


def run(tasks: Mapping[str, Task], jobs: int, title: str, log: Path) -> dict[str, str]:
    """Run named tasks, up to ``jobs`` at a time, each process with its share of the CPU's cores; what goes wrong in one
    is told and returned (name -> sentence), the others go on. What the tasks say goes into ``log``.

    Ctrl-C or a polite kill: nothing more is begun, trainings stop at their next step and can be taken up, a scoring
    under way is brought to its end (a second one breaks it off); Interrupted is raised. Tasks must pickle: a module's
    function, or a partial of one.
    """
    faults: dict[str, str] = {}
    if not tasks:
        return faults
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    stop = context.Event()
    given = (max(1, (os.cpu_count() or 1) // jobs), str(log), stop)
    workers = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=begin, initargs=given)
    with stoppable(), workers as pool, Bar(title, total=len(tasks)) as bar:
        names = {pool.submit(attempt, task): name for name, task in tasks.items()}
        try:
            for done, finished in enumerate(as_completed(names), 1):
                fault = finished.result()
                if fault:
                    faults[names[finished]] = fault
                notice(f"{names[finished]}: {fault or 'done'}")
                bar.update(done)
        except BrokenProcessPool:
            raise ResourceError(
                f"one of {jobs} processes was killed, as happens where memory runs out; the same command with fewer "
                "--jobs goes on from there."
            ) from None
        except KeyboardInterrupt:
            stop.set()
            end(pool, names)
            raise Interrupted("stopped; the same command goes on from there.") from None
    return faults


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, also where a background shell has the former ignored."""
    kinds = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [signal.signal(kind, signal.default_int_handler) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def end(pool: ProcessPoolExecutor, under_way: Collection[Future[str]]) -> None:
    """Have the workers stop: asked again until they do, since a training listens only once its loop has begun."""
    pool.shutdown(wait=False, cancel_futures=True)
    try:
        while wait(under_way, timeout=1).not_done:
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()


def begin(threads: int, log: str, stop: Any) -> None:
    """A worker's first act: Ctrl-C is left to the training loop and to the parent, words go into the log."""
    import torch

    global stopping
    stopping = stop
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    sys.stderr = open(log, "a", buffering=1, encoding="utf-8")  # noqa: SIM115


def end_with_parent() -> None:
    """In a worker: once the parent was killed, a training stops at its next step, then the process ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        stopping.set()
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def attempt(task: Task) -> str:
    """The sentence of an error that a user can cause; other errors are faults of the program and go to the parent."""
    if stopping.is_set():
        return "not begun"
    try:
        task()
    except CrossmaskError as error:  # itself may not pickle
        return str(error)
    return ""
