// The explorer: draws what the reader chooses of the embedded values, with uPlot.
"use strict";
(async () => {
  const root = document.getElementById("explorer");
  const find = name => root.querySelector(name);
  const [form, chips, chart, tip, dot] = ["form", "#labels", "#chart", "#tip", "#dot"].map(find);
  const said = (name, text) => { find(name).textContent = text; };
  const START = {metric: "nc1_pinv", layer: "features", split: "train", lines: "median", x: "log", y: "log"};
  const MOST_LABELS = 24;  // chosen at the start: more lines hide each other
  const NEAR = 60;  // pixels from which a value answers to the pointer

  let data;
  try {
    const packed = Uint8Array.from(atob(document.getElementById("explorer-data").text), c => c.charCodeAt(0));
    const text = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    data = JSON.parse(await text);
  } catch (error) {
    said("#said", `The explorer needs a newer browser (${error}). The figures below and the tables hold the values.`);
    return;
  }

  // --- the choice ------------------------------------------------------------------------------

  const kindOf = series => data.labels[data.runs[series[0]][1]].kind;
  const kinds = data.kinds.map((kind, i) => ({...kind, i})).filter(kind => data.labels.some(label => label.kind === kind.i));
  let state = {...START, kind: kinds[0].i, labels: null};  // labels: null is the choice at the start

  /** Splits and layers with their series of the chosen kind, of one metric. */
  function offered(metric) {
    const splits = {};
    for (const [split, layers] of Object.entries(data.values[metric] ?? {}))
      for (const [layer, all] of Object.entries(layers)) {
        const own = all.filter(series => kindOf(series) === state.kind);
        if (own.length) (splits[split] ??= {})[layer] = own;
      }
    return splits;
  }

  const isHistory = metric => "" in data.values[metric];
  const depthOf = series => Math.min(...series.map(one => one[1]));

  function option(value, text = value) {
    return Object.assign(document.createElement("option"), {value, textContent: text});
  }

  function offer(name, options, empty = false) {
    const select = form.elements[name];
    select.replaceChildren(...options);
    const values = [...select.options].map(one => one.value);
    if (!values.includes(String(state[name]))) state[name] = values.includes(START[name]) ? START[name] : values[0];
    select.value = state[name];
    select.closest("label").hidden = empty || values.length < 2;
  }

  function group(label, names) {
    const group = Object.assign(document.createElement("optgroup"), {label});
    group.append(...names.map(name => option(name)));
    return group;
  }

  /** Put into the form what there is to choose, and into the state what is not there no more. */
  function offerAll() {
    offer("kind", kinds.map(kind => option(kind.i, `${kind.name}, by ${kind.time}`)));
    state.kind = Number(state.kind);
    const names = Object.keys(data.values).filter(name => Object.keys(offered(name)).length);
    const parts = [["Metrics", names.filter(name => !isHistory(name))], ["History", names.filter(isHistory)]];
    offer("metric", parts.filter(part => part[1].length).map(part => group(...part)));
    const splits = offered(state.metric);
    offer("split", Object.keys(splits).map(name => option(name)), isHistory(state.metric));
    const layers = Object.entries(splits[state.split]).sort((a, b) => depthOf(a[1]) - depthOf(b[1]) || (a[0] < b[0] ? -1 : 1));
    const inner = layers.filter(([name]) => name !== "features").map(([name]) => option(name));
    const last = layers.length > inner.length ? [option("features", "features, the last")] : [];
    const all = layers.length > 1 ? [option("*", "all layers, at the last time")] : [];
    offer("layer", [...last, ...inner, ...all], isHistory(state.metric));
    form.elements.lines.value = state.lines;
    form.elements.x.checked = state.x === "log";
    form.elements.y.checked = state.y === "log";
    form.elements.x.disabled = state.layer === "*";
    find("#definition").innerHTML = data.definitions[state.metric] ?? "";
    find("#metric-name").textContent = state.metric;
  }

  const ofKind = () => data.labels.filter(label => label.kind === state.kind);
  const chosen = () => state.labels ?? new Set(ofKind().slice(0, MOST_LABELS).map(label => label.text));

  function offerLabels() {
    chips.replaceChildren(...ofKind().map(label => {
      const chip = document.createElement("label");
      const box = Object.assign(document.createElement("input"), {type: "checkbox", value: label.text});
      box.checked = chosen().has(label.text);
      chip.append(box, swatch(label), label.text);
      return chip;
    }));
    find("#all-labels").hidden = ofKind().length < 3;
  }

  function swatch(label) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": 3}))
      line.setAttribute(name, value);
    line.style.stroke = label.colour === "#000000" ? "var(--ink)" : label.colour;
    line.style.strokeDasharray = label.dash.map(part => part * 2).join(" ");
    svg.setAttribute("viewBox", "0 0 26 10");
    svg.append(line);
    return svg;
  }

  // --- what is drawn ---------------------------------------------------------------------------

  /** Single values of the choice: label, run, x, layer and value. */
  function values() {
    const layers = offered(state.metric)[state.split], all = state.layer === "*";
    const found = [];
    for (const [layer, list] of Object.entries(layers))
      if (all || layer === state.layer)
        for (const [run, depth, times, value] of list) {
          const label = data.labels[data.runs[run][1]];
          if (!chosen().has(label.text)) continue;
          const time = data.times[times], last = value.length - 1;
          for (let i = all ? last : 0; i <= last; i++)
            found.push({label, run, layer, time: time[i], x: all ? depth : time[i], value: value[i]});
        }
    return found;
  }

  const groupBy = (list, key) => {
    const groups = new Map();
    for (const one of list) groups.get(key(one))?.push(one) ?? groups.set(key(one), [one]);
    return groups;
  };

  function median(sorted) {
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }

  /** Times of every run, in the history or of the metrics: a series has none where it is undefined. */
  function timesOf(history) {
    const found = data.runs.map(() => new Set());
    for (const splits of Object.values(data.values))
      for (const [split, layers] of Object.entries(splits))
        if ((split === "") === history)
          for (const [run, , times] of Object.values(layers).flat())
            for (const time of data.times[times]) found[run].add(time);
    return found;
  }
  const allTimes = {true: timesOf(true), false: timesOf(false)};

  /** Values of a label at the times that all its runs have; a run that ended before others stays where it ended. */
  function atSharedTimes(own) {
    const times = allTimes[state.split === ""];
    const runs = [...groupBy(own, one => one.run)].map(([run, of]) => ({
      end: Math.max(...times[run]), times: times[run], at: new Map(of.map(one => [one.x, one])),
    }));
    return [...new Set(own.map(one => one.x))]
      .filter(x => runs.every(run => run.times.has(x) || x > run.end))
      .flatMap(x => runs.map(run => run.at.get(x > run.end ? run.end : x)).filter(Boolean).map(one => ({...one, x})));
  }

  /** Lines of points {x, y, low, high, of}, a line per label or per run. */
  function lines(found) {
    const by = groupBy(found, state.lines === "median" ? one => one.label : one => one.run);
    return [...by.values()].map(own => {
      const overTime = state.layer !== "*";
      const apart = overTime && new Set(own.map(one => one.run)).size === own.length;  // ends of runs are no curve
      const shared = overTime && !apart ? atSharedTimes(own) : own;
      const points = [...groupBy(shared, one => one.x)].sort((a, b) => a[0] - b[0]).map(([x, of]) => {
        const sorted = of.map(one => one.value).sort((a, b) => a - b);
        return {x, y: median(sorted), low: sorted[0], high: sorted[sorted.length - 1], of};
      });
      return {label: own[0].label, apart, points};
    });
  }

  const identity = {to: v => v, has: () => true, log: false};

  /** Positions on a logarithmic axis; zero has a place of its own where `zero` says so. */
  function logarithmic(numbers, zero) {
    const positive = numbers.filter(v => v > 0).map(Math.log10);
    const least = positive.reduce((a, b) => Math.min(a, b), Infinity), most = positive.reduce((a, b) => Math.max(a, b), -Infinity);
    const origin = zero && numbers.includes(0) ? (positive.length ? least - Math.max(.3, .08 * (most - least)) : 0) : null;
    return {
      to: v => v > 0 ? Math.log10(v) : (origin ?? least),
      has: v => v > 0 || (v === 0 && origin !== null),
      log: true, origin,
    };
  }

  // --- axes ------------------------------------------------------------------------------------

  const RAISED = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};
  const raised = n => [...String(n)].map(c => RAISED[c]).join("");

  /** Five significant digits, powers of ten where they are shorter. */
  function number(v) {
    const text = String(Number(v.toPrecision(5)));
    if (v === 0 || (Math.abs(v) >= 1e-4 && Math.abs(v) < 1e6)) return text.replace("-", "−");
    const [digits, power] = v.toExponential(4).split("e");
    return `${Number(digits)}·10${raised(Number(power))}`.replace(/^1·/, "").replace(/^-/, "−");
  }

  /** Places and texts of ticks between two positions: decades, parts of them in a short range, or round numbers. */
  function ticks(axis, low, high, most) {
    if (!axis.log) return roundTicks(low, high, most, number);
    const own = axis.origin !== null && axis.origin >= low ? [[axis.origin, "0"]] : [];
    const from = Math.ceil(low - 1e-9), to = Math.floor(high + 1e-9), step = Math.ceil((to - from + 1) / most);
    let marks = [];
    if (to - from >= 2) {
      for (let e = Math.ceil(from / step) * step; e <= to; e += step) marks.push([e, number(10 ** e)]);
    } else {
      for (let e = from - 1; e <= to; e++)
        for (const m of [1, 2, 5]) marks.push([e + Math.log10(m), number(m * 10 ** e)]);
      marks = marks.filter(([place]) => place >= low && place <= high);
      if (marks.length < 2)
        marks = roundTicks(10 ** low, 10 ** high, most, number).filter(m => m[0] > 0).map(m => [Math.log10(m[0]), m[1]]);
    }
    const clear = (high - low) / most / 2;
    return [...own, ...marks.filter(([place]) => axis.origin === null || place > axis.origin + clear)];
  }

  function roundTicks(low, high, most, text) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find(m => m * power >= rough * .999) * power;
    const marks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) marks.push([i * step, text(i * step)]);
    return marks;
  }

  function range(u, low, high) {
    if (low === null) return [0, 1];
    const room = high > low ? (high - low) * .03 : Math.abs(high) * .1 || .5;
    return [low - room, high + room];
  }

  function axisOptions(axis, wanted, colours, more) {
    let texts = new Map();
    return {
      stroke: colours.soft, font: "12px system-ui, sans-serif",
      grid: {stroke: colours.line, width: 1}, ticks: {stroke: colours.line, width: 1, size: 4},
      splits: (u, i, low, high) => {
        const marks = ticks(axis, low, high, wanted(u));
        texts = new Map(marks);
        return marks.map(mark => mark[0]);
      },
      values: (u, places) => places.map(place => texts.get(place) ?? ""),
      ...more,
    };
  }

  // --- drawing ---------------------------------------------------------------------------------

  let plot = null, drawn = [], at = null;

  function draw() {
    const css = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(["ink", "soft", "line"].map(name => [name, css.getPropertyValue(`--${name}`).trim()]));
    const found = values(), depth = state.layer === "*";
    const axes = {
      x: state.x === "log" && !depth ? logarithmic(found.map(one => one.x), true) : identity,
      y: state.y === "log" ? logarithmic(found.map(one => one.value), false) : identity,
    };
    drawn = lines(found.filter(one => axes.y.has(one.value))).map(line => ({
      ...line, colour: line.label.colour === "#000000" ? colours.ink : line.label.colour,
      points: line.points.map(point => ({...point, place: axes.x.to(point.x), level: axes.y.to(point.y)})),
    }));
    tell(found, axes);
    hide();
    plot?.destroy();
    const places = [...new Set(drawn.flatMap(line => line.points.map(point => point.place)))].sort((a, b) => a - b);
    const slot = new Map(places.map((place, i) => [place, i]));
    const column = (line, of) => {
      const values = new Array(places.length).fill(null);
      for (const point of line.points) values[slot.get(point.place)] = of(point);
      return values;
    };
    const series = [{}], columns = [places], bands = [];
    if (state.lines === "median")
      for (const line of drawn) {
        if (line.apart || line.points.every(point => point.low === point.high)) continue;
        bands.push({series: [series.length, series.length + 1], fill: line.colour + (line.colour.length > 6 ? "30" : "3")});
        for (const end of ["high", "low"]) {
          series.push({stroke: "transparent", width: 0, spanGaps: true, points: {show: false}});
          columns.push(column(line, point => axes.y.to(point[end])));
        }
      }
    for (const line of drawn) {
      line.index = series.length;
      const few = line.apart || (depth && drawn.length < 40);
      series.push({
        stroke: line.colour, width: state.lines === "median" ? 2 : 1.4, dash: line.label.dash.map(part => part * 2.2),
        spanGaps: true, points: {show: few, size: 7, stroke: line.colour, fill: line.colour},
        ...(line.apart ? {paths: () => null} : {}),
      });
      columns.push(column(line, point => point.level));
    }
    const narrow = chart.clientWidth < 500;
    plot = new uPlot({
      width: chart.clientWidth, height: narrow ? 300 : 400, series, bands, legend: {show: false},
      padding: [12, 14, 0, 0],
      scales: {x: {time: false, range}, y: {range}},
      axes: [
        axisOptions(axes.x, u => Math.max(2, Math.round(u.bbox.width / devicePixelRatio / 75)), colours, {
          label: depth ? "depth of the layer" : data.kinds[state.kind].time, labelFont: "12px system-ui, sans-serif", labelSize: 20, size: 30,
        }),
        axisOptions(axes.y, u => Math.max(2, Math.round(u.bbox.height / devicePixelRatio / 45)), colours, {
          size: (u, texts) => 14 + 7 * Math.max(3, ...(texts ?? []).map(text => text.length)),
        }),
      ],
      cursor: {points: {show: false}, y: false, drag: {x: true, y: true, uni: 30}},
      hooks: {setCursor: [hover]},
    }, columns, chart);
    plot.over.append(dot, tip);
    chart.setAttribute("aria-label", `${state.metric} against ${depth ? "depth" : data.kinds[state.kind].time}. The arrow keys lead from value to value.`);
  }

  function tell(found, axes) {
    const of = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
    const labels = new Set(found.map(one => one.label)).size, runs = new Set(found.map(one => one.run)).size;
    const lost = found.filter(one => !axes.y.has(one.value)).length;
    const parts = [`${of(labels, "label")}, ${of(runs, "run")}.`];
    if (!found.length) parts.push(chosen().size ? "The chosen labels have no such value." : "Choose a label.");
    if (lost) parts.push(`${of(lost, "value")} of 0 or less ${lost === 1 ? "is" : "are"} left out on the logarithmic scale${lost === found.length ? ": choose the linear one" : ""}.`);
    said("#said", parts.join(" "));
  }

  // --- values under the pointer ------------------------------------------------------------------

  function hover(u) {
    const {left, top} = u.cursor;
    let best = null, least = NEAR;
    if (left >= 0)
      for (const line of drawn)
        for (const point of line.points) {
          const away = Math.hypot(u.valToPos(point.place, "x") - left, u.valToPos(point.level, "y") - top);
          if (away < least) [best, least] = [{line, point}, away];
        }
    if (best) show(best.line, best.point); else if (at) hide();
  }

  function text(name, content, parent) {
    parent.append(Object.assign(document.createElement(name), {textContent: content}));
  }

  function show(line, point) {
    const where = state.layer === "*" ? `layer ${point.of[0].layer} (depth ${point.x})` : `${data.kinds[state.kind].time} ${point.x}`;
    tip.replaceChildren();
    text("b", line.label.text, tip);
    const many = point.of.length > 1;
    text("div", `${where}: ${many ? "median " : ""}${number(point.y)}`, tip);
    for (const {run, value} of point.of.slice(0, 6)) {
      const [id, , seed] = data.runs[run];
      text("div", `${seed === null ? "" : `seed ${seed}, `}${many ? `${number(value)}, ` : ""}${id}`, tip);
    }
    if (point.of.length > 6) text("div", `and ${point.of.length - 6} more`, tip);
    const x = plot.valToPos(point.place, "x"), y = plot.valToPos(point.level, "y");
    const {clientWidth: width, clientHeight: height} = plot.over;
    dot.hidden = tip.hidden = false;
    dot.style.cssText = `left: ${x}px; top: ${y}px; background: ${line.colour}`;
    const place = (at, size, room) => Math.max(0, at + 14 + size > room ? Math.min(at - 14 - size, room - size) : at + 14);
    tip.style.cssText = `left: ${place(x, tip.offsetWidth, width)}px; top: ${place(y, tip.offsetHeight, height)}px; border-color: ${line.colour}`;
    if (at?.line !== line) plot.setSeries(line.index, {focus: true});
    at = {line, point};
  }

  function hide() {
    if (at && plot) plot.setSeries(null, {focus: false});
    at = null;
    dot.hidden = tip.hidden = true;
  }

  chart.addEventListener("keydown", event => {
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (event.key === "Escape") hide();
    if (!step || !drawn.length) return;
    event.preventDefault();
    const wrap = (i, count) => (i + count) % count;
    const line = at ? drawn[wrap(drawn.indexOf(at.line) + step[0], drawn.length)] : drawn[0];
    const nearest = (x, points) => points.reduce((a, b) => Math.abs(b.place - x) < Math.abs(a.place - x) ? b : a);
    let point = at ? nearest(at.point.place, line.points) : line.points[0];
    if (at) point = line.points[Math.min(line.points.length - 1, Math.max(0, line.points.indexOf(point) + step[1]))];
    show(line, point);
    said("#pointed", tip.innerText);
  });

  // --- what the reader does ----------------------------------------------------------------------

  /** The choice as the page's address, so that a view can be linked; a page inside a frame has none to change. */
  function remember() {
    const {labels, ...rest} = state;
    const query = new URLSearchParams({...rest, kind: data.kinds[state.kind].time});
    for (const label of labels ?? []) query.append("label", label);
    if (labels && !labels.size) query.append("label", "");
    try { history.replaceState(null, "", `#explorer?${query}`); } catch { /* not in a frame */ }
  }

  function recall() {
    const [name, query] = location.hash.slice(1).split("?");
    if (name !== "explorer" || !query) return false;
    const asked = new URLSearchParams(query);
    const kind = data.kinds.findIndex(one => one.time === asked.get("kind"));
    const known = Object.keys(START).filter(key => asked.has(key)).map(key => [key, asked.get(key)]);
    state = {...state, ...Object.fromEntries(known), labels: asked.has("label") ? new Set(asked.getAll("label")) : null};
    if (state.lines !== "seeds") state.lines = "median";
    if (kinds.some(one => one.i === kind)) state.kind = kind;
    return true;
  }

  function update() {
    offerAll();
    offerLabels();
    draw();
  }

  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("change", event => {
    const {name, value, checked, type} = event.target;
    if (name === "kind") state.labels = null;
    if (type === "checkbox") state[name] = checked ? "log" : "linear";
    else state[name] = name === "kind" ? Number(value) : value;
    offerAll();
    if (name === "kind") offerLabels();
    draw();
    remember();
  });
  chips.addEventListener("change", () => choose([...chips.querySelectorAll(":checked")].map(box => box.value)));
  find("#every-label").addEventListener("click", () => choose(ofKind().map(label => label.text)));
  find("#no-label").addEventListener("click", () => choose([]));

  function choose(labels) {
    state.labels = new Set(labels);
    for (const box of chips.querySelectorAll("input")) box.checked = state.labels.has(box.value);
    draw();
    remember();
  }

  find("#save").addEventListener("click", () => {
    const quoted = v => /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v;
    const head = ["label", "run_id", "seed", "layer", "split", "time", "metric", "value"];
    const rows = values().map(one => {
      const [id, , seed] = data.runs[one.run];
      return [one.label.text, id, seed ?? "", one.layer, state.split, one.time, state.metric, one.value];
    });
    const text = [head, ...rows].map(row => row.map(quoted).join(",")).join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
    Object.assign(document.createElement("a"), {href: address, download: `${state.metric}.csv`}).click();
    URL.revokeObjectURL(address);
  });

  addEventListener("hashchange", () => { if (recall()) update(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  form.hidden = false;
  const linked = recall();
  update();
  if (linked) root.scrollIntoView();
  new ResizeObserver(() => { if (chart.clientWidth !== plot.width) draw(); }).observe(chart);
  root.dataset.ready = "";
})();
