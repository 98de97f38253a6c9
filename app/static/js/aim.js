// The aim: the order that one points at on the canvas, by mouse, finger or keys, before it is sent.
//
// For a stop limit the press sets the stop and the release the limit price; by keys, a first Enter
// sets the stop and a second one sends.

export class Aim {
  #changed;

  kind;
  at = null; // { price, quantity } under the crosshair
  stop = 0; // pressed already; the limit price is still being chosen
  by = "mouse"; // or "touch", "keys": these stay where they are when the pointer leaves

  constructor({ kind, onChange }) {
    this.kind = kind;
    this.#changed = onChange;
  }

  /** The order that would be sent, or null. Stop orders of this page cancel the trader's own
   *  resting orders rather than themselves when they run into them (R5, `stp=maker`). */
  get order() {
    if (this.at === null) return null;
    const { price, quantity } = this.at;
    const { side, market, stop } = this.kind;
    const order = { side, quantity, price: market ? 0 : price, stop: 0, tif: "gtc" };
    if (stop) Object.assign(order, { stop: this.stop || price, stp: "maker" });
    return order;
  }

  choose(kind) {
    this.kind = kind;
    this.stop = 0;
    this.#changed();
  }

  move(at, by) {
    this.at = at;
    this.by = by;
    this.#changed();
  }

  setStop(price) {
    this.stop = price;
    this.#changed();
  }

  clear() {
    this.at = null;
    this.stop = 0;
    this.by = "mouse";
    this.#changed();
  }
}
