"""Files that are whole or not there, and part folders that only the dead lose."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rmlab import files
from rmlab.files import part_folder, require_writable, seal, sweep, write_atomic


def test_a_file_is_written_whole_with_the_usual_rights(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_atomic(tmp_path / "in" / "a", "text")
    write_atomic(tmp_path / "in" / "a", b"bytes")
    assert (tmp_path / "in" / "a").read_bytes() == b"bytes"
    assert (tmp_path / "in" / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [f.name for f in (tmp_path / "in").iterdir()] == ["a"]


def test_many_writers_of_one_file_never_tear_it(tmp_path):
    path, texts = tmp_path / "a", [str(i) * 50_000 for i in range(4)]
    write_atomic(path, texts[0])
    torn, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            if path.read_text() not in texts:
                torn.append(1)

    def write(text):
        for _ in range(25):
            write_atomic(path, text)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    ended.set()
    reader.join()
    assert not torn and [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "a", "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write_atomic(tmp_path / "a", "before")
    code = "import sys; from rmlab.files import write_atomic; write_atomic(sys.argv[1], 'x' * 100_000)"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert (tmp_path / "a").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_only_the_parts_of_this_hosts_dead_are_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, here = socket.gethostname(), files._start_of(os.getpid())
    kept = [
        f".part-{host}x-{dead.pid}-1-aa",
        f".part-{host}-2-{dead.pid}-1-aa",
        f".part-{host}-{os.getpid()}-{here}-aa",
        ".part-old",
        "artifact",
    ]
    gone = [
        f".part-{host}-{dead.pid}-1-aa",
        f".part-{host}-{os.getpid()}-1-aa",
    ]  # the second: an earlier process's number
    for name in [*kept, *gone]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with part_folder(tmp_path) as part:
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, part.name])
    assert not part.exists()


def test_a_seal_tells_every_bit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    seals = [seal(path)]
    for i in range(0, 1000, 100):
        content = bytearray(1000)
        content[i] = 1
        path.write_bytes(content)
        seals.append(seal(path, sync=True))
    assert {s["size"] for s in seals} == {1000} and len({s["sha256"] for s in seals}) == len(seals)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    require_writable(tmp_path / "new" / "folder", "out")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/here")):
        with pytest.raises(ValueError, match=f"^out = '{folder}': give a folder that can be written to"):
            require_writable(folder, "out")
