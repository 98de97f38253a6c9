// The tape: the last trades of everybody, newest on top, as rows that are written once.

import { TRADES_KEPT } from "./book.js";
import { formatPrice, formatQuantity } from "./prices.js";

const SIGNS = { buy: "▲", sell: "▼", none: "◆" };

export class Tape {
  #body;
  #newest = 0;

  constructor(body) {
    this.#body = body;
  }

  /** Shows `trades` (oldest first); those that it already shows stay as they are. */
  show(trades) {
    if ((trades.at(-1)?.tid ?? 0) < this.#newest) this.#clear();
    const fresh = trades.filter((trade) => trade.tid > this.#newest);
    if (fresh.length === 0) return;
    if (this.#newest === 0) this.#clear();
    const rows = document.createDocumentFragment();
    for (const trade of fresh) rows.prepend(rowOf(trade));
    this.#body.prepend(rows);
    while (this.#body.rows.length > TRADES_KEPT) this.#body.lastElementChild.remove();
    this.#newest = trades.at(-1).tid;
  }

  #clear() {
    this.#body.replaceChildren();
    this.#newest = 0;
  }
}

function rowOf({ time, price, quantity, taker }) {
  const row = document.createElement("tr");
  const cells = [
    [`${SIGNS[taker]} ${formatPrice(price)}`, taker],
    [formatQuantity(quantity), ""],
    [new Date(time).toLocaleTimeString([], { hour12: false }), "dim"],
  ];
  for (const [text, tone] of cells) {
    const cell = row.insertCell();
    cell.textContent = text;
    cell.className = `number ${tone}`;
  }
  return row;
}
