"""The dead man's switches: an owner's orders go unless the owner says so again in time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from matching.deadman import DeadMen
from tests.matching.serving import Venue, run, until


def test_a_switch_that_is_not_set_again_runs_out_once() -> None:
    async def scenario() -> None:
        expired: list[int] = []
        switches = DeadMen(expired.append)
        switches.arm(7, 1)
        switches.arm(8, 3600)
        await until(lambda: expired)
        assert expired == [7]
        switches.disarm_all()

    asyncio.run(scenario())


def test_a_switch_that_is_set_again_begins_anew_and_0_disarms_it() -> None:
    async def scenario() -> None:
        expired: list[int] = []
        switches = DeadMen(expired.append)
        for owner in (7, 8):
            switches.arm(owner, 1)
        switches.arm(7, 3600)
        switches.arm(8, 0)
        switches.arm(9, 1)  # set last, so when it has run out the others would have too
        await until(lambda: expired)
        assert expired == [9]
        switches.disarm_all()

    asyncio.run(scenario())


def test_the_switch_cancels_after_the_connection_that_set_it_is_gone(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        trader = await venue.log_in(7)
        await trader.send("buy 5@50")
        answer = await trader.ask(op="cancel_after", seconds=1)
        assert (answer["type"], answer["owner"], answer["seconds"]) == ("cancel_after", 7, 1)
        trader.hang_up()
        await until(lambda: venue.server.exchange.query().to_dict()["bids"] == [])
        journal = venue.var.journal_file("intc").read_text()
        assert "[0] 7 del all why=dead_man " in journal

    run(tmp_path, scenario)


@pytest.mark.parametrize("seconds", [-1, 86_401, 1.5, "30", None])
def test_a_switch_takes_whole_seconds_up_to_a_day(tmp_path: Path, seconds: Any) -> None:
    async def scenario(venue: Venue) -> None:
        answer = await (await venue.log_in(7)).ask(op="cancel_after", seconds=seconds)
        assert answer["error"]["code"] == "bad_request"

    run(tmp_path, scenario)
