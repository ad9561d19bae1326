// The endpoints of `longshore endpoint`: variants, instances, containers, their models and logs.

import { clock, count, el, plural, setText } from "./format.js";
import { form } from "./form.js";

const list = document.getElementById("endpoints-list");
const cards = new Map();

export function endpoints(state) {
  document.getElementById("endpoints").hidden = state.server.kind !== "endpoint";
  if (state.server.kind !== "endpoint") return;
  if (!state.endpoints.length) {
    cards.clear();
    list.replaceChildren(nothing());
    return;
  }
  const seen = new Set();
  for (const endpoint of state.endpoints) {
    seen.add(endpoint.name);
    if (!cards.has(endpoint.name)) cards.set(endpoint.name, card(endpoint));
    cards.get(endpoint.name).show(endpoint);
  }
  for (const name of [...cards.keys()]) if (!seen.has(name)) cards.delete(name);
  const wanted = state.endpoints.map((endpoint) => cards.get(endpoint.name).element);
  if (wanted.length !== list.children.length || wanted.some((element, index) => list.children[index] !== element)) list.replaceChildren(...wanted);
}

function nothing() {
  const here = `${location.protocol}//${location.host}`;
  return el("div", { class: "card empty" },
    el("p", {}, "No endpoint yet. Create one with an AWS client:"),
    el("pre", {}, `export AWS_ENDPOINT_URL_SAGEMAKER=${here} AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=${here}\naws sagemaker create-model --cli-input-json file://model.json`),
    el("p", {}, "or start one with the program:"),
    el("pre", {}, "longshore endpoint --multi-model MODELS"));
}

function card(endpoint) {
  const phase = el("span", { class: "chip" });
  const reason = el("p", { class: "status bad" });
  const rows = el("tbody", {});
  const containers = el("div", {});
  const path = `endpoints/${encodeURIComponent(endpoint.name)}/invocations`;
  const target = el("input", { type: "text", id: `target-${endpoint.name}`, placeholder: "of a multi-model endpoint", spellcheck: "false" });
  const about = {
    inputs: [], samples: [{ name: "CSV", content_type: "text/csv", body: "" }, { name: "JSON", content_type: "application/json", body: "" }],
    takes: null, any: true, invoke: { path, headers: {}, target },
  };
  const attempt = el("details", {}, el("summary", {}, "Try it"));
  attempt.addEventListener("toggle", () => {
    if (attempt.open && attempt.children.length === 1) attempt.append(form(about));
  });
  const element = el("article", { class: "card" },
    el("div", { class: "head" }, el("h3", {}, endpoint.name), phase, el("code", { class: "quiet" }, `POST /${path}`)),
    reason,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Variants of ${endpoint.name}` }, el("table", {},
      el("thead", {}, el("tr", {}, ...["Variant", "Model", "Weight", "Instances"].map((title, index) => el("th", { scope: "col", class: index > 1 ? "num" : null }, title)))), rows)),
    attempt, containers);
  const parts = new Map();

  function show(now) {
    setText(phase, now.phase);
    phase.className = `chip ${now.phase}`;
    setText(reason, now.reason ?? "");
    rows.replaceChildren(...now.variants.map((variant) => el("tr", {},
      el("td", {}, variant.name), el("td", {}, variant.model),
      el("td", { class: "num", "data-label": "Weight" }, variant.weight === variant.desired_weight ? String(variant.weight) : `${variant.weight} \u2192 ${variant.desired_weight}`),
      el("td", { class: "num", "data-label": "Instances" }, variant.instances.length === variant.desired_instances ? count(variant.instances.length) : `${variant.instances.length} of ${variant.desired_instances}`))));
    const all = now.variants.flatMap((variant) => variant.instances.flatMap((instance) => instance.containers.map((container) => ({ ...container, variant: variant.name, instance: instance.name, outstanding: instance.outstanding }))));
    const seen = new Set(all.map((container) => container.label));
    for (const container of all) {
      if (!parts.has(container.label)) {
        const part = containerPart(container);
        parts.set(container.label, part);
        containers.append(part.element);
      }
      parts.get(container.label).show(container);
    }
    for (const [label, part] of parts) {
      if (!seen.has(label)) {
        part.element.remove();
        parts.delete(label);
      }
    }
  }
  return { element, show };
}

const STEPS = {
  download: "download", load: "load", loaded: "loaded", full: "507", unload: "unload", unloaded: "unloaded", retry: "retry", lost: "lost", failed: "failed",
};

function containerPart(first) {
  const chip = el("span", { class: "chip" });
  const more = el("p", { class: "quiet" });
  const link = el("a", { target: "_blank", rel: "noopener" }, "its own page");
  const tags = el("div", { class: "tags" });
  const life = el("ol", { class: "life", tabindex: 0, "aria-label": `Life of the models in ${first.label}` });
  const lifeBox = el("details", { open: true }, el("summary", {}, "Life of its models"), life);
  const log = el("pre", { tabindex: 0, "aria-label": `Log of ${first.label}` });
  const logBox = el("details", {}, el("summary", {}, "Log"), log);
  let lines = -1;
  let latest = first;

  async function read() {
    if (!logBox.open || lines === latest.lines) return;
    lines = latest.lines;
    const response = await fetch(`ui/log?container=${encodeURIComponent(first.label)}`, { cache: "no-store" });
    if (!response.ok) return;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 5;
    setText(log, await response.text());
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
  logBox.addEventListener("toggle", read);

  const element = el("section", { class: "container", "aria-label": `Container ${first.label}` },
    el("div", { class: "head" }, el("h3", {}, `${first.variant} / ${first.instance} / ${first.hostname}`), chip, more, link), tags, lifeBox, logBox);

  function show(container) {
    latest = container;
    setText(chip, container.state);
    chip.className = `chip ${container.state}`;
    const words = [];
    if (container.starts > 1) words.push(`started ${plural(container.starts, "time")}`);
    words.push(plural(container.outstanding, "request") + " in progress");
    if (container.reason) words.push(container.reason);
    setText(more, words.join(" \u00b7 "));
    link.hidden = !container.address;
    if (container.address) link.href = `${container.address}/`;
    tags.replaceChildren(...container.models.map((model) => el("span", { class: `chip ${model.state}` }, `${model.name}${model.state === "loaded" ? "" : ` (${model.state})`}${model.users ? `, ${model.users} in use` : ""}`)));
    lifeBox.hidden = !container.multi_model;
    life.replaceChildren(...(container.life.length
      ? container.life.toReversed().map((event) => el("li", { class: event.step },
          el("time", { class: "quiet", datetime: new Date(event.time).toISOString() }, clock(event.time)),
          el("span", { class: "step" }, STEPS[event.step] ?? event.step),
          el("span", {}, event.model, event.detail ? `: ${event.detail}` : "")))
      : [el("li", { class: "quiet" }, "No model was loaded yet.")]));
    read();
  }
  return { element, show };
}
