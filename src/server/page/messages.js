// The list of messages of the open conversation; redraws a message at most once in each frame.
import { byId } from "./dom.js";
import { MessageView } from "./message_view.js";

export class Messages {
  #list = byId("messages");
  #views = new Map();
  #changed = new Set();
  #frame = null;

  /** `act` is what message views need; `drawn()` is called after each change of what is shown. */
  constructor(act, drawn) {
    this.act = act;
    this.drawn = drawn;
  }

  /** Shows these messages. Those that are shown already stay as they are. */
  show(messages) {
    const views = new Map();
    for (const message of messages) {
      const known = this.#views.get(message.id);
      if (known) known.update();
      views.set(message.id, known ?? new MessageView(message, this.act));
    }
    this.#views = views;
    const nodes = [...views.values()].map((view) => view.node);
    nodes.forEach((node, index) => {
      const there = this.#list.children[index];
      if (there !== node) this.#list.insertBefore(node, there ?? null);
    });
    while (this.#list.children.length > nodes.length) this.#list.lastElementChild.remove();
    this.drawn();
  }

  /** Forgets what is shown, for another conversation. */
  clear() {
    this.#views.clear();
    this.#list.replaceChildren();
  }

  /** This message changed: redraws it in the next frame if it is shown. */
  changed(message) {
    this.#changed.add(message.id);
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      for (const id of this.#changed) this.#views.get(id)?.update();
      this.#changed.clear();
      this.drawn();
    });
  }
}
