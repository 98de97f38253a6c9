"""One product over a disk in memory: nothing leaves before it is durable; each gets theirs."""

import gc
import json
import re
import weakref
from typing import Any

import pytest

from matching import exchange as exchange_module
from matching import signing
from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING, Batch, Close
from matching.order import Phase
from tests.matching.trading_floor import VENUE_KEY, Floor, Person

# -- durable first


def test_nothing_leaves_before_its_batch_is_durable() -> None:
    floor = Floor()
    trader, venue = floor.trader(7), floor.venue(orders=True)
    trader.send("buy 100@50.25 id=a1", req=1)
    trader.send("buy 100@50.255", req=2)
    trader.send("buy 100@50.25 id=a1", req=3)
    floor.exchange.find(trader.session, req=4, client_id="a1")
    floor.exchange.open_orders(trader.session, req=5)
    batch = floor.exchange.take_batch()
    floor.store(batch)
    assert trader.told == venue.told == []
    assert floor.query()["bids"] == []
    floor.finish(batch)
    assert [message["req"] for message in trader.take()] == [1, 2, 3, 4, 5]
    assert [message["type"] for message in venue.take()] == ["order"]
    assert floor.query()["bids"] == [["50.25", 100, 1]]


def test_a_reject_waits_for_the_batch_in_which_it_was_decided() -> None:
    floor = Floor()
    maker, other = floor.trader(7), floor.trader(8)
    maker.send("sell 5@50")
    first = floor.exchange.take_batch()
    other.send("buy 1@50.001", req=1)
    assert not floor.exchange.take_batch().data, "a reject is not journaled"
    assert other.told == []
    floor.store(first)


def test_commands_that_do_much_end_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BATCH_EVENTS", 20)
    monkeypatch.setattr(exchange_module, "TOLD_PER_EVENT", 1)
    floor = Floor()
    trader = floor.trader(7)
    for _ in range(15):
        floor.ask(trader, "buy 1@50")
    exchange = floor.exchange
    for req in range(1, 4):  # each tells 15 orders: a batch has room for two
        exchange.open_orders(trader.session, req=req)
    trader.send("del all", req=4)  # 15 events
    trader.send("buy 1@50", req=5)
    batches = []
    while exchange.has_work:
        trader.take()
        batch = exchange.take_batch()
        floor.store(batch)
        floor.finish(batch)
        batches.append([message["req"] for message in trader.take()])
    assert batches == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_a_long_message_has_the_same_json_in_pieces(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(exchange_module, "PIECE_ITEMS", 2)
    floor = Floor()
    trader, venue = floor.trader(7, orders=True), floor.venue(orders=True)
    messages: list[Any] = [floor.exchange.query()]
    trader.deliver = venue.deliver = messages.append  # type: ignore[method-assign]
    for number in range(count):
        venue.send(f"7:buy intc 1@5{number}")
    floor.commit()
    messages.append(floor.exchange.query())
    for person in (trader, venue):
        floor.exchange.open_orders(person.session, req=1)
    floor.exchange.send_many(trader.session, ["buy 1@40", "del all", "del 9999"], req=2)
    floor.commit()
    for message in messages:
        pieces = list(message.pieces())
        assert json.loads(b"".join(pieces)) == json.loads(json.dumps(message.to_dict()))
    changes = count + 1 + count + 1  # as the venue's session is told of what the trader did
    assert len(messages) == 1 + count + 1 + 2 + 1 + changes


def test_the_many_orders_of_a_lost_connection_keep_nobody_from_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    floor = Floor()
    lost, trader = floor.trader(7, cod=True), floor.trader(8)
    for _ in range(40):
        floor.ask(lost, "buy 1@50")
    monkeypatch.setattr(exchange_module, "BATCH_COMMANDS", 8)
    monkeypatch.setattr(exchange_module, "QUEUE_LIMIT", 10)
    floor.exchange.close_session(lost.session)
    trader.send("buy 1@49", req=1)
    told, batches = [], 0
    while not told:
        batch = floor.exchange.take_batch()
        floor.store(batch)
        floor.finish(batch)
        batches += 1
        told = trader.take()
    assert [(answer["req"], answer.get("error")) for answer in told] == [(1, None)]
    assert batches == 6, "8 cancels in each, and the order after them"
    assert floor.query()["bids"] == [["49.00", 1, 1]]


def test_what_arrives_during_a_sync_goes_out_with_the_next_batch() -> None:
    floor = Floor()
    trader = floor.trader(7)
    trader.send("buy 1@50", req=1)
    first = floor.exchange.take_batch()
    for req in range(2, 12):
        trader.send("buy 1@50", req=req)
    floor.store(first)
    floor.finish(first)
    assert [message["req"] for message in trader.take()] == [1]
    second = floor.exchange.take_batch()
    assert second.commands == 10
    floor.store(second)
    floor.finish(second)
    assert [message["req"] for message in trader.take()] == list(range(2, 12))
    assert not floor.exchange.has_work


def test_a_batch_has_at_most_512_commands_and_answers_keep_their_order() -> None:
    floor = Floor()
    trader = floor.trader(7)
    floor.exchange.send_many(trader.session, ["buy 1@50"] * 1000, req=1)
    trader.send("del all", req=2)
    sizes = []
    while floor.exchange.has_work:
        batch = floor.exchange.take_batch()
        sizes.append(batch.commands)
        floor.store(batch)
        if sizes != [512, 489]:
            assert trader.told == [], "one answer, after the last text's batch"
        floor.finish(batch)
    assert sizes == [512, 489]
    many, all_gone = trader.take()
    assert [answer["oid"] for answer in many["answers"]] == list(range(1, 1001))
    assert len(all_gone["events"]) == 1000


def test_each_text_of_a_frame_stands_alone() -> None:
    floor = Floor()
    trader = floor.trader(7)
    texts = ["buy 1@50", "8:buy 1@50", "buy", "buy 1@50.005", "sell 1@50 stp=none"]
    floor.exchange.send_many(trader.session, texts, req=1)
    floor.commit()
    (answer,) = trader.take()
    codes = [each.get("error", {}).get("code") for each in answer["answers"]]
    assert codes == [None, "not_owner", "bad_syntax", "bad_tick", None]
    assert answer["answers"][4]["status"] == "filled"


def test_after_a_failed_sync_nobody_is_answered_and_nothing_was_shown() -> None:
    floor = Floor()
    trader = floor.trader(7)
    floor.ask(trader, "buy 5@49")
    before = floor.state()
    trader.send("buy 7@50")
    batch = floor.exchange.take_batch()
    floor.disk.fail_sync = True
    with pytest.raises(OSError, match="input/output"):
        floor.store(batch)
    assert trader.take() == []
    assert floor.state() == before
    floor.disk.power_cut(lose_everything=True)
    floor.open()
    assert floor.state() == before


def test_the_mark_follows_the_sync() -> None:
    floor = Floor()
    trader = floor.trader(7)
    trader.send("buy 5@49")
    batch = floor.exchange.take_batch()
    mark = floor.disk.content(floor.disk.paths()[0])
    batch.write(floor.recovered.file)
    assert floor.disk.content(floor.disk.paths()[0]) == mark
    batch.sync(floor.recovered.file, floor.recovered.mark_file)
    assert floor.disk.content(floor.disk.paths()[0]) == batch.mark != mark


# -- answers


def test_an_answers_seq_is_the_record_of_its_command() -> None:
    floor = Floor()
    trader, other = floor.trader(7), floor.trader(8)
    floor.ask(other, "sell 5@50")
    answer = floor.ask(trader, "buy 9@50 id=x1")
    (line,) = [line for line in floor.journal_lines() if " id=x1 " in line]
    assert f" s={answer['seq']} " in line
    assert answer["status"] == "partially_filled"
    assert (answer["oid"], answer["filled"], answer["remaining"]) == (2, 5, 4)
    assert [event["event"] for event in answer["events"]] == ["accepted", "trade"]
    assert "seq" not in floor.ask(trader, "buy 1@50.005")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("buy 5@49", {"oid": 3, "status": "open", "filled": 0, "remaining": 5}),
        ("buy 5@49/51", {"oid": 3, "status": "pending_stop", "filled": 0, "remaining": 5}),
        ("buy 3", {"oid": 3, "status": "filled", "filled": 3, "remaining": 0}),
        ("buy 9", {"oid": 3, "status": "canceled", "filled": 5, "remaining": 0}),
        ("buy 9@50 tif=fok", {"oid": 3, "status": "canceled", "filled": 0, "remaining": 0}),
        ("sell 9@49 tif=ioc", {"oid": 3, "status": "canceled", "filled": 0, "remaining": 0}),
        ("del 1", {"oid": 1, "status": "canceled", "filled": 0, "remaining": 0}),
        ("del id=mine", {"oid": 1, "status": "canceled", "filled": 0, "remaining": 0}),
    ],
)
def test_an_answer_tells_the_state_of_its_order(text: str, expected: dict[str, Any]) -> None:
    floor = Floor()
    trader, other = floor.trader(7), floor.trader(8)
    floor.ask(trader, "buy 2@40 id=mine")
    floor.ask(other, "sell 5@50")
    answer = floor.ask(trader, text)
    assert {name: answer[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7:buy intc 1@50", "2"),
        ("7:del intc 1", "1"),
        ("7:del intc all", "1"),
        ("8:del intc all", "0"),
        ("phase intc halted", "ok"),
        ("key intc 7 2", "ok"),
    ],
)
def test_an_answer_as_text_is_that_of_2010(text: str, expected: str) -> None:
    floor = Floor()
    venue = floor.venue()
    floor.ask(venue, "7:buy intc 1@40")
    venue.send(text)
    floor.commit()
    assert venue.answers[-1].to_text() == expected


def test_stale_timestamps_are_told_the_servers_time() -> None:
    floor = Floor()
    person = floor.stranger()
    person.submit("7:buy intc 1@50 ts=1")
    floor.commit()
    (answer,) = person.take()
    assert answer["error"]["code"] == "stale_timestamp"
    assert answer["error"]["server_time"] == floor.ts


def test_the_clock_never_goes_back() -> None:
    floor = Floor()
    trader = floor.trader(7)
    floor.clock.microseconds += 3_000_000
    floor.ask(trader, "buy 1@50")
    floor.clock.microseconds -= 60_000_000
    floor.ask(trader, "buy 1@50")
    times = [line.split(": ")[0] for line in floor.journal_lines() if "] 7 buy" in line]
    assert len(set(times)) == 1
    text = f"7:buy intc 1@50 ts={floor.ts}"
    trader.submit(text)
    floor.commit()
    assert trader.take()[0]["error"]["code"] == "stale_timestamp"


# -- repeats


def test_the_same_signed_bytes_get_the_same_answer_and_do_nothing() -> None:
    floor = Floor()
    first, second = floor.stranger(), floor.stranger()
    text = f"7:buy intc 5@50 ts={floor.ts}"
    first.submit(text)
    floor.commit()
    (answer,) = first.take()
    before, lines = floor.state(), len(floor.journal_lines())
    second.submit(text)
    floor.commit()
    assert second.take() == [answer]
    assert floor.state() == before
    assert len(floor.journal_lines()) == lines


def test_a_repeat_that_comes_before_the_first_is_durable_waits_for_it() -> None:
    floor = Floor()
    first, second, third = floor.stranger(), floor.stranger(), floor.stranger()
    text = f"7:buy intc 5@50 ts={floor.ts}"
    first.submit(text)
    second.submit(text)
    batch = floor.exchange.take_batch()
    third.submit(text)
    floor.store(batch)
    assert first.told == second.told == third.told == []
    floor.finish(batch)
    floor.commit()
    assert len(first.told) == 1
    assert first.told == second.told == third.told


def test_a_refused_commands_repeat_is_refused_again_even_if_it_could_pass_now() -> None:
    floor = Floor()
    person, venue = floor.stranger(), floor.venue()
    floor.ask(venue, "phase intc halted")
    text = f"7:buy intc 5@50 ts={floor.ts}"
    person.submit(text)
    floor.commit()
    floor.ask(venue, "phase intc continuous")
    person.submit(text)
    floor.commit()
    codes = [message["error"]["code"] for message in person.take()]
    assert codes == ["market_halted", "market_halted"]


@pytest.mark.parametrize("key_owner", [None, 7])
def test_after_a_restart_the_same_signed_bytes_are_a_duplicate(key_owner: int | None) -> None:
    floor = Floor()
    person = floor.stranger()
    key = VENUE_KEY if key_owner is None else signing.owner_key(VENUE_KEY, key_owner)
    text = f"7:buy intc 5@50 ts={floor.ts}"
    signature = signing.sign(key, text)
    person.submit(text, signature)
    floor.commit()
    (answer,) = person.take()
    floor.restart()
    before = floor.state()
    again = floor.stranger()
    again.submit(text, signature)
    floor.commit()
    (repeated,) = again.take()
    assert repeated["events"] == [{"event": "duplicate", "oid": 1}]
    assert [repeated[name] for name in ("oid", "status", "filled", "remaining", "seq")] == [
        answer[name] for name in ("oid", "status", "filled", "remaining", "seq")
    ]
    assert floor.state() == before


def test_a_cancel_is_not_repeated_after_a_restart_either() -> None:
    floor = Floor()
    venue = floor.venue()
    floor.ask(venue, "7:buy intc 5@50")
    for text in (f"7:del intc 1 ts={floor.ts}", f"7:del intc all ts={floor.ts}"):
        venue.submit(text)
        floor.commit()
        floor.restart()
        venue = floor.venue()
        lines = len(floor.journal_lines())
        venue.submit(text)
        floor.commit()
        (answer,) = venue.take()
        assert [event["event"] for event in answer["events"]] == ["duplicate"]
        assert len(floor.journal_lines()) == lines


def test_signatures_are_forgotten_when_their_timestamp_cannot_pass_any_more() -> None:
    floor = Floor()
    person = floor.stranger()
    text = f"7:buy intc 5@50 ts={floor.ts + 5_000}"
    for wait_seconds, code in ((0, None), (9, None), (2, "stale_timestamp")):
        floor.clock.microseconds += wait_seconds * 1_000_000
        person.submit(text)
        floor.commit()
        (answer,) = person.take()
        assert answer.get("error", {}).get("code") == code
    assert floor.query()["bids"] == [["50.00", 5, 1]]


def test_what_has_ended_takes_no_memory() -> None:
    """Orders that ended, and signatures whose timestamp cannot pass any more."""
    floor = Floor()
    person, seven, eight = floor.stranger(), floor.trader(7), floor.trader(8)
    exchange = floor.exchange
    person.submit(f"7:buy intc 5@50 ts={floor.ts}")
    floor.commit()
    floor.ask(eight, "sell 5@50")
    floor.ask(seven, "buy 5@49")
    floor.ask(seven, "del all")
    floor.ask(seven, "buy 1@48 tif=ioc")
    stays = floor.ask(seven, "buy 5@47")
    assert list(exchange._open) == [stays["oid"]]
    floor.clock.microseconds += 11_000_000
    person.submit(f"7:buy intc 5@46 ts={floor.ts}")
    floor.commit()
    assert len(exchange._seen._answers) == len(exchange._seen._arrivals) == 1


def test_a_clock_that_goes_back_after_a_reject_stops_nobody() -> None:
    """The engine has seen the reject's time, though the journal has not."""
    floor = Floor()
    trader = floor.trader(7)
    floor.clock.microseconds += 3_600_000_000
    assert floor.ask(trader, "buy 0@50")["error"]["code"] == "invalid_order"
    floor.clock.microseconds -= 3_600_000_000
    assert floor.ask(trader, "buy 5@50")["oid"] == 1


def test_an_id_makes_a_resend_safe_across_a_restart() -> None:
    floor = Floor()
    trader = floor.trader(7)
    answer = floor.ask(trader, "buy 5@50 id=a1")
    floor.restart()
    again = floor.ask(floor.trader(7), "buy 5@50 id=a1")
    assert again["events"] == [{"event": "duplicate", "oid": 1}]
    assert (again["oid"], again["status"]) == (answer["oid"], "open")
    other = floor.ask(floor.trader(7), "buy 6@50 id=a1")
    assert other["error"]["code"] == "duplicate_id"


# -- who is told what


def kinds(person: Person) -> list[tuple[int, str]]:
    """(oid, event) of the `order` messages since the last take."""
    return [
        (message["order"]["oid"], message["event"]["event"])
        for message in person.take()
        if message["type"] == "order"
    ]


def test_the_sender_is_told_by_its_answer_only_all_others_by_order_messages() -> None:
    floor = Floor()
    maker, maker_elsewhere = floor.trader(7, orders=True), floor.trader(7, orders=True)
    taker, silent = floor.trader(8, orders=True), floor.trader(7)
    stranger_owner = floor.trader(9, orders=True)
    floor.ask(maker, "sell 5@50")
    assert kinds(maker) == []
    assert kinds(maker_elsewhere) == [(1, "accepted")]
    floor.ask(taker, "buy 3@50")
    assert kinds(maker) == kinds(maker_elsewhere) == [(1, "trade")]
    assert kinds(taker) == []
    floor.ask(maker, "del 1")
    assert kinds(maker_elsewhere) == [(1, "canceled")]
    assert kinds(silent) == kinds(stranger_owner) == []


def test_an_order_message_tells_the_order_and_never_another_owner() -> None:
    floor = Floor()
    maker, taker = floor.trader(7, orders=True), floor.trader(8)
    floor.ask(maker, "sell 5@50 id=b7 tif=day stp=both post")
    answer = floor.ask(taker, "buy 3@51")
    (message,) = maker.take()
    assert message["type"] == "order"
    assert message["seq"] == answer["seq"] + 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", message["time"])
    assert message["event"] == {
        "event": "trade",
        "tid": 1,
        "price": "50.00",
        "quantity": 3,
        "buy": 2,
        "sell": 1,
        "taker": "buy",
    }
    assert message["order"] == {
        "oid": 1,
        "id": "b7",
        "side": "sell",
        "price": "50.00",
        "stop": None,
        "tif": "day",
        "stp": "both",
        "post": True,
        "peak": 0,
        "quantity": 5,
        "filled": 3,
        "remaining": 2,
        "status": "partially_filled",
    }


def test_a_venue_session_is_told_every_owners_changes_but_those_its_answer_tells() -> None:
    floor = Floor()
    sender, watcher = floor.venue(orders=True), floor.venue(orders=True)
    floor.ask(sender, "7:sell intc 5@50")
    assert kinds(sender) == []
    assert kinds(watcher) == [(1, "accepted")]
    floor.ask(sender, "8:buy intc 5@50")
    assert kinds(sender) == [(1, "trade")], "the order of another than the commanding owner"
    (accepted, bought, sold) = watcher.take()
    assert [each["order"]["owner"] for each in (accepted, bought, sold)] == [8, 8, 7]
    assert [each["order"]["status"] for each in (bought, sold)] == ["filled", "filled"]
    person = floor.stranger()
    person.submit(f"9:buy intc 1@40 ts={floor.ts}")
    floor.commit()
    assert kinds(sender) == kinds(watcher) == [(3, "accepted")]


def test_an_owner_session_sees_the_events_of_its_own_orders_only() -> None:
    floor = Floor()
    alice, bob, carol = floor.trader(7), floor.trader(8, orders=True), floor.trader(9)
    floor.ask(carol, "sell 1@50")
    floor.ask(carol, "sell 5@51")
    floor.ask(bob, "buy 9@51/50")
    answer = floor.ask(alice, "buy 1@50")
    assert [event["event"] for event in answer["events"]] == ["accepted", "trade"]
    assert [event for _, event in kinds(bob)] == ["triggered", "trade"]
    venue_answer = floor.ask(floor.venue(), "phase intc halted")
    assert venue_answer["events"] == [{"event": "phase", "phase": "halted"}]


def test_the_venue_sees_every_event_its_command_caused() -> None:
    floor = Floor()
    venue = floor.venue()
    for text in ("9:sell intc 1@50", "9:sell intc 5@51", "8:buy intc 9@51/50"):
        floor.ask(venue, text)
    events = floor.ask(venue, "7:buy intc 1@50")["events"]
    assert [each["event"] for each in events] == ["accepted", "trade", "triggered", "trade"]


def test_subscribing_to_orders_begins_with_the_open_ones() -> None:
    floor = Floor()
    trader = floor.trader(7)
    floor.ask(trader, "buy 5@50")
    floor.ask(trader, "sell 5@60/40")
    floor.ask(floor.trader(8), "sell 2@50")
    floor.exchange.subscribe_orders(trader.session, req=3, wanted=True)
    floor.commit()
    (message,) = trader.take()
    assert (message["type"], message["req"], message["position"]) == ("orders", 3, 2)
    shown = [(each["oid"], each["status"]) for each in message["orders"]]
    assert shown == [(1, "partially_filled"), (2, "pending_stop")]
    floor.ask(floor.trader(8), "sell 3@50")
    assert kinds(trader) == [(1, "trade")]
    floor.exchange.subscribe_orders(trader.session, req=4, wanted=False)
    floor.ask(floor.venue(), "7:del intc 2")
    (answer,) = trader.take()
    assert (answer["type"], answer["req"], answer["events"]) == ("answer", 4, [])


def test_strangers_are_told_of_no_orders() -> None:
    floor = Floor()
    person = floor.stranger()
    floor.exchange.subscribe_orders(person.session, req=1, wanted=True)
    floor.exchange.find(person.session, req=2, oid=1)
    floor.exchange.open_orders(person.session, req=3)
    floor.commit()
    codes = [(message["req"], message["error"]["code"]) for message in person.take()]
    assert codes == [(1, "bad_signature"), (2, "bad_signature"), (3, "bad_signature")]


def test_of_a_stranger_who_was_refused_and_has_left_nothing_is_kept() -> None:
    floor = Floor()
    person = floor.stranger()
    floor.exchange.find(person.session, req=1, oid=1)
    floor.exchange.open_orders(person.session, req=2)
    floor.exchange.close_session(person.session)
    floor.commit()
    assert len(person.take()) == 2
    gone = weakref.ref(person)
    del person
    gc.collect()
    assert gone() is None


def test_find_tells_of_ones_own_orders_also_finished_ones_and_says_up_to_where_it_looked() -> None:
    floor = Floor()
    trader, venue = floor.trader(7), floor.venue()
    floor.ask(trader, "buy 5@50 id=a1")
    seq = floor.ask(trader, "del 1")["seq"]

    def find(person: Person, **named: Any) -> dict[str, Any]:
        floor.exchange.find(person.session, req=1, **named)
        floor.commit()
        (message,) = person.take()
        return message

    found = find(trader, client_id="a1")
    assert (found["type"], found["order"]["status"]) == ("found", "canceled")
    assert found["seq"] >= seq
    assert "owner" not in found["order"]
    assert find(venue, oid=1)["order"]["owner"] == 7
    assert find(venue, client_id="a1", owner=7)["order"]["oid"] == 1
    missing: list[tuple[Person, dict[str, Any]]] = [
        (trader, {"client_id": "a2"}),
        (trader, {"oid": 9}),
        (floor.trader(8), {"oid": 1}),
        (floor.trader(8), {"client_id": "a1"}),
        (venue, {"client_id": "a1"}),
        (venue, {"oid": 1, "owner": 8}),
    ]
    for person, named in missing:
        message = find(person, **named)
        assert (message["type"], message["error"]["code"]) == ("found", "order_not_found")
        assert message["seq"] == found["seq"]
    assert find(floor.trader(8), oid=1, owner=7)["error"]["code"] == "not_owner"


# -- sessions end


def test_cancel_on_disconnect_cancels_what_is_open_when_the_connection_goes() -> None:
    floor = Floor()
    loses, stays = floor.trader(7, cod=True), floor.trader(7)
    floor.ask(loses, "buy 5@50")
    floor.ask(loses, "buy 5@49 id=x")
    floor.ask(loses, "sell 5@70/40")
    floor.ask(stays, "buy 5@48")
    floor.ask(floor.trader(8), "sell 5@50")
    loses.send("buy 1@47")
    floor.exchange.close_session(loses.session)
    floor.commit()
    assert floor.query()["bids"] == [["48.00", 5, 1]]
    lost = [line for line in floor.journal_lines() if " why=disconnect " in line]
    assert [re.findall(r"\[(\d+)\] 7 del", line)[0] for line in lost] == ["2", "3", "6"]
    floor.exchange.close_session(loses.session)
    assert floor.exchange.take_batch().data == b""


def test_an_order_that_was_there_before_is_not_the_cod_sessions_that_sends_it_again() -> None:
    """R14: a duplicate changes nothing, so it is not canceled with the session either."""
    floor = Floor()
    floor.ask(floor.trader(7), "buy 5@50 id=x")
    again = floor.trader(7, cod=True)
    assert floor.ask(again, "buy 5@50 id=x")["events"] == [{"event": "duplicate", "oid": 1}]
    floor.exchange.close_session(again.session)
    floor.commit()
    assert floor.query()["bids"] == [["50.00", 5, 1]]


def test_a_dead_mans_switch_is_set_by_whoever_speaks_for_the_owner() -> None:
    floor = Floor()
    armed: list[tuple[int, int]] = []

    def cancel_after(person: Person, **named: int) -> dict[str, Any]:
        floor.exchange.cancel_after(
            person.session, 30, req=6, arm=lambda *switch: armed.append(switch), **named
        )
        floor.commit()
        return person.take()[-1]

    told = cancel_after(floor.trader(7))
    assert told == {"type": "cancel_after", "req": 6, "owner": 7, "seconds": 30}
    cancel_after(floor.venue(), owner=8)
    assert armed == [(7, 30), (8, 30)]
    refused: list[tuple[Person, dict[str, int], str]] = [
        (floor.stranger(), {}, "bad_signature"),
        (floor.trader(7), {"owner": 8}, "not_owner"),
        (floor.venue(), {}, "bad_request"),
    ]
    for person, named, code in refused:
        assert cancel_after(person, **named)["error"]["code"] == code
    assert armed == [(7, 30), (8, 30)]


def test_a_dead_mans_orders_are_canceled_and_nobody_elses() -> None:
    floor = Floor()
    watcher = floor.trader(7, orders=True)
    for text in ("7:buy intc 5@50", "8:buy intc 5@49", "7:sell intc 5@70/40"):
        floor.ask(floor.venue(), text)
    watcher.take()
    floor.exchange.cancel_for_dead_man(7)
    floor.commit()
    assert floor.query()["bids"] == [["49.00", 5, 1]]
    assert any("[0] 7 del all why=dead_man " in line for line in floor.journal_lines())
    canceled = [message["event"] for message in watcher.take()]
    assert [(event["oid"], event["reason"]) for event in canceled] == [
        (1, "dead_man"),
        (3, "dead_man"),
    ]
    floor.exchange.cancel_for_dead_man(7)
    assert floor.exchange.take_batch().data == b"", "with nothing open, nothing is journaled"


def test_after_a_crash_recovery_cancels_what_lost_connections_had_left() -> None:
    floor = Floor()
    floor.ask(floor.trader(7, cod=True), "buy 5@50")
    floor.ask(floor.trader(7), "buy 5@49")
    floor.restart()
    assert floor.query()["bids"] == [["49.00", 5, 1]]
    epoch = next(n for n, line in enumerate(floor.journal_lines()) if ": epoch 2 " in line)
    assert " why=disconnect " in floor.journal_lines()[epoch + 1]


def test_raising_a_key_closes_the_owners_sessions_and_only_those() -> None:
    floor = Floor()
    seven, eight, venue = floor.trader(7), floor.trader(8), floor.venue()
    answer = floor.ask(venue, "key intc 7 2")
    assert answer["events"] == [{"event": "key", "owner": 7, "generation": 2}]
    assert seven.closed == Close(4003, "the key was raised")
    assert eight.closed is None
    assert floor.ask(seven, "buy 1@50")["error"]["code"] == "bad_signature"
    text = f"7:buy intc 1@50 ts={floor.ts}"
    seven.submit(text, signing.sign(signing.owner_key(VENUE_KEY, 7), text))
    seven.submit(text, signing.sign(signing.owner_key(VENUE_KEY, 7, 2), text))
    floor.commit()
    old, new = seven.take()
    assert old["error"]["code"] == "bad_signature"
    assert new["oid"] == 1
    assert floor.ask(venue, "key intc 7 2")["error"]["code"] == "invalid_setting"
    floor.restart()
    again = floor.stranger()
    text = f"7:sell intc 1@60 ts={floor.ts}"
    again.submit(text, signing.sign(signing.owner_key(VENUE_KEY, 7), text))
    floor.commit()
    assert again.take()[0]["error"]["code"] == "bad_signature"


def test_a_session_whose_key_was_raised_is_told_nothing_more() -> None:
    """Not even while its closing handshake lasts."""
    floor = Floor()
    seven, venue = floor.trader(7), floor.venue()
    floor.exchange.subscribe_orders(seven.session, req=1, wanted=True)
    floor.ask(venue, "7:buy 5@50")
    assert [message["type"] for message in seven.take()] == ["orders", "order"]
    floor.ask(venue, "key intc 7 2")
    floor.ask(venue, "7:buy 5@49")
    assert seven.take() == []


def test_of_file_and_journal_the_higher_generation_counts() -> None:
    floor = Floor()
    seven, eight, venue = floor.trader(7), floor.trader(8), floor.venue()
    floor.exchange.set_generations({7: 3})
    floor.commit()
    assert seven.closed is not None
    assert eight.closed is None
    floor.ask(venue, "key intc 8 5")
    floor.exchange.set_generations({7: 2, 8: 4})
    floor.commit()
    text = f"7:buy intc 1@50 ts={floor.ts}"
    for owner, generation, code in ((7, 2, "bad_signature"), (7, 3, None)):
        key = signing.owner_key(VENUE_KEY, owner, generation)
        venue.submit(text, signing.sign(key, text))
        floor.commit()
        assert venue.take()[0].get("error", {}).get("code") == code


# -- starts, seals, limits


def test_each_start_has_its_epoch_and_only_a_new_journal_begins_in_the_phase_asked_for() -> None:
    floor = Floor(phase=Phase.CLOSED)
    assert floor.query()["phase"] == "closed"
    assert re.search(r": epoch 1 s=1 b=1 ", floor.journal_lines()[1])
    assert re.search(r": \[0\] 0 phase closed s=2 b=1 ", floor.journal_lines()[2])
    floor.ask(floor.venue(), "phase intc continuous")
    floor.restart()
    assert floor.exchange.epoch == 2
    assert floor.query()["phase"] == "continuous"


def test_an_idle_journal_is_sealed_once() -> None:
    floor = Floor()
    for _ in range(2):
        floor.ask(floor.trader(7), "buy 1@50")
        assert not floor.exchange.is_sealed
        lines = len(floor.journal_lines())
        for _ in range(3):
            floor.exchange.seal()
            floor.commit()
        assert len(floor.journal_lines()) == lines + 2, "a tick and its commit"
        assert ": tick " in floor.journal_lines()[-2]
        assert floor.exchange.is_sealed


def test_a_recovered_exchange_shows_the_same_market() -> None:
    floor = Floor()
    for text in ("7:buy intc 5@50", "8:sell intc 2@50", "8:sell intc 9@55", "9:sell intc 1@40/30"):
        floor.ask(floor.venue(), text)
    before = floor.state()
    assert (before["last"], before["bids"], before["asks"]) == (
        "50.00",
        [["50.00", 3, 1]],
        [["55.00", 9, 1]],
    )
    trades = list(floor.exchange.feed.trades)
    assert [trade["tid"] for trade in trades] == [1]
    floor.restart()
    assert floor.state() == before
    assert floor.exchange.quote() == 500_000
    assert list(floor.exchange.feed.trades) == trades


def test_after_a_restart_the_last_fifty_trades_are_shown_as_before() -> None:
    floor = Floor()
    venue = floor.venue()
    floor.ask(venue, "9:sell intc 20@51")
    floor.ask(venue, "8:buy intc 9@51/50")
    for _ in range(60):
        floor.ask(venue, "9:sell intc 1@50")
        floor.ask(venue, "7:buy intc 1@50")
    trades = list(floor.exchange.feed.trades)
    assert [trade["tid"] for trade in trades] == list(range(12, 62))
    floor.restart()
    assert list(floor.exchange.feed.trades) == trades


def test_too_many_waiting_commands_are_answered_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_LIMIT", 10)
    floor = Floor()
    trader, stranger = floor.trader(7), floor.stranger()
    for req in range(512 + 12):
        trader.send("buy 1@50", req=req)
    stranger.submit(f"7:buy intc 1@50 ts={floor.ts}")
    floor.exchange.send_many(trader.session, ["buy 1@50"] * 2, req=999)
    floor.commit()
    told = trader.take()
    busy = [message["req"] for message in told if "error" in message]
    assert sorted(busy) == [522, 523]
    assert all(message["error"]["code"] == "busy" for message in told if "error" in message)
    (many,) = [message for message in told if message["req"] == 999]
    assert [each["error"]["code"] for each in many["answers"]] == ["busy", "busy"]
    assert stranger.take()[0]["error"]["code"] == "busy"
    assert floor.query()["bids"] == [["50.00", 522, 522]]


def test_an_exchange_that_broke_gives_nothing_out_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    floor = Floor()
    trader = floor.trader(7)
    trader.send("buy 1@50")

    def broken(*_: object) -> None:
        raise AssertionError("half done")

    monkeypatch.setattr(floor.recovered.engine, "apply", broken)
    with pytest.raises(AssertionError, match="half done"):
        trader.send("buy 1@51")
    with pytest.raises(AssertionError, match="half done"):
        floor.exchange.take_batch()
    assert trader.take() == []


@pytest.mark.parametrize("seed", range(25))
def test_whatever_was_answered_is_there_after_a_power_cut(seed: int) -> None:
    floor = Floor(seed=seed)
    answered: dict[str, int] = {}
    sent = 0
    for _ in range(4):
        trader = floor.trader(7)
        for _ in range(20):
            sent += 1
            trader.send(f"buy 1@{10 + sent} id=n{sent}", req=sent)
            if sent % 3 == seed % 3:
                floor.commit()
        batch = floor.exchange.take_batch()
        if batch.data:
            batch.write(floor.recovered.file)
        answered |= {f"n{message['req']}": message["oid"] for message in trader.take()}
        floor.disk.power_cut()
        floor.open()
    assert answered
    trader = floor.trader(7)
    for client_id, oid in answered.items():
        floor.exchange.find(trader.session, req=1, client_id=client_id)
        floor.commit()
        assert trader.take()[0]["order"]["oid"] == oid


# -- short of space


def test_short_of_space_new_orders_are_refused_and_what_ends_orders_works() -> None:
    floor = Floor()
    trader, venue = floor.trader(7), floor.venue()
    for text in ("buy 10@50 id=a1", "buy 10@49 id=a2", "sell 10@60/40 id=a3", "buy 1@48"):
        assert floor.ask(trader, text)["status"] in ("open", "pending_stop")
    floor.exchange.note_free_space(SPACE_FOR_ORDERS - 1)
    rows = [
        ("buy 10@50", "no_space"),
        ("buy 10", "no_space"),
        ("buy 10@50.001", "no_space"),
        ("sell 10@70/45 id=b1", "no_space"),
        ("buy 10@50 id=a1", None),  # R14: it is in already
        ("buy 11@50 id=a1", "duplicate_id"),
        ("mod id=a1 11", "no_space"),
        ("mod id=a1 10", "no_space"),
        ("mod 1 9@50.01", "no_space"),
        ("mod id=a3 9@60/41", "no_space"),
        ("mod id=a1 9@50", None),
        ("mod 3 9@60/40", None),
        ("mod 99 1", "order_not_found"),
        ("mod id=zz 1", "order_not_found"),
        ("del id=a1", None),
        ("mod id=a1 5", "order_not_found"),
        ("del all", None),
    ]
    for text, code in rows:
        assert floor.ask(trader, text).get("error", {}).get("code") == code, text
    for text in ("phase intc auction", "set intc collar=5", "7:del intc all"):
        assert "error" not in floor.ask(venue, text)
    assert floor.exchange.rejects["no_space"] == 8
    floor.exchange.note_free_space(SPACE_FOR_ORDERS)
    assert floor.ask(trader, "buy 10@50")["status"] == "open"


def test_signed_bytes_that_were_accepted_get_their_answer_without_space_too() -> None:
    floor = Floor()
    trader = floor.stranger()
    text = f"7:buy intc 1@50 ts={floor.ts}"
    trader.submit(text)
    floor.commit()
    floor.exchange.note_free_space(SPACE_FOR_ORDERS - 1)
    trader.submit(text)
    trader.submit(f"7:buy intc 1@51 ts={floor.ts}")
    floor.commit()
    first, again, refused = trader.take()
    assert first == again
    assert refused["error"]["code"] == "no_space"


def test_with_next_to_no_space_the_market_is_halted_until_the_venue_opens_it() -> None:
    floor = Floor()
    trader, venue = floor.trader(7), floor.venue()
    floor.ask(trader, "buy 1@50")
    floor.exchange.note_free_space(SPACE_FOR_TRADING)
    floor.commit()
    assert floor.query()["phase"] == "continuous"
    for _ in range(2):
        floor.exchange.note_free_space(SPACE_FOR_TRADING - 1)
        floor.commit()
    assert floor.query()["phase"] == "halted"
    (line,) = [line for line in floor.journal_lines() if "halted" in line]
    assert ": [0] 0 phase halted why=no_space s=" in line
    assert "error" not in floor.ask(trader, "del all")
    floor.exchange.note_free_space(SPACE_FOR_ORDERS)
    assert floor.ask(trader, "buy 1@50")["error"]["code"] == "market_halted"
    assert "error" not in floor.ask(venue, "phase intc continuous")
    assert floor.ask(trader, "buy 1@50")["status"] == "open"
    floor.restart()
    assert floor.query()["phase"] == "continuous"


@pytest.mark.parametrize(
    ("phase", "then"),
    [(Phase.AUCTION, "halted"), (Phase.HALTED, "halted"), (Phase.CLOSED, "closed")],
)
def test_a_market_that_is_not_open_is_not_halted_for_want_of_space(phase: Phase, then: str) -> None:
    floor = Floor(phase=phase)
    floor.exchange.note_free_space(0)
    floor.commit()
    assert floor.query()["phase"] == then
    halts = [line for line in floor.journal_lines() if "why=no_space" in line]
    assert len(halts) == (phase is Phase.AUCTION)


# -- rejections


def rejections(batch: Batch) -> list[tuple[int, str, str]]:
    return [(each.owner, each.code, each.text) for each in batch.rejections]


def test_each_refused_command_is_kept_with_its_owner_its_code_and_the_record_before() -> None:
    floor = Floor()
    trader, venue, stranger = floor.trader(7), floor.venue(), floor.stranger()
    seq = floor.exchange.feed.seq
    trader.send("buy 1@50")
    trader.send("buy 1@50.001")
    trader.send("8:buy 1@50")
    venue.send("buy 1@50.001")
    venue.send("9:del 77")
    trader.send("gibberish\n")
    stranger.submit(f"7:buy intc 1@50 ts={floor.ts}", "00" * 32)
    stranger.submit("6:buy intc 1@50 ts=1")
    floor.exchange.find(trader.session, req=1, oid=4711)
    batch = floor.exchange.take_batch()
    assert rejections(batch) == [
        (7, "bad_tick", "buy 1@50.001"),
        (8, "not_owner", "8:buy 1@50"),
        (0, "bad_tick", "buy 1@50.001"),
        (9, "order_not_found", "9:del 77"),
        (7, "bad_syntax", "gibberish\n"),
        (7, "bad_signature", f"7:buy intc 1@50 ts={floor.ts}"),
        (6, "stale_timestamp", "6:buy intc 1@50 ts=1"),
    ]
    assert {each.seq for each in batch.rejections} == {seq + 1}
    assert {each.time for each in batch.rejections} == {floor.exchange.now()}


def test_a_repeat_of_signed_bytes_that_were_refused_is_no_new_rejection() -> None:
    floor = Floor()
    stranger = floor.stranger()
    for _ in range(2):
        stranger.submit(f"7:buy intc 1@50.001 ts={floor.ts}")
    assert len(floor.exchange.take_batch().rejections) == 1


def test_a_refused_text_is_kept_as_far_as_a_command_may_go_and_no_half_of_a_key_with_it() -> None:
    floor = Floor()
    trader = floor.trader(7)
    for text in ("x" * 300_000, "buy 1@50 " + "x" * 227 + "5e" * 32):
        trader.send(text)
    whole, cut = floor.exchange.take_batch().rejections
    assert whole.text == "x" * 256 + "..."
    assert cut.text == "buy 1@50 " + "x" * 227 + "..."
