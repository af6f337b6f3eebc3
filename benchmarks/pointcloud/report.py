"""docs/benchmarks/pointcloud.md from the committed results: `python -m benchmarks.pointcloud.report`."""

from __future__ import annotations

from pathlib import Path

from benchmarks._harness import read

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "pointcloud.md"


def render() -> str:
    operators, edges, epochs = read("pointcloud_operators"), read("pointcloud_edgeconv"), read("pointcloud_epochs")
    rows = operators["rows"]
    sampling = [row for row in rows if row["operator"] == "furthest_point_sample"]
    neighbours = [row for row in rows if row["operator"] == "knn"]
    conv, cached = edges["rows"]
    lines = [
        "# Speed: point clouds",
        "",
        "Ratios of times taken in one process, alternating, median over the rounds; one CPU thread, on a shared and loaded machine, so",
        "read the ratios and not the milliseconds. The CUDA kernels were compared with the CPU in Triton's interpreter and compiled for",
        "sm_90; they were not run on a GPU.",
        "",
        "## Furthest point sampling (`python -m benchmarks.pointcloud.operators`)",
        "",
        "Against fpsample's exact sampler, start index 0; identical indices in all cases. Target: at most 1.5.",
        "",
        "| clouds | identical | time / fpsample | torch loop / ours | spread |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {'yes' if row['identical_indices'] else 'no'} | {row['ratio_to_fpsample']:.2f} | "
        f"{row['torch_loop_to_ours']:.0f} | {row['spread']:.2f} |"
        for row in sampling
    ]
    lines += [
        "",
        "## Nearest neighbours",
        "",
        "Against torch.cdist + topk, whose expanded formula rounds some neighbours into another order. Target: at most 1.2; memory does",
        "not grow with the number of pairs.",
        "",
        "| case | equal indices | time / cdist + topk | spread |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row['share_of_equal_indices']:.4%} | {row['ratio_to_cdist']:.2f} | {row['spread']:.2f} |"
        for row in neighbours
    ]
    lines += [
        "",
        "## EdgeConv without edges, cached tokens (`python -m benchmarks.pointcloud.edgeconv`)",
        "",
        "| quantity | target | measured |",
        "|---|---|---|",
        f"| operations of a step / with edges ({conv['case']}) | <= 0.2 | {conv['flops_ratio']:.3f} |",
        f"| peak memory of a step / with edges | <= 0.25 | {conv['peak_ratio']:.3f} |",
        f"| time of a step / with edges | | {conv['time_ratio']:.2f} |",
        f"| largest relative difference, values / gradients | | {conv['max_relative_difference']:.1e} / "
        f"{conv['max_relative_difference_of_gradients']:.1e} |",
        f"| speed-up of a step on cached tokens ({cached['case']}) | >= 5 | {cached['speedup_of_cached_steps']:.2f} |",
        f"| operations saved on cached tokens | | {cached['flops_saved']:.2f} |",
        f"| difference of the loss on cached tokens | 0 | {cached['max_relative_difference']:g} |",
        "",
        "## Epochs on cached tokens (`python -m benchmarks.pointcloud.cached_epochs`)",
        "",
        "IDPT with `--no-train-class-token` and no augmentation, as `fit` runs it, from an empty cache that the first epoch fills.",
        "Target: at least 5 where the network is large enough for its cost to matter.",
        "",
        "| backbone | clouds | first epoch s | later epoch s | speed-up | epoch without cache s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['backbone']} | {row['clouds']} | {row['first_epoch_s']:.2f} | {row['later_epoch_s']:.2f} | {row['speedup']:.2f} | "
        f"{row['uncached_epoch_s']:.2f} |"
        for row in epochs["rows"]
    ]
    lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
