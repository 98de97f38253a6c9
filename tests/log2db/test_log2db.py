"""`python -m log2db` as a process: it follows, waits, refuses, and never counts twice."""

import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg2
import pytest

from app.models import runs
from app.models.db import DAL, close, insert, rows, transaction
from log2db.__main__ import Stop
from log2db.verify import verify
from matching.config import Var
from matching.disk import SystemDisk
from matching.exits import ExitCode
from matching.journal import Mark, durable_path, read_mark, settled_path
from matching.pidfile import read_pid
from tests.cluster import running_cluster
from tests.database import add_user, make_database, only_sqlite, uri_of
from tests.log2db.journals import START, JournalFile
from tests.log2db.test_verify import trade_at_random
from tests.processes import ROOT, Process, running
from tests.waiting import wait_until

OTHER_LINEAGE = "00112233445566ff"

# The same program, less patient with a database that another process holds.
IMPATIENT = (
    "from app.models import db; db.BUSY_SECONDS = 0.2; from log2db import __main__ as m; m.main()"
)


@pytest.fixture
def journal(var: Var, db: DAL) -> JournalFile:
    for name in ("alice", "bob", "carol"):
        add_user(db, name, cash="10000")
    return JournalFile(var)


def _seq(db: DAL) -> int:
    with transaction(db):
        found = rows(db, "SELECT seq FROM log_position WHERE ticker = 'intc' AND closed = 'F'")
    return int(found[0][0]) if found else 0


def _wait_for(db: DAL, seq: int) -> None:
    wait_until(lambda: _seq(db) == seq, f"record {seq} in the database")


def _wait_at_least(db: DAL, seq: int, process: Process) -> None:
    def there() -> bool:
        assert process.is_running, process.output
        return _seq(db) >= seq

    wait_until(there, f"record {seq} in the database")


def _run(var: Var, *arguments: str) -> Process:
    with running("-m", "log2db", *arguments, var=var.root) as process:
        process.wait()
        return process


def _once(var: Var) -> int:
    return _run(var, "-A", "intc", "--once").wait()


def _verify(var: Var) -> str:
    return _run(var, "--verify", "intc").output


def _refused(var: Var, *arguments: str) -> tuple[int, str]:
    """Exit code and last line of a log2db that is to end by itself."""
    process = _run(var, *(arguments or ("-A", "intc")))
    return process.wait(), process.lines[-1]


def test_it_follows_a_growing_journal_and_says_how_far_it_is(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    with running("-m", "log2db", "-A", "intc", var=var.root) as process:
        process.wait_for_line(r"log2db INFO intc: following .*intc\.log from record 0")
        journal.play("1:sell intc 10@5", "2:buy intc 4@5")
        _wait_for(db, journal.seq)
        mark = journal.journal.mark
        wait_until(lambda: read_mark(settled_path(journal.path)) == mark, "the settled mark")
        journal.play("2:buy intc 6@5")
        _wait_for(db, journal.seq)
        assert read_pid(var.run_dir / "log2db-intc.pid") == process.pid
        assert process.terminate() == ExitCode.DONE
    assert not (var.run_dir / "log2db-intc.pid").exists()
    with transaction(db):
        assert rows(db, "SELECT shares FROM position ORDER BY owner") == [(-10,), (10,)]
        assert rows(db, "SELECT actual_cash FROM auth_user WHERE id < 3 ORDER BY id") == [
            (100_500_000,),
            (99_500_000,),
        ]


def test_ctrl_c_is_a_clean_end(var: Var, journal: JournalFile) -> None:
    with running("-m", "log2db", "-A", "intc", var=var.root) as process:
        process.wait_for_line("following")
        assert process.interrupt() == ExitCode.DONE
        assert "Traceback" not in process.output


def test_what_is_not_durable_yet_is_not_read(var: Var, db: DAL, journal: JournalFile) -> None:
    journal.play("1:buy intc 1@5")
    promised = journal.seq
    journal.try_to_play("1:buy intc 2@5")
    journal.commit(durable=False)
    assert _once(var) == 0
    assert _seq(db) == promised
    journal.mark()
    assert _once(var) == 0
    assert _seq(db) == journal.seq


def test_it_waits_for_a_journal_that_is_not_there_yet(var: Var, db: DAL) -> None:
    manager = add_user(db, "manager1", manager=True)
    urls = {"post_url": "", "quote_url": "", "ws_url": ""}
    with transaction(db, write=True):
        insert(db, "product", name="intc", created_by=manager.id, modified_by=manager.id, **urls)
    with running("-m", "log2db", "-A", "intc", var=var.root) as process:
        process.wait_for_line("intc: waiting for .*intc.log")
        journal = JournalFile(var)
        journal.play("1:buy intc 1@5")
        _wait_for(db, journal.seq)


def test_it_waits_for_a_journal_that_has_no_durable_mark_yet(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    durable_path(journal.path).unlink()
    with running("-m", "log2db", "-A", "intc", var=var.root) as process:
        process.wait_for_line("intc: waiting for .*intc.log")
        durable_path(journal.path).write_bytes(bytes(64))  # made, but nothing is promised
        journal.play("1:buy intc 1@5")
        _wait_for(db, journal.seq)


def test_without_product_and_journal_it_says_so_and_ends(var: Var, db: DAL) -> None:
    code, line = _refused(var)
    assert code == ExitCode.CONFIGURATION
    assert line.startswith("log2db: there is no product intc in the database, and no ")


def test_it_makes_the_tables_if_it_is_the_first_to_come(var: Var) -> None:
    journal = JournalFile(var)
    journal.play("1:buy intc 1@5")
    assert not var.database_file.exists()
    assert _once(var) == 0
    assert _verify(var).startswith("OK intc: 1 orders, 0 matches")


@contextmanager
def _held(var: Var) -> Iterator[None]:
    """Somebody else keeps the database from being written for as long as this lasts."""
    uri = uri_of(var)
    if uri.startswith("postgres"):
        with closing(psycopg2.connect(uri)) as holder:
            holder.cursor().execute("LOCK TABLE log_position IN EXCLUSIVE MODE")
            yield
    else:
        with closing(sqlite3.connect(var.database_file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield


def test_a_database_that_is_away_is_waited_for(var: Var, db: DAL, journal: JournalFile) -> None:
    journal.play("1:sell intc 10@5", "2:buy intc 4@5")
    with running("-c", IMPATIENT, "-A", "intc", var=var.root) as process:
        process.wait_for_line("following")
        _wait_for(db, journal.seq)
        before = journal.seq
        with _held(var):
            journal.play("2:buy intc 6@5")
            process.wait_for_line(r"log2db WARNING intc: the database is away \(.*lock.*\)")
            assert _seq(db) == before
            journal.play("2:buy intc 1@5")
        _wait_for(db, journal.seq)
        assert process.output.count("is away") == 1, "said once, not at every try"
    assert _verify(var).startswith("OK")


def test_it_starts_while_the_database_is_away(var: Var, db: DAL, journal: JournalFile) -> None:
    with ExitStack() as holding:
        holding.enter_context(_held(var))
        with running("-c", IMPATIENT, "-A", "intc", var=var.root) as process:
            process.wait_for_line("the database is away")
            holding.close()
            _wait_for(db, journal.seq)


@only_sqlite
def test_a_postgresql_that_is_killed_is_waited_for(
    var: Var, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_cluster() as cluster:
        monkeypatch.setenv("EMTE_DATABASE", cluster.uri)
        db = make_database(var)
        for name in ("alice", "bob"):
            add_user(db, name, cash="10000")
        journal = JournalFile(var)
        journal.play("1:sell intc 10@5", "2:buy intc 4@5")
        with running("-m", "log2db", "-A", "intc", var=var.root) as process:
            _wait_for(db, journal.seq)
            cluster.kill()
            journal.play("2:buy intc 6@5")
            process.wait_for_line("log2db WARNING intc: the database is away")
            journal.play("2:buy intc 1@5")
            cluster.start()
            _wait_for(db, journal.seq)
            assert process.output.count("is away") == 1, "said once, not at every try"
            assert process.terminate() == ExitCode.DONE
        assert _verify(var).startswith("OK intc: 4 orders, 2 matches")
        close(db)


def test_a_second_follower_of_a_ticker_is_turned_away(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    with running("-m", "log2db", "-A", "intc", var=var.root) as first:
        first.wait_for_line("following")
        assert _refused(var) == (69, "log2db: another log2db follows intc")
        journal.play("1:buy intc 1@5")
        _wait_for(db, journal.seq)
        assert read_pid(var.run_dir / "log2db-intc.pid") == first.pid


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_has_counted_everything_once(
    var: Var, db: DAL, journal: JournalFile, seed: int
) -> None:
    """A journal grows in bursts; log2db is killed while it works, and started again."""
    dice = random.Random(seed)
    for _ in range(5):
        trade_at_random(journal, dice, dice.randrange(100, 700))
        with running("-m", "log2db", "-A", "intc", var=var.root) as process:
            process.wait_for_line("following")
            trade_at_random(journal, dice, dice.randrange(50))
            _wait_at_least(db, min(_seq(db) + dice.randrange(400), journal.seq), process)
            process.kill()
        with closing(SystemDisk().open(journal.path)) as file:
            assert verify(db, file, "intc", journal.journal.mark).differences == []
    assert _once(var) == 0
    assert _seq(db) == journal.seq
    assert _verify(var).endswith(f"agree up to record {journal.seq}")


def _flip_a_byte(journal: JournalFile) -> None:
    data = bytearray(journal.path.read_bytes())
    data[-200] ^= 1
    journal.path.write_bytes(data)


def _cut_below_the_database(journal: JournalFile) -> None:
    mark = read_mark(settled_path(journal.path))
    assert mark is not None
    journal.path.write_bytes(journal.path.read_bytes()[: mark.offset - 1])


def _cut_below_the_mark(journal: JournalFile) -> None:
    journal.path.write_bytes(journal.path.read_bytes()[:-1])


def _write_another_history(journal: JournalFile) -> None:
    """Same header, same numbers, another order in the batch that the database has."""
    another = JournalFile(Var(journal.path.parent.parent))
    another.play("2:buy intc 2@6")
    another.play("2:buy intc 2@5")


def _begin_another_lineage(journal: JournalFile) -> None:
    another = JournalFile(Var(journal.path.parent.parent), lineage=OTHER_LINEAGE)
    another.play(*["1:buy intc 1@5"] * 20)


def _bring_another_tickers(journal: JournalFile) -> None:
    another = JournalFile(Var(journal.path.parent.parent), "gs")
    another.play("1:buy intc 1@5".replace("intc", "gs"))
    shutil.copy(another.path, journal.path)


def _spoil_the_mark(journal: JournalFile) -> None:
    durable_path(journal.path).write_bytes(b"12 34 nonsense".ljust(64))


def _mark_another_lineage(journal: JournalFile) -> None:
    mark = journal.journal.mark
    journal.mark(Mark(mark.seq, mark.offset, OTHER_LINEAGE))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_flip_a_byte, "its CRC differs"),
        (_cut_below_the_database, "the journal ends here; the database has followed it up to"),
        (_cut_below_the_mark, "the journal ends here; it was known to reach byte"),
        (_write_another_history, "this is not the journal it was: the database has followed"),
        (_begin_another_lineage, f"is of lineage {OTHER_LINEAGE}; the database has followed"),
        (_bring_another_tickers, "it is the journal of gs"),
        (_spoil_the_mark, "intc.durable"),
        (_mark_another_lineage, f"its durable mark of {OTHER_LINEAGE}"),
    ],
)
def test_a_journal_that_is_not_what_it_was_stops_it_with_the_reason(
    var: Var, db: DAL, journal: JournalFile, harm: object, reason: str
) -> None:
    journal.play("1:buy intc 1@5")
    assert _once(var) == 0
    settled = _seq(db)
    journal.play("1:buy intc 2@5", "1:buy intc 3@5", "1:buy intc 4@5", "1:buy intc 5@5")
    assert callable(harm)
    harm(journal)
    code, line = _refused(var)
    assert code == ExitCode.DISK
    assert line.startswith(f"log2db: {journal.path}: ")
    assert reason in line
    assert _seq(db) == settled, "never back, and nothing of it"


def test_a_journal_under_rules_that_it_does_not_know_is_left_alone(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    assert _once(var) == 0
    unknown = Mark(0, 0, journal.header.lineage)
    header = type(journal.header)(
        **{f: getattr(journal.header, f) for f in journal.header.__struct_fields__} | {"rules": 99}
    )
    journal.path.write_bytes(header.encode())
    journal.mark(unknown)
    code, line = _refused(var)
    assert code == ExitCode.CONFIGURATION
    assert "rules=99" in line


def test_a_copy_put_in_the_journals_place_is_followed_on_and_another_lineage_is_not(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    journal.play("1:sell intc 10@5")
    with running("-m", "log2db", "-A", "intc", var=var.root) as process:
        process.wait_for_line("following")
        _wait_for(db, journal.seq)
        copy = journal.path.with_name("copy")
        shutil.copy(journal.path, copy)
        copy.replace(journal.path)
        journal.play("2:buy intc 4@5")
        _wait_for(db, journal.seq)
        aside = journal.path.with_name("aside.log")
        journal.path.rename(aside)
        durable_path(journal.path).unlink()
        _begin_another_lineage(journal)
        assert process.wait() == ExitCode.DISK
        assert "the database has followed" in process.lines[-1]
    assert _seq(db) == journal.seq


def test_verify_says_ok_or_each_difference_by_its_exit_code_too(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    trade_at_random(journal, random.Random(3), 200)
    assert _once(var) == 0
    sound = _run(var, "--verify", "intc")
    assert (sound.wait(), len(sound.lines)) == (0, 1)
    assert sound.lines[0].startswith("OK intc: ")
    with transaction(db, write=True):
        rows(db, "UPDATE auth_user SET actual_cash = actual_cash + 1 WHERE username = 'bob'")
    wrong = _run(var, "--verify", "intc")
    assert wrong.wait() == 1
    assert wrong.lines[0].startswith("account 2 (bob): actual cash is ")
    assert wrong.lines[-1].startswith("1 differences in intc")
    unread = subprocess.run(
        f"{sys.executable} -m log2db --verify intc | head -c 0; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="bash",
        cwd=ROOT,
        env={**os.environ, "EMTE_VAR": str(var.root)},
        capture_output=True,
        check=False,
    )
    assert (unread.returncode, unread.stderr) == (141, b"")


def test_the_journal_of_a_run_that_has_ended_is_verified_where_it_is_kept(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    trade_at_random(journal, random.Random(3), 50)
    assert _once(var) == 0
    with transaction(db, write=True):
        runs.end_run(db, by=0, at=START)
    late = _run(var, "-A", "intc", "--once")
    assert late.wait() == ExitCode.DISK
    assert late.lines[-1].endswith("is closed in the database: it is of run 1, which has ended")
    var.run_folder(1).mkdir(parents=True)
    for path in var.journal_dir.glob("intc.*"):
        path.rename(var.run_folder(1) / path.name)
    past = _run(var, "--verify", "intc", "--run", "1")
    assert past.wait() == 0
    assert past.lines[0].startswith("OK intc: ")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("-A", "intc", "--run", "1"), 2, "--run goes with --verify and --rebuild"),
        (("--rebuild", "intc", "--verify", "intc"), 2, "not allowed with argument"),
        (("--verify", "intc", "--run", "x"), 2, "'x' is not the number of a run"),
        (("--verify", "intc", "--run", "0"), 2, "'0' is not the number of a run"),
        (("--verify", "intc", "--run", "7"), 75, "No such file or directory"),
        (("--verify", "intc"), 75, "the database has not followed this journal"),
        (("--verify", "gs"), 75, "No such file or directory"),
        (
            ("--verify", "intc", "--database", "sqlite://nowhere.db"),
            69,
            "nowhere.db does not exist",
        ),
        (("-A", "../etc"), 2, "'../etc' is not a ticker"),
        (("-A", "all"), 2, "'all' is not a ticker"),
        ((), 2, "one of the arguments -A/--ticker --verify --rebuild is required"),
        (("-A", "intc", "--verify", "intc"), 2, "not allowed with argument"),
        (("-A", "intc", "--database", "mysql://x/y"), 78, "expected sqlite:"),
    ],
)
def test_a_command_line_that_cannot_work_says_why(
    var: Var, journal: JournalFile, arguments: tuple[str, ...], code: int, line: str
) -> None:
    process = _run(var, *arguments)
    assert process.wait() == code
    assert line in process.lines[-1]


def test_help_shows_examples(var: Var) -> None:
    process = _run(var, "-h")
    assert process.wait() == 0
    assert "python -m log2db -A intc" in process.output
    assert "python -m log2db --verify intc" in process.output
    assert "python -m log2db --rebuild intc" in process.output


def test_the_var_folder_and_the_database_can_be_given_by_flags(
    var: Var, journal: JournalFile, tmp_path: Path
) -> None:
    journal.play("1:buy intc 1@5")
    uri = f"sqlite://{tmp_path / 'elsewhere.db'}"
    nowhere = Var(tmp_path / "nowhere")
    flags = ("--var", str(var.root), "--database", uri)
    with running("-m", "log2db", "-A", "intc", "--once", *flags, var=nowhere.root) as process:
        assert process.wait() == 0
    with running("-m", "log2db", "--verify", "intc", *flags, var=nowhere.root) as process:
        assert process.wait() == 0
        assert process.output.startswith("OK intc: 1 orders")
    assert not nowhere.root.exists()


def test_a_signal_ends_a_wait_wherever_it_comes() -> None:
    """Its handler runs between any two lines of the wait, in the same thread."""

    def is_heard(line: int) -> bool:
        stop = Stop()
        lines = itertools.count()

        def interrupt(frame: FrameType, event: str, _: object) -> Any:
            if event == "line" and next(lines) == line:
                sys.settrace(None)
                stop.set()
            return interrupt

        def wait() -> None:
            sys.settrace(interrupt)
            stop.wait(0.001)
            sys.settrace(None)
            heard.append(next(lines) <= line or stop.wait(30))

        heard: list[bool] = []
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(5)
        return heard == [True]

    assert [line for line in range(10) if not is_heard(line)] == []


def test_a_place_that_was_lost_stops_it_until_all_is_made_anew(
    var: Var, db: DAL, journal: JournalFile
) -> None:
    journal.play("1:sell intc 10@5", "2:buy intc 4@5")
    assert _once(var) == 0
    with transaction(db, write=True):
        rows(db, "DELETE FROM log_position")
    code, line = _refused(var)
    assert code == ExitCode.DISK
    assert line.endswith("is at record 0, and has rows of what follows it already")
    with transaction(db):
        assert rows(db, "SELECT SUM(actual_cash) FROM auth_user") == [(3 * 100_000_000,)]
    assert _run(var, "--rebuild", "intc").wait() == 0
    assert _once(var) == 0
    assert _verify(var).startswith("OK intc: 2 orders, 1 matches")
