// Keeps values in the browser. Where it refuses (full, switched off), values live as long as the page and the user is told.

const PREFIX = "sterna.";

export class BrowserStorage {
  #kept = new Map();
  #trouble;
  #told = false;

  /** `trouble` is called once, with a sentence, when a value could not be stored. */
  constructor(trouble) {
    this.#trouble = trouble;
  }

  get(key) {
    if (this.#kept.has(key)) return this.#kept.get(key);
    try {
      return localStorage.getItem(PREFIX + key);
    } catch {
      return null;
    }
  }

  /** The value that was stored as JSON, or null if there is none or it is damaged. */
  getJson(key) {
    try {
      return JSON.parse(this.get(key) ?? "null");
    } catch {
      return null;
    }
  }

  set(key, value) {
    try {
      localStorage.setItem(PREFIX + key, value);
      this.#kept.delete(key);
      if (this.#kept.size === 0) this.#told = false;
    } catch (error) {
      this.#kept.set(key, value);
      this.#tell(error);
    }
  }

  setJson(key, value) {
    this.set(key, JSON.stringify(value));
  }

  remove(key) {
    this.#kept.delete(key);
    try {
      localStorage.removeItem(PREFIX + key);
    } catch {
      // A storage that is switched off holds nothing to remove.
    }
  }

  /** The keys that start with `prefix`, without the page's own prefix. */
  keys(prefix) {
    const found = new Set([...this.#kept.keys()].filter((key) => key.startsWith(prefix)));
    try {
      for (let index = 0; index < localStorage.length; index++) {
        const key = localStorage.key(index);
        if (key.startsWith(PREFIX + prefix)) found.add(key.slice(PREFIX.length));
      }
    } catch {
      // Switched off: only what this page keeps.
    }
    return [...found];
  }

  /** Calls `listener(key)` when another tab changed a value. */
  onOtherTab(listener) {
    addEventListener("storage", (event) => {
      if (event.key?.startsWith(PREFIX)) listener(event.key.slice(PREFIX.length));
    });
  }

  #tell(error) {
    if (this.#told) return;
    this.#told = true;
    const full = error?.name === "QuotaExceededError" || error?.name === "NS_ERROR_DOM_QUOTA_REACHED";
    this.#trouble(
      full
        ? "This browser's storage for the page is full. What is new lasts until you close this tab: export what you need, " +
            "or delete old conversations."
        : "This browser does not let the page store anything. Conversations and settings last until you close this tab.",
    );
  }
}
