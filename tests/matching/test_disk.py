"""The real disk: what `matching.ports.File` promises, on files of this machine."""

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from matching.disk import SystemClock, SystemDice, SystemDisk
from matching.ports import Locked
from tests.waiting import wait_until


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    file = SystemDisk().create(tmp_path / "intc.log")
    file.append(b"one ")
    file.append(b"two")
    file.sync()
    assert file.size() == 7
    assert file.read(4, 100) == b"two"
    assert file.read(0, 3) == b"one"
    assert file.read(7, 1) == b""
    file.close()


def test_a_file_that_was_cut_is_appended_to_at_its_new_end(tmp_path: Path) -> None:
    file = SystemDisk().create(tmp_path / "intc.log")
    file.append(b"one two")
    file.truncate(4)
    file.append(b"three")
    assert file.read(0, 100) == b"one three"
    file.close()


def test_a_mark_is_overwritten_in_place(tmp_path: Path) -> None:
    file = SystemDisk().create(tmp_path / "intc.durable")
    file.write_at(0, b"7".ljust(64))
    file.write_at(0, b"8".ljust(64))
    assert file.read(0, 100) == b"8".ljust(64)
    file.close()


def test_an_opened_file_goes_on_where_it_was_left(tmp_path: Path) -> None:
    disk, path = SystemDisk(), tmp_path / "intc.log"
    first = disk.create(path)
    first.append(b"one ")
    first.close()
    assert disk.exists(path)
    second = disk.open(path)
    second.append(b"two")
    assert path.read_bytes() == b"one two"
    second.close()


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    SystemDisk().create(tmp_path / "intc.log").close()
    assert (tmp_path / "intc.log").stat().st_mode & 0o777 == 0o600


def test_a_file_is_neither_made_twice_nor_opened_unmade(tmp_path: Path) -> None:
    disk, path = SystemDisk(), tmp_path / "intc.log"
    assert not disk.exists(path)
    with pytest.raises(FileNotFoundError):
        disk.open(path)
    disk.create(path).close()
    with pytest.raises(FileExistsError):
        disk.create(path)


def test_a_file_has_its_name_on_the_medium_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened too: whoever made it may have been killed before its folder was synced."""
    synced: list[bool] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
    )
    SystemDisk().create(tmp_path / "intc.log").close()
    assert synced == [True]
    SystemDisk().open(tmp_path / "intc.log").close()
    assert synced == [True, True]


def test_a_short_write_is_an_error(tmp_path: Path) -> None:
    """A limit on file size makes the kernel write less than it was given, like a full disk."""
    file = SystemDisk().create(tmp_path / "intc.log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        file.append(b"x" * 900)
        with pytest.raises(OSError, match="only 100 of 200 bytes could be written") as caught:
            file.append(b"y" * 200)
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="File too large"):
            file.append(b"z")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.close()


def test_a_lock_is_held_by_one_until_it_is_released(tmp_path: Path) -> None:
    disk, path = SystemDisk(), tmp_path / "intc.lock"
    lock = disk.lock(path)
    with pytest.raises(Locked, match=r"intc\.lock is held by another process"):
        disk.lock(path)
    lock.release()
    disk.lock(path).release()


def test_a_file_has_one_writer_until_it_is_closed_under_any_name(tmp_path: Path) -> None:
    disk, path = SystemDisk(), tmp_path / "intc.log"
    writer = disk.create(path)
    writer.lock()
    (tmp_path / "hard.log").hardlink_to(path)
    other = disk.open(tmp_path / "hard.log")
    assert other.size() == 0  # who only reads is not in the way
    with pytest.raises(Locked):
        other.lock()
    writer.close()
    other.lock()
    other.close()


HOLDER = """
import sys
from pathlib import Path
from matching.disk import SystemDisk
lock = SystemDisk().lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_the_process_that_held_it_even_by_kill(tmp_path: Path) -> None:
    disk, path = SystemDisk(), tmp_path / "intc.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked):
            disk.lock(path)
        holder.kill()
        holder.wait()
    disk.lock(path).release()


def test_the_clock_counts_microseconds_since_1970() -> None:
    clock = SystemClock()
    before = clock.now()
    assert 1_600_000_000_000_000 < before < 10_000_000_000_000_000
    wait_until(lambda: clock.now() > before, "the clock to go on")


def test_the_dice_give_bytes_that_differ() -> None:
    dice = SystemDice()
    assert len(dice.token(8)) == 8
    assert len({dice.token(8) for _ in range(100)}) == 100
