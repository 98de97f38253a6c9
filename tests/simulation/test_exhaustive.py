"""A fixed day of a product, cut short at every operation; and damaged in as many places as a test
run has time for: `make simulate ARGS=--exhaustive` takes all.
"""

from tests.simulation.exhaustive import (
    crash_everywhere,
    damage_everywhere,
    damage_snapshots_everywhere,
    splice_everywhere,
)


def test_after_a_crash_at_any_operation_also_of_the_recovery_all_that_was_promised_is_there() -> (
    None
):
    assert crash_everywhere() > 500


def test_no_damaged_journal_is_a_silently_different_history() -> None:
    assert damage_everywhere(every=29) > 3_000


def test_no_batch_of_another_history_is_taken_for_one_of_this() -> None:
    assert splice_everywhere() > 1


def test_no_damaged_snapshot_is_a_different_state() -> None:
    assert damage_snapshots_everywhere(every=11) > 500
