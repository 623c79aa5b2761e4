"""Imports that wait until something of a module is used: what takes seconds to import, few runs need.

Nothing happens on import of this module.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import typing as tp

Spec = importlib.machinery.ModuleSpec


class Deferred(types.ModuleType):
    """An importable module whose attributes come from `load()`, called on the first use of one.

    Names with underscores on both sides are not uses: `inspect` asks every module in `sys.modules` for its `__file__`.
    `__path__` is one: the import of a submodule asks for it.
    """

    def __init__(self, name: str, load: tp.Callable[[], types.ModuleType]) -> None:
        super().__init__(name)
        self.__spec__ = Spec(name, None)
        self.__dict__["_load"] = load

    def __getattr__(self, name: str) -> tp.Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(self.__dict__["_load"](), name)


def import_lazily(name: str, instead: str | None = None, then: tp.Callable[[], None] = lambda: None) -> None:
    """Let `import name` succeed now, and import it (or the module named by `instead`) when something of it is used.

    Args:
        then: called after it is imported, now if somebody has imported it already.
    """
    if isinstance(sys.modules.get(name), types.ModuleType):
        if not isinstance(sys.modules[name], Deferred):
            then()
        return
    if importlib.util.find_spec(instead or name) is None:
        return

    def load() -> types.ModuleType:
        if sys.modules.get(name) is deferred:
            del sys.modules[name]
        sys.modules[name] = importlib.import_module(instead or name)
        then()
        return sys.modules[name]

    deferred = sys.modules[name] = Deferred(name, load)


class _Name:
    """A class or function of a module that is imported when it is called, or asked for an attribute."""

    def __init__(self, module: str, name: str) -> None:
        self._of = (module, name)

    def _load(self) -> tp.Any:
        module, name = self._of
        return getattr(importlib.import_module(module), name)

    def __getattr__(self, name: str) -> tp.Any:
        return getattr(self._load(), name)

    def __call__(self, *args: object, **kwargs: object) -> tp.Any:
        return self._load()(*args, **kwargs)


class _Names(types.ModuleType):
    """Stands in for a module while another one imports names of it, which come as `_Name`."""

    def __getattr__(self, name: str) -> tp.Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(self.__name__, name)


class _Package(types.ModuleType):
    """A package whose `__init__` runs when something is asked of it that is no submodule."""

    def __getattr__(self, name: str) -> tp.Any:
        if name.startswith("__") and name not in ("__version__", "__all__"):
            raise AttributeError(name)
        if importlib.util.find_spec(f"{self.__name__}.{name}") is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        if not _run_init(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


def _run_init(package: types.ModuleType) -> bool:
    """Run the `__init__` that waits; return whether there was one."""
    loader = package.__dict__.pop("_init", None)
    if loader is None:
        return False
    try:
        loader.exec_module(package)
    except BaseException:
        package.__dict__["_init"] = loader
        raise
    return True


class _PackageLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: Spec) -> types.ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["_init"] = self.loader


class _UsualLoader(importlib.abc.Loader):
    """The usual loader, with something about module `other` done when the module runs."""

    def __init__(self, loader: importlib.abc.Loader, other: str) -> None:
        self.loader, self.other = loader, other

    def create_module(self, spec: Spec) -> types.ModuleType | None:
        return self.loader.create_module(spec)


class _NamesLoader(_UsualLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        if self.other in sys.modules:
            self.loader.exec_module(module)
            return
        sys.modules[self.other] = _Names(self.other)
        try:
            self.loader.exec_module(module)
        finally:
            del sys.modules[self.other]


class _LaterLoader(_UsualLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        _run_init(importlib.import_module(self.other))
        self.loader.exec_module(module)


class LazyImports(importlib.abc.MetaPathFinder):
    """Finder for `sys.meta_path`; what it names is imported in another way, everything else as usual.

    Args:
        packages: their `__init__` does not run when a submodule is imported, only when something of it is used.
        names: module -> another one, whose names it imports; that one is imported when one of these names is used.
        later: module -> one of `packages`, whose `__init__` must run before it.
    """

    def __init__(self, packages: tp.Iterable[str], names: dict[str, str], later: dict[str, str] | None = None) -> None:
        self.loaders: dict[str, tp.Callable[[importlib.abc.Loader], importlib.abc.Loader]] = {
            **dict.fromkeys(packages, _PackageLoader),
            **{name: functools.partial(_NamesLoader, other=source) for name, source in names.items()},
            **{name: functools.partial(_LaterLoader, other=first) for name, first in (later or {}).items()},
        }

    def find_spec(
        self, fullname: str, path: tp.Sequence[str] | None, target: types.ModuleType | None = None
    ) -> Spec | None:
        """Return the usual spec with another loader for what this finder names, else None."""
        if fullname not in self.loaders:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = self.loaders[fullname](spec.loader)
        return spec
