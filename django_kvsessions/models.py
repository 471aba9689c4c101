"""What Django's own machinery knows of the sessions in a database."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils.translation import gettext_lazy

from django_kvsessions.stores import stores
from django_kvsessions.stores.base import KEY_SIZE, OWNER_SIZE
from django_kvsessions.stores.database import DatabaseStore
from django_kvsessions.stores.database.schema import BytesField
from django_kvsessions.stores.database.table import DEFAULT_TABLE

__all__ = ["StoredSession", "UserSession", "modelled_stores"]


class StoredSessions(models.Manager["StoredSession"]):
    """None on a database where no store keeps that table, whether it is there or not."""

    def get_queryset(self) -> models.QuerySet[StoredSession]:
        queryset: models.QuerySet[StoredSession] = super().get_queryset()
        return queryset if any(modelled_stores(queryset.db)) else queryset.none()

    def using(self, alias: str | None) -> models.QuerySet[StoredSession]:
        # Of the queryset for another database, none would stay none.
        queryset: models.QuerySet[StoredSession] = self.db_manager(alias).get_queryset()
        return queryset


class StoredSession(models.Model):
    """The table that a DatabaseStore has by default, for ``migrate``, ``flush`` and ``dumpdata``.

    Read and change sessions through the engine or the store, which know what
    the columns hold.
    """

    key = BytesField(primary_key=True, max_length=KEY_SIZE)
    data = models.BinaryField()
    expires = models.FloatField()
    revision = models.BigIntegerField()
    owner = BytesField(null=True, max_length=OWNER_SIZE)

    objects = StoredSessions()

    class Meta:
        db_table = DEFAULT_TABLE
        base_manager_name = "objects"
        # Nobody is to be given the right to change a session.
        default_permissions = ()
        indexes = [
            models.Index(
                fields=["owner"],
                # Visitors who are not logged in need no place there.
                condition=models.Q(owner__isnull=False),
                name="django_kvsessi_owner_014e2f",
            ),
            models.Index(fields=["expires"], name="django_kvsessi_expires_014e2f"),
        ]

    def __str__(self) -> str:
        return f"{self.pk!r}"

    @classmethod
    def check(cls, **kwargs: object) -> list[checks.CheckMessage]:
        # MySQL has no indexes with conditions; one of every row does as well.
        return [message for message in super().check(**kwargs) if message.id != "models.W037"]


class UserSession(StoredSession):
    """No table: what the admin's page on the sessions of users, in any store, is registered by,
    and what the permissions to see and to end them belong to."""

    class Meta:
        proxy = True
        default_permissions = ("view", "delete")
        verbose_name = gettext_lazy("user session")
        verbose_name_plural = gettext_lazy("user sessions")


def modelled_stores(alias: str) -> Iterator[DatabaseStore]:
    """The stores of SESSION_STORES that keep the table of ``StoredSession`` on that database."""
    try:
        names = list(stores)
    except ImproperlyConfigured:
        return
    for name in names:
        try:
            store = stores[name]
        except ImproperlyConfigured:
            # For the system checks to report.
            continue
        if isinstance(store, DatabaseStore) and store.is_modelled and store.alias == alias:
            yield store
