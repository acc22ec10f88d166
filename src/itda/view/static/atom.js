// What an atom page asks of the server: the effect of leaving it out, and a note to keep.
"use strict";

window.addEventListener("DOMContentLoaded", () => {
  const send = window.itdaAsk;

  const measure = document.getElementById("measure");
  measure?.addEventListener("click", async () => {
    const place = document.getElementById("effect-answer");
    measure.disabled = true;
    place.textContent = "Running the model …";
    try {
      const found = await send(measure.dataset.path, "POST", {});
      const list = document.createElement("dl");
      list.className = "facts";
      const line = (name, value) => {
        const row = document.createElement("div");
        const label = document.createElement("dt");
        const text = document.createElement("dd");
        label.textContent = name;
        text.textContent = value;
        text.style.whiteSpace = "pre-wrap";
        row.append(label, text);
        list.append(row);
      };
      line("tokens changed", found.tokens);
      line(
        "divergence of the prediction there",
        `${found.kl.toFixed(4)} nats; a random direction as far: ${found.kl_random.toFixed(4)}`,
      );
      line("rise of the loss there", `${found.delta_ce.toFixed(4)} nats`);
      line("makes likelier", found.promotes.map(([word]) => word).join("  "));
      line("makes less likely", found.suppresses.map(([word]) => word).join("  "));
      place.replaceChildren(list);
      measure.hidden = true;
    } catch (error) {
      place.textContent = error.message;
      measure.disabled = false;
    }
  });

  const form = document.getElementById("note-form");
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const state = document.getElementById("note-state");
    try {
      await send(form.dataset.path, "PUT", { text: document.getElementById("note").value });
      state.textContent = "Saved.";
    } catch (error) {
      state.textContent = error.message;
    }
  });
});
