"""Experiments: networks under several credit rules, from Python or the shell."""

from ._align import align as align, Alignments as Alignments, resume_align as resume_align
from ._align_stream import (
    align_stream as align_stream,
    resume_align_stream as resume_align_stream,
    StreamAlignments as StreamAlignments,
)
from ._cells import CELLS as CELLS
from ._cli import main as main
from ._compare import (
    compare as compare,
    Comparison as Comparison,
    resume as resume,
    trained as trained,
)
from ._compare_recording import (
    compare_recording as compare_recording,
    RecordedComparison as RecordedComparison,
    RecordedRow as RecordedRow,
)
from ._methods import Method as Method, METHODS as METHODS
from ._network import (
    build_network as build_network,
    build_optimizer as build_optimizer,
    Network as Network,
)
from ._rules import (
    build_rule as build_rule,
    DEFAULT_RULES as DEFAULT_RULES,
    RuleEntry as RuleEntry,
    RULES as RULES,
)
from ._soundness import RuleUnstable as RuleUnstable, TrainingDiverged as TrainingDiverged
from ._statistics import (
    Centre as Centre,
    Pair as Pair,
    paired_differences as paired_differences,
    Reached as Reached,
)
from ._summary import Row as Row, Spread as Spread
from ._tensorboard import tensorboard as tensorboard
from ._train import Record as Record, train as train
