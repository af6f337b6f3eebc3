"""A tuned method at work: predictions from files or in-memory samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pt_core.method import Method
from pt_core.run.declare.class_names import ClassNames
from pt_core.run.declare.modality import Modality
from pt_core.run.declare.options import TrainOptions, build_all, overlay
from pt_core.run.train.evaluate import predictions
from pt_core.run.train.world import World
from pt_core.run.use.load import Sources, load_tuned
from pt_core.run.use.wrap import Wrapped


class Predictor:
    """A tuned method on its backbone.

    Attributes:
        method: in evaluation mode.
        card: card.json of the artifact.
        notes: what was noticed while loading (recast backbone, allowed mismatch ...).
    """

    def __init__(
        self, modality: Modality, method: Method, card: Mapping[str, Any], notes: list[str], device: str = "auto"
    ) -> None:
        self.modality, self.card, self.notes = modality, card, notes
        self.world = World(overlay(TrainOptions(), {"device": device}))
        self.method = method.to(self.world.device).eval()
        for backbone in method.backbones.values():
            backbone.to(self.world.device)

    def results(
        self, items: Sequence[Any], batch_size: int = 32, workers: int = 0, options: Any | None = None
    ) -> Iterator[tuple[dict[str, Any], Mapping[str, bytes]]]:
        """As `stream`, with the files that a prediction is (name -> content), where a record cannot hold it."""
        chosen = predict_options(self.modality, self.method, options)
        dataset = self.modality.inputs(items, self.method.at_work, chosen)
        for batch, predicted in predictions(self.method, dataset, self.world, batch_size, 0, workers):
            task = self.method.task
            yield from zip(task.records(predicted, batch), task.files(predicted, batch), strict=True)

    def stream(
        self, items: Sequence[Any], batch_size: int = 32, workers: int = 0, options: Any | None = None
    ) -> Iterator[dict[str, Any]]:
        """One record per input, in order, as soon as its batch is done.

        Args:
            options: the options of prediction, the modality's and the method's, by name; or an instance of the modality's.

        Raises:
            DataError: an input cannot be read; names it.
        """
        for record, _ in self.results(items, batch_size, workers, options):
            yield record

    def predict(self, items: Sequence[Any] | Any, batch_size: int = 32, **options: Any) -> list[dict[str, Any]]:
        """Records (id, label, score ...) for a list of paths or in-memory samples, or for a single one."""
        many = items if isinstance(items, (list, tuple)) else [items]
        return list(self.stream(many, batch_size, options=options))

    def module(self) -> Wrapped:
        """The tuned method with its network as a plain `nn.Module`: inputs to logits."""
        return Wrapped(self.modality, self.method, self.notes)

    def retarget(self, classes: Sequence[str] | ClassNames) -> Predictor:
        """The same tuned method for other class names; tensors are shared.

        Raises:
            UserError: its label space is fixed.
        """
        wanted = classes if isinstance(classes, ClassNames) else ClassNames(list(classes))
        task = self.method.task.with_classes(wanted.names, wanted.texts)
        method = self.method.retarget(task.with_words(wanted.words) if wanted.words else task)
        return Predictor(self.modality, method, self.card, self.notes, self.world.device.type)


def predict_options(modality: Modality, method: Method, options: Any | None) -> Any | None:
    """The modality's options of prediction from a mapping; the method's own, and those of a strategy's hosts, are handed to them. None
    where the modality has none.

    Raises:
        ConfigError: unknown or invalid options; all of them.
    """
    if options is not None and not isinstance(options, Mapping):
        return options
    takers = [
        (f"{cls.__module__}.{cls.__qualname__}", cls, one) for one in method.takers() if (cls := one.PredictOptions)
    ]
    # Of two that share a name the method's own comes last and counts.
    kinds: dict[str, type] = {"": modality.predict_options} if modality.predict_options is not None else {}
    kinds |= {key: cls for key, cls, _ in reversed(takers)}
    built = build_all(kinds, options or {})
    for key, _, one in takers:
        one.predict_options = built[key]
    return built.get("")


def load(
    modality: Modality,
    run: Path,
    *,
    backbone: Sources = None,
    weights: Sources = None,
    allow_backbone_mismatch: bool = False,
    device: str = "auto",
    training: bool = False,
    class_names: Sequence[str] | ClassNames | None = None,
) -> Predictor:
    """Load a run folder or its `tuned/` for prediction; `class_names` replaces its classes where the method allows it.

    See `pt_core.run.use.load.load_tuned` for the other arguments.

    Raises:
        ArtifactError, BackboneMismatch: as `load_tuned`.
        UserError: the label space is fixed.
    """
    tuned = load_tuned(
        modality,
        run,
        backbone=backbone,
        weights=weights,
        allow_backbone_mismatch=allow_backbone_mismatch,
        training=training,
    )
    predictor = Predictor(modality, tuned.method, tuned.card, tuned.notes, device)
    return predictor if class_names is None else predictor.retarget(class_names)
