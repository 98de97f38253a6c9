"""Begin a new run while nothing runs: what *Start a new run* does in the browser, by hand.

Stop the venue (`bash stop_all.sh`), run this, start it again. Every account then has its start
cash; users, products and keys stay, and so do the orders and trades of the run that ended, in the
database and in `var/runs/<number>/` (scripts/newrun.py).
"""

import argparse
import sys
import time

from app.models import db as database
from app.models import runs, settings
from app.models.db import DAL
from app.models.runs import BY_THE_OPERATOR, Run
from matching import config, exits
from matching.config import Var
from matching.exits import ExitCode, Fatal
from scripts import newrun
from scripts.serve import migrate
from scripts.supervisor import sole_supervisor

EPILOG = """\
exit codes: 0 a new run has begun, 2 usage, or it was not confirmed, 69 something runs, a product is
served elsewhere, or the database is away, 75 a journal or the disk cannot be relied on, 78 var/ or
the database's address is not good. After all but 0 the present run goes on.

examples:
  bash stop_all.sh && emte-zap      asks before it ends the run
  python scripts/zap.py --yes       the same program; does not ask
"""

CONFIRMATION = "zap"


def main() -> None:
    sys.exit(exits.run("zap", _main))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="zap",
        description="End the present run and begin a new one: everybody has their start cash.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--var", help="the folder of everything that is written (var/)")
    arguments = parser.parse_args()
    var = config.find_var(arguments.var)
    var.make()
    uri = settings.database_uri(var)
    with sole_supervisor(var):
        migrate(uri, var)
        db = database.open_database(uri)
        if left := newrun.put_away(var, db):
            print(f"moved the journals that were left of an ended run: {', '.join(left)}")
        if not arguments.yes:
            _confirm(db)
        _end_run(var, db)
        newrun.judge_left_request(var, db, print)


def _confirm(db: DAL) -> None:
    """Ask; Fatal (2) for anything but the word."""
    with database.transaction(db):
        run, journals = runs.present(db), runs.followed(db)
    trades = sum(journal.trades for journal in journals)
    print(
        f"Run {run.number} ends: {len(journals)} journals with {trades} trades are put away, and"
        " every account has its start cash again."
    )
    try:
        answer = input(f"Type {CONFIRMATION} to go on: ")
    except EOFError:
        answer = ""
    if answer.strip() != CONFIRMATION:
        raise Fatal(ExitCode.USAGE, "not confirmed; nothing was changed")


def _end_run(var: Var, db: DAL) -> None:
    def say(run: Run) -> None:
        print(f"run {run.number} has ended; its journals go to {var.run_folder(run.number)}")

    for _ in newrun.end_run(var, db, by=BY_THE_OPERATOR, on_ended=say):
        time.sleep(0)
    print("a new run begins with the next start: python scripts/serve.py")


if __name__ == "__main__":
    main()
