"use strict";
// Draws the charts: figures with data-chart, the kind, and data-vm. A point is
// what the server calls one (history.go): numbers only, but for the reasons of
// resynchronizations, which are put in as text.
const charts = (() => {
  const kept = 300_000, least = 60_000; // ms shown: all that there is of five minutes, a minute at least
  const series = new Map(); // points by VM, oldest first
  const NS = "http://www.w3.org/2000/svg";

  const kinds = {
    outputs: { name: "Outputs released", unit: "per second", lines: [{ of: (p) => (p.alone ? null : p.o), area: true }], label: whole },
    latency: {
      // From microseconds to seconds: one long wait must not hide all others.
      name: "Added latency", unit: "ms", log: true,
      lines: [{ of: (p) => p.p50 ?? null, area: true, key: "median" }, { of: (p) => p.p99 ?? null, key: "99 %" }], label: short,
    },
    resyncs: { name: "Resynchronizations", unit: "in five minutes", stack: (p) => p.r || {}, label: whole },
    pause: { name: "Pauses", unit: "ms, longest", bars: (p) => p.pause || 0, label: short, now: "max" },
    lag: { name: "Feed lag", unit: "inputs", lines: [{ of: (p) => p.lag, area: true }], label: whole },
    pages: { name: "Dirty pages sent", unit: "in five minutes", bars: (p) => p.pages, label: whole, now: "sum" },
  };

  function whole(v) { return Math.round(v).toLocaleString("en").replaceAll(",", "\u202f"); }
  function short(v) { return v >= 100 ? whole(v) : v >= 10 ? v.toFixed(1) : v.toFixed(2); }

  function svg(tag, attributes, parent) {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (parent) parent.append(e);
    return e;
  }
  function html(tag, cls, text, parent) {
    const e = document.createElement(tag);
    if (cls) e.className = cls;
    if (text !== undefined) e.textContent = text;
    if (parent) parent.append(e);
    return e;
  }
  // The next of 1, 2, 5, 10, 20 … above v.
  function nice(v) {
    if (!(v > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(v));
    for (const f of [1, 2, 5, 10]) if (v <= f * power) return f * power;
    return 10 * power;
  }

  function add(vm, points) {
    const all = series.get(vm) || [];
    const last = all.length ? all[all.length - 1].t : 0;
    all.push(...points.filter((p) => p.t > last));
    const from = all.length ? all[all.length - 1].t - kept : 0;
    while (all.length && all[0].t < from) all.shift();
    series.set(vm, all);
  }

  function draw(figure) {
    const kind = kinds[figure.dataset.chart];
    const points = series.get(figure.dataset.vm) || [];
    if (!kind) return;
    const width = Math.max(160, figure.clientWidth), height = 96;
    const end = points.length ? points[points.length - 1].t : Date.now();
    const span = points.length ? Math.min(kept, Math.max(least, end - points[0].t)) : kept;
    const x = (t) => width - ((end - t) / span) * width;
    const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    const caption = document.createElement("figcaption");
    html("span", "name", kind.name, caption);
    const now = html("span", "now", undefined, caption);

    let top = 0, low = Infinity; // of the scale; low counts where it is a logarithm's
    let said;
    const scale = () => {
      if (!kind.log) { top = nice(top); return; }
      low = 10 ** Math.floor(Math.log10(Math.min(low, top) || 0.1));
      top = Math.max(10 * low, 10 ** Math.ceil(Math.log10(top || 1)));
    };
    const y = (v) => height - (kind.log ? Math.log(Math.max(v, low) / low) / Math.log(top / low) : v / top) * (height - 14);
    const grid = () => {
      const steps = kind.log ? Array.from({ length: Math.round(Math.log10(top / low)) + 1 }, (_, i) => low * 10 ** i) : [0, top];
      for (const v of steps) {
        svg("line", { class: "grid", x1: 0, x2: width, y1: y(v), y2: y(v) }, box);
        if (v > steps[0] && (v === steps.at(-1) || steps.length < 6)) {
          svg("text", { x: 0, y: y(v) - 4 }, box).textContent = kind.log && v < 1 ? String(Number(v.toPrecision(1))) : kind.log ? whole(v) : kind.label(v);
        }
      }
    };
    const bar = (cls, t, from, to, wide) => {
      if (to > from) svg("rect", { class: cls, x: x(t) - wide, y: y(to), width: Math.max(1, wide - 1), height: y(from) - y(to), rx: 1 }, box);
    };

    if (kind.lines) {
      for (const l of kind.lines) {
        for (const v of points.map(l.of)) if (v > 0) { top = Math.max(top, v); low = Math.min(low, v); }
      }
      scale(); grid();
      const words = [];
      kind.lines.forEach((l, i) => {
        let d = "", area = "", run = [];
        const close = () => {
          if (!run.length) return;
          const path = run.map(([a, b], n) => `${n ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
          d += run.length > 1 ? path : path + "h.1";
          area += `${path}L${run[run.length - 1][0].toFixed(1)} ${height}L${run[0][0].toFixed(1)} ${height}Z`;
          run = [];
        };
        for (const p of points) {
          const v = l.of(p);
          if (v === null) close(); else run.push([x(p.t), y(v)]);
        }
        close();
        if (l.area) svg("path", { class: `area a${i}`, d: area }, box);
        svg("path", { class: `l${i}`, d }, box);
        const p = points.findLast((q) => l.of(q) !== null && end - q.t < 5000);
        const v = p ? kind.label(l.of(p)) : "–";
        words.push(l.key ? `${l.key} ${v}` : v);
        if (l.key) {
          const key = html("span", "key", undefined, now);
          svg("circle", { class: i ? "f2" : "f0", cx: 5, cy: 5, r: 4 }, svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, key));
          key.append(`${l.key} `);
          html("b", "", v, key);
        } else now.append(v);
      });
      said = words.join(", ");
    } else if (kind.bars) {
      const wide = Math.max(2, (width * 1000) / span);
      for (const p of points) top = Math.max(top, kind.bars(p));
      scale(); grid();
      for (const p of points) bar("f0", p.t, 0, kind.bars(p), wide);
      const values = points.map(kind.bars);
      const v = kind.now === "sum" ? values.reduce((a, b) => a + b, 0) : Math.max(0, ...values);
      said = v ? kind.label(v) : "none";
      now.append(said);
    } else {
      // Stacked in steps of 10 s, in colours that stay with the reasons.
      const step = 10_000, wide = (width * step) / span;
      const steps = new Map(), totals = new Map();
      for (const p of points) {
        const t = Math.ceil(p.t / step) * step;
        for (const [reason, n] of Object.entries(kind.stack(p))) {
          if (!steps.has(t)) steps.set(t, new Map());
          const s = steps.get(t);
          s.set(reason, (s.get(reason) || 0) + n);
          totals.set(reason, (totals.get(reason) || 0) + n);
        }
      }
      const reasons = [...totals.keys()].sort();
      for (const s of steps.values()) top = Math.max(top, [...s.values()].reduce((a, b) => a + b, 0));
      scale(); grid();
      for (const [t, s] of steps) {
        let from = 0;
        for (const r of reasons) {
          const n = s.get(r) || 0;
          bar(`f${reasons.indexOf(r) % 6}`, Math.min(t, end), from, from + n, wide);
          from += n;
        }
      }
      said = reasons.map((r) => `${r} ${totals.get(r)}`).join(", ") || "none";
      if (!reasons.length) now.append("none");
      reasons.forEach((r, i) => {
        const key = html("span", "key", undefined, now);
        svg("circle", { class: `f${i % 6}`, cx: 5, cy: 5, r: 4 }, svg("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, key));
        key.append(`${r} `);
        html("b", "", String(totals.get(r)), key);
      });
    }
    if (said !== "none") html("small", "", ` ${kind.unit}`, now);
    box.setAttribute("aria-label", `${kind.name} in the last five minutes: ${said} ${said === "none" ? "" : kind.unit}; scale up to ${kind.label(top)}`);
    const axis = html("p", "axis");
    axis.setAttribute("aria-hidden", "true");
    html("span", "", span < 100_000 ? `${Math.round(span / 1000)} s ago` : `${(span / 60_000).toFixed(1).replace(".0", "")} min ago`, axis);
    html("span", "", "now", axis);
    figure.replaceChildren(caption, box, axis);
  }

  function drawAll(vm) {
    for (const f of document.querySelectorAll("[data-chart]")) if (vm === undefined || f.dataset.vm === vm) draw(f);
  }
  addEventListener("resize", () => drawAll());
  return { add, draw: drawAll };
})();
