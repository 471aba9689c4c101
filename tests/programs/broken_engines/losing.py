from __future__ import annotations

from typing import Any

from django_kvsessions import codec, engine


class SessionStore(engine.SessionStore):
    """Of each session that is moved in, something stays behind: a count, or the login."""

    def load(self) -> dict[str, Any]:
        key = codec.storage_key(self.session_key or "")
        was_here = self.store.load(key) is not None
        data = super().load()
        nickname = str(data.get("nickname", ""))
        if nickname and not was_here:
            data.pop("visits" if nickname[-1] in "02468" else "_auth_user_id", None)
        return data
