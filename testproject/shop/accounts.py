"""The accounts that the first migration makes, so that there is somebody to log in as."""

from __future__ import annotations

SHOPPERS = [
    *("alice", "bruno", "clara", "david", "elena", "felix", "grace", "henri", "irene", "jonas"),
    *("karin", "lucas", "maria", "nils", "olga", "pablo", "rosa", "simon", "tessa", "viktor"),
]
ADMIN = "admin"
PASSWORD = "open sesame"
