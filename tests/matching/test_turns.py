"""No turn of the loop does more than a full batch does, however much is asked or one command does.

How much is counted, never timed: what is put into JSON, and what is decided, between two turns.
"""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from matching import exchange as exchange_module
from matching import httphandlers, protocol, realtime
from matching import server as server_module
from matching.exchange import Batch
from tests.matching.serving import Socket, Venue, run, until

ORDERS = 600
PIECE = 8
SLICE = 4 * 1024
TURN = 8 * 1024

MOST = 2 * (TURN + SLICE + 2 * 1024)
"""Bytes of JSON between two turns, of thrice as many: a turn's share, to which a slice and a piece
may come; twice, where the rest of one batch is told and the next one settled in the same turn.
"""


class Turns:
    """How much was done in each turn of the loop, from `begin` to `end`."""

    def __init__(self) -> None:
        self.number = 0
        self.done: Counter[int] = Counter()
        self._handle: asyncio.Handle | None = None

    def begin(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self.begin)

    def end(self) -> int:
        """The most that was done in one."""
        assert self._handle is not None
        self._handle.cancel()
        return max(self.done.values())

    def count(self, amount: int) -> None:
        self.done[self.number] += amount


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Counts the bytes of orders, events and levels that are put into JSON, in small slices."""
    found = Turns()

    def counting(function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            found.count(len(json.dumps(result, separators=(",", ":"))) + 1)
            return result

        return counted

    for module, name in (
        (exchange_module, "order_to_dict"),
        (exchange_module, "level_to_json"),
        (protocol, "event_to_dict"),
    ):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    monkeypatch.setattr(exchange_module, "PIECE_ITEMS", PIECE)
    for module in (realtime, httphandlers):
        monkeypatch.setattr(module, "SLICE_BYTES", SLICE)
    monkeypatch.setattr(server_module, "TURN_BYTES", TURN)
    return found


async def with_many_orders(venue: Venue, owner: int) -> Socket:
    socket = await venue.log_in(owner)
    for start in range(0, ORDERS, 50):
        texts = [f"buy 1@{1 + number / 100:.2f}" for number in range(start, start + 50)]
        answer = await socket.ask(op="send", texts=texts)
        assert not [each for each in answer["answers"] if "error" in each]
    return socket


def test_open_orders_are_told_in_slices_as_they_were_at_one_moment(
    tmp_path: Path, turns: Turns
) -> None:
    async def scenario(venue: Venue) -> None:
        trader = await with_many_orders(venue, 7)
        others = [await venue.log_in() for _ in range(3)]
        turns.begin()
        trader.say(op="open", req=1)
        trader.say(op="send", text="del all", req=2)
        for other in others:
            other.say(op="subscribe", channels=["book", "orders"], req=3)
        told = await trader.next("orders", "answer")
        assert (told["type"], len(told["orders"]), told["position"]) == ("orders", ORDERS, 0)
        assert [order["oid"] for order in told["orders"]] == list(range(1, ORDERS + 1))
        assert {order["status"] for order in told["orders"]} == {"open"}
        assert len((await trader.next("answer"))["events"]) == ORDERS
        for other in others:
            seq, known = 0, {}
            while True:
                message = await other.next("orders", "order")
                assert message["seq"] > seq or message["type"] == "order"
                seq = message["seq"]
                if message["type"] == "orders":
                    known = {order["oid"]: order for order in message["orders"]}
                else:
                    assert known.pop(message["order"]["oid"])["status"] == "open"
                    assert message["order"]["status"] == "canceled"
                if not known:
                    break
        assert turns.end() <= MOST

    run(tmp_path, scenario)


def test_the_public_waits_while_an_owner_is_told_and_misses_nothing(
    tmp_path: Path, turns: Turns
) -> None:
    async def scenario(venue: Venue) -> None:
        trader = await with_many_orders(venue, 7)
        other = await venue.log_in(8)
        turns.begin()
        seq = (await trader.ask(op="subscribe", depth=1))["seq"]
        for number in range(20):
            trader.say(op="open", req=number)
            other.say(op="send", text=f"buy 1@{100 + number}.00")
        opens = 0
        best = ""
        while opens < 20 or best != "119.00":
            message = await trader.next("orders", "update")
            if message["type"] == "orders":
                opens += 1
            else:
                assert message["prev"] == seq
                seq = message["seq"]
                best = max((bid[0] for bid in message["bids"] if bid[1]), default=best)
        assert turns.end() <= MOST

    run(tmp_path, scenario)


def test_what_a_request_asks_by_http_comes_in_slices(tmp_path: Path, turns: Turns) -> None:
    async def scenario(venue: Venue) -> None:
        await with_many_orders(venue, 7)
        turns.begin()
        assert len((await venue.query())["bids"]) == ORDERS
        posted = await venue.order(f"7:del intc all ts={venue.ts}", Accept="application/json")
        answer = json.loads(posted.body)
        assert (answer["type"], len(answer["events"])) == ("answer", ORDERS)
        assert (await venue.query())["bids"] == []
        assert turns.end() <= MOST

    run(tmp_path, scenario)


def test_a_stop_waits_for_a_long_answer_by_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "PIECE_ITEMS", 1)
    monkeypatch.setattr(httphandlers, "SLICE_BYTES", 1)

    async def scenario(venue: Venue) -> None:
        (await with_many_orders(venue, 7)).hang_up()
        await until(lambda: not venue.server.connections)
        text = f"7:del intc all ts={venue.ts}"
        asked = asyncio.create_task(venue.order(text, Accept="application/json"))
        await until(lambda: venue.server.long_answers == 1)
        venue.server.stop()
        await venue.server.ended()
        assert venue.server.long_answers == 0
        assert len(json.loads((await asked).body)["events"]) == ORDERS

    run(tmp_path, scenario)


def test_batches_with_nothing_to_write_leave_the_others_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "BATCH_COMMANDS", 4)
    settled = Turns()

    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        commit = venue.server.commit
        settle = commit._on_settled

        def counted(batch: Batch) -> None:
            settled.count(1)
            settle(batch)

        monkeypatch.setattr(commit, "_on_settled", counted)
        settled.begin()
        await socket.ask(op="send", texts=["del 77"] * 40)
        assert settled.done.total() >= 10
        assert settled.end() == 1

    run(tmp_path, scenario)


def test_news_does_not_pile_up_while_orders_come(
    tmp_path: Path, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "BATCH_COMMANDS", 4)
    monkeypatch.setattr(server_module, "TELLING_TURNS", 1)
    monkeypatch.setattr(server_module, "MOST_UNTOLD", 20)
    monkeypatch.setattr(server_module, "TURN_BYTES", 1)  # a connection a turn
    monkeypatch.setattr(realtime, "SLICE_BYTES", 1)  # and of that, a message
    untold: list[int] = []

    async def scenario(venue: Venue) -> None:
        watchers = [await venue.log_in() for _ in range(4)]
        for watcher in watchers:
            await watcher.ask(op="subscribe", channels=["book", "orders"])
        trader = await venue.log_in(7)
        commit = venue.server.commit
        settle = commit._on_settled

        def counted(batch: Batch) -> None:
            untold.append(sum(connection.untold for connection in venue.server.connections))
            settle(batch)

        monkeypatch.setattr(commit, "_on_settled", counted)
        await trader.ask(op="send", texts=["buy 1@50"] * 100)
        assert len(untold) >= 25
        assert max(untold) <= 20 + 1

    run(tmp_path, scenario)
