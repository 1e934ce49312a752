"""A compact pool as bytes: one zlib stream in a page, one npz on disk; the same pool gives the same bytes."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rmlab.recipe import require


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[list[list], bytes]:
    """Arrays as one zlib stream, wide items first, so that each lies where a page's typed array may begin.

    Returns
    -------
    layout : [name, dtype, size] of each array in the stream's order; the stream
    """
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # stable: equal widths stay in order
    layout = [[name, arrays[name].dtype.str, arrays[name].size] for name in order]
    return layout, zlib.compress(b"".join(arrays[name].tobytes() for name in order), 9)


def write(path: str | Path, meta: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one npz: `meta` as JSON beside the arrays."""
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    with zipfile.ZipFile(path, "w") as file:
        for name, array in {"meta": text, **arrays}.items():
            item = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))  # no clock in the bytes
            item.compress_type, item.create_system = zipfile.ZIP_DEFLATED, 3
            data = io.BytesIO()
            np.lib.format.write_array(data, array)
            file.writestr(item, data.getvalue())


def read(path: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """`meta` and the arrays that `write` wrote.

    Raises
    ------
    ValueError : no such file, or another's
    """
    require(Path(path).exists(), "path", str(path), "a file that exists, written by CompactPool.save")
    with np.load(path) as file:
        require("meta" in file.files, "path", str(path), "a file that CompactPool.save wrote")
        meta = json.loads(file["meta"].tobytes())
        return meta, {name: file[name] for name in file.files if name != "meta"}
