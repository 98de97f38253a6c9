// A new run: shows how far it is, from the page's own JSON, every second while one is under way.

import { LiveTable } from "./livetable.js";

const EVERY_MS = 1_000;
const QUIET_MS = 4_000; // nothing is under way; somebody else may ask for a run
const STALE_AFTER_FAILURES = 3;

const element = (id) => document.getElementById(id);
const past = new LiveTable(document.querySelector('[data-table="past"]'), {});
let failures = 0;

follow();

async function follow() {
  let wait = QUIET_MS;
  if (document.visibilityState === "visible") {
    try {
      const response = await fetch("/default/zap.json");
      if (response.status === 401) location.reload();
      if (!response.ok) throw new Error(response.statusText);
      const state = await response.json();
      failures = 0;
      show(state);
      if (isUnderWay(state)) wait = EVERY_MS;
    } catch {
      failures += 1;
      wait = EVERY_MS;
    }
    element("stale").hidden = failures < STALE_AFTER_FAILURES;
  }
  setTimeout(follow, wait);
}

function isUnderWay({ progress, is_supervised: isSupervised }) {
  return progress !== null && !progress.is_over && isSupervised;
}

function show(state) {
  write(element("run"), state.run);
  if (state.begun) write(element("begun"), state.begun.slice(0, 16).replace("T", " "));
  for (const place of document.querySelectorAll("[data-run]")) write(place, state.run);
  element("ask").hidden = !state.is_supervised;
  element("by-hand").hidden = state.is_supervised;
  element("ask").querySelector("[type=submit]").disabled = isUnderWay(state);
  past.show(state.past);
  showConcerned(state.products);
  if (state.progress !== null) showProgress(state.progress);
}

function showProgress({ by, asked, reason, steps }) {
  write(element("asked"), `${by} asked for a new run at ${asked.slice(0, 19).replace("T", " ")} UTC.`);
  write(element("reason"), reason);
  element("reason").hidden = reason === "";
  const list = element("steps");
  list.hidden = reason !== "";
  steps.forEach(({ name, sentence, state }, index) => {
    const line = list.children[index] ?? list.appendChild(document.createElement("li"));
    if (line.dataset.state === state) return;
    line.dataset.step = name;
    line.dataset.state = state;
    const heard = document.createElement("span");
    heard.className = "visually-hidden";
    heard.textContent = state;
    line.replaceChildren(`${sentence} `, heard);
  });
  element("progress").hidden = false;
}

function showConcerned(products) {
  const lines = new Map(
    [...element("concerned").tBodies[0].rows].map((line) => [line.cells[0].textContent, line]),
  );
  for (const { ticker, state, trades } of products) {
    const line = lines.get(ticker);
    if (!line) continue;
    const mark = line.querySelector(".state");
    write(mark, state);
    mark.className = `state ${state}`;
    write(line.cells[2], trades.toLocaleString("en-US"));
  }
}

function write(target, value) {
  if (target && target.textContent !== String(value)) target.textContent = value;
}
