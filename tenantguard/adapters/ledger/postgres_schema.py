"""The ledger's PostgreSQL schema: its tables, how they are made and moved on, and what must be true in them.

All of it lives in one schema of the database, whose name the operator may choose. What another program made is left
as it is. Migrations only ever move forward, each in the transaction that records it, one process at a time.
"""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

from tenantguard.errors import ConfigurationError

LOCK_CLASS: Final = int.from_bytes(b"TGld", "big")
"""The first half of every advisory lock of ours, so that another program's are not in our way."""

_LOCK_OF_MIGRATIONS: Final = "0"
_FIRST: Final = (
    """
    CREATE TABLE account (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        line bytea NOT NULL,  -- digest of budget, period and unit: short, and sorted the same under every collation
        budget text NOT NULL,
        period text NOT NULL,
        unit text NOT NULL,
        window_starts_ns bigint NOT NULL,  -- 0 where the period is a lifetime
        window_ends_ns bigint,
        tenant text,  -- NULL once several share it
        ceiling bigint,  -- the limit of the last placing
        spent bigint NOT NULL CHECK (spent >= 0),
        held bigint NOT NULL CHECK (held >= 0),
        carried bigint NOT NULL,
        grants text,
        terms text,
        alerted text,
        previous bigint,
        UNIQUE (line, window_starts_ns)
    ) WITH (fillfactor = 50)  -- a hot account is updated within its page
    """,
    """
    CREATE TABLE hold (
        id bytea PRIMARY KEY,
        tenant text,  -- NULL: barred, nothing was ever placed
        state text NOT NULL CHECK (state IN ('pending', 'review', 'settled', 'voided', 'expired')),
        on_orphan text NOT NULL,
        owner bytea NOT NULL,
        placed_ns bigint NOT NULL,
        accounts bigint[] NOT NULL,
        held bigint[] NOT NULL,
        charged bigint[] NOT NULL,  -- empty until it has ended
        reason text,
        resolved_ns bigint
    )
    """,
    "CREATE INDEX hold_pending ON hold (owner) WHERE state = 'pending'",
    """
    CREATE TABLE entry (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        op bytea NOT NULL,
        leg integer NOT NULL,
        kind smallint NOT NULL,
        account bigint NOT NULL,
        tenant text NOT NULL,
        held bigint NOT NULL,
        amount bigint NOT NULL,
        absorbed bigint NOT NULL CHECK (absorbed >= 0),
        unit text NOT NULL,
        at_ns bigint NOT NULL,
        reason text NOT NULL,
        evidence text NOT NULL,
        source text,
        external_id text,
        "of" bytea,
        outside bytea  -- digest of source and external id, on the first entry of a charge
    )
    """,
    "CREATE UNIQUE INDEX entry_charge ON entry (op, leg) WHERE kind = 0",
    "CREATE UNIQUE INDEX entry_booking ON entry (op, leg) WHERE kind <> 0",
    "CREATE UNIQUE INDEX entry_outside ON entry (outside) WHERE outside IS NOT NULL",
    'CREATE INDEX entry_of ON entry ("of") WHERE "of" IS NOT NULL',
    """
    CREATE FUNCTION entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'entries never change and never go' USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TRIGGER entry_stays BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION entries_stay()
    """,
    "CREATE TRIGGER entry_lasts BEFORE TRUNCATE ON entry FOR EACH STATEMENT EXECUTE FUNCTION entries_stay()",
    """
    CREATE TABLE claim (
        digest bytea PRIMARY KEY,  -- of tenant and key
        tenant text NOT NULL,
        key text NOT NULL,
        hold bytea NOT NULL,
        fingerprint bytea NOT NULL,
        at_ns bigint NOT NULL,
        answer bytea
    )
    """,
    "CREATE INDEX claim_hold ON claim (hold)",
    "CREATE INDEX claim_age ON claim (at_ns)",
    """
    CREATE TABLE decision (  -- placings that found no room, the latest of them
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        hold bytea NOT NULL,
        tenant text NOT NULL,
        budget text NOT NULL,
        period text NOT NULL,
        unit text NOT NULL,
        window_starts_ns bigint NOT NULL,
        needed bigint NOT NULL,
        available bigint NOT NULL,
        at_ns bigint NOT NULL
    )
    """,
    """
    CREATE TABLE outbox (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        payload text NOT NULL,  -- JSON
        made_ns bigint NOT NULL,
        due_ns bigint NOT NULL,
        tries integer NOT NULL DEFAULT 0,
        delivered_ns bigint
    )
    """,
    "CREATE INDEX outbox_due ON outbox (due_ns) WHERE delivered_ns IS NULL",
    "CREATE INDEX outbox_done ON outbox (delivered_ns) WHERE delivered_ns IS NOT NULL",
    "CREATE TABLE owner (id bytea PRIMARY KEY, lease_until_ns bigint NOT NULL)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
"""What leads from each version of the schema to the next, the first from nothing. Once released, none is edited."""

PRIVILEGES: Final = {
    "account": "SELECT, INSERT, UPDATE",
    "hold": "SELECT, INSERT, UPDATE",
    "entry": "SELECT, INSERT",
    "claim": "SELECT, INSERT, UPDATE, DELETE",
    "decision": "SELECT, INSERT, UPDATE, DELETE",
    "outbox": "SELECT, INSERT, UPDATE, DELETE",
    "owner": "SELECT, INSERT, UPDATE, DELETE",
    "version": "SELECT",
}
"""What the role of a guard needs in the schema, once another role has made it."""

AUDIT: Final = (
    """
    SELECT format('account %s spent %s, its entries say %s', id, spent, coalesce(total, 0)) FROM account
    LEFT JOIN (SELECT account, sum(amount) AS total FROM entry WHERE kind <> 3 GROUP BY account) e ON e.account = id
    WHERE spent <> coalesce(total, 0)
    """,
    """
    SELECT format('account %s holds %s, its open legs say %s', a.id, a.held, coalesce(total, 0)) FROM account a
    LEFT JOIN (
        SELECT leg.account, sum(leg.held) AS total FROM hold, unnest(accounts, held) AS leg (account, held)
        WHERE state IN ('pending', 'review') GROUP BY 1
    ) open ON open.account = a.id
    WHERE a.held <> coalesce(total, 0)
    """,
    """
    SELECT format('entry %s charges a hold that is %s', seq, coalesce(state, 'unknown'))
    FROM entry LEFT JOIN hold ON hold.id = op WHERE kind = 0 AND state IS DISTINCT FROM 'settled'
    """,
    """
    SELECT format('entry %s does not fit its leg', seq) FROM entry JOIN hold ON hold.id = op
    WHERE kind = 0 AND state = 'settled'
    AND (account, entry.held, amount)
        IS DISTINCT FROM (accounts[leg + 1], hold.held[leg + 1], charged[leg + 1])
    """,
    """
    SELECT format('hold %s was charged and no entry shows it', encode(hold.id, 'hex'))
    FROM hold, unnest(charged) WITH ORDINALITY AS leg (amount, number)
    WHERE leg.amount > 0
    AND NOT EXISTS (SELECT 1 FROM entry WHERE op = hold.id AND kind = 0 AND entry.leg = number - 1)
    """,
    """
    SELECT format('entry %s and entry %s charge one external id for two holds', min(seq), max(seq))
    FROM entry WHERE kind = 0 AND external_id IS NOT NULL GROUP BY external_id, source HAVING count(DISTINCT op) > 1
    """,
    """
    SELECT format('hold %s leg %s was given back %s of %s', encode("of", 'hex'), back.leg, total,
        coalesce(charge.amount, 0))
    FROM (SELECT "of", leg, account, -sum(amount) AS total FROM entry WHERE "of" IS NOT NULL GROUP BY 1, 2, 3) back
    LEFT JOIN (SELECT op, leg, account, amount FROM entry WHERE kind = 0) charge
        ON charge.op = back."of" AND charge.leg = back.leg AND charge.account = back.account
    WHERE total > coalesce(charge.amount, 0)
    """,
    """
    SELECT format('account %s was granted %s, its entries say %s', id, granted, coalesce(total, 0))
    FROM (
        SELECT id, coalesce((SELECT sum((g ->> 0)::bigint) FROM json_array_elements(grants::json) AS g), 0) AS granted
        FROM account
    ) a LEFT JOIN (SELECT account, sum(amount) AS total FROM entry WHERE kind = 3 GROUP BY account) e
    ON e.account = id WHERE granted <> coalesce(total, 0)
    """,
    """
    SELECT format('account %s follows %s, which is no earlier window of it', a.id, a.previous)
    FROM account a LEFT JOIN account b ON b.id = a.previous WHERE a.previous IS NOT NULL
    AND (b.line IS DISTINCT FROM a.line OR b.window_starts_ns >= a.window_starts_ns)
    """,
    "SELECT format('entry %s refunds no hold', seq) FROM entry WHERE (kind = 1) <> (\"of\" IS NOT NULL)",
    """
    SELECT format('entry %s is of no account', seq) FROM entry
    WHERE NOT EXISTS (SELECT 1 FROM account WHERE id = entry.account)
    """,
    """
    SELECT format('hold %s is of no account', encode(hold.id, 'hex')) FROM hold, unnest(accounts) AS number
    WHERE NOT EXISTS (SELECT 1 FROM account WHERE account.id = number)
    """,
    """
    SELECT format('the claim %s of %s is of no hold of that tenant', key, tenant) FROM claim
    WHERE NOT EXISTS (SELECT 1 FROM hold WHERE hold.id = claim.hold AND hold.tenant = claim.tenant)
    """,
    """
    SELECT format('notice %s was delivered without a try', seq) FROM outbox
    WHERE delivered_ns IS NOT NULL AND tries = 0
    """,
)
"""Each row that one of these gives is a broken invariant, as a sentence."""


class Session(Protocol):
    """A connection to the database, at whose schema its statements aim."""

    def rows(self, text: str, *values: str) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        ...

    def take_time(self) -> None:
        """Let what follows take as long as it takes."""
        ...


def prepare(db: Session, schema: str) -> None:
    """Make the schema in this database or move it on, where that is needed, and check that it can be used.

    Several processes may do so at once. Raises :class:`ConfigurationError` where it cannot work.
    """
    if db.rows("SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1", schema) == [
        (False,)
    ]:
        raise ConfigurationError(
            f"the ledger's role lacks USAGE on the schema {schema!r}: grant that, see docs/ledger-postgres.md"
        )
    if _version(db, schema) < len(MIGRATIONS):
        db.take_time()
        db.rows("BEGIN")
        db.rows("SELECT pg_advisory_xact_lock($1, $2)", str(LOCK_CLASS), _LOCK_OF_MIGRATIONS)
        _migrate(db, schema, _version(db, schema))
        db.rows("COMMIT")
    _check_privileges(db, schema)


def _version(db: Session, schema: str) -> int:
    """The version of the schema that is there, 0 for none."""
    rows = db.rows(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1", schema
    )
    tables = {name for (name,) in rows}
    if not tables:
        return 0
    if not {"version", "account", "hold", "entry"} <= tables:
        raise ConfigurationError(
            f"the schema {schema!r} of the ledger's database is another program's: choose another schema or database"
        )
    ((version,),) = db.rows("SELECT max(number) FROM version")
    if version is None:
        raise ConfigurationError(
            f"the schema {schema!r} of the ledger's database does not say its version: restore it from a backup"
        )
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"the schema {schema!r} was written by a newer TenantGuard (schema {version}, this one knows"
            f" {len(MIGRATIONS)}): upgrade TenantGuard or choose another schema"
        )
    return int(version)


def _migrate(db: Session, schema: str, found: int) -> None:
    if found == len(MIGRATIONS):
        return
    if found == 0:
        if db.rows("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema) == []:
            db.rows(f"CREATE SCHEMA {schema}")
        db.rows("CREATE TABLE version (number integer NOT NULL)")
        db.rows("INSERT INTO version VALUES (0)")
    for statement in [each for migration in MIGRATIONS[found:] for each in migration]:
        db.rows(statement)
    db.rows("UPDATE version SET number = $1", str(len(MIGRATIONS)))


def _check_privileges(db: Session, schema: str) -> None:
    """Find beforehand what would fail with the first command."""
    ((missing,),) = db.rows(
        "SELECT string_agg(privilege || ' on ' || name, ', ') FROM json_each_text($1::json) AS w (name, privileges),"
        " unnest(string_to_array(privileges, ', ')) AS privilege"
        " WHERE NOT has_table_privilege($2 || '.' || name, privilege)",
        json.dumps(PRIVILEGES),
        schema,
    )
    if missing:
        raise ConfigurationError(
            f"the ledger's role lacks {missing} in the schema {schema!r}: grant that, see docs/ledger-postgres.md"
        )
