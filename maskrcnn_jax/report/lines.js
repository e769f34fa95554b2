// Draws charts of numbers by step, averaged on request, and shows the values under the pointer.

const KINDS = ["first", "second", "third", "fourth", "fifth"];

// About five round numbers that cover the interval from 0 to `most`.
function roundTicks(most) {
  const rough = (most > 0 ? most : 1) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  return Array.from({ length: Math.max(Math.ceil(most / step - 1e-6), 1) + 1 }, (_, i) => i * step);
}

// The exponents of the powers of ten that enclose an interval.
function powerTicks(least, most) {
  const first = Math.floor(Math.log10(least));
  const last = Math.max(Math.ceil(Math.log10(most)), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

// Formats a number shortly: 0.0125, 1,500 or 2e-7.
function shortly(value) {
  if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(1).replace(".0e", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

// Replaces each value with the mean of up to `window` neighbours.
function average(points, window) {
  const reach = (window - 1) / 2;
  return points.map(([x], i) => {
    const near = points.slice(Math.max(i - reach, 0), i + reach + 1);
    return [x, sum(near.map(([, y]) => y)) / near.length];
  });
}

// The [step, value] pairs of a field of the log, or of a number of the evaluations like "segm/AP".
function pointsOf(name) {
  const [group, key] = name.split("/");
  const pairs = key === undefined
    ? (data.log[name] ?? []).map((y, i) => [data.log.step[i], y])
    : data.evaluations.map((entry) => [entry.step, entry[group]?.[key] ?? null]);
  return pairs.filter(([, y]) => y !== null);
}

const GROUPS = { segm: "mask ", bbox: "box ", validation: "validation " };

function titleOf(name) {
  const [group, key] = name.split("/");
  return key === undefined ? name.replaceAll("_", " ") : GROUPS[group] + key;
}

// The function from values to places on the vertical axis, 0 to 1, and the ticks as [place, text].
function verticalScale(values, logarithmic, most) {
  const positive = values.filter((y) => y > 0);
  if (logarithmic && positive.length) {
    const exponents = powerTicks(Math.min(...positive), Math.max(...positive));
    const [first, last] = [exponents[0], exponents.at(-1)];
    const place = (y) => (Math.log10(Math.max(y, 10 ** first)) - first) / (last - first);
    return [place, exponents.map((n) => [place(10 ** n), shortly(10 ** n)])];
  }
  const ticks = roundTicks(most || Math.max(...values));
  return [(y) => y / ticks.at(-1), ticks.map((y) => [y / ticks.at(-1), shortly(y)])];
}

function stepAxis(last) {
  const ticks = roundTicks(last).filter((x) => x <= last).map((x) =>
    svg("text", { x: across(x / last), y: PLOT.bottom + 18, "text-anchor": "middle" }, shortly(x)));
  return [...ticks, svg("text", { x: across(0.5), y: 284, "text-anchor": "middle" }, "step")];
}

function curve(points, kind, last, place, name) {
  const drawn = points.map(([x, y]) => [across(x / last).toFixed(1), upwards(place(y)).toFixed(1)]);
  const path = svg("polyline", {
    points: drawn.map((pair) => pair.join(",")).join(" "), class: `curve ${kind}`,
      "data-name": name });
  const dots = points.length > 30 ? []
    : drawn.map(([x, y]) => svg("circle", { cx: x, cy: y, r: 3, class: `${kind} dot` }));
  return [path, ...dots];
}

// Draws the series that the element names in its data attributes.
function drawLines(element, { window, logarithmic }) {
  const series = element.dataset.series.split(" ")
    .map((name, i) => ({ name, kind: KINDS[i], points: pointsOf(name) }))
    .filter(({ points }) => points.length);
  if (!series.length) {
    element.replaceChildren(html("p", {}, "The log of this run has no such numbers."));
    return;
  }
  for (const entry of series) {
    if (!entry.name.includes("/")) entry.points = average(entry.points, window);
  }
  const values = series.flatMap(({ points }) => points.map(([, y]) => y));
  const last = Math.max(...series.map(({ points }) => points.at(-1)[0]), 1);
  const [place, ticks] =
    verticalScale(values, logarithmic && "loss" in element.dataset, Number(element.dataset.most));
  const said = series.map(({ name, points }) => `${titleOf(name)} ${shortly(points.at(-1)[1])}`);
  const label = `By step up to ${integer(last)}; at the end ${said.join(", ")}`;
  const marker = line(0, PLOT.top, 0, PLOT.bottom, "threshold");
  marker.setAttribute("visibility", "hidden");
  const drawing = chart(label, ...verticalAxis("", ticks), ...stepAxis(last),
    ...series.flatMap(({ name, kind, points }) => curve(points, kind, last, place, name)), marker);
  const entries = series.map(({ kind }, i) => [said[i], line(0, 6, 28, 6, `curve ${kind}`)]);
  const readout = html("p", { class: "readout" }, `step ${integer(last)}`);
  element.replaceChildren(drawing, readout, legend(entries));
  follow(element, drawing, marker, readout, series, last);
}

// Shows the values at the step under the pointer instead of the last ones.
function follow(element, drawing, marker, readout, series, last) {
  const items = [...element.querySelectorAll("li")];
  const show = (step) => {
    readout.textContent = `step ${integer(step)}`;
    series.forEach(({ name, points }, i) => {
      const known = points.filter(([x]) => x <= step).at(-1);
      items[i].lastChild.textContent = `${titleOf(name)} ${known ? shortly(known[1]) : "\u2013"}`;
    });
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width * 440 - PLOT.left) / (PLOT.right - PLOT.left);
    const step = Math.round(Math.min(Math.max(x, 0), 1) * last);
    for (const name of ["x1", "x2"]) marker.setAttribute(name, across(step / last));
    marker.setAttribute("visibility", "visible");
    show(step);
  });
  drawing.addEventListener(
    "pointerleave", () => { marker.setAttribute("visibility", "hidden"); show(last); });
}
