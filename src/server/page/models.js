// The models of the server and which of them is used.
import { byId, element } from "./dom.js";

export class Models {
  #settings;
  #all = null;
  #select = byId("model");

  /** `changed()` is called when the models or the choice changed. */
  constructor(settings, changed) {
    this.#settings = settings;
    this.changed = changed;
    this.#select.addEventListener("change", () => {
      settings.set("model", this.#select.value);
      changed();
    });
  }

  /** The model that is used, or undefined while none is known. */
  get current() {
    return this.#all?.find(({ id }) => id === this.#settings.get("model")) ?? this.#all?.[0];
  }

  /** Whether the server has told its models. */
  get known() {
    return this.#all !== null;
  }

  set all(models) {
    // Embedding models write no text.
    this.#all = models.filter(({ kind }) => kind !== "embedding");
    const current = this.current;
    this.#select.replaceChildren(...this.#all.map(({ id }) => element("option", { value: id, text: id })));
    if (current) this.#select.value = current.id;
    this.#select.closest("label").hidden = this.#all.length === 0;
    this.changed();
  }
}
