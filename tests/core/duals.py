"""A pair of tiny towers into one space: vectors on one side, names of classes on the other."""

import torch
from pt_core.backbone import Add, Features, Insert, Layout
from pt_core.dual import DualBackbone, TextTower
from pt_core.testing.tiny import TinyBackbone
from torch import nn
from torch.nn import functional as F

LETTERS = 27


class TextNet(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.embed = nn.Embedding(LETTERS, dim)
        self.position = nn.Parameter(torch.randn(16, dim) * 0.1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)


class TinyText(TextTower):
    """One causal attention block over letters; the last letter's state is the name's vector. Sites `input` (`Insert`, value)."""

    sites = frozenset({"input"})
    inserts = frozenset({"input"})

    def __init__(self, seed=0, dim=8):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 100)
            net = TextNet(dim)
        super().__init__(net, f"tiny-text:{seed}", {"letters": LETTERS})
        self.dim, self.depth = dim, 1

    def probe(self):
        return self.tokenize(["probe", "of"])

    @staticmethod
    def tokenize(names):
        """(name, letter) ids, 0 behind a name's end."""
        rows = [[1 + (ord(letter) - 97) % 26 for letter in name.lower()][:8] for name in names]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def encode(self, inputs, edits, read):
        net = self.module
        hidden, length = net.embed(inputs), (inputs > 0).sum(1)
        for edit in edits.get("input", ()):
            layout = Layout((("token", hidden.shape[1]),))
            if isinstance(edit, Insert):
                front = edit.tokens.expand(len(hidden), *edit.tokens.shape[-2:])
                hidden, length = torch.cat([front, hidden], 1), length + front.shape[1]
            else:
                hidden = edit.fn(hidden, layout) + (hidden if isinstance(edit, Add) else 0)
        hidden = hidden + net.position[: hidden.shape[1]]
        q, k, v = net.qkv(hidden).chunk(3, -1)
        hidden = hidden + net.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        last = hidden[torch.arange(len(hidden)), length - 1]
        return Features(hidden, Layout((("token", hidden.shape[1]),)), {"pooled": last})

    def encode_words(self, names, templates=("{}",), edits=None, weights=None):
        parts = [
            self(self.tokenize([template.format(name) for name in names]), edits, weights=weights).extra["pooled"]
            for template in templates
        ]
        return torch.stack(parts).mean(0)


def tiny_dual(seed=0, text=True):
    tower = TinyText(seed) if text else None
    return DualBackbone(TinyBackbone(seed), tower, f"dual:{seed}", 10.0, None, TinyText.tokenize)
