// The table of models. It may have ten thousand rows, so it sorts and filters data, and keeps
// elements only for the first rows of the result.

import { bytes, count, el, millis, setText } from "./format.js";

const PAGE = 200;
const BAD = new Set(["stuck", "failed"]);

const text = (value) => (value ?? "").toLowerCase();
const shown = (model) => model.target ?? model.name;

// The columns: title, sorting key, and the text of a cell.
const COLUMNS = [
  { id: "name", title: "Model", key: (model) => text(shown(model)) },
  { id: "state", title: "State", key: (model) => model.state },
  { id: "memory", title: "Memory", key: (model) => model.memory ?? -1, cell: (model) => bytes(model.memory), number: true },
  { id: "mapped", title: "Mapped", key: (model) => model.mapped, cell: (model) => (model.mapped ? bytes(model.mapped) : ""), number: true },
  { id: "requests", title: "Requests", key: (model) => model.requests, cell: (model) => count(model.requests), number: true },
  { id: "errors", title: "Errors", key: (model) => model.errors, cell: (model) => (model.errors ? count(model.errors) : "0"), number: true },
  { id: "p50", title: "p50", key: (model) => model.p50 ?? -1, cell: (model) => millis(model.p50), number: true },
  { id: "p99", title: "p99", key: (model) => model.p99 ?? -1, cell: (model) => millis(model.p99), number: true },
  { id: "last", title: "Last error", key: (model) => model.error?.time ?? 0 },
];

export function table(open) {
  const head = document.getElementById("columns");
  const body = document.getElementById("rows");
  const more = document.getElementById("more");
  const filter = document.getElementById("filter");
  const only = document.getElementById("only");
  let sort = { column: COLUMNS[0], down: false };
  let most = PAGE;
  let models = [];
  let due = false;

  for (const column of COLUMNS) {
    const button = el("button", { type: "button", onclick: () => choose(column) }, column.title);
    head.append(el("th", { scope: "col", class: column.number ? "num" : null, "data-column": column.id }, button));
  }

  function choose(column) {
    const first = column.number || column.id === "last";
    sort = { column, down: sort.column === column ? !sort.down : first };
    draw();
  }

  function matches() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = only.value;
    return models.filter((model) => {
      if (state === "error" ? !model.errors && !BAD.has(model.state) : state && model.state !== state) return false;
      if (!words.length) return true;
      const name = `${model.name} ${model.target ?? ""}`.toLowerCase();
      return words.every((word) => name.includes(word));
    });
  }

  function draw() {
    due = false;
    const { column, down } = sort;
    for (const cell of head.children) {
      if (cell.dataset.column === column.id) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    const found = matches();
    const keyed = found.map((model) => [column.key(model), model]);
    const side = down ? -1 : 1;
    keyed.sort(([a, one], [b, other]) => (a < b ? -side : a > b ? side : one.name < other.name ? -1 : 1));
    const rows = keyed.slice(0, most);
    while (body.children.length > rows.length) body.lastElementChild.remove();
    while (body.children.length < rows.length) body.append(row(open));
    rows.forEach(([, model], index) => show(body.children[index], model));
    more.hidden = keyed.length <= rows.length;
    setText(more, `Show ${count(Math.min(PAGE, keyed.length - rows.length))} more`);
    const of = found.length === models.length ? "" : ` of ${count(models.length)}`;
    const first = rows.length < found.length ? `, the first ${count(rows.length)} shown` : "";
    setText(document.getElementById("models-sum"), models.length ? `${count(found.length)}${of}${first}` : "");
    document.getElementById("table").hidden = !models.length;
  }

  function schedule() {
    if (due) return;
    due = true;
    requestAnimationFrame(draw);
  }

  filter.addEventListener("input", () => {
    most = PAGE;
    schedule();
  });
  only.addEventListener("change", () => {
    most = PAGE;
    schedule();
  });
  more.addEventListener("click", () => {
    most += PAGE;
    draw();
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || document.querySelector("dialog[open]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      filter.focus();
    }
  });

  return (list) => {
    models = list;
    if (document.hidden) due = false;
    schedule();
  };
}

function row(open) {
  const made = el("tr");
  made.append(
    el("td", { class: "name" }, el("button", { type: "button", onclick: () => open(made.dataset.name) }), el("small")),
    el("td", {}, el("span", { class: "chip" })),
    ...COLUMNS.filter((column) => column.number).map((column) => el("td", { class: "num", "data-label": column.title }, el("span"))),
    el("td", { class: "last" }),
  );
  return made;
}

function show(row, model) {
  row.dataset.name = model.name;
  const [name, state, ...rest] = row.children;
  setText(name.children[0], shown(model));
  setText(name.children[1], model.target ? model.name : "");
  setText(state.children[0], model.state);
  state.children[0].className = `chip ${model.state}`;
  let index = 0;
  for (const column of COLUMNS) {
    if (column.number) setText(rest[index++].children[0], column.cell(model));
  }
  const last = rest[index];
  const words = model.error ? `${model.error.cause}: ${model.error.message}` : "";
  if (!words) last.replaceChildren();
  else if (last.firstChild) setText(last.firstChild, words);
  else last.append(el("span", {}, words));
  last.title = words;
}
