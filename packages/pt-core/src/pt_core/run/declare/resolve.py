"""Options from defaults, recipes, files and flags to one `RunSpec`; all problems are reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pt_core.errors import ConfigError
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.declare.roles import by_role, parse_roles
from pt_core.run.declare.spec import RunOptions, RunSpec


def option_classes(modality: Modality, config: type) -> dict[str, type]:
    """The dataclasses whose fields are flags of `fit`; their field names must not overlap."""
    return {
        "config": config,
        "train": TrainOptions,
        "run": RunOptions,
        "data": modality.data_options,
        "task": modality.task_options,
    }


def resolve(modality: Modality, method: str, values: Mapping[str, Any], recipe: str | None = None) -> RunSpec:
    """Resolve options: defaults < the method's recipe < `recipe` file < `values`.

    Raises:
        ConfigError: all problems at once, before any weight is loaded.
    """
    cls = modality.registry.load(method)
    name = modality.registry.info(method).id
    problems: list[str] = []
    published: dict[str, Any] = {}
    if recipe:
        try:
            published = read_recipe(modality, recipe, name)
        except ConfigError as error:
            problems += error.problems
    try:
        built = build_all(option_classes(modality, cls.Config), {**cls.recipe, **published, **values})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return RunSpec(name, **built)


def check_sources(modality: Modality, method: str, values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the paths and names among the options, found without reading data or weights."""
    roles = list(modality.registry.info(method).backbones)
    problems: list[str] = []

    def told(name: str, parse: Callable[[tuple[str, ...]], Mapping[str, str]]) -> Mapping[str, str]:
        given = values.get(name, ())
        try:
            return parse((given,) if isinstance(given, str) else tuple(given or ()))
        except ConfigError as error:
            problems.extend(error.problems)
            return {}

    for path in told("data", parse_roles).values():
        problems.append(modality.data_problem(path) or "")
    for role, spec in told("backbone", lambda given: by_role("--backbone", given, roles)).items():
        problems.append(modality.backbone_problem(spec, role) or "")
    for file in told("weights", lambda given: by_role("--weights", given, roles)).values():
        problems.append("" if Path(file).exists() else f"--weights {file} does not exist")
    earlier = values.get("init_from")
    if earlier and not Path(str(earlier)).exists():
        problems.append(f"--init-from {earlier} does not exist")
    return [problem for problem in problems if problem]


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
