"""Backbones of several parts, such as the two towers of CLIP-type networks: one source, one claim space, a fingerprint per part.

Every part is a `Backbone` with sites and layouts of its own. Where parts are named together, a part's name stands in front:
`image.tokens[3]`, `text.input`, `backbone.claim("image.blocks.*")`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pt_core.backbone import Backbone, Claim, Edit, Edits, Features, Weights
from pt_core.errors import UserError, nearest
from pt_core.fingerprint import Fingerprint


class Composite(Backbone):
    """Named backbones that belong together (two towers; U-Net, VAE and text encoder).

    Args:
        parts: name -> backbone. A part that is not needed may be left out; what is there is compared with a card part by part.
        source: what the user asked for.

    Calling it runs every part that `inputs` names and returns name -> features.
    """

    def __init__(self, parts: Mapping[str, Backbone], source: str) -> None:
        modules = nn.ModuleDict({name: part.module for name, part in parts.items()})
        super().__init__(modules, source, {name: dict(part.preprocessing) for name, part in parts.items()})
        self.parts = dict(parts)
        self.sites = frozenset(f"{name}.{site}" for name, part in parts.items() for site in part.sites)
        self.inserts = frozenset(f"{name}.{site}" for name, part in parts.items() for site in part.inserts)
        self.depth = max(part.depth for part in parts.values())
        self.dim = next(iter(parts.values())).dim

    def part(self, name: str) -> Backbone:
        """A part by name.

        Raises:
            UserError: there is none, or it is not loaded.
        """
        if name not in self.parts:
            known = ", ".join(self.parts)
            raise UserError(
                f"backbone {self.source!r} has no part {name!r}{nearest(name, self.parts)}; it has: {known}"
            )
        return self.parts[name]

    def split(self, edits: Edits) -> dict[str, dict[str, Any]]:
        """`{"image.tokens[0]": edit, ...}` as part -> its own edits.

        Raises:
            UserError: a part that does not exist.
        """
        found: dict[str, dict[str, Any]] = {}
        for site, edit in edits.items():
            name, _, own = site.partition(".")
            self.part(name)
            found.setdefault(name, {})[own] = edit
        return found

    def bound(self, weights: Weights) -> Composite:
        """A view in which every part carries its share of the weights, named by part."""
        view = super().bound(weights)
        assert isinstance(view, Composite)
        named = weights.tensors() if isinstance(weights, Claim) else weights
        view.parts = {
            name: part.bound(own) if (own := _within(named, name)) else part for name, part in self.parts.items()
        }
        view._bound = None  # the parts have it
        return view

    def replaced(self, tensors: Mapping[str, Tensor], source: str) -> Composite:
        super().replaced(tensors, source)
        for part in self.parts.values():
            part._fingerprint = None
        return self

    def __call__(  # type: ignore[override]
        self,
        inputs: Mapping[str, Any],
        edits: Edits | None = None,
        *,
        weights: Weights | None = None,
        read: Sequence[str] | None = None,
    ) -> dict[str, Features]:
        """Run the parts that `inputs` names, with edits and weights named by part."""
        own = self.split(edits or {})
        result: dict[str, Features] = self.with_weights(
            weights, lambda: {name: self.part(name)(value, own.get(name), read=read) for name, value in inputs.items()}
        )
        return result

    def encode(self, inputs: Any, edits: Mapping[str, tuple[Edit, ...]], read: frozenset[str] | None) -> Features:
        raise TypeError("a backbone of several parts is called as a whole, or part by part")

    def fingerprint(self) -> Fingerprint:
        """Of all tensors together; the parts' behaviours one behind the other."""
        if self._fingerprint is None:
            whole = super().fingerprint()
            parts = [part.fingerprint() for part in self.parts.values()]
            seen = [part.behaviour for part in parts]
            joined = None if None in seen else tuple(value for part in seen for value in part or ())
            dtypes = {part.probed for part in parts}
            self._fingerprint = replace(whole, behaviour=joined, probed=dtypes.pop() if len(dtypes) == 1 else "")
        return self._fingerprint

    def fingerprints(self) -> Mapping[str, Fingerprint]:
        return {name: part.fingerprint() for name, part in self.parts.items()}


def _within(named: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in named.items() if name.startswith(f"{part}.")}


class TextTower(Backbone):
    """A text encoder that turns class names into vectors. How it pads, masks and pools is read from the network, never assumed."""

    @abstractmethod
    def encode_words(
        self,
        names: Sequence[str],
        templates: Sequence[str] = ("{}",),
        edits: Edits | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """(class, dim): the mean over templates of every name's pooled text; (sample, class, dim) where the edits' contexts differ per
        sample."""


class DualBackbone(Composite):
    """Two towers into one space: `image` and `text`.

    Attributes:
        scale: () or a number, what cosines are multiplied by (the exponential of CLIP's logit scale).
        bias: what is added then (SigLIP), or None.
        tokenizer: texts -> what the text tower reads.
    """

    def __init__(
        self, image: Backbone, text: TextTower | None, source: str, scale: float, bias: float | None, tokenizer: Any
    ) -> None:
        super().__init__({"image": image} | ({} if text is None else {"text": text}), source)
        self.scale, self.bias, self.tokenizer = scale, bias, tokenizer
        self.preprocessing = {
            **self.preprocessing,
            "scale": scale,
            "bias": bias,
        }  # recorded and compared as the parts' preparation is

    @property
    def image(self) -> Backbone:
        return self.part("image")

    @property
    def text(self) -> TextTower:
        tower = self.part("text")
        assert isinstance(tower, TextTower)
        return tower

    def compare(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (batch, class) = scale cos(image (batch, dim), text (class, dim) or (batch, class, dim)) [+ bias]."""
        images, texts = (nn.functional.normalize(part, dim=-1) for part in (image, text))
        cosine = images @ texts.T if texts.ndim == 2 else (texts @ images[..., None])[..., 0]
        return cosine * self.scale + (self.bias or 0.0)
