"""Files that are whole or not there: atomic writes, folders of a process's own, seals that tell every change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rmlab.recipe import require


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all, whoever else writes it at the same time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with aside.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def part_folder(root: Path) -> Iterator[Path]:
    """A new folder under `root`, named after this host and process; gone at the end unless it was moved."""
    root.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    path = root / f".part-{socket.gethostname()}-{pid}-{_start_of(pid)}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove the part folders of this host's dead processes."""
    for path in root.glob(".part-*"):
        host, pid, start = [*path.name.removeprefix(".part-").rsplit("-", 3), "", ""][:3]
        if host == socket.gethostname() and pid.isdigit() and _start_of(int(pid)) != start:
            shutil.rmtree(path, ignore_errors=True)


def seal(path: Path, sync: bool = False) -> dict:
    """A file's size in bytes and SHA-256; with `sync` it is on disk afterwards."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return {
            "size": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def sync_folders(folder: Path) -> None:
    """Bring what a folder and those in it list to disk."""
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Bring what a folder lists to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_writable(folder: str | Path, name: str) -> None:
    """Make a folder and see that it can be written to; a `ValueError` names it as `name` where it cannot."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        require(False, name, str(folder), f"a folder that can be written to ({error.strerror})")


def _start_of(pid: int) -> str:
    """When a process of this host started, as its kernel counts; "" if it is dead, "0" where only its life is known."""
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if state in "ZX" else rest[18]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "0"
    return "0"
