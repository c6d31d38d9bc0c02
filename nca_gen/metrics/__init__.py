"""Scores of generated against real images, one module a metric.

A metric module has names that the evaluation reads, found through ``config.eval.metrics`` or ``--metrics``:

- ``PROTOCOL: str``: what was measured, in a sentence or two that travel with every number. It says which direction is
  better in these words, which the report turns into an arrow: "lower / higher / near 1 / near 0 is better".
- ``FEATURES: str | None``: ``"<extractor>:<layer>"`` of the features that it compares by default, None (or absent)
  where it reads the images themselves.
- ``READS: frozenset[str]``: which of ``"real"`` and ``"train"`` it needs beside the generated images; the others may be
  None. Absent: both.
- ``KINDS: tuple[str, ...]``: of ``"images"``, ``"volumes"``, ``"slides"``, those that it scores. Absent: images.
- ``ELSEWHERE: str``: what it is called with features of another network than that of its published name.
- ``score(generated, real, train, seed, **options) -> dict[str, float]``: with ``FEATURES`` arrays ``[N, D]``, else
  images ``[N, H, W, C]`` in [-1, 1]; ``real`` held out, ``train`` seen in training; their numbers may differ. The
  headline bears the name, parts are named ``<name>_<part>``. A 95 % interval of a mean over images is ``<name>_low``,
  ``<name>_high``.

``score`` is composed of ``statistics(features, ...)`` and ``distance(real statistics, generated statistics)`` wherever
a set can be boiled down, so that what was computed of the real images can be kept.

Where a number cannot be given, ``score`` raises UserError; where it can, but with a caveat, it calls
:func:`nca_gen.metrics.notes.note`.
"""
