"""The robot trader: asks for the quote, lets a strategy decide, signs and sends.

It needs a matching server, which it waits for, and nothing else: the product's ticker and grid it
asks from the server. A line for each order, as in 2010:

    order #20 from 0:buy 600@0 (0.005433seconds)
"""

import argparse
import asyncio
import math
import os
import random
import re
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

from matching import config, exits
from matching.client import (
    Away,
    Backoff,
    Refused,
    ServerClock,
    Unanswered,
    post_order,
    query,
    quote,
)
from matching.exits import ExitCode, Fatal
from matching.order import TICKER, CancelAll, parse_price
from matching.pidfile import pidfile
from robot.strategy import Desk, DeskCommand, RandomTrader, Strategy, describe

EPILOG = """\
It waits for its matching server: at the start, and whenever the server goes away. An order that is
refused is printed with the reason, and trading goes on.

exit codes: 0 stopped by a signal, 2 usage, 78 the key or var/ is not good

examples:
  python robot_trader.py -p 8888 -w 2.0          an order of the house every two seconds
  python robot_trader.py -p 8888 -o 7,8 -w 0.5   two a second, for owner 7 or 8 as the dice fall
"""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OWNER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class Robot:
    """One strategy at one matching server; `ticker` None: whatever the server trades."""

    def __init__(
        self,
        server_url: str,
        *,
        ticker: str | None,
        strategy: Strategy,
        key: str,
        wait_seconds: float,
    ) -> None:
        self._url = server_url
        self._ticker = ticker
        self._strategy = strategy
        self._key = key
        self._wait_seconds = wait_seconds
        self._clock = ServerClock()
        self._backoff = Backoff(longest_seconds=2.0)

    async def trade(self) -> NoReturn:
        """Trade whenever the server is there, until cancelled; Fatal (78) for a bad key."""
        while True:
            desk = await self._approach()
            with suppress(Away):
                while True:
                    await self._take_turn(desk)
                    self._backoff.reset()
                    await asyncio.sleep(self._wait_seconds)
            await asyncio.sleep(self._backoff.next_seconds())

    async def _approach(self) -> Desk:
        """Ask the server what it trades; if it is away say so once, and wait for it."""
        has_waited = False
        while True:
            try:
                desk = await self._look()
            except Away as away:
                if not has_waited:
                    _say(f"waiting for the matching server: {away}")
                has_waited = True
                await asyncio.sleep(self._backoff.next_seconds())
            else:
                if has_waited:
                    _say(f"the matching server of {desk.ticker} is there")
                return desk

    async def _look(self) -> Desk:
        state = await query(f"{self._url}/query")
        ticker = state["ticker"]
        if self._ticker not in (None, ticker):
            raise Away(f"{self._url} trades {ticker}, not {self._ticker}")
        last = state["last"] or state["reference"]
        return Desk(
            ticker=ticker,
            tick=parse_price(state["tick"]),
            lot=state["lot"],
            last=parse_price(last),
        )

    async def _take_turn(self, desk: Desk) -> None:
        """Look at the quote, let the strategy decide, send what it wants."""
        desk.last = await quote(f"{self._url}/quote")
        self._strategy.on_timer(desk)
        for command in desk.take_commands():
            await self._send(command)

    async def _send(self, command: DeskCommand) -> None:
        started = time.monotonic()
        try:
            answer = await post_order(f"{self._url}/", command, self._key, clock=self._clock)
        except Refused as refused:
            if refused.code in ("bad_signature", "venue_only"):
                raise Fatal(
                    ExitCode.CONFIGURATION,
                    f"the key is not good for owner {command.owner}: {refused.message}",
                ) from refused
            if refused.code == "unknown_ticker":
                raise Away(str(refused)) from refused  # another server has taken the port
            _say(f"order from {describe(command)} refused: {refused}")
        except Unanswered as unanswered:
            _say(f"order from {describe(command)} unanswered, its outcome is unknown: {unanswered}")
        else:
            seconds = time.monotonic() - started
            if isinstance(command, CancelAll):
                what = f"{len(answer['events'])} orders canceled by"
            else:
                what = f"order #{answer['oid']} from"
            _say(f"{what} {describe(command)} ({seconds:f}seconds)")


def _say(line: str) -> None:
    print(line, flush=True)


def _owners(text: str) -> list[int]:
    owners = text.split(",")
    if not all(_OWNER.fullmatch(owner) for owner in owners):
        raise argparse.ArgumentTypeError(f"{text!r} is not an owner, or owners parted by commas")
    return [int(owner) for owner in owners]


def _ticker(text: str) -> str:
    if TICKER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ticker")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _turns(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of turns")
    return int(text)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="robot_trader",
        description="Trade at random at a matching server, as the robot of 2010 did.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", "--port", type=int, default=8888, help="the matching server's port")
    parser.add_argument(
        "-o",
        "--owner",
        type=_owners,
        default=[0],
        help="the owner's id, or several: 1,2 (0: the house)",
    )
    parser.add_argument(
        "-k", "--hmac_key", help="the key that signs orders, or @FILE (default: var/venue.key)"
    )
    parser.add_argument(
        "-w", "--wait_time", type=_seconds, default=1.0, help="seconds between two orders (1.0)"
    )
    parser.add_argument(
        "-t", "--ticker", type=_ticker, help="trade only this product (default: ask the server)"
    )
    parser.add_argument(
        "--clear",
        type=_turns,
        default=0,
        metavar="TURNS",
        help="cancel all orders of an owner about once in so many turns (0: never, as in 2010)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the matching server's host")
    parser.add_argument(
        "--seed", type=int, help="the seed of the dice (default: another each time)"
    )
    parser.add_argument(
        "-n", "--number", type=int, default=os.getpid(), help="which robot it is (default: its pid)"
    )
    parser.add_argument("--var", help="the folder of the venue key and pid files")
    return parser.parse_args()


async def _run(robot: Robot) -> None:
    """Trade until SIGTERM or SIGINT."""
    trading = asyncio.ensure_future(robot.trade())
    loop = asyncio.get_running_loop()
    # Not by the loop's add_signal_handler, which Windows does not have.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(trading.cancel))
    with suppress(asyncio.CancelledError):
        await trading


def main() -> None:
    sys.exit(exits.run("robot_trader", _main))


def _main() -> None:
    arguments = _parse_arguments()
    var = config.find_var(arguments.var)
    var.make()
    # PROTOCOL §2: a key that is a mere word is for demos on loopback; there the server decides.
    key = config.choose_key(arguments.hmac_key, var, any_text=arguments.host in _LOOPBACK)
    robot = Robot(
        f"http://{arguments.host}:{arguments.port}",
        ticker=arguments.ticker,
        strategy=RandomTrader(
            owners=arguments.owner,
            dice=random.Random(arguments.seed),
            clear_turns=arguments.clear,
        ),
        key=key,
        wait_seconds=arguments.wait_time,
    )
    with pidfile(var.run_dir, f"robot-{arguments.ticker or arguments.port}-{arguments.number}"):
        asyncio.run(_run(robot))


if __name__ == "__main__":
    main()
