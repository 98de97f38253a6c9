"""Restores: into what is empty, whole or not at all, and never without saying what came."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.models.db import close, rows, transaction
from matching.config import Var, load_venue_key
from matching.journal import durable_path
from matching.pidfile import pidfile
from scripts import archive, restore
from tests.database import (
    add_user,
    command,
    make_database,
    make_var,
    only_postgres,
    only_sqlite,
    uri_of,
)
from tests.database import own_database as empty_database
from tests.processes import running
from tests.scripts.test_archive import make
from tests.scripts.test_backup import RESTORED, back_up, require_programs, restored, run, settle
from tests.scripts.test_zap import end_run, trade


@pytest.fixture
def var(tmp_path: Path, each_database: str) -> Var:
    """A venue that has traded, with journals which the database has not all followed to the end."""
    require_programs(each_database)
    var = make_var(tmp_path)
    db = make_database(var)
    for name in ("alice", "bob"):
        add_user(db, name, cash="10000")
    trade(var)
    end_run(var, db)
    journal = trade(var, lineage="2" * 16)
    settle(var, db)
    journal.play("1:buy intc 1@5")
    trade(var, "gs")
    load_venue_key(var)
    close(db)
    return var


@pytest.fixture
def path(var: Var, tmp_path: Path) -> Path:
    return back_up(var, tmp_path / "a.tgz")


def files(folder: Path) -> dict[str, bytes]:
    """What is under a folder, but for locks."""
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in folder.rglob("*")
        if each.is_file() and each.suffix != ".lock"
    }


def refused(path: Path, var: Var, *options: str, **environment: str) -> tuple[int, str]:
    """Exit code and the line of a restore that changes nothing in the var/."""
    before = files(var.root)
    done = run("restore", path, *options, var=var, **environment)
    assert files(var.root) == before
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stdout + done.stderr
    return done.returncode, done.stderr


def test_it_verifies_each_journal_to_its_end(
    var: Var, path: Path, tmp_path: Path, each_database: str
) -> None:
    with restored(path, tmp_path / "again", each_database) as (again, _, said):
        lines = said.splitlines()
        assert lines[0].endswith(", venue.key; journals: 2, of ended runs: 1")
        found = [line.split(": ")[0] for line in lines[1:-1]]
        assert found == [
            *("journal/gs.log", "OK gs", "journal/intc.log", "OK intc"),
            *("runs/1/intc.log", "OK intc"),
        ]
        assert "behind" not in said
        assert lines[-1] == RESTORED
        kept = {name for name in files(var.root) if not name.startswith(("emte.db", "run/"))}
        assert kept <= set(files(again.root))
        for name in kept - {"journal/gs.settled", "journal/intc.settled"}:
            assert (again.root / name).read_bytes() == (var.root / name).read_bytes()
        modes = {each.stat().st_mode & 0o077 for each in again.root.rglob("*") if each.is_file()}
        assert (again.root / "venue.key").stat().st_mode & 0o777 == 0o600
        assert (again.root / "runs").stat().st_mode & 0o777 == 0o700
        assert again.root.stat().st_mode & 0o777 == 0o700
        assert modes <= {0, 0o044}, "only what SQLite and locks make themselves"


def unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    """The members of an archive."""
    return {name: (folder / name).read_bytes() for name in archive.unpack(path, folder)}


@only_sqlite
def test_what_differs_is_told(path: Path, tmp_path: Path) -> None:
    contents = unpacked(path, tmp_path / "out")
    database = tmp_path / "out" / archive.SQLITE
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("UPDATE auth_user SET actual_cash = actual_cash + 1 WHERE id = 1")
        connection.commit()
    contents[archive.SQLITE] = database.read_bytes()
    done = run("restore", make(tmp_path / "b.tgz", contents), var=Var(tmp_path / "again"))
    assert done.returncode == 1
    assert "account 1 (alice): actual cash is " in done.stdout
    assert RESTORED not in done.stdout


@only_sqlite
def test_a_journal_that_is_not_what_was_written_is_told(path: Path, tmp_path: Path) -> None:
    contents = unpacked(path, tmp_path / "out")
    contents["journal/intc.log"] = contents["journal/intc.log"].replace(b"10@100", b"11@100")
    done = run("restore", make(tmp_path / "changed.tgz", contents), var=Var(tmp_path / "again"))
    assert done.returncode == 75
    assert "its CRC differs" in done.stdout + done.stderr
    assert "OK gs: " in done.stdout, "the others are looked at none the less"
    assert RESTORED not in done.stdout


def cut(path: Path) -> bytes:
    return path.read_bytes()[:-100]


def changed(path: Path) -> bytes:
    """One bit of the CRC. One of the zeroes of a database might be replaced by its like."""
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    return bytes(data)


def other(path: Path) -> bytes:
    return b"a letter to my bank"


@only_sqlite
@pytest.mark.parametrize("damage", [cut, changed, other])
def test_a_damaged_archive_changes_nothing(
    path: Path, tmp_path: Path, damage: Callable[[Path], bytes]
) -> None:
    bad = tmp_path / "bad.tgz"
    bad.write_bytes(damage(path))
    code, line = refused(bad, Var(tmp_path / "again"))
    assert (code, "it is damaged, or no archive" in line) == (75, True)


@only_sqlite
def test_what_is_there_is_put_away_only_when_told(var: Var, path: Path) -> None:
    trade(var, "late")
    code, line = refused(path, var)
    assert (code, "is not empty (emte.db): " in line) == (78, True)
    before = files(var.root)
    done = run("restore", path, "--force", var=var)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not var.journal_file("late").exists()
    (put_away,) = (var.root / "replaced").iterdir()
    away = {name for name in files(put_away) if not name.startswith("emte.db")}
    assert away == {name for name in before if not name.startswith(("emte.db", "run/"))}
    assert (put_away / "emte.db").exists()
    done = run("restore", path, "--force", var=var)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((var.root / "replaced").iterdir())) == 2


KILLED = """
import os, signal
from scripts import restore
left = [{steps}]
def counted(work):
    def count(*arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments)
    return count
for name in ("_move", "_put_away", "_put_in_place", "sync_folder"):
    setattr(restore, name, counted(getattr(restore, name)))
restore.main()
"""


@only_sqlite
def test_killed_at_any_step_it_is_run_again(path: Path, tmp_path: Path) -> None:
    again = Var(tmp_path / "again")
    for steps in range(0, 100, 5):
        with running("-c", KILLED.format(steps=steps), str(path), var=again.root) as process:
            if process.wait() == 0:
                break
        done = run("restore", path, "--force", var=again)
        assert done.returncode == 0, done.stderr
        assert RESTORED in done.stdout
        assert not (again.root / ".restoring").exists()
        shutil.rmtree(again.root)
    assert steps > 9


@only_sqlite
def test_a_database_elsewhere_is_put_there(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "databases" / "venue.db"
    environment = {"EMTE_DATABASE": f"sqlite://{place}"}
    again = Var(tmp_path / "again")
    assert run("restore", path, var=again, **environment).returncode == 0
    assert place.stat().st_mode & 0o777 == 0o600
    assert not again.database_file.exists()
    code, line = refused(path, Var(tmp_path / "third"), **environment)
    assert (code, f"{place} is there already" in line) == (78, True)
    done = run("restore", path, "--force", var=Var(tmp_path / "third"), **environment)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "third" / "replaced").glob("*/venue.db"))) == 1


@only_sqlite
def test_a_venue_that_runs_is_left_alone(path: Path, tmp_path: Path) -> None:
    again = make_var(tmp_path / "again")
    with pidfile(again.run_dir, "match-intc"):
        code, line = refused(path, again)
        assert (code, f"match-intc runs in {again.root} (pid {os.getpid()})" in line) == (69, True)
    (again.run_dir / "match-intc.pid").write_text("4194304\n")  # of a process that was killed
    assert run("restore", path, var=again).returncode == 0


@only_sqlite
def test_an_archive_of_the_other_kind_of_database_is_refused(path: Path, tmp_path: Path) -> None:
    nowhere = "postgres://nobody@127.0.0.1:1/none"
    code, line = refused(path, Var(tmp_path / "again"), EMTE_DATABASE=nowhere)
    assert (code, "holds a database of SQLite's" in line) == (78, True)
    assert run("restore", tmp_path / "none.tgz", var=Var(tmp_path / "again")).returncode == 2


@pytest.fixture
def second(each_database: str) -> Iterator[str]:
    """The address of another database."""
    with empty_database(each_database) as uri:
        assert uri is not None
        yield uri


@only_postgres
def test_a_database_that_is_not_empty_is_replaced_only_when_told(
    path: Path, tmp_path: Path, second: str
) -> None:
    command(second, "CREATE TABLE auth_user (id int)")
    code, line = refused(path, Var(tmp_path / "again"), EMTE_DATABASE=second)
    assert (code, "the PostgreSQL database is not empty (auth_user)" in line) == (78, True)
    done = run("restore", path, "--force", var=Var(tmp_path / "again"), EMTE_DATABASE=second)
    assert done.returncode == 0, done.stdout + done.stderr
    assert command(second, "SELECT username FROM auth_user ORDER BY id") == [("alice",), ("bob",)]


@only_postgres
def test_a_database_in_which_a_venue_works_is_left_alone(
    var: Var, path: Path, tmp_path: Path
) -> None:
    db = make_database(var)
    with transaction(db):
        rows(db, "SELECT 1")
    try:
        code, line = refused(path, Var(tmp_path / "again"), "--force")
    finally:
        close(db)
    assert (code, "a venue works in this PostgreSQL database" in line) == (69, True)


@only_postgres
def test_a_venue_that_has_just_ended_is_given_time_to_leave_its_database(var: Var) -> None:
    import psycopg2

    db, leaving = make_database(var), psycopg2.connect(uri_of(var), application_name="emte")
    timer = threading.Timer(0.5, leaving.close)
    timer.start()
    try:
        assert not restore._works_in(db)
    finally:
        timer.join()
        close(db)


@only_postgres
def test_a_dump_that_cannot_be_restored_changes_nothing(
    path: Path, tmp_path: Path, second: str
) -> None:
    contents = unpacked(path, tmp_path / "out")
    contents["emte.dump"] = contents["emte.dump"][:-2000]
    bad = make(tmp_path / "bad.tgz", contents)
    code, line = refused(bad, Var(tmp_path / "again"), EMTE_DATABASE=second)
    assert (code, line.startswith("restore: pg_restore: error: ")) == (69, True)
    assert command(second, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []


@only_sqlite
def test_marks_do_not_promise_more_than_there_is(path: Path, tmp_path: Path) -> None:
    """A backup whose journal is shorter than its mark is found out, not served."""
    contents = unpacked(path, tmp_path / "out")
    journal = contents["journal/gs.log"]
    contents["journal/gs.log"] = journal[: journal.rindex(b"commit")]
    again = Var(tmp_path / "again")
    done = run("restore", make(tmp_path / "cut.tgz", contents), var=again)
    assert done.returncode == 75
    assert "gs.log" in done.stdout + done.stderr
    assert durable_path(again.journal_file("gs")).exists()
