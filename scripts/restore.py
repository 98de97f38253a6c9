"""Restore a venue from an archive (scripts/archive.py) into an empty var/, and verify what came.

Nothing is put in place before the whole archive was read and found undamaged; the database comes
last, or, on PostgreSQL, where it may fail, first. Then each journal is brought into the database to
its end, as log2db would, replayed, and compared with the database record by record.

With --force what is in var/ is put away in `var/replaced/`; tables on PostgreSQL are replaced.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.models import db as database
from app.models import settings
from app.models.db import DatabaseAway
from log2db.__main__ import compare, settle_rest
from log2db.settlement import Fenced, ForeignJournal
from matching import config, exits, recovery
from matching.config import Var
from matching.console import say
from matching.disk import sync_folder
from matching.exits import ExitCode, Fatal, code_of
from matching.journal import JournalDamaged, UnknownJournal
from matching.pidfile import running
from scripts import archive
from scripts.archive import NotAnArchive
from scripts.backup import current_schema, run_postgres
from scripts.supervisor import sole_supervisor

EPILOG = """\
exit codes: 0 restored, and all of it agrees, 1 restored, but journal and database differ, 2 usage,
69 a venue runs, the database is away, or pg_restore failed, 75 the archive, a journal in it or the
disk cannot be relied on, 78 var/ or the database is not empty, not the kind that the archive holds,
or not good

examples:
  emte-restore /backup/emte.tar.gz
  emte-restore --var /tmp/trial /backup/emte.tar.gz     is the backup good? (SQLite)
"""

_ASIDE = ".restoring"
_LEAVING_SECONDS = 3.0
"""PostgreSQL takes a moment to notice that a program has ended."""
_KEPT = ("run", "replaced", "lost+found", _ASIDE)
"""What may be in a var/ that counts as empty, and stays where it is."""


def main() -> None:
    sys.exit(exits.run("restore", _main))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="restore",
        description="Restore a venue from what emte-backup made, and verify it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the archive")
    parser.add_argument(
        "--force", action="store_true", help="put what is in var/ away; replace PostgreSQL's tables"
    )
    parser.add_argument("--var", help="the folder to restore into (var/)")
    parser.add_argument("--database", metavar="URI", help="default: var/emte.db, $EMTE_DATABASE")
    arguments = parser.parse_args()
    var = config.find_var(arguments.var)
    uri = settings.database_uri(var, arguments.database)
    if not arguments.file.is_file():
        raise Fatal(ExitCode.USAGE, f"there is no file {arguments.file}")
    var.make()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with sole_supervisor(var):
            _require_idle(var)
            restore(var, uri, arguments.file, is_forced=arguments.force)
            sys.exit(verify(var, uri))
    except KeyboardInterrupt as interrupt:  # not "done": whoever goes by the exit code has no venue
        message = f"interrupted; {var.root} holds part of a venue, or was not verified"
        raise Fatal(ExitCode.UNAVAILABLE, message) from interrupt
    except DatabaseAway as away:
        raise Fatal(ExitCode.UNAVAILABLE, f"the database is away: {away}") from away
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Fatal(code_of(error), f"{where}{error.strerror or error}") from error


def _require_idle(var: Var) -> None:
    """Fatal (69) if a program of this var/ runs, be it by hand."""
    for name, pid in running(var.run_dir).items():
        message = f"{name} runs in {var.root} (pid {pid}): `bash stop_all.sh` stops it"
        raise Fatal(ExitCode.UNAVAILABLE, message)


def restore(var: Var, uri: str, path: Path, *, is_forced: bool) -> None:
    """Put an archive's files and its database in place; with nothing at work in this var/.

    Fatal, DatabaseAway, OSError.
    """
    present = _contents(var)
    if present and not is_forced:
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"{var.root} is not empty ({present[0].name}): move it away, or --force puts what is in"
            " it into replaced/",
        )
    is_sqlite = uri.startswith("sqlite:")
    with _folder(var.root / _ASIDE) as aside:
        try:
            names = archive.unpack(path, aside)
        except NotAnArchive as error:
            raise Fatal(ExitCode.DISK, f"{path}: {error}") from error
        wanted = archive.SQLITE if is_sqlite else archive.POSTGRES
        if names[0] != wanted:
            kind = "PostgreSQL" if is_sqlite else "SQLite"
            raise Fatal(
                ExitCode.CONFIGURATION,
                f"{path} holds a database of {kind}'s: name one by EMTE_DATABASE (or --database)",
            )
        target = None if not is_sqlite else Path(uri.partition("://")[2]).absolute()
        if target is None:
            _restore_postgres(uri, aside / names[0], is_forced=is_forced)
        elif target.exists() and not is_forced:
            raise Fatal(ExitCode.CONFIGURATION, f"{target} is there already; --force puts it away")
        _put_away(var, present, target)
        _put_in_place(aside, var, names)
        if target is not None:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _move(aside / names[0], target)
            sync_folder(target.parent)
    logs = [name for name in names if name.endswith(".log")]
    ended = sum(name.startswith("runs/") for name in logs)
    others = ", ".join(name for name in names if "/" not in name)
    say(f"restored from {path}: {others}; journals: {len(logs) - ended}, of ended runs: {ended}")
    if "emte.toml" in names:
        say(
            f"the settings are in {var.root / 'emte.toml'}: programs read it where they are started"
        )


def _contents(var: Var) -> list[Path]:
    return [
        path
        for path in sorted(var.root.iterdir())
        if path.name not in _KEPT and not (path.is_dir() and not any(path.iterdir()))
    ]


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """An empty folder, closed to others, for what is not in its place yet."""
    if path.exists():
        shutil.rmtree(path)  # of a restore that was killed
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _restore_postgres(uri: str, dump: Path, *, is_forced: bool) -> None:
    """Restore the tables, all or none."""
    db = database.open_database(uri)
    try:
        is_at_work = _works_in(db)
        with database.transaction(db):
            schema = current_schema(db)
            tables = database.rows(
                db,
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LIMIT 1",
            )
    finally:
        database.close(db)
    if is_at_work:
        raise Fatal(ExitCode.UNAVAILABLE, "a venue works in this PostgreSQL database: stop it")
    if tables and not is_forced:
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"the PostgreSQL database is not empty ({tables[0][0]}): make a new one, or --force"
            " replaces its tables",
        )
    run_postgres(
        uri,
        "pg_restore",
        *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
        *(["--clean", "--if-exists"] if is_forced else []),
        *(f"--schema={schema}", str(dump)),
    )


def _works_in(db: database.DAL) -> bool:
    """Whether a venue works in this PostgreSQL database; one that has just ended is given time."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    while True:
        with database.transaction(db):
            others = database.rows(
                db,
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'emte' AND pid <> pg_backend_pid()",
            )
        if others == [(0,)] or time.monotonic() >= deadline:
            return others != [(0,)]
        time.sleep(_LEAVING_SECONDS / 20)


def _put_away(var: Var, present: list[Path], target: Path | None) -> None:
    """Move what is there into a new folder of `var/replaced/`: all of a database's files too."""
    if target is not None and not target.is_relative_to(var.root):
        present = [*present, *sorted(target.parent.glob(f"{target.name}*"))]
    if not present:
        return
    folder = var.root / "replaced" / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.getpid()}"
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    for path in present:
        shutil.move(path, folder / path.name)
    say(f"what was in {var.root} is in {folder}")


def _put_in_place(aside: Path, var: Var, names: list[str]) -> None:
    """Move all files but the database; the keys last, as they are in the archive."""
    for name in names[1:]:
        path = var.root / name
        archive.make_folders(path.parent, var.root)
        _move(aside / name, path)
    for folder in {var.root, *((var.root / name).parent for name in names[1:])}:
        sync_folder(folder)


def _move(source: Path, path: Path) -> None:
    """Put a file where it belongs, whole or not at all, also on another disk."""
    if source.stat().st_dev != path.parent.stat().st_dev:
        beside = path.with_name(f"{path.name}{_ASIDE}")
        shutil.copyfile(source, beside)
        beside.chmod(0o600)
        archive.sync(beside)
        source = beside
    source.rename(path)


# -- what came


def verify(var: Var, uri: str) -> int:
    """Settle, replay and compare each journal; print what is found. The worst exit code."""
    database.migrate(uri, var)
    worst = int(ExitCode.DONE)
    for run, path in _journals(var):
        name = path.relative_to(var.root).as_posix()
        try:
            code = _verify(path, run, var, uri)
        except Fatal as fatal:
            say(f"{name}: {fatal.message}")
            code = fatal.code
        worst = max(worst, code)
    if worst == ExitCode.DONE:
        say("all of it agrees; emte-serve starts the venue")
    return worst


def _journals(var: Var) -> Iterator[tuple[int | None, Path]]:
    """The journals of the present run (None), then those of past ones."""
    for path in sorted(var.journal_dir.glob("*.log")):
        yield None, path
    for path in sorted((var.root / "runs").glob("*/*.log")):
        yield int(path.parent.name), path


def _verify(path: Path, run: int | None, var: Var, uri: str) -> int:
    if run is None:
        _settle(path, uri)
    print(f"{path.relative_to(var.root).as_posix()}: ", end="", flush=True)
    code = recovery.main([str(path)])
    return code or compare(path.stem, var, uri, run=run)


def _settle(path: Path, uri: str) -> None:
    """Bring the database to the end of a journal. Fatal if it cannot be brought there."""
    db = database.open_database(uri)
    try:
        for _ in settle_rest(path.stem, path, db):
            pass
    except (JournalDamaged, ForeignJournal, UnknownJournal, Fenced) as error:
        raise Fatal(ExitCode.DISK, f"{path}: {error}") from error
    finally:
        database.close(db)


if __name__ == "__main__":
    main()
