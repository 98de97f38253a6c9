// The axes of the canvas: grid lines, labels, and the tags of last and of what is aimed at.
//
// No two labels of the price axis touch: a tag takes the place of labels near it, and the tag of the
// aim that of last.

import { drawTag, tagWidth } from "./look.js";
import { formatPrice, formatShort } from "./prices.js";

const PRICES_APART = 66; // pixels from label to label
const QUANTITIES_APART = 44;
const TAG_CLEAR = 57; // from a tag's middle to that of the next label
const ROW_FROM_BOTTOM = 12;
const ROW_HEIGHT = 22;

export function drawGrid(pen, look, scale) {
  const { prices, quantities } = lines(scale);
  pen.lineWidth = 1;
  pen.strokeStyle = look.grid;
  pen.beginPath();
  for (const price of prices) {
    const x = Math.round(scale.x(price)) + 0.5;
    pen.moveTo(x, 0);
    pen.lineTo(x, scale.height);
  }
  for (const quantity of quantities) {
    const y = Math.round(scale.y(quantity)) + 0.5;
    pen.moveTo(0, y);
    pen.lineTo(scale.width, y);
  }
  pen.stroke();
  pen.strokeStyle = look.axis;
  pen.beginPath();
  pen.moveTo(0, scale.height + 0.5);
  pen.lineTo(scale.width, scale.height + 0.5);
  pen.stroke();
}

export function drawQuantityLabels(pen, look, scale) {
  pen.font = `12px ${look.figures}`;
  pen.fillStyle = look.dim;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  for (const quantity of lines(scale).quantities) {
    const y = scale.y(quantity);
    if (y > 8) pen.fillText(formatShort(quantity), scale.width + 8, y);
  }
}

/** The row of prices at the bottom of a layer `height` pixels high, with the tags of `last` and, if
 *  something is aimed at, of that price. It paints its own ground, over another layer's row. */
export function drawPriceRow(pen, look, scale, { height, last, aimed = null }) {
  const row = height - ROW_FROM_BOTTOM;
  const place = (price) => Math.min(scale.width - 30, Math.max(30, scale.x(price)));
  const tags = [];
  if (aimed !== null) {
    tags.push({ price: aimed, x: place(aimed), ground: look.text, color: look.onBright });
  }
  if (last !== null && isClear(place(last), tags)) {
    tags.push({ price: last, x: place(last), ground: look.newest, color: look.white });
  }
  pen.fillStyle = look.ground;
  pen.fillRect(0, row - ROW_HEIGHT / 2, scale.width + 6, ROW_HEIGHT);
  pen.font = `12px ${look.figures}`;
  pen.fillStyle = look.dim;
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  for (const price of lines(scale).prices) {
    const x = scale.x(price);
    if (x === place(price) && isClear(x, tags)) pen.fillText(formatPrice(price), x, row);
  }
  for (const tag of tags) drawTag(pen, look, { ...tag, text: formatPrice(tag.price), y: row });
}

/** The quantity that is aimed at, beside the plot. */
export function drawQuantityTag(pen, look, scale, quantity) {
  const text = formatShort(quantity);
  pen.font = `600 12px ${look.figures}`;
  drawTag(pen, look, {
    text,
    x: scale.width + 1 + tagWidth(pen, text) / 2,
    y: Math.max(10, scale.y(quantity)),
    ground: look.text,
    color: look.onBright,
  });
}

function lines(scale) {
  const steps = scale.gridSteps(PRICES_APART, QUANTITIES_APART);
  return {
    prices: multiples(steps.price, scale.low, scale.high),
    quantities: multiples(steps.quantity, steps.quantity, scale.top),
  };
}

function multiples(step, from, to) {
  const first = Math.max(1, Math.ceil(from / step));
  const count = Math.max(0, Math.floor(to / step) - first + 1);
  return Array.from({ length: count }, (_, index) => (first + index) * step);
}

function isClear(x, tags) {
  return tags.every((tag) => Math.abs(tag.x - x) >= TAG_CLEAR);
}
