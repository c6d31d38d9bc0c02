// What pages show of pictures larger than a screen: tiles of a pyramid on a canvas, by mouse, fingers and keys.
"use strict";

const byId = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const STEP = 60; // pixels of the page that an arrow moves a picture

let said = 0;
function say(words, seconds = 6) {
  clearTimeout(said);
  byId("note").textContent = words;
  byId("note").hidden = !words;
  if (words && seconds) said = setTimeout(() => say(""), 1000 * seconds);
}

// Pictures.

class Picture {
  // A picture of size [height, width] below an address: tiles as they come, level 0 the full size.
  constructor(address, size, side) {
    Object.assign(this, { address, size, side, tiles: new Map(), top: 0, gone: false });
    while (Math.max(...size) > side * 2 ** this.top) this.top += 1;
    this.changed = () => {};
  }

  // Of pixels of the page a pixel: the least, where all of it fits the sides of a view at that scale, and the most.
  range(fit) { return [fit, Math.max(8, 4 * fit)]; }

  // Where a view begins: scale, x, y.
  home(fit) { return [fit, this.size[1] / 2, this.size[0] / 2]; }

  // A view has drawn all that it shows.
  drawn() {}

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
    this.put(...this.picture.home(this.fit));
  }

  put(scale, x, y) {
    if (!this.picture) return;
    this.scale = clamp(scale, ...this.picture.range(this.fit));
    this.whole = this.scale <= this.fit;
    const inside = (value, n, side) => (n * this.scale <= side ? n / 2
      : clamp(value, side / 2 / this.scale, n - side / 2 / this.scale));
    this.x = inside(x, this.picture.size[1], this.sides[0]);
    this.y = inside(y, this.picture.size[0], this.sides[1]);
    this.draw();
  }

  zoom(factor, [left, top] = this.sides.map((side) => side / 2)) {
    if (!this.picture) return;
    const scale = clamp(this.scale * factor, ...this.picture.range(this.fit));
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
    const [left, right] = [0, picture.size[1]].map((x) => clamp(across(x), 0, width)); // a canvas counts no further
    const [above, below] = [0, picture.size[0]].map((y) => clamp(down(y), 0, height));
    context.rect(left, above, right - left, below - above);
    context.clip();
    context.imageSmoothingEnabled = scale < 3; // closer than that, pixels are seen as they are
    context.imageSmoothingQuality = "high";
    const wanted = this.level(this.scale);
    for (let level = picture.top; level >= wanted; level -= 1) {
      const [n, step] = [2 ** level, picture.side * 2 ** level];
      const far = ([row, column]) => Math.hypot((row + 0.5) * step - this.y, (column + 0.5) * step - this.x);
      for (const [row, column] of [...this.seen(level)].sort((a, b) => far(a) - far(b))) { // the middle first
        const image = picture.tile(level, row, column, level === wanted);
        if (!image) continue;
        const [x, y] = [across(column * step), down(row * step)];
        const end = [across(column * step + image.naturalWidth * n), down(row * step + image.naturalHeight * n)];
        context.drawImage(image, x, y, end[0] - x, end[1] - y);
      }
    }
    context.restore();
    picture.drawn(this);
  }
}
