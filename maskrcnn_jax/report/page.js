// The page shows `view`. The controls change `view`; the address stores `view` for links.

const data = JSON.parse(byId("data").textContent);
const names = data.classes.map((entry) => entry.name);
const INITIAL = {
  class: null, match: data.kinds[0], threshold: data.threshold, classText: "",
  classSort: `${KIND_NAMES[data.kinds[0]]} AP`, classOrder: 1,
  sort: "mistakes", missed: 0, false: 0, text: "", drawn: false,
};
let view = { ...INITIAL };
let shown = IMAGES_AT_ONCE;
let writing;

function numberOr(text, other) {
  return Number.isFinite(Number(text)) ? Number(text) : other;
}

// Reads the view after "#" in the address, such as "class=3&sort=missed". Missing fields keep their
// initial values.
function readAddress() {
  const read = { ...INITIAL };
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    if (!Object.hasOwn(INITIAL, name)) continue;
    if (name === "class") read.class = Number(text) in names ? Number(text) : null;
    else if (typeof INITIAL[name] === "number") read[name] = numberOr(text, INITIAL[name]);
    else if (typeof INITIAL[name] === "boolean") read[name] = text === "true";
    else read[name] = text;
  }
  read.match = data.kinds.includes(read.match) ? read.match : INITIAL.match;
  read.sort = Object.hasOwn(IMAGE_ORDERS, read.sort) ? read.sort : INITIAL.sort;
  read.threshold = Math.min(
    Math.max(Math.round(read.threshold * NUM_BINS), 0), NUM_BINS - 1) / NUM_BINS;
  return read;
}

function writeAddress() {
  const changed = Object.entries(view).filter(([name, value]) => value !== INITIAL[name]);
  const fragment = new URLSearchParams(
    changed.map(([name, value]) => [name, String(value)])).toString();
  history.replaceState(null, "", `#${fragment}`);
}

function change(changes) {
  view = { ...view, ...changes };
  shown = IMAGES_AT_ONCE;
  // Browsers limit the rate of address changes; a moving slider would exceed the limit.
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 300);
  const focus = document.activeElement?.dataset.focus;
  render();
  // `render` has replaced the buttons of the table.
  if (focus) document.querySelector(`[data-focus="${focus}"]`)?.focus();
}

function sortClasses(name) {
  // The first click on a heading sorts the weakest classes first.
  const first = ["objects", "missed", "false"].includes(name) ? -1 : 1;
  change({ classSort: name, classOrder: name === view.classSort ? -view.classOrder : first });
}

function fillControls() {
  const [form, classes, images] =
    ["view", "classes-filter", "images-filter"].map((id) => byId(id).elements);
  form.class.value = view.class === null ? "" : String(view.class);
  form.match.value = view.match;
  form.threshold.value = view.threshold;
  classes.name.value = view.classText;
  [images.sort.value, images.missed.value, images.false.value] =
    [view.sort, view.missed, view.false];
  [images.name.value, images.drawn.checked] = [view.text, view.drawn];
}

function render() {
  const entry = view.class === null ? data.overall : data.classes[view.class];
  const chosen = view.match === "segm" ? "masks" : "boxes";
  byId("view").querySelector("output").textContent = view.threshold.toFixed(2);
  byId("curves-class").textContent =
    view.class === null ? `Shown: ${chosen}, mean of all classes.`
      : `Shown: ${chosen}, class ${entry.name}.`;
  byId("histogram-class").textContent =
    `Shown: ${chosen}, ${view.class === null ? "" : "class "}${entry.name}.`;
  byId("curves").replaceChildren(...precisionRecall(entry.name, entry[view.match]));
  byId("histogram").replaceChildren(...scoreHistogram(
    entry.name, entry[view.match], view.threshold, countClass(entry, view.match, view.threshold)));
  classTable(data.classes, data.kinds, view,
    (index) => { change({ class: index }); fillControls(); }, sortClasses);
  imageList(data.images, view, names, shown);
}

function listen() {
  const number = (input) => Math.max(Number(input.value) || 0, 0);
  byId("view").addEventListener("input", ({ currentTarget: { elements } }) => change({
    class: elements.class.value === "" ? null : Number(elements.class.value),
    match: elements.match.value, threshold: Number(elements.threshold.value),
  }));
  byId("classes-filter").addEventListener("input", ({ currentTarget: { elements } }) =>
    change({ classText: elements.name.value }));
  byId("images-filter").addEventListener("input", ({ currentTarget: { elements } }) => change({
    sort: elements.sort.value, missed: number(elements.missed), false: number(elements.false),
    text: elements.name.value, drawn: elements.drawn.checked,
  }));
  byId("more").addEventListener("click", () => { shown += IMAGES_AT_ONCE; render(); });
  for (const form of document.forms) {
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  addEventListener("hashchange", show);
}

function show() {
  view = readAddress();
  fillControls();
  render();
}

function start() {
  const { overall, images, numImages, maxDetections } = data;
  const isLvis = "APr" in data.numbers.bbox;
  const counts = overall[data.kinds[0]];
  const detections = sum(counts.correct) + sum(counts.false);
  byId("overview").textContent =
    `${integer(numImages)} images, ${integer(overall.objects)} objects of `
    + `${integer(names.length)} classes, ${integer(detections)} detections that count, `
    + `which are at most ${integer(maxDetections)} of each image${isLvis ? "" : " and class"}.`;
  const listed = `Of ${integer(numImages)} images those ${integer(images.length)} with the most `
    + "mistakes are listed. ";
  const drawn = integer(images.filter((image) => image.objects.drawing).length);
  byId("images-text").append(
    images.length < numImages ? listed : "", `The ${drawn} images with the most mistakes `
    + `have drawings, which show detections with a score of ${data.threshold} or more.`);
  const options = [["", "all classes"], ...names.map((name, i) => [i, name])];
  byId("view").elements.class.append(
    ...options.map(([value, name]) => html("option", { value }, name)));
  keepKinds(data.kinds);
  fillNumbers(data.numbers, data.kinds);
  listen();
  show();
}

start();
