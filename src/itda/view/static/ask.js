// What all pages ask the server with: one way to send, one way to say what went wrong.
"use strict";

window.itdaAsk = async (path, method, body) => {
  const secret = document.querySelector('meta[name="itda-token"]')?.content || "";
  const headers = { "Content-Type": "application/json", "X-Itda-Token": secret };
  const sent = body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent });
  } catch {
    throw new Error("The server does not answer. Is itda view still running?");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.message || `The server answered ${answer.status}.`);
  return found;
};
