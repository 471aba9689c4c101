"""What LMDB's errors mean to whoever runs the site."""

from __future__ import annotations

import errno
from types import ModuleType
from typing import TYPE_CHECKING

from django_kvsessions.stores.base import StoreCorrupted, StoreError, StoreUnavailable

if TYPE_CHECKING:
    import lmdb

__all__ = ["explained"]

_NO_SPACE = {errno.EDQUOT, errno.EFBIG, errno.EIO}


def explained(error: lmdb.Error, driver: ModuleType, path: str, max_map_size: int) -> StoreError:
    """The error of the driver, as one that says what to do."""
    if isinstance(error, driver.MapFullError):
        return StoreUnavailable(
            f"LMDB's map in {path} is full at {max_map_size} bytes: "
            "run clearsessions, or raise OPTIONS['max_map_size']."
        )
    if isinstance(error, driver.ReadersFullError):
        return StoreUnavailable(
            f"All reader slots of LMDB in {path} are taken: raise OPTIONS['max_readers'] "
            "above the number of threads of all processes, and restart them all together, "
            "for the first one that opens the folder decides."
        )
    # LMDB says EIO where only a part of a page fitted on the disk.
    if isinstance(error, driver.DiskError) or error.code in _NO_SPACE:
        return StoreUnavailable(
            f"LMDB could not write to {path}: no space is left on its disk, or the disk "
            "fails. Make room; nothing was changed."
        )
    if isinstance(error, driver.ReadonlyError) or error.code in (errno.EPERM, errno.EROFS):
        return StoreUnavailable(
            f"LMDB may not read and write data.mdb and lock.mdb in {path}: give the folder "
            "and both files to the user the site runs as."
        )
    if isinstance(error, driver.VersionMismatchError) or "format v" in str(error):
        return StoreUnavailable(
            f"{path}/data.mdb was written by a version of LMDB whose format this one does not "
            "read: install the lmdb package that wrote it, or copy the data over with "
            "mdb_dump and mdb_load."
        )
    if isinstance(error, driver.InvalidError):
        return StoreCorrupted(
            f"{path}/data.mdb is not a file of LMDB: name another folder as LOCATION, or "
            "put a backup in its place."
        )
    if isinstance(error, (driver.CorruptedError, driver.PageNotFoundError)):
        return StoreCorrupted(
            f"{path}/data.mdb is damaged ({error}): stop every process that has it open, "
            "and put a backup in its place or remove it."
        )
    return StoreUnavailable(f"LMDB in {path} failed: {error}")
