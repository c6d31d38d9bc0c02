// Calls of a rule on the graphics processor: a field is an array of textures of four channels each, a product is one
// draw for each of them, whose weights are a range of a buffer.

const SLOW = 40; // milliseconds: what takes less is no burden to a page
const POSITION = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const fragment = (names, body) => `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2DArray;
${names.map((name) => `uniform sampler2DArray ${name};`).join("\n")}
out vec4 result;
${body}`;

// What a cell sees of its neighbours.
const perceived = ({ groups, border }) => fragment(["state"], `
layout(std140) uniform Weights { mat4 w[9 * ${groups}]; vec4 bias; };
int beyond(int i, int n) {
  ${border === "wrap" ? "return (i + n) % n;" : "return n == 1 ? 0 : i < 0 ? -i : i >= n ? 2 * n - 2 - i : i;"}
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy), n = textureSize(state, 0).xy;
  result = bias;
  for (int tap = 0; tap < 9; tap++) {
    ivec2 there = ivec2(beyond(at.x + tap % 3 - 1, n.x), beyond(at.y + tap / 3 - 1, n.y));
    for (int k = 0; k < ${groups}; k++) result += w[tap * ${groups} + k] * texelFetch(state, ivec3(there, k), 0);
  }
}`);

// The wide product.
const widened = ({ groups }) => fragment(["state", "seen"], `
layout(std140) uniform Weights { mat4 w[2 * ${groups}]; vec4 bias; };
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  result = bias;
  for (int k = 0; k < ${groups}; k++) {
    result += w[k] * texelFetch(state, ivec3(at, k), 0) + w[${groups} + k] * texelFetch(seen, ivec3(at, k), 0);
  }
}`);

// The means of y and of y^2 of a cell, and whether it fires.
const moments = ({ hidden, wide }) => fragment(["y"], `
uniform uvec2 key;
uniform uint rate;
uint fired(uint c0, uint c1) {
  uint ks[3] = uint[](key.x, key.y, key.x ^ key.y ^ 0x1BD11BDAu);
  int r[8] = int[](${ROTATIONS});
  uint x0 = c0 + ks[0], x1 = c1 + ks[1];
  for (int i = 0; i < 5; i++) {
    for (int j = 0; j < 4; j++) {
      int turn = r[4 * (i % 2) + j];
      x0 += x1;
      x1 = ((x1 << turn) | (x1 >> (32 - turn))) ^ x0;
    }
    x0 += ks[(i + 1) % 3];
    x1 += ks[(i + 2) % 3] + uint(i + 1);
  }
  return x0;
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  vec2 sum = vec2(0.0);
  for (int k = 0; k < ${wide}; k++) {
    vec4 v = texelFetch(y, ivec3(at, k), 0);
    sum += vec2(dot(v, vec4(1.0)), dot(v, v));
  }
  bool fires = fired(uint(at.y), uint(at.x)) >> 8 < rate;
  result = vec4(sum / ${hidden}.0, fires ? 1.0 : 0.0, 0.0);
}`);

// Means along a line of cells.
const averaged = () => fragment(["part"], `
uniform ivec2 along;
uniform int count;
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  result = vec4(0.0);
  for (int i = 0; i < count; i++) result += texelFetch(part, ivec3(at + i * along, 0), 0);
  result /= float(count);
}`);

// A cell one step older.
const older = ({ wide, local, eps, slope }) => fragment(["state", "y", "own", "whole"], `
uniform int group;
layout(std140) uniform Weights { mat4 w[${wide}]; vec4 bias; };
layout(std140) uniform Norm { vec4 scale[${wide}]; vec4 shift[${wide}]; };
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  vec4 cell = texelFetch(own, ivec3(at, 0), 0);
  vec4 m = ${local ? "cell" : "texelFetch(whole, ivec3(0), 0)"};
  float rate = 1.0 / sqrt(max(m.y - m.x * m.x, 0.0) + ${eps});
  vec4 d = bias;
  for (int k = 0; k < ${wide}; k++) {
    vec4 u = (texelFetch(y, ivec3(at, k), 0) - m.x) * rate * scale[k] + shift[k];
    d += w[k] * max(u, ${slope} * u);
  }
  result = texelFetch(state, ivec3(at, group), 0) + cell.z * d;
}`);

function ended(gl) {
  // Gives back what a browser has few of.
  const lose = gl.getExtension("WEBGL_lose_context");
  if (lose) lose.loseContext();
}

class WebGL2 {
  static get fast() {
    // Whether another processor computes, and not this one in its place.
    const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    if (!gl) return false;
    const named = gl.getExtension("WEBGL_debug_renderer_info");
    const name = gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
    ended(gl);
    return !/swiftshader|llvmpipe|softpipe|basic render/i.test(name);
  }

  // Throws where the machine has no WebGL2 that fits.
  constructor(rule, size) {
    const gl = document.createElement("canvas").getContext("webgl2");
    if (!gl || !gl.getExtension("EXT_color_buffer_float")) throw new Error("no WebGL2 with float32 textures");
    Object.assign(this, { gl, rule, size, name: "WebGL2", stride: 1 });
    const [groups, wide] = [rule.channels, rule.hidden].map((n) => Math.ceil(n / 4)); // layers of fields
    const block = Math.max(64 * Math.max(9 * groups, wide) + 16, 32 * wide);
    if (block > gl.getParameter(gl.MAX_UNIFORM_BLOCK_SIZE) || wide > gl.getParameter(gl.MAX_ARRAY_TEXTURE_LAYERS)
      || Math.max(...size) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("the rule is too large for WebGL2");
    this.groups = groups;
    const shaders = { perceived, widened, moments, averaged, older };
    for (const [name, source] of Object.entries(shaders)) this[name] = this.program(source({ ...rule, groups, wide }));
    this.taps = this.weights(9 * rule.channels, rule.channels, 9);
    this.fill(this.taps, rule.taps);
    [this.fc0, this.fc1] = [this.weights(2 * rule.channels, rule.hidden, 2), this.weights(rule.hidden, rule.channels)];
    const padded = (list) => [...list, ...Array(4 * wide - list.length).fill(0)];
    this.norm = this.buffer(Float32Array.from(rule.norm.flatMap(padded)));
    const [height, width] = size;
    this.state = [0, 1].map(() => this.field(width, height, groups));
    this.seen = this.field(width, height, groups);
    this.y = this.field(width, height, wide);
    this.own = this.field(width, height, 1);
    [this.rows, this.whole] = rule.local ? [this.own, this.own] : [this.field(1, height, 1), this.field(1, 1, 1)];
  }

  program(source) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, POSITION], [gl.FRAGMENT_SHADER, source]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      throw new Error(`WebGL2: ${gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader))}`);
    }
    ["Weights", "Norm"].forEach((name, slot) => {
      const index = gl.getUniformBlockIndex(program, name);
      if (index !== gl.INVALID_INDEX) gl.uniformBlockBinding(program, index, slot);
    });
    return program;
  }

  buffer(data) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.UNIFORM_BUFFER, buffer);
    gl.bufferData(gl.UNIFORM_BUFFER, data, gl.DYNAMIC_DRAW);
    return buffer;
  }

  weights(inputs, outputs, parts = 1) {
    // Of a product: for each four outputs matrices of four inputs each, then a bias. Inputs come in equal parts.
    const part = Math.ceil(inputs / parts / 4);
    const size = 16 * parts * part + 4;
    const stride = Math.ceil(size / 64) * 64; // ranges begin at multiples of 256 bytes at the most
    const data = new Float32Array(stride * Math.ceil(outputs / 4));
    return { inputs, outputs, step: inputs / parts, part, size, stride, data, buffer: this.buffer(data) };
  }

  fill(w, kernel, bias = new Float64Array(w.outputs)) {
    const { inputs, outputs, step, part, size, stride, data, buffer } = w;
    const place = (o) => (o >> 2) * stride + (o & 3);
    for (let i = 0; i < inputs; i += 1) {
      const [row, inside] = [Math.floor(i / step), i % step];
      const at = 16 * (row * part + (inside >> 2)) + 4 * (inside & 3);
      for (let o = 0; o < outputs; o += 1) data[place(o) + at] = kernel[i * outputs + o];
    }
    for (let o = 0; o < outputs; o += 1) data[place(o) + size - 4] = bias[o];
    this.gl.bindBuffer(this.gl.UNIFORM_BUFFER, buffer);
    this.gl.bufferSubData(this.gl.UNIFORM_BUFFER, 0, data);
  }

  field(width, height, layers) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, texture);
    gl.texStorage3D(gl.TEXTURE_2D_ARRAY, 1, gl.RGBA32F, width, height, layers);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D_ARRAY, name, gl.NEAREST);
    }
    const targets = Array.from({ length: layers }, (_, layer) => {
      const target = gl.createFramebuffer();
      gl.bindFramebuffer(gl.FRAMEBUFFER, target);
      gl.framebufferTextureLayer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, texture, 0, layer);
      return target;
    });
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) {
      throw new Error("WebGL2 draws no float32 textures here");
    }
    return { texture, targets, width, height };
  }

  draw(name, from, to, weights = null, uniforms = () => {}) {
    // Every layer of the field `to`, by the program `name` from the fields `from`.
    const { gl } = this;
    const program = this[name];
    gl.useProgram(program);
    gl.viewport(0, 0, to.width, to.height);
    Object.entries(from).forEach(([sampler, field], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D_ARRAY, field.texture);
      gl.uniform1i(gl.getUniformLocation(program, sampler), unit);
    });
    const place = (uniform) => gl.getUniformLocation(program, uniform);
    uniforms(place);
    const group = place("group");
    to.targets.forEach((target, layer) => {
      if (weights) {
        const { buffer, stride, size } = weights;
        gl.bindBufferRange(gl.UNIFORM_BUFFER, 0, buffer, 4 * layer * stride, 4 * size);
      }
      gl.uniform1i(group, layer);
      gl.bindFramebuffer(gl.FRAMEBUFFER, target);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
    });
  }

  step(w, key) {
    const { gl, rule, size: [height, width], state: [state, next], seen, y, own, rows, whole } = this;
    this.fill(this.fc0, w.fc0, w.bias);
    this.fill(this.fc1, w.fc1, w.last);
    this.draw("perceived", { state }, seen, this.taps);
    this.draw("widened", { state, seen }, y, this.fc0);
    this.draw("moments", { y }, own, null, (place) => {
      gl.uniform2ui(place("key"), key[0] >>> 0, key[1] >>> 0);
      gl.uniform1ui(place("rate"), Math.ceil(rule.rate * 2 ** 24)); // in integers, which are exact everywhere
    });
    const along = (axis, count) => (place) => {
      gl.uniform2iv(place("along"), axis);
      gl.uniform1i(place("count"), count);
    };
    if (!rule.local) {
      this.draw("averaged", { part: own }, rows, null, along([1, 0], width));
      this.draw("averaged", { part: rows }, whole, null, along([0, 1], height));
    }
    gl.bindBufferBase(gl.UNIFORM_BUFFER, 1, this.norm);
    this.draw("older", { state, y, own, whole }, next, this.fc1);
    this.state = [next, state];
  }

  write(x) {
    // x as the first channels of newborn cells.
    const { gl, rule: { image }, size: [height, width], groups } = this;
    const cells = new Float32Array(groups * height * width * 4);
    x.forEach((v, i) => {
      const [cell, c] = [Math.floor(i / image), i % image];
      cells[((c >> 2) * height * width + cell) * 4 + (c & 3)] = v;
    });
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, this.state[0].texture);
    gl.texSubImage3D(gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, width, height, groups, gl.RGBA, gl.FLOAT, cells);
  }

  read() {
    // What the cells say, [cells, image].
    const { gl, rule: { image }, size: [height, width] } = this;
    const out = new Float32Array(height * width * image);
    const four = new Float32Array(height * width * 4);
    for (let group = image >> 2; 4 * group < 2 * image; group += 1) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.state[0].targets[group]);
      gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, four);
      for (let j = 0; j < 4; j += 1) {
        const c = 4 * group + j - image;
        if (c < 0 || c >= image) continue;
        for (let cell = 0; cell < height * width; cell += 1) out[cell * image + c] = four[4 * cell + j];
      }
    }
    return out;
  }

  end() { ended(this.gl); }

  *wait() {
    // Until all that was asked for is done, frame by frame; then as many steps at a time as take about a frame.
    const { gl } = this;
    const [fence, begun] = [gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0), performance.now()];
    gl.flush();
    do {
      yield true;
      if (gl.isContextLost()) throw new Error("WebGL2 was taken away");
    } while (gl.clientWaitSync(fence, 0, 0) === gl.TIMEOUT_EXPIRED);
    gl.deleteSync(fence);
    const took = performance.now() - begun;
    if (took < SLOW) this.stride *= 2;
    else if (took > 2 * SLOW) this.stride = Math.max(1, Math.floor(this.stride / 2));
  }

  *call(x, { told, steps, young }, key) {
    // As Plain has it.
    this.write(x);
    let early = null;
    for (let age = 0; age < steps; age += 1) {
      this.step(this.rule.at(told, age / steps), cellKey(key, age, 0));
      if ((age + 1) % this.stride === 0 || age + 1 === steps || age + 1 === young) yield* this.wait();
      if (age + 1 === young) early = this.read();
    }
    return { out: this.read(), young: early };
  }
}
