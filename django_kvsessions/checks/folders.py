"""The folder that LOCATION names: where it is, and who may read and write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage

__all__ = ["check_folder"]


def check_folder(alias: str, location: str | os.PathLike[str]) -> Iterator[CheckMessage]:
    where = f"SESSION_STORES[{alias!r}]['LOCATION'] ({os.fspath(location)})"
    if not os.path.isabs(location):
        yield checks.Warning(
            f"{where} is relative: a cron job or a server started elsewhere would use "
            "another folder.",
            hint="Write BASE_DIR / ..., or an absolute path.",
            id="kvsessions.W005",
        )
    folder = Path(os.path.realpath(location))
    for setting, served in _served_folders():
        if folder.is_relative_to(served):
            yield checks.Error(
                f"{where} is inside {setting} ({served}): the web server may hand the "
                "sessions to anyone who asks.",
                hint="Choose a folder that nothing serves.",
                id="kvsessions.E007",
            )
    yield from _check_permissions(where, folder)


def _served_folders() -> Iterator[tuple[str, Path]]:
    # An entry of STATICFILES_DIRS may be a pair of a prefix and a folder.
    static = [
        path[1] if isinstance(path, tuple | list) else path for path in settings.STATICFILES_DIRS
    ]
    candidates = [
        ("MEDIA_ROOT", settings.MEDIA_ROOT),
        ("STATIC_ROOT", settings.STATIC_ROOT),
        *(("STATICFILES_DIRS", path) for path in static),
    ]
    for setting, path in candidates:
        if path:
            yield setting, Path(os.path.realpath(path))


def _check_permissions(where: str, folder: Path) -> Iterator[CheckMessage]:
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        yield checks.Error(
            f"{where} is a file." if there == folder else f"{where}: {there} is a file.",
            hint="Name a folder that exists or can be made.",
            id="kvsessions.E005",
        )
        return
    if not hasattr(os, "geteuid"):  # Windows has other permissions.
        return
    status = there.stat()
    if not _is_writable(there):
        problem = (
            "is not writable" if there == folder else f"cannot be made: {there} is not writable"
        )
        # A check run by another user than the site's, as on deployment, proves nothing.
        is_foreign = there == folder and status.st_uid not in (0, os.geteuid())
        yield (checks.Warning if is_foreign else checks.Error)(
            f"{where} {problem} for {_user_name(os.geteuid())}; it belongs to "
            f"{_user_name(status.st_uid)}.",
            hint="Run the site, its commands and cron jobs as one user, who owns the folder.",
            id="kvsessions.W006" if is_foreign else "kvsessions.E006",
        )
    if there == folder and S_IMODE(status.st_mode) & 0o077:
        yield checks.Warning(
            f"{where} has mode {S_IMODE(status.st_mode):04o}: others on this machine may read "
            "or change the sessions.",
            hint=f"chmod 700 {folder}",
            id="kvsessions.W001",
        )


def _is_writable(folder: Path) -> bool:
    return os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    )


def _user_name(user_id: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user_id).pw_name
    except (ImportError, KeyError):
        return f"user {user_id}"
