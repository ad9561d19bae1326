// The page: connects the parts to the state of the server.

import { charts } from "./charts.js";
import { endpoints } from "./endpoint.js";
import { el, setText } from "./format.js";
import { follow } from "./live.js";
import { modelDialog } from "./model.js";
import { figures, header, ledger, refusals } from "./overview.js";
import { table } from "./table.js";

let state = null;
const link = document.getElementById("link");
const dialog = modelDialog(() => state);
const showModels = table((name) => dialog.open(name));
let drawn = null;

function empty() {
  const box = document.getElementById("empty");
  const none = !state.models.length;
  box.hidden = !none;
  if (!none || box.children.length) return;
  const here = `${location.protocol}//${location.host}`;
  const { server } = state;
  const target = "-H 'X-Amzn-SageMaker-Target-Model: NAME'";
  const [words, command] = server.by_target
    ? ["No model is loaded yet. The first request that names a model loads it:", `curl ${here}/invocations ${target} -d '[[5.1, 3.5, 1.4, 0.2]]'`]
    : server.loads
      ? ["No model is loaded yet. Load one:", `curl ${here}/models -d '{"model_name": "NAME", "url": "${server.example_url ?? "/opt/ml/models/NAME/model"}"}'`]
      : ["The model is still loading; this page will show it.", ""];
  box.replaceChildren(el("p", {}, words), command ? el("pre", {}, command) : "");
}

// The model that an address asks for; null for others.
function modelOf(hash) {
  try {
    return hash.startsWith("#model=") ? decodeURIComponent(hash.slice(7)) : null;
  } catch {
    return null;
  }
}

function changed(next, change) {
  state = next;
  header(state);
  figures(state);
  ledger(state);
  refusals(state, !change || change.refusals);
  if (!drawn) {
    drawn = charts(() => state);
    document.getElementById("charts").replaceChildren(...drawn.map((one) => one.card));
  }
  for (const one of drawn) one.show(state.history, state.time);
  if (state.server.kind === "endpoint") {
    if (!change || change.endpoints) endpoints(state);
  } else {
    document.getElementById("models").hidden = false;
    if (!change || change.models.length || change.gone.length) showModels(state.models);
    empty();
  }
  dialog.refresh();
  if (!change) {
    const asked = modelOf(location.hash);
    if (asked && state.byName.has(asked) && !document.querySelector("dialog[open]")) dialog.open(asked);
  }
}

follow(changed, (how, text) => {
  link.dataset.state = how;
  setText(link, text);
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && state) changed(state, null);
});
