"""A folder that appears with all that it is to hold, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django_kvsessions.stores.base import StoreUnavailable
from django_kvsessions.stores.process.locks import sync_folder

__all__ = ["copy_in", "whole_folder"]


@contextmanager
def whole_folder(folder: str | os.PathLike[str], *, own: str | None = None) -> Iterator[str]:
    """Fill the temporary folder that is given; it gets its name when all in it is on disk.

    ``ValueError`` where the folder is there and not empty, or inside of ``own``, the
    store's; ``StoreUnavailable`` for what the system refuses, such as a full disk.
    """
    final = os.path.realpath(folder)
    if own is not None and Path(final).is_relative_to(os.path.realpath(own)):
        raise ValueError(
            f"{os.fspath(folder)} is inside the store's own folder, {own}: name another one "
            "for the copy."
        )
    if os.path.lexists(final) and not (os.path.isdir(final) and not os.listdir(final)):
        raise ValueError(
            f"{os.fspath(folder)} is there already and is not an empty folder: name a new one "
            "for the copy."
        )
    parent, name = os.path.split(final)
    try:
        os.makedirs(parent, exist_ok=True)
        # Beside it, on the same disk, so that one rename is all that is left to do.
        temporary = tempfile.mkdtemp(prefix=f".{name}.", suffix=".unfinished", dir=parent)
        try:
            yield temporary
            _sync(temporary)
            os.rename(temporary, final)
            sync_folder(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except (OSError, StoreUnavailable) as error:
        raise StoreUnavailable(
            f"The copy in {os.fspath(folder)} could not be made, and nothing of it is left: {error}"
        ) from error


def copy_in(folder: str | os.PathLike[str], name: str) -> str:
    """The path of what a copy consists of; ``ValueError`` where it is not there."""
    path = os.path.join(os.path.abspath(folder), name)
    if not os.path.exists(path):
        raise ValueError(f"{os.fspath(folder)} holds no copy of this store: {path} is missing.")
    return path


def _sync(folder: str) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                # Some engines go by the umask.
                os.fchmod(descriptor, 0o600)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(parent)
