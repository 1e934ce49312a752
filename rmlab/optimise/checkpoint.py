"""A run's checkpoint: one file, written whole or not at all, in which no bit changes unnoticed.

The file is what `torch.save` writes, with its SHA-256 in hex behind it (which `torch.load` passes over).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Protocol

import torch

from rmlab.recipe import require
from rmlab.store import write_atomic

PLAIN = ("identity", "step", "rows", "kl_coef", "origin", "first")  # of a run, as they are
STATEFUL = ("policy", "critic", "optimiser")  # and by their state dicts
MEND = "a copy that is whole, or delete it: the run then starts again"


class Resumable(Protocol):
    """What a checkpoint needs of a run."""

    path: Path
    settings: object  # a dataclass
    seed: int
    identity: dict
    policy: torch.nn.Module


def identity_of(run: Resumable) -> dict:
    """What makes a run this one before its first step: settings, seed, special tokens, a hash of the policy."""
    weights = b"".join(w.cpu().numpy().tobytes() for w in run.policy.state_dict().values())
    named = {"seed": run.seed, "policy": hashlib.sha256(weights).hexdigest()}
    return {**dataclasses.asdict(run.settings), **dataclasses.asdict(run.head.special), **named}


def save_run(run: Resumable) -> None:
    """Write a run's checkpoint to `run.path`.

    Raises
    ------
    OSError
        It cannot be written; what was there still is.
    """
    state = {name: getattr(run, name).state_dict() for name in STATEFUL}
    write_checkpoint(run.path, {name: getattr(run, name) for name in PLAIN} | state)


def load_run(run: Resumable) -> None:
    """Put a run where its checkpoint left it.

    Raises
    ------
    ValueError
        The file is damaged, or another run's: the error names it, what is wrong with it, and the mend.
    """
    kept, name_of = read_checkpoint(run.path, run.device), f"{{}} of the run in {run.path}".format
    require(set(kept) == {*PLAIN, *STATEFUL}, name_of("parts"), sorted(kept), MEND)
    for name, value in run.identity.items():
        then = kept["identity"].get(name)
        require(then == value, name_of(name), then, f"it again, not {value!r}, or another folder")
    steps = kept["step"], len(kept["rows"])
    require(steps[0] == steps[1] <= run.settings.steps + 1, name_of("step and rows"), steps, MEND)
    for name in STATEFUL:
        try:
            getattr(run, name).load_state_dict(kept[name])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{name_of(name)} does not fit: give {MEND}") from error
    for name in PLAIN:
        setattr(run, name, kept[name])


def write_checkpoint(path: Path, state: dict) -> None:
    """Write tensors, numbers, texts and containers of them in the place of what was there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomic(path, content + _checksum(content))


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict:
    """Read what `write_checkpoint` wrote, tensors onto a device; nothing in it is executed.

    Raises
    ------
    ValueError
        A file that is empty, cut, changed or another's.
    """
    data = Path(path).read_bytes()
    size = len(_checksum(b""))
    content, checksum = data[:-size], data[-size:]
    state = f"{len(data)} bytes that are not what was written"
    require(checksum == _checksum(content), f"checkpoint {path}", state, MEND)
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
