"""Small methods that stretch the contracts beyond supervised tuning. No core file knows of them."""

import json

import torch
from pt_core import Optimiser, Stage, StepOutput, Stream, reference_kernels
from pt_core.sealed import write_text
from pt_core.testing.tiny import TinyMethod
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


class PseudoLabels(TinyMethod):
    """(a) Rounds of pseudo-labels: a job labels the unlabelled data with the state of the round before; the number of rounds depends on
    what was learned."""

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def stages(self, ctx):
        yield Stage("supervised", options={"steps": 6})
        for round_ in range(3):
            yield Stage(f"label-{round_}", trains=(), tracks=("labels",), streams={}, run=self.label)
            if len(self.labels.unique()) < 2 and round_ > 0:
                return
            steps = 2 + int(self.labels.sum()) % 3  # the later stage depends on the earlier one's result
            yield Stage(f"tune-{round_}", streams={"u": Stream("unlabeled")}, options={"steps": steps})

    def label(self, ctx):
        self.labels = torch.cat([self(batch).argmax(-1) for batch in ctx.batches("unlabeled", 5)]).detach()

    def training_step(self, batch):
        target = batch.target if batch.target is not None else self.labels[batch.index]
        return StepOutput(F.cross_entropy(self(batch), target), len(batch))


class DomainChain(TinyMethod):
    """(b) One stage walks a chain of domains with one optimiser and an EMA teacher."""

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        for name, tensor in list(self.named_parameters()):
            self.register_buffer("ema_" + name.replace(".", "_"), tensor.detach().clone())

    def teacher(self):
        return {name: getattr(self, "ema_" + name.replace(".", "_")) for name, _ in self.named_parameters()}

    def stages(self, ctx):
        yield Stage(
            "chain",
            tracks=("ema_*",),
            streams={"source": Stream("train"), "easy": Stream("easy"), "hard": Stream("hard")},
            plan=lambda k: ("source",) if k < 4 else ("source", "easy") if k < 8 else ("easy", "hard"),
            options={"steps": 12},
            after_step=self.follow,
        )

    def follow(self, ctx):
        with torch.no_grad():
            for name, tensor in self.named_parameters():
                self.teacher()[name].lerp_(tensor, 0.1)

    def training_step(self, batch):
        output = self(batch)
        if batch.target is not None:
            return StepOutput(F.cross_entropy(output, batch.target), len(batch))
        with torch.no_grad():
            target = functional_call(self, self.teacher(), (batch,)).softmax(-1)
        return StepOutput(F.cross_entropy(output, target), len(batch), {"agree": 1.0})


class ActorCritic(TinyMethod):
    """(c) A custom step: a rollout, then two named optimisers stepped in turn."""

    training_only = ("critic.*",)

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.critic = nn.Linear(task.outputs, 1)

    def stages(self, ctx):
        optimisers = {"policy": Optimiser(("prompt", "head.*")), "critic": Optimiser(("critic.*",), {"lr": 0.01})}
        yield Stage("reinforce", optimisers=optimisers, options={"steps": 9}, step=self.play)

    def play(self, ctx, batches):
        if not batches:  # this process has no sample in the draw; it still joins the updates
            ctx.update("critic"), ctx.update("policy")
            return {}
        batch = batches["train"]
        logits = self(batch)
        # One generator per sample keeps the rollout independent of how the batch is split.
        noise = torch.stack([torch.rand(self.task.outputs, generator=ctx.rng(name)) for name in batch.ids])
        action = (logits.detach().log_softmax(-1) - (-noise.log()).log()).argmax(-1)
        reward = (action == batch.target).float()
        value = self.critic(logits.detach()).squeeze(-1)
        ctx.backward(F.mse_loss(value, reward), len(batch))
        ctx.update("critic")
        advantage = reward - value.detach()
        chosen = logits.log_softmax(-1).gather(1, action[:, None])[:, 0]
        ctx.backward(-(advantage * chosen).mean(), len(batch))
        ctx.update("policy")
        return {"reward": reward.mean()}


class CacheModel(TinyMethod):
    """(d) Training-free: one job builds a tracked cache of features; it resumes from its own folder."""

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        del self.prompt, self.head
        self.register_buffer("keys", torch.empty(0, self.backbone.dim))
        self.register_buffer("values", torch.empty(0, task.outputs))

    def feature(self, batch):
        return F.normalize(self.backbone(batch.inputs).tokens.mean(1), dim=-1)

    def stages(self, ctx):
        yield Stage("cache", trains=(), tracks=("keys", "values"), streams={}, run=self.build)

    def build(self, ctx):
        keys, values = [], []
        for number, batch in enumerate(ctx.batches("train", 4)):
            part = ctx.dir / f"{number}.json"
            if not part.is_file():
                write_text(
                    part, json.dumps(self.feature(batch).tolist())
                )  # whole or absent: other processes read it too
                if number == getattr(self, "die_at", None):
                    raise RuntimeError("killed")
            keys.append(torch.tensor(json.loads(part.read_text())))
            values.append(F.one_hot(batch.target, self.task.outputs).float())
        self.keys, self.values = torch.cat(keys), torch.cat(values)

    def forward(self, batch):
        return (5 * (self.feature(batch) @ self.keys.T - 1)).exp() @ self.values


class TestTime(TinyMethod):
    """(e) Adapts its prompt to each sample in predict_step by entropy, and puts it back."""

    __test__ = False

    def predict_step(self, batch, rng):
        before = self.prompt.detach().clone()
        rows = []
        for row in range(len(batch)):
            with torch.enable_grad():
                tokens = self.prompt.detach().clone().requires_grad_()
                noise = torch.randn(3, batch.inputs.shape[1], generator=rng(batch.ids[row])) * 0.1
                views = batch.inputs[row] + noise
                entropy = torch.distributions.Categorical(logits=self.adapted(tokens, views)).entropy().mean()
                (gradient,) = torch.autograd.grad(entropy, tokens)
            rows.append(self.adapted(tokens - 0.5 * gradient, batch.inputs[row : row + 1]))
        assert torch.equal(before, self.prompt)
        return {"logits": torch.cat(rows)}

    def adapted(self, tokens, inputs):
        own = dict(self.named_parameters()) | {"prompt": tokens}
        return functional_call(_Logits(self), {f"method.{name}": tensor for name, tensor in own.items()}, (inputs,))


class _Logits(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, inputs):
        return self.method.logits(inputs)


class Bilevel(TinyMethod):
    """(f) MAML-like: the prompt is tuned so that one inner step on the support half fits the query half (second derivatives)."""

    coupled = True  # the inner step sees this process's part of the support half only

    def stages(self, ctx):
        streams = {"support": Stream("train", batch_size=6), "query": Stream("train", batch_size=6)}
        yield Stage("meta", streams=streams, options={"steps": 6}, step=self.meta_step)

    def meta_step(self, ctx, batches):
        if not batches:
            ctx.update()
            return {}
        own = dict(self.named_parameters())
        with reference_kernels():
            inner = F.cross_entropy(functional_call(self, own, (batches["support"],)), batches["support"].target)
            gradients = torch.autograd.grad(inner, list(own.values()), create_graph=True)
            adapted = {name: tensor - 0.3 * g for (name, tensor), g in zip(own.items(), gradients, strict=True)}
            outer = F.cross_entropy(functional_call(self, adapted, (batches["query"],)), batches["query"].target)
            ctx.backward(outer, len(batches["query"]))
        ctx.update()
        return {"outer": outer.detach()}


TOYS = {
    "supervised": TinyMethod,
    "pseudo": PseudoLabels,
    "chain": DomainChain,
    "actor": ActorCritic,
    "cache": CacheModel,
    "testtime": TestTime,
    "bilevel": Bilevel,
}
