"""The optimizer's moving average of the weights, which warms up."""

import dataclasses

import keras
import numpy as np
import pytest

from emo.experiments import get_experiment
from emo.training.optimizer import build_optimizer
from emo.training.train import train


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "weight_decay": 0.0},
        {"optimizer": "adam", "weight_decay": 0.0},
        {"optimizer": "adamw"},
    ],
)
def test_the_average_keeps_little_of_itself_at_first(changes):
    experiment = get_experiment("emo_mini", ema=0.9, schedule="constant", warmup_epochs=0, **changes)
    optimizer = build_optimizer(experiment, steps_per_epoch=10)
    weight = keras.Variable(np.array([1.0, -2.0], np.float32))
    optimizer.build([weight])
    expected = None
    for step in range(120):
        optimizer.apply([np.array([0.3, -0.1 * step], np.float32)])
        keeps = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        seen = np.asarray(weight).astype(float)
        expected = seen if expected is None else keeps * expected + (1 - keeps) * seen
        np.testing.assert_allclose(optimizer._model_variables_moving_average[0], expected, rtol=1e-4)


def test_a_short_run_with_a_long_average_does_not_end_at_chance(dataset):
    experiment = get_experiment("emo_mini", epochs=6, warmup_epochs=0.5, batch_size=8, precision="float32")
    assert experiment.ema == 0.998  # of 500 steps, and the run has 18
    run = train(dataclasses.replace(experiment, augment_strength=0.1), dataset)
    assert run.val_accuracy > 0.6
