"""Combines several numbers into one random seed."""

from __future__ import annotations

import numpy as np


def mixed_seed(*parts: int) -> int:
    """Mixes non-negative integers into one 32-bit seed, all that torch's CPU generator uses; close inputs give
    unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
