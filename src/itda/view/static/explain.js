// A text token by token: its atoms, what is predicted, and what changes when an atom is scaled.
"use strict";

window.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("explain");
  const which = document.getElementById("which");
  const byId = (id) => document.getElementById(id);
  let current = null;
  let scales = {};
  let asked = 0; // an answer to an earlier question is no answer to the present one

  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}%`;

  function show(found) {
    current = found;
    byId("answer").hidden = false;
    byId("missed").textContent =
      (found.unexplained === null ? "Nothing of this was decomposed" : `${percent(found.unexplained)} unexplained in the mean`) +
      `, over ${found.tokens.length} tokens.` +
      (found.cut ? ` Only the first ${found.tokens.length} tokens are shown: more than the model reads at once.` : "");
    const tokens = byId("tokens");
    tokens.replaceChildren(
      ...found.tokens.map((token, index) => {
        const button = element("button", token.token || "∅", token.missed ? `m${token.missed}` : undefined);
        button.type = "button";
        button.tabIndex = index ? -1 : 0;
        button.setAttribute("aria-pressed", "false");
        button.title = token.left_out ? `not decomposed (${token.left_out})` : `${percent(token.unexplained)} unexplained`;
        button.addEventListener("click", () => choose(index));
        return button;
      }),
    );
    choose(Math.max(0, found.tokens.findLastIndex((token) => token.pieces.length)));
  }

  byId("tokens").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !current) return;
    event.preventDefault();
    const next = Math.min(Math.max(current.chosen + step, 0), current.tokens.length - 1);
    choose(next);
    byId("tokens").children[next].focus();
  });

  function choose(index) {
    if (index < 0) return;
    if (form) say("");
    current.chosen = index;
    scales = {};
    [...byId("tokens").children].forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === index));
      button.tabIndex = place === index ? 0 : -1;
    });
    const token = current.tokens[index];
    byId("token-heading").textContent = `Atoms of “${token.token}”`;
    const pieces = byId("pieces");
    if (token.left_out) {
      pieces.replaceChildren(element("p", `Not decomposed: a ${token.left_out} token.`, "quiet"));
    } else {
      pieces.replaceChildren(
        element("p", `${percent(token.unexplained)} of the activation is not explained.`, "quiet"),
        ...token.pieces.map((piece) => line(piece, index)),
      );
    }
    predictions(token, null);
  }

  function line(piece, index) {
    const row = element("div", undefined, "piece");
    const amount = element("div", `${piece.coefficient >= 0 ? "+" : ""}${piece.coefficient.toFixed(2)}`);
    amount.className = `number ${piece.coefficient >= 0 ? "plus" : "minus"}`;
    const what = element("div", undefined, "what");
    const link = element("a", `${piece.atom}`);
    link.href = `atoms/${piece.atom}.html`;
    what.append(link, " ");
    for (const [kind, text] of piece.parts) what.append(element(kind === "token" ? "mark" : "bdi", text));
    row.append(amount, what);
    if (form && current.predicts) {
      const scale = element("label");
      const value = element("output", "×1");
      const input = element("input");
      Object.assign(input, { type: "range", min: -2, max: 4, step: 0.5, value: 1 });
      input.setAttribute("aria-label", `Scale of atom ${piece.atom}; 0 leaves it out`);
      const leave = element("button", "leave out");
      leave.type = "button";
      leave.setAttribute("aria-pressed", "false");
      leave.setAttribute("aria-label", `Leave out atom ${piece.atom}`);
      const named = () => {
        value.textContent = `×${input.value}`;
        leave.setAttribute("aria-pressed", String(Number(input.value) === 0));
      };
      const apply = () => {
        scales[piece.atom] = Number(input.value);
        change(index);
      };
      input.addEventListener("input", named);
      input.addEventListener("change", apply);
      leave.addEventListener("click", () => {
        input.value = Number(input.value) === 0 ? 1 : 0;
        named();
        apply();
      });
      scale.append("scale ", value, input);
      const controls = element("div", undefined, "scale");
      controls.append(scale, leave);
      row.append(controls);
    }
    return row;
  }

  async function change(index) {
    const changes = Object.entries(scales).map(([atom, scale]) => ({ atom: Number(atom), scale }));
    const [text, number] = [current, ++asked];
    const isLate = () => number !== asked || text !== current || index !== current.chosen;
    try {
      say("Running the model …");
      const found = await window.itdaAsk(form.dataset.change, "POST", { text: current.text, token: index, changes });
      if (isLate()) return;
      predictions(current.tokens[index], found);
      say("");
    } catch (error) {
      if (!isLate()) say(error.message, true);
    }
  }

  function say(text, wrong = false) {
    byId("state").className = wrong ? "error" : "";
    byId("state").textContent = text;
  }

  function predictions(token, changed) {
    byId("predictions").hidden = !current.predicts;
    if (!current.predicts) return;
    const columns = [["the model", token.clean], ["with the reconstruction", token.rebuilt]];
    if (changed) columns.push(["with the atoms changed", changed.changed]);
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const [name] of columns) {
      const cell = element("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    const rows = table.createTBody();
    for (let place = 0; place < 8; place++) {
      const row = rows.insertRow();
      for (const [, words] of columns) {
        const cell = row.insertCell();
        if (!words[place]) continue;
        const code = element("code");
        code.append(element("bdi", words[place][0]));
        cell.append(code, ` ${percent(words[place][1])}`);
      }
    }
    const note = changed
      ? element("p", `Divergence at this token ${changed.kl.toFixed(4)} nats` +
          (changed.kl_later === null ? "." : `, over the tokens after it ${changed.kl_later.toFixed(4)}.`))
      : element("p", token.kl === null ? "" : `Divergence with the reconstruction ${token.kl.toFixed(4)} nats.`, "quiet");
    byId("next").replaceChildren(table, note);
  }

  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    say("Running the model; the first time it is loaded …");
    button.disabled = true;
    try {
      show(await window.itdaAsk(form.dataset.path, "POST", { text: byId("text").value }));
      say("");
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
  });
  if (which) {
    which.addEventListener("change", () => show(window.itdaExplained[Number(which.value)]));
    show(window.itdaExplained[0]);
  }
});
