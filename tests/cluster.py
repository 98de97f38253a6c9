"""A PostgreSQL of a test's own, which it can kill and start again (scripts/cluster.py)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scripts import cluster
from scripts.cluster import Cluster


def require_programs() -> None:
    """Skip the test where no cluster can be made; fail it if all must run."""
    if cluster.find_programs() is None:
        if os.environ.get("EMTE_REQUIRE_ALL") == "1":
            pytest.fail("there is no initdb, and EMTE_REQUIRE_ALL=1")
        pytest.skip("there is no initdb")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A Cluster that runs, for the length of a `with` block."""
    require_programs()
    with cluster.running_cluster() as running:
        yield running
