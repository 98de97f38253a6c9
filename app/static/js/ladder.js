// The book as figures: price levels around the spread, best in the middle, with their sums.
//
// Rows are made once and their cells written only where something changed; a click on a row hands
// its price to the ticket.

import { formatPrice, formatQuantity } from "./prices.js";

const ROW_PIXELS = 22;

export class Ladder {
  #book;
  #panel;
  #sides;
  #middle;
  #scheduled = false;

  /** `panel` holds a table with bodies `.asks`, `.middle`, `.bids`; `onPrice(price)` gets a click's. */
  constructor({ panel, book, onPrice }) {
    this.#book = book;
    this.#panel = panel;
    this.#sides = {
      sell: { body: panel.querySelector(".asks"), rows: [], best: "last" },
      buy: { body: panel.querySelector(".bids"), rows: [], best: "first" },
    };
    this.#middle = panel.querySelector(".middle td");
    panel.addEventListener("click", (event) => {
      const price = Number(event.target.closest("tr")?.dataset.price);
      if (price) onPrice(price);
    });
    new ResizeObserver(() => this.changed()).observe(panel);
  }

  changed() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#show();
    });
  }

  #show() {
    const room = this.#panel.querySelector(".levels").clientHeight - 2 * ROW_PIXELS - 12;
    if (room <= 0) return;
    const count = Math.max(3, Math.floor(room / 2 / ROW_PIXELS));
    const shown = {
      buy: this.#book.levels("buy").slice(0, count),
      sell: this.#book.levels("sell").slice(0, count),
    };
    const most = Math.max(1, ...[...shown.buy, ...shown.sell].map(([, quantity]) => quantity));
    for (const side of ["sell", "buy"]) this.#fill(this.#sides[side], shown[side], count, most);
    write(this.#middle, this.#spread());
  }

  #fill(side, levels, count, most) {
    while (side.rows.length < count) this.#addRow(side);
    while (side.rows.length > count) side.rows.pop().row.remove();
    let sum = 0;
    side.rows.forEach(({ row, cells }, index) => {
      const [price, quantity] = levels[index] ?? [0, 0];
      sum += quantity;
      if (row.dataset.price !== String(price)) row.dataset.price = price;
      write(cells[0], price ? formatPrice(price) : "");
      write(cells[1], price ? formatQuantity(quantity) : "");
      write(cells[2], price ? formatQuantity(sum) : "");
      const part = `${Math.round((quantity / most) * 100)}%`;
      if (row.part !== part) row.style.setProperty("--part", (row.part = part));
    });
  }

  /** The best price is next to the spread: asks grow upwards, bids downwards. */
  #addRow(side) {
    const row = document.createElement("tr");
    const cells = [0, 1, 2].map(() => row.insertCell());
    cells[0].className = "price";
    if (side.best === "last") side.body.prepend(row);
    else side.body.append(row);
    side.rows.push({ row, cells });
  }

  #spread() {
    const [bid, ask] = [this.#book.best("buy"), this.#book.best("sell")];
    if (this.#book.inAuction) {
      const { indicative } = this.#book;
      return indicative ? `indicative ${formatPrice(indicative.price)}` : "auction: nothing crosses";
    }
    if (bid === null || ask === null) return "no spread";
    return `spread ${formatPrice(ask - bid)}`;
  }
}

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}
