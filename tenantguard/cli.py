"""The command line: ``tenantguard COMMAND``. Each command is a module of ``tenantguard.commands``.

A command module has ``add_parser(subparsers)``, which adds the sub-command that is called like the module, and
``run(args) -> int``, which does the work and returns the exit code. It imports what is heavy only in ``run``.
"""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

from tenantguard import commands
from tenantguard.errors import ConfigurationError, PortError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
start here:
  tenantguard demo                                  see everything work, on this machine alone
  tenantguard hash-key --new --tenant acme          make an API key, and the lines for the settings
  tenantguard check tenantguard.toml                every problem at once, or each tenant's policy
  tenantguard prices update --provider openai       a pinned file of what models cost
  tenantguard ledger balance --tenant acme          what is left; also statements, refunds, top-ups, audit
  tenantguard proxy --config tenantguard.toml --upstream https://api.openai.com

exit codes: 0 done, 1 something of it failed, 2 the settings or arguments are wrong
"""


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        from importlib import metadata  # noqa: PLC0415 - only who asks pays for it

        print(f"tenantguard {metadata.version('tenantguard')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="tenantguard",
        description="Put each tenant's policy around an application or an LLM endpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    modules: dict[str, Any] = {}
    for found in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        module.add_parser(subparsers)
        modules[found.name.replace("_", "-")] = module
    args = parser.parse_args(argv)
    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here not in sys.path:
        sys.path.append(here)  # for a user's own "module:attr"; last, so that nothing here can stand in for a library
    try:
        code = int(modules[args.command].run(args))
        sys.stdout.flush()  # here, where a reader that has left is understood
    except ConfigurationError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    except PortError as failed:
        print(failed, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails once more
        return 1
    except KeyboardInterrupt:
        return 130
    return code
