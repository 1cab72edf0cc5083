"""How long a request allows."""

from __future__ import annotations

import pytest

from tenantguard.errors import BadRequestError
from tenantguard.rules.deadlines import parse_timeout


@pytest.mark.parametrize(
    ("name", "text", "nanos"),
    [
        ("x-request-timeout-ms", "250", 250_000_000),
        ("x-request-timeout-ms", "0", 0),
        ("x-request-timeout", "250", 250_000_000_000),
        ("x-stainless-read-timeout", "600.5", 600_500_000_000),
        ("x-stainless-read-timeout", " 0.000000001 ", 1),
        ("grpc-timeout", "5S", 5 * 10**9),
        ("grpc-timeout", "2H", 7200 * 10**9),
        ("grpc-timeout", "3M", 180 * 10**9),
        ("grpc-timeout", "99999999m", 99_999_999 * 10**6),
        ("x-request-timeout-ms", "7u", 7000),
        ("x-request-timeout", "7n", 7),
    ],
)
def test_a_number_is_read_in_the_unit_of_its_header_or_its_own(name: str, text: str, nanos: int) -> None:
    assert parse_timeout(name, text) == nanos


@pytest.mark.parametrize("text", ["", "-1", "1e9", "soon", "1 s", "1s", "٣", "9" * 10, "1.5.2", ".5", "NaN", "5."])
def test_anything_else_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"^x-request-timeout-ms must be a number, of milliseconds$"):
        parse_timeout("x-request-timeout-ms", text)
