"""What Python code imports that neither Python nor the folder itself brings."""

from __future__ import annotations

import ast
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.layers.package_names import package_of

_MOST_FILES = 2000
_MAX_BYTES = 1 << 20
_NOT_CODE = frozenset(("__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv"))
_MISSING = ("ImportError", "ModuleNotFoundError", "Exception")


@dataclass(frozen=True, kw_only=True, slots=True)
class Imports:
    """``packages`` are distributions, sorted; ``optional`` those that the code can do without.

    ``files`` is how many files were read; ``scripts`` are those at the top that are made to be started.
    """

    packages: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    files: int = 0
    example: str = ""

    @property
    def why(self) -> str:
        return f"the code imports them, such as {self.example}"


def read_imports(root: Path) -> Imports:
    """What all ``.py`` files and notebooks below ``root`` import. Files that are no Python say nothing."""
    needed: dict[str, str] = {}
    optional: set[str] = set()
    scripts: list[str] = []
    local: set[str] = set()
    files = 0
    for path in _files(root):
        local |= {path.stem, path.parent.name}
        tree = _parsed(path)
        if tree is None:
            continue
        files += 1
        for module, may_be_missing in _imported(tree):
            if may_be_missing:
                optional.add(module)
            else:
                needed.setdefault(module, f"{path.relative_to(root)} ({module})")
        if path.parent == root and path.suffix == ".py" and _is_script(tree):
            scripts.append(path.name)
    known = local | sys.stdlib_module_names
    packages = {package_of(module): example for module, example in needed.items() if module not in known}
    return Imports(
        packages=tuple(sorted(packages)),
        optional=tuple(sorted({package_of(module) for module in optional - known} - packages.keys())),
        scripts=tuple(sorted(scripts)),
        files=files,
        example=next(iter(packages.values()), ""),
    )


def _files(root: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if _may_hold_code(Path(folder, name)))
        for name in sorted(names):
            if name.endswith((".py", ".ipynb")) and (count := count + 1) <= _MOST_FILES:
                yield Path(folder, name)


def _may_hold_code(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in _NOT_CODE
    return not hidden and not (folder / "pyvenv.cfg").exists()


def _parsed(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in somebody else's strings
            return ast.parse(_cells(text) if path.suffix == ".ipynb" else text)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, TypeError, AttributeError, KeyError):
        return None


def _cells(text: str) -> str:
    """The code of a notebook, without the lines that are IPython's own."""
    lines = [
        line
        for cell in json.loads(text)["cells"]
        if cell["cell_type"] == "code"
        for line in "".join(cell["source"]).splitlines()
    ]
    return "\n".join("pass" if line.lstrip().startswith(("%", "!", "?")) else line for line in lines)


def _imported(tree: ast.AST, *, may_be_missing: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level names of imported modules, and whether the code goes on without."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], may_be_missing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node.module.partition(".")[0], may_be_missing
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            guarded = isinstance(node, ast.Try) and any(_catches_missing(item) for item in node.handlers)
            yield from _imported(node, may_be_missing=may_be_missing or guarded)


def _catches_missing(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(name in ast.dump(handler.type) for name in _MISSING)


def _is_script(tree: ast.Module) -> bool:
    """Whether it does something when it is started: ``if __name__ == "__main__"``, or statements at the top."""
    for node in tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            return True
        if isinstance(node, ast.For | ast.While | ast.With):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return True
    return False
