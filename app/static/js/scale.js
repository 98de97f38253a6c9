// The scale of the canvas: price × quantity ⇄ pixels, and how it follows the market.
//
// x is the price, y the quantity; the plot ends at a baseline above the axis of prices and left of
// the axis of quantities. The middle follows the price slowly; while `frozen` (somebody is aiming)
// or `held` (somebody chose the view) nothing moves on its own.

import { roundStep, snap } from "./prices.js";

const FOLLOW_MS = 900; // time constants of the approach
const FIT_MS = 350;
const REFIT = 1.3; // a fitting view is left alone until it is off by this factor
const FEWEST_TICKS = 20; // across the plot, at the closest zoom
const START_TICKS = 320;
const START_LOTS = 500;
const AIM_PIXELS = 2; // quantities snap to the round number that a hand can hit

export class Scale {
  frozen = false;
  held = false;
  width = 1; // of the plot
  height = 1;

  #target;

  constructor({ tick, lot, reference }) {
    this.tick = tick; // of prices, in ten-thousandths
    this.lot = lot;
    this.centre = reference;
    this.span = this.startSpan;
    this.top = START_LOTS * lot;
    this.#target = { centre: this.centre, span: this.span, top: this.top };
  }

  resize(width, height) {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
  }

  x(price) {
    return this.width / 2 + ((price - this.centre) / this.span) * this.width;
  }

  y(quantity) {
    return this.height * (1 - quantity / this.top);
  }

  /** Pixels from one tick to the next. */
  get tickPixels() {
    return (this.tick / this.span) * this.width;
  }

  get barWidth() {
    return Math.min(14, Math.max(3, Math.floor(this.tickPixels * 0.72)));
  }

  get startSpan() {
    return START_TICKS * this.tick;
  }

  get smallestSpan() {
    return 3 * FEWEST_TICKS * this.tick;
  }

  get low() {
    return this.centre - this.span / 2;
  }

  get high() {
    return this.centre + this.span / 2;
  }

  /** What is in view now. */
  get view() {
    return { centre: this.centre, span: this.span, top: this.top };
  }

  /** How many pixels something in the plot lies at most from where it was in `view`. */
  pixelsFrom(view) {
    const zoomed = Math.abs(this.span / view.span - 1) / 2;
    const across = Math.abs(this.centre - view.centre) / view.span + zoomed;
    return Math.max(across * this.width, Math.abs(this.top / view.top - 1) * this.height);
  }

  /** The price on the tick grid under x. */
  price(x) {
    const price = this.centre + ((x - this.width / 2) / this.width) * this.span;
    return Math.max(this.tick, snap(price, this.tick));
  }

  /** The round number of lots under y, one lot at least. */
  quantity(y) {
    return Math.max(this.lot, snap((1 - y / this.height) * this.top, this.quantityStep));
  }

  get quantityStep() {
    return roundStep((this.top / this.height) * AIM_PIXELS, this.lot);
  }

  inPlot(x, y) {
    return x >= 0 && x <= this.width && y >= 0 && y < this.height;
  }

  /** Steps for the lines and labels of both axes, no closer than these many pixels. */
  gridSteps(pricePixels, quantityPixels) {
    return {
      price: roundStep((this.span / this.width) * pricePixels, this.tick),
      quantity: roundStep((this.top / this.height) * quantityPixels, this.lot),
    };
  }

  pan(pixels) {
    this.held = true;
    this.#moveTo(this.centre - (pixels / this.width) * this.span);
  }

  /** Zooms the price axis by `factor` (below 1: closer); the price under x stays where it is. */
  zoom(factor, x) {
    this.held = true;
    const under = this.centre + (x / this.width - 0.5) * this.span;
    const widest = Math.max(FEWEST_TICKS * this.tick, 4 * under);
    const span = Math.min(widest, Math.max(FEWEST_TICKS * this.tick, this.span * factor));
    this.span = this.#target.span = span;
    this.#moveTo(under - (x / this.width - 0.5) * span);
  }

  zoomQuantity(factor) {
    this.held = true;
    this.top = this.#target.top = Math.max(10 * this.lot, this.top * factor);
  }

  /** Brings a price that lies outside of the view (or close to its edge) back into it. */
  reveal(price) {
    const margin = this.span * 0.06;
    if (price < this.low + margin) this.#moveTo(price - margin + this.span / 2);
    else if (price > this.high - margin) this.#moveTo(price + margin - this.span / 2);
  }

  revealQuantity(quantity) {
    if (quantity > this.top * 0.95) this.top = this.#target.top = quantity * 1.3;
  }

  /** Lets the view follow the market again, beginning with where it is now. */
  release() {
    this.held = false;
  }

  /** What the view should come to show: the price in the middle, the span of prices and the
   *  quantity that fit. At once, if `jump`. */
  follow({ price, span, top }, { jump = false } = {}) {
    this.#target.centre = price;
    const spanRatio = span / this.#target.span;
    const topRatio = top / this.#target.top;
    if (spanRatio > REFIT || spanRatio < 1 / REFIT) this.#target.span = span;
    if (topRatio > 1.05 || topRatio < 1 / REFIT) this.#target.top = top;
    if (jump) {
      this.centre = price;
      this.span = this.#target.span = span;
      this.top = this.#target.top = top;
    }
  }

  /** Moves towards the target by what `elapsed` milliseconds allow; true while it is under way.
   *  With `still`, for who wants no motion, it jumps, and only once the price has gone far. */
  settle(elapsed, { still = false } = {}) {
    if (this.frozen || this.held) return false;
    const target = this.#target;
    const away = Math.abs(target.centre - this.centre) / this.span;
    if (still) {
      if (away > 0.3) this.centre = target.centre;
      this.span = target.span;
      this.top = target.top;
      return false;
    }
    const off = Math.max(
      away * this.width,
      Math.abs(Math.log(target.span / this.span)) * this.width,
      Math.abs(Math.log(target.top / this.top)) * this.height,
    );
    if (off < 0.5) return false;
    const follow = 1 - Math.exp(-elapsed / FOLLOW_MS);
    const fit = 1 - Math.exp(-elapsed / FIT_MS);
    this.centre += (target.centre - this.centre) * follow;
    this.span *= (target.span / this.span) ** fit;
    this.top *= (target.top / this.top) ** fit;
    return true;
  }

  #moveTo(centre) {
    this.centre = this.#target.centre = Math.max(0, centre);
  }
}
