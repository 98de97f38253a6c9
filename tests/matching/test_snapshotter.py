"""Snapshots of a server at work: taken by a child, at their time, and no harm if they are not."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from matching import snapshotter
from matching.client import Client
from matching.disk import SystemDisk
from matching.journal import History, read_header
from matching.recovery import main as replay_and_compare
from matching.snapshot import kept_snapshots, read_snapshot, snapshot_paths
from tests.matching.serving import Venue, run, until
from tests.matching.test_matchingserver_process import server, venue_key
from tests.processes import ROOT, Process
from tests.waiting import PATIENCE_SECONDS, wait_until

OFTEN = ("--snapshot-records", "10", "--snapshot-seconds", "0")


def journal_of(var: Path) -> Path:
    return var / "journal" / "intc.log"


def checks(var: Path) -> dict[int, str]:
    """The seqs and hashes that the journal's check records tell."""
    found = re.findall(rb"^check (\d+) ([0-9a-f]{32}) s=", journal_of(var).read_bytes(), re.M)
    return {int(seq): digest.decode() for seq, digest in found}


def snapshots(var: Path) -> dict[int, str]:
    """The seqs and hashes of the snapshots that are kept."""
    disk, journal = SystemDisk(), journal_of(var)
    header = read_header(disk.open(journal))
    found = [read_snapshot(disk, path) for path, _ in kept_snapshots(disk, journal, header)]
    return {snapshot.position.seq: snapshot.digest for snapshot in found}


async def trade(venue: Venue, count: int) -> None:
    session = await venue.log_in()
    for number in range(count):
        side = "buy" if number % 3 else "sell"
        await session.send(f"{number % 5}:{side} intc {number % 7 + 1}@{50 + number % 4}")


def test_a_snapshot_is_taken_once_enough_was_added_and_its_hash_is_journaled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(venue: Venue) -> None:
        await trade(venue, 6)
        await asyncio.sleep(1.5 * snapshotter.DUE_SECONDS)
        assert venue.server.snapshotter.taken == 0, "there are not 20 records yet"
        await trade(venue, 30)
        await until(lambda: checks(tmp_path))
        metrics = (await venue.get("/metrics")).body.decode()
        (seq,) = checks(tmp_path)
        assert f"emte_snapshot_seq {seq}.0" in metrics
        assert "emte_snapshots_total 1.0" in metrics
        assert "emte_snapshots_failed_total 0.0" in metrics

    run(tmp_path, scenario, snapshot_records=20, snapshot_seconds=0)
    assert checks(tmp_path) == snapshots(tmp_path)
    assert len(checks(tmp_path)) == 2, "and one at the stop"
    printed = capsys.readouterr().out
    for seq in checks(tmp_path):
        assert f"snapshot of intc.log after record {seq}: " in printed
    assert replay_and_compare([str(journal_of(tmp_path))]) == 0
    assert "in agreement with" in capsys.readouterr().out


def test_a_snapshot_waits_for_its_time_too(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        await trade(venue, 30)
        await asyncio.sleep(1.5 * snapshotter.DUE_SECONDS)
        assert venue.server.snapshotter.taken == 0

    run(tmp_path, scenario, snapshot_records=20, snapshot_seconds=60)


def test_a_server_that_stops_takes_one_and_the_next_begins_with_it(tmp_path: Path) -> None:
    with server(tmp_path) as process:
        asyncio.run(send_some(process, tmp_path, 40))
        assert process.terminate() == 0
        (seq,) = checks(tmp_path)
        assert f"snapshot of intc.log after record {seq}: " in process.output
    assert checks(tmp_path) == snapshots(tmp_path)
    last_lines = [batch.lines for batch in History(SystemDisk().open(journal_of(tmp_path)))][-2:]
    assert last_lines[0][0].endswith(": tick"), "all but the check was sealed before"
    assert last_lines[1] == [f"check {seq} {checks(tmp_path)[seq]}"]
    with server(tmp_path) as process:
        words = rf"recovered (\d+) records, from the snapshot of record {seq} on"
        assert int(process.wait_for_line(words)[1]) == seq + 2
        assert process.terminate() == 0
    assert len(checks(tmp_path)) == 2


def test_a_server_that_stops_waits_for_a_snapshot_that_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a large market does. Nobody trades meanwhile: it gives way to no other process."""
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\nsleep 3\nexec {sys.executable} "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))

    async def scenario(venue: Venue) -> None:
        await trade(venue, 2)

    run(tmp_path, scenario, snapshot_records=1000)
    assert len(checks(tmp_path)) == 1
    assert checks(tmp_path) == snapshots(tmp_path)
    assert " --last " in (tmp_path / "arguments").read_text()


def let_children_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child makes the file `begun`, and does not end by itself; nor is it given up."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(snapshotter, "STOP_CHILD_SECONDS", 1000.0)


def test_a_server_that_is_told_twice_to_stop_waits_for_no_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_children_hang(tmp_path, monkeypatch)

    async def scenario(venue: Venue) -> None:
        await trade(venue, 2)
        venue.server.stop()
        await until((tmp_path / "begun").exists)

    run(tmp_path, scenario, snapshot_records=1000)
    assert not checks(tmp_path)


def test_who_is_in_a_hurry_before_the_last_one_has_begun_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_children_hang(tmp_path, monkeypatch)

    async def scenario(venue: Venue) -> None:
        await trade(venue, 2)
        venue.server.stop()
        venue.server.stop()

    run(tmp_path, scenario, snapshot_records=1000)
    assert not checks(tmp_path)


def test_no_other_is_begun_while_the_last_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = threading.Semaphore(0)
    go_on = threading.Event()

    def take(*_: object) -> None:
        running.release()
        go_on.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(snapshotter, "_run", take)

    async def scenario() -> None:
        taker = snapshotter.Snapshotter(
            tmp_path / "intc.log",
            last_seq=0,
            records=1,
            seconds=0,
            seq=lambda: 10,
            on_taken=lambda seq, digest: None,
        )
        last = asyncio.create_task(taker.take_last())
        await asyncio.to_thread(running.acquire, timeout=PATIENCE_SECONDS)
        taker.look()
        await asyncio.sleep(0)
        go_on.set()
        await last
        await asyncio.sleep(0.1)
        assert not running.acquire(blocking=False), "another one was begun"

    asyncio.run(scenario())


def test_a_server_told_to_take_none_takes_none(tmp_path: Path) -> None:
    with server(tmp_path, "--snapshot-records", "0") as process:
        assert process.terminate() == 0
    assert not checks(tmp_path)
    assert not any(path.exists() for path in snapshot_paths(journal_of(tmp_path)))


def test_a_child_that_fails_is_logged_and_nothing_else_happens(
    tmp_path: Path, expected_errors: list[Any]
) -> None:
    (tmp_path / "journal" / "intc.snapshot-new").mkdir(parents=True)

    async def scenario(venue: Venue) -> None:
        await trade(venue, 30)
        await until(lambda: venue.server.snapshotter.failed)
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).code == 200
        assert "emte_snapshots_failed_total 1.0" in (await venue.get("/metrics")).body.decode()

    run(tmp_path, scenario, snapshot_records=20, snapshot_seconds=0)
    messages = {record.getMessage() for record in expected_errors}
    assert messages == {"no snapshot of intc.log was taken: Is a directory"}
    assert not checks(tmp_path)


def test_a_child_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshotter, "CHILD_SECONDS", 0.0)

    async def scenario(venue: Venue) -> None:
        await trade(venue, 30)
        await until(lambda: venue.server.snapshotter.failed)

    run(tmp_path, scenario, snapshot_records=20, snapshot_seconds=0)
    assert "no snapshot of intc.log: it was not done after 0 s\n" in capsys.readouterr().out
    assert len(checks(tmp_path)) == 1, "the one at the stop"


def test_a_child_that_prints_something_else_took_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_errors: list[Any]
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))

    async def scenario(venue: Venue) -> None:
        await trade(venue, 2)

    run(tmp_path, scenario, snapshot_records=1000)
    messages = [record.getMessage() for record in expected_errors]
    assert messages == [r"no snapshot of intc.log was taken: its process printed 'hello\n'"]


async def send_some(process: Process, var: Path, count: int) -> list[int]:
    """Orders with ids over a session of the venue; the oids that were acknowledged."""
    port = process.wait_for_line(r"listening on \S+:(\d+),")[1]
    client = Client(
        f"ws://127.0.0.1:{port}/realtime", ticker="intc", key=venue_key(var), owner=None
    )
    await client.connect()
    await client.login()
    texts = [f"{number % 9}:buy intc 1@{40 + number % 9} id=k{number}" for number in range(count)]
    oids: list[int] = []
    for begin in range(0, count, 500):
        answers = await client.send_many(texts[begin : begin + 500])
        oids += [answer["oid"] for answer in answers]
    await client.close()
    return oids


def child_of(process: Process) -> int:
    """The child that a server has at work; a moment ago it was still the server's own image."""

    def found() -> int | None:
        with suppress(OSError):  # the thread or the child has just ended
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                for pid in (task / "children").read_text().split():
                    if b"snapshotchild" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return int(pid)
        return None

    return wait_until(found, "the child") or 0


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
@pytest.mark.parametrize("and_the_child", [False, True])
def test_a_server_killed_while_its_child_is_at_work_leaves_nothing_behind(
    tmp_path: Path, and_the_child: bool
) -> None:
    """kill -9: the child ends too, all that was acknowledged is there, and so is a snapshot."""
    count = 8_000
    with server(tmp_path, "--snapshot-records", "0") as process:
        oids = asyncio.run(send_some(process, tmp_path, count))
        assert process.terminate() == 0
    assert oids == list(range(1, count + 1))
    with server(tmp_path, *OFTEN) as process:
        child = child_of(process)
        os.kill(child, signal.SIGSTOP)  # so that it is at work when the server is killed
        process.kill()
        if and_the_child:
            os.kill(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGCONT)
        wait_until(lambda: not is_there(child), "the end of the child")
    with server(tmp_path, *OFTEN) as process:
        assert asyncio.run(send_some(process, tmp_path, count)) == oids, "all are duplicates"
        wait_until(lambda: checks(tmp_path), "a snapshot after all")
        assert process.terminate() == 0
    assert replay_and_compare([str(journal_of(tmp_path))]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
def test_a_server_that_stops_does_not_wait_for_a_child_at_work(tmp_path: Path) -> None:
    with server(tmp_path, *OFTEN) as process:
        asyncio.run(send_some(process, tmp_path, 20))
        child = child_of(process)
        os.kill(child, signal.SIGSTOP)
        assert process.terminate() == 0
        wait_until(lambda: not is_there(child), "the end of the child")
    assert len(checks(tmp_path)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc")
def test_a_killed_child_is_logged(tmp_path: Path) -> None:
    with server(tmp_path, *OFTEN) as process:
        asyncio.run(send_some(process, tmp_path, 20))
        child = child_of(process)
        os.kill(child, signal.SIGKILL)
        process.wait_for_line("no snapshot of intc.log was taken: its process ended with -9")
        wait_until(lambda: checks(tmp_path), "the next one")


def child(journal: Path, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "matching.snapshotchild", "--seconds", "60", str(journal)],
        cwd=ROOT,
        **{"stdin": subprocess.PIPE, **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_child_prints_record_hash_and_size(tmp_path: Path) -> None:
    with server(tmp_path, "--snapshot-records", "0") as process:
        asyncio.run(send_some(process, tmp_path, 20))
        with child(journal_of(tmp_path)) as taker:
            assert taker.wait(PATIENCE_SECONDS) == 0
            assert taker.stdout is not None
            seq, digest, size = taker.stdout.read().split()
    assert snapshots(tmp_path) == {int(seq): digest}
    assert int(size) > 20 * len("bid 000000001")


def test_the_child_says_in_one_line_why_it_takes_none(tmp_path: Path) -> None:
    journal = tmp_path / "intc.log"
    with child(journal) as taker:
        assert taker.wait(PATIENCE_SECONDS) == 75
        assert taker.stderr is not None
        assert taker.stderr.read() == "byte 0: intc.durable says nothing of what is durable\n"
    journal.with_suffix(".durable").write_bytes(b"nonsense")
    with child(journal) as taker:
        assert taker.wait(PATIENCE_SECONDS) == 75
        assert taker.stderr is not None
        assert "intc.durable does not hold a mark" in taker.stderr.read()


def test_the_child_ends_when_its_stdin_does(tmp_path: Path) -> None:
    with server(tmp_path, "--snapshot-records", "0") as process:
        asyncio.run(send_some(process, tmp_path, 4_000))
        with child(journal_of(tmp_path), stdin=subprocess.DEVNULL) as taker:
            assert taker.wait(PATIENCE_SECONDS) == 1
    assert not snapshots(tmp_path)
