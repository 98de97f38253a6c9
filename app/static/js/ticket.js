// The ticket: the plain order form beside the canvas, which does all that the canvas does.
//
// Without scripts the form posts itself. With them it says what the order would do, checks the
// grids before anything is sent, and posts without leaving the page.

import { describe, kindOf, objections } from "./kinds.js";
import { preview } from "./preview.js";
import { formatPrice, parsePrice } from "./prices.js";

const STOP_TICKS = 10; // how far from the market a stop is proposed

export class Ticket {
  #form;
  #fields;
  #preview;
  #postNote;
  #postWords;
  #submit;
  #grid;
  #book;
  #onKind;
  #kind;
  #typed = new Map(); // field -> a trader's own value, which no proposal overwrites

  /** `onSend(order)` gets an order that lies on the grids, `onKind(kind)` a chosen kind. */
  constructor({ form, grid, book, onSend, onKind }) {
    this.#form = form;
    this.#grid = grid;
    this.#book = book;
    this.#onKind = onKind;
    const { type, quantity, price, stop, tif, peak, post } = form.elements;
    const kind = form.querySelector("[data-ticket=kind]");
    this.#fields = { type, kind, quantity, price, stop, tif, peak, post };
    for (const field of [price, stop]) {
      if (field.defaultValue) this.#typed.set(field, field.defaultValue); // before a refusal
    }
    this.#postNote = document.getElementById("post-note");
    this.#postWords = this.#postNote.textContent;
    this.#preview = form.querySelector(".preview");
    this.#submit = form.querySelector("[type=submit]");
    form.noValidate = true;
    form.addEventListener("input", (event) => this.#input(event.target));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const order = this.#read({ complain: true });
      if (order) onSend(order);
    });
  }

  /** Shows the kind that was chosen, here or elsewhere. */
  choose(kind) {
    this.#kind = kind;
    this.#fields.type.value = kind.side;
    this.#fields.kind.value = kind.name.replace(" ", "-");
    const used = { price: !kind.market, stop: kind.stop };
    for (const [name, isUsed] of Object.entries(used)) {
      const field = this.#fields[name];
      field.disabled = !isUsed;
      field.placeholder = isUsed ? "" : name === "price" ? "market" : "none";
      field.value = isUsed ? (this.#typed.get(field) ?? this.#proposal(kind)) : "";
      mark(field, "");
    }
    this.#submit.classList.toggle("buy", kind.side === "buy");
    this.#submit.classList.toggle("sell", kind.side === "sell");
    this.refresh();
  }

  /** The market came in: fields that nobody filled in get new proposals. */
  marketLoaded() {
    this.choose(this.#kind);
  }

  /** A price was picked in the book. */
  pick(price) {
    const field = this.#kind.market && this.#kind.stop ? this.#fields.stop : this.#fields.price;
    if (field.disabled) return;
    field.value = formatPrice(price);
    this.#typed.set(field, field.value);
    mark(field, "");
    this.refresh();
  }

  /** Says what the order would do now; called when the book has changed, too. */
  refresh() {
    this.#allow();
    const order = this.#read({ complain: false });
    const said = order && this.#book.ready ? preview(order, this.#book) : null;
    write(this.#preview.children[0], said ? said.money : "");
    write(this.#preview.children[1], said ? said.outcome : "");
    write(this.#submit, order ? describe(order) : this.#kind.side === "buy" ? "Buy" : "Sell");
  }

  /** The line is stale: nothing may be sent. */
  block(isBlocked) {
    this.#submit.disabled = isBlocked;
  }

  /** What does not go together cannot be chosen, and says why; the server has the last word. */
  #allow() {
    const { kind, tif, peak, post } = this.#fields;
    const { inAuction } = this.#book;
    const against = objections({ kind: this.#kind, tif: tif.value, inAuction });
    peak.disabled = against.peak !== "";
    peak.placeholder = against.peak || "all";
    post.disabled = against.post !== "";
    write(this.#postNote, against.post || this.#postWords);
    for (const option of tif.options) {
      option.disabled = against.atOnce !== "" && ["ioc", "fok"].includes(option.value);
      option.title = option.disabled ? against.atOnce : "";
    }
    kind.options[0].disabled = inAuction;
    kind.options[0].title = inAuction ? "not in an auction (R10)" : "";
  }

  #input(field) {
    if (field === this.#fields.kind || field.name === "type") {
      this.#onKind(kindOf(`${this.#fields.type.value}-${this.#fields.kind.value}`));
      return;
    }
    if (field.value === "") this.#typed.delete(field);
    else this.#typed.set(field, field.value);
    mark(field, "");
    this.refresh();
  }

  /** A limit begins at the best price of its side; a stop, and its limit, a few ticks beyond the
   *  market. */
  #proposal(kind) {
    const market = this.#book.mark;
    const start = kind.stop ? market + this.#away(kind.side) : (this.#book.best(kind.side) ?? market);
    return market && start > 0 ? formatPrice(start) : "";
  }

  #away(side) {
    return (side === "buy" ? 1 : -1) * STOP_TICKS * this.#grid.tick;
  }

  #read({ complain }) {
    const { tick, lot } = this.#grid;
    const quantity = readQuantity(this.#fields.quantity.value, lot);
    const price = this.#kind.market ? { value: 0 } : readPrice(this.#fields.price.value, tick);
    const stop = this.#kind.stop ? readPrice(this.#fields.stop.value, tick) : { value: 0 };
    const { peak: peakField, post } = this.#fields;
    const peak = peakField.disabled ? { value: 0 } : readPeak(peakField.value, lot);
    const read = { quantity, price, stop, peak };
    const wrong = Object.keys(read).filter((name) => read[name].error);
    if (complain) {
      for (const name of Object.keys(read)) mark(this.#fields[name], read[name].error ?? "");
      if (wrong.length) this.#fields[wrong[0]].focus();
    }
    if (wrong.length) return null;
    const order = { side: this.#kind.side, quantity: quantity.value, price: price.value, stop: stop.value };
    return {
      ...order,
      tif: this.#fields.tif.value,
      stp: stop.value ? "maker" : "",
      peak: peak.value,
      post: post.checked && !post.disabled,
    };
  }
}

function readQuantity(text, lot) {
  const value = /^[0-9]{1,12}$/.test(text.trim()) ? Number(text) : NaN;
  if (!(value > 0)) return { error: "A quantity is a whole number, 1 or more." };
  if (value % lot) return { error: `The quantity must be a multiple of ${lot}.` };
  return { value };
}

function readPeak(text, lot) {
  return text.trim() === "" ? { value: 0 } : readQuantity(text, lot);
}

function readPrice(text, tick) {
  const value = parsePrice(text.trim());
  if (!(value > 0)) return { error: "A price looks like 101.30." };
  if (value % tick) return { error: `The price must be a multiple of ${formatPrice(tick)}.` };
  return { value };
}

function mark(field, error) {
  const words = document.getElementById(`${field.name}-error`);
  if (words === null) return; // a choice cannot be written wrong
  field.setAttribute("aria-invalid", error ? "true" : "false");
  write(words, error);
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
