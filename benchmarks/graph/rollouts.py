"""RELIEF's rollouts against the loop as published: two forwards per step, everything in float64, a dense buffer.

    python -m benchmarks.graph.rollouts --data DIR

DIR holds moleculenet/ and gnn_weights/. Both sides get the same noise, graphs, network, policy and head; rewards are compared. Then whole
epochs with the pooled and with the flat critic, each in a process of its own. Writes benchmarks/results/graph_rollouts.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pt_core import Add
from pt_core.kernels import reference_kernels
from pt_core.run.declare.resolve import resolve
from pt_core.run.fit.execute import execute
from pt_core.run.fit.prepare import Prepared, prepare
from pt_graph.graphs.batch import Graphs
from pt_graph.modality import Graph
from pt_graph.relief.episodes import Choose, Episodes, Noise, member_policy, play
from pt_graph.relief.update import transitions
from torch import Tensor

from benchmarks._harness import in_own_process, load, machine, peak_bytes, read, write

NODES = 132
"""N, the largest graph of BBBP."""


def prepared(data: Path, critic: str, epochs: int) -> Prepared:
    """RELIEF on BBBP, 50 shots, with the settings published for context-prediction weights."""
    options = {
        "data": (str(data / "moleculenet" / "bbbp_graphs.npz"),),
        "backbone": ("chem:gcn",),
        "weights": (str(data / "gnn_weights" / "chem_gcn_contextpred.safetensors"),),
        "total_shots": 50,
        "max_val": 50,
        "max_test": 100,
        "z_max": 0.5,
        "alpha_d": 1.0,
        "head_layers": 3,
        "minibatch": 64,
        "critic": critic,
        "state_nodes": NODES,
        "epochs": epochs,
        "warmup": 60,
        "head_steps": 10,
        "eval_every": epochs,
        "checkpoint_every": 1000,
        "seed": 1,
        "device": "cpu",
    }
    return prepare(Graph(), resolve(Graph(), "relief", options), lambda text: None)


def published_loop(method: Any, graphs: Graphs, target: Tensor, noise: Noise, std: float) -> tuple[Tensor, int]:
    """(rewards (graph, step), bytes of the buffer): the card's loop, float64, dense, finished graphs padded and masked afterwards."""
    dim, prompt_dim = method.backbone.dim, method.backbone.prompt_dim
    sizes, first = graphs.sizes, graphs.starts
    batch, steps = len(graphs), int(graphs.sizes.max())
    prompts = torch.zeros(graphs.nodes, prompt_dim, dtype=torch.float64)
    states = torch.zeros(batch, steps, NODES, dim, dtype=torch.float64)
    rewards = torch.zeros(batch, steps, dtype=torch.float64)
    policy, task = method.policies[0], method.task
    local = torch.arange(graphs.nodes) - first[graphs.graph]

    def forward() -> Tensor:
        return method.backbone(graphs, {"input": Add(lambda x, _: prompts)}).tokens

    def loss(nodes: Tensor) -> Tensor:
        return task.sample_losses(method.head(graphs.mean(nodes)), target)

    for t in range(steps):
        nodes = forward()  # state
        before = loss(nodes)
        states[graphs.graph, t, local] = nodes
        scores = torch.full((batch, NODES), -torch.inf, dtype=torch.float64)
        scores[graphs.graph, local] = policy.scores(nodes)
        cumulative = scores.softmax(1).cumsum(1)
        node = torch.minimum((cumulative <= noise.location[:, t, None] * cumulative[:, -1:]).sum(1), sizes - 1)
        mean = policy.mean(nodes[first + node])
        going = (t < sizes)[:, None]
        assert noise.content is not None
        prompts[first + node] += (mean + std * noise.content[:, t]) * going
        rewards[:, t] = before - loss(forward())  # the second forward
    return rewards, states.numel() * states.element_size()


def cpu_seconds(contenders: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU time of this (single) thread per round: a busy machine stretches wall time at random. One uncounted round first."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, body in contenders.items():
            start = time.process_time()
            body()
            if number:
                found[name].append(time.process_time() - start)
    return found


def rollouts(data: Path, rounds: int) -> list[dict[str, Any]]:
    fast = prepared(data, "pooled", 1).method
    slow = prepared(data, "pooled", 1).method.double()
    for method in (fast, slow):
        method.eval()
        for one in method.policies:  # away from the nearly uniform start
            rng = torch.Generator().manual_seed(0)
            for p in one.parameters():
                p.data += 0.05 * torch.randn(p.shape, generator=rng).to(p)
    slow.backbone.to("cpu", torch.float64)
    part = prepared(data, "pooled", 1).data["train"]
    rows = []

    def act(noise: Noise) -> Choose:
        return member_policy(fast.policies[0], 1.0, None, noise)

    for number in range(0, 24, 8):
        chosen = list(range(number, number + 8))
        batch = part.collate(chosen, [part.sample(row, epoch=None, seed=0) for row in chosen])
        ordered = torch.argsort(batch.inputs.sizes, descending=True, stable=True).tolist()
        graphs, target = batch.inputs.select_rows(ordered), batch.target[ordered]
        keys = [torch.Generator().manual_seed(number + n) for n in range(8)]
        noise = Noise.draw(graphs.sizes.tolist(), keys, fast.backbone.prompt_dim)
        embedded, wide = fast.backbone.embed(graphs), slow.backbone.embed(graphs)
        double = Noise(noise.location.double(), None if noise.content is None else noise.content.double())
        kept: dict[str, Any] = {}

        def ours(embedded: Graphs = embedded, target: Tensor = target, noise: Noise = noise, kept: Any = kept) -> None:
            def loss(pooled: Tensor, rows: Tensor) -> Tensor:
                return fast.task.sample_losses(fast.head(pooled), target[rows])

            kept["ours"] = play(fast.frozen, embedded, fast.backbone.prompt_dim, act, noise, loss, record=True)

        def theirs(wide: Graphs = wide, target: Tensor = target, double: Noise = double, kept: Any = kept) -> None:
            with torch.no_grad(), reference_kernels():
                kept["theirs"] = published_loop(slow, wide, target.double(), double, 1.0)

        times = cpu_seconds({"ours": ours, "published": theirs}, rounds)
        played: Episodes = kept["ours"]
        steps = transitions(played, graphs.sizes, None)
        graph = torch.repeat_interleave(torch.arange(8), graphs.sizes)
        at = torch.arange(len(steps)) - (graphs.sizes.cumsum(0) - graphs.sizes)[graph]
        rewards, dense = kept["theirs"]
        ragged = steps.states.numel() * steps.states.element_size()
        rows.append(
            {
                "graphs": 8,
                "nodes": graphs.nodes,
                "largest": int(graphs.sizes.max()),
                "environment_steps": len(steps),
                "ours_cpu_seconds": round(statistics.median(times["ours"]), 4),
                "published_cpu_seconds": round(statistics.median(times["published"]), 4),
                "faster": round(
                    statistics.median(b / a for a, b in zip(times["ours"], times["published"], strict=True)), 2
                ),
                "steps_per_second": round(len(steps) / statistics.median(times["ours"]), 1),
                "buffer_bytes": ragged,
                "published_buffer_bytes": dense,
                "smaller": round(dense / ragged, 1),
                "largest_reward_difference": float((steps.reward.double() - rewards[graph, at]).abs().max()),
                "largest_reward": float(rewards[graph, at].abs().max()),
            }
        )
    return rows


def epochs(data: Path, critic: str, count: int) -> dict[str, Any]:
    """One run with a critic; times, memory and results."""
    ready = prepared(data, critic, count)
    folder = Path(tempfile.mkdtemp())
    found: dict[str, Any] = {}

    def body() -> None:
        started = time.process_time()
        status = execute(Graph(), ready, folder / "run", lambda text: None, report=False)
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        own = [line for line in lines if line.get("split") == "train" and line.get("stage") == "relief"]
        found.update(
            critic=critic,
            critic_values=sum(p.numel() for p in ready.method.critic.parameters()),  # type: ignore[attr-defined]
            epochs=count,
            last_epoch_seconds=own[-1]["seconds"],
            cpu_seconds=round(time.process_time() - started, 1),
            policy_updates=own[-1].get("policy_updates"),
            mean_return=round(own[-1]["return"], 5),
            test={key: round(value, 4) for key, value in status["results"]["test"].items()},
        )

    before, peak = peak_bytes(body)
    found["peak_bytes_above_start"] = peak - before
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--critic", choices=["pooled", "flat"], help="(one run in this process)")
    parser.add_argument("--rollouts-only", action="store_true", help="measure the rollouts again, keep the rest")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if given.critic:
        print(json.dumps(epochs(given.data, given.critic, given.epochs)))
        return
    rows = rollouts(given.data, given.rounds)
    for row in rows:
        print(row, flush=True)
    if given.rollouts_only:
        kept = read("graph_rollouts")
        write("graph_rollouts", {key: value for key, value in kept.items() if key != "rows"}, rows)
        return
    arguments = ["--data", str(given.data), "--epochs", str(given.epochs)]
    critics = [in_own_process("benchmarks.graph.rollouts", [*arguments, "--critic", c]) for c in ("pooled", "flat")]
    for row in critics:
        row["epochs_per_second"] = round(1 / row["last_epoch_seconds"], 4)
        print(row, flush=True)
    settings = {
        "set": "BBBP, 50 shots",
        "network": "chem_gcn_contextpred",
        "threads": 1,
        "rounds": given.rounds,
        "load": load(),
    }
    write("graph_rollouts", {"machine": machine(), "settings": settings, "critics": critics}, rows)


if __name__ == "__main__":
    main()
