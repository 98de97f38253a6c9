"""Alarms: what an operator of a server should look after, in sentences.

An alarm is logged when it begins and when it is over; a matching server's stands in `/health/ready`
meanwhile. None of them stops a server, which goes on as well as it can: only the disk does, when a
write fails.
"""

import logging
from collections.abc import Mapping


class Alarms:
    """The alarms that stand, by name. One whose sentence changes is not logged again.

    >>> alarms = Alarms(logging.getLogger("matchingserver"))
    >>> alarms.update({"space": "200 MiB are free"})
    >>> alarms.sentences
    ['200 MiB are free']
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._standing: dict[str, str] = {}

    @property
    def sentences(self) -> list[str]:
        return list(self._standing.values())

    def update(self, now: Mapping[str, str]) -> None:
        """From now on these stand, and no others."""
        before, self._standing = self._standing, dict(now)
        for name, sentence in now.items():
            if name not in before:
                self._log.warning("%s", sentence)
        for name, sentence in before.items():
            if name not in now:
                self._log.info("over: %s", sentence)
