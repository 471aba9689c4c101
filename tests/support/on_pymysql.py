"""A site on PyMySQL in the place of mysqlclient: ``python -m tests.support.on_pymysql DATABASE``.

DATABASE is an entry of DATABASES as JSON. It ends with an error if anything is not as it must be.
"""

from __future__ import annotations

import json
import sys
import time

import django
import pymysql
import pytest
from django.conf import settings


def main(database: str) -> None:
    pymysql.install_as_MySQLdb()
    settings.configure(
        SECRET_KEY="for this test",
        DATABASES={"default": json.loads(database)},
        INSTALLED_APPS=["django_kvsessions"],
        SESSION_ENGINE="django_kvsessions.engine",
        SESSION_STORES={"default": {"BACKEND": "django_kvsessions.stores.database.DatabaseStore"}},
    )
    django.setup()
    use()


def use() -> None:
    from django.core.management import call_command

    from django_kvsessions.engine import SessionStore
    from django_kvsessions.stores import stores
    from django_kvsessions.stores.base import StoreUnavailable
    from tests.support.databases import KEY, OTHER, end_connection, record

    store = stores["default"]
    with pytest.raises(StoreUnavailable, match=r"manage\.py migrate"):
        store.load(KEY)
    call_command("migrate", verbosity=0)
    call_command("setupsessions")
    assert store.setup_statements() == []

    kept = record(bytes(range(256)), owner=b"a" * 16)
    assert store.create(KEY, kept)
    assert not store.create(KEY, record())
    assert store.load(KEY) == kept
    assert dict(store.scan_owner(kept.owner)) == {KEY: kept}
    end_connection("default")
    assert store.replace(KEY, kept, expected=kept.revision)
    end_connection("default")
    assert store.touch(KEY, time.time() - 1)
    assert store.create(OTHER, record())
    assert list(store.delete_expired()) == [1]
    end_connection("default")
    assert store.delete(OTHER)

    session = SessionStore()
    session["cart"] = 1
    session.save()
    assert SessionStore(session.session_key)["cart"] == 1


if __name__ == "__main__":
    main(sys.argv[1])
