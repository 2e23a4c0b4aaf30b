"""Finds classes and functions in the Python sources of a wheel without importing it.

    wheel = WheelSource(path)
    wheel.arguments("transformer_engine.pytorch.Linear")     # of __init__, or of a dataclass
    wheel.text("transformer_engine.pytorch.Linear.forward")  # source

It follows names through `from ... import ...`, and methods to base classes.
"""

import ast
import contextlib
import zipfile
from functools import cache
from pathlib import Path

Node = ast.ClassDef | ast.FunctionDef


class WheelSource:
    """The modules of one wheel."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".py")]
            self._sources = {_module_name(name): wheel.read(name).decode() for name in names}
            self._packages = {_module_name(name) for name in names if name.endswith("/__init__.py")}
        self._tree = cache(lambda module: ast.parse(self._sources[module]))

    def arguments(self, name: str) -> set[str]:
        """What the function takes, or the class when it is made."""
        module, node = self.find(name)
        if isinstance(node, ast.FunctionDef):
            return _arguments(node)
        made_by = self._method(module, node, "__init__")
        if made_by is not None:
            return _arguments(made_by[1])
        fields = [
            s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
        ]
        return set(fields)

    def text(self, name: str) -> str:
        module, node = self.find(name)
        return ast.get_source_segment(self._sources[module], node) or ""

    def find(self, name: str) -> tuple[str, Node]:
        """The module that defines `module.name` or `module.class.method`, and the definition.

        Raises:
            LookupError: there is none.
        """
        module = max((m for m in self._sources if name.startswith(f"{m}.")), key=len)
        first, *rest = name.removeprefix(f"{module}.").split(".")
        module, node = self._definition(module, first)
        for method in rest:
            found = self._method(module, node, method) if isinstance(node, ast.ClassDef) else None
            if found is None:
                raise LookupError(f"{node.name} has no {method}")
            module, node = found
        return module, node

    def imported_from(self, module: str, name: str) -> str:
        """The module that `module` takes a name from, which may be of another wheel."""
        for statement in ast.walk(self._tree(module)):
            if isinstance(statement, ast.ImportFrom) and name in {
                a.asname or a.name for a in statement.names
            }:
                return self._absolute(module, statement)
        raise LookupError(f"{module} does not import {name}")

    def has(self, module: str, name: str) -> bool:
        """Whether `from module import name` gives something: a module, what is defined or imported there."""
        if f"{module}.{name}" in self._sources:
            return True
        for node in ast.walk(self._tree(module)) if module in self._sources else ():
            if isinstance(node, Node) and node.name == name:
                return True
            if isinstance(node, ast.Assign) and name in {ast.unparse(target) for target in node.targets}:
                return True
            if isinstance(node, ast.ImportFrom):
                source = self._absolute(module, node)
                names = {alias.asname or alias.name: alias.name for alias in node.names}
                origin = names.get(name, name if "*" in names else None)
                if origin and (self.has(source, origin) or (name in names and source not in self._sources)):
                    return True
        return False

    def _definition(self, module: str, name: str) -> tuple[str, Node]:
        for node in ast.walk(self._tree(module)):
            if isinstance(node, Node) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom):
                source = self._absolute(module, node)
                for alias in node.names if source in self._sources else ():
                    if (alias.asname or alias.name) == name:
                        return self._definition(source, alias.name)
                    if alias.name == "*":
                        with contextlib.suppress(LookupError):
                            return self._definition(source, name)
        raise LookupError(f"{module} has no {name}")

    def _method(self, module: str, node: ast.ClassDef, name: str) -> tuple[str, ast.FunctionDef] | None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return module, statement
        for base in node.bases:
            if not isinstance(base, ast.Name):
                continue
            try:
                where, parent = self._definition(module, base.id)
            except LookupError:  # of another package
                continue
            if isinstance(parent, ast.ClassDef) and (found := self._method(where, parent, name)):
                return found
        return None

    def _absolute(self, module: str, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = module.split(".")
        up = statement.level - (module in self._packages)
        return ".".join([*parts[: len(parts) - up], *([statement.module] if statement.module else [])])


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _arguments(node: ast.FunctionDef) -> set[str]:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {argument.arg for argument in given} - {"self", "cls"}
