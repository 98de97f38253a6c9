"""The archive of a venue: one gzipped tar, its database first, then the journals, then the keys.

    emte.db                   the database: SQLite's file; emte.dump: what pg_dump wrote
    journal/intc.log          the journals, each up to its mark
    runs/1/intc.log           those of runs that have ended
    journal/intc.durable      the marks, true of these very files
    runs/1/intc.durable
    venue.key                 the keys, and the settings in emte.toml
    key.generations
    emte.toml

`tar -tzf FILE` lists one. It is written aside, synced and renamed: there is a whole one, or none.
What is read from one is checked to its last byte (gzip's CRC) before anything is taken from it, and
no name in it leads out of the folder that it is unpacked in.
"""

import gzip
import io
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from matching.disk import SystemDisk, sync_folder
from matching.order import TICKER

SQLITE = "emte.db"
"""The member that is a SQLite database."""

POSTGRES = "emte.dump"
"""The member that is a PostgreSQL database, in pg_dump's custom format."""

_COMMENT = "EMTE archive 1"
"""What a file says of itself in its first header; the number is this format's."""

_NAME = re.compile(
    rf"{re.escape(SQLITE)}|{re.escape(POSTGRES)}|venue\.key|key\.generations|emte\.toml"
    rf"|(?:journal|runs/[1-9][0-9]{{0,8}})/(?:{TICKER.pattern})\.(?:log|durable|settled)",
    re.ASCII,
)
_COMPRESSION = 1
"""Trading goes on meanwhile: the fastest one, which makes a journal a third already."""

_CHUNK = 256 * 1024


class NotAnArchive(Exception):
    """A file that is no whole archive of a venue; the sentence says what is wrong with it."""


class Bytes(Protocol):
    """What is read of a file, from its beginning on."""

    def read(self, size: int = -1, /) -> bytes: ...


class Archive:
    """An archive that is being written: members in the order in which they are added."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, source: Bytes, size: int) -> None:
        """Add the first `size` bytes of a file; OSError if it has fewer, or the disk is full."""
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} does not belong in an archive")
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o600
        member.mtime = int(time.time())
        self._tar.addfile(member, source)

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path) -> None:
        """Add a file that nobody changes."""
        with path.open("rb") as file:
            self.add(name, file, os.fstat(file.fileno()).st_size)


@contextmanager
def writing(path: Path) -> Iterator[Archive]:
    """A new archive, closed to others; on the medium once this ends. OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(handle, "wb") as file,
        gzip.GzipFile("", "wb", _COMPRESSION, file) as packed,
        tarfile.open(
            fileobj=packed,
            mode="w",
            format=tarfile.PAX_FORMAT,
            pax_headers={"comment": _COMMENT},
        ) as tar,
    ):
        yield Archive(tar)
    sync(path)


def unpack(path: Path, folder: Path) -> list[str]:
    """Unpack an archive into an empty folder; the names of its members, all safe on the medium.

    NotAnArchive unless all of it is right; of a damaged one nothing is unpacked. OSError.
    """
    try:
        with gzip.open(path, "rb") as packed:
            while packed.read(_CHUNK):  # to the end, where the CRC is; tarfile may stop before
                pass
            packed.seek(0)
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                names = [_unpack_member(tar, member, folder) for member in tar]
                if tar.pax_headers.get("comment") != _COMMENT:
                    raise NotAnArchive("it does not say that it is an archive of EMTE's")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise NotAnArchive(f"it is damaged, or no archive: {error}") from error
    if names[:1] not in ([SQLITE], [POSTGRES]):
        raise NotAnArchive("there is no database in it")
    for each in {folder, *((folder / name).parent for name in names)}:
        sync_folder(each)
    return names


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> str:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None or _NAME.fullmatch(member.name) is None:
        raise NotAnArchive(f"{member.name!r} does not belong in an archive of EMTE's")
    path = folder / member.name
    make_folders(path.parent, folder)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        while chunk := content.read(_CHUNK):
            file.write(chunk)
    sync(path)
    return member.name


def make_folders(folder: Path, root: Path) -> None:
    """Make a folder below `root`, and those between, closed to others."""
    for made in (*reversed(folder.relative_to(root).parents), folder.relative_to(root)):
        (root / made).mkdir(mode=0o700, exist_ok=True)


def sync(path: Path) -> None:
    """Put a file's bytes on the medium."""
    with closing(SystemDisk().open(path)) as file:
        file.sync()
