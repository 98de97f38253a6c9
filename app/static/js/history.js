// The small box of the price's history: the last 50 matches as a line, as EMTE had it in 2010.

import { TRADES_KEPT } from "./book.js";
import { formatPrice } from "./prices.js";

export function drawHistory(pen, look, trades, { width, height }) {
  if (trades.length === 0) return;
  const prices = trades.map((trade) => trade.price);
  const [low, high] = [Math.min(...prices), Math.max(...prices)];
  const flat = high === low;
  const labels = height > 90 ? 17 : 0;
  const gutter = labels ? 0 : 64;
  const y = (price) =>
    flat ? height / 2 : labels + 6 + ((high - price) / (high - low)) * (height - 2 * labels - 12);
  const x = (index) => 6 + (index * (width - gutter - 14)) / (TRADES_KEPT - 1);
  const start = TRADES_KEPT - prices.length;
  pen.strokeStyle = look.white;
  pen.lineWidth = 1.25;
  pen.lineJoin = "round";
  pen.beginPath();
  prices.forEach((price, index) => pen.lineTo(x(start + index), y(price)));
  pen.stroke();
  pen.fillStyle = look.newest;
  pen.beginPath();
  pen.arc(x(TRADES_KEPT - 1), y(prices.at(-1)), 4, 0, 7);
  pen.fill();
  pen.font = `11px ${look.figures}`;
  pen.fillStyle = look.dim;
  pen.textBaseline = "middle";
  pen.textAlign = labels ? "left" : "right";
  const edge = labels ? 7 : width - 8;
  pen.fillText(formatPrice(high), edge, 11);
  if (!flat) pen.fillText(formatPrice(low), edge, height - 10);
  if (labels) {
    pen.textAlign = "right";
    pen.fillText(`last ${prices.length}`, width - 7, 11);
  }
}
