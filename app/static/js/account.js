// The trader's account strip: position, profit and cash, as the database has them by the journal.
//
// It is asked every two seconds, and soon after each change of an own order: log2db needs a moment
// to bring the journal's last records into the database.

import { formatMoney, formatQuantity, parseMoney } from "./prices.js";

const EVERY_MS = 2_000;
const SOON_MS = [120, 500];

export class Account {
  #url;
  #owner;
  #cells;
  #waiting;
  #onDoubts;
  #onLoggedOut;
  #timer = 0;
  #asking = false;
  #again = false;
  #ended = false;

  /** The newest answer, or null: { as_of, shares, actual_cash, … } as /default/account has it. */
  state = null;

  /** `cells` names the elements: position, pandl, actual, available. `waiting()` has the ids of
   *  orders whose answers were lost, `onDoubts(orders)` gets what the answer knows of such orders.
   *  `onLoggedOut()` is called, and nothing asked any more, when `owner` is not who is logged in. */
  constructor({ product, owner, cells, waiting, onDoubts, onLoggedOut }) {
    this.#url = `/default/account/${product}`;
    this.#owner = owner;
    this.#cells = cells;
    this.#waiting = waiting;
    this.#onDoubts = onDoubts;
    this.#onLoggedOut = onLoggedOut;
  }

  start() {
    this.#timer = setInterval(() => {
      if (document.visibilityState === "visible") this.refresh();
    }, EVERY_MS);
    this.refresh();
  }

  refreshSoon() {
    for (const wait of SOON_MS) setTimeout(() => this.refresh(), wait);
  }

  async refresh() {
    if (this.#ended) return;
    if (this.#asking) {
      this.#again = true;
      return;
    }
    this.#asking = true;
    try {
      const url = `${this.#url}?waiting=${this.#waiting().join(",")}`;
      const response = await fetch(url, { headers: { Accept: "application/json" } });
      if (response.status === 401) this.#end();
      else if (response.ok) this.#take(await response.json());
    } catch (error) {
      // The line's state tells that the server is away; what was known stays on the screen.
      if (!(error instanceof TypeError)) throw error;
    } finally {
      this.#asking = false;
    }
    if (this.#again) {
      this.#again = false;
      this.refresh();
    }
  }

  /** The log-in is the whole browser's: it may have changed in another tab. */
  #take(state) {
    if (state.owner !== this.#owner) {
      this.#end();
      return;
    }
    this.#show(state);
    this.#onDoubts(state.in_doubt);
  }

  #end() {
    this.#ended = true;
    clearInterval(this.#timer);
    this.#onLoggedOut();
  }

  #show(state) {
    this.state = state;
    const unrealised = parseMoney(state.unrealised);
    const realised = parseMoney(state.realised);
    const profit = unrealised + realised;
    this.#write("position", formatQuantity(state.shares), toneOf(state.shares));
    this.#write("pandl", formatMoney(profit, { sign: true }), toneOf(profit));
    this.#write("actual", formatMoney(parseMoney(state.actual_cash)));
    this.#write("available", formatMoney(parseMoney(state.cash_available)));
    this.#cells.pandl.title =
      `unrealised ${formatMoney(unrealised, { sign: true })}, ` +
      `realised ${formatMoney(realised, { sign: true })}, as of seq ${state.as_of}`;
  }

  #write(name, text, tone = "") {
    const cell = this.#cells[name];
    if (cell.textContent !== text) cell.textContent = text;
    if (cell.className !== tone) cell.className = tone;
  }
}

function toneOf(amount) {
  return amount > 0 ? "up" : amount < 0 ? "down" : "";
}
