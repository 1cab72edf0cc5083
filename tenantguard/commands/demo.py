"""``tenantguard demo``: the main job in one command, with every number checked."""

from __future__ import annotations

import argparse
from typing import Any, Final

_EPILOG: Final = """\
what happens:
  A model server that speaks the OpenAI and Anthropic wire formats starts on this machine, with the guarded proxy in
  front of it, and a tour of requests goes through both over real HTTP: an allowed call; personal data scrubbed on
  the way in and restored in a stream on the way out; 429 with a true Retry-After, 402 and 401; a model that fails; a
  client that hangs up; 100 requests at once against money for 10. Nothing leaves this machine, and nothing stays.

examples:
  tenantguard demo
  tenantguard demo --serve          then try it with curl: the commands are printed, with the demo's keys

the demo's keys:
  tg_demo_acme_0123456789           a rate, a budget, and personal data kept from the model
  tg_demo_hasty_0123456789          two requests at once, then one every two seconds
  tg_demo_broke_0123456789          hardly any money
  tg_demo_crowd_0123456789          money for ten reports

The settings are a file that is printed at the start: a good one to begin with.

exit codes: 0 every number is the expected one, 1 one is not, 2 something that the demo needs is missing
"""


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "demo",
        help="see everything work on this machine, and check every number",
        description="Guard a model server on this machine, send it requests of every kind, and check every number.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--serve", action="store_true", help="go on serving after the tour, until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Take the tour; 0 if every number was right."""
    from tenantguard.demo.show import show  # noqa: PLC0415 - loads the extra ``proxy``

    return show(serve=args.serve)
