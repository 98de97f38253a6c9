// What an order would do if it went in now: its cost, and what of it trades at once.
//
// It is read off the shown book, so hidden quantity and whoever is faster can make it better or
// worse; the matching engine decides.

import { formatMoney, formatPrice, formatQuantity, UNIT } from "./prices.js";

const REFUSING = {
  halted: "refused: the market is halted; cancels work (R11)",
  closed: "refused: the market is closed; cancels work (R11)",
};

/** For `order` { side, quantity, price, stop, tif } (0: none): `cost` in ten-thousandths, `money` and
 *  `outcome` as a trader says them, `taken` the parts of levels that it would trade with. */
export function preview(order, book) {
  const { cost, outcome, taken = [] } = sketch(order, book);
  const money = `${order.side === "buy" ? "cost" : "brings"} ${formatMoney(cost)}`;
  return { cost, money, outcome: REFUSING[book.phase] ?? outcome, taken };
}

function sketch(order, book) {
  if (order.stop) return waiting(order, book);
  return book.inAuction ? collected(order, book) : incoming(order, book);
}

function waiting({ side, quantity, price, stop }, book) {
  const reached = book.last !== null && (side === "buy" ? book.last >= stop : book.last <= stop);
  return {
    cost: quantity * (price || stop),
    outcome: reached
      ? `refused: last has already reached ${formatPrice(stop)} (R7)`
      : `waits until ${formatPrice(stop)} prints`,
  };
}

function collected({ side, quantity, price, tif, post }, book) {
  const refused = !price ? "market orders" : post ? "post-only" : tif === "ioc" || tif === "fok" ? tif : "";
  const { indicative } = book;
  const isIn = indicative && (side === "buy" ? price >= indicative.price : price <= indicative.price);
  const at = isIn ? `, ${formatPrice(indicative.price)} at present` : "";
  return {
    cost: quantity * (price || book.mark),
    outcome: refused
      ? `refused: ${refused} only in continuous trading (R10)`
      : `collected, to trade at the auction's one price${at}`,
  };
}

function incoming({ side, quantity, price, tif, post, peak }, book) {
  const now = book.fills(side, quantity, price || null);
  const rest = quantity - now.quantity;
  if (post && now.quantity) {
    const outcome = `would take ${formatQuantity(now.quantity)}: will be refused (R8)`;
    return { cost: quantity * price, outcome, taken: now.taken };
  }
  return {
    cost: now.value + (price ? rest * price : 0),
    outcome: `${fillsNow(now, rest)}${ofTheRest(rest, { price, tif, peak, none: now.quantity === 0 })}`,
    taken: now.taken,
  };
}

function fillsNow(now, rest) {
  if (now.quantity === 0) return "";
  const average = formatPrice(Math.round(now.value / now.quantity / (UNIT / 100)) * (UNIT / 100));
  const about = now.taken.length > 1 ? `about ${average}` : formatPrice(now.worst);
  return `fills ${rest ? formatQuantity(now.quantity) : "all"} now at ${about}`;
}

function ofTheRest(rest, { price, tif, peak, none }) {
  if (rest === 0) return "";
  const comma = none ? "" : ", ";
  if (tif === "fok") return `${comma}so not at all: fill or kill (R4)`;
  if (!price) return `${comma}${formatQuantity(rest)} find nobody (R2)`;
  if (tif === "ioc") return `${comma}${formatQuantity(rest)} are canceled (R4)`;
  const shows = peak ? `, shows ${formatQuantity(Math.min(peak, rest))} of it` : "";
  return `${comma}rests ${formatQuantity(rest)}${shows}`;
}
