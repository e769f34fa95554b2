// The page: sends an image, draws what comes back, and lets the reader look closer. Names of
// categories reach the page as text only, never as HTML.

const byId = (id) => document.getElementById(id);
const MAX_SIDE = 16384, MAX_PIXELS = 2 ** 27;  // Of a canvas, in any of the usual browsers.
const COLORS = [
  [230, 25, 75], [0, 130, 200], [60, 160, 60], [245, 130, 48], [145, 30, 180], [0, 160, 160],
  [240, 50, 230], [170, 110, 40], [128, 128, 0], [70, 90, 230],
];

// What the page shows: an opened image, its answer, and where the reader points.
const state = { file: null, image: null, answer: null, masks: [], chosen: null, pointed: null, request: null };

const scoreOf = () => Number(byId("threshold").value);
const visible = () => state.answer.detections.flatMap((found, i) => found.score > scoreOf() ? [i] : []);
const colorOf = (i) => COLORS[i % COLORS.length];
const css = (color) => `rgb(${color.join(" ")})`;

function say(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = !text;
}

async function open(file) {
  state.request?.abort();
  const request = state.request = new AbortController();
  Object.assign(state, { file, image: null, answer: null, masks: [], chosen: null, pointed: null });
  say("error", "");
  say("busy", "Looking for objects");
  byId("empty").hidden = byId("about").hidden = true;
  byId("controls").hidden = true;
  byId("view").hidden = true;
  const start = performance.now();
  try {
    // Browsers do not read every format that the server reads.
    const image = await createImageBitmap(file).catch(() => null);
    if (state.request !== request) return;
    state.image = image;
    draw();
    const answer = await ask(file, request.signal);
    if (state.request !== request) return;
    state.answer = answer;
    say("took", `Answered in ${((performance.now() - start) / 1000).toFixed(1)} s`);
    byId("controls").hidden = false;
    layOut();
    list();
  } catch (error) {
    if (state.request !== request) return;
    say("error", error.message);
    byId("empty").hidden = state.image !== null;
  } finally {
    if (state.request === request) say("busy", "");
  }
}

async function ask(file, signal) {
  const address = "detect";
  for (;;) {
    const response = await fetch(address, { method: "POST", body: file, signal }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The server does not answer.");
    });
    if (response.status === 503) {
      say("busy", "The server is busy; waiting for a place");
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((wake) => setTimeout(wake, 1000 * seconds));
      signal.throwIfAborted();
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
    return answer;
  }
}

// Width and height of the image, by the server's answer if the browser cannot read it.
function imageSize() {
  if (state.answer) return { width: state.answer.size[1], height: state.answer.size[0] };
  return state.image;
}

// Fits the canvas to the window, in pixels of the screen, and the masks to the canvas.
function layOut() {
  const size = imageSize(), stage = byId("stage"), canvas = byId("view");
  if (!size) return;
  const room = { width: stage.clientWidth - 32, height: Math.max(window.innerHeight - 120, 320) };
  if (matchMedia("(max-width: 50rem)").matches) {  // The list scrolls below the image.
    Object.assign(room, { width: stage.clientWidth - 19, height: window.innerHeight / 2 });
  }
  const scale = Math.min(room.width / size.width, room.height / size.height, 4);
  const shown = [size.width, size.height].map((side) => Math.max(Math.round(side * scale), 1));
  [canvas.style.width, canvas.style.height] = shown.map((side) => `${side}px`);
  const sharp = window.devicePixelRatio || 1;
  canvas.width = Math.round(shown[0] * sharp);
  canvas.height = Math.round(shown[1] * sharp);
  canvas.hidden = false;
  state.masks = (state.answer?.detections ?? []).map(
    (found) => found.mask ? maskInView(found.mask, found.box, canvas) : null);
  draw();
}

function draw() {
  const canvas = byId("view");
  if (canvas.hidden) return imageSize() ? layOut() : undefined;
  const sharp = window.devicePixelRatio || 1;
  const shown = state.answer ? visible() : [];
  paint(canvas, shown, (i) => state.masks[i], sharp);
  const found = shown.map((i) => state.answer.detections[i].name).join(", ");
  canvas.setAttribute("aria-label", `${state.file.name}: ${state.answer ? found || "no objects" : "no answer yet"}`);
}

// Draws the image and its objects on a canvas of any size, the best object last.
function paint(canvas, shown, maskOf, unit) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (state.image) context.drawImage(state.image, 0, 0, canvas.width, canvas.height);
  const focus = state.pointed ?? state.chosen;
  const order = shown.toReversed().sort((a, b) => (a === focus) - (b === focus));
  if (byId("masks").checked) {
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (const i of order) {
      const strength = focus === null ? 0.45 : i === focus ? 0.6 : 0.15;
      const mask = maskOf(i);
      if (mask) blend(pixels, mask, colorOf(i), strength);
    }
    context.putImageData(pixels, 0, 0);
  }
  for (const i of order) outline(context, i, canvas, unit, focus);
}

function outline(context, i, canvas, unit, focus) {
  const { box, name, score } = state.answer.detections[i], [height, width] = state.answer.size;
  const [x0, y0, x1, y1] = box.map((side, axis) => side * (axis % 2 ? canvas.height / height : canvas.width / width));
  context.globalAlpha = focus === null || i === focus ? 1 : 0.35;
  context.strokeStyle = context.fillStyle = css(colorOf(i));
  context.lineWidth = (i === focus ? 3 : 1.5) * unit;
  if (byId("boxes").checked || i === focus) context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  if (byId("names").checked || i === focus) {
    const text = `${name} ${score.toFixed(2)}`;
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    const wide = context.measureText(text).width + 8 * unit, tall = 19 * unit;
    const left = Math.max(Math.min(x0, canvas.width - wide), 0), top = y0 >= tall ? y0 - tall : y0;
    context.fillRect(left, top, wide, tall);
    context.fillStyle = "#ffffff";
    context.textBaseline = "middle";
    context.fillText(text, left + 4 * unit, top + tall / 2);
  }
  context.globalAlpha = 1;
}

function list() {
  const shown = visible(), total = state.answer.detections.length;
  byId("shown").textContent = scoreOf().toFixed(2);
  byId("count").textContent = total ? `${shown.length} of ${total} objects` : "No objects found";
  byId("objects").replaceChildren(...shown.map((i) => {
    const { name, score } = state.answer.detections[i];
    const button = document.createElement("button"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = css(colorOf(i));
    const texts = [["name", name], ["score", score.toFixed(2)]].map(([kind, text]) => {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = text;
      return part;
    });
    button.type = "button";
    button.dataset.index = i;
    button.setAttribute("aria-pressed", String(i === state.chosen));
    button.append(swatch, ...texts);
    button.addEventListener("click", () => choose(state.chosen === i ? null : i));
    button.addEventListener("pointerenter", () => point(i));
    button.addEventListener("pointerleave", () => point(null));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

function choose(i) {
  state.chosen = i;
  for (const button of byId("objects").querySelectorAll("button")) {
    const isChosen = Number(button.dataset.index) === i;
    button.setAttribute("aria-pressed", String(isChosen));
    if (isChosen) button.scrollIntoView({ block: "nearest" });
  }
  draw();
}

function point(i) {
  if (state.pointed === i) return;
  state.pointed = i;
  byId("view").classList.toggle("over", i !== null);
  draw();
}

// The smallest visible object at a place of the canvas: it may lie upon a larger one.
function objectAt(event) {
  if (!state.answer) return null;
  const canvas = byId("view"), frame = canvas.getBoundingClientRect();
  const x = (event.clientX - frame.left) * canvas.width / frame.width;
  const y = (event.clientY - frame.top) * canvas.height / frame.height;
  const [height, width] = state.answer.size;
  const isAt = (i) => {
    if (state.masks[i]) return isInMask(state.masks[i], x, y);
    const [x0, y0, x1, y1] = state.answer.detections[i].box;
    const [column, row] = [x * width / canvas.width, y * height / canvas.height];
    return x0 <= column && column < x1 && y0 <= row && row < y1;
  };
  const area = (i) => {
    const [x0, y0, x1, y1] = state.answer.detections[i].box;
    return (x1 - x0) * (y1 - y0);
  };
  const under = visible().filter(isAt).sort((a, b) => area(a) - area(b));
  return under.length ? under[0] : null;
}

function save(blob, suffix) {
  const link = document.createElement("a"), name = (state.file.name ?? "image").replace(/\.[^.]*$/, "");
  link.href = URL.createObjectURL(blob);
  link.download = `${name || "image"}-objects.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Draws at the size of the image itself; masks are decoded one after the other.
function savePicture() {
  const { width, height } = imageSize(), canvas = document.createElement("canvas");
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height), Math.sqrt(MAX_PIXELS / (width * height)));
  canvas.width = Math.max(Math.floor(width * scale), 1);
  canvas.height = Math.max(Math.floor(height * scale), 1);
  const maskOf = (i) => {
    const { mask, box } = state.answer.detections[i];
    return mask ? maskInView(mask, box, canvas) : null;
  };
  paint(canvas, visible(), maskOf, Math.max(canvas.width, canvas.height) / 1200);
  canvas.toBlob((blob) => blob ? save(blob, "png") : say("error", "The image is too large to draw here."));
}

function saveJson() {
  const { size, detections } = state.answer;
  const kept = { size, detections: visible().map((i) => detections[i]) };
  save(new Blob([JSON.stringify(kept)], { type: "application/json" }), "json");
}

function take(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) open(file);
}

function listen() {
  const stage = byId("stage"), view = byId("view");
  byId("file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";  // So that the same file can be opened again.
  });
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => { event.preventDefault(); stage.classList.add("over"); });
  }
  addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData.files));
  addEventListener("keydown", (event) => event.key === "Escape" && state.chosen !== null && choose(null));
  addEventListener("resize", layOut);
  view.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(objectAt(event)));
  view.addEventListener("pointerleave", () => point(null));
  view.addEventListener("click", (event) => {
    const found = objectAt(event);
    choose(found === state.chosen ? null : found);
  });
  byId("threshold").addEventListener("input", () => {
    if (state.chosen !== null && !visible().includes(state.chosen)) state.chosen = null;
    list();
    draw();
  });
  for (const id of ["masks", "boxes", "names"]) byId(id).addEventListener("change", draw);
  byId("picture").addEventListener("click", savePicture);
  byId("json").addEventListener("click", saveJson);
}

async function introduce() {
  byId("curl").textContent = `curl --data-binary @photo.jpg '${location.origin}/detect?threshold=0.5'`;
  const about = await (await fetch("about")).json();
  const count = about.categories.length;
  byId("model").textContent = `${about.name}, ${count} ${count === 1 ? "category" : "categories"}`;
  byId("categories").textContent = about.categories.map((category) => category.name).join(", ");
  byId("threshold").min = Math.min(Math.floor(100 * about.score_threshold) / 100, 0.5);
}

listen();
introduce();
