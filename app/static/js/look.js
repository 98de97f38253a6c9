// The look of what is drawn: colours and typeface, read from the style sheet once.

/** Colours of `element`'s place in the page; the canvas itself is black in either theme. */
export function lookOf(element) {
  const style = getComputedStyle(element);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ground: "#000000",
    grid: "#10161e",
    card: "#0b1016",
    white: "#ffffff",
    axis: value("line-strong"),
    text: value("text"),
    dim: value("dim"),
    newest: value("newest"),
    warn: value("warn"),
    buy: value("buy"),
    sell: value("sell"),
    onBright: value("on-buy"),
    figures: value("figure-font"),
  };
}

/** A tag of dark words on a bright ground, or the other way round, centred on (x, y). */
export function drawTag(pen, look, { text, x, y, ground, color }) {
  pen.font = `600 12px ${look.figures}`;
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  const wide = tagWidth(pen, text);
  pen.fillStyle = ground;
  pen.beginPath();
  pen.roundRect(x - wide / 2, y - 10, wide, 20, 4);
  pen.fill();
  pen.fillStyle = color;
  pen.fillText(text, x, y + 0.5);
}

/** How wide `drawTag` makes a tag of this text. */
export function tagWidth(pen, text) {
  return Math.ceil(pen.measureText(text).width) + 14;
}
