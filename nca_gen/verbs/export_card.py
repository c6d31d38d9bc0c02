"""The card of an exported model: metadata as a hub reads them, and what must be known before the weights are used.

Every fact is read from the run, its data or its newest evaluation. What is not known there is said to be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from nca_gen import build, screen
from nca_gen.contracts import Denoiser, Page, Part
from nca_gen.data.source import Origin
from nca_gen.errors import UserError
from nca_gen.evaluators.scores import sampler
from nca_gen.report import files, report
from nca_gen.sections import Export

COPIES = ("neighbours", "copying", "authpct")  # metrics that tell whether samples repeat training images
TAGS = ("medical", "diffusion", "neural-cellular-automata", "synthetic-data", "jax", "stablehlo")


class Scored(NamedTuple):
    """A page with scores of the newest evaluation of its evaluator, and the step of that."""

    title: str
    step: int
    facts: Mapping[str, Any]
    table: list[str]
    protocols: Mapping[str, str]


def card(part: Part, plan: Export, workdir: str | Path, folder: str) -> str:
    """The text of README.md. ``folder``: its name, which is the model's where ``plan`` has none."""
    config, model, origin = part.config, part.task.model, build.known_of_data(part.config, "origin")
    training = files.read(Path(workdir))
    draws = "sample" in config
    shown = {
        "name": plan.name or folder,
        "config": config.to_dict(),
        "step": part.step,
        "parameters": screen.number(sum(x.size for x in jax.tree.leaves(part.params))),
        "classes": model.conditions.get("label", 0) if isinstance(model, Denoiser) else 0,
        "origin": origin,
        "licence": licence(origin, plan.licence),
        "derived": not plan.licence,
        "dtype": plan.dtype,
        "html": plan.html,
        "patients": patients(config),
        "pages": [*scored(training)],
        "copies": copies(training),
        "sampler": sampler(config.sample) if draws and "diffusion" in config else "one call of the decoder",
        "size": list(plan.size or config.sample.size) if draws else [],
        "command": training.environment.get("command"),
        "commit": training.environment.get("commit"),
        "versions": files.dictionary(training.environment, "versions"),
        "jax": jax.__version__,
    }
    return f"---\n{header(shown)}---\n\n{report.template('card.md.jinja').render(**shown)}"


def header(shown: Mapping[str, Any]) -> str:
    """The metadata in YAML; what is not known is left out."""
    import yaml

    data, origin = shown["config"]["data"], shown["origin"]
    draws = shown["size"] and len(data["patch"]) == 2 and not shown["classes"]
    task = {"pipeline_tag": "unconditional-image-generation"} if draws else {}
    known = {"type": data["name"], "name": origin.title if origin else data["name"]}
    results = [
        {
            "task": {"type": task.get("pipeline_tag", "other")},
            "dataset": known | {"split": str(page.facts.get("split", ""))},
            "metrics": [{"type": name, "value": page.facts["scores"][name]} for name in page.protocols],
        }
        for page in shown["pages"]
    ]
    index = {"model-index": [{"name": shown["name"], "results": results}]} if results else {}
    facts = shown["licence"] | {"library_name": "jax"} | task | {"tags": list(TAGS)} | index
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=1000)


def licence(origin: Origin | None, stated: str = "") -> dict[str, str]:
    """The licence of the weights as a hub has it: as ``stated``, else that of the data; nothing where none is known."""
    if stated or origin is None:
        return {"license": stated} if stated else {}
    other = {"license_name": origin.terms.replace(" ", "-")} if origin.licence == "other" else {}
    return {"license": origin.licence} | other | ({"license_link": origin.link} if origin.link else {})


def patients(config: Any) -> tuple[int, int] | None:
    """How many patients the model was trained on, and how many of these are among the held-out ones too.

    None where the data are not at hand.
    """
    try:
        splits = build.splits(config)
    except UserError:
        return None
    train, held = (
        {source.head(i).get("patient", f"{split}{i}") for i in range(len(source))}
        for split, source in ((name, splits[name]) for name in ("train", config.held.split))
    )
    return len(train), len(train & held)


def scored(training: files.Run) -> Iterator[Scored]:
    """The newest pages that have scores with a protocol."""
    for name, evaluation in training.newest().items():
        page = evaluation.pages[name]
        if rows := headlines(page):
            table = screen.markdown(("score", "value"), rows.items())
            protocols = files.dictionary(page.facts, "protocol")
            yield Scored(page.title, evaluation.step, page.facts, table, {k: protocols[k] for k in rows})


def headlines(page: Page) -> dict[str, float]:
    """The score of each metric by the name under which its protocol stands."""
    return {name: page.scores[name] for name in files.dictionary(page.facts, "protocol") if name in page.scores}


def copies(training: files.Run) -> dict[str, float]:
    """The scores, of the newest pages, that tell copies, with their parts."""
    pages = [evaluation.pages[name] for name, evaluation in training.newest().items()]
    return {name: value for page in pages for name, value in page.scores.items() if name.startswith(COPIES)}
