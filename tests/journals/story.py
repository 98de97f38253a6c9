"""The story that each release leaves as a journal: a day in which each form of a line occurs.

    python -m tests.journals.story            writes tests/journals/<version>.log

It is told to an exchange on a disk in memory, with a clock and dice that are set: the same program
writes the same bytes. A release's file stays as it is, and those after it replay it.
"""

import argparse
import sys
import tomllib
from pathlib import Path

from matching.exchange import SPACE_FOR_ORDERS, SPACE_FOR_TRADING
from matching.order import Phase
from matching.recovery import take_snapshot
from tests.matching.trading_floor import JOURNAL, Floor
from tests.processes import ROOT

FOLDER = Path(__file__).resolve().parent

# Each scene begins with an empty book.

OPENING_AUCTION = """
    1:sell intc 10@99.90
    2:buy intc 15@100.10 tif=day
    3:sell intc 4@100.10 peak=2
    4:buy intc 2@99.95
    phase intc continuous
    2:del intc all
    4:del intc all
"""

KINDS_OF_ORDERS = """
    5:sell intc 10@101 id=a1
    5:sell intc 40@101.50 id=a2 tif=day post peak=10
    6:buy intc 25@101.5
    6:buy intc 30@101.50 tif=ioc
    7:buy intc 500@103 tif=fok stp=none
    7:buy intc 1000
    8:buy intc 7@99.99 id=big tif=day post peak=3
    0:sell intc 4@99.99
    8:del intc id=big
"""

SELF_TRADES = """
    1:buy intc 10@98
    1:sell intc 4@98
    1:sell intc 4@98 stp=maker
    1:buy intc 10@98 stp=both
    1:sell intc 6@98
    1:buy intc 10@98 stp=decrement
    1:sell intc 3@98 stp=none
    1:buy intc 3@98 stp=none
    1:del intc all
"""

STOPS = """
    2:sell intc 5@0/97
    3:sell intc 5@96.50/97 id=limited
    4:buy intc 3@0/103
    5:buy intc 5@97
    5:buy intc 2@96.90
    6:sell intc 1@97
    6:buy intc 5@96.50
    7:sell intc 1@0/96
    7:sell intc 2@95/96
    6:del intc all
    8:buy intc 1@96
    9:sell intc 1@96
    4:del intc all
    7:del intc all
"""

AMENDS = """
    5:sell intc 10@105 id=m1
    5:mod intc id=m1 8
    5:mod intc id=m1 12@104.50
    4:buy intc 4@104.50
    5:mod intc id=m1 4
    6:sell intc 6@106
    7:buy intc 6@97 id=m2
    7:mod intc id=m2 9@106
    8:buy intc 3@0/110 id=m3
    8:mod intc id=m3 4/109
    7:del intc id=m2
    8:del intc id=m3
"""

RULES = """
    set intc collar=5 band=50 breaker=10 maker_fee=-0.25 taker_fee=1.5
    1:sell intc 5@106
    1:sell intc 5@115
    2:buy intc 9
    2:buy intc 1@115
    limit intc * max_quantity=5000 max_open_orders=50 max_position=100000 max_notional=1000000.50
    limit intc * max_rate=100
    limit intc 7 max_position=200
    limit intc 7 max_position=*
    set intc collar=0 band=0 breaker=0
"""

PHASES = """
    phase intc continuous
    1:buy intc 5@99 tif=day
    1:buy intc 5@98
    phase intc halted
    phase intc closed
    phase intc auction
    2:sell intc 5@98
    phase intc continuous
    key intc 7 2
"""


def tell() -> bytes:
    """The journal of the whole story, as its matching server leaves it."""
    floor = Floor(phase=Phase.AUCTION)
    floor.clock.microseconds += 30_000
    for scene in (OPENING_AUCTION, KINDS_OF_ORDERS, SELF_TRADES, STOPS, AMENDS, RULES, PHASES):
        _play(floor, scene)
    _send_each_by_itself(floor)
    _lose_connections(floor)
    _run_out_of_space(floor)
    _stop(floor)
    floor.restart()
    _play(floor, "1:buy intc 1@90")
    return floor.disk.content(JOURNAL)


def _play(floor: Floor, scene: str) -> None:
    """The commands of a venue session, a millisecond apart, in one batch."""
    venue = floor.venue()
    for text in scene.strip().splitlines():
        floor.clock.microseconds += 1_000
        venue.send(text.strip(), req=1)
    floor.commit()
    for message in venue.take():
        assert "error" not in message, message


def _send_each_by_itself(floor: Floor) -> None:
    """Each kind of command, signed: its journal line has the signature's beginning, `g=`."""
    stranger = floor.stranger()
    for text in (
        "3:buy intc 4@97 id=alone",
        "3:mod intc id=alone 3",
        "3:del intc id=alone",
        "3:del intc all",
        "phase intc halted",
        "phase intc continuous",
        "set intc collar=10",
        "limit intc 3 max_open_orders=9",
        "key intc 3 2",
    ):
        floor.clock.microseconds += 1_000
        stranger.submit(f"{text} ts={floor.ts}")
        floor.commit()
    assert not [answer for answer in stranger.answers if answer.error is not None]


def _lose_connections(floor: Floor) -> None:
    """Orders that live as long as their session: of one that ends, and of one that a start ends."""
    for trader in (floor.trader(8, cod=True), floor.trader(9, cod=True)):
        floor.clock.microseconds += 1_000
        floor.ask(trader, "buy 2@96")
    floor.exchange.close_session(trader.session)
    floor.commit()
    _play(floor, "7:sell intc 5@120")
    floor.exchange.cancel_for_dead_man(7)
    floor.commit()


def _run_out_of_space(floor: Floor) -> None:
    floor.exchange.note_free_space(SPACE_FOR_TRADING - 1)
    floor.commit()
    floor.exchange.note_free_space(SPACE_FOR_ORDERS)
    _play(floor, "phase intc continuous")


def _stop(floor: Floor) -> None:
    """Seal the journal, and tell the state's hash, as a clean stop does."""
    floor.clock.microseconds += 500_000
    floor.exchange.seal()
    floor.commit()
    check, _ = take_snapshot(floor.disk, JOURNAL)
    floor.exchange.check(check.seq, check.digest)
    floor.commit()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.journals.story",
        description="Write the journal that this version leaves to those after it.",
    )
    parser.parse_args()
    path = FOLDER / f"{version()}.log"
    if path.exists():
        sys.exit(
            f"{path} is there already: if {version()} is out, raise the version in pyproject.toml;"
            " if it is not, remove the file"
        )
    path.write_bytes(tell())
    print(path)


def version() -> str:
    """This EMTE's, of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


if __name__ == "__main__":
    main()
