"""Options from defaults, recipes, files and flags to one `RunSpec`; all problems are reported together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.hosts import host_options, typed
from pt_core.run.declare.layers import stacked
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.needs import needs_of, texts
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.declare.roles import RUN, by_role, parse_roles
from pt_core.run.declare.spec import HostSpec, RunOptions, RunSpec

if TYPE_CHECKING:
    from pt_core.method import Method


def option_classes(modality: Modality, config: type) -> dict[str, type]:
    """The dataclasses whose fields are flags of `fit`; their field names must not overlap."""
    return {
        "config": config,
        "train": TrainOptions,
        "run": RunOptions,
        "data": modality.data_options,
        "task": modality.task_options,
    }


Note = Callable[[str], None]
Layers = Mapping[str, Mapping[str, Any]]
"""Where options come from -> options, the lowest first."""


def resolve(
    modality: Modality,
    method: str,
    values: Mapping[str, Any],
    recipe: str | None = None,
    below: Layers | None = None,
    note: Note | None = None,
) -> RunSpec:
    """Resolve options: defaults < the hosts' recipes < the method's recipe < `recipe` file < `below` < `values`.

    A strategy's hosts are named by their role (`host: vpt`), their options by ROLE.NAME (`host.prompt_length: 8`).

    Args:
        below: a configuration file's options, say.
        note: told what is left out because a layer names another host.

    Raises:
        ConfigError: all problems at once, before any weight is loaded.
    """
    registry = modality.registry
    cls = registry.load(method)
    name = registry.info(method).id
    given, problems = layered(modality, method, values, recipe, below, note)
    hosts: dict[str, HostSpec] = {}
    try:
        chosen = registry.hosts_of(name, given)
    except ConfigError as error:
        chosen, problems = {}, [*problems, *error.problems]
    except UserError as error:
        chosen, problems = {}, [*problems, str(error)]
    training = {field.name for field in fields(TrainOptions)}
    recommended: dict[str, Mapping[str, Any]] = {}
    for role, host in chosen.items():
        kind = registry.load(host)
        own = {key: value for key, value in kind.recipe.items() if key in training}
        recommended = {role: own, **recommended}  # of several hosts the first counts
        try:
            hosts[role] = HostSpec(host, _host_config(registry.shared(name, role), role, kind, given, hosts))
        except ConfigError as error:
            problems += error.problems
    try:
        everything = stacked({}, {**recommended, "": _without_hosts(given, registry.info(name).hosts)})
        built = build_all(option_classes(modality, cls.Config), everything)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return RunSpec(name, **built, hosts=hosts)


def layered(
    modality: Modality,
    method: str,
    values: Mapping[str, Any],
    recipe: str | None = None,
    below: Layers | None = None,
    note: Note | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """(options that somebody gave, what is wrong with the recipe), as `resolve` reads them; hosts' defaults are not among them."""
    registry = modality.registry
    info = registry.info(method)
    layers: dict[str, Mapping[str, Any]] = {f"the defaults of {info.id!r}": registry.load(method).recipe}
    problems: list[str] = []
    if recipe:
        try:
            layers[f"recipe {recipe!r}"] = read_recipe(modality, recipe, info.id)
        except ConfigError as error:
            problems = error.problems
    return stacked(info.hosts, {**layers, **(below or {}), "the options given": values}, note), problems


def _without_hosts(layers: Mapping[str, Any], roles: Iterable[str]) -> dict[str, Any]:
    known = set(roles)
    return {key: value for key, value in layers.items() if key.partition(".")[0] not in known}


def _host_config(
    shared: str | None, role: str, kind: type[Method], layers: Mapping[str, Any], done: Mapping[str, HostSpec]
) -> Any:
    """The configuration of one host: its own recipe's method options under what was given for it, or that of the role it shares."""
    given = typed(role, kind.Config, host_options(role, layers))
    if shared is not None and shared in done and registered(done[shared].method, kind):
        if not given:
            return done[shared].config
        given = {**typed(shared, kind.Config, host_options(shared, layers)), **given}
    names = {field.name for field in fields(kind.Config)}
    recipe = {key: value for key, value in kind.recipe.items() if key in names}
    try:
        return build_all({"config": kind.Config}, {**recipe, **given})["config"]
    except ConfigError as error:
        raise ConfigError([f"{role}: {problem}" for problem in error.problems]) from None


def registered(method_id: str, kind: type[Method]) -> bool:
    """Whether a class is the method of this id."""
    return str(getattr(sys.modules.get(kind.__module__), "ID", "")) == method_id


def check_sources(modality: Modality, method: str, values: Mapping[str, Any], loads: bool = True) -> list[str]:
    """What is wrong with the paths and names among the options, found without reading data or weights. `loads` tells whether weights will
    be read."""
    registry = modality.registry
    info = needs_of(modality, method, values) or registry.info(method)  # `resolve` names an unknown host
    roles = list(info.backbones)
    problems: list[str] = []

    def told(name: str, parse: Callable[[tuple[str, ...]], Mapping[str, str]]) -> Mapping[str, str]:
        try:
            return parse(texts(values.get(name)))
        except ConfigError as error:
            problems.extend(error.problems)
            return {}

    for path in told("data", parse_roles).values():
        try:
            problems.append(modality.data_problem(path) or "")
        except OSError as error:  # no name that a file can have
            problems.append(f"--data {path[:200]}: {error.strerror}")
    if not roles:  # those of a host that there is not
        values = {**values, "backbone": (), "weights": ()}
    files = told("weights", lambda given: by_role("--weights", given, roles))
    for role, spec in told("backbone", lambda given: by_role("--backbone", given, roles)).items():
        if spec.startswith(RUN):
            run = spec.removeprefix(RUN)
            problems.append("" if Path(run).exists() else f"--backbone {spec}: {run} does not exist")
        elif role not in files:  # these stand in for what the name points to; the loader looks at both
            wrong = modality.backbone_problem(spec, role)
            problems.append(wrong or (modality.weights_problem(spec, role) if loads else None) or "")
    for file in files.values():
        problems.append("" if Path(file).exists() else f"--weights {file} does not exist")
    for given in texts(values.get("init_from")):
        path = given.partition("=")[2] if given.partition("=")[0].isidentifier() and "=" in given else given
        problems.append(_run_problem(Path(path)) or "")
    return [problem for problem in problems if problem]


def _run_problem(run: Path) -> str | None:
    if not run.exists():
        return f"--init-from {run} does not exist"
    tuned = any((folder / "card.json").is_file() for folder in (run, run / "tuned"))
    return None if tuned or (run / "run.json").is_file() else f"--init-from {run} holds no tuned artifact"


def recipe_folder(modality: Modality) -> Path:
    return modality.registry.folder.parent / "recipes"


def read_recipe(modality: Modality, name: str, method: str) -> dict[str, Any]:
    """Options of a recipe, given as a name or a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipe_folder(modality) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in recipe_folder(modality).glob("*.yaml"))) or "none"
        raise ConfigError(f"no recipe {name!r}; known: {known}, or give a .yaml file")
    named, options = read_config(path)
    if named not in (None, method):
        raise ConfigError(f"recipe {name!r} is for {named!r}, not for {method!r}")
    return options


def read_config(path: Path) -> tuple[str | None, dict[str, Any]]:
    """(method, options) of a config.yaml or recipe file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} must hold a mapping of options")
    options = content.get("options", {key: value for key, value in content.items() if key != "method"})
    return content.get("method"), {str(key): value for key, value in options.items()}
