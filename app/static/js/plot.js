// The still layer of the canvas: grid and axes, cumulative depth, the bars of the book, own orders
// with their marks on the axis, and the last 50 matches.

import { drawGrid, drawPriceRow, drawQuantityLabels } from "./axes.js";
import { TRADES_KEPT } from "./book.js";
import { formatPrice, formatQuantity } from "./prices.js";

const NARROW = 480; // pixels: a phone's plot, where everything is drawn smaller
const DEPTH_HEIGHT = 0.82; // of the plot: where the larger side's cumulative depth ends

/** Draws the whole layer of `size` { width, height } (CSS pixels) and returns the marks of the own
 *  orders: { x, orders }. `coarse`: for fingers. */
export function drawPlot(pen, look, size, { book, orders, scale }, { coarse }) {
  pen.fillStyle = look.ground;
  pen.fillRect(0, 0, size.width, size.height);
  drawGrid(pen, look, scale);
  drawQuantityLabels(pen, look, scale);
  drawPriceRow(pen, look, scale, { height: size.height, last: book.last });
  if (!book.ready) return [];
  pen.save();
  pen.beginPath();
  pen.rect(0, 0, scale.width, scale.height);
  pen.clip();
  drawDepth(pen, look, scale, book);
  for (const side of ["buy", "sell"]) drawBars(pen, look[side], scale, book.levels(side));
  drawOwnBars(pen, look, scale, orders.open);
  if (book.indicative) drawIndicative(pen, look, scale, book.indicative);
  drawMatches(pen, look, scale, book.trades);
  pen.restore();
  const marks = gatherMarks(scale, orders.open, coarse ? 44 : 22);
  for (const mark of marks) drawMark(pen, look, scale, mark, coarse);
  return marks;
}

/** Where an auction would trade now. */
function drawIndicative(pen, look, scale, { price, volume }) {
  const x = Math.round(scale.x(price)) + 0.5;
  if (x < 0 || x > scale.width) return;
  pen.strokeStyle = look.warn;
  pen.lineWidth = 1.5;
  pen.setLineDash([6, 5]);
  pen.beginPath();
  pen.moveTo(x, 0);
  pen.lineTo(x, scale.height);
  pen.stroke();
  pen.setLineDash([]);
  pen.font = `600 12.5px ${look.figures}`;
  pen.textBaseline = "middle";
  pen.textAlign = x > scale.width / 2 ? "right" : "left";
  const text = `indicative ${formatPrice(price)} · ${formatQuantity(volume)}`;
  const at = [x + (x > scale.width / 2 ? -8 : 8), 14];
  pen.lineWidth = 4;
  pen.strokeStyle = look.ground;
  pen.strokeText(text, ...at);
  pen.fillStyle = look.warn;
  pen.fillText(text, ...at);
}

/** Cumulative depth from the spread outwards, both sides on one scale of their own. */
function drawDepth(pen, look, scale, book) {
  const sums = { buy: sumLevels(scale, book.levels("buy")), sell: sumLevels(scale, book.levels("sell")) };
  const most = Math.max(sums.buy.at(-1)?.sum ?? 0, sums.sell.at(-1)?.sum ?? 0);
  for (const [side, steps] of Object.entries(sums)) {
    if (steps.length === 0) continue;
    const edge = side === "buy" ? -2 : scale.width + 2;
    let y = scale.height;
    pen.beginPath();
    pen.moveTo(steps[0].x, y);
    for (const { x, sum } of steps) {
      pen.lineTo(x, y);
      y = scale.height * (1 - (DEPTH_HEIGHT * sum) / most);
      pen.lineTo(x, y);
    }
    pen.lineTo(edge, y);
    pen.strokeStyle = `${look[side]}66`;
    pen.lineWidth = 1;
    pen.stroke();
    pen.lineTo(edge, scale.height);
    pen.closePath();
    pen.fillStyle = `${look[side]}14`;
    pen.fill();
  }
}

function sumLevels(scale, levels) {
  let sum = 0;
  return levels
    .filter(([price]) => price >= scale.low && price <= scale.high)
    .map(([price, quantity]) => ({ x: scale.x(price), sum: (sum += quantity) }));
}

function drawBars(pen, color, scale, levels) {
  const width = scale.barWidth;
  const bars = [];
  for (const [price, quantity] of levels) {
    const x = Math.round(scale.x(price) - width / 2);
    if (x < -width || x > scale.width) continue;
    bars.push([x, Math.max(0, Math.round(scale.y(quantity))), quantity]);
  }
  pen.fillStyle = `${color}9c`;
  for (const [x, y] of bars) pen.fillRect(x, y, width, scale.height - y);
  pen.fillStyle = color;
  for (const [x, y, quantity] of bars) {
    if (quantity <= scale.top) pen.fillRect(x, y, width, 2);
    else drawBeyond(pen, x + width / 2);
  }
}

/** An arrow head on a bar that is higher than the view. */
function drawBeyond(pen, x) {
  pen.beginPath();
  pen.moveTo(x, 1);
  pen.lineTo(x + 6, 9);
  pen.lineTo(x - 6, 9);
  pen.fill();
}

function drawOwnBars(pen, look, scale, orders) {
  const width = scale.barWidth;
  const resting = new Map();
  for (const order of orders) {
    if (order.status === "pending_stop") drawWaitingStop(pen, look, scale, order);
    else if (order.price) {
      const key = `${order.side} ${order.price}`;
      resting.set(key, (resting.get(key) ?? 0) + order.remaining);
    }
  }
  pen.lineWidth = 1.5;
  pen.strokeStyle = look.white;
  for (const [key, quantity] of resting) {
    const [side, price] = key.split(" ");
    const x = Math.round(scale.x(Number(price)) - width / 2);
    const y = Math.max(2, Math.round(scale.y(quantity)));
    pen.fillStyle = look[side];
    pen.fillRect(x - 1, y, width + 2, scale.height - y);
    pen.strokeRect(x - 1.5, y - 0.5, width + 3, scale.height - y + 2);
  }
}

/** A stop waits outside the book: a dashed outline at its stop price, tied to its limit price. */
function drawWaitingStop(pen, look, scale, order) {
  const width = scale.barWidth;
  const x = Math.round(scale.x(order.stop)) + 0.5;
  const y = Math.max(2, scale.y(order.remaining));
  pen.setLineDash([4, 4]);
  pen.lineWidth = 1;
  pen.strokeStyle = look.warn;
  pen.beginPath();
  pen.moveTo(x, 0);
  pen.lineTo(x, scale.height);
  if (order.price) {
    pen.moveTo(x, y);
    pen.lineTo(scale.x(order.price), y);
  }
  pen.stroke();
  pen.strokeStyle = look.white;
  pen.strokeRect(x - width / 2 - 1.5, y, width + 3, scale.height - y);
  pen.setLineDash([]);
}

function drawMatches(pen, look, scale, trades) {
  const newest = trades.length - 1;
  const largest = scale.width < NARROW ? 9 : 12.5;
  trades.forEach((trade, index) => {
    if (index === newest) return;
    const age = newest - index;
    const x = scale.x(trade.price);
    if (x < -14 || x > scale.width + 14) return;
    pen.fillStyle = `rgba(255, 255, 255, ${(0.62 * (1 - age / TRADES_KEPT)).toFixed(3)})`;
    pen.beginPath();
    pen.arc(x, matchHeight(scale, trade), largest * Math.max(0.12, 1 - age / 55), 0, 7);
    pen.fill();
  });
  if (newest >= 0) drawNewest(pen, look, scale, trades[newest]);
}

function drawNewest(pen, look, scale, trade) {
  const [x, y] = [scale.x(trade.price), matchHeight(scale, trade)];
  if (x < -10 || x > scale.width + 10) return;
  const narrow = scale.width < NARROW;
  const text = `${formatQuantity(trade.quantity)} at ${formatPrice(trade.price)}`;
  pen.font = `600 ${narrow ? 16 : 22}px ${look.figures}`;
  pen.textBaseline = "middle";
  const wide = pen.measureText(text).width;
  const away = narrow ? 28 : 84;
  const toRight = x + away + wide + 20 < scale.width;
  const end = Math.min(scale.width - 12, Math.max(12, toRight ? x + away : x - away));
  const row = narrow ? 22 : 58;
  pen.strokeStyle = look.newest;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(end, row);
  pen.stroke();
  pen.fillStyle = look.newest;
  pen.beginPath();
  pen.arc(x, y, narrow ? 7 : 9, 0, 7);
  pen.fill();
  pen.strokeStyle = look.white;
  pen.stroke();
  pen.fillStyle = look.text;
  pen.textAlign = toRight ? "left" : "right";
  pen.lineWidth = 4;
  pen.strokeStyle = look.ground;
  const start = toRight ? end + 6 : Math.max(wide + 8, end - 6);
  pen.strokeText(text, start, row);
  pen.fillText(text, start, row);
}

function matchHeight(scale, trade) {
  return Math.max(12, scale.y(trade.quantity));
}

/** Own orders that lie closer than `apart` pixels share a mark. */
function gatherMarks(scale, orders, apart) {
  const marks = [];
  const placed = orders
    .map((order) => ({ order, price: order.status === "pending_stop" ? order.stop : order.price }))
    .filter(({ price }) => price && price >= scale.low && price <= scale.high)
    .sort((a, b) => a.price - b.price);
  for (const { order, price } of placed) {
    const x = scale.x(price);
    const before = marks.at(-1);
    if (before && x - before.x < apart) before.orders.push(order);
    else marks.push({ x, orders: [order] });
  }
  for (const mark of marks) mark.orders.sort((a, b) => a.oid - b.oid);
  return marks;
}

function drawMark(pen, look, scale, { x, orders }, coarse) {
  const y = scale.height + (coarse ? 15 : 11);
  const [wide, high] = coarse ? [15, 11] : [10, 7.5];
  const sides = new Set(orders.map((order) => order.side));
  pen.fillStyle = sides.size > 1 ? look.dim : look[orders[0].side];
  pen.strokeStyle = look.white;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.ellipse(x, y, wide, high, 0, 0, 7);
  pen.fill();
  pen.stroke();
  pen.strokeStyle = look.onBright;
  pen.lineWidth = 2;
  if (orders.length > 1) {
    pen.fillStyle = look.onBright;
    pen.font = `700 ${coarse ? 14 : 11}px ${look.figures}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(String(orders.length), x, y + 0.5);
    return;
  }
  const arm = coarse ? 4 : 3;
  pen.beginPath();
  pen.moveTo(x - arm, y - arm);
  pen.lineTo(x + arm, y + arm);
  pen.moveTo(x + arm, y - arm);
  pen.lineTo(x - arm, y + arm);
  pen.stroke();
}
