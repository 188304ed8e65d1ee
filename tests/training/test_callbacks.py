"""Keras's own callbacks beside ours: what TensorBoard reads is what the run says of itself."""

import dataclasses

import keras
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import tests.tiny  # noqa: F401 -- a backbone
from emo.errors import UserError
from emo.experiments import Experiment
from emo.training import checkpoint
from emo.training.plan import prepare_run
from emo.training.train import train

# on photos, with an average of weights
TINY = Experiment(
    "tiny", "tiny", ("avg_pool",), "adam", 1e-3, ema=0.9, epochs=3, unfreeze="all", weights=None,
    image_size=48, batch_size=8, precision="float32",
)  # fmt: skip


def scalars(folder) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of each curve, by epoch from 1 on."""
    found = {}
    for part in ("train", "validation"):
        events = EventAccumulator(str(folder / part), size_guidance={"tensors": 0}).Reload()
        for tag in events.Tags()["tensors"]:
            if tag.startswith("epoch_"):
                name = tag.replace("epoch_", "val_" if part == "validation" else "")
                points = events.Tensors(tag)
                found[name] = {point.step + 1: float(make_ndarray(point.tensor_proto)) for point in points}
    return found


def assert_same_curves(folder, history):
    shown = scalars(folder)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert shown[name] == pytest.approx(history[name].to_dict(), rel=1e-5), name


class Killed(keras.callbacks.Callback):
    """As a machine that goes away in the second epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations >= self.params["steps"] + 2:
            raise SystemExit


def test_tensorboard_shows_the_curves_of_the_run_also_of_one_that_went_on(dataset, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "STATE_SECONDS", 0.0)
    folder = dataset.results / "tensorboard" / checkpoint.run_name(prepare_run(TINY, dataset))
    assert folder.name.startswith("tiny_")
    with pytest.raises(SystemExit):
        train(TINY, dataset, [keras.callbacks.TensorBoard(folder), Killed()])
    run = train(TINY, dataset, [keras.callbacks.TensorBoard(folder)])
    assert "in epoch 2 of 3" in capsys.readouterr().out
    assert len(run.history) == 3
    assert_same_curves(folder, run.history)


def test_a_callback_may_end_the_run_early(dataset):
    frozen = dataclasses.replace(TINY, unfreeze="none")
    run = train(frozen, dataset, [keras.callbacks.EarlyStopping("loss", min_delta=1e9)])
    assert str(run.outcome) == "stopped by the user after epoch 2"
    assert len(run.history) == 2 and run.model_path.exists()


def test_what_is_no_callback_is_one_sentence(dataset):
    with pytest.raises(UserError, match=r"callbacks has 'tensorboard', which is none; give those of keras"):
        train(TINY, dataset, ["tensorboard"])
    assert list(dataset.model.iterdir()) == []
