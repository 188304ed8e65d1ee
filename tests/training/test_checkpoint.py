"""What names a run, so that its state is found again."""

from emo.experiments import get_experiment
from emo.training.checkpoint import key_settings

# as `to_json` of 2026-11-25 wrote this experiment, whose fields had other names
OLDER = (
    '{"name": "finetune", "backbone": "xception", "head": ["avg_pool", "dropout 0.3"], "optimizer": "adamw", '
    '"learning_rate": 0.0003, "momentum": 0.0, "weight_decay": 0.01, "schedule": "cosine", '
    '"warmup_epochs": 0.5, "loss": "categorical_crossentropy", "label_smoothing": 0.1, "balance": 0.5, '
    '"average": 0.9, "augment": true, "augment_strength": 0.5, "color": 0.3, "erase": 0.5, "mix": "cutmix", '
    '"use_augmented_copy": false, "relabel": true, "views": 0, "epochs": 10, "unfreeze": "all", '
    '"freeze_batch_norm": false, "precise_batch_norm": false, "weights": "imagenet", "teacher": "t.h5", '
    '"teacher_weight": 0.5, "face_margin": null, "image_size": 128, "batch_size": 32, "precision": "auto", '
    '"seed": 42}'
)


def test_a_run_that_was_killed_before_fields_were_renamed_is_found():
    changes = {"ema": 0.9, "color_jitter": 0.3, "random_erasing": 0.5, "class_balance": 0.5, "mix": "cutmix"}
    changes |= {"teacher": "t.h5", "teacher_weight": 0.5, "precise_batch_norm": False}
    experiment = get_experiment("finetune", **changes)
    assert key_settings(experiment) == OLDER


def test_a_field_that_came_later_counts_where_it_is_set():
    experiment = get_experiment("finetune", deterministic=True)
    assert key_settings(experiment) != key_settings(get_experiment("finetune"))
