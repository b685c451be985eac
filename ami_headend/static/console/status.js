// Renews the figures, lists and chart of the status page from a fragment that the server renders.
"use strict";
(() => {
  const page = document.getElementById("status");
  const renewed = document.getElementById("renewed");
  const pause = document.getElementById("pause");
  const every = Number(page.dataset.every);
  let paused = false;

  function show(fragment) {
    for (const fresh of fragment.querySelectorAll("[data-live]")) {
      const standing = document.getElementById(fresh.id);
      // What the keyboard stands on is not taken away; it is renewed once the focus moves on.
      if (standing && !standing.contains(document.activeElement)) standing.replaceWith(fresh);
    }
    const data = fragment.getElementById("chart-data");
    const canvas = page.querySelector("canvas.chart");
    const chart = canvas && Chart.getChart(canvas);
    if (data && chart) {
      const { labels, datasets } = JSON.parse(data.textContent);
      chart.data.labels = labels;
      datasets.forEach((dataset, n) => { chart.data.datasets[n].data = dataset.data; });
      chart.update("none");
    }
    renewed.textContent = fragment.querySelector("[data-now]").dataset.now;
    renewed.classList.remove("console-stale");
  }

  async function renew() {
    if (!paused && !document.hidden) {
      try {
        const answer = await fetch(page.dataset.url, { credentials: "same-origin", signal: AbortSignal.timeout(15000) });
        if (answer.redirected) { location.reload(); return; }  // signed out: the page leads to the sign-in
        if (!answer.ok) throw new Error(String(answer.status));
        show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } catch {
        renewed.textContent = renewed.textContent.replace(/ \(.*\)$/, "") + " (the head-end does not answer; trying again)";
        renewed.classList.add("console-stale");
      }
    }
    setTimeout(renew, every);
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
  });
  setTimeout(renew, every);
})();
