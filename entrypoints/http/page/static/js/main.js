/** Puts the page together. */

import { Api } from "./api.js";
import { ChatService } from "./chat-service.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { ask, confirm, dismissDialogs } from "./dialogs.js";
import { byId } from "./elements.js";
import { explain, explainReason } from "./explain.js";
import { Memories } from "./memories.js";
import { ID } from "./ids.js";
import { announce, hideNotice, showNotice } from "./notices.js";
import { loadSession } from "./session.js";
import { closeDrawer, setUpDrawer, Sidebar } from "./sidebar.js";
import { SignIn } from "./sign-in.js";
import { Tabs } from "./tabs.js";
import { setUpTheme } from "./theme.js";
import { dropAllUnsent } from "./unsent.js";

const NEW_TITLE = "New conversation";
const UNKNOWN_TITLE = "Conversation";

/** As the service cuts a title from the first message, and the longest one that can be set. */
const MAX_DERIVED_TITLE_CHARS = 80;
const MAX_TITLE_CHARS = 200;

/** The name of the model that `make run` uses if no other one is configured. */
const EMBEDDED_MODEL = "smollm2";

const APP_NAME = document.title;

const api = new Api(() => signIn.ask({ isRejected: api.hasCredential }));
const signIn = new SignIn({
  onCredential: (credential) => {
    api.credential = credential;
    start();
  },
  onDismiss: () => {
    const again = { label: "Sign in", run: () => signIn.ask({ isRejected: false }) };
    showNotice(explainReason("unauthenticated"), { actions: [again] });
  },
});
const composer = new Composer({ onSend: send, onStop: () => conversation.stop() });
const conversation = new Conversation({ composer, onChange, onEmpty: leaveDeletedElsewhere });
const sidebar = new Sidebar({ onDelete: deleteConversation, onTitles: showTitle });
const memories = new Memories();

/** The ChatService of the user; null until it is known who uses the page. */
let service = null;
let tabs = null;

/** Find out who uses the page, and show their conversations. */
async function start() {
  let session;
  try {
    session = await loadSession(api);
  } catch (error) {
    const isSigningIn = error.code === "unauthenticated";
    if (!isSigningIn) showNotice(explain(error), { actions: [{ label: "Try again", run: start }] });
    return;
  }
  hideNotice();
  byId("sign-out").hidden = !api.hasCredential;
  byId("embedded-model").hidden = session.model !== EMBEDDED_MODEL;
  byId("user").textContent = session.user;
  if (session.user !== service?.user) useService(new ChatService(api, session.user));
  sidebar.load();
  await openAddressed();
}

/** Show the data of this service's user, and remove everything of the previous one. */
function useService(chosen) {
  service = chosen;
  dismissDialogs();
  tabs?.close();
  tabs = new Tabs(service.user, onNews);
  for (const part of [sidebar, conversation, memories]) part.service = service;
  composer.user = service.user;
}

/** Open the conversation that the page's address names. */
async function openAddressed() {
  const id = addressedConversation();
  const opened = conversation.open(id);
  sidebar.mark(id);
  showTitle();
  closeDrawer();
  composer.focus();
  await opened;
  showTitle();
}

/** Return the id in the page's address, or null. */
function addressedConversation() {
  try {
    const id = decodeURIComponent(location.hash.slice(1));
    return ID.test(id) ? id : null;
  } catch {
    return null;
  }
}

function send(text) {
  if (!service) {
    composer.text = text;
    start();
    return;
  }
  const isNew = conversation.id === null;
  const id = conversation.send(text);
  if (!isNew) return;
  history.pushState(null, "", `#${encodeURIComponent(id)}`);
  sidebar.mark(id, derivedTitle(text));
  showTitle();
}

/** Return about the title that the service makes of this first message, until that has been loaded. */
function derivedTitle(text) {
  const line = text.replace(/\s+/g, " ").trim().slice(0, 2 * MAX_DERIVED_TITLE_CHARS);
  return [...line].slice(0, MAX_DERIVED_TITLE_CHARS).join(""); // no half of an emoji
}

function showTitle() {
  const title = sidebar.title(conversation.id);
  byId("title").textContent = title ?? (conversation.isNew ? NEW_TITLE : UNKNOWN_TITLE);
  document.title = title ? `${title} · ${APP_NAME}` : APP_NAME;
  byId("conversation-actions").hidden = conversation.isNew;
}

function startConversation() {
  if (location.hash) history.pushState(null, "", addressOfNew()); // otherwise *Back* would lead to where one is
  openAddressed();
}

/** Open a new conversation instead of one that was deleted, to which *Back* must not lead. */
function leaveDeleted() {
  history.replaceState(null, "", addressOfNew());
  openAddressed();
}

function leaveDeletedElsewhere() {
  leaveDeleted();
  showNotice(explainReason("conversation_not_found"));
}

function addressOfNew() {
  return location.pathname + location.search;
}

async function rename() {
  const { id } = conversation;
  const title = await ask({
    question: "Rename this conversation",
    value: byId("title").textContent,
    maxLength: MAX_TITLE_CHARS,
  });
  if (title !== null) await setTitle(id, title);
}

async function setTitle(id, title) {
  const asked = service;
  try {
    const renamed = await asked.rename(id, title);
    if (asked !== service) return; // another user has signed in
    sidebar.learn(renamed);
    onChange(id);
  } catch (error) {
    if (asked !== service) return;
    showNotice(explain(error), { actions: [{ label: "Try again", run: () => setTitle(id, title) }] });
  }
}

async function deleteConversation({ id, title }) {
  const question = "Delete this conversation?";
  if (!(await confirm({ question, detail: title || id, yes: "Delete" }))) return;
  try {
    await service.deleteConversation(id);
    if (id === conversation.id) leaveDeleted();
    onChange(id);
    composer.focus(); // what was focused may be gone
    announce("Deleted.");
  } catch (error) {
    showNotice(explain(error));
  }
}

/** A conversation was changed here. */
function onChange(id) {
  sidebar.load();
  tabs.tell(id);
}

/** A conversation was changed in another tab. */
function onNews(news) {
  sidebar.load();
  if (news.conversation === conversation.id) conversation.refresh();
}

function signOut() {
  composer.text = "";
  dropAllUnsent();
  location.reload(); // which forgets the credential, and everything that was shown
}

byId("not-started").remove();
setUpTheme();
setUpDrawer();
byId("skip-link").addEventListener("click", (event) => {
  event.preventDefault(); // its fragment would be taken for a conversation
  byId("message").focus();
});
byId("new-conversation").addEventListener("click", () => service && startConversation());
byId("rename").addEventListener("click", rename);
byId("delete").addEventListener("click", () => deleteConversation({ id: conversation.id, title: byId("title").textContent }));
byId("sign-out").addEventListener("click", signOut);
byId("empty").addEventListener("click", (event) => {
  const suggestion = event.target.closest("[data-message]");
  if (suggestion) send(suggestion.dataset.message);
});
window.addEventListener("popstate", () => service && openAddressed());
window.addEventListener("pageshow", ({ persisted }) => {
  // The browser has kept the whole page, with its credential, for *Back*: its user may have signed out meanwhile.
  if (persisted) location.reload();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !service) return;
  sidebar.load();
  conversation.refresh();
});
start();
