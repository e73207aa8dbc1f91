"""Tasks: pure functions of a key that return time-major `(xs, ys)`; registry."""

from ._delayed_xor import DELAYED_XOR, delayed_xor as delayed_xor
from ._digits import (
    SEQUENTIAL_DIGITS,
    sequential_digits as sequential_digits,
    sequential_digits_split as sequential_digits_split,
)
from ._pattern_generation import PATTERN_GENERATION, pattern_generation as pattern_generation
from ._task import (
    cross_entropy as cross_entropy,
    Preset as Preset,
    squared_error as squared_error,
    Task as Task,
)


# A new task is a file that ends in such a record, and its name here.
TASKS: dict[str, Task] = {
    task.name: task for task in (DELAYED_XOR, PATTERN_GENERATION, SEQUENTIAL_DIGITS)
}
