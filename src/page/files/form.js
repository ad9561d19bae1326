// A form that sends a request to a model, and shows the answer. Its fields come from the model's
// signature: a field for each value of a small input, else text to edit, else a file.

import { bytes, el, millis, setText } from "./format.js";

// More values than this are easier to edit as text.
const MOST_FIELDS = 64;
// A longer answer is cut, so that the page stays quick.
const MOST_TEXT = 100_000;

const TYPES = { CSV: "text/csv", JSON: "application/json", text: "application/json" };

export function form(about) {
  const ways = waysOf(about);
  let current = ways[0];
  const area = el("div", {});
  const answer = el("div", { class: "answer", role: "status" });
  const button = el("button", { type: "submit" }, "Send");
  const accept = el("select", { name: "accept" },
    ...[["", "the model's default"], ["application/json", "JSON"], ["text/csv", "CSV"], ["application/jsonlines", "JSON Lines"]].map(([value, text]) => el("option", { value }, text)));
  const choices = ways.map((way, index) => {
    const input = el("input", { type: "radio", name: "way", value: String(index), onchange: () => choose(way) });
    if (index === 0) input.checked = true;
    return el("label", {}, input, way.name);
  });

  function choose(way) {
    current = way;
    area.replaceChildren(way.view());
  }

  async function send(event) {
    event.preventDefault();
    const begun = performance.now();
    button.disabled = true;
    try {
      const { body, type } = current.request();
      const headers = { ...about.invoke.headers };
      if (type) headers["Content-Type"] = type;
      if (accept.value) headers.Accept = accept.value;
      const target = about.invoke.target?.value;
      if (target) headers["X-Amzn-SageMaker-Target-Model"] = target;
      const response = await fetch(about.invoke.path, { method: "POST", headers, body, cache: "no-store" });
      const received = await response.blob();
      await show(response, received, performance.now() - begun);
    } catch (error) {
      answer.replaceChildren(el("p", { class: "status bad" }, String(error.message ?? error)));
    } finally {
      button.disabled = false;
    }
  }

  async function show(response, received, took) {
    const type = response.headers.get("Content-Type") ?? "";
    const line = el("p", { class: "line" },
      el("span", { class: `chip ${response.ok ? "loaded" : "failed"}`, "data-part": "status" }, `${response.status} ${response.statusText}`.trim()),
      el("span", { class: "quiet", "data-part": "time" }, millis(took)),
      el("span", { class: "quiet" }, `${type} ${bytes(received.size)}`));
    let content;
    if (type.startsWith("image/")) {
      const image = el("img", { alt: "The answer as a picture" });
      image.src = URL.createObjectURL(received);
      image.onload = () => URL.revokeObjectURL(image.src);
      content = image;
    } else if (/json|text|csv|jsonlines/.test(type)) {
      let text = await received.text();
      if (type.startsWith("application/json")) text = pretty(text);
      const cut = text.length > MOST_TEXT;
      content = el("pre", { tabindex: 0 }, cut ? `${text.slice(0, MOST_TEXT)}\n\u2026 ${text.length - MOST_TEXT} more characters` : text);
    } else {
      content = el("p", {}, `${bytes(received.size)} of ${type || "unknown type"}, not shown.`);
    }
    answer.replaceChildren(line, content);
  }

  choose(current);
  const target = about.invoke.target;
  return el("form", { class: "try", onsubmit: send },
    target ? el("p", { class: "send" }, el("label", { for: target.id }, "Target-Model"), target) : null,
    el("fieldset", {}, el("legend", { class: "unseen" }, "Send as"), el("div", { class: "ways" }, ...choices)),
    area,
    el("div", { class: "send" }, button, el("label", {}, el("span", {}, "Answer as"), accept)),
    answer);
}

// Indents JSON without parsing numbers, which would round large ones.
function pretty(text) {
  let depth = 0;
  let out = "";
  let quoted = false;
  let flat = 0;
  for (let at = 0; at < text.length && out.length < MOST_TEXT * 2; at += 1) {
    const c = text[at];
    if (quoted) {
      out += c;
      if (c === "\\") out += text[(at += 1)] ?? "";
      else if (c === '"') quoted = false;
      continue;
    }
    if (c === '"') quoted = true;
    // A list of plain values stays on its line.
    if (c === "[" && /^\[[^[\]{}]*\]/.test(text.slice(at, at + 4000))) flat = 1;
    if (flat) {
      out += c === "," ? ", " : c;
      if (c === "]") flat = 0;
    } else if (c === "{" || c === "[") {
      depth += 1;
      out += `${c}\n${"  ".repeat(depth)}`;
    } else if (c === "}" || c === "]") {
      depth = Math.max(0, depth - 1);
      out += `\n${"  ".repeat(depth)}${c}`;
    } else if (c === ",") out += `,\n${"  ".repeat(depth)}`;
    else if (c === ":") out += ": ";
    else if (!/\s/.test(c)) out += c;
  }
  return out;
}

function waysOf(about) {
  const ways = [];
  if (about.takes === "pictures") ways.push(fileWay("Picture", "image/*", "Drop a picture here, or choose a file"));
  if (about.takes === "sounds") ways.push(fileWay("Sound", "audio/*", "Drop a WAV file here, or choose a file"));
  if (about.takes === "texts") ways.push(sentences());
  const fields = values(about);
  if (fields) ways.push(fields);
  for (const sample of about.samples) ways.push(textWay(sample.name, sample.content_type, sample.body));
  if (about.takes === null && about.any) {
    ways.push(sentences());
    ways.push(fileWay("Picture", "image/*", "Drop a picture here, or choose a file"));
  }
  ways.push(fileWay("File", "", "Drop a file here, or choose one"));
  return ways;
}

function textWay(name, type, initial) {
  const area = el("textarea", { name: "body", spellcheck: "false" });
  area.value = initial;
  return {
    name,
    view: () => el("label", {}, el("span", { class: "note" }, `Body of ${type}`), area),
    request: () => ({ body: area.value, type }),
  };
}

function sentences() {
  const area = el("textarea", { name: "sentences" });
  area.value = "A sentence.";
  return {
    name: "Text",
    view: () => el("label", {}, el("span", { class: "note" }, "A text on each line"), area),
    request: () => {
      const lines = area.value.split("\n").filter((line) => line.trim());
      return { body: JSON.stringify({ inputs: lines.length === 1 ? lines[0] : lines }), type: TYPES.text };
    },
  };
}

function fileWay(name, accepted, words) {
  let chosen = null;
  const picked = el("p", { class: "note" });
  const preview = el("img", { alt: "The chosen picture", hidden: true });
  const input = el("input", { type: "file", name: `file-${name}`, accept: accepted, onchange: () => take(input.files[0]) });
  const drop = el("div", { class: "drop" }, el("label", {}, words, input), picked, preview);

  function take(file) {
    if (!file) return;
    chosen = file;
    setText(picked, `${file.name}, ${bytes(file.size)}`);
    preview.hidden = !file.type.startsWith("image/");
    if (!preview.hidden) {
      URL.revokeObjectURL(preview.src);
      preview.src = URL.createObjectURL(file);
    }
  }

  for (const [kind, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", over);
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
  return {
    name,
    view: () => drop,
    request: () => {
      if (!chosen) throw new Error("choose a file first");
      return { body: chosen, type: chosen.type || "application/octet-stream" };
    },
  };
}

// A field for each value of one record, if the inputs are small and have a known shape.
function values(about) {
  const inputs = about.inputs.filter((input) => input.settable);
  const sizes = inputs.map((input) => (input.shape ? input.shape.map((size) => (typeof size === "number" ? size : 1)) : null));
  if (!inputs.length || sizes.includes(null)) return null;
  const counts = sizes.map((shape) => shape.reduce((product, size) => product * size, 1));
  const total = counts.reduce((sum, one) => sum + one, 0);
  if (total === 0 || total > MOST_FIELDS) return null;
  const fields = inputs.map((input, at) =>
    Array.from({ length: counts[at] }, (_, index) => {
      const label = input.columns?.[index] ?? (counts[at] === 1 ? input.name : `${input.name}[${index}]`);
      const kind = input.data === "string" ? "text" : input.data === "bool" ? "checkbox" : "number";
      const field = el("input", { name: `value-${at}-${index}`, type: kind, step: kind === "number" ? (/int/.test(input.data) ? "1" : "any") : null });
      if (kind === "number") field.value = "0";
      return { label, field, kind };
    }),
  );
  const read = ({ field, kind, label }) => {
    if (kind === "checkbox") return field.checked;
    if (kind === "text") return field.value;
    if (field.value === "") throw new Error(`${label} has no value`);
    return Number(field.value);
  };
  // Puts a flat list into nested lists of this shape.
  const nest = (list, shape) => {
    if (!shape.length) return list[0];
    if (shape.length === 1) return list;
    const size = list.length / shape[0];
    return Array.from({ length: shape[0] }, (_, row) => nest(list.slice(row * size, (row + 1) * size), shape.slice(1)));
  };
  return {
    name: "Values",
    view: () => el("div", { class: "values" }, ...fields.flat().map(({ label, field }) => el("label", { title: label }, el("span", {}, label), field))),
    request: () => {
      const named = Object.fromEntries(inputs.map((input, at) => [input.name, nest(fields[at].map(read), sizes[at])]));
      return { body: JSON.stringify({ inputs: named }), type: TYPES.JSON };
    },
  };
}
