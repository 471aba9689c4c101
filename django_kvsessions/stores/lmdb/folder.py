"""The folder of LMDB files as the stores of a process share it."""

from __future__ import annotations

import os
import threading
from types import ModuleType
from weakref import WeakValueDictionary

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions.stores.lmdb.client import Environment, Options
from django_kvsessions.stores.process import forks

__all__ = ["Folder", "shared_folder"]


class Folder:
    """What the stores of a process on one folder share: LMDB must not open it twice.

    Each process has an environment of its own, also one that a server forked
    without Python's knowledge.
    """

    def __init__(self, driver: ModuleType, path: str, options: Options) -> None:
        self.driver = driver
        self.path = path
        self.options = options
        self._environments: dict[int, Environment] = {}
        forks.renew(self.close_inherited)

    @property
    def environment(self) -> Environment:
        process = os.getpid()
        environment = self._environments.get(process)
        return environment if environment is not None else self._new_environment(process)

    def _new_environment(self, process: int) -> Environment:
        with _folders_lock:
            self.close_inherited()
            if process not in self._environments:
                self._environments[process] = Environment(self.driver, self.path, self.options)
            return self._environments[process]

    def close_inherited(self) -> None:
        """In a forked child: LMDB opens the folder again only once the parent's handle is gone."""
        for process in set(self._environments) - {os.getpid()}:
            self._environments.pop(process).close_inherited()


_folders: WeakValueDictionary[str, Folder] = WeakValueDictionary()
_folders_lock = threading.RLock()
forks.hold(_folders_lock)


def shared_folder(driver: ModuleType, path: str, options: Options) -> Folder:
    with _folders_lock:
        folder = _folders.get(path)
        if folder is None:
            folder = _folders[path] = Folder(driver, path, options)
        elif folder.options != options:
            raise ImproperlyConfigured(
                f"LOCATION {path} is used by another store of this process with other options: "
                f"{folder.options}, here {options}. Give both the same, or a folder each."
            )
        return folder
