// Fills the list of images: counts, and drawings of ground truth and detections side by side.

const IMAGES_AT_ONCE = 20;

// Counts the objects of the chosen class in an image, and the detections above the chosen score.
function countImage(image, view) {
  const lowest = Math.round(view.threshold * 1000);
  const ofClass = (columns) =>
    columns.class.flatMap((c, i) => (view.class === null || c === view.class ? [i] : []));
  const objects = ofClass(image.objects), detections = ofClass(image.detections);
  const missed = objects.filter((i) => image.objects[view.match][i] < lowest);
  const wrong = detections.filter(
    (i) => image.detections.score[i] >= lowest && image.detections[view.match][i] === 0);
  return {
    image, missed, wrong, objects: objects.length, found: objects.length - missed.length,
    present: objects.length > 0 || detections.length > 0,
  };
}

const IMAGE_ORDERS = {
  mistakes: (row) => -row.missed.length - row.wrong.length,
  missed: (row) => -row.missed.length,
  false: (row) => -row.wrong.length,
  found: (row) => -row.found,
  objects: (row) => -row.objects,
  name: (row) => row.image.name,
};

function selectImages(images, view) {
  const text = view.text.toLowerCase();
  const kept = images.map((image) => countImage(image, view)).filter((row) =>
    (row.present || view.class === null) && row.missed.length >= view.missed
      && row.wrong.length >= view.false
    && (row.image.objects.drawing || !view.drawn)
    && (row.image.name.toLowerCase().includes(text) || String(row.image.id).includes(text)));
  return inOrder(kept, IMAGE_ORDERS[view.sort], 1);
}

function framed(image, columns, marked, kind, alt, names) {
  const [width, height] = image.size;
  const frames = marked.flatMap((i) => {
    const [x, y, w, h] = columns.boxes[i];
    const score = columns.score ? ` ${(columns.score[i] / 1000).toFixed(2)}` : "";
    const place = { x, y, width: w, height: h };
    return [svg("rect", { ...place, class: "halo" }),
      svg("rect", { ...place, class: kind },
        svg("title", {}, `${kind}: ${names[columns.class[i]]}${score}`))];
  });
  const plane = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none",
    "aria-hidden": "true" };
  const drawing = html("img", { src: columns.drawing, alt, loading: "lazy", width, height });
  return html("div", { class: "framed" }, drawing, svg("svg", plane, ...frames));
}

function imageCard({ image, missed, wrong, objects, found }, names) {
  const counts = html("p", {}, `${counted(objects, "object")}: ${found} found, `,
    html("strong", missed.length ? { class: "missed" } : {}, `${missed.length} missed`), "; ",
    html("strong", wrong.length ? { class: "false" } : {},
      counted(wrong.length, "false detection")));
  const title = image.name === `image ${image.id}` ? image.name : `${image.name} (id ${image.id})`;
  const card = html("article", { "data-id": image.id }, html("h3", {}, title), counts);
  if (image.objects.drawing) {
    card.append(html("div", { class: "pair" },
      html("figure", {}, framed(
        image, image.objects, missed, "missed", `Ground truth of ${image.name}`, names),
        html("figcaption", {}, "ground truth; dashed: missed")),
      html("figure", {}, framed(
        image, image.detections, wrong, "false", `Detections in ${image.name}`, names),
        html("figcaption", {}, "detections; dotted: false"))));
  }
  return card;
}

function imageList(images, view, names, shown) {
  const rows = selectImages(images, view);
  byId("images").replaceChildren(...rows.slice(0, shown).map((row) => imageCard(row, names)));
  byId("more").hidden = rows.length <= shown;
  byId("images-filter").querySelector("[role=status]").textContent =
    `${integer(rows.length)} of ${integer(images.length)} images`;
}
