// The profits/loss page: completed trades in one product, and what they came to, now and over time.

import { showChart } from "./chart.js";
import { keepCurrent, money, showFigures } from "./current.js";
import { formatQuantity } from "./prices.js";

const page = JSON.parse(document.getElementById("page").textContent);
const scroller = document.querySelector(".tall");

function show(state) {
  showFigures(state);
  showChart(state.chart);
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

showEnd();
keepCurrent({ url: `/default/pandl.json/${page.product}`, tickers: page.tickers, show });
