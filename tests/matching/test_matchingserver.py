"""The server over real sockets: every answer has its form, and what is refused changes nothing."""

import asyncio
import ipaddress
import json
import os
import re
import socket as sockets
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPClientError
from tornado.tcpclient import TCPClient

from matching import fanout, realtime, signing
from matching.httphandlers import BODY_LIMIT
from matching.realtime import ANSWERS_LIMIT, LARGE_FRAME, SMALL_FRAME
from matching.server import Server
from tests.matching.serving import VENUE_KEY, Socket, Venue, form, run, until
from tests.waiting import PATIENCE_SECONDS


def key(owner: int, generation: int = 1) -> str:
    return signing.owner_key(VENUE_KEY, owner, generation)


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    return error


# -- HTTP


def test_an_order_that_comes_as_the_server_stops_is_refused_and_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(venue: Venue) -> None:
        venue.server.is_stopping = True  # as from the signal on until the sockets are closed
        response = await venue.order(f"7:buy intc 1@50 ts={venue.ts}")
        assert (response.code, error_of(response.body)["code"]) == (503, "not_ready")

    run(tmp_path, scenario)
    assert caplog.messages == []


def test_a_posted_order_is_answered_with_its_oid_as_in_2010(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        for text, answer in (
            ("7:buy intc 100@50.25", "1"),
            ("8:sell intc 60@50.25", "2"),
            ("7:del intc 1", "1"),
            ("7:del intc all", "0"),
            ("phase intc halted", "ok"),
        ):
            response = await venue.order(f"{text} ts={venue.ts}")
            assert (response.code, response.body.decode()) == (200, answer)
            assert response.headers["Content-Type"].startswith("text/plain")

    run(tmp_path, scenario)


def test_a_posted_order_is_answered_in_json_for_those_who_accept_it(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        text = f"7:buy intc 100@50.25 ts={venue.ts}"
        response = await venue.order(text, key=key(7), Accept="application/json")
        assert json.loads(response.body) == {
            "type": "answer",
            "seq": 3,
            "oid": 1,
            "status": "open",
            "filled": 0,
            "remaining": 100,
            "events": [{"event": "accepted", "oid": 1}],
        }

    run(tmp_path, scenario)


def test_quote_query_and_time_tell_the_public_state(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        assert (await venue.get("/quote")).body == b"100.00"
        await venue.order(f"7:buy intc 100@50.25 ts={venue.ts}")
        await venue.order(f"8:sell intc 60@50.25 ts={venue.ts}")
        await venue.order(f"8:sell intc 5@52.5/49 ts={venue.ts}")
        await venue.order(f"8:sell intc 5@52.5 ts={venue.ts}")
        assert (await venue.get("/quote")).body == b"50.25"
        query = await venue.query()
        assert re.fullmatch(r"[0-9a-f]{16}", query.pop("lineage"))
        assert query.pop("seq") >= 9
        assert query.pop("rules")["max_quantity"] == "1000000"
        assert query == {
            "ticker": "intc",
            "tick": "0.01",
            "lot": 1,
            "phase": "continuous",
            "last": "50.25",
            "reference": "100.00",
            "bids": [["50.25", 40, 1]],
            "asks": [["52.50", 5, 1]],
        }
        assert abs(int((await venue.get("/time")).body) - venue.ts) < 60_000

    run(tmp_path, scenario)


def test_health_page_and_metrics_answer(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        await venue.order(f"7:buy intc 1@50 ts={venue.ts}")
        await venue.order(f"7:buy intc 1@50.001 ts={venue.ts}")
        assert json.loads((await venue.get("/health/live")).body) == {"live": True}
        assert json.loads((await venue.get("/health/ready")).body)["ready"] is True
        metrics = (await venue.get("/metrics")).body.decode()
        for line in (
            "emte_orders_total 1.0",
            'emte_rejects_total{code="bad_tick"} 1.0',
            "emte_clients 0.0",
            "emte_batch_commands_count 1.0",
            "emte_sync_seconds_count 2.0",
            "emte_seq 4.0",
        ):
            assert line in metrics.splitlines()
        page = await venue.get("/")
        assert b"<h1>intc</h1>" in page.body
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]

    run(tmp_path, scenario)


def test_nothing_is_traded_by_get(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        before = await venue.query()
        text = f"7:buy intc 1@50 ts={venue.ts}"
        fields = form(text, signing.sign(VENUE_KEY, text))
        for path in (f"/?{fields}", f"/query?{fields}", f"/quote?{fields}"):
            assert (await venue.get(path)).code == 200
        assert await venue.state() == {n: v for n, v in before.items() if n != "seq"}
        assert venue.server.exchange.orders == 0

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/query", "POST", 405),
        ("/", "PUT", 405),
        ("/realtime", "GET", 400),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, path: str, method: str, status: int) -> None:
    async def scenario(venue: Venue) -> None:
        reader = await raw(
            venue, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        )
        assert f" {status} " in reader.split("\r\n")[0]

    run(tmp_path, scenario)


async def raw(venue: Venue, request: str) -> str:
    """Send bytes and read the response up to the end of its headers."""
    stream = await TCPClient().connect("127.0.0.1", venue.port)
    try:
        await stream.write(request.encode())
        return (await stream.read_until(b"\r\n\r\n")).decode()
    finally:
        stream.close()


OPEN_ORDERS = ("7:buy intc 100@50.25 id=a1", "8:sell intc 60@52", "9:sell intc 5@52/49")
"""What the book holds when bad input arrives."""

BAD_COMMANDS = [
    # text, key, status, code
    ("7:bye intc 1", 7, 400, "bad_syntax"),
    ("7:buy  intc 1@50", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50 ", 7, 400, "bad_syntax"),
    ("7:buy intc -1@50", 7, 400, "bad_syntax"),
    ("7:buy intc 1e3@50", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50 tif=now", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50 id=a id=b", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50 id=" + "x" * 37, 7, 400, "bad_syntax"),
    ("7:buy intc ١@50", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50\n8:buy intc 1@50", 7, 400, "bad_syntax"),
    ("7:buy intc 1@50 " + "x" * 300, 7, 400, "bad_syntax"),
    ("", 7, 400, "bad_syntax"),
    ("7:buy amd 1@50", 7, 404, "unknown_ticker"),
    ("7:buy intc 1@50", 8, 401, "bad_signature"),
    ("phase intc halted", 7, 401, "bad_signature"),
    ("0:buy intc 1@50", 7, 401, "bad_signature"),
    ("7:buy intc 1@50.255", 7, 422, "bad_tick"),
    ("7:buy intc 1@50/49.999", 7, 422, "bad_tick"),
    ("7:buy intc 0@50", 7, 422, "invalid_order"),
    ("7:buy intc 999999999999@999999999", 7, 422, "invalid_order"),
    ("7:buy intc 1000001@50", 7, 422, "max_quantity"),
    ("7:buy intc 1 post", 7, 422, "invalid_order"),
    ("7:buy intc 1@52 post", 7, 422, "would_take"),
    ("7:buy intc 2@50.25 id=a1", 7, 422, "duplicate_id"),
    ("7:del intc 99", 7, 422, "order_not_found"),
    ("7:del intc id=zz", 7, 422, "order_not_found"),
    ("7:del intc 2", 7, 422, "order_not_found"),
    ("8:del intc id=a1", 8, 422, "order_not_found"),
    ("key intc 7 1", None, 422, "invalid_setting"),
    ("phase intc continuous", None, 422, "invalid_phase"),
]


@pytest.mark.parametrize("over_websocket", [False, True], ids=["http", "websocket"])
def test_a_bad_command_has_its_code_and_sentence_and_changes_nothing(
    tmp_path: Path, over_websocket: bool
) -> None:
    async def scenario(venue: Venue) -> None:
        for text in OPEN_ORDERS:
            await venue.order(f"{text} ts={venue.ts}")
        before = await venue.state()
        journal = venue.server.recovered.file.size()
        socket = await venue.connect()
        for text, owner, status, code in BAD_COMMANDS:
            signed = f"{text} ts={venue.ts}" if text else text
            signing_key = VENUE_KEY if owner is None else key(owner)
            signature = signing._hmac(signing_key, signed)
            if over_websocket:
                error = (await socket.ask(op="send", text=signed, signature=signature))["error"]
            else:
                response = await venue.post(form(signed, signature))
                assert response.code == status, (text, response.body)
                error = error_of(response.body)
            assert error["code"] == code, (text, error)
            assert re.fullmatch(r"[^\n]{8,300}", error["message"]), error
            assert set(error) == {"code", "rule", "message"}
        assert await venue.state() == before
        grown = venue.server.recovered.file.size() - journal
        assert grown < 200, "nothing but a tick was journaled"

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"order": "7:buy intc 1@50", "signature": "{}"}, 400, "bad_syntax"),
        ({"order": "7:buy intc 1@50 ts=1", "signature": "{}"}, 401, "stale_timestamp"),
        ({"order": "7:buy intc 1@50 ts={ts}", "signature": "0" * 64}, 401, "bad_signature"),
        ({"order": "7:buy intc 1@50 ts={ts}", "signature": "é"}, 401, "bad_signature"),
        ({"order": "7:buy intc 1@50 ts={ts}"}, 400, "bad_request"),
        ({"signature": "0" * 64}, 400, "bad_request"),
        ({}, 400, "bad_request"),
        ({"order": "7:buy intc 1@50 ts={ts}", "signature": "{}", "x": "1"}, 400, "bad_request"),
        (
            [
                ("order", "7:buy intc 1@50 ts={ts}"),
                ("order", "7:del intc all"),
                ("signature", "{}"),
            ],
            400,
            "bad_request",
        ),
    ],
)
def test_a_bad_form_has_its_code_and_changes_nothing(
    tmp_path: Path, fields: Any, status: int, code: str
) -> None:
    async def scenario(venue: Venue) -> None:
        pairs = list(fields.items()) if isinstance(fields, dict) else fields
        pairs = [(name, value.replace("{ts}", str(venue.ts))) for name, value in pairs]
        signature = signing.sign(key(7), pairs[0][1]) if ("signature", "{}") in pairs else ""
        body = urlencode([(name, value.replace("{}", signature)) for name, value in pairs])
        before = await venue.state()
        response = await venue.post(body)
        assert (response.code, error_of(response.body)["code"]) == (status, code)
        if code == "stale_timestamp":
            assert abs(error_of(response.body)["server_time"] - venue.ts) < 60_000
        assert await venue.state() == before

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"order=a&signature=\xff", "application/x-www-form-urlencoded"),
        (b"order=a&signature=%FF", "application/x-www-form-urlencoded"),
        (b"order=a&&signature=b", "application/x-www-form-urlencoded"),
        (b"&".join([b"order=a"] * 50), "application/x-www-form-urlencoded"),
        (b'{"order": "a", "signature": "b"}', "application/json"),
        (b"order=a&signature=b", "text/plain"),
    ],
)
def test_a_body_that_is_no_form_is_a_bad_request(
    tmp_path: Path, body: bytes, content_type: str
) -> None:
    async def scenario(venue: Venue) -> None:
        response = await venue.post(body, **{"Content-Type": content_type})
        assert (response.code, error_of(response.body)["code"]) == (400, "bad_request")

    run(tmp_path, scenario)


def test_an_oversized_body_is_too_large(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        for size in (BODY_LIMIT + 1, 3_000_000):
            response = await venue.post(b"order=" + b"x" * size)
            assert (response.code, error_of(response.body)["code"]) == (413, "too_large")
        head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        assert " 400 " in (await raw(venue, head)).split("\r\n")[0]
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).body == b"1"

    run(tmp_path, scenario)


def test_the_same_post_again_gets_the_same_answer(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        text = f"7:buy intc 5@50 ts={venue.ts}"
        responses = await asyncio.gather(*(venue.order(text) for _ in range(5)))
        responses.append(await venue.order(text))
        assert {(response.code, response.body) for response in responses} == {(200, b"1")}
        socket = await venue.connect()
        signature = signing.sign(VENUE_KEY, text)
        answer = await socket.ask(op="send", text=text, signature=signature)
        assert answer["oid"] == 1
        assert (await venue.query())["bids"] == [["50.00", 5, 1]]

    run(tmp_path, scenario)


# -- WebSocket


def test_a_connection_begins_with_hello_and_a_snapshot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.connect()
        hello = socket.hello
        assert re.fullmatch(r"[0-9a-f]{32}", hello.pop("nonce"))
        assert re.fullmatch(r"[0-9a-f]{16}", hello.pop("lineage"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", hello.pop("time"))
        assert hello == {
            "type": "hello",
            "protocol": 1,
            "ticker": "intc",
            "tick": "0.01",
            "lot": 1,
            "reference": "100.00",
            "phase": "continuous",
            "epoch": 1,
        }
        snapshot = await socket.next("snapshot")
        assert (snapshot["seq"], snapshot["bids"], snapshot["last"]) == (2, [], None)
        other = await venue.connect()
        assert other.hello["nonce"] != socket.hello.get("nonce")
        socket.connection.close()
        await until(lambda: len(venue.server.connections) == 1)

    run(tmp_path, scenario)
    printed = capsys.readouterr().out.splitlines()
    assert printed.count("client connected via websocket") == 2
    assert printed.count("client disconnected") == 2


def test_an_answer_goes_out_before_the_update_of_its_batch(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        socket.say(op="send", text="buy 5@50", req=1)
        first = await socket.next("answer", "update")
        second = await socket.next("answer", "update")
        assert [first["type"], second["type"]] == ["answer", "update"]
        assert second["bids"] == [["50.00", 5, 1]]
        assert second["seq"] > first["seq"]

    run(tmp_path, scenario)


def test_a_session_sends_finds_and_lists_its_orders(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        answers = await socket.ask(op="send", texts=["buy 5@50 id=a1", "buy 1@50.001", "sell 2@60"])
        assert [answer.get("oid") for answer in answers["answers"]] == [1, None, 2]
        found = await socket.ask(op="find", id="a1")
        assert found["order"]["oid"] == 1
        assert (await socket.ask(op="find", oid=9))["error"]["code"] == "order_not_found"
        listed = await socket.ask(op="open")
        assert [order["oid"] for order in listed["orders"]] == [1, 2]
        assert re.fullmatch(r"\d{4}-.*Z", (await socket.ask(op="ping"))["time"])
        assert (await socket.send("8:buy 1@50"))["error"]["code"] == "not_owner"

    run(tmp_path, scenario)


def test_subscribing_chooses_channels_and_depth(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        await socket.ask(op="send", texts=["buy 5@50", "buy 5@49"])
        snapshot = await socket.ask(op="subscribe", channels=["book", "orders"], depth=1)
        assert snapshot["bids"] == [["50.00", 5, 1]]
        assert "trades" not in snapshot
        orders = await socket.next("orders")
        assert [order["oid"] for order in orders["orders"]] == [1, 2]
        await venue.order(f"8:sell intc 5@50 ts={venue.ts}")
        messages = [await socket.next("order", "update") for _ in range(2)]
        assert [message["type"] for message in messages] == ["order", "update"]
        assert messages[1]["bids"] == [["49.00", 5, 1], ["50.00", 0, 0]]
        only_orders = await socket.ask(op="subscribe", channels=["orders"])
        assert only_orders["type"] == "orders"
        nothing = await socket.ask(op="subscribe", channels=[])
        assert (nothing["type"], nothing["events"]) == ("answer", [])

    run(tmp_path, scenario)


BAD_FRAMES: list[tuple[str, str]] = [
    ("", "bad_request"),
    ("hello", "bad_request"),
    ("[]", "bad_request"),
    ("{}", "bad_request"),
    ('{"op":"trade","req":4711}', "bad_request"),
    ('{"op":"send","req":4711}', "bad_request"),
    ('{"op":"send","req":4711,"text":5}', "bad_request"),
    ('{"op":"send","req":4711,"texts":[]}', "bad_request"),
    ('{"op":"send","req":4711,"texts":["buy 1@50"],"text":"buy 1@50"}', "bad_request"),
    ('{"op":"send","req":4711,"texts":["buy 1@50"],"signature":"00"}', "bad_request"),
    ('{"op":"send","req":"x","text":"buy 1@50"}', "bad_request"),
    ('{"op":"send","req":4711,"text":"buy 1@50","owner":8}', "bad_request"),
    ('{"op":"send","req":4711,"text":"buy 1@50"}', "bad_signature"),
    ('{"op":"send","req":4711,"text":"buy 1@50","signature":"00"}', "bad_syntax"),
    ('{"op":"login","req":4711,"text":"7:login intc nonce=00 ts=1","signature":""}', "bad_syntax"),
    ('{"op":"login","req":4711}', "bad_request"),
    ('{"op":"find","req":4711,"oid":1}', "bad_signature"),
    ('{"op":"find","req":4711}', "bad_request"),
    ('{"op":"find","req":4711,"oid":1,"id":"a"}', "bad_request"),
    ('{"op":"find","req":4711,"id":"' + "x" * 37 + '"}', "bad_request"),
    ('{"op":"open","req":4711}', "bad_signature"),
    ('{"op":"subscribe","req":4711,"channels":["orders"]}', "bad_signature"),
    ('{"op":"subscribe","req":4711,"channels":["secrets"]}', "bad_request"),
    ('{"op":"subscribe","req":4711,"depth":0}', "bad_request"),
    ('{"op":"subscribe","req":4711,"depth":1e9}', "bad_request"),
    ('{"op":"send","text":"\\ud800"}', "bad_request"),
]


def test_a_bad_frame_has_its_code_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.connect()
        before = await venue.state()
        for frame, code in BAD_FRAMES:
            socket.write(frame)
            answer = await socket.next("answer")
            assert answer["error"]["code"] == code, (frame, answer)
            assert answer["error"]["message"]
            if '"req":4711' in frame:
                assert answer["req"] == 4711, frame
        assert await venue.state() == before

    run(tmp_path, scenario)


def test_a_frame_takes_a_thousand_texts_and_no_more(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        answer = await socket.ask(op="send", texts=["buy 1@50"] * 1000)
        assert [each["oid"] for each in answer["answers"]] == list(range(1, 1001))
        answer = await socket.ask(op="send", texts=["buy 1@50"] * 1001)
        assert answer["error"]["code"] == "bad_request"
        assert (await venue.query())["bids"] == [["50.00", 1000, 1000]]

    run(tmp_path, scenario)


@pytest.mark.parametrize("logged_in", [False, True])
def test_an_oversized_frame_closes_with_1009(tmp_path: Path, logged_in: bool) -> None:
    async def scenario(venue: Venue) -> None:
        limit = LARGE_FRAME if logged_in else SMALL_FRAME
        for frame in (
            '{"op":"ping","req":1}'.ljust(limit),
            " " * limit + " ",
            "é" * (limit // 2 + 1),
        ):
            socket = await (venue.log_in(7) if logged_in else venue.connect())
            socket.write(frame)
            if len(frame.encode()) == limit:
                await socket.next("pong")
            else:
                assert await socket.close_code() == 1009

    run(tmp_path, scenario)


def test_a_frame_far_too_large_is_cut_off(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.connect()
        socket.write("x" * 5_000_000)
        await socket.close_code()
        await until(lambda: not venue.server.connections)
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}")).body == b"1"

    run(tmp_path, scenario)


def test_a_binary_frame_closes_with_1003(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        message = json.dumps({"op": "send", "text": "buy 1@50"}).encode()
        socket.write(message)
        assert await socket.close_code() == 1003
        assert venue.server.exchange.orders == 0

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("https://venue.example", True),
        ("https://evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("https://venue.example.evil", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_pages_of_other_origins_may_not_connect(
    tmp_path: Path, origin: str, accepted: bool
) -> None:
    async def scenario(venue: Venue) -> None:
        if accepted:
            await venue.connect(Origin=origin)
        else:
            with pytest.raises(HTTPClientError) as refused:
                await venue.connect(Origin=origin)
            assert refused.value.code == 403

    run(tmp_path, scenario, origins=("https://venue.example",))


def test_sockets_do_not_delay_small_frames(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        await venue.connect()
        (connection,) = venue.server.connections
        assert connection.ws_connection is not None
        assert connection.ws_connection.stream is not None
        sock = connection.ws_connection.stream.socket
        assert sock.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY)

    run(tmp_path, scenario)


def test_a_lost_connections_cod_orders_are_canceled(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        loses = await venue.log_in(7, cod=True)
        stays = await venue.log_in(8)
        await loses.ask(op="send", texts=["buy 5@50", "buy 5@49"])
        await stays.send("buy 5@48")
        await stays.ask(op="subscribe")
        loses.connection.close()
        update = await stays.next("update")
        assert sorted(update["bids"]) == [["49.00", 0, 0], ["50.00", 0, 0]]

    run(tmp_path, scenario)


def test_raising_a_key_in_the_file_closes_the_owners_sessions(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        seven, eight = await venue.log_in(7), await venue.log_in(8)
        aside = venue.var.root / "key.generations.new"
        aside.write_text("7 2\n")
        aside.rename(venue.var.generations_file)
        assert await seven.close_code() == 4003
        assert "oid" in await eight.send("buy 1@50")
        text = f"7:buy intc 1@50 ts={venue.ts}"
        assert (await venue.order(text, key=key(7))).code == 401
        assert (await venue.order(text, key=key(7, 2))).code == 200

    run(tmp_path, scenario)


def test_a_damaged_generations_file_changes_nothing_and_is_told(
    tmp_path: Path, expected_errors: list[Any]
) -> None:
    async def scenario(venue: Venue) -> None:
        seven = await venue.log_in(7)
        venue.var.generations_file.write_text("seven two\n")
        await until(lambda: expected_errors)
        assert "oid" in await seven.send("buy 1@50")

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("address", "networks", "trusted"),
    [
        ("127.0.0.1", (), True),
        ("127.9.9.9", (), True),
        ("::1", (), True),
        ("::ffff:127.0.0.1", (), True),
        ("10.0.0.5", (), False),
        ("10.0.0.5", ("10.0.0.0/24",), True),
        ("::ffff:10.0.0.5", ("10.0.0.0/24",), True),
        ("10.0.1.5", ("10.0.0.0/24",), False),
        ("", (), False),
    ],
)
def test_the_venue_key_counts_from_loopback_and_where_the_operator_says(
    tmp_path: Path, address: str, networks: tuple[str, ...], trusted: bool
) -> None:
    async def scenario(venue: Venue) -> None:
        assert venue.server.trusts(address) is trusted

    run(tmp_path, scenario, venue_from=tuple(ipaddress.ip_network(each) for each in networks))


def test_the_venue_key_from_elsewhere_is_venue_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "trusts", lambda *_: False)

    async def scenario(venue: Venue) -> None:
        response = await venue.order(f"7:buy intc 1@50 ts={venue.ts}")
        assert (response.code, error_of(response.body)["code"]) == (403, "venue_only")
        assert (await venue.order(f"7:buy intc 1@50 ts={venue.ts}", key=key(7))).code == 200
        socket = await venue.connect()
        text = f"login intc nonce={socket.hello['nonce']} ts={venue.ts}"
        answer = await socket.ask(op="login", text=text, signature=signing.sign(VENUE_KEY, text))
        assert answer["error"]["code"] == "venue_only"

    run(tmp_path, scenario)


def test_a_client_that_does_not_read_is_not_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SILENCE_SECONDS", PATIENCE_SECONDS * 10)

    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        (connection,) = venue.server.connections
        stream = connection.listener._stream
        stream.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
        frames = 400
        texts = ["buy 1@50"] * 100
        for req in range(frames):
            socket.say(op="send", req=req, texts=texts)
        await until(lambda: connection.listener.waiting > fanout.READ_LIMIT)
        await asyncio.sleep(0.2)  # time in which it would read on, if it did
        decided = venue.server.exchange.orders
        assert decided < frames * 100, "it goes on reading from a client that does not read"
        seen = 0
        while seen < frames:
            await socket.next("answer")
            seen += 1
        assert venue.server.exchange.orders == frames * 100

    run(tmp_path, scenario)


def test_a_client_that_does_not_read_its_refusals_is_not_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SILENCE_SECONDS", PATIENCE_SECONDS * 10)

    async def scenario(venue: Venue) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", venue.port)
        writer.write(
            b"GET /realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        await until(lambda: venue.server.connections)
        (connection,) = venue.server.connections
        masked = b"\x81\x83\0\0\0\0" + b"{{{"
        writer.write(masked * 400_000)
        rejects = venue.server.exchange.rejects
        await until(lambda: connection.listener.waiting > fanout.READ_LIMIT)
        refused = rejects["bad_request"]
        await asyncio.sleep(0.2)  # time in which it would read on, if it did
        assert rejects["bad_request"] == refused < 400_000
        assert connection.listener.waiting < 2 * fanout.READ_LIMIT
        writer.transport.abort()

    run(tmp_path, scenario)


def test_a_client_with_too_many_unanswered_texts_is_not_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        (connection,) = venue.server.connections
        frames = 20
        with monkeypatch.context() as disk_that_hangs:
            disk_that_hangs.setattr(venue.server.commit, "schedule", lambda: None)
            for req in range(frames):
                socket.say(op="send", req=req, texts=["buy 1@50"] * 1_000)
            await until(lambda: connection._unanswered > ANSWERS_LIMIT)
            await asyncio.sleep(0.2)  # time in which it would read on, if it did
            assert connection._unanswered <= ANSWERS_LIMIT + 1_000
        venue.server.commit.schedule()
        for req in range(frames):
            assert (await socket.next("answer"))["req"] == req
        assert venue.server.exchange.orders == frames * 1_000

    run(tmp_path, scenario)


def test_a_silent_peer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(venue: Venue) -> None:
        await venue.connect()
        (connection,) = venue.server.connections
        heard = connection._last_heard
        connection.ping_or_close(heard + realtime.SILENCE_SECONDS - 1)
        await until(lambda: connection._last_heard > heard)
        connection.ping_or_close(connection._last_heard + realtime.SILENCE_SECONDS)
        await until(lambda: not venue.server.connections)

    run(tmp_path, scenario)


def test_an_idle_journal_is_sealed_with_a_tick(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        await venue.order(f"7:buy intc 1@50 ts={venue.ts}")
        path = venue.var.journal_file("intc")
        await until(lambda: ": tick " in path.read_text())
        assert path.read_text().count(": tick ") == 1

    run(tmp_path, scenario)


@pytest.mark.parametrize("syncs", [True, False], ids=["fsync", "write"])
def test_a_clean_stop_answers_what_it_took_and_closes_with_1001(
    tmp_path: Path, syncs: bool
) -> None:
    stopped: list[Socket] = []

    async def scenario(venue: Venue) -> None:
        socket = await venue.log_in(7)
        socket.say(op="send", texts=["buy 1@50"] * 600, req=1)
        await until(lambda: venue.server.exchange.orders >= 512)
        venue.server.stop()
        answer = await socket.next("answer")
        assert len(answer["answers"]) == 600
        assert await socket.close_code() == 1001
        stopped.append(socket)

    run(tmp_path, scenario, syncs=syncs)
    assert stopped
    mark = (tmp_path / "journal" / "intc.durable").read_text().split()
    assert int(mark[1]) == os.path.getsize(tmp_path / "journal" / "intc.log")


def test_with_durability_write_the_mark_follows_the_sync(tmp_path: Path) -> None:
    async def scenario(venue: Venue) -> None:
        await venue.order(f"7:buy intc 1@50 ts={venue.ts}")
        path, mark = venue.var.journal_file("intc"), tmp_path / "journal" / "intc.durable"
        assert int(mark.read_text().split()[1]) < os.path.getsize(path)
        await until(lambda: int(mark.read_text().split()[1]) == os.path.getsize(path))

    run(tmp_path, scenario, syncs=False)
