"""``tenantguard proxy``: a streaming reverse proxy behind the guard that a settings file describes."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from tenantguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tenantguard.adapters.audits.json_lines import Unbuffered
    from tenantguard.settings import Settings

_EPILOG: Final = """\
examples:
  tenantguard proxy --config tenantguard.toml --upstream http://127.0.0.1:8000
  UPSTREAM_AUTH="Bearer sk-..." tenantguard proxy --config tenantguard.toml \\
      --upstream https://api.openai.com --header-env authorization=UPSTREAM_AUTH

Callers authenticate with the keys of the settings ("tenantguard hash-key --new"). Their credentials stop here; the
upstream gets the headers that --header-env names, whose values come from the environment so that no process list
shows them. Paths that no [[routes]] entry matches are answered with 404, unless the settings say
[proxy] unknown_routes = "forward": they would be neither priced nor charged.

Decisions and warnings are lines of JSON on standard output, one decision record for each request, unless a layer of
yours that the settings name configures structlog: then everything goes where it says.

SIGTERM or Ctrl-C stops taking requests and lets those in flight finish, at most --grace seconds.
"""

SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "date_header": False,  # the upstream sends both
    "proxy_headers": False,  # or whoever is on this machine could name any client
}
"""How uvicorn serves the proxy."""

_PAIR: Final = re.compile(r"\A(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?P<variable>[A-Za-z_][A-Za-z0-9_]*)\Z")

_GC_YOUNG_MAX: Final = 10_000
"""Objects that gather before the garbage collector looks at them: 6 to 8 % less CPU in the guard than with 700."""


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "proxy",
        help="guard an upstream: a streaming reverse proxy",
        description="Serve a streaming reverse proxy in front of an upstream, behind the guard of a settings file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the settings, tenantguard.toml")
    parser.add_argument("--upstream", required=True, metavar="URL", help="where requests go, http:// or https://")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_up_to(65_535), default=8080, help="the port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--header-env",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="send the upstream header NAME with the value of an environment variable; may be repeated",
    )
    parser.add_argument(
        "--grace",
        type=_up_to(86_400),
        default=30,
        metavar="SECONDS",
        help="how long requests in flight may finish after SIGTERM (default: %(default)s)",
    )


def _up_to(most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) > most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {most}")
        return int(text)

    return whole


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    from tenantguard.settings import read_settings  # noqa: PLC0415

    settings = read_settings(args.config)
    lines = _standard_output()
    app = guarded_proxy(settings, args.upstream, headers=headers_from(args.header_env, os.environ), lines=lines)
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError("serving the proxy needs uvicorn: pip install 'tenantguard[proxy]'") from None
    print(f"guarding {args.upstream} on http://{args.host}:{args.port} ({args.config})", file=sys.stderr, flush=True)
    keep_for_good()
    uvicorn.run(app, host=args.host, port=args.port, timeout_graceful_shutdown=args.grace, **SERVER_OPTIONS)
    return 0


def _standard_output() -> Unbuffered | None:
    """Where lines of JSON go, warnings too; None where somebody has said where logs go."""
    import structlog  # noqa: PLC0415 - 40 ms that only this command pays

    if structlog.is_configured():
        return None
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
    )
    return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)


def keep_for_good() -> None:
    """Tell the garbage collector that everything so far stays, and to look at what is new less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_YOUNG_MAX, *gc.get_threshold()[1:])


def guarded_proxy(
    settings: Settings,
    upstream: str,
    *,
    headers: Mapping[str, str] | None = None,
    lines: Unbuffered | None = None,
) -> Any:
    """The proxy to ``upstream`` as one ASGI application, behind the guard of ``settings``.

    Requests that no route names are refused with 404 unless the settings forward them. Decision records go to
    ``lines`` as lines of JSON, or else to structlog.
    """
    from tenantguard.proxy import upstream_app  # noqa: PLC0415
    from tenantguard.settings import build  # noqa: PLC0415

    guard = build(settings, proxy=True)
    if lines is not None:
        from tenantguard.adapters.audits.json_lines import JSONLinesSink  # noqa: PLC0415

        guard.ports.audits = (JSONLinesSink(lines),)
    return guard.asgi(upstream_app(upstream, headers=headers))


def headers_from(pairs: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Read ``NAME=VARIABLE`` pairs; a missing variable is the operator's error, and no value is ever shown.

    Nor is what stands in the place of a variable: it may be the value, written there by mistake.
    """
    headers: dict[str, str] = {}
    for pair in pairs:
        found = _PAIR.match(pair)
        if found is None:
            raise ConfigurationError(
                "--header-env: write NAME=VARIABLE, a header and the environment variable that holds its value"
            )
        if found["variable"] not in environ:
            raise ConfigurationError(
                f"--header-env: the environment variable for {found['name']} is not set: export it first"
            )
        headers[found["name"]] = environ[found["variable"]]
    return headers
