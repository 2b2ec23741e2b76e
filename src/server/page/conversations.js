// The conversations of this browser, each stored under a key of its own so that two tabs do not overwrite each other's.
import { newId, path } from "./thread.js";

const KEY = "conversation.";
const TITLE_LENGTH = 48;

/** A title from what the user wrote first. */
export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= TITLE_LENGTH) return line;
  const cut = line.slice(0, TITLE_LENGTH);
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_LENGTH / 2 ? cut.slice(0, space) : cut}…`;
}

export class Conversations {
  #storage;
  #known = new Map();
  #removed = new Set();

  constructor(storage) {
    this.#storage = storage;
    for (const key of storage.keys(KEY)) {
      for (const message of this.#load(key)?.messages ?? []) {
        // An answer that was being written when its page went away.
        if (message.state === "streaming" || message.state === "waiting") message.state = "interrupted";
      }
    }
  }

  #load(key) {
    const stored = this.#storage.getJson(key);
    if (stored === null || typeof stored.id !== "string" || !Array.isArray(stored.messages)) return null;
    stored.selected ??= {};
    this.#known.set(stored.id, stored);
    return stored;
  }

  /** Takes over what another tab stored under `key`; the id of the conversation, or null if it was none. */
  reload(key) {
    if (!key.startsWith(KEY)) return null;
    const id = key.slice(KEY.length);
    this.#known.delete(id);
    this.#load(key);
    return id;
  }

  /** A conversation without messages; it is stored with its first one. */
  create() {
    return { id: newId(), title: "", created: Date.now(), updated: Date.now(), messages: [], selected: {} };
  }

  /** All conversations, the most recently used first. */
  all() {
    return [...this.#known.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#known.get(id);
  }

  /** Stores a conversation, unless it was deleted meanwhile. */
  save(conversation) {
    if (this.#removed.has(conversation.id)) return;
    this.#known.set(conversation.id, conversation);
    this.#storage.setJson(KEY + conversation.id, conversation);
  }

  remove(conversation) {
    this.#removed.add(conversation.id);
    this.#known.delete(conversation.id);
    this.#storage.remove(KEY + conversation.id);
  }

  /** Undoes `remove`. */
  restore(conversation) {
    this.#removed.delete(conversation.id);
    this.save(conversation);
  }
}

/** A conversation as a JSON document: the shown messages as the API takes them, and everything else that is kept. */
export function exported(conversation) {
  const messages = path(conversation).map(({ role, content }) => ({ role, content }));
  return JSON.stringify({ format: "sterna-conversation", title: conversation.title, messages, conversation }, null, 2);
}
