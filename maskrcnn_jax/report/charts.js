// Draws charts as SVG in a view box of 440 x 290 units, which scales with the page.

const PLOT = { left: 52, right: 428, top: 12, bottom: 246 };
const NUM_BINS = 20;

function chart(label, ...children) {
  return svg("svg", { class: "chart", viewBox: "0 0 440 290", role: "img", "aria-label": label },
    svg("title", {}, label), ...children);
}

const across = (x) => PLOT.left + x * (PLOT.right - PLOT.left);
const upwards = (y) => PLOT.bottom - y * (PLOT.bottom - PLOT.top);

function line(x0, y0, x1, y1, kind) {
  return svg("line", { x1: x0, y1: y0, x2: x1, y2: y1, class: kind });
}

function horizontalAxis(name) {
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((x) =>
    svg("text", { x: across(x), y: PLOT.bottom + 18, "text-anchor": "middle" }, x.toFixed(1)));
  return [...ticks, svg("text", { x: across(0.5), y: 284, "text-anchor": "middle" }, name)];
}

function verticalAxis(name, ticks) {
  const middle = (PLOT.top + PLOT.bottom) / 2;
  const turned = `translate(13 ${middle}) rotate(-90)`;
  const lines = ticks.flatMap(([y, text]) => [
    line(PLOT.left, upwards(y), PLOT.right, upwards(y), "grid"),
    svg("text", { x: PLOT.left - 6, y: upwards(y) + 4, "text-anchor": "end" }, text)]);
  return [...lines, svg("text", { transform: turned, "text-anchor": "middle" }, name)];
}

function legend(entries) {
  return html("ul", { class: "legend" }, ...entries.map(([text, swatch]) =>
    html("li", {}, svg("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, swatch), text)));
}

// `curves` has the precision in thousandths at the recalls 0, 0.01, ..., 1 for each IoU threshold.
function precisionRecall(name, { ap, curves }) {
  const kinds = Object.keys(curves).map((iou, i) => [iou, ["first", "second", "third"][i]]);
  const drawn = kinds.filter(([iou]) => curves[iou] !== null);
  if (!drawn.length) return [html(
    "p", {}, "There are no objects of this class, so there is no curve.")];
  const paths = drawn.map(([iou, kind]) => {
    const points = curves[iou].map(
      (y, i) => `${across(i / 100).toFixed(1)},${upwards(y / 1000).toFixed(1)}`);
    return svg("polyline", { points: points.join(" "), class: `curve ${kind}`, "data-iou": iou });
  });
  const said = drawn.map(([iou]) => `AP ${fraction(ap[iou])} at ${iou}`);
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((y) => [y, y.toFixed(1)]);
  const label = `Precision against recall of ${name}: ${said.join(", ")}`;
  return [
    chart(label, ...verticalAxis("precision", ticks), ...horizontalAxis("recall"), ...paths),
    legend(drawn.map(([iou, kind], i) => [said[i], line(0, 6, 28, 6, `curve ${kind}`)]))];
}

// `bins` has the numbers of correct and of false detections by score; `counts` has those above the
// threshold.
function scoreHistogram(name, bins, threshold, counts) {
  const most = Math.max(...bins.correct, ...bins.false, 1);
  const powers = Math.ceil(Math.log10(most + 1));
  const height = (count) => Math.log10(count + 1) / Math.log10(10 ** powers + 1);
  const ticks = [[0, "0"],
    ...Array.from({ length: powers + 1 }, (_, i) => [height(10 ** i), integer(10 ** i)])];
  const width = (across(1) - across(0)) / NUM_BINS;
  const bars = ["correct", "false"].flatMap((kind, side) => bins[kind].map((count, i) => {
    const scores = `${(i / NUM_BINS).toFixed(2)} to ${((i + 1) / NUM_BINS).toFixed(2)}`;
    return svg("rect", {
      x: across(i / NUM_BINS) + 1 + side * (width / 2 - 1), y: upwards(height(count)),
        width: width / 2 - 1,
      height: PLOT.bottom - upwards(height(count)), class: `${kind}-bar`,
    }, svg("title", {}, `${count} ${kind}, score ${scores}`));
  }));
  const correct = integer(sum(bins.correct)), wrong = integer(sum(bins.false));
  const label = `Scores of the detections of ${name}: ${correct} correct, ${wrong} false`;
  const swatch = (kind) => svg("rect", { x: 8, width: 12, height: 12, class: kind });
  return [
    chart(label, ...verticalAxis("detections", ticks), ...horizontalAxis("score"), ...bars,
      line(across(threshold), PLOT.top, across(threshold), PLOT.bottom, "threshold")),
    legend([[`correct: ${correct}`, swatch("correct-bar")],
      [`false: ${wrong}`, swatch("false-bar")],
      [`from ${threshold.toFixed(2)} on: precision `
        + `${share(counts.found, counts.found + counts.false)}, `
        + `recall ${share(counts.found, counts.objects)}`, line(14, 0, 14, 12, "threshold")]])];
}
