"""Which labels to doubt: each photo is judged by a head that was fitted without it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from emo.data.split import load_split, relabelled
from emo.errors import UserError
from emo.experiments import Experiment
from emo.files import atomic, write_text
from emo.paths import Paths
from emo.plots.data import plot_suspects
from emo.training.feature_cache import backbone_features

FOLDS = 5
# scikit-learn's C is this by the photos fitted on (features are standardized); of 7 and 70 the smaller found
# more flipped labels in FER2013
REGULARIZATION = 7.0
SHOWN = 200  # photos on the contact sheet, and lines of the relabel.csv that a person starts from


def audit_labels(paths: Paths, experiment: Experiment, seed: int = 42) -> pd.DataFrame:
    """The photos to train and validate on, most doubtful labels first; nothing is dropped.

    The judge is a logistic regression on the features of the experiment's backbone, each photo's fitted
    without it. The backbone itself must not have learned these labels: ImageNet's weights have not, those of
    an earlier run on these photos have. What `data/relabel.csv` corrects is judged as corrected. Columns:
    path (below `data/`), label, suggested (the most probable class) and quality (0…1, low is doubtful).
    Written to `data/suspects.csv`, the first 200 as pictures to `data/suspects.png` and, where there is none
    yet, as lines to fill in to `data/relabel.csv`. UserError where a class has too few photos, and for an
    experiment that starts from random numbers.

    Method: confident learning (Northcutt et al. 2021, arXiv:1911.00068) on out-of-fold probabilities.
    """
    if experiment.weights is None:
        raise UserError(
            f"{experiment.name} starts from random numbers (weights=None), which judge no labels; take "
            "finetune_mini, whose weights know faces."
        )
    if experiment.weights != "imagenet":
        print(f"A label that {experiment.weights} was trained with looks right to it, wrong ones too.")
    photos = relabelled(load_split(paths), paths)
    photos = photos[(photos["left_out"] == "") & (photos["split"] != "test")]
    photos = photos.sort_values(["split", "path"], ignore_index=True)
    # a split at a time: training computes and keeps the same features
    features = [backbone_features(part, experiment, paths) for _, part in photos.groupby("split")]
    probabilities = out_of_fold(np.concatenate(features), photos["label"], photos["group"], seed)
    suspects = rank_labels(photos, probabilities)
    suspects["path"] = suspects["path"].str.removeprefix(f"{paths.data.as_posix()}/")
    write_text(paths.suspects, suspects.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    worst = suspects.head(SHOWN)
    sheet = plot_suspects(worst, paths, columns=10)
    with atomic(paths.suspects_sheet) as draft:
        sheet.savefig(draft)
    plt.close(sheet)
    if not paths.relabel.exists():
        lines = worst[["path", "label", "suggested"]].rename(columns={"label": "given"}).assign(label="")
        write_text(paths.relabel, lines.to_csv(index=False, lineterminator="\n"))
    print(
        f"{len(suspects):,} labels ranked, most doubtful first: {paths.suspects}; the first {len(worst)} as "
        f"pictures: {paths.suspects_sheet}."
    )
    return suspects


def out_of_fold(features: np.ndarray, labels: pd.Series, groups: pd.Series, seed: int = 42) -> pd.DataFrame:
    """Probabilities, a column per class: each photo's from a head fitted without it and its duplicates.

    `features` are (n, d); photos of one group > 0 share a fold. UserError where a class has fewer than 5, or
    too few different ones.
    """
    counts = labels.value_counts()
    if counts.min() < FOLDS:
        raise UserError(
            f"Class {counts.idxmin()!r} has {counts.min()} photos; {FOLDS} are needed to judge its labels."
        )
    different = np.where(groups > 0, groups, -1 - np.arange(len(groups)))
    if (count := len(set(different))) < FOLDS:
        raise UserError(
            f"Only {count} of {len(labels)} photos are different, the others duplicates; {FOLDS} are needed "
            "to judge labels: add some."
        )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    splits = folds.split(features, labels, different)
    names = sorted(counts.index)
    probabilities = np.full((len(labels), len(names)), np.nan)
    for fitted, judged in tqdm(splits, "judging labels", FOLDS, unit="fold"):
        # a head that lacks a class would doubt all its labels
        if lacking := sorted(counts.index.difference(labels.iloc[fitted])):
            name = lacking[0]
            raise UserError(
                f"Class {name!r} has {counts[name]} photos, too few of them different to judge its labels; "
                "add some."
            )
        scaler = StandardScaler().fit(features[fitted].astype(np.float32))
        head = LogisticRegression(C=REGULARIZATION / len(fitted), max_iter=200)
        head.fit(scaler.transform(features[fitted].astype(np.float32)), labels.iloc[fitted])
        probabilities[judged] = head.predict_proba(scaler.transform(features[judged].astype(np.float32)))
    return pd.DataFrame(probabilities, columns=names, index=labels.index)


def rank_labels(photos: pd.DataFrame, probabilities: pd.DataFrame) -> pd.DataFrame:
    """path, label, suggested and quality of each photo, the lowest quality first.

    `quality` is the probability of the given label (cleanlab's self-confidence, which found more flipped
    labels in FER2013 than its margin or its corrected scores). Where labels begin to be wrong is not said:
    cleanlab's own verdict took 38% of FER2013's for errors, as the judge is right about 43% only.
    """
    from cleanlab.rank import get_label_quality_scores

    names = list(probabilities)
    codes = pd.Categorical(photos["label"], categories=names).codes
    values = probabilities.to_numpy()
    ranked = photos[["path", "label"]].assign(
        suggested=np.array(names)[values.argmax(axis=1)],
        quality=get_label_quality_scores(codes, values),
    )
    return ranked.sort_values("quality", kind="stable", ignore_index=True)
