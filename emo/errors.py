"""The one exception for a user's mistake: a sentence that says what is wrong and what to do."""

import errno

# what TensorFlow, CUDA and XLA say of memory that ran out, whatever the type of their exception
OUT_OF_MEMORY = (
    "OOM when allocating",
    "out of memory",
    "OUT_OF_MEMORY",
    "failed to allocate memory",
    "Dst tensor is not initialized",
    "ALLOC_FAILED",
    "Unable to allocate",  # NumPy's, behind TensorFlow's own words
)
# the same status of TensorFlow's tells a full disk and too many open files
NOT_MEMORY = ("No space left", "Disk quota", "Too many open files")


class UserError(ValueError):
    """A mistake the user can repair. The message is one sentence naming the file or field.

    IPython asks an exception for its traceback through `_render_traceback_`; answering with the
    sentence alone keeps stack traces out of the notebooks while the run still stops there.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"✋ {self}"]


class LostProcess(UserError):
    """One of the processes that train together is gone, and with it its share of every batch."""

    def __init__(self):
        super().__init__(
            "Another process of this run has ended, so this one ends too; start all of them again, and the "
            "run goes on from its last state."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory, as Python, TensorFlow and JAX tell it.

    They are known by their names and words, as this module imports none of them.
    """
    if isinstance(error, UserError):
        return False
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    if any(words in text for words in NOT_MEMORY):
        return False
    exhausted = type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in text
    return exhausted or any(words in text for words in OUT_OF_MEMORY)
