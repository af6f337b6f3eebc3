"""The builders that make records from labelled clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pt_core.data import stable_seed
from pt_core.errors import DataError

from pt_audio.data import wording as say
from pt_audio.data.records import Record
from pt_audio.data.synth import Event


@dataclass(frozen=True)
class Labelled:
    """A clip as builders see it: its position in the list of clips, and its events (one that fills the clip, for plain labels)."""

    clip: int
    name: str
    events: tuple[Event, ...]
    timed: bool = False

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(event.label for event in self.events))


class Builder:
    """Makes records of chosen tasks from clips with events; everything is a function of the seed.

    Args:
        clips: of one part (train, val or test): records never mix parts.
        ways, shots: classes and clips per class of a few-shot episode.
    """

    def __init__(self, clips: Sequence[Labelled], seed: int, ways: int = 5, shots: int = 1) -> None:
        self.clips, self.seed, self.ways, self.shots = clips, seed, ways, shots
        self.labels = sorted({label for clip in clips for label in clip.labels})

    def build(self, tasks: Sequence[str]) -> list[Record]:
        """All records of the tasks, task by task.

        Raises:
            DataError: a task that these clips do not allow.
        """
        return [record for task in tasks for record in getattr(self, f"_{task}")()]

    def _rng(self, task: str) -> np.random.Generator:
        return np.random.default_rng(stable_seed(self.seed, "records", task) % 2**32)

    def _tagging(self) -> list[Record]:
        return [
            Record(
                f"{clip.name}#tagging",
                (clip.clip,),
                (say.TAGGING,),
                say.and_list(clip.labels),
                "tagging",
                clip.labels[0] if len(clip.labels) == 1 else None,
            )
            for clip in self.clips
        ]

    def _captioning(self) -> list[Record]:
        return [
            Record(f"{clip.name}#caption", (clip.clip,), (say.CAPTIONING,), say.caption(clip.labels), "captioning")
            for clip in self.clips
        ]

    def _question(self) -> list[Record]:
        """Per clip: one question of presence (yes and no alike often), and where there are several events one of number or order."""
        rng, found = self._rng("question"), []
        for clip in self.clips:
            absent = [label for label in self.labels if label not in clip.labels]
            asked = str(rng.choice(clip.labels if rng.random() < 0.5 or not absent else absent))
            answer = "yes" if asked in clip.labels else "no"
            found.append(Record(f"{clip.name}#present", (clip.clip,), (say.PRESENT.format(asked),), answer))
            if clip.timed and len(clip.labels) <= 10:
                count = rng.random() < 0.5
                text, answer = (say.COUNT, say.NUMBERS[len(clip.labels)]) if count else (say.FIRST, clip.labels[0])
                found.append(Record(f"{clip.name}#{'count' if count else 'first'}", (clip.clip,), (text,), answer))
        return found

    def _timed(self, task: str) -> list[tuple[Labelled, Event]]:
        """Events that occur once in their clip, with their clip."""
        found = [
            (clip, event)
            for clip in self.clips
            if clip.timed
            for event in clip.events
            if sum(other.label == event.label for other in clip.events) == 1
        ]
        if not found:
            raise DataError(f"task {task!r} needs events with times: give a table with the columns onset and offset")
        return found

    def _localisation(self) -> list[Record]:
        return [
            Record(
                f"{clip.name}#when-{event.label}",
                (clip.clip,),
                (say.WHEN.format(event.label),),
                say.span(event.onset, event.offset),
                "localisation",
            )
            for clip, event in self._timed("localisation")
        ]

    def _retrieval(self) -> list[Record]:
        found = []
        for clip, event in self._timed("retrieval"):
            begin = round(event.onset)
            text = say.BETWEEN.format(begin, max(round(event.offset), begin + 1))
            name = f"{clip.name}#between-{event.label}"
            found.append(Record(name, (clip.clip,), (text,), event.label, "retrieval"))
        return found

    def _few_shot(self) -> list[Record]:
        """One episode per clip: `ways` classes with `shots` clips each in random order, then the clip itself with the open text."""
        single: dict[str, list[Labelled]] = defaultdict(list)
        for clip in self.clips:
            if len(clip.labels) == 1:
                single[clip.labels[0]].append(clip)
        full = {label: clips for label, clips in single.items() if len(clips) > self.shots}
        if len(full) < self.ways:
            raise DataError(
                f"few-shot episodes of {self.ways} classes with {self.shots} clips and a query need {self.ways} classes with more than "
                f"{self.shots} clips of one label; this part has {len(full)}: lower --ways or --episode-shots"
            )
        rng, found = self._rng("few_shot"), []
        for label, clips in sorted(full.items()):
            others = [name for name in sorted(full) if name != label]
            for query in clips:
                names = [label, *rng.choice(others, self.ways - 1, replace=False).tolist()]
                support: list[tuple[int, str]] = []
                for name in names:
                    pool = [clip for clip in full[name] if clip is not query]
                    chosen = rng.choice(len(pool), self.shots, replace=False)
                    support += [(pool[i].clip, name) for i in chosen]
                support = [support[i] for i in rng.permutation(len(support))]
                found.append(
                    Record(
                        f"{query.name}#episode",
                        (*(clip for clip, _ in support), query.clip),
                        (*(f"{say.SHOT} {name}" for _, name in support), say.SHOT),
                        label,
                        "few_shot",
                        label,
                    )
                )
        return found

    def _reasoning(self) -> list[Record]:
        """Two clips and a question that needs both."""
        rng, found = self._rng("reasoning"), []
        if len(self.clips) < 2:
            raise DataError("task 'reasoning' needs at least two clips in every part")
        for number, left in enumerate(self.clips):
            other = int(rng.integers(len(self.clips) - 1))
            right = self.clips[other + (other >= number)]
            if rng.random() < 0.5:  # half of the pairs share a label where one can be found
                sharing = [clip for clip in self.clips if clip is not left and set(clip.labels) & set(left.labels)]
                right = sharing[rng.integers(len(sharing))] if sharing else right
            asked = str(rng.choice(left.labels))
            only = [label for label in right.labels if label not in left.labels]
            if only and rng.random() < 0.5:
                asked = str(rng.choice(only))
            there = (asked in left.labels, asked in right.labels)
            if all(there) or rng.random() < 0.5:
                text, answer = say.BOTH.format(asked), "yes" if all(there) else "no"
            else:
                text, answer = say.WHICH.format(asked), say.PLACES[there.index(True)]
            pieces = ("this is the first clip.", text)
            found.append(Record(f"{left.name}#reasoning", (left.clip, right.clip), pieces, answer, "reasoning"))
        return found
