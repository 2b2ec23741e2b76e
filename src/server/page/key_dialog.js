// Asks for the API key when the server wants one.
import { byId } from "./dom.js";

export class KeyDialog {
  #dialog = byId("key-dialog");
  #input = byId("key-input");

  /** `entered(key)` is called with what the user entered. */
  constructor(entered) {
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const key = this.#input.value.trim();
      if (key === "") {
        this.#input.focus();
        return;
      }
      this.#dialog.close();
      entered(key);
    });
    byId("key-cancel").addEventListener("click", () => this.#dialog.close());
  }

  /** Opens it, unless it is open; `refused` is true when a key was sent and not accepted. */
  open(refused) {
    if (this.#dialog.open) return;
    byId("key-reason").textContent = refused
      ? "The server did not accept the API key. Enter the right one."
      : "This server asks for an API key. Whoever runs it can give you one.";
    this.#input.value = "";
    this.#dialog.showModal();
    this.#input.focus();
  }
}
