// The page: the scene's data, the controls, and when to draw. Names of files are only ever set as text.
const $ = (id) => document.getElementById(id);
const BACKGROUNDS = { dark: [[0.133, 0.149, 0.18], [0.055, 0.063, 0.078]], light: [[0.96, 0.97, 0.98], [0.84, 0.87, 0.9]] };
const ACCENT = [1, 0.478, 0.102], MARK = [1, 0.9, 0.2], DRAWN = [0.2, 0.75, 1];

function prepared(scene) { // poses as a rotation and an eye, corners of the frusta in the world
  for (const camera of scene.cameras) {
    const [fx, fy, cx, cy] = camera.K, depth = scene.frustum, P = camera.pose;
    camera.R = [P[0], P[1], P[2], P[4], P[5], P[6], P[8], P[9], P[10]];
    camera.eye = scale(unrotate(camera.R, [P[3], P[7], P[11]]), -1);
    camera.corners = [[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]].map(([u, v]) =>
      add(camera.eye, unrotate(camera.R, [((u - cx) / fx) * depth, ((v - cy) / fy) * depth, depth])));
  }
  return scene;
}

class Page {
  constructor(scene, cloud) {
    this.scene = scene;
    this.canvas = $("canvas");
    this.renderer = new Renderer(this.canvas, cloud, scene);
    this.renderer.upload(cloud, 0, scene.levels[scene.firstLevel]);
    this.finest = scene.firstLevel; // of the levels that are there
    this.style = { mode: 0, size: 1, floor: 0, shading: true, cameras: true, segments: [], level: this.finest, range: [1, 2], background: BACKGROUNDS.dark };
    this.active = -1; // the camera looked through
    this.marks = null; // the points measured; null: not measuring
    this.pace = { level: this.finest, last: 0, rest: 0 };
    this.navigation = new Navigation(this.canvas, scene, sampled(scene, cloud.places), {
      changed: () => this.changed(), leaveCamera: () => this.leave(), hovered: (x, y) => this.hovered(x, y),
      free: (top) => this.free(top), clicked: (x, y) => this.clicked(x, y), aimed: (x, y) => this.aimed(x, y),
      depthAhead: () => { const { lens } = this.navigation.view(); return this.renderer.depthAt(this.navigation.view(), this.style, lens.cx, lens.cy); },
    });
    this.strip();
    this.controls();
    new ResizeObserver(() => this.resized()).observe(this.canvas);
    this.resized();
  }

  // All points are there
  complete(cloud) {
    const last = this.scene.levels.length - 1;
    this.renderer.upload(cloud, this.scene.levels[this.finest], this.scene.levels[last]);
    this.finest = this.pace.level = this.style.level = last;
    this.draw();
  }

  resized() {
    const ratio = Math.min(devicePixelRatio || 1, 2), [width, height] = this.navigation.size;
    this.renderer.resize(Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio)));
    if (!this.navigation.R) this.navigation.set(this.navigation.homePose());
    if (this.active >= 0) this.navigation.set(this.navigation.cameraPose(this.scene.cameras[this.active]));
    this.draw();
  }

  // The part of the window that no control covers
  free(top) {
    const [width, height] = this.navigation.size;
    const left = !$("panel").hidden && width > 800 ? 288 : 12, bottom = this.scene.cameras.length ? 100 : 12;
    return { left, top, width: Math.max(width - left - 12, 40), height: Math.max(height - top - bottom, 40) };
  }

  // While the view moves, as many points as the machine draws fluently; all of them once it rests
  changed() {
    clearTimeout(this.pace.rest);
    this.pace.rest = setTimeout(() => { this.pace.last = 0; this.style.level = this.finest; this.request(); }, 160);
    this.style.level = this.pace.level;
    this.request();
  }

  request() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame((now) => {
      this.pending = false;
      const took = now - this.pace.last;
      if (this.pace.last && took < 1000) {
        if (took > 60 && this.pace.level > 0) this.pace.level--;
        else if (took < 20 && this.pace.level < this.finest && Math.random() < 0.05) this.pace.level++;
      }
      this.pace.last = this.style.level === this.pace.level ? now : 0;
      this.draw();
    });
  }

  draw() {
    const view = this.navigation.view(), style = this.style;
    const near = Math.max(length(sub(view.eye, this.scene.centre)) - this.scene.radius, 0.05 * this.scene.radius);
    style.range = [near, near + 2 * this.scene.radius];
    style.segments = style.cameras ? this.frusta() : [];
    style.thumbs = style.cameras && this.active < 0; // they would hide what a camera sees
    if (this.marks) style.segments.push(...this.ruler(view));
    this.renderer.draw(view, style);
    this.placePhoto(view);
  }

  // Note under `name` when the frame that was drawn is there
  finished(name) {
    const gl = this.renderer.gl;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for it
    document.documentElement.dataset[name] = Math.round(performance.now());
  }

  frusta() {
    return this.scene.cameras.flatMap((camera, i) => {
      if (i === this.active) return [];
      const [a, b, c, d] = camera.corners, e = camera.eye;
      return [[e, a], [e, b], [e, c], [e, d], [a, b], [b, c], [c, d], [d, a]].map((ends) => [...ends, i === this.over ? MARK : ACCENT]);
    });
  }

  // --- looking through a camera ---
  look(index) {
    const count = this.scene.cameras.length;
    if (!count) return;
    const camera = this.scene.cameras[(index + count) % count];
    this.leave();
    this.active = (index + count) % count;
    $("camera-name").textContent = camera.name;
    $("looking").hidden = false;
    $("photo").hidden = true;
    this.pressStrip();
    this.navigation.fly(this.navigation.cameraPose(camera), () => {
      if (camera !== this.scene.cameras[this.active]) return;
      if (camera.picture) {
        $("photo").src = `data:image/jpeg;base64,${camera.picture}`;
        $("photo").hidden = false;
        this.placePhoto(this.navigation.view());
      }
      this.request();
    });
  }

  leave() {
    if (this.active < 0) return false;
    this.active = -1;
    $("looking").hidden = $("photo").hidden = true;
    this.pressStrip();
    this.request();
    return true;
  }

  photoBox(view) {
    const camera = this.scene.cameras[this.active], [fx, fy, cx, cy] = camera.K;
    const sx = view.lens.fx / fx, sy = view.lens.fy / fy;
    return [view.lens.cx - cx * sx, view.lens.cy - cy * sy, camera.width * sx, camera.height * sy];
  }

  placePhoto(view) {
    if (this.active < 0 || $("photo").hidden) return;
    const box = this.photoBox(view);
    ["left", "top", "width", "height"].forEach((side, i) => { $("photo").style[side] = `${box[i]}px`; });
    $("photo").style.opacity = $("blend").value / 100;
  }

  // The camera whose picture lies under (x, y), nearer than `depth`
  cameraAt(x, y, depth = Infinity) {
    if (!this.style.cameras) return -1;
    const ray = this.navigation.ray(x, y), at = this.scene.frustum;
    let found = -1, nearest = depth;
    this.scene.cameras.forEach((camera, i) => {
      if (i === this.active) return;
      const origin = rotate(camera.R, sub(this.navigation.eye, camera.eye)), direction = rotate(camera.R, ray);
      const s = (at - origin[2]) / direction[2]; // the ray is one unit deep, so that s is a depth
      if (!(s > 0 && s < nearest)) return;
      const u = ((origin[0] + s * direction[0]) / at) * camera.K[0] + camera.K[2];
      const v = ((origin[1] + s * direction[1]) / at) * camera.K[1] + camera.K[3];
      if (u >= 0 && v >= 0 && u <= camera.width && v <= camera.height) { found = i; nearest = s; }
    });
    return found;
  }

  hovered(x, y) {
    const over = this.marks ? -1 : this.cameraAt(x, y);
    this.canvas.classList.toggle("over", over >= 0);
    if (over !== this.over) { this.over = over; this.request(); }
  }

  clicked(x, y) {
    const style = { ...this.style, level: this.finest };
    const depth = this.renderer.depthAt(this.navigation.view(), style, x, y);
    if (this.marks) { this.mark(depth, x, y); return; }
    const camera = this.cameraAt(x, y, depth ?? Infinity);
    if (camera >= 0) this.look(camera);
    else this.draw();
  }

  aimed(x, y) {
    if (this.marks) return;
    const view = this.navigation.view(), depth = this.renderer.depthAt(view, this.style, x, y);
    if (depth === null) return;
    const target = add(view.eye, this.navigation.ray(x, y), depth), ahead = sub(target, view.eye);
    this.leave();
    this.navigation.fly({ R: facing(ahead, this.scene.up), eye: add(view.eye, ahead, 0.25), lens: { ...FREE }, target });
  }

  // --- measuring ---
  measure(on) {
    this.marks = on ? [] : null;
    $("measure").setAttribute("aria-pressed", on);
    this.canvas.classList.toggle("measuring", on);
    $("distance").hidden = true;
    this.say(on ? "Click two points of the cloud." : "");
    this.request();
  }

  mark(depth, x, y) {
    if (depth === null) { this.say("There is no point here."); this.draw(); return; }
    if (this.marks.length > 1) this.marks = [];
    this.marks.push(add(this.navigation.eye, this.navigation.ray(x, y), depth));
    if (this.marks.length === 2) {
      const text = this.lengthText(length(sub(...this.marks)));
      this.say(this.scene.metric ? `Distance ${text}.` : `Distance ${text}: photos alone do not tell the scale.`);
      $("distance").textContent = text;
    } else this.say("Click the second point.");
    this.draw();
  }

  lengthText(value) {
    if (!this.scene.metric) return `${value.toPrecision(4)} units`;
    return value < 1 ? `${(100 * value).toPrecision(3)} cm` : `${value.toPrecision(4)} m`;
  }

  ruler(view) {
    const project = (p) => {
      const c = rotate(view.R, sub(p, view.eye));
      return c[2] > view.near ? [view.lens.fx * c[0] / c[2] + view.lens.cx, view.lens.fy * c[1] / c[2] + view.lens.cy] : null;
    };
    const both = this.marks.length === 2, middle = both ? project(scale(add(...this.marks), 0.5)) : null;
    $("distance").hidden = !middle;
    if (middle) Object.assign($("distance").style, { left: `${middle[0]}px`, top: `${middle[1]}px` });
    const crosses = this.marks.flatMap((point) => {
      const arm = (0.014 * rotate(view.R, sub(point, view.eye))[2]) / this.navigation.lens.fx;
      return [0, 1, 2].map((i) => [add(point, row(view.R, i), -arm), add(point, row(view.R, i), arm), DRAWN]);
    });
    return both ? [[...this.marks, DRAWN], ...crosses] : crosses;
  }

  // --- controls ---
  controls() {
    const { scene, style } = this;
    $("title").textContent = scene.title;
    const number = (value) => value.toLocaleString("en");
    const shown = scene.levels.at(-1);
    $("facts").textContent = `${number(scene.cameras.length)} ${scene.cameras.length === 1 ? "camera" : "cameras"} · ${number(shown)} points${shown < scene.total ? ` of ${number(scene.total)}` : ""}`;
    const slide = (id, apply) => { $(id).addEventListener("input", () => { apply(+$(id).value); this.request(); }); };
    slide("size", (value) => { style.size = value / 100; $("size-value").textContent = `${value} %`; });
    slide("floor", (value) => { style.floor = value / 100; $("floor-value").textContent = `${value} %`; });
    slide("blend", () => {});
    for (const button of $("colours").children) button.addEventListener("click", () => this.colour(+button.dataset.mode));
    const toggle = (id, key) => $(id).addEventListener("change", () => { style[key] = $(id).checked; this.request(); });
    toggle("cameras", "cameras");
    toggle("shading", "shading");
    $("measure").addEventListener("click", () => this.measure(!this.marks));
    $("screenshot").addEventListener("click", () => this.screenshot());
    $("home").addEventListener("click", () => this.home());
    $("theme").addEventListener("click", () => this.theme(this.dark ? "light" : "dark"));
    $("about").addEventListener("click", () => $("keys").showModal());
    $("previous").addEventListener("click", () => this.look(this.active - 1));
    $("next").addEventListener("click", () => this.look(this.active + 1));
    $("leave").addEventListener("click", () => this.home());
    $("menu").addEventListener("click", () => this.panel($("panel").hidden));
    this.panel(innerWidth > 640);
    const preference = matchMedia("(prefers-color-scheme: light)");
    preference.addEventListener("change", () => this.theme(preference.matches ? "light" : "dark"));
    this.theme(preference.matches ? "light" : "dark");
    addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    const actions = {
      ",": () => this.look(this.active < 0 ? this.scene.cameras.length - 1 : this.active - 1), ".": () => this.look(this.active + 1),
      1: () => this.colour(0), 2: () => this.colour(1), 3: () => this.colour(2),
      c: () => $("cameras").click(), m: () => this.measure(!this.marks), p: () => this.screenshot(), r: () => this.home(),
      t: () => $("theme").click(), "?": () => $("keys").showModal(),
      Escape: () => { if (this.marks) this.measure(false); else if (this.active >= 0) this.home(); },
      Tab: () => this.panel($("panel").hidden),
    };
    if (event.key === "Tab" && document.activeElement !== this.canvas) return; // elsewhere it moves the focus
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  }

  panel(open) { $("panel").hidden = !open; $("menu").setAttribute("aria-expanded", open); }

  home() { this.leave(); this.navigation.fly(this.navigation.homePose()); }

  colour(mode) {
    this.style.mode = mode;
    for (const button of $("colours").children) button.setAttribute("aria-pressed", +button.dataset.mode === mode);
    $("legend").hidden = mode === 0;
    [$("legend-low").textContent, $("legend-high").textContent] = mode === 1 ? ["unsure", "sure"] : ["far", "near"];
    this.request();
  }

  theme(name) {
    this.dark = name === "dark";
    document.documentElement.dataset.theme = name;
    this.style.background = BACKGROUNDS[name];
    if (this.navigation?.R) this.request();
  }

  say(text) { $("hint").textContent = text; }

  screenshot() {
    this.style.level = this.finest;
    this.draw();
    const picture = document.createElement("canvas"), context = picture.getContext("2d");
    Object.assign(picture, { width: this.canvas.width, height: this.canvas.height });
    context.drawImage(this.canvas, 0, 0);
    const view = this.navigation.view();
    if (this.active >= 0 && !$("photo").hidden) {
      context.globalAlpha = $("blend").value / 100;
      context.drawImage($("photo"), ...this.photoBox(view).map((x) => x * view.ratio));
    }
    picture.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${this.scene.title.replace(/[^\w.-]+/g, "_")}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      this.say(`Saved as ${link.download}.`);
    }, "image/png");
  }

  // --- pictures of the cameras ---
  strip() {
    this.scene.cameras.forEach((camera, i) => {
      const button = document.createElement("button"), name = document.createElement("span");
      name.textContent = button.title = camera.name;
      if (camera.picture) {
        const picture = document.createElement("img");
        Object.assign(picture, { alt: "", loading: "lazy", decoding: "async", width: Math.round((68 * camera.width) / camera.height) });
        camera.element = picture;
        button.append(picture);
      }
      button.append(name);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => this.look(i));
      $("strip").append(button);
    });
  }

  pressStrip() {
    [...$("strip").children].forEach((button, i) => {
      button.setAttribute("aria-pressed", i === this.active);
      if (i === this.active) button.scrollIntoView({ block: "nearest", inline: "center" });
    });
  }

  // After the first frame: pictures in the strip and, as textures, in the frusta
  async pictures() {
    const cameras = this.scene.cameras.filter((camera) => camera.picture);
    if (!cameras.length) return;
    const columns = Math.ceil(Math.sqrt(cameras.length)), cell = Math.min(256, Math.floor(4096 / columns));
    const atlas = document.createElement("canvas"), context = atlas.getContext("2d");
    atlas.width = atlas.height = columns * cell;
    const cells = await Promise.all(cameras.map(async (camera, i) => {
      const picture = camera.element;
      picture.src = `data:image/jpeg;base64,${camera.picture}`;
      const whole = new Image();
      whole.src = picture.src;
      await whole.decode();
      const fit = cell / Math.max(camera.width, camera.height), x = (i % columns) * cell, y = Math.floor(i / columns) * cell;
      const width = Math.max(1, fit * camera.width), height = Math.max(1, fit * camera.height);
      context.drawImage(whole, x, y, width, height);
      return [x, y, width, height].map((value) => value / atlas.width);
    }));
    this.renderer.setThumbs(atlas, cameras.map((camera) => camera.corners), cells);
    this.draw();
    document.documentElement.dataset.pictures = cameras.length;
  }
}

async function begin() {
  const scene = prepared(JSON.parse($("scene").textContent));
  const all = scene.levels.at(-1), first = scene.levels[scene.firstLevel], cloud = emptyCloud(all);
  unpack(await inflate(bytesOf($("points").textContent)), cloud, 0, first);
  const page = new Page(scene, cloud);
  window.lite3r = page; // for the browser's console, and for tests
  page.finished("firstFrame");
  await new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown))); // the first frame is on the screen
  if (document.readyState === "loading") await new Promise((read) => addEventListener("DOMContentLoaded", read));
  unpack(await inflate(bytesOf($("more-points").textContent)), cloud, first, all);
  page.complete(cloud);
  page.finished("allPoints");
  await page.pictures();
}

begin().catch((error) => {
  const text = document.createElement("p");
  text.className = "failure";
  text.textContent = `The scene cannot be shown: ${error.message}. A current Chrome, Edge, Firefox or Safari with WebGL 2 shows it.`;
  document.body.append(text);
  console.error(error);
});
