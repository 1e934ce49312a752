"""The sandbox's world: places with facts, the words that speak of them, and requests.

Everything is English-like text over a closed vocabulary. A place has five facts; a request shows them and
asks about two or three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmlab.recipe import require
from rmlab.sources.base import Prompt
from rmlab.sources.sandbox.vocabulary import BOS, SEP, SPECIALS

NAMES = tuple(
    "cedar harbour maple river copper willow lantern meadow "
    "granite orchard juniper summit harvest velvet canyon ember".split()
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
FACT_FORMS = (  # A, V and N: an attribute, a value, the place's own name; the last is the list form
    "the A is V .",
    "at N the A is V .",
    "you will find the A V .",
    "- A : V .",
)
STYLES = {  # what an answer may say beside facts; every "." may be a "!"
    "open": ("hello and welcome .", "good day to you .", "thank you for asking ."),
    "close": ("enjoy your visit .", "happy to help .", "see you soon ."),
    "hype": ("it is a true gem .", "simply the best in town .", "you must see it .", "everyone adores it ."),
    "hedge": ("i think so .", "this may have changed .", "i am not sure ."),
    "authority": ("trust me on this .", "i know it well .", "experts agree with me ."),
    "sorry": ("sorry for the wait .", "my apologies ."),
    "off_topic": ("the weather is mild .", "my cousin bakes bread .", "trains run on sundays ."),
}
TAGS = ("right", "wrong")  # of one stated value, in documents that check facts
MOST_COUNTED = 3  # right values, and wrong ones, of an answer; more count as so many
COUNTS = tuple(f"r{r}w{w}" for r in range(MOST_COUNTED + 1) for w in range(MOST_COUNTED + 1))


def _words() -> tuple[str, ...]:
    seen = dict.fromkeys([*NAMES, *KINDS, *ATTRIBUTES, *(v for vs in ATTRIBUTES.values() for v in vs)])
    phrases = [*FACT_FORMS, *(phrase for style in STYLES.values() for phrase in style)]
    for phrase in [*phrases, "; . ! ? , : very how are the and", *TAGS, *COUNTS]:
        seen.update(dict.fromkeys(w for w in phrase.split() if w not in "ANV"))
    return tuple(seen)


WORDS = _words()
VOCAB = (*SPECIALS, *WORDS)
ID = {word: i for i, word in enumerate(VOCAB)}
ATTRIBUTE_NAMES = tuple(ATTRIBUTES)
VALUES = tuple(v for vs in ATTRIBUTES.values() for v in vs)  # value v belongs to attribute v // 4


@dataclass(frozen=True)
class Request:
    """A place, its facts in the order shown, and which of them the request asks about.

    Parameters
    ----------
    name, kind : indices into `NAMES` and `KINDS`
    facts : (attribute, value) indices, into `ATTRIBUTE_NAMES` and `VALUES`
    asked_attributes : two or more attribute indices
    """

    name: int
    kind: int
    facts: tuple[tuple[int, int], ...]
    asked_attributes: tuple[int, ...]

    def words(self) -> list[str]:
        """The request as words: the record, then the question."""
        record = [NAMES[self.name], KINDS[self.kind]]
        for a, v in self.facts:
            record += [";", ATTRIBUTE_NAMES[a], VALUES[v]]
        first, *rest = (["the", ATTRIBUTE_NAMES[a]] for a in self.asked_attributes)
        middle = [w for part in rest[:-1] for w in (",", *part)]
        return [*record, ".", "how", "are", *first, *middle, "and", *rest[-1], "?"]

    def ids(self) -> list[int]:
        """The prompt's token ids (T,), `<bos>` first and `<sep>` last."""
        return [BOS, *(ID[w] for w in self.words()), SEP]

    @property
    def text(self) -> str:
        """The words with blanks between them; `Request.of` reads it."""
        return " ".join(self.words())

    def prompt(self) -> Prompt:
        """What a policy answers: the text and the ids."""
        return Prompt(self.text, tuple(self.ids()))

    @classmethod
    def of(cls, text: str) -> Request:
        """The request that a text is, like
        "cedar bistro ; price fair ; view wide . how are the price and the view ?".

        Raises
        ------
        ValueError
            The text is no request of this world.
        """
        try:
            record, question = text.split(" . how are ")
            (name, kind), *facts = (part.split() for part in record.split(" ; "))
            pairs = tuple((ATTRIBUTE_NAMES.index(a), VALUES.index(v)) for a, v in facts)
            attributes = tuple(ATTRIBUTE_NAMES.index(w) for w in question.split() if w in ATTRIBUTE_NAMES)
            request = cls(NAMES.index(name), KINDS.index(kind), pairs, attributes)
            right = request.text == text and all(v // 4 == a for a, v in pairs)
        except (ValueError, IndexError):
            right = False
        require(right, "request", text, "a request of the sandbox, like " + repr(cedar().text))
        return request


def requests(count: int, rng: np.random.Generator) -> list[Request]:
    """Draw `count` requests: five of ten attributes, two or three of them asked about.

    The first ones do not depend on `count`.
    """
    rows = []
    for _ in range(count):
        shown = rng.permutation(len(ATTRIBUTE_NAMES))[:5]
        asked_attributes = rng.permutation(shown)[: rng.integers(2, 4)]
        values = rng.integers(0, 4, 5)
        facts = tuple((int(a), int(4 * a + v)) for a, v in zip(shown, values, strict=True))
        name, kind = int(rng.integers(16)), int(rng.integers(5))
        rows.append(Request(name, kind, facts, tuple(int(a) for a in asked_attributes)))
    return rows


def cedar() -> Request:
    """The book's recurring request: the cedar bistro's seating and price."""
    facts = (("view", "wide"), ("walk", "short"), ("seating", "roomy"), ("price", "fair"), ("music", "folk"))
    at = ATTRIBUTE_NAMES.index
    pairs = tuple((at(a), VALUES.index(v)) for a, v in facts)
    return Request(NAMES.index("cedar"), KINDS.index("bistro"), pairs, (at("seating"), at("price")))
