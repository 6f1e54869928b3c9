"""The samples that every format holds: counter-based, so that any of them can be made alone."""

import numpy as np
import xxhash

FRAMES, TOKENS, DIM = 16, 32, 768
SHAPE = (FRAMES, TOKENS, DIM)
BYTES = 2 * FRAMES * TOKENS * DIM
# Bit 14 is the exponent's highest: without it every half float is finite.
FINITE = 0xBFFF


def features(index):
    """Features of a sample, [frames, tokens, dim] of float16."""
    bits = np.random.default_rng(index).bytes(BYTES)
    return (np.frombuffer(bits, np.uint16) & FINITE).view(np.float16).reshape(SHAPE)


def question(index):
    return f"What happens in clip {index}?"


def answer(index):
    return f"A ball falls {index % 7} times and rolls to the left."


def checksum(array):
    """XXH3-64 of an array's bytes, which it must hold in one piece."""
    return xxhash.xxh3_64_intdigest(memoryview(array).cast("B"))
