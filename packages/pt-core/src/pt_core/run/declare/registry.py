"""Finding methods without importing them: the literals at the head of each method file are read with `ast`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pt_core.errors import MissingExtra, UserError, nearest
from pt_core.run.declare.hosts import named_hosts, shared_role

if TYPE_CHECKING:
    from pt_core.method import Method

SEARCH_VARIABLE = "PT_METHOD_PATH"
"""Environment variable with further folders of method files, separated like PATH."""

_LITERALS = {"ID", "TITLE", "TUNES", "NEEDS", "BACKBONES", "EXTRA", "HOSTS"}


@dataclass(frozen=True)
class Need:
    """A data role of a method.

    Attributes:
        what: for the help, such as `labelled images`.
        optional: whether a run works without it.
        labels: `task` (the run's classes), `own` (a label space of its own, such as that of a source domain) or `none`.
        split: whether validation and test parts may be split off from it, where none are given. Only `train` is split.
    """

    what: str
    optional: bool = False
    labels: Literal["task", "own", "none"] = "task"
    split: bool = True


@dataclass(frozen=True)
class MethodInfo:
    """What a method file says of itself."""

    id: str
    title: str
    tunes: str
    roles: Mapping[str, Need]
    path: Path
    module: str | None
    """Dotted import path inside the package; None for a file found through PT_METHOD_PATH."""
    backbones: Mapping[str, str] = field(default_factory=lambda: {"backbone": "fit, predict"})
    extra: str | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Role -> default id of the method that this strategy tunes, or `=ROLE` for one that shares another role's method and options."""

    @property
    def needs(self) -> dict[str, str]:
        """Data role -> what it is."""
        return {role: need.what for role, need in self.roles.items()}

    def over(self, hosts: Mapping[str, MethodInfo]) -> MethodInfo:
        """This strategy with what its hosts need as well."""
        roles, backbones = dict(self.roles), dict(self.backbones)
        for host in hosts.values():
            roles = {**host.roles, **roles}
            backbones |= {role: when for role, when in host.backbones.items() if role not in backbones}
        extra = next((info.extra for info in (self, *hosts.values()) if info.extra), None)
        return replace(self, roles=roles, backbones=backbones, extra=extra)


class Registry:
    """The methods of one package, and of the folders named in PT_METHOD_PATH.

    Args:
        package: import name, such as `pt_vision`.
        folder: where its method files lie; subfolders are searched too.
    """

    def __init__(self, package: str, folder: Path) -> None:
        self.package = package
        self.folder = folder

    @property
    def distribution(self) -> str:
        return self.package.replace("_", "-")

    def infos(self) -> dict[str, MethodInfo]:
        """Method id -> info, sorted by id.

        Raises:
            UserError: two files claim one id, or a file lacks a literal.
        """
        found: dict[str, MethodInfo] = {}
        for path in sorted(self.folder.rglob("*.py")):
            if not path.name.startswith("_"):
                parts = path.relative_to(self.folder).with_suffix("").parts
                self._add(found, read_info(path, ".".join((self.package, self.folder.name, *parts))))
        for folder in filter(None, os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)):
            if not Path(folder).is_dir():
                raise UserError(f"{SEARCH_VARIABLE} names {folder!r}, which is not a folder")
            for path in sorted(Path(folder).glob("*.py")):
                if not path.name.startswith("_"):
                    self._add(found, read_info(path, None))
        return dict(sorted(found.items()))

    def _add(self, found: dict[str, MethodInfo], info: MethodInfo | None) -> None:
        if info is None:
            return
        if info.id in found:
            raise UserError(f"method id {info.id!r} is claimed by {found[info.id].path} and {info.path}; rename one")
        found[info.id] = info

    def info(self, method_id: str) -> MethodInfo:
        """Info of a method, given as `vpt` or `pt-vision/vpt`.

        Raises:
            UserError: unknown; lists what exists.
        """
        package, _, name = method_id.rpartition("/")
        infos = self.infos()
        if (package and package != self.distribution) or name not in infos:
            hint = nearest(name, infos)
            raise UserError(f"{self.distribution} has no method {method_id!r}{hint}; known: {', '.join(infos)}")
        return infos[name]

    def hosts_of(self, method_id: str, chosen: Mapping[str, Any]) -> dict[str, str]:
        """Host role -> method id of a strategy, as `chosen` (role -> id) says or by default; empty for any other method.

        Raises:
            UserError: an unknown id, or a host that is a strategy itself.
        """
        hosts: dict[str, str] = {}
        for role, named in named_hosts(self.info(method_id).hosts, chosen).items():
            host = self.info(named)
            if host.hosts:
                raise UserError(
                    f"--{role} {host.id}: {host.id!r} is a strategy itself; name the method that it shall tune"
                )
            hosts[role] = host.id
        return hosts

    def joined(self, method_id: str, hosts: Mapping[str, str]) -> MethodInfo:
        """Info of a method, with what its hosts (role -> id) need as well."""
        return self.info(method_id).over({role: self.info(name) for role, name in hosts.items()})

    def shared(self, method_id: str, role: str) -> str | None:
        """The role whose options a host role shares, if it shares some."""
        return shared_role(self.info(method_id).hosts[role])

    def load(self, method_id: str) -> type[Method]:
        """Import a method file and return its method class.

        Raises:
            UserError: unknown id, or the file does not define exactly one method.
            MissingExtra: the method needs an extra that is not installed.
        """
        from pt_core.method import Method

        info = self.info(method_id)
        try:
            module = importlib.import_module(info.module) if info.module else _load_file(info.path)
        except ModuleNotFoundError as error:
            if info.extra is None:
                raise
            command = f"pip install '{self.distribution}[{info.extra}]'"
            raise MissingExtra(f"method {info.id!r} needs {error.name!r}; run: {command}") from None
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        ]
        if len(classes) != 1:
            raise UserError(f"{info.path} must define exactly one Method subclass, it has {len(classes)}")
        return classes[0]


def read_info(path: Path, module: str | None) -> MethodInfo | None:
    """Read the literals at the head of a method file; None where it defines no ID."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path} is not valid Python: {error}") from None
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in _LITERALS:
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                raise UserError(
                    f"{path}: {node.targets[0].id} is no literal; it is read without running the file"
                ) from None
    if "ID" not in values:
        return None
    missing = {"TITLE", "TUNES", "NEEDS"} - values.keys()
    if missing:
        raise UserError(f"{path} defines ID but not {', '.join(sorted(missing))}")
    try:
        roles = {role: _need(need) for role, need in values["NEEDS"].items()}
    except (AttributeError, TypeError) as error:
        raise UserError(f"{path}: NEEDS is no mapping of data roles ({error})") from None
    if "HOSTS" in values:
        values.setdefault("BACKBONES", {})  # a strategy has its hosts'
    optional = {key.lower(): values[key] for key in ("BACKBONES", "EXTRA", "HOSTS") if key in values}
    return MethodInfo(values["ID"], values["TITLE"], values["TUNES"], roles, path, module, **optional)


def _need(literal: Any) -> Need:
    """`"labelled images"`, or the fields of `Need` as a dict."""
    return Need(literal) if isinstance(literal, str) else Need(**literal)


def _load_file(path: Path) -> ModuleType:
    name = f"pt_method_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
