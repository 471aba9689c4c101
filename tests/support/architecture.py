"""What the drawn structure of the package asks of its modules, read from their source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["complaints"]

PACKAGE = "django_kvsessions"
STORES = f"{PACKAGE}.stores"
MOST_ROOMS = 16
MOST_LINES = 300
#: What a module that is longer says why by.
EXCUSE = "# Longer than 300 lines: "
#: What the base install brings. All else is a driver.
BASE = {"asgiref", "django", "msgpack", "semidbm", "tqdm", "typing_extensions"}
#: What a store knows nothing of; of Django's, and of the rest of the package.
UNKNOWN_TO_STORES = ("django.http", "django.contrib.sessions")
#: All that a store may import from outside of stores/.
KNOWN_TO_STORES = {PACKAGE, f"{PACKAGE}.colours", f"{PACKAGE}.conf"}
#: From the request to the data: each may import of what comes behind it.
WAY = ["middleware", "engine", "codec", "stores.base"]


@dataclass
class Module:
    name: str
    path: Path
    #: Imported with it, and all: also later, or for type checkers.
    at_once: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)


def complaints(folder: Path) -> list[str]:
    """What is wrong with the package in ``folder``, one line each."""
    modules = read(folder)
    return [
        *too_many_rooms(folder),
        *circles(modules),
        *against_the_way(modules),
        *what_stores_know(modules),
        *exports(modules),
        *drivers(modules),
        *lengths(modules),
    ]


def read(folder: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (PACKAGE, *path.relative_to(folder).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path)
    for module in modules.values():
        tree = ast.parse(module.path.read_text())
        module.at_once = {found for node in at_import(tree.body) for found in targets(node)}
        module.ever = {found for node in ast.walk(tree) for found in targets(node)}
        # ``from package import room`` is an import of the room.
        for found in (module.at_once, module.ever):
            rooms = {name for name in found if name in modules}
            outside = {name for name in found if name.partition(".")[0] != PACKAGE}
            names = {name.rpartition(".")[0] for name in found - rooms - outside}
            found.clear()
            found.update(rooms | outside | names)
            found.discard(module.name)
    return modules


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run when the module is imported."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
                continue
            yield from at_import(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from at_import(handler.body)


def targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def too_many_rooms(folder: Path) -> Iterator[str]:
    rooms = {
        path.stem
        for path in (folder / "stores").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    if len(rooms) > MOST_ROOMS:
        yield f"stores/ has {len(rooms)} rooms, and {MOST_ROOMS} at most: {sorted(rooms)}"


def circles(modules: dict[str, Module]) -> Iterator[str]:
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> Iterator[str]:
        if name in way:
            yield "a circle of imports: " + " -> ".join([*way[way.index(name) :], name])
        elif name not in done:
            for found in sorted(modules[name].at_once & modules.keys()):
                yield from follow(found, [*way, name])
            done.add(name)

    for name in modules:
        yield from follow(name, [])


def against_the_way(modules: dict[str, Module]) -> Iterator[str]:
    for place, room in enumerate(WAY):
        module = modules.get(f"{PACKAGE}.{room}")
        for earlier in WAY[:place]:
            if module is not None and f"{PACKAGE}.{earlier}" in reached(modules, module.name):
                yield f"{room} imports {earlier}, if only by way of others"


def reached(modules: dict[str, Module], name: str) -> set[str]:
    """What is imported with a module, and with what it imports."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        module = modules.get(waiting.pop())
        if module is not None:
            waiting.extend(module.at_once - found)
            found |= module.at_once
    return found


def store_of(name: str) -> str | None:
    """The package of a store, if the module belongs to one: it has a room ``store``."""
    parts = name.split(".")
    return ".".join(parts[:3]) if name.startswith(f"{STORES}.") else None


def what_stores_know(modules: dict[str, Module]) -> Iterator[str]:
    stores = {name.rpartition(".")[0] for name in modules if name.endswith(".store")}
    for module in modules.values():
        own = store_of(module.name)
        if own is None:
            continue
        for found in sorted(module.ever):
            if found.startswith(UNKNOWN_TO_STORES) or (
                found in modules
                and not (
                    found in KNOWN_TO_STORES or found == STORES or found.startswith(f"{STORES}.")
                )
            ):
                yield f"{module.name} imports {found}, of which a store knows nothing"
            elif store_of(found) in stores and store_of(found) != own:
                yield f"{module.name} imports {found}, of another store"


def exports(modules: dict[str, Module]) -> Iterator[str]:
    for name in sorted(modules):
        if name.startswith(f"{STORES}.") and f"{name}.store" in modules:
            tree = ast.parse(modules[name].path.read_text())
            names = [
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ]
            if len(names) != 1 or len(names[0]) != 1 or not names[0][0].endswith("Store"):
                yield f"{name} exports {names}, and not one class alone"


def drivers(modules: dict[str, Module]) -> Iterator[str]:
    for name in sorted(modules):
        if name == STORES or (name.startswith(f"{STORES}.") and f"{name}.store" in modules):
            tops = {found.partition(".")[0] for found in reached(modules, name)}
            unwanted = tops - BASE - {PACKAGE} - sys.stdlib_module_names
            if unwanted:
                yield f"importing {name} imports {', '.join(sorted(unwanted))} before it is used"


def lengths(modules: dict[str, Module]) -> Iterator[str]:
    for name, module in modules.items():
        text = module.path.read_text()
        lines = text.count("\n")
        if lines > MOST_LINES and EXCUSE not in text:
            yield f"{name} has {lines} lines, and no line that begins with {EXCUSE!r} says why"
