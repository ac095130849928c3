"use strict";

// The list of cases: searched, filtered, sorted, and opened one by one; the matrix follows the same filters.
// What is shown stands in the address behind #, so that it can be linked to: #target=torch.sdpa&status=fail&sort=-ratio.
// All text is set as text: nothing of the data is ever read as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const FILTERS = ["q", "target", "status", "dtype", "direction", "clause", "order"];
const FAILED = new Set(["fail", "error", "crash", "timeout", "nondeterministic"]);
const PAGE = 200; // rows that are shown before "show more"
const CELL = { smallest: 5, largest: 22, side: 240 }; // pixels of a map
const body = document.querySelector("#cases tbody");
const rows = data.results.map(([target, which, status, ratio, rms, bias, message, seconds, profile, weakest, worst]) => {
  const found = data.cases[which];
  const row = { ...found, target: data.targets[target], status, ratio, rms, bias, seconds, profile, weakest, worst };
  row.message = data.messages[message];
  row.text = [row.target, row.case, row.operation, row.clauses.join(" "), row.status, row.message, row.description];
  row.text = row.text.join("\n").toLowerCase();
  return row;
});
let state = {};
let limit = PAGE;

function number(value) {
  const words = { nan: Infinity, inf: Infinity, "-inf": -Infinity }; // NaN is as bad as can be
  return value === null ? -1 : (words[value] ?? value);
}

function show(value, sign = false) {
  if (value === null) {
    return "";
  }
  const parsed = typeof value === "string" ? NaN : value;
  if (Number.isNaN(parsed)) {
    return String(value);
  }
  const size = Math.abs(parsed);
  const text = size === 0 ? "0" : size >= 1000 || size < 0.005 ? parsed.toExponential(1) : parsed.toFixed(2);
  return sign && parsed > 0 ? `+${text}` : text;
}

function matches(row) {
  return (
    (!state.target || row.target === state.target) &&
    (!state.dtype || row.dtype === state.dtype) &&
    (!state.direction || row.direction === state.direction) &&
    (!state.clause || row.clauses.includes(state.clause)) &&
    (!state.status || row.status === state.status || (state.status === "failed" && FAILED.has(row.status))) &&
    (!state.case || row.case === state.case) &&
    (!state.q || state.q.toLowerCase().split(/\s+/).every((word) => row.text.includes(word)))
  );
}

const NUMBERS = new Set(["ratio", "rms", "bias", "seconds"]);

function compare(left, right, key) {
  if (NUMBERS.has(key)) {
    const [a, b] = [left, right].map((row) => (key === "bias" ? Math.abs(number(row.bias ?? 0)) : number(row[key])));
    return a === b ? 0 : a > b ? 1 : -1;
  }
  const [a, b] = [left, right].map((row) => String(key === "clauses" ? row.clauses.join(" ") : row[key]));
  return a.localeCompare(b, "en", { numeric: true });
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function render() {
  const found = rows.filter(matches);
  const key = (state.sort ?? "").replace(/^-/, "");
  if (key) {
    const sign = state.sort.startsWith("-") ? -1 : 1;
    found.sort((left, right) => sign * compare(left, right, key));
  }
  for (const heading of document.querySelectorAll("#cases th")) {
    const order = state.sort?.startsWith("-") ? "descending" : "ascending";
    heading.setAttribute("aria-sort", heading.dataset.sort === key ? order : "none");
  }
  const shown = found.slice(0, limit);
  body.replaceChildren(...shown.map(line));
  document.getElementById("more").hidden = shown.length === found.length;
  const failed = found.filter((row) => FAILED.has(row.status)).length;
  const cut = shown.length < found.length ? `, the first ${shown.length} are shown` : "";
  document.getElementById("count").textContent =
    `${found.length} of ${rows.length} cases, ${failed} of them do not conform${cut}`;
  if (state.case && found.length) {
    body.querySelector(".open").click();
  }
  renderMatrix(state.case && found.length ? found[0].clauses : null);
}

function line(row) {
  const name = element("button", { type: "button", className: "open", textContent: row.case });
  name.setAttribute("aria-expanded", "false");
  const status = FAILED.has(row.status) ? "fail" : row.status;
  const made = element(
    "tr",
    {},
    element("td", {}, element("span", { className: `status ${status}`, textContent: row.status.replace("_", " ") })),
    element("td", { className: "name" }, element("bdi", { textContent: row.target })),
    element("td", { className: "name" }, name),
    element("td", { textContent: row.clauses.join(" ") }),
    element("td", { textContent: row.dtype }),
    element("td", { textContent: row.direction }),
    element("td", { className: "number", textContent: show(row.ratio) }),
    element("td", { className: "number", textContent: show(row.rms) }),
    element("td", { className: "number", textContent: show(row.bias, true) }),
    element("td", { className: "number", textContent: show(row.seconds * 1000) }),
  );
  name.addEventListener("click", () => {
    const isOpen = name.getAttribute("aria-expanded") === "true";
    name.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      made.nextSibling.remove();
    } else {
      made.after(element("tr", { className: "details" }, element("td", { colSpan: 10 }, ...details(row))));
    }
  });
  return made;
}

function details(row) {
  const list = element("dl");
  const add = (term, text) => {
    if (text) {
      list.append(element("dt", { textContent: term }), element("dd", { textContent: text }));
    }
  };
  add("message", row.message);
  add("hunts", row.description);
  add("operation", `${row.operation}, level ${row.level}`);
  add("options", row.options);
  add("features", row.features);
  add("profile", row.profile + (row.weakest ? `; it would pass under ${row.weakest}` : ""));
  if (row.worst) {
    const [result, place, got, expected, bound] = row.worst;
    add("worst element", `${result}[${place.join(", ")}]: got ${got}, expected ${expected} ± ${bound}`);
  }
  for (const one of data.diagnoses.filter((each) => each.target === row.target && each.cases.includes(row.case))) {
    add("likely cause", one.cause + (one.clause ? ` (${one.clause})` : ""));
  }
  add("to run it", `attnspec verify ${quote(row.target)} --case ${quote(row.case)}`);
  const map = data.maps.find((each) => each.target === row.target && each.case === row.case);
  if (map) {
    return [list, mapsOf(map)];
  }
  const isOne = FAILED.has(row.status) || row.status === "quality_warning";
  const text = "No map of this case is in the report: of each target it holds one for each design that fails, up to 40.";
  return isOne && row.worst ? [list, element("p", { className: "quiet", textContent: text })] : [list];
}

function quote(text) {
  return /^[\w.:/@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// Heat maps.

function mapsOf(map) {
  const [row, column] = map.start;
  const where = [...map.place, "…"].join(", ");
  const box = element("div", { className: "maps" });
  const readout = element("p", { className: "quiet readout", textContent: "Point at a cell, or use Tab and the arrow keys." });
  const add = (title, values, colour, about, say) =>
    box.append(heatMap({ title, values, colour, about, readout, say }));
  const named = (i, j) => `${map.result}[${[...map.place, row + i, column + j].join(", ")}]`;
  add(`error / bound of ${map.result}[${where}]`, map.ratios, ratioColour, "red: outside the bound", (i, j) =>
    `${named(i, j)}: error / bound ${show(map.ratios[i][j], true)}, bound ${show(map.bounds[i][j])}`);
  add("bound", map.bounds, scaleOf(map.bounds, Math.log10), "dark: narrow, light: wide", (i, j) =>
    `${named(i, j)}: bound ${show(map.bounds[i][j])}`);
  if (map.weights) {
    add("exact weights: queries × keys", map.weights, scaleOf(map.weights, (value) => value), "blank: masked", (i, j) =>
      `query ${i}, key ${j}: ${map.weights[i][j] === null ? "masked" : `weight ${show(map.weights[i][j])}`}`);
  }
  return element("div", {}, box, readout);
}

function heatMap({ title, values, colour, about, readout, say }) {
  const [height, width] = [values.length, values[0]?.length ?? 0];
  const cell = Math.max(CELL.smallest, Math.min(CELL.largest, Math.floor(CELL.side / Math.max(width, height, 1))));
  const canvas = element("canvas", { width: width * cell, height: height * cell, tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}, ${height} rows and ${width} columns`);
  const context = canvas.getContext("2d");
  let at = [0, 0];
  const draw = (isMarked) => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    values.forEach((line, i) => line.forEach((value, j) => {
      if (value !== null) {
        context.fillStyle = colour(value);
        context.fillRect(j * cell, i * cell, cell, cell);
      }
    }));
    if (isMarked) {
      context.strokeStyle = "#1f5edb";
      context.lineWidth = 2;
      context.strokeRect(at[1] * cell + 1, at[0] * cell + 1, cell - 2, cell - 2);
    }
  };
  const move = (i, j) => {
    at = [Math.max(0, Math.min(height - 1, i)), Math.max(0, Math.min(width - 1, j))];
    draw(true);
    readout.textContent = say(...at);
  };
  canvas.addEventListener("pointermove", (event) => move(Math.floor(event.offsetY / cell), Math.floor(event.offsetX / cell)));
  canvas.addEventListener("pointerleave", () => draw(false));
  canvas.addEventListener("blur", () => draw(false));
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && move(...at));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      event.preventDefault();
      move(at[0] + step[0], at[1] + step[1]);
    }
  });
  draw(false);
  return element("figure", {}, element("figcaption", { textContent: `${title} (${about})` }), canvas);
}

function ratioColour(value) {
  const size = Math.abs(typeof value === "string" ? Infinity : value);
  if (size <= 1) {
    return mix([236, 242, 236], [120, 180, 135], size); // within its bound: grey to green
  }
  return mix([244, 150, 110], [150, 10, 30], Math.min(1, Math.log10(size) / 6)); // outside: orange to dark red
}

function scaleOf(matrix, scale) {
  const known = matrix.flat().filter((value) => typeof value === "number").map(scale).filter(Number.isFinite);
  const [low, high] = known.reduce(([least, most], one) => [Math.min(least, one), Math.max(most, one)], [Infinity, -Infinity]);
  return (value) => {
    const at = typeof value === "number" ? scale(value) : NaN;
    if (Number.isNaN(at)) {
      return "rgb(219 39 190)"; // not a number
    }
    return mix([38, 50, 90], [250, 220, 120], at === -Infinity ? 0 : high > low ? (at - low) / (high - low) : 0.5);
  };
}

function mix(from, to, share) {
  const part = Math.max(0, Math.min(1, share));
  return `rgb(${from.map((one, i) => Math.round(one + part * (to[i] - one))).join(" ")})`;
}

// The matrix.

function renderMatrix(clauses) {
  const matrix = document.getElementById("matrix");
  for (const place of document.querySelectorAll("[data-target]")) {
    place.hidden = Boolean(state.target) && data.targets[place.dataset.target] !== state.target;
  }
  const wanted = { failed: "deviates", quality_warning: "warning", unsupported: "unsupported", pass: "conforms" };
  const status = state.status ? (wanted[state.status] ?? "deviates") : "";
  for (const row of matrix.querySelectorAll("tbody tr")) {
    let isSeen = false;
    for (const cell of row.querySelectorAll(".cell")) {
      const fits = (!state.dtype || cell.dataset.dtype === state.dtype) && (!status || cell.dataset.status === status);
      cell.classList.toggle("dim", !fits);
      isSeen ||= fits && Boolean(cell.dataset.status) && !cell.closest("td").hidden;
    }
    const isOther = state.clause && row.dataset.clause !== state.clause;
    row.hidden = !isSeen || Boolean(isOther) || Boolean(clauses && !clauses.includes(row.dataset.clause));
  }
  const heads = [...matrix.querySelectorAll("thead th")];
  const failing = heads.reduce((all, head) => ({ ...all, [head.dataset.target]: Number(head.dataset.failing) }), {});
  const order = Object.keys(data.targets).sort((left, right) =>
    state.order === "name" ? data.targets[left].localeCompare(data.targets[right], "en")
    : state.order === "failing" ? failing[right] - failing[left] || left - right
    : left - right);
  for (const row of matrix.querySelectorAll("tr")) {
    const cells = Object.fromEntries([...row.querySelectorAll("[data-target]")].map((one) => [one.dataset.target, one]));
    row.append(...order.map((one) => cells[one]));
  }
}

// What is shown, and the address.

function read() {
  state = Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].filter(([, value]) => value !== ""));
  for (const name of FILTERS) {
    const control = document.getElementById(name);
    control.value = state[name] ?? "";
    if (control.value !== (state[name] ?? "")) {
      control.value = ""; // the address names what is not there: it filters everything out, and `clear` helps
    }
  }
  limit = PAGE;
  render();
}

function write(changes) {
  state = Object.fromEntries(Object.entries({ ...state, ...changes }).filter(([, value]) => value));
  const text = new URLSearchParams(state).toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  limit = PAGE;
  render();
}

if (body) {
  for (const name of FILTERS) {
    document.getElementById(name).addEventListener("input", (event) => write({ [name]: event.target.value, case: "" }));
  }
  for (const heading of document.querySelectorAll("#cases th")) {
    heading.firstElementChild.addEventListener("click", () => {
      const key = heading.dataset.sort;
      const isNumber = NUMBERS.has(key); // the largest first: they are what one looks for
      const [first, second] = isNumber ? [`-${key}`, key] : [key, `-${key}`];
      write({ sort: state.sort === first ? second : first });
    });
  }
  document.getElementById("clear").addEventListener("click", () => {
    history.replaceState(null, "", location.pathname + location.search);
    read();
  });
  document.getElementById("more").addEventListener("click", () => {
    limit += PAGE;
    render();
  });
  addEventListener("hashchange", read);
  for (const place of document.querySelectorAll(".scripted")) {
    place.hidden = false;
  }
  read();
}
