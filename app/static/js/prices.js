// Prices and money: integers of 1/10,000 inside, decimal text on the wire and on the screen.
// No float holds a price or an amount; a number is divided only where pixels are meant.
//
//   parsePrice("101.3") === 1013000      formatPrice(1013000) === "101.30"
//   parsePrice("1e3") is NaN             formatMoney(-12345678) === "−1,234.57"

export const UNIT = 10_000;

const PRICE = /^[0-9]{1,9}(\.[0-9]{1,4})?$/;
const MONEY = /^-?[0-9]{1,15}(\.[0-9]{1,4})?$/;

/** A price as the grammar of orders writes it, or NaN: no sign, no exponent, four decimals at most. */
export function parsePrice(text) {
  return PRICE.test(text) ? tenThousandths(text) : NaN;
}

/** An amount of money, which may be negative, or NaN. */
export function parseMoney(text) {
  return MONEY.test(text) ? tenThousandths(text) : NaN;
}

/** "101.30": at least two decimals, the third and fourth only where they are not zero. */
export function formatPrice(price) {
  const decimals = price % 100 === 0 ? 2 : price % 10 === 0 ? 3 : 4;
  const whole = Math.floor(price / UNIT);
  return `${whole}.${String(price % UNIT).padStart(4, "0").slice(0, decimals)}`;
}

/** "1,234.57", rounded to cents, with a true minus; `sign` puts a plus before a gain. */
export function formatMoney(amount, { sign = false } = {}) {
  const cents = Math.round(Math.abs(amount) / 100);
  const text = `${formatQuantity(Math.floor(cents / 100))}.${String(cents % 100).padStart(2, "0")}`;
  if (cents === 0) return text;
  return amount < 0 ? `−${text}` : sign ? `+${text}` : text;
}

/** "12,345", a true minus for a short position. */
export function formatQuantity(quantity) {
  const digits = String(Math.abs(quantity)).replace(/\B(?=(\d{3})+$)/g, ",");
  return quantity < 0 ? `−${digits}` : digits;
}

/** "1,200", but "12k" and "1.5M" where there is no room for more. */
export function formatShort(quantity) {
  if (quantity >= 1_000_000) return `${+(quantity / 1_000_000).toFixed(2)}M`;
  if (quantity >= 10_000) return `${+(quantity / 1_000).toFixed(1)}k`;
  return formatQuantity(quantity);
}

/** The multiple of `step` that is nearest to `value`. */
export function snap(value, step) {
  return Math.round(value / step) * step;
}

/** The smallest of 1, 2, 5, 10, 20, 50 … times `unit` that is at least `least`. */
export function roundStep(least, unit) {
  if (least <= unit) return unit;
  const power = 10 ** Math.floor(Math.log10(least / unit));
  const lead = [1, 2, 5, 10].find((digit) => digit * power * unit >= least * (1 - 1e-9));
  return Math.round(lead * power) * unit;
}

function tenThousandths(text) {
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const value = Number(whole) * UNIT + Number(fraction.padEnd(4, "0"));
  return text.startsWith("-") ? -value : value;
}
