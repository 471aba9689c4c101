"""A bounded clean-up as a task of Django's, for sites that have a worker.

From a view, a scheduler or a command::

    from django_kvsessions.tasks import clean_sessions

    clean_sessions.enqueue()
"""

from __future__ import annotations

try:
    from django.tasks import task
except ImportError as error:
    raise ImportError(
        "django_kvsessions.tasks needs Django 6.0, which has tasks: run manage.py clearsessions "
        "from cron, or call it from your own worker's task.",
        name=error.name,
    ) from error

from django_kvsessions import conf
from django_kvsessions.cleaning import clean_up
from django_kvsessions.stores import stores

__all__ = ["clean_sessions"]


@task
def clean_sessions(alias: str | None = None, at_most: int = 100_000) -> int:
    """Remove up to ``at_most`` expired sessions from a store, by default the engine's; how many."""
    return clean_up(stores[conf.store_alias() if alias is None else alias], at_most)
