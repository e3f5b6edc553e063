"""Seeds from several numbers."""

from __future__ import annotations

import numpy as np


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed from several numbers; torch's CPU generator takes no more bits, and nearby seeds must differ."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
