// Live tables: rows of the page's JSON in a table whose heading says how (tables.html draws the
// first ones). What has not changed is left alone, so that a button keeps its focus.

import { money } from "./current.js";
import { formatQuantity } from "./prices.js";

const ALIGNED = {
  shares: "number",
  order_quantity: "number",
  fee: "number",
  price: "number",
  limit: "number",
  money: "number",
  oid: "number dim",
  doings: "doings",
  cancel: "doings",
  time: "time",
};

export class LiveTable {
  #body;
  #columns;
  #key;
  #empty;
  #form;

  /** `form`: what the forms in the table send along, `{ xsrf, owner, next, order_id }`. */
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
      case "order_quantity":
        return [`${formatQuantity(value)}${row.peak ? `, shows ${formatQuantity(row.peak)}` : ""}`];
      case "force":
        return [`${value}${row.post ? ", post-only" : ""}`];
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
        return this.#doings(row);
      case "cancel":
        return row.product ? [...editLink(row), this.#cancelForm(row)] : [];
      default:
        return [value];
    }
  }

  #cancelForm({ product, oid, ticker }) {
    const label = `Cancel order ${oid} in ${ticker}`;
    const cancel = button("Cancel", { class: "button quiet small", type: "submit", "aria-label": label });
    const form = element("form", { method: "post", action: "/default/delete" });
    const { xsrf, owner, next } = this.#form;
    form.append(...hidden({ _xsrf: xsrf, product, oid, owner, _next: next }), cancel);
    return form;
  }

  #doings({ product, active, ticker }) {
    const found = [];
    if (active) found.push(linkButton(`/default/trade/${product}`, "trade", `Trade ${ticker}`, ""));
    if (product) {
      const label = `Profits and losses in ${ticker}`;
      found.push(linkButton(`/default/pandl/${product}`, "profits/loss", label, " quiet"));
    }
    if (active) found.push(flattenButton(product, ticker));
    const spaced = found.flatMap((element, index) => (index ? [" ", element] : [element]));
    return active ? [...spaced, this.#flattenQuestion(product, ticker)] : spaced;
  }

  #flattenQuestion(product, ticker) {
    const id = `flatten-${product}`;
    const title = element("h2", { id: `${id}-title` }, `Flatten ${ticker}?`);
    const words = element("p", {}, flattenWords(ticker));
    const actions = element("div", { class: "actions" });
    const hide = { class: "button quiet", type: "button", popovertarget: id, popovertargetaction: "hide" };
    actions.append(
      button(`Flatten ${ticker}`, { class: "button", type: "submit", autofocus: "" }),
      button("Not now", hide),
    );
    const { xsrf, owner, next, order_id } = this.#form;
    const fields = { _xsrf: xsrf, product, id: order_id, owner, _next: next };
    const form = element("form", { method: "post", action: "/default/flatten" });
    form.append(title, words, ...hidden(fields), actions);
    const named = { role: "dialog", "aria-labelledby": `${id}-title` };
    const question = element("div", { class: "dialog", id, popover: "", ...named });
    question.append(form);
    return question;
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

const CAN_ASK = CSS.supports("selector(:popover-open)");

/** The old line, with those cells of the new one that are not as they were. One with an open
 *  question stays: the form in it is as good as the new one. */
function changed(old, line) {
  [...line.cells].forEach((cell, index) => {
    const there = old.cells[index];
    if (CAN_ASK && there.querySelector(":popover-open")) return;
    if (!there.isEqualNode(cell)) there.replaceWith(cell.cloneNode(true));
  });
  return old;
}

function editLink({ product, active, oid, ticker }) {
  if (!active) return [];
  const label = `Edit order ${oid} in ${ticker}`;
  return [linkButton(`/default/trade/${product}#edit-${oid}`, "Edit", label, " quiet"), " "];
}

function flattenButton(product, ticker) {
  return button("flatten", {
    class: "button small quiet",
    type: "button",
    popovertarget: `flatten-${product}`,
    "aria-label": `Flatten ${ticker}`,
  });
}

function flattenWords(ticker) {
  return (
    `All your open orders in ${ticker} are canceled. Then one market order closes your position: ` +
    "it trades at once, at the prices that the book has."
  );
}

function hidden(fields) {
  return Object.entries(fields).map(([name, value]) => element("input", { type: "hidden", name, value }));
}

function linkButton(href, text, label, look) {
  return element("a", { class: `button small${look}`, href, "aria-label": label }, text);
}

function link(href, text) {
  return element("a", { href }, text);
}

function span(side) {
  return element("span", { class: side }, side);
}

function button(text, attributes) {
  return element("button", attributes, text);
}

function element(tag, attributes, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** "−1,234.505": all decimals stay. */
function grouped(text) {
  const [whole, decimals] = text.replace("-", "").split(".");
  const sign = text.startsWith("-") ? "−" : "";
  return `${sign}${formatQuantity(Number(whole))}${decimals ? `.${decimals}` : ""}`;
}
