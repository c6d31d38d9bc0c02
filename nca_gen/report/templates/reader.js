// The page of a reader study. It knows how large pictures are, how many pairs there are, and nothing else.
"use strict";

const byId = (id) => document.getElementById(id);
const token = (location.pathname.match(/^\/r\/([\w-]+)$/) || [])[1];
const LEAST = 250; // milliseconds in which nobody has looked at a pair: a key that was pressed twice
const LONGEST = 24 * 60 * 60 * 1000; // of an answer, as the server takes it
const STEP = 60; // pixels that an arrow moves a picture

const memory = {
  // What outlives the page; some browsers forbid it.
  get: (name) => { try { return JSON.parse(localStorage.getItem(name)); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* then it does not */ } },
  drop: (name) => { try { localStorage.removeItem(name); } catch { /* nothing was there */ } },
};
const pending = `answer of ${token}`;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

let said = 0;
function say(words, seconds = 6) {
  clearTimeout(said);
  byId("note").textContent = words;
  byId("note").hidden = !words;
  if (words && seconds) said = setTimeout(() => say(""), 1000 * seconds);
}

// Pictures.

class Picture {
  // One picture of a pair, of size [height, width]: tiles as they come, level 0 the full size.
  constructor(pair, place, size, side) {
    Object.assign(this, { address: `/r/${token}/${pair}/${place}`, size, side, tiles: new Map(), top: 0, gone: false });
    while (Math.max(...size) > side * 2 ** this.top) this.top += 1;
    this.changed = () => {};
  }

  tile(level, row, column, ask = true) {
    // The image of a tile once it has come, else null; it is sent for where we ask for it.
    const name = `${level}/${row}/${column}`;
    if (!this.tiles.has(name) && ask) {
      const image = new Image();
      image.onload = () => this.changed();
      image.onerror = () => setTimeout(() => { if (!this.gone) image.src = `${this.address}/${name}`; }, 1000);
      image.src = `${this.address}/${name}`;
      this.tiles.set(name, image);
    }
    const image = this.tiles.get(name);
    return image && image.complete && image.naturalWidth ? image : null;
  }

  close() {
    this.gone = true;
    this.changed = () => {};
  }
}

class View {
  // A canvas that shows a picture: (x, y) of it in the middle, at so many pixels of the page (scale) a pixel.
  constructor(canvas) {
    Object.assign(this, { canvas, picture: null, scale: 1, x: 0, y: 0, whole: true, frame: 0, fingers: new Map() });
    new ResizeObserver(() => (this.whole ? this.all() : this.put(this.scale, this.x, this.y))).observe(canvas);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(2 ** (-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.at(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, this.at(event)));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, this.at(event));
    });
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    }
  }

  get sides() { return [this.canvas.clientWidth, this.canvas.clientHeight]; }

  get fit() { return Math.min(this.sides[0] / this.picture.size[1], this.sides[1] / this.picture.size[0]); }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  show(picture, changed) {
    if (this.picture) this.picture.close();
    this.picture = picture;
    picture.changed = () => { this.draw(); changed(); };
    this.all();
  }

  all() {
    if (!this.picture) return;
    this.put(this.fit, this.picture.size[1] / 2, this.picture.size[0] / 2);
  }

  put(scale, x, y) {
    if (!this.picture) return;
    const fit = this.fit;
    this.scale = clamp(scale, fit, Math.max(8, 4 * fit));
    this.whole = this.scale <= fit;
    const inside = (value, n, side) => (n * this.scale <= side ? n / 2
      : clamp(value, side / 2 / this.scale, n - side / 2 / this.scale));
    this.x = inside(x, this.picture.size[1], this.sides[0]);
    this.y = inside(y, this.picture.size[0], this.sides[1]);
    this.draw();
  }

  zoom(factor, [left, top] = this.sides.map((side) => side / 2)) {
    if (!this.picture) return;
    const scale = clamp(this.scale * factor, this.fit, Math.max(8, 4 * this.fit));
    const [x, y] = [left, top].map((n, i) => (n - this.sides[i] / 2) * (1 / this.scale - 1 / scale));
    this.put(scale, this.x + x, this.y + y);
  }

  move(right, down) { this.put(this.scale, this.x - right / this.scale, this.y - down / this.scale); }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const [now, others] = [this.at(event), [...this.fingers].filter(([id]) => id !== event.pointerId)];
    if (others.length) {
      // Of two fingers, the one that rests is the middle of the turn.
      const [[, rest]] = others;
      const far = ([a, b]) => Math.max(1, Math.hypot(a - rest[0], b - rest[1]));
      this.zoom(far(now) / far(before), rest);
    } else this.move(now[0] - before[0], now[1] - before[1]);
    this.fingers.set(event.pointerId, now);
  }

  level(scale) { return clamp(Math.floor(Math.log2(1 / (scale * devicePixelRatio))), 0, this.picture.top); }

  *seen(level, scale = this.scale, x = this.x, y = this.y) {
    // Rows and columns of the tiles of a level that lie in the canvas.
    const { size: [height, width], side } = this.picture;
    const step = side * 2 ** level;
    const range = (middle, pixels, n) => [(middle - pixels / 2 / scale) / step, (middle + pixels / 2 / scale) / step]
      .map((edge, last) => clamp(last ? Math.ceil(edge) : Math.floor(edge), 0, Math.ceil(n / step)));
    const [columns, rows] = [range(x, this.sides[0], width), range(y, this.sides[1], height)];
    for (let row = rows[0]; row < rows[1]; row += 1) {
      for (let column = columns[0]; column < columns[1]; column += 1) yield [row, column];
    }
  }

  send(picture) {
    // Sends for what is seen first of a picture of this size. Returns whether all of it has come.
    const level = this.level(this.fit);
    const places = [...this.seen(level, this.fit, picture.size[1] / 2, picture.size[0] / 2)];
    return places.map(([row, column]) => picture.tile(level, row, column)).every(Boolean);
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { canvas, picture } = this;
    const scale = this.scale * devicePixelRatio;
    const [width, height] = this.sides.map((side) => Math.round(side * devicePixelRatio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const across = (x) => Math.round(width / 2 + (x - this.x) * scale);
    const down = (y) => Math.round(height / 2 + (y - this.y) * scale);
    context.clearRect(0, 0, width, height);
    context.save();
    context.beginPath();
    context.rect(across(0), down(0), across(picture.size[1]) - across(0), down(picture.size[0]) - down(0));
    context.clip();
    context.imageSmoothingEnabled = scale < 3; // closer than that, pixels are seen as they are
    context.imageSmoothingQuality = "high";
    const wanted = this.level(this.scale);
    for (let level = picture.top; level >= wanted; level -= 1) {
      for (const [row, column] of this.seen(level)) {
        const image = picture.tile(level, row, column, level === wanted);
        if (!image) continue;
        const [n, step] = [2 ** level, picture.side * 2 ** level];
        const [left, top] = [across(column * step), down(row * step)];
        const right = across(column * step + image.naturalWidth * n);
        context.drawImage(image, left, top, right - left, down(row * step + image.naturalHeight * n) - top);
      }
    }
    context.restore();
  }
}

// Pairs.

const views = [];
let [pair, open, clock, ahead] = [0, false, 0, null];

const both = (number, state) => [1, 2].map((place) => new Picture(number, place, state.size, state.tile));
const wait = (waits) => {
  for (const view of views) view.canvas.classList.toggle("wait", waits);
  for (const place of [1, 2]) byId(`choose${place}`).disabled = waits;
};

function section(name) {
  for (const other of ["begin", "trial", "end"]) byId(other).hidden = other !== name;
}

function show(state) {
  if (state.done >= state.pairs) {
    byId("all").textContent = state.pairs;
    memory.drop("reader");
    section("end");
    return;
  }
  section("trial");
  pair = state.done + 1;
  byId("count").textContent = `${pair} of ${state.pairs}`;
  Object.assign(byId("progress"), { value: state.done, max: state.pairs });
  open = false;
  wait(true);
  const pictures = ahead && ahead.pair === pair ? ahead.pictures : both(pair, state);
  // Both are seen at the same moment, or the slower one would be told by it; then the clock starts.
  const ready = () => {
    if (open || !views.map((view) => view.send(view.picture)).every(Boolean)) return;
    open = true;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      wait(false);
      clock = performance.now();
      if (pair < state.pairs) {
        ahead = { pair: pair + 1, pictures: both(pair + 1, state) };
        views.forEach((view, i) => view.send(ahead.pictures[i]));
      }
    }));
  };
  views.forEach((view, i) => view.show(pictures[i], () => { if (views[1 - i].picture === pictures[1 - i]) ready(); }));
  ready();
}

async function choose(choice) {
  const milliseconds = Math.round(performance.now() - clock);
  if (!open || byId("choose1").disabled || milliseconds < LEAST) return;
  open = false;
  for (const place of [1, 2]) byId(`choose${place}`).disabled = true;
  await answer({ pair, choice, milliseconds: Math.min(milliseconds, LONGEST) });
}

async function answer(body) {
  // Kept here until the server says that it is on disk.
  memory.set(pending, body);
  const state = await ask("answers", body);
  memory.drop(pending);
  if (state && !state.stands) say(`Pair ${body.pair} was answered before, in another tab perhaps: that answer stands.`);
  if (state) show(state);
}

async function ask(what, body) {
  // The state of this reader; asked again until the server answers. null, and said, for a link of nobody.
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let pause = 500, late = false; ; pause = Math.min(1.5 * pause, 5000)) {
    try {
      const response = await fetch(`/r/${token}/${what}`, post || undefined);
      if (response.ok) {
        if (late) say("");
        return await response.json();
      }
      if (response.status < 500) {
        if (body) return await ask("state"); // an answer out of turn
        say("This link is not one of this study. Begin at the address that you were given.", 0);
        return null;
      }
    } catch { /* the server is away, or the network */ }
    late = true;
    say(body ? "The server does not answer. Your choice is kept here, and sent as soon as it does." :
      "The server does not answer. This page goes on as soon as it does.", 0);
    await later(pause);
  }
}

// Hands.

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("trial").hidden) return;
  const one = views.filter((view) => view.canvas === document.activeElement);
  const each = (act) => (one.length ? one : views).forEach(act);
  const acts = {
    1: () => { if (!event.repeat) choose(1); },
    2: () => { if (!event.repeat) choose(2); },
    "+": () => each((view) => view.zoom(1.5)),
    "=": () => each((view) => view.zoom(1.5)),
    "-": () => each((view) => view.zoom(1 / 1.5)),
    0: () => each((view) => view.all()),
    ArrowLeft: () => each((view) => view.move(STEP, 0)),
    ArrowRight: () => each((view) => view.move(-STEP, 0)),
    ArrowUp: () => each((view) => view.move(0, STEP)),
    ArrowDown: () => each((view) => view.move(0, -STEP)),
  };
  if (!(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
}

async function enrol(event) {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch("/readers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: byId("name").value }),
    });
    const { token: own } = await response.json();
    memory.set("reader", own);
    location.assign(`/r/${own}`);
  } catch {
    say("The server does not answer. Try again.");
    button.disabled = false;
  }
}

async function start() {
  byId("enrol").addEventListener("submit", enrol);
  if (!token) {
    const own = memory.get("reader");
    if (own) {
      byId("again").hidden = false;
      byId("again").firstElementChild.href = `/r/${own}`;
    }
    section("begin");
    byId("name").focus();
    return;
  }
  for (const place of [1, 2]) {
    views.push(new View(byId(`view${place}`)));
    byId(`choose${place}`).addEventListener("click", () => choose(place));
  }
  for (const box of document.querySelectorAll(".zoom")) {
    const view = views[box.dataset.view];
    const acts = { in: () => view.zoom(1.5), out: () => view.zoom(1 / 1.5), all: () => view.all() };
    for (const button of box.children) button.addEventListener("click", acts[button.dataset.zoom]);
  }
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", async () => {
    if (document.hidden || !open) return;
    const state = await ask("state");
    if (state && open && state.done >= pair) {
      say(`Pair ${pair} was answered in another tab.`);
      show(state);
    }
  });
  const kept = memory.get(pending);
  if (kept) await answer(kept);
  else {
    const state = await ask("state");
    if (state) show(state);
  }
}

start();
