// Decodes masks, and blends them over an image. Nothing here knows the page.

// The run lengths of COCO's compressed text: background first, in columns from top to bottom.
// Six bits a letter: five of a number in two's complement, and whether more follow. From the third
// on, a number is the difference to the one before the last.
function runLengths(text) {
  const found = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, letter;
    do {
      letter = text.charCodeAt(at++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16 && shift < 32) value |= -1 << shift;
    found.push(found.length > 2 ? value + found[found.length - 2] : value);
  }
  return found;
}

// The part of a mask inside of a box, in a view of the image with another number of pixels:
// {x, y, width, height, cells}. A cell is 0 outside, 1 inside, and 2 at the rim.
function maskInView(mask, box, view) {
  const [rows, columns] = mask.size;
  const [x0, y0] = [Math.max(Math.floor(box[0]) - 1, 0), Math.max(Math.floor(box[1]) - 1, 0)];
  const [x1, y1] = [Math.min(Math.ceil(box[2]) + 1, columns), Math.min(Math.ceil(box[3]) + 1, rows)];
  const tall = y1 - y0, crop = new Uint8Array(Math.max(x1 - x0, 0) * Math.max(tall, 0));
  let at = 0, inside = false;
  for (const run of runLengths(mask.counts)) {
    for (let from = at, end = at + run; inside && from < end;) {
      const column = Math.floor(from / rows), stop = Math.min(end, (column + 1) * rows);
      const top = Math.max(from - column * rows, y0), bottom = Math.min(stop - column * rows, y1);
      if (column >= x0 && column < x1 && bottom > top) {
        crop.fill(1, (column - x0) * tall + top - y0, (column - x0) * tall + bottom - y0);
      }
      from = stop;
    }
    at += run;
    inside = !inside;
  }
  const across = view.width / columns, down = view.height / rows;
  const x = Math.floor(x0 * across), y = Math.floor(y0 * down);
  const width = Math.min(Math.ceil(x1 * across), view.width) - x;
  const height = Math.min(Math.ceil(y1 * down), view.height) - y;
  const cells = new Uint8Array(Math.max(width, 0) * Math.max(height, 0));
  for (let i = 0, cell = 0; i < height; i++) {
    const row = Math.floor((y + i + 0.5) / down) - y0;
    for (let j = 0; j < width; j++, cell++) {
      const column = Math.floor((x + j + 0.5) / across) - x0;
      const isIn = row >= 0 && row < tall && column >= 0 && column < x1 - x0;
      if (isIn && crop[column * tall + row]) cells[cell] = 1;
    }
  }
  markRim(cells, width, height);
  return { x, y, width, height, cells };
}

function markRim(cells, width, height) {
  for (let i = 0, cell = 0; i < height; i++) {
    for (let j = 0; j < width; j++, cell++) {
      if (!cells[cell]) continue;
      const isInner = i > 0 && j > 0 && i < height - 1 && j < width - 1
        && cells[cell - 1] && cells[cell + 1] && cells[cell - width] && cells[cell + width];
      if (!isInner) cells[cell] = 2;
    }
  }
}

function isInMask(mask, x, y) {
  const [i, j] = [Math.floor(y) - mask.y, Math.floor(x) - mask.x];
  return i >= 0 && j >= 0 && i < mask.height && j < mask.width && mask.cells[i * mask.width + j] > 0;
}

// Blends a colour over the pixels of a mask: `strength` inside, and full at the rim.
function blend(pixels, mask, color, strength) {
  const { data, width } = pixels;
  for (let i = 0, cell = 0; i < mask.height; i++) {
    let at = 4 * ((mask.y + i) * width + mask.x);
    for (let j = 0; j < mask.width; j++, cell++, at += 4) {
      if (!mask.cells[cell]) continue;
      const share = mask.cells[cell] === 2 ? 1 : strength;
      for (let c = 0; c < 3; c++) data[at + c] += share * (color[c] - data[at + c]);
    }
  }
}
