// An automaton that denoises, with the numbers of the package: the same noise, the same cells that fire, the same steps
// of sampling. An engine computes its calls: rule_cpu.js, rule_webgl2.js. A key is two words of 32 bits.
"use strict";

const [INITIAL, SAMPLED, KNOWN, BACK] = [2 ** 31 - 1, -1, -3, -4]; // names of noise, as in nca_gen/diffusion
const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

function threefry(k0, k1, c0, c1) {
  // Threefry-2x32 with 20 rounds (Salmon et al., SC 2011), as nca_gen.arrays.threefry; called for every cell.
  let a = k1;
  let b = k0 ^ k1 ^ 0x1BD11BDA;
  let c = k0;
  let x0 = (c0 + k0) | 0;
  let x1 = (c1 + k1) | 0;
  for (let i = 1; i <= 5; i += 1) {
    for (let j = i % 2 ? 0 : 4, end = j + 4; j < end; j += 1) {
      x0 = (x0 + x1) | 0;
      x1 = ((x1 << ROTATIONS[j]) | (x1 >>> (32 - ROTATIONS[j]))) ^ x0;
    }
    x0 = (x0 + a) | 0;
    x1 = (x1 + b + i) | 0;
    const first = a;
    a = b;
    b = c;
    c = first;
  }
  return [x0, x1];
}

function fold(key, data) { return threefry(key[0], key[1], 0, data | 0); }

function sampleKey(seed, number) { return fold([0, seed | 0], number); } // nca_gen.arrays.keys

function cellKey(key, step, channel) { return threefry(key[0], key[1], step, channel); } // then (y, x) are hashed

function uniform(key, y, x) { return (threefry(key[0], key[1], y, x)[0] >>> 8) * 2 ** -24; }

const TURN = Math.fround(2 ** -24 * 2 * Math.PI);

function gauss(key, y, x) {
  // Box-Muller on the two words of a cell, rounded where float32 rounds what is not small: nca_gen.arrays.cell_normal.
  const [b0, b1] = threefry(key[0], key[1], y, x);
  const radius = Math.sqrt(-2 * Math.log(Math.fround((b0 >>> 8) + 0.5) * 2 ** -24));
  return radius * Math.cos(Math.fround((b1 >>> 8) * TURN));
}

function* normal(key, step, [height, width], channels) {
  // Standard normal noise [cells, channels]; like all that takes its time, it yields where a pause may be made.
  const [keys, field] = [[], new Float32Array(height * width * channels)];
  for (let c = 0; c < channels; c += 1) keys.push(cellKey(key, step, c));
  let at = 0;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) for (const k of keys) field[at++] = gauss(k, y, x);
    yield false;
  }
  return field;
}

function finished(steps) {
  // What a generator returns in the end, without a pause.
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

// Weights.

function half(bits) {
  const [sign, power, digits] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  return sign * (power ? (1 + digits / 1024) * 2 ** (power - 15) : digits * 2 ** -24);
}

function parameters({ arrays, dtype, base64 }) {
  // Arrays by name, {shape, values}, of the bytes of all of them.
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const all = dtype === "float16" ? Float64Array.from(new Uint16Array(bytes.buffer), half)
    : Float64Array.from(new Float32Array(bytes.buffer));
  let start = 0;
  return Object.fromEntries(Object.entries(arrays).map(([name, shape]) => {
    const size = shape.reduce((a, b) => a * b, 1);
    start += size;
    return [name, { shape, values: all.subarray(start - size, start) }];
  }));
}

function linear(arrays, name) {
  // The affine map that weight normalisation stands for: w = g v / |v| (nca_gen/nn/weight_norm.py).
  const [{ shape, values: v }, g, bias] = ["v", "g", "bias"].map((part) => arrays[`${name}.${part}`]);
  const n = shape[shape.length - 1];
  const scale = new Float64Array(n);
  v.forEach((w, i) => { scale[i % n] += w * w; });
  scale.forEach((square, i) => { scale[i] = g.values[i] / Math.sqrt(square); });
  return { n, kernel: v.map((w, i) => w * scale[i % n]), bias: bias.values };
}

function affine(x, { n, kernel, bias }) {
  return bias.map((b, o) => x.reduce((sum, value, i) => sum + value * kernel[i * n + o], b));
}

function mlp(x, [first, last]) { return affine(affine(x, first).map((y) => y / (1 + Math.exp(-y))), last); }

class Rule {
  // One step of the cells. What is constant over space is folded into kernels, as nca_gen.nn.fast.gated does.
  constructor(facts, arrays) {
    Object.assign(this, facts); // channels, hidden, image, rate, border, local, features, timesteps, slope, eps
    const layer = (name) => linear(arrays, `image.${name}`);
    this.embedding = [layer("embedding_0"), layer("embedding_1")];
    this.gates = ["gate0", "gate1"].map((name) => [layer(`${name}_0`), layer(`${name}_1`)]);
    [this.fc0, this.fc1] = [layer("fc0"), layer("fc1")];
    const perceive = layer("perceive");
    const [c, k] = [facts.channels, facts.features.length];
    this.taps = new Float64Array(9 * c * c); // of the cells, [9, c, c]
    this.around = { n: c, kernel: new Float64Array(k * c), bias: perceive.bias }; // of the embedding, all taps
    for (let tap = 0; tap < 9; tap += 1) {
      for (let i = 0; i < c + k; i += 1) {
        for (let o = 0; o < c; o += 1) {
          const w = perceive.kernel[(tap * (c + k) + i) * c + o];
          if (i < c) this.taps[(tap * c + i) * c + o] = w;
          else this.around.kernel[(i - c) * c + o] += w;
        }
      }
    }
    this.norm = ["scale", "shift"].map((part, i) => (facts.local ? new Float64Array(facts.hidden).fill(1 - i)
      : arrays[`image.norm_${part}`].values));
  }

  at(told, age) {
    // The products of a step, told = t and s = age: {fc0: [2 c, h], bias: [h], fc1: [h, c]}; fc1 writes no image.
    const { channels: c, hidden: h, image, features } = this;
    const e = mlp([told / this.timesteps, age].flatMap((v, i) => features[i].map((w) => v * w)), this.embedding);
    const k = e.length;
    const [gate0, gate1] = this.gates.map((layers) => mlp(e, layers));
    const z = [...new Float64Array(c), ...e, ...affine(e, this.around)]; // of which the cells' part is still to come
    const bias = affine(z.map((value, i) => value * gate0[i]), this.fc0);
    const fc0 = new Float64Array(2 * c * h);
    for (let i = 0; i < 2 * c; i += 1) {
      const row = i < c ? i : i + k;
      for (let o = 0; o < h; o += 1) fc0[i * h + o] = gate0[row] * this.fc0.kernel[row * h + o];
    }
    const writes = (i) => (i % c >= image ? 1 : 0);
    const fc1 = this.fc1.kernel.map((w, i) => writes(i) * gate1[Math.floor(i / c)] * w);
    return { fc0, bias, fc1, last: this.fc1.bias.map((b, i) => writes(i) * b) };
  }
}

function beyond(i, n, border) {
  // The cell that is seen at i, up to one beyond the edge.
  if (border === "wrap") return (i + n) % n;
  return n === 1 ? 0 : i < 0 ? -i : i >= n ? 2 * n - 2 - i : i;
}

// Sampling.

class Growth {
  // Cells on their way from noise to a picture, call by call. `x` [cells, channels] is what is to be seen.
  constructor(page, seed, size) {
    Object.assign(this, { page, seed, size, number: 0, marks: new Uint8Array(size[0] * size[1]), hole: null });
    this.begin(0, 1);
  }

  get channels() { return this.page.rule.image; }

  get done() { return this.call === this.page.calls.length; }

  // The noise that is left in x.
  get level() { return this.done ? 0 : this.page.calls[this.call].s; }

  begin(call, noise) {
    // At a call: from noise alone, or from x with noise of that level.
    const { a, s } = this.page.calls[call];
    Object.assign(this, { call, key: sampleKey(this.seed, this.number), before: null, fresh: new Set() });
    const eps = finished(normal(fold(this.key, INITIAL), SAMPLED, this.size, this.channels));
    if (!this.hole) this.x = eps;
    else this.each((i) => { this.x[i] = noise < 1 ? a * this.x[i] + s * eps[i] : eps[i]; });
  }

  each(act) {
    // Every number of the cells that are denoised: those of the hole, or all.
    const D = this.channels;
    for (let i = 0; i < this.x.length; i += 1) if (!this.hole || this.hole[Math.floor(i / D)]) act(i);
  }

  regrow(noise) {
    // The marked cells get this part of the noise, and are denoised in sight of all others, which stay as they are:
    // nca_gen.pipelines.inpaint.fill of the next key of the seed.
    const above = this.page.calls.filter(({ share }) => share >= noise).length;
    this.hole = this.marks;
    this.number += 1;
    this.begin(Math.min(above, this.page.calls.length - 1), noise);
  }

  damage(row, column, radius) {
    // The cells around (row, column) lose what they were: noise of the present level is all that is left.
    const [height, width] = this.size;
    for (let y = Math.max(0, Math.ceil(row - radius)); y <= Math.min(height - 1, row + radius); y += 1) {
      for (let x = Math.max(0, Math.ceil(column - radius)); x <= Math.min(width - 1, column + radius); x += 1) {
        if (Math.hypot(y - row, x - column) > radius) continue;
        this.marks[y * width + x] = 1;
        this.fresh.add(y * width + x);
        this.wipe(y * width + x);
      }
    }
    this.before = null; // what a multistep solver knows of the call before is of other cells
  }

  wipe(cell) {
    const [D, width, key] = [this.channels, this.size[1], fold(this.key, this.call)];
    for (let d = 0; d < D; d += 1) {
      const at = [Math.floor(cell / width), cell % width];
      this.x[cell * D + d] = this.level ? this.level * gauss(cellKey(key, BACK, d), ...at) : 0;
    }
  }

  *shown(row, key) {
    // What the cells see: themselves, and around a hole the known ones, as noisy as they are.
    const x = this.x.slice();
    if (!this.hole) return x;
    const eps = yield* normal(key, KNOWN, this.size, this.channels);
    const D = this.channels;
    return x.map((v, i) => (this.hole[Math.floor(i / D)] ? v : row.a * v + row.s * eps[i]));
  }

  *step(engine) {
    // One call. Yields as the engine does.
    const row = this.page.calls[this.call];
    const key = fold(this.key, row.tag);
    this.fresh.clear();
    const { out, young } = yield* engine.call(yield* this.shown(row, key), row, key);
    const [p, q] = row.x0;
    const x0 = this.x.map((v, i) => p * (out[i] + (young ? row.away * (out[i] - young[i]) : 0)) + q * v);
    this.clip(x0);
    const [own, now, then, noise] = row.update;
    const eps = noise ? yield* normal(key, SAMPLED, this.size, this.channels) : null;
    const before = this.before || x0;
    this.each((i) => {
      this.x[i] = own * this.x[i] + now * x0[i] + then * before[i] + (noise ? noise * eps[i] : 0);
    });
    this.call += 1;
    this.before = this.fresh.size ? null : x0;
    this.fresh.forEach((cell) => this.wipe(cell)); // while the call was on its way
    if (this.done) {
      this.marks.fill(0);
      this.hole = null;
      this.fresh.forEach((cell) => { this.marks[cell] = 1; });
    }
  }

  clip(x0) {
    // The image of x0 to its range: nca_gen/diffusion/guidance.py.
    const { clip, mean, std } = this.page;
    if (clip === "none") return;
    const colour = (i, list) => list[i % list.length];
    let limit = 1;
    if (clip === "dynamic") {
      const sizes = [];
      this.each((i) => sizes.push(Math.abs(x0[i] * colour(i, std) + colour(i, mean))));
      const sorted = Float32Array.from(sizes).sort();
      const at = 0.95 * (sorted.length - 1);
      const low = sorted[Math.floor(at)];
      limit = Math.max(1, low + (at % 1) * (sorted[Math.min(Math.floor(at) + 1, sorted.length - 1)] - low));
    }
    this.each((i) => {
      const value = x0[i] * colour(i, std) + colour(i, mean);
      x0[i] = (Math.min(Math.max(value, -limit), limit) / limit - colour(i, mean)) / colour(i, std);
    });
  }

  pixels() {
    // RGBA of the picture, [height, width] of whole cells: blocks of pixels are the channels of a cell.
    const { page: { block, mean, std }, size: [height, width], channels: D } = this;
    const C = D / block ** 2;
    const image = new ImageData(width * block, height * block);
    for (let y = 0; y < image.height; y += 1) {
      for (let x = 0; x < image.width; x += 1) {
        const cell = Math.floor(y / block) * width + Math.floor(x / block);
        const from = cell * D + ((y % block) * block + (x % block)) * C;
        for (let c = 0; c < 4; c += 1) {
          const k = C === 3 ? c : 0;
          const value = this.x[from + k] * std[k % std.length] + mean[k % mean.length];
          image.data[4 * (y * image.width + x) + c] = c === 3 ? 255 : (value + 1) * 128;
        }
      }
    }
    return image;
  }
}
