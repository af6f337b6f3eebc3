"""A fully resolved run: what is tuned on what, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from pt_core.run.declare.options import SEEDS, WITHOUT_EFFECT, TrainOptions, to_plain
from pt_core.run.declare.roles import located

PATHS = ("data", "backbone", "weights", "init_from", "class_names")
"""Options of a run that may be paths."""


@dataclass(frozen=True)
class RunOptions:
    """What is tuned on what; the same in every package."""

    data: tuple[str, ...] = ()
    """Where the data are: a path or a `builtin:` name, or ROLE=PATH where a method needs several roles (repeatable)."""
    backbone: tuple[str, ...] = ()
    """Pretrained network, such as `timm:vit_small_patch16_224` or `builtin:...` (default: the package's small built-in one); ROLE=SPEC
    where a method needs several."""
    weights: tuple[str, ...] = ()
    """Local weight file or folder for the backbone (safetensors, or .pth read without unpickling code); or ROLE=FILE."""
    shots: Annotated[int, Ge(1)] | None = None
    """Train on this many samples per class, drawn with the sampling seed; of a class with fewer, on all of them."""
    exact_shots: bool = False
    """Refuse --shots where a class has fewer samples."""
    cache_limit: Annotated[float, Gt(0)] = 4.0
    """Upper bound of the feature cache, in GB."""
    class_names: str | None = None
    """Class names, as a file (a name per line, or JSON: names, or name -> texts) or a,b,c: for methods that need no data.
    Images with labels: a text for every class (JSON or CSV or TSV: label -> text, or one a line in class order)."""
    init_from: tuple[str, ...] = ()
    """Run folder whose tuned tensors this run starts from, or ROLE=RUN (a host, or what the method names); several of one role are
    averaged (repeatable)."""
    allow_backbone_mismatch: bool = False
    """Accept an artifact that was tuned on another backbone (recorded)."""


@dataclass(frozen=True)
class HostSpec:
    """The method that a strategy tunes in one role."""

    method: str
    config: Any


@dataclass(frozen=True)
class RunSpec:
    """A fully resolved run."""

    method: str
    config: Any
    train: TrainOptions
    run: RunOptions
    data: Any
    task: Any
    hosts: Mapping[str, HostSpec] = field(default_factory=dict)

    @property
    def host_ids(self) -> dict[str, str]:
        """Host role -> method id."""
        return {role: host.method for role, host in self.hosts.items()}

    def flat(self) -> dict[str, Any]:
        """All options by name, as `config.yaml` holds them: a host's are called ROLE.NAME, paths are absolute (`located`)."""
        parts = (self.config, self.train, self.run, self.data, self.task)
        found = {key: value for part in parts for key, value in to_plain(part).items()}
        for key in PATHS:
            given = found[key]
            found[key] = [located(one) for one in given] if isinstance(given, list) else given and located(given)
        for role, host in self.hosts.items():
            found[role] = host.method
            found |= {f"{role}.{key}": value for key, value in to_plain(host.config).items()}
        return found

    def group(self) -> str:
        """Digest of everything that changes the result but the seeds: runs that share it differ by seed only."""
        flat = {key: value for key, value in self.flat().items() if key not in (*SEEDS, *WITHOUT_EFFECT)}
        return hashlib.sha256(json.dumps([self.method, flat], sort_keys=True).encode()).hexdigest()[:16]
