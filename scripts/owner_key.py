"""The key of an owner, for whom keeps the venue key: what a trader's programs sign with.

    python scripts/owner_key.py trader1 > trader1.key

The key goes to stdout, the owner's number, which the programs need too, to stderr. It is the
generation in force by `var/key.generations`; nothing is stored.
"""

import argparse
import sys

from app.models import accounts, settings
from app.models.db import DatabaseAway, close, open_database, transaction
from matching import config, exits, signing
from matching.config import Var
from matching.exits import ExitCode, Fatal

EPILOG = """\
exit codes: 0 printed, 2 usage, 69 the database is away, 78 no such user or no venue key

examples:
  python scripts/owner_key.py trader1 > trader1.key      hand the file to its owner, and to no other
  python scripts/owner_key.py 7                          a number needs no database
"""


def main() -> None:
    sys.exit(exits.run("owner_key", _main))


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="owner_key",
        description="Print the key of an owner (docs/BOTS.md).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("owner", metavar="OWNER", help="a username, or an owner's number")
    parser.add_argument("--var", help="the folder of the venue key and the database")
    arguments = parser.parse_args()
    var = config.find_var(arguments.var)
    owner = int(arguments.owner) if arguments.owner.isdecimal() else _number(arguments.owner, var)
    if owner == 0:
        raise Fatal(ExitCode.CONFIGURATION, "owner 0 is the house: it trades by the venue key")
    if not var.venue_key_file.exists():
        raise Fatal(
            ExitCode.CONFIGURATION,
            f"there is no {var.venue_key_file}: the first server of a venue makes it",
        )
    key = signing.owner_key(
        config.load_venue_key(var), owner, config.read_generations(var).get(owner, 1)
    )
    print(f"owner_key: {arguments.owner} is owner {owner}", file=sys.stderr)
    print(key)


def _number(username: str, var: Var) -> int:
    try:
        db = open_database(settings.database_uri(var))
        with transaction(db):
            owner = accounts.find_credentials(db, username).owner
        close(db)
    except DatabaseAway as away:
        raise Fatal(ExitCode.UNAVAILABLE, f"cannot look {username} up: {away}") from away
    if owner is None:
        raise Fatal(ExitCode.CONFIGURATION, f"there is no user {username}")
    return owner


if __name__ == "__main__":
    main()
