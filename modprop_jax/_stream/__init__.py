from ._carry import StreamCarry as StreamCarry
from ._learn import as_done as as_done, learn_stream as learn_stream
