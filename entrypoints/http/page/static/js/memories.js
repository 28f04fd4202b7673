/** The dialog with the facts that the service remembers about its user. */

import { confirm } from "./dialogs.js";
import { button, byId, element, icon } from "./elements.js";
import { explain } from "./explain.js";
import { announce } from "./notices.js";

const MAX_FACT_CHARS = 2000;

export class Memories {
  #service = null;
  #cursor = null;
  #dialog = byId("memories");

  constructor() {
    byId("open-memories").onclick = () => this.#open();
    byId("close-memories").onclick = () => this.#dialog.close();
    byId("more-memories").onclick = () => this.#load({ more: true });
    byId("new-memory").onsubmit = (event) => {
      event.preventDefault();
      this.#add();
    };
  }

  /** The ChatService of the user whose memories are shown. */
  set service(service) {
    this.#service = service;
    this.#dialog.close();
    byId("memory-list").replaceChildren();
    byId("new-memory").reset();
    this.#fail(null);
  }

  async #open() {
    if (!this.#service) return; // it is not known yet who uses the page
    byId("memory-list").replaceChildren();
    byId("no-memories").hidden = byId("more-memories").hidden = true;
    this.#cursor = null;
    this.#fail(null);
    byId("loading-memories").hidden = false;
    this.#dialog.showModal();
    await this.#load();
    byId("loading-memories").hidden = true;
  }

  async #load({ more = false } = {}) {
    const service = this.#service;
    const cursor = more ? this.#cursor : null;
    await this.#attempt(async () => {
      const page = await service.memories(cursor);
      const isLate = service !== this.#service || (more && cursor !== this.#cursor); // e.g. of a double click
      if (isLate) return;
      this.#cursor = page.next_cursor;
      const rows = page.memories.map((memory) => this.#row(memory));
      if (more) byId("memory-list").append(...rows);
      else byId("memory-list").replaceChildren(...rows);
      this.#showCount();
      if (more && this.#cursor === null) rows[0]?.querySelector("button").focus(); // the one that was pressed is gone
    });
  }

  #showCount() {
    byId("more-memories").hidden = this.#cursor === null;
    byId("no-memories").hidden = byId("memory-list").childElementCount > 0;
  }

  async #add() {
    const field = byId("fact");
    const fact = field.value.trim();
    if (!fact) return;
    field.value = ""; // at once, so that a second Enter does not add it twice
    const service = this.#service;
    const isAdded = await this.#attempt(async () => {
      const memory = await service.remember(fact);
      if (service !== this.#service) return;
      const row = this.#row(memory);
      byId("memory-list").prepend(row);
      row.scrollIntoView({ block: "nearest" });
      this.#showCount();
      announce("Remembered.");
    });
    if (!isAdded && service === this.#service) field.value ||= fact;
  }

  /** Return the row of a memory: the fact with buttons, or a field while it is being edited. */
  #row(memory) {
    const row = element("li");
    const show = () => {
      this.#replaceIn(
        row,
        element("p", { dir: "auto" }, memory.fact),
        button(() => edit(), { class: "icon-button", "aria-label": `Edit: ${memory.fact}` }, icon("edit")),
        button(() => this.#forget(memory, row), { class: "icon-button", "aria-label": `Delete: ${memory.fact}` }, icon("trash")),
      );
    };
    const finish = () => {
      show();
      row.querySelector("button").focus();
    };
    const save = async (fact) => {
      if (!fact || fact === memory.fact) return finish();
      return this.#attempt(async () => {
        memory = await this.#service.correct(memory.id, fact);
        finish();
        announce("Saved.");
      });
    };
    const edit = () => {
      this.#replaceIn(row, editor(memory.fact, { onSave: save, onCancel: finish }));
      row.querySelector("textarea").focus();
    };
    show();
    return row;
  }

  /** Show this in a row. While a fact is being edited, a click beside the dialog does not close it. */
  #replaceIn(row, ...nodes) {
    row.replaceChildren(...nodes);
    const isEditing = this.#dialog.querySelector(".editor") !== null;
    this.#dialog.setAttribute("closedby", isEditing ? "closerequest" : "any");
  }

  async #forget(memory, row) {
    if (!(await confirm({ question: "Delete this memory?", detail: memory.fact, yes: "Delete" }))) return;
    await this.#attempt(async () => {
      await this.#service.forget(memory.id);
      const neighbour = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      this.#showCount();
      (neighbour?.querySelector("button") ?? byId("fact")).focus(); // near to what is gone, so that nothing scrolls away
      announce("Deleted.");
    });
  }

  /** Run `action`, and return whether it succeeded. */
  async #attempt(action) {
    this.#fail(null);
    try {
      await action();
      return true;
    } catch (error) {
      this.#fail(explain(error));
      return false;
    }
  }

  #fail(text) {
    byId("memory-problem").hidden = text === null;
    byId("memory-problem").textContent = text ?? "";
  }
}

function editor(fact, { onSave, onCancel }) {
  const field = element("textarea", { "aria-label": "Fact", dir: "auto", maxlength: MAX_FACT_CHARS, rows: 2 });
  field.value = fact;
  const save = () => onSave(field.value.trim());
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing && event.keyCode !== 229) {
      event.preventDefault();
      save();
    } else if (event.key === "Escape") {
      event.preventDefault(); // which would close the dialog
      event.stopPropagation();
      onCancel();
    }
  });
  const buttons = element(
    "div",
    { class: "actions" },
    button(onCancel, { class: "button" }, "Cancel"),
    button(save, { class: "button primary" }, "Save"),
  );
  return element("div", { class: "editor" }, field, buttons);
}
