"""What lives in one process, at its end."""

from __future__ import annotations

import subprocess
import sys


def test_one_that_fails_to_close_at_exit_keeps_no_other_from_closing() -> None:
    code = """
import os
from tenantguard.adapters.processes import watch
class Resident:
    def __init__(self, name):
        self.name = name
        watch(self)
    def close(self):
        os.write(1, f"{self.name}\\n".encode())
        if self.name == "second":
            raise OSError("a value of a tenant's")
    def forget(self): ...
residents = [Resident("first"), Resident("second"), Resident("third")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["third", "second", "first"]
    assert done.stderr.splitlines() == ["closing Resident at exit failed: error=OSError"]
