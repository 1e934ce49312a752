"""A pool's bytes: every array lies where a typed array may begin, and comes back as it was."""

import zlib

import numpy as np
import pytest

from rmlab.optimise.packing import pack, read, write

ARRAYS = {
    "letters": np.frombuffer(b"odd", np.uint8),
    "steps": np.arange(5, dtype="<i2"),
    "scores": np.linspace(0, 1, 6, dtype="<f4").reshape(2, 3),
    "lengths": np.arange(3, dtype="<u4"),
}


def test_wide_items_come_first_and_every_array_is_found_again():
    layout, data = pack(ARRAYS)
    assert [name for name, _, _ in layout] == ["scores", "lengths", "steps", "letters"]
    stream, start = zlib.decompress(data), 0
    for name, kind, size in layout:
        assert start % np.dtype(kind).itemsize == 0
        found = np.frombuffer(stream, kind, size, start)
        np.testing.assert_array_equal(found, ARRAYS[name].ravel())
        start += found.nbytes
    assert start == len(stream)


def test_a_file_gives_back_what_was_written_and_the_same_bytes(tmp_path):
    meta = {"prompts": ["“naïve” </script>", ""], "N": 3}
    for name in ("a", "b"):
        write(tmp_path / f"{name}.npz", meta, ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again, arrays = read(tmp_path / "a.npz")
    assert again == meta and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_another_file_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match=r"other\.npz'?: give a file that CompactPool\.save wrote"):
        read(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="that exists"):
        read(tmp_path / "none.npz")
