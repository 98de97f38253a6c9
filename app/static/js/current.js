// A page that keeps current: it asks for its own JSON every two seconds, and soon after each change
// of an own order, and shows what it says. Nothing is added up here.

import { Feed } from "./feed.js";
import { formatMoney, parseMoney } from "./prices.js";

const EVERY_MS = 2_000;
const SOON_MS = [120, 500]; // log2db needs a moment to bring a trade into the database
const STALE_AFTER_FAILURES = 3;
const MOST_LINES = 6; // to so many products; what happens in others is seen within two seconds

/** Asks `url` as long as the page is looked at; `show(state)` gets each answer that is new. The
 *  element `stale` appears when the server does not answer. */
export function keepCurrent({ url, tickers, show }) {
  let failures = 0;
  let shown = "";
  let newest = 0;

  const refresh = async () => {
    const number = ++newest;
    try {
      const response = await fetch(url, { headers: { Accept: "application/json" } });
      if (response.status === 401) location.reload();
      if (!response.ok) throw new Error(response.statusText);
      const text = await response.text();
      failures = 0;
      if (number === newest && text !== shown) {
        shown = text;
        show(JSON.parse(text));
      }
    } catch {
      failures += 1;
    }
    document.getElementById("stale").hidden = failures < STALE_AFTER_FAILURES;
  };

  const onMessage = (message) => {
    if (message.type === "order") for (const wait of SOON_MS) setTimeout(refresh, wait);
  };
  const origin = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`;
  for (const ticker of tickers.slice(0, MOST_LINES)) {
    const line = { url: `${origin}/realtime/${ticker}`, depth: 1, onMessage, onState: () => {} };
    new Feed(line).start();
  }
  setInterval(() => {
    if (document.visibilityState === "visible") refresh();
  }, EVERY_MS);
  document.addEventListener("visibilitychange", refresh);
}

/** Writes the page's figures: elements with `data-value`, `data-money`, `data-tied-up`. */
export function showFigures(state) {
  for (const cell of document.querySelectorAll("[data-value]")) {
    cell.textContent = state[cell.dataset.value];
  }
  for (const cell of document.querySelectorAll("[data-money]")) {
    cell.replaceChildren(money(state[cell.dataset.money]));
  }
  for (const cell of document.querySelectorAll("[data-tied-up]")) {
    cell.textContent = formatMoney(parseMoney(state.tied_up[cell.dataset.tiedUp]));
  }
}

/** An amount as an element: red, with a true minus, where it is below zero. */
export function money(text) {
  const span = document.createElement("span");
  if (text.startsWith("-")) span.className = "sell";
  span.textContent = formatMoney(parseMoney(text));
  return span;
}
