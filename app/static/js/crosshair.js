// The layer that moves with the hand: the crosshair, the ghost of the order that would be sent, what
// it would do, and the words beside an own order's mark.

import { drawPriceRow, drawQuantityTag } from "./axes.js";
import { describe, kindOfOrder } from "./kinds.js";
import { preview } from "./preview.js";
import { formatPrice, formatQuantity } from "./prices.js";

/** Crosshair, ghost and words of `aim` on a layer of `size`. */
export function drawAim(pen, look, size, { aim, book, scale }) {
  const { order, kind, at } = aim;
  const sketch = preview(order, book);
  // A market order trades where the book is, wherever one points.
  const atMarket = kind.market && !kind.stop;
  const price = atMarket ? (sketch.taken.at(-1)?.[0] ?? at.price) : at.price;
  const [x, y] = [Math.round(scale.x(price)) + 0.5, Math.round(scale.y(at.quantity)) + 0.5];
  drawTaken(pen, scale, sketch.taken);
  drawGhost(pen, scale, look[kind.side], { x, y, order, taken: sketch.taken });
  drawCross(pen, scale, { x, y });
  if (aim.stop) drawPressedStop(pen, look, scale, aim.stop, { x, y });
  drawPriceRow(pen, look, scale, { height: size.height, last: book.last, aimed: price });
  drawQuantityTag(pen, look, scale, at.quantity);
  drawCard(pen, look, scale, {
    x,
    y: y - (aim.by === "touch" ? 40 : 14),
    color: look[kind.side],
    title: `${formatQuantity(order.quantity)} at ${atMarket ? "market" : formatPrice(price)}`,
    lines: [`${kind.side} ${kind.name} · ${sketch.money}`, sketch.outcome],
  });
}

export function drawMarkHint(pen, look, scale, { x, orders }) {
  const lines = orders
    .slice(-5)
    .map((order) => `#${order.oid} ${describe({ ...order, quantity: order.remaining })}`);
  const which = orders.length > 1 ? `#${orders.at(-1).oid}` : "it";
  const hint = `a click cancels ${which}, dragging changes it`;
  drawCard(pen, look, scale, {
    x, y: scale.height - 6, color: look.text, title: null, lines: [...lines, hint],
  });
}

/** An own order on its way to another price (a waiting stop: to another stop). */
export function drawDragged(pen, look, size, { order, price, book, scale }) {
  const waits = order.status === "pending_stop";
  const changed = { ...order, quantity: order.remaining, ...(waits ? { stop: price } : { price, stop: 0 }) };
  const sketch = preview(changed, book);
  const color = look[order.side];
  const before = waits ? order.stop : order.price;
  const [x, y] = [Math.round(scale.x(price)) + 0.5, Math.max(2, Math.round(scale.y(order.remaining)))];
  drawTaken(pen, scale, sketch.taken);
  drawGhost(pen, scale, color, { x, y, order: changed, taken: sketch.taken });
  pen.strokeStyle = look.white;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(scale.x(before), y + 0.5);
  pen.lineTo(x, y + 0.5);
  pen.moveTo(x, 0);
  pen.lineTo(x, scale.height);
  pen.stroke();
  drawPriceRow(pen, look, scale, { height: size.height, last: book.last, aimed: price });
  drawCard(pen, look, scale, {
    x,
    y: y - 14,
    color,
    title: `${formatQuantity(order.remaining)} at ${formatPrice(before)} → ${formatPrice(price)}`,
    lines: [`#${order.oid} ${order.side} ${kindOfOrder(order).name}`, sketch.outcome],
  });
}

function drawCross(pen, scale, { x, y }) {
  pen.strokeStyle = "#ffffffa0";
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(0, y);
  pen.lineTo(scale.width, y);
  pen.moveTo(x, 0);
  pen.lineTo(x, scale.height);
  pen.stroke();
}

/** The parts of the levels that the order would trade with. */
function drawTaken(pen, scale, taken) {
  const width = scale.barWidth;
  pen.fillStyle = "#ffffffb0";
  for (const [price, part] of taken) {
    const x = Math.round(scale.x(price) - width / 2);
    const y = Math.max(0, scale.y(part));
    pen.fillRect(x, y, width, scale.height - y);
  }
}

/** The bar that the order would be: dense as high as it fills now, faint where it would rest. */
function drawGhost(pen, scale, color, { x, y, order, taken }) {
  const width = scale.barWidth + 4;
  const now = taken.reduce((sum, [, part]) => sum + part, 0);
  const fills = Math.max(y, scale.y(Math.min(now, order.quantity)));
  pen.fillStyle = `${color}40`;
  pen.fillRect(x - width / 2, y, width, fills - y);
  pen.fillStyle = `${color}a0`;
  pen.fillRect(x - width / 2, fills, width, scale.height - fills);
  pen.strokeStyle = color;
  pen.lineWidth = 1;
  pen.setLineDash(order.stop ? [4, 3] : []);
  pen.strokeRect(x - width / 2, y, width, scale.height - y);
  pen.setLineDash([]);
}

function drawPressedStop(pen, look, scale, stop, { x, y }) {
  const pressed = Math.round(scale.x(stop)) + 0.5;
  pen.strokeStyle = look.warn;
  pen.lineWidth = 2;
  pen.setLineDash([5, 4]);
  pen.beginPath();
  pen.moveTo(pressed, 0);
  pen.lineTo(pressed, scale.height);
  pen.moveTo(pressed, y);
  pen.lineTo(x, y);
  pen.stroke();
  pen.setLineDash([]);
  pen.font = `600 12px ${look.figures}`;
  pen.fillStyle = look.warn;
  pen.textBaseline = "middle";
  const left = pressed + 90 > scale.width;
  pen.textAlign = left ? "right" : "left";
  pen.fillText(`stop ${formatPrice(stop)}`, pressed + (left ? -6 : 6), 12);
}

/** A card beside (x, y), above it if there is room, inside the plot and below the newest match's
 *  words. */
function drawCard(pen, look, scale, { x, y, color, title, lines }) {
  const narrow = scale.width < 480;
  const titleFont = `600 ${narrow ? 19 : 22}px ${look.figures}`;
  const lineFont = `${narrow ? 12 : 12.5}px ${look.figures}`;
  pen.font = titleFont;
  let wide = title ? pen.measureText(title).width : 0;
  pen.font = lineFont;
  for (const line of lines) wide = Math.max(wide, pen.measureText(line).width);
  wide = Math.ceil(wide) + 24;
  const high = (title ? 30 : 4) + lines.length * 18 + 10;
  const right = x + 14 + wide <= scale.width - 6;
  const left = right ? x + 14 : Math.max(6, Math.min(x - 14 - wide, scale.width - 6 - wide));
  const top = Math.min(scale.height - high - 6, Math.max(narrow ? 40 : 80, y - high));
  pen.fillStyle = look.card;
  pen.strokeStyle = color;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.roundRect(left + 0.5, top + 0.5, wide, high, 6);
  pen.fill();
  pen.stroke();
  pen.textAlign = "left";
  pen.textBaseline = "alphabetic";
  let line = top + (title ? 28 : 2);
  if (title) {
    pen.font = titleFont;
    pen.fillStyle = look.white;
    pen.fillText(title, left + 12, line);
  }
  pen.font = lineFont;
  pen.fillStyle = color;
  for (const text of lines) pen.fillText(text, left + 12, (line += 18));
}
