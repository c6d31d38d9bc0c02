// The page of a reader study, after viewer.js. It knows how large pictures are, how many pairs, and nothing else.

const token = (location.pathname.match(/^\/r\/([\w-]+)$/) || [])[1];
const LEAST = 250; // milliseconds in which nobody has looked at a pair: a key that was pressed twice
const LONGEST = 24 * 60 * 60 * 1000; // of an answer, as the server takes it

const memory = {
  // What outlives the page; some browsers forbid it.
  get: (name) => { try { return JSON.parse(localStorage.getItem(name)); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(name, JSON.stringify(value)); } catch { /* then it does not */ } },
  drop: (name) => { try { localStorage.removeItem(name); } catch { /* nothing was there */ } },
};
const pending = `answer of ${token}`;
const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Pairs.

const views = [];
let [pair, open, clock, ahead] = [0, false, 0, null];

const both = (number, state) => [1, 2].map((place) =>
  new Picture(`/r/${token}/${number}/${place}`, state.size, state.tile));
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
