"""Calls to models as their requests say them: ``shapes.py`` knows the protocols, ``calls.py`` reads and bounds."""

from tenantguard.rules.requests.brought import Brought, form_brought, read_brought
from tenantguard.rules.requests.calls import Call, Prepared, caps_output, prepare, read_call
from tenantguard.rules.requests.forms import read_form

__all__ = [
    "Brought",
    "Call",
    "Prepared",
    "caps_output",
    "form_brought",
    "prepare",
    "read_brought",
    "read_call",
    "read_form",
]
