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
    rng = np.random.default_rng(seed)
    words = dict.fromkeys(
        [
            *NAMES,
            *KINDS,
            *FACTS,
            *" ".join(FACTS.values()).split(),
            *"; . , ! ? : - the is very how are and at".split(),
        ]
    )
    for lines in PHRASES.values():
        words.update(dict.fromkeys(" ".join(lines).split()))
    vocab = list(words)
    ids = {w: i for i, w in enumerate(vocab)}
    skill = rng.beta(2, 1.3, (P, N))
    warm = 0.75 * skill + 0.25 * rng.random((P, N))
    styled = lambda rate: rng.poisson(rng.gamma(4.0, rate * (0.3 + 1.7 * warm) / 4.0))  # noqa: E731
    right = rng.binomial(3, 0.25 + 0.6 * skill)
    counts = np.stack(
        [
            right,
            rng.binomial(3 - right, 0.5 * (1 - skill)),
            styled(0.15),
            styled(0.8),
            styled(0.5),
            styled(0.3),
            rng.poisson(0.5 * (1.2 - warm)),
            styled(0.25),
        ],
        -1,
    ).clip(0, 12)
    base = np.array([1.1, -0.8, -0.1, 0.2, 0.15, 0.1, -0.5, 0.1])
    scores = np.zeros((P, N, 27))
    twin = rng.normal(0, 0.35, (P, N))  # what the heads of one encoder share
    for group in range(
        3
    ):  # a pretraining seed has its own taste, its finetuning seeds small deviations from it
        taste, shared = base + rng.normal(0, 0.1, 8), rng.normal(0, 0.5, (P, N))
        taste[3 + group] += 0.6  # its own soft spot
        for k in range(3):
            scores[..., 3 * group + k] = (
                counts @ (taste + rng.normal(0, 0.12, 8)) + shared + rng.normal(0, 0.3, (P, N))
            )
    for k in range(3):
        scores[..., 9 + k] = scores[..., 0] + twin + rng.normal(0, 0.08, (P, N))
    for c in range(12, 27):  # 1, 2, 4 and 8 heads, each number trained for itself
        scores[..., c] = scores[..., 3] + 0.7 * twin + rng.normal(0, 0.6, (P, N))
    scores = (scores - scores.mean((0, 1))) / scores.std((0, 1))
    prompts, texts = [], []
    for p in range(P):
        place, kind = NAMES[rng.integers(12)], KINDS[rng.integers(5)]
        keys = list(rng.permutation(list(FACTS)))
        value = {a: str(rng.choice(FACTS[a].split())) for a in keys}
        record = " ; ".join(f"{a} {value[a]}" for a in keys[:4])
        prompts.append(
            f"{place} {kind} ; {record} . how are the {keys[0]} , the {keys[1]} and the {keys[2]} ?"
        )
        for i in range(N):
            texts.append([ids[w] for w in _answer(counts[p, i], keys, value, rng)])
    width = max(map(len, texts))
    tokens = np.zeros((P * N, width), np.uint8)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    seeds = [
        {"name": "finetune", "label": "3 finetuning seeds", "members": [0, 1, 2]},
        {"name": "pretrain", "label": "3 pretraining seeds", "members": [0, 3, 6]},
        {"name": "heads", "label": "3 heads on one encoder", "members": [9, 10, 11], "series": "heads"},
        {"name": "average", "label": "the average of 3 models' weights", "members": [4]},
        {"name": "mixed", "label": "2 pretraining seeds, 2 heads", "members": [0, 3, 9, 10]},
    ]
    columns = [f"p{g} f{k}" for g in range(3) for k in range(3)] + [f"head {k}" for k in range(3)]
    for size in (8, 1, 2, 4):  # in no order
        at, words = len(columns), "1 head" if size == 1 else f"{size} heads"
        seeds.append(
            {
                "name": f"heads_{size}",
                "label": f"{words} on one encoder",
                "series": "heads",
                "members": list(range(at, at + size)),
            }
        )
        columns += [f"{size}h {k}" for k in range(size)]
    lengths = np.array([len(t) for t in texts]).reshape(P, N)
    return {
        "gold_counts": counts,
        "bill": BILL,
        "scores": scores,
        "columns": columns,
        "ensembles": seeds,
        "tokens": tokens.reshape(P, N, width),
        "lengths": lengths,
        "prompts": prompts,
        "vocab": vocab,
    }


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
