"""The client against a real matching server, and against servers that break the protocol."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from matching import config, protocol, signing
from matching.client import (
    Answer,
    Away,
    Backoff,
    BlockingClient,
    Client,
    Refused,
    ServerClock,
    Unanswered,
    post_order,
    query,
    quote,
)
from tests.processes import ROOT, Process
from tests.waiting import PATIENCE_SECONDS, free_port


class Venue:
    """A matching server of `intc` that can be stopped and started again on its port."""

    def __init__(self, var: Path) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}/realtime"
        self.http = f"http://127.0.0.1:{self.port}"
        self._var = var
        self.start()
        self.key = config.load_venue_key(config.Var(var))

    def start(self) -> None:
        self.server = Process(
            "-m", "matching.matchingserver", "-p", str(self.port), "-t", "intc", var=self._var
        )
        self.server.wait_for_line("listening on")

    def client(self, **options: Any) -> Client:
        return Client(self.url, **{"ticker": "intc", "key": self.key, **options})


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    venue = Venue(tmp_path / "var")
    yield venue
    venue.server.end()


def _run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 2 * PATIENCE_SECONDS))


async def _until(condition: Callable[[], object], what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_SECONDS
    while not condition():
        assert loop.time() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.005)


def _oids(answers: list[Answer]) -> list[int]:
    return [answer["oid"] for answer in answers]


# -- what a caller gets


def test_a_text_is_signed_before_a_login_and_implied_after_it(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        answer = await client.send("7:buy intc 100@50.25 id=a1")
        assert (answer["oid"], answer["status"]) == (1, "open")
        assert await client.login() == {"type": "login", "owner": None, "venue": True}
        answer = await client.send("8:sell 60@50.25")
        assert (answer["oid"], answer["status"], answer["filled"]) == (2, "filled", 60)
        await client.close()

    _run(scenario())


def test_an_owners_session_speaks_for_its_owner(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client(key=signing.owner_key(venue.key, 7), owner=7)
        await client.connect()
        assert (await client.login())["owner"] == 7
        await client.send("buy 5@50")
        found = await client.find(oid=1)
        assert found["order"]["price"] == "50.00"
        with pytest.raises(Refused) as refused:
            await client.send("8:buy 5@50")
        assert refused.value.code == "not_owner"
        await client.close()

    _run(scenario())


def test_a_command_is_sent_like_its_text(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        order = protocol.parse("7:buy intc 100@50.25 id=a1")
        assert (await client.send(order))["oid"] == 1
        await client.login()
        assert (await client.send("7:buy 100@50.25 id=a1"))["events"] == [
            {"event": "duplicate", "oid": 1}
        ]
        assert (await client.send_many([order]))[0]["oid"] == 1
        await client.close()

    _run(scenario())


def test_a_refusal_has_its_code_rule_and_sentence(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        await client.login()
        with pytest.raises(Refused) as refused:
            await client.send("7:del 99")
        assert (refused.value.code, refused.value.rule) == ("order_not_found", "R13")
        assert "99" in refused.value.message
        with pytest.raises(Refused) as refused:
            await client.send("7:buy 1@50.001")
        assert refused.value.code == "bad_tick"
        await client.close()

    _run(scenario())


def test_many_texts_have_their_answers_in_order_and_stand_alone(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        await client.login()
        answers = await client.send_many(["7:buy 1@50", "7:buy 1@50.001", "7:buy 1@49"])
        assert [answer.get("oid") for answer in answers] == [1, None, 2]
        assert answers[1]["error"]["code"] == "bad_tick"
        await client.close()

    _run(scenario())


def test_answers_find_their_requests_whatever_their_number(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        await client.login()
        sends = [client.send(f"7:buy 1@{price}") for price in range(10, 60)]
        prices = {
            answer["oid"]: 10 + index for index, answer in enumerate(await asyncio.gather(*sends))
        }
        orders = (await client.open_orders(owner=7))["orders"]
        assert {order["oid"]: float(order["price"]) for order in orders} == prices
        assert (await client.ping())["type"] == "pong"
        await client.close()

    _run(scenario())


def test_what_is_not_found_tells_up_to_where_the_server_looked(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        await client.login()
        sent = await client.send("7:buy 1@50 id=a1")
        assert (await client.find(client_id="a1", owner=7))["order"]["oid"] == sent["oid"]
        with pytest.raises(Refused) as refused:
            await client.find(client_id="a2", owner=7)
        assert refused.value.code == "order_not_found"
        assert refused.value.answer["seq"] >= sent["seq"]
        await client.close()

    _run(scenario())


def test_a_lost_connection_leaves_what_was_sent_unanswered(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        await client.login()
        os.kill(venue.server.pid, signal.SIGSTOP)
        sends = [asyncio.ensure_future(client.send(f"7:buy {n}@50")) for n in (1, 2)]
        await asyncio.sleep(0)
        os.kill(venue.server.pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unanswered, Unanswered]
        assert not client.is_connected
        with pytest.raises(Away):
            await client.send("7:buy 3@50")
        await client.close()

    _run(scenario())


def test_ones_own_close_leaves_what_was_sent_unanswered(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        os.kill(venue.server.pid, signal.SIGSTOP)
        sending = asyncio.ensure_future(client.send("7:buy intc 1@50"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(Unanswered):
            await sending

    _run(scenario())


def test_a_caller_who_stops_waiting_disturbs_nobody(venue: Venue) -> None:
    async def scenario() -> None:
        messages: list[Answer] = []
        client = venue.client(on_message=messages.append)
        await client.connect()
        await client.login()
        sending = asyncio.ensure_future(client.send("7:buy 1@50"))
        await asyncio.sleep(0)
        sending.cancel()
        assert (await client.send("7:buy 2@50"))["oid"] == 2
        await client.close()

    _run(scenario())


def test_without_a_server_nothing_is_sent(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        requests = (client.send("7:buy intc 1@50"), client.send_many([]), client.login())
        for request in (*requests, client.send("7:buy 1@50"), client.ping()):
            with pytest.raises(Away):
                await request
        nobody = Client(f"ws://127.0.0.1:{free_port()}/realtime", ticker="intc")
        with pytest.raises(Away, match="connection refused"):
            await nobody.connect()
        with pytest.raises(Away, match="trades intc, not gs"):
            await Client(venue.url, ticker="gs").connect()
        with pytest.raises(Away, match="404"):
            await Client(venue.url + "/nowhere", ticker="intc").connect()

    _run(scenario())


def test_without_a_key_one_only_watches(venue: Venue) -> None:
    async def scenario() -> None:
        messages: list[Answer] = []
        client = venue.client(key=None, on_message=messages.append)
        await client.connect()
        with pytest.raises(ValueError, match="key"):
            await client.send("7:buy intc 1@50")
        with pytest.raises(ValueError, match="key"):
            await client.login()
        await _until(lambda: messages, "the snapshot")
        await client.close()

    _run(scenario())


def test_a_wrong_key_is_refused(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client(key="0" * 64)
        await client.connect()
        with pytest.raises(Refused) as refused:
            await client.login()
        assert refused.value.code == "bad_signature"
        assert not client.is_logged_in
        with pytest.raises(Refused):
            await client.follow()

    _run(scenario())


def test_orders_sent_with_cod_end_with_the_connection(venue: Venue) -> None:
    async def scenario() -> None:
        client, other = venue.client(owner=7, cod=True), venue.client()
        for each in (client, other):
            await each.connect()
            await each.login()
        await client.send("buy 1@50 id=a1")
        await client.close()
        while (await other.find(client_id="a1", owner=7))["order"]["status"] != "canceled":
            await asyncio.sleep(0.01)
        await other.close()

    _run(scenario())


def test_a_dead_mans_switch_outlives_the_client(venue: Venue) -> None:
    async def scenario() -> None:
        client, other = venue.client(owner=7), venue.client()
        for each in (client, other):
            await each.connect()
            await each.login()
        await client.send("buy 1@50 id=dead1")
        assert (await client.cancel_after(1))["seconds"] == 1
        await client.close()
        while (await other.find(client_id="dead1", owner=7))["order"]["status"] != "canceled":
            await asyncio.sleep(0.01)
        await other.close()

    _run(scenario())


def test_small_frames_leave_at_once(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        assert client._connection is not None
        assert client._connection.protocol is not None
        stream = client._connection.protocol.stream.socket
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        await client.close()

    _run(scenario())


# -- the clock


def test_the_hello_sets_the_clock(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        client.clock.offset_ms = 3_600_000
        await client.connect()
        assert abs(client.clock.offset_ms) < 60_000
        await client.close()

    _run(scenario())


def test_a_stale_timestamp_is_learned_from_and_tried_once_more(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        client.clock.offset_ms = 3_600_000
        assert (await client.send("7:buy intc 1@50"))["oid"] == 1
        assert abs(client.clock.offset_ms) < 60_000
        client.clock.offset_ms = -3_600_000
        await client.login()
        assert abs(client.clock.offset_ms) < 60_000
        await client.close()

    _run(scenario())


def test_whoever_writes_the_timestamp_a_stale_one_sets_the_clock(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        for log_in in (False, True):
            if log_in:
                await client.login()
            client.clock.offset_ms = 3_600_000  # somebody has put our clock back by an hour
            with pytest.raises(Refused, match="stale_timestamp"):
                await client.send(f"7:buy intc 1@50 ts={client.clock.now_ms()}")
            assert abs(client.clock.offset_ms) < 60_000
            await client.send(f"7:buy intc 1@50 ts={client.clock.now_ms()}")
        await client.close()

    _run(scenario())


def test_a_text_with_its_own_timestamp_is_sent_as_it_is(venue: Venue) -> None:
    async def scenario() -> None:
        client = venue.client()
        await client.connect()
        for text in ("7:buy intc 1@50 ts=1", "7:buy intc 1@50 ts=2 id=a1"):
            with pytest.raises(Refused) as refused:
                await client.send(text)
            assert refused.value.code == "stale_timestamp"
        answer = await client.send(f"7:buy intc 1@50 ts={client.clock.now_ms()}")
        assert answer["oid"] == 1
        await client.close()

    _run(scenario())


# -- the feed


def test_the_feed_brings_snapshot_updates_and_heartbeats(venue: Venue) -> None:
    async def scenario() -> None:
        messages: list[Answer] = []
        client = venue.client(on_message=messages.append)
        await client.connect()
        await client.send("7:buy intc 10@50")
        await _until(lambda: {"heartbeat"} <= {m["type"] for m in messages}, "a heartbeat")
        assert [message["type"] for message in messages[:2]] == ["snapshot", "update"]
        assert messages[1]["bids"] == [["50.00", 10, 1]]
        await client.close()

    _run(scenario())


@pytest.mark.parametrize("channels", [["book", "trades", "orders"], ["orders"]])
def test_what_a_subscription_begins_with_comes_to_the_feed(
    venue: Venue, channels: list[str]
) -> None:
    async def scenario() -> None:
        messages: list[Answer] = []
        watcher, trader = venue.client(on_message=messages.append), venue.client()
        for client in (watcher, trader):
            await client.connect()
            await client.login()
        await trader.send("7:buy 10@50")
        await watcher.subscribe(channels)
        await _until(lambda: any(m["type"] == "orders" for m in messages), "the open orders")
        await trader.send("8:sell 4@50")
        await _until(
            lambda: {m["order"]["owner"] for m in messages if m["type"] == "order"} == {7, 8},
            "what happened to everybody's orders",
        )
        for client in (watcher, trader):
            await client.close()

    _run(scenario())


def test_the_answer_to_a_question_is_not_part_of_the_feed(venue: Venue) -> None:
    async def scenario() -> None:
        messages: list[Answer] = []
        client = venue.client(on_message=messages.append)
        await client.connect()
        await client.login()
        await client.open_orders(owner=7)
        await client.ping()
        assert {message["type"] for message in messages} <= {"snapshot", "heartbeat"}
        await client.close()

    _run(scenario())


# -- coming back


def test_a_follower_comes_back_when_the_server_does(venue: Venue) -> None:
    async def scenario() -> None:
        log: list[str] = []
        client = venue.client(on_message=lambda message: log.append(message["type"]))
        following = asyncio.ensure_future(
            client.follow(
                channels=("book", "trades", "orders"),
                on_live=lambda: log.append("live"),
                on_away=lambda reason: log.append("away"),
            )
        )
        await _until(lambda: "live" in log, "the server")
        await client.send("7:buy 10@50")
        venue.server.kill()
        await _until(lambda: "away" in log, "the end of the server")
        with pytest.raises(Away):
            await client.send("7:buy 11@50")
        log.clear()
        venue.start()
        await _until(lambda: "live" in log, "the server's return")
        assert log.count("away") == 0
        assert {"snapshot", "orders"} <= set(log)
        assert client.is_logged_in
        assert (await client.send("7:buy 12@50"))["oid"] == 2
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert not client.is_connected

    _run(scenario())


def test_a_follower_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        log: list[str] = []
        client = Client(f"ws://127.0.0.1:{free_port()}/realtime", ticker="intc")
        following = asyncio.ensure_future(client.follow(on_away=log.append))
        await _until(lambda: log, "the reason")
        await asyncio.sleep(0.5)  # several tries, of which one is told
        assert len(log) == 1
        assert "connection refused" in log[0]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    _run(scenario())


def test_waits_grow_to_a_bound_and_begin_anew_after_success() -> None:
    backoff = Backoff(first_seconds=1, longest_seconds=5)
    for bound in (1, 2, 4, 5, 5):
        assert bound / 2 <= backoff.next_seconds() <= bound
    backoff.reset()
    assert backoff.next_seconds() <= 1
    spread = {Backoff(first_seconds=1, longest_seconds=5).next_seconds() for _ in range(10)}
    assert len(spread) > 1


@contextmanager
def _server(conversation: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that holds one conversation with each client; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    conversation(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def _answer_like_another(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def _refuse_deeply(connection: socket.socket) -> None:
    connection.recv(65536)
    body = b"[" * 100_000
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode("ascii") + body)


@pytest.mark.parametrize("conversation", [_hang_up, _answer_like_another, _refuse_deeply])
def test_a_post_without_a_proper_answer_is_unanswered(
    conversation: Callable[[socket.socket], None],
) -> None:
    async def scenario(port: int) -> None:
        with pytest.raises(Unanswered):
            await post_order(f"http://127.0.0.1:{port}/", "7:buy intc 1@50", "0" * 64)
        for question in (quote, query):
            with pytest.raises(Away):
                await question(f"http://127.0.0.1:{port}/")
        with pytest.raises(Away):
            await Client(f"ws://127.0.0.1:{port}/realtime", ticker="intc").connect()

    with _server(conversation) as port:
        _run(scenario(port))


# -- HTTP


def test_an_order_is_posted_as_in_2010(venue: Venue) -> None:
    async def scenario() -> None:
        answer = await post_order(f"{venue.http}/", "7:buy intc 100@50.25", venue.key)
        assert (answer["oid"], answer["status"]) == (1, "open")
        key_of_8 = signing.owner_key(venue.key, 8)
        answer = await post_order(f"{venue.http}/", "8:sell intc 100@50.25", key_of_8)
        assert (answer["oid"], answer["status"]) == (2, "filled")
        assert await quote(f"{venue.http}/quote") == 502_500
        assert (await query(f"{venue.http}/query"))["last"] == "50.25"

    _run(scenario())


def test_a_post_is_refused_with_code_and_sentence(venue: Venue) -> None:
    async def scenario() -> None:
        for text, key, code in (
            ("7:buy intc 0@50", venue.key, "invalid_order"),
            ("7:buy intc 1@50", "0" * 64, "bad_signature"),
            ("7:buy gs 1@50", venue.key, "unknown_ticker"),
            ("7:buy intc 1@50 ts=1", venue.key, "stale_timestamp"),
        ):
            with pytest.raises(Refused) as refused:
                await post_order(f"{venue.http}/", text, key)
            assert refused.value.code == code

    _run(scenario())


def test_a_post_learns_the_servers_clock(venue: Venue) -> None:
    async def scenario() -> None:
        clock = ServerClock()
        clock.offset_ms = 3_600_000
        assert (await post_order(f"{venue.http}/", "7:buy intc 1@50", venue.key, clock=clock))[
            "oid"
        ] == 1
        assert abs(clock.offset_ms) < 60_000

    _run(scenario())


def test_a_post_to_nobody_is_away() -> None:
    async def scenario() -> None:
        url = f"http://127.0.0.1:{free_port()}/"
        with pytest.raises(Away, match="connection refused"):
            await post_order(url, "7:buy intc 1@50", "0" * 64)
        with pytest.raises(Away, match="connection refused"):
            await quote(url)

    _run(scenario())


def test_what_is_no_command_is_never_signed(venue: Venue) -> None:
    async def scenario() -> None:
        with pytest.raises(protocol.BadSyntax):
            await post_order(f"{venue.http}/", "owner:7:1", venue.key)

    _run(scenario())


# -- scripts


def test_the_blocking_client_works_inside_a_running_loop(venue: Venue) -> None:
    messages: list[Answer] = []

    async def scenario() -> None:
        with BlockingClient(
            venue.url, ticker="intc", key=venue.key, on_message=messages.append
        ) as client:
            assert client.hello is not None
            assert client.hello["ticker"] == "intc"
            assert _oids(client.send_many(["7:buy 1@50 id=a1", "8:buy 1@51"])) == [1, 2]
            assert client.send("7:sell 1@51")["status"] == "filled"
            assert client.find(client_id="a1", owner=7)["order"]["oid"] == 1
            assert len(client.open_orders(owner=7)["orders"]) == 1
            assert client.subscribe(["trades"])["trades"][0]["price"] == "51.00"
            assert client.ping()["type"] == "pong"
            with pytest.raises(Refused):
                client.send("7:del 99")
        client.close()

    _run(scenario())
    assert messages[0]["type"] == "snapshot"
    assert not any(thread.name == "client of intc" for thread in threading.enumerate())


def test_a_blocking_client_that_cannot_begin_leaves_no_thread(venue: Venue) -> None:
    with (
        pytest.raises(Refused),
        BlockingClient(venue.url, ticker="intc", key="0" * 64),
    ):
        pass
    assert not any(thread.name == "client of intc" for thread in threading.enumerate())


def test_the_client_can_be_imported_where_servers_cannot_run() -> None:
    """Windows has neither fcntl nor fdatasync; bots run there."""
    program = (
        "import os, sys\n"
        "sys.modules['fcntl'] = None\n"
        "del os.fdatasync\n"
        "import matching.client, matching.protocol, matching.signing\n"
        "import robot.robot_trader, robot.strategy\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_cancel_is_heeded_whenever_it_comes(venue: Venue) -> None:
    """Who stops while its server goes away would wait for ever, for a follower that goes on."""

    async def cancel_after(turns: int) -> bool:
        client = Client(venue.url, ticker="intc")
        await client.connect()
        client._on_gone()
        connecting = asyncio.create_task(client.connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        is_heeded = connecting.cancelled()
        await client.close()
        return is_heeded

    async def cancel_early() -> list[bool]:
        return [await cancel_after(turns) for turns in range(1, 6)]

    assert asyncio.run(cancel_early()) == [True] * 5
