// What happens in a conversation: sending, answering, stopping, repeating, editing.
import { Generation } from "./generation.js";
import { titleOf } from "./conversations.js";
import { append, history, path, removeLeaf, select } from "./thread.js";

export class Chat {
  #running = new Map();

  /**
   * `page` draws: changed(conversation, message) while an answer grows, shown(conversation) when another version of a
   * message is to be shown, began(conversation) when an answer was asked for, ended(conversation, message) when it ended.
   */
  constructor({ api, settings, models, conversations, page }) {
    Object.assign(this, { api, settings, models, conversations, page });
  }

  /** The answer that is being written in a conversation, if any. */
  running(conversation) {
    return this.#running.get(conversation.id);
  }

  /** The ids of the conversations in which answers are being written. */
  get busy() {
    return new Set(this.#running.keys());
  }

  /** Sends a message; false if there is no model to answer it. */
  send(conversation, text) {
    if (!this.models.current) return false;
    if (conversation.title === "") conversation.title = titleOf(text);
    const parent = path(conversation).at(-1)?.id ?? null;
    this.#answer(conversation, append(conversation, parent, { role: "user", content: text }));
    return true;
  }

  /** Puts an edited message beside the earlier one and has it answered. */
  edit(conversation, message, text) {
    if (!this.models.current) return;
    this.#answer(conversation, append(conversation, message.parent, { role: "user", content: text }));
  }

  /** Another answer beside this one, or in its place if it failed before a word was written. */
  regenerate(conversation, message) {
    if (!this.models.current) return;
    const asked = conversation.messages.find(({ id }) => id === message.parent);
    if (message.state === "failed" && message.content === "") removeLeaf(conversation, message);
    this.#answer(conversation, asked);
  }

  /** Shows another version of a message. */
  show(conversation, message) {
    select(conversation, message);
    this.conversations.save(conversation);
    this.page.shown(conversation);
  }

  stop(conversation) {
    this.running(conversation)?.stop();
  }

  /** The page goes away: what was written of all answers is kept. */
  leave() {
    for (const generation of this.#running.values()) generation.leave();
  }

  /** Whether a text that ended can go on: if the model takes it for what it is, a text to continue. */
  canGoOn(conversation, message) {
    const model = this.models.current;
    const ended = message.state === "done" || message.state === "stopped" || message.state === "interrupted";
    return Boolean(model && !model.has_chat_template && ended && path(conversation).at(-1) === message);
  }

  /** Lets the model go on with an answer where it ended. */
  goOn(conversation, message) {
    this.#write(conversation, message, message);
  }

  #answer(conversation, asked) {
    this.stop(conversation);
    const message = append(conversation, asked.id, { role: "assistant", content: "", model: this.models.current.id });
    this.#write(conversation, asked, message);
  }

  /** Writes what comes after the message `last` into `message`. */
  async #write(conversation, last, message) {
    const model = this.models.current;
    const request = this.settings.request(model, history(conversation, last));
    message.state = "streaming";
    message.asked = { max_tokens: request.max_tokens, context: model.context_length };
    conversation.updated = Date.now();
    const generation = new Generation(this.api, request, conversation.id, message, {
      changed: () => this.page.changed(conversation, message),
      save: () => this.conversations.save(conversation),
    });
    this.#running.set(conversation.id, generation);
    this.conversations.save(conversation);
    this.page.began(conversation);
    await generation.run();
    if (this.#running.get(conversation.id) === generation) this.#running.delete(conversation.id);
    this.page.ended(conversation, message);
  }
}
