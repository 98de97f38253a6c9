// A curve over time: puts the drawing that the page's JSON has, made by the server, in its place.

const panel = document.getElementById("chart");

export function showChart(chart) {
  document.getElementById("chart-empty").hidden = chart.line !== "";
  document.getElementById("chart-drawing").hidden = chart.line === "";
  for (const path of panel.querySelectorAll("path")) {
    path.setAttribute("d", chart[path.getAttribute("class")]);
  }
  for (const place of panel.querySelectorAll("[data-chart]")) {
    place.textContent = chart[place.dataset.chart];
  }
  panel.querySelector("svg").setAttribute("class", chart.trend);
  panel.querySelector("[data-chart=change]").className = chart.trend;
  for (const name of ["levels", "times"]) {
    panel.querySelector(`.${name}`).replaceChildren(...chart[name].map(label));
  }
}

function label(text) {
  const span = document.createElement("span");
  span.textContent = text;
  return span;
}
