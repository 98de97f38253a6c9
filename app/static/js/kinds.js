// The eight kinds of order, and what an order of such a kind is called.

import { formatPrice, formatQuantity } from "./prices.js";

/** In the order of the keys 1 to 8. `market`: no limit price; `stop`: waits for its stop (R7). */
export const KINDS = ["buy", "sell"].flatMap((side) => [
  { value: `${side}-market`, side, name: "market", market: true, stop: false },
  { value: `${side}-limit`, side, name: "limit", market: false, stop: false },
  { value: `${side}-stop-market`, side, name: "stop market", market: true, stop: true },
  { value: `${side}-stop-limit`, side, name: "stop limit", market: false, stop: true },
]);

export function kindOf(value) {
  return KINDS.find((kind) => kind.value === value);
}

/** The kind of an order as the feed describes it: a price of null or 0 is a market order. */
export function kindOfOrder({ side, price, stop }) {
  return KINDS.find(
    (kind) => kind.side === side && kind.market === !price && kind.stop === Boolean(stop),
  );
}

/** "Buy 540 at 102.45", "Sell 20 at market", "Buy 5 at 103.00, stop 102.90". */
export function describe({ side, quantity, price, stop }) {
  const verb = side === "buy" ? "Buy" : "Sell";
  const at = price ? formatPrice(price) : "market";
  const waits = stop ? `, stop ${formatPrice(stop)}` : "";
  return `${verb} ${formatQuantity(quantity)} at ${at}${waits}`;
}
