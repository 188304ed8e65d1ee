"""train(): from an experiment and a dataset to a saved model, its curve and its row in the table."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from tqdm.keras import TqdmCallback

from emo.backend import is_lost_process, process
from emo.errors import LostProcess, UserError
from emo.experiments import Experiment
from emo.paths import Paths
from emo.training.follower import Follower
from emo.training.memory import in_words
from emo.training.optimizer import build_loss, build_optimizer
from emo.training.plan import Plan, prepare_run
from emo.training.precise_batch_norm import PreciseBatchNorm
from emo.training.recorder import Recorder
from emo.training.run import Ending, Outcome, Run


def train(
    experiment: Experiment, paths: Paths, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> Run | None:
    """Trains `experiment` on `paths.train`, validates on `paths.val` or on a part split off from training.

    The model of the best epoch by validation accuracy goes to `model/` with its learning curve, the run
    to the table. Ctrl-C or a NaN loss after the first epoch end the run early and keep both; so does an
    exception, which is raised again. A run that was killed goes on where it was, when the same experiment is
    trained on the same photos again. Of several processes that train together, the first one does all that;
    the others return None. Raises UserError for what the user can repair.

    `callbacks` are called as Keras does, such as `keras.callbacks.TensorBoard(folder)`; one that stops the
    training ends the run early, as Ctrl-C does. A run that goes on has new ones, which know nothing of what
    was before. Of several processes the first one's alone are called, so that they may write, and must not
    stop the training.
    """
    return train_prepared(prepare_run(experiment, paths), callbacks)


def train_prepared(plan: Plan, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Run | None:
    """`train` of what `prepare_run` gave, once: afterwards its network is the trained one."""
    if plan.trainer.compiled:
        raise UserError("This plan has been trained already; make a new one with prepare_run.")
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise UserError(f"callbacks has {callback!r}, which is none; give those of keras.callbacks.")
    if process():
        return follow(plan)
    recorder, failure = None, None
    try:
        with plan.devices.scope():
            compile_trainer(plan)
        recorder = Recorder(plan)
    except Exception as error:
        failure = in_words(error, plan.experiment)
        if failure is error:
            raise
    if failure:
        raise failure
    try:
        return end_run(plan, recorder, fit(plan, recorder, callbacks))
    finally:
        recorder.close()


def follow(plan: Plan) -> None:
    """What the processes beside the first one do."""
    with plan.devices.scope():
        compile_trainer(plan)
    outcome = fit(plan, Follower(plan))
    if outcome.error:
        raise outcome.error


def end_run(plan: Plan, recorder: Recorder, outcome: Outcome) -> Run:
    """Keeps what a run has come to, or raises why nothing of it is left."""
    recorder.claim.check()
    if isinstance(outcome.error, LostProcess):
        raise outcome.error  # its state goes on when all are there again
    if recorder.best_model.saved is None:
        # what an earlier session did is worth another try
        if not (outcome.error and recorder.resumed_at > (0, 0)):
            recorder.discard()
        raise outcome.error or UserError(
            f"The loss became NaN in the first epoch: learning_rate={plan.experiment.learning_rate} is too "
            f"high for {plan.experiment.optimizer}; try a tenth of it."
        )
    run = recorder.finish(outcome)
    if outcome.ending is Ending.FAILED:
        raise outcome.error
    return run


def compile_trainer(plan: Plan) -> None:
    """Makes the trainer ready to fit, the optimizer's variables included."""
    trainer = plan.trainer
    trainer.compile(
        build_optimizer(plan.experiment, len(plan.train_set)),
        loss=build_loss(plan.experiment),
        weighted_metrics=["accuracy"],
        steps_per_execution=plan.steps_per_call,
        jit_compile=plan.xla,
    )
    trainer.optimizer.build(trainer.trainable_variables)


def fit(
    plan: Plan, recorder: Recorder | Follower, others: Sequence[keras.callbacks.Callback] = ()
) -> Outcome:
    """Trains until the last epoch ends or something else ends it; what was begun to be written is written."""
    done = recorder.epochs
    try:
        try:
            callbacks = run_callbacks(plan, recorder, others)
            for first, last, start in epoch_spans(plan.experiment.epochs, *recorder.resumed_at):
                plan.train_set.start = start
                if not plan.trainer.stop_training:
                    fit_epochs(plan, first, last, callbacks)
        finally:
            recorder.settle()
    except KeyboardInterrupt as error:
        return Outcome(Ending.INTERRUPTED, len(done), error)
    except Exception as error:
        error = LostProcess() if is_lost_process(error) else in_words(error, plan.experiment)
        return Outcome(Ending.FAILED, len(done), error)
    if len(done) == plan.experiment.epochs:
        return Outcome(Ending.FINISHED, len(done))
    return Outcome(Ending.DIVERGED if recorder.diverged else Ending.INTERRUPTED, len(done))


def epoch_spans(epochs: int, epoch: int, step: int) -> list[tuple[int, int, int]]:
    """(first, last, step to begin at): to Keras the rest of an epoch that was cut short is one of its own."""
    if not step:
        return [(epoch, epochs, 0)]
    return [(epoch, epoch + 1, step)] + ([(epoch + 1, epochs, 0)] if epoch + 1 < epochs else [])


def run_callbacks(
    plan: Plan, recorder: Recorder | Follower, others: Sequence[keras.callbacks.Callback]
) -> list[keras.callbacks.Callback]:
    """What happens around epochs: the order of photos, the record, the user's own, whose weights validate."""
    shuffle = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: plan.train_set.shuffle(epoch))
    callbacks = [shuffle, recorder, *others]
    if plan.experiment.ema:
        callbacks.append(AverageInValidation())
    if plan.experiment.precise_batch_norm:
        callbacks.append(PreciseBatchNorm(plan.learning, plan.train_set))
    return [*callbacks, keras.callbacks.TerminateOnNaN()]


def fit_epochs(plan: Plan, first: int, last: int, callbacks: list[keras.callbacks.Callback]) -> None:
    """Keras's `fit` from epoch `first` (from 0) up to but not including `last`."""
    # by one process, where several train together
    bars = [] if process() else [ProgressBars(by_steps=plan.steps_per_call == 1)]
    with plan.devices.scope():
        plan.trainer.fit(
            plan.train_set.dataset(),
            validation_data=plan.val_set.dataset(),
            initial_epoch=first,
            epochs=last,
            verbose=0,
            shuffle=False,  # the batches are in the order of the seed
            callbacks=[*callbacks, *bars],
        )


class ProgressBars(TqdmCallback):
    """Over the epochs and, where a call takes one step, the steps; tells what the first one waits for."""

    def __init__(self, by_steps: bool):
        super().__init__(verbose=int(by_steps))

    def on_train_begin(self, *arguments):
        super().on_train_begin(*arguments)
        (self.batch_bar if self.verbose else self.epoch_bar).set_postfix_str("compiling")


class AverageInValidation(keras.callbacks.SwapEMAWeights):
    """Puts the weights' moving average in their place from validation until the recorder has kept it."""

    def on_test_end(self, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        super().on_test_end(logs)
