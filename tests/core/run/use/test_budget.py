"""The budget of a method is what a pencil gives, needs no weights, and leaves the method alone."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from pt_core.backbone import Insert, KeyValue
from pt_core.data import Batch
from pt_core.errors import UserError
from pt_core.method import Method
from pt_core.run.use.budget import _Kept, budget, method_budget
from pt_core.stage import StepOutput
from pt_core.testing.tiny import TinyBackbone, TinyMethod, ToyTask
from torch import nn
from torch.nn import functional as F

BATCH, TOKENS, DIM, DEPTH, PROMPT, CLASSES = 5, 7, 16, 3, 2, 4


class Probe(Method):
    """A linear layer on a feature that the cache can hold."""

    def __init__(self, config, backbones, task):
        super().__init__(config, backbones, task)
        self.head = nn.Linear(self.backbone.dim, task.outputs)

    def frozen_key(self):
        return "mean"

    def frozen_part(self, batch):
        return self.backbone(batch.inputs).tokens.mean(1)

    def forward(self, batch):
        frozen = batch.extra.get("frozen")
        return self.head(self.frozen_part(batch) if frozen is None else frozen)


def batch(size=BATCH, tokens=TOKENS, device="cpu"):
    inputs = torch.randn(size, tokens, device=device)
    return Batch(inputs, torch.zeros(size, dtype=torch.long), torch.arange(size), [str(i) for i in range(size)])


def build(kind=TinyMethod, device="cpu"):
    backbone = TinyBackbone(0, TOKENS, DIM, DEPTH).to(device)
    return kind(None, {"backbone": backbone}, ToyTask(CLASSES))


def linear(tokens):
    """Of one block and sample: qkv and the two layers of the MLP."""
    return 2 * tokens * DIM * 3 * DIM + 2 * (2 * tokens * DIM * 2 * DIM)


def attention(tokens):
    return 4 * tokens * tokens * DIM


EMBED = 2 * TOKENS * DIM
HEAD = 2 * DIM * CLASSES


def test_forward_and_step_are_what_a_pencil_gives():
    result = budget(build(), batch())
    frozen = EMBED + DEPTH * (linear(TOKENS) + attention(TOKENS))
    long = TOKENS + PROMPT
    forward = EMBED + DEPTH * (linear(long) + attention(long)) + HEAD
    # Behind the first prompt every matrix product has one more for the gradient of its input and the head one for its
    # weight; frozen weights have none, and attention's backward pass is twice its forward pass.
    backward = DEPTH * (linear(long) + 2 * attention(long)) + 2 * HEAD
    assert result.frozen_flops == BATCH * frozen
    assert result.forward_flops == BATCH * forward
    assert result.step_flops == BATCH * (forward + backward)
    assert result.overhead == pytest.approx(forward / frozen)
    assert attention(TOKENS) > 0


def test_attention_is_counted():
    few, many = (budget(build_with(tokens), batch(tokens=tokens)) for tokens in (TOKENS, 2 * TOKENS))
    share = many.frozen_flops - 2 * few.frozen_flops  # everything but attention is linear in the tokens
    assert share == BATCH * DEPTH * (attention(2 * TOKENS) - 2 * attention(TOKENS)) > 0


def build_with(tokens):
    return TinyMethod(None, {"backbone": TinyBackbone(0, tokens, DIM, DEPTH)}, ToyTask(CLASSES))


def test_tokens_prompts_and_parameters():
    result = budget(build(), batch())
    assert result.tokens == TOKENS
    assert result.prompts == {f"tokens[{layer}]": PROMPT for layer in range(DEPTH)}
    assert result.tuned == DEPTH * PROMPT * DIM + DIM * CLASSES + CLASSES
    assert result.backbone == sum(p.numel() for p in TinyBackbone(0, TOKENS, DIM, DEPTH).module.parameters())
    assert result.batch_size == BATCH


def test_weights_are_not_needed():
    assert budget(build(device="meta"), batch(device="meta")) == budget(build(), batch())


def test_method_batch_and_random_state_are_left_alone():
    method, data = build(), batch()
    method.eval()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    inputs, state = data.inputs.clone(), torch.get_rng_state()
    budget(method, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in method.parameters())
    assert "encode" not in vars(method.backbone)
    assert not method.training
    assert torch.equal(data.inputs, inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [TinyMethod, Probe])
def test_activation_bytes_are_those_of_a_real_step(kind):
    method, data = build(kind), batch()
    kept = _Kept([*method.parameters(), *method.backbone.module.parameters(), data.inputs])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        method.training_step(data).loss.backward()
    assert budget(method, data).activation_bytes == kept.bytes > 0


def test_activation_bytes_count_a_storage_once_and_leave_weights_and_inputs_out():
    class Square(Method):
        def __init__(self, config, backbones, task):
            super().__init__(config, backbones, task)
            self.weight = nn.Parameter(torch.ones(TOKENS))

        def forward(self, batch):
            product = batch.inputs * self.weight  # keeps the input and, were it trained, the weight
            left = torch.sigmoid(product)  # keeps its output
            return (left.view(-1, TOKENS) * left.reshape(BATCH, TOKENS)).sum(1)  # keeps views of that output

        def training_step(self, batch):
            return StepOutput(self(batch).mean(), len(batch))

        def predict_step(self, batch, rng):
            return {"value": self(batch)}

    result = budget(Square(None, {}, ToyTask()), batch())
    assert result.activation_bytes == BATCH * TOKENS * 4
    assert (result.tokens, result.frozen_flops, result.backbone) == (None, 0, 0)
    assert math.isnan(result.overhead)
    assert result.to_json()["overhead"] is None


def test_cached_step_costs_the_head_only():
    result = budget(build(Probe), batch())
    frozen = EMBED + DEPTH * (linear(TOKENS) + attention(TOKENS))
    assert result.step_flops == BATCH * (frozen + 2 * HEAD)
    assert result.cached_step_flops == BATCH * 2 * HEAD
    assert result.cached_activation_bytes < result.activation_bytes
    assert budget(build(), batch()).cached_step_flops is None


def test_prompts_given_as_functions_and_as_keys_are_counted():
    class Drawn(TinyMethod):
        def logits(self, inputs):
            edits = {
                "tokens[0]": [Insert(lambda hidden, _: self.prompt[0]), Insert(self.prompt[0])],
                "tokens[1]": Insert(lambda hidden, _: self.prompt[1, :1].expand(len(hidden), 1, DIM)),
            }
            return self.head(self.backbone(inputs, edits).tokens.mean(1))

    assert budget(build(Drawn), batch()).prompts == {"tokens[0]": 2 * PROMPT, "tokens[1]": 1}

    class Keys(TinyBackbone):
        sites = TinyBackbone.sites | {"kv[l]"}

    class Prefix(TinyMethod):
        def logits(self, inputs):
            keys = self.prompt[None, None, 0]
            return self.head(self.backbone(inputs, {"kv[1]": KeyValue(keys, keys)}).tokens.mean(1))

    method = Prefix(None, {"backbone": Keys(0, TOKENS, DIM, DEPTH)}, ToyTask(CLASSES))
    assert budget(method, batch()).prompts == {"kv[1]": PROMPT}


def test_a_tensor_that_is_a_plain_attribute_is_no_obstacle():
    class Scaled(TinyMethod):
        def __init__(self, config, backbones, task):
            super().__init__(config, backbones, task)
            self.backbone.module.scale = torch.ones(DIM, device=self.backbone.device)

        def forward(self, batch):
            return super().forward(batch) * self.backbone.module.scale.sum()

    assert budget(build(Scaled, "meta"), batch(device="meta")).step_flops == budget(build(), batch()).step_flops


def test_a_module_that_is_given_a_parameter_is_no_obstacle():
    class Latent(TinyMethod):
        def __init__(self, config, backbones, task):
            super().__init__(config, backbones, task)
            self.latent, self.inner = nn.Parameter(torch.zeros(1, 3)), nn.Linear(3, 1)

        def forward(self, batch):
            return super().forward(batch) + self.inner(self.latent.expand(len(batch), 3))

    assert budget(build(Latent), batch()).forward_flops == budget(build(), batch()).forward_flops + 2 * 3 * BATCH


def test_a_cost_that_depends_on_values_is_refused_in_one_line():
    class Looks(TinyMethod):
        def forward(self, batch):
            return super().forward(batch) * float(batch.inputs.sum())

    with pytest.raises(UserError, match="Looks depends on input values") as error:
        budget(build(Looks), batch())
    assert "\n" not in str(error.value)


def test_low_precision_keeps_less():
    class Wide(TinyMethod):
        def forward(self, batch):
            return F.linear(
                torch.sigmoid(F.linear(self.logits(batch.inputs), torch.ones(512, CLASSES))), torch.ones(CLASSES, 512)
            )

    full, half = budget(build(Wide), batch(64)), budget(build(Wide), batch(64), torch.bfloat16)
    assert half.step_flops == full.step_flops
    assert half.activation_bytes < full.activation_bytes


def test_table_and_json():
    result = budget(build(Probe), batch())
    text = result.table()
    assert "upper bound" in text
    assert "once the features are cached" in text
    assert f"{result.tuned:,}" in text
    assert max(map(len, text.splitlines())) <= 120
    assert json.loads(json.dumps(result.to_json()))["step_flops"] == result.step_flops
    assert "2 prompt tokens at each of 3 sites" in budget(build(), batch()).table()


def test_method_budget_asks_the_modality_for_an_example_of_one_micro_batch():
    asked = []

    class Modality:
        registry = SimpleNamespace(load=lambda name: {"tiny": TinyMethod}[name])

        def example(self, spec, classes, size):
            asked.append((classes, size))
            backbones = {"backbone": TinyBackbone(0, TOKENS, DIM, DEPTH).to("meta")}
            return backbones, ToyTask(classes), batch(size, device="meta")

    train = SimpleNamespace(batch_size=10, accumulate=2, precision="fp32")
    spec = SimpleNamespace(method="tiny", config=None, train=train, run=None, data=None, hosts={})
    state = torch.get_rng_state()
    result = method_budget(Modality(), spec, CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    assert asked == [(CLASSES, BATCH)]
    assert result == budget(build(), batch())
