// The list of products and the forms of managers: live prices, search, the port that fills the
// addresses, lines to copy. All of it is there without this module, but not as quick.

import { keepQuotes } from "./quotes.js";

const ADDRESSES = {
  post_url: (port) => `http://127.0.0.1:${port}/`,
  quote_url: (port) => `http://127.0.0.1:${port}/quote`,
  ws_url: (port) => `ws://127.0.0.1:${port}/realtime`,
};

if (document.querySelector("[data-product]")) keepQuotes("/default/products.json");
if (document.getElementById("products")) offerSearch(document.getElementById("search"));
if (document.getElementById("port")) fillAddresses(document.getElementById("port"));
for (const button of document.querySelectorAll("[data-copy]")) offerCopy(button);
for (const button of document.querySelectorAll("[data-confirm]")) askFirst(button);

/** What cannot be taken back is asked for twice. */
function askFirst(button) {
  button.addEventListener("click", (event) => {
    if (!confirm(button.dataset.confirm)) event.preventDefault();
  });
}

function offerSearch(input) {
  input.closest(".search").hidden = false;
  if (matchMedia("(pointer: fine)").matches) input.placeholder += "  /";
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of document.querySelectorAll("#products [data-product]")) {
      row.hidden = !row.dataset.words.includes(wanted);
    }
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select");
    if (event.key !== "/" || isTyping || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    input.focus();
  });
}

/** The port writes the three addresses, but never over one that somebody typed. */
function fillAddresses(port) {
  let written = port.value.trim(); // what the port was when they were last written
  port.addEventListener("input", () => {
    const number = port.value.trim();
    for (const [name, address] of Object.entries(ADDRESSES)) {
      const input = document.getElementById(name);
      if (input.value !== "" && input.value !== address(written)) continue;
      input.value = /^[0-9]{1,5}$/.test(number) ? address(number) : "";
    }
    written = number;
  });
}

function offerCopy(button) {
  const line = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      // Browsers give the clipboard to secure origins only: select it, so that one key copies it.
      getSelection().selectAllChildren(line);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2_000);
  });
}
