// Fills the tables of COCO's twelve numbers and of the classes.

const CLASS_COLUMNS = [
  ["class", (row) => row.name, (row) => row.name],
  ["objects", (row) => row.objects, (row) => integer(row.objects)],
  ["found", (row) => row.found, (row) => integer(row.found)],
  ["missed", (row) => row.missed, (row) => integer(row.missed)],
  ["false", (row) => row.false, (row) => integer(row.false)],
];

// Two columns for each kind: masks, if there are any, and boxes.
function apColumns(kinds) {
  return kinds.flatMap(
    (kind) => [["AP", "IoU 0.5:0.95"], ["AP50", "IoU 0.5"]].map(([number, iou]) => {
    const ap = (row) => row[kind].ap[iou];
    return [`${KIND_NAMES[kind]} ${number}`, ap, (row) => fraction(ap(row))];
  }));
}

function fillNumbers(numbers, kinds) {
  for (const row of document.querySelectorAll("#numbers tbody tr")) {
    const name = row.dataset.number;
    if (!(name in numbers.bbox)) {  // COCO has no frequencies of categories.
      row.remove();
      continue;
    }
    const cells = kinds.map((kind) => html("td", {}, fraction(numbers[kind][name])));
    row.prepend(html("th", { scope: "row" }, name), ...cells);
  }
}

// Counts the found, missed and false instances of a class above a threshold, which is a bin edge.
function countClass(entry, match, threshold) {
  const first = Math.round(threshold * NUM_BINS);
  const found = sum(entry[match].correct.slice(first));
  return { ...entry, found, missed: entry.objects - found,
    false: sum(entry[match].false.slice(first)) };
}

// Sorts by ascending values, or descending if the direction is -1. Rows without a number, such as
// the AP of a class without objects, come last in both directions.
function inOrder(rows, value, direction) {
  const compare = (a, b) => (
    typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const missing = (row) => value(row) === null;
  const either = (a, b) => (missing(a) ? 0 : direction * compare(value(a), value(b)));
  return [...rows].sort((a, b) => missing(a) - missing(b) || either(a, b));
}

function classTable(classes, kinds, view, choose, sortBy) {
  const columns = [...CLASS_COLUMNS, ...apColumns(kinds)];
  const rows = classes.map(
    (entry, index) => ({ ...countClass(entry, view.match, view.threshold), index }));
  const kept = rows.filter((row) => row.name.toLowerCase().includes(view.classText.toLowerCase()));
  const column = columns.find(([name]) => name === view.classSort) ?? columns[0];
  const head = columns.map(([name]) => {
    const sorted = name === column[0] ? (view.classOrder > 0 ? "ascending" : "descending") : "none";
    const arrow = { ascending: " \u25b2", descending: " \u25bc", none: "" }[sorted];
    const button = html("button",
      { type: "button", "data-focus": `sort ${name}`, onclick: () => sortBy(name) }, name,
      html("span", { "aria-hidden": "true" }, arrow));
    return html("th", { scope: "col", "aria-sort": sorted }, button);
  });
  const body = inOrder(kept, column[1], view.classOrder).map((row) => {
    const attributes = { type: "button", "data-focus": `class ${row.index}`,
      onclick: () => choose(row.index) };
    const button = html("button", attributes, row.name);
    const cells = columns.slice(1).map(([, , text]) => html("td", {}, text(row)));
    const chosen = row.index === view.class ? { class: "chosen", "aria-current": "true" } : {};
    return html("tr", chosen, html("th", { scope: "row" }, button), ...cells);
  });
  byId("classes").replaceChildren(
    html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body));
  byId("classes-filter").querySelector("[role=status]").textContent =
    `${integer(kept.length)} of ${integer(classes.length)} classes`;
}
