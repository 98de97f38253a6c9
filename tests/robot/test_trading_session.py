"""Strategies as robots, at a real matching server that may be stopped, killed and started again."""

import asyncio
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matching import config, signing
from matching.client import Answer, BlockingClient, query
from matching.order import Side, TimeInForce
from robot.strategy import Change, Desk, OwnOrder, Reject, Strategy, What
from robot.trading_session import TradingSession
from tests.processes import Process, running
from tests.waiting import PATIENCE_SECONDS, free_port, wait_until

HEAD = """\
from robot.strategy import Strategy

class Mine(Strategy):
"""

DIARY = """\
    def on_book(self, desk):
        print("book", [level.price for level in desk.bids], desk.phase)

    def on_trade(self, desk, trade):
        print("trade", trade.tid, trade.quantity, trade.price, trade.taker)

    def on_order(self, desk, order, change):
        print("order", order.oid, change.what, order.filled, order.status, desk.position)

    def on_reject(self, desk, reject):
        print("reject", reject.code)
"""


class Venue:
    """A matching server of `intc` that is there again after it was killed, and its robots."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self.var = folder / "var"
        self._processes: list[Process] = []
        self.start()
        self.key = config.load_venue_key(config.Var(self.var))

    def start(self) -> None:
        self.server = self._process("matching.matchingserver", "-p", str(self.port), "-t", "intc")
        self.server.wait_for_line("listening on")

    def robot(self, strategy: str, *options: str) -> Process:
        """A robot with `-s`, or with the methods of a class of its own."""
        if "\n" in strategy:
            path = self._folder / "mine.py"
            path.write_text(HEAD + strategy)
            strategy = f"{path}:Mine"
        return self._process(
            *("robot.robot_trader", "-p", str(self.port), "-s", strategy, "-w", "0.1", *options)
        )

    def client(self) -> BlockingClient:
        return BlockingClient(f"ws://127.0.0.1:{self.port}/realtime", ticker="intc", key=self.key)

    def state(self) -> Answer:
        return asyncio.run(query(f"http://127.0.0.1:{self.port}/query"))

    def journal(self) -> str:
        return config.Var(self.var).journal_file("intc").read_text(encoding="ascii")

    def end(self) -> None:
        for process in self._processes:
            process.end()

    def _process(self, *arguments: str) -> Process:
        process = Process("-m", *arguments, var=self.var)
        self._processes.append(process)
        return process


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    venue = Venue(tmp_path)
    yield venue
    venue.end()


def _has(robot: Process, pattern: str) -> Callable[[], bool]:
    return lambda: re.search(pattern, robot.output, re.MULTILINE) is not None


ONCE = """\
    done = False

    def on_timer(self, desk):
        if not self.done:
            self.done = True
            desk.buy(10, 500_000)

"""


def test_a_strategy_sees_the_book_the_trades_and_its_orders(venue: Venue) -> None:
    key = signing.owner_key(venue.key, 7)
    robot = venue.robot(ONCE + DIARY, "-o", "7", "-k", key)
    robot.wait_for_line(r"^book \[\] continuous$")
    robot.wait_for_line(r"^order #1 from 7:buy 10@50.00 \(\d+\.\d{6}seconds\)$")
    robot.wait_for_line("^order 1 accepted 0 open 0$")
    robot.wait_for_line(r"^book \[500000\] continuous$")
    with venue.client() as other:
        other.send("8:sell 4@50")
        robot.wait_for_line("^order 1 trade 4 partially_filled 4$")
        robot.wait_for_line("^trade 1 4 500000 sell$")
        other.send("8:sell 6@50")
        robot.wait_for_line("^order 1 trade 10 filled 10$")
        other.send("phase intc halted")
        robot.wait_for_line(r"^book \[\] halted$")


def test_of_trades_from_before_it_came_a_strategy_is_not_told(venue: Venue) -> None:
    with venue.client() as other:
        other.send_many(["8:sell 4@50", "9:buy 4@50"])
        robot = venue.robot(ONCE + DIARY)
        robot.wait_for_line("^order 3 accepted")
        other.send("8:sell 4@50")
        robot.wait_for_line("^trade 2 4 ")
    assert "trade 1 " not in robot.output


def test_its_orders_go_when_the_robot_goes(venue: Venue) -> None:
    robot = venue.robot("maker", "-o", "7")
    wait_until(lambda: venue.state()["asks"] and venue.state()["bids"], "both quotes")
    assert robot.terminate() == 0
    wait_until(lambda: not venue.state()["asks"] + venue.state()["bids"], "their end")


def test_the_maker_follows_the_market_and_shifts_with_what_it_holds(venue: Venue) -> None:
    venue.robot("maker", "-o", "7")
    wait_until(lambda: venue.state()["bids"] == [["99.90", 100, 1]], "the first quotes")
    with venue.client() as other:
        other.send("8:sell 100@99.90 tif=ioc")
        wait_until(
            lambda: [level[:2] for level in venue.state()["bids"]] == [["99.79", 100]],
            "a lower bid",
        )
        other.send_many(["8:buy 5@99.95", "8:sell 5@99.97"])
        wait_until(
            lambda: [level[0] for level in venue.state()["bids"]] == ["99.95", "99.85"],
            "quotes around the new middle",
        )


def test_it_goes_on_when_the_server_is_there_again(venue: Venue) -> None:
    robot = venue.robot("maker", "-o", "7")
    wait_until(lambda: venue.state()["asks"] and venue.state()["bids"], "both quotes")
    venue.server.kill()
    wait_until(_has(robot, "^waiting for the matching server"), "the robot's waiting")
    venue.start()
    robot.wait_for_line("^the matching server of intc is there$")
    wait_until(lambda: venue.state()["asks"] and venue.state()["bids"], "both quotes again")
    assert len(venue.state()["asks"] + venue.state()["bids"]) == 2
    assert robot.is_running


def test_it_learns_what_became_of_its_orders_meanwhile(venue: Venue) -> None:
    robot = venue.robot(ONCE + DIARY, "-o", "7")
    robot.wait_for_line("^order 1 accepted 0 open 0$")
    venue.server.kill()
    venue.start()
    robot.wait_for_line("^order 1 recovered 0 canceled 0$")


def test_what_was_lost_on_the_way_is_told(venue: Venue) -> None:
    robot = venue.robot(
        DIARY + "    def on_timer(self, desk):\n        print('sends', desk.buy(1, 10_000))\n"
    )
    robot.wait_for_line("^order 1 accepted")
    os.kill(venue.server.pid, signal.SIGSTOP)
    sent = robot.output.count("sends")
    wait_until(lambda: robot.output.count("sends") > sent, "an order without an answer")
    venue.server.kill()
    venue.start()
    robot.wait_for_line("^reject lost$")
    lost = robot.output.count("reject lost")
    wait_until(lambda: "accepted" in robot.output.rpartition("reject lost")[2], "new orders")
    assert robot.output.count("reject lost") == lost == 1


FLOOD = """\
    def on_timer(self, desk):
        for _ in range(5_000):
            desk.buy(1, 10_000)

    def on_reject(self, desk, reject):
        print("reject", reject.code)
        desk.buy(1, 10_000)
        desk.buy(1, 10_000)
"""


def test_a_flood_is_answered_by_rejects(venue: Venue) -> None:
    with venue.client() as other:
        other.send("phase intc halted")
        robot = venue.robot(FLOOD)
        robot.wait_for_line("^reject flood$")
        wait_until(lambda: robot.output.count("reject market_halted") > 30, "rejects")
        assert robot.is_running
        assert other.ping()["type"] == "pong"
        assert robot.terminate() == 0


AVALANCHE = """\
    def on_timer(self, desk):
        if not desk.orders:
            desk.buy(1, 10_000)

    def on_order(self, desk, order, change):
        if order.oid < 30:
            for _ in range(1_000):
                desk.buy(1, 10_000)

    def on_reject(self, desk, reject):
        print("reject", reject.code, reject.message)
"""


def test_an_avalanche_of_orders_ends_where_its_news_are_too_many(venue: Venue) -> None:
    robot = venue.robot(AVALANCHE)
    robot.wait_for_line(r"^reject flood nothing was sent: 10,\d\d\d news wait for the strategy$")
    assert robot.is_running


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("    def on_book(self, desk):\n        1 / 0\n", r"mine\.py:5: ZeroDivisionError: "),
        (
            "    def on_timer(self, desk):\n        desk.buy(10, 50.25)\n",
            r"mine\.py:5: TypeError: price 50\.25 is not an integer of ten-thousandths",
        ),
    ],
)
def test_an_exception_in_a_strategy_ends_it_with_one_line(
    venue: Venue, methods: str, words: str
) -> None:
    robot = venue.robot(methods)
    assert robot.wait() == 1
    assert len(robot.lines) == 1
    assert re.search(words, robot.lines[0])


def test_a_strategy_may_end_its_robot(venue: Venue) -> None:
    quits = "    def on_order(self, desk, order, change):\n        raise SystemExit(3)\n"
    robot = venue.robot(ONCE + quits)
    assert robot.wait() == 3
    assert [line.partition("(")[0] for line in robot.lines] == ["order #1 from 0:buy 10@50.00 "]
    wait_until(lambda: not venue.state()["bids"], "the end of its orders")


def test_a_key_that_counts_no_longer_ends_it(venue: Venue) -> None:
    robot = venue.robot("maker", "-o", "7", "-k", signing.owner_key(venue.key, 7))
    robot.wait_for_line("^order #2 ")
    with venue.client() as other:
        other.send("key intc 7 2")
    assert robot.wait() == 78
    assert "the key is not good for owner 7" in robot.lines[-1]


@pytest.mark.parametrize("owner", ["7", "8"])
def test_a_key_that_is_not_the_owners_is_said(venue: Venue, owner: str) -> None:
    key = signing.owner_key(venue.key, 9)
    robot = venue.robot("maker", "-o", owner, "-k", key)
    assert robot.wait() == 78
    assert f"the key is not good for owner {owner}" in robot.lines[-1]
    assert len(robot.lines) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-s", "sorcerer"), 2, "is not random, maker or FILE:CLASS"),
        (("-s", "dipper.py:"), 2, "is not random, maker or FILE:CLASS"),
        (("-s", "maker", "-o", "1,2"), 2, "are for the random trader only"),
        (("-s", "maker", "--clear", "5"), 2, "are for the random trader only"),
        (("-s", "no.py:Mine"), 1, "no.py: there is no such file"),
    ],
)
def test_what_it_cannot_use_ends_it_with_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    with running("-m", "robot.robot_trader", *arguments, var=tmp_path / "var") as robot:
        assert robot.wait() == code
        assert words in robot.lines[-1]
        assert code == 2 or len(robot.lines) == 1


@pytest.mark.parametrize(("pause_seconds", "ending"), [(1.0, "recovered canceled"), (6.0, "lost")])
def test_an_order_that_nobody_answers_is_carried_out_at_once_or_never(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, pause_seconds: float, ending: str
) -> None:
    """The server stands still while the order lies in its socket, then goes on."""
    monkeypatch.setattr("matching.client.ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("matching.client.CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("matching.client.CONNECT_SECONDS", 0.5)
    told: list[str] = []

    class Once(Strategy):
        def on_timer(self, desk: Desk) -> None:
            if not told:
                told.append("sent")
                os.kill(venue.server.pid, signal.SIGSTOP)
                desk.buy(10, 500_000)

        def on_order(self, desk: Desk, order: OwnOrder, change: Change) -> None:
            told.append(f"{change.what} {order.status}")

        def on_reject(self, desk: Desk, reject: Reject) -> None:
            told.append(reject.code)

    async def scenario() -> None:
        session = TradingSession(
            f"http://127.0.0.1:{venue.port}",
            ticker=None,
            strategy=Once(),
            owner=7,
            key=venue.key,
            wait_seconds=0.1,
            dice=random.Random(1),
        )
        trading = asyncio.ensure_future(session.trade())
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.sleep(pause_seconds)
        os.kill(venue.server.pid, signal.SIGCONT)
        while len(told) < 2:
            assert not trading.done()
            await asyncio.sleep(0.01)
        trading.cancel()
        await asyncio.gather(trading, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_SECONDS))
    assert told == ["sent", ending]
    assert ("buy 10@50.00" in venue.journal()) == (ending != "lost")


class Chaos(Strategy):
    """Everything that a strategy may order, as the dice fall; from turn `stop_at` on it rests.

    `bought` is what it was told of its own trades.
    """

    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at
        self.turns = 0
        self.bought = 0
        self.desk: Desk | None = None

    def on_timer(self, desk: Desk) -> None:
        self.desk = desk
        self.turns += 1
        if self.turns >= self.stop_at:
            return
        dice = desk.dice
        for _ in range(dice.randint(1, 4)):
            place = dice.choice((desk.buy, desk.sell))
            price = dice.randrange(999_000, 1_001_000, 100)
            match dice.randrange(6):
                case 0:
                    place(dice.randint(1, 50))
                case 1:
                    place(dice.randint(1, 50), price, stop=dice.randrange(999_000, 1_001_000, 100))
                case 2:
                    place(dice.randint(1, 50), price, tif=dice.choice(list(TimeInForce)))
                case 3 if desk.orders:
                    desk.cancel(dice.choice(list(desk.orders)))
                case 4 if dice.random() < 0.1:
                    desk.cancel_all()
                case _:
                    place(dice.randint(1, 50), price, post=dice.random() < 0.5)

    def shows(self) -> tuple[dict[int, int], int]:
        """What the desk shows: shares remaining by oid, and the position."""
        assert self.desk is not None
        return {
            order.oid: order.remaining for order in self.desk.orders.values()
        }, self.desk.position

    def on_order(self, desk: Desk, order: OwnOrder, change: Change) -> None:
        if change.what is What.TRADE:
            self.bought += change.quantity if order.side is Side.BUY else -change.quantity


@pytest.mark.parametrize(("seed", "is_killed"), [(1, False), (2, False), (3, True), (4, True)])
def test_the_desk_shows_what_the_server_has(venue: Venue, seed: int, is_killed: bool) -> None:
    dice = random.Random(seed)
    chaos = Chaos(stop_at=120)

    def session(strategy: Strategy, owner: int) -> TradingSession:
        return TradingSession(
            f"http://127.0.0.1:{venue.port}",
            ticker="intc",
            strategy=strategy,
            owner=owner,
            key=venue.key,
            wait_seconds=0,
            dice=random.Random(dice.random()),
        )

    def server_holds() -> tuple[dict[int, int], int]:
        with venue.client() as client:
            message = client.open_orders(owner=7)
        return {order["oid"]: order["remaining"] for order in message["orders"]}, message[
            "position"
        ]

    async def scenario() -> None:
        other = Chaos(stop_at=10_000)
        robots = [
            asyncio.ensure_future(session(strategy, owner).trade())
            for strategy, owner in ((chaos, 7), (other, 8))
        ]
        kills = [80, 40] if is_killed else []
        while chaos.turns < chaos.stop_at:
            assert not any(robot.done() for robot in robots)
            await asyncio.sleep(0.01)
            if kills and chaos.turns > kills[-1]:
                kills.pop()
                venue.server.kill()
                await asyncio.to_thread(venue.start)
        other.stop_at = 0
        end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            held = await asyncio.to_thread(server_holds)
            shown, bought = chaos.shows(), chaos.bought
            if shown == held and (is_killed or bought == shown[1]):
                break
            assert asyncio.get_running_loop().time() < end, f"{shown} shown, {held}, {bought}"
        for robot in robots:
            robot.cancel()
        await asyncio.gather(*robots, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 4 * PATIENCE_SECONDS))
