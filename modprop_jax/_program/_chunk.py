"""How many steps one matmul of the weight gradient takes."""

import jax


# Numbers an operand of a chunk may have, and the fewest and most steps of a chunk. Measured on CPU:
# half a megabyte of float32, so that several operands stay in cache; at n = 32, 128, 256, 8 to 32
# steps take the same time, and beyond that it grows by up to a third. On accelerators a step is a
# kernel launch and the weight gradient a matmul that wants to be large; not measured.
_CHUNK = {"cpu": (2**17, 8, 32)}
_CHUNK_ELSEWHERE = (2**22, 32, 2048)


def auto_chunk(batch: int, width: int) -> int:
    """Steps whose weight gradient is one matmul, for B examples of n neurons."""
    numbers, fewest, most = _CHUNK.get(jax.default_backend(), _CHUNK_ELSEWHERE)
    return min(max(numbers // max(batch * width, 1), fewest), most)
