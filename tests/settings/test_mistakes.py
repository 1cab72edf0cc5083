"""Any one mistake in a settings file is told where it was made: a key that there is not, a value of another kind."""

from __future__ import annotations

import tomllib

import pytest

from tenantguard.adapters.identity.keys import hash_key
from tenantguard.settings import SettingsError, parse_settings
from tenantguard.settings.document import show_path
from tenantguard.settings.policies import _READERS
from tenantguard.settings.reading import TABLES

FOUR = 'input = "1 USD/1M"\noutput = "1 USD/1M"\ncache_read = "1 USD/1M"\ncache_write = "1 USD/1M"'
MORE = "\n".join(
    f'{kind} = "1 USD/1M"'
    for kind in ("cache_write_1h", "audio_input", "image_input", "audio_output", "image_output", "reasoning")
)
WHOLE = f"""\
[guard]
ledger = "memory://"
limits = "memory://"
layers = ["tenant", "rate", "concurrency", "redaction", "charge"]
body_limit = 1
deadline_header = "x-timeout"
drain_s = 1.0
drains_max = 1
return_wait_s = 1.0
[ledger]
deadline_s = 1.0
queue_max = 1
admission = "exact"
[limits]
deadline_ms = 1
processes = 1
lease = 0
coalesce = true
[tenancy]
from = ["api-key"]
required = true
trust_headers = false
mode = "strict"
fallback = "default"
[[tenancy.keys]]
id = "dev"
tenant = "default"
hash = "{hash_key("k" * 20)}"
role = "editor"
[[routes]]
match = "/first"
[[routes]]
match = "/chat"
name = "chat"
usage = "openai-chat"
max_output = 1
min_output = 1
image_tokens = 1
file_tokens = 1
context_tokens = 1
dialect = "openai"
success = "ended"
on_missing_usage = "review"
on_disconnect = "drain"
price = "0 USD"
unit = "pages"
unit_price = "0 USD"
max_units = 1
idempotency = "off"
charge_once = true
charge_reported = true
on_orphan = "void"
public = false
[routes.takes]
images = 2
[prices.m]
{FOUR}
{MORE}
request = "1 USD"
[[prices.m.tiers]]
{FOUR}
{MORE}
request = "1 USD"
above = 1
[prices.m.services.batch]
multiplier = "0.5"
[prices.m.services.flex]
{FOUR}
{MORE}
request = "1 USD"
[[prices.m.services.flex.tiers]]
{FOUR}
above = 1
[pricing]
unknown_model = "default"
[pricing.default]
{FOUR}
[rates]
version = "1"
base = "USD"
EUR = "1.1 USD"
[alerts]
webhook = "https://example.com/alerts"
secret = "a secret that alerts are signed with, of 32 bytes"
[idempotency]
key = "a key that encrypts kept responses, of 32 bytes"

[redaction]
key = "a key for tests alone, of 32 bytes or more"
[proxy]
unknown_routes = "refuse"
[policies.plan]
[policies.default]
inherit = "plan"
plan = "gold"
rate = "1/second"
[[policies.default.concurrency]]
limit = 1
scope = "tenant"
when_full = "queue"
queue = 1
wait_s = 1.0
by = ["user"]
weight = 1
name = "streams"
[[policies.default.budget]]
limit = "1 EUR"
per = "day"
scope = "tenant"
mode = "strict"
[policies.default.budget.carry]
unused = "1 EUR"
[[policies.default.budget.alerts]]
percent = 1
of = "spent"
[[policies.default.quota]]
unit = "images"
limit = 1
per = "lifetime"
scope = "tenant"
mode = "strict"
carry = "none"
returned = true
[[policies.default.quota.alerts]]
percent = 1
of = "committed"
[policies.default.pricing]
markup = "1%"
discount = "0%"
[policies.default.redact]
request = "replace"
entities = []
recognizers = []
countries = []
languages = ["en"]
phone_regions = []
threshold = 0.5
context = true
fields = []
skip = []
keys = false
numbers = false
headers = []
query = false
path = false
secrets = "off"
limit = 1
unknown = "scrub"
on_error = "closed"
normalize = false
parity = "cascade"
restore = ["text"]
[policies.default.redact.allow]
exact = []
regex = []
domains = []
networks = []
[policies.default.redact.deny]
exact = []
regex = []
domains = []
networks = []
[policies.default.redact.operators]
EMAIL_ADDRESS = "hash"
[policies.default.redact.operators.US_SSN]
kind = "mask"
char = "x"
count = 1
from_end = true
[policies.default.redact.response]
mode = "restore"
[policies.default.redact.routes.chat]
keys = true
"""
LINES = WHOLE.split("\n")


def places() -> list[tuple[int, str]]:
    """Every key of ``WHOLE`` with its line, counted from 0, and its path as problems show it."""
    found = []
    table: tuple[str | int, ...] = ()
    elements: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(LINES):
        if line.startswith("["):
            names = line.strip("[]").split(".")
            table = ()
            for name in names:
                table = (*table, name)
                if table in elements and (table != tuple(names) or not line.startswith("[[")):
                    table = (*table, elements[table])
            if line.startswith("[["):
                elements[table] = elements.get(table, -1) + 1
                table = (*table, elements[table])
        elif line:
            found.append((number, show_path((*table, line.split(" ")[0]))))
    return found


PLACES = places()


def test_the_whole_of_it_is_right_and_has_every_table() -> None:
    read = parse_settings(WHOLE, environ={})
    document = tomllib.loads(WHOLE)
    assert document.keys() == set(TABLES)
    assert document["policies"]["default"].keys() == {"inherit", *_READERS}
    assert read.prices.models["m"].tiers[0].above == 1


@pytest.mark.parametrize(("number", "path"), PLACES, ids=[path for _, path in PLACES])
def test_a_mistake_is_told_with_its_line(number: int, path: str) -> None:
    key, _, value = LINES[number].partition(" = ")
    wrong_key, wrong_kind = [*LINES], [*LINES]
    wrong_key[number] = f"{key}z = {value}"
    wrong_kind[number] = f"{key} = 2020-01-01"
    for lines, place in ((wrong_key, f"{path}z"), (wrong_kind, path)):
        # any name is that of a unit, but then the quota counts none
        at = "policies.default.quota[0].unit" if place == "routes[1].takes.imagesz" else place
        with pytest.raises(SettingsError) as refused:
            parse_settings("\n".join(lines), environ={})
        told = {problem.path: problem.line for problem in refused.value.problems}
        assert at in told, refused.value
        if at.startswith(path):
            assert told[at] == number + 1, refused.value
