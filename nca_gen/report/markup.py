"""How a page looks: words and numbers for HTML, figures, sections and the style sheet. Knows nothing of training."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image

MIME = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".jpg": "image/jpeg"}
LARGEST = 24 * 2**20  # bytes of one picture; with more the page would not open on a phone

CSS = """
:root { color-scheme: light dark; --page: #faf8f5; --card: #fff; --ink: #211c28; --soft: #6d6675; --line: #e6e0e7;
  --violet: #6b3fa0; --brown: #a0581f; --bad: #b3261e; --code: #f2eef3; }
@media (prefers-color-scheme: dark) { :root { --page: #131117; --card: #1c1922; --ink: #ece8f0; --soft: #a69fb0;
  --line: #332e3b; --violet: #b898ee; --brown: #dd9f66; --bad: #f2867e; --code: #25212d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: clamp(1.5rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
h1 { font-size: clamp(1.9rem, 5vw, 2.9rem); line-height: 1.12; letter-spacing: -.022em; margin: .2rem 0 .8rem;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; letter-spacing: -.012em; line-height: 1.25; margin: 3.2rem 0 .9rem; }
h2 + p { margin-top: -.6rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; }
h3 span { color: var(--soft); font-weight: 400; margin-left: .35em; font-variant-numeric: tabular-nums; }
p { max-width: 44rem; margin: 0 0 1rem; text-wrap: pretty; overflow-wrap: anywhere; }
.over { color: var(--violet); font-size: .78rem; font-weight: 650; letter-spacing: .09em; text-transform: uppercase;
  margin: 0; }
.lead { font-size: 1.12rem; }
.soft { color: var(--soft); }
.bad, h3 .bad { color: var(--bad); }
.grid { display: grid; gap: 1.1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least, 20rem)), 1fr)); }
.past { --least: 10.5rem; }
.tiles { gap: .8rem; margin: 1.6rem 0 0; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.card, figure, .tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: 1rem;
  margin: 0; min-width: 0; }
.card + *, figure + figure { margin-top: 1.1rem; }
.grid > * { margin-top: 0; }
.tiles div { padding: .7rem 1rem; }
.tiles b { display: block; font-size: 1.45rem; font-weight: 620; letter-spacing: -.015em; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles small { font-size: .95rem; font-weight: 500; color: var(--brown); letter-spacing: 0; margin-left: .35em; }
.tiles span { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
figure { width: calc(var(--wide) + 2rem + 2px); max-width: 100%; }
.grid > figure { width: auto; }
img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.grid > figure > img { margin: 0 auto; }
img.big { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.45; margin-top: .75rem; max-width: 44rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.film { display: grid; gap: 1rem; align-items: center; }
figure + .few { max-width: 26rem; margin-top: 1.1rem; }
.strip { overflow-x: auto; min-width: 0; }
.strip img { max-width: none; width: max(100%, 44rem); }
@media (min-width: 52rem) { .film:has(> img) { grid-template-columns: fit-content(17rem) 1fr; }
  .strip img { width: 100%; } }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 10.5px; font-family: inherit; font-variant-numeric: tabular-nums; }
svg .rule { stroke: var(--line); fill: none; }
svg polyline { fill: none; stroke: var(--violet); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg polyline.raw { stroke-width: 1; opacity: .38; }
svg polygon { opacity: .2; }
svg polygon, svg circle { fill: var(--violet); }
.table { min-width: min(100%, 46rem); width: fit-content; max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .5rem 0 .5rem 1.2rem; vertical-align: baseline; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-size: .82rem; color: var(--soft); font-weight: 550; padding-top: 0; white-space: normal;
  vertical-align: bottom; }
@media (max-width: 30rem) { th, td { padding-left: .8rem; } table { font-size: .95rem; } }
.whole td { border-top: 1px solid var(--line); }
.part td { color: var(--soft); font-size: .92rem; padding-top: .05rem; padding-bottom: .05rem; }
.part td:first-child { padding-left: 1rem; }
.part:has(+ .whole) td { padding-bottom: .6rem; }
td.arrow { color: var(--brown); }
dl { margin: 0; display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .35rem 1.4rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dl.notes { display: block; max-width: 48rem; font-size: .92rem; }
.notes dt { color: var(--ink); font-weight: 600; margin-top: .7rem; }
.notes dd { color: var(--soft); }
pre { font: .86em/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; margin: .6rem 0;
  background: var(--code); border-radius: .6rem; padding: .9rem 1rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre span { display: inline-block; max-width: 100%; }
summary { cursor: pointer; font-weight: 550; margin-top: 1rem; }
footer { margin-top: 3.5rem; color: var(--soft); font-size: .85rem; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document. The policy in its head makes the browser itself refuse scripts and the network."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{CSS}</style></head>
<body><main>
{joined(body, chr(10))}
</main></body></html>
"""


def finite(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number to show or draw: no NaN, no infinity, nor anything near one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(abs(value) < 1e100)


def private(value: Any) -> Any:
    """A JSON value with the end only of each absolute path: pages are passed on, folders name people and machines."""
    if isinstance(value, dict):
        return {private(k): private(v) for k, v in value.items()}
    if isinstance(value, list):
        return [private(v) for v in value]
    if not isinstance(value, str):
        return value
    root = r"(?:file://|[A-Za-z]:)?[\\/]"
    if re.fullmatch(root + r"[^\\/]+[\\/].+", value):  # nothing but a path: it may hold spaces
        return "…/" + re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    inside = rf"(?<![\w.:/\\~-]){root}[\w.@+~-]+(?:[\\/][\w.@+~-]*)+"
    return re.sub(inside, lambda found: private(found[0]), value)


def text(value: Any) -> str:
    """``value`` as HTML text, without :func:`private` parts."""
    return escape(private(str(value)))


def number(value: Any) -> str:
    """Four digits, thousands separated, or a word for what is no finite number."""
    if not finite(value):
        return "not finite" if isinstance(value, float) else "n/a"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-")


def duration(seconds: int | float) -> str:
    """Two digits, or whole units, of what reads best: seconds, minutes, hours, days."""
    unit, name = next((u for u in ((86400, "days"), (3600, "hours"), (60, "min")) if seconds >= 2 * u[0]), (1, "s"))
    value = seconds / unit
    return f"{value:.0f} {name}" if value >= 10 else f"{value:.2g} {name}"


def plain(value: Any) -> str:
    """A JSON value as a line of prose."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


def joined(parts: Iterable[str], between: str = " ") -> str:
    """The parts that are not empty."""
    return between.join(filter(None, parts))


def section(title: str, body: str, intro: str = "") -> str:
    """A titled section; nothing if it has no body."""
    intro = intro and f'<p class="soft">{intro}</p>\n'
    return body and f"<section><h2>{title}</h2>{intro}{body}</section>"


def grid(items: Iterable[str], kind: str = "") -> str:
    """Equal columns, as many as fit; nothing if there are no items."""
    body = joined(items, "\n")
    return body and f'<div class="grid {kind}">{body}</div>'


def terms(facts: dict[str, Any], kind: str = "card") -> str:
    """A list of terms and what they are; empty ones are left out."""
    known = {k: plain(private(v)) for k, v in facts.items() if v not in ("", None, [], {})}
    lines = joined(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in known.items())
    return lines and f'<dl class="{kind}">{lines}</dl>'


def figure(body: str, width: int, caption: str) -> str:
    """A captioned card for something ``width`` pixels wide; nothing without a body."""
    return body and f'<figure style="--wide: {width}px">{body}<figcaption>{caption}</figcaption></figure>'


def command(typed: str) -> str:
    """A command as it was typed, to break between words: browsers would break behind the dashes of a flag."""
    words = (escape(word) if word.isspace() else f"<span>{escape(word)}</span>" for word in re.split(r"(\s+)", typed))
    return typed and f"<pre>{joined(words, '')}</pre>"


def readable(path: Path) -> bool:
    """Whether ``path`` is a picture that can be embedded: whole, and not too large."""
    try:
        if path.stat().st_size > LARGEST:
            return False
        with Image.open(path) as image:
            image.load()
        return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        return False


def img(path: Path, target: int) -> tuple[str, int]:
    """The picture at ``path``, byte by byte, and its width on the page: enlarged by the whole factor that comes nearest
    to ``target`` pixels from below. What it shows is said by its caption."""
    with Image.open(path) as image:
        width, height = image.size
    factor = max(1, target // width)
    data = base64.b64encode(path.read_bytes()).decode()
    shape = f'width="{width * factor}" height="{height * factor}"' + (' class="big"' if factor > 1 else "")
    return f'<img src="data:{MIME[path.suffix]};base64,{data}" alt="{path.stem}" {shape}>', width * factor
