"""The robot trader: lets a strategy trade at a matching server.

It needs a matching server, which it waits for, and nothing else: the product's ticker and grid it
asks from the server. By itself it is the random trader of 2010, which asks for the quote and posts
an order; any other strategy (`-s`) has a session of its own. A line for each order, as in 2010:

    order #20 from 0:buy 600@0 (0.005433seconds)
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends these in silence
    from matching.exits import end_on_interrupt

    end_on_interrupt()

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
from matching.client import Away, Backoff, Refused, ServerClock, Unanswered, post_order, quote
from matching.console import say
from matching.exits import ExitCode, Fatal
from matching.order import TICKER, parse_price
from matching.pidfile import pidfile
from robot import loading
from robot.strategy import Desk, DeskCommand, RandomTrader, describe
from robot.trading_session import TradingSession, say_done, wait_for_server

EPILOG = """\
It waits for its matching server: at the start, and whenever the server goes away. An order that is
refused is printed with the reason, and trading goes on.

A strategy of your own (docs/BOTS.md) has a session: its orders are canceled when it ends.

exit codes: 0 stopped by a signal, 1 the strategy failed, 2 usage, 78 the key or var/ is not good

examples:
  python robot_trader.py -p 8888 -w 2.0          an order of the house every two seconds
  python robot_trader.py -p 8888 -o 7 -k @my.key -s dipper.py:Dipper    a strategy for owner 7
"""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OWNER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)


class QuoteTrader:
    """The random trader as in 2010: a quote, an order, a wait; each by a request of its own.

    So it may trade for many owners, and needs nothing of a server but `/quote` and `POST /`.
    `ticker` None: whatever the server trades.
    """

    def __init__(
        self,
        server_url: str,
        *,
        ticker: str | None,
        trader: RandomTrader,
        key: str,
        wait_seconds: float,
        dice: random.Random,
    ) -> None:
        self._url = server_url
        self._ticker = ticker
        self._trader = trader
        self._key = key
        self._wait_seconds = wait_seconds
        self._dice = dice
        self._clock = ServerClock()
        self._backoff = Backoff(longest_seconds=2.0)

    async def trade(self) -> NoReturn:
        """Trade whenever the server is there, until cancelled; Fatal (78) for a bad key."""
        while True:
            state = await wait_for_server(self._url, self._ticker, self._backoff)
            desk = Desk(
                ticker=state["ticker"],
                tick=parse_price(state["tick"]),
                lot=state["lot"],
                last=parse_price(state["last"] or state["reference"]),
                dice=self._dice,
            )
            with suppress(Away):
                while True:
                    await self._take_turn(desk)
                    self._backoff.reset()
                    await asyncio.sleep(self._wait_seconds)
            await asyncio.sleep(self._backoff.next_seconds())

    async def _take_turn(self, desk: Desk) -> None:
        """Look at the quote, let the trader decide, send what it wants."""
        desk.last = await quote(f"{self._url}/quote")
        self._trader.on_timer(desk)
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
            say(f"order from {describe(command)} refused: {refused}")
        except Unanswered as unanswered:
            say(f"order from {describe(command)} unanswered, its outcome is unknown: {unanswered}")
        else:
            say_done(command, answer, time.monotonic() - started)


def _owners(text: str) -> list[int]:
    owners = text.split(",")
    if not all(_OWNER.fullmatch(owner) for owner in owners):
        raise argparse.ArgumentTypeError(f"{text!r} is not an owner, or owners parted by commas")
    return [int(owner) for owner in owners]


def _ticker(text: str) -> str:
    if TICKER.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ticker")
    return text


def _strategy(text: str) -> str:
    file, _, name = text.rpartition(":")
    if text != "random" and text not in loading.BUILT_IN and not (file and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not random, maker or FILE:CLASS")
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
        description="Trade at a matching server: at random, as the robot of 2010 did, or by -s.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", "--port", type=int, default=8888, help="the matching server's port")
    parser.add_argument(
        "-s",
        "--strategy",
        type=_strategy,
        default="random",
        help="what decides: random, maker, or FILE:CLASS of your own (random)",
    )
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
        "-w", "--wait_time", type=_seconds, default=1.0, help="seconds between two turns (1.0)"
    )
    parser.add_argument(
        "-t", "--ticker", type=_ticker, help="trade only this product (default: ask the server)"
    )
    parser.add_argument(
        "--clear",
        type=_turns,
        default=0,
        metavar="TURNS",
        help="random: cancel all orders of an owner about once in so many turns (0: never)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the matching server's host")
    parser.add_argument(
        "--seed", type=int, help="the seed of the dice (default: another each time)"
    )
    parser.add_argument(
        "-n", "--number", type=int, default=os.getpid(), help="which robot it is (default: its pid)"
    )
    parser.add_argument("--var", help="the folder of the venue key and pid files")
    arguments = parser.parse_args()
    if arguments.strategy != "random" and (len(arguments.owner) > 1 or arguments.clear):
        parser.error("several owners, and --clear, are for the random trader only")
    return arguments


async def _run(robot: QuoteTrader | TradingSession) -> None:
    """Trade until SIGTERM or SIGINT."""
    trading = asyncio.ensure_future(robot.trade())
    loop = asyncio.get_running_loop()
    # Not by the loop's add_signal_handler, which Windows does not have.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(trading.cancel))
    try:
        with suppress(asyncio.CancelledError):
            await trading
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it ends already; the loop hears no more


def main() -> None:
    sys.exit(exits.run("robot_trader", _main))


def _main() -> None:
    arguments = _parse_arguments()
    var = config.find_var(arguments.var)
    var.make()
    # PROTOCOL §2: a key that is a mere word is for demos on loopback; there the server decides.
    key = config.choose_key(arguments.hmac_key, var, any_text=arguments.host in _LOOPBACK)
    robot = _robot(arguments, key)
    with pidfile(var.run_dir, f"robot-{arguments.ticker or arguments.port}-{arguments.number}"):
        asyncio.run(_run(robot))


def _robot(arguments: argparse.Namespace, key: str) -> QuoteTrader | TradingSession:
    url = f"http://{arguments.host}:{arguments.port}"
    dice = random.Random(arguments.seed)
    if arguments.strategy == "random":
        return QuoteTrader(
            url,
            ticker=arguments.ticker,
            trader=RandomTrader(owners=arguments.owner, clear_turns=arguments.clear),
            key=key,
            wait_seconds=arguments.wait_time,
            dice=dice,
        )
    return TradingSession(
        url,
        ticker=arguments.ticker,
        strategy=loading.load(arguments.strategy),
        owner=arguments.owner[0],
        key=key,
        wait_seconds=arguments.wait_time,
        dice=dice,
    )


if __name__ == "__main__":
    main()
