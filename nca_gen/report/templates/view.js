// The page of a plane without an end, after viewer.js. A place (y, x) is of pixels, and lies within edge of (0, 0).

const seed = location.pathname.slice(1);
const MOST = 600; // tiles that stay in the page
const LONG = 160; // pixels of the page that the scale bar takes at the most

class Plane extends Picture {
  // It is a picture whose upper left corner lies at (-edge, -edge), and of which nothing is sent that is not seen.
  constructor(known) {
    super(`/${seed}`, [2 * known.edge, 2 * known.edge], known.tile);
    Object.assign(this, { edge: known.edge, mpp: known.mpp, top: known.levels, now: new Set() });
  }

  range() { return [2 ** -this.top, 8]; }

  home() { return [1, this.edge, this.edge]; }

  tile(level, row, column, ask = true) {
    const name = `${level}/${row}/${column}`;
    if (ask) this.now.add(name);
    const image = super.tile(level, row, column, ask);
    if (image) { // the newest come last
      this.tiles.delete(name);
      this.tiles.set(name, image);
    }
    return image;
  }

  drawn(view) {
    // What is no longer seen need not be grown, and what was seen long ago need not stay.
    for (const [name, image] of this.tiles) {
      if (this.now.has(name)) continue;
      const late = !image.complete || !image.naturalWidth;
      if (late) Object.assign(image, { onload: null, onerror: null, src: "" });
      if (late || this.tiles.size > MOST) this.tiles.delete(name);
    }
    const waits = [...this.now].filter((name) => !this.tiles.get(name).naturalWidth).length;
    this.now.clear();
    byId("waits").hidden = !waits;
    byId("waits").textContent = `growing ${waits} tile${waits === 1 ? "" : "s"}`;
    told(view);
  }
}

// Places.

const view = new View(byId("canvas"));
let written = 0;

function place() {
  // What the address says, or the middle of the plane at its full size.
  const said = new URLSearchParams(location.hash.slice(1));
  const number = (name, usual) => (said.has(name) && Number.isFinite(+said.get(name)) ? +said.get(name) : usual);
  return [number("zoom", 1), number("x", 0), number("y", 0)];
}

function go(scale, x, y) { view.put(scale, x + view.picture.edge, y + view.picture.edge); }

function told({ picture, scale, x: across, y: down }) {
  // The place, in the address too, where browsers bear no more than a few changes a second; and how long a length is.
  const [y, x] = [down, across].map((n) => Math.round(n - picture.edge));
  for (const [name, value] of Object.entries({ y, x, seed })) {
    if (document.activeElement !== byId(name)) byId(name).value = value;
  }
  clearTimeout(written);
  written = setTimeout(() => {
    history.replaceState(null, "", `#y=${y}&x=${x}&zoom=${+scale.toPrecision(4)}`);
  }, 150);
  const unit = picture.mpp.length ? picture.mpp[1] : 1; // micrometres, or pixels
  const most = LONG * unit / scale;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * [5, 2, 1].find((n) => n * power <= most);
  byId("bar").style.width = `${length / unit * scale}px`;
  const words = (n, name) => `${+n.toPrecision(3)} ${name}`;
  byId("length").textContent = !picture.mpp.length ? words(length, "px")
    : length >= 1000 ? words(length / 1000, "mm") : words(length, "\u00b5m");
}

// Hands.

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const acts = {
    "+": () => view.zoom(1.5),
    "=": () => view.zoom(1.5),
    "-": () => view.zoom(1 / 1.5),
    0: () => view.put(1, view.x, view.y),
    ArrowLeft: () => view.move(STEP, 0),
    ArrowRight: () => view.move(-STEP, 0),
    ArrowUp: () => view.move(0, STEP),
    ArrowDown: () => view.move(0, -STEP),
  };
  if (!(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
}

async function start() {
  try {
    const response = await fetch("/plane");
    view.show(new Plane(await response.json()), () => {});
  } catch {
    say("The server does not answer. Load this page again once it does.", 0);
    return;
  }
  go(...place());
  addEventListener("hashchange", () => go(...place()));
  document.addEventListener("keydown", keys);
  byId("place").addEventListener("submit", (event) => {
    event.preventDefault();
    const [y, x] = ["y", "x"].map((name) => +byId(name).value);
    if (byId("seed").value === seed) go(view.scale, x, y);
    else location.assign(`/${+byId("seed").value}#y=${y}&x=${x}&zoom=${view.scale}`);
    document.activeElement.blur();
  });
  byId("other").addEventListener("click", () => {
    location.assign(`/${crypto.getRandomValues(new Uint16Array(1))[0]}${location.hash}`);
  });
  const acts = { in: () => view.zoom(1.5), out: () => view.zoom(1 / 1.5), all: () => view.put(1, view.x, view.y) };
  for (const button of document.querySelectorAll(".zoom button")) {
    button.addEventListener("click", acts[button.dataset.zoom]);
  }
}

start();
