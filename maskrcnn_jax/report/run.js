// The page of a run: what it is about, tables, curves, pictures, and the configuration.

const data = JSON.parse(byId("data").textContent);

function table(id, head, rows) {
  const heading = html("tr", {}, ...head.map((name) => html("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...cells]) => html("tr", {},
    html("th", { scope: "row" }, first), ...cells.map((cell) => html("td", {}, cell))));
  byId(id).replaceChildren(html("thead", {}, heading), html("tbody", {}, ...body));
}

function fillTables() {
  const { segm, bbox } = data.numbers;
  table("numbers", ["number", "mask", "box"], Object.keys(segm).map((name) =>
    [name, fraction(segm[name]), fraction(bbox[name])]));
  table("classes", ["class", "id", "objects", "mask AP", "box AP"], data.classes.map((entry) =>
    [entry.name, String(entry.id), integer(entry.objects), fraction(entry.segm), fraction(entry.bbox)]));
  table("evaluations", ["step", "mask AP", "mask AP50", "box AP", "box AP50", "loss"], data.evaluations.map((entry) =>
    [integer(entry.step), ...[entry.segm.AP, entry.segm.AP50, entry.bbox.AP, entry.bbox.AP50].map(fraction),
      fraction(entry.validation.loss ?? null)]));
}

function fillPictures() {
  byId("images-text").textContent = `Drawn are detections with a score of ${data.threshold} or more.`;
  byId("images").replaceChildren(...data.pictures.map(({ name, truth, found }) => {
    const figure = (picture, caption) => html("figure", {},
      html("div", { class: "framed" }, html("img", { src: picture, alt: `${caption} of ${name}`, loading: "lazy" })),
      html("figcaption", {}, caption));
    return html("article", {}, html("h3", {}, name),
      html("div", { class: "pair" }, figure(truth, "ground truth"), figure(found, "detections")));
  }));
}

function fillConfig() {
  const { field, changed } = byId("config-filter").elements;
  const text = field.value.toLowerCase();
  const kept = data.config.filter((entry) => (entry.changed || !changed.checked) && entry.field.includes(text));
  const rows = kept.map((entry) => html("tr", {}, html("th", { scope: "row" }, entry.field),
    html("td", { class: "text" }, entry.changed ? html("strong", {}, entry.value) : entry.value),
    html("td", { class: "text" }, entry.default)));
  const head = ["field", "value", "default"].map((name) => html("th", { scope: "col", class: "text" }, name));
  byId("config").replaceChildren(html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows));
  byId("config-filter").querySelector("[role=status]").textContent =
    `${integer(kept.length)} of ${counted(data.config.length, "field")}`;
}

function drawCharts() {
  const { window, logarithmic } = byId("view").elements;
  const options = { window: Number(window.value), logarithmic: logarithmic.checked };
  for (const element of document.querySelectorAll(".lines")) drawLines(element, options);
}

function start() {
  const best = [...data.evaluations].sort((a, b) => (b.segm.AP ?? -1) - (a.segm.AP ?? -1))[0];
  const last = data.evaluations.at(-1);
  const said = best && best.step !== last.step
    ? ` The best mask AP was ${fraction(best.segm.AP)}, after step ${integer(best.step)}.` : "";
  byId("overview").textContent = `${data.overview} Mask AP ${fraction(data.numbers.segm.AP)}, box AP `
    + `${fraction(data.numbers.bbox.AP)} at the end.${said}`;
  fillTables();
  fillPictures();
  fillConfig();
  drawCharts();
  byId("view").addEventListener("input", drawCharts);
  byId("config-filter").addEventListener("input", fillConfig);
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
}

start();
