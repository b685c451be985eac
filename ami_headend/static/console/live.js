// The live part of a page (console/base.html): htmx refreshes it; this script keeps charts, keyboard focus and the pause.
"use strict";
(() => {
  htmx.config.includeIndicatorStyles = false;  // they would be an inline style, which the security policy forbids
  // console/charts.py chooses the marks of an axis together with its labels; Chart.js would space them evenly.
  // If there is no room, as on a phone, every second or third is shown.
  const MARK_PX = 45;
  Chart.defaults.set("scales.category", {
    afterBuildTicks(scale) {
      const { marks } = scale.options;
      if (!marks?.length) return;
      const every = Math.max(1, Math.ceil((marks.length * MARK_PX) / scale.maxWidth));
      const shown = marks.filter((_, place) => place % every === 0);
      scale.ticks = shown.map((value) => ({ value, label: scale.getLabelForValue(value) }));
    },
  });
  let paused = false;
  let focused = null;

  const live = () => document.querySelector("[data-live]");
  const isLive = (event) => event.target.hasAttribute?.("data-live");

  function fault(text) {
    const place = document.getElementById("live-fault");
    if (place && place.textContent !== text) place.textContent = text;
  }

  document.addEventListener("click", (event) => {
    if (event.target.id !== "live-pause") return;
    paused = !paused;
    event.target.setAttribute("aria-pressed", String(paused));
    event.target.textContent = paused ? "Resume" : "Pause";
    if (!paused) htmx.trigger(live(), "renew");
  });

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && live()) htmx.trigger(live(), "renew");
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    // Do not replace boxes while the user is choosing.
    const isChosen = () => event.target.querySelector("input:checked") !== null;
    if (isLive(event) && (paused || document.hidden || isChosen())) event.preventDefault();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!isLive(event)) return;
    const { xhr } = event.detail;
    if (xhr.status === 200 && new URL(xhr.responseURL).pathname !== location.pathname) {
      event.detail.shouldSwap = false;
      location.reload();  // signed out: the page leads to the sign-in
      return;
    }
    const active = document.activeElement;
    focused = event.target.contains(active) && active.matches("a[href]") ? active.getAttribute("href") : null;
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (!isLive(event)) return;
    for (const fresh of event.target.querySelectorAll("[data-chart]")) {
      const canvas = document.getElementById(fresh.dataset.chart)?.querySelector("canvas");
      const chart = canvas && Chart.getChart(canvas);
      if (!chart) continue;
      const { labels, datasets } = JSON.parse(fresh.dataset.chartValue);
      chart.data.labels = labels;
      datasets.forEach((dataset, n) => Object.assign(chart.data.datasets[n] ??= dataset, { data: dataset.data }));
      chart.data.datasets.length = datasets.length;
      chart.update("none");
    }
    if (focused) event.target.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  });

  for (const kind of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(kind, (event) => {
      if (isLive(event)) fault("The head-end does not answer; trying again.");
    });
  }
})();
