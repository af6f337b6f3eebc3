"""RELIEF does what its card says: episodes, the policy update, the ensemble, the head, and what stays frozen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pt_core import Add
from pt_core.data import generator, take
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import keyed
from pt_core.run.declare.options import build_all
from pt_core.run.declare.resolve import resolve
from pt_core.run.fit.execute import execute
from pt_core.run.fit.prepare import prepare
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_graph.graphs.batch import collate
from pt_graph.methods.linear import LinearProbe
from pt_graph.methods.relief import RELIEF, RELIEFConfig
from pt_graph.modality import Graph
from pt_graph.relief.episodes import (
    Episodes,
    Noise,
    Ragged,
    joint_policy,
    joint_probabilities,
    member_policy,
    play,
    sample,
)
from pt_graph.relief.epoch import episode_returns
from pt_graph.relief.policy import FlatCritic, Policy, PooledCritic
from pt_graph.relief.shares import Averages, member_shares
from pt_graph.relief.update import (
    RunningScale,
    Weights,
    advantages,
    content_penalty,
    node_penalty,
    objective,
    transitions,
)
from torch.nn import functional as F

from tests.graph.methods.common import (
    DIM,
    OPTIONS,
    batch,
    case,
    close,
    conformance,
    data,
    head_values,
    make,
    molecular,
    seeded_make,
)

QUICK = {"minibatch": 24, "passes": 1, "critic": "pooled", "select_from": 2, "frozen_mode": "eval"}
EPOCHS = replace(OPTIONS, steps=2, eval_every=1, optimizer="adam")


def member(dim: int, prompt: int) -> int:
    """Values of two actors, by the formulas of the card."""
    half, quarter = dim // 2, dim // 4
    discrete = (dim * half + half) + (half * quarter + quarter) + (quarter + 1)
    return discrete + (dim * half + half) + (half * half + half) + (half * prompt + prompt)


def pooled_critic(dim: int) -> int:
    return (dim * dim + dim) + (dim * (dim // 2) + dim // 2) + (dim // 2 + 1)


def refuse(**options):
    return lambda: build_all({"config": RELIEFConfig}, options)


BAD = (
    BadInput("negative bound", refuse(z_max=-0.1), "z_max=-0.1"),
    BadInput("negative alpha", refuse(alpha_d=-1), "alpha_d=-1"),
    BadInput("negative alpha of contents", refuse(alpha_c=-1), "alpha_c=-1"),
    BadInput("gamma above one", refuse(gamma=1.1), "gamma=1.1"),
    BadInput("negative gamma", refuse(gamma=-0.1), "gamma=-0.1"),
    BadInput("no member", refuse(ensemble=0), "ensemble=0"),
    BadInput("misspelt", refuse(zmax=1), "zmax.*did you mean 'z_max'"),
    BadInput("growing spread", refuse(log_std_end=1.0), "log_std_end exceeds log_std_start"),
)
FLAT = DIM * 30
CASES = {
    "ensemble": case(
        RELIEF,
        "molecules",
        3 * member(DIM, DIM) + pooled_critic(DIM) + head_values(2),
        QUICK,
        options=EPOCHS,
        accumulates=False,
        bad_inputs=BAD,
    ),
    "alone_flat": case(
        RELIEF,
        "shapes",
        member(DIM, 5)
        + sum(
            (a * b + b)
            for a, b in ((FLAT, int(0.05 * FLAT)), (int(0.05 * FLAT), int(0.025 * FLAT)), (int(0.025 * FLAT), 1))
        )
        + head_values(3, 2),
        {
            **QUICK,
            "ensemble": 1,
            "critic": "flat",
            "head_layers": 2,
            "warmup": 2,
            "clamp_actions": True,
            "reward_clip": 0.1,
        },
        options=EPOCHS,
        accumulates=False,
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:.* training graphs have no label")


CASES["dropout"] = replace(
    CASES["ensemble"], make=partial(make, RELIEF, "molecules", **{**QUICK, "frozen_mode": "dropout"}), bad_inputs=()
)


@pytest.mark.parametrize(("one", "check"), conformance(CASES, brief={"dropout": ("resume",)}))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


def generators(count, seed=0):
    return [torch.Generator().manual_seed(100 * seed + n) for n in range(count)]


def relief(kind="molecules", **options):
    return seeded_make(RELIEF, kind, **{**QUICK, **options})


def embedded(method, kind="molecules", *rows):
    return method.backbone.embed(batch(kind, *rows).inputs)


def noise_for(graphs, dim, seed=0):
    return Noise.draw(graphs.sizes.tolist(), generators(len(graphs), seed), dim)


def rollout(method, graphs, target=None, std=0.5, seed=0, who=0) -> Episodes:
    def loss(pooled, at):
        return method.task.sample_losses(method.head(pooled), target[at])

    dim = method.backbone.prompt_dim
    noise = noise_for(graphs, dim, seed)
    policy = method.policies[who]
    return play(
        method.frozen,
        graphs,
        dim,
        lambda n: member_policy(policy, std, None, n),
        noise,
        loss if target is not None else None,
        record=True,
    )


# ---- 1. no prompts -------------------------------------------------------------------------------------------------------------


def test_without_content_it_is_a_probe():
    method, probe = relief(z_max=0.0), seeded_make(LinearProbe)
    probe.head.load_state_dict(method.head.state_dict())
    method.eval()
    with torch.no_grad():
        found = method.predict_step(batch(), lambda name: torch.Generator().manual_seed(1))
        assert not method.node_prompts(batch().inputs, batch()).any()
        assert torch.equal(found["logits"], probe(batch()))
    assert not found["pcr"].any()
    assert not found["apm"].any()


# ---- 2. ensembles of one and of copies -----------------------------------------------------------------------------------------


def minibatch(method, who=0, count=None):
    b = batch()
    graphs = method.backbone.embed(b.inputs)
    steps = transitions(rollout(method, graphs, b.target, who=who), graphs.sizes, None)
    chosen = torch.arange(len(steps))[:count]
    return steps, chosen, torch.randn(len(steps), generator=torch.Generator().manual_seed(5))


WEIGHTS = Weights(0.2, 0.2, 0.01, 1e5, 0.1, 0.5)


def test_one_policy_has_no_penalty_and_is_the_joint_policy():
    method = relief(ensemble=1)
    steps, chosen, advantage = minibatch(method)
    found = objective(method.policies, 0, steps, chosen, advantage, WEIGHTS)
    assert (found.logs["penalty_d"], found.logs["penalty_c"]) == (0, 0)
    p = torch.tensor([[0.2, 0.8, 0.0]])
    assert torch.equal(joint_probabilities([p]), p)


def test_identical_copies_have_no_penalty():
    method = relief()
    for other in method.members[1:]:
        other.load_state_dict(method.members[0].state_dict())
    steps, chosen, advantage = minibatch(method)
    found = objective(method.policies, 1, steps, chosen, advantage, WEIGHTS)
    assert abs(found.logs["penalty_c"]) < 1e-12
    assert abs(found.logs["penalty_d"]) < 1e-7


def test_gradient_reaches_one_member_only():
    method = relief()
    for n, one in enumerate(method.members):
        for p in one.parameters():
            p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n))
    steps, chosen, advantage = minibatch(method, who=1)
    found = objective(method.policies, 1, steps, chosen, advantage, WEIGHTS)
    assert found.logs["penalty_d"] > 0
    assert found.logs["penalty_c"] > 0
    found.loss.backward()
    reached = {name.split(".")[1] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"1"}
    assert all(p.grad is not None for p in method.members[1].parameters())


# ---- 3. the first minibatch ------------------------------------------------------------------------------------------------------


def test_nothing_moved_before_the_first_step():
    method = relief(ensemble=1)
    steps, chosen, advantage = minibatch(method)
    found = objective(method.policies, 0, steps, chosen, advantage, WEIGHTS)
    assert abs(found.kl_node) < 1e-6
    assert abs(found.kl_content) < 1e-6
    want = -2 * advantage.mean() - 0.01 * found.logs["entropy"]
    assert float(found.loss.detach()) == pytest.approx(float(want), abs=1e-5)


def test_ratios_are_clipped():
    method = relief(ensemble=1)
    steps, chosen, advantage = minibatch(method)
    moved = replace(steps, log_node=steps.log_node - math.log(1.5), log_content=steps.log_content - math.log(0.5))
    found = objective(method.policies, 0, moved, chosen, advantage, replace(WEIGHTS, entropy=0.0))
    node = -torch.minimum(1.5 * advantage, 1.2 * advantage).mean()
    content = -torch.minimum(0.5 * advantage, 0.8 * advantage).mean()
    assert float(found.loss.detach()) == pytest.approx(float(node + content), rel=1e-4)
    assert found.kl_node == pytest.approx(0.5 - math.log(1.5), rel=1e-4)
    assert found.kl_content == pytest.approx(-0.5 - math.log(0.5), rel=1e-4)


# ---- 4. advantages ---------------------------------------------------------------------------------------------------------------


def test_advantages_equal_a_loop_per_episode():
    rng = torch.Generator().manual_seed(0)
    lengths = [3, 1, 5]
    reward, value = torch.randn(9, generator=rng), torch.randn(9, generator=rng)
    ends = torch.zeros(9, dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    want, returns, first = [], [], 0
    for size in lengths:
        own = []
        for t in range(size):
            total = 0.0
            for k in range(t, size):
                following = value[first + k + 1] if k + 1 < size else 0.0
                total += (0.99 * 0.95) ** (k - t) * float(reward[first + k] + 0.99 * following - value[first + k])
            own.append(total)
        want += own
        returns += [a + float(value[first + t]) for t, a in enumerate(own)]
        first += size
    found, target = advantages(reward, value, ends, 0.99, 0.95)
    raw = torch.tensor(want)
    close(found, (raw - raw.mean()) / (raw.std() + 1e-8))
    close(target, torch.tensor(returns))
    assert abs(float(found.mean())) < 1e-6
    assert float(found.std()) == pytest.approx(1, abs=1e-5)


def test_rewards_are_scaled_by_a_running_mean_and_spread():
    scale = RunningScale()
    first = [0.5, -1.0, 2.0]
    found = scale.normalise(first)
    seen = list(first)
    for value, have in zip(first, found, strict=True):
        seen.append(value)
        mean = sum(seen) / len(seen)
        spread = math.sqrt(sum((x - mean) ** 2 for x in seen) / len(seen))
        assert have == pytest.approx((value - mean) / (spread + 1e-8))
    one = RunningScale()
    one.update(3.0)
    assert (one.mean, one.std) == (3.0, 3.0)


# ---- 5. padding -----------------------------------------------------------------------------------------------------------------


def test_padding_has_probability_zero_and_every_graph_its_number_of_steps():
    method = relief()
    graphs = embedded(method)
    layout = Ragged.of(graphs.sizes)
    probability = layout.log_probabilities(method.policies[0].scores(graphs.x)).exp()
    assert not probability[~layout.real()].any()
    close(probability.sum(1), torch.ones(len(graphs)))
    played = rollout(method, graphs)
    steps = torch.bincount(torch.cat(played.going), minlength=len(graphs))
    assert steps.tolist() == graphs.sizes.tolist()
    for row, size in enumerate(graphs.sizes.tolist()):
        own = [a.node[g.tolist().index(row)] for a, g in zip(played.actions, played.going, strict=True) if row in g]
        assert len(own) == size
        assert max(int(n) for n in own) < size


def test_more_padding_changes_nothing():
    method = relief()
    graphs = embedded(method)
    short, long = Ragged.of(graphs.sizes), replace(Ragged.of(graphs.sizes), most=100)
    scores = method.policies[0].scores(graphs.x)
    assert torch.equal(long.log_probabilities(scores)[:, : short.most], short.log_probabilities(scores))
    assert not long.log_probabilities(scores)[:, short.most :].exp().any()
    with pytest.raises((RuntimeError, IndexError)):
        FlatCritic(DIM, 2)(graphs.x, graphs.sizes)


def test_the_end_of_the_cumulative_sum_is_reached_by_the_last_node():
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]])
    sizes = torch.tensor([3, 1])
    assert sample(p, torch.tensor([0.0, 0.0]), sizes).tolist() == [1, 0]
    assert sample(p, torch.tensor([0.499, 0.9]), sizes).tolist() == [1, 0]
    assert sample(p, torch.tensor([1 - 1e-9, 1 - 1e-9]), sizes).tolist() == [2, 0]


# ---- 6. batches -----------------------------------------------------------------------------------------------------------------


def test_a_batch_of_episodes_is_each_episode_alone():
    method = relief()
    b = batch()
    graphs = method.backbone.embed(b.inputs)
    together = rollout(method, graphs, b.target)
    first = 0
    for row, one in enumerate(graphs.split()):
        noise = Noise.draw([one.nodes], [generators(len(graphs))[row]], DIM)
        policy = method.policies[0]
        alone = play(
            method.frozen,
            one,
            DIM,
            lambda n, policy=policy: member_policy(policy, 0.5, None, n),
            noise,
            lambda pooled, at, row=row: method.task.sample_losses(method.head(pooled), b.target[row : row + 1]),
        )
        close(together.prompts[first : first + one.nodes], alone.prompts)
        close(together.nodes[first : first + one.nodes], alone.nodes, 1e-4)
        close(together.losses[row, : one.nodes + 1], alone.losses[0], 1e-4)
        first += one.nodes


def test_an_episode_is_the_naive_loop():
    """Two forwards per step, a prompt matrix per graph, no prefixes: the algorithm as the card writes it."""
    method = relief()
    b = batch("molecules", 4)
    graphs = method.backbone.embed(b.inputs)
    played = rollout(method, graphs, b.target)
    noise = noise_for(graphs, DIM)
    policy, prompts, rewards = method.policies[0], torch.zeros(graphs.nodes, DIM), []
    with torch.no_grad():
        for t in range(graphs.nodes):
            state = method.backbone.nodes(graphs, {"input": Add(lambda x, _: prompts)})
            before = method.task.sample_losses(method.head(graphs.mean(state)), b.target)
            probability = policy.scores(state).softmax(0)
            node = int((probability.cumsum(0) <= noise.location[0, t]).sum())
            mean = policy.z_max * torch.tanh(policy.continuous(state[node]))
            prompts[node] += mean + 0.5 * noise.content[0, t]
            after = method.backbone.nodes(graphs, {"input": Add(lambda x, _: prompts)})
            rewards.append(float(before - method.task.sample_losses(method.head(graphs.mean(after)), b.target)))
    steps = transitions(played, graphs.sizes, None)
    close(played.prompts, prompts, 1e-4)
    assert torch.allclose(steps.reward, torch.tensor(rewards), atol=1e-5)


def test_rollouts_are_kept_ragged():
    method = relief()
    b = batch()
    graphs = method.backbone.embed(b.inputs)
    steps = transitions(rollout(method, graphs, b.target), graphs.sizes, None)
    assert steps.states.shape == (int((graphs.sizes**2).sum()), DIM)
    assert len(steps) == int(graphs.sizes.sum())
    nodes, layout = steps.nodes(torch.tensor([0]))
    with torch.no_grad():
        first = next(iter(graphs.split()))
        close(nodes, method.backbone.nodes(first), 1e-4)
    assert layout.sizes.tolist() == [first.nodes]


# ---- 7. probabilities by hand ---------------------------------------------------------------------------------------------------


def test_log_probabilities_and_entropy_by_hand():
    method = relief(ensemble=1)
    steps, chosen, _ = minibatch(method)
    policy = method.policies[0]
    entropies = []
    for row in chosen[:20].tolist():
        nodes, _ = steps.nodes(torch.tensor([row]))
        p = policy.scores(nodes).softmax(0)
        entropies.append(float(-(p * p.log()).sum().detach()))
        assert float(steps.log_node[row]) == pytest.approx(float(p[steps.node[row]].log().detach()), abs=1e-5)
        normal = torch.distributions.Normal(policy.mean(nodes[steps.node[row]][None])[0], 0.5)
        assert float(steps.log_content[row]) == pytest.approx(
            float(normal.log_prob(steps.content[row]).sum().detach()), rel=1e-4
        )
    found = objective(method.policies, 0, steps, chosen[:20], torch.zeros(len(steps)), WEIGHTS)
    assert found.logs["entropy"] == pytest.approx(sum(entropies) / 20, rel=1e-5)


def test_joint_policy_is_the_normalised_maximum():
    a, b = torch.tensor([[0.7, 0.3, 0.0]]), torch.tensor([[0.2, 0.8, 0.0]])
    close(joint_probabilities([a, b]), torch.tensor([[0.7, 0.8, 0.0]]) / 1.5)


def test_penalties_by_hand():
    real = torch.tensor([[True, True, False]])
    target, own = torch.tensor([[0.25, 0.75, 0.0]]), torch.tensor([[0.6, 0.4, 0.0]])
    want = F.kl_div(own[:, :2].log(), target[:, :2], reduction="sum")
    close(node_penalty(target, own, real), want[None])
    mine, shared = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mine, 0.3), normal(shared, 0.3)).sum()
    close(content_penalty(mine, shared, 0.3), kl[None])


def test_the_joint_policy_speaks_for_all():
    method = relief()
    graphs = embedded(method)
    noise = Noise.draw(graphs.sizes.tolist(), generators(len(graphs)), None)
    act = joint_policy(method.policies, noise)
    with torch.no_grad():
        layout = Ragged.of(graphs.sizes)
        action = act(0, graphs.x, layout)
        means = torch.stack([p.mean(graphs.x[layout.first + action.node]) for p in method.policies])
    close(action.content, means.mean(0))


# ---- 8. what is frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "dropout", "train"])
def test_the_network_is_bit_identical_after_training(mode, tmp_path):
    method = relief(frozen_mode=mode)
    before = {name: tensor.clone() for name, tensor in method.backbone.module.state_dict().items()}
    with RunDir(tmp_path / "run").open(False) as run:
        run.update({"status": "running"})
        Trainer(method, data("molecules"), replace(EPOCHS, steps=2), run, World(EPOCHS)).fit()
    assert all(torch.equal(before[name], tensor) for name, tensor in method.backbone.module.state_dict().items())
    assert all(p.grad is None for p in method.backbone.module.parameters())
    assert not method.backbone.module.training
    drifts = hasattr(method, "statistics")
    assert drifts is (mode == "train")
    if drifts:
        drifted = method.statistics.tensors()["batch_norms.0.running_mean"]
        assert not torch.equal(drifted, before["batch_norms.0.running_mean"])


# ---- 9. counts and rewards ------------------------------------------------------------------------------------------------------


def test_published_counts():
    with torch.device("meta"):
        policy = Policy(300, 300, 1.0)
        assert sum(p.numel() for p in policy.discrete.parameters()) == 56_551
        assert sum(p.numel() for p in policy.continuous.parameters()) == 113_100
        node = Policy(128, 100, 1.0)
        assert sum(p.numel() for p in node.discrete.parameters()) == 10_369
        assert sum(p.numel() for p in node.continuous.parameters()) == 18_916
        for most, dim, millions in ((97, 300, 43.4), (132, 300, 80.4), (150, 128, 18.9)):
            count = sum(p.numel() for p in FlatCritic(dim, most).parameters())
            assert round(count / 1e6, 1) == millions


def test_rewards_add_up_to_the_whole_drop():
    method = relief()
    b = batch()
    graphs = method.backbone.embed(b.inputs)
    played = rollout(method, graphs, b.target)
    steps = transitions(played, graphs.sizes, None)
    graph = torch.repeat_interleave(torch.arange(len(graphs)), graphs.sizes)
    total = torch.zeros(len(graphs)).index_add(0, graph, steps.reward)
    drop = played.losses[:, 0] - played.losses.gather(1, graphs.sizes[:, None])[:, 0]
    assert torch.allclose(total, drop, atol=1e-5)


def test_doing_nothing_earns_nothing():
    method = relief(z_max=0.0)
    b = batch()
    graphs = method.backbone.embed(b.inputs)
    silent = Noise(noise_for(graphs, DIM).location, torch.zeros(len(graphs), int(graphs.sizes.max()), DIM))
    policy = method.policies[0]

    def loss(pooled, at):
        return method.task.sample_losses(method.head(pooled), b.target[at])

    played = play(method.frozen, graphs, DIM, lambda n: member_policy(policy, 1.0, None, n), silent, loss, record=True)
    assert not transitions(played, graphs.sizes, None).reward.any()


def test_missing_labels_and_the_published_reward():
    task = relief().task
    logits, target = (
        torch.tensor([[2.0, -1.0], [0.5, 0.5], [1.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]),
    )
    bce = F.binary_cross_entropy_with_logits
    one = bce(logits[0, 0], torch.tensor(1.0))
    missing = bce(logits[0, 1], torch.tensor(0.5))
    assert task.sample_losses(logits, target)[0] == pytest.approx(float(one))
    assert task.sample_losses(logits, target, masked=False)[0] == pytest.approx(float(one + missing))
    assert task.sample_losses(logits, target)[2] == 0
    assert task.labelled(target).tolist() == [True, True, False]


# ---- members, bounds, bad data ---------------------------------------------------------------------------------------------------


def test_members_share_a_fifth_of_the_others_parts():
    order = list(range(50))
    shares = member_shares(order, 3, whole=False)
    assert shares[0] == [*range(16), *range(29, 32), *range(47, 50)]
    assert shares[2] == [*range(32, 50), *range(13, 16), *range(29, 32)]
    assert member_shares(list(range(9)), 3, whole=False)[0] == [0, 1, 2]
    assert member_shares(list(range(9)), 3, whole=True)[0] == list(range(9))
    assert member_shares(list(range(5)), 1, whole=True) == [list(range(5))]


def test_contents_are_clamped_where_asked():
    method = relief(ensemble=1, z_max=0.1)
    graphs = embedded(method)
    noise = noise_for(graphs, DIM)
    policy = method.policies[0]
    for clamp, bounded in ((0.1, True), (None, False)):
        played = play(
            method.frozen, graphs, DIM, lambda n, c=clamp: member_policy(policy, 1.0, c, n), noise, record=True
        )
        content = torch.cat([action.content for action in played.actions])
        assert bool((content.abs() <= 0.1).all()) is bounded


def test_fewer_graphs_than_policies(tmp_path):
    method = relief(ensemble=3)
    few = {"train": data("molecules")["train"].subset([1, 2])}
    with (
        RunDir(tmp_path / "run").open(False) as run,
        pytest.raises(DataError, match="2 training graphs cannot be shared by 3"),
    ):
        run.update({"status": "running"})
        Trainer(method, few, EPOCHS, run, World(EPOCHS)).fit()


def test_too_few_transitions_are_said(tmp_path):
    one = replace(CASES["ensemble"], make=lambda: make(RELIEF, "molecules", **{**QUICK, "minibatch": 10_000}))
    with pytest.warns(UserWarning, match="no policy was updated.*minibatch=10000"):
        method = train(one, tmp_path / "run", options=replace(EPOCHS, steps=1))
    fresh = relief()
    assert all(torch.equal(a, b) for a, b in zip(method.members.parameters(), fresh.members.parameters(), strict=True))


def test_a_graph_larger_than_the_critic(tmp_path):
    one = replace(
        CASES["ensemble"], make=lambda: make(RELIEF, "molecules", **{**QUICK, "critic": "flat", "state_nodes": 5})
    )
    with pytest.raises(DataError, match="more than state_nodes=5"):
        train(one, tmp_path / "run")


def test_the_published_critic_is_the_default_up_to_its_limit():
    assert isinstance(relief(critic="auto").critic, FlatCritic)
    assert isinstance(relief(critic="auto", state_nodes=6000).critic, PooledCritic)
    method = relief(critic="auto")
    del method.task.largest
    with pytest.raises(ConfigError, match="needs state_nodes"):
        RELIEF(RELIEFConfig(critic="flat"), {"backbone": molecular()}, type(method.task)(["a"]))


def test_the_backbone_is_in_evaluation_mode_during_rollouts():
    method = relief(frozen_mode="dropout")
    method.train()
    graphs = embedded(method)
    a, b = (method.frozen(graphs, {}) for _ in range(2))
    assert torch.equal(a, b)


def test_predictions_are_random_in_place_only_and_fixed_by_the_seed():
    method = relief(z_max=1.0)
    for one in method.members:
        one.continuous[-1].bias.data.fill_(0.3)
    method.eval()
    with torch.no_grad():
        runs = [
            method.predict_step(batch(), lambda name, s=seed: torch.Generator().manual_seed(s)) for seed in (1, 1, 2)
        ]
    assert torch.equal(runs[0]["logits"], runs[1]["logits"])
    assert not torch.equal(runs[0]["logits"], runs[2]["logits"])
    for found in runs:
        assert bool(((found["pcr"] > 0) & (found["pcr"] <= 1)).all())
        assert bool((found["apm"] > 0).all())


def test_several_draws_are_averaged_and_their_spread_is_told():
    one, three = relief(), relief(draws=3)
    for method in (one, three):
        for member_ in method.members:
            member_.continuous[-1].bias.data.fill_(0.3)
        method.eval()
    with torch.no_grad():
        found = three.predict_step(batch(), lambda name: torch.Generator().manual_seed(1))
        keys = [torch.Generator().manual_seed(1) for _ in batch().ids]
        logits = [one.head(batch().inputs.mean(one.prompt(batch().inputs, keys).nodes)) for _ in range(3)]
    close(found["logits"], torch.stack(logits).mean(0))
    close(found["draw_std"], torch.stack(logits).std(0).mean(1))
    assert "draw_std" not in one.predict_step(batch(), lambda name: torch.Generator().manual_seed(1))


# ---- 10. it learns ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trained_policy_earns_more_than_a_random_one(tmp_path):
    """On the pretrained network and 50 generated molecules, for each of three seeds; the pages of docs/results have the real sets."""
    options = {
        "data": ("builtin:molecules",),
        "total_shots": 50,
        "max_val": 40,
        "max_test": 40,
        "head_layers": 2,
        "epochs": 2,
        "warmup": 60,
        "head_steps": 10,
        "z_max": 0.5,
        "alpha_d": 1.0,
        "minibatch": 64,
        "critic": "pooled",
    }
    for seed in range(3):
        spec = resolve(Graph(), "relief", {**options, "seed": seed})
        prepared = prepare(Graph(), spec, lambda text: None)
        status = execute(Graph(), prepared, tmp_path / f"run-{seed}", lambda text: None, report=False)
        part = prepared.data["train"]
        rows = list(range(len(part)))
        b = part.collate(rows, [part.sample(row, epoch=None, seed=0) for row in rows])
        trained, random = (float(episode_returns(prepared.method, b, seed, p).mean()) for p in ("joint", "random"))
        assert trained > random
        assert 0 < status["results"]["test"]["pcr"] < 1


def test_collate_keeps_episodes_apart():
    method = relief()
    graphs = list(embedded(method).split())
    with torch.no_grad():
        together = method.backbone.nodes(collate(graphs))
        close(together[: graphs[0].nodes], method.backbone.nodes(graphs[0]), 1e-4)


def test_what_the_heads_step_drops_belongs_to_a_graph():
    """Every pass and step draws masks of its own, the same whatever the other graphs are."""
    method, seen = relief(frozen_mode="dropout", head_steps=2).train(), []
    plain = method.nodes
    method.nodes = lambda graphs, edits=None, noisy=None: (
        seen.append((noisy, plain(graphs, edits, noisy))) or seen[-1][1]
    )
    part = keyed(batch(role="train"), 0, "sample", 1)

    def pooled(rows):
        seen.clear()
        ctx = SimpleNamespace(
            rng=lambda *key: generator(0, *key), backward=lambda loss, count: None, update=lambda name: None
        )
        own = take(part, rows)
        method.fit_head(ctx, own, "head 0", Averages(), prompted=False)
        method.fit_head(ctx, own, "head 1", Averages(), prompted=False)
        order = [torch.randperm(len(rows), generator=generator(0, f"head {n}")).tolist() for n in range(2)]
        sizes = own.inputs.sizes.tolist()
        found = [nodes.split([sizes[i] for i in chosen]) for (noisy, nodes), chosen in zip(seen, order, strict=True)]
        return [dict(zip(chosen, nodes, strict=True)) for chosen, nodes in zip(order, found, strict=True)]

    whole, few = pooled([1, 2, 3]), pooled([2])
    close(few[0][0], whole[0][1])
    close(few[1][0], whole[1][1])
    assert not torch.allclose(whole[0][1], whole[1][1])
