"""Imports that wait until something of a module is used: what takes seconds to import, few runs need.

Nothing happens on import of this module.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
import typing as tp

Spec = importlib.machinery.ModuleSpec
Context = tp.Callable[[], tp.ContextManager[None]]


class Deferred(types.ModuleType):
    """An importable module whose attributes come from `load()`, called on the first use of one.

    Names with underscores on both sides are not uses: `inspect` asks every module in `sys.modules` for its `__file__`.
    `__path__` is one: the import of a submodule asks for it.
    """

    def __init__(self, name: str, load: tp.Callable[[], types.ModuleType]) -> None:
        super().__init__(name)
        self.__spec__ = Spec(name, None)
        self.__dict__["_load"] = load

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(self.__dict__["_load"](), name)


def import_lazily(name: str, instead: str | None = None, then: tp.Callable[[], None] = lambda: None) -> None:
    """Let `import name` succeed now, and import it (or the module named by `instead`) when something of it is used.

    Args:
        then: called after it is imported; at once if it is imported already.
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

    def _load(self) -> tp.Callable[..., object]:
        module, name = self._of
        return getattr(importlib.import_module(module), name)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # `typing` asks for some where a name stands in a hint
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._load()(*args, **kwargs)


class _Names(types.ModuleType):
    """Stands in for a module while another one runs; names that are asked for then come as `_Name`, later as they are.

    Names with underscores on both sides are not uses (see `Deferred`).
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = Spec(name, None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return _Name(self.__name__, name)
        return getattr(importlib.import_module(self.__name__), name)


class _Package(types.ModuleType):
    """A package whose `__init__` runs when something is asked of it that is no submodule."""

    def __getattr__(self, name: str) -> object:
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


class _LoaderInside(importlib.abc.Loader):
    """The usual loader, in a context when the module runs."""

    def __init__(self, loader: importlib.abc.Loader, context: Context) -> None:
        self.loader, self.context = loader, context

    def create_module(self, spec: Spec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with self.context():
            self.loader.exec_module(module)


def without(*names: str) -> Context:
    """Return a context in which modules are not imported: what is asked of them is imported when it is used."""

    @contextlib.contextmanager
    def context() -> tp.Iterator[None]:
        stand_ins = {name: _Names(name) for name in names if name not in sys.modules}
        sys.modules.update(stand_ins)
        try:
            yield
        finally:
            for name in stand_ins:
                del sys.modules[name]

    return context


def after(package: str) -> Context:
    """Return a context before which the `__init__` of one of `LazyImports`' packages has run."""

    @contextlib.contextmanager
    def context() -> tp.Iterator[None]:
        _run_init(importlib.import_module(package))
        yield

    return context


class _Map(collections.abc.Mapping):
    """A mapping that is made when something is looked up in it."""

    def __init__(self, make: tp.Callable[[], tp.Mapping[str, object]]) -> None:
        self._made = functools.cache(make)

    def __getitem__(self, key: str) -> object:
        return self._made()[key]

    def __iter__(self) -> tp.Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


@contextlib.contextmanager
def packages_unread() -> tp.Iterator[None]:
    """A context in which `importlib.metadata.packages_distributions` reads nothing before its result is looked into.

    It reads every file list of every installed package: 0.4 s.
    """
    read = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _Map(read)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = read


class LazyImports(importlib.abc.MetaPathFinder):
    """Finder for `sys.meta_path`; what it names is imported in another way, everything else as usual.

    Args:
        packages: their `__init__` does not run when a submodule is imported, only when something of it is used.
        inside: module -> the context that it runs in (`without`, `after`, `packages_unread`).
    """

    def __init__(self, packages: tp.Iterable[str], inside: tp.Mapping[str, Context]) -> None:
        self.loaders: dict[str, tp.Callable[[importlib.abc.Loader], importlib.abc.Loader]] = {
            **dict.fromkeys(packages, _PackageLoader),
            **{name: functools.partial(_LoaderInside, context=context) for name, context in inside.items()},
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
