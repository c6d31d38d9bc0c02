r"""A cascade of automata beside URCDM and its rival Outpainting, on the same slides, after as many minutes of training.

python -m nca_gen.main --config=configs/slides_table.py --mode=chain --config.data.path=DIR --workdir=runs/table
bash launch/slides_table.sh DIR runs/table

The first line trains the networks of all three in their sizes for laptops; the second does so, draws 4096 x 4096 pixels
by each, and writes the table: distances at three magnifications, structure of the stain, parameters, FLOP, seconds and
memory. The minutes of each system are dealt to its networks, which are timed on this machine before they train.
"""

import nca_cascade
import urcdm
from shared.evals import often

from nca_gen.config import Stage

MINUTES, BRIEF = 36, 12  # of training, of each system
TISSUE = (0.05, 0.25, 0.5)  # of a region of the automata, as URCDM's magnifications have it
PAGES = {  # of each system the page, its forms, and those of its networks, in their order
    "automata": (nca_cascade, "slides", [f"stage{n}" for n in (1, 2, 3)]),
    "urcdm": (urcdm, "", [f"mag{m},stage{s}" for m in (0, 1, 2) for s in (1, 2, 3)]),
    "outpainting": (urcdm, "outpainting", [f"stage{s}" for s in (1, 2, 3)]),
}
ORDER = (("brief",), ("smoke",))  # of forms, however they are written


def get_config():
    """The last network of the automata."""
    return _network("automata", 2)


def _network(system, number, minutes=MINUTES, size="laptop"):
    """The config of a network of a system, which lies beside those of the others."""
    page, form, networks = PAGES[system]
    config = page.get_config()
    for name in [form, *networks[number].split(","), size]:
        if name:
            vars(page)[name](config)
    if system == "automata":  # of slides that are not much larger than what a coarse network sees
        config.data.update(region=config.data.patch[0] * 3 // 2, tissue=TISSUE[number])
    config.parts = {name: f"../{system}_{name}" for name in config.parts}
    config.budget = {"of": f"{minutes / len(networks):g}min"}
    config.optimizer.cosine_steps = -1
    often(config, 0)
    return config


def _become(config, system, number, minutes, size="laptop"):
    """Makes ``config`` that of a network."""
    other = _network(system, number, minutes, size)
    for section in other:
        config[section] = other[section]


def _place(config):
    """The system of ``config``, and the number of its network."""
    before = len(config.parts)
    if config.generate.name == "nca_cascade":
        return "automata", before
    alone = urcdm._alone(config)
    return ("outpainting" if alone else "urcdm"), before


def brief(config):
    """A third of the minutes, and fewer steps of the diffusion models' samplers."""
    system, number = _place(config)
    _become(config, system, number, BRIEF)
    if system != "automata":
        config.sample.steps = (10, 5, 5)[number % 3]


def smoke(config):
    """Seconds: shows that every part works, not what it is worth. On slides of 256 pixels a side or more."""
    system, number = _place(config)
    data = {name: config.data[name] for name in ("name", "path")}
    _become(config, system, number, MINUTES, "smoke")
    fields = ("patch", "square", "reduce", "context_factor", "flips")
    known = {name: config.data[name] for name in fields if name in config.data}
    side = known.get("square") or known["patch"][0]
    config.data = data | known | {"region": max(16, side * 3 // 2), "tissue": 0.0}
    config.budget.of = "2steps"


def chain(forms):
    """All networks of all systems; each is timed, and trains as many steps as its minutes buy."""
    stages = []
    for system, (_, _, networks) in PAGES.items():
        for number, forms_of in enumerate(networks):
            config = _network(system, number)
            for form in forms:
                globals()[form](config)
            name = f"mag2_{forms_of}" if system == "outpainting" else forms_of.replace(",", "_")
            stages.append(Stage(f"{system}_{name}", config, ("budget", "train")))
    return stages
