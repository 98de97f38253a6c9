"""`<ticker>.rejected`: what was refused, as far as it can be written, and nothing secret."""

import os
import re
from pathlib import Path

import pytest

from matching import rejectedfile
from matching.exchange import Rejection
from matching.rejectedfile import RejectedFile, format_rejection
from tests.waiting import wait_until


def rejection(text: str = "7:buy intc 1@50", *, seq: int = 41, code: str = "no_space") -> Rejection:
    return Rejection(time=1_700_000_000_040_000, owner=7, code=code, text=text, seq=seq)


def write(file: RejectedFile, *rejections: Rejection) -> None:
    """Write, and wait until that has been tried."""
    file.write(rejections)
    wait_until(lambda: file._taken == file._given, "the rejections to be taken")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("7:buy intc 1@50,255", "7:buy intc 1@50,255"),
        ("7:buy intc 1@50 id=" + "a0" * 18, "7:buy intc 1@50 id=" + "a0" * 18),
        ("5e" * 32, "***"),
        ("7:buy intc 1@50 signature=" + "5E" * 32 + ".", "7:buy intc 1@50 signature=***."),
        (f"7:login intc nonce={'ab' * 16} ts=1", "7:login intc *** ts=1"),
        ("a\nb\r\0\x1b[2Jü€", r"a\nb\r\x00\x1b[2J\xfc\u20ac"),
        ("\ud800", r"\ud800"),
        ("", ""),
        ("buy s=9 x=00000000", "buy s=9 x=00000000"),
    ],
)
def test_a_text_is_one_line_of_ascii_without_secrets(text: str, shown: str) -> None:
    for code in ("bad_syntax", "bad_request", "busy"):
        line = format_rejection(rejection(text, code=code)).decode("ascii")
        form = rf"1700000000\.040000: rejected 7 {code} (.*) s=41 x=[0-9a-f]{{8}}\n"
        match = re.fullmatch(form, line)
        assert match is not None
        assert match[1] == shown


def test_lines_are_added_to_those_of_earlier_runs(tmp_path: Path) -> None:
    for seq in (1, 2):
        file = RejectedFile(tmp_path / "intc.log")
        write(file, rejection(seq=seq))
        file.close()
    path = tmp_path / "intc.rejected"
    assert path.read_bytes() == b"".join(format_rejection(rejection(seq=seq)) for seq in (1, 2))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "intc.rejected"
    path.write_bytes(b"1700000000.0400")
    file = RejectedFile(tmp_path / "intc.log")
    write(file, rejection())
    file.close()
    assert path.read_bytes() == b"1700000000.0400\n" + format_rejection(rejection())


def test_without_rejections_there_is_no_file_and_no_thread(tmp_path: Path) -> None:
    RejectedFile(tmp_path / "intc.log").close()
    assert not list(tmp_path.iterdir())


def test_a_full_file_is_put_aside_and_one_old_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(format_rejection(rejection(seq=10)))
    monkeypatch.setattr(rejectedfile, "FILE_LIMIT", 2 * size + 1)
    file = RejectedFile(tmp_path / "intc.log")
    for seq in range(10, 17):
        write(file, rejection(seq=seq))
    file.close()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {
        "intc.rejected.old": b"".join(format_rejection(rejection(seq=n)) for n in (14, 15)),
        "intc.rejected": format_rejection(rejection(seq=16)),
    }


def test_what_cannot_be_written_is_left_out_and_said_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "intc.rejected"
    path.mkdir()
    file = RejectedFile(tmp_path / "intc.log")
    write(file, rejection(), rejection())
    assert (file.problem, file.left_out) == (f"{path} cannot be written: Is a directory", 2)
    path.rmdir()
    write(file, rejection(seq=42))
    assert (file.problem, file.left_out) == ("", 2)
    file.close()
    assert path.read_bytes() == format_rejection(rejection(seq=42))


def test_a_disk_that_hangs_costs_lines_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "intc.rejected"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(rejectedfile, "CLOSE_SECONDS", 0.01)
    file = RejectedFile(tmp_path / "intc.log")
    batch = [rejection()] * 1_000
    try:
        for _ in range(50):  # more than the pipe takes, from somebody who does not read it
            file.write(batch)
        assert file.left_out == 40_000
        file.close()
    finally:
        os.close(reader)
