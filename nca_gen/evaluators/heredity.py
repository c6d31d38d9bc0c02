"""What becomes of the scores where steps inherit nothing, less or more of the step before, and with more guidance?

The ablation of gene heredity (Elbatel et al. 2024, GeCA, table 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from nca_gen.contracts import Page, Pipeline
from nca_gen.diffusion.heredity import KEPT
from nca_gen.errors import chosen
from nca_gen.evaluators.held import Held
from nca_gen.evaluators.sweep import Row, sweep
from nca_gen.judge import Spec
from nca_gen.pipelines.sampling import Guidance, Settings
from nca_gen.ranges import OneOf

TITLE = "Heredity"
WORDS = {"none": "nothing", "hidden": "the hidden state", "out": "the prediction", "both": "all of it"}


def evaluate(
    pipeline: Pipeline,
    data: Held,
    folder: Path,
    /,
    *,
    inherit: Sequence[Annotated[str, OneOf(KEPT)]] = (),
    guidance: Sequence[Guidance] = (),
    metrics: Sequence[Spec] = (),
) -> Page:
    """A row of a table for each of ``inherit`` at each of ``guidance``. ``metrics``: () for those of evals.scores."""
    rows = table(inherit, guidance, Settings.of(pipeline.parts["model"].config.sample))
    return sweep(pipeline, data, folder, TITLE, rows, caption, metrics) if rows else Page(TITLE)


def table(inherit: Sequence[str], guidance: Sequence[float], usual: Settings) -> list[Row]:
    """Every pair; one of the two alone goes with the other as it is in ``usual``.

    Raises UserError for what cannot be inherited.
    """
    for name in inherit:
        chosen(KEPT, "evals.heredity.inherit", name)
    if not inherit and not guidance:
        return []
    pairs = [(name, scale) for scale in guidance or (usual.guidance,) for name in inherit or (usual.heredity,)]
    return [{"heredity": name, "guidance": float(scale)} for name, scale in pairs]


def caption(row: Row) -> str:
    """The caption of a row."""
    return f"{WORDS[row['heredity']]} inherited, guidance {row['guidance']:g}"
