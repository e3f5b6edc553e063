"""`python -m deeplab`, which torchrun starts: `torchrun --nproc-per-node 2 -m deeplab train-deeplab ...`."""

from __future__ import annotations

from deeplab.cli import main

if __name__ == "__main__":
    main()
