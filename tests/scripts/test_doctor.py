"""The doctor: each check, on what is right and on what is not; and all of it, as a program."""

import os
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from app.models.db import DAL, close
from matching.config import Var, load_venue_key
from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING
from matching.pidfile import pidfile
from scripts import doctor
from scripts.doctor import Finding, Level
from scripts.mounts import linux_table, mac_table
from tests.database import make_database, make_var, only_postgres, only_sqlite, uri_of
from tests.processes import ROOT, running
from tests.scripts.test_serve import Market
from tests.scripts.test_zap import trade
from tests.waiting import free_port, wait_until

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


def require(finding: Finding, level: Level, words: str) -> None:
    assert finding.level is level, finding
    assert words in finding.sentence
    assert "\n" not in finding.sentence


@pytest.fixture
def var(tmp_path: Path) -> Var:
    return make_var(tmp_path)


# -- the machine

NEEDED = [
    "tornado>=6.4",
    "pydal>=20241204",
    'uvloop>=0.20; platform_python_implementation == "CPython" and sys_platform != "win32"',
    'psycopg2-binary>=2.9; extra == "postgres"',
    'pytest>=8; extra == "dev"',
    'emte[postgres]; extra == "dev"',
]
THERE = {"tornado": "6.5.1", "pydal": "20250501.2", "uvloop": "0.21.0", "psycopg2-binary": "2.9.10"}


@pytest.mark.parametrize(
    ("python", "changed", "is_postgres", "level", "words"),
    [
        ("3.11.7", {}, False, OK, "3 packages"),
        ("3.14.0rc1", {}, True, OK, "4 packages"),
        ("3.10.12", {}, False, FAIL, "EMTE needs 3.11 or newer"),
        ("3.11.7", {"tornado": "6.3.9"}, False, FAIL, "tornado is 6.3.9; EMTE needs 6.4 or newer"),
        ("3.11.7", {"tornado": "6.10"}, False, OK, "3 packages"),
        ("3.11.7", {"pydal": None}, False, FAIL, "pydal is not installed: pip install"),
        ("3.11.7", {"psycopg2-binary": None}, False, OK, "3 packages"),
        ("3.11.7", {"psycopg2-binary": None}, True, FAIL, "psycopg2-binary is not installed"),
        ("3.11.7", {"uvloop": None}, False, WARN, "without uvloop"),
    ],
)
def test_packages(
    python: str, changed: dict[str, str | None], is_postgres: bool, level: Level, words: str
) -> None:
    there = {**THERE, **changed}
    finding = doctor.judge_packages(python, NEEDED, is_postgres=is_postgres, installed=there.get)
    require(finding, level, words)


@pytest.mark.parametrize(
    ("soft", "hard", "level", "words"),
    [
        (1500, 1500, OK, "enough for 200 traders"),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, OK, "any number of files"),
        (1024, 524288, WARN, "enough for 132 traders; for 200, ulimit -n 1500"),
        (1024, 1024, WARN, "hard limit is 1024"),
        (64, 524288, FAIL, "too few"),
    ],
)
def test_open_files(soft: int, hard: int, level: Level, words: str) -> None:
    require(doctor.judge_files(soft, hard), level, words)


LINUX = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - {kind} /dev/vda rw
35 27 254:1 / /other rw,relatime shared:3 - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("ext4", OK, "/srv/var is on ext4 (/dev/vda)"),
        ("xfs", OK, "xfs"),
        ("nfs4", FAIL, "none of this machine's own disks"),
        ("cifs", FAIL, "none of this machine's own disks"),
        ("gpfs", FAIL, "none of this machine's own disks"),
        ("lustre", FAIL, "none of this machine's own disks"),
        ("9p", FAIL, "none of this machine's own disks"),
        ("fuse.sshfs", FAIL, "none of this machine's own disks"),
        ("overlay", FAIL, "mount a volume there"),
        ("tmpfs", FAIL, "in memory"),
        ("newfs", WARN, "EMTE knows nothing of its syncs"),
    ],
)
def test_file_systems(kind: str, level: Level, words: str) -> None:
    table = linux_table(LINUX.format(kind=kind))
    require(doctor.judge_mount(Path("/srv/var"), table), level, words)
    require(doctor.judge_mount(Path("/other/var"), table), OK, "ext4 (/dev/vdb)")


def test_what_is_mounted_over_something_hides_it() -> None:
    table = linux_table(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:9 / /srv rw - ext4 /dev/sdb rw\n"
        "3 2 0:9 / /srv rw master:1 - nfs4 host:/srv rw\n"
    )
    require(doctor.judge_mount(Path("/srv/var"), table), FAIL, "nfs4 (host:/srv)")
    require(doctor.judge_mount(Path("/srv2/var"), table), OK, "ext4 (/dev/sda)")
    require(doctor.judge_mount(Path("/srv/var"), []), WARN, "cannot be known")


@pytest.mark.parametrize(
    ("path", "level", "words"),
    [
        ("/Users/ada/emte/var", OK, "apfs"),
        ("/Volumes/Our class/var", FAIL, "smbfs (//ada@server/class)"),
        ("/home/ada", FAIL, "nfs (server:/home)"),
    ],
)
def test_file_systems_of_macos(path: str, level: Level, words: str) -> None:
    table = mac_table(
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "devfs on /dev (devfs, local, nobrowse)\n"
        "/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)\n"
        "//ada@server/class on /Volumes/Our class (smbfs, nodev, nosuid, mounted by ada)\n"
        "server:/home on /home (nfs, nodev, nosuid)\n"
    )
    require(doctor.judge_mount(Path(path), table), level, words)


@pytest.mark.parametrize(
    ("free", "level", "words"),
    [
        (SPACE_FOR_TRADING - 1, FAIL, "has 63 MiB free: below 64 markets are halted"),
        (SPACE_FOR_ORDERS - 1, FAIL, "has 255 MiB free: below 256 new orders are refused"),
        (SPACE_FOR_ORDERS, WARN, "has 256 MiB free"),
        (1 << 40, OK, "has 1048576 MiB free"),
    ],
)
def test_free_space(free: int, level: Level, words: str) -> None:
    require(doctor.judge_space(Path("/srv/var"), free), level, words)


@pytest.mark.parametrize(
    ("times", "level", "words"),
    [
        ([0.0004] * 14 + [2.0], OK, "0.40 ms (slowest of 15: 2000.00)"),
        ([0.02] * 15, WARN, "traders wait for it"),
        ([1.5] * 15, FAIL, "nobody can trade like that"),
        ([0.000001] * 15, WARN, "no disk is that quick"),
    ],
)
def test_syncs(times: list[float], level: Level, words: str) -> None:
    require(doctor.judge_syncs(times), level, words)


def test_real_syncs_leave_nothing_behind(tmp_path: Path) -> None:
    assert "a sync takes " in doctor.check_syncs(tmp_path).sentence
    assert list(tmp_path.iterdir()) == []
    require(doctor.check_syncs(tmp_path / "none"), FAIL, "cannot be written: No such file")


@pytest.mark.parametrize(
    ("drift", "synchronized", "level", "words"),
    [
        (0.0001, True, OK, "NTP keeps it right"),
        (-0.0001, None, OK, "cannot be known"),
        (0.0, False, WARN, "no NTP keeps it right"),
        (3600.0, True, FAIL, "the clock leapt by +3600.00 s"),
        (-0.2, None, FAIL, "the clock leapt by -0.20 s"),
    ],
)
def test_clock(drift: float, synchronized: bool | None, level: Level, words: str) -> None:
    require(doctor.judge_clock(drift, synchronized), level, words)


def test_a_clock_that_is_put_while_it_is_watched_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(doctor.time, "time", lambda: time.monotonic() + clock[0])
    monkeypatch.setattr(doctor.time, "sleep", lambda seconds: clock.__setitem__(0, -7.0))
    assert round(doctor.watch_clock(1.0)) == -7


def test_a_clock_behind_a_journal_is_seen(var: Var) -> None:
    assert list(doctor.check_journal_times(var, lambda: 0.0)) == []
    journal = trade(var)
    (finding,) = doctor.check_journal_times(var, lambda: journal.time / 1e6 + 5)
    require(finding, OK, "not behind")
    (finding,) = doctor.check_journal_times(var, lambda: journal.time / 1e6 - 90)
    require(finding, FAIL, "the clock is 90 s behind the journal of intc")


# -- the venue


def access(var: Var, name: str) -> Finding:
    """What is said of one file."""
    (finding,) = (each for each in doctor.check_access(var) if name in each.sentence)
    return finding


def test_keys_that_are_closed_are_well(var: Var) -> None:
    require(access(var, "venue.key"), OK, "the first start makes it")
    load_venue_key(var)
    var.generations_file.touch(mode=0o600)
    var.generations_file.write_text("7 2\n")
    assert [each.level for each in doctor.check_access(var)] == [OK, OK, OK]


def open_key(var: Var) -> None:
    var.venue_key_file.chmod(0o640)


def open_var(var: Var) -> None:
    var.root.chmod(0o755)


def open_generations(var: Var) -> None:
    var.generations_file.chmod(0o644)


def no_key(var: Var) -> None:
    var.venue_key_file.write_text("secret\n")


def no_generations(var: Var) -> None:
    var.generations_file.write_text("seven two\n")


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (open_key, "venue.key", "others can read it (640): chmod 600 it"),
        (open_var, "var: others", "others can look into it (755): chmod 700 it"),
        (open_generations, "key.generations", "others can read it (644): chmod 600 it"),
        (no_key, "venue.key", "does not hold a key: restore it"),
        (no_generations, "key.generations", "line 1: 'seven two' is not `owner generation`"),
    ],
)
def test_each_key_that_is_not_as_it_should_be(
    var: Var, spoil: Callable[[Var], None], name: str, words: str
) -> None:
    load_venue_key(var)
    var.generations_file.touch(mode=0o600)
    spoil(var)
    require(access(var, name), FAIL, words)


def test_what_belongs_to_somebody_else(var: Var, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    require(access(var, str(var.root)), FAIL, "and this is user 54321: run everything as one user")


def test_a_password_in_the_settings(
    var: Var, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "emte.toml"
    settings.write_text('database = "postgres://emte@host/emte"\n')
    assert not [each for each in doctor.check_access(var) if "toml" in each.sentence]
    settings.write_text('database = "postgres://emte:secret@host/emte"\n')
    settings.chmod(0o644)
    require(access(var, "emte.toml"), FAIL, "others can read the password in it (644)")
    settings.chmod(0o600)
    require(access(var, "emte.toml"), OK, "is closed to others")


def database(uri: str) -> Finding:
    finding, db = doctor.check_database(uri)
    if db is not None:
        close(db)
    return finding


def test_the_database(var: Var, each_database: str) -> None:
    uri = uri_of(var)
    require(database(uri), OK, "the first start makes it")
    close(make_database(var))
    require(database(uri), OK, "answers and is up to date")


def test_a_database_of_an_older_emte(var: Var, each_database: str) -> None:
    db: DAL = make_database(var)
    db.executesql("ALTER TABLE product DROP COLUMN description")
    db.commit()
    close(db)
    require(database(uri_of(var)), WARN, "(product.description): the next start makes them")


@only_postgres
def test_postgres_that_is_away_or_cannot_be_backed_up(
    var: Var, each_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(database(f"postgres://nobody@127.0.0.1:{free_port()}/none"), FAIL, "is away")
    close(make_database(var))
    monkeypatch.setenv("PATH", "")
    require(database(uri_of(var)), WARN, "without pg_dump there are no backups")


@only_sqlite
def test_what_is_no_database(var: Var, each_database: str) -> None:
    require(database("mysql://host/name"), FAIL, "expected sqlite:///path/to.db or postgres://")
    var.database_file.write_bytes(b"a letter" * 1000)
    require(database(uri_of(var)), FAIL, "file is not a database")
    var.database_file.unlink()
    with closing(sqlite3.connect(var.database_file)) as connection:
        connection.execute("CREATE TABLE letter (id int)")
    require(database(uri_of(var)), OK, "the first start makes its tables")


def test_a_port_that_somebody_else_has(var: Var) -> None:
    port = free_port()
    require(doctor.check_web_port(var, "127.0.0.1", port), OK, "is free")
    with socket.create_server(("127.0.0.1", port)), pidfile(var.run_dir, "web"):
        finding = doctor.check_web_port(var, "127.0.0.1", port)
    require(finding, FAIL, "is held by a program that is not of this venue: end that, or --port")
    finding = doctor.check_web_port(var, "192.0.2.1", port)
    require(finding, FAIL, "cannot be had (Cannot assign requested address)")


def run(var: Var, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/doctor.py", "--var", str(var.root), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_venue_at_work_holds_its_ports_itself(tmp_path: Path) -> None:
    market = Market(make_var(tmp_path))
    intc, taken = market.register("intc"), market.register("gs")
    with (
        socket.create_server(("127.0.0.1", taken.port)),
        running(*market.command, var=market.var.root),
    ):
        market.wait_for("web", "match-intc", "log2db-intc")
        market.wait_for_quote(intc, 500_000)
        wait_until(lambda: doctor._is_web(market.web_port), "the web server")
        done = run(market.var, "--port", market.web_port)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (78, "")
    assert f"ok    port {market.web_port} of the web server is held by it" in lines
    assert f"ok    port {intc.port} of intc is held by its matching server" in lines
    (failed,) = (line for line in lines if " of gs " in line)
    assert failed.startswith(f"FAIL  port {taken.port} of gs is held by a program that is not of ")
    assert all(re.match("(ok   |warn |FAIL ) ", line) for line in lines)
    close(market.db)


@pytest.mark.parametrize(
    ("sentence", "level", "says"),
    [
        ("intc is being recovered: 9 % of its journal is read", WARN, "is held by its matching se"),
        ("no upstream", FAIL, "is held by a program that is not of this venue"),
    ],
)
def test_a_matching_server_that_recovers_is_no_foreign_program(
    tmp_path: Path, sentence: str, level: Level, says: str
) -> None:
    market = Market(make_var(tmp_path))
    intc = market.register("intc")
    body = f'{{"error": {{"code": "not_ready", "rule": "", "message": "{sentence}"}}}}'
    head = f"HTTP/1.1 503 No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    answer = f"{head}{body}".encode("ascii")

    def refuse(listener: socket.socket) -> None:
        with suppress(OSError):  # it is closed in the end
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", intc.port)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        (finding,) = doctor.check_product_ports(market.var, market.db)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    require(finding, level, f"port {intc.port} of intc {says}")
    close(market.db)


def test_before_the_first_start_it_makes_nothing(tmp_path: Path) -> None:
    var = Var(tmp_path / "nowhere")
    done = run(var, "--port", free_port())
    assert "is not there yet: the first start makes it" in done.stdout
    assert done.returncode == (78 if "FAIL" in done.stdout else 0)
    assert list(tmp_path.iterdir()) == []
