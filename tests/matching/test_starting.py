"""A matching server while it recovers its journal: alive, not ready, and easy to end."""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from tornado.websocket import websocket_connect

from matching import matchingserver
from matching.client import Away, Backoff, Client, query
from matching.config import Var
from matching.disk import SystemDice, SystemDisk, SystemFile
from matching.journal import History, torn_path
from matching.recovery import open_journal, take_snapshot
from matching.server import Options
from matching.starting import Abandoned, Starting
from tests.matching.serving import VENUE_KEY, form, serving
from tests.waiting import PATIENCE_SECONDS, free_port


class HeldFile:
    """A real file, but reads of it wait, from a byte on, until its disk is released."""

    def __init__(self, file: SystemFile, disk: "HeldDisk") -> None:
        self._file = file
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self._disk.held_from:
            self._disk.is_reached.set()
            assert self._disk.is_released.wait(PATIENCE_SECONDS)
        return self._file.read(offset, length)


class HeldDisk(SystemDisk):
    """The machine's disk, but a journal is read so far and no further until it is released."""

    def __init__(self, held_from: int) -> None:
        self.held_from = held_from
        self.is_reached = threading.Event()
        self.is_released = threading.Event()

    def open(self, path: Path) -> Any:
        file = super().open(path)
        return HeldFile(file, self) if path.suffix == ".log" else file


class Recovering:
    """A server whose recovery is held; what it says meanwhile."""

    def __init__(self, port: int, disk: HeldDisk, ended: "asyncio.Task[None]") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.disk = disk
        self.ended = ended

    async def get(self, path: str, **options: Any) -> HTTPResponse:
        return await AsyncHTTPClient().fetch(self.url + path, raise_error=False, **options)

    async def until_ready(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (response := await self.get("/health/ready")).code != 200:
                await asyncio.sleep(0.01)
        ready: dict[str, Any] = json.loads(response.body)
        return ready


def write_journal(folder: Path) -> Path:
    """The journal of a server with one resting order; its file."""

    async def trade() -> Path:
        async with serving(folder) as venue:
            assert (await venue.order(f"7:buy intc 5@99 ts={venue.ts}")).code == 200
            return venue.var.journal_file("intc")

    return asyncio.run(trade())


@asynccontextmanager
async def recovering(folder: Path, *, held_from: int) -> AsyncIterator[Recovering]:
    disk = HeldDisk(held_from)
    port = free_port()
    options = Options(ticker="intc", port=port, key=VENUE_KEY, snapshot_records=0)
    run = asyncio.create_task(matchingserver.run(options, Var(folder), disk=disk))
    try:
        reached = asyncio.create_task(asyncio.to_thread(disk.is_reached.wait, PATIENCE_SECONDS))
        await asyncio.wait((run, reached), return_when=asyncio.FIRST_COMPLETED)
        assert not run.done(), run
        yield Recovering(port, disk, run)
    finally:
        disk.is_released.set()
        if not run.done():
            signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await run


def test_while_it_recovers_it_says_that_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    size = write_journal(tmp_path).stat().st_size

    async def ask() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            live = await server.get("/health/live")
            assert (live.code, json.loads(live.body)) == (200, {"live": True})
            ready = await server.get("/health/ready")
            assert ready.code == 503
            assert json.loads(ready.body) == {
                "ready": False,
                "recovered_bytes": 0,
                "journal_bytes": size,
                "alarms": [],
            }
            server.disk.is_released.set()
            told = await server.until_ready()
            assert told["ready"] is True
            assert (await server.get("/query")).code == 200

    asyncio.run(ask())


@pytest.mark.parametrize("path", ["/", "/quote", "/query", "/time", "/metrics", "/nothing"])
def test_while_it_recovers_nobody_is_shown_anything_else(tmp_path: Path, path: str) -> None:
    write_journal(tmp_path)

    async def ask() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            refused = await server.get(path)
            assert (refused.code, refused.headers["Retry-After"]) == (503, "1")
            error = json.loads(refused.body)["error"]
            assert error["code"] == "not_ready"
            assert error["message"] == (
                "intc is being recovered: 0 % of its journal is read; try again in a moment"
            )

    asyncio.run(ask())


def test_who_asks_for_the_market_hears_why_it_is_away(tmp_path: Path) -> None:
    write_journal(tmp_path)

    async def ask() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            with pytest.raises(
                Away, match="/query: HTTP 503: intc is being recovered: 0 % of its journal"
            ):
                await query(f"{server.url}/query")

    asyncio.run(ask())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_while_it_recovers_a_request_of_any_kind_and_size_is_refused(
    tmp_path: Path, method: str
) -> None:
    write_journal(tmp_path)

    async def ask() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            body = b"x" * 300_000 if method in ("POST", "PUT", "PATCH") else None
            refused = await server.get(
                "/", method=method, body=body, allow_nonstandard_methods=True
            )
            assert (refused.code, refused.headers["Retry-After"]) == (503, "1")

    asyncio.run(ask())


def test_an_order_that_comes_too_early_is_refused_and_does_nothing(tmp_path: Path) -> None:
    write_journal(tmp_path)

    async def trade() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            text = "8:sell intc 5@99"
            refused = await server.get("/", method="POST", body=form(text, "0" * 64))
            assert (refused.code, json.loads(refused.body)["error"]["code"]) == (503, "not_ready")
            with pytest.raises(HTTPClientError, match="503"):
                await websocket_connect(f"{server.url.replace('http', 'ws')}/realtime")
            server.disk.is_released.set()
            await server.until_ready()
            state = json.loads((await server.get("/query")).body)
            assert (state["bids"], state["asks"]) == ([["99.00", 5, 1]], [])

    asyncio.run(trade())


def test_a_client_that_comes_too_early_trades_as_soon_as_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait as long as for a server that is not there: for ever, here."""
    soon = 0.01
    monkeypatch.setattr("matching.client.NOT_READY_SECONDS", soon)
    monkeypatch.setattr(
        Backoff,
        "next_seconds",
        lambda backoff: soon if backoff._first == soon else 10 * PATIENCE_SECONDS,
    )
    write_journal(tmp_path)

    async def trade() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            live = asyncio.Event()
            reasons: list[str] = []

            def on_away(reason: str) -> None:
                reasons.append(reason)
                server.disk.is_released.set()

            url = f"{server.url.replace('http', 'ws')}/realtime"
            client = Client(url, ticker="intc", key=VENUE_KEY)
            following = asyncio.create_task(client.follow(on_live=live.set, on_away=on_away))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await live.wait()
                answer = await client.send("8:sell intc 5@99")
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            assert answer["status"] == "filled"
            assert [reason for reason in reasons if "intc is being recovered" in reason] == reasons

    asyncio.run(trade())


def test_asked_to_end_while_it_recovers_it_ends_and_leaves_the_journal_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_journal(tmp_path)
    before = path.read_bytes()

    async def end() -> None:
        async with recovering(tmp_path, held_from=0) as server:
            assert not (tmp_path / "run" / "match-intc.pid").exists(), "the supervisor waits for it"
            signal.raise_signal(signal.SIGTERM)
            await server.get("/health/live")  # so that the loop has taken the signal
            server.disk.is_released.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await server.ended
            with pytest.raises(OSError, match="Connection refused"):
                await server.get("/health/live")

    asyncio.run(end())
    assert path.read_bytes() == before
    assert "ended before it served anybody" in capsys.readouterr().out


def test_asked_to_end_as_it_becomes_ready_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has the signal's callback in its queue already, behind the recovery's result."""
    write_journal(tmp_path)
    in_thread = asyncio.to_thread

    async def recovered_and_asked_to_end(*work: Any) -> Any:
        recovered = await in_thread(*work)
        loop = asyncio.get_running_loop()
        signal.raise_signal(signal.SIGTERM)
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
        return recovered

    async def end() -> None:
        monkeypatch.setattr(asyncio, "to_thread", recovered_and_asked_to_end)
        options = Options(ticker="intc", port=free_port(), key=VENUE_KEY, snapshot_records=0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await matchingserver.run(options, Var(tmp_path))

    asyncio.run(end())


def test_asked_to_end_after_the_last_batch_it_leaves_a_torn_tail_as_it_is(tmp_path: Path) -> None:
    path = write_journal(tmp_path)
    with path.open("ab") as file:
        file.write(b"1.000000: [1] 7 bu")
    before = path.read_bytes()
    starting = Starting("intc", len(before))
    end = list(History(SystemDisk().open(path)))[-1].end_offset

    def reach(offset: int) -> None:
        starting.reach(offset)
        if offset == end:
            starting.abandon()

    with pytest.raises(Abandoned):
        open_journal(SystemDisk(), path, ticker="intc", dice=SystemDice(), reach=reach)
    assert path.read_bytes() == before
    assert not torn_path(path).exists()


def test_asked_to_end_at_once_it_makes_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "intc.log"
    starting = Starting("intc", 0)
    starting.abandon()
    with pytest.raises(Abandoned):
        open_journal(SystemDisk(), path, ticker="intc", dice=SystemDice(), reach=starting.reach)
    assert list(tmp_path.iterdir()) == []


def test_a_recovery_says_how_far_it_is_batch_by_batch() -> None:
    starting = Starting("intc", 400)
    starting.reach(100)
    assert starting.sentence == "intc is being recovered: 25 % of its journal is read"
    starting.reach(401)  # it has grown since
    assert "100 %" in starting.sentence
    starting.abandon()
    with pytest.raises(Abandoned):
        starting.reach(402)


def test_a_journal_that_is_made_has_nothing_to_recover() -> None:
    assert "100 %" in Starting("intc", 0).sentence


def test_opening_a_journal_tells_each_batch_and_what_lies_before_a_snapshot(tmp_path: Path) -> None:
    path = write_journal(tmp_path)
    ends = [batch.end_offset for batch in History(SystemDisk().open(path))]

    def reached() -> list[int]:
        told: list[int] = []
        recovered = open_journal(
            SystemDisk(), path, ticker="intc", dice=SystemDice(), reach=told.append
        )
        recovered.file.close()
        recovered.mark_file.close()
        return told

    assert reached() == [*ends, ends[-1]]
    take_snapshot(SystemDisk(), path)
    assert reached() == [ends[-1], ends[-1]]
