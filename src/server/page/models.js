// The models of the server and which of them is used.
import { byId, element } from "./dom.js";

export class Models {
  #settings;
  #all = [];
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
    return this.#all.find(({ id }) => id === this.#settings.get("model")) ?? this.#all[0];
  }

  set all(models) {
    this.#all = models;
    const current = this.current;
    this.#select.replaceChildren(...models.map(({ id }) => element("option", { value: id, text: id })));
    if (current) this.#select.value = current.id;
    this.#select.closest("label").hidden = models.length === 0;
    this.changed();
  }
}
