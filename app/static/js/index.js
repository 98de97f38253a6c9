// The front page: tiles that keep current, and one market drawn live as price × quantity.

import { Book } from "./book.js";
import { Feed } from "./feed.js";
import { formatPrice } from "./prices.js";
import { keepQuotes } from "./quotes.js";

const LEVELS = 24; // a side
const TRADES_SHOWN = 14;
const MARGIN = 14; // pixels left free at either end of the price axis
const LABEL_WIDTH = 100; // pixels from either end where a label would run into the first or last

const figure = document.querySelector(".mini");
keepQuotes("/default/index.json");
if (figure) drawMarket(figure, document.getElementById("mini"));

function drawMarket(place, canvas) {
  const book = new Book();
  const pen = canvas.getContext("2d");
  const colours = getComputedStyle(place);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const state = document.getElementById("mini-state");
  let isDirty = false;

  function redraw() {
    if (isDirty) return;
    isDirty = true;
    requestAnimationFrame(draw);
  }

  function draw() {
    isDirty = false;
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (book.ready) drawBook(width, height - 22);
  }

  function drawBook(width, baseline) {
    const bids = book.levels("buy").slice(0, LEVELS);
    const asks = book.levels("sell").slice(0, LEVELS);
    const prices = [...bids, ...asks].map(([price]) => price);
    const low = Math.min(...prices, book.mark);
    const high = Math.max(...prices, book.mark, low + 1);
    const most = Math.max(...[...bids, ...asks].map(([, quantity]) => quantity), 1);
    const x = (price) => MARGIN + ((price - low) / (high - low)) * (width - 2 * MARGIN);
    const y = (quantity) => baseline - Math.sqrt(Math.min(quantity / most, 1)) * (baseline - 16);
    const thickness = Math.max(2, Math.min(8, width / (prices.length * 2 + 1)));
    for (const [levels, name] of [[bids, "--buy"], [asks, "--sell"]]) {
      pen.fillStyle = colour(name);
      pen.globalAlpha = 0.75;
      for (const [price, quantity] of levels) {
        pen.fillRect(x(price) - thickness / 2, y(quantity), thickness, baseline - y(quantity));
      }
    }
    pen.globalAlpha = 1;
    drawAxis(width, baseline, x, low, high);
    drawTrades(x, y);
  }

  function drawAxis(width, baseline, x, low, high) {
    pen.fillStyle = colour("--line-strong");
    pen.fillRect(0, baseline, width, 1);
    pen.fillStyle = colour("--dim");
    pen.font = "11px ui-monospace, monospace";
    const label = (price, align, at) => {
      pen.textAlign = align;
      pen.fillText(formatPrice(price), at, baseline + 15);
    };
    label(low, "left", 8);
    label(high, "right", width - 8);
    const middle = x(book.mark);
    if (middle > LABEL_WIDTH && middle < width - LABEL_WIDTH) label(book.mark, "center", middle);
  }

  function drawTrades(x, y) {
    const recent = book.trades.slice(-TRADES_SHOWN);
    recent.forEach((trade, index) => {
      const isNewest = index === recent.length - 1;
      pen.globalAlpha = isNewest ? 1 : 0.15 + (0.5 * index) / recent.length;
      pen.fillStyle = isNewest ? colour("--newest") : "#fff";
      pen.beginPath();
      pen.arc(x(trade.price), y(trade.quantity), isNewest ? 6 : 4, 0, 2 * Math.PI);
      pen.fill();
    });
    pen.globalAlpha = 1;
    const newest = recent.at(-1);
    if (!newest) return;
    pen.fillStyle = colour("--text");
    pen.font = "600 13px ui-monospace, monospace";
    pen.textAlign = "left";
    pen.lineWidth = 4;
    pen.strokeStyle = "#000";
    pen.strokeText(`${newest.quantity} at ${formatPrice(newest.price)}`, 8, 18);
    pen.fillText(`${newest.quantity} at ${formatPrice(newest.price)}`, 8, 18);
  }

  const origin = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`;
  const feed = new Feed({
    url: `${origin}/realtime/${place.dataset.ticker}`,
    depth: LEVELS,
    onMessage(message) {
      if (message.type === "snapshot") book.load(message);
      else if (message.type === "update" && !book.update(message)) feed.resubscribe();
      redraw();
    },
    onState(line) {
      state.textContent = line;
      state.className = `state ${line}`;
    },
  });

  addEventListener("resize", redraw);
  feed.start();
}
