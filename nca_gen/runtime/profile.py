"""A trace of some steps, to be opened in Perfetto (https://ui.perfetto.dev) or XProf: ``config.train.profile``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from nca_gen import sections
from nca_gen.runtime.log import say

STEP = "train"  # what a step is called in a trace


class Profile:
    """Traces the steps ``asked`` ("10:15": 10 to 15, "": none) to ``<workdir>/profile/``; one that is cut short too."""

    def __init__(self, asked: str, workdir: Path):
        self.steps, self.folder, self.running = sections.span(asked), workdir / "profile", False

    def __enter__(self) -> Profile:
        """Begins nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what still runs."""
        self.stop()

    def step(self, n: int, advance: Callable[..., Any], *given: Any) -> Any:
        """What ``advance`` makes of ``given``, as step ``n``."""
        if self.steps and n == self.steps[0]:
            # The file for Perfetto is made of the one for XProf.
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self.running = True
        with jax.profiler.StepTraceAnnotation(STEP, step_num=n):
            made = advance(*given)
        if self.steps and n == self.steps[1]:
            jax.block_until_ready(made)
            self.stop()
        return made

    def stop(self) -> None:
        """Writes the trace, if one runs."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
            say(f"the trace is in {self.folder}: open perfetto_trace.json.gz at https://ui.perfetto.dev")
