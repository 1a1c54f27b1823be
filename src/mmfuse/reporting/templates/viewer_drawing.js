"use strict";
// What is on the screen: the pictures, with the same position and zoom in all panes, and the numbers beside them.
const LARGEST = 64; // screen pixels per image pixel
const $ = (id) => document.getElementById(id);
const stage = $("stage");
const panes = [...stage.querySelectorAll(".pane")];
// the current view: every control changes it through `change`, and the page's address repeats it
const state = { dataset: 0, pair: 0, a: "", b: "", view: "slider", at: 50, gain: 4, scale: null, x: 0, y: 0 };
let shown = null; // { a, b }: the pictures on the screen
let difference = null; // of these two
let pointed = null; // the pixel under the pointer
let framed = 0; // the next requested drawing

const dataset = () => DATASETS[state.dataset];
const labelOf = (key) => dataset().layers.find((layer) => layer.key === key).label;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Return the scale (screen pixels per image pixel) and the image's point in the middle, kept inside the image. */
function place() {
  const box = panes[0].getBoundingClientRect();
  const { width, height } = shown.a;
  const fit = Math.min(box.width / width, box.height / height);
  const scale = state.scale ?? fit;
  const inside = (value, length, side) =>
    length * scale <= side ? length / 2 : clamp(value, side / scale / 2, length - side / scale / 2);
  return { box, fit, scale, x: inside(state.x, width, box.width), y: inside(state.y, height, box.height) };
}

function pixelAt(event) {
  const under = (box) => event.clientX >= box.left && event.clientX < box.right &&
    event.clientY >= box.top && event.clientY < box.bottom;
  const box = panes.map((pane) => pane.getBoundingClientRect()).find(under);
  if (!box || !shown) return null;
  const { scale, x, y } = place();
  const column = Math.floor((event.clientX - box.left - box.width / 2) / scale + x);
  const row = Math.floor((event.clientY - box.top - box.height / 2) / scale + y);
  return column >= 0 && row >= 0 && column < shown.a.width && row < shown.a.height ? [column, row] : null;
}

function draw() {
  framed ||= requestAnimationFrame(() => {
    framed = 0;
    if (!shown) return;
    paint();
    values();
    $("scale").textContent = `${(place().scale * 100).toFixed(0)} %`;
  });
}

/** Draw images into a pane, each between two fractions of its width. */
function put(pane, parts) {
  const { box, scale, x, y } = place();
  const canvas = pane.querySelector("canvas");
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  const context = canvas.getContext("2d");
  for (const { image, from, to } of parts) {
    context.save();
    context.beginPath();
    context.rect(from * canvas.width, 0, (to - from) * canvas.width, canvas.height);
    context.clip();
    context.translate((box.width * ratio) / 2, (box.height * ratio) / 2);
    context.scale(scale * ratio, scale * ratio);
    context.translate(-x, -y);
    // enlarged pixels stay sharp, and a reduced picture has no jagged lines
    context.imageSmoothingEnabled = scale * ratio < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0);
    context.restore();
  }
  return { context, ratio };
}

function paint() {
  const { a, b } = shown;
  const whole = (image) => [{ image, from: 0, to: 1 }];
  const drawn = [];
  if (state.view === "slider") {
    const cut = state.at / 100;
    drawn.push(put(panes[0], [{ image: a.canvas, from: 0, to: cut }, { image: b.canvas, from: cut, to: 1 }]));
    divider(drawn[0]);
  } else if (state.view === "side") {
    drawn.push(put(panes[0], whole(a.canvas)), put(panes[1], whole(b.canvas)));
  } else {
    if (difference?.gain !== state.gain) difference = subtracted(a, b, state.gain);
    drawn.push(put(panes[0], whole(difference.canvas)));
    const [mean, largest] = [difference.mean.toFixed(2), difference.largest];
    $("summary").textContent = `Luminance of A − B: mean |A − B| ${mean}, largest ${largest} of 255.`;
  }
  if (!pointed && stage.matches(":focus-visible")) drawn.forEach(cross);
}

function divider({ context, ratio }) {
  const { width, height } = context.canvas;
  const x = Math.round((state.at / 100) * width);
  context.fillStyle = "#000";
  context.fillRect(x - 1.5 * ratio, 0, 3 * ratio, height);
  context.fillStyle = "#fff";
  context.fillRect(x - 0.5 * ratio, 0, ratio, height);
  context.beginPath();
  context.arc(x, height / 2, 9 * ratio, 0, 2 * Math.PI);
  context.fill();
  context.lineWidth = 2 * ratio;
  context.stroke();
}

/** Draw a cross in the middle if the values are those of the pixel there. */
function cross({ context, ratio }) {
  const [x, y] = [context.canvas.width / 2, context.canvas.height / 2];
  for (const [ink, width] of [["#000", 3], ["#fff", 1]]) {
    [context.strokeStyle, context.lineWidth] = [ink, width * ratio];
    context.beginPath();
    for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * ratio * right, y + 4 * ratio * down);
      context.lineTo(x + 12 * ratio * right, y + 12 * ratio * down);
    }
    context.stroke();
  }
}

/** Show the values of the pixel under the pointer, or in the middle of the view if there is no pointer. */
function values() {
  const { x, y } = place();
  const [column, row] = pointed ?? [Math.floor(x), Math.floor(y)];
  const i = 4 * (row * shown.a.width + column);
  $("where").textContent = `x ${column}, y ${row}${pointed ? "" : " (middle of the view)"}`;
  for (const side of ["a", "b"]) {
    const { pixels, grey } = shown[side];
    $(`value-${side}`).textContent = grey ? pixels[i] : Array.from(pixels.subarray(i, i + 3)).join(" ");
    $(`luminance-${side}`).textContent = luminance(pixels, i);
  }
  const value = luminance(shown.a.pixels, i) - luminance(shown.b.pixels, i);
  $("luminance-d").textContent = String(value).replace("-", "−");
}

/** Every text goes through textContent, because names can be any text. */
function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Return the decimals with which the smallest of the values keeps about four digits, as in the report. */
function decimals(found) {
  const sizes = found.filter((value) => value).map(Math.abs);
  return sizes.length ? clamp(3 - Math.floor(Math.log10(Math.min(...sizes))), 1, 5) : 1;
}

function measures() {
  const rows = [];
  let convention = "";
  dataset().metrics.forEach((metric, number) => {
    if (metric.convention !== convention) {
      convention = metric.convention;
      const row = document.createElement("tr");
      row.append(make("th", convention, { scope: "rowgroup", colspan: 3 }));
      rows.push(row);
    }
    rows.push(measure(metric, ["a", "b"].map((side) => shown[side].scores?.[number] ?? null)));
  });
  $("metrics").replaceChildren(...rows);
}

function measure(metric, both) {
  const better = both.includes(null) ? 0 : Math.sign(both[0] - both[1]) * metric.sign;
  const head = make("th", "", { scope: "row" });
  head.append(make("abbr", metric.name, { title: metric.words }), { 1: " ↑", "-1": " ↓" }[metric.sign] ?? "");
  const row = document.createElement("tr");
  row.append(head);
  both.forEach((value, side) => {
    const text = value?.toFixed(decimals(both)).replace("-", "−") ?? "–";
    const cell = make("td", text, value === null ? {} : { title: value });
    if (better === 1 - 2 * side) {
      cell.className = "best";
      cell.append(make("span", " (better)", { class: "unseen" }));
    }
    row.append(cell);
  });
  return row;
}

/** Set the names of A and B on the pictures, and their descriptions for screen readers. */
function names() {
  const name = dataset().pairs[state.pair][1];
  const [a, b] = [labelOf(state.a), labelOf(state.b)];
  for (const tag of stage.querySelectorAll(".tag.a")) tag.textContent = `A: ${a}`;
  for (const tag of stage.querySelectorAll(".tag.b")) tag.textContent = `B: ${b}`;
  const words = {
    slider: `Left of the slider ${a}, right of it ${b}`,
    side: a,
    difference: `Difference of the luminance, ${a} minus ${b}`,
  };
  $("first").setAttribute("aria-label", `${words[state.view]}; ${name}`);
  $("second").setAttribute("aria-label", `${b}; ${name}`);
}
