"use strict";
// Draws the figures of coreward report as SVG: lines over steps, or one stacked bar per step. Texts of the runs go in
// through textContent alone.

const DATA = JSON.parse(document.getElementById("data").textContent);
const HEIGHT = 210, LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 24; // pixels, as the viewBox is as wide as its box
const off = new Set(); // numbers of the runs that are toggled off
let smoothing = 1; // steps in the trailing mean

function svg(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function html(name, className, text, parent) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function format(value) {
  if (value === "nan") return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(2).replace(/\.?0*e/, "e") : String(Number(value.toPrecision(4)));
}

// [{step, value, drawn}] of a line; value is a number or "nan", drawn the mean over the last `smoothing` steps, or null
// where the value is not finite.
function pointsOf(line) {
  const { steps, [line.metric]: values } = DATA.runs[line.run].series;
  const points = [];
  const recent = [];
  values.forEach((value, i) => {
    if (value === null) return;
    const step = steps[i];
    const finite = value !== "nan";
    if (finite) recent.push({ step, value });
    while (recent.length && recent[0].step <= step - smoothing) recent.shift();
    const drawn = finite ? recent.reduce((sum, one) => sum + one.value, 0) / recent.length : null;
    points.push({ step, value, drawn });
  });
  return points;
}

// Lowest and highest; Math.min(...values) fails on long runs.
function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

// Limits, position and ticks of the vertical axis for the values drawn.
function verticalAxis(figure, values) {
  const span = HEIGHT - TOP - BOTTOM;
  if (figure.log) {
    const powers = values.filter((value) => value > 0).map(Math.log10);
    const [lowest, highest] = powers.length ? extent(powers) : [0, 1];
    const first = Math.floor(lowest + 1e-9);
    const last = Math.max(first + 1, Math.ceil(highest - 1e-9));
    const every = Math.ceil((last - first) / 5);
    const marks = [];
    for (let power = first; power <= last; power += every) marks.push(10 ** power);
    // a zero has no place on this axis: it is drawn on the lower edge
    const position = (value) => (value > 0 ? Math.max(Math.log10(value), first) : first);
    return { marks, y: (value) => TOP + span * (1 - (position(value) - first) / (last - first)) };
  }
  let [low, high] = extent(figure.stacked ? [0, ...values] : values);
  const pad = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 0.1;
  const isShare = figure.unit === "accuracy" || figure.unit === "share";
  if (!figure.stacked) low = isShare && low >= 0 ? Math.max(0, low - pad) : low - pad;
  high = isShare && high <= 1 ? Math.min(1, high + pad) : high + pad;
  return { marks: ticks(low, high, 5), y: (value) => TOP + span * (1 - (value - low) / (high - low)) };
}

// Position and ticks of the horizontal axis, from LEFT to `right`. Bars have half a slot more on either side.
function horizontalAxis(steps, right, bars) {
  const first = steps[0], last = steps.at(-1);
  const margin = bars || first === last ? 0.5 : 0;
  const slot = (right - LEFT) / (last - first + 2 * margin);
  const marks = last > first ? ticks(first, last, 6).filter(Number.isInteger) : [first];
  return { right, slot, marks, x: (step) => LEFT + slot * (step - first + margin) };
}

function drawAxes(root, horizontal, vertical) {
  for (const mark of vertical.marks) {
    const y = vertical.y(mark);
    svg("line", { class: "grid", x1: LEFT, x2: horizontal.right, y1: y, y2: y }, root);
    svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, root).textContent = format(mark);
  }
  const base = HEIGHT - BOTTOM;
  svg("line", { class: "axis", x1: LEFT, x2: horizontal.right, y1: base, y2: base }, root);
  for (const mark of horizontal.marks) {
    const text = svg("text", { x: horizontal.x(mark), y: base + 16, "text-anchor": "middle" }, root);
    text.textContent = mark;
  }
}

function curve(points, x, y) {
  let path = "", pen = "M"; // a value that is not finite lifts the pen
  for (const { step, drawn } of points) {
    if (drawn === null) { pen = "M"; continue; }
    path += `${pen}${x(step).toFixed(1)} ${y(drawn).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function drawLines(root, lines, x, y) {
  for (const { line, points } of lines) {
    const style = `stroke: var(--${line.color})`;
    const dashes = line.dashed ? " dashed" : "";
    if (smoothing > 1) {
      const raw = points.map(({ step, value }) => ({ step, drawn: value === "nan" ? null : value }));
      svg("path", { class: `curve raw${dashes}`, style, d: curve(raw, x, y) }, root);
    }
    svg("path", { class: `curve${dashes}`, style, d: curve(points, x, y) }, root);
    if (points.length <= 20) {
      for (const { step, drawn } of points) {
        if (drawn !== null) svg("circle", { cx: x(step), cy: y(drawn), r: 2.1, style: `fill: var(--${line.color})` }, root);
      }
    }
  }
}

function stackedTotals(lines) {
  const totals = new Map();
  for (const { points } of lines) {
    for (const { step, drawn } of points) totals.set(step, (totals.get(step) || 0) + (drawn || 0));
  }
  return [...totals.values()];
}

function drawStack(root, lines, { x, slot }, y) {
  const width = Math.min(26, slot * 0.82);
  const below = new Map();
  for (const { line, points } of lines) {
    let path = "";
    for (const { step, drawn } of points) {
      const from = below.get(step) || 0, to = from + (drawn || 0);
      path += `M${(x(step) - width / 2).toFixed(2)} ${y(from).toFixed(2)}h${width.toFixed(2)}V${y(to).toFixed(2)}h${-width.toFixed(2)}z`;
      below.set(step, to);
    }
    svg("path", { style: `fill: var(--${line.color})`, d: path }, root);
  }
}

function showTip(figure, lines, step, place) {
  const tip = document.getElementById("tip");
  tip.replaceChildren();
  html("div", "", `step ${step}`, tip);
  let total = 0;
  for (const { line, points } of figure.stacked ? [...lines].reverse() : lines) {
    const point = points.find((one) => one.step === step);
    if (!point) continue;
    total += point.value;
    const row = html("div", "", undefined, tip);
    const name = html("span", "", undefined, row);
    html("i", "swatch", undefined, name).style.setProperty("--color", `var(--${line.color})`);
    name.append(line.label);
    html("span", "", format(point.value), row);
  }
  if (figure.stacked) {
    const row = html("div", "", undefined, tip);
    html("span", "", "in all", row);
    html("span", "", format(total), row);
  }
  const { width, height } = tip.getBoundingClientRect();
  const right = place.x + 16 + width > window.innerWidth;
  tip.style.left = `${Math.max(4, right ? place.x - 16 - width : place.x + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(place.y - height / 2, window.innerHeight - height - 6))}px`;
  tip.style.visibility = "visible";
}

function hideTip() {
  document.getElementById("tip").style.visibility = "hidden";
}

// Hover and arrow keys: the values of the nearest step.
function makeReadable(root, figure, lines, steps, x) {
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, root);
  let current = steps.length - 1;
  const show = (index, y) => {
    current = Math.max(0, Math.min(steps.length - 1, index));
    const at = x(steps[current]);
    for (const [key, value] of [["x1", at], ["x2", at], ["visibility", "visible"]]) cursor.setAttribute(key, value);
    const box = root.getBoundingClientRect();
    showTip(figure, lines, steps[current], { x: box.left + at, y });
  };
  const hide = () => { cursor.setAttribute("visibility", "hidden"); hideTip(); };
  const middle = () => { const box = root.getBoundingClientRect(); return box.top + box.height / 2; };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const at = event.clientX - box.left;
    let nearest = 0;
    steps.forEach((step, i) => { if (Math.abs(x(step) - at) < Math.abs(x(steps[nearest]) - at)) nearest = i; });
    show(nearest, event.clientY);
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(current + move, middle());
  });
}

function drawFigure(box) {
  const figure = DATA.figures[box.dataset.figure];
  const shown = figure.lines.filter((line) => !off.has(line.run));
  box.hidden = shown.length === 0;
  box.replaceChildren();
  if (box.hidden) return;
  const caption = html("figcaption", "", undefined, box);
  html("b", "", figure.title + (figure.unit && !["accuracy", "share"].includes(figure.unit) ? ` (${figure.unit})` : ""), caption);
  html("code", "", figure.metric, caption);
  const lines = shown.map((line) => ({ line, points: pointsOf(line) }));
  const steps = [...new Set(lines.flatMap(({ points }) => points.map(({ step }) => step)))].sort((a, b) => a - b);
  const width = box.clientWidth;
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0, role: "img" }, box);
  root.setAttribute("aria-label", `${figure.title}; arrow keys read values`);
  const horizontal = horizontalAxis(steps, width - RIGHT, figure.stacked);
  const drawn = figure.stacked
    ? stackedTotals(lines)
    : lines.flatMap(({ points }) => points.flatMap(({ drawn: mean, value }) => [mean, value]));
  const finite = drawn.filter((value) => typeof value === "number");
  const vertical = verticalAxis(figure, finite.length ? finite : [0]);
  drawAxes(root, horizontal, vertical);
  if (figure.stacked) drawStack(root, lines, horizontal, vertical.y);
  else drawLines(root, lines, horizontal.x, vertical.y);
  makeReadable(root, figure, lines, steps, horizontal.x);
  if (figure.lines[0].color.startsWith("phase")) drawKeys(box, shown);
}

function drawKeys(box, lines) {
  const keys = html("div", "keys", undefined, box);
  for (const line of lines) {
    const key = html("span", "", undefined, keys);
    html("i", "swatch", undefined, key).style.setProperty("--color", `var(--${line.color})`);
    key.append(line.label);
  }
}

// Figures are drawn when they come near the window: a page may have hundreds of long curves.
const boxes = [...document.querySelectorAll(".chart")];
const inSight = new Set();
const stale = new Set(boxes);

function drawInSight() {
  for (const box of inSight) if (stale.delete(box)) drawFigure(box);
}

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? inSight.add(target) : inSight.delete(target);
  drawInSight();
}, { rootMargin: "400px" });
boxes.forEach((box) => observer.observe(box));
window.addEventListener("resize", redraw);
window.addEventListener("beforeprint", () => {
  for (const box of stale) drawFigure(box);
  stale.clear();
});

function redraw() {
  hideTip();
  // also those out of sight, as far as whether they are there at all
  for (const box of boxes) {
    stale.add(box);
    box.hidden = DATA.figures[box.dataset.figure].lines.every((line) => off.has(line.run));
  }
  drawInSight();
}

for (const input of document.querySelectorAll("[data-toggle]")) {
  const run = Number(input.dataset.toggle);
  const update = () => {
    input.checked ? off.delete(run) : off.add(run);
    for (const node of document.querySelectorAll(`[data-run="${run}"]`)) node.hidden = !input.checked;
  };
  input.addEventListener("change", () => { update(); redraw(); });
  update(); // a browser may restore an earlier state of the page
}
const smoothingInput = document.getElementById("smoothing");
const smooth = () => { smoothing = Number(smoothingInput.value); redraw(); };
smoothingInput.addEventListener("change", smooth);
smooth();
