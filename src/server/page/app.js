// Puts the page together.
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { limitReached, showContext } from "./context.js";
import { Conversations, exported } from "./conversations.js";
import { byId, element } from "./dom.js";
import { Drafts } from "./drafts.js";
import { showEmpty } from "./empty.js";
import { fillIcons } from "./icons.js";
import { Messages } from "./messages.js";
import { Models } from "./models.js";
import { announce, banner, message as notify } from "./notices.js";
import { Follower } from "./scroll.js";
import { Settings } from "./settings.js";
import { SettingsPanel } from "./settings_panel.js";
import { Sidebar } from "./sidebar.js";
import { BrowserStorage } from "./storage.js";
import { themeButton } from "./theme_button.js";
import { path, siblings } from "./thread.js";

fillIcons(document);

const storage = new BrowserStorage((text) => banner("storage", text));
const api = new Api(() => storage.get("key"));
const conversations = new Conversations(storage);
const drafts = new Drafts(storage, conversations);
const settings = new Settings(storage);
const follower = new Follower(byId("scroll"), byId("to-end"));
let open = conversations.create();

const models = new Models(settings, () => {
  const model = models.current;
  composer.placeholder = !model
    ? models.known
      ? "There is no model to write to"
      : "Waiting for the server…"
    : model.has_chat_template
      ? `Message ${model.id}`
      : `A text that ${model.id} continues`;
  showEmpty(model, models.known, (text) => chat.send(open, text));
  show();
});

const connection = new Connection({
  api,
  storage,
  models,
  keyEntered() {
    const last = path(open).at(-1);
    if (last?.state === "failed" && last.error.kind === "key") chat.regenerate(open, last);
  },
});

const chat = new Chat({
  api,
  settings,
  models,
  conversations,
  page: {
    changed: (conversation, message) => conversation === open && messages.changed(message),
    shown: show,
    began(conversation) {
      if (conversation !== open) return;
      show();
      follower.toEnd();
    },
    ended(conversation, message) {
      if (message.state === "failed" && message.error.kind === "key") connection.needKey();
      if (conversation !== open) {
        showList();
        return;
      }
      show();
      const words = { done: "The answer is complete.", stopped: "Stopped." };
      if (words[message.state]) announce(words[message.state]);
    },
  },
});

const messages = new Messages(
  {
    regenerate: (message) => chat.regenerate(open, message),
    canGoOn: (message) => chat.canGoOn(open, message),
    goOn(message) {
      chat.goOn(open, message);
      composer.focus();
    },
    edit(message, text) {
      chat.edit(open, message, text);
      composer.focus();
    },
    show: (message) => chat.show(open, message),
    siblings: (message) => siblings(open, message),
    liveRate: (message) => {
      const generation = chat.running(open);
      return generation?.message === message ? generation.liveRate : null;
    },
    limit: limitReached,
    fixLabel: ({ error }) => ({ key: "Enter the API key", context: "New conversation" })[error.kind] ?? null,
    fix: ({ error }) => (error.kind === "key" ? connection.needKey() : startNew()),
    draft: (message) => drafts.get(drafts.ofEdit(message)),
    keepDraft: (message, text) => drafts.set(drafts.ofEdit(message), text),
  },
  () => follower.grown(),
);

const composer = new Composer({
  send(text) {
    const draft = drafts.ofNext(open);
    const sent = chat.send(open, text);
    if (sent) drafts.set(draft, null);
    else notify("There is no model to answer yet. Your text stays here.");
    return sent;
  },
  stop: () => chat.stop(open),
  draft: (text) => drafts.set(drafts.ofNext(open), text),
});

const sidebar = new Sidebar({
  open(id) {
    location.hash = id;
    sidebar.drawer(false);
  },
  rename(conversation, title) {
    conversation.title = title;
    conversations.save(conversation);
    showList();
  },
  exportOne: download,
  remove(conversation) {
    chat.stop(conversation);
    conversations.remove(conversation);
    if (conversation === open) startNew();
    else showList();
    notify(`“${conversation.title}” was deleted.`, {
      label: "Undo",
      run() {
        conversations.restore(conversation);
        location.hash = conversation.id;
        showList();
      },
    });
  },
});

const panel = new SettingsPanel(settings, {
  hasKey: () => storage.get("key") !== null,
  forgetKey: () => storage.remove("key"),
});

function showList() {
  sidebar.show(conversations.all(), open.id, chat.busy);
  const title = open.title || "New conversation";
  byId("title").textContent = title;
  document.title = open.title ? `${title} · Sterna` : "Sterna";
}

/** Draws the open conversation. */
function show() {
  const shown = path(open);
  byId("empty").hidden = shown.length > 0;
  messages.show(shown);
  composer.running = chat.running(open) !== undefined;
  showContext(shown, models.current);
  showList();
  // A conversation that has just been stored gets its address.
  if (conversations.get(open.id) && location.hash !== `#${open.id}`) history.replaceState(null, "", `#${open.id}`);
}

/** Opens the conversation that the address names, or a new one. */
function openNamed() {
  const named = conversations.get(location.hash.slice(1));
  if (named === open && path(open).length > 0) return;
  open = named ?? conversations.create();
  messages.clear();
  show();
  composer.text = drafts.get(drafts.ofNext(open)) ?? "";
  follower.toEnd();
}

function startNew() {
  history.pushState(null, "", location.pathname);
  openNamed();
  sidebar.drawer(false);
  composer.focus();
}

function download(conversation) {
  const url = URL.createObjectURL(new Blob([exported(conversation)], { type: "application/json" }));
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation";
  element("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

themeButton(byId("theme"));
byId("new").addEventListener("click", startNew);
byId("settings-open").addEventListener("click", () => panel.open(models.current));
addEventListener("hashchange", openNamed);
addEventListener("popstate", openNamed);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) chat.stop(open);
  if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    startNew();
  }
});
addEventListener("pagehide", () => chat.leave());
storage.onOtherTab((key) => {
  const id = conversations.reload(key);
  if (id === null) return;
  const other = conversations.get(id);
  if (other && id === open.id && !chat.running(open)) {
    open = other;
    messages.clear();
    show();
  }
  showList();
});

models.changed();
openNamed();
connection.connect();
