"""The drawn pictures: a function of the seed, inside [0, 1], with the families in their shares and no digit among the classes."""

from __future__ import annotations

import pytest
import torch
from pt_vision.classification.pretrain.images import keyed
from pt_vision.data import augment
from pt_vision.data.augment import Warp
from pt_vision.glyphs.characters import FONTS, GLYPHS, covered
from pt_vision.glyphs.source import SHARES, GlyphSource, example_sheet


@pytest.fixture(scope="module")
def source() -> GlyphSource:
    return GlyphSource(32)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_is_a_function_of_the_generator(source: GlyphSource) -> None:
    (x, y), (again, labels), (other, _) = source.batch(64, rng()), source.batch(64, rng()), source.batch(64, rng(1))
    assert torch.equal(x, again)
    assert torch.equal(y, labels)
    assert not torch.equal(x, other)
    assert x.shape == (64, 3, 32, 32)
    assert x.min() >= 0
    assert x.max() <= 1
    assert x.isfinite().all()


def test_families_have_their_shares_and_all_classes_occur(source: GlyphSource) -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    _, labels = source.batch(200, rng())
    starts = dict(zip(source.families, torch.tensor([0, *source.families.values()]).cumsum(0).tolist(), strict=False))
    for family, size in source.families.items():
        inside = ((labels >= starts[family]) & (labels < starts[family] + size)).sum().item()
        assert abs(inside - SHARES[family] * 200) <= 4, family
    assert len(source.class_names) == sum(source.families.values()) == len(set(source.class_names))


def test_held_out_pictures_are_fixed_and_not_those_of_training(source: GlyphSource) -> None:
    first, second = (next(iter(source.held_out(32)))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not any(torch.equal(first, source.batch(32, keyed(0, step))[0]) for step in range(3))
    assert sum(len(labels) for _, labels in source.held_out(300)) == 300


def test_classes_hold_no_digit_and_nothing_drawn_like_one() -> None:
    characters = "".join(GLYPHS)
    assert not any(character.isdecimal() for character in characters)
    assert not set("OIlЗЭ") & set(characters)
    assert len(set(characters)) == len(characters), "a character in two classes"
    drawn = {character for font in FONTS for character in covered(font)}
    assert set(characters) <= drawn, set(characters) - drawn


def test_pictures_of_a_class_vary_and_still_share_more_than_pictures_of_others(source: GlyphSource) -> None:
    x, labels = source.batch(1024, rng(3))
    grey = x.mean(1).flatten(1)
    grey = (grey - grey.mean(1, keepdim=True)).abs()  # ink and paper have any colour
    grey = torch.nn.functional.normalize(grey, dim=1)
    same = labels[:, None] == labels[None]
    same.fill_diagonal_(False)
    similarity = grey @ grey.T
    assert similarity[same].max() < 0.9999
    assert similarity[same].mean() > similarity[~same & ~torch.eye(len(x), dtype=torch.bool)].mean()


def test_the_sheet_shows_them(source: GlyphSource) -> None:
    assert example_sheet(source, columns=4, rows=2).size == (4 * 34, 2 * 34)


# ---- what pictures go through --------------------------------------------------------------------------------------------


def test_no_warp_is_a_plain_resize_and_a_mirror_is_one() -> None:
    x = torch.rand(2, 3, 24, 24, generator=rng())
    still = Warp(rotate=0, scale=(1, 1), aspect=0, shift=0)
    torch.testing.assert_close(augment.warp(x, 24, still, rng()), x, atol=1e-4, rtol=0)
    mirrored = augment.warp(x, 24, Warp(rotate=0, scale=(1, 1), aspect=0, shift=0, flip=1.0), rng())
    torch.testing.assert_close(mirrored, x.flip(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_sometimes_changes_a_share_of_the_rows_and_leaves_the_others(probability: float) -> None:
    x = torch.rand(200, 1, 4, 4, generator=rng())
    changed = (augment.sometimes(x.clone(), probability, rng(1), lambda part: part + 1) != x).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(probability, abs=0.12)


def test_strokes_grow_and_shrink() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 2:7] = 1
    assert augment.thicken(x).sum() > x.sum()
    assert augment.thin(augment.thicken(x)).sum() <= augment.thicken(x).sum()
    blurred = augment.blur(x)
    assert blurred.max() < 1
    assert blurred.sum().item() == pytest.approx(x.sum().item(), rel=0.05)


@pytest.mark.parametrize("name", ["low_resolution", "noise", "colour"])
def test_wear_keeps_the_shape_and_is_a_function_of_the_generator(name: str) -> None:
    x = torch.rand(8, 3, 16, 16, generator=rng())
    change = getattr(augment, name)
    first, second = change(x.clone(), rng(2)), change(x.clone(), rng(2))
    assert torch.equal(first, second)
    assert first.shape == x.shape
    assert not torch.equal(first, x)
    assert first.isfinite().all()
