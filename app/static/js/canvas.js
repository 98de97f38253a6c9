// The canvas: price × quantity, drawn. What lies still is on one canvas, what moves with the hand on
// another above it; each is drawn anew only if something on it changed, and once a frame at most.
//
// From left to right the price, upwards the quantity: bars are the book's levels, the area behind
// them the cumulative depth, circles the last 50 matches, outlined bars the trader's own orders with
// their marks on the axis.

import { drawAim, drawDragged, drawMarkHint } from "./crosshair.js";
import { drawHistory } from "./history.js";
import { lookOf } from "./look.js";
import { drawPlot } from "./plot.js";

const NEAREST_LEVELS = 40; // of each side: what a fitting view shows
const LONGEST_STEP_MS = 50; // a frame that came late does not make the view leap
const LEAST_STEP_PIXELS = 1; // a view that glides slower than the eye sees is not drawn every frame,
const GLIDE_MS = 30; // nor looked at that often
const FRAMES_KEPT = 240;

export class Canvas {
  #stage;
  #layers;
  #look;
  #market;
  #dirty = new Set();
  #scheduled = false;
  #lastFrame = 0;
  #fitted = false;
  #drawn = null; // the view that the plot shows
  #glide = 0; // the timer of a slow one's next look
  #isOverlayBlank = false;
  #marks = [];
  #coarse = matchMedia("(pointer: coarse), (max-width: 700px)");
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  /** The mark that the pointer is over, or null. */
  hovered = null;

  /** The own order whose mark is being dragged, and to which price, { order, price }, or null. */
  dragged = null;

  /** What the last frames cost, in milliseconds, for whoever measures. */
  frames = { plot: [], overlay: [], history: [] };

  /** `market` is { book, orders, aim, scale }; the canvas reads it and changes only the scale. */
  constructor({ stage, plot, overlay, history, market }) {
    this.#stage = stage;
    this.#market = market;
    this.#look = lookOf(stage);
    this.#layers = {
      plot: new Layer(plot, { alpha: false }),
      overlay: new Layer(overlay),
      history: new Layer(history),
    };
    new ResizeObserver(() => this.#resize()).observe(stage);
    new ResizeObserver(() => this.#resize()).observe(history);
    this.#resize();
  }

  /** Pixels that the axes take: quantities at the right, prices and marks below. */
  get gutters() {
    return { right: 52, bottom: this.#coarse.matches ? 62 : 46 };
  }

  /** Says what must be drawn anew: "plot", "overlay", "history". */
  touch(...layers) {
    for (const layer of layers) this.#dirty.add(layer);
    this.#schedule();
  }

  drag(dragged) {
    if (dragged === null && this.dragged === null) return;
    this.dragged = dragged;
    this.touch("overlay");
  }

  /** The market changed: follow it and draw it. */
  marketChanged({ traded }) {
    const { book, scale } = this.#market;
    scale.follow(fitting(book, scale), { jump: !this.#fitted });
    this.#fitted = true;
    this.touch("plot", "overlay");
    if (traded) this.touch("history");
  }

  /** Begins to follow the price again, after the view was moved by hand. */
  recentre() {
    const { book, scale } = this.#market;
    scale.release();
    if (book.ready) scale.follow(fitting(book, scale), { jump: true });
    this.touch("plot", "overlay");
  }

  /** The mark of own orders under a point of the stage, or null. */
  markAt(x, y) {
    const { scale } = this.#market;
    const [across, down] = this.#coarse.matches ? [22, 44] : [11, 22];
    if (y < scale.height || y > scale.height + down) return null;
    const near = this.#marks.filter((mark) => Math.abs(mark.x - x) <= across);
    near.sort((a, b) => Math.abs(a.x - x) - Math.abs(b.x - x));
    return near[0] ?? null;
  }

  /** Where on the stage an own order's mark is, or null. */
  markOf(oid) {
    const mark = this.#marks.find(({ orders }) => orders.some((order) => order.oid === oid));
    return mark ? { x: mark.x, y: this.#market.scale.height + 11 } : null;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame((now) => this.#frame(now));
  }

  #resize() {
    for (const layer of Object.values(this.#layers)) layer.fit();
    const { width, height } = this.#stage.getBoundingClientRect();
    const { right, bottom } = this.gutters;
    this.#market.scale.resize(width - right, height - bottom);
    this.touch("plot", "overlay", "history");
  }

  #frame(now) {
    this.#scheduled = false;
    if (!this.#layers.plot.isSharp) this.#resize();
    const elapsed = Math.min(LONGEST_STEP_MS, now - this.#lastFrame);
    this.#lastFrame = now;
    const { scale } = this.#market;
    const moving = scale.settle(elapsed, { still: this.#still.matches });
    const moved = this.#drawn === null ? 0 : scale.pixelsFrom(this.#drawn);
    if (moved >= LEAST_STEP_PIXELS || (moved > 0 && !moving)) this.#dirty.add("plot").add("overlay");
    if (this.#dirty.has("plot")) this.#drawn = scale.view;
    for (const name of this.#dirty) this.#timed(name);
    this.#dirty.clear();
    clearTimeout(this.#glide);
    if (moving) this.#glide = setTimeout(() => this.#schedule(), moved < LEAST_STEP_PIXELS ? GLIDE_MS : 0);
  }

  #timed(name) {
    const began = performance.now();
    if (this.#layers[name].width > 0) this.#draw(name, this.#layers[name]);
    const costs = this.frames[name];
    costs.push(performance.now() - began);
    if (costs.length > FRAMES_KEPT) costs.shift();
  }

  #draw(name, layer) {
    const { book, aim, scale } = this.#market;
    const { pen, width, height } = layer;
    const size = { width, height };
    if (name === "plot") {
      const coarse = this.#coarse.matches;
      this.#marks = drawPlot(pen, this.#look, size, this.#market, { coarse });
      return;
    }
    if (name === "history") {
      pen.clearRect(0, 0, width, height);
      drawHistory(pen, this.#look, book.trades, size);
      return;
    }
    const isAimed = aim.at !== null && book.ready;
    const isBlank = !this.hovered && !isAimed && !this.dragged;
    if (isBlank && this.#isOverlayBlank) return; // a cleared layer would be composed anew
    this.#isOverlayBlank = isBlank;
    pen.clearRect(0, 0, width, height);
    if (this.dragged) drawDragged(pen, this.#look, size, { ...this.dragged, book, scale });
    else if (this.hovered) drawMarkHint(pen, this.#look, scale, this.hovered);
    else if (isAimed) drawAim(pen, this.#look, size, { aim, book, scale });
  }
}

/** A canvas element with as many pixels as the screen has under it. */
class Layer {
  #canvas;
  #ratio = 0;

  constructor(canvas, options) {
    this.#canvas = canvas;
    this.pen = canvas.getContext("2d", options);
  }

  /** Whether it was fitted for the pixels of the present screen. */
  get isSharp() {
    return this.#ratio === devicePixelRatio;
  }

  fit() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    [this.width, this.height, this.#ratio] = [width, height, devicePixelRatio];
    const [across, down] = [Math.round(width * this.#ratio), Math.round(height * this.#ratio)];
    if (this.#canvas.width !== across) this.#canvas.width = across;
    if (this.#canvas.height !== down) this.#canvas.height = down;
    this.pen.setTransform(this.#ratio, 0, 0, this.#ratio, 0, 0);
  }
}

/** What the view should show of the market: the price in its middle; prices as far as the nearest
 *  levels of each side reach; quantities so that a few giants do not flatten all others. */
function fitting(book, scale) {
  const sides = [book.levels("buy"), book.levels("sell")];
  const price = book.mark;
  // The best levels too: in an auction the sides overlap.
  const ends = sides.flatMap((levels) => [levels[0], levels[Math.min(levels.length, NEAREST_LEVELS) - 1]]);
  const reach = Math.max(...ends.map((level) => (level ? Math.abs(level[0] - price) : 0)));
  const span = reach ? Math.max(2.3 * reach, scale.smallestSpan) : scale.startSpan;
  const shown = sides
    .flat()
    .filter(([level]) => Math.abs(level - price) < span / 2)
    .map(([, quantity]) => quantity);
  const traded = book.trades.map((trade) => trade.quantity);
  return { price, span, top: fittingTop(shown.length ? shown : traded) ?? scale.top };
}

function fittingTop(quantities) {
  if (quantities.length === 0) return null;
  const sorted = [...quantities].sort((a, b) => a - b);
  const most = sorted.at(-1);
  const usual = sorted[Math.floor((sorted.length - 1) * 0.93)];
  return most <= usual * 1.7 ? most * 1.25 : usual * 1.6;
}
