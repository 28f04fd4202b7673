/** The choice between the light theme, the dark one and the system's. */

import { byId } from "./elements.js";
import { browserStorage } from "./storage.js";

export function setUpTheme() {
  const chosen = browserStorage.get("theme") ?? "system";
  colourBrowser(chosen);
  for (const choice of byId("theme").querySelectorAll("input")) {
    choice.checked = choice.value === chosen;
    choice.addEventListener("change", () => apply(choice.value));
  }
}

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  colourBrowser(theme);
  browserStorage.set("theme", theme === "system" ? null : theme);
}

/** Give the browser's own bars, e.g. on phones, the colour of the theme. */
function colourBrowser(theme) {
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) {
    const isChosen = meta.dataset.for === theme;
    meta.media = theme === "system" ? `(prefers-color-scheme: ${meta.dataset.for})` : isChosen ? "all" : "not all";
  }
}
