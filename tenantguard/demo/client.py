"""A caller of the endpoint, on the standard library alone: it sees what any program that speaks HTTP would see."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. ``whole`` is False where the connection ended before the response did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    @property
    def pieces(self) -> list[str]:
        """The pieces of text in which a stream of either provider came; one for an answer that was not streamed."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return [_said(_parsed(self.body))]
        events = (
            _parsed(line.removeprefix(b"data:")) for line in self.body.splitlines() if line.startswith(b"data:")
        )
        return [piece for event in events if (piece := _said(event))]

    @property
    def text(self) -> str:
        """What the model said, as it reached the caller; empty where it is no answer of a model."""
        return "".join(self.pieces)

    @property
    def code(self) -> str:
        """The stable code of a refusal, in the error object of a provider or in problem details; else empty."""
        fields = _parsed(self.body)
        error = fields.get("error", fields)
        return str(error.get("code") or "")

    def number(self, header: str) -> int | None:
        """A header that is a whole number, None where it is missing or is not."""
        text = self.headers.get(header, "")
        return int(text) if text.isdecimal() else None

    @property
    def left(self) -> int | None:
        """The requests left in the tightest bucket, as the provider whose API was called tells its clients."""
        openai = self.number("x-ratelimit-remaining-requests")
        return openai if openai is not None else self.number("anthropic-ratelimit-requests-remaining")


def post(url: str, path: str, key: str, body: Any, behaviour: str | None = None) -> Answer:
    """Send ``body`` as JSON and read the whole answer. ``behaviour`` tells the model server what to play."""
    with open_stream(url, path, key, body, behaviour) as response:
        pieces = []
        try:
            while piece := response.read1():
                pieces.append(piece)
            whole = not response.length  # what a content-length promised and did not come
        except (HTTPException, OSError):
            whole = False
        return Answer(response.status, lowered(response), b"".join(pieces), whole)


@contextmanager
def open_stream(url: str, path: str, key: str, body: Any, behaviour: str | None = None) -> Iterator[HTTPResponse]:
    """Send ``body``, give the response once its head is here, and hang up at the end, whatever was read by then."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    if path == "/v1/messages":
        headers = {"content-type": "application/json", "x-api-key": key, "anthropic-version": "2023-06-01"}
    if behaviour is not None:
        headers["x-behaviour"] = behaviour
    connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


def lowered(response: HTTPResponse) -> dict[str, str]:
    """The headers of a response, their names in lower case."""
    return {name.lower(): value for name, value in response.getheaders()}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _said(fields: dict[str, Any]) -> str:
    """The text in one answer, or in one event of a stream, of either provider."""
    for choice in fields.get("choices", ()):
        return (choice.get("message") or choice.get("delta") or {}).get("content") or ""
    for block in fields.get("content", ()):
        return str(block.get("text", ""))
    delta = fields.get("delta", {})
    return str(delta.get("text", ""))
