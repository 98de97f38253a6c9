// The table of the trader's own open orders, each with its buttons: one cancels it, the other opens a
// row of fields below it, in which quantity, price and stop are changed.

import { kindOfOrder } from "./kinds.js";
import { formatPrice, formatQuantity } from "./prices.js";

export class OpenTable {
  #body;
  #counts;
  #cancelAll;
  #rows = new Map(); // oid, or the id of an order in doubt -> row
  #orders = new Map(); // oid -> order, as it was shown last
  #onAmend;
  #editing = null; // { oid, row } of the order whose fields are open

  /** `counts` are elements that say how many are open; `onCancel(oid)` gets a row's oid, or "all";
   *  `onAmend({ oid, quantity, price, stop })` resolves to the sentence of a refusal, or "". */
  constructor({ body, counts, cancelAll, onCancel, onAmend }) {
    this.#body = body;
    this.#counts = counts;
    this.#cancelAll = cancelAll;
    this.#onAmend = onAmend;
    body.addEventListener("click", (event) => this.#clicked(event, onCancel));
    body.addEventListener("submit", (event) => this.#save(event));
    body.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#editing === null) return;
      event.stopPropagation(); // it does not disarm
      this.#closeFields();
    });
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
    this.#orders = new Map(orders.map((order) => [order.oid, order]));
    if (this.#editing && !open.has(this.#editing.oid)) this.#closeFields();
    if (this.#rows.size === 0) this.#body.replaceChildren();
    for (const order of orders) this.#showOne(order);
    for (const order of unknown) this.#showUnknown(order);
    if (open.size === 0) this.#body.append(emptyRow());
    for (const count of this.#counts) count.textContent = orders.length || "";
    this.#cancelAll.hidden = orders.length === 0;
  }

  /** Opens the fields of an open order; false if there is none with this oid. */
  edit(oid) {
    const order = this.#orders.get(oid);
    if (!order) return false;
    this.#editing?.row.remove();
    const row = document.createElement("tr");
    row.className = "fields";
    const cell = row.insertCell();
    cell.colSpan = 8;
    cell.append(fieldsOf(order));
    this.#editing = { oid, row };
    this.#rows.get(oid).after(row);
    cell.querySelector("input").select();
    return true;
  }

  #closeFields() {
    const { oid, row } = this.#editing;
    this.#editing = null;
    row.remove();
    this.#rows.get(oid)?.querySelector("[data-do=edit]")?.focus();
  }

  async #save(event) {
    event.preventDefault();
    const form = event.target;
    const { oid } = this.#editing;
    const { quantity, price, stop } = form.elements;
    const change = { oid, quantity: quantity.value, price: price?.value ?? "", stop: stop?.value ?? "" };
    const save = form.querySelector("[type=submit]");
    save.disabled = true;
    const refusal = await this.#onAmend(change);
    save.disabled = false;
    if (refusal === "" && this.#editing?.oid === oid) this.#closeFields();
    else form.querySelector("[role=alert]").textContent = refusal;
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
      ["number", quantityWords(order)],
      ["number", formatQuantity(order.filled)],
      ["number", order.price ? formatPrice(order.price) : "market"],
      ["number", order.stop && order.status === "pending_stop" ? formatPrice(order.stop) : "–"],
      ["tif dim", `${order.tif}${order.post ? ", post-only" : ""}`],
    ];
    cells.forEach(([className, text], index) => {
      const cell = row.cells[index] ?? row.insertCell();
      if (cell.className !== className) cell.className = className;
      if (cell.textContent !== text) cell.textContent = text;
    });
    row.classList.toggle("partial", order.filled > 0);
    row.cells[2].dataset.filled = formatQuantity(order.filled);
    if (row.cells.length === cells.length) row.insertCell().append(...buttonsOf(order));
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
    const oid = Number(button.closest("tr").dataset.oid);
    if (button.dataset.do === "edit") this.edit(oid);
    else if (button.dataset.do === "keep") this.#closeFields();
    else if (button.dataset.do === "cancel") onCancel(oid);
  }
}

function quantityWords({ quantity, peak }) {
  return `${formatQuantity(quantity)}${peak ? `, shows ${formatQuantity(peak)}` : ""}`;
}

function buttonsOf({ oid }) {
  const edit = button("edit", "Edit", `Edit order ${oid}`);
  return [edit, " ", button("cancel", "Cancel", `Cancel order ${oid}`)];
}

/** The form of an order's terms; a market order has no price, and only a waiting stop a stop. */
function fieldsOf(order) {
  const form = document.createElement("form");
  form.noValidate = true;
  form.append(field("quantity", "New quantity", String(order.quantity), "numeric"));
  if (order.price) form.append(field("price", "New price", formatPrice(order.price), "decimal"));
  if (order.stop && order.status === "pending_stop") {
    form.append(field("stop", "New stop", formatPrice(order.stop), "decimal"));
  }
  const save = button("save", "Save", `Save order ${order.oid}`);
  save.type = "submit";
  save.classList.remove("quiet");
  const error = document.createElement("p");
  error.className = "field-error";
  error.setAttribute("role", "alert");
  form.append(save, button("keep", "Keep", `Keep order ${order.oid} as it is`), error);
  return form;
}

function field(name, label, value, inputMode) {
  const element = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { name, value, inputMode, autocomplete: "off" });
  element.append(`${label} `, input);
  return element;
}

function button(doing, text, label) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "button quiet small";
  element.dataset.do = doing;
  element.textContent = text;
  element.setAttribute("aria-label", label);
  return element;
}

function emptyRow() {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = 8;
  cell.className = "empty";
  cell.textContent = "No open orders. A click on the chart, or the ticket, makes one.";
  return row;
}
