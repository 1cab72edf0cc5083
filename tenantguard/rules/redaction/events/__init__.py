"""Event streams redacted while they stream: what a protocol sends as deltas is one text.

``stream`` frames server-sent events, ``json_events`` redacts them one by one, and each provider's protocol has a
module that tells which strings are deltas of what.
"""

from __future__ import annotations

from tenantguard.rules.redaction.events.stream import EventStream

__all__ = ["EventStream"]
