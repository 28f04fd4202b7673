/** Messages of the page to its user: a visible notice, and announcements for screen readers only. */

import { focusMessageField } from "./composer.js";
import { button, byId, element, icon } from "./elements.js";

/** Show a notice above the message field. `actions` are `{ label, run }`; a problem is coloured as one. */
export function showNotice(text, { actions = [], isProblem = true } = {}) {
  const notice = byId("notice");
  notice.className = isProblem ? "notice problem" : "notice";
  const buttons = actions.map(({ label, run }) =>
    button(
      () => {
        hideNotice();
        run();
      },
      { class: "notice-action" },
      label,
    ),
  );
  const dismiss = button(hideNotice, { class: "icon-button small", "aria-label": "Dismiss" }, icon("close"));
  notice.replaceChildren(element("p", {}, text), ...buttons, ...(isProblem ? [dismiss] : []));
  notice.hidden = false;
}

/** Hide the notice. If one of its buttons has the focus, that goes to the message field, or else it would be lost. */
export function hideNotice() {
  const notice = byId("notice");
  if (notice.contains(document.activeElement)) focusMessageField();
  notice.hidden = true;
  notice.replaceChildren();
}

/** Have screen readers say something that is visible otherwise. Outside of an open dialog, they would not hear it. */
export function announce(text) {
  const status = document.querySelector("dialog[open] [role=status]") ?? byId("announcements");
  status.replaceChildren(text); // also if it is the same as before: browsers ignore the same `textContent`
}
