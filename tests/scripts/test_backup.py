"""Backups: of a venue that trades, of one in which a new run begins, and what is refused."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.models.db import DAL, close, execute, transaction
from app.models.products import Product
from log2db.__main__ import settle_rest
from matching.client import post_order
from matching.config import Var, load_venue_key
from matching.exits import ExitCode, Fatal
from matching.journal import durable_path, read_mark, settled_path
from scripts import archive, backup
from scripts.serve import unsettled
from tests.database import make_database, make_var, only_postgres, only_sqlite, own_database, uri_of
from tests.processes import ROOT, running
from tests.scripts.test_serve import Market
from tests.scripts.test_zap import end_run, trade
from tests.scripts.venue import pid_of, processes_of
from tests.waiting import wait_until

RESTORED = "all of it agrees; emte-serve starts the venue"


def require_programs(kind: str) -> None:
    """Skip a test that needs PostgreSQL's own programs, where they are not, unless all must run."""
    has_all = kind == "sqlite" or (shutil.which("pg_dump") and shutil.which("pg_restore"))
    if not has_all and os.environ.get("EMTE_REQUIRE_ALL") != "1":
        pytest.skip("there is no pg_dump and pg_restore")


@pytest.fixture
def var(tmp_path: Path, each_database: str) -> Var:
    require_programs(each_database)
    return make_var(tmp_path)


def run(
    script: str, *arguments: object, var: Var, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run backup or restore as an operator does."""
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *map(str, arguments), "--var", str(var.root)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def restored(path: Path, folder: Path, kind: str) -> Iterator[tuple[Var, dict[str, str], str]]:
    """An archive in a var/ and a database of its own; what is to be set for it, what was said."""
    var = Var(folder)
    with own_database(kind) as uri:
        environment = {} if uri is None else {"EMTE_DATABASE": uri}
        done = run("restore", path, var=var, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        yield var, environment, done.stdout


def back_up(var: Var, path: Path, *, is_forced: bool = False) -> Path:
    backup.back_up(var, uri_of(var), path, is_forced=is_forced)
    return path


def refused(var: Var, path: Path, **options: bool) -> tuple[ExitCode, str]:
    """How a backup ends that is not made; it leaves nothing in its folder that was not there."""
    before = {each: each.is_file() and each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(Fatal) as error:
        back_up(var, path, **options)
    assert {e: e.is_file() and e.read_bytes() for e in path.parent.iterdir()} == before
    return error.value.code, error.value.message


def settle(var: Var, db: DAL, ticker: str = "intc") -> None:
    for _ in settle_rest(ticker, var.journal_file(ticker), db):
        pass


# -- a venue at work


class Trading:
    """Orders in some products, again and again, until it is told to end."""

    def __init__(self, var: Var, products: Sequence[Product]) -> None:
        self._products = products
        self._key = load_venue_key(var)
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._trade()))
        self._thread.start()

    async def _trade(self) -> None:
        number = 0
        while not self._end.is_set():
            for product in self._products:
                for owner, side in ((number % 7, "sell"), (number % 5, "buy")):
                    text = f"{owner}:{side} {product.name} 10@{40 + number % 20}"
                    await post_order(product.post_url, text, self._key)
            number += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def test_every_backup_of_a_venue_that_trades_is_a_venue(tmp_path: Path, each_database: str) -> None:
    require_programs(each_database)
    market = Market(make_var(tmp_path))
    products = [market.register("intc"), market.register("gs")]
    paths = [tmp_path / f"backup{number}.tgz" for number in range(3)]
    with running(*market.command, var=market.var.root) as serve:
        for product in products:
            market.wait_for_quote(product, 500_000)
        trading = Trading(market.var, products)
        try:
            for path in paths:
                before = records(market.var)
                done = run("backup", path, var=market.var)
                assert done.returncode == 0, done.stderr
                assert done.stdout.count("\n") == 1
                wait_until(lambda before=before: records(market.var) > before + 20, "more trades")
        finally:
            trading.end()
        close(market.db)
        assert serve.terminate() == 0
    counts = []
    for number, path in enumerate(paths):
        with restored(path, tmp_path / f"var{number}", each_database) as (var, environment, said):
            assert RESTORED in said
            assert said.count("OK ") == 2
            counts.append(records(var))
            assert var.venue_key_file.read_text() == market.var.venue_key_file.read_text()
            if path is paths[-1]:
                goes_on(var, market.command, products[0], environment)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] < records(market.var)


def records(var: Var) -> int:
    """How many are safe, in all journals."""
    marks = [read_mark(durable_path(path)) for path in var.journal_dir.glob("*.log")]
    return sum(mark.seq for mark in marks if mark is not None)


def goes_on(
    var: Var, command: Sequence[str], product: Product, environment: dict[str, str]
) -> None:
    """The restored venue starts, trades and settles, and its books agree."""
    with running(*command, var=var.root, **environment) as serve:
        wait_until(lambda: pid_of(var.root, f"match-{product.name}"), "the matching server")
        text = f"1:buy {product.name} 1@1 id=after"
        asyncio.run(post_order(product.post_url, text, load_venue_key(var)))
        wait_until(lambda: unsettled(var, product.name) == 0, "the settlement")
        assert serve.terminate() == 0
    wait_until(lambda: processes_of(var.root) == {}, "the end of every process")
    done = subprocess.run(
        [sys.executable, "-m", "log2db", "--verify", product.name, "--var", str(var.root)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"OK {product.name}: "), done.stdout + done.stderr


# -- what is in it


def test_it_is_closed_to_others_and_leaves_nothing_beside_it(
    var: Var, db: DAL, tmp_path: Path
) -> None:
    trade(var)
    path = back_up(var, tmp_path / "a.tgz")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tgz", "var"]


def test_database_first_then_journals_then_keys(
    var: Var, db: DAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade(var)
    settle(var, db)
    end_run(var, db)
    trade(var, lineage="2" * 16)
    trade(var, "gs")
    settle(var, db)
    load_venue_key(var)
    var.generations_file.write_text("7 2\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "emte.toml").write_text("manager_signup = 'closed'\n")
    monkeypatch.chdir(tmp_path / "home")
    names = archive.unpack(back_up(var, tmp_path / "a.tgz"), tmp_path / "out")
    assert names[0] in (archive.SQLITE, archive.POSTGRES)
    assert names[1:] == [
        "journal/gs.log",
        "journal/intc.log",
        "runs/1/intc.log",
        "runs/1/intc.durable",
        "runs/1/intc.settled",
        "journal/gs.durable",
        "journal/intc.durable",
        "journal/intc.settled",
        "venue.key",
        "key.generations",
        "emte.toml",
    ]


def test_a_journal_is_cut_at_its_mark_and_the_marks_are_true_of_the_copy(
    var: Var, db: DAL, tmp_path: Path
) -> None:
    """What the database learns after its copy was made is not in the settled mark."""
    journal = trade(var)
    settle(var, db)
    settled = read_mark(settled_path(journal.path))
    journals = backup._journals

    def later(*arguments: object) -> object:
        journal.play("1:buy intc 1@5")
        settle(var, db)
        journal.try_to_play("1:buy intc 2@5")
        journal.commit(durable=False)
        return journals(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup, "_journals", later)
        path = back_up(var, tmp_path / "a.tgz")
    archive.unpack(path, tmp_path / "out")
    copy = tmp_path / "out" / "journal" / "intc.log"
    durable = read_mark(durable_path(copy))
    assert durable is not None
    assert durable == read_mark(durable_path(journal.path))
    assert copy.stat().st_size == durable.offset < journal.path.stat().st_size
    assert read_mark(settled_path(copy)) == settled != read_mark(settled_path(journal.path))


# -- a new run begins meanwhile


def test_a_run_that_ends_meanwhile_is_whole_in_it(
    var: Var, db: DAL, tmp_path: Path, each_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was copied before the end, and the journals are looked for after it."""
    monkeypatch.setattr(backup, "AGAIN_SECONDS", 0.0)
    trade(var)
    settle(var, db)
    journals = backup._journals
    looks = []

    def after_the_end(*arguments: object) -> object:
        if not looks:
            end_run(var, db)
            trade(var, lineage="2" * 16)
        looks.append(arguments)
        return journals(*arguments)

    monkeypatch.setattr(backup, "_journals", after_the_end)
    path = back_up(var, tmp_path / "a.tgz")
    assert len(looks) == 2
    close(db)
    with restored(path, tmp_path / "again", each_database) as (again, _, said):
        assert again.run_journal_file(1, "intc").read_bytes() == (
            var.run_journal_file(1, "intc").read_bytes()
        )
        assert "journal/intc.log: replayed" in said
        assert "runs/1/intc.log: replayed" in said
        assert said.count("OK intc:") == 2


def test_while_journals_of_an_ended_run_have_not_moved_it_waits(
    var: Var, db: DAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PATIENCE_SECONDS", 0.0)
    trade(var)
    settle(var, db)
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET closed = 'T', run = 1")
    code, message = refused(var, tmp_path / "a.tgz")
    assert code is ExitCode.DISK
    assert "has ended, and its journals are to be moved" in message


# -- what is refused


def test_a_file_that_is_there_is_replaced_only_when_told(var: Var, db: DAL, tmp_path: Path) -> None:
    trade(var)
    path = back_up(var, tmp_path / "a.tgz")
    code, message = refused(var, path)
    assert (code, "--force replaces it" in message) == (ExitCode.USAGE, True)
    before = path.read_bytes()
    load_venue_key(var)
    back_up(var, path, is_forced=True)
    assert path.read_bytes() != before


def test_one_that_fails_leaves_the_old_one(
    var: Var, db: DAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade(var)
    path = back_up(var, tmp_path / "a.tgz")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "a disk")

    monkeypatch.setattr(archive.Archive, "add_bytes", full)
    code, message = refused(var, path, is_forced=True)
    assert (code, message) == (ExitCode.DISK, "a disk: No space left on device; no backup")


def no_mark(var: Var, db: DAL) -> None:
    durable_path(var.journal_file("intc")).unlink()


def no_journal(var: Var, db: DAL) -> None:
    var.journal_file("intc").unlink()


def another_journal(var: Var, db: DAL) -> None:
    trade(var, lineage="2" * 16)


def another_ticker(var: Var, db: DAL) -> None:
    var.journal_file("intc").replace(var.journal_file("gs"))
    durable_path(var.journal_file("intc")).replace(durable_path(var.journal_file("gs")))


def changed_history(var: Var, db: DAL) -> None:
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET h = ?", 32 * "0")


def behind_the_database(var: Var, db: DAL) -> None:
    path = durable_path(var.journal_file("intc"))
    mark = read_mark(path)
    assert mark is not None
    path.write_bytes(type(mark)(1, 200, mark.lineage).encode())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_mark, "has no durable mark"),
        (no_journal, "the database follows a journal of intc that is not there"),
        (another_journal, f"the database follows intc of lineage {'1' * 16}, not "),
        (another_ticker, "it is the journal of intc"),
        (changed_history, "this is not the journal it was"),
        (behind_the_database, "the database has come further in intc than its durable mark"),
    ],
)
def test_what_could_not_be_restored_is_no_backup(
    var: Var,
    db: DAL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Var, DAL], None],
    words: str,
) -> None:
    monkeypatch.setattr(backup, "PATIENCE_SECONDS", 0.0)
    trade(var)
    settle(var, db)
    damage(var, db)
    code, message = refused(var, tmp_path / "a.tgz")
    assert code is ExitCode.DISK
    assert words in message


@only_sqlite
def test_a_disk_that_markets_need_is_not_filled(
    var: Var, db: DAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade(var)
    monkeypatch.setattr(backup, "SPACE_FOR_ORDERS", 1 << 60)
    code, message = refused(var, tmp_path / "a.tgz")
    assert (code, "Back up to another disk" in message) == (ExitCode.DISK, True)


@only_sqlite
def test_the_command_says_in_one_line_why_there_is_none(var: Var, tmp_path: Path) -> None:
    cases = {
        (tmp_path / "a.tgz", var): (69, "cannot be copied: unable to open database file"),
        (tmp_path, var): (78, "is a folder"),
        (tmp_path / "nowhere" / "a.tgz", var): (78, "cannot write in "),
        (tmp_path / "a.tgz", Var(tmp_path / "none")): (78, "there is no venue in "),
    }
    for (path, of), (code, words) in cases.items():
        done = run("backup", path, var=of)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert words in done.stderr
    make_database(var)
    with closing(sqlite3.connect(var.database_file)) as connection:
        connection.execute("DROP TABLE log_position")
    assert "no such table: log_position" in run("backup", tmp_path / "a.tgz", var=var).stderr
    var.database_file.write_bytes(b"no database" * 1000)
    assert run("backup", tmp_path / "a.tgz", var=var).returncode == 75


@only_postgres
def test_without_pg_dump_it_says_what_to_install(
    var: Var, db: DAL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, message = refused(var, tmp_path / "a.tgz")
    assert (code, "apt install postgresql-client" in message) == (ExitCode.CONFIGURATION, True)


@only_postgres
def test_a_database_without_tables_is_none_of_ours(var: Var, tmp_path: Path) -> None:
    code, message = refused(var, tmp_path / "a.tgz")
    assert (code, message) == (ExitCode.CONFIGURATION, "the database has no tables of EMTE's")


@only_sqlite
def test_a_killed_one_leaves_the_old_one(var: Var, db: DAL, tmp_path: Path) -> None:
    trade(var)
    path = back_up(var, tmp_path / "a.tgz")
    before = path.read_bytes()
    killed = (
        "import os, signal; from scripts import backup;"
        " backup.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        " backup.main()"
    )
    with running("-c", killed, "--force", str(path), var=var.root) as process:
        assert process.wait() == -signal.SIGKILL
    assert path.read_bytes() == before
    assert back_up(var, path, is_forced=True).stat().st_size > 0


@only_sqlite
def test_an_interrupted_one_is_not_done(var: Var, db: DAL, tmp_path: Path) -> None:
    """Whoever removes old backups after exit code 0 would be left without any."""
    interrupted = (
        "import os, signal; from scripts import backup;"
        " backup._journals = lambda *_: os.kill(os.getpid(), signal.SIGTERM);"
        " backup.main()"
    )
    with running("-c", interrupted, str(tmp_path / "a.tgz"), var=var.root) as process:
        assert process.wait() == ExitCode.UNAVAILABLE
        assert process.output == "backup: interrupted; there is no new backup"
    assert [each.name for each in tmp_path.iterdir()] == ["var"]
