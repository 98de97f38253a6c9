// What the page says to the trader: toasts that go by themselves, and a voice for screen readers.

const SECONDS = 5;

export class Notices {
  #toasts;
  #voice;

  constructor({ toasts, voice }) {
    this.#toasts = toasts;
    this.#voice = voice;
  }

  /** Shows `text` for five seconds, longer while pointed at; `tone` is buy, sell, error or "".
   *  `action` { label, run } is a button, gone with the toast. */
  show(text, { tone = "", action = null, seconds = SECONDS } = {}) {
    const toast = document.createElement("div");
    toast.className = `toast ${tone}`;
    const words = document.createElement("p");
    words.textContent = text;
    toast.append(words);
    const close = () => toast.remove();
    if (action) toast.append(button(action.label, () => { close(); action.run(); }));
    toast.append(button("×", close, "Dismiss"));
    let timer = setTimeout(close, seconds * 1000);
    toast.addEventListener("pointerenter", () => clearTimeout(timer));
    toast.addEventListener("pointerleave", () => { timer = setTimeout(close, 2000); });
    this.#toasts.append(toast);
    while (this.#toasts.children.length > 4) this.#toasts.firstElementChild.remove();
    this.say(text);
    return close;
  }

  /** Announces without showing. */
  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.#voice.append(line);
    while (this.#voice.children.length > 5) this.#voice.firstElementChild.remove();
  }
}

function button(label, run, name = "") {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  if (name) element.setAttribute("aria-label", name);
  element.addEventListener("click", run);
  return element;
}
