"""When the disk fails, nobody is answered and the server ends with exit code 75."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matching import signing
from matching.config import Var
from matching.exits import ExitCode, Fatal
from matching.groupcommit import DiskFailed
from matching.matchingserver import run as serve_product
from matching.server import Options
from tests.matching.failing_disk import FailingDisk
from tests.matching.serving import VENUE_KEY, Venue, form, serving, until
from tests.waiting import free_port


def run(tmp_path: Path, scenario: Callable[[Venue, FailingDisk], Any], **options: Any) -> None:
    async def main() -> None:
        disk = FailingDisk()
        async with serving(tmp_path, disk=disk, **options) as venue:
            await scenario(venue, disk)

    asyncio.run(main())


def post_request(text: str) -> bytes:
    body = form(text, signing.sign(VENUE_KEY, text)).encode()
    head = (
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("call", ["append", "sync", "write_at"])
@pytest.mark.parametrize("over_websocket", [False, True], ids=["http", "websocket"])
def test_after_a_failed_write_or_sync_nobody_is_answered(
    tmp_path: Path, call: str, over_websocket: bool
) -> None:
    async def scenario(venue: Venue, disk: FailingDisk) -> None:
        session = await venue.log_in(7)
        await session.send("buy 1@49")
        await session.next("update")
        before = venue.server.exchange.feed.snapshot()
        disk.fails = call
        reader, writer = await asyncio.open_connection("127.0.0.1", venue.port)
        if over_websocket:
            session.say(op="send", texts=["buy 1@51", "buy 1@52.001"], req=1)
        else:
            writer.write(post_request(f"8:buy intc 1@50 ts={venue.ts}"))
        response = asyncio.create_task(reader.read())
        with pytest.raises(DiskFailed, match="Input/output error"):
            await venue.server.ended()
        disk.fails = ""
        session.say(op="send", text="buy 1@53", req=2)
        refusal = await session.next("answer", "update")
        assert (refusal["type"], refusal.get("req")) == ("answer", 2)
        assert refusal["error"]["code"] == "not_ready"
        assert disk.failures == 1, "it is never tried again"
        assert venue.server.exchange.feed.snapshot() == before
        assert not response.done(), "the POST has no answer either"
        response.cancel()
        writer.close()
        await writer.wait_closed()

    run(tmp_path, scenario)


def test_with_durability_write_a_failed_sync_ends_the_server_too(tmp_path: Path) -> None:
    async def scenario(venue: Venue, disk: FailingDisk) -> None:
        disk.fails = "sync"
        assert (await venue.order(f"8:buy intc 1@50 ts={venue.ts}")).body == b"1"
        with pytest.raises(DiskFailed):
            await venue.server.ended()
        assert disk.failures == 1

    run(tmp_path, scenario, syncs=False)


def test_what_was_not_answered_may_be_there_or_not_but_what_was_is(tmp_path: Path) -> None:
    async def fails(venue: Venue, disk: FailingDisk) -> None:
        session = await venue.log_in(7)
        await session.send("buy 1@49")
        disk.fails = "append"
        session.say(op="send", text="buy 1@50", req=1)
        with pytest.raises(DiskFailed):
            await venue.server.ended()

    async def recovers(venue: Venue, _: FailingDisk) -> None:
        assert (await venue.query())["bids"] == [["49.00", 1, 1]]
        assert (await (await venue.log_in(7)).send("buy 1@50"))["oid"] == 2

    run(tmp_path, fails)
    run(tmp_path, recovers)


def test_a_bug_in_the_engine_ends_the_server_before_it_acknowledges_anything(
    tmp_path: Path, expected_errors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(venue: Venue, _: FailingDisk) -> None:
        session = await venue.log_in(7)

        def broken(*_: object) -> None:
            raise AssertionError("half done")

        monkeypatch.setattr(venue.server.recovered.engine, "apply", broken)
        session.say(op="send", texts=["buy 1@50"], req=1)
        with pytest.raises(AssertionError, match="half done"):
            await venue.server.ended()
        size = venue.server.recovered.file.size()
        await until(lambda: not venue.server.connections)
        assert venue.server.recovered.file.size() == size

    run(tmp_path, scenario)


@pytest.mark.parametrize("call", ["append", "sync"])
def test_the_process_ends_with_75_and_says_why(
    tmp_path: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()

    async def main() -> None:
        disk = FailingDisk()
        options = Options(ticker="intc", port=port, key=VENUE_KEY)
        serving = asyncio.create_task(serve_product(options, Var(tmp_path), disk=disk))
        await until(lambda: "listening on" in capsys.readouterr().out)
        disk.fails = call
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post_request(f"8:buy intc 1@50 ts={time.time_ns() // 1_000_000}"))
        response = asyncio.create_task(reader.read())
        with pytest.raises(Fatal) as fatal:
            await serving
        assert fatal.value.code == ExitCode.DISK == 75
        assert "intc.log cannot be written: Input/output error" in fatal.value.message
        assert not response.done()
        response.cancel()
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())
