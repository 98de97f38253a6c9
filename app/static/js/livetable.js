// Live tables: rows of the page's JSON in a table whose heading says how (tables.html draws the
// first ones). What has not changed is left alone, so that a button keeps its focus.

import { money } from "./current.js";
import { formatQuantity } from "./prices.js";

const ALIGNED = {
  shares: "number",
  fee: "number",
  price: "number",
  limit: "number",
  money: "number",
  oid: "number dim",
  doings: "doings",
  cancel: "doings",
};

export class LiveTable {
  #body;
  #columns;
  #key;
  #empty;
  #form;

  /** `form`: what the forms in the table send along, `{ xsrf, owner, next }`. */
  constructor(table, form) {
    this.#body = table.tBodies[0];
    this.#columns = [...table.tHead.rows[0].cells].map((head) => ({
      label: head.textContent.trim(),
      name: head.dataset.name,
      kind: head.dataset.kind,
    }));
    this.#key = table.dataset.key.split(" ");
    this.#empty = table.dataset.empty;
    this.#form = form;
  }

  show(rows) {
    const known = new Map([...this.#body.rows].map((line) => [line.dataset.row, line]));
    const lines = rows.map((row) => {
      const line = this.#line(row);
      const old = known.get(line.dataset.row);
      return old ? changed(old, line) : line;
    });
    if (lines.length === 0) lines.push(this.#emptyLine());
    const stay = new Set(lines);
    for (const line of [...this.#body.rows]) if (!stay.has(line)) line.remove();
    lines.forEach((line, index) => {
      const there = this.#body.rows[index];
      if (there !== line) this.#body.insertBefore(line, there ?? null);
    });
  }

  #line(row) {
    const line = document.createElement("tr");
    line.dataset.row = this.#key.map((name) => `${row[name]} `).join("");
    this.#columns.forEach(({ label, name, kind }, index) => {
      const cell = document.createElement(index ? "td" : "th");
      cell.className = index ? (ALIGNED[kind] ?? "") : kind;
      if (index === 0) cell.scope = "row";
      else if (name) cell.dataset.label = label;
      cell.append(...this.#content(kind, row, row[name]));
      line.append(cell);
    });
    return line;
  }

  #content(kind, row, value) {
    switch (kind) {
      case "time":
        return [value.slice(0, 19).replace("T", " ")];
      case "shares":
        return [formatQuantity(value)];
      case "fee":
        return [grouped(value)];
      case "price":
        return [value ?? "–"];
      case "limit":
        return [value ?? "market"];
      case "money":
        return [money(value)];
      case "oid":
        return [`#${value}`];
      case "side":
        return [span(value)];
      case "trade":
        return [row.active ? link(`/default/trade/${row.product}`, row.ticker) : row.ticker];
      case "pandl":
        return [row.product ? link(`/default/pandl/${row.product}`, row.ticker) : row.ticker];
      case "doings":
        return doings(row);
      case "cancel":
        return row.product ? [this.#cancelForm(row)] : [];
      default:
        return [value];
    }
  }

  #cancelForm({ product, oid, ticker }) {
    const form = document.createElement("form");
    form.method = "post";
    form.action = "/default/delete";
    const { xsrf, owner, next } = this.#form;
    const fields = { _xsrf: xsrf, product, oid, owner, _next: next };
    for (const [name, value] of Object.entries(fields)) {
      const input = document.createElement("input");
      input.type = "hidden";
      input.name = name;
      input.setAttribute("value", value);
      form.append(input);
    }
    const button = document.createElement("button");
    button.className = "button quiet small";
    button.type = "submit";
    button.setAttribute("aria-label", `Cancel order ${oid} in ${ticker}`);
    button.textContent = "Cancel";
    form.append(button);
    return form;
  }

  #emptyLine() {
    const line = document.createElement("tr");
    const cell = line.insertCell();
    cell.className = "empty";
    cell.colSpan = this.#columns.length;
    cell.textContent = this.#empty;
    return line;
  }
}

/** The old line, with those cells of the new one that are not as they were. */
function changed(old, line) {
  [...line.cells].forEach((cell, index) => {
    if (!old.cells[index].isEqualNode(cell)) old.cells[index].replaceWith(cell.cloneNode(true));
  });
  return old;
}

function doings({ product, active, ticker }) {
  const found = [];
  if (active) found.push(button(`/default/trade/${product}`, "trade", `Trade ${ticker}`, ""));
  if (product) {
    const label = `Profits and losses in ${ticker}`;
    found.push(button(`/default/pandl/${product}`, "profits/loss", label, " quiet"));
  }
  return found.flatMap((element, index) => (index ? [" ", element] : [element]));
}

function button(href, text, label, look) {
  const element = link(href, text);
  element.className = `button small${look}`;
  element.setAttribute("aria-label", label);
  return element;
}

function link(href, text) {
  const element = document.createElement("a");
  element.href = href;
  element.textContent = text;
  return element;
}

function span(side) {
  const element = document.createElement("span");
  element.className = side;
  element.textContent = side;
  return element;
}

/** "−1,234.505": all decimals stay. */
function grouped(text) {
  const [whole, decimals] = text.replace("-", "").split(".");
  const sign = text.startsWith("-") ? "−" : "";
  return `${sign}${formatQuantity(Number(whole))}${decimals ? `.${decimals}` : ""}`;
}
