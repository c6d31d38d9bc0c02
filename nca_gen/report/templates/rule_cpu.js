// Calls of a rule on the processor, cell by cell; a pause may be made after every row.

function accumulate(sum, start, x, n, kernel, m) {
  // sum[start + o] += x[i] kernel[i, o], four i at a time: each number of the sum is then fetched a quarter as often.
  let i = 0;
  for (; i + 3 < n; i += 4) {
    const v0 = x[i];
    const v1 = x[i + 1];
    const v2 = x[i + 2];
    const v3 = x[i + 3];
    const a = i * m;
    for (let o = 0; o < m; o += 1) {
      sum[start + o] += v0 * kernel[a + o] + v1 * kernel[a + m + o] + v2 * kernel[a + 2 * m + o]
        + v3 * kernel[a + 3 * m + o];
    }
  }
  for (; i < n; i += 1) for (let o = 0; o < m; o += 1) sum[start + o] += x[i] * kernel[i * m + o];
}

class Plain {
  constructor(rule, size) {
    Object.assign(this, { rule, size, name: "CPU" });
    const [cells, { channels: c, hidden: h }] = [size[0] * size[1], rule];
    this.state = [0, 1].map(() => new Float32Array(cells * c));
    this.y = new Float64Array((rule.local ? 1 : cells) * h); // of a cell, or where a norm is of all cells, of all
    [this.around, this.z, this.u, this.d] = [9 * c, 2 * c, h, c].map((n) => new Float64Array(n)); // of one cell
  }

  *call(x, { told, steps, young }, key) {
    // {out, young} [cells, image] of the noisy image x: what the cells say in the end, and at the age `young`.
    const { rule: { channels: c, image } } = this;
    const said = () => x.map((_, i) => this.state[0][Math.floor(i / image) * c + image + (i % image)]);
    this.state[0].fill(0);
    x.forEach((v, i) => { this.state[0][Math.floor(i / image) * c + (i % image)] = v; });
    let early = null;
    for (let age = 0; age < steps; age += 1) {
      yield* this.step(this.rule.at(told, age / steps), cellKey(key, age, 0));
      if (age + 1 === young) early = said();
    }
    return { out: said(), young: early };
  }

  end() {} // nothing is held

  *step(w, key) {
    const { rule: { channels: c, hidden: h, rate, local }, size: [height, width] } = this;
    const [state, next] = this.state;
    const fires = (y, x) => uniform(key, y, x) < rate;
    const whole = [0, 0];
    next.set(state);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const cell = y * width + x;
        if (local && !fires(y, x)) continue; // nothing of it is asked for
        const start = local ? 0 : cell * h;
        const moments = this.perceive(w, y, x, start);
        if (local) this.speak(w, start, moments, cell * c);
        else moments.forEach((m, i) => { whole[i] += m / (height * width); });
      }
      yield false;
    }
    for (let y = 0; y < height && !local; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if (fires(y, x)) this.speak(w, (y * width + x) * h, whole, (y * width + x) * c);
      }
      yield false;
    }
    this.state = [next, state];
  }

  perceive({ fc0, bias }, row, column, start) {
    // y, from `start` on, of what a cell is and sees; returns the means of y and of y^2.
    const { rule: { channels: c, hidden: h, taps, border }, size: [height, width], state: [state], around, z, y } = this;
    for (let tap = 0; tap < 9; tap += 1) {
      const r = beyond(row + Math.floor(tap / 3) - 1, height, border);
      const there = (r * width + beyond(column + (tap % 3) - 1, width, border)) * c;
      for (let i = 0; i < c; i += 1) around[tap * c + i] = state[there + i];
    }
    z.fill(0);
    for (let i = 0; i < c; i += 1) z[i] = around[4 * c + i];
    accumulate(z, c, around, 9 * c, taps, c);
    for (let o = 0; o < h; o += 1) y[start + o] = bias[o];
    accumulate(y, start, z, 2 * c, fc0, h);
    let mean = 0;
    let square = 0;
    for (let o = start; o < start + h; o += 1) {
      mean += y[o] / h;
      square += y[o] * y[o] / h;
    }
    return [mean, square];
  }

  speak({ fc1, last }, start, [mean, square], to) {
    // The change of a cell that fires.
    const { rule: { channels: c, hidden: h, norm: [scale, shift], eps, slope }, state: [, next], y, u, d } = this;
    const rate = 1 / Math.sqrt(Math.max(square - mean ** 2, 0) + eps);
    for (let i = 0; i < h; i += 1) {
      const v = (y[start + i] - mean) * rate * scale[i] + shift[i];
      u[i] = v < 0 ? slope * v : v;
    }
    d.set(last);
    accumulate(d, 0, u, h, fc1, c);
    for (let o = 0; o < c; o += 1) next[to + o] += d[o];
  }
}
