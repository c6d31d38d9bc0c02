// The page: a picture that grows on a canvas, is damaged by mouse, finger or key, and regrows.

const byId = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const page = JSON.parse(byId("rule").textContent);
const rule = new Rule(page.rule, parameters(page.weights));
const canvas = byId("canvas");
const ENGINES = { webgl2: WebGL2, cpu: Plain };
const BUDGET = 12; // milliseconds of a frame that are computed in
const LARGEST = 512; // pixels a side
const [growth, engine] = [{ now: null, run: 0, paused: false }, { now: null, kind: "" }];
const brush = { x: 0, y: 0, down: false }; // in pixels of the picture

const frame = () => new Promise(requestAnimationFrame);

function note(words) {
  byId("note").textContent = words;
  byId("note").hidden = !words;
}

// What the address says: a seed, and a size in pixels where it is not the page's own.

function said() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const seed = /^\d+$/.test(hash.get("seed") || "") ? Math.min(+hash.get("seed"), 2 ** 32 - 1) : page.seed;
  const size = (hash.get("size") || "").split("x").map(Number);
  const fits = size.length === 2 && size.every((n) => n >= 2 * page.block && n <= LARGEST && n % page.block === 0);
  return { seed, size: fits ? size : page.size };
}

function ask(seed, size) {
  const plain = `${size}` === `${page.size}`;
  const hash = `#seed=${seed}${plain ? "" : `&size=${size.join("x")}`}`;
  if (location.hash === hash) grow();
  else location.hash = hash; // which grows it
}

// Time.

async function computed(steps, alive) {
  // Runs a generator to its end, a little in every frame; true out of it waits for the next. Null where it is called off.
  let until = performance.now() + BUDGET;
  for (;;) {
    const { done, value } = steps.next();
    if (done) return { value };
    if (value || performance.now() > until) {
      await frame();
      if (!alive()) return null;
      until = performance.now() + BUDGET;
    }
  }
}

function engineOf(size) {
  // The engine that is chosen, or where there is none such the other one.
  const kind = document.querySelector("[name=engine]:checked").value;
  if (engine.now && engine.kind === kind && `${engine.now.size}` === `${size}`) return engine.now;
  if (engine.now) engine.now.end();
  engine.kind = kind;
  try {
    engine.now = new ENGINES[kind](rule, size);
  } catch (error) {
    lost(error);
    engine.now = new Plain(rule, size);
  }
  return engine.now;
}

function lost(error) {
  console.warn(error.message);
  note("WebGL2 does not serve here; the processor does, which takes longer.");
  document.querySelector("[name=engine][value=cpu]").checked = true;
  document.querySelector("[name=engine][value=webgl2]").disabled = true;
  engine.kind = "cpu";
  setTimeout(() => note(""), 6000);
}

async function go(picture) {
  // The calls that are left, one after the other, as long as no other picture is asked for.
  growth.run += 1;
  const [run, first, begun] = [growth.run, picture.call, performance.now()];
  const alive = () => run === growth.run;
  growth.paused = false;
  show(picture, first);
  await frame(); // the page is seen before anything is computed
  while (alive() && !picture.done) {
    if (growth.paused) {
      await frame();
      continue;
    }
    const used = engineOf(picture.size);
    try {
      if (!await computed(picture.step(used), alive)) return;
    } catch (error) {
      if (used instanceof Plain) throw error;
      lost(error);
      engine.now = new Plain(rule, picture.size);
      continue;
    }
    show(picture, first, `${((performance.now() - begun) / 1000).toFixed(1)} s, ${used.name}`);
  }
}

function grow() {
  const { seed, size } = said();
  byId("seed").value = seed;
  listed(size);
  growth.now = new Growth(page, seed, size.map((n) => n / page.block));
  canvas.setAttribute("aria-label", `The picture of seed ${seed}. Arrow keys move the brush, space damages.`);
  [canvas.width, canvas.height] = [size[1], size[0]];
  go(growth.now);
}

function regrow() {
  const picture = growth.now;
  if (!picture.done || !picture.marks.includes(1)) return;
  picture.regrow(+byId("noise").value);
  go(picture);
}

function pause() {
  if (growth.now.done) return;
  growth.paused = !growth.paused;
  show(growth.now);
}

// What is seen.

function show(picture, first = 0, words = "") {
  canvas.getContext("2d").putImageData(picture.pixels(), 0, 0);
  const all = page.calls.length;
  byId("progress").value = picture.done ? 1 : (picture.call - first) / (all - first);
  const hurt = picture.marks.includes(1);
  const what = growth.paused ? "paused" : picture.hole ? "regrowing" : "growing";
  const at = !picture.done ? `${what}, call ${picture.call + 1} of ${all}` : hurt ? "damaged" : "grown";
  byId("status").textContent = [at, words].filter(Boolean).join(" \u00b7 ");
  byId("regrow").disabled = !picture.done || !hurt;
  byId("pause").disabled = picture.done;
  byId("pause").textContent = growth.paused ? "Go on" : "Pause";
}

function listed(size) {
  // The sizes to choose from: the page's own, larger ones, and what the address says.
  const sizes = [1, 2, 4].map((k) => page.size.map((n) => k * n)).filter((sides) => Math.max(...sides) <= LARGEST);
  if (!sizes.some((sides) => `${sides}` === `${size}`)) sizes.push(size);
  byId("size").replaceChildren(...sizes.map((sides) => {
    const words = `${sides[0]} \u00d7 ${sides[1]}`;
    return new Option(words, sides.join("x"), false, `${sides}` === `${size}`);
  }));
}

// Hands.

const radius = () => +byId("radius").value * Math.max(canvas.width, canvas.height) / 96; // in pixels of the picture

function place() {
  // The ring that shows what the brush takes.
  const scale = canvas.clientWidth / canvas.width;
  const [left, top, wide] = [brush.x, brush.y, 2 * radius()].map((n) => `${n * scale}px`);
  Object.assign(byId("brush").style, { left, top, width: wide, height: wide });
}

function damage() {
  const picture = growth.now;
  const cell = (n) => n / page.block - 0.5;
  picture.damage(cell(brush.y), cell(brush.x), Math.max(radius() / page.block, 0.5));
  show(picture);
}

function stroke(event) {
  // All the way from where the brush was: fast hands leave no gaps.
  const box = canvas.getBoundingClientRect();
  const to = [event.clientX - box.left, event.clientY - box.top].map((n) => n * canvas.width / box.width);
  const from = [brush.x, brush.y];
  const far = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const n = brush.down ? Math.max(1, Math.ceil(far / Math.max(radius(), 1))) : 1;
  for (let i = 1; i <= n; i += 1) {
    [brush.x, brush.y] = to.map((v, axis) => from[axis] + (v - from[axis]) * i / n);
    if (brush.down) damage();
  }
  byId("brush").hidden = false;
  place();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  stroke(event);
  brush.down = true;
  damage();
});
canvas.addEventListener("pointermove", stroke);
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    brush.down = false;
    byId("brush").hidden = event.pointerType !== "mouse";
  });
}
canvas.addEventListener("pointerleave", () => { byId("brush").hidden = !brush.down; });
canvas.addEventListener("focus", () => {
  if (!canvas.matches(":focus-visible")) return;
  if (!brush.x && !brush.y) [brush.x, brush.y] = [canvas.width / 2, canvas.height / 2];
  byId("brush").hidden = false;
  place();
});
canvas.addEventListener("blur", () => { byId("brush").hidden = true; });
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = Math.max(radius() / 2, page.block);
  if (event.key in moves) {
    const [x, y] = moves[event.key];
    brush.x = clamp(brush.x + x * step, 0, canvas.width);
    brush.y = clamp(brush.y + y * step, 0, canvas.height);
    byId("brush").hidden = false;
    place();
  } else if (event.key === " ") damage();
  else return;
  event.preventDefault();
});

function other() { ask(crypto.getRandomValues(new Uint16Array(1))[0], said().size); }

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number], select")) return;
  const acts = { g: grow, n: other, p: pause, r: regrow };
  if (event.key in acts) acts[event.key]();
});

function start() {
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(+byId("seed").value, byId("size").value.split("x").map(Number));
  });
  byId("size").addEventListener("change", () => byId("controls").requestSubmit());
  byId("other").addEventListener("click", other);
  byId("pause").addEventListener("click", pause);
  byId("regrow").addEventListener("click", regrow);
  byId("radius").addEventListener("input", place);
  const much = () => { byId("much").value = `${Math.round(100 * byId("noise").value)} % noise`; };
  byId("noise").addEventListener("input", much);
  much();
  document.querySelector(`[name=engine][value=${WebGL2.fast ? "webgl2" : "cpu"}]`).checked = true;
  for (const choice of document.querySelectorAll("[name=engine]")) choice.addEventListener("change", grow);
  addEventListener("hashchange", grow);
  addEventListener("resize", place);
  grow();
}

start();
