"use strict";
// What the page knows, the pictures that it loads, and what is computed from their pixels.
const DATASETS = JSON.parse(document.getElementById("study").textContent);
const HELD = 6; // decoded pictures in memory: those shown and a few to go back to
const INKS = { less: [213, 94, 0], more: [0, 114, 178] }; // as the ramp in viewer.css
const held = new Map(); // key of a picture: the promise of it
const waiting = new Map(); // key of a picture that is being loaded: what to do with it

// what the scripts of the pictures call
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
      reject(new Error(`viewer/${key}.js ${reason}`)); // of no effect once it is resolved
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

/** A picture, from memory if it is one of the last that were looked at. */
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

/** 8-bit luminance of the pixel that begins at i, rounded half to even, as everywhere in mmfuse. */
function luminance(pixels, i) {
  const thousandths = 299 * pixels[i] + 587 * pixels[i + 1] + 114 * pixels[i + 2];
  const whole = Math.floor(thousandths / 1000);
  const rest = thousandths - 1000 * whole;
  return rest > 500 || (rest === 500 && whole % 2) ? whole + 1 : whole;
}

/** The map of the difference A - B as a canvas, with its mean and largest absolute value. */
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
