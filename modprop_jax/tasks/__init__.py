"""Tasks: pure functions of a key that return time-major `(xs, ys)`; registry."""

from ._add import ADD, add as add, ADD_FLOORS as ADD_FLOORS
from ._archive import (
    BASIC_MOTIONS,
    basic_motions as basic_motions,
    basic_motions_split as basic_motions_split,
    JAPANESE_VOWELS,
    japanese_vowels as japanese_vowels,
    japanese_vowels_split as japanese_vowels_split,
)
from ._connectome import CONNECTOME, connectome as connectome
from ._copy_memory import COPY_MEMORY, copy_memory as copy_memory
from ._delayed_match import DELAYED_MATCH, delayed_match as delayed_match
from ._delayed_xor import DELAYED_XOR, delayed_xor as delayed_xor
from ._digits import (
    SEQUENTIAL_DIGITS,
    sequential_digits as sequential_digits,
    sequential_digits_split as sequential_digits_split,
)
from ._evidence_accumulation import (
    EVIDENCE_ACCUMULATION,
    evidence_accumulation as evidence_accumulation,
)
from ._flip_flop import FLIP_FLOP, flip_flop as flip_flop
from ._generator import from_generator as from_generator
from ._lag_line import LAG_LINE, lag_line as lag_line, lag_line_cell as lag_line_cell
from ._laser import LASER, laser as laser
from ._mimic import MIMIC, mimic as mimic
from ._mnist1d import (
    MNIST1D,
    mnist1d as mnist1d,
    mnist1d_split as mnist1d_split,
    summed_cross_entropy as summed_cross_entropy,
)
from ._neurogym import from_neurogym as from_neurogym
from ._nmse import nmse as nmse, nrmse as nrmse
from ._pattern_generation import PATTERN_GENERATION, pattern_generation as pattern_generation
from ._preset import (
    Architecture as Architecture,
    Objective as Objective,
    Optimizer as Optimizer,
    Preset as Preset,
    Schedule as Schedule,
)
from ._recorded import recorded as recorded, Recording as Recording
from ._recordings import from_recordings as from_recordings
from ._respiration import (
    RESPIRATION,
    respiration as respiration,
    respiration_signals as respiration_signals,
)
from ._sine_wave import SINE_WAVE, sine_wave as sine_wave
from ._static_digits import DIGITS, digits as digits, digits_split as digits_split
from ._sunspots import SUNSPOTS, sunspots as sunspots
from ._task import (
    cross_entropy as cross_entropy,
    squared_error as squared_error,
    Task as Task,
)
from ._watch import WATCH, watch as watch, watch_split as watch_split


# A new task is a file that ends in such a record, and its name here.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        DELAYED_XOR,
        PATTERN_GENERATION,
        SEQUENTIAL_DIGITS,
        DELAYED_MATCH,
        COPY_MEMORY,
        FLIP_FLOP,
        EVIDENCE_ACCUMULATION,
        ADD,
        MIMIC,
        SINE_WAVE,
        LAG_LINE,
        MNIST1D,
        DIGITS,
        CONNECTOME,
        LASER,
        RESPIRATION,
        WATCH,
        SUNSPOTS,
        JAPANESE_VOWELS,
        BASIC_MOTIONS,
    )
}
