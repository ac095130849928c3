"use strict";

// The number under the pointer, or under the cursor that the arrow keys move, in every map of a head at once.
// All text is set as text: nothing of the data is ever read as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const readout = document.getElementById("readout");
const SVG = "http://www.w3.org/2000/svg";
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
let shown = null; // the figure whose numbers are shown
let cell = [0, 0]; // row and column

function axesOf(figure) {
  return data.axes[data.heads[figure.dataset.head].axes];
}

function show(figure, row, column, anchor) {
  if (shown !== figure) {
    hide();
  }
  shown = figure;
  cell = [row, column];
  const axes = axesOf(figure);
  for (const svg of figure.querySelectorAll("svg")) {
    for (const kind of ["cursor", "cursor inner"]) {
      const mark = svg.querySelector(`[class="${kind}"]`) ?? svg.appendChild(document.createElementNS(SVG, "rect"));
      mark.setAttribute("class", kind);
      mark.setAttribute("x", axes.left + column * axes.cell_width);
      mark.setAttribute("y", axes.top + row * axes.cell_height);
      mark.setAttribute("width", axes.cell_width);
      mark.setAttribute("height", axes.cell_height);
    }
  }
  readout.replaceChildren(...describe(figure, row, column).map(line));
  readout.hidden = false;
  place(anchor);
}

function hide() {
  for (const mark of shown?.querySelectorAll(".cursor") ?? []) {
    mark.remove();
  }
  shown = null;
  readout.hidden = true;
}

function describe(figure, row, column) {
  const head = data.heads[figure.dataset.head];
  const axes = data.axes[head.axes];
  const at = row * axes.columns + column;
  const isWeight = head.stage === "weight";
  const lines = [
    `query ${nameOf(axes.row_names, row)} ${isWeight ? "→ key" : "· component"} ${nameOf(axes.column_names, column)}`,
  ];
  if (head.values[at] !== null) {
    lines.push(`${head.stage} ${head.values[at]}`);
  } else if (head.values.slice(row * axes.columns, (row + 1) * axes.columns).every((value) => value === null)) {
    lines.push("empty row: this query sees no key");
  } else {
    lines.push("masked: this query may not attend to this key");
  }
  for (const [target, differences] of head.differences) {
    const difference = differences[at];
    lines.push(`${data.targets[target]} − reference: ${difference > 0 ? "+" : ""}${difference}`);
  }
  return lines;
}

function nameOf(names, index) {
  return names[index] === String(index) ? `${index}` : `${index} “${names[index]}”`;
}

function line(text) {
  const element = document.createElement("div");
  element.textContent = text;
  return element;
}

function place({ x, y }) {
  const box = readout.getBoundingClientRect();
  const right = x + 18 + box.width < innerWidth ? x + 18 : x - 18 - box.width;
  const below = y + 18 + box.height < innerHeight ? y + 18 : y - 18 - box.height;
  readout.style.left = `${Math.max(4, right)}px`;
  readout.style.top = `${Math.max(4, below)}px`;
}

function cellAt(svg, axes, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const row = Math.floor((point.y - axes.top) / axes.cell_height);
  const column = Math.floor((point.x - axes.left) / axes.cell_width);
  return row >= 0 && row < axes.rows && column >= 0 && column < axes.columns ? [row, column] : null;
}

function showByKey(figure, row, column) {
  const svg = figure.querySelector("svg");
  const axes = axesOf(figure);
  const corner = new DOMPoint(axes.left + (column + 1) * axes.cell_width, axes.top + (row + 1) * axes.cell_height);
  show(figure, row, column, corner.matrixTransform(svg.getScreenCTM()));
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.(".map svg");
  const figure = svg?.closest("figure");
  const found = figure && cellAt(svg, axesOf(figure), event);
  if (found) {
    show(figure, ...found, { x: event.clientX, y: event.clientY });
  } else if (!shown?.querySelector("svg:focus-visible")) {
    hide();
  }
});

for (const figure of document.querySelectorAll("figure")) {
  const first = figure.querySelector("svg");
  first.tabIndex = 0;
  first.addEventListener("focus", () => first.matches(":focus-visible") && showByKey(figure, 0, 0));
  first.addEventListener("blur", hide);
  first.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hide();
    }
    if (!(event.key in ARROWS)) {
      return;
    }
    event.preventDefault();
    const axes = axesOf(figure);
    const [down, right] = ARROWS[event.key];
    const row = Math.min(Math.max(cell[0] + down, 0), axes.rows - 1);
    const column = Math.min(Math.max(cell[1] + right, 0), axes.columns - 1);
    showByKey(figure, row, column);
  });
}

for (const element of document.querySelectorAll(".scripted")) {
  element.hidden = false;
}
