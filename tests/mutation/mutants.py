"""Mutants: small faults, each of which the sentences of the tests must notice."""

# ruff: noqa: E501 - the lines of other files stay whole
from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``old`` stands exactly once in ``file`` of ``tenantguard/rules``, and ``new`` in its place is a fault."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    # states
    Mutant(
        "an expired hold takes no late settling",
        "ledger/states.py",
        "HoldState.EXPIRED: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED}",
        "HoldState.EXPIRED: {Input.VOID: HoldState.VOIDED}",
    ),
    Mutant(
        "a hold under review cannot be voided",
        "ledger/states.py",
        "HoldState.REVIEW: {Input.SETTLE: HoldState.SETTLED, Input.VOID: HoldState.VOIDED}",
        "HoldState.REVIEW: {Input.SETTLE: HoldState.SETTLED}",
    ),
    Mutant(
        "a hold under review releases its money",
        "ledger/states.py",
        "HOLDING: Final = frozenset({HoldState.PENDING, HoldState.REVIEW})",
        "HOLDING: Final = frozenset({HoldState.PENDING})",
    ),
    Mutant(
        "an orphan that was to be charged expires",
        "ledger/states.py",
        "OnOrphan.CHARGE_HOLD: Input.SETTLE",
        "OnOrphan.CHARGE_HOLD: Input.EXPIRE",
    ),
    Mutant(
        "a settled hold can be voided",
        "ledger/states.py",
        "HoldState.SETTLED: {},",
        "HoldState.SETTLED: {Input.VOID: HoldState.VOIDED},",
    ),
    # accounts
    Mutant(
        "a grant ends a nanosecond late",
        "ledger/accounts.py",
        "grant.expires_ns is None or grant.expires_ns > now_ns",
        "grant.expires_ns is None or grant.expires_ns >= now_ns",
    ),
    Mutant("grants do not raise the limit", "ledger/accounts.py", "limit += account.granted(now_ns)", "limit += 0"),
    Mutant("what was inherited does not count", "ledger/accounts.py", "limit += inherited", "limit += 0"),
    Mutant(
        "what is held is not counted as taken",
        "ledger/accounts.py",
        "left -= account.spent + account.held",
        "left -= account.spent",
    ),
    Mutant(
        "what is spent is not counted as taken",
        "ledger/accounts.py",
        "left -= account.spent + account.held",
        "left -= account.held",
    ),
    Mutant(
        "a soft limit refuses",
        "ledger/accounts.py",
        "if limit is None or not terms.strict else",
        "if limit is None else",
    ),
    Mutant("what is left can be negative", "ledger/accounts.py", "return max(left, 0)\n", "return left\n"),
    Mutant(
        "the cap of what is carried is forgotten",
        "ledger/accounts.py",
        "min(max(left, 0), terms.cap, UNITS_MAX)",
        "min(max(left, 0), UNITS_MAX)",
    ),
    Mutant("debt is forgiven", "ledger/accounts.py", "max(min(left, 0), -UNITS_MAX)", "0"),
    Mutant(
        "what is held is carried over as unused",
        "ledger/accounts.py",
        "- previous.spent - previous.held",
        "- previous.spent",
    ),
    Mutant(
        "what was carried is not carried on",
        "ledger/accounts.py",
        "previous.limit + previous.carried + granted",
        "previous.limit + granted",
    ),
    Mutant(
        "grants that had ended are carried",
        "ledger/accounts.py",
        "if owes else previous.granted(ended_ns - 1)",
        "if True else previous.granted(ended_ns - 1)",
    ),
    Mutant("untouched windows add nothing", "ledger/accounts.py", "max(limit, 0) * _windows(", "0 * _windows("),
    Mutant(
        "an alert a percent late",
        "ledger/accounts.py",
        "amount * _PERCENT >= threshold.percent * most",
        "amount * _PERCENT > threshold.percent * most",
    ),
    Mutant("an alert again and again", "ledger/accounts.py", "threshold.name not in seen and ", ""),
    Mutant(
        "alerts look at what is spent only",
        "ledger/accounts.py",
        "spent if threshold.of is Counted.SPENT else committed",
        "spent",
    ),
    Mutant(
        "alerts of a rolling period look at one bucket",
        "ledger/accounts.py",
        "counting = (account, *beside)",
        "counting = (account,)",
    ),
    # placing, in books.py
    Mutant(
        "a placing that is sent again is placed again",
        "ledger/books.py",
        "        known = self.holds.get(hold_id)\n        if known is not None:",
        "        known = self.holds.get(hold_id)\n        if known is None and False:",
    ),
    Mutant("a barred id can be placed", "ledger/books.py", "_BARRED if known.tenant is None else ", ""),
    Mutant(
        "legs of one account do not see each other",
        "ledger/books.py",
        "for other, amount in placed if other is account",
        "for other, amount in placed if other is None",
    ),
    Mutant(
        "one unit more than there is",
        "ledger/books.py",
        "if granted < leg.least and",
        "if granted + 1 < leg.least and",
    ),
    Mutant(
        "a soft limit refuses where 64 bits are full",
        "ledger/books.py",
        "if granted < leg.least and leg.terms.strict:",
        "if granted < leg.least:",
    ),
    Mutant(
        "always all that is asked for", "ledger/books.py", "granted = min(leg.most, available)", "granted = leg.most"
    ),
    Mutant(
        "only the first leg is held",
        "ledger/books.py",
        "            account.held += granted\n            account.limit",
        "            account.held += granted if account is placed[0][0] else 0\n            account.limit",
    ),
    Mutant(
        "what is held on an account that is there is not stored",
        "ledger/books.py",
        "            self.touched[id(account)] = account\n            if leg.terms.thresholds:",
        "            if leg.terms.thresholds:",
    ),
    Mutant(
        "what was inherited is not written down",
        "ledger/books.py",
        "            account.carried = inherited\n",
        "            pass\n",
    ),
    Mutant(
        "a shared account stays the first tenant's", "ledger/books.py", "if account.tenant != tenant:", "if False:"
    ),
    Mutant(
        "a refused key is taken",
        "ledger/books.py",
        "                return taken\n",
        "                return taken\n            self.claims[tenant, claim.key] = Claimed(hold_id, claim.fingerprint, now_ns)\n",
    ),
    # ending
    Mutant(
        "an unknown id is not barred",
        "ledger/books.py",
        "            self.changed[hold_id] = None\n            return Resolved(HoldState.VOIDED, ())",
        "            del self.holds[hold_id]\n            return Resolved(HoldState.VOIDED, ())",
    ),
    Mutant(
        "a leg is not released",
        "ledger/books.py",
        "            for account, held in hold.legs:\n                account.held -= held",
        "            for account, held in hold.legs[:1]:\n                account.held -= held",
    ),
    Mutant("more than was held is charged", "ledger/books.py", "fits = min(asked, held)\n", "fits = asked\n"),
    Mutant(
        "a late settling passes the limit",
        "ledger/books.py",
        "fits = min(fits, self._left_late(account, now_ns))",
        "fits = min(fits, held)",
    ),
    Mutant("every settling is late", "ledger/books.py", "late=not holding", "late=True"),
    Mutant(
        "a soft limit is charged what was held",
        "ledger/books.py",
        "fits = min(asked, UNITS_MAX - account.spent - account.held)",
        "fits = min(asked, held)",
    ),
    Mutant(
        "soft limits pass 64 bits",
        "ledger/books.py",
        "fits = min(asked, UNITS_MAX - account.spent - account.held)",
        "fits = asked",
    ),
    Mutant(
        "what does not fit is not recorded",
        "ledger/books.py",
        "absorbed = min(asked - fits, UNITS_MAX)",
        "absorbed = 0",
    ),
    Mutant(
        "nothing makes an entry",
        "ledger/books.py",
        "            if asked:\n                absorbed",
        "            if True:\n                absorbed",
    ),
    Mutant("an external id is charged again", "ledger/books.py", "self.charged.add(outside)", "pass"),
    Mutant(
        "a free response uses up its external id",
        "ledger/books.py",
        "if outside is not None and len(self.lines) > lines_before:",
        "if outside is not None:",
    ),
    Mutant(
        "an operator's hold ends with its process",
        "ledger/books.py",
        "if hold.state is not HoldState.PENDING:",
        "if hold.state.is_final:",
    ),
    Mutant(
        "what may have been carried is charged once more",
        "ledger/books.py",
        "left = max(left - account.terms.cap, 0)",
        "left = max(left, 0)",
    ),
    # leases
    Mutant(
        "a lease gets all that is left",
        "ledger/books.py",
        "                available = available * share // _PERCENT\n",
        "                pass\n",
    ),
    Mutant(
        "a lease that was refused is a denial",
        "ledger/books.py",
        "                if share is None:\n",
        "                if True:\n",
    ),
    Mutant(
        "a share may be anything", "ledger/books.py", "type(share) is not int or not 1 <= share <= _PERCENT", "False"
    ),
    Mutant(
        "what was drawn stays in the lease too",
        "ledger/books.py",
        "rest.append((account, held - taken))",
        "rest.append((account, held))",
    ),
    Mutant(
        "more is drawn than the lease holds",
        "ledger/books.py",
        "taken = min(portion, held)",
        "taken = portion",
    ),
    Mutant(
        "what is drawn from a lost lease is not late",
        "ledger/books.py",
        "            hold.state = HoldState.EXPIRED\n",
        "            pass\n",
    ),
    Mutant(
        "a lease under review is drawn from",
        "ledger/books.py",
        "if lease.state is HoldState.PENDING:",
        "if lease.state in HOLDING:",
    ),
    Mutant(
        "what a lease still holds is not stored",
        "ledger/books.py",
        "            self.changed.setdefault(lease.id, HoldState.PENDING)\n",
        "",
    ),
    Mutant(
        "a lease is drawn from before the amounts are looked at",
        "ledger/books.py",
        "            _check_amounts(amounts, lease)\n",
        "            pass\n",
    ),
    Mutant(
        "a hold is drawn again and again",
        "ledger/books.py",
        "if hold is None and drawn is not None:",
        "if drawn is not None:",
    ),
    Mutant(
        "what is barred can be drawn from",
        "ledger/books.py",
        "if lease is None or lease.tenant is None:",
        "if lease is None:",
    ),
    Mutant(
        "a rolling period can be drawn from",
        "ledger/books.py",
        "if any(account.key[1].buckets for account, _ in lease.legs):",
        "if False:",
    ),
    # keys of callers
    Mutant(
        "a conflict is a repetition", "ledger/books.py", "if claimed.fingerprint != claim.fingerprint:", "if False:"
    ),
    Mutant(
        "a voided hold keeps its key",
        "ledger/books.py",
        "hold.state in {HoldState.VOIDED, HoldState.EXPIRED}",
        "hold.state is HoldState.EXPIRED",
    ),
    Mutant(
        "an expired hold keeps its key",
        "ledger/books.py",
        "hold.state in {HoldState.VOIDED, HoldState.EXPIRED}",
        "hold.state is HoldState.VOIDED",
    ),
    Mutant("a key is kept for ever", "ledger/books.py", "claimed.at_ns <= now_ns - CLAIM_KEPT_NS", "False"),
    Mutant(
        "an answer is kept under a key of another hold",
        "ledger/books.py",
        "if claimed is not None and claimed.hold == hold.id:",
        "if claimed is not None:",
    ),
    # what operators book
    Mutant(
        "a refund is given twice",
        "ledger/books.py",
        "hold.refunded = tuple([given + amount for given, amount in zip(refunded, amounts, strict=True)])",
        "pass",
    ),
    Mutant(
        "a refund of more than was charged",
        "ledger/books.py",
        "if any(amount > rest for amount, rest in zip(amounts, left, strict=True)):",
        "if False:",
    ),
    Mutant("a refund below nothing spent", "ledger/books.py", "if given > account.spent:", "if False:"),
    Mutant(
        "what is open can be refunded",
        "ledger/books.py",
        "if hold is None or hold.state is not HoldState.SETTLED:",
        "if hold is None:",
    ),
    Mutant("a refund makes no room", "ledger/books.py", "account.spent -= amount", "pass"),
    Mutant("a refund that is sent again is given again", "ledger/books.py", "self.booked[op] = amounts", "pass"),
    Mutant("a grant that is sent again is given again", "ledger/books.py", "self.booked[op] = (leg.most,)", "pass"),
    Mutant("a correction that is sent again is made again", "ledger/books.py", "self.booked[op] = (amount,)", "pass"),
    Mutant(
        "grants pass 64 bits",
        "ledger/books.py",
        "if sum([grant.amount for grant in account.grants]) + leg.most > UNITS_MAX:",
        "if False:",
    ),
    Mutant(
        "a correction below nothing",
        "ledger/books.py",
        "if not 0 <= account.spent + amount <= UNITS_MAX - account.held:",
        "if account.spent + amount > UNITS_MAX - account.held:",
    ),
    Mutant(
        "a correction tells nobody",
        "ledger/books.py",
        "        self._alert(account, now_ns)\n        self.booked",
        "        self.booked",
    ),
    Mutant(
        "a grant breaks the chain of what is carried",
        "ledger/books.py",
        "        self._inherit(account, leg)\n        self._keep(account)\n        self._book(op, 0, EntryKind.GRANT",
        "        self._keep(account)\n        self._book(op, 0, EntryKind.GRANT",
    ),
    # the parts
    Mutant(
        "a rolling period is its current bucket",
        "ledger/books.py",
        "return [other for other in found if other is not None]",
        "return []",
    ),
    Mutant(
        "amounts may be bools and floats",
        "ledger/books.py",
        "if any(type(amount) is not int or amount < 0 for amount in amounts):",
        "if any(amount < 0 for amount in amounts):",
    ),
    Mutant(
        "a settling may be negative",
        "ledger/books.py",
        "if any(type(amount) is not int or amount < 0 for amount in amounts):",
        "if any(type(amount) is not int for amount in amounts):",
    ),
    Mutant("a limit passes 64 bits", "ledger/books.py", "min(max(limit, 0), UNITS_MAX)", "max(limit, 0)"),
    Mutant(
        "a limit may be a float",
        "ledger/books.py",
        "if leg.limit is not None and type(leg.limit) is not int:",
        "if False:",
    ),
    # legs
    Mutant(
        "identities share an account", "legs.py", 'tenant.identity.id if tenant.identity is not None else ""', '""'
    ),
    Mutant(
        "routes share an account",
        "legs.py",
        '("route", tenant.id, route, self.text)',
        '("route", tenant.id, self.text)',
    ),
    Mutant(
        "tenants share an account",
        "legs.py",
        'budget = ("tenant", tenant.id, self.text)',
        'budget = ("tenant", self.text)',
    ),
    Mutant("soft rules are strict", "legs.py", "strict = rule.mode is Mode.STRICT", "strict = True"),
    Mutant("thresholds are forgotten", "legs.py", " and not rule.thresholds", ""),
    Mutant("every quota is drawn on by every request", "legs.py", "            if line.unit in units\n", ""),
    Mutant("what is returned is used up", "legs.py", "returned=rule.returned", "returned=False"),
    Mutant("currencies are mixed", "legs.py", "if self.currency != currency:", "if False:"),
    # charging
    Mutant(
        "units are not part of the bound",
        "charging.py",
        "extra = self.flat_nanos + self.unit_nanos * (self.route.max_units or 0)",
        "extra = self.flat_nanos",
    ),
    Mutant(
        "one token more than is affordable",
        "charging.py",
        "if self.bound(middle) <= nanos:",
        "if self.bound(middle - 1) <= nanos:",
    ),
    Mutant(
        "one token less than is affordable",
        "charging.py",
        "if self.bound(middle) <= nanos:",
        "if self.bound(middle) < nanos:",
    ),
    Mutant(
        "a failed response that was cut is charged",
        "charging.py",
        "if bill.failed or (decoder is not None and (decoder.failed or decoder.broken)):",
        "if False:",
    ),
    Mutant(
        "nothing had left and it is charged",
        "charging.py",
        "_full(bill, None, reported) if outcome.sent else _NOTHING",
        "_full(bill, None, reported)",
    ),
    Mutant(
        "who never reached the application pays",
        "charging.py",
        "if ending is Ending.LEFT and outcome.called:",
        "if ending is Ending.LEFT:",
    ),
    Mutant(
        "a drain that gave up is taken at its word",
        "charging.py",
        "_full(bill, usage if outcome.ended else None, reported)",
        "_full(bill, usage, reported)",
    ),
    Mutant(
        "zero usage counts as missing",
        "charging.py",
        "elif usage is not None:",
        "elif usage is not None and usage.output_tokens:",
    ),
    Mutant("missing usage is free", "charging.py", "else OnMissingUsage.CHARGE_HOLD", "else OnMissingUsage.VOID"),
    Mutant(
        "a review is settled",
        "charging.py",
        'return Price(None, "review", review=True)',
        'return Price(None, "review")',
    ),
    Mutant(
        "a price in any currency is taken", "charging.py", "if reported.price.currency == bill.held_in:", "if True:"
    ),
    Mutant(
        "an identifier that tells events apart is free",
        "redaction/events/moulds.py",
        "own and not value.stays)",
        "own)",
    ),
    Mutant(
        "figures are an identifier",
        "redaction/events/moulds.py",
        'r"(?![^A-Za-z]{7})[A-Za-z',
        'r"[A-Za-z',
    ),
    Mutant(
        "a mould with data for keys is kept",
        "redaction/events/moulds.py",
        "if _KEY.fullmatch(emptied, start + 1, end - 1) is None:",
        "if False:",
    ),
    Mutant(
        "an event is like others though it has more texts",
        "redaction/events/json_events.py",
        "if len(looked_at) != 1 or",
        "if",
    ),
    Mutant(
        "a numbered event is like others",
        "redaction/events/json_events.py",
        "form.repeats or form.number is not None:",
        "form.repeats:",
    ),
    Mutant(
        "a text that has ended goes on",
        "redaction/events/json_events.py",
        "if self._channels.get(usual.key) is usual.channel else None",
        "if usual else None",
    ),
    Mutant(
        "an identifier is not looked at",
        "redaction/events/json_events.py",
        "if own and is_own(literal):",
        "if own:",
    ),
    Mutant(
        "a glance does not see what came before",
        "redaction/events/stream.py",
        "if self._usual is not None and not self._framer.inside:",
        "if self._usual is not None:",
    ),
    Mutant(
        "a glance takes several events for one",
        "redaction/events/stream.py",
        "elif len(rest) != len(tail):",
        "elif False:",
    ),
    Mutant(
        "a glance takes any place for an identifier's",
        "redaction/events/stream.py",
        "if not rest.startswith(between) or not",
        "if not",
    ),
    Mutant(
        "anything may stand in a free place",
        "redaction/events/stream.py",
        '_OWN: Final = re.compile(rb"(?![^A-Za-z]{7})[A-Za-z0-9_./+-]*+")',
        "_OWN: Final = re.compile(rb'[^\"]*')",
    ),
)
