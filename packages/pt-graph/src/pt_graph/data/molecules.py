"""Generated molecules: rings and chains joined at free atoms. They carry the built-in backbone and the demo; no data set is shipped.

A molecule starts with a ring system and grows by 2 to 6 single bonds to further fragments, valences respected, hydrogens implicit. Two
properties depend on how fragments are joined, not on atom counts alone:

acid_ring     an aromatic ring carries a carboxyl group directly
alkyl_halide  a halogen sits on an atom that is not aromatic

Some labels are left out, as in measured sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pt_core.data import generator

from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role
from pt_graph.graphs.batch import Graphs, single

PROPERTIES = ("acid_ring", "alkyl_halide")
MISSING = 0.1
VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1, "S": 2, "Cl": 1, "Br": 1}
NUMBER = {"C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17, "Br": 35}
BOND = {"-": 0, "=": 1, "#": 2, ":": 3}
ORDER = {"-": 1.0, "=": 2.0, "#": 3.0, ":": 1.5}


@dataclass(frozen=True)
class Fragment:
    """Atoms, bonds (i, j, kind) and how often it is drawn."""

    name: str
    atoms: tuple[str, ...]
    bonds: tuple[tuple[int, int, str], ...]
    weight: float = 1.0


def ring(name: str, atoms: str, kind: str, weight: float = 1.0) -> Fragment:
    size = len(atoms)
    return Fragment(name, tuple(atoms), tuple((i, (i + 1) % size, kind) for i in range(size)), weight)


RINGS = (
    ring("benzene", "CCCCCC", ":", 3.0),
    ring("pyridine", "CCNCCC", ":"),
    ring("pyrimidine", "CNCNCC", ":", 0.5),
    ring("cyclohexane", "CCCCCC", "-"),
    ring("piperidine", "CCCNCC", "-"),
    ring("cyclopentane", "CCCCC", "-"),
    ring("tetrahydrofuran", "COCCC", "-", 0.7),
    Fragment("naphthalene", tuple("C" * 10), (*((i, (i + 1) % 10, ":") for i in range(10)), (1, 6, ":")), 0.7),
)
CHAINS = (
    Fragment("methyl", ("C",), (), 2.0),
    Fragment("ethyl", ("C", "C"), ((0, 1, "-"),), 1.5),
    Fragment("propyl", ("C", "C", "C"), ((0, 1, "-"), (1, 2, "-")), 0.8),
    Fragment("hydroxyl", ("O",), (), 1.2),
    Fragment("amine", ("N",), (), 1.2),
    Fragment("ether", ("O", "C"), ((0, 1, "-"),), 0.8),
    Fragment("carbonyl", ("C", "O"), ((0, 1, "="),), 0.8),
    Fragment("carboxyl", ("C", "O", "O"), ((0, 1, "="), (0, 2, "-")), 3.5),
    Fragment("amide", ("C", "O", "N"), ((0, 1, "="), (0, 2, "-")), 0.8),
    Fragment("nitrile", ("C", "N"), ((0, 1, "#"),), 0.6),
    Fragment("thiol", ("S",), (), 0.5),
    Fragment("fluorine", ("F",), (), 1.5),
    Fragment("chlorine", ("Cl",), (), 1.5),
    Fragment("bromine", ("Br",), (), 1.0),
)


@dataclass
class Molecule:
    """A growing molecule.

    Attributes:
        atoms: element of each atom.
        bonds: (i, j, kind).
        owner: fragment name of each atom, "benzene" ...
        part: number of the fragment that each atom came with.
    """

    atoms: list[str] = field(default_factory=list)
    bonds: list[tuple[int, int, str]] = field(default_factory=list)
    owner: list[str] = field(default_factory=list)
    part: list[int] = field(default_factory=list)

    def add(self, fragment: Fragment) -> int:
        first, number = len(self.atoms), len(set(self.part))
        self.atoms += fragment.atoms
        self.owner += [fragment.name] * len(fragment.atoms)
        self.part += [number] * len(fragment.atoms)
        self.bonds += [(first + i, first + j, kind) for i, j, kind in fragment.bonds]
        return first

    def free(self) -> list[int]:
        """Atoms that take another single bond."""
        used = [0.0] * len(self.atoms)
        for i, j, kind in self.bonds:
            used[i] += ORDER[kind]
            used[j] += ORDER[kind]
        return [n for n, element in enumerate(self.atoms) if VALENCE[element] - used[n] >= 1]

    def graph(self) -> Graphs:
        pairs = [pair for i, j, _ in self.bonds for pair in ((i, j), (j, i))]
        kinds = [[BOND[kind], 0] for _, _, kind in self.bonds for _ in range(2)]
        atoms = [[NUMBER[element] - 1, 0] for element in self.atoms]
        edges = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        return single(torch.tensor(atoms), edges, torch.tensor(kinds, dtype=torch.long).reshape(-1, 2))

    def properties(self) -> tuple[bool, bool]:
        """See `PROPERTIES`."""
        aromatic = {i for i, j, kind in self.bonds if kind == ":"} | {j for i, j, kind in self.bonds if kind == ":"}
        across = [(a, b) for i, j, _ in self.bonds if self.part[i] != self.part[j] for a, b in ((i, j), (j, i))]
        acid = any(a in aromatic and self.owner[b] == "carboxyl" and self.atoms[b] == "C" for a, b in across)
        halogens = ("F", "Cl", "Br")
        return acid, any(self.atoms[b] in halogens and a not in aromatic for a, b in across)


def draw(rng: torch.Generator) -> Molecule:
    """One molecule."""
    molecule = Molecule()
    molecule.add(_choose(RINGS, rng))
    for _ in range(int(torch.randint(2, 7, (1,), generator=rng))):
        sites = molecule.free()
        if not sites:
            break
        site = sites[int(torch.randint(len(sites), (1,), generator=rng))]
        bigger = float(torch.rand(1, generator=rng)) < 0.15 and len(molecule.atoms) < 14
        fragment = _choose(RINGS if bigger else CHAINS, rng)
        molecule.bonds.append((site, molecule.add(fragment), "-"))
    return molecule


def _choose(fragments: Sequence[Fragment], rng: torch.Generator) -> Fragment:
    weights = torch.tensor([fragment.weight for fragment in fragments])
    return fragments[int(torch.multinomial(weights, 1, generator=rng))]


def generate(count: int, seed: int) -> list[Molecule]:
    rng = generator(seed, "molecules")
    return [draw(rng) for _ in range(count)]


def molecule_data(sizes: tuple[int, int, int] = (200, 120, 200), seed: int = 0) -> dict[str, GraphDataset]:
    """Train, validation and test molecules with both properties, a tenth of the labels missing."""
    molecules = generate(sum(sizes), seed)
    target = torch.tensor([[1.0 if value else -1.0 for value in one.properties()] for one in molecules])
    unknown = torch.rand(target.shape, generator=generator(seed, "missing")) < MISSING
    target[unknown] = 0.0
    ids = [f"molecule-{number}" for number in range(len(molecules))]
    whole = GraphDataset([one.graph() for one in molecules], ids, targets=target, tasks=PROPERTIES)
    bounds = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
    return by_role(whole, {role: range(bounds[n], bounds[n + 1]) for n, role in enumerate(("train", "val", "test"))})
