// Fills the page of statistics: histograms and tables.

const data = JSON.parse(byId("data").textContent);

// Every bar has its range and its number as a title.
function bars({ title, counts, names, ticks, marks }) {
  const lines = roundTicks(Math.max(...counts, 1)).filter((y) => Number.isInteger(y));
  const most = lines.at(-1);
  const width = (PLOT.right - PLOT.left) / counts.length;
  const drawn = counts.map((count, i) => svg("rect", {
    x: PLOT.left + i * width + 0.5, y: upwards(count / most), width: Math.max(width - 1, 0.5),
    height: PLOT.bottom - upwards(count / most), class: "correct-bar",
  }, svg("title", {}, `${names[i]}: ${integer(count)}`)));
  const every = Math.ceil(counts.length / 8);
  const below = ticks.flatMap((text, i) => (i % every ? [] : [svg("text",
    { x: PLOT.left + i * width, y: PLOT.bottom + 18, "text-anchor": "middle" }, text)]));
  const marked = marks.flatMap(([x, text]) => [
    line(across(x), PLOT.top, across(x), PLOT.bottom, "threshold"),
    svg("text", { x: across(x) + 3, y: PLOT.top + 10 }, text)]);
  return chart(`Histogram: ${title}`, ...verticalAxis("", lines.map((y) =>
    [y / most, integer(y)])), ...below, ...drawn, ...marked);
}

function section(title, ...children) {
  return html("section", {}, html("h2", {}, title), ...children);
}

function table({ title, head, rows }) {
  const heading = html("tr", {}, ...head.map((name) => html("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...cells]) => html("tr", {},
    html("th", { scope: "row" }, first), ...cells.map((cell) => html("td", {}, cell))));
  return section(title, html("div",
    { class: "scroll tall", role: "region", "aria-label": title, tabindex: "0" },
    html("table", {}, html("thead", {}, heading), html("tbody", {}, ...body))));
}

byId("charts").replaceChildren(...data.charts.map((entry) => section(entry.title, bars(entry))));
byId("tables").replaceChildren(...data.tables.map(table));
