/** The choice between the light theme, the dark one and the system's. */

import { byId } from "./elements.js";
import { browserStorage } from "./storage.js";

export function setUpTheme() {
  const chosen = browserStorage.get("theme") ?? "system";
  for (const choice of byId("theme").querySelectorAll("input")) {
    choice.checked = choice.value === chosen;
    choice.addEventListener("change", () => apply(choice.value));
  }
}

function apply(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  browserStorage.set("theme", theme === "system" ? null : theme);
}
