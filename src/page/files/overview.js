// The figures at the top, the memory ledger and the last refusals.

import { bytes, clock, count, el, millis, rate, setText, short, span } from "./format.js";

const byId = (id) => document.getElementById(id);

export function header(state) {
  const { server } = state;
  const parts = [server.kind === "endpoint" ? server.mode : `${server.mode} mode`, `version ${server.version}`, `up ${span((state.time - server.started) / 1000)}`];
  setText(byId("server"), parts.join(" \u00b7 "));
  const title = server.kind === "endpoint" ? "Longshore: local endpoint" : "Longshore";
  if (document.title !== title) document.title = title;
}

// A figure: its name, its value, what follows it in small letters, and whether it is bad news.
function figure(name, value, more = "", bad = false) {
  return { name, value, more, bad };
}

export function figures(state) {
  const { totals, memory, history } = state;
  const lately = history.points.slice(-2);
  const seconds = Math.max(1, lately.length * history.step);
  const recent = lately.reduce((sum, point) => sum + point.requests, 0) / seconds;
  const errors = history.points.reduce((sum, point) => sum + point.errors, 0);
  const latency = history.points.findLast((point) => point.p99 !== null && point.p99 !== undefined);
  const shown = [];
  if (state.server.kind === "endpoint") {
    const containers = state.endpoints.flatMap((one) => one.variants.flatMap((variant) => variant.instances.flatMap((instance) => instance.containers)));
    const up = containers.filter((container) => container.state === "up").length;
    shown.push(figure("Endpoints", count(state.endpoints.length)));
    shown.push(figure("Containers up", count(up), `of ${count(containers.length)}`, up < containers.length));
  } else {
    shown.push(figure("Models", count(state.models.length), totals.loading ? `${count(totals.loading)} loading` : ""));
  }
  shown.push(figure("Requests/s", rate(recent)));
  shown.push(figure("Latency p50", latency ? millis(latency.p50) : "\u2013"));
  shown.push(figure("Latency p99", latency ? millis(latency.p99) : "\u2013"));
  shown.push(figure("Refused in 15 min", short(errors), "", errors > 0));
  shown.push(figure("Running", count(totals.running), totals.waiting ? `${count(totals.waiting)} waiting` : ""));
  if (memory?.limit) {
    const used = memory.limit - memory.free - memory.kept;
    shown.push(figure("Memory", bytes(used), `of ${bytes(memory.limit - memory.kept)}`, memory.free < memory.limit / 50));
  }
  const list = byId("figures");
  if (list.children.length !== shown.length) {
    list.replaceChildren(...shown.map(() => el("div", {}, el("dt"), el("dd", {}, el("span"), " ", el("small")))));
  }
  shown.forEach((one, index) => {
    const [name, value] = list.children[index].children;
    setText(name, one.name);
    setText(value.children[0], one.value);
    setText(value.children[1], one.more);
    value.className = one.bad ? "bad" : "";
  });
}

const PARTS = [
  ["own", "Own", "private memory of models, and loads in progress"],
  ["shared", "Shared", "large constants that models have in common"],
  ["mapped", "Mapped", "weights that are mapped from files"],
  ["requests", "Requests", "requests in progress"],
  ["kept", "Kept", "the process, other processes, and headroom for requests"],
  ["free", "Free", "free for models"],
];

export function ledger(state) {
  const { memory } = state;
  byId("memory").hidden = !memory;
  if (!memory) return;
  const parts = PARTS.filter(([key]) => memory.limit || (key !== "free" && key !== "kept"));
  const total = parts.reduce((sum, [key]) => sum + memory[key], 0) || 1;
  const bar = byId("memory-bar");
  const legend = byId("memory-legend");
  if (bar.children.length !== parts.length) {
    bar.replaceChildren(...parts.map(([key]) => el("i", { class: `c-${key}` })));
    legend.replaceChildren(...parts.map(([key, name, about]) => el("div", {}, el("dt", { class: `key c-${key}` }, name), el("dd", { class: "about" }, about), el("dd", { class: "sum" }))));
  }
  parts.forEach(([key], index) => {
    bar.children[index].style.width = `${(100 * memory[key]) / total}%`;
    setText(legend.children[index].children[2], bytes(memory[key]));
  });
  setText(byId("memory-sum"), memory.limit ? `limit ${bytes(memory.limit)}` : "no limit");
  bar.setAttribute("aria-label", `Memory: ${parts.map(([key, name]) => `${name} ${bytes(memory[key])}`).join(", ")}`);
}

export function refusals(state, isNew) {
  if (!isNew) return;
  const list = byId("refusals-list");
  setText(byId("refusals-sum"), state.refusals.length ? "newest first" : "");
  if (!state.refusals.length) {
    list.replaceChildren(el("li", { class: "none quiet" }, "No request was refused or failed."));
    return;
  }
  list.replaceChildren(
    ...state.refusals.map((refusal) =>
      el("li", {},
        el("time", { class: "quiet", datetime: new Date(refusal.time).toISOString() }, clock(refusal.time)),
        el("span", { class: !refusal.status || refusal.status >= 500 ? "status bad" : "status", title: refusal.cause }, refusal.status ? String(refusal.status) : "\u2013"),
        el("span", { class: "why" },
          el("b", {}, refusal.model ?? refusal.operation), " ", refusal.message,
          refusal.count > 1 ? " " : null, refusal.count > 1 ? el("span", { class: "chip" }, `${count(refusal.count)} times`) : null),
      ),
    ),
  );
}
