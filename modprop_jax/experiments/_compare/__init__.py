"""`compare`: the same networks on the same data under several credit rules."""

from ._study import (
    Compare as Compare,
    compare as compare,
    Comparison as Comparison,
    reopen as reopen,
    resume as resume,
    trained as trained,
)
