// The table of atoms (search, sort, more) and the map that can be brushed. Text only ever becomes text nodes.
"use strict";

window.addEventListener("DOMContentLoaded", () => {
  const atoms = window.itdaAtoms;
  if (!atoms) return;
  const count = atoms.token.length;
  const PAGE = 100;
  const pages = atoms.pages && new Set(atoms.pages); // in files that were written out, not every atom has one
  const haystack = atoms.text.map((text, atom) => `${atom} ${atoms.token[atom]} ${text}`.toLowerCase());
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const filter = document.getElementById("filter");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const clear = document.getElementById("clear-map");
  const state = { column: "uses", down: true, shown: PAGE, chosen: null, rows: [] };

  const cell = (row, content, kind, tag) => {
    const td = document.createElement("td");
    if (kind) td.className = kind;
    let inner = td;
    for (const name of tag || []) {
      inner = inner.appendChild(document.createElement(name));
    }
    inner.append(content);
    row.append(td);
    return td;
  };

  function draw() {
    const rows = document.createDocumentFragment();
    for (const atom of state.rows.slice(0, state.shown)) {
      const row = document.createElement("tr");
      if (!pages || pages.has(atom)) {
        const link = document.createElement("a");
        link.href = `atoms/${atom}.html`;
        link.textContent = atom;
        cell(row, link, "number");
      } else {
        cell(row, atom, "number");
      }
      cell(row, atoms.token[atom], null, ["code", "bdi"]);
      cell(row, atoms.uses[atom].toLocaleString("en"), "number");
      cell(row, atoms.size[atom].toFixed(2), "number");
      cell(row, atoms.one_in[atom] === null ? "" : atoms.one_in[atom].toLocaleString("en"), "number");
      cell(row, atoms.text[atom], "wide", ["bdi"]);
      rows.append(row);
    }
    body.replaceChildren(rows);
    more.hidden = state.rows.length <= state.shown;
    found.textContent =
      state.rows.length === count
        ? `${count.toLocaleString("en")} atoms`
        : `${state.rows.length.toLocaleString("en")} of ${count.toLocaleString("en")} atoms`;
  }

  const orders = {};
  function ordered(column) {
    // Sorted once a column, whatever is typed afterwards
    if (!orders[column]) {
      const values = column === "atom" ? [...Array(count).keys()] : atoms[column];
      const order = [...Array(count).keys()];
      if (typeof values[0] === "string") {
        const keys = values.map((value) => value.trim().toLowerCase());
        order.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
      } else {
        order.sort((a, b) => (values[a] ?? Infinity) - (values[b] ?? Infinity) || a - b);
      }
      orders[column] = order;
    }
    return state.down ? [...orders[column]].reverse() : orders[column];
  }

  function update() {
    const wanted = filter.value.trim().toLowerCase();
    state.rows = ordered(state.column).filter(
      (atom) => (!wanted || haystack[atom].includes(wanted)) && (!state.chosen || state.chosen.has(atom)),
    );
    state.shown = PAGE;
    draw();
    paint();
  }

  filter.addEventListener("input", update);
  document.getElementById("search").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    state.shown += PAGE;
    draw();
  });
  for (const heading of table.tHead.querySelectorAll("th")) {
    const button = heading.querySelector("button");
    button.addEventListener("click", () => {
      const column = heading.dataset.column;
      state.down = state.column === column ? !state.down : column === "uses" || column === "size" || column === "one_in";
      state.column = column;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      update();
    });
    button.disabled = false;
  }

  // The map
  const canvas = document.getElementById("map");
  const pointed = document.getElementById("pointed");
  const context = canvas.getContext("2d");
  const side = 440;
  const margin = 12;
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = canvas.height = side * scale;
  const across = atoms.x.map((x) => margin + ((x + 1) / 2) * (side - 2 * margin));
  const down = atoms.y.map((y) => margin + ((1 - y) / 2) * (side - 2 * margin));
  let box = null;

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [plus, quiet, ink] = ["--plus", "--line", "--ink"].map((name) => style.getPropertyValue(name));
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, side, side);
    const shown = state.rows.length === count ? null : new Set(state.rows);
    const radius = count > 5000 ? 1.2 : 2;
    for (const part of shown ? [false, true] : [true]) {
      context.fillStyle = part ? plus : quiet;
      for (let atom = 0; atom < count; atom++) {
        if (!shown || shown.has(atom) === part) {
          context.fillRect(across[atom] - radius, down[atom] - radius, 2 * radius, 2 * radius);
        }
      }
    }
    if (box) {
      context.strokeStyle = ink;
      context.setLineDash([4, 3]);
      context.strokeRect(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0);
      context.setLineDash([]);
    }
  }

  function choose() {
    if (box) {
      const [left, right] = [Math.min(box.x0, box.x1), Math.max(box.x0, box.x1)];
      const [top, bottom] = [Math.min(box.y0, box.y1), Math.max(box.y0, box.y1)];
      state.chosen = new Set();
      for (let atom = 0; atom < count; atom++) {
        if (across[atom] >= left && across[atom] <= right && down[atom] >= top && down[atom] <= bottom) {
          state.chosen.add(atom);
        }
      }
    } else {
      state.chosen = null;
    }
    clear.hidden = !box;
    update();
  }

  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [((event.clientX - frame.left) / frame.width) * side, ((event.clientY - frame.top) / frame.height) * side];
  };
  let dragging = false;
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    dragging = true;
    canvas.setPointerCapture(event.pointerId);
    box = { x0: x, y0: y, x1: x, y1: y };
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (dragging) {
      box.x1 = x;
      box.y1 = y;
      paint();
      return;
    }
    let best = null;
    let distance = 64;
    for (let atom = 0; atom < count; atom++) {
      const away = (across[atom] - x) ** 2 + (down[atom] - y) ** 2;
      if (away < distance) [best, distance] = [atom, away];
    }
    pointed.textContent = best === null ? "" : `${best}: ${atoms.text[best]}`;
  });
  canvas.addEventListener("pointerup", () => {
    dragging = false;
    if (Math.abs(box.x1 - box.x0) < 4 && Math.abs(box.y1 - box.y0) < 4) box = null; // a click clears
    choose();
  });
  const reset = () => {
    box = null;
    choose();
  };
  clear.addEventListener("click", reset);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-20, 0], ArrowRight: [20, 0], ArrowUp: [0, -20], ArrowDown: [0, 20] }[event.key];
    if (event.key === "Escape") reset();
    if (!step) return;
    event.preventDefault();
    box ??= { x0: side / 2 - 50, y0: side / 2 - 50, x1: side / 2 + 50, y1: side / 2 + 50 };
    for (const [name, by] of [["x0", step[0]], ["x1", step[0]], ["y0", step[1]], ["y1", step[1]]]) box[name] += by;
    choose();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  filter.disabled = false;
  update();
});
