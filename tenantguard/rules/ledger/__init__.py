"""The ledger: a pure integer rule over accounts and holds. Every store of money is compared with it.

``states.py`` has the table of a hold's states, ``accounts.py`` what an account has left, ``books.py`` the commands,
``alerts.py`` how an alert is written down.
"""

from tenantguard.rules.ledger.accounts import Account, AccountKey, Grant, account_key
from tenantguard.rules.ledger.alerts import alert_fields, read_alert
from tenantguard.rules.ledger.books import CLAIM_KEPT_NS, Books, Claimed, Hold, Line, Refusal
from tenantguard.rules.ledger.states import HOLDING, TRANSITIONS, Input

__all__ = [
    "CLAIM_KEPT_NS",
    "HOLDING",
    "TRANSITIONS",
    "Account",
    "AccountKey",
    "Books",
    "Claimed",
    "Grant",
    "Hold",
    "Input",
    "Line",
    "Refusal",
    "account_key",
    "alert_fields",
    "read_alert",
]
