"""Content encodings undone, and what pretends to be encoded."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import TYPE_CHECKING

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantguard.adapters.encodings import available_decoders
from tenantguard.rules.encodings import CREDIT_BYTES, decoding
from tenantguard.rules.redaction.text.rule import MalformedTextError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ENCODE = {
    "gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
    "zstd": zstandard.compress,
}  # fmt: skip
NAMES = sorted(ENCODE)
DECODERS = available_decoders()


def decode(names: Sequence[str], chunks: Iterable[bytes], *, limit: int | None = None, ratio: int = 100) -> bytes:
    decoder = decoding(names, DECODERS, limit=limit, ratio=ratio)
    assert decoder is not None
    return b"".join([*map(decoder.feed, chunks), decoder.finish()])


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=400).map(lambda data: data * 7),
    names=st.lists(st.sampled_from(NAMES), max_size=2),
    step=st.integers(min_value=1, max_value=60),
)
def test_what_was_encoded_comes_back_in_any_chunks(data: bytes, names: list[str], step: int) -> None:
    """E+12."""
    encoded = data
    for name in names:
        encoded = ENCODE[name](encoded)
    assert decode(names, [encoded[at : at + step] for at in range(0, len(encoded), step)]) == data


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_several_members_are_one_body(name: str) -> None:
    encoded = ENCODE[name](b"one ") + ENCODE[name](b"") + ENCODE[name](b"two")
    assert decode([name], [encoded]) == b"one two"
    assert decode([name], [encoded[at : at + 1] for at in range(len(encoded))]) == b"one two"


def test_deflate_without_its_wrapper_is_deflate_too() -> None:
    for data in (b"", b"a", b"mail a@b.io " * 50):
        encoded = raw_deflate(data)
        assert decode(["deflate"], [encoded]) == data
        assert decode(["deflate"], [encoded[at : at + 1] for at in range(len(encoded))]) == data


def test_a_body_without_a_byte_is_empty_in_every_encoding() -> None:
    for name in NAMES:
        assert decode([name], [b"", b""]) == b""


@pytest.mark.parametrize("name", NAMES)
def test_what_is_cut_short_goes_on_or_is_something_else_is_an_error(name: str) -> None:
    encoded = ENCODE[name](b"mail john@smith.com " * 9)
    for broken in (
        encoded[:-1], encoded[:1], encoded[: len(encoded) // 2], encoded + b"x", encoded + b"x" * 40,
        b"mail john@smith.com", b"\xff" * 30,
    ):  # fmt: skip
        for chunks in ([broken], [broken[at : at + 1] for at in range(len(broken))]):
            with pytest.raises(MalformedTextError) as caught:
                decode([name], chunks)
            assert "john" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_stopped_before_it_has_grown(name: str) -> None:
    bomb = ENCODE[name](b"\0" * 50_000_000)
    with pytest.raises(MalformedTextError, match="more than 100 times"):
        decode([name], [bomb])
    with pytest.raises(MalformedTextError, match="more than 5000 bytes"):
        decode([name], [bomb], limit=5000, ratio=10**9)
    with pytest.raises(MalformedTextError):
        decode([name, "gzip"], [gzip.compress(bomb)])


def test_the_bounds_hold_however_long_a_stream_is() -> None:
    decoder = decoding(["gzip"], DECODERS, limit=None)
    assert decoder is not None
    fair = gzip.compress(os.urandom(200_000))
    for _ in range(20):
        assert len(decoder.feed(fair)) == 200_000
    with pytest.raises(MalformedTextError):
        decoder.feed(gzip.compress(b"\0" * 3 * CREDIT_BYTES))


def test_a_short_body_of_one_letter_is_no_bomb() -> None:
    for name in NAMES:
        assert decode([name], [ENCODE[name](b" " * 500_000)]) == b" " * 500_000


def test_many_empty_members_cost_linear_time() -> None:
    assert decode(["gzip"], [gzip.compress(b"") * 100_000]) == b""


@pytest.mark.parametrize("names", [["compress"], ["gzip", "x"], ["gzip", "gzip", "gzip"], ["GZIP"]])
def test_an_unknown_encoding_or_too_many_cannot_be_undone(names: list[str]) -> None:
    assert decoding(names, DECODERS, limit=None) is None


def test_gzip_and_deflate_need_no_package() -> None:
    assert decoding(["gzip", "deflate"], {}, limit=None) is not None
    assert decoding(["br"], {}, limit=None) is None
