// The dialog of one model: its facts, and a form that sends it a request.

import { bytes, clock, count, el, millis, setText } from "./format.js";
import { form } from "./form.js";

const dialog = document.getElementById("model");
const title = document.getElementById("model-title");
const body = document.getElementById("model-body");

export function modelDialog(state) {
  let shown = null;
  let facts = null;

  document.getElementById("model-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    shown = null;
    if (location.hash.startsWith("#model=")) history.replaceState(null, "", location.pathname);
  });

  async function open(name) {
    const model = state().byName.get(name);
    shown = name;
    history.replaceState(null, "", `#model=${encodeURIComponent(name)}`);
    setText(title, model?.target ?? name);
    facts = el("dl", { class: "facts" });
    const rest = el("div", {}, el("p", { class: "note" }, "Reading the signature\u2026"));
    body.replaceChildren(facts, rest);
    if (!dialog.open) dialog.showModal();
    refresh();
    try {
      const response = await fetch(`ui/model?name=${encodeURIComponent(name)}`, { cache: "no-store" });
      const about = await response.json();
      if (shown !== name) return;
      if (!response.ok) throw new Error(about.message);
      rest.replaceChildren(signature(about), el("h3", {}, "Try it"), form(about));
    } catch (error) {
      if (shown === name) rest.replaceChildren(el("p", { class: "note" }, String(error.message ?? error)));
    }
  }

  // Shows the newest figures of the model.
  function refresh() {
    if (shown === null) return;
    const model = state().byName.get(shown);
    if (!model) {
      facts.replaceChildren(fact("State", "unloaded"));
      return;
    }
    const causes = Object.entries(model.causes ?? {}).map(([cause, times]) => `${cause} ${count(times)}`);
    facts.replaceChildren(
      fact("State", model.state),
      model.target ? fact("Name", model.name) : "",
      fact("Memory", bytes(model.memory) || "\u2013"),
      model.mapped ? fact("Mapped", bytes(model.mapped)) : "",
      model.shared ? fact("Shared with others", bytes(model.shared)) : "",
      fact("Requests", count(model.requests)),
      fact("Errors", count(model.errors)),
      model.cold ? fact("Waited for a load", count(model.cold)) : "",
      fact("p50", millis(model.p50) || "\u2013"),
      fact("p99", millis(model.p99) || "\u2013"),
      fact("Last answer", model.last ? clock(model.last) : "\u2013"),
      causes.length ? fact("Errors by cause", causes.join(", "), true) : "",
      model.error ? fact("Last error", `${clock(model.error.time)}  ${model.error.cause}: ${model.error.message}`, true) : "",
    );
  }

  return { open, refresh };
}

function fact(name, value, long = false) {
  return el("div", { class: long ? "long" : null }, el("dt", {}, name), el("dd", {}, value));
}

function signature(about) {
  const list = (name, specs) => (specs.length ? fact(name, specs.map((spec) => `${spec.name}: ${spec.type}`).join(", "), true) : "");
  const steps = about.steps.length ? fact("Steps", about.steps.join(" \u2192 "), true) : "";
  return el("div", {},
    el("h3", {}, "Signature"),
    el("dl", { class: "facts" },
      list("Inputs", about.inputs), list("Optional", about.optional), list("Outputs", about.outputs), steps, fact("Loaded from", about.url, true)),
  );
}
