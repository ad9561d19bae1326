// The state of the server, kept up to date by server-sent events: one with everything, then only
// changes. When the connection is lost, it is opened again, and starts with everything.

const AGAIN = 3000;

// Calls `changed(state, change)` after each event; `change` is null for a whole new state. Calls
// `linked(how, text)` when the connection changes.
export function follow(changed, linked) {
  let state = null;
  let last = 0;
  let source = null;

  const lost = (text) => {
    linked("lost", text);
    source?.close();
    source = null;
    setTimeout(open, AGAIN);
  };

  function open() {
    source = new EventSource("ui/events");
    last = Date.now();
    source.addEventListener("state", (event) => {
      state = JSON.parse(event.data);
      state.byName = new Map(state.models.map((model) => [model.name, model]));
      last = Date.now();
      linked("live", "Live");
      changed(state, null);
    });
    source.addEventListener("change", (event) => {
      if (!state) return;
      const change = JSON.parse(event.data);
      apply(state, change);
      last = Date.now();
      changed(state, change);
    });
    source.onerror = async () => {
      source?.close();
      source = null;
      lost(await reason());
    };
  }

  // A sleeping laptop keeps a connection that has ended.
  setInterval(() => {
    if (source && last && Date.now() - last > 15_000) lost("No news from the server; connecting again");
  }, 5000);
  open();
}

async function reason() {
  try {
    const response = await fetch("ui/watchers", { cache: "no-store" });
    const { open, most } = await response.json();
    if (open >= most) return `${most} pages are open already; waiting for one to close`;
    return "The connection was lost; connecting again";
  } catch {
    return "The server does not answer; trying again";
  }
}

export function apply(state, change) {
  state.time = change.time;
  state.totals = change.totals;
  state.memory = change.memory;
  if (change.server) state.server = change.server;
  if (change.endpoints) state.endpoints = change.endpoints;
  for (const name of change.gone) state.byName.delete(name);
  for (const model of change.models) state.byName.set(model.name, model);
  if (change.gone.length || change.models.length) state.models = [...state.byName.values()];
  if (change.refusals) state.refusals = change.refusals;
  for (const point of change.points) {
    state.history.points.push(point);
  }
  while (state.history.points.length > state.history.most) state.history.points.shift();
}
