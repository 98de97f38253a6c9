"""A product's settings: names, ranges, two decimals, and distances to the last ten-thousandth."""

import pytest

from matching.settings import BadSetting, read_settings, span


@pytest.mark.parametrize(
    ("name", "value"),
    [("collar", 0), ("band", 1_000_000), ("breaker", 100), ("maker_fee", -1_000_000)],
)
def test_percents_are_0_to_100_and_fees_100_basis_points_either_way(name: str, value: int) -> None:
    assert read_settings(((name, value),)) == {name: value}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("colar", 100, "there is no setting colar"),
        ("collar", 150, "at most two decimals"),
        ("collar", -100, "from 0 to 100"),
        ("band", 1_000_100, "from 0 to 100"),
        ("taker_fee", 1_000_100, "from -100 to 100 basis points"),
    ],
)
def test_a_setting_that_cannot_be_says_why(name: str, value: int, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        read_settings(((name, value),))


@pytest.mark.parametrize("price", [1, 9_999, 333_333, 1_000_001])
@pytest.mark.parametrize("hundredths", [1, 33, 500, 9_999])
def test_a_span_reaches_as_far_as_the_percentage_and_no_further(
    price: int, hundredths: int
) -> None:
    reach = span(hundredths * 100, price)
    assert reach * 10_000 <= hundredths * price < (reach + 1) * 10_000
