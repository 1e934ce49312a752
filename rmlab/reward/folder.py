"""The folder of an ensemble: written whole or not at all, and read strictly.

It is a plain Hugging Face or PEFT folder, or folders of them, with a card, `rmlab.json`: which method's
module reads it, K, the members' alignment (null: never aligned) and what else the kind needs. Only
safetensors and JSON are read, never a pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rmlab.recipe import require
from rmlab.text import FILES

CARD = "rmlab.json"
OURS = re.compile(  # every name that a save leaves, at any depth
    r"(rmlab|config|adapter_config|model\.safetensors\.index)\.json"
    r"|(model(-\d+-of-\d+)?|adapter_model|mlp_heads|laplace)\.safetensors"
    r"|base|(member|part)_\d+|" + "|".join(map(re.escape, FILES))
)


@contextmanager
def replaced(folder: str | Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` when the block ends without an error.

    Raises
    ------
    ValueError
        `folder` holds anything that no ensemble's save wrote: nothing of it is touched.
    """
    folder = Path(folder).resolve()
    require_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    side = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    side.mkdir()
    try:
        yield side
    except BaseException:
        shutil.rmtree(side)
        raise
    if folder.exists():  # the old one is moved away first: no moment sees a mixture
        old = side.with_name(side.name + ".old")
        folder.rename(old)
        side.rename(folder)
        shutil.rmtree(old)
    else:
        side.rename(folder)


def require_ours(folder: Path) -> None:
    """Raise a `ValueError` unless a folder is missing, empty, or holds a saved ensemble and nothing else."""
    require(folder.is_dir() or not folder.exists(), "folder", str(folder), "a folder: this is a file")
    names = [p.relative_to(folder) for p in folder.rglob("*")] if folder.is_dir() else []
    foreign = sorted(str(name) for name in names if not OURS.fullmatch(name.name))
    if names and not foreign and not (folder / CARD).is_file():
        foreign = sorted(map(str, names))
    mend = "an empty folder, or one that holds a saved ensemble and nothing else"
    require(not foreign, f"files in {folder}", foreign[:3], mend)


def write_card(folder: Path, card: dict) -> None:
    """Write a folder's card."""
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """A JSON object from a file; raises a `ValueError` that names the file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); save the ensemble again") from error
    require(isinstance(content, dict), str(path), content, "a JSON object")
    return content


def read_card(folder: str | Path) -> dict | None:
    """A folder's card, or None where it has none: a Hugging Face model, say, or PEFT's."""
    path = Path(folder) / CARD
    return read_json(path) if path.is_file() else None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name; raises a `ValueError` that names the file."""
    require(path.is_file(), "file", str(path), "an existing safetensors file")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: cut or damaged ({error}); save the ensemble again") from error


def numbered(folder: Path, stem: str) -> list[Path]:
    """The folders stem_0, stem_1, ... of a folder, in the order of their numbers."""
    paths = [p for p in folder.glob(f"{stem}_*") if p.name[len(stem) + 1 :].isdigit()]
    return sorted(paths, key=lambda p: int(p.name[len(stem) + 1 :]))


def require_distinct(folders: Sequence[Path], name: str) -> None:
    """Raise a `ValueError` where two folders hold the same members: an ensemble of copies is one model.

    Compared are the weights and the cards, whose alignment aside: masks of one network are told apart by
    them.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        content = hashlib.sha256()
        for path in sorted(folder.rglob("*.safetensors")):
            with path.open("rb") as file:
                content.update(hashlib.file_digest(file, "sha256").digest())
        for path in sorted(folder.rglob(CARD)):
            card = {key: value for key, value in read_json(path).items() if key != "alignment"}
            content.update(json.dumps(card, sort_keys=True).encode())
        twin = seen.setdefault(content.hexdigest(), folder)
        require(twin == folder, name, f"{folder.name} is {twin.name} again", "every member once")
