// Where the eye is, and how pointers and keys move it. The lens is kept relative to the smaller side of the window.
const WIDE = 0.5 / Math.tan((25 * Math.PI) / 180); // a field of view of 50 degrees
const FREE = { fx: WIDE, fy: WIDE, cx: 0, cy: 0 };

class Navigation {
  constructor(canvas, scene, sample, events) {
    Object.assign(this, { canvas, scene, sample, events, lens: { ...FREE }, flight: null, held: new Set() });
    this.pointers = new Map();
    this.listen();
  }

  get size() { return [this.canvas.clientWidth || 1, this.canvas.clientHeight || 1]; }

  // What the renderer wants
  view() {
    const [width, height] = this.size, side = Math.min(width, height), { fx, fy, cx, cy } = this.lens;
    const away = length(sub(this.eye, this.scene.centre)), radius = this.scene.radius;
    return {
      R: this.R, eye: this.eye, width, height, ratio: this.canvas.width / width,
      lens: { fx: fx * side, fy: fy * side, cx: width / 2 + cx * side, cy: height / 2 + cy * side },
      near: radius * 2e-3, far: away + 8 * radius,
    };
  }

  ray(x, y) { // in the world, one unit deep
    const { lens } = this.view();
    return unrotate(this.R, [(x - lens.cx) / lens.fx, (y - lens.cy) / lens.fy, 1]);
  }

  // The first view: from behind and above the cameras, as near as points and cameras allow
  homePose() {
    const { up, ahead, centre, radius } = this.scene, [width, height] = this.size, side = Math.min(width, height);
    const level = turned(unit(ahead), up, 0.32);
    const R = facing(turned(level, unit(cross(level, up)), -0.26), up);
    const free = this.events.free(8), room = 0.95, f = WIDE * side;
    const local = (point) => rotate(R, sub(point, centre));
    const places = this.sample.map(local), eyes = this.scene.cameras.map((camera) => local(camera.eye));
    const aside = [(free.left + free.width / 2 - width / 2) / f, (free.top + free.height / 2 - height / 2) / f];
    const placed = (distance) => { // the move sideways that brings the scene into the free part, and whether it fits
      const move = [0, 0];
      let fits = false;
      for (let round = 0; round < 5; round++) {
        const seen = places.filter((p) => p[2] + distance > 0.1 * radius);
        const ends = [0, 1].map((i) => { // all cameras, and all points but strays
          const at = (p) => (p[i] - move[i]) / (p[2] + distance);
          const sorted = seen.map(at).sort((a, b) => a - b), cut = Math.floor(0.005 * sorted.length);
          const all = [...eyes.filter((p) => p[2] + distance > 0.1 * radius).map(at), ...sorted.slice(cut, sorted.length - cut)];
          return all.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
        });
        fits = seen.length > 0.99 * places.length && eyes.every((p) => p[2] + distance > 0.1 * radius) && ends[0][1] - ends[0][0] < (room * free.width) / f && ends[1][1] - ends[1][0] < (room * free.height) / f;
        for (const i of [0, 1]) move[i] += ((ends[i][0] + ends[i][1]) / 2 - aside[i]) * distance;
      }
      return { fits, move };
    };
    let near = 0.1 * radius, far = 20 * radius;
    for (let i = 0; i < 16; i++) {
      const distance = Math.sqrt(near * far);
      if (placed(distance).fits) far = distance; else near = distance;
    }
    const { move } = placed(far), eye = add(centre, unrotate(R, [move[0], move[1], -far]));
    return { R, eye, lens: { ...FREE }, target: add(eye, row(R, 2), far) };
  }

  // The pose and lens of a camera, its picture fitted into the part of the window that no control covers
  cameraPose(camera) {
    const [width, height] = this.size, side = Math.min(width, height), free = this.events.free(56);
    const fit = Math.min(free.width / camera.width, free.height / camera.height) / side;
    const [fx, fy, cx, cy] = camera.K;
    const lens = {
      fx: fx * fit, fy: fy * fit,
      cx: (cx - camera.width / 2) * fit + (free.left + free.width / 2 - width / 2) / side,
      cy: (cy - camera.height / 2) * fit + (free.top + free.height / 2 - height / 2) / side,
    };
    return { R: camera.R, eye: camera.eye, lens, target: add(camera.eye, row(camera.R, 2), this.scene.radius * 0.5) };
  }

  set(pose) {
    Object.assign(this, { R: pose.R, eye: pose.eye, lens: pose.lens, target: pose.target });
    this.events.changed();
  }

  fly(pose, after = () => {}) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { this.set(pose); after(); return; }
    const from = { R: this.R, eye: this.eye, lens: this.lens };
    const begin = performance.now(), flight = {};
    this.flight = flight;
    const step = (now) => {
      if (this.flight !== flight) return;
      const share = clamp((now - begin) / 650, 0, 1), t = share * share * (3 - 2 * share);
      const lens = {};
      for (const key of ["fx", "fy", "cx", "cy"]) lens[key] = mix(from.lens[key], pose.lens[key], t);
      this.set({ R: between(from.R, pose.R, t), eye: from.eye.map((x, i) => mix(x, pose.eye[i], t)), lens, target: pose.target });
      if (share < 1) requestAnimationFrame(step);
      else { this.flight = null; this.set(pose); after(); }
    };
    requestAnimationFrame(step);
  }

  // Before a movement by hand: no flight goes on, a camera is left, and its roll and shift go
  takeOver() {
    this.flight = null;
    if (this.events.leaveCamera()) {
      const depth = this.events.depthAhead() ?? Math.max(dot(sub(this.scene.centre, this.eye), row(this.R, 2)), 0.2 * this.scene.radius);
      this.target = add(this.eye, row(this.R, 2), depth);
    }
    this.lens = { ...this.lens, cx: 0.7 * this.lens.cx, cy: 0.7 * this.lens.cy };
  }

  turn(dx, dy) {
    this.takeOver();
    const { up } = this.scene, distance = length(sub(this.target, this.eye));
    let ahead = turned(row(this.R, 2), up, -dx);
    const pitch = Math.asin(clamp(dot(ahead, up), -1, 1));
    const goal = clamp(pitch - dy, -1.52, 1.52);
    ahead = turned(ahead, unit(cross(ahead, up)), goal - pitch);
    this.R = facing(ahead, up, 0.8 * rollOf(this.R, up));
    this.eye = add(this.target, row(this.R, 2), -distance);
    this.events.changed();
  }

  move(dx, dy, dz = 0) { // in the camera's axes
    this.takeOver();
    const shift = unrotate(this.R, [dx, dy, dz]);
    this.eye = add(this.eye, shift);
    this.target = add(this.target, shift);
    this.events.changed();
  }

  pan(dx, dy) { // in pixels
    const { lens } = this.view(), depth = length(sub(this.target, this.eye));
    this.move((-dx * depth) / lens.fx, (-dy * depth) / lens.fy);
  }

  zoom(factor, x, y) { // the point below (x, y) stays where it is
    this.takeOver();
    const depth = length(sub(this.target, this.eye));
    const goal = clamp(depth * factor, 4e-3 * this.scene.radius, 20 * this.scene.radius);
    const shift = scale(this.ray(x, y), depth - goal);
    this.eye = add(this.eye, shift);
    this.target = add(this.eye, row(this.R, 2), goal);
    this.events.changed();
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      this.moved = this.pointers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener("pointermove", (event) => this.pointerMoved(event));
    const released = (event) => {
      const known = this.pointers.delete(event.pointerId);
      canvas.classList.remove("turning");
      if (known && event.type === "pointerup" && this.moved < 5 && event.button === 0) this.events.clicked(event.clientX, event.clientY);
    };
    canvas.addEventListener("pointerup", released);
    canvas.addEventListener("pointercancel", released);
    canvas.addEventListener("dblclick", (event) => this.events.aimed(event.clientX, event.clientY));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
      this.zoom(Math.exp(clamp(event.deltaY * lines, -300, 300) * 0.0015), event.clientX, event.clientY);
    }, { passive: false });
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.held.clear());
  }

  pointerMoved(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) { this.events.hovered(event.clientX, event.clientY); return; }
    const dx = event.clientX - last.x, dy = event.clientY - last.y;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.moved += Math.abs(dx) + Math.abs(dy);
    if (others.length) {
      const [other] = others, before = Math.hypot(last.x - other.x, last.y - other.y);
      const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
      this.pan(dx / 2, dy / 2);
      if (before > 0 && after > 0) this.zoom(before / after, (event.clientX + other.x) / 2, (event.clientY + other.y) / 2);
    } else if (this.moved >= 5) {
      this.canvas.classList.add("turning");
      if (event.buttons & 6 || event.shiftKey) this.pan(dx, dy);
      else this.turn((dx * 4) / Math.min(...this.size), (dy * 4) / Math.min(...this.size));
    }
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  key(event, down) {
    const wanted = "ArrowLeft ArrowRight ArrowUp ArrowDown KeyW KeyA KeyS KeyD KeyQ KeyE Equal Minus NumpadAdd NumpadSubtract".split(" ");
    if (!wanted.includes(event.code) || event.ctrlKey || event.metaKey || event.altKey || /INPUT/.test(event.target.tagName)) return;
    if (!down) { this.held.delete(event.code); return; }
    event.preventDefault();
    const first = !this.held.size;
    this.held.add(event.code);
    if (first) {
      this.then = performance.now() - 30;
      this.glide(performance.now()); // a short press moves, too, however slow the drawing is
    }
  }

  glide(now) { // while keys are held
    if (!this.held.size) return;
    const time = clamp((now - this.then) / 1000, 0.005, 0.1), has = (code) => (this.held.has(code) ? 1 : 0);
    this.then = now;
    const walk = time * 0.6 * Math.max(length(sub(this.target, this.eye)), 0.1 * this.scene.radius);
    const turn = [has("ArrowRight") - has("ArrowLeft"), has("ArrowDown") - has("ArrowUp")];
    const step = [has("KeyD") - has("KeyA"), has("KeyQ") - has("KeyE"), has("KeyW") - has("KeyS")];
    const zoom = has("Minus") + has("NumpadSubtract") - has("Equal") - has("NumpadAdd");
    if (turn[0] || turn[1]) this.turn(-1.4 * time * turn[0], -1.4 * time * turn[1]);
    if (step.some(Boolean)) this.move(walk * step[0], walk * step[1], walk * step[2]);
    if (zoom) this.zoom(Math.exp(zoom * time), this.size[0] / 2, this.size[1] / 2);
    requestAnimationFrame((next) => this.glide(next));
  }
}
