"""How things are said: the questions of every task, captions of generated clips, and the word list of the text models.

Data builders and the pretraining of the text models share these forms, so that the small language model knows how such answers read; it
never hears anything.
"""

from __future__ import annotations

from collections.abc import Sequence

TAGGING = "what are the sound events?"
CAPTIONING = "describe the audio clip concisely."
WHEN = "when does the {} happen?"
BETWEEN = "what happens from {} to {} seconds?"
SHOT = "this is a sound of"
PRESENT = "is there a {}?"
COUNT = "how many sounds are there?"
FIRST = "which sound comes first?"
BOTH = "do both clips have a {}?"
WHICH = "which clip has a {}?"
PLACES = ("first", "second")

ACTIONS = {
    "beep": "a beep repeats",
    "siren": "a siren wails",
    "bell": "a bell rings",
    "clock": "a clock ticks",
    "drum": "a drum beats",
    "rain": "rain falls",
    "wind": "wind blows",
    "engine": "an engine runs",
    "bird": "a bird chirps",
    "dog": "a dog barks",
    "cat": "a cat meows",
    "horn": "a horn sounds",
    "whistle": "a whistle blows",
    "hum": "something hums",
    "voice": "a voice speaks",
}
"""Label -> what happens."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "stop", "start", "open", "close", "on", "off", "go")
_MORE = """
rooster helicopter chainsaw sneeze crackling baby cry fire sea waves person tick bark car train plane boat truck bus bicycle door
window glass water river ocean storm thunder music song guitar piano violin flute trumpet crowd applause laughter cough breath
step footstep walk run knock crash bang click clap snap pour drip splash fan motor pump saw hammer drill keyboard mouse phone
alarm radio cow horse sheep pig duck goose frog insect cricket bee fly owl crow snake lion wolf mosquito man woman child speech
whisper shout scream speaker kettle vacuum toilet brush washing machine gun firework church street forest kitchen office room city
farm red green blue black white small large loud quiet high low fast slow soft deep new old
"""
WORDS = tuple(dict.fromkeys((*ACTIONS, *NUMBERS, *COMMANDS, *PLACES, *_MORE.split())))
"""Words of the text models' training, in order and without repetition."""


def and_list(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}"


def caption(labels: Sequence[str]) -> str:
    """What happens, in order; labels without an action of their own are said as `there is a LABEL`."""
    return ", then ".join(ACTIONS.get(label, f"there is a {label}") for label in labels)


def span(onset: float, offset: float) -> str:
    """Whole seconds, as answers give them."""
    return f"from {round(onset)} to {max(round(offset), round(onset) + 1)} seconds"
