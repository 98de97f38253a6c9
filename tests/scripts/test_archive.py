"""The archive: whole or refused, closed to others, and nothing in it leads out of its folder."""

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from scripts import archive
from scripts.archive import NotAnArchive

CONTENTS = {
    "emte.db": random.Random(1).randbytes(70_000),  # nothing in it could be replaced by its like
    "journal/intc.log": b"#EMTE 1 and more\n",
    "runs/12/web.settled": b"7 512 9c1f0a44d2b7e683\n",
    "venue.key": b"5e" * 32,
}


def make(path: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    with archive.writing(path) as made:
        for name, data in contents.items():
            made.add_bytes(name, data)
    return path


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes], comment: str | None = None) -> Path:
    """A tar of somebody else's."""
    headers = {} if comment is None else {"comment": comment}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_what_went_in_comes_out_in_its_order(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tgz")
    assert archive.unpack(path, tmp_path / "out") == list(CONTENTS)
    for name, data in CONTENTS.items():
        assert (tmp_path / "out" / name).read_bytes() == data


def test_tar_reads_it_too(tmp_path: Path) -> None:
    with tarfile.open(make(tmp_path / "a.tgz")) as tar:
        assert tar.getnames() == list(CONTENTS)


def test_nobody_else_can_read_it_or_what_comes_out(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tgz")
    assert path.stat().st_mode & 0o777 == 0o600
    archive.unpack(path, tmp_path / "out")
    modes = {each.stat().st_mode & 0o777 for each in (tmp_path / "out").rglob("*")}
    assert modes == {0o600, 0o700}


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tgz")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        make(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "journal/all/x.log", "journal/x.txt", ""])
def test_only_what_belongs_in_it_goes_in(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="does not belong"):
        make(tmp_path / "a.tgz", {name: b"data"})


def test_a_file_that_is_shorter_than_it_was_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="unexpected end"),
        archive.writing(tmp_path / "a.tgz") as made,
    ):
        made.add("emte.db", io.BytesIO(b"short"), 100)


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    data = make(tmp_path / "a.tgz").read_bytes()
    for number, length in enumerate(range(0, len(data), max(1, len(data) // 40))):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(NotAnArchive):
            archive.unpack(tmp_path / "cut", tmp_path / f"out{number}")
    (tmp_path / "cut").write_bytes(data[:-1])
    with pytest.raises(NotAnArchive):
        archive.unpack(tmp_path / "cut", tmp_path / "out-last")


def test_a_changed_byte_is_found_by_the_last_one_at_the_latest(tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / "a.tgz").read_bytes())
    for number, place in enumerate(range(12, len(data) - 8, max(1, len(data) // 40))):
        changed = data[:]
        changed[place] ^= 0x40
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(NotAnArchive):
            archive.unpack(tmp_path / "changed", tmp_path / f"out{number}")


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip", gzip.compress(b"not tar"), gzip.compress(b"\0" * 10_240)],
    ids=["empty", "no gzip", "no tar", "an empty tar"],  # the bytes of gzip tell the time
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tgz").write_bytes(data)
    with pytest.raises(NotAnArchive):
        archive.unpack(tmp_path / "a.tgz", tmp_path / "out")


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../venue.key"),
        tarfile.TarInfo("/tmp/venue.key"),
        tarfile.TarInfo("journal/../../venue.key"),
        tarfile.TarInfo("run/serve.pid"),
        link("venue.key", tarfile.SYMTYPE),
        link("venue.key", tarfile.LNKTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_what_does_not_belong_in_one_is_not_unpacked(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    database = tarfile.TarInfo("emte.db")
    path = pack(tmp_path / "a.tgz", (database, b"db"), (member, b""), comment="EMTE archive 1")
    with pytest.raises(NotAnArchive, match="does not belong"):
        archive.unpack(path, tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").rglob("*")] == ["emte.db"]


@pytest.mark.parametrize("comment", [None, "EMTE archive 2"])
def test_one_that_does_not_say_that_it_is_one_is_refused(
    tmp_path: Path, comment: str | None
) -> None:
    path = pack(tmp_path / "a.tgz", (tarfile.TarInfo("emte.db"), b"db"), comment=comment)
    with pytest.raises(NotAnArchive, match="does not say"):
        archive.unpack(path, tmp_path / "out")


def test_without_a_database_it_is_none(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tgz", {"venue.key": b"k"})
    with pytest.raises(NotAnArchive, match="no database"):
        archive.unpack(path, tmp_path / "out")
