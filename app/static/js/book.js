// The public state of one product: price levels, the last 50 trades, phase, last price, and what an
// auction would trade at.
//
// It is built from a snapshot and the updates after it. Every update names the seq that it follows
// (`prev`); one that does not follow what is here is refused, and the book must be asked for anew.

import { parsePrice } from "./prices.js";

export const TRADES_KEPT = 50;

export class Book {
  #levels = { buy: new Map(), sell: new Map() };
  #sorted = { buy: null, sell: null };

  seq = null;
  phase = "";
  last = null;
  reference = null;
  indicative = null; // { price, volume, surplus } of an auction (surplus > 0: left to buy), or null
  trades = []; // oldest first: { tid, time, price, quantity, taker }

  get ready() {
    return this.seq !== null;
  }

  /** What the market is worth, as far as one knows: last, or the reference price before a trade. */
  get mark() {
    return this.last ?? this.reference;
  }

  /** Orders are collected: a buy may stand above a sell, until they all trade at one price (R10). */
  get inAuction() {
    return this.phase === "auction";
  }

  drop() {
    this.seq = null;
  }

  load(snapshot) {
    this.#levels = { buy: new Map(), sell: new Map() };
    this.trades = [];
    this.last = null;
    this.indicative = null;
    this.reference = parsePrice(snapshot.reference);
    this.#take(snapshot);
  }

  /** Takes an update in; false if it does not follow what is here. */
  update(update) {
    if (update.prev !== this.seq) return false;
    this.#take(update);
    return true;
  }

  /** [price, quantity, orders] of one side, best first. */
  levels(side) {
    this.#sorted[side] ??= [...this.#levels[side].values()].sort(
      side === "buy" ? (a, b) => b[0] - a[0] : (a, b) => a[0] - b[0],
    );
    return this.#sorted[side];
  }

  /** The best price of one side, or null. */
  best(side) {
    return this.levels(side)[0]?.[0] ?? null;
  }

  /** What an incoming order would trade at once against what is shown, `limit` null for a market
   *  order: quantity, value, the worst price, and the part it takes of each level. */
  fills(side, quantity, limit) {
    const taken = [];
    let open = quantity;
    let value = 0;
    for (const [price, shown] of this.levels(side === "buy" ? "sell" : "buy")) {
      const beyond = limit !== null && (side === "buy" ? price > limit : price < limit);
      if (open === 0 || beyond) break;
      const part = Math.min(open, shown);
      taken.push([price, part]);
      value += part * price;
      open -= part;
    }
    return { quantity: quantity - open, value, worst: taken.at(-1)?.[0] ?? null, taken };
  }

  #take(message) {
    this.seq = message.seq;
    if (message.phase) this.phase = message.phase;
    if (message.last) this.last = parsePrice(message.last);
    if (message.indicative !== undefined) this.indicative = indicativeOf(message.indicative);
    this.#change("buy", message.bids ?? []);
    this.#change("sell", message.asks ?? []);
    const newest = this.trades.at(-1)?.tid ?? 0;
    for (const trade of message.trades ?? []) {
      if (trade.tid > newest) this.trades.push({ ...trade, price: parsePrice(trade.price) });
    }
    this.trades.splice(0, this.trades.length - TRADES_KEPT);
  }

  #change(side, levels) {
    if (levels.length === 0 && this.#sorted[side]) return;
    for (const [text, quantity, orders] of levels) {
      const price = parsePrice(text);
      if (quantity === 0) this.#levels[side].delete(price);
      else this.#levels[side].set(price, [price, quantity, orders]);
    }
    this.#sorted[side] = null;
  }
}

function indicativeOf(data) {
  return data && { ...data, price: parsePrice(data.price) };
}
