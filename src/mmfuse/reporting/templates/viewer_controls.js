"use strict";
// How the view changes: controls, keys, pointers, the page's address; and the loading that follows.
const VIEWS = ["slider", "side", "difference"];
const GAINS = [1, 2, 4, 8, 16];
let busy = false;
let stale = false; // the view has changed since loading started
let writing = 0;

function change(part) {
  Object.assign(state, part);
  if ("dataset" in part) choices(part.pair ?? 0);
  show();
  if (["dataset", "pair", "a", "b"].some((name) => name in part)) load();
  else if (shown) names();
  draw();
  clearTimeout(writing);
  writing = setTimeout(write, 200); // browsers refuse hundreds of changes a minute
}

/** Load the pictures of the state and show them; of several changes in the meantime, only the last counts. */
async function load() {
  stale = true;
  if (busy) return;
  busy = true;
  stage.setAttribute("aria-busy", "true");
  while (stale) {
    stale = false;
    const start = `${dataset().name}/${dataset().pairs[state.pair][0]}`;
    try {
      const [a, b] = await Promise.all([picture(`${start}/${state.a}`), picture(`${start}/${state.b}`)]);
      if (!stale) arrived({ a, b });
    } catch (error) {
      if (!stale) failed(error);
    }
  }
  busy = false;
  stage.setAttribute("aria-busy", "false");
}

function arrived(found) {
  [shown, difference] = [found, null];
  const { width, height } = shown.a;
  if (pointed && (pointed[0] >= width || pointed[1] >= height)) pointed = null;
  stage.style.setProperty("--ratio", width / height);
  $("status").textContent =
    `${dataset().title}: ${dataset().pairs[state.pair][1]}, ${width} × ${height} pixels. ` +
    `A is ${labelOf(state.a)}, B is ${labelOf(state.b)}.`;
  names();
  measures();
  draw();
}

function failed(error) {
  shown = null;
  for (const canvas of stage.querySelectorAll("canvas")) canvas.width = 0;
  for (const cell of document.querySelectorAll("#where, .pixel tbody td")) cell.textContent = "";
  $("metrics").replaceChildren();
  $("status").textContent = `Cannot show this picture. ${error.message}.`;
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", text, { value })));
}

/** Fill the menus with the pictures and layers of the dataset. */
function choices(pair) {
  const keys = dataset().layers.map((layer) => layer.key);
  state.pair = clamp(pair, 0, dataset().pairs.length - 1);
  // two results if there are two, else a source and a result
  if (!keys.includes(state.a)) state.a = keys[Math.min(2, keys.length - 2)];
  if (!keys.includes(state.b)) state.b = keys[keys.length - 1];
  options($("image"), dataset().pairs.map(([, name], number) => [number, name]));
  for (const side of ["a", "b"]) options($(side), dataset().layers.map(({ key, label }) => [key, label]));
}

/** Set the controls to the state. */
function show() {
  const count = dataset().pairs.length;
  $("dataset").value = state.dataset;
  $("image").value = state.pair;
  $("count").textContent = `${state.pair + 1} of ${count}`;
  for (const name of ["a", "b", "at", "gain"]) $(name).value = state[name];
  $("previous").disabled = state.pair === 0;
  $("next").disabled = state.pair === count - 1;
  document.querySelector(`input[name=view][value=${state.view}]`).checked = true;
  document.querySelector(".under.slider").hidden = state.view !== "slider";
  document.querySelector(".under.difference").hidden = state.view !== "difference";
  panes[1].hidden = state.view !== "side";
  panes[0].querySelector(".tag.a").hidden = state.view === "difference";
  panes[0].querySelector(".tag.b").hidden = state.view !== "slider";
  stage.classList.toggle("enlarged", state.scale !== null);
  $("low").textContent = `B brighter by ${Math.round(255 / state.gain)}`;
  $("high").textContent = `A brighter by ${Math.round(255 / state.gain)}`;
}

function write() {
  const { name, pairs } = dataset();
  const parts = { dataset: name, image: pairs[state.pair][1], a: state.a, b: state.b, view: state.view };
  if (state.view === "slider") parts.at = state.at;
  if (state.view === "difference") parts.gain = state.gain;
  if (state.scale !== null) {
    const { scale, x, y } = shown ? place() : state;
    Object.assign(parts, { zoom: +scale.toFixed(3), x: +x.toFixed(1), y: +y.toFixed(1) });
  }
  history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
}

/** Read the view from the address, as far as the study has it. */
function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high) => {
    const value = parseFloat(asked.get(name));
    return Number.isFinite(value) ? clamp(value, low, high) : null;
  };
  const found = { dataset: Math.max(0, DATASETS.findIndex((one) => one.name === asked.get("dataset"))) };
  const { pairs, layers } = DATASETS[found.dataset];
  found.pair = Math.max(0, pairs.findIndex(([, name]) => name === asked.get("image")));
  for (const side of ["a", "b"]) {
    if (layers.some((layer) => layer.key === asked.get(side))) found[side] = asked.get(side);
  }
  if (VIEWS.includes(asked.get("view"))) found.view = asked.get("view");
  if (GAINS.includes(+asked.get("gain"))) found.gain = +asked.get("gain");
  found.at = number("at", 0, 100) ?? state.at;
  found.scale = number("zoom", 0.01, LARGEST);
  found.x = number("x", 0, 1e6) ?? 0;
  found.y = number("y", 0, 1e6) ?? 0;
  return found;
}

// ---- actions ---------------------------------------------------------------------------------------------------

function step(by) {
  const pair = clamp(state.pair + by, 0, dataset().pairs.length - 1);
  if (pair !== state.pair) change({ pair });
}

const slideTo = (at) => change({ at: clamp(Math.round(at), 0, 100) });
const swap = () => change({ a: state.b, b: state.a });
const fit = () => change({ scale: null });
const one = () => shown && change({ scale: 1, x: place().x, y: place().y });

/** Zoom by a factor; the image's point at (left, top) of the pane, or in its middle, stays fixed. */
function zoom(factor, left, top) {
  if (!shown) return;
  const { box, fit: whole, scale, x, y } = place();
  const next = clamp(scale * factor, Math.min(whole, 1), LARGEST);
  if (factor < 1 && next <= whole && scale >= whole) {
    fit();
    return;
  }
  const right = (left ?? box.width / 2) - box.width / 2;
  const down = (top ?? box.height / 2) - box.height / 2;
  change({ scale: next, x: x + right / scale - right / next, y: y + down / scale - down / next });
}

/** Move the view over the pictures by screen pixels. */
function move(right, down) {
  if (!shown || state.scale === null) return;
  const { scale, x, y } = place();
  change({ x: x + right / scale, y: y + down / scale });
}

// ---- keys ------------------------------------------------------------------------------------------------------

const sideways = (by) => (state.view === "slider" ? slideTo(state.at + 2 * by) : step(by));
const KEYS = {
  ArrowUp: () => step(-1),
  ArrowDown: () => step(1),
  ArrowLeft: () => sideways(-1),
  ArrowRight: () => sideways(1),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  0: fit,
  1: one,
  s: () => change({ view: "slider" }),
  b: () => change({ view: "side" }),
  d: () => change({ view: "difference" }),
  x: swap,
  "?": () => $("help").showModal(),
};
const MOVES = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };

function pressedKey(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || target.matches("select")) return;
  if (target.matches("input") && key.startsWith("Arrow")) return; // the control's own keys
  const box = panes[0].getBoundingClientRect();
  const [right, down] = (event.shiftKey && MOVES[key]) || [0, 0];
  const action = right || down ? () => move(right * box.width, down * box.height) : KEYS[key];
  if (!action) return;
  event.preventDefault();
  pointed = null;
  action();
}

// ---- pointers: one drags the slider or the pictures, two zoom ----------------------------------------------------

const down = new Map();
let dividing = false;

function onDivider(event) {
  const box = panes[0].getBoundingClientRect();
  const reach = event.pointerType === "touch" ? 24 : 10;
  return state.view === "slider" && Math.abs(event.clientX - box.left - (state.at / 100) * box.width) < reach;
}

function pressedPointer(event) {
  if (event.button !== 0) return;
  dividing = down.size === 0 && onDivider(event);
  down.set(event.pointerId, [event.clientX, event.clientY]);
  stage.setPointerCapture(event.pointerId);
  stage.classList.toggle("moving", !dividing);
}

function movedPointer(event) {
  const before = down.get(event.pointerId);
  const now = [event.clientX, event.clientY];
  if (before) {
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
    down.set(event.pointerId, now);
    const box = panes[0].getBoundingClientRect();
    if (other) pinch(other, before, now);
    else if (dividing) slideTo(((now[0] - box.left) / box.width) * 100);
    else move(before[0] - now[0], before[1] - now[1]);
  }
  stage.classList.toggle("dividing", before ? dividing : onDivider(event));
  pointed = pixelAt(event);
  draw();
}

function pinch(other, before, now) {
  const away = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
  const [left, top] = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
  const boxes = panes.map((pane) => pane.getBoundingClientRect());
  const box = boxes.find((one) => left < one.right && top < one.bottom) ?? boxes[0]; // the pane between the fingers
  const factor = away(now) / away(before);
  if (state.scale === null && factor > 1) change({ scale: place().scale });
  move((before[0] - now[0]) / 2, (before[1] - now[1]) / 2); // first, while both positions have the same scale
  zoom(factor, left - box.left, top - box.top);
}

/** We handle two fingers, even where one finger may scroll the page. */
function heldTouches(event) {
  if (event.touches.length > 1 && event.cancelable) event.preventDefault();
}

function releasedPointer(event) {
  down.delete(event.pointerId);
  if (down.size === 0) dividing = false;
  stage.classList.toggle("moving", down.size > 0 && !dividing);
}

function turnedWheel(event) {
  const box = event.target.closest(".pane")?.getBoundingClientRect();
  const nothing = event.deltaY > 0 && state.scale === null; // the page keeps scrolling
  if (!box || event.ctrlKey || nothing) return; // with Ctrl the browser zooms the page
  event.preventDefault();
  const turn = clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200);
  zoom(Math.exp(-turn / 500), event.clientX - box.left, event.clientY - box.top);
}

// ---- start -----------------------------------------------------------------------------------------------------

function listen() {
  const on = (id, event, action) => $(id).addEventListener(event, action);
  on("controls", "submit", (event) => event.preventDefault());
  on("dataset", "change", () => change({ dataset: +$("dataset").value, scale: null }));
  on("image", "change", () => change({ pair: +$("image").value }));
  for (const side of ["a", "b"]) on(side, "change", () => change({ [side]: $(side).value }));
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("swap", "click", swap);
  on("at", "input", () => slideTo(+$("at").value));
  on("gain", "change", () => change({ gain: +$("gain").value }));
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", () => change({ view: radio.value }));
  }
  on("in", "click", () => zoom(1.25));
  on("out", "click", () => zoom(0.8));
  on("fit", "click", fit);
  on("one", "click", one);
  on("ask", "click", () => $("help").showModal());
  document.addEventListener("keydown", pressedKey);
  on("stage", "pointerdown", pressedPointer);
  on("stage", "pointermove", movedPointer);
  on("stage", "pointerup", releasedPointer);
  on("stage", "pointercancel", releasedPointer);
  on("stage", "pointerleave", () => {
    pointed = null;
    draw();
  });
  on("stage", "focus", draw);
  on("stage", "blur", draw);
  stage.addEventListener("wheel", turnedWheel, { passive: false });
  stage.addEventListener("touchstart", heldTouches, { passive: false });
  stage.addEventListener("touchmove", heldTouches, { passive: false });
  window.addEventListener("hashchange", () => change(read()));
  new ResizeObserver(draw).observe(stage);
}

if (DATASETS.length) {
  options($("dataset"), DATASETS.map((one, number) => [number, one.name]));
  listen();
  change(read());
} else {
  $("status").textContent = "This study has no test pictures.";
}
