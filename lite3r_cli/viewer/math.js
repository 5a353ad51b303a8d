"use strict";
// Vectors are arrays of three, rotations arrays of nine by rows. Cameras have OpenCV's axes: x right, y down, z ahead.
const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const sub = (a, b) => add(a, b, -1);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const scale = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const length = (a) => Math.hypot(a[0], a[1], a[2]);
const unit = (a) => scale(a, 1 / (length(a) || 1));
const mix = (a, b, t) => a + (b - a) * t;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

const row = (R, i) => [R[3 * i], R[3 * i + 1], R[3 * i + 2]];
const rotate = (R, v) => [dot(row(R, 0), v), dot(row(R, 1), v), dot(row(R, 2), v)];
const unrotate = (R, v) => add(add(scale(row(R, 0), v[0]), row(R, 1), v[1]), row(R, 2), v[2]);

// v turned by an angle about a unit axis (Rodrigues)
function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle);
  return add(add(scale(v, c), cross(axis, v), s), axis, dot(axis, v) * (1 - c));
}

// The rotation that looks along `ahead` with `up` upwards and the given roll
function facing(ahead, up, roll = 0) {
  const forward = unit(ahead);
  const side = unit(cross(forward, up));
  const right = turned(side, forward, roll);
  return [...right, ...cross(forward, right), ...forward];
}

// How far R is rolled about its own line of sight
function rollOf(R, up) {
  const level = facing(row(R, 2), up);
  return Math.atan2(dot(row(R, 0), row(level, 1)), dot(row(R, 0), row(level, 0)));
}

function quaternion(R) {
  const t = R[0] + R[4] + R[8];
  let q;
  if (t > 0) q = [t + 1, R[7] - R[5], R[2] - R[6], R[3] - R[1]];
  else if (R[0] > R[4] && R[0] > R[8]) q = [R[7] - R[5], 1 + R[0] - R[4] - R[8], R[1] + R[3], R[2] + R[6]];
  else if (R[4] > R[8]) q = [R[2] - R[6], R[1] + R[3], 1 - R[0] + R[4] - R[8], R[5] + R[7]];
  else q = [R[3] - R[1], R[2] + R[6], R[5] + R[7], 1 - R[0] - R[4] + R[8]];
  const n = Math.hypot(...q);
  return q.map((x) => x / n);
}

function rotation([w, x, y, z]) {
  return [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)];
}

function between(A, B, t) {
  const a = quaternion(A);
  let b = quaternion(B);
  if (a.reduce((sum, x, i) => sum + x * b[i], 0) < 0) b = b.map((x) => -x);
  const q = a.map((x, i) => mix(x, b[i], t)), n = Math.hypot(...q);
  return rotation(q.map((x) => x / n));
}

// Matrices by columns, as WebGL takes them
const viewMatrix = (R, eye, low = [0, 0, 0], step = 1) => {
  const t = rotate(R, sub(low, eye));
  return [R[0] * step, R[3] * step, R[6] * step, 0, R[1] * step, R[4] * step, R[7] * step, 0,
    R[2] * step, R[5] * step, R[8] * step, 0, ...t, 1];
};
const projectionMatrix = (lens, width, height, near, far) => [
  2 * lens.fx / width, 0, 0, 0,
  0, -2 * lens.fy / height, 0, 0,
  2 * lens.cx / width - 1, 1 - 2 * lens.cy / height, (far + near) / (far - near), 1,
  0, 0, -2 * far * near / (far - near), 0];
