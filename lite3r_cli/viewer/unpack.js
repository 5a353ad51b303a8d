// The points as page.html carries them: deflated planes, in base64, those of the first frame apart. point_packing.py
// writes them.
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Room for places (x, y, z, step of the spacing) and colours (r, g, b, confidence), four numbers a point
function emptyCloud(count) {
  return { places: new Uint16Array(4 * count), colours: new Uint8Array(4 * count) };
}

// Planes of differences of the points from `from` up to `to` → their places and colours in `cloud`
function unpack(planes, cloud, from, to) {
  const count = to - from, places = cloud.places.subarray(4 * from), colours = cloud.colours.subarray(4 * from);
  for (let axis = 0; axis < 3; axis++) {
    const low = 2 * axis * count, high = low + count;
    for (let i = 0, value = 0; i < count; i++) {
      value = (value + planes[low + i] + 256 * planes[high + i]) & 65535;
      places[4 * i + axis] = value;
    }
  }
  for (let channel = 0; channel < 5; channel++) {
    const start = (6 + channel) * count;
    for (let i = 0, value = 0; i < count; i++) {
      value = (value + planes[start + i]) & 255;
      if (channel < 4) colours[4 * i + channel] = value;
      else places[4 * i + 3] = value;
    }
  }
}

// About a point for each cell of a grid: what the first view has to show
function sampled(scene, places) {
  const { low, step } = scene.points, count = scene.levels[scene.firstLevel], cell = scene.radius / 25, found = new Map();
  for (let i = 0; i < count; i += Math.max(1, Math.floor(count / 30000))) {
    const point = low.map((least, axis) => least + step * places[4 * i + axis]);
    const key = point.map((x) => Math.floor(x / cell)).join();
    if (!found.has(key)) found.set(key, point);
  }
  return [...found.values()];
}
