// Texts that were typed and not sent outlive a reload: each conversation's next message, and messages that are being edited.

export class Drafts {
  #storage;
  #conversations;

  constructor(storage, conversations) {
    this.#storage = storage;
    this.#conversations = conversations;
    this.#tidy();
  }

  /** The name of the draft of a conversation's next message; those that are not stored yet share one. */
  ofNext(conversation) {
    return `draft.${this.#conversations.get(conversation.id) ? conversation.id : "new"}`;
  }

  /** The name of the draft of an edited message. */
  ofEdit(message) {
    return `edit.${message.id}`;
  }

  /** The draft of this name, or null. */
  get(name) {
    return this.#storage.get(name);
  }

  /** Keeps a draft; an empty one is forgotten. */
  set(name, text) {
    if (text) this.#storage.set(name, text);
    else this.#storage.remove(name);
  }

  /** Forgets the drafts of conversations that were deleted. */
  #tidy() {
    const known = new Set(["draft.new"]);
    for (const { id, messages } of this.#conversations.all()) {
      known.add(`draft.${id}`);
      for (const message of messages) known.add(this.ofEdit(message));
    }
    for (const name of [...this.#storage.keys("draft."), ...this.#storage.keys("edit.")]) {
      if (!known.has(name)) this.#storage.remove(name);
    }
  }
}
