// The hand on the canvas: mouse, fingers and keys become an aim, an order to send, a pan, a zoom, or
// the cancel of an own order by its mark, or another price for it.
//
// A mouse sends by its click, and amends by dragging a mark. A finger only aims (what it points at is under it, and a tap is easily
// a slip); a button of its own sends. Nothing happens outside of the plot and its price axis.

const WHEEL = 0.0015; // zoom per wheel pixel, as an exponent
const DRAG_PIXELS = 5; // less is a click

export class Pointer {
  #surface;
  #canvas;
  #scale;
  #aim;
  #book;
  #actions;
  #fingers = new Map();
  #gesture = null; // { kind: "aim" | "pan" | "pinch" | "mark" | "amend", … } while a button or finger is down

  /** `actions` are send(order), cancel(oid), amend(order, price). */
  constructor({ surface, canvas, scale, aim, book, actions }) {
    this.#surface = surface;
    this.#canvas = canvas;
    this.#scale = scale;
    this.#aim = aim;
    this.#book = book;
    this.#actions = actions;
    for (const [name, handle] of Object.entries({
      pointerdown: this.#press,
      pointermove: this.#move,
      pointerup: this.#release,
      pointercancel: this.#drop,
      pointerenter: this.#enter,
      pointerleave: this.#leave,
      keydown: this.#key,
      blur: this.#blur,
    })) {
      surface.addEventListener(name, (event) => handle.call(this, event));
    }
    surface.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Esc: forgets a press that has not been released yet; true if there was one. */
  abandon() {
    const pressed = ["aim", "amend"].includes(this.#gesture?.kind) || this.#aim.stop !== 0;
    this.#gesture = null;
    this.#canvas.drag(null);
    if (this.#aim.by === "mouse") this.#aim.setStop(0);
    else this.#aim.clear();
    this.#freeze();
    return pressed;
  }

  // -- mouse and fingers

  #press(event) {
    if (event.button !== 0) return;
    const touch = event.pointerType !== "mouse";
    const { x, y } = this.#place(event);
    this.#surface.setPointerCapture(event.pointerId);
    if (touch) this.#fingers.set(event.pointerId, x);
    if (this.#fingers.size === 2) {
      this.#startPinch();
      return;
    }
    const mark = this.#canvas.markAt(x, y);
    if (mark) this.#gesture = { kind: "mark", mark, x, from: x };
    else if (this.#scale.inPlot(x, y)) {
      const { at, stop, by } = this.#aim;
      this.#gesture = { kind: "aim", before: { at, stop, by } };
      this.#point(x, y, touch);
      if (this.#aim.kind.stop && !this.#aim.kind.market) this.#aim.setStop(this.#scale.price(x));
    } else if (y >= this.#scale.height && x <= this.#scale.width) {
      this.#gesture = { kind: "pan", x, from: x };
    }
  }

  #move(event) {
    const { x, y } = this.#place(event);
    const touch = event.pointerType !== "mouse";
    if (this.#fingers.has(event.pointerId)) this.#fingers.set(event.pointerId, x);
    switch (this.#gesture?.kind) {
      case "pinch":
        this.#pinch();
        break;
      case "pan":
        this.#pan(x);
        break;
      case "mark":
        if (Math.abs(x - this.#gesture.from) < DRAG_PIXELS) break;
        if (touch) this.#pan(x);
        else this.#grip();
        break;
      case "amend":
        this.#drag(x);
        break;
      default:
        if (!touch || this.#gesture) this.#point(x, y, touch);
    }
  }

  #release(event) {
    const gesture = this.#gesture;
    const { x, y } = this.#place(event);
    const touch = event.pointerType !== "mouse";
    this.#fingers.delete(event.pointerId);
    if (gesture?.kind === "pinch" && this.#fingers.size > 0) return;
    this.#gesture = null;
    if (gesture?.kind === "amend") {
      const { order, price } = this.#canvas.dragged;
      this.#canvas.drag(null);
      this.#freeze(true); // the hand is still here
      if (price !== gesture.price) this.#actions.amend(order, price);
      return;
    }
    if (gesture?.kind === "mark" && Math.abs(x - gesture.from) < DRAG_PIXELS) {
      this.#actions.cancel(gesture.mark.orders.at(-1).oid);
      return;
    }
    if (gesture?.kind !== "aim" || touch) return;
    const order = this.#scale.inPlot(x, y) ? this.#aim.order : null;
    this.#aim.setStop(0);
    if (order) this.#actions.send(order);
  }

  #drop(event) {
    this.#fingers.delete(event.pointerId);
    this.#gesture = null;
    this.#canvas.drag(null);
    if (this.#aim.by === "mouse") this.#aim.clear();
  }

  #enter(event) {
    if (event.pointerType === "mouse") this.#freeze(true);
  }

  #leave(event) {
    if (event.pointerType !== "mouse" || this.#gesture) return;
    this.#hover(null);
    if (this.#aim.by === "mouse") this.#aim.clear();
    this.#freeze();
  }

  #wheel(event) {
    const { x, y } = this.#place(event);
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? event.deltaY * 16 : event.deltaY;
    const factor = Math.exp(Math.max(-300, Math.min(300, pixels)) * WHEEL);
    if (x > this.#scale.width || event.shiftKey) this.#scale.zoomQuantity(factor);
    else this.#scale.zoom(factor, x);
    if (this.#aim.at && this.#aim.by === "mouse") this.#point(x, y, false);
    this.#canvas.touch("plot", "overlay");
  }

  #point(x, y, touch) {
    const mark = this.#gesture ? null : this.#canvas.markAt(x, y);
    this.#hover(mark);
    if (!this.#scale.inPlot(x, y)) {
      if (!touch) this.#aim.move(null, "mouse");
      return;
    }
    const at = { price: this.#scale.price(x), quantity: this.#scale.quantity(y) };
    this.#aim.move(at, touch ? "touch" : "mouse");
    this.#freeze(true);
  }

  #hover(mark) {
    const axis = mark === null ? "" : "pointer";
    if (this.#surface.style.cursor !== axis) this.#surface.style.cursor = axis;
    if (this.#canvas.hovered === mark) return;
    this.#canvas.hovered = mark;
    this.#canvas.touch("overlay");
  }

  #pan(x) {
    const gesture = this.#gesture;
    gesture.kind = "pan";
    this.#hover(null);
    this.#scale.pan(x - gesture.x);
    gesture.x = x;
    this.#canvas.touch("plot", "overlay");
  }

  /** A mark was moved: of orders that share one, the newest, as a click cancels it. */
  #grip() {
    const { mark, from } = this.#gesture;
    const order = mark.orders.at(-1);
    const price = order.status === "pending_stop" ? order.stop : order.price;
    this.#hover(null);
    this.#freeze(true);
    this.#gesture = { kind: "amend", order, price, off: from - this.#scale.x(price) };
    this.#canvas.drag({ order, price });
  }

  #drag(x) {
    const { order, off } = this.#gesture;
    const inside = Math.min(this.#scale.width, Math.max(0, x - off));
    this.#canvas.drag({ order, price: this.#scale.price(inside) });
  }

  /** The first finger was no aim, but half a pinch. */
  #startPinch() {
    if (this.#gesture?.kind === "aim") {
      const { at, stop, by } = this.#gesture.before;
      this.#aim.move(at, by);
      this.#aim.setStop(stop);
      this.#freeze();
    }
    this.#gesture = { kind: "pinch", apart: this.#fingersApart() };
  }

  #pinch() {
    const apart = this.#fingersApart();
    const middle = [...this.#fingers.values()].reduce((sum, x) => sum + x, 0) / 2;
    this.#scale.zoom(this.#gesture.apart / apart, middle);
    this.#gesture.apart = apart;
    this.#canvas.touch("plot", "overlay");
  }

  #fingersApart() {
    const [a, b] = this.#fingers.values();
    return Math.max(20, Math.abs(a - b));
  }

  #place(event) {
    const { left, top } = this.#surface.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  /** The view stands still while somebody aims: a price must not slip away under a click. */
  #freeze(aiming = this.#aim.at !== null) {
    this.#scale.frozen = aiming;
    this.#canvas.touch("plot");
  }

  // -- keys, while the canvas has the focus

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter") this.#enterKey();
    else if (!this.#arrow(event)) return;
    event.preventDefault();
  }

  #arrow({ key, shiftKey }) {
    const across = { ArrowLeft: -1, ArrowRight: 1 }[key] ?? 0;
    const up = { ArrowDown: -1, ArrowUp: 1 }[key] ?? 0;
    if (across === 0 && up === 0) return false;
    const far = shiftKey ? 10 : 1;
    const { tick, lot } = this.#scale;
    const step = this.#scale.quantityStep;
    const { price, quantity } = this.#aim.at ?? this.#start();
    const moved = {
      price: Math.max(tick, price + across * far * tick),
      quantity: Math.max(lot, Math.round((quantity + up * far * step) / step) * step),
    };
    this.#scale.reveal(moved.price);
    this.#scale.revealQuantity(moved.quantity);
    this.#aim.move(moved, "keys");
    this.#freeze(true);
    return true;
  }

  /** Where an aim by keys begins: at the best price of the own side, an easy quantity. */
  #start() {
    const best = this.#book.best(this.#aim.kind.side) ?? this.#book.mark;
    const price = best ?? this.#scale.price(this.#scale.width / 2);
    return { price, quantity: this.#scale.quantity(this.#scale.height * 0.6) };
  }

  #enterKey() {
    if (this.#aim.at === null) this.#aim.move(this.#start(), "keys");
    else if (this.#aim.kind.stop && !this.#aim.kind.market && !this.#aim.stop) {
      this.#aim.setStop(this.#aim.at.price);
    } else {
      const { order } = this.#aim;
      this.#aim.setStop(0);
      this.#actions.send(order);
    }
    this.#freeze(true);
  }

  #blur() {
    if (this.#aim.by !== "keys") return;
    this.#aim.clear();
    this.#freeze();
  }
}
