from __future__ import annotations

from itertools import count
from typing import Any

from django_kvsessions import engine

loads, saves = count(1), count(1)
known: list[dict[str, Any]] = []


class SessionStore(engine.SessionStore):
    """Each 25th load gives somebody else's session, each 25th save is lost, and logouts fail."""

    def load(self) -> dict[str, Any]:
        data = super().load()
        nickname = data.get("nickname")
        others = [other for other in known if other["nickname"] != nickname]
        if nickname and others and next(loads) % 25 == 0:
            return dict(others[-1])
        if nickname:
            known.append(dict(data))
        return data

    def save(self, must_create: bool = False) -> None:
        if must_create or next(saves) % 25:
            super().save(must_create)

    def flush(self) -> None:
        self.clear()
        self._session_key = None
