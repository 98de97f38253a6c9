"""What lets a server down without stopping it: it goes on as it can, and an operator is told.

Space on the journal's disk, the clock, and the file of what was refused.
"""

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest

from matching import groupcommit, server, signing
from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING
from tests.matching.failing_disk import FailingDisk, FailingFile
from tests.matching.serving import VENUE_KEY, Venue, run, until

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupcommit, "SPACE_SECONDS", 0.01)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.01)


async def health(venue: Venue) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((await venue.get("/health/ready")).body)
    return state


async def metric(venue: Venue, name: str) -> float:
    text = (await venue.get("/metrics")).body.decode()
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert match is not None, text
    return float(match[1])


def alarms(venue: Venue) -> list[str]:
    return venue.server.alarms.sentences


def told(caplog: pytest.LogCaptureFixture, words: str, level: int = logging.WARNING) -> int:
    """How often the log has said so."""
    return sum(
        record.levelno == level and words in record.getMessage() for record in caplog.records
    )


def test_a_server_short_of_space_says_so_and_takes_orders_again_when_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "matchingserver")
    disk = FailingDisk(free=SPACE_FOR_ORDERS)

    async def scenario(venue: Venue) -> None:
        assert (await health(venue))["alarms"] == []
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).code == 200
        disk.free = SPACE_FOR_ORDERS - 1
        await until(lambda: alarms(venue))
        refused = await venue.order(f"7:buy intc 2@50 ts={venue.ts}")
        assert (refused.code, refused.headers["Retry-After"]) == (503, "1")
        assert json.loads(refused.body)["error"]["code"] == "no_space"
        state = await health(venue)
        assert (state["ready"], state["free_bytes"]) == (True, SPACE_FOR_ORDERS - 1)
        (sentence,) = state["alarms"]
        assert sentence == (
            "255 MiB are free on the journal's file system, under 256:"
            " new orders are refused (no_space), cancels work"
        )
        assert await metric(venue, "emte_free_bytes") == SPACE_FOR_ORDERS - 1
        assert await metric(venue, "emte_alarms") == 1
        disk.free = 200 * MIB
        await until(lambda: alarms(venue)[0].startswith("200 MiB"))
        assert (await venue.order(f"7:del intc 1 ts={venue.ts}")).body == b"1"
        disk.free = SPACE_FOR_ORDERS
        await until(lambda: not alarms(venue))
        assert (await venue.order(f"7:buy intc 3@50 ts={venue.ts}")).body == b"2"

    run(tmp_path, scenario, disk=disk)
    assert told(caplog, "new orders are refused") == 1, "not once for each figure"
    assert told(caplog, "over: 200 MiB are free", logging.INFO) == 1


def test_with_next_to_no_space_the_market_halts_by_itself_and_everybody_sees_it(
    tmp_path: Path,
) -> None:
    disk = FailingDisk(free=SPACE_FOR_TRADING)

    async def scenario(venue: Venue) -> None:
        watcher = await venue.log_in()
        disk.free = SPACE_FOR_TRADING - 1
        while "phase" not in (update := await watcher.next("update")):
            pass
        assert update["phase"] == "halted"
        assert "phase halted why=no_space s=" in journal(tmp_path)
        await until(lambda: len(alarms(venue)) == 2)
        assert "63 MiB" in alarms(venue)[1]
        assert "the market is halted until a manager resumes it" in alarms(venue)[1]
        disk.free = SPACE_FOR_ORDERS
        await until(lambda: not alarms(venue))
        assert (await venue.query())["phase"] == "halted"
        assert "error" not in await watcher.send("phase intc continuous")
        assert (await watcher.send("7:buy 1@50"))["oid"] == 1

    run(tmp_path, scenario, disk=disk)


def test_a_server_that_starts_without_space_is_halted_before_it_serves(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        assert (await venue.query())["phase"] == "halted"
        assert len((await health(venue))["alarms"]) == 2

    run(tmp_path, scenario, disk=FailingDisk(free=0))


def test_how_much_is_free_is_not_asked_in_the_way_of_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(groupcommit, "SPACE_SECONDS", 60.0)
    monkeypatch.setattr(FailingFile, "free", lambda file: asked.append(file) or SPACE_FOR_ORDERS)

    async def scenario(venue: Venue) -> None:
        session = await venue.log_in(7)
        for _ in range(20):
            await session.send("buy 1@50")
        assert len(asked) == 1, "at the start"

    run(tmp_path, scenario, disk=FailingDisk())


def journal(folder: Path) -> str:
    return (folder / "journal" / "intc.log").read_text()


# -- the clock


@pytest.mark.parametrize(
    ("microseconds", "words"),
    [(-2_000_000, "the clock went back by 2."), (3_600_000_000, "the clock leapt by 3600.")],
)
def test_a_clock_that_was_put_is_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    microseconds: int,
    words: str,
) -> None:
    put = [0]
    now = time.time_ns
    monkeypatch.setattr("matching.disk.time.time_ns", lambda: now() + put[0] * 1_000)

    async def scenario(venue: Venue) -> None:
        assert await metric(venue, "emte_clock_jumps_total") == 0
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).code == 200
        put[0] = microseconds
        await until(lambda: venue.server.clock_watch.jumps)
        sentences = (await health(venue))["alarms"]
        assert any(sentence.startswith(words[:-3]) for sentence in sentences)
        assert await metric(venue, "emte_clock_jumps_total") == 1
        ahead = await metric(venue, "emte_seconds_ahead")
        assert (ahead > 0) == (microseconds < 0)
        assert venue.server.exchange.now() >= venue.server.recovered.journal.time

    run(tmp_path, scenario)
    assert told(caplog, words[:-3]) == 1


def test_a_clock_that_is_behind_the_journal_at_the_start_is_told_until_it_has_caught_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns
    put = [60]
    monkeypatch.setattr("matching.disk.time.time_ns", lambda: now() + put[0] * 1_000_000_000)

    async def first(venue: Venue) -> None:
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).code == 200
        assert (await health(venue))["alarms"] == []

    async def second(venue: Venue) -> None:
        (sentence,) = (await health(venue))["alarms"]
        assert re.fullmatch(r"the clock is \d+ s behind the journal's time, which .*", sentence)
        put[0] = 60
        await until(lambda: "behind" not in " ".join(alarms(venue)))

    run(tmp_path, first)
    put[0] = 0
    run(tmp_path, second)
    assert told(caplog, "behind the journal's time") == 1


# -- what was refused


REJECTED = re.compile(r"(\d+\.\d{6}): rejected (\d+) ([a-z_]+) (.*) s=(\d+) x=[0-9a-f]{8}")


def test_what_is_refused_stands_beside_the_journal_without_secrets(tmp_path: Path) -> None:
    key = signing.owner_key(VENUE_KEY, 7)

    async def scenario(venue: Venue) -> None:
        await venue.order(f"7:buy intc 1@50 ts={venue.ts}", key=key)
        await venue.order(f"7:buy intc 1@50.001 ts={venue.ts}", key=key)
        session = await venue.log_in(7)
        login = f"7:login intc nonce={session.hello['nonce']} ts=1"
        await session.send(login)
        await session.send(f"buy {signing.sign(key, '7:buy intc 1@50 ts=1')}")
        await session.ask(op="send", texts=["buy 1@50", "sell 1@70.001"])

    run(tmp_path, scenario)
    text = (tmp_path / "journal" / "intc.rejected").read_text()
    matches = [REJECTED.fullmatch(line) for line in text.splitlines()]
    found = [match.group(2, 3, 4) for match in matches if match is not None]
    assert [(owner, code) for owner, code, _ in found] == [
        ("7", "bad_tick"),
        ("7", "bad_request"),
        ("7", "bad_syntax"),
        ("7", "bad_tick"),
    ]
    assert found[0][2].startswith("7:buy intc 1@50.001 ts=")
    assert [text for *_, text in found[1:]] == [
        "7:login intc *** ts=1",
        "buy ***",
        "sell 1@70.001",
    ]
    assert re.search("[0-9a-f]{16}", text) is None


def test_a_rejected_file_that_cannot_be_written_slows_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(venue: Venue) -> None:
        (tmp_path / "journal" / "intc.rejected").mkdir()
        session = await venue.log_in(7)
        for _ in range(3):
            assert (await session.send("buy 1@50.001"))["error"]["code"] == "bad_tick"
            await until(lambda: alarms(venue))
        assert alarms(venue)[0].endswith(
            "intc.rejected cannot be written: Is a directory; trading goes on"
        )
        assert (await session.send("buy 1@50"))["oid"] == 1
        await until(lambda: venue.server.rejected.left_out == 3)
        assert await metric(venue, "emte_rejects_left_out_total") == 3

    run(tmp_path, scenario)
    assert told(caplog, "intc.rejected cannot be written") == 1


def test_the_last_of_the_space_is_the_journals(tmp_path: Path) -> None:
    disk = FailingDisk(free=SPACE_FOR_TRADING)

    async def scenario(venue: Venue) -> None:
        session = await venue.log_in(7)
        await session.send("buy 1@50")
        disk.free = SPACE_FOR_TRADING - 1
        await until(lambda: len(alarms(venue)) == 2)
        await session.send("buy 2@50")

    run(tmp_path, scenario, disk=disk)
    rejected = (tmp_path / "journal" / "intc.rejected").read_text()
    assert "no_space buy 1@50 s=" in rejected
    assert "buy 2@50" not in rejected
