"""Scores of generated against real images, one module a metric.

A metric module has two names that the evaluation reads, found through ``config.eval.metrics``:

- ``PROTOCOL: str``: what was measured, in a sentence or two that travel with every number. It says which direction is
  better in these words, which the report turns into an arrow: "lower / higher / near 1 is better".
- ``score(generated, real, train, seed) -> dict[str, float]``: images are numpy float32 ``[N, H, W, C]`` in [-1, 1],
  ``real`` held out, ``train`` seen in training; their numbers may differ. The headline bears the name, parts are
  named ``<name>_<part>``.

``score`` is composed of ``statistics(images, ...)`` and ``distance(real statistics, generated statistics)``, so that a
metric with expensive features can keep those of the real images.
"""
