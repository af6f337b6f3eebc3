"""Unlabelled clouds for prediction: files, folders, patterns, or arrays and tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pt_core.errors import DataError, nearest
from pt_core.method import Method
from pt_core.run.data.inputs import input_files

from pt_pointcloud.data.dataset import PointDataset
from pt_pointcloud.data.files import is_cloud, read_cloud
from pt_pointcloud.data.normalise import check_cloud
from pt_pointcloud.options import PredictOptions


def _numbers(item: Any, number: int) -> NDArray[Any]:
    try:
        if hasattr(item, "detach"):
            item = item.detach().cpu()
            item = (
                item.float() if item.is_floating_point() and item.element_size() < 4 else item
            )  # numpy has no bfloat16
        return np.asarray(item)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"cloud {number} is no array of points ({' '.join(str(error).split())[:120]})") from None


def input_clouds(items: Sequence[Any], method: Method, options: PredictOptions) -> PointDataset:
    """Clouds in the order given, bound to the method's backbone. Part segmentation needs the category of every cloud: `category`, or
    the name of the folder a file lies in.

    Raises:
        DataError: nothing there, clouds that cannot be read, or an unknown category.
    """
    clouds, ids, folders = [], [], []
    for number, item in enumerate(items):
        if isinstance(item, (str, Path)):
            for file in input_files(item, is_cloud, "cloud or mesh"):
                clouds.append(read_cloud(file, options.mesh_points, options.mesh_seed, str(file))[0])
                ids.append(str(file))
                folders.append(file.resolve().parent.name)
            continue
        array = _numbers(item, number)
        many = array[None] if array.ndim == 2 else array
        if many.ndim != 3:
            raise DataError(f"cloud {number} has shape {array.shape}; give (point, 3)")
        for row, cloud in enumerate(many):
            name = f"cloud-{number}" if array.ndim == 2 else f"cloud-{number}-{row}"
            clouds.append(check_cloud(cloud, name))
            ids.append(name)
            folders.append("")
    if not ids:
        raise DataError("no input clouds are given")
    labels: list[int] | None = None
    categories = list(getattr(method.task, "categories", ()))
    if categories:
        names = [options.category or folder for folder in folders]
        unknown = next((n for n, name in enumerate(names) if name not in categories), None)
        if unknown is not None:
            raise DataError(
                f"cloud {ids[unknown]!r}: category {names[unknown]!r}{nearest(names[unknown], categories)} is unknown; give --category, "
                f"one of {', '.join(categories)}"
            )
        labels = [categories.index(name) for name in names]
    dataset = PointDataset(clouds, ids, labels, categories)
    return dataset.bind(method.backbone.preprocessing, votes=options.votes, parts=bool(categories))
