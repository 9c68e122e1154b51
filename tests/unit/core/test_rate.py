"""The token bucket, with times as plain numbers."""

from __future__ import annotations

import pytest

from tidegate.core.rate import TokenBucket


def test_a_burst_is_let_through_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(10, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s() == pytest.approx(0.1)
    assert not bucket.take(100.05)
    assert bucket.take(100.11)


def test_tokens_never_exceed_the_burst_and_time_never_goes_back() -> None:
    bucket = TokenBucket(10, 3, 100.0)
    assert bucket.take(10_000.0, 3)
    assert not bucket.take(9_000.0)
    assert not bucket.take(10_000.0)


def test_paying_goes_into_debt_and_says_for_how_long() -> None:
    bucket = TokenBucket(10, 5)
    assert bucket.pay(5, 1.0) == 0
    assert bucket.pay(20, 1.0) == pytest.approx(2.0)
    assert not bucket.take(2.9)
    assert bucket.pay(1, 3.1) == 0


def test_waiting_for_more_than_the_burst_ends_when_the_bucket_is_full() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert bucket.take(0.0, 5)
    assert bucket.wait_s(50) == pytest.approx(0.5)
    assert bucket.wait_s(0) == 0
