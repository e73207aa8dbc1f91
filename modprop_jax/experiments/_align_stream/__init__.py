"""`align_stream`: all rules' gradients, step by step, on a network that one of them trains."""

from ._study import (
    align_stream as align_stream,
    AlignStream as AlignStream,
    reopen_align_stream as reopen_align_stream,
    resume_align_stream as resume_align_stream,
    StreamAlignments as StreamAlignments,
)
