"""Tokens of one call: estimated before it, known after it, for limits that count them.

An estimate is what a rate reserves, never what money is held for: it is settled with what was used, so it may be too
small or too large without anybody losing by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tenantguard.model.outcome import Ending

if TYPE_CHECKING:
    from tenantguard.model.charge import Reported
    from tenantguard.model.outcome import Outcome
    from tenantguard.model.usage import Usage
    from tenantguard.rules.requests import Call
    from tenantguard.rules.usage import UsageDecoder

BYTES_PER_TOKEN: Final = 4
"""The usual estimate for English text; only used where nothing better is known."""


class Estimate(NamedTuple):
    """So many tokens, at least 1; ``explicit``: the request itself says how many it may put out."""

    tokens: int
    explicit: bool

    def within(self, burst: int) -> int:
        """What is reserved of a bucket with this burst.

        An estimate that rests on our guess alone never exceeds it, so that a first request can pass. One that the
        request asks for stays, and can be refused for good.
        """
        return self.tokens if self.explicit else min(self.tokens, burst)


def estimate(call: Call, input_bytes: int, max_output: int | None) -> Estimate:
    """The prompt by its bytes, and the largest output cap of the request, or the route's, for each of its choices."""
    cap = call.output_cap
    output = max_output if cap is None else cap
    if output is not None and max_output is not None:
        output = min(output, max_output)
    return Estimate(max(1, -(-input_bytes // BYTES_PER_TOKEN) + (output or 0) * call.choices), cap is not None)


def tokens_of(usage: Usage) -> int:
    """All tokens in and out, those of caches and of sound and images included."""
    return (
        usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.cache_write_1h_tokens
        + usage.audio_input_tokens
        + usage.output_tokens
        + usage.audio_output_tokens
        + usage.image_output_tokens
    )


def tokens_used(
    outcome: Outcome, decoder: UsageDecoder | None, reported: Reported | None, input_bytes: int
) -> int | None:
    """What a call that was made used, as far as anybody knows; None: as many as were estimated.

    Whoever failed used nothing. Of a response that was left or cut, what was announced counts, and what was put out
    by its bytes.
    """
    if outcome.ending is Ending.FAILED:
        return 0
    if reported is not None and reported.usage is not None:
        return tokens_of(reported.usage)
    if decoder is None:
        return None
    if decoder.usage is not None:
        return tokens_of(decoder.usage)
    if outcome.ending is Ending.COMPLETED:
        return None
    output = -(-(decoder.output_bytes or decoder.document_bytes) // BYTES_PER_TOKEN)
    announced = decoder.usage_so_far
    if announced is None:
        return -(-input_bytes // BYTES_PER_TOKEN) + output
    return tokens_of(announced) - announced.output_tokens + max(announced.output_tokens, output)
