/** Modal dialogs. The browser keeps the focus inside, closes them with Escape, and returns the focus. */

import { byId } from "./elements.js";

/** Ask a question, and return whether the answer was yes. */
export async function confirm({ question, detail = "", yes }) {
  const dialog = byId("confirm");
  byId("confirm-question").textContent = question;
  byId("confirm-detail").textContent = detail;
  byId("confirm-yes").textContent = yes;
  return (await answerOf(dialog)) === "yes";
}

/** Ask for a text, and return it, which may be empty; null if the dialog was dismissed. */
export async function ask({ question, value, maxLength }) {
  const dialog = byId("ask");
  const field = byId("ask-value");
  byId("ask-question").textContent = question;
  field.value = value;
  field.maxLength = maxLength;
  const answer = answerOf(dialog);
  field.select();
  return (await answer) === "yes" ? field.value.trim() : null;
}

/** Dismiss both dialogs, and leave nothing in them. */
export function dismissDialogs() {
  for (const id of ["confirm", "ask"]) byId(id).close("no");
  byId("confirm-detail").textContent = "";
  byId("ask-value").value = "";
}

/** Show a dialog with a form, and return the value of the button that closed it; "no" if it was dismissed. */
function answerOf(dialog) {
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
