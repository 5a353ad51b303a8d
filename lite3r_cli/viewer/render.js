// Drawing: points into a texture with depth, shaded by depth onto the page, then cameras and lines over it.
const POINTS_VERTEX = `#version 300 es
precision highp float;
uniform mat4 u_view, u_projection;
uniform float u_spacing, u_pixels, u_floor, u_far, u_near;
uniform int u_mode;
in vec4 a_place, a_colour;
out vec3 v_colour;
vec3 turbo(float x) { // a polynomial that is near to Google's Turbo (Mikhailov 2019)
  x = clamp(x, 0.0, 1.0);
  vec4 p = vec4(1.0, x, x * x, x * x * x);
  vec2 q = p.zw * p.z;
  return clamp(vec3(
    dot(p, vec4(0.13572138, 4.61539260, -42.66032258, 132.13108234)) + dot(q, vec2(-152.94239396, 59.28637943)),
    dot(p, vec4(0.09140261, 2.19418839, 4.84296658, -14.18503333)) + dot(q, vec2(4.27729857, 2.82956604)),
    dot(p, vec4(0.10667330, 12.64194608, -60.58204836, 110.36276771)) + dot(q, vec2(-89.90310912, 27.34824973))), 0.0, 1.0);
}
void main() {
  if (a_colour.a < u_floor) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); gl_PointSize = 1.0; return; }
  vec4 p = u_view * vec4(a_place.xyz, 1.0);
  gl_Position = u_projection * p;
  gl_PointSize = clamp(u_spacing * exp2(a_place.w / 16.0) * u_pixels / max(p.z, 1e-9), 1.0, 40.0);
  v_colour = u_mode == 0 ? a_colour.rgb : u_mode == 1 ? turbo(a_colour.a)
    : turbo(1.0 - log(max(p.z, 1e-9) / u_near) / log(u_far / u_near));
}`;
const POINTS_FRAGMENT = `#version 300 es
precision mediump float;
in vec3 v_colour;
out vec4 o_colour;
void main() { o_colour = vec4(v_colour, 1.0); }`;
const PICK_FRAGMENT = `#version 300 es
precision highp float;
in vec3 v_colour;
out vec4 o_colour;
void main() { // depth in 24 bits
  float d = gl_FragCoord.z * 16777215.0;
  o_colour = vec4(floor(d / 65536.0), floor(mod(d, 65536.0) / 256.0), floor(mod(d, 256.0)), 255.0) / 255.0;
}`;
const SCREEN_VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;
const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D u_depth;
uniform sampler2D u_colour;
uniform vec2 u_planes; // near, far
uniform vec3 u_top, u_bottom;
uniform float u_strength, u_radius, u_height;
out vec4 o_colour;
float logz(ivec2 at) { // eye-dome lighting compares logarithms (Boucheny 2009)
  float d = texelFetch(u_depth, clamp(at, ivec2(0), textureSize(u_depth, 0) - 1), 0).r;
  return log2(2.0 * u_planes.x * u_planes.y / (u_planes.y + u_planes.x - (2.0 * d - 1.0) * (u_planes.y - u_planes.x)));
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  float d = texelFetch(u_depth, at, 0).r;
  gl_FragDepth = d;
  if (d == 1.0) { o_colour = vec4(mix(u_bottom, u_top, gl_FragCoord.y / u_height), 1.0); return; }
  float light = 1.0;
  if (u_strength > 0.0) {
    float z = logz(at), sum = 0.0;
    int r = int(u_radius);
    sum += min(0.15, max(0.0, z - logz(at + ivec2(r, 0)))) + min(0.15, max(0.0, z - logz(at - ivec2(r, 0))));
    sum += min(0.15, max(0.0, z - logz(at + ivec2(0, r)))) + min(0.15, max(0.0, z - logz(at - ivec2(0, r))));
    light = exp(-u_strength * sum);
  }
  o_colour = vec4(texelFetch(u_colour, at, 0).rgb * light, 1.0);
}`;
const LINES_VERTEX = `#version 300 es
precision highp float;
uniform mat4 u_view, u_projection;
uniform vec2 u_size; // of the canvas, pixels
uniform float u_width, u_near;
in vec3 a_from, a_to;
in vec4 a_tint;
out vec4 v_tint;
void main() { // a quad along the line, of constant width in pixels
  vec4 p = u_view * vec4(a_from, 1.0), q = u_view * vec4(a_to, 1.0);
  v_tint = a_tint;
  if (p.z < u_near && q.z < u_near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (p.z < u_near) p = mix(p, q, (u_near - p.z) / (q.z - p.z));
  if (q.z < u_near) q = mix(q, p, (u_near - q.z) / (p.z - q.z));
  vec4 a = u_projection * p, b = u_projection * q;
  vec2 along = (b.xy / b.w - a.xy / a.w) * u_size;
  vec2 across = length(along) > 0.0 ? normalize(vec2(-along.y, along.x)) : vec2(0.0);
  vec4 end = (gl_VertexID & 1) == 0 ? a : b;
  end.xy += across * (gl_VertexID < 2 ? -1.0 : 1.0) * u_width / u_size * end.w;
  gl_Position = end;
}`;
const LINES_FRAGMENT = `#version 300 es
precision mediump float;
in vec4 v_tint;
out vec4 o_colour;
void main() { o_colour = v_tint; }`;
const THUMBS_VERTEX = `#version 300 es
precision highp float;
uniform mat4 u_view, u_projection;
in vec3 a_corner;
in vec2 a_uv;
out vec2 v_uv;
void main() { v_uv = a_uv; gl_Position = u_projection * u_view * vec4(a_corner, 1.0); }`;
const THUMBS_FRAGMENT = `#version 300 es
precision mediump float;
uniform sampler2D u_atlas;
in vec2 v_uv;
out vec4 o_colour;
void main() { vec4 c = texture(u_atlas, v_uv); if (c.a < 0.5) discard; o_colour = vec4(c.rgb, 1.0); }`;

const CLOSED = 1.9; // a point's size in spacings: surfaces have no holes

class Renderer {
  constructor(canvas, cloud, scene) {
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("this browser has no WebGL 2");
    Object.assign(this, { gl, canvas, scene, count: scene.levels.at(-1) });
    this.points = this.program(POINTS_VERTEX, POINTS_FRAGMENT, ["a_place", "a_colour"]);
    this.pick = this.program(POINTS_VERTEX, PICK_FRAGMENT, ["a_place", "a_colour"]);
    this.screen = this.program(SCREEN_VERTEX, SCREEN_FRAGMENT, []);
    this.lines = this.program(LINES_VERTEX, LINES_FRAGMENT, ["a_from", "a_to", "a_tint"]);
    this.thumbs = this.program(THUMBS_VERTEX, THUMBS_FRAGMENT, ["a_corner", "a_uv"]);
    this.cloud = gl.createVertexArray();
    gl.bindVertexArray(this.cloud);
    this.attribute(0, cloud.places.byteLength, 4, gl.UNSIGNED_SHORT, false);
    this.placeBuffer = gl.getParameter(gl.ARRAY_BUFFER_BINDING);
    this.attribute(1, cloud.colours.byteLength, 4, gl.UNSIGNED_BYTE, true);
    this.colourBuffer = gl.getParameter(gl.ARRAY_BUFFER_BINDING);
    this.lineArray = gl.createVertexArray();
    this.lineBuffer = gl.createBuffer();
    this.thumbArray = null;
    this.empty = gl.createVertexArray();
    this.target = gl.createFramebuffer();
    gl.enable(gl.DEPTH_TEST);
  }

  program(vertex, fragment, attributes) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    attributes.forEach((name, place) => gl.bindAttribLocation(program, place, name));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
      throw new Error(`a shader does not compile: ${logs.join(" ")} ${gl.getProgramInfoLog(program)}`);
    }
    const places = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      places[name] = gl.getUniformLocation(program, name);
    }
    return { program, at: places };
  }

  // Hand the points from `from` up to `to` to the GPU
  upload(cloud, from, to) {
    const gl = this.gl;
    for (const [buffer, data] of [[this.placeBuffer, cloud.places], [this.colourBuffer, cloud.colours]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferSubData(gl.ARRAY_BUFFER, 4 * from * data.BYTES_PER_ELEMENT, data, 4 * from, 4 * (to - from));
    }
  }

  // data: the values, or only how many bytes they will be
  attribute(place, data, size, kind, normalised) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, kind, normalised, 0, 0);
  }

  resize(width, height) {
    const gl = this.gl;
    if (this.canvas.width === width && this.canvas.height === height && this.colour) return;
    this.canvas.width = width;
    this.canvas.height = height;
    for (const texture of [this.colour, this.depth]) if (texture) gl.deleteTexture(texture);
    const make = (inner, format, kind) => {
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, inner, width, height);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      return texture;
    };
    this.colour = make(gl.RGBA8);
    this.depth = make(gl.DEPTH_COMPONENT24);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.colour, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, this.depth, 0);
  }

  // view: { R, eye, lens (CSS pixels), width, height (CSS), near, far, ratio (device pixels per CSS pixel) }
  drawPoints(program, view, style) {
    const gl = this.gl, { points } = this.scene, at = program.at;
    const part = this.scene.levels[style.level];
    gl.useProgram(program.program);
    gl.bindVertexArray(this.cloud);
    gl.uniformMatrix4fv(at.u_view, false, viewMatrix(view.R, view.eye, points.low, points.step));
    gl.uniformMatrix4fv(at.u_projection, false, projectionMatrix(view.lens, view.width, view.height, view.near, view.far));
    gl.uniform1f(at.u_spacing, CLOSED * points.spacing);
    const thinned = Math.min(3, Math.sqrt(this.count / Math.max(part, 1)));
    gl.uniform1f(at.u_pixels, view.lens.fy * view.ratio * style.size * thinned);
    gl.uniform1f(at.u_floor, style.floor);
    if (at.u_mode !== undefined) {
      gl.uniform1i(at.u_mode, style.mode);
      gl.uniform1f(at.u_near, style.range[0]);
      gl.uniform1f(at.u_far, style.range[1]);
    }
    if (part) gl.drawArrays(gl.POINTS, 0, part);
  }

  draw(view, style) {
    const gl = this.gl, width = this.canvas.width, height = this.canvas.height;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.drawPoints(this.points, view, style);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.depthFunc(gl.ALWAYS);
    const at = this.screen.at;
    gl.useProgram(this.screen.program);
    gl.bindVertexArray(this.empty);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.depth);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.colour);
    gl.uniform1i(at.u_depth, 1);
    gl.uniform1i(at.u_colour, 0);
    gl.uniform2f(at.u_planes, view.near, view.far);
    gl.uniform3fv(at.u_top, style.background[0]);
    gl.uniform3fv(at.u_bottom, style.background[1]);
    gl.uniform1f(at.u_strength, style.shading ? 5 : 0);
    gl.uniform1f(at.u_radius, Math.max(1, Math.round(1.5 * view.ratio)));
    gl.uniform1f(at.u_height, height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.depthFunc(gl.LEQUAL);
    if (style.thumbs) this.drawThumbs(view);
    this.drawLines(view, style.segments);
  }

  // segments: [from, to, [r, g, b]] in the world
  drawLines(view, segments) {
    if (!segments.length) return;
    const gl = this.gl, at = this.lines.at;
    const data = new Float32Array(segments.length * 10);
    segments.forEach(([from, to, tint], i) => data.set([...from, ...to, ...tint, 1], 10 * i));
    gl.useProgram(this.lines.program);
    gl.bindVertexArray(this.lineArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lineBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    [[0, 3, 0], [1, 3, 12], [2, 4, 24]].forEach(([place, size, offset]) => {
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, 40, offset);
      gl.vertexAttribDivisor(place, 1);
    });
    gl.uniformMatrix4fv(at.u_view, false, viewMatrix(view.R, view.eye));
    gl.uniformMatrix4fv(at.u_projection, false, projectionMatrix(view.lens, view.width, view.height, view.near, view.far));
    gl.uniform2f(at.u_size, this.canvas.width, this.canvas.height);
    gl.uniform1f(at.u_width, 1.6 * view.ratio);
    gl.uniform1f(at.u_near, view.near);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, segments.length);
  }

  // corners: (S × 4 × 3) of the pictures in the world; cells: (S × 4) u, v, width, height in the atlas
  setThumbs(atlas, corners, cells) {
    const gl = this.gl;
    const places = new Float32Array(corners.length * 18), uvs = new Float32Array(corners.length * 12);
    corners.forEach((quad, i) => {
      const [u, v, w, h] = cells[i], uv = [[u, v], [u + w, v], [u + w, v + h], [u, v + h]];
      [0, 1, 2, 0, 2, 3].forEach((k, j) => {
        places.set(quad[k], 18 * i + 3 * j);
        uvs.set(uv[k], 12 * i + 2 * j);
      });
    });
    this.thumbArray = gl.createVertexArray();
    gl.bindVertexArray(this.thumbArray);
    this.attribute(0, places, 3, gl.FLOAT, false);
    this.attribute(1, uvs, 2, gl.FLOAT, false);
    this.thumbCount = corners.length * 6;
    this.atlas = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.atlas);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, atlas);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  }

  drawThumbs(view) {
    if (!this.thumbArray) return;
    const gl = this.gl, at = this.thumbs.at;
    gl.useProgram(this.thumbs.program);
    gl.bindVertexArray(this.thumbArray);
    gl.bindTexture(gl.TEXTURE_2D, this.atlas);
    gl.uniform1i(at.u_atlas, 0);
    gl.uniformMatrix4fv(at.u_view, false, viewMatrix(view.R, view.eye));
    gl.uniformMatrix4fv(at.u_projection, false, projectionMatrix(view.lens, view.width, view.height, view.near, view.far));
    gl.drawArrays(gl.TRIANGLES, 0, this.thumbCount);
  }

  // z-depth of the point nearest to pixel (x, y) of the page, null where there is none within a few pixels
  depthAt(view, style, x, y) {
    const gl = this.gl, reach = Math.round(4 * view.ratio), side = 2 * reach + 1;
    const left = Math.round(x * view.ratio) - reach, bottom = this.canvas.height - Math.round(y * view.ratio) - reach;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(left, bottom, side, side);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.drawPoints(this.pick, view, style);
    const data = new Uint8Array(4 * side * side);
    gl.readPixels(left, bottom, side, side, gl.RGBA, gl.UNSIGNED_BYTE, data);
    gl.disable(gl.SCISSOR_TEST);
    let best = Infinity, depth = null;
    for (let i = 0; i < side * side; i++) {
      const away = Math.hypot(i % side - reach, Math.floor(i / side) - reach);
      if (data[4 * i + 3] === 255 && away < best) {
        best = away;
        const d = (data[4 * i] * 65536 + data[4 * i + 1] * 256 + data[4 * i + 2]) / 16777215;
        depth = 2 * view.near * view.far / (view.far + view.near - (2 * d - 1) * (view.far - view.near));
      }
    }
    return depth;
  }
}
