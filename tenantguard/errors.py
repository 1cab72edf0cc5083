"""The exception tree. Each name says whose fault it is; a denied request is a decision, never an exception.

TenantGuardError
├── ConfigurationError      the operator: settings, stack order, impossible numbers
├── PortError               the world: a store, a policy source, an audit sink
│   └── PortTimeout         it did not answer within its deadline
├── LayerError              the layer's author: a broken contract with the flow
├── BadRequestError         the caller: a value that cannot be what it claims to be
└── ClientLeftError         the client: gone while its request was still being read
ResponseCut (OSError)       raised into the application when its response was cut; it should stop
"""

from __future__ import annotations


class TenantGuardError(Exception):
    """Anything that TenantGuard itself raises."""


class ConfigurationError(TenantGuardError):
    """The operator configured something that cannot work. The message names the place and the remedy."""


class PortError(TenantGuardError):
    """A store, source or sink failed. The message never carries a tenant's values."""

    def __init__(self, port: str, problem: str) -> None:
        super().__init__(f"{port}: {problem}")
        self.port = port
        self.problem = problem


class PortTimeout(PortError):  # noqa: N818 - named like the builtin TimeoutError
    """A port did not answer within its deadline, in seconds."""

    def __init__(self, port: str, deadline_s: float) -> None:
        super().__init__(port, f"no answer within {deadline_s:g} s")
        self.deadline_s = deadline_s


class LayerError(TenantGuardError):
    """A layer broke its contract: called ``proceed`` twice, yielded what is no effect, missed a fact."""


class BadRequestError(TenantGuardError, ValueError):
    """A value from outside is not what it must be (an empty tenant id, a malformed amount)."""


class ClientLeftError(TenantGuardError):
    """The client disconnected while its request body was being read; the application is not called."""


class ResponseCut(OSError):  # noqa: N818 - a signal to the application, like BrokenPipeError
    """The guard cut this response. An application sees it from ``send`` as it sees a lost client."""
