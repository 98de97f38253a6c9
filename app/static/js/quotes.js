// Quotes: keeps the prices in a list of products current, from the page's own JSON.
//
// Every element with `data-product` is one product; those inside it with `data-cell` show one value.

import { parsePrice } from "./prices.js";

const EVERY_MS = 2_000;
const SPARK = { width: 100, height: 28 };

/** Asks `url` for its products every two seconds while the page is looked at. */
export function keepQuotes(url) {
  const ask = async () => {
    if (document.visibilityState !== "visible") return;
    try {
      const response = await fetch(url, { headers: { Accept: "application/json" } });
      if (response.ok) for (const product of (await response.json()).products) show(product);
    } catch {
      // The server is away; the next time tells more.
    }
  };
  setInterval(ask, EVERY_MS);
  document.addEventListener("visibilitychange", ask);
}

function show(product) {
  const place = document.querySelector(`[data-product="${product.id}"]`);
  if (!place) return;
  const reference = place.classList.contains("market") ? product.reference : "–";
  const texts = {
    last: product.last ?? reference,
    bid: product.bid ?? "–",
    ask: product.ask ?? "–",
    spread: product.spread ?? "–",
    volume: product.volume.toLocaleString("en-US"),
    rules: product.rules,
  };
  for (const [name, text] of Object.entries(texts)) say(place, name, text);
  const line = place.querySelector("polyline");
  const points = sparkline(product.recent);
  if (line && line.getAttribute("points") !== points) line.setAttribute("points", points);
  showChange(place.querySelector('[data-cell="change"]'), product);
  showState(place.querySelector('[data-cell="state"] .state'), product.state);
}

function say(place, name, text) {
  const cell = place.querySelector(`[data-cell="${name}"]`);
  if (cell && cell.textContent !== text) cell.textContent = text;
}

function showChange(cell, { change_percent: percent }) {
  if (!cell || percent === null) return;
  const span = document.createElement("span");
  const falls = percent.startsWith("-");
  span.className = percent === "0.00" ? "dim" : falls ? "sell" : "buy";
  span.textContent = { dim: "", sell: "▼ ", buy: "▲ +" }[span.className] + `${percent.replace("-", "−")}%`;
  if (cell.textContent.trim() !== span.textContent) cell.replaceChildren(span);
}

function showState(cell, state) {
  if (!cell || cell.textContent === state) return;
  cell.textContent = state;
  cell.className = `state ${state}`;
}

/** The points of a polyline through prices, as base.py's filter of the same name draws it. */
function sparkline(recent) {
  const values = recent.map(parsePrice);
  const low = Math.min(...values);
  const spread = Math.max(...values) - low || 1;
  const step = SPARK.width / Math.max(values.length - 1, 1);
  return values
    .map((value, index) => {
      const y = SPARK.height - 1 - ((value - low) * (SPARK.height - 2)) / spread;
      return `${(index * step).toFixed(2)},${y.toFixed(2)}`;
    })
    .join(" ");
}
