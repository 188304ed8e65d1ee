"""The one exception for a user's mistake: a sentence that says what is wrong and what to do."""


class UserError(ValueError):
    """A mistake the user can repair. The message is one sentence naming the file or field.

    IPython asks an exception for its traceback through `_render_traceback_`; answering with the
    sentence alone keeps stack traces out of the notebooks while the run still stops there.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"✋ {self}"]
