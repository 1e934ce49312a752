"""An ensemble's folder: whole or not at all, nobody else's files touched, and read strictly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmlab.reward.folder import numbered, read_card, read_json, read_tensors, replaced, write_card


def _files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _write(folder, **files):
    with replaced(folder) as new:
        write_card(new, {"format": "heads"})
        for name, text in files.items():
            (new / f"{name}.json").write_text(text)


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    folder = tmp_path / "deep" / "reward"
    _write(folder, config="1", adapter_config="2")
    _write(folder, config="3")
    assert set(_files(folder)) == {"rmlab.json", "config.json"}
    assert [p.name for p in folder.parent.iterdir()] == ["reward"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_folder_as_it_was(error, tmp_path):
    folder = tmp_path / "reward"
    _write(folder, config="1")
    before = _files(folder)
    with pytest.raises(error), replaced(folder) as new:
        (new / "config.json").write_text("half")
        raise error
    assert _files(folder) == before and [p.name for p in tmp_path.iterdir()] == ["reward"]


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "model.bin",
        "part_0/notes.txt",
        "tokenizer.txt",
        "base2/config.json",
        "part_x/config.json",
    ],
)
def test_a_folder_that_holds_anything_else_is_refused_and_not_touched(name, tmp_path):
    folder = tmp_path / "reward"
    _write(folder, config="1")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    before = _files(folder)
    with pytest.raises(
        ValueError, match=r"files in .*reward = \['.*'\]: give an empty folder, or one that holds a saved"
    ):
        _write(folder, config="2")
    assert _files(folder) == before


def test_somebody_elses_model_is_not_replaced(tmp_path):
    """Its files have the names of ours, and no card."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"files in .* = \['config\.json', 'model\.safetensors'\]"):
        _write(tmp_path, config="2")
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_an_empty_folder_is_used_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    _write(tmp_path / "empty")
    assert read_card(tmp_path / "empty") == {"format": "heads"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"folder = .*: give a folder: this is a file"):
        _write(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000], ids=lambda t: t[:3])
def test_a_damaged_card_is_named(text, tmp_path):
    (tmp_path / "rmlab.json").write_text(text)
    with pytest.raises(ValueError, match=r"rmlab\.json"):
        read_card(tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert read_card(tmp_path) is None
    with pytest.raises(ValueError, match=r"adapter_config\.json: cannot be read"):
        read_json(tmp_path / "adapter_config.json")
    with pytest.raises(
        ValueError, match=r"file = '.*laplace\.safetensors': give an existing safetensors file"
    ):
        read_tensors(tmp_path / "laplace.safetensors")


@pytest.mark.parametrize("size", [0, 4, 50, -1])
def test_a_cut_file_of_tensors_is_named(size, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(9.0)}, path)
    np.testing.assert_array_equal(read_tensors(path)["a"], np.arange(9.0))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"x\.safetensors: cut or damaged"):
        read_tensors(path)


def test_numbered_folders_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("part_10", "part_2", "part_x", "part_0"):
        (tmp_path / name).mkdir()
    assert [p.name for p in numbered(tmp_path, "part")] == ["part_0", "part_2", "part_10"]
