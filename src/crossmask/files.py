"""Files that are complete or absent: atomic writes, content hashes, text in whatever encoding is sound."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crossmask.errors import CrossmaskError, DataError, ResourceError


@contextlib.contextmanager
def atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file handle whose content appears under ``path`` only when the block ends without an error."""
    path = Path(path)
    with sentence_for_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            encoding = None if "b" in mode else "utf-8"
            newline = None if "b" in mode else ""
            with os.fdopen(handle, mode, encoding=encoding, newline=newline) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp makes private files; give what an ordinary write would have given.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill that appears under ``path`` only when the block ends without an error."""
    path = Path(path)
    with sentence_for_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield part
            os.chmod(part, 0o755)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextlib.contextmanager
def sentence_for_write_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a sentence that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"{path}: the write failed half-way ({os.strerror(error.errno).lower()}) and was undone; "
                "free some space or raise the file-size limit, then run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(
                f"{path}: cannot be written ({os.strerror(error.errno).lower()}); choose another folder."
            ) from error
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise ResourceError(
                f"{path}: cannot be written ({os.strerror(error.errno).lower()}); "
                "move what is there away or choose another place."
            ) from error
        raise


def write_json(path: str | Path, value: Any) -> None:
    with atomic(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, sort_keys=False)
        stream.write("\n")


def read_json(path: str | Path) -> Any:
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except ValueError as error:
        raise DataError(f"{path}: is not readable JSON ({error}); write it anew.") from error


@functools.cache
def yaml_loader() -> Any:
    """YAML whose truth values are true and false alone, as YAML 1.2 has it: ``off``, ``on``, ``yes`` are words."""
    import yaml

    truth = "tag:yaml.org,2002:bool"
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0] != truth]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader.add_implicit_resolver(truth, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return loader


def parse_yaml(text: str) -> Any:
    """The text's value; a ValueError with the parser's words where it has none.

    >>> parse_yaml("{alpha: off, masa: false}")
    {'alpha': 'off', 'masa': False}
    """
    import yaml

    try:
        return yaml.load(text, yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: str | Path, wrong: type[CrossmaskError] = DataError) -> Any:
    """A YAML file's value; ``wrong`` where it is none."""
    try:
        return parse_yaml(read_text(path))
    except ValueError as error:
        raise wrong(f"{path}: is not readable YAML ({error}).") from error


def read_text(path: str | Path) -> str:
    """A text file as Unicode: UTF-8 (with or without a mark) or UTF-16 with a mark; all else is an error."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: begins as UTF-16 but byte {error.start} is not; save the file as UTF-8."
            ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {row}: byte 0x{raw[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8 (in a spreadsheet program: 'CSV UTF-8')."
        ) from error


def digest(*parts: object) -> str:
    """A short, stable name for a value made of plain Python objects or bytes."""
    hasher = hashlib.blake2b(digest_size=10)
    for part in parts:
        hasher.update(part if isinstance(part, bytes) else repr(part).encode())
        hasher.update(b"\0")
    return hasher.hexdigest()


def file_digest(path: str | Path) -> str:
    """A hash of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=10)).hexdigest()


def cache_folder() -> Path:
    """Where prepared images and sentence states are kept: ``CROSSMASK_CACHE`` or the user's cache folder."""
    given = os.environ.get("CROSSMASK_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "crossmask"
