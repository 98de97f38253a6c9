// The trade page: wires the line, the book, the canvas, the ticket and the account together, and
// shows its state to browser tests, read-only, as `window.emte`.

import { Account } from "./account.js";
import { Aim } from "./aim.js";
import { Book } from "./book.js";
import { Canvas } from "./canvas.js";
import { Feed } from "./feed.js";
import { describe, KINDS, kindOf } from "./kinds.js";
import { Ladder } from "./ladder.js";
import { News } from "./news.js";
import { Notices } from "./notices.js";
import { OpenTable } from "./opentable.js";
import { Orders, sentence } from "./orders.js";
import { Pointer } from "./pointer.js";
import { preview } from "./preview.js";
import { formatPrice, formatQuantity, parsePrice } from "./prices.js";
import { Scale } from "./scale.js";
import { Tape } from "./tape.js";
import { Ticket } from "./ticket.js";

const DEPTH = 200; // levels of each side that are shown
const LINE_WORDS = {
  connecting: "connecting",
  live: "live",
  lagging: "lagging",
  reconnecting: "reconnecting",
  stale: "stale: orders are blocked",
  ended: "logged out",
};
const BLOCKED_WORDS = {
  stale: "The line is stale: what you see may be old, and orders are blocked.",
  ended: "You are logged out.",
};
const PHASE_WORDS = { auction: "in auction", halted: "halted", closed: "closed" };
const LOGGED_OUT = ["login_required", "not_owner"]; // refusals that say: log in (again)
const ARMED = "emte-armed"; // remembered for the visit, in this tab

const page = JSON.parse(document.getElementById("page").textContent);
const element = (id) => document.getElementById(id);

const book = new Book();
const orders = new Orders(page);
const scale = new Scale(page);
const notices = new Notices({ toasts: element("toasts"), voice: element("voice") });
const news = new News({ notices, onCancel: cancel });
const aim = new Aim({ kind: kindOf(page.kind), onChange: aimChanged });
const canvas = new Canvas({
  stage: element("stage"),
  plot: element("plot"),
  overlay: element("overlay"),
  history: element("history"),
  market: { book, orders, aim, scale },
});
const pointer = new Pointer({
  surface: element("overlay"), canvas, scale, aim, book,
  actions: { send: sendFromCanvas, cancel, amend: amendFromCanvas },
});
const flattenButtons = document.querySelectorAll("#flatten-open, #flatten [type=submit]");
const ladder = new Ladder({ panel: element("book"), book, onPrice: pickPrice });
const tape = new Tape(element("tape"));
const ticket = new Ticket({ form: element("ticket"), grid: page, book, onSend: send, onKind: chooseKind });
const openTable = new OpenTable({
  body: element("open-orders"), counts: document.querySelectorAll("[data-open-count]"),
  cancelAll: element("cancel-all"), onCancel: cancel, onAmend: amendFromTable,
});
const account = new Account({
  product: page.product,
  owner: page.owner,
  cells: {
    position: element("position"), pandl: element("pandl"),
    actual: element("actual"), available: element("available"),
  },
  waiting: () => orders.unknown.map(({ id }) => id),
  onDoubts: takeDoubts,
  onLoggedOut: () => feed.end(),
});
const feed = new Feed({
  depth: DEPTH,
  url: `${location.protocol.replace("http", "ws")}//${location.host}/realtime/${page.ticker}`,
  onMessage: hear,
  onState: lineChanged,
});

let lineage = null;

// -- what the feed says

function hear(message) {
  switch (message.type) {
    case "hello":
      if (lineage !== null && message.lineage !== lineage) marketBeganAnew();
      lineage = message.lineage ?? lineage;
      break;
    case "snapshot":
      book.load(message);
      ticket.marketLoaded();
      marketChanged({ traded: true });
      break;
    case "update":
      if (!book.ready) break;
      if (book.update(message)) marketChanged({ traded: (message.trades ?? []).length > 0 });
      else {
        book.drop();
        feed.resubscribe();
      }
      break;
    case "orders":
      orders.load(message);
      ownOrdersChanged();
      editAsAsked();
      break;
    case "order":
      ownOrderChanged(message);
      break;
  }
}

/** A new run: the numbers of orders and trades begin anew, and what was open is no more. */
function marketBeganAnew() {
  orders.load({ orders: [] });
  ownOrdersChanged();
  news.forget();
  account.refreshSoon();
  notices.show(`${page.ticker} begins a new run: open orders and positions have ended.`, { seconds: 15 });
}

function marketChanged(change) {
  if (book.phase !== phaseShown) phaseChanged();
  canvas.marketChanged(change);
  ladder.changed();
  if (change.traded) tape.show(book.trades);
  ticket.refresh();
  showMarket();
  showAimBar();
}

let phaseShown = "";

function phaseChanged() {
  if (phaseShown) notices.say(`The market is now ${PHASE_WORDS[book.phase] ?? "in continuous trading"}.`);
  phaseShown = book.phase;
  for (const side of ["buy", "sell"]) {
    element("kinds").querySelector(`[value="${side}-market"]`).disabled = book.inAuction;
  }
  if (isForLater(aim.kind)) chooseKind(kindOf(`${aim.kind.side}-limit`));
}

/** Market orders wait for continuous trading (R10). */
function isForLater(kind) {
  return book.inAuction && kind.market && !kind.stop;
}

function ownOrdersChanged() {
  openTable.show(orders.open, orders.unknown);
  canvas.touch("plot", "overlay");
}

function ownOrderChanged(message) {
  const { order, found } = orders.change(message);
  ownOrdersChanged();
  account.refreshSoon();
  if (found) notices.show(`Order #${order.oid} arrived: ${order.status.replaceAll("_", " ")}.`);
  news.changed(message.event, order);
}

/** The account's answer tells of orders whose own answers got lost, whichever web server knows. */
function takeDoubts(doubts) {
  for (const { order, fate } of orders.takeDoubts(doubts)) news.resolved(order, fate);
  openTable.show(orders.open, orders.unknown);
}

function lineChanged(state) {
  const line = element("line");
  line.className = `state ${state}`;
  line.textContent = LINE_WORDS[state];
  ticket.block(isBlocked());
  for (const button of flattenButtons) button.disabled = isBlocked();
  element("aim-send").disabled = isBlocked();
  element("stage").classList.toggle("stale", isBlocked());
  element("blocked").hidden = !isBlocked();
  write(element("blocked-words"), BLOCKED_WORDS[state] ?? "");
  element("log-in").hidden = state !== "ended";
  notices.say(`The line is ${LINE_WORDS[state]}.`);
}

/** Nothing is sent on the strength of an old picture. */
function isBlocked() {
  return feed.state in BLOCKED_WORDS;
}

// -- what the trader does

function chooseKind(kind) {
  if (isForLater(kind)) {
    notices.show("In an auction orders are collected: market orders wait for its end (R10).");
    kind = aim.kind;
  }
  aim.choose(kind);
  element("kinds").querySelector(`[value="${kind.value}"]`).checked = true;
  ticket.choose(kind);
}

/** A price of the book goes to the ticket; on a phone that is another tab. */
function pickPrice(price) {
  ticket.pick(price);
  if (element("tabs").checkVisibility()) showTab("ticket");
}

/** A click on the canvas sends at once, but the first one of a visit asks whether it may. */
function sendFromCanvas(order) {
  whenArmed(describe(order), "Arm, and send this order", () => send(order));
}

/** So does a mark that is dragged to another price (a waiting stop's: to another stop). */
function amendFromCanvas({ oid }, price) {
  const order = orders.open.find((open) => open.oid === oid);
  if (!order) {
    notices.show(`Order #${oid} is no longer open.`);
    return;
  }
  const waits = order.status === "pending_stop";
  const [from, to] = [waits ? order.stop : order.price, price].map(formatPrice);
  const change = { oid, quantity: order.quantity, ...(waits ? { stop: price } : { price }) };
  whenArmed(`Order #${oid}: ${from} → ${to}`, "Arm, and change this order", () => amend(change));
}

function whenArmed(words, yes, run) {
  if (isArmed()) run();
  else askToArm(words, yes, run);
}

function isArmed() {
  return sessionStorage.getItem(ARMED) === "yes";
}

function arm(armed) {
  if (armed) sessionStorage.setItem(ARMED, "yes");
  else sessionStorage.removeItem(ARMED);
  showArmed();
}

function showArmed() {
  const button = element("arm");
  button.setAttribute("aria-pressed", String(isArmed()));
  button.querySelector(".word").textContent = isArmed() ? "armed" : "off";
}

function askToArm(words, yes, run) {
  const dialog = element("arming");
  element("arming-order").textContent = words;
  element("arming-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.onclose = () => {
    element("overlay").focus({ preventScroll: true });
    if (dialog.returnValue !== "arm") return;
    arm(true);
    run();
  };
  dialog.showModal();
}

/** Whether an order may be sent now; says so if not. */
function mayTrade() {
  if (!isBlocked() && book.ready) return true;
  const why = BLOCKED_WORDS[feed.state] ?? "The market is not here yet.";
  notices.show(`${why} No order was sent.`, { tone: "error" });
  return false;
}

async function send(order) {
  if (!mayTrade()) return;
  const answer = await orders.place(order);
  if (LOGGED_OUT.includes(answer.error?.code)) feed.end();
  if (answer.error) notices.show(sentence(answer.error), { tone: "error", seconds: 8 });
  else if (answer.unknown) notices.show(`${describe(order)}: ${answer.message}`, { seconds: 15 });
  else news.placed(order, answer);
  account.refreshSoon();
}

/** The feed tells what becomes of a change that the exchange took; the sentence of a refusal, or "". */
async function amend(change, { quietly = false } = {}) {
  if (!mayTrade()) return "Nothing was sent.";
  const answer = await orders.amend(change);
  if (LOGGED_OUT.includes(answer.error?.code)) feed.end();
  const refusal = answer.error ? sentence(answer.error) : "";
  if (refusal && !quietly) notices.show(refusal, { tone: "error", seconds: 8 });
  else if (answer.unknown) notices.show(answer.message, { tone: "error", seconds: 15 });
  account.refreshSoon();
  return refusal;
}

/** What is typed goes as it is; the fields themselves show a refusal. */
function amendFromTable({ oid, quantity, price, stop }) {
  const wrong = [price, stop].some((text) => text.trim() !== "" && !(parsePrice(text.trim()) > 0));
  if (wrong) return "A price looks like 101.30.";
  const change = { oid, quantity: quantity.trim(), price: parsed(price), stop: parsed(stop) };
  return amend(change, { quietly: true });
}

function parsed(text) {
  return text.trim() === "" ? 0 : parsePrice(text.trim());
}

/** From the portfolio: /default/trade/1#edit-12. */
function editAsAsked() {
  const asked = /^#edit-([0-9]+)$/.exec(location.hash);
  if (!asked) return;
  history.replaceState(null, "", location.pathname);
  showTab("orders");
  if (!openTable.edit(Number(asked[1]))) notices.show(`Order #${asked[1]} is no longer open.`);
}

async function cancel(oid) {
  const answer = await orders.cancel(oid);
  if (LOGGED_OUT.includes(answer.error?.code)) feed.end();
  if (answer.error) notices.show(sentence(answer.error), { tone: "error", seconds: 8 });
  else if (answer.unknown) notices.show(`Cancel: ${answer.message}`, { tone: "error" });
  else notices.show(oid === "all" ? "All open orders canceled." : `Order #${oid} canceled.`);
}

/** F: armed it flattens at once, else it asks as the button does. */
function askToFlatten() {
  if (!mayTrade()) return;
  if (isArmed()) flatten();
  else element("flatten").showPopover?.();
}

async function flatten() {
  if (!mayTrade()) return;
  const answer = await orders.flatten();
  if (LOGGED_OUT.includes(answer.error?.code)) feed.end();
  if (answer.error) notices.show(sentence(answer.error), { tone: "error", seconds: 8 });
  else if (answer.unknown) notices.show(`Flatten: ${answer.message}`, { tone: "error", seconds: 15 });
  else news.flattened(answer);
  account.refreshSoon();
}

function cancelNewest() {
  const newest = Math.max(...orders.open.map((order) => order.oid));
  if (orders.open.length === 0) notices.show("There is no open order to cancel.");
  else cancel(newest);
}

// -- keys of the whole page; what one types into a field stays there

const KEYS = {
  b: () => chooseKind(kindOf(aim.kind.value.replace("sell", "buy"))),
  s: () => chooseKind(kindOf(aim.kind.value.replace("buy", "sell"))),
  c: centre,
  f: askToFlatten,
  x: cancelNewest,
  "Shift+x": () => cancel("all"),
  "?": () => element("help").showModal(),
  Escape: () => pointer.abandon() || arm(false),
};
KINDS.forEach((kind, index) => {
  KEYS[index + 1] = () => chooseKind(kind);
});

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const typing = event.target.closest("input:not([type=radio]), select, textarea, dialog");
  if (typing && event.key !== "Escape") return;
  if (event.target.closest("dialog, [popover]")) return;
  const isLetter = /^[a-z]$/i.test(event.key); // whatever Caps Lock says
  const name = isLetter ? event.key.toLowerCase() : event.key;
  const run = KEYS[isLetter && event.shiftKey ? `Shift+${name}` : name];
  if (!run) return;
  event.preventDefault();
  run();
}

function centre() {
  canvas.recentre();
  showFollowing();
}

// -- what the page shows beside the canvas

function aimChanged() {
  canvas.touch("overlay");
  showAimBar();
  sayAim();
}

let aimSaid = 0;

/** An aim moved by keys is spoken, once it rests. */
function sayAim() {
  clearTimeout(aimSaid);
  if (aim.by !== "keys" || aim.order === null) return;
  aimSaid = setTimeout(() => notices.say(describe(aim.order)), 350);
}

/** A finger's aim stays, with buttons that send or drop it. */
function showAimBar() {
  const order = aim.by === "touch" ? aim.order : null;
  element("aim").classList.toggle("aimed", order !== null);
  if (order === null) {
    write(element("aim-words"), "Tap the chart to aim");
    write(element("aim-outcome"), "then send with the button");
  } else {
    const { money, outcome } = preview(order, book);
    write(element("aim-words"), describe(order));
    write(element("aim-outcome"), `${money} · ${outcome}`);
  }
  const button = element("aim-send");
  button.className = `button ${aim.kind.side}`;
  button.hidden = element("aim-drop").hidden = order === null;
}

function showMarket() {
  const { last, reference, phase } = book;
  const [bid, ask] = [book.best("buy"), book.best("sell")];
  write(element("last"), last === null ? "–" : formatPrice(last));
  const change = last === null ? 0 : last - reference;
  const sign = change > 0 ? "▲ +" : change < 0 ? "▼ −" : "";
  const percent = (Math.abs(change) / reference) * 100;
  write(element("change"), last === null ? "no trade yet" : `${sign}${percent.toFixed(2)}%`);
  element("change").className = element("last").className = change > 0 ? "up" : change < 0 ? "down" : "";
  write(element("bid"), bid === null ? "–" : formatPrice(bid));
  write(element("ask"), ask === null ? "–" : formatPrice(ask));
  element("market").classList.toggle("in-auction", book.inAuction);
  element("indicative").parentElement.hidden = !book.inAuction;
  showIndicative(book.indicative);
  write(element("phase"), PHASE_WORDS[phase] ?? "");
  element("phase").hidden = !(phase in PHASE_WORDS);
  const title = `${formatPrice(book.mark)} ${page.ticker} · EMTE`;
  if (document.title !== title) document.title = title;
}

function showIndicative(indicative) {
  const [price, words] = element("indicative").children;
  write(price, indicative ? formatPrice(indicative.price) : "");
  if (!indicative) write(words, "nothing crosses");
  else {
    const { volume, surplus } = indicative;
    const left = `${formatQuantity(Math.abs(surplus))} left to ${surplus > 0 ? "buy" : "sell"}`;
    write(words, `${formatQuantity(volume)} shares${surplus ? `, ${left}` : ""}`);
  }
}

function showFollowing() {
  element("centre").hidden = !scale.held;
}

function showTab(name) {
  document.querySelector(".desk-panels").dataset.tab = name;
  for (const tab of element("tabs").querySelectorAll("[role=tab]")) {
    const isShown = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(isShown));
    tab.tabIndex = isShown ? 0 : -1;
  }
  canvas.touch("plot", "overlay", "history");
}

function moveBetweenTabs(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const tabs = [...element("tabs").querySelectorAll("[role=tab]")];
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  next.focus();
  showTab(next.dataset.tab);
}

function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// -- start

element("kinds").addEventListener("change", (event) => chooseKind(kindOf(event.target.value)));
element("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("[data-tab]");
  if (tab) showTab(tab.dataset.tab);
});
element("tabs").addEventListener("keydown", moveBetweenTabs);
element("arm").addEventListener("click", () => arm(!isArmed()));
element("aim-send").addEventListener("click", () => {
  const { order } = aim;
  aim.clear();
  scale.frozen = false;
  send(order);
});
element("flatten").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  element("flatten").hidePopover?.();
  flatten();
});
element("aim-drop").addEventListener("click", () => pointer.abandon());
element("centre").addEventListener("click", centre);
element("help-open").addEventListener("click", () => element("help").showModal());
for (const name of ["pointerup", "pointermove", "wheel"]) {
  element("overlay").addEventListener(name, showFollowing, { passive: true });
}
addEventListener("keydown", pressed);

showArmed();
showTab(location.hash === "#ticket-panel" ? "ticket" : "chart"); // old_trade leads to the ticket
chooseKind(aim.kind);
ownOrdersChanged();
account.start();
feed.start();

/** Client coordinates of a point of the stage. */
function onScreen({ x, y }) {
  const { left, top } = element("overlay").getBoundingClientRect();
  return { x: left + x, y: top + y };
}

window.emte = Object.freeze({
  get line() { return feed.state; },
  get seq() { return book.seq; },
  get last() { return book.last === null ? null : formatPrice(book.last); },
  get bids() { return book.levels("buy").map(([price, ...rest]) => [formatPrice(price), ...rest]); },
  get asks() { return book.levels("sell").map(([price, ...rest]) => [formatPrice(price), ...rest]); },
  get trades() { return book.trades.map((trade) => ({ ...trade, price: formatPrice(trade.price) })); },
  get orders() { return orders.open.map((order) => ({ ...order })); },
  get unknown() { return orders.unknown.map((order) => ({ ...order })); },
  get aim() { return aim.order; },
  get kind() { return aim.kind.value; },
  get armed() { return isArmed(); },
  get dragged() {
    const { order, price } = canvas.dragged ?? {};
    return order ? { oid: order.oid, price } : null;
  },
  get account() { return structuredClone(account.state); },
  get frames() { return structuredClone(canvas.frames); },
  get view() { return { low: scale.low, high: scale.high, top: scale.top, held: scale.held }; },
  /** Where on the screen a price ("101.30") and a quantity lie on the canvas. */
  point: (price, quantity) => onScreen({ x: scale.x(parsePrice(price)), y: scale.y(quantity) }),
  /** Where the mark of an own order lies, or null. */
  mark: (oid) => { const mark = canvas.markOf(oid); return mark && onScreen(mark); },
});
