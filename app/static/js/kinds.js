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

/** "Buy 540 at 102.45", "Sell 20 at market", "Buy 5 at 103.00, stop 102.90", and for who asks for it
 *  "…, shows 50, post-only". */
export function describe({ side, quantity, price, stop, peak, post }) {
  const verb = side === "buy" ? "Buy" : "Sell";
  const at = price ? formatPrice(price) : "market";
  const waits = stop ? `, stop ${formatPrice(stop)}` : "";
  const shows = peak ? `, shows ${formatQuantity(peak)}` : "";
  return `${verb} ${formatQuantity(quantity)} at ${at}${waits}${shows}${post ? ", post-only" : ""}`;
}

/** "80 at 50.30", "80 at market, stop 52.00": an order's terms without its side. */
export function terms({ quantity, price, stop, status }) {
  const waits = stop && status === "pending_stop" ? `, stop ${formatPrice(stop)}` : "";
  return `${formatQuantity(quantity)} at ${price ? formatPrice(price) : "market"}${waits}`;
}

/** Why an order may not have a property, beside a kind, a tif and a phase: "" if it may (R8–R10). */
export function objections({ kind, tif, inAuction }) {
  const atOnce = tif === "ioc" || tif === "fok";
  const later = "not in an auction (R10)";
  const kindWord = kind.stop ? "stop" : kind.market ? "market" : "";
  return {
    market: inAuction && !kind.stop && kind.market ? later : "",
    atOnce: inAuction && !kind.stop ? later : "",
    post: kindWord ? `not with ${kindWord} orders (R8)` : atOnce ? `not with ${tif} (R8)` : inAuction ? later : "",
    peak: kind.market ? "not at market (R9)" : atOnce ? `not with ${tif} (R9)` : "",
  };
}
