"""What the PostgreSQL ledger says to its database. Every statement takes many rows, as arrays.

They are written for a session that looks keys up in indexes (``postgres_link.py``), and prepared once in each.
"""

from __future__ import annotations

from typing import Final

from tenantguard.adapters.ledger.encoding import (
    ACCOUNT_COLUMNS,
    DENIAL_COLUMNS,
    ENTRY_COLUMNS,
    NOTICE_COLUMNS,
    OPEN_COLUMNS,
    SHOWN_COLUMNS,
)

NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000"
COLUMNS: Final = f"id, {ACCOUNT_COLUMNS}"

LOCK_LINES: Final = "SELECT pg_advisory_xact_lock($1, line) FROM unnest($2::integer[]) AS line"
KNOWN_ACCOUNTS: Final = f"""
    SELECT {COLUMNS} FROM account
    WHERE id = ANY($1::bigint[] || ARRAY(SELECT unnest(accounts) FROM hold WHERE id = ANY($2::bytea[])))
    ORDER BY id FOR NO KEY UPDATE
"""
ACCOUNTS: Final = f"""
    SELECT {COLUMNS} FROM account WHERE id = ANY(
        $1::bigint[]
        || ARRAY(SELECT unnest(accounts) FROM hold WHERE id = ANY($2::bytea[]))
        || ARRAY(
            SELECT unnest(accounts) FROM claim JOIN hold ON hold.id = claim.hold WHERE digest = ANY($3::bytea[])
        )
        || ARRAY(
            SELECT a.id FROM unnest($4::bytea[], $5::bigint[]) AS w (line, first) JOIN account a
            ON a.line = w.line AND a.window_starts_ns >= w.first
        )
        || ARRAY(
            SELECT last.id FROM unnest($6::bytea[]) AS w (line), LATERAL (
                SELECT id FROM account WHERE line = w.line ORDER BY window_starts_ns DESC LIMIT 1
            ) last
        )
    )
    ORDER BY id FOR NO KEY UPDATE
"""
HOLD_COLUMNS: Final = "id, tenant, state, on_orphan, placed_ns, accounts, held, charged"
HOLDS: Final = f"SELECT {HOLD_COLUMNS} FROM hold WHERE id = ANY($1::bytea[]) ORDER BY id FOR NO KEY UPDATE"
CLAIMS: Final = """
    SELECT tenant, key, hold, fingerprint, at_ns, answer FROM claim
    WHERE digest = ANY($1::bytea[]) OR hold = ANY($2::bytea[]) ORDER BY digest FOR NO KEY UPDATE
"""
CLAIMING: Final = f"""
    SELECT {HOLD_COLUMNS} FROM hold WHERE id = ANY(ARRAY(SELECT hold FROM claim WHERE digest = ANY($1::bytea[])))
"""
OUTSIDE: Final = "SELECT outside FROM entry WHERE outside = ANY($1::bytea[])"
BOOKED: Final = """
    SELECT op, leg, kind, amount, coalesce(cardinality(accounts), 1)
    FROM entry LEFT JOIN hold ON hold.id = "of" WHERE op = ANY($1::bytea[]) AND kind <> 0
"""
REFUNDED: Final = """
    SELECT "of", leg, -sum(amount)::bigint FROM entry WHERE "of" = ANY($1::bytea[]) GROUP BY 1, 2
"""

NEW_ACCOUNTS: Final = f"""
    INSERT INTO account (line, {ACCOUNT_COLUMNS}) SELECT * FROM unnest(
        $1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::bigint[]
    ) RETURNING id, line, window_starts_ns
"""
AMOUNTS: Final = """
    UPDATE account SET spent = new.spent, held = new.held
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (id, spent, held) WHERE account.id = new.id
"""
TERMS: Final = """
    UPDATE account SET spent = new.spent, held = new.held, tenant = new.tenant, ceiling = new.ceiling,
        carried = new.carried, grants = new.grants, terms = new.terms, alerted = new.alerted
    FROM unnest(
        $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
        $9::text[]
    ) AS new (id, spent, held, tenant, ceiling, carried, grants, terms, alerted) WHERE account.id = new.id
"""
NEW_HOLDS: Final = """
    INSERT INTO hold (id, tenant, state, on_orphan, owner, placed_ns, accounts, held, charged, reason, resolved_ns)
    SELECT id, tenant, state, on_orphan, $1::bytea, placed_ns, accounts::bigint[], held::bigint[], charged::bigint[],
        reason, resolved_ns
    FROM unnest(
        $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::bigint[]
    ) AS new (id, tenant, state, on_orphan, placed_ns, accounts, held, charged, reason, resolved_ns)
"""
ENDED_HOLDS: Final = """
    UPDATE hold SET state = new.state, charged = new.charged::bigint[], reason = new.reason,
        resolved_ns = new.resolved_ns
    FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS new (id, state, charged, reason, resolved_ns)
    WHERE hold.id = new.id
"""
DRAWN_HOLDS: Final = """
    UPDATE hold SET held = new.held::bigint[] FROM unnest($1::bytea[], $2::text[]) AS new (id, held)
    WHERE hold.id = new.id
"""
NEW_ENTRIES: Final = f"""
    INSERT INTO entry ({ENTRY_COLUMNS}, outside) SELECT * FROM unnest(
        $1::bytea[], $2::integer[], $3::smallint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bytea[],
        $16::bytea[]
    )
"""
NEW_CLAIMS: Final = """
    INSERT INTO claim (digest, tenant, key, hold, fingerprint, at_ns, answer) SELECT * FROM unnest(
        $1::bytea[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[]
    )
"""
CHANGED_CLAIMS: Final = """
    UPDATE claim SET hold = new.hold, fingerprint = new.fingerprint, at_ns = new.at_ns, answer = new.answer
    FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[])
        AS new (digest, hold, fingerprint, at_ns, answer)
    WHERE claim.digest = new.digest
"""
NEW_DENIALS: Final = f"""
    INSERT INTO decision ({DENIAL_COLUMNS}) SELECT * FROM unnest(
        $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[]
    )
"""
NEW_ALERTS: Final = """
    INSERT INTO outbox (kind, payload, made_ns, due_ns)
    SELECT 'alert', payload, $1::bigint, $1::bigint FROM unnest($2::text[]) AS payload
"""

BEAT: Final = """
    INSERT INTO owner VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET lease_until_ns = excluded.lease_until_ns
"""
ORPHANS: Final = """
    SELECT id FROM hold WHERE state = 'pending'
    AND NOT EXISTS (SELECT 1 FROM owner WHERE owner.id = hold.owner AND lease_until_ns >= $1) LIMIT $2
"""
LAPSE: Final = "DELETE FROM owner WHERE lease_until_ns < $1"
LEAVE: Final = """
    DELETE FROM owner WHERE id = $1
    AND NOT EXISTS (SELECT 1 FROM hold WHERE owner = owner.id AND state = 'pending')
"""
DROP_CLAIMS: Final = """
    WITH gone AS (
        DELETE FROM claim WHERE digest IN (
            SELECT digest FROM claim WHERE at_ns <= $1 AND NOT EXISTS (
                SELECT 1 FROM hold WHERE id = claim.hold AND state IN ('pending', 'review')
            ) ORDER BY at_ns LIMIT $2 FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    ) SELECT count(*) FROM gone
"""
DROP_NOTICES: Final = """
    WITH gone AS (
        DELETE FROM outbox WHERE seq IN (
            SELECT seq FROM outbox WHERE delivered_ns <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    ) SELECT count(*) FROM gone
"""
DROP_DENIALS: Final = """
    WITH gone AS (
        DELETE FROM decision WHERE seq IN (
            SELECT seq FROM decision WHERE at_ns <= $1 OR seq <= (SELECT max(seq) FROM decision) - $2
            ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    ) SELECT count(*) FROM gone
"""

BALANCES: Final = f"""
    SELECT {COLUMNS} FROM account WHERE ($1 = '' OR tenant = $1)
    AND ($2 = '' OR window_ends_ns IS NULL OR window_ends_ns > nullif($2, '')::bigint OR period LIKE 'rolling%')
    ORDER BY id
"""
_ENTRIES: Final = f"""
    SELECT {SHOWN_COLUMNS} FROM entry e JOIN account a ON a.id = e.account
    WHERE seq > $1::bigint AND ($2 = '' OR e.tenant = $2) AND ($3 = '' OR at_ns >= nullif($3, '')::bigint)
    AND ($4 = '' OR at_ns < nullif($4, '')::bigint) ORDER BY seq
"""
LATEST_ENTRIES: Final = f"{_ENTRIES} DESC LIMIT $5::bigint"
FIRST_ENTRIES: Final = f"{_ENTRIES} ASC LIMIT $5::bigint"
OPEN_HOLDS: Final = f"""
    SELECT {OPEN_COLUMNS}, leg.held FROM hold h
    LEFT JOIN LATERAL unnest(accounts, h.held) WITH ORDINALITY AS leg (account, held, number) ON true
    LEFT JOIN account a ON a.id = leg.account
    WHERE state IN ('pending', 'review') AND ($1 = '' OR h.tenant = $1) ORDER BY h.id, leg.number
"""
DENIALS: Final = f"""
    SELECT {DENIAL_COLUMNS} FROM decision WHERE $1 = '' OR tenant = $1 ORDER BY seq DESC LIMIT $2::bigint
"""
NOTICES: Final = f"""
    SELECT {NOTICE_COLUMNS} FROM outbox WHERE delivered_ns IS NULL ORDER BY seq DESC LIMIT $1::bigint
"""
TAKE_NOTICES: Final = f"""
    UPDATE outbox SET due_ns = $2::bigint, tries = tries + 1 WHERE seq IN (
        SELECT seq FROM outbox WHERE delivered_ns IS NULL AND due_ns <= $1::bigint ORDER BY seq LIMIT $3::bigint
        FOR UPDATE SKIP LOCKED
    ) RETURNING {NOTICE_COLUMNS}
"""
DELIVERED: Final = """
    UPDATE outbox SET delivered_ns = $2::bigint WHERE seq = $1::bigint AND delivered_ns IS NULL
"""
RETRY: Final = "UPDATE outbox SET due_ns = $2::bigint WHERE seq = $1::bigint AND delivered_ns IS NULL"
