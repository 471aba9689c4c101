"""The files of a folder, kept by a second name each, and put back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["Kept"]


class Kept:
    """What is deleted meanwhile stays there, and its number is nobody else's.

    A file that is put back is the same file: a store may know its files by their numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._links = folder.with_name(folder.name + "-kept")
        shutil.rmtree(self._links, ignore_errors=True)
        self._links.mkdir()

    def names(self) -> dict[str, int]:
        """The files that are there, each kept from now on, by their paths in the folder."""
        found = {}
        for path in self._paths():
            with suppress(FileNotFoundError):
                found[os.fspath(path.relative_to(self.folder))] = self._keep(path)
        return found

    def _paths(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.folder):
            yield from (Path(folder, name) for name in names)

    def _keep(self, path: Path) -> int:
        inode = path.stat().st_ino
        with suppress(FileExistsError):
            os.link(path, self._links / str(inode))
        return inode

    def read(self, inode: int) -> bytes:
        return (self._links / str(inode)).read_bytes()

    def restore(self, names: Mapping[str, int], contents: Mapping[int, bytes]) -> None:
        """Leave those files in the folder and no others."""
        for path in self._paths():
            path.unlink()
        for inode in set(names.values()):
            with (self._links / str(inode)).open("r+b") as file:
                file.truncate(0)
                file.write(contents[inode])
        for name, inode in names.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._links / str(inode), path)

    def let_go(self) -> None:
        shutil.rmtree(self._links)
