// A text that the model goes on with, with and without what the sliders add.
"use strict";

window.addEventListener("DOMContentLoaded", () => {
  const byId = (id) => document.getElementById(id);
  const form = byId("steer");
  const amounts = byId("amounts");

  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function say(text, wrong = false) {
    byId("state").className = wrong ? "error" : "";
    byId("state").textContent = text;
  }

  amounts.addEventListener("input", (event) => {
    event.target.closest("label").querySelector("output").textContent = event.target.value;
  });

  async function add(number) {
    if (amounts.querySelector(`[data-atom="${number}"]`)) return;
    const found = await window.itdaAsk(`${form.dataset.atom}${number}`, "GET");
    if (amounts.querySelector(`[data-atom="${number}"]`)) return; // asked for twice before the first answer came
    const row = element("div", undefined, "amount");
    row.dataset.atom = number;
    const what = element("span", undefined, "what");
    const link = element("a", `${number}`);
    link.href = `atoms/${number}.html`;
    what.append(link, " ");
    const part = found.parts[0];
    what.append(element("bdi", part.before.slice(-50)), element("mark", part.token), element("bdi", part.after.slice(0, 24)));
    const label = element("label");
    const input = element("input");
    Object.assign(input, { type: "range", min: -2, max: 2, step: 0.05, value: 0.5 });
    input.setAttribute("aria-label", `Strength of atom ${number}`);
    label.append("strength ", element("output", "0.5"), input);
    const away = element("button", "remove");
    away.type = "button";
    away.setAttribute("aria-label", `Remove atom ${number}`);
    away.addEventListener("click", () => row.remove());
    row.append(what, label, away);
    amounts.append(row);
  }

  async function tryToAdd(number) {
    try {
      await add(number);
      say("");
    } catch (error) {
      say(error.message, true);
    }
  }

  byId("add").addEventListener("click", () => {
    const number = byId("atom");
    if (number.value === "" || !number.checkValidity()) {
      number.reportValidity();
      return;
    }
    tryToAdd(Number(number.value));
  });
  byId("atom").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    byId("add").click();
  });
  const asked = /^#atom=(\d+)$/.exec(window.location.hash);
  if (asked) tryToAdd(Number(asked[1]));

  function table(found) {
    const made = element("table");
    made.append(element("caption", "The likeliest next tokens"));
    const head = made.createTHead().insertRow();
    for (const name of ["without steering", "steered"]) {
      const cell = element("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    const rows = made.createTBody();
    found.next_before.forEach((_, place) => {
      const row = rows.insertRow();
      for (const words of [found.next_before, found.next_after]) {
        const cell = row.insertCell();
        const code = element("code");
        code.append(element("bdi", words[place][0]));
        cell.append(code, ` ${(100 * words[place][1]).toFixed(1)}%`);
      }
    });
    return made;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    const rows = [...amounts.children].map((row) => ({
      atom: row.dataset.atom === undefined ? null : Number(row.dataset.atom),
      vector: row.dataset.vector ?? null,
      strength: Number(row.querySelector("input").value),
    }));
    const body = {
      text: byId("text").value,
      amounts: rows.filter((row) => row.strength !== 0),
      tokens: byId("tokens").value,
      count: Number(byId("count").value),
    };
    say("Running the model; the first time it is loaded …");
    button.disabled = true;
    try {
      const found = await window.itdaAsk(form.dataset.path, "POST", body);
      for (const side of ["before", "after"]) {
        byId(`prompt-${side}`).textContent = body.text;
        byId(side).textContent = found[side];
      }
      byId("kl").textContent =
        `Divergence of the predictions: ${found.kl.toFixed(4)} nats in the mean over the text, ` +
        `${found.kl_next.toFixed(4)} at the next token.`;
      byId("next").replaceChildren(table(found));
      byId("answer").hidden = false;
      say("");
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
  });
});
