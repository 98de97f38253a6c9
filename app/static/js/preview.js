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
  const { cost, outcome, taken = [] } = order.stop ? waiting(order, book) : incoming(order, book);
  const money = `${order.side === "buy" ? "cost" : "brings"} ${formatMoney(cost)}`;
  return { cost, money, outcome: REFUSING[book.phase] ?? outcome, taken };
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

function incoming({ side, quantity, price, tif }, book) {
  const now = book.fills(side, quantity, price || null);
  const rest = quantity - now.quantity;
  return {
    cost: now.value + (price ? rest * price : 0),
    outcome: `${fillsNow(now, rest)}${ofTheRest(rest, { price, tif, none: now.quantity === 0 })}`,
    taken: now.taken,
  };
}

function fillsNow(now, rest) {
  if (now.quantity === 0) return "";
  const average = formatPrice(Math.round(now.value / now.quantity / (UNIT / 100)) * (UNIT / 100));
  const about = now.taken.length > 1 ? `about ${average}` : formatPrice(now.worst);
  return `fills ${rest ? formatQuantity(now.quantity) : "all"} now at ${about}`;
}

function ofTheRest(rest, { price, tif, none }) {
  if (rest === 0) return "";
  const comma = none ? "" : ", ";
  if (tif === "fok") return `${comma}so not at all: fill or kill (R4)`;
  if (!price) return `${comma}${formatQuantity(rest)} find nobody (R2)`;
  if (tif === "ioc") return `${comma}${formatQuantity(rest)} are canceled (R4)`;
  return `${comma}rests ${formatQuantity(rest)}`;
}
