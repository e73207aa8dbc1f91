"""`align`: alignment, curvature and generalisation along training, rule by rule."""

from ._study import (
    Align as Align,
    align as align,
    Alignments as Alignments,
    reopen_align as reopen_align,
    resume_align as resume_align,
)
