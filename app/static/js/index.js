// The front page: tiles that keep current, and one market drawn live as price × quantity.

import { Book } from "./book.js";
import { Feed } from "./feed.js";
import { formatPrice } from "./prices.js";
import { keepQuotes } from "./quotes.js";

const LEVELS = 24; // a side
const TRADES_SHOWN = 14;

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
    const middle = book.mark;
    const reach = Math.max(...prices.map((price) => Math.abs(price - middle)), 1) * 1.06;
    const most = Math.max(...[...bids, ...asks].map(([, quantity]) => quantity), 1);
    const x = (price) => width / 2 + ((price - middle) / reach) * (width / 2 - 6);
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
    drawAxis(width, baseline, prices, x);
    drawTrades(x, y);
  }

  function drawAxis(width, baseline, prices, x) {
    pen.fillStyle = colour("--line-strong");
    pen.fillRect(0, baseline, width, 1);
    pen.fillStyle = colour("--dim");
    pen.font = "11px ui-monospace, monospace";
    const labels = [[book.mark, "center"]];
    if (prices.length) {
      labels.push([Math.min(...prices, book.mark), "left"], [Math.max(...prices, book.mark), "right"]);
    }
    for (const [price, align] of labels) {
      pen.textAlign = align;
      pen.fillText(formatPrice(price), x(price), baseline + 15);
    }
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
    pen.fillText(`${newest.quantity} at ${formatPrice(newest.price)}`, 8, 18);
  }

  const origin = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`;
  const feed = new Feed({
    depth: LEVELS,
    url: `${origin}/realtime/${place.dataset.ticker}`,
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
