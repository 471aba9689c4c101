from __future__ import annotations

from collections.abc import Sequence

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.db.migrations import Migration
from django.db.models.signals import post_migrate

__all__ = ["KVSessionsConfig"]


class KVSessionsConfig(AppConfig):
    name = "django_kvsessions"
    verbose_name = "Key-value sessions"

    def ready(self) -> None:
        from django_kvsessions import checks  # noqa: F401 (registers them)

        post_migrate.connect(set_up_stores, sender=self)


def set_up_stores(
    *, using: str, plan: Sequence[tuple[Migration, bool]] = (), **kwargs: object
) -> None:
    """Set up the stores that live on the database that was migrated, and no other."""
    # What has just been taken away on purpose is not made again.
    if any(migration.app_label == KVSessionsConfig.name and undone for migration, undone in plan):
        return
    from django_kvsessions.checks import in_use
    from django_kvsessions.stores import stores

    if not in_use():
        return
    for alias in stores:
        try:
            store = stores[alias]
        except ImproperlyConfigured:
            # For the system checks to report: it is no reason to stop a migration.
            continue
        if store.setup_on_migrate == using:
            store.setup()
