"""The lowest versions that pyproject.toml allows, `name==version` a line: `make lowest` installs and tests them.

    python scripts/bounds.py [EXTRA ...]    the dependencies, and those of the extras

pip always takes the newest version that fits; a lower bound is true only if something ran on it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lowest(*extras: str, root: Path = ROOT) -> list[str]:
    """The dependencies' and the extras' bounds as pins, each name once."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wishes = [*project["dependencies"]]
    for extra in extras:
        wishes += project["optional-dependencies"][extra]
    pins = {}
    for wish in wishes:
        match = re.fullmatch(r"([\w.-]+)[>=]=([\w.]+)(,<[\w.]+)?", wish)
        if match is None:
            raise ValueError(f"pyproject.toml: {wish!r}: write name>=version, or name==version")
        name, version, _ = match.groups()
        if pins.setdefault(name, version) != version:
            raise ValueError(f"pyproject.toml: {name}>={version} and >={pins[name]}: write one bound")
    return [f"{name}=={version}" for name, version in pins.items()]


if __name__ == "__main__":
    print("\n".join(lowest(*sys.argv[1:])))
