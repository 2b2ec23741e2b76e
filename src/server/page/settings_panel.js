// The dialog that shows and changes the settings. A change holds at once; a wrong number is named and not sent.
import { byId, element } from "./dom.js";
import { NUMBERS, defaultLength, problem } from "./settings.js";

export class SettingsPanel {
  #settings;
  #dialog = byId("settings");

  /** `forgetKey` is called when the user wants the API key forgotten; `hasKey` says whether there is one. */
  constructor(settings, { hasKey, forgetKey }) {
    this.#settings = settings;
    this.hasKey = hasKey;
    byId("numbers").append(...NUMBERS.map((number) => this.#field(number)));
    for (const name of ["system", "stop"]) {
      byId(`setting-${name}`).addEventListener("input", (event) => settings.set(name, event.target.value));
    }
    byId("settings-close").addEventListener("click", () => this.#dialog.close());
    byId("settings-reset").addEventListener("click", () => {
      settings.reset();
      this.#show();
    });
    byId("key-forget").addEventListener("click", () => {
      forgetKey();
      this.#show();
    });
    // A click beside the panel closes it.
    this.#dialog.addEventListener("click", (event) => {
      if (event.target === this.#dialog) this.#dialog.close();
    });
  }

  open(model) {
    byId("setting-max_tokens").placeholder = model ? `${defaultLength(model)}` : "default";
    this.#show();
    this.#dialog.showModal();
  }

  #field(number) {
    const id = `setting-${number.name}`;
    const help = element("small", { id: `${id}-help`, class: "help", text: number.help });
    const input = element("input", {
      id,
      type: "text",
      inputmode: number.step === 1 ? "numeric" : "decimal",
      autocomplete: "off",
      placeholder: "default",
      "aria-describedby": help.id,
      on: { input: () => this.#check(number, input, help, true) },
    });
    return element("div", { class: "field" }, element("label", { for: id, text: number.label }), input, help);
  }

  #check(number, input, help, changed) {
    if (changed) this.#settings.set(number.name, input.value);
    const wrong = problem(number, input.value);
    input.setAttribute("aria-invalid", wrong !== null);
    help.classList.toggle("wrong", wrong !== null);
    help.textContent = wrong === null ? number.help : `${number.label} ${wrong}; the default is used`;
  }

  #show() {
    for (const number of NUMBERS) {
      const input = byId(`setting-${number.name}`);
      input.value = this.#settings.get(number.name);
      this.#check(number, input, byId(`setting-${number.name}-help`), false);
    }
    for (const name of ["system", "stop"]) byId(`setting-${name}`).value = this.#settings.get(name);
    byId("key-row").hidden = !this.hasKey();
  }
}
