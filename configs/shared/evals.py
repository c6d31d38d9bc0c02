"""What the runs of these pages are asked, and how often."""


def of_samples(every, **more):
    """How good are samples, what do they repeat, how do they come about? ``more``: other evaluators."""
    often = {"every": every}
    return {"scores": often, "nearest": often, "films": often, "samplers": {}} | more


def often(config, every):
    """Asks all that is asked in training each ``every`` steps."""
    for section in config.evals.values():
        if section.get("every"):
            section.every = every
