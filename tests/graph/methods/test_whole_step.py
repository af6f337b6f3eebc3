"""A whole step of every method with one of its own against a loop written by hand: losses, gradients, values after it.

The frozen network and an episode's play are pt's own (they have tests of their own); everything between is written out here.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pt_core import Add
from pt_core.data import generator
from pt_graph.graphs.batch import collate
from pt_graph.methods.all_in_one import AllInOne
from pt_graph.methods.gppt import GPPT
from pt_graph.methods.graph_prompt import GraphPrompt
from pt_graph.methods.relief import RELIEF
from pt_graph.relief.episodes import Noise, member_policy, play
from pt_graph.relief.update import transitions
from torch import Tensor

from tests.graph.methods.common import DIM, batch, close, data, seeded_make
from tests.stepping import Stepping, gradients_of, same_gradients


def nll(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p[y], row by row."""
    return torch.stack([row.logsumexp(0) - row[int(y)] for row, y in zip(logits, target, strict=True)]).mean()


def yes_or_no(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log sigmoid(+-logit) over the known labels (1 yes, -1 no, 0 unknown)."""
    rows = [-(y * z).sigmoid().log() for z, y in zip(logits.flatten(), target.flatten(), strict=True) if y]
    return torch.stack(rows).mean()


def moved(method: Any, scale: float = 0.3) -> Any:
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(scale * torch.randn(tensor.shape, generator=rng))
    return method


# ---- All-in-One ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "turn"),
    [
        (0, "head"),
        (3, "head"),
        (4, "head"),
        (5, "prompt"),
        (10, "prompt"),
        (14, "prompt"),
        (15, "head"),
        (19, "head"),
        (20, "prompt"),
    ],
)
def test_a_step_of_all_in_one_moves_head_or_tokens(step: int, turn: str) -> None:
    """1 epoch of the head, 2 of the tokens, 5 steps an epoch."""
    method = moved(seeded_make(AllInOne, "shapes", mode="weighted_sum", head_epochs=1, prompt_epochs=2))
    parts = [{"train": batch("shapes", 0, 1, 2, 3, role="train")}, {"train": batch("shapes", 4, 5, role="train")}]
    optimisers = {"prompt": (("tokens",), 0.1), "head": (("head.*",), 0.2)}
    ctx = Stepping(method, parts, optimisers, step=step)
    start = {name: p.detach().clone() for name, p in method.named_parameters()}
    whole = batch("shapes", *range(6), role="train")
    pooled = []
    for graph in whole.inputs.split():
        weight = torch.sigmoid(graph.x @ method.tokens[0].T)
        prompts = torch.where(weight >= method.config.cross_prune, weight, 0.0) @ method.tokens[0]
        pooled.append(method.backbone.nodes(graph, {"input": Add(lambda x, _, p=prompts: p)}).mean(0))
    loss = nll(method.head(torch.stack(pooled)), whole.target)
    want = gradients_of(method, loss, *optimisers[turn][0])
    logs = method.alternate(ctx, 5)
    close(torch.as_tensor(logs["loss"]), loss)
    ((name, taken),) = ctx.updates
    assert name == turn
    same_gradients(taken, want)
    for key, p in method.named_parameters():
        close(p, start[key] - optimisers[turn][1] * want[key] if key in want else start[key])


def test_the_start_is_learned_over_pairs_of_classes() -> None:
    """Second-order MAML over drawn pairs by hand: `adapt_steps` on the support, the query's loss behind them, Adam on the start."""
    how = {"meta_steps": 3, "meta_pairs": 2, "meta_shots": 2, "meta_lr": 0.05, "adapt_lr": 0.3, "adapt_steps": 2}
    method = moved(seeded_make(AllInOne, "shapes", mode="weighted_sum", **how), 0.1)
    part, logged = data("shapes")["train"], []
    values = [method.tokens.detach().clone(), torch.empty(2, DIM), torch.zeros(2)]
    values[1].normal_(std=DIM**-0.5, generator=generator(0, "head"))
    values = [value.requires_grad_() for value in values]
    rows = [[row for row, label in enumerate(part.labels) if label == c] for c in range(3)]
    pairs, moments, seen = list(itertools.combinations(range(3), 2)), [(0, 0)] * 3, []

    def loss_of(chosen: list[list[int]], own: list[Tensor]) -> Tensor:
        pooled, target = [], []
        for label, found in enumerate(chosen):
            for row in found:
                graph = part.graphs[row]
                weight = torch.sigmoid(graph.x @ own[0][0].T)
                prompts = torch.where(weight >= method.config.cross_prune, weight, 0.0) @ own[0][0]
                pooled.append(method.backbone.nodes(graph, {"input": Add(lambda x, _, p=prompts: p)}).mean(0))
                target.append(label)
        return nll(torch.stack(pooled) @ own[1].T + own[2], torch.tensor(target))

    for step in range(3):
        rng, total = generator(0, "meta", step), torch.zeros(())
        for number in torch.randperm(3, generator=rng)[:2].tolist():
            drawn = [[rows[c][i] for i in torch.randperm(len(rows[c]), generator=rng).tolist()] for c in pairs[number]]
            own = values
            for _ in range(2):
                slopes = torch.autograd.grad(loss_of([one[:2] for one in drawn], own), own, create_graph=True)
                own = [value - 0.3 * slope for value, slope in zip(own, slopes, strict=True)]
            total = total + loss_of([one[2:4] for one in drawn], own)
        seen.append(float(total.detach()) / 2)
        slopes = torch.autograd.grad(total / 2, values)
        moments = [(0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2) for (m, v), g in zip(moments, slopes, strict=True)]
        with torch.no_grad():
            for value, (m, v) in zip(values, moments, strict=True):
                value -= 0.05 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    head = [p.detach().clone() for p in method.head.parameters()]
    ctx = SimpleNamespace(data={"train": part}, device="cpu", rng=lambda *key: generator(0, *key), log=logged.append)
    method.meta_learn(ctx)
    close(method.tokens, values[0], 1e-4)
    assert all(torch.equal(p, was) for p, was in zip(method.head.parameters(), head, strict=True))  # three classes
    assert logged[0]["first_query_loss"] == pytest.approx(seen[0], rel=1e-5)
    assert logged[0]["query_loss"] == pytest.approx(seen[-1], rel=1e-4)


# ---- prototypes and tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["centre", "mean"])
def test_a_step_of_gppt(read: str) -> None:
    method = moved(seeded_make(GPPT, "shapes", read=read, centres=4, orthogonality=0.3))
    whole, rows, taken = batch("shapes", *range(6), role="train"), [], set()
    with torch.no_grad():
        h = method.frozen_part(whole)
        mean = h.mean(0)  # what all share tells no cluster
        method.structure_tokens.copy_(h[:4] - (h[:4] @ mean / (mean @ mean))[:, None] * mean)
    for graph in whole.inputs.split():
        nodes = method.backbone.nodes(graph)
        source, target = graph.edge_index
        smooth = [torch.stack([nodes[v], *nodes[source[target == v]]]).mean(0) for v in range(graph.nodes)]
        h = smooth[0] if read == "centre" else torch.stack(smooth).mean(0)
        near = max(range(4), key=lambda k: float(h @ method.structure_tokens[k]))
        taken.add(near)
        rows.append(method.task_tokens[near] @ h)
    assert len(taken) > 1, "or the test says nothing"
    entropy, far = nll(torch.stack(rows), whole.target), torch.zeros(())
    for token in method.task_tokens:
        far = (
            far
            + sum(
                ((token[i] @ token[j] - float(i == j)) ** 2 for i in range(3) for j in range(3)), torch.zeros(())
            ).sqrt()
            / 4
        )
    want = gradients_of(method, entropy + 0.3 * far)
    output = method.training_step(whole)
    close(output.loss, entropy + 0.3 * far)
    close(output.logs["orthogonality"], far)
    assert output.count == 6
    same_gradients(gradients_of(method, output.loss), want)


@pytest.mark.parametrize("readout", ["graph", "neighbourhood"])
def test_a_step_of_graph_prompt(readout: str) -> None:
    """Prototypes in two passes over the training graphs, then the gradient of the vector, through graph and prototypes."""
    method = moved(seeded_make(GraphPrompt, "shapes", readout=readout, temperature=0.3))
    part = data("shapes")["train"]
    halves = [batch("shapes", *range(10), role="train"), batch("shapes", *range(10, 21), role="train")]
    method.collect(SimpleNamespace(batches=lambda role: iter(halves if role == "train" else ())))
    sums = []
    for graph in part.graphs:
        nodes = method.backbone.nodes(graph)
        source, target = graph.edge_index
        sums.append(nodes.sum(0) if readout == "graph" else nodes[0] + nodes[source[target == 0]].sum(0))
    means = torch.stack(
        [torch.stack([s for s, y in zip(sums, part.labels, strict=True) if y == c]).mean(0) for c in range(3)]
    )
    close(method.means, means)
    whole, logits = batch("shapes", *range(6), role="train"), []
    for own in sums[:6]:
        a = method.prompt * own
        logits.append(torch.stack([(a @ (b := method.prompt * mean)) / a.norm() / b.norm() / 0.3 for mean in means]))
    loss = nll(torch.stack(logits), whole.target)
    output = method.training_step(whole)
    close(output.loss, loss)
    same_gradients(gradients_of(method, output.loss), gradients_of(method, loss), 1e-4)


# ---- RELIEF -------------------------------------------------------------------------------------------------------------------

POLICY = {
    "ensemble": 2, "critic": "pooled", "minibatch": 10, "rollout_graphs": 2, "alpha_d": 2.0, "alpha_c": 0.3, "gamma": 0.9,
    "gae_lambda": 0.8, "clip_d": 0.1, "clip_c": 0.05, "entropy": 0.2, "log_std_start": -0.5, "log_std_end": -2.5, "z_max": 0.7,
    "kl_stop_d": 1e9, "kl_stop_c": 1e9, "passes": 2,
}  # fmt: skip


def chosen_log(
    policy: Any, nodes: Tensor, node: int, content: Tensor, std: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(log p of the node, log-density of the content, probabilities, mean) of a state (n, d)."""
    probability = policy.scores(nodes).softmax(0)
    mean = policy.mean(nodes[node][None])[0]
    each = [-((c - m) ** 2) / (2 * std**2) for c, m in zip(content, mean, strict=True)]
    density = torch.stack(each) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return probability[node].log(), density.sum(), probability, mean


def ppo(log: Tensor, old: Tensor, gain: float, clip: float) -> Tensor:
    ratio = (log - old).exp()
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)


def normalised(rewards: list[float], seen: list[float]) -> list[float]:
    """Each by mean and population spread of all rewards so far; those of the first rollout have been seen once before."""
    if not seen:
        seen += rewards
    found = []
    for reward in rewards:
        seen.append(reward)
        mean = sum(seen) / len(seen)
        found.append((reward - mean) / (math.sqrt(sum((x - mean) ** 2 for x in seen) / len(seen)) + 1e-8))
    return found


@pytest.mark.parametrize("options", [{}, {"clamp_actions": True, "reward_clip": 0.05}])
def test_an_epoch_of_relief(options: dict[str, Any]) -> None:
    """All members in turn on their shares, two graphs at a time, then the head: every gradient of every update."""
    made = [moved(seeded_make(RELIEF, "molecules", **{**POLICY, **options}), 0.2).train() for _ in range(2)]
    method, slow = made
    whole = batch("molecules", *range(1, 9), role="train")
    shares = [[0, 1, 2, 5], [4, 6, 7, 3]]
    optimisers = {f"member{e}": ((f"members.{e}.*", "critic.*"), 0.02) for e in range(2)} | {"head": (("head.*",), 0.1)}
    contexts = [Stepping(one, [{"train": whole}], optimisers, step=1, steps=4) for one in made]
    ctx = contexts[1]
    std = math.exp(-0.5 - 2.0 * 1 / 4)  # a quarter of the way
    bonus = 0.2 * (1 - 1 / 4)
    graphs, seen, updates = list(slow.backbone.embed(whole.inputs).split()), [], []
    returns, weights = [], []
    for member, share in enumerate(shares):
        order = [share[i] for i in torch.randperm(4, generator=ctx.rng("share", member)).tolist()]
        for start in (0, 2):
            rows = order[start : start + 2]
            both, target = collate([graphs[row] for row in rows]), whole.target[rows]
            noise = Noise.draw(both.sizes.tolist(), [ctx.rng("episode", member, whole.ids[row]) for row in rows], DIM)
            policy, clamp = slow.policies[member], 0.7 if "clamp_actions" in options else None

            def loss(pooled: Tensor, at: Tensor, target: Tensor = target) -> Tensor:
                return slow.task.sample_losses(slow.head(pooled), target[at])

            slow.eval()
            played = play(
                slow.frozen,
                both,
                DIM,
                lambda n, p=policy, c=clamp: member_policy(p, std, c, n),
                noise,
                loss,
                record=True,
            )
            slow.train()
            steps = transitions(played, both.sizes, None)
            returns.append(
                sum(float(played.losses[b, 0] - played.losses[b, n]) for b, n in enumerate(both.sizes.tolist()))
            )
            limit = options.get("reward_clip", math.inf)
            reward = normalised([min(max(float(r), -limit), limit) for r in steps.reward], seen)
            states, ends = [steps.nodes(torch.tensor([t]))[0] for t in range(len(steps))], steps.ends.tolist()
            value = [float(slow.critic(s, torch.tensor([len(s)])).detach()) for s in states]
            raw, running = [0.0] * len(steps), 0.0
            for t in reversed(range(len(steps))):
                after = 0.0 if ends[t] else value[t + 1]
                running = reward[t] + 0.9 * after - value[t] + (0.0 if ends[t] else 0.9 * 0.8 * running)
                raw[t] = running
            target_value = [a + v for a, v in zip(raw, value, strict=True)]
            mean = sum(raw) / len(raw)
            spread = math.sqrt(sum((a - mean) ** 2 for a in raw) / (len(raw) - 1))
            gain = [(a - mean) / (spread + 1e-8) for a in raw]
            assert len(steps) > 10
            rng = ctx.rng("passes", f"{member} {start}")
            for _ in range(2):
                shuffled = torch.randperm(len(steps), generator=rng).tolist()
                for first in range(0, len(steps) // 10 * 10, 10):
                    total = torch.zeros(())
                    for t in shuffled[first : first + 10]:
                        node = int(steps.node[t])
                        log, density, p, _ = chosen_log(policy, states[t], node, steps.content[t], std)
                        own = ppo(log, steps.log_node[t], gain[t], 0.1) + ppo(
                            density, steps.log_content[t], gain[t], 0.05
                        )
                        own = own + bonus * (p * p.log()).sum()
                        other = slow.policies[1 - member]
                        theirs = other.scores(states[t]).softmax(0).detach()
                        joint = torch.maximum(p.detach(), theirs)
                        best = int(joint.argmax())
                        joint = joint / joint.sum()
                        own = own + 2.0 * (joint * (joint.log() - p.log())).sum()
                        at = states[t][best][None]
                        mine = policy.mean(at)[0]
                        shared = (mine.detach() + other.mean(at)[0].detach()) / 2
                        own = own + 0.3 * ((mine - shared) ** 2).sum() / (2 * std**2)
                        fit = (slow.critic(states[t], torch.tensor([len(states[t])]))[0] - target_value[t]) ** 2
                        total = total + (own + 0.5 * fit) / 10
                    name = f"member{member}"
                    gradients = gradients_of(slow, total, *optimisers[name][0])
                    assert not any(key.startswith(f"members.{1 - member}") for key in gradients)
                    with torch.no_grad():
                        for key, gradient in gradients.items():
                            dict(slow.named_parameters())[key].sub_(0.02 * gradient)
                    updates.append((name, gradients))
    # The head: one pass over all graphs under the joint policy.
    order = torch.randperm(8, generator=ctx.rng("head 0")).tolist()
    with torch.no_grad():
        rows = collate([graphs[row] for row in order])
        slow.eval()
        nodes = slow.prompt(rows, [ctx.rng("head 0", whole.ids[row]) for row in order]).nodes
        slow.train()
        pooled = torch.stack([one.mean(0) for one in nodes.split(rows.sizes.tolist())])
    logits, target = slow.head(pooled), whole.target[order]
    loss_head = yes_or_no(logits, target)
    updates.append(("head", gradients_of(slow, loss_head, "head.*")))
    logs = method.epoch(contexts[0], whole, shares)
    assert [name for name, _ in contexts[0].updates] == [name for name, _ in updates]
    assert len(updates) > 8
    for (_, have), (_, want) in zip(contexts[0].updates, updates, strict=True):
        same_gradients(have, want, 2e-4)
    weights = [2] * len(returns)
    assert logs["return"] == pytest.approx(sum(returns) / sum(weights), rel=1e-4, abs=1e-6)
    assert logs["loss"] == pytest.approx(float(loss_head.detach()), rel=1e-3)
    assert logs["policy_updates"] == len(updates) - 1


def test_the_head_warms_up_on_graphs_without_prompts() -> None:
    method = moved(seeded_make(RELIEF, "molecules", **POLICY), 0.2).train()
    whole = batch("molecules", *range(1, 9), role="train")
    ctx = Stepping(method, [{"train": whole}], {"head": (("head.*",), 0.1)}, step=0)
    pooled = torch.stack(
        [method.backbone.nodes(graph).mean(0) for graph in method.backbone.embed(whole.inputs).split()]
    )
    loss = yes_or_no(method.head(pooled), whole.target)
    want = gradients_of(method, loss, "head.*")
    logs = method.warm_up(ctx, whole)
    assert logs["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    ((name, taken),) = ctx.updates
    assert name == "head"
    same_gradients(taken, want)
