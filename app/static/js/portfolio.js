// The portfolio, profits/loss in all products, and the lists of trades: figures and tables that keep
// current from the page's own JSON.

import { showChart } from "./chart.js";
import { keepCurrent, showFigures } from "./current.js";
import { LiveTable } from "./livetable.js";

const page = JSON.parse(document.getElementById("page").textContent);
const older = document.getElementById("older");
const tables = [...document.querySelectorAll("table[data-table]")].map((table) => ({
  name: table.dataset.table,
  table: new LiveTable(table, page),
}));

function show(state) {
  showFigures(state);
  if (state.chart) showChart(state.chart);
  for (const { name, table } of tables) table.show(state[name]);
  document.getElementById("as-of").textContent = asOf(Object.entries(state.as_of));
  if (older) {
    older.hidden = state.older === null;
    older.href = `${older.pathname}?${state.older ?? ""}`;
  }
}

function asOf(places) {
  if (places.length === 0) return "";
  const each = places.map(([ticker, seq]) => `${ticker} ${seq}`);
  return `as of seq ${places.length === 1 ? places[0][1] : each.join(" · ")}`;
}

keepCurrent({ url: page.url, tickers: page.tickers, show });
