// The profits/loss page: asks for its own JSON every two seconds, and soon after each change of an
// own order, and shows what it says. Nothing is added up here.

import { Feed } from "./feed.js";
import { formatMoney, formatQuantity, parseMoney } from "./prices.js";

const EVERY_MS = 2_000;
const SOON_MS = [120, 500]; // log2db needs a moment to bring a trade into the database
const STALE_AFTER_FAILURES = 3;

const page = JSON.parse(document.getElementById("page").textContent);
const url = `/default/pandl.json/${page.product}`;
const origin = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`;
const scroller = document.querySelector(".tall");
let failures = 0;
let shown = "";
let newest = 0;

async function refresh() {
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
}

function show(state) {
  for (const cell of document.querySelectorAll("[data-value]")) {
    cell.textContent = state[cell.dataset.value];
  }
  for (const cell of document.querySelectorAll("[data-money]")) {
    cell.replaceChildren(money(state[cell.dataset.money]));
  }
  for (const cell of document.querySelectorAll("[data-tied-up]")) {
    cell.textContent = formatMoney(parseMoney(state.tied_up[cell.dataset.tiedUp]));
  }
  const stays = isAtEnd();
  if (state.rows.length) {
    const rows = state.rows.map((row) => tableRow(row, row.time.slice(0, 19).replace("T", " ")));
    document.querySelector("[data-rows]").replaceChildren(...rows);
  }
  const now = tableRow(state.now, "NOW");
  now.className = "now";
  document.querySelector("[data-now]").replaceChildren(now);
  if (stays) showEnd();
}

/** Whether the newest trades are in sight: then they stay so, else nothing moves. */
function isAtEnd() {
  return scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 4;
}

function showEnd() {
  scroller.scrollTop = scroller.scrollHeight;
}

function tableRow(row, name) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(
    head,
    cell("Quantity Buy", shares(row.quantity_buy), "buy"),
    cell("Quantity Sell", shares(row.quantity_sell), "sell"),
    cell("Price", row.price),
    cell("Total Shares", formatQuantity(row.total_shares)),
    cell("Balance", money(row.balance)),
  );
  return line;
}

function cell(label, content, side = "") {
  const data = document.createElement("td");
  data.className = `number ${side}`;
  data.dataset.label = label;
  if (content !== "") data.append(content);
  return data;
}

function shares(quantity) {
  return quantity ? formatQuantity(quantity) : "";
}

function money(text) {
  const span = document.createElement("span");
  if (text.startsWith("-")) span.className = "sell";
  span.textContent = formatMoney(parseMoney(text));
  return span;
}

function onMessage(message) {
  if (message.type === "order") for (const wait of SOON_MS) setTimeout(refresh, wait);
}

showEnd();
new Feed({ url: `${origin}/realtime/${page.ticker}`, onMessage, onState: () => {} }).start();
setInterval(() => {
  if (document.visibilityState === "visible") refresh();
}, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
