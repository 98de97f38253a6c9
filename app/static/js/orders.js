// The trader's own open orders in one product, and the way to place and cancel them.
//
// What is open is told by the feed alone (`orders`, then `order` for every change); the answers to
// what this page posts say what became of one request. Each order carries an id that is made here,
// so that one whose answer got lost can be found again, and is never sent twice.

import { formatPrice, parsePrice } from "./prices.js";

const ANSWER_MS = 10_000;

export class Orders {
  #product;
  #owner;
  #tick;
  #xsrf;
  #open = new Map();
  #unknown = new Map(); // id -> order: sent, and no answer came

  constructor({ product, owner, tick, xsrf }) {
    this.#product = product;
    this.#owner = owner;
    this.#tick = tick;
    this.#xsrf = xsrf;
  }

  /** Own open orders, the oldest first, prices in ten-thousandths (0: market, no stop). */
  get open() {
    return [...this.#open.values()];
  }

  get unknown() {
    return [...this.#unknown.values()];
  }

  load(message) {
    this.#open.clear();
    for (const order of message.orders) this.#keep(order);
  }

  /** Takes one change in; the order as it is now, and whether this page had lost sight of it. */
  change(message) {
    const found = this.#unknown.delete(message.order.id);
    return { order: this.#keep(message.order), found };
  }

  /** What became of an order whose answer got lost; null if this page does not wait for it. */
  resolve({ id }) {
    const order = this.#unknown.get(id) ?? null;
    this.#unknown.delete(id);
    return order;
  }

  /** Posts an order { side, quantity, price, stop, tif, stp }: its answer, `{ error }` with a
   *  sentence, or `{ unknown }` if nobody can say yet what became of it. */
  async place({ side, quantity, price, stop, tif = "gtc", stp = "" }) {
    const id = newId();
    const fields = { type: side, quantity, id, tif, price: text(price), stop: text(stop) };
    if (stp) fields.stp = stp;
    const answer = await this.#post("/default/order", fields);
    if (answer.unknown) this.#unknown.set(id, { id, side, quantity, price, stop });
    return { ...answer, id };
  }

  /** Cancels one order by its oid, or `"all"`. */
  cancel(oid) {
    return this.#post("/default/delete", { oid });
  }

  async #post(url, fields) {
    const page = { product: this.#product, owner: this.#owner, _xsrf: this.#xsrf };
    const body = new URLSearchParams({ ...fields, ...page });
    try {
      const response = await fetch(url, {
        method: "POST",
        body,
        headers: { Accept: "application/json" },
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      return await response.json();
    } catch {
      return { unknown: true, message: "No answer came back: what became of it is being checked." };
    }
  }

  #keep(data) {
    const order = { ...data, price: value(data.price), stop: value(data.stop) };
    if (isStopMarket(order, this.#tick)) order.price = 0;
    const over = order.status === "filled" || order.status === "canceled";
    if (over) this.#open.delete(order.oid);
    else this.#open.set(order.oid, order);
    return order;
  }
}

/** The sentence of a refusal, with the rule that it rests on. */
export function sentence({ message, rule }) {
  const words = message.charAt(0).toUpperCase() + message.slice(1);
  return rule && !words.includes(rule) ? `${words} (${rule})` : words;
}

/** Whether the platform gave a buy stop market the limit that its cash covers (R17): 5 % above the
 *  stop, on the grid, and ioc. To the trader it is what was sent. */
function isStopMarket({ id, side, price, stop, tif }, tick) {
  const limit = Math.floor((stop * 105) / 100);
  const isOurs = side === "buy" && stop > 0 && tif === "ioc" && id?.startsWith("web-");
  return isOurs && price === Math.max(limit - (limit % tick), tick);
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  return `web-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function text(price) {
  return price ? formatPrice(price) : "";
}

function value(price) {
  return price === null ? 0 : parsePrice(price);
}
