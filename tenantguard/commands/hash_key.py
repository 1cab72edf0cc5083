"""``tenantguard hash-key``: what settings hold in place of an API key."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import getpass
import json
import sys
from typing import Any, Final

from tenantguard.errors import BadRequestError, ConfigurationError

KEY_CHARS_MIN: Final = 20
"""Keys are hashed fast and unsalted, so they must not be guessable: 20 random letters and digits are 119 bits."""

_EPILOG: Final = """\
examples:
  tenantguard hash-key --new --id acme-dev --tenant acme
  tenantguard hash-key < key.txt                    print the hash of a key that exists
  tenantguard hash-key                              ask for the key without showing it

The key itself is kept nowhere: give it to whoever calls, and put its hash into the settings.
"""


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "hash-key",
        help="make an API key, or hash one, for the settings",
        description="Print the hash of an API key, read from a prompt or from standard input, or make a new key.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--new", action="store_true", help="make a new key of 256 random bits and print it once")
    parser.add_argument("--tenant", default="acme", help="the tenant that the key belongs to (default: %(default)s)")
    parser.add_argument(
        "--id", help="the public id of the key in the settings and the audit (default: the tenant's name and -dev)"
    )


def run(args: argparse.Namespace) -> int:
    """Print a hash; with ``--new`` the key too, and the lines for the settings."""
    from tenantguard.adapters.identity.keys import hash_key, new_key  # noqa: PLC0415
    from tenantguard.model.tenant import TenantId  # noqa: PLC0415

    if not args.new:
        print(hash_key(_read_key()))
        return 0
    try:
        tenant = TenantId(args.tenant)
    except BadRequestError as wrong:
        raise ConfigurationError(f"--tenant: {wrong}") from None
    key = new_key()
    print(f"key, shown only now: {key}\n")
    print("[[tenancy.keys]]")
    print(f"id = {json.dumps(args.id or f'{tenant}-dev')}")
    print(f"tenant = {json.dumps(tenant)}")
    print(f"hash = {json.dumps(hash_key(key))}")
    return 0


def _read_key() -> str:
    key = getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if len(key) < KEY_CHARS_MIN:
        raise ConfigurationError(
            f"a key of fewer than {KEY_CHARS_MIN} characters can be guessed: make one with --new"
        )
    return key
