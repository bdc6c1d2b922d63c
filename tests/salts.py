"""The secret behind the pseudonyms of the tests' cohorts."""

from __future__ import annotations

SALT = "a salt for tests, 32 bytes long."
