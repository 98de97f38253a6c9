// News of own orders: each thing that became of one is told once, whoever brings it first, the answer
// to a request of this page or the feed, which also knows what other pages and robots did.

import { describe, terms } from "./kinds.js";
import { formatPrice, formatQuantity, parsePrice } from "./prices.js";

const GATHER_MS = 400; // an answer may come a moment after the feed; a sweep's fills are told as one
const OPEN = ["open", "partially_filled", "pending_stop"];

export class News {
  #notices;
  #onCancel;
  #told = new Set(); // tids of own trades
  #gathered = new Map(); // oid -> { order, fills } that the feed brought and nobody told yet

  /** `onCancel(oid)` is what the button of a new order's notice does. */
  constructor({ notices, onCancel }) {
    this.#notices = notices;
    this.#onCancel = onCancel;
  }

  /** The answer to an order of this page: what it did, and for some seconds a button to cancel it. */
  placed(order, { oid, status, filled, remaining, events }) {
    for (const { event, tid } of events) if (event === "trade") this.#told.add(tid);
    const parts = [`#${oid} ${describe(order)}`];
    if (filled) parts.push(`filled ${formatQuantity(filled)}`);
    if (status === "pending_stop") parts.push("waiting");
    else if (OPEN.includes(status)) parts.push(`${formatQuantity(remaining)} resting`);
    const canceled = events.find((event) => event.event === "canceled" && event.oid === oid);
    if (canceled) parts.push(canceledWords(canceled));
    const action = OPEN.includes(status) ? { label: "Cancel", run: () => this.#onCancel(oid) } : null;
    this.#notices.show(parts.join(" · "), { tone: order.side, action });
  }

  /** The answer to a flatten of this page. */
  flattened({ message, position, order }) {
    for (const { event, tid } of order?.events ?? []) if (event === "trade") this.#told.add(tid);
    this.#notices.show(`${message}.`, { tone: position ? "error" : "", seconds: 8 });
  }

  /** The market has begun anew: its trades bear numbers again that were told of others. */
  forget() {
    this.#told.clear();
  }

  /** A change of an own order that the feed brought. */
  changed(event, order) {
    if (event.event === "trade") this.#gather(event, order);
    else if (event.event === "amended") {
      this.#notices.show(`Order #${order.oid} is now ${terms(order)}.`, { tone: order.side });
    } else if (event.event === "triggered") this.#notices.show(`Stop order #${order.oid} was triggered.`);
    else if (event.event === "canceled" && event.reason !== "user") {
      this.#notices.show(`#${order.oid}: ${canceledWords(event)}.`);
    }
  }

  /** What became of an order whose answer got lost; `fate` has its `state` and, if it is in, `oid`,
   *  if it was refused, `message`. */
  resolved(order, { state, oid, message }) {
    const words = { never: "never arrived, and its cash is free", rejected: `refused: ${message}` };
    this.#notices.show(`${describe(order)}: ${words[state] ?? `arrived as #${oid}`}.`, { seconds: 10 });
  }

  #gather(fill, order) {
    if (!this.#gathered.has(order.oid)) {
      this.#gathered.set(order.oid, { order, fills: [] });
      setTimeout(() => this.#tellFills(order.oid), GATHER_MS);
    }
    const gathered = this.#gathered.get(order.oid);
    gathered.order = order;
    gathered.fills.push(fill);
  }

  #tellFills(oid) {
    const { order, fills } = this.#gathered.get(oid);
    this.#gathered.delete(oid);
    const news = fills.filter(({ tid }) => !this.#told.has(tid));
    if (news.length === 0) return;
    for (const { tid } of news) this.#told.add(tid);
    const quantity = news.reduce((sum, fill) => sum + fill.quantity, 0);
    const prices = [...new Set(news.map(({ price }) => parsePrice(price)))].sort((a, b) => a - b);
    const at = prices.length > 1 ? [prices[0], prices.at(-1)] : prices;
    const verb = order.side === "buy" ? "Bought" : "Sold";
    const rest = order.remaining ? `, ${formatQuantity(order.remaining)} still open` : "";
    this.#notices.show(
      `${verb} ${formatQuantity(quantity)} at ${at.map(formatPrice).join(" to ")} (#${oid}${rest})`,
      { tone: order.side },
    );
  }
}

function canceledWords({ quantity, reason }) {
  return `${formatQuantity(quantity)} canceled (${reason.replaceAll("_", " ")})`;
}
