// The trader's own open orders in one product, and the way to place and cancel them.
//
// What is open is told by the feed alone (`orders`, then `order` for every change); the answers to
// what this page posts say what became of one request. Each order carries an id that is made here,
// so that one whose answer got lost can be found again, and is never sent twice.

import { formatPrice, parsePrice } from "./prices.js";

const ANSWER_MS = 10_000;
const ARRIVAL_MS = 20_000; // a form that the platform has not seen by then never got there
const IN_DOUBT = ["reserved", "unknown"];

export class Orders {
  #product;
  #owner;
  #tick;
  #xsrf;
  #open = new Map();
  #sending = new Set(); // ids of orders that wait for their answer
  #unknown = new Map(); // id -> order and since when: sent, and no answer came

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

  /** Takes in what the platform knows of orders whose answers got lost, whoever sent them; of those
   *  that this page had lost sight of and that are known now, `{ order, fate }`. */
  takeDoubts(doubts) {
    const known = new Map(doubts.map((doubt) => [doubt.id, doubt]));
    for (const [id, doubt] of known) {
      if (!IN_DOUBT.includes(doubt.state) || this.#sending.has(id)) continue;
      this.#lose({ ...doubt, price: value(doubt.price), stop: value(doubt.stop) });
    }
    const resolved = [];
    for (const [id, order] of this.#unknown) {
      const late = Date.now() - order.since > ARRIVAL_MS;
      const fate = known.get(id) ?? { state: late ? "never" : "unknown" };
      if (IN_DOUBT.includes(fate.state)) continue;
      this.#unknown.delete(id);
      resolved.push({ order, fate });
    }
    return resolved;
  }

  #lose(order) {
    if (!this.#unknown.has(order.id)) this.#unknown.set(order.id, { since: Date.now(), ...order });
  }

  /** Posts an order { side, quantity, price, stop, tif, stp, peak, post }: its answer, `{ error }` with a
   *  sentence, or `{ unknown }` if nobody can say yet what became of it. */
  async place({ side, quantity, price, stop, tif = "gtc", stp = "", peak = 0, post = false }) {
    const id = newId();
    const fields = { type: side, quantity, id, tif, price: text(price), stop: text(stop) };
    if (stp) fields.stp = stp;
    if (peak) fields.peak = peak;
    if (post) fields.post = "on";
    const answer = await this.#post("/default/order", fields, id);
    if (answer.unknown) this.#lose({ id, side, quantity, price, stop });
    return { ...answer, id };
  }

  /** Amends an order: its new total quantity; price and stop, which stay as they are if left out. */
  amend({ oid, quantity, price = 0, stop = 0 }) {
    return this.#post("/default/amend", { oid, quantity, price: text(price), stop: text(stop) });
  }

  /** Cancels one order by its oid, or `"all"`. */
  cancel(oid) {
    return this.#post("/default/delete", { oid });
  }

  /** Cancels all, then closes the position at market: the answer with its `message`, `{ error }`, or
   *  `{ unknown }` like an order's. */
  async flatten() {
    const id = newId();
    const answer = await this.#post("/default/flatten", { id }, id);
    if (answer.unknown && answer.order) this.#lose({ id, ...answer.order, price: 0, stop: 0 });
    return answer;
  }

  async #post(url, fields, id) {
    this.#sending.add(id);
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
    } finally {
      this.#sending.delete(id);
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
 *  stop, on the grid, and ioc (or fok). To the trader it is what was sent. */
function isStopMarket({ id, side, price, stop, tif }, tick) {
  const limit = Math.floor((stop * 105) / 100);
  const isOurs = side === "buy" && stop > 0 && (tif === "ioc" || tif === "fok") && id?.startsWith("web-");
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
