// The two tables: COCO's twelve numbers, and the classes.

const CLASS_COLUMNS = [
  ["class", (row) => row.name, (row) => row.name],
  ["objects", (row) => row.objects, (row) => integer(row.objects)],
  ["found", (row) => row.found, (row) => integer(row.found)],
  ["missed", (row) => row.missed, (row) => integer(row.missed)],
  ["false", (row) => row.false, (row) => integer(row.false)],
  ["mask AP", (row) => row.segm.ap["IoU 0.5:0.95"], (row) => fraction(row.segm.ap["IoU 0.5:0.95"])],
  ["mask AP50", (row) => row.segm.ap["IoU 0.5"], (row) => fraction(row.segm.ap["IoU 0.5"])],
  ["box AP", (row) => row.bbox.ap["IoU 0.5:0.95"], (row) => fraction(row.bbox.ap["IoU 0.5:0.95"])],
  ["box AP50", (row) => row.bbox.ap["IoU 0.5"], (row) => fraction(row.bbox.ap["IoU 0.5"])],
];

function fillNumbers(numbers) {
  for (const row of document.querySelectorAll("#numbers tbody tr")) {
    const name = row.dataset.number;
    const cells = ["segm", "bbox"].map((kind) => html("td", {}, fraction(numbers[kind][name])));
    row.prepend(html("th", { scope: "row" }, name), ...cells);
  }
}

// What a class found, missed and made up with scores from a threshold on, which is an edge of the bins.
function countClass(entry, match, threshold) {
  const first = Math.round(threshold * NUM_BINS);
  const found = sum(entry[match].correct.slice(first));
  return { ...entry, found, missed: entry.objects - found, false: sum(entry[match].false.slice(first)) };
}

// By ascending values, or descending if the direction is -1. What has no number, such as the AP of a class without
// objects, comes last in either direction.
function inOrder(rows, value, direction) {
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const missing = (row) => value(row) === null;
  const either = (a, b) => (missing(a) ? 0 : direction * compare(value(a), value(b)));
  return [...rows].sort((a, b) => missing(a) - missing(b) || either(a, b));
}

function classTable(classes, view, choose, sortBy) {
  const rows = classes.map((entry, index) => ({ ...countClass(entry, view.match, view.threshold), index }));
  const kept = rows.filter((row) => row.name.toLowerCase().includes(view.classText.toLowerCase()));
  const column = CLASS_COLUMNS.find(([name]) => name === view.classSort) ?? CLASS_COLUMNS[0];
  const head = CLASS_COLUMNS.map(([name]) => {
    const sorted = name === column[0] ? (view.classOrder > 0 ? "ascending" : "descending") : "none";
    const arrow = { ascending: " \u25b2", descending: " \u25bc", none: "" }[sorted];
    const button = html("button", { type: "button", "data-focus": `sort ${name}`, onclick: () => sortBy(name) }, name,
      html("span", { "aria-hidden": "true" }, arrow));
    return html("th", { scope: "col", "aria-sort": sorted }, button);
  });
  const body = inOrder(kept, column[1], view.classOrder).map((row) => {
    const attributes = { type: "button", "data-focus": `class ${row.index}`, onclick: () => choose(row.index) };
    const button = html("button", attributes, row.name);
    const cells = CLASS_COLUMNS.slice(1).map(([, , text]) => html("td", {}, text(row)));
    const chosen = row.index === view.class ? { class: "chosen", "aria-current": "true" } : {};
    return html("tr", chosen, html("th", { scope: "row" }, button), ...cells);
  });
  byId("classes").replaceChildren(html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body));
  byId("classes-filter").querySelector("[role=status]").textContent =
    `${integer(kept.length)} of ${integer(classes.length)} classes`;
}
