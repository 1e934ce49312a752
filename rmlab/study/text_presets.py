"""Ready recipes about text: two data sets, and four papers' protocols on models and pairs of your own.

    rmlab.run(ukp("ukp.jsonl", "my-policy", "my-gold-rm"), "out")

Each takes the preference file, the policy's folder, the gold reward model's folder and, where there are several pretraining
seeds, their folders (the policy's own weights unless said), and `TextSource`'s settings by name. Any field is changed with
`dataclasses.replace`. A replicate is a bootstrap sample of the training groups on backbones of its own, in turn. Numbers in
the docstrings are the papers', on their models; none of these has been run here at that scale. `rmlab.study.cost.estimates`
says what a recipe takes on your models. Costs below count reward models to train and answers to sample; every
trained scorer reads each answer once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rmlab.fingerprint import Lookup
from rmlab.recipe import (
    EnsembleSpec,
    Labels,
    PoolSize,
    Ppo,
    PpoStudy,
    Recipe,
    Replicates,
    Training,
    ensemble,
)
from rmlab.study.text_source import TextSource

Folder = str | Path


def ukp(
    pairs: Folder, policy: Folder, gold: Folder, backbones: Sequence[Folder] = (), **settings: object
) -> Recipe:
    """UKPConvArg: which of two arguments convinces more (Habernal and Gurevych 2016), three replicates.

    On the strict pairs of debates that were not trained on, published accuracies are 0.78 (SVM) and 0.76 (BiLSTM); the longer
    argument is chosen in 0.74 of the pairs, so that a reward model has to be compared with length. A prompt is one side of a
    debate, 32 in all: the pool has as many as are held out, and intervals over so few prompts are wide.

    Cost: 15 reward models, 3 encoders with heads and 3 with adapters, 2 epochs each; 32 x 512 answers.
    """
    ensembles = (
        ensemble("single", "single"),
        *(ensemble(f"finetune{k}", "finetune", k=k) for k in (3, 5)),
        ensemble("heads5", "heads", k=5),
        ensemble("lora5", "lora", k=5),
        *_pretrained(backbones),
    )
    source = _source(pairs, policy, gold, backbones, {"heldout": 0.3, **settings})
    return _recipe("ukp", source, ensembles, Training(epochs=2, lr=1e-5), PoolSize(32, 512))


def hh(
    pairs: Folder, policy: Folder, gold: Folder, backbones: Sequence[Folder] = (), **settings: object
) -> Recipe:
    """Anthropic's HH dialogues (Bai et al. 2204.05862): one epoch, rows without a usable pair dropped, three replicates.

    Published accuracies on Helpfulness: 66.7, 68.5 and 69.2 for T5 base, large and XL (2312.09244, Table 1).

    Cost: 9 reward models, 3 encoders with heads and 3 with adapters, 1 epoch each; 64 x 256 answers.
    """
    ensembles = (
        ensemble("single", "single"),
        ensemble("finetune3", "finetune", k=3),
        ensemble("heads3", "heads", k=3),
        ensemble("lora3", "lora", k=3),
        *_pretrained(backbones),
    )
    settings = {"reading": (("on_bad", "drop"),), **settings}
    source = _source(pairs, policy, gold, backbones, settings)
    return _recipe("hh", source, ensembles, Training(epochs=1, lr=1e-5), PoolSize(64, 256))


def coste(
    pairs: Folder,
    policy: Folder,
    gold: Folder,
    backbones: Sequence[Folder] = (),
    ppo: bool = False,
    **settings: object,
) -> Recipe:
    """Coste et al. 2310.02743: five finetuning seeds, mean, WCO (min) and UWO, a quarter of the labels turned round.

    The paper: Pythia 14M to 1.4B, a 7B gold that labels the pairs (give a file so labelled), five epochs at 1e-5 in batches of
    32 (Table 2). Win rates over a single 44M reward model at 25% noise, best of n and PPO: mean 57.8 +- 1.3 and 60.2 +- 3.5,
    WCO 58.3 +- 0.8 and 62.2 +- 2.9, UWO 58.2 +- 1.0 and 63.0 +- 3.1 (Table 6). The gain is visible from three to four members
    and small from four to five (Fig. 11). UWO has strength 0.5 for best of n there and 0.1 for PPO; here the usual one.

    ppo : PPO against every ensemble, with Table 3's settings; 3,000 updates are 94 steps of 256 rollouts here

    Cost: 15 reward models, 5 epochs each; 256 x 4,096 answers, where the paper's 1,000 x 12,600 took about 700 A100 hours to
    generate and label. PPO adds 90 runs.
    """
    sizes = (ensemble(f"finetune{k}", "finetune", k=k) for k in (3, 4, 5))
    steps = Ppo(steps=94, batch=256, epochs=4, minibatches=8, lr=1e-6, vf_coef=1.0)
    return _recipe(
        "coste",
        _source(pairs, policy, gold, backbones, settings),
        (ensemble("single", "single"), *sizes),
        Training(epochs=5, lr=1e-5),
        PoolSize(256, 4096),
        flips=0.25,
        aggregators=("mean", "min", "uwo"),
        ppo_study=PpoStudy(steps, ("mean", "min", "uwo"), (0.0, 0.01, 0.2)) if ppo else None,
    )


def scalable(
    pairs: Folder, policy: Folder, gold: Folder, backbones: Sequence[Folder] = (), **settings: object
) -> Recipe:
    """Ahmed et al. 2406.01013: three heads on one encoder, one epoch, min; beside three full models at one and three epochs.

    The paper: OPT-1.3B, gold OPT-6.7B, AlpacaFarm. It says that three heads reach about the gold reward of three reward models
    and that these need three epochs; there is no table of numbers to compare with. It optimises by PPO; this is best of n.

    Cost: 9 reward models at one epoch and 9 at three, 3 encoders with heads at each; 64 x 1,024 answers.
    """
    ensembles = (
        ensemble("single", "single"),
        ensemble("heads3", "heads", k=3),
        ensemble("heads3_3_epochs", "heads", k=3, epochs=3),
        ensemble("finetune3", "finetune", k=3),
        ensemble("finetune3_3_epochs", "finetune", k=3, epochs=3),
    )
    source, training = _source(pairs, policy, gold, backbones, settings), Training(epochs=1, lr=1e-5)
    rules = ("mean", "min", "max")
    return _recipe("scalable", source, ensembles, training, PoolSize(64, 1024), aggregators=rules)


def efficient(
    pairs: Folder,
    policy: Folder,
    gold: Folder,
    backbones: Sequence[Folder] = (),
    ppo: bool = False,
    **settings: object,
) -> Recipe:
    """Zhang et al. 2401.16635: three full models, three linear heads, three LoRA adapters in two stages; mean and LCB.

    The paper: LLaMA-7B on AlpacaFarm, one epoch at 3e-6 (Table 2), adapters at 5e-5 (Table 3), best of 50, 100 and 200.
    MT-Bench of PPO, average of both turns: single 4.16 +- 0.14 (the row "Ens. of Single"), linear heads 4.20 +- 0.10,
    LoRA 4.35 +- 0.12 (Table 1). Its stages read two data sets; here each reads half of the pairs. LCB is mean_std.

    ppo : PPO against every ensemble, with Table 4's settings

    Cost: 9 reward models, 3 encoders with heads and 3 with adapters, 1 epoch each; 64 x 200 answers. PPO adds 21 runs.
    """
    ensembles = (
        ensemble("single", "single"),
        ensemble("finetune3", "finetune", k=3),
        ensemble("heads3", "heads", k=3),
        ensemble("lora3", "lora", k=3, stage1=0.5, rate=5e-5 / 3e-6),
    )
    steps = Ppo(steps=150, batch=64, epochs=2, minibatches=2, lr=1e-5, vf_coef=0.1)
    return _recipe(
        "efficient",
        _source(pairs, policy, gold, backbones, settings),
        ensembles,
        Training(epochs=1, lr=3e-6, weight_decay=0.0),
        PoolSize(64, 200),
        aggregators=("mean", "mean_std"),
        ppo_study=PpoStudy(steps, ("mean", "mean_std"), (0.02,)) if ppo else None,
    )


def herding(
    pairs: Folder, policy: Folder, gold: Folder, backbones: Sequence[Folder], **settings: object
) -> Recipe:
    """Eisenstein et al. 2312.09244: pretraining seeds against finetuning seeds, crossed, and what both share.

    The paper: five T5 pretraining seeds x five finetuning seeds at three sizes, a larger reward model as gold. Best of 64 on
    TL;DR, XL, mean, win rate over the policy: pretraining seeds 90.0%, finetuning seeds 87.3%, single 85.3%; mean accuracy in
    distribution, base, large and XL, 65.8, 69.3 and 71.4 (Table 1). Shared habits, such as lists, stay under any ensemble.

    backbones : B folders, which differ in their pretraining seeds

    Cost: B x B reward models, 2 epochs each; 64 x 64 answers.
    """
    count = len(backbones)
    ensembles = (
        ensemble("single", "single"),
        ensemble(f"finetune{count}", "finetune", homes=0, k=count),
        ensemble(f"pretrain{count}", "pretrain", k=count),
    )
    source = _source(pairs, policy, gold, backbones, settings)
    return _recipe(
        "herding",
        source,
        ensembles,
        Training(epochs=2, lr=1e-5),
        PoolSize(64, 64),
        aggregators=("mean", "median", "min", "mean_std"),
        replicates=Replicates(draws=1, backbones=count, finetune=count),
    )


TEXT_PRESETS: Lookup[str, Callable[..., Recipe]] = Lookup(
    ukp=ukp, hh=hh, coste=coste, scalable=scalable, efficient=efficient, herding=herding
)


def _source(
    pairs: Folder, policy: Folder, gold: Folder, backbones: Sequence[Folder], settings: dict
) -> TextSource:
    folders = tuple(map(str, backbones)) or (str(policy),)
    return TextSource(str(policy), folders, str(pairs), gold_model=str(gold), **settings)


def _pretrained(backbones: Sequence[Folder]) -> tuple[EnsembleSpec, ...]:
    """An ensemble of all pretraining seeds, where there are several."""
    count = len(backbones)
    return (ensemble(f"pretrain{count}", "pretrain", k=count),) if count > 1 else ()


def _recipe(
    name: str,
    source: TextSource,
    ensembles: tuple[EnsembleSpec, ...],
    training: Training,
    pool: PoolSize,
    flips: float = 0.0,
    replicates: Replicates | None = None,
    **fields: object,
) -> Recipe:
    """As many pairs a draw as there are to train on; as many held-out prompts as there are, up to the pool's.

    PPO's answers are as long as the pool's.
    """
    train, heldout = source.parts
    listed = len(source.listed)
    study = fields.get("ppo_study")
    if study:
        steps = dataclasses.replace(study.ppo, max_new_tokens=source.max_new_tokens)
        fields["ppo_study"] = dataclasses.replace(study, ppo=steps, prompts=min(study.prompts, listed))
    return Recipe(
        name,
        source,
        size=source.size,
        labels=Labels(pairs=len(train), flips=flips, heldout=min(1000, len(heldout))),
        training=training,
        replicates=replicates or Replicates(3, min(3, len(source.backbones)), 1),
        pool=PoolSize(min(pool.prompts, listed), pool.answers),
        ensembles=ensembles,
        **fields,
    )
