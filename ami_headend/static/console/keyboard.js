// Makes elements reachable by keyboard that unfold made clickable without making them buttons.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const native = "a[href], button, input, select, textarea, summary";
  for (const element of document.querySelectorAll("[x-on\\:click]")) {
    if (element.matches(native) || element.querySelector(native)) continue;
    element.tabIndex = 0;
    element.setAttribute("role", "button");
    if (!element.textContent.trim() || element.matches(".material-symbols-outlined")) {
      element.setAttribute("aria-label", element.title || "Sidebar");
    }
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      element.click();
    });
  }
});
