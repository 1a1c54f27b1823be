"use strict";
// The page's data, the pictures that it loads, and what it computes from their pixels.
const DATASETS = JSON.parse(document.getElementById("study").textContent);
const HELD = 6; // decoded pictures in memory: those shown and a few earlier ones
const INKS = { less: [213, 94, 0], more: [0, 114, 178] }; // as in the ramp of viewer.css
const held = new Map(); // promise of each picture by key
const waiting = new Map(); // callback of each picture that is being loaded, by key

// called by the scripts of the pictures
const mmfuse = {
  layer: (key, data) => waiting.get(key)?.(data),
  held: () => held.size,
};

function script(key) {
  return new Promise((resolve, reject) => {
    const element = document.createElement("script");
    const failed = (reason) => () => {
      waiting.delete(key);
      element.remove();
      reject(new Error(`viewer/${key}.js ${reason}`)); // no effect once it is resolved
    };
    waiting.set(key, resolve);
    element.onload = failed("holds another picture");
    element.onerror = failed("is missing: the folder viewer belongs beside this page");
    element.src = `viewer/${key}.js`;
    document.head.append(element);
  });
}

async function decoded(key) {
  const data = await script(key);
  const image = new Image();
  image.src = `data:image/png;base64,${data.png}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return { canvas, pixels, grey: data.grey, scores: data.scores, width: canvas.width, height: canvas.height };
}

/** Return a picture, from memory if it was shown recently. */
function picture(key) {
  const found = held.get(key) ?? decoded(key);
  held.delete(key);
  held.set(key, found);
  found.catch(() => held.delete(key));
  for (const old of held.keys()) {
    if (held.size <= HELD) break;
    held.delete(old);
  }
  return found;
}

/** Return the 8-bit luminance of the pixel that starts at i, rounded half to even, as everywhere in mmfuse. */
function luminance(pixels, i) {
  const thousandths = 299 * pixels[i] + 587 * pixels[i + 1] + 114 * pixels[i + 2];
  const whole = Math.floor(thousandths / 1000);
  const rest = thousandths - 1000 * whole;
  return rest > 500 || (rest === 500 && whole % 2) ? whole + 1 : whole;
}

/** Return the map of the difference A - B as a canvas, with its mean and largest absolute value. */
function subtracted(a, b, gain) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [a.width, a.height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(a.width, a.height);
  let [sum, largest] = [0, 0];
  for (let i = 0; i < image.data.length; i += 4) {
    const value = luminance(a.pixels, i) - luminance(b.pixels, i);
    const share = Math.min(1, (Math.abs(value) * gain) / 255);
    const ink = value < 0 ? INKS.less : INKS.more;
    for (let c = 0; c < 3; c++) image.data[i + c] = Math.round(255 + (ink[c] - 255) * share);
    image.data[i + 3] = 255;
    sum += Math.abs(value);
    largest = Math.max(largest, Math.abs(value));
  }
  context.putImageData(image, 0, 0);
  return { canvas, gain, mean: sum / (a.width * a.height), largest };
}
