"""The sandbox world: places with facts, requests about them, and answers by authors of varied skill.

Everything is English-like text over a closed vocabulary. A place has five facts; a request shows them
and asks about two or three; an answer states facts and carries style (greetings, hype, claims of
authority ...). Better authors get more facts right *and* write with more warmth, so in the data style
tells quality. Nothing makes that so in the tail that an optimiser finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmlab.recipe import World
from rmlab.tokens import BOS, EOS, SEP, SPECIALS

NAMES = tuple(
    "cedar harbour maple river copper willow lantern meadow granite orchard juniper summit harvest velvet canyon ember".split()
)
KINDS = ("bistro", "hotel", "museum", "cafe", "market")
ATTRIBUTES = {  # a value word belongs to one attribute only
    "view": ("wide", "narrow", "hidden", "sunny"),
    "walk": ("short", "long", "steep", "flat"),
    "seating": ("roomy", "tight", "padded", "shared"),
    "price": ("fair", "high", "low", "fixed"),
    "music": ("folk", "jazz", "piano", "choral"),
    "noise": ("soft", "loud", "steady", "rare"),
    "wifi": ("fast", "slow", "patchy", "free"),
    "parking": ("easy", "scarce", "valet", "covered"),
    "service": ("quick", "polite", "casual", "patient"),
    "menu": ("local", "vegan", "seasonal", "spicy"),
}
FACT_FORMS = (
    "the A is V .",
    "at N the A is V .",
    "you will find the A V .",
    "- A : V .",
)  # last: the list form
STYLES = {  # what an answer may say beside facts; every "." may be a "!"
    "open": ("hello and welcome .", "good day to you .", "thank you for asking ."),
    "close": ("enjoy your visit .", "happy to help .", "see you soon ."),
    "hype": ("it is a true gem .", "simply the best in town .", "you must see it .", "everyone adores it ."),
    "hedge": ("i think so .", "this may have changed .", "i am not sure ."),
    "authority": ("trust me on this .", "i know it well .", "experts agree with me ."),
    "sorry": ("sorry for the wait .", "my apologies ."),
    "off_topic": ("the weather is mild .", "my cousin bakes bread .", "trains run on sundays ."),
}
APPRAISALS = ("accurate", "mixed", "careless")  # all stated facts right, some wrong, none right
# mean count of each style for the least and the most skilled author
STYLE_MEANS = {
    "open": (0.10, 0.95), "close": (0.10, 1.05), "hype": (0.10, 0.75), "hedge": (0.40, 0.10),
    "authority": (0.05, 0.50), "sorry": (0.20, 0.04), "off_topic": (0.25, 0.03),
}  # fmt: skip
POLICY_SKILL = (2.0, 1.3)  # Beta parameters of author skill in the policy's tuning data
PRETRAIN_SKILL = (1.3, 1.2)  # and in pretraining


def _words() -> tuple[str, ...]:
    seen = dict.fromkeys([*NAMES, *KINDS, *ATTRIBUTES, *(v for vs in ATTRIBUTES.values() for v in vs)])
    text = [
        *FACT_FORMS,
        *(s for ss in STYLES.values() for s in ss),
        "; . ! ? , : very how are the and",
        *APPRAISALS,
    ]
    for phrase in text:
        seen.update(dict.fromkeys(w for w in phrase.split() if w not in "ANV"))
    return tuple(seen)


WORDS = _words()
VOCAB = (*SPECIALS, *WORDS)
ID = {w: i for i, w in enumerate(VOCAB)}
ATTRIBUTE_NAMES = tuple(ATTRIBUTES)
VALUES = tuple(v for vs in ATTRIBUTES.values() for v in vs)  # value v belongs to attribute v // 4


@dataclass(frozen=True)
class Request:
    """A place, its facts in the order shown, and what is asked.

    `facts` holds (attribute, value) indices, value being an index into `VALUES`; `asked` holds attribute indices.
    """

    name: int
    kind: int
    facts: tuple[tuple[int, int], ...]
    asked: tuple[int, ...]

    def words(self) -> list[str]:
        out = [NAMES[self.name], KINDS[self.kind]]
        for a, v in self.facts:
            out += [";", ATTRIBUTE_NAMES[a], VALUES[v]]
        first, *rest = (["the", ATTRIBUTE_NAMES[a]] for a in self.asked)
        middle = [w for part in rest[:-1] for w in (",", *part)]
        return [*out, ".", "how", "are", *first, *middle, "and", *rest[-1], "?"]

    def ids(self) -> list[int]:
        """The prompt's token ids, `<bos>` first and `<sep>` last."""
        return [BOS, *(ID[w] for w in self.words()), SEP]

    @property
    def text(self) -> str:
        return " ".join(self.words())

    @classmethod
    def of(cls, text: str) -> Request:
        """The request whose `text` it is: "cedar bistro ; price fair ; view wide . how are the price and the view ?"."""
        record, question = text.split(" . how are ")
        (name, kind), *facts = (part.split() for part in record.split(" ; "))
        pairs = tuple((ATTRIBUTE_NAMES.index(a), VALUES.index(v)) for a, v in facts)
        asked = tuple(ATTRIBUTE_NAMES.index(w) for w in question.split() if w in ATTRIBUTE_NAMES)
        return cls(NAMES.index(name), KINDS.index(kind), pairs, asked)


def requests(count: int, rng: np.random.Generator) -> list[Request]:
    """Draw `count` requests: five of ten attributes, two or three of them asked."""
    out = []
    for _ in range(count):
        facts = rng.permutation(len(ATTRIBUTE_NAMES))[:5]
        asked = rng.permutation(facts)[: rng.integers(2, 4)]
        values = rng.integers(0, 4, 5)
        pairs = tuple((int(a), int(4 * a + v)) for a, v in zip(facts, values, strict=True))
        out.append(Request(int(rng.integers(16)), int(rng.integers(5)), pairs, tuple(int(a) for a in asked)))
    return out


def answer(request: Request, skill: float, rng: np.random.Generator, world: World) -> list[str]:
    """An author's answer as words, without `<eos>`; drawn again until it fits `world.max_answer` tokens.

    skill: 0 to 1. A skilled author covers more, errs less and, as far as `world.style_quality` says, is warmer.
    """
    while True:
        words = _draft(request, skill, rng, world)
        if 0 < len(words) < world.max_answer:
            return words


def _draft(request: Request, skill: float, rng: np.random.Generator, world: World) -> list[str]:
    truth = dict(request.facts)
    listing = rng.random() < 0.12 + 0.15 * skill
    facts = [
        _fact(request, a, truth[a], skill, listing, rng)
        for a in request.asked
        if rng.random() < 0.30 + 0.66 * skill
    ]
    for a in truth:
        if a not in request.asked and rng.random() < 0.22 - 0.14 * skill:
            facts.append(_fact(request, a, truth[a], skill, listing, rng))
    for a in range(len(ATTRIBUTE_NAMES)):
        if a not in truth and rng.random() < 0.05 * (1 - skill):
            facts.append(_fact(request, a, int(4 * a + rng.integers(4)), skill, listing, rng, free=True))
    if facts and rng.random() < 0.18 - 0.12 * skill:
        facts.append(facts[rng.integers(len(facts))])
    tone = skill if rng.random() < world.style_quality else rng.random()
    said = {name: _style(name, tone, rng) for name in STYLES}
    body = [*said["hedge"], *said["authority"], *said["hype"], *said["off_topic"], *facts]
    body = [body[i] for i in rng.permutation(len(body))]
    sentences = [*said["sorry"], *said["open"], *body, *said["close"]]
    excited = 0.02 + 0.16 * tone
    words: list[str] = []
    for sentence in sentences:
        words += sentence
        if rng.random() < excited:
            words[-1] = "!"
    return words


def _fact(request, a: int, value: int, skill: float, listing: bool, rng, free: bool = False) -> list[str]:
    if not free and rng.random() > 0.62 + 0.36 * skill:
        value = 4 * a + int(rng.integers(4))
    form = FACT_FORMS[3] if listing else FACT_FORMS[rng.integers(3)]
    swap = {"A": [ATTRIBUTE_NAMES[a]], "N": [NAMES[request.name]], "V": [VALUES[value]]}
    if rng.random() < 0.08 + 0.08 * skill:
        swap["V"] = ["very", *swap["V"]]
    return [w for part in form.split() for w in swap.get(part, [part])]


def _style(name: str, tone: float, rng) -> list[list[str]]:
    low, high = STYLE_MEANS[name]
    count = rng.poisson(rng.gamma(5.0, (low + (high - low) * tone) / 5.0))
    return [STYLES[name][rng.integers(len(STYLES[name]))].split() for _ in range(count)]


def recap(request: Request, rng: np.random.Generator) -> list[int]:
    """A pretraining document that copies: the record, then the same facts again, reordered or as sentences."""
    facts = [request.facts[i] for i in rng.permutation(len(request.facts))]
    words: list[str] = []
    plain = rng.random() < 0.5
    for a, v in facts:
        if plain:
            words += [ATTRIBUTE_NAMES[a], VALUES[v], ";"]
        else:
            words += _fact(request, a, v, 1.1, False, rng)
    return [*request.ids(), *(ID[w] for w in words), EOS]


def document(request: Request, skill: float, rng: np.random.Generator, world: World) -> list[int]:
    """A request and an answer, as ids ending in `<eos>`; with chance `world.appraisals` a verdict on its facts follows."""
    words = answer(request, skill, rng, world)
    ids = [*request.ids(), *(ID[w] for w in words), EOS]
    if rng.random() < world.appraisals:
        ids.append(ID[appraise(request, words)])
    return ids


def appraise(request: Request, words: list[str]) -> str:
    """The verdict on an answer's stated values: accurate, mixed or careless."""
    shown = {VALUES[v] for _, v in request.facts}
    stated = [w in shown for w in words if w in _VALUE_SET]
    if stated and all(stated):
        return "accurate"
    return "mixed" if any(stated) else "careless"


_VALUE_SET = frozenset(VALUES)


def skills(count: int, beta: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Author skills, (count,), from a Beta distribution."""
    return rng.beta(*beta, count)
