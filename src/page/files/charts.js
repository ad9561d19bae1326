// Charts of the last fifteen minutes, drawn as SVG, each with a description for screen readers and
// a cursor that the mouse and the arrow keys move.

import { bytes, clock, el, millis, rate, setText, svg } from "./format.js";

const WIDTH = 460;
const HEIGHT = 135;
const LEFT = 58;
const BOTTOM = 18;
const TOP = 8;

// A round number at or above `value`, so that the axis has readable labels.
function ceiling(value, base) {
  if (!(value > 0)) return base === 1024 ? 1024 * 1024 : 1;
  const power = base === 1024 ? 1024 ** Math.floor(Math.log(value) / Math.log(1024)) : 1;
  const scaled = value / power;
  const ten = 10 ** Math.floor(Math.log10(scaled));
  const step = [1, 2, 4, 5, 8, 10].find((step) => step * ten >= scaled) ?? 10;
  return step * ten * power;
}

// `series` is a list of {name, class, of, area}; `of` takes a point and returns a number or null.
export function chart({ title, unit, series, base = 10, limit, isLog = false }) {
  const plot = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", tabindex: 0, focusable: true,
  });
  const legend = el("p", { class: "series" });
  const none = el("p", { class: "none" }, "Nothing in the last fifteen minutes");
  const keys = series.map((one) => {
    const value = el("b", {}, "\u2013");
    legend.append(el("span", { class: `key ${one.class}` }, `${one.name} `, value));
    return value;
  });
  const when = el("span", { class: "right" });
  legend.append(when);
  const card = el("article", { class: "card chart" }, el("div", { class: "head" }, el("h2", {}, title)), plot, legend, none);
  let points = [];
  let chosen = null;
  let span = 900_000;
  let step = 5000;
  let now = 0;

  const x = (time) => LEFT + (WIDTH - LEFT) * (1 - (now - time) / span);
  const chosenPoint = () => (chosen === null ? points.at(-1) : points[chosen]);

  function draw() {
    const values = points.flatMap((point) => series.map((one) => one.of(point))).filter((value) => value !== null);
    const bound = limit?.();
    // Latencies differ by powers of ten, and each of them matters.
    const low = isLog && values.length ? 10 ** Math.floor(Math.log10(Math.min(...values))) : 0;
    const top = isLog ? Math.max(low * 10, 10 ** Math.ceil(Math.log10(Math.max(1e-3, ...values)))) : ceiling(Math.max(0, ...values, bound && values.length ? Math.min(bound, Math.max(...values) * 4) : 0), base);
    const share = (value) => (isLog && low ? Math.log(value / low) / Math.log(top / low) : Math.min(value, top) / top);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share(value));
    const parts = [];
    const ticks = [0, top / 2, top];
    if (isLog && low) {
      ticks.length = 0;
      for (let tick = low; tick < top * 1.5; tick *= 10) ticks.push(tick);
    }
    for (const tick of ticks) {
      const at = y(tick);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: at, y2: at }));
    }
    if (bound && bound <= top) parts.push(svg("line", { class: "limit", x1: LEFT, x2: WIDTH, y1: y(bound), y2: y(bound) }));
    for (const one of series) {
      let line = "";
      let area = "";
      let run = [];
      const end = () => {
        if (run.length) {
          const path = run.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
          line += run.length === 1 ? `${path}m-3 0h3` : path;
          const floor = HEIGHT - BOTTOM;
          area += `${path}L${run.at(-1)[0].toFixed(1)} ${floor}L${run[0][0].toFixed(1)} ${floor}Z`;
        }
        run = [];
      };
      let before = null;
      for (const point of points) {
        const value = one.of(point);
        if (value === null || (before !== null && point.time - before > step * 2.5)) end();
        if (value !== null) run.push([x(point.time), y(value)]);
        before = point.time;
      }
      end();
      if (one.area && area) parts.push(svg("path", { class: `area ${one.class}`, d: area }));
      if (line) parts.push(svg("path", { class: one.class, d: line }));
    }
    if (chosen !== null && points[chosen]) {
      const at = x(points[chosen].time);
      parts.push(svg("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    plot.replaceChildren(...parts, ...labels(ticks, y));
    none.hidden = values.length > 0;
    describe();
  }

  // The plot is stretched to its card, and its labels are not.
  function labels(ticks, y) {
    const wide = plot.clientWidth || WIDTH;
    const tall = plot.clientHeight || HEIGHT;
    const text = (px, py, anchor, words) => {
      const matrix = `translate(${px} ${py}) scale(${WIDTH / wide} ${HEIGHT / tall})`;
      return svg("text", { transform: matrix, "text-anchor": anchor }, words);
    };
    return [
      ...ticks.filter((tick) => tick === 0 || points.length).map((tick) => text(LEFT - 6, y(tick) + 4, "end", tick === 0 ? "0" : unit(tick).replace(/\.0+(?= |$)/, ""))),
      ...[15, 10, 5].map((minutes) => text(x(now - minutes * 60_000), HEIGHT - 3, minutes === 15 ? "start" : "middle", `\u2212${minutes} min`)),
      text(WIDTH, HEIGHT - 3, "end", "now"),
    ];
  }

  function describe() {
    const point = chosenPoint();
    series.forEach((one, index) => {
      const value = point ? one.of(point) : null;
      setText(keys[index], value === null ? "\u2013" : unit(value));
    });
    setText(when, chosen === null || !point ? "" : clock(point.time));
    const most = (one) => points.map(one.of).filter((value) => value !== null).reduce((a, b) => Math.max(a, b), 0);
    const words = series.map((one) => `${one.name}: highest ${unit(most(one))}`);
    plot.setAttribute("aria-label", `${title}, last fifteen minutes. ${words.join("; ")}. Arrow keys read single points.`);
  }

  function move(index) {
    chosen = index === null || !points.length ? null : Math.max(0, Math.min(points.length - 1, index));
    draw();
  }
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const time = now - span * (1 - (at - LEFT) / (WIDTH - LEFT));
    let best = null;
    points.forEach((point, index) => {
      if (best === null || Math.abs(point.time - time) < Math.abs(points[best].time - time)) best = index;
    });
    move(best);
  });
  plot.addEventListener("pointerleave", () => move(null));
  plot.addEventListener("blur", () => move(null));
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    move(Math.max(0, Math.min(points.length - 1, (chosen ?? points.length) + by)));
    const point = chosenPoint();
    if (point) {
      const words = series.map((one) => `${one.name} ${one.of(point) === null ? "none" : unit(one.of(point))}`);
      plot.setAttribute("aria-label", `${clock(point.time)}: ${words.join(", ")}`);
    }
  });

  return {
    card,
    show(history, time) {
      const grown = points !== history.points || now !== time;
      points = history.points;
      step = history.step * 1000;
      span = history.step * history.most * 1000;
      now = time;
      if (chosen !== null && !points[chosen]) chosen = null;
      if (grown && !document.hidden) draw();
    },
  };
}

export function charts(state) {
  const perSecond = (key) => (point) => point[key] / state().history.step;
  const made = [
    chart({
      title: "Requests per second",
      unit: rate,
      series: [
        { name: "all", class: "c-own", of: perSecond("requests"), area: true },
        { name: "refused or failed", class: "c-bad", of: perSecond("errors") },
      ],
    }),
    chart({
      title: "Latency",
      unit: millis,
      isLog: true,
      series: [
        { name: "p50", class: "c-p50", of: (point) => point.p50 ?? null },
        { name: "p99", class: "c-p99", of: (point) => point.p99 ?? null },
      ],
    }),
  ];
  if (state().memory) {
    made.push(
      chart({
        title: "Memory",
        unit: bytes,
        base: 1024,
        limit: () => state().memory?.limit ?? null,
        series: [
          { name: "reserved", class: "c-own", of: (point) => point.memory ?? null, area: true },
          { name: "mapped", class: "c-mapped", of: (point) => point.mapped ?? null },
        ],
      }),
    );
  }
  return made;
}
