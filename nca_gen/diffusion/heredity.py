"""Gene heredity (GeCA, section 2.3): what the cells of one denoising step hand on to those of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nca_gen.diffusion.samplers import Denoiser

# What the cells of one denoising step find of the step before, by the name of it in a config.
KEPT = {"none": (), "hidden": ("hidden",), "out": ("out",), "both": ("out", "hidden")}


def heirs(memory: Any, kept: Sequence[str]) -> Any:
    """``memory`` with None, which is newborn, for every field that is not ``kept``; () stays ()."""
    return memory._replace(**{f: None for f in memory._fields if f not in kept}) if memory else memory


def inherited(denoise: Denoiser, kept: Sequence[str]) -> Denoiser:
    """``denoise``, of whose memory the next step finds only what is ``kept``."""

    def denoise_and_keep(x, t, memory, key):
        output, memory = denoise(x, t, memory, key)
        return output, heirs(memory, kept)

    return denoise_and_keep
