"""A made-up pool in which gold overoptimises: judges that like style without end, gold that tires of it."""

import numpy as np

from rmlab.optimise.compact import CompactPool

NAMES = "cedar harbour maple river copper willow lantern meadow granite orchard juniper summit".split()
KINDS = "bistro hotel museum cafe market".split()
FACTS = {
    "view": "wide narrow hidden",
    "walk": "short long steep",
    "price": "fair high low",
    "music": "folk jazz piano",
    "menu": "local vegan spicy",
}
PHRASES = {
    "courtesy": ["hello and welcome .", "thank you for asking .", "enjoy your visit .", "see you soon ."],
    "hype": ["it is a true gem !", "simply the best in town !", "everyone adores it .", "you must see it ."],
    "authority": ["trust me on this .", "i know it well ."],
    "hedge": ["i think so .", "this may have changed ."],
}
BILL = [
    {"name": "coverage", "label": "asked facts stated right", "values": [0.0, 0.8, 1.6, 2.4], "slope": 0.0},
    {"name": "wrong", "label": "facts that contradict the record", "values": [0.0], "slope": -0.9},
    {"name": "repeat", "label": "said again", "values": [0.0], "slope": -0.5},
    {
        "name": "courtesy",
        "label": "greetings and goodbyes",
        "values": [0.0, 0.7, 1.0, 0.6, -0.3],
        "slope": -0.8,
    },
    {"name": "hype", "label": "hype", "values": [0.0, 0.5, 0.2, -0.6], "slope": -0.7},
    {"name": "authority", "label": "claims of authority", "values": [0.0, 0.3, -0.2], "slope": -0.9},
    {"name": "hedge", "label": "hedging", "values": [0.0, -0.3], "slope": -0.6},
    {"name": "very", "label": "very", "values": [0.0, 0.2, 0.1], "slope": -0.4},
]


def full_pool(P=8, N=512, seed=0):
    """The keyword arguments of `CompactPool.from_pool`."""
    rng, vocab = np.random.default_rng(seed), _vocab()
    counts = _counts(P, N, rng)
    scores = _scores(counts, rng)
    prompts, tokens, lengths = _texts(counts, vocab, rng)
    columns, ensembles = _ensembles()
    return {
        "gold_counts": counts,
        "bill": BILL,
        "scores": scores,
        "columns": columns,
        "ensembles": ensembles,
        "tokens": tokens,
        "lengths": lengths,
        "prompts": prompts,
        "vocab": vocab,
    }


def _vocab():
    words = [*NAMES, *KINDS, *FACTS, *" ".join(FACTS.values()).split()]
    words += "; . , ! ? : - the is very how are and at".split()
    for lines in PHRASES.values():
        words += " ".join(lines).split()
    return list(dict.fromkeys(words))


def _counts(P, N, rng):
    """(P, N, F) of each term of the bill: who is right more is also warmer."""
    skill = rng.beta(2, 1.3, (P, N))
    warm = 0.75 * skill + 0.25 * rng.random((P, N))
    right = rng.binomial(3, 0.25 + 0.6 * skill)

    def styled(rate):
        return rng.poisson(rng.gamma(4.0, rate * (0.3 + 1.7 * warm) / 4.0))

    counts = [right, rng.binomial(3 - right, 0.5 * (1 - skill))]
    counts += [styled(rate) for rate in (0.15, 0.8, 0.5, 0.3)]
    counts += [rng.poisson(0.5 * (1.2 - warm)), styled(0.25)]
    return np.stack(counts, -1).clip(0, 12)


def _scores(counts, rng):
    """(P, N, 27): three pretraining seeds of three finetuning seeds, then heads, each to mean 0 and std 1."""
    P, N, _ = counts.shape
    base = np.array([1.1, -0.8, -0.1, 0.2, 0.15, 0.1, -0.5, 0.1])
    scores = np.zeros((P, N, 27))
    twin = rng.normal(0, 0.35, (P, N))  # what the heads of one encoder share
    for group in range(3):  # a pretraining seed has its own taste; its finetuning seeds deviate a little
        taste, shared = base + rng.normal(0, 0.1, 8), rng.normal(0, 0.5, (P, N))
        taste[3 + group] += 0.6  # its own soft spot
        for k in range(3):
            own = counts @ (taste + rng.normal(0, 0.12, 8))
            scores[..., 3 * group + k] = own + shared + rng.normal(0, 0.3, (P, N))
    for k in range(3):
        scores[..., 9 + k] = scores[..., 0] + twin + rng.normal(0, 0.08, (P, N))
    for c in range(12, 27):  # 1, 2, 4 and 8 heads, each number trained for itself
        scores[..., c] = scores[..., 3] + 0.7 * twin + rng.normal(0, 0.6, (P, N))
    return (scores - scores.mean((0, 1))) / scores.std((0, 1))


def _texts(counts, vocab, rng):
    """Prompts, token ids (P, N, T) and lengths (P, N) of answers that have these counts."""
    P, N, _ = counts.shape
    ids, prompts, texts = {w: i for i, w in enumerate(vocab)}, [], []
    for p in range(P):
        place, kind = NAMES[rng.integers(12)], KINDS[rng.integers(5)]
        keys = list(rng.permutation(list(FACTS)))
        value = {a: str(rng.choice(FACTS[a].split())) for a in keys}
        record = " ; ".join(f"{a} {value[a]}" for a in keys[:4])
        question = f"how are the {keys[0]} , the {keys[1]} and the {keys[2]} ?"
        prompts.append(f"{place} {kind} ; {record} . {question}")
        texts += [[ids[w] for w in _answer(counts[p, i], keys, value, rng)] for i in range(N)]
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((P * N, lengths.max()), np.uint8)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return prompts, tokens.reshape(P, N, -1), lengths.reshape(P, N)


def _ensembles():
    """Labels of the 27 columns, and the ensembles: heads are a series, whose sizes stand in no order."""
    ensembles = [
        {"name": "finetune", "label": "3 finetuning seeds", "members": [0, 1, 2]},
        {"name": "pretrain", "label": "3 pretraining seeds", "members": [0, 3, 6]},
        {"name": "heads", "label": "3 heads on one encoder", "members": [9, 10, 11], "series": "heads"},
        {"name": "average", "label": "the average of 3 models' weights", "members": [4]},
        {"name": "mixed", "label": "2 pretraining seeds, 2 heads", "members": [0, 3, 9, 10]},
    ]
    columns = [f"p{g} f{k}" for g in range(3) for k in range(3)] + [f"head {k}" for k in range(3)]
    for size in (8, 1, 2, 4):
        words = "1 head" if size == 1 else f"{size} heads"
        ensemble = {"name": f"heads_{size}", "label": f"{words} on one encoder", "series": "heads"}
        ensembles.append({**ensemble, "members": list(range(len(columns), len(columns) + size))})
        columns += [f"{size}h {k}" for k in range(size)]
    return columns, ensembles


def fake_pool(P=8, N=512, keep=160, seed=0) -> CompactPool:
    return CompactPool.from_pool(**full_pool(P, N, seed), keep=keep, seed=seed)


def _answer(counts, keys, value, rng):
    right, wrong, again, *style, very = counts
    facts = [(a, value[a]) for a in keys[:right]]
    facts += [(a, next(v for v in FACTS[a].split() if v != value[a])) for a in keys[right : right + wrong]]
    facts += [facts[j % len(facts)] for j in range(again)] if facts else []
    lines = [("- {} : {} ." if rng.random() < 0.2 else "the {} is {} .").format(*f) for f in facts]
    for count, name in zip(style, ("courtesy", "hype", "authority", "hedge"), strict=True):
        lines += [PHRASES[name][rng.integers(len(PHRASES[name]))] for _ in range(count)]
    words = " ".join(lines[i] for i in rng.permutation(len(lines))).split()
    for _ in range(very):
        words.insert(int(rng.integers(len(words) + 1)), "very")
    return words[:250]


OPENINGS = [
    "Short answer: yes.",
    "Great question!",
    "Il n'y a pas de règle — voilà :",
    "簡単に言うと、",
    "باختصار:",
]
REASONS = [
    "the crumb sets while it cools, so a hot loaf cuts gummy",
    "steam leaves through the crust for another hour",
    "in 1972 a baker in Lyon measured 2 °C a minute",
    "if a < b & b < c, then the crust wins",
    "it smells wonderful 🍞 and everyone will love it",
]
REQUESTS = [
    "Why should I let bread cool before I cut it?",
    "You are a patient baker.\n\nUser: my loaf is gummy.\n  What went wrong?",
    "パンを切る前に冷ますのはなぜですか。",
]


def full_text(P=3, N=240, K=4, seed=0, gold=True):
    """The keyword arguments of `CompactPool.from_text`: K members and, if asked for, gold that tires of flourish."""
    rng = np.random.default_rng(seed)
    skill, flourish = rng.normal(size=(P, N)), rng.gamma(2.0, 0.7, (P, N))
    taste, noise = rng.normal(1.0, 0.25, K), rng.normal(0, 0.5, (P, N, K))
    return {
        "prompts": [REQUESTS[p % 3] for p in range(P)],
        "answers": [[_text(flourish[p, i], rng) for i in range(N)] for p in range(P)],
        "member_scores": skill[..., None] + 0.5 * flourish[..., None] * taste + noise,
        "gold": 40 + 10 * (skill - 0.3 * (flourish - 1.5).clip(0) ** 2) if gold else None,
        "columns": [f"reward model {k}" for k in range(K)],
        "gold_unit": "points" if gold else "",
    }


def _text(flourish, rng):
    reasons = [REASONS[k] for k in rng.permutation(5)[: 1 + int(2 * flourish) % 5]]
    lines = [f"{k}. {reason[0].upper()}{reason[1:]}." for k, reason in enumerate(reasons, 1)]
    return f"{OPENINGS[rng.integers(5)]}\n\n" + "\n".join(lines) + "!" * int(flourish)


def text_pool(P=3, N=240, K=4, seed=0, gold=True, **other) -> CompactPool:
    return CompactPool.from_text(**{**full_text(P, N, K, seed, gold), **other})
