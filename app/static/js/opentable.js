// The table of the trader's own open orders, each with its cancel button.

import { kindOfOrder } from "./kinds.js";
import { formatPrice, formatQuantity } from "./prices.js";

export class OpenTable {
  #body;
  #counts;
  #cancelAll;
  #rows = new Map(); // oid, or the id of an order in doubt -> row

  /** `counts` are elements that say how many are open; `onCancel(oid)` gets a row's oid, or "all". */
  constructor({ body, counts, cancelAll, onCancel }) {
    this.#body = body;
    this.#counts = counts;
    this.#cancelAll = cancelAll;
    body.addEventListener("click", (event) => this.#clicked(event, onCancel));
    cancelAll.addEventListener("click", (event) => {
      event.preventDefault();
      onCancel("all");
    });
  }

  /** `unknown` are orders of which nobody knows yet whether they are in. */
  show(orders, unknown) {
    const open = new Set([...orders.map((order) => order.oid), ...unknown.map((order) => order.id)]);
    for (const [oid, row] of this.#rows) {
      if (!open.has(oid)) {
        row.remove();
        this.#rows.delete(oid);
      }
    }
    if (this.#rows.size === 0) this.#body.replaceChildren();
    for (const order of orders) this.#showOne(order);
    for (const order of unknown) this.#showUnknown(order);
    if (open.size === 0) this.#body.append(emptyRow());
    for (const count of this.#counts) count.textContent = orders.length || "";
    this.#cancelAll.hidden = orders.length === 0;
  }

  #showOne(order) {
    let row = this.#rows.get(order.oid);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.oid = order.oid;
      this.#rows.set(order.oid, row);
      this.#body.prepend(row);
    }
    const kind = kindOfOrder(order);
    const cells = [
      ["oid dim", `#${order.oid}`],
      [order.side, `${order.side} ${kind.name}`],
      ["number", formatQuantity(order.quantity)],
      ["number", formatQuantity(order.filled)],
      ["number", order.price ? formatPrice(order.price) : "market"],
      ["number", order.stop && order.status === "pending_stop" ? formatPrice(order.stop) : "–"],
      ["tif dim", order.tif],
    ];
    cells.forEach(([className, text], index) => {
      const cell = row.cells[index] ?? row.insertCell();
      if (cell.className !== className) cell.className = className;
      if (cell.textContent !== text) cell.textContent = text;
    });
    row.classList.toggle("partial", order.filled > 0);
    row.cells[2].dataset.filled = formatQuantity(order.filled);
    if (row.cells.length === cells.length) row.insertCell().append(cancelButton(order));
  }

  #showUnknown(order) {
    const known = this.#rows.get(order.id);
    const row = known ?? document.createElement("tr");
    this.#body.prepend(row); // above the open ones, which may have come later
    if (known) return;
    row.className = "in-doubt";
    this.#rows.set(order.id, row);
    const cells = [
      ["oid dim", "–"],
      [order.side, `${order.side} ${kindOfOrder(order).name}`],
      ["number", formatQuantity(order.quantity)],
      ["number", "–"],
      ["number", order.price ? formatPrice(order.price) : "market"],
      ["number", order.stop ? formatPrice(order.stop) : "–"],
      ["tif", ""],
      ["", "unknown, being checked"],
    ];
    for (const [className, text] of cells) {
      const cell = row.insertCell();
      cell.className = className;
      cell.textContent = text;
    }
  }

  #clicked(event, onCancel) {
    const button = event.target.closest("button");
    if (!button) return;
    event.preventDefault();
    onCancel(Number(button.closest("tr").dataset.oid));
  }
}

function cancelButton(order) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button quiet small";
  button.textContent = "Cancel";
  button.setAttribute("aria-label", `Cancel order ${order.oid}`);
  return button;
}

function emptyRow() {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = 8;
  cell.className = "empty";
  cell.textContent = "No open orders. A click on the chart, or the ticket, makes one.";
  return row;
}
