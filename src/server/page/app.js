// Puts the page together.
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { limitReached, showContext } from "./context.js";
import { Conversations, exported } from "./conversations.js";
import { byId, element } from "./dom.js";
import { showEmpty } from "./empty.js";
import { fillIcons, icon } from "./icons.js";
import { KeyDialog } from "./key_dialog.js";
import { Messages } from "./messages.js";
import { Models } from "./models.js";
import { announce, banner, message as notify } from "./notices.js";
import { Poll } from "./poll.js";
import { Follower } from "./scroll.js";
import { ServerCard } from "./server_card.js";
import { Settings } from "./settings.js";
import { SettingsPanel } from "./settings_panel.js";
import { Sidebar } from "./sidebar.js";
import { BrowserStorage } from "./storage.js";
import { path, siblings } from "./thread.js";

fillIcons(document);

const storage = new BrowserStorage((text) => banner("storage", text));
const api = new Api(() => storage.get("key"));
const conversations = new Conversations(storage);
const settings = new Settings(storage);
const follower = new Follower(byId("scroll"), byId("to-end"));
const card = new ServerCard();
let open = conversations.create();

/** Drafts outlive a reload: of the open conversation's next message, and of messages that are being edited. */
const drafts = {
  key: (conversation) => `draft.${conversations.get(conversation.id) ? conversation.id : "new"}`,
  get: (key) => storage.get(key),
  set: (key, text) => (text ? storage.set(key, text) : storage.remove(key)),
  /** Forgets the drafts of conversations that were deleted. */
  tidy() {
    const known = new Set(["draft.new"]);
    for (const { id, messages } of conversations.all()) {
      known.add(`draft.${id}`);
      for (const message of messages) known.add(`edit.${message.id}`);
    }
    for (const key of [...storage.keys("draft."), ...storage.keys("edit.")]) if (!known.has(key)) storage.remove(key);
  },
};

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

const keyDialog = new KeyDialog((key) => {
  storage.set("key", key);
  banner("key", null);
  connect();
  const last = path(open).at(-1);
  if (last?.error?.kind === "key" && last.state === "failed") afterConnect = () => chat.regenerate(open, last);
});
let afterConnect = null;

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
      if (message.state === "failed" && message.error.kind === "key") needKey();
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
    fix: ({ error }) => (error.kind === "key" ? keyDialog.open(storage.get("key") !== null) : startNew()),
    draft: (message) => drafts.get(`edit.${message.id}`),
    keepDraft: (message, text) => drafts.set(`edit.${message.id}`, text),
  },
  () => follower.grown(),
);

const composer = new Composer({
  send(text) {
    const key = drafts.key(open);
    const sent = chat.send(open, text);
    if (sent) drafts.set(key, null);
    else notify("There is no model to answer yet. Your text stays here.");
    return sent;
  },
  stop: () => chat.stop(open),
  draft: (text) => drafts.set(drafts.key(open), text),
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
  composer.text = drafts.get(drafts.key(open)) ?? "";
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

function needKey() {
  poll.pause();
  const refused = storage.get("key") !== null;
  banner("key", refused ? "The server did not accept the API key." : "This server needs an API key.", {
    action: { label: "Enter it", run: () => keyDialog.open(refused) },
    lasting: true,
  });
  keyDialog.open(refused);
}

/** Gets the models; the status polls go on from there. */
let connected = false;
let connecting = false;
async function connect() {
  if (connecting) return;
  connecting = true;
  try {
    models.all = await api.models();
    connected = true;
    banner("gone", null);
    poll.start();
    afterConnect?.();
    afterConnect = null;
  } catch (error) {
    if (error.kind === "key") {
      needKey();
      return;
    }
    lost(error);
    poll.start();
  } finally {
    connecting = false;
  }
}

function lost(error) {
  connected = false;
  card.gone();
  const text = error.kind === "network" ? "The server does not answer. Trying again every 2 seconds." : error.message;
  banner("gone", text, { lasting: true });
}

const poll = new Poll(
  api,
  (status) => {
    card.show(status, models.current?.id);
    if (!connected) connect();
  },
  (error) => (error.kind === "key" ? needKey() : lost(error)),
);

const THEMES = ["system", "light", "dark"];
function showTheme() {
  const theme = sternaTheme.get();
  const button = byId("theme");
  button.replaceChildren(icon(theme));
  button.title = `Theme: ${theme}`;
  button.setAttribute("aria-label", `Theme: ${theme}. Change`);
}
byId("theme").addEventListener("click", () => {
  sternaTheme.set(THEMES[(THEMES.indexOf(sternaTheme.get()) + 1) % THEMES.length]);
  showTheme();
});
showTheme();

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
  if (!conversations.reload(key)) return;
  const other = conversations.get(open.id);
  if (other && !chat.running(open)) {
    open = other;
    messages.clear();
    show();
  }
  showList();
});

drafts.tidy();
models.changed();
openNamed();
connect();
