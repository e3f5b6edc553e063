"""`python -m getam`, which torchrun starts: `torchrun --nproc-per-node 2 -m getam train-end-to-end ...`."""

from __future__ import annotations

from getam.cli import main

if __name__ == "__main__":
    main()
