"""What pages have in common that set models beside each other."""

from nca_gen.config import Stage


def formed(config, forms, page, models):
    """``config`` after those ``forms`` of a ``page``, its functions by name, in their order, that name no model."""
    for form in forms:
        if form not in models:
            page[form](config)
    return config


def judged(stages, last):
    """The trainings, and behind them ``table``: ``last``, which draws from all of them and scores them."""
    last.study.runs = tuple(f"../{stage.name}" for stage in stages)
    return [*stages, Stage("table", last, ("study",))]
