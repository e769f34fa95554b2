// Fills the page of a run: overview, tables, curves, drawings and configuration.

const data = JSON.parse(byId("data").textContent);

function table(id, head, rows) {
  const heading = html("tr", {}, ...head.map((name) => html("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...cells]) => html("tr", {},
    html("th", { scope: "row" }, first), ...cells.map((cell) => html("td", {}, cell))));
  byId(id).replaceChildren(html("thead", {}, heading), html("tbody", {}, ...body));
}

function fillTables() {
  const { kinds, numbers } = data;
  const names = kinds.map((kind) => KIND_NAMES[kind]);
  table("numbers", ["number", ...names], Object.keys(numbers.bbox).map((name) =>
    [name, ...kinds.map((kind) => fraction(numbers[kind][name]))]));
  table("classes", ["class", "id", "objects", ...names.map((name) => `${name} AP`)],
    data.classes.map((entry) => [entry.name, String(entry.id), integer(entry.objects),
      ...kinds.map((kind) => fraction(entry[kind]))]));
  const head = ["step", ...names.flatMap((name) => [`${name} AP`, `${name} AP50`]), "loss"];
  table("evaluations", head, data.evaluations.map((entry) =>
    [integer(entry.step),
      ...kinds.flatMap((kind) => [entry[kind].AP, entry[kind].AP50]).map(fraction),
      fraction(entry.validation.loss ?? null)]));
}

function fillDrawings() {
  byId("images-text").textContent =
    `Drawn are detections with a score of ${data.threshold} or more.`;
  byId("images").replaceChildren(...data.drawings.map(({ name, truth, found }) => {
    const figure = (drawing, caption) => html("figure", {},
      html("div", { class: "framed" },
        html("img", { src: drawing, alt: `${caption} of ${name}`, loading: "lazy" })),
      html("figcaption", {}, caption));
    return html("article", {}, html("h3", {}, name),
      html("div", { class: "pair" }, figure(truth, "ground truth"), figure(found, "detections")));
  }));
}

function fillConfig() {
  const { field, changed } = byId("config-filter").elements;
  const text = field.value.toLowerCase();
  const kept = data.config.filter(
    (entry) => (entry.changed || !changed.checked) && entry.field.includes(text));
  const rows = kept.map((entry) => html("tr", {}, html("th", { scope: "row" }, entry.field),
    html("td", { class: "text" }, entry.changed ? html("strong", {}, entry.value) : entry.value),
    html("td", { class: "text" }, entry.default)));
  const head = ["field", "value", "default"].map(
    (name) => html("th", { scope: "col", class: "text" }, name));
  byId("config").replaceChildren(
    html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows));
  byId("config-filter").querySelector("[role=status]").textContent =
    `${integer(kept.length)} of ${counted(data.config.length, "field")}`;
}

function drawCharts() {
  const { window, logarithmic } = byId("view").elements;
  const options = { window: Number(window.value), logarithmic: logarithmic.checked };
  for (const element of document.querySelectorAll(".lines")) drawLines(element, options);
}

function start() {
  const [main] = data.kinds;  // Masks if there are any, else boxes.
  const best = [...data.evaluations].sort((a, b) => (b[main].AP ?? -1) - (a[main].AP ?? -1))[0];
  const last = data.evaluations.at(-1);
  const said = best && best.step !== last.step
    ? ` The best ${KIND_NAMES[main]} AP was ${fraction(best[main].AP)}, `
      + `after step ${integer(best.step)}.` : "";
  const reached = data.kinds.map(
    (kind) => `${KIND_NAMES[kind]} AP ${fraction(data.numbers[kind].AP)}`);
  byId("overview").textContent = `${data.overview} At the end: ${reached.join(", ")}.${said}`;
  keepKinds(data.kinds);
  fillTables();
  fillDrawings();
  fillConfig();
  drawCharts();
  byId("view").addEventListener("input", drawCharts);
  byId("config-filter").addEventListener("input", fillConfig);
  for (const form of document.forms) {
    form.addEventListener("submit", (event) => event.preventDefault());
  }
}

start();
